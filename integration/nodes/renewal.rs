//! Certificates end, and nodes go on.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use super::wire::Wire;
use super::{World, counts, serving, swapped};
use crate::support::probe::eventually;

/// How long the certificate in the bootstrap lives here. Envoy has to come up in less, also on a busy machine.
const ENROLMENT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_node_goes_on_beyond_the_end_of_its_first_certificate() {
    let mut world = World::start(&["--node-lifetime", "60s"]).await;
    let token = world.server.token(&[]);
    let begun = Instant::now();
    let bootstrap = world.enrol("edge-1", "config", &["--lifetime", "30s"]);
    let node = world.server.envoy_with("edge-1", &bootstrap);
    serving(&world, &token).await;
    // The certificate by which it was renewed is in the log of nodes.
    let first = world.nodes(&["list"])["nodes"][0].clone();
    tokio::time::sleep((ENROLMENT + Duration::from_secs(1)).saturating_sub(begun.elapsed())).await;
    let client = world.client();
    swapped(&world, &client, &token).await.unwrap();

    // With the first certificate nobody gets in any more.
    let mut stranger = Wire::of(world.xds, &bootstrap).tls().await.unwrap();
    assert!(stranger.read(&mut [0]).await.is_err());
    counts(&world, "agent_creds_node_refusals_total", &["expired"], |refused| refused >= 1.0).await;
    // A third of 60 s after the first renewal there was another one.
    counts(&world, "agent_creds_node_certificates_total", &[], |minted| minted >= 2.0).await;
    eventually("the renewal is written down", async || {
        let now = world.nodes(&["list"])["nodes"][0].clone();
        if now["fingerprint"] == first["fingerprint"] { Err(now.to_string()) } else { Ok(()) }
    })
    .await;

    // And all its connections can be made again, the one for the next certificate included.
    world.server.kill9();
    world.server.restart();
    world.server.wait_ready().await;
    serving(&world, &token).await;
    counts(&world, "agent_creds_node_certificates_total", &[], |minted| minted >= 1.0).await;
    assert!(node.is_running());
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let world = World::start(&[]).await;
    let wire = Wire::of(world.xds, &world.enrol("edge-1", "config", &["--lifetime", "15s"]));
    let mut stream = eventually("the node is let in", async || {
        let mut stream = wire.tls().await.map_err(|error| error.to_string())?;
        // The server begins with its settings.
        stream.read_exact(&mut [0]).await.map_err(|error| error.to_string())?;
        Ok(stream)
    })
    .await;
    counts(&world, "agent_creds_nodes_connected", &[], |nodes| nodes == 1.0).await;
    let end = async { while let Ok(1..) = stream.read(&mut [0; 64]).await {} };
    tokio::time::timeout(Duration::from_secs(60), end).await.expect("it ends");
    counts(&world, "agent_creds_nodes_connected", &[], |nodes| nodes == 0.0).await;
    eventually("it is not let in again", async || {
        let mut stream = wire.tls().await.map_err(|error| error.to_string())?;
        match stream.read(&mut [0]).await {
            Ok(1..) => Err("let in".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
}
