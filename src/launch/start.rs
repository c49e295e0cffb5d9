//! The server: found, or started.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::{Client, LaunchError, Progress, Report};
use crate::control::LOCK_FILE;
use crate::control::client::{ConnectError, connect};
use crate::control::v1::{GetStatusRequest, GetStatusResponse};
use crate::envoy;

/// The server's program.
const SERVER: &str = "agent-creds";
/// The log of a server started here, in the runtime folder; its name says nothing of who started it.
const LOG: &str = "server.log";
/// The server keeps its log below this, in bytes.
const LOG_LIMIT: u64 = 8 << 20;
/// How many of its lines are shown when the server does not start, and the most that is read for it.
const TAIL_LINES: usize = 15;
const TAIL_BYTES: u64 = 16 * 1024;
/// How long a server may take to start: its Envoy may have to be started in a container, on a busy machine.
const START: Duration = Duration::from_secs(60);
/// How long it may take to answer what it knows.
const ANSWER: Duration = Duration::from_secs(10);
/// How often is looked again.
const LOOK: Duration = Duration::from_millis(20);
/// How long a server may hold its folders and not answer, because it is ending or starting, before another one is started, which
/// then says why it cannot.
const TAKEN: Duration = Duration::from_secs(15);

/// Where the server is, and what is needed to start it.
#[derive(Debug, Clone)]
pub struct Place {
    /// The state folder, absolute.
    pub state_dir: PathBuf,
    /// The runtime folder, absolute.
    pub runtime_dir: PathBuf,
    /// This program: the server's is expected beside it, and it can detach one (`adev detach -- PROGRAM …`).
    pub own_program: PathBuf,
    /// `ENVOY_BIN`, if set.
    pub envoy_bin: Option<PathBuf>,
    /// `PATH`, if set.
    pub path: Option<OsString>,
}

