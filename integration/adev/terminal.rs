//! `adev` attached to a real container, through a server that only answers: streams, keys, signals, the terminal's state.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_creds::control::v1::control_server::{Control, ControlServer};
use agent_creds::control::v1::*;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixListener;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request as Call, Response, Status};

use super::{ADEV, Desk};
use crate::support::pty::Terminal;
use crate::support::server::{DEADLINE, run};

const IMAGE: &str = "agent-creds-sandbox";

/// What the server would be asked, answered for one container.
struct Answers {
    container: String,
    config: String,
    stopped: mpsc::UnboundedSender<String>,
    events: broadcast::Sender<Event>,
}

type Stream<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Control for Answers {
    type LaunchStream = Stream<LaunchEvent>;
    type WatchStream = Stream<Event>;

    async fn get_status(&self, _: Call<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(GetStatusResponse { version: env!("CARGO_PKG_VERSION").into(), ..Default::default() }))
    }

    async fn launch(&self, call: Call<LaunchRequest>) -> Result<Response<Self::LaunchStream>, Status> {
        assert_eq!((&call.get_ref().config_path, call.get_ref().name.as_str()), (&self.config, "shop"));
        let (sender, events) = mpsc::channel(3);
        let ready = Sandbox { name: "shop".into(), ..Default::default() };
        for event in [launch_event::Event::Step("creating the network".into()), launch_event::Event::Ready(ready)] {
            sender.send(Ok(LaunchEvent { event: Some(event) })).await.unwrap();
        }
        Ok(Response::new(ReceiverStream::new(events)))
    }

    async fn get_environment(
        &self,
        _: Call<GetEnvironmentRequest>,
    ) -> Result<Response<GetEnvironmentResponse>, Status> {
        let environment = HashMap::from([
            ("API_KEY".to_owned(), "acm_token".to_owned()),
            ("PATH".to_owned(), "/usr/bin:/bin:/opt/agent-creds-bin".to_owned()),
            ("SHELL".to_owned(), "/bin/sh".to_owned()),
            ("PS1".to_owned(), "ready> ".to_owned()),
        ]);
        let (container, user) = (self.container.clone(), "1234:1234".to_owned());
        Ok(Response::new(GetEnvironmentResponse { container, user, environment }))
    }

    async fn stop(&self, call: Call<StopRequest>) -> Result<Response<StopResponse>, Status> {
        let name = call.into_inner().name;
        self.stopped.send(name.clone()).unwrap();
        Ok(Response::new(StopResponse { stopped: vec![name], problems: Vec::new() }))
    }

    async fn accept(
        &self,
        _: tonic::Request<agent_creds::control::v1::AcceptRequest>,
    ) -> Result<tonic::Response<agent_creds::control::v1::AcceptResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("not here"))
    }

    async fn list(&self, _: Call<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let other = Sandbox { name: "other".into(), state: State::Running.into(), ..Default::default() };
        Ok(Response::new(ListResponse { sandboxes: vec![other] }))
    }

    async fn watch(&self, _: Call<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (sender, events) = mpsc::channel(8);
        let mut source = self.events.subscribe();
        tokio::spawn(async move {
            while let Ok(event) = source.recv().await {
                if sender.send(Ok(event)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(events)))
    }
}

/// A project, a container for it, and a server that knows both.
struct World {
    desk: Desk,
    container: String,
    stopped: mpsc::UnboundedReceiver<String>,
    events: broadcast::Sender<Event>,
    _server: tokio::runtime::Runtime,
}

impl World {
    fn new() -> Self {
        let desk = Desk::new();
        desk.config("");
        std::fs::create_dir(desk.path("run")).unwrap();
        let aenv = format!("{}:/opt/agent-creds-bin/aenv:ro", env!("CARGO_BIN_EXE_aenv"));
        let mut docker = Command::new("docker");
        docker.args(["run", "-d", "--rm", "--network", "none", "--tmpfs", "/workspace:mode=777", "-v", &aenv]);
        docker.args(["--entrypoint", "/opt/agent-creds-bin/aenv", IMAGE, "init"]);
        let started = run(&mut docker);
        assert!(started.status.success(), "{} (`make build` builds the image)", started.stderr);
        let container = started.stdout.trim().to_owned();
        let server = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, stopped) = mpsc::unbounded_channel();
        let (events, _) = broadcast::channel(8);
        let answers = Answers {
            container: container.clone(),
            config: desk.path("shop/agent-creds.toml").to_str().unwrap().to_owned(),
            stopped: sender,
            events: events.clone(),
        };
        let socket = desk.path("run/control.sock");
        server.block_on(async {
            let listener = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
            let service = ControlServer::from_arc(Arc::new(answers));
            tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(listener));
        });
        Self { desk, container, stopped, events, _server: server }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(ADEV);
        command.args(["--state-dir", self.desk.path("state").to_str().unwrap()]);
        command.args(["--runtime-dir", self.desk.path("run").to_str().unwrap()]).args(words);
        command.env_clear().current_dir(self.desk.path("shop")).env("PATH", std::env::var_os("PATH").unwrap());
        command.envs(std::env::var_os("DOCKER_HOST").map(|host| ("DOCKER_HOST", host)));
        command
    }

    fn console(&self) -> Terminal {
        let mut command = self.command(&["console"]);
        command.env("TERM", "xterm").env("LANG", "de_DE.UTF-8");
        let mut terminal = Terminal::run(&command);
        terminal.shows("ready> ");
        terminal
    }

    /// `adev run` with pipes.
    fn run(&self, words: &[&str]) -> Child {
        let mut command = self.command(&["run"]);
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// What the container says to a command.
    fn inside(&self, script: &str) -> String {
        run(Command::new("docker").args(["exec", &self.container, "sh", "-c", script])).stdout
    }

    fn inside_until(&self, script: &str, expected: &str) {
        let deadline = Instant::now() + DEADLINE;
        while self.inside(script) != expected {
            assert!(Instant::now() < deadline, "{script}: {:?}", self.inside(script));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        run(Command::new("docker").args(["rm", "-f", &self.container]));
    }
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn a_console_is_a_real_terminal() {
    let world = World::new();
    let mut terminal = world.console();
    assert!(!terminal.is_cooked(), "keys go in as they are typed");
    terminal.keys("echo $API_KEY $TERM $LANG $(id -u) $(pwd) $(stty size)\r");
    terminal.shows("acm_token xterm C.UTF-8 1234 /workspace 24 80\r\n");
    terminal.resize(40, 132);
    terminal.keys("until [ \"$(stty size)\" = '40 132' ]; do sleep 0.05; done; echo re''sized\r");
    terminal.shows("resized");
    // Keys that would end things are the program's.
    terminal.keys("cat; echo c''at $?\r");
    terminal.keys("x\rx\r");
    terminal.shows("x\r\nx\r\n");
    terminal.keys("\x03");
    terminal.shows("^C");
    terminal.keys("\r");
    terminal.shows("ready> ");
    terminal.keys("exit 7\r");
    // The server does not list it as running.
    terminal.shows("the sandbox shop was stopped");
    assert_eq!(terminal.ended().code(), Some(7));
    assert!(terminal.is_cooked(), "as it was");
}

#[test]
fn a_console_can_be_left_in_every_way() {
    let world = World::new();
    // By keys: what runs goes on, with its modes undone here.
    let mut terminal = world.console();
    terminal.keys("printf '\\033[?1049h\\033[?25l'; touch /tmp/be''gun; sleep 1000\r");
    world.inside_until("ls /tmp/begun", "/tmp/begun\n");
    let mut other = world.console();
    terminal.keys("\x10\x11");
    terminal.shows("\x1b[?25h\x1b[?1049l");
    assert_eq!(terminal.ended().code(), Some(0));
    assert!(terminal.is_cooked());
    world.inside_until("pgrep -c sleep", "1\n");
    // By signals: the shell is told, as by a terminal that is closed.
    for kill in [Signal::TERM, Signal::HUP] {
        let mut terminal = world.console();
        let script = "trap 'touch /tmp/hung-up; exit' HUP; echo tr''apped; while :; do sleep 0.05; done";
        terminal.keys(&format!("exec sh -c {script:?}\r"));
        terminal.shows("trapped");
        signal(terminal.pid(), kill);
        assert_eq!(terminal.ended().code(), Some(128 + kill.as_raw()));
        assert!(terminal.is_cooked());
        world.inside_until("ls /tmp/hung-up; rm -f /tmp/hung-up", "/tmp/hung-up\n");
    }
    // The other console is none the worse, until its container goes.
    other.keys("echo st''ill\r");
    other.shows("still");
    run(Command::new("docker").args(["rm", "-f", &world.container]));
    assert!(!other.ended().success());
    assert!(other.is_cooked());
}

#[test]
fn a_console_tells_of_events_between_lines() {
    let world = World::new();
    let mut terminal = world.console();
    let lines = vec!["+ api.stripe.com".to_owned()];
    let change = event::Kind::Config(ConfigChange { generation: 2, ok: true, lines });
    let event = Event { sandbox: "shop".into(), kind: Some(change), ..Default::default() };
    let deadline = Instant::now() + DEADLINE;
    while world.events.send(event.clone()).is_err() {
        assert!(Instant::now() < deadline, "nobody watches");
    }
    let notice = "\x1b[2m[agent-creds] agent-creds.toml applied: + api.stripe.com\x1b[22m\r\n";
    while !terminal.screen().contains(notice) {
        assert!(Instant::now() < deadline, "{}", terminal.screen());
        terminal.keys("echo a''a\r");
        terminal.shows("aa\r\n");
        // The notice may be between the two.
        terminal.shows("ready> ");
    }
    let screen = terminal.screen();
    let at = screen.find(notice).unwrap();
    assert!(screen[..at].ends_with("\n\r"), "on a line of its own: {screen:?}");
}

#[test]
fn a_command_has_its_own_streams_and_its_exit_code_passes() {
    let mut world = World::new();
    let mut echo =
        world.run(&["--", "sh", "-c", "echo err >&2; echo out; [ -t 0 ] && echo tty; echo \"$API_KEY$TERM\"; exit 42"]);
    drop(echo.stdin.take());
    let output = echo.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(42), &b"out\nacm_token\n"[..]));
    // Its own standard error follows ours: the steps of the launch, a line each without a terminal.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "adev: creating the network\nerr\n");
    for (words, code) in [(&["/nowhere"][..], 127), (&["/etc/passwd"], 126), (&["sh", "-c", "kill -9 $$"], 137)] {
        let output = world.run(&[&["--"], words].concat()).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}");
    }
    // --rm: this launched it.
    assert!(world.run(&["--rm", "--", "true"]).wait_with_output().unwrap().status.success());
    assert_eq!(world.stopped.try_recv().unwrap(), "shop");
    assert!(world.stopped.try_recv().is_err(), "and no other run did");
}

