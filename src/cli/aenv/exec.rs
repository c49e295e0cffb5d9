//! `aenv exec` and `aenv signal`: a command that others can send signals to by a name they chose.
//!
//! Docker starts commands in a sandbox, and cannot send them signals. So `exec` notes the process it becomes in a file of
//! its own, and `signal` finds it there. The file is the sandbox user's: whoever can change it can send the signals itself.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::str::FromStr;

use rustix::fs::{Access, access};
use rustix::process::{Pid, RawPid, Signal, geteuid, getpgid, getpid, kill_process, kill_process_group, setsid};

/// Where the notes are, in the first of these that can be written to.
const FOLDERS: [&str; 3] = ["/run", "/tmp", "/dev/shm"];
const PREFIX: &str = ".agent-creds-exec-";
/// The most old notes looked at on a start, so that it stays quick.
const SWEPT: usize = 256;

/// An `ExecId` names a command: 1 to 64 ASCII letters, digits, `-` and `_`, so that it is safe in a file name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecId(String);

/// Why a text is not an [`ExecId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id has 1 to 64 letters, digits, `-` or `_`")]
pub struct ExecIdError;

impl FromStr for ExecId {
    type Err = ExecIdError;

    fn from_str(text: &str) -> Result<Self, ExecIdError> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if (1..=64).contains(&text.len()) && text.bytes().all(legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ExecIdError)
        }
    }
}

/// The signals that `aenv signal` sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum SignalName {
    /// Terminal closed.
    #[value(alias = "SIGHUP")]
    Hup,
    /// Ctrl-C.
    #[value(alias = "SIGINT")]
    Int,
    /// Ctrl-\.
    #[value(alias = "SIGQUIT")]
    Quit,
    /// End at once.
    #[value(alias = "SIGKILL")]
    Kill,
    /// First of the program's own.
    #[value(alias = "SIGUSR1")]
    Usr1,
    /// Second of the program's own.
    #[value(alias = "SIGUSR2")]
    Usr2,
    /// End in order.
    #[value(alias = "SIGTERM")]
    Term,
    /// Stop.
    #[value(alias = "SIGSTOP")]
    Stop,
    /// Ctrl-Z.
    #[value(alias = "SIGTSTP")]
    Tstp,
    /// Go on.
    #[value(alias = "SIGCONT")]
    Cont,
    /// Terminal resized.
    #[value(alias = "SIGWINCH")]
    Winch,
}

impl From<SignalName> for Signal {
    fn from(name: SignalName) -> Self {
        match name {
            SignalName::Hup => Self::HUP,
            SignalName::Int => Self::INT,
            SignalName::Quit => Self::QUIT,
            SignalName::Kill => Self::KILL,
            SignalName::Usr1 => Self::USR1,
            SignalName::Usr2 => Self::USR2,
            SignalName::Term => Self::TERM,
            SignalName::Stop => Self::STOP,
            SignalName::Tstp => Self::TSTP,
            SignalName::Cont => Self::CONT,
            SignalName::Winch => Self::WINCH,
        }
    }
}

/// Why a command was not started, or a signal not sent.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The folder to start in.
    #[error("cannot start in the folder {}", .0.display())]
    Folder(PathBuf, #[source] io::Error),
    /// Another command has the id.
    #[error("the id {0} is taken: each command needs one of its own")]
    Taken(String),
    /// The command itself.
    #[error("cannot run {}", .0.display())]
    Command(PathBuf, #[source] io::Error),
    /// No command of this id lives.
    #[error("no command with the id {0} runs here")]
    Gone(String),
    /// The kernel refused.
    #[error("cannot send the signal to process {0}")]
    Signal(i32, #[source] io::Error),
}

impl ExecError {
    /// As shells do: 127 for a command that is not there, 126 for one that cannot be run.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Command(_, error) if error.kind() == io::ErrorKind::NotFound => ExitCode::from(127),
            Self::Command(..) | Self::Folder(..) => ExitCode::from(126),
            Self::Taken(_) => ExitCode::from(2),
            Self::Gone(_) | Self::Signal(..) => ExitCode::FAILURE,
        }
    }
}

/// Becomes the command: on success this does not return. Without a command it is the user's shell.
pub fn exec(id: &ExecId, folder: &Path, command: &[OsString]) -> ExecError {
    match prepare(id, folder) {
        Ok(()) => {}
        Err(error) => return error,
    }
    let (program, arguments) = match command.split_first() {
        Some((program, arguments)) => (PathBuf::from(program), arguments),
        None => (shell(std::env::var_os("SHELL")), &[][..]),
    };
    let error = Command::new(&program).args(arguments).exec();
    forget(id);
    ExecError::Command(program, error)
}

fn prepare(id: &ExecId, folder: &Path) -> Result<(), ExecError> {
    std::env::set_current_dir(folder).map_err(|error| ExecError::Folder(folder.to_owned(), error))?;
    if !io::stdin().is_terminal() {
        // A group of its own, for signals to reach all of it. Fails when it leads one already, which is as good.
        let _ = setsid();
    }
    note(id)
}

/// `$SHELL` if it is there, else bash, else sh.
fn shell(wanted: Option<OsString>) -> PathBuf {
    let known = ["/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash"].map(PathBuf::from);
    let wanted = wanted.map(PathBuf::from).filter(|shell| shell.is_absolute());
    let runs = |shell: &PathBuf| shell.is_file() && access(shell, Access::EXEC_OK).is_ok();
    wanted.into_iter().chain(known).find(runs).unwrap_or_else(|| "/bin/sh".into())
}

