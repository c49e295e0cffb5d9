//! One flow, without IO: which request is the one that is waited for, and when it is over. Time is an input.

use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderMap, Method, header};
use url::Url;

use super::{Callback, GRACE, LIFETIME};
use crate::domain::web::WebUrl;
use crate::host::open::{Allowed, remedy};

/// How many redirects of the program on its own port are followed.
const HOPS: u8 = 3;

/// A flow from the page that was opened to the answer of the program in the sandbox.
#[derive(Debug)]
pub(super) struct Flow {
    callback: Callback,
    stage: Stage,
    /// Whether a request is being carried.
    carrying: bool,
    until: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// For the provider to send the browser back.
    Waiting,
    /// For the browser to follow a redirect of the program's.
    Following {
        target: String,
        hops: u8,
    },
    Over,
}

/// Why a request is not carried, in words for whoever looks at the browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("this sign-in is over: start it again in the sandbox")]
    Over,
    #[error("this sign-in is being answered already")]
    Busy,
    #[error("there is no icon here")]
    Icon,
    #[error("the request is for another host")]
    Host,
    #[error("another page asked for this; a sign-in comes back by showing a page")]
    NotShown,
    #[error("this is not the address that the sign-in comes back to")]
    Path,
    #[error("a sign-in does not come back by this method")]
    Method,
    #[error("`state` is not the one that the sign-in was started with: whoever sent the browser here did not start it")]
    State,
}

/// What follows from the program's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// It is shown.
    Show,
    /// The browser is sent on.
    Redirect(String),
    /// It would be sent to where it may not: what would allow that.
    Stay(String),
}

impl Flow {
    pub(super) fn new(callback: Callback, now: Instant) -> Self {
        Self { callback, stage: Stage::Waiting, carrying: false, until: now + LIFETIME }
    }

    /// When it ends by itself.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.stage == Stage::Over || (now >= self.until && !self.carrying)
    }

    /// Whether nothing was carried before it was over.
    pub(super) fn is_waiting(&self) -> bool {
        self.stage == Stage::Waiting
    }

    /// Judges a request; one that passes is to be carried, and [`Flow::answered`] or [`Flow::failed`] says what became of it.
    ///
    /// # Errors
    /// Why it is not carried. The flow goes on as it was.
    pub(super) fn judge(&mut self, now: Instant, request: &Parts, body: &[u8]) -> Result<(), Refused> {
        if self.is_over(now) {
            return Err(Refused::Over);
        }
        if request.uri.path() == "/favicon.ico" && self.callback.path != "/favicon.ico" {
            return Err(Refused::Icon);
        }
        let mut hosts = request.headers.get_all(header::HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
        let is_ours = host.eq_ignore_ascii_case(&self.callback.authority()) && hosts.next().is_none();
        if !is_ours || request.uri.authority().is_some() {
            return Err(Refused::Host);
        }
        if !is_shown(request) {
            return Err(Refused::NotShown);
        }
        match &self.stage {
            Stage::Following { target, .. } => {
                if request.method != Method::GET {
                    return Err(Refused::Method);
                }
                if request.uri.path_and_query().map(|target| target.as_str()) != Some(target) {
                    return Err(Refused::Path);
                }
            }
            Stage::Waiting | Stage::Over => self.is_callback(request, body)?,
        }
        if self.carrying {
            return Err(Refused::Busy);
        }
        self.carrying = true;
        Ok(())
    }

    fn is_callback(&self, request: &Parts, body: &[u8]) -> Result<(), Refused> {
        if request.uri.path() != self.callback.path {
            return Err(Refused::Path);
        }
        let parameters = match request.method {
            Method::GET => request.uri.query().unwrap_or_default().as_bytes(),
            Method::POST if self.callback.posted && is_form(&request.headers) => body,
            _ => return Err(Refused::Method),
        };
        let Some(expected) = &self.callback.state else { return Ok(()) };
        let mut states = url::form_urlencoded::parse(parameters).filter(|(name, _)| name == "state");
        let is_it = states.next().is_some_and(|(_, state)| state == expected.as_str()) && states.next().is_none();
        if is_it { Ok(()) } else { Err(Refused::State) }
    }

    /// The program did not answer: the same request may come again.
    pub(super) fn failed(&mut self) {
        self.carrying = false;
    }

    /// The program answered, with a `Location` when it redirects.
    pub(super) fn answered(&mut self, now: Instant, location: Option<&str>, allowed: &Allowed) -> Next {
        self.carrying = false;
        let hops = match self.stage {
            Stage::Following { hops, .. } => hops,
            Stage::Waiting | Stage::Over => HOPS,
        };
        self.stage = Stage::Over;
        let Some(location) = location else { return Next::Show };
        let base = Url::parse(&format!("http://{}{}", self.callback.authority(), self.callback.path)).ok();
        let there = base.as_ref().and_then(|base| base.join(location).ok()).and_then(WebUrl::of);
        let Some(there) = there else { return Next::Stay("an address that is not of the web".to_owned()) };
        if base.is_some_and(|base| base.origin() == there.url().origin()) {
            if hops > 0 {
                let url = there.url();
                let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
                self.stage = Stage::Following { target: format!("{}{query}", url.path()), hops: hops - 1 };
                self.until = now + GRACE;
                return Next::Redirect(there.to_string());
            }
            return Next::Stay("itself, again and again".to_owned());
        }
        if allowed.allows(&there) { Next::Redirect(there.to_string()) } else { Next::Stay(remedy(&there)) }
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
}

/// Whether a browser asks in order to show a page in a tab: what a user's own click, and a provider's redirect, do. Browsers say
/// what a request is for, and no page can change that; what is no browser says nothing.
fn is_shown(request: &Parts) -> bool {
    let is = |name: &str, expected: &str| {
        request.headers.get_all(name).iter().all(|value| value.as_bytes().eq_ignore_ascii_case(expected.as_bytes()))
    };
    let says = |name: &str| request.headers.contains_key(name);
    // A form comes with its page's origin, and then a browser says that it is shown. Anything else with one is a script's.
    let origin = !says("origin") || (request.method == Method::POST && says("sec-fetch-mode"));
    origin
        && is("sec-fetch-mode", "navigate")
        && is("sec-fetch-dest", "document")
        && !says("sec-purpose")
        && !says("purpose")
        && !says("x-moz")
        && !says("service-worker")
        && !says("upgrade")
}

/// How long until then.
pub(super) fn left(until: Instant, now: Instant) -> Duration {
    until.saturating_duration_since(now)
}

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
