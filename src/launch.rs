//! The composition root of `adev`: the server is found or started, asked for a sandbox, and the sandbox attached to.
//!
//! ```text
//! start ── control.sock answers? ──▶ Client ──▶ sandbox: Launch, GetEnvironment ──▶ Docker exec ─┬─ console  terminal ⇄ pty
//!            no: `agent-creds serve`, detached                                                   └─ piped    stdin, stdout, stderr
//! ```
//!
//! The server owns everything that lasts; what is here may be killed at any time.

mod console;
mod detach;
mod input;
mod piped;
mod sandbox;
mod screen;
mod signals;
mod start;
mod terminal;
mod text;

use std::io;
use std::path::PathBuf;

use tonic::transport::Channel;

pub use self::console::{Console, Ended, console};
pub use self::piped::{Piped, piped};
pub use self::sandbox::launch;
pub use self::signals::{Caught, Signals};
pub use self::start::{Place, running, server};
pub use self::text::printable;
use crate::control::client::ConnectError;
use crate::control::v1::control_client::ControlClient;
use crate::sandbox::docker::DockerError;

/// A connection to the server.
pub type Client = ControlClient<Channel>;

/// What people see while they wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A step that begins.
    Step(String),
    /// Something to know, which stops nothing.
    Warning(String),
}

/// Told of each [`Progress`].
pub type Report<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no `agent-creds` to start.
    #[error(
        "the server does not run, and its program agent-creds is neither beside {} nor on PATH: install both into one folder, or \
         start `agent-creds serve` yourself",
        .0.display()
    )]
    NoServerProgram(PathBuf),
    /// The server ended while starting.
    #[error("the server did not start ({how}). The end of its log, {}:\n{tail}", log.display())]
    ServerEnded {
        /// How it ended.
        how: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// The server was started, and answers nothing.
    #[error(
        "the server was started and does not answer after {seconds} s; it may still come up: try again, or see {}. Its end:\n{tail}",
        log.display()
    )]
    ServerSilent {
        /// How long was waited.
        seconds: u64,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// The socket cannot be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server says why it does not do it.
    #[error("{0}")]
    Refused(String),
    /// The server failed at a call, or went away.
    #[error("cannot {action}: {message}")]
    Call {
        /// What was tried.
        action: &'static str,
        /// The answer.
        message: String,
    },
    /// Docker's part.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// The terminal.
    #[error("cannot use this terminal")]
    Terminal(#[source] io::Error),
    /// A file or folder of ours, or a standard stream.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl LaunchError {
    /// What a call that failed means.
    pub fn of_call(action: &'static str, status: &tonic::Status) -> Self {
        let message = match status.code() {
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled => {
                "the connection to the server was lost; run the command again, and the server is started again if need be"
                    .to_owned()
            }
            tonic::Code::Unimplemented => {
                "the server that runs is of another version: end its process, and run the command again".to_owned()
            }
            tonic::Code::DeadlineExceeded => "the server does not answer; see its log".to_owned(),
            _ => printable(status.message()),
        };
        Self::Call { action, message }
    }
}
