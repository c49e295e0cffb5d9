//! Reaching the server.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use super::v1::control_client::ControlClient;
use super::v1::fleet_client::FleetClient;
use super::v1::nodes_client::NodesClient;
use super::v1::projects_client::ProjectsClient;

/// The socket's name in the runtime folder.
pub const SOCKET: &str = "control.sock";

/// A server that is there takes a connection at once; one that is stopped or overloaded may never.
const DEADLINE: Duration = Duration::from_secs(5);

/// The longest answer about Envoys, in bytes: each takes a few hundred, and kilobytes when it rejects something.
const MAX_FLEET: usize = 256 << 20;

/// Why the server cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens.
    #[error("no agent-creds server answers at {}: start one with `agent-creds serve`, or by `adev console`", .0.display())]
    NotRunning(PathBuf),
    /// The path is longer than a socket's address may be, or not UTF-8.
    #[error("{} cannot be the path of a socket: choose a shorter --runtime-dir, in UTF-8", .0.display())]
    BadPath(PathBuf),
    /// Anything else, such as a socket of another user.
    #[error("cannot connect to the server at {}", path.display())]
    Failed {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Connects to the server whose runtime folder this is.
///
/// # Errors
/// When none runs, or it is not ours to use.
pub async fn connect(runtime_dir: &Path) -> Result<ControlClient<Channel>, ConnectError> {
    channel(runtime_dir).await.map(ControlClient::new)
}

/// Connects likewise, for what is about Envoys. An answer may list thousands of them.
///
/// # Errors
/// When none runs, or it is not ours to use.
pub async fn connect_fleet(runtime_dir: &Path) -> Result<FleetClient<Channel>, ConnectError> {
    Ok(FleetClient::new(channel(runtime_dir).await?).max_decoding_message_size(MAX_FLEET))
}

/// Connects likewise, for what it says of Envoys of other machines.
///
/// # Errors
/// As [`connect`].
pub async fn connect_nodes(runtime_dir: &Path) -> Result<NodesClient<Channel>, ConnectError> {
    channel(runtime_dir).await.map(NodesClient::new)
}

/// Connects likewise, for what it serves.
///
/// # Errors
/// As [`connect`].
pub async fn connect_projects(runtime_dir: &Path) -> Result<ProjectsClient<Channel>, ConnectError> {
    channel(runtime_dir).await.map(ProjectsClient::new)
}

async fn channel(runtime_dir: &Path) -> Result<Channel, ConnectError> {
    let path = runtime_dir.join(SOCKET);
    let failed = |source| ConnectError::Failed { path: path.clone(), source };
    // A connection of our own first: its error says what is wrong, which the library's hides.
    match tokio::time::timeout(DEADLINE, UnixStream::connect(&path)).await {
        Ok(Ok(stream)) => drop(stream),
        Ok(Err(error)) => {
            return Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ConnectError::NotRunning(path),
                io::ErrorKind::InvalidInput => ConnectError::BadPath(path),
                _ => failed(error),
            });
        }
        Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
    }
    let Some(text) = path.to_str() else { return Err(ConnectError::BadPath(path)) };
    let endpoint = Endpoint::from_shared(format!("unix://{text}")).map_err(|error| failed(io::Error::other(error)))?;
    endpoint.connect_timeout(DEADLINE).connect().await.map_err(|error| failed(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_wrong_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(connect(dir.path()).await, Err(ConnectError::NotRunning(_))), "no socket");
        drop(tokio::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap());
        assert!(matches!(connect(dir.path()).await, Err(ConnectError::NotRunning(_))), "a stale one");
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(connect(&long).await, Err(ConnectError::BadPath(_))));
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(matches!(connect(&dir.path().join("file")).await, Err(ConnectError::Failed { .. })));
    }
}
