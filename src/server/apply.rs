//! Configuration in force → what the vault decides by, and what Envoy is told.
//!
//! The vault is told first, in one step; then the resources are published. A request under way meets either the old rules or
//! the new ones, never a mixture, and an upstream that was removed is refused from that moment on, also while Envoy still
//! routes to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::credentials::CredentialStore;
use super::leaves::LeafSource;
use super::sandboxes::{Servings, Trust};
use super::shared::SharedVaults;
use super::status::Status;
use crate::config::Loaded;
use crate::domain::decision::Rules;
use crate::domain::macaroon::TokenPrefix;
use crate::domain::names::HostPattern;
use crate::domain::policy::Policy;
use crate::domain::revocations::Revocations;
use crate::metrics::ServerMetrics;
use crate::pki::{Ca, LeafSchedule};
use crate::shutdown::Shutdown;
use crate::state::SigningKeys;
use crate::vault::{Vault, VaultState};
use crate::xds::resources::FleetBuilder;
use crate::xds::snapshot::{Fleet, ResourceType};

/// Applies configurations, one after the other.
pub(super) struct Applier {
    /// What tokens are signed with.
    pub(super) keys: watch::Receiver<Arc<SigningKeys>>,
    /// Which of them hold no more.
    pub(super) revocations: Revocations,
    pub(super) prefix: TokenPrefix,
    pub(super) strict: bool,
    pub(super) credentials: CredentialStore,
    /// The vaults of other servers.
    pub(super) shared: Arc<SharedVaults>,
    /// The hosts whose requests this server's own vault signs.
    pub(super) signing: watch::Sender<Vec<HostPattern>>,
    pub(super) builder: FleetBuilder,
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
}

impl Applier {
    /// Puts `loaded` in force. What cannot be, stays as it was, and is said.
    pub(super) fn apply(&mut self, loaded: &Arc<Loaded>) {
        let mut problems = loaded.problems.clone();
        if let Err(missing) = self.credentials.load(&loaded.vault) {
            for problem in &missing {
                tracing::error!("{problem}");
            }
            problems.extend(missing);
        }
        self.shared.set(loaded.projects.iter().filter_map(|project| project.vault.as_ref()));
        let policies = self.policies(loaded);
        self.decide_by(&policies);
        let signing = self.credentials.signing();
        self.signing.send_if_modified(|current| {
            let changed = *current != signing;
            *current = signing;
            changed
        });
        self.publish(&policies, loaded.generation);
        self.metrics.config_generation.set(i64::try_from(loaded.generation).unwrap_or(i64::MAX));
        self.metrics.config_ok.set(i64::from(problems.is_empty()));
        self.metrics.config_last_reload.set(unix_now());
        self.metrics.config_reloads.with_label_values(&[if problems.is_empty() { "ok" } else { "broken" }]).inc();
        self.status.set_config(loaded, problems);
    }

    /// Decides by the keys that there are now; all else stays as `loaded` has it.
    pub(super) fn rekey(&mut self, loaded: &Loaded) {
        self.decide_by(&self.policies(loaded));
    }

    fn decide_by(&mut self, policies: &[Arc<Policy>]) {
        let rules = self.rules(policies);
        let (credentials, shared) = (self.credentials.current(), self.shared.all());
        self.vault.replace(VaultState { rules, credentials, shared });
    }

    fn rules(&mut self, policies: &[Arc<Policy>]) -> Rules {
        let keyring = self.keys.borrow_and_update().keyring();
        let mut rules = Rules::new(policies.iter().map(|p| &**p), keyring, self.prefix.clone(), self.strict);
        rules.revocations = self.revocations.clone();
        rules
    }

    /// Publishes what `loaded` needs again: certificates that are due have new versions, all else is what it was.
    pub(super) fn renew(&mut self, loaded: &Loaded) {
        self.builder.renew();
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
                self.builder.set_leaves(Arc::new(self.leaves.clone()));
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::error!("the CA on disk cannot be used, the one in memory goes on: {error}");
                false
            }
        }
    }

    fn publish(&mut self, policies: &[Arc<Policy>], generation: u64) {
        let timer = self.metrics.build_seconds.start_timer();
        self.builder.set_shared_signing(self.shared.signing());
        let built = self.builder.build(policies, &self.credentials.signing(), generation);
        timer.observe_duration();
        match built {
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

/// Applies each change of the configuration, renews certificates, and takes up a rotated CA.
pub(super) async fn keep_applied(
    mut applier: Applier,
    mut loaded: watch::Receiver<Arc<Loaded>>,
    schedule: LeafSchedule,
    stopping: Shutdown,
) {
    let mut renewal = tokio::time::interval(schedule.check_interval());
    let mut ca_check = tokio::time::interval(Duration::from_secs(1));
    let mut keys = applier.keys.clone();
    let mut shared = applier.shared.changed();
    let stopped = stopping.wait();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            changed = loaded.changed() => {
                if changed.is_err() {
                    // The watch ended; its own task says so.
                    stopped.await;
                    return;
                }
                let now = Arc::clone(&loaded.borrow_and_update());
                // With thousands of upstreams this takes a while: checks go on, on the other threads.
                tokio::task::block_in_place(|| applier.apply(&now));
            }
            Ok(()) = keys.changed() => {
                let now = Arc::clone(&loaded.borrow());
                tokio::task::block_in_place(|| applier.rekey(&now));
            }
            Ok(()) = shared.changed() => {
                let now = Arc::clone(&loaded.borrow());
                tokio::task::block_in_place(|| applier.publish(&applier.policies(&now), now.generation));
            }
            _ = renewal.tick() => {
                let now = Arc::clone(&loaded.borrow());
                tokio::task::block_in_place(|| applier.renew(&now));
            }
            _ = ca_check.tick() => {
                if applier.take_up_ca().await {
                    let now = Arc::clone(&loaded.borrow());
                    tokio::task::block_in_place(|| applier.renew(&now));
                }
            }
        }
    }
}

fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
