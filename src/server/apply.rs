//! Configuration in force → what the vault decides by, and what Envoy is told.
//!
//! The vault is told first, in one step; then the resources are published. A request under way meets either the old rules or
//! the new ones, never a mixture, and an upstream that was removed is refused from that moment on, also while Envoy still
//! routes to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::leaves::LeafSource;
use super::sandboxes::{Servings, Trust};
use super::status::Status;
use crate::config::{
    CredentialConfig, CredentialKind, Diagnostic, HeaderConfig, Loaded, ProviderRef, SigV4Config, VaultConfig,
};
use crate::domain::decision::Rules;
use crate::domain::macaroon::TokenPrefix;
use crate::domain::names::{Host, HostPattern};
use crate::domain::policy::Policy;
use crate::domain::revocations::Revocations;
use crate::domain::secret::Secret;
use crate::metrics::ServerMetrics;
use crate::pki::Ca;
use crate::state::SigningKeys;
use crate::vault::{Credential, Credentials, HeaderCredential, Vault, VaultState};
use crate::xds::resources::{self, Leaves, TrustedCa};
use crate::xds::snapshot::{Fleet, ResourceType};

/// Where secrets come from: the environment, as a function so that tests have their own.
pub type Environment = Arc<dyn Fn(&str) -> Option<std::ffi::OsString> + Send + Sync>;

/// Applies configurations, one after the other.
pub(super) struct Applier {
    /// What tokens are signed with.
    pub(super) keys: watch::Receiver<Arc<SigningKeys>>,
    /// Which of them hold no more.
    pub(super) revocations: Revocations,
    pub(super) prefix: TokenPrefix,
    pub(super) strict: bool,
    pub(super) environment: Environment,
    pub(super) system_ca: TrustedCa,
    pub(super) leaves: LeafSource,
    pub(super) ca_dir: PathBuf,
    pub(super) vault: Vault,
    pub(super) fleet: watch::Sender<Arc<Fleet>>,
    pub(super) status: Arc<Status>,
    pub(super) metrics: ServerMetrics,
    /// Where each sandbox that runs is served.
    pub(super) servings: Servings,
    /// The CA, for the sandboxes to trust.
    pub(super) trust: watch::Sender<Arc<Trust>>,
    /// The last vault configuration whose secrets were all there.
    pub(super) good_vault: Arc<VaultConfig>,
}

impl Applier {
    /// Puts `loaded` in force. What cannot be, stays as it was, and is said.
    pub(super) fn apply(&mut self, loaded: &Loaded) {
        let mut problems = loaded.problems.clone();
        let credentials = match credentials(&loaded.vault, &self.environment) {
            Ok(credentials) => {
                self.good_vault = Arc::clone(&loaded.vault);
                Some(credentials)
            }
            Err(missing) => {
                for problem in &missing {
                    tracing::error!("{problem}");
                }
                problems.extend(missing);
                // These were all there before, and the environment of a process does not change.
                credentials(&self.good_vault, &self.environment).ok()
            }
        };
        let policies = self.policies(loaded);
        let rules = self.rules(&policies);
        self.vault.replace(VaultState { rules, credentials: credentials.unwrap_or_default() });
        self.publish(&policies, loaded.generation);
        self.metrics.config_generation.set(i64::try_from(loaded.generation).unwrap_or(i64::MAX));
        self.metrics.config_ok.set(i64::from(problems.is_empty()));
        self.metrics.config_last_reload.set(unix_now());
        self.metrics.config_reloads.with_label_values(&[if problems.is_empty() { "ok" } else { "broken" }]).inc();
        self.status.set_config(loaded.generation, problems);
    }

    /// Decides by the keys that there are now; all else stays as `loaded` has it.
    pub(super) fn rekey(&mut self, loaded: &Loaded) {
        let policies = self.policies(loaded);
        let credentials = credentials(&self.good_vault, &self.environment).unwrap_or_default();
        let rules = self.rules(&policies);
        self.vault.replace(VaultState { rules, credentials });
    }

    fn rules(&mut self, policies: &[Arc<Policy>]) -> Rules {
        let keyring = self.keys.borrow_and_update().keyring();
        let mut rules = Rules::new(policies.iter().map(|p| &**p), keyring, self.prefix.clone(), self.strict);
        rules.revocations = self.revocations.clone();
        rules
    }

    /// Publishes what `loaded` needs again: certificates that are due have new versions, all else is what it was.
    pub(super) fn renew(&self, loaded: &Loaded) {
        self.publish(&self.policies(loaded), loaded.generation);
    }

