//! Commands of the browser's endpoint: a browser in which only the visible targets exist.

use serde_json::{Value, json};

use super::answers::Then;
use super::tabs::{has_tab, tab_of};
use super::targets::{Discovery, NOT_ALLOWED, TypeFilter};
use super::{Filter, MAX_BROWSER_SESSIONS, Outcome, Params, Refusal, Reply};
use crate::domain::web::WebUrl;
use crate::host::cdp::json::Command;
use crate::host::cdp::methods::{self, Verdict};
use crate::host::cdp::rules::Match;

/// A session with a virtual target.
#[derive(Debug)]
pub(super) struct BrowserSession {
    /// The one in which the client asked for it, and is told of it.
    pub(super) via: Option<String>,
    pub(super) scope: Scope,
}

/// What a session with a virtual target is a session with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    /// The browser.
    Browser,
    /// The tab of this page.
    Tab(String),
}

impl BrowserSession {
    /// The page whose tab it is with.
    pub(super) fn page(&self) -> Option<&str> {
        match &self.scope {
            Scope::Tab(page) => Some(page),
            Scope::Browser => None,
        }
    }
}

/// An attachment for auto-attach that is under way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attaching {
    /// The browser session that asked for auto-attach, or the connection itself.
    pub(super) asker: Option<String>,
    pub(super) target: String,
}

/// The client wants to be attached to all that it sees.
#[derive(Debug)]
pub(super) struct AutoAttach {
    pub(super) filter: TypeFilter,
    pub(super) is_flat: bool,
}

/// An answer that waits for attachments.
#[derive(Debug)]
pub(super) struct Waiter {
    left: usize,
    to: Reply,
    result: Value,
}

/// The id of the virtual browser target.
const BROWSER_TARGET: &str = "agent-creds-browser";

impl Filter {
    pub(super) fn browser_command(&mut self, to: &Reply, command: Command) -> Outcome {
        let Command { method, params, .. } = command;
        match method.as_str() {
            "Browser.getVersion" | "Schema.getDomains" => {
                self.ask(None, &method, json!({}), Then::Forward { to: to.clone() });
                Ok(None)
            }
            "Browser.setDownloadBehavior" => Ok(self.download_behavior(to, &params)),
            // The user's windows stay as they are; clients only want this to succeed.
            "Browser.setWindowBounds" => Ok(Some(json!({}))),
            "Browser.getWindowForTarget" => {
                let target = self.visible(&params)?;
                self.ask(None, &method, json!({"targetId": target}), Then::Forward { to: to.clone() });
                Ok(None)
            }
            "Browser.resetPermissions" | "Storage.getCookies" | "Storage.setCookies" | "Storage.clearCookies" => {
                let Some(context) = self.own_context(&params) else {
                    return Err(Refusal::denied(&method, methods::Reason::Shared.text()));
                };
                let mut sent = json!({"browserContextId": context});
                if let Some(cookies) = params.get("cookies") {
                    sent["cookies"] = cookies.clone();
                }
                self.ask(None, &method, sent, Then::Forward { to: to.clone() });
                Ok(None)
            }
            _ if method.starts_with("Target.") => self.target_command(to, &method, &params),
            // Clients say it to whatever they are attached to.
            "Runtime.runIfWaitingForDebugger" if self.asker(to).is_some() => Ok(Some(json!({}))),
            _ => Err(match methods::verdict(&method, false) {
                Verdict::Pass => {
                    Refusal { code: -32601, message: "this command is for a page: attach to one".to_owned() }
                }
                Verdict::Refuse(reason) => Refusal::denied(&method, reason.text()),
            }),
        }
    }

