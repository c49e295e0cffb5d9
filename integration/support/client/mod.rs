//! An HTTP client in which everything can be said wrongly: SNI, authority, headers, and the bytes themselves.
//!
//! Every call opens its own connection, without TLS session resumption, and has a deadline: a test never hangs. For
//! keep-alive see [`Client::connect`].

mod connection;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

pub use self::connection::{Connection, Event, Streaming};
pub use self::websocket::{WebSocket, WebSocketError, WebSocketH2};

/// How long a call may take in all, unless [`Call::timeout`] says otherwise.
const DEADLINE: Duration = Duration::from_secs(15);

/// The HTTP version to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Proto {
    /// HTTP/1.1.
    #[default]
    H1,
    /// HTTP/2.
    H2,
}

/// What kept a call from getting an answer. An answer with an error status is an answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No TCP connection.
    #[error("connect: {0}")]
    Connect(#[source] std::io::Error),
    /// The TLS handshake failed, or the server did not take the protocol offered.
    #[error("TLS: {0}")]
    Tls(#[source] std::io::Error),
    /// The connection broke later on.
    #[error("HTTP: {0}{causes}", causes = source_chain(.0))]
    Http(#[from] hyper::Error),
    /// Reading or writing raw bytes.
    #[error("I/O: {0}")]
    Io(#[from] std::io::Error),
    /// Nothing came in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

fn source_chain(error: &hyper::Error) -> String {
    let mut text = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Calls one proxy (or server), whatever host the URLs name.
#[derive(Clone)]
pub struct Client {
    addr: SocketAddr,
    roots: Arc<RootCertStore>,
    sni: bool,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The HTTP version it came by.
    pub version: Version,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }
}

impl Client {
    /// A client that connects to `addr` for every host and trusts the CAs in `ca_pem` alone.
    pub fn new(ca_pem: &str, addr: SocketAddr) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        Self { addr, roots: Arc::new(roots), sni: true }
    }

    /// The same client, sending no server name in its handshakes.
    pub fn without_sni(mut self) -> Self {
        self.sni = false;
        self
    }

    /// `GET https://HOST/PATH`.
    pub fn get(&self, url: &str) -> Call {
        self.call(Method::GET, url)
    }

    /// `POST`, with a body.
    pub fn post(&self, url: &str, body: impl Into<Bytes>) -> Call {
        self.call(Method::POST, url).body(body)
    }

    /// Any method. The URL is `https://HOST/PATH`, sent as it stands (no normalisation).
    pub fn call(&self, method: Method, url: &str) -> Call {
        let uri: Uri = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
        let host = uri.host().unwrap_or_else(|| panic!("{url}: no host")).to_owned();
        Call {
            client: self.clone(),
            method,
            authority: host.clone(),
            sni: host,
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            proto: Proto::H1,
            timeout: DEADLINE,
        }
    }

    /// A TLS connection for `sni` offering these protocols (none: no ALPN), for hand-written HTTP.
    pub async fn tls(&self, sni: &str, alpn: &[&str]) -> Result<TlsStream<TcpStream>, ClientError> {
        let mut config = ClientConfig::builder().with_root_certificates(Arc::clone(&self.roots)).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.resumption = Resumption::disabled();
        config.enable_sni = self.sni;
        let name = ServerName::try_from(sni.to_owned()).unwrap_or_else(|error| panic!("{sni}: {error}"));
        let handshake = async {
            let tcp = TcpStream::connect(self.addr).await.map_err(ClientError::Connect)?;
            tcp.set_nodelay(true).map_err(ClientError::Connect)?;
            TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(ClientError::Tls)
        };
        tokio::time::timeout(DEADLINE, handshake).await.map_err(|_| ClientError::Timeout(DEADLINE))?
    }

    /// A connection for any number of requests.
    pub async fn connect(&self, sni: &str, proto: Proto) -> Result<Connection, ClientError> {
        Connection::open(self, sni, proto).await
    }

    /// Sends these bytes after the handshake and returns all that comes back until the peer closes, or is silent for
    /// half a second after its first byte (or for the deadline before it).
    pub async fn raw(&self, sni: &str, bytes: &[u8]) -> Result<Vec<u8>, ClientError> {
        let mut stream = self.tls(sni, &["http/1.1"]).await?;
        stream.write_all(bytes).await?;
        let mut answer = Vec::new();
        loop {
            let patience = if answer.is_empty() { DEADLINE } else { Duration::from_millis(500) };
            match tokio::time::timeout(patience, stream.read_buf(&mut answer)).await {
                Ok(Ok(0)) => return Ok(answer),
                Ok(Ok(_)) => {}
                // Many servers close without a TLS close_notify after an error.
                Ok(Err(_)) | Err(_) if !answer.is_empty() => return Ok(answer),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err(ClientError::Timeout(DEADLINE)),
            }
        }
    }
}

/// A request that is being put together.
pub struct Call {
    client: Client,
    method: Method,
    authority: String,
    sni: String,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    proto: Proto,
    timeout: Duration,
}

impl Call {
    /// Adds a header; the value may be any bytes a header can carry.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_bytes(value.as_ref()).unwrap());
        self
    }

    /// Adds `Authorization: Bearer TOKEN`.
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Another server name in the handshake than the URL's host.
    pub fn sni(mut self, sni: &str) -> Self {
        sni.clone_into(&mut self.sni);
        self
    }

    /// Another `Host` or `:authority` than the URL's host.
    pub fn authority(mut self, authority: &str) -> Self {
        authority.clone_into(&mut self.authority);
        self
    }

    /// By HTTP/2.
    pub fn h2(self) -> Self {
        self.proto(Proto::H2)
    }

    /// By this HTTP version.
    pub fn proto(mut self, proto: Proto) -> Self {
        self.proto = proto;
        self
    }

    /// Another deadline for the whole call.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The server name its handshake will carry.
    pub fn server_name(&self) -> &str {
        &self.sni
    }

    /// The request in the form its HTTP version wants.
    pub fn to_request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(self.method.clone());
        request = match self.proto {
            Proto::H1 => request.uri(self.path.as_str()).header(header::HOST, self.authority.as_str()),
            Proto::H2 => request.version(Version::HTTP_2).uri(format!("https://{}{}", self.authority, self.path)),
        };
        let mut request = request.body(Full::new(self.body.clone())).unwrap();
        request.headers_mut().extend(self.headers.clone());
        request
    }

    /// Sends it and reads the whole answer.
    pub async fn send(self) -> Result<Reply, ClientError> {
        let call = async {
            let mut connection = self.client.connect(&self.sni, self.proto).await?;
            connection.send(self.to_request()).await
        };
        tokio::time::timeout(self.timeout, call).await.map_err(|_| ClientError::Timeout(self.timeout))?
    }

    /// Sends it and returns when the headers of the answer are there, to read its body piece by piece.
    pub async fn stream(self) -> Result<Streaming, ClientError> {
        let call = async {
            let mut connection = self.client.connect(&self.sni, self.proto).await?;
            let response = connection.send_streaming(self.to_request()).await?;
            Ok(Streaming::new(response, connection))
        };
        tokio::time::timeout(self.timeout, call).await.map_err(|_| ClientError::Timeout(self.timeout))?
    }
}

/// Reads the rest of an answer.
pub async fn collect(response: http::Response<hyper::body::Incoming>) -> Result<Reply, hyper::Error> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Reply { status: parts.status, headers: parts.headers, body, version: parts.version })
}
