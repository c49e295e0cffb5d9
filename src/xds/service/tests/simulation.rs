//! The whole service with clients that exist in memory only: no socket, no task, no clock. A schedule says who does what next;
//! whatever it is, everybody ends on the last good configuration, and nothing is left behind.

mod client;

use std::collections::BTreeMap;
use std::sync::Weak;

use proptest::prelude::*;

use self::client::{Acceptance, VirtualClient};
use super::*;

/// The most a client may be sent for one change: every type once, and once more for removals, with room for what crosses.
const MOST_PER_CHANGE: usize = 20;
/// Resources of this version and later ones are rejected.
const BROKEN: u32 = 6;
const NAMES: [&str; 3] = ["a", "b", "c"];
const CLIENTS: usize = 4;

#[derive(Debug, Clone)]
enum Op {
    /// Sets versions of resources; 0 removes.
    Edit(Vec<(usize, usize, u32)>),
    /// A client reads and answers what there is for it.
    Turn(usize),
    /// A client reads without answering.
    ReadOnly(usize),
    /// A client answers what it has read.
    Answer(usize),
    Subscribe(usize, usize),
    Disconnect(usize),
    Connect(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let client = 0..CLIENTS;
    let version = prop_oneof![1 => Just(0), 5 => 1..BROKEN + 1];
    let edit = prop::collection::vec((0..ResourceType::COUNT, 0..NAMES.len(), version), 1..5);
    prop::collection::vec(
        prop_oneof![
            4 => edit.prop_map(Op::Edit),
            6 => client.clone().prop_map(Op::Turn),
            3 => client.clone().prop_map(Op::ReadOnly),
            3 => client.clone().prop_map(Op::Answer),
            1 => (client.clone(), 0..NAMES.len()).prop_map(|(client, name)| Op::Subscribe(client, name)),
            1 => client.clone().prop_map(Op::Disconnect),
            2 => client.prop_map(Op::Connect),
        ],
        0..60,
    )
}

/// The service, its configuration and its clients.
struct World {
    service: XdsService,
    routes: Routes,
    fleet: watch::Sender<Arc<Fleet>>,
    target: BTreeMap<(ResourceType, &'static str), u32>,
    snapshots: Vec<Weak<Snapshot>>,
    clients: Vec<VirtualClient>,
    registry: prometheus::Registry,
}

impl World {
    fn new(acceptance: Acceptance) -> Self {
        let (fleet, receiver) = watch::channel(Arc::new(Fleet::default()));
        let registry = prometheus::Registry::new();
        let metrics = XdsMetrics::register(&registry).unwrap();
        let service = XdsService::new(receiver, "simulated", metrics);
        let routes = service.clone().add_to(Routes::default());
        let protocols = [Protocol::Delta, Protocol::Delta, Protocol::Sotw, Protocol::Sotw];
        let clients = protocols.map(|protocol| VirtualClient::new(protocol, acceptance)).into();
        Self { service, routes, fleet, target: BTreeMap::new(), snapshots: Vec::new(), clients, registry }
    }

    fn publish(&mut self) {
        let old = self.fleet.borrow().clone();
        let resources = self.target.iter().map(|((ty, name), version)| client::resource(*ty, name, *version));
        let everything = Arc::new(Snapshot::build(resources, Some(&old.everything)).unwrap());
        self.snapshots.push(Arc::downgrade(&everything));
        let generation = old.generation + 1;
        self.fleet.send_replace(Arc::new(Fleet { everything, generation, ..Default::default() }));
        for client in &mut self.clients {
            client.allowance += MOST_PER_CHANGE;
        }
    }

    async fn step(&mut self, op: &Op) {
        match op {
            Op::Edit(edits) => {
                for (ty, name, version) in edits {
                    let key = (ResourceType::ALL[*ty], NAMES[*name]);
                    match version {
                        0 => self.target.remove(&key),
                        version => self.target.insert(key, *version),
                    };
                }
                self.publish();
            }
            Op::Turn(client) => {
                self.clients[*client].read();
                self.clients[*client].answer();
            }
            Op::ReadOnly(client) => {
                self.clients[*client].read();
            }
            Op::Answer(client) => {
                self.clients[*client].answer();
            }
            Op::Subscribe(client, name) => self.clients[*client].subscribe(NAMES[*name]),
            Op::Disconnect(client) => self.clients[*client].disconnect(),
            Op::Connect(client) => self.clients[*client].connect(&self.routes).await,
        }
    }

    /// Lets everybody read and answer until there is nothing more.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 200, "the exchange does not end");
            let mut is_quiet = true;
            for client in &mut self.clients {
                is_quiet &= !client.read();
                is_quiet &= !client.answer();
            }
            if is_quiet {
                return;
            }
        }
    }

    fn check(&self, is_good: bool) {
        let nodes = self.service.connections().nodes();
        let connected = self.clients.iter().filter(|client| client.is_connected()).count();
        assert_eq!(nodes.len(), connected);
        for node in &nodes {
            assert_eq!(node.generation, self.fleet.borrow().generation);
            assert!(!is_good || node.converged, "{node:#?}");
            for ty in &node.types {
                assert!(!is_good || ty.rejection.is_none(), "{node:#?}");
                assert!(ty.acked + ty.nacked <= ty.sent, "{node:#?}");
            }
        }
        for client in self.clients.iter().filter(|client| client.is_connected()) {
            client.check(&self.target, is_good);
        }
        // Nobody holds on to what is superseded.
        if is_good {
            let alive = self.snapshots.iter().filter(|snapshot| snapshot.strong_count() > 0).count();
            assert_eq!(alive, 1, "of {} snapshots", self.snapshots.len());
        }
    }

    async fn run(mut self, ops: &[Op]) {
        self.publish();
        for op in ops {
            self.step(op).await;
        }
        for index in 0..CLIENTS {
            self.step(&Op::Connect(index)).await;
        }
        self.publish();
        self.settle();
        self.check(self.target.values().all(|version| *version < BROKEN));

        // The repair.
        self.target.values_mut().filter(|version| **version >= BROKEN).for_each(|version| *version = 1);
        self.publish();
        self.settle();
        self.check(true);

        for client in &mut self.clients {
            client.disconnect();
        }
        assert!(self.service.connections().nodes().is_empty());
        let last = self.fleet.borrow().everything.clone();
        self.fleet.send_replace(Arc::default());
        assert_eq!(Arc::strong_count(&last), 1, "somebody still holds the snapshot");
        for resource in ResourceType::ALL.into_iter().flat_map(|ty| last.of_type(ty).iter()) {
            assert_eq!(Arc::strong_count(resource), 1, "somebody still holds {resource:?}");
        }
        let families = self.registry.gather();
        let streams = families.iter().filter(|family| family.name().contains("streams")).flat_map(|f| f.get_metric());
        assert!(streams.map(|metric| metric.get_gauge().get_value()).all(|streams| streams == 0.0));
    }
}

fn config() -> ProptestConfig {
    let given = ProptestConfig::default();
    ProptestConfig { cases: given.cases.clamp(64, 3000), ..given }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn everybody_ends_on_the_last_good_configuration(ops in ops(), takes_parts: bool) {
        let acceptance = if takes_parts { Acceptance::PerResource } else { Acceptance::Whole };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(World::new(acceptance).run(&ops));
    }
}
