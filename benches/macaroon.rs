//! Tokens: parsing, verifying and checking, by number of caveats.
#![allow(clippy::expect_used, reason = "a benchmark of what does not work has nothing to measure")]
#![allow(missing_docs, reason = "of what criterion's macros make")]

use std::hint::black_box;

use agent_creds::domain::macaroon::{
    CaveatRequest, Issuer, KeyId, Keyring, Restriction, Token, TokenPrefix, mint, verify,
};
use agent_creds::domain::policy::RequestPath;
use agent_creds::domain::secret::SigningKey;
use criterion::{Criterion, criterion_group, criterion_main};

/// Four kinds of caveats in turn.
fn restrictions(count: usize) -> Vec<Restriction> {
    let parsed = "these literals are valid";
    let kinds = [
        Restriction::ValidityWindow { not_before: 1_767_225_600, not_after: 4_102_444_800 },
        Restriction::Hosts(vec!["api.stripe.com".parse().expect(parsed), "api.openai.com".parse().expect(parsed)]),
        Restriction::Methods(vec!["GET".parse().expect(parsed), "POST".parse().expect(parsed)]),
        Restriction::Paths(vec!["/v1/customers/*".parse().expect(parsed), "/v1/charges/**".parse().expect(parsed)]),
    ];
    kinds.into_iter().cycle().take(count).collect()
}

fn tokens(c: &mut Criterion) {
    let key = SigningKey::new(vec![7; 32]).expect("32 bytes are a key");
    let keys = Keyring::single(&key);
    let prefix = TokenPrefix::default();
    let text = |count| {
        let macaroon = mint(&key, &KeyId::default(), [9; 16], &restrictions(count)).expect("within the limits");
        macaroon.encode(&prefix)
    };
    for count in [1, 4, 16] {
        let text = text(count);
        c.bench_function(&format!("macaroon/parse+verify/{count} caveats"), |b| {
            b.iter(|| verify(&Token::parse(black_box(&text), &prefix).expect("a token"), &keys).expect("valid"));
        });
    }

    let text = text(4);
    let token = Token::parse(&text, &prefix).expect("a token");
    c.bench_function("macaroon/parse/4 caveats", |b| b.iter(|| Token::parse(black_box(&text), &prefix)));
    c.bench_function("macaroon/verify/4 caveats", |b| b.iter(|| verify(black_box(&token), &keys)));

    let host = "api.stripe.com".parse().expect("a host");
    let sandbox = "myproject".parse().expect("a sandbox");
    let path = RequestPath::from_target("/v1/charges/ch_123?expand=customer");
    let request = CaveatRequest {
        host: &host,
        method: "POST",
        path,
        sandbox: &sandbox,
        instance: None,
        issuer: Issuer::Own,
        now: 1_800_000_000,
    };
    c.bench_function("macaroon/parse+verify+check/4 caveats", |b| {
        b.iter(|| {
            let token = Token::parse(black_box(&text), &prefix).expect("a token");
            verify(&token, &keys).expect("valid").check(black_box(&request)).expect("allowed");
        });
    });

    let page = "lorem ipsum dolor sit amet ".repeat(400);
    c.bench_function("macaroon/looks_like_token/10 KB of prose", |b| {
        b.iter(|| prefix.looks_like_token(black_box(page.as_bytes())));
    });
}

criterion_group!(benches, tokens);
criterion_main!(benches);