    /// What is to be enforced: of every gateway, and of every sandbox that runs.
    fn policies(&self, loaded: &Loaded) -> Vec<Arc<Policy>> {
        let servings = self.servings.load();
        let policies = loaded.projects.iter().filter_map(|project| project.policy(servings.get(&project.id)));
        policies.map(Arc::new).collect()
    }

    /// Takes up a CA that was rotated on disk; whether it was.
    pub(super) async fn take_up_ca(&mut self) -> bool {
        let dir = self.ca_dir.clone();
        let Ok(loaded) = tokio::task::spawn_blocking(move || Ca::load(&dir)).await else { return false };
        match loaded {
            Ok(ca) if ca.fingerprint() != self.leaves.ca.fingerprint() => {
                tracing::info!(fingerprint = ca.fingerprint(), "the CA was rotated: every certificate is issued anew");
                self.trust.send_replace(Arc::new(Trust::of(&ca)));
                self.leaves.ca = Arc::new(ca);
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::error!("the CA on disk cannot be used, the one in memory goes on: {error}");
                false
            }
        }
    }

    fn publish(&self, policies: &[Arc<Policy>], generation: u64) {
        let leaves: Arc<dyn Leaves> = Arc::new(self.leaves.clone());
        let previous = Arc::clone(&self.fleet.borrow());
        let signs = |host: &Host| self.good_vault.signs(host);
        match resources::fleet(policies, &leaves, &self.system_ca, &signs, generation, Some(&previous)) {
            Ok(fleet) => {
                self.fleet.send_if_modified(|current| {
                    let version = |fleet: &Fleet, ty| fleet.everything.of_type(ty).version();
                    let changed = fleet.generation != current.generation
                        || ResourceType::ALL.iter().any(|&ty| version(&fleet, ty) != version(current, ty));
                    if changed {
                        *current = Arc::new(fleet);
                    }
                    changed
                });
            }
            Err(error) => {
                tracing::error!("the configuration gives no consistent resources, the last ones go on: {error}")
            }
        }
    }
}

