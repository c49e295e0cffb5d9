//! The tonic shell around [`super::stream`]: ADS and one service per type, for every Envoy of the fleet.
//!
//! ```text
//!   Routes ─▶ Served ─▶ Session ⇄ AdsStream ─▶ ResponseBody        Session waits on: requests, fleet changes
//!                          │
//!                      Connections (who is connected, what they ACKed)
//! ```
//!
//! There is no task and no queue per client: a session is a stream that HTTP/2 polls when the client's flow-control window
//! has room. A client that does not read is simply not polled; newer snapshots overtake each other in the `watch` channel
//! until it is, and no other client notices.

mod admission;
mod body;
mod connections;
mod gauges;
mod identity;
mod rejection;
mod requests;
mod session;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;

use self::admission::Admission;
use self::body::ResponseBody;
pub use self::connections::{Connections, NodeStatus, TypeStatus};
pub use self::gauges::NodeGauges;
pub use self::rejection::Rejection;
use self::requests::Requests;
use self::session::{Request, Session};
use super::metrics::XdsMetrics;
use super::snapshot::{Fleet, ResourceType};
use super::stream::Scope;
use crate::domain::node::NodeIdentity;

/// The largest request, in bytes: node metadata can be long, and a reconnecting client lists all it holds.
const MAX_REQUEST_BYTES: usize = 4 << 20;
/// How long a client that resumed a session may take to ask again for every type it needs.
const RESUME_GRACE: Duration = Duration::from_secs(10);

/// The xDS server. Cheap to clone.
#[derive(Clone)]
pub struct XdsService {
    shared: Arc<Shared>,
}

/// What all streams share.
struct Shared {
    fleet: watch::Receiver<Arc<Fleet>>,
    identifier: Arc<str>,
    metrics: XdsMetrics,
    connections: Connections,
    admission: Admission,
    resume_grace: Duration,
}

impl XdsService {
    /// A server of what `fleet` holds, at any time. `identifier` is told to clients as `control_plane.identifier`.
    pub fn new(fleet: watch::Receiver<Arc<Fleet>>, identifier: impl Into<String>, metrics: XdsMetrics) -> Self {
        Self::with_resume_grace(fleet, identifier, metrics, RESUME_GRACE)
    }

    fn with_resume_grace(
        fleet: watch::Receiver<Arc<Fleet>>,
        identifier: impl Into<String>,
        metrics: XdsMetrics,
        resume_grace: Duration,
    ) -> Self {
        let identifier = identifier.into().into();
        let (connections, admission) = (Connections::default(), Admission::default());
        Self { shared: Arc::new(Shared { fleet, identifier, metrics, connections, admission, resume_grace }) }
    }

    /// Who is connected.
    pub fn connections(&self) -> Connections {
        self.shared.connections.clone()
    }

    /// The answer to a request for one of its services; a request for anything else comes back. The same as by
    /// [`XdsService::add_to`], without what a router puts around each body: with thousands of clients that is felt.
    ///
    /// # Errors
    /// Gives the request back when it is for another service.
    #[expect(
        clippy::result_large_err,
        reason = "the request is not an error: it goes on to another service as it came"
    )]
    pub fn answer(&self, request: http::Request<Body>) -> Result<Answer, http::Request<Body>> {
        let path = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        let definition = path.and_then(|(service, _)| SERVICES.iter().find(|definition| definition.name == service));
        match definition {
            Some(definition) => Ok(definition.answer(&self.shared, request)),
            None => Err(request),
        }
    }

    /// Adds ADS and the services for single types to `routes`.
    pub fn add_to(self, routes: Routes) -> Routes {
        let shared = self.shared;
        routes
            .add_service(Served::<0>(shared.clone()))
            .add_service(Served::<1>(shared.clone()))
            .add_service(Served::<2>(shared.clone()))
            .add_service(Served::<3>(shared.clone()))
            .add_service(Served::<4>(shared.clone()))
            .add_service(Served::<5>(shared))
    }
}

/// HTTP/2 for a connection whose streams stay open: a client that does not read holds up nobody but itself.
pub fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .keep_alive_interval(Duration::from_secs(30));
    builder
}

/// A gRPC service of the xDS protocol.
struct Definition {
    name: &'static str,
    sotw_method: &'static str,
    delta_method: &'static str,
    scope: Scope,
}

/// An answer, once it has begun.
pub type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

const SERVICES: [Definition; 6] = [
    Definition {
        name: "envoy.service.discovery.v3.AggregatedDiscoveryService",
        sotw_method: "StreamAggregatedResources",
        delta_method: "DeltaAggregatedResources",
        scope: Scope::Aggregated,
    },
    Definition {
        name: "envoy.service.cluster.v3.ClusterDiscoveryService",
        sotw_method: "StreamClusters",
        delta_method: "DeltaClusters",
        scope: Scope::Single(ResourceType::Cluster),
    },
    Definition {
        name: "envoy.service.endpoint.v3.EndpointDiscoveryService",
        sotw_method: "StreamEndpoints",
        delta_method: "DeltaEndpoints",
        scope: Scope::Single(ResourceType::Endpoint),
    },
    Definition {
        name: "envoy.service.listener.v3.ListenerDiscoveryService",
        sotw_method: "StreamListeners",
        delta_method: "DeltaListeners",
        scope: Scope::Single(ResourceType::Listener),
    },
    Definition {
        name: "envoy.service.route.v3.RouteDiscoveryService",
        sotw_method: "StreamRoutes",
        delta_method: "DeltaRoutes",
        scope: Scope::Single(ResourceType::Route),
    },
    Definition {
        name: "envoy.service.secret.v3.SecretDiscoveryService",
        sotw_method: "StreamSecrets",
        delta_method: "DeltaSecrets",
        scope: Scope::Single(ResourceType::Secret),
    },
];

/// The service at this index of [`SERVICES`].
#[derive(Clone)]
struct Served<const INDEX: usize>(Arc<Shared>);

impl<const INDEX: usize> NamedService for Served<INDEX> {
    const NAME: &'static str = SERVICES[INDEX].name;
}

impl<const INDEX: usize> tower::Service<http::Request<Body>> for Served<INDEX> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        SERVICES[INDEX].answer(&self.0, request)
    }
}

impl Definition {
    fn answer(&self, shared: &Arc<Shared>, request: http::Request<Body>) -> Answer {
        let (shared, scope) = (Arc::clone(shared), self.scope);
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        if method == self.delta_method {
            Box::pin(serve::<DeltaDiscoveryRequest>(shared, scope, request))
        } else if method == self.sotw_method {
            Box::pin(serve::<DiscoveryRequest>(shared, scope, request))
        } else {
            let status = Status::unimplemented("this server streams: the Fetch methods are not served");
            Box::pin(std::future::ready(Ok(status.into_http())))
        }
    }
}

async fn serve<R: Request>(
    shared: Arc<Shared>,
    scope: Scope,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, Infallible> {
    // This server compresses nothing, and says so by not offering it.
    if request.headers().get("grpc-encoding").is_some_and(|encoding| encoding != "identity") {
        return Ok(Status::unimplemented("compressed requests are not served").into_http());
    }
    let peer = request.extensions().get::<NodeIdentity>().cloned();
    let requests = Requests::<R>::new(request.into_body(), MAX_REQUEST_BYTES);
    let identifier = shared.identifier.clone();
    Ok(ResponseBody::answer(Session::new(shared, scope, peer, requests).responses(), identifier))
}

#[cfg(test)]
mod tests;
