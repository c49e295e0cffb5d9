//! Make before break, and what else concerns several types at once.

use super::*;

fn first() -> Arc<Snapshot> {
    snapshot(&[(CDS, "old", 1), (Endpoint, "e", 1), (Listener, "l", 1), (Route, "r", 1)])
}

fn second() -> Arc<Snapshot> {
    snapshot(&[(CDS, "new", 1), (Endpoint, "e", 2), (Listener, "m", 1), (Route, "r", 2)])
}

#[test]
fn case_21_delta_make_before_break() {
    let mut it = settled(Protocol::Delta, &first());
    let output = it.update(&second());
    let expected = ["cluster new=1", "endpoint e=2", "listener m=1 -l", "route r=2", "cluster -old"];
    assert_eq!(run(&mut it, output), expected);
}

#[test]
fn case_21_sotw_make_before_break() {
    let mut it = settled(Protocol::Sotw, &first());
    let output = it.update(&second());
    let expected = ["cluster new=1 old=1", "endpoint e=2", "listener m=1", "route r=2", "cluster new=1"];
    assert_eq!(run(&mut it, output), expected);
}

#[test]
fn case_21_types_that_are_not_asked_for_hold_nothing_up() {
    let mut it = Harness::new(Protocol::Delta, Scope::Aggregated, &first());
    let output = it.delta(Route, &["r"], &[]);
    it.answer_delta(&output, None);
    assert_eq!(shorts(&it.update(&second())), ["route r=2"]);
}

#[test]
fn case_21_an_answer_is_never_held_back() {
    let mut it = settled(Protocol::Delta, &first());
    it.update(&second());
    assert_eq!(shorts(&it.delta(Route, &["r"], &[])), ["route r=2"]);
}

/// Clusters and a route to the last of them.
fn routed(clusters: &[&str], route: &str) -> Arc<Snapshot> {
    let mut resources: Vec<_> = clusters.iter().map(|name| resource(CDS, name, 1)).collect();
    resources.push(resource(Route, route, 1).referring_to(CDS, *clusters.last().unwrap()));
    build(resources)
}

#[test]
fn case_21_an_answer_does_not_run_ahead_of_the_cluster_it_refers_to() {
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let mut it = settled(protocol, &routed(&["a"], "r"));
        let first = it.update(&routed(&["a", "b"], "r"));
        // The next change of clusters waits for the ACK of this one, and the route that refers to it for the clusters.
        assert!(shorts(&it.update(&routed(&["a", "b", "c"], "s"))).is_empty());
        let early = match protocol {
            Protocol::Delta => it.delta(Route, &["s"], &[]),
            Protocol::Sotw => it.sotw(Route, &["r", "s"], None, None),
        };
        assert!(shorts(&early).is_empty());
        let second = answer(&mut it, &first, None);
        assert_eq!(shorts(&second).len(), 1);
        assert!(second.responses[0].resources.iter().any(|cluster| &**cluster.name() == "c"));
        assert_eq!(shorts(&answer(&mut it, &second, None)), ["route s=1"]);
    }
}

#[test]
fn case_21_an_answer_does_not_wait_for_a_cluster_that_was_rejected() {
    let mut it = settled(Protocol::Delta, &routed(&["a"], "r"));
    let push = it.update(&routed(&["a", "b"], "s"));
    it.answer_delta(&push, rejection());
    assert_eq!(shorts(&it.delta(Route, &["s"], &[])), ["route s=1"]);
}

#[test]
fn case_21_sotw_the_answer_to_a_new_name_keeps_held_pushes_back() {
    let target = snapshot(&[(CDS, "c", 1), (Listener, "l", 1), (Listener, "m", 1)]);
    let mut it = Harness::new(Protocol::Sotw, Scope::Aggregated, &target);
    let clusters = it.sotw(CDS, &[], None, None);
    it.sotw(CDS, &[], Some(&clusters), None);
    let listeners = it.sotw(Listener, &["l"], None, None);
    it.sotw(Listener, &["l"], Some(&listeners), None);
    it.update(&snapshot(&[(CDS, "c", 2), (Listener, "l", 2), (Listener, "m", 1)]));
    // The change of `l` waits for the cluster's ACK; the new name does not.
    let output = it.sotw(Listener, &["l", "m"], Some(&listeners), None);
    assert_eq!(shorts(&output), ["listener m=1 l=1"]);
}

