//! Signature Version 4 from AWS's description, with nothing in common with what the product uses: it is what the product is
//! checked by.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use time::PrimitiveDateTime;
use time::macros::format_description;

use super::super::journal::Recorded;
use super::Aws;

/// How far from now a signature may have been made.
const SKEW: i64 = 15 * 60;

/// The body, decoded, if the signature is right.
///
/// # Errors
/// What is wrong with it.
pub(super) fn verify(aws: &Aws, request: &Recorded, service: &str) -> Result<Bytes, String> {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let parameters: Vec<(String, String)> = query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            (decoded(&name.replace('+', " ")), decoded(&value.replace('+', " ")))
        })
        .collect();
    let presigned = parameters.iter().any(|(name, _)| name == "X-Amz-Signature");
    let claim = match (presigned, request.headers.get_all("authorization").iter().count()) {
        (true, 0) => Claim::of_query(&parameters)?,
        (false, 1) => Claim::of_header(request)?,
        (true, _) => return Err("only one way to authenticate may be used".to_owned()),
        (false, count) => return Err(format!("{count} Authorization headers")),
    };

    let [access_key_id, date, region, signed_service, "aws4_request"] =
        claim.credential.split('/').collect::<Vec<_>>()[..]
    else {
        return Err(format!("the credential is {:?}", claim.credential));
    };
    expect("the access key id", access_key_id, &aws.access_key_id)?;
    expect("the service", signed_service, service)?;
    expect("the date of the scope", date, claim.date.get(..8).unwrap_or_default())?;
    let in_host = request.host.strip_suffix(".amazonaws.com").and_then(|name| name.rsplit('.').next());
    // `BUCKET.s3.amazonaws.com` takes the bucket's own region.
    if in_host != Some("s3") {
        expect("the region", region, in_host.unwrap_or_default())?;
    }
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let made = PrimitiveDateTime::parse(&claim.date, format).map_err(|error| format!("{}: {error}", claim.date))?;
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let age = now - made.assume_utc().unix_timestamp();
    let oldest = claim.expires.unwrap_or(SKEW);
    if !(-SKEW..=oldest).contains(&age) {
        return Err(format!("made {age} seconds ago"));
    }
    let session = claim.session_token.as_deref().unwrap_or_default();
    expect("the session token", session, aws.session_token.as_deref().unwrap_or_default())?;

    // Which headers are signed.
    let names: Vec<&str> = claim.signed_headers.split(';').collect();
    if !names.is_sorted() || !names.contains(&"host") {
        return Err(format!("the signed headers are {names:?}"));
    }
    for name in request.headers.keys().map(http::HeaderName::as_str) {
        let demanded = name.starts_with("x-amz-") || (name == "content-type" && !presigned);
        if demanded && !names.contains(&name) {
            return Err(format!("{name} is there and not signed"));
        }
    }

    let (hash, body) = payload(request, service, presigned)?;
    let mut encoded: Vec<String> = parameters
        .iter()
        .filter(|(name, _)| name != "X-Amz-Signature")
        .map(|(name, value)| format!("{}={}", encode(name.as_bytes(), ""), encode(value.as_bytes(), "")))
        .collect();
    encoded.sort();
    let path = if service == "s3" { encode(&decoded_bytes(path), "/") } else { encode(path.as_bytes(), "/") };
    let mut canonical = format!("{}\n{path}\n{}\n", request.method, encoded.join("&"));
    for name in &names {
        let values: Vec<String> = match *name {
            "host" => vec![request.host.clone()],
            name => request.headers.get_all(name).iter().map(|value| one_line(value.as_bytes())).collect(),
        };
        canonical.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    canonical.push_str(&format!("\n{}\n{hash}", claim.signed_headers));

    let scope = format!("{date}/{region}/{signed_service}/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", claim.date, hex(&Sha256::digest(&canonical)));
    let mut key = format!("AWS4{}", aws.secret_access_key).into_bytes();
    for part in [date, region, signed_service, "aws4_request"] {
        key = hmac(&key, part.as_bytes());
    }
    if hex(&hmac(&key, to_sign.as_bytes())) != claim.signature {
        return Err(format!("not signed: {canonical:?}"));
    }
    Ok(body)
}

/// What a signature says of itself.
struct Claim {
    credential: String,
    date: String,
    expires: Option<i64>,
    signed_headers: String,
    signature: String,
    session_token: Option<String>,
}

