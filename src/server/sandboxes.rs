//! The sandboxes of this server: what brings them up, keeps watch over them, and takes them down.
//!
//! ```text
//! adev ─ control.sock ─▶ control ─▶ Sandboxes ─┬─ launch:  network → policy → rules (read back) → container → start
//!                                              ├─ stop:    the other way round
//!                                              ├─ follow:  every change of the configuration, of the CA
//!                                              └─ keep:    Docker's events, the guard's alarms, what is left of a crash
//! ```
//!
//! Every sandbox has a [`Slot`]. Whoever changes what it is holds `busy`; everybody else only reads `phase`. What Docker
//! has is the truth: a server that starts takes up the sandboxes whose containers run, by their labels, and removes the
//! rest of what carries its id.

mod adopt;
mod changes;
mod follow;
mod guard;
mod inside;
mod known;
mod launch;
mod stop;
mod tokens;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use tokio::sync::{mpsc, oneshot, watch};

pub(super) use self::adopt::{Left, no_servings};
pub(super) use self::guard::Alarms;
use self::guard::Guard;
use self::inside::Inside;
pub(super) use self::inside::Trust;
use self::known::Known;
use self::tokens::Secrets;
pub(super) use self::tokens::TokenMint;
use super::activity::{Activity, Level};
use super::issuing::Issuing;
use super::status::Status;
use crate::config::{Diagnostics, Loaded, ProjectConfig, ProjectKind, SourceChange, SourceChangeKind};
use crate::control::v1;
use crate::domain::names::{Instance, SandboxId};
use crate::domain::policy::Serving;
use crate::sandbox::dns::Zone;
use crate::sandbox::docker::{Docker, DockerError};
use crate::sandbox::network::NetKey;
use crate::sandbox::spec::{SandboxLabels, ServerId};
use crate::shutdown::{Shutdown, Trigger};

/// Where each sandbox that runs is served: what makes its project a policy.
pub(super) type Servings = Arc<ArcSwap<HashMap<SandboxId, Serving>>>;

/// Where Docker is: the value of `DOCKER_HOST`.
#[derive(Debug, Clone, Default)]
pub(super) struct DockerHost(pub(super) Option<String>);

impl DockerHost {
    pub(super) async fn connect(&self) -> Result<Docker, DockerError> {
        Docker::connect(self.0.as_deref()).await
    }
}

/// What the sandboxes need of the rest of the server.
pub(super) struct Parts {
    pub(super) server: ServerId,
    pub(super) docker_host: DockerHost,
    pub(super) runtime_dir: PathBuf,
    pub(super) state_dir: PathBuf,
    /// What no workspace may hold: the vault's file.
    pub(super) private: Vec<PathBuf>,
    /// Where the helpers for the inside are; why there are none.
    pub(super) helpers: Result<PathBuf, String>,
    pub(super) activity: Arc<Activity>,
    pub(super) metrics: SandboxMetrics,
    pub(super) servings: Servings,
    pub(super) changes: mpsc::Sender<SourceChange>,
    pub(super) loaded: watch::Receiver<Arc<Loaded>>,
    pub(super) trust: watch::Receiver<Arc<Trust>>,
    pub(super) status: Arc<Status>,
    pub(super) mint: TokenMint,
    pub(super) issuing: Issuing,
    pub(super) strict: bool,
}

/// The sandboxes of a server. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sandboxes(Arc<Shared>);

struct Shared {
    parts: Parts,
    guard: Guard,
    known_file: PathBuf,
    slots: Mutex<BTreeMap<SandboxId, Arc<Slot>>>,
    /// Held while bridges are removed that are of no sandbox. A launch, once it is `busy`, waits for it before it makes one.
    sweep: tokio::sync::Mutex<()>,
}

/// One sandbox, running or not.
struct Slot {
    id: SandboxId,
    /// Held by whoever starts, stops or repairs it.
    busy: tokio::sync::Mutex<()>,
    phase: Mutex<Phase>,
    known: Mutex<Known>,
}

