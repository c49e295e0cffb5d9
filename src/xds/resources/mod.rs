//! Policies → the resources an Envoy needs to serve them.
//!
//! ```text
//! Policy (one agent-creds.toml)
//!   ├─ listener   gateway/NAME             one filter chain per host, by SNI     → listener.rs
//!   └─ Upstream
//!        ├─ route     NAME/HOST            host → cluster, others → 421          → route.rs
//!        ├─ clusters  NAME/HOST[/http1]    verified TLS, always                  → cluster.rs
//!        ├─ secret    leaf/HOST            minted on first subscription          → secret.rs
//!        └─ secret    ca/ID                the CAs its certificate is checked against
//! ```
//!
//! Versions are hashes of the inputs of each resource (design §3.10), so they are the same after a restart and on a
//! replica. `REVISION` takes part in every one: it is raised when this code builds something else from the same input.

mod cluster;
mod listener;
mod reflection;
mod route;
mod secret;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address, socket_address};
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use prost::Message;
use serde::Serialize;

use super::snapshot::{Fleet, Resource, ResourceType, Snapshot, SnapshotError, Version};
use crate::domain::names::{Host, SandboxId};
use crate::domain::policy::{Policy, Upstream};

pub use secret::{Leaf, Leaves, TrustedCa};

/// Raised whenever the same input gives other resources than before.
const REVISION: u32 = 2;

/// The cluster of the bootstrap through which Envoy reaches the vault.
pub const VAULT_CLUSTER: &str = "agent_creds_vault";
/// The cluster of the bootstrap through which Envoy reaches the xDS server.
pub const XDS_CLUSTER: &str = "agent_creds_xds";

/// The longest body that the vault is sent to sign a request. Routes refuse longer ones with 413, and none else is held back.
pub const MAX_SIGNED_BODY: u32 = 8 * 1024 * 1024;

/// How a cluster speaks to its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Protocol {
    /// HTTP/2 or HTTP/1.1, by ALPN.
    Negotiated,
    /// HTTP/1.1 only, for WebSockets.
    Http1,
}

/// Builds everything that every Envoy of ours needs: what the local one gets, and what each gateway's own Envoys get.
///
/// `signs` tells whether the vault may have to sign the requests to a host, for which it has to see the bodies of some.
///
/// Nothing is encoded here, and no certificate minted: that happens once, when an Envoy first asks. What `previous` already
/// holds in the same version is taken over, so an edit of one upstream costs what one upstream costs.
///
/// # Errors
/// When two policies have one name, or a resource refers to one that is not there (a defect of ours).
pub fn fleet(
    policies: &[Arc<Policy>],
    leaves: &Arc<dyn Leaves>,
    system_ca: &TrustedCa,
    signs: &dyn Fn(&Host) -> bool,
    generation: u64,
    previous: Option<&Fleet>,
) -> Result<Fleet, SnapshotError> {
    let mut all = Vec::new();
    let mut own_keys = Vec::with_capacity(policies.len());
    let mut secrets = HashSet::new();
    for policy in policies {
        let mut keys = Vec::new();
        for resource in resources(policy, leaves, system_ca, signs) {
            keys.push((resource.ty(), Arc::clone(resource.name())));
            // Certificates are the same for every gateway: one resource, minted once.
            if resource.ty() != ResourceType::Secret || secrets.insert(Arc::clone(resource.name())) {
                all.push(resource);
            }
        }
        own_keys.push((policy.id.to_string(), keys));
    }
    let everything = Arc::new(Snapshot::build(all, previous.map(|fleet| &*fleet.everything))?);
    let mut by_cluster = BTreeMap::new();
    for (id, mut keys) in own_keys {
        keys.sort_unstable();
        keys.dedup();
        // Clones share what is encoded, and what is minted.
        let own = keys.iter().filter_map(|(ty, name)| everything.get(*ty, name)).map(|resource| (*resource).clone());
        let before = previous.and_then(|fleet| fleet.by_cluster.get(&id)).map(|snapshot| &**snapshot);
        by_cluster.insert(id, Arc::new(Snapshot::build(own, before)?));
    }
    Ok(Fleet { everything, by_cluster, generation })
}

