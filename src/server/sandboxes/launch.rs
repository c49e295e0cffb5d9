//! Bringing a sandbox up. Its first process starts when its rules are in force and were read back, and Envoy and the DNS
//! responder serve it; whatever fails on the way, all that was made before is removed.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::changes::runtime_name;
use super::inside::{Inside, PolicyView};
use super::known::Known;
use super::stop::Made;
use super::tokens::{self, HOME, Secrets};
use super::{Live, Phase, Running, Sandboxes, Slot, SourceError, docker_fault, lock, unix_now};
use crate::config::{
    self, Diagnostics, FileId, Loaded, ProjectConfig, ProjectKind, Runtime, SandboxConfig, SandboxFile,
    SourceChangeKind, file_id,
};
use crate::control::v1::launch_event::Event as Step;
use crate::control::v1::{self, DnsQuery, LaunchEvent, LaunchRequest};
use crate::domain::names::{HostPattern, Instance, SandboxId};
use crate::domain::opening::BROWSERS;
use crate::domain::policy::Serving;
use crate::sandbox::dns::{Query, Responder, Zone};
use crate::sandbox::docker::{Content, Docker, DockerError, InsideFile, NetworkInfo};
use crate::sandbox::network::{Isolation, NetKey};
use crate::sandbox::spec::body::{self, HELPERS, INSIDE, NetworkSpec, SandboxSpec};
use crate::sandbox::spec::{self, Ports, SandboxLabels};
use crate::shutdown;

/// Where a sandbox's listener and DNS responder are, when those ports are free.
const LISTENER_PORT: u16 = 15001;
pub(super) const DNS_PORT: u16 = 15053;
/// How many ports after these are tried.
const PORTS: u16 = 40;
/// How long Envoy may take to serve a new sandbox.
const ENVOY_DEADLINE: Duration = Duration::from_secs(20);
/// A file of the image that is looked into before the start is never bigger.
const MAX_IMAGE_FILE: usize = 1 << 20;

/// Why a sandbox does not come up. Says what was wrong, where, and what to do next.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum LaunchError {
    #[error("{0}")]
    Config(#[from] Diagnostics),
    #[error("{}", docker_fault(.0))]
    Docker(#[from] DockerError),
    #[error("{0}")]
    Spec(#[from] spec::SpecError),
    #[error("{0}")]
    Other(String),
}

impl From<SourceError> for LaunchError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Config(diagnostics) => Self::Config(diagnostics),
            SourceError::Stopping => Self::Other("the server is stopping: try again".to_owned()),
        }
    }
}

fn other(text: impl Into<String>) -> LaunchError {
    LaunchError::Other(text.into())
}

/// Who is told how far a launch is. Whether anybody listens makes no difference to it.
#[derive(Clone)]
struct Progress(mpsc::UnboundedSender<LaunchEvent>);

impl Progress {
    fn say(&self, step: Step) {
        let _ = self.0.send(LaunchEvent { event: Some(step) });
    }

    fn step(&self, text: &str) {
        self.say(Step::Step(text.to_owned()));
    }

    fn warn(&self, text: impl Into<String>) {
        self.say(Step::Warning(text.into()));
    }
}

/// What is asked for, checked as far as it can be without Docker.
struct Wanted {
    id: SandboxId,
    project: Arc<ProjectConfig>,
    config: PathBuf,
    workspace: PathBuf,
    uid: u32,
    gid: u32,
}

impl Sandboxes {
    /// Brings a sandbox up, or finds that it is. The task goes on when the receiver is dropped.
    pub(in crate::server) fn launch(&self, request: LaunchRequest) -> mpsc::UnboundedReceiver<LaunchEvent> {
        let (tx, rx) = mpsc::unbounded_channel();
        let this = self.clone();
        tokio::spawn(async move {
            let progress = Progress(tx);
            let outcome = this.launch_now(request, &progress).await;
            let result = if outcome.is_ok() { "ok" } else { "failed" };
            this.0.parts.metrics.operations.with_label_values(&["launch", result]).inc();
            progress.say(match outcome {
                Ok(sandbox) => Step::Ready(sandbox),
                Err(error) => Step::Failed(v1::Failure { message: error.to_string() }),
            });
        });
        rx
    }

