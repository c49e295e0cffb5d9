//! Envoys that the server does not keep itself: they are given what `agent-creds bootstrap` prints.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

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
        let runtime_dir = self.runtime_dir();
        let runtime_dir = runtime_dir.to_str().unwrap();
        let bootstrap = ["bootstrap", "--node-id", node_id, "--runtime-dir", runtime_dir];
        let output = self.agent_creds(&[bootstrap.as_slice(), args].concat());
        assert!(output.status.success(), "{output:#?}");
        let json: Value = serde_json::from_str(&output.stdout).unwrap();
        let admin = json.pointer("/admin/address/pipe/path").and_then(Value::as_str).unwrap().into();
        let file = self.dir().join(format!("foreign-{node_id}.json"));
        std::fs::write(&file, output.stdout).unwrap();
        let log = File::create(self.dir().join(format!("foreign-{node_id}.log"))).unwrap();
        let mut command = Command::new(process::envoy_bin());
        command.arg("-c").arg(file).args(["--disable-hot-restart", "--log-level", "warning"]);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        ForeignEnvoy { child, admin }
    }
}

impl ForeignEnvoy {
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
