//! What this server knows of tokens beyond their caveats: the keys they are signed with, which were issued, which are revoked.
//!
//! ```text
//! mint revoke, mint keys ──▶ state folder ──▶ looked at every 200 ms ─┬─▶ Revocations (shared with the rules)
//! a sandbox's tokens ── record ──▶ tokens.db                          └─▶ watch::Sender<Arc<SigningKeys>>
//! ```
//!
//! A thread of its own does all of it: nothing here waits on a runtime thread.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::{oneshot, watch};
use zeroize::Zeroizing;

use crate::domain::revocations::Revocations;
use crate::state::{IssuedToken, LogError, SigningKeys, StateDir, TokenLog, existing_signing_keys, keys_changed};

/// How often is looked. A revocation is to be in force within a second.
const LOOK: Duration = Duration::from_millis(200);
/// What waits to be written at most; more is refused.
const WAITING: usize = 256;

type Record = (Vec<IssuedToken>, oneshot::Sender<Result<(), LogError>>);

/// The way to the log for those who mint in this server. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Issuing {
    records: SyncSender<Record>,
}

/// What follows from the state folder, and goes on following it.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) issuing: Issuing,
    pub(super) revocations: Revocations,
    pub(super) keys: watch::Receiver<Arc<SigningKeys>>,
}

/// Reads keys and revocations, and follows them until the last [`Issuing`] is dropped.
///
/// # Errors
/// When they cannot be read: a server that does not know what is revoked does not start.
pub(super) fn follow(state: &StateDir, variable: Option<Zeroizing<String>>) -> anyhow::Result<Followed> {
    let text = variable.as_ref().map(|text| text.as_str());
    let changed = keys_changed(state.path());
    let keys = state.signing_keys(text).context("cannot get the key that tokens are signed with")?;
    let log = TokenLog::open(state.path())?;
    let version = log.version()?;
    let (ids, seq) = log.revoked_after(0)?;
    let revocations = Revocations::default();
    revocations.add(ids);
    let (keys_tx, keys_rx) = watch::channel(Arc::new(keys));
    let (records, asked) = mpsc::sync_channel(WAITING);
    let follower = Follower {
        state_dir: state.path().to_owned(),
        variable,
        log,
        version,
        seq,
        revocations: revocations.clone(),
        changed,
        keys: keys_tx,
        failing: false,
    };
    std::thread::Builder::new()
        .name("tokens".to_owned())
        .spawn(move || follower.run(&asked))
        .context("cannot start the thread that follows the log of tokens")?;
    Ok(Followed { issuing: Issuing { records }, revocations, keys: keys_rx })
}

impl Issuing {
    /// Writes tokens down; returns when they are on the disk.
    ///
    /// # Errors
    /// When they cannot be written: then they are not to be handed out.
    pub(super) async fn record(&self, tokens: Vec<IssuedToken>) -> Result<(), String> {
        let (reply, replied) = oneshot::channel();
        self.records.try_send((tokens, reply)).map_err(|_| "too many tokens wait to be written down".to_owned())?;
        let written = replied.await.map_err(|_| "the log of tokens is closed".to_owned())?;
        written.map_err(|error| format!("{:#}", anyhow::Error::new(error)))
    }
}

struct Follower {
    state_dir: PathBuf,
    variable: Option<Zeroizing<String>>,
    log: TokenLog,
    version: i64,
    seq: i64,
    revocations: Revocations,
    changed: [Option<std::time::SystemTime>; 2],
    keys: watch::Sender<Arc<SigningKeys>>,
    /// Whether what failed was said.
    failing: bool,
}

impl Follower {
    fn run(mut self, asked: &mpsc::Receiver<Record>) {
        let mut looked = Instant::now();
        loop {
            match asked.recv_timeout(LOOK.saturating_sub(looked.elapsed())) {
                Ok((tokens, reply)) => {
                    // Who asked may have gone away; the tokens are written all the same.
                    let _ = reply.send(self.log.record(&tokens));
                    if looked.elapsed() < LOOK {
                        continue;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            looked = Instant::now();
            let outcome = self.look_at_log().and_then(|()| self.look_at_keys());
            match outcome {
                Ok(()) if self.failing => {
                    self.failing = false;
                    tracing::info!("keys and revocations can be read again");
                }
                Ok(()) => {}
                Err(error) if !self.failing => {
                    self.failing = true;
                    tracing::error!("what is known of keys and revocations stays as it is: {error:#}");
                }
                Err(_) => {}
            }
        }
    }

    fn look_at_log(&mut self) -> anyhow::Result<()> {
        let version = self.log.version()?;
        if version == self.version && !self.failing {
            return Ok(());
        }
        let (ids, seq) = self.log.revoked_after(self.seq)?;
        for id in &ids {
            tracing::info!(token = %id, "revoked");
        }
        self.revocations.add(ids);
        (self.version, self.seq) = (version, seq);
        Ok(())
    }

    fn look_at_keys(&mut self) -> anyhow::Result<()> {
        let changed = keys_changed(&self.state_dir);
        if changed == self.changed && !self.failing {
            return Ok(());
        }
        let variable = self.variable.as_ref().map(|text| text.as_str());
        let keys = existing_signing_keys(&self.state_dir, variable)?.context("there is no signing key any more")?;
        self.changed = changed;
        if !keys.same(&self.keys.borrow()) {
            let ids: Vec<String> = keys.ids().map(ToString::to_string).collect();
            tracing::info!(current = %keys.current().0, all = ids.join(", "), "the signing keys changed");
            self.keys.send_replace(Arc::new(keys));
        }
        Ok(())
    }
}
