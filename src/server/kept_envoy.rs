//! The one Envoy that a server keeps running, as a process or in a container.

use std::sync::Arc;
use std::sync::atomic::AtomicI32;

use super::envoy_container::EnvoyContainer;
use crate::envoy::Supervisor;
use crate::shutdown::Shutdown;

/// The Envoy that is kept running.
pub(super) enum KeptEnvoy {
    Process(Supervisor),
    Container(EnvoyContainer),
}

impl KeptEnvoy {
    pub(super) fn pid(&self) -> Arc<AtomicI32> {
        match self {
            Self::Process(supervisor) => supervisor.pid(),
            Self::Container(container) => container.pid(),
        }
    }

    pub(super) async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        match self {
            Self::Process(supervisor) => supervisor.run(shutdown).await.map_err(anyhow::Error::new),
            Self::Container(container) => container.run(shutdown).await,
        }
    }
}
