//! Sessions with the virtual browser target: each asks for itself, and is told what it asked for.

use super::*;

impl World {
    fn attach_to_browser(&mut self, via: Option<&str>) -> String {
        let answer = self.call(via, "Target.attachToBrowserTarget", json!({}));
        answer["result"]["sessionId"].as_str().unwrap().to_owned()
    }

    fn auto_attach(&mut self, session: Option<&str>, on: bool) {
        let params = json!({"autoAttach": on, "waitForDebuggerOnStart": false, "flatten": true});
        assert_eq!(self.call(session, "Target.setAutoAttach", params)["result"], json!({}));
    }

    /// The envelopes' sessions of events of this method, and the sessions that they are about.
    fn told(&self, method: &str) -> Vec<(Option<String>, String)> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let told = self.events(method).into_iter();
        told.map(|event| (text(&event["sessionId"]), text(&event["params"]["sessionId"]).unwrap_or_default())).collect()
    }
}

#[test]
fn auto_attach_acts_on_the_session_it_was_sent_on() {
    let mut world = World::new();
    let browser = world.attach_to_browser(None);
    world.got.clear();
    world.auto_attach(Some(&browser), true);
    // The child is told of in that session, before the answer.
    assert_eq!(world.told("Target.attachedToTarget"), [(Some(browser.clone()), "APP-1".to_owned())]);
    assert_eq!(world.got[0]["params"]["targetInfo"]["targetId"], "APP");
    assert_eq!(world.got[1]["sessionId"], browser.as_str());
    // The connection's own is another one, with a session of its own for the same page.
    world.got.clear();
    world.auto_attach(None, true);
    assert_eq!(world.told("Target.attachedToTarget"), [(None, "APP-2".to_owned())]);
    // Asked again, nothing more.
    world.auto_attach(None, true);
    world.auto_attach(Some(&browser), true);
    assert_eq!(world.events("Target.attachedToTarget").len(), 1);
    // A page that comes is told of to both; one that is opened, before the answer.
    world.got.clear();
    let id = world.sends(Some(&browser), "Target.createTarget", json!({"url": "about:blank"}));
    let create = world.asked("Target.createTarget");
    world.appears(page("NEW", "about:blank", ""));
    world.answers(&create, json!({"targetId": "NEW"}));
    let told: Vec<_> = world.told("Target.attachedToTarget").into_iter().map(|(envelope, _)| envelope).collect();
    assert_eq!(told, [None, Some(browser.clone())]);
    assert_eq!(world.got.last().unwrap()["id"], id);
    // Switched off, it ends its own and no others.
    world.got.clear();
    world.auto_attach(Some(&browser), false);
    let told = world.told("Target.detachedFromTarget");
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|(envelope, _)| envelope.as_ref() == Some(&browser)), "{told:?}");
    let answer = world.sends(Some("APP-2"), "Page.enable", json!({}));
    let enable = world.asked("Page.enable");
    world.answers(&enable, json!({}));
    assert_eq!(world.answer(answer)["result"], json!({}));
    assert_eq!(world.call(Some("APP-1"), "Page.enable", json!({}))["error"]["code"], -32001);
    world.appears(page("MORE", APP, "More"));
    assert_eq!(world.told("Target.attachedToTarget"), [(None, "MORE-5".to_owned())]);
}

#[test]
fn a_page_that_goes_is_taken_from_all_who_have_it() {
    let mut world = World::new();
    let browser = world.attach_to_browser(None);
    world.auto_attach(Some(&browser), true);
    world.auto_attach(None, true);
    world.goes("APP", "https://mail.example/", SECRET, true);
    let told = world.told("Target.detachedFromTarget");
    assert_eq!(told, [(Some(browser), "APP-1".to_owned()), (None, "APP-2".to_owned())]);
}

