//! Code that a client runs in a page: bound to a document that was judged, so that none runs in the page that comes next.

use serde_json::{Value, json};

use super::answers::Then;
use super::sessions::Telling;
use super::{Filter, MAX_PENDING, Outcome, Params, Refusal, Reply};
use crate::domain::web::WebUrl;

impl Filter {
    /// `Runtime.enable`.
    pub(super) fn enable_runtime(&mut self, id: &str, to: &Reply) -> Option<Value> {
        let session = self.sessions.get_mut(id)?;
        match session.runtime.state {
            Telling::Off => {
                session.runtime.state = Telling::Asked;
                session.runtime.is_told = true;
                self.ask(Some(id), "Runtime.enable", json!({}), Then::RuntimeEnabled { to: to.clone() });
                None
            }
            Telling::Asked => {
                session.runtime.parked.push((to.id, "Runtime.enable".to_owned(), Params::new()));
                None
            }
            Telling::On => {
                self.replay(id);
                Some(json!({}))
            }
        }
    }

    /// Tells the client of the contexts that it has not been told of.
    fn replay(&mut self, id: &str) {
        let Some(session) = self.sessions.get_mut(id).filter(|session| !session.runtime.is_told) else { return };
        session.runtime.is_told = true;
        for event in session.runtime.contexts.values().cloned().collect::<Vec<_>>() {
            let payload = super::delivery::Payload::Event {
                method: "Runtime.executionContextCreated",
                params: &event.to_string(),
            };
            self.pass_on(id, &payload);
        }
    }

    /// Does what waited for the contexts.
    pub(super) fn unpark(&mut self, id: &str, to: &Reply, method: &str, params: Params) {
        let outcome = if method == "Runtime.enable" {
            self.replay(id);
            Ok(Some(json!({})))
        } else {
            self.run_script(id, to, method, params)
        };
        match outcome {
            Ok(Some(result)) => self.answer(to, &result),
            Ok(None) => {}
            Err(refusal) => self.refuse(to, refusal),
        }
    }

    /// `Runtime.evaluate` and `Runtime.callFunctionOn`.
    ///
    /// Without a context they run in whatever document the page shows when they arrive, and a context's number may be that of another
    /// one in another process. So both are replaced by the context's unique id.
    pub(super) fn run_script(&mut self, id: &str, to: &Reply, method: &str, mut params: Params) -> Outcome {
        let Some(session) = self.sessions.get_mut(id) else { return Err(Refusal::not_found("")) };
        // Objects name their context themselves; workers do not navigate.
        let bound = !session.has_frames()
            || method == "Runtime.callFunctionOn" && params.get("objectId").is_some_and(Value::is_string);
        if bound {
            self.ask(Some(id), method, params.into(), Then::Forward { to: to.clone() });
            return Ok(None);
        }
        if session.runtime.state != Telling::On {
            if session.runtime.parked.len() >= MAX_PENDING {
                return Err(Refusal { code: -32000, message: "too many commands wait for the page".to_owned() });
            }
            session.runtime.parked.push((to.id, method.to_owned(), params));
            if session.runtime.state == Telling::Off {
                session.runtime.state = Telling::Asked;
                self.ask(Some(id), "Runtime.enable", json!({}), Then::Contexts);
            }
            return Ok(None);
        }
        let by_number = params.remove(if method == "Runtime.evaluate" { "contextId" } else { "executionContextId" });
        let by_name = params.remove("uniqueContextId");
        let fits = |event: &&Value| {
            let context = &event["context"];
            match (&by_name, &by_number) {
                (Some(name), None) => context["uniqueId"] == *name,
                (None, Some(number)) => context["id"] == *number,
                (None, None) => {
                    context["auxData"]["isDefault"] == true && context["auxData"]["frameId"] == session.target.as_str()
                }
                (Some(_), Some(_)) => false,
            }
        };
        let found =
            session.runtime.contexts.values().find(fits).and_then(|event| event["context"]["uniqueId"].as_str());
        let Some(unique) = found.map(str::to_owned) else {
            let message = if by_name.is_none() && by_number.is_none() {
                "Cannot find default execution context"
            } else {
                "Cannot find context with specified id"
            };
            return Err(Refusal { code: -32000, message: message.to_owned() });
        };
        params.insert("uniqueContextId".to_owned(), unique.into());
        self.ask(Some(id), method, params.into(), Then::Forward { to: to.clone() });
        Ok(None)
    }

    /// What Chrome tells of execution contexts.
    pub(super) fn learn_context(&mut self, id: &str, method: &str, params: &Value) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let contexts = &mut session.runtime.contexts;
        match method {
            "Runtime.executionContextCreated" => {
                if let Some(number) = params["context"]["id"].as_i64() {
                    contexts.insert(number, params.clone());
                }
            }
            "Runtime.executionContextDestroyed" => match params["executionContextUniqueId"].as_str() {
                Some(unique) => contexts.retain(|_, event| event["context"]["uniqueId"] != unique),
                None => contexts.retain(|number, _| params["executionContextId"] != *number),
            },
            _ => contexts.clear(),
        }
    }

    /// A script for new documents, with a guard before it that ends it in documents of other origins than those the rules name and the
    /// page has now.
    ///
    /// The guard is syntax alone (`location` and `origin` on it cannot be replaced), so nothing in the script can disarm it.
    pub(super) fn guarded(&self, page: &str, mut params: Params) -> Params {
        let source = params.get("source").and_then(Value::as_str).unwrap_or_default();
        if source.is_empty() {
            return params;
        }
        let here = self.targets.get(page).and_then(|target| WebUrl::parse(&target.info.url)).map(|url| url.origin());
        let mut origins: Vec<String> = self.rules.origins().chain(here).collect();
        origins.sort();
        origins.dedup();
        let elsewhere: Vec<String> =
            origins.iter().map(|origin| format!("location.origin !== {}", Value::from(origin.as_str()))).collect();
        let elsewhere = if elsewhere.is_empty() { "true".to_owned() } else { elsewhere.join(" && ") };
        let source = format!("if ({elsewhere}) throw \"agent-creds: this script may not run here\";\n{source}");
        params.insert("source".to_owned(), source.into());
        params
    }
}
