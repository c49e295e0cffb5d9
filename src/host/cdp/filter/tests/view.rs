//! Which targets there are, and how clients attach to them.

use super::*;

#[test]
fn only_allowed_targets_exist() {
    let mut world = World::new();
    let targets = world.call(None, "Target.getTargets", json!({}));
    assert_eq!(targets["result"]["targetInfos"].as_array().unwrap().len(), 1);
    assert_eq!(targets["result"]["targetInfos"][0]["targetId"], "APP");
    world.call(None, "Target.setDiscoverTargets", json!({"discover": true}));
    world.appears(page("BANK", "https://bank.example/", SECRET));
    world.goes("BANK", "https://bank.example/2", SECRET, true);
    world.says(json!({"method": "Target.targetDestroyed", "params": {"targetId": "BANK"}}));
    for method in [
        "Target.attachToTarget",
        "Target.getTargetInfo",
        "Target.activateTarget",
        "Target.closeTarget",
        "Browser.getWindowForTarget",
    ] {
        let why = world.refused(None, method, json!({"targetId": "MAIL", "flatten": true}));
        assert!(why.contains("No target with given id found"), "{why}");
    }
    assert_eq!(world.events("Target.targetCreated").len(), 1);
    assert!(!format!("{:?}", world.got).contains(SECRET));
    assert!(!format!("{:?}", world.got).contains("BANK"));
}

