//! Wildcard upstreams through a real Envoy: each name below has a leaf when it is asked for, and nothing else has.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use http::{Method, StatusCode};
use tokio_tungstenite::tungstenite::Message;

use super::STRIPE;
use super::hello::{Answer, hello};
use crate::support::client::{Client, ClientError, Proto, Reply};
use crate::support::load::{Load, LoadConfig, Target};
use crate::support::probe::{admin, eventually};
use crate::support::server::{STRIPE_KEY, Server, WorldConfig, upstream_section};
use crate::support::upstream::Upstream;

const WILDCARD: &str = "*.s3.example.com";
const A: &str = "a.s3.example.com";
const B: &str = "b.s3.example.com";
const DEEP: &str = "x.y.s3.example.com";
/// Below the wildcard, and an upstream of its own.
const OWN: &str = "own.s3.example.com";
/// Below the wildcard; the upstream's certificate does not have it.
const STRANGE: &str = "strange.s3.example.com";

const KEY: &str = "sk_wild_8Zk2Wq5Tn1";
const CREDENTIALS: &str =
    "[credentials.\"*.s3.example.com\"]\ntype = \"bearer\"\ntoken = { provider = \"env\", name = \"WILD\" }\n";

async fn world(limits: &str) -> (Server, Client, Upstream) {
    let upstream = Upstream::start(&[A, B, DEEP, OWN, STRIPE]).await;
    let sections = sections(&upstream, limits);
    let server = Server::start(WorldConfig::new(sections).credentials(CREDENTIALS).env("WILD", KEY)).await;
    let client = server.client();
    (server, client, upstream)
}

fn sections(upstream: &Upstream, limits: &str) -> String {
    upstream_section(WILDCARD, upstream, limits)
        + &upstream_section(OWN, upstream, "methods = [\"PUT\"]")
        + &upstream_section(STRIPE, upstream, "")
}

#[track_caller]
fn assert_status(reply: &Reply, status: StatusCode, says: &str) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert!(reply.text().contains(says), "{}", reply.text());
}

#[tokio::test]
async fn each_name_below_a_wildcard_is_an_upstream() {
    let (server, client, upstream) = world("methods = [\"GET\"]").await;
    let token = server.token(&["--hosts", WILDCARD]);
    for proto in [Proto::H1, Proto::H2] {
        for host in [A, B, DEEP] {
            upstream.clear();
            let url = format!("https://{host}/data?x=1");
            let reply = client.get(&url).bearer(&token).proto(proto).send().await.unwrap();
            assert_status(&reply, StatusCode::OK, "");
            let seen = upstream.last_request();
            assert_eq!((seen.host.as_str(), seen.sni.as_deref(), seen.path.as_str()), (host, Some(host), "/data?x=1"));
            assert_eq!(seen.authorization(), Some(format!("Bearer {KEY}")));
            assert!(!seen.contains("acm_"), "the token travelled on: {seen:?}");
            let own: Vec<_> = seen.headers.keys().filter(|name| name.as_str().starts_with("x-")).collect();
            assert!(own.is_empty(), "the upstream was told {own:?}");
            // Its limits hold, with a token and without; and it is said where they are.
            for call in [client.post(&url, "x"), client.post(&url, "x").bearer(&token)] {
                let reply = call.proto(proto).send().await.unwrap();
                assert_status(&reply, StatusCode::FORBIDDEN, "Unauthorized: method not allowed");
                assert!(reply.text().contains("*.s3.example.com"), "{}", reply.text());
            }
            assert_eq!(upstream.requests().len(), 1);
        }
        // A host with a table of its own goes by that, and only by that.
        let url = format!("https://{OWN}/data");
        let reply = client.get(&url).bearer(&token).proto(proto).send().await.unwrap();
        assert_status(&reply, StatusCode::FORBIDDEN, "Unauthorized: method not allowed");
        let put = client.call(Method::PUT, &url).bearer(&token).proto(proto);
        assert_status(&put.send().await.unwrap(), StatusCode::OK, "");
        // A token for one of the names is for that one.
        let narrow = server.token(&["--hosts", A]);
        let reply = client.get(&format!("https://{A}/")).bearer(&narrow).proto(proto).send().await.unwrap();
        assert_status(&reply, StatusCode::OK, "");
        let reply = client.get(&format!("https://{B}/")).bearer(&narrow).proto(proto).send().await.unwrap();
        assert_status(&reply, StatusCode::FORBIDDEN, "Unauthorized: host not allowed");
        // The name that the client asked for is the one whose certificate is checked.
        let before = upstream.request_count();
        let reply = client.get(&format!("https://{STRANGE}/")).bearer(&token).proto(proto).send().await.unwrap();
        assert_status(&reply, StatusCode::BAD_GATEWAY, "Bad Gateway");
        assert_eq!(upstream.request_count(), before);
    }
    // One series for all of its names.
    let metrics = server.metrics().await;
    assert!(metrics.contains("upstream=\"*.s3.example.com\""), "{metrics}");
    assert!(!metrics.contains(A) && !metrics.contains(DEEP), "{metrics}");
}

