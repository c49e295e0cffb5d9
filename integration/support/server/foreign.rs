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
        ForeignEnvoy::start(envoy, self.dir(), &json)
    }
}

impl ForeignEnvoy {
    /// Starts this Envoy with a bootstrap, whose file and log are kept in `dir` under the name of its admin socket.
    pub fn start(envoy: &Path, dir: &Path, bootstrap: &Value) -> Self {
        let admin: PathBuf = bootstrap.pointer("/admin/address/pipe/path").and_then(Value::as_str).unwrap().into();
        let name = admin.file_stem().unwrap().to_str().unwrap();
        let file = dir.join(format!("{name}.json"));
        std::fs::write(&file, bootstrap.to_string()).unwrap();
        let log = File::create(dir.join(format!("{name}.log"))).unwrap();
        let mut command = Command::new(envoy);
        command.arg("-c").arg(file).args(["--disable-hot-restart", "--log-level", "warning"]);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Self { child, admin }
    }

    /// Stops it where it is (SIGSTOP), or lets it go on.
    pub fn pause(&self, pause: bool) {
        process::signal(self.pid(), if pause { Signal::STOP } else { Signal::CONT });
    }

    /// The socket of its admin interface.
    pub fn admin(&self) -> &Path {
        &self.admin
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
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
