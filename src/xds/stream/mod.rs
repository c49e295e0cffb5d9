//! The xDS transport protocol for one gRPC stream, as a pure state machine: requests and snapshots in, responses out.
//!
//! ```text
//!   on_delta / on_sotw ──▶ subscription changes ──▶ answers, at once            ┐
//!          │                                                                    ├─▶ Output
//!          └─ ACK, NACK ──▶ what the client holds ──▶ push: one at a time,      ┘
//!   on_snapshot ─────────▶ (`behind`: where that       in an order that breaks
//!                           is not the target)         nothing (make before break)
//! ```
//!
//! The rules:
//!
//! - An *answer* to a changed subscription does not wait for ACKs. A *push* of a newer snapshot waits for the ACK or NACK of the
//!   previous push of its type; snapshots that come meanwhile coalesce to the latest.
//!   On an aggregated stream an answer leaves out what refers to something the client has not been sent yet: a push follows.
//! - After a NACK nothing is sent again until its content changes. Then everything that was rejected is, for a rejected
//!   response takes its good parts with it. Other types go on.
//! - On an aggregated stream pushes go clusters, endpoints, listeners, routes, each once the one before is ACKed; removals
//!   come last. A NACK holds removals back, for what it would have replaced may still be in use.
//! - A client that resumes a session with clusters that are gone gives them up only after its routes.
//!
//! Spec: the "xDS REST and gRPC protocol" chapter of Envoy's documentation.

mod delta;
mod differences;
mod push;
mod sotw;
mod state;

use std::sync::Arc;

use envoy_types::pb::google::rpc::Status;

pub use self::differences::{Difference, Held};
use self::state::{InFlight, Sent, TypeState};
use super::resource::Prepared;
use super::snapshot::{Resource, ResourceType, Snapshot, TypeSet, Version};

/// The most names a stream may subscribe to, per type.
pub const MAX_NAMES: usize = 20_000;
/// The most names that exist on demand which a stream may hold, per type.
pub const MAX_ON_DEMAND: usize = 2048;
/// The longest resource name, in bytes.
pub const MAX_NAME_LEN: usize = 1024;
/// The most names in responses of one type that the client has not yet answered, each response counting as one more.
pub const MAX_UNANSWERED: usize = 4 * MAX_NAMES;
/// A delta response is split so that its resources do not exceed this, in bytes: gRPC clients take 4 MiB by default. A
/// single larger resource travels alone.
pub const MAX_RESPONSE_BYTES: usize = 3 << 20;

/// The two variants of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

impl Protocol {
    /// A short name for logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::Sotw => "sotw",
        }
    }
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All types (ADS).
    Aggregated,
    /// One type.
    Single(ResourceType),
}

impl Scope {
    /// A short name for logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Aggregated => "aggregated",
            Self::Single(ty) => ty.label(),
        }
    }
}

/// One message to the client; `encode` knows its wire form.
#[derive(Debug, Clone)]
pub struct Response {
    /// The variant it is for.
    pub protocol: Protocol,
    /// The type of its resources.
    pub ty: ResourceType,
    /// The version of the set it belongs to.
    pub version: Version,
    /// Unique in its stream, in decimal on the wire.
    pub nonce: u64,
    /// What to add or change; in state-of-the-world listener and cluster responses, everything.
    pub resources: Vec<Arc<Resource>>,
    /// What to remove; delta only.
    pub removed: Vec<Arc<str>>,
}

/// Something worth counting or logging.
#[derive(Debug, Clone)]
pub enum Event {
    /// The client accepted a response.
    Ack {
        /// The type.
        ty: ResourceType,
        /// The response's nonce.
        nonce: u64,
    },
    /// The client rejected a response.
    Nack {
        /// The type.
        ty: ResourceType,
        /// The response's nonce.
        nonce: u64,
        /// What the client said: untrusted text of any length.
        message: String,
        /// What was new to the client in that response.
        resources: Vec<Arc<Resource>>,
    },
    /// A request for a type that is not served here was ignored.
    Ignored {
        /// The type URL: untrusted text, cut to 256 bytes.
        type_url: String,
    },
    /// A resource could not be produced and counts as not existing.
    Unavailable {
        /// The type.
        ty: ResourceType,
        /// The name.
        name: Arc<str>,
        /// Why.
        reason: Arc<str>,
    },
}

