//! What a client holds against what it should hold, name by name: for people, not for the protocol.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::state::Holds;
use super::{AdsStream, Protocol};
use crate::domain::policy::Origin;
use crate::xds::snapshot::{Resource, ResourceType, Snapshot, TypeSet, Version};

/// What a client holds under a name, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Nothing.
    Nothing,
    /// This version.
    Version(Version),
    /// It was sent this version (`None`: told that it is gone), and has not answered.
    Sent(Option<Version>),
    /// It rejected the response with this version (`None`: with its removal), and may hold what it had before.
    Rejected(Option<Version>),
    /// Something that is not known, or that has to be sent again.
    Unknown,
}

/// A name under which a client does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The type.
    pub ty: ResourceType,
    /// The name; one that a client made up is here only as long as it holds something under it.
    pub name: Arc<str>,
    /// What it holds.
    pub held: Held,
    /// What it should hold; `None`: nothing.
    pub should: Option<Version>,
    /// The line of the configuration that the resource comes from, or came from.
    pub origin: Option<Origin>,
}

impl AdsStream {
    /// The variant it speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// What the client should come to hold, as far as this stream has been told.
    pub fn target(&self) -> &Arc<Snapshot> {
        &self.target
    }

    /// How many responses of this type the client has neither accepted nor rejected.
    pub fn unanswered(&self, ty: ResourceType) -> usize {
        self.state(ty).in_flight.len()
    }

    /// Whether something of this type that the client rejected is still what it should hold, so that nothing will be sent before
    /// that changes.
    pub fn rejection_stands(&self, ty: ResourceType) -> bool {
        // As soon as some of what was rejected together changes, all of it is released.
        self.state(ty).behind.values().any(|holds| matches!(holds, Holds::Rejected(_)))
    }

    /// Everything subscribed to in which the client differs from `should`, which may be newer than what this stream was last
    /// told. In the order of types and names.
    pub fn differences(&self, should: &Snapshot) -> Vec<Difference> {
        ResourceType::ALL.into_iter().flat_map(|ty| self.differences_of(ty, should.of_type(ty))).collect()
    }

    /// Whether the client has asked for every route that the listeners it should hold name. An Envoy asks for them a moment
    /// after it has accepted the listener: until then it serves nothing new.
    pub fn has_asked_for_routes(&self) -> bool {
        let listeners = self.state(ResourceType::Listener);
        let routes = self.state(ResourceType::Route);
        if !listeners.asked {
            return true;
        }
        let held = self.target.of_type(ResourceType::Listener).iter();
        held.filter(|listener| listeners.subscribes(listener.name()))
            .flat_map(|listener| listener.refers_to())
            .all(|(ty, name)| *ty != ResourceType::Route || routes.subscribes(name))
    }

    fn differences_of(&self, ty: ResourceType, should: &TypeSet) -> Vec<Difference> {
        let state = self.state(ty);
        if !state.asked {
            return Vec::new();
        }
        let target = self.target.of_type(ty);
        let mut names: BTreeSet<Arc<str>> = state.names.iter().chain(state.behind.keys()).cloned().collect();
        if state.wildcard {
            names.extend(target.iter().chain(should.iter()).map(|resource| resource.name().clone()));
        }
        names.extend(state.in_flight.iter().flat_map(|entry| &entry.sent).map(|sent| sent.name.clone()));
        names.retain(|name| state.subscribes(name));
        let difference = |name: Arc<str>| {
            let (held, known) = self.held(ty, &name, target);
            let wanted = should.get(&name).filter(|resource| !resource.has_failed());
            let version = wanted.as_ref().map(|resource| resource.version());
            let is_same = match held {
                Held::Nothing => version.is_none(),
                Held::Version(held) => Some(held) == version,
                Held::Sent(_) | Held::Rejected(_) | Held::Unknown => false,
            };
            let origin = wanted.as_ref().and_then(|r| r.origin().cloned()).or_else(|| known?.origin().cloned());
            (!is_same).then_some(Difference { ty, name, held, should: version, origin })
        };
        names.into_iter().filter_map(difference).collect()
    }

