//! A vault of another server: `[vault]` in a project's file. Two real servers, with mTLS between them; the first has the keys and no
//! Envoy, the second has an Envoy and no keys.

mod cut;
mod enrolment;
mod sandboxes;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;

use crate::support::client::{Client, Reply};
use crate::support::probe::eventually;
use crate::support::server::{OPENAI_KEY, STRIPE_KEY, Server, WorldConfig, loopback, upstream_section};
use crate::support::upstream::{Aws, Upstream, UpstreamConfig};

const STRIPE: &str = "api.stripe.com";
const OPENAI: &str = "api.openai.com";
const KEYED: &str = "keyed.example.com";
const S3: &str = "photos.s3.eu-central-1.amazonaws.com";
const AWS: [&str; 2] = ["AKIAac6Vb2Nw8Qr4Tz1Y", "ac9Jx/Lp3+Ks7Hd5Gf1Wq0Zm8Cn2Vb4Rt6Yu"];

/// What the server of the vault has beside the usual keys.
const MORE: &str = r#"
[credentials."keyed.example.com"]
type = "header"
name = "x-keyed"
value = { provider = "env", name = "STRIPE_API_KEY" }

[credentials."*.eu-central-1.amazonaws.com"]
type = "sigv4"
access_key_id = { provider = "env", name = "AWS_KEY" }
secret_access_key = { provider = "env", name = "AWS_SECRET" }
"#;

/// The server with the keys. Its gateway `config` may be asked for, within its limits; no Envoy serves it.
fn vault(at: SocketAddr, upstream: &Upstream, args: &[&str]) -> WorldConfig {
    let sections = upstream_section(STRIPE, upstream, "methods = [\"GET\", \"PUT\"]")
        + &upstream_section(OPENAI, upstream, "")
        + &upstream_section(KEYED, upstream, "")
        + &upstream_section("*.amazonaws.com", upstream, "");
    let (key, secret) = (AWS[0], AWS[1]);
    let config = WorldConfig::new(sections).credentials(MORE).env("AWS_KEY", key).env("AWS_SECRET", secret);
    config.listen(SocketAddr::new(at.ip(), 15443)).args(&["--xds", &at.to_string()]).args(args).without_envoy()
}

/// The server that asks it, for a gateway. It knows no key, and has a vault of its own that is of no use.
fn asking(vault: &str, upstream: &Upstream, cloud: &Upstream) -> WorldConfig {
    WorldConfig::new(sections(vault, upstream, cloud))
        .vault("")
        .without_env("STRIPE_API_KEY")
        .without_env("OPENAI_API_KEY")
        .without_env("ANTHROPIC_API_KEY")
}

fn sections(vault: &str, upstream: &Upstream, cloud: &Upstream) -> String {
    let of = |host, more| upstream_section(host, upstream, more);
    format!("[vault]\nhost = \"{vault}\"\n\n")
        + &of(STRIPE, "paths = [\"/echo/**\", \"/sse\"]")
        + &of(OPENAI, "")
        + &of(KEYED, "")
        + &upstream_section("*.amazonaws.com", cloud, "")
}

/// Both, and the API.
struct World {
    vault: Server,
    local: Server,
    upstream: Upstream,
    cloud: Upstream,
    account: Arc<Aws>,
    client: Client,
    at: SocketAddr,
}

impl World {
    /// Both run, and the second is enrolled as `laptop-1`.
    async fn start(args: &[&str]) -> Self {
        let world = Self::without_identity(args).await;
        world.enrol("laptop-1", &[]);
        world.connected().await;
        world
    }

    async fn without_identity(args: &[&str]) -> Self {
        let account = Arc::new(Aws::new(AWS[0], AWS[1], None));
        let upstream = Upstream::start(&[STRIPE, OPENAI, KEYED]).await;
        let cloud = Upstream::with(UpstreamConfig::new(&[S3]).aws(&account)).await;
        let at = SocketAddr::new(loopback(), 18000);
        let vault = Server::start(vault(at, &upstream, args)).await;
        let local = Server::start(asking(&at.ip().to_string(), &upstream, &cloud)).await;
        let client = local.client();
        Self { vault, local, upstream, cloud, account, client, at }
    }

