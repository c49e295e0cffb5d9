//! `aenv init`: the sandbox's first process. It reaps what others leave behind, and on SIGTERM or SIGINT ends everything.
//!
//! It waits in one blocking read, so it costs no processor time, and starts no thread.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process_group, wait};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long processes have between SIGTERM and SIGKILL. `docker stop` waits ten seconds for all of it.
const GRACE: Duration = Duration::from_secs(3);

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
    reap();
    for signal in signals.forever() {
        reap();
        if signal != SIGCHLD {
            break;
        }
    }
    end_all(GRACE);
    Ok(())
}

/// Takes leave of every child that has ended.
fn reap() {
    while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
}

/// SIGTERM for everyone, and SIGKILL for who is still there after `grace`.
fn end_all(grace: Duration) {
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
        reap();
    }
    everyone(Signal::KILL);
}

/// Whether another process is there. gVisor's `kill(-1, 0)` does not tell; `/proc` does.
fn others_live() -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return true };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.into_iter().any(|pid| pid != 1)
}
