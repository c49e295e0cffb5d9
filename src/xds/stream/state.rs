//! What one stream knows about one type: the subscription, and how the client differs from what it should hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Event, MAX_NAME_LEN, MAX_NAMES, MAX_ON_DEMAND, MAX_UNANSWERED, ProtocolError, usable};
use crate::xds::on_demand::Fair;
use crate::xds::snapshot::{Resource, TypeSet, Version};

/// What the client holds under a name, where that is not what it should hold.
#[derive(Debug, Clone)]
pub(super) enum Holds {
    /// Nothing.
    Nothing,
    /// This.
    Resource(Arc<Resource>),
    /// Who knows: it has to be told, whatever it is.
    InDoubt(Doubt),
    /// Who knows, because it rejected the response with what it should hold, and may have taken a part. It is not told again
    /// before it is released (see [`TypeState::release`]).
    Rejected(Doubt),
}

impl Holds {
    /// What the client held when that was last certain.
    pub(super) fn held(&self) -> Option<&Arc<Resource>> {
        match self {
            Self::Nothing => None,
            Self::Resource(held) => Some(held),
            Self::InDoubt(doubt) | Self::Rejected(doubt) => doubt.held.as_ref(),
        }
    }
}

/// What is known of a name when it is not known what the client holds.
#[derive(Debug, Clone)]
pub(super) struct Doubt {
    /// What it held when that was last certain; kept in state of the world only, where what is left out is removed.
    pub(super) held: Option<Arc<Resource>>,
    /// Accepting a response with a higher nonce ends the doubt.
    pub(super) since: u64,
}

/// What a response told the client about a name that was news to it.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) name: Arc<str>,
    /// `None`: its absence.
    pub(super) resource: Option<Arc<Resource>>,
    /// What the client held before, as in [`Doubt::held`].
    pub(super) before: Option<Arc<Resource>>,
}

impl Sent {
    fn version(&self) -> Option<Version> {
        self.resource.as_ref().map(|resource| resource.version())
    }
}

/// A response the client has not yet answered.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) nonce: u64,
    /// Driven by a snapshot, not by a subscription.
    pub(super) is_push: bool,
    /// Something in it had been rejected before, and was asked for again all the same.
    pub(super) is_retry: bool,
    /// What was new to the client in it.
    pub(super) sent: Vec<Sent>,
}

/// What is to be sent so that the client holds what it should.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) changed: Vec<Arc<Resource>>,
    pub(super) gone: Vec<Arc<str>>,
}

/// The state of one type on one stream.
#[derive(Debug, Default)]
pub(super) struct TypeState {
    /// The client has asked for this type.
    pub(super) asked: bool,
    /// The client wants all resources, by `*` or by an empty first request.
    pub(super) wildcard: bool,
    /// State of the world: the client has named resources, so that an empty list no longer means all of them.
    pub(super) has_named: bool,
    /// The names subscribed to one by one, without `*`.
    pub(super) names: BTreeSet<Arc<str>>,
    /// Those of them that exist on demand, of which there may be [`MAX_ON_DEMAND`]; delta only.
    pub(super) on_demand: Option<Box<Fair<Arc<str>>>>,
    /// Where the client is not, or may not be, at its target. Names not in here are: they hold what the target snapshot has,
    /// as far as responses in flight are accepted.
    pub(super) behind: BTreeMap<Arc<str>, Holds>,
    /// Unanswered responses, oldest first.
    pub(super) in_flight: Vec<InFlight>,
    /// The nonce of the latest response of this type; 0 when there was none.
    pub(super) last_nonce: u64,
}

