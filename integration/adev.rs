//! `adev` where there is nothing to launch: what it writes, and what it says when something is missing.

mod overview;
mod terminal;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::pty::Terminal;
use crate::support::server::{Output, install, install_script, run};

const ADEV: &str = env!("CARGO_BIN_EXE_adev");

/// A project's folder, and the folders of a server that does not run.
struct Desk {
    dir: TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { dir: tempfile::Builder::new().prefix("agent-creds-adev-").tempdir().unwrap() };
        fs::create_dir(desk.path("shop")).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    /// `adev` in the project's folder, with nothing of this test's environment.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(ADEV);
        command.args(words).args(["--state-dir", self.path("state").to_str().unwrap()]);
        command.args(["--runtime-dir", self.path("run").to_str().unwrap()]);
        self.plain(command)
    }

    fn plain(&self, mut command: Command) -> Command {
        command.env_clear().current_dir(self.path("shop")).env("HOME", self.path("home"));
        // No Docker, no other programs.
        command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock").env("PATH", "/nonexistent");
        command
    }

    fn adev(&self, words: &[&str]) -> Output {
        run(&mut self.command(words))
    }

    /// Without the folders: `--` takes all that follows.
    fn adev_run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(ADEV);
        command.args(["run", "--state-dir", self.path("state").to_str().unwrap()]);
        command.args(["--runtime-dir", self.path("run").to_str().unwrap()]).args(words);
        run(&mut self.plain(command))
    }

    fn terminal(&self, words: &[&str]) -> Terminal {
        let mut command = self.command(words);
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("TERM", "xterm");
        Terminal::run(&command)
    }

    fn config(&self, text: &str) {
        fs::write(self.path("shop/agent-creds.toml"), text).unwrap();
    }

    /// Nothing was started, and nothing left.
    fn is_untouched(&self) -> bool {
        !self.path("run").exists() && !self.path("state").exists()
    }
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn init_writes_a_file_that_check_takes_and_asks_nothing() {
    let desk = Desk::new();
    let written = desk.adev(&["init", "--preset", "claude,github", "--preset", "node", "--runtime", "runc"]);
    assert_eq!((code(&written), written.stderr.as_str()), (Some(0), ""), "{written:?}");
    assert!(written.stdout.contains("ANTHROPIC_API_KEY, GH_TOKEN"), "{}", written.stdout);
    let text = fs::read_to_string(desk.path("shop/agent-creds.toml")).unwrap();
    assert!(text.contains("\nruntime = \"runc\"") && text.contains("[upstream.\"api.github.com\"]"), "{text}");
    let check = Command::new(env!("CARGO_BIN_EXE_agent-creds"));
    let checked = run(desk.plain(check).args(["check", "--json"]));
    assert_eq!(code(&checked), Some(0), "{checked:?}");

    // Again: it is left as it is.
    let again = desk.adev(&["init", "--preset", "python"]);
    assert_eq!(code(&again), Some(1));
    assert!(again.stderr.contains("--force"), "{}", again.stderr);
    assert_eq!(fs::read_to_string(desk.path("shop/agent-creds.toml")).unwrap(), text);
    assert_eq!(code(&desk.adev(&["init", "--force", "../new/one"])), Some(0), "the folder is made");
    assert!(desk.path("new/one/agent-creds.toml").exists());
    assert!(desk.is_untouched());
}

#[test]
fn init_on_a_terminal_offers_a_choice() {
    let desk = Desk::new();
    let mut terminal = desk.terminal(&["init"]);
    terminal.shows("claude, openai, github, python, node");
    terminal.keys("ruby\n");
    terminal.shows("Only these words");
    terminal.keys("openai, python\n");
    terminal.shows("wrote ./agent-creds.toml");
    assert!(terminal.ended().success());
    let text = fs::read_to_string(desk.path("shop/agent-creds.toml")).unwrap();
    assert!(text.contains("OPENAI_API_KEY = ") && text.contains("# Python's packages") && !text.contains("GH_TOKEN"));
}

#[test]
fn what_is_missing_is_said_before_anything_is_started() {
    let desk = Desk::new();
    let mut said = Vec::new();
    let mut fails = |output: Output, expected: i32, says: &str| {
        assert_eq!((code(&output), output.stdout.as_str()), (Some(expected), ""), "{says}: {output:?}");
        assert!(output.stderr.starts_with("error: ") && output.stderr.contains(says), "{says}: {}", output.stderr);
        said.push(output.stderr);
    };
    // No terminal.
    fails(desk.adev(&["console"]), 1, "`adev run -- CMD`");
    // No project.
    fails(desk.adev_run(&["--", "true"]), 125, "`adev init` writes one");
    fails(desk.adev_run(&["--config", "nowhere", "--", "true"]), 125, "there is no nowhere");
    // A broken file, with line and column.
    desk.config("[sandbox]\nnane = \"x\"\n");
    fails(desk.adev_run(&["--", "true"]), 125, "agent-creds.toml:2:1: unknown key `nane`");
    desk.config("[gateway]\nlisten = \"127.0.0.1:15443\"\n");
    fails(desk.adev_run(&["--", "true"]), 125, "gateway");
    // No Docker.
    desk.config("");
    fails(desk.adev_run(&["--", "true"]), 125, "there is no Docker at unix:///nonexistent/docker.sock");
    // A file that an agent may have written.
    fs::create_dir(desk.path("shop/src")).unwrap();
    fs::write(desk.path("shop/src/agent-creds.toml"), "").unwrap();
    let mut below = Command::new(ADEV);
    below.args(["run", "--", "true"]);
    fails(run(desk.plain(below).current_dir(desk.path("shop/src"))), 125, "say which one you mean with --config");
    assert!(desk.is_untouched());

    // On a terminal, as everybody sees it, and the terminal is as it was.
    let mut terminal = desk.terminal(&["console"]);
    terminal.shows("error: there is no Docker at");
    assert_eq!(terminal.ended().code(), Some(1));
    assert!(terminal.is_cooked());
    assert!(desk.is_untouched());
}

