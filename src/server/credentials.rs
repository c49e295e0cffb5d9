//! `vault.toml` in force: from where each secret comes, to what carries it to an upstream.
//!
//! ```text
//! VaultConfig ─ load ─▶ ProviderRef ─▶ Live<SecretBytes> ─┐
//!                       (one each, kept over reloads)      ├─▶ Live<Prepared> ─▶ Credentials, for the vault
//!                                       token endpoint ────┘         │
//!                                                                    └─▶ states, for /readyz
//! ```
//!
//! What is in the environment is read at once, and has to be there. All else is fetched when a request first needs it.

mod files;
mod refresh;
mod report;

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use tokio::sync::watch;

pub(super) use self::files::{WatchedFile, follow};
pub(super) use self::refresh::KeptTokens;
use self::report::Reported;
pub(super) use self::report::{CredentialMetrics, CredentialReport, CredentialStates};
use crate::config::{
    CredentialConfig, CredentialKind, Diagnostic, EnvName, GithubAppConfig, GoogleConfig, HeaderConfig, Kept,
    OauthConfig, OauthGrant, ProviderRef, Scope, SigV4Config, VaultConfig,
};
use crate::domain::names::HostPattern;
use crate::domain::policy::Origin;
use crate::domain::secret::{Secret, SecretBytes};
use crate::vault::exchange::{ClientAuth, Exchange, ExchangeKind, HttpsClient, OauthClient, RefreshTokens, SendAs};
use crate::vault::live::{Live, Source};
use crate::vault::providers::{AgeFile, AgeIdentity, AgeSecret, Exec, FileSecret, Freshness, KeyringSecret, Seen};
use crate::vault::{Composed, Credential, Credentials, HeaderCredential, Placement, Prepared};

/// Where secrets come from: the environment, as a function so that tests have their own.
pub type Environment = Arc<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

/// The variable with the passphrase of encrypted files.
pub(super) const AGE_PASSPHRASE: &str = "AGENT_CREDS_AGE_PASSPHRASE";
/// Variables of the server that are no business of the programs it asks.
const NOT_FOR_PROGRAMS: &[&str] = &["MACAROON_SIGNING_KEY", AGE_PASSPHRASE];

type Secrets = Arc<Live<SecretBytes>>;

/// What went wrong, and what to do.
type Missing = (String, Option<String>);

/// The credentials in force, and all that they come from.
pub(super) struct CredentialStore {
    environment: Environment,
    https: Arc<HttpsClient>,
    kept: Arc<dyn RefreshTokens>,
    metrics: CredentialMetrics,
    providers: HashMap<ProviderRef, Secrets>,
    /// Those that are fetched; the same host with the same lines keeps what it has.
    fetched: HashMap<(HostPattern, CredentialKind, bool), Arc<Live<Prepared>>>,
    current: Arc<Credentials>,
    in_force: VaultConfig,
    states: CredentialStates,
    files: watch::Sender<Vec<WatchedFile>>,
}

impl CredentialStore {
    /// None yet.
    pub(super) fn new(
        environment: Environment,
        https: HttpsClient,
        kept: Arc<dyn RefreshTokens>,
        metrics: CredentialMetrics,
        states: CredentialStates,
    ) -> Self {
        Self {
            environment,
            https: Arc::new(https),
            kept,
            metrics,
            providers: HashMap::new(),
            fetched: HashMap::new(),
            current: Arc::default(),
            in_force: VaultConfig::default(),
            states,
            files: watch::Sender::new(Vec::new()),
        }
    }

    /// The credentials in force.
    pub(super) fn current(&self) -> Arc<Credentials> {
        Arc::clone(&self.current)
    }

    /// The hosts whose requests may be signed.
    pub(super) fn signing(&self) -> Vec<HostPattern> {
        self.in_force.signing()
    }

    /// The files that secrets are in.
    pub(super) fn files(&self) -> watch::Receiver<Vec<WatchedFile>> {
        self.files.subscribe()
    }

