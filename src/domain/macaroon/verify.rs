//! The signature chain: the only way from a [`Token`] to a [`Verified`].
//!
//! ```text
//! t₀ = HMAC(key, nonce)    tᵢ = HMAC(tᵢ₋₁, [typeᵢ, bodyᵢ])    tail = tₙ, of a proof HMAC("proof-signature-finalization", tₙ)
//! ```
//!
//! The work is bounded by the token's size: one pass over the token, and then, only if its own signature holds, one over
//! each discharge.

use std::collections::BTreeMap;
use std::fmt;

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::caveat::{Caveat, ThirdParty};
use super::token::{KeyId, Macaroon, SignedCaveat, Token, TokenError, TokenId};
use crate::domain::secret::SigningKey;

/// A tail, or another value of the chain. Whoever has it can make every token that goes on from there.
pub(super) type Tail = Zeroizing<[u8; 32]>;

/// The keys that tokens may be signed with, prepared for use.
#[derive(Clone, Default)]
pub struct Keyring {
    by_id: BTreeMap<KeyId, Keyed>,
    fallback: Option<Keyed>,
}

impl Keyring {
    /// One key, which every token is taken to be signed with, whatever key id it carries.
    pub fn single(key: &SigningKey) -> Self {
        Self { by_id: BTreeMap::new(), fallback: Some(Keyed::new(key.expose())) }
    }

    /// Adds a key for the tokens that carry its id.
    #[must_use]
    pub fn with(mut self, id: KeyId, key: &SigningKey) -> Self {
        self.by_id.insert(id, Keyed::new(key.expose()));
        self
    }

    /// Whether tokens that carry this key id, or one that no key can have, can be verified.
    pub fn has(&self, id: Option<&KeyId>) -> bool {
        self.fallback.is_some() || id.is_some_and(|id| self.by_id.contains_key(id))
    }

    fn key(&self, id: &[u8]) -> Option<&Keyed> {
        self.by_id.get(id).or(self.fallback.as_ref())
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("ids", &self.by_id.keys()).finish_non_exhaustive()
    }
}

/// A token whose signature holds and whose third-party caveats are discharged: its caveats are what its issuer and its
/// holders said. [`Verified::check`] tells whether a request is within them.
///
/// Only [`verify`] makes one.
#[derive(Debug, Clone)]
pub struct Verified {
    id: TokenId,
    key: Option<KeyId>,
    caveats: Vec<Caveat>,
}

impl Verified {
    /// What tells the token apart, for logs and revocation.
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// The id of the key that signed it; `None` when that is none a key of ours can have.
    pub fn key(&self) -> Option<&KeyId> {
        self.key.as_ref()
    }

    /// The caveats that requests must be within, those of discharges included.
    pub fn caveats(&self) -> &[Caveat] {
        &self.caveats
    }

    /// The last second it is usable, in Unix seconds; `None` when no caveat says.
    pub fn expires(&self) -> Option<i64> {
        self.caveats.iter().filter_map(Caveat::not_after).min()
    }
}

/// Verifies a token and its discharges.
///
/// Errors: no key for it, a signature that does not hold, a discharge that is missing, stray, bound to another token, or
/// itself in need of a discharge. Signatures are compared in constant time.
pub fn verify(token: &Token, keys: &Keyring) -> Result<Verified, TokenError> {
    let macaroon = &token.macaroon;
    let key = keys.key(macaroon.key_id()).ok_or(TokenError::UnknownKey)?;
    let mut caveats = Vec::with_capacity(macaroon.caveats.len());
    if token.discharges.is_empty() {
        verify_chain(macaroon, key, |_| ())?;
        for SignedCaveat { caveat, .. } in &macaroon.caveats {
            match caveat {
                Caveat::ThirdParty(third_party) => return Err(missing(third_party)),
                Caveat::BindToParent(_) => return Err(TokenError::BoundElsewhere),
                own => caveats.push(own.clone()),
            }
        }
    } else {
        let mut tails = Vec::with_capacity(macaroon.caveats.len() + 1);
        verify_chain(macaroon, key, |tail| tails.push(tail.clone()))?;
        collect_with_discharges(token, &tails, &mut caveats)?;
    }
    let key = std::str::from_utf8(macaroon.key_id()).ok().and_then(|id| id.parse().ok());
    Ok(Verified { id: macaroon.id(), key, caveats })
}

