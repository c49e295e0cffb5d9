//! A server that is killed and comes back: its Envoys find it, are sent nothing that they have, and lose nothing.

use std::time::Duration;

use super::{A, B, C, Gateway, KINDS, envoy, labelled, node, of_type, sections, wait_in_step};
use crate::support::probe::{admin, eventually, served_by};
use crate::support::server::{ForeignEnvoy, Server, WorldConfig};

/// How often an Envoy has changed anything.
async fn updates(envoy: &ForeignEnvoy) -> String {
    let filter = r"(cluster_manager\.cluster|listener_manager\.listener)_(added|modified|removed|in_place_updated)$";
    admin(envoy.admin(), &format!("/stats?filter={filter}")).await.unwrap()
}

#[tokio::test]
async fn a_restarted_server_sends_nothing_that_is_there_already() {
    for (version, protocol) in [("1.40.0", "delta"), ("1.39.0", "delta"), ("1.40.0", "sotw")] {
        let upstream = labelled("one", &[A, B, C]).await;
        let edge = Gateway::new("edge");
        let config = WorldConfig::new("")
            .file("edge.toml", &edge.text(&sections(&[A, B], &upstream)))
            .args(&["--config", "config/edge.toml"])
            .without_envoy();
        let mut server = Server::start(config).await;
        let envoy = envoy(&server, "edge-1", "edge", (version, protocol));
        wait_in_step(&server, &["edge-1"]).await;
        let client = edge.client(&server);
        eventually("it serves", async || served_by(&client, B).await).await;
        let before = (updates(&envoy).await, of_type(&node(&server, "edge-1").await, "cluster")["version"].clone());
        for _ in 0..2 {
            server.kill9();
            server.restart();
            server.wait_ready().await;
            wait_in_step(&server, &["edge-1"]).await;
            if protocol == "delta" {
                // One response each of the two types that are asked for by wildcard, and both are empty.
                for (ty, most) in [("cluster", 128.0), ("listener", 128.0), ("route", 0.0), ("secret", 0.0)] {
                    let sent = server.metric("agent_creds_xds_sent_bytes_total", &[&format!("type=\"{ty}\"")]).await;
                    assert!(sent <= most, "{version}: {sent} bytes of {ty} were sent again");
                }
            }
            // A version is the same after a restart.
            let now = of_type(&node(&server, "edge-1").await, "cluster")["version"].clone();
            assert_eq!((updates(&envoy).await, now), before, "{version} {protocol}: nothing changed");
            eventually("it serves", async || served_by(&client, A).await).await;
        }

        // What was edited while it was away.
        server.kill9();
        edge.save(&server, &edge.text(&sections(&[A, C], &upstream)));
        server.restart();
        server.wait_ready().await;
        wait_in_step(&server, &["edge-1"]).await;
        eventually("the edit is served", async || served_by(&client, C).await).await;
        let diff = server.actl(&["nodes", "diff", "edge-1"]).await;
        assert_eq!(diff.status.code(), Some(0), "{diff:#?}");
    }
}

/// SIGKILL while edits are being pushed: whatever was cut off, each Envoy ends with what the files say.
#[tokio::test]
async fn a_server_killed_in_the_middle_of_pushes_loses_nothing() {
    let upstream = labelled("one", &[A, B, C]).await;
    let gateways = [Gateway::new("edge"), Gateway::new("ci")];
    let mut config = WorldConfig::new("").without_envoy();
    for gateway in &gateways {
        let file = format!("config/{}", gateway.file());
        config = config.file(&gateway.file(), &gateway.text(&sections(&[A], &upstream))).args(&["--config", &file]);
    }
    let mut server = Server::start(config).await;
    let _envoys: Vec<_> =
        gateways.iter().zip(KINDS).map(|(gateway, kind)| envoy(&server, gateway.name, gateway.name, kind)).collect();
    wait_in_step(&server, &["edge", "ci"]).await;
    let sets: [&[&str]; 4] = [&[A, B], &[C], &[A, B, C], &[B]];
    for round in 0..8_usize {
        // A different moment each time: edits are settled, read, built and pushed within some tens of milliseconds.
        let edits = 1 + round % 3;
        for edit in 0..edits {
            for gateway in &gateways {
                gateway.save(&server, &gateway.text(&sections(sets[(round + edit) % 4], &upstream)));
            }
            tokio::time::sleep(Duration::from_millis(5 * (round as u64 % 4))).await;
        }
        server.kill9();
        server.restart();
        server.wait_ready().await;
        wait_in_step(&server, &["edge", "ci"]).await;
        let last = sets[(round + edits - 1) % 4];
        for gateway in &gateways {
            let client = gateway.client(&server);
            for host in last {
                eventually(&format!("{host} is served"), async || served_by(&client, host).await).await;
            }
            let diff = server.actl(&["nodes", "diff", gateway.name]).await;
            assert_eq!(diff.status.code(), Some(0), "{diff:#?}");
        }
    }
}
