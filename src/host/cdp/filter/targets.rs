//! What Chrome has open, and what of it the client sees.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Filter;
use super::tabs::{has_tab, tab_of};
use crate::domain::web::WebUrl;
use crate::host::cdp::rules::Match;

/// What Chrome says of a target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Info {
    pub(super) target_id: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) title: String,
    pub(super) url: String,
    attached: bool,
    pub(super) opener_id: Option<String>,
    can_access_opener: bool,
    pub(super) browser_context_id: Option<String>,
    subtype: Option<String>,
}

/// A target, seen or not.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) info: Info,
    pub(super) is_visible: bool,
    /// The origin at which it was last allowed with everything that rules say.
    pub(super) origin: Option<String>,
}

/// Which types of targets a client wants: the first entry that fits says it, and no entry is no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TypeFilter(Vec<(Option<String>, bool)>);

impl TypeFilter {
    /// As `filter` in parameters; the default leaves out browsers and tabs.
    pub(super) fn read(params: &Map<String, Value>) -> Self {
        let Some(Value::Array(entries)) = params.get("filter") else {
            return Self(vec![(Some("browser".into()), false), (Some("tab".into()), false), (None, true)]);
        };
        let entry = |entry: &Value| {
            let kind = entry.get("type").and_then(Value::as_str).map(str::to_owned);
            (kind, !entry.get("exclude").and_then(Value::as_bool).unwrap_or(false))
        };
        Self(entries.iter().take(100).map(entry).collect())
    }

    pub(super) fn wants(&self, kind: &str) -> bool {
        self.0.iter().find(|(of, _)| of.as_deref().is_none_or(|of| of == kind)).is_some_and(|&(_, wanted)| wanted)
    }
}

/// Somebody wants to be told of targets.
#[derive(Debug)]
pub(super) struct Discovery {
    filter: TypeFilter,
    /// Those that were told of.
    pub(super) announced: BTreeSet<String>,
}

impl Discovery {
    pub(super) fn new(filter: TypeFilter) -> Self {
        Self { filter, announced: BTreeSet::new() }
    }
}

impl Filter {
    pub(super) fn is_visible(&self, target: &str) -> bool {
        self.targets.get(target).is_some_and(|target| target.is_visible)
    }

    /// Whether the sandbox opened it itself.
    pub(super) fn is_own(&self, target: &str) -> bool {
        let in_own_context = || {
            self.targets
                .get(target)
                .and_then(|target| target.info.browser_context_id.as_ref())
                .is_some_and(|context| self.contexts.contains(context))
        };
        self.owned.contains(target) || in_own_context()
    }

    /// Whether its cookies and storage are those of a context that this client made.
    pub(super) fn is_in_own_context(&self, target: &str) -> bool {
        let context = self.targets.get(target).and_then(|target| target.info.browser_context_id.as_ref());
        context.is_some_and(|context| self.contexts.contains(context))
    }

    /// What the client is told of a target: known fields, and nothing of targets that it does not see.
    pub(super) fn info(&self, target: &str) -> Value {
        let Some(target) = self.targets.get(target) else { return json!({}) };
        let info = &target.info;
        let mut told = json!({"targetId": info.target_id, "type": info.kind, "title": info.title, "url": info.url,
            "attached": info.attached, "canAccessOpener": info.can_access_opener});
        if let Some(opener) = info.opener_id.as_ref().filter(|opener| self.is_visible(opener)) {
            told["openerId"] = opener.as_str().into();
        }
        for (key, value) in [("browserContextId", &info.browser_context_id), ("subtype", &info.subtype)] {
            if let Some(value) = value {
                told[key] = value.as_str().into();
            }
        }
        told
    }

    /// Chrome says what a target is now.
    pub(super) fn learn(&mut self, info: Info) {
        let id = info.target_id.clone();
        if id.is_empty() {
            return;
        }
        // While a document takes the place of another, there is no URL. What comes from the page just then may be of either.
        let lost = |target: &Target| info.url.is_empty() && !target.info.url.is_empty();
        if self.targets.get(&id).is_some_and(lost) {
            self.in_transit.insert(id);
            return;
        }
        self.in_transit.remove(&id);
        let opened_by_own = info.opener_id.as_deref().is_some_and(|opener| self.owned.contains(opener));
        let known = self.targets.get_mut(&id);
        let changed = known.as_ref().is_none_or(|target| target.info != info);
        match known {
            Some(target) => target.info = info,
            None => {
                self.targets.insert(id.clone(), Target { info, is_visible: false, origin: None });
                if opened_by_own {
                    self.owned.add(&id);
                }
            }
        }
        self.judge(&id, changed);
        for session in self.sessions_of(&id) {
            self.judge_child(&session);
        }
    }

    /// Chrome says that a page is at `url` now; its title is not known yet.
    pub(super) fn moved(&mut self, id: &str, url: &str) {
        if url.is_empty() {
            self.in_transit.insert(id.to_owned());
        } else if let Some(target) = self.targets.get_mut(id).filter(|target| target.info.url != url) {
            target.info.title = String::new();
            url.clone_into(&mut target.info.url);
            self.judge(id, true);
        }
    }

    /// The target is gone.
    pub(super) fn forget(&mut self, id: &str) {
        if let Some(target) = self.targets.get_mut(id) {
            target.is_visible = false;
        }
        self.hide(id);
        for session in self.sessions_of(id) {
            self.end_session(&session, false);
        }
        self.in_transit.remove(id);
        self.dismissed.remove(id);
        self.targets.remove(id);
        self.owned.remove(id);
        let attaching = self.attaching.keys().filter(|attaching| attaching.target == id);
        for attaching in attaching.cloned().collect::<Vec<_>>() {
            self.attached(&attaching);
        }
    }

