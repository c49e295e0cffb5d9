//! A server of its own with real Docker, seen from the host: what it leaves there, and what is done to it there.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent_creds::sandbox::network::NetKey;
use agent_creds::sandbox::spec::ServerId;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::server::{Output, envoy_bin};

const ADEV: &str = env!("CARGO_BIN_EXE_adev");
/// Plenty, on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What the host says to its own service.
const CONTROL: &str = "the host itself";

/// A place for a server, its projects and its sandboxes; all of it goes with the yard.
pub struct Yard {
    dir: TempDir,
    /// No other test's.
    unique: String,
    environment: Vec<(String, String)>,
}

impl Yard {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new().prefix("agent-creds-yard-").tempdir().unwrap();
        // Sandboxes' users read what is below.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let unique = format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let yard = Self { dir, unique, environment: Vec::new() };
        for private in ["state", "run"] {
            fs::DirBuilder::new().mode(0o700).create(yard.path(private)).unwrap();
        }
        yard
    }

    /// With a variable in the environment of `adev`, and so of the server it starts.
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(below)
    }

    /// A name that no other test has; a project of this name in a folder of this name. `more` is more of its file.
    pub fn project(&self, what: &str, runtime: &str, more: &str) -> String {
        let name = format!("{}-{what}", self.unique);
        fs::create_dir_all(self.path(&name)).unwrap();
        let text = format!("[sandbox]\nname = \"{name}\"\nruntime = \"{runtime}\"\n{more}");
        fs::write(self.path(&name).join("agent-creds.toml"), text).unwrap();
        name
    }

    /// A file of the project, which the sandbox has at `/workspace`.
    pub fn workspace(&self, project: &str, file: &str) -> PathBuf {
        self.path(project).join(file)
    }

    /// `adev WORDS`, with this yard's folders and nothing of the test's environment.
    pub fn adev_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(ADEV);
        command.arg("--state-dir").arg(self.path("state")).arg("--runtime-dir").arg(self.path("run")).args(words);
        command.env_clear().current_dir(self.path("")).env("HOME", self.path("")).env("ENVOY_BIN", envoy_bin());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        if let Some(docker_host) = std::env::var_os("DOCKER_HOST") {
            command.env("DOCKER_HOST", docker_host);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn adev(&self, words: &[&str]) -> Output {
        run_within(&mut self.adev_command(words), DEADLINE)
    }

    /// Runs a script in a project's sandbox, which is launched when it does not run.
    pub fn run(&self, project: &str, script: &str) -> Output {
        self.adev(&["run", "--config", project, "--", "sh", "-c", script])
    }

    /// Launches a project's sandbox.
    pub fn launch(&self, project: &str) {
        let output = self.run(project, "true");
        assert!(output.status.success(), "{project}: {output:#?}\n{}", self.log());
    }

    pub fn stop(&self, project: &str) {
        let output = self.adev(&["stop", project]);
        assert!(output.status.success(), "{project}: {output:#?}\n{}", self.log());
    }

    /// What `adev list --json` says of a sandbox.
    pub fn listed(&self, project: &str) -> Value {
        let output = self.adev(&["list", "--json"]);
        let list: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:#?}"));
        let all = list.as_array().or_else(|| list["sandboxes"].as_array()).unwrap();
        all.iter().find(|sandbox| sandbox["name"] == project).cloned().unwrap_or_default()
    }

    pub fn server_id(&self) -> ServerId {
        ServerId::of(&self.path("state"))
    }

    pub fn key(&self, project: &str) -> NetKey {
        NetKey::new(self.server_id().as_str(), project).unwrap()
    }

    /// Where the sandbox is, and its gateway.
    pub fn addresses(&self, project: &str) -> (Ipv4Addr, Ipv4Addr) {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}}{{end}}";
        let said = docker(&["inspect", "-f", format, &container(project)]);
        let (address, gateway) = said.trim().split_once(' ').unwrap();
        (address.parse().unwrap(), gateway.parse().unwrap())
    }

    /// The server's process.
    pub fn server_pid(&self) -> u32 {
        let lock = fs::read_to_string(self.path("run/lock")).unwrap();
        lock.lines().next().unwrap().trim().parse().unwrap()
    }

    /// `GET` from the server's own HTTP address.
    pub fn http(&self, path: &str) -> Option<String> {
        let addr: SocketAddr = fs::read_to_string(self.path("run/http.addr")).ok()?.trim().parse().ok()?;
        let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n").as_bytes())
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// A metric's sample, such as `agent_creds_sandbox_isolation_total{event="lost"}`; 0 without it.
    pub fn metric(&self, sample: &str) -> f64 {
        let metrics = self.http("/metrics").unwrap_or_default();
        let found = metrics.lines().find_map(|line| line.strip_prefix(sample)?.trim().parse().ok());
        found.unwrap_or_default()
    }

    /// What the server has written.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("run/server.log")).unwrap_or_default()
    }

    /// Envoy's process, as the server tells.
    pub fn envoy_pid(&self) -> Option<u32> {
        let answer = self.http("/readyz")?;
        let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        body["envoy"]["pid"].as_u64()?.try_into().ok()
    }

    /// The containers with this server's label, of a role (empty: all): their ids.
    pub fn containers(&self, role: &str) -> Vec<String> {
        let server = format!("label=agent-creds.server={}", self.server_id());
        let role = format!("label=agent-creds.role{}{role}", if role.is_empty() { "" } else { "=" });
        words(&docker(&["ps", "-aq", "--no-trunc", "--filter", &server, "--filter", &role]))
    }

    pub fn networks(&self) -> Vec<String> {
        words(&docker(&["network", "ls", "-q", "--filter", &format!("label=agent-creds.server={}", self.server_id())]))
    }

    /// The tables and rules of this server in the host's kernel, and the folders of sandboxes: empty when nothing is left.
    pub fn in_the_kernel(&self) -> Vec<String> {
        let server = self.server_id();
        let prefix = &server.as_str()[..5];
        let (table, bridge) = (format!("agent_creds_{prefix}"), format!("ac{prefix}"));
        let mut found = Vec::new();
        for listing in [&["nft", "list", "tables"][..], &["ip", "rule"], &["ip", "-6", "rule"], &["ip", "-br", "link"]]
        {
            let said = host(listing);
            let ours = said.lines().filter(|line| line.contains(&table) || line.contains(&bridge));
            found.extend(ours.map(|line| format!("{}: {line}", listing.join(" "))));
        }
        found
    }

    /// Everything of this server but itself and its Envoy.
    pub fn remains(&self) -> Vec<String> {
        let mut remains = self.in_the_kernel();
        remains.extend(self.containers("").iter().map(|id| format!("container {id}")));
        remains.extend(self.networks().iter().map(|id| format!("network {id}")));
        let folders = fs::read_dir(self.path("run/sandboxes")).into_iter().flatten().flatten();
        remains.extend(folders.map(|folder| format!("folder {}", folder.path().display())));
        remains
    }

    /// Waits until nothing is left.
    pub fn wait_until_nothing_remains(&self, when: &str) {
        wait_until(&format!("nothing remains {when}"), DEADLINE, || {
            let remains = self.remains();
            if remains.is_empty() { Ok(()) } else { Err(format!("{remains:#?}\n{}", self.log())) }
        });
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- the server's log ends with\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        // In good order first; the server that this starts may be needed to put the host's rules back.
        let mut stop = self.adev_command(&["stop", "--all"]);
        let _ = try_within(&mut stop, Duration::from_secs(30));
        let needle = self.path("");
        let names_yard = |pid: &u32| {
            let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command_line).contains(needle.to_str().unwrap())
        };
        let pids =
            fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        for pid in pids.filter(|&pid| pid != std::process::id()).filter(names_yard) {
            kill9(pid);
        }
        for id in self.containers("") {
            let _ = Command::new("docker").args(["rm", "-fv", &id]).output();
        }
        for id in self.networks() {
            let _ = Command::new("docker").args(["network", "rm", &id]).output();
        }
        let prefix = self.server_id().as_str()[..5].to_owned();
        for line in host(&["nft", "list", "tables"]).lines() {
            if let Some(table) =
                line.split(' ').next_back().filter(|name| name.contains(&format!("agent_creds_{prefix}")))
            {
                host(&["nft", "delete", "table", "inet", table]);
            }
        }
        for line in host(&["ip", "-br", "link"]).lines() {
            if let Some(bridge) = line.split(' ').next().filter(|name| name.starts_with(&format!("ac{prefix}"))) {
                host(&["ip", "link", "delete", bridge]);
            }
        }
        for version in ["-4", "-6"] {
            for line in host(&["ip", version, "rule"]).lines() {
                if let Some(bridge) = line.split_whitespace().find(|word| word.starts_with(&format!("ac{prefix}"))) {
                    host(&["ip", version, "rule", "del", "iif", bridge]);
                }
            }
        }
    }
}

