//! The conformance cases that need a socket, by a client of our own over a unix socket.

mod behaviour;
mod simulation;
mod smoke;

use std::marker::PhantomData;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use envoy_types::pb::google::rpc;
use prost::Message;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream};
use tonic::Streaming;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;

use super::*;
use crate::domain::policy::Origin;
use crate::xds::snapshot::{LOCAL_CLUSTER, Resource, Snapshot, Version};
use crate::xds::stream::Protocol;

const DEADLINE: Duration = Duration::from_secs(20);

/// A server on a unix socket in a folder of its own.
struct Server {
    folder: tempfile::TempDir,
    fleet: watch::Sender<Arc<Fleet>>,
    connections: Connections,
    registry: prometheus::Registry,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    fn start(resources: impl IntoIterator<Item = Resource>) -> Self {
        Self::start_with_grace(resources, RESUME_GRACE)
    }

    fn start_with_grace(resources: impl IntoIterator<Item = Resource>, grace: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("xds.sock")).unwrap();
        let everything = Arc::new(Snapshot::build(resources, None).unwrap());
        let (fleet, receiver) = watch::channel(Arc::new(Fleet { everything, generation: 1, ..Default::default() }));
        let registry = prometheus::Registry::new();
        let metrics = XdsMetrics::register(&registry).unwrap();
        let service = XdsService::with_resume_grace(receiver, "agent-creds test", metrics, grace);
        let connections = service.connections();
        let routes = service.add_to(Routes::default());
        let task = tokio::spawn(async move {
            let incoming = UnixListenerStream::new(listener);
            tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(incoming).await.unwrap();
        });
        Self { folder, fleet, connections, registry, task }
    }

    fn publish(&self, resources: impl IntoIterator<Item = Resource>) {
        let old = self.fleet.borrow().clone();
        let everything = Arc::new(Snapshot::build(resources, Some(&old.everything)).unwrap());
        let generation = old.generation + 1;
        self.fleet.send_replace(Arc::new(Fleet { everything, generation, ..Default::default() }));
    }

    async fn connect<Q: Message + 'static, P: Message + Default + 'static>(&self, method: &str) -> Client<Q, P> {
        let uri = format!("unix://{}", self.folder.path().join("xds.sock").display());
        let channel = Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(64 << 20);
        grpc.ready().await.unwrap();
        let (requests, outgoing) = mpsc::unbounded_channel();
        let outgoing = tonic::Request::new(UnboundedReceiverStream::new(outgoing));
        let path = method.parse().unwrap();
        let responses = grpc.streaming(outgoing, path, TestCodec::<Q, P>(PhantomData)).await.unwrap().into_inner();
        Client { requests, responses }
    }

    async fn delta(&self, service: usize) -> Client<DeltaDiscoveryRequest, DeltaDiscoveryResponse> {
        self.connect(&format!("/{}/{}", SERVICES[service].name, SERVICES[service].delta_method)).await
    }

    async fn sotw(&self, service: usize) -> Client<DiscoveryRequest, DiscoveryResponse> {
        self.connect(&format!("/{}/{}", SERVICES[service].name, SERVICES[service].sotw_method)).await
    }

    /// Waits until the list of nodes is as `wanted` says.
    async fn until(&self, wanted: impl Fn(&[NodeStatus]) -> bool) -> Vec<NodeStatus> {
        let poll = async {
            loop {
                let nodes = self.connections.nodes();
                if wanted(&nodes) {
                    return nodes;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(DEADLINE, poll).await {
            Ok(nodes) => nodes,
            Err(_) => panic!("never as wanted: {:#?}", self.connections.nodes()),
        }
    }

    fn counter(&self, name: &str, ty: ResourceType) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metric = family.get_metric().iter().find(|m| m.get_label()[0].value() == ty.label()).unwrap();
        metric.get_counter().get_value() as u64
    }
}

/// One stream of a client.
struct Client<Q, P> {
    requests: mpsc::UnboundedSender<Q>,
    responses: Streaming<P>,
}

impl<Q, P> Client<Q, P> {
    fn send(&self, request: Q) {
        self.requests.send(request).ok().unwrap();
    }

    async fn receive(&mut self) -> P {
        self.try_receive().await.unwrap()
    }

    async fn try_receive(&mut self) -> Result<P, Status> {
        let next = tokio::time::timeout(DEADLINE, self.responses.message()).await;
        next.expect("a response in time").map(|response| response.expect("the stream to go on"))
    }

    async fn hears_nothing(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(100), self.responses.message()).await.is_err()
    }
}

struct TestCodec<Q, P>(PhantomData<fn(Q) -> P>);

impl<Q: Message + 'static, P: Message + Default + 'static> Codec for TestCodec<Q, P> {
    type Encode = Q;
    type Decode = P;
    type Encoder = TestCodec<Q, P>;
    type Decoder = TestCodec<Q, P>;

    fn encoder(&mut self) -> Self {
        Self(PhantomData)
    }

    fn decoder(&mut self) -> Self {
        Self(PhantomData)
    }
}

impl<Q: Message, P> Encoder for TestCodec<Q, P> {
    type Item = Q;
    type Error = Status;

    fn encode(&mut self, request: Q, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        request.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<Q, P: Message + Default> Decoder for TestCodec<Q, P> {
    type Item = P;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<P>, Status> {
        P::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

fn node() -> Option<Node> {
    Some(Node {
        id: "edge-1".into(),
        cluster: LOCAL_CLUSTER.into(),
        user_agent_name: "envoy".into(),
        ..Default::default()
    })
}

fn resource(ty: ResourceType, name: &str, version: u32) -> Resource {
    sized(ty, name, version, 0)
}

fn sized(ty: ResourceType, name: &str, version: u32, size: usize) -> Resource {
    let message = Cluster { name: name.into(), alt_stat_name: "x".repeat(size), ..Default::default() };
    let origin = Origin { file: "agent-creds.toml".into(), line: 7 };
    Resource::new(ty, name, Version::of(&version), &message).from_line(origin)
}

fn first_delta(ty: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: node(),
        type_url: ty.type_url().into(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

fn answer_delta(response: &DeltaDiscoveryResponse, error: Option<&str>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: error.map(|message| rpc::Status { code: 13, message: message.into(), ..Default::default() }),
        ..Default::default()
    }
}

/// Names and versions in a delta response.
fn held(response: &DeltaDiscoveryResponse) -> Vec<(&str, &str)> {
    response.resources.iter().map(|resource| (&*resource.name, &*resource.version)).collect()
}