#[test]
fn a_playwright_connects() {
    let mut world = World::new();
    let id = world.sends(None, "Browser.getVersion", json!({}));
    let version = world.asked("Browser.getVersion");
    world.answers(&version, json!({"product": "Chrome/156"}));
    assert_eq!(world.answer(id)["result"]["product"], "Chrome/156");
    let attach = world.sends(
        None,
        "Target.setAutoAttach",
        json!({"autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true}),
    );
    let downloads = world.call(
        None,
        "Browser.setDownloadBehavior",
        json!({"behavior": "allowAndName", "downloadPath": "/etc", "eventsEnabled": true}),
    );
    assert_eq!(downloads["result"], json!({}));
    assert_eq!(world.call(None, "Target.getTargetInfo", json!({}))["result"]["targetInfo"]["type"], "browser");
    // The session comes before the answer, and only one.
    assert_eq!(world.got[1]["method"], "Target.attachedToTarget");
    assert_eq!(world.got[1]["params"]["targetInfo"]["targetId"], "APP");
    assert_eq!(world.got[1]["params"]["waitingForDebugger"], false);
    assert_eq!(world.got[2]["id"], attach);
    assert_eq!(world.events("Target.attachedToTarget").len(), 1);
    assert!(world.asked.is_empty(), "{:?}", world.asked);

    // A new page: its session comes first as well, and it is the sandbox's own.
    let id = world.sends(None, "Target.createTarget", json!({"url": "about:blank"}));
    let create = world.asked("Target.createTarget");
    world.appears(page("NEW", "about:blank", ""));
    assert_eq!(world.events("Target.attachedToTarget").len(), 1);
    world.answers(&create, json!({"targetId": "NEW"}));
    let attached = world.got.iter().position(|message| message["params"]["targetInfo"]["targetId"] == "NEW").unwrap();
    let answered = world.got.iter().position(|message| message["id"] == id).unwrap();
    assert!(attached < answered);
    assert!(world.owned.contains("NEW"));
    // It may go where the rules say, and is lost elsewhere.
    world.goes("NEW", "http://localhost:3000/new", "New", true);
    assert!(world.events("Target.detachedFromTarget").is_empty());
    world.goes("NEW", "https://mail.example/", SECRET, true);
    assert_eq!(world.events("Target.detachedFromTarget").len(), 1);
}

#[test]
fn tabs_that_become_allowed_appear() {
    let mut world = World::new();
    world.call(None, "Target.setDiscoverTargets", json!({"discover": true}));
    world.call(None, "Target.setAutoAttach", json!({"autoAttach": true, "flatten": true}));
    world.goes("MAIL", "http://localhost:3000/other", "Other", true);
    assert_eq!(world.events("Target.targetCreated").len(), 2);
    assert_eq!(world.events("Target.attachedToTarget").len(), 2);
    world.says(json!({"method": "Target.targetDestroyed", "params": {"targetId": "MAIL"}}));
    assert_eq!(world.events("Target.targetDestroyed").len(), 1);
    assert_eq!(world.events("Target.detachedFromTarget").len(), 1);
}

#[test]
fn an_edit_of_the_rules_holds_at_once() {
    let mut world = World::new();
    world.call(None, "Target.setDiscoverTargets", json!({"discover": true}));
    let session = world.attach();
    let under_way = world.sends(Some(&session), "Page.captureScreenshot", json!({}));
    let out = world.filter.on_rules(rules("https://mail.example/*"));
    world.take(out);
    assert!(world.answer(under_way)["error"]["message"].as_str().unwrap().contains("no longer allowed"));
    assert_eq!(world.events("Target.detachedFromTarget")[0]["params"]["sessionId"], session.as_str());
    assert_eq!(world.events("Target.targetDestroyed")[0]["params"]["targetId"], "APP");
    assert_eq!(world.events("Target.targetCreated")[1]["params"]["targetInfo"]["targetId"], "MAIL");
    assert_eq!(world.call(Some(&session), "Page.enable", json!({}))["error"]["code"], -32001);
    let out = world.filter.on_rules(Arc::default());
    world.take(out);
    assert_eq!(world.call(None, "Target.getTargets", json!({}))["result"]["targetInfos"], json!([]));
}

#[test]
fn sessions_need_not_be_flattened() {
    let mut world = World::new();
    let answer = world.call(None, "Target.attachToTarget", json!({"targetId": "APP"}));
    let session = answer["result"]["sessionId"].as_str().unwrap().to_owned();
    let inner = json!({"id": 7, "method": "Page.captureScreenshot"}).to_string();
    let sent = world.call(None, "Target.sendMessageToTarget", json!({"sessionId": session, "message": inner}));
    assert_eq!(sent["result"], json!({}));
    let screenshot = world.asked("Page.captureScreenshot");
    assert_eq!(screenshot["sessionId"], session.as_str());
    world.answers(&screenshot, json!({"data": "AAAA"}));
    let received = world.events("Target.receivedMessageFromTarget")[0].clone();
    assert_eq!(received["params"]["sessionId"], session.as_str());
    let message: Value = serde_json::from_str(received["params"]["message"].as_str().unwrap()).unwrap();
    assert_eq!(message, json!({"id": 7, "result": {"data": "AAAA"}}));
    // What is in it is judged as if it were not.
    for inner in [
        r#"{"id":8,"method":"Storage.getCookies"}"#,
        r#"{"id":9,"method":"Page.navigate","params":{"url":"file:///etc/passwd"}}"#,
    ] {
        world.call(None, "Target.sendMessageToTarget", json!({"sessionId": session, "message": inner}));
        let received = world.events("Target.receivedMessageFromTarget").last().unwrap()["params"]["message"].clone();
        assert!(received.as_str().unwrap().contains("agent-creds refuses"), "{received}");
    }
    assert_eq!(world.call(Some(&session), "Page.enable", json!({}))["error"]["code"], -32001);
    for inner in
        ["{", r#"{"id":1,"id":2,"method":"Page.enable"}"#, r#"{"id":1,"method":"Page.enable","sessionId":"x"}"#]
    {
        world.refused(None, "Target.sendMessageToTarget", json!({"sessionId": session, "message": inner}));
    }
    world.refused(None, "Target.sendMessageToTarget", json!({"sessionId": "x", "message": "{}"}));
    world.call(None, "Target.detachFromTarget", json!({"sessionId": session}));
    assert_eq!(world.events("Target.detachedFromTarget").len(), 1);
}

#[test]
fn a_page_has_an_endpoint_of_its_own() {
    let mut world = World::of(Entry::Page("APP".into()), rules("http://localhost:3000/*"));
    let id = world.sends(None, "Page.captureScreenshot", json!({}));
    let screenshot = world.asked("Page.captureScreenshot");
    world.answers(&screenshot, json!({"data": "AAAA"}));
    assert_eq!(*world.answer(id), json!({"id": id, "result": {"data": "AAAA"}}));
    assert_eq!(world.call(None, "Target.getTargetInfo", json!({}))["result"]["targetInfo"]["targetId"], "APP");
    world.refused(None, "Browser.close", json!({}));
    world.goes("APP", "https://bank.example/", SECRET, true);
    assert!(world.closed.unwrap().contains("no longer allowed"));
    let world = World::of(Entry::Page("MAIL".into()), rules("http://localhost:3000/*"));
    assert!(world.closed.unwrap().contains("no such target"));
    assert!(world.got.is_empty());
}

#[test]
fn contexts_are_the_clients_own() {
    let mut world = World::new();
    let id = world.sends(None, "Target.createBrowserContext", json!({"proxyServer": "", "disposeOnDetach": false}));
    let create = world.asked("Target.createBrowserContext");
    assert_eq!(create["params"], json!({"disposeOnDetach": true}));
    world.answers(&create, json!({"browserContextId": "OWN"}));
    assert_eq!(world.answer(id)["result"]["browserContextId"], "OWN");
    assert_eq!(world.call(None, "Target.getBrowserContexts", json!({}))["result"]["browserContextIds"], json!(["OWN"]));
    // Pages in it are its own, from the first moment.
    let mut info = page("NEW", "about:blank", "");
    info["browserContextId"] = "OWN".into();
    world.call(None, "Target.setDiscoverTargets", json!({"discover": true}));
    world.appears(info);
    assert_eq!(world.events("Target.targetCreated").len(), 2);
    // Its cookies are, too; downloads still go nowhere.
    world.sends(None, "Storage.getCookies", json!({"browserContextId": "OWN"}));
    assert_eq!(world.asked("Storage.getCookies")["params"], json!({"browserContextId": "OWN"}));
    world.sends(
        None,
        "Browser.setDownloadBehavior",
        json!({"behavior": "allow", "downloadPath": "/etc/cron.d", "browserContextId": "OWN"}),
    );
    assert_eq!(
        world.asked("Browser.setDownloadBehavior")["params"],
        json!({"behavior": "deny", "browserContextId": "OWN"})
    );
    for (method, params) in [
        ("Storage.getCookies", json!({})),
        ("Storage.getCookies", json!({"browserContextId": "DEFAULT"})),
        ("Storage.setCookies", json!({"browserContextId": "x", "cookies": []})),
        ("Storage.clearCookies", json!({})),
        ("Target.disposeBrowserContext", json!({"browserContextId": "DEFAULT"})),
        ("Target.createBrowserContext", json!({"proxyServer": "http://evil.example"})),
        ("Target.createBrowserContext", json!({"originsWithUniversalNetworkAccess": ["https://bank.example"]})),
        ("Target.createTarget", json!({"url": "about:blank", "browserContextId": "OTHER"})),
    ] {
        world.refused(None, method, params);
    }
}
