//! Pushes: bringing a client from what it holds to what it should hold, in an order that breaks nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::state::{Doubt, Holds, Sent, Work};
use super::{AdsStream, MAX_RESPONSE_BYTES, Message, Output, Protocol, Scope, usable};
use crate::xds::snapshot::{Resource, ResourceType, TypeSet, Version};

/// What a push may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Additions and changes; what is to be removed stays.
    Additions,
    /// Everything.
    All,
}

/// Make before break: what is pushed waits for the ACK of what it may refer to.
const ORDER: [ResourceType; 4] =
    [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route];

impl AdsStream {
    /// Sends what can be sent now.
    pub(super) fn advance(&mut self, output: &mut Output) {
        match self.scope {
            Scope::Single(ty) => {
                self.push(ty, Extent::All, output);
            }
            Scope::Aggregated => self.advance_in_order(output),
        }
    }

    fn advance_in_order(&mut self, output: &mut Output) {
        // Secrets refer to nothing, and what refers to a new one asks for it by itself.
        self.push(ResourceType::Secret, Extent::Additions, output);
        for ty in ORDER {
            // Nothing refers to a listener: one that goes away makes room for its successor on the same address.
            let extent = if ty == ResourceType::Listener { Extent::All } else { Extent::Additions };
            // A type that was not asked for has nothing to send or to wait for.
            if self.push(ty, extent, output) || !self.state(ty).in_flight.is_empty() {
                return;
            }
        }
        // What an Envoy rejected may be what lets go of the resources to remove.
        if self.is_resuming() || ORDER.iter().any(|ty| self.state(*ty).has_rejected(self.target.of_type(*ty))) {
            return;
        }
        for ty in [ResourceType::Route, ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Secret] {
            self.push(ty, Extent::All, output);
        }
    }

    /// Sends what one type is behind with, if anything; whether it did.
    fn push(&mut self, ty: ResourceType, extent: Extent, output: &mut Output) -> bool {
        let set = self.target.of_type(ty);
        let state = &mut self.types[ty.index()];
        let is_waiting = match self.protocol {
            Protocol::Delta => state.has_push_in_flight(),
            // One nonce is all there is to tell responses apart: one at a time.
            Protocol::Sotw => !state.in_flight.is_empty(),
        };
        if state.behind.is_empty() || is_waiting {
            return false;
        }
        let mut work = state.work(set, &mut output.events);
        if extent == Extent::Additions {
            work.gone.clear();
        }
        if work.changed.is_empty() && work.gone.is_empty() {
            return false;
        }
        if ty == ResourceType::Cluster {
            self.renew_endpoints(&work.changed);
        }
        match self.protocol {
            Protocol::Delta => self.push_delta(ty, work, output),
            Protocol::Sotw if ty.is_full_set() => self.push_full_set(ty, work, extent, output),
            Protocol::Sotw => return self.push_partial(ty, work, output),
        }
        true
    }

    fn push_delta(&mut self, ty: ResourceType, mut work: Work, output: &mut Output) {
        // What does not fit is still behind, and follows on the ACK.
        let fits = fitting(&work.changed);
        if fits < work.changed.len() {
            work.changed.truncate(fits);
            work.gone.clear();
        }
        self.send_delta(ty, work, true, output);
    }

    /// Sends a delta response; the client is at its target for everything in it.
    pub(super) fn send_delta(&mut self, ty: ResourceType, work: Work, is_push: bool, output: &mut Output) {
        let version = self.target.of_type(ty).version();
        let state = self.state_mut(ty);
        let mut is_retry = false;
        let changed = work.changed.iter().map(|resource| (resource.name().clone(), Some(resource.clone())));
        let sent = changed.chain(work.gone.iter().map(|name| (name.clone(), None)));
        let sent = sent
            .map(|(name, resource)| {
                is_retry |= matches!(state.behind.remove(&name), Some(Holds::Rejected(_)));
                Sent { name, resource, before: None }
            })
            .collect();
        let message = Message { version, resources: work.changed, removed: work.gone, sent, is_push, is_retry };
        self.send(ty, message, output);
    }

    /// Leaves an answer to a later push.
    pub(super) fn postpone(&mut self, ty: ResourceType, names: impl IntoIterator<Item = Arc<str>>) {
        let since = self.last_nonce;
        let state = self.state_mut(ty);
        for name in names {
            let held = state.behind.get(&name).and_then(Holds::held).cloned();
            state.behind.insert(name, Holds::InDoubt(Doubt { held, since }));
        }
    }

