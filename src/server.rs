//! `agent-creds serve`: the composition root, where the adapters meet.
//!
//! ```text
//! config::watch ─ Loaded ▶ apply ─┬─ VaultState ▶ vault::Vault ───────────┐
//!                                 └─ Fleet ▶ xds::XdsService ─────────────┤ xds.sock ⇄ Envoy (envoy::Supervisor)
//! pki::Ca ─ leaves ──────────────────┘                                    │
//! host: what sandboxes ask of the host, by their listener ─── host.sock ⇄ ┘
//! status, metrics ─ http ▶ /metrics /healthz /readyz /envoy/stats/prometheus
//! ```
//!
//! Everything that can fail at the start is done before anything is started: a server that cannot serve leaves nothing
//! behind. Afterwards a task that ends by itself ends the process.

mod activity;
mod apply;
mod auditing;
mod browser;
mod control;
mod credentials;
mod envoy_container;
mod harden;
mod host;
mod http;
mod issuing;
mod kept_envoy;
mod leaves;
mod nodes;
mod sandboxes;
mod shared;
mod sockets;
mod status;
pub(crate) mod surroundings;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::ExternalProcessorServer;
use prometheus::Registry;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Routes;

use self::activity::Activity;
use self::apply::{Applier, keep_applied};
pub use self::auditing::audited;
use self::auditing::{Watchers, Writer};
use self::browser::{Browser, BrowserParts};
use self::control::{ControlService, FleetService};
pub use self::credentials::Environment;
use self::credentials::{CredentialMetrics, CredentialStates, CredentialStore, KeptTokens, WatchedFile};
use self::envoy_container::EnvoyContainer;
use self::host::{HOST_SOCKET, HostServices};
use self::http::Pages;
use self::issuing::Followed;
use self::kept_envoy::KeptEnvoy;
use self::leaves::LeafSource;
pub use self::nodes::{NewIdentity, NodeBootstrap, enrol, enrol_server, revoke_tokens};
use self::nodes::{Nodes, NodesService, VaultViews};
use self::sandboxes::{DockerHost, Left, Parts, SandboxMetrics, Sandboxes, TokenMint, Trust};
use self::shared::SharedVaults;
pub use self::shared::{IdentityFile, identity_file};
use self::status::Status;
use self::surroundings::{check_ports, system_ca};
use crate::config::{self, Diagnostics, Loaded, Loader, Sources};
use crate::control::v1::control_server::ControlServer;
use crate::control::v1::fleet_server::FleetServer;
use crate::control::v1::nodes_server::NodesServer;
use crate::control::v1::projects_server::ProjectsServer;
use crate::domain::macaroon::TokenPrefix;
use crate::envoy::{self, Bootstrap, Supervisor};
use crate::host::metrics::BrowserMetrics;
use crate::metrics::ServerMetrics;
use crate::pki::{Ca, LeafSchedule};
use crate::sandbox::network::ServerPrefix;
use crate::sandbox::spec::ServerId;
use crate::sandbox::spec::body::GuardSpec;
use crate::shutdown::{self, Shutdown};
use crate::state::{AUDIT_KEPT, AuditLog, StateDir};
use crate::vault::exchange::HttpsClient;
use crate::vault::{Observer, Streams, Vault, VaultMetrics, VaultState};
use crate::xds::metrics::XdsMetrics;
use crate::xds::resources::{FleetBuilder, MAX_SIGNED_BODY, VAULT_CLUSTER, XDS_CLUSTER};
use crate::xds::service::{NodeGauges, XdsService};
use crate::xds::snapshot::{Fleet, LOCAL_CLUSTER};

/// How long requests under way may take after the signal to stop.
const GRACE: Duration = Duration::from_secs(5);

/// The socket of the control API, in the runtime folder.
pub const CONTROL_SOCKET: &str = "control.sock";

/// The image that the guard runs in: it has `nft`, `ip` and `tc`.
const GUARD_IMAGE: &str = "agent-creds-envoy";

