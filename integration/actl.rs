//! `actl` on a terminal, with a real server and real requests; what it shows of hostile things; and `actl doctor`.

mod doctor;
mod hostile;

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use http::StatusCode;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::client::Client;
use crate::support::pty::Terminal;
use crate::support::server::{Server, WorldConfig, run, upstream_section};
use crate::support::upstream::Upstream;

const ACTL: &str = env!("CARGO_BIN_EXE_actl");
const STRIPE: &str = "api.stripe.com";
/// Gives the screen back.
const LEAVE: &str = "\x1b[?1049l";

/// A server with one upstream.
struct World {
    server: Server,
    client: Client,
    upstream: Upstream,
}

impl World {
    /// `limits` are more lines of the upstream's section.
    async fn start(limits: &str) -> Self {
        let upstream = Upstream::start(&[STRIPE]).await;
        let server = Server::start(WorldConfig::new(upstream_section(STRIPE, &upstream, limits))).await;
        let client = server.client();
        Self { server, client, upstream }
    }

    fn terminal(&self, size: (u16, u16)) -> Terminal {
        let mut command = self.server.actl_command(&[]);
        command.arg("--state-dir").arg(self.server.state_dir()).env("TERM", "xterm");
        let terminal = Terminal::run(&command);
        terminal.resize(size.0, size.1);
        terminal.until("the server's state", |screen| screen.contains("Sandboxes"));
        terminal
    }

    async fn post(&self, token: &str, path: &str) -> StatusCode {
        let url = format!("https://{STRIPE}{path}");
        self.client.post(&url, "").bearer(token).send().await.unwrap().status
    }
}

