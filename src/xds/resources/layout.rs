//! Which filter chain serves which upstream of a policy.
//!
//! ```text
//! SNI ─┬─ one of few hosts, or a private one ──▶ its own chain          HOST
//!      ├─ one of many hosts ───────────────────▶ the chain they share   *          a new host is no listener update
//!      └─ a name below a wildcard ─────────────▶ the wildcard's chain   *.PARENT
//! ```

use crate::domain::names::{Host, HostPattern};
use crate::domain::policy::{Policy, Upstream};

/// The most hosts that have a chain each. The cost of a listener update grows with the number of its chains; the chain that
/// many hosts share costs each of their connections a full handshake, and each of their new names one round trip to the server.
pub(super) const MOST_CHAINS: usize = 16;

/// The chains of one policy, each list in the order of the names.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    /// Hosts with a chain each.
    pub(super) own: Vec<(&'a Host, &'a Upstream)>,
    /// Hosts that share a chain; none or many.
    pub(super) shared: Vec<(&'a Host, &'a Upstream)>,
    /// Wildcards: each has a chain.
    pub(super) wildcards: Vec<(&'a HostPattern, &'a Upstream)>,
}

impl<'a> Layout<'a> {
    pub(super) fn of(policy: &'a Policy) -> Self {
        let (mut own, mut shared, mut wildcards) = (Vec::new(), Vec::new(), Vec::new());
        for (pattern, upstream) in &policy.upstreams {
            match pattern {
                // Its names are resolved into a cache of another kind, by a filter of its chain.
                HostPattern::Exact(host) if upstream.private => own.push((host, upstream)),
                HostPattern::Exact(host) => shared.push((host, upstream)),
                HostPattern::Below(_) => wildcards.push((pattern, upstream)),
            }
        }
        if shared.len() <= MOST_CHAINS {
            own.append(&mut shared);
            own.sort_unstable_by_key(|(host, _)| *host);
        }
        Self { own, shared, wildcards }
    }

    /// The hosts that share a chain and are below a wildcard: to be told apart from its other names.
    pub(super) fn shared_below_wildcards(&self) -> Vec<&'a Host> {
        if self.wildcards.is_empty() {
            return Vec::new();
        }
        let hosts = self.shared.iter().map(|(host, _)| *host);
        hosts.filter(|host| self.wildcards.iter().any(|(pattern, _)| pattern.matches(host))).collect()
    }
}
