//! Any check request: an answer without a panic, and no token of ours in what goes on to the upstream. `TOKEN` in a value
//! stands for a good token, as it is, and `BASIC` for `Basic` with it as the password.
#![no_main]

use std::collections::HashMap;
use std::sync::LazyLock;

use agent_creds::domain::decision::{HOST_EXTENSION, Rules, SANDBOX_EXTENSION};
use agent_creds::domain::macaroon::{KeyId, Keyring, TokenPrefix, mint};
use agent_creds::domain::policy::{Limits, Origin, Policy, Upstream};
use agent_creds::domain::secret::{Secret, SigningKey};
use agent_creds::vault::{Credential, Credentials, Vault, VaultMetrics, VaultState};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, attribute_context};
use libfuzzer_sys::fuzz_target;

const HOSTS: [&str; 3] = ["bearer.example", "query.example", "none.example"];

fn signing_key() -> SigningKey {
    SigningKey::new(vec![7; 32]).expect("32 bytes are a key")
}

static TOKEN: LazyLock<String> = LazyLock::new(|| {
    let macaroon = mint(&signing_key(), &KeyId::default(), [9; 16], &[]).expect("nothing to refuse");
    macaroon.encode(&TokenPrefix::default()).to_string()
});

static VAULT: LazyLock<Vault> = LazyLock::new(|| {
    let origin = Origin { file: "agent-creds.toml".into(), line: 1 };
    let upstream = || Upstream { limits: Limits::default(), address: None, private: false, ca: None, origin: origin.clone() };
    let policy = Policy {
        id: "box".parse().expect("a name"),
        instance: None,
        listen: "127.0.0.1:1".parse().expect("an address"),
        origin: origin.clone(),
        upstreams: HOSTS.iter().map(|host| (host.parse().expect("a host"), upstream())).collect(),
    };
    let secret = || Secret::new(b"sk_live_9f8e7d".to_vec()).expect("a secret");
    let credentials = [
        ("bearer.example", Credential::Bearer { token: secret() }),
        ("query.example", Credential::Query { name: "key".to_owned(), value: secret() }),
    ];
    let credentials = credentials.map(|(host, credential)| (host.parse().expect("a host"), credential, true));
    let state = VaultState {
        rules: Rules::new([&policy], Keyring::single(&signing_key()), TokenPrefix::default(), false),
        credentials: Credentials::new(credentials).expect("credentials").into(),
        shared: Default::default(),
    };
    Vault::new(state, VaultMetrics::register(&prometheus::Registry::new()).expect("new metrics"))
});

fn replaced(bytes: &[u8]) -> Vec<u8> {
    let basic = format!("Basic {}", STANDARD.encode(format!("user:{}", *TOKEN)));
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let (put, left) = match (rest.strip_prefix(b"TOKEN"), rest.strip_prefix(b"BASIC")) {
            // Glued to another character of a token, it is none.
            (Some(left), _) if !out.last().is_some_and(|&b: &u8| b.is_ascii_alphanumeric() || b"-_".contains(&b)) => {
                (TOKEN.as_bytes(), left)
            }
            (_, Some(left)) if out.is_empty() => (basic.as_bytes(), left),
            _ => (std::slice::from_ref(&first), after),
        };
        out.extend_from_slice(put);
        rest = left;
    }
    out
}

fn has(value: &[u8], needle: &[u8]) -> bool {
    value.windows(needle.len()).any(|window| window == needle)
}

fuzz_target!(|input: (u8, &str, &str, Vec<(&str, &[u8])>)| {
    let (host, method, path, headers) = input;
    let host = HOSTS[usize::from(host) % HOSTS.len()];
    let Ok(path) = String::from_utf8(replaced(path.as_bytes())) else { return };
    let headers: Vec<(String, Vec<u8>)> =
        headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), replaced(value))).collect();
    let http = attribute_context::HttpRequest {
        method: method.to_owned(),
        path: path.clone(),
        header_map: Some(HeaderMap {
            headers: headers
                .iter()
                // Envoy's own headers are in the other fields, too.
                .filter(|(name, _)| !name.starts_with(':'))
                .map(|(key, value)| HeaderValue { key: key.clone(), raw_value: value.clone(), ..Default::default() })
                .collect(),
        }),
        ..Default::default()
    };
    let check = CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(attribute_context::Request { http: Some(http), ..Default::default() }),
            context_extensions: HashMap::from([
                (SANDBOX_EXTENSION.to_owned(), "box".to_owned()),
                (HOST_EXTENSION.to_owned(), host.to_owned()),
            ]),
            ..Default::default()
        }),
    };
    let Some(HttpResponse::OkResponse(ok)) = VAULT.check(&check, 1_800_000_000).http_response else { return };
    let mut sent = headers;
    sent.retain(|(name, _)| !name.starts_with(':') && !ok.headers_to_remove.contains(name));
    sent.push((":path".to_owned(), path.into_bytes()));
    for set in ok.headers.into_iter().filter_map(|option| option.header) {
        sent.retain(|(name, _)| *name != set.key);
        sent.push((set.key, set.value.into_bytes()));
    }
    for (name, value) in &sent {
        assert!(!has(value, TOKEN.as_bytes()), "{name}: a token goes on");
        // No path is read as `Basic`.
        if name == ":path" {
            continue;
        }
        let words = value.split(|byte| byte.is_ascii_whitespace() || b",;".contains(byte));
        let decoded = words.filter_map(|word| STANDARD.decode(word).ok());
        assert!(!decoded.into_iter().any(|word| has(&word, TOKEN.as_bytes())), "{name}: a token goes on in Basic");
    }
});
