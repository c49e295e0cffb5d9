//! What holds for every check request, whatever is in it: an answer, and no token in what goes on to the upstream.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, attribute_context};
use prometheus::Registry;
use proptest::prelude::*;

use super::{Credential, Credentials, HeaderCredential, Vault, VaultMetrics, VaultState};
use crate::domain::decision::{HOST_EXTENSION, Rules, SANDBOX_EXTENSION};
use crate::domain::macaroon::{KeyId, Keyring, TokenPrefix, mint};
use crate::domain::policy::{Limits, Origin, Policy, Upstream};
use crate::domain::secret::{Secret, SigningKey};

const KEY: &str = "sk_live_9f8e7d";
const HOSTS: [&str; 5] = ["bearer.example", "basic.example", "own.example", "query.example", "none.example"];

fn signing_key() -> SigningKey {
    SigningKey::new(vec![7; 32]).unwrap()
}

/// A token that allows everything.
fn token() -> String {
    mint(&signing_key(), &KeyId::default(), [9; 16], &[]).unwrap().encode(&TokenPrefix::default()).to_string()
}

fn vault() -> Vault {
    let origin = Origin { file: "agent-creds.toml".into(), line: 1 };
    let upstream =
        || Upstream { limits: Limits::default(), address: None, private: false, ca: None, origin: origin.clone() };
    let policy = Policy {
        id: "box".parse().unwrap(),
        instance: None,
        listen: "127.0.0.1:1".parse().unwrap(),
        origin: origin.clone(),
        upstreams: HOSTS.iter().map(|host| (host.parse().unwrap(), upstream())).collect(),
        vault: None,
    };
    let secret = || Secret::new(KEY.as_bytes().to_vec()).unwrap();
    let own = HeaderCredential { name: "x-own-key".to_owned(), prefix: String::new(), value: secret() };
    let credentials = [
        ("bearer.example", Credential::Bearer { token: secret() }),
        ("basic.example", Credential::Basic { username: secret(), password: secret() }),
        ("own.example", Credential::Headers(vec![own])),
        ("query.example", Credential::Query { name: "key".to_owned(), value: secret() }),
    ];
    let credentials = credentials.map(|(host, credential)| (host.parse().unwrap(), credential, true));
    let state = VaultState {
        rules: Rules::new([&policy], Keyring::single(&signing_key()), TokenPrefix::default(), false),
        credentials: Credentials::new(credentials).unwrap().into(),
        shared: Default::default(),
    };
    Vault::new(state, VaultMetrics::register(&Registry::new()).unwrap())
}

fn check(host: &str, method: &str, path: &str, headers: &[(String, Vec<u8>)]) -> CheckRequest {
    let header = |(key, value): &(String, Vec<u8>)| HeaderValue {
        key: key.clone(),
        raw_value: value.clone(),
        ..Default::default()
    };
    let http = attribute_context::HttpRequest {
        method: method.to_owned(),
        path: path.to_owned(),
        header_map: Some(HeaderMap { headers: headers.iter().map(header).collect() }),
        ..Default::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(attribute_context::Request { http: Some(http), ..Default::default() }),
            context_extensions: HashMap::from([
                (SANDBOX_EXTENSION.to_owned(), "box".to_owned()),
                (HOST_EXTENSION.to_owned(), host.to_owned()),
            ]),
            ..Default::default()
        }),
    }
}

/// What the upstream would get of the request, as Envoy does what the vault says; `None` when it is refused.
fn forwarded(vault: &Vault, host: &str, path: &str, headers: &[(String, Vec<u8>)]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut sent = headers.to_vec();
    sent.push((":path".to_owned(), path.as_bytes().to_vec()));
    match vault.check(&check(host, "GET", path, headers), 1_800_000_000).http_response {
        Some(HttpResponse::OkResponse(ok)) => {
            sent.retain(|(name, _)| !ok.headers_to_remove.contains(name));
            for set in ok.headers.into_iter().filter_map(|option| option.header) {
                sent.retain(|(name, _)| *name != set.key);
                sent.push((set.key, set.value.into_bytes()));
            }
            Some(sent)
        }
        Some(HttpResponse::DeniedResponse(denied)) => {
            let status = denied.status.unwrap().code;
            assert!(matches!(status, 401 | 403), "{status}");
            let all = format!("{:?} {}", denied.headers, denied.body);
            assert!(!all.contains(&token()[4..24]) && !all.contains(KEY), "{all}");
            None
        }
        other => panic!("no answer: {other:?}"),
    }
}

