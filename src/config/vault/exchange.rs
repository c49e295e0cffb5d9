//! Credentials that are got in exchange for others: `oauth2`, `github_app`, `google_service_account`.

use std::collections::BTreeMap;

use super::names::{HttpsUrl, Scope};
use super::parse_unrepeated;
use super::providers::{ProviderRef, read_optional_secret, read_secret};
use crate::config::diagnostic::quoted;
use crate::config::reader::{Item, Table, nearest};

/// `type = "oauth2"`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OauthConfig {
    /// What is given for the access token.
    pub grant: OauthGrant,
    /// The token endpoint.
    pub token_url: HttpsUrl,
    /// The client's id; no secret.
    pub client_id: String,
    /// Its secret; `None` is a public client.
    pub client_secret: Option<ProviderRef>,
    /// Whether the client shows who it is in the body, instead of by `Authorization: Basic`.
    pub auth_in_body: bool,
    /// What is asked for.
    pub scopes: Vec<Scope>,
    /// The API that the token is for.
    pub audience: Option<String>,
}

/// What is given for an access token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum OauthGrant {
    /// The client's own secret (RFC 6749 §4.4).
    ClientCredentials,
    /// A refresh token (§6); the ones that replace it are kept by the server.
    RefreshToken(ProviderRef),
}

/// `type = "github_app"`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GithubAppConfig {
    /// The App's id, or its client id.
    pub app_id: String,
    /// The installation.
    pub installation_id: u64,
    /// The App's private key, PEM.
    pub private_key: ProviderRef,
    /// The API.
    pub api_url: HttpsUrl,
    /// The repositories it is narrowed to; empty is all of the installation.
    pub repositories: Vec<String>,
    /// The permissions it is narrowed to; empty is all of the installation.
    pub permissions: BTreeMap<String, String>,
    /// Whether it is sent as git wants it, `Authorization: Basic`.
    pub basic: bool,
}

/// `type = "google_service_account"`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GoogleConfig {
    /// The JSON key file.
    pub key: ProviderRef,
    /// What is asked for.
    pub scopes: Vec<Scope>,
    /// The user it acts for.
    pub subject: Option<String>,
}

pub(super) fn read_oauth2(table: &mut Table<'_, '_>) -> Option<OauthConfig> {
    let grant = table
        .required("grant", "\"client_credentials\"")
        .and_then(|item| one_of(&item, &[("client_credentials", false), ("refresh_token", true)]));
    let token_url = table
        .required("token_url", "\"https://auth.example.com/oauth/token\"")
        .and_then(|item| parse_unrepeated(&item));
    let client_id = table.required("client_id", "\"my-client\"").and_then(|item| read_text(&item));
    let client_secret = match grant {
        // Without one the server could not tell who asks.
        Some(false) => read_secret(table, "client_secret").map(Some),
        _ => read_optional_secret(table, "client_secret"),
    };
    let refresh_token = match grant {
        Some(true) => read_secret(table, "refresh_token").map(Some),
        // A key that does not belong here is an unknown one.
        Some(false) => Some(None),
        None => read_optional_secret(table, "refresh_token"),
    };
    let auth_in_body = match table.optional("client_auth") {
        None => Some(false),
        Some(item) => one_of(&item, &[("basic", false), ("body", true)]),
    };
    let scopes = read_scopes(table);
    let audience = read_optional_text(table, "audience");
    let grant = match (grant?, refresh_token?) {
        (true, Some(token)) => OauthGrant::RefreshToken(token),
        _ => OauthGrant::ClientCredentials,
    };
    Some(OauthConfig {
        grant,
        token_url: token_url?,
        client_id: client_id?,
        client_secret: client_secret?,
        auth_in_body: auth_in_body?,
        scopes: scopes?,
        audience: audience?,
    })
}

pub(super) fn read_github_app(table: &mut Table<'_, '_>) -> Option<GithubAppConfig> {
    let app_id = table.required("app_id", "\"123456\"").and_then(|item| read_text(&item));
    let installation_id = table.required("installation_id", "\"12345678\"").and_then(|item| item.parse::<u64>());
    let private_key = read_secret(table, "private_key");
    let api_url = match table.optional("api_url") {
        None => "https://api.github.com".parse().ok(),
        Some(item) => parse_unrepeated(&item),
    };
    let repositories = match table.optional("repositories") {
        None => Some(Vec::new()),
        Some(item) => item
            .list("leave it out for all repositories of the installation")
            .and_then(|all| all.iter().map(read_text).collect()),
    };
    let permissions = match table.optional("permissions") {
        None => Some(BTreeMap::new()),
        Some(item) => item.table().and_then(|all| {
            let access =
                |item: &Item<'_, '_>| one_of(item, &[("read", "read"), ("write", "write"), ("admin", "admin")]);
            all.into_entries().iter().map(|item| Some((item.name.to_owned(), access(item)?.to_owned()))).collect()
        }),
    };
    let basic = match table.optional("send_as") {
        None => Some(false),
        Some(item) => one_of(&item, &[("bearer", false), ("basic", true)]),
    };
    Some(GithubAppConfig {
        app_id: app_id?,
        installation_id: installation_id?,
        private_key: private_key?,
        api_url: api_url?,
        repositories: repositories?,
        permissions: permissions?,
        basic: basic?,
    })
}

pub(super) fn read_google(table: &mut Table<'_, '_>) -> Option<GoogleConfig> {
    let key = read_secret(table, "key");
    let scopes = table
        .required("scopes", "[\"https://www.googleapis.com/auth/cloud-platform\"]")
        .and_then(|item| item.parse_list("write what the token is to be good for"));
    let subject = read_optional_text(table, "subject");
    Some(GoogleConfig { key: key?, scopes: scopes?, subject: subject? })
}

fn read_scopes(table: &mut Table<'_, '_>) -> Option<Vec<Scope>> {
    match table.optional("scopes") {
        None => Some(Vec::new()),
        Some(item) => item.parse_list("leave it out for what the client gets by itself"),
    }
}

fn read_optional_text(table: &mut Table<'_, '_>, key: &'static str) -> Option<Option<String>> {
    match table.optional(key) {
        None => Some(None),
        Some(item) => read_text(&item).map(Some),
    }
}

/// A text of 1 to 512 visible ASCII characters, not repeated: it may be a secret in the wrong place.
fn read_text(item: &Item<'_, '_>) -> Option<String> {
    let text: PlainText = parse_unrepeated(item)?;
    Some(text.0)
}

struct PlainText(String);

impl std::str::FromStr for PlainText {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = (1..=512).contains(&text.len()) && text.bytes().all(|byte| (b'!'..=b'~').contains(&byte));
        if legal { Ok(Self(text.to_owned())) } else { Err("it has 1 to 512 visible ASCII characters, and no spaces") }
    }
}

/// The value that one of these words stands for.
fn one_of<T: Copy>(item: &Item<'_, '_>, words: &[(&'static str, T)]) -> Option<T> {
    let text = item.string_unrepeated()?;
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Some(*value);
    }
    let all: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let hint = match nearest(text, words.iter().map(|(word, _)| *word)) {
        Some(meant) => format!("did you mean \"{meant}\"?"),
        None => format!("write one of {}", all.join(", ")),
    };
    item.wrong(format_args!("{} is {}", quoted(item.name), all.join(" or ")), Some(hint));
    None
}
