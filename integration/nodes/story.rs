//! The operator's story, with an Envoy on "another machine": a network namespace that shares no network with the server's
//! but the wire between them (`integration/isolation/world.sh`).
//!
//! ```text
//! server, upstream, agent  192.0.2.1 ── wire ── 192.0.2.2  Envoy, started with what `agent-creds bootstrap --xds` wrote
//! ```

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

use super::{OPENAI, STRIPE};
use crate::isolation::world;
use crate::support::client::Client;
use crate::support::probe::{eventually, refused, served_by};
use crate::support::server::{STRIPE_KEY, Server, WorldConfig, envoy_bin, upstream_section};
use crate::support::upstream::{Upstream, UpstreamConfig};

const TEST: &str = "nodes::story::an_operator_bootstraps_an_envoy_on_another_machine";
const HERE: &str = "192.0.2.1";
/// How long `actl nodes wait` is let wait for what should take a moment.
const PATIENCE: &str = "60s";
const THERE: &str = "192.0.2.2:15443";

#[test]
fn an_operator_bootstraps_an_envoy_on_another_machine() {
    // There is no way out to fetch it from inside.
    envoy_bin();
    world::inside(TEST, |world| {
        let there = world.command_in("outside", envoy_bin().to_str().unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(story(there));
    });
}

async fn story(there: Command) {
    let listen: SocketAddr = THERE.parse().unwrap();
    let upstream = Upstream::with(UpstreamConfig::new(&[STRIPE, OPENAI]).listen((here(), 0).into())).await;
    let stripe = upstream_section(STRIPE, &upstream, "");
    let config = WorldConfig::new(&*stripe).listen(listen).args(&["--xds", "192.0.2.1:18000"]).without_envoy();
    let server = Server::start(config).await;

    // Bootstrap.
    let (state, out) = (server.state_dir(), server.dir().join("usb-stick"));
    let admin = server.dir().join("edge-1.sock");
    let output = server.agent_creds(&[
        "bootstrap",
        "--node-id",
        "edge-1",
        "--cluster",
        "config",
        "--xds",
        "192.0.2.1:18000",
        "--out",
        out.to_str().unwrap(),
        "--admin",
        admin.to_str().unwrap(),
        "--state-dir",
        state.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{output:#?}");
    let bootstrap: Value = serde_json::from_slice(&std::fs::read(out.join("envoy.json")).unwrap()).unwrap();
    let envoy = server.envoy_by(there, "edge-1", &bootstrap);

    // A request with a token arrives with the key.
    let client = Client::new(&server.ca_pem(), listen);
    let token = server.token(&[]);
    eventually("the other machine serves", async || served_by(&client, STRIPE).await).await;
    let reply = client.get(&format!("https://{STRIPE}/echo")).bearer(&token).send().await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(upstream.last_request().header("authorization"), Some(format!("Bearer {STRIPE_KEY}")));

    in_step(&server).await;
    let listed = server.actl(&["nodes", "--json"]).await;
    assert!(listed.status.success() && listed.stdout.contains("edge-1"), "{listed:#?}");

    // Edit: limits are in force at once, without a push; a new host is served as soon as that Envoy has it.
    let limited = upstream_section(STRIPE, &upstream, "methods = [\"GET\"]");
    let both = format!("{limited}{}", upstream_section(OPENAI, &upstream, ""));
    server.write_config(&server.config_text(&both));
    in_step(&server).await;
    eventually("the edit is served", async || served_by(&client, OPENAI).await).await;
    let post = client.post(&format!("https://{STRIPE}/echo"), "x").bearer(&token).send().await.unwrap();
    assert_eq!(post.status, 403, "{}", post.text());

    // Break it: an address that the other machine does not have. What it has goes on, and the log says which line it is.
    let broken = server.config_text(&limited).replace(THERE, "192.0.2.77:15443");
    server.write_config(&broken);
    let waited = server.actl(&["nodes", "wait", "--timeout", PATIENCE]).await;
    assert_eq!(waited.status.code(), Some(1), "{waited:#?}");
    let rejected = eventually("the rejection is told", async || {
        let ready = server.ready().await.ok_or("no answer")?;
        let rejected = ready.body.pointer("/envoy/rejected/0").cloned();
        rejected.ok_or_else(|| ready.body.to_string())
    })
    .await;
    assert_eq!(rejected["node"], "edge-1");
    assert!(rejected["message"].as_str().unwrap().contains("192.0.2.77:15443"), "{rejected:#}");
    let line = rejected["lines"][0].as_str().unwrap();
    assert!(line.contains("agent-creds.toml:2"), "{rejected:#}");
    assert!(server.log().contains("Envoy rejected the configuration") && server.log().contains(line));
    served_by(&client, STRIPE).await.unwrap();
    assert!(server.metric("agent_creds_xds_nacks_total", &["listener"]).await >= 1.0);

    // Repair.
    server.write_config(&server.config_text(&stripe));
    in_step(&server).await;
    eventually("nothing is rejected any more", async || {
        let ready = server.ready().await.ok_or("no answer")?;
        match ready.body.pointer("/envoy/rejected").and_then(Value::as_array) {
            Some(rejected) if rejected.is_empty() => Ok(()),
            _ => Err(ready.body.to_string()),
        }
    })
    .await;
    eventually("the repair is served", async || refused(&client, OPENAI).await).await;
    served_by(&client, STRIPE).await.unwrap();
    assert!(envoy.is_running());
}

/// As an operator's script waits.
async fn in_step(server: &Server) {
    let waited = server.actl(&["nodes", "wait", "--nodes", "edge-1", "--timeout", PATIENCE]).await;
    assert!(waited.status.success(), "{waited:#?}");
}

fn here() -> std::net::IpAddr {
    HERE.parse().unwrap()
}
