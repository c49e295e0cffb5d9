//! Bad input, and resources that cannot be had.

use super::*;

#[test]
fn case_17_the_node_is_not_needed_again_and_not_looked_at_here() {
    let mut it = Harness::new(Protocol::Delta, Scope::Aggregated, &snapshot(&[(CDS, "a", 1)]));
    let first = it.delta(CDS, &[], &[]);
    assert!(is_ack(&it.answer_delta(&first, None)));
}

#[test]
fn case_19_an_unknown_type_is_ignored_and_the_stream_lives() {
    let url = format!("type.googleapis.com/{}", "x".repeat(1000));
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let mut it = Harness::new(protocol, Scope::Aggregated, &snapshot(&[(CDS, "a", 1)]));
        let output = match protocol {
            Protocol::Delta => {
                it.stream.on_delta(DeltaDiscoveryRequest { type_url: url.clone(), ..Default::default() })
            }
            Protocol::Sotw => it.stream.on_sotw(DiscoveryRequest { type_url: url.clone(), ..Default::default() }),
        }
        .unwrap();
        assert!(output.responses.is_empty());
        assert!(matches!(&output.events[..], [Event::Ignored { type_url }] if type_url.len() <= 256));
    }
}

#[test]
fn a_type_that_a_stream_does_not_serve_is_an_error() {
    let target = snapshot(&[]);
    let mut single = AdsStream::new(Protocol::Delta, Scope::Single(Secret), target.clone());
    let request = |url: &str| DeltaDiscoveryRequest { type_url: url.into(), ..Default::default() };
    assert!(single.on_delta(request("")).is_ok());
    let error = single.on_delta(request(CDS.type_url())).unwrap_err();
    assert_eq!(error, ProtocolError::WrongType { served: Secret });
    let mut aggregated = AdsStream::new(Protocol::Delta, Scope::Aggregated, target);
    assert_eq!(aggregated.on_delta(request("")).unwrap_err(), ProtocolError::NoType);
}

#[test]
fn too_many_or_too_long_names_are_an_error() {
    let exhausted = |error| matches!(error, ProtocolError::ResourceExhausted { .. });
    let many: Vec<String> = (0..=MAX_NAMES).map(|i| format!("n{i}")).collect();
    let long = vec!["x".repeat(MAX_NAME_LEN + 1)];
    for names in [many, long] {
        let mut delta = AdsStream::new(Protocol::Delta, Scope::Single(Secret), snapshot(&[]));
        let request = DeltaDiscoveryRequest { resource_names_subscribe: names.clone(), ..Default::default() };
        assert!(exhausted(delta.on_delta(request).unwrap_err()));
        let mut sotw = AdsStream::new(Protocol::Sotw, Scope::Single(Secret), snapshot(&[]));
        let request = DiscoveryRequest { resource_names: names, ..Default::default() };
        assert!(exhausted(sotw.on_sotw(request).unwrap_err()));
    }
}

#[test]
fn a_client_that_subscribes_for_ever_and_never_answers_is_stopped() {
    let names: Vec<String> = (0..MAX_NAMES).map(|i| format!("n{i}")).collect();
    let mut stream = AdsStream::new(Protocol::Delta, Scope::Single(Secret), snapshot(&[]));
    let request = DeltaDiscoveryRequest { resource_names_subscribe: names, ..Default::default() };
    let errors = (0..5).filter_map(|_| stream.on_delta(request.clone()).err()).count();
    assert!(errors >= 1);
}

#[test]
fn a_resource_that_cannot_be_produced_does_not_exist_and_is_reported_once() {
    let broken = |version: u32| {
        let leaf = Resource::lazy(Secret, "leaf", Version::of(&version), || Err("no key".into()));
        build([leaf, resource(Secret, "good", 1)])
    };
    let target = broken(1);
    let mut one = Harness::new(Protocol::Delta, Scope::Aggregated, &target);
    let output = one.delta(Secret, &["leaf", "good"], &[]);
    assert_eq!(shorts(&output), ["secret good=1 -leaf"]);
    assert!(matches!(&output.events[..], [Event::Unavailable { name, reason, .. }]
        if &**name == "leaf" && &**reason == "no key"));
    one.answer_delta(&output, None);
    assert!(one.stream.is_converged(Secret));

    let mut two = Harness::new(Protocol::Sotw, Scope::Aggregated, &target);
    let output = two.sotw(Secret, &["leaf", "good"], None, None);
    assert_eq!(shorts(&output), ["secret good=1"]);
    assert!(output.events.is_empty());

    // Another version that fails as well: nothing to tell the client. One that does not: pushed.
    assert!(shorts(&one.update(&broken(2))).is_empty());
    assert!(one.stream.is_converged(Secret));
    assert_eq!(shorts(&one.update(&snapshot(&[(Secret, "leaf", 3), (Secret, "good", 1)]))), ["secret leaf=3"]);
}

