//! The signature that a client made: what it says about itself.

use std::borrow::Cow;
use std::fmt;

use time::PrimitiveDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::super::query;

/// The header, and the parameter in lower case, that holds a session token.
pub(in crate::vault) const SECURITY_TOKEN: &str = "x-amz-security-token";

/// The parameters of a presigned URL that belong to the signature.
const PARAMETERS: [&str; 7] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
    "X-Amz-Security-Token",
];

/// More signed headers than Envoy lets any request have.
const MAX_SIGNED_HEADERS: usize = 200;

/// A week, the most that AWS takes.
const MAX_EXPIRES: u64 = 7 * 24 * 3600;

const DATE_TIME: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day]T[hour][minute][second]Z");

/// A `Signature` is what a client says of the signature that it made: well-formed, and never verified.
///
/// Its `Debug` does not show the access key id, which may be a token.
#[derive(Clone)]
pub struct Signature<'a> {
    pub(super) access_key_id: Cow<'a, str>,
    pub(super) region: Cow<'a, str>,
    pub(super) service: Cow<'a, str>,
    signed_headers: Cow<'a, str>,
    pub(super) form: Form,
}

/// Where a signature is, and of which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// In the `Authorization` header.
    Header,
    /// In the URL, with when it was made and for how long; `None` when that is not valid.
    Query(Option<Validity>),
    /// Made with another algorithm (SigV4A), wherever it is.
    Asymmetric,
}

/// The time in which a presigned URL is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    /// Since when, in Unix seconds.
    pub(super) from: u64,
    /// For how many seconds.
    pub(super) seconds: u64,
}

/// A text names the algorithm of a signature, and is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a well-formed AWS signature")]
pub struct MalformedSignature;

impl Signature<'_> {
    /// The access key id: what a token is presented as.
    pub fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    /// The region that it was made for; none in SigV4A.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The service that it was made for.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Whether it covers the header with this name, in lower case.
    pub fn covers(&self, header: &str) -> bool {
        self.signed_headers.split(';').any(|name| name.eq_ignore_ascii_case(header))
    }
}

impl fmt::Debug for Signature<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { access_key_id: _, region, service, signed_headers, form } = self;
        let fields = (region, service, signed_headers, form);
        f.debug_tuple("Signature").field(&fields).finish()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Hmac,
    Ecdsa,
}

impl Algorithm {
    fn named(name: &[u8]) -> Option<Self> {
        if name.eq_ignore_ascii_case(b"AWS4-HMAC-SHA256") {
            Some(Self::Hmac)
        } else if name.eq_ignore_ascii_case(b"AWS4-ECDSA-P256-SHA256") {
            Some(Self::Ecdsa)
        } else {
            None
        }
    }
}

/// The signature in an `Authorization` header; `None` when it has another scheme.
///
/// `AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/SERVICE/aws4_request, SignedHeaders=A;B, Signature=HEX`
pub fn authorization(value: &[u8]) -> Option<Result<Signature<'_>, MalformedSignature>> {
    let value = value.trim_ascii();
    let end = value.iter().position(u8::is_ascii_whitespace).unwrap_or(value.len());
    let (scheme, fields) = value.split_at(end);
    let algorithm = Algorithm::named(scheme)?;
    let signature = std::str::from_utf8(fields).ok().and_then(|fields| read_fields(algorithm, fields));
    Some(signature.ok_or(MalformedSignature))
}

fn read_fields(algorithm: Algorithm, text: &str) -> Option<Signature<'_>> {
    const BETWEEN: [char; 3] = [',', ' ', '\t'];
    let (mut credential, mut signed_headers, mut signature) = (None, None, None);
    let mut rest = text.trim_matches(BETWEEN);
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        // Tokens that belong together are joined by commas: the first slash ends the access key id.
        let searched = if name == "Credential" { after.find('/')? } else { 0 };
        let end = after[searched..].find(BETWEEN).map_or(after.len(), |at| searched + at);
        let field = match name {
            "Credential" => &mut credential,
            "SignedHeaders" => &mut signed_headers,
            "Signature" => &mut signature,
            _ => return None,
        };
        if field.replace(&after[..end]).is_some() {
            return None;
        }
        rest = after[end..].trim_start_matches(BETWEEN);
    }
    signature?;
    let Credential { access_key_id, region, service } = Credential::read(algorithm, credential?)?;
    let form = if algorithm == Algorithm::Hmac { Form::Header } else { Form::Asymmetric };
    Some(Signature {
        access_key_id: access_key_id.into(),
        region: region.into(),
        service: service.into(),
        signed_headers: bounded(signed_headers?)?.into(),
        form,
    })
}

