//! The fleet, for `actl nodes`: streams put together to nodes, and how far each is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Duration, timeout};
use tonic::{Request, Response, Status as Answer};

use super::projects::ProjectsService;
use crate::config::{Loaded, SourceChange, SourceChangeKind};
use crate::control::v1::fleet_server::Fleet as Service;
use crate::control::v1::{
    DiffNodeRequest, DiffNodeResponse, DifferenceKind, ListNodesRequest, ListNodesResponse, Node, NodeDifference,
    NodeRejection, NodeState, NodeStream, NodeType, ReloadRequest, ReloadResponse,
};
use crate::server::status::Status;
use crate::xds::service::{Connections, NodeStatus, Rejection};
use crate::xds::snapshot::{Fleet, ResourceType, Version};
use crate::xds::stream::{Difference, Held};

/// How long reading the files and putting them in force may take.
const RELOAD: Duration = Duration::from_secs(30);

/// What is known of the Envoys, and of what they should have.
pub(in crate::server) struct FleetService {
    pub(in crate::server) connections: Connections,
    pub(in crate::server) fleet: watch::Receiver<Arc<Fleet>>,
    pub(in crate::server) status: Arc<Status>,
    pub(in crate::server) loaded: watch::Receiver<Arc<Loaded>>,
    pub(in crate::server) changes: mpsc::Sender<SourceChange>,
}

#[tonic::async_trait]
impl Service for FleetService {
    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Result<Response<ListNodesResponse>, Answer> {
        Ok(Response::new(self.list(&request.into_inner())))
    }

    async fn diff_node(&self, request: Request<DiffNodeRequest>) -> Result<Response<DiffNodeResponse>, Answer> {
        Ok(Response::new(self.diff(&request.into_inner().id)))
    }

    async fn reload(&self, _: Request<ReloadRequest>) -> Result<Response<ReloadResponse>, Answer> {
        self.read_again().await.map(Response::new)
    }
}

impl FleetService {
    /// What is served through them.
    pub(in crate::server) fn projects(&self) -> ProjectsService {
        ProjectsService { status: Arc::clone(&self.status) }
    }

    fn list(&self, request: &ListNodesRequest) -> ListNodesResponse {
        let (generation, _) = self.status.in_force();
        let asked: BTreeSet<&str> = request.ids.iter().map(String::as_str).collect();
        let mut streams: BTreeMap<(String, String), Vec<NodeStatus>> = BTreeMap::new();
        for stream in self.connections.nodes() {
            if asked.is_empty() || asked.contains(&*stream.node_id) {
                let key = (stream.node_id.clone(), stream.node_cluster.clone());
                streams.entry(key).or_default().push(stream);
            }
        }
        let known: BTreeSet<&str> = streams.keys().map(|(id, _)| id.as_str()).collect();
        let missing = asked.difference(&known).map(|&id| id.to_owned()).collect();
        let connected = streams.len() as u64;
        let wanted = request.without_generation;
        let is_listed = |streams: &[NodeStatus]| wanted == 0 || !streams.iter().all(|stream| stream.holds(wanted));
        let nodes = streams.values().filter(|streams| is_listed(streams));
        let nodes = nodes.filter_map(|streams| self.node(streams, generation)).collect();
        ListNodesResponse { generation, nodes, connected, missing }
    }

    fn node(&self, streams: &[NodeStatus], generation: u64) -> Option<Node> {
        let first = streams.first()?;
        let is_rejecting = streams.iter().any(|stream| stream.rejections().next().is_some());
        let is_in_step = streams.iter().all(|stream| stream.holds(generation));
        let state = match (is_rejecting, is_in_step) {
            (true, _) => NodeState::Rejecting,
            (false, true) => NodeState::InStep,
            (false, false) => NodeState::Behind,
        };
        let held = streams.iter().map(|stream| stream.held_generation).min().unwrap_or_default();
        let behind = match state {
            NodeState::InStep => Duration::ZERO,
            // It may also be renewed certificates that it does not have yet: they make no generation.
            _ => self.status.outdated_since(held).unwrap_or_else(|| self.fleet.borrow().published).elapsed(),
        };
        // Not longer than it is connected.
        let since = streams.iter().map(|stream| stream.connected_since).min()?;
        let behind = behind.min(SystemTime::now().duration_since(since).unwrap_or_default());
        Some(Node {
            id: first.node_id.clone(),
            gateway: first.node_cluster.clone(),
            user_agent: first.user_agent.clone(),
            zone: first.locality.clone(),
            state: state.into(),
            connected_since_ms: unix_ms(since),
            generation: held,
            generations_behind: generation.saturating_sub(held),
            behind_ms: millis(behind),
            streams: streams.iter().map(stream).collect(),
        })
    }

