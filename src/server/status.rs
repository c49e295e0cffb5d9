//! What `/readyz` tells.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use serde::Serialize;
use tokio::sync::watch;

use super::credentials::{CredentialReport, CredentialStates};
use super::shared::{SharedVaultReport, SharedVaults};
use crate::config::{Diagnostic, Loaded};
use crate::control::v1::{self, CredentialTrouble, RejectedUpdate};
use crate::xds::service::{Connections, NodeStatus};
use crate::xds::snapshot::{LOCAL_CLUSTER, ResourceType};

/// The state of the server, as its parts report it.
#[derive(Debug)]
pub(super) struct Status {
    config: Mutex<ConfigStatus>,
    /// What was put in force last.
    applied: watch::Sender<Option<Arc<Loaded>>>,
    connections: Connections,
    /// Envoy's process id; `None` when this server does not keep one running.
    envoy_pid: Option<Arc<AtomicI32>>,
    credentials: CredentialStates,
    shared: Arc<SharedVaults>,
    started: SystemTime,
}

impl From<SharedVaultReport> for v1::SharedVaultState {
    fn from(report: SharedVaultReport) -> Self {
        let SharedVaultReport { address, state, message, named, node, gateway, expires } = report;
        Self { address, state: state.to_owned(), message, named, node, gateway, expires }
    }
}

/// How many generations it is known of when they came into force.
const KNOWN_GENERATIONS: usize = 256;

#[derive(Debug, Clone, Default)]
struct ConfigStatus {
    generation: u64,
    problems: Vec<Diagnostic>,
    /// The latest generations, and when each came into force; oldest first.
    history: VecDeque<(u64, Instant)>,
}

/// The body of `/readyz`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether requests are served as the configuration in force says.
    pub(super) ready: bool,
    generation: u64,
    config: ConfigReport,
    credentials: CredentialsReport,
    envoy: EnvoyReport,
    shared_vaults: Vec<SharedVaultReport>,
}

#[derive(Debug, Serialize)]
struct CredentialsReport {
    /// Whether all that are needed can be had.
    ok: bool,
    problems: Vec<CredentialReport>,
}

#[derive(Debug, Serialize)]
struct ConfigReport {
    /// Whether the files on disk are what is in force.
    ok: bool,
    problems: Vec<Diagnostic>,
}

#[derive(Debug, Serialize)]
struct EnvoyReport {
    connected: bool,
    converged: bool,
    pid: Option<i32>,
    rejected: Vec<Rejected>,
}

/// A resource update that an Envoy refused.
#[derive(Debug, Serialize)]
struct Rejected {
    node: String,
    r#type: &'static str,
    message: String,
    lines: Vec<String>,
}

/// The state in short, for the control API.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) generation: u64,
    pub(super) problems: Vec<String>,
    pub(super) envoy_connected: bool,
    pub(super) envoy_converged: bool,
    pub(super) ready: bool,
    pub(super) keeps_envoy: bool,
    pub(super) rejected: Vec<RejectedUpdate>,
    pub(super) credentials: Vec<CredentialTrouble>,
    pub(super) shared_vaults: Vec<v1::SharedVaultState>,
    pub(super) started: SystemTime,
}

impl Status {
    pub(super) fn new(
        connections: Connections,
        envoy_pid: Option<Arc<AtomicI32>>,
        credentials: CredentialStates,
        shared: Arc<SharedVaults>,
    ) -> Self {
        let (config, applied) = (Mutex::default(), watch::Sender::new(None));
        Self { config, applied, connections, envoy_pid, credentials, shared, started: SystemTime::now() }
    }

    /// Notes that `loaded` is in force, as far as it has none of `problems`.
    pub(super) fn set_config(&self, loaded: &Arc<Loaded>, problems: Vec<Diagnostic>) {
        let generation = loaded.generation;
        let mut config = self.config();
        if config.generation != generation {
            config.history.push_back((generation, Instant::now()));
            if config.history.len() > KNOWN_GENERATIONS {
                config.history.pop_front();
            }
        }
        (config.generation, config.problems) = (generation, problems);
        drop(config);
        self.applied.send_replace(Some(Arc::clone(loaded)));
    }

    /// Follows what is put in force.
    pub(super) fn applied(&self) -> watch::Receiver<Option<Arc<Loaded>>> {
        self.applied.subscribe()
    }

