//! One connection, and the body of an answer as it comes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::task::JoinHandle;

use super::{Client, ClientError, DEADLINE, Proto, Reply, collect};

/// A connection that takes one request after the other; dropping it closes it.
pub struct Connection {
    sender: Sender,
    driver: JoinHandle<()>,
    peer_certificate: Vec<u8>,
    answers: usize,
}

enum Sender {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    pub(super) async fn open(client: &Client, sni: &str, proto: Proto) -> Result<Self, ClientError> {
        let alpn = match proto {
            Proto::H1 => "http/1.1",
            Proto::H2 => "h2",
        };
        let tls = client.tls(sni, &[alpn]).await?;
        let peer_certificate = tls.get_ref().1.peer_certificates().map_or(Vec::new(), |certs| certs[0].to_vec());
        let io = TokioIo::new(tls);
        let (sender, driver) = match proto {
            Proto::H1 => {
                let (sender, connection) = http1::handshake(io).await?;
                // What goes wrong on the connection comes back from the request it happened to.
                let driver = tokio::spawn(async move { drop(connection.with_upgrades().await) });
                (Sender::H1(sender), driver)
            }
            Proto::H2 => {
                let (sender, connection) =
                    http2::Builder::new(TokioExecutor::new()).timer(TokioTimer::new()).handshake(io).await?;
                (Sender::H2(sender), tokio::spawn(async move { drop(connection.await) }))
            }
        };
        Ok(Self { sender, driver, peer_certificate, answers: 0 })
    }

    /// The server's leaf certificate, DER.
    pub fn peer_certificate(&self) -> &[u8] {
        &self.peer_certificate
    }

    /// How many answers began on this connection.
    pub fn answers(&self) -> usize {
        self.answers
    }

    /// True once the connection takes no more requests.
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::H1(sender) => sender.is_closed(),
            Sender::H2(sender) => sender.is_closed(),
        }
    }

    /// Sends a request (see [`super::Call::to_request`]) and reads the whole answer. Has no deadline of its own.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Reply, ClientError> {
        Ok(collect(self.send_streaming(request).await?).await?)
    }

    /// Sends a request and returns when the headers of the answer are there. Has no deadline of its own.
    pub async fn send_streaming(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        let response = match &mut self.sender {
            Sender::H1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::H2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        self.answers += 1;
        Ok(response)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// An answer whose body is read as it comes; dropping it closes its connection.
pub struct Streaming {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    buffer: BytesMut,
    _connection: Connection,
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// Its `event` field, or empty.
    pub event: String,
    /// Its `id` field, or empty.
    pub id: String,
    /// Its `data`, lines joined by line breaks.
    pub data: String,
}

impl Streaming {
    pub(super) fn new(response: Response<Incoming>, connection: Connection) -> Self {
        let (parts, body) = response.into_parts();
        let buffer = BytesMut::new();
        Self { status: parts.status, headers: parts.headers, body, buffer, _connection: connection }
    }

    /// The next piece of the body, `None` at its proper end.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        self.next_chunk_within(DEADLINE).await
    }

    /// The next piece of the body if it comes in time.
    pub async fn next_chunk_within(&mut self, timeout: Duration) -> Result<Option<Bytes>, ClientError> {
        let next = async {
            while let Some(frame) = self.body.frame().await {
                if let Ok(data) = frame?.into_data() {
                    return Ok(Some(data));
                }
            }
            Ok(None)
        };
        tokio::time::timeout(timeout, next).await.map_err(|_| ClientError::Timeout(timeout))?
    }

    /// The next server-sent event, `None` at the proper end of the stream. Do not mix with [`Streaming::next_chunk`].
    pub async fn next_event(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block = self.buffer.split_to(end + 2);
                return Ok(Some(parse_event(&String::from_utf8_lossy(&block))));
            }
            match self.next_chunk().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

fn parse_event(block: &str) -> Event {
    let mut event = Event::default();
    let mut data = Vec::new();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut event.event),
            "id" => value.clone_into(&mut event.id),
            "data" => data.push(value),
            _ => {}
        }
    }
    event.data = data.join("\n");
    event
}
