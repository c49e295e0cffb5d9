use proptest::prelude::*;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::style::Color;

use super::app::{Action, App, Input};
use super::{Outcome, view};
use crate::cli::tui::testing::{self, are_as_they_were, hostile};
use crate::control::v1::event::Kind;
use crate::control::v1::{
    ConfigChange, DnsQuery, Event, GetStatusResponse, Notice, Request, Sandbox, State, StopResponse,
};

/// Seconds.
const NOW: i64 = 1_800_000_000;

fn press(app: &mut App, code: KeyCode) -> Option<Action> {
    app.on(Input::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn types(app: &mut App, keys: &str) -> Option<Action> {
    keys.chars().map(|c| press(app, KeyCode::Char(c))).last().unwrap()
}

fn sandbox(name: &str, state: State) -> Sandbox {
    Sandbox {
        name: name.into(),
        state: state.into(),
        config_path: format!("/home/me/{name}/agent-creds.toml"),
        workspace: format!("/home/me/{name}"),
        runtime: "runsc".into(),
        upstreams: vec!["api.stripe.com".into(), "*.s3.amazonaws.com".into()],
        started: if state == State::Stopped { 0 } else { NOW - 4000 },
        requests: 12,
        refused: if state == State::Stopped { 0 } else { 3 },
        ..Sandbox::default()
    }
}

fn event(age: i64, sandbox: &str, kind: Kind) -> Event {
    Event { time_ms: (NOW - age) * 1000, sandbox: sandbox.into(), kind: Some(kind) }
}

fn request(allowed: bool, method: &str, path: &str) -> Kind {
    let reason = if allowed { "" } else { "method not allowed: POST; add it to `methods`" };
    Kind::Request(Request {
        host: "api.stripe.com".into(),
        method: method.into(),
        path: path.into(),
        allowed,
        reason: reason.into(),
        credential: allowed,
        ..Request::default()
    })
}

fn dns(name: &str, allowed: bool) -> Kind {
    Kind::Dns(DnsQuery { name: name.into(), r#type: "A".into(), allowed })
}

fn notice(level: &str, text: &str) -> Kind {
    Kind::Notice(Notice { level: level.into(), text: text.into() })
}

/// A server that is well, with nothing on it.
fn idle() -> App {
    let mut app = App::new(false);
    app.on(Input::Tick(NOW * 1000));
    app.on(Input::Status(GetStatusResponse {
        envoy_connected: true,
        envoy_converged: true,
        ..GetStatusResponse::default()
    }));
    app.on(Input::Sandboxes(Vec::new()));
    app
}

/// Four sandboxes and what happened in them; `shop` is selected.
fn busy() -> App {
    let mut app = idle();
    let mut broken = sandbox("web", State::Partial);
    broken.detail = "paused: the kernel's rules were lost, and are being repaired".into();
    broken.problems =
        vec!["/home/me/web/agent-creds.toml:3:1: unknown key `methdos`\n    help: did you mean `methods`?".into()];
    broken.restart_needed = vec!["image".into(), "runtime".into()];
    app.on(Input::Sandboxes(vec![
        broken,
        sandbox("shop", State::Running),
        sandbox("notes", State::Stopped),
        sandbox("tools", State::Starting),
    ]));
    app.on(Input::Watching);
    for (age, name, kind) in [
        (300, "shop", dns("api.stripe.com", true)),
        (299, "shop", request(true, "GET", "/v1/charges")),
        (290, "web", request(true, "GET", "/of/another/sandbox")),
        (62, "shop", request(false, "POST", "/v1/charges")),
        (61, "shop", dns("evil.example", false)),
        (
            40,
            "shop",
            Kind::Config(ConfigChange {
                generation: 7,
                ok: true,
                lines: vec!["+ api.openai.com".into(), "~ api.stripe.com: methods GET, POST".into()],
            }),
        ),
        (
            20,
            "shop",
            Kind::Config(ConfigChange {
                generation: 7,
                ok: false,
                lines: vec!["agent-creds.toml:2:1: unknown key `x`\n    help: y".into()],
            }),
        ),
        (3, "", notice("warning", "Envoy was started again")),
    ] {
        app.on(Input::Event(event(age, name, kind)));
    }
    types(&mut app, "j");
    app
}

fn select(app: &mut App, name: &str) {
    press(app, KeyCode::Home);
    for _ in 0..10 {
        if app.selected().is_some_and(|sandbox| sandbox.name == name) {
            return;
        }
        press(app, KeyCode::Down);
    }
    panic!("no {name}");
}

fn drawn(app: &App, width: u16, height: u16) -> Buffer {
    testing::drawn(|frame| view::draw(app, frame), width, height)
}

fn text(app: &App, width: u16, height: u16) -> String {
    testing::lines(&drawn(app, width, height))
}

// ── Screens ───────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn screens_are_as_they_were() {
    let mut screens = String::new();
    let mut add = |title: &str, app: &App, width, height| {
        screens.push_str(&format!("═══ {title} ({width}x{height})\n{}", text(app, width, height)));
    };
    add("nothing known yet", &App::new(false), 80, 6);
    let mut lost = App::new(false);
    lost.on(Input::Disconnected("cannot list the sandboxes: the connection to the server was lost".into()));
    add("no server", &lost, 80, 8);
    add("no sandboxes", &idle(), 80, 14);
    let mut bare = idle();
    bare.on(Input::Status(GetStatusResponse {
        sandboxes_unavailable: "there is no Docker at unix:///var/run/docker.sock".into(),
        problems: vec!["/etc/vault.toml:1:1: broken".into()],
        ..GetStatusResponse::default()
    }));
    add("no Docker, no Envoy", &bare, 80, 14);

    let mut app = busy();
    add("a sandbox that runs", &app, 80, 24);
    add("narrow", &app, 56, 16);
    add("tiny", &app, 28, 9);
    select(&mut app, "web");
    add("a sandbox that is not whole", &app, 80, 24);
    select(&mut app, "notes");
    add("a sandbox that is stopped", &app, 80, 16);
    select(&mut app, "shop");
    types(&mut app, "x");
    add("a question", &app, 80, 12);
    types(&mut app, "n?");
    add("help", &app, 80, 24);
    types(&mut app, "?/we");
    add("a filter", &app, 80, 12);
    press(&mut app, KeyCode::Esc);
    types(&mut app, "/nowhere");
    press(&mut app, KeyCode::Enter);
    add("a filter without a match", &app, 80, 16);
    press(&mut app, KeyCode::Esc);
    select(&mut app, "shop");
    types(&mut app, "l");
    add("a log", &app, 80, 16);
    types(&mut app, "kkk");
    add("a log, further up", &app, 80, 8);

    are_as_they_were(&screens, "src/cli/adev/tui/golden.txt");
}

#[test]
fn colours_are_used_only_where_they_are_wanted() {
    let mut app = busy();
    let coloured =
        |buffer: &Buffer| buffer.content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
    assert!(!coloured(&drawn(&app, 80, 24)));
    app.colours = true;
    assert!(coloured(&drawn(&app, 80, 24)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn whatever_comes_drives_no_terminal(
        texts in prop::collection::vec(hostile(), 16),
        (width, height) in (0_u16..100, 0_u16..30),
        states in prop::collection::vec(-1..6_i32, 3),
        times in prop::collection::vec(any::<i64>(), 4),
        keys in "[jkgGslx/?nqf]{0,6}",
    ) {
        let mut app = App::new(true);
        app.on(Input::Tick(times[0]));
        app.on(Input::Status(GetStatusResponse { problems: vec![texts[0].clone()], sandboxes_unavailable: texts[1].clone(), ..GetStatusResponse::default() }));
        let make = |at: usize| Sandbox {
            name: texts[at].clone(), state: states[at], detail: texts[2].clone(), config_path: texts[3].clone(), workspace: texts[4].clone(),
            runtime: texts[5].clone(), started: times[1], upstreams: texts[6..9].to_vec(), problems: texts[9..11].to_vec(),
            restart_needed: texts[11..12].to_vec(), requests: u64::MAX, refused: u64::MAX, ..Sandbox::default()
        };
        app.on(Input::Sandboxes(vec![make(0), make(1), make(2)]));
        let request = Request { host: texts[12].clone(), method: texts[13].clone(), path: texts[14].clone(), reason: texts[15].clone(), ..Request::default() };
        for kind in [Kind::Request(request), dns(&texts[3], false), notice(&texts[4], &texts[5]), Kind::Config(ConfigChange { lines: texts.clone(), ..ConfigChange::default() })] {
            app.on(Input::Event(Event { time_ms: times[2], sandbox: texts[0].clone(), kind: Some(kind) }));
        }
        app.on(Input::Stopped { name: texts[1].clone(), result: Err(texts[2].clone()) });
        for key in std::iter::once(None).chain(keys.chars().map(Some)) {
            if let Some(key) = key {
                press(&mut app, KeyCode::Char(key));
            }
            for cell in drawn(&app, width, height).content() {
                prop_assert!(!cell.symbol().chars().any(|c| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c)), "{:?}", cell.symbol());
            }
        }
        app.on(Input::Disconnected(texts[6].clone()));
        drawn(&app, width, height);
    }
}

// ── Keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn keys_choose_a_sandbox_and_what_to_do_with_it() {
    let mut app = busy();
    let name = |app: &App| app.selected().unwrap().name.clone();
    let mut names = vec![name(&app)];
    for code in [KeyCode::Up, KeyCode::Up, KeyCode::End, KeyCode::Char('j'), KeyCode::Char('k'), KeyCode::Char('g')] {
        press(&mut app, code);
        names.push(name(&app));
    }
    assert_eq!(names, ["shop", "notes", "notes", "web", "web", "tools", "notes"]);

    // Stopped.
    let notes = "notes".to_owned();
    assert_eq!(press(&mut app, KeyCode::Enter), Some(Action::Leave(Outcome::Attach(notes.clone()))));
    assert_eq!(types(&mut app, "s"), Some(Action::Leave(Outcome::Start(notes))));
    assert_eq!(types(&mut app, "xy"), None);
    // Running.
    select(&mut app, "shop");
    assert_eq!(types(&mut app, "s"), None);
    assert!(text(&app, 80, 24).contains("shop runs already"));
    assert_eq!(press(&mut app, KeyCode::Enter), Some(Action::Leave(Outcome::Attach("shop".into()))));
    // Partial: starting it repairs it.
    select(&mut app, "web");
    assert!(matches!(types(&mut app, "s"), Some(Action::Leave(Outcome::Start(_)))));
    select(&mut app, "tools");
    assert_eq!(types(&mut app, "s"), None, "it is starting");

    assert_eq!(types(&mut app, "q"), Some(Action::Leave(Outcome::Quit)));
    assert_eq!(app.on(Input::End), Some(Action::Leave(Outcome::Quit)));
    let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    types(&mut app, "/abc");
    assert_eq!(app.on(Input::Key(ctrl_c)), Some(Action::Leave(Outcome::Quit)), "also while typing");
    let released = KeyEvent { kind: KeyEventKind::Release, ..ctrl_c };
    assert_eq!(app.on(Input::Key(released)), None);
    // Without anything to act upon.
    for code in [KeyCode::Enter, KeyCode::Char('s'), KeyCode::Char('x'), KeyCode::Up, KeyCode::End] {
        assert_eq!(press(&mut idle(), code), None);
    }
}

#[test]
fn stopping_asks_first_and_tells_what_came_of_it() {
    let mut app = busy();
    assert_eq!(types(&mut app, "x"), None);
    // The list changes under the question: it is about what was asked.
    app.on(Input::Sandboxes(vec![sandbox("another", State::Running), sandbox("shop", State::Running)]));
    assert_eq!(types(&mut app, "y"), Some(Action::Stop("shop".into())));
    assert!(text(&app, 80, 24).contains("stopping shop …"));
    for key in ["n", "q", "x", "s"] {
        assert_eq!(types(&mut app, &format!("x{key}")), None, "{key} is not yes");
    }
    let mut told = |result| {
        app.on(Input::Stopped { name: "shop".into(), result });
        text(&app, 80, 24).lines().last().unwrap().to_owned()
    };
    let answer = |stopped: &[&str], problems: &[&str]| StopResponse {
        stopped: stopped.iter().map(|&text| text.to_owned()).collect(),
        problems: problems.iter().map(|&text| text.to_owned()).collect(),
    };
    assert_eq!(told(Ok(answer(&["shop"], &[]))), "stopped shop");
    assert_eq!(told(Ok(answer(&[], &[]))), "shop was gone already");
    assert_eq!(told(Ok(answer(&["shop"], &["its network is in use"]))), "its network is in use");
    assert_eq!(told(Err("cannot stop: x".into())), "shop was not stopped: cannot stop: x");

    app.on(Input::Disconnected("gone".into()));
    assert_eq!(types(&mut app, "xy"), None, "nobody is there to ask");
}

#[test]
fn the_selection_stays_with_its_sandbox() {
    let mut app = busy();
    app.on(Input::Sandboxes(["a", "b", "shop", "z"].map(|name| sandbox(name, State::Running)).to_vec()));
    assert_eq!(app.selected().unwrap().name, "shop");
    app.on(Input::Sandboxes(["a", "b", "z"].map(|name| sandbox(name, State::Running)).to_vec()));
    assert_eq!(app.selected().unwrap().name, "z", "the one in its place");
    app.on(Input::Sandboxes(vec![sandbox("a", State::Running)]));
    assert_eq!(app.selected().unwrap().name, "a");
    app.on(Input::Sandboxes(Vec::new()));
    assert!(app.selected().is_none());
    app.on(Input::Sandboxes(vec![sandbox("new", State::Running)]));
    assert_eq!(app.selected().unwrap().name, "new");
}

#[test]
fn a_filter_narrows_and_ends() {
    let mut app = busy();
    types(&mut app, "/STRIPE");
    assert_eq!(app.shown().len(), 4, "by what they reach, in any case");
    press(&mut app, KeyCode::Esc);
    types(&mut app, "/oo");
    assert_eq!(app.shown().iter().map(|sandbox| sandbox.name.as_str()).collect::<Vec<_>>(), ["tools"]);
    assert_eq!(app.selected().unwrap().name, "tools");
    press(&mut app, KeyCode::Enter);
    assert_eq!(types(&mut app, "x"), None);
    assert!(text(&app, 80, 24).contains("stop tools,"));
    types(&mut app, "n");
    press(&mut app, KeyCode::Esc);
    assert_eq!(app.shown().len(), 4);
    types(&mut app, "/a");
    for _ in 0..2 {
        press(&mut app, KeyCode::Backspace);
    }
    assert_eq!(types(&mut app, "q"), Some(Action::Leave(Outcome::Quit)), "an empty filter is left by Backspace");
    types(&mut app, &format!("/{}", "x".repeat(500)));
    assert_eq!(app.filter_here().len(), 60);
}

#[test]
fn the_log_follows_or_stays_where_it_is_read() {
    let mut app = idle();
    app.on(Input::Sandboxes(vec![sandbox("shop", State::Running)]));
    let path = |n: i32| request(true, "GET", &format!("/{n:05}"));
    let shows = |app: &App, n: i32| text(app, 80, 12).contains(&format!("/{n:05}"));
    for n in 0..3000 {
        app.on(Input::Event(event(5, "shop", path(n))));
    }
    types(&mut app, "l");
    assert!(shows(&app, 2999) && shows(&app, 2991) && !shows(&app, 2990));
    app.on(Input::Event(event(5, "shop", path(3000))));
    assert!(shows(&app, 3000));
    press(&mut app, KeyCode::PageUp);
    assert!(shows(&app, 2990) && !shows(&app, 2991));
    app.on(Input::Event(event(5, "shop", path(3001))));
    app.on(Input::Event(event(5, "other", path(3002))));
    assert!(shows(&app, 2990) && !shows(&app, 2991), "new ones do not move it");
    press(&mut app, KeyCode::Home);
    assert!(shows(&app, 1003) && !shows(&app, 1002), "the oldest are gone");
    for n in 3003..3100 {
        app.on(Input::Event(event(5, "shop", path(n))));
    }
    assert_eq!(text(&app, 80, 12).matches("GET api.stripe.com").count(), 9, "never less than a page");
    types(&mut app, "f");
    assert!(shows(&app, 3099));
    types(&mut app, "/030");
    assert!(shows(&app, 3099) && shows(&app, 3091));
    app.on(Input::Event(event(5, "shop", dns("evil.example", false))));
    assert!(!text(&app, 80, 12).contains("evil.example"), "the filter holds");
    press(&mut app, KeyCode::Enter);
    types(&mut app, "l");
    assert!(text(&app, 80, 12).contains("evil.example"), "back, without the filter");
}

#[test]
fn events_begin_anew_with_a_new_connection() {
    let mut app = busy();
    assert!(text(&app, 80, 24).contains("evil.example"));
    app.on(Input::Watching);
    assert!(text(&app, 80, 24).contains("nothing has happened yet"));
    app.tell("cannot start shop: no such image");
    assert!(text(&app, 80, 24).contains("no such image"));
    types(&mut app, "j");
    assert!(!text(&app, 80, 24).contains("no such image"), "until the next key");
    app.tell(&format!("cannot start shop: {}; the end", "a long story ".repeat(20)));
    assert!(text(&app, 80, 24).contains("the end"), "{}", text(&app, 80, 24));

    let mut app = busy();
    types(&mut app, "l");
    press(&mut app, KeyCode::Home);
    app.on(Input::Watching);
    app.on(Input::Event(event(1, "", notice("warning", "the newest"))));
    assert!(text(&app, 80, 24).contains("following"), "{}", text(&app, 80, 24));
}
