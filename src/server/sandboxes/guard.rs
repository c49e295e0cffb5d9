//! The server's side of the guard: the container that keeps the rules of all sandboxes in force.
//!
//! One task holds what is to be in force, and tells the guard all of it whenever it changes, so a guard that was killed and
//! started again is told the same. The guard lives while there is anything to hold. Without a guard the rules stay as they
//! are: what is lost then is who notices that they are gone.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::DockerHost;
use crate::sandbox::docker::{Attached, DockerError};
use crate::sandbox::network::{GuardCommand, GuardReport, Isolation, NetKey, ServerPrefix};
use crate::sandbox::spec::Role;
use crate::sandbox::spec::body::GuardSpec;

/// How long a guard may take to start, or to put rules in force.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long to wait before a guard that ended is started again.
const RESTART: Duration = Duration::from_millis(200);

/// What the guard says of a sandbox unasked.
#[derive(Debug, Clone)]
pub(in crate::server) enum Alarm {
    /// Rules are not in force as they should be: what is missing.
    Lost(NetKey, String),
    /// They are in force again; those of all sandboxes when none is named.
    Repaired(Option<NetKey>),
    /// They cannot be put in force again; those of all sandboxes are in doubt when none is named.
    Unrepaired(Option<NetKey>, String),
    /// The guard itself ended.
    Ended(String),
}

/// Where the guard's alarms arrive.
pub(in crate::server) type Alarms = mpsc::Receiver<Alarm>;

/// The handle of the guard's task.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    Hold(Vec<Isolation>, oneshot::Sender<Result<(), String>>),
    Release(NetKey, oneshot::Sender<Result<(), String>>),
}

/// Who waits for which revision.
struct Waiter {
    revision: u64,
    since: Instant,
    reply: oneshot::Sender<Result<(), String>>,
}

struct Task {
    spec: GuardSpec,
    prefix: ServerPrefix,
    docker_host: DockerHost,
    commands: mpsc::Receiver<Command>,
    alarms: mpsc::Sender<Alarm>,
    hold: BTreeMap<NetKey, Isolation>,
    revision: u64,
    waiters: Vec<Waiter>,
    connection: Option<(String, Attached)>,
    /// When a guard that ended is started again.
    retry: Option<Instant>,
}

impl Guard {
    /// Starts the task, with the sandboxes that run already. It ends when the last handle is dropped; the guard's container stays
    /// while there is something to hold, and the next server takes its place.
    pub(super) fn start(
        spec: GuardSpec,
        prefix: ServerPrefix,
        docker_host: DockerHost,
        running: Vec<Isolation>,
    ) -> (Self, Alarms) {
        let (commands, asked) = mpsc::channel(64);
        let (alarms, alarmed) = mpsc::channel(64);
        let task = Task {
            spec,
            prefix,
            docker_host,
            commands: asked,
            alarms,
            hold: running.into_iter().map(|isolation| (isolation.key().clone(), isolation)).collect(),
            revision: 0,
            waiters: Vec::new(),
            connection: None,
            retry: None,
        };
        tokio::spawn(task.run());
        (Self { commands }, alarmed)
    }

    /// Puts the rules of sandboxes in force; returns when they are, and were read back. A guard removes the rules of all others:
    /// those of sandboxes that run already are to be the first that it is told of, all of them at once.
    pub(super) async fn hold(&self, isolations: Vec<Isolation>) -> Result<(), String> {
        self.ask(|reply| Command::Hold(isolations, reply)).await
    }

    /// Removes the rules of a sandbox whose network is gone, and its bridge if Docker left that; returns when they are gone.
    pub(super) async fn release(&self, key: NetKey) -> Result<(), String> {
        self.ask(|reply| Command::Release(key, reply)).await
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Command) -> Result<(), String> {
        let (reply, replied) = oneshot::channel();
        let gone = || "the guard's task ended".to_owned();
        self.commands.send(command(reply)).await.map_err(|_| gone())?;
        replied.await.map_err(|_| gone())?
    }
}

