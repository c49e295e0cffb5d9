//! A TLS server on loopback that plays the APIs behind the proxy, and remembers everything it was sent.
//!
//! ```text
//! Upstream::start ── accept ── TLS (ALPN) ── hyper, HTTP/1.1 or 2 ── routes::answer ── apis (Stripe, OpenAI, Anthropic)
//!                                                  └── Journal: every request, as it arrived
//! ```
//!
//! `integration/demo_upstream.rs` runs the same code as a program.

mod apis;
mod hosts;
mod journal;
mod routes;
mod streams;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

pub use self::journal::{Journal, Recorded};
use super::pki::{CertKind, TestCa};

/// Which protocols the upstream offers by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Alpn {
    /// `h2` and `http/1.1`.
    #[default]
    Both,
    /// Only `http/1.1`.
    H1,
    /// Only `h2`.
    H2,
}

/// How an [`Upstream`] is to be.
pub struct UpstreamConfig {
    /// The names its certificate is for.
    pub names: Vec<String>,
    /// What is wrong with its certificate.
    pub cert: CertKind,
    /// What it offers by ALPN.
    pub alpn: Alpn,
    /// The CA its certificate comes from.
    pub ca: Arc<TestCa>,
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Appears as `upstream` in the echo, to tell two upstreams of one name apart.
    pub label: String,
    /// A folder whose files are served below `/files/`, and whose repositories at `github.com`, to who authenticates.
    pub files: Option<PathBuf>,
    /// Answers what it knows, before the upstream's own routes do.
    pub answers: Option<Answers>,
}

/// Makes an answer to a request, or none; after a while.
pub type Answers = Arc<dyn Fn(&Recorded) -> Option<(u16, serde_json::Value, Duration)> + Send + Sync>;

impl UpstreamConfig {
    /// A good upstream for `names` on a free port of 127.0.0.1, with the process's shared CA.
    pub fn new(names: &[&str]) -> Self {
        Self {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            cert: CertKind::Good,
            alpn: Alpn::Both,
            ca: TestCa::shared(),
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            label: "upstream".to_owned(),
            files: None,
            answers: None,
        }
    }

    /// With answers of its own: status, JSON, and how long they take.
    pub fn answering(
        mut self,
        answers: impl Fn(&Recorded) -> Option<(u16, serde_json::Value, Duration)> + Send + Sync + 'static,
    ) -> Self {
        self.answers = Some(Arc::new(answers));
        self
    }

    /// With another kind of certificate.
    pub fn cert(mut self, kind: CertKind) -> Self {
        self.cert = kind;
        self
    }

    /// With another ALPN offer.
    pub fn alpn(mut self, alpn: Alpn) -> Self {
        self.alpn = alpn;
        self
    }

    /// With another CA.
    pub fn ca(mut self, ca: Arc<TestCa>) -> Self {
        self.ca = ca;
        self
    }

    /// Listening elsewhere.
    pub fn listen(mut self, addr: SocketAddr) -> Self {
        self.listen = addr;
        self
    }

    /// With files to serve.
    pub fn files(mut self, folder: &Path) -> Self {
        self.files = Some(folder.to_owned());
        self
    }

    /// With another label.
    pub fn label(mut self, label: &str) -> Self {
        label.clone_into(&mut self.label);
        self
    }
}

/// A running upstream; dropping it closes its listener and every connection.
pub struct Upstream {
    addr: SocketAddr,
    ca: Arc<TestCa>,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// What all connections of an upstream share.
struct Shared {
    label: String,
    files: Option<PathBuf>,
    answers: Option<Answers>,
    journal: Journal,
    bucket: hosts::Bucket,
    connections: AtomicUsize,
    handshakes: AtomicUsize,
}

impl Upstream {
    /// Starts a good upstream for `names`.
    pub async fn start(names: &[&str]) -> Self {
        Self::with(UpstreamConfig::new(names)).await
    }

    /// Starts an upstream.
    pub async fn with(config: UpstreamConfig) -> Self {
        let acceptor = acceptor(&config);
        let listener = TcpListener::bind(config.listen).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            label: config.label,
            files: config.files,
            answers: config.answers,
            journal: Journal::default(),
            bucket: hosts::Bucket::default(),
            connections: AtomicUsize::new(0),
            handshakes: AtomicUsize::new(0),
        });
        let task = tokio::spawn(accept(listener, acceptor, Arc::clone(&shared)));
        Self { addr, ca: config.ca, shared, task }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The CA its certificate comes from (or would, if it is self-signed).
    pub fn ca_pem(&self) -> &str {
        self.ca.pem()
    }

    /// The newest requests it received, oldest first (see [`Journal::LIMIT`]).
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.journal.requests()
    }

    /// The last request it received.
    ///
    /// # Panics
    /// If there was none.
    pub fn last_request(&self) -> Recorded {
        self.requests().pop().expect("the upstream received a request")
    }

    /// How many requests it received since its start, also those no longer in [`Upstream::requests`].
    pub fn request_count(&self) -> usize {
        self.shared.journal.count()
    }

    /// Forgets the requests recorded so far.
    pub fn clear(&self) {
        self.shared.journal.clear();
    }

    /// Calls `observer` with every request from now on.
    pub fn observe(&self, observer: impl Fn(&Recorded) + Send + Sync + 'static) {
        self.shared.journal.observe(observer);
    }

    /// How many TCP connections were accepted.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many TLS handshakes succeeded.
    pub fn handshakes(&self) -> usize {
        self.shared.handshakes.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn acceptor(config: &UpstreamConfig) -> TlsAcceptor {
    let cert = config.ca.issue(&config.names, config.cert);
    let mut tls = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.cert], cert.key).unwrap();
    tls.alpn_protocols = match config.alpn {
        Alpn::Both => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Alpn::H1 => vec![b"http/1.1".to_vec()],
        Alpn::H2 => vec![b"h2".to_vec()],
    };
    TlsAcceptor::from(Arc::new(tls))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    // Dropped with this task, so that no connection outlives the upstream.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, say: try again rather than go deaf.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        shared.connections.fetch_add(1, Ordering::SeqCst);
        connections.spawn(connection(stream, acceptor.clone(), Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    // A peer that goes away, or refuses the certificate, is the peer's business: it says so itself.
    let Ok(tls) = acceptor.accept(stream).await else { return };
    let id = shared.handshakes.fetch_add(1, Ordering::SeqCst);
    let sni = tls.get_ref().1.server_name().map(str::to_owned);
    let service = service_fn(move |request| {
        let (shared, sni) = (Arc::clone(&shared), sni.clone());
        async move { Ok::<_, std::convert::Infallible>(routes::answer(request, &shared, id, sni).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new()).enable_connect_protocol();
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(tls), service).await;
}