#[tokio::test]
async fn a_websocket_through_a_wildcard() {
    let (server, client, upstream) = world("").await;
    let authorization = format!("Bearer {}", server.token(&["--hosts", WILDCARD]));
    let mut socket = client.websocket(&format!("wss://{A}/ws"), &[("authorization", &authorization)]).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
    let seen = upstream.last_request();
    assert_eq!((seen.host.as_str(), seen.authorization()), (A, Some(format!("Bearer {KEY}"))));
}

#[tokio::test]
async fn other_names_are_refused_at_once() {
    let (server, client, upstream) = world("").await;
    let served = |name: &str| Answer::Certificate(vec![format!("DNSName({name})")]);
    for name in [A, DEEP, OWN, STRIPE, "a_b-c.s3.example.com", STRANGE] {
        assert_eq!(hello(server.addr(), Some(name.as_bytes())).await, served(name), "{name}");
    }
    let label = format!("{}.s3.example.com", "a".repeat(64));
    let long = format!("{}s3.example.com", "a.".repeat(200));
    let refused: [&[u8]; 28] = [
        b"s3.example.com",
        b"example.com",
        b"xs3.example.com",
        b"a.s3.example.com.",
        b"a.s3.example.com.evil.example",
        b"*",
        b"*.s3.example.com",
        b"a.*.s3.example.com",
        b".s3.example.com",
        b"a..s3.example.com",
        b"-a.s3.example.com",
        b"a-.s3.example.com",
        b"a b.s3.example.com",
        b"a/b.s3.example.com",
        b"leaf/a.s3.example.com",
        b"a:443.s3.example.com",
        b"a.s3.example.com:443",
        b"a\0.s3.example.com",
        b"\0.s3.example.com",
        b"a\n.s3.example.com",
        b"\xff\xfe.s3.example.com",
        b"\xc3\xbc.s3.example.com",
        b"\xff",
        b"%REQUESTED_SERVER_NAME%.s3.example.com",
        b"127.0.0.1",
        b"",
        label.as_bytes(),
        long.as_bytes(),
    ];
    for name in refused {
        let start = Instant::now();
        assert_eq!(hello(server.addr(), Some(name)).await, Answer::Refused, "{}", String::from_utf8_lossy(name));
        // The server answers what the matcher lets through; Envoy would wait for ten seconds.
        assert!(start.elapsed() < Duration::from_secs(5), "{}", String::from_utf8_lossy(name));
    }
    assert_eq!(hello(server.addr(), None).await, Answer::Refused);
    // Other spellings of a name are that name, or nothing.
    for spelling in ["A.S3.EXAMPLE.COM", "a.s3.Example.com"] {
        let answer = hello(server.addr(), Some(spelling.as_bytes())).await;
        assert!(answer == served(A) || answer == Answer::Refused, "{spelling}: {answer:?}");
    }
    assert_eq!(upstream.connections(), 0);
    // All that did no harm.
    let reply = client.get(&format!("https://{B}/")).send().await.unwrap();
    assert_status(&reply, StatusCode::OK, "");
}

