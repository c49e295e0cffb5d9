//! What belongs to one host: as much of GitHub's and Google Cloud Storage's APIs as their programs need, and a forge for git.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use super::journal::Recorded;
use super::routes::{Body, json_response, status};

/// Objects in the bucket, and uploads that go on, by name.
#[derive(Default)]
pub(super) struct Bucket(Mutex<BTreeMap<String, Vec<u8>>>);

/// The host's answer, if it is one of these and has something at this path.
pub(super) async fn answer(request: &Recorded, bucket: &Bucket, files: Option<&Path>) -> Option<Response<Body>> {
    match request.host.as_str() {
        "api.github.com" => github(request),
        "github.com" => git(request.clone(), files?.to_owned()).await,
        "storage.googleapis.com" => storage(request, bucket),
        _ => None,
    }
}

fn with_status(mut response: Response<Body>, code: u16) -> Response<Body> {
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn bytes(body: Vec<u8>) -> Response<Body> {
    Response::new(Full::new(Bytes::from(body)).boxed())
}

fn github(request: &Recorded) -> Option<Response<Body>> {
    let issue = json!({
        "number": 7, "title": "The key stays outside", "state": "OPEN", "labels": {"nodes": [], "totalCount": 0},
        "updatedAt": "2026-01-01T00:00:00Z", "url": "https://github.com/octo/hello/issues/7",
    });
    let repository = json!({
        "id": "R_1", "name": "hello", "owner": {"login": "octo"}, "description": "A test", "hasIssuesEnabled": true,
        "viewerPermission": "ADMIN", "url": "https://github.com/octo/hello",
        "issues": {"totalCount": 1, "nodes": [issue], "pageInfo": {"hasNextPage": false, "endCursor": null}},
    });
    Some(match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/graphql") => json_response(&json!({ "data": { "repository": repository } })),
        ("GET", "/repos/octo/hello") => json_response(&json!({ "full_name": "octo/hello", "private": true })),
        ("POST", "/repos/octo/hello/issues") => with_status(json_response(&json!({ "number": 8 })), 201),
        _ => return None,
    })
}

/// git's own program for the server's side, by CGI; to who authenticates.
async fn git(request: Recorded, files: PathBuf) -> Option<Response<Body>> {
    if !request.path.contains(".git/") {
        return None;
    }
    if request.authorization().is_none() {
        let mut response = status(StatusCode::UNAUTHORIZED);
        let basic = HeaderValue::from_static("Basic realm=\"GitHub\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
        return Some(response);
    }
    Some(tokio::task::spawn_blocking(move || cgi(&request, &files)).await.unwrap())
}

fn cgi(request: &Recorded, files: &Path) -> Response<Body> {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let mut command = Command::new("git");
    command.arg("http-backend").env("GIT_PROJECT_ROOT", files).env("GIT_HTTP_EXPORT_ALL", "1");
    command.env("REMOTE_USER", "octo").env("PATH_INFO", path).env("QUERY_STRING", query);
    command.env("REQUEST_METHOD", &request.method).env("CONTENT_LENGTH", request.body.len().to_string());
    for (variable, name) in [
        ("CONTENT_TYPE", "content-type"),
        ("HTTP_CONTENT_ENCODING", "content-encoding"),
        ("GIT_PROTOCOL", "git-protocol"),
    ] {
        if let Some(value) = request.header(name) {
            command.env(variable, value);
        }
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, body) = (child.stdin.take().unwrap(), request.body.clone());
    let writer = std::thread::spawn(move || drop(stdin.write_all(&body)));
    let output = child.wait_with_output().unwrap().stdout;
    writer.join().unwrap();
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer of CGI");
    let mut response = bytes(output[end + 4..].to_vec());
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(": ").unwrap();
        if name == "Status" {
            response = with_status(response, value[..3].parse().unwrap());
        } else {
            let name = http::HeaderName::try_from(name).unwrap();
            response.headers_mut().insert(name, HeaderValue::try_from(value).unwrap());
        }
    }
    response
}