/// The container's name.
pub fn container(project: &str) -> String {
    format!("adev-{project}")
}

/// Runs a program of the host's; what it says on standard output.
pub fn host(words: &[&str]) -> String {
    run_within(Command::new(words[0]).args(&words[1..]), DEADLINE).stdout
}

/// Docker's own client, which succeeds.
pub fn docker(args: &[&str]) -> String {
    let output = run_within(Command::new("docker").args(args), DEADLINE);
    assert!(output.status.success(), "docker {args:?}: {}", output.stderr);
    output.stdout
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

pub fn kill9(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// Runs a program that must end in time.
pub fn run_within(command: &mut Command, timeout: Duration) -> Output {
    try_within(command, timeout).unwrap_or_else(|| panic!("{command:?} does not end within {timeout:?}"))
}

/// Runs a program; kills it when it does not end in time.
fn try_within(command: &mut Command, timeout: Duration) -> Option<Output> {
    let mut files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
    command.stdin(Stdio::null());
    command.stdout(files[0].try_clone().unwrap()).stderr(files[1].try_clone().unwrap());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let status = ended_within(&mut child, timeout)?;
    let [stdout, stderr] = files.each_mut().map(|file| {
        let mut bytes = Vec::new();
        std::io::Seek::rewind(file).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    });
    Some(Output { status, stdout, stderr })
}

fn ended_within(child: &mut Child, timeout: Duration) -> Option<std::process::ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if start.elapsed() > timeout {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for a state of the world; how long it took.
pub fn wait_until(what: &str, timeout: Duration, mut look: impl FnMut() -> Result<(), String>) -> Duration {
    let start = Instant::now();
    loop {
        match look() {
            Ok(()) => return start.elapsed(),
            Err(seen) => assert!(start.elapsed() < timeout, "not within {timeout:?}: {what}; {seen}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A service of the host, on all its addresses, TCP and UDP, that notes who came.
pub struct Service {
    pub port: u16,
    arrived: Arc<Mutex<Vec<(IpAddr, String)>>>,
    ended: Arc<AtomicBool>,
}

impl Service {
    pub fn start() -> Self {
        let (tcp, udp) = (0..100)
            .find_map(|_| {
                let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
                let udp = UdpSocket::bind(("0.0.0.0", tcp.local_addr().unwrap().port())).ok()?;
                Some((tcp, udp))
            })
            .unwrap();
        let port = tcp.local_addr().unwrap().port();
        let service = Self { port, arrived: Arc::default(), ended: Arc::default() };
        udp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (arrived, ended) = (Arc::clone(&service.arrived), Arc::clone(&service.ended));
        std::thread::spawn(move || {
            let mut packet = [0; 2000];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((length, from)) = udp.recv_from(&mut packet) {
                    let text = String::from_utf8_lossy(&packet[..length]).into_owned();
                    arrived.lock().unwrap().push((from.ip(), text));
                    let _ = udp.send_to(b"HOST", from);
                }
            }
        });
        tcp.set_nonblocking(true).unwrap();
        let (arrived, ended) = (Arc::clone(&service.arrived), Arc::clone(&service.ended));
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let Ok((mut stream, from)) = tcp.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                let _ = stream.set_nonblocking(false);
                let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
                let mut packet = [0; 200];
                // Who says nothing is there as well.
                let length = stream.read(&mut packet).unwrap_or_default();
                arrived.lock().unwrap().push((from.ip(), String::from_utf8_lossy(&packet[..length]).into_owned()));
                let _ = stream.write_all(b"HOST");
            }
        });
        service
    }

    /// Who came, but for the host itself.
    pub fn arrived(&self) -> Vec<(IpAddr, String)> {
        self.arrived.lock().unwrap().iter().filter(|(_, what)| what != CONTROL).cloned().collect()
    }

    /// It is there: the host itself reaches it at this address.
    pub fn answers_at(&self, address: Ipv4Addr) {
        let mut stream = TcpStream::connect((address, self.port)).unwrap();
        stream.write_all(CONTROL.as_bytes()).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        udp.send_to(CONTROL.as_bytes(), (address, self.port)).unwrap();
        let mut packet = [0; 4];
        udp.recv(&mut packet).unwrap();
        assert_eq!((&answer, &packet), (b"HOST", b"HOST"), "{address}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// The script that tries and watches.
pub fn script() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/integration/sandbox/hostile.py"))
}
