//! The messages of the protocol, both variants in one shape. The names on the wire are spelt out here, not taken from the
//! server's code: a mistake there must not be made here as well.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{ControlPlane, Node, data_source};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::google::protobuf::{Any, Duration as WireDuration};
use envoy_types::pb::google::rpc::Status;
use prost::{DecodeError, Message};

/// What a state-of-the-world resource with a TTL is wrapped in.
const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// The two variants of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proto {
    Sotw,
    Delta,
}

/// The types of resources the cases use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Cluster,
    Endpoint,
    Listener,
    Route,
    Secret,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route, Self::Secret];

    /// Those of which a state-of-the-world response is always all there is, and an empty first request a wildcard.
    pub const FULL: [Self; 2] = [Self::Cluster, Self::Listener];
    /// The others.
    pub const PARTIAL: [Self; 3] = [Self::Endpoint, Self::Route, Self::Secret];

    pub fn is_full(self) -> bool {
        Self::FULL.contains(&self)
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Endpoint => "endpoint",
            Self::Listener => "listener",
            Self::Route => "route",
            Self::Secret => "secret",
        }
    }

    pub fn url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

/// The path of a method: the aggregated one, or that of a type.
pub fn path(proto: Proto, kind: Option<Kind>) -> &'static str {
    match (kind, proto) {
        (None, Proto::Sotw) => "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        (None, Proto::Delta) => "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        (Some(Kind::Cluster), Proto::Sotw) => "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
        (Some(Kind::Cluster), Proto::Delta) => "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
        (Some(Kind::Endpoint), Proto::Sotw) => "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
        (Some(Kind::Endpoint), Proto::Delta) => "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
        (Some(Kind::Listener), Proto::Sotw) => "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
        (Some(Kind::Listener), Proto::Delta) => "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
        (Some(Kind::Route), Proto::Sotw) => "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
        (Some(Kind::Route), Proto::Delta) => "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
        (Some(Kind::Secret), Proto::Sotw) => "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        (Some(Kind::Secret), Proto::Delta) => "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
    }
}

/// The variant of a method.
pub fn proto_of(path: &str) -> Proto {
    if path.rsplit('/').next().is_some_and(|method| method.starts_with("Delta")) { Proto::Delta } else { Proto::Sotw }
}

/// A request of either variant.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    pub node: Option<Node>,
    pub url: String,
    pub nonce: String,
    pub error: Option<Status>,
    /// State of the world: the version last accepted, and every name subscribed to.
    pub version: String,
    pub names: Vec<String>,
    /// Delta: what changes in the subscription, and what the client brings along.
    pub subscribe: Vec<String>,
    pub unsubscribe: Vec<String>,
    pub initial: HashMap<String, String>,
}

impl Ask {
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_url(&self.url)
    }

    pub fn encode(self, proto: Proto) -> Vec<u8> {
        let Self { node, url: type_url, nonce: response_nonce, error: error_detail, .. } = self;
        match proto {
            Proto::Sotw => DiscoveryRequest {
                node,
                type_url,
                response_nonce,
                error_detail,
                version_info: self.version,
                resource_names: self.names,
                ..Default::default()
            }
            .encode_to_vec(),
            Proto::Delta => DeltaDiscoveryRequest {
                node,
                type_url,
                response_nonce,
                error_detail,
                resource_names_subscribe: self.subscribe,
                resource_names_unsubscribe: self.unsubscribe,
                initial_resource_versions: self.initial,
                ..Default::default()
            }
            .encode_to_vec(),
        }
    }

    pub fn decode(proto: Proto, bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(match proto {
            Proto::Sotw => {
                let request = DiscoveryRequest::decode(bytes)?;
                Self {
                    node: request.node,
                    url: request.type_url,
                    nonce: request.response_nonce,
                    error: request.error_detail,
                    version: request.version_info,
                    names: request.resource_names,
                    ..Default::default()
                }
            }
            Proto::Delta => {
                let request = DeltaDiscoveryRequest::decode(bytes)?;
                Self {
                    node: request.node,
                    url: request.type_url,
                    nonce: request.response_nonce,
                    error: request.error_detail,
                    subscribe: request.resource_names_subscribe,
                    unsubscribe: request.resource_names_unsubscribe,
                    initial: request.initial_resource_versions,
                    ..Default::default()
                }
            }
        })
    }
}

/// A resource in an answer.
#[derive(Debug, Clone, Default)]
pub struct Item {
    pub name: String,
    /// Delta only.
    pub version: String,
    pub ttl: Option<Duration>,
    pub body: Option<Any>,
}

impl Item {
    /// Which edition of the resource it is: the first word of the text that the fixture's resources carry.
    pub fn revision(&self) -> String {
        let Some(any) = &self.body else { return "no body".to_owned() };
        let bytes = any.value.as_slice();
        let text = match Kind::from_url(&any.type_url) {
            Some(Kind::Cluster) => Cluster::decode(bytes).map(|it| it.alt_stat_name),
            Some(Kind::Listener) => Listener::decode(bytes).map(|it| it.stat_prefix),
            Some(Kind::Route) => RouteConfiguration::decode(bytes)
                .map(|it| it.virtual_hosts.into_iter().next().map(|host| host.name).unwrap_or_default()),
            Some(Kind::Endpoint) => ClusterLoadAssignment::decode(bytes).map(|it| {
                let locality = it.endpoints.into_iter().next().and_then(|endpoints| endpoints.locality);
                locality.map(|locality| locality.sub_zone).unwrap_or_default()
            }),
            Some(Kind::Secret) => Secret::decode(bytes).map(|it| match it.r#type {
                Some(secret::Type::GenericSecret(generic)) => match generic.secret.and_then(|it| it.specifier) {
                    Some(data_source::Specifier::InlineString(text)) => text,
                    _ => String::new(),
                },
                _ => String::new(),
            }),
            None => return format!("a {}", any.type_url),
        };
        match text {
            Ok(text) => text.split(' ').next().unwrap_or_default().to_owned(),
            Err(error) => format!("garbage ({error})"),
        }
    }

    /// The name as the body has it.
    fn body_name(any: &Any) -> String {
        // In all of the types the name is field 1.
        #[derive(Clone, PartialEq, Message)]
        struct Named {
            #[prost(string, tag = "1")]
            name: String,
        }
        Named::decode(any.value.as_slice()).map(|named| named.name).unwrap_or_default()
    }
}

