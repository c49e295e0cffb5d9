//! A value that is fetched when it is first needed, kept while it is good, and fetched again before it is not.
//!
//! ```text
//!              fetched        fresh_until         usable_until
//! ── none ────────┼───── fresh ────┼────── stale ───────┼────── none ──▶
//!    wait for     │  use it        │  use it, and fetch │  wait for
//!    the fetch    │                │  in the background │  the fetch
//! ```
//!
//! One fetch is under way at most, whoever waits for it. One that failed is tried again after a pause that grows; until then
//! who would have to wait is told why at once.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The first pause after a failure; it doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// How long any fetch may take; sources have shorter limits of their own.
const LIMIT: Duration = Duration::from_secs(60);
/// As good as for ever.
const LONG: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Why a value could not be had, for the log and for `/readyz`; names no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(Arc<str>);

impl FetchError {
    /// With this text.
    pub fn new(text: impl fmt::Display) -> Self {
        Self(text.to_string().into())
    }
}

/// A value as its source gave it.
#[derive(Debug)]
pub struct Fetched<T> {
    /// The value.
    pub value: T,
    /// Until when it is used as it is.
    pub fresh_until: Instant,
    /// Until when it is used while no newer one can be had; not before `fresh_until`.
    pub usable_until: Instant,
    /// What is wrong with it all the same: something it is made of is stale.
    pub problem: Option<FetchError>,
}

impl<T> Fetched<T> {
    /// A value that is fresh for `ttl`, and usable for `grace` after that.
    pub fn lasting(value: T, ttl: Option<Duration>, grace: Duration) -> Self {
        let fresh_until = Instant::now() + ttl.unwrap_or(LONG);
        Self { value, fresh_until, usable_until: fresh_until + grace, problem: None }
    }
}

/// What a [`Source`] does, while it does it.
pub type Fetch<'a, T> = Pin<Box<dyn Future<Output = Result<Fetched<T>, FetchError>> + Send + 'a>>;

/// Where a value comes from.
pub trait Source<T>: Send + Sync {
    /// Gets it; may be dropped at any point.
    fn fetch(&self) -> Fetch<'_, T>;
}

/// A value as it is now.
#[derive(Debug)]
pub struct Got<T> {
    /// The value.
    pub value: Arc<T>,
    /// Until when it is used as it is.
    pub fresh_until: Instant,
    /// Until when it may be used.
    pub usable_until: Instant,
    /// Why there is no newer one, if there should be.
    pub problem: Option<FetchError>,
}

/// How a value is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveState {
    /// Nobody needed it yet.
    Unused,
    /// Good.
    Good,
    /// Usable, but a newer one cannot be had.
    Stale(FetchError),
    /// Not to be had.
    Failed(FetchError),
}

/// A value from a [`Source`].
pub struct Live<T> {
    held: ArcSwapOption<Held<T>>,
    attempts: Mutex<Attempts>,
    /// How many fetches have ended.
    ended: watch::Sender<u64>,
    /// Where it comes from, and the runtime to fetch it on; `None` is a value that never changes.
    source: Option<(Box<dyn Source<T>>, Handle)>,
}

#[derive(Debug)]
struct Held<T> {
    value: Arc<T>,
    fresh_until: Instant,
    usable_until: Instant,
}

#[derive(Debug, Default)]
struct Attempts {
    running: bool,
    failures: u32,
    /// Not to be tried before.
    next: Option<Instant>,
    problem: Option<FetchError>,
}

