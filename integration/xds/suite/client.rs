//! A client of the protocol over raw HTTP/2, which hears exactly what the server says, and only as fast as it wants to.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use super::wire::{Answer, Ask, Kind, Proto, path};

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `HOST:PORT`
    Tcp(String),
    /// `unix:PATH`
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(_) => Err("unix: needs a path".to_owned()),
            None if text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => {
                Ok(Self::Tcp(text.to_owned()))
            }
            None => Err("an address is HOST:PORT or unix:PATH".to_owned()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Both directions of a connection.
pub trait Io: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

impl Address {
    pub async fn connect(&self) -> std::io::Result<Pin<Box<dyn Io>>> {
        Ok(match self {
            Self::Tcp(address) => {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                Box::pin(tcp)
            }
            Self::Unix(path) => Box::pin(UnixStream::connect(path).await?),
        })
    }
}

/// How much a client takes before it has read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    /// The protocol's 64 KiB.
    Small,
    /// 16 MiB.
    Large,
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// `grpc-status`; `None` when there was none, as when the connection broke.
    pub code: Option<u32>,
    pub message: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "the stream ended with grpc-status {code}: {:?}", self.message),
            None => write!(f, "the stream ended without a status: {}", self.message),
        }
    }
}

impl From<h2::Error> for Ended {
    fn from(error: h2::Error) -> Self {
        Self { code: None, message: error.to_string() }
    }
}

/// A connection; dropping it closes it.
pub struct Connection {
    requests: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    pub async fn open(address: &Address, windows: Windows) -> std::io::Result<Self> {
        let io = address.connect().await?;
        let mut builder = h2::client::Builder::new();
        if windows == Windows::Large {
            builder.initial_window_size(16 << 20).initial_connection_window_size(16 << 20);
        }
        let (requests, connection) = builder.handshake(io).await.map_err(std::io::Error::other)?;
        // What goes wrong on the connection comes back from the streams.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { requests, driver })
    }

    /// Opens a stream: the aggregated one, or that of a type.
    pub async fn stream(&self, proto: Proto, kind: Option<Kind>) -> Result<Stream, Ended> {
        self.call(proto, path(proto, kind)).await
    }

    /// Opens a stream of the method at `path`.
    pub async fn call(&self, proto: Proto, path: &str) -> Result<Stream, Ended> {
        let mut requests = self.requests.clone().ready().await?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://xds{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|error| Ended { code: None, message: error.to_string() })?;
        let (response, sender) = requests.send_request(request, false)?;
        let receiver = Receiver { proto, state: State::Waiting(response), buffer: BytesMut::new() };
        Ok(Stream { sender: Sender { proto, stream: sender }, receiver })
    }
}

/// One stream of requests and answers.
pub struct Stream {
    pub sender: Sender,
    pub receiver: Receiver,
}

impl Stream {
    pub fn send(&mut self, ask: Ask) -> Result<(), Ended> {
        self.sender.send(ask)
    }

    /// The next answer. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Result<Answer, Ended> {
        self.receiver.next().await
    }
}

/// What the client says on a stream.
pub struct Sender {
    proto: Proto,
    stream: SendStream<Bytes>,
}

impl Sender {
    pub fn send(&mut self, ask: Ask) -> Result<(), Ended> {
        let message = ask.encode(self.proto);
        Ok(self.stream.send_data(framed(&message), false)?)
    }

    /// Says that no more requests come.
    pub fn finish(&mut self) -> Result<(), Ended> {
        Ok(self.stream.send_data(Bytes::new(), true)?)
    }
}

/// A message as gRPC frames it.
pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(message.len().try_into().unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// Takes a whole message out of `buffer`, if there is one.
pub fn unframed(buffer: &mut BytesMut) -> Option<Bytes> {
    let len = u32::from_be_bytes(buffer.get(1..5)?.try_into().ok()?) as usize;
    if buffer.len() < len + 5 {
        return None;
    }
    buffer.advance(5);
    Some(buffer.split_to(len).freeze())
}

enum State {
    Waiting(ResponseFuture),
    Open(RecvStream),
}

/// What the server says on a stream.
pub struct Receiver {
    proto: Proto,
    state: State,
    buffer: BytesMut,
}

impl Receiver {
    /// The next answer. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Result<Answer, Ended> {
        let proto = self.proto;
        let bytes = self.next_bytes().await?;
        Answer::decode(proto, &bytes).map_err(|error| Ended { code: None, message: format!("garbage: {error}") })
    }

    /// The next message as it came.
    pub async fn next_bytes(&mut self) -> Result<Bytes, Ended> {
        loop {
            if let Some(message) = unframed(&mut self.buffer) {
                return Ok(message);
            }
            match &mut self.state {
                State::Waiting(response) => {
                    let response = response.await?;
                    if let Some(ended) = status(response.headers()) {
                        return Err(ended);
                    }
                    if response.status() != 200 {
                        return Err(Ended { code: None, message: format!("HTTP status {}", response.status()) });
                    }
                    self.state = State::Open(response.into_body());
                }
                State::Open(body) => match body.data().await {
                    Some(chunk) => {
                        let chunk = chunk?;
                        body.flow_control().release_capacity(chunk.len())?;
                        self.buffer.extend_from_slice(&chunk);
                    }
                    None => {
                        let trailers = body.trailers().await?.unwrap_or_default();
                        let none = || Ended { code: None, message: "no trailers".to_owned() };
                        return Err(status(&trailers).unwrap_or_else(none));
                    }
                },
            }
        }
    }
}

fn status(headers: &HeaderMap) -> Option<Ended> {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
    let code = text("grpc-status")?.parse().ok();
    Some(Ended { code, message: text("grpc-message").unwrap_or_default() })
}
