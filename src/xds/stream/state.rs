//! What one stream knows about one type: the subscription, and how the client differs from what it should hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Event, MAX_NAME_LEN, MAX_NAMES, MAX_ON_DEMAND, MAX_UNANSWERED, ProtocolError, usable};
use crate::xds::on_demand::Fair;
use crate::xds::snapshot::{Resource, TypeSet};

/// What the client holds under a name, where that is not what it should hold.
#[derive(Debug, Clone)]
pub(super) enum Holds {
    /// Nothing.
    Nothing,
    /// This.
    Resource(Arc<Resource>),
    /// Something we do not know, or that has to be sent again although it is the same.
    Unknown,
    /// What it had before, or this (`None`: its absence): it rejected the response that said so, and may have taken a part.
    Rejected(Option<Arc<Resource>>),
}

/// A response the client has not yet answered.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) nonce: u64,
    /// Driven by a snapshot, not by a subscription.
    pub(super) is_push: bool,
    /// What was new to the client in it.
    pub(super) sent: Vec<(Arc<str>, Option<Arc<Resource>>)>,
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

    /// Whether the rejection of something that should be there stands.
    pub(super) fn has_rejected(&self, set: &TypeSet) -> bool {
        self.behind.iter().any(|(name, holds)| matches!(holds, Holds::Rejected(_)) && set.get(name).is_some())
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

    /// Takes note of a resource that the client is told of. If it exists on demand, and is one too many, what the client has to
    /// give up for it: an agent may name any number of hosts, and a client gives up none by itself.
    pub(super) fn make_room(&mut self, resource: &Resource, set: &TypeSet) -> Option<Arc<str>> {
        let group = set.group(resource.name())?;
        let on_demand = self.on_demand.get_or_insert_with(|| Box::new(Fair::new(MAX_ON_DEMAND)));
        let given_up = on_demand.add(resource.name(), group)?;
        self.names.remove(&given_up);
        self.behind.remove(&given_up);
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
        }
        for name in changed {
            let holds = match self.behind.remove(&name) {
                Some(holds) => holds,
                None => match old.get(&name) {
                    Some(resource) if !resource.has_failed() => Holds::Resource(resource),
                    Some(_) | None => Holds::Nothing,
                },
            };
            self.note(name, holds, new);
        }
    }

    /// Notes what the client holds, if it is not what it should hold.
    fn note(&mut self, name: Arc<str>, holds: Holds, set: &TypeSet) {
        let at_target = match (&holds, set.get(&name)) {
            (Holds::Resource(held), Some(resource)) => held.version() == resource.version(),
            (Holds::Nothing, None) => true,
            (Holds::Resource(_) | Holds::Nothing | Holds::Unknown | Holds::Rejected(_), _) => false,
        };
        if at_target {
            self.behind.remove(&name);
        } else {
            self.behind.insert(name, holds);
        }
    }

    /// Makes sure the name is sent again, even if the client holds the same.
    pub(super) fn renew(&mut self, name: &Arc<str>) {
        self.behind.entry(name.clone()).or_insert(Holds::Unknown);
    }

    /// The client accepted a response: what it may have rejected before is settled.
    pub(super) fn accept(&mut self, set: &TypeSet, entry: InFlight) {
        for (name, sent) in entry.sent {
            if let Some(Holds::Rejected(_)) = self.behind.get(&name) {
                self.note(name, sent.map_or(Holds::Nothing, Holds::Resource), set);
            }
        }
    }

    /// The client rejected a response. It may be all or nothing to it, or it may have taken what it liked (Envoy does, for
    /// clusters and listeners): so everything in it is in doubt.
    pub(super) fn reject(&mut self, entry: InFlight) {
        for (name, sent) in entry.sent {
            if self.subscribes(&name) {
                self.behind.insert(name, Holds::Rejected(sent));
            }
        }
    }

    /// What is to be sent. What the client rejected is left out, unless some of it has changed since: then all of it is in,
    /// because a rejected response took its good parts with it.
    pub(super) fn work(&mut self, set: &TypeSet, events: &mut Vec<Event>) -> Work {
        let (mut work, mut retry, mut retry_is_due) = (Work::default(), Work::default(), false);
        let (wildcard, names) = (self.wildcard, &self.names);
        self.behind.retain(|name, holds| {
            if !wildcard && !names.contains(name) {
                return false;
            }
            match (usable(set, name, events), holds) {
                (Some(resource), Holds::Resource(held)) if held.version() == resource.version() => return false,
                (None, Holds::Nothing) => return false,
                (Some(resource), Holds::Rejected(sent)) => {
                    retry_is_due |= sent.as_ref().is_none_or(|sent| sent.version() != resource.version());
                    retry.changed.push(resource);
                }
                (None, Holds::Rejected(sent)) => {
                    retry_is_due |= sent.is_some();
                    retry.gone.push(name.clone());
                }
                (Some(resource), Holds::Nothing | Holds::Resource(_) | Holds::Unknown) => {
                    work.changed.push(resource);
                }
                (None, Holds::Resource(_) | Holds::Unknown) => work.gone.push(name.clone()),
            }
            true
        });
        if retry_is_due {
            work.changed.append(&mut retry.changed);
            work.gone.append(&mut retry.gone);
        }
        work
    }
}
