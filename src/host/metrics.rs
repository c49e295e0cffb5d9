//! What `/metrics` tells of the host's browser.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

/// The metrics of pages that sandboxes had opened.
#[derive(Debug, Clone)]
pub struct BrowserMetrics {
    /// Pages that were asked for, by result.
    pub opened: IntCounterVec,
    /// Requests to callback ports, by result.
    pub callbacks: IntCounterVec,
    /// Callback ports that are open now.
    pub waiting: IntGauge,
}

impl BrowserMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// When one of their names is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| IntCounterVec::new(Opts::new(name, help), &["result"]);
        let metrics = Self {
            opened: counter(
                "agent_creds_browser_opens_total",
                "Pages that sandboxes asked to be opened in the host's browser: opened, refused, too often (limited), or without a \
                 browser that could be started (failed).",
            )?,
            callbacks: counter(
                "agent_creds_browser_callbacks_total",
                "Requests to callback ports: carried into the sandbox, refused, or not answered there (failed); and flows that ended \
                 without one (expired).",
            )?,
            waiting: IntGauge::new("agent_creds_browser_callbacks_waiting", "Callback ports that are open.")?,
        };
        registry.register(Box::new(metrics.opened.clone()))?;
        registry.register(Box::new(metrics.callbacks.clone()))?;
        registry.register(Box::new(metrics.waiting.clone()))?;
        for result in ["opened", "refused", "limited", "failed"] {
            metrics.opened.with_label_values(&[result]);
        }
        for result in ["carried", "refused", "failed", "expired"] {
            metrics.callbacks.with_label_values(&[result]);
        }
        Ok(metrics)
    }
}
