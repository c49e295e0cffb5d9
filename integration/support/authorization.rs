//! A local authorization server: OAuth 2.0's token endpoint, and GitHub's and Google's, as far as the vault asks them.
//!
//! It checks everything that is sent (client, refresh token, signature of assertions), gives each access token a number, and can
//! be told to refuse, to answer slowly, and how long its tokens live.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::upstream::{Recorded, Upstream, UpstreamConfig};

/// The private key of the GitHub App (PKCS #1, as GitHub gives it), and of the service account (PKCS #8, as Google does).
pub struct RsaKeys {
    /// `BEGIN RSA PRIVATE KEY`.
    pub pkcs1: String,
    /// `BEGIN PRIVATE KEY`.
    pub pkcs8: String,
}

/// This process's keys.
pub fn rsa_keys() -> &'static RsaKeys {
    static KEYS: OnceLock<RsaKeys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let openssl = |args: &[&str], input: &str| {
            let mut child = Command::new("openssl")
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("openssl is there: ca-certificates needs it");
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "openssl {args:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let pkcs8 = openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "");
        let pkcs1 = openssl(&["rsa", "-traditional"], &pkcs8);
        assert!(pkcs1.starts_with("-----BEGIN RSA PRIVATE KEY") && pkcs8.starts_with("-----BEGIN PRIVATE KEY"));
        RsaKeys { pkcs1, pkcs8 }
    })
}

/// The client's id and secret; the secret needs encoding.
pub const CLIENT_ID: &str = "client-ac1";
pub const CLIENT_SECRET: &str = "cs ac6&Wq/3%Zt8Lm";
/// The refresh token to begin with.
pub const FIRST_REFRESH_TOKEN: &str = "rt-ac0-Hk4Tz9Xw";
pub const APP_ID: &str = "424242";
pub const INSTALLATION_ID: &str = "77";
pub const SERVICE_ACCOUNT: &str = "agent@project.iam.example.com";

/// A running authorization server.
pub struct AuthorizationServer {
    upstream: Upstream,
    state: Arc<Mutex<State>>,
}

struct State {
    /// Access tokens given.
    given: u32,
    lifetime: Value,
    delay: Duration,
    refusal: Option<(u16, Value)>,
    refresh_token: String,
    /// The one before, until the new one is used: who lost the answer may ask again.
    previous_refresh_token: String,
    rotates: bool,
    claims: Value,
}