    /// Where the identity of the second server is.
    fn identity(&self) -> PathBuf {
        self.identities().join(format!("{}.json", self.at.ip()))
    }

    fn identities(&self) -> PathBuf {
        self.local.dir().join(".config/agent-creds/vaults")
    }

    /// Enrols the second server with the first one.
    fn enrol(&self, id: &str, args: &[&str]) {
        let (at, out, state) = (self.at.to_string(), self.identities(), self.vault.state_dir());
        let (out, state) = (out.to_str().unwrap(), state.to_str().unwrap());
        let words = ["nodes", "enrol", id, "--gateway", "config", "--vault", &at, "--out", out, "--state-dir", state];
        let output = self.vault.agent_creds(&[&words[..], args].concat());
        assert!(output.status.success(), "{output:#?}");
        assert!(output.stdout.contains("[vault]\n  host ="), "{output:#?}");
    }

    /// What the second server says of the first.
    async fn shared(&self) -> Value {
        self.local.ready().await.map(|ready| ready.body["shared_vaults"][0].clone()).unwrap_or_default()
    }

    async fn connected(&self) {
        self.is("connected").await;
    }

    async fn is(&self, state: &str) {
        eventually("the state of the shared vault", async || match self.shared().await {
            vault if vault["state"] == state => Ok(()),
            vault => Err(vault.to_string()),
        })
        .await;
    }

    async fn get(&self, url: &str, token: &str) -> Reply {
        self.client.get(url).bearer(token).send().await.unwrap()
    }

    /// A request to Stripe that is answered so.
    async fn answered(&self, token: &str, status: StatusCode) -> Reply {
        eventually("the answer", async || {
            let reply = self.client.get(&format!("https://{STRIPE}/echo")).bearer(token).send().await;
            match reply.map_err(|error| error.to_string())? {
                reply if reply.status == status => Ok(reply),
                reply => Err(format!("{}: {}", reply.status, reply.text())),
            }
        })
        .await
    }
}

#[tokio::test]
async fn requests_have_the_keys_of_another_server_which_this_one_never_has() {
    let world = World::start(&[]).await;
    let token = world.vault.token(&["--hosts", "api.stripe.com,api.openai.com,keyed.example.com"]);
    let reply = world.answered(&token, StatusCode::OK).await;
    assert_eq!(world.upstream.last_request().authorization(), Some(format!("Bearer {STRIPE_KEY}")));
    assert!(!reply.text().contains(STRIPE_KEY), "what comes back of it is masked: {}", reply.text());
    assert_eq!(world.get(&format!("https://{OPENAI}/v1/models"), &token).await.status, StatusCode::OK);
    assert_eq!(world.upstream.last_request().authorization(), Some(format!("Bearer {OPENAI_KEY}")));

    // Where a token goes is known to the vault alone.
    let reply = world.client.get(&format!("https://{KEYED}/echo")).header("x-keyed", &token).send().await.unwrap();
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    assert_eq!(world.upstream.last_request().header("x-keyed"), Some(STRIPE_KEY.to_owned()));
    let misplaced = world.client.get(&format!("https://{KEYED}/echo")).header("x-other", &token).send().await.unwrap();
    assert_eq!(misplaced.status, StatusCode::UNAUTHORIZED, "{}", misplaced.text());

    // Both servers' limits hold, and each says where its own are widened.
    let here = world.get(&format!("https://{STRIPE}/other"), &token).await;
    assert_eq!(here.status, StatusCode::FORBIDDEN);
    assert!(here.text().contains("path not allowed") && here.text().contains("on the host"), "{}", here.text());
    let post = world.client.post(&format!("https://{STRIPE}/echo"), "x").bearer(&token).send().await.unwrap();
    assert_eq!(post.status, StatusCode::FORBIDDEN);
    assert!(post.text().contains("method not allowed: POST is not among the methods"), "{}", post.text());
    // A token that is for something else, is none at all, or was made by the server that asks.
    let narrow = world.vault.token(&["--hosts", "api.openai.com"]);
    let reply = world.get(&format!("https://{STRIPE}/echo"), &narrow).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert!(reply.text().contains("host not allowed"), "{}", reply.text());
    for bad in ["acm_x", &world.local.token(&[])] {
        let reply = world.get(&format!("https://{STRIPE}/echo"), bad).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{}", reply.text());
    }
    let elsewhere = world.vault.token(&["--sandbox", "prod"]);
    let reply = world.get(&format!("https://{STRIPE}/echo"), &elsewhere).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN, "{}", reply.text());
    world.answered(&world.vault.token(&["--sandbox", "config"]), StatusCode::OK).await;

    // Nothing of it is on this server's disk, or in its log; both wrote down what they decided.
    for key in [STRIPE_KEY, OPENAI_KEY] {
        assert_eq!(world.local.files_containing(key), Vec::<PathBuf>::new());
    }
    for (server, reason) in [(&world.local, "refused_by_vault"), (&world.vault, "limit_method")] {
        eventually("the log of decisions", async || {
            let state = server.state_dir();
            let log = server.actl(&["log", "--json", "--state-dir", state.to_str().unwrap()]).await;
            let has = |word: &str| log.stdout.contains(word);
            if has("\"allow\"") && has(reason) { Ok(()) } else { Err(log.stdout) }
        })
        .await;
    }
    for request in world.upstream.requests() {
        assert!(!request.contains("acm_"), "a token travelled on: {request:?}");
    }
}

