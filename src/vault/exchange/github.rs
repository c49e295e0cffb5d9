//! Installation tokens of GitHub Apps (docs.github.com, "Generating an installation access token for a GitHub App").

use std::borrow::Cow;
use std::time::Duration;

use http::Uri;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use super::https::{Answer, Ask, Authorization};
use super::jwt;
use super::oauth::{Access, refused};
use crate::domain::secret::{Secret, SecretBytes};
use crate::vault::live::FetchError;

/// The App's own token lives this long, in seconds; GitHub takes at most 600, and clocks differ.
const LIFETIME: u64 = 540;
const SKEW: u64 = 60;

pub(super) fn request(
    api_url: &Uri,
    app_id: &str,
    installation_id: u64,
    private_key: &SecretBytes,
    repositories: &[String],
    permissions: &[(String, String)],
    now: u64,
) -> Result<Ask, FetchError> {
    let claims = json!({ "iat": now.saturating_sub(SKEW), "exp": now + LIFETIME, "iss": app_id });
    let token = jwt::signed(private_key.expose(), None, &claims)?;
    let mut body = Map::new();
    if !repositories.is_empty() {
        body.insert("repositories".to_owned(), json!(repositories));
    }
    if !permissions.is_empty() {
        let permissions = permissions.iter().map(|(name, access)| (name.clone(), json!(access)));
        body.insert("permissions".to_owned(), Value::Object(permissions.collect()));
    }
    let base = api_url.to_string();
    let url = format!("{}/app/installations/{installation_id}/access_tokens", base.trim_end_matches('/'));
    let url = url.parse().map_err(|_| FetchError::new("api_url does not make a URL"))?;
    let body = Zeroizing::new(Value::Object(body).to_string().into_bytes());
    Ok(Ask { url, content_type: "application/json", authorization: Some(Authorization::Bearer(token)), body })
}

#[derive(Deserialize)]
struct Installation<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
    expires_at: Cow<'a, str>,
}

pub(super) fn access(answer: &Answer, now: u64) -> Result<Access, FetchError> {
    match answer.status {
        201 => {}
        401 => {
            let why = "check app_id and private_key, and this machine's clock";
            return Err(FetchError::new(format_args!("{} answered 401; {why}", answer.from)));
        }
        404 => {
            let why = "check installation_id";
            return Err(FetchError::new(format_args!("{} answered 404; {why}", answer.from)));
        }
        422 => {
            let why = "the installation does not have these `repositories` and `permissions`";
            return Err(FetchError::new(format_args!("{} answered 422; {why}", answer.from)));
        }
        _ => return Err(refused(answer)),
    }
    let odd = || FetchError::new(format_args!("the answer of {} is no installation token", answer.from));
    let installation: Installation<'_> = serde_json::from_slice(&answer.body).map_err(|_| odd())?;
    let expires = OffsetDateTime::parse(&installation.expires_at, &Rfc3339).map_err(|_| odd())?.unix_timestamp();
    let lifetime = u64::try_from(expires).unwrap_or(0).saturating_sub(now);
    Ok(Access {
        token: Secret::new(installation.token.as_bytes().to_vec()).map_err(|_| odd())?,
        lifetime: Duration::from_secs(lifetime.min(24 * 3600)),
        refresh_token: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { from: "api.github.com".to_owned(), status, body: Zeroizing::new(body.into()) }
    }

    #[test]
    fn an_installation_token_lives_until_it_says() {
        let body = r#"{"token":"ghs_1","expires_at":"2016-07-11T22:14:10Z","permissions":{},"repositories":[]}"#;
        let access = access(&answer(201, body), 1_468_275_250 - 3600).unwrap();
        assert_eq!((access.token.as_str(), access.lifetime.as_secs()), ("ghs_1", 3600));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (status, body, expected) in [
            (401, "{}", "app_id"),
            (404, "{}", "installation_id"),
            (422, "{}", "permissions"),
            (500, "ghs_1", "answered 500"),
            (201, r#"{"token":"ghs_1"}"#, "no installation token"),
            (201, r#"{"token":"ghs_1","expires_at":"soon"}"#, "no installation token"),
        ] {
            let error = access(&answer(status, body), 0).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("ghs_1"), "{error}");
        }
    }
}
