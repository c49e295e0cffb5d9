//! Why a client rejected a response: its words, and the lines of the configuration they are about.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connections::escaped;
use crate::domain::policy::Origin;
use crate::xds::snapshot::{Resource, ResourceType};

/// The longest message of a NACK that is kept, in bytes.
const MAX_MESSAGE: usize = 512;
/// The most resources, and lines, that are named.
const MOST_NAMED: usize = 16;

/// Why a client rejected a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// What the client said: cut to 512 bytes, control characters escaped.
    pub message: Arc<str>,
    /// The lines of the configuration that the rejected resources came from, at most 16.
    pub origins: Vec<Origin>,
    /// The rejected resources by name, at most 16.
    pub resources: Vec<Arc<str>>,
    /// The client named them, or there was only one; otherwise at least one of them was rejected.
    pub is_certain: bool,
}

impl Rejection {
    /// What `message` says about the resources that were new in the rejected response.
    pub(super) fn new(message: &str, resources: &[Arc<Resource>]) -> Self {
        let (blamed, is_certain) = blamed(message, resources);
        let mut origins: Vec<_> = blamed.iter().filter_map(|resource| resource.origin().cloned()).collect();
        origins.sort();
        origins.dedup();
        origins.truncate(MOST_NAMED);
        let resources = blamed.iter().take(MOST_NAMED).map(|resource| resource.name().clone()).collect();
        Self { message: escaped(message.trim_end(), MAX_MESSAGE).into(), origins, resources, is_certain }
    }

    /// The lines, as `file:line`; of several that it may be, one of them.
    pub fn place(&self) -> String {
        let lines: Vec<_> = self.origins.iter().map(ToString::to_string).collect();
        let one_of = if self.is_certain || lines.len() < 2 { "" } else { "one of " };
        format!("{one_of}{}", lines.join(", "))
    }

    /// Logs it for a client.
    pub(super) fn log(&self, node: &str, ty: ResourceType, left_out: u64) {
        let (message, origin) = (&*self.message, self.place());
        if left_out > 0 {
            tracing::warn!(node, left_out, "rejections were not logged: they came too fast");
        }
        tracing::warn!(node, r#type = ty.label(), origin, "Envoy rejected the configuration: {message}");
    }
}

/// The resources that the message is about, and whether that is certain: those it names; else those that need something it
/// names, as in `unknown cluster`; else any of them.
fn blamed<'a>(message: &str, resources: &'a [Arc<Resource>]) -> (Vec<&'a Arc<Resource>>, bool) {
    let named: Vec<_> = resources.iter().filter(|resource| names(message, resource.name())).collect();
    if !named.is_empty() {
        return (named, true);
    }
    let needs = |resource: &&Arc<Resource>| resource.refers_to().iter().any(|(_, name)| names(message, name));
    let needing: Vec<_> = resources.iter().filter(needs).collect();
    if !needing.is_empty() {
        let is_certain = needing.len() == 1;
        return (needing, is_certain);
    }
    (resources.iter().collect(), resources.len() == 1)
}

/// Whether `message` has `name` as a word of its own: `shop/a.example` is not in `shop/a.example.com`, nor in `myshop/a.example`.
fn names(message: &str, name: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || "-_/*".contains(c);
    let ends = |rest: &str| {
        let mut next = rest.chars();
        match next.next() {
            // The end of a sentence, or of a clause.
            Some('.' | ':') => next.next().is_none_or(|c| !is_name(c)),
            Some(c) => !is_name(c),
            None => true,
        }
    };
    !name.is_empty()
        && message.match_indices(name).any(|(at, _)| {
            let before = message[..at].chars().next_back();
            before.is_none_or(|c| !is_name(c) && c != '.') && ends(&message[at + name.len()..])
        })
}

/// How many log lines somebody else may cause: `burst` at once, then one in each `pause`.
#[derive(Debug)]
pub(super) struct LogLimit {
    burst: u32,
    pause: Duration,
    left: u32,
    /// Since when `left` is what it is.
    since: Option<Instant>,
    left_out: u64,
}

impl LogLimit {
    pub(super) const fn new(burst: u32, pause: Duration) -> Self {
        Self { burst, pause, left: burst, since: None, left_out: 0 }
    }

