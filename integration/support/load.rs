//! Constant load: workers that send request after request, and a long stream that must never break.
//!
//! A failure is anything a careful client would have to report to its user. What every keep-alive client retries without
//! asking (an idle connection closed before the first byte of the answer, a GOAWAY for a stream that was not processed)
//! is retried once, and counted apart.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::client::{Call, Client, ClientError, Connection, Proto, Reply, collect};

/// Where a worker sends its requests, and what must come back.
#[derive(Clone)]
pub struct Target {
    /// `https://HOST/PATH`; the upstream must answer with its echo, 200.
    pub url: String,
    /// Sent as `Authorization: Bearer TOKEN`.
    pub token: Option<String>,
    /// What `authorization` the upstream must have received; `None`: not checked.
    pub expect_authorization: Option<String>,
}

impl Target {
    /// A target without a token.
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), token: None, expect_authorization: None }
    }

    /// With a token, and the `authorization` that must reach the upstream instead of it.
    pub fn swapped(mut self, token: &str, expect_authorization: &str) -> Self {
        self.token = Some(token.to_owned());
        self.expect_authorization = Some(expect_authorization.to_owned());
        self
    }

    fn call(&self, client: &Client, proto: Proto) -> Call {
        let call = client.get(&self.url).proto(proto);
        match &self.token {
            Some(token) => call.bearer(token),
            None => call,
        }
    }
}

/// How much load, on what.
#[derive(Clone)]
pub struct LoadConfig {
    /// The targets; every worker goes round all of them.
    pub targets: Vec<Target>,
    /// How many workers use HTTP/1.1 keep-alive connections, one per target.
    pub h1_workers: usize,
    /// How many workers use HTTP/2 connections, one per target.
    pub h2_workers: usize,
    /// The pause of a worker between two requests.
    pub pause: Duration,
    /// A stream of ticks (`/sse?ms=20`) to hold open throughout.
    pub sse: Option<Target>,
    /// How long a request may take.
    pub deadline: Duration,
}

impl LoadConfig {
    /// Two workers each of HTTP/1.1 and HTTP/2, about 800 requests/s in all at most, no stream.
    pub fn new(targets: Vec<Target>) -> Self {
        Self {
            targets,
            h1_workers: 2,
            h2_workers: 2,
            pause: Duration::from_millis(5),
            sse: None,
            deadline: Duration::from_secs(10),
        }
    }

    /// With a stream held open throughout.
    pub fn sse(mut self, target: Target) -> Self {
        self.sse = Some(target);
        self
    }
}

/// What went wrong with a request.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Since the start of the load.
    pub at: Duration,
    /// The target.
    pub url: String,
    /// The protocol.
    pub proto: Proto,
    /// The status, if there was an answer.
    pub status: Option<StatusCode>,
    /// The error, or what was wrong with the answer.
    pub error: String,
}

/// What the load saw.
#[derive(Debug, Clone, Default)]
pub struct LoadReport {
    /// Requests with the right answer.
    pub ok: usize,
    /// Requests without.
    pub failed: usize,
    /// Requests repeated on a new connection as any client library would; each is also in `ok` or `failed`.
    pub retried: usize,
    /// The first failures ([`LoadReport::KEPT`] of them).
    pub failures: Vec<Failure>,
    /// How long the load ran.
    pub elapsed: Duration,
    /// The slowest request.
    pub slowest: Duration,
    /// How many ticks the stream brought.
    pub ticks: u64,
    /// How the stream broke, if it did: its end, an error, a tick missing or twice, or none for [`LoadConfig::deadline`].
    pub stream_broken: Option<String>,
}

impl LoadReport {
    /// How many failures are kept in full.
    pub const KEPT: usize = 5;

    /// Panics unless there was load, every request succeeded and the stream, if any, held.
    pub fn assert_clean(&self) {
        assert!(self.failed == 0 && self.stream_broken.is_none(), "the load saw failures: {self:#?}");
        assert!(self.ok > 0, "the load sent nothing: {self:#?}");
    }
}

