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
use crate::domain::decision::{
    AccessRequest, BEHIND_EXTENSION, BODY_EXTENSION, HOST_EXTENSION, Presented, SANDBOX_EXTENSION,
};
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
    let behind = extension(BEHIND_EXTENSION).map(str::parse).transpose();
    let behind = behind.map_err(|_| Unread::NotOurs("sandbox behind a gateway"))?;
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
        access: AccessRequest {
            sandbox,
            host,
            method: &http.method,
            target: &http.path,
            token: found.presented(),
            behind,
        },
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
#[path = "request_tests.rs"]
mod tests;
