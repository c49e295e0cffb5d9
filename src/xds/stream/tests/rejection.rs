//! What a NACK leaves in doubt, and when it is told again (cases 3 to 5).

use super::*;

/// A client that holds version 1 of these clusters, by wildcard.
fn holding(protocol: Protocol, names: &[&str]) -> Harness {
    let resources: Vec<_> = names.iter().map(|name| (CDS, *name, 1)).collect();
    let mut it = Harness::new(protocol, Scope::Aggregated, &snapshot(&resources));
    let output = match protocol {
        Protocol::Delta => it.delta(CDS, &[], &[]),
        Protocol::Sotw => it.sotw(CDS, &[], None, None),
    };
    assert!(shorts(&answer(&mut it, &output, None)).is_empty());
    it
}

/// A client of secrets that subscribes by name.
fn with_secrets(protocol: Protocol, scope: Scope, resources: &[(ResourceType, &str, u32)]) -> (Harness, Output) {
    let names: Vec<_> = resources.iter().map(|(_, name, _)| *name).collect();
    let mut it = Harness::new(protocol, scope, &snapshot(resources));
    let output = match protocol {
        Protocol::Delta => it.delta(Secret, &names, &[]),
        Protocol::Sotw => it.sotw(Secret, &names, None, None),
    };
    (it, output)
}

/// `base` with a nonce and a verdict of its own, for answers out of turn.
fn verdict(ty: ResourceType, output: &Output, error_detail: Option<Status>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: ty.type_url().into(),
        response_nonce: output.responses[0].nonce.to_string(),
        error_detail,
        ..Default::default()
    }
}

#[test]
fn case_04_a_rejected_resource_that_vanishes_does_not_make_the_rest_go_round() {
    for (protocol, retry, last) in [
        (Protocol::Delta, "cluster b=2", ["cluster b=3", "cluster -a"]),
        // State of the world keeps what the client last accepted until everything else is in place.
        (Protocol::Sotw, "cluster b=2 a=1", ["cluster b=3 a=1", "cluster b=3"]),
    ] {
        let mut it = holding(protocol, &["a", "b"]);
        let push = it.update(&snapshot(&[(CDS, "a", 2), (CDS, "b", 2)]));
        assert_eq!(shorts(&push), ["cluster a=2 b=2"]);
        assert!(shorts(&answer(&mut it, &push, rejection())).is_empty());
        let again = it.update(&snapshot(&[(CDS, "b", 2)]));
        assert_eq!(shorts(&again), [retry]);
        assert!(shorts(&answer(&mut it, &again, rejection())).is_empty(), "sent again without a change");
        assert!(it.stream.is_rejecting(CDS));
        let repair = it.update(&snapshot(&[(CDS, "b", 3)]));
        assert_eq!(run(&mut it, repair), last);
        assert!(it.stream.is_converged(CDS));
    }
}

#[test]
fn case_04_sotw_a_cluster_changed_then_rejected_then_removed_stays_until_the_routes_are_there() {
    let mut it = settled(Protocol::Sotw, &snapshot(&[(CDS, "old", 1), (Route, "r", 1)]));
    let push = it.update(&snapshot(&[(CDS, "old", 2), (Route, "r", 1)]));
    assert_eq!(shorts(&push), ["cluster old=2"]);
    answer(&mut it, &push, rejection());
    let output = it.update(&snapshot(&[(CDS, "new", 1), (Route, "r", 2)]));
    // With the version that the client accepted: the other would be rejected again.
    assert_eq!(run(&mut it, output), ["cluster new=1 old=1", "route r=2", "cluster new=1"]);
    assert!(it.stream.is_converged(CDS));
}

#[test]
fn case_04_sotw_a_rejected_newcomer_that_vanishes_is_not_repeated() {
    let mut it = holding(Protocol::Sotw, &["old"]);
    let push = it.update(&snapshot(&[(CDS, "bad", 1), (CDS, "old", 1)]));
    answer(&mut it, &push, rejection());
    let output = it.update(&snapshot(&[(CDS, "c", 1), (CDS, "old", 1)]));
    assert_eq!(run(&mut it, output), ["cluster c=1 old=1"]);
    assert!(it.stream.is_converged(CDS));
}

#[test]
fn case_04_a_rejected_removal_is_told_again_with_the_next_change() {
    let mut it = Harness::new(Protocol::Delta, Scope::Single(CDS), &snapshot(&[(CDS, "a", 1), (CDS, "b", 1)]));
    let first = it.delta(CDS, &[], &[]);
    it.answer_delta(&first, None);
    let push = it.update(&snapshot(&[(CDS, "b", 2)]));
    assert_eq!(shorts(&push), ["cluster b=2 -a"]);
    assert!(shorts(&it.answer_delta(&push, rejection())).is_empty());
    let other = it.update(&snapshot(&[(CDS, "b", 2), (CDS, "c", 1)]));
    assert_eq!(shorts(&other), ["cluster c=1 -a"]);
    it.answer_delta(&other, None);
    let repair = it.update(&snapshot(&[(CDS, "b", 3), (CDS, "c", 1)]));
    assert_eq!(shorts(&repair), ["cluster b=3"]);
    it.answer_delta(&repair, None);
    assert!(it.stream.is_converged(CDS));
}