/// A response of either variant.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub url: String,
    pub version: String,
    pub nonce: String,
    pub items: Vec<Item>,
    /// Delta only.
    pub removed: Vec<String>,
    pub identifier: String,
    /// As it came, in bytes.
    pub len: usize,
}

impl Answer {
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_url(&self.url)
    }

    pub fn decode(proto: Proto, bytes: &[u8]) -> Result<Self, DecodeError> {
        let identifier = |plane: Option<ControlPlane>| plane.map(|plane| plane.identifier).unwrap_or_default();
        Ok(match proto {
            Proto::Sotw => {
                let response = DiscoveryResponse::decode(bytes)?;
                Self {
                    url: response.type_url,
                    version: response.version_info,
                    nonce: response.nonce,
                    items: response.resources.into_iter().map(unwrapped).collect::<Result<_, _>>()?,
                    removed: Vec::new(),
                    identifier: identifier(response.control_plane),
                    len: bytes.len(),
                }
            }
            Proto::Delta => {
                let response = DeltaDiscoveryResponse::decode(bytes)?;
                Self {
                    url: response.type_url,
                    version: response.system_version_info,
                    nonce: response.nonce,
                    items: response.resources.into_iter().map(item).collect(),
                    removed: response.removed_resources,
                    identifier: identifier(response.control_plane),
                    len: bytes.len(),
                }
            }
        })
    }

    pub fn encode(self, proto: Proto) -> Vec<u8> {
        let control_plane = match self.identifier.is_empty() {
            true => None,
            false => Some(ControlPlane { identifier: self.identifier }),
        };
        match proto {
            Proto::Sotw => DiscoveryResponse {
                type_url: self.url,
                version_info: self.version,
                nonce: self.nonce,
                resources: self.items.into_iter().map(wrapped).collect(),
                control_plane,
                ..Default::default()
            }
            .encode_to_vec(),
            Proto::Delta => DeltaDiscoveryResponse {
                type_url: self.url,
                system_version_info: self.version,
                nonce: self.nonce,
                resources: self.items.into_iter().map(resource).collect(),
                removed_resources: self.removed,
                control_plane,
                ..Default::default()
            }
            .encode_to_vec(),
        }
    }

    /// `a=r1 b=r2 -c`: what is in it, without the fences, by name.
    pub fn held(&self) -> String {
        let mut parts: Vec<_> = self.items.iter().map(|item| (item.name.as_str(), item.revision())).collect();
        parts.retain(|(name, _)| !name.starts_with(super::world::FENCE));
        parts.sort();
        let mut parts: Vec<_> = parts.into_iter().map(|(name, revision)| format!("{name}={revision}")).collect();
        let mut removed: Vec<_> = self.removed.iter().map(|name| format!("-{name}")).collect();
        removed.sort();
        parts.append(&mut removed);
        parts.join(" ")
    }

    /// `cluster a=r1 -c`, with everything, for messages.
    pub fn short(&self) -> String {
        let mut text = self.kind().map_or_else(|| self.url.clone(), |kind| kind.label().to_owned());
        for item in self.items.iter().take(12) {
            text.push_str(&format!(" {}={}", item.name, item.revision()));
        }
        if self.items.len() > 12 {
            text.push_str(&format!(" … ({} in all)", self.items.len()));
        }
        for name in self.removed.iter().take(12) {
            text.push_str(&format!(" -{name}"));
        }
        text
    }
}

fn duration(ttl: WireDuration) -> Duration {
    Duration::new(ttl.seconds.try_into().unwrap_or(0), ttl.nanos.try_into().unwrap_or(0))
}

fn item(resource: Resource) -> Item {
    Item { name: resource.name, version: resource.version, ttl: resource.ttl.map(duration), body: resource.resource }
}

fn unwrapped(any: Any) -> Result<Item, DecodeError> {
    if any.type_url == WRAPPER {
        return Resource::decode(any.value.as_slice()).map(item);
    }
    Ok(Item { name: Item::body_name(&any), body: Some(any), ..Default::default() })
}

fn resource(item: Item) -> Resource {
    let ttl = item.ttl.map(|ttl| WireDuration {
        seconds: ttl.as_secs().try_into().unwrap_or(i64::MAX),
        nanos: ttl.subsec_nanos().try_into().unwrap_or(0),
    });
    Resource { name: item.name, version: item.version, ttl, resource: item.body, ..Default::default() }
}

fn wrapped(item: Item) -> Any {
    match item {
        Item { ttl: None, body: Some(any), .. } => any,
        item => Any { type_url: WRAPPER.to_owned(), value: resource(item).encode_to_vec() },
    }
}
