//! Leaf certificates for names below wildcards: made when an Envoy asks for one by its server name.
//!
//! How many names there are is for the agents to say, so what is kept is bounded, and who asks for most gives up first.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::secret::{self, Leaves};
use super::version;
use crate::domain::names::{Host, HostPattern};
use crate::xds::on_demand::{Fair, OnDemand};
use crate::xds::snapshot::{Resource, Version};

/// The most leaves that are kept, of all wildcards together.
const MOST_LEAVES: usize = 2048;

/// The leaves of some wildcards: those that one kind of Envoy may have.
pub(super) struct WildcardLeaves {
    /// The longest first: the most specific pattern counts.
    patterns: Vec<HostPattern>,
    leaves: Arc<dyn Leaves>,
    kept: Arc<Kept>,
    /// The time that decides which leaves are due.
    epoch: u64,
    version: Version,
}

impl WildcardLeaves {
    /// `kept` may serve several of these.
    pub(super) fn new(mut patterns: Vec<HostPattern>, leaves: Arc<dyn Leaves>, epoch: u64, kept: Arc<Kept>) -> Self {
        patterns.sort_by_key(|pattern| {
            let name = pattern.to_string();
            (std::cmp::Reverse(name.len()), name)
        });
        patterns.dedup();
        let version = version("wildcards", &(&patterns, leaves.authority(), epoch));
        Self { patterns, leaves, kept, epoch, version }
    }

    fn pattern(&self, host: &Host) -> Option<&HostPattern> {
        self.patterns.iter().find(|pattern| pattern.matches(host))
    }
}

impl OnDemand for WildcardLeaves {
    /// The leaf for a server name, if it is one of ours.
    fn get(&self, name: &str) -> Option<Arc<Resource>> {
        let host: Host = name.parse().ok()?;
        // One spelling for each name, or one name could be asked for in any number.
        if host.as_str() != name {
            return None;
        }
        let group = self.pattern(&host)?.to_string().into();
        let made = secret::leaf(name, &host, &self.leaves, self.epoch);
        Some(self.kept.keep(group, host, made))
    }

    fn group(&self, name: &str) -> Arc<str> {
        let host: Option<Host> = name.parse().ok();
        host.and_then(|host| self.pattern(&host)).map(ToString::to_string).unwrap_or_default().into()
    }

    fn version(&self) -> Version {
        self.version
    }
}

impl fmt::Debug for WildcardLeaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WildcardLeaves").field(&self.patterns).finish()
    }
}

/// What was made lately.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<KeptLeaves>);

#[derive(Debug)]
struct KeptLeaves {
    by_host: HashMap<Host, Entry>,
    bound: Fair<Host>,
}

/// The leaf for a name, and the one before it: streams compare the two.
#[derive(Debug)]
struct Entry {
    latest: Arc<Resource>,
    before: Option<Arc<Resource>>,
}

impl Default for KeptLeaves {
    fn default() -> Self {
        Self { by_host: HashMap::new(), bound: Fair::new(MOST_LEAVES) }
    }
}

impl Kept {
    /// What is kept for `host`, if it is what would be made now; else `made`, from now on.
    fn keep(&self, group: Arc<str>, host: Host, made: Resource) -> Arc<Resource> {
        let mut leaves = self.leaves();
        let KeptLeaves { by_host, bound } = &mut *leaves;
        let is_it = |leaf: &&Arc<Resource>| leaf.version() == made.version() && !leaf.has_failed();
        if let Some(Entry { latest, before }) = by_host.get(&host)
            && let Some(leaf) = [Some(latest), before.as_ref()].into_iter().flatten().find(is_it)
        {
            return Arc::clone(leaf);
        }
        if let Some(given_up) = bound.add(&host, group) {
            by_host.remove(&given_up);
        }
        let made = Arc::new(made);
        let before = by_host.remove(&host).map(|entry| entry.latest);
        by_host.insert(host, Entry { latest: Arc::clone(&made), before });
        made
    }

    fn leaves(&self) -> MutexGuard<'_, KeptLeaves> {
        // What is kept can be made again: a panic elsewhere has broken nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::FakeLeaves;
    use super::*;

    fn wildcards(patterns: &[&str]) -> WildcardLeaves {
        let patterns = patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
        WildcardLeaves::new(patterns, Arc::new(FakeLeaves), 7, Arc::default())
    }

    #[test]
    fn only_names_below_are_served_in_one_spelling() {
        let leaves = wildcards(&["*.s3.example.com"]);
        for name in ["a.s3.example.com", "a.b.s3.example.com", "x_1.s3.example.com"] {
            assert_eq!(&**leaves.get(name).unwrap().name(), name);
        }
        let long = format!("{}.s3.example.com", "a".repeat(64));
        for name in [
            "s3.example.com",
            "A.s3.example.com",
            "a.s3.example.com.",
            "*.s3.example.com",
            "*",
            "",
            ".s3.example.com",
            "a..s3.example.com",
            "-a.s3.example.com",
            "xs3.example.com",
            "leaf/a.s3.example.com",
            "a.s3.example.com:443",
            long.as_str(),
        ] {
            assert!(leaves.get(name).is_none(), "{name}");
        }
    }

    #[test]
    fn the_same_is_made_once() {
        let leaves = wildcards(&["*.s3.example.com"]);
        let first = leaves.get("a.s3.example.com").unwrap();
        assert!(Arc::ptr_eq(&first, &leaves.get("a.s3.example.com").unwrap()));
    }

    #[test]
    fn what_is_due_is_another_leaf_and_what_was_is_still_known() {
        let before = wildcards(&["*.s3.example.com"]);
        let after = WildcardLeaves::new(before.patterns.clone(), Arc::new(FakeLeaves), 8, Arc::clone(&before.kept));
        assert_ne!(before.version(), after.version());
        let name = "a.s3.example.com";
        let (old, new) = (before.get(name).unwrap(), after.get(name).unwrap());
        assert_ne!(old.version(), new.version());
        for _ in 0..2 {
            assert!(Arc::ptr_eq(&old, &before.get(name).unwrap()) && Arc::ptr_eq(&new, &after.get(name).unwrap()));
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_greediest_gives_way() {
        let leaves = wildcards(&["*.s3.example.com", "*.calm.example.com"]);
        let calm = leaves.get("a.calm.example.com").unwrap();
        for number in 0..3 * MOST_LEAVES {
            leaves.get(&format!("n{number}.s3.example.com")).unwrap();
        }
        assert_eq!(leaves.kept.leaves().by_host.len(), MOST_LEAVES);
        assert_eq!(leaves.kept.leaves().bound.len(), MOST_LEAVES);
        assert!(Arc::ptr_eq(&calm, &leaves.get("a.calm.example.com").unwrap()));
        let last = format!("n{}.s3.example.com", 3 * MOST_LEAVES - 1);
        assert!(Arc::ptr_eq(&leaves.get(&last).unwrap(), &leaves.get(&last).unwrap()));
    }
}
