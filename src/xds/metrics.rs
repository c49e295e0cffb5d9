//! What the xDS server counts.

use std::sync::Arc;

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::snapshot::ResourceType;
use super::stream::{Protocol, Scope};

/// The bounds of the histograms of times, in seconds.
const TIMES: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// The metrics of the xDS server; cheap to clone.
///
/// Labels are types and protocols only, never node or resource names: their number is fixed.
#[derive(Clone)]
pub struct XdsMetrics(Arc<Inner>);

struct Inner {
    streams: IntGaugeVec,
    encode: Histogram,
    types: [TypeMetrics; ResourceType::COUNT],
}

/// The metrics of one type of resource.
pub(super) struct TypeMetrics {
    /// Responses sent.
    pub(super) pushes: IntCounter,
    /// Responses accepted.
    pub(super) acks: IntCounter,
    /// Responses rejected.
    pub(super) nacks: IntCounter,
    /// From sending a response to its ACK, in seconds.
    pub(super) push_to_ack: Histogram,
    /// From publishing an edit to the ACK of what was sent for it, in seconds.
    pub(super) edit_to_ack: Histogram,
    /// Bytes of responses, before HTTP/2 framing.
    pub(super) sent_bytes: IntCounter,
}

impl XdsMetrics {
    /// Makes the metrics known to `registry`. An error when it already has them.
    pub fn register(registry: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        let streams = IntGaugeVec::new(
            Opts::new("agent_creds_xds_streams", "Open xDS streams, by protocol and kind."),
            &["protocol", "kind"],
        )?;
        registry.register(Box::new(streams.clone()))?;
        let counter = |name: &str, help: &str| -> Result<IntCounterVec, prometheus::Error> {
            let counter = IntCounterVec::new(Opts::new(name, help), &["type"])?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let pushes = counter("agent_creds_xds_pushes_total", "xDS responses sent.")?;
        let acks = counter("agent_creds_xds_acks_total", "xDS responses accepted by clients.")?;
        let nacks = counter("agent_creds_xds_nacks_total", "xDS responses rejected by clients.")?;
        let sent_bytes = counter("agent_creds_xds_sent_bytes_total", "Bytes of xDS responses sent.")?;
        let histogram = |name: &str, help: &str| -> Result<HistogramVec, prometheus::Error> {
            let options = HistogramOpts::new(name, help).buckets(TIMES.to_vec());
            let histogram = HistogramVec::new(options, &["type"])?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        let push_to_ack = histogram("agent_creds_xds_push_to_ack_seconds", "From sending an xDS response to its ACK.")?;
        let edit_to_ack = histogram(
            "agent_creds_xds_edit_to_ack_seconds",
            "From publishing an edit to the ACK of each xDS response that was sent for it.",
        )?;
        let encode = Histogram::with_opts(
            HistogramOpts::new(
                "agent_creds_xds_encode_seconds",
                "Working out what one client is to be sent, and encoding what nobody has been sent before.",
            )
            .buckets(vec![0.00001, 0.0001, 0.001, 0.01, 0.1, 1.0]),
        )?;
        registry.register(Box::new(encode.clone()))?;
        let types = ResourceType::ALL.map(|ty| {
            let label = &[ty.label()];
            TypeMetrics {
                pushes: pushes.with_label_values(label),
                acks: acks.with_label_values(label),
                nacks: nacks.with_label_values(label),
                push_to_ack: push_to_ack.with_label_values(label),
                edit_to_ack: edit_to_ack.with_label_values(label),
                sent_bytes: sent_bytes.with_label_values(label),
            }
        });
        Ok(Self(Arc::new(Inner { streams, encode, types })))
    }

    /// The metrics of one type.
    pub(super) fn of_type(&self, ty: ResourceType) -> &TypeMetrics {
        &self.0.types[ty.index()]
    }

    /// How long it takes to work out and encode what one client is to be sent, in seconds.
    pub(super) fn encode(&self) -> &Histogram {
        &self.0.encode
    }

    /// The gauge of open streams of a kind.
    pub(super) fn streams(&self, protocol: Protocol, scope: Scope) -> IntGauge {
        self.0.streams.with_label_values(&[protocol.label(), scope.label()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registering_twice_is_an_error_and_every_type_is_there_from_the_start() {
        let registry = prometheus::Registry::new();
        let metrics = XdsMetrics::register(&registry).unwrap();
        metrics.of_type(ResourceType::Secret).nacks.inc();
        metrics.streams(Protocol::Delta, Scope::Aggregated).inc();
        let names: Vec<_> = registry.gather().iter().map(|family| family.name().to_owned()).collect();
        assert_eq!(
            names,
            [
                "agent_creds_xds_acks_total",
                "agent_creds_xds_edit_to_ack_seconds",
                "agent_creds_xds_encode_seconds",
                "agent_creds_xds_nacks_total",
                "agent_creds_xds_push_to_ack_seconds",
                "agent_creds_xds_pushes_total",
                "agent_creds_xds_sent_bytes_total",
                "agent_creds_xds_streams",
            ]
        );
        let nacks = &registry.gather()[3];
        assert_eq!(nacks.get_metric().len(), ResourceType::COUNT);
        assert!(XdsMetrics::register(&registry).is_err());
    }
}
