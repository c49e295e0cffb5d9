//! One gRPC stream: waits for requests and fleet changes, and hands out what the state machine answers.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use futures_util::Stream;
use tokio::sync::watch;
use tokio::time::Sleep;
use tonic::{Status, Streaming};

use super::Shared;
use super::connections::{Connection, Rejection, escaped};
use crate::xds::encode;
use crate::xds::snapshot::{Fleet, LOCAL_CLUSTER, Resource, ResourceType, Snapshot};
use crate::xds::stream::{AdsStream, Event, Output, Protocol, ProtocolError, Response, Scope};

/// The longest message of a NACK that is kept, in bytes.
const MAX_MESSAGE: usize = 512;

/// A request of one of the two variants.
pub(super) trait Request: prost::Message + Default + 'static {
    const PROTOCOL: Protocol;

    /// Who asks; only the first request of a stream has to say.
    fn node(&self) -> Option<&Node>;

    /// Gives the request to the machine.
    fn give_to(self, machine: &mut AdsStream) -> Result<Output, ProtocolError>;
}

impl Request for DeltaDiscoveryRequest {
    const PROTOCOL: Protocol = Protocol::Delta;

    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn give_to(self, machine: &mut AdsStream) -> Result<Output, ProtocolError> {
        machine.on_delta(self)
    }
}

impl Request for DiscoveryRequest {
    const PROTOCOL: Protocol = Protocol::Sotw;

    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn give_to(self, machine: &mut AdsStream) -> Result<Output, ProtocolError> {
        machine.on_sotw(self)
    }
}

impl From<ProtocolError> for Status {
    fn from(error: ProtocolError) -> Self {
        match error {
            ProtocolError::NoType | ProtocolError::WrongType { .. } => Self::invalid_argument(error.to_string()),
            ProtocolError::ResourceExhausted { .. } => Self::resource_exhausted(error.to_string()),
        }
    }
}

/// A stream and what it waits for.
pub(super) struct Session<R> {
    shared: Arc<Shared>,
    scope: Scope,
    requests: Streaming<R>,
    fleet: watch::Receiver<Arc<Fleet>>,
    /// The sender of the fleet is still there.
    fleet_is_live: bool,
    /// `None` until the first request.
    peer: Option<Peer>,
    queue: VecDeque<Response>,
    is_over: bool,
}

/// The client, once it has said who it is.
struct Peer {
    node_cluster: String,
    snapshot: Arc<Snapshot>,
    /// The generation of the fleet that `snapshot` is of.
    generation: u64,
    machine: AdsStream,
    connection: Connection,
    gauge: prometheus::IntGauge,
    /// When responses were sent that have not been answered.
    sent_at: Vec<(u64, Instant)>,
    /// It is known that the client resumed a session, and the check is set or done.
    is_resume_noticed: bool,
    /// When to check whether a client that resumed a session asked for everything again.
    resume_check: Option<Pin<Box<Sleep>>>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// What a session waits for.
enum Wakeup<R> {
    Request(Result<Option<R>, Status>),
    Fleet(bool),
    ResumeCheck,
}

impl<R: Request> Session<R> {
    pub(super) fn new(shared: Arc<Shared>, scope: Scope, requests: Streaming<R>) -> Self {
        let fleet = shared.fleet.clone();
        let queue = VecDeque::new();
        Self { shared, scope, requests, fleet, fleet_is_live: true, peer: None, queue, is_over: false }
    }

    /// The responses of this stream, until the client ends it or breaks the protocol.
    pub(super) fn responses(self) -> impl Stream<Item = Result<Response, Status>> + Send {
        futures_util::stream::unfold(self, |mut session| async move {
            let next = session.next().await?;
            session.is_over = next.is_err();
            Some((next, session))
        })
    }

