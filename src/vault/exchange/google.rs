//! Service accounts of Google's: a signed assertion for an access token (RFC 7523 §2.1).

use std::borrow::Cow;

use http::Uri;
use serde::Deserialize;
use serde_json::json;

use super::https::Ask;
use super::jwt;
use super::oauth::Form;
use crate::domain::secret::SecretBytes;
use crate::vault::live::FetchError;

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// How long the assertion lives, in seconds; the most Google takes.
const LIFETIME: u64 = 3600;

/// A JSON key file, as Google hands it out.
#[derive(Deserialize)]
struct KeyFile<'a> {
    #[serde(borrow)]
    client_email: Cow<'a, str>,
    private_key: zeroize::Zeroizing<String>,
    private_key_id: Option<Cow<'a, str>>,
    token_uri: Cow<'a, str>,
}

pub(super) fn request(
    key: &SecretBytes,
    scopes: &[String],
    subject: Option<&str>,
    now: u64,
) -> Result<Ask, FetchError> {
    let file: KeyFile<'_> = serde_json::from_slice(key.expose())
        .map_err(|_| FetchError::new("`key` is not the JSON key file of a Google service account"))?;
    let url: Uri = file.token_uri.parse().map_err(|_| FetchError::new("the key file's token_uri is no URL"))?;
    if url.scheme_str() != Some("https") || url.host().is_none() {
        return Err(FetchError::new("the key file's token_uri is not https"));
    }
    let mut claims = json!({
        "iss": file.client_email, "scope": scopes.join(" "), "aud": file.token_uri, "iat": now, "exp": now + LIFETIME,
    });
    if let Some(subject) = subject {
        claims["sub"] = subject.into();
    }
    let assertion = jwt::signed(file.private_key.as_bytes(), file.private_key_id.as_deref(), &claims)?;
    let mut form = Form::new(GRANT_TYPE);
    form.push("assertion", assertion.as_bytes());
    Ok(form.ask(&url, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_that_is_none_is_refused_without_repeating_it() {
        let file = |token_uri: &str, key: &str| {
            json!({ "client_email": "a@b", "private_key": key, "token_uri": token_uri }).to_string()
        };
        for (text, expected) in [
            ("sk_1".to_owned(), "JSON key file"),
            ("{}".to_owned(), "JSON key file"),
            (file("http://oauth2.example.com/token", "sk_1"), "not https"),
            (file("", "sk_1"), "no URL"),
            (file("https://oauth2.example.com/token", "sk_1"), "no private key in PEM"),
        ] {
            let key = SecretBytes::new(text.into_bytes()).unwrap();
            let error = request(&key, &[], None, 0).err().unwrap().to_string();
            assert!(error.contains(expected) && !error.contains("sk_1"), "{error}");
        }
    }
}
