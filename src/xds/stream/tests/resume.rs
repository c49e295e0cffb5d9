//! Clients that come back with what they hold (cases 13, 22 and 23).

use super::*;

/// The first request of a type in a later session.
fn resume(ty: ResourceType, names: &[&str], held: &[(&str, u32)]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: ty.type_url().into(),
        resource_names_subscribe: owned(names),
        initial_resource_versions: held.iter().map(|(n, v)| ((*n).into(), Version::of(v).to_string())).collect(),
        ..Default::default()
    }
}

/// The client held cluster `old`, and a route to it.
fn moved() -> Arc<Snapshot> {
    build([
        resource(CDS, "new", 1),
        resource(Listener, "l", 1).referring_to(Route, "r"),
        resource(Route, "r", 2).referring_to(CDS, "new"),
    ])
}

#[test]
fn case_13_21_a_cluster_that_is_gone_is_given_up_after_the_routes() {
    let mut it = Harness::new(Protocol::Delta, Scope::Aggregated, &moved());
    let clusters = it.request(resume(CDS, &["*"], &[("old", 1)]));
    assert_eq!(shorts(&clusters), ["cluster new=1"]);
    assert!(shorts(&it.answer_delta(&clusters, None)).is_empty());
    let listeners = it.request(resume(Listener, &["*"], &[("l", 1)]));
    assert_eq!(shorts(&listeners), ["listener"]);
    assert!(shorts(&it.answer_delta(&listeners, None)).is_empty());
    let routes = it.request(resume(Route, &["r"], &[("r", 1)]));
    assert_eq!(shorts(&routes), ["route r=2"]);
    let removal = it.answer_delta(&routes, None);
    assert_eq!(shorts(&removal), ["cluster -old"]);
    it.answer_delta(&removal, None);
    assert!(it.stream.is_converged(CDS));
}

#[test]
fn case_13_21_a_client_that_has_no_more_to_ask_gives_it_up_when_its_time_is_over() {
    let mut it = Harness::new(Protocol::Delta, Scope::Aggregated, &moved());
    let clusters = it.request(resume(CDS, &["*"], &[("old", 1)]));
    assert!(shorts(&it.answer_delta(&clusters, None)).is_empty());
    assert!(shorts(&it.update(&moved())).is_empty());
    assert_eq!(shorts(&it.stream.end_resumption()), ["cluster -old"]);
}

#[test]
fn case_13_21_listeners_without_routes_wait_for_none() {
    let target = build([resource(CDS, "new", 1), resource(Listener, "l", 1)]);
    let mut it = Harness::new(Protocol::Delta, Scope::Aggregated, &target);
    let clusters = it.request(resume(CDS, &["*"], &[("old", 1)]));
    it.answer_delta(&clusters, None);
    let listeners = it.request(resume(Listener, &["*"], &[("l", 1), ("k", 1)]));
    assert_eq!(shorts(&listeners), ["listener -k"]);
    assert_eq!(shorts(&it.answer_delta(&listeners, None)), ["cluster -old"]);
}

#[test]
fn case_13_a_name_asked_for_that_is_gone_is_told_at_once() {
    let mut it = Harness::new(Protocol::Delta, Scope::Aggregated, &moved());
    assert_eq!(shorts(&it.request(resume(CDS, &["old"], &[("old", 1)]))), ["cluster -old"]);
    // On a stream for clusters alone there is nothing to wait for.
    let mut it = Harness::new(Protocol::Delta, Scope::Single(CDS), &moved());
    assert_eq!(shorts(&it.request(resume(CDS, &["*"], &[("old", 1)]))), ["cluster new=1 -old"]);
}

#[test]
fn case_13_a_cluster_that_comes_back_while_it_waits_is_sent() {
    let mut it = Harness::new(Protocol::Delta, Scope::Aggregated, &moved());
    let clusters = it.request(resume(CDS, &["*"], &[("old", 1)]));
    it.answer_delta(&clusters, None);
    let back = it.update(&build([resource(CDS, "new", 1), resource(CDS, "old", 1)]));
    assert_eq!(shorts(&back), ["cluster old=1"], "which version the client has is not known any more");
}

#[test]
fn case_13_versions_of_names_that_are_not_asked_for_do_not_count() {
    for ty in ResourceType::ALL {
        for scope in scopes(ty) {
            let mut it = Harness::new(Protocol::Delta, scope, &snapshot(&[(ty, "a", 1), (ty, "other", 1)]));
            let long = "x".repeat(MAX_NAME_LEN + 1);
            assert!(shorts(&it.request(resume(ty, &["a"], &[("a", 1), ("other", 2), (&long, 1)]))).is_empty());
            assert!(it.stream.is_converged(ty));
            assert!(shorts(&it.update(&snapshot(&[(ty, "a", 1)]))).is_empty());
        }
    }
}

#[test]
fn case_13_versions_count_in_the_first_request_only() {
    let mut it = Harness::new(Protocol::Delta, Scope::Aggregated, &snapshot(&[(Secret, "a", 1), (Secret, "b", 1)]));
    it.delta(Secret, &["b"], &[]);
    assert_eq!(shorts(&it.request(resume(Secret, &["a"], &[("a", 1)]))), ["secret a=1"]);
    assert!(!it.stream.is_resumed());
}

#[test]
fn case_13_too_many_versions_are_an_error() {
    let names: Vec<_> = (0..=MAX_NAMES).map(|i| format!("n{i}")).collect();
    let held: Vec<_> = names.iter().map(|name| (&**name, 1)).collect();
    let mut it = Harness::new(Protocol::Delta, Scope::Aggregated, &moved());
    let error = it.stream.on_delta(resume(CDS, &["*"], &held)).unwrap_err();
    assert!(matches!(error, ProtocolError::ResourceExhausted { limit: MAX_NAMES, .. }));
}

#[test]
fn case_22_a_cluster_changed_meanwhile_has_its_endpoints_sent_though_they_are_the_same() {
    let target = build([
        resource(CDS, "c", 2).referring_to(Endpoint, "e"),
        resource(CDS, "d", 1).referring_to(Endpoint, "f"),
        resource(Endpoint, "e", 1),
        resource(Endpoint, "f", 1),
    ]);
    let mut it = Harness::new(Protocol::Delta, Scope::Aggregated, &target);
    assert_eq!(shorts(&it.request(resume(CDS, &["*"], &[("c", 1), ("d", 1)]))), ["cluster c=2"]);
    assert_eq!(shorts(&it.request(resume(Endpoint, &["e", "f"], &[("e", 1), ("f", 1)]))), ["endpoint e=1"]);
}

#[test]
fn case_01_sotw_a_nonce_of_an_earlier_stream_does_not_silence_the_first_request() {
    for ty in ResourceType::ALL {
        for scope in scopes(ty) {
            let mut it = Harness::new(Protocol::Sotw, scope, &snapshot(&[(ty, "a", 1)]));
            let request = DiscoveryRequest {
                type_url: ty.type_url().into(),
                resource_names: owned(&["a"]),
                version_info: "of another server".into(),
                response_nonce: "7".into(),
                ..Default::default()
            };
            assert_eq!(shorts(&it.stream.on_sotw(request).unwrap()), [format!("{} a=1", ty.label())]);
        }
    }
}
