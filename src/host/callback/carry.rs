//! A request into the sandbox, and the program's answer.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// The longest answer: a page that says that a sign-in worked.
const MAX_ANSWER: usize = 1024 * 1024;
/// How long the way into the sandbox may take.
const CONNECT: Duration = Duration::from_secs(20);
/// How long the program may take: it asks the provider for a token before it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a program is told of the browser's request. No cookies: on `localhost` they are those of the host's other servers, too.
const PASSED: [HeaderName; 4] = [header::ACCEPT, header::ACCEPT_LANGUAGE, header::CONTENT_TYPE, header::USER_AGENT];

/// A connection into a sandbox.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that is being made.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// The inside of one life of one sandbox.
pub trait Inside: Send + Sync {
    /// Connects to a port of its localhost. The error says, to people, why that is not possible.
    fn connect(&self, port: u16) -> Connecting<'_>;
}

/// What the program answered.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why it did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CarryError {
    #[error("{0}")]
    Connect(io::Error),
    #[error("the program in the sandbox does not answer by HTTP")]
    Http,
    #[error("the program in the sandbox does not answer in time")]
    Slow,
    #[error("the program in the sandbox answers with more than {MAX_ANSWER} bytes")]
    Long,
}

/// Has the program at `port` answer the request.
pub(super) async fn carry(
    inside: &dyn Inside,
    port: u16,
    request: &Parts,
    body: Bytes,
) -> Result<Answered, CarryError> {
    let connected = tokio::time::timeout(CONNECT, inside.connect(port)).await;
    let stream = connected.map_err(|_| CarryError::Slow)?.map_err(CarryError::Connect)?;
    tokio::time::timeout(PATIENCE, exchange(stream, request, body)).await.map_err(|_| CarryError::Slow)?
}

async fn exchange(stream: Box<dyn Stream>, request: &Parts, body: Bytes) -> Result<Answered, CarryError> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|_| CarryError::Http)?;
    let exchange = async {
        let mut passed = Request::builder().method(request.method.clone()).uri(request.uri.clone());
        for name in std::iter::once(header::HOST).chain(PASSED) {
            if let Some(value) = request.headers.get(&name) {
                passed = passed.header(name, value);
            }
        }
        let passed = passed.header(header::CONNECTION, "close").body(Full::new(body)).map_err(|_| CarryError::Http)?;
        let (parts, body) = sender.send_request(passed).await.map_err(|_| CarryError::Http)?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() { CarryError::Long } else { CarryError::Http }
        })?;
        Ok(Answered { status: parts.status, headers: parts.headers, body: body.to_bytes() })
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        // What is there of an answer counts, also when the connection ends with it.
        biased;
        answered = &mut exchange => return answered,
        _ = &mut connection => {}
    }
    exchange.await
}
