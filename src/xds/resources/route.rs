//! Upstream → routes: the host to its cluster, everything else to 421.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::{
    DataSource, HeaderValue, HeaderValueOption, data_source, header_value_option::HeaderAppendAction,
};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, FilterConfig, HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch,
    VirtualHost, header_matcher, route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::{
    dynamic_forward_proxy::v3::{PerRouteConfig, per_route_config},
    ext_authz::v3::{BufferSettings, CheckSettings, ExtAuthzPerRoute, ext_authz_per_route},
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher};
use envoy_types::pb::google::protobuf::Any;
use serde::Serialize;

use super::manager::{RESOLVE, RESOLVE_PRIVATE};
use super::{
    CLUSTER_HEADER, HTTP1_CLUSTER_HEADER, MAX_SIGNED_BODY, Protocol, SERVER_NAME, SERVER_NAME_HEADER, SHARED_CHAIN,
    any, cluster_name, duration, route_name, uint32,
};
use crate::domain::decision::{BODY_EXTENSION, HOST_EXTENSION, SANDBOX_EXTENSION};
use crate::domain::names::{Host, HostPattern, SandboxId};

const EXT_AUTHZ: &str = "envoy.filters.http.ext_authz";

/// What routes lead to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    /// One upstream: a host, or all below a wildcard.
    Upstream(&'a HostPattern),
    /// All hosts that share a chain.
    Shared,
}

impl Target<'_> {
    fn name(self) -> String {
        match self {
            Self::Upstream(pattern) => pattern.to_string(),
            Self::Shared => SHARED_CHAIN.to_owned(),
        }
    }

    /// The host, when there is only one.
    fn host(&self) -> Option<&Host> {
        match self {
            Self::Upstream(pattern) => pattern.exact(),
            Self::Shared => None,
        }
    }
}

/// Which of an upstream's requests need more than others.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Needs<'a> {
    /// The vault is sent the bodies that it needs to sign requests.
    pub(super) signed: bool,
    /// Of a shared chain: only those to these hosts.
    pub(super) signed_hosts: &'a [&'a Host],
    /// Its name may be private.
    pub(super) private: bool,
}

/// The routes of one chain.
pub(super) fn routes(sandbox: &SandboxId, target: Target<'_>, needs: Needs<'_>) -> RouteConfiguration {
    let to = Forward { sandbox, target };
    // A WebSocket needs HTTP/1.1 on the upstream side unless the upstream does extended CONNECT, which few do.
    let websocket = to.route(Protocol::Http1, vec![is_websocket()]);
    let mut routes = vec![Route { request_headers_to_add: vec![websocket_key()], ..websocket }];
    if needs.signed {
        routes.push(to.with_body(vec![]));
    }
    routes.extend(needs.signed_hosts.iter().map(|host| to.with_body(vec![has_server_name(host)])));
    routes.push(to.route(Protocol::Negotiated, vec![]));
    let mut filters = resolution(target, needs.private);
    filters.insert(EXT_AUTHZ.to_owned(), any(&identity(sandbox, target)));
    let mut virtual_hosts = vec![VirtualHost {
        name: target.name(),
        domains: vec![target.host().map_or("*", Host::as_str).to_owned()],
        routes,
        typed_per_filter_config: filters,
        ..Default::default()
    }];
    match target.host() {
        Some(host) => virtual_hosts.push(misdirected(host)),
        // Which names there are, and that the request has the name of its connection, is for the vault to know.
        None => virtual_hosts[0].routes.insert(0, unchecked(two_hosts())),
    }
    RouteConfiguration {
        name: route_name(sandbox, &target.name()),
        virtual_hosts,
        // `Host: api.stripe.com:443` is the same host.
        ignore_port_in_host_matching: true,
        // A filter without per-route configuration elsewhere is no reason to refuse the routes.
        ..Default::default()
    }
}

fn misdirected(host: &Host) -> VirtualHost {
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
        typed_per_filter_config: HashMap::from([(EXT_AUTHZ.to_owned(), any(&is_unchecked()))]),
        ..Default::default()
    }
}

/// The same without a question to the vault: it is answered here.
fn unchecked(route: Route) -> Route {
    Route { typed_per_filter_config: HashMap::from([(EXT_AUTHZ.to_owned(), any(&is_unchecked()))]), ..route }
}

/// How the name is resolved: as it was judged, whatever spelling or port the client used.
fn resolution(target: Target<'_>, private: bool) -> HashMap<String, Any> {
    let host = match target.host() {
        Some(host) => per_route_config::HostRewriteSpecifier::HostRewriteLiteral(host.to_string()),
        None => per_route_config::HostRewriteSpecifier::HostRewriteHeader(SERVER_NAME_HEADER.to_owned()),
    };
    let name = any(&PerRouteConfig { host_rewrite_specifier: Some(host) });
    if !private {
        return HashMap::from([(RESOLVE.to_owned(), name)]);
    }
    let instead = FilterConfig { config: Some(name), ..Default::default() };
    let passed_by = FilterConfig { disabled: true, ..Default::default() };
    HashMap::from([(RESOLVE_PRIVATE.to_owned(), any(&instead)), (RESOLVE.to_owned(), any(&passed_by))])
}

