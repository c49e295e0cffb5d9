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
use tonic::Status;

use super::Shared;
use super::connections::{Connection, escaped};
use super::identity;
use super::rejection::{LogLimit, Rejection};
use super::requests::Requests;
use crate::domain::node::NodeIdentity;
use crate::xds::encode;
use crate::xds::snapshot::{Fleet, LOCAL_CLUSTER, ResourceType, Snapshot, Version};
use crate::xds::stream::{AdsStream, Event, Output, Protocol, ProtocolError, Response, Scope};

/// The longest type URL that is logged, in bytes.
const MAX_TYPE_URL: usize = 128;
/// Rejections of one client that are logged at once, and how long it takes until another one may be.
const LOGGED: (u32, std::time::Duration) = (4, std::time::Duration::from_secs(10));

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
    /// Who the connection is authenticated as; `None` on the socket that only this user reaches.
    identity: Option<NodeIdentity>,
    requests: Requests<R>,
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
    /// When the edit was published that the client is being told; `None` when it has all of it.
    published: Option<Instant>,
    /// The machine is in there, for others to look at.
    connection: Connection,
    gauge: prometheus::IntGauge,
    /// The responses that have not been answered.
    unanswered: Vec<Unanswered>,
    log_limit: LogLimit,
    /// It is known that the client resumed a session, and the check is set or done.
    is_resume_noticed: bool,
    /// When to check whether a client that resumed a session asked for everything again.
    resume_check: Option<Pin<Box<Sleep>>>,
}

