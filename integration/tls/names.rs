//! The name in the handshake decides, and the name in the request must be the same.

use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::hello::{Answer, hello};
use super::{OPENAI, STRIPE};
use crate::support::client::{Client, ClientError, Proto, Reply};
use crate::support::server::{STRIPE_KEY, Server, WorldConfig, upstream_section};
use crate::support::upstream::Upstream;

async fn world() -> (Server, Client, Upstream, Upstream) {
    let (stripe, openai) = (Upstream::start(&[STRIPE]).await, Upstream::start(&[OPENAI]).await);
    let sections = upstream_section(STRIPE, &stripe, "") + &upstream_section(OPENAI, &openai, "");
    let server = Server::start(WorldConfig::new(sections)).await;
    let client = server.client();
    (server, client, stripe, openai)
}

#[track_caller]
fn assert_misdirected(reply: &Reply, what: &str) {
    assert_eq!(reply.status, StatusCode::MISDIRECTED_REQUEST, "{what}: {}", reply.text());
    assert!(reply.text().starts_with("Misdirected Request: "), "{what}: {}", reply.text());
}

#[tokio::test]
async fn another_host_than_the_server_name_is_421() {
    let (server, client, stripe, openai) = world().await;
    let token = server.token(&[]);
    for proto in [Proto::H1, Proto::H2] {
        for (sni, authority) in [
            (STRIPE, OPENAI),
            (OPENAI, STRIPE),
            (STRIPE, "API.OPENAI.COM"),
            (STRIPE, "api.openai.com:443"),
            (STRIPE, "unknown.example.com"),
            (STRIPE, "stripe.com"),
            (STRIPE, "x.api.stripe.com"),
            (STRIPE, "api.stripe.com.evil.example"),
            (STRIPE, "127.0.0.1"),
            (STRIPE, "localhost"),
        ] {
            let call = client.get(&format!("https://{sni}/")).authority(authority).proto(proto).bearer(&token);
            assert_misdirected(&call.send().await.unwrap(), &format!("{sni}, {authority}"));
        }
        // A connection that was used rightly is no licence.
        let mut connection = client.connect(STRIPE, proto).await.unwrap();
        let (before_stripe, before_openai) = (stripe.request_count(), openai.request_count());
        for authority in [STRIPE, OPENAI, STRIPE] {
            let call = client.get(&format!("https://{STRIPE}/")).authority(authority).proto(proto).bearer(&token);
            let reply = connection.send(call.to_request()).await.unwrap();
            if authority == STRIPE {
                assert_eq!(reply.status, StatusCode::OK);
            } else {
                assert_misdirected(&reply, authority);
            }
        }
        assert_eq!((stripe.request_count(), openai.request_count()), (before_stripe + 2, before_openai));
    }
    assert_eq!((stripe.request_count(), openai.request_count()), (4, 0));
    assert!(stripe.requests().iter().all(|seen| seen.authorization() == Some(format!("Bearer {STRIPE_KEY}"))));
    // Envoy answers by itself: the vault was asked about the four alone.
    assert!((server.metric("agent_creds_checks_total", &[]).await - 4.0).abs() < 0.5, "the vault was asked");
}

