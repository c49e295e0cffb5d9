//! What programs of ours in a sandbox ask the host for, by the name `host.agent-creds`: one route each.

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::{Caller, Page, page, text};

/// Answers a request of `caller`.
pub(super) fn answer(request: &Request<Incoming>, caller: &Caller) -> Page {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/sandbox") => sandbox(caller),
        _ => text(StatusCode::NOT_FOUND, "the host offers no such thing to sandboxes\n"),
    }
}

/// Which sandbox it is that asks.
fn sandbox(caller: &Caller) -> Page {
    let told = json!({ "name": caller.sandbox.as_str(), "instance": caller.instance.as_str() });
    page(StatusCode::OK, "application/json", told.to_string())
}
