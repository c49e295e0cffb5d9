//! What is counted of foreign Envoys. No label names a node: their number is fixed.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::tls::Refusal;
use crate::telemetry::Throttle;

/// One line in the log for each kind of refusal in this time: strangers must not fill it.
const SAY: Duration = Duration::from_secs(10);
/// The longest detail in a log line, in characters.
const MAX_DETAIL: usize = 200;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct NodeMetrics {
    pub(super) connected: IntGauge,
    pub(super) renewed: IntCounter,
    /// Connections that were ended because their node was revoked.
    pub(super) cut: IntCounter,
    refused: [IntCounter; Refusal::ALL.len()],
    said: Arc<[Throttle; Refusal::ALL.len()]>,
}

impl NodeMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let connected = IntGauge::new("agent_creds_nodes_connected", "Foreign Envoys that are connected.")?;
        let renewed = IntCounter::new(
            "agent_creds_node_certificates_total",
            "Certificates that foreign Envoys were renewed by.",
        )?;
        let cut = IntCounter::new(
            "agent_creds_node_connections_cut_total",
            "Connections that were ended because their node was revoked.",
        )?;
        let refused = IntCounterVec::new(
            Opts::new("agent_creds_node_refusals_total", "Connections of foreign Envoys that were refused, by reason."),
            &["reason"],
        )?;
        registry.register(Box::new(connected.clone()))?;
        registry.register(Box::new(renewed.clone()))?;
        registry.register(Box::new(cut.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        let refused = Refusal::ALL.map(|refusal| refused.with_label_values(&[refusal.label()]));
        let said = Arc::new(std::array::from_fn(|_| Throttle::new(SAY)));
        Ok(Self { connected, renewed, cut, refused, said })
    }

    /// Counts a refusal, and says it unless one of its kind was said a moment ago.
    pub(super) fn refuse(&self, refusal: Refusal, peer: Option<IpAddr>, detail: &dyn Display) {
        let index = refusal as usize;
        self.refused[index].inc();
        // Health checks of load balancers do that all day, and so does an Envoy that has no certificate yet.
        if refusal == Refusal::Closed {
            return;
        }
        if let Some(left_out) = self.said[index].pass() {
            let detail: String = detail.to_string().chars().take(MAX_DETAIL).flat_map(char::escape_default).collect();
            let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
            tracing::warn!(peer, reason = refusal.label(), detail, left_out, "refused a connection to --xds");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_there_from_the_start() {
        let registry = Registry::new();
        let metrics = NodeMetrics::register(&registry).unwrap();
        for refusal in Refusal::ALL {
            metrics.refuse(refusal, None, &"\n");
        }
        let families = registry.gather();
        let refusals = families.iter().find(|family| family.name() == "agent_creds_node_refusals_total").unwrap();
        assert_eq!(refusals.get_metric().len(), Refusal::ALL.len());
        assert!(refusals.get_metric().iter().all(|metric| metric.get_counter().get_value() == 1.0));
    }
}
