//! A server that only answers, with what an agent would like to do to a terminal.

use agent_creds::control::v1::*;

use super::ACTL;
use crate::support::control::{Answers, serve};
use crate::support::pty::Terminal;

/// Clears the screen, names the window, turns the direction of text, goes on in another line, takes two places.
const TRICKS: &str = "x\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e}\r\n日本\u{9b}31m";

#[test]
fn nothing_that_is_shown_drives_the_terminal_and_a_sandbox_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("run")).unwrap();
    let sandbox = |name: &str| Sandbox {
        name: name.into(),
        state: State::Running.into(),
        workspace: TRICKS.into(),
        detail: TRICKS.into(),
        upstreams: vec![TRICKS.into()],
        problems: vec![TRICKS.into()],
        ..Default::default()
    };
    let request = Request {
        host: TRICKS.into(),
        method: TRICKS.into(),
        path: TRICKS.into(),
        reason: TRICKS.into(),
        help: TRICKS.into(),
        ..Default::default()
    };
    let kind = Some(event::Kind::Request(request));
    let answers = Answers {
        status: GetStatusResponse { version: "0".into(), problems: vec![TRICKS.into()], ..Default::default() },
        sandboxes: vec![sandbox("alpha"), sandbox(TRICKS)].into(),
        projects: vec![Project {
            name: TRICKS.into(),
            gateway: true,
            config_path: TRICKS.into(),
            ..Default::default()
        }],
        events: vec![Event { sandbox: TRICKS.into(), kind, ..Default::default() }],
    };
    let _server = serve(&dir.path().join("run/control.sock"), answers);
    let mut command = std::process::Command::new(ACTL);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("TERM", "xterm");
    command.arg("--state-dir").arg(dir.path().join("state")).arg("--runtime-dir").arg(dir.path().join("run"));
    let mut terminal = Terminal::run(&command);
    terminal.until("the sandboxes", |screen| screen.contains("alpha") && screen.contains("● gateway"));
    for keys in ["\r", "q2", "\r", "q5", "\r", "q1"] {
        terminal.keys(keys);
        let view = keys.chars().last().filter(char::is_ascii_digit);
        terminal.until("the next view", |screen| match view {
            Some('2') => screen.contains("WHAT (following"),
            Some('5') => screen.contains("problem"),
            Some(_) => screen.contains("NAME"),
            None => screen.contains("details ─"),
        });
    }
    terminal.keys("x");
    terminal.until("the question", |screen| screen.contains("y/n: stop alpha"));
    terminal.keys("y");
    terminal.until("that it was stopped", |screen| screen.contains("stopped alpha") && !screen.contains("alpha  "));
    terminal.keys("q");
    assert_eq!(terminal.ended().code(), Some(0));
    let screen = terminal.screen();
    assert!(!screen.contains("\x1b]0;") && !screen.contains('\u{202e}') && !screen.contains('\u{9b}'), "{screen:?}");
    assert!(screen.contains("\\u{1b}]0;owned\\u{7}\\u{202e}"), "{screen:?}");
}
