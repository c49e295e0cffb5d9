//! Credentials that are got in exchange for others: OAuth 2.0 access tokens, and what GitHub and Google have like them.
//!
//! ```text
//! provider ─ Live<SecretBytes> ─┐
//!                               ├─▶ Exchange ── HTTPS POST ──▶ token endpoint ──▶ Injection, good until it expires
//! RefreshTokens (kept on disk) ─┘
//! ```
//!
//! `oauth`, `github`, `google` and `jwt` are pure: what is asked, and what the answer means. [`Live`] sees to it that one
//! exchange is under way at most, and that it is made before the token expires while somebody uses it.

mod github;
mod google;
mod https;
mod jwt;
mod oauth;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::Uri;
use sha2::{Digest, Sha256};

pub use self::https::{HttpsClient, HttpsError};
pub use self::oauth::ClientAuth;

use self::oauth::Access;
use super::live::{Fetch, FetchError, Fetched, Got, Live, Source};
use super::secrets::{Credential, Injection};
use crate::domain::secret::{Secret, SecretBytes};

/// Where the refresh tokens are kept that replaced the configured ones. Blocking.
pub trait RefreshTokens: Send + Sync {
    /// The one kept under this key.
    ///
    /// # Errors
    /// With a message for the log.
    fn load(&self, key: &str) -> Result<Option<SecretBytes>, String>;

    /// Keeps one in place of the one before; returns when it outlives a crash.
    ///
    /// # Errors
    /// With a message for the log.
    fn save(&self, key: &str, token: &Secret) -> Result<(), String>;
}

/// What is given for an access token.
pub enum ExchangeKind {
    /// RFC 6749 §4.4.
    ClientCredentials(OauthClient),
    /// RFC 6749 §6.
    RefreshToken {
        /// The client.
        client: OauthClient,
        /// The refresh token to begin with.
        refresh_token: Arc<Live<SecretBytes>>,
        /// Where those that replace it are kept.
        kept: Arc<dyn RefreshTokens>,
    },
    /// An installation token of a GitHub App.
    GithubApp {
        /// The App's id, or its client id.
        app_id: String,
        /// The installation.
        installation_id: u64,
        /// The App's private key, PEM.
        private_key: Arc<Live<SecretBytes>>,
        /// The API, as `https://api.github.com`.
        api_url: Uri,
        /// The repositories it is narrowed to; empty is all of the installation.
        repositories: Vec<String>,
        /// The permissions it is narrowed to; empty is all of the installation.
        permissions: Vec<(String, String)>,
    },
    /// A service account of Google's (RFC 7523).
    GoogleServiceAccount {
        /// The JSON key file's content.
        key: Arc<Live<SecretBytes>>,
        /// What is asked for, such as `https://www.googleapis.com/auth/cloud-platform`.
        scopes: Vec<String>,
        /// The user it acts for (domain-wide delegation).
        subject: Option<String>,
    },
}

/// An OAuth client, and where it asks.
pub struct OauthClient {
    /// The token endpoint; always https.
    pub token_url: Uri,
    /// The client's id.
    pub client_id: String,
    /// Its secret; `None` is a public client.
    pub client_secret: Option<Arc<Live<SecretBytes>>>,
    /// How it shows who it is.
    pub auth: ClientAuth,
    /// What is asked for, beyond what the client gets by itself.
    pub scopes: Vec<String>,
    /// The API the token is for, where the authorization server wants to know.
    pub audience: Option<String>,
}

/// How the access token is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SendAs {
    /// `Authorization: Bearer TOKEN`.
    #[default]
    Bearer,
    /// `Authorization: Basic`, with the user name that GitHub wants beside a token (`x-access-token`).
    GithubBasic,
}

/// An exchange that can be made again and again.
pub struct Exchange {
    /// What is given.
    pub kind: ExchangeKind,
    /// How the token is sent.
    pub send_as: SendAs,
    /// How it is asked for.
    pub https: Arc<HttpsClient>,
}

impl Source<Injection> for Exchange {
    fn fetch(&self) -> Fetch<'_, Injection> {
        Box::pin(async {
            // Counted from before the question: the answer's lifetime has begun when it was made.
            let asked = Instant::now();
            let mut parts = Parts::default();
            let access = match &self.kind {
                ExchangeKind::ClientCredentials(client) => self.client_credentials(client, &mut parts).await?,
                ExchangeKind::RefreshToken { client, refresh_token, kept } => {
                    self.refresh(client, refresh_token, kept, &mut parts).await?
                }
                ExchangeKind::GithubApp { .. } => self.installation(&mut parts).await?,
                ExchangeKind::GoogleServiceAccount { key, scopes, subject } => {
                    self.service_account(key, scopes, subject.as_deref(), &mut parts).await?
                }
            };
            let credential = match self.send_as {
                SendAs::Bearer => Credential::Bearer { token: access.token },
                SendAs::GithubBasic => {
                    let username = Secret::new(b"x-access-token".to_vec()).map_err(FetchError::new)?;
                    Credential::Basic { username, password: access.token }
                }
            };
            let value = Injection::new(credential).map_err(FetchError::new)?;
            let (fresh, usable) = lifetimes(access.lifetime);
            Ok(Fetched { value, fresh_until: asked + fresh, usable_until: asked + usable, problem: parts.problem })
        })
    }
}

