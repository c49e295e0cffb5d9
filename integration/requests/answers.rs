//! The table of answers (design §4): each row, in text and in JSON.

use std::time::Duration;

use http::StatusCode;

use super::{OPENAI, STRIPE, World, assert_refusal};
use crate::support::client::{Proto, Reply};
use crate::support::pki::CertKind;
use crate::support::server::{OPENAI_KEY, STRIPE_KEY, Server, WorldConfig, upstream_section};
use crate::support::upstream::{Upstream, UpstreamConfig};

/// One row: what is sent, and what must come back.
struct Row {
    what: &'static str,
    method: &'static str,
    path: &'static str,
    token: Option<String>,
    status: u16,
    /// How the message begins.
    message: &'static str,
    /// The word in `error.code`.
    code: &'static str,
}

fn row(
    what: &'static str,
    request: (&'static str, &'static str),
    token: Option<String>,
    answer: (u16, &'static str, &'static str),
) -> Row {
    let ((method, path), (status, message, code)) = (request, answer);
    Row { what, method, path, token, status, message, code }
}

/// Sends the row's request to Stripe in every form, and looks at every answer.
async fn assert_row(world: &World, row: &Row) {
    let forwarded = world.forwarded();
    for proto in [Proto::H1, Proto::H2] {
        let call = || {
            let url = format!("https://{STRIPE}{}", row.path);
            let call = world.client.call(row.method.parse().unwrap(), &url).proto(proto);
            match &row.token {
                Some(token) => call.bearer(token),
                None => call,
            }
        };
        let what = row.what;
        let text = call().header("accept", "text/plain").send().await.unwrap();
        assert_refusal(&text, row.status, row.message);
        assert_eq!(text.header("content-type").as_deref(), Some("text/plain; charset=utf-8"), "{what}");

        // What SDKs send, and what they need, are not the same.
        let accept = if proto == Proto::H1 { "application/json" } else { "*/*" };
        let json = call().header("accept", accept).send().await.unwrap();
        let body = json.json();
        assert_eq!(json.status.as_u16(), row.status, "{what}: {body}");
        assert_eq!(json.header("content-type").as_deref(), Some("application/json"), "{what}");
        assert!(body["error"]["message"].as_str().unwrap().starts_with(row.message), "{what}: {body}");
        assert_eq!(body["error"]["code"], row.code, "{what}");
        assert_eq!(body["error"]["type"], "agent_creds_refusal", "{what}");
        assert!(body["error"]["help"].as_str().unwrap().len() > 10, "{what}: {body}");

        for reply in [text, json] {
            assert_eq!(reply.header("cache-control").as_deref(), Some("no-store"), "{what}");
            let all = format!("{:?} {}", reply.headers, reply.text());
            let secret = row.token.as_deref().and_then(|token| token.get(4..24)).unwrap_or(STRIPE_KEY);
            assert!(!all.contains(STRIPE_KEY) && !all.contains(secret), "{what}: a secret in {all}");
            assert_eq!(reply.headers.contains_key("www-authenticate"), row.code == "no_token", "{what}");
        }
    }
    assert_eq!(world.forwarded(), forwarded, "{}: the upstream saw it", row.what);
}

