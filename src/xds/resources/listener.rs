//! Policy → listener: one filter chain per upstream host, chosen by SNI.
//!
//! A filter chain is immutable: nothing in it depends on anything but its host's name, so no edit of the configuration ever
//! drains a connection that it does not remove (`envoy-facts.md`, Listener updates). What changes is elsewhere: routes by
//! RDS, certificates by SDS, upstreams by CDS, limits in the vault. Listener-wide fields never change either.

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, AndFilter, ComparisonFilter, ResponseFlagFilter, StatusCodeFilter, access_log_filter,
    comparison_filter,
};
use envoy_types::pb::envoy::config::common::mutation_rules::v3::{
    HeaderMutation as Mutation,
    header_mutation::{Action, RemoveOnMatch},
};
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, CidrRange, ConfigSource, DataSource, GrpcService, Http1ProtocolOptions,
    Http2ProtocolOptions, HttpProtocolOptions, RuntimeUInt32, SubstitutionFormatString, TransportSocket,
    config_source::ConfigSourceSpecifier, data_source, grpc_service, substitution_format_string, transport_socket,
};
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter, listener_filter,
};
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::http::{
    dynamic_forward_proxy::v3::{FilterConfig as DnsFilter, filter_config},
    ext_authz::v3::{ExtAuthz, ext_authz},
    header_mutation::v3::{HeaderMutation, Mutations},
    router::v3::Router,
};
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, LocalReplyConfig, Rds, ResponseMapper,
    http_connection_manager::{
        CodecType, InternalAddressConfig, PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation,
        UpgradeConfig,
    },
    http_filter,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, TlsParameters, tls_parameters::TlsProtocol,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::envoy::r#type::v3::{HttpStatus, StatusCode};

use super::route::{direct_response, every_path};
use super::{VAULT_CLUSTER, any, boolean, cluster, duration, leaf_name, route_name, socket_address, stat_name, uint32};
use crate::domain::names::{Host, SandboxId};
use crate::domain::policy::Policy;

/// Connections that stay silent are closed after this long; a model may think for many minutes before its next token.
const STREAM_IDLE_SECONDS: i64 = 3600;

/// What stands for a check that the vault did not answer until [`local_replies`] makes it 503. The vault may answer 503 itself,
/// in its own words, and never this; Envoy has one response flag for both.
const UNANSWERED: StatusCode = StatusCode::NetworkAuthenticationRequired;

/// How long the vault may take before a request is refused. Its own answers take microseconds; a credential that has to be
/// fetched first may take seconds.
const VAULT_TIMEOUT_SECONDS: i64 = 10;

