//! Policies → the resources an Envoy needs to serve them.
//!
//! ```text
//! Policy (one agent-creds.toml)
//!   ├─ listener   gateway/NAME             filter chains, chosen by SNI          → layout.rs, matching.rs, listener.rs, manager.rs
//!   ├─ cluster    agent_creds_host         of a sandbox: what plain HTTP to the host leads to → host.rs
//!   ├─ route      NAME/*                   of the hosts that share a chain: the server name → its cluster
//!   └─ Upstream   HOST or *.PARENT
//!        ├─ route     NAME/UPSTREAM        host → cluster, others → 421          → route.rs
//!        ├─ clusters  NAME/UPSTREAM[/http1] verified TLS, always                 → cluster.rs
//!        ├─ secret    leaf/HOST            minted on first subscription          → secret.rs
//!        │            HOST                 the same, asked for by server name    → on_demand.rs
//!        └─ secret    ca/ID                the CAs its certificate is checked against
//! ```
//!
//! [`FleetBuilder`] keeps what it has built, so that an edit of one upstream costs what one upstream costs.
//!
//! Versions are hashes of the inputs of each resource (design §3.10), so they are the same after a restart and on a
//! replica. `REVISION` takes part in every one: it is raised when this code builds something else from the same input.

mod builder;
mod cluster;
mod host;
mod layout;
mod listener;
mod manager;
mod matching;
mod on_demand;
mod reflection;
mod route;
mod secret;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address, socket_address};
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use serde::Serialize;

use super::snapshot::Version;
use crate::domain::decision::ANY_EXACT_HOST;
use crate::domain::names::{Host, SandboxId};

pub use builder::FleetBuilder;
pub use host::{HOST_NAME, INSTANCE_HEADER, SANDBOX_HEADER};
pub use secret::{Leaf, Leaves, TrustedCa};

/// Raised whenever the same input gives other resources than before.
const REVISION: u32 = 5;

/// The cluster of the bootstrap through which Envoy reaches the vault.
pub const VAULT_CLUSTER: &str = "agent_creds_vault";
/// The cluster of the bootstrap through which Envoy reaches the xDS server.
pub const XDS_CLUSTER: &str = "agent_creds_xds";

/// The longest body that the vault is sent to sign a request. Routes refuse longer ones with 413, and none else is held back.
pub const MAX_SIGNED_BODY: u32 = 8 * 1024 * 1024;

/// The chain of the hosts that share one, and what they are called together.
const SHARED_CHAIN: &str = ANY_EXACT_HOST;
/// The chain of what is no TLS. No host has a name like this.
const PLAIN_HTTP_CHAIN: &str = "plain HTTP";

/// Envoy's word for the name that the client asked for in its handshake.
const SERVER_NAME: &str = "%REQUESTED_SERVER_NAME%";
/// Where routes find that name, on chains of many hosts. These headers are set by Envoy, and do not travel on.
const SERVER_NAME_HEADER: &str = "x-agent-creds-server-name";
/// Where they find the cluster for it.
const CLUSTER_HEADER: &str = "x-agent-creds-cluster";
/// And the one for WebSockets.
const HTTP1_CLUSTER_HEADER: &str = "x-agent-creds-http1-cluster";

/// How a cluster speaks to its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Protocol {
    /// HTTP/2 or HTTP/1.1, by ALPN.
    Negotiated,
    /// HTTP/1.1 only, for WebSockets.
    Http1,
}

fn version(kind: &str, inputs: &impl Serialize) -> Version {
    Version::of(&(REVISION, kind, inputs))
}

fn listener_name(sandbox: &SandboxId) -> String {
    format!("gateway/{sandbox}")
}

fn route_name(sandbox: &SandboxId, upstream: &str) -> String {
    format!("{sandbox}/{upstream}")
}

fn cluster_name(sandbox: &SandboxId, upstream: &str, protocol: Protocol) -> String {
    match protocol {
        Protocol::Negotiated => format!("{sandbox}/{upstream}"),
        Protocol::Http1 => format!("{sandbox}/{upstream}/http1"),
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
