//! Sessions: who is attached to what, and how an attachment ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};

use super::answers::Then;
use super::browser::Attaching;
use super::delivery::Held;
use super::tabs::has_tab;
use super::targets::Info;
use super::{Filter, MAX_SESSIONS, Refusal, Reply};
use crate::domain::web::WebUrl;
use crate::host::cdp::rules::Match;

/// A session of the client with a target. Its id is Chrome's.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) target: String,
    /// What kind of target it is with: `page`, `iframe`, `worker` …
    pub(super) kind: String,
    /// The session of the page that it is a part of.
    pub(super) parent: Option<String>,
    /// The session with the virtual browser target by which the client attached: it is told there what becomes of this one.
    pub(super) via: Option<String>,
    /// Whether the client wants its messages with a `sessionId`, and not wrapped in others.
    pub(super) is_flat: bool,
    /// Whether the client's auto-attach made it.
    pub(super) is_auto: bool,
    /// How the client wants its children.
    pub(super) flat_children: bool,
    pub(super) runtime: Runtime,
    /// Requests that Chrome has paused, and that the client may decide on.
    pub(super) paused: BTreeSet<String>,
    /// Requests for what the client may not see.
    pub(super) suppressed: BTreeSet<String>,
    /// Requests whose answers the client may read.
    pub(super) readable: BTreeSet<String>,
}

/// What is known of the execution contexts of a session's target.
#[derive(Debug, Clone, Default)]
pub(super) struct Runtime {
    /// Whether Chrome tells of them.
    pub(super) state: Telling,
    /// Whether the client wants to be told.
    pub(super) is_told: bool,
    /// The events that announced those that live, by their id.
    pub(super) contexts: BTreeMap<i64, Value>,
    /// Commands that wait until they are known.
    pub(super) parked: Vec<(i64, String, super::Params)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Telling {
    #[default]
    Off,
    Asked,
    On,
}

impl Session {
    pub(super) fn new(target: &str, kind: &str, parent: Option<String>, is_flat: bool) -> Self {
        Self {
            target: target.to_owned(),
            kind: kind.to_owned(),
            parent,
            via: None,
            is_flat,
            is_auto: false,
            flat_children: true,
            runtime: Runtime::default(),
            paused: BTreeSet::new(),
            suppressed: BTreeSet::new(),
            readable: BTreeSet::new(),
        }
    }

    /// Whether it was made by the auto-attach that `asker` set for whole targets.
    pub(super) fn is_auto_of(&self, asker: &Option<String>) -> bool {
        self.is_auto && self.parent.is_none() && self.via == *asker
    }

    /// The session in which the client is told of this one.
    pub(super) fn teller(&self) -> Option<&str> {
        self.parent.as_deref().or(self.via.as_deref())
    }

    /// Whether it shows documents, which a navigation can replace.
    pub(super) fn has_frames(&self) -> bool {
        !self.kind.ends_with("worker") && self.kind != "worklet"
    }
}

impl Filter {
    /// The sessions with a target.
    pub(super) fn sessions_of(&self, target: &str) -> Vec<String> {
        self.sessions.iter().filter(|(_, session)| session.target == target).map(|(id, _)| id.clone()).collect()
    }

    /// The target of the page that a session belongs to in the end.
    pub(super) fn page_of(&self, session: &str) -> Option<&str> {
        let mut session = self.sessions.get(session)?;
        // Parents are older than their children, so this ends.
        while let Some(parent) = session.parent.as_ref().and_then(|parent| self.sessions.get(parent)) {
            session = parent;
        }
        Some(&session.target)
    }

    /// Attaches for all who want to be attached, unless they are already.
    pub(super) fn auto_attach(&mut self, target: &str) {
        let kind = self.kind(target);
        // What belongs to a page comes with the page.
        if kind == "iframe" || kind == "worker" {
            return;
        }
        // Who is attached to a tab is attached to that tab's page alone; all others to all pages and tabs that they want.
        let tab = |asker: &Option<String>| asker.as_ref().and_then(|asker| self.browser_sessions.get(asker)?.page());
        let attaching = |asker: &Option<String>| Attaching { asker: asker.clone(), target: target.to_owned() };
        let (mut wanted, mut tabs) = (Vec::new(), Vec::new());
        for (asker, auto) in &self.auto {
            if auto.filter.wants(&kind) && tab(asker).is_none_or(|page| page == target) {
                wanted.push(attaching(asker));
            }
            if auto.filter.wants("tab") && tab(asker).is_none() && has_tab(&kind) {
                tabs.push(asker.clone());
            }
        }
        for asker in tabs {
            self.attach_to_tab(asker.as_ref(), target);
        }
        for attaching in wanted {
            let has = |session: &Session| session.is_auto_of(&attaching.asker) && session.target == target;
            if self.attaching.contains_key(&attaching) || self.sessions.values().any(has) {
                continue;
            }
            self.attaching.insert(attaching.clone(), Vec::new());
            let sent = json!({"targetId": target, "flatten": true});
            self.ask(None, "Target.attachToTarget", sent, Then::AutoAttached(attaching));
        }
    }

    /// An attachment for auto-attach has come about, or will not.
    pub(super) fn attached(&mut self, attaching: &Attaching) {
        for waiter in self.attaching.remove(attaching).unwrap_or_default() {
            self.arrived(waiter);
        }
    }

