use proptest::prelude::*;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::style::Color;

use super::app::{Action, App, Input, Mode, View};
use super::propose::{Wanted, propose};
use super::view;
use crate::cli::tui::testing::{self, are_as_they_were, hostile};
use crate::config::Refused;
use crate::control::v1::event::Kind;
use crate::control::v1::{
    ConfigChange, CredentialTrouble, DnsQuery, Event, GetStatusResponse, ListNodesResponse, ListProjectsResponse, Node,
    NodeRejection, NodeState, NodeStream, NodeType, Notice, Project, RejectedUpdate, Request, Sandbox, State,
    StopResponse,
};
use crate::domain::macaroon::TokenId;
use crate::state::{Issued, IssuedToken};

mod reading;

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
        refused: 3,
        ..Sandbox::default()
    }
}

fn event(age: i64, sandbox: &str, kind: Kind) -> Event {
    Event { time_ms: (NOW - age) * 1000, sandbox: sandbox.into(), kind: Some(kind) }
}

fn allowed(path: &str) -> Kind {
    Kind::Request(Request {
        host: "api.stripe.com".into(),
        method: "GET".into(),
        path: path.into(),
        allowed: true,
        credential: true,
        token: "0123456789abcdef".into(),
        latency_us: 7,
        ..Request::default()
    })
}

fn refused(path: &str, editable: bool) -> Kind {
    Kind::Request(Request {
        host: "api.stripe.com".into(),
        method: "POST".into(),
        path: path.into(),
        reason: "Unauthorized: method not allowed: POST is not among the methods of api.stripe.com".into(),
        help: if editable {
            "in agent-creds.toml, on the host, set under [upstream.\"api.stripe.com\"]".into()
        } else {
            "on the host, this makes a token that allows it".into()
        },
        offer: if editable {
            "[upstream.\"api.stripe.com\"]\nmethods = [\"GET\", \"POST\"]\n".into()
        } else {
            "mint --hosts api.stripe.com\n".into()
        },
        editable,
        exact_path: if editable { path.into() } else { String::new() },
        ..Request::default()
    })
}

