//! Credentials: what a token is swapped for.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::query;
use super::sigv4::{SECURITY_TOKEN, Signer};
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
    /// Headers of its own, as `x-api-key: KEY`.
    Headers(Vec<HeaderCredential>),
    /// A parameter of the query, as `?key=KEY`.
    Query {
        /// The parameter's name: letters, digits and `-._~`.
        name: String,
        /// The secret, as it is before it is encoded.
        value: Secret,
    },
    /// A signature of the request (AWS Signature Version 4).
    SigV4 {
        /// The access key id.
        access_key_id: Secret,
        /// The secret access key.
        secret_access_key: Secret,
        /// The session token of temporary credentials.
        session_token: Option<Secret>,
        /// The region to sign for, whatever the request says.
        region: Option<String>,
        /// The service to sign for, whatever the request says.
        service: Option<String>,
    },
}

/// A header with a secret in it.
#[derive(Debug)]
pub struct HeaderCredential {
    /// The header's name, lower case.
    pub name: String,
    /// What comes before the secret, with its space if there is to be one.
    pub prefix: String,
    /// The secret.
    pub value: Secret,
}

/// Why secrets do not make a credential; names no value.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// RFC 7617 §2 has no way to carry it.
    #[error("the user name of a `basic` credential cannot have a colon")]
    ColonInUsername,
    /// It stands between slashes and commas in a signature.
    #[error("the access key id of a `sigv4` credential has visible ASCII characters, and no slash, comma or `=`")]
    AccessKeyId,
    /// Together they cannot be sent.
    #[error("the credential cannot be sent: {0}")]
    Illegal(#[from] SecretError),
}

/// What carries a credential to the upstream.
pub(super) enum Injection {
    /// These headers.
    Headers(Vec<(String, Secret)>),
    /// This parameter of the query.
    Query {
        /// Its name.
        name: String,
        /// `name=value`, encoded.
        assignment: Secret,
    },
    /// A signature of each request.
    SigV4(Signer),
}

impl fmt::Debug for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Headers(headers) => f.debug_set().entries(headers.iter().map(|(name, _)| name)).finish(),
            Self::Query { name, .. } => f.debug_struct("Query").field("name", name).finish_non_exhaustive(),
            Self::SigV4(signer) => signer.fmt(f),
        }
    }
}

/// All credentials, by host. The way in is a [`Grant`].
#[derive(Debug, Default)]
pub struct Credentials {
    exact: BTreeMap<String, Injection>,
    /// The longest parent first: the most specific pattern wins.
    patterns: Vec<(HostPattern, String, Injection)>,
}

impl Credentials {
    /// These credentials; what goes into the request is made once, here.
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
                None => {
                    let name = pattern.to_string();
                    all.patterns.push((pattern, name, injection));
                }
            }
        }
        all.patterns.sort_by_key(|(_, name, _)| std::cmp::Reverse(name.len()));
        Ok(all)
    }

    /// The credential for the upstream that was granted, and its name: the host or the pattern that it is for.
    pub(super) fn injection(&self, grant: &Grant) -> Option<(&str, &Injection)> {
        self.find(grant.host().as_str())
    }

    /// Where the credential of a host goes; nowhere when it has none. Needs no grant: it gives names, no secret.
    pub(super) fn places(&self, host: &str) -> Places<'_> {
        Places(self.find(host).map(|(_, injection)| injection))
    }

    fn find(&self, host: &str) -> Option<(&str, &Injection)> {
        let exact = self.exact.get_key_value(host).map(|(name, injection)| (name.as_str(), injection));
        exact.or_else(|| {
            // No pattern, no copy of the name.
            let host: Host = if self.patterns.is_empty() { return None } else { host.parse().ok()? };
            let found = self.patterns.iter().find(|(pattern, ..)| pattern.matches(&host));
            found.map(|(_, name, injection)| (name.as_str(), injection))
        })
    }
}

/// Where the credential of one host goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a>(Option<&'a Injection>);

impl<'a> Places<'a> {
    /// Whether it goes into the header with this name, in lower case.
    pub(super) fn has_header(self, name: &str) -> bool {
        match self.0 {
            Some(Injection::Headers(headers)) => headers.iter().any(|(header, _)| header == name),
            // SDKs take the token for all that their environment may hold.
            Some(Injection::SigV4(_)) => name == SECURITY_TOKEN,
            Some(Injection::Query { .. }) | None => false,
        }
    }

