//! The decoded token, which nobody has verified yet, and its text form.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use zeroize::Zeroizing;

use super::caveat::{Caveat, Text};
use super::codec::{CodecError, CodecProblem, Reader, put_array, put_bin, put_str};
use super::prefix::{TokenPrefix, is_token_byte};
use super::verify::Tail;
use super::{LOCATION, MAX_CAVEATS, MAX_TOKEN_BYTES};

/// Why a token is refused, before any of its caveats is looked at. No variant carries anything of the token that could
/// help to use it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not one of our tokens.
    #[error("a token begins with `{0}`")]
    Prefix(TokenPrefix),
    /// Over [`MAX_TOKEN_BYTES`].
    #[error("the token has more than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// Over [`MAX_CAVEATS`].
    #[error("the token has more than {MAX_CAVEATS} caveats")]
    TooManyCaveats,
    /// Not base64url, padded, or with bits set after its end.
    #[error("the token is not base64url without padding (was all of it copied?)")]
    Base64,
    /// The binary form is not a macaroon.
    #[error("the token is not a macaroon")]
    Malformed(#[from] CodecError),
    /// A token of another service.
    #[error("the token is for another service")]
    Location,
    /// A restriction that this version does not know.
    #[error("the token has a caveat of type {0}, which this version does not know")]
    UnsupportedCaveat(u64),
    /// No key has the token's key id.
    #[error("the token was signed with a key that is not known here")]
    UnknownKey,
    /// The signature does not hold: another key, or a changed token.
    #[error("the token's signature does not hold")]
    Signature,
    /// A third-party caveat without its discharge.
    #[error("the token needs a discharge from `{0}`")]
    MissingDischarge(String),
    /// A discharge that belongs to no third-party caveat, or a second one for the same.
    #[error("a discharge does not belong to the token")]
    StrayDischarge,
    /// A discharge that is bound to another token, or a binding on a token that has no parent.
    #[error("the token or a discharge is bound to another token")]
    BoundElsewhere,
    /// A third-party caveat in a discharge.
    #[error("a discharge needs a discharge itself, which is not supported")]
    NestedDischarge,
    /// Revoked, as everything that was narrowed from it.
    #[error("token revoked")]
    Revoked,
}

/// A `KeyId` names a signing key: 1 to 64 ASCII letters, digits, `-`, `_`, `.` and `:`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Box<[u8]>);

/// Why a text is not a [`KeyId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key id has 1 to 64 letters, digits, `-`, `_`, `.` or `:`")]
pub struct KeyIdError;

impl KeyId {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// `primary`.
impl Default for KeyId {
    fn default() -> Self {
        Self(b"primary".as_slice().into())
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let legal = |b: u8| is_token_byte(b) || matches!(b, b'.' | b':');
        if (1..=64).contains(&text.len()) && text.bytes().all(legal) {
            Ok(Self(text.as_bytes().into()))
        } else {
            Err(KeyIdError)
        }
    }
}

impl Borrow<[u8]> for KeyId {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A `TokenId` tells tokens apart in logs and in the list of revoked ones: the 16 random bytes of the nonce, shown in
/// hexadecimal. It stays the same when a token is attenuated, and it is no secret: nothing can be done with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; 16]);

impl TokenId {
    /// The 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<[u8; 16]> for TokenId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// What is not a [`TokenId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token's id is 32 hexadecimal digits")]
pub struct TokenIdError;

impl FromStr for TokenId {
    type Err = TokenIdError;

