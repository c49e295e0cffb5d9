//! When to read: soon after an edit is complete, and not while a file is being written. Pure; time is an input.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, Event, EventKind, ModifyKind, RenameMode};

/// Lets the events of one edit come in together.
const SETTLE: Duration = Duration::from_millis(3);
/// A file that is gone usually comes back at once: many editors move the old one away before they write the new one.
const GONE: Duration = Duration::from_millis(100);
/// A folder that has just appeared is being filled, and was not watched while that began.
const APPEARED: Duration = Duration::from_millis(20);
/// How long after its last write a file that stays open counts as being written.
const WRITING: Duration = Duration::from_millis(250);
/// Writing holds reading up no longer than this, all in all.
const LONGEST: Duration = Duration::from_secs(2);

/// What an event says about a name that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signal {
    /// It is complete: closed after writing, or renamed or linked into place.
    Ready(PathBuf),
    /// It is being written.
    Writing(PathBuf),
    /// It is gone.
    Gone(PathBuf),
    /// Something about it changed, such as its permissions.
    Touched,
    /// Events were lost: anything may have changed.
    Lost,
}

impl Signal {
    /// What `event` says, `concerns` telling which names matter; `None` when it says nothing.
    pub(crate) fn of(event: &notify::Result<Event>, concerns: impl Fn(&Path) -> bool) -> Option<Self> {
        let Ok(event) = event else { return Some(Self::Lost) };
        if event.need_rescan() {
            return Some(Self::Lost);
        }
        let path = event.paths.first().filter(|path| concerns(path))?.clone();
        Some(match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Self::Ready(path),
            // Reading the file ourselves opens it, too.
            EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return None,
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) | EventKind::Remove(_) => Self::Gone(path),
            EventKind::Modify(ModifyKind::Name(_)) | EventKind::Create(CreateKind::Folder) => Self::Ready(path),
            EventKind::Modify(ModifyKind::Data(_)) => Self::Writing(path),
            EventKind::Create(_) if is_new_file(&path) => Self::Writing(path),
            EventKind::Create(_) => Self::Ready(path),
            EventKind::Modify(_) | EventKind::Any | EventKind::Other => Self::Touched,
        })
    }
}

/// Whether the name was made by opening it for writing, not by linking something that is complete.
fn is_new_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 1)
}

/// The edits that wait to be read.
#[derive(Debug, Default)]
pub(crate) struct Settle {
    /// When to read, files being written aside.
    due: Option<Instant>,
    /// Files being written, and until when that is believed without another sign.
    writing: BTreeMap<PathBuf, Instant>,
    /// When the oldest edit that waits came in.
    since: Option<Instant>,
}

impl Settle {
    /// Takes a signal in.
    pub(crate) fn note(&mut self, signal: Signal, now: Instant) {
        self.since.get_or_insert(now);
        match signal {
            Signal::Ready(path) => {
                self.writing.remove(&path);
                self.due_by(now + SETTLE);
            }
            Signal::Gone(path) => {
                self.writing.remove(&path);
                self.due_by(now + GONE);
            }
            Signal::Writing(path) => {
                self.writing.insert(path, now + WRITING);
            }
            Signal::Touched => self.due_by(now + SETTLE),
            Signal::Lost => {
                self.writing.clear();
                self.due_by(now + SETTLE);
            }
        }
    }

