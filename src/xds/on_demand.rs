//! Resources that exist by a rule, one for each name that it allows: too many to list, made when a client first asks.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use super::resource::{Resource, Version};

/// A rule by which names exist. The names of a snapshot's own resources go before it.
///
/// An answer must not block: it is asked for while a stream is served. What takes time (minting) belongs into the body of a
/// [`Resource::lazy`]. How many resources are kept is the rule's to bound: clients can name any number.
pub trait OnDemand: Send + Sync + fmt::Debug {
    /// The resource of this name; `None` when the rule does not allow it.
    fn get(&self, name: &str) -> Option<Arc<Resource>>;

    /// What a name that the rule allows counts against where there may be only so many: the group with most of them gives up its oldest.
    fn group(&self, name: &str) -> Arc<str>;

    /// The hash of the rule and of the versions of what it makes: as long as it is the same, so is every answer's version.
    fn version(&self) -> Version;
}

/// A bounded number of keys, each of a group. When there are too many, the group with most of them gives up its oldest.
#[derive(Debug)]
pub(super) struct Fair<K> {
    most: usize,
    by_key: HashMap<K, (Arc<str>, u64)>,
    /// By group, in the order in which they came.
    by_group: BTreeMap<Arc<str>, BTreeMap<u64, K>>,
    came: u64,
}

impl<K: Clone + Eq + Hash> Fair<K> {
    /// For no more than `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { most, by_key: HashMap::new(), by_group: BTreeMap::new(), came: 0 }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Takes a key in, unless it is here already; what has to go for it.
    pub(super) fn add(&mut self, key: &K, group: Arc<str>) -> Option<K> {
        if self.by_key.contains_key(key) {
            return None;
        }
        let given_up = if self.len() < self.most { None } else { self.give_up() };
        self.came += 1;
        self.by_group.entry(group.clone()).or_default().insert(self.came, key.clone());
        self.by_key.insert(key.clone(), (group, self.came));
        given_up
    }

    /// Lets a key go.
    pub(super) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q)
    where
        K: std::borrow::Borrow<Q>,
    {
        let Some((group, number)) = self.by_key.remove(key) else { return };
        if let Some(keys) = self.by_group.get_mut(&group) {
            keys.remove(&number);
            if keys.is_empty() {
                self.by_group.remove(&group);
            }
        }
    }

    fn give_up(&mut self) -> Option<K> {
        let greediest = self.by_group.values().max_by_key(|keys| keys.len())?;
        let oldest = greediest.values().next()?.clone();
        self.remove(&oldest);
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greediest_gives_up_its_oldest() {
        let mut fair = Fair::new(4);
        assert_eq!(fair.add(&"calm", "one".into()), None);
        for key in ["a", "b", "c", "a"] {
            assert_eq!(fair.add(&key, "two".into()), None);
        }
        assert_eq!(fair.add(&"d", "two".into()), Some("a"));
        assert_eq!(fair.add(&"e", "three".into()), Some("b"));
        fair.remove("c");
        fair.remove("c");
        assert_eq!((fair.len(), fair.by_group.len()), (3, 3));
        assert_eq!(fair.add(&"a", "one".into()), None);
        assert_eq!(fair.add(&"f", "two".into()), Some("calm"), "now it is this one");
    }
}