#[test]
fn case_21_a_rejection_holds_removals_back_and_nothing_else() {
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let mut it = settled(protocol, &first());
        let clusters = it.update(&second());
        let endpoints = answer(&mut it, &clusters, None);
        let listeners = answer(&mut it, &endpoints, None);
        let routes = answer(&mut it, &listeners, None);
        assert_eq!(shorts(&routes), ["route r=2"]);
        // The routes still point to the old cluster.
        assert!(shorts(&answer(&mut it, &routes, rejection())).is_empty());
        let repair = it.update(&snapshot(&[(CDS, "new", 1), (Endpoint, "e", 2), (Listener, "m", 1), (Route, "r", 3)]));
        assert_eq!(shorts(&repair), ["route r=3"]);
        let last = answer(&mut it, &repair, None);
        let expected = if protocol == Protocol::Delta { "cluster -old" } else { "cluster new=1" };
        assert_eq!(shorts(&last), [expected]);
    }
}

#[test]
fn case_21_a_rejected_cluster_does_not_stop_later_snapshots() {
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let mut it = settled(protocol, &first());
        let clusters = it.update(&second());
        let endpoints = answer(&mut it, &clusters, rejection());
        assert_eq!(run(&mut it, endpoints).len(), 3);
        let output = it.update(&snapshot(&[(CDS, "new", 1), (Endpoint, "e", 3), (Listener, "m", 2), (Route, "r", 3)]));
        assert_eq!(run(&mut it, output), ["endpoint e=3", "listener m=2", "route r=3"]);
    }
}

#[test]
fn case_22_a_cluster_change_pushes_its_endpoints_again() {
    let target = |version| build([resource(CDS, "c", version).referring_to(Endpoint, "e"), resource(Endpoint, "e", 1)]);
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let mut it = settled(protocol, &target(1));
        let output = it.update(&target(2));
        assert_eq!(run(&mut it, output), ["cluster c=2", "endpoint e=1"]);
    }
    // On a stream of its own too, where the cluster's stream cannot be waited for.
    let mut it = Harness::new(Protocol::Delta, Scope::Single(Endpoint), &target(1));
    let first = it.delta(Endpoint, &["e"], &[]);
    it.answer_delta(&first, None);
    assert_eq!(shorts(&it.update(&target(2))), ["endpoint e=1"]);
}

#[test]
fn case_23_a_resumed_session_that_forgets_a_type_is_noticed() {
    let target = build([resource(Listener, "l", 1).referring_to(Route, "r"), resource(Route, "r", 1)]);
    let version = target.of_type(Listener).version().to_string();

    let mut delta = Harness::new(Protocol::Delta, Scope::Aggregated, &target);
    delta.request(DeltaDiscoveryRequest {
        type_url: Listener.type_url().into(),
        initial_resource_versions: [("l".to_owned(), Version::of(&1).to_string())].into(),
        ..Default::default()
    });
    assert_eq!(delta.stream.forgotten(), Some(Route));
    delta.delta(Route, &["r"], &[]);
    assert_eq!(delta.stream.forgotten(), None);

    let mut sotw = Harness::new(Protocol::Sotw, Scope::Aggregated, &target);
    let request =
        DiscoveryRequest { type_url: Listener.type_url().into(), version_info: version, ..Default::default() };
    sotw.stream.on_sotw(request).unwrap();
    assert_eq!(sotw.stream.forgotten(), Some(Route));
    sotw.sotw(Route, &["r"], None, None);
    assert_eq!(sotw.stream.forgotten(), None);

    // A client that starts from nothing asks when it is ready.
    let mut fresh = Harness::new(Protocol::Delta, Scope::Aggregated, &target);
    fresh.delta(Listener, &[], &[]);
    assert_eq!(fresh.stream.forgotten(), None);
}
