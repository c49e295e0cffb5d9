//! Every decision, written down: `audit.db` in the state folder.
//!
//! A request never waits for the disk: records go through a bounded queue to a thread that writes them in batches. What does not
//! fit is dropped and counted, in a metric and in the log itself.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use anyhow::Context;
use prometheus::{IntCounterVec, Opts, Registry};

use super::activity::{Activity, now_ms, shown};
use crate::domain::macaroon::TokenPrefix;
use crate::state::{AUDIT_KEPT, AuditLog, AuditRecord};
use crate::vault::{Observation, Observer, Vault};

/// Records that wait at most. At 20,000 requests a second this is what comes in half a second.
const WAITING: usize = 10_000;
/// Records in one transaction at most, and how long the first of them waits for more.
const BATCH: usize = 1000;
const GATHER: Duration = Duration::from_millis(100);
/// How long the end of the server waits for what is still to be written.
const FLUSH: Duration = Duration::from_secs(2);

/// Tells those who watch now, and those who look later.
#[derive(Debug)]
pub(super) struct Watchers {
    activity: Arc<Activity>,
    records: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
    counted: IntCounterVec,
    prefix: TokenPrefix,
}

/// Dropped when nothing decides any more: then all that came before is on the disk.
#[derive(Debug)]
pub(super) struct Writer(SyncSender<Item>);

#[derive(Debug)]
enum Item {
    Record(AuditRecord),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

impl Watchers {
    /// Starts writing to `log`.
    ///
    /// # Errors
    /// When the metric is there already, or no thread can be started.
    pub(super) fn start(
        activity: Arc<Activity>,
        log: AuditLog,
        prefix: TokenPrefix,
        registry: &Registry,
    ) -> anyhow::Result<(Self, Writer)> {
        let counted = IntCounterVec::new(
            Opts::new("agent_creds_audit_records_total", "Records of the audit log, by what became of them."),
            &["outcome"],
        )?;
        registry.register(Box::new(counted.clone()))?;
        for outcome in ["written", "dropped"] {
            counted.with_label_values(&[outcome]);
        }
        let dropped = Arc::new(AtomicU64::new(0));
        let (records, asked) = mpsc::sync_channel(WAITING);
        let writing = Writing { log, dropped: Arc::clone(&dropped), counted: counted.clone(), failing: false };
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || writing.run(&asked))?;
        let writer = Writer(records.clone());
        Ok((Self { activity, records, dropped, counted, prefix }, writer))
    }

    /// Texts of the agent's: escaped, cut, and without anything that looks like a token of ours.
    fn text(&self, text: &str) -> String {
        if self.prefix.looks_like_token(text.as_bytes()) { "(a token)".to_owned() } else { shown(text) }
    }
}

impl Observer for Watchers {
    fn observe(&self, observation: Observation<'_>) {
        self.activity.observe(observation);
        let record = AuditRecord {
            time_ms: now_ms(),
            sandbox: observation.sandbox.to_owned(),
            token: observation.token.map(|id| id.to_string()).unwrap_or_default(),
            upstream: shown(observation.host),
            method: self.text(observation.method),
            path: self.text(observation.target.split(['?', '#']).next().unwrap_or_default()),
            decision: observation.decision.to_owned(),
            reason: observation.reason.to_owned(),
            credential: observation.credential.unwrap_or_default().to_owned(),
            latency_us: i64::try_from(observation.latency.as_micros()).unwrap_or(i64::MAX),
        };
        if self.records.try_send(Item::Record(record)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            self.counted.with_label_values(&["dropped"]).inc();
        }
    }
}

/// The same vault, with its decisions shown and written down as `serve` has it, in `state_dir`, until the second value is dropped:
/// for benchmarks.
///
/// # Errors
/// When the log cannot be opened.
pub fn audited(vault: Vault, state_dir: &Path) -> anyhow::Result<(Vault, impl Drop + use<>)> {
    let log = AuditLog::open(state_dir, AUDIT_KEPT).context("cannot use the audit log")?;
    let (watchers, writer) = Watchers::start(Arc::new(Activity::new()), log, TokenPrefix::default(), &Registry::new())?;
    Ok((vault.observed_by(Arc::new(watchers)), writer))
}

impl Drop for Writer {
    fn drop(&mut self) {
        let (done, written) = mpsc::sync_channel(1);
        if self.0.try_send(Item::Flush(done)).is_ok() {
            // A disk that hangs does not hold up the end for ever.
            let _ = written.recv_timeout(FLUSH);
        }
    }
}

struct Writing {
    log: AuditLog,
    dropped: Arc<AtomicU64>,
    counted: IntCounterVec,
    failing: bool,
}

impl Writing {
    fn run(mut self, asked: &mpsc::Receiver<Item>) {
        let mut batch = Vec::with_capacity(BATCH + 1);
        let mut due: Option<Instant> = None;
        loop {
            let wait = due.map_or(GATHER, |due| due.saturating_duration_since(Instant::now()));
            match asked.recv_timeout(wait) {
                Ok(Item::Record(record)) => {
                    batch.push(record);
                    due.get_or_insert_with(|| Instant::now() + GATHER);
                    if batch.len() < BATCH {
                        continue;
                    }
                    self.write(&mut batch);
                }
                Ok(Item::Flush(done)) => {
                    self.write(&mut batch);
                    // Who asked may not wait any more.
                    let _ = done.try_send(());
                }
                Err(RecvTimeoutError::Timeout) => self.write(&mut batch),
                Err(RecvTimeoutError::Disconnected) => return self.write(&mut batch),
            }
            due = None;
        }
    }

    fn write(&mut self, batch: &mut Vec<AuditRecord>) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            batch.push(AuditRecord {
                time_ms: now_ms(),
                sandbox: String::new(),
                token: String::new(),
                upstream: String::new(),
                method: String::new(),
                path: String::new(),
                decision: "dropped".to_owned(),
                reason: format!("{dropped} records"),
                credential: String::new(),
                latency_us: 0,
            });
        }
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        let outcome = self.log.append(batch);
        batch.clear();
        match outcome {
            Ok(()) => {
                self.counted.with_label_values(&["written"]).inc_by(count - u64::from(dropped > 0));
                self.failing = false;
            }
            Err(error) => {
                let lost = count - u64::from(dropped > 0);
                // Said in the log once it can be written again.
                self.dropped.fetch_add(dropped + lost, Ordering::Relaxed);
                self.counted.with_label_values(&["dropped"]).inc_by(lost);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!("the audit log cannot be written: {:#}", anyhow::Error::new(error));
                }
            }
        }
    }
}