    async fn launch_now(&self, request: LaunchRequest, progress: &Progress) -> Result<v1::Sandbox, LaunchError> {
        // To enter what runs takes no file that can be read: of a broken one, the last good version is in force.
        if let Some(slot) = self.find(&request.name) {
            let _busy = slot.busy.lock().await;
            if let Some(running) = slot.running().filter(|it| it.labels.config == Path::new(&request.config_path)) {
                return Ok(self.enter(&slot, &running, request.host_environment, progress));
            }
        }
        let wanted = self.wanted(&request).await?;
        let known = || Known {
            config: wanted.config.clone(),
            workspace: wanted.workspace.clone(),
            launched: unix_now(),
            unconfirmed: false,
        };
        let slot = self.slot(&wanted.id, known);
        let busy = slot.busy.lock().await;
        let host = request.host_environment;
        if let Some(running) = slot.running() {
            if running.labels.config != wanted.config {
                let theirs = running.labels.config.display();
                return Err(other(format!(
                    "the name `{}` is taken by the sandbox of {theirs}; give this one another: [sandbox] name in {}, or \
                     adev console NAME",
                    wanted.id,
                    wanted.config.display()
                )));
            }
            return Ok(self.enter(&slot, &running, host, progress));
        }
        {
            let mut there = lock(&slot.known);
            if there.unconfirmed && there.config == wanted.config {
                return Err(other(format!(
                    "{} was replaced while an earlier sandbox could write it, and asks for more than was in force then: look at \
                     it, then run `adev accept {}`",
                    wanted.config.display(),
                    wanted.id
                )));
            }
            *there = known();
        }
        self.set_phase(&slot, Phase::Starting);
        self.0.parts.activity.register(&slot.id);
        let mut made = Made::default();
        let brought_up = self.bring_up(&slot, &wanted, progress, &mut made).await;
        match brought_up {
            Ok(running) => {
                running.secrets.set_host(host);
                self.set_phase(&slot, Phase::Running(Arc::new(running)));
                drop(busy);
                // What was edited meanwhile, and whatever else follows from the configuration.
                self.follow_config(&slot).await;
                self.remember().await;
                Ok(self.describe(&slot))
            }
            Err(error) => {
                progress.step("removing what was made");
                for problem in self.unmake(&slot.id, made).await {
                    progress.warn(problem);
                }
                self.set_phase(&slot, Phase::Stopped);
                Err(error)
            }
        }
    }

    /// Of a sandbox that runs: takes what the host's variables hold now.
    fn enter(&self, slot: &Slot, running: &Running, host: HashMap<String, String>, progress: &Progress) -> v1::Sandbox {
        running.secrets.set_host(host);
        if let Some(broken) = &lock(&running.live).broken {
            progress.warn(format!("the sandbox is paused: {broken}"));
        }
        self.describe(slot)
    }

    async fn wanted(&self, request: &LaunchRequest) -> Result<Wanted, LaunchError> {
        let config = PathBuf::from(&request.config_path);
        let workspace = PathBuf::from(&request.workspace);
        let parts = &self.0.parts;
        let mut forbidden = vec![parts.runtime_dir.clone(), parts.state_dir.clone()];
        forbidden.extend(parts.private.iter().cloned());
        let file = config.clone();
        let read = tokio::task::spawn_blocking(move || {
            let workspace = workspace.canonicalize().map_err(|error| {
                other(format!("the project folder {} cannot be used: {error}", workspace.display()))
            })?;
            forbidden.iter_mut().for_each(|path| *path = path.canonicalize().unwrap_or_else(|_| path.clone()));
            spec::check_workspace(&workspace, &forbidden)?;
            Ok::<_, LaunchError>((workspace, config::read_sandbox(&file)?))
        });
        let (workspace, project) = read.await.map_err(|error| other(error.to_string()))??;
        let id = if request.name.is_empty() { project.id.clone() } else { SandboxId::from_typed(&request.name) };
        Ok(Wanted { id, project, config, workspace, uid: request.uid, gid: request.gid })
    }

