//! `CheckRequest` → [`AccessRequest`]: what is asked, and where the token is.
//!
//! Identity is read from the context extensions alone, which our own routes set; nothing that the client sent takes part.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use envoy_types::pb::envoy::config::core::v3::HeaderValue;
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;

use super::refusal::Reader;
use super::secrets::Credentials;
use super::server_name::{Unread, server_name};
use super::sigv4::{self, BodySent, Signature, Unsigned};
use super::{query, reflection};
use crate::domain::decision::{AccessRequest, BODY_EXTENSION, HOST_EXTENSION, Presented, SANDBOX_EXTENSION};
use crate::domain::macaroon::TokenPrefix;

/// Clients disagree on padding; whatever they send is decoded, so that no token gets past in a spelling we do not read.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Where APIs take a key, and so where a token is looked for at every host; lower case, as Envoy names headers.
const TOKEN_HEADERS: [&str; 5] = ["authorization", "x-api-key", "api-key", "x-goog-api-key", "private-token"];

/// What was read from a `CheckRequest`.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) access: AccessRequest<'a>,
    /// The headers the token was found in: they do not travel on.
    pub(super) token_headers: Vec<&'a str>,
    /// The AWS signature the token was found in.
    signature: Option<Signature<'a>>,
    headers: &'a [HeaderValue],
    /// The body, where the route has Envoy send it.
    body: Option<BodySent<'a>>,
    accept_encoding: Vec<&'a [u8]>,
    has_range: bool,
    /// The host is what the connection names, not what the route does.
    pub(super) is_by_server_name: bool,
}

impl Asked<'_> {
    /// The encodings to ask the upstream for, if not what the client asks for, so that its answer can be looked into.
    pub(super) fn accept_encoding(&self) -> Option<&'static str> {
        reflection::accept_encoding(&self.accept_encoding, self.has_range)
    }
}

impl Asked<'_> {
    /// The request, for who is to sign it.
    pub(super) fn unsigned(&self) -> Unsigned<'_> {
        let AccessRequest { host, method, target, .. } = self.access;
        let Self { headers, body, .. } = *self;
        Unsigned { host, method, target, headers, body, signature: self.signature.as_ref() }
    }
}

/// Reads `check`. A token is looked for in [`TOKEN_HEADERS`], and where the credential of the host goes.
pub(super) fn read<'a>(
    check: &'a CheckRequest,
    prefix: &TokenPrefix,
    credentials: &Credentials,
) -> Result<Asked<'a>, Unread<'a>> {
    let attributes = check.attributes.as_ref().ok_or(Unread::NotOurs("attributes"))?;
    let http = attributes.request.as_ref().and_then(|r| r.http.as_ref()).ok_or(Unread::NotOurs("HTTP request"))?;
    let extension = |name| attributes.context_extensions.get(name).map(String::as_str);
    let headers = http.header_map.as_ref().ok_or(Unread::NotOurs("raw headers"))?;
    let sandbox = extension(SANDBOX_EXTENSION).ok_or(Unread::NotOurs("sandbox"))?;
    let named = extension(HOST_EXTENSION).ok_or(Unread::NotOurs("host"))?;
    let is_by_server_name = named.starts_with('*');
    let host = if is_by_server_name { server_name(attributes, named, &http.host)? } else { named };

    let places = credentials.places(host);
    let mut found = Found::default();
    let (mut accept_encoding, mut has_range) = (Vec::new(), false);
    // Envoy sends the path as the upstream will see it, query included.
    if places.signs() {
        found.look_in_signed_url(&http.path, prefix);
    } else {
        found.look_in_url(&http.path, places.parameter(), prefix);
    }
    for header in &headers.headers {
        let (name, value) = (header.key.as_str(), value(header));
        match name {
            _ if TOKEN_HEADERS.contains(&name) || places.has_header(name) => found.look_in(name, value, prefix),
            // The path was looked at above.
            _ if name.starts_with(':') => {}
            _ if prefix.looks_like_token(value) || in_basic(value, prefix) => {
                found.misplaced = Some(format!("the header `{name}`").into());
            }
            "accept-encoding" => accept_encoding.push(value),
            "range" => has_range = true,
            _ => {}
        }
    }
    let (token_headers, signature) = (std::mem::take(&mut found.headers), found.signature.take());
    Ok(Asked {
        access: AccessRequest { sandbox, host, method: &http.method, target: &http.path, token: found.presented() },
        token_headers,
        signature,
        headers: &headers.headers,
        body: extension(BODY_EXTENSION).map(|limit| body(http, limit)),
        accept_encoding,
        has_range,
        is_by_server_name,
    })
}

