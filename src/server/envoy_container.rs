//! The server's Envoy as a container, for hosts that have Docker and no Envoy: same bootstrap, same life as the process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use prometheus::IntCounter;

use super::sandboxes::DockerHost;
use crate::envoy::Backoff;
use crate::sandbox::docker::{ContainerState, Docker, DockerError};
use crate::sandbox::spec::body::EnvoySpec;
use crate::sandbox::spec::{Role, ServerId};
use crate::shutdown::Shutdown;

/// The image that has Envoy.
const IMAGE: &str = "agent-creds-envoy";
/// How long one question to Docker whether it still runs stays open.
const LOOK: Duration = Duration::from_secs(30);

/// Keeps one Envoy running, in a container.
pub(super) struct EnvoyContainer {
    docker_host: DockerHost,
    spec: EnvoySpec,
    pid: Arc<AtomicI32>,
    restarts: IntCounter,
    adopted: Option<String>,
}

impl EnvoyContainer {
    /// Prepares to run Envoy with `bootstrap`. The container of a server before us is taken over when it runs with the same
    /// bootstrap; any other is removed.
    pub(super) async fn prepare(
        docker_host: DockerHost,
        server: ServerId,
        bootstrap: &str,
        runtime_dir: &Path,
        restarts: IntCounter,
    ) -> anyhow::Result<Self> {
        let file = runtime_dir.join("envoy.json");
        let docker = docker_host.connect().await?;
        anyhow::ensure!(docker.image_exists(IMAGE).await?, DockerError::ImageMissing { image: IMAGE.to_owned() });
        let same = fs::read_to_string(&file).is_ok_and(|text| text == bootstrap);
        let mut adopted = None;
        for found in docker.find(&server).await?.containers {
            if found.labels.role != Role::Envoy {
                continue;
            }
            if same && found.state == ContainerState::Running && adopted.is_none() {
                adopted = Some(found.id);
            } else {
                docker.kill_and_remove(&found.id).await?;
            }
        }
        fs::write(&file, bootstrap).with_context(|| format!("cannot write {}", file.display()))?;
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let mut command = vec!["/usr/local/bin/envoy".to_owned(), "-c".to_owned(), text_of(&file)?];
        command.extend(crate::envoy::ARGUMENTS.map(str::to_owned));
        let runtime_dir = PathBuf::from(text_of(runtime_dir)?);
        let spec = EnvoySpec { server, image: IMAGE.to_owned(), runtime_dir, uid, gid, command };
        Ok(Self { docker_host, spec, pid: Arc::new(AtomicI32::new(0)), restarts, adopted })
    }

    /// Whether an Envoy that was running already is taken over.
    pub(super) fn adopts(&self) -> bool {
        self.adopted.is_some()
    }

    /// Where the process id of the Envoy now running is found, 0 when none is.
    pub(super) fn pid(&self) -> Arc<AtomicI32> {
        Arc::clone(&self.pid)
    }

    /// Keeps it running until `shutdown`.
    pub(super) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        let stopping = shutdown.wait();
        tokio::pin!(stopping);
        loop {
            let started = Instant::now();
            // Never given up half-way: Docker makes what it was asked for, whether anybody waits for it or not.
            let how = match self.begin().await {
                Ok((docker, id)) => tokio::select! {
                    biased;
                    () = &mut stopping => {
                        self.stop().await;
                        return Ok(());
                    }
                    how = self.watch(&docker, &id) => how,
                },
                Err(error) => Err(error),
            };
            let how = how.map_or_else(|error| error.to_string(), |code| format!("exit code {code}"));
            self.pid.store(0, Ordering::Relaxed);
            self.restarts.inc();
            let delay = backoff.next(started.elapsed());
            tracing::error!(how, ?delay, "Envoy's container ended; starting it again");
            tokio::select! {
                () = &mut stopping => {
                    self.stop().await;
                    return Ok(());
                }
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// The container that runs: the one that is taken over, or a new one.
    async fn begin(&mut self) -> Result<(Docker, String), DockerError> {
        let docker = self.docker_host.connect().await?;
        if let Some(id) = self.adopted.take() {
            tracing::info!(container = id, "took over the running Envoy");
            return Ok((docker, id));
        }
        self.remove(&docker).await?;
        let id = docker.create_container(&self.spec.create()?).await?;
        docker.start(&id).await?;
        tracing::info!(container = id, "started Envoy");
        Ok((docker, id))
    }

    /// Returns when it ended, with its exit code.
    async fn watch(&self, docker: &Docker, id: &str) -> Result<i64, DockerError> {
        self.pid.store(docker.pid(id).await?, Ordering::Relaxed);
        loop {
            if let Some(code) = docker.wait(id, LOOK).await? {
                return Ok(code);
            }
        }
    }

    /// Removes every Envoy of this server.
    async fn remove(&self, docker: &Docker) -> Result<(), DockerError> {
        for found in docker.find(&self.spec.server).await?.containers {
            if found.labels.role == Role::Envoy {
                docker.kill_and_remove(&found.id).await?;
            }
        }
        Ok(())
    }

    async fn stop(&self) {
        let removed = async { self.remove(&self.docker_host.connect().await?).await };
        if let Err(error) = removed.await {
            tracing::warn!(%error, "Envoy's container cannot be removed");
        }
        self.pid.store(0, Ordering::Relaxed);
    }
}

fn text_of(path: &Path) -> anyhow::Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("{} is not valid UTF-8, and Docker cannot be told of it", path.display()))?;
    Ok(text.to_owned())
}
