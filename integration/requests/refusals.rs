//! Refusals that teach: in the shape of the API that was called, with what to copy, and that leads to the answer.

use std::collections::BTreeMap;
use std::process::Command;

use http::{Method, StatusCode};
use serde_json::Value;

use super::{STRIPE, World, assert_swapped};
use crate::support::client::{Proto, Reply};
use crate::support::server::{STRIPE_KEY, Server, WorldConfig, run, upstream_section};
use crate::support::upstream::Upstream;

/// Runs an offered command as a person would paste it, with a `mint` that knows this server's state folder.
fn paste(server: &Server, command: &str) -> String {
    let script = format!("mint() {{ \"$MINT\" \"$@\" --state-dir \"$STATE\"; }}\n{command}");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env_clear().env("MINT", env!("CARGO_BIN_EXE_mint")).env("STATE", server.state_dir());
    let output = run(shell.env("HOME", server.dir()));
    assert!(output.status.success(), "{command}: {output:?}");
    output.stdout.trim().to_owned()
}

/// An agent that knows nothing at first, and a person who copies what each refusal offers.
#[tokio::test]
async fn following_each_refusal_leads_to_the_answer() {
    let world = World::with("methods = [\"GET\"]\npaths = [\"/v1/**\"]", WorldConfig::strict).await;
    let mut limits: BTreeMap<String, String> =
        [("methods", "[\"GET\"]"), ("paths", "[\"/v1/**\"]")].map(|(key, value)| (key.into(), value.into())).into();
    let narrow = ["--hosts", "api.openai.com", "--methods", "HEAD", "--paths", "/v1/a", "--sandbox", "another"];
    let expired = [&narrow[..], &["--not-before", "2020-01-01T00:00:00Z", "--valid-for", "1h"]].concat();
    let url = format!("https://{STRIPE}/v2/it's;$(reboot)&|?expand=1");
    let mut reasons = Vec::new();
    for mut token in [None, Some(world.server.token(&expired)), Some(world.server.token(&narrow))] {
        let reply = loop {
            let call = world.client.call(Method::DELETE, &url).header("accept", "application/json");
            let call = match &token {
                Some(token) => call.bearer(token),
                None => call,
            };
            let reply = call.send().await.unwrap();
            if reply.status == StatusCode::OK {
                break reply;
            }
            let error = reply.json()["error"].clone();
            let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            assert!(text("message").ends_with(&text("help")), "{error}");
            reasons.push(text("code"));
            assert!(reasons.len() < 10, "the offers lead nowhere: {reasons:?}");
            if !text("command").is_empty() {
                assert!(text("help").ends_with(&text("command")), "{error}");
                token = Some(paste(&world.server, &text("command")));
                continue;
            }
            let offered: toml::Table = text("toml").parse().unwrap();
            let offered = offered["upstream"][STRIPE].as_table().unwrap();
            limits.extend(offered.iter().map(|(key, value)| (key.clone(), value.to_string())));
            let lines: String = limits.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
            let sections =
                upstream_section(STRIPE, &world.stripe, &lines) + &upstream_section(super::OPENAI, &world.openai, "");
            world.server.apply(&sections).await;
        };
        assert_eq!(reply.status, StatusCode::OK);
        let seen = world.stripe.last_request();
        assert_swapped(&seen, "authorization", &format!("Bearer {STRIPE_KEY}"), token.as_deref().unwrap());
    }
    // Without a token; then within the limits as they are now, expired, and not.
    assert_eq!(reasons, ["no_token", "limit_method", "expired", "caveat_host"]);
}

/// `(name, value)` pairs of headers that are sent beside the token.
type Headers = &'static [(&'static str, &'static str)];

/// The message in an answer of each shape.
fn message(reply: &Reply, at: &str) -> String {
    match at {
        "xml" => {
            let text = reply.text();
            let (_, rest) = text.split_once("<Message>").unwrap_or_else(|| panic!("{text}"));
            rest.split_once("</Message>").unwrap().0.to_owned()
        }
        pointer => {
            reply.json().pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{reply:?}")).to_owned()
        }
    }
}

