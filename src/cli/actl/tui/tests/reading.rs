//! What is read to its end, and what keys mean while something comes.

use super::*;

fn screen(app: &App) -> String {
    text(app, 80, 12)
}

#[test]
fn an_edit_that_comes_while_something_else_is_asked_is_not_written_by_that_answer() {
    let dir = tempfile::tempdir().unwrap();
    for keys in ["jx", "/", "?"] {
        let mut app = busy();
        types(&mut app, keys);
        app.on(Input::Proposed(Ok(proposal(&dir))));
        assert!(!matches!(app.mode, Mode::Proposal { .. }), "{keys}");
        let action = types(&mut app, "y");
        assert!(!matches!(action, Some(Action::Write(_))), "{keys}: {action:?}");
    }
    let mut app = busy();
    press(&mut app, KeyCode::Enter);
    app.on(Input::Proposed(Ok(proposal(&dir))));
    assert!(matches!(app.mode, Mode::Proposal { .. }), "where it was asked for it is shown");
}

#[test]
fn all_of_an_edit_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent-creds.toml");
    // All on one line.
    let others: String = (0..60).map(|n| format!("\"h{n}.example\" = {{}}, ")).collect();
    let upstreams = format!("upstream = {{ {others}\"api.stripe.com\" = {{ methods = [\"GET\"] }} }}");
    let text = format!("{upstreams}\n[gateway]\nlisten = \"127.0.0.1:1\"\n");
    std::fs::write(&path, text).unwrap();
    let refused = Refused { host: "api.stripe.com".into(), request: Some(("POST".into(), "/v1".into())) };
    let wanted = Wanted { sandbox: "ci".into(), refused };
    let mut app = busy();
    app.on(Input::Proposed(propose(&gateway(path.to_str().unwrap()), &wanted)));
    let mut read = screen(&app);
    for _ in 0..60 {
        press(&mut app, KeyCode::Down);
        read += &screen(&app);
    }
    assert!(read.replace('\n', "").contains("\"GET\", \"POST\"]"), "{read}");
}

#[test]
fn scrolling_ends_where_the_text_does() {
    let mut app = busy();
    types(&mut app, "2rg");
    press(&mut app, KeyCode::Enter);
    let top = text(&app, 80, 9);
    for _ in 0..40 {
        press(&mut app, KeyCode::PageDown);
        text(&app, 80, 9);
    }
    let bottom = text(&app, 80, 9);
    assert_ne!(bottom, top);
    press(&mut app, KeyCode::Up);
    assert_ne!(text(&app, 80, 9), bottom, "one key goes up by one line");
    press(&mut app, KeyCode::Home);
    assert_eq!(text(&app, 80, 9), top);
    press(&mut app, KeyCode::End);
    assert_eq!(text(&app, 80, 9), bottom);
}

#[test]
fn a_message_is_read_to_its_end() {
    let mut app = busy();
    let why = format!("cannot write {}agent-creds.toml: there is no room; as it was", "/a-long-folder".repeat(9));
    app.on(Input::Written(Err(why)));
    for (width, height) in [(80, 24), (60, 12)] {
        assert!(text(&app, width, height).contains("as it was"), "{}", text(&app, width, height));
    }
    assert!(text(&app, 80, 3).contains("cannot write"), "{}", text(&app, 80, 3));
    app.on(Input::Proposed(Err("the file is broken, mend it first: a.toml:1:1: no\n    help: yes".into())));
    assert!(screen(&app).contains("a.toml:1:1: no\n    help: yes"), "{}", screen(&app));
}

#[test]
fn those_to_come_are_followed_from_an_empty_list_too() {
    let mut app = busy();
    types(&mut app, "2k");
    assert!(app.paused().is_some());
    types(&mut app, "/nothing has this");
    press(&mut app, KeyCode::Enter);
    types(&mut app, "f");
    assert_eq!(app.paused(), None);
    app.on(Input::Events(vec![event(1, "shop", allowed("/nothing has this"))]));
    assert!(screen(&app).contains("GET api.stripe.com/nothing has this"), "{}", screen(&app));
}

#[test]
fn an_entry_that_goes_while_it_is_read_leaves_one_where_it_was() {
    let mut app = busy();
    types(&mut app, "2");
    app.on(Input::Watching);
    for n in 0..9 {
        app.on(Input::Events(vec![event(1, "shop", refused(&format!("/{n}"), true))]));
    }
    // The last one, without having gone there.
    press(&mut app, KeyCode::Enter);
    app.on(Input::Watching);
    assert!(screen(&app).contains("it is gone"), "{}", screen(&app));
    press(&mut app, KeyCode::Esc);
    assert!(app.items().is_empty());

    types(&mut app, "3jj");
    press(&mut app, KeyCode::Enter);
    app.on(Input::Tokens(Ok(vec![token(1, None, None), token(2, None, None), token(4, None, None)])));
    assert!(screen(&app).contains("it is gone"), "{}", screen(&app));
    press(&mut app, KeyCode::Esc);
    assert_eq!(types(&mut app, "xy"), Some(Action::Revoke(id(4))));
}
