//! Many hosts behind one listener: they share a chain, on which the server name alone says what a request is for.

use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use tokio_tungstenite::tungstenite::Message;

use super::hello::{Answer, hello};
use super::{OPENAI, STRIPE};
use crate::support::client::{Client, ClientError, Proto};
use crate::support::load::{Load, LoadConfig, Target};
use crate::support::probe::{eventually, in_use};
use crate::support::server::{OPENAI_KEY, STRIPE_KEY, Server, WorldConfig, upstream_section};
use crate::support::upstream::Upstream;

/// The hosts under load, and as many more.
fn hosts(more: usize) -> Vec<String> {
    let more = (0..more).map(|number| format!("h{number}.example.com"));
    [STRIPE, OPENAI].into_iter().map(str::to_owned).chain(more).collect()
}

async fn upstream() -> Upstream {
    let names = hosts(40);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Upstream::start(&names).await
}

fn sections(upstream: &Upstream, hosts: &[String]) -> String {
    hosts.iter().map(|host| upstream_section(host, upstream, "")).collect()
}

async fn world(more: usize) -> (Server, Client, Upstream) {
    let upstream = upstream().await;
    let server = Server::start(WorldConfig::new(sections(&upstream, &hosts(more)))).await;
    let client = server.client();
    (server, client, upstream)
}

/// Whether the gateway's hosts share a chain, as its Envoy has it.
async fn share_a_chain(server: &Server) -> bool {
    in_use(&server.envoy_admin()).await.iter().any(|entry| entry.starts_with("chain ") && entry.ends_with(" *"))
}

#[tokio::test]
async fn many_hosts_share_a_chain_and_nothing_else() {
    let (server, client, upstream) = world(20).await;
    assert!(share_a_chain(&server).await);
    let token = server.token(&[]);
    for proto in [Proto::H1, Proto::H2] {
        for (host, key) in [(STRIPE, STRIPE_KEY), (OPENAI, OPENAI_KEY)] {
            upstream.clear();
            let reply = client.get(&format!("https://{host}/x")).bearer(&token).proto(proto).send().await.unwrap();
            assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
            let seen = upstream.last_request();
            assert_eq!((seen.host.as_str(), seen.sni.as_deref()), (host, Some(host)));
            assert_eq!(seen.authorization(), Some(format!("Bearer {key}")));
            let own: Vec<_> = seen.headers.keys().filter(|name| name.as_str().starts_with("x-")).collect();
            assert!(own.is_empty(), "the upstream was told {own:?}");
        }
        // One connection, two names.
        upstream.clear();
        let mut connection = client.connect(STRIPE, proto).await.unwrap();
        for (authority, status) in [
            (STRIPE, StatusCode::OK),
            (OPENAI, StatusCode::MISDIRECTED_REQUEST),
            ("API.STRIPE.COM:443", StatusCode::OK),
            ("h1.example.com", StatusCode::MISDIRECTED_REQUEST),
            ("unknown.example.com", StatusCode::MISDIRECTED_REQUEST),
            ("*", StatusCode::MISDIRECTED_REQUEST),
            ("api.stripe.com.", StatusCode::OK),
        ] {
            let call = client.get(&format!("https://{STRIPE}/")).authority(authority).proto(proto).bearer(&token);
            let call = call
                .header("x-agent-creds-server-name", OPENAI)
                .header("x-agent-creds-cluster", "gateway/api.openai.com");
            let reply = connection.send(call.to_request()).await.unwrap();
            assert_eq!(reply.status, status, "{authority}: {}", reply.text());
        }
        assert_eq!(upstream.requests().len(), 3);
        assert!(upstream.requests().iter().all(|seen| seen.host == STRIPE && seen.sni.as_deref() == Some(STRIPE)));
        assert!(upstream.requests().iter().all(|seen| seen.authorization() == Some(format!("Bearer {STRIPE_KEY}"))));
    }
    let mut socket = client.websocket(&format!("wss://{OPENAI}/ws"), &[]).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
    assert_eq!(upstream.last_request().host, OPENAI);
}

#[tokio::test]
async fn names_that_are_not_among_many_are_refused_at_once() {
    let (server, client, upstream) = world(20).await;
    let long = format!("{}.example.com", "a".repeat(64));
    let names: [&[u8]; 14] = [
        b"unknown.example.com",
        b"x.h1.example.com",
        b"example.com",
        b"*",
        b"*.example.com",
        b"leaf/api.stripe.com",
        b"api.stripe.com.",
        b"api.stripe.com\0",
        b"\xff\xfe",
        b"127.0.0.1",
        b"",
        b"ca/1",
        b"api..com",
        long.as_bytes(),
    ];
    for name in names {
        assert_eq!(hello(server.addr(), Some(name)).await, Answer::Refused, "{}", String::from_utf8_lossy(name));
    }
    assert_eq!(hello(server.addr(), None).await, Answer::Refused);
    let served = Answer::Certificate(vec![format!("DNSName({STRIPE})")]);
    assert_eq!(hello(server.addr(), Some(STRIPE.as_bytes())).await, served);
    assert_eq!(upstream.connections(), 0);
    // A new host is no listener update.
    let listener = async || server.metric("agent_creds_xds_pushes_total", &["type=\"listener\""]).await;
    let before = listener().await;
    let mut more = hosts(20);
    more.push("h30.example.com".to_owned());
    server.apply(&sections(&upstream, &more)).await;
    eventually("it is served", async || {
        let reply = client.get("https://h30.example.com/").send().await.map_err(|error| error.to_string())?;
        if reply.status == StatusCode::OK { Ok(()) } else { Err(reply.text()) }
    })
    .await;
    assert!((listener().await - before).abs() < 0.5, "the listener was sent again");
    // And one that goes is refused.
    server.apply(&sections(&upstream, &hosts(20))).await;
    eventually("it is refused", async || match client.connect("h30.example.com", Proto::H2).await {
        Err(ClientError::Tls(_)) => Ok(()),
        other => Err(format!("{:?}", other.map(drop))),
    })
    .await;
}

/// From few hosts to many and back, with requests under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_when_few_hosts_become_many_and_few_again() {
    let (server, client, upstream) = world(14).await;
    assert!(!share_a_chain(&server).await);
    let token = server.token(&["--hosts", &format!("{STRIPE},{OPENAI}")]);
    let target = |host: &str, key: &str, path: &str| {
        Target::new(&format!("https://{host}{path}")).swapped(&token, &format!("Bearer {key}"))
    };
    let targets = vec![target(STRIPE, STRIPE_KEY, "/echo"), target(OPENAI, OPENAI_KEY, "/echo")];
    let load = Load::start(&client, LoadConfig::new(targets).sse(target(STRIPE, STRIPE_KEY, "/sse?ms=20"))).await;
    for (more, many) in [(15, true), (14, false), (15, true), (16, true), (14, false)] {
        server.apply(&sections(&upstream, &hosts(more))).await;
        eventually("Envoy has the chains", async || {
            if share_a_chain(&server).await == many { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
        let last = format!("h{}.example.com", more - 1);
        eventually("the last host is served", async || {
            let reply = client.get(&format!("https://{last}/")).send().await.map_err(|error| error.to_string())?;
            if reply.status == StatusCode::OK { Ok(()) } else { Err(reply.text()) }
        })
        .await;
        let done = load.so_far().ok;
        eventually(
            "the load goes on",
            async || {
                if load.so_far().ok > done + 100 { Ok(()) } else { Err("not yet".to_owned()) }
            },
        )
        .await;
    }
    load.stop().await.assert_clean();
}
