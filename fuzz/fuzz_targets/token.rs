//! Any bytes as a token: no panic, one encoding, and no token without the key.
#![no_main]

use agent_creds::domain::macaroon::{Keyring, Token, TokenPrefix, verify};
use agent_creds::domain::secret::SigningKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let prefix = TokenPrefix::default();
    prefix.looks_like_token(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Token::parse(text, &prefix);
    }
    let Ok(token) = Token::from_bytes(bytes) else { return };
    let text = token.encode(&prefix);
    assert!(Token::parse(&text, &prefix).is_ok_and(|again| again.encode(&prefix) == text));
    let key = SigningKey::new(vec![7; 32]).expect("32 bytes are a key");
    assert!(verify(&token, &Keyring::single(&key)).is_err());
});
