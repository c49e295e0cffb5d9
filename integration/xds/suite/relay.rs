//! A server that stands between the client and the one under test, and may break what passes.
//!
//! Faithful, it changes nothing a case can see: messages are decoded and encoded again, and a client that does not read is
//! not read for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use super::client::{Address, Connection, Ended, Stream, Windows, framed, unframed};
use super::sabotage::{Flow, Tap};
use super::wire::{Answer, Ask, Proto, proto_of};
use super::{Step, fail};

/// A running relay; it stops when dropped.
pub struct Relay {
    address: Address,
    task: JoinHandle<()>,
    _folder: Folder,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A temporary folder.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing is left to do about it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What the connections of a relay share.
pub struct Shared {
    /// The case to break.
    pub case: Option<u8>,
    target: Address,
    connections: AtomicUsize,
    /// Held while something is sent, by a relay that lets slow readers hold up others.
    pub sending: tokio::sync::Mutex<()>,
    /// How to end the stream of a node.
    pub nodes: Mutex<BTreeMap<String, Arc<Notify>>>,
}

impl Relay {
    pub fn start(target: &Address, case: Option<u8>) -> Step<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("xds-relay-{}-{number}", std::process::id()));
        let socket = folder.join("relay.sock");
        let bound = std::fs::create_dir_all(&folder).and_then(|()| UnixListener::bind(&socket));
        let listener = match bound {
            Ok(listener) => listener,
            Err(error) => return fail(format!("cannot listen on {}: {error}", socket.display())),
        };
        let shared = Arc::new(Shared {
            case,
            target: target.clone(),
            connections: AtomicUsize::new(0),
            sending: tokio::sync::Mutex::new(()),
            nodes: Mutex::default(),
        });
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(relay(Arc::clone(&shared), stream));
            }
        });
        Ok(Self { address: Address::Unix(socket), task, _folder: Folder(folder) })
    }

    pub fn address(&self) -> &Address {
        &self.address
    }
}

async fn relay(shared: Arc<Shared>, stream: UnixStream) -> Option<()> {
    let number = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
    let target = Connection::open(&shared.target, Windows::Small).await.ok()?;
    let mut client = h2::server::handshake(stream).await.ok()?;
    let mut streams = JoinSet::new();
    let mut paths = Vec::new();
    while let Some(accepted) = client.accept().await {
        let (request, response) = accepted.ok()?;
        let path = request.uri().path().to_owned();
        let is_other = !paths.is_empty() && !paths.contains(&path);
        let proto = proto_of(&path);
        if shared.case == Some(20) && is_other {
            let message = "one kind of stream at a time".to_owned();
            end(response.into(), &Ended { code: Some(12), message }).await;
            continue;
        }
        let upstream = target.call(proto, &path).await.ok()?;
        paths.push(path);
        let tap = Tap::new(Arc::clone(&shared), proto, number);
        streams.spawn(pump(tap, proto, request, response, upstream));
    }
    Some(())
}

/// Where responses go: headers first.
enum Down {
    Start(SendResponse<Bytes>),
    Open(SendStream<Bytes>),
    Over,
}

impl From<SendResponse<Bytes>> for Down {
    fn from(response: SendResponse<Bytes>) -> Self {
        Self::Start(response)
    }
}

impl Down {
    fn open(&mut self) -> Option<&mut SendStream<Bytes>> {
        if let Self::Start(response) = self {
            let head = Response::builder().header("content-type", "application/grpc").body(()).ok()?;
            *self = Self::Open(response.send_response(head, false).ok()?);
        }
        match self {
            Self::Open(stream) => Some(stream),
            Self::Start(_) | Self::Over => None,
        }
    }

    /// Sends one message, as far as the client has room.
    async fn send(&mut self, mut message: Bytes) -> Option<()> {
        let stream = self.open()?;
        while !message.is_empty() {
            stream.reserve_capacity(message.len());
            let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await?.ok()?;
            let part = message.split_to(room.min(message.len()));
            stream.send_data(part, false).ok()?;
        }
        Some(())
    }
}

async fn end(mut down: Down, ended: &Ended) {
    let mut trailers = HeaderMap::new();
    let code = ended.code.unwrap_or(14).to_string();
    if let (Ok(code), Ok(message)) = (code.parse(), ended.message.parse()) {
        trailers.insert("grpc-status", code);
        trailers.insert("grpc-message", message);
    }
    if let Some(stream) = down.open() {
        let _ = stream.send_trailers(trailers);
    }
}

/// Carries one stream until either side ends it.
async fn pump(
    tap: Tap,
    proto: Proto,
    request: Request<RecvStream>,
    response: SendResponse<Bytes>,
    upstream: Stream,
) -> Option<()> {
    let shared = Arc::clone(&tap.shared);
    let ending = Arc::clone(&tap.ending);
    let tap = Mutex::new(tap);
    let down = tokio::sync::Mutex::new(Down::from(response));
    let Stream { sender, mut receiver } = upstream;
    let sender = Mutex::new(sender);
    let pass = async |flow: Flow| -> Result<(), Ended> {
        for ask in flow.up {
            sender.lock().unwrap_or_else(PoisonError::into_inner).send(ask)?;
        }
        for answer in flow.down {
            let message = framed(&answer.encode(proto));
            let _all = if shared.case == Some(26) { Some(shared.sending.lock().await) } else { None };
            let sent = down.lock().await.send(message).await;
            sent.ok_or_else(|| Ended { code: None, message: "the client went away".to_owned() })?;
        }
        match flow.end {
            Some(ended) => Err(ended),
            None => Ok(()),
        }
    };
    let ups = async {
        let mut body = request.into_body();
        let mut buffer = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            buffer.extend_from_slice(&chunk);
            while let Some(message) = unframed(&mut buffer) {
                let garbage = |error: prost::DecodeError| Ended { code: Some(3), message: error.to_string() };
                let ask = Ask::decode(proto, &message).map_err(garbage)?;
                let flow = tap.lock().unwrap_or_else(PoisonError::into_inner).request(ask);
                pass(flow).await?;
            }
        }
        sender.lock().unwrap_or_else(PoisonError::into_inner).finish()?;
        // The server has the last word.
        std::future::pending::<Result<(), Ended>>().await
    };
    let downs = async {
        loop {
            let answer: Answer = receiver.next().await?;
            let flow = tap.lock().unwrap_or_else(PoisonError::into_inner).answer(answer);
            pass(flow).await?;
        }
    };
    let ended: Result<(), Ended> = tokio::select! {
        ended = ups => ended,
        ended = downs => ended,
        () = ending.notified() => Err(Ended { code: Some(14), message: "another stream of this node".to_owned() }),
    };
    let down = std::mem::replace(&mut *down.lock().await, Down::Over);
    end(down, &ended.err()?).await;
    Some(())
}
