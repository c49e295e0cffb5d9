//! The filters between vault and upstream that look at answers: a credential that comes back is masked, and an answer that
//! goes on ends with its token.
//!
//! ```text
//! client ◀ redact.lua ◀ gzip, decoded ◀ cut (ext_proc to the vault, no bodies) ◀ upstream
//! ```
//!
//! Each is passed by, at the cost of a look-up, unless the vault has told something of this request that is for it (the
//! dynamic metadata of its answer). What the configuration says is the same for every host.

use envoy_types::pb::envoy::config::core::v3::{
    DataSource, RuntimeFeatureFlag, TypedExtensionConfig as Extension, data_source,
};
use envoy_types::pb::envoy::extensions::common::matching::v3::ExtensionWithMatcher;
use envoy_types::pb::envoy::extensions::compression::gzip::decompressor::v3::Gzip;
use envoy_types::pb::envoy::extensions::filters::common::matcher::action::v3::SkipFilter;
use envoy_types::pb::envoy::extensions::filters::http::{
    decompressor::v3::{
        Decompressor,
        decompressor::{CommonDirectionConfig, RequestDirectionConfig, ResponseDirectionConfig},
    },
    ext_proc::v3::{
        ExternalProcessor, HeaderForwardingRules, MetadataOptions, ProcessingMode,
        metadata_options::MetadataNamespaces,
        processing_mode::{BodySendMode, HeaderSendMode},
    },
    lua::v3::Lua,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::envoy::extensions::matching::common_inputs::network::v3::{
    DynamicMetadataInput,
    dynamic_metadata_input::{PathSegment, path_segment},
};
use envoy_types::pb::envoy::extensions::matching::input_matchers::metadata::v3::Metadata;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    HttpResponseHeaderMatchInput, ListStringMatcher, RegexMatcher, StringMatcher, ValueMatcher,
    string_matcher::MatchPattern, value_matcher,
};
use envoy_types::pb::envoy::r#type::v3::{HttpStatus, StatusCode};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::{
    FieldMatcher, Predicate,
    predicate::{MatchType, PredicateList, SinglePredicate, single_predicate},
};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::{MatcherList, MatcherType, OnMatch, on_match};
use envoy_types::pb::xds::r#type::matcher::v3::{
    Matcher, RegexMatcher as XdsRegexMatcher, StringMatcher as XdsStringMatcher, regex_matcher,
    string_matcher::MatchPattern as XdsPattern,
};

use super::manager::{VAULT_TIMEOUT_SECONDS, http_filter, vault};
use super::{any, boolean, duration, uint32};
use crate::domain::holding::HOLDING_METADATA;
use crate::domain::needles::{BODY_METADATA, NEEDLES_METADATA};

/// The script that masks; see there.
const REDACT: &str = include_str!("redact.lua");

/// Under which the metadata of the vault's answer is found.
const EXT_AUTHZ: &str = "envoy.filters.http.ext_authz";

/// How many times as long as the encoded bytes what they decode to may be: as much as gzip can. Envoy's default of
/// 100 holds for each piece that arrives, ends the body without an error, and a piece of repetitive text is above it. What
/// one piece may become is bounded by its size, the buffer limit of the cluster.
const MAX_INFLATE_RATIO: u32 = 1032;

/// The filters, in the order in which requests meet them.
pub(super) fn filters() -> Vec<HttpFilter> {
    let redact = Lua {
        default_source_code: Some(DataSource {
            specifier: Some(data_source::Specifier::InlineString(REDACT.to_owned())),
            ..Default::default()
        }),
        ..Default::default()
    };
    vec![
        skipped_when("agent_creds.redact", any(&redact), vec![untold(NEEDLES_METADATA)]),
        // One coding alone: every filter costs every request, and all servers have this one.
        skipped_when("agent_creds.gzip", any(&gunzip()), vec![untold(BODY_METADATA)]),
        skipped_when("agent_creds.cut", any(&cut()), vec![untold(HOLDING_METADATA), soon_over()]),
    ]
}

/// Decodes answers; leaves requests as they are.
fn gunzip() -> Decompressor {
    let gzip = Gzip {
        // Of the largest window that there is.
        window_bits: Some(uint32(15)),
        chunk_size: Some(uint32(64 * 1024)),
        max_inflate_ratio: Some(uint32(MAX_INFLATE_RATIO)),
    };
    let never = RuntimeFeatureFlag {
        default_value: Some(boolean(false)),
        runtime_key: "agent_creds.decompress_requests".to_owned(),
    };
    Decompressor {
        decompressor_library: Some(Extension { name: "gzip".to_owned(), typed_config: Some(any(&gzip)) }),
        request_direction_config: Some(RequestDirectionConfig {
            common_config: Some(CommonDirectionConfig { enabled: Some(never), ..Default::default() }),
            // The vault says what is asked for.
            advertise_accept_encoding: Some(boolean(false)),
        }),
        response_direction_config: Some(ResponseDirectionConfig {
            common_config: Some(CommonDirectionConfig { ignore_no_transform_header: true, ..Default::default() }),
        }),
    }
}

