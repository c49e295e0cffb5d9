//! Requests of the state-of-the-world variant.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;

use super::push::{full_set_version, leaving, no_endpoints};
use super::state::{Doubt, Holds, Sent, TypeState};
use super::{AdsStream, Message, Output, ProtocolError, usable};
use crate::xds::resource::Prepared;
use crate::xds::snapshot::ResourceType;

impl AdsStream {
    /// Takes a request of the state-of-the-world variant: ACK or NACK, and the whole subscription.
    pub fn on_sotw(&mut self, request: DiscoveryRequest) -> Result<Output, ProtocolError> {
        let mut output = Output::default();
        let Some(ty) = self.requested_type(&request.type_url, &mut output)? else { return Ok(output) };
        let state = self.state_mut(ty);
        // Before there was a response no request can be late, and a nonce can only be one of an earlier stream.
        if !request.response_nonce.is_empty() && state.last_nonce != 0 {
            let is_latest = request.response_nonce == state.last_nonce.to_string();
            if let Some(entry) = state.take_answered(&request.response_nonce) {
                // The answer to the latest response also covers earlier ones, whose answers may never come.
                let earlier = if is_latest { std::mem::take(&mut state.in_flight) } else { Vec::new() };
                for entry in earlier {
                    self.resolve(ty, entry, None, &mut output);
                }
                self.resolve(ty, entry, request.error_detail, &mut output);
            }
            if !is_latest {
                // Sent before the client saw our latest response. Its answer to that one says the subscription again.
                return Ok(output);
            }
        }
        self.resubscribe(ty, &request.resource_names, &request.version_info, &mut output)?;
        self.state(ty).check_limits()?;
        self.advance(&mut output);
        Ok(output)
    }

    fn resubscribe(
        &mut self,
        ty: ResourceType,
        names: &[String],
        version: &str,
        output: &mut Output,
    ) -> Result<(), ProtocolError> {
        let set = self.target.of_type(ty);
        let state = &mut self.types[ty.index()];
        let is_first = !std::mem::replace(&mut state.asked, true);
        let is_resumed = is_first && !version.is_empty() && state.last_nonce == 0;
        self.resumed |= is_resumed;

        let is_legacy_wildcard = names.is_empty() && ty.is_full_set() && !state.has_named;
        state.has_named |= !names.is_empty();
        let wildcard = is_legacy_wildcard || names.iter().any(|name| name == "*");
        let is_new_wildcard = wildcard && !state.wildcard;
        state.wildcard = wildcard;

        let explicit: BTreeSet<&str> = names.iter().map(String::as_str).filter(|name| *name != "*").collect();
        let dropped: Vec<_> = state.names.iter().filter(|name| !explicit.contains(&***name)).cloned().collect();
        for name in &dropped {
            state.names.remove(name);
        }
        let mut added = BTreeSet::new();
        for name in explicit {
            TypeState::check_name(name)?;
            if !state.names.contains(name) {
                added.insert(state.subscribe(name, set));
            }
        }
        state.forget_unsubscribed();
        if is_new_wildcard {
            added.extend(set.iter().map(|resource| resource.name().clone()));
        } else if wildcard {
            // The client may have dropped them, but the wildcard still covers them.
            added.extend(dropped);
        }
        // The client has all there is. Only a wildcard makes that certain: a version says nothing about which names it is of.
        if is_resumed && wildcard && ty.is_full_set() && version == set.version().as_str() {
            return Ok(());
        }
        if !added.is_empty() || is_new_wildcard {
            self.answer_sotw(ty, &added, is_new_wildcard, output);
        }
        Ok(())
    }

    /// Tells the client about names it has newly asked for, at once; `always` even if there is nothing to tell.
    fn answer_sotw(&mut self, ty: ResourceType, added: &BTreeSet<Arc<str>>, always: bool, output: &mut Output) {
        let set = self.target.of_type(ty);
        let (mut present, mut absent, mut premature) = (Vec::new(), Vec::new(), Vec::new());
        for name in added {
            match usable(set, name, &mut output.events) {
                Some(resource) if self.is_premature(&resource) => premature.push(name.clone()),
                Some(resource) => present.push(resource),
                None => absent.push(name.clone()),
            }
        }
        if !premature.is_empty() && ty.is_full_set() {
            // All or nothing: the full set follows.
            return self.postpone(ty, added.iter().cloned());
        }
        self.postpone(ty, premature);
        let set = self.target.of_type(ty);
        let state = &mut self.types[ty.index()];
        let mut resources = present.clone();
        let mut sent = Vec::new();
        let mut is_retry = false;
        for (name, resource) in
            present.into_iter().map(|r| (r.name().clone(), Some(r))).chain(absent.into_iter().map(|name| (name, None)))
        {
            is_retry |= matches!(state.behind.remove(&name), Some(Holds::Rejected(_)));
            if resource.is_none() && ty == ResourceType::Endpoint {
                resources.push(no_endpoints(&name));
            }
            sent.push(Sent { name, resource, before: None });
        }
        let mut version = set.version();
        if ty.is_full_set() {
            // Always the full set, and for what is not newly asked for as the client holds it: its pushes have an order.
            let unanswered = state.unanswered();
            for target in set.iter().filter(|r| state.subscribes(r.name()) && !added.contains(r.name())) {
                let name = target.name();
                let (held, before) = match state.behind.get(name) {
                    // Accepted or rejected with this response, if not with an earlier one.
                    None => (target.clone(), unanswered.get(name).cloned()),
                    Some(Holds::Resource(held)) => (held.clone(), unanswered.get(name).cloned()),
                    Some(Holds::Nothing) => continue,
                    Some(Holds::InDoubt(Doubt { held: Some(held), .. })) => (held.clone(), None),
                    // Leaving out what was rejected would remove what the client had before.
                    Some(Holds::Rejected(doubt) | Holds::InDoubt(doubt)) => (target.clone(), Some(doubt.held.clone())),
                };
                if !matches!(held.prepare(), Prepared::Ready) {
                    continue;
                }
                if let Some(before) = before {
                    is_retry |= matches!(state.behind.get(name), Some(Holds::Rejected(_)));
                    sent.push(Sent { name: name.clone(), resource: Some(held.clone()), before });
                }
                resources.push(held);
            }
            for Sent { name, .. } in &sent {
                if let Some(Holds::Rejected(_) | Holds::InDoubt(_)) = state.behind.get(name) {
                    state.behind.remove(name);
                }
            }
            for held in leaving(set, &state.behind) {
                if let Some(before) = unanswered.get(held.name()) {
                    let (name, before) = (held.name().clone(), before.clone());
                    sent.push(Sent { name, resource: Some(held.clone()), before });
                }
                resources.push(held);
            }
            version = full_set_version(set, &resources, state.behind.is_empty());
        } else if resources.is_empty() && !always {
            return;
        }
        self.send(ty, Message { version, resources, removed: Vec::new(), sent, is_push: false, is_retry }, output);
    }
}
