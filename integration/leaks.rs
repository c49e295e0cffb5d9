//! Secrets stay where they belong, whatever happens: every byte that server and Envoy write or answer is searched for them.

mod guarded;
mod search;

use std::fs;
use std::path::Path;
use std::time::Duration;

use http::Method;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use self::search::{Finding, Hunt};
use crate::support::pki::CertKind;
use crate::support::server::{
    ANTHROPIC_KEY, DEFAULT_VAULT, OPENAI_KEY, STRIPE_KEY, Server, WorldConfig, upstream_section,
};
use crate::support::upstream::{Upstream, UpstreamConfig};

const BASIC_PASSWORD: &str = "pb_pass_ac8Zt4Yq1mWv6LxJ";
const MAPS_KEY: &str = "AIzaSyac2Xn7Kd5Hs0VqJb9TwGf4LrC";

/// Lines of the library's targets are asked for by name, too: there frames and headers would be.
const EVERYTHING: &str = "trace,h2=trace,h2::codec=trace,h2::proto=trace,hyper=trace,hyper::proto=trace,hyper_util=trace,\
                          hyper_util::client=trace,tonic=trace,tonic::transport=trace,tower=trace,agent_creds=trace";

struct Upstreams {
    good: Upstream,
    self_signed: Upstream,
    basic: Upstream,
}

impl Upstreams {
    async fn start() -> Self {
        let untrusted = UpstreamConfig::new(&["api.openai.com"]).cert(CertKind::SelfSigned);
        Self {
            good: Upstream::start(&["api.stripe.com", "maps.example.com"]).await,
            self_signed: Upstream::with(untrusted).await,
            basic: Upstream::start(&["pb.example.com"]).await,
        }
    }

    fn sections(&self, dead_port: u16) -> String {
        upstream_section(
            "api.stripe.com",
            &self.good,
            "methods = [\"GET\", \"POST\"]\npaths = [\"/v1/**\", \"/status/**\"]",
        ) + &upstream_section("api.openai.com", &self.self_signed, "")
            + &upstream_section("pb.example.com", &self.basic, "")
            + &upstream_section("maps.example.com", &self.good, "")
            + &format!(
                "[upstream.\"api.anthropic.com\"]\naddress = \"127.0.0.1:{dead_port}\"\nca = \"upstream-ca.pem\"\n"
            )
    }
}

async fn world(upstreams: &Upstreams) -> Server {
    // As on a developer's machine: the server must protect itself.
    let core = getrlimit(Resource::Core);
    setrlimit(Resource::Core, Rlimit { current: core.maximum, maximum: core.maximum }).unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = gone.local_addr().unwrap().port();
    drop(gone);
    let config = WorldConfig::new(upstreams.sections(port))
        .credentials(
            "\n[credentials.\"pb.example.com\"]\ntype = \"basic\"\nusername = { provider = \"env\", name = \"PB_USER\" }\n\
             password = { provider = \"env\", name = \"PB_PASSWORD\" }\n\
             [credentials.\"maps.example.com\"]\ntype = \"query\"\nname = \"key\"\n\
             value = { provider = \"env\", name = \"MAPS_KEY\" }\n",
        )
        .env("PB_USER", "admin")
        .env("PB_PASSWORD", BASIC_PASSWORD)
        .env("MAPS_KEY", MAPS_KEY)
        .env("RUST_LOG", "trace")
        .args(&["--log", EVERYTHING]);
    Server::start(config).await
}