struct Forward<'a> {
    sandbox: &'a SandboxId,
    target: Target<'a>,
}

impl Forward<'_> {
    fn route(&self, protocol: Protocol, headers: Vec<HeaderMatcher>) -> Route {
        let Self { sandbox, target } = *self;
        let cluster = match (target, protocol) {
            (Target::Upstream(pattern), _) => {
                route_action::ClusterSpecifier::Cluster(cluster_name(sandbox, &pattern.to_string(), protocol))
            }
            (Target::Shared, Protocol::Negotiated) => {
                route_action::ClusterSpecifier::ClusterHeader(CLUSTER_HEADER.to_owned())
            }
            (Target::Shared, Protocol::Http1) => {
                route_action::ClusterSpecifier::ClusterHeader(HTTP1_CLUSTER_HEADER.to_owned())
            }
        };
        // The upstream sees the name that was judged, whatever spelling or port the client used.
        let (host, own_headers) = match target.host() {
            Some(host) => (route_action::HostRewriteSpecifier::HostRewriteLiteral(host.to_string()), &[][..]),
            None => (
                route_action::HostRewriteSpecifier::HostRewrite(SERVER_NAME.to_owned()),
                &[SERVER_NAME_HEADER, CLUSTER_HEADER, HTTP1_CLUSTER_HEADER][..],
            ),
        };
        let removed = ["x-forwarded-proto", "x-envoy-external-address"].iter().chain(own_headers);
        Route {
            r#match: Some(RouteMatch {
                headers,
                path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
                ..Default::default()
            }),
            action: Some(route::Action::Route(RouteAction {
                cluster_specifier: Some(cluster),
                host_rewrite_specifier: Some(host),
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
            request_headers_to_remove: removed.map(|&name| name.to_owned()).collect(),
            ..Default::default()
        }
    }

    /// A request with an AWS signature that covers its body, and does not say which hash that has: the vault is sent the body.
    fn with_body(&self, mut headers: Vec<HeaderMatcher>) -> Route {
        let is_signed = header(
            "authorization",
            StringMatcher {
                ignore_case: true,
                match_pattern: Some(string_matcher::MatchPattern::Prefix("AWS4-HMAC-SHA256".to_owned())),
            },
        );
        let says_no_hash = HeaderMatcher {
            name: "x-amz-content-sha256".to_owned(),
            header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::PresentMatch(false)),
            ..Default::default()
        };
        headers.extend([is_signed, says_no_hash]);
        let body = BufferSettings {
            max_request_bytes: MAX_SIGNED_BODY,
            // Longer ones are refused with 413; but a last piece that goes over the limit is cut.
            allow_partial_message: false,
            pack_as_bytes: true,
        };
        let mut settings = identity(self.sandbox, self.target);
        if let Some(ext_authz_per_route::Override::CheckSettings(settings)) = &mut settings.r#override {
            settings.context_extensions.insert(BODY_EXTENSION.to_owned(), MAX_SIGNED_BODY.to_string());
            settings.with_request_body = Some(body);
        }
        Route {
            typed_per_filter_config: HashMap::from([(EXT_AUTHZ.to_owned(), any(&settings))]),
            ..self.route(Protocol::Negotiated, headers)
        }
    }
}

fn header(name: &str, matcher: StringMatcher) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::StringMatch(matcher)),
        ..Default::default()
    }
}

fn exactly(text: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(string_matcher::MatchPattern::Exact(text.to_owned())), ..Default::default() }
}

fn has_server_name(host: &Host) -> HeaderMatcher {
    header(SERVER_NAME_HEADER, exactly(host.as_str()))
}

fn is_websocket() -> HeaderMatcher {
    header("upgrade", StringMatcher { ignore_case: true, ..exactly("websocket") })
}

/// Envoy joins several `Host` headers by commas, and no name has one: 400, as RFC 9112 §3.2 has it.
fn two_hosts() -> Route {
    let refusal = direct_response(400, "Bad Request: more than one Host header.\n");
    let mut route = every_path(refusal);
    let comma = Some(string_matcher::MatchPattern::Contains(",".to_owned()));
    let has_comma = header(":authority", StringMatcher { match_pattern: comma, ..Default::default() });
    route.r#match.get_or_insert_default().headers = vec![has_comma];
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

fn identity(sandbox: &SandboxId, target: Target<'_>) -> ExtAuthzPerRoute {
    ExtAuthzPerRoute {
        r#override: Some(ext_authz_per_route::Override::CheckSettings(CheckSettings {
            context_extensions: HashMap::from([
                (SANDBOX_EXTENSION.to_owned(), sandbox.to_string()),
                (HOST_EXTENSION.to_owned(), target.name()),
            ]),
            ..Default::default()
        })),
    }
}

fn is_unchecked() -> ExtAuthzPerRoute {
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