pub(super) fn listener(policy: &Policy) -> Listener {
    let mut filter_chains: Vec<FilterChain> = policy
        .upstreams
        .keys()
        .filter_map(|pattern| pattern.exact())
        .map(|host| upstream_chain(&policy.id, host))
        .collect();
    filter_chains.push(plain_http_chain());
    Listener {
        name: super::listener_name(&policy.id),
        address: Some(socket_address(policy.listen)),
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
    FilterChain {
        name: host.to_string(),
        filter_chain_match: Some(FilterChainMatch {
            server_names: vec![host.to_string()],
            transport_protocol: "tls".to_owned(),
            ..Default::default()
        }),
        filters: vec![network_filter(&connection_manager(
            &stat_name(&route_name(sandbox, host)),
            RouteSpecifier::Rds(Rds { config_source: Some(ads()), route_config_name: route_name(sandbox, host) }),
            vec![
                http_filter("envoy.filters.http.ext_authz", any(&ext_authz())),
                http_filter("envoy.filters.http.header_mutation", any(&no_trailers())),
                http_filter("envoy.filters.http.dynamic_forward_proxy", any(&resolve_filter())),
                http_filter(
                    "envoy.filters.http.router",
                    any(&Router { suppress_envoy_headers: true, ..Default::default() }),
                ),
            ],
        ))],
        transport_socket: Some(downstream_tls(host)),
        transport_socket_connect_timeout: Some(duration(10)),
        ..Default::default()
    }
}

/// No TLS: a refusal that says why, so that `http://` in an agent's code does not look like a network fault.
fn plain_http_chain() -> FilterChain {
    let refusal = direct_response(
        400,
        "Bad Request: plain HTTP is refused here, because it would carry credentials in the clear. Use https:// instead.\n",
    );
    FilterChain {
        name: "plain-http".to_owned(),
        filter_chain_match: Some(FilterChainMatch {
            transport_protocol: "raw_buffer".to_owned(),
            ..Default::default()
        }),
        filters: vec![network_filter(&connection_manager(
            "plain-http",
            RouteSpecifier::RouteConfig(RouteConfiguration {
                name: "plain-http".to_owned(),
                virtual_hosts: vec![VirtualHost {
                    name: "refused".to_owned(),
                    domains: vec!["*".to_owned()],
                    routes: vec![every_path(refusal)],
                    ..Default::default()
                }],
                ..Default::default()
            }),
            vec![http_filter(
                "envoy.filters.http.router",
                any(&Router { suppress_envoy_headers: true, ..Default::default() }),
            )],
        ))],
        ..Default::default()
    }
}

fn connection_manager(
    stat_prefix: &str,
    routes: RouteSpecifier,
    http_filters: Vec<HttpFilter>,
) -> HttpConnectionManager {
    HttpConnectionManager {
        codec_type: CodecType::Auto as i32,
        stat_prefix: stat_prefix.to_owned(),
        route_specifier: Some(routes),
        http_filters,
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".to_owned(), ..Default::default() }],
        http_protocol_options: Some(Http1ProtocolOptions {
            // An absolute form could name another host than SNI and Host do.
            allow_absolute_url: Some(boolean(false)),
            ..Default::default()
        }),
        http2_protocol_options: Some(Http2ProtocolOptions {
            allow_connect: true,
            max_concurrent_streams: Some(uint32(1000)),
            ..Default::default()
        }),
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: Some(duration(STREAM_IDLE_SECONDS)),
            max_headers_count: Some(uint32(200)),
            ..Default::default()
        }),
        max_request_headers_kb: Some(uint32(96)),
        stream_idle_timeout: Some(duration(STREAM_IDLE_SECONDS)),
        request_headers_timeout: Some(duration(30)),
        // The vault judges the path that the upstream will see, and no other reading of it. Escaped slashes go on as they are, since
        // names in some APIs have them (Google Cloud Storage, GitLab); the vault judges them in both readings.
        normalize_path: Some(boolean(true)),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::KeepUnchanged as i32,
        // Transparent: nothing is told to the upstream that the client did not send, and the client's x-envoy-* headers
        // steer nothing (an address that is not internal has them removed).
        server_header_transformation: ServerHeaderTransformation::PassThrough as i32,
        generate_request_id: Some(boolean(false)),
        preserve_external_request_id: true,
        use_remote_address: Some(boolean(true)),
        skip_xff_append: true,
        internal_address_config: Some(InternalAddressConfig {
            unix_sockets: false,
            cidr_ranges: vec![CidrRange { address_prefix: "255.255.255.255".to_owned(), prefix_len: Some(uint32(32)) }],
        }),
        local_reply_config: Some(local_replies()),
        ..Default::default()
    }
}