#[test]
fn discovery_is_of_the_session_that_asked() {
    let mut world = World::new();
    let browser = world.attach_to_browser(None);
    world.call(Some(&browser), "Target.setDiscoverTargets", json!({"discover": true}));
    let envelopes = |world: &World, method: &str| -> Vec<Value> {
        world.events(method).into_iter().map(|event| event["sessionId"].clone()).collect()
    };
    assert_eq!(envelopes(&world, "Target.targetCreated"), [json!(browser)]);
    world.call(None, "Target.setDiscoverTargets", json!({"discover": true}));
    assert_eq!(envelopes(&world, "Target.targetCreated"), [json!(browser), Value::Null]);
    world.goes("APP", "http://localhost:3000/2", "Two", true);
    assert_eq!(envelopes(&world, "Target.targetInfoChanged"), [Value::Null, json!(browser)]);
    world.call(None, "Target.setDiscoverTargets", json!({"discover": false}));
    world.says(json!({"method": "Target.targetCrashed", "params": {"targetId": "APP", "status": "x", "errorCode": 1}}));
    assert_eq!(envelopes(&world, "Target.targetCrashed"), [json!(browser)]);
    world.says(json!({"method": "Target.targetDestroyed", "params": {"targetId": "APP"}}));
    assert_eq!(envelopes(&world, "Target.targetDestroyed"), [json!(browser)]);
}

#[test]
fn a_browser_session_that_ends_takes_what_it_asked_for_with_it() {
    let mut world = World::new();
    let browser = world.attach_to_browser(None);
    assert_eq!(world.told("Target.attachedToTarget"), [(None, browser.clone())]);
    let inner = world.attach_to_browser(Some(&browser));
    assert_eq!(world.told("Target.attachedToTarget")[1], (Some(browser.clone()), inner.clone()));
    for session in [&browser, &inner] {
        world.auto_attach(Some(session), true);
        world.call(Some(session), "Target.setDiscoverTargets", json!({"discover": true}));
    }
    world.got.clear();
    world.call(None, "Target.detachFromTarget", json!({"sessionId": browser}));
    assert_eq!(world.told("Target.detachedFromTarget").last().unwrap(), &(None, browser.clone()));
    for session in [&browser, &inner, "APP-1", "APP-2"] {
        assert_eq!(world.call(Some(session), "Target.getTargets", json!({}))["error"]["code"], -32001, "{session}");
    }
    world.got.clear();
    world.appears(page("MORE", APP, "More"));
    assert_eq!(world.got, Vec::<Value>::new());
    assert!(world.asked.is_empty(), "{:?}", world.asked);
}

/// Chrome answers an attachment when it is no longer wanted.
#[test]
fn an_attachment_that_comes_too_late_is_ended() {
    for detached in [true, false] {
        let mut world = World::new();
        world.holds_attachments = true;
        let browser = world.attach_to_browser(None);
        let on = json!({"autoAttach": true, "waitForDebuggerOnStart": false, "flatten": true});
        world.sends(Some(&browser), "Target.setAutoAttach", on);
        let attach = world.asked("Target.attachToTarget");
        if detached {
            world.call(None, "Target.detachFromTarget", json!({"sessionId": browser}));
        } else {
            world.auto_attach(Some(&browser), false);
        }
        world.got.clear();
        world.answers(&attach, json!({"sessionId": "LATE"}));
        assert!(world.events("Target.attachedToTarget").is_empty(), "{:?}", world.got);
        assert_eq!(world.ended, ["LATE"]);
        assert_eq!(world.call(Some("LATE"), "Page.enable", json!({}))["error"]["code"], -32001);
    }
}

#[test]
fn browser_sessions_are_bounded() {
    let mut world = World::new();
    for _ in 0..MAX_BROWSER_SESSIONS {
        world.attach_to_browser(None);
    }
    let why = world.refused(None, "Target.attachToBrowserTarget", json!({}));
    assert!(why.contains("sessions with the browser"), "{why}");
}
