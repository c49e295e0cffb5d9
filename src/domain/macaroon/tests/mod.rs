//! The vectors of the Go library, every caveat and every refusal; then discharges, and the laws of macaroons.

mod discharges;
mod laws;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

use super::codec::{put_array, put_bin, put_boolean, put_str, put_unsigned};
use super::verify::{Keyed, extend};
use super::*;
use crate::domain::names::{Host, SandboxId};
use crate::domain::policy::RequestPath;
use crate::domain::secret::SigningKey;

const NOW: u64 = 1_800_000_000;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../../integration/token-vectors.json")).unwrap()
}

fn vector_key(vectors: &Value) -> SigningKey {
    SigningKey::new(STANDARD.decode(vectors["signing_key_b64"].as_str().unwrap()).unwrap()).unwrap()
}

fn vector_text(case: &Value) -> String {
    let token = case["token"].as_str().unwrap();
    case["discharge"].as_str().map_or(token.to_owned(), |discharge| format!("{token},{discharge}"))
}

fn key() -> SigningKey {
    SigningKey::new(vec![7; 32]).unwrap()
}

fn keys() -> Keyring {
    Keyring::single(&key())
}

fn parse(text: &str) -> Result<Token, TokenError> {
    Token::parse(text, &TokenPrefix::default())
}

fn parse_and_verify(text: &str, keys: &Keyring) -> Result<Verified, TokenError> {
    verify(&parse(text)?, keys)
}

fn minted(restrictions: &[Restriction]) -> Macaroon {
    mint(&key(), &KeyId::default(), [9; 16], restrictions).unwrap()
}

fn verified(restrictions: &[Restriction]) -> Verified {
    verify(&minted(restrictions).into(), &keys()).unwrap()
}

fn hosts(names: &[&str]) -> Restriction {
    Restriction::Hosts(names.iter().map(|name| name.parse().unwrap()).collect())
}

fn methods(names: &[&str]) -> Restriction {
    Restriction::Methods(names.iter().map(|name| name.parse().unwrap()).collect())
}

fn paths(patterns: &[&str]) -> Restriction {
    Restriction::Paths(patterns.iter().map(|pattern| pattern.parse().unwrap()).collect())
}

fn check(verified: &Verified, host: &str, method: &str, target: &str, now: u64) -> Result<(), CaveatError> {
    let (host, sandbox): (Host, SandboxId) = (host.parse().unwrap(), "box".parse().unwrap());
    let path = RequestPath::from_target(target);
    verified.check(&CaveatRequest {
        host: &host,
        method,
        path,
        sandbox: &sandbox,
        instance: None,
        issuer: Issuer::Own,
        now,
    })
}

