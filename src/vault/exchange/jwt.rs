//! JSON Web Tokens signed with RSA and SHA-256 (RFC 7519, `RS256` of RFC 7518 §3.3).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::vault::live::FetchError;

/// A token with these claims, signed with the first private key of a PEM text. `key_id` names the key to who verifies.
pub(super) fn signed(
    private_key: &[u8],
    key_id: Option<&str>,
    claims: &serde_json::Value,
) -> Result<Zeroizing<String>, FetchError> {
    let key = rsa_key(private_key)?;
    let mut header = serde_json::json!({ "alg": "RS256", "typ": "JWT" });
    if let Some(key_id) = key_id {
        header["kid"] = key_id.into();
    }
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let mut token = Zeroizing::new(format!("{}.{}", part(&header), part(claims)));
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), token.as_bytes(), &mut signature)
        .map_err(|_| FetchError::new("the private key cannot sign"))?;
    token.push('.');
    token.push_str(&URL_SAFE_NO_PAD.encode(signature));
    Ok(token)
}

fn rsa_key(pem: &[u8]) -> Result<RsaKeyPair, FetchError> {
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| FetchError::new("it has no private key in PEM"))?;
    let key = match &der {
        PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
        PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
        _ => return Err(FetchError::new("its private key is not an RSA key")),
    };
    key.map_err(|_| FetchError::new("its private key is not an RSA key of 2048 to 4096 bits"))
}
