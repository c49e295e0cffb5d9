//! The world itself, tried without server and Envoy: a client that talks straight to an upstream.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::{StatusCode, Version};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

use super::client::{Client, ClientError, Proto, WebSocketError};
use super::load::{Load, LoadConfig, Target};
use super::pki::{CertKind, TestCa};
use super::server::{loopback, upstream_section};
use super::upstream::{Alpn, Upstream, UpstreamConfig};

const HOST: &str = "api.stripe.com";

async fn world() -> (Upstream, Client) {
    let upstream = Upstream::start(&[HOST]).await;
    let client = Client::new(upstream.ca_pem(), upstream.addr());
    (upstream, client)
}

#[tokio::test]
async fn upstream_echoes_and_records_by_both_versions() {
    let (upstream, client) = world().await;
    for (proto, name, version) in [(Proto::H1, "1.1", Version::HTTP_11), (Proto::H2, "2", Version::HTTP_2)] {
        let call = client.post("https://api.stripe.com/echo?a=1", "body").proto(proto);
        let reply = call.bearer("acm_x").header("x-raw", b"\xff\xfe").send().await.unwrap();
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.json()["http"], name);
        assert_eq!(reply.json()["host"], HOST);
        let seen = upstream.last_request();
        assert_eq!((seen.method.as_str(), seen.path.as_str(), seen.version), ("POST", "/echo?a=1", version));
        assert_eq!((seen.body.as_ref(), seen.sni.as_deref()), (b"body".as_slice(), Some(HOST)));
        assert_eq!(seen.authorization().as_deref(), Some("Bearer acm_x"));
        assert_eq!(seen.headers["x-raw"].as_bytes(), b"\xff\xfe");
        assert!(seen.contains("acm_x") && !seen.contains("acm_y"));
    }
    assert_eq!((upstream.request_count(), upstream.connections(), upstream.handshakes()), (2, 2, 2));
}

#[tokio::test]
async fn client_sends_another_authority_than_its_sni() {
    let upstream = Upstream::start(&[HOST, "other.example.com"]).await;
    let client = Client::new(upstream.ca_pem(), upstream.addr());
    for proto in [Proto::H1, Proto::H2] {
        let call = client.get("https://api.stripe.com/").authority("other.example.com").proto(proto);
        assert_eq!(call.send().await.unwrap().json()["host"], "other.example.com");
        assert_eq!(upstream.last_request().sni.as_deref(), Some(HOST));
    }
    client.clone().without_sni().get("https://api.stripe.com/").send().await.unwrap();
    assert_eq!(upstream.last_request().sni, None);
}

#[tokio::test]
async fn bad_certificates_are_refused_before_a_request() {
    for kind in [CertKind::Expired, CertKind::WrongName, CertKind::SelfSigned] {
        let upstream = Upstream::with(UpstreamConfig::new(&[HOST]).cert(kind)).await;
        let client = Client::new(upstream.ca_pem(), upstream.addr());
        let refused = client.get("https://api.stripe.com/").send().await;
        assert!(matches!(refused, Err(ClientError::Tls(_))), "{kind:?}: {refused:?}");
        assert_eq!(upstream.request_count(), 0);
    }
    let upstream = Upstream::start(&[HOST]).await;
    let stranger = Client::new(TestCa::new("stranger").pem(), upstream.addr());
    assert!(matches!(stranger.get("https://api.stripe.com/").send().await, Err(ClientError::Tls(_))));
}

#[tokio::test]
async fn alpn_is_what_was_asked_for() {
    let upstream = Upstream::with(UpstreamConfig::new(&[HOST]).alpn(Alpn::H1)).await;
    let client = Client::new(upstream.ca_pem(), upstream.addr());
    assert!(matches!(client.get("https://api.stripe.com/").h2().send().await, Err(ClientError::Tls(_))));
    assert!(client.get("https://api.stripe.com/").send().await.is_ok());
}

#[tokio::test]
async fn streams_ticks_and_sdk_events() {
    let (_upstream, client) = world().await;
    for proto in [Proto::H1, Proto::H2] {
        let call = client.get("https://api.stripe.com/sse?n=3&ms=1").proto(proto);
        let mut stream = call.stream().await.unwrap();
        assert_eq!(stream.headers["content-type"], "text/event-stream");
        for number in 0..3 {
            let event = stream.next_event().await.unwrap().unwrap();
            assert_eq!((event.id, event.data), (number.to_string(), format!("tick {number}")));
        }
        assert_eq!(stream.next_event().await.unwrap(), None);
    }
    let body = json!({"stream": true}).to_string();
    let mut stream = client.post("https://api.stripe.com/v1/messages", body).stream().await.unwrap();
    let mut names = Vec::new();
    while let Some(event) = stream.next_event().await.unwrap() {
        names.push(event.event);
    }
    assert_eq!((names.first().unwrap().as_str(), names.last().unwrap().as_str()), ("message_start", "message_stop"));
}

#[tokio::test]
async fn answers_by_path() {
    let (_upstream, client) = world().await;
    assert_eq!(client.get("https://api.stripe.com/status/418").send().await.unwrap().status.as_u16(), 418);
    assert_eq!(client.get("https://api.stripe.com/bytes?n=70000").send().await.unwrap().body.len(), 70_000);
    let redirect = client.get("https://api.stripe.com/redirect?to=https://a.example/b").send().await.unwrap();
    assert_eq!((redirect.status, redirect.header("location")), (StatusCode::FOUND, Some("https://a.example/b".into())));
    let slow = client.get("https://api.stripe.com/slow?ms=5000").timeout(Duration::from_millis(50)).send().await;
    assert!(matches!(slow, Err(ClientError::Timeout(_))), "{slow:?}");
    assert_eq!(
        client.get("https://api.stripe.com/v1/customers").send().await.unwrap().json()["data"][0]["id"],
        "cus_test"
    );
}