/// The caveats of a vector, as ours to write and as its own words.
fn restrictions(case: &Value) -> Vec<Restriction> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let refs = |texts: &[String], make: fn(&[&str]) -> Restriction| {
        make(&texts.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let one = |caveat: &Value| {
        let (kind, body) = caveat.as_object().unwrap().iter().next().unwrap();
        match kind.as_str() {
            "validity_window" => Restriction::ValidityWindow {
                not_before: body[0].as_i64().unwrap(),
                not_after: body[1].as_i64().unwrap(),
            },
            "hosts" => refs(&texts(body), hosts),
            "methods" => refs(&texts(body), methods),
            "paths" => refs(&texts(body), paths),
            other => panic!("the vectors have a new kind of caveat: {other}"),
        }
    };
    case["caveats"].as_array().map(|caveats| caveats.iter().map(one).collect()).unwrap_or_default()
}

#[test]
fn every_vector_verifies_or_does_not_as_it_says() {
    let vectors = vectors();
    let keys = Keyring::single(&vector_key(&vectors));
    for case in vectors["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let result = parse_and_verify(&vector_text(case), &keys);
        assert_eq!(result.is_ok(), case["signature_valid"].as_bool().unwrap(), "{name}: {result:?}");
        let Ok(verified) = result else { continue };
        let wanted = self::verified(&restrictions(case));
        assert_eq!(verified.caveats(), wanted.caveats(), "{name}");
        let claims = Claims::of(&parse(&vector_text(case)).unwrap()).unwrap();
        assert_eq!(claims.caveats(), wanted.caveats(), "{name}, taken at its word");
        if let Some(random) = case["rnd_hex"].as_str() {
            assert_eq!(verified.id().to_string(), random, "{name}");
        }
    }
}

#[test]
fn every_vector_is_reproduced_byte_for_byte() {
    let vectors = vectors();
    let key = vector_key(&vectors);
    let mut reproduced = 0;
    for case in vectors["cases"].as_array().unwrap() {
        if let Ok(token) = parse(&vector_text(case)) {
            assert_eq!(*token.encode(&TokenPrefix::default()), vector_text(case), "{} read and written", case["name"]);
        }
        let Some(random) = case["rnd_hex"].as_str().filter(|_| case["signature_valid"] == true) else { continue };
        let random = u128::from_str_radix(random, 16).unwrap().to_be_bytes();
        let key_id = case["kid"].as_str().unwrap().parse().unwrap();
        let restrictions = restrictions(case);
        let at_once = mint(&key, &key_id, random, &restrictions).unwrap();
        assert_eq!(*at_once.encode(&TokenPrefix::default()), case["token"].as_str().unwrap(), "{}", case["name"]);
        let one_by_one =
            restrictions.iter().fold(mint(&key, &key_id, random, &[]).unwrap(), |macaroon, restriction| {
                attenuate(&macaroon, std::slice::from_ref(restriction)).unwrap()
            });
        assert_eq!(*one_by_one.to_bytes(), *at_once.to_bytes(), "{}", case["name"]);
        reproduced += 1;
    }
    assert_eq!(reproduced, 11);
}

#[test]
fn keys_are_chosen_by_id() {
    let other = SigningKey::new(vec![8; 40]).unwrap();
    let id: KeyId = "2026-11".parse().unwrap();
    let token = Token::from(mint(&other, &id, [1; 16], &[]).unwrap());
    let both = Keyring::default().with(KeyId::default(), &key()).with(id.clone(), &other);
    assert!(verify(&token, &both).is_ok());
    assert!(verify(&minted(&[]).into(), &both).is_ok());
    assert_eq!(verify(&token, &Keyring::default().with(KeyId::default(), &key())).unwrap_err(), TokenError::UnknownKey);
    assert_eq!(verify(&token, &Keyring::default().with(id, &key())).unwrap_err(), TokenError::Signature);
    assert_eq!(verify(&token, &keys()).unwrap_err(), TokenError::Signature);
    assert!(verify(&token, &Keyring::single(&other)).is_ok());
}

#[test]
fn keys_of_any_length_are_used_whole() {
    // RFC 4231, test cases 2 (a short key) and 6 (longer than a block).
    let hex = |tail: &[u8]| tail.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let tail = Keyed::new(b"Jefe").sign(&[b"what do ya want ", b"for nothing?"]);
    assert_eq!(hex(&*tail), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    let tail = Keyed::new(&[0xaa; 131]).sign(&[b"Test Using Larger Than Block-Size Key - Hash Key First"]);
    assert_eq!(hex(&*tail), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

#[test]
fn each_caveat_allows_what_it_says_and_nothing_else() {
    let window = Restriction::ValidityWindow { not_before: 100, not_after: 200 };
    let token = verified(&[
        window,
        hosts(&["api.stripe.com", "*.s3.amazonaws.com"]),
        methods(&["GET"]),
        paths(&["/v1/**"]),
        Restriction::Sandbox("box".parse().unwrap()),
    ]);
    let ok = |host, method, target, now| check(&token, host, method, target, now);
    assert_eq!(ok("api.stripe.com", "GET", "/v1/x?y=1", 100), Ok(()));
    assert_eq!(ok("a.b.s3.amazonaws.com", "GET", "/v1", 200), Ok(()));
    assert_eq!(token.expires(), Some(200));

    let message = |result: Result<(), CaveatError>| result.unwrap_err().to_string();
    // Everything is wrong: the time is named first, and so on down.
    assert_eq!(message(ok("evil.com", "PUT", "/x", 201)), "token expired at 1970-01-01T00:03:20Z");
    assert_eq!(message(ok("evil.com", "PUT", "/x", 99)), "token not yet valid, it begins at 1970-01-01T00:01:40Z");
    assert_eq!(
        message(ok("evil.com", "PUT", "/x", 150)),
        "host not allowed: evil.com (the token allows api.stripe.com, *.s3.amazonaws.com)"
    );
    assert!(message(ok("s3.amazonaws.com", "GET", "/v1", 150)).starts_with("host not allowed"));
    assert_eq!(message(ok("api.stripe.com", "PUT", "/x", 150)), "method not allowed: PUT (the token allows GET)");
    assert_eq!(message(ok("api.stripe.com", "GET", "/x?/v1/x", 150)), "path not allowed: /x (the token allows /v1/**)");
    for target in ["/v1/../x", "/v1/%2e%2e/x", "*", "/v1//x"] {
        assert!(matches!(ok("api.stripe.com", "GET", target, 150), Err(CaveatError::Path { .. })), "{target}");
    }
    let (host, other): (Host, SandboxId) = ("api.stripe.com".parse().unwrap(), "other".parse().unwrap());
    let path = RequestPath::from_target("/v1");
    let request = CaveatRequest {
        host: &host,
        method: "GET",
        path,
        sandbox: &other,
        instance: None,
        issuer: Issuer::Own,
        now: 150,
    };
    let error = token.check(&request).unwrap_err();
    assert_eq!(error.to_string(), "sandbox not allowed: other (the token is for box)");
    assert!(!error.is_about_time());
    assert!(ok("evil.com", "PUT", "/x", 201).unwrap_err().is_about_time());
    assert!(ok("evil.com", "PUT", "/x", u64::MAX).unwrap_err().is_about_time());
}

#[test]
fn empty_lists_allow_nothing() {
    for nothing in [hosts(&[]), methods(&[]), paths(&[])] {
        let error = check(&verified(&[nothing]), "api.stripe.com", "GET", "/", NOW).unwrap_err();
        assert!(error.to_string().ends_with("(the token allows none)"), "{error}");
    }
}

/// A signed token with one caveat of any type and list.
fn with_texts(kind: u64, texts: &[&str]) -> Verified {
    let mut caveat = Vec::new();
    put_unsigned(&mut caveat, kind);
    put_array(&mut caveat, 1);
    put_array(&mut caveat, texts.len());
    texts.iter().for_each(|text| put_str(&mut caveat, text));
    verify(&parse(&text_of(&build(b"primary", LOCATION, &[caveat], false, key().expose()))).unwrap(), &keys()).unwrap()
}

#[test]
fn what_others_wrote_is_matched_strictly() {
    let host = |entry| check(&with_texts((1 << 32) + 1, &[entry]), "api.stripe.com", "GET", "/v1", NOW).is_ok();
    assert!(host("API.Stripe.com") && host("api.stripe.com.") && host("*.stripe.com") && host("*.STRIPE.com"));
    for entry in
        ["", "*", "*.com", "*stripe.com", "*.", "api.*.com", "api.stripe.com..", "api.stripe.com:443", ".", "é"]
    {
        assert!(!host(entry), "{entry}");
    }
    let method = |entry| check(&with_texts((1 << 32) + 2, &[entry]), "api.stripe.com", "GET", "/v1", NOW).is_ok();
    assert!(method("GET") && method("get") && !method("") && !method("*") && !method("GET "));
    let path = |entry| check(&with_texts((1 << 32) + 3, &[entry]), "api.stripe.com", "GET", "/v1", NOW).is_ok();
    assert!(path("/v1") && path("/v1/**") && path("/*"));
    for entry in ["", "v1", "**", "/v1?", "/v1#", "/v**", "//v1", "/V1", "/v1\n"] {
        assert!(!path(entry), "{entry}");
    }
    let long = vec!["a\u{1b}[2J\n.example"; 20];
    let message = check(&with_texts((1 << 32) + 1, &long), "x.com", "GET", "/", NOW).unwrap_err().to_string();
    assert!(message.ends_with("and 12 more)") && !message.contains(['\u{1b}', '\n']), "{message}");
}

/// The binary form of a macaroon over raw caveats.
fn build(key_id: &[u8], location: &str, caveats: &[Vec<u8>], proof: bool, key: &[u8]) -> Vec<u8> {
    let mut nonce = Vec::new();
    put_array(&mut nonce, 3);
    put_bin(&mut nonce, key_id);
    put_bin(&mut nonce, &[5; 16]);
    put_boolean(&mut nonce, proof);
    let mut tail = caveats.iter().fold(Keyed::new(key).sign(&[&nonce]), |tail, raw| extend(&tail, raw));
    if proof {
        tail = Keyed::new(b"proof-signature-finalization").sign(&[&*tail]);
    }
    let mut out = Vec::new();
    put_array(&mut out, 4);
    out.extend(nonce);
    put_str(&mut out, location);
    put_array(&mut out, 2 * caveats.len());
    caveats.iter().for_each(|raw| out.extend(raw));
    put_bin(&mut out, &*tail);
    out
}

fn text_of(bytes: &[u8]) -> String {
    format!("acm_{}", URL_SAFE_NO_PAD.encode(bytes))
}

fn raw(restriction: &Restriction) -> Vec<u8> {
    let mut out = Vec::new();
    restriction.write(&mut out);
    out
}

#[test]
fn old_nonces_without_proof_are_kept_as_they_came() {
    let mut nonce = Vec::new();
    put_array(&mut nonce, 2);
    put_bin(&mut nonce, b"primary");
    put_bin(&mut nonce, &[6; 16]);
    let mut bytes = vec![0x94];
    bytes.extend(&nonce);
    put_str(&mut bytes, LOCATION);
    put_array(&mut bytes, 0);
    put_bin(&mut bytes, &*Keyed::new(key().expose()).sign(&[&nonce]));
    let token = parse(&text_of(&bytes)).unwrap();
    assert!(verify(&token, &keys()).is_ok());
    assert_eq!(*token.encode(&TokenPrefix::default()), text_of(&bytes));
    assert!(verify(&attenuate(&token.macaroon, &[methods(&["GET"])]).unwrap().into(), &keys()).is_ok());
}

#[test]
fn what_is_no_token_says_why() {
    let good = minted(&[methods(&["GET"])]);
    let text = good.encode(&TokenPrefix::default());
    let bytes = good.to_bytes();
    let prefix = TokenPrefix::default();
    assert_eq!(parse("sk_test_123").unwrap_err(), TokenError::Prefix(prefix.clone()));
    assert_eq!(parse(&format!("{},{}", *text, &text[4..])).unwrap_err(), TokenError::Prefix(prefix));
    assert_eq!(parse("acm_").unwrap_err().to_string(), "the token is not a macaroon");
    assert_eq!(parse(&format!("{}=", *text)).unwrap_err(), TokenError::Base64);
    assert_eq!(parse(&format!("{} ", *text)).unwrap_err(), TokenError::Base64);
    assert!(parse(&format!("{},", *text)).is_err());
    assert!(parse(&text_of(&[&bytes[..], &[0]].concat())).unwrap_err().to_string().contains("not a macaroon"));
    let unknown = build(b"primary", LOCATION, &[vec![13, 0x90]], false, key().expose());
    assert_eq!(parse(&text_of(&unknown)).unwrap_err(), TokenError::UnsupportedCaveat(13));
    let elsewhere = build(b"primary", "flyio", &[], false, key().expose());
    assert_eq!(parse(&text_of(&elsewhere)).unwrap_err(), TokenError::Location);
    for (what, caveat) in [
        ("a window of three", &[4, 0x93, 0, 1, 2][..]),
        ("a window of one", &[4, 0x91, 0]),
        ("a window of texts", &[4, 0x92, 0xa0, 0xa0]),
        ("a window as a map", &[4, 0x82, 0, 1, 2, 3]),
        ("nil", &[4, 0xc0]),
        ("a host list that is a text", &[0xcf, 0, 0, 0, 1, 0, 0, 0, 1, 0x91, 0xa1, b'a']),
        ("a host list of numbers", &[0xcf, 0, 0, 0, 1, 0, 0, 0, 1, 0x91, 0x91, 1]),
        ("two host lists", &[0xcf, 0, 0, 0, 1, 0, 0, 0, 1, 0x92, 0x90, 0x90]),
        ("a negative type", &[0xff, 0x90]),
    ] {
        let bytes = build(b"primary", LOCATION, &[caveat.to_vec()], false, key().expose());
        assert!(matches!(parse(&text_of(&bytes)).unwrap_err(), TokenError::Malformed(_)), "{what}");
    }
}

#[test]
fn integers_may_come_in_any_form_since_they_are_signed_as_they_came() {
    let long = vec![0xcc, 4, 0x92, 0xcf, 0, 0, 0, 0, 0, 0, 0, 1, 0xd1, 0, 9];
    let text = text_of(&build(b"primary", LOCATION, std::slice::from_ref(&long), false, key().expose()));
    assert_eq!(parse_and_verify(&text, &keys()).unwrap().expires(), Some(9));
    // The same caveat in another form is another caveat.
    let short = text_of(&build(b"primary", LOCATION, &[vec![4, 0x92, 1, 9]], false, key().expose()));
    assert_ne!(text, short);
}

#[test]
fn limits_hold_before_any_cryptography_and_when_minting() {
    let window = Restriction::ValidityWindow { not_before: 0, not_after: 1 };
    let full = minted(&vec![window.clone(); MAX_CAVEATS]);
    assert!(verify(&full.clone().into(), &keys()).is_ok());
    assert_eq!(attenuate(&full, std::slice::from_ref(&window)).unwrap_err(), MintError::TooManyCaveats);
    let over = build(b"primary", LOCATION, &vec![raw(&window); MAX_CAVEATS + 1], false, key().expose());
    assert_eq!(parse(&text_of(&over)).unwrap_err(), TokenError::TooManyCaveats);
    // Discharges count too.
    let discharge = text_of(&build(b"a", "sso", &[raw(&window)], true, &[3; 32]));
    let both = format!("{},{discharge}", *full.encode(&TokenPrefix::default()));
    assert_eq!(parse(&both).unwrap_err(), TokenError::TooManyCaveats);

    let many: Vec<String> = (0..400).map(|n| format!("host-{n}.api.example.com")).collect();
    let many = hosts(&many.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(mint(&key(), &KeyId::default(), [0; 16], &[many]).unwrap_err(), MintError::TooLong);
    assert_eq!(parse(&format!("acm_{}", "A".repeat(MAX_TOKEN_BYTES))).unwrap_err(), TokenError::TooLong);
    assert_eq!(parse(&format!("acm_{}", "A".repeat(1 << 20))).unwrap_err(), TokenError::TooLong);
}

#[test]
fn debug_shows_nothing_to_use() {
    let token = Token::from(minted(&[hosts(&["api.stripe.com"])]));
    let text = token.encode(&TokenPrefix::default());
    let shown = format!("{token:?} {:?} {:?}", verify(&token, &keys()).unwrap(), keys());
    let tail = text.get(text.len() - 20..).unwrap();
    assert!(!shown.contains(tail) && !shown.contains("acm_"), "{shown}");
    assert!(shown.contains("09090909090909090909090909090909"), "{shown}");
}

#[test]
fn prefixes() {
    for good in ["acm_", "a", "A-1_", "0123456789abcdef"] {
        assert_eq!(good.parse::<TokenPrefix>().unwrap().as_str(), good);
    }
    for bad in ["", "0123456789abcdefg", "a,", "a b", "é", "a.b"] {
        assert!(bad.parse::<TokenPrefix>().is_err(), "{bad}");
    }
    let other: TokenPrefix = "tok-".parse().unwrap();
    let text = minted(&[]).encode(&other);
    assert!(text.starts_with("tok-") && Token::parse(&text, &other).is_ok() && parse(&text).is_err());
}

#[test]
fn tokens_are_seen_in_odd_places() {
    let prefix = TokenPrefix::default();
    let token = minted(&[]).encode(&prefix);
    let token = token.as_str();
    let least = &token[..4 + 43];
    let long = "lorem ipsum ".repeat(5000);
    for text in [
        token.to_owned(),
        least.to_owned(),
        format!("?key={token}"),
        format!("{long}{token}"),
        format!("{long}{token} {long}"),
        format!("\"{least}\""),
        format!("a%20{token}"),
        format!("%3D{least}"),
        format!("{}.{least}", "a".repeat(200)),
        format!("acm_short {least}"),
    ] {
        assert!(prefix.looks_like_token(text.as_bytes()), "{}", &text[text.len().saturating_sub(80)..]);
    }
    for text in [
        String::new(),
        "acm_".to_owned(),
        least[..46].to_owned(),
        format!("x{token}"),
        format!("{}{token}", "a".repeat(200)),
        format!("acm_{}.{}", "a".repeat(42), "b".repeat(42)),
        "a".repeat(100_000),
        "acm.".repeat(1000),
        long,
    ] {
        assert!(!prefix.looks_like_token(text.as_bytes()), "{}", &text[..text.len().min(80)]);
    }
}
