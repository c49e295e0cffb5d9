//! Who is connected, and how far they are.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;

use crate::domain::policy::Origin;
use crate::xds::snapshot::ResourceType;
use crate::xds::stream::{Protocol, Scope};

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

#[derive(Default)]
struct Registry {
    last_id: u64,
    open: BTreeMap<u64, Arc<Mutex<NodeStatus>>>,
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
    /// The generation of the fleet this status is about.
    pub generation: u64,
}

impl NodeStatus {
    /// The status of one type.
    pub fn of_type(&self, ty: ResourceType) -> &TypeStatus {
        &self.types[ty.index()]
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
    /// The latest rejection; gone once what was rejected has been replaced and sent.
    pub rejection: Option<Rejection>,
    /// Everything the client subscribes to of the current snapshot has been ACKed.
    pub converged: bool,
}

/// Why a client rejected a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// What the client said: cut to 512 bytes, control characters escaped.
    pub message: Arc<str>,
    /// The lines of the configuration that the rejected resources came from.
    pub origins: Vec<Origin>,
}

impl Connections {
    /// Every open stream, oldest first. A client with several streams is there several times.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let open: Vec<_> = lock(&self.0).open.values().cloned().collect();
        open.iter().map(|status| lock(status).clone()).collect()
    }

    /// Enters a stream; it is there until the answer is dropped.
    pub(super) fn enter(&self, node: &Node, protocol: Protocol, scope: Scope) -> Connection {
        let status = Arc::new(Mutex::new(NodeStatus {
            node_id: escaped(&node.id, MAX_TEXT),
            node_cluster: escaped(&node.cluster, MAX_TEXT),
            user_agent: escaped(&user_agent(node), MAX_TEXT),
            connected_since: SystemTime::now(),
            protocol,
            scope,
            types: Default::default(),
            converged: false,
            generation: 0,
        }));
        let mut registry = lock(&self.0);
        registry.last_id += 1;
        let id = registry.last_id;
        registry.open.insert(id, status.clone());
        Connection { id, status, connections: self.clone() }
    }
}

/// A stream's own entry.
pub(super) struct Connection {
    id: u64,
    status: Arc<Mutex<NodeStatus>>,
    connections: Connections,
}

impl Connection {
    /// Changes the entry; nobody else can see a half-made change.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut NodeStatus) -> T) -> T {
        change(&mut lock(&self.status))
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

/// Text of a client, fit for a log line or a terminal: without control characters, and at most `max` bytes.
pub(super) fn escaped(text: &str, max: usize) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let escaped = if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
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
    use super::*;

    #[test]
    fn untrusted_text_is_escaped_and_bounded() {
        assert_eq!(escaped("a\nb\u{1b}[31m", 100), "a\\nb\\u{1b}[31m");
        let long = escaped(&"é\n".repeat(1000), 512);
        assert!(long.len() <= 512 && long.ends_with('…'), "{long}");
    }

    #[test]
    fn a_stream_is_listed_until_it_ends() {
        let connections = Connections::default();
        let node = Node { id: "a".into(), cluster: "edge".into(), ..Default::default() };
        let first = connections.enter(&node, Protocol::Delta, Scope::Aggregated);
        let second = connections.enter(&node, Protocol::Sotw, Scope::Aggregated);
        second.update(|status| status.generation = 7);
        let listed = connections.nodes();
        assert_eq!(listed.iter().map(|n| (&*n.node_id, n.generation)).collect::<Vec<_>>(), [("a", 0), ("a", 7)]);
        drop(first);
        assert_eq!(connections.nodes().len(), 1);
        drop(second);
        assert!(connections.nodes().is_empty());
    }
}
