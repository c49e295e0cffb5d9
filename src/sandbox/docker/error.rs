//! What can go wrong with Docker, and what to do then.

use std::io;

use bollard::errors::Error;

use crate::sandbox::spec::SpecError;

/// Why Docker did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// `DOCKER_HOST` is nothing we can use.
    #[error(
        "DOCKER_HOST is {host:?}, but sandboxes need Docker on this host: unset it, or set it to unix:///PATH of the socket \
         or tcp://127.0.0.1:PORT"
    )]
    BadHost {
        /// What it is.
        host: String,
    },
    /// No socket.
    #[error(
        "there is no Docker at {host}: install Docker Engine 20.10 or newer (https://docs.docker.com/engine/install), start it, \
         or set DOCKER_HOST to where it listens"
    )]
    NoDocker {
        /// Where it was looked for.
        host: String,
    },
    /// A socket, and nobody behind it.
    #[error("Docker at {host} does not answer: start it (`sudo systemctl start docker`)")]
    NotRunning {
        /// Where it was looked for.
        host: String,
        /// What the connection said.
        source: io::Error,
    },
    /// The socket is somebody else's.
    #[error(
        "this user may not use Docker at {socket}: join its group (`sudo usermod -aG {group} $USER`, then log in again), or use \
         rootless Docker and set DOCKER_HOST"
    )]
    NoPermission {
        /// The socket.
        socket: String,
        /// The group that may, by name where there is one.
        group: String,
    },
    /// An engine older than 20.10.
    #[error("Docker Engine {engine} (API {api}) is too old: 20.10 (API 1.41) or newer is needed")]
    TooOld {
        /// Its version.
        engine: String,
        /// The newest API it speaks.
        api: String,
    },
    /// No answer in time.
    #[error(
        "Docker took more than {seconds} s to {action}: see whether it is overloaded (`docker info`), then try again"
    )]
    TimedOut {
        /// What was tried.
        action: &'static str,
        /// The deadline.
        seconds: u64,
    },
    /// The image is not on this host.
    #[error("there is no image {image:?} on this host: build ours with `make build`, or get it with `docker pull`")]
    ImageMissing {
        /// The image.
        image: String,
    },
    /// The runtime is not registered.
    #[error(
        "Docker has no runtime {runtime:?}: install gVisor with sandbox-image/gvisor.sh, or set `runtime = \"runc\"` under [sandbox] \
         in agent-creds.toml"
    )]
    RuntimeMissing {
        /// The runtime.
        runtime: String,
    },
    /// A container or network of that name is there already.
    #[error("the {kind} name {name:?} is taken by {by}: remove that one, or give the sandbox another name")]
    NameTaken {
        /// Container or network.
        kind: &'static str,
        /// The name.
        name: String,
        /// By what.
        by: String,
    },
    /// Docker has no addresses left for networks.
    #[error(
        "Docker has no free addresses for another network: remove unused ones (`docker network prune`), or give Docker more with \
         `default-address-pools` in /etc/docker/daemon.json"
    )]
    NoAddresses,
    /// No space left on the device.
    #[error("the disk is full, so Docker cannot {action}: free some space (`docker system df` shows what Docker uses)")]
    DiskFull {
        /// What was tried.
        action: &'static str,
    },
    /// No such container, network or exec.
    #[error("cannot {action}: it is not there any more ({message})")]
    NotFound {
        /// What was tried.
        action: &'static str,
        /// Docker's words.
        message: String,
    },
    /// Nothing can be done in a container that does not run.
    #[error("cannot {action}: the sandbox does not run (any more)")]
    NotRunningContainer {
        /// What was tried.
        action: &'static str,
    },
    /// Nor in one that is paused.
    #[error("cannot {action}: the sandbox is paused while its isolation is being repaired; try again in a moment")]
    Paused {
        /// What was tried.
        action: &'static str,
    },
    /// gVisor has no such command.
    #[error("the sandbox's runtime, gVisor, cannot {action} while it runs: stop the sandbox and start it again")]
    NotInGvisor {
        /// What was tried.
        action: &'static str,
    },
    /// Larger than we are ready to read.
    #[error("{path} in the container is larger than {max} bytes")]
    TooLarge {
        /// The file.
        path: String,
        /// The most that would be read.
        max: usize,
    },
    /// Docker refused for another reason.
    #[error("Docker could not {action}: {message}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// Docker's words.
        message: String,
    },
    /// The connection failed meanwhile.
    #[error("lost the connection to Docker while trying to {action}")]
    Connection {
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// What is to be created cannot be said.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

impl DockerError {
    /// What the library's error means.
    pub(super) fn of(action: &'static str, error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { status_code, message } => Self::answered(action, status_code, &message),
            Error::RequestTimeoutError => Self::TimedOut { action, seconds: super::SLOW.as_secs() },
            Error::IOError { err } => Self::Connection { action, source: err },
            other => Self::Connection { action, source: io::Error::other(other) },
        }
    }

    /// What an answer means. The engine's words are all it gives beside the status, and they vary little between versions.
    pub(super) fn answered(action: &'static str, status: u16, message: &str) -> Self {
        let text = message.to_ascii_lowercase();
        let has = |words: &str| text.contains(words);
        if has("no space left on device") || has("disk quota exceeded") {
            return Self::DiskFull { action };
        }
        // "could not find an available, non-overlapping IPv4 address pool …", "all predefined address pools have been fully subnetted"
        if has("non-overlapping ipv4 address pool") || has("predefined address pools") {
            return Self::NoAddresses;
        }
        if has("is paused") || has("is already paused") {
            return Self::Paused { action };
        }
        if has("is not running") {
            return Self::NotRunningContainer { action };
        }
        // `runsc` answers a command that it does not have with all of its help.
        if has("usage: runsc") {
            return Self::NotInGvisor { action };
        }
        // "unknown runtime specified runsc", "unknown or invalid runtime name: runsc"
        if has("unknown runtime specified") || has("invalid runtime name") {
            let runtime = message.split_whitespace().next_back().unwrap_or_default();
            return Self::RuntimeMissing { runtime: clean(runtime) };
        }
        match status {
            404 => Self::NotFound { action, message: clean(message) },
            _ => Self::Refused { action, message: clean(message) },
        }
    }
}

