//! Requests that make no sense.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Parts of a request that need not make sense together.
#[derive(Debug, Clone)]
struct Garbage {
    type_url: String,
    subscribe: Vec<String>,
    unsubscribe: Vec<String>,
    nonce: String,
    is_nack: bool,
    initial: Vec<(String, String)>,
}

fn garbage() -> impl Strategy<Value = Garbage> {
    let mut urls: Vec<_> = ResourceType::ALL.iter().map(|ty| ty.type_url().to_owned()).collect();
    urls.extend([String::new(), "type.googleapis.com/no.such.Type".into()]);
    let name = || prop::sample::select(vec!["a", "b", "", "*", "made up", "\u{0}é"]).prop_map(str::to_owned);
    let names = || prop::collection::vec(name(), 0..4);
    let nonce = prop_oneof![Just(String::new()), (0..30_u64).prop_map(|n| n.to_string()), Just("\u{7}".to_owned())];
    let version = prop_oneof![Just(String::new()), (0..9_u32).prop_map(|n| Version::of(&n).to_string())];
    let initial = prop::collection::vec((name(), version), 0..3);
    (prop::sample::select(urls), names(), names(), nonce, any::<bool>(), initial).prop_map(
        |(type_url, subscribe, unsubscribe, nonce, is_nack, initial)| Garbage {
            type_url,
            subscribe,
            unsubscribe,
            nonce,
            is_nack,
            initial,
        },
    )
}

impl Garbage {
    fn give_to(self, stream: &mut AdsStream) -> Result<Output, ProtocolError> {
        let error_detail = self.is_nack.then(|| rejection().unwrap());
        match stream.protocol {
            Protocol::Delta => stream.on_delta(DeltaDiscoveryRequest {
                type_url: self.type_url,
                resource_names_subscribe: self.subscribe,
                resource_names_unsubscribe: self.unsubscribe,
                initial_resource_versions: self.initial.into_iter().collect(),
                response_nonce: self.nonce,
                error_detail,
                ..Default::default()
            }),
            Protocol::Sotw => stream.on_sotw(DiscoveryRequest {
                type_url: self.type_url,
                resource_names: self.subscribe,
                version_info: self.initial.into_iter().next().map(|(_, version)| version).unwrap_or_default(),
                response_nonce: self.nonce,
                error_detail,
                ..Default::default()
            }),
        }
    }
}

proptest! {
    #[test]
    fn no_request_breaks_a_stream_or_makes_it_grow(
        requests in prop::collection::vec(garbage(), 0..60),
        is_delta: bool,
        single in prop::option::of(0..ResourceType::COUNT),
    ) {
        let protocol = if is_delta { Protocol::Delta } else { Protocol::Sotw };
        let scope = single.map_or(Scope::Aggregated, |ty| Scope::Single(ResourceType::ALL[ty]));
        let mut stream = AdsStream::new(protocol, scope, Snapshot::empty());
        for (index, garbage) in requests.into_iter().enumerate() {
            let changed = index % 3 == 0;
            let output = if changed {
                let target = ResourceType::ALL.map(|ty| (ty, ["a", "b", ""][index / 3 % 3], index as u32 / 6));
                stream.on_snapshot(snapshot(&target))
            } else {
                match garbage.give_to(&mut stream) {
                    Ok(output) => output,
                    Err(_) => return Ok(()),
                }
            };
            prop_assert!(output.responses.len() <= 4, "{:?}", output.responses);
            for response in &output.responses {
                let named = response.resources.iter().map(|r| r.name()).chain(&response.removed);
                let named: Vec<_> = named.collect();
                let distinct: BTreeSet<_> = named.iter().collect();
                prop_assert_eq!(distinct.len(), named.len(), "twice in {}", short(response));
                let state = stream.state(response.ty);
                prop_assert!(named.iter().all(|name| state.subscribes(name)), "not asked for in {}", short(response));
            }
            for state in &stream.types {
                // Three names there are, and two more that clients make up.
                prop_assert!(state.names.len() <= 5 && state.behind.len() <= 5);
                prop_assert!(state.in_flight.len() <= 2 * index + 2);
            }
        }
    }
}
