//! Who is connected, and how far they are.
//!
//! Each stream has an entry of its own with a lock of its own, which the stream and whoever looks at it share; what can be
//! worked out from the state machine is worked out when somebody looks, so that a push costs nothing for it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;

use super::rejection::{LogLimit, Rejection};
use crate::xds::snapshot::{Fleet, ResourceType, Snapshot, Version};
use crate::xds::stream::{AdsStream, Difference, Protocol, Scope};

/// The longest text kept of what a client says about itself, in bytes.
const MAX_TEXT: usize = 256;

/// The open streams of a server. Cheap to clone; every clone sees the same.
#[derive(Clone, Default)]
pub struct Connections(Arc<Mutex<Registry>>);

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("open", &lock(&self.0).open.len()).finish()
    }
}

struct Registry {
    last_id: u64,
    open: BTreeMap<u64, Arc<Mutex<Entry>>>,
    /// For all clients together.
    log_limit: LogLimit,
}

impl Default for Registry {
    fn default() -> Self {
        Self { last_id: 0, open: BTreeMap::new(), log_limit: LogLimit::new(50, Duration::from_millis(200)) }
    }
}

/// One open stream.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// `node.id` as the client says it: not to be trusted, cut to 256 bytes, control characters escaped.
    pub node_id: String,
    /// `node.cluster` as the client says it, cut and escaped likewise.
    pub node_cluster: String,
    /// Name and version of the client, such as `envoy 1.40.0`; empty when it does not say.
    pub user_agent: String,
    /// Where it is: region, zone and sub-zone as the client says them, joined by `/`; empty when it does not say.
    pub locality: String,
    /// When its first request arrived.
    pub connected_since: SystemTime,
    /// The variant it speaks.
    pub protocol: Protocol,
    /// What the stream is for.
    pub scope: Scope,
    /// By type, in the order of [`ResourceType::ALL`].
    pub types: [TypeStatus; ResourceType::COUNT],
    /// The client has ACKed everything it subscribes to of the snapshot of `generation`.
    pub converged: bool,
    /// The client has asked for all that it needs to serve the listeners it holds.
    pub complete: bool,
    /// The generation of the fleet this status is about.
    pub generation: u64,
    /// The latest generation of which the client had everything; 0 when there was none.
    pub held_generation: u64,
}

impl NodeStatus {
    /// The status of one type.
    pub fn of_type(&self, ty: ResourceType) -> &TypeStatus {
        &self.types[ty.index()]
    }

    /// Whether the client has all it should of this generation, or of a later one, and is in a state to serve it.
    pub fn holds(&self, generation: u64) -> bool {
        let has_begun = match self.scope {
            Scope::Aggregated => self.of_type(ResourceType::Listener).subscribed,
            Scope::Single(ty) => self.of_type(ty).subscribed,
        };
        has_begun && self.converged && self.complete && self.generation >= generation
    }

    /// The rejections that stand, by type.
    pub fn rejections(&self) -> impl Iterator<Item = (ResourceType, &Rejection)> {
        let types = ResourceType::ALL.into_iter().zip(&self.types);
        types.filter_map(|(ty, status)| Some((ty, status.rejection.as_deref()?)))
    }
}

/// How far a stream is with one type.
#[derive(Debug, Clone, Default)]
pub struct TypeStatus {
    /// The client has asked for this type.
    pub subscribed: bool,
    /// Responses sent.
    pub sent: u64,
    /// Responses accepted.
    pub acked: u64,
    /// Responses rejected.
    pub nacked: u64,
    /// Responses that wait to be sent, or to be accepted or rejected.
    pub unanswered: u64,
    /// The version of the set that the client has accepted last, or has brought along; `None` when there is none.
    pub version: Option<Version>,
    /// The latest rejection; gone once any of what was rejected has been replaced.
    pub rejection: Option<Arc<Rejection>>,
    /// Everything the client subscribes to of the current snapshot has been ACKed.
    pub converged: bool,
}