    /// The client closes a page that is the user's: it stays, and the client has no more of it. An error would be swallowed by
    /// clients that then wait for the page to go.
    pub(super) fn dismiss(&mut self, id: &str) {
        self.dismissed.insert(id.to_owned());
        self.judge(id, false);
    }

    /// Looks whether the client may see a target, and tells it what is new.
    pub(super) fn judge(&mut self, id: &str, changed: bool) {
        let Some(target) = self.targets.get(id) else { return };
        let (allowed, origin) = self.verdict(id, target);
        let was_visible = target.is_visible;
        if let Some(target) = self.targets.get_mut(id) {
            target.is_visible = allowed;
            target.origin = origin;
        }
        match (was_visible, allowed) {
            (true, false) => self.hide(id),
            (_, true) => {
                self.announce(id, changed);
                if !was_visible {
                    self.auto_attach(id);
                }
            }
            (false, false) => {}
        }
    }

    /// Tells of a visible target, whoever wants to be told and was not.
    fn announce(&mut self, id: &str, changed: bool) {
        let kind = self.kind(id);
        let mut told = Vec::new();
        let tab = has_tab(&kind).then(|| tab_of(id));
        for (asker, discovery) in &mut self.discover {
            let page = discovery.filter.wants(&kind).then_some(id);
            let tab = tab.as_deref().filter(|_| discovery.filter.wants("tab"));
            for (target, is_tab) in page.map(|id| (id, false)).into_iter().chain(tab.map(|id| (id, true))) {
                if discovery.announced.insert(target.to_owned()) {
                    told.push((asker.clone(), "Target.targetCreated", is_tab));
                } else if changed {
                    told.push((asker.clone(), "Target.targetInfoChanged", is_tab));
                }
            }
        }
        for (asker, method, is_tab) in told {
            let info = if is_tab { self.tab_info(id) } else { self.info(id) };
            self.event(asker.as_deref(), method, &json!({"targetInfo": info}));
        }
    }

    /// Whether it may be seen, and the origin that was judged in full.
    fn verdict(&self, id: &str, target: &Target) -> (bool, Option<String>) {
        if self.dismissed.contains(id) {
            return (false, None);
        }
        let Target { info, origin, .. } = target;
        let url = WebUrl::parse(&info.url);
        let here = url.as_ref().map(WebUrl::origin);
        match self.rules.judge(&info.kind, &info.title, &info.url) {
            Match::Yes => return (true, here),
            // A document that was just loaded has no title yet: Chrome shows its URL. Within an origin that was allowed this is
            // no reason to lose the page.
            Match::ButTitle if here == *origin && here.is_some() && is_placeholder(&info.title, &info.url) => {
                return (true, here);
            }
            Match::ButTitle | Match::No => {}
        }
        if info.kind == "page" && self.is_own(id) {
            let blank = matches!(info.url.as_str(), "" | "about:blank");
            return (blank, None);
        }
        (false, None)
    }

    /// The client may not see a target any longer, or it is gone.
    fn hide(&mut self, id: &str) {
        for session in self.sessions_of(id) {
            // Those that are children of allowed pages are judged on their own.
            if self.sessions.get(&session).is_some_and(|session| session.parent.is_none()) {
                self.end_session(&session, true);
            }
        }
        self.end_tabs(|tab| tab.page() == Some(id));
        for target in [id.to_owned(), tab_of(id)] {
            let told = self.discover.iter_mut().filter(|(_, discovery)| discovery.announced.contains(&target));
            let told = told.map(|(asker, discovery)| (asker.clone(), discovery.announced.remove(&target)));
            for (asker, _) in told.collect::<Vec<_>>() {
                self.event(asker.as_deref(), "Target.targetDestroyed", &json!({"targetId": target}));
            }
        }
    }

    /// Whether the page that `target` is may be sent to `url`.
    pub(super) fn may_go(&self, target: &str, url: &str) -> bool {
        let own = self.is_own(target);
        if url == "about:blank" {
            return own;
        }
        let Some(url) = WebUrl::parse(url) else { return false };
        match self.rules.judge("page", "", url.as_str()) {
            Match::Yes => true,
            // The title is judged when the page is there; rules that say nothing of the URL hold within the origin they matched in.
            Match::ButTitle if !own => {
                let here = self.targets.get(target).and_then(|target| target.origin.clone());
                self.rules.allow_navigation(&url) || here == Some(url.origin())
            }
            Match::ButTitle | Match::No => false,
        }
    }
}

impl Filter {
    /// Whether the client may read what came from `url`: where the page may be, and what is of its own origin.
    pub(super) fn may_read(&self, page: &str, url: &str) -> bool {
        let here = self.targets.get(page).and_then(|target| WebUrl::parse(&target.info.url)).map(|url| url.origin());
        let there = WebUrl::parse(url.strip_prefix("blob:").unwrap_or(url)).map(|url| url.origin());
        url.starts_with("data:") || here.is_some() && here == there || self.may_go(page, url)
    }
}

/// Whether `title` is what Chrome shows for a page that has none.
fn is_placeholder(title: &str, url: &str) -> bool {
    title.is_empty() || url.contains(title) && title.contains(['.', '/', ':'])
}

/// Why a page may not be sent to a URL.
pub(super) const NOT_ALLOWED: &str = "no [[cdp_target]] of agent-creds.toml allows this URL; add one with url = \"…\"";