/// What a step of the machine brings about.
#[derive(Debug, Default)]
pub struct Output {
    /// To be sent, in this order.
    pub responses: Vec<Response>,
    /// To be counted and logged.
    pub events: Vec<Event>,
}

/// Why a stream has to be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// An aggregated request that does not say what it wants.
    #[error("the request has no type_url")]
    NoType,
    /// A request for another type on a stream for one type.
    #[error("this stream serves {} only", .served.type_url())]
    WrongType {
        /// The type served.
        served: ResourceType,
    },
    /// More than the server is ready to keep for a client.
    #[error("{what} exceeds the limit of {limit}")]
    ResourceExhausted {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// The state of one stream. Small: what the client holds is kept as the difference to the snapshot it should hold.
#[derive(Debug)]
pub struct AdsStream {
    protocol: Protocol,
    scope: Scope,
    target: Arc<Snapshot>,
    types: [TypeState; ResourceType::COUNT],
    last_nonce: u64,
    /// The client came with state from an earlier stream.
    resumed: bool,
    /// It has had the time to ask for all types again.
    is_resumption_over: bool,
}

impl AdsStream {
    /// A stream whose client should come to hold what it asks for of `target`.
    pub fn new(protocol: Protocol, scope: Scope, target: Arc<Snapshot>) -> Self {
        Self {
            protocol,
            scope,
            target,
            types: Default::default(),
            last_nonce: 0,
            resumed: false,
            is_resumption_over: false,
        }
    }

    /// There is something newer for the client to hold.
    pub fn on_snapshot(&mut self, target: Arc<Snapshot>) -> Output {
        let mut output = Output::default();
        let old = std::mem::replace(&mut self.target, target);
        for ty in ResourceType::ALL {
            let (old, new) = (old.of_type(ty), self.target.of_type(ty));
            self.types[ty.index()].retarget(old, new);
        }
        self.renew_endpoints_alone(&old);
        self.advance(&mut output);
        output
    }

    /// Whether the client has asked for this type.
    pub fn is_asked(&self, ty: ResourceType) -> bool {
        self.state(ty).asked
    }

    /// Whether the client has ACKed everything it subscribes to, of one type.
    pub fn is_converged(&self, ty: ResourceType) -> bool {
        self.state(ty).behind.is_empty() && self.state(ty).in_flight.is_empty()
    }

    /// Whether the client has rejected something of this type that has not been replaced since.
    pub fn is_rejecting(&self, ty: ResourceType) -> bool {
        self.state(ty).is_rejecting()
    }

    /// Whether the client came with state from an earlier stream.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// A type that a client which resumed an earlier session never asked for again, although it holds resources that need
    /// it. Some Envoys do that and then never hear of that type again; closing the stream makes them start afresh.
    pub fn forgotten(&self) -> Option<ResourceType> {
        if !self.resumed || self.scope != Scope::Aggregated {
            return None;
        }
        let held = ResourceType::ALL.into_iter().filter(|ty| self.is_asked(*ty)).flat_map(|ty| self.wanted(ty));
        held.flat_map(|resource| resource.refers_to()).map(|(ty, _)| *ty).find(|ty| !self.is_asked(*ty))
    }

    /// A client that resumed an earlier session has had the time to ask for everything again: what waits for the types it has
    /// not asked for waits no longer.
    pub fn end_resumption(&mut self) -> Output {
        let mut output = Output::default();
        self.is_resumption_over = true;
        self.advance(&mut output);
        output
    }

    /// Whether the client has resumed an earlier session and has yet to ask for what may use the clusters it holds.
    fn is_resuming(&self) -> bool {
        if !self.resumed || self.is_resumption_over || self.scope != Scope::Aggregated {
            return false;
        }
        let has_routes =
            |listener: &Arc<Resource>| listener.refers_to().iter().any(|(ty, _)| *ty == ResourceType::Route);
        !self.is_asked(ResourceType::Listener)
            || !self.is_asked(ResourceType::Route) && self.wanted(ResourceType::Listener).any(has_routes)
    }

    /// What the client subscribes to and should hold.
    fn wanted(&self, ty: ResourceType) -> impl Iterator<Item = &Arc<Resource>> {
        let state = self.state(ty);
        self.target.of_type(ty).iter().filter(|resource| state.subscribes(resource.name()))
    }

    fn state(&self, ty: ResourceType) -> &TypeState {
        &self.types[ty.index()]
    }

    fn state_mut(&mut self, ty: ResourceType) -> &mut TypeState {
        &mut self.types[ty.index()]
    }

    /// A changed cluster warms again in Envoy, which takes an EDS response even when its endpoints are the same.
    fn renew_endpoints(&mut self, clusters: &[Arc<Resource>]) {
        let endpoints = &mut self.types[ResourceType::Endpoint.index()];
        for (ty, name) in clusters.iter().flat_map(|cluster| cluster.refers_to()) {
            if *ty == ResourceType::Endpoint && endpoints.subscribes(name) {
                endpoints.renew(name.clone(), self.last_nonce);
            }
        }
    }

    /// The same on a stream for endpoints alone, which knows nothing of what is sent on that for clusters.
    fn renew_endpoints_alone(&mut self, old: &Snapshot) {
        if self.scope == Scope::Single(ResourceType::Endpoint) {
            let (old, new) = (old.of_type(ResourceType::Cluster), self.target.of_type(ResourceType::Cluster));
            let changed: Vec<_> = new.changes_since(old).iter().filter_map(|name| new.get(name)).collect();
            self.renew_endpoints(&changed);
        }
    }

    /// Whether a resource refers to a cluster that the client wants but has not been sent yet.
    fn is_premature(&self, resource: &Resource) -> bool {
        let (state, set) = (self.state(ResourceType::Cluster), self.target.of_type(ResourceType::Cluster));
        let mut clusters = resource.refers_to().iter().filter(|(ty, _)| *ty == ResourceType::Cluster);
        self.scope == Scope::Aggregated && clusters.any(|(_, name)| state.lacks(set, name))
    }

    /// The type a request is about; `None` when it is to be ignored.
    fn requested_type(&self, type_url: &str, output: &mut Output) -> Result<Option<ResourceType>, ProtocolError> {
        match self.scope {
            Scope::Single(ty) if type_url.is_empty() || type_url == ty.type_url() => Ok(Some(ty)),
            Scope::Single(served) => Err(ProtocolError::WrongType { served }),
            Scope::Aggregated if type_url.is_empty() => Err(ProtocolError::NoType),
            Scope::Aggregated => {
                let ty = ResourceType::from_type_url(type_url);
                if ty.is_none() {
                    let type_url = type_url.chars().take(64).collect();
                    output.events.push(Event::Ignored { type_url });
                }
                Ok(ty)
            }
        }
    }

    /// Takes the client's verdict on a response.
    fn resolve(&mut self, ty: ResourceType, entry: InFlight, error: Option<Status>, output: &mut Output) {
        let nonce = entry.nonce;
        let set = self.target.of_type(ty);
        let state = &mut self.types[ty.index()];
        match error {
            None => {
                state.accept(set, entry);
                output.events.push(Event::Ack { ty, nonce });
            }
            Some(status) => {
                let resources = entry.sent.iter().filter_map(|sent| sent.resource.clone()).collect();
                state.reject(set, entry);
                output.events.push(Event::Nack { ty, nonce, message: status.message, resources });
            }
        }
    }

    /// Notes a response as sent and hands it out.
    fn send(&mut self, ty: ResourceType, message: Message, output: &mut Output) {
        let Message { version, resources, removed, sent, is_push, is_retry } = message;
        self.last_nonce += 1;
        let nonce = self.last_nonce;
        let state = self.state_mut(ty);
        state.last_nonce = nonce;
        state.in_flight.push(InFlight { nonce, is_push, is_retry, sent });
        output.responses.push(Response { protocol: self.protocol, ty, version, nonce, resources, removed });
    }
}

/// A response before it has a nonce.
struct Message {
    version: Version,
    resources: Vec<Arc<Resource>>,
    removed: Vec<Arc<str>>,
    /// What is new to the client in it.
    sent: Vec<Sent>,
    /// Driven by a snapshot, not by a subscription.
    is_push: bool,
    /// The client has rejected some of it before.
    is_retry: bool,
}

/// The resource of this name, produced if need be; one that cannot be produced does not exist.
fn usable(set: &TypeSet, name: &str, events: &mut Vec<Event>) -> Option<Arc<Resource>> {
    let resource = set.get(name)?;
    if let Prepared::Failed { reason, first } = resource.prepare() {
        if first {
            let (ty, name) = (resource.ty(), resource.name().clone());
            events.push(Event::Unavailable { ty, name, reason: reason.clone() });
        }
        return None;
    }
    Some(resource)
}

#[cfg(test)]
mod tests;
