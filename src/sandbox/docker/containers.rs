//! Containers: their life, and what there is of them.

use std::time::Duration;

use bollard::errors::Error;
use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary, ContainerUpdateBody, EventMessage,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body_util::BodyExt;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::networks::{of, owner, short};
use super::stream::Lines;
use super::{BoxStream, Docker, DockerError, FoundNetwork, QUICK, SLOW, within};
use crate::domain::names::SandboxId;
use crate::sandbox::spec::body::Create;
use crate::sandbox::spec::{Labels, ServerId};

/// As much of a log as is read.
const MAX_LOG: usize = 256 * 1024;

/// Memory without a limit, as Docker counts: its update takes no "none".
const ALL_MEMORY: i64 = 1 << 60;

/// Everything there is of a server.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Its containers, ended ones too.
    pub containers: Vec<FoundContainer>,
    /// Its networks.
    pub networks: Vec<FoundNetwork>,
}

/// A container of ours that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundContainer {
    /// Docker's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image it was made from, as it was named then.
    pub image: String,
    /// Its runtime's name.
    pub runtime: String,
    /// What it tells of itself.
    pub labels: Labels,
    /// How it is.
    pub state: ContainerState,
    /// When it started; `None` when it never did.
    pub started: Option<OffsetDateTime>,
}

/// How a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// Never started.
    Created,
    /// Runs.
    Running,
    /// Runs, but stands still.
    Paused,
    /// Ended.
    Exited {
        /// Of its first process.
        code: i64,
    },
    /// On its way from one to another, or broken.
    Other,
}

/// Something happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// Docker's id.
    pub id: String,
    /// What it tells of itself.
    pub labels: Labels,
    /// What happened.
    pub kind: EventKind,
}

impl ContainerEvent {
    /// Whose container, when it is a sandbox's.
    pub fn sandbox(&self) -> Option<&SandboxId> {
        self.labels.sandbox().map(|sandbox| &sandbox.name)
    }
}

/// What happens to containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Its first process runs.
    Started,
    /// Its first process ended.
    Died {
        /// The exit code.
        code: i64,
    },
    /// It stands still.
    Paused,
    /// It goes on.
    Unpaused,
    /// The kernel killed a process in it: out of memory.
    OutOfMemory,
    /// It is gone.
    Removed,
}

impl Docker {
    /// Creates a container, and says its id.
    ///
    /// # Errors
    /// When the image or the runtime is missing, the name is taken, or the disk is full.
    pub async fn create_container(&self, create: &Create) -> Result<String, DockerError> {
        let options = CreateContainerOptionsBuilder::default().name(&create.name).build();
        let call = self.api.create_container(Some(options), create.body.clone());
        let error = match within(SLOW, "create the container", call).await {
            Ok(created) => return Ok(created.id),
            Err(error) => error,
        };
        Err(match error {
            DockerError::NotFound { ref message, .. } if message.to_ascii_lowercase().contains("no such image") => {
                DockerError::ImageMissing { image: create.body.image.clone().unwrap_or_default() }
            }
            DockerError::Refused { ref message, .. } if message.contains("already in use by container") => {
                self.container_name_taken(create).await
            }
            other => other,
        })
    }

    async fn container_name_taken(&self, create: &Create) -> DockerError {
        let labels = create.body.labels.clone().unwrap_or_default();
        let by = match within(QUICK, "look at a container", self.api.inspect_container(&create.name, None)).await {
            Ok(ContainerInspectResponse { id, config, .. }) => {
                let config = config.unwrap_or_default();
                let what = format!("container {} ({})", short(id.as_deref()), config.image.as_deref().unwrap_or("?"));
                match Labels::from_map(&labels) {
                    Some(labels) => owner(&what, &config.labels.unwrap_or_default(), &labels.server),
                    None => what,
                }
            }
            Err(_) => "another container".to_owned(),
        };
        DockerError::NameTaken { kind: "container", name: create.name.clone(), by }
    }

    /// Starts a container that was created.
    ///
    /// # Errors
    /// When it cannot be started: Docker's words say why.
    pub async fn start(&self, id: &str) -> Result<(), DockerError> {
        within(SLOW, "start the container", self.api.start_container(id, None)).await
    }

