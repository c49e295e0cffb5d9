//! The state-of-the-world variant.

use super::*;

fn open(scope: Scope, resources: &[(ResourceType, &str, u32)]) -> Harness {
    Harness::new(Protocol::Sotw, scope, &snapshot(resources))
}

#[test]
fn case_01_sotw_a_stale_nonce_is_not_answered() {
    for scope in scopes(Secret) {
        let mut it = open(scope, &[(Secret, "a", 1), (Secret, "b", 1)]);
        let first = it.sotw(Secret, &["a"], None, None);
        it.sotw(Secret, &["a"], Some(&first), None);
        let second = it.update(&snapshot(&[(Secret, "a", 2), (Secret, "b", 1)]));
        assert_eq!(shorts(&second), ["secret a=2"]);
        assert!(shorts(&it.sotw(Secret, &["a", "b"], Some(&first), None)).is_empty());
        // The client says it again with the nonce it has now seen.
        assert_eq!(shorts(&it.sotw(Secret, &["a", "b"], Some(&second), None)), ["secret b=1"]);
    }
}

#[test]
fn case_03_sotw_a_nack_is_known_by_error_detail_whatever_the_version() {
    for scope in scopes(CDS) {
        let mut it = open(scope, &[(CDS, "a", 1)]);
        let first = it.sotw(CDS, &[], None, None);
        let nack = it.sotw(CDS, &[], Some(&first), rejection());
        assert!(is_nack(&nack) && !is_ack(&nack) && nack.responses.is_empty());
        let push = it.update(&snapshot(&[(CDS, "a", 2)]));
        let request = DiscoveryRequest {
            type_url: CDS.type_url().into(),
            version_info: "an older version".into(),
            response_nonce: push.responses[0].nonce.to_string(),
            ..Default::default()
        };
        assert!(is_ack(&it.stream.on_sotw(request).unwrap()));
    }
}

#[test]
fn case_04_sotw_after_a_nack_nothing_is_resent_until_content_changes() {
    for scope in scopes(CDS) {
        let mut it = open(scope, &[(CDS, "a", 1), (CDS, "b", 1)]);
        let first = it.sotw(CDS, &[], None, None);
        it.sotw(CDS, &[], Some(&first), None);
        let push = it.update(&snapshot(&[(CDS, "a", 2), (CDS, "b", 1)]));
        assert_eq!(shorts(&push), ["cluster a=2 b=1"]);
        assert!(shorts(&it.sotw(CDS, &[], Some(&push), rejection())).is_empty());
        assert!(shorts(&it.update(&snapshot(&[(CDS, "a", 2), (CDS, "b", 1), (Secret, "s", 1)]))).is_empty());
        assert!(it.stream.is_rejecting(CDS));
        let repair = it.update(&snapshot(&[(CDS, "a", 3), (CDS, "b", 1)]));
        assert_eq!(shorts(&repair), ["cluster a=3 b=1"]);
        it.sotw(CDS, &[], Some(&repair), None);
        assert!(it.stream.is_converged(CDS));
    }
}

#[test]
fn case_04_sotw_an_answer_does_not_leave_out_what_was_rejected() {
    let mut it = open(Scope::Aggregated, &[(CDS, "a", 1), (CDS, "b", 1)]);
    let first = it.sotw(CDS, &["a"], None, None);
    it.sotw(CDS, &["a"], Some(&first), None);
    let push = it.update(&snapshot(&[(CDS, "a", 2), (CDS, "b", 1)]));
    it.sotw(CDS, &["a"], Some(&push), rejection());
    // Left out of a full set, the cluster would be removed.
    let answer = it.sotw(CDS, &["a", "b"], Some(&push), None);
    assert_eq!(shorts(&answer), ["cluster b=1 a=2"]);
    it.sotw(CDS, &["a", "b"], Some(&answer), None);
    assert!(!it.stream.is_rejecting(CDS) && it.stream.is_converged(CDS));
}

