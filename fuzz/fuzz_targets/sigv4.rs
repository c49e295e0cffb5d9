//! Any bytes as an AWS signature: no panic, and what is read of it is harmless in the signature that takes its place.
#![no_main]

use agent_creds::vault::sigv4::{Signature, authorization, presigned};
use libfuzzer_sys::fuzz_target;

fn check(signature: &Signature<'_>) {
    let id = signature.access_key_id();
    assert!(!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'));
    for name in [signature.region(), signature.service()] {
        assert!(name.len() <= 40 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)));
    }
    signature.covers("x-amz-date");
}

fuzz_target!(|bytes: &[u8]| {
    if let Some(Ok(signature)) = authorization(bytes) {
        check(&signature);
    }
    // Past the scheme, which is hard to guess.
    let value = [b"AWS4-HMAC-SHA256 Credential=", bytes].concat();
    if let Some(Ok(signature)) = authorization(&value) {
        check(&signature);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let target = format!("/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20130524T000000Z&X-Amz-Signature=0&{text}");
    for target in [text, &target] {
        if let Some(Ok(signature)) = presigned(target) {
            check(&signature);
        }
    }
});
