//! One Envoy as a child process: started, watched, restarted with back-off, stopped with the server.
//!
//! It outlives a server that is killed, and the next server takes it over: same folder, same bootstrap, a process that still
//! runs. So a crash of the server cuts no connection; meanwhile requests are refused, because the vault does not answer.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, test_kill_process};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

use crate::shutdown::Shutdown;

/// The log is cut at this size: an agent must not be able to fill the disk through it.
const MAX_LOG_BYTES: u64 = 16 * 1024 * 1024;

/// An Envoy that ran this long was healthy: the next restart is immediate again.
const HEALTHY: Duration = Duration::from_secs(10);

/// How Envoy is run, whatever its bootstrap.
///
/// Configuration changes by xDS, never by a restart. Streams on a removed filter chain have ten minutes to end. At `warning`,
/// `misc` says for every listener that the resolved-address filter's type is a young one.
pub const ARGUMENTS: [&str; 7] =
    ["--disable-hot-restart", "--drain-time-s", "600", "--log-level", "warning", "--component-log-level", "misc:error"];

/// Why no Envoy can be run.
#[derive(Debug, thiserror::Error)]
pub enum EnvoyError {
    /// There is none.
    #[error(
        "no Envoy found: set ENVOY_BIN to one, put `envoy` on PATH (envoy/fetch.sh downloads a pinned one and prints its \
         path), or run with --envoy none"
    )]
    NotFound,
    /// `ENVOY_BIN` is no program.
    #[error("ENVOY_BIN names {}, which is not an executable file", .0.display())]
    NotExecutable(PathBuf),
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Keeps one Envoy running.
#[derive(Debug)]
pub struct Supervisor {
    binary: PathBuf,
    bootstrap_file: PathBuf,
    pid_file: PathBuf,
    log_file: PathBuf,
    pid: Arc<AtomicI32>,
    restarts: IntCounter,
    adopted: Option<Pid>,
}

/// The Envoy to run: `ENVOY_BIN`, else `envoy` on `PATH`.
///
/// # Errors
/// When there is none, or `ENVOY_BIN` is not executable.
pub fn find_binary(envoy_bin: Option<&Path>, path: Option<&std::ffi::OsStr>) -> Result<PathBuf, EnvoyError> {
    let executable = |file: &Path| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file();
    if let Some(file) = envoy_bin {
        let file = file.to_owned();
        return if executable(&file) { Ok(file) } else { Err(EnvoyError::NotExecutable(file)) };
    }
    let folders = path.map(std::env::split_paths).into_iter().flatten();
    folders.map(|folder| folder.join("envoy")).find(|file| executable(file)).ok_or(EnvoyError::NotFound)
}

impl Supervisor {
    /// Prepares to run `binary` with `bootstrap`, in `runtime_dir`. When the Envoy of a server before us still runs there with
    /// the same bootstrap it is taken over; with another one it is stopped.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub async fn prepare(
        binary: PathBuf,
        bootstrap: &str,
        runtime_dir: &Path,
        restarts: IntCounter,
    ) -> Result<Self, EnvoyError> {
        let bootstrap_file = runtime_dir.join("envoy.json");
        let pid_file = runtime_dir.join("envoy.pid");
        let running = running(&pid_file);
        let same = fs::read_to_string(&bootstrap_file).is_ok_and(|text| text == bootstrap);
        if let Some(pid) = running
            && !same
        {
            tracing::info!(pid = pid.as_raw_pid(), "stopping an Envoy with another bootstrap");
            Running::Adopted(pid).stop().await;
        }
        let io = |source| EnvoyError::Io { action: "write", path: bootstrap_file.clone(), source };
        fs::write(&bootstrap_file, bootstrap).map_err(io)?;
        let adopted = running.filter(|_| same);
        Ok(Self {
            binary,
            pid: Arc::new(AtomicI32::new(adopted.map_or(0, Pid::as_raw_pid))),
            log_file: runtime_dir.join("envoy.log"),
            bootstrap_file,
            pid_file,
            restarts,
            adopted,
        })
    }

    /// Whether an Envoy that was running already is taken over.
    pub fn adopts(&self) -> bool {
        self.adopted.is_some()
    }

    /// The process id of the Envoy now running, 0 when none is.
    pub fn pid(&self) -> Arc<AtomicI32> {
        Arc::clone(&self.pid)
    }

    /// Runs until `shutdown`, then stops Envoy.
    ///
    /// # Errors
    /// When the log cannot be opened or Envoy cannot be started at all; an Envoy that ends is started again.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), EnvoyError> {
        let mut backoff = Backoff::default();
        loop {
            let started = Instant::now();
            let mut envoy = match self.adopted.take() {
                Some(pid) => {
                    tracing::info!(pid = pid.as_raw_pid(), "took over the running Envoy");
                    Running::Adopted(pid)
                }
                None => Running::Child(self.start()?),
            };
            tokio::select! {
                biased;
                () = shutdown.clone().wait() => {
                    envoy.stop().await;
                    self.pid.store(0, Ordering::Relaxed);
                    let _ = fs::remove_file(&self.pid_file);
                    return Ok(());
                }
                how = self.watch(&mut envoy) => {
                    self.pid.store(0, Ordering::Relaxed);
                    self.restarts.inc();
                    let delay = backoff.next(started.elapsed());
                    tracing::error!(how, log = %self.log_file.display(), ?delay, "Envoy ended; starting it again");
                    tokio::select! {
                        () = shutdown.clone().wait() => return Ok(()),
                        () = tokio::time::sleep(delay) => {}
                    }
                }
            }
        }
    }

    fn start(&self) -> Result<Child, EnvoyError> {
        let log = self.open_log()?;
        let errors = log.try_clone().map_err(|source| self.log_error(source))?;
        let child = Command::new(&self.binary)
            .arg("-c")
            .arg(&self.bootstrap_file)
            .args(ARGUMENTS)
            // None of the server's secrets.
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // Ctrl-C on the terminal is for the server, which stops Envoy in its turn.
            .process_group(0)
            .spawn()
            .map_err(|source| EnvoyError::Io { action: "start", path: self.binary.clone(), source })?;
        if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
            self.pid.store(pid, Ordering::Relaxed);
            if let Some(start) = start_time(pid) {
                let text = format!("{pid} {start}\n");
                fs::write(&self.pid_file, text).map_err(|source| EnvoyError::Io {
                    action: "write",
                    path: self.pid_file.clone(),
                    source,
                })?;
            }
            tracing::info!(pid, "started Envoy");
        }
        Ok(child)
    }

    /// Returns when Envoy ended, saying how; keeps its log small meanwhile.
    async fn watch(&self, envoy: &mut Running) -> String {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                how = envoy.ended() => return how,
                _ = tick.tick() => self.trim_log(),
            }
        }
    }

    fn open_log(&self) -> Result<File, EnvoyError> {
        let open = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.log_file);
        open.map_err(|source| self.log_error(source))
    }

    fn log_error(&self, source: io::Error) -> EnvoyError {
        EnvoyError::Io { action: "open", path: self.log_file.clone(), source }
    }

    /// Envoy appends, so a log that is cut goes on at its new end.
    fn trim_log(&self) {
        if fs::metadata(&self.log_file).is_ok_and(|log| log.len() > MAX_LOG_BYTES)
            && let Ok(file) = OpenOptions::new().write(true).open(&self.log_file)
        {
            let _ = file.set_len(0);
        }
    }
}

