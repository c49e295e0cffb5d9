//! Requests of the state-of-the-world variant.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;

use super::push::{leaving, no_endpoints};
use super::state::{Holds, TypeState};
use super::{AdsStream, Message, Output, ProtocolError, usable};
use crate::xds::resource::Prepared;
use crate::xds::snapshot::{ResourceType, TypeSet};

impl AdsStream {
    /// Takes a request of the state-of-the-world variant: ACK or NACK, and the whole subscription.
    pub fn on_sotw(&mut self, request: DiscoveryRequest) -> Result<Output, ProtocolError> {
        let mut output = Output::default();
        let Some(ty) = self.requested_type(&request.type_url, &mut output)? else { return Ok(output) };
        if !request.response_nonce.is_empty() {
            let state = self.state_mut(ty);
            let is_latest = request.response_nonce == state.last_nonce.to_string();
            let answered = state.in_flight.iter().position(|entry| entry.nonce.to_string() == request.response_nonce);
            if let Some(index) = answered {
                let entry = state.in_flight.remove(index);
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
        if !wildcard {
            let explicit = &state.names;
            state.behind.retain(|name, _| explicit.contains(name));
        }
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
        let state = &mut self.types[ty.index()];
        let mut sent = Vec::new();
        let mut resources = Vec::new();
        for name in added {
            let resource = usable(set, name, &mut output.events);
            state.behind.remove(name);
            match &resource {
                Some(resource) => resources.push(resource.clone()),
                None if ty == ResourceType::Endpoint => resources.push(no_endpoints(name)),
                None => {}
            }
            sent.push((name.clone(), resource));
        }
        let mut version = set.version();
        if ty.is_full_set() {
            // Always the full set, and for what is not newly asked for as the client holds it: its pushes have an order.
            let others = set.iter().filter(|r| state.subscribes(r.name()) && !added.contains(r.name()));
            for target in others {
                let held = match state.behind.get(target.name()) {
                    None => target,
                    Some(Holds::Resource(held)) => held,
                    Some(Holds::Nothing) => continue,
                    // Leaving out what was rejected would remove what the client had before.
                    Some(Holds::Rejected(_) | Holds::Unknown) => {
                        sent.push((target.name().clone(), Some(target.clone())));
                        target
                    }
                };
                if matches!(held.prepare(), Prepared::Ready) {
                    resources.push(held.clone());
                }
            }
            resources.extend(leaving(set, state.behind.iter()));
            if !state.behind.is_empty() {
                version = TypeSet::version_of(&resources);
            }
        } else if resources.is_empty() && !always {
            return;
        }
        self.send(ty, Message { version, resources, removed: Vec::new(), sent, is_push: false }, output);
    }
}