#[tokio::test]
async fn the_request_names_the_host_of_its_connection() {
    let (server, client, upstream) = world("").await;
    let token = server.token(&[]);
    for proto in [Proto::H1, Proto::H2] {
        upstream.clear();
        let mut connection = client.connect(A, proto).await.unwrap();
        for authority in [
            B,
            STRIPE,
            OWN,
            "s3.example.com",
            "*.s3.example.com",
            "*",
            "unknown.example.com",
            "a.s3.example.com.x",
            "127.0.0.1",
        ] {
            let call = client.get(&format!("https://{A}/")).authority(authority).proto(proto).bearer(&token);
            let reply = call.send().await.unwrap();
            assert_status(&reply, StatusCode::MISDIRECTED_REQUEST, "Misdirected Request: ");
            // A connection that was used rightly is no licence.
            for (authority, status) in [(A, StatusCode::OK), (authority, StatusCode::MISDIRECTED_REQUEST)] {
                let call = client.get(&format!("https://{A}/")).authority(authority).proto(proto).bearer(&token);
                let reply = connection.send(call.to_request()).await.unwrap();
                assert_eq!(reply.status, status, "{authority}: {}", reply.text());
            }
            let call = client.get(&format!("https://{STRIPE}/")).authority(A).proto(proto).bearer(&token);
            assert_status(&call.send().await.unwrap(), StatusCode::MISDIRECTED_REQUEST, "Misdirected Request: ");
        }
        // Another spelling is the same host, and the upstream sees the one that was judged.
        for authority in ["A.S3.Example.Com", "a.s3.example.com:443", "a.s3.example.com:8443", "a.s3.example.com."] {
            let call = client.get(&format!("https://{A}/")).authority(authority).proto(proto).bearer(&token);
            assert_status(&call.send().await.unwrap(), StatusCode::OK, "");
            assert_eq!(upstream.last_request().host, A);
        }
        assert!(upstream.requests().iter().all(|seen| seen.host == A && seen.sni.as_deref() == Some(A)));
        assert!(upstream.requests().iter().all(|seen| seen.authorization() == Some(format!("Bearer {KEY}"))));
    }
}

/// What Envoy tells its routes by headers, no client can.
#[tokio::test]
async fn forged_headers_lead_nowhere_else() {
    let (server, client, upstream) = world("").await;
    let token = server.token(&["--hosts", WILDCARD]);
    for proto in [Proto::H1, Proto::H2] {
        for (name, value) in [
            ("x-agent-creds-server-name", B),
            ("x-agent-creds-server-name", STRIPE),
            ("x-agent-creds-cluster", "gateway/api.stripe.com"),
            ("x-agent-creds-http1-cluster", "agent_creds_vault"),
        ] {
            upstream.clear();
            let mut call = client.get(&format!("https://{A}/")).bearer(&token).header(name, value).proto(proto);
            if proto == Proto::H1 {
                call = call.header("connection", name);
            }
            assert_status(&call.send().await.unwrap(), StatusCode::OK, "");
            let seen = upstream.last_request();
            assert_eq!((seen.host.as_str(), seen.sni.as_deref(), seen.header(name)), (A, Some(A), None));
        }
    }
}

/// Without `address` the name is resolved, and one that leads into this machine is not followed.
#[tokio::test]
async fn names_below_that_resolve_to_inner_addresses_are_not_dialled() {
    // Resolvers have every name below `localhost` at this machine.
    let server = Server::start(WorldConfig::new("[upstream.\"*.inner.localhost\"]\n")).await;
    let client = server.client();
    for proto in [Proto::H1, Proto::H2] {
        for host in ["a.inner.localhost", "b.c.inner.localhost"] {
            let reply = client.get(&format!("https://{host}/")).proto(proto).send().await.unwrap();
            assert_status(&reply, StatusCode::BAD_GATEWAY, "Bad Gateway");
            assert!(reply.text().contains("(dns_resolution_failure"), "it was dialled: {}", reply.text());
        }
    }
}

