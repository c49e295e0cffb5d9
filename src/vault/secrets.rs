//! Credentials: what a token is swapped for.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::domain::decision::Grant;
use crate::domain::names::{Host, HostPattern};
use crate::domain::secret::{Secret, SecretError};

/// A credential, with the secrets it is made of.
#[derive(Debug)]
pub enum Credential {
    /// `Authorization: Bearer TOKEN`.
    Bearer {
        /// The token.
        token: Secret,
    },
    /// `Authorization: Basic base64(USERNAME:PASSWORD)` (RFC 7617).
    Basic {
        /// The user name; has no colon.
        username: Secret,
        /// The password.
        password: Secret,
    },
    /// A header of its own, as `x-api-key: KEY`.
    Header {
        /// The header's name, lower case.
        name: String,
        /// What comes before the secret, with its space if there is to be one.
        prefix: String,
        /// The secret.
        value: Secret,
    },
}

/// Why secrets do not make a credential; names no value.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// RFC 7617 §2 has no way to carry it.
    #[error("the user name of a `basic` credential cannot have a colon")]
    ColonInUsername,
    /// Together they are no header value.
    #[error("the credential does not make a header value: {0}")]
    Header(#[from] SecretError),
}

/// The header that carries a credential to the upstream.
pub(super) struct Injection {
    pub(super) header: String,
    pub(super) value: Secret,
}

impl fmt::Debug for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Injection").field("header", &self.header).finish_non_exhaustive()
    }
}

/// All credentials, by host. The way in is a [`Grant`].
#[derive(Debug, Default)]
pub struct Credentials {
    exact: BTreeMap<String, Injection>,
    /// The longest parent first: the most specific pattern wins.
    patterns: Vec<(HostPattern, Injection)>,
}

impl Credentials {
    /// These credentials; what goes into the header is made once, here.
    ///
    /// # Errors
    /// The first credential that cannot be sent, with its host.
    pub fn new(
        credentials: impl IntoIterator<Item = (HostPattern, Credential)>,
    ) -> Result<Self, (HostPattern, CredentialError)> {
        let mut all = Self::default();
        for (pattern, credential) in credentials {
            let injection = match Injection::new(credential) {
                Ok(injection) => injection,
                Err(error) => return Err((pattern, error)),
            };
            match pattern.exact() {
                Some(host) => {
                    all.exact.insert(host.to_string(), injection);
                }
                None => all.patterns.push((pattern, injection)),
            }
        }
        all.patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.to_string().len()));
        Ok(all)
    }

    /// The credential for the upstream that was granted.
    pub(super) fn injection(&self, grant: &Grant) -> Option<&Injection> {
        self.find(grant.host().as_str())
    }

    /// Where the credential of a host goes; nowhere when it has none. Needs no grant: it gives names, no secret.
    pub(super) fn places(&self, host: &str) -> Places<'_> {
        Places(self.find(host))
    }

    fn find(&self, host: &str) -> Option<&Injection> {
        self.exact.get(host).or_else(|| {
            // No pattern, no copy of the name.
            let host: Host = if self.patterns.is_empty() { return None } else { host.parse().ok()? };
            self.patterns.iter().find(|(pattern, _)| pattern.matches(&host)).map(|(_, injection)| injection)
        })
    }
}

/// Where the credential of one host goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a>(Option<&'a Injection>);

impl Places<'_> {
    /// Whether it goes into the header with this name, in lower case.
    pub(super) fn has_header(&self, name: &str) -> bool {
        self.0.is_some_and(|injection| injection.header == name)
    }
}

impl Injection {
    fn new(credential: Credential) -> Result<Self, CredentialError> {
        match credential {
            Credential::Bearer { token } => Self::with("authorization".to_owned(), &[b"Bearer ", token.expose()]),
            Credential::Basic { username, password } => {
                if username.expose().contains(&b':') {
                    return Err(CredentialError::ColonInUsername);
                }
                let pair = Zeroizing::new([username.expose(), b":", password.expose()].concat());
                let encoded = Zeroizing::new(STANDARD.encode(&*pair));
                Self::with("authorization".to_owned(), &[b"Basic ", encoded.as_bytes()])
            }
            Credential::Header { name, prefix, value } => Self::with(name, &[prefix.as_bytes(), value.expose()]),
        }
    }

    fn with(header: String, parts: &[&[u8]]) -> Result<Self, CredentialError> {
        Ok(Self { header, value: Secret::new(parts.concat())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn each_kind_makes_its_header() {
        for (credential, header, value) in [
            (Credential::Bearer { token: secret("sk_1") }, "authorization", "Bearer sk_1"),
            (
                Credential::Basic { username: secret("aladdin"), password: secret("open:sesame") },
                "authorization",
                "Basic YWxhZGRpbjpvcGVuOnNlc2FtZQ==",
            ),
            (
                Credential::Header { name: "x-api-key".to_owned(), prefix: String::new(), value: secret("sk-ant-1") },
                "x-api-key",
                "sk-ant-1",
            ),
        ] {
            let injection = Injection::new(credential).unwrap();
            assert_eq!(injection.header, header);
            assert_eq!(injection.value.as_str(), value);
            assert!(!format!("{injection:?}").contains(value));
        }
        let colon = Credential::Basic { username: secret("a:b"), password: secret("c") };
        assert!(matches!(Injection::new(colon), Err(CredentialError::ColonInUsername)));
    }
}
