//! Requests of the incremental variant.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use super::push::fitting;
use super::state::{Doubt, Holds, TypeState, Work};
use super::{AdsStream, MAX_NAMES, MAX_ON_DEMAND, Output, ProtocolError, Scope, usable};
use crate::xds::snapshot::{Resource, ResourceType};

impl AdsStream {
    /// Takes a request of the incremental variant: ACK or NACK, and changes of the subscription, in any combination.
    pub fn on_delta(&mut self, request: DeltaDiscoveryRequest) -> Result<Output, ProtocolError> {
        let mut output = Output::default();
        let Some(ty) = self.requested_type(&request.type_url, &mut output)? else { return Ok(output) };
        let state = self.state_mut(ty);
        if let Some(entry) = state.take_answered(&request.response_nonce) {
            self.resolve(ty, entry, request.error_detail, &mut output);
        }
        // Whatever the nonce, what the request says about the subscription counts: it is said only once.
        self.unsubscribe(ty, &request.resource_names_unsubscribe, &mut output)?;
        self.subscribe(ty, &request.resource_names_subscribe, &request.initial_resource_versions, &mut output)?;
        self.state(ty).check_limits()?;
        self.advance(&mut output);
        Ok(output)
    }

    fn unsubscribe(&mut self, ty: ResourceType, names: &[String], output: &mut Output) -> Result<(), ProtocolError> {
        if names.is_empty() {
            return Ok(());
        }
        let set = self.target.of_type(ty);
        let state = &mut self.types[ty.index()];
        if names.iter().any(|name| name == "*") {
            state.wildcard = false;
        }
        let mut still_wanted = BTreeSet::new();
        for name in names.iter().filter(|name| *name != "*") {
            TypeState::check_name(name)?;
            let was_named = state.unsubscribe(name);
            if state.wildcard && (was_named.is_some() || set.get(name).is_some()) {
                // The client may have dropped it, but the wildcard still covers it.
                still_wanted.insert(was_named.unwrap_or_else(|| name.as_str().into()));
            }
        }
        state.forget_unsubscribed();
        self.answer_delta(ty, still_wanted, Vec::new(), false, output);
        Ok(())
    }

    fn subscribe(
        &mut self,
        ty: ResourceType,
        names: &[String],
        initial: &HashMap<String, String>,
        output: &mut Output,
    ) -> Result<(), ProtocolError> {
        let set = self.target.of_type(ty);
        let state = &mut self.types[ty.index()];
        let is_first = !std::mem::replace(&mut state.asked, true);
        if initial.len() > MAX_NAMES {
            let what = "the number of initial resource versions";
            return Err(ProtocolError::ResourceExhausted { what, limit: MAX_NAMES });
        }
        let wants_all = names.iter().any(|name| name == "*") || (is_first && names.is_empty() && ty.is_full_set());
        let is_new_wildcard = wants_all && !state.wildcard;
        state.wildcard |= wants_all;
        let mut wanted = BTreeSet::new();
        for name in names.iter().filter(|name| *name != "*") {
            TypeState::check_name(name)?;
            let name = state.subscribe(name, set);
            wanted.insert(name);
        }
        if is_new_wildcard {
            wanted.extend(set.iter().map(|resource| resource.name().clone()));
            // What is still on its way from before the client let go of the wildcard, it will take: if it is gone by now, the
            // client has to be told.
            let on_its_way = state.in_flight.iter().flat_map(|entry| &entry.sent);
            wanted.extend(on_its_way.filter(|sent| sent.resource.is_some()).map(|sent| sent.name.clone()));
        }
        let mut resumed = Vec::new();
        if is_first && !initial.is_empty() {
            self.resumed = true;
            resumed = self.resume(ty, initial, &mut wanted)?;
        }
        // What the client holds already counts like what it is sent.
        let set = self.target.of_type(ty);
        let state = &mut self.types[ty.index()];
        let given_up: Vec<_> = resumed.iter().filter_map(|held| state.make_room(held, set)).collect();
        self.answer_delta(ty, wanted, given_up, is_new_wildcard, output);
        Ok(())
    }

    /// What the client brings along unchanged it need not be sent: those are returned. What is gone it has to be told.
    fn resume(
        &mut self,
        ty: ResourceType,
        initial: &HashMap<String, String>,
        wanted: &mut BTreeSet<Arc<str>>,
    ) -> Result<Vec<Arc<Resource>>, ProtocolError> {
        let set = self.target.of_type(ty);
        let warming = if ty == ResourceType::Endpoint { self.endpoints_on_their_way() } else { BTreeSet::new() };
        let (is_aggregated, last_nonce) = (self.scope == Scope::Aggregated, self.last_nonce);
        let state = &mut self.types[ty.index()];
        let mut held = Vec::new();
        for (name, version) in initial {
            if name == "*" || !state.subscribes(name) {
                continue;
            }
            TypeState::check_name(name)?;
            match set.get(name).filter(|resource| !resource.has_failed()) {
                Some(resource) if resource.version().as_str() == version && !warming.contains(name.as_str()) => {
                    wanted.remove(name.as_str());
                    held.push(resource);
                }
                // The client's routes may still point to it: it goes when removals go.
                None if is_aggregated && ty == ResourceType::Cluster && !state.names.contains(name.as_str()) => {
                    let doubt = Doubt { held: None, since: last_nonce };
                    state.behind.insert(name.as_str().into(), Holds::InDoubt(doubt));
                }
                Some(_) | None => {
                    wanted.insert(name.as_str().into());
                }
            }
        }
        Ok(held)
    }

    /// The endpoints of clusters that are on their way to the client, where they will warm.
    fn endpoints_on_their_way(&self) -> BTreeSet<Arc<str>> {
        let sent = self.state(ResourceType::Cluster).in_flight.iter().flat_map(|entry| &entry.sent);
        let refers_to = sent.filter_map(|sent| sent.resource.as_ref()).flat_map(|cluster| cluster.refers_to());
        refers_to.filter(|(ty, _)| *ty == ResourceType::Endpoint).map(|(_, name)| name.clone()).collect()
    }

    /// Tells the client about these names, and to give up those, at once; `always` even if there is nothing to tell.
    fn answer_delta(
        &mut self,
        ty: ResourceType,
        names: BTreeSet<Arc<str>>,
        given_up: Vec<Arc<str>>,
        always: bool,
        output: &mut Output,
    ) {
        let set = self.target.of_type(ty);
        let mut work = Work { gone: given_up, ..Work::default() };
        let mut premature = Vec::new();
        for name in names {
            match usable(set, &name, &mut output.events) {
                Some(resource) if self.is_premature(&resource) => premature.push(name),
                Some(resource) => {
                    work.gone.extend(self.types[ty.index()].make_room(&resource, set));
                    work.changed.push(resource);
                }
                None => work.gone.push(name),
            }
        }
        // Of more than there is room for, what came first is given up before it is sent.
        if work.changed.len() > MAX_ON_DEMAND {
            let gone: BTreeSet<_> = work.gone.iter().collect();
            work.changed.retain(|resource| !gone.contains(resource.name()));
        }
        let always = always && premature.is_empty();
        self.postpone(ty, premature);
        if work.changed.is_empty() && work.gone.is_empty() && !always {
            return;
        }
        loop {
            let rest = work.changed.split_off(fitting(&work.changed));
            if rest.is_empty() {
                return self.send_delta(ty, work, false, output);
            }
            let part = Work { changed: std::mem::replace(&mut work.changed, rest), gone: Vec::new() };
            self.send_delta(ty, part, false, output);
        }
    }
}
