//! What follows from a change of the configuration or of the CA, and from an alarm of the guard.

use std::sync::Arc;

use tokio::sync::watch;

use super::guard::{Alarm, Alarms};
use super::inside::PolicyView;
use super::launch::{sandbox_config, zone_of};
use super::{Running, Sandboxes, Slot, changes, docker_fault, lock};
use crate::config::{Diagnostic, ProjectConfig, SandboxConfig};
use crate::control::v1::ConfigChange;
use crate::sandbox::docker::DockerError;
use crate::sandbox::network::NetKey;
use crate::server::activity::Level;
use crate::shutdown::Shutdown;

impl Sandboxes {
    /// Follows configuration, CA and guard until `stop`.
    pub(in crate::server) async fn follow(self, mut alarms: Alarms, stop: Shutdown) {
        let mut loaded = self.0.parts.loaded.clone();
        let mut trust = self.0.parts.trust.clone();
        let stopped = stop.wait();
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                () = &mut stopped => return,
                changed = changed(&mut loaded) => {
                    if !changed {
                        return;
                    }
                    for slot in self.slots() {
                        self.follow_config(&slot).await;
                    }
                }
                changed = changed(&mut trust) => {
                    if !changed {
                        return;
                    }
                    for slot in self.slots() {
                        self.refresh_inside(&slot).await;
                    }
                }
                alarm = alarms.recv() => match alarm {
                    Some(alarm) => self.alarm(alarm).await,
                    None => return,
                }
            }
        }
    }

    async fn alarm(&self, alarm: Alarm) {
        let metrics = &self.0.parts.metrics.isolation;
        match alarm {
            Alarm::Lost(key, what) => {
                metrics.with_label_values(&["lost"]).inc();
                for slot in self.concerned(Some(&key)) {
                    self.isolation_lost(&slot, &format!("network isolation: {what} changed or removed on the host"))
                        .await;
                }
            }
            Alarm::Repaired(key) => {
                metrics.with_label_values(&["repaired"]).inc();
                for slot in self.concerned(key.as_ref()) {
                    if slot.running().is_some_and(|running| lock(&running.live).broken.is_some()) {
                        self.isolation_repaired(&slot).await;
                    }
                }
            }
            Alarm::Unrepaired(key, why) => {
                metrics.with_label_values(&["failed"]).inc();
                for slot in self.concerned(key.as_ref()) {
                    self.isolation_lost(&slot, &format!("its network rules cannot be put in force: {why}")).await;
                }
            }
            Alarm::Ended(why) => {
                let text = format!(
                    "the guard of the network rules ended ({why}); it is started again, the rules stay in force"
                );
                self.0.parts.activity.notice(None, Level::Error, text);
            }
        }
    }

    /// The sandbox with this key; all that run without one.
    fn concerned(&self, key: Option<&NetKey>) -> Vec<Arc<Slot>> {
        let is_concerned =
            |slot: &Arc<Slot>| slot.running().is_some_and(|running| key.is_none_or(|key| running.key == *key));
        self.slots().into_iter().filter(is_concerned).collect()
    }

    /// The rules of a sandbox are not whole: it does nothing until they are.
    pub(super) async fn isolation_lost(&self, slot: &Slot, why: &str) {
        let Some(running) = slot.running() else { return };
        lock(&running.live).broken = Some(why.to_owned());
        let paused = async { self.docker().await?.pause(&running.container).await };
        let text = match paused.await {
            Ok(()) => format!("{why}; the sandbox is paused until they are in force again"),
            Err(error) => format!("{why}; pausing the sandbox failed: {}", docker_fault(&error)),
        };
        self.0.parts.activity.notice(Some(&slot.id), Level::Error, text);
        self.count_states();
    }

    /// They are whole again.
    pub(super) async fn isolation_repaired(&self, slot: &Slot) {
        let Some(running) = slot.running() else { return };
        let unpaused = async { self.docker().await?.unpause(&running.container).await };
        match unpaused.await {
            Ok(()) => {
                lock(&running.live).broken = None;
                let text = "its network rules are in force again; the sandbox goes on";
                self.0.parts.activity.notice(Some(&slot.id), Level::Warning, text);
            }
            Err(error) => {
                let text =
                    format!("its network rules are in force again, but it stays paused: {}", docker_fault(&error));
                lock(&running.live).broken = Some(text.clone());
                self.0.parts.activity.notice(Some(&slot.id), Level::Error, text);
            }
        }
        self.count_states();
    }

    /// Brings a sandbox that runs up to its configuration: names, what `aenv` shows, limits; and tells what changed.
    pub(super) async fn follow_config(&self, slot: &Arc<Slot>) {
        let Some(running) = slot.running() else { return };
        let Some(project) = self.project(&slot.id) else { return };
        let unconfirmed = self.0.parts.loaded.borrow().unconfirmed.contains(&slot.id);
        let before = std::mem::replace(&mut lock(&slot.known).unconfirmed, unconfirmed);
        if before != unconfirmed {
            self.remember().await;
        }
        let (generation, problems) = self.problems_of(&running);
        running.zone.send_replace(Arc::new(zone_of(zone_address(&running), Some(&project))));

        let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let (before, problems_changed) = {
            let mut live = lock(&running.live);
            let before = live.project.replace(Arc::clone(&project));
            let problems_changed = live.problems != shown;
            live.problems.clone_from(&shown);
            (before, problems_changed)
        };
        let same = before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &project));
        if same && !problems_changed {
            return;
        }
        self.write_policy(&running, &project, generation, problems).await;
        let mut lines = before.as_ref().map(|before| changes::lines(before, &project)).unwrap_or_default();
        if let Some(config) = sandbox_config(&project) {
            let need = changes::need_restart(&running.runtime, &running.image, config);
            lines.extend(
                need.iter().map(|what| format!("{what} takes effect in a new container: adev stop, then adev console")),
            );
            lock(&running.live).restart_needed = need;
            if !same {
                lines.extend(self.resize(&running, before.as_deref().and_then(sandbox_config), config).await);
            }
        }
        let ok = shown.is_empty();
        if ok && before.is_none() {
            // The first configuration of a sandbox is no change.
            return;
        }
        let lines = if ok { lines } else { shown };
        self.0.parts.activity.config(&slot.id, ConfigChange { generation, ok, lines });
    }

    /// Applies another limit of memory or processors to the container that runs; what went wrong.
    async fn resize(&self, running: &Running, before: Option<&SandboxConfig>, now: &SandboxConfig) -> Option<String> {
        // Of a sandbox that was taken up nobody knows what it has: it is set to what the file says.
        if before.is_some_and(|before| before.memory == now.memory && before.cpus == now.cpus) {
            return None;
        }
        let memory = now.memory.map(|memory| memory.bytes());
        let cpus = now.cpus.map(|cpus| cpus.nanos());
        let updated: Result<(), DockerError> =
            async { self.docker().await?.update(&running.container, memory, cpus).await }.await;
        updated.err().map(|error| format!("memory and cpus stay what they were: {}", docker_fault(&error)))
    }

    /// Generation, and the problems of this sandbox's file.
    fn problems_of(&self, running: &Running) -> (u64, Vec<Diagnostic>) {
        let loaded = self.0.parts.loaded.borrow();
        let file = running.labels.config.to_string_lossy();
        let folder = running.labels.config.parent();
        let is_its = |problem: &&Diagnostic| {
            *problem.file == *file
                || folder.is_some_and(|folder| std::path::Path::new(&*problem.file).starts_with(folder))
        };
        (loaded.generation, loaded.problems.iter().filter(is_its).cloned().collect())
    }

    async fn write_policy(
        &self,
        running: &Running,
        project: &Arc<ProjectConfig>,
        generation: u64,
        problems: Vec<Diagnostic>,
    ) {
        let (inside, project) = (running.inside.clone(), Arc::clone(project));
        let instance = running.serving.instance.clone();
        let gateway = zone_address(running);
        let (prefix, strict) = (self.0.parts.mint.prefix.clone(), self.0.parts.strict);
        let written = tokio::task::spawn_blocking(move || {
            let view = PolicyView {
                project: &project,
                instance: &instance,
                gateway,
                prefix: &prefix,
                strict,
                generation,
                problems: &problems,
            };
            inside.policy(&view)
        });
        if let Ok(Err(error)) = written.await {
            let text = format!("cannot write {}: {error}", running.inside.path().display());
            self.0.parts.activity.notice(Some(&running.labels.name), Level::Warning, text);
        }
    }

    /// Writes the CA into the folder of a sandbox that runs.
    pub(super) async fn refresh_inside(&self, slot: &Slot) {
        let Some(running) = slot.running() else { return };
        let (inside, trust) = (running.inside.clone(), Arc::clone(&self.0.parts.trust.borrow()));
        let gateway = zone_address(&running);
        let written = tokio::task::spawn_blocking(move || inside.create(gateway, &trust)).await;
        if let Ok(Err(error)) = written {
            let text = format!("cannot write {}: {error}", running.inside.path().display());
            self.0.parts.activity.notice(Some(&slot.id), Level::Warning, text);
        }
    }
}

fn zone_address(running: &Running) -> std::net::Ipv4Addr {
    running.zone.borrow().address
}

/// Waits for a change; `false` when there will be none.
async fn changed<T>(receiver: &mut watch::Receiver<T>) -> bool {
    let changed = receiver.changed().await.is_ok();
    receiver.mark_unchanged();
    changed
}
