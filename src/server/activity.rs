//! What happens in the sandboxes, for those who watch: `adev logs`, the TUI, `actl`.
//!
//! Kept in memory, bounded by sandbox; nothing waits for a reader. An agent decides on much of what is in here, so all of
//! it is cut and escaped where it comes in.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::control::v1::event::Kind;
use crate::control::v1::{ConfigChange, DnsQuery, Event, Notice, Request};
use crate::domain::decision::{Denial, Offer};
use crate::domain::names::SandboxId;
use crate::vault::{Observation, Observer};

/// Events kept of each sandbox, and of the server itself.
const KEPT: usize = 500;
/// Events that a slow reader may be behind; then it misses some, and is told so.
const BACKLOG: usize = 1024;
/// Characters kept of a text from a sandbox.
const MAX_TEXT: usize = 300;

/// The events of all sandboxes.
#[derive(Debug)]
pub(super) struct Activity {
    /// Whether any sandbox is registered: requests of gateways cost two loads while nobody watches them.
    some: AtomicBool,
    kept: Mutex<HashMap<String, Kept>>,
    live: broadcast::Sender<Arc<Event>>,
    /// The last refusals of gateways.
    refusals: Mutex<VecDeque<Arc<Event>>>,
    /// Whether somebody may be watching gateways.
    gateways_watched: AtomicBool,
    gateways: broadcast::Sender<Arc<Event>>,
}

/// What comes from now on.
#[derive(Debug)]
pub(super) struct Following {
    sandboxes: broadcast::Receiver<Arc<Event>>,
    gateways: Option<broadcast::Receiver<Arc<Event>>>,
}

impl Following {
    /// The next event, as [`broadcast::Receiver::recv`].
    pub(super) async fn recv(&mut self) -> Result<Arc<Event>, RecvError> {
        match &mut self.gateways {
            None => self.sandboxes.recv().await,
            Some(gateways) => tokio::select! {
                event = self.sandboxes.recv() => event,
                event = gateways.recv() => event,
            },
        }
    }
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Arc<Event>>,
    requests: u64,
    refused: u64,
}

/// How serious a notice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Info,
    Warning,
    Error,
}

impl Activity {
    pub(super) fn new() -> Self {
        let (live, _) = broadcast::channel(BACKLOG);
        let (gateways, _) = broadcast::channel(BACKLOG);
        // The server's own events have a place under the empty name.
        let kept = HashMap::from([(String::new(), Kept::default())]);
        Self {
            some: AtomicBool::new(false),
            kept: Mutex::new(kept),
            live,
            refusals: Mutex::default(),
            gateways_watched: AtomicBool::new(false),
            gateways,
        }
    }

    /// From now on events of this sandbox are kept.
    pub(super) fn register(&self, sandbox: &SandboxId) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).entry(sandbox.to_string()).or_default();
        self.some.store(true, Ordering::Release);
    }

    /// How many requests there were, and how many of them were refused.
    pub(super) fn counts(&self, sandbox: &SandboxId) -> (u64, u64) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(sandbox.as_str()).map_or((0, 0), |kept| (kept.requests, kept.refused))
    }

    /// Something people should know; of the server as a whole without a sandbox.
    pub(super) fn notice(&self, sandbox: Option<&SandboxId>, level: Level, text: impl Into<String>) {
        let text = text.into();
        let name = sandbox.map_or("", SandboxId::as_str);
        match level {
            Level::Info => tracing::info!(sandbox = name, "{text}"),
            Level::Warning => tracing::warn!(sandbox = name, "{text}"),
            Level::Error => tracing::error!(sandbox = name, "{text}"),
        }
        let level = match level {
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        self.record(name, Kind::Notice(Notice { level: level.to_owned(), text }));
    }

    /// A change of a sandbox's configuration that was applied, or is broken.
    pub(super) fn config(&self, sandbox: &SandboxId, change: ConfigChange) {
        self.record(sandbox.as_str(), Kind::Config(change));
    }

    /// A name that was looked up.
    pub(super) fn dns(&self, sandbox: &SandboxId, query: DnsQuery) {
        self.record(sandbox.as_str(), Kind::Dns(query));
    }

    /// The last `replay` events of a sandbox, or of all, oldest first, and those that come from now on; with `gateways` also
    /// theirs.
    pub(super) fn watch(&self, sandbox: &str, replay: usize, gateways: bool) -> (Vec<Arc<Event>>, Following) {
        let refusals = gateways.then(|| self.refusals.lock().unwrap_or_else(PoisonError::into_inner));
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the locks, so that no event falls between.
        let following =
            Following { sandboxes: self.live.subscribe(), gateways: gateways.then(|| self.gateways.subscribe()) };
        self.gateways_watched.fetch_or(gateways, Ordering::AcqRel);
        let chosen = kept.iter().filter(|(name, _)| sandbox.is_empty() || *name == sandbox);
        let mut events: Vec<_> = chosen.flat_map(|(_, kept)| kept.events.iter().cloned()).collect();
        let of_gateways = refusals.iter().flat_map(|refusals| refusals.iter());
        events.extend(of_gateways.filter(|event| sandbox.is_empty() || event.sandbox == sandbox).cloned());
        drop((kept, refusals));
        events.sort_by_key(|event| event.time_ms);
        let from = events.len().saturating_sub(replay);
        (events.split_off(from), following)
    }

    /// A request of a gateway, of which only the refused ones are kept, and nothing is counted.
    fn record_of_gateway(&self, event: Event, refused: bool) {
        let event = Arc::new(event);
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refused {
            if refusals.len() == KEPT {
                refusals.pop_front();
            }
            refusals.push_back(Arc::clone(&event));
        }
        // Under the lock: who begins to watch either finds it among the kept ones or is sent it.
        if self.gateways.send(event).is_err() {
            self.gateways_watched.store(false, Ordering::Release);
        }
    }

    fn record(&self, sandbox: &str, kind: Kind) {
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = all.get_mut(sandbox) else { return };
        if let Kind::Request(request) = &kind {
            kept.requests += 1;
            kept.refused += u64::from(!request.allowed);
        }
        let event = Arc::new(Event { time_ms: now_ms(), sandbox: sandbox.to_owned(), kind: Some(kind) });
        if kept.events.len() == KEPT {
            kept.events.pop_front();
        }
        kept.events.push_back(Arc::clone(&event));
        // Nobody may be watching.
        let _ = self.live.send(event);
    }
}

