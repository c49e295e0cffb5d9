//! A lean load generator: connections that ask one thing after the other, without TLS session resumption.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

pub(crate) const HOST: &str = "api.stripe.com";
/// Answered with 1 KB.
pub(crate) const SHORT: &str = "/v1/charges/ch_123?expand=customer";
/// Answered with 1 MB.
pub(crate) const LONG: &str = "/v1/charges/long";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1, kept alive.
    H1,
    /// HTTP/2, one stream at a time on each connection.
    H2,
    /// HTTP/1.1, each request on a connection of its own.
    NewH1,
}

/// What is to be asked of whom.
pub(crate) struct Load {
    pub(crate) addr: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) connections: usize,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) token: String,
    pub(crate) path: &'static str,
}

/// What came of it: answers per second, and seconds to an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) rate: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Load {
    pub(crate) async fn run(&self, time: Duration) -> Sample {
        let start = Instant::now();
        let end = start + time;
        let mut tasks: JoinSet<Vec<Duration>> = JoinSet::new();
        for _ in 0..self.connections {
            let (addr, protocol, tls, token) = (self.addr, self.protocol, Arc::clone(&self.tls), self.token.clone());
            let request = request_text(self.path, &token);
            tasks.spawn(async move {
                match protocol {
                    Protocol::H1 => keep_alive(addr, tls, &request, end).await,
                    Protocol::H2 => http2(addr, tls, &token, end).await,
                    Protocol::NewH1 => new_connections(addr, tls, &request, end).await,
                }
            });
        }
        let mut times = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            times.extend(ended.expect("every request is answered"));
        }
        let elapsed = start.elapsed().as_secs_f64();
        times.sort_unstable();
        assert!(!times.is_empty(), "there were answers");
        let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)].as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "far fewer answers than 2^52")]
        let rate = times.len() as f64 / elapsed;
        Sample { rate, p50: at(50), p99: at(99) }
    }
}

pub(crate) async fn connect(
    addr: SocketAddr,
    tls: Arc<ClientConfig>,
    sni: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(addr).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(sni.to_owned()).expect("a host name");
    TlsConnector::from(tls).connect(name, tcp).await
}

fn request_text(path: &str, token: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {token}\r\naccept: application/json\r\n\
         accept-encoding: gzip\r\nuser-agent: Stripe/v1 PythonBindings/9.12.0\r\nstripe-version: 2024-06-20\r\n\r\n"
    )
}

async fn keep_alive(addr: SocketAddr, tls: Arc<ClientConfig>, request: &str, end: Instant) -> Vec<Duration> {
    let mut stream = connect(addr, tls, HOST).await.expect("a connection");
    let mut buffer = Vec::with_capacity(4096);
    let mut times = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        ask(&mut stream, request, &mut buffer).await;
        times.push(start.elapsed());
    }
    times
}

async fn new_connections(addr: SocketAddr, tls: Arc<ClientConfig>, request: &str, end: Instant) -> Vec<Duration> {
    let mut buffer = Vec::with_capacity(4096);
    let mut times = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        let mut stream = connect(addr, Arc::clone(&tls), HOST).await.expect("a connection");
        ask(&mut stream, request, &mut buffer).await;
        times.push(start.elapsed());
    }
    times
}

/// One request, and its whole answer.
async fn ask(stream: &mut TlsStream<TcpStream>, request: &str, buffer: &mut Vec<u8>) {
    stream.write_all(request.as_bytes()).await.expect("the request is taken");
    buffer.clear();
    loop {
        let read = stream.read_buf(buffer).await.expect("an answer");
        assert!(read > 0, "the connection was closed: {}", String::from_utf8_lossy(buffer));
        let Some(head) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(buffer));
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if buffer.len() >= head + 4 + length.expect("the answer has a length") {
            return;
        }
    }
}

async fn http2(addr: SocketAddr, tls: Arc<ClientConfig>, token: &str, end: Instant) -> Vec<Duration> {
    let stream = connect(addr, tls, HOST).await.expect("a connection");
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let driver = tokio::spawn(connection);
    let mut times = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        let request = http::Request::get(format!("https://{HOST}{SHORT}"))
            .header("authorization", format!("Bearer {token}"))
            .header("accept", "application/json")
            .header("accept-encoding", "gzip")
            .header("user-agent", "Stripe/v1 PythonBindings/9.12.0")
            .header("stripe-version", "2024-06-20")
            .body(())
            .expect("a request");
        sender = sender.ready().await.expect("the connection is open");
        let (response, _) = sender.send_request(request, true).expect("the request is taken");
        let response = response.await.expect("an answer");
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.expect("the body");
            body.flow_control().release_capacity(chunk.len()).expect("what was received");
        }
        times.push(start.elapsed());
    }
    driver.abort();
    times
}
