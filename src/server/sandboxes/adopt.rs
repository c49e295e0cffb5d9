//! What is left of an earlier server, of a crash, of Docker's restart or of the machine's: taken up when it runs, removed when
//! it does not. Docker's labels say what is ours; nothing else is touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::timeout;

use super::guard::Guard;
use super::inside::Inside;
use super::known::{self, Known};
use super::launch::{DNS_PORT, zone_of};
use super::tokens::Secrets;
use super::{DockerHost, Live, Parts, Phase, Running, Sandboxes, Servings, Shared, docker_fault, lock, unix_now};
use crate::config::{Loader, SandboxFile, SourceChangeKind};
use crate::domain::names::SandboxId;
use crate::domain::policy::Serving;
use crate::sandbox::dns::Responder;
use crate::sandbox::docker::{ContainerState, Docker, EventKind, Found, FoundContainer, FoundNetwork};
use crate::sandbox::network::{Isolation, NetKey, ServerPrefix};
use crate::sandbox::spec::body::GuardSpec;
use crate::sandbox::spec::{Role, SandboxLabels, ServerId};
use crate::server::activity::Level;
use crate::shutdown::Shutdown;

/// How long Docker may take to say what it has, when the server starts.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often Docker is asked for what it has, besides its events; and how long it is left alone when it does not answer.
const LOOK: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(2);

/// A sandbox whose container runs, as Docker tells.
#[derive(Debug, Clone)]
struct Alive {
    labels: SandboxLabels,
    container: FoundContainer,
    network: FoundNetwork,
    /// Its gateway, subnet, and where it is served.
    isolation: Isolation,
    listen: SocketAddr,
}

/// What Docker has of this server when it starts.
#[derive(Debug, Default)]
pub(in crate::server) struct Left {
    alive: Vec<Alive>,
}

impl Left {
    /// Asks Docker. Without Docker there are no sandboxes.
    pub(in crate::server) async fn find(docker_host: &DockerHost, server: &ServerId) -> Self {
        let found = timeout(DEADLINE, async { docker_host.connect().await?.find(server).await }).await;
        match found {
            Ok(Ok(found)) => Self { alive: alive(server, &found) },
            Ok(Err(error)) => {
                tracing::debug!(%error, "no Docker: no sandboxes");
                Self::default()
            }
            Err(_) => {
                tracing::warn!("Docker does not say within {DEADLINE:?} which sandboxes run; it is asked again");
                Self::default()
            }
        }
    }

    /// Takes their files and addresses into the configuration, before anything is served: so Envoy keeps their listeners.
    pub(in crate::server) fn configure(&self, loader: &mut Loader, servings: &Servings) {
        for alive in &self.alive {
            if let Err(error) = loader.adopt_sandbox(file_of(&alive.labels)) {
                tracing::error!(sandbox = alive.labels.name.as_str(), "cannot be taken up: {error}");
                continue;
            }
            let serving = alive.serving();
            servings.rcu(|servings| {
                let mut servings = HashMap::clone(servings);
                servings.insert(alive.labels.name.clone(), serving.clone());
                servings
            });
        }
    }
}

impl Alive {
    fn serving(&self) -> Serving {
        Serving { listen: self.listen, instance: self.labels.instance.clone() }
    }
}

/// The file of a sandbox that runs: only what was mounted when it started is out of the agent's reach.
fn file_of(labels: &SandboxLabels) -> SandboxFile {
    SandboxFile {
        id: labels.name.clone(),
        path: labels.config.clone(),
        workspace: labels.workspace.clone(),
        mounted: Some(labels.files.clone()),
    }
}

/// The bridges on this host that have a name as ours have.
fn bridges() -> BTreeSet<NetKey> {
    let interfaces = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let names = interfaces.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.strip_prefix("ac")?.parse().ok()).collect()
}

