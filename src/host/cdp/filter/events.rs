//! What Chrome tells without being asked.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Filter;
use super::answers::Then;
use super::delivery::Payload;
use super::targets::Info;
use crate::host::cdp::json::value;
use crate::host::cdp::methods;

/// Requests of one session that are kept from the client at the same time.
const MAX_SUPPRESSED: usize = 1000;

impl Filter {
    /// An event of the browser's.
    pub(super) fn browser_event(&mut self, method: &str, params: Option<&RawValue>) {
        match method {
            "Target.targetCreated" | "Target.targetInfoChanged" => {
                if let Ok(info) = serde_json::from_value::<Info>(value(params)["targetInfo"].clone()) {
                    self.learn(info);
                }
            }
            "Target.targetDestroyed" => self.forget(value(params)["targetId"].as_str().unwrap_or_default()),
            "Target.targetCrashed" => {
                let params = value(params);
                if params["targetId"].as_str().is_some_and(|target| self.announced.contains(target)) {
                    self.event(None, method, &params);
                }
            }
            "Target.detachedFromTarget" => {
                self.end_session(value(params)["sessionId"].as_str().unwrap_or_default(), false);
            }
            _ => {}
        }
    }

    /// An event of a session's.
    pub(super) fn page_event(&mut self, id: &str, method: &str, params: Option<&RawValue>) {
        let Some(session) = self.sessions.get(id) else { return };
        let is_told = session.runtime.is_told;
        match method {
            "Target.attachedToTarget" => return self.child_attached(id, &value(params)),
            "Target.detachedFromTarget" => {
                return self.end_session(value(params)["sessionId"].as_str().unwrap_or_default(), false);
            }
            "Runtime.executionContextCreated" | "Runtime.executionContextDestroyed" | "Runtime.executionContextsCleared" => {
                self.learn_context(id, method, &value(params));
                if !is_told {
                    return;
                }
            }
            "Runtime.bindingCalled" => {}
            // The filter asked for these, not the client.
            _ if method.starts_with("Runtime.") && !is_told => return,
            _ if method.starts_with("Network.") => return self.network_event(id, method, params),
            _ if method.starts_with("Fetch.") => return self.fetch_event(id, method, params),
            _ if method.starts_with("Page.") && !self.page_moved(id, method, params) => return,
            _ if !methods::may_emit(method) => return,
            _ => {}
        }
        let params = params.map_or("{}", RawValue::get);
        self.pass_on(id, &Payload::Event { method, params });
    }

    /// Judges where a page says it is, or goes; whether the event may be passed on.
    fn page_moved(&mut self, id: &str, method: &str, params: Option<&RawValue>) -> bool {
        let Some(target) = self.sessions.get(id).map(|session| session.target.clone()) else { return false };
        match method {
            "Page.frameNavigated" => {
                let frame = &value(params)["frame"];
                let is_main = frame["id"] == target.as_str() && frame["parentId"].as_str().is_none();
                if let (true, Some(url)) = (is_main, frame["url"].as_str()) {
                    self.moved(&target, &format!("{url}{}", frame["urlFragment"].as_str().unwrap_or_default()));
                }
            }
            "Page.navigatedWithinDocument" => {
                let params = value(params);
                if let (true, Some(url)) = (params["frameId"] == target.as_str(), params["url"].as_str()) {
                    self.moved(&target, url);
                }
            }
            "Page.frameRequestedNavigation" | "Page.frameScheduledNavigation" | "Page.frameStartedNavigating" | "Page.windowOpen"
            | "Page.downloadWillBegin" => {
                let url = value(params)["url"].as_str().unwrap_or_default().to_owned();
                let page = self.page_of(id).unwrap_or_default();
                return url == "about:blank" || self.may_go(page, &url);
            }
            _ => {}
        }
        self.sessions.contains_key(id)
    }

    fn network_event(&mut self, id: &str, method: &str, params: Option<&RawValue>) {
        let own = self.page_of(id).is_some_and(|page| self.is_in_own_context(page));
        let Some(session) = self.sessions.get(id) else { return };
        let looks_inside = matches!(
            method,
            "Network.requestWillBeSent" | "Network.requestWillBeSentExtraInfo" | "Network.responseReceived" | "Network.responseReceivedExtraInfo"
                | "Network.responseReceivedEarlyHints" | "Network.webSocketWillSendHandshakeRequest" | "Network.webSocketHandshakeResponseReceived"
        );
        if !looks_inside && session.suppressed.is_empty() {
            let params = params.map_or("{}", RawValue::get);
            return self.pass_on(id, &Payload::Event { method, params });
        }
        let mut params = value(params);
        let request = params["requestId"].as_str().unwrap_or_default().to_owned();
        let leaves = method == "Network.requestWillBeSent"
            && params["type"] == "Document"
            && params["frameId"] == session.target.as_str()
            && !self.may_go(self.page_of(id).unwrap_or_default(), params["request"]["url"].as_str().unwrap_or_default());
        let Some(session) = self.sessions.get_mut(id) else { return };
        if leaves && session.suppressed.len() < MAX_SUPPRESSED {
            session.suppressed.insert(request.clone());
        }
        if leaves || session.suppressed.contains(&request) {
            if matches!(method, "Network.loadingFinished" | "Network.loadingFailed") {
                session.suppressed.remove(&request);
            }
            return;
        }
        if !own {
            without_cookies(&mut params);
        }
        self.pass_on(id, &Payload::Event { method, params: &params.to_string() });
    }

    fn fetch_event(&mut self, id: &str, method: &str, params: Option<&RawValue>) {
        let mut params = value(params);
        let request = params["requestId"].as_str().unwrap_or_default().to_owned();
        let page = self.page_of(id).unwrap_or_default().to_owned();
        if !self.may_go(&page, params["request"]["url"].as_str().unwrap_or_default()) {
            let (method, answer) = if method == "Fetch.authRequired" {
                ("Fetch.continueWithAuth", json!({"requestId": request, "authChallengeResponse": {"response": "Default"}}))
            } else {
                ("Fetch.continueRequest", json!({"requestId": request}))
            };
            return self.ask(Some(id), method, answer, Then::Ignore);
        }
        if !self.is_in_own_context(&page) {
            without_cookies(&mut params);
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.paused.insert(request);
        }
        self.pass_on(id, &Payload::Event { method, params: &params.to_string() });
    }
}

/// Takes out what a page's own scripts cannot read of a request and its answer: cookies, and what logs in.
fn without_cookies(value: &mut Value) {
    const SECRET: [&str; 5] = ["cookie", "set-cookie", "authorization", "proxy-authorization", "set-cookie2"];
    match value {
        Value::Object(map) => {
            map.retain(|key, _| {
                let key = key.to_ascii_lowercase();
                !SECRET.contains(&key.as_str()) && key != "headerstext" && key != "requestheaderstext"
            });
            for key in ["associatedCookies", "blockedCookies", "exemptedCookies"] {
                if let Some(cookies) = map.get_mut(key) {
                    *cookies = json!([]);
                }
            }
            map.values_mut().for_each(without_cookies);
        }
        Value::Array(items) => {
            // Headers as a list of names and values.
            items.retain(|item| !item["name"].as_str().is_some_and(|name| SECRET.contains(&name.to_ascii_lowercase().as_str())));
            items.iter_mut().for_each(without_cookies);
        }
        _ => {}
    }
}
