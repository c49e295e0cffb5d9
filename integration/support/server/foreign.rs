//! Envoys that the server does not keep itself: they are given what `agent-creds bootstrap` prints.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use super::{Server, process};

/// A running Envoy of somebody else's; dropping it kills it.
pub struct ForeignEnvoy {
    child: Child,
    admin: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Starts an Envoy with the bootstrap that `agent-creds bootstrap --node-id NODE_ID ARGS` prints, and nothing else.
    pub fn foreign_envoy(&self, node_id: &str, args: &[&str]) -> ForeignEnvoy {
        self.foreign_envoy_of(process::envoy_bin(), node_id, args, |_| {})
    }

    /// Starts this Envoy likewise, after `edit` has changed the bootstrap.
    pub fn foreign_envoy_of(
        &self,
        envoy: &Path,
        node_id: &str,
        args: &[&str],
        edit: impl FnOnce(&mut Value),
    ) -> ForeignEnvoy {
        let runtime_dir = self.runtime_dir();
        let runtime_dir = runtime_dir.to_str().unwrap();
        let bootstrap = ["bootstrap", "--node-id", node_id, "--runtime-dir", runtime_dir];
        let output = self.agent_creds(&[bootstrap.as_slice(), args].concat());
        assert!(output.status.success(), "{output:#?}");
        let mut json: Value = serde_json::from_str(&output.stdout).unwrap();
        edit(&mut json);
        ForeignEnvoy::start(Command::new(envoy), self.dir(), node_id, &json)
    }

    /// The bootstrap of an Envoy that connects by TLS, as `agent-creds bootstrap --xds` prints it.
    pub fn enrol(&self, node_id: &str, gateway: &str, xds: &str, args: &[&str]) -> Value {
        let state_dir = self.state_dir();
        let bootstrap = ["bootstrap", "--node-id", node_id, "--cluster", gateway, "--xds", xds];
        let admin = self.dir().join(format!("admin-{node_id}.sock"));
        let more = ["--state-dir", state_dir.to_str().unwrap(), "--admin", admin.to_str().unwrap()];
        let output = self.agent_creds(&[bootstrap.as_slice(), &more, args].concat());
        assert!(output.status.success(), "{output:#?}");
        serde_json::from_str(&output.stdout).unwrap()
    }

    /// Starts an Envoy with this bootstrap.
    pub fn envoy_with(&self, name: &str, bootstrap: &Value) -> ForeignEnvoy {
        self.envoy_by(Command::new(process::envoy_bin()), name, bootstrap)
    }

    /// Starts an Envoy with this bootstrap by a command that may put it somewhere else.
    pub fn envoy_by(&self, command: Command, name: &str, bootstrap: &Value) -> ForeignEnvoy {
        ForeignEnvoy::start(command, self.dir(), name, bootstrap)
    }
}

impl ForeignEnvoy {
    /// Starts an Envoy by `command` with a bootstrap, whose file and log are kept in `dir` under `name`.
    pub fn start(mut command: Command, dir: &Path, name: &str, bootstrap: &Value) -> Self {
        let admin = bootstrap.pointer("/admin/address/pipe/path").and_then(Value::as_str).unwrap().into();
        let file = dir.join(format!("foreign-{name}.json"));
        std::fs::write(&file, bootstrap.to_string()).unwrap();
        let log_file = dir.join(format!("foreign-{name}.log"));
        let log = File::options().create(true).append(true).open(&log_file).unwrap();
        command.arg("-c").arg(file).args(["--disable-hot-restart", "--log-level", "warning"]);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Self { child, admin, log: log_file }
    }

    /// Stops it where it is (SIGSTOP), or lets it go on.
    pub fn pause(&self, pause: bool) {
        process::signal(self.pid(), if pause { Signal::STOP } else { Signal::CONT });
    }

    /// The socket of its admin interface.
    pub fn admin(&self) -> &Path {
        &self.admin
    }

    /// What it has written.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        !process::has_ended(&self.child)
    }
}

impl Drop for ForeignEnvoy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} ends with\n{}", self.log.display(), process::tail(&self.log(), 30));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
