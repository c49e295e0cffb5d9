//! The way into a container: `aenv forward`, whose input and output are the connection. It works in every runtime.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::{AsyncWriteExt, DuplexStream};

use crate::domain::opening::CONNECTED;
use crate::host::callback::{Connecting, Inside, Stream};
use crate::sandbox::docker::{DockerError, Exec, ExecRequest, Output};
use crate::sandbox::spec::body::HELPERS;
use crate::server::sandboxes::DockerHost;

/// As much as is under way.
const BUFFER: usize = 64 * 1024;
/// The most that is kept of what the forwarder says is wrong.
const MAX_COMPLAINT: usize = 400;
/// How long the program may go on when nobody listens any more.
const GOODBYE: Duration = Duration::from_secs(2);

/// The inside of one container.
pub(super) struct Container {
    docker_host: DockerHost,
    /// Its id: a later container of the same sandbox has another.
    container: String,
    user: String,
}

impl Container {
    pub(super) fn new(docker_host: DockerHost, container: String, user: String) -> Self {
        Self { docker_host, container, user }
    }

    async fn enter(&self, port: u16) -> io::Result<DuplexStream> {
        let docker = self.docker_host.connect().await.map_err(io::Error::other)?;
        let request = ExecRequest {
            user: self.user.clone(),
            command: vec![format!("{HELPERS}/aenv"), "forward".to_owned(), port.to_string()],
            workdir: "/".to_owned(),
            stdin: true,
            ..ExecRequest::default()
        };
        let mut exec = docker.start_exec(&self.container, &request).await.map_err(io::Error::other)?;
        let first = first(&mut exec).await?;
        let (near, far) = tokio::io::duplex(BUFFER);
        tokio::spawn(pump(far, exec, first));
        Ok(near)
    }
}

impl Inside for Container {
    fn connect(&self, port: u16) -> Connecting<'_> {
        Box::pin(async move { Ok(Box::new(self.enter(port).await?) as Box<dyn Stream>) })
    }
}

/// Waits until the forwarder is connected; what came with that already.
async fn first(exec: &mut Exec) -> io::Result<bytes::Bytes> {
    let mut complaint = Vec::new();
    while let Some(output) = exec.output.next().await {
        match output.map_err(io::Error::other)? {
            Output::Stdout(bytes) | Output::Console(bytes) => match bytes.first() {
                Some(&CONNECTED) => return Ok(bytes.slice(1..)),
                Some(_) => break,
                None => {}
            },
            Output::Stderr(bytes) => {
                let room = MAX_COMPLAINT.saturating_sub(complaint.len()).min(bytes.len());
                complaint.extend_from_slice(&bytes[..room]);
            }
        }
    }
    let complaint = String::from_utf8_lossy(&complaint);
    let complaint = complaint.trim().trim_start_matches("aenv: ");
    Err(io::Error::other(if complaint.is_empty() { "the sandbox cannot be entered" } else { complaint }))
}

async fn pump(far: DuplexStream, exec: Exec, first: bytes::Bytes) {
    let Exec { mut input, mut output, .. } = exec;
    let (mut read, mut write) = tokio::io::split(far);
    let there = async {
        // Either side may end; then the program has its end of input.
        let _ = tokio::io::copy(&mut read, &mut input).await;
        let _ = input.shutdown().await;
        tokio::time::sleep(GOODBYE).await;
    };
    let back = async {
        write.write_all(&first).await?;
        while let Some(output) = output.next().await {
            let (Output::Stdout(bytes) | Output::Console(bytes)) = output.map_err(other)? else { continue };
            write.write_all(&bytes).await?;
        }
        write.shutdown().await
    };
    tokio::select! {
        () = there => {}
        // An error says that nobody listens any more.
        _ = back => {}
    }
}

fn other(error: DockerError) -> io::Error {
    io::Error::other(error)
}
