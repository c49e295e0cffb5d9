//! Whom Envoy trusts with a key: an upstream with a certificate for the name, from the right CA, and nobody else.

use std::net::SocketAddr;

use http::{StatusCode, Version};

use super::{OPENAI, STRIPE};
use crate::support::client::{Proto, WebSocketError};
use crate::support::pki::{CertKind, TestCa};
use crate::support::server::{STRIPE_KEY, Server, WorldConfig, upstream_section};
use crate::support::upstream::{Alpn, Upstream, UpstreamConfig};

#[tokio::test]
async fn an_upstream_that_cannot_be_trusted_is_502_and_gets_nothing() {
    let stranger = std::sync::Arc::new(TestCa::new("a stranger"));
    for alpn in [Alpn::Both, Alpn::H1] {
        let upstreams = [
            ("self-signed", UpstreamConfig::new(&[STRIPE]).cert(CertKind::SelfSigned)),
            ("expired", UpstreamConfig::new(&[STRIPE]).cert(CertKind::Expired)),
            ("for another name", UpstreamConfig::new(&[STRIPE]).cert(CertKind::WrongName)),
            ("for a parent name", UpstreamConfig::new(&["stripe.com"])),
            ("for the other upstream", UpstreamConfig::new(&[OPENAI])),
            ("for its address", UpstreamConfig::new(&["127.0.0.1"])),
            ("from another CA", UpstreamConfig::new(&[STRIPE]).ca(stranger.clone())),
        ];
        for (what, config) in upstreams {
            let upstream = Upstream::with(config.alpn(alpn)).await;
            let server = Server::start(WorldConfig::new(upstream_section(STRIPE, &upstream, ""))).await;
            let (client, token) = (server.client(), server.token(&[]));
            for proto in [Proto::H1, Proto::H2] {
                let call = client.post(&format!("https://{STRIPE}/v1/x"), "body").bearer(&token).proto(proto);
                let reply = call.send().await.unwrap();
                assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{what}: {}", reply.text());
                assert!(reply.text().starts_with("Bad Gateway: "), "{what}: {}", reply.text());
                assert!(!reply.text().contains(STRIPE_KEY));
            }
            // WebSockets go by a cluster of their own.
            let headers = [("x-api-key", token.as_str())];
            match client.websocket(&format!("wss://{STRIPE}/ws"), &headers).await {
                Err(WebSocketError::Refused(reply)) => assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{what}"),
                other => panic!("{what}: {:?}", other.err()),
            }
            assert!(upstream.connections() > 0, "{what}: it was tried");
            assert_eq!(upstream.request_count(), 0, "{what}: {:?}", upstream.requests());
        }
    }
}

/// Without `ca` it is the system's CAs that count, and with it they do not.
#[tokio::test]
async fn each_upstream_trusts_its_own_ca() {
    let upstream = Upstream::start(&[STRIPE, OPENAI]).await;
    let address = upstream.addr();
    let sections = format!("[upstream.\"{STRIPE}\"]\naddress = \"{address}\"\n\n")
        + &format!("[upstream.\"{OPENAI}\"]\naddress = \"{address}\"\nca = \"stranger.pem\"\n");
    let config = WorldConfig::new(sections).file("stranger.pem", TestCa::new("a stranger").pem());
    let server = Server::start(config.system_ca(upstream.ca_pem())).await;
    let (client, token) = (server.client(), server.token(&[]));
    let reply = client.get(&format!("https://{STRIPE}/")).bearer(&token).send().await.unwrap();
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let reply = client.get(&format!("https://{OPENAI}/")).bearer(&token).send().await.unwrap();
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{}", reply.text());
    assert_eq!(upstream.request_count(), 1);
    assert_eq!(upstream.last_request().host, STRIPE);
}

#[tokio::test]
async fn the_protocol_is_what_the_upstream_speaks() {
    for (alpn, version) in [(Alpn::H1, Version::HTTP_11), (Alpn::H2, Version::HTTP_2), (Alpn::Both, Version::HTTP_2)] {
        let upstream = Upstream::with(UpstreamConfig::new(&[STRIPE]).alpn(alpn)).await;
        let server = Server::start(WorldConfig::new(upstream_section(STRIPE, &upstream, ""))).await;
        for proto in [Proto::H1, Proto::H2, Proto::H1] {
            let call = server.client().get(&format!("https://{STRIPE}/")).proto(proto);
            assert_eq!(call.send().await.unwrap().status, StatusCode::OK, "{alpn:?}");
            assert_eq!(upstream.last_request().version, version, "{alpn:?}");
            assert_eq!(upstream.last_request().sni.as_deref(), Some(STRIPE));
        }
    }
}

/// A name that leads into this machine is not followed, unless `address` says so.
#[tokio::test]
async fn names_that_resolve_to_inner_addresses_are_not_dialled() {
    // Only root may listen there, and only if nobody else does; the answer is looked at in any case.
    let listen = SocketAddr::from(([127, 0, 0, 1], 443));
    let free = std::net::TcpListener::bind(listen).is_ok();
    let names = ["localhost", STRIPE];
    let decoy = if free { Some(Upstream::with(UpstreamConfig::new(&names).listen(listen)).await) } else { None };
    let meant = Upstream::start(&names).await;
    let port = meant.addr().port();
    let sections = "[upstream.\"localhost\"]\nca = \"upstream-ca.pem\"\n\n".to_owned()
        + &format!("[upstream.\"{STRIPE}\"]\naddress = \"localhost:{port}\"\nca = \"upstream-ca.pem\"\n");
    let server = Server::start(WorldConfig::new(sections)).await;
    let (client, token) = (server.client(), server.token(&[]));
    for proto in [Proto::H1, Proto::H2] {
        for call in [client.get("https://localhost/"), client.get("https://localhost/x")] {
            let reply = call.proto(proto).send().await.unwrap();
            assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{}", reply.text());
            assert!(reply.text().contains("(dns_resolution_failure"), "it was dialled: {}", reply.text());
        }
        let reply = client.get(&format!("https://{STRIPE}/")).bearer(&token).proto(proto).send().await.unwrap();
        assert_eq!(reply.status, StatusCode::OK, "address is the way to mean it: {}", reply.text());
    }
    if let Some(decoy) = decoy {
        assert_eq!(decoy.connections(), 0);
    }
}
