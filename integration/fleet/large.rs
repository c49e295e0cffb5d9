//! A configuration of more than 4 MB, which is where gRPC's default limits end.

use std::time::Instant;

use super::{Gateway, KINDS, envoy, json, labelled, node, of_type};
use crate::support::client::Client;
use crate::support::probe::{eventually, refused, served_by};
use crate::support::server::{Server, WorldConfig};
use crate::support::upstream::Upstream;

const COUNT: usize = 2000;

fn host(number: usize) -> String {
    let department = "a-rather-long-name-of-a-department-of-a-company";
    format!("host-{number}.{department}.{department}-again.{department}-and-again.example.com")
}

fn text(hosts: impl Iterator<Item = usize>, upstream: &Upstream) -> String {
    let addr = upstream.addr();
    hosts
        .map(|number| format!("[upstream.\"{}\"]\naddress = \"{addr}\"\nca = \"upstream-ca.pem\"\n", host(number)))
        .collect()
}

/// Patience for what is large, on a machine that has other things to do.
async fn wait(server: &Server, node: &str) {
    let output = server.actl(&["nodes", "wait", "--json", "--timeout", "3m", "--nodes", node]).await;
    assert!(output.status.success(), "{:#}", json(&output));
}

#[tokio::test]
async fn two_thousand_upstreams_arrive_and_change() {
    let served = [0, COUNT - 1, COUNT];
    let names: Vec<_> = served.iter().map(|&number| host(number)).collect();
    let upstream = labelled("one", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let edge = Gateway::new("edge");
    let config = WorldConfig::new("")
        .file("edge.toml", &edge.text(&text(0..COUNT, &upstream)))
        .args(&["--config", "config/edge.toml"])
        .without_envoy();
    let server = Server::start(config).await;
    for kind in KINDS {
        let started = Instant::now();
        edge.save(&server, &edge.text(&text(0..COUNT, &upstream)));
        let _envoy = envoy(&server, "edge-1", "edge", kind);
        wait(&server, "edge-1").await;
        eprintln!("{kind:?}: {COUNT} upstreams after {:?}", started.elapsed());
        let sent = server.metric("agent_creds_xds_sent_bytes_total", &["type=\"cluster\""]).await;
        assert!(sent > f64::from(4 << 20), "{kind:?}: {sent}");
        let client: Client = edge.client(&server);
        for name in &names[..2] {
            eventually(&format!("{name} is served"), async || served_by(&client, name).await).await;
        }
        // One more, and one less.
        let started = Instant::now();
        edge.save(&server, &edge.text(&text(1..=COUNT, &upstream)));
        wait(&server, "edge-1").await;
        eventually("the new one is served", async || served_by(&client, &names[2]).await).await;
        // Of a name on demand, state of the world cannot say that it is gone: then it is the vault that refuses.
        eventually("the old one is refused", async || match refused(&client, &names[0]).await {
            Err(other) if !other.contains("host not allowed") => Err(other),
            _ => Ok(()),
        })
        .await;
        eprintln!("{kind:?}: an edit after {:?}", started.elapsed());
        let seen = node(&server, "edge-1").await;
        assert_eq!(of_type(&seen, "cluster")["nacked"], 0, "{seen:#}");
        let diff = server.actl(&["nodes", "diff", "edge-1"]).await;
        assert_eq!(diff.status.code(), Some(0), "{}", diff.stdout);
    }
}