/// Requests of every kind, right and wrong. Their answers are what other tests are about; here only that they came.
async fn traffic(server: &Server, tokens: &[String]) -> Vec<u16> {
    let client = server.client();
    let [good, narrow, expired, foreign] = tokens else { panic!("four tokens") };
    let at = good.len() - 20;
    let other = if good.as_bytes()[at] == b'A' { 'B' } else { 'A' };
    let altered = format!("{}{other}{}", &good[..at], &good[at + 1..]);
    let stripe = "https://api.stripe.com/v1/customers";
    let mut calls = vec![
        client.get(stripe).bearer(good),
        client.get(stripe).bearer(good).h2(),
        client.post(stripe, format!("card={good}")).bearer(good),
        client.get(stripe).header("x-api-key", good),
        client.get("https://api.stripe.com/status/500").bearer(good),
        client.get("https://pb.example.com/x").bearer(good),
        client.get("https://maps.example.com/x").bearer(good),
        client.get(&format!("https://maps.example.com/x?a=b&key={good}")),
        client.get(&format!("https://maps.example.com/x?key={good}&key={narrow}")),
        client.get(&format!("https://maps.example.com/status/500?key={good}")).h2(),
        // Refused: limits, caveats, time, sandbox.
        client.call(Method::DELETE, stripe).bearer(good),
        client.get("https://api.stripe.com/v2").bearer(good),
        client.get(stripe).bearer(narrow).header("accept", "application/json"),
        client.get(stripe).bearer(expired),
        client.get(stripe).bearer(foreign),
        client.get(stripe),
        // Malformed, altered, too much.
        client.get(stripe).bearer(&good[..good.len() / 2]),
        client.get(stripe).bearer(&altered),
        client.get(stripe).bearer(&format!("{good}!")),
        client.get(stripe).bearer(&format!("{good},{narrow}")),
        client.get(stripe).bearer(&format!("{good}{}", "A".repeat(9000))),
        client.get(stripe).bearer("acm_"),
        client.get(stripe).bearer(good).header("x-api-key", narrow),
        // In the wrong places.
        client.get(&format!("{stripe}?key={good}")),
        client.get(&format!("https://api.stripe.com/v1/{good}/x")),
        client.get(stripe).header("x-custom", good),
        client.get(stripe).header("cookie", format!("a=1; t={good}")),
        client.get(stripe).header("authorization", format!("Digest t=\"{good}\"")),
        client.get(stripe).bearer(good).header("user-agent", format!("agent\u{e9} {good}")),
        client.get(stripe).bearer(good).authority(&format!("{}.example.com", &good[..50])),
        client.get(stripe).bearer(good).authority("api.openai.com").h2(),
        // The upstream is at fault: its certificate, its port.
        client.get("https://api.openai.com/v1/models").bearer(good),
        client.get("https://api.anthropic.com/v1/messages").bearer(good),
    ];
    let mut statuses = Vec::new();
    for call in calls.drain(..) {
        statuses.push(call.send().await.map_or(0, |reply| reply.status.as_u16()));
    }
    // Not even HTTP, or not over TLS.
    for bytes in [
        format!(
            "GET /v1 HTTP/1.1\r\nHost: api.stripe.com\r\nAuthorization: Bearer {good}\r\n broken\r\nno colon\r\n\r\n"
        ),
        format!("{good} /v1 HTTP/1.1\r\nHost: api.stripe.com\r\n\r\n"),
        format!("GET /v1 HTTP/1.1\r\nHost: {good}\r\n{good}: x\r\nContent-Length: {good}\r\n\r\n"),
        format!("GET /v1 HTTP/{good}\r\n\r\n"),
    ] {
        let _ = client.raw("api.stripe.com", bytes.as_bytes()).await;
        let mut plain = TcpStream::connect(server.addr()).await.unwrap();
        plain.write_all(bytes.as_bytes()).await.unwrap();
        let _ = tokio::time::timeout(Duration::from_millis(300), plain.read_to_end(&mut Vec::new())).await;
    }
    statuses
}

fn tokens(server: &Server) -> Vec<String> {
    let all: [&[&str]; 4] = [
        &["--valid-for", "1h"],
        &["--hosts", "api.openai.com", "--methods", "POST", "--paths", "/v1/charges/**"],
        &["--not-before", "2020-01-01T00:00:00Z", "--valid-for", "1h"],
        &["--sandbox", "somebody-else"],
    ];
    all.iter().map(|args| server.token(args)).collect()
}

