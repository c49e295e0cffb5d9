//! The tokio shell: ports that are listened on, and the flows behind them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::carry::{Inside, carry};
use super::flow::{Flow, Next, Refused, left};
use super::{Callback, CallbackError, answer};
use crate::domain::names::SandboxId;
use crate::domain::web::WebUrl;
use crate::host::metrics::BrowserMetrics;
use crate::host::open::Allowed;
use crate::shutdown::Shutdown;

/// As many flows as one sandbox may have; a further one takes the place of the oldest.
const FLOWS: usize = 4;
/// As many connections as a port serves at a time.
const CONNECTIONS: usize = 16;
/// The longest form that a provider posts.
const MAX_FORM: usize = 64 * 1024;
/// How long a browser may take to say what it wants.
const HEADERS: Duration = Duration::from_secs(10);
/// How long what was answered last may take to arrive, when a flow is over.
const GOODBYE: Duration = Duration::from_secs(5);
/// Refusals of one flow that are told of; more would only fill the log.
const TOLD: u32 = 5;

/// A flow that is wished for.
pub struct Wish {
    /// Whose it is.
    pub sandbox: SandboxId,
    /// The page that was opened.
    pub opened: WebUrl,
    /// Where it comes back.
    pub callback: Callback,
    /// The sandbox's inside, as it is now: a later life of it gets nothing.
    pub inside: Arc<dyn Inside>,
    /// Fired when this life of the sandbox ends.
    pub life: Shutdown,
    /// What the sandbox may open, followed.
    pub allowed: watch::Receiver<Allowed>,
}

impl fmt::Debug for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wish").field("sandbox", &self.sandbox).field("callback", &self.callback).finish_non_exhaustive()
    }
}

/// What happened in a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// The browser came back, and the program in the sandbox answered.
    Carried,
    /// Something else was asked for.
    Refused(String),
    /// The program did not answer.
    Failed(String),
    /// Nobody came back.
    Expired,
}

/// What is told of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Whose it is.
    pub sandbox: SandboxId,
    /// `localhost:8080`
    pub place: String,
    /// What happened.
    pub what: Happened,
}

/// Whoever is told.
type Observer = Arc<dyn Fn(Event) + Send + Sync>;

/// All flows of this host.
pub struct Callbacks {
    /// By sandbox, oldest first.
    flows: tokio::sync::Mutex<HashMap<SandboxId, Vec<Held>>>,
    metrics: BrowserMetrics,
    observer: Observer,
    stopping: Shutdown,
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callbacks")
    }
}

struct Held {
    port: u16,
    task: JoinHandle<()>,
}

/// A flow whose port is open.
#[derive(Debug)]
pub struct Expected(tokio::task::AbortHandle);

impl Expected {
    /// Ends it: the page could not be opened.
    pub fn cancel(self) {
        self.0.abort();
    }
}

impl Callbacks {
    /// None yet. `observer` is told what happens, and is not to wait.
    pub fn new(metrics: BrowserMetrics, stopping: Shutdown, observer: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self { flows: tokio::sync::Mutex::default(), metrics, observer: Arc::new(observer), stopping }
    }

