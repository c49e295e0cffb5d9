//! Resources that exist by a rule, one for each name that it allows: too many to list, made when a client first asks.

use std::fmt;
use std::sync::Arc;

use super::resource::{Resource, Version};

/// A rule by which names exist. The names of a snapshot's own resources go before it.
///
/// An answer must not block: it is asked for while a stream is served. What takes time (minting) belongs into the body of a
/// [`Resource::lazy`]. How many resources are kept is the rule's to bound: clients can name any number.
pub trait OnDemand: Send + Sync + fmt::Debug {
    /// The resource of this name; `None` when the rule does not allow it.
    fn get(&self, name: &str) -> Option<Arc<Resource>>;

    /// The hash of the rule and of the versions of what it makes: as long as it is the same, so is every answer's version.
    fn version(&self) -> Version;
}
