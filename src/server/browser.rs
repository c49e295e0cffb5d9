//! The host's browser, for sandboxes: what `aenv open` asks for, and the sign-ins that come back.
//!
//! ```text
//! POST /open ─▶ Browser::open ─┬─ host::open: allowed by the configuration in force?
//!                              ├─ host::callback: the port is opened first, so that nobody else can get what comes back
//!                              └─ host::opener: the browser
//! ```

mod inside;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use http::StatusCode;
use tokio::sync::watch;

use self::inside::Container;
use super::activity::{Activity, Level};
use super::credentials;
use super::host::Caller;
use super::sandboxes::{DockerHost, Life};
use crate::config::{Loaded, ProjectConfig, ProjectKind};
use crate::domain::names::{Instance, SandboxId};
use crate::host::callback::{Callbacks, Event, Happened, Wish};
use crate::host::metrics::BrowserMetrics;
use crate::host::open::{Allowed, Opening, Pace, Refusal, decide};
use crate::host::opener::Opener;
use crate::shutdown::{self, Trigger};

/// Opens pages for sandboxes.
pub(super) struct Browser {
    lives: Lives,
    activity: Arc<Activity>,
    docker_host: DockerHost,
    loaded: watch::Receiver<Arc<Loaded>>,
    opener: Opener,
    callbacks: Callbacks,
    metrics: BrowserMetrics,
    paces: Mutex<HashMap<SandboxId, Paces>>,
    end: Trigger,
}

/// Finds this life of a sandbox, if it still is.
type Lives = Box<dyn Fn(&SandboxId, &Instance) -> Option<Life> + Send + Sync>;

/// How often a sandbox has pages opened, and how often people are told that one was refused.
#[derive(Default)]
struct Paces {
    opened: Pace,
    refused: Pace,
}

/// What the agent is answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

/// What opens pages, and what it needs of the rest of the server.
pub(super) struct BrowserParts {
    pub(super) lives: Lives,
    pub(super) activity: Arc<Activity>,
    pub(super) docker_host: DockerHost,
    pub(super) loaded: watch::Receiver<Arc<Loaded>>,
    /// `BROWSER`, if set.
    pub(super) browser: Option<String>,
    pub(super) metrics: BrowserMetrics,
}

impl Browser {
    /// Nothing is opened yet.
    pub(super) fn new(parts: BrowserParts) -> Self {
        let (end, stopping) = shutdown::channel();
        let BrowserParts { lives, activity, docker_host, loaded, browser, metrics } = parts;
        let told = Arc::clone(&activity);
        let callbacks = Callbacks::new(metrics.clone(), stopping, move |event| tell(&told, &event));
        Self {
            lives,
            activity,
            docker_host,
            loaded,
            opener: Opener::new(browser.as_deref()),
            callbacks,
            metrics,
            paces: Mutex::default(),
            end,
        }
    }

    /// Closes all callback ports, for good.
    pub(super) fn end(&self) {
        self.end.fire();
    }

    /// Opens a page for a sandbox, as `body` has it.
    pub(super) async fn open(&self, caller: &Caller, body: &[u8]) -> Answer {
        let (result, status, text) = self.try_open(caller, body).await;
        self.metrics.opened.with_label_values(&[result]).inc();
        Answer { status, text }
    }

