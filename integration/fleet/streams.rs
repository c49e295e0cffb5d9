//! Several Envoys at once: with one id, and on different generations.

use std::net::TcpListener;

use super::{A, B, Gateway, KINDS, PATIENCE, envoy, json, labelled, node, sections, wait_in_step};
use crate::support::probe::{eventually, served_by};
use crate::support::server::{Server, WorldConfig, envoy_bin, loopback};

/// Two Envoys say they are the same one, on one address: the second cannot bind it, the first does not notice.
#[tokio::test]
async fn two_streams_with_one_node_id_do_not_disturb_each_other() {
    let upstream = labelled("one", &[A, B]).await;
    let edge = Gateway::new("edge");
    let config = WorldConfig::new("")
        .file("edge.toml", &edge.text(&sections(&[A], &upstream)))
        .args(&["--config", "config/edge.toml"])
        .without_envoy();
    let server = Server::start(config).await;
    let args = ["--cluster", "edge"];
    let first = server.foreign_envoy("edge-1", &args);
    wait_in_step(&server, &["edge-1"]).await;
    let client = edge.client(&server);
    eventually("the first serves", async || served_by(&client, A).await).await;
    let second = server.foreign_envoy_of(envoy_bin(), "edge-1", &args, |bootstrap| {
        let admin = server.runtime_dir().join("second.sock");
        bootstrap["admin"]["address"]["pipe"]["path"] = admin.to_str().unwrap().into();
    });
    let seen = eventually("the second is there, and cannot have the address", async || {
        let seen = node(&server, "edge-1").await;
        let is_both = seen["streams"].as_array().unwrap().len() == 2 && seen["state"] == "rejecting";
        if is_both { Ok(seen) } else { Err(format!("{seen:#}")) }
    })
    .await;
    let listener = |stream: usize| {
        let types = seen["streams"][stream]["types"].as_array().unwrap();
        types.iter().find(|of_type| of_type["type"] == "listener").unwrap()
    };
    assert!(listener(0)["rejection"].is_null(), "{seen:#}");
    assert!(listener(1)["rejection"]["message"].as_str().unwrap().contains("in use"), "{seen:#}");
    assert_eq!(server.metric("agent_creds_xds_streams", &[]).await, 2.0);
    assert_eq!(server.metric("agent_creds_xds_nodes", &[]).await, 1.0);
    let diff = server.actl(&["nodes", "diff", "edge-1"]).await;
    assert_eq!(diff.status.code(), Some(1), "{diff:#?}");
    assert_eq!(served_by(&client, A).await, Ok("one".to_owned()));

    // The first goes; with the next edit the second takes its place.
    drop(first);
    eventually("one stream is left", async || match node(&server, "edge-1").await {
        seen if seen["streams"].as_array().unwrap().len() == 1 => Ok(()),
        seen => Err(format!("{seen:#}")),
    })
    .await;
    edge.save(&server, &edge.text(&sections(&[A, B], &upstream)));
    wait_in_step(&server, &["edge-1"]).await;
    eventually("the second serves", async || served_by(&client, B).await).await;
    assert!(second.is_running());
}

/// One in step, one that rejects, one that hangs: each is told as what it is, and none holds up another.
#[tokio::test]
async fn three_envoys_on_different_generations() {
    let upstream = labelled("one", &[A, B]).await;
    let gateways = [Gateway::new("good"), Gateway::new("bad"), Gateway::new("slow")];
    let mut config = WorldConfig::new("").without_envoy();
    for gateway in &gateways {
        let file = format!("config/{}", gateway.file());
        config = config.file(&gateway.file(), &gateway.text(&sections(&[A], &upstream))).args(&["--config", &file]);
    }
    let server = Server::start(config).await;
    let kinds = [KINDS[0], KINDS[1], KINDS[0]];
    let envoys: Vec<_> =
        gateways.iter().zip(kinds).map(|(gateway, kind)| envoy(&server, gateway.name, gateway.name, kind)).collect();
    let [good, bad, slow] = &gateways;
    wait_in_step(&server, &["good", "bad", "slow"]).await;
    envoys[2].pause(true);
    let busy = TcpListener::bind((loopback(), 15444)).unwrap();
    let both = sections(&[A, B], &upstream);
    good.save(&server, &good.text(&both));
    bad.save(&server, &bad.text_at(busy.local_addr().unwrap(), &both));
    slow.save(&server, &slow.text(&both));
    wait_in_step(&server, &["good"]).await;
    eventually("the good one serves", async || served_by(&good.client(&server), B).await).await;
    let all = server.actl(&["nodes", "wait", "--json", "--timeout", PATIENCE]).await;
    let told = json(&all);
    assert_eq!((all.status.code(), &told["result"]), (Some(1), &"rejected".into()), "{told:#}");
    assert_eq!(told["rejections"].as_array().unwrap().len(), 1, "{told:#}");
    assert_eq!(told["rejections"][0]["node"], "bad", "{told:#}");
    let states = async || {
        let mut states = Vec::new();
        for name in ["good", "bad", "slow"] {
            states.push(node(&server, name).await["state"].as_str().unwrap().to_owned());
        }
        states
    };
    assert_eq!(states().await, ["in step", "rejecting", "behind"]);
    assert!(node(&server, "slow").await["generations_behind"].as_u64().unwrap() >= 1);
    for state in ["converged", "rejecting", "behind"] {
        let count = server.metric("agent_creds_xds_nodes", &[&format!("state=\"{state}\"")]).await;
        assert_eq!(count, 1.0, "{state}");
    }
    let table = server.actl(&["nodes", "--short"]).await.stdout;
    assert_eq!(table.lines().count(), 4, "{table}");

    bad.save(&server, &bad.text(&both));
    wait_in_step(&server, &["good", "bad"]).await;
    eventually("the repaired one serves", async || served_by(&bad.client(&server), B).await).await;
    let late = server.actl(&["nodes", "wait", "--timeout", "100ms"]).await;
    assert_eq!(late.status.code(), Some(1));
    assert!(late.stderr.starts_with("`slow`: generation ") && late.stderr.contains("1 Envoy does not"), "{late:#?}");

    envoys[2].pause(false);
    wait_in_step(&server, &["good", "bad", "slow"]).await;
    eventually("the slow one serves", async || served_by(&slow.client(&server), B).await).await;
    assert_eq!(states().await, ["in step"; 3]);
}
