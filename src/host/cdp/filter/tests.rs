//! The filter against a browser that is played here, in exchanges as clients and Chrome have them.

#![allow(clippy::needless_pass_by_value, reason = "tests read better with values than with references to them")]

mod askers;
mod hostile;
mod laws;
mod pages;
mod tabs;
mod view;

use serde_json::{Value, json};

use super::*;
use crate::host::cdp::rules::Rule;

/// What the forbidden tab has everywhere.
const SECRET: &str = "s3cr3t";
const APP: &str = "http://localhost:3000/";

/// A filter, its client, and a browser that answers what needs no thought.
struct World {
    filter: Filter,
    owned: Owned,
    infos: BTreeMap<String, Value>,
    /// Whether `Target.getTargetInfo` is answered at once.
    answers_checks: bool,
    /// Whether attachments are not answered at once.
    holds_attachments: bool,
    /// The sessions that the filter ended.
    ended: Vec<String>,
    /// What the filter sent to the browser, and was not answered.
    asked: Vec<Value>,
    /// What the client got.
    got: Vec<Value>,
    closed: Option<&'static str>,
    sessions: u32,
    next: i64,
}

fn rules(url: &str) -> Arc<Rules> {
    Arc::new(Rules::new([Rule::new(None, None, Some(url.parse().unwrap())).unwrap()]))
}

fn page(id: &str, url: &str, title: &str) -> Value {
    json!({"targetId": id, "type": "page", "title": title, "url": url, "attached": false, "canAccessOpener": false, "browserContextId": "DEFAULT"})
}

impl World {
    /// An allowed tab `APP`, and the forbidden tab `MAIL`.
    fn new() -> Self {
        Self::of(Entry::Browser, rules("http://localhost:3000/*"))
    }

    fn of(entry: Entry, rules: Arc<Rules>) -> Self {
        let owned = Owned::default();
        let (filter, out) = Filter::new(entry, rules, owned.clone());
        let mut world = Self {
            filter,
            owned,
            infos: BTreeMap::new(),
            answers_checks: true,
            holds_attachments: false,
            ended: Vec::new(),
            asked: Vec::new(),
            got: Vec::new(),
            closed: None,
            sessions: 0,
            next: 0,
        };
        world.take(out);
        let mail = page("MAIL", &format!("https://mail.example/{SECRET}"), &format!("Inbox {SECRET}"));
        for info in [page("APP", APP, "My App"), mail] {
            world.appears(info);
        }
        let discover = world.asked("Target.setDiscoverTargets");
        world.answers(&discover, json!({}));
        world
    }

    fn take(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Browser(text) => self.browser(serde_json::from_str(&text).unwrap()),
                Output::Client(text) => {
                    assert!(self.closed.is_none());
                    self.got.push(serde_json::from_str(&text).unwrap());
                }
                Output::Close(why) => self.closed = Some(why),
            }
        }
    }

    fn browser(&mut self, message: Value) {
        let target = message["params"]["targetId"].as_str().unwrap_or_default().to_owned();
        match message["method"].as_str().unwrap() {
            "Target.getTargetInfo" if self.answers_checks => self.answer_check(&message),
            "Target.attachToTarget" if !self.holds_attachments => {
                self.sessions += 1;
                self.answers(&message, json!({"sessionId": format!("{target}-{}", self.sessions)}));
            }
            "Target.detachFromTarget" => {
                self.ended.push(message["params"]["sessionId"].as_str().unwrap_or_default().to_owned());
                self.answers(&message, json!({}));
            }
            _ => self.asked.push(message),
        }
    }

    fn answer_check(&mut self, message: &Value) {
        match self.infos.get(message["params"]["targetId"].as_str().unwrap()).cloned() {
            Some(info) => self.answers(message, json!({"targetInfo": info})),
            None => self.says(
                json!({"id": message["id"], "error": {"code": -32602, "message": "No target with given id found"}}),
            ),
        }
    }

    /// The browser sends a message.
    fn says(&mut self, message: Value) {
        let out = self.filter.on_browser(&message.to_string());
        self.take(out);
    }

    fn answers(&mut self, to: &Value, result: Value) {
        let mut message = json!({"id": to["id"], "result": result});
        if let Some(session) = to.get("sessionId") {
            message["sessionId"] = session.clone();
        }
        self.says(message);
    }

    fn event(&mut self, session: &str, method: &str, params: Value) {
        self.says(json!({"method": method, "params": params, "sessionId": session}));
    }

    fn appears(&mut self, info: Value) {
        self.infos.insert(info["targetId"].as_str().unwrap().to_owned(), info.clone());
        self.says(json!({"method": "Target.targetCreated", "params": {"targetInfo": info}}));
    }

    /// A tab goes elsewhere; whether Chrome has said so yet.
    fn goes(&mut self, id: &str, url: &str, title: &str, told: bool) {
        let info = self.infos.get_mut(id).unwrap();
        info["url"] = url.into();
        info["title"] = title.into();
        let info = info.clone();
        if told {
            self.says(json!({"method": "Target.targetInfoChanged", "params": {"targetInfo": info}}));
        }
    }

    /// The one command of this method that is not answered.
    #[track_caller]
    fn asked(&mut self, method: &str) -> Value {
        let at = self.asked.iter().position(|message| message["method"] == method);
        let Some(at) = at else { panic!("{method} was not asked for: {:?}", self.asked) };
        self.asked.remove(at)
    }

    /// The client sends a command; its id.
    fn sends(&mut self, session: Option<&str>, method: &str, params: Value) -> i64 {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        self.raw(&message.to_string());
        self.next
    }

    fn raw(&mut self, text: &str) {
        let out = self.filter.on_client(text);
        self.take(out);
    }

    /// What the client got as the answer, or error, to a command.
    #[track_caller]
    fn answer(&self, id: i64) -> &Value {
        self.got
            .iter()
            .find(|message| message["id"] == id)
            .unwrap_or_else(|| panic!("no answer to {id}: {:?}", self.got))
    }

    #[track_caller]
    fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        let id = self.sends(session, method, params);
        self.answer(id).clone()
    }

    #[track_caller]
    fn refused(&mut self, session: Option<&str>, method: &str, params: Value) -> String {
        let answer = self.call(session, method, params.clone());
        assert!(self.asked.iter().all(|message| message["method"] != method), "{method} {params} reached the browser");
        answer["error"]["message"]
            .as_str()
            .unwrap_or_else(|| panic!("{method} {params} was allowed: {answer}"))
            .to_owned()
    }

    /// Attaches to the allowed tab.
    fn attach(&mut self) -> String {
        let answer = self.call(None, "Target.attachToTarget", json!({"targetId": "APP", "flatten": true}));
        answer["result"]["sessionId"].as_str().unwrap().to_owned()
    }

    /// Attaches, and knows the contexts of the page.
    fn attach_told(&mut self) -> String {
        let session = self.attach();
        self.sends(Some(&session), "Runtime.enable", json!({}));
        let enable = self.asked("Runtime.enable");
        self.event(&session, "Runtime.executionContextCreated", context(1, "u1", "APP"));
        self.answers(&enable, json!({}));
        session
    }

    fn events(&self, method: &str) -> Vec<&Value> {
        self.got.iter().filter(|message| message["method"] == method).collect()
    }
}

fn context(id: i64, unique: &str, frame: &str) -> Value {
    json!({"context": {"id": id, "origin": "x", "name": "", "uniqueId": unique, "auxData": {"isDefault": true, "type": "default", "frameId": frame}}})
}