enum Running {
    Child(Child),
    Adopted(Pid),
}

impl Running {
    async fn ended(&mut self) -> String {
        match self {
            Self::Child(child) => {
                child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string())
            }
            Self::Adopted(pid) => {
                // A process that is not our child tells only by its pidfd that it ended.
                if let Ok(fd) = pidfd_open(*pid, PidfdFlags::NONBLOCK)
                    && let Ok(fd) = watched(fd)
                {
                    let _ = fd.readable().await;
                }
                "the process is gone".to_owned()
            }
        }
    }

    /// Asks it to stop, and after five seconds ends it.
    async fn stop(&mut self) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(Duration::from_secs(5), self.ended()).await.is_err() {
            self.signal(Signal::KILL);
            self.ended().await;
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = match self {
            Self::Child(child) => child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)),
            Self::Adopted(pid) => Some(*pid),
        };
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }
}

#[expect(deprecated, reason = "the successor is unsafe; an owned descriptor has the safety it asks for")]
fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

/// 0.1 s, doubling to 5 s while Envoy keeps ending at once.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait before the next start, after one that ran this long.
    pub fn next(&mut self, ran: Duration) -> Duration {
        if ran >= HEALTHY {
            self.failures = 0;
        }
        let delay = Duration::from_millis(100) * 2_u32.pow(self.failures.min(6));
        self.failures += 1;
        delay.min(Duration::from_secs(5))
    }
}

/// The process in the pid file, if it still is the one that was started then.
fn running(pid_file: &Path) -> Option<Pid> {
    let text = fs::read_to_string(pid_file).ok()?;
    let (pid, start) = text.trim().split_once(' ')?;
    let raw: i32 = pid.parse().ok()?;
    let pid = Pid::from_raw(raw)?;
    let alive = test_kill_process(pid).is_ok() && start_time(raw)?.to_string() == start;
    alive.then_some(pid)
}

/// Field 22 of `/proc/PID/stat` (proc(5)): tells a process from a later one with its number.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name, in parentheses, and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_back_off_and_recover() {
        let mut backoff = Backoff::default();
        let quick: Vec<u128> = (0..8).map(|_| backoff.next(Duration::ZERO).as_millis()).collect();
        assert_eq!(quick, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.next(HEALTHY).as_millis(), 100);
    }

    #[test]
    fn only_the_very_process_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(running(&file), None);
        fs::write(&file, format!("{own} {}\n", start_time(own).unwrap())).unwrap();
        assert_eq!(running(&file).map(Pid::as_raw_pid), Some(own));
        fs::write(&file, format!("{own} 1\n")).unwrap();
        assert_eq!(running(&file), None, "the number was given to another process");
        fs::write(&file, "garbage").unwrap();
        assert_eq!(running(&file), None);
    }

    #[test]
    fn the_binary_is_found_or_the_way_to_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("envoy");
        assert!(matches!(find_binary(Some(&file), None), Err(EnvoyError::NotExecutable(_))));
        assert!(find_binary(None, Some(dir.path().as_os_str())).unwrap_err().to_string().contains("envoy/fetch.sh"));
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o755).open(&file).unwrap();
        assert_eq!(find_binary(None, Some(dir.path().as_os_str())).unwrap(), file);
    }
}
