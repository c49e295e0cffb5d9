//! New tokens, and narrower ones from old.

use super::caveat::Restriction;
use super::codec::{put_array, put_bin, put_boolean, put_str};
use super::token::{KeyId, Macaroon, TokenError};
use super::verify::{Keyed, Tail, extend};
use super::{LOCATION, MAX_CAVEATS, MAX_TOKEN_BYTES};
use crate::domain::secret::SigningKey;

/// Why a token cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// It is finalised: its signature is not one to go on from.
    #[error("the token is final: nothing can be added to it")]
    Final,
    /// Nobody would accept it.
    #[error("the token would have more than {MAX_CAVEATS} caveats")]
    TooManyCaveats,
    /// Nobody would accept it.
    #[error("the token would have more than {MAX_TOKEN_BYTES} bytes: name fewer hosts, methods or paths")]
    TooLong,
    /// Nobody would accept it.
    #[error("the token would not be readable")]
    Unreadable(#[source] TokenError),
}

/// Makes a token for everything, and narrows it by `restrictions`. `random` must be fresh for each token.
///
/// Errors: more than a token may hold.
pub fn mint(
    key: &SigningKey,
    key_id: &KeyId,
    random: [u8; 16],
    restrictions: &[Restriction],
) -> Result<Macaroon, MintError> {
    let mut nonce = Vec::with_capacity(96);
    put_array(&mut nonce, 3);
    put_bin(&mut nonce, key_id.as_bytes());
    put_bin(&mut nonce, &random);
    put_boolean(&mut nonce, false);
    let tail = Keyed::new(key.expose()).sign(&[&nonce]);
    assemble(&nonce, LOCATION, &[], restrictions, tail)
}

/// The token narrowed by `restrictions`; what it was before cannot be had from it. Needs no key.
///
/// Errors: a final token, more than a token may hold.
pub fn attenuate(macaroon: &Macaroon, restrictions: &[Restriction]) -> Result<Macaroon, MintError> {
    if macaroon.is_proof() {
        return Err(MintError::Final);
    }
    let caveats: Vec<&[u8]> = macaroon.caveats.iter().map(|caveat| &*caveat.raw).collect();
    assemble(&macaroon.nonce, macaroon.location(), &caveats, restrictions, macaroon.tail.clone())
}

/// Writes the token and reads it back: there is one way to a [`Macaroon`].
fn assemble(
    nonce: &[u8],
    location: &str,
    caveats: &[&[u8]],
    restrictions: &[Restriction],
    mut tail: Tail,
) -> Result<Macaroon, MintError> {
    let count = caveats.len() + restrictions.len();
    if count > MAX_CAVEATS {
        return Err(MintError::TooManyCaveats);
    }
    let mut out = Vec::with_capacity(MAX_TOKEN_BYTES);
    put_array(&mut out, 4);
    out.extend_from_slice(nonce);
    put_str(&mut out, location);
    put_array(&mut out, 2 * count);
    for caveat in caveats {
        out.extend_from_slice(caveat);
    }
    for restriction in restrictions {
        let start = out.len();
        restriction.write(&mut out);
        tail = extend(&tail, &out[start..]);
    }
    put_bin(&mut out, &*tail);
    // The limit is on the text: a prefix of at most 16 bytes, and four characters for three bytes.
    if out.len().div_ceil(3) * 4 + 16 > MAX_TOKEN_BYTES {
        return Err(MintError::TooLong);
    }
    Macaroon::decode(out, &mut { MAX_CAVEATS }).map_err(MintError::Unreadable)
}
