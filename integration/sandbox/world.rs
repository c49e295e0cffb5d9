//! A server's worth of sandboxes: folders, projects, an upstream on loopback. All of it goes with the world, also when a test
//! fails.
//!
//! ```text
//! DIR/state  DIR/run  DIR/config/agent-creds/vault.toml  DIR/home
//! DIR/PROJECT/agent-creds.toml, upstream-ca.pem          one sandbox each, `World::name(PROJECT)`
//! ```

use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use agent_creds::sandbox::network::NetKey;
use agent_creds::sandbox::spec::ServerId;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::pki::TestCa;
use crate::support::pty::Terminal;
use crate::support::server::{
    ANTHROPIC_KEY, OPENAI_KEY, Output, STRIPE_KEY, envoy_bin, kill_all_of, run, upstream_section,
};
use crate::support::upstream::{Upstream, UpstreamConfig};

pub const ADEV: &str = env!("CARGO_BIN_EXE_adev");
/// How long anything may take that should take a moment, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the upstream plays.
pub const HOSTS: [&str; 6] =
    ["api.stripe.com", "api.openai.com", "api.anthropic.com", "api.github.com", "git.example.com", "other.example.com"];
/// The real keys of the other two hosts.
pub const GITHUB_KEY: &str = "ghp_ac9Nw4Jt6rSe2HvYcU8oBx17";
pub const GIT_PASSWORD: &str = "ac1Fk7Dz3pLm5QgXwI9eVa60";

const VAULT: &str = r#"
[credentials."api.stripe.com"]
type = "bearer"
token = { provider = "env", name = "STRIPE_API_KEY" }

[credentials."api.openai.com"]
type = "bearer"
token = { provider = "env", name = "OPENAI_API_KEY" }

[credentials."api.anthropic.com"]
type = "header"
name = "x-api-key"
value = { provider = "env", name = "ANTHROPIC_API_KEY" }

[credentials."api.github.com"]
type = "bearer"
token = { provider = "env", name = "GITHUB_KEY" }

[credentials."git.example.com"]
type = "basic"
username = { provider = "env", name = "GIT_USER" }
password = { provider = "env", name = "GIT_PASSWORD" }
"#;

pub struct World {
    pub upstream: Upstream,
    runtime: &'static str,
    unique: String,
    environment: Vec<(&'static str, String)>,
    dir: TempDir,
    /// Carries the upstream; last, so that it outlives it.
    _tokio: Runtime,
}

impl World {
    /// A world whose sandboxes have this runtime: `runc` or `runsc`. Nothing runs yet but the upstream.
    pub fn new(runtime: &'static str) -> Self {
        Self::with(runtime, UpstreamConfig::new(&HOSTS))
    }

    pub fn with(runtime: &'static str, upstream: UpstreamConfig) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let upstream = tokio.block_on(Upstream::with(upstream));
        let dir = tempfile::Builder::new().prefix("agent-creds-sandbox-").tempdir().unwrap();
        let unique = format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let world = Self { upstream, runtime, unique, environment: Vec::new(), dir, _tokio: tokio };
        for folder in ["state", "run", "home", "config", "config/agent-creds"] {
            fs::DirBuilder::new().mode(0o700).create(world.path(folder)).unwrap();
        }
        fs::write(world.path("config/agent-creds/vault.toml"), VAULT).unwrap();
        world
    }

    /// With a variable in the environment of `adev`, and so of the server it starts.
    pub fn with_env(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(below)
    }

    /// The name of a project's sandbox, which no other test has.
    pub fn name(&self, project: &str) -> String {
        format!("{}-{project}", self.unique)
    }

    /// The name of a project's container, and of its network.
    pub fn container(&self, project: &str) -> String {
        format!("adev-{}", self.name(project))
    }

    /// The id on all labels.
    pub fn server(&self) -> ServerId {
        ServerId::of(&self.path("state"))
    }

    pub fn key(&self, project: &str) -> NetKey {
        NetKey::new(self.server().as_str(), &self.name(project)).unwrap()
    }

