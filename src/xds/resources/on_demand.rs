//! Leaf certificates for names below wildcards: made when an Envoy asks for one by its server name.
//!
//! How many names there are is for the agents to say, so what is kept is bounded, and who asks for most gives up first.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::secret::{self, Leaves};
use super::version;
use crate::domain::names::{Host, HostPattern};
use crate::xds::on_demand::OnDemand;
use crate::xds::snapshot::{Resource, Version};

/// The most leaves that are kept, of all wildcards together.
const MOST_LEAVES: usize = 2048;

/// The leaves of some wildcards: those that one kind of Envoy may have.
pub(super) struct WildcardLeaves {
    /// The longest first: the most specific pattern counts.
    patterns: Vec<HostPattern>,
    leaves: Arc<dyn Leaves>,
    kept: Arc<Kept>,
    version: Version,
}

impl WildcardLeaves {
    /// `kept` may serve several of these.
    pub(super) fn new(mut patterns: Vec<HostPattern>, leaves: Arc<dyn Leaves>, kept: Arc<Kept>) -> Self {
        patterns.sort_by_key(|pattern| {
            let name = pattern.to_string();
            (std::cmp::Reverse(name.len()), name)
        });
        patterns.dedup();
        let version = version("wildcards", &(&patterns, leaves.epoch()));
        Self { patterns, leaves, kept, version }
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
        let pattern = self.patterns.iter().find(|pattern| pattern.matches(&host))?;
        let made = Arc::new(secret::leaf(name, &host, &self.leaves));
        Some(self.kept.keep(pattern, host, made))
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

#[derive(Debug, Default)]
struct KeptLeaves {
    by_host: HashMap<Host, Entry>,
    /// By wildcard, and in the order in which they were made.
    by_pattern: BTreeMap<HostPattern, BTreeMap<u64, Host>>,
    made: u64,
}

#[derive(Debug)]
struct Entry {
    pattern: HostPattern,
    number: u64,
    leaf: Arc<Resource>,
}

impl Kept {
    /// What is kept for `host`, if it is what would be made now; else `made`, from now on.
    fn keep(&self, pattern: &HostPattern, host: Host, made: Arc<Resource>) -> Arc<Resource> {
        let mut leaves = self.leaves();
        if let Some(entry) = leaves.by_host.get(&host)
            && entry.leaf.version() == made.version()
            && !entry.leaf.has_failed()
        {
            return Arc::clone(&entry.leaf);
        }
        leaves.forget(&host);
        while leaves.by_host.len() >= MOST_LEAVES {
            leaves.forget_of_the_greediest();
        }
        leaves.made += 1;
        let number = leaves.made;
        leaves.by_pattern.entry(pattern.clone()).or_default().insert(number, host.clone());
        leaves.by_host.insert(host, Entry { pattern: pattern.clone(), number, leaf: Arc::clone(&made) });
        made
    }

    fn leaves(&self) -> MutexGuard<'_, KeptLeaves> {
        // What is kept can be made again: a panic elsewhere has broken nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeptLeaves {
    fn forget(&mut self, host: &Host) {
        let Some(Entry { pattern, number, .. }) = self.by_host.remove(host) else { return };
        if let Some(of_pattern) = self.by_pattern.get_mut(&pattern) {
            of_pattern.remove(&number);
            if of_pattern.is_empty() {
                self.by_pattern.remove(&pattern);
            }
        }
    }

    /// Forgets the oldest of the wildcard that has most.
    fn forget_of_the_greediest(&mut self) {
        let greediest = self.by_pattern.values().max_by_key(|of_pattern| of_pattern.len());
        let oldest = greediest.and_then(|of_pattern| of_pattern.values().next()).cloned();
        match oldest {
            Some(host) => self.forget(&host),
            // Never: every leaf is of some wildcard.
            None => self.by_host.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::super::secret::Leaf as LeafPem;
    use super::*;

    struct FakeLeaves;

    impl Leaves for FakeLeaves {
        fn edition(&self, _host: &Host) -> String {
            "first".to_owned()
        }

        fn epoch(&self) -> String {
            "first".to_owned()
        }

        fn mint(&self, host: &Host) -> Result<LeafPem, String> {
            Ok(LeafPem { chain: host.to_string(), key: Zeroizing::new(String::new()) })
        }
    }

    fn wildcards(patterns: &[&str]) -> WildcardLeaves {
        let patterns = patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
        WildcardLeaves::new(patterns, Arc::new(FakeLeaves), Arc::default())
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
    fn what_is_kept_is_bounded_and_the_greediest_gives_way() {
        let leaves = wildcards(&["*.s3.example.com", "*.calm.example.com"]);
        let calm = leaves.get("a.calm.example.com").unwrap();
        for number in 0..3 * MOST_LEAVES {
            leaves.get(&format!("n{number}.s3.example.com")).unwrap();
        }
        assert_eq!(leaves.kept.leaves().by_host.len(), MOST_LEAVES);
        let numbers: usize = leaves.kept.leaves().by_pattern.values().map(BTreeMap::len).sum();
        assert_eq!(numbers, MOST_LEAVES);
        assert!(Arc::ptr_eq(&calm, &leaves.get("a.calm.example.com").unwrap()));
        let last = format!("n{}.s3.example.com", 3 * MOST_LEAVES - 1);
        assert!(Arc::ptr_eq(&leaves.get(&last).unwrap(), &leaves.get(&last).unwrap()));
    }
}
