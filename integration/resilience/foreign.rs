//! Envoys of somebody else's: each gets its gateway, and nothing of another one.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::{A, B};
use crate::support::client::Client;
use crate::support::probe::{admin, eventually, in_use, refused, served_by};
use crate::support::server::{Server, WorldConfig, loopback, upstream_section};
use crate::support::upstream::Upstream;

#[tokio::test]
async fn a_foreign_envoy_gets_the_gateway_of_its_cluster_alone() {
    let upstream = Upstream::start(&[A, B, "c.example.com"]).await;
    let second_addr = SocketAddr::new(loopback(), 15443);
    let second = |host: &str| {
        let sections = upstream_section(host, &upstream, "");
        format!("[gateway]\nname = \"second\"\nlisten = \"{second_addr}\"\n{sections}")
    };
    let config = WorldConfig::new(upstream_section(A, &upstream, ""))
        .file("second.toml", &second(B))
        .args(&["--config", "config/second.toml"])
        .without_envoy();
    let server = Server::start(config).await;
    // The first gateway is named after its folder, `config`.
    let first = server.foreign_envoy("edge-1", &["--cluster", "config"]);
    let other = server.foreign_envoy("edge-2", &["--cluster", "second", "--protocol", "sotw"]);
    let unknown = server.foreign_envoy("edge-3", &["--cluster", "nobody"]);
    let clients = [server.client(), Client::new(&server.ca_pem(), second_addr)];
    eventually("the first gateway is served", async || served_by(&clients[0], A).await).await;
    eventually("the second gateway is served", async || served_by(&clients[1], B).await).await;
    assert_eq!(refused(&clients[0], B).await, Ok(()));
    assert_eq!(refused(&clients[1], A).await, Ok(()));

    let expected = |gateway: &str, host: &str| -> BTreeSet<String> {
        [
            format!("listener gateway/{gateway}"),
            format!("chain gateway/{gateway} {host}"),
            format!("chain gateway/{gateway} plain HTTP"),
            format!("cluster {gateway}/{host}"),
            format!("cluster {gateway}/{host}/http1"),
            format!("route {gateway}/{host}"),
            format!("secret leaf/{host}"),
        ]
        .into()
    };
    // The CA's name is a hash.
    let held = async |socket: &std::path::Path| -> BTreeSet<String> {
        in_use(socket).await.into_iter().filter(|name| !name.starts_with("secret ca/")).collect()
    };
    assert_eq!(held(first.admin()).await, expected("config", A));
    assert_eq!(held(other.admin()).await, expected("second", B));
    // Not only in other words: the name of the other gateway's host is nowhere in it.
    assert!(!admin(first.admin(), "/config_dump").await.unwrap().contains(B));
    assert!(!admin(other.admin(), "/config_dump").await.unwrap().contains(A));

    eventually("the Envoy of an unknown cluster is connected", async || {
        let streams = server.metric("agent_creds_xds_streams", &["kind=\"aggregated\""]).await;
        if streams == 3.0 { Ok(()) } else { Err(format!("{streams} streams")) }
    })
    .await;
    assert_eq!(held(unknown.admin()).await, BTreeSet::new());

    // An edit of one gateway goes to its Envoy alone.
    let untouched = held(first.admin()).await;
    std::fs::write(server.dir().join("config/second.toml"), second("c.example.com")).unwrap();
    eventually("the edit is served", async || served_by(&clients[1], "c.example.com").await).await;
    eventually("the old host is refused", async || refused(&clients[1], B).await).await;
    // The drained chain of the old host holds on to its route and certificate for a while; nothing else stays.
    let may_stay = BTreeSet::from([format!("route second/{B}"), format!("secret leaf/{B}")]);
    eventually("the old host is forgotten", async || match &held(other.admin()).await - &may_stay {
        rest if rest == expected("second", "c.example.com") => Ok(()),
        rest => Err(format!("{rest:?}")),
    })
    .await;
    assert_eq!(held(first.admin()).await, untouched);
    assert_eq!(held(unknown.admin()).await, BTreeSet::new());
    assert!(first.is_running() && other.is_running() && unknown.is_running());
    assert!(server.ready().await.unwrap().is_ready(), "a server without an Envoy of its own is ready by itself");
}