#[test]
fn case_04_a_rejected_listener_that_is_repaired_takes_the_removal_along() {
    let mut it = settled(Protocol::Delta, &snapshot(&[(Listener, "l", 1)]));
    let push = it.update(&snapshot(&[(Listener, "m", 1)]));
    assert_eq!(shorts(&push), ["listener m=1 -l"]);
    answer(&mut it, &push, rejection());
    let repair = it.update(&snapshot(&[(Listener, "m", 2)]));
    assert_eq!(run(&mut it, repair), ["listener m=2 -l"]);
}

#[test]
fn case_05_what_was_rejected_along_with_a_name_that_is_dropped_is_told_again() {
    for scope in scopes(Secret) {
        for protocol in [Protocol::Delta, Protocol::Sotw] {
            let (mut it, first) = with_secrets(protocol, scope, &[(Secret, "a", 1), (Secret, "b", 1)]);
            let drop = match protocol {
                Protocol::Delta => {
                    assert!(shorts(&it.answer_delta(&first, rejection())).is_empty());
                    it.delta(Secret, &[], &["a"])
                }
                Protocol::Sotw => {
                    assert!(shorts(&it.sotw(Secret, &["a", "b"], Some(&first), rejection())).is_empty());
                    it.sotw(Secret, &["b"], Some(&first), None)
                }
            };
            assert_eq!(shorts(&drop), ["secret b=1"]);
            match protocol {
                Protocol::Delta => it.answer_delta(&drop, None),
                Protocol::Sotw => it.sotw(Secret, &["b"], Some(&drop), None),
            };
            assert!(it.stream.is_converged(Secret));
        }
    }
}

#[test]
fn case_05_delta_what_is_dropped_before_the_nack_is_read_frees_the_rest() {
    let (mut it, first) = with_secrets(Protocol::Delta, Scope::Aggregated, &[(Secret, "a", 1), (Secret, "b", 1)]);
    assert!(shorts(&it.delta(Secret, &[], &["a"])).is_empty());
    let again = it.answer_delta(&first, rejection());
    assert_eq!(shorts(&again), ["secret b=1"]);
    assert!(shorts(&it.answer_delta(&again, rejection())).is_empty());
    assert!(it.stream.is_rejecting(Secret));
}

#[test]
fn case_04_what_is_replaced_before_the_nack_is_read_is_told_again_with_the_rest() {
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let mut it = holding(protocol, &["a", "b"]);
        let push = it.update(&snapshot(&[(CDS, "a", 2), (CDS, "b", 2)]));
        assert!(shorts(&it.update(&snapshot(&[(CDS, "a", 3), (CDS, "b", 2)]))).is_empty());
        let repair = answer(&mut it, &push, rejection());
        assert_eq!(shorts(&repair), ["cluster a=3 b=2"]);
        assert!(shorts(&answer(&mut it, &repair, rejection())).is_empty());
        assert!(it.stream.is_rejecting(CDS));
    }
}

#[test]
fn case_04_delta_what_a_later_response_repaired_frees_the_rest() {
    let mut it = holding(Protocol::Delta, &["a", "b"]);
    let push = it.update(&snapshot(&[(CDS, "a", 2), (CDS, "b", 2)]));
    it.update(&snapshot(&[(CDS, "a", 3), (CDS, "b", 2)]));
    let asked = it.delta(CDS, &["a"], &[]);
    assert_eq!(shorts(&asked), ["cluster a=3"]);
    let rest = it.request(verdict(CDS, &push, rejection()));
    assert_eq!(shorts(&rest), ["cluster b=2"], "a=3 is on its way");
    it.request(verdict(CDS, &asked, None));
    it.request(verdict(CDS, &rest, None));
    assert!(it.stream.is_converged(CDS));
}

#[test]
fn case_04_delta_what_is_accepted_after_all_frees_the_rest() {
    let mut it = holding(Protocol::Delta, &["a", "b"]);
    let push = it.update(&snapshot(&[(CDS, "a", 2), (CDS, "b", 2)]));
    it.answer_delta(&push, rejection());
    let asked = it.delta(CDS, &["a"], &[]);
    assert_eq!(shorts(&asked), ["cluster a=2"]);
    let rest = it.answer_delta(&asked, None);
    assert_eq!(shorts(&rest), ["cluster b=2"]);
    it.answer_delta(&rest, None);
    assert!(it.stream.is_converged(CDS));
}