/// Envoy's own answers, in our words: 502 when the upstream is at fault, 503 when the vault is (design §4).
fn local_replies() -> LocalReplyConfig {
    let flags = |flags: &[&str]| AccessLogFilter {
        filter_specifier: Some(access_log_filter::FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
        })),
    };
    let status = |code: u32| AccessLogFilter {
        filter_specifier: Some(access_log_filter::FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
            comparison: Some(ComparisonFilter {
                op: comparison_filter::Op::Eq as i32,
                value: Some(RuntimeUInt32 {
                    default_value: code,
                    runtime_key: "agent_creds.local_reply_status".to_owned(),
                }),
            }),
        })),
    };
    let all = |filters| AccessLogFilter {
        filter_specifier: Some(access_log_filter::FilterSpecifier::AndFilter(AndFilter { filters })),
    };
    LocalReplyConfig {
        mappers: vec![
            ResponseMapper {
                // DF: the name does not resolve, or only to addresses that are refused. UF, URX: no connection, or the
                // certificate is not trusted. UC: closed before an answer. UH: no address.
                filter: Some(all(vec![flags(&["UF", "UH", "UC", "URX", "DF"]), status(503)])),
                status_code: Some(uint32(502)),
                body_format_override: Some(text_format(
                    "Bad Gateway: %REQ(:AUTHORITY)% could not be reached, or its certificate is not trusted \
                     (%RESPONSE_CODE_DETAILS%)\n",
                )),
                ..Default::default()
            },
            ResponseMapper {
                filter: Some(all(vec![flags(&["UAEX"]), status(UNANSWERED as u32)])),
                status_code: Some(uint32(503)),
                body_format_override: Some(text_format(
                    "Service Unavailable: the agent-creds vault does not answer, so the request is refused. \
                     Is `agent-creds serve` running?\n",
                )),
                ..Default::default()
            },
        ],
        body_format: None,
    }
}

fn text_format(text: &str) -> SubstitutionFormatString {
    SubstitutionFormatString {
        content_type: "text/plain; charset=utf-8".to_owned(),
        format: Some(substitution_format_string::Format::TextFormatSource(DataSource {
            specifier: Some(data_source::Specifier::InlineString(text.to_owned())),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// Every request asks the vault; no answer in time is a refusal.
fn ext_authz() -> ExtAuthz {
    ExtAuthz {
        transport_api_version: ApiVersion::V3 as i32,
        services: Some(ext_authz::Services::GrpcService(GrpcService {
            timeout: Some(duration(VAULT_TIMEOUT_SECONDS)),
            target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(grpc_service::EnvoyGrpc {
                cluster_name: VAULT_CLUSTER.to_owned(),
                ..Default::default()
            })),
            ..Default::default()
        })),
        failure_mode_allow: false,
        status_on_error: Some(HttpStatus { code: UNANSWERED as i32 }),
        // All headers go to the vault: a token is refused wherever it hides. Raw, because their values need not be UTF-8.
        encode_raw_headers: true,
        validate_mutations: true,
        ..Default::default()
    }
}

/// Trailers come after the vault has answered, so nobody has looked for a token in them: they do not travel. Envoy leaves
/// those of HTTP/1.1 out by itself.
fn no_trailers() -> HeaderMutation {
    let every_name = StringMatcher {
        match_pattern: Some(MatchPattern::SafeRegex(RegexMatcher { regex: ".*".to_owned(), ..Default::default() })),
        ..Default::default()
    };
    HeaderMutation {
        mutations: Some(Mutations {
            request_trailers_mutations: vec![Mutation {
                action: Some(Action::RemoveOnMatch(RemoveOnMatch { key_matcher: Some(every_name) })),
            }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn resolve_filter() -> DnsFilter {
    DnsFilter {
        implementation_specifier: Some(filter_config::ImplementationSpecifier::DnsCacheConfig(cluster::dns_cache())),
        ..Default::default()
    }
}

fn downstream_tls(host: &Host) -> TransportSocket {
    tls_socket(any(&DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
                tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
                ..Default::default()
            }),
            alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
            tls_certificate_sds_secret_configs: vec![secret_reference(leaf_name(host))],
            ..Default::default()
        }),
        ..Default::default()
    }))
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

fn network_filter(manager: &HttpConnectionManager) -> Filter {
    Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(any(manager))),
    }
}

fn http_filter(name: &str, config: envoy_types::pb::google::protobuf::Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}
