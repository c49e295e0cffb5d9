//! `docker-compose.yml`: from nothing to a service that is watched, and to nothing again.

mod systemd;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::support::client::Client;
use crate::support::server::{Output, Server, WorldConfig, run, upstream_section};
use crate::support::upstream::{Upstream, UpstreamConfig};

const HOST: &str = "api.stripe.com";
const KEY: &str = "sk_live_of_the_service";
/// Two scrapes, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(90);
/// What in a project's name compose gives its things.
const LABEL: &str = "label=com.docker.compose.project=";

/// A project of compose of its own; all of it goes with this.
struct Service {
    project: String,
    dir: TempDir,
    envoy: SocketAddr,
    http: SocketAddr,
    prometheus: SocketAddr,
    xds: SocketAddr,
}

impl Service {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Read in the containers, by a user without a name.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let service = Self {
            project: format!("agent-creds-test-{}", std::process::id()),
            envoy: free_port().await,
            http: free_port().await,
            prometheus: free_port().await,
            xds: free_port().await,
            dir,
        };
        fs::create_dir(service.path("config")).unwrap();
        service.configure("");
        let vault =
            format!("[credentials.\"{HOST}\"]\ntype = \"bearer\"\ntoken = {{ provider = \"env\", name = \"KEY\" }}\n");
        fs::write(service.path("config/vault.toml"), vault).unwrap();
        fs::write(service.path("secrets.env"), format!("KEY={KEY}\n")).unwrap();
        service
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Writes `agent-creds.toml`, with further lines for the upstream.
    fn configure(&self, lines: &str) {
        let text = format!(
            "[gateway]\nname = \"service\"\nlisten = \"0.0.0.0:15443\"\n\n[upstream.\"{HOST}\"]\nmethods = [\"GET\"]\n{lines}"
        );
        fs::write(self.path("config/agent-creds.toml"), text).unwrap();
    }

    /// `deploy/compose.sh ARGS`, in another thread.
    async fn compose(&self, args: &'static [&'static str], more: &[(&str, &str)]) -> Output {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/compose.sh"));
        command.args(args).envs(self.environment()).envs(more.iter().copied());
        tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap()
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        vec![
            ("COMPOSE_PROJECT_NAME", self.project.clone()),
            ("PROGRAMS", text(Path::new(env!("CARGO_BIN_EXE_agent-creds")).parent().unwrap())),
            // Also of this user's own server certificates are removed: here there are none.
            ("XDG_STATE_HOME", text(&self.path("state"))),
            ("AGENT_CREDS_IMAGE", "agent-creds-test-server".to_owned()),
            ("AGENT_CREDS_CONFIG", text(&self.path("config"))),
            ("AGENT_CREDS_SECRETS", text(&self.path("secrets.env"))),
            ("AGENT_CREDS_PORT", self.envoy.port().to_string()),
            ("AGENT_CREDS_HTTP_PORT", self.http.port().to_string()),
            ("PROMETHEUS_PORT", self.prometheus.port().to_string()),
            ("AGENT_CREDS_XDS_PORT", self.xds.port().to_string()),
        ]
    }

    /// The names of what Docker has of this project, of one kind: `ps -a`, `volume ls`, `network ls`.
    fn things(&self, list: &[&str]) -> Vec<String> {
        let mut command = Command::new("docker");
        command.args(list).args(["-q", "--filter"]).arg(format!("{LABEL}{}", self.project));
        let output = run(&mut command);
        assert!(output.status.success(), "{list:?}: {}", output.stderr);
        output.stdout.split_whitespace().map(str::to_owned).collect()
    }

    /// The container of one service.
    fn container(&self, name: &str) -> String {
        let mut command = Command::new("docker");
        command.args(["ps", "-q", "--filter"]).arg(format!("{LABEL}{}", self.project));
        let output = run(command.args(["--filter", &format!("label=com.docker.compose.service={name}")]));
        let id = output.stdout.trim().to_owned();
        assert!(!id.is_empty(), "{name} does not run: {}", output.stderr);
        id
    }

    /// Runs a program in a service's container; what it printed.
    ///
    /// # Panics
    /// If it fails.
    fn exec(&self, service: &str, args: &[&str]) -> String {
        let output = run(Command::new("docker").args(["exec", &self.container(service)]).args(args));
        assert!(output.status.success(), "{args:?} in {service}: {}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// A question to Prometheus.
    fn ask(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let mut command = Command::new("curl");
        command.args(["-sS", "-G", &format!("http://{}{path}", self.prometheus)]);
        for (name, value) in query {
            command.arg("--data-urlencode").arg(format!("{name}={value}"));
        }
        serde_json::from_str(&run(&mut command).stdout).unwrap_or_default()
    }

    /// What a query is answered now.
    fn query(&self, expression: &str) -> Vec<Value> {
        let answer = self.ask("/api/v1/query", &[("query", expression)]);
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for id in self.things(&["ps", "-a"]) {
                let output = run(Command::new("docker").args(["logs", "--tail", "20", &id]));
                eprintln!("--- {id}\n{}{}", output.stdout, output.stderr);
            }
            let _ = run(Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/compose.sh"))
                .arg("down")
                .envs(self.environment())
                .env("VOLUMES", "1"));
        }
    }
}

async fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Waits until `look` sees what it looks for.
async fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(seen) => assert!(begun.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}: {seen}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_comes_up_from_nothing_is_watched_and_leaves_nothing() {
    let service = Service::new().await;
    let up = service.compose(&["up"], &[]).await;
    assert!(up.status.success(), "{}{}", up.stdout, up.stderr);
    assert!(up.stdout.contains(&format!("127.0.0.1:{}", service.envoy.port())), "{}", up.stdout);

    every_container_is_hardened(&service);
    requests_go_through_and_edits_apply(&service).await;
    prometheus_sees_both(&service).await;

    // A second `up` finds everything well, and starts nothing anew.
    let before = service.container("server");
    let again = service.compose(&["up"], &[]).await;
    assert!(again.status.success(), "{}{}", again.stdout, again.stderr);
    assert_eq!(service.container("server"), before);

    // All certificate authorities go, of the volume and of this user.
    fs::create_dir_all(service.path("state/agent-creds/node-ca")).unwrap();
    let cleaned = service.compose(&["clean-certs"], &[]).await;
    assert!(cleaned.status.success(), "{}{}", cleaned.stdout, cleaned.stderr);
    assert!(!service.path("state/agent-creds/node-ca").exists());
    let left = service.exec("server", &["ls", "/var/lib/agent-creds"]);
    let left: Vec<_> = left.split_whitespace().collect();
    assert!(!left.contains(&"ca") && left.len() > 1, "{left:?}");

    let down = service.compose(&["down"], &[("VOLUMES", "1")]).await;
    assert!(down.status.success(), "{}{}", down.stdout, down.stderr);
    for list in [["ps", "-a"], ["volume", "ls"], ["network", "ls"]] {
        assert_eq!(service.things(&list), Vec::<String>::new(), "{list:?}");
    }
}

fn every_container_is_hardened(service: &Service) {
    for name in ["server", "envoy", "prometheus"] {
        let id = service.container(name);
        let output = run(Command::new("docker").args(["inspect", &id]));
        let inspected: Value = serde_json::from_str(&output.stdout).unwrap();
        let (config, host) = (&inspected[0]["Config"], &inspected[0]["HostConfig"]);
        assert_eq!(config["User"], "65532:65532", "{name}");
        assert_eq!(host["ReadonlyRootfs"], true, "{name}");
        assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]), "{name}");
        assert_eq!(host["SecurityOpt"], serde_json::json!(["no-new-privileges:true"]), "{name}");
        assert_eq!(host["Privileged"], false, "{name}");
        // Only Envoy's port may be published elsewhere, and is not unless that is asked for.
        for bindings in host["PortBindings"].as_object().unwrap().values() {
            assert_eq!(bindings[0]["HostIp"], "127.0.0.1", "{name}");
        }
    }
    // The key is where it is used, and nowhere else.
    let of = |name| run(Command::new("docker").args(["inspect", &service.container(name)])).stdout.contains(KEY);
    assert_eq!([of("server"), of("envoy"), of("prometheus")], [true, false, false]);
}

