//! A sandbox of the server: launched, and what a process in it is started with.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use zeroize::Zeroize;

use super::{Client, LaunchError, Progress, Report};
use crate::control::v1::launch_event::Event;
use crate::control::v1::{GetEnvironmentRequest, LaunchRequest, Sandbox};
use crate::sandbox::docker::{Docker, DockerError, ExecRequest};

/// The helper in every sandbox.
const AENV: &str = "/opt/agent-creds-bin/aenv";
/// Where the project is.
const WORKSPACE: &str = "/workspace";

/// Brings a sandbox up, or finds that it is up.
///
/// # Errors
/// What the server says, which has the way out.
pub async fn launch(client: &mut Client, request: LaunchRequest, report: Report<'_>) -> Result<Sandbox, LaunchError> {
    let action = "launch the sandbox";
    let failed = |status: tonic::Status| LaunchError::of_call(action, &status);
    let mut events = client.launch(request).await.map_err(failed)?.into_inner();
    while let Some(event) = events.message().await.map_err(failed)? {
        match event.event {
            Some(Event::Step(step)) => report(Progress::Step(super::printable(&step))),
            Some(Event::Warning(warning)) => report(Progress::Warning(safe_lines(&warning))),
            Some(Event::Ready(sandbox)) => return Ok(sandbox),
            Some(Event::Failed(failure)) => return Err(LaunchError::Refused(safe_lines(&failure.message))),
            None => {}
        }
    }
    Err(LaunchError::of_call(action, &tonic::Status::unavailable("")))
}

fn safe_lines(text: &str) -> String {
    text.lines().map(super::printable).collect::<Vec<_>>().join("\n")
}

/// A process to be started in a sandbox through `aenv exec`, so that signals can be sent to it.
pub(super) struct Prepared {
    /// The sandbox's container.
    pub(super) container: String,
    /// What `aenv signal` calls the process.
    pub(super) id: String,
    /// What Docker is asked.
    pub(super) request: ExecRequest,
    user: String,
}

/// How long the last output of a process may take that ended with its container.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// What ends the processes of a container that is stopped: SIGKILL.
const KILLED: u8 = 128 + 9;

/// Waits until a container has ended, and what its processes wrote last has had time to come. The stream of a process does not
/// end with its container in every runtime: gVisor may leave that of a terminal open.
pub(super) async fn container_ends(docker: &Docker, container: &str) {
    loop {
        match docker.wait(container, Duration::from_secs(3600)).await {
            Ok(None) => {}
            Ok(Some(_)) | Err(DockerError::NotFound { .. }) => return tokio::time::sleep(LAST_OUTPUT).await,
            // Docker is busy or starts again: the stream may go on.
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

/// The exit code of a process whose output ended; 0 when it goes on without.
pub(super) async fn exit_code(docker: &Docker, id: &str, with_container: bool) -> Result<u8, LaunchError> {
    match docker.exec_exit_code(id).await {
        Ok(Some(code)) => Ok(u8::try_from(code).unwrap_or(u8::MAX)),
        Ok(None) if !with_container => Ok(0),
        Err(error) if !with_container && !matches!(error, DockerError::NotFound { .. }) => Err(error.into()),
        Ok(None) | Err(_) => Ok(KILLED),
    }
}

/// Asks for the environment of a sandbox. `more` are variables that the sandbox's own go before; `command` empty is the shell.
pub(super) async fn prepare(
    client: &mut Client,
    name: &str,
    more: &[(String, String)],
    command: &[String],
    login: bool,
) -> Result<Prepared, LaunchError> {
    let call = client.get_environment(GetEnvironmentRequest { name: name.to_owned() });
    let given =
        call.await.map_err(|status| LaunchError::of_call("get the sandbox's environment", &status))?.into_inner();
    let mut environment: Vec<String> = more
        .iter()
        .filter(|(name, _)| !given.environment.contains_key(name))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    for (name, mut value) in given.environment {
        environment.push(format!("{name}={value}"));
        value.zeroize();
    }
    let id = exec_id();
    let mut words = vec![AENV.to_owned(), "exec".to_owned(), "--id".to_owned(), id.clone()];
    words.extend(login.then(|| "--login".to_owned()));
    words.push("--".to_owned());
    words.extend_from_slice(command);
    let request = ExecRequest {
        user: given.user.clone(),
        environment: environment.into(),
        command: words,
        workdir: WORKSPACE.to_owned(),
        terminal: None,
        stdin: true,
    };
    Ok(Prepared { container: given.container, id, request, user: given.user })
}

/// A name for a process: no other of this sandbox has it.
fn exec_id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", std::process::id(), now.as_nanos())
}

/// How a process in a sandbox is sent signals.
#[derive(Debug, Clone)]
pub(super) struct Signaller {
    docker: Docker,
    container: String,
    user: String,
    id: String,
}

impl Prepared {
    /// For signals to it.
    pub(super) fn signaller(&self, docker: &Docker) -> Signaller {
        let Self { container, id, user, .. } = self;
        Signaller { docker: docker.clone(), container: container.clone(), user: user.clone(), id: id.clone() }
    }
}

impl Signaller {
    /// Sends a signal by its name without SIG. A process that has not got as far as taking signals is tried again for a moment.
    pub(super) async fn send(&self, signal: &str) -> Result<(), DockerError> {
        for _ in 0..20 {
            if self.try_send(signal).await? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Whether it was sent.
    async fn try_send(&self, signal: &str) -> Result<bool, DockerError> {
        let command = [AENV, "signal", "--id", &self.id, signal].map(str::to_owned).to_vec();
        let mut request = ExecRequest::default();
        request.user.clone_from(&self.user);
        request.command = command;
        request.workdir = "/".to_owned();
        let mut exec = self.docker.start_exec(&self.container, &request).await?;
        while let Some(output) = exec.output.next().await {
            // It says why not on standard error; the code is enough.
            output?;
        }
        Ok(self.docker.exec_exit_code(&exec.id).await? == Some(0))
    }
}
