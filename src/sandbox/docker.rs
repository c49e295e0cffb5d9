//! The Docker Engine, as far as sandboxes need it: Engine 20.10 and newer (API 1.41), on this host.
//!
//! ```text
//! Docker ── bollard ──▶ containers, networks, archives, info
//!    └───── wire ─────▶ exec, attach, events: what holds secrets, and what streams
//! ```
//!
//! Bollard writes request bodies and answers to the `log` facade, which nothing listens to here; but the environment of an `exec` holds
//! tokens, so it does not go that way at all (`wire`). Every call has a deadline. What Docker refuses becomes a [`DockerError`] that
//! says what to do.

mod containers;
mod error;
mod exec;
mod files;
mod networks;
mod stream;
mod wire;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use bollard::ClientVersion;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use self::containers::{ContainerEvent, ContainerState, EventKind, Found, FoundContainer};
pub use self::error::DockerError;
pub use self::exec::{Exec, ExecRequest, Output};
pub use self::files::{Content, InsideFile};
pub use self::networks::{FoundNetwork, NetworkInfo};
pub use self::stream::{Attached, BoxInput, BoxStream};

use self::wire::Wire;
use super::spec::body::Runtime;

/// Where Docker listens unless `DOCKER_HOST` says otherwise.
pub const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// Docker Engine 20.10.
const OLDEST_API: (usize, usize) = (1, 41);

/// For what the engine answers from memory.
const QUICK: Duration = Duration::from_secs(15);
/// For what starts or ends a process, or writes to the disk.
const SLOW: Duration = Duration::from_secs(90);

/// A connection to the Docker Engine; clones share it.
#[derive(Clone)]
pub struct Docker {
    api: bollard::Docker,
    wire: Wire,
}

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its version, as `20.10.24`.
    pub version: String,
    /// The runtimes that it knows, by name.
    pub runtimes: BTreeSet<String>,
    /// Its time, in Unix seconds, if it says.
    pub time: Option<i64>,
    /// Whether it runs without root.
    pub rootless: bool,
}

impl fmt::Debug for Docker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Docker").field(&self.wire).finish()
    }
}

impl Docker {
    /// Finds the engine at `docker_host` (the value of `DOCKER_HOST`), [`DEFAULT_HOST`] without one, and settles on an API version.
    ///
    /// # Errors
    /// When there is none, it does not run, this user may not use it, or it is too old; each says what to do.
    pub async fn connect(docker_host: Option<&str>) -> Result<Self, DockerError> {
        let host = docker_host.filter(|host| !host.is_empty()).unwrap_or(DEFAULT_HOST);
        let wire = Wire::parse(host)?;
        // A connection of our own first: its error says what is wrong, which the library's hides.
        let version = wire.version(QUICK).await?;
        let api =
            version.api.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let Some(newest) = api.filter(|api| *api >= OLDEST_API) else {
            return Err(DockerError::TooOld { engine: version.engine, api: version.api });
        };
        let newest = ClientVersion { major_version: newest.0, minor_version: newest.1 };
        let spoken = if newest < *bollard::API_DEFAULT_VERSION { newest } else { *bollard::API_DEFAULT_VERSION };
        let seconds = SLOW.as_secs();
        let api = match host.strip_prefix("unix://") {
            Some(path) => bollard::Docker::connect_with_unix(path, seconds, &spoken),
            None => bollard::Docker::connect_with_http(host, seconds, &spoken),
        };
        let api = api.map_err(|error| DockerError::of("connect", error))?;
        Ok(Self { api, wire: wire.speaking(spoken) })
    }

    /// What the engine says of itself.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn about(&self) -> Result<About, DockerError> {
        let info = within(QUICK, "ask Docker about itself", self.api.info()).await?;
        let time = info.system_time.as_deref();
        let time = time.and_then(|time| OffsetDateTime::parse(time, &Rfc3339).ok()).map(OffsetDateTime::unix_timestamp);
        Ok(About {
            version: error::clean(&info.server_version.unwrap_or_default()),
            runtimes: info.runtimes.unwrap_or_default().into_keys().collect(),
            time,
            rootless: info.security_options.iter().flatten().any(|option| option == "name=rootless"),
        })
    }

    /// The runtimes that Docker knows, by name.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn runtimes(&self) -> Result<BTreeSet<String>, DockerError> {
        let info = within(QUICK, "ask Docker for its runtimes", self.api.info()).await?;
        Ok(info.runtimes.unwrap_or_default().into_keys().collect())
    }

    /// Whether this runtime is registered.
    ///
    /// # Errors
    /// When it is not: how to get it, and what else can be done.
    pub async fn check_runtime(&self, runtime: Runtime) -> Result<(), DockerError> {
        let runtime = runtime.as_str();
        if self.runtimes().await?.contains(runtime) {
            Ok(())
        } else {
            Err(DockerError::RuntimeMissing { runtime: runtime.to_owned() })
        }
    }

    /// The `PATH` that the image gives its processes.
    ///
    /// # Errors
    /// When there is no such image on the host: how to get it.
    pub async fn image_path(&self, name: &str) -> Result<String, DockerError> {
        const USUAL: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let image = match within(QUICK, "look at the image", self.api.inspect_image(name)).await {
            Err(DockerError::NotFound { .. }) => return Err(DockerError::ImageMissing { image: name.to_owned() }),
            other => other?,
        };
        let environment = image.config.and_then(|config| config.env).unwrap_or_default();
        let path = environment.into_iter().find_map(|variable| variable.strip_prefix("PATH=").map(str::to_owned));
        Ok(path.filter(|path| !path.is_empty()).unwrap_or_else(|| USUAL.to_owned()))
    }

    /// The process id of a running container's first process, on the host.
    ///
    /// # Errors
    /// When there is no such container, or it does not run.
    pub async fn pid(&self, id: &str) -> Result<i32, DockerError> {
        let action = "look at the container";
        let container = within(QUICK, action, self.api.inspect_container(id, None)).await?;
        let pid = container.state.and_then(|state| state.pid).and_then(|pid| i32::try_from(pid).ok());
        pid.filter(|&pid| pid > 0).ok_or(DockerError::NotRunningContainer { action })
    }

    /// Whether there is an image of this name on the host.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn image_exists(&self, name: &str) -> Result<bool, DockerError> {
        let image = within(QUICK, "look for an image", self.api.inspect_image(name)).await;
        match image {
            Ok(_) => Ok(true),
            Err(DockerError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// A call of the library, with a deadline.
async fn within<T>(
    deadline: Duration,
    action: &'static str,
    call: impl Future<Output = Result<T, bollard::errors::Error>>,
) -> Result<T, DockerError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(answer) => answer.map_err(|error| DockerError::of(action, error)),
        Err(_) => Err(DockerError::TimedOut { action, seconds: deadline.as_secs() }),
    }
}
