//! What Envoy is told of a request that goes on, so that nothing of the credential comes back with the answer, and that the
//! answer ends when the token does.
//!
//! ```text
//! Credential ─ needles ▶ Needles ─┐
//! Grant ─ holding ────────────────┴─ metadata ▶ CheckResponse.dynamic_metadata ▶ redact.lua, vault::streams
//! ```
//!
//! It travels with the one request, inside of Envoy, and is in no configuration.

use std::collections::HashMap;

use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use zeroize::Zeroizing;

use super::secrets::Credential;
use crate::domain::holding::{HOLDING_METADATA, Holding};
use crate::domain::needles::{BODY_METADATA, NEEDLES_METADATA, Needles};

/// What may not come back of a credential.
#[derive(Debug)]
pub(super) struct Reflection {
    needles: Needles,
    /// Whether bodies are looked into, or headers alone.
    bodies: bool,
}

impl Reflection {
    /// `None` when there is nothing to look for.
    pub(super) fn of(credential: &Credential, bodies: bool) -> Option<Self> {
        // What is signed is not asked for in another encoding.
        let bodies = bodies && !matches!(credential, Credential::SigV4 { .. });
        needles(credential).map(|needles| Self { needles, bodies })
    }

    /// Whether the body of the answer to a request with this method is looked into.
    pub(super) fn looks_into_body(&self, method: &str) -> bool {
        self.bodies && method != "HEAD"
    }
}

/// What to look for in the answers to this credential.
fn needles(credential: &Credential) -> Option<Needles> {
    match credential {
        Credential::Bearer { token } => Needles::of([token.as_str()]),
        Credential::Basic { username, password } => {
            let pair = Zeroizing::new([username.as_str(), ":", password.as_str()].concat());
            Needles::of([pair.as_str(), password.as_str()])
        }
        Credential::Headers(headers) => Needles::of(headers.iter().map(|header| header.value.as_str())),
        Credential::Query { value, .. } => Needles::of([value.as_str()]),
        // The keys do not travel.
        Credential::SigV4 { session_token, .. } => Needles::of(session_token.iter().map(|token| token.as_str())),
    }
}

/// What Envoy's filters are told of a request that goes on.
pub(super) fn metadata(holding: &Holding, reflection: Option<&Reflection>, method: &str) -> Struct {
    let text = |text: String| Value { kind: Some(Kind::StringValue(text)) };
    let mut fields = HashMap::with_capacity(3);
    fields.insert(HOLDING_METADATA.to_owned(), text(holding.to_string()));
    if let Some(reflection) = reflection {
        fields.insert(NEEDLES_METADATA.to_owned(), text(reflection.needles.lines().to_owned()));
        if reflection.looks_into_body(method) {
            fields.insert(BODY_METADATA.to_owned(), Value { kind: Some(Kind::BoolValue(true)) });
        }
    }
    Struct { fields }
}

/// What the upstream is asked for, so that its answer can be looked into: gzip, the one coding that Envoy decodes, if the
/// client accepts it. `None`: what the client asks for is no other.
pub(super) fn accept_encoding(accepted: &[&[u8]], range: bool) -> Option<&'static str> {
    let all = accepted.iter().flat_map(|value| value.split(|&byte| byte == b','));
    let codings = all.map(|coding| coding.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii());
    let (mut gzip, mut others) = (false, false);
    for coding in codings {
        match coding {
            b"" => {}
            _ if coding.eq_ignore_ascii_case(b"gzip") => gzip = true,
            _ if coding.eq_ignore_ascii_case(b"identity") => {}
            _ => others = true,
        }
    }
    match (gzip, others) {
        // A part of what is encoded cannot be decoded.
        _ if range => Some("identity"),
        (_, false) => None,
        (true, true) => Some("gzip"),
        (false, true) => Some("identity"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::macaroon::TokenId;
    use crate::domain::secret::Secret;
    use crate::vault::HeaderCredential;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn every_secret_of_a_credential_is_looked_for() {
        let header = |value| HeaderCredential { name: "x".to_owned(), prefix: "Token ".to_owned(), value };
        for (credential, expected) in [
            (Credential::Bearer { token: secret("sk_live_1") }, &["sk_live_1"][..]),
            (
                Credential::Basic { username: secret("aladdin"), password: secret("open:sesame") },
                &["aladdin:open:sesame", "open:sesame", "YWxhZGRpbjpvcGVuOnNlc2FtZ", "open%3Asesame"],
            ),
            (
                Credential::Headers(vec![header(secret("sk_live_1")), header(secret("sk_live_2"))]),
                &["sk_live_1", "sk_live_2"],
            ),
            (Credential::Query { name: "key".to_owned(), value: secret("a b&cdefg") }, &["a b&cdefg", "a%20b%26cdefg"]),
            // Of a short password the pair is looked for.
            (Credential::Basic { username: secret("aladdin"), password: secret("x") }, &["aladdin:x"]),
        ] {
            let needles = needles(&credential).unwrap();
            let lines: Vec<&str> = needles.lines().lines().collect();
            assert!(expected.iter().all(|needle| lines.contains(needle)), "{expected:?}: {lines:?}");
        }
        assert!(needles(&Credential::Bearer { token: secret("short") }).is_none());
    }

    #[test]
    fn what_the_filters_are_told() {
        let holding = Holding { token: TokenId::from([1; 16]), until: None, key: None };
        let reflection = |bodies| Reflection { needles: Needles::of(["sk_live_1"]).unwrap(), bodies };
        let names = |told: Struct| {
            let mut names: Vec<String> = told.fields.into_keys().collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(metadata(&holding, None, "HEAD")), ["holding"]);
        let told = |bodies, method| names(metadata(&holding, Some(&reflection(bodies)), method));
        assert_eq!(told(true, "GET"), ["holding", "redact", "redact_body"]);
        for (bodies, method) in [(true, "HEAD"), (false, "GET")] {
            assert_eq!(told(bodies, method), ["holding", "redact"]);
        }
    }

    #[test]
    fn only_encodings_that_are_decoded_are_asked_for() {
        for (accepted, range, asked) in [
            (&[][..], false, None),
            (&["gzip"], false, None),
            (&["GZIP;q=1.0", "identity"], false, None),
            (&["gzip, deflate, br"], false, Some("gzip")),
            (&["br", "gzip"], false, Some("gzip")),
            (&["deflate", "gzip;q=0.5"], false, Some("gzip")),
            (&["*"], false, Some("identity")),
            (&["deflate, x"], false, Some("identity")),
            (&["gzip"], true, Some("identity")),
            (&[], true, Some("identity")),
        ] {
            let accepted: Vec<&[u8]> = accepted.iter().map(|text| text.as_bytes()).collect();
            assert_eq!(accept_encoding(&accepted, range), asked, "{accepted:?}");
        }
    }
}