impl Asked<'_> {
    /// Who will read a refusal, as far as the headers tell.
    pub(super) fn reader(&self) -> Reader {
        Reader::of(self.headers.iter().map(|header| (header.key.as_str(), value(header))))
    }
}

fn value(header: &HeaderValue) -> &[u8] {
    if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value }
}

/// Envoy cuts a body at the limit when its last piece goes over it (1.40), and does not say so.
fn body<'a>(http: &'a HttpRequest, limit: &str) -> BodySent<'a> {
    let body = if http.raw_body.is_empty() { http.body.as_bytes() } else { &http.raw_body };
    if limit.parse().is_ok_and(|limit: usize| body.len() < limit) { BodySent::Whole(body) } else { BodySent::Cut }
}

/// What the headers looked at so far present.
#[derive(Default)]
struct Found<'a> {
    token: Option<Cow<'a, str>>,
    several: bool,
    misplaced: Option<Cow<'a, str>>,
    headers: Vec<&'a str>,
    signature: Option<Signature<'a>>,
}

impl<'a> Found<'a> {
    fn look_in(&mut self, header: &'a str, value: &'a [u8], prefix: &TokenPrefix) {
        let signature = if header == "authorization" { sigv4::authorization(value) } else { None };
        // One that is not well-formed is no place for a token.
        let signature = signature.and_then(Result::ok).filter(|signature| is_by_token(signature, prefix));
        let token = match &signature {
            Some(signature) => Some(signature.access_key_id().to_owned().into()),
            None => in_header(value, prefix),
        };
        let Some(token) = token else {
            // Not as the whole value, yet in it: it would travel on.
            if prefix.looks_like_token(value) || in_basic(value, prefix) {
                self.misplaced = Some(format!("an unusual form in the header `{header}`").into());
            }
            return;
        };
        self.take(token);
        // A signature in the URL was found before, and goes first.
        self.signature = self.signature.take().or(signature);
        if !self.headers.contains(&header) {
            self.headers.push(header);
        }
    }

    /// `own` is the parameter of the query in which the host's credential goes.
    fn look_in_url(&mut self, target: &'a str, own: Option<&str>, prefix: &TokenPrefix) {
        let Some(own) = own else {
            if prefix.looks_like_token(target.as_bytes()) {
                self.misplaced = Some("the URL".into());
            }
            return;
        };
        let (path, parameters) = query::split(target);
        let mut elsewhere = prefix.looks_like_token(path.as_bytes());
        for parameter in parameters {
            let Some(value) = query::value_of(parameter, own) else {
                elsewhere |= prefix.looks_like_token(parameter.as_bytes());
                continue;
            };
            if let Some(token) = plain(&value, prefix) {
                self.take(token.into_owned().into());
            } else if prefix.looks_like_token(&value) {
                self.misplaced = Some(format!("an unusual form in the query parameter `{own}`").into());
            }
        }
        if elsewhere {
            self.misplaced = Some("the URL".into());
        }
    }

    /// In the URL of a host whose credential signs: a presigned URL has the token as its access key id.
    fn look_in_signed_url(&mut self, target: &'a str, prefix: &TokenPrefix) {
        let signature = sigv4::presigned(target).and_then(Result::ok);
        let Some(signature) = signature.filter(|signature| is_by_token(signature, prefix)) else {
            return self.look_in_url(target, None, prefix);
        };
        self.take(signature.access_key_id().to_owned().into());
        self.signature = Some(signature);
        let (path, parameters) = query::split(target);
        let mut elsewhere = prefix.looks_like_token(path.as_bytes());
        for parameter in parameters {
            let (name, value) = query::pair(parameter);
            if !sigv4::is_signing_parameter(&name) {
                // As it is written, and as it is read.
                elsewhere |= [parameter.as_bytes(), &name, &value].iter().any(|text| prefix.looks_like_token(text));
            } else if name.eq_ignore_ascii_case(sigv4::SECURITY_TOKEN.as_bytes())
                && let Some(token) = plain(&value, prefix)
            {
                self.take(token.into_owned().into());
            }
        }
        if elsewhere {
            self.misplaced = Some("the URL".into());
        }
    }