#[test]
fn case_05_sotw_a_nack_that_changes_the_subscription() {
    for scope in scopes(Route) {
        let mut it = open(scope, &[(Route, "a", 1), (Route, "b", 1)]);
        let first = it.sotw(Route, &["a"], None, None);
        let output = it.sotw(Route, &["a", "b"], Some(&first), rejection());
        assert!(is_nack(&output));
        assert_eq!(shorts(&output), ["route b=1"]);
    }
}

#[test]
fn case_06_sotw_an_empty_first_request_is_a_wildcard_for_clusters_and_listeners_only() {
    for ty in ResourceType::ALL {
        for scope in scopes(ty) {
            let expected = if ty.is_full_set() { vec![format!("{} a=1", ty.label())] } else { vec![] };
            assert_eq!(shorts(&open(scope, &[(ty, "a", 1)]).sotw(ty, &[], None, None)), expected);
        }
    }
}

#[test]
fn case_07_sotw_star_and_a_then_a_then_nothing() {
    for scope in scopes(CDS) {
        let mut it = open(scope, &[(CDS, "a", 1), (CDS, "b", 1)]);
        let first = it.sotw(CDS, &["*", "a"], None, None);
        assert_eq!(shorts(&first), ["cluster a=1 b=1"]);
        it.sotw(CDS, &["a"], Some(&first), None);
        let push = it.update(&snapshot(&[(CDS, "a", 2), (CDS, "b", 2)]));
        assert_eq!(shorts(&push), ["cluster a=2"]);
        assert!(shorts(&it.sotw(CDS, &[], Some(&push), None)).is_empty());
        assert!(shorts(&it.update(&snapshot(&[(CDS, "a", 3), (CDS, "b", 3)]))).is_empty());
    }
}

#[test]
fn case_09_sotw_unsubscribing_under_a_wildcard() {
    for scope in scopes(CDS) {
        let mut it = open(scope, &[(CDS, "a", 1), (CDS, "b", 1)]);
        let first = it.sotw(CDS, &["*", "a"], None, None);
        assert_eq!(shorts(&it.sotw(CDS, &["*"], Some(&first), None)), ["cluster a=1 b=1"]);
    }
}

#[test]
fn case_10_sotw_a_known_name_is_sent_again_when_subscribed_again() {
    for ty in [Endpoint, Route, Secret] {
        for scope in scopes(ty) {
            let mut it = open(scope, &[(ty, "a", 1), (ty, "b", 1)]);
            let mut last = it.sotw(ty, &["a", "b"], None, None);
            for _ in 0..3 {
                assert!(shorts(&it.sotw(ty, &["b"], Some(&last), None)).is_empty());
                last = it.sotw(ty, &["a", "b"], Some(&last), None);
                assert_eq!(shorts(&last), [format!("{} a=1", ty.label())]);
            }
        }
    }
}

#[test]
fn case_11_sotw_unknown_endpoints_are_an_empty_assignment() {
    for scope in scopes(Endpoint) {
        let mut it = open(scope, &[]);
        let first = it.sotw(Endpoint, &["a"], None, None);
        assert_eq!(shorts(&first), ["endpoint a=none"]);
        it.sotw(Endpoint, &["a"], Some(&first), None);
        let push = it.update(&snapshot(&[(Endpoint, "a", 1)]));
        assert_eq!(shorts(&push), ["endpoint a=1"]);
        it.sotw(Endpoint, &["a"], Some(&push), None);
        assert_eq!(shorts(&it.update(&snapshot(&[]))), ["endpoint a=none"]);
    }
}

#[test]
fn case_11_24_sotw_routes_and_secrets_that_come_later_are_pushed() {
    for ty in [Route, Secret] {
        for scope in scopes(ty) {
            let mut it = open(scope, &[]);
            // An empty response would end the warming of the listener that waits for it.
            assert!(shorts(&it.sotw(ty, &["a"], None, None)).is_empty());
            assert_eq!(shorts(&it.update(&snapshot(&[(ty, "a", 1)]))), [format!("{} a=1", ty.label())]);
        }
    }
}

