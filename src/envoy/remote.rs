//! What an Envoy on another machine must know to find this server, and to prove who it is.
//!
//! ```text
//! ADS, ext_authz, ext_proc ── clusters xds, vault ──── the certificate now in force ─┐
//!                                                                                    ├─ TLS 1.3 ─▶ --xds ADDR
//! SDS: the next certificate ── cluster identity ─┬──── the certificate now in force ─┤
//!                                                └──── the one in this file ─────────┘
//! ```
//!
//! The certificate in the file is needed once, to be given the next one. It cannot come by ADS: an Envoy that asks for it over the
//! very cluster that it is for crashes at its start. The cluster `identity` has the server twice, as two endpoints with a
//! certificate each: the one of the file ends some day, and the other one does not exist in the beginning. Envoy takes them in
//! turn, and tries again after 0.1 s.

use serde_json::{Value, json};

use super::Protocol;
use super::bootstrap::{asking, everything_by, merge, one_long_connection};
use crate::domain::node::NodeIdentity;
use crate::domain::policy::Address;

/// The bootstrap of an Envoy on another machine. Its `Debug` does not show the key.
pub struct RemoteBootstrap<'a> {
    /// Who it is.
    pub identity: &'a NodeIdentity,
    /// Where it reaches the server.
    pub server: &'a Address,
    /// The CA that the server's certificate is of, PEM.
    pub ca: &'a str,
    /// The URI that is in the server's certificate.
    pub server_uri: &'a str,
    /// The first certificate, PEM.
    pub chain: &'a str,
    /// Its key, PEM.
    pub key: &'a str,
    /// The name of the secret that has the certificates after it.
    pub secret: &'a str,
    /// Where its admin interface is to be; none when `None`.
    pub admin: Option<&'a Admin>,
    /// How it is to ask.
    pub protocol: Protocol,
    /// The names of the bootstrap's clusters for xDS and for the vault: what the resources refer to.
    pub clusters: (&'a str, &'a str),
}

/// Where Envoy's admin interface is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admin {
    /// At a TCP address.
    Address(std::net::SocketAddr),
    /// On a unix socket, for its user alone.
    Socket(String),
}

/// The cluster by which the next certificate comes.
const IDENTITY_CLUSTER: &str = "agent_creds_identity";

impl RemoteBootstrap<'_> {
    /// The bootstrap as Envoy reads it.
    pub fn to_json(&self) -> Value {
        let (xds, vault) = self.clusters;
        let mut bootstrap = json!({
            "node": { "id": self.identity.id.as_str(), "cluster": self.identity.gateway.as_str() },
            "static_resources": { "clusters": [
                self.cluster(xds, &[self.endpoint()], &json!({ "transport_socket": self.tls(&self.renewed()) })),
                self.cluster(vault, &[self.endpoint()], &json!({ "transport_socket": self.tls(&self.renewed()) })),
                self.identity_cluster(),
            ] },
        });
        merge(&mut bootstrap, &everything_by(xds, self.protocol));
        if let Some(admin) = self.admin {
            bootstrap["admin"] = json!({ "address": match admin {
                Admin::Address(address) => json!({ "socket_address": {
                    "address": address.ip().to_string(), "port_value": address.port(),
                } }),
                Admin::Socket(path) => json!({ "pipe": { "path": path, "mode": 0o600 } }),
            } });
        }
        bootstrap
    }

    fn identity_cluster(&self) -> Value {
        let endpoint = |by: &str| {
            let mut endpoint = self.endpoint();
            endpoint["metadata"] = json!({ "filter_metadata": { "envoy.transport_socket_match": { "by": by } } });
            endpoint
        };
        let socket = |by: &str, certificate: &Value| json!({ "name": by, "match": { "by": by }, "transport_socket": self.tls(certificate) });
        let enrolled = json!({ "tls_certificates": [{
            "certificate_chain": { "inline_string": self.chain },
            "private_key": { "inline_string": self.key },
        }] });
        let sockets = [socket("file", &enrolled), socket("renewed", &self.renewed())];
        let endpoints = [endpoint("file"), endpoint("renewed")];
        self.cluster(IDENTITY_CLUSTER, &endpoints, &json!({ "transport_socket_matches": sockets }))
    }

    /// The certificate now in force.
    fn renewed(&self) -> Value {
        json!({ "tls_certificate_sds_secret_configs": [{
            "name": self.secret,
            "sds_config": {
                "resource_api_version": "V3",
                // The cluster that it comes by is for it, too, and so must not wait for it.
                "initial_fetch_timeout": "0.2s",
                "api_config_source": asking(IDENTITY_CLUSTER, self.protocol),
            },
        }] })
    }

    /// TLS to the server alone, whatever address it is reached by.
    fn tls(&self, certificate: &Value) -> Value {
        let mut common = json!({
            "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
            "alpn_protocols": ["h2"],
            "validation_context": {
                "trusted_ca": { "inline_string": self.ca },
                "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": self.server_uri } }],
            },
        });
        merge(&mut common, certificate);
        let mut context = json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": common,
        });
        // For proxies on the way that go by it.
        if let Address::Name(host, _) = self.server {
            context["sni"] = json!(host.as_str());
        }
        json!({ "name": "envoy.transport_sockets.tls", "typed_config": context })
    }

    fn endpoint(&self) -> Value {
        let (address, port) = match self.server {
            Address::Ip(address) => (address.ip().to_string(), address.port()),
            Address::Name(host, port) => (host.to_string(), *port),
        };
        json!({ "endpoint": { "address": { "socket_address": { "address": address, "port_value": port } } } })
    }

    fn cluster(&self, name: &str, endpoints: &[Value], sockets: &Value) -> Value {
        let mut cluster = json!({
            "name": name,
            "type": match self.server { Address::Ip(_) => "STATIC", Address::Name(..) => "STRICT_DNS" },
            "dns_lookup_family": "V4_PREFERRED",
            "connect_timeout": "5s",
            "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] },
        });
        merge(&mut cluster, &one_long_connection());
        merge(&mut cluster, sockets);
        cluster
    }
}

