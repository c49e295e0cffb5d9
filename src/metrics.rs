//! What `/metrics` tells of the server as a whole; each adapter registers its own counters beside these.

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// The server's own metrics.
#[derive(Debug, Clone)]
pub struct ServerMetrics {
    /// Configurations applied since the start; the first is 1.
    pub config_generation: IntGauge,
    /// 1 when the files on disk are what is served, 0 when an edit is broken and the last good configuration goes on.
    pub config_ok: IntGauge,
    /// Unix time of the last change that was read, good or broken.
    pub config_last_reload: Gauge,
    /// Reloads by result: `ok`, `broken`.
    pub config_reloads: IntCounterVec,
    /// How long it takes to make Envoy's configuration out of ours, in seconds.
    pub build_seconds: Histogram,
    /// Leaf certificates minted.
    pub certificates_minted: IntCounter,
    /// Times Envoy ended and was started again.
    pub envoy_restarts: IntCounter,
}

impl ServerMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            config_generation: IntGauge::new(
                "agent_creds_config_generation",
                "Configurations applied since the start; the first is 1.",
            )?,
            config_ok: IntGauge::new(
                "agent_creds_config_ok",
                "1 when the files on disk are what is served, 0 when an edit is broken and the last good one goes on.",
            )?,
            config_last_reload: Gauge::new(
                "agent_creds_config_last_reload_timestamp_seconds",
                "When a change of the configuration was last read, good or broken (Unix time).",
            )?,
            config_reloads: IntCounterVec::new(
                Opts::new(
                    "agent_creds_config_reloads_total",
                    "Changes of the configuration that were read, by result.",
                ),
                &["result"],
            )?,
            build_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "agent_creds_xds_build_seconds",
                    "Making Envoy's configuration out of the configuration files.",
                )
                .buckets(vec![0.0001, 0.001, 0.01, 0.1, 1.0, 10.0]),
            )?,
            certificates_minted: IntCounter::new("agent_creds_certificates_minted_total", "Leaf certificates minted.")?,
            envoy_restarts: IntCounter::new(
                "agent_creds_envoy_restarts_total",
                "Times Envoy ended by itself and was started again.",
            )?,
        };
        registry.register(Box::new(metrics.config_generation.clone()))?;
        registry.register(Box::new(metrics.config_ok.clone()))?;
        registry.register(Box::new(metrics.config_last_reload.clone()))?;
        registry.register(Box::new(metrics.config_reloads.clone()))?;
        registry.register(Box::new(metrics.build_seconds.clone()))?;
        registry.register(Box::new(metrics.certificates_minted.clone()))?;
        registry.register(Box::new(metrics.envoy_restarts.clone()))?;
        // Both series are there from the start, so that an alert on an increase sees the first one.
        metrics.config_reloads.with_label_values(&["ok"]);
        metrics.config_reloads.with_label_values(&["broken"]);
        Ok(metrics)
    }
}