/// A response that was sent.
struct Unanswered {
    nonce: u64,
    version: Version,
    sent_at: Instant,
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
    pub(super) fn new(
        shared: Arc<Shared>,
        scope: Scope,
        identity: Option<NodeIdentity>,
        requests: Requests<R>,
    ) -> Self {
        let fleet = shared.fleet.clone();
        let queue = VecDeque::new();
        Self { shared, scope, identity, requests, fleet, fleet_is_live: true, peer: None, queue, is_over: false }
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
            request = self.requests.next() => Wakeup::Request(request),
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
                identity::check(self.identity.as_ref(), node)?;
                let fleet = self.fleet.borrow_and_update().clone();
                self.peer.insert(Peer::new::<R>(&self.shared, self.scope, node, &fleet))
            }
        };
        let begun = Instant::now();
        let (output, is_resumed) = peer.connection.update(|entry| {
            let output = request.give_to(&mut entry.machine)?;
            entry.note_held();
            Ok::<_, ProtocolError>((output, entry.machine.is_resumed()))
        })?;
        if is_resumed && !std::mem::replace(&mut peer.is_resume_noticed, true) {
            peer.resume_check = Some(Box::pin(tokio::time::sleep(self.shared.resume_grace)));
        }
        self.take(output, begun);
        Ok(())
    }

    fn on_fleet(&mut self) {
        let Some(peer) = &mut self.peer else { return };
        let fleet = self.fleet.borrow_and_update().clone();
        let snapshot = fleet.of(&peer.node_cluster);
        let is_same = Arc::ptr_eq(&snapshot, &peer.snapshot);
        if !is_same {
            peer.published = Some(fleet.published);
        }
        let begun = Instant::now();
        // In one step, so that nobody sees the new generation with what is left of the old one.
        let output = peer.connection.update(|entry| {
            let output = if is_same { Output::default() } else { entry.machine.on_snapshot(snapshot.clone()) };
            entry.at_generation(fleet.generation);
            output
        });
        peer.snapshot = snapshot;
        self.take(output, begun);
    }

    fn check_resumed(&mut self) -> Result<(), Status> {
        let Some(peer) = &mut self.peer else { return Ok(()) };
        peer.resume_check = None;
        let Some(ty) = peer.connection.update(|entry| entry.machine.forgotten()) else {
            let begun = Instant::now();
            let output = peer.connection.update(|entry| entry.machine.end_resumption());
            self.take(output, begun);
            return Ok(());
        };
        let node = peer.node_id();
        tracing::warn!(
            node,
            r#type = ty.label(),
            "resumed its session without asking for this type: starting it afresh"
        );
        Err(Status::unavailable(format!("the session was resumed without asking for any {} again", ty.label())))
    }

    /// Counts and logs what happened, and queues what is to be sent.
    fn take(&mut self, output: Output, begun: Instant) {
        let Some(peer) = &mut self.peer else { return };
        if !output.responses.is_empty() {
            self.shared.metrics.encode().observe(begun.elapsed().as_secs_f64());
        }
        for event in output.events {
            peer.note(event, &self.shared);
        }
        self.queue.extend(output.responses);
    }

    fn note_sent(&mut self, response: &Response) {
        let Some(peer) = &mut self.peer else { return };
        peer.unanswered.push(Unanswered { nonce: response.nonce, version: response.version, sent_at: Instant::now() });
        peer.connection.update(|entry| entry.note_sent(response.ty));
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
        let machine = AdsStream::new(R::PROTOCOL, scope, snapshot.clone());
        let connection = shared.connections.enter(node, &node.cluster, scope, machine);
        connection.update(|entry| {
            entry.at_generation(fleet.generation);
            let (node, cluster) = (&entry.status.node_id, &entry.status.node_cluster);
            tracing::debug!(node, cluster, scope = scope.label(), "connected");
        });
        let gauge = shared.metrics.streams(R::PROTOCOL, scope);
        gauge.inc();
        Self {
            node_cluster: node.cluster.clone(),
            snapshot,
            published: None,
            connection,
            gauge,
            unanswered: Vec::new(),
            log_limit: LogLimit::new(LOGGED.0, LOGGED.1),
            is_resume_noticed: false,
            resume_check: None,
        }
    }

    fn node_id(&self) -> String {
        self.connection.update(|entry| entry.status.node_id.clone())
    }

    fn note(&mut self, event: Event, shared: &Shared) {
        match event {
            Event::Ack { ty, nonce } => {
                let metrics = shared.metrics.of_type(ty);
                metrics.acks.inc();
                let answered = self.answered(nonce);
                if let Some(answered) = &answered {
                    metrics.push_to_ack.observe(answered.sent_at.elapsed().as_secs_f64());
                }
                let has_all = self.connection.update(|entry| {
                    let status = &mut entry.status.types[ty.index()];
                    status.acked += 1;
                    status.version = answered.as_ref().map(|answered| answered.version).or(status.version);
                    entry.is_converged()
                });
                if let (Some(published), Some(answered)) = (self.published, answered)
                    && answered.sent_at >= published
                {
                    metrics.edit_to_ack.observe(published.elapsed().as_secs_f64());
                }
                if has_all {
                    self.published = None;
                }
            }
            Event::Nack { ty, nonce, message, resources } => {
                shared.metrics.of_type(ty).nacks.inc();
                self.answered(nonce);
                self.note_rejection(ty, &Rejection::new(&message, &resources), shared);
            }
            Event::Ignored { type_url } => {
                let type_url = escaped(&type_url, MAX_TYPE_URL);
                tracing::debug!(node = self.node_id(), type_url, "ignored a type that is not served");
            }
            Event::Unavailable { ty, name, reason } => {
                tracing::error!(r#type = ty.label(), name = &*name, reason = &*reason, "could not be produced");
            }
        }
    }

    fn note_rejection(&mut self, ty: ResourceType, rejection: &Rejection, shared: &Shared) {
        let (node, is_news) = self.connection.update(|entry| {
            let status = &mut entry.status.types[ty.index()];
            status.nacked += 1;
            let is_news = status.rejection.as_deref() != Some(rejection);
            status.rejection = Some(Arc::new(rejection.clone()));
            (entry.status.node_id.clone(), is_news)
        });
        // A client that rejects the same over and over does not get to fill the log, nor do many of them.
        if !is_news {
            return;
        }
        let left_out = self.log_limit.take(Instant::now());
        if let Some((own, all)) = left_out.and_then(|own| Some((own, shared.connections.may_log()?))) {
            rejection.log(&node, ty, own + all);
        }
    }

    /// The response that was answered.
    fn answered(&mut self, nonce: u64) -> Option<Unanswered> {
        let index = self.unanswered.iter().position(|unanswered| unanswered.nonce == nonce)?;
        Some(self.unanswered.swap_remove(index))
    }
}
