//! Tokens where none belongs: refused, because from there they would travel on.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use http::StatusCode;

use super::{STRIPE, World, assert_refusal, assert_swapped};
use crate::support::client::Proto;
use crate::support::server::{OPENAI_KEY, STRIPE_KEY, Server, WorldConfig, upstream_section};
use crate::support::upstream::Upstream;

#[tokio::test]
async fn a_token_elsewhere_is_refused() {
    let world = World::start("").await;
    let token = world.server.token(&[]);
    let root = format!("https://{STRIPE}/");
    for proto in [Proto::H1, Proto::H2] {
        for url in [
            format!("{root}?key={token}"),
            format!("{root}v1?a=b&access_token={token}&c=d"),
            format!("{root}?{token}"),
            format!("{root}{token}/x"),
            format!("{root}?k=%22{token}%22"),
        ] {
            for call in [world.client.get(&url), world.client.get(&url).bearer(&token)] {
                let reply = call.proto(proto).send().await.unwrap();
                assert_refusal(&reply, 401, "Unauthorized: a token in the URL");
                assert!(!reply.text().contains(&token[4..]), "{}", reply.text());
            }
        }
        for (header, value) in [
            ("x-custom", token.clone()),
            ("x-auth-token", token.clone()),
            ("api-key", format!("key={token}")),
            ("private-token", format!("[{token}]")),
            ("proxy-authorization", format!("Bearer {token}")),
            ("cookie", format!("session=1; key={token}; b=2")),
            ("proxy-authorization", format!("Basic {}", STANDARD.encode(format!("u:{token}")))),
            ("x-custom", format!("basic {}", STANDARD.encode(&token))),
            ("accept", format!("application/json; key={token}")),
            ("user-agent", format!("agent/1.0 ({token})")),
            ("content-type", format!("text/plain; {token}")),
            ("referer", format!("https://{STRIPE}/?key={token}")),
            ("sec-websocket-protocol", format!("openai-insecure-api-key.{token}, realtime, {token}")),
            ("x-json", format!("{{\"key\":\"{token}\"}}")),
            ("authorization", format!("Digest username=\"{token}\"")),
            ("authorization", format!("Basic {}", STANDARD.encode(format!("u:x {token}")))),
        ] {
            // Also beside a token in its place: that one does not excuse it.
            for call in [world.client.get(&root), world.client.get(&root).header("x-api-key", &token)] {
                let reply = call.header(header, &value).proto(proto).send().await.unwrap();
                assert_refusal(&reply, 401, "Unauthorized: a token in ");
            }
        }
    }
    assert_eq!(world.forwarded(), 0);
}

#[tokio::test]
async fn two_different_tokens_are_not_chosen_from() {
    let world = World::start("").await;
    let (one, other) = (world.server.token(&[]), world.server.token(&["--methods", "GET"]));
    let url = format!("https://{STRIPE}/");
    for proto in [Proto::H1, Proto::H2] {
        for (first, second) in [(&one, &other), (&other, &one)] {
            let call = world.client.get(&url).bearer(first).header("x-api-key", second).proto(proto);
            assert_refusal(&call.send().await.unwrap(), 401, "Unauthorized: the request has two different tokens");
            // Twice the same header: one of them alone would have been right.
            for header in ["authorization", "x-api-key", "api-key", "x-goog-api-key", "private-token"] {
                let call = world.client.get(&url).header(header, first).header(header, second).proto(proto);
                assert_refusal(&call.send().await.unwrap(), 401, "Unauthorized: ");
            }
        }
    }
    assert_eq!(world.forwarded(), 0);
}

/// A token beside something else in a second header of the same name: all of them go, or the request is refused.
#[tokio::test]
async fn a_token_beside_another_value_of_its_header_does_not_travel() {
    let world = World::start("").await;
    let token = world.server.token(&[]);
    let url = format!("https://{STRIPE}/");
    for proto in [Proto::H1, Proto::H2] {
        for header in ["authorization", "x-api-key", "x-goog-api-key"] {
            for values in [["mine", &token], [&token, "mine"]] {
                let call = world.client.get(&url).header(header, values[0]).header(header, values[1]).proto(proto);
                let reply = call.send().await.unwrap();
                if reply.status == StatusCode::OK {
                    let key = format!("Bearer {STRIPE_KEY}");
                    assert_swapped(&world.stripe.last_request(), "authorization", &key, &token);
                } else {
                    assert_refusal(&reply, 401, "Unauthorized: ");
                }
            }
        }
    }
}

/// The header of a credential is a place for tokens at the host that has it, and at no other.
#[tokio::test]
async fn a_credentials_own_header_takes_tokens_at_its_host_alone() {
    let (own, stripe) = (Upstream::start(&["own.example.com"]).await, Upstream::start(&[STRIPE]).await);
    let sections = upstream_section("own.example.com", &own, "") + &upstream_section(STRIPE, &stripe, "");
    let vault = "\n[credentials.\"own.example.com\"]\ntype = \"header\"\nname = \"X-Own-Key\"\n\
                 value = { provider = \"env\", name = \"OPENAI_API_KEY\" }\nprefix = \"Key \"\n";
    let server = Server::start(WorldConfig::new(sections).credentials(vault)).await;
    let (client, token) = (server.client(), server.token(&[]));
    let key = format!("Key {OPENAI_KEY}");
    for proto in [Proto::H1, Proto::H2] {
        for value in [token.clone(), format!("Key {token}")] {
            let call = client.get("https://own.example.com/").proto(proto).header("x-own-key", &value);
            let reply = call.send().await.unwrap();
            assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
            assert_swapped(&own.last_request(), "x-own-key", &key, &token);
            let call = client.get(&format!("https://{STRIPE}/")).proto(proto).header("x-own-key", &value);
            assert_refusal(&call.send().await.unwrap(), 401, "Unauthorized: a token in the header `x-own-key`");
        }
        // Beside the same token elsewhere, both go; beside another one, the request is refused.
        let call = client.get("https://own.example.com/").proto(proto).header("x-own-key", &token);
        let reply = call.header("private-token", &token).send().await.unwrap();
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        assert_swapped(&own.last_request(), "x-own-key", &key, &token);
        assert!(!own.last_request().headers.contains_key("private-token"));
        let other = server.token(&["--methods", "GET"]);
        let call = client.get("https://own.example.com/").proto(proto).header("x-own-key", &token).bearer(&other);
        assert_refusal(&call.send().await.unwrap(), 401, "Unauthorized: the request has two different tokens");
    }
    assert_eq!((own.request_count(), stripe.request_count()), (6, 0));
}
