//! Keeps the configuration up to date while its files are edited.
//!
//! ```text
//! inotify thread ─ Signal ─▶ watch (this task) ─ when settled ─▶ blocking thread: find, read, parse
//!                             ▲                                      │
//!                             └──── 2 s look at the metadata ────────┴─▶ Loader::apply ─▶ watch::Sender<Arc<Loaded>>
//! ```
//!
//! [`super::paths`] says which folders to watch, [`super::settle`] when to read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::future::Future;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::diagnostic::Diagnostics;
use super::load::{Candidates, Loaded, Loader, SandboxFile};
use super::paths::Plan;
use super::settle::{Settle, Signal};
use crate::domain::names::SandboxId;

/// How often the files' metadata is looked at, for changes that make no event (network file systems, a renamed ancestor).
const POLL: Duration = Duration::from_secs(2);
/// Signals that may wait; more are one [`Signal::Lost`].
const BACKLOG: usize = 256;

/// Why watching ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// Reading the files panicked.
    #[error("reading the configuration files failed")]
    Read(#[from] tokio::task::JoinError),
}

/// A change of what is watched, asked for while it is.
#[derive(Debug)]
pub struct SourceChange {
    /// What is to change.
    pub kind: SourceChangeKind,
    /// Gets the configuration with the change, once it is published.
    pub reply: oneshot::Sender<Result<Arc<Loaded>, Diagnostics>>,
}

/// What is to change: about a sandbox's file, but for the last.
#[derive(Debug)]
pub enum SourceChangeKind {
    /// It is added; see [`Loader::add_sandbox`].
    Add(SandboxFile),
    /// It is added, though it may be broken; see [`Loader::adopt_sandbox`].
    Adopt(SandboxFile),
    /// It is taken over as it is; see [`Loader::accept_sandbox`].
    Accept(SandboxId),
    /// It is forgotten.
    Remove(SandboxId),
    /// Nothing: all files are read again, once none of them is being written. Broken ones are in [`Loaded::problems`].
    Reload,
}

/// Publishes every change of the files of `loader` until `shutdown`, and what `changes` asks for.
///
/// What the loader holds is not published again, but the files are read once at the start, for edits made since it was
/// loaded. Broken files are published as [`Loaded::problems`], and logged.
///
/// # Errors
/// When reading panicked. Without inotify (its limits are per user), the files are looked at every two seconds instead.
pub async fn watch(
    loader: Loader,
    tx: watch::Sender<Arc<Loaded>>,
    mut changes: mpsc::Receiver<SourceChange>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), WatchError> {
    let mut shutdown = pin!(shutdown);
    let (mut worker, mut signals, lost) = Worker::new(loader);
    let mut settle = Settle::default();
    settle.note(Signal::Lost, Instant::now());
    let mut poll = interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes_come = true;
    let mut reloads = Vec::new();
    loop {
        let next = settle.next();
        let wake = sleep_until(next.unwrap_or_else(|| Instant::now() + POLL).into());
        let job = tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            change = changes.recv(), if changes_come => {
                match change {
                    Some(SourceChange { kind: SourceChangeKind::Reload, reply }) => {
                        reloads.push(reply);
                        settle.note(Signal::Touched, Instant::now());
                        continue;
                    }
                    Some(change) => worker = worker.change(change, &tx).await?,
                    None => changes_come = false,
                }
                // What is watched follows with the next reading.
                settle.note(Signal::Lost, Instant::now());
                continue;
            }
            signal = signals.recv() => {
                settle.note(signal.unwrap_or(Signal::Lost), Instant::now());
                continue;
            }
            () = wake, if next.is_some() => {
                settle.start(Instant::now());
                worker.spawn(Worker::read)
            }
            _ = poll.tick(), if next.is_none() => worker.spawn(Worker::look),
        };
        let found = tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            done = job => {
                let (back, found) = done?;
                worker = back;
                found
            }
        };
        // What happened during the reading decides whether it is whole.
        let now = Instant::now();
        while let Ok(signal) = signals.try_recv() {
            settle.note(signal, now);
        }
        if lost.swap(false, Ordering::AcqRel) {
            settle.note(Signal::Lost, now);
        }
        match found {
            Found::Same => {}
            Found::Different => settle.note(Signal::Touched, now),
            Found::NewFolder => settle.retry_in_new_folder(now),
            Found::Read(_) if settle.is_partial(now) => settle.retry(now),
            Found::Read(candidates) => {
                settle.done(now);
                let before = worker.loader.loaded();
                if let Some(after) = worker.loader.apply(candidates) {
                    log(&before, &after);
                    tx.send_replace(after);
                }
                for reply in reloads.drain(..) {
                    // Who asked may have gone away.
                    let _ = reply.send(Ok(worker.loader.loaded()));
                }
            }
        }
    }
}