    async fn bring_up(
        &self,
        slot: &Slot,
        wanted: &Wanted,
        progress: &Progress,
        made: &mut Made,
    ) -> Result<Running, LaunchError> {
        let parts = &self.0.parts;
        let ProjectKind::Sandbox(sandbox) = &wanted.project.kind else {
            return Err(other("this is a gateway's file, which no sandbox can be made of"));
        };
        let helpers = parts.helpers.clone().map_err(other)?;
        let runtime = match sandbox.runtime {
            Runtime::Runsc => body::Runtime::Runsc,
            Runtime::Runc => body::Runtime::Runc,
        };
        progress.step("asking Docker");
        let docker = self.docker().await?;
        docker.check_runtime(runtime).await?;
        let image_path = docker.image_path(sandbox.image.as_str()).await?;

        let instance = Instance::from_random(random()?);
        let key = NetKey::new(parts.server.as_str(), slot.id.as_str()).map_err(|error| other(error.to_string()))?;
        let labels = SandboxLabels {
            name: slot.id.clone(),
            config: wanted.config.clone(),
            workspace: wanted.workspace.clone(),
            uid: wanted.uid,
            gid: wanted.gid,
            instance: instance.clone(),
            ports: None,
            files: BTreeSet::new(),
        };

        progress.step("making the network");
        drop(self.0.sweep.lock().await);
        // Docker would take a bridge that is there for somebody else's, and leave it when the network goes.
        if Path::new("/sys/class/net").join(key.bridge()).exists() {
            let released = self.0.guard.release(key.clone()).await;
            released.map_err(|error| other(format!("a bridge is left of an earlier sandbox of this name: {error}")))?;
        }
        let network_spec = NetworkSpec { server: parts.server.clone(), sandbox: labels.clone(), bridge: key.bridge() };
        made.network = Some(spec::network_name(&slot.id));
        let network = docker.create_network(&network_spec).await.inspect_err(|error| {
            // A network of the name that is somebody else's is not ours to remove.
            if matches!(error, DockerError::NameTaken { .. }) {
                made.network = None;
            }
        })?;

        // Rules, Envoy and the container are made at the same time; the first process waits for all of them.
        progress.step("putting the rules in force");
        let (zone, zone_rx) = watch::channel(Arc::new(zone_of(network.gateway, None)));
        let dns = self.start_dns(slot, network.gateway, zone_rx, made)?;
        let listen = free_listener(network.gateway)?;
        let serving = Serving { listen, instance: instance.clone() };
        let isolation = Isolation::new(key.clone(), network.gateway, network.subnet, listen.port(), dns)
            .map_err(|error| other(format!("the network that Docker made cannot be used: {error}")))?;
        self.serve(&slot.id, &serving);
        made.serving = true;
        let (protected, mounted) = protected(wanted).await?;
        let file = SandboxFile {
            id: slot.id.clone(),
            path: wanted.config.clone(),
            workspace: wanted.workspace.clone(),
            mounted: Some(mounted.clone()),
        };
        let loaded = self.change_sources(SourceChangeKind::Add(file)).await?;
        made.source = true;

        let inside = Inside::of(&parts.runtime_dir, &slot.id);
        made.inside = Some(inside.clone());
        self.write_inside(&inside, &slot.id, &instance, &network, &loaded).await?;

        made.rules = Some(key.clone());
        made.container = Some(spec::container_name(&slot.id));
        let labels = SandboxLabels { ports: Some(Ports { listener: listen.port(), dns }), files: mounted, ..labels };
        let body = SandboxSpec {
            server: parts.server.clone(),
            sandbox: labels.clone(),
            image: sandbox.image.as_str().to_owned(),
            runtime,
            protected,
            host_has_ipv6: Path::new("/proc/sys/net/ipv6").exists(),
            memory: sandbox.memory.map(|memory| memory.bytes()),
            cpus: sandbox.cpus.map(|cpus| cpus.nanos()),
            inside_dir: inside.path().to_owned(),
            helpers_dir: helpers,
            environment: tokens::common(&slot.id, &image_path),
        };
        let container = async {
            let id = docker.create_container(&body.create()?).await?;
            docker.upload(&id, &files(&docker, &id, wanted).await?).await?;
            Ok::<_, LaunchError>(id)
        };
        let rules =
            async { self.0.guard.hold(vec![isolation]).await.map_err(|e| other(format!("the network rules: {e}"))) };
        let (container, rules, envoy) =
            tokio::join!(container, rules, self.envoy_serves(&wanted.config, loaded.generation));
        if let Err(LaunchError::Docker(DockerError::NameTaken { .. })) = &container {
            made.container = None;
        }
        let container = container?;
        rules?;
        envoy?;

        progress.step("starting");
        docker.start(&container).await?;
        let trigger = made.dns.take().ok_or_else(|| other("the DNS responder is gone"))?;
        Ok(Running {
            labels,
            container,
            runtime: runtime_name(sandbox.runtime).to_owned(),
            image: sandbox.image.as_str().to_owned(),
            key,
            serving,
            inside,
            zone,
            dns: trigger,
            secrets: Secrets::default(),
            started: unix_now(),
            live: Mutex::new(Live::default()),
        })
    }