    /// Kills a container with all its processes, and removes it; returns when it is gone. One that is gone already is fine. A paused one
    /// is not woken first; in gVisor that takes ten seconds, because Docker's first signal does not get through.
    ///
    /// # Errors
    /// When Docker cannot remove it.
    pub async fn kill_and_remove(&self, id: &str) -> Result<(), DockerError> {
        let action = "remove the container";
        let deadline = Instant::now() + SLOW;
        loop {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            match within(SLOW, action, self.api.remove_container(id, Some(options))).await {
                Ok(()) | Err(DockerError::NotFound { .. }) => return Ok(()),
                // Somebody else is at it: it is gone when Docker does not know it any more. Or its end has not come through yet.
                Err(DockerError::Refused { message, .. })
                    if message.contains("already in progress") || message.contains("ould not kill") => {}
                Err(error) => return Err(error),
            }
            if Instant::now() > deadline {
                return Err(DockerError::TimedOut { action, seconds: SLOW.as_secs() });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes a container stand still; one that does already is fine.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn pause(&self, id: &str) -> Result<(), DockerError> {
        match within(SLOW, "pause the container", self.api.pause_container(id)).await {
            Err(DockerError::Paused { .. }) => Ok(()),
            other => other,
        }
    }

    /// Lets a container go on; one that does already is fine.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn unpause(&self, id: &str) -> Result<(), DockerError> {
        match within(SLOW, "unpause the container", self.api.unpause_container(id)).await {
            Err(DockerError::Refused { message, .. }) if message.contains("is not paused") => Ok(()),
            other => other,
        }
    }

    /// Changes the limits of a running container: memory in bytes, CPUs in billionths. `None` is no limit.
    ///
    /// # Errors
    /// When Docker refuses, for one because it uses more memory than that; in gVisor always ([`DockerError::NotInGvisor`]).
    pub async fn update(&self, id: &str, memory: Option<u64>, cpus: Option<u64>) -> Result<(), DockerError> {
        let action = "change the container's limits";
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let memory = memory.map_or(ALL_MEMORY, signed);
        let cpus = match cpus {
            Some(cpus) => signed(cpus),
            None => within(QUICK, action, self.api.info()).await?.ncpu.unwrap_or(1).saturating_mul(1_000_000_000),
        };
        let body = ContainerUpdateBody {
            memory: Some(memory),
            memory_swap: Some(memory),
            nano_cpus: Some(cpus),
            ..ContainerUpdateBody::default()
        };
        within(SLOW, action, self.api.update_container(id, body)).await
    }

    /// Waits for a container to end, at most `deadline`: its exit code, `None` when it still runs.
    ///
    /// # Errors
    /// When there is no such container.
    pub async fn wait(&self, id: &str, deadline: Duration) -> Result<Option<i64>, DockerError> {
        let action = "wait for the container";
        let mut ends = Box::pin(self.api.wait_container(id, None));
        match tokio::time::timeout(deadline, ends.next()).await {
            Err(_) => Ok(None),
            Ok(Some(Ok(end))) => Ok(Some(end.status_code)),
            Ok(Some(Err(Error::DockerContainerWaitError { code, .. }))) => Ok(Some(code)),
            Ok(Some(Err(error))) => Err(DockerError::of(action, error)),
            Ok(None) => Err(DockerError::NotRunningContainer { action }),
        }
    }

    /// The last lines that a container's first process wrote.
    ///
    /// # Errors
    /// When there is no such container.
    pub async fn logs(&self, id: &str, lines: u32) -> Result<String, DockerError> {
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(&lines.to_string()).build();
        let collect = async {
            let mut parts = Box::pin(self.api.logs(id, Some(options)));
            let mut log = Vec::new();
            while let Some(part) = parts.try_next().await?
                && log.len() < MAX_LOG
            {
                log.extend_from_slice(&part.into_bytes());
            }
            log.truncate(MAX_LOG);
            Ok(String::from_utf8_lossy(&log).into_owned())
        };
        within(QUICK, "read the container's log", collect).await
    }

    /// Everything there is of a server. What merely looks like it (its id, but labels that do not parse) is left out.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn find(&self, server: &ServerId) -> Result<Found, DockerError> {
        let options = ListContainersOptionsBuilder::default().all(true).filters(&of(server)).build();
        let listed = within(QUICK, "list containers", self.api.list_containers(Some(options))).await?;
        let mut containers = Vec::new();
        for container in listed {
            if let Some(found) = self.look(container, server).await? {
                containers.push(found);
            }
        }
        Ok(Found { containers, networks: self.find_networks(server).await? })
    }

    /// The list knows no start time and no exit code. A container that is gone meanwhile is left out.
    async fn look(&self, listed: ContainerSummary, server: &ServerId) -> Result<Option<FoundContainer>, DockerError> {
        let labels = Labels::from_map(&listed.labels.unwrap_or_default()).filter(|labels| labels.server == *server);
        let (Some(labels), Some(id)) = (labels, listed.id) else { return Ok(None) };
        let container = match within(QUICK, "look at a container", self.api.inspect_container(&id, None)).await {
            Err(DockerError::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        let state = container.state.unwrap_or_default();
        let started = state.started_at.as_deref().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
        Ok(Some(FoundContainer {
            id,
            name: container.name.unwrap_or_default().trim_start_matches('/').to_owned(),
            image: container.config.and_then(|config| config.image).unwrap_or_default(),
            runtime: container.host_config.and_then(|host| host.runtime).unwrap_or_default(),
            labels,
            state: match state.status {
                Some(ContainerStateStatusEnum::CREATED) => ContainerState::Created,
                Some(ContainerStateStatusEnum::RUNNING) => ContainerState::Running,
                Some(ContainerStateStatusEnum::PAUSED) => ContainerState::Paused,
                Some(ContainerStateStatusEnum::EXITED) => {
                    ContainerState::Exited { code: state.exit_code.unwrap_or_default() }
                }
                _ => ContainerState::Other,
            },
            // The year 1 stands for never.
            started: started.filter(|started| started.unix_timestamp() > 0),
        }))
    }

    /// What happens to a server's containers from now on: when this returns, nothing is missed any more. The stream ends with the
    /// connection; then connect again, and look at [`Docker::find`].
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn events(
        &self,
        server: &ServerId,
    ) -> Result<BoxStream<Result<ContainerEvent, DockerError>>, DockerError> {
        let action = "watch the containers";
        // Nothing in it needs escaping but braces and quotes.
        let filters = serde_json::json!({ "type": ["container"], "label": of(server)["label"] }).to_string();
        let body = self.wire.open(QUICK, action, &format!("/events?filters={}", percent_encode(&filters))).await?;
        let server = server.clone();
        let batches = stream::unfold(Some((body, Lines::default())), move |state| {
            let server = server.clone();
            async move {
                let (mut body, mut lines) = state?;
                let lost = |source| Some((vec![Err(DockerError::Connection { action, source })], None));
                let frame = match body.frame().await? {
                    Ok(frame) => frame,
                    Err(error) => return lost(std::io::Error::other(error)),
                };
                let complete = match lines.push(frame.data_ref().map_or(&[], AsRef::as_ref)) {
                    Ok(complete) => complete,
                    Err(error) => return lost(error),
                };
                let events = complete.iter().filter_map(|line| event(line, &server)).map(Ok).collect::<Vec<_>>();
                Some((events, Some((body, lines))))
            }
        });
        Ok(Box::pin(batches.flat_map(stream::iter)))
    }
}

/// An event of ours that means something here.
fn event(line: &str, server: &ServerId) -> Option<ContainerEvent> {
    let EventMessage { action, actor, .. } = serde_json::from_str(line).ok()?;
    let actor = actor?;
    let attributes = actor.attributes?;
    let labels = Labels::from_map(&attributes).filter(|labels| labels.server == *server)?;
    let kind = match action?.as_str() {
        "start" => EventKind::Started,
        "die" => EventKind::Died { code: attributes.get("exitCode").and_then(|code| code.parse().ok()).unwrap_or(-1) },
        "pause" => EventKind::Paused,
        "unpause" => EventKind::Unpaused,
        "oom" => EventKind::OutOfMemory,
        "destroy" => EventKind::Removed,
        _ => return None,
    };
    Some(ContainerEvent { id: actor.id?, labels, kind })
}

fn percent_encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