/// What a sandbox is at the moment.
#[derive(Clone)]
enum Phase {
    Stopped,
    Starting,
    Running(Arc<Running>),
}

/// A sandbox that runs.
struct Running {
    labels: SandboxLabels,
    /// The container's id.
    container: String,
    runtime: String,
    image: String,
    /// The key of its rules.
    key: NetKey,
    serving: Serving,
    inside: Inside,
    zone: watch::Sender<Arc<Zone>>,
    /// Fired when its life ends: stops its DNS responder, and closes its callback ports.
    dns: Trigger,
    secrets: Secrets,
    started: i64,
    live: Mutex<Live>,
}

/// What changes while it runs.
#[derive(Default)]
struct Live {
    /// Why it is paused: its rules are not whole.
    broken: Option<String>,
    /// The project in force.
    project: Option<Arc<ProjectConfig>>,
    problems: Vec<String>,
    restart_needed: Vec<String>,
}

/// One life of a sandbox that runs.
#[derive(Debug)]
pub(super) struct Life {
    /// The container's id.
    pub(super) container: String,
    /// "uid:gid"
    pub(super) user: String,
    /// Fired when it ends.
    pub(super) ends: Shutdown,
}

/// What `/metrics` tells of sandboxes.
#[derive(Debug, Clone)]
pub(super) struct SandboxMetrics {
    /// By state.
    pub(super) sandboxes: IntGaugeVec,
    /// Launches and stops by result.
    pub(super) operations: IntCounterVec,
    /// Names looked up, by whether they are allowed.
    pub(super) dns_queries: IntCounterVec,
    /// Rules that were found missing, and what became of it.
    pub(super) isolation: IntCounterVec,
}

impl SandboxMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            sandboxes: IntGaugeVec::new(Opts::new("agent_creds_sandboxes", "Sandboxes by state."), &["state"])?,
            operations: counter(
                "agent_creds_sandbox_operations_total",
                "Launches and stops of sandboxes, by result.",
                &["operation", "result"],
            )?,
            dns_queries: counter(
                "agent_creds_sandbox_dns_queries_total",
                "Names that sandboxes looked up, by whether they are allowed.",
                &["verdict"],
            )?,
            isolation: counter(
                "agent_creds_sandbox_isolation_total",
                "Network rules of sandboxes that were found missing (lost), were put in force again (repaired) or could not be \
                 (failed).",
                &["event"],
            )?,
        };
        registry.register(Box::new(metrics.sandboxes.clone()))?;
        registry.register(Box::new(metrics.operations.clone()))?;
        registry.register(Box::new(metrics.dns_queries.clone()))?;
        registry.register(Box::new(metrics.isolation.clone()))?;
        for state in ["running", "partial", "stopped", "starting"] {
            metrics.sandboxes.with_label_values(&[state]);
        }
        for verdict in ["allowed", "refused"] {
            metrics.dns_queries.with_label_values(&[verdict]);
        }
        for event in ["lost", "repaired", "failed"] {
            metrics.isolation.with_label_values(&[event]);
        }
        Ok(metrics)
    }
}

impl Sandboxes {
    /// All sandboxes, by name.
    pub(super) fn list(&self) -> Vec<v1::Sandbox> {
        let slots: Vec<_> = lock(&self.0.slots).values().cloned().collect();
        slots.iter().map(|slot| self.describe(slot)).collect()
    }