    async fn try_open(&self, caller: &Caller, body: &[u8]) -> (&'static str, StatusCode, String) {
        let id = &caller.sandbox;
        let Some(life) = (self.lives)(id, &caller.instance) else {
            return ("refused", StatusCode::FORBIDDEN, "this sandbox does not run".to_owned());
        };
        let decided = match std::str::from_utf8(body) {
            Ok(text) => decide(&allowed(self.project(id).as_deref()), text),
            Err(_) => Err(Refusal::NoUrl),
        };
        let Opening { url, callback } = match decided {
            Ok(opening) => opening,
            Err(refusal) => return ("refused", StatusCode::FORBIDDEN, self.refused(id, &refusal.to_string())),
        };
        if !self.pace(id, |paces| &mut paces.opened) {
            let text = format!(
                "{} pages were opened in {} seconds, and no more are: try again later",
                Pace::MOST,
                Pace::WINDOW.as_secs()
            );
            return ("limited", StatusCode::TOO_MANY_REQUESTS, self.refused(id, &text));
        }
        let mut expected = None;
        let mut way_back = String::new();
        if let Some(callback) = callback {
            way_back = format!("; a sign-in that comes back to {callback} is carried into the sandbox");
            let wish = Wish {
                sandbox: id.clone(),
                opened: url.clone(),
                callback,
                inside: Arc::new(Container::new(self.docker_host.clone(), life.container, life.user)),
                life: life.ends,
                allowed: self.follow(id),
            };
            match self.callbacks.expect(wish).await {
                Ok(flow) => expected = Some(flow),
                Err(error) => return ("refused", StatusCode::CONFLICT, self.refused(id, &error.to_string())),
            }
        }
        let secrets = credentials::secret_variables(&self.loaded.borrow().vault);
        if let Err(error) = self.opener.open(&url, &secrets).await {
            if let Some(flow) = expected {
                flow.cancel();
            }
            let text = error.to_string();
            self.activity.notice(Some(id), Level::Warning, format!("{} was not opened: {text}", short(url.place())));
            return ("failed", StatusCode::BAD_GATEWAY, text);
        }
        let text = |place: &str| format!("opened {place} in the host's browser{way_back}");
        self.activity.notice(Some(id), Level::Info, text(&short(url.place())));
        ("opened", StatusCode::OK, text(url.place()))
    }

    /// The words for the agent; people are told, too, as long as that is not too often.
    fn refused(&self, id: &SandboxId, why: &str) -> String {
        if self.pace(id, |paces| &mut paces.refused) {
            let first = why.lines().next().unwrap_or_default();
            self.activity.notice(Some(id), Level::Warning, format!("a page was not opened: {}", short(first)));
        }
        why.to_owned()
    }

    fn pace(&self, id: &SandboxId, which: impl Fn(&mut Paces) -> &mut Pace) -> bool {
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        which(paces.entry(id.clone()).or_default()).take(Instant::now())
    }

    fn project(&self, id: &SandboxId) -> Option<Arc<ProjectConfig>> {
        project(&self.loaded.borrow(), id)
    }

    /// What the sandbox may open, followed as long as somebody minds.
    fn follow(&self, id: &SandboxId) -> watch::Receiver<Allowed> {
        let (mut loaded, id) = (self.loaded.clone(), id.clone());
        let (followed, receiver) = watch::channel(allowed(project(&loaded.borrow_and_update(), &id).as_deref()));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = followed.closed() => return,
                    changed = loaded.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        let now = allowed(project(&loaded.borrow_and_update(), &id).as_deref());
                        followed.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
                    }
                }
            }
        });
        receiver
    }
}

fn project(loaded: &Loaded, id: &SandboxId) -> Option<Arc<ProjectConfig>> {
    loaded.projects.iter().find(|project| project.id == *id).cloned()
}

/// What a project's file allows; without one, nothing.
fn allowed(project: Option<&ProjectConfig>) -> Allowed {
    let Some(project) = project else { return Allowed::default() };
    let on = matches!(&project.kind, ProjectKind::Sandbox(sandbox) if sandbox.use_host_browser);
    Allowed::new(on, project.browser_targets.iter().map(|target| target.pattern.clone()))
}

/// Words for people, some of which an agent may have chosen: cut, and without what is not plain.
fn short(text: &str) -> String {
    const MOST: usize = 300;
    let mut out = String::new();
    for c in text.chars().take(MOST) {
        if (' '..='~').contains(&c) { out.push(c) } else { out.extend(c.escape_debug()) }
    }
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}

fn tell(activity: &Activity, event: &Event) {
    let place = &event.place;
    let (level, text) = match &event.what {
        Happened::Carried => (Level::Info, format!("a sign-in came back to {place} and was carried into the sandbox")),
        Happened::Refused(why) => {
            (Level::Warning, format!("a request to {place} was not carried into the sandbox: {}", short(why)))
        }
        Happened::Failed(why) => {
            (Level::Warning, format!("a sign-in came back to {place}, and was not taken: {}", short(why)))
        }
        Happened::Expired => (Level::Info, format!("no sign-in came back to {place} in time; the port is closed")),
    };
    activity.notice(Some(&event.sandbox), level, text);
}

impl std::fmt::Debug for Browser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Browser")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_read_is_short_and_plain() {
        assert_eq!(short("the host's browser"), "the host's browser");
        assert_eq!(short("a\u{1b}[31m\n\u{202e}"), "a\\u{1b}[31m\\n\\u{202e}");
        assert_eq!(short(&"x".repeat(301)), format!("{}…", "x".repeat(300)));
    }
}