    /// Everything subscribed to; for the sake of make before break also what the client holds and will have to give up.
    fn push_full_set(&mut self, ty: ResourceType, work: Work, extent: Extent, output: &mut Output) {
        let set = self.target.of_type(ty);
        let state = &mut self.types[ty.index()];
        let mut resources: Vec<_> = set
            .iter()
            .filter(|resource| state.subscribes(resource.name()))
            .filter(|resource| usable(set, resource.name(), &mut output.events).is_some())
            .cloned()
            .collect();
        let kept = if extent == Extent::Additions { leaving(set, &state.behind) } else { Vec::new() };
        let is_exact = kept.is_empty();
        resources.extend(kept);
        let version = full_set_version(set, &resources, is_exact);
        let changed = work.changed.into_iter().map(|r| (r.name().clone(), Some(r)));
        let sent = changed.chain(work.gone.into_iter().map(|name| (name, None)));
        let mut sent: Vec<_> = sent
            .map(|(name, resource)| {
                let before = state.behind.remove(&name).and_then(|holds| holds.held().cloned());
                Sent { name, resource, before }
            })
            .collect();
        // A full set also repeats what was rejected, and leaves out what is gone and was never certain to be there.
        let mut is_retry = false;
        for (name, holds) in std::mem::take(&mut state.behind) {
            let resource = usable(set, &name, &mut output.events);
            let before = holds.held().cloned();
            let is_kept = resource.is_none() && before.is_some() && extent == Extent::Additions;
            match holds {
                Holds::Rejected(_) | Holds::InDoubt(_) if !is_kept => {
                    is_retry |= matches!(holds, Holds::Rejected(_));
                    sent.push(Sent { name, resource, before });
                }
                holds => {
                    state.behind.insert(name, holds);
                }
            }
        }
        self.send(ty, Message { version, resources, removed: Vec::new(), sent, is_push: true, is_retry }, output);
    }

    /// What has changed. State of the world has no word for "gone", but for endpoints: an empty assignment.
    fn push_partial(&mut self, ty: ResourceType, work: Work, output: &mut Output) -> bool {
        let version = self.target.of_type(ty).version();
        let state = self.state_mut(ty);
        let mut resources = work.changed;
        let sent = resources.iter().map(|r| (r.name().clone(), Some(r.clone())));
        let mut sent: Vec<_> = sent.map(|(name, resource)| Sent { name, resource, before: None }).collect();
        for name in work.gone {
            state.behind.remove(&name);
            if ty == ResourceType::Endpoint {
                resources.push(no_endpoints(&name));
                sent.push(Sent { name, resource: None, before: None });
            }
        }
        for Sent { name, .. } in &sent {
            state.behind.remove(name);
        }
        if resources.is_empty() {
            return false;
        }
        let removed = Vec::new();
        self.send(ty, Message { version, resources, removed, sent, is_push: true, is_retry: false }, output);
        true
    }
}

/// How many resources fit in one response; at least one.
pub(super) fn fitting(resources: &[Arc<Resource>]) -> usize {
    let mut size = 0;
    let over = resources.iter().position(|resource| {
        size += resource.entry(Protocol::Delta).len();
        size > MAX_RESPONSE_BYTES
    });
    over.map_or(resources.len(), |over| over.max(1))
}

/// What the client holds, as far as that is certain, and will have to give up.
pub(super) fn leaving(set: &TypeSet, behind: &BTreeMap<Arc<str>, Holds>) -> Vec<Arc<Resource>> {
    let leaving = behind.iter().filter(|(name, _)| set.get(name).is_none_or(|resource| resource.has_failed()));
    leaving.filter_map(|(_, holds)| holds.held().cloned()).collect()
}

/// The version of a full set. A client that comes back with the snapshot's is taken to hold all of it, so a response has that
/// version only if it is so: `is_exact`, nothing in it is other than in the snapshot.
pub(super) fn full_set_version(set: &TypeSet, resources: &[Arc<Resource>], is_exact: bool) -> Version {
    if is_exact && resources.len() == set.len() { set.version() } else { TypeSet::version_of(resources) }
}

/// The endpoints of a cluster that has none.
pub(super) fn no_endpoints(name: &Arc<str>) -> Arc<Resource> {
    let message = ClusterLoadAssignment { cluster_name: name.to_string(), ..Default::default() };
    Arc::new(Resource::new(ResourceType::Endpoint, name.clone(), Version::of(&("no endpoints", &**name)), &message))
}
