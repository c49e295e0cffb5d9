//! Processes: running, signalling, and making sure none is left.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock};

use rustix::process::{Pid, Signal};

/// What a program that ended has said.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a command to its end, without standard input.
pub fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Output {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Copies a program. By another process: a file that this one had open for writing cannot be run while a child of another
/// test, between its fork and its exec, has that open too (ETXTBSY).
pub fn install(program: &Path, to: &Path) {
    let output = run(Command::new("install").args(["-m", "755"]).arg(program).arg(to));
    assert!(output.status.success(), "{}", output.stderr);
}

/// Makes a program of this text, as [`install`] does.
pub fn install_script(text: &str, to: &Path) {
    let draft = to.with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    install(&draft, to);
    std::fs::remove_file(draft).unwrap();
}

/// The Envoy that the tests use, installed when there is none (`envoy/fetch.sh`).
pub fn envoy_bin() -> &'static Path {
    static ENVOY: OnceLock<PathBuf> = OnceLock::new();
    ENVOY.get_or_init(|| {
        let output = run(&mut Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/envoy/fetch.sh")));
        assert!(output.status.success(), "envoy/fetch.sh: {}", output.stderr);
        PathBuf::from(output.stdout.trim())
    })
}

/// The Envoy of this version, installed when there is none.
pub fn envoy_of(version: &str) -> PathBuf {
    static KNOWN: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap();
    let install = || {
        let mut fetch = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/envoy/fetch.sh"));
        let output = run(fetch.env("ENVOY_VERSION", version));
        assert!(output.status.success(), "envoy/fetch.sh: {}", output.stderr);
        PathBuf::from(output.stdout.trim())
    };
    known.entry(version.to_owned()).or_insert_with(install).clone()
}

/// True when the process has ended, whether or not it has been waited for.
pub(super) fn has_ended(child: &Child) -> bool {
    // Without a name in parentheses, which may itself have any: `PID (NAME) STATE …`.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

/// Sends a signal to a process that may have ended.
pub(super) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    let _ = rustix::process::kill_process(pid, signal);
}

/// Kills every process whose command line names `dir`, a folder that only one test knows.
pub fn kill_all_of(dir: &Path) {
    for pid in all_of(dir) {
        signal(pid, Signal::KILL);
    }
}

/// Every process but this one whose command line names `dir`.
pub(super) fn all_of(dir: &Path) -> Vec<u32> {
    let needle = dir.as_os_str().as_bytes();
    let names_dir = |pid: &u32| {
        let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command_line.windows(needle.len()).any(|window| window == needle)
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|&pid| pid != std::process::id()).filter(names_dir).collect()
}

/// The last lines of a text.
pub(super) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
