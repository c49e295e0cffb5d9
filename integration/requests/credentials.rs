//! Credentials that are more than one header, or no header at all.

use http::StatusCode;

use super::{STRIPE, assert_refusal, assert_swapped, names};
use crate::support::client::{Client, Proto};
use crate::support::server::{OPENAI_KEY, STRIPE_KEY, Server, WorldConfig, upstream_section};
use crate::support::upstream::Upstream;

const MAPS: &str = "maps.example.com";
/// A key with everything that means something in a URL.
const MAPS_KEY: &str = "AIza ac4+/=&?#%41;ü\"Rw6Zt9Lp";
const MAPS_ENCODED: &str = "AIza%20ac4%2B%2F%3D%26%3F%23%2541%3B%C3%BC%22Rw6Zt9Lp";

const VAULT: &str = r#"
[credentials."maps.example.com"]
type = "query"
name = "key"
value = { provider = "env", name = "MAPS_KEY" }

[credentials."several.example.com"]
type = "headers"
[credentials."several.example.com".headers]
ApiKey = { provider = "env", name = "STRIPE_API_KEY" }
authorization = { provider = "env", name = "OPENAI_API_KEY", prefix = "Bearer " }
"#;

struct Maps {
    server: Server,
    client: Client,
    maps: Upstream,
    stripe: Upstream,
}

impl Maps {
    /// `limits` are more lines of the section of the host whose credential is in the query.
    async fn start(limits: &str) -> Self {
        let (maps, stripe) = (Upstream::start(&[MAPS]).await, Upstream::start(&[STRIPE]).await);
        let sections = upstream_section(MAPS, &maps, limits) + &upstream_section(STRIPE, &stripe, "");
        let server = Server::start(WorldConfig::new(sections).credentials(VAULT).env("MAPS_KEY", MAPS_KEY)).await;
        let client = server.client();
        Self { server, client, maps, stripe }
    }
}

#[tokio::test]
async fn a_parameter_of_the_query_carries_the_key() {
    let world = Maps::start("").await;
    let token = world.server.token(&["--hosts", MAPS]);
    let escaped = format!("%{:02x}{}", token.as_bytes()[0], &token[1..]);
    for proto in [Proto::H1, Proto::H2] {
        // What is sent, with the token in the query or not, and what arrives before the key.
        for (sent, arrives) in [
            (format!("/v1?key={token}"), "/v1?"),
            (format!("/v1?key=+{token}%20"), "/v1?"),
            (format!("/v1?k%65y={escaped}"), "/v1?"),
            (format!("/v1?z=1&key={token}&a=%7e+b&&z=2&"), "/v1?z=1&a=%7e+b&&z=2&"),
            (format!("/v1?key=mine&key={token}&key={token}&keys=k&Key=k"), "/v1?keys=k&Key=k&"),
            (format!("/v1/./b?x=/../c&key={token}"), "/v1/b?x=/../c&"),
            ("/v1".to_owned(), "/v1?"),
            ("/v1?".to_owned(), "/v1?"),
            ("/v1?key=mine&%6bey=mine&b=2&a=1".to_owned(), "/v1?b=2&a=1&"),
        ] {
            let call = || world.client.get(&format!("https://{MAPS}{sent}")).proto(proto);
            let alone = sent.contains(&token[1..]).then(call);
            for call in alone.into_iter().chain([call().bearer(&token)]) {
                let reply = call.send().await.unwrap();
                assert_eq!(reply.status, StatusCode::OK, "{proto:?} {sent}: {}", reply.text());
                let seen = world.maps.last_request();
                assert_eq!(seen.path, format!("{arrives}key={MAPS_ENCODED}"), "{sent}");
                // No header carries either, such as one with the path as it was.
                assert!(!seen.contains(&token[1..]), "{seen:?}");
                assert!(!seen.headers.contains_key("authorization"), "{seen:?}");
                assert!(seen.headers.values().all(|value| !value.as_bytes().starts_with(b"/")), "{seen:?}");
            }
        }
    }
    assert!(!world.server.log().contains("Rw6Zt9Lp"), "{}", world.server.log());
}

#[tokio::test]
async fn without_a_token_the_query_stays_as_it_is() {
    let world = Maps::start("").await;
    for proto in [Proto::H1, Proto::H2] {
        for path in ["/v1?key=mine&b=2&a=1", "/v1?", "/v1?%6bey"] {
            let reply = world.client.get(&format!("https://{MAPS}{path}")).proto(proto).send().await.unwrap();
            assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
            assert_eq!(world.maps.last_request().path, path);
        }
    }
}