impl TypeState {
    /// Whether the client is to be told about this name.
    pub(super) fn subscribes(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Whether a push waits for its answer.
    pub(super) fn has_push_in_flight(&self) -> bool {
        self.in_flight.iter().any(|entry| entry.is_push)
    }

    /// What unanswered responses told the client, and what it held before that.
    pub(super) fn unanswered(&self) -> BTreeMap<Arc<str>, Option<Arc<Resource>>> {
        let sent = self.in_flight.iter().flat_map(|entry| &entry.sent);
        // From the newest to the oldest: what counts is what was held before all of them.
        sent.rev().map(|sent| (sent.name.clone(), sent.before.clone())).collect()
    }

    /// The response that a request answers, if there is one; it counts as answered from now on.
    pub(super) fn take_answered(&mut self, nonce: &str) -> Option<InFlight> {
        let number = nonce.parse().ok().filter(|number: &u64| number.to_string() == nonce)?;
        let index = self.in_flight.binary_search_by_key(&number, |entry| entry.nonce).ok()?;
        Some(self.in_flight.remove(index))
    }

    /// Whether the client has rejected something that has not been replaced since.
    pub(super) fn is_rejecting(&self) -> bool {
        self.behind.values().any(|holds| matches!(holds, Holds::Rejected(_)))
    }

    /// Whether the rejection of something that should be there stands.
    pub(super) fn has_rejected(&self, set: &TypeSet) -> bool {
        self.behind.iter().any(|(name, holds)| matches!(holds, Holds::Rejected(_)) && set.get(name).is_some())
    }

    /// Whether the client subscribes to this name, should have it, has nothing under it, and nothing is on its way.
    pub(super) fn lacks(&self, set: &TypeSet, name: &str) -> bool {
        let has_nothing = match self.behind.get(name) {
            Some(Holds::Nothing | Holds::InDoubt(Doubt { held: None, .. })) => true,
            Some(Holds::Resource(_) | Holds::InDoubt(_) | Holds::Rejected(_)) | None => false,
        };
        has_nothing && self.subscribes(name) && set.get(name).is_some_and(|resource| !resource.has_failed())
    }

    /// Checks a name from a request.
    pub(super) fn check_name(name: &str) -> Result<(), ProtocolError> {
        if name.len() > MAX_NAME_LEN {
            return Err(ProtocolError::ResourceExhausted {
                what: "the length of a resource name",
                limit: MAX_NAME_LEN,
            });
        }
        Ok(())
    }

    /// Checks what the client makes us keep.
    pub(super) fn check_limits(&self) -> Result<(), ProtocolError> {
        if self.names.len() > MAX_NAMES {
            let what = "the number of subscribed names";
            return Err(ProtocolError::ResourceExhausted { what, limit: MAX_NAMES });
        }
        if self.in_flight.iter().map(|entry| entry.sent.len() + 1).sum::<usize>() > MAX_UNANSWERED {
            let what = "the number of resources sent but neither accepted nor rejected";
            return Err(ProtocolError::ResourceExhausted { what, limit: MAX_UNANSWERED });
        }
        Ok(())
    }

    /// Adds a name to the subscription; the snapshot's own copy of the name is kept, not the request's.
    pub(super) fn subscribe(&mut self, name: &str, set: &TypeSet) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let name = set.get(name).map_or_else(|| name.into(), |resource| resource.name().clone());
        self.names.insert(name.clone());
        name
    }

    /// Forgets what is no longer subscribed to. A rejected response may have been rejected for what was in it under such a
    /// name, so the rest is told again.
    pub(super) fn forget_unsubscribed(&mut self) {
        let (wildcard, names) = (self.wildcard, &self.names);
        let mut is_released = false;
        self.behind.retain(|name, holds| {
            let is_kept = wildcard || names.contains(name);
            is_released |= !is_kept && matches!(holds, Holds::Rejected(_));
            is_kept
        });
        if is_released {
            self.release();
        }
    }

    /// Takes note of a resource that the client is told of. If it exists on demand, and is one too many, what the client has to
    /// give up for it: an agent may name any number of hosts, and a client gives up none by itself.
    pub(super) fn make_room(&mut self, resource: &Resource, set: &TypeSet) -> Option<Arc<str>> {
        let group = set.group(resource.name())?;
        let on_demand = self.on_demand.get_or_insert_with(|| Box::new(Fair::new(MAX_ON_DEMAND)));
        let given_up = on_demand.add(resource.name(), group)?;
        self.names.remove(&given_up);
        self.forget_unsubscribed();
        Some(given_up)
    }

    /// Takes a name out of the subscription.
    pub(super) fn unsubscribe(&mut self, name: &str) -> Option<Arc<str>> {
        if let Some(on_demand) = &mut self.on_demand {
            on_demand.remove(name);
        }
        self.names.take(name)
    }

    /// From now on the client should hold what `new` has, not what `old` has.
    pub(super) fn retarget(&mut self, old: &TypeSet, new: &TypeSet) {
        if !self.asked {
            return;
        }
        let mut changed: Vec<_> = new.changes_since(old).iter().filter(|name| self.subscribes(name)).cloned().collect();
        if !new.has_same_rule(old) {
            let version = |set: &TypeSet, name: &str| set.get(name).map(|resource| resource.version());
            changed.extend(self.names.iter().filter(|name| version(old, name) != version(new, name)).cloned());
            changed.sort_unstable();
            changed.dedup();
        }
        let mut is_released = false;
        for name in &changed {
            let holds = match self.behind.remove(name) {
                Some(Holds::Rejected(doubt)) => {
                    is_released = true;
                    Holds::InDoubt(doubt)
                }
                Some(holds) => holds,
                None => match old.get(name) {
                    Some(resource) if !resource.has_failed() => Holds::Resource(resource),
                    Some(_) | None => Holds::Nothing,
                },
            };
            self.note(name.clone(), holds, new);
        }
        if is_released {
            self.release();
        } else if !changed.is_empty() {
            // Nothing can come in the place of a removal: it goes along with whatever is told next.
            for (_, holds) in self.behind.iter_mut().filter(|(name, _)| new.get(name).is_none()) {
                release(holds);
            }
        }
    }