/// What a stream and those who look at it share.
pub(super) struct Entry {
    /// What there is to tell, but for what the machine knows.
    pub(super) status: NodeStatus,
    /// The protocol.
    pub(super) machine: AdsStream,
    /// Which part of the fleet it is given.
    assigned: Box<str>,
    /// The snapshot for which all routes were found to be asked for, so that this is looked at once.
    complete_for: Weak<Snapshot>,
}

impl Entry {
    /// Notes that the machine has been told all of `generation`.
    pub(super) fn at_generation(&mut self, generation: u64) {
        self.status.generation = generation;
        self.note_held();
    }

    /// Notes which generation the client has all of, after anything that may have changed that.
    pub(super) fn note_held(&mut self) {
        if self.status.held_generation < self.status.generation && self.is_converged() {
            self.status.held_generation = self.status.generation;
        }
    }

    /// Notes that a response was sent. What is rejected next is news, even in the same words, when it has been replaced.
    pub(super) fn note_sent(&mut self, ty: ResourceType) {
        let status = &mut self.status.types[ty.index()];
        status.sent += 1;
        if status.rejection.is_some() && !self.machine.is_rejecting(ty) {
            status.rejection = None;
        }
    }

    /// Whether the client has ACKed everything it subscribes to.
    pub(super) fn is_converged(&self) -> bool {
        ResourceType::ALL.into_iter().all(|ty| self.machine.is_converged(ty))
    }

    /// The status, completed by what the machine knows.
    fn status(&mut self) -> NodeStatus {
        let mut status = self.status.clone();
        for (ty, of_type) in ResourceType::ALL.into_iter().zip(&mut status.types) {
            of_type.subscribed = self.machine.is_asked(ty);
            of_type.converged = self.machine.is_converged(ty);
            of_type.unanswered = self.machine.unanswered(ty) as u64;
            if of_type.subscribed && of_type.converged {
                of_type.version = Some(self.machine.target().of_type(ty).version());
            }
            if !self.machine.rejection_stands(ty) {
                of_type.rejection = None;
            }
        }
        status.converged = status.types.iter().all(|of_type| of_type.converged);
        status.complete = self.is_complete();
        status
    }

    fn is_complete(&mut self) -> bool {
        let target = self.machine.target();
        if self.complete_for.as_ptr() == Arc::as_ptr(target) {
            return true;
        }
        let complete = self.machine.has_asked_for_routes();
        if complete {
            self.complete_for = Arc::downgrade(target);
        }
        complete
    }
}

impl Connections {
    /// Every open stream, oldest first. A client with several streams is there several times.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        self.entries().iter().map(|entry| lock(entry).status()).collect()
    }

    /// In what each stream of this client differs from what it should hold of `fleet`; empty when no such client is
    /// connected. `node_id` is what [`NodeStatus::node_id`] says.
    pub fn differences(&self, node_id: &str, fleet: &Fleet) -> Vec<(NodeStatus, Vec<Difference>)> {
        let of_stream = |entry: &Arc<Mutex<Entry>>| {
            let mut entry = lock(entry);
            let is_it = entry.status.node_id == node_id;
            is_it.then(|| (entry.status(), entry.machine.differences(&fleet.of(&entry.assigned))))
        };
        self.entries().iter().filter_map(of_stream).collect()
    }

    /// Whether a client may cause another line in the log, all of them taken together: if so, how many were left out.
    pub(super) fn may_log(&self) -> Option<u64> {
        lock(&self.0).log_limit.take(Instant::now())
    }

    /// Shows `look` each open stream.
    pub(super) fn each(&self, mut look: impl FnMut(&Entry)) {
        for entry in self.entries() {
            look(&lock(&entry));
        }
    }

    fn entries(&self) -> Vec<Arc<Mutex<Entry>>> {
        lock(&self.0).open.values().cloned().collect()
    }

    /// Enters a stream, whose client is given what `assigned` may have; it is there until the answer is dropped.
    pub(super) fn enter(&self, node: &Node, assigned: &str, scope: Scope, machine: AdsStream) -> Connection {
        let status = NodeStatus {
            node_id: escaped(&node.id, MAX_TEXT),
            node_cluster: escaped(&node.cluster, MAX_TEXT),
            user_agent: escaped(&user_agent(node), MAX_TEXT),
            locality: escaped(&locality(node), MAX_TEXT),
            connected_since: SystemTime::now(),
            protocol: machine.protocol(),
            scope,
            types: Default::default(),
            converged: false,
            complete: false,
            generation: 0,
            held_generation: 0,
        };
        let entry = Entry { status, machine, assigned: assigned.into(), complete_for: Weak::new() };
        let entry = Arc::new(Mutex::new(entry));
        let mut registry = lock(&self.0);
        registry.last_id += 1;
        let id = registry.last_id;
        registry.open.insert(id, entry.clone());
        Connection { id, entry, connections: self.clone() }
    }
}