async fn requests_go_through_and_edits_apply(service: &Service) {
    // The upstream is on the host, at the address by which the containers see it.
    let networks = service.things(&["network", "ls"]);
    let format = "{{(index .IPAM.Config 0).Gateway}}";
    let output = run(Command::new("docker").args(["network", "inspect", "--format", format, &networks[0]]));
    let gateway: std::net::IpAddr = output.stdout.trim().parse().unwrap();
    let upstream = Upstream::with(UpstreamConfig::new(&[HOST]).listen(SocketAddr::new(gateway, 0))).await;
    fs::write(service.path("config/upstream-ca.pem"), upstream.ca_pem()).unwrap();
    service.configure(&format!("address = \"{}\"\nca = \"upstream-ca.pem\"\n", upstream.addr()));

    let state = "/var/lib/agent-creds";
    let ca = service.exec("server", &["cat", &format!("{state}/ca/ca.pem")]);
    let token = service.exec("server", &["mint", "--hosts", HOST, "--valid-for", "1h", "--state-dir", state]);
    let client = Client::new(&ca, service.envoy);
    let call = || client.get(&format!("https://{HOST}/v1/customers")).bearer(token.trim()).send();
    let begun = Instant::now();
    loop {
        // Until the edit is in force, the name leads to where nobody may go.
        match call().await {
            Ok(reply) if reply.status == StatusCode::OK => break,
            other => assert!(begun.elapsed() < DEADLINE, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(upstream.last_request().authorization().as_deref(), Some(format!("Bearer {KEY}").as_str()));
    let refused =
        client.call(Method::DELETE, &format!("https://{HOST}/v1/customers")).bearer(token.trim()).send().await.unwrap();
    assert_eq!(refused.status, StatusCode::FORBIDDEN);

    a_project_elsewhere_uses_its_vault(service, &upstream, token.trim()).await;

    let run_dir = "/run/agent-creds";
    // Decisions are written down by a thread of its own.
    let log = until("the refusal is in the log", || {
        let log = service.exec("server", &["actl", "log", "--denied", "--json", "--state-dir", state]);
        if log.contains("DELETE") { Ok(log) } else { Err(log) }
    })
    .await;
    assert!(!log.contains(KEY), "{log}");
    let status = service.exec("server", &["actl", "status", "--state-dir", state, "--runtime-dir", run_dir]);
    assert!(status.contains("all is well"), "{status}");
}

/// A server beside the service, whose project names it as its vault.
async fn a_project_elsewhere_uses_its_vault(service: &Service, upstream: &Upstream, token: &str) {
    let vault = service.xds.to_string();
    let words =
        ["agent-creds", "nodes", "enrol", "laptop-1", "--gateway", "service", "--state-dir", "/var/lib/agent-creds"];
    let identity = service.exec("server", &[&words[..], &["--vault", &vault]].concat());
    let project = format!("[vault]\nhost = \"{vault}\"\n\n{}", upstream_section(HOST, upstream, ""));
    let config = WorldConfig::new(project).vault("").without_env("STRIPE_API_KEY");
    let server = Server::start(config.args(&["--vaults", "vaults"])).await;
    let file = server.dir().join(format!("vaults/127.0.0.1_{}.json", service.xds.port()));
    fs::create_dir(file.parent().unwrap()).unwrap();
    fs::write(&file, identity).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let client = server.client();
    upstream.clear();
    let call = || client.get(&format!("https://{HOST}/v1/customers")).bearer(token).send();
    let begun = Instant::now();
    while !call().await.is_ok_and(|reply| reply.status == StatusCode::OK) {
        assert!(begun.elapsed() < DEADLINE, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(upstream.last_request().authorization().as_deref(), Some(format!("Bearer {KEY}").as_str()));
}

async fn prometheus_sees_both(service: &Service) {
    until("both are scraped", || {
        let answer = service.ask("/api/v1/targets", &[]);
        let targets = answer["data"]["activeTargets"].as_array().cloned().unwrap_or_default();
        let up: Vec<_> =
            targets.iter().filter(|target| target["health"] == "up").map(|t| &t["labels"]["job"]).collect();
        if up.contains(&&Value::from("agent-creds")) && up.contains(&&Value::from("envoy")) {
            Ok(())
        } else {
            Err(answer.to_string())
        }
    })
    .await;
    // What was just requested is counted, as soon as the next scrape brings it; a rate needs two of them.
    for expression in [r#"agent_creds_checks_total{decision="deny"} > 0"#, "rate(agent_creds_checks_total[1m])"] {
        until(expression, || {
            let found = service.query(expression);
            if found.is_empty() { Err("no data".to_owned()) } else { Ok(()) }
        })
        .await;
    }
    let rules = until("all rules were evaluated", || {
        let answer = service.ask("/api/v1/rules", &[]);
        let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
        let rules: Vec<Value> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect();
        let all = !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok");
        if all { Ok(rules) } else { Err(answer.to_string()) }
    })
    .await;
    let firing: Vec<_> = rules.iter().filter(|rule| rule["state"] == "firing").map(|rule| &rule["name"]).collect();
    assert_eq!(firing, Vec::<&Value>::new());

    // Every panel shows something, but for what did not happen: an Envoy that rejects, credentials that are fetched.
    let dashboard =
        fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/grafana/dashboards/agent-creds.json")).unwrap();
    let dashboard: Value = serde_json::from_slice(&dashboard).unwrap();
    let mut shown = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let is_of_what_did_not_happen =
                ["agent_creds_credential_good", "nacks_total"].iter().any(|part| expression.contains(part));
            until(expression, || {
                let has_data = !service.query(expression).is_empty();
                if has_data || is_of_what_did_not_happen { Ok(()) } else { Err("no data".to_owned()) }
            })
            .await;
            shown += 1;
        }
    }
    assert!(shown > 10, "{dashboard}");

    let rules = "/etc/prometheus/alerts.yml";
    service.exec("prometheus", &["promtool", "check", "config", "/etc/prometheus/prometheus.yml"]);
    service.exec("prometheus", &["promtool", "check", "rules", rules]);
    let page = run(Command::new("curl").args(["-sS", "--fail", &format!("http://{}/metrics", service.http)])).stdout;
    let mut lint = Command::new("docker")
        .args(["exec", "-i", &service.container("prometheus"), "promtool", "check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut lint.stdin.take().unwrap(), page.as_bytes()).unwrap();
    let lint = lint.wait_with_output().unwrap();
    assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stderr));
}