#[tokio::test]
async fn only_the_names_configured_are_served() {
    let (server, _, stripe, openai) = world().await;
    let served = |name: &str| Answer::Certificate(vec![format!("DNSName({name})")]);
    for (name, expected) in [(STRIPE, served(STRIPE)), (OPENAI, served(OPENAI))] {
        assert_eq!(hello(server.addr(), Some(name.as_bytes())).await, expected);
    }
    // Other spellings of a name are that name, or nothing.
    for spelling in ["API.STRIPE.COM", "Api.Stripe.Com", "api.stripe.com."] {
        let answer = hello(server.addr(), Some(spelling.as_bytes())).await;
        assert!(answer == served(STRIPE) || answer == Answer::Refused, "{spelling}: {answer:?}");
    }
    assert_eq!(hello(server.addr(), None).await, Answer::Refused, "no server name");
    let own_address = server.addr().ip().to_string();
    let long = format!("{}.{STRIPE}", "a".repeat(300));
    for name in [
        "unknown.example.com",
        "stripe.com",
        "com",
        "x.api.stripe.com",
        "xapi.stripe.com",
        "api.stripe.com.evil.example",
        "*.stripe.com",
        "*",
        ".api.stripe.com",
        "api..stripe.com",
        "api.stripe.com..",
        "api.stripe.com:443",
        "api.stripe.com ",
        "api.stripe.com\0",
        "api.stripe.com\0.evil.example",
        "evil.example\0.api.stripe.com",
        "api.stripe.com\n",
        "api。stripe。com",
        "127.0.0.1",
        own_address.as_str(),
        "[::1]",
        "::1",
        "localhost",
        "",
        long.as_str(),
    ] {
        assert_eq!(hello(server.addr(), Some(name.as_bytes())).await, Answer::Refused, "{name:?}");
    }
    assert_eq!(hello(server.addr(), Some(b"\xff\xfe")).await, Answer::Refused);
    assert_eq!((stripe.connections(), openai.connections()), (0, 0));
    // All that did no harm.
    assert_eq!(hello(server.addr(), Some(STRIPE.as_bytes())).await, served(STRIPE));
}

/// The same with a whole client: no name, or one that is not served, gets no connection.
#[tokio::test]
async fn clients_of_other_names_get_no_connection() {
    let (_server, client, stripe, openai) = world().await;
    for proto in [Proto::H1, Proto::H2] {
        let refused = client.get("https://unknown.example.com/").proto(proto).send().await;
        assert!(matches!(refused, Err(ClientError::Tls(_))), "{refused:?}");
        let refused = client.get("https://127.0.0.1/").proto(proto).send().await;
        assert!(matches!(refused, Err(ClientError::Tls(_))), "{refused:?}");
        let refused = client.clone().without_sni().get(&format!("https://{STRIPE}/")).proto(proto).send().await;
        assert!(matches!(refused, Err(ClientError::Tls(_))), "{refused:?}");
        let refused = client.get(&format!("https://{STRIPE}/")).sni("unknown.example.com").proto(proto).send().await;
        assert!(matches!(refused, Err(ClientError::Tls(_))), "{refused:?}");
    }
    assert_eq!((stripe.connections(), openai.connections()), (0, 0));
}

/// Forwards one connection after the other, what the client sends in pieces of `piece` bytes with pauses between.
async fn in_pieces(listener: TcpListener, to: std::net::SocketAddr, piece: usize) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(to).await.unwrap();
        server.set_nodelay(true).unwrap();
        tokio::spawn(async move {
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            let mut buffer = vec![0; piece];
            while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                if to_server.write_all(&buffer[..length]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let _ = to_server.shutdown().await;
            let _ = back.await;
        });
    }
}

#[tokio::test]
async fn a_hello_in_many_packets_is_understood() {
    let (server, _, stripe, _openai) = world().await;
    let token = server.token(&["--hosts", STRIPE]);
    for piece in [1, 7, 50] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(&server.ca_pem(), listener.local_addr().unwrap());
        let proxy = tokio::spawn(in_pieces(listener, server.addr(), piece));
        for proto in [Proto::H1, Proto::H2] {
            let reply = client.get(&format!("https://{STRIPE}/")).bearer(&token).proto(proto).send().await.unwrap();
            assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
            assert_eq!(stripe.last_request().authorization(), Some(format!("Bearer {STRIPE_KEY}")));
            let refused = client.get("https://unknown.example.com/").proto(proto).send().await;
            assert!(matches!(refused, Err(ClientError::Tls(_))), "{refused:?}");
        }
        proxy.abort();
    }
}