/// The signature in the query of a request target; `None` when it has none.
pub fn presigned(target: &str) -> Option<Result<Signature<'_>, MalformedSignature>> {
    let (_, parameters) = query::split(target);
    let mut found: [Option<Cow<'_, [u8]>>; PARAMETERS.len()] = [const { None }; PARAMETERS.len()];
    let mut twice = false;
    for parameter in parameters {
        let (name, value) = query::pair(parameter);
        if let Some(at) = signing_parameter(&name) {
            twice |= found[at].replace(value).is_some();
        }
    }
    let [algorithm, credential, date, expires, signed_headers, signature, _] = found;
    // What nobody put an access key id into is no signature, whatever it is called.
    let credential = credential?;
    let read = || {
        let algorithm = Algorithm::named(&algorithm?)?;
        signature?;
        let credential = Credential::read(algorithm, std::str::from_utf8(&credential).ok()?)?;
        let signed_headers = bounded(std::str::from_utf8(&signed_headers?).ok()?)?.to_owned();
        Some(Signature {
            access_key_id: credential.access_key_id.to_owned().into(),
            region: credential.region.to_owned().into(),
            service: credential.service.to_owned().into(),
            signed_headers: signed_headers.into(),
            form: match algorithm {
                Algorithm::Hmac => Form::Query(validity(&date?, &expires?)),
                Algorithm::Ecdsa => Form::Asymmetric,
            },
        })
    };
    Some(if twice { None } else { read() }.ok_or(MalformedSignature))
}

/// Whether the parameter with this name, decoded, belongs to the signature of a presigned URL.
pub(in crate::vault) fn is_signing_parameter(name: &[u8]) -> bool {
    signing_parameter(name).is_some()
}

/// Names in another case are taken for the same, so that none is left over that somebody could read as such.
fn signing_parameter(name: &[u8]) -> Option<usize> {
    PARAMETERS.iter().position(|parameter| parameter.as_bytes().eq_ignore_ascii_case(name))
}

fn validity(date: &[u8], expires: &[u8]) -> Option<Validity> {
    let date = PrimitiveDateTime::parse(std::str::from_utf8(date).ok()?, DATE_TIME).ok()?;
    let from = u64::try_from(date.assume_utc().unix_timestamp()).ok()?;
    let seconds = std::str::from_utf8(expires).ok()?.parse().ok()?;
    (1..=MAX_EXPIRES).contains(&seconds).then_some(Validity { from, seconds })
}

fn bounded(signed_headers: &str) -> Option<&str> {
    (signed_headers.split(';').count() <= MAX_SIGNED_HEADERS).then_some(signed_headers)
}

/// `KEY/DATE/REGION/SERVICE/aws4_request`; in SigV4A without the region.
struct Credential<'a> {
    access_key_id: &'a str,
    region: &'a str,
    service: &'a str,
}

impl<'a> Credential<'a> {
    fn read(algorithm: Algorithm, text: &'a str) -> Option<Self> {
        let mut parts = text.split('/');
        let access_key_id =
            parts.next().filter(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic()))?;
        let date = parts.next()?;
        let region = if algorithm == Algorithm::Hmac { parts.next().filter(|name| is_name(name))? } else { "" };
        let service = parts.next().filter(|name| is_name(name))?;
        let ends = parts.next() == Some("aws4_request") && parts.next().is_none();
        let dated = date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit());
        (ends && dated).then_some(Self { access_key_id, region, service })
    }
}

/// Whether a region or a service can be called so. They go into the new signature, and are too short to hold a token.
fn is_name(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=40).contains(&text.len()) && text.bytes().all(legal)
}
