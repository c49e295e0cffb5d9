//! What Envoy rejects: the line is named, whatever the type of the resource, the rest goes on, and the repair is sent.

use std::net::TcpListener;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{A, B, C, Gateway, KINDS, PATIENCE, envoy, json, labelled, node, wait_in_step};
use crate::support::pki::TestCa;
use crate::support::probe::{eventually, served_by};
use crate::support::server::{Server, WorldConfig, loopback, upstream_section};

/// A certificate in which we find nothing wrong, and Envoy does: of a version that does not exist.
fn strange_ca() -> String {
    let pem = TestCa::new("strange").pem().to_owned();
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let mut der = STANDARD.decode(body).unwrap();
    let version = [0xa0, 0x03, 0x02, 0x01, 0x02];
    let at = der.windows(5).position(|window| window == version).expect("version 3");
    der[at + 4] = 7;
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
}

#[tokio::test]
async fn a_certificate_that_envoy_does_not_take_is_told_with_its_line() {
    for kind in KINDS {
        let upstream = labelled("one", &[A, B, C]).await;
        let edge = Gateway::new("edge");
        let good = upstream_section(A, &upstream, "");
        let strange = format!("[upstream.\"{B}\"]\naddress = \"{}\"\nca = \"strange.pem\"\n", upstream.addr());
        let config = WorldConfig::new("")
            .file("edge.toml", &edge.text(&good))
            .file("strange.pem", &strange_ca())
            .args(&["--config", "config/edge.toml"])
            .without_envoy();
        let server = Server::start(config).await;
        let _envoy = envoy(&server, "edge-1", "edge", kind);
        wait_in_step(&server, &["edge-1"]).await;
        let client = edge.client(&server);
        eventually("it serves", async || served_by(&client, A).await).await;

        edge.save(&server, &edge.text(&(good.clone() + &strange)));
        let rejected = server.actl(&["nodes", "wait", "--json", "--timeout", PATIENCE]).await;
        let told = json(&rejected);
        assert_eq!((rejected.status.code(), &told["result"]), (Some(1), &"rejected".into()), "{kind:?}: {told:#}");
        let rejection = &told["rejections"][0];
        assert_eq!(rejection["type"], "secret", "{kind:?}: {told:#}");
        let line = format!("config/edge.toml:{}", 1 + edge.text(&good).lines().count());
        assert_eq!((&rejection["lines"][0], &rejection["certain"]), (&line.into(), &true.into()), "{told:#}");
        let nacks = server.metric("agent_creds_xds_nacks_total", &["type=\"secret\""]).await;
        assert_eq!(served_by(&client, A).await, Ok("one".to_owned()), "the rest goes on");

        // The rest also goes on to change, and what was rejected is not sent again: that would be another rejection, before all
        // of the new host is there.
        let more = upstream_section(C, &upstream, "");
        edge.save(&server, &edge.text(&(good.clone() + &strange + &more)));
        let again = server.actl(&["nodes", "wait", "--timeout", PATIENCE]).await;
        assert_eq!(again.status.code(), Some(1), "{again:#?}");
        eventually("another host is served", async || served_by(&client, C).await).await;
        assert_eq!(server.metric("agent_creds_xds_nacks_total", &["type=\"secret\""]).await, nacks, "{kind:?}");
        assert_eq!(node(&server, "edge-1").await["state"], "rejecting", "{kind:?}");

        edge.save(&server, &edge.text(&(good.clone() + &upstream_section(B, &upstream, ""))));
        wait_in_step(&server, &[]).await;
        eventually("the repair is served", async || served_by(&client, B).await).await;
    }
}

/// Each of several gateways that one Envoy serves has a line of its own; only that of the broken one is told.
#[tokio::test]
async fn of_several_listeners_the_one_that_is_to_blame_is_told() {
    for protocol in ["delta", "sotw"] {
        let upstream = labelled("one", &[A]).await;
        let gateways = [Gateway::new("edge"), Gateway::new("edge-two")];
        let section = upstream_section(A, &upstream, "");
        let mut config = WorldConfig::new("").without_envoy();
        for gateway in &gateways {
            let file = format!("config/{}", gateway.file());
            config = config.file(&gateway.file(), &gateway.text(&section)).args(&["--config", &file]);
        }
        let server = Server::start(config).await;
        let _envoy = server.foreign_envoy("all", &["--protocol", protocol]);
        wait_in_step(&server, &["all"]).await;
        let busy = TcpListener::bind((loopback(), 15444)).unwrap();
        let (moved, taken) = (Gateway::new("edge"), busy.local_addr().unwrap());
        // Both in one go: one good, one not.
        gateways[0].save(&server, &moved.text(&section));
        gateways[1].save(&server, &gateways[1].text_at(taken, &section));
        let rejected = server.actl(&["nodes", "wait", "--json", "--timeout", PATIENCE]).await;
        let told = json(&rejected);
        assert_eq!(told["result"], "rejected", "{protocol}: {told:#}");
        assert_eq!(told["rejections"][0]["lines"], serde_json::json!(["config/edge-two.toml:3"]), "{told:#}");
        eventually("the good one moves", async || served_by(&moved.client(&server), A).await).await;
        gateways[1].save(&server, &gateways[1].text(&section));
        wait_in_step(&server, &[]).await;
        eventually("the other one serves", async || served_by(&gateways[1].client(&server), A).await).await;
        assert_eq!(node(&server, "all").await["state"], "in step");
    }
}