fn dns(name: &str, allowed: bool) -> Kind {
    Kind::Dns(DnsQuery { name: name.into(), r#type: "A".into(), allowed })
}

fn id(byte: u8) -> TokenId {
    format!("{byte:02x}").repeat(16).parse().unwrap()
}

fn token(byte: u8, expires: Option<i64>, revoked: Option<i64>) -> Issued {
    let token = IssuedToken {
        id: id(byte),
        issued: NOW - 7200,
        issuer: "me, with mint".into(),
        key: "k1".into(),
        sandbox: byte.is_multiple_of(2).then(|| "shop".to_owned()),
        expires,
        caveats: vec!["hosts: api.stripe.com".into(), "methods: GET".into()],
    };
    Issued { token, revoked: revoked.map(|at| (at, "me, with actl".to_owned())) }
}

fn node(id: &str, state: NodeState) -> Node {
    let rejection = (state == NodeState::Rejecting).then(|| NodeRejection {
        message: "Error adding/updating listener(s) gateway/ci: cannot bind".into(),
        lines: vec!["agent-creds.toml:3".into()],
        ..NodeRejection::default()
    });
    let of = NodeType { r#type: "listener".into(), sent: 4, acked: 3, nacked: 1, rejection, ..NodeType::default() };
    let behind = u64::from(state != NodeState::InStep);
    Node {
        id: id.into(),
        gateway: "ci".into(),
        user_agent: "envoy 1.40.0".into(),
        state: state.into(),
        connected_since_ms: (NOW - 600) * 1000,
        generation: 7 - behind,
        generations_behind: behind,
        behind_ms: if behind > 0 { 14_000 } else { 0 },
        streams: vec![NodeStream { types: vec![of], ..NodeStream::default() }],
        ..Node::default()
    }
}

fn status() -> GetStatusResponse {
    GetStatusResponse {
        version: "0.1.0".into(),
        pid: 7,
        generation: 7,
        envoy_connected: true,
        envoy_converged: true,
        keeps_envoy: true,
        ready: true,
        http: "127.0.0.1:9902".into(),
        ..GetStatusResponse::default()
    }
}

fn gateway(path: &str) -> Project {
    Project {
        name: "ci".into(),
        gateway: true,
        config_path: path.into(),
        listen: "127.0.0.1:15443".into(),
        upstreams: vec!["api.stripe.com".into()],
        upstream_count: 1,
        unconfirmed: false,
    }
}

/// A server that is well, with nothing on it.
fn idle() -> App {
    let mut app = App::new(false);
    app.on(Input::Tick(NOW * 1000));
    app.on(Input::Status(status()));
    app
}

fn busy() -> App {
    let mut app = idle();
    app.on(Input::Sandboxes(vec![
        sandbox("shop", State::Running),
        sandbox("notes", State::Stopped),
        Sandbox { detail: "paused: rules lost".into(), ..sandbox("web", State::Partial) },
    ]));
    app.on(Input::Projects(ListProjectsResponse { generation: 7, projects: vec![gateway("/srv/agent-creds.toml")] }));
    app.on(Input::Tokens(Ok(vec![
        token(1, None, None),
        token(2, Some(NOW + 3600), None),
        token(3, Some(NOW - 60), None),
        token(4, None, Some(NOW - 5)),
    ])));
    let states = [NodeState::InStep, NodeState::Behind, NodeState::Rejecting];
    let nodes = states.iter().zip(["edge-1", "edge-2", "edge-3"]).map(|(state, id)| node(id, *state)).collect();
    app.on(Input::Nodes(Ok(ListNodesResponse { nodes, ..ListNodesResponse::default() })));
    app.on(Input::Watching);
    app.on(Input::Events(vec![
        event(300, "shop", dns("api.stripe.com", true)),
        event(299, "shop", allowed("/v1/charges")),
        event(62, "shop", refused("/v1/charges", true)),
        event(61, "shop", dns("evil.example", false)),
        event(
            40,
            "shop",
            Kind::Config(ConfigChange { generation: 7, ok: true, lines: vec!["+ api.openai.com".into()] }),
        ),
        event(20, "ci", refused("/v1/refunds", false)),
        event(3, "", Kind::Notice(Notice { level: "warning".into(), text: "Envoy was started again".into() })),
    ]));
    app
}

fn drawn(app: &App, width: u16, height: u16) -> Buffer {
    testing::drawn(|frame| view::draw(app, frame), width, height)
}

fn text(app: &App, width: u16, height: u16) -> String {
    testing::lines(&drawn(app, width, height))
}

fn foot(app: &App) -> String {
    text(app, 160, 24).lines().last().unwrap().to_owned()
}

/// The proposal of an edit of a file that is there as long as the folder is.
fn proposal(dir: &tempfile::TempDir) -> super::propose::Proposal {
    let path = dir.path().join("agent-creds.toml");
    let more = "# Mine.\n[gateway]\nlisten = \"127.0.0.1:1\"\n\n[upstream.\"api.stripe.com\"]\nmethods = [\"GET\"] # for now\n";
    std::fs::write(&path, more).unwrap();
    let request = Some(("POST".to_owned(), "/v1/charges".to_owned()));
    let refused = Refused { host: "api.stripe.com".into(), request };
    propose(&gateway(path.to_str().unwrap()), &Wanted { sandbox: "ci".into(), refused }).unwrap()
}

// ── Screens ───────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn screens_are_as_they_were() {
    let mut screens = String::new();
    let mut add = |title: &str, app: &App, width, height| {
        screens.push_str(&format!("═══ {title} ({width}x{height})\n{}", text(app, width, height)));
    };
    add("nothing known yet", &App::new(false), 80, 8);
    let mut lost = App::new(false);
    lost.on(Input::Disconnected("no agent-creds server answers at /run/control.sock: start one".into()));
    add("no server", &lost, 80, 8);
    add("nothing served", &idle(), 80, 8);

    let mut app = busy();
    add("sandboxes", &app, 100, 12);
    press(&mut app, KeyCode::Enter);
    add("a sandbox", &app, 80, 20);
    press(&mut app, KeyCode::Esc);
    types(&mut app, "jx");
    add("a question", &app, 80, 8);
    types(&mut app, "n2");
    add("requests", &app, 80, 14);
    add("requests, narrow", &app, 40, 8);
    add("requests, tiny", &app, 20, 5);
    types(&mut app, "r");
    add("refused requests", &app, 80, 10);
    types(&mut app, "g");
    press(&mut app, KeyCode::Enter);
    add("a refusal", &app, 80, 18);
    add("a refusal, tiny", &app, 20, 5);
    press(&mut app, KeyCode::Esc);
    types(&mut app, "j");
    press(&mut app, KeyCode::Enter);
    add("a name that was not found", &app, 80, 12);
    press(&mut app, KeyCode::Esc);
    types(&mut app, "3");
    add("tokens", &app, 110, 10);
    types(&mut app, "jx");
    add("a token to revoke", &app, 80, 8);
    types(&mut app, "n4");
    add("Envoys", &app, 110, 10);
    types(&mut app, "G");
    press(&mut app, KeyCode::Enter);
    add("an Envoy", &app, 80, 14);
    press(&mut app, KeyCode::Esc);
    types(&mut app, "5");
    add("the configuration", &app, 100, 10);
    let mut broken = status();
    broken.problems =
        vec!["/srv/agent-creds.toml:3:1: unknown key `methdos`\n    help: did you mean `methods`?".into()];
    broken.rejected = vec![RejectedUpdate {
        node: "edge-3".into(),
        r#type: "listener".into(),
        message: "cannot bind".into(),
        lines: vec!["/srv/agent-creds.toml:3".into()],
    }];
    broken.credentials = vec![CredentialTrouble {
        host: "api.stripe.com".into(),
        state: "failed".into(),
        message: "STRIPE_API_KEY is not set".into(),
    }];
    app.on(Input::Status(broken));
    add("a configuration with problems", &app, 100, 12);
    press(&mut app, KeyCode::Enter);
    add("a problem", &app, 80, 8);
    press(&mut app, KeyCode::Esc);
    types(&mut app, "?");
    add("help", &app, 80, 14);
    types(&mut app, "?/ste");
    add("a filter", &app, 80, 8);
    types(&mut app, "xyz");
    add("a filter without a match", &app, 80, 8);

    are_as_they_were(&screens, "src/cli/actl/tui/golden.txt");
}

#[test]
fn an_edit_is_shown_as_what_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let mut app = busy();
    app.on(Input::Proposed(Ok(proposal(&dir))));
    let screen = text(&app, 100, 16);
    for expected in [
        "allow POST api.stripe.com/v1/charges\n",
        &format!("in {}", dir.path().display()),
        "\n  [upstream.\"api.stripe.com\"]\n",
        "\n- methods = [\"GET\"] # for now\n",
        "\n+ methods = [\"GET\", \"POST\"] # for now\n",
        "y/n: write this?",
    ] {
        assert!(screen.contains(expected), "{expected:?} is not in\n{screen}");
    }
    let tiny = text(&app, 20, 5);
    assert!(tiny.contains("allow POST") && tiny.contains("y/n"), "{tiny}");
    types(&mut app, "jjjjjj");
    assert_ne!(text(&app, 20, 5), tiny, "it can be read to its end");
    types(&mut app, "n");
    assert!(foot(&app).contains("nothing was written"));
    assert_eq!(app.mode, Mode::Keys);
}

#[test]
fn colours_are_used_only_where_they_are_wanted() {
    let mut app = busy();
    let coloured =
        |buffer: &Buffer| buffer.content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
    for view in "12345".chars() {
        types(&mut app, &view.to_string());
        app.palette.colours = false;
        assert!(!coloured(&drawn(&app, 80, 24)), "{view}");
        app.palette.colours = true;
        assert!(coloured(&drawn(&app, 80, 24)), "{view}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn whatever_comes_drives_no_terminal(
        texts in prop::collection::vec(hostile(), 16),
        (width, height) in (0_u16..100, 0_u16..30),
        states in prop::collection::vec(-1..6_i32, 3),
        times in prop::collection::vec(any::<i64>(), 4),
        keys in "[jkgGfarxyn/?1-5hl\n\t ]{0,9}",
    ) {
        let mut app = App::new(true);
        app.on(Input::Tick(times[0]));
        let trouble = CredentialTrouble { host: texts[1].clone(), state: texts[2].clone(), message: texts[3].clone() };
        let rejected = RejectedUpdate { node: texts[4].clone(), message: texts[5].clone(), lines: texts[6..8].to_vec(), ..RejectedUpdate::default() };
        app.on(Input::Status(GetStatusResponse { problems: vec![texts[0].clone()], credentials: vec![trouble], rejected: vec![rejected], version: texts[9].clone(), ..GetStatusResponse::default() }));
        let make = |at: usize| Sandbox {
            name: texts[at].clone(), state: states[at], detail: texts[2].clone(), config_path: texts[3].clone(), runtime: texts[5].clone(),
            started: times[1], upstreams: texts[6..9].to_vec(), problems: texts[9..11].to_vec(), requests: u64::MAX, ..Sandbox::default()
        };
        app.on(Input::Sandboxes(vec![make(0), make(1), make(2)]));
        app.on(Input::Projects(ListProjectsResponse { generation: 1, projects: vec![Project { name: texts[7].clone(), gateway: true, config_path: texts[8].clone(), upstreams: texts[9..11].to_vec(), ..Project::default() }] }));
        let mut issued = token(1, Some(times[1]), Some(times[2]));
        issued.token.caveats.clone_from(&texts);
        issued.token.issuer.clone_from(&texts[3]);
        app.on(Input::Tokens(Ok(vec![issued])));
        let mut edge = node(&texts[0], NodeState::Rejecting);
        (edge.gateway, edge.user_agent, edge.behind_ms, edge.connected_since_ms) = (texts[1].clone(), texts[2].clone(), times[1], times[2]);
        edge.streams[0].types[0].rejection.as_mut().unwrap().message.clone_from(&texts[3]);
        app.on(Input::Nodes(Ok(ListNodesResponse { nodes: vec![edge], ..ListNodesResponse::default() })));
        let request = Request { host: texts[12].clone(), method: texts[13].clone(), path: texts[14].clone(), reason: texts[15].clone(), help: texts[0].clone(), offer: texts[1].clone(), editable: true, exact_path: texts[2].clone(), ..Request::default() };
        let kinds = [Kind::Request(request), dns(&texts[3], false), Kind::Notice(Notice { level: texts[4].clone(), text: texts[5].clone() }), Kind::Config(ConfigChange { lines: texts.clone(), ..ConfigChange::default() })];
        app.on(Input::Events(kinds.into_iter().map(|kind| Event { time_ms: times[2], sandbox: texts[0].clone(), kind: Some(kind) }).collect()));
        app.on(Input::Stopped { name: texts[1].clone(), result: Err(texts[2].clone()) });
        for key in std::iter::once(None).chain(keys.chars().map(Some)) {
            match key {
                None => {}
                Some('\n') => drop(press(&mut app, KeyCode::Enter)),
                Some('\t') => drop(press(&mut app, KeyCode::Tab)),
                Some(' ') => drop(press(&mut app, KeyCode::Esc)),
                Some(key) => drop(press(&mut app, KeyCode::Char(key))),
            }
            for cell in drawn(&app, width, height).content() {
                prop_assert!(!cell.symbol().chars().any(|c| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c)), "{:?}", cell.symbol());
            }
        }
        app.on(Input::Proposed(Err(texts[3].clone())));
        app.on(Input::Disconnected(texts[6].clone()));
        drawn(&app, width, height);
    }
}

// ── Keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn keys_turn_the_views() {
    let mut app = busy();
    let mut views = vec![app.view];
    let keys = [
        KeyCode::Tab,
        KeyCode::Right,
        KeyCode::Char('l'),
        KeyCode::Tab,
        KeyCode::Tab,
        KeyCode::BackTab,
        KeyCode::Char('3'),
    ];
    for key in keys {
        assert_eq!(press(&mut app, key), None);
        views.push(app.view);
    }
    use View::*;
    assert_eq!(views, [Sandboxes, Requests, Tokens, Nodes, Config, Sandboxes, Config, Tokens]);
    assert_eq!(types(&mut app, "q"), Some(Action::Leave));
    assert_eq!(app.on(Input::End), Some(Action::Leave));
    let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    types(&mut app, "/abc");
    assert_eq!(app.on(Input::Key(ctrl_c)), Some(Action::Leave), "also while typing");
    assert_eq!(app.on(Input::Key(KeyEvent { kind: KeyEventKind::Release, ..ctrl_c })), None);
    for view in "12345".chars() {
        for code in [KeyCode::Enter, KeyCode::Char('x'), KeyCode::Char('a'), KeyCode::Up, KeyCode::End, KeyCode::Esc] {
            let mut app = idle();
            types(&mut app, &view.to_string());
            assert_eq!(press(&mut app, code), None, "without anything to act upon");
        }
    }
}

