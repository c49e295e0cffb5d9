//! A request → the same request with our signature, of what the upstream will see of it.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningInstructions,
    SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use envoy_types::pb::envoy::config::core::v3::HeaderValue;

use super::super::query;
use super::super::secrets::CredentialError;
use super::scope;
use super::signature::{Form, SECURITY_TOKEN, Signature, Validity, is_signing_parameter};
use crate::domain::decision::Unsignable;
use crate::domain::secret::Secret;

const CONTENT_SHA256: &str = "x-amz-content-sha256";
const DATE: &str = "x-amz-date";

/// What travels as it is, and is signed if the client signed it; `content-type`, `content-md5` and `x-amz-…` always are. All
/// other headers may be changed on the way, and no service asks for their signature.
const SIGNED_IF_SIGNED: [&str; 11] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "date",
    "expires",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

/// Signs with the keys of one credential.
pub(in crate::vault) struct Signer {
    credentials: Credentials,
    region: Option<String>,
    service: Option<String>,
}

/// A request that is to be signed.
pub(in crate::vault) struct Unsigned<'a> {
    /// The name that the upstream will see.
    pub(in crate::vault) host: &'a str,
    pub(in crate::vault) method: &'a str,
    /// Path and query, as the upstream will see them.
    pub(in crate::vault) target: &'a str,
    pub(in crate::vault) headers: &'a [HeaderValue],
    /// The body, if it came with the question.
    pub(in crate::vault) body: Option<BodySent<'a>>,
    /// How the client signed.
    pub(in crate::vault) signature: Option<&'a Signature<'a>>,
}

/// What Envoy sent of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vault) enum BodySent<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Its beginning.
    Cut,
}

/// What makes the request a signed one.
pub(in crate::vault) struct Signed {
    /// Headers to set; `:path` among them if the signature is in the query.
    pub(in crate::vault) set: Vec<(&'static str, String)>,
    /// Headers to remove.
    pub(in crate::vault) removed: Vec<&'static str>,
}

impl Signer {
    /// A signer for these keys. `region` and `service` go before what a request says.
    pub(in crate::vault) fn new(
        access_key_id: &Secret,
        secret_access_key: &Secret,
        session_token: Option<&Secret>,
        region: Option<String>,
        service: Option<String>,
    ) -> Result<Self, CredentialError> {
        // It stands between these in the signature.
        let legal = |byte: u8| byte.is_ascii_graphic() && !b"/,=".contains(&byte);
        if !access_key_id.expose().iter().all(|&byte| legal(byte)) {
            return Err(CredentialError::AccessKeyId);
        }
        let credentials = Credentials::new(
            access_key_id.as_str(),
            secret_access_key.as_str(),
            session_token.map(|token| token.as_str().to_owned()),
            None,
            "vault.toml",
        );
        Ok(Self { credentials, region, service })
    }

    /// Signs `request` at the time `now`, in Unix seconds; a presigned URL stays of its own time.
    pub(in crate::vault) fn sign(&self, request: &Unsigned<'_>, now: u64) -> Result<Signed, Unsignable> {
        let form = request.signature.map_or(Form::Header, |signature| signature.form);
        let valid = match form {
            Form::Header => None,
            Form::Query(validity) => Some(validity.ok_or(Unsignable::Validity)?),
            Form::Asymmetric => return Err(Unsignable::Asymmetric),
        };
        let (region, service) = self.scope(request)?;
        let s3 = matches!(service, "s3" | "s3express" | "s3-object-lambda" | "s3-outposts");
        let target: Cow<'_, str> = match valid {
            None => request.target.into(),
            Some(_) => without_signature(request.target).into(),
        };
        let headers = headers(request)?;
        let (body, checksum) = payload(request, &headers, s3, valid.is_some())?;
        let url = url(request.host, &target, s3)?;

        let mut settings = SigningSettings::default();
        settings.excluded_headers = None;
        settings.payload_checksum_kind = checksum;
        if s3 {
            settings.percent_encoding_mode = PercentEncodingMode::Single;
            settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        }
        let mut time = UNIX_EPOCH + Duration::from_secs(now);
        if let Some(Validity { from, seconds }) = valid {
            settings.signature_location = SignatureLocation::QueryParams;
            settings.expires_in = Some(Duration::from_secs(seconds));
            time = UNIX_EPOCH + Duration::from_secs(from);
        }
        let identity = self.credentials.clone().into();
        let parameters = SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(service)
            .time(time)
            .settings(settings)
            .build()
            // All of them are given.
            .map_err(|_| Unsignable::Encoding)?
            .into();
        let signable = SignableRequest::new(request.method, url, headers.iter().copied(), body)
            .map_err(|_| Unsignable::Encoding)?;
        let (instructions, _) = sign(signable, &parameters).map_err(|_| Unsignable::Encoding)?.into_parts();
        Ok(if valid.is_some() { Signed::in_query(&target, instructions) } else { Signed::in_headers(instructions) })
    }

    fn scope<'a>(&'a self, request: &'a Unsigned<'_>) -> Result<(&'a str, &'a str), Unsignable> {
        let said = request.signature.map(|signature| (&*signature.region, &*signature.service));
        let known = said.or_else(|| scope::of_host(request.host));
        let region = self.region.as_deref().or(known.map(|(region, _)| region)).ok_or(Unsignable::NoScope)?;
        let service = self.service.as_deref().or(known.map(|(_, service)| service)).ok_or(Unsignable::NoScope)?;
        Ok((region, service))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { credentials: _, region, service } = self;
        f.debug_struct("Signer").field("region", region).field("service", service).finish_non_exhaustive()
    }
}