    /// The commands of `Target` that mean the same in every session.
    pub(super) fn target_command(&mut self, to: &Reply, method: &str, params: &Params) -> Outcome {
        let then = || Then::Forward { to: to.clone() };
        match method {
            "Target.setDiscoverTargets" => Ok(Some(self.set_discover(self.asker(to), params))),
            "Target.getTargets" => {
                let filter = TypeFilter::read(params);
                let mut infos = Vec::new();
                for (id, target) in self.targets.iter().filter(|(_, target)| target.is_visible) {
                    infos.extend(filter.wants(&target.info.kind).then(|| self.info(id)));
                    infos.extend((has_tab(&target.info.kind) && filter.wants("tab")).then(|| self.tab_info(id)));
                }
                infos.extend(filter.wants("browser").then(browser_info));
                Ok(Some(json!({"targetInfos": infos})))
            }
            "Target.getTargetInfo" if !params.contains_key("targetId") => {
                let page = self.asker(to).and_then(|asker| self.browser_sessions.get(&asker)?.page());
                let info = page.map_or_else(browser_info, |page| self.tab_info(page));
                Ok(Some(json!({"targetInfo": info})))
            }
            "Target.getTargetInfo" if is_named(params, BROWSER_TARGET) => {
                Ok(Some(json!({"targetInfo": browser_info()})))
            }
            "Target.getTargetInfo" => {
                let target = self.visible(params)?;
                Ok(Some(json!({"targetInfo": self.info(&target)})))
            }
            "Target.setAutoAttach" => Ok(self.set_auto_attach(&self.asker(to), to, params)),
            "Target.attachToTarget" if is_named(params, BROWSER_TARGET) => self.attach_to_browser(to),
            "Target.attachToTarget" => {
                let target = self.visible(params)?;
                let is_flat = is_true(params, "flatten");
                let sent = json!({"targetId": target, "flatten": true});
                self.ask(None, method, sent, Then::Attached { to: to.clone(), target, is_flat });
                Ok(None)
            }
            "Target.attachToBrowserTarget" => self.attach_to_browser(to),
            "Target.detachFromTarget" => self.detach(None, params),
            "Target.sendMessageToTarget" => self.send_message(None, params),
            "Target.activateTarget" => {
                let target = self.visible(params)?;
                self.ask(None, method, json!({"targetId": target}), then());
                Ok(None)
            }
            "Target.closeTarget" => {
                let target = self.visible(params)?;
                if !self.is_own(&target) {
                    // Events follow the answer, as Chrome has it.
                    self.answer(to, &json!({"success": true}));
                    self.dismiss(&target);
                    return Ok(None);
                }
                self.ask(None, method, json!({"targetId": target}), then());
                Ok(None)
            }
            "Target.createTarget" => self.create_target(to, params),
            "Target.getBrowserContexts" => Ok(Some(json!({"browserContextIds": self.contexts}))),
            "Target.createBrowserContext" => {
                let given = |key: &str| params.get(key).is_some_and(|value| !matches!(value.as_str(), Some("")));
                if given("proxyServer") || given("originsWithUniversalNetworkAccess") {
                    return Err(Refusal::denied(
                        method,
                        "a context has no proxy and no special access to the network here",
                    ));
                }
                self.ask(None, method, json!({"disposeOnDetach": true}), Then::ContextCreated { to: to.clone() });
                Ok(None)
            }
            "Target.disposeBrowserContext" => {
                let Some(context) = self.own_context(params) else {
                    return Err(Refusal { code: -32000, message: "Failed to find context".to_owned() });
                };
                let sent = json!({"browserContextId": context});
                self.ask(None, method, sent, Then::ContextDisposed { to: to.clone(), context });
                Ok(None)
            }
            _ => Err(Refusal::denied(method, methods::Reason::Browser.text())),
        }
    }

    /// The target that is named, when the client sees it.
    pub(super) fn visible(&self, params: &Params) -> Result<String, Refusal> {
        match params.get("targetId").and_then(Value::as_str) {
            Some(target) if self.is_visible(target) => Ok(target.to_owned()),
            Some(target) => Err(Refusal::not_found(&super::printable(target))),
            None => Err(Refusal::invalid("Invalid parameters: targetId is missing")),
        }
    }

    fn own_context(&self, params: &Params) -> Option<String> {
        let context = params.get("browserContextId").and_then(Value::as_str)?;
        self.contexts.get(context).cloned()
    }

    /// Downloads would be written to folders of the host: there are none. Clients ask when they connect, so it is no error.
    fn download_behavior(&mut self, to: &Reply, params: &Params) -> Option<Value> {
        let Some(context) = self.own_context(params) else { return Some(json!({})) };
        let sent = json!({"behavior": "deny", "browserContextId": context});
        self.ask(None, "Browser.setDownloadBehavior", sent, Then::Done { to: to.clone() });
        None
    }

    /// Who is told what a command brings about: the browser session that it came in, or the connection itself.
    pub(super) fn asker(&self, to: &Reply) -> Option<String> {
        to.session.clone().filter(|session| self.browser_sessions.contains_key(session))
    }

