//! The host's Chrome from inside a sandbox: real Chromium on the host, unmodified clients and hostile ones in runc and gVisor.

#![allow(clippy::needless_pass_by_value, reason = "tests read better with values than with references to them")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};

use serde_json::{Value, json};

use super::clients::packages;
use super::world::{PATIENCE, World, eventually};
use crate::host::browser::{Chromium, SECRET, Site};

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/sandbox/cdp_client.py");
const TITLE: &str = "The bank s3cr3t-of-the-bank";

/// A browser with a tab that is allowed and one that is not, and a sandbox.
struct Desk {
    world: World,
    chrome: Chromium,
    app: Site,
    bank: Site,
    /// Carries the sites.
    tokio: tokio::runtime::Runtime,
}

impl Desk {
    fn new(runtime: &'static str) -> Self {
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (chrome, app, bank) = tokio.block_on(async {
            let bank = Site::start("127.0.0.1", TITLE, SECRET, None).await;
            let app = Site::start("localhost", "My App", "own-of-the-app", Some(bank.origin.clone())).await;
            let chrome = Chromium::start().await;
            chrome.open(&format!("{}/", bank.origin), TITLE).await;
            chrome.open(&format!("{}/", app.origin), "My App").await;
            (chrome, app, bank)
        });
        let world = World::new(runtime).with_env("AGENT_CREDS_CDP", &chrome.address());
        Self { world, chrome, app, bank, tokio }
    }

    /// A rule for the app, with more lines.
    fn app_target(&self, lines: &str) -> String {
        format!("[[cdp_target]]\nurl = \"{}/*\"\n{lines}\n", self.app.origin)
    }

    /// Writes the project's file with these `[[cdp_target]]`s, and more lines of `[sandbox]`.
    fn configure(&self, sandbox: &str, targets: &str) {
        self.world.project("shop", sandbox, targets, &[]);
    }

