//! `aenv init`: the sandbox's first process. It reaps what others leave behind, keeps `cdp-proxy` running, and on SIGTERM or SIGINT
//! ends everything.
//!
//! It waits in two blocking reads, so it costs no processor time: one for signals, and in a thread one for the end of `cdp-proxy`.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process_group, wait};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::cdp_proxy;

/// How long processes have between SIGTERM and SIGKILL. `docker stop` waits ten seconds for all of it.
const GRACE: Duration = Duration::from_secs(3);

/// How long `cdp-proxy` is left alone when it has ended.
const PAUSE: Duration = Duration::from_secs(1);
/// Its status when it cannot be of use, however often it is started.
const IN_VAIN: i32 = 2;

/// A child that has ended, and its exit status, if it has one.
type Ended = (i32, Option<i32>);

/// Why `aenv init` did not run.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Ending all processes is for a process namespace of its own.
    #[error("init is the first process of a sandbox, and this one has the number {0}: nothing was done")]
    NotFirst(i32),
    /// The signal handlers could not be put in place.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
}

/// Runs until SIGTERM or SIGINT comes.
pub fn run() -> Result<(), InitError> {
    let own = getpid();
    // "All processes" would be all of the user's.
    if own != Pid::INIT {
        return Err(InitError::NotFirst(own.as_raw_nonzero().get()));
    }
    let mut signals = Signals::new([SIGCHLD, SIGTERM, SIGINT]).map_err(InitError::Signals)?;
    // What ended before the handler was there.
    let (ended, endings) = mpsc::channel();
    let is_ending = Arc::new(AtomicBool::new(false));
    reap(&ended);
    // In no image is it a reason not to start that this program cannot be found.
    if let Ok(own) = std::env::current_exe() {
        let program = cdp_proxy::beside(&own);
        let is_ending = Arc::clone(&is_ending);
        thread::spawn(move || keep(&program, &endings, &is_ending));
    }
    for signal in signals.forever() {
        reap(&ended);
        if signal != SIGCHLD {
            break;
        }
    }
    is_ending.store(true, Ordering::Relaxed);
    end_all(GRACE, &ended);
    Ok(())
}

/// Starts a program, and again when it has ended, as long as that may help.
fn keep(program: &Path, endings: &Receiver<Ended>, is_ending: &AtomicBool) {
    while program.is_file() && !is_ending.load(Ordering::Relaxed) {
        // What it says is in the container's log, which is bounded.
        let Ok(child) = Command::new(program).stdin(Stdio::null()).spawn() else { return };
        // Not waited for here: whatever ends is reaped by the one loop, also this.
        let pid = i32::try_from(child.id()).ok();
        let status = endings.iter().find(|(ended, _)| Some(*ended) == pid).map(|(_, status)| status);
        if status.is_none_or(|status| status == Some(IN_VAIN)) {
            return;
        }
        thread::sleep(PAUSE);
    }
}

/// Takes leave of every child that has ended.
fn reap(ended: &Sender<Ended>) {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        // Nobody has to be interested.
        let _ = ended.send((pid.as_raw_nonzero().get(), status.exit_status()));
    }
}

/// SIGTERM for everyone, and SIGKILL for who is still there after `grace`.
fn end_all(grace: Duration, ended: &Sender<Ended>) {
    let everyone = |signal| {
        // Fails when there is nobody.
        let _ = kill_process_group(Pid::INIT, signal);
    };
    everyone(Signal::TERM);
    // A stopped process gets its SIGTERM when it goes on.
    everyone(Signal::CONT);
    let deadline = Instant::now() + grace;
    while others_live() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
        reap(ended);
    }
    everyone(Signal::KILL);
}

/// Whether another process is there. gVisor's `kill(-1, 0)` does not tell; `/proc` does.
fn others_live() -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return true };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.into_iter().any(|pid| pid != 1)
}
