//! Taking sandboxes down: in the order in which nothing opens meanwhile. The container goes first, its rules last but for the
//! network.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::inside::Inside;
use super::{Phase, Running, Sandboxes, Slot, docker_fault};
use crate::config::SourceChangeKind;
use crate::control::v1::StopResponse;
use crate::domain::names::SandboxId;
use crate::sandbox::network::NetKey;
use crate::sandbox::spec;
use crate::server::activity::Level;
use crate::shutdown::Trigger;

/// What was made for a sandbox, to be removed again.
#[derive(Default)]
pub(super) struct Made {
    /// By name.
    pub(super) network: Option<String>,
    /// By name or id.
    pub(super) container: Option<String>,
    pub(super) rules: Option<NetKey>,
    pub(super) dns: Option<Trigger>,
    pub(super) serving: bool,
    pub(super) source: bool,
    pub(super) inside: Option<Inside>,
}

impl Sandboxes {
    /// Stops the sandbox of this name, or all.
    pub(in crate::server) async fn stop(&self, name: &str, all: bool) -> Result<StopResponse, String> {
        let slots = if all {
            self.slots()
        } else {
            let typed = SandboxId::from_typed(name);
            let slot = self.find(name).or_else(|| self.find(typed.as_str()));
            vec![slot.ok_or_else(|| format!("there is no sandbox `{name}`; `adev list` shows those there are"))?]
        };
        let stops = slots.into_iter().map(|slot| {
            let this = self.clone();
            // Goes on when the client goes away.
            tokio::spawn(async move { (slot.id.clone(), this.stop_slot(&slot, "stopped").await) })
        });
        let mut response = StopResponse::default();
        for stop in stops.collect::<Vec<_>>() {
            match stop.await {
                Ok((id, Some(problems))) => {
                    response.stopped.push(id.to_string());
                    response.problems.extend(problems);
                }
                Ok((_, None)) => {}
                Err(error) => response.problems.push(format!("stopping failed: {error}")),
            }
        }
        Ok(response)
    }

    /// Stops one sandbox; `None` when it does not run. `why` is what people are told.
    pub(super) async fn stop_slot(&self, slot: &Arc<Slot>, why: &str) -> Option<Vec<String>> {
        let _busy = slot.busy.lock().await;
        let running = slot.running()?;
        // From here on nobody enters it, and whoever asks is told so; a launch waits until all of it is gone.
        self.set_phase(slot, Phase::Stopped);
        let problems = self.unmake(&slot.id, made_of(&running)).await;
        let (level, result) = if problems.is_empty() { (Level::Info, "ok") } else { (Level::Error, "failed") };
        self.0.parts.metrics.operations.with_label_values(&["stop", result]).inc();
        let mut text = why.to_owned();
        for problem in &problems {
            text.push_str("; ");
            text.push_str(problem);
        }
        self.0.parts.activity.notice(Some(&slot.id), level, text);
        self.remember().await;
        Some(problems)
    }

    /// Removes what was made for a sandbox; what could not be, and why. Everything is tried.
    pub(super) async fn unmake(&self, id: &SandboxId, made: Made) -> Vec<String> {
        let mut problems = Vec::new();
        let docker = if made.container.is_some() || made.network.is_some() {
            self.docker().await.map_err(|error| problems.push(docker_fault(&error))).ok()
        } else {
            None
        };
        if let (Some(docker), Some(container)) = (&docker, &made.container)
            && let Err(error) = docker.kill_and_remove(container).await
        {
            problems.push(docker_fault(&error));
        }
        let mut network_is_gone = made.network.is_none();
        if made.source
            && let Err(error) = self.change_sources(SourceChangeKind::Remove(id.clone())).await
        {
            problems.push(error.to_string());
        }
        if made.serving {
            self.0.parts.servings.rcu(|servings| {
                let mut servings = HashMap::clone(servings);
                servings.remove(id);
                servings
            });
        }
        if let Some(dns) = made.dns {
            dns.fire();
        }
        if let (Some(docker), Some(network)) = (&docker, &made.network) {
            match docker.remove_network(network).await {
                Ok(()) => network_is_gone = true,
                Err(error) => problems.push(docker_fault(&error)),
            }
        }
        // With the network gone the rules are about nothing; before that they would be missed.
        if let Some(key) = made.rules {
            if !network_is_gone {
                problems.push("its network is not gone, so its rules stay in force".to_owned());
            } else if let Err(error) = self.0.guard.release(key).await {
                problems.push(format!("its network rules could not be removed: {error}"));
            }
        }
        if let Some(inside) = made.inside {
            let path: PathBuf = inside.path().to_owned();
            let removed = tokio::task::spawn_blocking(move || inside.remove()).await;
            if let Ok(Err(error)) = removed {
                problems.push(format!("cannot remove {}: {error}", path.display()));
            }
        }
        problems
    }
}

/// All that is there of a sandbox that runs.
fn made_of(running: &Running) -> Made {
    running.dns.fire();
    Made {
        network: Some(spec::network_name(&running.labels.name)),
        container: Some(running.container.clone()),
        rules: Some(running.key.clone()),
        dns: None,
        serving: true,
        source: true,
        inside: Some(running.inside.clone()),
    }
}
