//! Credentials: what a token is swapped for.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::live::{Fetch, FetchError, Fetched, Got, Live, Source};
use super::query;
use crate::domain::decision::Grant;
use crate::domain::names::{Host, HostPattern};
use crate::domain::secret::{Secret, SecretBytes, SecretError};

/// A credential, with the secrets it is made of: themselves, or where they come from.
#[derive(Debug, Clone)]
pub enum Credential<S = Secret> {
    /// `Authorization: Bearer TOKEN`.
    Bearer {
        /// The token.
        token: S,
    },
    /// `Authorization: Basic base64(USERNAME:PASSWORD)` (RFC 7617).
    Basic {
        /// The user name; has no colon.
        username: S,
        /// The password.
        password: S,
    },
    /// Headers of its own, as `x-api-key: KEY`.
    Headers(Vec<HeaderCredential<S>>),
    /// A parameter of the query, as `?key=KEY`.
    Query {
        /// The parameter's name: letters, digits and `-._~`.
        name: String,
        /// The secret, as it is before it is encoded.
        value: S,
    },
}

/// A header with a secret in it.
#[derive(Debug, Clone)]
pub struct HeaderCredential<S = Secret> {
    /// The header's name, lower case.
    pub name: String,
    /// What comes before the secret, with its space if there is to be one.
    pub prefix: String,
    /// The secret.
    pub value: S,
}

impl<S> Credential<S> {
    /// The same credential, with something else in place of each secret.
    ///
    /// # Errors
    /// The first that `change` gives.
    pub fn try_map<T, E>(&self, mut change: impl FnMut(&S) -> Result<T, E>) -> Result<Credential<T>, E> {
        Ok(match self {
            Self::Bearer { token } => Credential::Bearer { token: change(token)? },
            Self::Basic { username, password } => {
                Credential::Basic { username: change(username)?, password: change(password)? }
            }
            Self::Headers(headers) => {
                let headers = headers.iter().map(|HeaderCredential { name, prefix, value }| {
                    Ok(HeaderCredential { name: name.clone(), prefix: prefix.clone(), value: change(value)? })
                });
                Credential::Headers(headers.collect::<Result<_, E>>()?)
            }
            Self::Query { name, value } => Credential::Query { name: name.clone(), value: change(value)? },
        })
    }

    /// Its secrets, in the order in which [`Credential::try_map`] meets them.
    pub fn secrets(&self) -> Vec<&S> {
        match self {
            Self::Bearer { token } => vec![token],
            Self::Basic { username, password } => vec![username, password],
            Self::Headers(headers) => headers.iter().map(|header| &header.value).collect(),
            Self::Query { value, .. } => vec![value],
        }
    }
}

/// Where a credential goes, known before its secrets are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// Into these headers, lower case.
    Headers(Vec<String>),
    /// Into this parameter of the query.
    Query(String),
}

impl Placement {
    /// Into `authorization`.
    pub fn authorization() -> Self {
        Self::Headers(vec!["authorization".to_owned()])
    }

    /// Where this credential goes.
    pub fn of<S>(credential: &Credential<S>) -> Self {
        match credential {
            Credential::Bearer { .. } | Credential::Basic { .. } => Self::authorization(),
            Credential::Headers(headers) => Self::Headers(headers.iter().map(|header| header.name.clone()).collect()),
            Credential::Query { name, .. } => Self::Query(name.clone()),
        }
    }
}

/// A credential whose secrets come from providers.
pub struct Composed(pub Credential<Arc<Live<SecretBytes>>>);

impl Source<Injection> for Composed {
    fn fetch(&self) -> Fetch<'_, Injection> {
        Box::pin(async {
            let mut parts = Vec::new();
            for live in self.0.secrets() {
                parts.push(live.get().await?);
            }
            let mut each = parts.iter();
            let resolved = self.0.try_map(|_| match each.next() {
                Some(got) => got.value.to_secret().map_err(FetchError::new),
                None => Err(FetchError::new("a secret is missing")),
            })?;
            let value = Injection::new(resolved).map_err(FetchError::new)?;
            // As good as the worst of them.
            let until = |bound: fn(&Got<SecretBytes>) -> Instant| parts.iter().map(bound).min();
            let now = Instant::now();
            Ok(Fetched {
                value,
                fresh_until: until(|got| got.fresh_until).unwrap_or(now),
                usable_until: until(|got| got.usable_until).unwrap_or(now),
                problem: parts.iter().find_map(|got| got.problem.clone()),
            })
        })
    }
}

/// Why secrets do not make a credential; names no value.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// RFC 7617 §2 has no way to carry it.
    #[error("the user name of a `basic` credential cannot have a colon")]
    ColonInUsername,
    /// Together they cannot be sent.
    #[error("the credential cannot be sent: {0}")]
    Illegal(#[from] SecretError),
}

/// What carries a credential to the upstream.
pub enum Injection {
    /// These headers.
    Headers(Vec<(String, Secret)>),
    /// This parameter of the query.
    Query {
        /// Its name.
        name: String,
        /// `name=value`, encoded.
        assignment: Secret,
    },
}

impl fmt::Debug for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Headers(headers) => f.debug_set().entries(headers.iter().map(|(name, _)| name)).finish(),
            Self::Query { name, .. } => f.debug_struct("Query").field("name", name).finish_non_exhaustive(),
        }
    }
}

