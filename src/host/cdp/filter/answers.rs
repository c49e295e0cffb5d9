//! What Chrome answers, and what becomes of it.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::browser::Attaching;
use super::delivery::Payload;
use super::sessions::{Session, Telling};
use super::targets::Info;
use super::{Filter, Refusal, Reply};
use crate::host::cdp::json::{FromChrome, value};

/// A command that Chrome has not answered.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) session: Option<String>,
    pub(super) then: Then,
}

/// What to do with the answer.
#[derive(Debug)]
pub(super) enum Then {
    Ignore,
    /// All targets have been named.
    Discovered,
    /// There is a session for the client of a page's endpoint.
    Entered {
        target: String,
    },
    /// The client attaches.
    Attached {
        to: Reply,
        target: String,
        is_flat: bool,
    },
    /// The filter attaches, for the client's auto-attach.
    AutoAttached(Attaching),
    /// The client opened a page.
    Created {
        to: Reply,
    },
    /// The client made a browser context.
    ContextCreated {
        to: Reply,
    },
    /// The client gave one up.
    ContextDisposed {
        to: Reply,
        context: String,
    },
    /// Where a page is.
    Checked {
        target: String,
    },
    /// The execution contexts are known.
    Contexts,
    /// The client's `Runtime.enable`.
    RuntimeEnabled {
        to: Reply,
    },
    /// Pass it on as it is.
    Forward {
        to: Reply,
    },
    /// Pass it on, and remember the stream it names.
    Stream {
        to: Reply,
    },
    /// Pass on the entries that may be seen.
    History {
        to: Reply,
    },
    /// Pass on the frames, and where they are if that may be seen.
    Frames {
        to: Reply,
    },
    /// Pass on no more than whether it worked.
    Done {
        to: Reply,
    },
}

impl Then {
    /// Whom the answer is for, when it is a client's.
    pub(super) fn reply(&self) -> Option<Reply> {
        match self {
            Self::Attached { to, .. }
            | Self::Created { to }
            | Self::ContextCreated { to }
            | Self::ContextDisposed { to, .. }
            | Self::RuntimeEnabled { to }
            | Self::Forward { to }
            | Self::Stream { to }
            | Self::History { to }
            | Self::Frames { to }
            | Self::Done { to } => Some(to.clone()),
            Self::Ignore
            | Self::Discovered
            | Self::Entered { .. }
            | Self::AutoAttached(_)
            | Self::Checked { .. }
            | Self::Contexts => None,
        }
    }
}

