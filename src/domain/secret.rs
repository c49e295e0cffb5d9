//! Values that must not leak.

use std::fmt;

use zeroize::Zeroizing;

/// A `Secret` is 1 to 16 KiB of text that is legal as an HTTP header value, wiped from memory when dropped.
///
/// It has no `Display`, `Serialize` or `PartialEq`, and its `Debug` is `Secret(…)`: the value comes out only through
/// [`Secret::expose`] and [`Secret::as_str`], which are easy to search for.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

/// Why a value cannot be a [`Secret`]; the value itself is never named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nothing there.
    #[error("the value is empty")]
    Empty,
    /// Over 16 KiB; over 64 KiB of what is no header.
    #[error("the value is too long")]
    TooLong,
    /// A byte that an HTTP header cannot carry.
    #[error("the value has a line break or another character that an HTTP header cannot carry (at byte {0})")]
    IllegalByte(usize),
    /// Not UTF-8, which is the only encoding that ext_authz carries.
    #[error("the value is not UTF-8")]
    NotUtf8,
}

impl Secret {
    /// Takes the value over. One trailing line break (`echo KEY > file`) is dropped.
    pub fn new(mut value: Vec<u8>) -> Result<Self, SecretError> {
        while matches!(value.last(), Some(b'\n' | b'\r')) {
            value.pop();
        }
        let value = Zeroizing::new(value);
        if value.is_empty() {
            return Err(SecretError::Empty);
        }
        if value.len() > 16 * 1024 {
            return Err(SecretError::TooLong);
        }
        // RFC 9110 §5.5: visible ASCII, space, tab and obs-text.
        if let Some(at) = value.iter().position(|&b| !(b == b'\t' || (b >= b' ' && b != 0x7f))) {
            return Err(SecretError::IllegalByte(at));
        }
        match std::str::from_utf8(&value) {
            Ok(text) => Ok(Self(Zeroizing::new(text.to_owned()))),
            Err(_) => Err(SecretError::NotUtf8),
        }
    }

    /// The value, for the one place that makes a header of it.
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The value as text, for the one place that puts it on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A `SecretBytes` is up to 64 KiB of anything that must not leak, as a provider gave it (a password, a private key in PEM, a
/// JSON key file), wiped from memory when dropped.
///
/// It becomes a [`Secret`] where a header is made of it.
#[derive(Clone)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// The most that a provider may give.
    pub const MOST: usize = 64 * 1024;

    /// Takes the value over.
    pub fn new(value: Vec<u8>) -> Result<Self, SecretError> {
        let value = Zeroizing::new(value);
        match value.len() {
            0 => Err(SecretError::Empty),
            len if len > Self::MOST => Err(SecretError::TooLong),
            _ => Ok(Self(value)),
        }
    }

    /// The value, for the one place that makes something of it.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The value as what a header can carry.
    pub fn to_secret(&self) -> Result<Secret, SecretError> {
        Secret::new(self.0.to_vec())
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(…)")
    }
}

/// A `SigningKey` is 32 bytes or more of key material for tokens, wiped from memory when dropped.
#[derive(Clone)]
pub struct SigningKey(Zeroizing<Vec<u8>>);

/// Why bytes are not a [`SigningKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signing key has at least 32 bytes; this one has {0}")]
pub struct SigningKeyError(usize);

impl SigningKey {
    /// Takes the key over.
    pub fn new(bytes: Vec<u8>) -> Result<Self, SigningKeyError> {
        let bytes = Zeroizing::new(bytes);
        if bytes.len() < 32 { Err(SigningKeyError(bytes.len())) } else { Ok(Self(bytes)) }
    }

    /// The key material, for HMAC.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_legal_header_value_and_does_not_show() {
        let secret = Secret::new(b"sk_test_123\n".to_vec()).unwrap();
        assert_eq!(secret.expose(), b"sk_test_123");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(Secret::new(b"\n".to_vec()).unwrap_err(), SecretError::Empty);
        assert_eq!(Secret::new(b"a\r\nx-evil: 1".to_vec()).unwrap_err(), SecretError::IllegalByte(1));
        assert_eq!(Secret::new(b"a\0".to_vec()).unwrap_err(), SecretError::IllegalByte(1));
        assert!(Secret::new(vec![b'a'; 16 * 1024 + 1]).is_err());
        assert_eq!(Secret::new(b"caf\xe9".to_vec()).unwrap_err(), SecretError::NotUtf8);
    }

    #[test]
    fn a_short_signing_key_is_refused() {
        assert!(SigningKey::new(vec![1; 31]).is_err());
        assert_eq!(format!("{:?}", SigningKey::new(vec![1; 32]).unwrap()), "SigningKey(…)");
    }
}
