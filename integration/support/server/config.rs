//! What a server is started with, and the folder it lives in.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::process;
use crate::support::pki::TestCa;
use crate::support::upstream::Upstream;

/// The real key of `api.stripe.com`. Random, so that a search for it in logs finds only leaks.
pub const STRIPE_KEY: &str = "sk_test_ac7Qm2Zr9xKd4LwVbN0tHs83";
/// The real key of `api.openai.com`.
pub const OPENAI_KEY: &str = "sk-proj-ac5Ty8Wn1cJf6GuXoE7pRk42";
/// The real key of `api.anthropic.com`.
pub const ANTHROPIC_KEY: &str = "sk-ant-ac3Bv6Ls0yPh9MqCzI5dUj71";

/// A vault with the three keys above, whose variables are set by default.
pub const DEFAULT_VAULT: &str = r#"
[credentials."api.stripe.com"]
type = "bearer"
token = { provider = "env", name = "STRIPE_API_KEY" }

[credentials."api.openai.com"]
type = "bearer"
token = { provider = "env", name = "OPENAI_API_KEY" }

[credentials."api.anthropic.com"]
type = "bearer"
token = { provider = "env", name = "ANTHROPIC_API_KEY" }
"#;

/// What a server is started with. Nothing of the test's own environment reaches it but `PATH`.
pub struct WorldConfig {
    upstreams: String,
    vault: String,
    env: Vec<(String, String)>,
    args: Vec<String>,
    files: Vec<(String, String)>,
    listen: SocketAddr,
    envoy: &'static str,
    system_ca: String,
}

impl WorldConfig {
    /// A gateway on an address of its own with these `[upstream."…"]` sections (see [`upstream_section`]), the default
    /// vault, and the process's shared upstream CA beside the configuration as `upstream-ca.pem`. The system's CA bundle is
    /// a CA that signed nothing.
    pub fn new(upstreams: impl Into<String>) -> Self {
        let env = [
            ("STRIPE_API_KEY", STRIPE_KEY),
            ("OPENAI_API_KEY", OPENAI_KEY),
            ("ANTHROPIC_API_KEY", ANTHROPIC_KEY),
            ("RUST_BACKTRACE", "1"),
        ];
        Self {
            upstreams: upstreams.into(),
            vault: DEFAULT_VAULT.to_owned(),
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            args: Vec::new(),
            files: vec![("upstream-ca.pem".to_owned(), TestCa::shared().pem().to_owned())],
            listen: SocketAddr::new(loopback(), 15443),
            envoy: "process",
            system_ca: TestCa::new("a CA that signed nothing").pem().to_owned(),
        }
    }

    /// With these sections added to the vault.
    pub fn credentials(mut self, toml: &str) -> Self {
        self.vault.push_str(toml);
        self
    }

    /// With another vault.
    pub fn vault(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.vault);
        self
    }

    /// With another environment variable, for the server and `mint`.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without an environment variable.
    pub fn without_env(mut self, name: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self
    }

    /// With `STRICT_MODE=true`.
    pub fn strict(self) -> Self {
        self.env("STRICT_MODE", "true")
    }

    /// With more arguments for `serve`.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// With another file beside the configuration.
    pub fn file(mut self, name: &str, contents: &str) -> Self {
        self.files.retain(|(known, _)| known != name);
        self.files.push((name.to_owned(), contents.to_owned()));
        self
    }

    /// Listening on another address.
    pub fn listen(mut self, addr: SocketAddr) -> Self {
        self.listen = addr;
        self
    }

    /// Without an Envoy (`--envoy none`).
    pub fn without_envoy(mut self) -> Self {
        self.envoy = "none";
        self
    }

    /// With another bundle of the system's CAs.
    pub fn system_ca(mut self, pem: &str) -> Self {
        pem.clone_into(&mut self.system_ca);
        self
    }

    /// Makes the folder and writes the files.
    pub(super) fn build(self) -> World {
        let dir = tempfile::Builder::new().prefix("agent-creds-test-").tempdir().unwrap();
        // Canonical, so that it is found again in the command lines of processes.
        let path = dir.path().canonicalize().unwrap();
        std::fs::create_dir(path.join("config")).unwrap();
        let config = gateway(self.listen, &self.upstreams);
        std::fs::write(path.join("config/agent-creds.toml"), config).unwrap();
        std::fs::write(path.join("vault.toml"), &self.vault).unwrap();
        std::fs::write(path.join("system-ca.pem"), &self.system_ca).unwrap();
        for (name, contents) in &self.files {
            std::fs::write(path.join("config").join(name), contents).unwrap();
        }
        let dir = if std::env::var_os("KEEP_WORLD").is_some() {
            let kept = dir.keep();
            eprintln!("KEEP_WORLD: {}", kept.display());
            None
        } else {
            Some(dir)
        };
        World { path, _dir: dir, config: self }
    }
}

