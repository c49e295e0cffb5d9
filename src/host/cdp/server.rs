//! The tokio shell: one request of a client, answered, or made a WebSocket.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, StreamExt};
use http::header::{
    CONNECTION, CONTENT_TYPE, HOST, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::chrome::{self, ChromeError};
use super::filter::{Entry, Filter, Output, Owned};
use super::http::{self as endpoints, Refused, Route};
use super::rules::Rules;

/// Where Chrome listens when nothing else is said.
pub const DEFAULT_CHROME: &str = "127.0.0.1:9222";

/// The longest message of a client.
const MAX_COMMAND: usize = 16 * 1024 * 1024;
/// How long either side may take to read what it was sent.
const SEND_PATIENCE: Duration = Duration::from_secs(60);

/// What one port of one sandbox gives access to.
#[derive(Debug)]
pub struct Access {
    /// Chrome's address on the host, `HOST:PORT`.
    pub chrome: String,
    /// The port in the sandbox, by which the client came.
    pub port: u16,
    /// What may be seen; followed while connections are open. When its sender is gone, they end.
    pub rules: watch::Receiver<Arc<Rules>>,
    /// The pages that the sandbox opened.
    pub owned: Owned,
}

/// Answers a request; one that becomes a WebSocket is carried on in a task of its own, which holds `lease` until it ends. The
/// connection has to be served with upgrades.
pub async fn respond<L: Send + 'static>(
    request: Request<Incoming>,
    access: Arc<Access>,
    lease: L,
) -> Response<Full<Bytes>> {
    match answer(request, &access, lease).await {
        Ok(response) => response,
        Err(Failure::Refused(Refused { status, text })) => {
            page(StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN), "text/plain; charset=utf-8", text)
        }
        Err(Failure::Chrome(error)) => {
            page(StatusCode::BAD_GATEWAY, "text/plain; charset=utf-8", format!("agent-creds: {error}\n"))
        }
    }
}

enum Failure {
    Refused(Refused),
    Chrome(ChromeError),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<ChromeError> for Failure {
    fn from(error: ChromeError) -> Self {
        Self::Chrome(error)
    }
}

async fn answer<L: Send + 'static>(
    request: Request<Incoming>,
    access: &Arc<Access>,
    lease: L,
) -> Result<Response<Full<Bytes>>, Failure> {
    let header = |name| request.headers().get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("?"));
    let several = request.headers().get_all(HOST).iter().count() > 1;
    let host = header(HOST).filter(|_| !several && request.uri().authority().is_none()).map(str::to_owned);
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    let route = endpoints::route(request.method(), target, host.as_deref(), header(ORIGIN), access.port)?;
    let host = host.unwrap_or_default();
    let rules = access.current();
    let chrome = access.chrome.as_str();
    match route {
        Route::Version => Ok(json(&endpoints::version(&chrome::ask_json(chrome, "/json/version").await?, &host))),
        Route::List => {
            let listed = access.listed(&rules).await?;
            Ok(json(&Value::Array(listed.iter().map(|entry| endpoints::entry(entry, &host)).collect())))
        }
        Route::Protocol => Ok(json(&chrome::ask_json(chrome, "/json/protocol").await?)),
        Route::New(url) => {
            let target = endpoints::new_page(&rules, &url)?;
            let (status, body) = chrome::ask(chrome, Method::PUT, &target).await?;
            let opened: Value = serde_json::from_slice(&body).unwrap_or_default();
            match opened["id"].as_str().filter(|_| status.is_success()) {
                Some(id) => {
                    access.owned.add(id);
                    Ok(json(&endpoints::entry(&opened, &host)))
                }
                None => Err(ChromeError::Foreign(chrome.to_owned()).into()),
            }
        }
        Route::Activate(id) => {
            access.visible(&rules, &id).await?;
            chrome::ask(chrome, Method::GET, &format!("/json/activate/{id}")).await?;
            Ok(page(StatusCode::OK, "text/html; charset=utf-8", "Target activated"))
        }
        Route::Close(id) => {
            access.visible(&rules, &id).await?;
            if !access.owned.contains(&id) {
                let text = "only pages that the sandbox opened itself may be closed\n".to_owned();
                return Err(Refused { status: 403, text }.into());
            }
            chrome::ask(chrome, Method::GET, &format!("/json/close/{id}")).await?;
            Ok(page(StatusCode::OK, "text/html; charset=utf-8", "Target is closing"))
        }
        Route::Browser => upgrade(request, access, Entry::Browser, lease).await,
        Route::Page(id) => {
            access.visible(&rules, &id).await?;
            upgrade(request, access, Entry::Page(id), lease).await
        }
    }
}

impl Access {
    fn current(&self) -> Arc<Rules> {
        // Whoever gave the rules is gone: so are they.
        if self.rules.has_changed().is_err() { Arc::default() } else { Arc::clone(&self.rules.borrow()) }
    }

    /// The entries of Chrome's list that may be seen.
    async fn listed(&self, rules: &Rules) -> Result<Vec<Value>, ChromeError> {
        match chrome::ask_json(&self.chrome, "/json/list").await? {
            Value::Array(entries) => {
                Ok(entries.into_iter().filter(|entry| endpoints::is_visible(rules, &self.owned, entry)).collect())
            }
            _ => Err(ChromeError::Foreign(self.chrome.clone())),
        }
    }

