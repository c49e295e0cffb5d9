//! The real `agent-creds serve` with a real Envoy, in a folder and on a loopback address of its own.
//!
//! ```text
//! DIR/config/agent-creds.toml, upstream-ca.pem, …   DIR/vault.toml   DIR/system-ca.pem
//! DIR/state/  (ca/ca.pem, keys)    DIR/run/  (http.addr, control.sock, xds.sock, envoy.log …)    DIR/server.log
//! ```
//!
//! Dropping a [`Server`] kills it and its Envoy, whatever happened; when the test failed, the logs are printed first.
//! `KEEP_WORLD=1` leaves the folder.

mod config;
mod edit;
mod foreign;
mod process;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

pub use self::config::{ANTHROPIC_KEY, DEFAULT_VAULT, OPENAI_KEY, STRIPE_KEY, WorldConfig, loopback, upstream_section};
pub use self::foreign::ForeignEnvoy;
pub use self::process::{Output, envoy_bin, envoy_of, install, install_script, kill_all_of, run};
use super::client::Client;
use crate::support::server::config::World;

/// How long anything may take that should take a moment.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A running server.
pub struct Server {
    world: World,
    child: Option<Child>,
}

/// An answer of `/readyz`.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The status: 200 or 503.
    pub status: StatusCode,
    /// The body.
    pub body: Value,
}

impl Ready {
    /// True when the configuration is loaded and Envoy has it.
    pub fn is_ready(&self) -> bool {
        self.status == StatusCode::OK
    }

    /// The generation of the configuration that is served.
    pub fn generation(&self) -> u64 {
        self.body["generation"].as_u64().unwrap_or(0)
    }

    /// True when the newest state of the files is what is served.
    pub fn config_ok(&self) -> bool {
        self.body["config"]["ok"] == true
    }

    /// What is wrong with the files: objects with `file`, `line`, `column`, `message`, `hint`.
    pub fn problems(&self) -> Vec<Value> {
        self.body["config"]["problems"].as_array().cloned().unwrap_or_default()
    }

    /// Envoy's process, if one runs.
    pub fn envoy_pid(&self) -> Option<u32> {
        self.body["envoy"]["pid"].as_u64().and_then(|pid| pid.try_into().ok())
    }
}

impl Server {
    /// Writes the world's files, starts the server, and waits until it is ready.
    ///
    /// # Panics
    /// If it is not ready within [`DEADLINE`].
    pub async fn start(config: WorldConfig) -> Self {
        let server = Self::spawn(config);
        server.wait_ready().await;
        server
    }

    /// Like [`Server::start`], but does not wait.
    pub fn spawn(config: WorldConfig) -> Self {
        let mut server = Self { world: config.build(), child: None };
        server.launch();
        server
    }

    /// Runs the server and waits for it to end by itself, as it should when it cannot start.
    ///
    /// # Panics
    /// If it has not ended within [`DEADLINE`].
    pub async fn start_expecting_failure(config: WorldConfig) -> (ExitStatus, String) {
        let mut server = Self::spawn(config);
        let status = server.wait_exit(DEADLINE).await;
        (status, server.log())
    }

    /// The folder of this world.
    pub fn dir(&self) -> &Path {
        self.world.path()
    }

    /// `DIR/config/agent-creds.toml`.
    pub fn config_file(&self) -> PathBuf {
        self.world.config_file()
    }

    /// `DIR/state`.
    pub fn state_dir(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// `DIR/run`.
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir().join("run")
    }

    /// `DIR/vault.toml`.
    pub fn vault_file(&self) -> PathBuf {
        self.dir().join("vault.toml")
    }

    /// The admin socket of the Envoy that the server keeps running.
    pub fn envoy_admin(&self) -> PathBuf {
        self.runtime_dir().join("envoy-admin.sock")
    }

    /// Where Envoy listens for the agents.
    pub fn addr(&self) -> SocketAddr {
        self.world.listen()
    }

    /// The port of [`Server::addr`].
    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    /// The certificate of the CA that agents trust, PEM.
    pub fn ca_pem(&self) -> String {
        std::fs::read_to_string(self.state_dir().join("ca/ca.pem")).unwrap()
    }

    /// A client that trusts the CA and connects to Envoy.
    pub fn client(&self) -> Client {
        Client::new(&self.ca_pem(), self.addr())
    }

    /// Mints a token with the real `mint`, in the environment of the server.
    ///
    /// # Panics
    /// If `mint` fails.
    pub fn token(&self, args: &[&str]) -> String {
        let output = self.mint(args);
        assert!(output.status.success(), "mint {args:?}: {output:#?}");
        output.stdout.trim().to_owned()
    }

    /// Runs `mint ARGS --state-dir DIR/state` in the environment of the server; `attenuate` needs no folder.
    pub fn mint(&self, args: &[&str]) -> Output {
        let mut command = self.world.command(env!("CARGO_BIN_EXE_mint"));
        command.args(args);
        if args.first() != Some(&"attenuate") {
            command.arg("--state-dir").arg(self.state_dir());
        }
        run(&mut command)
    }

    /// Runs `agent-creds ARGS` in the environment of the server.
    pub fn agent_creds(&self, args: &[&str]) -> Output {
        run(self.agent_creds_command().args(args))
    }

    /// Runs `actl ARGS --runtime-dir DIR/run` in the environment of the server, without holding up the test's other tasks.
    pub async fn actl(&self, args: &[&str]) -> Output {
        let mut command = self.actl_command(args);
        tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap()
    }

    /// The command of [`Server::actl`].
    pub fn actl_command(&self, args: &[&str]) -> Command {
        let mut command = self.world.command(env!("CARGO_BIN_EXE_actl"));
        command.args(args).arg("--runtime-dir").arg(self.runtime_dir());
        command
    }

