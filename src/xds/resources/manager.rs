//! The HTTP side of a filter chain: how requests are read, and the filters that they go through.

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, AndFilter, ComparisonFilter, ResponseFlagFilter, StatusCodeFilter, access_log_filter,
    comparison_filter,
};
use envoy_types::pb::envoy::config::common::mutation_rules::v3::{
    HeaderMutation as Mutation,
    header_mutation::{Action, RemoveOnMatch},
};
use envoy_types::pb::envoy::config::core::v3::{
    ApiVersion, CidrRange, DataSource, GrpcService, HeaderValue, HeaderValueOption, Http1ProtocolOptions,
    Http2ProtocolOptions, HttpProtocolOptions, RuntimeUInt32, SubstitutionFormatString, TypedExtensionConfig,
    data_source, grpc_service, header_value_option::HeaderAppendAction, substitution_format_string,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, filter};
use envoy_types::pb::envoy::extensions::filters::http::{
    dynamic_forward_proxy::v3::{FilterConfig as DnsFilter, filter_config},
    ext_authz::v3::{ExtAuthz, ext_authz},
    header_mutation::v3::{HeaderMutation, Mutations},
    router::v3::Router,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, LocalReplyConfig, ResponseMapper,
    http_connection_manager::{
        CodecType, InternalAddressConfig, PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation,
        UpgradeConfig,
    },
    http_filter,
};
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation as EarlyMutation;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::envoy::r#type::v3::{HttpStatus, StatusCode};

use super::cluster::{Resolution, dns_cache};
use super::{
    CLUSTER_HEADER, HTTP1_CLUSTER_HEADER, MAX_SIGNED_BODY, Protocol, SERVER_NAME, SERVER_NAME_HEADER, VAULT_CLUSTER,
    any, boolean, cluster_name, duration, reflection, uint32,
};
use crate::domain::names::SandboxId;

/// Connections that stay silent are closed after this long; a model may think for many minutes before its next token.
const STREAM_IDLE_SECONDS: i64 = 3600;

/// What stands for a check that the vault did not answer until [`local_replies`] makes it 503. The vault may answer 503 itself,
/// in its own words, and never this; Envoy has one response flag for both.
const UNANSWERED: StatusCode = StatusCode::NetworkAuthenticationRequired;

/// How long the vault may take before a request is refused. Its own answers take microseconds; a credential that has to be
/// fetched first may take seconds.
pub(super) const VAULT_TIMEOUT_SECONDS: i64 = 10;

/// What resolves the names of upstreams that may be anywhere.
pub(super) const RESOLVE: &str = "envoy.filters.http.dynamic_forward_proxy";
/// What resolves those that may be private; passed by unless the route says otherwise.
pub(super) const RESOLVE_PRIVATE: &str = "agent_creds.resolve_private";

/// How a chain knows which host a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostBy {
    /// It is for one host.
    Chain,
    /// By the server name of the connection: the vault and the routes are told.
    ServerName,
}

/// Requests go through them in this order, answers in the other one. Names are resolved as `resolution` says, or, where a route
/// wants it, as its private twin does.
pub(super) fn http_filters(host_by: HostBy, resolution: &Resolution) -> Vec<HttpFilter> {
    let mut filters = vec![http_filter("envoy.filters.http.ext_authz", any(&ext_authz(host_by)))];
    filters.extend(reflection::filters());
    filters.extend([
        http_filter("envoy.filters.http.header_mutation", any(&no_trailers())),
        http_filter(RESOLVE, any(&resolve_filter(resolution))),
        HttpFilter { disabled: true, ..http_filter(RESOLVE_PRIVATE, any(&resolve_filter(&resolution.private()))) },
        http_filter("envoy.filters.http.router", any(&Router { suppress_envoy_headers: true, ..Default::default() })),
    ]);
    filters
}

/// The same for a chain on which the server name says which host a request is for: routes find it in headers that no client can
/// set, for whatever a client sends under their names is replaced.
pub(super) fn by_server_name(sandbox: &SandboxId, manager: HttpConnectionManager) -> HttpConnectionManager {
    let set = |name: &str, value: String| Mutation {
        action: Some(Action::Append(HeaderValueOption {
            header: Some(HeaderValue { key: name.to_owned(), value, ..Default::default() }),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
            ..Default::default()
        })),
    };
    let cluster = |protocol| cluster_name(sandbox, SERVER_NAME, protocol);
    let mutations = vec![
        set(SERVER_NAME_HEADER, SERVER_NAME.to_owned()),
        set(CLUSTER_HEADER, cluster(Protocol::Negotiated)),
        set(HTTP1_CLUSTER_HEADER, cluster(Protocol::Http1)),
    ];
    HttpConnectionManager {
        early_header_mutation_extensions: vec![TypedExtensionConfig {
            name: "envoy.http.early_header_mutation.header_mutation".to_owned(),
            typed_config: Some(any(&EarlyMutation { mutations })),
        }],
        ..manager
    }
}

pub(super) fn connection_manager(
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
                // Only what the vault has to sign is held back, and only that can be too long.
                filter: Some(status(413)),
                body_format_override: Some(text_format(&format!(
                    "Payload Too Large: to sign this request anew, the agent-creds vault reads its whole body, and no more \
                     than {} MiB. Send the SHA-256 hash of the body in x-amz-content-sha256, and it need not be read.\n",
                    MAX_SIGNED_BODY / 1024 / 1024
                ))),
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

fn status(code: u32) -> AccessLogFilter {
    AccessLogFilter {
        filter_specifier: Some(access_log_filter::FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
            comparison: Some(ComparisonFilter {
                op: comparison_filter::Op::Eq as i32,
                value: Some(RuntimeUInt32 {
                    default_value: code,
                    runtime_key: "agent_creds.local_reply_status".to_owned(),
                }),
            }),
        })),
    }
}

/// `text` in place of every 503 of Envoy's own.
pub(super) fn unanswered_by(text: &str) -> LocalReplyConfig {
    LocalReplyConfig {
        mappers: vec![ResponseMapper {
            filter: Some(status(503)),
            body_format_override: Some(text_format(text)),
            ..Default::default()
        }],
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
fn ext_authz(host_by: HostBy) -> ExtAuthz {
    ExtAuthz {
        transport_api_version: ApiVersion::V3 as i32,
        services: Some(ext_authz::Services::GrpcService(GrpcService {
            timeout: Some(duration(VAULT_TIMEOUT_SECONDS)),
            ..vault()
        })),
        failure_mode_allow: false,
        status_on_error: Some(HttpStatus { code: UNANSWERED as i32 }),
        // All headers go to the vault: a token is refused wherever it hides. Raw, because their values need not be UTF-8.
        encode_raw_headers: true,
        validate_mutations: true,
        // The server name, as Envoy has it from the handshake.
        include_tls_session: host_by == HostBy::ServerName,
        ..Default::default()
    }
}

pub(super) fn vault() -> GrpcService {
    GrpcService {
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(grpc_service::EnvoyGrpc {
            cluster_name: VAULT_CLUSTER.to_owned(),
            ..Default::default()
        })),
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

fn resolve_filter(resolution: &Resolution) -> DnsFilter {
    DnsFilter {
        implementation_specifier: Some(filter_config::ImplementationSpecifier::DnsCacheConfig(dns_cache(resolution))),
        ..Default::default()
    }
}

pub(super) fn network_filter(manager: &HttpConnectionManager) -> Filter {
    Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(any(manager))),
    }
}

pub(super) fn http_filter(name: &str, config: envoy_types::pb::google::protobuf::Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}
