//! Properties of the machine, tried with the model client: whatever happens, it ends with what it should hold.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::model::{Acceptance, BROKEN, Client, NAMES, referred};
use super::*;

#[derive(Debug, Clone)]
enum Op {
    /// Sets versions of resources; 0 removes.
    Edit(Vec<(usize, usize, u32)>),
    Subscribe(usize, usize),
    Unsubscribe(usize, usize),
    /// The server reads a request.
    Serve,
    /// The client reads a response.
    Read,
    /// The client reads a response and rejects it, though it might take the same another time.
    Reject,
    Reconnect,
}

fn edit(versions: u32) -> impl Strategy<Value = Op> {
    let version = prop_oneof![1 => Just(0), 4 => 1..versions];
    prop::collection::vec((0..ResourceType::COUNT, 0..3_usize, version), 1..6).prop_map(Op::Edit)
}

/// Any schedule; `rejects`: with rejections at random.
fn ops(versions: u32, rejects: bool) -> impl Strategy<Value = Vec<Op>> {
    let ty = 0..ResourceType::COUNT;
    prop::collection::vec(
        prop_oneof![
            4 => edit(versions),
            3 => (ty.clone(), 0..NAMES.len()).prop_map(|(ty, name)| Op::Subscribe(ty, name)),
            2 => (ty, 0..NAMES.len()).prop_map(|(ty, name)| Op::Unsubscribe(ty, name)),
            8 => Just(Op::Serve),
            7 => Just(Op::Read),
            1 => Just(if rejects { Op::Reject } else { Op::Read }),
            1 => Just(Op::Reconnect),
        ],
        0..80,
    )
}

/// A schedule for a client that subscribes once and for all.
fn steady_ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(
        prop_oneof![4 => edit(BROKEN), 6 => Just(Op::Serve), 6 => Just(Op::Read), 1 => Just(Op::Reconnect)],
        0..80,
    )
}

fn acceptance() -> impl Strategy<Value = Acceptance> {
    prop_oneof![Just(Acceptance::Whole), Just(Acceptance::PerResource)]
}

fn step(client: &mut Client, op: &Op) {
    match op {
        Op::Edit(edits) => {
            for (ty, name, version) in edits {
                let key = (ResourceType::ALL[*ty], NAMES[*name]);
                if *version == 0 {
                    client.target.remove(&key);
                } else {
                    client.target.insert(key, *version);
                }
            }
            client.publish();
        }
        Op::Subscribe(ty, name) => client.subscribe(ResourceType::ALL[*ty], NAMES[*name]),
        Op::Unsubscribe(ty, name) => client.unsubscribe(ResourceType::ALL[*ty], NAMES[*name]),
        Op::Serve => {
            client.serve();
        }
        Op::Read => {
            client.read(false);
        }
        Op::Reject => {
            client.read(true);
        }
        Op::Reconnect => client.reconnect(),
    }
}

/// After everything is delivered: what the client accepts it holds, and nothing it should not.
fn check_settled(client: &Client) {
    let protocol = client.stream.protocol;
    let is_rejecting = ResourceType::ALL.into_iter().any(|ty| client.stream.is_rejecting(ty));
    for (ty, held) in &client.types {
        let wanted = client.wanted(*ty);
        let mut has = held.resources.clone();
        let can_say_gone = ty.is_full_set() || *ty == Endpoint && !held.names.contains("*");
        if client.is_sotw() && !can_say_gone {
            // This variant has no way to say that these are gone; to a client that comes back with everything, not even endpoints.
            has.retain(|name, _| wanted.contains_key(name));
        }
        if !client.wants_broken(*ty) {
            assert!(!client.stream.is_rejecting(*ty), "{ty:?} {protocol:?}: rejected, and not sent again");
        }
        if is_rejecting {
            // Removals wait.
            has.retain(|name, _| wanted.contains_key(name));
        } else {
            assert!(client.stream.is_converged(*ty), "{ty:?} {protocol:?}");
        }
        if client.stream.is_converged(*ty) || !client.stream.is_rejecting(*ty) {
            assert_eq!(has, wanted, "{ty:?} {protocol:?}");
        }
    }
}

/// A client that takes the good parts of what it rejects holds them all.
fn check_good_parts(client: &Client) {
    for (ty, held) in &client.types {
        for (name, version) in client.wanted(*ty).into_iter().filter(|(_, version)| *version < BROKEN) {
            assert_eq!(held.resources.get(&name), Some(&version), "{ty:?} {name} {:?}", client.stream.protocol);
        }
    }
}

/// Afterwards an unchanged snapshot costs nothing.
fn check_idle(client: &mut Client) {
    client.publish();
    assert!(!client.read(false), "something is sent though nothing changed");
}

/// Runs a schedule in which what is broken stays broken.
fn run(mut client: Client, ops: &[Op], acceptance: Acceptance) {
    for op in ops {
        step(&mut client, op);
    }
    client.settle();
    check_settled(&client);
    if acceptance == Acceptance::PerResource {
        check_good_parts(&client);
    }
    check_idle(&mut client);
    // The repair.
    client.target.values_mut().filter(|version| **version >= BROKEN).for_each(|version| *version = 1);
    client.publish();
    client.settle();
    check_settled(&client);
    assert!(ResourceType::ALL.into_iter().all(|ty| client.stream.is_converged(ty)));
    check_idle(&mut client);
}