    /// What the processes of a running sandbox are started with.
    pub(super) async fn environment(&self, name: &str) -> Result<v1::GetEnvironmentResponse, String> {
        let running = self.find(name).and_then(|slot| slot.running());
        let running =
            running.ok_or_else(|| format!("the sandbox `{name}` does not run; `adev console {name}` starts it"))?;
        if let Some(broken) = &lock(&running.live).broken {
            return Err(format!("the sandbox `{name}` is paused: {broken}"));
        }
        let Some(project) = self.project(&running.labels.name) else {
            return Err(format!("the sandbox `{name}` has no configuration; stop it and start it again"));
        };
        let ProjectKind::Sandbox(config) = &project.kind else {
            return Err(format!("the configuration of `{name}` is a gateway's"));
        };
        let labels = &running.labels;
        let vault = project.vault.as_ref().map(|vault| &vault.address);
        let (environment, minted) =
            running.secrets.environment(config, &labels.name, &running.serving.instance, vault, &self.0.parts.mint)?;
        if !minted.is_empty() {
            let recorded = self.0.parts.issuing.record(minted.clone()).await;
            recorded.map_err(|error| format!("the tokens of `{name}` cannot be written down: {error}"))?;
            running.secrets.recorded(&minted);
        }
        Ok(v1::GetEnvironmentResponse {
            container: running.container.clone(),
            user: format!("{}:{}", labels.uid, labels.gid),
            environment: environment.into_iter().map(|(name, value)| (name, value.to_string())).collect(),
        })
    }

    /// Takes over the file of a sandbox as it is now, though the agent may have written it; what is in force of it then.
    pub(super) async fn accept(&self, name: &str) -> Result<(), String> {
        let typed = SandboxId::from_typed(name);
        let slot = self.find(name).or_else(|| self.find(typed.as_str()));
        let slot = slot.ok_or_else(|| format!("there is no sandbox `{name}`; `adev list` shows those there are"))?;
        let _busy = slot.busy.lock().await;
        if slot.running().is_some() {
            let accepted = self.change_sources(SourceChangeKind::Accept(slot.id.clone())).await;
            accepted.map_err(|error| error.to_string())?;
        }
        lock(&slot.known).unconfirmed = false;
        self.0.parts.activity.notice(Some(&slot.id), Level::Info, "its file was accepted as it is now");
        self.remember().await;
        Ok(())
    }

    /// Why no sandbox can be launched; empty when one can.
    pub(super) async fn unavailable(&self) -> String {
        if let Err(missing) = &self.0.parts.helpers {
            return missing.clone();
        }
        self.docker().await.err().map(|error| docker_fault(&error)).unwrap_or_default()
    }

    /// This life of a sandbox, if it still is.
    pub(super) fn life(&self, id: &SandboxId, instance: &Instance) -> Option<Life> {
        let running = self.find(id.as_str())?.running().filter(|running| running.serving.instance == *instance)?;
        let user = format!("{}:{}", running.labels.uid, running.labels.gid);
        Some(Life { container: running.container.clone(), user, ends: running.dns.subscribe() })
    }

    fn describe(&self, slot: &Slot) -> v1::Sandbox {
        let parts = &self.0.parts;
        let known = lock(&slot.known).clone();
        let (requests, refused) = parts.activity.counts(&slot.id);
        let mut sandbox = v1::Sandbox {
            name: slot.id.to_string(),
            config_path: known.config.display().to_string(),
            workspace: known.workspace.display().to_string(),
            requests,
            refused,
            ..v1::Sandbox::default()
        };
        match slot.phase() {
            Phase::Stopped => sandbox.set_state(v1::State::Stopped),
            Phase::Starting => sandbox.set_state(v1::State::Starting),
            Phase::Running(running) => {
                let live = lock(&running.live);
                match &live.broken {
                    Some(broken) => {
                        sandbox.set_state(v1::State::Partial);
                        sandbox.detail.clone_from(broken);
                    }
                    None => sandbox.set_state(v1::State::Running),
                }
                sandbox.runtime.clone_from(&running.runtime);
                sandbox.image.clone_from(&running.image);
                sandbox.container.clone_from(&running.container);
                sandbox.started = running.started;
                sandbox.problems.clone_from(&live.problems);
                sandbox.restart_needed.clone_from(&live.restart_needed);
                let upstreams = live.project.iter().flat_map(|project| project.upstreams.keys());
                sandbox.upstreams = upstreams.map(ToString::to_string).collect();
            }
        }
        sandbox
    }

