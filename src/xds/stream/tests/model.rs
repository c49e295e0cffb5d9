//! A client for the properties to try the machine with: it holds what it accepts, rejects what is broken, and its requests
//! and the responses to them cross on the wire.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;

/// The names resources have, and the wildcard.
pub(super) const NAMES: [&str; 4] = ["a", "b", "c", "*"];
/// Resources of this version and later ones are rejected.
pub(super) const BROKEN: u32 = 6;

/// What should be held: versions by type and name.
pub(super) type Target = BTreeMap<(ResourceType, &'static str), u32>;

/// The cluster that a route or listener of this version refers to, in the properties that are about references.
pub(super) fn referred(version: u32) -> &'static str {
    NAMES[version as usize % 3]
}

/// A snapshot of `target`. Clusters refer to the endpoints of their name; `has_references`: routes and listeners to
/// clusters.
pub(super) fn snapshot_of(target: &Target, has_references: bool, previous: &Snapshot) -> Arc<Snapshot> {
    let resources = target.iter().map(|((ty, name), version)| {
        let made = resource(*ty, name, *version);
        match ty {
            ResourceType::Cluster if target.contains_key(&(Endpoint, name)) => made.referring_to(Endpoint, *name),
            Listener | Route if has_references => made.referring_to(CDS, referred(*version)),
            _ => made,
        }
    });
    Arc::new(Snapshot::build(resources, Some(previous)).unwrap())
}

/// What becomes of a response with something in it that the client rejects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acceptance {
    /// None of it is taken.
    Whole,
    /// The good parts are taken, as Envoy does.
    PerResource,
}

/// One type at the client.
#[derive(Debug, Default)]
pub(super) struct Held {
    asked: bool,
    pub(super) names: BTreeSet<&'static str>,
    pub(super) resources: BTreeMap<String, u32>,
    /// Versions of what was accepted with its whole response; what a reconnecting delta client lists.
    accepted: BTreeMap<String, u32>,
    /// The version of the last response accepted as a whole, if nothing else was taken since: what a reconnecting
    /// state-of-the-world client says.
    version: String,
    /// The last response seen.
    nonce: String,
}

impl Held {
    pub(super) fn wants(&self, name: &str) -> bool {
        self.names.contains("*") || self.names.contains(name)
    }
}

#[derive(Debug, Clone)]
enum Request {
    Delta(DeltaDiscoveryRequest),
    Sotw(DiscoveryRequest),
}

impl Request {
    fn type_url(&self) -> &str {
        match self {
            Self::Delta(request) => &request.type_url,
            Self::Sotw(request) => &request.type_url,
        }
    }
}

/// A client, the machine that serves it, and what is on its way between them.
pub(super) struct Client {
    pub(super) stream: AdsStream,
    scope: Scope,
    acceptance: Acceptance,
    has_references: bool,
    pub(super) types: BTreeMap<ResourceType, Held>,
    responses: VecDeque<Response>,
    requests: VecDeque<Request>,
    pub(super) target: Target,
    /// It has rejected what it would take another time.
    pub(super) has_rejected_at_random: bool,
}

impl Client {
    pub(super) fn new(protocol: Protocol, scope: Scope, acceptance: Acceptance, has_references: bool) -> Self {
        Self {
            stream: AdsStream::new(protocol, scope, Snapshot::empty()),
            scope,
            acceptance,
            has_references,
            types: BTreeMap::new(),
            responses: VecDeque::new(),
            requests: VecDeque::new(),
            target: Target::new(),
            has_rejected_at_random: false,
        }
    }

    pub(super) fn is_sotw(&self) -> bool {
        self.stream.protocol == Protocol::Sotw
    }

    fn serves(&self, ty: ResourceType) -> bool {
        self.scope == Scope::Aggregated || self.scope == Scope::Single(ty)
    }

    fn take(&mut self, output: Output) {
        for response in &output.responses {
            let state = self.stream.state(response.ty);
            let mut seen = BTreeSet::new();
            for name in response.resources.iter().map(|r| r.name()).chain(&response.removed) {
                assert!(seen.insert(name.clone()), "twice in {}", short(response));
                assert!(state.subscribes(name), "not asked for in {}", short(response));
            }
        }
        for state in &self.stream.types {
            assert!(state.in_flight.iter().filter(|entry| entry.is_push).count() <= 1);
            assert!(state.in_flight.is_sorted_by_key(|entry| entry.nonce));
        }
        self.responses.extend(output.responses);
    }

    /// Makes `target` what should be held.
    pub(super) fn publish(&mut self) {
        let snapshot = snapshot_of(&self.target, self.has_references, &self.stream.target.clone());
        let output = self.stream.on_snapshot(snapshot);
        self.take(output);
    }

    fn request(&mut self, ty: ResourceType, plus: &[&str], minus: &[&str], verdict: Option<Option<Status>>) {
        let is_sotw = self.is_sotw();
        let held = self.types.entry(ty).or_default();
        held.asked = true;
        let (is_answer, error_detail) = (verdict.is_some(), verdict.flatten());
        let request = if is_sotw {
            Request::Sotw(DiscoveryRequest {
                type_url: ty.type_url().into(),
                resource_names: held.names.iter().map(|name| (*name).to_owned()).collect(),
                response_nonce: held.nonce.clone(),
                version_info: held.version.clone(),
                error_detail,
                ..Default::default()
            })
        } else {
            Request::Delta(DeltaDiscoveryRequest {
                type_url: ty.type_url().into(),
                resource_names_subscribe: owned(plus),
                resource_names_unsubscribe: owned(minus),
                response_nonce: if is_answer { held.nonce.clone() } else { String::new() },
                error_detail,
                ..Default::default()
            })
        };
        self.requests.push_back(request);
    }

