//! What goes to the client, in order, and only while the page it comes from may be seen.
//!
//! A page can navigate at any moment, and what comes from it just then may be of the next page. So what a page says is held, and
//! Chrome is asked where the page is: when the answer is that it may still be seen, what came *before the question* is passed
//! on. One question serves all that has come meanwhile.

use serde_json::{Value, json};

use super::answers::Then;
use super::{Filter, Output, Refusal, Reply};

/// A message to the client that waits.
#[derive(Debug)]
pub(super) struct Held {
    /// The session it is of; `None` needs no check, and only keeps its place.
    pub(super) session: Option<String>,
    /// The command that it answers: when the answer is dropped, the client is told so.
    pub(super) answers: Option<i64>,
    text: String,
    /// Whether a check that covers it has been begun.
    is_asked: bool,
}

/// A message, without where it goes.
pub(super) enum Payload<'a> {
    /// An answer: `"result": …` or `"error": …`.
    Answer { id: i64, key: &'static str, value: &'a str },
    /// An event.
    Event { method: &'a str, params: &'a str },
}

impl Payload<'_> {
    fn render(&self, session: Option<&str>) -> String {
        let session = session.map(|session| format!(",\"sessionId\":{}", Value::from(session))).unwrap_or_default();
        match self {
            Self::Answer { id, key, value } => format!("{{\"id\":{id},\"{key}\":{value}{session}}}"),
            Self::Event { method, params } => {
                format!("{{\"method\":{},\"params\":{params}{session}}}", Value::from(*method))
            }
        }
    }
}

impl Filter {
    /// An answer that says nothing of a page.
    pub(super) fn answer(&mut self, to: &Reply, result: &Value) {
        let payload = Payload::Answer { id: to.id, key: "result", value: &result.to_string() };
        self.deliver(to.session.as_deref(), &payload, None);
    }

    pub(super) fn refuse(&mut self, to: &Reply, refusal: Refusal) {
        let Refusal { code, message } = refusal;
        let error = json!({"code": code, "message": message}).to_string();
        self.deliver(to.session.as_deref(), &Payload::Answer { id: to.id, key: "error", value: &error }, None);
    }

    /// An event of the filter's own.
    pub(super) fn event(&mut self, session: Option<&str>, method: &str, params: &Value) {
        self.deliver(session, &Payload::Event { method, params: &params.to_string() }, None);
    }

    /// Passes on what a page says, once it is known that it may.
    pub(super) fn pass_on(&mut self, session: &str, payload: &Payload<'_>) {
        self.deliver(Some(session), payload, Some(session));
    }

    fn deliver(&mut self, session: Option<&str>, payload: &Payload<'_>, check: Option<&str>) {
        let answers = match payload {
            Payload::Answer { id, .. } => Some(*id),
            Payload::Event { .. } => None,
        };
        self.wrap(session, payload, check, answers);
    }

    fn wrap(&mut self, session: Option<&str>, payload: &Payload<'_>, check: Option<&str>, answers: Option<i64>) {
        let wrapped = session.filter(|id| self.root.as_deref() != Some(id)).and_then(|id| {
            let session = self.sessions.get(id).filter(|session| !session.is_flat)?;
            Some((id.to_owned(), session.teller().map(str::to_owned), session.target.clone()))
        });
        if let Some((id, parent, target)) = wrapped {
            let params = json!({"sessionId": id, "targetId": target, "message": payload.render(None)}).to_string();
            let payload = Payload::Event { method: "Target.receivedMessageFromTarget", params: &params };
            return self.wrap(parent.as_deref(), &payload, check, answers);
        }
        let text = payload.render(session.filter(|id| self.root.as_deref() != Some(id)));
        self.hold(text, check.map(str::to_owned), answers);
    }

    /// A message that is complete, and says nothing of a page.
    pub(super) fn deliver_text(&mut self, text: String) {
        self.hold(text, None, None);
    }

    fn hold(&mut self, text: String, session: Option<String>, answers: Option<i64>) {
        if self.is_closed {
            return;
        }
        if self.held.is_empty() && session.is_none() {
            self.out.push(Output::Client(text));
            return;
        }
        self.held.push_back(Held { session, answers, text, is_asked: false });
    }

    /// Asks for the pages whose messages wait.
    pub(super) fn pump(&mut self) {
        if self.checks > 0 || self.is_closed || !self.in_transit.is_empty() {
            return;
        }
        self.release();
        let mut pages: Vec<String> = Vec::new();
        for held in &self.held {
            for target in held.session.iter().flat_map(|session| self.documents_of(session)) {
                if !pages.contains(&target) {
                    pages.push(target);
                }
            }
        }
        for held in &mut self.held {
            held.is_asked = true;
        }
        for target in pages {
            self.checks += 1;
            self.ask(None, "Target.getTargetInfo", json!({"targetId": target}), Then::Checked { target });
        }
        if self.checks == 0 {
            // What is left has no documents that could change.
            self.release();
        }
    }

    /// A check has been answered, and what it said was judged.
    pub(super) fn check_done(&mut self) {
        self.checks = self.checks.saturating_sub(1);
        if !self.in_transit.is_empty() {
            // The next answer tells.
            self.held.iter_mut().for_each(|held| held.is_asked = false);
        }
        if self.checks == 0 {
            self.release();
        }
    }

    /// Passes on what was checked, and what needs no check and has nothing before it.
    fn release(&mut self) {
        while let Some(held) = self.held.pop_front_if(|held| held.is_asked || held.session.is_none()) {
            self.out.push(Output::Client(held.text));
        }
    }

    /// The targets whose place decides whether a session's messages may be passed on: all with documents, up to the page.
    fn documents_of(&self, session: &str) -> Vec<String> {
        let mut targets = Vec::new();
        let mut next = self.sessions.get(session);
        while let Some(session) = next {
            if session.has_frames() {
                targets.push(session.target.clone());
            }
            next = session.parent.as_ref().and_then(|parent| self.sessions.get(parent));
        }
        targets
    }
}