/// A server's folder, removed when it is dropped.
pub(super) struct World {
    path: PathBuf,
    _dir: Option<TempDir>,
    config: WorldConfig,
}

impl World {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn config_file(&self) -> PathBuf {
        self.path.join("config/agent-creds.toml")
    }

    pub(super) fn listen(&self) -> SocketAddr {
        self.config.listen
    }

    /// A command in the environment of the server, and nothing else of ours.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(&self.path);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", &self.path).env("SSL_CERT_FILE", self.path.join("system-ca.pem"));
        command.envs(self.config.env.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(super) fn serve_command(&self) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_agent-creds"));
        if self.config.envoy == "process" {
            command.env("ENVOY_BIN", process::envoy_bin());
        }
        command.arg("serve").arg("--config").arg(self.config_file());
        command.arg("--vault-config").arg(self.path.join("vault.toml"));
        command.arg("--state-dir").arg(self.path.join("state"));
        command.arg("--runtime-dir").arg(self.path.join("run"));
        command.args(["--http", "127.0.0.1:0", "--envoy", self.config.envoy]).args(&self.config.args);
        command
    }

    pub(super) fn files_containing(&self, needle: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.path.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                let Ok(kind) = entry.file_type() else { continue };
                if kind.is_dir() && path != self.path.join("config") {
                    folders.push(path);
                } else if kind.is_file() {
                    let contents = std::fs::read(&path).unwrap_or_default();
                    if contents.windows(needle.len()).any(|window| window == needle.as_bytes()) {
                        found.push(path);
                    }
                }
            }
        }
        found
    }
}

/// The text of an `agent-creds.toml` with a gateway on `listen`.
pub(super) fn gateway(listen: SocketAddr, upstreams: &str) -> String {
    format!("[gateway]\nlisten = \"{listen}\"\n\n{upstreams}")
}

/// `[upstream."HOST"]`, connecting to `upstream` and trusting `upstream-ca.pem`; `more` are more lines of the section.
pub fn upstream_section(host: &str, upstream: &Upstream, more: &str) -> String {
    let addr = upstream.addr();
    format!("[upstream.\"{host}\"]\naddress = \"{addr}\"\nca = \"upstream-ca.pem\"\n{more}\n\n")
}

/// A loopback address (127.x.y.z) on whose port 15443 nobody listens, drawn at random from 16 million, so that worlds of
/// this and other processes do not meet.
pub fn loopback() -> IpAddr {
    for attempt in 0_u32..100 {
        let random = RandomState::new().hash_one((std::process::id(), attempt)).to_be_bytes();
        // The ends are left out: 127.0.0.x is everyone's, and x.x.x.0 and x.x.x.255 look like networks.
        let [a, b, c] = [random[0], random[1], random[2]].map(|byte| byte.clamp(1, 254));
        let addr = IpAddr::V4(Ipv4Addr::new(127, a, b, c));
        if TcpListener::bind((addr, 15443)).is_ok() {
            return addr;
        }
    }
    panic!("no free loopback address");
}
