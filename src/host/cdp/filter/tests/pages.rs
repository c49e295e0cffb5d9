//! What comes out of a page, and what runs in it, while it moves.

use super::*;

#[test]
fn nothing_of_a_page_is_passed_on_before_it_is_known_to_be_there() {
    let mut world = World::new();
    let session = world.attach();
    world.answers_checks = false;
    let id = world.sends(Some(&session), "Page.captureScreenshot", json!({}));
    let screenshot = world.asked("Page.captureScreenshot");
    world.answers(&screenshot, json!({"data": "AAAA"}));
    world.event(&session, "Page.loadEventFired", json!({"timestamp": 1}));
    assert!(world.got.iter().all(|message| message["id"] != id));
    // One check is under way; what came after it was sent needs another.
    let check = world.asked("Target.getTargetInfo");
    assert!(world.asked.is_empty());
    world.answer_check(&check);
    assert_eq!(world.answer(id)["result"]["data"], "AAAA");
    assert!(world.events("Page.loadEventFired").is_empty());
    let check = world.asked("Target.getTargetInfo");
    world.answer_check(&check);
    assert_eq!(world.events("Page.loadEventFired").len(), 1);
}

#[test]
fn what_a_page_says_when_it_has_left_is_dropped() {
    let mut world = World::new();
    let session = world.attach();
    let id = world.sends(Some(&session), "DOM.getDocument", json!({}));
    let document = world.asked("DOM.getDocument");
    // It is elsewhere, and Chrome has not told yet.
    world.goes("APP", "https://bank.example/", SECRET, false);
    world.answers(&document, json!({"root": SECRET}));
    assert_eq!(world.events("Target.detachedFromTarget").len(), 1);
    assert!(world.answer(id)["error"]["message"].as_str().unwrap().contains("no longer allowed"));
    assert!(!format!("{:?}", world.got).contains(SECRET));
    world.event(&session, "Page.loadEventFired", json!({"x": SECRET}));
    assert!(!format!("{:?}", world.got).contains(SECRET));
    assert_eq!(world.call(Some(&session), "Page.enable", json!({}))["error"]["code"], -32001);
}

#[test]
fn between_two_documents_nothing_is_passed_on() {
    let mut world = World::new();
    let session = world.attach();
    for (url, title) in [("http://localhost:3000/next", "Next"), ("https://bank.example/", SECRET)] {
        let before = world.got.len();
        world.goes("APP", "", "My App", false);
        world.event(&session, "Page.loadEventFired", json!({"x": title}));
        world.event(&session, "Page.domContentEventFired", json!({"x": title}));
        assert_eq!(world.got.len(), before);
        assert!(world.filter.sessions.contains_key(&session));
        world.goes("APP", url, title, true);
    }
    assert_eq!((world.events("Page.loadEventFired").len(), world.events("Page.domContentEventFired").len()), (1, 1));
    assert_eq!(world.events("Target.detachedFromTarget").len(), 1);
    assert!(!format!("{:?}", world.got).contains(SECRET));
}

#[test]
fn a_frame_that_says_where_it_went_is_judged_by_that() {
    for (method, params) in [
        ("Page.frameNavigated", json!({"frame": {"id": "APP", "url": "https://bank.example/", "loaderId": SECRET}})),
        ("Page.navigatedWithinDocument", json!({"frameId": "APP", "url": format!("https://bank.example/{SECRET}")})),
    ] {
        let mut world = World::new();
        let session = world.attach();
        world.event(&session, method, params);
        assert_eq!(world.events("Target.detachedFromTarget").len(), 1, "{method}");
        assert!(!format!("{:?}", world.got).contains(SECRET));
    }
    let mut world = World::new();
    let session = world.attach();
    world.event(
        &session,
        "Page.frameNavigated",
        json!({"frame": {"id": "CHILD", "parentId": "APP", "url": "https://ads.example/"}}),
    );
    world.event(
        &session,
        "Page.frameRequestedNavigation",
        json!({"frameId": "APP", "url": format!("https://bank.example/{SECRET}")}),
    );
    world.event(&session, "Page.windowOpen", json!({"url": format!("https://bank.example/{SECRET}")}));
    assert!(world.events("Target.detachedFromTarget").is_empty());
    assert_eq!(world.events("Page.frameNavigated").len(), 1);
    assert!(!format!("{:?}", world.got).contains(SECRET));
}

