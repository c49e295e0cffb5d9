//! Which request gets which answer.
//!
//! | path | answer |
//! |---|---|
//! | `/sse?n=10&ms=20` | `text/event-stream`, `n` numbered ticks (endless without `n`), one every `ms` |
//! | `/ws` | a WebSocket that echoes, by HTTP/1.1 upgrade or HTTP/2 extended CONNECT |
//! | `/status/418` | that status |
//! | `/redirect?to=URL` | 302 |
//! | `/slow?ms=500` | the echo, late |
//! | `/bytes?n=1024` | that many bytes |
//! | `/files/NAME` | a file of [`UpstreamConfig::files`](super::UpstreamConfig::files); 401 without `authorization` |
//! | `/v1/…` | as the real API would ([`super::apis`]) |
//! | anything of `api.github.com`, `github.com`, `storage.googleapis.com` | as the real one would ([`super::hosts`]), else as below |
//! | anything else | the request, echoed as JSON |

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::journal::Recorded;
use super::{Shared, apis, hosts, streams};

/// The body of every answer.
pub(super) type Body = BoxBody<Bytes, Infallible>;

/// Records the request and answers it.
pub(super) async fn answer(
    mut request: Request<Incoming>,
    shared: &Shared,
    connection: usize,
    sni: Option<String>,
) -> Response<Body> {
    let websocket = streams::is_websocket(&request);
    let (body, trailers) = if websocket {
        (Bytes::new(), HeaderMap::new())
    } else {
        match request.body_mut().collect().await {
            Ok(body) => {
                let trailers = body.trailers().cloned().unwrap_or_default();
                (body.to_bytes(), trailers)
            }
            // The client went away in the middle of its request; nobody reads this answer.
            Err(_) => return status(StatusCode::BAD_REQUEST),
        }
    };
    let recorded = Recorded {
        method: request.method().to_string(),
        host: host(&request),
        path: request.uri().path_and_query().map_or("", |path| path.as_str()).to_owned(),
        headers: request.headers().clone(),
        body,
        trailers,
        version: request.version(),
        connection,
        sni,
    };
    shared.journal.record(&recorded);
    if let Some((code, body, delay)) = shared.answers.as_ref().and_then(|answers| answers(&recorded)) {
        tokio::time::sleep(delay).await;
        let mut response = json_response(&body);
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        return response;
    }
    if let Some(response) = hosts::answer(&recorded, &shared.bucket, shared.files.as_deref()).await {
        return response;
    }

    let query = Query(request.uri().query().unwrap_or_default().to_owned());
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        _ if websocket => streams::websocket(request),
        (_, "/sse") => streams::ticks(query.number("n"), Duration::from_millis(query.number("ms").unwrap_or(100))),
        (_, "/redirect") => {
            let mut response = status(StatusCode::FOUND);
            let to = query.get("to").and_then(|to| to.parse().ok());
            response.headers_mut().insert(header::LOCATION, to.unwrap_or(header::HeaderValue::from_static("/")));
            response
        }
        (_, "/slow") => {
            tokio::time::sleep(Duration::from_millis(query.number("ms").unwrap_or(1000))).await;
            echo(&recorded, &shared.label)
        }
        (_, "/bytes") => {
            let length = usize::try_from(query.number("n").unwrap_or(1024)).unwrap();
            Response::new(Full::new(Bytes::from(vec![b'x'; length])).boxed())
        }
        (_, path) if path.starts_with("/status/") => match path["/status/".len()..].parse() {
            Ok(code) => status(code),
            Err(_) => status(StatusCode::NOT_FOUND),
        },
        (_, path) if path.starts_with("/files/") => {
            file(shared.files.as_deref(), &path["/files/".len()..], &recorded).await
        }
        (method, path) if path.starts_with("/v1/") => match apis::answer(method, path, &recorded) {
            Some(response) => response,
            None => echo(&recorded, &shared.label),
        },
        (&Method::HEAD, _) => status(StatusCode::OK),
        _ => echo(&recorded, &shared.label),
    }
}

/// An empty answer.
pub(super) fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::default().boxed());
    *response.status_mut() = code;
    response
}

/// A JSON answer.
pub(super) fn json_response(value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// A file of the folder, to who authenticates; everybody else is asked to, as a forge asks git.
async fn file(folder: Option<&Path>, name: &str, request: &Recorded) -> Response<Body> {
    let Some(folder) = folder.filter(|_| !name.split('/').any(|part| part == "..")) else {
        return status(StatusCode::NOT_FOUND);
    };
    if request.authorization().is_none() {
        let mut response = status(StatusCode::UNAUTHORIZED);
        let basic = header::HeaderValue::from_static("Basic realm=\"files\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
        return response;
    }
    match tokio::fs::read(folder.join(name)).await {
        Ok(bytes) => Response::new(Full::new(Bytes::from(bytes)).boxed()),
        Err(_) => status(StatusCode::NOT_FOUND),
    }
}

fn echo(request: &Recorded, label: &str) -> Response<Body> {
    json_response(&json!({
        "upstream": label,
        "host": request.host,
        "method": request.method,
        "path": request.path,
        "headers": headers(&request.headers),
        "http": if request.version == Version::HTTP_2 { "2" } else { "1.1" },
        "body_length": request.body.len(),
    }))
}

/// Headers as an object; the values of a repeated one are joined by `, `.
fn headers(headers: &HeaderMap) -> Map<String, Value> {
    headers
        .keys()
        .map(|name| {
            let values: Vec<_> =
                headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
            (name.to_string(), Value::String(values.join(", ")))
        })
        .collect()
}

fn host(request: &Request<Incoming>) -> String {
    let authority = request.uri().authority().map(ToString::to_string);
    let header =
        || request.headers().get(header::HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    authority.or_else(header).unwrap_or_default()
}

/// A query string. Values are taken as they stand, without percent-decoding, but for `%3A` and `%2F` in URLs.
struct Query(String);

impl Query {
    fn get(&self, name: &str) -> Option<String> {
        let (_, value) = self.0.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?;
        Some(value.replace("%3A", ":").replace("%2F", "/"))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }
}
