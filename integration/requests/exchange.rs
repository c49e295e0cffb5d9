//! Credentials that are got in exchange for others, from a real token endpoint over verified TLS.

use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::json;

use super::{STRIPE, assert_refusal};
use crate::support::authorization::{
    APP_ID, AuthorizationServer, CLIENT_ID, CLIENT_SECRET, FIRST_REFRESH_TOKEN, INSTALLATION_ID, rsa_keys,
};
use crate::support::client::Client;
use crate::support::pki::TestCa;
use crate::support::server::{DEADLINE, Server, WorldConfig, upstream_section};
use crate::support::upstream::Upstream;

struct World {
    server: Server,
    client: Client,
    upstream: Upstream,
    token: String,
}

impl World {
    async fn start(host: &str, vault: &str, change: impl FnOnce(WorldConfig) -> WorldConfig) -> Self {
        let upstream = Upstream::start(&[host]).await;
        let config = WorldConfig::new(upstream_section(host, &upstream, ""))
            .vault(vault)
            .system_ca(TestCa::shared().pem())
            .env("CLIENT_SECRET", CLIENT_SECRET)
            .env("REFRESH_TOKEN", FIRST_REFRESH_TOKEN);
        let server = Server::start(change(config)).await;
        let (client, token) = (server.client(), server.token(&["--hosts", host]));
        Self { server, client, upstream, token }
    }

    /// What the upstream was sent as `Authorization`.
    async fn ask(&self, host: &str) -> String {
        let reply = self.client.get(&format!("https://{host}/v1/x")).bearer(&self.token).send().await.unwrap();
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        let seen = self.upstream.last_request();
        assert!(!seen.contains(&self.token[4..40]), "{seen:?}");
        seen.header("authorization").unwrap_or_default()
    }

    /// The server's problems with credentials, as `/readyz` has them.
    async fn problems(&self) -> String {
        self.server.ready().await.unwrap().body["credentials"]["problems"].to_string()
    }

    /// Nothing that is secret is in any file but those that keep it, nor in the logs.
    fn assert_silent(&self, secrets: &[&str]) {
        for secret in secrets {
            let found = self.server.files_containing(secret);
            let kept = |path: &std::path::PathBuf| path.to_string_lossy().contains("refresh-tokens.db");
            assert!(found.iter().all(kept), "{secret} in {found:?}");
        }
    }
}

fn client_credentials(auth: &AuthorizationServer, more: &str) -> String {
    format!(
        "[credentials.\"{STRIPE}\"]\ntype = \"oauth2\"\ngrant = \"client_credentials\"\ntoken_url = \"{}\"\n\
         client_id = \"{CLIENT_ID}\"\nclient_secret = {{ provider = \"env\", name = \"CLIENT_SECRET\" }}\n{more}\n",
        auth.url("/oauth/token")
    )
}

fn refresh_token(auth: &AuthorizationServer) -> String {
    client_credentials(auth, "refresh_token = { provider = \"env\", name = \"REFRESH_TOKEN\" }")
        .replace("\"client_credentials\"", "\"refresh_token\"")
}

#[tokio::test]
async fn client_credentials_are_exchanged_once_and_again_before_they_expire() {
    let auth = AuthorizationServer::start().await;
    let world = World::start(STRIPE, &client_credentials(&auth, "scopes = [\"a\", \"b:c\"]"), |config| config).await;
    assert_eq!(auth.asked(), 0, "asked before anybody needed it");
    for _ in 0..3 {
        assert_eq!(world.ask(STRIPE).await, "Bearer at-ac1-Jd7Rn2Vb");
    }
    assert_eq!(auth.asked(), 1);
    let body = String::from_utf8_lossy(&auth.last_request().body).into_owned();
    assert_eq!(body, "grant_type=client_credentials&scope=a%20b%3Ac");
    assert_eq!(world.problems().await, "[]");
    assert_eq!(world.server.metric("agent_creds_credential_fetches_total", &["outcome=\"ok\""]).await, 1.0);
    world.assert_silent(&["at-ac1-", CLIENT_SECRET, "cs%20ac6"]);
}

/// 500 requests when the token has just expired: one exchange, and nobody is refused.
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_requests_at_the_moment_of_expiry_make_one_exchange() {
    let auth = AuthorizationServer::start().await;
    auth.set_lifetime(json!(3));
    let world = World::start(STRIPE, &client_credentials(&auth, "client_auth = \"body\""), |config| config).await;
    assert_eq!(world.ask(STRIPE).await, "Bearer at-ac1-Jd7Rn2Vb");
    auth.set_lifetime(json!(3600));
    auth.set_delay(Duration::from_millis(300));
    tokio::time::sleep(Duration::from_millis(3100)).await;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let (client, token) = (world.client.clone(), world.token.clone());
        all.spawn(async move {
            let reply = client.get(&format!("https://{STRIPE}/v1/x")).bearer(&token).send().await.unwrap();
            (reply.status, reply.json()["headers"]["authorization"].to_string())
        });
    }
    while let Some(answer) = all.join_next().await {
        let (status, sent) = answer.unwrap();
        assert_eq!((status, sent.as_str()), (StatusCode::OK, "\"Bearer at-ac2-Jd7Rn2Vb\""));
    }
    assert_eq!(auth.given(), 2);
}