#[test]
fn a_page_with_the_right_title_may_load_its_next_document() {
    let rules = Arc::new(Rules::new([Rule::new(Some("page"), Some("*My App*"), None).unwrap()]));
    let mut world = World::of(Entry::Browser, rules);
    let session = world.attach();
    world.goes("APP", "http://localhost:3000/next", "localhost:3000/next", true);
    world.goes("APP", "http://localhost:3000/next", "My App: next", true);
    assert!(world.events("Target.detachedFromTarget").is_empty());
    assert!(world.filter.sessions.contains_key(&session));
    world.goes("APP", "http://localhost:3000/next", "Other", true);
    assert_eq!(world.events("Target.detachedFromTarget").len(), 1);
    // Another origin has no credit.
    world.goes("APP", "http://localhost:3000/next", "My App", true);
    world.attach();
    world.goes("APP", "https://bank.example/", "bank.example", true);
    assert_eq!(world.events("Target.detachedFromTarget").len(), 2);
}

#[test]
fn scripts_are_bound_to_a_document() {
    let mut world = World::new();
    let session = world.attach_told();
    for (method, params) in [
        ("Runtime.evaluate", json!({"expression": "1"})),
        ("Runtime.evaluate", json!({"expression": "1", "contextId": 1})),
        ("Runtime.evaluate", json!({"expression": "1", "uniqueContextId": "u1"})),
        ("Runtime.callFunctionOn", json!({"functionDeclaration": "() => 1", "executionContextId": 1})),
    ] {
        world.sends(Some(&session), method, params);
        let sent = world.asked(method)["params"].clone();
        assert_eq!(sent["uniqueContextId"], "u1", "{method}");
        assert!(sent.get("contextId").is_none() && sent.get("executionContextId").is_none());
    }
    world.sends(Some(&session), "Runtime.callFunctionOn", json!({"functionDeclaration": "() => 1", "objectId": "o"}));
    assert!(world.asked("Runtime.callFunctionOn")["params"].get("uniqueContextId").is_none());
    for params in [
        json!({"expression": "1", "contextId": 2}),
        json!({"expression": "1", "uniqueContextId": "u2"}),
        json!({"expression": "1", "uniqueContextId": "u1", "contextId": 1}),
    ] {
        world.refused(Some(&session), "Runtime.evaluate", params);
    }
    world.event(&session, "Runtime.executionContextsCleared", json!({}));
    assert!(
        world.refused(Some(&session), "Runtime.evaluate", json!({"expression": "1"})).contains("Cannot find default")
    );
    assert_eq!(world.events("Runtime.executionContextCreated").len(), 1);
}

#[test]
fn a_client_need_not_enable_the_runtime() {
    let mut world = World::new();
    let session = world.attach();
    let id = world.sends(Some(&session), "Runtime.evaluate", json!({"expression": "1"}));
    let enable = world.asked("Runtime.enable");
    assert!(world.asked.is_empty());
    world.event(&session, "Runtime.executionContextCreated", context(1, "u1", "APP"));
    world.event(&session, "Runtime.consoleAPICalled", json!({}));
    world.answers(&enable, json!({}));
    let evaluate = world.asked("Runtime.evaluate");
    assert_eq!(evaluate["params"]["uniqueContextId"], "u1");
    world.answers(&evaluate, json!({"result": {"value": 1}}));
    assert_eq!(world.answer(id)["result"]["result"]["value"], 1);
    assert!(
        world.events("Runtime.executionContextCreated").is_empty()
            && world.events("Runtime.consoleAPICalled").is_empty()
    );
    // When it does, it is told what it would have been.
    assert_eq!(world.call(Some(&session), "Runtime.enable", json!({}))["result"], json!({}));
    assert_eq!(world.events("Runtime.executionContextCreated").len(), 1);
    world.event(&session, "Runtime.consoleAPICalled", json!({}));
    assert_eq!(world.events("Runtime.consoleAPICalled").len(), 1);
}

#[test]
fn scripts_for_new_documents_have_a_guard() {
    let mut world = World::new();
    let session = world.attach();
    let method = "Page.addScriptToEvaluateOnNewDocument";
    world.sends(Some(&session), method, json!({"source": "steal()", "worldName": "w"}));
    let sent = world.asked(method);
    assert_eq!(
        sent["params"]["source"],
        "if (location.origin !== \"http://localhost:3000\") throw \"agent-creds: this script may not run here\";\nsteal()"
    );
    assert_eq!(sent["params"]["worldName"], "w");
    world.sends(Some(&session), method, json!({"source": ""}));
    assert_eq!(world.asked(method)["params"]["source"], "");
}

