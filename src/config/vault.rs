//! `vault.toml`: which credential goes to which host. It names where each secret is, and never holds one.

mod exchange;
mod names;
mod providers;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

pub use exchange::{GithubAppConfig, GoogleConfig, OauthConfig, OauthGrant};
pub use names::{
    CredentialHeader, CredentialHeaderError, CredentialParameter, CredentialParameterError, HttpsUrl, HttpsUrlError,
    Scope, ScopeError, ScopeName, ScopeNameError, SecretName, SecretNameError,
};
pub use providers::{Kept, ProviderRef};

use self::providers::{EXAMPLE, read_provider, read_secret};
use super::diagnostic::{Diagnostic, Diagnostics, quoted};
use super::reader::{Item, Reader, Table, nearest};
use super::upstream::{self, transpose};
use crate::domain::names::HostPattern;
use crate::domain::policy::Origin;

/// What one valid `vault.toml` says; the default has no credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VaultConfig {
    /// The credential of each host.
    pub credentials: BTreeMap<HostPattern, CredentialConfig>,
}

/// One credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialConfig {
    /// The line of its header.
    pub origin: Origin,
    /// How it is sent, and where its secrets are.
    pub kind: CredentialKind,
    /// Whether it is masked in what the upstream answers.
    pub redact: bool,
}

/// How a credential is put into a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    /// `Authorization: Bearer TOKEN` (RFC 6750).
    Bearer {
        /// The token.
        token: ProviderRef,
    },
    /// `Authorization: Basic …` (RFC 7617).
    Basic {
        /// The user name.
        username: ProviderRef,
        /// The password.
        password: ProviderRef,
    },
    /// Headers of its own, each name once.
    Headers(Vec<HeaderConfig>),
    /// A parameter of the query.
    Query {
        /// Its name.
        name: CredentialParameter,
        /// Its value.
        value: ProviderRef,
    },
    /// An OAuth 2.0 access token.
    Oauth2(OauthConfig),
    /// An installation token of a GitHub App.
    GithubApp(GithubAppConfig),
    /// An access token of a Google service account.
    GoogleServiceAccount(GoogleConfig),
    /// A signature of the request (AWS Signature Version 4).
    SigV4(SigV4Config),
}

/// The keys to sign with, and for where.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SigV4Config {
    /// The access key id.
    pub access_key_id: ProviderRef,
    /// The secret access key.
    pub secret_access_key: ProviderRef,
    /// The session token of temporary credentials.
    pub session_token: Option<ProviderRef>,
    /// The region, whatever the request says.
    pub region: Option<ScopeName>,
    /// The service, whatever the request says.
    pub service: Option<ScopeName>,
}

impl VaultConfig {
    /// The hosts whose requests may be signed, for which the vault needs the bodies of some.
    pub fn signing(&self) -> Vec<HostPattern> {
        let signing = |config: &CredentialConfig| matches!(config.kind, CredentialKind::SigV4(_));
        let credentials = self.credentials.iter().filter(|(_, config)| signing(config));
        credentials.map(|(pattern, _)| pattern.clone()).collect()
    }
}

impl CredentialKind {
    /// Whether what is sent stays the same until somebody changes it.
    pub fn is_static(&self) -> bool {
        !matches!(self, Self::Oauth2(_) | Self::GithubApp(_) | Self::GoogleServiceAccount(_) | Self::SigV4(_))
    }

    /// Everything its secrets come from.
    pub fn providers(&self) -> Vec<&ProviderRef> {
        match self {
            Self::Bearer { token } => vec![token],
            Self::Basic { username, password } => vec![username, password],
            Self::Headers(headers) => headers.iter().map(|header| &header.value).collect(),
            Self::Query { value, .. } => vec![value],
            Self::Oauth2(OauthConfig { grant, client_secret, .. }) => {
                let refresh = match grant {
                    OauthGrant::ClientCredentials => None,
                    OauthGrant::RefreshToken(token) => Some(token),
                };
                refresh.into_iter().chain(client_secret).collect()
            }
            Self::GithubApp(GithubAppConfig { private_key, .. }) => vec![private_key],
            Self::SigV4(SigV4Config { access_key_id, secret_access_key, session_token, .. }) => {
                [access_key_id, secret_access_key].into_iter().chain(session_token).collect()
            }
            Self::GoogleServiceAccount(GoogleConfig { key, .. }) => vec![key],
        }
    }
}

