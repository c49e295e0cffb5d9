//! Policy → listener: filter chains, chosen by SNI.
//!
//! A filter chain is immutable: nothing in it depends on anything but its upstream's name, so no edit of the configuration ever
//! drains a connection that it does not remove (`envoy-facts.md`, Listener updates). What changes is elsewhere: routes by
//! RDS, certificates by SDS, upstreams by CDS, limits in the vault. Listener-wide fields never change either.

use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, TransportSocket, TypedExtensionConfig,
    config_source::ConfigSourceSpecifier, transport_socket,
};
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener, ListenerFilter, listener_filter};
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    Rds, http_connection_manager::RouteSpecifier,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::cert_mappers::sni::v3::Sni;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::cert_selectors::on_demand_secret::v3::Config as OnDemandSecret;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, TlsParameters,
    downstream_tls_context::SessionTicketKeysType, tls_parameters::TlsProtocol,
};

use super::cluster::Resolution;
use super::host;
use super::layout::Layout;
use super::manager::{HostBy, by_server_name, connection_manager, http_filter, http_filters, network_filter};
use super::matching::filter_chain_matcher;
use super::route::{direct_response, every_path};
use super::{
    PLAIN_HTTP_CHAIN, SHARED_CHAIN, any, boolean, duration, leaf_name, route_name, socket_address, stat_name, uint32,
};
use crate::domain::names::{Host, HostPattern, SandboxId};
use crate::domain::policy::Policy;

/// The listener of a policy; of a sandbox's, when `with_host`, plain HTTP leads to the host.
pub(super) fn listener(policy: &Policy, with_host: bool) -> Listener {
    let (id, layout) = (&policy.id, Layout::of(policy));
    let own = layout.own.iter().map(|(host, _)| upstream_chain(id, host));
    let wildcards = layout.wildcards.iter().map(|(pattern, _)| wildcard_chain(id, pattern));
    let mut filter_chains: Vec<FilterChain> = own.chain(wildcards).collect();
    if !layout.shared.is_empty() {
        filter_chains.push(shared_chain(id));
    }
    let instance = policy.instance.as_ref().filter(|_| with_host);
    filter_chains.push(plain_http_chain(instance.map(|instance| host::virtual_host(id, instance))));
    Listener {
        name: super::listener_name(&policy.id),
        address: Some(socket_address(policy.listen)),
        filter_chain_matcher: Some(filter_chain_matcher(&layout)),
        filter_chains,
        listener_filters: vec![ListenerFilter {
            name: "envoy.filters.listener.tls_inspector".to_owned(),
            config_type: Some(listener_filter::ConfigType::TypedConfig(any(&TlsInspector::default()))),
            ..Default::default()
        }],
        listener_filters_timeout: Some(duration(10)),
        per_connection_buffer_limit_bytes: Some(uint32(256 * 1024)),
        // With SO_REUSEPORT, Envoy's default, another program of this user could listen on the same address and be given some
        // of the connections, and an address that another Envoy has would be shared instead of refused.
        enable_reuse_port: Some(boolean(false)),
        ..Default::default()
    }
}

/// TLS with this SNI: our leaf, then the HTTP filters.
fn upstream_chain(sandbox: &SandboxId, host: &Host) -> FilterChain {
    let filters = http_filters(HostBy::Chain, &Resolution::common());
    let name = host.as_str();
    let manager = connection_manager(&stat_name(&route_name(sandbox, name)), routes(sandbox, name), filters);
    let tls = CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![secret_reference(leaf_name(host))],
        ..common_tls()
    };
    FilterChain {
        name: name.to_owned(),
        filters: vec![network_filter(&manager)],
        transport_socket: Some(tls_socket(any(&DownstreamTlsContext {
            common_tls_context: Some(tls),
            ..Default::default()
        }))),
        transport_socket_connect_timeout: Some(duration(10)),
        ..Default::default()
    }
}