/// Docker's words on one line, and not too many: what is in them may come from inside a sandbox.
pub(super) fn clean(message: &str) -> String {
    message
        .trim()
        .chars()
        .take(1000)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_says_is_understood() {
        let say = |status, message: &str| DockerError::answered("create a container", status, message);
        for runtime in ["Unknown runtime specified runsc", "unknown or invalid runtime name: runsc"] {
            assert!(matches!(say(400, runtime), DockerError::RuntimeMissing { runtime } if runtime == "runsc"));
        }
        for pool in [
            "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network",
            "all predefined address pools have been fully subnetted",
        ] {
            assert!(matches!(say(500, pool), DockerError::NoAddresses));
        }
        assert!(matches!(say(500, "write /x: no space left on device"), DockerError::DiskFull { .. }));
        assert!(matches!(
            say(409, "Container 1 is paused, unpause the container before exec"),
            DockerError::Paused { .. }
        ));
        assert!(matches!(say(409, "Container 1 is not running"), DockerError::NotRunningContainer { .. }));
        let update = "runtimes/runsc did not terminate successfully: exit status 128: Usage: runsc <flags>";
        assert!(matches!(say(500, update), DockerError::NotInGvisor { .. }));
        assert!(matches!(say(404, "No such container: x"), DockerError::NotFound { .. }));
        let odd = say(500, "bad\n\u{1b}[31mname").to_string();
        assert_eq!(odd, r"Docker could not create a container: bad\n\u{1b}[31mname");
    }
}