const UPLOAD: &str = "/upload/storage/v1/b/bucket/o?";
const DOWNLOAD: &str = "/download/storage/v1/b/bucket/o/";

fn storage(request: &Recorded, bucket: &Bucket) -> Option<Response<Body>> {
    let mut objects = bucket.0.lock().unwrap();
    let path = request.path.as_str();
    if let Some(query) = path.strip_prefix(UPLOAD) {
        return upload(request, query, &mut objects);
    }
    if let Some(rest) = path.strip_prefix(DOWNLOAD) {
        let name = rest.split('?').next().unwrap().replace("%2F", "/");
        let Some(object) = objects.get(&name) else {
            let error = json!({ "error": { "code": 404, "message": format!("No such object: bucket/{name}") } });
            return Some(with_status(json_response(&error), 404));
        };
        let Some(range) = request.header("range") else { return Some(bytes(object.clone())) };
        let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
        let from: usize = from.parse().ok()?;
        let to = to.parse().unwrap_or(object.len() - 1).min(object.len() - 1);
        let mut response = with_status(bytes(object[from..=to].to_vec()), 206);
        let range = format!("bytes {from}-{to}/{}", object.len());
        response.headers_mut().insert(header::CONTENT_RANGE, HeaderValue::try_from(range).unwrap());
        return Some(response);
    }
    if path.starts_with("/storage/v1/b/bucket/o?") || path == "/storage/v1/b/bucket/o" {
        let items: Vec<Value> = objects.iter().map(|(name, data)| object(name, data)).collect();
        return Some(json_response(&json!({ "kind": "storage#objects", "items": items })));
    }
    None
}

fn upload(request: &Recorded, query: &str, objects: &mut BTreeMap<String, Vec<u8>>) -> Option<Response<Body>> {
    if query.contains("uploadType=multipart") {
        let kind = request.header("content-type")?;
        let boundary = kind.split_once("boundary=")?.1.trim_matches('"').to_owned();
        let parts = split(&request.body, format!("--{boundary}").as_bytes());
        // Before the first border is nothing; then come the description and the data, each with headers of its own.
        let content = |part: &[u8]| {
            let parts = split(part, b"\r\n\r\n");
            parts[1].strip_suffix(b"\r\n").unwrap_or(parts[1]).to_vec()
        };
        let description: Value = serde_json::from_slice(&content(parts[1])).ok()?;
        let name = description["name"].as_str()?.to_owned();
        let data = content(parts[2]);
        let answer = json_response(&object(&name, &data));
        objects.insert(name, data);
        return Some(answer);
    }
    if request.method == "POST" {
        let description: Value = serde_json::from_slice(&request.body).ok()?;
        let to = format!("https://storage.googleapis.com{UPLOAD}upload_id={}", description["name"].as_str()?);
        let mut response = status(StatusCode::OK);
        response.headers_mut().insert(header::LOCATION, HeaderValue::try_from(to).unwrap());
        return Some(response);
    }
    let name = query.split_once("upload_id=")?.1.to_owned();
    let data = objects.entry(name.clone()).or_default();
    data.extend_from_slice(&request.body);
    let range = request.header("content-range")?;
    if range.ends_with(&format!("/{}", data.len())) {
        return Some(json_response(&object(&name, data)));
    }
    let mut response = with_status(status(StatusCode::OK), 308);
    let range = format!("bytes=0-{}", data.len() - 1);
    response.headers_mut().insert(header::RANGE, HeaderValue::try_from(range).unwrap());
    Some(response)
}

fn object(name: &str, data: &[u8]) -> Value {
    json!({
        "kind": "storage#object", "bucket": "bucket", "name": name, "size": data.len().to_string(),
        "generation": "1", "metageneration": "1", "crc32c": STANDARD.encode(crc32c(data).to_be_bytes()),
    })
}

/// The checksum that the client compares with its own (RFC 3720 §12.1).
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

fn split<'a>(mut text: &'a [u8], border: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    while let Some(at) = text.windows(border.len()).position(|window| window == border) {
        parts.push(&text[..at]);
        text = &text[at + border.len()..];
    }
    parts.push(text);
    parts
}
