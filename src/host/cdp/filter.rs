//! The filter between one client and the browser, as a state machine: messages in, messages out, no IO.
//!
//! Whatever endpoint the client connected to, Chrome is spoken to over one browser WebSocket with flattened sessions:
//!
//! ```text
//! client ─ commands ─▶ `Domain.method` of a session: page.rs ─▶ Chrome
//!                      of the browser: browser.rs  (`Target` is virtual: only visible targets exist)
//! Chrome ─ answers, events ─▶ answers.rs, events.rs ─▶ delivery.rs: held until Chrome says where the page is now ─▶ client
//!                └─ targetInfoChanged … ─▶ targets.rs: what is visible; what no longer is, is detached
//! ```

mod answers;
mod browser;
mod delivery;
mod events;
mod page;
mod scripts;
mod sessions;
mod tabs;
mod targets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};

use self::answers::{Pending, Then};
use self::browser::{Attaching, AutoAttach, BrowserSession, Waiter};
use self::delivery::Held;
use self::sessions::Session;
use self::targets::{Discovery, Target};
use super::json::Command;
use super::rules::Rules;

/// Commands of one client that Chrome has not answered.
const MAX_PENDING: usize = 4096;
/// Sessions of one client.
const MAX_SESSIONS: usize = 4096;
/// Sessions of one client with the virtual browser target, each of which may be attached to everything.
const MAX_BROWSER_SESSIONS: usize = 64;
/// Pages that one sandbox may have opened.
const MAX_OWNED: usize = 4096;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this to Chrome.
    Browser(String),
    /// Send this to the client.
    Client(String),
    /// Close the client's WebSocket, for this reason; nothing follows.
    Close(&'static str),
}

/// Where a client connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// `/devtools/browser`.
    Browser,
    /// `/devtools/page/ID`.
    Page(String),
}

/// The pages that a sandbox opened itself, whichever of its clients did. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Owned(Arc<Mutex<BTreeSet<String>>>);

impl Owned {
    pub(super) fn contains(&self, target: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(target)
    }

    pub(super) fn add(&self, target: &str) {
        let mut owned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if owned.len() < MAX_OWNED {
            owned.insert(target.to_owned());
        }
    }

    pub(super) fn remove(&self, target: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(target);
    }
}

/// One client's view of the browser.
#[derive(Debug)]
pub struct Filter {
    rules: Arc<Rules>,
    owned: Owned,
    entry: Entry,
    /// Whether Chrome has said which targets there are; until then `waiting` keeps what the client sends.
    is_ready: bool,
    waiting: VecDeque<String>,
    is_closed: bool,

    targets: BTreeMap<String, Target>,
    /// Pages of the user's that the client has closed: they stay open, and are not there for it any more.
    dismissed: BTreeSet<String>,
    /// The browser contexts that this client made.
    contexts: BTreeSet<String>,
    sessions: BTreeMap<String, Session>,
    /// The session that the client of a page's endpoint speaks with.
    root: Option<String>,
    /// Sessions with the virtual browser target, and with virtual tabs.
    browser_sessions: BTreeMap<String, BrowserSession>,
    /// Handles of streams that answers named.
    streams: BTreeSet<String>,

    /// Who is told of targets: the connection itself (`None`), or a session with the virtual browser target.
    discover: BTreeMap<Option<String>, Discovery>,
    /// Who is attached to targets as they come; the same.
    auto: BTreeMap<Option<String>, AutoAttach>,
    /// What the filter attaches to for `auto`, with the waiters to tell.
    attaching: BTreeMap<Attaching, Vec<u64>>,
    waiters: BTreeMap<u64, Waiter>,

    pending: BTreeMap<u64, Pending>,
    next: u64,
    held: VecDeque<Held>,
    /// How many checks the held messages wait for.
    checks: usize,
    /// Pages that are between two documents, and of which Chrome does not say where they are.
    in_transit: BTreeSet<String>,
    out: Vec<Output>,
}

/// Whom an answer goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reply {
    session: Option<String>,
    id: i64,
}

/// A CDP error.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    code: i32,
    message: String,
}

impl Refusal {
    /// Not allowed; `method` is the client's text.
    fn denied(method: &str, why: impl fmt::Display) -> Self {
        Self { code: -32000, message: format!("agent-creds refuses {}: {why}", printable(method)) }
    }

    fn not_found(what: &str) -> Self {
        Self { code: -32000, message: format!("No target with given id found: {what}") }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self { code: -32602, message: message.into() }
    }
}

/// Text of a client's, bounded and without control characters.
fn printable(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_debug).collect()
}

type Params = Map<String, Value>;
/// What is answered at once; `None` when the answer comes later.
type Outcome = Result<Option<Value>, Refusal>;