    /// Opens the port of a flow. An earlier flow of the sandbox on that port ends.
    ///
    /// # Errors
    /// When somebody else has the port.
    pub async fn expect(&self, wish: Wish) -> Result<Expected, CallbackError> {
        let port = wish.callback.port();
        let mut flows = self.flows.lock().await;
        flows.retain(|_, held| {
            held.retain(|flow| !flow.task.is_finished());
            !held.is_empty()
        });
        if flows.iter().any(|(sandbox, held)| *sandbox != wish.sandbox && held.iter().any(|flow| flow.port == port)) {
            return Err(CallbackError::OfAnother(port));
        }
        let own = flows.entry(wish.sandbox.clone()).or_default();
        if let Some(at) = own.iter().position(|flow| flow.port == port) {
            own.remove(at).end().await;
        }
        let listeners = listen(&wish.callback).await?;
        while own.len() >= FLOWS {
            own.remove(0).end().await;
        }
        let place = wish.callback.to_string();
        let flow = Arc::new(Live {
            flow: Mutex::new(Flow::new(wish.callback, Instant::now())),
            port,
            place,
            sandbox: wish.sandbox,
            inside: wish.inside,
            allowed: wish.allowed,
            opened: wish.opened,
            over: Notify::new(),
            told: Mutex::new(0),
            metrics: self.metrics.clone(),
            observer: Arc::clone(&self.observer),
        });
        let task = tokio::spawn(serve(flow, listeners, wish.life, self.stopping.clone()));
        let expected = Expected(task.abort_handle());
        own.push(Held { port, task });
        Ok(expected)
    }
}

impl Held {
    /// Ends it; the port is free afterwards.
    async fn end(self) {
        self.task.abort();
        // An error says that it was aborted.
        let _ = self.task.await;
    }
}

async fn listen(callback: &Callback) -> Result<Vec<TcpListener>, CallbackError> {
    let port = callback.port();
    let mut listeners = Vec::new();
    let mut missing = None;
    for address in callback.addresses() {
        match TcpListener::bind(address).await {
            Ok(listener) => listeners.push(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(CallbackError::Taken(port)),
            // A machine without IPv6, or without IPv4.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(97) => {
                missing = Some(error);
            }
            Err(error) => return Err(CallbackError::Failed(port, error.to_string())),
        }
    }
    match missing {
        Some(error) if listeners.is_empty() => Err(CallbackError::Failed(port, error.to_string())),
        _ => Ok(listeners),
    }
}

/// A flow that is going on.
struct Live {
    flow: Mutex<Flow>,
    port: u16,
    place: String,
    sandbox: SandboxId,
    inside: Arc<dyn Inside>,
    allowed: watch::Receiver<Allowed>,
    opened: WebUrl,
    over: Notify,
    told: Mutex<u32>,
    metrics: BrowserMetrics,
    observer: Observer,
}