/// A token whose signature does not hold: a character well before its end is another one.
fn forged(token: &str) -> String {
    let mut bytes = token.as_bytes().to_vec();
    let at = bytes.len() - 10;
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn tokens_that_do_not_hold_are_401() {
    let world = World::start("").await;
    let good = world.server.token(&["--hosts", STRIPE]);
    let expired = world.server.token(&["--not-before", "2020-01-01T00:00:00Z", "--valid-for", "1h"]);
    let early = world.server.token(&["--not-before", "1h"]);
    let garbage = format!("acm_{}", "A".repeat(80));
    let get = ("GET", "/v1/customers");
    let malformed = (401, "Unauthorized: the token is not a macaroon", "malformed_token");
    let long = (401, "Unauthorized: the token has more than 8192 bytes", "malformed_token");
    let unsigned = (401, "Unauthorized: the token's signature does not hold", "bad_signature");
    for row in [
        row("expired", get, Some(expired), (401, "Unauthorized: token expired", "expired")),
        row("not yet valid", get, Some(early), (401, "Unauthorized: token not yet valid", "not_yet_valid")),
        row("forged", get, Some(forged(&good)), unsigned),
        row("malformed", get, Some(garbage), malformed),
        row("cut off", get, Some(good[..good.len() - 30].to_owned()), malformed),
        row("prefix alone", get, Some("acm_".to_owned()), (401, "Unauthorized: the token is ", "malformed_token")),
        row("not base64", get, Some(format!("{good}!")), (401, "Unauthorized: the token is not", "malformed_token")),
        row("80 KB", get, Some(format!("acm_{}", "A".repeat(80_000))), long),
    ] {
        assert_row(&world, &row).await;
    }
    // The same token, unchanged, holds.
    let reply = world.client.get(&format!("https://{STRIPE}/v1/customers")).bearer(&good).send().await.unwrap();
    assert_eq!(reply.status, StatusCode::OK);

    // A megabyte is more than Envoy reads of headers: it is refused before the vault sees it, and the work is bounded.
    let answer = world
        .raw(format!("GET / HTTP/1.1\r\nHost: {STRIPE}\r\nAuthorization: Bearer acm_{}\r\n\r\n", "A".repeat(1 << 20)));
    assert_eq!(answer.await.status(), 431);
    assert_eq!(world.forwarded(), 1);
}

#[tokio::test]
async fn what_caveats_and_limits_forbid_is_403() {
    let world = World::start("methods = [\"GET\", \"POST\"]\npaths = [\"/v1/**\", \"/limits\"]").await;
    let token = |args: &[&str]| Some(world.server.token(args));
    let get = ("GET", "/v1/customers");
    for row in [
        row("host", get, token(&["--hosts", OPENAI]), (403, "Unauthorized: host not allowed", "caveat_host")),
        row("method", get, token(&["--methods", "POST"]), (403, "Unauthorized: method not allowed", "caveat_method")),
        row("path", get, token(&["--paths", "/v1/charges"]), (403, "Unauthorized: path not allowed", "caveat_path")),
        row(
            "sandbox",
            get,
            token(&["--sandbox", "other"]),
            (403, "Unauthorized: sandbox not allowed", "caveat_sandbox"),
        ),
        row(
            "limit on methods",
            ("DELETE", "/v1/customers"),
            None,
            (403, "Unauthorized: method not allowed", "limit_method"),
        ),
        row(
            "limit on methods, with a token",
            ("DELETE", "/v1/customers"),
            token(&[]),
            (403, "Unauthorized: method not allowed", "limit_method"),
        ),
        row("limit on paths", ("GET", "/v2/x"), None, (403, "Unauthorized: path not allowed", "limit_path")),
        row(
            "limit on paths, with a token",
            ("GET", "/v2/x?/v1/x"),
            token(&[]),
            (403, "Unauthorized: path not allowed", "limit_path"),
        ),
    ] {
        assert_row(&world, &row).await;
    }
    // In lower case it is another method, which some servers take for the same: Envoy refuses it in HTTP/1.1.
    for (proto, status) in [(Proto::H1, 400), (Proto::H2, 403)] {
        let call = world.client.call("delete".parse().unwrap(), &format!("https://{STRIPE}/v1/customers")).proto(proto);
        assert_eq!(call.send().await.unwrap().status.as_u16(), status);
    }
    // Within the limits, and within every caveat at once.
    let args = ["--hosts", STRIPE, "--methods", "GET", "--paths", "/v1/*"];
    let good = world.server.token(&args);
    let url = format!("https://{STRIPE}/v1/customers?a=b");
    assert_eq!(world.client.get(&url).bearer(&good).send().await.unwrap().status, StatusCode::OK);
    assert_eq!(world.stripe.last_request().authorization(), Some(format!("Bearer {STRIPE_KEY}")));
    assert_eq!(world.client.get(&url).send().await.unwrap().status, StatusCode::OK);
    assert_eq!(world.stripe.last_request().authorization(), None);
    assert_eq!(world.forwarded(), 2);
}

#[tokio::test]
async fn a_sandbox_may_use_its_own_token_only() {
    let world = World::start("").await;
    // A gateway without a name is called as its folder.
    let (own, other) = (world.server.token(&["--sandbox", "config"]), world.server.token(&["--sandbox", "configs"]));
    let url = format!("https://{STRIPE}/");
    let reply = world.client.get(&url).bearer(&own).send().await.unwrap();
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let reply = world.client.get(&url).bearer(&other).send().await.unwrap();
    assert_refusal(&reply, 403, "Unauthorized: sandbox not allowed");
    assert_eq!(world.forwarded(), 1);
}

#[tokio::test]
async fn strict_mode_refuses_requests_without_a_token_and_challenges() {
    let world = World::with("", WorldConfig::strict).await;
    let answer = (401, "Unauthorized: no token", "no_token");
    assert_row(&world, &row("no token", ("GET", "/v1/customers"), None, answer)).await;
    for (header, value) in [("authorization", "Bearer sk_live_mine"), ("x-api-key", "mine"), ("authorization", "acm")] {
        let reply = world.client.get(&format!("https://{STRIPE}/")).header(header, value).send().await.unwrap();
        assert_refusal(&reply, 401, "Unauthorized: no token");
        let challenges: Vec<_> = reply.headers.get_all("www-authenticate").iter().collect();
        assert_eq!(challenges, ["Basic realm=\"agent-creds\"", "Bearer realm=\"agent-creds\""]);
    }
    assert_eq!(world.forwarded(), 0);
    let token = world.server.token(&[]);
    let reply = world.client.get(&format!("https://{STRIPE}/")).bearer(&token).send().await.unwrap();
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(world.stripe.last_request().authorization(), Some(format!("Bearer {STRIPE_KEY}")));
}

#[tokio::test]
async fn a_host_without_a_credential_is_403_with_a_token_and_open_without() {
    let world = World::with("", |config| {
        config.vault("[credentials.\"api.openai.com\"]\ntype = \"bearer\"\ntoken = { provider = \"env\", name = \"OPENAI_API_KEY\" }\n")
    })
    .await;
    let answer = (403, "No credentials configured for this host", "no_credential");
    let token = world.server.token(&[]);
    assert_row(&world, &row("no credential", ("GET", "/"), Some(token.clone()), answer)).await;
    let reply = world.client.get(&format!("https://{STRIPE}/")).send().await.unwrap();
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(world.stripe.last_request().authorization(), None);
    let reply = world.client.get(&format!("https://{OPENAI}/")).bearer(&token).send().await.unwrap();
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(world.openai.last_request().authorization(), Some(format!("Bearer {OPENAI_KEY}")));
}

#[tokio::test]
async fn the_vault_gone_is_503() {
    let mut world = World::start("").await;
    let token = world.server.token(&[]);
    let url = format!("https://{STRIPE}/");
    world.server.kill9();
    for proto in [Proto::H1, Proto::H2] {
        // With a token or without: nothing passes unjudged.
        for call in [world.client.get(&url), world.client.get(&url).bearer(&token)] {
            let reply = call.proto(proto).send().await.unwrap();
            assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{}", reply.text());
            assert!(reply.text().starts_with("Service Unavailable: the agent-creds vault does not answer"));
            assert!(reply.text().contains("agent-creds serve"), "what to do: {}", reply.text());
        }
    }
    assert_eq!(world.forwarded(), 0);
}

/// 502 for an upstream that cannot be reached or trusted; what it answers itself passes as it is.
#[tokio::test]
async fn the_upstream_gone_is_502_and_its_own_errors_are_its_own() {
    let bad = Upstream::with(UpstreamConfig::new(&[OPENAI]).cert(CertKind::SelfSigned)).await;
    let gone = Upstream::start(&["gone.example.com"]).await;
    let stripe = Upstream::start(&[STRIPE]).await;
    let sections = upstream_section(STRIPE, &stripe, "")
        + &upstream_section(OPENAI, &bad, "")
        + &upstream_section("gone.example.com", &gone, "");
    let server = Server::start(WorldConfig::new(sections)).await;
    let (client, token) = (server.client(), server.token(&["--hosts", &format!("{STRIPE},{OPENAI}")]));
    drop(gone);
    let assert_bad_gateway = |reply: &Reply, host: &str| {
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{}", reply.text());
        assert!(reply.text().starts_with(&format!("Bad Gateway: {host} could not be reached")), "{}", reply.text());
        assert_eq!(reply.header("content-type").as_deref(), Some("text/plain; charset=utf-8"));
    };
    for proto in [Proto::H1, Proto::H2] {
        let reply = client.get(&format!("https://{OPENAI}/")).bearer(&token).proto(proto).send().await.unwrap();
        assert_bad_gateway(&reply, OPENAI);
        let reply = client.get("https://gone.example.com/").proto(proto).send().await.unwrap();
        assert_bad_gateway(&reply, "gone.example.com");
        for status in [400, 401, 403, 404, 421, 429, 500, 502, 503, 504] {
            let call = client.get(&format!("https://{STRIPE}/status/{status}")).bearer(&token).proto(proto);
            let reply = call.timeout(Duration::from_secs(5)).send().await.unwrap();
            assert_eq!((reply.status.as_u16(), reply.text().as_str()), (status, ""));
        }
    }
    assert_eq!(bad.request_count(), 0);
    assert_eq!(stripe.request_count(), 20, "an answer was asked for twice");
}

#[tokio::test]
async fn plain_http_is_refused_with_the_reason() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::start("").await;
    let token = world.server.token(&[]);
    // The way to the host is for sandboxes.
    for host in [STRIPE, "unknown.example.com", "host.agent-creds", "localhost:9222", "127.0.0.1", "[::1]:9222"] {
        let mut stream = tokio::net::TcpStream::connect(world.server.addr()).await.unwrap();
        let request =
            format!("GET /v1 HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(body.starts_with("Bad Request: plain HTTP is refused here") && body.contains("https://"), "{answer}");
    }
    assert_eq!(world.forwarded(), 0);
}