fn log(before: &Loaded, after: &Loaded) {
    if after.problems != before.problems {
        for problem in &after.problems {
            tracing::warn!(%problem, "configuration file broken; its last good version stays in force");
        }
        if after.problems.is_empty() {
            tracing::info!(generation = after.generation, "all configuration files are good again");
        }
    }
    if after.generation != before.generation {
        tracing::info!(generation = after.generation, "configuration changed");
    }
}

/// What a look at the files found.
enum Found {
    /// Nothing new.
    Same,
    /// Something changed without an event.
    Different,
    /// A folder that was missing or is another one now; it was not watched when it was filled.
    NewFolder,
    /// What the files hold.
    Read(Candidates),
}

/// Everything that touches the file system; moves to a blocking thread for each job, and back.
struct Worker {
    loader: Loader,
    /// `None` when inotify cannot be had.
    watcher: Option<RecommendedWatcher>,
    /// The plan in force; shared with inotify's thread, which drops what does not concern us.
    plan: Arc<ArcSwap<Plan>>,
    /// The folders watched, and which ones they are.
    watched: BTreeMap<PathBuf, Identity>,
    /// Folders that could not be watched, so that each is logged once.
    refused: BTreeSet<PathBuf>,
    /// The files as they were just before they were read.
    stamps: BTreeMap<PathBuf, Option<Stamp>>,
}

/// Device and inode.
type Identity = (u64, u64);
/// Identity, size, modification and change time.
type Stamp = (Identity, u64, (i64, i64), (i64, i64));

impl Worker {
    fn new(loader: Loader) -> (Self, mpsc::Receiver<Signal>, Arc<AtomicBool>) {
        let plan = Arc::new(ArcSwap::from_pointee(Plan::default()));
        let (tx, rx) = mpsc::channel(BACKLOG);
        let lost = Arc::new(AtomicBool::new(false));
        let handler = {
            let (plan, lost) = (Arc::clone(&plan), Arc::clone(&lost));
            move |event: notify::Result<notify::Event>| {
                let signal = Signal::of(&event, |path| plan.load().concerns(path));
                if signal.is_some_and(|signal| tx.try_send(signal).is_err()) {
                    // The channel is full, so its reader is about to wake up and see this.
                    lost.store(true, Ordering::Release);
                }
            }
        };
        let watcher = notify::recommended_watcher(handler)
            .inspect_err(|error| tracing::warn!(%error, "no inotify: configuration files are looked at every 2 s"))
            .ok();
        (
            Self { loader, watcher, plan, watched: BTreeMap::new(), refused: BTreeSet::new(), stamps: BTreeMap::new() },
            rx,
            lost,
        )
    }

    fn spawn(mut self, job: fn(&mut Self) -> Found) -> JoinHandle<(Self, Found)> {
        tokio::task::spawn_blocking(move || {
            let found = job(&mut self);
            (self, found)
        })
    }