    pub(super) fn subscribe(&mut self, ty: ResourceType, name: &'static str) {
        if self.serves(ty) {
            self.types.entry(ty).or_default().names.insert(name);
            self.request(ty, &[name], &[], None);
        }
    }

    pub(super) fn unsubscribe(&mut self, ty: ResourceType, name: &'static str) {
        // State of the world ignores a request that crosses a response, so a name dropped and wanted again meanwhile was never
        // dropped to the server: that client must not throw away what it has while anything is on its way.
        let crosses = self.is_sotw()
            && (self.responses.iter().any(|response| response.ty == ty)
                || self.requests.iter().any(|request| request.type_url() == ty.type_url()));
        let Some(held) = self.types.get_mut(&ty).filter(|held| held.asked && !crosses) else { return };
        if !held.names.remove(name) {
            return;
        }
        let names = &held.names;
        let is_kept = |other: &str| other != name && (names.contains("*") || names.contains(other));
        held.resources.retain(|name, _| is_kept(name));
        held.accepted.retain(|name, _| is_kept(name));
        held.version.clear();
        self.request(ty, &[], &[name], None);
    }

    /// The server reads the oldest request on its way; whether there was one.
    pub(super) fn serve(&mut self) -> bool {
        let Some(request) = self.requests.pop_front() else { return false };
        let output = match request {
            Request::Delta(request) => self.stream.on_delta(request),
            Request::Sotw(request) => self.stream.on_sotw(request),
        };
        self.take(output.unwrap());
        true
    }

    /// The client reads the oldest response on its way and answers it; whether there was one. `at_random`: it rejects it
    /// whatever it says.
    pub(super) fn read(&mut self, at_random: bool) -> bool {
        let Some(response) = self.responses.pop_front() else { return false };
        let (ty, is_sotw) = (response.ty, self.is_sotw());
        let replaces = is_sotw && ty.is_full_set();
        let is_broken = |resource: &Resource| (BROKEN..1000).contains(&number(resource.version()));
        let is_rejected = at_random || response.resources.iter().any(|resource| is_broken(resource));
        self.has_rejected_at_random |= at_random;
        let takes_parts = self.acceptance == Acceptance::PerResource;
        let held = self.types.get_mut(&ty).unwrap();
        held.nonce = response.nonce.to_string();
        if !is_rejected || takes_parts {
            if replaces {
                let is_there = |name: &str| response.resources.iter().any(|resource| &**resource.name() == name);
                held.resources.retain(|name, _| is_there(name));
                held.accepted.retain(|name, _| is_there(name));
            }
            for name in &response.removed {
                held.resources.remove(&**name);
                held.accepted.remove(&**name);
            }
            for resource in response.resources.iter().filter(|resource| !is_broken(resource)) {
                let (name, version) = (resource.name().to_string(), number(resource.version()));
                if version == 1000 {
                    held.resources.remove(&name);
                } else if held.wants(&name) {
                    held.resources.insert(name.clone(), version);
                    if is_rejected {
                        held.accepted.remove(&name);
                    } else {
                        held.accepted.insert(name, version);
                    }
                }
            }
            held.version = if is_rejected { String::new() } else { response.version.to_string() };
        }
        let error = is_rejected.then(|| rejection().unwrap());
        self.request(ty, &[], &[], Some(error));
        true
    }

    /// The connection breaks, and the client comes back with what it holds.
    pub(super) fn reconnect(&mut self) {
        self.responses.clear();
        self.requests.clear();
        self.stream = AdsStream::new(self.stream.protocol, self.scope, self.stream.target.clone());
        let is_sotw = self.is_sotw();
        for ty in ResourceType::ALL {
            let Some(held) = self.types.get_mut(&ty).filter(|held| held.asked) else { continue };
            held.nonce.clear();
            // What it took of a response that it rejected it cannot say, so it had better not keep it.
            let accepted = &held.accepted;
            held.resources.retain(|name, _| accepted.contains_key(name));
            if is_sotw {
                if held.names.is_empty() {
                    // An empty list would now mean everything.
                    held.asked = false;
                    continue;
                }
                self.request(ty, &[], &[], None);
            } else {
                let names: Vec<_> = held.names.iter().copied().collect();
                let versions = held.accepted.iter();
                let versions =
                    versions.map(|(name, version)| (name.clone(), Version::of(version).to_string())).collect();
                if names.is_empty() {
                    held.asked = false;
                    continue;
                }
                self.request(ty, &names, &[], None);
                if let Some(Request::Delta(request)) = self.requests.back_mut() {
                    request.initial_resource_versions = versions;
                }
            }
        }
    }

    /// Delivers everything that is on its way, and what comes of it.
    pub(super) fn settle(&mut self) {
        let mut steps = 0;
        loop {
            while self.serve() {}
            if !self.read(false) {
                break;
            }
            steps += 1;
            assert!(steps < 300, "the exchange does not end");
        }
        // The session's timer.
        let output = self.stream.end_resumption();
        if !output.responses.is_empty() {
            self.take(output);
            self.settle();
        }
    }

    /// What the client should hold of one type.
    pub(super) fn wanted(&self, ty: ResourceType) -> BTreeMap<String, u32> {
        let held = &self.types[&ty];
        let target = self.target.iter().filter(|((other, name), _)| *other == ty && held.wants(name));
        target.map(|((_, name), version)| ((*name).to_owned(), *version)).collect()
    }

    /// Whether a broken resource should be held.
    pub(super) fn wants_broken(&self, ty: ResourceType) -> bool {
        self.wanted(ty).values().any(|version| *version >= BROKEN)
    }
}
