//! Commands of a session with a page, or with a part of one.

use serde_json::{Value, json};

use super::answers::Then;
use super::browser::{canonical, is_true};
use super::targets::NOT_ALLOWED;
use super::{Filter, Outcome, Params, Refusal, Reply};
use crate::host::cdp::json::Command;
use crate::host::cdp::methods::{self, Reason, Verdict};

impl Filter {
    pub(super) fn page_command(&mut self, session: &str, to: &Reply, command: Command) -> Outcome {
        let Command { method, params, .. } = command;
        let target = self.sessions.get(session).map(|session| session.target.clone()).unwrap_or_default();
        let page = self.page_of(session).unwrap_or_default().to_owned();
        let own = self.is_own(&page);
        let forward = || Then::Forward { to: to.clone() };
        match method.as_str() {
            "Target.setAutoAttach" => {
                if let Some(session) = self.sessions.get_mut(session) {
                    session.flat_children = is_true(&params, "flatten");
                }
                let mut sent = params;
                sent.insert("flatten".to_owned(), true.into());
                self.ask(Some(session), &method, sent.into(), forward());
                Ok(None)
            }
            "Target.getTargetInfo" if !params.contains_key("targetId") => {
                Ok(Some(json!({"targetInfo": self.info(&target)})))
            }
            "Target.detachFromTarget" if self.named_here(session, &params) => self.detach(Some(session), &params),
            "Target.sendMessageToTarget" if self.named_here(session, &params) => {
                self.send_message(Some(session), &params)
            }
            _ if method.starts_with("Target.") => self.target_command(to, &method, &params),
            "Browser.getWindowForTarget" if !params.contains_key("targetId") => {
                self.ask(None, &method, json!({"targetId": page}), forward());
                Ok(None)
            }
            _ if method.starts_with("Browser.") || method.starts_with("Storage.") => {
                self.browser_command(to, Command { id: to.id, method, params, session: None })
            }
            "Runtime.enable" => Ok(self.enable_runtime(session, to)),
            "Runtime.disable" => {
                if let Some(session) = self.sessions.get_mut(session) {
                    session.runtime.is_told = false;
                }
                Ok(Some(json!({})))
            }
            "Runtime.evaluate" | "Runtime.callFunctionOn" => self.run_script(session, to, &method, params),
            "Page.addScriptToEvaluateOnNewDocument" => {
                let sent = self.guarded(&page, params);
                self.ask(Some(session), &method, sent.into(), forward());
                Ok(None)
            }
            "Page.navigate" => {
                let url = canonical(params.get("url").and_then(Value::as_str).unwrap_or_default());
                if !self.may_go(&page, &url) {
                    return Err(Refusal::denied(&method, NOT_ALLOWED));
                }
                let mut sent = picked(&params, &["frameId", "transitionType", "referrerPolicy"]);
                sent.insert("url".to_owned(), url.into());
                self.ask(Some(session), &method, sent.into(), forward());
                Ok(None)
            }
            "Page.reload" => {
                if params.get("scriptToEvaluateOnLoad").is_some_and(|script| script.as_str() != Some("")) {
                    return Err(Refusal::denied("Page.reload with scriptToEvaluateOnLoad", Reason::NextPage.text()));
                }
                self.ask(Some(session), &method, picked(&params, &["ignoreCache", "loaderId"]).into(), forward());
                Ok(None)
            }
            // Universal access would lift the same-origin policy. Clients ask for it by habit, and do without.
            "Page.createIsolatedWorld" => {
                self.ask(Some(session), &method, picked(&params, &["frameId", "worldName"]).into(), forward());
                Ok(None)
            }
            "Page.close" if own => {
                self.ask(Some(session), &method, json!({}), forward());
                Ok(None)
            }
            "Page.close" => {
                self.answer(to, &json!({}));
                self.dismiss(&page);
                Ok(None)
            }
            "Page.getNavigationHistory" => {
                self.ask(Some(session), &method, json!({}), Then::History { to: to.clone() });
                Ok(None)
            }
            "Page.getFrameTree" => {
                self.ask(Some(session), &method, json!({}), Then::Frames { to: to.clone() });
                Ok(None)
            }
            // The page's own scripts cannot read what other sites answered them, unless these allow it.
            "Network.getResponseBody" | "Network.searchInResponseBody" => {
                let request = params.get("requestId").and_then(Value::as_str).unwrap_or_default();
                if !self.sessions.get(session).is_some_and(|session| session.readable.contains(request)) {
                    return Err(Refusal::denied(
                        &method,
                        "the answer is of a site that no [[cdp_target]] allows, or is not known",
                    ));
                }
                self.ask(Some(session), &method, params.into(), forward());
                Ok(None)
            }
            "Page.printToPDF" => {
                self.ask(Some(session), &method, params.into(), Then::Stream { to: to.clone() });
                Ok(None)
            }
            "Input.dispatchDragEvent" => {
                let files = params.get("data").and_then(|data| data.get("files"));
                if files.is_some_and(|files| files.as_array().is_none_or(|files| !files.is_empty())) {
                    return Err(Refusal::denied("Input.dispatchDragEvent with files", Reason::Files.text()));
                }
                self.ask(Some(session), &method, params.into(), forward());
                Ok(None)
            }
            "IO.read" | "IO.close" => {
                let handle = params.get("handle").and_then(Value::as_str).unwrap_or_default().to_owned();
                if !self.streams.contains(&handle) {
                    return Err(Refusal { code: -32602, message: "Invalid stream handle".to_owned() });
                }
                if method == "IO.close" {
                    self.streams.remove(&handle);
                }
                self.ask(Some(session), &method, picked(&params, &["handle", "offset", "size"]).into(), forward());
                Ok(None)
            }
            _ if method.starts_with("Fetch.") => self.fetch_command(session, &page, to, &method, params),
            _ => match methods::verdict(&method, self.is_in_own_context(&page)) {
                Verdict::Pass => {
                    self.ask(Some(session), &method, params.into(), forward());
                    Ok(None)
                }
                Verdict::Refuse(reason) => Err(Refusal::denied(&method, reason.text())),
            },
        }
    }