    /// A command for `agent-creds` in the environment of the server.
    pub fn agent_creds_command(&self) -> Command {
        self.world.command(env!("CARGO_BIN_EXE_agent-creds"))
    }

    /// The processes whose command line names this world: the server, its Envoy, and whatever was forgotten.
    pub fn processes(&self) -> Vec<u32> {
        process::all_of(self.dir())
    }

    /// What the server has written to standard output and standard error, all starts together.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir().join("server.log")).unwrap_or_default()).into_owned()
    }

    /// What Envoy has written.
    pub fn envoy_log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.runtime_dir().join("envoy.log")).unwrap_or_default()).into_owned()
    }

    /// The files of this world in which `needle` occurs; only the files the test itself wrote are left out.
    pub fn files_containing(&self, needle: &str) -> Vec<PathBuf> {
        self.world.files_containing(needle)
    }

    /// `GET` from the server's own HTTP address; `None` when it does not answer.
    pub async fn http_get(&self, path: &str) -> Option<(StatusCode, String)> {
        let addr = std::fs::read_to_string(self.runtime_dir().join("http.addr")).ok()?;
        let get = async {
            let stream = TcpStream::connect(addr.trim()).await.ok()?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
            let driver = tokio::spawn(connection);
            let request = Request::get(path).header("host", addr.trim()).body(Empty::<Bytes>::new()).unwrap();
            let response = sender.send_request(request).await.ok();
            let answer = match response {
                Some(response) => {
                    let status = response.status();
                    response.into_body().collect().await.ok().map(|body| (status, body.to_bytes()))
                }
                None => None,
            };
            driver.abort();
            answer.map(|(status, body)| (status, String::from_utf8_lossy(&body).into_owned()))
        };
        tokio::time::timeout(Duration::from_secs(5), get).await.ok()?
    }

    /// `/metrics`.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn metrics(&self) -> String {
        self.http_get("/metrics").await.expect("the server answers /metrics").1
    }

    /// The sum of a metric's samples whose line contains all of `labels` (each like `result="ok"`); 0 without any.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let metrics = self.metrics().await;
        let lines = metrics.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && labels.iter().all(|label| line.contains(label))
        });
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// `/readyz`; `None` when the server does not answer.
    pub async fn ready(&self) -> Option<Ready> {
        let (status, body) = self.http_get("/readyz").await?;
        Some(Ready { status, body: serde_json::from_str(&body).ok()? })
    }

    /// The generation that is served.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn generation(&self) -> u64 {
        self.ready().await.expect("the server answers /readyz").generation()
    }

    /// Waits until the server is ready: configuration loaded, everything acknowledged by Envoy.
    pub async fn wait_ready(&self) -> Ready {
        self.wait_for("the server is ready", Ready::is_ready).await
    }

    /// Waits until generation `generation` or a later one is served and acknowledged.
    pub async fn wait_generation(&self, generation: u64) -> Ready {
        let reached = |ready: &Ready| ready.is_ready() && ready.generation() >= generation;
        self.wait_for(&format!("generation {generation} is served"), reached).await
    }

    /// Waits until `/readyz` says what is asked.
    ///
    /// # Panics
    /// If it does not within [`DEADLINE`], or the server has ended.
    pub async fn wait_for(&self, what: &str, condition: impl Fn(&Ready) -> bool) -> Ready {
        let start = Instant::now();
        loop {
            let ready = self.ready().await;
            if let Some(ready) = ready.as_ref().filter(|ready| condition(ready)) {
                return ready.clone();
            }
            if let Some(child) = &self.child {
                assert!(!process::has_ended(child), "waiting until {what}: the server has ended");
            }
            assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}; /readyz says {ready:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The server's process.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// Envoy's process.
    ///
    /// # Panics
    /// If there is none.
    pub async fn envoy_pid(&self) -> u32 {
        let ready = self.ready().await.expect("the server answers /readyz");
        ready.envoy_pid().expect("the server keeps an Envoy")
    }

    /// Kills Envoy with SIGKILL, and returns which process it was.
    pub async fn kill_envoy(&self) -> u32 {
        let pid = self.envoy_pid().await;
        process::signal(pid, rustix::process::Signal::KILL);
        pid
    }

    /// Kills the server, and only the server, with SIGKILL.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts the server again in the same world after [`Server::kill9`] or [`Server::stop`]; wait for what you need.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "the server still runs");
        // It would lead to another world's server that got the old port.
        let _ = std::fs::remove_file(self.runtime_dir().join("http.addr"));
        self.launch();
    }

    /// Stops the server with SIGTERM.
    ///
    /// # Panics
    /// If it does not end within [`DEADLINE`] with exit code 0.
    pub async fn stop(&mut self) {
        process::signal(self.pid(), rustix::process::Signal::TERM);
        let status = self.wait_exit(DEADLINE).await;
        assert!(status.success(), "SIGTERM: the server ended with {status}");
    }

    /// Waits for the server to end.
    ///
    /// # Panics
    /// If it does not in time.
    pub async fn wait_exit(&mut self, timeout: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            let child = self.child.as_mut().expect("the server runs");
            if let Some(status) = child.try_wait().unwrap() {
                self.child = None;
                return status;
            }
            assert!(start.elapsed() < timeout, "the server does not end within {timeout:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn launch(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir().join("server.log")).unwrap();
        let mut command = self.world.serve_command();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}: server.log ends with\n{}", self.dir().display(), process::tail(&self.log(), 60));
            eprintln!("--- {}: envoy.log ends with\n{}", self.dir().display(), process::tail(&self.envoy_log(), 40));
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // An Envoy outlives a killed server on purpose; nothing may outlive the test.
        process::kill_all_of(self.dir());
    }
}