    fn due_by(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// When to read next; `None` while nothing waits.
    pub(crate) fn next(&self) -> Option<Instant> {
        let written = self.writing.values().max().copied();
        let at = self.due.max(written)?;
        Some(self.since.map_or(at, |since| at.min(since + LONGEST)))
    }

    /// Reading begins: what comes in from now on needs another reading.
    pub(crate) fn start(&mut self, now: Instant) {
        self.due = None;
        self.writing.retain(|_, until| *until > now);
    }

    /// Whether what was read may be half of an edit: a file is being written, and has not been for too long.
    pub(crate) fn is_partial(&self, now: Instant) -> bool {
        !self.writing.is_empty() && self.since.is_some_and(|since| now < since + LONGEST)
    }

    /// What was read is not used: a file was being written meanwhile.
    pub(crate) fn retry(&mut self, now: Instant) {
        self.due_by(now);
    }

    /// What was read is not used: a folder has only just appeared.
    pub(crate) fn retry_in_new_folder(&mut self, now: Instant) {
        self.since.get_or_insert(now);
        self.due_by(now + APPEARED);
    }

    /// What was read is in force.
    pub(crate) fn done(&mut self, now: Instant) {
        let waits = self.due.is_some() || !self.writing.is_empty();
        self.since = waits.then_some(now);
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{DataChange, Flag, MetadataKind};

    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn file() -> PathBuf {
        PathBuf::from("/p/agent-creds.toml")
    }

    #[test]
    fn a_complete_file_is_read_at_once_and_a_growing_one_when_it_is_closed() {
        let t = Instant::now();
        let mut settle = Settle::default();
        assert_eq!(settle.next(), None);
        settle.note(Signal::Writing(file()), t);
        assert_eq!(settle.next(), Some(t + ms(250)));
        settle.note(Signal::Writing(file()), t + ms(50));
        assert_eq!(settle.next(), Some(t + ms(300)));
        settle.note(Signal::Ready(file()), t + ms(60));
        assert_eq!(settle.next(), Some(t + ms(63)));
        settle.start(t + ms(63));
        settle.done(t + ms(64));
        assert_eq!(settle.next(), None);
    }

    #[test]
    fn one_file_being_written_holds_all_up_but_not_for_ever() {
        let t = Instant::now();
        let mut settle = Settle::default();
        settle.note(Signal::Ready("/p/b".into()), t);
        for n in 0..100 {
            settle.note(Signal::Writing(file()), t + ms(n * 100));
        }
        assert_eq!(settle.next(), Some(t + ms(2000)));
        settle.start(t + ms(2000));
        assert!(!settle.is_partial(t + ms(2001)));
    }

    #[test]
    fn what_is_read_while_a_file_is_being_written_is_read_again() {
        let t = Instant::now();
        let mut settle = Settle::default();
        settle.note(Signal::Ready(file()), t);
        settle.start(t + ms(3));
        settle.note(Signal::Writing(file()), t + ms(4));
        assert!(settle.is_partial(t + ms(5)));
        settle.retry(t + ms(5));
        assert_eq!(settle.next(), Some(t + ms(254)));
        settle.note(Signal::Touched, t + ms(6));
        assert_eq!(settle.next(), Some(t + ms(254)));
        settle.note(Signal::Ready(file()), t + ms(7));
        assert!(!settle.is_partial(t + ms(8)));
        assert!(settle.next() <= Some(t + ms(10)));
    }

    #[test]
    fn a_file_that_is_gone_gets_time_to_come_back() {
        let t = Instant::now();
        let mut settle = Settle::default();
        settle.note(Signal::Gone(file()), t);
        assert_eq!(settle.next(), Some(t + ms(100)));
        settle.note(Signal::Writing(file()), t + ms(1));
        settle.note(Signal::Ready(file()), t + ms(2));
        assert_eq!(settle.next(), Some(t + ms(5)));
        settle.note(Signal::Lost, t + ms(3));
        assert_eq!(settle.next(), Some(t + ms(5)));
    }

    #[test]
    fn events_become_signals_and_those_of_other_files_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent-creds.toml");
        let signal = |kind: EventKind, path: &Path| {
            let event = Ok(Event::new(kind).add_path(path.to_owned()));
            Signal::of(&event, |path| path.ends_with("agent-creds.toml"))
        };
        let close = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert_eq!(signal(close, &path), Some(Signal::Ready(path.clone())));
        for other in ["4913", ".agent-creds.toml.swp", "agent-creds.toml~", ".#agent-creds.toml"] {
            assert_eq!(signal(close, &folder.path().join(other)), None, "{other}");
        }
        assert_eq!(signal(EventKind::Access(AccessKind::Open(AccessMode::Any)), &path), None);
        let modify = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        assert_eq!(signal(modify, &path), Some(Signal::Writing(path.clone())));
        assert_eq!(signal(EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), &path), Some(Signal::Touched));

        let create = EventKind::Create(CreateKind::File);
        fs::write(folder.path().join("other"), "").unwrap();
        fs::hard_link(folder.path().join("other"), &path).unwrap();
        assert_eq!(signal(create, &path), Some(Signal::Ready(path.clone())));
        fs::remove_file(folder.path().join("other")).unwrap();
        assert_eq!(signal(create, &path), Some(Signal::Writing(path.clone())));

        let overflow = Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan));
        assert_eq!(Signal::of(&overflow, |_| false), Some(Signal::Lost));
        assert_eq!(Signal::of(&Err(notify::Error::generic("x")), |_| false), Some(Signal::Lost));
    }
}