#[test]
fn a_lazy_resource_is_not_produced_for_nobody() {
    let lazy =
        |version: u32| build([Resource::lazy(Secret, "leaf", Version::of(&version), || Err("nobody asked".into()))]);
    let mut it = Harness::new(Protocol::Delta, Scope::Aggregated, &lazy(1));
    it.delta(Secret, &["other"], &[]);
    let output = it.update(&lazy(2));
    assert!(output.responses.is_empty() && output.events.is_empty());
}

#[test]
fn a_stream_is_small() {
    assert!(size_of::<AdsStream>() <= 1024, "{}", size_of::<AdsStream>());
}

#[test]
fn ten_thousand_subscriptions_are_served() {
    let names: Vec<_> = (0..10_000).map(|i| format!("n{i}")).collect();
    let target = snapshot(&[(Secret, "n7", 1)]);
    let mut delta = Harness::new(Protocol::Delta, Scope::Aggregated, &target);
    let request = DeltaDiscoveryRequest {
        type_url: Secret.type_url().into(),
        resource_names_subscribe: names.clone(),
        ..Default::default()
    };
    let output = delta.request(request);
    let [response] = &output.responses[..] else { panic!("{output:?}") };
    assert_eq!((response.resources.len(), response.removed.len()), (1, 9_999));
    delta.answer_delta(&output, None);
    assert!(delta.stream.is_converged(Secret));

    let mut sotw = Harness::new(Protocol::Sotw, Scope::Aggregated, &target);
    let request = DiscoveryRequest { type_url: Secret.type_url().into(), resource_names: names, ..Default::default() };
    assert_eq!(shorts(&sotw.stream.on_sotw(request).unwrap()), ["secret n7=1"]);
}

#[test]
fn a_sotw_client_that_subscribes_for_ever_and_never_answers_is_stopped() {
    let names: Vec<_> = (0..4_000).map(|i| format!("n{i}")).collect();
    let target = build(names.iter().map(|name| resource(Route, name, 1)));
    let mut stream = AdsStream::new(Protocol::Sotw, Scope::Single(Route), target);
    let errors = (0..50).filter_map(|round| {
        let resource_names = if round % 2 == 0 { names.clone() } else { Vec::new() };
        stream.on_sotw(DiscoveryRequest { resource_names, ..Default::default() }).err()
    });
    assert!(matches!(errors.into_iter().next(), Some(ProtocolError::ResourceExhausted { limit: MAX_UNANSWERED, .. })));
}

#[test]
fn case_28_nothing_is_kept_of_names_that_were_never_subscribed() {
    let names: Vec<_> = (0..10_000).map(|i| format!("n{i}")).collect();
    let mut it = Harness::new(Protocol::Delta, Scope::Aggregated, &snapshot(&[(CDS, "a", 1)]));
    let first = it.delta(CDS, &["*"], &[]);
    it.answer_delta(&first, None);
    let request = DeltaDiscoveryRequest {
        type_url: CDS.type_url().into(),
        resource_names_unsubscribe: names,
        ..Default::default()
    };
    assert!(it.request(request).responses.is_empty());
    let state = it.stream.state(CDS);
    assert!(state.names.is_empty() && state.behind.is_empty() && state.in_flight.is_empty());
}

#[test]
fn a_nonce_is_what_was_sent_and_nothing_like_it() {
    for nonce in ["01", "+1", " 1", "1 ", "1.0", "0", "2", "18446744073709551617", "-1"] {
        let mut it = Harness::new(Protocol::Delta, Scope::Aggregated, &snapshot(&[(CDS, "a", 1)]));
        let first = it.delta(CDS, &[], &[]);
        assert_eq!(first.responses[0].nonce, 1);
        let request = DeltaDiscoveryRequest {
            type_url: CDS.type_url().into(),
            response_nonce: nonce.into(),
            ..Default::default()
        };
        assert!(it.request(request).events.is_empty(), "{nonce:?}");
        assert!(!it.stream.is_converged(CDS));
    }
}
