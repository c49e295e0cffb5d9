//! The incremental variant.

use super::*;

fn open(scope: Scope, resources: &[(ResourceType, &str, u32)]) -> Harness {
    Harness::new(Protocol::Delta, scope, &snapshot(resources))
}

#[test]
fn case_02_delta_stale_nonce_keeps_subscription_change() {
    for scope in scopes(Secret) {
        let mut it = open(scope, &[(Secret, "a", 1), (Secret, "b", 1)]);
        let first = it.delta(Secret, &["a"], &[]);
        assert_eq!(shorts(&first), ["secret a=1"]);
        for nonce in ["999", "nonsense"] {
            let output = it.request(DeltaDiscoveryRequest {
                type_url: Secret.type_url().into(),
                response_nonce: nonce.into(),
                resource_names_subscribe: owned(&["b"]),
                ..Default::default()
            });
            assert_eq!(shorts(&output), ["secret b=1"]);
            assert!(output.events.is_empty());
        }
    }
}

#[test]
fn case_03_delta_a_nack_is_known_by_error_detail() {
    let mut it = open(Scope::Aggregated, &[(CDS, "a", 1)]);
    let first = it.delta(CDS, &[], &[]);
    let verdict = it.answer_delta(&first, rejection());
    assert!(is_nack(&verdict) && !is_ack(&verdict));
    assert!(matches!(&verdict.events[0], Event::Nack { message, resources, .. }
        if message == "bad" && &**resources[0].name() == "a"));
}

#[test]
fn case_04_delta_after_a_nack_nothing_is_resent_until_content_changes() {
    for scope in scopes(CDS) {
        let mut it = open(scope, &[(CDS, "a", 1), (CDS, "b", 1)]);
        let first = it.delta(CDS, &[], &[]);
        it.answer_delta(&first, None);
        let push = it.update(&snapshot(&[(CDS, "a", 2), (CDS, "b", 2)]));
        assert_eq!(shorts(&push), ["cluster a=2 b=2"]);
        assert!(shorts(&it.answer_delta(&push, rejection())).is_empty());
        assert!(!it.stream.is_converged(CDS) && it.stream.is_rejecting(CDS));
        // Something else changes: that alone is sent.
        let other = it.update(&snapshot(&[(CDS, "a", 2), (CDS, "b", 2), (CDS, "c", 1)]));
        assert_eq!(shorts(&other), ["cluster c=1"]);
        it.answer_delta(&other, None);
        // The bad one changes: with it everything that was rejected along with it.
        let repair = it.update(&snapshot(&[(CDS, "a", 3), (CDS, "b", 2), (CDS, "c", 1)]));
        assert_eq!(shorts(&repair), ["cluster a=3 b=2"]);
        it.answer_delta(&repair, None);
        assert!(it.stream.is_converged(CDS) && !it.stream.is_rejecting(CDS));
    }
}

#[test]
fn case_04_delta_going_back_to_what_was_accepted_is_a_change() {
    let mut it = open(Scope::Aggregated, &[(CDS, "a", 1)]);
    let first = it.delta(CDS, &[], &[]);
    it.answer_delta(&first, None);
    let push = it.update(&snapshot(&[(CDS, "a", 2)]));
    it.answer_delta(&push, rejection());
    assert_eq!(shorts(&it.update(&snapshot(&[(CDS, "a", 1)]))), ["cluster a=1"]);
}

#[test]
fn case_04_delta_other_types_go_on() {
    let mut it = open(Scope::Aggregated, &[(CDS, "a", 1), (Listener, "l", 1)]);
    let first = it.delta(CDS, &[], &[]);
    it.answer_delta(&first, rejection());
    let listeners = it.delta(Listener, &[], &[]);
    assert_eq!(shorts(&listeners), ["listener l=1"]);
    it.answer_delta(&listeners, None);
    assert_eq!(shorts(&it.update(&snapshot(&[(CDS, "a", 1), (Listener, "l", 2)]))), ["listener l=2"]);
}