/// The server, if one runs.
///
/// # Errors
/// When one is there and cannot be used.
pub async fn running(place: &Place) -> Result<Option<(Client, GetStatusResponse)>, LaunchError> {
    let mut client = match connect(&place.runtime_dir).await {
        Ok(client) => client,
        Err(ConnectError::NotRunning(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let action = "ask the server how it is";
    match tokio::time::timeout(ANSWER, client.get_status(GetStatusRequest {})).await {
        Ok(Ok(status)) => Ok(Some((client, status.into_inner()))),
        // It ended between the connection and the question, or before the answer.
        Ok(Err(status)) if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled) => Ok(None),
        Ok(Err(status)) => Err(LaunchError::of_call(action, &status)),
        Err(_) => Err(LaunchError::of_call(action, &tonic::Status::deadline_exceeded(""))),
    }
}

/// The server, started when none runs. Of programs that ask at the same time, one starts it.
///
/// # Errors
/// When it does not start, with the end of its log.
pub async fn server(place: &Place, report: Report<'_>) -> Result<(Client, GetStatusResponse), LaunchError> {
    if let Some(found) = running(place).await? {
        return Ok(found);
    }
    let program = find_server(place)?;
    make_private(&place.runtime_dir)?;
    let _lock = start_lock(&place.runtime_dir, report).await?;
    if let Some(found) = running(place).await? {
        return Ok(found);
    }
    report(Progress::Step("starting the server".to_owned()));
    let patience = Instant::now() + TAKEN;
    while [&place.state_dir, &place.runtime_dir].into_iter().any(|folder| is_taken(folder)) && Instant::now() < patience
    {
        tokio::time::sleep(LOOK).await;
        if let Some(found) = running(place).await? {
            return Ok(found);
        }
    }
    let log = place.runtime_dir.join(LOG);
    let (file, begin) = open_log(&log)?;
    let mut child = spawn(place, &program, file)?;
    let deadline = Instant::now() + START;
    let mut ended = None;
    while Instant::now() < deadline {
        if let Some(found) = running(place).await? {
            return Ok(found);
        }
        if let Some((how, since)) = &ended {
            // Another may be starting that was not started here: it holds the folders, so that this one ended.
            if Instant::now().duration_since(*since) > Duration::from_secs(1) {
                return Err(LaunchError::ServerEnded { how: String::clone(how), tail: tail(&log, begin), log });
            }
        } else if let Ok(Some(status)) = child.try_wait() {
            ended = Some((status.to_string(), Instant::now()));
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(LaunchError::ServerSilent { seconds: START.as_secs(), tail: tail(&log, begin), log })
}

/// Whether a server holds this folder.
fn is_taken(folder: &Path) -> bool {
    let file = OpenOptions::new().write(true).open(folder.join(LOCK_FILE));
    file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Beside this program, else on `PATH`.
fn find_server(place: &Place) -> Result<PathBuf, LaunchError> {
    let folder = place.own_program.parent().unwrap_or(Path::new("/"));
    let on_path = place.path.iter().flat_map(std::env::split_paths).filter(|folder| folder.is_absolute());
    let executable = |file: &PathBuf| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok();
    std::iter::once(folder.to_owned())
        .chain(on_path)
        .map(|folder| folder.join(SERVER))
        .find(executable)
        .ok_or_else(|| LaunchError::NoServerProgram(folder.to_owned()))
}

fn make_private(dir: &Path) -> Result<(), LaunchError> {
    let failed = |source| LaunchError::Io { action: "create the folder", path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)
}

/// Held while the server starts.
async fn start_lock(runtime_dir: &Path, report: Report<'_>) -> Result<File, LaunchError> {
    let path = runtime_dir.join("start.lock");
    let failed = |source| LaunchError::Io { action: "lock", path: path.clone(), source };
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = options.map_err(failed)?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut told, true) {
                    report(Progress::Step("waiting for another adev to start the server".to_owned()));
                }
                tokio::time::sleep(LOOK).await;
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

/// The log, and where in it this start begins.
fn open_log(path: &Path) -> Result<(File, u64), LaunchError> {
    let failed = |source| LaunchError::Io { action: "open", path: path.to_owned(), source };
    // Read, too: the server cuts it when it grows too long.
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(failed)?;
    let begin = file.metadata().map_err(failed)?.len();
    Ok((file, begin))
}

fn spawn(place: &Place, program: &Path, log: File) -> Result<std::process::Child, LaunchError> {
    let failed = |source| LaunchError::Io { action: "start", path: program.to_owned(), source };
    let envoy = match envoy::find_binary(place.envoy_bin.as_deref(), place.path.as_deref()) {
        Ok(_) => "process",
        Err(_) => "docker",
    };
    let mut command = Command::new(&place.own_program);
    command.args(["detach", "--"]).arg(program).args(["serve", "--no-config"]);
    command.arg("--state-dir").arg(&place.state_dir).arg("--runtime-dir").arg(&place.runtime_dir);
    // Another server of this machine may have the usual port.
    command.args(["--http-any-port", "--envoy", envoy]);
    command.arg("--log-limit").arg(LOG_LIMIT.to_string());
    // Nothing of where this was typed: not the folder, nor an agent-creds.toml in it.
    command.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
    command.spawn().map_err(failed)
}

/// The last lines of the log, of this start alone.
fn tail(log: &Path, begin: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        // Cut meanwhile, it is all new.
        let begin = if length < begin { 0 } else { begin };
        file.seek(SeekFrom::Start(begin.max(length.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = match read() {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("    (it cannot be read: {error})"),
    };
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    if last.is_empty() {
        return "    (it is empty)".to_owned();
    }
    last.iter().map(|line| format!("    {}", super::printable(line))).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn place(dir: &Path) -> Place {
        Place {
            state_dir: dir.join("state"),
            runtime_dir: dir.join("run"),
            own_program: dir.join("bin/adev"),
            envoy_bin: None,
            path: Some(dir.join("path").into_os_string()),
        }
    }

    #[test]
    fn the_server_is_found_beside_this_program_and_then_on_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        assert!(
            matches!(find_server(&place), Err(LaunchError::NoServerProgram(folder)) if folder == dir.path().join("bin"))
        );
        for folder in ["path", "bin"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            let program = dir.path().join(folder).join(SERVER);
            fs::write(&program, "").unwrap();
            assert!(find_server(&place).is_err() || folder == "bin", "not executable");
            fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            assert_eq!(find_server(&place).unwrap(), program);
        }
    }

    #[test]
    fn the_tail_is_of_this_start_alone_and_safe_to_show() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join(LOG);
        assert_eq!(open_log(&log).unwrap().1, 0);
        assert_eq!(tail(&log, 0), "    (it is empty)");
        fs::write(&log, "old\n").unwrap();
        let begin = open_log(&log).unwrap().1;
        fs::write(&log, "old\nnew \u{1b}[31m\n").unwrap();
        assert_eq!(tail(&log, begin), "    new \\u{1b}[31m");
        let many: String = (0..5000).map(|line| format!("line {line}\n")).collect();
        fs::write(&log, many).unwrap();
        assert_eq!(tail(&log, 0).lines().count(), TAIL_LINES);
        assert!(tail(&log, 0).ends_with("line 4999"));
        assert!(tail(&log, 1 << 40).ends_with("line 4999"), "the log was cut");
    }
}
