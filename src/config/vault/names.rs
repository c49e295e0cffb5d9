//! The names under which credentials travel: of headers, of parameters of a query, and in signatures.

use std::fmt;
use std::str::FromStr;

use http::HeaderName;

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

/// A `ScopeName` is what a signature calls a region or a service: 1 to 40 letters, digits, `-`, `.` or `_`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ScopeName(Box<str>);

/// Why a text is not a [`ScopeName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it has 1 to 40 letters, digits, `-`, `.` or `_`, as in `us-east-1` or `s3`")]
pub struct ScopeNameError;

impl fmt::Display for ScopeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ScopeName {
    type Err = ScopeNameError;

    fn from_str(text: &str) -> Result<Self, ScopeNameError> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if (1..=40).contains(&text.len()) && text.bytes().all(legal) {
            Ok(Self(text.into()))
        } else {
            Err(ScopeNameError)
        }
    }
}