/// A stream to the vault that is open while the answer goes on, and whose failure resets it.
fn cut() -> ExternalProcessor {
    let nothing = ListStringMatcher {
        patterns: vec![StringMatcher {
            match_pattern: Some(MatchPattern::SafeRegex(RegexMatcher { regex: ".*".to_owned(), ..Default::default() })),
            ..Default::default()
        }],
    };
    ExternalProcessor {
        grpc_service: Some(vault()),
        failure_mode_allow: false,
        status_on_error: Some(HttpStatus { code: StatusCode::ServiceUnavailable as i32 }),
        message_timeout: Some(duration(VAULT_TIMEOUT_SECONDS)),
        processing_mode: Some(ProcessingMode {
            request_header_mode: HeaderSendMode::Skip as i32,
            response_header_mode: HeaderSendMode::Send as i32,
            request_body_mode: BodySendMode::None as i32,
            response_body_mode: BodySendMode::None as i32,
            request_trailer_mode: HeaderSendMode::Skip as i32,
            // What may still come keeps the stream open.
            response_trailer_mode: HeaderSendMode::Send as i32,
        }),
        // What the request rests on is told by the vault itself; headers are of no use to it.
        forward_rules: Some(HeaderForwardingRules { disallowed_headers: Some(nothing), ..Default::default() }),
        metadata_options: Some(MetadataOptions {
            forwarding_namespaces: Some(MetadataNamespaces {
                untyped: vec![EXT_AUTHZ.to_owned()],
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The filter, passed by when one of these holds.
fn skipped_when(name: &str, filter: Any, cases: Vec<Predicate>) -> HttpFilter {
    let skip = extension("skip", any(&SkipFilter {}));
    let matchers = cases.into_iter().map(|predicate| FieldMatcher {
        predicate: Some(predicate),
        on_match: Some(OnMatch { on_match: Some(on_match::OnMatch::Action(skip.clone())), ..Default::default() }),
    });
    let matcher = Matcher {
        matcher_type: Some(MatcherType::MatcherList(MatcherList { matchers: matchers.collect() })),
        on_no_match: None,
    };
    http_filter(
        name,
        any(&ExtensionWithMatcher {
            xds_matcher: Some(matcher),
            extension_config: Some(Extension { name: name.to_owned(), typed_config: Some(filter) }),
            ..Default::default()
        }),
    )
}

/// The vault has told nothing under this name.
fn untold(name: &str) -> Predicate {
    let input = DynamicMetadataInput {
        filter: EXT_AUTHZ.to_owned(),
        path: vec![PathSegment { segment: Some(path_segment::Segment::Key(name.to_owned())) }],
    };
    let present = Metadata {
        value: Some(ValueMatcher { match_pattern: Some(value_matcher::MatchPattern::PresentMatch(true)) }),
        ..Default::default()
    };
    let told = single(
        extension("told", any(&input)),
        single_predicate::Matcher::CustomMatch(extension("present", any(&present))),
    );
    not(told)
}

/// The answer has no body, or a short one: below 100,000 bytes.
fn soon_over() -> Predicate {
    let short = all(vec![response_header("content-length", "[0-9]{1,5}"), not(response_header(":status", "101"))]);
    any_of(vec![short, response_header(":status", "204|304")])
}

/// This header of the answer matches this regular expression, as a whole.
fn response_header(name: &str, regex: &str) -> Predicate {
    let input = HttpResponseHeaderMatchInput { header_name: name.to_owned() };
    let pattern = XdsPattern::SafeRegex(XdsRegexMatcher {
        regex: regex.to_owned(),
        engine_type: Some(regex_matcher::EngineType::GoogleRe2(regex_matcher::GoogleRe2 {})),
    });
    let matches = XdsStringMatcher { match_pattern: Some(pattern), ..Default::default() };
    single(extension(name, any(&input)), single_predicate::Matcher::ValueMatch(matches))
}

fn single(input: TypedExtensionConfig, matcher: single_predicate::Matcher) -> Predicate {
    predicate(MatchType::SinglePredicate(SinglePredicate { input: Some(input), matcher: Some(matcher) }))
}

fn not(inner: Predicate) -> Predicate {
    predicate(MatchType::NotMatcher(Box::new(inner)))
}

fn all(predicates: Vec<Predicate>) -> Predicate {
    predicate(MatchType::AndMatcher(PredicateList { predicate: predicates }))
}

fn any_of(predicates: Vec<Predicate>) -> Predicate {
    predicate(MatchType::OrMatcher(PredicateList { predicate: predicates }))
}

fn predicate(kind: MatchType) -> Predicate {
    Predicate { match_type: Some(kind) }
}

fn extension(name: &str, config: Any) -> TypedExtensionConfig {
    TypedExtensionConfig { name: name.to_owned(), typed_config: Some(config) }
}
