//! The small internet, its services, and the guard.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use agent_creds::sandbox::network::{GuardCommand, GuardReport, Isolation, NetKey, ServerPrefix};
use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Patience for what takes milliseconds: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const SERVER: &str = "0123456789ab";

/// The key of the sandbox in `172.30.NUMBER.0/24`.
pub fn key(number: u8) -> NetKey {
    NetKey::new(SERVER, &format!("sandbox {number}")).unwrap()
}

pub fn isolation(number: u8) -> Isolation {
    let gateway = [172, 30, number, 1].into();
    Isolation::new(key(number), gateway, ([172, 30, number, 0].into(), 24), 15001, 15053).unwrap()
}

pub fn command(revision: u64, hold: &[Isolation]) -> GuardCommand {
    GuardCommand { revision, server: ServerPrefix::of(SERVER).unwrap(), hold: hold.to_vec(), gone: Vec::new() }
}

/// Runs `body` as the host of the small internet. `test` is the full name of the calling test.
pub fn inside(test: &str, body: impl FnOnce(World)) {
    if let Some(folder) = std::env::var_os("WORLD") {
        body(World { folder: folder.into() });
        eprintln!("{test}: passed inside");
        return;
    }
    let mut command = Command::new(format!("{ROOT}/integration/isolation/world.sh"));
    command.args([key(1).bridge(), key(2).bridge()]);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // Without this, a misspelt name would run no test, successfully.
    let passed = stderr.contains(&format!("{test}: passed inside"));
    assert!(output.status.success() && passed, "inside:\n{stdout}\n{stderr}");
}

pub struct World {
    folder: PathBuf,
}

impl World {
    /// A command in the namespace `space`; of the host itself, if that is `host`.
    pub fn command_in(&self, space: &str, program: &str) -> Command {
        if space == "host" {
            return Command::new(program);
        }
        let mut command = Command::new(self.folder.join(space));
        command.arg(program);
        command
    }

    /// Starts services that say `name`.
    pub fn serve(&self, space: &str, name: &str, address: &str, ports: &[u16]) -> Service {
        let mut command = self.command_in(space, "python3");
        command.args([PROBE, "serve", name, address]).args(ports.iter().map(u16::to_string));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = lines(child.stdout.take().unwrap());
        let service = Service { lines, _child: Killed(child) };
        let first = service.lines.recv_timeout(PATIENCE).unwrap();
        assert!(first.contains("ready"), "{first}");
        if space != "host" {
            assert!(service.lines.recv_timeout(PATIENCE).unwrap().contains("capturing"));
        }
        service
    }

    /// Makes all attempts at once from `space`; returns who answered each, by its tag.
    pub fn attempt(&self, space: &str, attempts: &[Value]) -> BTreeMap<String, Option<String>> {
        let mut command = self.command_in(space, "python3");
        let mut child = command.args([PROBE, "attempts"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for attempt in attempts {
            writeln!(stdin, "{attempt}").unwrap();
        }
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let answers: BTreeMap<String, Option<String>> = text
            .lines()
            .map(|line| {
                let answer: Value = serde_json::from_str(line).unwrap();
                (answer["tag"].as_str().unwrap().to_owned(), answer["answer"].as_str().map(str::to_owned))
            })
            .collect();
        assert_eq!(answers.len(), attempts.len(), "{text}");
        answers
    }

    /// Runs a line of shell on the host.
    pub fn shell(&self, line: &str) -> String {
        let output = Command::new("sh").args(["-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Everything that the guard may change, as the system shows it.
    pub fn rules(&self) -> String {
        self.shell("nft -s list ruleset; ip rule show; ip -6 rule show; tc filter show dev lo ingress")
    }

    /// Starts a guard.
    pub fn guard(&self) -> Guard {
        let mut child = Command::new(env!("CARGO_BIN_EXE_aenv"))
            .arg("guard")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let reports = lines(child.stdout.take().unwrap());
        Guard { reports, child: Killed(child) }
    }
}

const PROBE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/isolation/probe.py");

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lines(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Services in one namespace, and what they see.
pub struct Service {
    lines: Receiver<String>,
    _child: Killed,
}

impl Service {
    /// What arrived so far: tags, and for a capture packets in hex.
    pub fn arrived(&self) -> Vec<String> {
        let said = self.lines.try_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
        said.map(|line| line["arrived"].as_str().or(line["packet"].as_str()).unwrap().to_owned()).collect()
    }

    /// What arrived up to `tag`.
    pub fn arrived_until(&self, tag: &str) -> Vec<String> {
        let begun = Instant::now();
        let mut all = Vec::new();
        while !all.iter().any(|arrived: &String| arrived.contains(tag)) {
            let line = self.lines.recv_timeout(PATIENCE.saturating_sub(begun.elapsed())).unwrap();
            let line: Value = serde_json::from_str(&line).unwrap();
            all.push(line["arrived"].as_str().or(line["packet"].as_str()).unwrap().to_owned());
        }
        all
    }
}

pub struct Guard {
    reports: Receiver<String>,
    child: Killed,
}

impl Guard {
    pub fn send(&mut self, command: &GuardCommand) {
        self.send_line(&serde_json::to_string(command).unwrap());
    }

    pub fn send_line(&mut self, line: &str) {
        let stdin = self.child.0.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
    }

    pub fn close_input(&mut self) {
        drop(self.child.0.stdin.take());
    }

    pub fn report(&self) -> GuardReport {
        serde_json::from_str(&self.reports.recv_timeout(PATIENCE).unwrap()).unwrap()
    }

    /// The next report, if one comes within `time`.
    pub fn report_within(&self, time: Duration) -> Option<GuardReport> {
        match self.reports.recv_timeout(time) {
            Ok(line) => Some(serde_json::from_str(&line).unwrap()),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("the guard has ended"),
        }
    }

    /// Sends what to hold, and waits until it holds.
    pub fn hold(&mut self, revision: u64, hold: &[Isolation]) {
        self.send(&command(revision, hold));
        assert_eq!(self.report(), GuardReport::Holding(revision));
    }

    /// Asks again for both sandboxes, and waits until they are held, whatever it reports before.
    pub fn hold_again(&mut self, revision: u64) {
        self.send(&command(revision, &[isolation(1), isolation(2)]));
        while self.report() != GuardReport::Holding(revision) {}
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.0.id();
        assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
        if signal == "-STOP" {
            let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let begun = Instant::now();
            while !state().contains(") T ") {
                assert!(begun.elapsed() < PATIENCE, "stopped: {}", state());
                thread::yield_now();
            }
        }
    }
}