/// Counts a port as open while it is there.
struct Open(prometheus::IntGauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn serve(live: Arc<Live>, listeners: Vec<TcpListener>, life: Shutdown, stopping: Shutdown) {
    live.metrics.waiting.inc();
    let _open = Open(live.metrics.waiting.clone());
    let mut connections = JoinSet::new();
    let mut allowed = live.allowed.clone();
    let (life, stopping) = (life.wait(), stopping.wait());
    tokio::pin!(life, stopping);
    loop {
        let now = Instant::now();
        let until = {
            let flow = live.lock();
            if flow.is_over(now) {
                break;
            }
            flow.until()
        };
        // One that is being carried in may take longer than the rest.
        let rest = left(until, now).max(Duration::from_millis(50));
        tokio::select! {
            () = &mut life => return,
            () = &mut stopping => return,
            () = live.over.notified() => {}
            () = tokio::time::sleep(rest) => {}
            changed = allowed.changed() => {
                if changed.is_err() || !allowed.borrow_and_update().allows(&live.opened) {
                    return;
                }
            }
            stream = accept(&listeners), if connections.len() < CONNECTIONS => {
                if let Some(stream) = stream {
                    connections.spawn(connection(stream, Arc::clone(&live)));
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    drop(listeners);
    if live.lock().is_waiting() {
        live.tell(Happened::Expired);
    }
    let goodbye = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(GOODBYE, goodbye).await;
}

/// The next connection, of either address.
async fn accept(listeners: &[TcpListener]) -> Option<TcpStream> {
    let stream = match listeners {
        [one, other] => tokio::select! {
            stream = one.accept() => stream,
            stream = other.accept() => stream,
        },
        [one, ..] => one.accept().await,
        [] => std::future::pending().await,
    };
    match stream {
        Ok((stream, _)) => Some(stream),
        Err(_) => {
            // No file descriptors are left, or the client is gone: not at once again.
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn connection(stream: TcpStream, live: Arc<Live>) {
    let service = service_fn(move |request| {
        let live = Arc::clone(&live);
        async move { Ok::<_, Infallible>(live.respond(request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .keep_alive(false)
        .max_buf_size(128 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    // A browser that goes away is its own business.
    let _ = connection.await;
}

impl Live {
    fn lock(&self) -> std::sync::MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let read = tokio::time::timeout(HEADERS, Limited::new(body, MAX_FORM).collect()).await;
        let Ok(Ok(body)) = read.map(|read| read.map(|body| body.to_bytes())) else {
            return answer::page(
                StatusCode::BAD_REQUEST,
                "Not this way",
                "the form is too long, or did not come whole",
            );
        };
        let judged = self.lock().judge(Instant::now(), &parts, &body);
        if let Err(refused) = judged {
            return self.refuse(refused);
        }
        match carry(self.inside.as_ref(), self.port, &parts, body).await {
            Ok(answered) => {
                let is_redirect = answered.status.is_redirection();
                let location = answered.headers.get(header::LOCATION).filter(|_| is_redirect);
                // What is not ASCII would have to be guessed at.
                let location = location.map(|location| location.to_str().unwrap_or("about:invalid").to_owned());
                let allowed = self.allowed.borrow().clone();
                let next = self.lock().answered(Instant::now(), location.as_deref(), &allowed);
                self.tell(Happened::Carried);
                self.over.notify_one();
                match next {
                    Next::Show => answer::shown(answered),
                    Next::Redirect(location) => answer::redirect(&location),
                    Next::Stay(why) => {
                        let text = format!(
                            "The program in the sandbox `{}` has the answer.\n\nIt would send this page on, where the sandbox may not send \
                             it: {why}",
                            self.sandbox
                        );
                        answer::page(StatusCode::OK, "Signed in", &text)
                    }
                }
            }
            Err(error) => {
                self.lock().failed();
                self.over.notify_one();
                let text = format!(
                    "The program in the sandbox `{}` has not got the answer: {error}.\n\nReload to try again.",
                    self.sandbox
                );
                self.tell(Happened::Failed(error.to_string()));
                answer::page(StatusCode::BAD_GATEWAY, "Not signed in", &text)
            }
        }
    }

    fn refuse(&self, refused: Refused) -> Response<Full<Bytes>> {
        if refused == Refused::Icon {
            return answer::page(StatusCode::NOT_FOUND, "Not here", &refused.to_string());
        }
        self.tell(Happened::Refused(refused.to_string()));
        // Whose it is, is nobody's business: a page under another name of this address could read it.
        let text = format!("This port waits for a sign-in of a sandbox, and for nothing else: {refused}.");
        let status = match refused {
            Refused::Host => StatusCode::MISDIRECTED_REQUEST,
            Refused::Path => StatusCode::NOT_FOUND,
            Refused::Method => StatusCode::METHOD_NOT_ALLOWED,
            Refused::Over => StatusCode::GONE,
            Refused::Busy => StatusCode::CONFLICT,
            Refused::Icon | Refused::NotShown | Refused::State => StatusCode::FORBIDDEN,
        };
        answer::page(status, "Not this way", &text)
    }

    fn tell(&self, what: Happened) {
        let result = match &what {
            Happened::Carried => "carried",
            Happened::Refused(_) => "refused",
            Happened::Failed(_) => "failed",
            Happened::Expired => "expired",
        };
        self.metrics.callbacks.with_label_values(&[result]).inc();
        if matches!(what, Happened::Refused(_) | Happened::Failed(_)) {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            *told += 1;
            if *told > TOLD {
                return;
            }
        }
        (self.observer)(Event { sandbox: self.sandbox.clone(), place: self.place.clone(), what });
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
