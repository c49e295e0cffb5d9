//! What the upstream sees is what the client sent, but for the credential; and what the client sees, what it answered.

use std::collections::BTreeSet;
use std::time::Duration;

use http::{Method, StatusCode};

use super::{STRIPE, World, assert_swapped, names};
use crate::support::client::Proto;
use crate::support::server::{STRIPE_KEY, Server, WorldConfig, upstream_section};
use crate::support::upstream::{Alpn, Upstream, UpstreamConfig};

/// What a client sends of its own, and means to arrive.
const OWN: [(&str, &str); 9] = [
    ("accept", "application/json"),
    ("user-agent", "agent/1.0"),
    ("x-custom", "one"),
    ("cookie", "a=1; b=2"),
    ("idempotency-key", "k"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("x-request-id", "mine"),
    ("x-forwarded-for", "203.0.113.7"),
    ("cache-control", "no-cache"),
];

#[tokio::test]
async fn nothing_is_added_to_a_request_and_nothing_lost() {
    for alpn in [Alpn::H1, Alpn::Both] {
        let upstream = Upstream::with(UpstreamConfig::new(&[STRIPE]).alpn(alpn)).await;
        let server = Server::start(WorldConfig::new(upstream_section(STRIPE, &upstream, ""))).await;
        let (client, token) = (server.client(), server.token(&[]));
        for proto in [Proto::H1, Proto::H2] {
            for method in [Method::GET, Method::POST, Method::DELETE] {
                for with_own in [false, true] {
                    let own: &[(&str, &str)] = if with_own { &OWN } else { &[] };
                    let mut call = client.call(method.clone(), &format!("https://{STRIPE}/v1/x?q=1")).proto(proto);
                    for (name, value) in own {
                        call = call.header(name, value);
                    }
                    if method == Method::POST {
                        call = call.body("body");
                    }
                    assert_eq!(call.bearer(&token).send().await.unwrap().status, StatusCode::OK);
                    let seen = upstream.last_request();
                    let what = format!("{proto:?} to {alpn:?}, {method}: {seen:?}");
                    let mut expected: BTreeSet<_> = own.iter().map(|(name, _)| (*name).to_owned()).collect();
                    expected.insert("authorization".to_owned());
                    if alpn == Alpn::H1 {
                        expected.insert("host".to_owned());
                    }
                    // The framing of the body is each hop's own.
                    let got: BTreeSet<_> = names(&seen).into_iter().filter(|name| name != "content-length").collect();
                    assert_eq!(got, expected, "{what}");
                    for (name, value) in own {
                        assert_eq!(seen.header(name).as_deref(), Some(*value), "{what}");
                    }
                    assert_eq!(seen.headers.len(), seen.headers.keys_len(), "a header twice: {what}");
                }
            }
        }
    }
}

/// `Host` arrives as the configuration has it, however the client writes it.
#[tokio::test]
async fn the_host_arrives_in_its_canonical_form() {
    let world = World::start("").await;
    let token = world.server.token(&["--hosts", STRIPE]);
    for proto in [Proto::H1, Proto::H2] {
        for authority in [STRIPE, "API.Stripe.com", "API.Stripe.com:443", "api.stripe.com:443"] {
            let call = world.client.get(&format!("https://{STRIPE}/")).authority(authority).bearer(&token).proto(proto);
            let reply = call.send().await.unwrap();
            assert_eq!(reply.status, StatusCode::OK, "{authority}: {}", reply.text());
            let seen = world.stripe.last_request();
            assert_eq!((seen.host.as_str(), seen.sni.as_deref()), (STRIPE, Some(STRIPE)), "{authority}");
            assert_swapped(&seen, "authorization", &format!("Bearer {STRIPE_KEY}"), &token);
            assert!(!seen.headers.keys().any(|name| name.as_str().starts_with("x-")), "{:?}", seen.headers);
        }
    }
}

/// Envoy's own request headers, from the client: none steers, none arrives.
#[tokio::test]
async fn x_envoy_headers_steer_nothing() {
    const STEERING: [(&str, &str); 19] = [
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
        ("x-envoy-expected-rq-timeout-ms", "1"),
        ("x-envoy-retry-on", "5xx,retriable-4xx,gateway-error,retriable-status-codes"),
        ("x-envoy-retry-grpc-on", "internal,unavailable"),
        ("x-envoy-max-retries", "5"),
        ("x-envoy-retriable-status-codes", "503,418"),
        ("x-envoy-retriable-header-names", "content-type"),
        ("x-envoy-hedge-on-per-try-timeout", "true"),
        ("x-envoy-upstream-alt-stat-name", "agent"),
        ("x-envoy-upstream-stream-duration-ms", "1"),
        ("x-envoy-original-path", "/v2/other"),
        ("x-envoy-decorator-operation", "agent"),
        ("x-envoy-internal", "true"),
        ("x-envoy-external-address", "127.0.0.1"),
        ("x-envoy-force-trace", "1"),
        ("x-envoy-ip-tags", "agent"),
        ("x-envoy-downstream-service-cluster", "agent"),
        ("x-envoy-attempt-count", "7"),
    ];
    let world = World::start("").await;
    let token = world.server.token(&[]);
    for proto in [Proto::H1, Proto::H2] {
        // An address that Envoy might take for an internal one does not open the way to them.
        for forwarded_for in [None, Some("127.0.0.1"), Some("10.0.0.1"), Some("255.255.255.255")] {
            for (path, status) in [("/slow?ms=150", 200), ("/status/503", 503), ("/status/418", 418)] {
                let before = world.stripe.request_count();
                let mut call = world.client.get(&format!("https://{STRIPE}{path}")).bearer(&token).proto(proto);
                for (name, value) in STEERING {
                    call = call.header(name, value);
                }
                if let Some(address) = forwarded_for {
                    call = call.header("x-forwarded-for", address);
                }
                let reply = call.send().await.unwrap();
                assert_eq!(reply.status.as_u16(), status, "{path}: {}", reply.text());
                assert_eq!(world.stripe.request_count(), before + 1, "{path} was tried again");
                let seen = world.stripe.last_request();
                assert_eq!(seen.path, path);
                let envoys: Vec<_> = names(&seen).into_iter().filter(|name| name.starts_with("x-envoy")).collect();
                // This one is only for information, and is what the client sent: Envoy does not count in it.
                assert_eq!(envoys, ["x-envoy-attempt-count"]);
                assert_eq!(seen.header("x-envoy-attempt-count").as_deref(), Some("7"));
                assert_undecorated(&reply.headers);
            }
        }
    }
}

fn assert_undecorated(headers: &http::HeaderMap) {
    for name in headers.keys() {
        assert!(!name.as_str().starts_with("x-envoy") && name != "via", "{headers:?}");
    }
    let server = headers.get("server").map(|value| value.as_bytes());
    assert!(server.is_none_or(|server| !server.eq_ignore_ascii_case(b"envoy")), "{headers:?}");
}

#[tokio::test]
async fn answers_come_back_undecorated() {
    let world = World::start("").await;
    let token = world.server.token(&[]);
    let direct = crate::support::client::Client::new(world.stripe.ca_pem(), world.stripe.addr());
    for proto in [Proto::H1, Proto::H2] {
        for path in ["/echo", "/status/204", "/status/404", "/bytes?n=10", "/redirect?to=https://a.example/b"] {
            let url = format!("https://{STRIPE}{path}");
            let through = world.client.get(&url).bearer(&token).proto(proto).send().await.unwrap();
            let straight = direct.get(&url).h2().send().await.unwrap();
            assert_undecorated(&through.headers);
            assert_eq!(through.status, straight.status);
            let names = |headers: &http::HeaderMap| -> BTreeSet<String> {
                let names = headers.keys().map(ToString::to_string);
                // The framing of the body is each hop's own.
                names.filter(|name| !["content-length", "transfer-encoding"].contains(&name.as_str())).collect()
            };
            assert_eq!(names(&through.headers), names(&straight.headers), "{path}");
        }
        // Our own refusals say nothing of Envoy's insides either.
        let refused =
            world.client.get(&format!("https://{STRIPE}/")).bearer("acm_x").proto(proto).send().await.unwrap();
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert!(!refused.headers.keys().any(|name| name.as_str().starts_with("x-envoy")), "{:?}", refused.headers);
    }
}

/// Values that are not UTF-8 are legal in HTTP (RFC 9110 §5.5): they arrive as they are, and hide no token.
#[tokio::test]
async fn bytes_that_are_not_utf8_pass_or_are_refused_cleanly() {
    let world = World::start("").await;
    let token = world.server.token(&[]);
    for proto in [Proto::H1, Proto::H2] {
        for value in [b"\xff\xfe".as_slice(), b"caf\xe9", b"\x80"] {
            for with_token in [false, true] {
                let call = world.client.get(&format!("https://{STRIPE}/")).header("x-raw", value).proto(proto);
                let call = if with_token { call.bearer(&token) } else { call };
                let reply = call.timeout(Duration::from_secs(5)).send().await.unwrap();
                assert_eq!(reply.status, StatusCode::OK, "{value:?}: {}", reply.text());
                let seen = world.stripe.last_request();
                assert_eq!(seen.headers["x-raw"].as_bytes(), value);
                assert_eq!(seen.authorization(), with_token.then(|| format!("Bearer {STRIPE_KEY}")));
            }
        }
        let before = world.forwarded();
        for (name, value) in [
            ("x-raw", [b"\xff".as_slice(), token.as_bytes()].concat()),
            ("x-raw", [token.as_bytes(), b"\xff"].concat()),
            ("authorization", [b"Bearer ", token.as_bytes(), b"\xff"].concat()),
            ("authorization", [b"\xff ", token.as_bytes(), b" \xff"].concat()),
        ] {
            let reply = world.client.get(&format!("https://{STRIPE}/")).header(name, value).proto(proto).send().await;
            assert_eq!(reply.unwrap().status, StatusCode::UNAUTHORIZED);
        }
        assert_eq!(world.forwarded(), before);
    }
}