    /// What the client holds under a name, and the resource that is, if it is known.
    fn held(&self, ty: ResourceType, name: &Arc<str>, target: &TypeSet) -> (Held, Option<Arc<Resource>>) {
        let state = self.state(ty);
        let version = |resource: &Option<Arc<Resource>>| resource.as_ref().map(|resource| resource.version());
        let mut on_its_way = state.in_flight.iter().rev().flat_map(|entry| &entry.sent);
        if let Some(sent) = on_its_way.find(|sent| sent.name == *name) {
            return (Held::Sent(version(&sent.resource)), sent.resource.clone());
        }
        match state.behind.get(name) {
            Some(Holds::Nothing) => (Held::Nothing, None),
            Some(Holds::Resource(resource)) => (Held::Version(resource.version()), Some(resource.clone())),
            Some(Holds::InDoubt(_)) => (Held::Unknown, None),
            Some(Holds::Rejected(_)) => {
                let rejected = target.get(name);
                (Held::Rejected(version(&rejected)), rejected)
            }
            None => match target.get(name) {
                Some(resource) if !resource.has_failed() => (Held::Version(resource.version()), Some(resource.clone())),
                Some(_) | None => (Held::Nothing, None),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
    use envoy_types::pb::google::rpc::Status;

    use super::super::Scope;
    use super::*;

    const CDS: ResourceType = ResourceType::Cluster;

    fn resource(ty: ResourceType, name: &str, version: u32) -> Resource {
        let message = Cluster { name: name.into(), ..Default::default() };
        let origin = Origin { file: "agent-creds.toml".into(), line: version };
        Resource::new(ty, name, Version::of(&version), &message).from_line(origin)
    }

    fn snapshot(resources: impl IntoIterator<Item = Resource>) -> Arc<Snapshot> {
        Arc::new(Snapshot::build(resources, None).unwrap())
    }

    fn request(ty: ResourceType, nonce: u64, error: Option<&str>) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: ty.type_url().into(),
            response_nonce: if nonce == 0 { String::new() } else { nonce.to_string() },
            error_detail: error.map(|message| Status { message: message.into(), ..Default::default() }),
            ..Default::default()
        }
    }

    fn shown(stream: &AdsStream, should: &Snapshot) -> Vec<(String, Held, Option<Version>, Option<u32>)> {
        let differences = stream.differences(should).into_iter();
        differences.map(|d| (d.name.to_string(), d.held, d.should, d.origin.map(|origin| origin.line))).collect()
    }

    #[test]
    fn every_kind_of_difference_is_told_with_its_line() {
        let version = |version: u32| Version::of(&version);
        let first = snapshot([resource(CDS, "same", 1), resource(CDS, "old", 2), resource(CDS, "gone", 3)]);
        let mut stream = AdsStream::new(Protocol::Delta, Scope::Aggregated, first.clone());
        assert_eq!(shown(&stream, &first), [], "nothing was asked for");
        stream.on_delta(request(CDS, 0, None)).unwrap();
        let sent = shown(&stream, &first);
        assert_eq!(sent.len(), 3);
        assert_eq!(sent[1], ("old".into(), Held::Sent(Some(version(2))), Some(version(2)), Some(2)));
        stream.on_delta(request(CDS, 1, None)).unwrap();
        assert_eq!(shown(&stream, &first), []);

        // Newer than the stream knows.
        let second = snapshot([resource(CDS, "same", 1), resource(CDS, "old", 4), resource(CDS, "new", 5)]);
        assert_eq!(
            shown(&stream, &second),
            [
                ("gone".into(), Held::Version(version(3)), None, Some(3)),
                ("new".into(), Held::Nothing, Some(version(5)), Some(5)),
                ("old".into(), Held::Version(version(2)), Some(version(4)), Some(4)),
            ]
        );
        stream.on_snapshot(second.clone());
        stream.on_delta(request(CDS, 2, Some("no"))).unwrap();
        let rejected = shown(&stream, &second);
        assert!(rejected.contains(&("new".into(), Held::Rejected(Some(version(5))), Some(version(5)), Some(5))));
        assert!(rejected.contains(&("old".into(), Held::Rejected(Some(version(4))), Some(version(4)), Some(4))));
        assert!(stream.rejection_stands(CDS) && !stream.rejection_stands(ResourceType::Route));
        stream.on_snapshot(snapshot([resource(CDS, "same", 1), resource(CDS, "old", 6), resource(CDS, "new", 5)]));
        assert!(!stream.rejection_stands(CDS), "it is being repaired");
    }

    #[test]
    fn routes_that_were_not_asked_for_are_missed() {
        let (lds, rds) = (ResourceType::Listener, ResourceType::Route);
        let target = snapshot([resource(lds, "l", 1).referring_to(rds, "r"), resource(rds, "r", 1)]);
        let mut stream = AdsStream::new(Protocol::Delta, Scope::Aggregated, target);
        assert!(stream.has_asked_for_routes(), "nor for listeners");
        stream.on_delta(request(lds, 0, None)).unwrap();
        assert!(!stream.has_asked_for_routes());
        let names = vec!["r".to_owned()];
        stream.on_delta(DeltaDiscoveryRequest { resource_names_subscribe: names, ..request(rds, 0, None) }).unwrap();
        assert!(stream.has_asked_for_routes());
    }
}
