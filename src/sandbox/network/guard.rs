//! The guard: makes the kernel's rules what the server wants, and keeps them so.
//!
//! ```text
//!  server ── GuardCommand ──▶ ┐
//!  kernel ── "changed" ─────▶ ├─ look: read all ─▶ differs? apply, read again ─▶ GuardReport ──▶ server
//!  clock ─── every 500 ms ──▶ ┘
//! ```
//!
//! It has no state but the last command: what is in force is always read from the kernel, so a guard that starts anew adopts
//! what the last one left. Rules outlive it; nothing opens when it is killed, or when the server is.

mod events;
mod kernel;
mod tool;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Write};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use self::events::Event;
use self::kernel::Seen;
use self::tool::printable;
use super::{GuardCommand, GuardReport, Isolation, Layer, NetKey};

/// How long a change may go unnoticed that the kernel told nothing about.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two looks for the kernel's notices: other programs change their rules too, and often many at once.
const PAUSE: Duration = Duration::from_millis(20);
/// Reports that wait for a reader. More are lost: a server that comes back asks again.
const MAX_REPORTS: usize = 1024;

/// Runs the guard: commands from `input`, reports to `output`, one JSON object a line. It does not return while it can work,
/// not at the end of `input` either.
///
/// # Errors
/// When the kernel's notices cannot be had.
pub fn run(input: impl BufRead + Send + 'static, output: impl Write + Send + 'static) -> io::Result<()> {
    let (send, events) = mpsc::sync_channel(64);
    events::watch_kernel(&send)?;
    events::read_lines(input, send);
    let mut guard = Guard { reports: write_reports(output), command: None, announced: false, faults: BTreeMap::new() };
    let mut looked = Instant::now();
    loop {
        match events.recv_timeout(LOOK_EVERY.saturating_sub(looked.elapsed())) {
            Ok(Event::Line(line)) => guard.line(&line),
            Ok(Event::TooLong) => guard.refuse("the line is too long".to_owned()),
            Ok(Event::Changed) => {
                thread::sleep(PAUSE.saturating_sub(looked.elapsed()));
                // Notices up to now are answered by this one look; lines are not lost.
                let waiting: Vec<Event> = events.try_iter().collect();
                guard.look(false);
                for event in waiting {
                    match event {
                        Event::Line(line) => guard.line(&line),
                        Event::TooLong => guard.refuse("the line is too long".to_owned()),
                        Event::Changed => {}
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => guard.look(false),
            Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("all sources of events have ended")),
        }
        looked = Instant::now();
    }
}

/// A reader that does not read, or is gone, holds up only the thread.
fn write_reports(mut output: impl Write + Send + 'static) -> SyncSender<GuardReport> {
    let (send, reports) = mpsc::sync_channel::<GuardReport>(MAX_REPORTS);
    thread::spawn(move || {
        for report in reports {
            let Ok(mut line) = serde_json::to_vec(&report) else { continue };
            line.push(b'\n');
            // The guard goes on without a reader.
            let _ = output.write_all(&line).and_then(|()| output.flush());
        }
    });
    send
}

struct Guard {
    reports: SyncSender<GuardReport>,
    command: Option<GuardCommand>,
    /// Whether `Holding` was said of this command.
    announced: bool,
    /// What was said to be wrong, until it is repaired.
    faults: BTreeMap<Option<NetKey>, String>,
}

impl Guard {
    fn report(&self, report: GuardReport) {
        // Full: nobody has read for a long time.
        let _ = self.reports.try_send(report);
    }

    fn refuse(&self, message: String) {
        self.report(GuardReport::Failed { revision: None, key: None, message });
    }

    fn line(&mut self, line: &[u8]) {
        let command: GuardCommand = match serde_json::from_slice(line) {
            Ok(command) => command,
            Err(error) => return self.refuse(format!("not a command: {}", printable(error.to_string().as_bytes()))),
        };
        if let Some(message) = unfit(&command, self.command.as_ref()) {
            return self.report(GuardReport::Failed { revision: Some(command.revision), key: None, message });
        }
        self.command = Some(command);
        self.announced = false;
        self.faults.clear();
        self.look(true);
    }

    /// Reads what is in force, applies what differs, reads again, and reports. After a `fresh` command nothing is lost yet that
    /// it asks for.
    fn look(&mut self, fresh: bool) {
        let Some(command) = self.command.take() else { return };
        let mut outcome = self.settle(&command, fresh);
        if fresh
            && let Err(message) = kernel::remove_bridges(&command.gone)
            && let Ok(faults) = &mut outcome
        {
            faults.entry(None).or_insert(message);
        }
        let mut faults = match outcome {
            Ok(faults) => faults,
            // What was wrong still is, as far as we know.
            Err(error) => {
                let mut faults = self.faults.clone();
                faults.insert(None, error.to_string());
                faults
            }
        };
        for (key, message) in &faults {
            if self.faults.get(key) != Some(message) {
                let (key, message) = (key.clone(), message.clone());
                self.report(GuardReport::Failed { revision: Some(command.revision), key, message });
            }
        }
        std::mem::swap(&mut self.faults, &mut faults);
        for key in faults.into_keys().filter(|key| !self.faults.contains_key(key)) {
            self.report(GuardReport::Repaired { key });
        }
        if self.faults.is_empty() && !self.announced {
            self.announced = true;
            self.report(GuardReport::Holding(command.revision));
        }
        self.command = Some(command);
    }

    /// What is still wrong afterwards.
    fn settle(&self, command: &GuardCommand, fresh: bool) -> Result<BTreeMap<Option<NetKey>, String>, tool::ToolError> {
        let seen = Seen::read(&command.hold)?;
        let missing = missing(command, &seen);
        if missing.is_empty() && !seen.has_leftovers(command) {
            return Ok(BTreeMap::new());
        }
        let mut lost = BTreeSet::new();
        if !fresh {
            for (key, what) in missing.iter().filter(|(key, _)| !self.faults.contains_key(&Some(key.clone()))) {
                lost.insert(key.clone());
                self.report(GuardReport::Lost { key: key.clone(), what: *what });
            }
        }
        let mut errors = kernel::repair(command, &seen, &missing);
        let seen = Seen::read(&command.hold)?;
        let still = self::missing(command, &seen);
        // An error without a consequence is none: say, another guard was faster.
        let mut faults = BTreeMap::new();
        for (key, what) in still {
            let known = errors.remove(&Some(key.clone())).or_else(|| errors.get(&None).cloned());
            let message = known.unwrap_or_else(|| format!("{what}: what is read back is not what was applied"));
            faults.entry(Some(key)).or_insert(message);
        }
        if seen.has_leftovers(command) {
            let known = errors.remove(&None);
            faults.insert(None, known.unwrap_or_else(|| "what is no longer wanted could not be removed".to_owned()));
        }
        for key in lost {
            if !faults.contains_key(&Some(key.clone())) {
                self.report(GuardReport::Repaired { key: Some(key) });
            }
        }
        Ok(faults)
    }
}

/// Why a command is not followed: it is about another server, or says two things of one sandbox.
fn unfit(command: &GuardCommand, before: Option<&GuardCommand>) -> Option<String> {
    let server = &command.server;
    if let Some(before) = before.filter(|before| before.server != *server) {
        return Some(format!("this guard is the one of server {}, not {}", before.server.as_str(), server.as_str()));
    }
    let mut keys = BTreeSet::new();
    command.hold.iter().map(Isolation::key).chain(&command.gone).find_map(|key| {
        if key.server() != server.as_str() {
            Some(format!("the key {key} is not one of server {}", server.as_str()))
        } else if !keys.insert(key) {
            Some(format!("the key {key} comes twice"))
        } else {
            None
        }
    })
}

fn missing(command: &GuardCommand, seen: &Seen) -> BTreeSet<(NetKey, Layer)> {
    let of = |isolation: &Isolation| {
        let key = isolation.key.clone();
        seen.missing(isolation).into_iter().map(move |layer| (key.clone(), layer))
    };
    command.hold.iter().flat_map(of).collect()
}
