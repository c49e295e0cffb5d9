//! Upstream → clusters: verified TLS, always.
//!
//! The only way to a cluster is [`cluster`], which takes the name of the secret with the CAs to trust; there is no way to
//! leave verification out (design §3.5).

use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster,
    circuit_breakers::Thresholds,
    cluster::{ClusterDiscoveryType, CustomClusterType, DiscoveryType, DnsLookupFamily, LbPolicy},
};
use envoy_types::pb::envoy::config::core::v3::{
    self as core, Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions, UpstreamHttpProtocolOptions,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3::{
    ClusterConfig, cluster_config::ClusterImplementationSpecifier,
};
use envoy_types::pb::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, TlsParameters, UpstreamTlsContext, common_tls_context::ValidationContextType,
    tls_parameters::TlsProtocol,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions as UpstreamProtocols,
    http_protocol_options::{
        AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
    },
};
use envoy_types::pb::envoy::r#type::matcher::v3::AddressMatcher;
use envoy_types::pb::xds::core::v3::CidrRange;

use super::listener::{secret_reference, tls_socket};
use super::{Protocol, any, cluster_name, duration, socket_address, socket_address_of, stat_name, uint32};
use crate::domain::names::{Host, HostPattern, SandboxId};
use crate::domain::policy::{Address, Upstream};

/// The most names below a wildcard that are resolved at a time.
const MAX_WILDCARD_HOSTS: u32 = 1024;

/// Networks that a name must not lead into: what only this machine or its neighbours can reach, and what embeds such an
/// address. An `address` in the configuration is the way to mean one of them.
pub(super) const REFUSED_NETWORKS: [(&str, u32); 22] = [
    ("0.0.0.0", 8),      // this network
    ("10.0.0.0", 8),     // private
    ("100.64.0.0", 10),  // carrier-grade NAT
    ("127.0.0.0", 8),    // loopback
    ("169.254.0.0", 16), // link-local, cloud metadata
    ("172.16.0.0", 12),  // private
    ("192.0.0.0", 24),   // IETF protocol assignments
    ("192.168.0.0", 16), // private
    ("198.18.0.0", 15),  // benchmarking
    ("224.0.0.0", 4),    // multicast
    ("240.0.0.0", 4),    // reserved, broadcast
    ("::", 128),         // unspecified
    ("::1", 128),        // loopback
    ("::ffff:0:0", 96),  // IPv4-mapped
    ("64:ff9b::", 96),   // NAT64
    ("64:ff9b:1::", 48), // local-use NAT64
    ("2001::", 32),      // Teredo
    ("2002::", 16),      // 6to4
    ("fc00::", 7),       // unique local
    ("fe80::", 10),      // link-local
    ("fec0::", 10),      // site-local
    ("ff00::", 8),       // multicast
];

/// A cluster for `upstream` that trusts the CAs in the secret `trusted_ca`, and accepts only a certificate for the host.
pub(super) fn cluster(
    sandbox: &SandboxId,
    pattern: &HostPattern,
    upstream: &Upstream,
    trusted_ca: &str,
    protocol: Protocol,
) -> Cluster {
    let name = cluster_name(sandbox, &pattern.to_string(), protocol);
    let (discovery, lb_policy, load_assignment) = match &upstream.address {
        None => {
            let resolution = Resolution::of(sandbox, pattern);
            let resolution = if upstream.private { resolution.private() } else { resolution };
            (dynamic_forward_proxy(&resolution), LbPolicy::ClusterProvided, None)
        }
        Some(address) => {
            let kind = match address {
                Address::Ip(_) => DiscoveryType::Static,
                Address::Name(..) => DiscoveryType::StrictDns,
            };
            (ClusterDiscoveryType::Type(kind as i32), LbPolicy::RoundRobin, Some(endpoint(&name, address)))
        }
    };
    Cluster {
        alt_stat_name: stat_name(&name),
        name,
        connect_timeout: Some(duration(10)),
        // What is read at once is decoded at once: 64 KB of gzip are at most 64 MB.
        per_connection_buffer_limit_bytes: Some(uint32(64 * 1024)),
        lb_policy: lb_policy as i32,
        load_assignment,
        dns_lookup_family: DnsLookupFamily::V4Preferred as i32,
        circuit_breakers: Some(no_breakers()),
        transport_socket: Some(tls_socket(any(&verified_tls(pattern.exact(), trusted_ca, protocol)))),
        typed_extension_protocol_options: HashMap::from([(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            any(&protocols(pattern.exact(), protocol)),
        )]),
        cluster_discovery_type: Some(discovery),
        ..Default::default()
    }
}

/// A cache of resolved names, and where they may lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolution {
    cache: String,
    max_hosts: u32,
    is_private: bool,
}

impl Resolution {
    /// For hosts that are named exactly.
    pub(super) fn common() -> Self {
        Self { cache: "upstreams".to_owned(), max_hosts: 16 * 1024, is_private: false }
    }

    /// For an upstream. A wildcard has its own, so that the names which one sandbox thinks of fill no other's.
    pub(super) fn of(sandbox: &SandboxId, pattern: &HostPattern) -> Self {
        match pattern {
            HostPattern::Exact(_) => Self::common(),
            HostPattern::Below(_) => {
                Self { cache: format!("{sandbox}/{pattern}"), max_hosts: MAX_WILDCARD_HOSTS, is_private: false }
            }
        }
    }

