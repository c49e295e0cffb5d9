//! Leaf certificates for the resource builder, from the CA in the state folder.

use std::sync::Arc;
use std::time::SystemTime;

use prometheus::IntCounter;

use crate::domain::names::Host;
use crate::pki::{Ca, LeafSchedule};
use crate::xds::resources::{Leaf, Leaves};

/// One CA and its schedule. A rotated CA is another source, so that nothing minted from the old one is taken over.
#[derive(Debug, Clone)]
pub(super) struct LeafSource {
    pub(super) ca: Arc<Ca>,
    pub(super) schedule: LeafSchedule,
    pub(super) minted: IntCounter,
}

impl Leaves for LeafSource {
    fn authority(&self) -> String {
        self.ca.fingerprint().to_owned()
    }

    fn epoch(&self) -> u64 {
        self.schedule.epoch(SystemTime::now())
    }

    fn slot(&self, host: &Host, epoch: u64) -> u64 {
        self.schedule.slot(host, epoch)
    }

    fn mint(&self, host: &Host) -> Result<Leaf, String> {
        let leaf = self.ca.mint_leaf(host, self.schedule, SystemTime::now()).map_err(|error| error.to_string())?;
        self.minted.inc();
        Ok(Leaf { chain: leaf.chain, key: leaf.key })
    }
}
