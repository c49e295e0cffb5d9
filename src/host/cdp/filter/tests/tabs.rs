//! Clients that are attached to tabs, and by them to pages, as Puppeteer has it.

use super::*;

const ALL: &str = r#"[{}]"#;
const NO_PAGES: &str = r#"[{"type": "page", "exclude": true}, {}]"#;

fn attach(filter: &str) -> Value {
    let filter: Value = serde_json::from_str(filter).unwrap();
    json!({"autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true, "filter": filter})
}

impl World {
    /// The targets that events of this method are about, with the sessions that they came in.
    fn about(&self, method: &str) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let target = |params: &Value| text(params.get("targetId").unwrap_or(&params["targetInfo"]["targetId"]));
        self.events(method).into_iter().map(|event| (text(&event["sessionId"]), target(&event["params"]))).collect()
    }

    /// Connects as Puppeteer does; the session with the tab, and that with its page.
    fn puppeteer(&mut self) -> (String, String) {
        let all: Value = serde_json::from_str(ALL).unwrap();
        self.call(None, "Target.setDiscoverTargets", json!({"discover": true, "filter": all}));
        self.call(None, "Target.setAutoAttach", attach(NO_PAGES));
        let tab = self.events("Target.attachedToTarget")[0]["params"]["sessionId"].as_str().unwrap().to_owned();
        let set = self.call(Some(&tab), "Target.setAutoAttach", attach(ALL));
        assert_eq!(set["result"], json!({}));
        let run = self.call(Some(&tab), "Runtime.runIfWaitingForDebugger", json!({}));
        assert_eq!((&run["result"], &run["sessionId"]), (&json!({}), &json!(tab)));
        let page = self.events("Target.attachedToTarget")[1].clone();
        assert_eq!(page["sessionId"], tab.as_str());
        (tab, page["params"]["sessionId"].as_str().unwrap().to_owned())
    }
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(session, target)| ((*session).to_owned(), (*target).to_owned())).collect()
}

#[test]
fn a_puppeteer_connects() {
    let mut world = World::new();
    let (tab, page_session) = world.puppeteer();
    let tab_id = "agent-creds-tab-APP";
    let created = [("", "agent-creds-browser"), ("", "APP"), ("", tab_id)];
    assert_eq!(world.about("Target.targetCreated"), pairs(&created));
    let browser = &world.events("Target.targetCreated")[0]["params"]["targetInfo"];
    assert_eq!((&browser["type"], &browser["attached"]), (&json!("browser"), &json!(true)));
    assert_eq!(world.about("Target.attachedToTarget"), pairs(&[("", tab_id), (&tab, "APP")]));
    let info = world.call(Some(&tab), "Target.getTargetInfo", json!({}));
    assert_eq!(
        (&info["result"]["targetInfo"]["type"], &info["result"]["targetInfo"]["url"]),
        (&json!("tab"), &json!(APP))
    );
    // The page's session is like any other.
    let id = world.sends(Some(&page_session), "Page.enable", json!({}));
    let enable = world.asked("Page.enable");
    world.answers(&enable, json!({}));
    assert_eq!(world.answer(id)["result"], json!({}));

    // A new page: its tab is there before the answer, and its page when asked for.
    world.got.clear();
    let id = world.sends(None, "Target.createTarget", json!({"url": "about:blank"}));
    let create = world.asked("Target.createTarget");
    world.appears(page("NEW", "about:blank", ""));
    world.answers(&create, json!({"targetId": "NEW"}));
    assert_eq!(world.about("Target.attachedToTarget"), pairs(&[("", "agent-creds-tab-NEW")]));
    assert_eq!(world.got.last().unwrap()["id"], id);
    let new = world.events("Target.attachedToTarget")[0]["params"]["sessionId"].as_str().unwrap().to_owned();
    world.call(Some(&new), "Target.setAutoAttach", attach(ALL));
    assert_eq!(world.about("Target.attachedToTarget")[1], (new.clone(), "NEW".to_owned()));
    // When it goes, so do both, the page first.
    world.got.clear();
    world.says(json!({"method": "Target.targetDestroyed", "params": {"targetId": "NEW"}}));
    let detached = [(new.as_str(), "NEW"), ("", "agent-creds-tab-NEW")];
    assert_eq!(world.about("Target.detachedFromTarget"), pairs(&detached));
    assert_eq!(world.about("Target.targetDestroyed"), pairs(&[("", "NEW"), ("", "agent-creds-tab-NEW")]));
}

#[test]
fn the_tab_of_a_page_that_may_not_be_seen_is_not_there() {
    let mut world = World::new();
    let (tab, page_session) = world.puppeteer();
    world.goes("APP", "https://bank.example/", SECRET, true);
    let detached = [(tab.as_str(), "APP"), ("", "agent-creds-tab-APP")];
    assert_eq!(world.about("Target.detachedFromTarget"), pairs(&detached));
    for session in [&tab, &page_session] {
        assert_eq!(world.call(Some(session), "Target.getTargetInfo", json!({}))["error"]["code"], -32001);
    }
    let listed = world.call(None, "Target.getTargets", json!({"filter": [{"type": "tab"}]}));
    assert_eq!(listed["result"]["targetInfos"], json!([]));
    assert!(!format!("{:?}", world.got).contains(SECRET));
    // It comes back: attached anew.
    world.got.clear();
    world.goes("APP", APP, "My App", true);
    assert_eq!(world.about("Target.attachedToTarget"), pairs(&[("", "agent-creds-tab-APP")]));
}

#[test]
fn a_session_with_a_tab_is_for_nothing_else_and_ends_with_who_asked() {
    let mut world = World::new();
    let (tab, page_session) = world.puppeteer();
    for (method, params) in [
        ("Page.navigate", json!({"url": APP})),
        ("Runtime.evaluate", json!({"expression": "1"})),
        ("Storage.getCookies", json!({})),
        ("Target.attachToTarget", json!({"targetId": "MAIL", "flatten": true})),
    ] {
        world.refused(Some(&tab), method, params);
    }
    // Another page is no business of this tab's.
    world.got.clear();
    world.appears(page("MORE", APP, "More"));
    assert_eq!(world.about("Target.attachedToTarget"), pairs(&[("", "agent-creds-tab-MORE")]));
    world.call(None, "Target.setAutoAttach", json!({"autoAttach": false, "waitForDebuggerOnStart": false}));
    for session in [&tab, &page_session] {
        assert_eq!(world.call(Some(session), "Target.getTargetInfo", json!({}))["error"]["code"], -32001);
    }
    // The browser can be attached to by the id that it has.
    let answer = world.call(None, "Target.attachToTarget", json!({"targetId": "agent-creds-browser", "flatten": true}));
    let browser = answer["result"]["sessionId"].as_str().unwrap().to_owned();
    let info = world.call(Some(&browser), "Target.getTargetInfo", json!({}));
    assert_eq!(info["result"]["targetInfo"]["type"], "browser");
}
