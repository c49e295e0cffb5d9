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

use std::future::ready;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use agent_creds::xds::metrics::XdsMetrics;
use agent_creds::xds::service::{Connections, XdsService, http2};
use agent_creds::xds::snapshot::Fleet;
use clap::Parser;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::body::Body;

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
            // As the product listens, so that a fleet that comes back at once is accepted at once.
            let socket = if listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            socket.bind(listen)?;
            let listener = socket.listen(4096)?;
            addr = Some(listener.local_addr()?);
            tasks.push(tokio::spawn(serve_tcp(shared.service.clone(), listener)));
        }
        if let Some(path) = &args.socket {
            let listener = UnixListener::bind(path)?;
            tasks.push(tokio::spawn(serve_unix(shared.service.clone(), listener)));
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

/// Served as the product serves it to foreign Envoys, but for TLS.
async fn serve_connection<Io>(service: XdsService, io: Io)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answers = service_fn(move |request: http::Request<Incoming>| {
        let answer = service.answer(request.map(Body::new));
        answer.unwrap_or_else(|_| Box::pin(ready(Ok(Status::unimplemented("xDS alone is served here").into_http()))))
    });
    // A client that goes away is its own business.
    let _ = http2().serve_connection(TokioIo::new(io), answers).await;
}

async fn serve_tcp(service: XdsService, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((tcp, _)) = listener.accept() => {
                let _ = tcp.set_nodelay(true);
                connections.spawn(serve_connection(service.clone(), tcp));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_unix(service: XdsService, listener: UnixListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((unix, _)) = listener.accept() => drop(connections.spawn(serve_connection(service.clone(), unix))),
            Some(_) = connections.join_next() => {}
        }
    }
}