    async fn next(&mut self) -> Option<Result<Response, Status>> {
        while !self.is_over {
            if let Some(response) = self.queue.pop_front() {
                self.note_sent(&response);
                return Some(Ok(response));
            }
            let step = match self.wait().await {
                Wakeup::Request(Ok(Some(request))) => {
                    if self.peer.is_none() && request.node().is_none_or(|node| node.cluster != LOCAL_CLUSTER) {
                        self.shared.admission.admit().await;
                    }
                    self.on_request(request)
                }
                Wakeup::Request(Ok(None)) => return None,
                Wakeup::Request(Err(status)) => Err(status),
                Wakeup::Fleet(is_live) => {
                    self.fleet_is_live = is_live;
                    self.on_fleet();
                    Ok(())
                }
                Wakeup::ResumeCheck => self.check_resumed(),
            };
            if let Err(status) = step {
                return Some(Err(status));
            }
        }
        None
    }

    async fn wait(&mut self) -> Wakeup<R> {
        // Before the first request there is no client the fleet could concern.
        let watches_fleet = self.fleet_is_live && self.peer.is_some();
        let resume_check = self.peer.as_mut().and_then(|peer| peer.resume_check.as_mut());
        tokio::select! {
            request = self.requests.message() => Wakeup::Request(request),
            changed = self.fleet.changed(), if watches_fleet => Wakeup::Fleet(changed.is_ok()),
            () = until(resume_check) => Wakeup::ResumeCheck,
        }
    }

    fn on_request(&mut self, request: R) -> Result<(), Status> {
        let peer = match &mut self.peer {
            Some(peer) => peer,
            None => {
                let node = request.node().ok_or_else(|| {
                    Status::invalid_argument("the first request of a stream must have a node: who is asking?")
                })?;
                let fleet = self.fleet.borrow_and_update().clone();
                self.peer.insert(Peer::new::<R>(&self.shared, self.scope, node, &fleet))
            }
        };
        let output = request.give_to(&mut peer.machine)?;
        if peer.machine.is_resumed() && !std::mem::replace(&mut peer.is_resume_noticed, true) {
            peer.resume_check = Some(Box::pin(tokio::time::sleep(self.shared.resume_grace)));
        }
        self.take(output);
        Ok(())
    }

    fn on_fleet(&mut self) {
        let Some(peer) = &mut self.peer else { return };
        let fleet = self.fleet.borrow_and_update().clone();
        let snapshot = fleet.of(&peer.node_cluster);
        peer.generation = fleet.generation;
        let is_same = Arc::ptr_eq(&snapshot, &peer.snapshot);
        let output = if is_same { Output::default() } else { peer.machine.on_snapshot(snapshot.clone()) };
        peer.snapshot = snapshot;
        self.take(output);
    }

    fn check_resumed(&mut self) -> Result<(), Status> {
        let Some(peer) = &mut self.peer else { return Ok(()) };
        peer.resume_check = None;
        let Some(ty) = peer.machine.forgotten() else {
            let output = peer.machine.end_resumption();
            self.take(output);
            return Ok(());
        };
        let node = peer.connection.update(|status| status.node_id.clone());
        tracing::warn!(
            node,
            r#type = ty.label(),
            "resumed its session without asking for this type: starting it afresh"
        );
        Err(Status::unavailable(format!("the session was resumed without asking for any {} again", ty.label())))
    }

    /// Counts and logs what happened, and queues what is to be sent.
    fn take(&mut self, output: Output) {
        let Some(peer) = &mut self.peer else { return };
        for event in output.events {
            peer.note(event, &self.shared);
        }
        peer.note_progress();
        self.queue.extend(output.responses);
    }

    fn note_sent(&mut self, response: &Response) {
        let Some(peer) = &mut self.peer else { return };
        peer.sent_at.push((response.nonce, Instant::now()));
        peer.connection.update(|status| status.types[response.ty.index()].sent += 1);
        let metrics = self.shared.metrics.of_type(response.ty);
        metrics.pushes.inc();
        metrics.sent_bytes.inc_by(encode::encoded_len(response, &self.shared.identifier) as u64);
    }
}

/// Waits for the timer, or for ever.
async fn until(timer: Option<&mut Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.as_mut().await,
        None => std::future::pending().await,
    }
}

