//! A folder in which a server could run, if nothing were wrong with it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::pki::TestCa;
use crate::support::server::{DEADLINE, Output, loopback, run};

/// The real key; no message may ever hold it.
pub const REAL_KEY: &str = "sk_test_bad9Kx2Vw7Qm";

/// A `vault.toml` with one credential, whose header is on its second line.
pub const VAULT: &str = "\n[credentials.\"api.stripe.com\"]\ntype = \"bearer\"\ntoken = { provider = \"env\", name = \"STRIPE_API_KEY\" }\n";

/// Everything `serve` is told. Each test changes what it is about.
pub struct Serve {
    pub configs: Vec<PathBuf>,
    pub vault: Option<PathBuf>,
    pub state: PathBuf,
    pub run: PathBuf,
    pub http: String,
    pub envoy: &'static str,
    pub more: Vec<&'static str>,
    pub env: BTreeMap<&'static str, OsString>,
}

/// The folder; removed at the end, with every process that names it.
pub struct Place {
    _dir: TempDir,
    path: PathBuf,
    pub listen: SocketAddr,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("agent-creds-bad-").tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let place = Self { _dir: dir, path, listen: SocketAddr::new(loopback(), 15443) };
        fs::create_dir(place.path("config")).unwrap();
        place.mend();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes the files as they should be, with the permissions they should have.
    pub fn mend(&self) {
        self.config("[upstream.\"api.stripe.com\"]\n");
        self.write("vault.toml", VAULT);
        self.write("system-ca.pem", TestCa::shared().pem());
        for (name, mode) in
            [("state", 0o700), ("run", 0o700), ("state/signing.key", 0o600), ("state/ca/ca-bundle.pem", 0o600)]
        {
            if self.path(name).exists() {
                self.chmod(name, mode);
            }
        }
    }

    /// Writes `agent-creds.toml`: the gateway, whose section has three lines with the empty one, and what follows.
    pub fn config(&self, rest: &str) {
        self.write("config/agent-creds.toml", format!("[gateway]\nlisten = \"{}\"\n\n{rest}", self.listen));
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Makes a folder for its owner alone, as the server would.
    pub fn private_dir(&self, name: &str) {
        fs::create_dir_all(self.path(name)).unwrap();
        self.chmod(name, 0o700);
    }

    pub fn write_private(&self, name: &str, text: &str) {
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    pub fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// What a right start is told.
    pub fn serve(&self) -> Serve {
        let env = [
            ("HOME", self.path("home")),
            ("SSL_CERT_FILE", self.path("system-ca.pem")),
            ("STRIPE_API_KEY", REAL_KEY.into()),
        ];
        Serve {
            configs: vec![self.path("config")],
            vault: Some(self.path("vault.toml")),
            state: self.path("state"),
            run: self.path("run"),
            http: "127.0.0.1:0".to_owned(),
            envoy: "none",
            more: Vec::new(),
            env: env.map(|(name, value)| (name, value.into_os_string())).into(),
        }
    }

    /// A program with no environment but `PATH`, in this folder.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.path("home"));
        command.current_dir(&self.path).args(args);
        command
    }

    /// Runs `agent-creds ARGS` to its end.
    pub fn agent_creds(&self, args: &[&str]) -> Output {
        run(&mut self.command(env!("CARGO_BIN_EXE_agent-creds"), args))
    }

    fn spawn(&self, serve: &Serve) -> Child {
        let mut command = self.command(env!("CARGO_BIN_EXE_agent-creds"), &["serve"]);
        for config in &serve.configs {
            command.arg("--config").arg(config);
        }
        if let Some(vault) = &serve.vault {
            command.arg("--vault-config").arg(vault);
        }
        command.arg("--state-dir").arg(&serve.state).arg("--runtime-dir").arg(&serve.run);
        command.args(["--http", &serve.http, "--envoy", serve.envoy]).args(&serve.more).envs(&serve.env);
        let log = |name: &str| File::create(self.path(name)).unwrap();
        command.stdin(Stdio::null()).stdout(log("stdout")).stderr(log("stderr")).spawn().unwrap()
    }

    /// Starts a server that cannot start, and waits for its end.
    pub fn fails(&self, serve: &Serve) -> Output {
        let mut child = self.spawn(serve);
        let status = wait(&mut child).unwrap_or_else(|| {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the server started, and should not have: {}", self.log("stderr"));
        });
        Output { status, stdout: self.log("stdout"), stderr: self.log("stderr") }
    }

    pub fn log(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(name)).unwrap()).into_owned()
    }

    /// Starts a server, waits until it answers, and returns it with its HTTP address.
    pub fn starts(&self, serve: &Serve) -> (Child, String) {
        let _ = fs::remove_file(serve.run.join("http.addr"));
        let mut child = self.spawn(serve);
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the server ended with {status}: {}", self.log("stderr"));
            }
            let addr = fs::read_to_string(serve.run.join("http.addr")).unwrap_or_default();
            if healthy(&addr) {
                return (child, addr);
            }
            if start.elapsed() > DEADLINE {
                let _ = child.kill();
                panic!("the server does not answer: {}", self.log("stderr"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts a server, sends SIGTERM after its process made its first file and `delay` more, and waits for its end.
    pub fn starts_until(&self, serve: &Serve, delay: Duration) -> std::process::ExitStatus {
        let mut child = self.spawn(serve);
        let start = Instant::now();
        while !serve.state.exists() && start.elapsed() < DEADLINE {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(delay);
        kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
        let status = wait(&mut child).expect("the server ends on SIGTERM");
        assert!(status.success(), "SIGTERM {delay:?} after the start: {status}: {}", self.log("stderr"));
        status
    }

    /// Asserts that a failed start left no process, and nothing that answers.
    pub fn nothing_is_left(&self, what: &str) {
        let needle = self.path.to_str().unwrap();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let command_line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
            assert!(!command_line.contains(needle), "{what}: left {command_line}");
        }
        for socket in ["run/xds.sock", "run/envoy-admin.sock"] {
            assert!(UnixStream::connect(self.path(socket)).is_err(), "{what}: {socket} answers");
        }
        assert!(TcpStream::connect(self.listen).is_err(), "{what}: {} answers", self.listen);
        assert!(!self.path("run/http.addr").exists(), "{what}: http.addr is there");
    }

    /// Asserts that nothing keeps the next start from working, once the mistake is mended.
    pub fn starts_and_stops(&self) {
        let (child, _) = self.starts(&self.serve());
        stop(child);
    }
}

/// Ends a server as `kill` does, and asserts that it ends well.
pub fn stop(mut child: Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let status = wait(&mut child).expect("the server ends on SIGTERM");
    assert!(status.success(), "SIGTERM: {status}");
}

fn wait(child: &mut Child) -> Option<std::process::ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Whether a server answers `/healthz` there.
pub fn healthy(addr: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(addr.trim()) else { return false };
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", addr.trim());
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

/// The names below a folder, with their contents.
pub fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(tree(&path));
            found.insert(path, Vec::new());
        } else {
            let contents = fs::read(&path).unwrap_or_default();
            found.insert(path, contents);
        }
    }
    found
}