    /// Whether there may be a line now: if so, how many were left out before it.
    pub(super) fn take(&mut self, now: Instant) -> Option<u64> {
        let since = *self.since.get_or_insert(now);
        let waited = now.saturating_duration_since(since).as_nanos() / self.pause.as_nanos().max(1);
        let gained = u32::try_from(waited).unwrap_or(u32::MAX).min(self.burst - self.left);
        if self.left == self.burst || waited > 0 {
            self.since = Some(now);
        }
        self.left += gained;
        if self.left == 0 {
            self.left_out += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use proptest::prelude::*;

    use super::*;
    use crate::xds::snapshot::Version;

    fn resource(name: &str, line: u32) -> Resource {
        let message = Cluster { name: name.into(), ..Default::default() };
        Resource::new(ResourceType::Cluster, name, Version::of(&name), &message)
            .from_line(Origin { file: "a.toml".into(), line })
    }

    fn place(message: &str, resources: &[Resource]) -> String {
        let resources: Vec<_> = resources.iter().cloned().map(Arc::new).collect();
        Rejection::new(message, &resources).place()
    }

    #[test]
    fn the_line_is_that_of_the_resource_named() {
        let all = [
            resource("shop/a.example", 1),
            resource("shop/a.example.com", 2),
            resource("shop/a.example/http1", 3),
            resource("myshop/a.example", 4),
        ];
        for (message, expected) in [
            ("Error adding/updating cluster(s) shop/a.example: no", "a.toml:1"),
            ("Error adding/updating cluster(s) shop/a.example.com: no", "a.toml:2"),
            ("Error adding/updating cluster(s) shop/a.example/http1: no, shop/a.example.com: no", "a.toml:2, a.toml:3"),
            ("no 'myshop/a.example'.", "a.toml:4"),
            ("no shop/a.example.", "a.toml:1"),
            ("no shop/a.example.com.", "a.toml:2"),
            ("something else", "one of a.toml:1, a.toml:2, a.toml:3, a.toml:4"),
        ] {
            assert_eq!(place(message, &all), expected, "{message}");
        }
        assert_eq!(place("something else", &all[..1]), "a.toml:1", "there is no other");
        assert_eq!(place("", &[]), "");
    }

    #[test]
    fn what_needs_the_resource_named_is_blamed() {
        let route = |name: &str, line, cluster: &str| resource(name, line).referring_to(ResourceType::Cluster, cluster);
        let all = [route("r/a", 1, "shop/a"), route("r/b", 2, "shop/b")];
        assert_eq!(place("route: unknown cluster 'shop/b'", &all), "a.toml:2");
    }

    #[test]
    fn many_resources_are_bounded() {
        let all: Vec<_> = (0..1000).map(|i| Arc::new(resource(&format!("c{i}"), i))).collect();
        let rejection = Rejection::new(&"no\n".repeat(1000), &all);
        assert_eq!((rejection.origins.len(), rejection.resources.len()), (16, 16));
        assert!(rejection.message.len() <= 512 && !rejection.is_certain);
    }

    #[test]
    fn a_log_is_not_flooded() {
        let second = Duration::from_secs(1);
        let mut limit = LogLimit::new(2, 10 * second);
        let start = Instant::now();
        let taken: Vec<_> = (0..5).map(|_| limit.take(start)).collect();
        assert_eq!(taken, [Some(0), Some(0), None, None, None]);
        assert_eq!(limit.take(start + 9 * second), None);
        assert_eq!(limit.take(start + 10 * second), Some(4));
        assert_eq!(limit.take(start + 11 * second), None);
        assert_eq!(limit.take(start + 1000 * second), Some(1));
        assert_eq!(limit.take(start + 1000 * second), Some(0), "as many as at first, and no more");
        assert_eq!(limit.take(start + 1000 * second), None);
    }

    proptest! {
        #[test]
        fn no_more_lines_than_allowed(pauses in prop::collection::vec(0..5000_u64, 1..200)) {
            let mut limit = LogLimit::new(3, Duration::from_secs(10));
            let start = Instant::now();
            let (mut now, mut lines, mut told) = (start, 0_u64, 0);
            for pause in &pauses {
                now += Duration::from_millis(*pause);
                if let Some(left_out) = limit.take(now) {
                    lines += 1;
                    told += left_out;
                }
            }
            prop_assert!(lines <= 3 + (now - start).as_secs() / 10);
            prop_assert_eq!(lines + told + limit.left_out, pauses.len() as u64);
        }
    }
}