impl Task {
    async fn run(mut self) {
        loop {
            let expiry = self.waiters.iter().map(|waiter| waiter.since + DEADLINE).min();
            let wake = [expiry, self.retry].into_iter().flatten().min();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command).await,
                    None => return,
                },
                report = next_report(&mut self.connection) => self.report(report).await,
                () = sleep_until(wake.unwrap_or_else(|| Instant::now() + DEADLINE)), if wake.is_some() => {
                    self.expire();
                    if self.retry.is_some_and(|at| at <= Instant::now()) {
                        self.retry = None;
                        self.tell(Vec::new()).await;
                    }
                }
            }
        }
    }

    async fn command(&mut self, command: Command) {
        let (gone, reply) = match command {
            Command::Hold(isolations, reply) => {
                self.hold.extend(isolations.into_iter().map(|isolation| (isolation.key().clone(), isolation)));
                (Vec::new(), reply)
            }
            Command::Release(key, reply) => {
                self.hold.remove(&key);
                (vec![key], reply)
            }
        };
        self.revision += 1;
        self.waiters.push(Waiter { revision: self.revision, since: Instant::now(), reply });
        self.tell(gone).await;
    }

    /// Tells the guard what is to be in force; starts one when there is none. What is `gone` is said once: a sandbox of the same
    /// name may be launched as soon as the answer has come.
    async fn tell(&mut self, gone: Vec<NetKey>) {
        if let Err(error) = self.try_tell(gone).await {
            self.connection = None;
            let error = format!("the guard cannot be reached: {error}");
            for waiter in self.waiters.drain(..) {
                // Who asked may have given up.
                let _ = waiter.reply.send(Err(error.clone()));
            }
            if !self.hold.is_empty() {
                self.alarm(Alarm::Ended(error)).await;
                self.retry = Some(Instant::now() + RESTART);
            }
        }
    }

    async fn try_tell(&mut self, gone: Vec<NetKey>) -> Result<(), String> {
        if self.connection.is_none() {
            let connected = tokio::time::timeout(DEADLINE, connect(&self.docker_host, &self.spec)).await;
            let connected = connected.map_err(|_| format!("it did not start within {DEADLINE:?}"))?;
            self.connection = Some(connected.map_err(|error| error.to_string())?);
        }
        let Some((_, attached)) = &mut self.connection else { return Err("it is not connected".to_owned()) };
        let command = GuardCommand {
            revision: self.revision,
            server: self.prefix.clone(),
            hold: self.hold.values().cloned().collect(),
            gone,
        };
        let mut line = serde_json::to_vec(&command).map_err(|error| error.to_string())?;
        line.push(b'\n');
        let written = tokio::time::timeout(DEADLINE, attached.input.write_all(&line)).await;
        written.map_err(|_| "it does not read".to_owned())?.map_err(|error| error.to_string())
    }

    async fn report(&mut self, report: Option<String>) {
        let Some(line) = report else {
            self.connection = None;
            if !self.hold.is_empty() {
                self.alarm(Alarm::Ended("it ended by itself".to_owned())).await;
                self.retry = Some(Instant::now() + RESTART);
            }
            return;
        };
        match serde_json::from_str(&line) {
            Ok(GuardReport::Holding(revision)) => {
                // Before whoever released the last sandbox goes on: then nothing of it is left.
                if self.hold.is_empty() && revision == self.revision {
                    self.end().await;
                }
                for waiter in self.waiters.extract_if(.., |waiter| waiter.revision <= revision) {
                    let _ = waiter.reply.send(Ok(()));
                }
            }
            Ok(GuardReport::Failed { revision, key, message }) => {
                let concerned: Vec<_> =
                    self.waiters.extract_if(.., |waiter| Some(waiter.revision) == revision).collect();
                if concerned.is_empty() {
                    self.alarm(Alarm::Unrepaired(key, message)).await;
                } else {
                    for waiter in concerned {
                        let _ = waiter.reply.send(Err(message.clone()));
                    }
                }
            }
            Ok(GuardReport::Lost { key, what }) => self.alarm(Alarm::Lost(key, what.to_string())).await,
            Ok(GuardReport::Repaired { key }) => self.alarm(Alarm::Repaired(key)).await,
            Err(error) => tracing::warn!(%error, "the guard says something that cannot be read"),
        }
    }

    /// Nothing is to be held: no guard is needed.
    async fn end(&mut self) {
        let Some((container, _)) = self.connection.take() else { return };
        let removed = async { self.docker_host.connect().await?.kill_and_remove(&container).await };
        if let Err(error) = removed.await {
            tracing::warn!(%error, "the guard's container cannot be removed");
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        for waiter in self.waiters.extract_if(.., |waiter| waiter.since + DEADLINE <= now) {
            let _ = waiter.reply.send(Err(format!("the guard did not answer within {DEADLINE:?}")));
        }
    }

    async fn alarm(&mut self, alarm: Alarm) {
        // Nobody listens only when the server stops.
        let _ = self.alarms.send(alarm).await;
    }
}

/// The next line of the guard; `None` when it ended. Waits for ever without a guard.
async fn next_report(connection: &mut Option<(String, Attached)>) -> Option<String> {
    match connection {
        Some((_, attached)) => attached.lines.next().await.and_then(Result::ok),
        None => std::future::pending().await,
    }
}

/// Starts a guard in the place of the one that may be left of an earlier server: it may be of another version.
async fn connect(docker_host: &DockerHost, spec: &GuardSpec) -> Result<(String, Attached), DockerError> {
    let docker = docker_host.connect().await?;
    let found = docker.find(&spec.server).await?;
    for guard in found.containers.iter().filter(|container| container.labels.role == Role::Guard) {
        docker.kill_and_remove(&guard.id).await?;
    }
    let id = docker.create_container(&spec.create()?).await?;
    // Attached before it starts, so that nothing it says is missed.
    let attached = docker.attach(&id).await?;
    docker.start(&id).await?;
    Ok((id, attached))
}
