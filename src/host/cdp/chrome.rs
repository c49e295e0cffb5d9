//! The host's Chrome: its HTTP endpoints and its browser WebSocket.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// How long Chrome may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The protocol's description is about 2 MB.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// A screenshot of a large page is a message.
const MAX_MESSAGE: usize = 256 * 1024 * 1024;

/// Why Chrome does not do what it is asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChromeError {
    #[error(
        "no browser answers at {address} on the host; start one there: chromium --remote-debugging-port={port} --user-data-dir=DIR \
         (Chrome opens this port only for a folder that is not its default one)"
    )]
    Unreachable { address: String, port: String },
    #[error("the browser at {0} on the host did not answer in time")]
    Slow(String),
    #[error("what answers at {0} on the host is no browser with the DevTools protocol")]
    Foreign(String),
}

/// Asks an HTTP endpoint; the status and the body.
pub(super) async fn ask(address: &str, method: Method, target: &str) -> Result<(StatusCode, Bytes), ChromeError> {
    let foreign = || ChromeError::Foreign(address.to_owned());
    let stream = connect(address).await?;
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| foreign())?;
        let connection = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(target).header("host", address).body(Empty::<Bytes>::new());
        let response = sender.send_request(request.map_err(|_| foreign())?).await.map_err(|_| foreign())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|_| foreign())?.to_bytes();
        connection.abort();
        Ok((status, body))
    };
    tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| ChromeError::Slow(address.to_owned()))?
}

/// Asks an endpoint that answers with JSON.
pub(super) async fn ask_json(address: &str, target: &str) -> Result<Value, ChromeError> {
    let (status, body) = ask(address, Method::GET, target).await?;
    let value = serde_json::from_slice(&body).ok().filter(|_| status.is_success());
    value.ok_or_else(|| ChromeError::Foreign(address.to_owned()))
}

/// Opens the browser's WebSocket.
pub(super) async fn browser(address: &str) -> Result<WebSocketStream<TcpStream>, ChromeError> {
    let foreign = || ChromeError::Foreign(address.to_owned());
    let version = ask_json(address, "/json/version").await?;
    let url = version["webSocketDebuggerUrl"].as_str().unwrap_or_default();
    // Only the path is Chrome's to say.
    let path = url.find("/devtools/browser/").map(|at| &url[at..]).ok_or_else(foreign)?;
    let stream = connect(address).await?;
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let handshake = tokio_tungstenite::client_async_with_config(format!("ws://{address}{path}"), stream, Some(config));
    match tokio::time::timeout(PATIENCE, handshake).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(_)) => Err(foreign()),
        Err(_) => Err(ChromeError::Slow(address.to_owned())),
    }
}

async fn connect(address: &str) -> Result<TcpStream, ChromeError> {
    match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // Small messages go back and forth.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(_)) => {
            let port = address.rsplit_once(':').map_or("9222", |(_, port)| port).to_owned();
            Err(ChromeError::Unreachable { address: address.to_owned(), port })
        }
        Err(_) => Err(ChromeError::Slow(address.to_owned())),
    }
}
