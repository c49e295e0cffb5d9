//! OAuth 2.0 (RFC 6749): the request for an access token, and its answer.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::OauthClient;
use super::https::{Answer, Ask, Authorization};
use crate::domain::secret::{Secret, SecretBytes};
use crate::vault::live::FetchError;
use crate::vault::query::encode_into;

/// How long a token is taken to live that says nothing of it (RFC 6749 §5.1 leaves it to documentation).
const UNSAID_LIFETIME: Duration = Duration::from_secs(600);
/// Longer is not believed: a token is to be replaced some time.
const LONGEST_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// How a client shows who it is (RFC 6749 §2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ClientAuth {
    /// `Authorization: Basic`, which every authorization server must take.
    #[default]
    Basic,
    /// In the body.
    Body,
}

/// An access token, as the server gave it.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) token: Secret,
    pub(super) lifetime: Duration,
    /// What takes the place of the refresh token that was used.
    pub(super) refresh_token: Option<Secret>,
}

pub(super) fn client_credentials(client: &OauthClient, secret: Option<&SecretBytes>) -> Ask {
    ask(client, secret, Form::new("client_credentials"))
}

pub(super) fn refresh(client: &OauthClient, secret: Option<&SecretBytes>, token: &SecretBytes) -> Ask {
    let mut form = Form::new("refresh_token");
    form.push("refresh_token", token.expose());
    ask(client, secret, form)
}

fn ask(client: &OauthClient, secret: Option<&SecretBytes>, mut form: Form) -> Ask {
    if !client.scopes.is_empty() {
        form.push("scope", client.scopes.join(" ").as_bytes());
    }
    if let Some(audience) = &client.audience {
        form.push("audience", audience.as_bytes());
    }
    let id = client.client_id.as_bytes();
    let authorization = match (secret, client.auth) {
        (Some(secret), ClientAuth::Basic) => {
            // Encoded as forms are, then joined (RFC 6749 §2.3.1).
            let mut pair = Zeroizing::new(Vec::with_capacity(3 * (id.len() + secret.expose().len()) + 1));
            encode_into(&mut pair, id);
            pair.push(b':');
            encode_into(&mut pair, secret.expose());
            Some(Authorization::Basic(Zeroizing::new(STANDARD.encode(&*pair))))
        }
        (secret, _) => {
            form.push("client_id", id);
            if let Some(secret) = secret {
                form.push("client_secret", secret.expose());
            }
            None
        }
    };
    form.ask(&client.token_url, authorization)
}

/// A body of the type `application/x-www-form-urlencoded`, wiped when dropped.
pub(super) struct Form(Zeroizing<Vec<u8>>);

impl Form {
    /// More than any of ours needs, so that it is hardly ever copied while it grows.
    const ROOM: usize = 16 * 1024;

    pub(super) fn new(grant_type: &str) -> Self {
        let mut form = Self(Zeroizing::new(Vec::with_capacity(Self::ROOM)));
        form.push("grant_type", grant_type.as_bytes());
        form
    }

    pub(super) fn push(&mut self, name: &str, value: &[u8]) {
        if !self.0.is_empty() {
            self.0.push(b'&');
        }
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'=');
        encode_into(&mut self.0, value);
    }

    pub(super) fn ask(self, url: &Uri, authorization: Option<Authorization>) -> Ask {
        Ask { url: url.clone(), content_type: "application/x-www-form-urlencoded", authorization, body: self.0 }
    }
}

#[derive(Deserialize)]
struct Success<'a> {
    #[serde(borrow)]
    access_token: Cow<'a, str>,
    #[serde(default)]
    token_type: Option<Cow<'a, str>>,
    #[serde(default)]
    expires_in: Option<Seconds>,
    #[serde(default)]
    refresh_token: Option<Cow<'a, str>>,
}

/// A number, which some servers write as a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Text(String),
}

#[derive(Deserialize)]
struct Refusal<'a> {
    #[serde(borrow)]
    error: Cow<'a, str>,
}

/// What the token endpoint's answer means (RFC 6749 §5).
pub(super) fn access(answer: &Answer) -> Result<Access, FetchError> {
    if answer.status != 200 {
        return Err(refused(answer));
    }
    let success: Success<'_> = serde_json::from_slice(&answer.body)
        .map_err(|_| FetchError::new(format_args!("the answer of {} is no access token", answer.from)))?;
    if success.token_type.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err(FetchError::new(format_args!("{} gives tokens that are not of the type bearer", answer.from)));
    }
    let secret = |text: &str| {
        Secret::new(text.as_bytes().to_vec())
            .map_err(|error| FetchError::new(format_args!("the token that {} gave: {error}", answer.from)))
    };
    let lifetime = match success.expires_in {
        None => UNSAID_LIFETIME,
        Some(Seconds::Number(seconds)) => seconds_of(seconds),
        Some(Seconds::Text(text)) => text.parse().map_or(UNSAID_LIFETIME, seconds_of),
    };
    let refresh_token = success.refresh_token.filter(|token| !token.is_empty());
    Ok(Access {
        token: secret(&success.access_token)?,
        lifetime,
        refresh_token: refresh_token.map(|token| secret(&token)).transpose()?,
    })
}

