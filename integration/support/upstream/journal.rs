//! What an upstream remembers of the requests it received.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{HeaderMap, Version};

/// A request as it arrived at the upstream.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The method.
    pub method: String,
    /// `:authority`, or the `Host` header.
    pub host: String,
    /// The path, with the query if there is one.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole body; empty for a WebSocket.
    pub body: Bytes,
    /// The trailers; none for a WebSocket.
    pub trailers: HeaderMap,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: Version,
    /// Counts the TLS connections of this upstream.
    pub connection: usize,
    /// The server name of the TLS handshake.
    pub sni: Option<String>,
}

impl Recorded {
    /// The first value of a header, with other bytes than UTF-8 replaced.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    /// The `authorization` header.
    pub fn authorization(&self) -> Option<String> {
        self.header("authorization")
    }

    /// True when `needle` occurs in the path, a header, the body or a trailer.
    pub fn contains(&self, needle: &str) -> bool {
        let needle = needle.as_bytes();
        let has = |hay: &[u8]| hay.windows(needle.len()).any(|window| window == needle);
        let mut values = self.headers.values().chain(self.trailers.values());
        has(self.path.as_bytes()) || has(&self.body) || values.any(|value| has(value.as_bytes()))
    }
}

type Observer = Arc<dyn Fn(&Recorded) + Send + Sync>;

/// The requests an upstream received.
#[derive(Default)]
pub struct Journal(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    requests: VecDeque<Recorded>,
    count: usize,
    observer: Option<Observer>,
}

impl Journal {
    /// How many requests are kept; older ones are only counted. A load test sends hundreds of thousands.
    pub const LIMIT: usize = 10_000;

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub(super) fn record(&self, request: &Recorded) {
        let mut inner = self.lock();
        let observer = inner.observer.clone();
        if inner.requests.len() == Self::LIMIT {
            inner.requests.pop_front();
        }
        inner.count += 1;
        inner.requests.push_back(request.clone());
        drop(inner);
        if let Some(observer) = observer {
            observer(request);
        }
    }

    pub(super) fn requests(&self) -> Vec<Recorded> {
        self.lock().requests.iter().cloned().collect()
    }

    pub(super) fn count(&self) -> usize {
        self.lock().count
    }

    pub(super) fn clear(&self) {
        self.lock().requests.clear();
    }

    pub(super) fn observe(&self, observer: impl Fn(&Recorded) + Send + Sync + 'static) {
        self.lock().observer = Some(Arc::new(observer));
    }
}
