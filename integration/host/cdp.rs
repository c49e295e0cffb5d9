//! The lines of the threat model on CDP, each tried for real.

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::browser::{Raw, SECRET, World, allow, ask, filter};
use crate::support::netns::pyppeteer_python;
use crate::support::probe::eventually;

/// Attaches to the allowed tab.
async fn attach(world: &World, client: &mut Raw) -> (String, String) {
    let target = world.listed().await[0]["id"].as_str().unwrap().to_owned();
    let answer = client.call(None, "Target.attachToTarget", json!({"targetId": target, "flatten": true})).await;
    (target, answer["result"]["sessionId"].as_str().unwrap().to_owned())
}

/// The ids of the tabs that Chrome has at `origin`.
async fn tabs(world: &World, origin: &str) -> Vec<String> {
    let list = world.chrome.ask("GET", "/json/list").await;
    let at = list
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["type"] == "page" && entry["url"].as_str().unwrap().starts_with(origin));
    at.map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn playwright_drives_what_is_allowed_and_sees_nothing_else() {
    let world = World::start().await;
    let report: Value = serde_json::from_str(world.python("playwright_cdp.py").await.trim()).unwrap();
    assert!(report["checks"].as_array().unwrap().len() > 20, "{report}");
    assert_eq!(
        tabs(&world, &world.bank.origin).await.len(),
        2,
        "the bank's tab, and the one that went there, are as they were"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pyppeteer_drives_what_is_allowed_and_sees_nothing_else() {
    let world = World::start().await;
    let said = world.script(&pyppeteer_python(), "pyppeteer_cdp.py").await;
    let report: Value = serde_json::from_str(said.trim()).unwrap();
    assert!(report["checks"].as_array().unwrap().len() > 15, "{report}");
    assert_eq!(tabs(&world, &world.bank.origin).await.len(), 1, "the bank's tab is as it was");
}

/// Attached to tabs, and by them to pages, as Puppeteer is.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_attaches_by_tabs_has_the_allowed_ones() {
    let world = World::start().await;
    let mut client = Raw::connect(world.port, "/devtools/browser/agent-creds").await;
    client.call(None, "Target.setDiscoverTargets", json!({"discover": true, "filter": [{}]})).await;
    let mut attach = json!({"autoAttach": true, "flatten": true, "waitForDebuggerOnStart": true});
    attach["filter"] = json!([{"type": "page", "exclude": true}, {}]);
    client.call(None, "Target.setAutoAttach", attach.clone()).await;
    attach["filter"] = json!([{}]);
    let created = client.call(None, "Target.createTarget", json!({"url": "about:blank"})).await;
    let new = created["result"]["targetId"].as_str().unwrap().to_owned();
    let mut pages = Vec::new();
    let is = |event: &Value, kind: &str| {
        event["method"] == "Target.attachedToTarget" && event["params"]["targetInfo"]["type"] == kind
    };
    let of_tabs: Vec<Value> = client.got.iter().filter(|event| is(event, "tab")).cloned().collect();
    for tab in &of_tabs {
        let session = tab["params"]["sessionId"].as_str().unwrap();
        client.call(Some(session), "Target.setAutoAttach", attach.clone()).await;
        client.call(Some(session), "Runtime.runIfWaitingForDebugger", json!({})).await;
        let page = client.got.iter().find(|event| is(event, "page") && event["sessionId"] == session).unwrap();
        pages.push(page["params"].clone());
    }
    assert_eq!(pages.len(), 2, "{:?}", client.got);
    let own = pages.iter().find(|page| page["targetInfo"]["targetId"] == new.as_str()).unwrap().clone();
    let session = own["sessionId"].as_str().unwrap();
    client.call(Some(session), "Page.enable", json!({})).await;
    client.call(Some(session), "Page.navigate", json!({"url": format!("{}/tab", world.app.origin)})).await;
    client.event("Page.loadEventFired").await;
    let said = client.call(Some(session), "Runtime.evaluate", json!({"expression": "location.pathname"})).await;
    assert_eq!(said["result"]["result"]["value"], "/tab");
    client.call(None, "Target.closeTarget", json!({"targetId": new})).await;
    // The page goes first, and then its tab.
    let gone = loop {
        let event = client.next().await.unwrap();
        if event["method"] == "Target.detachedFromTarget" && event["sessionId"].is_null() {
            break event;
        }
    };
    assert_eq!(gone["params"]["targetId"], format!("agent-creds-tab-{new}"));
    let all = format!("{:?}", client.got);
    assert!(!all.contains(SECRET) && !all.contains(&world.bank.origin), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_forbidden_tab_is_not_there_for_whoever_asks() {
    let world = World::start().await;
    let mut client = Raw::connect(world.port, "/devtools/browser/agent-creds").await;
    let (target, session) = attach(&world, &mut client).await;
    let bank = tabs(&world, &world.bank.origin).await.remove(0);
    for method in
        ["Target.setDiscoverTargets", "Target.getTargets", "Target.setAutoAttach", "Target.getBrowserContexts"]
    {
        client
            .call(
                None,
                method,
                json!({"discover": true, "autoAttach": true, "flatten": true, "waitForDebuggerOnStart": true}),
            )
            .await;
    }
    assert!(!format!("{:?}", client.got).contains(&bank), "{:?}", client.got);
    for (method, params) in [
        ("Target.attachToTarget", json!({"targetId": bank, "flatten": true})),
        ("Target.attachToTarget", json!({"targetId": bank})),
        ("Target.getTargetInfo", json!({"targetId": bank})),
        ("Target.activateTarget", json!({"targetId": bank})),
        ("Target.closeTarget", json!({"targetId": bank})),
        ("Target.createTarget", json!({"url": world.bank.origin})),
        ("Target.createTarget", json!({"url": "file:///etc/passwd"})),
        ("Target.autoAttachRelated", json!({"targetId": bank, "waitForDebuggerOnStart": false})),
        ("Target.exposeDevToolsProtocol", json!({"targetId": target})),
        ("Target.setRemoteLocations", json!({"locations": []})),
        ("Browser.getWindowForTarget", json!({"targetId": bank})),
        ("Browser.getBrowserCommandLine", json!({})),
        ("Browser.close", json!({})),
        ("Browser.crash", json!({})),
        ("Storage.getCookies", json!({})),
        ("Storage.clearDataForOrigin", json!({"origin": world.bank.origin, "storageTypes": "all"})),
        ("SystemInfo.getInfo", json!({})),
        ("SystemInfo.getProcessInfo", json!({})),
        ("Tracing.start", json!({})),
        ("Extensions.loadUnpacked", json!({"path": "/tmp"})),
    ] {
        let answer = client.call(None, method, params.clone()).await;
        assert!(answer["error"]["message"].is_string(), "{method} {params}: {answer}");
    }
    for (method, params) in [
        ("Network.getAllCookies", json!({})),
        ("Network.getCookies", json!({"urls": [world.bank.origin]})),
        ("Network.setCookie", json!({"name": "a", "value": "b", "url": world.bank.origin})),
        (
            "Network.loadNetworkResource",
            json!({"url": world.bank.origin, "frameId": target, "options": {"disableCache": false, "includeCredentials": true}}),
        ),
        ("Storage.getCookies", json!({})),
        (
            "DOMStorage.getDOMStorageItems",
            json!({"storageId": {"securityOrigin": world.bank.origin, "isLocalStorage": true}}),
        ),
        ("IndexedDB.requestDatabaseNames", json!({"securityOrigin": world.bank.origin})),
        ("Page.navigate", json!({"url": world.bank.origin})),
        ("Page.navigate", json!({"url": "file:///etc/passwd"})),
        ("Page.getCookies", json!({})),
        ("Page.setDownloadBehavior", json!({"behavior": "allow", "downloadPath": "/tmp"})),
        ("HeapProfiler.takeHeapSnapshot", json!({})),
        ("DOM.setFileInputFiles", json!({"files": ["/etc/passwd"], "nodeId": 1})),
        ("Target.attachToTarget", json!({"targetId": bank, "flatten": true})),
        ("Target.closeTarget", json!({"targetId": bank})),
    ] {
        let answer = client.call(Some(&session), method, params.clone()).await;
        assert!(answer["error"]["message"].is_string(), "{method} {params}: {answer}");
    }
    // A frame of the bank in the allowed page is no way to it either, nor are its requests.
    client.call(Some(&session), "Network.enable", json!({})).await;
    client
        .call(
            Some(&session),
            "Target.setAutoAttach",
            json!({"autoAttach": true, "flatten": true, "waitForDebuggerOnStart": false}),
        )
        .await;
    let url = format!("{}/frame", world.app.origin);
    client.call(Some(&session), "Page.enable", json!({})).await;
    client.call(Some(&session), "Page.navigate", json!({"url": url})).await;
    client.event("Page.loadEventFired").await;
    let fetch =
        format!("fetch('{}/fetched', {{mode: 'no-cors', credentials: 'include'}}).then(() => 1)", world.bank.origin);
    client.call(Some(&session), "Runtime.evaluate", json!({"expression": fetch, "awaitPromise": true})).await;
    assert_eq!((world.bank.count("/framed"), world.bank.count("/fetched")), (1, 1));
    let requests: Vec<String> = client
        .got
        .iter()
        .filter(|message| message["method"] == "Network.requestWillBeSent")
        .map(|message| message["params"]["requestId"].as_str().unwrap().to_owned())
        .collect();
    assert!(!requests.is_empty());
    for request in requests {
        client.call(Some(&session), "Network.getResponseBody", json!({"requestId": request})).await;
    }
    let frames = client.call(Some(&session), "Page.getFrameTree", json!({})).await;
    assert!(frames["result"].is_object(), "{frames}");
    assert!(!format!("{:?}", client.got).contains(SECRET), "{:?}", client.got);
    assert_eq!(tabs(&world, &world.bank.origin).await, [bank]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_code_runs_where_a_tab_went() {
    let world = World::start().await;
    for way in [format!("{}/", world.bank.origin), format!("{}/away", world.app.origin)] {
        let mut client = Raw::connect(world.port, "/devtools/browser").await;
        let (_, session) = attach(&world, &mut client).await;
        client.call(Some(&session), "Page.enable", json!({})).await;
        client.call(Some(&session), "Page.setBypassCSP", json!({"enabled": true})).await;
        let steal = json!({"source": "fetch(location.origin + '/stolen')", "runImmediately": true});
        let added = client.call(Some(&session), "Page.addScriptToEvaluateOnNewDocument", steal).await;
        assert!(added["result"]["identifier"].is_string(), "{added}");
        let go = format!("location.href = '{way}', 1");
        client.call(Some(&session), "Runtime.evaluate", json!({"expression": go})).await;
        // Code that comes in any moment of the navigation.
        for id in 1000..1400 {
            let expression = "fetch(location.origin + '/stolen'), document.title";
            client.send(&json!({"id": id, "method": "Runtime.evaluate", "params": {"expression": expression}, "sessionId": session}).to_string()).await;
        }
        client.event("Target.detachedFromTarget").await;
        client.call(None, "Browser.getVersion", json!({})).await;
        assert!(!format!("{:?}", client.got).contains(SECRET), "{:?}", client.got);
        // It is the user's tab again; where the script might run, it did.
        assert!(world.app.count("/stolen") > 0);
        assert_eq!(world.bank.count("/stolen"), 0, "{way}");
        // Another one for the next way.
        world.chrome.open(&format!("{}/", world.app.origin), "My App").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tab_of_the_user_that_a_client_closes_stays_open() {
    let world = World::start().await;
    let mut client = Raw::connect(world.port, "/devtools/browser").await;
    let (target, _) = attach(&world, &mut client).await;
    let closed = client.call(None, "Target.closeTarget", json!({"targetId": target})).await;
    assert_eq!(closed["result"], json!({"success": true}));
    client.event("Target.detachedFromTarget").await;
    let again = client.call(None, "Target.attachToTarget", json!({"targetId": target, "flatten": true})).await;
    assert!(again["error"]["message"].as_str().unwrap().contains("No target"), "{again}");
    assert_eq!(tabs(&world, &world.app.origin).await, [target.as_str()], "the user still has it");
    // Another client has not closed it.
    let mut other = Raw::connect(world.port, "/devtools/browser").await;
    assert_eq!(attach(&world, &mut other).await.0, target);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_the_rules_reaches_open_sessions() {
    let world = World::start().await;
    let mut client = Raw::connect(world.port, "/devtools/browser").await;
    let (target, session) = attach(&world, &mut client).await;
    let path = format!("/devtools/page/{target}");
    let mut page = Raw::connect(world.port, &path).await;
    let title = page.call(None, "Runtime.evaluate", json!({"expression": "document.title"})).await;
    assert_eq!(title["result"]["result"]["value"], "My App");
    client.call(None, "Target.setDiscoverTargets", json!({"discover": true})).await;
    world.rules.send(allow(&[&format!("{}/*", world.bank.origin)])).unwrap();
    assert_eq!(client.event("Target.detachedFromTarget").await["params"]["sessionId"], session.as_str());
    assert!(page.next().await.is_none(), "the page's WebSocket is closed");
    client.event("Target.targetDestroyed").await;
    assert_eq!(client.call(Some(&session), "Page.enable", json!({})).await["error"]["code"], -32001);
    // All that the edit brought has come, in whatever order.
    let created = client.got.iter().filter(|message| message["method"] == "Target.targetCreated").count();
    assert_eq!(created, 2, "{:?}", client.got);
    let (status, _) = ask(world.port, "GET", &path, &[]).await;
    assert_eq!(status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_endpoints_show_what_is_allowed() {
    let world = World::start().await;
    let listed = world.listed().await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["url"], format!("{}/", world.app.origin));
    let (status, version) = ask(world.port, "GET", "/json/version", &[]).await;
    assert!(
        status == 200 && version.contains(&format!("ws://localhost:{}/devtools/browser/agent-creds", world.port)),
        "{version}"
    );
    let bank = tabs(&world, &world.bank.origin).await.remove(0);
    let app = tabs(&world, &world.app.origin).await.remove(0);
    for (method, target, expected) in [
        ("GET", format!("/json/close/{bank}"), 404),
        ("GET", format!("/json/activate/{bank}"), 404),
        ("GET", format!("/devtools/page/{bank}"), 404),
        ("GET", format!("/json/close/{app}"), 403),
        ("GET", format!("/json/activate/{app}"), 200),
        ("GET", format!("/json/new?{}", world.app.origin), 405),
        ("PUT", format!("/json/new?{}", world.bank.origin), 403),
        ("PUT", "/json/new?file:///etc/passwd".to_owned(), 403),
        ("PUT", "/json/new?javascript:alert(1)".to_owned(), 403),
        ("GET", "/devtools/inspector.html".to_owned(), 404),
        ("GET", "/devtools/browser".to_owned(), 426),
        ("GET", "/json/protocol".to_owned(), 200),
    ] {
        let (status, text) = ask(world.port, method, &target, &[]).await;
        assert_eq!(status, expected, "{method} {target}: {text}");
        assert!(!text.contains(SECRET));
    }
    for headers in [[("host", "evil.example")], [("origin", "http://localhost:3000")]] {
        assert_eq!(ask(world.port, "GET", "/json/list", &headers).await.0, 403, "{headers:?}");
    }
    let (status, opened) = ask(world.port, "PUT", &format!("/json/new?{}/opened", world.app.origin), &[]).await;
    assert_eq!(status, 200, "{opened}");
    let opened: Value = serde_json::from_str(&opened).unwrap();
    let id = opened["id"].as_str().unwrap();
    eventually("the page is listed", async || {
        let listed = world.listed().await;
        if listed.iter().any(|entry| entry["id"] == id) { Ok(()) } else { Err(format!("{listed:?}")) }
    })
    .await;
    assert_eq!(ask(world.port, "GET", &format!("/json/close/{id}"), &[]).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_messages_are_put_together_before_they_are_judged() {
    let world = World::start().await;
    let mut client = Raw::connect(world.port, "/devtools/browser").await;
    client.send_parts(&[r#"{"id":1,"method":"Browser.get"#, r#"Version","method":"Browser.close"}"#]).await;
    assert_eq!(client.next().await.unwrap()["error"]["code"], -32700);
    client.send_parts(&[r#"{"id":2,"method":"Browser."#, r#"close"}"#]).await;
    assert!(client.next().await.unwrap()["error"]["message"].as_str().unwrap().contains("refuses Browser.close"));
    // Large answers come through.
    let (_, session) = attach(&world, &mut client).await;
    let large = client
        .call(
            Some(&session),
            "Runtime.evaluate",
            json!({"expression": "'x'.repeat(20_000_000)", "returnByValue": true}),
        )
        .await;
    assert_eq!(large["result"]["result"]["value"].as_str().unwrap().len(), 20_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_browser_there_are_answers() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("127.0.0.1:{}", closed.local_addr().unwrap().port());
    drop(closed);
    let (_rules, receiver) = watch::channel(allow(&["*://*/*"]));
    let port = filter(&nobody, receiver).await;
    for target in ["/json/version", "/json/list", "/devtools/page/A"] {
        let (status, text) = ask(port, "GET", target, &[]).await;
        assert!(status == 502 && text.contains("--remote-debugging-port"), "{status} {text}");
    }
    // And one that ends while it is driven.
    let world = World::start().await;
    let mut client = Raw::connect(world.port, "/devtools/browser").await;
    attach(&world, &mut client).await;
    let port = world.port;
    drop(world.chrome);
    while client.next().await.is_some() {}
    eventually("nobody answers", async || match ask(port, "GET", "/json/version", &[]).await {
        (502, _) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

impl Raw {
    /// Sends a message in several frames.
    async fn send_parts(&mut self, parts: &[&str]) {
        for (at, part) in parts.iter().enumerate() {
            let code = OpCode::Data(if at == 0 { Data::Text } else { Data::Continue });
            let frame = Frame::message(part.as_bytes().to_vec(), code, at + 1 == parts.len());
            self.send_frame(Message::Frame(frame)).await;
        }
    }
}
