//! Upstream → routes: the host to its cluster, everything else to 421.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::{
    DataSource, HeaderValue, HeaderValueOption, data_source, header_value_option::HeaderAppendAction,
};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    header_matcher, route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::{
    dynamic_forward_proxy::v3::{PerRouteConfig, per_route_config},
    ext_authz::v3::{BufferSettings, CheckSettings, ExtAuthzPerRoute, ext_authz_per_route},
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher};

use super::{MAX_SIGNED_BODY, Protocol, any, cluster_name, duration, route_name, uint32};
use crate::domain::decision::{BODY_EXTENSION, HOST_EXTENSION, SANDBOX_EXTENSION};
use crate::domain::names::{Host, SandboxId};

const EXT_AUTHZ: &str = "envoy.filters.http.ext_authz";
const DYNAMIC_FORWARD_PROXY: &str = "envoy.filters.http.dynamic_forward_proxy";

/// With `signed`, the vault is sent the bodies that it needs to sign requests.
pub(super) fn routes(sandbox: &SandboxId, host: &Host, signed: bool) -> RouteConfiguration {
    // A WebSocket needs HTTP/1.1 on the upstream side unless the upstream does extended CONNECT, which few do.
    let mut routes = vec![Route {
        request_headers_to_add: vec![websocket_key()],
        ..forward(sandbox, host, Protocol::Http1, vec![is_websocket()])
    }];
    if signed {
        routes.push(with_body(sandbox, host));
    }
    routes.push(forward(sandbox, host, Protocol::Negotiated, vec![]));
    RouteConfiguration {
        name: route_name(sandbox, host),
        virtual_hosts: vec![
            VirtualHost {
                name: host.to_string(),
                domains: vec![host.to_string()],
                routes,
                typed_per_filter_config: HashMap::from([
                    (EXT_AUTHZ.to_owned(), any(&identity(sandbox, host))),
                    (
                        DYNAMIC_FORWARD_PROXY.to_owned(),
                        any(&PerRouteConfig {
                            host_rewrite_specifier: Some(per_route_config::HostRewriteSpecifier::HostRewriteLiteral(
                                host.to_string(),
                            )),
                        }),
                    ),
                ]),
                ..Default::default()
            },
            VirtualHost {
                name: "misdirected".to_owned(),
                domains: vec!["*".to_owned()],
                routes: vec![
                    two_hosts(),
                    every_path(direct_response(
                        421,
                        &format!(
                            "Misdirected Request: this connection is for {host} (its TLS server name), and the request names \
                         another host. Open a connection of its own for each host.\n"
                        ),
                    )),
                ],
                // 421 is Envoy's own answer: the vault is not asked, no credential is near.
                typed_per_filter_config: HashMap::from([(EXT_AUTHZ.to_owned(), any(&unchecked()))]),
                ..Default::default()
            },
        ],
        // `Host: api.stripe.com:443` is the same host.
        ignore_port_in_host_matching: true,
        // A filter without per-route configuration elsewhere is no reason to refuse the routes.
        ..Default::default()
    }
}

fn forward(sandbox: &SandboxId, host: &Host, protocol: Protocol, headers: Vec<HeaderMatcher>) -> Route {
    Route {
        r#match: Some(RouteMatch {
            headers,
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster_name(sandbox, host, protocol))),
            // The upstream sees the name that was judged, whatever spelling or port the client used.
            host_rewrite_specifier: Some(route_action::HostRewriteSpecifier::HostRewriteLiteral(host.to_string())),
            // No limit on the length of a stream; silence is bounded by stream_idle_timeout.
            timeout: Some(duration(0)),
            retry_policy: Some(RetryPolicy {
                // Only before the request was sent: a kept-alive connection that the upstream was just closing.
                retry_on: "connect-failure,refused-stream,reset-before-request".to_owned(),
                num_retries: Some(uint32(2)),
                ..Default::default()
            }),
            ..Default::default()
        })),
        request_headers_to_remove: vec!["x-forwarded-proto".to_owned(), "x-envoy-external-address".to_owned()],
        ..Default::default()
    }
}