#[test]
fn streams_are_binary_and_do_not_deadlock() {
    let world = World::new();
    let sent: Vec<u8> = (0..8_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut cat = world.run(&["--", "cat"]);
    let mut stdin = cat.stdin.take().unwrap();
    let to_send = sent.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&to_send));
    let mut received = Vec::new();
    cat.stdout.take().unwrap().read_to_end(&mut received).unwrap();
    writer.join().unwrap().unwrap();
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    assert!(cat.wait().unwrap().success());

    // Nobody reads any more: the command ends, as in a pipe of the shell.
    let mut yes = world.run(&["--", "yes"]);
    drop(yes.stdout.take());
    assert_eq!(yes.wait().unwrap().code(), Some(128 + 13));
    world.inside_until("pgrep -c yes", "0\n");
}

#[test]
fn signals_reach_the_command() {
    let world = World::new();
    let script = "trap 'echo got INT' INT; trap 'echo got TERM; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = world.run(&["--", "sh", "-c", script]);
    let mut stdout = child.stdout.take().unwrap();
    let mut reads = |expected: &str| {
        let mut bytes = vec![0; expected.len()];
        stdout.read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
    };
    reads("ready\n");
    signal(child.id(), Signal::INT);
    reads("got INT\n");
    signal(child.id(), Signal::TERM);
    reads("got TERM\n");
    assert_eq!(child.wait().unwrap().code(), Some(5));
}