    fn attach_to_browser(&mut self, to: &Reply) -> Outcome {
        let browsers = self.browser_sessions.values().filter(|session| session.scope == Scope::Browser).count();
        if browsers >= MAX_BROWSER_SESSIONS {
            let message = format!("agent-creds: more than {MAX_BROWSER_SESSIONS} sessions with the browser");
            return Err(Refusal { code: -32000, message });
        }
        self.next += 1;
        let (session, via) = (format!("{BROWSER_TARGET}-{}", self.next), self.asker(to));
        let params = json!({"sessionId": session, "targetInfo": browser_info(), "waitingForDebugger": false});
        self.event(via.as_deref(), "Target.attachedToTarget", &params);
        self.browser_sessions.insert(session.clone(), BrowserSession { via, scope: Scope::Browser });
        Ok(Some(json!({"sessionId": session})))
    }

    /// Ends a session with the browser, and those that came about by it.
    pub(super) fn end_browser_session(&mut self, session: &str) {
        let Some(BrowserSession { via, scope }) = self.browser_sessions.remove(session) else { return };
        let asker = Some(session.to_owned());
        self.discover.remove(&asker);
        self.auto.remove(&asker);
        let below = self.browser_sessions.iter().filter(|(_, other)| other.via == asker);
        for id in below.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.end_browser_session(&id);
        }
        let by_it = self.sessions.iter().filter(|(_, other)| other.via == asker);
        for id in by_it.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.end_session(&id, true);
        }
        let attaching = self.attaching.keys().filter(|attaching| attaching.asker == asker);
        for attaching in attaching.cloned().collect::<Vec<_>>() {
            self.attached(&attaching);
        }
        let target = match scope {
            Scope::Browser => BROWSER_TARGET.to_owned(),
            Scope::Tab(page) => tab_of(&page),
        };
        let params = json!({"sessionId": session, "targetId": target});
        self.event(via.as_deref(), "Target.detachedFromTarget", &params);
    }

    fn set_discover(&mut self, asker: Option<String>, params: &Params) -> Value {
        self.discover.remove(&asker);
        if is_true(params, "discover") {
            let filter = TypeFilter::read(params);
            if filter.wants("browser") {
                self.event(asker.as_deref(), "Target.targetCreated", &json!({"targetInfo": browser_info()}));
            }
            self.discover.insert(asker, Discovery::new(filter));
        }
        for target in self.targets.keys().cloned().collect::<Vec<_>>() {
            self.judge(&target, false);
        }
        json!({})
    }

    fn set_auto_attach(&mut self, asker: &Option<String>, to: &Reply, params: &Params) -> Option<Value> {
        if !is_true(params, "autoAttach") {
            self.auto.remove(asker);
            self.end_tabs(|tab| tab.via == *asker);
            let attached = self.sessions.iter().filter(|(_, session)| session.is_auto_of(asker));
            for session in attached.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
                self.end_session(&session, true);
            }
            return Some(json!({}));
        }
        let auto = AutoAttach { filter: TypeFilter::read(params), is_flat: is_true(params, "flatten") };
        self.auto.insert(asker.clone(), auto);
        for target in self.targets.keys().cloned().collect::<Vec<_>>() {
            if self.is_visible(&target) {
                self.auto_attach(&target);
            }
        }
        self.wait_for(|attaching| attaching.asker == *asker, to, json!({}))
    }

    /// Answers when all attachments of a kind that are under way have come about: at once if there are none.
    fn wait_for(&mut self, which: impl Fn(&Attaching) -> bool, to: &Reply, result: Value) -> Option<Value> {
        let key = self.next + 1;
        let mut left = 0;
        for (_, waiters) in self.attaching.iter_mut().filter(|(attaching, _)| which(attaching)) {
            waiters.push(key);
            left += 1;
        }
        if left == 0 {
            return Some(result);
        }
        self.next = key;
        self.waiters.insert(key, Waiter { left, to: to.clone(), result });
        None
    }

    /// One of the attachments that a waiter waits for is done with.
    pub(super) fn arrived(&mut self, key: u64) {
        let Some(waiter) = self.waiters.get_mut(&key) else { return };
        waiter.left = waiter.left.saturating_sub(1);
        if waiter.left == 0
            && let Some(waiter) = self.waiters.remove(&key)
        {
            self.answer(&waiter.to, &waiter.result);
        }
    }

    fn create_target(&mut self, to: &Reply, params: &Params) -> Outcome {
        let url = params.get("url").and_then(Value::as_str).unwrap_or_default();
        let url = if matches!(url, "" | "about:blank") { "about:blank".to_owned() } else { canonical(url) };
        // It is of no target yet, and so in no origin where a title has matched.
        if url != "about:blank" && self.rules.judge("page", "", &url) != Match::Yes {
            return Err(Refusal::denied("Target.createTarget", NOT_ALLOWED));
        }
        let mut sent = json!({"url": url});
        if params.contains_key("browserContextId") {
            // The context of pages that are seen is no secret, and clients name it.
            let named = params.get("browserContextId").and_then(Value::as_str);
            let shared = |context: &str| {
                self.targets
                    .values()
                    .any(|target| target.is_visible && target.info.browser_context_id.as_deref() == Some(context))
            };
            match named {
                Some(context) if self.contexts.contains(context) || shared(context) => {
                    sent["browserContextId"] = context.into()
                }
                _ => return Err(Refusal { code: -32000, message: "Failed to find browser context".to_owned() }),
            }
        }
        for key in ["width", "height", "newWindow", "background"] {
            if let Some(value) = params.get(key) {
                sent[key] = value.clone();
            }
        }
        self.ask(None, "Target.createTarget", sent, Then::Created { to: to.clone() });
        Ok(None)
    }

    /// Chrome opened a page for the client.
    pub(super) fn created(&mut self, to: &Reply, result: &Value) {
        let target = result["targetId"].as_str().unwrap_or_default().to_owned();
        self.owned.add(&target);
        self.judge(&target, false);
        // Clients expect the session first.
        let result = json!({"targetId": target});
        if let Some(result) = self.wait_for(|attaching| attaching.target == target, to, result) {
            self.answer(to, &result);
        }
    }

    /// Ends a session of `parent`'s.
    pub(super) fn detach(&mut self, parent: Option<&str>, params: &Params) -> Outcome {
        if let Some(session) = params.get("sessionId").and_then(Value::as_str)
            && parent.is_none()
            && self.browser_sessions.contains_key(session)
        {
            self.end_browser_session(session);
            return Ok(Some(json!({})));
        }
        let session = self.named_session(parent, params)?;
        self.end_session(&session, true);
        Ok(Some(json!({})))
    }

    /// A message of a client that does not use flattened sessions.
    pub(super) fn send_message(&mut self, parent: Option<&str>, params: &Params) -> Outcome {
        let session = self.named_session(parent, params)?;
        let text = params.get("message").and_then(Value::as_str).unwrap_or_default();
        match Command::parse(text) {
            Ok(command)
                if command.session.is_none() && self.sessions.get(&session).is_some_and(|session| !session.is_flat) =>
            {
                self.dispatch(Some(session), command);
                Ok(Some(json!({})))
            }
            Ok(_) => Err(Refusal::invalid("this session is a flattened one: send its messages with their sessionId")),
            Err(error) => Err(Refusal::invalid(error.to_string())),
        }
    }

    fn named_session(&self, parent: Option<&str>, params: &Params) -> Result<String, Refusal> {
        let named = params.get("sessionId").and_then(Value::as_str);
        let target = params.get("targetId").and_then(Value::as_str).filter(|_| named.is_none());
        let mut fitting = self.sessions.iter().filter(|(id, session)| {
            session.parent.as_deref() == parent
                && self.root.as_ref() != Some(id)
                && (named == Some(id.as_str()) || target == Some(session.target.as_str()))
        });
        match fitting.next() {
            Some((id, _)) => Ok(id.clone()),
            None => Err(Refusal { code: -32602, message: "No session with given id".to_owned() }),
        }
    }
}

/// `url` as the browser will read it; what is no web address stays as it is, and is refused.
pub(super) fn canonical(url: &str) -> String {
    WebUrl::parse(url).map_or_else(|| url.to_owned(), |url| url.to_string())
}

pub(super) fn is_true(params: &Params, key: &str) -> bool {
    params.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn is_named(params: &Params, target: &str) -> bool {
    params.get("targetId").and_then(Value::as_str) == Some(target)
}

fn browser_info() -> Value {
    json!({"targetId": BROWSER_TARGET, "type": "browser", "title": "", "url": "", "attached": true, "canAccessOpener": false})
}