fn seconds_of(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default().min(LONGEST_LIFETIME)
}

/// A refusal: the status, and the error code if it looks like one (§5.2). Descriptions may repeat what was sent.
pub(super) fn refused(answer: &Answer) -> FetchError {
    let code = serde_json::from_slice::<Refusal<'_>>(&answer.body).ok().map(|refusal| refusal.error.into_owned());
    let code = code.filter(|code| code.len() <= 64 && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
    let hint = match code.as_deref() {
        Some("invalid_grant") => "; the refresh token has expired, was revoked or was used elsewhere: log in again",
        Some("invalid_client" | "unauthorized_client") => "; check client_id and client_secret, and client_auth",
        Some("invalid_scope") => "; check `scopes`",
        _ => "",
    };
    let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
    FetchError::new(format_args!("{} answered {}{code}{hint}", answer.from, answer.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(auth: ClientAuth) -> OauthClient {
        OauthClient {
            token_url: Uri::from_static("https://auth.example.com/oauth/token"),
            client_id: "my client".to_owned(),
            client_secret: None,
            auth,
            scopes: vec!["a:b".to_owned(), "c".to_owned()],
            audience: Some("https://api.example.com".to_owned()),
        }
    }

    fn secret(text: &str) -> SecretBytes {
        SecretBytes::new(text.into()).unwrap()
    }

    #[test]
    fn requests_are_as_the_rfc_has_them() {
        let rest = "scope=a%3Ab%20c&audience=https%3A%2F%2Fapi.example.com";
        let ask = client_credentials(&client(ClientAuth::Basic), Some(&secret("p&s:1")));
        assert_eq!(String::from_utf8_lossy(&ask.body), format!("grant_type=client_credentials&{rest}"));
        let Some(Authorization::Basic(pair)) = &ask.authorization else { panic!("no Basic") };
        assert_eq!(STANDARD.decode(pair.as_bytes()).unwrap(), b"my%20client:p%26s%3A1");
        let ask = refresh(&client(ClientAuth::Body), Some(&secret("p&s")), &secret("rt/1"));
        assert!(ask.authorization.is_none());
        let body = String::from_utf8_lossy(&ask.body).into_owned();
        let expected =
            format!("grant_type=refresh_token&refresh_token=rt%2F1&{rest}&client_id=my%20client&client_secret=p%26s");
        assert_eq!(body, expected);
        // A public client names itself, whatever is configured.
        let ask = refresh(&client(ClientAuth::Basic), None, &secret("rt"));
        assert!(ask.authorization.is_none() && String::from_utf8_lossy(&ask.body).ends_with("&client_id=my%20client"));
    }

    fn answer(status: u16, body: &str) -> Answer {
        Answer { from: "auth.example.com".to_owned(), status, body: Zeroizing::new(body.into()) }
    }

    #[test]
    fn answers_are_read_and_what_is_odd_is_refused() {
        let good =
            access(&answer(200, r#"{"access_token":"at","token_type":"Bearer","expires_in":3600,"x":{}}"#)).unwrap();
        assert_eq!((good.token.as_str(), good.lifetime.as_secs(), good.refresh_token.is_none()), ("at", 3600, true));
        let text = access(&answer(200, r#"{"access_token":"at","expires_in":"60","refresh_token":"rt"}"#)).unwrap();
        assert_eq!((text.lifetime.as_secs(), text.refresh_token.unwrap().as_str()), (60, "rt"));
        let unsaid = access(&answer(200, r#"{"access_token":"at","refresh_token":""}"#)).unwrap();
        assert_eq!((unsaid.lifetime, unsaid.refresh_token.is_none()), (UNSAID_LIFETIME, true));
        for odd in ["-5", "1e300", "\"soon\""] {
            let odd = access(&answer(200, &format!(r#"{{"access_token":"at","expires_in":{odd}}}"#))).unwrap();
            assert!(odd.lifetime <= LONGEST_LIFETIME, "{odd:?}");
        }
        for (status, body, expected) in [
            (200, "{}", "is no access token"),
            (200, "<html>", "is no access token"),
            (200, r#"{"access_token":""}"#, "the value is empty"),
            (200, r#"{"access_token":"a\r\nx: y"}"#, "line break"),
            (200, r#"{"access_token":"at","token_type":"mac"}"#, "not of the type bearer"),
            (
                400,
                r#"{"error":"invalid_grant","error_description":"sk_1"}"#,
                "answered 400 (invalid_grant); the refresh",
            ),
            (401, r#"{"error":"invalid_client"}"#, "client_secret"),
            (400, r#"{"error":"sk_1 is bad"}"#, "auth.example.com answered 400"),
            (500, "sk_1", "answered 500"),
            (302, "", "answered 302"),
        ] {
            let error = access(&answer(status, body)).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("sk_1"), "{error}");
        }
    }
}
