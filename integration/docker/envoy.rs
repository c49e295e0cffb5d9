//! A server that keeps its Envoy in a container, and is stopped at the wrong moment.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use agent_creds::sandbox::spec::ServerId;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::world::DEADLINE;

/// The engine, behind a door that requests to create a container wait at.
struct SlowDocker {
    path: PathBuf,
    /// Says when one waits.
    waits: Receiver<()>,
    door: Arc<Door>,
}

#[derive(Default)]
struct Door(Mutex<bool>, Condvar);

impl Door {
    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn pass(&self) {
        let (_is_open, waited) =
            self.1.wait_timeout_while(self.0.lock().unwrap(), DEADLINE, |is_open| !*is_open).unwrap();
        assert!(!waited.timed_out(), "nobody opens the door");
    }
}

impl SlowDocker {
    fn start(path: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        let (waiting, waits) = sync_channel(16);
        let door = Arc::new(Door::default());
        let at_door = Arc::clone(&door);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, engine) = (client.unwrap(), UnixStream::connect(engine()).unwrap());
                let (back, to) = (client.try_clone().unwrap(), engine.try_clone().unwrap());
                let (waiting, door) = (waiting.clone(), Arc::clone(&at_door));
                std::thread::spawn(move || forward(client, to, &waiting, &door));
                std::thread::spawn(move || copy(engine, back));
            }
        });
        Self { path, waits, door }
    }
}

fn engine() -> String {
    let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
    host.strip_prefix("unix://").unwrap_or_else(|| panic!("these tests need a local engine, not {host}")).to_owned()
}

/// What the client sends. A request that was sent is carried out, though the client may be gone.
fn forward(mut from: UnixStream, mut to: UnixStream, waiting: &SyncSender<()>, door: &Door) {
    let mut piece = [0; 65536];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        if piece[..length].windows(19).any(|window| window == b"/containers/create?") {
            let _ = waiting.try_send(());
            door.pass();
        }
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn copy(mut from: UnixStream, mut to: UnixStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

/// A server with folders of its own; nothing of it outlives the test.
struct Server {
    dir: TempDir,
    child: Child,
}

impl Server {
    fn start(dir: TempDir, docker: Option<&Path>) -> Self {
        for folder in ["state", "run", "home"] {
            std::fs::DirBuilder::new().mode(0o700).create(dir.path().join(folder)).unwrap();
        }
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent-creds"));
        command.args(["serve", "--no-config", "--envoy", "docker", "--http", "127.0.0.1:0", "--state-dir"]);
        command.arg(dir.path().join("state")).arg("--runtime-dir").arg(dir.path().join("run"));
        command.env_clear().env("HOME", dir.path().join("home")).env("PATH", std::env::var_os("PATH").unwrap());
        match docker {
            Some(path) => drop(command.env("DOCKER_HOST", format!("unix://{}", path.display()))),
            None => drop(command.envs(std::env::var_os("DOCKER_HOST").map(|host| ("DOCKER_HOST", host)))),
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        Self { dir, child }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    fn ended_within(&mut self, time: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            match self.child.try_wait().unwrap() {
                None if start.elapsed() < time => std::thread::sleep(Duration::from_millis(10)),
                status => return status,
            }
        }
    }

    fn wait_until(&self, what: &str, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < DEADLINE, "not in time: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its containers, each with its state.
    fn containers(&self) -> Vec<String> {
        let server = ServerId::of(&self.dir.path().canonicalize().unwrap().join("state"));
        let label = format!("label=agent-creds.server={server}");
        let format = "{{.ID}} {{.State}}";
        let output =
            Command::new("docker").args(["ps", "-a", "--filter", &label, "--format", format]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for container in self.containers() {
            let id = container.split(' ').next().unwrap_or_default();
            let _ = Command::new("docker").args(["rm", "-fv", id]).output();
        }
    }
}

#[test]
fn a_server_that_is_stopped_while_it_creates_its_envoy_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let docker = SlowDocker::start(dir.path().join("docker.sock"));
    let mut server = Server::start(dir, Some(&docker.path));
    let asked = docker.waits.recv_timeout(DEADLINE);
    assert!(asked.is_ok(), "it asks for a container: {}", server.log());
    server.terminate();
    server.wait_until("it has heard the signal", || server.log().contains("stopping on SIGTERM"));
    // What was asked for comes into being, late: it has to be waited for.
    let early = server.ended_within(Duration::from_millis(500));
    docker.door.open();
    assert_eq!(early, None, "{}", server.log());
    let status = server.ended_within(DEADLINE);
    assert!(status.is_some_and(|status| status.success()), "{status:?}\n{}", server.log());
    assert_eq!(server.containers(), Vec::<String>::new(), "{}", server.log());
    assert!(server.log().contains("started Envoy"), "it was made: {}", server.log());
}

#[test]
fn a_server_takes_its_envoys_container_with_it() {
    let mut server = Server::start(tempfile::tempdir().unwrap(), None);
    server.wait_until("Envoy runs", || server.containers().iter().any(|container| container.ends_with(" running")));
    server.terminate();
    let status = server.ended_within(DEADLINE);
    assert!(status.is_some_and(|status| status.success()), "{status:?}\n{}", server.log());
    assert_eq!(server.containers(), Vec::<String>::new(), "{}", server.log());
}