/// Load that runs until it is stopped; dropping it stops it too.
pub struct Load {
    state: Arc<State>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

struct State {
    client: Client,
    config: LoadConfig,
    start: Instant,
    report: Mutex<LoadReport>,
}

impl Load {
    /// Starts the workers, and returns when each target has been answered once and the stream has begun.
    ///
    /// # Panics
    /// If that has not happened within the configured deadline and a second.
    pub async fn start(client: &Client, config: LoadConfig) -> Self {
        let (stop, stopped) = watch::channel(false);
        let state = Arc::new(State {
            client: client.clone(),
            config: config.clone(),
            start: Instant::now(),
            report: Mutex::default(),
        });
        let protos = [(Proto::H1, config.h1_workers), (Proto::H2, config.h2_workers)];
        let workers = protos.into_iter().flat_map(|(proto, count)| std::iter::repeat_n(proto, count));
        let mut tasks: Vec<_> =
            workers.map(|proto| tokio::spawn(worker(Arc::clone(&state), proto, stopped.clone()))).collect();
        let needed = tasks.len() * config.targets.len();
        if let Some(target) = config.sse {
            tasks.push(tokio::spawn(watch_stream(Arc::clone(&state), target, stopped)));
        }
        let load = Self { state, stop, tasks };
        let deadline = Instant::now() + config.deadline + Duration::from_secs(1);
        loop {
            let report = load.so_far();
            let streaming = load.state.config.sse.is_none() || report.ticks > 0 || report.stream_broken.is_some();
            if report.ok + report.failed >= needed && streaming {
                return load;
            }
            assert!(Instant::now() < deadline, "the load does not get going: {report:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What was seen up to now.
    pub fn so_far(&self) -> LoadReport {
        let mut report = self.state.report().clone();
        report.elapsed = self.state.start.elapsed();
        report
    }

    /// Lets every worker finish its request, and reports.
    pub async fn stop(mut self) -> LoadReport {
        self.stop.send_replace(true);
        for task in std::mem::take(&mut self.tasks) {
            task.await.unwrap();
        }
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl State {
    fn report(&self) -> MutexGuard<'_, LoadReport> {
        self.report.lock().unwrap()
    }

    fn fail(&self, target: &Target, proto: Proto, status: Option<StatusCode>, error: String) {
        let at = self.start.elapsed();
        let mut report = self.report();
        report.failed += 1;
        if report.failures.len() < LoadReport::KEPT {
            report.failures.push(Failure { at, url: target.url.clone(), proto, status, error });
        }
    }
}

async fn worker(state: Arc<State>, proto: Proto, mut stopped: watch::Receiver<bool>) {
    let mut connections: HashMap<usize, Connection> = HashMap::new();
    loop {
        for (index, target) in state.config.targets.iter().enumerate() {
            if *stopped.borrow() {
                return;
            }
            let begun = Instant::now();
            let kept = connections.remove(&index);
            let sent = tokio::time::timeout(state.config.deadline, exchange(&state, target, proto, kept)).await;
            match sent {
                Err(_) => state.fail(target, proto, None, format!("no answer within {:?}", state.config.deadline)),
                Ok(Err(error)) => state.fail(target, proto, None, error.to_string()),
                Ok(Ok((reply, connection))) => {
                    connections.insert(index, connection);
                    match wrong(&reply, target) {
                        Some(error) => state.fail(target, proto, Some(reply.status), error),
                        None => {
                            let mut report = state.report();
                            report.ok += 1;
                            report.slowest = report.slowest.max(begun.elapsed());
                        }
                    }
                }
            }
            // Ends early when the load is stopped.
            let _ = tokio::time::timeout(state.config.pause, stopped.wait_for(|&stop| stop)).await;
        }
    }
}

/// One request, on the kept connection if it still takes one, else on a new one.
async fn exchange(
    state: &State,
    target: &Target,
    proto: Proto,
    kept: Option<Connection>,
) -> Result<(Reply, Connection), ClientError> {
    let call = target.call(&state.client, proto);
    if let Some(mut connection) = kept {
        // Only up to the head of the answer: a body that breaks off is a failure in every client.
        match connection.send_streaming(call.to_request()).await {
            Ok(response) => return Ok((collect(response).await?, connection)),
            Err(error) if retried_by_any_client(&error) => state.report().retried += 1,
            Err(error) => return Err(error),
        }
    }
    let mut connection = state.client.connect(call.server_name(), proto).await?;
    let reply = connection.send(call.to_request()).await?;
    Ok((reply, connection))
}

/// True for what happens to a request that met the end of its kept connection and was not processed.
fn retried_by_any_client(error: &ClientError) -> bool {
    let ClientError::Http(error) = error else { return false };
    if let Some(h2) = error.source().and_then(|source| source.downcast_ref::<h2::Error>()) {
        let reason = h2.reason();
        return h2.is_remote() && (h2.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
            || h2.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM);
    }
    // `is_canceled`: never sent. `is_incomplete_message`: closed before the first byte of an answer. `is_closed`: the
    // connection had ended when the request came to it.
    if error.is_canceled() || error.is_incomplete_message() || error.is_closed() {
        return true;
    }
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| matches!(io.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe))
}

/// What is wrong with an answer, if anything.
fn wrong(reply: &Reply, target: &Target) -> Option<String> {
    if reply.status != StatusCode::OK {
        return Some(reply.text().chars().take(300).collect());
    }
    let Some(expected) = &target.expect_authorization else { return None };
    let echo: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let backwards = echo["authorization_backwards"].as_str().unwrap_or_default();
    let received: String = backwards.chars().rev().collect();
    (received != *expected).then(|| format!("the upstream received authorization {received:?}"))
}

async fn watch_stream(state: Arc<State>, target: Target, mut stopped: watch::Receiver<bool>) {
    let watching = async {
        let mut stream = target.call(&state.client, Proto::H1).stream().await.map_err(|error| error.to_string())?;
        if stream.status != StatusCode::OK {
            return Err(format!("status {}", stream.status));
        }
        let mut next = 0_u64;
        loop {
            let event = tokio::time::timeout(state.config.deadline, stream.next_event()).await;
            let event = event.map_err(|_| format!("silent for {:?} after {next} ticks", state.config.deadline))?;
            match event.map_err(|error| format!("{error}, after {next} ticks"))? {
                None => return Err::<std::convert::Infallible, _>(format!("ended after {next} ticks")),
                Some(event) if event.id == next.to_string() => next += 1,
                Some(event) => return Err(format!("tick {next} expected, came {event:?}")),
            }
            state.report().ticks = next;
        }
    };
    tokio::select! {
        Err(broken) = watching => state.report().stream_broken = Some(broken),
        _ = stopped.wait_for(|&stop| stop) => {}
    }
}