/// Waits in a thread of its own: requests go on meanwhile.
async fn until(terminal: Terminal, what: &'static str, so: impl Fn(&str) -> bool + Send + 'static) -> Terminal {
    let waiting = tokio::task::spawn_blocking(move || {
        terminal.until(what, so);
        terminal
    });
    waiting.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_allowed_from_the_screen() {
    let world = World::start("# Only reading, for now.\nmethods = [\n  \"GET\", # reading\n]\n").await;
    let file = world.server.config_file();
    let (before, inode) = (std::fs::read_to_string(&file).unwrap(), file.metadata().unwrap().ino());
    let token = world.server.token(&["--hosts", STRIPE]);
    assert_eq!(world.post(&token, "/v1/charges?secret=1").await, StatusCode::FORBIDDEN);

    // What was refused before it was opened is there, too.
    let mut terminal = world.terminal((24, 100));
    terminal.keys("2r");
    let mut terminal = until(terminal, "the refusal", |screen| screen.contains("POST api.stripe.com/v1/charges")).await;
    terminal.keys("\r");
    let mut terminal = until(terminal, "its details", |screen| {
        screen.contains("to allow it")
            && screen.contains("verdict      refused")
            && screen.contains("methods = [\"GET\", \"POST\"]")
    })
    .await;
    assert!(!terminal.picture().contains("secret=1"));
    terminal.keys("a");
    let mut terminal =
        until(terminal, "the edit", |screen| screen.contains("+   \"POST\",") && screen.contains("y/n")).await;
    terminal.keys("n");
    let mut terminal =
        until(terminal, "that it was not written", |screen| screen.contains("nothing was written")).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    assert_eq!(world.post(&token, "/v1/charges").await, StatusCode::FORBIDDEN);

    terminal.keys("a");
    let mut terminal = until(terminal, "the edit", |screen| screen.contains("y/n")).await;
    terminal.keys("y");
    let mut terminal = until(terminal, "that it is allowed", |screen| screen.contains("is allowed now")).await;
    assert_eq!(world.post(&token, "/v1/charges").await, StatusCode::OK, "{}", terminal.picture());
    let after = std::fs::read_to_string(&file).unwrap();
    assert_eq!(after, before.replace("  \"GET\", # reading\n", "  \"GET\", # reading\n  \"POST\",\n"));
    assert_eq!(file.metadata().unwrap().ino(), inode, "the same file");
    let seen = world.upstream.request_count();

    // It is allowed by now, so there is nothing to edit.
    terminal.keys("a");
    let mut terminal =
        until(terminal, "that there is nothing to do", |screen| screen.contains("allows this already")).await;
    terminal.keys("r");
    let mut terminal = until(terminal, "what went through", |screen| screen.contains("with the credential")).await;
    assert_eq!(world.upstream.request_count(), seen);
    terminal.keys("q");
    terminal.shows(LEAVE);
    assert_eq!(terminal.ended().code(), Some(0));
    assert!(terminal.is_cooked(), "as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_meanwhile_is_not_written() {
    let world = World::start("methods = [\"GET\"]\n").await;
    let file = world.server.config_file();
    assert_eq!(world.post(&world.server.token(&["--hosts", STRIPE]), "/x").await, StatusCode::FORBIDDEN);
    let mut terminal = world.terminal((24, 100));
    terminal.keys("2r");
    let mut terminal = until(terminal, "the refusal", |screen| screen.contains("POST api.stripe.com/x")).await;
    terminal.keys("a");
    let mut terminal = until(terminal, "the edit", |screen| screen.contains("y/n")).await;
    let changed = format!("{}# Somebody was here.\n", std::fs::read_to_string(&file).unwrap());
    std::fs::write(&file, &changed).unwrap();
    terminal.keys("y");
    let _terminal = until(terminal, "that it was not", |screen| screen.contains("was changed meanwhile")).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_revoked_from_the_screen() {
    let world = World::start("").await;
    let token = world.server.token(&["--hosts", STRIPE, "--valid-for", "2h"]);
    assert_eq!(world.post(&token, "/x").await, StatusCode::OK);
    let mut terminal = world.terminal((24, 100));
    terminal.keys("3");
    let mut terminal =
        until(terminal, "the token", |screen| screen.contains("good") && screen.contains("in 1h59m")).await;
    terminal.keys("x");
    let mut terminal = until(terminal, "the question", |screen| screen.contains("y/n: revoke")).await;
    terminal.keys("y");
    let terminal =
        until(terminal, "that it is revoked", |screen| screen.contains("revoked") && !screen.contains("good")).await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while world.post(&token, "/x").await != StatusCode::UNAUTHORIZED {
        assert!(std::time::Instant::now() < deadline, "it still holds:\n{}", terminal.picture());
    }
    assert!(terminal.screen().contains("38;5;"), "with colours");
}

#[tokio::test(flavor = "multi_thread")]
async fn envoys_and_configuration_are_shown_also_on_the_smallest_screen() {
    let world = World::start("methods = [\"GET\"]\n").await;
    assert_eq!(world.post(&world.server.token(&["--hosts", STRIPE]), "/x").await, StatusCode::FORBIDDEN);
    let mut terminal = world.terminal((5, 20));
    terminal.keys("2");
    let mut terminal =
        until(terminal, "requests", |screen| screen.contains("2 Requests") && screen.contains('✗')).await;
    terminal.keys("\r");
    let mut terminal = until(terminal, "details", |screen| screen.contains("time")).await;
    terminal.keys("q4");
    let terminal = until(terminal, "Envoys", |screen| screen.contains("4 Nodes")).await;
    terminal.resize(24, 100);
    let mut terminal =
        until(terminal, "the Envoy", |screen| screen.contains("in step") && screen.contains("envoy 1.")).await;
    terminal.keys("5");
    let path = world.server.config_file().display().to_string();
    // A long path is cut at the screen's edge.
    let shown: String = path.chars().take(60).collect();
    let terminal = until(terminal, "the project", move |screen| screen.contains(&shown)).await;
    // A broken edit is seen where it is.
    std::fs::write(world.server.config_file(), "[gateway\n").unwrap();
    let mut terminal = until(terminal, "the problem", |screen| {
        screen.contains("problem (5)") && screen.contains("agent-creds.toml:1")
    })
    .await;
    kill_process(Pid::from_raw(terminal.pid().try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
    terminal.shows(LEAVE);
    assert_eq!(terminal.ended().code(), Some(128 + Signal::TERM.as_raw()));
    assert!(terminal.is_cooked());
}

#[test]
fn without_a_server_it_waits_and_without_a_terminal_it_says_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(ACTL);
    let path = |name: &str| dir.path().join(name).into_os_string();
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("TERM", "xterm").env("NO_COLOR", "1");
    command.arg("--state-dir").arg(path("state")).arg("--runtime-dir").arg(path("run"));
    let output = run(&mut command);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stderr.contains("needs a terminal") && output.stderr.contains("Usage: actl"), "{output:?}");
    let mut terminal = Terminal::run(&command);
    let screen = terminal.until("that there is none", |screen| screen.contains("no agent-creds server answers"));
    assert!(screen.contains("It is asked again"), "{screen}");
    terminal.keys("3");
    terminal.until("that there are no tokens", |screen| screen.contains("no token was made"));
    terminal.keys("\x03");
    assert_eq!(terminal.ended().code(), Some(0));
    assert!(terminal.is_cooked());
    let screen = terminal.screen();
    assert!(!screen.contains("38;5;") && !screen.contains("48;5;"), "no colours: {screen:?}");
    assert!(!dir.path().join("state").exists() && !dir.path().join("run").exists(), "looking makes nothing");
}
