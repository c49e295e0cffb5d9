//! What programs of ours in a sandbox ask the host for, by the name `host.agent-creds`: one route each.

use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;

use super::{Caller, Page, page, text};
use crate::domain::opening::{MAX_URL, PATH as OPEN};
use crate::server::browser::Browser;

/// The most that is read of what is too long anyway.
const MAX_READ: usize = 4 << 20;
/// How long the body of a request may take.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// Answers a request of `caller`.
pub(super) async fn answer(request: Request<Incoming>, caller: &Caller, browser: &Browser) -> Page {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/sandbox") => sandbox(caller),
        (&Method::POST, OPEN) => open(request, caller, browser).await,
        _ => text(StatusCode::NOT_FOUND, "the host offers no such thing to sandboxes\n"),
    }
}

/// Which sandbox it is that asks.
fn sandbox(caller: &Caller) -> Page {
    let told = json!({ "name": caller.sandbox.as_str(), "instance": caller.instance.as_str() });
    page(StatusCode::OK, "application/json", told.to_string())
}

/// Opens a page, whose URL is the body.
async fn open(request: Request<Incoming>, caller: &Caller, browser: &Browser) -> Page {
    match tokio::time::timeout(BODY_PATIENCE, read(request.into_body())).await {
        Ok(Ok(Some(url))) => {
            let answer = browser.open(caller, &url).await;
            text(answer.status, answer.text)
        }
        Ok(Ok(None)) => {
            let long = format!("the URL has more than {MAX_URL} bytes, and no more are opened on the host\n");
            text(StatusCode::PAYLOAD_TOO_LARGE, long)
        }
        Ok(Err(_)) | Err(_) => text(StatusCode::BAD_REQUEST, "the URL did not come whole\n"),
    }
}

/// A body that may be a URL; `None` when it is too long for one. Then the rest is read nevertheless, up to a bound: Envoy, cut short
/// while it sends, would not pass the answer on.
async fn read(mut body: Incoming) -> hyper::Result<Option<Vec<u8>>> {
    let (mut url, mut length) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        length += data.len();
        if length > MAX_READ {
            break;
        }
        if length <= MAX_URL {
            url.extend_from_slice(&data);
        }
    }
    Ok((length <= MAX_URL).then_some(url))
}