/// Runs a schedule in which the client has its moods.
fn run_moody(mut client: Client, ops: &[Op]) {
    for op in ops {
        step(&mut client, op);
    }
    client.settle();
    if client.has_rejected_at_random {
        // What was rejected is repaired: everything changes, and back.
        let last = client.target.clone();
        for ty in ResourceType::ALL {
            client.target.extend(NAMES[..3].iter().map(|name| ((ty, *name), BROKEN - 1)));
        }
        client.publish();
        client.settle();
        client.target = last;
        client.publish();
        client.settle();
    }
    check_settled(&client);
    check_idle(&mut client);
}

/// What a steady client should hold has no reference to a cluster that is not there.
fn make_consistent(client: &mut Client) {
    let versions = client.target.iter().filter(|((ty, _), _)| matches!(*ty, Listener | Route));
    let clusters: Vec<_> = versions.map(|(_, version)| (CDS, referred(*version))).collect();
    for cluster in clusters {
        client.target.entry(cluster).or_insert(1);
    }
}

/// Whatever the client holds refers only to clusters that it holds as well.
fn check_references(client: &Client) {
    let clusters = &client.types[&CDS].resources;
    for ty in [Listener, Route] {
        let empty = BTreeMap::new();
        let held = client.types.get(&ty).map_or(&empty, |held| &held.resources);
        for (name, version) in held {
            assert!(
                clusters.contains_key(referred(*version)),
                "{ty:?} {name}={version} without its cluster: {clusters:?}"
            );
        }
    }
}

fn run_steady(protocol: Protocol, ops: &[Op]) {
    let mut client = Client::new(protocol, Scope::Aggregated, Acceptance::Whole, true);
    for (ty, name) in [(CDS, "*"), (Endpoint, "a"), (Listener, "*"), (Route, "a"), (Route, "b"), (Secret, "a")] {
        client.subscribe(ty, name);
    }
    for op in ops {
        if let Op::Edit(edits) = op {
            for (ty, name, version) in edits {
                let key = (ResourceType::ALL[*ty], NAMES[*name]);
                match version {
                    // State of the world does not say that a route is gone: its client would have it for ever.
                    0 if protocol == Protocol::Sotw && key.0 == Route => None,
                    0 => client.target.remove(&key),
                    version => client.target.insert(key, *version),
                };
            }
            make_consistent(&mut client);
            client.publish();
        } else if !(matches!(op, Op::Reconnect) && protocol == Protocol::Sotw) {
            // State of the world does not say what a client that comes back holds: there is nothing to be kept for it.
            step(&mut client, op);
        }
        check_references(&client);
    }
    let mut steps = 0;
    loop {
        while client.serve() {}
        if !client.read(false) {
            break;
        }
        check_references(&client);
        steps += 1;
        assert!(steps < 100, "the exchange does not end");
    }
    client.settle();
    check_settled(&client);
    check_references(&client);
}

fn config() -> ProptestConfig {
    let given = ProptestConfig::default();
    ProptestConfig { cases: given.cases.max(400), ..given }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_delta_client_ends_with_what_it_accepts(ops in ops(BROKEN + 2, false), acceptance in acceptance()) {
        run(Client::new(Protocol::Delta, Scope::Aggregated, acceptance, false), &ops, acceptance);
    }

    #[test]
    fn a_sotw_client_ends_with_what_it_accepts(ops in ops(BROKEN + 2, false), acceptance in acceptance()) {
        run(Client::new(Protocol::Sotw, Scope::Aggregated, acceptance, false), &ops, acceptance);
    }

    #[test]
    fn a_client_of_one_type_ends_with_what_it_accepts(
        ops in ops(BROKEN + 2, false),
        acceptance in acceptance(),
        ty in 0..ResourceType::COUNT,
    ) {
        for protocol in [Protocol::Delta, Protocol::Sotw] {
            run(Client::new(protocol, Scope::Single(ResourceType::ALL[ty]), acceptance, false), &ops, acceptance);
        }
    }

    #[test]
    fn a_client_that_rejects_at_random_ends_with_the_last_snapshot(
        ops in ops(BROKEN - 1, true),
        acceptance in acceptance(),
        ty in 0..ResourceType::COUNT,
    ) {
        for protocol in [Protocol::Delta, Protocol::Sotw] {
            for scope in [Scope::Aggregated, Scope::Single(ResourceType::ALL[ty])] {
                run_moody(Client::new(protocol, scope, acceptance, false), &ops);
            }
        }
    }

    #[test]
    fn a_delta_client_that_accepts_everything_never_holds_a_dangling_reference(ops in steady_ops()) {
        run_steady(Protocol::Delta, &ops);
    }

    #[test]
    fn a_sotw_client_that_accepts_everything_never_holds_a_dangling_reference(ops in steady_ops()) {
        run_steady(Protocol::Sotw, &ops);
    }
}
