//! Envoys of other machines: they come by TLS, with a certificate that says who they are.

mod identity;
mod refusals;
mod renewal;
mod revocation;
mod serving;
mod story;
mod wire;

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::client::Client;
use crate::support::probe::eventually;
use crate::support::server::{ForeignEnvoy, STRIPE_KEY, Server, WorldConfig, loopback, upstream_section};
use crate::support::upstream::Upstream;

const STRIPE: &str = "api.stripe.com";
const OPENAI: &str = "api.openai.com";

/// A server without an Envoy of its own, with two gateways: `config`, for Stripe, and `second`, for OpenAI.
struct World {
    server: Server,
    upstream: Upstream,
    /// Where foreign Envoys are served.
    xds: SocketAddr,
    second: SocketAddr,
}

impl World {
    async fn start(args: &[&str]) -> Self {
        let upstream = Upstream::start(&[STRIPE, OPENAI]).await;
        let (ip, second) = (loopback(), SocketAddr::new(loopback(), 15443));
        let (listen, xds) = (SocketAddr::new(ip, 15443), SocketAddr::new(ip, 18000));
        let sections = upstream_section(OPENAI, &upstream, "");
        let text = format!("[gateway]\nname = \"second\"\nlisten = \"{second}\"\n{sections}");
        let config = WorldConfig::new(upstream_section(STRIPE, &upstream, ""))
            .listen(listen)
            .file("second.toml", &text)
            .args(&["--config", "config/second.toml", "--xds", &xds.to_string()])
            .args(args)
            .without_envoy();
        Self { server: Server::start(config).await, upstream, xds, second }
    }

    /// The bootstrap of a node.
    fn enrol(&self, id: &str, gateway: &str, args: &[&str]) -> Value {
        self.server.enrol(id, gateway, &self.xds.to_string(), args)
    }

    /// A node that runs.
    fn node(&self, id: &str, gateway: &str, args: &[&str]) -> ForeignEnvoy {
        self.server.envoy_with(id, &self.enrol(id, gateway, args))
    }

    /// A client of the gateway `config`.
    fn client(&self) -> Client {
        self.server.client()
    }

    /// A client of the gateway `second`.
    fn client_of_second(&self) -> Client {
        Client::new(&self.server.ca_pem(), self.second)
    }

    /// What `agent-creds nodes ARGS` prints as JSON.
    fn nodes(&self, args: &[&str]) -> Value {
        let (state, run) = (self.server.state_dir(), self.server.runtime_dir());
        let mut all = vec!["nodes"];
        all.extend(args);
        all.extend(["--json", "--state-dir", state.to_str().unwrap()]);
        if args[0] == "list" {
            all.extend(["--runtime-dir", run.to_str().unwrap()]);
        }
        let output = self.server.agent_creds(&all);
        assert!(output.status.success(), "{output:#?}");
        serde_json::from_str(&output.stdout).unwrap()
    }

    async fn refusals(&self, reason: &str) -> f64 {
        self.server.metric("agent_creds_node_refusals_total", &[&format!("reason=\"{reason}\"")]).await
    }
}

/// A request with a token arrives at Stripe with the key.
async fn swapped(world: &World, client: &Client, token: &str) -> Result<(), String> {
    let sent = client.get(&format!("https://{STRIPE}/echo")).bearer(token).send().await;
    let reply = sent.map_err(|error| error.to_string())?;
    if reply.status != http::StatusCode::OK {
        return Err(format!("{}: {}", reply.status, reply.text()));
    }
    let arrived = world.upstream.last_request();
    match arrived.header("authorization") {
        Some(value) if value == format!("Bearer {STRIPE_KEY}") => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// Waits until requests through the gateway `config` are answered.
async fn serving(world: &World, token: &str) {
    let client = world.client();
    eventually("the node serves", async || swapped(world, &client, token).await).await;
}

/// Waits until a counter or gauge is what is asked.
async fn counts(world: &World, name: &str, labels: &[&str], wanted: impl Fn(f64) -> bool) {
    eventually(name, async || match world.server.metric(name, labels).await {
        value if wanted(value) => Ok(()),
        value => Err(format!("{name} is {value}")),
    })
    .await;
}