/// A request with an AWS signature that covers its body, and does not say which hash that has: the vault is sent the body.
fn with_body(sandbox: &SandboxId, host: &Host) -> Route {
    let is_signed = HeaderMatcher {
        name: "authorization".to_owned(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::StringMatch(StringMatcher {
            ignore_case: true,
            match_pattern: Some(string_matcher::MatchPattern::Prefix("AWS4-HMAC-SHA256".to_owned())),
        })),
        ..Default::default()
    };
    let says_no_hash = HeaderMatcher {
        name: "x-amz-content-sha256".to_owned(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::PresentMatch(false)),
        ..Default::default()
    };
    let body = BufferSettings {
        max_request_bytes: MAX_SIGNED_BODY,
        // Longer ones are refused with 413; but a last piece that goes over the limit is cut.
        allow_partial_message: false,
        pack_as_bytes: true,
    };
    let mut settings = identity(sandbox, host);
    if let Some(ext_authz_per_route::Override::CheckSettings(settings)) = &mut settings.r#override {
        settings.context_extensions.insert(BODY_EXTENSION.to_owned(), MAX_SIGNED_BODY.to_string());
        settings.with_request_body = Some(body);
    }
    Route {
        typed_per_filter_config: HashMap::from([(EXT_AUTHZ.to_owned(), any(&settings))]),
        ..forward(sandbox, host, Protocol::Negotiated, vec![is_signed, says_no_hash])
    }
}

fn is_websocket() -> HeaderMatcher {
    HeaderMatcher {
        name: "upgrade".to_owned(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::StringMatch(StringMatcher {
            ignore_case: true,
            match_pattern: Some(string_matcher::MatchPattern::Exact("websocket".to_owned())),
        })),
        ..Default::default()
    }
}

/// Envoy joins several `Host` headers by commas, and no name has one: 400, as RFC 9112 §3.2 has it.
fn two_hosts() -> Route {
    let refusal = direct_response(400, "Bad Request: more than one Host header.\n");
    let mut route = every_path(refusal);
    route.r#match.get_or_insert_default().headers = vec![HeaderMatcher {
        name: ":authority".to_owned(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(string_matcher::MatchPattern::Contains(",".to_owned())),
            ..Default::default()
        })),
        ..Default::default()
    }];
    route
}

/// A WebSocket by extended CONNECT has no key (RFC 8441 §5), and by HTTP/1.1 upgrade needs one (RFC 6455 §4.1); Envoy makes
/// the one the other without adding it. Any 16 bytes will do: it is no secret, and this client does not look at the answer.
fn websocket_key() -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: "sec-websocket-key".to_owned(),
            value: "YWdlbnQtY3JlZHMta2V5IQ==".to_owned(),
            ..Default::default()
        }),
        append_action: HeaderAppendAction::AddIfAbsent as i32,
        ..Default::default()
    }
}

fn identity(sandbox: &SandboxId, host: &Host) -> ExtAuthzPerRoute {
    ExtAuthzPerRoute {
        r#override: Some(ext_authz_per_route::Override::CheckSettings(CheckSettings {
            context_extensions: HashMap::from([
                (SANDBOX_EXTENSION.to_owned(), sandbox.to_string()),
                (HOST_EXTENSION.to_owned(), host.to_string()),
            ]),
            ..Default::default()
        })),
    }
}

fn unchecked() -> ExtAuthzPerRoute {
    ExtAuthzPerRoute { r#override: Some(ext_authz_per_route::Override::Disabled(true)) }
}

pub(super) fn every_path(action: route::Action) -> Route {
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(action),
        ..Default::default()
    }
}

pub(super) fn direct_response(status: u32, body: &str) -> route::Action {
    route::Action::DirectResponse(DirectResponseAction {
        status,
        body: Some(DataSource {
            specifier: Some(data_source::Specifier::InlineString(body.to_owned())),
            ..Default::default()
        }),
        ..Default::default()
    })
}