#[test]
fn wrong_usage_is_2_and_help_has_examples() {
    let desk = Desk::new();
    for (words, says) in [
        (&["consol"][..], "console"),
        (&["run"], "<CMD>"),
        (&["run", "ls"], "<CMD>"),
        (&["stop", "--all", "x"], "cannot be used with"),
        (&["init", "--preset", "ruby"], "[possible values: claude, openai, github, python, node]"),
        (&["init", "--runtime", "kata"], "[possible values: runsc, runc]"),
        (&["logs", "-n", "many"], "'many'"),
    ] {
        let output = desk.adev(words);
        assert_eq!((code(&output), output.stdout.as_str()), (Some(2), ""), "{words:?}: {output:?}");
        assert!(output.stderr.contains(says), "{words:?}: {}", output.stderr);
    }
    for words in [&["--help"][..], &["init", "--help"], &["console", "--help"], &["run", "--help"], &["logs", "--help"]]
    {
        let help = desk.adev(words);
        assert_eq!(code(&help), Some(0));
        assert!(help.stdout.contains("Examples:\n  adev "), "{words:?}: {}", help.stdout);
    }
    let completions = desk.adev(&["completions", "bash"]);
    assert_eq!(code(&completions), Some(0));
    assert!(completions.stdout.contains("adev__subcmd__console") || completions.stdout.contains("adev__console"));
    assert!(desk.is_untouched());
}

/// A server's program of a few lines, beside a copy of `adev`.
fn with_server(desk: &Desk, script: &str) -> PathBuf {
    let bin = desk.path("bin");
    fs::create_dir_all(&bin).unwrap();
    let adev = bin.join("adev");
    if !adev.exists() {
        // Not a link: the server is looked for beside the program's file.
        install(Path::new(ADEV), &adev);
    }
    install_script(&format!("#!/bin/sh\n{script}\n"), &bin.join("agent-creds"));
    adev
}

#[test]
fn a_server_that_does_not_start_says_why() {
    let desk = Desk::new();
    let adev =
        with_server(&desk, "echo started before >&2; echo \"$@\" > \"$HOME.args\"; pwd >> \"$HOME.args\"; exit 0");
    let list = |adev: &PathBuf| {
        let mut command = Command::new(adev);
        command.args(["list", "--state-dir", "../state", "--runtime-dir", "../run"]);
        run(&mut desk.plain(command))
    };
    let first = list(&adev);
    assert_eq!((code(&first), first.stdout.as_str()), (Some(1), ""));
    assert!(first.stderr.starts_with("adev: starting the server\nerror: the server did not start"), "{}", first.stderr);
    // What it is told: absolute folders, and nothing of the folder this was typed in.
    let told = fs::read_to_string(desk.path("home.args")).unwrap();
    let (run_dir, state_dir) = (desk.path("run"), desk.path("state"));
    let folders = format!("serve --no-config --state-dir {}/../state --runtime-dir", desk.path("shop").display());
    assert!(told.starts_with(&folders) || told.contains(&format!("--state-dir {}", state_dir.display())), "{told}");
    assert!(told.contains(" --envoy docker ") && told.ends_with("\n/\n"), "{told}");
    assert_eq!(fs::metadata(&run_dir).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(run_dir.join("server.log")).unwrap().permissions().mode() & 0o777, 0o600);

    // Only what this start wrote is shown, and it cannot drive the terminal.
    with_server(&desk, "printf 'cannot bind\\033[2J\\n' >&2; exit 7");
    let second = list(&adev);
    assert!(second.stderr.contains("(exit status: 7)"), "{}", second.stderr);
    assert!(second.stderr.contains("\n    cannot bind\\u{1b}[2J\n"), "{}", second.stderr);
    assert!(!second.stderr.contains("started before"), "{}", second.stderr);

    // None at all.
    fs::remove_file(desk.path("bin/agent-creds")).unwrap();
    let none = list(&adev);
    assert_eq!(code(&none), Some(1));
    assert!(none.stderr.contains("neither beside") && none.stderr.contains("nor on PATH"), "{}", none.stderr);
}