impl<T: Send + Sync + 'static> Live<T> {
    /// A value that never changes.
    pub fn fixed(value: T) -> Arc<Self> {
        let until = Instant::now() + LONG;
        let held = Held { value: Arc::new(value), fresh_until: until, usable_until: until };
        Arc::new(Self { held: ArcSwapOption::from_pointee(held), ..Self::without_value(None) })
    }

    /// A value that `source` gives when it is needed, fetched on the runtime that this is called on.
    ///
    /// # Panics
    /// Without a Tokio runtime.
    pub fn from_source(source: impl Source<T> + 'static) -> Arc<Self> {
        Arc::new(Self::without_value(Some((Box::new(source), Handle::current()))))
    }

    fn without_value(source: Option<(Box<dyn Source<T>>, Handle)>) -> Self {
        Self { held: ArcSwapOption::empty(), attempts: Mutex::default(), ended: watch::Sender::new(0), source }
    }

    /// The value, if it may be used at `now`; a stale one is fetched again in the background.
    pub fn peek(self: &Arc<Self>, now: Instant) -> Option<Arc<T>> {
        let held = self.held.load();
        let held = held.as_ref().filter(|held| now < held.usable_until)?;
        if now >= held.fresh_until {
            self.start(now);
        }
        Some(Arc::clone(&held.value))
    }

    /// The value, fetched if there is no fresh one.
    ///
    /// # Errors
    /// Why there is none that may be used.
    pub async fn get(self: &Arc<Self>) -> Result<Got<T>, FetchError> {
        if let Some(held) = self.usable(Instant::now()).filter(|held| Instant::now() < held.fresh_until) {
            return Ok(self.got(&held));
        }
        // Subscribed before it is started, so that its end is not missed.
        let mut ended = self.ended.subscribe();
        if self.start(Instant::now()) {
            // The sender lives as long as `self`.
            let _ = ended.changed().await;
        }
        match self.usable(Instant::now()) {
            Some(held) => Ok(self.got(&held)),
            None => Err(self.lock().problem.clone().unwrap_or_else(|| FetchError::new("it could not be fetched"))),
        }
    }

    /// Fetches anew, however fresh it is: what it comes from has changed. A failure leaves what there was usable for its grace.
    pub async fn refresh(self: &Arc<Self>) {
        loop {
            let mut ended = self.ended.subscribe();
            let ours = {
                let mut attempts = self.lock();
                attempts.next = None;
                !attempts.running
            };
            if !self.start(Instant::now()) {
                return;
            }
            let _ = ended.changed().await;
            // One that was under way already may have read what was there before.
            if ours {
                return;
            }
        }
    }

    /// How it is doing.
    pub fn state(&self) -> LiveState {
        let usable = self.usable(Instant::now()).is_some();
        match (&self.lock().problem, usable) {
            (Some(problem), true) => LiveState::Stale(problem.clone()),
            (Some(problem), false) => LiveState::Failed(problem.clone()),
            // Unused, or not used for so long that it would be fetched anew.
            (None, false) => LiveState::Unused,
            (None, true) => LiveState::Good,
        }
    }

    fn usable(&self, now: Instant) -> Option<Arc<Held<T>>> {
        self.held.load_full().filter(|held| now < held.usable_until)
    }

    fn got(&self, held: &Held<T>) -> Got<T> {
        let attempts = self.lock();
        let fresh_until = match attempts.next {
            // Whoever builds on it is to look again when there may be a newer one.
            Some(next) => next.min(held.usable_until),
            None => held.fresh_until,
        };
        Got {
            value: Arc::clone(&held.value),
            fresh_until,
            usable_until: held.usable_until,
            problem: attempts.problem.clone(),
        }
    }

    /// Starts a fetch unless one is under way; false when it is too early for one.
    fn start(self: &Arc<Self>, now: Instant) -> bool {
        let Some((_, runtime)) = &self.source else { return false };
        let mut attempts = self.lock();
        if attempts.running {
            return true;
        }
        if attempts.next.is_some_and(|next| now < next) {
            return false;
        }
        attempts.running = true;
        drop(attempts);
        runtime.spawn(Arc::clone(self).attempt());
        true
    }

    async fn attempt(self: Arc<Self>) {
        // Also when the source panics, or the runtime ends.
        let ending = Ending(&self);
        let Some((source, _)) = &self.source else { return };
        let fetched = match tokio::time::timeout(LIMIT, source.fetch()).await {
            Ok(fetched) => fetched,
            Err(_) => Err(FetchError::new(format_args!("no answer within {LIMIT:?}"))),
        };
        self.settle(fetched, Instant::now());
        drop(ending);
    }

    fn settle(&self, fetched: Result<Fetched<T>, FetchError>, now: Instant) {
        let mut attempts = self.lock();
        match fetched {
            Ok(Fetched { value, fresh_until, usable_until, problem }) => {
                self.held.store(Some(Arc::new(Held { value: Arc::new(value), fresh_until, usable_until })));
                *attempts = Attempts { running: attempts.running, problem, ..Attempts::default() };
            }
            Err(error) => {
                attempts.next = Some(now + pause(attempts.failures));
                attempts.failures = attempts.failures.saturating_add(1);
                attempts.problem = Some(error);
                // What was fresh is not known to be good any more: its grace begins now.
                if let Some(held) = self.held.load_full().filter(|held| now < held.fresh_until) {
                    let grace = held.usable_until.saturating_duration_since(held.fresh_until);
                    let value = Arc::clone(&held.value);
                    self.held.store(Some(Arc::new(Held { value, fresh_until: now, usable_until: now + grace })));
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After which pause it is tried again, when it failed before `failures` times and now.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LAST_PAUSE)
}

struct Ending<'a, T: Send + Sync + 'static>(&'a Arc<Live<T>>);

impl<T: Send + Sync + 'static> Drop for Ending<'_, T> {
    fn drop(&mut self) {
        self.0.lock().running = false;
        self.0.ended.send_modify(|ended| *ended += 1);
    }
}

impl<T> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.source.is_some() { "Live(…)" } else { "Live(fixed)" })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// Gives 1, 2, 3 …, or fails while `broken`.
    struct Counting {
        fetches: Arc<AtomicUsize>,
        broken: Arc<std::sync::atomic::AtomicBool>,
        /// A fetch takes one of these.
        permits: Arc<Semaphore>,
        ttl: Duration,
        grace: Duration,
    }

    impl Source<usize> for Counting {
        fn fetch(&self) -> Fetch<'_, usize> {
            Box::pin(async {
                self.permits.acquire().await.unwrap().forget();
                let count = self.fetches.fetch_add(1, Ordering::SeqCst) + 1;
                if self.broken.load(Ordering::SeqCst) {
                    return Err(FetchError::new("broken"));
                }
                Ok(Fetched::lasting(count, Some(self.ttl), self.grace))
            })
        }
    }

    struct World {
        live: Arc<Live<usize>>,
        fetches: Arc<AtomicUsize>,
        broken: Arc<std::sync::atomic::AtomicBool>,
        permits: Arc<Semaphore>,
    }

    fn world(ttl: Duration, grace: Duration, permits: usize) -> World {
        let (fetches, broken) = (Arc::<AtomicUsize>::default(), Arc::default());
        let permits = Arc::new(Semaphore::new(permits));
        let source = Counting {
            fetches: Arc::clone(&fetches),
            broken: Arc::clone(&broken),
            permits: Arc::clone(&permits),
            ttl,
            grace,
        };
        World { live: Live::from_source(source), fetches, broken, permits }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    async fn until(what: impl Fn() -> bool) {
        let started = Instant::now();
        while !what() {
            assert!(started.elapsed() < Duration::from_secs(10), "it does not come to be");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn nothing_is_fetched_before_it_is_needed_and_then_once_for_all() {
        let World { live, fetches, permits, .. } = world(HOUR, HOUR, 0);
        assert_eq!(live.state(), LiveState::Unused);
        assert!(live.peek(Instant::now()).is_none());
        assert_eq!(fetches.load(Ordering::SeqCst), 0);
        let waiting: Vec<_> = (0..500)
            .map(|_| {
                let live = Arc::clone(&live);
                tokio::spawn(async move { *live.get().await.unwrap().value })
            })
            .collect();
        tokio::task::yield_now().await;
        permits.add_permits(500);
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap(), 1);
        }
        assert_eq!((fetches.load(Ordering::SeqCst), live.state()), (1, LiveState::Good));
        assert_eq!(live.peek(Instant::now()).as_deref(), Some(&1));
    }

    #[tokio::test]
    async fn a_stale_value_is_used_while_a_newer_one_is_fetched() {
        let World { live, fetches, permits, .. } = world(Duration::ZERO, HOUR, 1);
        assert_eq!(*live.get().await.unwrap().value, 1);
        for _ in 0..100 {
            assert_eq!(live.peek(Instant::now()).as_deref(), Some(&1));
        }
        permits.add_permits(1);
        until(|| fetches.load(Ordering::SeqCst) == 2).await;
        until(|| live.peek(Instant::now()).is_some_and(|value| *value == 2)).await;
    }

    #[tokio::test]
    async fn a_failure_leaves_the_last_good_value_for_its_grace_and_no_longer() {
        let World { live, fetches, broken, .. } = world(HOUR, Duration::from_millis(200), 100);
        assert_eq!(*live.get().await.unwrap().value, 1);
        broken.store(true, Ordering::SeqCst);
        live.refresh().await;
        assert_eq!(live.state(), LiveState::Stale(FetchError::new("broken")));
        let got = live.get().await.unwrap();
        assert_eq!((*got.value, got.problem), (1, Some(FetchError::new("broken"))));
        until(|| live.peek(Instant::now()).is_none()).await;
        assert_eq!(live.state(), LiveState::Failed(FetchError::new("broken")));
        // Between tries it is told at once.
        let tried = fetches.load(Ordering::SeqCst);
        assert_eq!(live.get().await.unwrap_err(), FetchError::new("broken"));
        assert_eq!(fetches.load(Ordering::SeqCst), tried);
        broken.store(false, Ordering::SeqCst);
        live.refresh().await;
        assert_eq!((live.get().await.unwrap().problem, live.state()), (None, LiveState::Good));
    }

    struct Panics;

    impl Source<usize> for Panics {
        fn fetch(&self) -> Fetch<'_, usize> {
            Box::pin(async { panic!("on purpose") })
        }
    }

    #[tokio::test]
    async fn a_source_that_panics_leaves_nobody_waiting() {
        let live = Live::from_source(Panics);
        assert!(live.get().await.is_err());
        assert!(live.get().await.is_err());
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        assert_eq!([0, 1, 2, 4, 5, 1000].map(pause).map(|pause| pause.as_secs()), [1, 2, 4, 16, 30, 30]);
    }

    #[test]
    fn a_fixed_value_needs_no_runtime() {
        let live = Live::fixed(7);
        assert_eq!(live.peek(Instant::now() + HOUR).as_deref(), Some(&7));
        assert_eq!(live.state(), LiveState::Good);
    }
}
