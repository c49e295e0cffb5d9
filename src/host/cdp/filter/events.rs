//! What Chrome tells without being asked.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Filter;
use super::answers::Then;
use super::delivery::Payload;
use super::targets::Info;
use crate::host::cdp::json::value;
use crate::host::cdp::methods;

/// Requests of one session that are remembered, of each kind.
const MAX_REQUESTS: usize = 10_000;

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
                let target = params["targetId"].as_str().unwrap_or_default();
                let told = self.discover.iter().filter(|(_, discovery)| discovery.announced.contains(target));
                for asker in told.map(|(asker, _)| asker.clone()).collect::<Vec<_>>() {
                    self.event(asker.as_deref(), method, &params);
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
            "Runtime.executionContextCreated"
            | "Runtime.executionContextDestroyed"
            | "Runtime.executionContextsCleared" => {
                self.learn_context(id, method, &value(params));
                if !is_told {
                    return;
                }
            }
            "Runtime.bindingCalled" => {}
            // The filter asked for these, not the client.
            _ if method.starts_with("Runtime.") && !is_told => return,
            // A failed request that was redirected says where to.
            "Log.entryAdded" => {
                let params = value(params);
                let page = self.page_of(id).unwrap_or_default();
                if params["entry"]["url"].as_str().is_some_and(|url| !url.is_empty() && !self.may_read(page, url)) {
                    return;
                }
            }
            "Network.signedExchangeReceived" => return,
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
            "Page.frameRequestedNavigation"
            | "Page.frameScheduledNavigation"
            | "Page.frameStartedNavigating"
            | "Page.windowOpen"
            | "Page.downloadWillBegin" => {
                let url = value(params)["url"].as_str().unwrap_or_default().to_owned();
                let page = self.page_of(id).unwrap_or_default();
                return url == "about:blank" || self.may_read(page, &url);
            }
            _ => {}
        }
        self.sessions.contains_key(id)
    }

    fn network_event(&mut self, id: &str, method: &str, params: Option<&RawValue>) {
        let Some(session) = self.sessions.get(id) else { return };
        if is_plain(method) && session.suppressed.is_empty() {
            let params = params.map_or("{}", RawValue::get);
            return self.pass_on(id, &Payload::Event { method, params });
        }
        let mut params = value(params);
        let page = self.page_of(id).unwrap_or_default().to_owned();
        let request = params["requestId"].as_str().unwrap_or_default().to_owned();
        // Neither where a document of another site comes from, nor where another site redirects to, is known to the page's scripts.
        let redirected = params["redirectResponse"].is_object();
        let leaves = method == "Network.requestWillBeSent"
            && (redirected || params["type"] == "Document")
            && !self.may_read(&page, params["request"]["url"].as_str().unwrap_or_default());
        let readable = method == "Network.responseReceived"
            && self.may_read(&page, params["response"]["url"].as_str().unwrap_or_default());
        let Some(session) = self.sessions.get_mut(id) else { return };
        if leaves && session.suppressed.len() < MAX_REQUESTS {
            session.suppressed.insert(request.clone());
            if redirected {
                // The client has seen it begin.
                let failed = json!({"requestId": request, "timestamp": params["timestamp"], "type": params["type"],
                    "errorText": "net::ERR_BLOCKED_BY_CLIENT", "canceled": true});
                return self
                    .pass_on(id, &Payload::Event { method: "Network.loadingFailed", params: &failed.to_string() });
            }
        }
        if leaves || session.suppressed.contains(&request) {
            if matches!(method, "Network.loadingFinished" | "Network.loadingFailed") {
                session.suppressed.remove(&request);
            }
            return;
        }
        if readable {
            if session.readable.len() >= MAX_REQUESTS {
                session.readable.clear();
            }
            session.readable.insert(request);
        }
        if !is_plain(method) {
            self.clean(&page, &mut params);
        }
        self.pass_on(id, &Payload::Event { method, params: &params.to_string() });
    }

    fn fetch_event(&mut self, id: &str, method: &str, params: Option<&RawValue>) {
        let mut params = value(params);
        let request = params["requestId"].as_str().unwrap_or_default().to_owned();
        let page = self.page_of(id).unwrap_or_default().to_owned();
        if !self.may_go(&page, params["request"]["url"].as_str().unwrap_or_default()) {
            let (method, answer) = if method == "Fetch.authRequired" {
                (
                    "Fetch.continueWithAuth",
                    json!({"requestId": request, "authChallengeResponse": {"response": "Default"}}),
                )
            } else {
                ("Fetch.continueRequest", json!({"requestId": request}))
            };
            return self.ask(Some(id), method, answer, Then::Ignore);
        }
        self.clean(&page, &mut params);
        if let Some(session) = self.sessions.get_mut(id) {
            session.paused.insert(request);
        }
        self.pass_on(id, &Payload::Event { method, params: &params.to_string() });
    }

    /// Takes out what a page's own scripts cannot read of a request and its answer: cookies and what logs in, unless the context is
    /// the client's own; and where other sites redirect to.
    fn clean(&self, page: &str, params: &mut Value) {
        let own = self.is_in_own_context(page);
        let is_secret = |name: &str, value: &Value| {
            let name = name.to_ascii_lowercase();
            name == "location" && !value.as_str().is_some_and(|url| self.may_read(page, url))
                || !own && SECRET.contains(&name.as_str())
        };
        strip(params, &is_secret);
    }
}

/// Headers that scripts cannot read.
const SECRET: [&str; 5] = ["cookie", "set-cookie", "authorization", "proxy-authorization", "set-cookie2"];

/// Events that say nothing of addresses and headers.
fn is_plain(method: &str) -> bool {
    matches!(
        method.trim_start_matches("Network."),
        "dataReceived"
            | "loadingFinished"
            | "loadingFailed"
            | "requestServedFromCache"
            | "resourceChangedPriority"
            | "eventSourceMessageReceived"
            | "webSocketClosed"
            | "webSocketFrameError"
            | "webSocketFrameReceived"
            | "webSocketFrameSent"
    )
}

/// Takes headers out of a value, wherever in it they are; the text they came as, and pseudo headers, which have the address.
fn strip(value: &mut Value, is_secret: &impl Fn(&str, &Value) -> bool) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| {
                !is_secret(key, value) && !key.starts_with(':') && key != "headersText" && key != "requestHeadersText"
            });
            for key in ["associatedCookies", "blockedCookies", "exemptedCookies"] {
                if is_secret("cookie", &Value::Null)
                    && let Some(cookies) = map.get_mut(key)
                {
                    *cookies = json!([]);
                }
            }
            map.values_mut().for_each(|value| strip(value, is_secret));
        }
        Value::Array(items) => {
            // Headers as a list of names and values.
            items.retain(|item| !item["name"].as_str().is_some_and(|name| is_secret(name, &item["value"])));
            items.iter_mut().for_each(|item| strip(item, is_secret));
        }
        _ => {}
    }
}
