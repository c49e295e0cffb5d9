//! What holds for every token: nothing widens it, nothing forged verifies, nothing panics.

use proptest::prelude::*;

use super::*;

fn any_restriction() -> impl Strategy<Value = Restriction> {
    let some = |names: &'static [&'static str]| prop::sample::subsequence(names, 0..=names.len());
    prop_oneof![
        (0i64..40, 0i64..40).prop_map(|(not_before, length)| Restriction::ValidityWindow {
            not_before,
            not_after: not_before + length
        }),
        some(&["a.example", "b.example", "*.a.example", "*.example.org"]).prop_map(|names| hosts(&names)),
        some(&["GET", "POST", "PUT"]).prop_map(|names| methods(&names)),
        some(&["/**", "/v1/*", "/v1/**", "/v2"]).prop_map(|patterns| paths(&patterns)),
        prop::sample::select(&["box", "other"][..]).prop_map(|id| Restriction::Sandbox(id.parse().unwrap())),
    ]
}

#[derive(Debug)]
struct AnyRequest(Host, &'static str, &'static str, SandboxId, u64);

impl AnyRequest {
    fn is_within(&self, verified: &Verified) -> bool {
        let Self(host, method, target, sandbox, now) = self;
        let path = RequestPath::from_target(target);
        verified
            .check(&CaveatRequest { host, method, path, sandbox, instance: None, issuer: Issuer::Own, now: *now })
            .is_ok()
    }
}

fn any_request() -> impl Strategy<Value = AnyRequest> {
    let one = |of: &'static [&'static str]| prop::sample::select(of);
    (
        one(&["a.example", "b.example", "x.a.example", "c.example.org"]),
        one(&["GET", "POST", "DELETE"]),
        one(&["/", "/v1", "/v1/x", "/v1/x/y", "/v2", "/v1/../v2", "*"]),
        one(&["box", "other"]),
        0u64..80,
    )
        .prop_map(|(host, method, target, sandbox, now)| {
            AnyRequest(host.parse().unwrap(), method, target, sandbox.parse().unwrap(), now)
        })
}

proptest! {
    #[test]
    fn attenuation_only_ever_narrows(
        first in prop::collection::vec(any_restriction(), 0..4),
        added in prop::collection::vec(any_restriction(), 0..3),
        requests in prop::collection::vec(any_request(), 20),
    ) {
        let before = minted(&first);
        let after = attenuate(&before, &added).unwrap();
        let before = verify(&before.into(), &keys()).unwrap();
        let after = verify(&parse(&after.encode(&TokenPrefix::default())).unwrap(), &keys()).unwrap();
        let alone = verified(&added);
        let narrowed = parse(&attenuate(&minted(&first), &added).unwrap().encode(&TokenPrefix::default())).unwrap();
        let claims = Claims::of(&narrowed).unwrap();
        prop_assert_eq!(claims.caveats(), after.caveats());
        for request in &requests {
            let wanted = request.is_within(&before) && request.is_within(&alone);
            prop_assert_eq!(request.is_within(&after), wanted, "{:?}", request);
        }
        prop_assert_eq!(before.id(), after.id());
    }

    #[test]
    fn no_caveat_can_be_removed_moved_or_changed(
        restrictions in prop::collection::vec(any_restriction(), 1..6), at in 0usize..6, other in 0usize..6,
        replacement in any_restriction(),
    ) {
        let macaroon = minted(&restrictions);
        let (at, other) = (at % restrictions.len(), other % restrictions.len());
        let refused = |change: &dyn Fn(&mut Vec<token::SignedCaveat>)| {
            let mut forged = macaroon.clone();
            change(&mut forged.caveats);
            let same = forged.to_bytes() == macaroon.to_bytes();
            same || parse_and_verify(&forged.encode(&TokenPrefix::default()), &keys()).err() == Some(TokenError::Signature)
        };
        prop_assert!(refused(&|caveats| drop(caveats.remove(at))), "removed");
        prop_assert!(refused(&|caveats| caveats.truncate(at)));
        prop_assert!(refused(&|caveats| caveats.swap(at, other)));
        prop_assert!(refused(&|caveats| caveats.push(caveats[at].clone())), "doubled");
        let replacement = minted(std::slice::from_ref(&replacement)).caveats.remove(0);
        prop_assert!(refused(&|caveats| caveats[at] = replacement.clone()));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), text in "\\PC{0,200}") {
        prop_assert!(parse_and_verify(&text_of(&bytes), &keys()).is_err());
        prop_assert!(parse_and_verify(&text, &keys()).is_err());
        prop_assert!(parse_and_verify(&["acm_", &text].concat(), &keys()).is_err());
    }

    #[test]
    fn looking_for_tokens_agrees_with_the_plain_definition(
        parts in prop::collection::vec("acm_|[a_-]{1,50}|[ ,.%&]|%20", 0..12)
    ) {
        let text = parts.concat();
        let bytes = text.as_bytes();
        let in_token = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        let plain = (0..bytes.len()).any(|at| {
            let escaped = at >= 3 && bytes[at - 3] == b'%' && bytes[at - 2..at].iter().all(in_token);
            let free = at == 0 || !in_token(&bytes[at - 1]) || escaped;
            let body = bytes[at..].strip_prefix(b"acm_");
            free && body.is_some_and(|body| body.len() >= 43 && body[..43].iter().all(in_token))
        });
        prop_assert_eq!(TokenPrefix::default().looks_like_token(bytes), plain, "{}", text);
    }
}

