//! WebSockets, by HTTP/1.1 upgrade and by HTTP/2 extended CONNECT.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{self, Error as WsError};

use super::{Client, ClientError, Connection, DEADLINE, Proto, Reply};

/// A WebSocket by HTTP/1.1.
pub type WebSocket = WebSocketStream<TlsStream<TcpStream>>;

/// A WebSocket by HTTP/2, with the connection it lives on.
pub struct WebSocketH2 {
    /// The WebSocket.
    pub socket: WebSocketStream<TokioIo<Upgraded>>,
    _connection: Connection,
}

/// Why there is no WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum WebSocketError {
    /// The server answered with something else.
    #[error("refused: {} {}", .0.status, .0.text())]
    Refused(Box<Reply>),
    /// There was no connection.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The handshake went wrong.
    #[error("handshake: {0}")]
    Handshake(#[source] Box<WsError>),
}

impl Client {
    /// Opens `wss://HOST/PATH` by HTTP/1.1, with more headers.
    pub async fn websocket(&self, url: &str, headers: &[(&str, &str)]) -> Result<WebSocket, WebSocketError> {
        let handshake = async {
            let mut request = url.into_client_request().unwrap();
            for (name, value) in headers {
                let value = HeaderValue::from_str(value).unwrap();
                request.headers_mut().append(HeaderName::try_from(*name).unwrap(), value);
            }
            let tls = self.tls(request.uri().host().unwrap(), &["http/1.1"]).await?;
            match tokio_tungstenite::client_async(request, tls).await {
                Ok((socket, _)) => Ok(socket),
                Err(WsError::Http(response)) => Err(refused(*response)),
                Err(error) => Err(WebSocketError::Handshake(Box::new(error))),
            }
        };
        tokio::time::timeout(DEADLINE, handshake).await.map_err(|_| ClientError::Timeout(DEADLINE))?
    }

    /// Opens `wss://HOST/PATH` by HTTP/2 extended CONNECT (RFC 8441), with more headers.
    pub async fn websocket_h2(&self, url: &str, headers: &[(&str, &str)]) -> Result<WebSocketH2, WebSocketError> {
        let url = url.replacen("wss://", "https://", 1);
        let request = || {
            let mut request =
                Request::builder().method(Method::CONNECT).uri(&url).header("sec-websocket-version", "13");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            request.extension(Protocol::from_static("websocket")).body(Full::<Bytes>::default()).unwrap()
        };
        let uri: http::Uri = url.parse().unwrap();
        let handshake = async {
            let mut connection = self.connect(uri.host().unwrap(), Proto::H2).await?;
            // The server must have announced extended CONNECT first, and there is no event for its SETTINGS.
            let mut tries = 0;
            let response = loop {
                match connection.send_streaming(request()).await {
                    Ok(response) => break response,
                    Err(error) if tries == 50 || connection.is_closed() => return Err(error.into()),
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
                tries += 1;
            };
            if !response.status().is_success() {
                let reply = super::collect(response).await.map_err(ClientError::from)?;
                return Err(WebSocketError::Refused(Box::new(reply)));
            }
            let io = hyper::upgrade::on(response).await.map_err(ClientError::from)?;
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Client, None).await;
            Ok(WebSocketH2 { socket, _connection: connection })
        };
        tokio::time::timeout(DEADLINE, handshake).await.map_err(|_| ClientError::Timeout(DEADLINE))?
    }
}

fn refused(response: tungstenite::http::Response<Option<Vec<u8>>>) -> WebSocketError {
    let (parts, body) = response.into_parts();
    let body = Bytes::from(body.unwrap_or_default());
    WebSocketError::Refused(Box::new(Reply {
        status: parts.status,
        headers: parts.headers,
        body,
        version: parts.version,
    }))
}
