//! One upstream, the server, and three Envoys before it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, OkHttpResponse, check_response::HttpResponse,
};
use envoy_types::pb::google::protobuf::{Struct, Value as Told, value::Kind};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::load::{HOST, LONG, Load, Protocol, SHORT, connect};

/// The argument that makes this program the vault that says yes: a process of its own, as the real one is.
pub(crate) const YES: &str = "--yes-vault";

/// Says yes to everything on `socket`, until it is killed; when `told`, with what to mask in the answer.
pub(crate) async fn say_yes(socket: &Path, told: bool) {
    let listener = UnixListenerStream::new(UnixListener::bind(socket).expect("a socket"));
    let yes = tonic::transport::Server::builder().add_service(AuthorizationServer::new(Yes(told)));
    yes.serve_with_incoming(listener).await.expect("a server");
}

/// A process that ends with the benchmark.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) struct World {
    dir: TempDir,
    /// `bare`, `ok`, `told`, `vault`.
    sides: [SocketAddr; 4],
    /// How many upstreams `vault` has.
    upstreams: usize,
    upstream: SocketAddr,
    token: String,
    roots: Arc<RootCertStore>,
    _processes: Vec<Process>,
}

/// A vault that says yes at once; when true, with what the real one says of a key that is to be masked.
struct Yes(bool);

#[tonic::async_trait]
impl Authorization for Yes {
    async fn check(&self, _request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let ok = HttpResponse::OkResponse(OkHttpResponse::default());
        Ok(Response::new(CheckResponse {
            status: Some(envoy_types::pb::google::rpc::Status::default()),
            http_response: Some(ok),
            dynamic_metadata: self.0.then(told),
        }))
    }
}

fn told() -> Struct {
    let needles = "NrX3Rlc3RfMDEyMzQ1Njc4O\nc2tfdGVzdF8wMTIzNDU2Nzg5\nza190ZXN0XzAxMjM0NTY3OD\nsk_test_0123456789";
    let text = |text: &str| Kind::StringValue(text.to_owned());
    let fields = [
        ("holding", text("09090909090909090909090909090909 4102444800 primary")),
        ("redact", text(needles)),
        ("redact_body", Kind::BoolValue(true)),
    ];
    Struct { fields: fields.map(|(name, kind)| (name.to_owned(), Told { kind: Some(kind) })).into() }
}

impl World {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("ac-bench-").tempdir().expect("a folder");
        let pki = Pki::new();
        let upstream = upstream(&pki).await;
        let sides = [free_port(), free_port(), free_port(), free_port()];
        let mut world = Self {
            sides,
            upstreams: 20,
            upstream,
            token: String::new(),
            roots: Arc::new(RootCertStore::empty()),
            _processes: Vec::new(),
            dir,
        };
        fs::write(world.path("ca.pem"), &pki.ca).expect("a file");
        for name in ["ok", "told", "vault"] {
            fs::create_dir(world.path(name)).expect("a folder");
            fs::write(world.path(name).join("ca.pem"), &pki.ca).expect("a file");
        }
        world.write_config("ok", sides[1], &[]);
        world.write_config("told", sides[2], &[]);
        world.write_config("vault", sides[3], &[]);
        let redact = std::env::var("BENCH_REDACT").unwrap_or_else(|_| "true".to_owned());
        let vault = format!(
            "[credentials.\"api.stripe.com\"]\ntype = \"bearer\"\ntoken = {{ provider = \"env\", name = \"KEY\" }}\nredact = \
             {redact}\n"
        );
        fs::write(world.path("vault.toml"), vault).expect("a file");

        let log = |name: &str| fs::File::create(world.path(name)).expect("a log");
        let mut serve = Command::new(env!("CARGO_BIN_EXE_agent-creds"));
        serve.args(["serve", "--config", "ok", "--config", "told", "--config", "vault"]);
        serve.args(["--vault-config", "vault.toml", "--envoy", "none"]);
        serve.args(["--state-dir", "state", "--runtime-dir", "run", "--http", "127.0.0.1:0", "--log", "warn"]);
        serve.current_dir(world.dir.path()).env("KEY", "sk_test_0123456789").env("SSL_CERT_FILE", world.path("ca.pem"));
        let mut processes = vec![Process(serve.stderr(log("server.log")).spawn().expect("the server starts"))];
        wait_for("the server", || world.path("run/http.addr").exists()).await;

        let sockets = [world.path("yes.sock"), world.path("told.sock")];
        for (socket, told) in sockets.iter().zip([None, Some("told")]) {
            let mut yes = Command::new(std::env::current_exe().expect("this program"));
            yes.arg(YES).arg(socket).args(told);
            processes.push(Process(yes.spawn().expect("the vault that says yes starts")));
            wait_for("the vault that says yes", || socket.exists()).await;
        }

