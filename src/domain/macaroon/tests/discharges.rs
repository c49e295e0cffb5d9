//! Third-party caveats and what discharges them.

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};

use super::*;

/// A third-party caveat sealed under the value of the chain after `before`, for the discharge key `[3; 32]`.
fn third_party(before: &[Vec<u8>], ticket: &[u8]) -> Vec<u8> {
    let mut nonce = Vec::new();
    put_array(&mut nonce, 3);
    put_bin(&mut nonce, b"primary");
    put_bin(&mut nonce, &[5; 16]);
    put_boolean(&mut nonce, false);
    let tail = before.iter().fold(Keyed::new(key().expose()).sign(&[&nonce]), |tail, raw| extend(&tail, raw));
    let cipher = ChaCha20Poly1305::new(&(*tail).into());
    let mut sealed = vec![1; 12];
    sealed.extend(cipher.encrypt(&Nonce::from([1; 12]), &[3; 32][..]).unwrap());
    let mut out = Vec::new();
    put_unsigned(&mut out, 11);
    put_array(&mut out, 3);
    put_str(&mut out, "sso");
    put_bin(&mut out, &sealed);
    put_bin(&mut out, ticket);
    out
}

fn bound_to(prefix: &[u8]) -> Vec<u8> {
    let mut out = vec![12];
    put_bin(&mut out, prefix);
    out
}

#[test]
fn discharges_must_fit() {
    let window = raw(&Restriction::ValidityWindow { not_before: 0, not_after: 300 });
    let ticket_a = third_party(std::slice::from_ref(&window), b"a");
    let root = text_of(&build(b"primary", LOCATION, &[window, ticket_a.clone()], false, key().expose()));
    let discharge = |location, ticket: &[u8], caveats: &[Vec<u8>], proof, key: u8| {
        text_of(&build(ticket, location, caveats, proof, &[key; 32]))
    };
    let result = |discharges: &[String]| parse_and_verify(&format!("{root},{}", discharges.join(",")), &keys());
    let shorter = raw(&Restriction::ValidityWindow { not_before: 0, not_after: 200 });

    let good = discharge("sso", b"a", &[shorter], true, 3);
    assert_eq!(result(std::slice::from_ref(&good)).unwrap().expires(), Some(200));
    assert!(result(&[discharge("sso", b"a", &[], false, 3)]).is_ok());
    assert_eq!(parse_and_verify(&root, &keys()).unwrap_err(), TokenError::MissingDischarge("sso".into()));
    assert_eq!(
        result(&[discharge("sso", b"b", &[], true, 3)]).unwrap_err(),
        TokenError::MissingDischarge("sso".into())
    );
    for (discharges, error) in [
        (vec![discharge("sso", b"a", &[], true, 4)], TokenError::Signature),
        (vec![discharge("evil", b"a", &[], true, 3)], TokenError::StrayDischarge),
        (vec![good.clone(), good.clone()], TokenError::StrayDischarge),
        (vec![good.clone(), discharge("sso", b"b", &[], true, 3)], TokenError::StrayDischarge),
        (vec![discharge("sso", b"a", &[ticket_a], true, 3)], TokenError::NestedDischarge),
        (vec![discharge("sso", b"a", &[bound_to(&[0; 16])], true, 3)], TokenError::BoundElsewhere),
    ] {
        assert_eq!(result(&discharges).unwrap_err(), error);
    }
    // A discharge, and a binding, where no parent is.
    assert_eq!(
        parse_and_verify(&format!("{},{good}", *minted(&[]).encode(&TokenPrefix::default())), &keys()).unwrap_err(),
        TokenError::StrayDischarge
    );
    let orphan = text_of(&build(b"primary", LOCATION, &[bound_to(&[0; 16])], false, key().expose()));
    assert_eq!(parse_and_verify(&orphan, &keys()).unwrap_err(), TokenError::BoundElsewhere);
    // A prefix of nothing binds to nothing.
    let unbound = discharge("sso", b"a", &[bound_to(&[])], true, 3);
    assert!(matches!(result(&[unbound]).unwrap_err(), TokenError::Malformed(_)));
}

#[test]
fn a_bound_discharge_goes_on_with_a_narrowed_token_only() {
    let vectors = vectors();
    let keys = Keyring::single(&vector_key(&vectors));
    let case = vectors["cases"].as_array().unwrap().iter().find(|case| case["name"] == "third_party_bound").unwrap();
    let mut token = parse(&vector_text(case)).unwrap();
    token.macaroon = attenuate(&token.macaroon, &[hosts(&["api.stripe.com"])]).unwrap();
    let verified = verify(&token, &keys).unwrap();
    assert_eq!(verified.caveats().len(), 3);
    assert_eq!(attenuate(&token.discharges[0], &[]).unwrap_err(), MintError::Final);
}