/// Sends a signal to the command's process group, or to the command alone when it leads none.
pub fn signal(id: &ExecId, signal: Signal) -> Result<(), ExecError> {
    let gone = || ExecError::Gone(id.0.clone());
    let found = FOLDERS.iter().find_map(|folder| Noted::read(&file(folder, id)));
    let noted = found.filter(Noted::lives).ok_or_else(gone)?;
    let pid = noted.pid;
    let leads = getpgid(Some(pid)).is_ok_and(|group| group == pid);
    let sent = if leads { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
    match sent {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::SRCH) => Err(gone()),
        Err(error) => Err(ExecError::Signal(pid.as_raw_nonzero().get(), error.into())),
    }
}

fn file(folder: impl AsRef<Path>, id: &ExecId) -> PathBuf {
    folder.as_ref().join(format!("{PREFIX}{}", id.0))
}

/// Notes this process, and clears away the notes of those that have ended.
fn note(id: &ExecId) -> Result<(), ExecError> {
    let own = Noted { pid: getpid(), start: start_of(getpid()).unwrap_or_default() };
    for folder in FOLDERS {
        sweep(Path::new(folder));
        let mut options = OpenOptions::new();
        match options.write(true).create_new(true).mode(0o600).open(file(folder, id)) {
            Ok(mut file) => {
                if write!(file, "{} {}", own.pid.as_raw_nonzero(), own.start).is_ok() {
                    return Ok(());
                }
                forget(id);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(ExecError::Taken(id.0.clone())),
            // Not ours to write to, or full: the next one.
            Err(_) => {}
        }
    }
    // The command is worth more than its signals; on a terminal it gets them from there.
    if !io::stdin().is_terminal() {
        let message = format!("aenv: none of {} can be written to: signals cannot be passed on\n", FOLDERS.join(", "));
        let _ = io::stderr().write_all(message.as_bytes());
    }
    Ok(())
}

fn forget(id: &ExecId) {
    for folder in FOLDERS {
        let _ = fs::remove_file(file(folder, id));
    }
}

/// Removes our own notes of processes that have ended.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let notes = entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()));
    for entry in notes.take(SWEPT) {
        let path = entry.path();
        // One that is being written has no content yet: it is left alone.
        if Noted::read(&path).is_some_and(|noted| !noted.lives()) {
            let _ = fs::remove_file(path);
        }
    }
}

/// A process, told apart from a later one of the same number by when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Noted {
    pid: Pid,
    /// In clock ticks since the system's start; 0 when `/proc` does not say.
    start: u64,
}

impl Noted {
    /// Reads a note that this user wrote; links and what others put there are none.
    fn read(path: &Path) -> Option<Self> {
        let about = fs::symlink_metadata(path).ok()?;
        if !about.is_file() || about.uid() != geteuid().as_raw() || about.len() > 64 {
            return None;
        }
        Self::parse(&fs::read_to_string(path).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (pid, start) = text.split_once(' ')?;
        // 1 would be everybody, when it stands for a group.
        let pid = pid.parse::<RawPid>().ok().filter(|&pid| pid > 1)?;
        Some(Self { pid: Pid::from_raw(pid)?, start: start.parse().ok()? })
    }

    fn lives(&self) -> bool {
        start_of(self.pid) == Some(self.start)
    }
}

/// When a process began; `None` when there is none.
fn start_of(pid: Pid) -> Option<u64> {
    let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    start_in(&stat)
}

/// The 22nd field of `/proc/PID/stat`; the second is the command's name in brackets, and may hold anything.
fn start_in(stat: &[u8]) -> Option<u64> {
    let after = stat.iter().rposition(|&b| b == b')')? + 1;
    let mut fields = stat[after..].split(|b| b.is_ascii_whitespace()).filter(|field| !field.is_empty());
    std::str::from_utf8(fields.nth(19)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_safe_in_file_names() {
        assert!("a-B_9".parse::<ExecId>().is_ok());
        for bad in ["", "../x", "a/b", "a b", "é", "a\0", &"a".repeat(65)] {
            assert_eq!(bad.parse::<ExecId>(), Err(ExecIdError), "{bad:?}");
        }
    }

    #[test]
    fn a_process_is_told_by_number_and_start() {
        // The name may hold brackets; the last one ends it.
        assert_eq!(start_in(b"7 (a) b) S 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 2"), Some(12345));
        assert_eq!(start_in(b"7 (x) S 1"), None);
        assert_eq!(start_in(b""), None);
        let own = Noted { pid: getpid(), start: start_of(getpid()).unwrap() };
        assert!(own.lives());
        assert!(!Noted { start: own.start + 1, ..own }.lives(), "a later process of the same number");
    }

    #[test]
    fn a_note_never_names_everybody() {
        assert!(Noted::parse("17 4").is_some());
        for bad in ["", "1 4", "0 4", "-1 4", "-5 4", "5", "5 x", "99999999999 1"] {
            assert_eq!(Noted::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_shell_that_is_not_there_is_no_shell() {
        let fallback = shell(None);
        assert!(fallback.is_absolute());
        assert_eq!(shell(Some("/nowhere/fish".into())), fallback);
        assert_eq!(shell(Some("sh".into())), fallback, "a name is searched for by nobody");
        assert_eq!(shell(Some("/bin/sh".into())), Path::new("/bin/sh"));
    }
}
