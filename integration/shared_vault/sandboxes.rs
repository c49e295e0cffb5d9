//! Sandboxes whose credentials are with another server: their tokens are made here, without a key, and are good for their life.

use std::net::SocketAddr;

use crate::sandbox::world::{World, eventually};
use crate::support::server::{STRIPE_KEY, Server, WorldConfig, loopback, upstream_section};

const STRIPE: &str = "api.stripe.com";
const TOKEN: &str = "STRIPE_API_KEY = { token = { hosts = [\"api.stripe.com\"], methods = [\"GET\"] } }";

/// The status of a request with this token, by a program in the sandbox.
fn status(world: &World, project: &str, token: &str, method: &str) -> String {
    let curl = "curl -s -o /dev/null --max-time 20 -w '%{http_code}'";
    world.says(project, &format!("{curl} -X {method} -H \"authorization: Bearer {token}\" https://{STRIPE}/echo"))
}

#[test]
fn a_sandbox_uses_a_shared_vault_with_runc() {
    uses_a_shared_vault("runc");
}

#[test]
fn a_sandbox_uses_a_shared_vault_with_gvisor() {
    uses_a_shared_vault("runsc");
}

fn uses_a_shared_vault(runtime: &'static str) {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    // The keys that this world's server would have are none.
    let world = World::new(runtime).with_env("STRIPE_API_KEY", "not-the-key");
    let at = SocketAddr::new(loopback(), 18000);
    let config = WorldConfig::new(upstream_section(STRIPE, &world.upstream, ""));
    let config = config.listen(SocketAddr::new(at.ip(), 15443)).args(&["--xds", &at.to_string()]).without_envoy();
    let vault = tokio.block_on(Server::start(config));
    let out = world.path("config/agent-creds/vaults");
    let state = vault.state_dir();
    let enrol = ["nodes", "enrol", "laptop-1", "--gateway", "config", "--vault", &at.to_string()];
    let to = ["--out", out.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];

    for project in ["shop", "other"] {
        world.project(project, "", TOKEN, &[STRIPE]);
        let text = std::fs::read_to_string(world.config_file(project)).unwrap();
        world.write_config(project, &format!("[vault]\nhost = \"{}\"\n{text}", at.ip()));
    }
    let refused = world.inside("shop", "true");
    assert!(!refused.status.success() && refused.stderr.contains("agent-creds nodes enrol"), "{refused:?}");
    let output = vault.agent_creds(&[&enrol[..], &to[..]].concat());
    assert!(output.status.success(), "{output:#?}");
    eventually("the identity is taken up", || world.inside("shop", "true").status.success());

    assert_eq!(status(&world, "shop", "$STRIPE_API_KEY", "GET"), "200");
    assert_eq!(world.forwarded().last().unwrap().authorization(), Some(format!("Bearer {STRIPE_KEY}")));
    assert_eq!(status(&world, "shop", "$STRIPE_API_KEY", "POST"), "403", "its methods hold");
    let shown = world.says("shop", "aenv why https://api.stripe.com/echo");
    assert!(shown.contains("STRIPE_API_KEY"), "{shown}");
    // An agent narrows it further, offline.
    assert_eq!(status(&world, "shop", "$(mint attenuate $STRIPE_API_KEY --paths /echo)", "GET"), "200");
    assert_eq!(status(&world, "shop", "$(mint attenuate $STRIPE_API_KEY --paths /x)", "GET"), "403");

    // It is good in this life of this sandbox alone.
    let token = world.says("shop", "echo $STRIPE_API_KEY");
    assert_eq!(status(&world, "other", &token, "GET"), "403");
    assert_eq!(status(&world, "other", "$STRIPE_API_KEY", "GET"), "200");
    assert!(world.adev("shop", &["stop"]).status.success());
    assert_eq!(status(&world, "shop", &token, "GET"), "403");
    assert_eq!(status(&world, "shop", "$STRIPE_API_KEY", "GET"), "200");
    // Nor is it of use where the vault is.
    let listed = vault.mint(&["list", "--json"]);
    assert!(listed.stdout.contains("for the node laptop-1"), "{listed:?}");
    assert!(!world.log().contains("acm_") && !world.log().contains(STRIPE_KEY));
}
