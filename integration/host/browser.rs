//! A Chromium with an allowed tab and a forbidden one, the sites they show, and the filter before it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_creds::host::cdp::{Access, Owned, Rule, Rules, respond};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::support::netns::sdk_python;
use crate::support::probe::eventually;
use crate::support::server::{kill_all_of, run};

/// What the forbidden tab has in its title, its text, its cookies and its storage.
pub const SECRET: &str = "s3cr3t-of-the-bank";
/// The longest that a browser may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with two tabs, and the filter before it.
pub struct World {
    pub chrome: Chromium,
    pub app: Site,
    pub bank: Site,
    /// Where the filter listens, as the client names it.
    pub endpoint: String,
    pub port: u16,
    pub rules: watch::Sender<Arc<Rules>>,
}

/// A Chromium of its own profile, ended with its folder.
pub struct Chromium {
    pub port: u16,
    dir: tempfile::TempDir,
}

/// A site that shows a page at every path.
pub struct Site {
    /// Its origin.
    pub origin: String,
    paths: Arc<Mutex<Vec<String>>>,
}

impl Drop for Chromium {
    fn drop(&mut self) {
        kill_all_of(self.dir.path());
    }
}

impl Chromium {
    /// Starts one.
    pub async fn start() -> Self {
        Self::start_at(0).await
    }

    /// Ends it, and waits until it is gone.
    pub fn end(&mut self) {
        kill_all_of(self.dir.path());
    }