impl Peer {
    fn new<R: Request>(shared: &Shared, scope: Scope, node: &Node, fleet: &Fleet) -> Self {
        let snapshot = fleet.of(&node.cluster);
        let connection = shared.connections.enter(node, R::PROTOCOL, scope);
        connection.update(|status| {
            tracing::debug!(node = status.node_id, cluster = status.node_cluster, scope = scope.label(), "connected");
        });
        let gauge = shared.metrics.streams(R::PROTOCOL, scope);
        gauge.inc();
        Self {
            node_cluster: node.cluster.clone(),
            machine: AdsStream::new(R::PROTOCOL, scope, snapshot.clone()),
            snapshot,
            generation: fleet.generation,
            connection,
            gauge,
            sent_at: Vec::new(),
            is_resume_noticed: false,
            resume_check: None,
        }
    }

    fn note(&mut self, event: Event, shared: &Shared) {
        match event {
            Event::Ack { ty, nonce } => {
                let metrics = shared.metrics.of_type(ty);
                metrics.acks.inc();
                if let Some(sent_at) = self.answered(nonce) {
                    metrics.push_to_ack.observe(sent_at.elapsed().as_secs_f64());
                }
                self.connection.update(|status| status.types[ty.index()].acked += 1);
            }
            Event::Nack { ty, nonce, message, resources } => {
                shared.metrics.of_type(ty).nacks.inc();
                self.answered(nonce);
                self.note_rejection(ty, &message, &resources);
            }
            Event::Ignored { type_url } => {
                let node = self.connection.update(|status| status.node_id.clone());
                tracing::debug!(node, type_url = escaped(&type_url, MAX_MESSAGE), "ignored a type that is not served");
            }
            Event::Unavailable { ty, name, reason } => {
                tracing::error!(r#type = ty.label(), name = &*name, reason = &*reason, "could not be produced");
            }
        }
    }

    fn note_rejection(&mut self, ty: ResourceType, message: &str, resources: &[Arc<Resource>]) {
        let rejection =
            Rejection { message: escaped(message, MAX_MESSAGE).into(), origins: origins(message, resources) };
        let (node, is_news) = self.connection.update(|status| {
            let node = status.node_id.clone();
            let status = &mut status.types[ty.index()];
            status.nacked += 1;
            (node, status.rejection.replace(rejection.clone()).as_ref() != Some(&rejection))
        });
        // A client that rejects the same over and over does not get to fill the log.
        if is_news {
            let lines: Vec<_> = rejection.origins.iter().map(ToString::to_string).collect();
            let (message, origin) = (&*rejection.message, lines.join(", "));
            tracing::warn!(node, r#type = ty.label(), origin, "Envoy rejected the configuration: {message}");
        }
    }

    /// When the response was sent.
    fn answered(&mut self, nonce: u64) -> Option<Instant> {
        let index = self.sent_at.iter().position(|(sent, _)| *sent == nonce)?;
        Some(self.sent_at.swap_remove(index).1)
    }

    fn note_progress(&mut self) {
        let (machine, generation) = (&self.machine, self.generation);
        self.connection.update(|status| {
            for (ty, status) in ResourceType::ALL.into_iter().zip(&mut status.types) {
                status.subscribed = machine.is_asked(ty);
                status.converged = machine.is_converged(ty);
                if !machine.is_rejecting(ty) {
                    status.rejection = None;
                }
            }
            status.generation = generation;
            status.converged = status.types.iter().all(|ty| ty.converged);
        });
    }
}

/// The lines of the resources that the message names; of all of them when it names none and there is only one.
fn origins(message: &str, resources: &[Arc<Resource>]) -> Vec<crate::domain::policy::Origin> {
    let named = resources.iter().filter(|resource| resources.len() == 1 || message.contains(&**resource.name()));
    let mut origins: Vec<_> = named.filter_map(|resource| resource.origin().cloned()).collect();
    origins.sort();
    origins.dedup();
    origins.truncate(16);
    origins
}
