//! Make before break, on real Envoys: upstreams are swapped, renamed and removed under load, and no request fails.

use std::time::Duration;

use super::{A, B, C, Gateway, KINDS, envoy, labelled, wait_in_step};
use crate::support::load::{Load, LoadConfig, Target};
use crate::support::probe::{eventually, refused, served_by};
use crate::support::server::{Server, WorldConfig, upstream_section};
use crate::support::upstream::Upstream;

const STAYS: &str = "stays.example.com";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapping_renaming_and_removing_fails_no_request() {
    let names = [A, B, C, STAYS];
    let (one, two) = (labelled("one", &names).await, labelled("two", &names).await);
    let both = |a: &Upstream, b: &Upstream| {
        upstream_section(STAYS, &one, "") + &upstream_section(A, a, "") + &upstream_section(B, b, "")
    };
    let gateways = [Gateway::new("edge"), Gateway::new("ci")];
    let mut config = WorldConfig::new("").without_envoy();
    for gateway in &gateways {
        let file = format!("config/{}", gateway.file());
        config = config.file(&gateway.file(), &gateway.text(&both(&one, &two))).args(&["--config", &file]);
    }
    let server = Server::start(config).await;
    let _envoys: Vec<_> =
        gateways.iter().zip(KINDS).map(|(gateway, kind)| envoy(&server, gateway.name, gateway.name, kind)).collect();
    wait_in_step(&server, &["edge", "ci"]).await;
    let target = |host: &str| Target::new(&format!("https://{host}/echo"));
    let mut loads = Vec::new();
    for gateway in &gateways {
        let client = gateway.client(&server);
        for host in [STAYS, A, B] {
            eventually("it serves", async || served_by(&client, host).await).await;
        }
        // A is there all the time, wherever it leads; B comes and goes, so nobody asks for it but we.
        let config = LoadConfig { pause: Duration::from_millis(10), ..LoadConfig::new(vec![target(STAYS), target(A)]) };
        loads.push(Load::start(&client, config.sse(Target::new(&format!("https://{STAYS}/sse?ms=20")))).await);
    }
    let apply = async |upstreams: &str| {
        for gateway in &gateways {
            gateway.save(&server, &gateway.text(upstreams));
        }
        wait_in_step(&server, &[]).await;
    };
    let is_served_by = async |host: &str, label: &str| {
        for gateway in &gateways {
            let client = gateway.client(&server);
            eventually(&format!("{host} is served by {label}"), async || match served_by(&client, host).await {
                Ok(answered) if answered == label => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await;
        }
    };
    for _ in 0..4 {
        // Swapped.
        apply(&both(&two, &one)).await;
        is_served_by(A, "two").await;
        is_served_by(B, "one").await;
        // B renamed to C.
        let renamed =
            upstream_section(STAYS, &one, "") + &upstream_section(C, &one, "") + &upstream_section(A, &two, "");
        apply(&renamed).await;
        is_served_by(C, "one").await;
        for gateway in &gateways {
            let client = gateway.client(&server);
            eventually(&format!("{B} is refused"), async || refused(&client, B).await).await;
        }
        // C removed, and A back.
        apply(&(upstream_section(STAYS, &one, "") + &upstream_section(A, &one, ""))).await;
        is_served_by(A, "one").await;
        apply(&both(&one, &two)).await;
        is_served_by(B, "two").await;
    }
    for load in loads {
        let report = load.stop().await;
        report.assert_clean();
        assert_eq!(report.retried, 0, "agents' connections stay: {report:?}");
    }
}