/// The words for [`CredentialKind`] in the file.
const KINDS: [&str; 9] =
    ["bearer", "basic", "header", "headers", "query", "sigv4", "oauth2", "github_app", "google_service_account"];

/// A header that carries a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderConfig {
    /// Its name.
    pub name: CredentialHeader,
    /// Its value.
    pub value: ProviderRef,
    /// What comes before the value, such as `Token `; may be empty.
    pub prefix: Arc<str>,
}

/// Parses a `vault.toml`, which is called `file` in messages.
///
/// # Errors
/// Everything that is wrong with the file, at once. No message repeats a value that stands where a secret is named: it may
/// be the secret.
pub fn parse_vault(file: &str, text: &str) -> Result<VaultConfig, Diagnostics> {
    let reader = Reader::new(file, text);
    let vault = reader.parse().and_then(|tree| {
        let mut root = reader.root(&tree)?;
        let credentials = root.optional("credentials");
        root.finish();
        let credentials = credentials
            .map(|item| upstream::hosts(&item, "credentials", |entry, _| read_credential(entry)))
            .unwrap_or_default();
        Some(VaultConfig { credentials })
    });
    reader.finish()?;
    // `None` without a noted problem cannot be; if it were, the file must still not pass.
    vault.ok_or_else(|| Diagnostic::of_file(&file.into(), "the file does not describe a vault").into())
}

fn read_credential(entry: &Item<'_, '_>) -> Option<CredentialConfig> {
    let mut table = entry.table()?;
    let kind = table.required("type", "\"bearer\"")?;
    let kind = match kind.string()? {
        "bearer" => read_secret(&mut table, "token").map(|token| CredentialKind::Bearer { token }),
        "basic" => {
            let username = read_secret(&mut table, "username");
            let password = read_secret(&mut table, "password");
            username.zip(password).map(|(username, password)| CredentialKind::Basic { username, password })
        }
        "header" => read_header(&mut table),
        "headers" => read_headers(&mut table),
        "query" => read_query(&mut table),
        "sigv4" => read_sigv4(&mut table),
        "oauth2" => exchange::read_oauth2(&mut table).map(CredentialKind::Oauth2),
        "github_app" => exchange::read_github_app(&mut table).map(CredentialKind::GithubApp),
        "google_service_account" => exchange::read_google(&mut table).map(CredentialKind::GoogleServiceAccount),
        other => {
            let hint = match nearest(other, KINDS) {
                Some(meant) => format!("did you mean \"{meant}\"?"),
                None => format!("there are: {}", KINDS.join(", ")),
            };
            kind.wrong(format_args!("there is no credential of type {}", quoted(other)), Some(hint));
            // Which keys belong to it cannot be known.
            return None;
        }
    };
    // By default what stays the same for long is masked.
    let by_default = kind.as_ref().is_some_and(CredentialKind::is_static);
    let redact = table.optional("redact").map_or(Some(by_default), |item| match (&kind, item.boolean()?) {
        (Some(CredentialKind::SigV4(_)), true) => {
            // Its keys do not travel, and answers to what was signed are asked for as the client signed.
            item.wrong("bodies of answers to signed requests are not looked into", Some("remove `redact`".to_owned()));
            None
        }
        (_, redact) => Some(redact),
    });
    table.finish();
    Some(CredentialConfig { origin: entry.origin(), kind: kind?, redact: redact? })
}