#[test]
fn case_04_delta_accepting_an_answer_settles_an_earlier_rejection() {
    let mut it = open(Scope::Aggregated, &[(CDS, "a", 1)]);
    let first = it.delta(CDS, &[], &[]);
    it.answer_delta(&first, None);
    let push = it.update(&snapshot(&[(CDS, "a", 2)]));
    let again = it.delta(CDS, &["a"], &[]);
    assert_eq!(shorts(&again), ["cluster a=2"]);
    it.answer_delta(&push, rejection());
    assert!(it.stream.is_rejecting(CDS));
    it.answer_delta(&again, None);
    assert!(!it.stream.is_rejecting(CDS) && it.stream.is_converged(CDS));
}

#[test]
fn case_05_delta_a_nack_that_changes_the_subscription() {
    for scope in scopes(Secret) {
        let mut it = open(scope, &[(Secret, "a", 1), (Secret, "b", 1)]);
        let first = it.delta(Secret, &["a"], &[]);
        let output = it.request(DeltaDiscoveryRequest {
            type_url: Secret.type_url().into(),
            response_nonce: first.responses[0].nonce.to_string(),
            error_detail: rejection(),
            resource_names_subscribe: owned(&["b"]),
            ..Default::default()
        });
        assert!(is_nack(&output));
        assert_eq!(shorts(&output), ["secret b=1"]);
    }
}

#[test]
fn case_06_delta_an_empty_first_request_is_a_wildcard_for_clusters_and_listeners_only() {
    for ty in ResourceType::ALL {
        for scope in scopes(ty) {
            let expected: &[&str] = match ty {
                CDS => &["cluster a=1"],
                Listener => &["listener a=1"],
                Endpoint | Route | Secret => &[],
            };
            assert_eq!(shorts(&open(scope, &[(ty, "a", 1)]).delta(ty, &[], &[])), expected);
        }
    }
}

#[test]
fn case_07_delta_star_and_a_then_a_then_nothing() {
    for scope in scopes(CDS) {
        let mut it = open(scope, &[(CDS, "a", 1), (CDS, "b", 1)]);
        let first = it.delta(CDS, &["*", "a"], &[]);
        assert_eq!(shorts(&first), ["cluster a=1 b=1"]);
        it.answer_delta(&first, None);
        it.delta(CDS, &[], &["*"]);
        let push = it.update(&snapshot(&[(CDS, "a", 2), (CDS, "b", 2)]));
        assert_eq!(shorts(&push), ["cluster a=2"]);
        it.answer_delta(&push, None);
        assert!(shorts(&it.delta(CDS, &[], &["a"])).is_empty());
        assert!(shorts(&it.update(&snapshot(&[(CDS, "a", 3), (CDS, "b", 3)]))).is_empty());
        assert!(shorts(&it.delta(CDS, &[], &[])).is_empty(), "no longer the first request");
    }
}

#[test]
fn case_08_delta_empty_then_a_is_still_a_wildcard() {
    for scope in scopes(Listener) {
        let mut it = open(scope, &[(Listener, "a", 1), (Listener, "b", 1)]);
        let first = it.delta(Listener, &[], &[]);
        it.answer_delta(&first, None);
        let more = it.delta(Listener, &["a"], &[]);
        assert_eq!(shorts(&more), ["listener a=1"]);
        it.answer_delta(&more, None);
        assert_eq!(shorts(&it.update(&snapshot(&[(Listener, "a", 1), (Listener, "b", 2)]))), ["listener b=2"]);
    }
}

#[test]
fn case_09_delta_unsubscribing_under_a_wildcard() {
    for scope in scopes(CDS) {
        let mut it = open(scope, &[(CDS, "a", 1)]);
        it.delta(CDS, &["*", "a", "gone"], &[]);
        assert_eq!(shorts(&it.delta(CDS, &[], &["a"])), ["cluster a=1"]);
        assert_eq!(shorts(&it.delta(CDS, &[], &["gone"])), ["cluster -gone"]);
    }
}

