//! The certificates that agents are shown: what is in them, and that they change without anybody noticing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::hello::names;
use super::{OPENAI, STRIPE};
use crate::support::client::{Client, Proto};
use crate::support::load::{Load, LoadConfig, Target};
use crate::support::server::{STRIPE_KEY, Server, WorldConfig, upstream_section};
use crate::support::upstream::Upstream;

/// The leaf that a new connection is shown.
async fn leaf(client: &Client, host: &str) -> Vec<u8> {
    client.connect(host, Proto::H1).await.unwrap().peer_certificate().to_vec()
}

fn serial(leaf: &[u8]) -> String {
    X509Certificate::from_der(leaf).unwrap().1.raw_serial_as_string()
}

fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

#[tokio::test]
async fn a_leaf_is_small_narrow_and_short_lived() {
    let upstream = Upstream::start(&[STRIPE, OPENAI]).await;
    let sections = upstream_section(STRIPE, &upstream, "") + &upstream_section(OPENAI, &upstream, "");
    let server = Server::start(WorldConfig::new(sections)).await;
    let client = server.client();
    let ca = x509_parser::pem::parse_x509_pem(server.ca_pem().as_bytes()).unwrap().1;
    let ca = ca.parse_x509().unwrap();
    let mut keys = BTreeSet::new();
    for host in [STRIPE, OPENAI] {
        // That it chains to the CA was checked by the client, which trusts nothing else.
        let der = leaf(&client, host).await;
        let (_, leaf) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(names(&der), [format!("DNSName({host})")]);
        assert_eq!(leaf.issuer(), ca.subject());
        assert!(!leaf.is_ca());
        let algorithm = &leaf.public_key().algorithm;
        assert_eq!(algorithm.algorithm.to_id_string(), "1.2.840.10045.2.1", "an elliptic curve");
        let curve = algorithm.parameters.as_ref().unwrap().as_oid().unwrap();
        assert_eq!(curve.to_id_string(), "1.2.840.10045.3.1.7", "P-256");
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.client_auth && !usage.any);
        let (begin, end) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
        assert!(begin <= unix_now() && (16 * 3600..=24 * 3600).contains(&(end - unix_now())), "{:?}", leaf.validity());
        keys.insert(leaf.public_key().raw.to_vec());
    }
    assert_eq!(keys.len(), 2, "a key for each host");
}

/// Load on keep-alive connections, and a stream, that must notice nothing.
async fn load(server: &Server) -> Load {
    let token = server.token(&["--hosts", STRIPE]);
    let target =
        |path: &str| Target::new(&format!("https://{STRIPE}{path}")).swapped(&token, &format!("Bearer {STRIPE_KEY}"));
    Load::start(&server.client(), LoadConfig::new(vec![target("/echo")]).sse(target("/sse?ms=20"))).await
}

async fn assert_undisturbed(load: Load) {
    let report = load.stop().await;
    report.assert_clean();
    assert_eq!(report.retried, 0, "connections were closed: {report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_are_renewed_under_load_without_a_cut() {
    let upstream = Upstream::start(&[STRIPE]).await;
    let config = WorldConfig::new(upstream_section(STRIPE, &upstream, "")).args(&["--leaf-lifetime", "6s"]);
    let server = Server::start(config).await;
    let client = server.client();
    let load = load(&server).await;
    let before = upstream.connections();
    let (mut serials, start) = (BTreeSet::new(), Instant::now());
    // Longer than a leaf lives: without renewal the last connections would be refused.
    while start.elapsed() < Duration::from_secs(9) {
        let leaf = leaf(&client, STRIPE).await;
        let (_, parsed) = X509Certificate::from_der(&leaf).unwrap();
        let left = parsed.validity().not_after.timestamp() - unix_now();
        assert!((1..=6).contains(&left), "{left} s left of a leaf that lives for 6");
        serials.insert(serial(&leaf));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // One in each slot of 2 s.
    assert!((4..=6).contains(&serials.len()), "{serials:?}");
    assert_eq!(upstream.connections(), before, "connections to the upstream were opened anew");
    assert_undisturbed(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_ca_is_taken_up_by_the_running_server() {
    let upstream = Upstream::start(&[STRIPE, OPENAI]).await;
    let sections = upstream_section(STRIPE, &upstream, "") + &upstream_section(OPENAI, &upstream, "");
    let server = Server::start(WorldConfig::new(sections)).await;
    let (old_pem, old) = (server.ca_pem(), server.client());
    let load = load(&server).await;

    let state = server.state_dir();
    let output = server.agent_creds(&["ca", "rotate", "--state-dir", state.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let rotated = Instant::now();
    let new = server.client();
    assert_ne!(server.ca_pem(), old_pem);
    for host in [STRIPE, OPENAI] {
        while let Err(error) = new.connect(host, Proto::H2).await {
            assert!(rotated.elapsed() < Duration::from_secs(3), "{host}: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(old.connect(host, Proto::H2).await.is_err(), "{host}: still from the old CA");
    }
    let token = server.token(&[]);
    let reply = new.get(&format!("https://{STRIPE}/")).bearer(&token).send().await.unwrap();
    assert_eq!(reply.status, StatusCode::OK);
    // The open connections and the stream go on, also a while later.
    let ticks = load.so_far().ticks;
    while load.so_far().ticks < ticks + 50 {
        assert!(load.so_far().stream_broken.is_none() && rotated.elapsed() < Duration::from_secs(15));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_undisturbed(load).await;
}