    /// Starts one that listens at `port`, or at any if that is 0.
    pub async fn start_at(port: u16) -> Self {
        // What starts the tests has installed it.
        sdk_python();
        let dir = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("chromium")
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "about:blank"])
            .arg(format!("--remote-debugging-port={port}"))
            .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
            .env("HOME", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("chromium is installed (integration/setup.sh test)");
        let mut chromium = Self { port: 0, dir };
        // It is waited for when it ends; `Drop` kills it.
        std::thread::spawn(move || {
            let mut child = child;
            let _ = child.wait();
        });
        if port != 0 {
            chromium.port = port;
            let connect = async || TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string());
            eventually("Chromium listens", connect).await;
            return chromium;
        }
        let file = chromium.dir.path().join("profile/DevToolsActivePort");
        chromium.port = eventually("Chromium listens", async || {
            let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
            text.lines().next().and_then(|line| line.parse().ok()).filter(|&port| port != 0).ok_or(text)
        })
        .await;
        chromium
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Asks its own endpoint, without the filter.
    pub async fn ask(&self, method: &str, target: &str) -> Value {
        let (status, text) = ask(self.port, method, target, &[]).await;
        assert_eq!(status, 200, "{target}: {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Opens a tab, as the user does, and waits until it has its title.
    pub async fn open(&self, url: &str, title: &str) {
        let tab = self.ask("PUT", &format!("/json/new?{url}")).await;
        eventually("the tab has loaded", async || {
            let list = self.ask("GET", "/json/list").await;
            let found =
                list.as_array().unwrap().iter().find(|entry| entry["id"] == tab["id"]).cloned().unwrap_or_default();
            if found["title"] == title { Ok(()) } else { Err(found.to_string()) }
        })
        .await;
    }
}

impl Site {
    /// Serves `title` at `host`, with `secret` wherever a page can have one; `/away` redirects to `other`.
    pub async fn start(host: &'static str, title: &'static str, secret: &'static str, other: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{host}:{}", listener.local_addr().unwrap().port());
        let paths = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&paths);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (other, seen) = (other.clone(), Arc::clone(&seen));
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let other = other.clone();
                    seen.lock().unwrap().push(request.uri().path().to_owned());
                    async move { Ok::<_, Infallible>(site_page(request.uri().path(), title, secret, other.as_deref())) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { origin, paths }
    }

    /// How often a path was asked for.
    pub fn count(&self, path: &str) -> usize {
        self.paths.lock().unwrap().iter().filter(|seen| *seen == path).count()
    }
}

fn site_page(path: &str, title: &str, secret: &str, other: Option<&str>) -> Response<Full<Bytes>> {
    let response =
        Response::builder().header("content-type", "text/html; charset=utf-8").header("cache-control", "no-store");
    match (path, other) {
        ("/away", Some(other)) => {
            return response
                .status(302)
                .header("location", format!("{other}/?{secret}"))
                .body(Full::default())
                .unwrap();
        }
        ("/favicon.ico", _) => return response.status(404).body(Full::default()).unwrap(),
        _ => {}
    }
    let other = other.unwrap_or_default();
    let frame = if path == "/frame" { format!("<iframe src='{other}/framed'></iframe>") } else { String::new() };
    let html = format!(
        "<!doctype html><title>{title}</title><h1 id=h>{title} {path}</h1>
        <form onsubmit=\"document.getElementById('o').textContent = 'hello ' + document.getElementById('i').value; return false\">
        <input id=i><button id=b>Go</button></form><p id=o></p>
        <a id=next href=/next>next</a> <a id=away href='{other}/'>away</a> <a id=redirect href=/away>redirect</a>{frame}
        <script>localStorage.setItem('secret', '{secret}')</script>"
    );
    response.header("set-cookie", format!("sid={secret}; HttpOnly")).body(Full::new(html.into())).unwrap()
}

impl World {
    /// Rules that allow the app, and not the bank.
    pub async fn start() -> Self {
        let bank = Site::start("127.0.0.1", "The bank s3cr3t-of-the-bank", SECRET, None).await;
        // `localhost` and `127.0.0.1` are different sites to a browser.
        let app = Site::start("localhost", "My App", "own-of-the-app", Some(bank.origin.clone())).await;
        let chrome = Chromium::start().await;
        chrome.open(&format!("{}/", bank.origin), "The bank s3cr3t-of-the-bank").await;
        chrome.open(&format!("{}/", app.origin), "My App").await;
        let (rules, receiver) = watch::channel(allow(&[&format!("{}/*", app.origin)]));
        let port = filter(&chrome.address(), receiver).await;
        Self { chrome, app, bank, endpoint: format!("http://localhost:{port}"), port, rules }
    }

    /// Runs a script of `integration/sdk` against the filter.
    pub async fn python(&self, script: &str) -> String {
        self.script(sdk_python(), script).await
    }

    /// The same by another Python.
    pub async fn script(&self, python: &Path, script: &str) -> String {
        let mut command = Command::new(python);
        command.arg(format!("{}/integration/sdk/{script}", env!("CARGO_MANIFEST_DIR")));
        command.args([&self.endpoint, &self.app.origin, &self.bank.origin]);
        let output = tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap();
        assert!(output.status.success(), "{script}: {}\n{}", output.stdout, output.stderr);
        output.stdout
    }

    /// The entry of the app's tab in the filter's list.
    pub async fn listed(&self) -> Vec<Value> {
        let (status, text) = ask(self.port, "GET", "/json/list", &[]).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

pub fn allow(urls: &[&str]) -> Arc<Rules> {
    Arc::new(Rules::new(urls.iter().map(|url| Rule::new(None, None, Some(url.parse().unwrap())).unwrap())))
}

/// The filter before the browser at `chrome`; its port.
pub async fn filter(chrome: &str, rules: watch::Receiver<Arc<Rules>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let access = Arc::new(Access { chrome: chrome.to_owned(), port, rules, owned: Owned::default() });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let access = Arc::clone(&access);
            let service = service_fn(move |request| {
                let access = Arc::clone(&access);
                async move { Ok::<_, Infallible>(respond(request, access, ()).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection.with_upgrades());
        }
    });
    port
}

/// Asks an HTTP endpoint on this machine; the status and the text.
pub async fn ask(port: u16, method: &str, target: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let exchange = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(target);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", format!("localhost:{port}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        connection.abort();
        (status, String::from_utf8_lossy(&body).into_owned())
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap()
}

/// A client that says what it likes.
pub struct Raw {
    socket: WebSocketStream<TcpStream>,
    next: i64,
    /// All that it got.
    pub got: Vec<Value>,
}

impl Raw {
    /// Connects to a WebSocket of the filter.
    pub async fn connect(port: u16, path: &str) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let url = format!("ws://localhost:{port}{path}");
        let (socket, _) = tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await.unwrap();
        Self { socket, next: 0, got: Vec::new() }
    }

    /// Sends text as it is.
    pub async fn send(&mut self, text: &str) {
        self.send_frame(Message::text(text)).await;
    }

    /// Sends a message, or a frame of one.
    pub async fn send_frame(&mut self, message: Message) {
        // A WebSocket that the filter has closed is found out by reading.
        let _ = self.socket.send(message).await;
    }

    /// The next message; `None` when the WebSocket was closed.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            let Ok(message) = tokio::time::timeout(PATIENCE, self.socket.next()).await else {
                panic!("no message in time; the last were {:?}", &self.got[self.got.len().saturating_sub(5)..]);
            };
            match message {
                Some(Ok(Message::Text(text))) => {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    self.got.push(message.clone());
                    return Some(message);
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Sends a command and waits for its answer.
    pub async fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        self.send(&message.to_string()).await;
        loop {
            let message = self.next().await.unwrap_or_else(|| panic!("{method}: closed"));
            if message["id"] == id {
                return message;
            }
        }
    }

    /// Waits for an event.
    pub async fn event(&mut self, method: &str) -> Value {
        if let Some(message) = self.got.iter().find(|message| message["method"] == method) {
            return message.clone();
        }
        loop {
            let message = self.next().await.unwrap_or_else(|| panic!("{method}: closed"));
            if message["method"] == method {
                return message;
            }
        }
    }
}
