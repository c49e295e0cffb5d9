//! A model client: whatever happens, once everything is delivered and accepted it holds what it should.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 4] = ["a", "b", "c", "*"];

#[derive(Debug, Clone)]
enum Op {
    /// Sets versions of resources; 0 removes.
    Edit(Vec<(usize, usize, u32)>),
    Subscribe(usize, usize),
    Unsubscribe(usize, usize),
    Ack,
    /// The flag: the client takes part of the response all the same.
    Nack(bool),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let ty = 0..ResourceType::COUNT;
    let edit = (ty.clone(), 0..3_usize, 0..4_u32);
    prop::collection::vec(
        prop_oneof![
            3 => prop::collection::vec(edit, 1..6).prop_map(Op::Edit),
            3 => (ty.clone(), 0..NAMES.len()).prop_map(|(ty, name)| Op::Subscribe(ty, name)),
            2 => (ty, 0..NAMES.len()).prop_map(|(ty, name)| Op::Unsubscribe(ty, name)),
            6 => Just(Op::Ack),
            1 => any::<bool>().prop_map(Op::Nack),
        ],
        0..60,
    )
}

type Target = BTreeMap<(ResourceType, &'static str), u32>;

fn snapshot_of(target: &Target, previous: &Snapshot) -> Arc<Snapshot> {
    let resources = target.iter().map(|((ty, name), version)| {
        let made = resource(*ty, name, *version);
        let has_endpoints = *ty == CDS && target.contains_key(&(Endpoint, name));
        if has_endpoints { made.referring_to(Endpoint, *name) } else { made }
    });
    Arc::new(Snapshot::build(resources, Some(previous)).unwrap())
}

#[derive(Default)]
struct Held {
    asked: bool,
    names: BTreeSet<&'static str>,
    resources: BTreeMap<String, u32>,
    /// The last response seen; answered when it was seen.
    nonce: String,
}

impl Held {
    fn wants(&self, name: &str) -> bool {
        self.names.contains("*") || self.names.contains(name)
    }
}

struct Client {
    stream: AdsStream,
    scope: Scope,
    types: BTreeMap<ResourceType, Held>,
    queue: VecDeque<Response>,
    target: Target,
    has_rejected: bool,
}

impl Client {
    fn new(protocol: Protocol, scope: Scope) -> Self {
        Self {
            stream: AdsStream::new(protocol, scope, Snapshot::empty()),
            scope,
            types: BTreeMap::new(),
            queue: VecDeque::new(),
            target: Target::new(),
            has_rejected: false,
        }
    }

    fn take(&mut self, output: Output) {
        for response in &output.responses {
            let named = response.resources.iter().map(|r| r.name()).chain(&response.removed);
            let mut seen = BTreeSet::new();
            assert!(named.into_iter().all(|name| seen.insert(name.clone())), "twice in {}", short(response));
        }
        for state in &self.stream.types {
            assert!(state.in_flight.iter().filter(|entry| entry.is_push).count() <= 1);
        }
        self.queue.extend(output.responses);
    }

    fn publish(&mut self) {
        let snapshot = snapshot_of(&self.target, &self.stream.target.clone());
        let output = self.stream.on_snapshot(snapshot);
        self.take(output);
    }

    fn ask(&mut self, ty: ResourceType, plus: &[&str], minus: &[&str], error: Option<Status>, is_answer: bool) {
        let held = self.types.entry(ty).or_default();
        held.asked = true;
        let output = match self.stream.protocol {
            Protocol::Delta => self.stream.on_delta(DeltaDiscoveryRequest {
                type_url: ty.type_url().into(),
                resource_names_subscribe: owned(plus),
                resource_names_unsubscribe: owned(minus),
                response_nonce: if is_answer { held.nonce.clone() } else { String::new() },
                error_detail: error,
                ..Default::default()
            }),
            Protocol::Sotw => self.stream.on_sotw(DiscoveryRequest {
                type_url: ty.type_url().into(),
                resource_names: held.names.iter().map(|name| (*name).to_owned()).collect(),
                response_nonce: held.nonce.clone(),
                error_detail: error,
                ..Default::default()
            }),
        };
        self.take(output.unwrap());
    }

    fn serves(&self, ty: ResourceType) -> bool {
        self.scope == Scope::Aggregated || self.scope == Scope::Single(ty)
    }

    fn subscribe(&mut self, ty: ResourceType, name: &'static str) {
        if self.serves(ty) {
            self.types.entry(ty).or_default().names.insert(name);
            self.ask(ty, &[name], &[], None, false);
        }
    }

    fn unsubscribe(&mut self, ty: ResourceType, name: &'static str) {
        // State of the world ignores a request that crosses a response, so a name dropped and wanted again meanwhile was never
        // dropped to the server: that client must not throw away what it has while responses are on their way.
        let crosses = self.stream.protocol == Protocol::Sotw && self.queue.iter().any(|response| response.ty == ty);
        let Some(held) = self.types.get_mut(&ty).filter(|held| held.asked && !crosses) else { return };
        if !held.names.remove(name) {
            return;
        }
        held.resources.remove(name);
        let names = &held.names;
        held.resources.retain(|name, _| names.contains("*") || names.contains(name.as_str()));
        self.ask(ty, &[], &[name], None, false);
    }

    /// Takes the oldest response on its way and answers it; whether there was one.
    fn deliver(&mut self, rejected: Option<bool>) -> bool {
        let Some(response) = self.queue.pop_front() else { return false };
        let ty = response.ty;
        let held = self.types.get_mut(&ty).unwrap();
        held.nonce = response.nonce.to_string();
        let replaces = self.stream.protocol == Protocol::Sotw && ty.is_full_set();
        let taken = match rejected {
            None => response.resources.len(),
            Some(true) => response.resources.len() / 2,
            Some(false) => 0,
        };
        if replaces && rejected.is_none() {
            held.resources.clear();
        }
        for resource in &response.resources[..taken] {
            let version = number(resource.version());
            if version == 1000 {
                held.resources.remove(&**resource.name());
            } else if held.wants(resource.name()) {
                held.resources.insert(resource.name().to_string(), version);
            }
        }
        if rejected.is_none() {
            for name in &response.removed {
                held.resources.remove(&**name);
            }
        }
        self.has_rejected |= rejected.is_some();
        self.ask(ty, &[], &[], rejected.and_then(|_| rejection()), true);
        true
    }

    fn settle_and_compare(&mut self) {
        let mut steps = 0;
        while self.deliver(None) {
            steps += 1;
            assert!(steps < 1000, "the exchange does not end");
        }
        for (ty, held) in &self.types {
            let wanted: BTreeMap<_, _> = self
                .target
                .iter()
                .filter(|((other, name), _)| other == ty && held.wants(name))
                .map(|((_, name), version)| ((*name).to_owned(), *version))
                .collect();
            let mut has = held.resources.clone();
            if self.stream.protocol == Protocol::Sotw && matches!(ty, Route | Secret) {
                // This variant has no way to say that these are gone.
                has.retain(|name, _| wanted.contains_key(name));
            }
            assert_eq!(has, wanted, "{ty:?} {:?} {:?}", self.stream.protocol, self.scope);
            assert!(self.stream.is_converged(*ty), "{ty:?}");
        }
    }

    fn run(mut self, ops: &[Op]) {
        for op in ops {
            match op {
                Op::Edit(edits) => {
                    for (ty, name, version) in edits {
                        let key = (ResourceType::ALL[*ty], NAMES[*name]);
                        if *version == 0 {
                            self.target.remove(&key)
                        } else {
                            self.target.insert(key, *version)
                        };
                    }
                    self.publish();
                }
                Op::Subscribe(ty, name) => self.subscribe(ResourceType::ALL[*ty], NAMES[*name]),
                Op::Unsubscribe(ty, name) => self.unsubscribe(ResourceType::ALL[*ty], NAMES[*name]),
                Op::Ack => {
                    self.deliver(None);
                }
                Op::Nack(partly) => {
                    self.deliver(Some(*partly));
                }
            }
        }
        if self.has_rejected {
            // What was rejected is repaired: everything changes, and back.
            while self.deliver(None) {}
            let last = self.target.clone();
            for ty in ResourceType::ALL {
                self.target.extend(NAMES[..3].iter().map(|name| ((ty, *name), 50)));
            }
            self.publish();
            self.settle_and_compare();
            self.target = last;
            self.publish();
        }
        self.settle_and_compare();
        self.check_idle();
    }

    /// Afterwards an unchanged snapshot costs nothing.
    fn check_idle(&mut self) {
        self.publish();
        assert!(self.queue.is_empty());
    }
}

fn config() -> ProptestConfig {
    let given = ProptestConfig::default();
    ProptestConfig { cases: given.cases.max(400), ..given }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_delta_client_ends_with_the_last_snapshot(ops in ops()) {
        Client::new(Protocol::Delta, Scope::Aggregated).run(&ops);
    }

    #[test]
    fn a_sotw_client_ends_with_the_last_snapshot(ops in ops()) {
        Client::new(Protocol::Sotw, Scope::Aggregated).run(&ops);
    }

    #[test]
    fn a_client_of_one_type_ends_with_the_last_snapshot(ops in ops(), ty in 0..ResourceType::COUNT) {
        Client::new(Protocol::Delta, Scope::Single(ResourceType::ALL[ty])).run(&ops);
        Client::new(Protocol::Sotw, Scope::Single(ResourceType::ALL[ty])).run(&ops);
    }
}