#[test]
fn stopping_asks_first_and_tells_what_came_of_it() {
    let mut app = busy();
    assert_eq!(types(&mut app, "jx"), None);
    // The list changes under the question: it is about what was asked.
    app.on(Input::Sandboxes(vec![sandbox("another", State::Running)]));
    assert_eq!(types(&mut app, "y"), Some(Action::Stop("shop".into())));
    app.on(Input::Sandboxes(vec![sandbox("shop", State::Running), sandbox("notes", State::Stopped)]));
    assert_eq!(types(&mut app, "xn"), None);
    assert!(foot(&app).contains("shop goes on"));
    let answer = StopResponse { stopped: vec!["shop".into()], problems: Vec::new() };
    app.on(Input::Stopped { name: "shop".into(), result: Ok(answer) });
    assert_eq!(foot(&app), "stopped shop");
    app.on(Input::Stopped { name: "shop".into(), result: Err("no".into()) });
    assert_eq!(foot(&app), "shop was not stopped: no");
    for (keys, why) in [("gxy", "notes does not run"), ("Gxy", "ci is a gateway")] {
        app = busy();
        assert_eq!(types(&mut app, &keys[..2]), None);
        assert!(foot(&app).contains(why), "{}", foot(&app));
        assert_eq!(types(&mut app, "y"), None);
    }
    app = busy();
    app.on(Input::Disconnected("gone".into()));
    assert_eq!(types(&mut app, "jx"), None);
    assert!(foot(&app).contains("it does not answer"));
}

