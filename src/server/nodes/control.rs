//! What `agent-creds nodes list` asks of a server.

use tonic::{Request, Response, Status};

use super::Connected;
use crate::control::v1::nodes_server::Nodes;
use crate::control::v1::{ConnectedNode, ConnectedNodesRequest, ConnectedNodesResponse};

/// The service.
pub(crate) struct NodesService {
    /// `None` when foreign Envoys are not served.
    pub(crate) connected: Option<Connected>,
}

#[tonic::async_trait]
impl Nodes for NodesService {
    async fn connected_nodes(
        &self,
        _: Request<ConnectedNodesRequest>,
    ) -> Result<Response<ConnectedNodesResponse>, Status> {
        let nodes = self.connected.as_ref().map(Connected::nodes).unwrap_or_default();
        let nodes = nodes.into_iter().map(|(id, connections)| ConnectedNode {
            id: id.to_string(),
            connections: u32::try_from(connections).unwrap_or(u32::MAX),
        });
        Ok(Response::new(ConnectedNodesResponse { nodes: nodes.collect(), serves: self.connected.is_some() }))
    }
}