    async fn visible(&self, rules: &Rules, id: &str) -> Result<(), Failure> {
        if self.listed(rules).await?.iter().any(|entry| entry["id"] == id) {
            return Ok(());
        }
        Err(Refused {
            status: 404,
            text: "No such target id, or no [[cdp_target]] of agent-creds.toml allows it\n".to_owned(),
        }
        .into())
    }
}

/// Becomes a WebSocket, once there is one to Chrome.
async fn upgrade<L: Send + 'static>(
    mut request: Request<Incoming>,
    access: &Arc<Access>,
    entry: Entry,
    lease: L,
) -> Result<Response<Full<Bytes>>, Failure> {
    let is = |name, expected: &str| {
        let value = request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
        value.split(',').any(|part| part.trim().eq_ignore_ascii_case(expected))
    };
    let key = request.headers().get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let accept = key.and_then(|key| HeaderValue::from_str(&key).ok());
    let asked = request.method() == Method::GET
        && is(UPGRADE, "websocket")
        && is(CONNECTION, "upgrade")
        && is(SEC_WEBSOCKET_VERSION, "13");
    let Some(accept) = accept.filter(|_| asked) else {
        return Err(Refused { status: 426, text: "this is a WebSocket\n".to_owned() }.into());
    };
    let browser = chrome::browser(&access.chrome).await?;
    let access = Arc::clone(access);
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrading.await {
            let config =
                WebSocketConfig::default().max_message_size(Some(MAX_COMMAND)).max_frame_size(Some(MAX_COMMAND));
            let client = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
            bridge(client, browser, &access, entry).await;
        }
        drop(lease);
    });
    let mut response = page(StatusCode::SWITCHING_PROTOCOLS, "text/plain", "");
    let headers = response.headers_mut();
    headers.remove(CONTENT_TYPE);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

/// Carries messages through the filter until either side ends.
async fn bridge(
    client: WebSocketStream<TokioIo<Upgraded>>,
    browser: WebSocketStream<TcpStream>,
    access: &Access,
    entry: Entry,
) {
    let mut rules = access.rules.clone();
    let current = Arc::clone(&rules.borrow_and_update());
    let (mut filter, mut outputs) = Filter::new(entry, current, access.owned.clone());
    let (mut to_client, mut from_client) = client.split();
    let (mut to_browser, mut from_browser) = browser.split();
    loop {
        let close = deliver(outputs, &mut to_client, &mut to_browser).await;
        if let Some(reason) = close {
            let frame = CloseFrame { code: CloseCode::Normal, reason: reason.into() };
            let _ = tokio::time::timeout(SEND_PATIENCE, to_client.send(Message::Close(Some(frame)))).await;
            break;
        }
        outputs = tokio::select! {
            message = from_client.next() => match message {
                Some(Ok(Message::Text(text))) => filter.on_client(&text),
                Some(Ok(Message::Binary(_))) => vec![Output::Close("messages are text")],
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => Vec::new(),
            },
            message = from_browser.next() => match message {
                Some(Ok(Message::Text(text))) => filter.on_browser(&text),
                Some(Ok(Message::Close(_)) | Err(_)) | None => vec![Output::Close("the browser is gone")],
                Some(Ok(_)) => Vec::new(),
            },
            changed = rules.changed() => match changed {
                Ok(()) => filter.on_rules(Arc::clone(&rules.borrow_and_update())),
                Err(_) => vec![Output::Close("the sandbox may use the host's browser no more")],
            },
        };
    }
    // Chrome ends the sessions and the contexts of this client with its connection.
    let _ = tokio::time::timeout(SEND_PATIENCE, to_browser.close()).await;
}

/// Sends all, and waits until it is sent; says why to close, if so.
async fn deliver<C, B>(outputs: Vec<Output>, client: &mut C, browser: &mut B) -> Option<&'static str>
where
    C: Sink<Message, Error = WsError> + Unpin,
    B: Sink<Message, Error = WsError> + Unpin,
{
    let sending = async {
        let (mut to_client, mut to_browser) = (false, false);
        for output in outputs {
            match output {
                Output::Client(text) => {
                    client.feed(Message::text(text)).await.map_err(|_| "the client is gone")?;
                    to_client = true;
                }
                Output::Browser(text) => {
                    browser.feed(Message::text(text)).await.map_err(|_| "the browser is gone")?;
                    to_browser = true;
                }
                Output::Close(reason) => return Err(reason),
            }
        }
        if to_browser {
            browser.flush().await.map_err(|_| "the browser is gone")?;
        }
        if to_client {
            client.flush().await.map_err(|_| "the client is gone")?;
        }
        Ok(())
    };
    match tokio::time::timeout(SEND_PATIENCE, sending).await {
        Ok(Ok(())) => None,
        Ok(Err(reason)) => Some(reason),
        Err(_) => Some("messages were not read in time"),
    }
}

fn json(value: &Value) -> Response<Full<Bytes>> {
    page(StatusCode::OK, "application/json; charset=UTF-8", value.to_string())
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