    fn from_str(text: &str) -> Result<Self, TokenIdError> {
        let is_id = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let id = is_id.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        id.map(|id| Self(id.to_be_bytes())).ok_or(TokenIdError)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A caveat, and the bytes it came in: signatures are over these.
#[derive(Clone)]
pub(super) struct SignedCaveat {
    pub(super) caveat: Caveat,
    pub(super) raw: Bytes,
}

/// One macaroon, decoded and UNTRUSTED: whoever sent it may have written anything. [`verify`](super::verify::verify) is
/// the way to something to rely on.
///
/// Its `Debug` shows nothing that could help to use it.
#[derive(Clone)]
pub struct Macaroon {
    pub(super) nonce: Bytes,
    pub(super) key_id: Bytes,
    pub(super) location: Text,
    pub(super) caveats: Vec<SignedCaveat>,
    pub(super) tail: Tail,
    id: TokenId,
    proof: bool,
}

impl Macaroon {
    /// Decodes the binary form. `budget` is how many caveats it may have, and is lowered by as many as it has.
    ///
    /// Errors: anything but exactly one macaroon, a caveat that is not known, more caveats than the budget.
    pub(super) fn decode(bytes: Vec<u8>, budget: &mut usize) -> Result<Self, TokenError> {
        let whole = Bytes::from(bytes);
        let mut reader = Reader::new(&whole);
        reader.array_of(4)?;

        let nonce_start = reader.position();
        // Old tokens have no `proof`; signatures are over the nonce as it came, so both forms stay as they are.
        let fields = reader.array()?;
        if fields != 2 && fields != 3 {
            reader.error::<()>(nonce_start, CodecProblem::Arity)?;
        }
        let key_id = whole.slice(reader.bin()?);
        let id = TokenId(reader.bin_of()?);
        let proof = fields == 3 && reader.boolean()?;
        let nonce = whole.slice(nonce_start..reader.position());

        let location = Text::read(&mut reader, &whole)?;

        let caveats_start = reader.position();
        let values = reader.array()?;
        if !values.is_multiple_of(2) {
            reader.error::<()>(caveats_start, CodecProblem::Arity)?;
        }
        let count = values / 2;
        *budget = budget.checked_sub(count).ok_or(TokenError::TooManyCaveats)?;
        let mut caveats = Vec::with_capacity(count);
        for _ in 0..count {
            let start = reader.position();
            let caveat = Caveat::read(&mut reader, &whole)?;
            caveats.push(SignedCaveat { caveat, raw: whole.slice(start..reader.position()) });
        }

        let tail = Zeroizing::new(reader.bin_of()?);
        reader.end()?;
        Ok(Self { nonce, key_id, location, caveats, tail, id, proof })
    }

    /// The binary form.
    pub(super) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let caveats: usize = self.caveats.iter().map(|caveat| caveat.raw.len()).sum();
        // Room for all of it, so that no half-written copy is left behind in memory.
        let mut out = Vec::with_capacity(self.nonce.len() + self.location.as_str().len() + caveats + 64);
        put_array(&mut out, 4);
        out.extend_from_slice(&self.nonce);
        put_str(&mut out, self.location.as_str());
        put_array(&mut out, 2 * self.caveats.len());
        for caveat in &self.caveats {
            out.extend_from_slice(&caveat.raw);
        }
        put_bin(&mut out, &*self.tail);
        Zeroizing::new(out)
    }

    /// The text form.
    pub fn encode(&self, prefix: &TokenPrefix) -> Zeroizing<String> {
        let bytes = self.to_bytes();
        let mut text = Zeroizing::new(String::with_capacity(prefix.as_str().len() + bytes.len().div_ceil(3) * 4));
        text.push_str(prefix.as_str());
        URL_SAFE_NO_PAD.encode_string(&*bytes, &mut text);
        text
    }

    /// What tells it apart.
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// The id of the key it claims to be signed with, as it came: any bytes.
    pub fn key_id(&self) -> &[u8] {
        &self.key_id
    }

    /// Who it is for (or, of a discharge, from).
    pub fn location(&self) -> &str {
        self.location.as_str()
    }

    /// Whether it is finalised: nothing can be added to it.
    pub fn is_proof(&self) -> bool {
        self.proof
    }

    /// Its caveats, unverified: to be shown, never to be relied on.
    pub fn unverified_caveats(&self) -> impl Iterator<Item = &Caveat> {
        self.caveats.iter().map(|signed| &signed.caveat)
    }
}

impl fmt::Debug for Macaroon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Macaroon").field("id", &self.id).field("caveats", &self.caveats.len()).finish_non_exhaustive()
    }
}

/// A macaroon and its discharges, decoded and UNTRUSTED, within the limits of size.
#[derive(Debug, Clone)]
pub struct Token {
    /// The token proper.
    pub macaroon: Macaroon,
    /// What came with it to satisfy its third-party caveats.
    pub discharges: Vec<Macaroon>,
}

impl Token {
    /// Reads the text form: the token, and after commas its discharges, each with the prefix.
    ///
    /// Errors: everything that can be wrong before the signature; nothing is spent on cryptography.
    pub fn parse(text: &str, prefix: &TokenPrefix) -> Result<Self, TokenError> {
        if !text.starts_with(prefix.as_str()) {
            return Err(TokenError::Prefix(prefix.clone()));
        }
        if text.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let mut budget = MAX_CAVEATS;
        let mut parts = text.split(',').map(|part| {
            let encoded = part.strip_prefix(prefix.as_str()).ok_or_else(|| TokenError::Prefix(prefix.clone()))?;
            let mut bytes = Vec::with_capacity(encoded.len() / 4 * 3 + 3);
            URL_SAFE_NO_PAD.decode_vec(encoded, &mut bytes).map_err(|_| TokenError::Base64)?;
            Macaroon::decode(bytes, &mut budget)
        });
        let macaroon = parts.next().unwrap_or(Err(TokenError::Base64))?;
        let discharges = parts.collect::<Result<_, _>>()?;
        Self::new(macaroon, discharges)
    }

    /// Reads the binary form of one token without discharges; what [`Token::parse`] does once the text is decoded.
    ///
    /// Errors: as [`Token::parse`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenError> {
        // The limit is on the text, where three bytes are four characters.
        if bytes.len() > MAX_TOKEN_BYTES / 4 * 3 - 16 {
            return Err(TokenError::TooLong);
        }
        let macaroon = Macaroon::decode(bytes.to_vec(), &mut { MAX_CAVEATS })?;
        Self::new(macaroon, Vec::new())
    }

    fn new(macaroon: Macaroon, discharges: Vec<Macaroon>) -> Result<Self, TokenError> {
        if macaroon.location() == LOCATION { Ok(Self { macaroon, discharges }) } else { Err(TokenError::Location) }
    }

    /// The text form.
    pub fn encode(&self, prefix: &TokenPrefix) -> Zeroizing<String> {
        let mut text = self.macaroon.encode(prefix);
        for discharge in &self.discharges {
            let part = discharge.encode(prefix);
            let mut joined = Zeroizing::new(String::with_capacity(text.len() + 1 + part.len()));
            joined.push_str(&text);
            joined.push(',');
            joined.push_str(&part);
            text = joined;
        }
        text
    }

    /// What tells it apart.
    pub fn id(&self) -> TokenId {
        self.macaroon.id
    }

    /// The last second it claims to be usable, by the caveats of the token and its discharges; unverified. `None` when
    /// no caveat says.
    pub fn unverified_expiry(&self) -> Option<i64> {
        let windows = std::iter::once(&self.macaroon).chain(&self.discharges).flat_map(Macaroon::unverified_caveats);
        windows.filter_map(Caveat::not_after).min()
    }
}

impl From<Macaroon> for Token {
    fn from(macaroon: Macaroon) -> Self {
        Self { macaroon, discharges: Vec::new() }
    }
}
