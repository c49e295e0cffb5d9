//! Fleets of real Envoys, of the newest and the oldest version that is supported, over both variants of the protocol: what
//! `actl nodes` tells of them, and that whatever happens, each ends with what it should have.

mod commands;
mod large;
mod reconnect;
mod rejection;
mod story;
mod streams;
mod swaps;
mod warming;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::client::Client;
use crate::support::server::{ForeignEnvoy, Output, Server, envoy_of, loopback, upstream_section};
use crate::support::upstream::{Upstream, UpstreamConfig};

const A: &str = "a.example.com";
const B: &str = "b.example.com";
const C: &str = "c.example.com";

/// Versions of Envoy, each with a variant of the protocol; both versions and both variants are there.
const KINDS: [(&str, &str); 2] = [("1.40.0", "delta"), ("1.39.0", "sotw")];
/// How long `actl nodes wait` is let wait for what should take a moment.
const PATIENCE: &str = "30s";

/// A gateway in a file of its own beside the world's, with an address of its own.
struct Gateway {
    name: &'static str,
    addr: SocketAddr,
}

impl Gateway {
    fn new(name: &'static str) -> Self {
        Self { name, addr: SocketAddr::new(loopback(), 15443) }
    }

    /// The name of its file.
    fn file(&self) -> String {
        format!("{}.toml", self.name)
    }

    /// Its text.
    fn text(&self, upstreams: &str) -> String {
        self.text_at(self.addr, upstreams)
    }

    fn text_at(&self, addr: SocketAddr, upstreams: &str) -> String {
        format!("[gateway]\nname = \"{}\"\nlisten = \"{addr}\"\n{upstreams}", self.name)
    }

    /// Saves it, in one step.
    fn save(&self, server: &Server, text: &str) {
        let folder = server.dir().join("config");
        let partial = folder.join(format!(".{}.partial", self.name));
        std::fs::write(&partial, text).unwrap();
        std::fs::rename(partial, folder.join(self.file())).unwrap();
    }

    fn client(&self, server: &Server) -> Client {
        Client::new(&server.ca_pem(), self.addr)
    }
}

/// An upstream that says who it is.
async fn labelled(label: &str, names: &[&str]) -> Upstream {
    Upstream::with(UpstreamConfig::new(names).label(label)).await
}

/// An Envoy of this version that serves a gateway over this variant.
fn envoy(server: &Server, node_id: &str, gateway: &str, (version, protocol): (&str, &str)) -> ForeignEnvoy {
    let binary: PathBuf = envoy_of(version);
    server.foreign_envoy_of(&binary, node_id, &["--cluster", gateway, "--protocol", protocol], |_| {})
}

/// Waits until all connected Envoys have what the files say.
async fn wait_in_step(server: &Server, nodes: &[&str]) {
    let mut args = vec!["nodes", "wait", "--timeout", PATIENCE];
    if !nodes.is_empty() {
        args.push("--nodes");
        args.extend(nodes);
    }
    let output = server.actl(&args).await;
    assert!(output.status.success(), "{output:#?}");
}

/// What `actl nodes --json` says of a node.
async fn node(server: &Server, id: &str) -> Value {
    let output = server.actl(&["nodes", "--json"]).await;
    assert!(output.status.success(), "{output:#?}");
    let all = json(&output);
    let found = all["nodes"].as_array().unwrap().iter().find(|node| node["id"] == id);
    found.unwrap_or_else(|| panic!("no node {id}: {all:#}")).clone()
}

/// What it says of one type of its first stream.
fn of_type<'a>(node: &'a Value, ty: &str) -> &'a Value {
    let types = node["streams"][0]["types"].as_array().unwrap();
    types.iter().find(|of_type| of_type["type"] == ty).unwrap_or_else(|| panic!("no {ty}: {node:#}"))
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:#?}"))
}

/// Sections for these hosts, all of one upstream.
fn sections(hosts: &[&str], upstream: &Upstream) -> String {
    hosts.iter().map(|host| upstream_section(host, upstream, "")).collect()
}
