//! Answers that go on: server-sent events and WebSockets.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::routes::{Body, status};

/// `count` numbered events, one every `interval`; endless without `count`.
pub(super) fn ticks(count: Option<u64>, interval: Duration) -> Response<Body> {
    let events = stream::unfold(0_u64, move |number| async move {
        if count.is_some_and(|count| number >= count) {
            return None;
        }
        if number > 0 {
            tokio::time::sleep(interval).await;
        }
        Some((format!("id: {number}\ndata: tick {number}\n\n"), number + 1))
    });
    event_stream(events)
}

/// The events as they come, each already in the format of an event stream.
pub(super) fn event_stream(events: impl stream::Stream<Item = String> + Send + Sync + 'static) -> Response<Body> {
    let frames = events.map(|event| Ok::<_, Infallible>(Frame::data(Bytes::from(event))));
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// True for an HTTP/1.1 upgrade (RFC 6455) and for an HTTP/2 extended CONNECT (RFC 8441) to `/ws`.
pub(super) fn is_websocket(request: &Request<Incoming>) -> bool {
    let upgrade = || {
        let value = request.headers().get(header::UPGRADE);
        value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
    };
    let extended_connect = || {
        let protocol = request.extensions().get::<Protocol>();
        request.method() == Method::CONNECT && protocol.is_some_and(|protocol| protocol.as_str() == "websocket")
    };
    request.uri().path() == "/ws" && (upgrade() || extended_connect())
}

/// Accepts the WebSocket and echoes every message until it is closed.
pub(super) fn websocket(mut request: Request<Incoming>) -> Response<Body> {
    let mut response = status(StatusCode::OK);
    if request.method() != Method::CONNECT {
        let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
            return status(StatusCode::BAD_REQUEST);
        };
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).unwrap();
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(io) = upgrade.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
        let (mut sink, mut messages) = socket.split();
        while let Some(Ok(message)) = messages.next().await {
            let echoed =
                if message.is_text() || message.is_binary() { sink.send(message).await } else { sink.flush().await };
            if echoed.is_err() {
                break;
            }
        }
    });
    response
}
