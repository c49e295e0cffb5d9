//! The token, in every form that is understood, becomes the key, and only the key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;

use super::{STRIPE, World, assert_swapped};
use crate::support::client::Proto;
use crate::support::server::{STRIPE_KEY, Server, WorldConfig, upstream_section};
use crate::support::upstream::{Alpn, Upstream, UpstreamConfig};

/// Every way in which a client may present `token`.
fn forms(token: &str) -> Vec<(&'static str, String)> {
    let basic = |scheme: &str, text: String| ("authorization", format!("{scheme} {}", STANDARD.encode(text)));
    vec![
        ("authorization", format!("Bearer {token}")),
        ("authorization", format!("bearer {token}")),
        ("authorization", format!("BEARER   {token}")),
        ("Authorization", format!("Token {token}")),
        ("authorization", format!("AnyScheme {token}")),
        ("authorization", token.to_owned()),
        basic("Basic", format!("{token}:")),
        basic("bAsIc", token.to_owned()),
        basic("Basic", format!("x-access-token:{token}")),
        basic("basic", format!("ü:{token}")),
        ("x-api-key", token.to_owned()),
        ("X-API-Key", format!(" {token} ")),
        ("api-key", token.to_owned()),
        ("X-Goog-Api-Key", token.to_owned()),
        ("PRIVATE-TOKEN", token.to_owned()),
    ]
}

#[tokio::test]
async fn every_form_of_the_token_becomes_the_key_by_both_protocols() {
    let world = World::start("").await;
    let token = world.server.token(&["--hosts", STRIPE]);
    let key = format!("Bearer {STRIPE_KEY}");
    for proto in [Proto::H1, Proto::H2] {
        for (number, (header, value)) in forms(&token).into_iter().enumerate() {
            let path = format!("/{proto:?}/{number}");
            let call = world.client.get(&format!("https://{STRIPE}{path}")).proto(proto).header(header, &value);
            let reply = call.send().await.unwrap();
            assert_eq!(reply.status, StatusCode::OK, "{header}: {value}: {}", reply.text());
            let seen = world.stripe.last_request();
            assert_eq!(seen.path, path);
            assert_swapped(&seen, "authorization", &key, &token);
        }
        // The same token twice is one token; both places are cleaned.
        let call = world.client.get(&format!("https://{STRIPE}/both")).proto(proto).bearer(&token);
        assert_eq!(call.header("x-api-key", &token).send().await.unwrap().status, StatusCode::OK);
        assert_swapped(&world.stripe.last_request(), "authorization", &key, &token);
    }
    assert_eq!(world.openai.request_count(), 0);
}

const KINDS: &str = r#"
[credentials."basic.example.com"]
type = "basic"
username = { provider = "env", name = "PB_USERNAME" }
password = { provider = "env", name = "PB_PASSWORD" }

[credentials."header.example.com"]
type = "header"
name = "x-api-key"
value = { provider = "env", name = "STRIPE_API_KEY" }

[credentials."prefixed.example.com"]
type = "header"
name = "authorization"
value = { provider = "env", name = "STRIPE_API_KEY" }
prefix = "Token "

[credentials."own.example.com"]
type = "header"
name = "x-own-key"
value = { provider = "env", name = "STRIPE_API_KEY" }

[credentials."*.example.com"]
type = "bearer"
token = { provider = "env", name = "OPENAI_API_KEY" }
"#;

#[tokio::test]
async fn every_kind_of_credential_goes_into_its_header() {
    let basic = format!("Basic {}", STANDARD.encode("admin:p:ss wörd"));
    let cases = [
        ("basic.example.com", "authorization", basic.as_str()),
        ("header.example.com", "x-api-key", STRIPE_KEY),
        ("prefixed.example.com", "authorization", &format!("Token {STRIPE_KEY}")),
        ("own.example.com", "x-own-key", STRIPE_KEY),
        ("any.example.com", "authorization", &format!("Bearer {}", crate::support::server::OPENAI_KEY)),
    ];
    let upstream = Upstream::start(&cases.map(|(host, ..)| host)).await;
    let sections: String = cases.iter().map(|(host, ..)| upstream_section(host, &upstream, "")).collect();
    let config = WorldConfig::new(sections).credentials(KINDS);
    let server = Server::start(config.env("PB_USERNAME", "admin").env("PB_PASSWORD", "p:ss wörd")).await;
    let client = server.client();
    let token = server.token(&[]);
    for (host, header, key) in cases {
        for proto in [Proto::H1, Proto::H2] {
            for (number, (place, value)) in forms(&token).into_iter().enumerate() {
                let call = client.get(&format!("https://{host}/{number}")).proto(proto).header(place, &value);
                // What the client put into the credential's own header does not stay beside it.
                let call =
                    if header == "x-own-key" { call.header(header, "mine").header(header, "more") } else { call };
                let reply = call.send().await.unwrap();
                assert_eq!(reply.status, StatusCode::OK, "{host}, {place}: {value}: {}", reply.text());
                let seen = upstream.last_request();
                assert_eq!((seen.host.as_str(), seen.sni.as_deref()), (host, Some(host)));
                assert_swapped(&seen, header, key, &token);
                if header == "x-own-key" {
                    assert!(!seen.headers.contains_key("x-api-key"), "{seen:?}");
                }
            }
        }
    }
}

/// Another credential of the client's own, in the other header, is none of our business.
#[tokio::test]
async fn what_is_no_token_of_ours_stays() {
    let world = World::start("").await;
    let token = world.server.token(&[]);
    let url = format!("https://{STRIPE}/");
    let reply = world.client.get(&url).bearer(&token).header("x-api-key", "mine").send().await.unwrap();
    assert_eq!(reply.status, StatusCode::OK);
    let seen = world.stripe.last_request();
    assert_eq!(seen.authorization(), Some(format!("Bearer {STRIPE_KEY}")));
    assert_eq!(seen.header("x-api-key").as_deref(), Some("mine"));

    for (header, value) in
        [("authorization", "Bearer sk_live_mine"), ("authorization", "Basic dTpw"), ("x-api-key", "k")]
    {
        let reply = world.client.get(&url).header(header, value).send().await.unwrap();
        assert_eq!(reply.status, StatusCode::OK);
        let seen = world.stripe.last_request();
        assert_eq!(seen.header(header).as_deref(), Some(value));
        assert!(!seen.contains(STRIPE_KEY), "a key without a token: {seen:?}");
    }
}

/// What the upstream speaks does not matter to the client, nor to what arrives.
#[tokio::test]
async fn the_upstream_may_speak_either_protocol() {
    for alpn in [Alpn::H1, Alpn::H2, Alpn::Both] {
        let upstream = Upstream::with(UpstreamConfig::new(&[STRIPE]).alpn(alpn)).await;
        let server = Server::start(WorldConfig::new(upstream_section(STRIPE, &upstream, ""))).await;
        let (client, token) = (server.client(), server.token(&[]));
        for proto in [Proto::H1, Proto::H2] {
            let call = client.post(&format!("https://{STRIPE}/echo"), "body").bearer(&token).proto(proto);
            assert_eq!(call.send().await.unwrap().status, StatusCode::OK, "{alpn:?}");
            let seen = upstream.last_request();
            let version = if alpn == Alpn::H1 { http::Version::HTTP_11 } else { http::Version::HTTP_2 };
            assert_eq!((seen.version, seen.body.as_ref()), (version, b"body".as_slice()));
            assert_swapped(&seen, "authorization", &format!("Bearer {STRIPE_KEY}"), &token);
        }
    }
}