/// Fetches the secrets that `vault.toml` names.
///
/// # Errors
/// Everything that is missing or cannot be sent, with its line; no value is named.
pub(super) fn credentials(vault: &VaultConfig, environment: &Environment) -> Result<Credentials, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    let mut found: Vec<(HostPattern, Credential)> = Vec::new();
    for (host, config) in &vault.credentials {
        match credential(config, environment) {
            Ok(credential) => found.push((host.clone(), credential)),
            Err((message, hint)) => {
                problems.push(problem(config, format!("[credentials.\"{host}\"]: {message}"), hint))
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Credentials::new(found).map_err(|(host, error)| {
        let config = vault.credentials.get(&host);
        config.map(|config| problem(config, format!("[credentials.\"{host}\"]: {error}"), None)).into_iter().collect()
    })
}

fn problem(config: &CredentialConfig, message: String, hint: Option<String>) -> Diagnostic {
    Diagnostic { file: Arc::clone(&config.origin.file), line: config.origin.line, column: 1, message, hint }
}

type Missing = (String, Option<String>);

fn credential(config: &CredentialConfig, environment: &Environment) -> Result<Credential, Missing> {
    let secret = |provider: &ProviderRef| secret(provider, environment);
    Ok(match &config.kind {
        CredentialKind::Bearer { token } => Credential::Bearer { token: secret(token)? },
        CredentialKind::Basic { username, password } => {
            Credential::Basic { username: secret(username)?, password: secret(password)? }
        }
        CredentialKind::Headers(headers) => {
            let headers = headers.iter().map(|HeaderConfig { name, value, prefix }| {
                Ok(HeaderCredential { name: name.to_string(), prefix: prefix.to_string(), value: secret(value)? })
            });
            Credential::Headers(headers.collect::<Result<_, Missing>>()?)
        }
        CredentialKind::Query { name, value } => Credential::Query { name: name.to_string(), value: secret(value)? },
        CredentialKind::SigV4(SigV4Config { access_key_id, secret_access_key, session_token, region, service }) => {
            Credential::SigV4 {
                access_key_id: secret(access_key_id)?,
                secret_access_key: secret(secret_access_key)?,
                session_token: session_token.as_ref().map(secret).transpose()?,
                region: region.as_ref().map(ToString::to_string),
                service: service.as_ref().map(ToString::to_string),
            }
        }
    })
}

fn secret(provider: &ProviderRef, environment: &Environment) -> Result<Secret, Missing> {
    use std::os::unix::ffi::OsStringExt;
    let ProviderRef::Env { name } = provider;
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

fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::config;

    const VAULT: &str = r#"[credentials."a.example"]
type = "bearer"
token = { provider = "env", name = "A_KEY" }
[credentials."b.example"]
type = "basic"
username = { provider = "env", name = "B_USER" }
password = { provider = "env", name = "B_PASSWORD" }
[credentials."*.c.example"]
type = "header"
name = "x-api-key"
value = { provider = "env", name = "sk_live_51H" }
[credentials."d.example"]
type = "headers"
headers = { x-d1 = { provider = "env", name = "A_KEY" }, x-d2 = { provider = "env", name = "D_KEY" } }
[credentials."e.example"]
type = "query"
name = "key"
value = { provider = "env", name = "E_KEY" }
[credentials."f.example"]
type = "sigv4"
access_key_id = { provider = "env", name = "F_ID" }
secret_access_key = { provider = "env", name = "F_KEY" }
session_token = { provider = "env", name = "F_SESSION" }
"#;

    const GOOD: [(&str, &[u8]); 9] = [
        ("A_KEY", b"secret-a"),
        ("B_USER", b"secret-b"),
        ("B_PASSWORD", b"secret:b"),
        ("sk_live_51H", b"secret-c"),
        ("D_KEY", b"secret-d"),
        ("E_KEY", b"secret-e"),
        ("F_ID", b"secret-f"),
        ("F_KEY", b"secret-f/+="),
        ("F_SESSION", b"secret-f/+="),
    ];

    /// What is wrong when these variables are other than [`GOOD`]; `None` is one that is not set.
    fn problems(changes: &[(&str, Option<&[u8]>)]) -> Vec<Diagnostic> {
        let vault = config::parse_vault("vault.toml", VAULT).unwrap();
        let mut variables: BTreeMap<String, Option<&[u8]>> =
            GOOD.iter().map(|(name, value)| ((*name).to_owned(), Some(*value))).collect();
        variables.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), *value)));
        let variables: BTreeMap<String, Option<OsString>> = variables
            .into_iter()
            .map(|(name, value)| (name, value.map(|value| OsString::from_vec(value.to_vec()))))
            .collect();
        let environment: Environment = Arc::new(move |name| variables.get(name)?.clone());
        let problems = credentials(&vault, &environment).err().unwrap_or_default();
        for problem in &problems {
            let text = problem.to_string();
            assert!(!text.contains("secret-") && !text.contains("sk_live"), "{text}");
        }
        problems
    }

    #[test]
    fn secrets_that_are_all_there_make_credentials() {
        assert_eq!(problems(&[]), []);
        assert_eq!(problems(&[("B_PASSWORD", Some(b"with:colons:and spaces"))]), []);
    }

    #[test]
    fn everything_that_is_missing_is_named_with_its_line() {
        let all = problems(&[
            ("A_KEY", None),
            ("B_PASSWORD", None),
            ("sk_live_51H", None),
            ("E_KEY", None),
            ("F_SESSION", None),
        ]);
        let mut lines: Vec<(u32, &str)> = all.iter().map(|problem| (problem.line, problem.message.as_str())).collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                (1, "[credentials.\"a.example\"]: the environment variable A_KEY is not set"),
                (4, "[credentials.\"b.example\"]: the environment variable B_PASSWORD is not set"),
                (8, "[credentials.\"*.c.example\"]: the environment variable that is named here is not set"),
                (12, "[credentials.\"d.example\"]: the environment variable A_KEY is not set"),
                (15, "[credentials.\"e.example\"]: the environment variable E_KEY is not set"),
                (19, "[credentials.\"f.example\"]: the environment variable F_SESSION is not set"),
            ]
        );
        let hint = all.iter().find(|problem| problem.line == 1).and_then(|problem| problem.hint.as_deref());
        assert_eq!(hint, Some("set A_KEY in the environment of `agent-creds serve`, and start it again"));
    }

    #[test]
    fn what_cannot_be_a_header_is_refused_without_repeating_it() {
        for (name, value, line) in [
            ("B_PASSWORD", &b"secret-\r\nx: y"[..], 4),
            ("D_KEY", b"", 12),
            ("D_KEY", b"secret-\xff", 12),
            ("E_KEY", b"secret-\n\n=\0", 15),
            ("B_USER", b"secret-:b", 4),
            ("sk_live_51H", b"secret-\0", 8),
            ("F_ID", b"secret-/", 19),
            ("F_SESSION", b"secret-\n\nx", 19),
        ] {
            let found = problems(&[(name, Some(value))]);
            assert_eq!(found.iter().map(|problem| problem.line).collect::<Vec<_>>(), [line], "{found:?}");
        }
    }
}
