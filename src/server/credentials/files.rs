//! Files with secrets: looked at, and what comes from them fetched again when they change.
//!
//! Looking twice a second works wherever a file is: on file systems without notifications, and behind the symlinks that secret
//! stores swap.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::secret::SecretBytes;
use crate::shutdown::Shutdown;
use crate::vault::Injection;
use crate::vault::live::Live;
use crate::vault::providers::Seen;

const LOOK: Duration = Duration::from_millis(500);

/// A file with a secret in it.
#[derive(Debug, Clone)]
pub(in crate::server) struct WatchedFile {
    pub(super) path: PathBuf,
    pub(super) seen: Seen,
    pub(super) secret: Arc<Live<SecretBytes>>,
    /// What is made of it.
    pub(super) credentials: Vec<Arc<Live<Injection>>>,
}

/// Follows the files until `shutdown`.
pub(in crate::server) async fn follow(mut files: watch::Receiver<Vec<WatchedFile>>, shutdown: Shutdown) {
    let stopped = shutdown.wait();
    tokio::pin!(stopped);
    let mut watched = files.borrow_and_update().clone();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            changed = files.changed() => {
                if changed.is_err() {
                    // Nothing is put in force any more.
                    stopped.await;
                    return;
                }
                watched = files.borrow_and_update().clone();
            }
            _ = look.tick(), if !watched.is_empty() => {
                let paths: Vec<PathBuf> = watched.iter().map(|file| file.path.clone()).collect();
                let looked = tokio::task::spawn_blocking(move || paths.iter().map(|path| Seen::of(path)).collect());
                let seen: Vec<Seen> = looked.await.unwrap_or_default();
                for (file, seen) in watched.iter_mut().zip(seen) {
                    if std::mem::replace(&mut file.seen, seen) != seen {
                        tracing::info!(file = %file.path.display(), "a file with a secret changed");
                        file.secret.refresh().await;
                        for credential in &file.credentials {
                            credential.refresh().await;
                        }
                    }
                }
            }
        }
    }
}
