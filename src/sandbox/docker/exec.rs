//! Processes in a running container.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::stream::output;
use super::{BoxInput, BoxStream, Docker, DockerError, QUICK, SLOW, within};

/// A process to start. Its environment may hold tokens: it is wiped, and silent in `Debug`.
#[derive(Clone, Default)]
pub struct ExecRequest {
    /// "uid:gid"
    pub user: String,
    /// NAME=VALUE, in addition to the image's.
    pub environment: Zeroizing<Vec<String>>,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Where it starts.
    pub workdir: String,
    /// Rows and columns of the terminal it gets, if it gets one. With an engine before API 1.42 the size comes a moment after the
    /// start, with a `SIGWINCH`.
    pub terminal: Option<(u16, u16)>,
    /// Whether it reads input; without, its input is empty.
    pub stdin: bool,
}

impl fmt::Debug for ExecRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecRequest")
            .field("user", &self.user)
            .field("terminal", &self.terminal)
            .finish_non_exhaustive()
    }
}

/// A started process.
pub struct Exec {
    /// Its id, for [`Docker::resize_exec`] and [`Docker::exec_exit_code`].
    pub id: String,
    /// Its input; shutting it down is its end of file.
    pub input: BoxInput,
    /// What it writes, until it and all that share its output end.
    pub output: BoxStream<Result<Output, DockerError>>,
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Exec").field(&self.id).finish()
    }
}

/// What a process wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// To standard output.
    Stdout(Bytes),
    /// To standard error.
    Stderr(Bytes),
    /// To its terminal.
    Console(Bytes),
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Create<'a> {
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    tty: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    console_size: Option<[u16; 2]>,
    env: &'a [String],
    cmd: &'a [String],
    user: &'a str,
    working_dir: &'a str,
    // Empty: no keys detach. They are the program's.
    detach_keys: &'a str,
    privileged: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Start {
    detach: bool,
    tty: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    console_size: Option<[u16; 2]>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
}

impl Docker {
    /// Starts a process in a running container.
    ///
    /// # Errors
    /// When the container does not run or is paused. A program that does not exist is no error here: the process ends at once with
    /// exit code 126 or 127, and says why in its output.
    pub async fn start_exec(&self, container: &str, request: &ExecRequest) -> Result<Exec, DockerError> {
        let action = "start a process in the sandbox";
        let terminal = request.terminal;
        // Older engines take the size only when the process runs.
        let console_size = terminal.map(|(rows, columns)| [rows, columns]).filter(|_| self.wire.speaks(42));
        let create = body(&Create {
            attach_stdin: request.stdin,
            attach_stdout: true,
            attach_stderr: true,
            tty: terminal.is_some(),
            console_size,
            env: &request.environment,
            cmd: &request.command,
            user: &request.user,
            working_dir: &request.workdir,
            detach_keys: "",
            privileged: false,
        });
        let path = format!("/containers/{container}/exec");
        let Created { id } = self.wire.ask(QUICK, action, Method::POST, &path, Some(create)).await?;
        let start = body(&Start { detach: false, tty: terminal.is_some(), console_size });
        let upgraded = self.wire.upgrade(SLOW, action, &format!("/exec/{id}/start"), Some(start)).await?;
        let (read, write) = tokio::io::split(upgraded);
        if let (Some((rows, columns)), None) = (terminal, console_size) {
            self.first_size(&id, rows, columns).await;
        }
        Ok(Exec { id, input: Box::pin(write), output: output(action, read, terminal.is_some()) })
    }

    /// The stream is there before the process is, and a size can only be given to a process.
    async fn first_size(&self, id: &str, rows: u16, columns: u16) {
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline && self.resize_exec(id, rows, columns).await.is_err() {
            if let Ok(Some(_)) = self.exit_code(id).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Gives a process's terminal another size.
    ///
    /// # Errors
    /// When the process does not run, or has no terminal.
    pub async fn resize_exec(&self, id: &str, rows: u16, columns: u16) -> Result<(), DockerError> {
        let size =
            bollard::query_parameters::ResizeExecOptionsBuilder::default().h(rows.into()).w(columns.into()).build();
        within(QUICK, "resize a terminal", self.api.resize_exec(id, size)).await
    }

    /// The exit code of a process whose output ended; `None` when it goes on without its output.
    ///
    /// # Errors
    /// When there was no such process, or its container is gone.
    pub async fn exec_exit_code(&self, id: &str) -> Result<Option<i64>, DockerError> {
        let deadline = Instant::now() + Duration::from_secs(5);
        // The end of the output and the end of the process are two messages.
        loop {
            let code = self.exit_code(id).await?;
            if code.is_some() || Instant::now() > deadline {
                return Ok(code);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn exit_code(&self, id: &str) -> Result<Option<i64>, DockerError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Inspected {
            running: bool,
            exit_code: Option<i64>,
        }
        // Not the library's call: the answer has the command line, and an error in reading it must not be logged with it.
        let path = format!("/exec/{id}/json");
        let exec: Inspected =
            self.wire.ask(QUICK, "look at a process of the sandbox", Method::GET, &path, None).await?;
        Ok(exec.exit_code.filter(|_| !exec.running))
    }
}

/// The JSON of a request, wiped after use.
fn body(request: &impl Serialize) -> Zeroizing<Vec<u8>> {
    let mut measure = Measure(0);
    // Written twice, so that the second time nothing grows and leaves a copy behind. Neither writer can fail, nor these types.
    let _ = serde_json::to_writer(&mut measure, request);
    let mut body = Zeroizing::new(Vec::with_capacity(measure.0));
    let _ = serde_json::to_writer(&mut *body, request);
    body
}

struct Measure(usize);

impl std::io::Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_environment_is_shown() {
        let request = ExecRequest { environment: vec!["KEY=acm_secret".to_owned()].into(), ..ExecRequest::default() };
        assert!(!format!("{request:?}").contains("acm_secret"));
        let start = Start { detach: false, tty: true, console_size: Some([24, 80]) };
        assert_eq!(body(&start).as_slice(), br#"{"Detach":false,"Tty":true,"ConsoleSize":[24,80]}"#);
    }
}