/// Edits of a wildcard disturb nobody, and are in force at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wildcard_is_edited_under_load_without_a_cut() {
    let (server, client, upstream) = world("").await;
    let token = server.token(&["--hosts", &format!("{WILDCARD},{STRIPE}")]);
    let target = |host: &str, key: &str, path: &str| {
        Target::new(&format!("https://{host}{path}")).swapped(&token, &format!("Bearer {key}"))
    };
    let targets = vec![target(A, KEY, "/echo"), target(B, KEY, "/echo"), target(STRIPE, STRIPE_KEY, "/echo")];
    let load = Load::start(&client, LoadConfig::new(targets).sse(target(DEEP, KEY, "/sse?ms=20"))).await;
    for round in 0..4 {
        let limits = ["methods = [\"GET\"]", "paths = [\"/echo\", \"/sse\"]\nmethods = [\"GET\", \"PUT\"]"][round % 2];
        server.apply(&sections(&upstream, limits)).await;
        let reply = client.post(&format!("https://{A}/"), "x").send().await.unwrap();
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
        // Another wildcard beside it comes and goes.
        server.apply(&(sections(&upstream, limits) + &upstream_section("*.other.example.com", &upstream, ""))).await;
        let name = format!("n{round}.other.example.com");
        eventually("the other wildcard is served", async || {
            client.connect(&name, Proto::H1).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }
    server.apply(&sections(&upstream, "")).await;
    let late = "late.other.example.com";
    eventually("the other wildcard is gone", async || match client.connect(late, Proto::H1).await {
        Err(ClientError::Tls(_)) => Ok(()),
        other => Err(format!("{:?}", other.map(drop))),
    })
    .await;
    let report = load.stop().await;
    report.assert_clean();
    assert_eq!(report.retried, 0, "connections were closed: {report:#?}");
}

/// A wildcard that goes takes its names with it, and one that comes back has them again.
#[tokio::test]
async fn a_refused_name_is_served_once_it_is_allowed() {
    let (server, client, upstream) = world("").await;
    let others = upstream_section(STRIPE, &upstream, "");
    assert_status(&client.get(&format!("https://{A}/")).send().await.unwrap(), StatusCode::OK, "");
    for _ in 0..2 {
        server.apply(&others).await;
        eventually("it is refused", async || match client.connect(A, Proto::H2).await {
            Err(ClientError::Tls(_)) => Ok(()),
            other => Err(format!("{:?}", other.map(drop))),
        })
        .await;
        server.apply(&sections(&upstream, "")).await;
        eventually("it is served", async || {
            let reply = client.get(&format!("https://{A}/")).send().await.map_err(|error| error.to_string())?;
            if reply.status == StatusCode::OK { Ok(()) } else { Err(reply.text()) }
        })
        .await;
    }
}

/// An agent may name any number of hosts; what is kept for them is bounded, and nobody else suffers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_number_of_names_is_kept_within_bounds() {
    const NAMES: usize = 2_300;
    let (server, client, _upstream) = world("").await;
    let mut asking = tokio::task::JoinSet::new();
    for part in 0..8 {
        let client = client.clone();
        asking.spawn(async move {
            for number in (part..NAMES).step_by(8) {
                client.connect(&format!("n{number}.s3.example.com"), Proto::H1).await.unwrap();
            }
        });
    }
    while let Some(done) = asking.join_next().await {
        done.unwrap();
    }
    eventually("Envoy holds no more than 2,048 of them", async || {
        let dump = admin(&server.envoy_admin(), "/config_dump?resource=dynamic_active_secrets&mask=name").await?;
        let held = dump.matches(".s3.example.com\"").count();
        if held <= 2_048 + 1 { Ok(()) } else { Err(format!("{held}")) }
    })
    .await;
    // Also one that was given up, and those of others.
    for host in ["n0.s3.example.com", "n2299.s3.example.com", STRIPE, A] {
        client.connect(host, Proto::H2).await.unwrap();
    }
}