/// A stream's own entry.
pub(super) struct Connection {
    id: u64,
    entry: Arc<Mutex<Entry>>,
    connections: Connections,
}

impl Connection {
    /// Changes the entry; nobody else can see a half-made change.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Entry) -> T) -> T {
        change(&mut lock(&self.entry))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&self.connections.0).open.remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds a lock here can panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn user_agent(node: &Node) -> String {
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => match &build.version {
            Some(v) => format!("{}.{}.{}", v.major_number, v.minor_number, v.patch),
            None => String::new(),
        },
        None => String::new(),
    };
    format!("{} {version}", node.user_agent_name).trim().to_owned()
}

fn locality(node: &Node) -> String {
    let Some(locality) = &node.locality else { return String::new() };
    let parts = [&*locality.region, &*locality.zone, &*locality.sub_zone];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

/// Text of a client, fit for a log line or a terminal: without characters that drive or deceive it, and at most `max` bytes.
pub(super) fn escaped(text: &str, max: usize) -> String {
    let mut out = String::new();
    for c in text.chars() {
        // Also the marks that reorder or hide what follows them on a screen.
        let deceives =
            matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        let escaped = if c.is_control() || deceives { c.escape_default().to_string() } else { c.to_string() };
        if out.len() + escaped.len() > max.saturating_sub('…'.len_utf8()) {
            out.push('…');
            break;
        }
        out.push_str(&escaped);
    }
    out
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::Locality;

    use super::*;

    #[test]
    fn untrusted_text_is_escaped_and_bounded() {
        assert_eq!(escaped("a\nb\u{1b}[31m\u{202e}", 100), "a\\nb\\u{1b}[31m\\u{202e}");
        let long = escaped(&"é\n".repeat(1000), 512);
        assert!(long.len() <= 512 && long.ends_with('…'), "{long}");
    }

    #[test]
    fn a_stream_is_listed_until_it_ends() {
        let connections = Connections::default();
        let locality = Locality { region: "eu".into(), zone: "eu-1a".into(), ..Default::default() };
        let node = Node { id: "a".into(), cluster: "edge".into(), locality: Some(locality), ..Default::default() };
        let enter = |protocol| {
            let machine = AdsStream::new(protocol, Scope::Aggregated, Snapshot::empty());
            connections.enter(&node, &node.cluster, Scope::Aggregated, machine)
        };
        let (first, second) = (enter(Protocol::Delta), enter(Protocol::Sotw));
        second.update(|entry| entry.at_generation(7));
        let listed = connections.nodes();
        let told = |n: &NodeStatus| (n.node_id.clone(), n.protocol, n.generation, n.held_generation);
        let expected = [("a".to_owned(), Protocol::Delta, 0, 0), ("a".to_owned(), Protocol::Sotw, 7, 7)];
        assert_eq!(listed.iter().map(told).collect::<Vec<_>>(), expected);
        assert_eq!(listed[0].locality, "eu/eu-1a");
        assert!(!listed[1].holds(7), "it has not asked for anything yet");
        drop(first);
        assert_eq!(connections.nodes().len(), 1);
        drop(second);
        assert!(connections.nodes().is_empty());
    }
}