#[tokio::test]
async fn each_api_is_refused_in_its_own_words() {
    let json = "application/json";
    let cases: [(&str, Headers, &str, &str); 11] = [
        (STRIPE, &[("accept", "*/*")], json, "/error/message"),
        ("api.openai.com", &[("accept", "application/json")], json, "/error/message"),
        ("api.anthropic.com", &[("accept", "application/json")], json, "/error/message"),
        ("api.github.com", &[("accept", "application/vnd.github.merge-info-preview+json")], json, "/message"),
        ("storage.googleapis.com", &[("accept", "application/json")], json, "/error/message"),
        (
            "packages.example.com",
            &[("user-agent", "npm/10.8.2 node/v22.0.0"), ("accept", "application/json")],
            json,
            "/error",
        ),
        ("bucket.s3.eu-central-1.amazonaws.com", &[], "application/xml", "xml"),
        ("iam.amazonaws.com", &[("content-type", "application/x-www-form-urlencoded")], "application/xml", "xml"),
        (
            "ec2.us-east-1.amazonaws.com",
            &[("content-type", "application/x-www-form-urlencoded")],
            "application/xml",
            "xml",
        ),
        (
            "dynamodb.us-east-1.amazonaws.com",
            &[("x-amz-target", "DynamoDB_20120810.GetItem")],
            "application/x-amz-json-1.1",
            "/message",
        ),
        ("lambda.us-east-1.amazonaws.com", &[], "application/x-amz-json-1.1", "/message"),
    ];
    let upstream = Upstream::start(&cases.map(|(host, ..)| host)).await;
    let sections: String = cases.iter().map(|(host, ..)| upstream_section(host, &upstream, "")).collect();
    let server = Server::start(WorldConfig::new(sections)).await;
    let (client, token) = (server.client(), server.token(&["--methods", "GET"]));
    for (host, headers, content_type, at) in cases {
        for proto in [Proto::H1, Proto::H2] {
            let call = |method: Method| {
                let call = client.call(method, &format!("https://{host}/v1/x")).proto(proto).bearer(&token);
                headers.iter().fold(call, |call, (name, value)| call.header(name, value))
            };
            let reply = call(Method::POST).body("a=b").send().await.unwrap();
            assert_eq!(reply.status, StatusCode::FORBIDDEN, "{host}: {}", reply.text());
            assert_eq!(reply.header("content-type").as_deref(), Some(content_type), "{host}");
            let message = message(&reply, at);
            let beginning = "Unauthorized: method not allowed: POST (the token allows GET). Help: on the host, ";
            let end = format!("mint --hosts {host} --methods GET,POST --sandbox config");
            assert!(message.starts_with(beginning) && message.ends_with(&end), "{host}: {message}");
            assert!(!format!("{reply:?}").contains(&token[4..24]));
            // What has no body has none in a refusal.
            let head = call(Method::HEAD).send().await.unwrap();
            assert_eq!((head.status, head.body.len()), (StatusCode::FORBIDDEN, 0), "{host}");
            // For a person it is text, whatever the API speaks.
            if !headers.iter().any(|(name, _)| ["accept", "user-agent"].contains(name)) {
                let reply = call(Method::POST).header("user-agent", "curl/8.5.0").send().await.unwrap();
                let text = reply.text();
                assert!(text.ends_with(&format!(":\n\n    {end}\n\n")), "{text}");
                assert_eq!(reply.header("content-type").as_deref(), Some("text/plain; charset=utf-8"));
            }
        }
    }
    assert_eq!(upstream.request_count(), 0);
}

/// A gRPC client is told by `grpc-status` and `grpc-message`; Envoy makes them of the vault's status and body.
#[tokio::test]
async fn grpc_is_refused_in_its_own_way() {
    let world = World::start("").await;
    let narrow = world.server.token(&["--methods", "GET"]);
    let expired = world.server.token(&["--not-before", "2020-01-01T00:00:00Z", "--valid-for", "1h"]);
    let url = format!("https://{STRIPE}/google.pubsub.v1.Publisher/Publish");
    for (token, status, beginning) in [
        (&narrow, "7", "Unauthorized: method not allowed: POST (the token allows GET). Help: on the host, "),
        (&expired, "16", "Unauthorized: token expired at 2020-01-01T01:00:00Z. Help: on the host, "),
    ] {
        for kind in ["application/grpc", "application/grpc+proto"] {
            let call = world.client.post(&url, &b"\0\0\0\0\0"[..]).h2().bearer(token);
            let reply = call.header("content-type", kind).header("te", "trailers").send().await.unwrap();
            assert_eq!((reply.status, reply.body.len()), (StatusCode::OK, 0), "{reply:?}");
            assert_eq!(reply.header("grpc-status").as_deref(), Some(status), "{reply:?}");
            assert_eq!(reply.header("content-type").as_deref(), Some("application/grpc"));
            let message = reply.header("grpc-message").unwrap();
            assert!(message.starts_with(beginning) && message.contains("mint --hosts"), "{message}");
        }
    }
    assert_eq!(world.forwarded(), 0);
}

/// Nothing that the agent sent gets out of the place it has in an answer, and none of it is long.
#[tokio::test]
async fn what_the_agent_sent_stays_in_its_place() {
    let world = World::start("methods = [\"GET\"]\npaths = [\"/v1\"]").await;
    let long = format!("/{}", "x".repeat(6000));
    let mut refused = 0;
    for path in
        ["/v2/\"}],<script>&amp;]]>'", "/v2/%0d%0ax-injected:1", "/v2/\\u0022,\\u{7f}", "/v2/\t\u{e4}<b>", &long]
    {
        for (header, kind) in [
            ("accept: application/json", "application/json"),
            ("accept: text/plain", "text/plain; charset=utf-8"),
            ("x-amz-target: A.B", "application/x-amz-json-1.1"),
            ("x-amz-content-sha256: 0", "application/xml"),
        ] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {STRIPE}\r\n{header}\r\nConnection: close\r\n\r\n");
            let answer = world.raw(request).await;
            // Envoy refuses some of them itself.
            if answer.status() == 400 {
                continue;
            }
            refused += 1;
            let text = answer.text();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert_eq!((answer.status(), answer.answers()), (403, 1), "{text}");
            assert!(head.contains(&format!("content-type: {kind}\r\n")), "{text}");
            assert!(!head.contains("injected") && body.len() < 2500, "{text}");
            if kind.starts_with("text/") {
                assert!(body.lines().count() <= 8, "{text}");
            } else if kind.ends_with("/xml") {
                let (_, rest) = body.split_once("<Message>").unwrap();
                let (message, end) = rest.split_once("</Message>").unwrap();
                assert!(!message.contains('<') && end == "</Error>\n", "{text}");
            } else {
                let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"));
                assert!(body.to_string().contains("path not allowed"), "{text}");
            }
        }
    }
    assert!(refused >= 12, "{refused}");
    assert_eq!(world.forwarded(), 0);
}