#[tokio::test]
async fn a_token_is_used_while_the_next_one_is_fetched() {
    let auth = AuthorizationServer::start().await;
    auth.set_lifetime(json!("20"));
    let world = World::start(STRIPE, &client_credentials(&auth, ""), |config| config).await;
    assert_eq!(world.ask(STRIPE).await, "Bearer at-ac1-Jd7Rn2Vb");
    // It is good for 20 s, and replaced after 18.
    auth.set_delay(Duration::from_millis(700));
    tokio::time::sleep(Duration::from_millis(18_100)).await;
    let started = Instant::now();
    assert_eq!(world.ask(STRIPE).await, "Bearer at-ac1-Jd7Rn2Vb");
    assert!(started.elapsed() < Duration::from_millis(650), "it waited for the next one");
    while world.ask(STRIPE).await != "Bearer at-ac2-Jd7Rn2Vb" {
        assert!(started.elapsed() < DEADLINE, "the next one does not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(auth.given(), 2);
}

#[tokio::test]
async fn refresh_tokens_rotate_and_outlive_the_server() {
    let auth = AuthorizationServer::start().await;
    auth.set_lifetime(json!(1));
    let mut world = World::start(STRIPE, &refresh_token(&auth), |config| config).await;
    assert_eq!(world.ask(STRIPE).await, "Bearer at-ac1-Jd7Rn2Vb");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(world.ask(STRIPE).await, "Bearer at-ac2-Jd7Rn2Vb");
    for restart in 0..3 {
        world.server.kill9();
        world.server.restart();
        world.server.wait_ready().await;
        // The configured refresh token is worth nothing by now: this is the kept one.
        assert_eq!(world.ask(STRIPE).await, format!("Bearer at-ac{}-Jd7Rn2Vb", restart + 3));
    }
    let body = String::from_utf8_lossy(&auth.last_request().body).into_owned();
    assert!(body.contains("refresh_token=rt-ac4-Hk4Tz9Xw"), "{body}");
    world.assert_silent(&["at-ac", "rt-ac", CLIENT_SECRET]);
    let mode =
        std::os::unix::fs::MetadataExt::mode(&world.server.state_dir().join("refresh-tokens.db").metadata().unwrap());
    assert_eq!(mode & 0o777, 0o600);
}

/// Killed again and again while tokens rotate: the file is never damaged, and a refresh token that was kept is the last one or
/// the one before, which a server that has had no sign of the new one takes.
#[tokio::test]
async fn a_server_killed_while_refresh_tokens_rotate_goes_on() {
    let auth = AuthorizationServer::start().await;
    auth.set_lifetime(json!(0.1));
    let mut world = World::start(STRIPE, &refresh_token(&auth), |config| config).await;
    for round in 0..8_u64 {
        let (client, token) = (world.client.clone(), world.token.clone());
        let traffic = tokio::spawn(async move {
            loop {
                let _ = client.get(&format!("https://{STRIPE}/v1/x")).bearer(&token).send().await;
            }
        });
        let before = auth.given();
        let started = Instant::now();
        while auth.given() < before + 2 {
            assert!(started.elapsed() < DEADLINE, "no exchange in round {round}: {}", world.problems().await);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_micros(700 * round)).await;
        world.server.kill9();
        traffic.abort();
        world.server.restart();
        world.server.wait_ready().await;
    }
    auth.set_lifetime(json!(3600));
    assert!(world.ask(STRIPE).await.starts_with("Bearer at-ac"), "{}", world.problems().await);
}

#[tokio::test]
async fn a_refusal_is_told_to_the_operator_and_not_to_the_agent() {
    let auth = AuthorizationServer::start().await;
    let refusal = json!({"error": "invalid_grant", "error_description": FIRST_REFRESH_TOKEN});
    auth.set_refusal(Some((400, refusal)));
    let world = World::start(STRIPE, &refresh_token(&auth), |config| config).await;
    let ask =
        || async { world.client.get(&format!("https://{STRIPE}/v1/x")).bearer(&world.token).send().await.unwrap() };
    let reply = ask().await;
    assert_refusal(&reply, 503, "Credential not available for this host: api.stripe.com");
    assert!(!reply.text().contains("invalid_grant") && !reply.text().contains("localhost"), "{}", reply.text());
    assert_eq!(world.upstream.request_count(), 0);
    let problems = world.problems().await;
    assert!(
        problems.contains("\"failed\"") && problems.contains("localhost answered 400 (invalid_grant)"),
        "{problems}"
    );
    assert_eq!(world.server.metric("agent_creds_credential_good", &[STRIPE]).await, 0.0);
    let log = world.server.log();
    assert!(log.contains("vault.toml:1") && log.contains("log in again"), "{log}");
    // It is not asked for every request.
    let asked = auth.asked();
    for _ in 0..20 {
        assert_eq!(ask().await.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert!(auth.asked() <= asked + 2, "asked {} times", auth.asked());
    auth.set_refusal(None);
    let started = Instant::now();
    while ask().await.status != StatusCode::OK {
        assert!(started.elapsed() < DEADLINE, "it does not recover: {}", world.problems().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.problems().await, "[]");
    world.assert_silent(&["at-ac", "rt-ac", CLIENT_SECRET]);
}

#[tokio::test]
async fn a_token_endpoint_that_is_not_trusted_or_gone_gives_nothing() {
    let auth = AuthorizationServer::start().await;
    let stranger = TestCa::new("another CA");
    let vault = client_credentials(&auth, "");
    let world = World::start(STRIPE, &vault, |config| config.system_ca(stranger.pem())).await;
    let reply = world.client.get(&format!("https://{STRIPE}/v1/x")).bearer(&world.token).send().await.unwrap();
    assert_refusal(&reply, 503, "Credential not available");
    assert!(world.problems().await.contains("no trusted TLS connection to localhost"), "{}", world.problems().await);
    assert_eq!(auth.asked(), 0);
    // A request of somebody without a token needs none.
    let reply = world.client.get(&format!("https://{STRIPE}/v1/x")).send().await.unwrap();
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test]
async fn a_github_app_is_an_installation_token_for_the_api_and_for_git() {
    let auth = AuthorizationServer::start().await;
    let app = |host: &str, more: &str| {
        format!(
            "[credentials.\"{host}\"]\ntype = \"github_app\"\napp_id = \"{APP_ID}\"\ninstallation_id = \"{INSTALLATION_ID}\"\n\
             private_key = {{ provider = \"env\", name = \"APP_KEY\" }}\napi_url = \"{}\"\n{more}\n",
            auth.url("")
        )
    };
    // A PEM text has line breaks, which no header has; a file is the usual place.
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("app.pem");
    std::fs::write(&key, &rsa_keys().pkcs1).unwrap();
    let in_file = format!("{{ provider = \"file\", path = \"{}\" }}", key.display());
    for (host, more, expected) in [
        ("api.github.com", "permissions = { contents = \"read\" }", "Bearer at-ac1-Jd7Rn2Vb".to_owned()),
        ("github.com", "send_as = \"basic\"", {
            use base64::Engine;
            let pair = base64::engine::general_purpose::STANDARD.encode("x-access-token:at-ac2-Jd7Rn2Vb");
            format!("Basic {pair}")
        }),
    ] {
        let vault = app(host, more).replace("{ provider = \"env\", name = \"APP_KEY\" }", &in_file);
        let world = World::start(host, &vault, |config| config).await;
        assert_eq!(world.ask(host).await, expected, "{}", world.problems().await);
        if host == "api.github.com" {
            let body = String::from_utf8_lossy(&auth.last_request().body).into_owned();
            assert_eq!(body, r#"{"permissions":{"contents":"read"}}"#);
        }
        world.assert_silent(&["at-ac"]);
    }
}

#[tokio::test]
async fn a_google_service_account_is_an_access_token() {
    let auth = AuthorizationServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.json");
    std::fs::write(&key, auth.key_file()).unwrap();
    let host = "storage.googleapis.com";
    let vault = format!(
        "[credentials.\"*.googleapis.com\"]\ntype = \"google_service_account\"\nkey = {{ provider = \"file\", path = \"{}\" }}\n\
         scopes = [\"https://www.googleapis.com/auth/devstorage.read_only\"]\nsubject = \"someone@example.com\"\n",
        key.display()
    );
    let world = World::start(host, &vault, |config| config).await;
    assert_eq!(world.ask(host).await, "Bearer at-ac1-Jd7Rn2Vb", "{}", world.problems().await);
    let claims = auth.claims();
    assert_eq!(claims["scope"], "https://www.googleapis.com/auth/devstorage.read_only");
    assert_eq!(
        (claims["sub"].as_str(), claims["aud"].as_str()),
        (Some("someone@example.com"), Some(&*auth.url("/google/token")))
    );
}
