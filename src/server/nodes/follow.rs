//! Who is enrolled, and who was revoked: the log in the state folder, which other programs write to.

use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::watch;

use crate::domain::node::Enrolments;
use crate::state::{NodeLog, Renewed};

/// How often is looked. A node is to be cut off within a second.
const LOOK: Duration = Duration::from_millis(200);
/// Renewals that may wait to be written; what is above is written with the next one of its node.
const WAITING: usize = 16_384;

/// Reads the log, and follows it until the last sender of renewals is dropped. The receiver says when the enrolments changed.
///
/// # Errors
/// When it cannot be read.
pub(super) fn follow(state_dir: &Path) -> anyhow::Result<(Enrolments, watch::Receiver<()>, SyncSender<Renewed>)> {
    let log = NodeLog::open(state_dir)?;
    let enrolments = Enrolments::default();
    let (changed, changes) = watch::channel(());
    let mut follower = Follower { log, version: 0, enrolments: enrolments.clone(), changed, failing: true };
    follower.look()?;
    follower.failing = false;
    let (records, asked) = mpsc::sync_channel(WAITING);
    std::thread::Builder::new()
        .name("nodes".to_owned())
        .spawn(move || follower.run(&asked))
        .context("cannot start the thread that follows the log of nodes")?;
    Ok((enrolments, changes, records))
}

struct Follower {
    log: NodeLog,
    version: i64,
    enrolments: Enrolments,
    changed: watch::Sender<()>,
    /// What failed was said, and is to be tried again.
    failing: bool,
}

impl Follower {
    fn run(mut self, asked: &Receiver<Renewed>) {
        let mut looked = Instant::now();
        loop {
            match asked.recv_timeout(LOOK.saturating_sub(looked.elapsed())) {
                Ok(first) => {
                    // Thousands of nodes may come at once: one transaction for all that wait.
                    let batch: Vec<Renewed> = std::iter::once(first).chain(asked.try_iter()).collect();
                    if let Err(error) = self.log.renewed(&batch) {
                        tracing::warn!(
                            "cannot write down when certificates of nodes end: {:#}",
                            anyhow::Error::new(error)
                        );
                    }
                    if looked.elapsed() < LOOK {
                        continue;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            looked = Instant::now();
            match self.look() {
                Ok(()) if self.failing => {
                    self.failing = false;
                    tracing::info!("the log of nodes can be read again");
                }
                Ok(()) => {}
                Err(error) if !self.failing => {
                    self.failing = true;
                    tracing::error!("what is known of nodes stays as it is: {error:#}");
                }
                Err(_) => {}
            }
        }
    }

    fn look(&mut self) -> anyhow::Result<()> {
        let version = self.log.version()?;
        if version == self.version && !self.failing {
            return Ok(());
        }
        let all = self.log.all()?;
        self.enrolments.set(all.into_iter().map(|enrolled| (enrolled.identity, enrolled.revoked.is_some())));
        self.version = version;
        self.changed.send_replace(());
        Ok(())
    }
}