#[test]
fn every_flipped_bit_fails() {
    let vectors = vectors();
    let keys = Keyring::single(&vector_key(&vectors));
    let mut tried = 0;
    for case in vectors["cases"].as_array().unwrap().iter().filter(|case| case["signature_valid"] == true) {
        let text = vector_text(case);
        // In the binary form of each part, and in the text.
        let parts: Vec<&str> = text.split(',').collect();
        for (index, part) in parts.iter().enumerate() {
            let bytes = URL_SAFE_NO_PAD.decode(&part[4..]).unwrap();
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let mut forged: Vec<String> = parts.iter().map(|&part| part.to_owned()).collect();
                forged[index] = text_of(&flipped);
                assert!(parse_and_verify(&forged.join(","), &keys).is_err(), "{} bit {bit}", case["name"]);
                tried += 1;
            }
        }
        for at in 0..text.len() {
            for other in [b'A', b'_', b',', b'=', b' '] {
                let mut forged = text.clone().into_bytes();
                if std::mem::replace(&mut forged[at], other) != other {
                    assert!(
                        parse_and_verify(str::from_utf8(&forged).unwrap(), &keys).is_err(),
                        "{} {at}",
                        case["name"]
                    );
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 20_000, "{tried}");
}

/// What a fuzzer would do, the same on every run: 30,000 vectors with bytes changed, cut out, doubled and spliced.
#[test]
fn mutated_vectors_never_panic_nor_verify() {
    let vectors = vectors();
    let keys = Keyring::single(&vector_key(&vectors));
    let seeds: Vec<Vec<u8>> = vectors["cases"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|case| URL_SAFE_NO_PAD.decode(&case["token"].as_str().unwrap()[4..]).ok())
        .collect();
    // SplitMix64: numbers without a dependency or a clock.
    let mut state = 0x5eed_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(below.max(1)).unwrap()).unwrap()
    };
    const MARKERS: &[u8] = &[0x90, 0x94, 0xa0, 0xc0, 0xc2, 0xc4, 0xc5, 0xc6, 0xcf, 0xd9, 0xdc, 0xdd, 0xdf, 0xff, 0x00];
    let mut decoded = 0;
    for _ in 0..30_000 {
        let seed = &seeds[random(seeds.len())];
        let mut bytes = seed.clone();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            match random(6) {
                0 if !bytes.is_empty() => bytes[at] = MARKERS[random(MARKERS.len())],
                1 if !bytes.is_empty() => bytes[at] ^= 1 << random(8),
                2 => bytes.truncate(at),
                3 => bytes.insert(at, MARKERS[random(MARKERS.len())]),
                4 => {
                    let other = &seeds[random(seeds.len())];
                    bytes.truncate(at);
                    bytes.extend(&other[random(other.len())..]);
                }
                _ => {
                    let end = at + random(bytes.len() - at);
                    bytes.drain(at..end);
                }
            }
        }
        let text = text_of(&bytes);
        let Ok(token) = parse(&text) else { continue };
        decoded += 1;
        assert_eq!(*token.encode(&TokenPrefix::default()), text, "a token has one encoding");
        let verified = verify(&token, &keys).is_ok();
        assert!(!verified || seeds.contains(&bytes), "{text}");
    }
    assert!(decoded > 1_000, "only {decoded} reached the verifier");
}