impl std::fmt::Debug for RemoteBootstrap<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteBootstrap").field("identity", self.identity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootstrap(server: &str) -> Value {
        let identity: NodeIdentity =
            "agent-creds://node/edge-1?gateway=ci&enrolment=000102030405060708090a0b0c0d0e0f".parse().unwrap();
        let server = server.parse().unwrap();
        let bootstrap = RemoteBootstrap {
            identity: &identity,
            server: &server,
            ca: "CA",
            server_uri: "agent-creds://server",
            chain: "CHAIN",
            key: "KEY",
            secret: "node",
            admin: None,
            protocol: Protocol::Delta,
            clusters: ("x", "v"),
        };
        assert!(!format!("{bootstrap:?}").contains("KEY"));
        bootstrap.to_json()
    }

    #[test]
    fn every_way_to_the_server_is_verified_and_authenticated() {
        let json = bootstrap("192.0.2.1:18000");
        let clusters = json.pointer("/static_resources/clusters").and_then(Value::as_array).unwrap();
        assert_eq!(clusters.len(), 3);
        let mut contexts = 0;
        for cluster in clusters {
            let one = cluster.pointer("/transport_socket/typed_config").into_iter();
            let several = cluster["transport_socket_matches"].as_array().into_iter().flatten();
            let several = several.filter_map(|socket| socket.pointer("/transport_socket/typed_config"));
            for context in one.chain(several) {
                contexts += 1;
                let common = &context["common_tls_context"];
                assert_eq!(common["validation_context"]["trusted_ca"]["inline_string"], "CA");
                let name = common.pointer("/validation_context/match_typed_subject_alt_names/0/matcher/exact");
                assert_eq!(name.unwrap(), "agent-creds://server");
                let renewed = common.pointer("/tls_certificate_sds_secret_configs/0/name");
                let fixed = common.pointer("/tls_certificates/0/private_key/inline_string");
                assert!(renewed.is_some_and(|name| name == "node") != fixed.is_some_and(|key| key == "KEY"));
            }
        }
        assert_eq!(contexts, 4);
        assert_eq!(json.to_string().matches("\"KEY\"").count(), 1);
        assert!(json.get("admin").is_none());
        assert!(!json.to_string().contains("pipe"), "nothing of this machine");
    }

    #[test]
    fn a_server_may_have_a_name() {
        let json = bootstrap("creds.example.com:443");
        let cluster = json.pointer("/static_resources/clusters/0").unwrap();
        assert_eq!(cluster["type"], "STRICT_DNS");
        assert_eq!(cluster.pointer("/transport_socket/typed_config/sni").unwrap(), "creds.example.com");
    }
}