/// Which Envoy the server keeps running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeepEnvoy {
    /// This program, as a child process.
    Process(PathBuf),
    /// A container of the image `agent-creds-envoy`.
    Docker,
    /// None: Envoys are somebody else's, and connect by `agent-creds bootstrap`.
    None,
}

/// Everything that `agent-creds serve` was told.
pub struct Options {
    /// The configuration files.
    pub sources: Sources,
    /// Where CA and signing key are kept.
    pub state_dir: PathBuf,
    /// Where sockets, Envoy's bootstrap and its log are.
    pub runtime_dir: PathBuf,
    /// Where metrics and health are served.
    pub http: SocketAddr,
    /// Whether a free port does when that one is in use.
    pub http_any_port: bool,
    /// Which Envoy is kept running.
    pub envoy: KeepEnvoy,
    /// How long leaf certificates live.
    pub leaf_lifetime: Duration,
    /// Whether requests without a token are refused.
    pub strict: bool,
    /// What tokens begin with.
    pub prefix: TokenPrefix,
    /// `MACAROON_SIGNING_KEY`, if set.
    pub signing_key: Option<zeroize::Zeroizing<String>>,
    /// `SSL_CERT_FILE`, if set: the CAs to trust upstream, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The environment, in which `vault.toml` finds its secrets.
    pub environment: Environment,
    /// `DOCKER_HOST`, if set.
    pub docker_host: Option<String>,
    /// The folder of the programs for the inside of sandboxes, or why there is none.
    pub helpers: Result<PathBuf, String>,
    /// Where Envoys of other machines are served.
    pub xds: Option<SocketAddr>,
    /// How long the certificates live by which theirs are renewed.
    pub node_lifetime: Duration,
    /// Where the host's Chrome listens, `HOST:PORT`.
    pub chrome: String,
    /// The folder of this server's identities towards shared vaults.
    pub vaults: PathBuf,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration is wrong: each problem with its line.
    #[error("{0}")]
    Config(#[from] Diagnostics),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// A server that holds everything it needs, and has started nothing yet.
struct Prepared {
    loader: Loader,
    applier: Applier,
    vault: Vault,
    xds: XdsService,
    supervisor: Option<KeptEnvoy>,
    socket: UnixListener,
    control: UnixListener,
    host: UnixListener,
    host_services: HostServices,
    nodes: Option<Nodes>,
    vault_views: VaultViews,
    http: TcpListener,
    pages: Arc<Pages>,
    sandboxes: Sandboxed,
    schedule: LeafSchedule,
    secret_files: watch::Receiver<Vec<WatchedFile>>,
    http_address_file: PathBuf,
    strict: bool,
    xds_address_file: PathBuf,
    /// Writes what is left, when nothing decides any more.
    _audit_writer: Writer,
    /// Held until the end.
    _locks: Vec<std::fs::File>,
}

/// The sandboxes, and what is needed to start keeping them.
struct Sandboxed {
    sandboxes: Sandboxes,
    alarms: sandboxes::Alarms,
    left: Left,
    loaded: watch::Sender<Arc<Loaded>>,
    changes: mpsc::Receiver<config::SourceChange>,
    activity: Arc<Activity>,
    status: Arc<Status>,
    fleet_view: FleetService,
}

/// Serves until a signal says stop.
///
/// # Errors
/// When it cannot start, or a part of it that is needed ends.
pub async fn serve(options: Options) -> Result<(), ServeError> {
    harden::harden()?;
    // Before anything can be left behind: a signal during the start is answered when the start is done.
    let stop_signal = shutdown::signals().context("cannot catch signals")?;
    let prepared = prepare(options).await?;
    Ok(run(prepared, stop_signal).await?)
}

async fn prepare(options: Options) -> Result<Prepared, ServeError> {
    let mut loader = Loader::load(&options.sources)?;
    let loaded = loader.loaded();
    let missing = credentials::missing(&loaded.vault, &options.environment);
    if !missing.is_empty() {
        return Err(Diagnostics(missing).into());
    }
    let system_ca = system_ca(options.ca_file.as_deref())?;

    sockets::private_dir(&options.state_dir)?;
    sockets::private_dir(&options.runtime_dir)?;
    let mut locks = vec![sockets::lock(&options.state_dir).await?];
    if !same_folder(&options.state_dir, &options.runtime_dir) {
        locks.push(sockets::lock(&options.runtime_dir).await?);
    }

    // Which sandboxes run is known before anything is served: an Envoy that is taken over keeps their listeners.
    let state_dir = options.state_dir.canonicalize().context("cannot use the state folder")?;
    let server_id = ServerId::of(&state_dir);
    let docker_host = DockerHost(options.docker_host.clone());
    let left = Left::find(&docker_host, &server_id).await;
    let servings = sandboxes::no_servings();
    left.configure(&mut loader, &servings);
    let loaded = loader.loaded();

    let state = StateDir::open(&options.state_dir).context("cannot use the state folder")?;
    let Followed { issuing, revocations, keys } = issuing::follow(&state, options.signing_key)?;
    let ca_dir = options.state_dir.join("ca");
    let ca = Ca::load_or_create(&ca_dir, SystemTime::now()).context("cannot get the certificate authority")?;

    let registry = Registry::new();
    let metrics = ServerMetrics::register(&registry).context("cannot register metrics")?;
    let vault_metrics = VaultMetrics::register(&registry).context("cannot register metrics")?;
    let sandbox_metrics = SandboxMetrics::register(&registry).context("cannot register metrics")?;
    let credential_metrics = CredentialMetrics::register(&registry).context("cannot register metrics")?;
    let browser_metrics = BrowserMetrics::register(&registry).context("cannot register metrics")?;
    let xds_metrics = XdsMetrics::register(&registry).context("cannot register metrics")?;

    let supervisor = match &options.envoy {
        KeepEnvoy::None => None,
        KeepEnvoy::Process(binary) => {
            let bootstrap = local_bootstrap(&options.runtime_dir);
            let restarts = metrics.envoy_restarts.clone();
            let supervisor = Supervisor::prepare(binary.clone(), &bootstrap, &options.runtime_dir, restarts)
                .await
                .context("cannot run Envoy")?;
            if !supervisor.adopts() {
                check_ports(&loaded)?;
            }
            Some(KeptEnvoy::Process(supervisor))
        }
        KeepEnvoy::Docker => {
            let bootstrap = local_bootstrap(&options.runtime_dir);
            let restarts = metrics.envoy_restarts.clone();
            let (host, server) = (docker_host.clone(), server_id.clone());
            let container = EnvoyContainer::prepare(host, server, &bootstrap, &options.runtime_dir, restarts)
                .await
                .context("cannot run Envoy in a container")?;
            if !container.adopts() {
                check_ports(&loaded)?;
            }
            Some(KeptEnvoy::Container(container))
        }
    };

    let socket = sockets::bind(&envoy::xds_socket(&options.runtime_dir))?;
    let control = sockets::bind(&options.runtime_dir.join(CONTROL_SOCKET))?;
    let host_socket = options.runtime_dir.join(HOST_SOCKET);
    let host = sockets::bind(&host_socket)?;
    let http = match TcpListener::bind(options.http).await {
        Err(error) if options.http_any_port && error.kind() == io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::new(options.http.ip(), 0)).await
        }
        bound => bound,
    };
    let http = http.with_context(|| {
        format!("cannot listen on {} for metrics and health; choose another address with --http", options.http)
    })?;