    /// Notes what the client holds, if it is not what it should hold.
    fn note(&mut self, name: Arc<str>, holds: Holds, set: &TypeSet) {
        let at_target = match (&holds, set.get(&name)) {
            (Holds::Resource(held), Some(resource)) => held.version() == resource.version(),
            (Holds::Nothing, None) => true,
            (Holds::Resource(_) | Holds::Nothing | Holds::InDoubt(_) | Holds::Rejected(_), _) => false,
        };
        if at_target {
            self.behind.remove(&name);
        } else {
            self.behind.insert(name, holds);
        }
    }

    /// Makes sure the name is sent again, even if the client holds the same. `now` is the stream's latest nonce.
    pub(super) fn renew(&mut self, name: Arc<str>, now: u64) {
        self.behind.insert(name, Holds::InDoubt(Doubt { held: None, since: now }));
    }

    /// Everything that was rejected is told again: what was wrong with the response may have been what has changed since.
    pub(super) fn release(&mut self) {
        self.behind.values_mut().for_each(release);
    }

    /// The client accepted a response: doubts about what was in it end.
    pub(super) fn accept(&mut self, set: &TypeSet, entry: InFlight) {
        let mut is_released = entry.is_retry;
        for Sent { name, resource, .. } in entry.sent {
            let Some(holds @ (Holds::InDoubt(doubt) | Holds::Rejected(doubt))) = self.behind.get(&name) else {
                continue;
            };
            if doubt.since < entry.nonce {
                is_released |= matches!(holds, Holds::Rejected(_));
                self.note(name, resource.map_or(Holds::Nothing, Holds::Resource), set);
            }
        }
        // The client takes what it rejected before: what was rejected with it may be as good.
        if is_released {
            self.release();
        }
        self.rest();
    }

    /// Gives back what is not needed by a client that waits for nothing, as most do most of the time.
    fn rest(&mut self) {
        if self.in_flight.is_empty() {
            self.in_flight = Vec::new();
        }
        if self.behind.is_empty() {
            self.behind = BTreeMap::new();
        }
    }

    /// The client rejected a response. It may be all or nothing to it, or it may have taken what it liked (Envoy does, for
    /// clusters and listeners): so everything in it is in doubt.
    ///
    /// It is told again once some of it is replaced, which may have happened by now.
    pub(super) fn reject(&mut self, set: &TypeSet, entry: InFlight) {
        let nonce = entry.nonce;
        let later = self.in_flight.partition_point(|other| other.nonce < nonce);
        // What responses that follow this one say about the same names.
        let mut follows: BTreeMap<Arc<str>, Option<Version>> = BTreeMap::new();
        if later < self.in_flight.len() {
            let rejected: BTreeMap<_, _> = entry.sent.iter().map(|sent| (&sent.name, &sent.before)).collect();
            for sent in self.in_flight[later..].iter_mut().flat_map(|other| &mut other.sent) {
                if let Some(before) = rejected.get(&sent.name) {
                    sent.before = (*before).clone();
                    follows.insert(sent.name.clone(), sent.version());
                }
            }
        }
        let mut is_replaced = false;
        let mut doubts = Vec::new();
        for sent in entry.sent {
            if !self.subscribes(&sent.name) {
                is_replaced = true;
                continue;
            }
            let target = set.get(&sent.name).filter(|resource| !resource.has_failed());
            let is_target = target.map(|resource| resource.version()) == sent.version();
            let following = follows.get(&sent.name);
            let is_told_again = matches!(self.behind.get(&sent.name), Some(Holds::InDoubt(_)));
            is_replaced |= !is_target || is_told_again || following.is_some_and(|version| *version != sent.version());
            if following.is_none() || is_target {
                doubts.push((sent, following.is_some()));
            }
        }
        for (Sent { name, before, .. }, follows) in doubts {
            let doubt = Doubt { held: before, since: nonce };
            match (is_replaced, follows) {
                (false, _) => self.behind.insert(name, Holds::Rejected(doubt)),
                (true, false) => self.behind.insert(name, Holds::InDoubt(doubt)),
                // Told again already.
                (true, true) => None,
            };
        }
        if is_replaced {
            self.release();
        }
    }

    /// What is to be sent; what the client rejected is left out.
    pub(super) fn work(&mut self, set: &TypeSet, events: &mut Vec<Event>) -> Work {
        let mut work = Work::default();
        let (wildcard, names) = (self.wildcard, &self.names);
        self.behind.retain(|name, holds| {
            if matches!(holds, Holds::Rejected(_)) {
                return true;
            }
            if !wildcard && !names.contains(name) {
                return false;
            }
            match (usable(set, name, events), holds) {
                (Some(resource), Holds::Resource(held)) if held.version() == resource.version() => return false,
                (None, Holds::Nothing) => return false,
                (Some(resource), _) => work.changed.push(resource),
                (None, _) => work.gone.push(name.clone()),
            }
            true
        });
        work
    }
}

fn release(holds: &mut Holds) {
    if let Holds::Rejected(doubt) = holds {
        *holds = Holds::InDoubt(doubt.clone());
    }
}