/// The resources of one policy.
fn resources(
    policy: &Arc<Policy>,
    leaves: &Arc<dyn Leaves>,
    system_ca: &TrustedCa,
    signs: &dyn Fn(&Host) -> bool,
) -> Vec<Resource> {
    let mut resources = Vec::with_capacity(policy.upstreams.len() * 5 + 1);
    let hosts: Vec<&Host> = exact_upstreams(policy).map(|(host, _)| host).collect();
    let inputs = (&policy.id, policy.listen, &hosts);
    let mut listener =
        Resource::lazy(ResourceType::Listener, listener_name(&policy.id), version("listener", &inputs), {
            let policy = Arc::clone(policy);
            move || Ok(listener::listener(&policy).encode_to_vec())
        })
        .from_line(policy.origin.clone());
    for (host, upstream) in exact_upstreams(policy) {
        listener = listener
            .referring_to(ResourceType::Route, route_name(&policy.id, host))
            .referring_to(ResourceType::Secret, leaf_name(host));
        resources.extend(upstream_resources(&policy.id, host, upstream, leaves, system_ca, signs(host)));
    }
    resources.push(listener);
    resources
}

fn upstream_resources(
    sandbox: &SandboxId,
    host: &Host,
    upstream: &Upstream,
    leaves: &Arc<dyn Leaves>,
    system_ca: &TrustedCa,
    signed: bool,
) -> [Resource; 5] {
    let trusted = upstream.ca.as_ref().map_or_else(|| system_ca.clone(), |pem| TrustedCa::new(Arc::clone(pem)));
    let cluster = |protocol: Protocol| {
        let inputs = (sandbox, host, &upstream.address, trusted.name(), protocol);
        Resource::lazy(ResourceType::Cluster, cluster_name(sandbox, host, protocol), version("cluster", &inputs), {
            let (sandbox, host, address) = (sandbox.clone(), host.clone(), upstream.address.clone());
            let trusted = trusted.name();
            move || Ok(cluster::cluster(&sandbox, &host, address.as_ref(), &trusted, protocol).encode_to_vec())
        })
        .from_line(upstream.origin.clone())
        .referring_to(ResourceType::Secret, trusted.name())
    };
    let route =
        Resource::lazy(ResourceType::Route, route_name(sandbox, host), version("route", &(sandbox, host, signed)), {
            let (sandbox, host) = (sandbox.clone(), host.clone());
            move || Ok(route::routes(&sandbox, &host, signed).encode_to_vec())
        })
        .from_line(upstream.origin.clone())
        .referring_to(ResourceType::Cluster, cluster_name(sandbox, host, Protocol::Negotiated))
        .referring_to(ResourceType::Cluster, cluster_name(sandbox, host, Protocol::Http1));
    [
        cluster(Protocol::Negotiated),
        cluster(Protocol::Http1),
        route,
        secret::leaf(host, leaves).from_line(upstream.origin.clone()),
        secret::trusted_ca(&trusted),
    ]
}

fn exact_upstreams(policy: &Policy) -> impl Iterator<Item = (&Host, &Upstream)> {
    policy.upstreams.iter().filter_map(|(pattern, upstream)| Some((pattern.exact()?, upstream)))
}

fn version(kind: &str, inputs: &impl Serialize) -> Version {
    Version::of(&(REVISION, kind, inputs))
}

fn listener_name(sandbox: &SandboxId) -> String {
    format!("gateway/{sandbox}")
}

fn route_name(sandbox: &SandboxId, host: &Host) -> String {
    format!("{sandbox}/{host}")
}

fn cluster_name(sandbox: &SandboxId, host: &Host, protocol: Protocol) -> String {
    match protocol {
        Protocol::Negotiated => format!("{sandbox}/{host}"),
        Protocol::Http1 => format!("{sandbox}/{host}/http1"),
    }
}

/// What Envoy's statistics call it. Envoy cuts names at dots, so there are none.
fn stat_name(name: &str) -> String {
    name.replace('.', "_")
}

fn leaf_name(host: &Host) -> String {
    format!("leaf/{host}")
}

fn any<M: prost::Message + prost::Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn duration(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

fn boolean(value: bool) -> BoolValue {
    BoolValue { value }
}

fn uint32(value: u32) -> UInt32Value {
    UInt32Value { value }
}

fn socket_address(address: SocketAddr) -> Address {
    socket_address_of(&address.ip().to_string(), address.port())
}

fn socket_address_of(host: &str, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: host.to_owned(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    }
}
