//! Stopping: one signal that every task waits for.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Tells tasks to stop.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Waits for a [`Trigger`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// A trigger, and what waits for it.
pub fn channel() -> (Trigger, Shutdown) {
    let (tx, rx) = watch::channel(false);
    (Trigger(tx), Shutdown(rx))
}

impl Trigger {
    /// Tells every task, once and for good.
    pub fn fire(&self) {
        self.0.send_replace(true);
    }

    /// What waits for it.
    pub fn subscribe(&self) -> Shutdown {
        Shutdown(self.0.subscribe())
    }
}

impl Shutdown {
    /// Returns when the trigger was fired, or is gone.
    pub async fn wait(mut self) {
        // An error means that the trigger is gone, which is as good.
        let _ = self.0.wait_for(|&fired| fired).await;
    }
}

/// Catches the signals that ask a process to stop (SIGTERM, SIGINT, SIGHUP) from now on; the future returns when one comes,
/// or came since, with its name.
///
/// # Errors
/// When no handler can be installed.
pub fn signals() -> io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hangup.recv() => "SIGHUP",
        }
    })
}