impl Filter {
    /// A client that connected to `entry`, and what to tell Chrome first.
    pub fn new(entry: Entry, rules: Arc<Rules>, owned: Owned) -> (Self, Vec<Output>) {
        let mut filter = Self {
            rules,
            owned,
            entry,
            is_ready: false,
            waiting: VecDeque::new(),
            is_closed: false,
            targets: BTreeMap::new(),
            dismissed: BTreeSet::new(),
            contexts: BTreeSet::new(),
            sessions: BTreeMap::new(),
            root: None,
            browser_sessions: BTreeMap::new(),
            streams: BTreeSet::new(),
            discover: BTreeMap::new(),
            auto: BTreeMap::new(),
            attaching: BTreeMap::new(),
            waiters: BTreeMap::new(),
            pending: BTreeMap::new(),
            next: 0,
            held: VecDeque::new(),
            checks: 0,
            in_transit: BTreeSet::new(),
            out: Vec::new(),
        };
        filter.ask(None, "Target.setDiscoverTargets", json!({"discover": true}), Then::Discovered);
        let out = filter.take();
        (filter, out)
    }

    /// The client sent `text`.
    pub fn on_client(&mut self, text: &str) -> Vec<Output> {
        if self.is_ready && !self.is_closed {
            self.command(text);
        } else if self.waiting.len() < MAX_PENDING && !self.is_closed {
            self.waiting.push_back(text.to_owned());
        } else {
            self.close("too many commands before the browser was ready");
        }
        self.take()
    }

    /// Chrome sent `text`.
    pub fn on_browser(&mut self, text: &str) -> Vec<Output> {
        if !self.is_closed {
            self.message(text);
        }
        self.take()
    }

    /// The allowlist has changed.
    pub fn on_rules(&mut self, rules: Arc<Rules>) -> Vec<Output> {
        self.rules = rules;
        if self.is_ready && !self.is_closed {
            for target in self.targets.keys().cloned().collect::<Vec<_>>() {
                self.judge(&target, false);
            }
            for session in self.sessions.keys().cloned().collect::<Vec<_>>() {
                self.judge_child(&session);
            }
        }
        self.take()
    }

    fn take(&mut self) -> Vec<Output> {
        self.pump();
        std::mem::take(&mut self.out)
    }

    fn close(&mut self, why: &'static str) {
        if !self.is_closed {
            self.is_closed = true;
            self.held.clear();
            self.out.push(Output::Close(why));
        }
    }

    /// Chrome has named all its targets.
    fn discovered(&mut self) {
        self.is_ready = true;
        if let Entry::Page(target) = self.entry.clone() {
            if !self.is_visible(&target) {
                self.close("no such target, or no [[cdp_target]] of agent-creds.toml allows it");
                return;
            }
            self.ask(
                None,
                "Target.attachToTarget",
                json!({"targetId": target, "flatten": true}),
                Then::Entered { target },
            );
            // Commands wait until there is the session they are for.
            self.is_ready = false;
            return;
        }
        self.resume();
    }

    fn resume(&mut self) {
        self.is_ready = true;
        while let Some(text) = self.waiting.pop_front() {
            self.command(&text);
        }
    }

    fn command(&mut self, text: &str) {
        match Command::parse(text) {
            Ok(command) => {
                let named = command.session.as_ref();
                if named.is_some_and(|id| self.sessions.get(id).is_some_and(|session| !session.is_flat)) {
                    return self.no_session(&command);
                }
                let session = command.session.clone().or_else(|| self.root.clone());
                self.dispatch(session, command);
            }
            Err(error) => {
                let refusal = json!({"error": {"code": -32700, "message": format!("agent-creds: {error}")}});
                self.deliver_text(refusal.to_string());
            }
        }
    }

    /// A command of `session`, or of the browser.
    fn dispatch(&mut self, session: Option<String>, command: Command) {
        let to = Reply { session: session.clone(), id: command.id };
        if self.pending.len() >= MAX_PENDING {
            let message = format!("agent-creds: more than {MAX_PENDING} commands are under way");
            self.refuse(&to, Refusal { code: -32000, message });
            return;
        }
        let outcome = match session {
            Some(session) if self.sessions.contains_key(&session) => self.page_command(&session, &to, command),
            Some(session) if !self.browser_sessions.contains_key(&session) => {
                return self.no_session(&command);
            }
            _ => self.browser_command(&to, command),
        };
        match outcome {
            Ok(Some(result)) => self.answer(&to, &result),
            Ok(None) => {}
            Err(refusal) => self.refuse(&to, refusal),
        }
    }

    /// As Chrome answers: the client may have written this before it read that the session is gone.
    fn no_session(&mut self, command: &Command) {
        let error = json!({"id": command.id, "sessionId": command.session,
            "error": {"code": -32001, "message": "Session with given id not found."}});
        self.deliver_text(error.to_string());
    }

    /// Sends a command of the filter's own, or one of the client's, to Chrome.
    fn ask(&mut self, session: Option<&str>, method: &str, params: Value, then: Then) {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method});
        message["params"] = params;
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        self.pending.insert(self.next, Pending { session: session.map(str::to_owned), then });
        self.out.push(Output::Browser(message.to_string()));
    }
}
