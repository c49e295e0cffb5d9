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
use crate::domain::needles::{BODILESS_METADATA, NEEDLES_METADATA, Needles};

/// The encodings of answers that Envoy decodes to look into them.
const DECODED: [&str; 3] = ["gzip", "br", "zstd"];

/// What to look for in the answers to this credential.
pub(super) fn needles(credential: &Credential) -> Option<Needles> {
    match credential {
        Credential::Bearer { token } => Needles::of([token.as_str()]),
        Credential::Basic { username, password } => {
            let pair = Zeroizing::new([username.as_str(), ":", password.as_str()].concat());
            Needles::of([pair.as_str(), password.as_str()])
        }
        Credential::Headers(headers) => Needles::of(headers.iter().map(|header| header.value.as_str())),
        Credential::Query { value, .. } => Needles::of([value.as_str()]),
    }
}

/// What Envoy's filters are told of a request that goes on.
pub(super) fn metadata(holding: &Holding, needles: Option<&Needles>, method: &str) -> Struct {
    let text = |text: String| Value { kind: Some(Kind::StringValue(text)) };
    let mut fields = HashMap::with_capacity(3);
    fields.insert(HOLDING_METADATA.to_owned(), text(holding.to_string()));
    if let Some(needles) = needles {
        fields.insert(NEEDLES_METADATA.to_owned(), text(needles.lines().to_owned()));
        if method == "HEAD" {
            fields.insert(BODILESS_METADATA.to_owned(), Value { kind: Some(Kind::BoolValue(true)) });
        }
    }
    Struct { fields }
}

/// What is to be asked for, so that the answer can be looked into: of what the client accepts, what Envoy decodes.
/// `None`: what the client asks for is that already. A part of an encoded answer cannot be decoded.
pub(super) fn accept_encoding(accepted: &[&[u8]], range: bool) -> Option<String> {
    let all = accepted.iter().flat_map(|value| value.split(|&byte| byte == b','));
    let codings = all.map(|coding| {
        let coding = coding.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        coding.to_ascii_lowercase()
    });
    let codings: Vec<Vec<u8>> = codings.filter(|coding| !coding.is_empty()).collect();
    let decoded = |coding: &[u8]| DECODED.iter().any(|name| name.as_bytes() == coding);
    if !range && codings.iter().all(|coding| coding == b"identity" || decoded(coding)) {
        return None;
    }
    let kept = DECODED.into_iter().filter(|name| codings.iter().any(|coding| coding == name.as_bytes()));
    let kept: Vec<&str> = kept.collect();
    Some(if range || kept.is_empty() { "identity".to_owned() } else { kept.join(", ") })
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
        let needles = Needles::of(["sk_live_1"]).unwrap();
        let names = |told: Struct| {
            let mut names: Vec<String> = told.fields.into_keys().collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(metadata(&holding, None, "HEAD")), ["holding"]);
        assert_eq!(names(metadata(&holding, Some(&needles), "GET")), ["holding", "redact"]);
        assert_eq!(names(metadata(&holding, Some(&needles), "HEAD")), ["head", "holding", "redact"]);
    }

    #[test]
    fn only_encodings_that_are_decoded_are_asked_for() {
        for (accepted, range, asked) in [
            (&[][..], false, None),
            (&["gzip"], false, None),
            (&["GZIP;q=1.0, br", "zstd, identity"], false, None),
            (&["gzip, deflate, br"], false, Some("gzip, br")),
            (&["deflate", "gzip;q=0.5"], false, Some("gzip")),
            (&["*"], false, Some("identity")),
            (&["deflate, x"], false, Some("identity")),
            (&["gzip"], true, Some("identity")),
            (&[], true, Some("identity")),
        ] {
            let accepted: Vec<&[u8]> = accepted.iter().map(|text| text.as_bytes()).collect();
            assert_eq!(accept_encoding(&accepted, range).as_deref(), asked, "{accepted:?}");
        }
    }
}