    /// Connects anew each time: Docker may have been restarted, and it takes a millisecond.
    async fn docker(&self) -> Result<Docker, DockerError> {
        self.0.parts.docker_host.connect().await
    }

    fn find(&self, name: &str) -> Option<Arc<Slot>> {
        lock(&self.0.slots).get(name).cloned()
    }

    fn slots(&self) -> Vec<Arc<Slot>> {
        lock(&self.0.slots).values().cloned().collect()
    }

    /// The slot of this name, made if need be.
    fn slot(&self, id: &SandboxId, known: impl FnOnce() -> Known) -> Arc<Slot> {
        let mut slots = lock(&self.0.slots);
        let slot = slots.entry(id.clone()).or_insert_with(|| {
            Arc::new(Slot {
                id: id.clone(),
                busy: tokio::sync::Mutex::new(()),
                phase: Mutex::new(Phase::Stopped),
                known: Mutex::new(known()),
            })
        });
        Arc::clone(slot)
    }

    /// The project in force of a sandbox that runs.
    fn project(&self, id: &SandboxId) -> Option<Arc<ProjectConfig>> {
        self.0.parts.loaded.borrow().projects.iter().find(|project| project.id == *id).cloned()
    }

    /// Has the configuration watch make a change, and waits until it is in force.
    async fn change_sources(&self, kind: SourceChangeKind) -> Result<Arc<Loaded>, SourceError> {
        let (reply, replied) = oneshot::channel();
        let change = SourceChange { kind, reply };
        self.0.parts.changes.send(change).await.map_err(|_| SourceError::Stopping)?;
        Ok(replied.await.map_err(|_| SourceError::Stopping)??)
    }

    fn set_phase(&self, slot: &Slot, phase: Phase) {
        *lock(&slot.phase) = phase;
        self.count_states();
    }

    fn count_states(&self) {
        let mut counts = BTreeMap::from([("running", 0), ("partial", 0), ("stopped", 0), ("starting", 0)]);
        for slot in self.slots() {
            let state = match slot.phase() {
                Phase::Stopped => "stopped",
                Phase::Starting => "starting",
                Phase::Running(running) if lock(&running.live).broken.is_some() => "partial",
                Phase::Running(_) => "running",
            };
            *counts.entry(state).or_default() += 1;
        }
        for (state, count) in counts {
            self.0.parts.metrics.sandboxes.with_label_values(&[state]).set(count);
        }
    }

    /// Writes down which sandboxes there are.
    async fn remember(&self) {
        let all: BTreeMap<_, _> =
            self.slots().iter().map(|slot| (slot.id.clone(), lock(&slot.known).clone())).collect();
        let file = self.0.known_file.clone();
        match tokio::task::spawn_blocking(move || known::write(&file, &all)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let text = format!("cannot write {}: {error}", self.0.known_file.display());
                self.0.parts.activity.notice(None, Level::Warning, text);
            }
            Err(error) => tracing::error!(%error, "writing down the sandboxes failed"),
        }
    }
}

/// Why the configuration does not take a sandbox's file.
#[derive(Debug, thiserror::Error)]
enum SourceError {
    #[error(transparent)]
    Config(#[from] Diagnostics),
    #[error("the server is stopping")]
    Stopping,
}

impl Slot {
    fn phase(&self) -> Phase {
        lock(&self.phase).clone()
    }

    fn running(&self) -> Option<Arc<Running>> {
        match self.phase() {
            Phase::Running(running) => Some(running),
            Phase::Stopped | Phase::Starting => None,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// Docker's own word, and nothing else: it says what to do next.
fn docker_fault(error: &DockerError) -> String {
    error.to_string()
}