    /// Makes a change of the sources, publishes it, and then replies.
    async fn change(
        mut self,
        change: SourceChange,
        tx: &watch::Sender<Arc<Loaded>>,
    ) -> Result<Self, tokio::task::JoinError> {
        let SourceChange { kind, reply } = change;
        let (back, outcome) = tokio::task::spawn_blocking(move || {
            let loader = &mut self.loader;
            let outcome = match kind {
                SourceChangeKind::Add(file) => loader.add_sandbox(file),
                SourceChangeKind::Adopt(file) => loader.adopt_sandbox(file),
                SourceChangeKind::Accept(id) => loader.accept_sandbox(&id).unwrap_or_else(|| Ok(loader.loaded())),
                SourceChangeKind::Remove(id) => Ok(loader.remove_sandbox(&id).unwrap_or_else(|| loader.loaded())),
                SourceChangeKind::Reload => Ok(loader.loaded()),
            };
            (self, outcome)
        })
        .await?;
        if let Ok(loaded) = &outcome {
            tx.send_replace(Arc::clone(loaded));
        }
        // Who asked may have gone away; what it asked for is done.
        let _ = reply.send(outcome);
        Ok(back)
    }

    /// Finds out where the files are, watches there, and only then reads, so that no edit falls between.
    fn read(&mut self) -> Found {
        let mut files: BTreeSet<PathBuf> = self.loader.files().map(Path::to_owned).collect();
        // What a file says may bring in new files, and a symlink may be swapped meanwhile.
        for _ in 0..4 {
            let plan = Plan::of(files.iter().map(PathBuf::as_path));
            let new_folder = self.follow(&plan);
            self.stamps = files.iter().map(|file| (file.clone(), stamp(file))).collect();
            if new_folder {
                return Found::NewFolder;
            }
            let candidates = self.loader.read();
            let read: BTreeSet<PathBuf> = candidates.files().map(Path::to_owned).collect();
            if read == files && Plan::of(read.iter().map(PathBuf::as_path)) == plan {
                return Found::Read(candidates);
            }
            files = read;
        }
        // They are being moved about; the look in two seconds, or the next event, sees where they end up.
        Found::Read(self.loader.read())
    }

    /// Whether anything changed since the last reading, going by metadata alone.
    fn look(&mut self) -> Found {
        let plan = Plan::of(self.stamps.keys().map(PathBuf::as_path));
        let same = plan == **self.plan.load()
            && self.watched.iter().all(|(folder, id)| identity(folder) == Some(*id))
            && self.stamps.iter().all(|(file, before)| stamp(file) == *before);
        if same { Found::Same } else { Found::Different }
    }

    /// Watches the folders of `plan` and no others. Whether one of them is new where there was none, or another one.
    fn follow(&mut self, plan: &Plan) -> bool {
        let before = self.plan.swap(Arc::new(plan.clone()));
        let mut new_folder = before.without_folder.iter().any(|file| !plan.without_folder.contains(file));
        let Some(watcher) = &mut self.watcher else { return false };
        self.watched.retain(|folder, id| {
            let now = identity(folder);
            let keep = plan.folders.contains(folder) && now == Some(*id);
            if !keep {
                new_folder |= plan.folders.contains(folder) && now.is_some();
                // It may be unwatched already: the kernel forgets a folder that is removed.
                let _ = watcher.unwatch(folder);
            }
            keep
        });
        for folder in &plan.folders {
            if self.watched.contains_key(folder) {
                continue;
            }
            match (identity(folder), watcher.watch(folder, RecursiveMode::NonRecursive)) {
                (Some(id), Ok(())) => {
                    self.watched.insert(folder.clone(), id);
                }
                (Some(_), Err(error)) if self.refused.insert(folder.clone()) => {
                    tracing::warn!(%error, ?folder, "folder cannot be watched: it is looked at every 2 s");
                }
                // Gone since the plan was made; or logged before.
                _ => {}
            }
        }
        new_folder
    }
}

fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn stamp(path: &Path) -> Option<Stamp> {
    let m = fs::metadata(path).ok()?;
    Some(((m.dev(), m.ino()), m.size(), (m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec())))
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
