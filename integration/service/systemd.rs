//! The systemd units, in a container in which systemd is the first process: installed as `make install` does, started, killed,
//! stopped.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::server::{Output, envoy_bin, run};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PATIENCE: Duration = Duration::from_secs(60);
/// Containers get no SYS_RESOURCE everywhere; what systemd needs here is this.
const CAPABILITIES: [&str; 4] = ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"];

/// The machine; it goes with this.
struct Machine {
    id: String,
    dir: TempDir,
}

impl Machine {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut install = Command::new(format!("{ROOT}/deploy/install.sh"));
        let programs = Path::new(env!("CARGO_BIN_EXE_agent-creds")).parent().unwrap();
        let installed = run(install.env("DESTDIR", dir.path()).env("PROGRAMS", programs));
        assert!(installed.status.success(), "{installed:?}");
        let mut command = Command::new("docker");
        command.args([
            "run",
            "-d",
            "--cgroupns",
            "host",
            "--security-opt",
            "seccomp=unconfined",
            "--security-opt",
            "apparmor=unconfined",
        ]);
        for capability in CAPABILITIES {
            command.args(["--cap-add", capability]);
        }
        for folder in ["/run", "/run/lock", "/tmp"] {
            command.args(["--tmpfs", folder]);
        }
        let output = run(command.args(["-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "agent-creds-test-systemd"]));
        assert!(output.status.success(), "{output:?}");
        let machine = Self { id: output.stdout.trim().to_owned(), dir };
        machine.copy(&machine.dir.path().join("usr/."), "/usr/");
        machine.copy(envoy_bin(), "/usr/local/bin/envoy");
        machine.eventually("systemd is up", "systemctl is-system-running --quiet");
        machine
    }

    fn copy(&self, from: &Path, to: &str) {
        let output = run(Command::new("docker").arg("cp").arg("-q").arg(from).arg(format!("{}:{to}", self.id)));
        assert!(output.status.success(), "{output:?}");
    }

    fn sh(&self, script: &str) -> Output {
        run(Command::new("docker").args(["exec", &self.id, "sh", "-c", script]).stdin(Stdio::null()))
    }

    /// What a script that succeeds says.
    fn says(&self, script: &str) -> String {
        let output = self.sh(script);
        assert!(output.status.success(), "{script}: {}{}\n{}", output.stdout, output.stderr, self.journal());
        output.stdout.trim().to_owned()
    }

    fn eventually(&self, what: &str, script: &str) {
        let begun = Instant::now();
        while !self.sh(script).status.success() {
            assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}\n{}", self.journal());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn journal(&self) -> String {
        self.sh("journalctl --no-pager -u agent-creds | tail -n 30").stdout
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = run(Command::new("docker").args(["rm", "-fv", &self.id]));
    }
}

const CONFIGURE: &str = r#"
mkdir -p /etc/agent-creds /etc/systemd/system/agent-creds.service.d
cat >/etc/agent-creds/agent-creds.toml <<END
[gateway]
name = "edge"
listen = "127.0.0.1:15443"
[upstream."api.example.com"]
methods = ["GET"]
END
cat >/etc/agent-creds/vault.toml <<END
[credentials."api.example.com"]
type = "bearer"
token = { provider = "env", name = "KEY" }
END
echo KEY=sk_of_the_unit >/etc/agent-creds/secrets.env
chmod 600 /etc/agent-creds/secrets.env
systemctl daemon-reload
"#;

/// In a container systemd cannot mount what it makes of LoadCredential for the unit's user; all else is as it is installed.
const WITHOUT_CREDENTIALS: &str = r#"
unit=/usr/local/lib/systemd/system/agent-creds.service
grep -q '^LoadCredential=vault.toml:' $unit
start=$(sed -n 's,^ExecStart=\(.*\)${CREDENTIALS_DIRECTORY}\(.*\)$,\1/etc/agent-creds\2,p' $unit)
test -n "$start"
printf '[Service]\nLoadCredential=\nExecStart=\nExecStart=%s\n' "$start" >/etc/systemd/system/agent-creds.service.d/test.conf
systemctl daemon-reload
"#;

#[test]
fn the_unit_serves_hardened_survives_a_crash_and_leaves_nothing_running() {
    let machine = Machine::start();
    machine.says(CONFIGURE);
    let warnings = machine.sh("systemd-analyze verify /usr/local/lib/systemd/*/agent-creds.service");
    let of_ours = |line: &&str| line.contains("agent-creds");
    let found: Vec<_> = [&warnings.stdout, &warnings.stderr]
        .iter()
        .flat_map(|text| text.lines())
        .filter(of_ours)
        .map(str::to_owned)
        .collect();
    assert_eq!(found, Vec::<String>::new());
    machine.says(WITHOUT_CREDENTIALS);
    machine.says("systemctl start agent-creds");
    let ready = "curl -sf http://127.0.0.1:9902/readyz";
    machine.eventually("it serves", ready);

    // A user of its own, without capabilities, and the key in the environment of the server alone.
    let main = machine.says("systemctl show -p MainPID --value agent-creds");
    let status = machine.says(&format!("cat /proc/{main}/status"));
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} is not in\n{status}");
    }
    assert!(!status.contains("Uid:\t0\t"), "{status}");
    let envoy = machine.says("cut -d' ' -f1 /run/agent-creds/envoy.pid");
    assert!(machine.says(&format!("tr '\\0' '\\n' </proc/{main}/environ")).contains("KEY=sk_of_the_unit"));
    assert!(!machine.says(&format!("tr '\\0' '\\n' </proc/{envoy}/environ")).contains("sk_of_the_unit"));
    assert_eq!(machine.says("stat -L -c %a /run/agent-creds /var/lib/agent-creds"), "700\n700");
    let folders = "--state-dir /var/lib/agent-creds --runtime-dir /run/agent-creds";
    let told = machine.says(&format!("actl status {folders}"));
    assert!(told.contains("all is well"), "{told}");

    // Killed, it is started again, and its Envoy was never gone.
    machine.says("systemctl kill -s KILL --kill-who=main agent-creds");
    machine.eventually(
        "it is another process",
        &format!("test $(systemctl show -p MainPID --value agent-creds) -gt {main}"),
    );
    machine.eventually("it serves again", ready);
    assert_eq!(machine.says("cut -d' ' -f1 /run/agent-creds/envoy.pid"), envoy, "{}", machine.journal());
    assert!(machine.journal().contains("took over the running Envoy"), "{}", machine.journal());

    machine.says("systemctl stop agent-creds");
    assert!(!machine.sh(&format!("test -d /proc/{envoy}")).status.success(), "Envoy runs on");
    assert_eq!(machine.says("ls /run/agent-creds/ 2>/dev/null || true"), "");
    assert!(machine.says("ls /var/lib/agent-creds/").contains("ca"), "state stays");
}
