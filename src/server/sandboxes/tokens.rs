//! The environment of a sandbox's processes: tokens, variables of the host, plain values, and where the CA is.
//!
//! Tokens are minted for one life of one sandbox and kept in memory alone: nothing of them is written on the host.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use zeroize::Zeroizing;

use super::unix_now;

use crate::config::{EnvValue, SandboxConfig};
use crate::domain::macaroon::{Macaroon, MintError, Restriction, TokenId, TokenPrefix, attenuate, mint};
use crate::domain::names::{Instance, SandboxId};
use crate::domain::policy::Address;
use crate::sandbox::spec::body::{HELPERS, INSIDE};
use crate::server::shared::SharedVaults;
use crate::state::{IssuedToken, SigningKeys};

/// The home of the sandbox's user.
pub(super) const HOME: &str = "/home/agent";

/// The variables by which programs are told of a CA file; each replaces what the program trusts otherwise.
const CA_VARIABLES: [&str; 9] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "DENO_CERT",
];

/// What every process in any sandbox has in its environment; no secrets, so it may be in the container's configuration.
/// `path` is the image's PATH.
pub(super) fn common(sandbox: &SandboxId, path: &str) -> BTreeMap<String, String> {
    let ca = format!("{INSIDE}/ca.pem");
    let mut environment: BTreeMap<String, String> =
        CA_VARIABLES.iter().map(|name| ((*name).to_owned(), ca.clone())).collect();
    environment.extend([
        // Before those that the image may have of the same names: no browser of its own could show anything.
        ("PATH".to_owned(), format!("{INSIDE}/bin:{path}:{HELPERS}")),
        ("BROWSER".to_owned(), format!("{INSIDE}/bin/xdg-open")),
        ("HOME".to_owned(), HOME.to_owned()),
        ("USER".to_owned(), "agent".to_owned()),
        ("LOGNAME".to_owned(), "agent".to_owned()),
        ("AGENT_CREDS_SANDBOX".to_owned(), sandbox.to_string()),
    ]);
    environment
}

/// Environment variables, some of which hold secrets.
type Variables = BTreeMap<String, Zeroizing<String>>;

/// Mints the tokens of sandboxes, with the key that is current then. Its `Debug` shows nothing.
pub(in crate::server) struct TokenMint {
    pub(in crate::server) keys: watch::Receiver<Arc<SigningKeys>>,
    pub(in crate::server) shared: Arc<SharedVaults>,
    pub(in crate::server) prefix: TokenPrefix,
}

impl std::fmt::Debug for TokenMint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenMint(…)")
    }
}

/// The secrets of one sandbox that runs: its tokens, and what the host's variables held. Its `Debug` shows nothing.
#[derive(Default)]
pub(super) struct Secrets(Mutex<Held>);

#[derive(Default)]
struct Held {
    /// Each token with what it was made for, and of which: an edit of that makes another one, everything else keeps it.
    tokens: BTreeMap<String, (EnvValue, Option<TokenId>, Zeroizing<String>)>,
    host: BTreeMap<String, Zeroizing<String>>,
    /// What was minted and is not in the log yet.
    unrecorded: Vec<IssuedToken>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

impl Secrets {
    /// Takes what the host's variables hold now.
    pub(super) fn set_host(&self, values: impl IntoIterator<Item = (String, String)>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.host = values.into_iter().map(|(name, value)| (name, Zeroizing::new(value))).collect();
    }

    /// These are in the log.
    pub(super) fn recorded(&self, tokens: &[IssuedToken]) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.unrecorded.retain(|token| !tokens.contains(token));
    }

    /// The environment that `config` asks for, and what is to be in the log of tokens before it is handed out. A host variable
    /// that is not set is left out.
    ///
    /// # Errors
    /// When there is no randomness, or a token would be longer than tokens may be; the message names the variable.
    pub(super) fn environment(
        &self,
        config: &SandboxConfig,
        sandbox: &SandboxId,
        instance: &Instance,
        vault: Option<&Address>,
        mint: &TokenMint,
    ) -> Result<(Variables, Vec<IssuedToken>), String> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Held { tokens, host, unrecorded } = &mut *held;
        let has_tokens = config.env.values().any(|value| matches!(value, EnvValue::Token { .. }));
        // With a shared vault they are narrowed from the one that this server has of it, by which they are known there.
        let parent = vault.filter(|_| has_tokens).map(|vault| mint.shared.token(vault)).transpose()?;
        let made_of = parent.as_ref().map(Macaroon::id);
        tokens.retain(|name, (value, of, _)| {
            *of == made_of && config.env.iter().any(|(other, now)| other.as_str() == name && now == value)
        });
        let mut environment = BTreeMap::new();
        for (name, value) in &config.env {
            let text = match value {
                EnvValue::Plain(text) => Zeroizing::new(text.to_string()),
                EnvValue::FromHost { name } => match host.get(name.as_str()) {
                    Some(text) => text.clone(),
                    None => continue,
                },
                EnvValue::Token { .. } => match tokens.get(name.as_str()) {
                    Some((_, _, token)) => token.clone(),
                    None => {
                        let macaroon = mint
                            .token(value, sandbox, instance, parent.as_ref())
                            .map_err(|error| format!("cannot make the token for {}: {error}", name.as_str()))?;
                        let issuer = format!("adev, as {} of {sandbox}", name.as_str());
                        if parent.is_none() {
                            unrecorded.push(IssuedToken::of(&macaroon, unix_now(), issuer));
                        }
                        let token = macaroon.encode(&mint.prefix);
                        tokens.insert(name.as_str().to_owned(), (value.clone(), made_of, token.clone()));
                        token
                    }
                },
            };
            environment.insert(name.as_str().to_owned(), text);
        }
        Ok((environment, unrecorded.clone()))
    }
}

impl TokenMint {
    fn token(
        &self,
        value: &EnvValue,
        sandbox: &SandboxId,
        instance: &Instance,
        parent: Option<&Macaroon>,
    ) -> Result<Macaroon, TokenFault> {
        let EnvValue::Token { hosts, limits } = value else { return Err(TokenFault::NoToken) };
        let mut restrictions = vec![
            Restriction::Instance(sandbox.clone(), instance.clone()),
            Restriction::Hosts(hosts.iter().cloned().collect()),
        ];
        restrictions.extend(limits.methods.as_ref().map(|all| Restriction::Methods(all.iter().cloned().collect())));
        restrictions.extend(limits.paths.clone().map(Restriction::Paths));
        if let Some(parent) = parent {
            return Ok(attenuate(parent, &restrictions)?);
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| TokenFault::Random)?;
        let keys = Arc::clone(&self.keys.borrow());
        let (id, key) = keys.current();
        Ok(mint(key, id, random, &restrictions)?)
    }
}

#[derive(Debug, thiserror::Error)]
enum TokenFault {
    #[error("it is none")]
    NoToken,
    #[error("the system gives no random numbers")]
    Random,
    #[error(transparent)]
    Mint(#[from] MintError),
}