#[tokio::test]
async fn websockets_echo_by_both_versions() {
    let (upstream, client) = world().await;
    let headers = [("authorization", "Bearer acm_x")];
    let mut h1 = client.websocket("wss://api.stripe.com/ws", &headers).await.unwrap();
    h1.send(Message::text("hello")).await.unwrap();
    assert_eq!(h1.next().await.unwrap().unwrap(), Message::text("hello"));
    let mut h2 = client.websocket_h2("wss://api.stripe.com/ws", &headers).await.unwrap();
    h2.socket.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    assert_eq!(h2.socket.next().await.unwrap().unwrap(), Message::binary(vec![1, 2, 3]));
    let seen = upstream.requests();
    assert_eq!(seen.iter().map(|request| request.version).collect::<Vec<_>>(), [Version::HTTP_11, Version::HTTP_2]);
    assert!(seen.iter().all(|request| request.authorization().as_deref() == Some("Bearer acm_x")));
    let refused = client.websocket("wss://api.stripe.com/status/403", &headers).await;
    assert!(matches!(&refused, Err(WebSocketError::Refused(reply)) if reply.status == 403), "{:?}", refused.err());
}

#[tokio::test]
async fn raw_bytes_reach_the_upstream() {
    let (_upstream, client) = world().await;
    let request = b"GET /status/204 HTTP/1.1\r\nHost: api.stripe.com\r\nConnection: close\r\n\r\n";
    let answer = client.raw(HOST, request).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 204 "), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn load_counts_what_succeeds_and_watches_the_stream() {
    let (upstream, client) = world().await;
    let target = Target::new("https://api.stripe.com/echo").swapped("acm_x", "Bearer acm_x");
    let config = LoadConfig::new(vec![target]).sse(Target::new("https://api.stripe.com/sse?ms=1"));
    let load = Load::start(&client, config).await;
    let report = load.stop().await;
    report.assert_clean();
    assert!(report.ok >= 4 && report.ticks > 0, "{report:?}");
    assert_eq!(upstream.request_count(), report.ok + 1);
}

#[tokio::test]
async fn load_reports_wrong_answers_and_a_broken_stream() {
    let (_upstream, client) = world().await;
    let forbidden = Target::new("https://api.stripe.com/status/403");
    let unswapped = Target::new("https://api.stripe.com/echo").swapped("acm_x", "Bearer sk_real");
    let config = LoadConfig::new(vec![forbidden, unswapped]).sse(Target::new("https://api.stripe.com/sse?n=3&ms=1"));
    let load = Load::start(&client, config).await;
    while load.so_far().stream_broken.is_none() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let report = load.stop().await;
    assert_eq!(report.ok, 0, "{report:?}");
    assert!(report.failures.iter().any(|failure| failure.status == Some(StatusCode::FORBIDDEN)), "{report:?}");
    assert!(
        report.failures.iter().any(|failure| failure.error.contains("authorization \"Bearer acm_x\"")),
        "{report:?}"
    );
    assert_eq!(report.stream_broken.as_deref(), Some("ended after 3 ticks"));
}

/// A server that answers one request per connection without saying so, and cuts the second one.
#[tokio::test]
async fn load_retries_what_every_client_retries_and_no_more() {
    for (second_answer, retried) in [(b"".as_slice(), true), (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", false)]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let ca = TestCa::shared();
        let cert = ca.issue(&[HOST], CertKind::Good);
        let tls = tokio_rustls::rustls::ServerConfig::builder().with_no_client_auth();
        let tls = tls.with_single_cert(vec![cert.cert], cert.key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(tls));
        let server = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let mut stream = acceptor.accept(tcp).await.unwrap();
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
                if stream.read(&mut request).await.unwrap_or(0) > 0 {
                    stream.write_all(second_answer).await.unwrap();
                }
                let _ = stream.shutdown().await;
            }
        });
        let client = Client::new(ca.pem(), addr);
        let mut config = LoadConfig::new(vec![Target::new("https://api.stripe.com/")]);
        (config.h1_workers, config.h2_workers) = (1, 0);
        let load = Load::start(&client, config).await;
        while load.so_far().ok + load.so_far().failed < 6 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let report = load.stop().await;
        assert_eq!(report.failed == 0, retried, "{report:?}");
        assert_eq!(report.retried > 0, retried, "{report:?}");
        server.abort();
    }
}

#[tokio::test]
async fn load_does_not_hide_that_nobody_listens() {
    let (upstream, client) = world().await;
    drop(upstream);
    let load = Load::start(&client, LoadConfig::new(vec![Target::new("https://api.stripe.com/")])).await;
    let report = load.stop().await;
    assert_eq!((report.ok, report.retried), (0, 0), "{report:?}");
    assert!(report.failed > 0);
}

#[tokio::test]
async fn worlds_get_addresses_of_their_own() {
    let (a, b) = (loopback(), loopback());
    assert!(a.is_loopback() && b.is_loopback());
    assert_ne!(a, b);
    let upstream = Upstream::start(&[HOST]).await;
    let section = upstream_section(HOST, &upstream, "methods = [\"GET\"]");
    let parsed: toml::Table = section.parse().unwrap();
    assert_eq!(parsed["upstream"][HOST]["address"].as_str(), Some(upstream.addr().to_string().as_str()));
    assert_eq!(parsed["upstream"][HOST]["methods"][0].as_str(), Some("GET"));
}
