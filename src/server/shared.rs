//! Vaults of other servers, for the projects whose `agent-creds.toml` names one (`[vault]`).
//!
//! This server is to such a vault what an Envoy of another machine is: a node, with a certificate that says as which gateway it may
//! ask. Limits, identity of sandboxes, DNS, certificates and isolation stay here; tokens and credentials are there, and each request
//! with a token is asked about. Keys are in this server's memory as long as a request takes, and on no disk.

mod identity;
mod link;
mod tls;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::{IntGaugeVec, Opts, Registry};
use tokio::sync::watch;
use tokio::task::AbortHandle;

pub use self::identity::{IdentityFile, identity_file};
use self::link::{Link, State};
use crate::config::SharedVaultConfig;
use crate::domain::macaroon::{Macaroon, TokenPrefix};
use crate::domain::names::HostPattern;
use crate::domain::policy::Address;
use crate::vault::SharedVault;

/// All of them. Shared by who asks them and who watches them.
#[derive(Debug)]
pub(super) struct SharedVaults {
    /// Where the identities are.
    folder: PathBuf,
    prefix: TokenPrefix,
    kept: Mutex<BTreeMap<Address, Kept>>,
    changed: watch::Sender<()>,
    connected: IntGaugeVec,
}

#[derive(Debug)]
struct Kept {
    link: Arc<Link>,
    /// A project that names it, for messages.
    named: String,
    task: AbortHandle,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How things are with one, for people.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct SharedVaultReport {
    /// Where it is.
    pub(super) address: String,
    /// `connected`, `connecting`, `down` or `not_enrolled`.
    pub(super) state: &'static str,
    /// What is wrong; empty when nothing is.
    pub(super) message: String,
    /// `FILE:LINE` that names it.
    pub(super) named: String,
    /// As which node this server is enrolled there; empty when it is not.
    pub(super) node: String,
    /// And as which gateway.
    pub(super) gateway: String,
    /// The last second of its certificate, in Unix seconds; 0 when there is none.
    pub(super) expires: i64,
}

impl SharedVaults {
    /// None yet. Identities are in `folder`.
    ///
    /// # Errors
    /// When the metric is there already.
    pub(super) fn new(folder: PathBuf, prefix: TokenPrefix, registry: &Registry) -> Result<Self, prometheus::Error> {
        let connected = IntGaugeVec::new(
            Opts::new("agent_creds_shared_vault_connected", "Whether a shared vault that a project names answers."),
            &["vault"],
        )?;
        registry.register(Box::new(connected.clone()))?;
        Ok(Self { folder, prefix, kept: Mutex::default(), changed: watch::Sender::new(()), connected })
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<Address, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects to those that are named, and to no others.
    pub(super) fn set<'a>(&self, named: impl Iterator<Item = &'a SharedVaultConfig>) {
        let named: BTreeMap<&Address, String> = named.map(|vault| (&vault.address, vault.origin.to_string())).collect();
        let mut kept = self.kept();
        kept.retain(|address, _| {
            let stays = named.contains_key(address);
            if !stays {
                let _ = self.connected.remove_label_values(&[&address.to_string()]);
            }
            stays
        });
        for (address, origin) in named {
            match kept.get_mut(address) {
                Some(kept) => kept.named = origin,
                None => {
                    let link = Link::new(address.clone(), &self.folder, self.prefix.clone(), self.changed.clone());
                    let (link, gauge) = (Arc::new(link), self.connected.with_label_values(&[&address.to_string()]));
                    let keeping = Arc::clone(&link);
                    let task = tokio::spawn(async move { keeping.keep(&gauge).await }).abort_handle();
                    kept.insert(address.clone(), Kept { link, named: origin, task });
                }
            }
        }
    }

    /// For who asks them.
    pub(super) fn all(&self) -> HashMap<Address, Arc<dyn SharedVault>> {
        let kept = self.kept();
        let link = |kept: &Kept| -> Arc<dyn SharedVault> { Arc::<Link>::clone(&kept.link) };
        kept.iter().map(|(address, kept)| (address.clone(), link(kept))).collect()
    }

    /// The hosts whose requests each signs.
    pub(super) fn signing(&self) -> BTreeMap<Address, Vec<HostPattern>> {
        self.kept().iter().map(|(address, kept)| (address.clone(), kept.link.signing())).collect()
    }

    /// Says when [`SharedVaults::signing`] is another.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The token that those of sandboxes with that vault are made of.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub(super) fn token(&self, address: &Address) -> Result<Macaroon, String> {
        match self.kept().get(address) {
            Some(kept) => kept.link.token(),
            None => Err(format!("the vault {address} is not in force yet: try again")),
        }
    }

    /// How things are, by address.
    pub(super) fn report(&self) -> Vec<SharedVaultReport> {
        let kept = self.kept();
        let of = |(address, kept): (&Address, &Kept)| {
            let (state, message) = match kept.link.state() {
                State::Connecting => ("connecting", String::new()),
                State::NotEnrolled(why) => ("not_enrolled", why),
                State::Down(why) => ("down", why),
                State::Connected => ("connected", String::new()),
            };
            let (node, gateway, expires) = kept.link.enrolled().unwrap_or_default();
            SharedVaultReport {
                address: address.to_string(),
                state,
                message,
                named: kept.named.clone(),
                node,
                gateway,
                expires,
            }
        };
        kept.iter().map(of).collect()
    }
}
