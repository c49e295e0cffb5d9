//! Requests of our own, one connection each: for `exec` (its environment holds tokens, so no library sees it), and for what streams.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use bollard::ClientVersion;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

use super::DockerError;

/// As much of an answer as is read: what we ask for is far smaller.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Where Docker listens, and in which version to speak.
#[derive(Clone)]
pub(super) struct Wire {
    address: Address,
    version: Option<ClientVersion>,
}

#[derive(Clone)]
enum Address {
    Unix(PathBuf),
    Tcp(String),
}

/// What `/version` says.
pub(super) struct EngineVersion {
    pub(super) engine: String,
    pub(super) api: String,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(authority) => write!(f, "tcp://{authority}"),
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)
    }
}

impl Wire {
    pub(super) fn parse(host: &str) -> Result<Self, DockerError> {
        let address = if let Some(path) = host.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            Address::Unix(path.into())
        } else if let Some(authority) = host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://")) {
            Address::Tcp(authority.trim_end_matches('/').to_owned())
        } else {
            return Err(DockerError::BadHost { host: host.to_owned() });
        };
        Ok(Self { address, version: None })
    }

    pub(super) fn speaking(self, version: ClientVersion) -> Self {
        Self { version: Some(version), ..self }
    }

    /// Whether the engine speaks API 1.`minor`.
    pub(super) fn speaks(&self, minor: usize) -> bool {
        self.version.is_some_and(|version| (version.major_version, version.minor_version) >= (1, minor))
    }

    pub(super) async fn version(&self, deadline: Duration) -> Result<EngineVersion, DockerError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            version: String,
            api_version: String,
        }
        let answer: Answer = self.ask(deadline, "ask Docker for its version", Method::GET, "/version", None).await?;
        let clean = |text: &str| super::error::clean(text);
        Ok(EngineVersion { engine: clean(&answer.version), api: clean(&answer.api_version) })
    }

    /// Asks, and reads the answer's JSON.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        deadline: Duration,
        action: &'static str,
        method: Method,
        path: &str,
        body: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<T, DockerError> {
        timeout(deadline, action, async {
            let response = self.send(action, method, path, body, false).await?;
            let bytes = read(response).await.map_err(|source| DockerError::Connection { action, source })?;
            serde_json::from_slice(&bytes)
                .map_err(|source| DockerError::Connection { action, source: io::Error::other(source) })
        })
        .await
    }

    /// Asks; the answer is a stream, and its head comes within `deadline`.
    pub(super) async fn open(
        &self,
        deadline: Duration,
        action: &'static str,
        path: &str,
    ) -> Result<Incoming, DockerError> {
        let response = timeout(deadline, action, self.send(action, Method::GET, path, None, false)).await?;
        Ok(response.into_body())
    }

    /// Turns the connection into a stream of bytes in both directions.
    pub(super) async fn upgrade(
        &self,
        deadline: Duration,
        action: &'static str,
        path: &str,
        body: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<TokioIo<Upgraded>, DockerError> {
        timeout(deadline, action, async {
            let response = self.send(action, Method::POST, path, body, true).await?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                let message = "it did not switch to a stream; is there a proxy in front of it?".to_owned();
                return Err(DockerError::Refused { action, message });
            }
            let lost = |error| DockerError::Connection { action, source: io::Error::other(error) };
            hyper::upgrade::on(response).await.map(TokioIo::new).map_err(lost)
        })
        .await
    }

    /// Sends a request; an answer that is an error becomes one.
    async fn send(
        &self,
        action: &'static str,
        method: Method,
        path: &str,
        body: Option<Zeroizing<Vec<u8>>>,
        upgrade: bool,
    ) -> Result<Response<Incoming>, DockerError> {
        let lost = |source| DockerError::Connection { action, source };
        let path = match self.version {
            Some(version) => format!("/v{version}{path}"),
            None => path.to_owned(),
        };
        let host = match &self.address {
            Address::Unix(_) => "docker",
            Address::Tcp(authority) => authority,
        };
        // The last owner of the body wipes it.
        let body = body.map_or_else(Bytes::new, Bytes::from_owner);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| lost(io::Error::other(error)))?;
        if upgrade {
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            request.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        }
        let response = match &self.address {
            Address::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => exchange(TokioIo::new(stream), request).await,
                Err(source) => return Err(self.unreachable(source).await),
            },
            Address::Tcp(authority) => match TcpStream::connect(authority).await {
                Ok(stream) => exchange(TokioIo::new(stream), request).await,
                Err(source) => return Err(self.unreachable(source).await),
            },
        };
        let response = response.map_err(|error| lost(io::Error::other(error)))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let bytes = read(response).await.map_err(lost)?;
        Err(DockerError::answered(action, status.as_u16(), &message(&bytes)))
    }

    async fn unreachable(&self, source: io::Error) -> DockerError {
        let host = self.address.to_string();
        match (&self.address, source.kind()) {
            (Address::Unix(_), io::ErrorKind::NotFound) => DockerError::NoDocker { host },
            (Address::Unix(path), io::ErrorKind::PermissionDenied) => {
                let group = group_of(path).await.unwrap_or_else(|| "docker".to_owned());
                DockerError::NoPermission { socket: path.display().to_string(), group }
            }
            _ => DockerError::NotRunning { host, source },
        }
    }
}

/// The group that a file belongs to, by name where `/etc/group` has one.
async fn group_of(path: &std::path::Path) -> Option<String> {
    let gid = tokio::fs::metadata(path).await.ok()?.gid().to_string();
    let groups = tokio::fs::read_to_string("/etc/group").await.unwrap_or_default();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == gid).then(|| name.to_owned())
    });
    Some(name.unwrap_or(gid))
}

async fn exchange<S>(stream: TokioIo<S>, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>>
where
    TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(stream).await?;
    // Ends with the connection: when the answer was read, or whoever holds the stream lets go of it.
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await
}

async fn read(response: Response<Incoming>) -> io::Result<Bytes> {
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(io::Error::other)?;
    Ok(body.to_bytes())
}

/// What a refusal says: `{"message": "…"}`.
fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Refusal {
        message: String,
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => refusal.message,
        Err(_) => String::from_utf8_lossy(body.get(..1024).unwrap_or(body)).into_owned(),
    }
}

pub(super) async fn timeout<T>(
    deadline: Duration,
    action: &'static str,
    call: impl Future<Output = Result<T, DockerError>>,
) -> Result<T, DockerError> {
    let late = DockerError::TimedOut { action, seconds: deadline.as_secs() };
    tokio::time::timeout(deadline, call).await.unwrap_or(Err(late))
}