fn has(value: &[u8], needle: &str) -> bool {
    value.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// A value with the token somewhere in it, as it is or within Basic.
fn values() -> impl Strategy<Value = Vec<u8>> {
    let around = || prop_oneof!["", " ", "[ -~]{0,12}[ :;,=\"/]", Just("Bearer ".to_owned()), Just("key=".to_owned())];
    let plain =
        (around(), prop_oneof!["", "[ -~]{0,8}"]).prop_map(|(before, after)| format!("{before}{}{after}", token()));
    let schemes = prop::sample::select(vec!["Basic ", "basic  ", "BASIC\t"]);
    let basic = (around(), prop_oneof!["", ":", ":[ -~]{0,5}"], schemes, prop_oneof!["", "[ ,;][ -~]{0,5}"]).prop_map(
        |(before, after, scheme, more)| {
            format!("{scheme}{}{more}", STANDARD.encode(format!("{before}{}{after}", token())))
        },
    );
    let bytes = prop::collection::vec(any::<u8>(), 0..20);
    prop_oneof![3 => plain.prop_map(String::into_bytes), 2 => basic.prop_map(String::into_bytes), 1 => bytes]
}

fn names() -> impl Strategy<Value = String> {
    let known = [
        "authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "private-token",
        "x-own-key",
        "accept",
        "user-agent",
        "content-type",
        "cookie",
        "referer",
        "x-amz-target",
        "x-amz-content-sha256",
        "x-custom",
        "sec-websocket-protocol",
    ];
    prop::sample::select(known.to_vec()).prop_map(str::to_owned)
}

fn targets() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just("/v1".to_owned()),
        1 => "/[ -~]{0,20}",
        1 => "[?&a-z=]{0,6}".prop_map(|query| format!("/v1?{query}&key={}", token())),
        1 => "[/?&a-z=:%\" ]{0,6}".prop_map(|before| format!("/{before}/{}", token())),
    ]
}

proptest! {
    #[test]
    fn no_token_goes_on(
        host in prop::sample::select(HOSTS.to_vec()),
        target in targets(),
        headers in prop::collection::vec((names(), values()), 0..4),
    ) {
        let Some(sent) = forwarded(&vault(), host, &target, &headers) else { return Ok(()) };
        let token = token();
        for (name, value) in &sent {
            prop_assert!(!has(value, &token), "{name}: {:?}", String::from_utf8_lossy(value));
            let words = value.split(|byte| byte.is_ascii_whitespace() || b",;".contains(byte));
            for decoded in words.filter_map(|word| STANDARD.decode(word).ok()) {
                prop_assert!(!has(&decoded, &token), "{name}: {:?}", String::from_utf8_lossy(value));
            }
        }
        // The credential is there for a token, and only then.
        let came = headers.iter().any(|(_, value)| has(value, "acm_") || value.len() > 80) || target.contains("acm_");
        prop_assert!(came || !sent.iter().any(|(_, value)| has(value, KEY)));
    }

    #[test]
    fn any_pieces_get_an_answer(
        host in "\\PC{0,20}",
        method in "\\PC{0,20}",
        path in "\\PC{0,60}",
        headers in prop::collection::vec(("[a-z:-]{0,12}", prop::collection::vec(any::<u8>(), 0..60)), 0..5),
        parts in 0_usize..6,
    ) {
        let mut request = check(&host, &method, &path, &headers);
        let attributes = request.attributes.as_mut().unwrap();
        // Each part may be missing.
        match parts {
            0 => request.attributes = None,
            1 => attributes.request = None,
            2 => attributes.request.as_mut().unwrap().http = None,
            3 => attributes.request.as_mut().unwrap().http.as_mut().unwrap().header_map = None,
            4 => attributes.context_extensions.clear(),
            _ => {}
        }
        let answer = vault().check(&request, 1_800_000_000);
        let refused = matches!(answer.http_response, Some(HttpResponse::DeniedResponse(_)));
        prop_assert!(refused, "an unknown host is never let through: {:?}", answer);
    }
}

/// So that the law above does not hold of nothing.
#[test]
fn a_token_in_its_place_is_swapped() {
    let bearer = |value: String| vec![("authorization".to_owned(), value.into_bytes())];
    let sent = forwarded(&vault(), "bearer.example", "/v1", &bearer(format!("bearer {}", token()))).unwrap();
    assert!(sent.contains(&("authorization".to_owned(), format!("Bearer {KEY}").into_bytes())), "{sent:?}");
    assert!(forwarded(&vault(), "none.example", "/v1", &bearer(format!("bearer {}", token()))).is_none());
    assert!(forwarded(&vault(), "none.example", "/v1", &bearer("Bearer mine".to_owned())).is_some());
}
