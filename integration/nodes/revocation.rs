//! A node that was revoked is cut off at once, with what it carries, and does not come back with the same certificate.

use std::time::{Duration, Instant};

use http::StatusCode;

use super::{STRIPE, World, counts, serving, swapped};
use crate::support::probe::eventually;

#[tokio::test]
async fn a_revoked_node_is_cut_off_with_what_it_carries() {
    let world = World::start(&[]).await;
    let token = world.server.token(&[]);
    let bootstrap = world.enrol("edge-1", "config", &[]);
    let node = world.server.envoy_with("edge-1", &bootstrap);
    serving(&world, &token).await;
    let client = world.client();
    let mut stream = client.get(&format!("https://{STRIPE}/sse?ms=20")).bearer(&token).stream().await.unwrap();
    assert_eq!(stream.status, StatusCode::OK);
    stream.next_event().await.unwrap().unwrap();

    let revoked = world.nodes(&["revoke", "edge-1"]);
    assert_eq!(revoked, serde_json::json!({ "id": "edge-1", "revoked": true, "was_revoked": false }));
    let begun = Instant::now();
    let cut = loop {
        match stream.next_chunk_within(Duration::from_secs(10)).await {
            Ok(Some(_)) => assert!(begun.elapsed() < Duration::from_secs(10), "it goes on"),
            Ok(None) => panic!("it looks complete"),
            Err(_) => break begun.elapsed(),
        }
    };
    eprintln!("cut after {cut:?}");
    eventually("requests are refused", async || match client.get(&format!("https://{STRIPE}/echo")).send().await {
        Ok(reply) if reply.status == StatusCode::SERVICE_UNAVAILABLE => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    counts(&world, "agent_creds_nodes_connected", &[], |nodes| nodes == 0.0).await;
    counts(&world, "agent_creds_node_refusals_total", &["revoked"], |refused| refused >= 1.0).await;
    assert!(swapped(&world, &client, &token).await.is_err());
    assert!(world.server.metric("agent_creds_node_connections_cut_total", &[]).await >= 1.0);
    let listed = world.nodes(&["list"]);
    assert_eq!((&listed["nodes"][0]["state"], &listed["nodes"][0]["connected"]), (&"revoked".into(), &false.into()));
    assert_eq!(world.nodes(&["revoke", "edge-1"])["was_revoked"], true);

    // A new bootstrap of the same name is a new node, also for another gateway; the old one stays out.
    drop(node);
    let _again = world.node("edge-1", "config", &[]);
    serving(&world, &token).await;
    let refused = world.refusals("revoked").await;
    let old = world.server.envoy_with("old", &bootstrap);
    counts(&world, "agent_creds_node_refusals_total", &["revoked"], |now| now > refused).await;
    assert!(old.is_running());
}

#[tokio::test]
async fn a_server_that_was_away_knows_who_was_revoked_meanwhile() {
    let mut world = World::start(&[]).await;
    let token = world.server.token(&[]);
    let (_bad, good) = (world.node("edge-1", "second", &[]), world.node("edge-2", "config", &[]));
    serving(&world, &token).await;
    counts(&world, "agent_creds_nodes_connected", &[], |nodes| nodes == 2.0).await;
    world.server.kill9();
    world.nodes(&["revoke", "edge-1"]);
    let state = world.server.state_dir();
    let unknown = ["nodes", "revoke", "edge-9", "--state-dir", state.to_str().unwrap()];
    assert!(!world.server.agent_creds(&unknown).status.success());
    let listed = world.nodes(&["list"]);
    assert_eq!(listed["server"], false);
    assert!(listed["nodes"][0]["connected"].is_null(), "nobody knows: {listed:#}");
    world.server.restart();
    world.server.wait_ready().await;
    serving(&world, &token).await;
    counts(&world, "agent_creds_node_refusals_total", &["revoked"], |refused| refused >= 1.0).await;
    assert!(good.is_running());
}