#[tokio::test]
async fn a_vault_that_is_away_costs_the_requests_with_tokens_alone() {
    let mut world = World::start(&[]).await;
    let token = world.vault.token(&[]);
    world.answered(&token, StatusCode::OK).await;
    world.vault.kill9();
    world.is("down").await;
    let reply = world.get(&format!("https://{STRIPE}/echo"), &token).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{}", reply.text());
    assert!(reply.text().contains("its vault does not answer"), "{}", reply.text());
    let free = world.client.get(&format!("https://{STRIPE}/echo")).send().await.unwrap();
    assert_eq!(free.status, StatusCode::OK, "one without a token goes on");
    let status = world.local.actl(&["status"]).await;
    assert!(!status.status.success() && status.stdout.contains("cannot be reached"), "{}", status.stdout);
    world.vault.restart();
    world.vault.wait_ready().await;
    world.answered(&token, StatusCode::OK).await;
    world.connected().await;
    let status = world.local.actl(&["status"]).await;
    assert!(status.status.success() && status.stdout.contains("connected as laptop-1 (gateway config)"), "{status:?}");
    assert_eq!(world.local.metric("agent_creds_shared_vault_connected", &[]).await, 1.0);
}

#[tokio::test]
async fn an_edit_changes_the_vault_at_once() {
    let world = World::start(&[]).await;
    let token = world.vault.token(&[]);
    world.answered(&token, StatusCode::OK).await;
    // Without [vault] the server's own is asked, which does not know the token.
    let own = sections("x", &world.upstream, &world.cloud).split_once("\n\n").unwrap().1.to_owned();
    world.local.apply(&own).await;
    assert_eq!(world.get(&format!("https://{STRIPE}/echo"), &token).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(world.local.ready().await.unwrap().body["shared_vaults"], serde_json::json!([]));
    world.local.apply(&sections(&world.at.to_string(), &world.upstream, &world.cloud)).await;
    world.answered(&token, StatusCode::OK).await;
}

#[tokio::test]
async fn requests_are_signed_by_the_vault_body_and_all() {
    let world = World::start(&[]).await;
    let token = world.vault.token(&[]);
    let signed = format!(
        "AWS4-HMAC-SHA256 Credential={token}/20010101/eu-central-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature={:064}",
        0
    );
    let put = async |body: Bytes| {
        let call = world.client.call(Method::PUT, &format!("https://{S3}/cat.jpg")).body(body);
        call.header("authorization", &signed).header("x-amz-date", "20010101T000000Z").send().await.unwrap()
    };
    let reply = put(Bytes::from(vec![b'x'; 100_000])).await;
    assert!(reply.status.is_success(), "{}: {} {:?}", reply.status, reply.text(), world.account.refused());
    assert_eq!(world.account.refused(), Vec::<String>::new());
    let seen = world.cloud.last_request();
    assert!(seen.contains(AWS[0]) && !seen.contains("acm_"), "{seen:?}");
    let reply = put(Bytes::from(vec![b'x'; 9 << 20])).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", reply.text());
}
