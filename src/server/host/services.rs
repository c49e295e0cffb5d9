//! What programs of ours in a sandbox ask the host for, by the name `host.agent-creds`: one route each.

use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::json;

use super::{Caller, Page, page, text};
use crate::domain::opening::{MAX_URL, PATH as OPEN};
use crate::server::browser::Browser;

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
    let body = Limited::new(request.into_body(), MAX_URL).collect();
    match tokio::time::timeout(BODY_PATIENCE, body).await {
        Ok(Ok(body)) => {
            let answer = browser.open(caller, &body.to_bytes()).await;
            text(answer.status, answer.text)
        }
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            text(StatusCode::PAYLOAD_TOO_LARGE, format!("no more than {MAX_URL} bytes of URL are opened on the host\n"))
        }
        Ok(Err(_)) | Err(_) => text(StatusCode::BAD_REQUEST, "the URL did not come whole\n"),
    }
}