/// Any name below the wildcard.
fn wildcard_chain(sandbox: &SandboxId, pattern: &HostPattern) -> FilterChain {
    on_demand_chain(sandbox, &pattern.to_string(), &Resolution::of(sandbox, pattern))
}

/// Any host that has no chain of its own.
fn shared_chain(sandbox: &SandboxId) -> FilterChain {
    on_demand_chain(sandbox, SHARED_CHAIN, &Resolution::common())
}

/// A chain for many names: the leaf is asked for when a connection names it.
fn on_demand_chain(sandbox: &SandboxId, name: &str, resolution: &Resolution) -> FilterChain {
    let filters = http_filters(HostBy::ServerName, resolution);
    let manager = connection_manager(&stat_name(&route_name(sandbox, name)), routes(sandbox, name), filters);
    let by_name = OnDemandSecret {
        config_source: Some(ads()),
        certificate_mapper: Some(TypedExtensionConfig {
            name: "envoy.tls.certificate_mappers.sni".to_owned(),
            // No connection without a name comes here.
            typed_config: Some(any(&Sni { default_value: "-".to_owned() })),
        }),
        ..Default::default()
    };
    let tls = CommonTlsContext {
        custom_tls_certificate_selector: Some(TypedExtensionConfig {
            name: "envoy.tls.certificate_selectors.on_demand_secret".to_owned(),
            typed_config: Some(any(&by_name)),
        }),
        ..common_tls()
    };
    FilterChain {
        name: name.to_owned(),
        filters: vec![network_filter(&by_server_name(sandbox, manager))],
        transport_socket: Some(tls_socket(any(&DownstreamTlsContext {
            common_tls_context: Some(tls),
            // Envoy takes the selector only without any resumption.
            disable_stateful_session_resumption: true,
            session_ticket_keys_type: Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)),
            ..Default::default()
        }))),
        // A leaf that does not come is a refusal.
        transport_socket_connect_timeout: Some(duration(10)),
        ..Default::default()
    }
}

fn routes(sandbox: &SandboxId, name: &str) -> RouteSpecifier {
    RouteSpecifier::Rds(Rds { config_source: Some(ads()), route_config_name: route_name(sandbox, name) })
}

/// No TLS: a refusal that says why, so that `http://` in an agent's code does not look like a network fault; and, in a sandbox,
/// the way to the host.
fn plain_http_chain(host: Option<VirtualHost>) -> FilterChain {
    let refusal = direct_response(
        400,
        "Bad Request: plain HTTP is refused here, because it would carry credentials in the clear. Use https:// instead.\n",
    );
    let leads_to_host = host.is_some();
    let refused = VirtualHost {
        name: "refused".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![every_path(refusal)],
        ..Default::default()
    };
    let manager = connection_manager(
        "plain-http",
        RouteSpecifier::RouteConfig(RouteConfiguration {
            name: "plain-http".to_owned(),
            virtual_hosts: host.into_iter().chain([refused]).collect(),
            // `localhost:9222` is `localhost`.
            ignore_port_in_host_matching: leads_to_host,
            ..Default::default()
        }),
        vec![http_filter(
            "envoy.filters.http.router",
            any(&Router { suppress_envoy_headers: true, ..Default::default() }),
        )],
    );
    let manager = if leads_to_host { host::as_it_is(manager) } else { manager };
    FilterChain { name: PLAIN_HTTP_CHAIN.to_owned(), filters: vec![network_filter(&manager)], ..Default::default() }
}

fn common_tls() -> CommonTlsContext {
    CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
            tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
            ..Default::default()
        }),
        alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
        ..Default::default()
    }
}

/// A secret by SDS. Its bytes never change between updates: a listener whose reference changes may go active without a
/// certificate (envoy#47309, #46155).
pub(super) fn secret_reference(name: String) -> SdsSecretConfig {
    SdsSecretConfig { name, sds_config: Some(ads()) }
}

pub(super) fn tls_socket(context: envoy_types::pb::google::protobuf::Any) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(context)),
    }
}

fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}