impl Observer for Activity {
    fn observe(&self, observation: Observation<'_>) {
        let refused = observation.refused.is_some();
        let is_sandbox = self.some.load(Ordering::Acquire) && {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.contains_key(observation.sandbox)
        };
        if !is_sandbox && !refused && !self.gateways_watched.load(Ordering::Acquire) {
            return;
        }
        let kind = Kind::Request(request(&observation));
        if is_sandbox {
            self.record(observation.sandbox, kind);
        } else {
            let sandbox = observation.sandbox.to_owned();
            self.record_of_gateway(Event { time_ms: now_ms(), sandbox, kind: Some(kind) }, refused);
        }
    }
}

fn request(observation: &Observation<'_>) -> Request {
    let path = observation.target.split(['?', '#']).next().unwrap_or_default();
    let remedy = observation.remedy;
    let editable = matches!(
        observation.refused,
        Some(Denial::UnknownUpstream(_) | Denial::LimitMethod { .. } | Denial::LimitPath { .. })
    ) && remedy.is_some_and(|remedy| matches!(remedy.offer, Some(Offer::Toml { .. })));
    Request {
        host: observation.host.to_owned(),
        method: shown(observation.method),
        path: shown(path),
        allowed: observation.refused.is_none(),
        reason: observation.refused.map(ToString::to_string).unwrap_or_default(),
        credential: observation.credential.is_some(),
        token: observation.token.map(|id| id.to_string()).unwrap_or_default(),
        latency_us: u64::try_from(observation.latency.as_micros()).unwrap_or(u64::MAX),
        help: remedy.map(|remedy| remedy.say.clone()).unwrap_or_default(),
        offer: remedy.and_then(|remedy| remedy.offer.as_ref()).map(Offer::text).unwrap_or_default(),
        editable,
        exact_path: if editable && is_plain(path) { path.to_owned() } else { String::new() },
    }
}

