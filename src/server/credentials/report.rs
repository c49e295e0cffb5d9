//! How credentials are doing: metrics, the log, and `/readyz`.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use serde::Serialize;

use crate::vault::Prepared;
use crate::vault::live::{Fetch, Live, LiveState, Source};

/// What `/metrics` tells of credentials.
#[derive(Debug, Clone)]
pub(in crate::server) struct CredentialMetrics {
    fetches: IntCounterVec,
    good: IntGaugeVec,
}

impl CredentialMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// When a metric of the same name is registered already.
    pub(in crate::server) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let fetches = IntCounterVec::new(
            Opts::new(
                "agent_creds_credential_fetches_total",
                "Times a credential was fetched from its providers or its token endpoint, by outcome.",
            ),
            &["credential", "outcome"],
        )?;
        let good = IntGaugeVec::new(
            Opts::new(
                "agent_creds_credential_good",
                "1 when the last fetch of a credential gave a good one, 0 when an older one is used, or none.",
            ),
            &["credential"],
        )?;
        registry.register(Box::new(fetches.clone()))?;
        registry.register(Box::new(good.clone()))?;
        Ok(Self { fetches, good })
    }
}

/// A source whose outcomes are counted and logged.
pub(super) struct Reported {
    pub(super) source: Box<dyn Source<Prepared>>,
    /// The host or pattern.
    pub(super) credential: String,
    /// Its line in `vault.toml`.
    pub(super) origin: String,
    pub(super) metrics: CredentialMetrics,
}

impl Source<Prepared> for Reported {
    fn fetch(&self) -> Fetch<'_, Prepared> {
        Box::pin(async {
            let fetched = self.source.fetch().await;
            let problem = match &fetched {
                Ok(fetched) => fetched.problem.as_ref(),
                Err(error) => Some(error),
            };
            let outcome = match (&fetched, problem) {
                (Ok(_), None) => "ok",
                (Ok(_), Some(_)) => "stale",
                (Err(_), _) => "failed",
            };
            if let Some(problem) = problem {
                let (credential, line) = (&self.credential, &self.origin);
                tracing::warn!(%credential, %line, "the credential cannot be fetched: {problem}");
            }
            self.metrics.fetches.with_label_values(&[self.credential.as_str(), outcome]).inc();
            self.metrics.good.with_label_values(&[self.credential.as_str()]).set(i64::from(problem.is_none()));
            fetched
        })
    }
}

/// The credentials in force that are fetched, for who asks how they are doing. Clones share them.
#[derive(Debug, Clone, Default)]
pub(in crate::server) struct CredentialStates(Arc<Mutex<Named>>);

type Named = Vec<(String, Arc<Live<Prepared>>)>;

/// A credential that is not good.
#[derive(Debug, Serialize)]
pub(in crate::server) struct CredentialReport {
    /// The host or pattern.
    pub(in crate::server) credential: String,
    /// `stale`: the last good one is used for a while. `failed`: requests that need it are refused.
    pub(in crate::server) state: &'static str,
    pub(in crate::server) message: String,
}

impl CredentialStates {
    pub(super) fn replace(&self, mut all: Named) {
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }

    /// What is not good.
    pub(in crate::server) fn problems(&self) -> Vec<CredentialReport> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let reports = all.into_iter().filter_map(|(credential, live)| {
            let (state, message) = match live.state() {
                LiveState::Unused | LiveState::Good => return None,
                LiveState::Stale(problem) => ("stale", problem),
                LiveState::Failed(problem) => ("failed", problem),
            };
            Some(CredentialReport { credential, state, message: message.to_string() })
        });
        reports.collect()
    }
}
