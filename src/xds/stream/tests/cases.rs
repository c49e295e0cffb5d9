//! Cases that are about the server as a whole, as far as the machine is concerned.

use super::*;

#[test]
fn case_14_another_server_sends_the_same_versions() {
    let resources = [(CDS, "a", 1), (CDS, "b", 2), (Listener, "l", 1), (Route, "r", 3)];
    let mut reversed = resources;
    reversed.reverse();
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let versions = [resources, reversed].map(|resources| {
            let mut it = Harness::new(protocol, Scope::Aggregated, &snapshot(&resources));
            [(CDS, &["*"]), (Listener, &["*"]), (Route, &["r"])].map(|(ty, names)| {
                let output = match protocol {
                    Protocol::Delta => it.delta(ty, names, &[]),
                    Protocol::Sotw => it.sotw(ty, names, None, None),
                };
                let response = &output.responses[0];
                (response.version, response.resources.iter().map(|r| r.version()).collect::<Vec<_>>())
            })
        });
        assert_eq!(versions[0], versions[1]);
    }
}

#[test]
fn case_18_19_a_stream_of_its_own_needs_no_type_url() {
    for ty in ResourceType::ALL {
        let mut delta = Harness::new(Protocol::Delta, Scope::Single(ty), &snapshot(&[(ty, "a", 1)]));
        let names = owned(&["a"]);
        let request = DeltaDiscoveryRequest { resource_names_subscribe: names.clone(), ..Default::default() };
        assert_eq!(shorts(&delta.request(request)), [format!("{} a=1", ty.label())]);
        let mut sotw = Harness::new(Protocol::Sotw, Scope::Single(ty), &snapshot(&[(ty, "a", 1)]));
        let request = DiscoveryRequest { resource_names: names, ..Default::default() };
        assert_eq!(shorts(&sotw.stream.on_sotw(request).unwrap()), [format!("{} a=1", ty.label())]);
    }
}

#[test]
fn case_20_30_streams_of_one_node_know_nothing_of_each_other() {
    let (old, new) = (snapshot(&[(CDS, "a", 1)]), snapshot(&[(CDS, "a", 2)]));
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let mut streams = scopes(CDS).map(|scope| Harness::new(protocol, scope, &old));
        let first = streams.each_mut().map(|it| match protocol {
            Protocol::Delta => it.delta(CDS, &[], &[]),
            Protocol::Sotw => it.sotw(CDS, &[], None, None),
        });
        // One rejects, the other accepts: each gets what is its due.
        answer(&mut streams[0], &first[0], rejection());
        answer(&mut streams[1], &first[1], None);
        assert!(!streams[0].stream.is_converged(CDS) && streams[1].stream.is_converged(CDS));
        for it in &mut streams {
            assert_eq!(shorts(&it.update(&new)), ["cluster a=2"]);
        }
    }
}

#[test]
fn case_26_a_client_that_does_not_answer_costs_one_response_whatever_changes() {
    for scope in scopes(CDS) {
        for protocol in [Protocol::Delta, Protocol::Sotw] {
            let mut it = Harness::new(protocol, scope, &snapshot(&[(CDS, "a", 0)]));
            let first = match protocol {
                Protocol::Delta => it.delta(CDS, &[], &[]),
                Protocol::Sotw => it.sotw(CDS, &[], None, None),
            };
            answer(&mut it, &first, None);
            let push = it.update(&snapshot(&[(CDS, "a", 1)]));
            let mut names = Vec::new();
            for version in 2..=300 {
                names = vec![format!("n{version}"), "a".to_owned()];
                let target: Vec<_> = names.iter().map(|name| (CDS, name.as_str(), version)).collect();
                assert!(it.update(&snapshot(&target)).responses.is_empty());
            }
            let state = it.stream.state(CDS);
            assert_eq!((state.behind.len(), state.in_flight.len()), (2, 1), "the latest is all that is kept");
            let last = answer(&mut it, &push, None);
            assert_eq!(shorts(&last), [format!("cluster a=300 {}=300", names[0])]);
        }
    }
}

#[test]
fn case_29_nothing_is_repeated_to_say_that_it_is_still_there() {
    // No resource is sent with a TTL (the wire form has no place for one), so none needs a heartbeat: a client that is where it
    // should be hears nothing.
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let target = snapshot(&[(CDS, "c", 1), (Endpoint, "e", 1), (Listener, "l", 1), (Route, "r", 1)]);
        let mut it = settled(protocol, &target);
        for _ in 0..3 {
            assert!(it.update(&target).responses.is_empty());
            assert!(it.stream.end_resumption().responses.is_empty());
        }
    }
}

#[test]
fn case_31_sotw_a_full_set_is_never_split() {
    let resources = (0..10).map(|i| {
        let message = Cluster { alt_stat_name: "x".repeat(1 << 20), ..Default::default() };
        Resource::new(CDS, format!("c{i}"), Version::of(&i), &message)
    });
    let mut it = Harness::new(Protocol::Sotw, Scope::Aggregated, &build(resources));
    let output = it.sotw(CDS, &[], None, None);
    assert_eq!(output.responses.iter().map(|r| r.resources.len()).collect::<Vec<_>>(), [10]);
}

#[test]
fn case_31_delta_a_single_resource_that_is_too_large_travels_alone() {
    let resources = ["a", "b", "c"].map(|name| {
        let size = if name == "b" { 5 << 20 } else { 10 };
        let message = Cluster { alt_stat_name: "x".repeat(size), ..Default::default() };
        Resource::new(CDS, name, Version::of(&1), &message)
    });
    let mut it = Harness::new(Protocol::Delta, Scope::Aggregated, &build(resources));
    let output = it.delta(CDS, &[], &[]);
    assert_eq!(shorts(&output), ["cluster a=1", "cluster b=1", "cluster c=1"]);
}
