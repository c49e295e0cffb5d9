//! Sandbox → host: what Envoy's plain-HTTP chain of a sandbox lets through, to the server's own socket.
//!
//! ```text
//! Host: host.agent-creds │ localhost:9222 … ─▶ x-agent-creds-sandbox and -instance set, whatever came under these names
//!                                              removed ─▶ cluster agent_creds_host ─▶ host.sock
//! any other host                            ─▶ refused, as plain HTTP is everywhere
//! ```
//!
//! The chain is the same whatever the file says about browsers: the server decides, so no edit drains a connection. The cluster
//! comes by CDS, not with the bootstrap: so an Envoy that was running before the server knew of it gets it, too, without a
//! restart, and one that has no sandboxes never does.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster,
    circuit_breakers::Thresholds,
    cluster::{ClusterDiscoveryType, DiscoveryType},
};
use envoy_types::pb::envoy::config::core::v3::{
    Address, HeaderValue, HeaderValueOption, Http1ProtocolOptions, HttpProtocolOptions, Pipe, address,
    header_value_option::HeaderAppendAction, http_protocol_options::HeadersWithUnderscoresAction,
};
use envoy_types::pb::envoy::config::route::v3::{
    RetryPolicy, RouteAction, VirtualHost, route,
    route_action::{ClusterSpecifier, UpgradeConfig as RouteUpgrade},
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions as UpstreamProtocols,
    http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig},
};

use super::cluster::assignment;
use super::manager::unanswered_by;
use super::route::every_path;
use super::{any, boolean, duration, uint32};
use crate::domain::names::{Instance, SandboxId};

/// The cluster of the server's socket for sandboxes.
pub(super) const HOST_CLUSTER: &str = "agent_creds_host";

/// The name by which programs of ours in a sandbox ask the host.
pub const HOST_NAME: &str = crate::domain::opening::HOST;
/// In which Envoy says which sandbox a request is from.
pub const SANDBOX_HEADER: &str = "x-agent-creds-sandbox";
/// In which Envoy says which life of it.
pub const INSTANCE_HEADER: &str = "x-agent-creds-instance";

/// Connections to the server that are not used are closed after this long: before the server does.
const IDLE_SECONDS: i64 = 10;

/// Where the server listens for sandboxes; a cluster of one unix socket.
pub(super) fn cluster(socket: &str) -> Cluster {
    let many = Some(uint32(4096));
    let address = Address { address: Some(address::Address::Pipe(Pipe { path: socket.to_owned(), mode: 0 })) };
    Cluster {
        name: HOST_CLUSTER.to_owned(),
        connect_timeout: Some(duration(1)),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
        load_assignment: Some(assignment(HOST_CLUSTER, address)),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds {
                max_connections: many,
                max_pending_requests: many,
                max_requests: many,
                ..Default::default()
            }],
            ..Default::default()
        }),
        typed_extension_protocol_options: HashMap::from([(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            any(&UpstreamProtocols {
                common_http_protocol_options: Some(HttpProtocolOptions {
                    idle_timeout: Some(duration(IDLE_SECONDS)),
                    ..Default::default()
                }),
                upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
                    protocol_config: Some(ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())),
                })),
                ..Default::default()
            }),
        )]),
        ..Default::default()
    }
}

/// The names that lead to the host, and who is asking.
pub(super) fn virtual_host(sandbox: &SandboxId, instance: &Instance) -> VirtualHost {
    let set = |name: &str, value: &str| HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value: value.to_owned(), ..Default::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..Default::default()
    };
    let forward = every_path(route::Action::Route(RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(HOST_CLUSTER.to_owned())),
        // A session with a browser lasts as long as its two ends want.
        timeout: Some(duration(0)),
        idle_timeout: Some(duration(0)),
        upgrade_configs: vec![RouteUpgrade {
            upgrade_type: "websocket".to_owned(),
            enabled: Some(boolean(true)),
            ..Default::default()
        }],
        retry_policy: Some(RetryPolicy {
            // Only before the request was sent: a kept-alive connection that the server was just closing.
            retry_on: "connect-failure,reset-before-request".to_owned(),
            num_retries: Some(uint32(2)),
            ..Default::default()
        }),
        ..Default::default()
    }));
    VirtualHost {
        name: "host".to_owned(),
        domains: [HOST_NAME, "localhost", "127.0.0.1", "[::1]"].map(str::to_owned).into(),
        routes: vec![forward],
        // Envoy removes before it adds: of what the client sends under these names nothing is left.
        request_headers_to_remove: [SANDBOX_HEADER, INSTANCE_HEADER].map(str::to_owned).into(),
        request_headers_to_add: vec![set(SANDBOX_HEADER, sandbox.as_str()), set(INSTANCE_HEADER, instance.as_str())],
        ..Default::default()
    }
}

/// How requests are read on the way to the host: as they are, for the server judges them itself.
pub(super) fn as_it_is(manager: HttpConnectionManager) -> HttpConnectionManager {
    HttpConnectionManager {
        normalize_path: Some(boolean(false)),
        merge_slashes: false,
        // Only where a route says so.
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            enabled: Some(boolean(false)),
            ..Default::default()
        }],
        common_http_protocol_options: manager.common_http_protocol_options.map(|options| HttpProtocolOptions {
            // To some programs `x_agent_creds_sandbox` is the same name.
            headers_with_underscores_action: HeadersWithUnderscoresAction::DropHeader as i32,
            ..options
        }),
        local_reply_config: Some(unanswered_by(
            "Service Unavailable: the agent-creds server does not answer on the host. Is `agent-creds serve` running?\n",
        )),
        ..manager
    }
}