    /// Chrome has attached to a target as we asked; whether the session may be used.
    pub(super) fn begin_session(&mut self, id: &str, session: Session) -> Result<(), Refusal> {
        if self.is_visible(&session.target) && self.sessions.len() < MAX_SESSIONS {
            self.sessions.insert(id.to_owned(), session);
            return Ok(());
        }
        // It went elsewhere meanwhile.
        self.ask(None, "Target.detachFromTarget", json!({"sessionId": id}), Then::Ignore);
        Err(Refusal::not_found(&session.target))
    }

    /// Tells the client of a session that came without a command of its own.
    pub(super) fn announce_session(&mut self, id: &str, is_waiting: bool) {
        let Some(session) = self.sessions.get(id) else { return };
        let parent = session.teller().map(str::to_owned);
        let target = self.info(&session.target);
        let params = json!({"sessionId": id, "targetInfo": target, "waitingForDebugger": is_waiting});
        self.event(parent.as_deref(), "Target.attachedToTarget", &params);
    }

    /// Ends a session and those below it: what is under way fails, what is held is dropped. `detach` tells Chrome.
    pub(super) fn end_session(&mut self, id: &str, detach: bool) {
        let below = |parent: &String| *parent == id;
        let children: Vec<String> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.parent.as_ref().is_some_and(below))
            .map(|(id, _)| id.clone())
            .collect();
        for child in children {
            self.end_session(&child, false);
        }
        if !self.sessions.contains_key(id) {
            return;
        }
        let (dropped, kept): (VecDeque<Held>, _) =
            std::mem::take(&mut self.held).into_iter().partition(|held| held.session.as_deref() == Some(id));
        self.held = kept;
        let lost: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.session.as_deref() == Some(id))
            .map(|(&key, _)| key)
            .collect();
        let gone =
            || Refusal { code: -32000, message: "Target closed, or no longer allowed by a [[cdp_target]]".to_owned() };
        for key in lost {
            if let Some(to) = self.pending.remove(&key).and_then(|pending| pending.then.reply()) {
                self.refuse(&to, gone());
            }
        }
        let parked = self.sessions.get_mut(id).map(|session| std::mem::take(&mut session.runtime.parked));
        let parked = parked.into_iter().flatten().map(|(command, ..)| command);
        for command in dropped.iter().filter_map(|held| held.answers).chain(parked) {
            self.refuse(&Reply { session: Some(id.to_owned()), id: command }, gone());
        }
        let Some(session) = self.sessions.remove(id) else { return };
        if detach {
            let parent = session.parent.as_deref();
            self.ask(parent, "Target.detachFromTarget", json!({"sessionId": id}), Then::Ignore);
        }
        if self.root.as_deref() == Some(id) {
            self.close("the page was closed, or is no longer allowed by a [[cdp_target]]");
        } else {
            let params = json!({"sessionId": id, "targetId": session.target});
            self.event(session.teller(), "Target.detachedFromTarget", &params);
        }
    }

    /// Chrome attached to a part of an allowed page, because the client wants that.
    pub(super) fn child_attached(&mut self, parent: &str, params: &Value) {
        let id = params["sessionId"].as_str().unwrap_or_default().to_owned();
        let Ok(info) = serde_json::from_value::<Info>(params["targetInfo"].clone()) else { return };
        let is_waiting = params["waitingForDebugger"].as_bool().unwrap_or(false);
        let flat = self.sessions.get(parent).is_none_or(|session| session.flat_children);
        let (target, kind) = (info.target_id.clone(), info.kind.clone());
        self.learn(info);
        let mut session = Session::new(&target, &kind, Some(parent.to_owned()), flat);
        session.is_auto = true;
        if !self.sessions.contains_key(parent) || self.sessions.len() >= MAX_SESSIONS || !self.is_part(&target, parent)
        {
            self.ask(Some(&id), "Runtime.runIfWaitingForDebugger", json!({}), Then::Ignore);
            self.ask(Some(parent), "Target.detachFromTarget", json!({"sessionId": id}), Then::Ignore);
            return;
        }
        self.sessions.insert(id.clone(), session);
        self.announce_session(&id, is_waiting);
    }

    /// Whether a target that Chrome found within an allowed page may be seen with it: workers of its own are its own code; frames
    /// of other sites, and workers that serve others too, must be of its origin or allowed themselves.
    fn is_part(&self, target: &str, parent: &str) -> bool {
        let Some(info) = self.targets.get(target).map(|target| &target.info) else { return false };
        if matches!(info.kind.as_str(), "worker" | "worklet" | "auction_worklet") {
            return info.kind != "auction_worklet";
        }
        let origin = |target: &str| {
            let url = self.targets.get(target).map(|target| target.info.url.clone()).unwrap_or_default();
            WebUrl::parse(url.strip_prefix("blob:").unwrap_or(&url)).map(|url| url.origin())
        };
        let same = origin(target).is_some()
            && origin(target) == self.sessions.get(parent).and_then(|parent| origin(&parent.target));
        // A frame that has not begun to load has no address yet; it is judged again when it has.
        let empty = info.kind == "iframe" && matches!(info.url.as_str(), "" | "about:blank" | "about:srcdoc");
        same || empty || self.rules.judge(&info.kind, &info.title, &info.url) == Match::Yes
    }

    /// Ends a child's session when the child is no longer a part of its page.
    pub(super) fn judge_child(&mut self, id: &str) {
        let Some(session) = self.sessions.get(id) else { return };
        let (target, Some(parent)) = (session.target.clone(), session.parent.clone()) else { return };
        if !self.is_part(&target, &parent) {
            self.end_session(id, true);
        }
    }
}