/// `tails` are the values of the chain, from `t₀` on.
fn collect_with_discharges(token: &Token, tails: &[Tail], caveats: &mut Vec<Caveat>) -> Result<(), TokenError> {
    let mut by_ticket = BTreeMap::new();
    for discharge in &token.discharges {
        // Two for one ticket could only multiply the work.
        if by_ticket.insert(discharge.key_id(), discharge).is_some() {
            return Err(TokenError::StrayDischarge);
        }
    }
    // Computed for the first binding: most discharges have none.
    let mut binding_ids: Option<Vec<[u8; 32]>> = None;
    for (SignedCaveat { caveat, .. }, tail_before) in token.macaroon.caveats.iter().zip(tails) {
        let third_party = match caveat {
            Caveat::ThirdParty(third_party) => third_party,
            Caveat::BindToParent(_) => return Err(TokenError::BoundElsewhere),
            own => {
                caveats.push(own.clone());
                continue;
            }
        };
        let discharge = by_ticket.remove(&*third_party.ticket).ok_or_else(|| missing(third_party))?;
        // The location is not under the discharge's signature; that of the caveat is under the token's.
        if discharge.location() != third_party.location.as_str() {
            return Err(TokenError::StrayDischarge);
        }
        let key = unseal(tail_before, &third_party.verifier_key)?;
        verify_chain(discharge, &Keyed::new(&key), |_| ())?;
        for SignedCaveat { caveat, .. } in &discharge.caveats {
            match caveat {
                Caveat::ThirdParty(_) => return Err(TokenError::NestedDischarge),
                Caveat::BindToParent(prefix) => {
                    let ids = binding_ids.get_or_insert_with(|| tails.iter().map(binding_id).collect());
                    if !ids.iter().any(|id| id.starts_with(prefix)) {
                        return Err(TokenError::BoundElsewhere);
                    }
                }
                own => caveats.push(own.clone()),
            }
        }
    }
    if by_ticket.is_empty() { Ok(()) } else { Err(TokenError::StrayDischarge) }
}

fn missing(third_party: &ThirdParty) -> TokenError {
    TokenError::MissingDischarge(third_party.location.to_string())
}

/// Follows the chain, shows each value of it to `on_tail`, and compares its end with the macaroon's tail.
fn verify_chain(macaroon: &Macaroon, key: &Keyed, mut on_tail: impl FnMut(&Tail)) -> Result<(), TokenError> {
    let mut tail = key.clone().sign(&[&macaroon.nonce]);
    on_tail(&tail);
    for caveat in &macaroon.caveats {
        tail = extend(&tail, &caveat.raw);
        on_tail(&tail);
    }
    if macaroon.is_proof() {
        tail = Keyed::new(b"proof-signature-finalization").sign(&[&*tail]);
    }
    if bool::from(tail.ct_eq(&*macaroon.tail)) { Ok(()) } else { Err(TokenError::Signature) }
}

/// The next value of the chain; `raw` is a caveat's type and body.
pub(super) fn extend(tail: &Tail, raw: &[u8]) -> Tail {
    // `[type, body]`: an array of two.
    Keyed::of_tail(tail).sign(&[&[0x92], raw])
}

/// The discharge's key: ChaCha20-Poly1305 under the tail, the 12-byte nonce in front.
fn unseal(tail: &Tail, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    let (nonce, sealed) = sealed.split_first_chunk::<12>().ok_or(TokenError::Signature)?;
    let cipher = ChaCha20Poly1305::new(&(**tail).into());
    let key = cipher.decrypt(&Nonce::from(*nonce), sealed).map_err(|_| TokenError::Signature)?;
    Ok(Zeroizing::new(key))
}

/// What a discharge names its parent by; the beginning of it is enough.
fn binding_id(tail: &Tail) -> [u8; 32] {
    Sha256::digest(**tail).into()
}

/// HMAC-SHA256 with its key taken in.
#[derive(Clone)]
pub(super) struct Keyed(Hmac<Sha256>);

impl Keyed {
    pub(super) fn new(key: &[u8]) -> Self {
        // RFC 2104 §2: a key longer than a block is hashed, a shorter one filled up with zeros.
        let mut block = Zeroizing::new([0; 64]);
        if key.len() <= block.len() {
            block[..key.len()].copy_from_slice(key);
        } else {
            block[..32].copy_from_slice(&Sha256::digest(key));
        }
        Self(Hmac::new(&(*block).into()))
    }

    /// As [`Keyed::new`], without wiping the copy of the key, which would cost as much as a quarter of the chain: a value
    /// of the chain opens one token, and the stack it was on is soon used for other things.
    fn of_tail(tail: &Tail) -> Self {
        let mut block = [0; 64];
        block[..32].copy_from_slice(&**tail);
        Self(Hmac::new(&block.into()))
    }

    pub(super) fn sign(self, parts: &[&[u8]]) -> Tail {
        let mut mac = self.0;
        for part in parts {
            mac.update(part);
        }
        Zeroizing::new(mac.finalize().into_bytes().into())
    }
}