impl Claim {
    fn of_header(request: &Recorded) -> Result<Self, String> {
        let authorization = request.authorization().unwrap_or_default();
        let fields = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or("not AWS4-HMAC-SHA256")?;
        let field = |name: &str| {
            let value = fields.split(", ").find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            value.map(str::to_owned).ok_or(format!("no {name}"))
        };
        for name in ["x-amz-date", "x-amz-security-token", "x-amz-content-sha256"] {
            if request.headers.get_all(name).iter().count() > 1 {
                return Err(format!("several {name}"));
            }
        }
        Ok(Self {
            credential: field("Credential")?,
            date: request.header("x-amz-date").ok_or("no x-amz-date")?,
            expires: None,
            signed_headers: field("SignedHeaders")?,
            signature: field("Signature")?,
            session_token: request.header("x-amz-security-token"),
        })
    }

    fn of_query(parameters: &[(String, String)]) -> Result<Self, String> {
        let parameter = |name: &str| {
            let mut values = parameters.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone());
            match (values.next(), values.next()) {
                (value, None) => Ok(value),
                (_, Some(_)) => Err(format!("several {name}")),
            }
        };
        let required = |name: &str| parameter(name)?.ok_or(format!("no {name}"));
        expect("the algorithm", &required("X-Amz-Algorithm")?, "AWS4-HMAC-SHA256")?;
        Ok(Self {
            credential: required("X-Amz-Credential")?,
            date: required("X-Amz-Date")?,
            expires: Some(required("X-Amz-Expires")?.parse().map_err(|error| format!("X-Amz-Expires: {error}"))?),
            signed_headers: required("X-Amz-SignedHeaders")?,
            signature: required("X-Amz-Signature")?,
            session_token: parameter("X-Amz-Security-Token")?,
        })
    }
}

/// What stands for the body in the signature, and the body.
fn payload(request: &Recorded, service: &str, presigned: bool) -> Result<(String, Bytes), String> {
    let hash = hex(&Sha256::digest(&request.body));
    let body = request.body.clone();
    match request.header("x-amz-content-sha256").as_deref() {
        None if service != "s3" => Ok((hash, body)),
        None if presigned => Ok(("UNSIGNED-PAYLOAD".to_owned(), body)),
        None => Err("no x-amz-content-sha256".to_owned()),
        Some("UNSIGNED-PAYLOAD") => Ok(("UNSIGNED-PAYLOAD".to_owned(), body)),
        Some(said @ "STREAMING-UNSIGNED-PAYLOAD-TRAILER") => Ok((said.to_owned(), unchunked(request)?)),
        Some(said) if *said == *hash => Ok((hash, body)),
        Some(said) => Err(format!("the body's hash is {hash}, not {said}")),
    }
}

/// The body of `aws-chunked` without signatures; its checksum, in a trailer, has to be right.
fn unchunked(request: &Recorded) -> Result<Bytes, String> {
    let (mut rest, mut body) = (&request.body[..], Vec::new());
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").ok_or("a chunk without its length")?;
        let length = std::str::from_utf8(&rest[..end]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let length = length.ok_or_else(|| format!("a length of {:?}", &rest[..end]))?;
        rest = &rest[end + 2..];
        if length == 0 {
            break;
        }
        let chunk = rest.get(..length).ok_or("a chunk that is cut")?;
        body.extend_from_slice(chunk);
        rest = rest[length..].strip_prefix(b"\r\n").ok_or("a chunk that does not end")?;
    }
    let decoded_length = request.header("x-amz-decoded-content-length").unwrap_or_default();
    expect("the decoded length", &decoded_length, &body.len().to_string())?;
    let trailer = String::from_utf8_lossy(rest).trim().to_owned();
    expect("the announced trailer", &request.header("x-amz-trailer").unwrap_or_default(), "x-amz-checksum-crc32")?;
    let checksum = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, crc32(&body).to_be_bytes());
    expect("the trailer", &trailer, &format!("x-amz-checksum-crc32:{checksum}"))?;
    Ok(body.into())
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}

fn expect(what: &str, found: &str, expected: &str) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what} is {found:?}, not {expected:?}")) }
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Without spaces at its ends, and with single ones inside.
fn one_line(value: &[u8]) -> String {
    String::from_utf8_lossy(value).split(' ').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

pub(super) fn encode(bytes: &[u8], also: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || also.as_bytes().contains(&byte);
    bytes.iter().map(|&byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

pub(super) fn decoded(text: &str) -> String {
    String::from_utf8_lossy(&decoded_bytes(text)).into_owned()
}

fn decoded_bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        let escaped = digits.filter(|_| byte == b'%');
        out.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    out
}