/// Printable ASCII of a bounded length.
fn is_plain(text: &str) -> bool {
    text.len() <= MAX_TEXT && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Somebody else's text: escaped, and cut.
pub(super) fn shown(text: &str) -> String {
    // Nearly all of it is plain, and this is on the way of each request.
    let plain = |byte: u8| (b' '..=b'~').contains(&byte) && !b"\"'\\".contains(&byte);
    if text.len() <= MAX_TEXT && text.bytes().all(plain) {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(MAX_TEXT).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_TEXT).is_some() {
        out.push('…');
    }
    out
}

pub(super) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::decision::Remedy;

    #[test]
    fn somebody_elses_text_is_escaped_and_cut() {
        let long = "x".repeat(MAX_TEXT);
        for (text, expected) in [
            ("/v1/a?b=c~", "/v1/a?b=c~"),
            ("", ""),
            ("a\"b'c\\", "a\\\"b\\'c\\\\"),
            ("a\u{1b}[31m\n\u{7f}", "a\\u{1b}[31m\\n\\u{7f}"),
            ("\u{202e}é", "\\u{202e}é"),
            (&long, &long),
            (&format!("{long}y"), &format!("{long}…")),
        ] {
            assert_eq!(shown(text), expected, "{text:?}");
        }
    }

    fn request(activity: &Activity, sandbox: &str, target: &str) {
        activity.observe(Observation {
            sandbox,
            host: "a.example",
            method: "GET",
            target,
            token: None,
            decision: "allow",
            reason: "token",
            refused: None,
            remedy: None,
            credential: Some("a.example"),
            latency: std::time::Duration::ZERO,
        });
    }

    fn path(event: &Event) -> &str {
        match &event.kind {
            Some(Kind::Request(request)) => &request.path,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn events_are_bounded_escaped_and_without_queries() {
        let activity = Activity::new();
        let one: SandboxId = "one".parse().unwrap();
        request(&activity, "one", "/before");
        activity.register(&one);
        for n in 0..KEPT + 7 {
            request(&activity, "one", &format!("/{n}?secret=x"));
        }
        request(&activity, "elsewhere", "/x");
        request(&activity, "one", &format!("/\u{1b}[31m\n{}", "x".repeat(5000)));
        assert_eq!(activity.counts(&one), (KEPT as u64 + 8, 0));
        let (all, _) = activity.watch("one", usize::MAX, false);
        assert_eq!((all.len(), path(&all[0])), (KEPT, "/8"));
        let last = path(&all[KEPT - 1]);
        assert!(last.starts_with("/\\u{1b}[31m\\nxxx") && last.chars().count() < MAX_TEXT + 20, "{last}");
        assert_eq!(activity.watch("", 3, false).0.len(), 3);
    }

    #[test]
    fn nothing_falls_between_the_replay_and_what_follows() {
        let activity = Activity::new();
        let one: SandboxId = "one".parse().unwrap();
        activity.register(&one);
        request(&activity, "one", "/1");
        let (replayed, mut live) = activity.watch("one", 10, false);
        request(&activity, "one", "/2");
        assert_eq!(replayed.iter().map(|event| path(event)).collect::<Vec<_>>(), ["/1"]);
        assert_eq!(path(&live.sandboxes.try_recv().unwrap()), "/2");
        assert!(live.sandboxes.try_recv().is_err());
    }

    #[test]
    fn of_gateways_only_refusals_are_kept_and_all_are_sent_to_those_who_ask() {
        let activity = Activity::new();
        let refuse = |target: &str| {
            let denial = Denial::LimitPath { host: "a.example".parse().unwrap(), path: target.to_owned() };
            let offer = Offer::Toml { section: "[x]".into(), lines: vec!["y".into()] };
            let remedy = Remedy { say: "write".into(), offer: Some(offer) };
            activity.observe(Observation {
                sandbox: "gate",
                host: "a.example",
                method: "GET",
                target,
                token: None,
                decision: "deny",
                reason: "limit_path",
                refused: Some(&denial),
                remedy: Some(&remedy),
                credential: None,
                latency: std::time::Duration::ZERO,
            });
        };
        request(&activity, "gate", "/unseen");
        for n in 0..KEPT + 2 {
            refuse(&format!("/{n}?x"));
        }
        let (without, mut not_theirs) = activity.watch("", usize::MAX, false);
        let (kept, mut live) = activity.watch("", usize::MAX, true);
        assert_eq!((without.len(), kept.len(), path(&kept[0])), (0, KEPT, "/2"));
        assert!(activity.watch("another", usize::MAX, true).0.is_empty());
        request(&activity, "gate", "/seen");
        refuse("/\u{1b}");
        assert_eq!(path(&live.gateways.as_mut().unwrap().try_recv().unwrap()), "/seen");
        let event = live.gateways.as_mut().unwrap().try_recv().unwrap();
        assert_eq!(path(&event), "/\\u{1b}");
        let Some(Kind::Request(refused)) = &event.kind else { panic!() };
        assert_eq!(
            (&*refused.help, &*refused.offer, refused.editable, &*refused.exact_path),
            ("write", "[x]\ny\n", true, "")
        );
        let Some(Kind::Request(refused)) = &kept[1].kind else { panic!() };
        assert_eq!(refused.exact_path, "/3");
        assert!(not_theirs.sandboxes.try_recv().is_err());
        drop(live);
        request(&activity, "gate", "/nobody");
        assert!(!activity.gateways_watched.load(Ordering::Acquire));
    }
}