    fn take(&mut self, token: Cow<'a, str>) {
        match &self.token {
            Some(other) if *other != token => self.several = true,
            Some(_) => {}
            None => self.token = Some(token),
        }
    }

    fn presented(self) -> Presented<'a> {
        if let Some(place) = self.misplaced {
            return Presented::Misplaced(place);
        }
        if self.several {
            return Presented::Several;
        }
        self.token.map_or(Presented::None, Presented::Token)
    }
}

/// The access key id is a token.
fn is_by_token(signature: &Signature<'_>, prefix: &TokenPrefix) -> bool {
    signature.access_key_id().starts_with(prefix.as_str())
}

/// The value itself is a token.
fn plain<'a>(value: &'a [u8], prefix: &TokenPrefix) -> Option<Cow<'a, str>> {
    let text = std::str::from_utf8(value.trim_ascii()).ok()?;
    text.starts_with(prefix.as_str()).then_some(Cow::Borrowed(text))
}

/// `SCHEME token` with any scheme, a bare token, or `Basic` with the token as user or password.
fn in_header<'a>(value: &'a [u8], prefix: &TokenPrefix) -> Option<Cow<'a, str>> {
    if let Some(token) = plain(value, prefix) {
        return Some(token);
    }
    let (scheme, rest) = scheme(value)?;
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return plain(rest, prefix);
    }
    let decoded = basic(value)?;
    // A user name that is not UTF-8 does not hide a password that is a token.
    let colon = decoded.iter().position(|&b| b == b':').unwrap_or(decoded.len());
    let (user, password) = (&decoded[..colon], decoded.get(colon + 1..).unwrap_or_default());
    // The password is what git and curl users set; a user name beside it is only a name then.
    plain(password, prefix).or_else(|| plain(user, prefix)).map(|token| Cow::Owned(token.into_owned()))
}

/// Whether a token is anywhere in what `Basic` carries, for readers of every kind: some skip what is not of the alphabet, or
/// stop at the first word.
fn in_basic(value: &[u8], prefix: &TokenPrefix) -> bool {
    let Some((_, rest)) = scheme(value).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"basic")) else {
        return false;
    };
    let words = rest.split(|&b| b.is_ascii_whitespace() || matches!(b, b',' | b';'));
    words.chain([rest]).any(|word| {
        let letters = word.iter().filter_map(|&b| match b {
            b'-' => Some(b'+'),
            b'_' => Some(b'/'),
            b'+' | b'/' => Some(b),
            _ => b.is_ascii_alphanumeric().then_some(b),
        });
        let mut letters: Vec<u8> = letters.collect();
        if letters.len() % 4 == 1 {
            // Less than a byte.
            letters.pop();
        }
        LENIENT.decode(letters).is_ok_and(|pair| prefix.looks_like_token(&pair))
    })
}

/// What `Basic` carries (RFC 7617): `user:password`, decoded.
fn basic(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, rest) = scheme(value)?;
    if scheme.eq_ignore_ascii_case(b"basic") { LENIENT.decode(rest).ok() } else { None }
}

/// A scheme, and what comes after it.
fn scheme(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let value = value.trim_ascii();
    let space = value.iter().position(|b| b.is_ascii_whitespace())?;
    let (scheme, rest) = value.split_at(space);
    Some((scheme, rest.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use envoy_types::pb::envoy::config::core::v3::HeaderMap;
    use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, attribute_context};

    use super::super::secrets::{Credential, HeaderCredential};
    use super::*;
    use crate::domain::secret::Secret;

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
}