    /// Makes a project, or edits it in place: `sandbox` are more lines of `[sandbox]`, `env` those of `[sandbox.env]`, `hosts`
    /// those of the upstream that can be reached.
    pub fn project(&self, project: &str, sandbox: &str, env: &str, hosts: &[&str]) {
        let upstreams: String = hosts.iter().map(|host| upstream_section(host, &self.upstream, "")).collect();
        let (name, runtime) = (self.name(project), self.runtime);
        fs::create_dir_all(self.path(project)).unwrap();
        fs::write(self.path(project).join("upstream-ca.pem"), TestCa::shared().pem()).unwrap();
        self.write_config(
            project,
            &format!(
                "[sandbox]\nname = \"{name}\"\nruntime = \"{runtime}\"\n{sandbox}\n[sandbox.env]\n{env}\n\n{upstreams}"
            ),
        );
    }

    /// Writes the file itself, as an editor does that keeps it: the container sees the same file.
    pub fn write_config(&self, project: &str, text: &str) {
        fs::write(self.config_file(project), text).unwrap();
    }

    pub fn config_file(&self, project: &str) -> PathBuf {
        self.path(project).join("agent-creds.toml")
    }

    /// A program in the environment of `adev`, the server included; nothing else of ours.
    pub fn command(&self, program: &str, project: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(self.path(project)).stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        if let Some(host) = std::env::var_os("DOCKER_HOST") {
            command.env("DOCKER_HOST", host);
        }
        command.env("HOME", self.path("home")).env("XDG_CONFIG_HOME", self.path("config")).env("TERM", "xterm");
        command.env("ENVOY_BIN", envoy_bin());
        command.env("AGENT_CREDS_HELPERS", concat!(env!("CARGO_MANIFEST_DIR"), "/target/helpers/bin"));
        command.env("STRIPE_API_KEY", STRIPE_KEY).env("OPENAI_API_KEY", OPENAI_KEY);
        command.env("ANTHROPIC_API_KEY", ANTHROPIC_KEY).env("GITHUB_KEY", GITHUB_KEY);
        // There where a test puts one.
        command.env("BROWSER", self.path("browser"));
        command.env("GIT_USER", "robot").env("GIT_PASSWORD", GIT_PASSWORD);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// `adev SUBCOMMAND WORDS…` in a project.
    pub fn adev_command(&self, project: &str, words: &[&str]) -> Command {
        let mut command = self.command(ADEV, project);
        command.arg(words[0]).arg("--state-dir").arg(self.path("state"));
        command.arg("--runtime-dir").arg(self.path("run")).args(&words[1..]);
        command
    }

    pub fn adev(&self, project: &str, words: &[&str]) -> Output {
        run(&mut self.adev_command(project, words))
    }

    /// `adev run -- sh -c SCRIPT`; what it says may be anything.
    pub fn inside(&self, project: &str, script: &str) -> Output {
        self.adev(project, &["run", "--", "sh", "-c", script])
    }

    /// Its standard output, without the last newline, of a script that succeeds.
    pub fn says(&self, project: &str, script: &str) -> String {
        let output = self.inside(project, script);
        assert!(output.status.success(), "{script}: {}\n{}\n{}", output.status, output.stdout, output.stderr);
        output.stdout.trim_end().to_owned()
    }

    /// `adev console` on a terminal.
    pub fn console(&self, project: &str) -> Terminal {
        Terminal::run(&self.adev_command(project, &["console"]))
    }

    /// The sandbox of a project, as `adev list --json` shows it.
    pub fn listed(&self, project: &str) -> Value {
        let output = self.adev(project, &["list", "--json"]);
        assert!(output.status.success(), "{output:?}");
        let all: Vec<Value> = serde_json::from_str(&output.stdout).unwrap();
        let name = self.name(project);
        all.into_iter().find(|sandbox| sandbox["name"] == name.as_str()).unwrap_or_default()
    }

    /// The server's process, by the lock it holds.
    pub fn server_pid(&self) -> Option<Pid> {
        let lock = fs::read_to_string(self.path("run/lock")).ok()?;
        Pid::from_raw(lock.lines().next()?.trim().parse().ok()?).filter(|&pid| is_alive(pid))
    }

    /// Ends the server, and waits until it is gone.
    pub fn signal_server(&self, signal: Signal) {
        let pid = self.server_pid().expect("the server runs");
        kill_process(pid, signal).unwrap();
        eventually("the server is gone", || !is_alive(pid));
    }

    /// Docker's own client; panics when it fails.
    pub fn docker(&self, args: &[&str]) -> String {
        let output = run(Command::new("docker").args(args));
        assert!(output.status.success(), "docker {args:?}: {}", output.stderr);
        output.stdout.trim_end().to_owned()
    }

    /// The containers and networks of this server.
    pub fn made(&self) -> Vec<String> {
        let label = format!("label=agent-creds.server={}", self.server());
        let containers = self.docker(&["ps", "-a", "--filter", &label, "--format", "{{.Names}}"]);
        let networks = self.docker(&["network", "ls", "--filter", &label, "--format", "{{.Name}}"]);
        containers.lines().chain(networks.lines()).map(str::to_owned).collect()
    }

    /// What there is on this host's network for a project's sandbox: nft tables, routing rules, the bridge. Looked for from a
    /// container, so that it takes no root.
    pub fn rules(&self, project: &str) -> Vec<String> {
        let label = format!("agent-creds.test={}", self.unique);
        let look = "nft list tables && ip -4 rule && ip -6 rule && ip link";
        let run =
            ["run", "--rm", "--label", &label, "--network", "host", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN"];
        let all = self.docker(&[&run[..], &["--entrypoint", "sh", "agent-creds-envoy", "-c", look]].concat());
        assert!(all.contains("lookup local") && all.contains("lo:"), "{all}");
        let (table, bridge) = (self.key(project).table(), self.key(project).bridge());
        let is_of = |line: &&str| line.contains(&table) || line.contains(&bridge);
        all.lines().filter(is_of).map(str::to_owned).collect()
    }

    /// A script in the container by Docker's own client, without `adev` and without the sandbox's tokens: its output.
    pub fn exec(&self, project: &str, script: &str) -> String {
        let container = self.container(project);
        let output = run(Command::new("docker").args(["exec", &container, "sh", "-c", script]));
        output.stdout.trim_end().to_owned()
    }

    /// What `docker inspect` says of the container, by a template.
    pub fn inspect(&self, project: &str, template: &str) -> String {
        self.docker(&["inspect", "--format", template, &self.container(project)])
    }

    /// What the upstream received, which must not have seen a token.
    pub fn forwarded(&self) -> Vec<crate::support::upstream::Recorded> {
        let requests = self.upstream.requests();
        for request in &requests {
            assert!(!request.contains("acm_"), "a token travelled on: {request:?}");
        }
        requests
    }

    pub fn log(&self) -> String {
        let mut log = String::new();
        if let Ok(mut file) = fs::File::open(self.path("run/server.log")) {
            let _ = file.read_to_string(&mut log);
        }
        log
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}: server.log\n{}", self.dir.path().display(), self.log());
        }
        // The first directory of the world there is: a project or not, nothing is read from it.
        if self.path("run/lock").exists() {
            let stopped = run(&mut self.adev_command("home", &["stop", "--all"]));
            if !stopped.status.success() {
                eprintln!("adev stop --all: {stopped:?}");
            }
        }
        if let Some(pid) = self.server_pid() {
            let _ = kill_process(pid, Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(10);
            while is_alive(pid) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        kill_all_of(&self.path(""));
        let label = format!("label=agent-creds.server={}", self.server());
        let docker = |args: &[&str]| run(Command::new("docker").args(args)).stdout;
        for id in docker(&["ps", "-aq", "--filter", &label]).split_whitespace() {
            docker(&["rm", "-fv", id]);
        }
        for id in docker(&["network", "ls", "-q", "--filter", &label]).split_whitespace() {
            docker(&["network", "rm", id]);
        }
    }
}

/// Waits until it is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether a process runs; one that ended and was not waited for does not.
fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Copies a folder with all below it, as it is: by their times Python knows that its compiled files are good.
pub fn copy_folder(from: &Path, to: &Path) {
    let output = run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to));
    assert!(output.status.success(), "{}", output.stderr);
}
