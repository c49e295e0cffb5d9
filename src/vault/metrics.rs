//! The vault's counters.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// What `/metrics` tells of the vault.
#[derive(Debug, Clone)]
pub struct VaultMetrics {
    pub(super) checks: IntCounterVec,
    pub(super) latency: Histogram,
    pub(super) open_streams: IntGauge,
    pub(super) cut_streams: IntCounter,
}

impl VaultMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let checks = IntCounterVec::new(
            Opts::new("agent_creds_checks_total", "Requests that Envoy asked about, by upstream, decision and reason."),
            &["upstream", "decision", "reason"],
        )?;
        let latency = Histogram::with_opts(
            HistogramOpts::new("agent_creds_check_seconds", "Time to decide on one request, in the server.")
                .buckets(vec![1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 1e-3, 1e-2, 1e-1]),
        )?;
        let open_streams =
            IntGauge::new("agent_creds_open_streams", "Answers under way that end when their token does.")?;
        let cut_streams =
            IntCounter::new("agent_creds_cut_streams_total", "Answers that were cut because their token ended.")?;
        registry.register(Box::new(open_streams.clone()))?;
        registry.register(Box::new(cut_streams.clone()))?;
        registry.register(Box::new(checks.clone()))?;
        registry.register(Box::new(latency.clone()))?;
        Ok(Self { checks, latency, open_streams, cut_streams })
    }
}