/// The sandboxes whose container runs in its own network.
fn alive(server: &ServerId, found: &Found) -> Vec<Alive> {
    let networks: BTreeMap<&SandboxId, &FoundNetwork> =
        found.networks.iter().filter_map(|network| Some((&network.labels.sandbox()?.name, network))).collect();
    let runs =
        |container: &&FoundContainer| matches!(container.state, ContainerState::Running | ContainerState::Paused);
    found
        .containers
        .iter()
        .filter(runs)
        .filter_map(|container| {
            let labels = container.labels.sandbox()?.clone();
            let network = (*networks.get(&labels.name)?).clone();
            let key = NetKey::new(server.as_str(), labels.name.as_str()).ok()?;
            let ports = labels.ports?;
            let isolation =
                Isolation::new(key, network.info.gateway, network.info.subnet, ports.listener, ports.dns).ok()?;
            let listen = SocketAddr::from((network.info.gateway, ports.listener));
            Some(Alive { labels, container: container.clone(), network, isolation, listen })
        })
        .collect()
}

impl Sandboxes {
    /// The sandboxes of a server that starts. Nothing is removed and no rule is touched before [`Sandboxes::keep`].
    pub(in crate::server) fn new(
        parts: Parts,
        guard: GuardSpec,
        prefix: ServerPrefix,
        left: &Left,
    ) -> (Self, super::guard::Alarms) {
        let known_file = parts.state_dir.join("sandboxes.json");
        let running = left.alive.iter().map(|alive| alive.isolation.clone()).collect();
        let (guard, alarms) = Guard::start(guard, prefix, parts.docker_host.clone(), running);
        let slots = Mutex::default();
        let this = Self(Arc::new(Shared { guard, slots, parts, known_file, sweep: tokio::sync::Mutex::default() }));
        for (id, known) in known::read(&this.0.known_file) {
            this.slot(&id, || known);
        }
        this.count_states();
        (this, alarms)
    }

    /// Takes up the sandboxes that ran when the server started. Nobody may launch or stop any before that.
    pub(in crate::server) async fn take_up_left(&self, left: Left) {
        for alive in left.alive {
            self.take_up(alive, false).await;
        }
    }

