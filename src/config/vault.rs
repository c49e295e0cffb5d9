//! `vault.toml`: which credential goes to which host. It names where each secret is, and never holds one.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderName;

use super::diagnostic::{Diagnostic, Diagnostics, quoted};
use super::reader::{Item, Reader, Table, nearest};
use super::units::EnvName;
use super::upstream;
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
}

/// How a credential is put into a request.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// A header of its own.
    Header {
        /// Its name.
        name: CredentialHeader,
        /// Its value.
        value: ProviderRef,
        /// What comes before the value, such as `Token `; may be empty.
        prefix: Arc<str>,
    },
}

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderRef {
    /// In the server's environment.
    Env {
        /// The variable.
        name: EnvName,
    },
}

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
        other => {
            const KINDS: [&str; 3] = ["bearer", "basic", "header"];
            let hint = match nearest(other, KINDS) {
                Some(meant) => format!("did you mean \"{meant}\"?"),
                None => format!("there are: {}", KINDS.join(", ")),
            };
            kind.wrong(format_args!("there is no credential of type {}", quoted(other)), Some(hint));
            // Which keys belong to it cannot be known.
            return None;
        }
    };
    table.finish();
    Some(CredentialConfig { origin: entry.origin(), kind: kind? })
}

fn read_header(table: &mut Table<'_, '_>) -> Option<CredentialKind> {
    let name = table.required("name", "\"x-api-key\"").and_then(|item| item.parse());
    let value = read_secret(table, "value");
    let prefix = table.optional("prefix").map(|item| read_prefix(&item));
    let prefix = prefix.unwrap_or_else(|| Some(Arc::default()))?;
    Some(CredentialKind::Header { name: name?, value: value?, prefix })
}

fn read_prefix(item: &Item<'_, '_>) -> Option<Arc<str>> {
    let text = item.string()?;
    if text.len() <= 128 && text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return Some(text.into());
    }
    item.wrong("`prefix` is up to 128 visible ASCII characters and spaces, as in \"Token \"", None);
    None
}

const EXAMPLE: &str = "{ provider = \"env\", name = \"STRIPE_API_KEY\" }";

