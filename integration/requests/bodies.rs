//! Bodies, methods without them, and many requests at once.

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{STRIPE, World, assert_swapped};
use crate::support::client::Proto;
use crate::support::server::STRIPE_KEY;

const MEGABYTES: usize = 5 << 20;

#[tokio::test]
async fn large_bodies_pass_in_both_directions() {
    let world = World::start("").await;
    let token = world.server.token(&[]);
    let body: Bytes = (0..MEGABYTES).map(|n| u8::try_from(n % 251).unwrap()).collect::<Vec<_>>().into();
    for proto in [Proto::H1, Proto::H2] {
        let call = world.client.post(&format!("https://{STRIPE}/upload"), body.clone()).bearer(&token).proto(proto);
        assert_eq!(call.send().await.unwrap().status, StatusCode::OK);
        let seen = world.stripe.last_request();
        assert!(seen.body == body, "{proto:?}: {} bytes arrived, or others", seen.body.len());
        let call = world.client.get(&format!("https://{STRIPE}/bytes?n={MEGABYTES}")).bearer(&token).proto(proto);
        assert_eq!(call.send().await.unwrap().body.len(), MEGABYTES);
    }
}

#[tokio::test]
async fn methods_without_a_body() {
    let world = World::start("").await;
    let token = world.server.token(&[]);
    for proto in [Proto::H1, Proto::H2] {
        for method in [Method::HEAD, Method::OPTIONS, Method::DELETE, Method::from_bytes(b"PROPFIND").unwrap()] {
            let call = world.client.call(method.clone(), &format!("https://{STRIPE}/x")).bearer(&token).proto(proto);
            let reply = call.send().await.unwrap();
            assert_eq!(reply.status, StatusCode::OK, "{method}: {}", reply.text());
            let seen = world.stripe.last_request();
            assert_eq!(seen.method, method.as_str());
            assert_swapped(&seen, "authorization", &format!("Bearer {STRIPE_KEY}"), &token);
        }
        // A refusal of HEAD has no body either, and the connection goes on.
        let mut connection = world.client.connect(STRIPE, proto).await.unwrap();
        let head = world.client.call(Method::HEAD, &format!("https://{STRIPE}/x")).bearer("acm_x").proto(proto);
        let reply = connection.send(head.to_request()).await.unwrap();
        assert_eq!((reply.status, reply.body.len()), (StatusCode::UNAUTHORIZED, 0));
        let get = world.client.get(&format!("https://{STRIPE}/after")).bearer(&token).proto(proto);
        assert_eq!(connection.send(get.to_request()).await.unwrap().status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_is_told_to() {
    let world = World::start("").await;
    let token = world.server.token(&[]);
    let mut stream = world.client.tls(STRIPE, &["http/1.1"]).await.unwrap();
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: {STRIPE}\r\nAuthorization: Bearer {token}\r\nContent-Length: 4\r\n\
         Expect: 100-continue\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(interim, *b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = world.stripe.last_request();
    assert_eq!(seen.body.as_ref(), b"body");
    assert_swapped(&seen, "authorization", &format!("Bearer {STRIPE_KEY}"), &token);
}

/// Good and bad tokens on one connection at once: each answer belongs to its own request.
#[tokio::test]
async fn fifty_concurrent_streams_do_not_mix() {
    let world = World::start("").await;
    let good = world.server.token(&[]);
    let narrow = world.server.token(&["--methods", "DELETE"]);
    let tls = world.client.tls(STRIPE, &["h2"]).await.unwrap();
    let (sender, connection) =
        http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    let driver = tokio::spawn(connection);
    let calls = (0..50).map(|number| {
        let mut sender = sender.clone();
        let token = if number % 5 == 0 { &narrow } else { &good };
        let request = Request::get(format!("https://{STRIPE}/slow?ms=200&number={number}"));
        let request = request.header("authorization", format!("Bearer {token}")).body(Full::default()).unwrap();
        async move {
            let response = sender.send_request(request).await.unwrap();
            let status = response.status();
            (number, status, response.into_body().collect().await.unwrap().to_bytes())
        }
    });
    for (number, status, body) in join_all(calls).await {
        if number % 5 == 0 {
            assert_eq!(status, StatusCode::FORBIDDEN);
            continue;
        }
        assert_eq!(status, StatusCode::OK);
        let echo: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(echo["path"], format!("/slow?ms=200&number={number}"));
    }
    driver.abort();
    assert_eq!(world.stripe.request_count(), 40);
    for seen in world.stripe.requests() {
        assert_swapped(&seen, "authorization", &format!("Bearer {STRIPE_KEY}"), &good);
    }
}
