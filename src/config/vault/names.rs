//! The small values of `vault.toml`: names under which credentials travel and are kept, and where tokens are asked for.

use std::fmt;
use std::str::FromStr;

use http::{HeaderName, Uri};

/// A `CredentialHeader` is a header name in lower case (RFC 9110 §5.1) that may carry a credential: none that steers the
/// connection, the routing or Envoy itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CredentialHeader(HeaderName);

/// Why a text is not a [`CredentialHeader`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialHeaderError {
    /// Not a header name.
    #[error("it is not the name of an HTTP header")]
    NotAHeader,
    /// `:authority` and the like.
    #[error("pseudo headers (those that begin with `:`) are set by HTTP itself")]
    Pseudo,
    /// A header that belongs to the connection or the framing.
    #[error("this header belongs to the connection, and is never passed on")]
    Connection,
    /// A header that chooses the route.
    #[error("this header chooses where the request goes")]
    Routing,
    /// `x-envoy-…`.
    #[error("`x-envoy-` headers steer Envoy")]
    Envoy,
}

impl CredentialHeader {
    /// The name as text, in lower case.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for CredentialHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CredentialHeader {
    type Err = CredentialHeaderError;

    fn from_str(text: &str) -> Result<Self, CredentialHeaderError> {
        if text.starts_with(':') {
            return Err(CredentialHeaderError::Pseudo);
        }
        let name = HeaderName::from_str(text).map_err(|_| CredentialHeaderError::NotAHeader)?;
        match name.as_str() {
            "connection"
            | "content-length"
            | "expect"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade" => Err(CredentialHeaderError::Connection),
            "host" | "forwarded" => Err(CredentialHeaderError::Routing),
            other if other.starts_with("x-forwarded-") => Err(CredentialHeaderError::Routing),
            other if other.starts_with("x-envoy-") => Err(CredentialHeaderError::Envoy),
            _ => Ok(Self(name)),
        }
    }
}

/// A `CredentialParameter` is the name of a parameter of a query: 1 to 128 letters, digits and `-._~`, which are written as
/// they are (RFC 3986 §2.3).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CredentialParameter(Box<str>);

/// Why a text is not a [`CredentialParameter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a parameter's name has 1 to 128 letters, digits, `-`, `.`, `_` or `~`, as in `api_key`")]
pub struct CredentialParameterError;

impl CredentialParameter {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CredentialParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CredentialParameter {
    type Err = CredentialParameterError;

    fn from_str(text: &str) -> Result<Self, CredentialParameterError> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if (1..=128).contains(&text.len()) && text.bytes().all(legal) {
            Ok(Self(text.into()))
        } else {
            Err(CredentialParameterError)
        }
    }
}

/// A `SecretName` is what a secret is called in a keyring or an encrypted file: 1 to 64 letters, digits and `-._`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretName(Box<str>);

/// Why a text is not a [`SecretName`]. The text is not repeated: it may be a secret in the wrong place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name of a secret has 1 to 64 letters, digits, `-`, `.` or `_`, as in `STRIPE_API_KEY`")]
pub struct SecretNameError;

impl SecretName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SecretName {
    type Err = SecretNameError;

    fn from_str(text: &str) -> Result<Self, SecretNameError> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if (1..=64).contains(&text.len()) && text.bytes().all(legal) {
            Ok(Self(text.into()))
        } else {
            Err(SecretNameError)
        }
    }
}

/// An `HttpsUrl` is an `https://` URL with a host, without user, query and fragment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpsUrl(Uri);

/// Why a text is not an [`HttpsUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HttpsUrlError {
    /// Not a URL.
    #[error("it is not a URL")]
    NotAUrl,
    /// `http://` and the like.
    #[error("it has to begin with https://: what is sent there is secret")]
    NotHttps,
    /// `user@host`, `?query` or `#fragment`.
    #[error("it cannot have a user, a query or a fragment")]
    Extra,
}

impl HttpsUrl {
    /// The URL.
    pub fn uri(&self) -> &Uri {
        &self.0
    }
}

impl fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for HttpsUrl {
    type Err = HttpsUrlError;

    fn from_str(text: &str) -> Result<Self, HttpsUrlError> {
        if text.contains(['#', '?', '@']) {
            return Err(HttpsUrlError::Extra);
        }
        let uri = Uri::from_str(text).map_err(|_| HttpsUrlError::NotAUrl)?;
        match (uri.scheme_str(), uri.host()) {
            (Some("https"), Some(host)) if !host.is_empty() => Ok(Self(uri)),
            (Some("https") | None, _) => Err(HttpsUrlError::NotAUrl),
            _ => Err(HttpsUrlError::NotHttps),
        }
    }
}

/// A `Scope` is one scope of OAuth's (RFC 6749 §3.3): 1 to 256 visible ASCII characters but `"` and `\`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope(Box<str>);

/// Why a text is not a [`Scope`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a scope has no spaces, quotes or backslashes: write each as a text of its own in the list")]
pub struct ScopeError;

impl Scope {
    /// The scope as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let legal = |byte: u8| (b'!'..=b'~').contains(&byte) && !b"\"\\".contains(&byte);
        if (1..=256).contains(&text.len()) && text.bytes().all(legal) { Ok(Self(text.into())) } else { Err(ScopeError) }
    }
}