    /// Keeps the sandboxes until `stop`: takes up what runs, removes what does not, and follows Docker's events.
    pub(in crate::server) async fn keep(self, stop: Shutdown) {
        let stopped = stop.wait();
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                () = &mut stopped => return,
                () = self.keep_with_docker() => {}
            }
            tokio::select! {
                () = &mut stopped => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// Returns when Docker does not answer (any more).
    async fn keep_with_docker(&self) {
        let Ok(docker) = self.docker().await else { return };
        // Subscribed first, so that nothing that ends while we look is missed.
        let Ok(mut events) = docker.events(&self.0.parts.server).await else { return };
        loop {
            if !self.reconcile(&docker).await {
                return;
            }
            let look = tokio::time::sleep(LOOK);
            tokio::pin!(look);
            loop {
                tokio::select! {
                    () = &mut look => break,
                    event = events.next() => match event {
                        Some(Ok(event)) if matches!(event.kind, EventKind::Died { .. } | EventKind::Removed) => {
                            let sandbox = event.sandbox().map(ToString::to_string).unwrap_or_default();
                            self.container_ended(&sandbox, &event.id).await;
                        }
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return,
                    }
                }
            }
        }
    }

    /// Brings what we think there is and what Docker has together; whether Docker answered.
    async fn reconcile(&self, docker: &Docker) -> bool {
        // Before Docker is asked: of what starts or stops meanwhile, its answer may be older than what we know.
        let before: Vec<_> = self.slots().into_iter().filter(|slot| !self.is_idle(&slot.id)).collect();
        let running: Vec<_> = before.iter().filter_map(|slot| Some((Arc::clone(slot), slot.running()?))).collect();
        let found = match docker.find(&self.0.parts.server).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "Docker does not say what it has");
                return false;
            }
        };
        let alive = alive(&self.0.parts.server, &found);
        for (slot, running) in running {
            if !alive.iter().any(|alive| alive.container.id == running.container) {
                self.container_ended(slot.id.as_str(), &running.container).await;
            }
        }
        for alive in &alive {
            if before.iter().all(|slot| slot.id != alive.labels.name) && self.is_idle(&alive.labels.name) {
                self.take_up(alive.clone(), true).await;
            }
        }
        self.remove_remains(docker, &found, &alive).await;
        true
    }

    /// Whether nothing runs under this name, and nobody is busy with it.
    fn is_idle(&self, id: &SandboxId) -> bool {
        self.find(id.as_str()).is_none_or(|slot| slot.busy.try_lock().is_ok() && slot.running().is_none())
    }

    /// Containers and networks that carry our id, and are of no sandbox that runs or is being launched.
    async fn remove_remains(&self, docker: &Docker, found: &Found, alive: &[Alive]) {
        let mut removed = Vec::new();
        let mut networks: BTreeMap<&str, &SandboxId> = found
            .networks
            .iter()
            .filter_map(|network| Some((network.info.id.as_str(), &network.labels.sandbox()?.name)))
            .collect();
        for container in &found.containers {
            let Some(labels) = container.labels.sandbox() else { continue };
            if alive.iter().any(|alive| alive.container.id == container.id) || !self.is_idle(&labels.name) {
                continue;
            }
            match docker.kill_and_remove(&container.id).await {
                Ok(()) => removed.push(format!("the container {}", container.name)),
                Err(error) => tracing::warn!("{}", docker_fault(&error)),
            }
        }
        for network in &found.networks {
            let Some(labels) = network.labels.sandbox() else { continue };
            if alive.iter().any(|alive| alive.network.info.id == network.info.id) || !self.is_idle(&labels.name) {
                continue;
            }
            match docker.remove_network(&network.info.id).await {
                Ok(()) => {
                    removed.push(format!("the network {}", network.name));
                    networks.remove(network.info.id.as_str());
                }
                Err(error) => tracing::warn!("{}", docker_fault(&error)),
            }
        }
        removed.extend(self.remove_bridges(networks.into_values()).await);
        removed.extend(self.remove_folders().await);
        if !removed.is_empty() {
            let text = format!("removed what was left: {}", removed.join(", "));
            self.0.parts.activity.notice(None, Level::Warning, text);
        }
        // Rules that a dead server left go when a guard is told what to hold, and it ends when that is nothing.
        let guarded = found.containers.iter().any(|container| container.labels.role == Role::Guard);
        if alive.is_empty()
            && (guarded || !removed.is_empty())
            && let Err(error) = self.0.guard.hold(Vec::new()).await
        {
            tracing::warn!("the network rules that were left cannot be removed: {error}");
        }
    }

    fn key(&self, id: &SandboxId) -> Option<NetKey> {
        NetKey::new(self.0.parts.server.as_str(), id.as_str()).ok()
    }

    /// Removes the bridges of this server that are of none of these sandboxes, nor of one that runs, is launched or is stopped:
    /// what Docker leaves of a request that was cut short.
    async fn remove_bridges(&self, have_networks: impl Iterator<Item = &SandboxId>) -> Vec<String> {
        let mut known: BTreeSet<SandboxId> = have_networks.cloned().collect();
        let _sweep = self.0.sweep.lock().await;
        known.extend(self.slots().iter().map(|slot| slot.id.clone()).filter(|id| !self.is_idle(id)));
        let known: BTreeSet<NetKey> = known.iter().filter_map(|id| self.key(id)).collect();
        let mut removed = Vec::new();
        for key in bridges().into_iter().filter(|key| self.0.parts.server.as_str().starts_with(key.server())) {
            if known.contains(&key) {
                continue;
            }
            match self.0.guard.release(key.clone()).await {
                Ok(()) => removed.push(format!("the bridge {}", key.bridge())),
                Err(error) => tracing::warn!("the bridge {} cannot be removed: {error}", key.bridge()),
            }
        }
        removed
    }

    /// The folders of sandboxes that neither run nor are being launched.
    async fn remove_folders(&self) -> Vec<String> {
        let sandboxes = self.0.parts.runtime_dir.join("sandboxes");
        let mut removed = Vec::new();
        let Ok(mut entries) = tokio::fs::read_dir(&sandboxes).await else { return removed };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let id = entry.file_name().to_str().and_then(|name| name.parse::<SandboxId>().ok());
            let Some(id) = id.filter(|id| self.is_idle(id)) else { continue };
            match tokio::fs::remove_dir_all(entry.path()).await {
                Ok(()) => removed.push(format!("the folder of {id}")),
                Err(error) => tracing::warn!("cannot remove {}: {error}", entry.path().display()),
            }
        }
        removed
    }

    /// A container ended that nobody stopped: all else of its sandbox goes, too.
    async fn container_ended(&self, sandbox: &str, container: &str) {
        let Some(slot) = self.find(sandbox) else { return };
        if slot.running().is_some_and(|running| running.container == container) {
            self.stop_slot(&slot, "its container ended, so the sandbox was taken down").await;
        }
    }

    /// Takes up a sandbox that runs; `configure` when the configuration does not know it yet.
    async fn take_up(&self, alive: Alive, configure: bool) {
        let id = alive.labels.name.clone();
        let (config, workspace) = (alive.labels.config.clone(), alive.labels.workspace.clone());
        let known = Known {
            config,
            workspace,
            launched: alive.container.started.map_or_else(unix_now, |at| at.unix_timestamp()),
            unconfirmed: false,
        };
        let slot = self.slot(&id, || known.clone());
        {
            let _busy = slot.busy.lock().await;
            self.0.parts.activity.register(&id);
            {
                let mut there = lock(&slot.known);
                *there = Known { unconfirmed: there.unconfirmed, ..known };
            }
            if configure {
                let kind = SourceChangeKind::Adopt(file_of(&alive.labels));
                if let Err(error) = self.change_sources(kind).await {
                    self.0.parts.activity.notice(Some(&id), Level::Error, format!("cannot be taken up: {error}"));
                    return;
                }
                self.serve(&id, &alive.serving());
            }
            let gateway = alive.network.info.gateway;
            let project = self.project(&id);
            let (zone, zone_rx) = watch::channel(Arc::new(zone_of(gateway, project.as_deref())));
            // The port is the one that its rules have: the server before this one has left it.
            let dns_port = alive.labels.ports.map_or(DNS_PORT, |ports| ports.dns);
            let responder = match Responder::bind(SocketAddr::from((gateway, dns_port))) {
                Ok(responder) => responder,
                Err(error) => {
                    let text = format!("cannot be taken up: cannot answer DNS on {gateway}:{dns_port}: {error}");
                    self.0.parts.activity.notice(Some(&id), Level::Error, text);
                    return;
                }
            };
            let dns = self.answer_dns(&id, responder, zone_rx);
            let inside = Inside::of(&self.0.parts.runtime_dir, &id);
            let running = Running {
                runtime: alive.container.runtime.clone(),
                image: alive.container.image.clone(),
                container: alive.container.id.clone(),
                key: alive.isolation.key().clone(),
                serving: alive.serving(),
                inside,
                zone,
                dns,
                secrets: Secrets::default(),
                started: alive.container.started.map_or_else(unix_now, |at| at.unix_timestamp()),
                live: Mutex::new(Live::default()),
                labels: alive.labels,
            };
            self.set_phase(&slot, Phase::Running(Arc::new(running)));
            self.0.parts.activity.notice(Some(&id), Level::Info, "taken up: it was running already");
            if let Err(error) = self.0.guard.hold(vec![alive.isolation]).await {
                self.isolation_lost(&slot, &error).await;
            } else if matches!(alive.container.state, ContainerState::Paused) {
                // An earlier server paused it while its rules were not whole.
                self.isolation_repaired(&slot).await;
            }
        }
        self.refresh_inside(&slot).await;
        self.follow_config(&slot).await;
    }
}

/// An empty map of addresses.
pub(in crate::server) fn no_servings() -> Servings {
    Arc::new(ArcSwap::from_pointee(HashMap::new()))
}
