//! Requests that two readers would understand differently, and requests that name two hosts.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{OPENAI, STRIPE, World, assert_swapped};
use crate::support::client::Proto;
use crate::support::server::STRIPE_KEY;

/// Each is refused with 400 and the connection closed: what follows on it is not read as a request.
#[tokio::test]
async fn ambiguous_framing_is_refused_and_the_connection_closed() {
    let world = World::start("").await;
    let token = world.server.token(&[]);
    let auth = format!("Authorization: Bearer {token}\r\n");
    let smuggled = format!("GET /smuggled HTTP/1.1\r\nHost: {STRIPE}\r\n{auth}\r\n");
    let host = format!("Host: {STRIPE}\r\n{auth}");
    let length = smuggled.len();
    for (what, request) in [
        (
            "CL and TE",
            format!("POST / HTTP/1.1\r\n{host}Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "TE and CL",
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
        ),
        ("two lengths", format!("POST / HTTP/1.1\r\n{host}Content-Length: 0\r\nContent-Length: {length}\r\n\r\n")),
        ("lengths in a list", format!("POST / HTTP/1.1\r\n{host}Content-Length: 0, {length}\r\n\r\n")),
        ("a signed length", format!("POST / HTTP/1.1\r\n{host}Content-Length: +0\r\n\r\n")),
        ("a negative length", format!("POST / HTTP/1.1\r\n{host}Content-Length: -1\r\n\r\n")),
        ("an unknown coding", format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n")),
        ("codings in two", format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n")),
        ("a space before the colon", format!("POST / HTTP/1.1\r\n{host}Content-Length : 0\r\n\r\n")),
        ("obs-fold in the first header", format!("GET / HTTP/1.1\r\n Host: {OPENAI}\r\n{host}\r\n")),
        ("no host", format!("GET / HTTP/1.1\r\n{auth}\r\n")),
        ("NUL in a header", format!("GET / HTTP/1.1\r\n{host}X-Nul: a\0b\r\n\r\n")),
        ("no version", format!("GET /\r\n{host}\r\n")),
        ("a bad chunk", format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n")),
    ] {
        let answer = world.raw(format!("{request}{smuggled}")).await;
        let before = world.forwarded();
        // RFC 9112 §6.1 has a status of its own for codings; without a version it is HTTP/0.9.
        let expected = match what {
            what if what.contains("coding") => 501,
            "no version" => 426,
            _ => 400,
        };
        assert_eq!(answer.status(), expected, "{what}: {}", answer.text());
        assert_eq!(answer.answers(), 1, "{what}: the connection went on: {}", answer.text());
        assert_eq!(before, 0, "{what}: {:?}", world.stripe.requests());
    }
    // Nothing is wrong with the request that was to be smuggled.
    assert_eq!(world.raw(&smuggled).await.status(), 200);
}

/// Which of them would count differs from server to server (RFC 9112 §3.2).
#[tokio::test]
async fn several_hosts_are_refused() {
    let world = World::start("").await;
    let token = world.server.token(&[]);
    for hosts in [[STRIPE, OPENAI], [OPENAI, STRIPE], [STRIPE, STRIPE]] {
        let [first, second] = hosts;
        let head = format!("GET / HTTP/1.1\r\nHost: {first}\r\nAuthorization: Bearer {token}\r\nHost: {second}\r\n");
        let answer = world.raw(format!("{head}Connection: close\r\n\r\n")).await;
        assert_eq!((answer.status(), answer.answers()), (400, 1), "{hosts:?}: {}", answer.text());
    }
    // An empty one is no second name; alone, it is not that of the connection.
    let empty = format!("GET / HTTP/1.1\r\nHost:\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    assert_eq!(world.raw(empty).await.status(), 421);
    assert_eq!(world.forwarded(), 0);
}

/// A folded line (RFC 9112 §5.2) is unfolded before anybody reads it: vault and upstream see one value, the same.
#[tokio::test]
async fn folded_lines_are_unfolded_first() {
    let world = World::start("").await;
    let token = world.server.token(&[]);
    let head = format!("GET /v1/x HTTP/1.1\r\nHost: {STRIPE}\r\n");
    let answer = world.raw(format!("{head}X-Folded: a\r\n b\r\nAuthorization: Bearer\r\n\t{token}\r\n\r\n")).await;
    assert_eq!((answer.status(), answer.answers()), (200, 1), "{}", answer.text());
    let seen = world.stripe.last_request();
    assert_swapped(&seen, "authorization", &format!("Bearer {STRIPE_KEY}"), &token);
    assert_eq!(seen.header("x-folded").as_deref(), Some("a b"));
    // Nor does a CR alone end a header (§2.2): it is left out, also before the vault looks.
    let answer = world.raw(format!("{head}X-Cr: a\rX-Other: b\r\n\r\n")).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let seen = world.stripe.last_request();
    assert_eq!(seen.header("x-cr").as_deref(), Some("aX-Other: b"));
    assert!(!seen.headers.contains_key("x-other"), "{seen:?}");
    let (start, rest) = token.split_at(20);
    for folded in [
        format!("X-Cr: {start}\r{rest}"),
        format!("X-Folded: a\r\n {token}"),
        format!("X-Folded:\r\n {token}\r\n b"),
        format!("Cookie: a=1;\r\n\tb={token}"),
    ] {
        let answer = world.raw(format!("{head}{folded}\r\n\r\n")).await;
        assert!(matches!(answer.status(), 400 | 401), "{folded:?}: {}", answer.text());
    }
    assert_eq!(world.forwarded(), 2);
}

/// Forms in which the request line itself names a host.
#[tokio::test]
async fn an_absolute_form_leads_nowhere_else() {
    let world = World::start("").await;
    let token = world.server.token(&[]);
    for (target, host) in [
        (format!("https://{OPENAI}/v1"), STRIPE),
        (format!("http://{OPENAI}/v1"), STRIPE),
        (format!("https://{STRIPE}/v1"), OPENAI),
        (format!("https://{STRIPE}@{OPENAI}/v1"), STRIPE),
        (format!("//{OPENAI}/v1"), OPENAI),
        (format!("@{OPENAI}/v1"), STRIPE),
    ] {
        for method in ["GET", "POST"] {
            let request = format!(
                "{method} {target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
            );
            let answer = world.raw(request).await;
            assert!(matches!(answer.status(), 400..=499), "{target}: {}", answer.text());
        }
    }
    for target in [format!("{OPENAI}:443"), format!("{STRIPE}:443")] {
        for host in [STRIPE, OPENAI] {
            let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n");
            let answer = world.raw(request).await;
            assert!(matches!(answer.status(), 400..=499), "CONNECT {target}: {}", answer.text());
        }
    }
    assert_eq!(world.forwarded(), 0);
}

/// Headers in which proxies tell each other names choose neither upstream nor credential.
#[tokio::test]
async fn headers_that_name_a_host_have_no_influence() {
    let world = World::start("").await;
    let token = world.server.token(&["--hosts", STRIPE]);
    let forwarded = format!("host={OPENAI};proto=http");
    for proto in [Proto::H1, Proto::H2] {
        for (name, value) in [
            ("x-target-host", OPENAI),
            ("x-forwarded-host", OPENAI),
            ("x-original-host", OPENAI),
            ("x-host", OPENAI),
            ("forwarded", forwarded.as_str()),
            ("x-envoy-original-host", OPENAI),
            ("x-envoy-original-path", "/v2/other"),
            ("x-original-url", "/v2/other"),
            ("x-rewrite-url", "/v2/other"),
            ("x-http-method-override", "DELETE"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-port", "80"),
        ] {
            let call =
                world.client.get(&format!("https://{STRIPE}/v1/x")).bearer(&token).header(name, value).proto(proto);
            let reply = call.send().await.unwrap();
            assert_eq!(reply.status, StatusCode::OK, "{name}: {}", reply.text());
            let seen = world.stripe.last_request();
            assert_eq!((seen.host.as_str(), seen.sni.as_deref()), (STRIPE, Some(STRIPE)), "{name}");
            assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", "/v1/x"), "{name}");
            assert_swapped(&seen, "authorization", &format!("Bearer {STRIPE_KEY}"), &token);
        }
    }
    assert_eq!(world.openai.request_count(), 0);
}

/// A `Host` header beside `:authority` in HTTP/2.
#[tokio::test]
async fn a_second_host_in_http2_does_not_arrive() {
    let world = World::start("").await;
    let token = world.server.token(&["--hosts", STRIPE]);
    let reply = world
        .client
        .get(&format!("https://{STRIPE}/"))
        .h2()
        .header("host", OPENAI)
        .bearer(&token)
        .send()
        .await
        .unwrap();
    if reply.status == StatusCode::OK {
        let seen = world.stripe.last_request();
        assert_eq!(seen.host, STRIPE);
        assert!(!seen.contains(OPENAI), "{seen:?}");
    } else {
        assert!(reply.status.is_client_error(), "{}", reply.text());
    }
    assert_eq!(world.openai.request_count(), 0);
}

/// Naming the injected header as one for this hop alone does not drop it; neither does a trailer replace it.
#[tokio::test]
async fn the_injected_header_survives_connection_and_trailers() {
    let world = World::start("").await;
    let token = world.server.token(&[]);
    let key = format!("Bearer {STRIPE_KEY}");
    for connection in ["authorization", "close, Authorization", "authorization, x-api-key", "keep-alive, x-api-key"] {
        let nominated = |header: &str| connection.to_ascii_lowercase().split(", ").any(|name| name == header);
        for (header, value) in [("authorization", format!("Bearer {token}")), ("x-api-key", token.clone())] {
            let request = format!(
                "GET /v1/x HTTP/1.1\r\nHost: {STRIPE}\r\nConnection: {connection}\r\n{header}: {value}\r\n\r\n"
            );
            let answer = world.raw(request).await;
            assert_eq!(answer.status(), 200, "{connection}: {}", answer.text());
            let seen = world.stripe.last_request();
            if nominated(header) {
                // What the client calls its own hop's business ends there, before the vault looks: no token, no key.
                assert!(!seen.contains(STRIPE_KEY) && !seen.contains("acm_"), "{connection}: {seen:?}");
            } else {
                assert_swapped(&seen, "authorization", &key, &token);
            }
            assert!(!seen.headers.contains_key("connection"), "{connection}: {seen:?}");
        }
    }
    for te in ["trailers", "gzip"] {
        let request = format!(
            "POST /v1/x HTTP/1.1\r\nHost: {STRIPE}\r\nTE: {te}\r\nTrailer: authorization, x-api-key\r\n\
             Transfer-Encoding: chunked\r\nAuthorization: Bearer {token}\r\n\r\n\
             4\r\nbody\r\n0\r\nAuthorization: Bearer {token}\r\nx-api-key: {token}\r\n\r\n"
        );
        let answer = world.raw(request).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let seen = world.stripe.last_request();
        assert_eq!(seen.body.as_ref(), b"body");
        assert_swapped(&seen, "authorization", &key, &token);
        let trailers = format!("{:?}", seen.trailers);
        assert!(!trailers.contains("acm_"), "a token in the trailers: {trailers}");
    }
}

/// Trailers come after the vault has answered: none arrives that it has not seen.
#[tokio::test]
async fn a_token_in_the_trailers_does_not_travel() {
    let world = World::start("").await;
    let token = world.server.token(&[]);
    let tls = world.client.tls(STRIPE, &["h2"]).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut trailers = HeaderMap::new();
    trailers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    trailers.insert("x-api-key", token.parse().unwrap());
    trailers.insert("x-custom", token.parse().unwrap());
    let frames = [Frame::data(Bytes::from_static(b"body")), Frame::trailers(trailers)];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, std::convert::Infallible>)));
    let request = Request::post(format!("https://{STRIPE}/v1/x")).header("authorization", format!("Bearer {token}"));
    let response = sender.send_request(request.body(body).unwrap()).await.unwrap();
    driver.abort();
    assert!(response.status().is_success() || response.status().is_client_error(), "{response:?}");
    for seen in world.stripe.requests() {
        assert_eq!(seen.body.as_ref(), b"body");
        assert_swapped(&seen, "authorization", &format!("Bearer {STRIPE_KEY}"), &token);
    }
}