    /// Whether it is a signature, which may be anywhere where signatures are.
    pub(super) fn signs(self) -> bool {
        matches!(self.0, Some(Injection::SigV4(_)))
    }

    /// The parameter of the query that it goes into.
    pub(super) fn parameter(self) -> Option<&'a str> {
        match self.0 {
            Some(Injection::Query { name, .. }) => Some(name),
            Some(Injection::Headers(_) | Injection::SigV4(_)) | None => None,
        }
    }
}

impl Injection {
    fn new(credential: Credential) -> Result<Self, CredentialError> {
        let authorization = |parts: &[&[u8]]| Ok(Self::Headers(vec![header("authorization".to_owned(), parts)?]));
        match credential {
            Credential::Bearer { token } => authorization(&[b"Bearer ", token.expose()]),
            Credential::Basic { username, password } => {
                if username.expose().contains(&b':') {
                    return Err(CredentialError::ColonInUsername);
                }
                let pair = Zeroizing::new([username.expose(), b":", password.expose()].concat());
                let encoded = Zeroizing::new(STANDARD.encode(&*pair));
                authorization(&[b"Basic ", encoded.as_bytes()])
            }
            Credential::Headers(headers) => {
                let headers = headers
                    .into_iter()
                    .map(|HeaderCredential { name, prefix, value }| header(name, &[prefix.as_bytes(), value.expose()]));
                Ok(Self::Headers(headers.collect::<Result<_, _>>()?))
            }
            Credential::Query { name, value } => {
                let mut assignment = query::assignment(&name, value.expose());
                Ok(Self::Query { name, assignment: Secret::new(std::mem::take(&mut assignment))? })
            }
            Credential::SigV4 { access_key_id, secret_access_key, session_token, region, service } => {
                Signer::new(&access_key_id, &secret_access_key, session_token.as_ref(), region, service)
                    .map(Self::SigV4)
            }
        }
    }
}

fn header(name: String, parts: &[&[u8]]) -> Result<(String, Secret), CredentialError> {
    Ok((name, Secret::new(parts.concat())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec()).unwrap()
    }

    fn own(name: &str, prefix: &str, value: &str) -> HeaderCredential {
        HeaderCredential { name: name.to_owned(), prefix: prefix.to_owned(), value: secret(value) }
    }

    #[test]
    fn each_kind_makes_its_headers() {
        let basic = Credential::Basic { username: secret("aladdin"), password: secret("open:sesame") };
        let two = vec![own("apikey", "", "sk_1"), own("authorization", "Bearer ", "sk_2")];
        for (credential, expected) in [
            (Credential::Bearer { token: secret("sk_1") }, &[("authorization", "Bearer sk_1")][..]),
            (basic, &[("authorization", "Basic YWxhZGRpbjpvcGVuOnNlc2FtZQ==")]),
            (Credential::Headers(vec![own("x-api-key", "", "sk-ant-1")]), &[("x-api-key", "sk-ant-1")]),
            (Credential::Headers(two), &[("apikey", "sk_1"), ("authorization", "Bearer sk_2")]),
        ] {
            let injection = Injection::new(credential).unwrap();
            let Injection::Headers(headers) = &injection else { panic!("{injection:?}") };
            let found: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(found, expected);
            for (name, value) in expected {
                assert!(!format!("{injection:?}").contains(value));
                assert!(Places(Some(&injection)).has_header(name) && Places(Some(&injection)).parameter().is_none());
            }
        }
        let colon = Credential::Basic { username: secret("a:b"), password: secret("c") };
        assert!(matches!(Injection::new(colon), Err(CredentialError::ColonInUsername)));
    }

    #[test]
    fn a_parameter_is_encoded_and_does_not_show() {
        let credential = Credential::Query { name: "key".to_owned(), value: secret("a b&c") };
        assert!(!format!("{credential:?}").contains("a b"));
        let injection = Injection::new(credential).unwrap();
        let Injection::Query { name, assignment } = &injection else { panic!("{injection:?}") };
        assert_eq!((name.as_str(), assignment.as_str()), ("key", "key=a%20b%26c"));
        assert!(!format!("{injection:?}").contains("a%20b"));
        assert_eq!(Places(Some(&injection)).parameter(), Some("key"));
        assert!(!Places(Some(&injection)).has_header("key") && Places(None).parameter().is_none());
        let long = Credential::Query { name: "key".to_owned(), value: secret(&" x".repeat(5000)) };
        assert!(matches!(Injection::new(long), Err(CredentialError::Illegal(SecretError::TooLong))));
    }
}