#[test]
fn revoking_asks_first_and_is_about_the_token_that_was_chosen() {
    let mut app = busy();
    types(&mut app, "3j");
    assert_eq!(types(&mut app, "x"), None);
    app.on(Input::Tokens(Ok(vec![token(9, None, None), token(2, Some(NOW + 3600), None)])));
    assert_eq!(types(&mut app, "y"), Some(Action::Revoke(id(2))));
    app.on(Input::Revoked { id: id(2), result: Ok(true) });
    assert!(foot(&app).starts_with("revoked 0202"), "{}", foot(&app));
    app.on(Input::Tokens(Ok(vec![token(9, None, None), token(2, Some(NOW + 3600), Some(NOW))])));
    assert_eq!(types(&mut app, "xy"), None);
    press(&mut app, KeyCode::Enter);
    assert!(text(&app, 100, 20).contains("revoked      2027"), "{}", text(&app, 100, 20));
    app.on(Input::Tokens(Err("it is open to others".into())));
    press(&mut app, KeyCode::Esc);
    assert!(text(&app, 100, 20).contains("the tokens cannot be told: it is open to others"));
}

#[test]
fn what_was_refused_can_be_allowed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut app = busy();
    types(&mut app, "2r");
    let wanted = |path: Option<&str>, host: &str| {
        let request = path.map(|path| ("POST".to_owned(), path.to_owned()));
        Some(Action::Propose(Wanted { sandbox: "shop".into(), refused: Refused { host: host.into(), request } }))
    };
    assert_eq!(types(&mut app, "ga"), wanted(Some("/v1/charges"), "api.stripe.com"));
    assert_eq!(types(&mut app, "ja"), wanted(None, "evil.example"));
    // From its details, too.
    press(&mut app, KeyCode::Enter);
    assert_eq!(types(&mut app, "a"), wanted(None, "evil.example"));
    press(&mut app, KeyCode::Esc);
    // The token refused this one.
    assert_eq!(types(&mut app, "fa"), None);
    assert!(foot(&app).contains("agent-creds.toml did not refuse this"), "{}", foot(&app));
    types(&mut app, "rgj");
    assert_eq!(types(&mut app, "a"), None, "it was allowed");
    // What is written is what was shown.
    let shown = proposal(&dir);
    app.on(Input::Proposed(Ok(shown.clone())));
    assert_eq!(types(&mut app, "x"), None);
    assert_eq!(types(&mut app, "y"), Some(Action::Write(Box::new(shown))));
    app.on(Input::Written(Err("it was changed meanwhile".into())));
    assert_eq!(foot(&app), "it was changed meanwhile");
    app.on(Input::Proposed(Err("there is no such file".into())));
    assert_eq!(foot(&app), "there is no such file");
    assert_eq!(app.mode, Mode::Keys);
}

