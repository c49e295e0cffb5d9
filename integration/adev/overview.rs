//! `adev` without arguments on a terminal, with a server that only answers.

use agent_creds::control::v1::*;
use rustix::process::{Pid, Signal, kill_process};

use super::Desk;
use crate::support::control::{Answers, serve};
use crate::support::pty::Terminal;

/// Takes the screen, and gives it back.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

struct World {
    desk: Desk,
    /// Dropping it ends the server.
    server: Option<tokio::runtime::Runtime>,
}

impl World {
    fn new() -> Self {
        let desk = Desk::new();
        std::fs::create_dir(desk.path("run")).unwrap();
        let sandbox = |name: &str, state: State| Sandbox {
            name: name.into(),
            state: state.into(),
            upstreams: vec!["api.stripe.com".into()],
            ..Default::default()
        };
        let query = |name: &str| Event {
            sandbox: "alpha".into(),
            kind: Some(event::Kind::Dns(DnsQuery { name: name.into(), r#type: "TXT".into(), allowed: false })),
            ..Default::default()
        };
        let answers = Answers {
            status: GetStatusResponse { version: env!("CARGO_PKG_VERSION").into(), ..Default::default() },
            sandboxes: vec![sandbox("omega", State::Stopped), sandbox("alpha", State::Running)].into(),
            events: vec![query("evil.example"), query("x\u{1b}]0;owned\u{7}\u{1b}[2J.example")],
            ..Default::default()
        };
        let server = serve(&desk.path("run/control.sock"), answers);
        Self { desk, server: Some(server) }
    }

    /// The overview, with everything on it.
    fn open(&self) -> Terminal {
        let mut terminal = self.desk.terminal(&[]);
        terminal.shows(ENTER);
        terminal.shows("alpha");
        terminal.shows("evil.example");
        assert!(!terminal.is_cooked());
        terminal
    }
}

#[test]
fn the_overview_shows_what_is_there_and_stops_what_it_is_told_to() {
    let world = World::new();
    let mut terminal = world.open();
    terminal.keys("x");
    terminal.shows("y/n");
    terminal.keys("y");
    terminal.shows("stopped");
    // It is gone from the list: the other one is chosen, and has no events.
    terminal.shows("nothing");
    // Ctrl-L and the like do nothing; a new size is drawn at once.
    terminal.keys("\x0c");
    terminal.resize(10, 40);
    terminal.shows("omega");
    terminal.keys("q");
    terminal.shows(LEAVE);
    assert_eq!(terminal.ended().code(), Some(0));
    assert!(terminal.is_cooked(), "as it was");
    let screen = terminal.screen();
    assert!(!screen.contains("\x1b]0;") && !screen.contains("owned\x07"), "no name drives the terminal: {screen:?}");
    assert!(screen.contains("\\u{1b}]0;owned"), "{screen:?}");
}

#[test]
fn what_cannot_be_done_is_told_in_the_overview() {
    let world = World::new();
    let mut terminal = world.open();
    // A shell: there is no Docker.
    for key in ["\r", "j", "s"] {
        terminal.keys(key);
        if key == "j" {
            continue;
        }
        terminal.shows(LEAVE);
        terminal.shows(ENTER);
        terminal.shows("/nonexistent/docker.sock");
    }
    terminal.keys("\x03");
    assert_eq!(terminal.ended().code(), Some(0));
    assert!(terminal.is_cooked());
}

#[test]
fn the_terminal_is_put_back_on_every_end() {
    let mut world = World::new();
    for kill in [Signal::TERM, Signal::HUP, Signal::INT] {
        let mut terminal = world.open();
        kill_process(Pid::from_raw(terminal.pid().try_into().unwrap()).unwrap(), kill).unwrap();
        assert_eq!(terminal.ended().code(), Some(128 + kill.as_raw()));
        terminal.shows(LEAVE);
        assert!(terminal.is_cooked(), "{kill:?}");
    }
    // The server goes: that is shown, and the overview goes on.
    let mut terminal = world.open();
    world.server.take().unwrap().shutdown_background();
    terminal.shows("old");
    terminal.keys("q");
    assert_eq!(terminal.ended().code(), Some(0));
    assert!(terminal.is_cooked());
}
