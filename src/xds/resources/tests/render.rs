//! Messages as text that is the same every time: maps in order, defaults left out, each `Any` decoded.

use std::fmt::Debug;

use envoy_types::pb::envoy::config::route::v3::FilterConfig as RouteFilterConfig;
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3::ClusterConfig;
use envoy_types::pb::envoy::extensions::common::matching::v3::ExtensionWithMatcher;
use envoy_types::pb::envoy::extensions::compression::gzip::decompressor::v3::Gzip;
use envoy_types::pb::envoy::extensions::filters::common::matcher::action::v3::SkipFilter;
use envoy_types::pb::envoy::extensions::filters::http::decompressor::v3::Decompressor;
use envoy_types::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3::{FilterConfig, PerRouteConfig};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{ExtAuthz, ExtAuthzPerRoute};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::ExternalProcessor;
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::HeaderMutation;
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::Lua;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation as EarlyHeaderMutation;
use envoy_types::pb::envoy::extensions::matching::common_inputs::network::v3::{
    DynamicMetadataInput, ServerNameInput, TransportProtocolInput,
};
use envoy_types::pb::envoy::extensions::matching::input_matchers::metadata::v3::Metadata;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::cert_mappers::sni::v3::Sni;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::cert_selectors::on_demand_secret::v3::Config as OnDemandSecret;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{DownstreamTlsContext, UpstreamTlsContext};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::r#type::matcher::v3::HttpResponseHeaderMatchInput;
use envoy_types::pb::google::protobuf::StringValue;
use prost::{Message, Name};
use sha2::{Digest, Sha256};

/// A line of `{:#?}` with the lines inside it.
struct Node {
    head: String,
    inside: Vec<Node>,
    closed: bool,
}

/// The message as indented text.
pub(super) fn render(message: &impl Debug) -> String {
    let mut out = String::new();
    for node in tree(message) {
        write(&node, 0, &mut out);
    }
    out
}

fn tree(message: &impl Debug) -> Vec<Node> {
    let text = format!("{message:#?}");
    let mut lines = text.lines().map(str::trim);
    nodes(&mut lines)
}

fn nodes<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Vec<Node> {
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if line.starts_with(['}', ']', ')']) {
            break;
        }
        let closed = line.ends_with(['{', '[', '(']);
        let inside = if closed { nodes(lines) } else { Vec::new() };
        found.push(simpler(Node { head: line.trim_end_matches(',').to_owned(), inside, closed }));
    }
    found.retain(|node| !is_default(node));
    if found.iter().all(|node| node.head.starts_with('"')) {
        found.sort_by(|a, b| a.head.cmp(&b.head));
    }
    found
}

fn is_default(node: &Node) -> bool {
    let value = node.head.split_once(": ").map(|(_, value)| value);
    !node.closed && value.is_some_and(|value| ["None", "false", "0", "\"\"", "[]", "{}"].contains(&value))
}

/// `Some(X { … })` is `X { … }`, and an `Any` is what is in it.
fn simpler(mut node: Node) -> Node {
    if let Some(before) = node.head.strip_suffix("Some(")
        && node.inside.len() == 1
    {
        let inner = node.inside.remove(0);
        return Node { head: format!("{before}{}", inner.head), ..inner };
    }
    if let Some(before) = node.head.strip_suffix("Any {") {
        let url = node.inside[0].head.trim_start_matches("type_url: ").trim_matches('"').to_owned();
        let bytes = node.inside.get(1).map_or(&[][..], |value| &value.inside);
        let bytes: Vec<u8> = bytes.iter().map(|byte| byte.head.parse().unwrap()).collect();
        let inner = decoded(&url, &bytes);
        return Node { head: format!("{before}Any of {}", inner.head), ..inner };
    }
    node
}

fn decoded(url: &str, bytes: &[u8]) -> Node {
    fn one<M: Message + Name + Default + Debug>(url: &str, bytes: &[u8]) -> Option<Node> {
        (url == M::type_url()).then(|| tree(&M::decode(bytes).unwrap()).remove(0))
    }
    let kinds = [
        one::<ClusterConfig>,
        one::<Decompressor>,
        one::<DownstreamTlsContext>,
        one::<ExtAuthz>,
        one::<ExtAuthzPerRoute>,
        one::<ExtensionWithMatcher>,
        one::<ExternalProcessor>,
        one::<FilterConfig>,
        one::<Gzip>,
        one::<HeaderMutation>,
        one::<HttpConnectionManager>,
        one::<HttpProtocolOptions>,
        one::<HttpResponseHeaderMatchInput>,
        one::<Lua>,
        one::<Metadata>,
        one::<DynamicMetadataInput>,
        one::<EarlyHeaderMutation>,
        one::<OnDemandSecret>,
        one::<RouteFilterConfig>,
        one::<ServerNameInput>,
        one::<Sni>,
        one::<StringValue>,
        one::<TransportProtocolInput>,
        one::<PerRouteConfig>,
        one::<Router>,
        one::<SkipFilter>,
        one::<TlsInspector>,
        one::<UpstreamTlsContext>,
    ];
    kinds.iter().find_map(|kind| kind(url, bytes)).unwrap_or_else(|| panic!("teach this test what {url} is"))
}

fn write(node: &Node, depth: usize, out: &mut String) {
    out.push_str(&"  ".repeat(depth));
    let head = node.head.trim_end_matches(['{', '[', '(']).trim_end();
    // A script is in a file of its own.
    match head.char_indices().nth(500) {
        Some(_) => {
            let digest = Sha256::digest(head.as_bytes());
            let start: String = head.chars().take(60).collect();
            out.push_str(&format!("{start}… {:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]));
        }
        None => out.push_str(head),
    }
    out.push('\n');
    for inner in &node.inside {
        write(inner, depth + 1, out);
    }
}