        for (name, config) in [
            ("bare", bare(sides[0], upstream, &pki)),
            ("ok", world.bootstrap("ok", Some(&sockets[0]))),
            ("told", world.bootstrap("told", Some(&sockets[1]))),
            ("vault", world.bootstrap("vault", None)),
        ] {
            let file = world.path(&format!("envoy-{name}.json"));
            fs::write(&file, config.to_string()).expect("a file");
            let mut envoy = Command::new(envoy_bin());
            envoy.arg("-c").arg(file).args(["--disable-hot-restart", "--log-level", "warning"]);
            envoy.stdout(Stdio::null()).stderr(log(&format!("envoy-{name}.log")));
            processes.push(Process(envoy.spawn().expect("Envoy starts")));
        }
        world._processes = processes;
        world.token = world.mint();
        let mut roots = RootCertStore::empty();
        let own = fs::read(world.path("state/ca/ca.pem")).expect("the CA");
        for pem in [pki.ca.as_bytes(), &own] {
            roots.add(CertificateDer::from_pem_slice(pem).expect("a certificate")).expect("a CA");
        }
        world.roots = Arc::new(roots);
        for addr in sides {
            let start = Instant::now();
            while connect(addr, world.tls(Protocol::H1), HOST).await.is_err() {
                assert!(
                    start.elapsed() < Duration::from_secs(20),
                    "Envoy does not serve; see {}",
                    world.dir.path().display()
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // Warm, and right: every answer is looked at.
            let (protocol, token) = (Protocol::H1, world.token());
            Load { addr, protocol, connections: 4, tls: world.tls(protocol), token, path: SHORT }
                .run(Duration::from_millis(500))
                .await;
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn sides(&self) -> [SocketAddr; 4] {
        self.sides
    }

    pub(crate) fn token(&self) -> String {
        self.token.clone()
    }

    /// No session is resumed, no ticket taken: each connection is a full handshake.
    pub(crate) fn tls(&self, protocol: Protocol) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder().with_root_certificates(Arc::clone(&self.roots)).with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![if protocol == Protocol::H2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        Arc::new(config)
    }

    /// Gives `vault` so many upstreams, and waits until the last one is served.
    pub(crate) async fn has_upstreams(&mut self, upstreams: usize) {
        self.upstreams = upstreams;
        let last = "last.example.com";
        self.save(last);
        let start = Instant::now();
        while !self.serves(last).await {
            assert!(start.elapsed() < Duration::from_secs(120), "{upstreams} upstreams are not served");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Saves the configuration of `vault` with one more host, as an editor does.
    pub(crate) fn save(&self, host: &str) {
        self.write_config("vault", self.sides[3], &[host]);
    }

    /// Whether a fresh handshake for `host` succeeds.
    pub(crate) async fn serves(&self, host: &str) -> bool {
        connect(self.sides[3], self.tls(Protocol::H1), host).await.is_ok()
    }

    fn write_config(&self, name: &str, listen: SocketAddr, more: &[&str]) {
        let mut text = format!("[gateway]\nname = \"{name}\"\nlisten = \"{listen}\"\n\n");
        let upstreams = if name == "vault" { self.upstreams } else { 20 };
        let hosts = (1..upstreams).map(|number| format!("host-{number}.example.com")).chain([HOST.to_owned()]);
        for host in hosts.chain(more.iter().map(|&host| host.to_owned())) {
            let upstream = self.upstream;
            text.push_str(&format!("[upstream.\"{host}\"]\naddress = \"{upstream}\"\nca = \"ca.pem\"\n\n"));
        }
        let partial = self.path(name).join(".partial");
        fs::write(&partial, text).expect("a file");
        fs::rename(partial, self.path(name).join("agent-creds.toml")).expect("a file");
    }

    fn run(&self, program: &str, args: &[&str]) -> String {
        let output = Command::new(program).args(args).current_dir(self.dir.path()).output().expect("a program");
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    fn mint(&self) -> String {
        let four = ["--hosts", HOST, "--methods", "GET,POST", "--paths", "/v1/customers/*,/v1/charges/**"];
        self.run(env!("CARGO_BIN_EXE_mint"), &[&["--state-dir", "state"], &four[..]].concat()).trim().to_owned()
    }

    /// The bootstrap for a gateway's own Envoy, whose vault may be another one.
    fn bootstrap(&self, gateway: &str, vault: Option<&Path>) -> Value {
        let args = ["bootstrap", "--node-id", gateway, "--cluster", gateway, "--runtime-dir", "run"];
        let text = self.run(env!("CARGO_BIN_EXE_agent-creds"), &args);
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        config["admin"]["address"]["pipe"]["path"] = json!(self.path(&format!("admin-{gateway}.sock")));
        if let Some(socket) = vault {
            let clusters = config["static_resources"]["clusters"].as_array_mut().expect("clusters");
            let cluster =
                clusters.iter_mut().find(|cluster| cluster["name"] == "agent_creds_vault").expect("the vault");
            cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["pipe"]["path"] =
                json!(socket);
        }
        config
    }
}

fn envoy_bin() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/envoy/fetch.sh");
    let output = Command::new(script).output().expect("envoy/fetch.sh runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

/// A port of loopback that was free a moment ago.
fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

async fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} does not start");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

struct Pki {
    ca: String,
    chain: String,
    key: String,
}

impl Pki {
    fn new() -> Self {
        let made = "certificates can be made";
        let ca_key = KeyPair::generate().expect(made);
        let mut params = CertificateParams::default();
        // Not the leaf's: a certificate whose subject is its issuer counts as signed by itself.
        params.distinguished_name.push(DnType::CommonName, "benchmark CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = params.self_signed(&ca_key).expect(made).pem();
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate().expect(made);
        let leaf = CertificateParams::new(vec![HOST.to_owned()]).expect(made);
        let chain = leaf.signed_by(&key, &issuer).expect(made).pem();
        Self { ca, chain, key: key.serialize_pem() }
    }
}

/// An answer of this length, as an API gives it.
fn answer(length: usize) -> Arc<str> {
    let body: String = body().chars().cycle().take(length).collect();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    (head + &body).into()
}

/// 1 KB as APIs answer it.
fn body() -> String {
    let item =
        |n: u32| format!("{{\"id\":\"it_1N{n}\",\"sku\":\"abc-{n}\",\"status\":\"succeeded\",\"amount\":{}}}", n * 100);
    let items: Vec<String> = (10..24).map(item).collect();
    format!("{:<1024}", format!("{{\"object\":\"list\",\"data\":[{}]}}", items.join(",")))
}

/// Answers requests with 1 KB, those for [`LONG`] with 1 MB, by HTTP/1.1.
async fn upstream(pki: &Pki) -> SocketAddr {
    let chain = vec![CertificateDer::from_pem_slice(pki.chain.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(pki.key.as_bytes()).expect("a key");
    let mut tls = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).expect("TLS");
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (short, long) = (answer(1024), answer(1_000_000));
    tokio::spawn(async move {
        loop {
            let Ok((tcp, _)) = listener.accept().await else { continue };
            let (acceptor, short, long) = (acceptor.clone(), Arc::clone(&short), Arc::clone(&long));
            tokio::spawn(async move {
                let _ = tcp.set_nodelay(true);
                let Ok(mut stream) = acceptor.accept(tcp).await else { return };
                let mut buffer = Vec::with_capacity(4096);
                // Requests without a body: each ends with an empty line.
                while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
                    while let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                        let head: Vec<u8> = buffer.drain(..end + 4).collect();
                        let is_long = head.windows(LONG.len()).any(|bytes| bytes == LONG.as_bytes());
                        let answer = if is_long { &long } else { &short };
                        if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    addr
}

/// An Envoy that does the same TLS on both sides, and asks nobody.
fn bare(listen: SocketAddr, upstream: SocketAddr, pki: &Pki) -> Value {
    let address =
        |addr: SocketAddr| json!({ "socket_address": { "address": addr.ip().to_string(), "port_value": addr.port() } });
    let any = |kind: &str, mut value: Value| {
        value["@type"] = json!(format!("type.googleapis.com/envoy.extensions.{kind}"));
        value
    };
    let tls = |kind: &str, value: Value| json!({ "name": "envoy.transport_sockets.tls", "typed_config": any(&format!("transport_sockets.tls.v3.{kind}"), value) });
    let leaf =
        json!({ "certificate_chain": { "inline_string": pki.chain }, "private_key": { "inline_string": pki.key } });
    let down = json!({ "common_tls_context": { "alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [leaf] } });
    let trusted = json!({ "trusted_ca": { "inline_string": pki.ca } });
    let up = json!({
        "sni": HOST, "auto_sni_san_validation": true, "common_tls_context": { "validation_context": trusted },
    });
    let router = any("filters.http.router.v3.Router", json!({}));
    let manager = any(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "bare",
            "route_config": { "virtual_hosts": [{
                "name": "all", "domains": ["*"], "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "upstream" } }],
            }] },
            "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": router }],
        }),
    );
    let many = 1 << 20;
    json!({ "static_resources": {
        "listeners": [{
            "name": "bare",
            "address": address(listen),
            "filter_chains": [{
                "transport_socket": tls("DownstreamTlsContext", down),
                "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }],
            }],
        }],
        "clusters": [{
            "name": "upstream",
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": "upstream",
                "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(upstream) } }] }],
            },
            "circuit_breakers": { "thresholds": [{ "max_connections": many, "max_pending_requests": many, "max_requests": many }] },
            "transport_socket": tls("UpstreamTlsContext", up),
        }],
    } })
}