#[test]
fn case_04_sotw_a_full_set_that_crosses_a_nack_settles_it() {
    let mut it = Harness::new(Protocol::Sotw, Scope::Aggregated, &snapshot(&[(CDS, "a", 1), (CDS, "b", 1)]));
    let first = it.sotw(CDS, &["a"], None, None);
    let second = it.sotw(CDS, &["a", "b"], None, None);
    assert_eq!(shorts(&second), ["cluster b=1 a=1"]);
    it.sotw(CDS, &["a", "b"], Some(&first), rejection());
    assert!(it.stream.is_rejecting(CDS));
    it.sotw(CDS, &["a", "b"], Some(&second), None);
    assert!(it.stream.is_converged(CDS) && !it.stream.is_rejecting(CDS));
}

#[test]
fn case_04_sotw_a_full_set_that_repeats_what_is_on_its_way_is_rejected_for_that() {
    for scope in scopes(CDS) {
        let mut it = Harness::new(Protocol::Sotw, scope, &snapshot(&[(CDS, "bad", 1)]));
        let first = it.sotw(CDS, &["bad"], None, None);
        assert!(it.update(&snapshot(&[(CDS, "b", 1)])).responses.is_empty());
        // Whether the client has `bad` is not known yet: if so, it keeps it until everything else is in place.
        let second = it.sotw(CDS, &["bad", "b"], None, None);
        assert_eq!(shorts(&second), ["cluster b=1 bad=1"]);
        it.sotw(CDS, &["bad", "b"], Some(&first), rejection());
        let third = it.sotw(CDS, &["bad", "b"], Some(&second), rejection());
        assert_eq!(shorts(&third), ["cluster b=1"], "not `b` was what was wrong with it");
        it.sotw(CDS, &["bad", "b"], Some(&third), None);
        assert!(it.stream.is_converged(CDS));
    }
}

#[test]
fn case_04_going_back_before_the_retry_is_sent_is_a_change() {
    let mut it = settled(Protocol::Delta, &snapshot(&[(CDS, "c", 1), (Route, "r", 1)]));
    let push = it.update(&snapshot(&[(CDS, "c", 1), (Route, "r", 2)]));
    answer(&mut it, &push, rejection());
    let clusters = it.update(&snapshot(&[(CDS, "c", 2), (Route, "r", 3)]));
    assert_eq!(shorts(&clusters), ["cluster c=2"]);
    it.update(&snapshot(&[(CDS, "c", 2), (Route, "r", 1)]));
    assert_eq!(shorts(&answer(&mut it, &clusters, None)), ["route r=1"], "the client may have taken a part");
}

#[test]
fn case_22_endpoints_to_be_renewed_are_whatever_becomes_of_their_last_response() {
    let target = |cluster, endpoint| {
        build([resource(CDS, "c", cluster).referring_to(Endpoint, "e"), resource(Endpoint, "e", endpoint)])
    };
    for error in [None, rejection()] {
        let mut it = settled(Protocol::Delta, &target(1, 1));
        let endpoints = it.update(&target(1, 2));
        assert_eq!(shorts(&endpoints), ["endpoint e=2"]);
        let clusters = it.update(&target(2, 2));
        assert_eq!(shorts(&clusters), ["cluster c=2"]);
        it.request(verdict(Endpoint, &endpoints, error));
        assert_eq!(shorts(&it.request(verdict(CDS, &clusters, None))), ["endpoint e=2"]);
    }
}

#[test]
fn case_22_a_cluster_told_again_takes_its_endpoints_along() {
    let target = |a, b| {
        build([resource(CDS, "a", a), resource(CDS, "b", b).referring_to(Endpoint, "e"), resource(Endpoint, "e", 1)])
    };
    let mut it = settled(Protocol::Delta, &target(1, 1));
    let clusters = it.update(&target(2, 2));
    assert_eq!(shorts(&clusters), ["cluster a=2 b=2"]);
    let endpoints = answer(&mut it, &clusters, rejection());
    assert_eq!(run(&mut it, endpoints), ["endpoint e=1"]);
    let repair = it.update(&target(3, 2));
    assert_eq!(run(&mut it, repair), ["cluster a=3 b=2", "endpoint e=1"]);
}

#[test]
fn case_04_a_client_that_rejects_everything_is_sent_only_what_changes() {
    for scope in scopes(CDS) {
        for protocol in [Protocol::Delta, Protocol::Sotw] {
            let mut it = Harness::new(protocol, scope, &snapshot(&[(CDS, "a", 0), (CDS, "b", 0)]));
            let mut output = match protocol {
                Protocol::Delta => it.delta(CDS, &[], &[]),
                Protocol::Sotw => it.sotw(CDS, &[], None, None),
            };
            for version in 1..200 {
                assert_eq!(output.responses.len(), 1);
                assert!(answer(&mut it, &output, rejection()).responses.is_empty());
                let state = it.stream.state(CDS);
                assert!(state.behind.len() <= 3 && state.in_flight.is_empty());
                let target = [(CDS, "a", version), (CDS, "b", 0), (CDS, "c", version / 2)];
                output = it.update(&snapshot(&target[..2 + (version % 2) as usize]));
            }
        }
    }
}
