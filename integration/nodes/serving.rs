//! What a node gets: its gateway, and nothing else.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use super::{OPENAI, STRIPE, World, counts, serving, swapped};
use crate::support::probe::{admin, eventually, in_use, refused, served_by};
use crate::support::server::upstream_section;

#[tokio::test]
async fn nodes_serve_their_gateways_with_real_keys_and_know_of_no_other() {
    let world = World::start(&[]).await;
    let token = world.server.token(&[]);
    let first = world.node("edge-1", "config", &[]);
    // By the other protocol.
    let second = world.node("edge-2", "second", &["--protocol", "sotw"]);
    serving(&world, &token).await;
    let other = world.client_of_second();
    eventually("the second gateway is served", async || served_by(&other, OPENAI).await).await;
    assert_eq!(refused(&world.client(), OPENAI).await, Ok(()));
    assert_eq!(refused(&other, STRIPE).await, Ok(()));

    let held: BTreeSet<String> =
        in_use(first.admin()).await.into_iter().filter(|name| !name.starts_with("secret ca/")).collect();
    let expected = [
        "listener gateway/config".to_owned(),
        format!("chain gateway/config {STRIPE}"),
        "chain gateway/config plain HTTP".to_owned(),
        format!("cluster config/{STRIPE}"),
        format!("cluster config/{STRIPE}/http1"),
        format!("route config/{STRIPE}"),
        format!("secret leaf/{STRIPE}"),
        "secret agent_creds_node".to_owned(),
    ];
    assert_eq!(held, expected.into());
    assert!(!admin(first.admin(), "/config_dump").await.unwrap().contains(OPENAI));
    assert!(!admin(second.admin(), "/config_dump").await.unwrap().contains(STRIPE));

    counts(&world, "agent_creds_nodes_connected", &[], |nodes| nodes == 2.0).await;
    let listed = world.nodes(&["list"]);
    let nodes = listed["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 2, "{listed:#}");
    for (node, id, gateway) in [(&nodes[1], "edge-1", "config"), (&nodes[0], "edge-2", "second")] {
        assert_eq!((node["id"].as_str(), node["gateway"].as_str()), (Some(id), Some(gateway)));
        assert_eq!((&node["state"], &node["connected"]), (&"good".into(), &true.into()), "{node:#}");
    }

    // An edit goes to both, each its own.
    let text = world
        .server
        .config_text(&(upstream_section(STRIPE, &world.upstream, "") + &upstream_section(OPENAI, &world.upstream, "")));
    world.server.write_config(&text);
    let client = world.client();
    eventually("the edit is served", async || served_by(&client, OPENAI).await).await;
    assert_eq!(refused(&other, STRIPE).await, Ok(()));
    assert!(first.is_running() && second.is_running());
}

#[tokio::test]
async fn a_restarted_server_is_found_again_and_resends_nothing() {
    let mut world = World::start(&[]).await;
    let token = world.server.token(&[]);
    let node = world.node("edge-1", "config", &[]);
    serving(&world, &token).await;
    let client = world.client();
    for kill in [true, false] {
        if kill {
            world.server.kill9();
        } else {
            world.server.stop().await;
        }
        world.server.restart();
        world.server.wait_ready().await;
        eventually("requests are answered again", async || swapped(&world, &client, &token).await).await;
        counts(&world, "agent_creds_xds_acks_total", &["listener"], |acks| acks >= 1.0).await;
        for ty in ["cluster", "listener", "route"] {
            let bytes = world.server.metric("agent_creds_xds_sent_bytes_total", &[&format!("type=\"{ty}\"")]).await;
            assert!(bytes <= 128.0, "{bytes} bytes of {ty} were sent again");
        }
    }
    assert!(node.is_running());
}

#[tokio::test]
async fn a_server_may_be_reached_by_a_name() {
    let world = World::start(&[]).await;
    let token = world.server.token(&[]);
    // Envoy resolves it by /etc/hosts; the server's certificate has no name of a host at all.
    let bootstrap = world.server.enrol("edge-1", "config", "localhost:18000", &[]);
    let text = bootstrap.to_string();
    assert!(text.contains("STRICT_DNS") && text.contains("\"sni\":\"localhost\""));
    // This world's server is on another loopback address than the name.
    let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = relay.local_addr().unwrap().port();
    let xds = world.xds;
    let relaying = tokio::spawn(async move {
        while let Ok((mut from, _)) = relay.accept().await {
            tokio::spawn(async move {
                let mut to = tokio::net::TcpStream::connect(xds).await?;
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    let bootstrap = serde_json::from_str(&text.replace(":18000", &format!(":{port}"))).unwrap();
    let node = world.server.envoy_with("edge-1", &bootstrap);
    serving(&world, &token).await;
    assert!(node.is_running());
    relaying.abort();
}

#[tokio::test]
async fn a_bootstrap_is_written_for_its_owner_alone() {
    let world = World::start(&[]).await;
    let (state, out) = (world.server.state_dir(), world.server.dir().join("out/edge-1"));
    let base = ["bootstrap", "--node-id", "edge-1", "--xds", "192.0.2.1:1", "--state-dir", state.to_str().unwrap()];
    let run = |more: &[&str]| world.server.agent_creds(&[base.as_slice(), more].concat());
    let output = run(&["--cluster", "config", "--out", out.to_str().unwrap()]);
    assert!(output.status.success() && !output.stdout.contains("PRIVATE"), "{output:#?}");
    let file = out.join("envoy.json");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(std::fs::read_to_string(&file).unwrap().contains("PRIVATE KEY"));
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);

    // One gateway, by its name: never all of them.
    for wrong in [&[][..], &["--cluster", "*"], &["--cluster", "../x"], &["--cluster", "second"]] {
        let output = run(wrong);
        assert!(!output.status.success() && output.stdout.is_empty(), "{wrong:?}: {output:#?}");
    }
    for wrong in [["--cluster", "config", "--node-id", "a b"], ["--cluster", "config", "--admin", "0.0.0.0:1"]] {
        assert!(!run(&wrong).status.success(), "{wrong:?}");
    }
    assert_eq!(world.nodes(&["list"])["nodes"].as_array().unwrap().len(), 1, "what failed is not enrolled");
}
