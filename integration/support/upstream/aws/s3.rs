//! S3, in memory: objects, listings and multipart uploads.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use sha2::{Digest, Sha256};

use super::super::journal::Recorded;
use super::super::routes::{Body, status};
use super::signature::{decoded, encode, hex};
use super::{Store, error, escaped, xml};

/// An object that was put.
#[derive(Debug, Clone)]
pub struct Object {
    /// What is in it.
    pub body: Bytes,
    /// Its type and its metadata.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Object {
    fn etag(&self) -> String {
        etag(&self.body)
    }
}

fn etag(body: &[u8]) -> String {
    format!("\"{}\"", &hex(&Sha256::digest(body))[..32])
}

pub(super) fn answer(store: &mut Store, request: &Recorded, body: Bytes) -> Response<Body> {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let parameter = |name: &str| {
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| decoded(&value.replace('+', " ")))
    };
    // `s3.REGION.amazonaws.com/BUCKET/KEY`, or `BUCKET.s3.REGION.amazonaws.com/KEY`.
    let path = decoded(path.trim_start_matches('/'));
    let (bucket, key) = match request.host.split_once(".s3.") {
        Some((bucket, _)) => (bucket.to_owned(), path),
        None => path.split_once('/').map_or((path.clone(), String::new()), |(b, k)| (b.to_owned(), k.to_owned())),
    };
    let upload = parameter("uploadId");
    match (request.method.as_str(), key.is_empty(), &upload) {
        ("GET", true, _) if parameter("list-type").is_some() => list(
            store,
            &bucket,
            &parameter("prefix").unwrap_or_default(),
            &parameter("delimiter").unwrap_or_default(),
            parameter("encoding-type").is_some(),
        ),
        ("PUT" | "HEAD", true, _) => status(StatusCode::OK),
        ("POST", false, None) if parameter("uploads").is_some() => {
            let id = format!("upload-{}", store.uploads.len());
            store.uploads.insert(id.clone(), Default::default());
            xml(format!(
                "<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{key}</Key><UploadId>{id}</UploadId>\
                 </InitiateMultipartUploadResult>"
            ))
        }
        ("PUT", false, Some(id)) => match (store.uploads.get_mut(id), parameter("partNumber").map(|n| n.parse())) {
            (Some(parts), Some(Ok(number))) => {
                let tag = etag(&body);
                parts.insert(number, body);
                with_etag(status(StatusCode::OK), &tag)
            }
            _ => error(StatusCode::NOT_FOUND, "NoSuchUpload", id),
        },
        ("POST", false, Some(id)) => match store.uploads.remove(id) {
            Some(parts) => {
                let body: Vec<u8> = parts.values().flat_map(|part| part.iter().copied()).collect();
                let object = Object { body: body.into(), headers: vec![] };
                let tag = object.etag();
                store.objects.insert((bucket.clone(), key.clone()), object);
                xml(format!(
                    "<CompleteMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{key}</Key><ETag>{tag}</ETag>\
                     </CompleteMultipartUploadResult>"
                ))
            }
            None => error(StatusCode::NOT_FOUND, "NoSuchUpload", id),
        },
        ("DELETE", false, Some(id)) => {
            store.uploads.remove(id);
            status(StatusCode::NO_CONTENT)
        }
        ("PUT", false, None) => {
            let kept = |name: &HeaderName| *name == header::CONTENT_TYPE || name.as_str().starts_with("x-amz-meta-");
            let headers = request.headers.iter().filter(|(name, _)| kept(name));
            let headers = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
            let object = Object { body, headers };
            let tag = object.etag();
            store.objects.insert((bucket, key), object);
            with_etag(status(StatusCode::OK), &tag)
        }
        ("GET" | "HEAD", false, None) => match store.objects.get(&(bucket, key.clone())) {
            Some(object) => get(request, object),
            None => error(StatusCode::NOT_FOUND, "NoSuchKey", &key),
        },
        ("DELETE", false, None) => {
            store.objects.remove(&(bucket, key));
            status(StatusCode::NO_CONTENT)
        }
        _ => error(StatusCode::NOT_IMPLEMENTED, "NotImplemented", &request.path),
    }
}

fn get(request: &Recorded, object: &Object) -> Response<Body> {
    let (length, mut response) = (object.body.len(), status(StatusCode::OK));
    let range = request.header("range").and_then(|range| {
        let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
        let from: usize = from.parse().ok()?;
        let to = to.parse().map_or(length, |to: usize| to + 1).min(length);
        (from < to).then_some(from..to)
    });
    let mut body = object.body.clone();
    if let Some(range) = range {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let text = format!("bytes {}-{}/{length}", range.start, range.end - 1);
        response.headers_mut().insert(header::CONTENT_RANGE, text.parse().unwrap());
        body = body.slice(range);
    }
    response.headers_mut().insert(header::LAST_MODIFIED, HeaderValue::from_static("Wed, 01 Jan 2025 00:00:00 GMT"));
    response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response.headers_mut().extend(object.headers.iter().cloned());
    response.headers_mut().insert(header::CONTENT_LENGTH, body.len().into());
    if request.method != "HEAD" {
        *response.body_mut() = Full::new(body).boxed();
    }
    with_etag(response, &object.etag())
}

fn with_etag(mut response: Response<Body>, tag: &str) -> Response<Body> {
    response.headers_mut().insert(header::ETAG, tag.parse().unwrap());
    response
}

fn list(store: &Store, bucket: &str, prefix: &str, delimiter: &str, encoded: bool) -> Response<Body> {
    let written = |key: &str| if encoded { encode(key.as_bytes(), "/") } else { escaped(key) };
    let (mut contents, mut folders, mut count) = (String::new(), BTreeSet::new(), 0);
    for ((_, key), object) in store.objects.iter().filter(|((known, _), _)| known == bucket) {
        let Some(rest) = key.strip_prefix(prefix) else { continue };
        if let Some(at) = rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
            folders.insert(&key[..prefix.len() + at + delimiter.len()]);
            continue;
        }
        count += 1;
        let (key, tag, size) = (written(key), object.etag(), object.body.len());
        contents.push_str(&format!(
            "<Contents><Key>{key}</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified><ETag>{tag}</ETag>\
             <Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        ));
    }
    for folder in &folders {
        let folder = written(folder);
        contents.push_str(&format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"));
    }
    count += folders.len();
    let prefix = written(prefix);
    let encoding = if encoded { "<EncodingType>url</EncodingType>" } else { "" };
    xml(format!(
        "<ListBucketResult><Name>{bucket}</Name><Prefix>{prefix}</Prefix><KeyCount>{count}</KeyCount><MaxKeys>1000</MaxKeys>\
         <IsTruncated>false</IsTruncated>{encoding}{contents}</ListBucketResult>"
    ))
}