    fn diff(&self, id: &str) -> DiffNodeResponse {
        let fleet = Arc::clone(&self.fleet.borrow());
        let streams = self.connections.differences(id, &fleet);
        let connected = !streams.is_empty();
        let of_stream = |(status, differences): (NodeStatus, Vec<Difference>)| {
            differences.into_iter().map(move |found| difference(found, &status))
        };
        let differences = streams.into_iter().flat_map(of_stream).collect();
        DiffNodeResponse { connected, generation: self.status.in_force().0, differences }
    }

    /// Reads the files again, and waits until what is good of them is in force.
    async fn read_again(&self) -> Result<ReloadResponse, Answer> {
        let reload = async {
            let (reply, replied) = oneshot::channel();
            let change = SourceChange { kind: SourceChangeKind::Reload, reply };
            self.changes.send(change).await.ok()?;
            replied.await.ok()?.ok()?;
            // What came after it will do as well: it was read later.
            let mut applied = self.status.applied();
            let is_latest = |applied: &Option<Arc<Loaded>>| {
                applied.as_ref().is_some_and(|applied| Arc::ptr_eq(applied, &self.loaded.borrow()))
            };
            applied.wait_for(is_latest).await.ok().map(drop)
        };
        match timeout(RELOAD, reload).await {
            Ok(Some(())) => {
                let (generation, problems) = self.status.in_force();
                Ok(ReloadResponse { generation, problems })
            }
            Ok(None) => Err(Answer::unavailable("the server is stopping")),
            Err(_) => Err(Answer::deadline_exceeded(format!("the files could not be read within {RELOAD:?}"))),
        }
    }
}

fn stream(status: &NodeStatus) -> NodeStream {
    let types = ResourceType::ALL.into_iter().zip(&status.types).filter(|(_, of_type)| of_type.subscribed);
    let types = types.map(|(ty, of_type)| NodeType {
        r#type: ty.label().to_owned(),
        sent: of_type.sent,
        acked: of_type.acked,
        nacked: of_type.nacked,
        unanswered: of_type.unanswered,
        version: shown(of_type.version),
        in_step: of_type.converged,
        rejection: of_type.rejection.as_deref().map(rejection),
    });
    NodeStream {
        protocol: status.protocol.label().to_owned(),
        kind: status.scope.label().to_owned(),
        connected_since_ms: unix_ms(status.connected_since),
        types: types.collect(),
        told_generation: status.generation,
    }
}

fn rejection(rejection: &Rejection) -> NodeRejection {
    NodeRejection {
        message: rejection.message.to_string(),
        lines: rejection.origins.iter().map(ToString::to_string).collect(),
        resources: rejection.resources.iter().map(ToString::to_string).collect(),
        certain: rejection.is_certain,
    }
}

fn difference(found: Difference, status: &NodeStatus) -> NodeDifference {
    let Difference { ty, name, held, should, origin } = found;
    let (kind, held) = match held {
        Held::Nothing => (DifferenceKind::Missing, None),
        Held::Version(held) if should.is_none() => (DifferenceKind::Extra, Some(held)),
        Held::Version(held) => (DifferenceKind::OtherVersion, Some(held)),
        Held::Sent(sent) => (DifferenceKind::OnItsWay, sent),
        Held::Rejected(sent) => (DifferenceKind::Rejected, sent),
        Held::Unknown => (DifferenceKind::Unknown, None),
    };
    let rejection = status.of_type(ty).rejection.as_ref().filter(|_| kind == DifferenceKind::Rejected);
    // Of a response that was rejected as a whole, only what is to blame has the message.
    let rejection = rejection.filter(|rejection| rejection.resources.contains(&name));
    NodeDifference {
        kind: kind.into(),
        r#type: ty.label().to_owned(),
        name: name.to_string(),
        held: shown(held),
        should: shown(should),
        line: origin.map(|origin| origin.to_string()).unwrap_or_default(),
        message: rejection.map(|rejection| rejection.message.to_string()).unwrap_or_default(),
        stream: status.scope.label().to_owned(),
    }
}

fn shown(version: Option<Version>) -> String {
    version.map(|version| version.to_string()).unwrap_or_default()
}

fn unix_ms(time: SystemTime) -> i64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
