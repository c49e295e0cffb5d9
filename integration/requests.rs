//! Requests through a real Envoy: what is injected, what is refused and how, and what a hostile request cannot do.

mod answers;
mod audit;
mod bodies;
mod credentials;
mod cutting;
mod exchange;
mod injection;
mod paths;
mod placement;
mod providers;
mod redaction;
mod refusals;
mod revocation;
mod sigv4;
mod smuggling;
mod streams;
mod tokens;
mod transparency;

use std::collections::BTreeSet;

use http::StatusCode;

use crate::support::client::{Client, Reply};
use crate::support::server::{Server, WorldConfig, upstream_section};
use crate::support::upstream::{Recorded, Upstream};

const STRIPE: &str = "api.stripe.com";
const OPENAI: &str = "api.openai.com";

/// A server with two upstreams, each with a credential of its own.
struct World {
    server: Server,
    client: Client,
    stripe: Upstream,
    openai: Upstream,
}

impl World {
    /// `limits` are more lines of Stripe's section.
    async fn start(limits: &str) -> Self {
        Self::with(limits, |config| config).await
    }

    async fn with(limits: &str, change: impl FnOnce(WorldConfig) -> WorldConfig) -> Self {
        let (stripe, openai) = (Upstream::start(&[STRIPE]).await, Upstream::start(&[OPENAI]).await);
        let sections = upstream_section(STRIPE, &stripe, limits) + &upstream_section(OPENAI, &openai, "");
        let server = Server::start(change(WorldConfig::new(sections))).await;
        let client = server.client();
        Self { server, client, stripe, openai }
    }

    /// How many requests came through, to either upstream.
    fn forwarded(&self) -> usize {
        self.stripe.request_count() + self.openai.request_count()
    }

    /// Sends these bytes over TLS to Stripe's name.
    async fn raw(&self, bytes: impl AsRef<[u8]>) -> RawAnswer {
        RawAnswer(self.client.raw(STRIPE, bytes.as_ref()).await.unwrap())
    }
}

/// What came back for hand-written bytes.
struct RawAnswer(Vec<u8>);

impl RawAnswer {
    /// The status of the first answer; interim ones (1xx) count.
    fn status(&self) -> u16 {
        let text = self.text();
        let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
        status.unwrap_or_else(|| panic!("no HTTP/1.1 answer: {text:?}"))
    }

    /// How many answers there are: two for one request is smuggling.
    fn answers(&self) -> usize {
        self.text().matches("HTTP/1.1 ").count()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

/// The names of the headers that arrived.
fn names(recorded: &Recorded) -> BTreeSet<String> {
    recorded.headers.keys().map(ToString::to_string).collect()
}

/// Asserts that exactly `key` arrived, once, and nothing of `token`.
#[track_caller]
fn assert_swapped(recorded: &Recorded, header: &str, key: &str, token: &str) {
    let values: Vec<_> = recorded.headers.get_all(header).iter().collect();
    assert_eq!(values, [key], "{header} at the upstream: {recorded:?}");
    // The token's text, and what it becomes in a Basic value wherever it begins.
    assert!(!recorded.contains("acm_") && !recorded.contains(&token[4..24]), "{recorded:?}");
    let places = ["authorization", "x-api-key", "api-key", "x-goog-api-key", "private-token"];
    for other in places.into_iter().filter(|&place| place != header) {
        assert!(!recorded.headers.contains_key(other), "{other} at the upstream: {recorded:?}");
    }
}

/// Asserts that it is the refusal with this status and beginning, with help: in text, in most APIs' JSON, or as AWS has it, where the
/// help is part of the message.
#[track_caller]
fn assert_refusal(reply: &Reply, status: u16, beginning: &str) {
    let text = reply.text();
    assert_eq!(reply.status, StatusCode::from_u16(status).unwrap(), "{text}");
    let content_type = reply.header("content-type").unwrap_or_default();
    let in_message = |message: &str| {
        let (message, help) = message.split_once(" Help: ").unwrap_or((message, ""));
        (message.to_owned(), help.to_owned())
    };
    let (message, help) = if let Some((_, message)) = text.split_once("<Message>") {
        in_message(message.split("</Message>").next().unwrap())
    } else if content_type.starts_with("application/x-amz-json") || text.contains("\"__type\"") {
        in_message(reply.json()["message"].as_str().unwrap())
    } else if content_type == "application/json" {
        let error = &reply.json()["error"];
        let field = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        (field("message"), field("help"))
    } else {
        let help = text.lines().find_map(|line| line.strip_prefix("Help: ")).unwrap_or_default();
        (text.clone(), help.to_owned())
    };
    assert!(message.starts_with(beginning), "{text:?} does not begin with {beginning:?}");
    assert!(help.len() > 10, "no help in {text:?}");
}