#[test]
fn case_10_delta_a_known_name_is_sent_again_when_subscribed_again() {
    for ty in ResourceType::ALL {
        for scope in scopes(ty) {
            let mut it = open(scope, &[(ty, "a", 1)]);
            let expected = [format!("{} a=1", ty.label())];
            for _ in 0..3 {
                let output = it.delta(ty, &["a"], &[]);
                assert_eq!(shorts(&output), expected);
                it.answer_delta(&output, None);
            }
        }
    }
}

#[test]
fn case_11_delta_a_name_that_does_not_exist_is_removed_and_pushed_when_it_comes() {
    for ty in ResourceType::ALL {
        for scope in scopes(ty) {
            let mut it = open(scope, &[]);
            let output = it.delta(ty, &["a"], &[]);
            assert_eq!(shorts(&output), [format!("{} -a", ty.label())]);
            it.answer_delta(&output, None);
            assert_eq!(shorts(&it.update(&snapshot(&[(ty, "a", 1)]))), [format!("{} a=1", ty.label())]);
        }
    }
}

#[test]
fn case_12_delta_the_first_wildcard_is_answered_even_with_nothing() {
    for ty in [CDS, Listener] {
        for scope in scopes(ty) {
            assert_eq!(shorts(&open(scope, &[]).delta(ty, &[], &[])), [ty.label()]);
        }
    }
    assert_eq!(shorts(&open(Scope::Aggregated, &[]).delta(Secret, &["*"], &[])), ["secret"]);
}

fn resume(it: &mut Harness, ty: ResourceType, names: &[&str], held: &[(&str, u32)]) -> Output {
    it.request(DeltaDiscoveryRequest {
        type_url: ty.type_url().into(),
        resource_names_subscribe: owned(names),
        initial_resource_versions: held.iter().map(|(n, v)| ((*n).into(), Version::of(v).to_string())).collect(),
        ..Default::default()
    })
}

#[test]
fn case_13_delta_a_reconnect_skips_what_is_unchanged_and_removes_what_is_gone() {
    for ty in [CDS, Listener] {
        let mut it = open(Scope::Single(ty), &[(ty, "a", 1), (ty, "b", 2), (ty, "c", 1)]);
        let output = resume(&mut it, ty, &["*"], &[("a", 1), ("b", 1), ("x", 1)]);
        assert_eq!(shorts(&output), [format!("{} b=2 c=1 -x", ty.label())]);
        it.answer_delta(&output, None);
        assert!(it.stream.is_converged(ty));
        let push = it.update(&snapshot(&[(ty, "b", 2), (ty, "c", 1)]));
        assert_eq!(shorts(&push), [format!("{} -a", ty.label())]);
    }
    for scope in scopes(Secret) {
        let mut it = open(scope, &[(Secret, "a", 1), (Secret, "other", 1)]);
        // Unsubscribed names in the list do not matter.
        assert!(shorts(&resume(&mut it, Secret, &["a"], &[("a", 1), ("other", 3)])).is_empty());
        assert!(it.stream.is_converged(Secret));
        assert_eq!(shorts(&it.update(&snapshot(&[(Secret, "a", 2)]))), ["secret a=2"]);
    }
}

#[test]
fn case_16_delta_no_name_twice() {
    let mut it = open(Scope::Aggregated, &[(CDS, "a", 1)]);
    assert_eq!(shorts(&it.delta(CDS, &["a", "*", "a", "b", "b"], &[])), ["cluster a=1 -b"]);
}

#[test]
fn case_24_delta_a_secret_that_comes_later_is_pushed() {
    for scope in scopes(Secret) {
        let mut it = open(scope, &[]);
        let nothing = it.delta(Secret, &["leaf"], &[]);
        assert_eq!(shorts(&nothing), ["secret -leaf"]);
        // Even before the client has answered.
        assert_eq!(shorts(&it.update(&snapshot(&[(Secret, "leaf", 1)]))), ["secret leaf=1"]);
    }
}