#[test]
fn case_11_sotw_unknown_clusters_and_listeners_are_missing_from_the_full_set() {
    for ty in [CDS, Listener] {
        let mut it = open(Scope::Aggregated, &[(ty, "b", 1)]);
        assert_eq!(shorts(&it.sotw(ty, &["a", "b"], None, None)), [format!("{} b=1", ty.label())]);
    }
}

#[test]
fn case_12_sotw_the_first_wildcard_is_answered_even_with_nothing() {
    for ty in [CDS, Listener] {
        for scope in scopes(ty) {
            assert_eq!(shorts(&open(scope, &[]).sotw(ty, &[], None, None)), [ty.label()]);
        }
    }
}

#[test]
fn case_13_sotw_a_reconnect_with_everything_is_sent_nothing() {
    for scope in scopes(CDS) {
        let mut it = open(scope, &[(CDS, "a", 1)]);
        let version = it.stream.target.of_type(CDS).version().to_string();
        let request = DiscoveryRequest { type_url: CDS.type_url().into(), version_info: version, ..Default::default() };
        assert!(shorts(&it.stream.on_sotw(request).unwrap()).is_empty());
        assert_eq!(shorts(&it.update(&snapshot(&[(CDS, "a", 2)]))), ["cluster a=2"]);
    }
}

#[test]
fn case_13_sotw_a_reconnect_with_a_version_of_fewer_names_is_sent_the_rest() {
    for ty in [CDS, Listener] {
        for scope in scopes(ty) {
            let mut it = open(scope, &[(ty, "a", 1), (ty, "b", 1)]);
            let version = it.sotw(ty, &["a"], None, None).responses[0].version;
            let mut it = open(scope, &[(ty, "a", 1), (ty, "b", 1)]);
            let request = DiscoveryRequest {
                type_url: ty.type_url().into(),
                resource_names: owned(&["*"]),
                version_info: version.to_string(),
                ..Default::default()
            };
            let output = it.stream.on_sotw(request).unwrap();
            assert_eq!(shorts(&output), [format!("{} a=1 b=1", ty.label())]);
        }
    }
}

#[test]
fn case_15_sotw_clusters_and_listeners_are_full_sets_and_others_partial() {
    for ty in ResourceType::ALL {
        for scope in scopes(ty) {
            let mut it = open(scope, &[(ty, "a", 1), (ty, "b", 1)]);
            let first = it.sotw(ty, &["a", "b"], None, None);
            it.sotw(ty, &["a", "b"], Some(&first), None);
            let push = it.update(&snapshot(&[(ty, "a", 1), (ty, "b", 2)]));
            let expected = if ty.is_full_set() { "a=1 b=2" } else { "b=2" };
            assert_eq!(shorts(&push), [format!("{} {expected}", ty.label())]);
        }
    }
}

#[test]
fn case_16_sotw_no_name_twice() {
    let mut it = open(Scope::Aggregated, &[(CDS, "a", 1)]);
    assert_eq!(shorts(&it.sotw(CDS, &["a", "*", "a"], None, None)), ["cluster a=1"]);
    assert_eq!(shorts(&it.sotw(Endpoint, &["x", "x"], None, None)), ["endpoint x=none"]);
}

#[test]
fn case_27_sotw_snapshots_coalesce_until_the_ack() {
    for scope in scopes(CDS) {
        let mut it = open(scope, &[(CDS, "a", 0)]);
        let first = it.sotw(CDS, &[], None, None);
        for version in 1..=100 {
            assert!(shorts(&it.update(&snapshot(&[(CDS, "a", version)]))).is_empty());
        }
        assert_eq!(shorts(&it.sotw(CDS, &[], Some(&first), None)), ["cluster a=100"]);
    }
}

#[test]
fn case_28_sotw_two_requests_before_the_first_response_both_count() {
    let mut it = open(Scope::Aggregated, &[(Secret, "a", 1), (Secret, "b", 1)]);
    assert_eq!(shorts(&it.sotw(Secret, &["a"], None, None)), ["secret a=1"]);
    assert_eq!(shorts(&it.sotw(Secret, &["a", "b"], None, None)), ["secret b=1"]);
}
