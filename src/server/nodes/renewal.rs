//! The next certificate of each node, by SDS: there from the moment it asks, and a new one after a third of a lifetime.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, secret};
use prometheus::IntCounter;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::service::Routes;

use crate::domain::node::{EnrolmentId, NodeIdentity};
use crate::pki::{Ca, NodeCertError, NodePem};
use crate::shutdown::Shutdown;
use crate::state::Renewed;
use crate::xds::metrics::XdsMetrics;
use crate::xds::service::XdsService;
use crate::xds::snapshot::{Fleet, Resource, ResourceType, Snapshot, Version};

/// What the secret with the certificate is called.
pub(super) const SECRET: &str = "agent_creds_node";

/// The certificates of all nodes that are connected.
pub(super) struct Renewals {
    ca: Arc<Ca>,
    lifetime: Duration,
    metrics: XdsMetrics,
    records: SyncSender<Renewed>,
    minted: IntCounter,
    live: Mutex<HashMap<EnrolmentId, Weak<Renewal>>>,
}

/// The certificate of one node, as the xDS server serves it.
pub(super) struct Renewal {
    identity: NodeIdentity,
    fleet: watch::Sender<Arc<Fleet>>,
    due: Mutex<Instant>,
    routes: Routes,
}

impl Renewal {
    /// The services that have the certificate.
    pub(super) fn routes(&self) -> Routes {
        self.routes.clone()
    }
}

impl Renewals {
    /// Certificates of `ca` that live for `lifetime`, at least three seconds.
    pub(super) fn new(
        ca: Arc<Ca>,
        lifetime: Duration,
        metrics: XdsMetrics,
        records: SyncSender<Renewed>,
        minted: IntCounter,
    ) -> Self {
        let lifetime = lifetime.max(Duration::from_secs(3));
        Self { ca, lifetime, metrics, records, minted, live: Mutex::default() }
    }

    /// The certificate of a node: the one that another of its connections has, else a new one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn of(&self, identity: &NodeIdentity) -> anyhow::Result<Arc<Renewal>> {
        let mut live = self.live();
        if let Some(renewal) = live.get(&identity.enrolment).and_then(Weak::upgrade) {
            return Ok(renewal);
        }
        let (fleet, fleet_rx) = watch::channel(Arc::new(self.minted(identity)?));
        let identifier = concat!("agent-creds ", env!("CARGO_PKG_VERSION"));
        let service = XdsService::new(fleet_rx, identifier, self.metrics.clone());
        let renewal = Arc::new(Renewal {
            identity: identity.clone(),
            fleet,
            due: Mutex::new(self.next()),
            routes: service.add_to(Routes::default()).prepare(),
        });
        live.insert(identity.enrolment, Arc::downgrade(&renewal));
        Ok(renewal)
    }

    /// Renews what is due, until `stopping`.
    pub(super) async fn keep(&self, stopping: Shutdown) {
        let mut look =
            tokio::time::interval((self.lifetime / 60).clamp(Duration::from_millis(250), Duration::from_secs(60)));
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let stopped = stopping.wait();
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                () = &mut stopped => return,
                _ = look.tick() => {}
            }
            let live: Vec<Arc<Renewal>> = {
                let mut live = self.live();
                live.retain(|_, renewal| renewal.strong_count() > 0);
                live.values().filter_map(Weak::upgrade).collect()
            };
            for renewal in live {
                self.renew_if_due(&renewal);
                // Each costs a key pair and a signature: others have their turn in between.
                tokio::task::yield_now().await;
            }
        }
    }

    fn renew_if_due(&self, renewal: &Renewal) {
        let mut due = renewal.due.lock().unwrap_or_else(PoisonError::into_inner);
        if Instant::now() < *due {
            return;
        }
        match self.minted(&renewal.identity) {
            Ok(fleet) => {
                renewal.fleet.send_replace(Arc::new(fleet));
                *due = self.next();
            }
            Err(error) => tracing::error!(node = %renewal.identity.id, "cannot renew a node's certificate: {error:#}"),
        }
    }

    fn next(&self) -> Instant {
        Instant::now() + self.lifetime / 3
    }

    /// A new certificate, and nothing else, for who says that it is of the node's gateway.
    fn minted(&self, identity: &NodeIdentity) -> anyhow::Result<Fleet> {
        let pem = self.mint(identity, self.lifetime)?;
        let message = Secret {
            name: SECRET.to_owned(),
            r#type: Some(secret::Type::TlsCertificate(TlsCertificate {
                certificate_chain: Some(inline(pem.chain.clone())),
                private_key: Some(inline(pem.key.to_string())),
                ..Default::default()
            })),
        };
        let version = Version::of(&("node", &pem.fingerprint));
        let resource = Resource::new(ResourceType::Secret, SECRET, version, &message);
        let snapshot = Snapshot::build([resource], None).context("a certificate is no snapshot")?;
        let by_cluster = BTreeMap::from([(identity.gateway.to_string(), Arc::new(snapshot))]);
        Ok(Fleet { by_cluster, ..Fleet::default() })
    }

    /// A new certificate, written down.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub(super) fn mint(&self, identity: &NodeIdentity, lifetime: Duration) -> Result<NodePem, NodeCertError> {
        let pem = self.ca.mint_node(identity, lifetime, SystemTime::now())?;
        self.minted.inc();
        let renewed =
            Renewed { enrolment: identity.enrolment, fingerprint: pem.fingerprint.clone(), expires: pem.not_after };
        // When too many wait the log is behind for a while; nothing rests on it.
        let _ = self.records.try_send(renewed);
        Ok(pem)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<EnrolmentId, Weak<Renewal>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn inline(text: String) -> DataSource {
    DataSource { specifier: Some(data_source::Specifier::InlineString(text)), ..Default::default() }
}
