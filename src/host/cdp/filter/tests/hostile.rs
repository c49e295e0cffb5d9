//! What a hostile client tries.

use super::*;

#[test]
fn commands_for_the_host_are_refused_everywhere() {
    let mut world = World::new();
    let session = world.attach();
    for session in [None, Some(session.as_str())] {
        for method in [
            "Browser.close",
            "Browser.crash",
            "Browser.executeBrowserCommand",
            "Browser.getBrowserCommandLine",
            "Browser.getHistograms",
            "Browser.grantPermissions",
            "Browser.setPermission",
            "CacheStorage.requestCacheNames",
            "DOM.setFileInputFiles",
            "DOM.getFileInfo",
            "Extensions.loadUnpacked",
            "Extensions.getStorageItems",
            "HeapProfiler.takeHeapSnapshot",
            "IO.resolveBlob",
            "IndexedDB.requestData",
            "Input.unknown",
            "Memory.prepareForLeakDetection",
            "Network.getAllCookies",
            "Network.getCookies",
            "Network.setCookie",
            "Network.clearBrowserCookies",
            "Network.loadNetworkResource",
            "Network.setExtraHTTPHeaders",
            "Page.addScriptToEvaluateOnLoad",
            "Page.captureSnapshot",
            "Page.crash",
            "Page.getCookies",
            "Page.getResourceContent",
            "Page.setDocumentContent",
            "Page.setDownloadBehavior",
            "Profiler.start",
            "Runtime.queryObjects",
            "Runtime.runScript",
            "Debugger.setBreakpointByUrl",
            "Debugger.evaluateOnCallFrame",
            "Storage.clearDataForOrigin",
            "Storage.getCookies",
            "Storage.getStorageKeyForFrame",
            "SystemInfo.getInfo",
            "Target.autoAttachRelated",
            "Target.exposeDevToolsProtocol",
            "Target.setRemoteLocations",
            "Target.openDevTools",
            "Tethering.bind",
            "Tracing.start",
            "",
            "Nothing",
            "page.navigate",
        ] {
            world.refused(session, method, json!({"targetId": "APP", "url": APP}));
        }
    }
    assert!(world.asked.is_empty(), "{:?}", world.asked);
}

#[test]
fn pages_are_sent_only_where_they_may_be_seen() {
    let mut world = World::new();
    let session = world.attach();
    for url in [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        " file:///etc/passwd",
        "chrome://settings",
        "chrome-extension://x/y",
        "devtools://devtools/bundled/inspector.html",
        "view-source:http://localhost:3000/",
        "javascript:alert(1)",
        "data:text/html,x",
        "blob:http://localhost:3000/1",
        "about:blank",
        "https://bank.example/",
        "https://bank.example/?http://localhost:3000/",
        "https://bank.example/#http://localhost:3000/",
        "http://localhost:3000@bank.example/",
        "http://user@localhost:3000/",
        "http://localhost:3001/",
        "//localhost:3000/",
        "",
    ] {
        world.refused(Some(&session), "Page.navigate", json!({"url": url}));
        if !matches!(url, "about:blank" | "") {
            world.refused(None, "Target.createTarget", json!({"url": url}));
        }
    }
    world.refused(Some(&session), "Page.reload", json!({"scriptToEvaluateOnLoad": "steal()"}));
    // What is sent is what was judged.
    world.sends(
        Some(&session),
        "Page.navigate",
        json!({"url": "http:\\\\LOCALHOST:3000/a/../b", "referrer": "https://bank.example/", "x": 1}),
    );
    assert_eq!(world.asked("Page.navigate")["params"], json!({"url": "http://localhost:3000/b"}));
}

#[test]
fn parameters_that_reach_further_are_taken_out_or_refused() {
    let mut world = World::new();
    let session = world.attach();
    let method = "Page.createIsolatedWorld";
    world.sends(
        Some(&session),
        method,
        json!({"frameId": "APP", "worldName": "w", "grantUniveralAccess": true, "grantUniversalAccess": true}),
    );
    assert_eq!(world.asked(method)["params"], json!({"frameId": "APP", "worldName": "w"}));
    world.refused(
        Some(&session),
        "Input.dispatchDragEvent",
        json!({"type": "drop", "x": 1, "y": 1, "data": {"items": [], "files": ["/etc/passwd"]}}),
    );
    world.refused(Some(&session), "IO.read", json!({"handle": "1"}));
    world.sends(Some(&session), "Page.printToPDF", json!({"transferMode": "ReturnAsStream"}));
    let pdf = world.asked("Page.printToPDF");
    world.answers(&pdf, json!({"data": "", "stream": "7"}));
    world.sends(Some(&session), "IO.read", json!({"handle": "7"}));
    assert_eq!(world.asked("IO.read")["params"], json!({"handle": "7"}));
    world.sends(
        None,
        "Target.createTarget",
        json!({"url": APP, "forTab": true, "hidden": true, "enableBeginFrameControl": true}),
    );
    assert_eq!(world.asked("Target.createTarget")["params"], json!({"url": APP}));
}

#[test]
fn tabs_of_the_user_are_not_closed() {
    let mut world = World::new();
    let session = world.attach();
    assert!(world.refused(Some(&session), "Target.closeTarget", json!({"targetId": "MAIL"})).contains("No target"));
    assert_eq!(
        world.call(None, "Browser.setWindowBounds", json!({"windowId": 1, "bounds": {"windowState": "minimized"}}))["result"],
        json!({})
    );
    assert!(world.asked.is_empty());
}

