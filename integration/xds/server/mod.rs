//! A small xDS server around the library's own service, with a fleet that whoever tests it can edit.
//!
//! ```text
//!   control socket ──▶ Worlds (by `node.cluster`: what its Envoys should hold) ──▶ watch ──▶ XdsService ──▶ TCP, unix socket
//! ```
//!
//! Each `node.cluster` is a world of its own, so that many tests can share a server without seeing each other's edits.

mod control;
mod product;
mod worlds;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent_creds::xds::metrics::XdsMetrics;
use agent_creds::xds::service::{Connections, XdsService};
use agent_creds::xds::snapshot::Fleet;
use clap::Parser;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::Routes;

use self::worlds::Worlds;

/// What clients are told as `control_plane.identifier`.
const IDENTIFIER: &str = "agent-creds xds-target";

/// Serves a fleet that can be edited over a control socket, for `xds-conformance` and `xds-load`.
///
/// The control socket takes one JSON object a line and answers each with one line:
///
///   {"op":"edit","cluster":"C","set":[{"kind":"cluster","name":"a","revision":2}],"remove":[{"kind":"route","name":"b"}]}
///   {"op":"clear","cluster":"C"}
///   {"op":"policy","cluster":"C","hosts":["api.example.com"]}
///   {"op":"nodes","cluster":"C"}
///   {"op":"replica"}
///
/// `cluster` is the node.cluster whose Envoys see it; kinds are cluster, endpoint, listener, route and secret. A resource may
/// have "size" (bytes of padding) and "refs" ([["endpoint","a"]]).
#[derive(Parser, Debug, Clone)]
#[command(name = "xds-target", verbatim_doc_comment)]
pub struct Args {
    /// A TCP address to serve xDS on; port 0 takes a free one
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// A unix socket to serve xDS on
    #[arg(long)]
    pub socket: Option<PathBuf>,
    /// The unix socket to be controlled by
    #[arg(long)]
    pub control: PathBuf,
    /// Serve a fleet of this many upstreams to the node.cluster `load` from the start
    #[arg(long, default_value_t = 0)]
    pub upstreams: usize,
}

/// A running server; it stops when dropped.
pub struct Server {
    /// Where xDS is served over TCP, if it is.
    pub addr: Option<SocketAddr>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Server {
    /// Serves until dropped.
    pub async fn start(args: &Args) -> anyhow::Result<Self> {
        let shared = Shared::new(args.upstreams)?;
        let mut tasks = Vec::new();
        let mut addr = None;
        if let Some(listen) = args.listen {
            let listener = TcpListener::bind(listen).await?;
            addr = Some(listener.local_addr()?);
            tasks.push(tokio::spawn(serve_tcp(shared.routes(), listener)));
        }
        if let Some(path) = &args.socket {
            let listener = UnixListener::bind(path)?;
            tasks.push(tokio::spawn(serve_unix(shared.routes(), listener)));
        }
        // Last: whoever can connect to it knows that the rest is there.
        let partial = args.control.with_extension("partial");
        let control = UnixListener::bind(&partial)?;
        std::fs::rename(&partial, &args.control)?;
        tasks.push(tokio::spawn(control::serve(shared, addr, control)));
        Ok(Self { addr, tasks })
    }
}

/// What the control connections and the services share.
struct Shared {
    worlds: Mutex<Worlds>,
    fleet: watch::Sender<Arc<Fleet>>,
    service: XdsService,
}

impl Shared {
    fn new(upstreams: usize) -> anyhow::Result<Arc<Self>> {
        let mut worlds = Worlds::default();
        if upstreams > 0 {
            worlds.fill("load", upstreams)?;
        }
        Self::of(worlds)
    }

    fn of(worlds: Worlds) -> anyhow::Result<Arc<Self>> {
        let (fleet, receiver) = watch::channel(worlds.fleet());
        let metrics = XdsMetrics::register(&prometheus::Registry::new())?;
        let service = XdsService::new(receiver, IDENTIFIER, metrics);
        Ok(Arc::new(Self { worlds: Mutex::new(worlds), fleet, service }))
    }

    fn routes(&self) -> Routes {
        self.service.clone().add_to(Routes::default())
    }

    fn connections(&self) -> Connections {
        self.service.connections()
    }

    /// Changes the worlds, and publishes what came of it.
    fn change<T>(&self, change: impl FnOnce(&mut Worlds) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let mut worlds = self.worlds.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut worlds)?;
        self.fleet.send_replace(worlds.fleet());
        Ok(changed)
    }

    /// The same server made anew from the same inputs, as on another machine or after a restart.
    fn replica(&self) -> anyhow::Result<Arc<Self>> {
        let worlds = self.worlds.lock().unwrap_or_else(PoisonError::into_inner).rebuilt()?;
        Self::of(worlds)
    }
}

/// Served as the product serves it.
fn builder() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .initial_stream_window_size(Some(1 << 20))
        .initial_connection_window_size(Some(4 << 20))
        .max_concurrent_streams(None)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
}

async fn serve_tcp(routes: Routes, listener: TcpListener) {
    let incoming = TcpListenerStream::new(listener);
    let incoming = tokio_stream::StreamExt::map(incoming, |tcp| tcp.inspect(|tcp| drop(tcp.set_nodelay(true))));
    let _ = builder().add_routes(routes).serve_with_incoming(incoming).await;
}

async fn serve_unix(routes: Routes, listener: UnixListener) {
    let _ = builder().add_routes(routes).serve_with_incoming(UnixListenerStream::new(listener)).await;
}