    /// Registers where the sandbox is served.
    pub(super) fn serve(&self, id: &SandboxId, serving: &Serving) {
        self.0.parts.servings.rcu(|servings| {
            let mut servings = HashMap::clone(servings);
            servings.insert(id.clone(), serving.clone());
            servings
        });
    }

    /// Starts the sandbox's DNS responder; its port.
    fn start_dns(
        &self,
        slot: &Slot,
        gateway: Ipv4Addr,
        zone: watch::Receiver<Arc<Zone>>,
        made: &mut Made,
    ) -> Result<u16, LaunchError> {
        let responder = bind_dns(gateway)?;
        let port = responder.local_addr().map_err(|error| other(error.to_string()))?.port();
        made.dns = Some(self.answer_dns(&slot.id, responder, zone));
        Ok(port)
    }

    /// Lets a responder answer until the trigger is fired.
    pub(super) fn answer_dns(
        &self,
        id: &SandboxId,
        responder: Responder,
        zone: watch::Receiver<Arc<Zone>>,
    ) -> shutdown::Trigger {
        let (trigger, stop) = shutdown::channel();
        let (id, activity, metrics) = (id.clone(), Arc::clone(&self.0.parts.activity), self.0.parts.metrics.clone());
        let on_query = Arc::new(move |query: Query| {
            let verdict = if query.allowed { "allowed" } else { "refused" };
            metrics.dns_queries.with_label_values(&[verdict]).inc();
            tracing::debug!(sandbox = id.as_str(), name = query.name, kind = query.kind, verdict, "DNS query");
            activity.dns(&id, DnsQuery { name: query.name, r#type: query.kind, allowed: query.allowed });
        });
        tokio::spawn(responder.serve(zone, on_query, stop));
        trigger
    }

    async fn write_inside(
        &self,
        inside: &Inside,
        id: &SandboxId,
        instance: &Instance,
        network: &NetworkInfo,
        loaded: &Loaded,
    ) -> Result<(), LaunchError> {
        let parts = &self.0.parts;
        let Some(project) = loaded.projects.iter().find(|project| project.id == *id).cloned() else {
            return Err(other("the configuration does not have the sandbox it was just given"));
        };
        let (inside, trust, instance) = (inside.clone(), parts.trust.borrow().clone(), instance.clone());
        let (prefix, strict) = (parts.mint.prefix.clone(), parts.strict);
        let (generation, gateway) = (loaded.generation, network.gateway);
        let folder = inside.path().to_owned();
        let written = tokio::task::spawn_blocking(move || {
            inside.create(gateway, &trust)?;
            let view = PolicyView {
                project: &project,
                instance: &instance,
                gateway,
                prefix: &prefix,
                strict,
                generation,
                problems: &[],
            };
            inside.policy(&view)
        });
        let written = written.await.map_err(|error| other(error.to_string()))?;
        written.map_err(|error| other(format!("cannot write to {}: {error}", folder.display())))
    }

    /// Waits until Envoy serves this generation; a rejection of what this file says ends it at once.
    async fn envoy_serves(&self, config: &Path, generation: u64) -> Result<(), LaunchError> {
        let deadline = Instant::now() + ENVOY_DEADLINE;
        let status = &self.0.parts.status;
        let ready = async {
            loop {
                match status.serves(generation, config) {
                    Ok(true) => return Ok(()),
                    Ok(false) => sleep(Duration::from_millis(2)).await,
                    Err(rejection) => {
                        return Err(other(format!("Envoy refuses what {} asks for: {rejection}", config.display())));
                    }
                }
            }
        };
        timeout_at(deadline, ready).await.unwrap_or_else(|_| {
            Err(other(format!(
                "Envoy does not serve the sandbox after {ENVOY_DEADLINE:?}; its log is {}, and the state of things is at /readyz",
                self.0.parts.runtime_dir.join("envoy.log").display()
            )))
        })
    }
}

/// The zone that answers for a project.
pub(super) fn zone_of(gateway: Ipv4Addr, project: Option<&ProjectConfig>) -> Zone {
    let mut zone = Zone { address: gateway, names: BTreeSet::new(), patterns: Vec::new() };
    for pattern in project.into_iter().flat_map(|project| project.upstreams.keys()) {
        match pattern {
            HostPattern::Exact(host) => drop(zone.names.insert(host.clone())),
            HostPattern::Below(_) => zone.patterns.push(pattern.clone()),
        }
    }
    zone
}

fn bind_dns(gateway: Ipv4Addr) -> Result<Responder, LaunchError> {
    for port in DNS_PORT..DNS_PORT + PORTS {
        match Responder::bind(SocketAddr::from((gateway, port))) {
            Ok(responder) => return Ok(responder),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(other(format!("cannot answer DNS on {gateway}:{port}: {error}"))),
        }
    }
    Err(other(format!("no port is free for DNS on {gateway} from {DNS_PORT} on: another program has all of them")))
}

/// What the server reads and the agent must not write: by path, free of symlinks, and by what tells them from others.
async fn protected(wanted: &Wanted) -> Result<(Vec<PathBuf>, BTreeSet<FileId>), LaunchError> {
    let mut paths = vec![wanted.config.clone()];
    paths.extend(wanted.project.watch.iter().cloned());
    let found = tokio::task::spawn_blocking(move || {
        let mut found = (Vec::new(), BTreeSet::new());
        for path in paths {
            let read = path.canonicalize().and_then(|path| Ok((path.metadata()?, path)));
            let (metadata, path) = read.map_err(|error| other(format!("cannot read {}: {error}", path.display())))?;
            found.1.insert(file_id(&metadata));
            found.0.push(path);
        }
        Ok(found)
    });
    found.await.map_err(|error| other(error.to_string()))?
}

/// An address for the listener that no other program has.
fn free_listener(gateway: Ipv4Addr) -> Result<SocketAddr, LaunchError> {
    for port in LISTENER_PORT..LISTENER_PORT + PORTS {
        let address = SocketAddr::from((gateway, port));
        match std::net::TcpListener::bind(address) {
            Ok(_) => return Ok(address),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(other(format!("cannot listen on {address}: {error}"))),
        }
    }
    Err(other(format!(
        "no port is free on {gateway} from {LISTENER_PORT} on: another program listens on all addresses"
    )))
}

fn random() -> Result<[u8; 8], LaunchError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|_| other("the system gives no random numbers"))?;
    Ok(bytes)
}

