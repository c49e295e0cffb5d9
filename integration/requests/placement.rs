//! Tokens where none belongs: refused, because from there they would travel on.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{STRIPE, World, assert_refusal, assert_swapped};
use crate::support::client::Proto;
use crate::support::server::STRIPE_KEY;

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
            ("api-key", token.clone()),
            ("x-goog-api-key", token.clone()),
            ("proxy-authorization", format!("Bearer {token}")),
            ("cookie", format!("session=1; key={token}; b=2")),
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
            for header in ["authorization", "x-api-key"] {
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
        for header in ["authorization", "x-api-key"] {
            for values in [["mine", &token], [&token, "mine"]] {
                let call = world.client.get(&url).header(header, values[0]).header(header, values[1]).proto(proto);
                let reply = call.send().await.unwrap();
                if reply.status == http::StatusCode::OK {
                    let key = format!("Bearer {STRIPE_KEY}");
                    assert_swapped(&world.stripe.last_request(), "authorization", &key, &token);
                } else {
                    assert_refusal(&reply, 401, "Unauthorized: ");
                }
            }
        }
    }
}
