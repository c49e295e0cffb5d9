//! What an Envoy must know to find this server: everything else comes by xDS.

use std::path::Path;

use serde_json::{Value, json};

use super::{admin_socket, xds_socket};

/// Which of the two xDS protocols Envoy is to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Protocol {
    /// Incremental: only what changed.
    #[default]
    Delta,
    /// State of the world: all of a type each time.
    Sotw,
}

/// The bootstrap of an Envoy on this machine.
#[derive(Debug, Clone)]
pub struct Bootstrap<'a> {
    /// The node's id: what it is called in logs and metrics.
    pub node_id: &'a str,
    /// The gateway it serves, or the name that stands for all of them.
    pub cluster: &'a str,
    /// Where the server's sockets are.
    pub runtime_dir: &'a Path,
    /// How it is to ask.
    pub protocol: Protocol,
    /// The names of the bootstrap's two clusters, `(xds, vault)`: what the resources refer to.
    pub clusters: (&'a str, &'a str),
}

impl Bootstrap<'_> {
    /// The bootstrap as Envoy reads it.
    pub fn to_json(&self) -> Value {
        let (xds, vault) = self.clusters;
        let admin = admin_socket(self.runtime_dir, self.node_id);
        let mut bootstrap = json!({
            "node": { "id": self.node_id, "cluster": self.cluster },
            "admin": { "address": { "pipe": { "path": admin, "mode": 0o600 } } },
            "static_resources": { "clusters": [self.cluster_on_socket(xds), self.cluster_on_socket(vault)] },
        });
        merge(&mut bootstrap, &everything_by(xds, self.protocol));
        bootstrap
    }

    fn cluster_on_socket(&self, name: &str) -> Value {
        let path = xds_socket(self.runtime_dir);
        let mut cluster = json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": { "pipe": { "path": path } } } }] }],
            },
        });
        merge(&mut cluster, &one_long_connection());
        cluster
    }
}

// ── What every bootstrap has ──────────────────────────────────────────────────────────────────────────────────────────

/// Clusters and listeners come by this cluster; and what keeps an Envoy from taking on too much.
pub(super) fn everything_by(xds: &str, protocol: Protocol) -> Value {
    let ads = json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" });
    json!({
        "dynamic_resources": { "ads_config": asking(xds, protocol), "cds_config": ads, "lds_config": ads },
        // Above this Envoy refuses connections, instead of running out of file descriptors.
        "overload_manager": { "resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3\
                          .DownstreamConnectionsConfig",
                "max_active_downstream_connections": 50000,
            },
        }] },
    })
}

/// An xDS stream by this cluster.
pub(super) fn asking(cluster: &str, protocol: Protocol) -> Value {
    json!({
        "api_type": match protocol { Protocol::Delta => "DELTA_GRPC", Protocol::Sotw => "GRPC" },
        "transport_api_version": "V3",
        "set_node_on_first_message_only": true,
        "grpc_services": [{ "envoy_grpc": {
            "cluster_name": cluster,
            // By default Envoy waits up to 30 s before it tries again: a restarted server is to be found at once.
            "retry_policy": { "retry_back_off": { "base_interval": "0.1s", "max_interval": "1s" } },
        } }],
    })
}

/// Of a cluster to this server: everything goes by one connection of HTTP/2.
pub(super) fn one_long_connection() -> Value {
    let many = 1 << 20;
    json!({
        "circuit_breakers": { "thresholds": [{
            "max_connections": many, "max_pending_requests": many, "max_requests": many, "max_retries": many,
        }] },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {
                    // A server that hangs, or a machine that is gone, is noticed, and its streams are opened anew.
                    "connection_keepalive": { "interval": "30s", "timeout": "5s" },
                } },
            },
        },
    })
}

/// Puts the fields of `more` beside those of `into`.
pub(super) fn merge(into: &mut Value, more: &Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_envoy_has_an_admin_socket_of_its_own_in_the_runtime_folder() {
        let admin = |node_id: &str| {
            let bootstrap = Bootstrap {
                node_id,
                cluster: "ci",
                runtime_dir: Path::new("/run/x"),
                protocol: Protocol::Delta,
                clusters: ("a", "b"),
            };
            bootstrap.to_json()["admin"]["address"]["pipe"]["path"].as_str().unwrap().to_owned()
        };
        assert_eq!(admin("local"), "/run/x/envoy-admin.sock");
        assert_eq!(admin("edge-1"), "/run/x/envoy-admin-edge-1.sock");
        assert_eq!(admin("../../a b"), "/run/x/envoy-admin-______a_b.sock");
        assert!(admin(&"x".repeat(500)).len() < 100);
    }
}
