//! A command in a sandbox without a terminal: its streams are ours, byte for byte, and so is its exit code.

use std::io;
use std::path::PathBuf;

use futures_util::StreamExt;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

use super::input::Input;
use super::sandbox::{Signaller, container_ends, exit_code, prepare};
use super::signals::Signals;
use super::terminal::may_read_stdin;
use super::{Client, LaunchError};
use crate::sandbox::docker::{BoxInput, BoxStream, Docker, DockerError, Output};

/// What a shell says of a program that wrote to a closed pipe (SIGPIPE).
const BROKEN_PIPE: u8 = 128 + 13;

/// A command to run.
#[derive(Debug)]
pub struct Piped<'a> {
    /// The sandbox's name.
    pub sandbox: &'a str,
    /// The program and its arguments.
    pub command: &'a [String],
    /// Variables for it, unless the sandbox has its own of these names.
    pub environment: &'a [(String, String)],
}

enum End {
    Output,
    /// Whoever read our output has gone.
    NoReader,
}

/// Runs it to its end, and returns its exit code. `signals` are passed on to it.
///
/// # Errors
/// When it cannot be started, or the connection to it is lost.
pub async fn piped(
    client: &mut Client,
    docker: &Docker,
    what: &Piped<'_>,
    signals: &mut Signals,
) -> Result<u8, LaunchError> {
    let mut prepared = prepare(client, what.sandbox, what.environment, what.command, false).await?;
    let stdin = may_read_stdin();
    prepared.request.stdin = stdin;
    let signaller = prepared.signaller(docker);
    let exec = docker.start_exec(&prepared.container, &prepared.request).await?;
    let container = prepared.container.clone();
    drop(prepared);

    let input = async { if stdin { pass_input(exec.input).await } else { Ok(()) } };
    let output = pass_output(exec.output);
    let gone = container_ends(docker, &container);
    tokio::pin!(input, output, gone);
    let mut passing = JoinSet::new();
    let mut input_open = true;
    let mut with_container = false;
    let end = loop {
        tokio::select! {
            passed = &mut input, if input_open => {
                input_open = false;
                passed?;
            }
            end = &mut output => break end?,
            () = &mut gone => {
                with_container = true;
                break End::Output;
            }
            caught = signals.next() => {
                let signaller = signaller.clone();
                passing.spawn(async move { signaller.send(caught.name).await });
            }
            Some(_) = passing.join_next() => {}
        }
    };
    match end {
        // Without a code it closed its output, and goes on.
        End::Output => exit_code(docker, &exec.id, with_container).await,
        End::NoReader => {
            end_it(&signaller).await?;
            Ok(BROKEN_PIPE)
        }
    }
}

async fn end_it(signaller: &Signaller) -> Result<(), LaunchError> {
    Ok(signaller.send("TERM").await?)
}

/// Standard input to the command, up to the end of either.
async fn pass_input(mut to: BoxInput) -> Result<(), LaunchError> {
    let failed = |source| LaunchError::Io { action: "read", path: PathBuf::from("standard input"), source };
    let mut input = Input::open().map_err(failed)?;
    while let Some(chunk) = input.next().await {
        let written = to.write_all(&chunk.map_err(failed)?).await;
        if written.is_err() {
            // It does not read any more; what it writes tells the rest.
            return Ok(());
        }
    }
    // The end of its input.
    let _ = to.shutdown().await;
    Ok(())
}

/// What the command writes, to where it belongs.
async fn pass_output(mut output: BoxStream<Result<Output, DockerError>>) -> Result<End, LaunchError> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(chunk) = output.next().await {
        let (name, written) = match chunk? {
            Output::Stdout(bytes) | Output::Console(bytes) => ("standard output", write(&mut stdout, &bytes).await),
            Output::Stderr(bytes) => ("standard error", write(&mut stderr, &bytes).await),
        };
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(End::NoReader),
            Err(source) => return Err(LaunchError::Io { action: "write", path: PathBuf::from(name), source }),
        }
    }
    Ok(End::Output)
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    // Whoever reads it may wait for just this.
    to.flush().await
}
