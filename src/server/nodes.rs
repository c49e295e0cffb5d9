//! Foreign Envoys: `serve --xds ADDR`, where Envoys of other machines find xDS and the vault, by TLS with a certificate each.
//!
//! ```text
//! TCP ─ handshakes (bounded) ─ tls (TLS 1.3; whose certificate? revoked?) ─ connection ─┬─ the server's routes, with
//!                                                                           cut when    │  NodeIdentity in each request
//!       follow: nodes.db ─▶ Enrolments ─────────────────────────────────────revoked     └─ SDS: renewal, the next certificate
//! ```
//!
//! Who a node is stands in its certificate, and goes with every request of its connection as an extension: xDS gives it the
//! configuration of its gateway, the vault answers for its gateway, and whatever it says of itself beyond that is not believed.

mod connection;
mod control;
mod enrol;
mod follow;
mod handshakes;
mod metrics;
mod renewal;
mod tls;
mod views;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::Routes;

pub(super) use self::control::NodesService;
pub use self::enrol::{NewIdentity, NodeBootstrap, enrol, enrol_server, revoke_tokens};
use self::handshakes::Handshakes;
use self::metrics::NodeMetrics;
use self::renewal::Renewals;
use self::tls::{Refusal, Tls};
use self::views::VaultService;
pub(super) use self::views::VaultViews;
use super::sockets;
use crate::control::v1::shared_vault_server::SharedVaultServer;
use crate::domain::node::{Enrolments, NodeId};
use crate::pki::Ca;
use crate::shutdown::Shutdown;
use crate::state::StateDir;
use crate::xds::metrics::XdsMetrics;
use crate::xds::service::XdsService;

/// The folder of the nodes' CA, in the state folder.
const CA_DIR: &str = "node-ca";
/// The most connections at a time, and of one node. An Envoy has a few for each of its worker threads.
const MOST_CONNECTIONS: usize = 32_768;
const MOST_OF_ONE: usize = 256;
/// How long to wait when the system gives no more connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is needed to serve foreign Envoys.
pub(super) struct Nodes {
    listener: TcpListener,
    shared: Arc<Shared>,
}

/// What all connections share.
struct Shared {
    tls: Tls,
    handshakes: Handshakes,
    enrolments: Enrolments,
    /// Says that `enrolments` changed.
    changed: watch::Receiver<()>,
    renewals: Renewals,
    connected: Connected,
    metrics: NodeMetrics,
}

impl Nodes {
    /// Listens on `address`, if there is to be one; answers nobody yet.
    ///
    /// # Errors
    /// When the address is taken, or the state folder cannot be used: a server that does not know who is revoked does not start.
    pub(super) fn prepare(
        address: Option<SocketAddr>,
        state: &StateDir,
        lifetime: Duration,
        registry: &Registry,
        xds: XdsMetrics,
    ) -> anyhow::Result<Option<Self>> {
        let Some(address) = address else { return Ok(None) };
        let now = SystemTime::now();
        let ca = Ca::load_or_create_for_nodes(&state.path().join(CA_DIR), now)
            .context("cannot get the certificate authority of nodes")?;
        let ca = Arc::new(ca);
        let metrics = NodeMetrics::register(registry).context("cannot register metrics")?;
        let (enrolments, changed, records) = follow::follow(state.path())?;
        let listener = sockets::listen(address).with_context(|| {
            format!("cannot listen on {address} for foreign Envoys; choose another address with --xds")
        })?;
        let tls = Tls::new(Arc::clone(&ca), enrolments.clone(), now)?;
        let renewals = Renewals::new(ca, lifetime, xds, records, metrics.renewed.clone());
        let connected = Connected::new(metrics.connected.clone());
        let handshakes = Handshakes::default();
        let shared = Arc::new(Shared { tls, handshakes, enrolments, changed, renewals, connected, metrics });
        Ok(Some(Self { listener, shared }))
    }

    /// Says where it listens, and writes it to `file`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn announce(&self, file: &Path) -> anyhow::Result<()> {
        let address = self.listener.local_addr().context("cannot tell the address for foreign Envoys")?;
        std::fs::write(file, address.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
        tracing::info!(xds = %address, "serving foreign Envoys; `agent-creds bootstrap --xds HOST:PORT` enrols one");
        Ok(())
    }

    /// Which nodes are connected, at any time.
    pub(super) fn connected(&self) -> Connected {
        self.shared.connected.clone()
    }

    /// Serves `xds`, and `routes` and `views` besides, until `stopping`, and ends when its connections have.
    pub(super) async fn serve(self, xds: XdsService, routes: Routes, views: VaultViews, stopping: Shutdown) {
        let Self { listener, shared } = self;
        let vault = SharedVaultServer::new(VaultService { views, shared: Arc::clone(&shared) });
        let routes = routes.add_service(vault).prepare();
        let mut connections = JoinSet::new();
        let (keeper, until) = (Arc::clone(&shared), stopping.clone());
        connections.spawn(async move { keeper.renewals.keep(until).await });
        loop {
            let (stream, peer) = tokio::select! {
                () = stopping.clone().wait() => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        shared.metrics.refuse(Refusal::Busy, None, &error);
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            if connections.len() >= MOST_CONNECTIONS {
                shared.metrics.refuse(Refusal::Busy, Some(peer.ip()), &"too many connections");
                continue;
            }
            let Some(place) = shared.handshakes.enter(peer.ip()) else {
                shared.metrics.refuse(Refusal::Busy, Some(peer.ip()), &"too many handshakes at a time");
                continue;
            };
            let served = (xds.clone(), routes.clone());
            let serve = connection::serve(Arc::clone(&shared), stream, peer, place, served, stopping.clone());
            connections.spawn(serve);
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }
}

/// Which nodes are connected. Cheap to clone; clones see the same.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    open: Arc<Mutex<BTreeMap<NodeId, usize>>>,
    gauge: prometheus::IntGauge,
}

impl Connected {
    fn new(gauge: prometheus::IntGauge) -> Self {
        Self { open: Arc::default(), gauge }
    }

    /// The nodes, each with its number of connections.
    pub(super) fn nodes(&self) -> BTreeMap<NodeId, usize> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One connection more of a node, until the answer is dropped; `None` when it has too many.
    fn enter(&self, node: &NodeId) -> Option<Entered> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(node.clone()).or_default();
        if *count >= MOST_OF_ONE {
            return None;
        }
        *count += 1;
        self.gauge.set(i64::try_from(open.len()).unwrap_or(i64::MAX));
        Some(Entered { node: node.clone(), connected: self.clone() })
    }
}

/// One connection of a node.
struct Entered {
    node: NodeId,
    connected: Connected,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut open = self.connected.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.node);
            }
        }
        self.connected.gauge.set(i64::try_from(open.len()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_one_node_are_bounded_and_counted() {
        let connected = Connected::new(prometheus::IntGauge::new("x", "x").unwrap());
        let (one, two): (NodeId, NodeId) = ("edge-1".parse().unwrap(), "edge-2".parse().unwrap());
        let held: Vec<_> = (0..MOST_OF_ONE).map(|_| connected.enter(&one).unwrap()).collect();
        assert!(connected.enter(&one).is_none());
        let other = connected.enter(&two).unwrap();
        assert_eq!(connected.nodes(), BTreeMap::from([(one.clone(), MOST_OF_ONE), (two, 1)]));
        assert_eq!(connected.gauge.get(), 2);
        drop(held);
        assert!(connected.enter(&one).is_some());
        drop(other);
        assert_eq!((connected.nodes().len(), connected.gauge.get()), (0, 0));
    }
}
