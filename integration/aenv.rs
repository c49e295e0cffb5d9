//! `aenv`, driven as people and sandboxes drive it: the real binary, its streams and its exit status, with tokens of the
//! real `mint`. What needs a process namespace of its own makes one with `unshare`.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const KEY: &str = "RR2lAqayINqpuZERdDnUWceiXG83eGXXJdEcskfk7bQ=";
const AENV: &str = env!("CARGO_BIN_EXE_aenv");

struct Outcome {
    code: i32,
    out: String,
    err: String,
}

/// An environment as in a sandbox: a policy, and variables.
struct Inside {
    folder: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Inside {
    fn new(policy: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("policy.json"), policy.to_string()).unwrap();
        Self { folder, variables: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("policy.json")
    }

    fn run(&self, args: &[&str]) -> Outcome {
        let mut command = Command::new(AENV);
        command.args(args).env_clear().env("AGENT_CREDS_POLICY", self.path());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        outcome(&mut command)
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(args).out).unwrap()
    }
}

fn outcome(command: &mut Command) -> Outcome {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn policy(strict: bool) -> Value {
    json!({
        "version": 1, "sandbox": "box", "instance": "00ff", "token_prefix": "acm_", "strict": strict, "generation": 3,
        "problems": ["agent-creds.toml:4:1: error: unknown key\u{1b}[2J"],
        "upstreams": [
            { "host": "api.stripe.com", "methods": ["GET"], "paths": ["/v1/**"] },
            { "host": "free.example", "methods": null, "paths": null },
        ],
    })
}

fn mint(args: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mint"));
    command.args(args).env_clear().env("HOME", home.path()).env("MACAROON_SIGNING_KEY", KEY);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_person_sees_hosts_and_tokens_and_no_token_itself() {
    let mine = mint(&["--hosts", "api.stripe.com", "--methods", "GET", "--sandbox", "box", "--valid-for", "2h"]);
    let other = mint(&["--sandbox", "other"]);
    let inside = Inside::new(&policy(false)).with("STRIPE_API_KEY", &mine).with("OTHER", &other).with("HOME", "/");
    let shown = inside.run(&[]);
    assert_eq!((shown.code, shown.err.as_str()), (0, ""));
    for part in [
        "Sandbox box",
        "api.stripe.com  GET on /v1/**",
        "this one",
        "for another sandbox (other)",
        "unknown key\\u{1b}[2J",
    ] {
        assert!(shown.out.contains(part), "{part}\n{}", shown.out);
    }
    let json = inside.run(&["--json"]);
    let read: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(read["tokens"][1]["variable"], "STRIPE_API_KEY");
    assert_eq!(read["tokens"][1]["for_this_sandbox"], true);
    assert_eq!(read["tokens"][0]["for_this_sandbox"], false);
    for text in [shown.out, json.out] {
        assert!(!text.contains('\u{1b}') && !text.contains(&mine[10..40]) && !text.contains(&other[10..40]), "{text}");
    }
}

#[test]
fn why_answers_by_its_status_and_with_the_lines_to_add() {
    let token = mint(&["--hosts", "api.stripe.com", "--sandbox", "box"]);
    let inside = Inside::new(&policy(false)).with("STRIPE_API_KEY", &token);
    for (args, code, part) in [
        (&["https://api.stripe.com/v1/charges?limit=3"][..], 0, "allowed, with STRIPE_API_KEY"),
        (&["free.example"], 0, "goes out as it is"),
        (&["-X", "post", "https://api.stripe.com/v1/x"], 1, "methods = [\"GET\", \"POST\"]"),
        (&["https://api.stripe.com/v2/x"], 1, "paths = [\"/v1/**\", \"/v2/x\"]"),
        (&["https://nowhere.example/"], 1, "[upstream.\"nowhere.example\"]"),
        (&["http://free.example/"], 1, "use https://"),
        (&["https://169.254.169.254/latest"], 1, "IP address"),
        (&["--token", "STRIPE_API_KEY", "https://free.example/"], 1, "hosts = [\"api.stripe.com\", \"free.example\"]"),
        (&["--no-token", "https://api.stripe.com/v1"], 0, "no token goes with it"),
    ] {
        let outcome = inside.run(&[&["why"], args].concat());
        assert_eq!((outcome.code, outcome.err.as_str()), (code, ""), "{args:?}\n{}", outcome.out);
        assert!(outcome.out.contains(part), "{args:?}\n{}", outcome.out);
        let json = inside.json(&[&["why", "--json"], args].concat());
        assert_eq!(json["allowed"], code == 0, "{json}");
    }
    let strict = Inside::new(&policy(true)).run(&["why", "https://free.example/"]);
    assert_eq!(strict.code, 1);
    assert!(strict.out.contains("FREE_EXAMPLE_TOKEN = { token = { hosts = [\"free.example\"] } }"), "{}", strict.out);
}

#[test]
fn wrong_use_ends_with_two_and_repeats_no_token() {
    let token = mint(&[]);
    let inside = Inside::new(&policy(false)).with("TOKEN", &token);
    let with_user = format!("https://x:{token}@free.example/");
    for args in [
        &["why"][..],
        &["why", "https://a b/"],
        &["why", "https://\u{1b}[2J/"],
        &["why", &with_user],
        &["why", "--method", "G\u{1b}T", "free.example"],
        &["why", "--token", &token, "free.example"],
        &["why", "--token", "HOME", "free.example"],
        &["nonsense"],
        &["init"],
    ] {
        let outcome = inside.run(args);
        assert_eq!((outcome.code, outcome.out.as_str()), (2, ""), "{args:?}");
        assert!(!outcome.err.contains(&token[10..40]) && !outcome.err.contains('\u{1b}'), "{}", outcome.err);
    }
    for (content, part) in
        [(None, "this is no sandbox"), (Some("{"), "same release"), (Some("{\"version\": 2}"), "same release")]
    {
        match content {
            None => std::fs::remove_file(inside.path()).unwrap(),
            Some(content) => std::fs::write(inside.path(), content).unwrap(),
        }
        for args in [&[][..], &["why", "free.example"]] {
            let outcome = inside.run(args);
            assert_eq!((outcome.code, outcome.out.as_str()), (2, ""), "{content:?}");
            assert!(outcome.err.contains(part), "{}", outcome.err);
        }
    }
}

/// Waits until `done`, and says what was waited for when it never is.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process of the test, killed when the test is over.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_command_gets_the_signals_that_are_sent_to_its_id() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, id) = (folder.path(), format!("test-{}", std::process::id()));
    // The shell notes that it runs, and answers to the signal; its child is of the same group and ends by it.
    let script = "trap 'echo got > got' TERM; sleep 60 & echo $! > ready.new; mv ready.new ready; wait; exit 7";
    let exec = |id: &str, command: &[&str]| {
        let mut exec = Command::new(AENV);
        exec.args(["exec", "--id", id, "--workdir"]).arg(folder).arg("--").args(command).stdin(Stdio::null());
        exec
    };
    let mut running = Running(exec(&id, &["sh", "-c", script]).spawn().unwrap());
    until("the command runs", || folder.join("ready").exists());
    let taken = outcome(&mut exec(&id, &["true"]));
    assert_eq!(taken.code, 2, "{}", taken.err);

    let signal = |name: &str| outcome(Command::new(AENV).args(["signal", "--id", &id, name]));
    assert_eq!(signal("term").code, 0);
    until("the shell ends", || running.0.try_wait().unwrap().is_some());
    assert_eq!(running.0.wait().unwrap().code(), Some(7));
    assert!(folder.join("got").exists());
    let child = std::fs::read_to_string(folder.join("ready")).unwrap();
    let child = Path::new("/proc").join(child.trim());
    until("its child ends", || std::fs::read_to_string(child.join("stat")).map_or(true, |stat| stat.contains(") Z ")));

    let gone = signal("SIGINT");
    assert_eq!(gone.code, 1);
    assert!(gone.err.contains("no command with the id"), "{}", gone.err);
    // The next command clears the note away, so the id is free.
    assert_eq!(outcome(&mut exec(&id, &["sh", "-c", "exit 9"])).code, 9);
    assert_eq!(outcome(&mut exec(&format!("{id}c"), &["/nonesuch"])).code, 127);
    assert_eq!(outcome(&mut exec(&format!("{id}d"), &["/dev/null"])).code, 126);
    assert_eq!(outcome(&mut exec("../x", &["true"])).code, 2);
}

/// The first process of a namespace of its own: adopts and reaps, and ends everything when told to, also who will not.
#[test]
fn the_first_process_reaps_and_ends_everything() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // Before it becomes `init`, the shell starts processes: one that ends and is left behind, one that ends on SIGTERM, and
    // one that will not.
    let script = "mount -t proc proc /proc
        (sleep 0.01 & echo $! > orphan) &
        sh -c 'trap \"echo ended > polite; exit\" TERM; echo > ready1; while :; do sleep 0.01; done' &
        sh -c 'trap \"\" TERM; echo > ready2; while :; do sleep 0.01; done' &
        exec \"$0\" init";
    let mut unshare = Command::new("unshare");
    let own = is_root();
    if !own {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args(["--pid", "--fork", "--mount", "--kill-child", "sh", "-c", script, AENV]).current_dir(folder);
    let mut running = Running(unshare.stdin(Stdio::null()).spawn().unwrap());
    until("the processes run", || ["orphan", "ready1", "ready2"].iter().all(|name| folder.join(name).exists()));
    let children = |pid: u32| -> Vec<u32> {
        let all = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        all.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    };
    let stat = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let first = children(running.0.id())[0];
    until("it is init", || std::fs::read_to_string(format!("/proc/{first}/comm")).is_ok_and(|name| name == "aenv\n"));
    // The two that go on, and nobody who has ended.
    until("the orphan is reaped", || {
        let left = children(first);
        left.len() == 2 && left.iter().all(|&pid| !stat(pid).contains(") Z "))
    });
    let left = children(first);
    let ticks = |pid: u32| -> u64 {
        let stat = stat(pid);
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split_whitespace().collect();
        fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
    };
    assert!(ticks(first) < 20, "it waits, and does not look");

    let started = Instant::now();
    let sent = Command::new("kill").args(["-TERM", &first.to_string()]).status().unwrap();
    assert!(sent.success());
    until("it ends", || running.0.try_wait().unwrap().is_some());
    let status = running.0.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
    assert!(started.elapsed() < Duration::from_secs(9), "before docker would kill it: {:?}", started.elapsed());
    assert!(folder.join("polite").exists(), "SIGTERM came first");
    for pid in left {
        assert!(!stat(pid).contains("(sh)"), "{pid} is gone");
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn help_teaches_and_shells_complete() {
    let inside = Inside::new(&policy(false));
    let help = inside.run(&["--help"]);
    assert_eq!(help.code, 0);
    assert!(help.out.contains("aenv why https://api.stripe.com/v1/charges"), "{}", help.out);
    assert!(!help.out.contains("signal"), "what sandboxes run on is not for people: {}", help.out);
    for shell in ["bash", "zsh", "fish"] {
        assert!(inside.run(&["completions", shell]).out.contains("aenv"), "{shell}");
    }
}