#[test]
fn parts_of_a_page_belong_to_it_when_they_may() {
    let mut world = World::new();
    let session = world.attach();
    world.sends(
        Some(&session),
        "Target.setAutoAttach",
        json!({"autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true}),
    );
    world.asked("Target.setAutoAttach");
    let child = |id: &str, kind: &str, url: &str| {
        json!({"sessionId": format!("S-{id}"), "waitingForDebugger": true,
            "targetInfo": {"targetId": id, "type": kind, "title": "", "url": url, "attached": true, "canAccessOpener": false}})
    };
    for (id, kind, url, allowed) in [
        ("W", "worker", "blob:http://localhost:3000/1", true),
        ("F", "iframe", "http://localhost:3000/frame", true),
        ("SW", "service_worker", "http://localhost:3000/sw.js", true),
        ("ADS", "iframe", "https://ads.example/s3cr3t", false),
        ("SW2", "service_worker", "https://ads.example/s3cr3t", false),
        ("P", "page", "https://ads.example/s3cr3t", false),
    ] {
        let info = child(id, kind, url);
        world.infos.insert(id.to_owned(), info["targetInfo"].clone());
        world.event(&session, "Target.attachedToTarget", info);
        let attached = world.got.iter().any(|message| message["params"]["targetInfo"]["targetId"] == id);
        assert_eq!(attached, allowed, "{id}");
        if !allowed {
            // It must not wait for a debugger that nobody is.
            assert_eq!(world.asked("Runtime.runIfWaitingForDebugger")["sessionId"], format!("S-{id}"));
            assert_eq!(world.call(Some(&format!("S-{id}")), "Page.enable", json!({}))["error"]["code"], -32001);
        }
    }
    // Frames go elsewhere, too.
    world.goes("F", "https://ads.example/", SECRET, true);
    let detached = world.events("Target.detachedFromTarget");
    assert_eq!(
        (detached.len(), &detached[0]["params"]["sessionId"], &detached[0]["sessionId"]),
        (1, &json!("S-F"), &json!(session))
    );
    // And with the page all of it goes.
    world.goes("APP", "https://bank.example/", SECRET, true);
    assert_eq!(world.events("Target.detachedFromTarget").len(), 4);
    assert!(world.filter.sessions.is_empty());
    assert!(!format!("{:?}", world.got).contains(SECRET));
}

#[test]
fn cookies_stay_in_the_browser() {
    let mut world = World::new();
    let session = world.attach();
    world.event(
        &session,
        "Network.requestWillBeSentExtraInfo",
        json!({"requestId": "1", "associatedCookies": [{"cookie": {"value": SECRET}}], "headers": {"Cookie": SECRET, "Accept": "*/*", "Authorization": SECRET}}),
    );
    world.event(
        &session,
        "Network.responseReceivedExtraInfo",
        json!({"requestId": "1", "headers": {"set-cookie": SECRET, "X": "1"}, "headersText": SECRET, "blockedCookies": [{"cookieLine": SECRET}]}),
    );
    world.event(&session, "Network.requestWillBeSent", json!({"requestId": "2", "type": "Document", "frameId": "APP", "request": {"url": format!("https://bank.example/{SECRET}")}}));
    world.event(&session, "Network.dataReceived", json!({"requestId": "2", "data": SECRET}));
    world.event(
        &session,
        "Network.requestWillBeSent",
        json!({"requestId": "3", "type": "Document", "frameId": "APP", "request": {"url": APP}}),
    );
    assert!(!format!("{:?}", world.got).contains(SECRET), "{:?}", world.got);
    assert_eq!(world.events("Network.requestWillBeSentExtraInfo")[0]["params"]["headers"], json!({"Accept": "*/*"}));
    assert_eq!(world.events("Network.responseReceivedExtraInfo")[0]["params"]["headers"], json!({"X": "1"}));
    assert_eq!(world.events("Network.requestWillBeSent").len(), 1);
}

#[test]
fn where_other_sites_redirect_to_is_not_told() {
    let mut world = World::new();
    let session = world.attach();
    let request = |url: &str, kind: &str| json!({"requestId": "1", "type": kind, "frameId": "APP", "timestamp": 1, "request": {"url": url, "headers": {}}});
    world.event(&session, "Network.requestWillBeSent", request("https://login.example/authorize?prompt=none", "Image"));
    let code = format!("https://other.example/callback?code={SECRET}");
    world.event(
        &session,
        "Network.requestWillBeSentExtraInfo",
        json!({"requestId": "1", "headers": {":path": format!("/callback?code={SECRET}"), "accept": "*/*"}}),
    );
    world.event(
        &session,
        "Network.responseReceivedExtraInfo",
        json!({"requestId": "1", "statusCode": 302, "headers": {"Location": code}}),
    );
    let mut redirected = request(&code, "Image");
    redirected["redirectResponse"] = json!({"url": "https://login.example/authorize", "headers": {"location": code}});
    world.event(&session, "Network.requestWillBeSent", redirected);
    world.event(&session, "Network.responseReceived", json!({"requestId": "1", "response": {"url": code}}));
    world.event(&session, "Log.entryAdded", json!({"entry": {"source": "network", "url": code}}));
    assert!(!format!("{:?}", world.got).contains(SECRET), "{:?}", world.got);
    assert_eq!(world.events("Network.loadingFailed").len(), 1);
    // A body is read where the page could be itself.
    world.refused(Some(&session), "Network.getResponseBody", json!({"requestId": "1"}));
    world.event(
        &session,
        "Network.responseReceived",
        json!({"requestId": "2", "response": {"url": "https://cdn.example/x.js"}}),
    );
    world.refused(Some(&session), "Network.getResponseBody", json!({"requestId": "2"}));
    world.event(
        &session,
        "Network.responseReceived",
        json!({"requestId": "3", "response": {"url": "http://localhost:3000/api"}}),
    );
    world.sends(Some(&session), "Network.getResponseBody", json!({"requestId": "3"}));
    world.asked("Network.getResponseBody");
}

#[test]
fn frames_of_other_sites_are_somewhere() {
    let mut world = World::new();
    let session = world.attach();
    let id = world.sends(Some(&session), "Page.getFrameTree", json!({}));
    let ask = world.asked("Page.getFrameTree");
    let child = |url: &str| json!({"frame": {"id": "F", "parentId": "APP", "url": url}});
    let tree = json!({"frame": {"id": "APP", "url": APP}, "childFrames": [child(&format!("https://ads.example/{SECRET}")), child("http://localhost:3000/f")]});
    world.answers(&ask, json!({"frameTree": tree}));
    let tree = &world.answer(id)["result"]["frameTree"];
    assert_eq!(tree["childFrames"][0]["frame"]["url"], "about:blank");
    assert_eq!(tree["childFrames"][1]["frame"]["url"], "http://localhost:3000/f");
    // A frame without others has no list of them, not an empty one either.
    assert_eq!(tree["childFrames"][1], child("http://localhost:3000/f"));
}

#[test]
fn requests_elsewhere_are_not_the_clients_to_answer() {
    let mut world = World::new();
    let session = world.attach();
    world.sends(Some(&session), "Fetch.enable", json!({"patterns": [{"urlPattern": "*"}]}));
    world.asked("Fetch.enable");
    let paused = |id: &str, url: &str| json!({"requestId": id, "request": {"url": url, "headers": {}}, "frameId": "APP", "resourceType": "Document"});
    world.event(&session, "Fetch.requestPaused", paused("1", &format!("https://bank.example/{SECRET}")));
    assert_eq!(world.asked("Fetch.continueRequest")["params"], json!({"requestId": "1"}));
    assert!(world.events("Fetch.requestPaused").is_empty());
    world.refused(Some(&session), "Fetch.fulfillRequest", json!({"requestId": "1", "responseCode": 200}));
    world.event(&session, "Fetch.requestPaused", paused("2", APP));
    assert_eq!(world.events("Fetch.requestPaused").len(), 1);
    world.refused(Some(&session), "Fetch.continueRequest", json!({"requestId": "2", "url": "https://bank.example/"}));
    world.sends(Some(&session), "Fetch.fulfillRequest", json!({"requestId": "2", "responseCode": 200}));
    world.asked("Fetch.fulfillRequest");
    world.refused(Some(&session), "Fetch.fulfillRequest", json!({"requestId": "2", "responseCode": 200}));
}

#[test]
fn the_history_of_a_tab_shows_what_may_be_seen() {
    let mut world = World::new();
    let session = world.attach();
    let id = world.sends(Some(&session), "Page.getNavigationHistory", json!({}));
    let history = world.asked("Page.getNavigationHistory");
    let entry = |id: i64, url: &str| json!({"id": id, "url": url, "userTypedURL": url, "title": format!("{url} title"), "transitionType": "typed"});
    let entries = json!([entry(1, "https://mail.example/s3cr3t"), entry(2, APP)]);
    world.answers(&history, json!({"currentIndex": 1, "entries": entries}));
    let result = &world.answer(id)["result"];
    assert_eq!((&result["entries"][0]["url"], &result["entries"][0]["title"]), (&json!("about:blank"), &json!("")));
    assert_eq!(result["entries"][1]["url"], APP);
    assert!(!result.to_string().contains(SECRET));
}

#[test]
fn a_target_closed_in_the_midst_of_a_command_answers_it() {
    let mut world = World::new();
    let session = world.attach();
    let id = world.sends(Some(&session), "Page.captureScreenshot", json!({}));
    world.says(json!({"method": "Target.detachedFromTarget", "params": {"sessionId": session, "targetId": "APP"}}));
    assert!(world.answer(id)["error"]["message"].as_str().unwrap().contains("Target closed"));
    assert_eq!(world.events("Target.detachedFromTarget").len(), 1);
    world.infos.remove("APP");
    world.says(json!({"method": "Target.targetDestroyed", "params": {"targetId": "APP"}}));
    world.refused(None, "Target.attachToTarget", json!({"targetId": "APP"}));
}