#[test]
fn case_27_delta_snapshots_coalesce_until_the_ack() {
    for scope in scopes(CDS) {
        let mut it = open(scope, &[(CDS, "a", 0)]);
        let first = it.delta(CDS, &[], &[]);
        it.answer_delta(&first, None);
        let push = it.update(&snapshot(&[(CDS, "a", 1)]));
        assert_eq!(shorts(&push), ["cluster a=1"]);
        for version in 2..=100 {
            assert!(shorts(&it.update(&snapshot(&[(CDS, "a", version)]))).is_empty());
        }
        let last = it.answer_delta(&push, None);
        assert_eq!(shorts(&last), ["cluster a=100"]);
        it.answer_delta(&last, None);
        assert!(it.stream.is_converged(CDS));
    }
}

#[test]
fn case_27_delta_an_edit_undone_before_the_ack_costs_nothing() {
    let mut it = open(Scope::Aggregated, &[(CDS, "a", 0), (CDS, "b", 0)]);
    let first = it.delta(CDS, &[], &[]);
    it.answer_delta(&first, None);
    let push = it.update(&snapshot(&[(CDS, "a", 1), (CDS, "b", 0)]));
    it.update(&snapshot(&[(CDS, "a", 1), (CDS, "b", 1)]));
    it.update(&snapshot(&[(CDS, "a", 1), (CDS, "b", 0)]));
    assert!(shorts(&it.answer_delta(&push, None)).is_empty());
    assert!(it.stream.is_converged(CDS));
}

#[test]
fn case_28_delta_unsubscribing_what_was_never_subscribed() {
    for scope in scopes(Route) {
        let mut it = open(scope, &[(Route, "a", 1), (Route, "b", 1)]);
        it.delta(Route, &["a"], &[]);
        assert!(shorts(&it.delta(Route, &[], &["b", "x", "*"])).is_empty());
        assert_eq!(shorts(&it.update(&snapshot(&[(Route, "a", 2), (Route, "b", 2)]))), ["route a=2"]);
    }
    let mut it = open(Scope::Aggregated, &[(CDS, "a", 1)]);
    it.delta(CDS, &[], &[]);
    assert!(shorts(&it.delta(CDS, &[], &["x"])).is_empty());
}

#[test]
fn case_31_delta_a_large_response_is_split_and_nothing_is_lost() {
    let big = |version: u32| {
        build((0..10).map(|i| {
            let message = Cluster { alt_stat_name: "x".repeat(1 << 20), ..Default::default() };
            Resource::new(CDS, format!("c{i}"), Version::of(&version), &message)
        }))
    };
    let first = big(1);
    let mut it = Harness::new(Protocol::Delta, Scope::Aggregated, &first);
    let output = it.delta(CDS, &[], &[]);
    let count = |output: &Output| output.responses.iter().map(|r| r.resources.len()).collect::<Vec<_>>();
    assert_eq!(count(&output), [2, 2, 2, 2, 2]);
    for response in &output.responses {
        it.request(DeltaDiscoveryRequest {
            type_url: CDS.type_url().into(),
            response_nonce: response.nonce.to_string(),
            ..Default::default()
        });
    }
    // A push goes part by part, each after the ACK of the one before.
    let mut total = 0;
    let mut part = it.update(&big(2));
    while !part.responses.is_empty() {
        assert_eq!(count(&part), [2]);
        total += 2;
        part = it.answer_delta(&part, None);
    }
    assert_eq!(total, 10);
    assert!(it.stream.is_converged(CDS));
}

#[test]
fn a_wildcard_let_go_and_taken_again_removes_what_was_on_its_way() {
    let mut it = open(Scope::Aggregated, &[]);
    let empty = it.delta(CDS, &["*"], &[]);
    it.answer_delta(&empty, None);
    let on_its_way = it.update(&snapshot(&[(CDS, "a", 1)]));
    assert_eq!(shorts(&on_its_way), ["cluster a=1"]);
    it.delta(CDS, &[], &["*"]);
    assert!(shorts(&it.update(&snapshot(&[]))).is_empty());
    // The client now takes the response it had not yet seen, so it has to be told that `a` is gone.
    assert_eq!(shorts(&it.delta(CDS, &["*"], &[])), ["cluster -a"]);
}