/// Everything that can be asked of the server and of Envoy's admin interface.
async fn pages(server: &Server) -> Vec<(String, Vec<u8>)> {
    let mut pages = Vec::new();
    for path in ["/metrics", "/readyz", "/healthz", "/envoy/stats/prometheus", "/envoy/config_dump", "/"] {
        let body = server.http_get(path).await.unwrap_or_else(|| panic!("{path} is answered")).1;
        pages.push((path.to_owned(), body.into_bytes()));
    }
    for path in
        ["/config_dump?include_eds", "/clusters", "/certs", "/stats", "/listeners", "/server_info", "/init_dump"]
    {
        let mut admin = UnixStream::connect(server.runtime_dir().join("envoy-admin.sock")).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        admin.write_all(request.as_bytes()).await.unwrap();
        let mut body = Vec::new();
        tokio::time::timeout(Duration::from_secs(15), admin.read_to_end(&mut body)).await.unwrap().unwrap();
        pages.push((format!("Envoy's {path}"), body));
    }
    pages
}

fn proc_file(pid: u32, name: &str) -> (String, Vec<u8>) {
    let path = format!("/proc/{pid}/{name}");
    let contents = fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    (path, contents)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_written_or_told_anywhere() {
    let upstreams = Upstreams::start().await;
    let mut server = world(&upstreams).await;
    let tokens = tokens(&server);
    let statuses = traffic(&server, &tokens).await;
    for expected in [200, 401, 403, 421, 502] {
        assert!(statuses.contains(&expected), "the traffic is of every kind: {statuses:?}");
    }
    for key in [STRIPE_KEY, MAPS_KEY] {
        assert!(upstreams.good.requests().iter().any(|seen| seen.contains(key)), "the key was used");
    }

    // The real key where its variable's name belongs: what is refused is not repeated.
    let vault = server.dir().join("vault.toml");
    for bad in [
        DEFAULT_VAULT.replace("{ provider = \"env\", name = \"STRIPE_API_KEY\" }", &format!("\"{STRIPE_KEY}\"")),
        DEFAULT_VAULT.replace("\"STRIPE_API_KEY\"", &format!("\"{STRIPE_KEY}\"")),
        format!("{DEFAULT_VAULT}\nkey = {STRIPE_KEY}"),
    ] {
        fs::write(&vault, bad).unwrap();
        server.wait_for("the vault is refused", |ready| !ready.config_ok()).await;
        let pages = pages(&server).await;
        assert_eq!(hunt(&server, &tokens).in_pages(&pages), []);
        fs::write(&vault, DEFAULT_VAULT).unwrap();
        server.wait_for("the vault is good again", |ready| ready.config_ok()).await;
    }

    let before = pages(&server).await;
    let mut processes = vec![proc_file(server.pid(), "cmdline")];
    server.kill9();
    let while_down = traffic(&server, &tokens).await;
    assert!(while_down.contains(&503), "nobody decides: {while_down:?}");
    assert!(!while_down.contains(&200), "nothing passes: {while_down:?}");
    server.restart();
    server.wait_ready().await;
    traffic(&server, &tokens).await;
    let after = pages(&server).await;
    let envoy = server.envoy_pid().await;
    for (pid, name) in [(server.pid(), "cmdline"), (envoy, "cmdline"), (envoy, "environ")] {
        processes.push(proc_file(pid, name));
    }
    let limits = String::from_utf8(proc_file(envoy, "limits").1).unwrap();
    assert!(limits.lines().any(|line| line.starts_with("Max core file size") && core_is_forbidden(line)), "{limits}");

    let hunt = hunt(&server, &tokens);
    let files = [server.state_dir(), server.runtime_dir(), server.dir().join("server.log")];
    for file in &files {
        assert_eq!(hunt.in_files(file), [], "{}", file.display());
    }
    for texts in [&before, &after, &processes] {
        assert_eq!(hunt.in_pages(texts), []);
    }

    // The search looked at what it should have: a debug log with refusals in it, Envoy's words, certificates.
    let log = server.log();
    assert!(log.contains("refused a request") && log.contains("DEBUG"), "the log is a debug log");
    let text = |pages: &[(String, Vec<u8>)], name: &str| {
        let page = pages.iter().find(|(path, _)| path == name).map(|(_, body)| body.clone());
        String::from_utf8_lossy(&page.unwrap()).into_owned()
    };
    assert!(text(&after, "/metrics").contains("reason=\"bad_signature\""));
    assert!(text(&after, "/envoy/stats/prometheus").contains("envoy_http_downstream_rq"));
    assert!(text(&after, "Envoy's /config_dump?include_eds").contains("BEGIN CERTIFICATE"));
    the_search_finds(&server, &hunt);
    server.stop().await;
    for file in &files {
        assert_eq!(hunt.in_files(file), [], "after the end: {}", file.display());
    }
}

/// `Max core file size     0     0     bytes`.
fn core_is_forbidden(line: &str) -> bool {
    line.split_ascii_whitespace().skip(4).take(2).eq(["0", "0"])
}

/// What is looked for, and where it may be.
fn hunt(server: &Server, tokens: &[String]) -> Hunt {
    let mut hunt = Hunt::default();
    for (name, key) in [
        ("Stripe's key", STRIPE_KEY),
        ("OpenAI's key", OPENAI_KEY),
        ("Anthropic's key", ANTHROPIC_KEY),
        ("the password", BASIC_PASSWORD),
        ("the key in the query", MAPS_KEY),
    ] {
        hunt.secret(name, key.as_bytes());
    }
    for token in tokens {
        hunt.token(token);
    }
    let state = server.state_dir();
    let key_file = state.join("signing.key");
    hunt.signing_key(fs::read_to_string(&key_file).unwrap().trim());
    hunt.private_key(&fs::read_to_string(state.join("ca/ca-bundle.pem")).unwrap());
    hunt.may_be_in("the signing key", &key_file);
    hunt.may_be_in("a private key", &state.join("ca/ca-bundle.pem"));
    hunt
}

/// Plants each secret where it could leak to, and sees it found by the same search.
fn the_search_finds(server: &Server, hunt: &Hunt) {
    // What may be somewhere is found there, too; it is only not held against it.
    let anywhere = hunt.clone().without_exceptions();
    let names = |findings: Vec<Finding>| findings.into_iter().map(|finding| finding.what).collect::<Vec<_>>();
    assert!(names(anywhere.in_files(&server.state_dir().join("signing.key"))).contains(&"the signing key".to_owned()));
    assert!(names(anywhere.in_files(&server.state_dir().join("ca"))).contains(&"a private key".to_owned()));

    let plant = server.state_dir().join("ca/deep/er");
    fs::create_dir_all(plant.parent().unwrap()).unwrap();
    let mut planted = 0;
    for (what, bytes) in hunt.needles() {
        let mut text = b"2026-01-01 INFO \xff\0 value=".to_vec();
        text.extend_from_slice(bytes);
        text.extend_from_slice(b" and more\n");
        fs::write(&plant, &text).unwrap();
        assert!(names(hunt.in_files(&server.state_dir())).contains(what), "{what} is found in a file");
        assert!(names(hunt.in_pages(&[("page".to_owned(), text)])).contains(what), "{what} is found in a page");
        planted += 1;
    }
    assert!(planted > 40, "every form of every secret: {planted}");
    fs::remove_file(&plant).unwrap();
    // Beside the file it may be in, and as a link to it.
    let bundle = fs::read(server.state_dir().join("ca/ca-bundle.pem")).unwrap();
    fs::write(&plant, bundle).unwrap();
    assert!(names(hunt.in_files(&server.state_dir())).contains(&"a private key".to_owned()));
    fs::remove_dir_all(plant.parent().unwrap()).unwrap();
    assert_eq!(hunt.in_files(Path::new(&server.state_dir())), []);
}