/// What is put into the container before it starts: a home, a user's name, and the CA where systems have theirs.
async fn files(docker: &Docker, container: &str, wanted: &Wanted) -> Result<Vec<InsideFile>, LaunchError> {
    let (uid, gid) = (wanted.uid, wanted.gid);
    let owned =
        |path: &str, mode, content| InsideFile { path: path.into(), mode, uid: uid.into(), gid: gid.into(), content };
    let link = |path: &str, target: &str| InsideFile {
        path: path.into(),
        mode: 0o777,
        uid: 0,
        gid: 0,
        content: Content::Symlink(target.into()),
    };
    let ca = format!("{INSIDE}/ca.pem");
    let mut files = vec![
        owned(HOME, 0o755, Content::Dir),
        link("/etc/ssl/certs/ca-certificates.crt", &ca),
        link("/etc/ssl/cert.pem", &ca),
        link("/etc/pki/tls/certs/ca-bundle.crt", &ca),
        link("/etc/ssl/certs/java/cacerts", &format!("{INSIDE}/cacerts.jks")),
        link("/usr/local/bin/aenv", &format!("{HELPERS}/aenv")),
        link("/usr/local/bin/mint", &format!("{HELPERS}/mint")),
        link("/usr/local/bin/cdp-proxy", &format!("{HELPERS}/cdp-proxy")),
    ];
    // For login shells, which have a PATH of their own.
    files.extend(BROWSERS.iter().map(|name| link(&format!("/usr/local/bin/{name}"), &format!("{HELPERS}/aenv"))));
    let passwd = docker.read_file(container, "/etc/passwd", MAX_IMAGE_FILE).await?.unwrap_or_default();
    if let Some(passwd) = with_user(&passwd, uid, gid) {
        let content = Content::File(passwd.into());
        files.push(InsideFile { path: "/etc/passwd".into(), mode: 0o644, uid: 0, gid: 0, content });
    }
    Ok(files)
}