    /// The generation in force, and what is wrong with the files.
    pub(super) fn in_force(&self) -> (u64, Vec<String>) {
        let config = self.config();
        (config.generation, config.problems.iter().map(ToString::to_string).collect())
    }

    /// Since when there is something newer than `generation`; for very old ones since later than it really was.
    pub(super) fn outdated_since(&self, generation: u64) -> Option<Instant> {
        self.config().history.iter().find(|(known, _)| *known > generation).map(|(_, since)| *since)
    }

    fn config(&self) -> MutexGuard<'_, ConfigStatus> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn summary(&self) -> Summary {
        let report = self.report();
        Summary {
            generation: report.generation,
            problems: report.config.problems.iter().map(ToString::to_string).collect(),
            envoy_connected: report.envoy.connected,
            envoy_converged: report.envoy.converged,
            ready: report.ready,
            keeps_envoy: self.envoy_pid.is_some(),
            rejected: report.envoy.rejected.into_iter().map(RejectedUpdate::from).collect(),
            credentials: report.credentials.problems.into_iter().map(CredentialTrouble::from).collect(),
            shared_vaults: report.shared_vaults.into_iter().map(v1::SharedVaultState::from).collect(),
            started: self.started,
        }
    }

    /// Whether the local Envoy serves this generation, or a later one.
    ///
    /// # Errors
    /// What Envoy says of resources that come from `file`, when it rejects any.
    pub(super) fn serves(&self, generation: u64, file: &Path) -> Result<bool, String> {
        let nodes = self.connections.nodes();
        let local = || nodes.iter().filter(|node| node.node_cluster == LOCAL_CLUSTER);
        for (_, rejection) in local().flat_map(NodeStatus::rejections) {
            if rejection.origins.iter().any(|origin| Path::new(&*origin.file) == file) {
                return Err(rejection.message.to_string());
            }
        }
        let mut local = local().peekable();
        Ok(local.peek().is_some() && local.all(|node| is_current(node, generation)))
    }

    pub(super) fn report(&self) -> Report {
        let config = self.config().clone();
        let nodes = self.connections.nodes();
        let local: Vec<&NodeStatus> = nodes.iter().filter(|node| node.node_cluster == LOCAL_CLUSTER).collect();
        let converged = !local.is_empty() && local.iter().all(|node| is_current(node, config.generation));
        let pid = self.envoy_pid.as_ref().map(|pid| pid.load(Ordering::Relaxed)).filter(|&pid| pid != 0);
        let credentials = self.credentials.problems();
        Report {
            // A server that keeps an Envoy is ready when that one is; others answer for the control plane alone. A broken
            // edit does not make it unready: the last good configuration goes on.
            ready: self.envoy_pid.is_none() || (converged && pid.is_some()),
            generation: config.generation,
            config: ConfigReport { ok: config.problems.is_empty(), problems: config.problems },
            // Nor does a credential that cannot be had: the requests that need it are refused, all others go on.
            credentials: CredentialsReport { ok: credentials.is_empty(), problems: credentials },
            envoy: EnvoyReport { connected: !local.is_empty(), converged, pid, rejected: rejected(&nodes) },
            shared_vaults: self.shared.report(),
        }
    }
}

impl From<Rejected> for RejectedUpdate {
    fn from(rejected: Rejected) -> Self {
        let Rejected { node, r#type, message, lines } = rejected;
        Self { node, r#type: r#type.to_owned(), message, lines }
    }
}

impl From<CredentialReport> for CredentialTrouble {
    fn from(report: CredentialReport) -> Self {
        let CredentialReport { credential, state, message } = report;
        Self { host: credential, state: state.to_owned(), message }
    }
}

/// Whether the node has everything, of this generation or a later one.
fn is_current(node: &NodeStatus, generation: u64) -> bool {
    let listens = node.of_type(ResourceType::Listener).subscribed;
    node.converged && node.generation >= generation && listens
}

fn rejected(nodes: &[NodeStatus]) -> Vec<Rejected> {
    let of_node = |node: &NodeStatus| {
        let rejections = node.rejections().map(|(ty, rejection)| Rejected {
            node: node.node_id.clone(),
            r#type: ty.label(),
            message: rejection.message.to_string(),
            lines: rejection.origins.iter().map(ToString::to_string).collect(),
        });
        rejections.collect::<Vec<_>>()
    };
    nodes.iter().flat_map(of_node).collect()
}
