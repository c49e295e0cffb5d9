//! What a fleet of Envoys should hold: immutable, consistent by construction, each resource encoded once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

pub use super::resource::{Resource, ResourceType, Version};
use crate::domain::policy::Origin;

/// The resources of one type.
#[derive(Debug)]
pub struct TypeSet {
    resources: BTreeMap<Arc<str>, Arc<Resource>>,
    version: Version,
    since: Option<Since>,
}

/// What changed since the snapshot this one was built on.
#[derive(Debug)]
struct Since {
    from: Version,
    names: Vec<Arc<str>>,
}

impl TypeSet {
    fn new(resources: BTreeMap<Arc<str>, Arc<Resource>>, previous: Option<&Self>) -> Self {
        let version = Self::version_of(resources.values());
        let mut set = Self { resources, version, since: None };
        if let Some(previous) = previous {
            let names = set.compare(previous);
            set.since = Some(Since { from: previous.version, names });
        }
        set
    }

    /// The version of a set that consists of these resources.
    pub(super) fn version_of<'a>(resources: impl IntoIterator<Item = &'a Arc<Resource>>) -> Version {
        let pairs: Vec<_> = resources.into_iter().map(|r| (&**r.name(), r.version())).collect();
        let pairs: Vec<_> = pairs.iter().map(|(name, version)| (*name, version.as_str())).collect();
        Version::of(&pairs)
    }

    /// The hash of all names and versions.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The resource of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.resources.get(name)
    }

    /// All resources, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// The names that were added, changed or removed between `old` and `self`.
    ///
    /// From one snapshot to the next the answer was computed when the snapshot was built, so that thousands of streams do
    /// not each compare every resource.
    pub(super) fn changes_since(&self, old: &Self) -> Cow<'_, [Arc<str>]> {
        match &self.since {
            _ if self.version == old.version => Cow::Borrowed(&[]),
            Some(since) if since.from == old.version => Cow::Borrowed(&since.names),
            _ => Cow::Owned(self.compare(old)),
        }
    }

    fn compare(&self, old: &Self) -> Vec<Arc<str>> {
        let version_in = |set: &Self, name: &str| set.get(name).map(|r| r.version());
        let mut names: Vec<_> =
            self.resources.keys().filter(|n| version_in(old, n) != version_in(self, n)).cloned().collect();
        names.extend(old.resources.keys().filter(|n| self.get(n).is_none()).cloned());
        names
    }
}

/// Everything an Envoy may be told, consistent: no name twice, and whatever a resource refers to is there.
#[derive(Debug)]
pub struct Snapshot {
    sets: [TypeSet; ResourceType::COUNT],
}

/// Why resources do not make a [`Snapshot`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Two resources have one name.
    #[error("two resources are named {label} {name:?}{}", at(.origin), label = .ty.label())]
    Duplicate {
        /// Their type.
        ty: ResourceType,
        /// Their name.
        name: Arc<str>,
        /// The line of the second.
        origin: Option<Origin>,
    },
    /// A resource refers to one that is not there.
    #[error(
        "{label} {name:?}{} refers to {missing_label} {missing:?}, which does not exist", at(.origin),
        label = .ty.label(), missing_label = .missing_ty.label()
    )]
    Dangling {
        /// The type of the resource that refers.
        ty: ResourceType,
        /// Its name.
        name: Arc<str>,
        /// Its line.
        origin: Option<Origin>,
        /// The type of what is missing.
        missing_ty: ResourceType,
        /// The name of what is missing.
        missing: Arc<str>,
    },
}

fn at(origin: &Option<Origin>) -> String {
    origin.as_ref().map(|origin| format!(" ({origin})")).unwrap_or_default()
}

impl Snapshot {
    /// Puts a snapshot together. What has not changed since `previous` is shared with it, encoded bytes and all.
    pub fn build(
        resources: impl IntoIterator<Item = Resource>,
        previous: Option<&Self>,
    ) -> Result<Self, SnapshotError> {
        let mut maps: [BTreeMap<Arc<str>, Arc<Resource>>; ResourceType::COUNT] = Default::default();
        for resource in resources {
            let resource = share(resource, previous);
            let (ty, name) = (resource.ty(), resource.name().clone());
            let origin = resource.origin().cloned();
            if maps[ty.index()].insert(name.clone(), resource).is_some() {
                return Err(SnapshotError::Duplicate { ty, name, origin });
            }
        }
        for resource in maps.iter().flat_map(BTreeMap::values) {
            let missing = resource.refers_to().iter().find(|(ty, name)| !maps[ty.index()].contains_key(name));
            if let Some((missing_ty, missing)) = missing {
                return Err(SnapshotError::Dangling {
                    ty: resource.ty(),
                    name: resource.name().clone(),
                    origin: resource.origin().cloned(),
                    missing_ty: *missing_ty,
                    missing: missing.clone(),
                });
            }
        }
        let mut index = 0;
        let sets = maps.map(|map| {
            index += 1;
            TypeSet::new(map, previous.map(|previous| &previous.sets[index - 1]))
        });
        Ok(Self { sets })
    }

    /// The snapshot without any resource; always the same one.
    pub fn empty() -> Arc<Self> {
        static EMPTY: LazyLock<Arc<Snapshot>> =
            LazyLock::new(|| Arc::new(Snapshot { sets: std::array::from_fn(|_| TypeSet::new(BTreeMap::new(), None)) }));
        EMPTY.clone()
    }

    /// The resources of one type.
    pub fn of_type(&self, ty: ResourceType) -> &TypeSet {
        &self.sets[ty.index()]
    }

    /// The resource of this type and name.
    pub fn get(&self, ty: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        self.of_type(ty).get(name)
    }

    /// How many resources there are, of all types.
    pub fn len(&self) -> usize {
        self.sets.iter().map(TypeSet::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The resource of the previous snapshot when it is the same; its body in a new resource when only the line moved.
fn share(resource: Resource, previous: Option<&Snapshot>) -> Arc<Resource> {
    match previous.and_then(|previous| previous.get(resource.ty(), resource.name())) {
        Some(old) => resource.shared_with(old),
        None => Arc::new(resource),
    }
}

/// The `node.cluster` of an Envoy that serves every gateway, as this server's own does. No gateway can have this name.
pub const LOCAL_CLUSTER: &str = "*";

/// What each Envoy of the fleet should hold.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// For this server's own Envoy: all sandboxes and gateways.
    pub everything: Arc<Snapshot>,
    /// For a foreign Envoy: what its `node.cluster`, a gateway's name, may have.
    pub by_cluster: BTreeMap<String, Arc<Snapshot>>,
    /// Counts the changes of the configuration since the server started.
    pub generation: u64,
    /// When it was published.
    pub published: Instant,
}

impl Fleet {
    /// What an Envoy that says it belongs to `node_cluster` should hold: nothing when nobody knows that cluster.
    pub fn of(&self, node_cluster: &str) -> Arc<Snapshot> {
        if node_cluster == LOCAL_CLUSTER {
            return self.everything.clone();
        }
        self.by_cluster.get(node_cluster).cloned().unwrap_or_else(Snapshot::empty)
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self { everything: Snapshot::empty(), by_cluster: BTreeMap::new(), generation: 0, published: Instant::now() }
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