    /// Puts `vault` in force.
    ///
    /// # Errors
    /// Everything that is missing or cannot be sent, with its line; then what was in force stays. No value is named.
    pub(super) fn load(&mut self, vault: &VaultConfig) -> Result<(), Vec<Diagnostic>> {
        let mut next = Next::default();
        let mut problems = Vec::new();
        let mut all = Vec::new();
        for (host, config) in &vault.credentials {
            match self.credential(host, config, &mut next) {
                Ok((placement, live)) => all.push((host.clone(), placement, live)),
                Err((message, hint)) => problems.push(problem(host, config, &message, hint)),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let states = next.fetched.iter().map(|((host, ..), live)| (host.to_string(), Arc::clone(live))).collect();
        self.states.replace(states);
        let Next { providers, fetched, files } = next;
        self.files.send_replace(files);
        (self.providers, self.fetched) = (providers, fetched);
        self.current = Arc::new(Credentials::live(all));
        self.in_force = vault.clone();
        Ok(())
    }

    fn credential(
        &self,
        host: &HostPattern,
        config: &CredentialConfig,
        next: &mut Next,
    ) -> Result<(Placement, Arc<Live<Prepared>>), Missing> {
        let mut parts = Vec::new();
        let (placement, source): (_, Box<dyn Source<Prepared>>) = match composed(&config.kind) {
            Some(composed) => {
                let placement = Placement::of(&composed);
                if composed.secrets().iter().all(|provider| matches!(provider, ProviderRef::Env { .. })) {
                    return Ok((placement, Live::fixed(fixed(&composed, config.redact, &self.environment)?)));
                }
                let credential = composed.try_map(|provider| self.part(provider, &mut parts, next))?;
                (placement, Box::new(Composed { credential, redact: config.redact }))
            }
            None => (Placement::authorization(), Box::new(self.exchange(config, &mut parts, next)?)),
        };
        let key = (host.clone(), config.kind.clone(), config.redact);
        let live = match self.fetched.get(&key) {
            Some(live) => Arc::clone(live),
            None => {
                let (credential, origin) = (host.to_string(), config.origin.to_string());
                Live::from_source(Reported { source, credential, origin, metrics: self.metrics.clone() })
            }
        };
        for (provider, secret) in parts {
            next.watch(&provider, &secret, &live);
        }
        next.fetched.insert(key, Arc::clone(&live));
        Ok((placement, live))
    }

    /// What a secret comes from, noted among the parts of a credential.
    fn part(
        &self,
        provider: &ProviderRef,
        parts: &mut Vec<(ProviderRef, Secrets)>,
        next: &mut Next,
    ) -> Result<Secrets, Missing> {
        let live = self.provider(provider, next)?;
        parts.push((provider.clone(), Arc::clone(&live)));
        Ok(live)
    }

    /// What a secret comes from: one for all that name it, and the same after a reload.
    fn provider(&self, provider: &ProviderRef, next: &mut Next) -> Result<Secrets, Missing> {
        if let Some(live) = next.providers.get(provider) {
            return Ok(Arc::clone(live));
        }
        let live = match (self.providers.get(provider), provider) {
            (Some(live), _) => Arc::clone(live),
            (None, ProviderRef::Env { name }) => {
                let secret = from_environment(name, &self.environment)?;
                let bytes = SecretBytes::new(secret.expose().to_vec()).map_err(|error| (error.to_string(), None))?;
                Live::fixed(bytes)
            }
            (None, ProviderRef::File { path, grace }) => {
                let freshness = Freshness { ttl: None, grace: *grace };
                Live::from_source(FileSecret { path: path.clone(), freshness })
            }
            (None, ProviderRef::Exec { command, timeout, kept }) => {
                let (argv, freshness) = (Arc::clone(command), freshness(kept));
                Live::from_source(Exec { argv, timeout: *timeout, freshness, without: NOT_FOR_PROGRAMS })
            }
            (None, ProviderRef::Keyring { name, kept }) => {
                Live::from_source(KeyringSecret { name: name.to_string(), freshness: freshness(kept) })
            }
            (None, ProviderRef::Age { file, name, identity, grace }) => {
                let identity = match identity {
                    Some(path) => AgeIdentity::File(path.clone()),
                    None => AgeIdentity::Passphrase(passphrase(&self.environment)?),
                };
                let file = AgeFile { path: file.clone(), identity };
                let freshness = Freshness { ttl: None, grace: *grace };
                Live::from_source(AgeSecret { file, name: name.to_string(), freshness })
            }
        };
        next.providers.insert(provider.clone(), Arc::clone(&live));
        Ok(live)
    }

    fn exchange(
        &self,
        config: &CredentialConfig,
        parts: &mut Vec<(ProviderRef, Secrets)>,
        next: &mut Next,
    ) -> Result<Exchange, Missing> {
        let mut part = |provider: &ProviderRef| self.part(provider, parts, next);
        let mut send_as = SendAs::Bearer;
        let kind = match &config.kind {
            CredentialKind::Oauth2(OauthConfig {
                grant,
                token_url,
                client_id,
                client_secret,
                auth_in_body,
                scopes,
                audience,
            }) => {
                let client = OauthClient {
                    token_url: token_url.uri().clone(),
                    client_id: client_id.clone(),
                    client_secret: client_secret.as_ref().map(&mut part).transpose()?,
                    auth: if *auth_in_body { ClientAuth::Body } else { ClientAuth::Basic },
                    scopes: texts(scopes),
                    audience: audience.clone(),
                };
                match grant {
                    OauthGrant::ClientCredentials => ExchangeKind::ClientCredentials(client),
                    OauthGrant::RefreshToken(token) => {
                        ExchangeKind::RefreshToken { client, refresh_token: part(token)?, kept: Arc::clone(&self.kept) }
                    }
                }
            }
            CredentialKind::GithubApp(GithubAppConfig {
                app_id,
                installation_id,
                private_key,
                api_url,
                repositories,
                permissions,
                basic,
            }) => {
                if *basic {
                    send_as = SendAs::GithubBasic;
                }
                ExchangeKind::GithubApp {
                    app_id: app_id.clone(),
                    installation_id: *installation_id,
                    private_key: part(private_key)?,
                    api_url: api_url.uri().clone(),
                    repositories: repositories.clone(),
                    permissions: permissions.clone().into_iter().collect(),
                }
            }
            CredentialKind::GoogleServiceAccount(GoogleConfig { key, scopes, subject }) => {
                ExchangeKind::GoogleServiceAccount { key: part(key)?, scopes: texts(scopes), subject: subject.clone() }
            }
            CredentialKind::Bearer { .. }
            | CredentialKind::Basic { .. }
            | CredentialKind::Headers(_)
            | CredentialKind::Query { .. }
            | CredentialKind::SigV4(_) => return Err(("it is not got in exchange for another".to_owned(), None)),
        };
        Ok(Exchange { kind, send_as, redact: config.redact, https: Arc::clone(&self.https) })
    }
}

/// What is put in force, while it is put together.
#[derive(Default)]
struct Next {
    providers: HashMap<ProviderRef, Secrets>,
    fetched: HashMap<(HostPattern, CredentialKind, bool), Arc<Live<Prepared>>>,
    files: Vec<WatchedFile>,
}

impl Next {
    /// Has a credential follow the file that one of its parts is in.
    fn watch(&mut self, provider: &ProviderRef, secret: &Secrets, live: &Arc<Live<Prepared>>) {
        let (ProviderRef::File { path, .. } | ProviderRef::Age { file: path, .. }) = provider else { return };
        let known = self.files.iter_mut().find(|file| Arc::ptr_eq(&file.secret, secret));
        match known {
            Some(file) => file.credentials.push(Arc::clone(live)),
            None => self.files.push(WatchedFile {
                seen: Seen::of(path),
                path: path.clone(),
                secret: Arc::clone(secret),
                credentials: vec![Arc::clone(live)],
            }),
        }
    }
}

/// The credential whose secrets are sent as they are; `None` for one that is got in exchange.
fn composed(kind: &CredentialKind) -> Option<Credential<ProviderRef>> {
    Some(match kind {
        CredentialKind::Bearer { token } => Credential::Bearer { token: token.clone() },
        CredentialKind::Basic { username, password } => {
            Credential::Basic { username: username.clone(), password: password.clone() }
        }
        CredentialKind::Headers(headers) => {
            let headers = headers.iter().map(|HeaderConfig { name, value, prefix }| HeaderCredential {
                name: name.to_string(),
                prefix: prefix.to_string(),
                value: value.clone(),
            });
            Credential::Headers(headers.collect())
        }
        CredentialKind::Query { name, value } => Credential::Query { name: name.to_string(), value: value.clone() },
        CredentialKind::SigV4(SigV4Config { access_key_id, secret_access_key, session_token, region, service }) => {
            Credential::SigV4 {
                access_key_id: access_key_id.clone(),
                secret_access_key: secret_access_key.clone(),
                session_token: session_token.clone(),
                region: region.as_ref().map(ToString::to_string),
                service: service.as_ref().map(ToString::to_string),
            }
        }
        CredentialKind::Oauth2(_) | CredentialKind::GithubApp(_) | CredentialKind::GoogleServiceAccount(_) => {
            return None;
        }
    })
}

/// A credential all of whose secrets are in the environment.
fn fixed(composed: &Credential<ProviderRef>, redact: bool, environment: &Environment) -> Result<Prepared, Missing> {
    let credential = composed.try_map(|provider| match provider {
        ProviderRef::Env { name } => from_environment(name, environment),
        _ => Err(("it is not in the environment".to_owned(), None)),
    })?;
    Prepared::new(credential, redact).map_err(|error| (error.to_string(), None))
}

/// The variables of the server's environment that hold secrets.
pub(super) fn secret_variables(vault: &VaultConfig) -> Vec<String> {
    let providers = vault.credentials.values().flat_map(|config| config.kind.providers());
    let named = providers.filter_map(|provider| match provider {
        ProviderRef::Env { name } => Some(name.as_str().to_owned()),
        _ => None,
    });
    NOT_FOR_PROGRAMS.iter().map(|name| (*name).to_owned()).chain(named).collect()
}

/// What of `vault` is missing in the environment, or cannot be sent.
pub(super) fn missing(vault: &VaultConfig, environment: &Environment) -> Vec<Diagnostic> {
    let problems = vault.credentials.iter().filter_map(|(host, config)| {
        let (message, hint) = match composed(&config.kind) {
            Some(composed) if composed.secrets().iter().all(|p| matches!(p, ProviderRef::Env { .. })) => {
                fixed(&composed, config.redact, environment).err()?
            }
            _ => config.kind.providers().into_iter().find_map(|provider| match provider {
                ProviderRef::Env { name } => from_environment(name, environment).err(),
                ProviderRef::Age { identity: None, .. } => passphrase(environment).err(),
                _ => None,
            })?,
        };
        Some(problem(host, config, &message, hint))
    });
    problems.collect()
}

fn problem(host: &HostPattern, config: &CredentialConfig, message: &str, hint: Option<String>) -> Diagnostic {
    let Origin { file, line } = &config.origin;
    let message = format!("[credentials.\"{host}\"]: {message}");
    Diagnostic { file: Arc::clone(file), line: *line, column: 1, message, hint }
}

fn from_environment(name: &EnvName, environment: &Environment) -> Result<Secret, Missing> {
    // Some keys pass for names, and may have been put where the name belongs; names have no lower case, by custom.
    let name_shown = !name.as_str().bytes().any(|byte| byte.is_ascii_lowercase());
    let variable = if name_shown { format!("variable {name}") } else { "variable that is named here".to_owned() };
    let value = environment(name.as_str()).ok_or_else(|| {
        let hint = if name_shown {
            format!("set {name} in the environment of `agent-creds serve`, and start it again")
        } else {
            "`name` is the variable's name, not the secret; set the variable in the environment of `agent-creds serve`, and \
             start it again"
                .to_owned()
        };
        (format!("the environment {variable} is not set"), Some(hint))
    })?;
    Secret::new(value.into_vec()).map_err(|error| (format!("the environment {variable}: {error}"), None))
}

fn passphrase(environment: &Environment) -> Result<Secret, Missing> {
    let hint = format!(
        "set {AGE_PASSPHRASE} in the environment of `agent-creds serve`, and start it again; or write identity = \"FILE\""
    );
    let value = environment(AGE_PASSPHRASE)
        .ok_or_else(|| (format!("there is no `identity`, and {AGE_PASSPHRASE} is not set"), Some(hint)))?;
    Secret::new(value.into_vec()).map_err(|error| (format!("{AGE_PASSPHRASE}: {error}"), None))
}

fn freshness(kept: &Kept) -> Freshness {
    Freshness { ttl: Some(kept.ttl), grace: kept.grace }
}

fn texts(scopes: &[Scope]) -> Vec<String> {
    scopes.iter().map(|scope| scope.as_str().to_owned()).collect()
}

#[cfg(test)]
mod tests;