    /// Whether `Target.detachFromTarget` or `sendMessageToTarget` means a child of this session.
    fn named_here(&self, session: &str, params: &Params) -> bool {
        let named = params.get("sessionId").and_then(Value::as_str).and_then(|id| self.sessions.get(id));
        named.is_some_and(|named| named.parent.as_deref() == Some(session))
    }

    /// Requests that Chrome pauses: the client decides on those for URLs at which it may be itself.
    fn fetch_command(&mut self, session: &str, page: &str, to: &Reply, method: &str, params: Params) -> Outcome {
        let then = Then::Forward { to: to.clone() };
        if method == "Fetch.enable" || method == "Fetch.disable" {
            if let Some(session) = self.sessions.get_mut(session) {
                session.paused.clear();
            }
            let sent = picked(&params, &["patterns", "handleAuthRequests"]);
            self.ask(Some(session), method, sent.into(), then);
            return Ok(None);
        }
        let request = params.get("requestId").and_then(Value::as_str).unwrap_or_default().to_owned();
        let ends = match method {
            "Fetch.continueRequest"
            | "Fetch.continueResponse"
            | "Fetch.continueWithAuth"
            | "Fetch.failRequest"
            | "Fetch.fulfillRequest" => true,
            "Fetch.getResponseBody" | "Fetch.takeResponseBodyAsStream" => false,
            _ => return Err(Refusal::denied(method, Reason::Unknown.text())),
        };
        if !self.sessions.get(session).is_some_and(|session| session.paused.contains(&request)) {
            return Err(Refusal { code: -32602, message: "Invalid InterceptionId.".to_owned() });
        }
        if let Some(url) = params.get("url")
            && !self.may_go(page, &canonical(url.as_str().unwrap_or_default()))
        {
            return Err(Refusal::denied("Fetch.continueRequest with this url", NOT_ALLOWED));
        }
        if ends && let Some(session) = self.sessions.get_mut(session) {
            session.paused.remove(&request);
        }
        let then = if method == "Fetch.takeResponseBodyAsStream" { Then::Stream { to: to.clone() } } else { then };
        self.ask(Some(session), method, params.into(), then);
        Ok(None)
    }
}

fn picked(params: &Params, keys: &[&str]) -> Params {
    keys.iter().filter_map(|&key| Some((key.to_owned(), params.get(key)?.clone()))).collect()
}
