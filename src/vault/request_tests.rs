//! Tests of reading check requests.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::HeaderMap;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, attribute_context};

use super::*;
use crate::domain::secret::Secret;
use crate::vault::secrets::{Credential, HeaderCredential};

const TOKEN: &str = "acm_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn check(path: &str, headers: &[(&str, &[u8])]) -> CheckRequest {
    let headers = headers
        .iter()
        .map(|(key, value)| HeaderValue { key: (*key).to_owned(), raw_value: value.to_vec(), ..Default::default() })
        .collect();
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(attribute_context::Request {
                http: Some(attribute_context::HttpRequest {
                    method: "GET".to_owned(),
                    path: path.to_owned(),
                    host: "evil.example".to_owned(),
                    header_map: Some(HeaderMap { headers }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            context_extensions: HashMap::from([
                ("sandbox".to_owned(), "demo".to_owned()),
                ("host".to_owned(), "api.stripe.com".to_owned()),
            ]),
            ..Default::default()
        }),
    }
}

/// The host of [`check`] has a header of its own.
fn credentials() -> Credentials {
    let value = Secret::new(b"sk_live_1".to_vec()).unwrap();
    let header = HeaderCredential { name: "x-own-key".to_owned(), prefix: String::new(), value: value.clone() };
    let query = Credential::Query { name: "key".to_owned(), value: value.clone() };
    let sigv4 = Credential::SigV4 {
        access_key_id: value.clone(),
        secret_access_key: value,
        session_token: None,
        region: None,
        service: None,
    };
    let headers = Credential::Headers(vec![header]);
    let hosts = [("api.stripe.com", headers), ("*.query.example", query), ("s3.example", sigv4)];
    Credentials::new(hosts.map(|(host, credential)| (host.parse().unwrap(), credential, true))).unwrap()
}

fn presented(headers: &[(&str, &[u8])]) -> String {
    let check = check("/v1", headers);
    match read(&check, &TokenPrefix::default(), &credentials()).unwrap().access.token {
        Presented::None => "none".to_owned(),
        Presented::Token(token) => token.into_owned(),
        Presented::Several => "several".to_owned(),
        Presented::Misplaced(place) => format!("misplaced: {place}"),
    }
}

fn basic(text: &str) -> String {
    format!("bAsIc {}", base64::engine::general_purpose::STANDARD.encode(text))
}

#[test]
fn a_token_is_found_in_every_form() {
    for value in [
        format!("Bearer {TOKEN}"),
        format!("bearer   {TOKEN} "),
        format!("TOKEN {TOKEN}"),
        format!("Whatever\t{TOKEN}"),
        TOKEN.to_owned(),
        basic(&format!("{TOKEN}:")),
        basic(TOKEN),
        basic(&format!("x-access-token:{TOKEN}")),
        basic(&format!("{TOKEN}:{TOKEN}")),
        basic(&format!("a:{TOKEN}")).trim_end_matches('=').to_owned(),
    ] {
        for header in TOKEN_HEADERS.iter().chain(&["x-own-key"]) {
            assert_eq!(presented(&[(header, value.as_bytes())]), TOKEN, "{header}: {value}");
        }
    }
    assert_eq!(presented(&[("x-api-key", TOKEN.as_bytes()), ("authorization", basic(TOKEN).as_bytes())]), TOKEN);
}

#[test]
fn what_is_no_token_of_ours_is_left_alone() {
    for value in ["Bearer sk_live_1", "Basic dXNlcjpwYXNz", "Basic", "", "Bearer acm", "Bearer \u{fffd}"] {
        assert_eq!(presented(&[("authorization", value.as_bytes())]), "none", "{value}");
    }
    assert_eq!(presented(&[("authorization", b"Bearer \xff\xfe")]), "none");
    assert_eq!(presented(&[("cookie", b"acm_session=abc")]), "none");
}

#[test]
fn a_token_that_would_travel_on_is_noticed() {
    assert!(presented(&[("x-custom", TOKEN.as_bytes())]).contains("x-custom"));
    assert!(presented(&[("cookie", format!("a=1; t={TOKEN}").as_bytes())]).contains("cookie"));
    assert!(presented(&[("proxy-authorization", basic(&format!("u:{TOKEN}")).as_bytes())]).contains("proxy-auth"));
    for header in ["accept", "user-agent", "content-type", "x-amz-target"] {
        assert!(presented(&[(header, TOKEN.as_bytes())]).contains(header));
    }
    assert!(presented(&[("authorization", format!("Digest t=\"{TOKEN}\"").as_bytes())]).contains("unusual"));
    for (before, after) in [("", " x"), ("x ", ""), ("", ", x=1"), ("\"", "\""), ("", "\u{7f}-a"), ("", "=a")] {
        let value = basic(&format!("u:{TOKEN}")).replace(' ', &format!(" {before}")) + after;
        for header in ["authorization", "x-custom"] {
            assert!(presented(&[(header, value.as_bytes())]).starts_with("misplaced"), "{header}: {value}");
        }
    }
    for pair in [format!("u:x {TOKEN}"), format!("key={TOKEN}:p"), format!("u:p:{TOKEN}")] {
        assert!(presented(&[("authorization", basic(&pair).as_bytes())]).contains("unusual"), "{pair}");
    }
    let with_query = check(&format!("/v1?key={TOKEN}"), &[]);
    let asked = read(&with_query, &TokenPrefix::default(), &credentials()).unwrap();
    assert!(matches!(asked.access.token, Presented::Misplaced(_)));
    assert!(!format!("{asked:?}").contains(&TOKEN[4..40]) || !format!("{:?}", asked.access.token).contains("acm_"));
}

#[test]
fn the_header_of_a_credential_is_looked_in_at_its_own_host_alone() {
    let mut check = check("/v1", &[("x-own-key", TOKEN.as_bytes())]);
    let asked = read(&check, &TokenPrefix::default(), &credentials()).unwrap();
    assert_eq!(asked.token_headers, ["x-own-key"]);
    check.attributes.as_mut().unwrap().context_extensions.insert("host".to_owned(), "a.example".to_owned());
    let asked = read(&check, &TokenPrefix::default(), &credentials()).unwrap();
    assert!(matches!(asked.access.token, Presented::Misplaced(_)) && asked.token_headers.is_empty());
}

#[test]
fn the_parameter_of_a_credential_is_looked_in_at_its_own_host_alone() {
    let other = TOKEN.replace('A', "B");
    for (target, expected) in [
        (format!("/v1?key={TOKEN}"), "token"),
        (format!("/v1?a=b&k%65y=%61cm_{}&c", &TOKEN[4..]), "token"),
        (format!("/v1?key={TOKEN}&key=mine&key={TOKEN}"), "token"),
        ("/v1?key=mine".to_owned(), "none"),
        (format!("/v1?key={TOKEN}&key={other}"), "several"),
        (format!("/v1?key=%22{TOKEN}%22"), "an unusual form in the query parameter `key`"),
        (format!("/v1?key={TOKEN}&other={TOKEN}"), "the URL"),
        (format!("/v1?{TOKEN}"), "the URL"),
        (format!("/v1?a=b;key={TOKEN}"), "the URL"),
        (format!("/key={TOKEN}?key={TOKEN}"), "the URL"),
    ] {
        let mut check = check(&target, &[]);
        for (host, expected) in [("a.query.example", expected), ("api.stripe.com", "the URL")] {
            check.attributes.as_mut().unwrap().context_extensions.insert("host".to_owned(), host.to_owned());
            let found = match read(&check, &TokenPrefix::default(), &credentials()).unwrap().access.token {
                Presented::None => "none".to_owned(),
                Presented::Token(token) => token.replace(TOKEN, "token"),
                Presented::Several => "several".to_owned(),
                Presented::Misplaced(place) => place.into_owned(),
            };
            if host == "a.query.example" || target.contains(TOKEN) {
                assert_eq!(found, expected, "{host}{target}");
            }
        }
    }
}

fn signed(token: &str) -> String {
    format!("AWS4-HMAC-SHA256 Credential={token}/20130524/r/s3/aws4_request, SignedHeaders=host, Signature=0")
}

#[test]
fn a_token_is_found_in_a_signature_at_every_host() {
    for value in [
        signed(TOKEN),
        signed(TOKEN).replace("HMAC", "ECDSA-P256").replace("/r/", "/"),
        signed(TOKEN).replace(", ", ","),
    ] {
        assert_eq!(presented(&[("authorization", value.as_bytes())]), TOKEN, "{value}");
        assert!(presented(&[("x-api-key", value.as_bytes())]).contains("unusual"), "{value}");
    }
    for value in [
        signed(TOKEN).replace("aws4_request", "x"),
        signed(TOKEN).replace("Signature", "Sig"),
        signed(&format!("x {TOKEN}")),
        signed("AKIA").replace("SignedHeaders=host", &format!("SignedHeaders={TOKEN}")),
    ] {
        assert!(presented(&[("authorization", value.as_bytes())]).contains("unusual"), "{value}");
    }
    assert_eq!(presented(&[("authorization", signed("AKIDEXAMPLE").as_bytes())]), "none");
    let other = signed(&TOKEN.replace('A', "B"));
    assert_eq!(
        presented(&[("authorization", signed(TOKEN).as_bytes()), ("x-api-key", other.as_bytes())]),
        "misplaced: an unusual form in the header `x-api-key`"
    );
    assert_eq!(presented(&[("authorization", other.as_bytes()), ("x-api-key", TOKEN.as_bytes())]), "several");
}

#[test]
fn a_presigned_url_is_a_place_at_hosts_whose_credential_signs() {
    let other = TOKEN.replace('A', "B");
    let url = |token: &str, more: &str| {
        format!(
            "/a?{more}X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={token}%2F20130524%2Fr%2Fs3%2Faws4_request&\
             X-Amz-Date=20130524T000000Z&X-Amz-Expires=1&X-Amz-SignedHeaders=host&X-Amz-Signature=0"
        )
    };
    for (target, expected) in [
        (url(TOKEN, ""), "token"),
        (url(&format!("%61{}", &TOKEN[1..]), "a=b&"), "token"),
        (url(TOKEN, &format!("X-Amz-Security-Token={TOKEN}&")), "token"),
        (url(TOKEN, &format!("x-amz-security-token={other}&")), "several"),
        (url(TOKEN, &format!("a={TOKEN}&")), "the URL"),
        (url(TOKEN, &format!("a=%2B%61cm_{}&", &TOKEN[4..])), "the URL"),
        (url(TOKEN, "X-Amz-Expires=1&"), "the URL"),
        (url("AKIDEXAMPLE", &format!("X-Amz-Security-Token={TOKEN}&")), "the URL"),
        (url("AKIDEXAMPLE", ""), "none"),
    ] {
        for (host, expected) in
            [("s3.example", expected), ("a.query.example", "the URL"), ("api.stripe.com", "the URL")]
        {
            let mut check = check(&target, &[]);
            check.attributes.as_mut().unwrap().context_extensions.insert("host".to_owned(), host.to_owned());
            let found = match read(&check, &TokenPrefix::default(), &credentials()).unwrap().access.token {
                Presented::None => "none".to_owned(),
                Presented::Token(token) => token.replace(TOKEN, "token"),
                Presented::Several => "several".to_owned(),
                Presented::Misplaced(place) => place.into_owned(),
            };
            if host == "s3.example" || target.contains(&format!("={TOKEN}")) {
                assert_eq!(found, expected, "{host}{target}");
            }
        }
    }
}

#[test]
fn a_body_is_whole_below_the_limit_that_the_route_names() {
    let mut check = check("/", &[("authorization", signed(TOKEN).as_bytes())]);
    assert_eq!(read(&check, &TokenPrefix::default(), &credentials()).unwrap().body, None);
    let attributes = check.attributes.as_mut().unwrap();
    attributes.request.as_mut().unwrap().http.as_mut().unwrap().raw_body = b"hello".to_vec();
    for (limit, expected) in
        [("6", BodySent::Whole(b"hello")), ("5", BodySent::Cut), ("", BodySent::Cut), ("-1", BodySent::Cut)]
    {
        check.attributes.as_mut().unwrap().context_extensions.insert("body".to_owned(), limit.to_owned());
        assert_eq!(read(&check, &TokenPrefix::default(), &credentials()).unwrap().body, Some(expected), "{limit}");
    }
}

#[test]
fn every_header_with_the_token_is_named_once() {
    let bearer = format!("Bearer {TOKEN}");
    let token = TOKEN.as_bytes();
    let headers: &[(&str, &[u8])] =
        &[("api-key", token), ("authorization", bearer.as_bytes()), ("api-key", token), ("private-token", b"mine")];
    let check = check("/v1", headers);
    let asked = read(&check, &TokenPrefix::default(), &credentials()).unwrap();
    assert_eq!(asked.token_headers, ["api-key", "authorization"]);
}

#[test]
fn two_different_tokens_are_not_chosen_from() {
    let other = TOKEN.replace('A', "B");
    assert_eq!(presented(&[("x-api-key", TOKEN.as_bytes()), ("authorization", other.as_bytes())]), "several");
    assert_eq!(presented(&[("x-api-key", TOKEN.as_bytes()), ("x-api-key", other.as_bytes())]), "several");
    assert_eq!(presented(&[("x-own-key", TOKEN.as_bytes()), ("private-token", other.as_bytes())]), "several");
}

#[test]
fn identity_is_never_read_from_the_request() {
    let mut check = check("/", &[("x-target-host", b"api.openai.com"), ("x-forwarded-host", b"api.openai.com")]);
    let asked = read(&check, &TokenPrefix::default(), &credentials()).unwrap();
    assert_eq!((asked.access.sandbox, asked.access.host), ("demo", "api.stripe.com"));
    check.attributes.as_mut().unwrap().context_extensions.remove("host");
    assert!(read(&check, &TokenPrefix::default(), &credentials()).unwrap_err().to_string().contains("no host"));
    assert!(read(&CheckRequest::default(), &TokenPrefix::default(), &credentials()).is_err());
}