fn read_secret(table: &mut Table<'_, '_>, key: &'static str) -> Option<ProviderRef> {
    let item = table.required(key, EXAMPLE)?;
    if !item.is_table() {
        let hint = format!("put it into the server's environment, and write {key} = {EXAMPLE}");
        let message = "this file says where a secret is, and never holds one";
        item.wrong(format_args!("{} must be a table: {message}", quoted(key)), Some(hint));
        return None;
    }
    let mut table = item.table()?;
    let provider = table.required("provider", "\"env\"").and_then(|item| {
        let is_env = item.string_unrepeated()? == "env";
        if !is_env {
            item.wrong("there is no such provider", Some("write provider = \"env\": it is the only one".to_owned()));
        }
        is_env.then_some(())
    });
    let name = table.required("name", "\"STRIPE_API_KEY\"").and_then(|item| {
        match item.string_unrepeated()?.parse::<EnvName>() {
            Ok(name) => Some(name),
            Err(error) => {
                item.wrong(error, Some("write the variable's name, not its value".to_owned()));
                None
            }
        }
    });
    if provider.is_some() {
        // Other providers have other keys.
        table.finish();
    }
    provider.and(name).map(|name| ProviderRef::Env { name })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> String {
        parse_vault("vault.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn every_kind_of_credential() {
        let vault = parse_vault(
            "vault.toml",
            r#"
[credentials."API.stripe.com"]
type = "bearer"
token = { provider = "env", name = "STRIPE" }
[credentials."pb.example.com"]
type = "basic"
username = { provider = "env", name = "U" }
password = { provider = "env", name = "P" }
[credentials."*.s3.amazonaws.com"]
type = "header"
name = "X-Api-Key"
prefix = "Token "
[credentials."*.s3.amazonaws.com".value]
provider = "env"
name = "V"
"#,
        )
        .unwrap();
        let credential = |host: &str| &vault.credentials[&host.parse::<HostPattern>().unwrap()];
        let env = |name: &str| ProviderRef::Env { name: name.parse().unwrap() };
        assert_eq!(credential("api.stripe.com").kind, CredentialKind::Bearer { token: env("STRIPE") });
        assert_eq!(credential("api.stripe.com").origin.to_string(), "vault.toml:2");
        assert_eq!(credential("pb.example.com").kind, CredentialKind::Basic { username: env("U"), password: env("P") });
        assert_eq!(
            credential("*.s3.amazonaws.com").kind,
            CredentialKind::Header { name: "x-api-key".parse().unwrap(), value: env("V"), prefix: "Token ".into() }
        );
        assert_eq!(parse_vault("vault.toml", "").unwrap(), VaultConfig::default());
    }

    #[test]
    fn a_secret_in_the_file_is_refused_and_not_repeated() {
        for line in [
            "token = \"sk_live_51H\"",
            "token = { provider = \"env\", name = \"sk_live_51H-x\" }",
            "token = { provider = \"sk_live_51H\" }",
            "token = [\"sk_live_51H\"]",
            "token = { provider = \"env\", name = [\"sk_live_51H\"] }",
            "token = 51515151 # sk_live_51H",
            "token = { provider = 51515151, name = 51515151 }",
            "token = { provider = \"env\", name = \"A\", value = \"sk_live_51H\" }",
            "token = sk_live_51H",
            "token = \"sk_live_51H",
        ] {
            let problems = problems(&format!("[credentials.\"api.stripe.com\"]\ntype = \"bearer\"\n{line}\n"));
            assert!(problems.contains("vault.toml:3:"), "{problems}");
            assert!(!problems.contains("sk_live") && !problems.contains("51515151"), "{problems}");
        }
        assert_eq!(
            problems("[credentials.\"a.example\"]\ntype = \"bearer\"\ntoken = \"x\""),
            "vault.toml:3:9: `token` must be a table: this file says where a secret is, and never holds one\n    help: put \
             it into the server's environment, and write token = { provider = \"env\", name = \"STRIPE_API_KEY\" }"
        );
    }

    #[test]
    fn all_problems_at_once() {
        let problems = problems(
            r#"[credentials."https://api.stripe.com/v1"]
type = "barer"
[credentials."b.example"]
type = "basic"
user = { provider = "env", name = "U" }
password = { provider = "vault", name = "P" }
[credentials.c.example.com]
type = "bearer"
[credentials."d.example"]
[credential]
"#,
        );
        let lines: Vec<&str> = problems.lines().collect();
        assert_eq!(
            lines,
            [
                "vault.toml:1:14: `https://api.stripe.com/v1` is not a host: give the host name alone, without scheme, path, \
                 user or port",
                "    help: write [credentials.\"api.stripe.com\"]",
                "vault.toml:2:8: there is no credential of type `barer`",
                "    help: did you mean \"bearer\"?",
                "vault.toml:3:14: `b.example` needs `username`",
                "    help: add username = { provider = \"env\", name = \"STRIPE_API_KEY\" }",
                "vault.toml:5:1: unknown key `user`",
                "    help: known here: type, username, password",
                "vault.toml:6:25: there is no such provider",
                "    help: write provider = \"env\": it is the only one",
                "vault.toml:7:14: `c.example.com` is read as tables in tables",
                "    help: write the name in quotes: [credentials.\"c.example.com\"]",
                "vault.toml:9:14: `d.example` needs `type`",
                "    help: add type = \"bearer\"",
                "vault.toml:10:2: unknown key `credential`",
                "    help: did you mean `credentials`?",
            ]
        );
    }

    #[test]
    fn headers_that_steer_are_refused() {
        for (name, error) in [
            (":authority", CredentialHeaderError::Pseudo),
            ("Host", CredentialHeaderError::Routing),
            ("X-Forwarded-Host", CredentialHeaderError::Routing),
            ("Connection", CredentialHeaderError::Connection),
            ("transfer-encoding", CredentialHeaderError::Connection),
            ("X-Envoy-Original-Path", CredentialHeaderError::Envoy),
            ("a b", CredentialHeaderError::NotAHeader),
            ("", CredentialHeaderError::NotAHeader),
            ("x\r\n", CredentialHeaderError::NotAHeader),
        ] {
            assert_eq!(name.parse::<CredentialHeader>(), Err(error), "{name:?}");
        }
        assert_eq!("X-API-Key".parse::<CredentialHeader>().unwrap().as_str(), "x-api-key");
        let text = "[credentials.\"a.example\"]\ntype = \"header\"\nname = \"x\"\nvalue = { provider = \"env\", name = \
                    \"V\" }\nprefix = \"a\\r\\nb\"";
        assert!(problems(text).contains("vault.toml:5:10: `prefix`"));
    }
}
