//! SNI → filter chain.
//!
//! A matcher instead of each chain's own conditions: it refuses what is no name of a host. On a chain with certificates on demand
//! an SNI of `*` would ask for all secrets there are, and one that is not UTF-8 would end the stream to the server.

use std::collections::HashMap;

use envoy_types::pb::envoy::extensions::matching::common_inputs::network::v3::{
    ServerNameInput, TransportProtocolInput,
};
use envoy_types::pb::google::protobuf::StringValue;
use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::{
    FieldMatcher, Predicate,
    predicate::{MatchType, PredicateList, SinglePredicate, single_predicate},
};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::{
    MatcherList, MatcherTree, MatcherType, OnMatch, matcher_tree, on_match,
};
use envoy_types::pb::xds::r#type::matcher::v3::{
    Matcher, RegexMatcher, StringMatcher, regex_matcher, string_matcher::MatchPattern,
};
use prost::{Message, Name};

use super::layout::Layout;
use super::{PLAIN_HTTP_CHAIN, SHARED_CHAIN, any};
use crate::domain::names::HostPattern;

/// What Envoy knows of a name after it has made it lower case: labels as [`Host`](crate::domain::names::Host) has them. Their
/// lengths are for the server to judge: RE2 would count each repetition.
const NAME: &str = r"(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?";

/// The chain of each connection; none, which closes it, for what is not served.
pub(super) fn filter_chain_matcher(layout: &Layout<'_>) -> Matcher {
    let mut chains = HashMap::from([("raw_buffer".to_owned(), on_match(chain(PLAIN_HTTP_CHAIN)))]);
    if let Some(by_name) = by_name(layout) {
        chains.insert("tls".to_owned(), on_match(on_match::OnMatch::Matcher(Box::new(by_name))));
    }
    tree(&TransportProtocolInput {}, chains, None)
}

fn by_name(layout: &Layout<'_>) -> Option<Matcher> {
    let own = layout.own.iter().map(|(host, _)| (host.to_string(), on_match(chain(host.as_str()))));
    let apart = layout.shared_below_wildcards();
    let apart = apart.into_iter().map(|host| (host.to_string(), on_match(chain(SHARED_CHAIN))));
    let exact: HashMap<String, OnMatch> = own.chain(apart).collect();
    let patterns = by_pattern(layout);
    if exact.is_empty() {
        return patterns;
    }
    Some(tree(&ServerNameInput {}, exact, patterns))
}

fn by_pattern(layout: &Layout<'_>) -> Option<Matcher> {
    let mut wildcards: Vec<&HostPattern> = layout.wildcards.iter().map(|(pattern, _)| *pattern).collect();
    // The longest parent is the most specific one.
    wildcards.sort_by_key(|pattern| std::cmp::Reverse(pattern.to_string().len()));
    let below = |pattern: &HostPattern| {
        let name = pattern.to_string();
        let suffix = server_name(MatchPattern::Suffix(name.trim_start_matches('*').to_owned()));
        let predicate = MatchType::AndMatcher(PredicateList { predicate: vec![suffix, is_name()] });
        field(Predicate { match_type: Some(predicate) }, &name)
    };
    let mut matchers: Vec<FieldMatcher> = wildcards.into_iter().map(below).collect();
    if !layout.shared.is_empty() {
        matchers.push(field(is_name(), SHARED_CHAIN));
    }
    let list = MatcherType::MatcherList(MatcherList { matchers });
    let is_empty = matches!(&list, MatcherType::MatcherList(list) if list.matchers.is_empty());
    (!is_empty).then_some(Matcher { on_no_match: None, matcher_type: Some(list) })
}

fn is_name() -> Predicate {
    server_name(MatchPattern::SafeRegex(RegexMatcher {
        regex: NAME.to_owned(),
        engine_type: Some(regex_matcher::EngineType::GoogleRe2(regex_matcher::GoogleRe2 {})),
    }))
}

fn server_name(pattern: MatchPattern) -> Predicate {
    let value = StringMatcher { match_pattern: Some(pattern), ..Default::default() };
    Predicate {
        match_type: Some(MatchType::SinglePredicate(SinglePredicate {
            input: Some(extension("server_name", &ServerNameInput {})),
            matcher: Some(single_predicate::Matcher::ValueMatch(value)),
        })),
    }
}

fn field(predicate: Predicate, chain_name: &str) -> FieldMatcher {
    FieldMatcher { predicate: Some(predicate), on_match: Some(on_match(chain(chain_name))) }
}

fn tree<M: Message + Name>(input: &M, map: HashMap<String, OnMatch>, otherwise: Option<Matcher>) -> Matcher {
    let map = matcher_tree::TreeType::ExactMatchMap(matcher_tree::MatchMap { map });
    Matcher {
        on_no_match: otherwise.map(|matcher| Box::new(on_match(on_match::OnMatch::Matcher(Box::new(matcher))))),
        matcher_type: Some(MatcherType::MatcherTree(MatcherTree {
            input: Some(extension("input", input)),
            tree_type: Some(map),
        })),
    }
}

fn on_match(on_match: on_match::OnMatch) -> OnMatch {
    OnMatch { on_match: Some(on_match), ..Default::default() }
}

/// The action is the name of a filter chain.
fn chain(name: &str) -> on_match::OnMatch {
    on_match::OnMatch::Action(extension("chain", &StringValue { value: name.to_owned() }))
}

fn extension<M: Message + Name>(name: &str, config: &M) -> TypedExtensionConfig {
    TypedExtensionConfig { name: name.to_owned(), typed_config: Some(any(config)) }
}