/// All credentials, by host. The way in is a [`Grant`].
#[derive(Debug, Default)]
pub struct Credentials {
    exact: BTreeMap<String, Entry>,
    /// The longest parent first: the most specific pattern wins.
    patterns: Vec<(HostPattern, String, Entry)>,
}

#[derive(Debug)]
struct Entry {
    placement: Placement,
    injection: Arc<Live<Injection>>,
}

impl Credentials {
    /// Credentials whose secrets are here and stay what they are.
    ///
    /// # Errors
    /// The first credential that cannot be sent, with its host.
    pub fn new(
        credentials: impl IntoIterator<Item = (HostPattern, Credential)>,
    ) -> Result<Self, (HostPattern, CredentialError)> {
        let mut all = Vec::new();
        for (pattern, credential) in credentials {
            let placement = Placement::of(&credential);
            match Injection::new(credential) {
                Ok(injection) => all.push((pattern, placement, Live::fixed(injection))),
                Err(error) => return Err((pattern, error)),
            }
        }
        Ok(Self::live(all))
    }

    /// Credentials that come from somewhere, each with where it goes.
    pub fn live(credentials: impl IntoIterator<Item = (HostPattern, Placement, Arc<Live<Injection>>)>) -> Self {
        let mut all = Self::default();
        for (pattern, placement, injection) in credentials {
            let entry = Entry { placement, injection };
            match pattern.exact() {
                Some(host) => {
                    all.exact.insert(host.to_string(), entry);
                }
                None => {
                    let name = pattern.to_string();
                    all.patterns.push((pattern, name, entry));
                }
            }
        }
        all.patterns.sort_by_key(|(_, name, _)| std::cmp::Reverse(name.len()));
        all
    }

    /// The credential for the upstream that was granted, and its name: the host or the pattern that it is for.
    pub(super) fn injection(&self, grant: &Grant) -> Option<(&str, &Arc<Live<Injection>>)> {
        self.find(grant.host().as_str()).map(|(name, entry)| (name, &entry.injection))
    }

    /// Where the credential of a host goes; nowhere when it has none. Needs no grant: it gives names, no secret.
    pub(super) fn places(&self, host: &str) -> Places<'_> {
        Places(self.find(host).map(|(_, entry)| &entry.placement))
    }

    fn find(&self, host: &str) -> Option<(&str, &Entry)> {
        let exact = self.exact.get_key_value(host).map(|(name, entry)| (name.as_str(), entry));
        exact.or_else(|| {
            // No pattern, no copy of the name.
            let host: Host = if self.patterns.is_empty() { return None } else { host.parse().ok()? };
            let found = self.patterns.iter().find(|(pattern, ..)| pattern.matches(&host));
            found.map(|(_, name, entry)| (name.as_str(), entry))
        })
    }
}

/// Where the credential of one host goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a>(Option<&'a Placement>);

impl<'a> Places<'a> {
    /// Whether it goes into the header with this name, in lower case.
    pub(super) fn has_header(self, name: &str) -> bool {
        match self.0 {
            Some(Placement::Headers(headers)) => headers.iter().any(|header| header == name),
            Some(Placement::Query(_)) | None => false,
        }
    }

    /// The parameter of the query that it goes into.
    pub(super) fn parameter(self) -> Option<&'a str> {
        match self.0 {
            Some(Placement::Query(name)) => Some(name),
            Some(Placement::Headers(_)) | None => None,
        }
    }
}

impl Injection {
    /// What carries this credential; made once, not for each request.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn new(credential: Credential) -> Result<Self, CredentialError> {
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
            let placement = Placement::of(&credential);
            let injection = Injection::new(credential).unwrap();
            let Injection::Headers(headers) = &injection else { panic!("{injection:?}") };
            let found: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(found, expected);
            for (name, value) in expected {
                assert!(!format!("{injection:?}").contains(value));
                assert!(Places(Some(&placement)).has_header(name) && Places(Some(&placement)).parameter().is_none());
            }
        }
        let colon = Credential::Basic { username: secret("a:b"), password: secret("c") };
        assert!(matches!(Injection::new(colon), Err(CredentialError::ColonInUsername)));
    }

    #[test]
    fn a_parameter_is_encoded_and_does_not_show() {
        let credential = Credential::Query { name: "key".to_owned(), value: secret("a b&c") };
        assert!(!format!("{credential:?}").contains("a b"));
        let placement = Placement::of(&credential);
        let injection = Injection::new(credential).unwrap();
        let Injection::Query { name, assignment } = &injection else { panic!("{injection:?}") };
        assert_eq!((name.as_str(), assignment.as_str()), ("key", "key=a%20b%26c"));
        assert!(!format!("{injection:?}").contains("a%20b"));
        assert_eq!(Places(Some(&placement)).parameter(), Some("key"));
        assert!(!Places(Some(&placement)).has_header("key") && Places(None).parameter().is_none());
        let long = Credential::Query { name: "key".to_owned(), value: secret(&" x".repeat(5000)) };
        assert!(matches!(Injection::new(long), Err(CredentialError::Illegal(SecretError::TooLong))));
    }
}