    /// The same for upstreams that may be private.
    pub(super) fn private(&self) -> Self {
        Self { cache: format!("{}/private", self.cache), is_private: true, ..*self }
    }
}

/// The name is resolved when it is first asked for, and what it resolves to is filtered.
fn dynamic_forward_proxy(resolution: &Resolution) -> ClusterDiscoveryType {
    ClusterDiscoveryType::ClusterType(CustomClusterType {
        name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
        typed_config: Some(any(&ClusterConfig {
            // For one host, SNI and name check are set on the TLS context, from the configuration; "insecure" is Envoy's word
            // for not taking them from the request.
            allow_insecure_cluster_options: true,
            cluster_implementation_specifier: Some(ClusterImplementationSpecifier::DnsCacheConfig(dns_cache(
                resolution,
            ))),
            ..Default::default()
        })),
    })
}

/// A cache that filters and clusters share: they must all say the same of it.
pub(super) fn dns_cache(resolution: &Resolution) -> DnsCacheConfig {
    let refused = AddressMatcher {
        ranges: REFUSED_NETWORKS
            .iter()
            .map(|&(prefix, length)| CidrRange { address_prefix: prefix.to_owned(), prefix_len: Some(uint32(length)) })
            .collect(),
        invert_match: false,
    };
    DnsCacheConfig {
        name: resolution.cache.clone(),
        dns_lookup_family: DnsLookupFamily::V4Preferred as i32,
        max_hosts: Some(uint32(resolution.max_hosts)),
        dns_query_timeout: Some(duration(5)),
        resolved_address_filter: (!resolution.is_private).then_some(refused),
        ..Default::default()
    }
}

fn endpoint(cluster: &str, address: &Address) -> ClusterLoadAssignment {
    let address = match address {
        Address::Ip(address) => socket_address(*address),
        Address::Name(host, port) => socket_address_of(host.as_str(), *port),
    };
    assignment(cluster, address)
}

/// A cluster of one address.
pub(super) fn assignment(cluster: &str, address: core::Address) -> ClusterLoadAssignment {
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![LbEndpoint {
                host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
                    address: Some(address),
                    ..Default::default()
                })),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// `trusted_ca` alone does not check the name, and no validation context accepts anything: always both. Without a `host` the
/// name is the request's, which the routes have set ([`protocols`]).
fn verified_tls(host: Option<&Host>, trusted_ca: &str, protocol: Protocol) -> UpstreamTlsContext {
    UpstreamTlsContext {
        sni: host.map(Host::to_string).unwrap_or_default(),
        auto_sni_san_validation: true,
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
                tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
                ..Default::default()
            }),
            alpn_protocols: match protocol {
                // The pool sets ALPN itself.
                Protocol::Negotiated => vec![],
                Protocol::Http1 => vec!["http/1.1".to_owned()],
            },
            validation_context_type: Some(ValidationContextType::ValidationContextSdsSecretConfig(secret_reference(
                trusted_ca.to_owned(),
            ))),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn protocols(host: Option<&Host>, protocol: Protocol) -> UpstreamProtocols {
    UpstreamProtocols {
        upstream_http_protocol_options: host.is_none().then(|| UpstreamHttpProtocolOptions {
            auto_sni: true,
            auto_san_validation: true,
            ..Default::default()
        }),
        common_http_protocol_options: Some(HttpProtocolOptions {
            // Below what common servers and load balancers allow, so that they are not the first to close.
            idle_timeout: Some(duration(50)),
            ..Default::default()
        }),
        upstream_protocol_options: Some(match protocol {
            Protocol::Negotiated => UpstreamProtocolOptions::AutoConfig(AutoHttpConfig {
                http_protocol_options: Some(Http1ProtocolOptions::default()),
                http2_protocol_options: Some(Http2ProtocolOptions::default()),
                ..Default::default()
            }),
            Protocol::Http1 => UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())),
            }),
        }),
        ..Default::default()
    }
}

/// Envoy's defaults (1,024 connections and requests) would refuse an agent's burst; memory is bounded per connection.
fn no_breakers() -> CircuitBreakers {
    let many = Some(uint32(1 << 20));
    CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: many,
            max_pending_requests: many,
            max_requests: many,
            max_retries: many,
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// Envoy does the filtering; this holds the table to what it is meant to say.
    fn is_refused(address: &str) -> bool {
        let address: IpAddr = address.parse().unwrap();
        REFUSED_NETWORKS.iter().any(|&(prefix, length)| match (address, prefix.parse().unwrap()) {
            (IpAddr::V4(a), IpAddr::V4(p)) => (a.to_bits() ^ p.to_bits()) >> (32 - length) == 0,
            (IpAddr::V6(a), IpAddr::V6(p)) => (a.to_bits() ^ p.to_bits()).checked_shr(128 - length).unwrap_or(0) == 0,
            _ => false,
        })
    }

    #[test]
    fn inner_addresses_are_refused_and_public_ones_are_not() {
        for inner in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(is_refused(inner), "{inner}");
        }
        for public in ["1.1.1.1", "52.1.2.3", "172.32.0.1", "203.0.113.7", "2606:4700::1111", "2a00:1450::1"] {
            assert!(!is_refused(public), "{public}");
        }
    }
}