impl AuthorizationServer {
    /// On `https://localhost:PORT`, with the shared CA; tokens live an hour, refresh tokens rotate.
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State {
            given: 0,
            lifetime: json!(3600),
            delay: Duration::ZERO,
            refusal: None,
            refresh_token: FIRST_REFRESH_TOKEN.to_owned(),
            previous_refresh_token: String::new(),
            rotates: true,
            claims: Value::Null,
        }));
        let answering = Arc::clone(&state);
        let config = UpstreamConfig::new(&["localhost"])
            .answering(move |request| Some(answering.lock().unwrap().answer(request)));
        Self { upstream: Upstream::with(config).await, state }
    }

    /// A URL of it.
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.upstream.addr().port())
    }

    /// A service account's JSON key file.
    pub fn key_file(&self) -> String {
        json!({
            "type": "service_account",
            "client_email": SERVICE_ACCOUNT,
            "private_key_id": "k1",
            "private_key": rsa_keys().pkcs8,
            "token_uri": self.url("/google/token"),
        })
        .to_string()
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.upstream.request_count()
    }

    /// How many access tokens it gave.
    pub fn given(&self) -> u32 {
        self.state().given
    }

    /// The claims of the last assertion.
    pub fn claims(&self) -> Value {
        self.state().claims.clone()
    }

    /// The last request.
    pub fn last_request(&self) -> Recorded {
        self.upstream.last_request()
    }

    /// The refresh token that is good now.
    pub fn refresh_token(&self) -> String {
        self.state().refresh_token.clone()
    }

    /// What `expires_in` says from now on.
    pub fn set_lifetime(&self, lifetime: Value) {
        self.state().lifetime = lifetime;
    }

    /// How long answers take from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Refuses everything from now on, or no more.
    pub fn set_refusal(&self, refusal: Option<(u16, Value)>) {
        self.state().refusal = refusal;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn answer(&mut self, request: &Recorded) -> (u16, Value, Duration) {
        let delay = self.delay;
        let answered = match (&self.refusal, request.path.as_str()) {
            (Some((status, body)), _) => Err((*status, body.clone())),
            (None, "/oauth/token") => self.oauth(request),
            (None, "/google/token") => self.google(request),
            (None, path) if path == format!("/app/installations/{INSTALLATION_ID}/access_tokens") => {
                self.github(request)
            }
            _ => Err((404, json!({}))),
        };
        let (Ok((status, body)) | Err((status, body))) = answered;
        (status, body, delay)
    }

    fn give(&mut self) -> String {
        self.given += 1;
        format!("at-ac{}-Jd7Rn2Vb", self.given)
    }

    fn oauth(&mut self, request: &Recorded) -> Result<(u16, Value), (u16, Value)> {
        let form = form(request);
        let field = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let basic = request.header("authorization").and_then(|value| {
            let pair = STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
            let (id, secret) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
            Some((decoded(id), decoded(secret)))
        });
        let in_body = || Some((field("client_id")?.to_owned(), field("client_secret").unwrap_or_default().to_owned()));
        let (id, secret) = basic.or_else(in_body).ok_or((401, json!({"error": "invalid_client"})))?;
        let public = field("grant_type") == Some("refresh_token") && secret.is_empty();
        if id != CLIENT_ID || !(public || secret == CLIENT_SECRET) {
            return Err((401, json!({"error": "invalid_client"})));
        }
        let mut answer = json!({"token_type": "Bearer", "expires_in": self.lifetime});
        match field("grant_type") {
            Some("client_credentials") => {}
            Some("refresh_token") => {
                let used = field("refresh_token").unwrap_or_default();
                if used != self.refresh_token && used != self.previous_refresh_token {
                    return Err((400, json!({"error": "invalid_grant", "error_description": used})));
                }
                if self.rotates {
                    if used == self.refresh_token {
                        self.previous_refresh_token = used.to_owned();
                    }
                    self.refresh_token = format!("rt-ac{}-Hk4Tz9Xw", self.given + 1);
                    answer["refresh_token"] = json!(self.refresh_token);
                }
            }
            _ => return Err((400, json!({"error": "unsupported_grant_type"}))),
        }
        answer["access_token"] = json!(self.give());
        Ok((200, answer))
    }

    fn google(&mut self, request: &Recorded) -> Result<(u16, Value), (u16, Value)> {
        let form = form(request);
        let field = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let refused = || (400, json!({"error": "invalid_grant"}));
        if field("grant_type") != Some("urn:ietf:params:oauth:grant-type:jwt-bearer") {
            return Err(refused());
        }
        self.claims = verified(field("assertion").unwrap_or_default()).ok_or_else(refused)?;
        if self.claims["iss"] != SERVICE_ACCOUNT {
            return Err(refused());
        }
        Ok((200, json!({"access_token": self.give(), "expires_in": self.lifetime, "token_type": "Bearer"})))
    }

    fn github(&mut self, request: &Recorded) -> Result<(u16, Value), (u16, Value)> {
        let refused = || (401, json!({"message": "A JSON web token could not be decoded"}));
        let header = request.header("authorization").ok_or_else(refused)?;
        self.claims = verified(header.strip_prefix("Bearer ").unwrap_or_default()).ok_or_else(refused)?;
        let lives = |claims: &Value| Some(claims["exp"].as_i64()? - claims["iat"].as_i64()?);
        if self.claims["iss"] != APP_ID || lives(&self.claims).is_none_or(|seconds| seconds > 600) {
            return Err(refused());
        }
        let lifetime = time::Duration::seconds(self.lifetime.as_i64().unwrap());
        let expires = (time::OffsetDateTime::now_utc() + lifetime)
            .format(&time::format_description::well_known::Rfc3339)
            .unwrap();
        Ok((201, json!({"token": self.give(), "expires_at": expires, "permissions": {}})))
    }
}

/// The claims of a JSON Web Token whose signature holds, and that is meant for now.
fn verified(token: &str) -> Option<Value> {
    let (signed, signature) = token.rsplit_once('.')?;
    let key = match PrivateKeyDer::from_pem_slice(rsa_keys().pkcs1.as_bytes()).unwrap() {
        PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()).unwrap(),
        _ => panic!("the key is in PKCS #1"),
    };
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref().to_vec());
    public.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
    let (header, claims) = signed.split_once('.')?;
    let part = |text: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(text).ok()?).ok();
    let (header, claims) = (part(header)?, part(claims)?);
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let timely = claims["iat"].as_i64()? <= now && now < claims["exp"].as_i64()?;
    (header["alg"] == "RS256" && timely).then_some(claims)
}

fn form(request: &Recorded) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(&request.body).into_owned();
    let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (decoded(name), decoded(value)));
    text.split('&').filter_map(pair).collect()
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| u8::from_str_radix(text.get(at + 1..at + 3)?, 16).ok()).flatten();
        out.push(escape.unwrap_or(if bytes[at] == b'+' { b' ' } else { bytes[at] }));
        at += if escape.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap()
}
