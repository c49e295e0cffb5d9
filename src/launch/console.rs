//! A terminal in a sandbox: keys go in as they are typed, what the program draws comes out, and the terminal is as it was
//! afterwards, whatever happened.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::detach::DetachKeys;
use super::input::Input;
use super::sandbox::{container_ends, exit_code, prepare};
use super::screen::Screen;
use super::signals::{Caught, Signals};
use super::terminal::{RawTerminal, size};
use super::{Client, LaunchError};
use crate::sandbox::docker::{BoxInput, BoxStream, Docker, DockerError, Output};

/// How long a key that may begin the keys to detach is held back.
const HELD: Duration = Duration::from_millis(500);

/// A terminal to open.
#[derive(Debug)]
pub struct Console<'a> {
    /// The sandbox's name.
    pub sandbox: &'a str,
    /// Variables for the shell, unless the sandbox has its own of these names: TERM and what belongs to it.
    pub environment: &'a [(String, String)],
}

/// How a terminal was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The shell ended.
    Exited(u8),
    /// By keys; the shell goes on.
    Detached,
    /// By a signal to this process, or because the terminal is gone; the shell was told.
    Signalled(Caught),
}

/// Opens a shell on this terminal. `notices` are shown on lines of their own where they disturb nothing; those that found no
/// place are returned.
///
/// # Errors
/// When the shell cannot be started, or the connection to it is lost.
pub async fn console(
    client: &mut Client,
    docker: &Docker,
    what: &Console<'_>,
    notices: mpsc::Receiver<String>,
) -> Result<(Ended, Vec<String>), LaunchError> {
    let mut prepared = prepare(client, what.sandbox, what.environment, &[], true).await?;
    let mut signals = Signals::catch().map_err(LaunchError::Terminal)?;
    let mut resized = signal(SignalKind::window_change()).map_err(LaunchError::Terminal)?;
    // 18: SIGCONT, for which tokio has no name.
    let mut continued = signal(SignalKind::from_raw(18)).map_err(LaunchError::Terminal)?;
    let input = Input::open().map_err(LaunchError::Terminal)?;
    prepared.request.terminal = Some(size());
    let signaller = prepared.signaller(docker);

    // From here on the terminal is restored by dropping it.
    let terminal = RawTerminal::enter().map_err(LaunchError::Terminal)?;
    let exec = docker.start_exec(&prepared.container, &prepared.request).await?;
    let container = prepared.container.clone();
    drop(prepared);
    let id = exec.id;
    let mut with_container = false;
    let mut view = View { screen: Screen::default(), waiting: Vec::new(), notices };
    let ended = {
        let typed = pass_keys(input, exec.input);
        let shown = view.pass_output(exec.output);
        let gone = container_ends(docker, &container);
        tokio::pin!(typed, shown, gone);
        let mut typing = true;
        loop {
            tokio::select! {
                // What the shell wrote last is shown before a signal is minded.
                biased;
                end = &mut shown => break end.map(|()| None),
                left = &mut typed, if typing => match left {
                    Left::Detached => break Ok(Some(Ended::Detached)),
                    Left::NoTerminal => break Ok(Some(Ended::Signalled(HANGUP))),
                    Left::NotRead => typing = false,
                },
                () = &mut gone => {
                    with_container = true;
                    break Ok(None);
                }
                caught = signals.end() => break Ok(Some(Ended::Signalled(caught))),
                _ = resized.recv() => resize(docker, &id),
                _ = continued.recv() => {
                    let _ = terminal.apply();
                    resize(docker, &id);
                }
            }
        }
    };
    let leftovers = view.leave().await;
    drop(terminal);
    let ended = match ended? {
        Some(ended) => ended,
        None => Ended::Exited(exit_code(docker, &id, with_container).await?),
    };
    if let Ended::Signalled(_) = ended {
        // As a terminal does that is closed.
        let _ = tokio::time::timeout(Duration::from_secs(2), signaller.send("HUP")).await;
    }
    Ok((ended, leftovers))
}

const HANGUP: Caught = Caught { name: "HUP", number: 1 };

/// In the background: a size that comes late is of no harm, and keys must not wait for it.
fn resize(docker: &Docker, id: &str) {
    let (docker, id, (rows, columns)) = (docker.clone(), id.to_owned(), size());
    tokio::spawn(async move { docker.resize_exec(&id, rows, columns).await });
}

enum Left {
    Detached,
    /// The terminal was closed.
    NoTerminal,
    /// The shell reads no more: it is ending.
    NotRead,
}

async fn pass_keys(mut input: Input, mut to: BoxInput) -> Left {
    let mut keys = DetachKeys::default();
    loop {
        let chunk = tokio::select! {
            chunk = input.next() => chunk,
            () = tokio::time::sleep(HELD), if keys.holds() => {
                if to.write_all(keys.release()).await.is_err() {
                    return Left::NotRead;
                }
                continue;
            }
        };
        let Some(Ok(typed)) = chunk else { return Left::NoTerminal };
        let (passed, detach) = keys.push(&typed);
        if to.write_all(&passed).await.is_err() || to.flush().await.is_err() {
            return Left::NotRead;
        }
        if detach {
            return Left::Detached;
        }
    }
}

/// What is shown on the terminal.
struct View {
    screen: Screen,
    /// Lines of ours that look for their place.
    waiting: Vec<String>,
    notices: mpsc::Receiver<String>,
}

impl View {
    async fn pass_output(&mut self, mut output: BoxStream<Result<Output, DockerError>>) -> Result<(), LaunchError> {
        let mut stdout = tokio::io::stdout();
        loop {
            let chunk = tokio::select! {
                chunk = output.next() => chunk,
                Some(notice) = self.notices.recv() => {
                    self.waiting.push(notice);
                    continue;
                }
            };
            let Some(chunk) = chunk else { return Ok(()) };
            let (Output::Console(bytes) | Output::Stdout(bytes) | Output::Stderr(bytes)) = chunk?;
            let woven = self.screen.weave(&bytes, &mut self.waiting);
            let written = async {
                stdout.write_all(&woven).await?;
                stdout.flush().await
            };
            match written.await {
                Ok(()) => {}
                // The terminal is gone, and reading it will say so.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe || error.raw_os_error() == Some(5) => {}
                Err(error) => return Err(LaunchError::Terminal(error)),
            }
        }
    }

    /// Brings the terminal back, and returns what was not shown.
    async fn leave(mut self) -> Vec<String> {
        let sequences = self.screen.restore();
        if !sequences.is_empty() {
            let mut stdout = tokio::io::stdout();
            let _ = stdout.write_all(&sequences).await;
            let _ = stdout.flush().await;
        }
        while let Ok(notice) = self.notices.try_recv() {
            self.waiting.push(notice);
        }
        self.waiting
    }
}