/// `/etc/passwd` with a line for the user; `None` when it has one.
fn with_user(passwd: &[u8], uid: u32, gid: u32) -> Option<Vec<u8>> {
    let text = String::from_utf8_lossy(passwd);
    let has = |column: usize, value: &str| text.lines().any(|line| line.split(':').nth(column) == Some(value));
    if has(2, &uid.to_string()) {
        return None;
    }
    let name = ["agent", "adev"].into_iter().find(|name| !has(0, name))?;
    let mut passwd = passwd.to_vec();
    if passwd.last().is_some_and(|&last| last != b'\n') {
        passwd.push(b'\n');
    }
    passwd.extend(format!("{name}:x:{uid}:{gid}:agent:{HOME}:/bin/sh\n").bytes());
    Some(passwd)
}

/// The settings of a project that is a sandbox's.
pub(super) fn sandbox_config(project: &ProjectConfig) -> Option<&SandboxConfig> {
    match &project.kind {
        ProjectKind::Sandbox(config) => Some(config),
        ProjectKind::Gateway(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_has_a_line_and_no_other_changes() {
        let line = |text: Option<Vec<u8>>| text.map(|text| String::from_utf8(text).unwrap());
        assert_eq!(
            line(with_user(b"root:x:0:0:root:/root:/bin/bash", 1001, 1002)).unwrap(),
            "root:x:0:0:root:/root:/bin/bash\nagent:x:1001:1002:agent:/home/agent:/bin/sh\n"
        );
        assert!(line(with_user(b"agent:x:1000:1000::/home/agent:/bin/sh\n", 7, 7)).unwrap().contains("\nadev:x:7:7:"));
        assert_eq!(line(with_user(b"root:x:0:0::/root:/bin/sh\n", 0, 0)), None);
        assert_eq!(line(with_user(b"someone:x:1000:1000::/:/bin/sh\n", 1000, 5)), None);
        assert_eq!(line(with_user(b"", 7, 8)).unwrap(), "agent:x:7:8:agent:/home/agent:/bin/sh\n");
    }
}