fn read_header(table: &mut Table<'_, '_>) -> Option<CredentialKind> {
    let name = table.required("name", "\"x-api-key\"").and_then(|item| parse_unrepeated(&item));
    let value = read_secret(table, "value");
    let prefix = optional_prefix(table);
    Some(CredentialKind::Headers(vec![HeaderConfig { name: name?, value: value?, prefix: prefix? }]))
}

/// The most headers that one credential may have.
const MAX_HEADERS: usize = 16;

fn read_headers(table: &mut Table<'_, '_>) -> Option<CredentialKind> {
    let item = table.required("headers", "{ x-api-key = { provider = \"env\", name = \"EXAMPLE_API_KEY\" } }")?;
    let entries = item.table()?.into_entries();
    if entries.is_empty() {
        item.wrong("`headers` is empty", Some(format!("write a line for each header, as in x-api-key = {EXAMPLE}")));
        return None;
    }
    if let Some(first_too_many) = entries.get(MAX_HEADERS) {
        first_too_many.wrong_key(format_args!("more than {MAX_HEADERS} headers in one credential"), None);
        return None;
    }
    let mut lines: BTreeMap<String, u32> = BTreeMap::new();
    let headers: Vec<Option<HeaderConfig>> = entries
        .iter()
        .map(|entry| {
            let name = CredentialHeader::from_str(entry.name);
            match &name {
                Ok(name) => {
                    if let Some(line) = lines.insert(name.to_string(), entry.origin().line) {
                        let hint = "case makes no difference in the name of a header".to_owned();
                        entry.wrong_key(format_args!("this is the same header as on line {line}"), Some(hint));
                    }
                }
                Err(error) => entry.wrong_key(format_args!("the name of this header is not valid here: {error}"), None),
            }
            let (value, prefix) = read_provider(entry, "headers", optional_prefix)?;
            Some(HeaderConfig { name: name.ok()?, value, prefix: prefix? })
        })
        .collect();
    headers.into_iter().collect::<Option<_>>().map(CredentialKind::Headers)
}

fn read_query(table: &mut Table<'_, '_>) -> Option<CredentialKind> {
    let name = table.required("name", "\"key\"").and_then(|item| parse_unrepeated(&item));
    let value = read_secret(table, "value");
    Some(CredentialKind::Query { name: name?, value: value? })
}

fn read_sigv4(table: &mut Table<'_, '_>) -> Option<CredentialKind> {
    let access_key_id = read_secret(table, "access_key_id");
    let secret_access_key = read_secret(table, "secret_access_key");
    let session_token = table
        .optional("session_token")
        .map(|item| read_provider(&item, "session_token", |_| ()).map(|(token, ())| token));
    let region = table.optional("region").map(|item| parse_unrepeated(&item));
    let service = table.optional("service").map(|item| parse_unrepeated(&item));
    Some(CredentialKind::SigV4(SigV4Config {
        access_key_id: access_key_id?,
        secret_access_key: secret_access_key?,
        session_token: transpose(session_token)?,
        region: transpose(region)?,
        service: transpose(service)?,
    }))
}

/// The value as text that parses as a `T`; it may be a secret in the wrong place, and is not repeated.
fn parse_unrepeated<T>(item: &Item<'_, '_>) -> Option<T>
where
    T: FromStr,
    T::Err: Display,
{
    match item.string_unrepeated()?.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            item.wrong(format_args!("{} is not valid: {error}", quoted(item.name)), None);
            None
        }
    }
}

/// Empty when there is none; `None` when it is not valid.
fn optional_prefix(table: &mut Table<'_, '_>) -> Option<Arc<str>> {
    table.optional("prefix").map_or_else(|| Some(Arc::default()), |item| read_prefix(&item))
}

fn read_prefix(item: &Item<'_, '_>) -> Option<Arc<str>> {
    let text = item.string_unrepeated()?;
    if text.len() <= 128 && text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return Some(text.into());
    }
    item.wrong("`prefix` is up to 128 visible ASCII characters and spaces, as in \"Token \"", None);
    None
}

#[cfg(test)]
mod tests;