impl Filter {
    /// A message of Chrome's.
    pub(super) fn message(&mut self, text: &str) {
        let Ok(message) = serde_json::from_str::<FromChrome<'_>>(text) else {
            self.close("the browser sent what is no message of the DevTools protocol");
            return;
        };
        match (message.id, message.method) {
            (Some(id), _) => {
                if let Some(pending) = self.pending.remove(&id) {
                    if !matches!(pending.then, Then::Checked { .. }) {
                        self.in_transit.clear();
                    }
                    self.answered(pending, message.result, message.error);
                }
            }
            (None, Some(method)) => {
                // Time has passed: it is worth asking again.
                self.in_transit.clear();
                match message.session {
                    Some(session) => self.page_event(&session, &method, message.params),
                    None => self.browser_event(&method, message.params),
                }
            }
            (None, None) => {}
        }
    }

    fn answered(&mut self, pending: Pending, result: Option<&RawValue>, error: Option<&RawValue>) {
        let failed = error.is_some();
        match pending.then {
            Then::Ignore => {}
            Then::Discovered if failed => self.close("the browser does not tell which pages there are"),
            Then::Discovered => self.discovered(),
            Then::Entered { target } => {
                let id = value(result)["sessionId"].as_str().unwrap_or_default().to_owned();
                let kind = self.kind(&target);
                if failed || self.begin_session(&id, Session::new(&target, &kind, None, true)).is_err() {
                    self.close("the page was closed, or is no longer allowed by a [[cdp_target]]");
                } else {
                    self.root = Some(id);
                    self.resume();
                }
            }
            Then::Attached { to, target, is_flat } => {
                let id = value(result)["sessionId"].as_str().unwrap_or_default().to_owned();
                let mut session = Session::new(&target, &self.kind(&target), None, is_flat);
                session.via = self.asker(&to);
                if let Some(error) = error {
                    self.pass_error(&to, error);
                } else if let Err(refusal) = self.begin_session(&id, session) {
                    self.refuse(&to, refusal);
                } else {
                    self.announce_session(&id, false);
                    self.answer(&to, &json!({"sessionId": id}));
                }
            }
            Then::AutoAttached(attaching) => {
                let id = value(result)["sessionId"].as_str().unwrap_or_default().to_owned();
                match self.auto.get(&attaching.asker).map(|auto| auto.is_flat) {
                    _ if failed => {}
                    Some(is_flat) => {
                        let Attaching { asker, target } = attaching.clone();
                        let mut session = Session::new(&target, &self.kind(&target), None, is_flat);
                        (session.is_auto, session.via) = (true, asker);
                        if self.begin_session(&id, session).is_ok() {
                            self.announce_session(&id, false);
                        }
                    }
                    // Nobody wants it any more.
                    None => self.ask(None, "Target.detachFromTarget", json!({"sessionId": id}), Then::Ignore),
                }
                self.attached(&attaching);
            }
            Then::Checked { target } => {
                match serde_json::from_value::<Info>(value(result)["targetInfo"].clone()) {
                    Ok(info) if !failed && info.target_id == target => self.learn(info),
                    // It is gone.
                    _ => self.forget(&target),
                }
                self.check_done();
            }
            Then::Contexts => {
                if let Some(session) = pending.session {
                    self.contexts_known(&session);
                }
            }
            then => self.answer_client(then, pending.session.as_deref(), result, error),
        }
    }

    fn answer_client(
        &mut self,
        then: Then,
        session: Option<&str>,
        result: Option<&RawValue>,
        error: Option<&RawValue>,
    ) {
        if let Then::RuntimeEnabled { .. } = then
            && let Some(id) = session
        {
            self.contexts_known(id);
        }
        if let (Some(error), Some(to)) = (error, then.reply()) {
            match session {
                Some(session) => {
                    let payload = Payload::Answer { id: to.id, key: "error", value: error.get() };
                    self.pass_on(session, &payload);
                }
                None => self.pass_error(&to, error),
            }
            return;
        }
        let raw = result.map_or("{}", RawValue::get);
        match then {
            Then::Created { to } => self.created(&to, &value(result)),
            Then::ContextCreated { to } => {
                let result = value(result);
                if let Some(context) = result["browserContextId"].as_str() {
                    self.contexts.insert(context.to_owned());
                }
                self.answer(&to, &result);
            }
            Then::ContextDisposed { to, context } => {
                self.contexts.remove(&context);
                self.answer(&to, &json!({}));
            }
            Then::Stream { to } => {
                if let Some(stream) = value(result)["stream"].as_str() {
                    self.streams.insert(stream.to_owned());
                }
                self.forward(&to, session, raw);
            }
            Then::History { to } => {
                let history = self.visible_history(session, value(result)).to_string();
                self.forward(&to, session, &history);
            }
            Then::Frames { to } => {
                let mut frames = value(result);
                let page = session.and_then(|session| self.page_of(session)).unwrap_or_default();
                self.hide_frames(page, &mut frames["frameTree"]);
                self.forward(&to, session, &frames.to_string());
            }
            Then::Done { to } => self.answer(&to, &json!({})),
            Then::Forward { to } | Then::RuntimeEnabled { to } => self.forward(&to, session, raw),
            _ => {}
        }
    }

    fn forward(&mut self, to: &Reply, session: Option<&str>, result: &str) {
        let payload = Payload::Answer { id: to.id, key: "result", value: result };
        match session {
            Some(session) => self.pass_on(session, &payload),
            None => self.answer(to, &serde_json::from_str(result).unwrap_or_default()),
        }
    }

    fn pass_error(&mut self, to: &Reply, error: &RawValue) {
        let error = value(Some(error));
        let message = error["message"].as_str().unwrap_or("the browser refused").to_owned();
        let code = error["code"].as_i64().and_then(|code| i32::try_from(code).ok()).unwrap_or(-32000);
        self.refuse(to, Refusal { code, message });
    }

    pub(super) fn kind(&self, target: &str) -> String {
        self.targets.get(target).map(|target| target.info.kind.clone()).unwrap_or_default()
    }

    /// The execution contexts of a session are known from now on.
    fn contexts_known(&mut self, id: &str) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.runtime.state = Telling::On;
        for (command, method, params) in std::mem::take(&mut session.runtime.parked) {
            let to = Reply { session: Some(id.to_owned()), id: command };
            self.unpark(id, &to, &method, params);
        }
    }

    /// Takes the addresses of frames of other sites, which scripts of the page cannot read either, out of a page's frames.
    fn hide_frames(&self, page: &str, tree: &mut Value) {
        // Not by index, which would put `null` where there are none: clients take that for a list.
        for child in tree.get_mut("childFrames").and_then(Value::as_array_mut).into_iter().flatten() {
            let hidden =
                child["frame"]["url"].as_str().is_some_and(|url| url.starts_with("http") && !self.may_read(page, url));
            if hidden {
                for (key, shown) in [("url", "about:blank"), ("urlFragment", ""), ("unreachableUrl", "")] {
                    if child["frame"].get(key).is_some() {
                        child["frame"][key] = shown.into();
                    }
                }
            }
            self.hide_frames(page, child);
        }
    }

    /// The entries of a tab's history that may be seen; of the others no more than that they are there.
    fn visible_history(&self, session: Option<&str>, mut history: Value) -> Value {
        let page = session.and_then(|session| self.page_of(session)).unwrap_or_default();
        for entry in history["entries"].as_array_mut().into_iter().flatten() {
            let seen = |key: &str| entry[key].as_str().is_none_or(|url| self.may_go(page, url));
            if !seen("url") || !seen("userTypedURL") {
                for key in ["url", "userTypedURL"] {
                    entry[key] = "about:blank".into();
                }
                entry["title"] = "".into();
            }
        }
        history
    }
}
