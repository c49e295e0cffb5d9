//! Tabs, for clients that are attached to tabs and by them to pages, as Puppeteer is: each visible page has a virtual one.
//!
//! ```text
//! client ─ setAutoAttach, filter with `tab` ─▶ attached to the tab ─ setAutoAttach in that session ─▶ attached to its page
//! ```
//!
//! Chrome's own tabs stay unseen: they would have to be matched to pages, and nothing in their sessions is of use.

use serde_json::{Value, json};

use super::browser::{BrowserSession, Scope};
use super::{Filter, MAX_SESSIONS};

/// What the id of a virtual tab begins with; the page's follows.
const TAB: &str = "agent-creds-tab-";

/// The id of a page's tab.
pub(super) fn tab_of(page: &str) -> String {
    format!("{TAB}{page}")
}

/// Whether targets of this kind have a tab.
pub(super) fn has_tab(kind: &str) -> bool {
    kind == "page"
}

impl Filter {
    /// What the client is told of a page's tab.
    pub(super) fn tab_info(&self, page: &str) -> Value {
        let mut info = self.info(page);
        info["targetId"] = tab_of(page).into();
        info["type"] = "tab".into();
        if let Some(info) = info.as_object_mut() {
            info.remove("openerId");
        }
        info
    }

    /// Attaches `asker` to the tab of a page that it sees, unless it is already.
    pub(super) fn attach_to_tab(&mut self, asker: Option<&String>, page: &str) {
        let is_it = |session: &BrowserSession| session.page() == Some(page) && session.via.as_ref() == asker;
        if self.browser_sessions.values().any(is_it) || self.browser_sessions.len() >= MAX_SESSIONS {
            return;
        }
        self.next += 1;
        let session = format!("{}-{}", tab_of(page), self.next);
        let params = json!({"sessionId": session, "targetInfo": self.tab_info(page), "waitingForDebugger": false});
        self.event(asker.map(String::as_str), "Target.attachedToTarget", &params);
        let scope = Scope::Tab(page.to_owned());
        self.browser_sessions.insert(session, BrowserSession { via: asker.cloned(), scope });
    }

    /// Ends the sessions with tabs that fit.
    pub(super) fn end_tabs(&mut self, fits: impl Fn(&BrowserSession) -> bool) {
        let tabs = self.browser_sessions.iter().filter(|(_, session)| session.page().is_some() && fits(session));
        for id in tabs.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.end_browser_session(&id);
        }
    }
}