#[tokio::test]
async fn what_is_refused_with_a_token_in_the_query() {
    let world = Maps::start("paths = [\"/v1/public/**\"]").await;
    let (token, other) = (world.server.token(&[]), world.server.token(&["--methods", "GET"]));
    let narrow = world.server.token(&["--paths", "/v1/public/x/**"]);
    for proto in [Proto::H1, Proto::H2] {
        for (url, status, beginning) in [
            // Limits and caveats are about the path that the upstream would see.
            (format!("{MAPS}/v1/secret?key={token}"), 403, "Unauthorized: path not allowed: /v1/secret "),
            (format!("{MAPS}/v1/secret?/v1/public/a&key={token}"), 403, "Unauthorized: path not allowed: /v1/secret "),
            (format!("{MAPS}/v1/public/../secret?key={token}"), 403, "Unauthorized: path not allowed: /v1/secret "),
            (format!("{MAPS}/v1/public/%252e%252e/b?key={token}"), 403, "Unauthorized: path not allowed: /v1/public/%"),
            (format!("{MAPS}/v1/public/y?key={narrow}"), 403, "Unauthorized: path not allowed: /v1/public/y "),
            // Elsewhere in the URL it would travel on.
            (format!("{MAPS}/v1/public/a?keys={token}"), 401, "Unauthorized: a token in the URL"),
            (format!("{MAPS}/v1/public/a?Key={token}"), 401, "Unauthorized: a token in the URL"),
            (format!("{MAPS}/v1/public/a?a=b;key={token}"), 401, "Unauthorized: a token in the URL"),
            (format!("{MAPS}/v1/public/{token}?key={token}"), 401, "Unauthorized: a token in the URL"),
            (format!("{MAPS}/v1/public/a?key=x.{token}"), 401, "Unauthorized: a token in an unusual form in the query"),
            (format!("{MAPS}/v1/public/a?key={token}&key={other}"), 401, "Unauthorized: the request has two different"),
            (format!("{STRIPE}/v1/public/a?key={token}"), 401, "Unauthorized: a token in the URL"),
        ] {
            let reply = world.client.get(&format!("https://{url}")).proto(proto).send().await.unwrap();
            assert_refusal(&reply, status, beginning);
            assert!(![&token, &other, &narrow].iter().any(|token| reply.text().contains(&token[4..])), "{url}");
        }
        let call = world.client.get(&format!("https://{MAPS}/v1/public/a?key={token}")).bearer(&other).proto(proto);
        assert_refusal(&call.send().await.unwrap(), 401, "Unauthorized: the request has two different tokens");
    }
    assert_eq!((world.maps.request_count(), world.stripe.request_count()), (0, 0));
    let log = world.server.log();
    assert!([token, other, narrow].iter().all(|token| !log.contains(&token[token.len() - 40..])), "{log}");
}

#[tokio::test]
async fn several_headers_are_set_at_once() {
    let upstream = Upstream::start(&["several.example.com"]).await;
    let sections = upstream_section("several.example.com", &upstream, "");
    let server = Server::start(WorldConfig::new(sections).credentials(VAULT).env("MAPS_KEY", MAPS_KEY)).await;
    let (client, token) = (server.client(), server.token(&[]));
    for proto in [Proto::H1, Proto::H2] {
        for headers in [
            vec![("authorization", format!("Bearer {token}"))],
            vec![("apikey", token.clone())],
            vec![("apikey", token.clone()), ("authorization", format!("Bearer {token}"))],
            vec![("x-api-key", token.clone()), ("apikey", "mine".to_owned()), ("apikey", "more".to_owned())],
        ] {
            let mut call = client.get("https://several.example.com/").proto(proto);
            for (name, value) in &headers {
                call = call.header(name, value);
            }
            let reply = call.send().await.unwrap();
            assert_eq!(reply.status, StatusCode::OK, "{headers:?}: {}", reply.text());
            let seen = upstream.last_request();
            assert_swapped(&seen, "authorization", &format!("Bearer {OPENAI_KEY}"), &token);
            let own: Vec<_> = seen.headers.get_all("apikey").iter().collect();
            assert_eq!(own, [STRIPE_KEY], "{:?}", names(&seen));
        }
    }
}