#[test]
fn requests_are_followed_or_stay_where_they_are_read() {
    let mut app = idle();
    types(&mut app, "2");
    let add = |app: &mut App, n: i32| {
        app.on(Input::Events(vec![event(5, "shop", allowed(&format!("/{n:05}")))]));
    };
    let shows = |app: &App, n: i32| text(app, 80, 12).contains(&format!("/{n:05}"));
    app.on(Input::Events(vec![event(9, "shop", refused("/the-one", true))]));
    for n in 0..3000 {
        add(&mut app, n);
    }
    assert!(shows(&app, 2999) && shows(&app, 2993) && app.shows_events());
    press(&mut app, KeyCode::Up);
    assert!(!app.shows_events());
    for n in 3000..6000 {
        add(&mut app, n);
    }
    assert!(shows(&app, 2998) && text(&app, 80, 12).contains("paused, 3000 new"), "{}", text(&app, 80, 12));
    press(&mut app, KeyCode::Home);
    assert!(shows(&app, 1000));
    types(&mut app, "f");
    assert!(shows(&app, 5999));
    press(&mut app, KeyCode::Up);
    press(&mut app, KeyCode::Down);
    add(&mut app, 6000);
    assert!(shows(&app, 6000), "from the last on, they are followed");
    types(&mut app, "r");
    assert!(text(&app, 80, 12).contains("/the-one"), "refusals go more slowly");
    types(&mut app, "r/0600");
    assert!(shows(&app, 6000) && !shows(&app, 5999));
    press(&mut app, KeyCode::Enter);
    press(&mut app, KeyCode::Enter);
    app.on(Input::Watching);
    assert!(text(&app, 80, 12).contains("it is gone"), "{}", text(&app, 80, 12));
}