/// Clients wait for a page that they closed to go, and do not look whether closing it was refused.
#[test]
fn a_tab_of_the_user_that_a_client_closes_is_gone_for_this_client_alone() {
    for by_session in [true, false] {
        let mut world = World::new();
        world.call(None, "Target.setDiscoverTargets", json!({"discover": true}));
        let session = world.attach();
        let answer = if by_session {
            world.call(Some(&session), "Page.close", json!({}))
        } else {
            world.call(None, "Target.closeTarget", json!({"targetId": "APP"}))
        };
        assert!(answer["error"].is_null(), "{answer}");
        let seen: Vec<_> = world.got.iter().filter_map(|message| message["method"].as_str()).collect();
        let ended = ["Target.detachedFromTarget", "Target.targetDestroyed"];
        assert!(seen.ends_with(&ended), "{seen:?}");
        // Whatever it does then, it has no more of it.
        world.goes("APP", "http://localhost:3000/next", "My App", true);
        let attach = world.refused(None, "Target.attachToTarget", json!({"targetId": "APP", "flatten": true}));
        assert!(attach.contains("No target"), "{attach}");
        assert_eq!(world.call(None, "Target.getTargets", json!({}))["result"]["targetInfos"], json!([]));
        assert!(world.asked.is_empty(), "the browser was asked to close nothing: {:?}", world.asked);
        assert_eq!(world.events("Target.targetCreated").len(), 1);
    }
    let mut world = World::of(Entry::Page("APP".to_owned()), rules("http://localhost:3000/*"));
    world.sends(None, "Page.close", json!({}));
    assert!(world.closed.is_some());
}

#[test]
fn sessions_of_others_are_not_the_clients() {
    let mut world = World::new();
    let session = world.attach();
    for other in ["x", "", "MAIL-1", &session.to_lowercase()] {
        let answer = world.call(Some(other), "Runtime.evaluate", json!({"expression": "1"}));
        assert_eq!(answer["error"]["code"], -32001, "{other}");
        world.refused(None, "Target.detachFromTarget", json!({"sessionId": other}));
    }
    // The virtual browser session is the same browser.
    let answer = world.call(None, "Target.attachToBrowserTarget", json!({}));
    let browser = answer["result"]["sessionId"].as_str().unwrap().to_owned();
    assert_eq!(
        world.call(Some(&browser), "Target.getTargets", json!({}))["result"]["targetInfos"].as_array().unwrap().len(),
        1
    );
    world.refused(Some(&browser), "Browser.close", json!({}));
    world.refused(Some(&browser), "Storage.getCookies", json!({}));
    // Whoever attaches by it is told there, and not in the browser's own: clients take that for a second page.
    world.got.clear();
    let attach = json!({"targetId": "APP", "flatten": true});
    let answer = world.call(Some(&browser), "Target.attachToTarget", attach);
    let child = answer["result"]["sessionId"].as_str().unwrap().to_owned();
    assert_eq!(world.events("Target.attachedToTarget")[0]["sessionId"], browser.as_str());
    world.call(None, "Target.detachFromTarget", json!({"sessionId": browser}));
    let detached = world.events("Target.detachedFromTarget");
    assert_eq!((detached.len(), &detached[0]["sessionId"]), (2, &json!(browser)));
    assert_eq!(detached[0]["params"]["sessionId"], child.as_str());
    assert_eq!((&detached[1]["sessionId"], &detached[1]["params"]["sessionId"]), (&Value::Null, &json!(browser)));
    assert_eq!(world.call(Some(&browser), "Target.getTargets", json!({}))["error"]["code"], -32001);
}

#[test]
fn messages_that_can_be_read_in_two_ways_are_read_in_none() {
    let mut world = World::new();
    let session = world.attach();
    for text in [
        r#"{"id":1,"method":"Browser.getVersion","method":"Browser.close"}"#.to_owned(),
        format!(
            r#"{{"id":1,"method":"Page.navigate","params":{{"url":"{APP}","url":"file:///etc/passwd"}},"sessionId":"{session}"}}"#
        ),
        format!(
            r#"{{"id":1,"method":"Page.navigate","params":{{"url":"{APP}"}},"params":{{"url":"file:///"}},"sessionId":"{session}"}}"#
        ),
        r#"{"id":1,"method":"Browser.close"}{"id":2}"#.to_owned(),
        r#"{"id":1,"meth\u006fd":"Browser.getVersion","method":"Browser.close"}"#.to_owned(),
        "[]".to_owned(),
        String::new(),
        "\u{0}".to_owned(),
    ] {
        world.raw(&text);
        assert_eq!(world.got.pop().unwrap()["error"]["code"], -32700, "{text}");
    }
    assert!(world.asked.is_empty(), "{:?}", world.asked);
}

#[test]
fn errors_show_what_was_refused_without_its_control_characters() {
    let mut world = World::new();
    let why = world.refused(None, &format!("Evil.\u{1b}[2J{}", "x".repeat(10_000)), json!({}));
    assert!(why.len() < 400 && !why.contains('\u{1b}'), "{why}");
}

#[test]
fn a_client_that_asks_without_end_is_told() {
    let mut world = World::new();
    let session = world.attach();
    for _ in 0..MAX_PENDING {
        world.sends(Some(&session), "Page.captureScreenshot", json!({}));
    }
    let answer = world.call(Some(&session), "Page.captureScreenshot", json!({}));
    assert!(answer["error"]["message"].as_str().unwrap().contains("under way"));
}
