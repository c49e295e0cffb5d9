//! An operator's day: an Envoy joins, is seen, follows an edit; a broken file and a configuration that Envoy rejects are
//! told with file and line, and repaired.

use std::net::TcpListener;

use super::{A, B, Gateway, KINDS, PATIENCE, envoy, json, labelled, node, of_type, sections, wait_in_step};
use crate::support::probe::{eventually, served_by};
use crate::support::server::{Server, WorldConfig, loopback};

#[tokio::test]
async fn join_edit_break_and_repair() {
    let upstream = labelled("one", &[A, B]).await;
    let edge = Gateway::new("edge");
    let config = WorldConfig::new("")
        .file("edge.toml", &edge.text(&sections(&[A], &upstream)))
        .args(&["--config", "config/edge.toml"])
        .without_envoy();
    let server = Server::start(config).await;

    let empty = server.actl(&["nodes"]).await;
    assert!(empty.status.success() && empty.stdout.contains("agent-creds bootstrap"), "{empty:#?}");
    let nobody = server.actl(&["nodes", "wait", "--timeout", "50ms"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(nobody.stderr.contains("no Envoy is connected"), "{nobody:#?}");

    let _envoy = envoy(&server, "edge-1", "edge", KINDS[0]);
    // Named, so that it has to be there.
    wait_in_step(&server, &["edge-1"]).await;
    let client = edge.client(&server);
    eventually("it serves", async || served_by(&client, A).await).await;
    let seen = node(&server, "edge-1").await;
    assert_eq!((&seen["state"], &seen["gateway"]), (&"in step".into(), &"edge".into()), "{seen:#}");
    assert_eq!((&seen["version"], &seen["generations_behind"]), (&"envoy 1.40.0".into(), &0.into()), "{seen:#}");
    let clusters = of_type(&seen, "cluster");
    assert_eq!(clusters["version"].as_str().unwrap().len(), 16, "{seen:#}");
    assert!(clusters["acked"].as_u64().unwrap() >= 1 && clusters["nacked"] == 0, "{seen:#}");
    let none = server.actl(&["nodes", "diff", "edge-1"]).await;
    assert_eq!(none.status.code(), Some(0), "{none:#?}");
    let table = server.actl(&["nodes"]).await.stdout;
    assert!(table.starts_with("edge-1  in step  generation 1, up "), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");

    // An edit: what `wait` says holds at once.
    edge.save(&server, &edge.text(&sections(&[A, B], &upstream)));
    wait_in_step(&server, &[]).await;
    eventually("the edit is served", async || served_by(&client, B).await).await;
    assert_eq!(node(&server, "edge-1").await["generation"], 2);

    // A file that is broken.
    edge.save(&server, &edge.text("[upstream.\"a.example.com\"]\nmetods = [\"GET\"]\n"));
    let broken = server.actl(&["nodes", "wait", "--timeout", PATIENCE]).await;
    assert_eq!(broken.status.code(), Some(1));
    assert!(broken.stderr.contains("config/edge.toml:5:1: "), "{broken:#?}");
    assert!(broken.stderr.contains("generation 2 still is"), "{broken:#?}");
    assert_eq!(node(&server, "edge-1").await["state"], "in step");

    // A file that is not, with what Envoy cannot do: the address is taken.
    let busy = TcpListener::bind((loopback(), 15444)).unwrap();
    let taken = busy.local_addr().unwrap();
    edge.save(&server, &edge.text_at(taken, &sections(&[A], &upstream)));
    let rejected = server.actl(&["nodes", "wait", "--timeout", PATIENCE]).await;
    assert_eq!(rejected.status.code(), Some(1));
    let line = rejected.stderr.lines().next().unwrap_or_default().to_owned();
    assert!(line.starts_with("`edge-1`: config/edge.toml:"), "{rejected:#?}");
    assert!(line.contains("Address already in use"), "{rejected:#?}");
    let told = json(&server.actl(&["nodes", "wait", "--json", "--timeout", PATIENCE]).await);
    assert_eq!((&told["ok"], &told["result"]), (&false.into(), &"rejected".into()), "{told:#}");
    assert_eq!(told["rejections"][0]["node"], "edge-1", "{told:#}");
    assert!(told["rejections"][0]["lines"][0].as_str().unwrap().starts_with("config/edge.toml:"), "{told:#}");
    let seen = node(&server, "edge-1").await;
    assert_eq!((&seen["state"], &seen["generations_behind"]), (&"rejecting".into(), &1.into()), "{seen:#}");
    let diff = server.actl(&["nodes", "diff", "edge-1"]).await;
    assert_eq!(diff.status.code(), Some(1), "{diff:#?}");
    assert!(diff.stdout.contains("listener gateway/edge: rejected "), "{diff:#?}");
    assert!(diff.stdout.contains("config/edge.toml:"), "{diff:#?}");
    assert!(server.log().contains("Address already in use"), "the log names it, too");
    assert_eq!(server.metric("agent_creds_xds_nodes", &["state=\"rejecting\""]).await, 1.0);
    // What it last accepted goes on, and nothing is sent in vain.
    assert_eq!(served_by(&client, A).await, Ok("one".to_owned()));
    let pushes = server.metric("agent_creds_xds_pushes_total", &[]).await;
    let again = server.actl(&["nodes", "wait", "--timeout", PATIENCE]).await;
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(server.metric("agent_creds_xds_pushes_total", &[]).await, pushes);

    // Repaired, and everybody is in step.
    edge.save(&server, &edge.text(&sections(&[A, B], &upstream)));
    let done = server.actl(&["nodes", "wait", "--timeout", PATIENCE]).await;
    assert_eq!(
        (done.status.code(), done.stdout.contains("the one Envoy has generation 4")),
        (Some(0), true),
        "{done:#?}"
    );
    eventually("all of it is served", async || served_by(&client, B).await).await;
    assert_eq!(server.metric("agent_creds_xds_nodes", &["state=\"rejecting\""]).await, 0.0);
    assert_eq!(server.metric("agent_creds_xds_nodes", &["state=\"converged\""]).await, 1.0);
}