/// The secrets that an exchange was made with.
#[derive(Default)]
struct Parts {
    problem: Option<FetchError>,
}

impl Parts {
    async fn get(&mut self, live: &Arc<Live<SecretBytes>>) -> Result<Arc<SecretBytes>, FetchError> {
        let Got { value, problem, .. } = live.get().await?;
        self.problem = self.problem.take().or(problem);
        Ok(value)
    }
}

impl Exchange {
    async fn client_credentials(&self, client: &OauthClient, parts: &mut Parts) -> Result<Access, FetchError> {
        let secret = secret_of(client, parts).await?;
        let request = oauth::client_credentials(client, secret.as_deref());
        oauth::access(&self.https.ask(request).await?)
    }

    async fn refresh(
        &self,
        client: &OauthClient,
        configured: &Arc<Live<SecretBytes>>,
        kept: &Arc<dyn RefreshTokens>,
        parts: &mut Parts,
    ) -> Result<Access, FetchError> {
        let secret = secret_of(client, parts).await?;
        let configured = parts.get(configured).await?;
        // Another token in the configuration is a new beginning.
        let key = kept_as(client, &configured);
        let in_use = {
            let (kept, key) = (Arc::clone(kept), key.clone());
            blocking(move || kept.load(&key)).await?.map_or(configured, Arc::new)
        };
        let request = oauth::refresh(client, secret.as_deref(), &in_use);
        let access = oauth::access(&self.https.ask(request).await?)?;
        if let Some(rotated) = access.refresh_token.clone().filter(|new| new.expose() != in_use.expose()) {
            // Before anything else: the one before is worth nothing any more.
            let kept = Arc::clone(kept);
            blocking(move || kept.save(&key, &rotated)).await?;
        }
        Ok(access)
    }

    async fn installation(&self, parts: &mut Parts) -> Result<Access, FetchError> {
        let ExchangeKind::GithubApp { app_id, installation_id, private_key, api_url, repositories, permissions } =
            &self.kind
        else {
            return Err(FetchError::new("not a GitHub App"));
        };
        let key = parts.get(private_key).await?;
        let now = unix_now();
        let request = github::request(api_url, app_id, *installation_id, &key, repositories, permissions, now)?;
        github::access(&self.https.ask(request).await?, now)
    }

    async fn service_account(
        &self,
        key: &Arc<Live<SecretBytes>>,
        scopes: &[String],
        subject: Option<&str>,
        parts: &mut Parts,
    ) -> Result<Access, FetchError> {
        let key = parts.get(key).await?;
        let request = google::request(&key, scopes, subject, unix_now())?;
        oauth::access(&self.https.ask(request).await?)
    }
}

async fn secret_of(client: &OauthClient, parts: &mut Parts) -> Result<Option<Arc<SecretBytes>>, FetchError> {
    match &client.client_secret {
        Some(live) => parts.get(live).await.map(Some),
        None => Ok(None),
    }
}

/// The name under which the successors of a configured refresh token are kept; tells nothing of it.
fn kept_as(client: &OauthClient, configured: &SecretBytes) -> String {
    let mut hash = Sha256::new();
    for part in [client.token_url.to_string().as_bytes(), client.client_id.as_bytes(), configured.expose()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, FetchError> {
    let outcome = tokio::task::spawn_blocking(work).await;
    outcome.map_err(|_| FetchError::new("keeping the refresh token failed"))?.map_err(FetchError::new)
}

/// For how long a token is used as it is, and for how long at most: it is replaced some time before it expires, and not sent
/// when it could expire on the way.
fn lifetimes(lifetime: Duration) -> (Duration, Duration) {
    let early = (lifetime / 10).min(Duration::from_secs(300));
    let last = (lifetime / 50).min(Duration::from_secs(5));
    (lifetime - early, lifetime - last)
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_before_it_expires() {
        for (lifetime, fresh, usable) in [(3600, 3300, 3595), (100, 90, 98), (0, 0, 0), (1_000_000, 999_700, 999_995)] {
            let seconds = Duration::from_secs;
            assert_eq!(lifetimes(seconds(lifetime)), (seconds(fresh), seconds(usable)));
        }
    }

    #[test]
    fn another_token_in_the_configuration_is_a_new_beginning() {
        let client = |id: &str| OauthClient {
            token_url: Uri::from_static("https://auth.example.com/token"),
            client_id: id.to_owned(),
            client_secret: None,
            auth: ClientAuth::Body,
            scopes: vec![],
            audience: None,
        };
        let token = |text: &str| SecretBytes::new(text.into()).unwrap();
        let key = kept_as(&client("a"), &token("rt_1"));
        assert_eq!(key, kept_as(&client("a"), &token("rt_1")));
        assert!(key.len() == 64 && key != kept_as(&client("a"), &token("rt_2")));
        assert_ne!(key, kept_as(&client("art"), &token("_1")));
    }
}