impl Signed {
    fn in_headers(instructions: SigningInstructions) -> Self {
        let (headers, _) = instructions.into_parts();
        let set: Vec<_> = headers.into_iter().map(|header| (header.name(), header.value().to_owned())).collect();
        // One that the client sent belongs to its own key.
        let removed = if set.iter().any(|(name, _)| *name == SECURITY_TOKEN) { vec![] } else { vec![SECURITY_TOKEN] };
        Self { set, removed }
    }

    fn in_query(target: &str, instructions: SigningInstructions) -> Self {
        let (_, parameters) = instructions.into_parts();
        let mut path = target.to_owned();
        let mut between = if target.contains('?') { '&' } else { '?' };
        for (name, value) in parameters {
            path.push(between);
            // An assignment is ASCII.
            path.push_str(&String::from_utf8_lossy(&query::assignment(name, value.as_bytes())));
            between = '&';
        }
        Self { set: vec![(":path", path)], removed: vec![DATE, SECURITY_TOKEN] }
    }
}

/// The headers that are signed, beside those that signing adds.
fn headers<'a>(request: &Unsigned<'a>) -> Result<Vec<(&'a str, &'a str)>, Unsignable> {
    let mut signed = vec![("host", request.host)];
    for header in request.headers {
        let name = header.key.as_str();
        let is_signed = match name {
            // These are made anew.
            DATE | SECURITY_TOKEN => false,
            "content-type" | "content-md5" => true,
            // S3 wants all of these.
            _ if name.starts_with("x-amz-") => true,
            _ => SIGNED_IF_SIGNED.contains(&name) && request.signature.is_some_and(|signature| signature.covers(name)),
        };
        if is_signed {
            let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
            signed.push((name, std::str::from_utf8(value).map_err(|_| Unsignable::Encoding)?));
        }
    }
    Ok(signed)
}

/// What stands for the body in the signature, and whether a header is to say so.
fn payload<'a>(
    request: &Unsigned<'a>,
    headers: &[(&str, &str)],
    s3: bool,
    presigned: bool,
) -> Result<(SignableBody<'a>, PayloadChecksumKind), Unsignable> {
    let mut said = headers.iter().filter(|(name, _)| *name == CONTENT_SHA256).map(|(_, value)| value.trim());
    match (said.next(), said.next()) {
        (Some(said), None) => {
            let is_hash = said.len() == 64 && said.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_hash || matches!(said, "UNSIGNED-PAYLOAD" | "STREAMING-UNSIGNED-PAYLOAD-TRAILER") {
                return Ok((SignableBody::Precomputed(said.to_owned()), PayloadChecksumKind::NoHeader));
            }
            let chunks = said.starts_with("STREAMING-AWS4-HMAC-SHA256-") || said.starts_with("STREAMING-AWS4-ECDSA-");
            return Err(if chunks { Unsignable::SignedChunks } else { Unsignable::Payload });
        }
        (Some(_), Some(_)) => return Err(Unsignable::Payload),
        (None, _) => {}
    }
    if s3 && presigned {
        return Ok((SignableBody::UnsignedPayload, PayloadChecksumKind::NoHeader));
    }
    let body = match request.body {
        Some(BodySent::Whole(body)) => Some(body),
        Some(BodySent::Cut) => return Err(Unsignable::LongBody),
        None => None,
    };
    if s3 {
        let body = body.map_or(SignableBody::UnsignedPayload, SignableBody::Bytes);
        return Ok((body, PayloadChecksumKind::XAmzSha256));
    }
    // If there is a body after all, the upstream refuses the signature.
    let empty = presigned || matches!(request.method, "GET" | "HEAD" | "DELETE" | "OPTIONS");
    let body = body.or_else(|| empty.then_some(&[])).ok_or(Unsignable::NoBody)?;
    Ok((SignableBody::Bytes(body), PayloadChecksumKind::NoHeader))
}

/// The URL in the form that is signed. S3 signs the path as it is, other services sign it percent-encoded once more.
fn url(host: &str, target: &str, s3: bool) -> Result<String, Unsignable> {
    let (path, parameters) = query::split(target);
    for parameter in parameters {
        let (name, value) = query::pair(parameter);
        if std::str::from_utf8(&name).is_err() || std::str::from_utf8(&value).is_err() {
            return Err(Unsignable::Encoding);
        }
    }
    if !path.starts_with('/') {
        return Err(Unsignable::Encoding);
    }
    let mut url = format!("https://{host}");
    if s3 {
        query::encode_path(path, &mut url);
    } else {
        url.push_str(path);
    }
    url.push_str(&target[path.len()..]);
    Ok(url)
}

/// The target without the parameters of a signature.
fn without_signature(target: &str) -> String {
    let (path, parameters) = query::split(target);
    let mut out = path.to_owned();
    let mut between = '?';
    for parameter in parameters.filter(|text| !text.is_empty() && !is_signing_parameter(&query::pair(text).0)) {
        out.push(between);
        out.push_str(parameter);
        between = '&';
    }
    out
}