    let nodes = Nodes::prepare(options.xds, &state, options.node_lifetime, &registry, xds_metrics.clone())?;

    let (fleet, fleet_rx) = watch::channel(Arc::new(Fleet::default()));
    let activity = Arc::new(Activity::new());
    let audit = AuditLog::open(&state_dir, AUDIT_KEPT).context("cannot use the audit log")?;
    let (watchers, audit_writer) = Watchers::start(Arc::clone(&activity), audit, options.prefix.clone(), &registry)?;
    let observer: Arc<dyn Observer> = Arc::new(watchers);
    let vault = Vault::new(VaultState::default(), vault_metrics).observed_by(observer);
    let (trust, trust_rx) = watch::channel(Arc::new(Trust::of(&ca)));
    let xds = XdsService::new(fleet_rx, concat!("agent-creds ", env!("CARGO_PKG_VERSION")), xds_metrics);
    let gauges = NodeGauges::new(xds.connections()).context("cannot register metrics")?;
    registry.register(Box::new(gauges)).context("cannot register metrics")?;
    let states = CredentialStates::default();
    let pid = supervisor.as_ref().map(KeptEnvoy::pid);
    let shared = SharedVaults::new(options.vaults, options.prefix.clone(), &registry);
    let shared = Arc::new(shared.context("cannot register metrics")?);
    let status = Arc::new(Status::new(xds.connections(), pid, states.clone(), Arc::clone(&shared)));
    let https = HttpsClient::new(system_ca.pem()).context("cannot ask token endpoints")?;
    let kept = Arc::new(KeptTokens::new(state_dir.clone()));
    let browser = (options.environment)("BROWSER");
    let credentials = CredentialStore::new(options.environment, https, kept, credential_metrics, states);
    let secret_files = credentials.files();
    let schedule = LeafSchedule::new(options.leaf_lifetime);
    let leaves = LeafSource { ca: Arc::new(ca), schedule, minted: metrics.certificates_minted.clone() };
    let mut applier = Applier {
        keys: keys.clone(),
        revocations,
        prefix: options.prefix.clone(),
        strict: options.strict,
        credentials,
        shared: Arc::clone(&shared),
        signing: watch::Sender::new(Vec::new()),
        builder: FleetBuilder::new(Arc::new(leaves.clone()), system_ca).with_host(&host_socket),
        leaves,
        ca_dir,
        vault: vault.clone(),
        fleet,
        status: Arc::clone(&status),
        metrics,
        servings: Arc::clone(&servings),
        trust,
    };
    applier.apply(&loaded);
    let (loaded_tx, loaded_rx) = watch::channel(loaded);
    let vault_views =
        VaultViews { prefix: options.prefix.clone(), loaded: loaded_rx.clone(), signing: applier.signing.subscribe() };
    let (changes_tx, changes) = mpsc::channel(16);
    let fleet_view = FleetService {
        connections: xds.connections(),
        fleet: applier.fleet.subscribe(),
        status: Arc::clone(&status),
        loaded: loaded_rx.clone(),
        changes: changes_tx.clone(),
    };
    let prefix = ServerPrefix::of(server_id.as_str()).context("cannot name the server in the kernel")?;
    let guard = GuardSpec {
        server: server_id.clone(),
        image: GUARD_IMAGE.to_owned(),
        helpers_dir: options.helpers.clone().unwrap_or_default(),
    };
    let parts = Parts {
        server: server_id,
        docker_host: docker_host.clone(),
        runtime_dir: options.runtime_dir.clone(),
        state_dir,
        private: options.sources.vault.iter().map(|vault| vault.path().to_owned()).collect(),
        helpers: options.helpers,
        activity: Arc::clone(&activity),
        metrics: sandbox_metrics,
        servings: Arc::clone(&servings),
        changes: changes_tx,
        loaded: loaded_rx.clone(),
        trust: trust_rx,
        status: Arc::clone(&status),
        mint: TokenMint { keys, shared, prefix: options.prefix },
        issuing,
        strict: options.strict,
    };
    let (sandboxes, alarms) = Sandboxes::new(parts, guard, prefix, &left);
    let lives = sandboxes.clone();
    let browser = Browser::new(BrowserParts {
        lives: Box::new(move |sandbox, instance| lives.life(sandbox, instance)),
        activity: Arc::clone(&activity),
        docker_host,
        loaded: loaded_rx.clone(),
        browser: browser.and_then(|browser| browser.into_string().ok()),
        metrics: browser_metrics,
    });
    let host_services = HostServices::new(servings, loaded_rx, options.chrome, browser);
    let sandboxes = Sandboxed {
        sandboxes,
        alarms,
        left,
        loaded: loaded_tx,
        changes,
        activity,
        status: Arc::clone(&status),
        fleet_view,
    };
    let pages =
        Arc::new(Pages { registry, status, envoy_admin: envoy::admin_socket(&options.runtime_dir, envoy::LOCAL_NODE) });
    let http_address_file = options.runtime_dir.join("http.addr");
    let xds_address_file = options.runtime_dir.join("xds.addr");
    Ok(Prepared {
        loader,
        applier,
        vault,
        xds,
        supervisor,
        socket,
        control,
        host,
        host_services,
        nodes,
        vault_views,
        http,
        pages,
        sandboxes,
        schedule,
        secret_files,
        http_address_file,
        strict: options.strict,
        xds_address_file,
        _audit_writer: audit_writer,
        _locks: locks,
    })
}