    /// The tabs that the user has at `origin`.
    fn tabs(&self, origin: &str) -> Vec<String> {
        let list = self.tokio.block_on(self.chrome.ask("GET", "/json/list"));
        let is_there = |tab: &&Value| tab["type"] == "page" && tab["url"].as_str().unwrap().starts_with(origin);
        let tabs = list.as_array().unwrap().iter().filter(is_there);
        tabs.map(|tab| tab["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Status and text of an answer inside; `000` when there was none.
    fn curl(&self, arguments: &str) -> (String, String) {
        let said = self.world.exec("shop", &format!("curl -s --max-time 20 -w '\\n%{{http_code}}' {arguments}"));
        let (text, status) = said.rsplit_once('\n').unwrap_or(("", &said));
        (status.to_owned(), text.to_owned())
    }

    /// Launches the sandbox, and waits until the browser is found in it.
    fn launch(&self) {
        self.world.says("shop", "true");
        self.becomes("9222", "200");
    }

    /// Waits until a port answers inside with this status.
    fn becomes(&self, port: &str, status: &str) {
        let url = format!("http://localhost:{port}/json/version");
        let mut seen = (String::new(), String::new());
        eventually(&format!("{port} answers {status}"), || {
            seen = self.curl(&url);
            seen.0 == status
        });
    }

    /// A client inside.
    fn connect(&self, port: u16, path: &str) -> Client {
        fs::copy(CLIENT, self.world.path("shop/cdp_client.py")).unwrap();
        let url = format!("ws://localhost:{port}{path}");
        let container = self.world.container("shop");
        let mut child = Command::new("docker")
            .args(["exec", "-i", &container, "python3", "/workspace/cdp_client.py", &url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut client = Client { child, stdin, lines, got: Vec::new(), next: 0 };
        assert_eq!(client.hears(), json!({"open": true}));
        client
    }
}

/// A client in the sandbox that says what it likes.
struct Client {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    got: Vec<Value>,
    next: i64,
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Client {
    fn says(&mut self, parts: &[&str]) {
        // A client that has ended is found out by listening.
        let _ = writeln!(self.stdin, "{}", json!(parts));
    }

    fn hears(&mut self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|error| panic!("{error}; the last were {:?}", self.got.iter().rev().take(5)));
        let message: Value = serde_json::from_str(&line).unwrap();
        self.got.push(message.clone());
        message
    }

    fn send(&mut self, session: Option<&str>, method: &str, params: Value) -> i64 {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        self.says(&[&message.to_string()]);
        self.next
    }

    fn answer(&mut self, id: i64) -> Value {
        loop {
            let message = self.hears();
            assert!(message["closed"].is_null(), "{message}");
            if message["id"] == id {
                return message;
            }
        }
    }

    fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        let id = self.send(session, method, params);
        self.answer(id)
    }

    /// The error of a command that is refused.
    fn refused(&mut self, session: Option<&str>, method: &str, params: Value) -> String {
        let answer = self.call(session, method, params.clone());
        let error = answer["error"]["message"].as_str();
        error.unwrap_or_else(|| panic!("{method} {params}: {answer}")).to_owned()
    }

    /// Attaches to the one page that there is; its target and the session.
    fn attach(&mut self) -> (String, String) {
        let targets = self.call(None, "Target.getTargets", json!({}))["result"]["targetInfos"].clone();
        let pages: Vec<_> = targets.as_array().unwrap().iter().filter(|target| target["type"] == "page").collect();
        assert_eq!(pages.len(), 1, "{targets}");
        let target = pages[0]["targetId"].as_str().unwrap().to_owned();
        let attached = self.call(None, "Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        (target, attached["result"]["sessionId"].as_str().unwrap().to_owned())
    }

    fn until(&mut self, method: &str) -> Value {
        if let Some(seen) = self.got.iter().find(|message| message["method"] == method) {
            return seen.clone();
        }
        loop {
            let message = self.hears();
            assert!(message["closed"].is_null(), "{message}");
            if message["method"] == method {
                return message;
            }
        }
    }

    /// Why the WebSocket was closed.
    fn closed(&mut self) -> String {
        loop {
            let message = self.hears();
            if let Some(why) = message["closed"].as_str() {
                return why.to_owned();
            }
        }
    }

    fn has_heard(&self, text: &str) -> bool {
        self.got.iter().any(|message| message.to_string().contains(text))
    }
}

fn playwright_drives_an_allowed_tab(runtime: &'static str) {
    let desk = Desk::new(runtime);
    desk.configure("", &desk.app_target(""));
    packages(&desk.world);
    desk.launch();
    let script = format!(
        "PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=packages python3 sdk/playwright_cdp.py http://localhost:9222 {} {}",
        desk.app.origin, desk.bank.origin
    );
    let report: Value = serde_json::from_str(&desk.world.says("shop", &script)).unwrap();
    assert!(report["checks"].as_array().unwrap().len() > 20, "{report}");
    assert_eq!(desk.tabs(&desk.bank.origin).len(), 2, "the bank's tab, and the one that went there");
}

#[test]
fn playwright_drives_an_allowed_tab_from_runc() {
    playwright_drives_an_allowed_tab("runc");
}

#[test]
fn playwright_drives_an_allowed_tab_from_gvisor() {
    playwright_drives_an_allowed_tab("runsc");
}

fn a_forbidden_tab_is_not_there(runtime: &'static str) {
    let desk = Desk::new(runtime);
    desk.configure("", &desk.app_target(""));
    desk.launch();
    let bank = desk.tabs(&desk.bank.origin).remove(0);
    the_raw_port_and_the_endpoints_are_filtered(&desk, &bank);
    commands_for_what_is_forbidden_are_refused(&desk, &bank);
    a_tab_that_goes_elsewhere_is_detached(&desk);
}

#[test]
fn a_forbidden_tab_is_not_there_from_runc() {
    a_forbidden_tab_is_not_there("runc");
}

#[test]
fn a_forbidden_tab_is_not_there_from_gvisor() {
    a_forbidden_tab_is_not_there("runsc");
}

fn the_raw_port_and_the_endpoints_are_filtered(desk: &Desk, bank: &str) {
    let (app, chrome) = (desk.tabs(&desk.app.origin).remove(0), desk.chrome.port);
    let gateway = desk.world.inspect("shop", "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}");
    let mut heard = String::new();
    for (arguments, expected) in [
        ("http://localhost:9222/json/list".to_owned(), "200"),
        ("http://127.0.0.1:9222/json".to_owned(), "200"),
        ("http://localhost:9222/json/protocol".to_owned(), "200"),
        // Chrome's own port, by every way there is.
        (format!("http://127.0.0.1:{chrome}/json"), "000"),
        (format!("http://{gateway}:{chrome}/json"), "400"),
        (format!("http://host.docker.internal:{chrome}/json"), "000"),
        (format!("-H 'Host: localhost:{chrome}' http://{gateway}:{chrome}/json"), "403"),
        (format!("-H 'Host: localhost:9222' http://{gateway}:{chrome}/json"), "200"),
        // Pages are opened and closed as the file allows.
        (format!("-X PUT 'http://localhost:9222/json/new?{}/'", desk.bank.origin), "403"),
        ("-X PUT http://localhost:9222/json/new?file:///etc/passwd".to_owned(), "403"),
        ("http://localhost:9222/json/new?about:blank".to_owned(), "405"),
        (format!("http://localhost:9222/json/close/{app}"), "403"),
        (format!("http://localhost:9222/json/close/{bank}"), "404"),
        (format!("http://localhost:9222/json/activate/{bank}"), "404"),
        (format!("--path-as-is http://localhost:9222/json/activate/../close/{app}"), "404"),
        (format!("http://localhost:9222/devtools/page/{bank}"), "404"),
        // Pages in browsers of the sandbox are not programs.
        ("-H 'Origin: http://evil.example' http://localhost:9222/json".to_owned(), "403"),
        ("-H 'Host: evil.example' http://localhost:9222/json".to_owned(), "400"),
    ] {
        let (status, text) = desk.curl(&arguments);
        assert_eq!(status, expected, "{arguments}: {text}");
        heard.push_str(&text);
    }
    assert!(heard.contains("My App") && heard.contains(&app));
    assert!(!heard.contains(SECRET) && !heard.contains(bank), "{heard}");
    assert_eq!((desk.tabs(&desk.app.origin).len(), desk.tabs(&desk.bank.origin).len()), (1, 1));
}

fn commands_for_what_is_forbidden_are_refused(desk: &Desk, bank: &str) {
    let mut client = desk.connect(9222, "/devtools/browser/agent-creds");
    for method in ["Target.setDiscoverTargets", "Target.setAutoAttach", "Target.getTargets"] {
        let all = json!({"discover": true, "autoAttach": true, "flatten": true, "waitForDebuggerOnStart": false,
            "filter": [{}]});
        client.call(None, method, all);
    }
    let (_, session) = client.attach();
    for (session, method, params) in [
        (None, "Target.attachToTarget", json!({"targetId": bank, "flatten": true})),
        (None, "Target.createTarget", json!({"url": desk.bank.origin})),
        (None, "Target.createTarget", json!({"url": "file:///etc/passwd"})),
        (None, "Target.closeTarget", json!({"targetId": bank})),
        (None, "Target.exposeDevToolsProtocol", json!({"targetId": bank})),
        (None, "Storage.getCookies", json!({})),
        (None, "Browser.close", json!({})),
        (Some(&session), "Storage.getCookies", json!({})),
        (Some(&session), "Network.getAllCookies", json!({})),
        (Some(&session), "Network.getCookies", json!({"urls": [desk.bank.origin]})),
        (
            Some(&session),
            "DOMStorage.getDOMStorageItems",
            json!({"storageId": {"securityOrigin": desk.bank.origin, "isLocalStorage": true}}),
        ),
        (Some(&session), "Page.navigate", json!({"url": format!("{}/", desk.bank.origin)})),
        (Some(&session), "Page.navigate", json!({"url": "file:///etc/passwd"})),
        (Some(&session), "Page.navigate", json!({"url": "javascript:alert(1)"})),
        (Some(&session), "DOM.setFileInputFiles", json!({"files": ["/etc/passwd"], "nodeId": 1})),
        (Some(&session), "Page.setDownloadBehavior", json!({"behavior": "allow", "downloadPath": "/tmp"})),
    ] {
        client.refused(session.map(String::as_str), method, params);
    }
    // A message in parts, and one with a key twice.
    client.says(&[r#"{"id":9001,"method":"Brow"#, r#"ser.clo"#, r#"se"}"#]);
    let refused = client.answer(9001);
    assert!(refused["error"]["message"].as_str().unwrap().contains("refuses Browser.close"), "{refused}");
    client.says(&[r#"{"id":9002,"method":"Browser.getVersion","method":"Browser.close"}"#]);
    assert_eq!(client.hears()["error"]["code"], -32700);
    let told = client.call(None, "Browser.getVersion", json!({}));
    assert!(told["result"]["product"].is_string(), "the browser is there: {told}");
    assert!(!client.has_heard(SECRET), "{:?}", client.got);
    // Refusals repeat the id that was named; nothing else has it.
    let told: Vec<_> = client.got.iter().filter(|message| message["error"].is_null()).collect();
    assert!(told.len() > 5 && !told.iter().any(|message| message.to_string().contains(bank)), "{told:?}");
}

fn a_tab_that_goes_elsewhere_is_detached(desk: &Desk) {
    let mut client = desk.connect(9222, "/devtools/browser");
    let (_, session) = client.attach();
    let go = json!({"expression": format!("location.href = '{}/', 1", desk.bank.origin)});
    client.call(Some(&session), "Runtime.evaluate", go);
    client.until("Target.detachedFromTarget");
    let targets = client.call(None, "Target.getTargets", json!({}));
    assert_eq!(targets["result"]["targetInfos"], json!([]));
    let title = client.refused(Some(&session), "Runtime.evaluate", json!({"expression": "document.title"}));
    assert!(title.contains("Session with given id not found"), "{title}");
    assert!(!client.has_heard(SECRET), "{:?}", client.got);
}

#[test]
fn edits_reach_open_sessions_and_ports() {
    let desk = Desk::new("runc");
    let both = format!("{}{}", desk.app_target(""), desk.app_target("port = 9333\ntitle = \"Nobody has this\""));
    desk.configure("", &both);
    desk.launch();
    desk.becomes("9333", "200");
    assert_eq!(desk.curl("http://localhost:9333/json/list"), ("200".to_owned(), "[]".to_owned()), "a view of its own");
    let mut client = desk.connect(9222, "/devtools/browser");
    let (target, session) = client.attach();
    let mut other = desk.connect(9333, "/devtools/browser");
    let alive = |client: &mut Client, session: &str| {
        let answer = client.call(Some(session), "Runtime.evaluate", json!({"expression": "1 + 1"}));
        assert_eq!(answer["result"]["result"]["value"], 2, "{answer}");
    };
    alive(&mut client, &session);

    // A broken file changes nothing.
    desk.configure("", &both.replace("url =", "urls ="));
    eventually("the file is known to be broken", || desk.world.listed("shop")["problems"].to_string().contains("urls"));
    alive(&mut client, &session);

    // The other port gets a rule that fits: the session that is open sees the tab.
    other.call(None, "Target.setDiscoverTargets", json!({"discover": true}));
    desk.configure("", &format!("{}{}", desk.app_target(""), desk.app_target("port = 9333")));
    assert_eq!(other.until("Target.targetCreated")["params"]["targetInfo"]["targetId"], target.as_str());
    alive(&mut client, &session);

    // The port goes: so do its sessions, and nobody listens.
    desk.configure("", &desk.app_target(""));
    assert!(other.closed().contains("no more"));
    desk.becomes("9333", "000");
    alive(&mut client, &session);

    // The rule goes.
    desk.configure("", "[[cdp_target]]\ntitle = \"Nobody has this\"\n");
    client.until("Target.detachedFromTarget");
    let title = client.refused(Some(&session), "Runtime.evaluate", json!({"expression": "document.title"}));
    assert!(title.contains("Session with given id not found"), "{title}");
    desk.configure("", &desk.app_target(""));
    eventually("it is there again", || {
        let found = client.call(None, "Target.getTargets", json!({}))["result"]["targetInfos"].clone();
        found.as_array().is_some_and(|found| found.len() == 1)
    });

    // All of it is turned off, and on.
    desk.configure("use_host_browser_cdp = false", &desk.app_target(""));
    assert!(client.closed().contains("no more"));
    desk.becomes("9222", "000");
    let gateway = desk.world.inspect("shop", "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}");
    let (status, why) = desk.curl(&format!("-H 'Host: localhost:9222' http://{gateway}/json/list"));
    assert!(status == "403" && why.contains("use_host_browser_cdp = false"), "{status} {why}");
    desk.configure("", &desk.app_target(""));
    desk.becomes("9222", "200");

    // The proxy is started again when it dies.
    let kill = "for p in /proc/[0-9]*; do if grep -qx cdp-proxy $p/comm; then kill -9 ${p#/proc/}; fi; done";
    let client = desk.connect(9222, "/devtools/browser");
    desk.world.exec("shop", kill);
    desk.becomes("9222", "200");
    drop(client);

    // The sandbox stops: so do its sessions, also for who holds on to them.
    let mut last = desk.connect(9222, "/devtools/browser");
    last.attach();
    let stopped = desk.world.adev("shop", &["stop"]);
    assert!(stopped.status.success(), "{stopped:?}");
    eventually("the server has let go of the browser", || established(desk.chrome.port) == 0);
}

/// Connections to a port of this machine's loopback.
fn established(port: u16) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let to = format!(":{port:04X}");
    let is_to = |line: &&str| {
        let words: Vec<_> = line.split_whitespace().collect();
        words.len() > 3 && words[2].ends_with(&to) && words[3] == "01"
    };
    table.lines().skip(1).filter(is_to).count()
}

#[test]
fn a_browser_that_comes_and_goes_is_said_to() {
    let mut desk = Desk::new("runc");
    desk.configure("", &desk.app_target(""));
    desk.launch();
    let mut client = desk.connect(9222, "/devtools/browser");
    let (target, session) = client.attach();

    // The user closes the tab while a command is under way.
    let id = client.send(
        Some(&session),
        "Runtime.evaluate",
        json!({
            "expression": "new Promise(() => {})", "awaitPromise": true
        }),
    );
    client.call(Some(&session), "Runtime.evaluate", json!({"expression": "1"}));
    let address = desk.chrome.port;
    let close = format!("/json/close/{target}");
    desk.tokio.block_on(crate::host::browser::ask(address, "GET", &close, &[]));
    let answer = client.answer(id);
    assert!(answer["error"]["message"].is_string(), "{answer}");

    // The browser ends: so does the session, and whoever comes is told.
    desk.chrome.end();
    assert!(client.closed().contains("the browser is gone"));
    desk.becomes("9222", "502");
    let (_, why) = desk.curl("http://localhost:9222/json/version");
    let command = format!("chromium --remote-debugging-port={} --user-data-dir=DIR", desk.chrome.port);
    assert!(why.contains(&command), "{why}");

    // Another one starts at the same port.
    let port = desk.chrome.port;
    desk.chrome = desk.tokio.block_on(Chromium::start_at(port));
    desk.becomes("9222", "200");
    desk.tokio.block_on(desk.chrome.open(&format!("{}/", desk.app.origin), "My App"));
    let mut client = desk.connect(9222, "/devtools/browser");
    client.attach();
}

#[test]
fn one_sandbox_sees_nothing_of_anothers() {
    let desk = Desk::new("runc");
    desk.configure("", &desk.app_target(""));
    desk.launch();
    // Another project has no targets: the same port, the same browser, nothing to see.
    desk.world.project("bare", "", "", &[]);
    desk.world.says("bare", "true");
    let mut seen = String::new();
    eventually("its proxy listens", || {
        seen = desk.world.exec("bare", "curl -s --max-time 20 -w '\\n%{http_code}' http://localhost:9222/json/list");
        seen.ends_with("\n403")
    });
    assert!(seen.contains("[[cdp_target]]"), "{seen}");
    // What one opens itself is not there for the other, though both may open blank pages.
    let own = desk.curl("-X PUT http://localhost:9222/json/new?about:blank").1;
    let own: Value = serde_json::from_str(&own).unwrap();
    let id = own["id"].as_str().unwrap();
    let other = "[[cdp_target]]\nurl = \"http://localhost:1/*\"\n";
    desk.world.project("bare", "", other, &[]);
    eventually("the other one may use the browser", || {
        seen = desk.world.exec("bare", "curl -s --max-time 20 http://localhost:9222/json/list");
        seen == "[]"
    });
    let close = format!("curl -s -o /dev/null -w '%{{http_code}}' http://localhost:9222/json/close/{id}");
    assert_eq!(desk.world.exec("bare", &close), "404");
    assert_eq!(desk.world.exec("shop", &close), "200");
}