async fn run(prepared: Prepared, stop_signal: impl Future<Output = &'static str>) -> anyhow::Result<()> {
    let Prepared {
        loader,
        applier,
        vault,
        xds,
        supervisor,
        socket,
        control,
        host,
        host_services,
        nodes,
        vault_views,
        http,
        pages,
        sandboxes,
        schedule,
        secret_files,
        http_address_file,
        strict,
        xds_address_file,
        _audit_writer,
        _locks,
    } = prepared;
    let Sandboxed { sandboxes, alarms, left, loaded: loaded_tx, changes, activity, status, fleet_view } = sandboxes;
    let address = http.local_addr().context("cannot tell the HTTP address")?;
    std::fs::write(&http_address_file, address.to_string())
        .with_context(|| format!("cannot write {}", http_address_file.display()))?;
    let projects = loader.loaded().projects.len();
    tracing::info!(http = %address, projects, "serving; metrics at http://{address}/metrics");

    let (stop, stopping) = shutdown::channel();
    // Envoy and HTTP end after the rest, so that requests under way still have a vault.
    let (stop_envoy, envoy_stopping) = shutdown::channel();
    let mut tasks: JoinSet<(&'static str, anyhow::Result<()>)> = JoinSet::new();

    let streams = ExternalProcessorServer::new(Streams::new(vault.clone()));
    // The bodies of requests to be signed come with the questions, beside up to 96 KiB of headers.
    let vault = AuthorizationServer::new(vault).max_decoding_message_size(MAX_SIGNED_BODY as usize + 512 * 1024);
    let routes = xds.clone().add_to(Routes::new(vault).add_service(streams)).prepare();
    let connected = nodes.as_ref().map(Nodes::connected);
    if let Some(nodes) = nodes {
        nodes.announce(&xds_address_file)?;
        let (node_routes, nodes_stopping) = (routes.clone(), stopping.clone());
        tasks.spawn(async move {
            nodes.serve(xds, node_routes, vault_views, nodes_stopping).await;
            ("the server of foreign Envoys", Ok(()))
        });
    }
    let grpc_stopping = stopping.clone();
    tasks.spawn(async move { ("the gRPC server", serve_grpc(routes, socket, grpc_stopping).await) });

    let host_stopping = stopping.clone();
    tasks.spawn(async move {
        host_services.serve(host, host_stopping).await;
        ("the host's services for sandboxes", Ok(()))
    });

    let service = ControlService { sandboxes: sandboxes.clone(), activity, status, strict, http: address };
    let control_routes = Routes::new(ControlServer::new(service))
        .add_service(ProjectsServer::new(fleet_view.projects()))
        .add_service(FleetServer::new(fleet_view))
        .add_service(NodesServer::new(NodesService { connected }));
    let control_stopping = stopping.clone();
    let (taken_up, mut all_taken_up) = watch::channel(false);
    tasks.spawn(async move {
        // A failure means that the task that takes up ended, which ends the process.
        let _ = all_taken_up.wait_for(|&done| done).await;
        ("the control API", serve_grpc(control_routes, control, control_stopping).await)
    });

    let loaded_rx = loaded_tx.subscribe();
    let watch_stopping = stopping.clone();
    tasks.spawn(async move {
        let outcome = config::watch(loader, loaded_tx, changes, watch_stopping.wait()).await;
        ("the configuration watch", outcome.map_err(anyhow::Error::new))
    });
    let apply_stopping = stopping.clone();
    tasks.spawn(async move {
        keep_applied(applier, loaded_rx, schedule, apply_stopping).await;
        ("the configuration", Ok(()))
    });
    let files_stopping = stopping.clone();
    tasks.spawn(async move {
        credentials::follow(secret_files, files_stopping).await;
        ("what follows files with secrets", Ok(()))
    });
    let (following, keeping) = (sandboxes.clone(), sandboxes);
    let follow_stopping = stopping.clone();
    tasks.spawn(async move {
        following.follow(alarms, follow_stopping).await;
        ("what follows the configuration in sandboxes", Ok(()))
    });
    let keep_stopping = stopping.clone();
    tasks.spawn(async move {
        keeping.take_up_left(left).await;
        taken_up.send_replace(true);
        keeping.keep(keep_stopping).await;
        ("what keeps the sandboxes", Ok(()))
    });
    let http_stopping = envoy_stopping.clone();
    tasks.spawn(async move {
        http::serve(http, pages, http_stopping).await;
        ("the HTTP server", Ok(()))
    });
    let mut envoy_task = JoinSet::new();
    if let Some(supervisor) = supervisor {
        envoy_task.spawn(supervisor.run(envoy_stopping));
    }

    let outcome = tokio::select! {
        signal = stop_signal => {
            tracing::info!("stopping on {signal}");
            Ok(())
        }
        Some(ended) = tasks.join_next() => Err(unexpected(ended)),
        Some(ended) = envoy_task.join_next() => match ended {
            Ok(Err(error)) => Err(error.context("Envoy cannot be kept running")),
            _ => Err(anyhow::anyhow!("Envoy's supervision ended")),
        },
    };
    // Envoy first: it holds streams open, and stops taking connections while the vault still answers.
    stop_envoy.fire();
    while envoy_task.join_next().await.is_some() {}
    stop.fire();
    let drained = tokio::time::timeout(GRACE, async { while tasks.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!("some connections did not end within {GRACE:?}; they are cut");
    }
    let _ = std::fs::remove_file(&http_address_file);
    let _ = std::fs::remove_file(&xds_address_file);
    outcome
}

fn unexpected(ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok((name, Err(error))) => error.context(format!("{name} failed")),
        Ok((name, Ok(()))) => anyhow::anyhow!("{name} ended, and nothing works without it"),
        Err(error) => anyhow::Error::new(error).context("a part of the server failed"),
    }
}

async fn serve_grpc(routes: Routes, socket: UnixListener, stopping: Shutdown) -> anyhow::Result<()> {
    tonic::transport::Server::builder()
        .initial_stream_window_size(Some(1 << 20))
        .initial_connection_window_size(Some(4 << 20))
        .max_concurrent_streams(None)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .add_routes(routes)
        .serve_with_incoming_shutdown(UnixListenerStream::new(socket), stopping.wait())
        .await
        .context("cannot serve gRPC")
}

/// The bootstrap of the Envoy that this server keeps running.
fn local_bootstrap(runtime_dir: &Path) -> String {
    bootstrap(envoy::LOCAL_NODE, LOCAL_CLUSTER, runtime_dir, envoy::Protocol::Delta)
}

/// The bootstrap of an Envoy on this machine, as text.
pub fn bootstrap(node_id: &str, cluster: &str, runtime_dir: &Path, protocol: envoy::Protocol) -> String {
    let bootstrap = Bootstrap { node_id, cluster, runtime_dir, protocol, clusters: (XDS_CLUSTER, VAULT_CLUSTER) };
    format!("{:#}\n", bootstrap.to_json())
}

fn same_folder(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}
