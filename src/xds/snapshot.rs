//! What a fleet of Envoys should hold: immutable, consistent by construction, each resource encoded once.
//!
//! A [`Snapshot`] is persistent: [`Snapshot::edit`] makes another one that shares all but what changed, and knows what that is.
//! Beside its resources there may be names that exist by a rule ([`OnDemand`]), and some that are of one client alone.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use rpds::RedBlackTreeMapSync;
use sha2::{Digest, Sha256};

use super::on_demand::OnDemand;
pub use super::resource::{Resource, ResourceType, Version};
use crate::domain::policy::Origin;

/// How many changes a set remembers: streams that are up to so many snapshots behind are told what changed without comparing.
const HISTORY: usize = 16;

/// The resources of one type. Persistent: a changed copy shares all but what changed.
#[derive(Debug, Clone)]
pub struct TypeSet {
    resources: RedBlackTreeMapSync<Arc<str>, Arc<Resource>>,
    /// How many resources, of all types, refer to each name of this type.
    referrers: RedBlackTreeMapSync<Arc<str>, u32>,
    digest: SetDigest,
    /// The version of `resources`.
    content: Version,
    /// The version of everything.
    version: Version,
    /// What changed in `resources`, latest first.
    history: Vec<Since>,
    /// Names that exist by a rule.
    on_demand: Option<Arc<dyn OnDemand>>,
    /// Of one client alone, by name.
    own: Arc<[Arc<Resource>]>,
}

/// What changed since a set of that content.
#[derive(Debug, Clone)]
struct Since {
    content: Version,
    names: Arc<[Arc<str>]>,
}

impl TypeSet {
    fn empty() -> Self {
        let (digest, own) = (SetDigest::default(), Arc::from([]));
        let version = digest.version();
        let (resources, referrers) = Default::default();
        Self { resources, referrers, digest, content: version, version, history: Vec::new(), on_demand: None, own }
    }

    /// The version of a set that consists of these resources.
    pub(super) fn version_of<'a>(resources: impl IntoIterator<Item = &'a Arc<Resource>>) -> Version {
        let mut digest = SetDigest::default();
        for resource in resources {
            digest.add(resource);
        }
        digest.version()
    }

    /// The hash of all names and versions, and of the rules by which further names exist.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The resource of this name, also when it exists on demand.
    pub fn get(&self, name: &str) -> Option<Arc<Resource>> {
        self.listed(name).cloned().or_else(|| self.on_demand.as_ref()?.get(name))
    }

    /// The resource of this name, unless it exists on demand only.
    fn listed(&self, name: &str) -> Option<&Arc<Resource>> {
        self.own.iter().find(|resource| &**resource.name() == name).or_else(|| self.resources.get(name))
    }

    /// What a name that exists on demand counts against; `None` when it is listed.
    pub(super) fn group(&self, name: &str) -> Option<Arc<str>> {
        if self.listed(name).is_some() { None } else { self.on_demand.as_ref().map(|rule| rule.group(name)) }
    }

    /// All resources, those of the client alone last; those on demand are not among them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        let is_own = |resource: &&Arc<Resource>| self.own.iter().any(|own| own.name() == resource.name());
        self.resources.values().filter(move |resource| !is_own(resource)).chain(self.own.iter())
    }

    /// How many there are, without those on demand.
    pub fn len(&self) -> usize {
        if self.own.is_empty() { self.resources.size() } else { self.iter().count() }
    }

    /// Whether there is none, and none on demand.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.on_demand.is_none()
    }

    /// The names that were added, changed or removed between `old` and `self`; without those on demand, for which see
    /// [`Self::has_same_rule`].
    ///
    /// From one snapshot to the next the answer was computed when the snapshot was built, so that thousands of streams do
    /// not each compare every resource.
    pub(super) fn changes_since(&self, old: &Self) -> Cow<'_, [Arc<str>]> {
        let mut names = self.listed_since(old);
        let own = self.own.iter().chain(old.own.iter()).map(|resource| resource.name());
        let version = |set: &Self, name: &str| set.listed(name).map(|resource| resource.version());
        let own: Vec<_> = own.filter(|name| version(old, name) != version(self, name)).cloned().collect();
        if !own.is_empty() {
            names.to_mut().extend(own);
            distinct(names.to_mut());
        }
        names
    }

    fn listed_since(&self, old: &Self) -> Cow<'_, [Arc<str>]> {
        if self.content == old.content {
            return Cow::Borrowed(&[]);
        }
        match self.history.iter().position(|since| since.content == old.content) {
            Some(0) => Cow::Borrowed(&self.history[0].names),
            Some(last) => {
                let mut names: Vec<_> = self.history[..=last].iter().flat_map(|since| &*since.names).cloned().collect();
                distinct(&mut names);
                Cow::Owned(names)
            }
            None => Cow::Owned(self.compare(old)),
        }
    }

    /// Whether the same further names exist on demand, in the same versions.
    pub(super) fn has_same_rule(&self, old: &Self) -> bool {
        let version = |set: &Self| set.on_demand.as_ref().map(|rule| rule.version());
        version(self) == version(old)
    }

    fn compare(&self, old: &Self) -> Vec<Arc<str>> {
        let version_in = |set: &Self, name: &str| set.resources.get(name).map(|r| r.version());
        let mut names: Vec<_> =
            self.resources.keys().filter(|n| version_in(old, n) != version_in(self, n)).cloned().collect();
        names.extend(old.resources.keys().filter(|n| self.resources.get(&***n).is_none()).cloned());
        names
    }

    /// Puts a resource in; whether that is a change for clients.
    fn put(&mut self, resource: &Arc<Resource>) -> bool {
        let old = self.resources.get(&**resource.name()).map(|old| old.version());
        if let Some(old) = old {
            self.digest.remove(resource.name(), old);
        }
        self.digest.add(resource);
        self.resources.insert_mut(resource.name().clone(), resource.clone());
        old != Some(resource.version())
    }

    fn remove(&mut self, name: &str) {
        if let Some(old) = self.resources.get(name) {
            self.digest.remove(name, old.version());
            self.resources.remove_mut(name);
        }
    }

    /// Counts a reference to a name of this type.
    fn refer(&mut self, name: &Arc<str>) {
        let count = self.referrers.get(&**name).copied().unwrap_or(0);
        self.referrers.insert_mut(name.clone(), count + 1);
    }

    fn unrefer(&mut self, name: &str) {
        match self.referrers.get(name).copied() {
            Some(count) if count > 1 => {
                self.referrers.insert_mut(name.into(), count - 1);
            }
            _ => {
                self.referrers.remove_mut(name);
            }
        }
    }

    /// Takes note of what changed: `names`, since `previous`.
    fn seal(&mut self, previous: &Self, names: Vec<Arc<str>>) {
        self.content = self.digest.version();
        if self.content != previous.content {
            let mut history = vec![Since { content: previous.content, names: names.into() }];
            // What led from the present content to another one is of the past.
            let before = previous.history.iter().filter(|since| since.content != self.content);
            history.extend(before.take(HISTORY - 1).cloned());
            self.history = history;
        }
        self.seal_version();
    }

    fn seal_version(&mut self) {
        self.version = if self.on_demand.is_none() && self.own.is_empty() {
            self.content
        } else {
            let rule = self.on_demand.as_ref().map(|rule| rule.version());
            let own = Self::version_of(self.own.iter());
            Version::of(&(self.content.as_str(), rule.as_ref().map(Version::as_str), own.as_str()))
        };
    }
}

fn distinct(names: &mut Vec<Arc<str>>) {
    names.sort_unstable();
    names.dedup();
}

/// A hash of a set of resources that does not depend on their order: the sum of the hashes of their names and versions. A
/// change costs what the changed resources cost.
#[derive(Debug, Clone, Copy, Default)]
struct SetDigest {
    sum: [u64; 4],
    len: u64,
}

impl SetDigest {
    fn add(&mut self, resource: &Resource) {
        for (sum, part) in self.sum.iter_mut().zip(Self::of(resource.name(), resource.version())) {
            *sum = sum.wrapping_add(part);
        }
        self.len += 1;
    }

    fn remove(&mut self, name: &str, version: Version) {
        for (sum, part) in self.sum.iter_mut().zip(Self::of(name, version)) {
            *sum = sum.wrapping_sub(part);
        }
        self.len -= 1;
    }

    fn of(name: &str, version: Version) -> [u64; 4] {
        let hash = Sha256::new().chain_update(name).chain_update([0]).chain_update(version.as_str()).finalize();
        let (words, _) = hash.as_chunks::<8>();
        std::array::from_fn(|index| u64::from_be_bytes(words[index]))
    }

    fn version(&self) -> Version {
        Version::of(&(self.sum, self.len))
    }
}

/// Everything an Envoy may be told, consistent: no name twice, and whatever a resource refers to is there.
#[derive(Debug, Clone)]
pub struct Snapshot {
    sets: [TypeSet; ResourceType::COUNT],
}

/// What is to be different in a snapshot.
#[derive(Debug, Default)]
pub struct Edit {
    /// What is new or changed. A name must not be twice in here.
    pub put: Vec<Resource>,
    /// What goes. What is not there is not missed.
    pub remove: Vec<(ResourceType, Arc<str>)>,
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
    /// Puts a snapshot together. What has not changed since `previous` is shared with it, encoded bytes and all; so are its
    /// names on demand.
    pub fn build(
        resources: impl IntoIterator<Item = Resource>,
        previous: Option<&Self>,
    ) -> Result<Self, SnapshotError> {
        let empty = Self::empty();
        let previous = previous.unwrap_or(&empty);
        let mut snapshot = Self { sets: std::array::from_fn(|_| TypeSet::empty()) };
        for (set, old) in snapshot.sets.iter_mut().zip(&previous.sets) {
            set.on_demand.clone_from(&old.on_demand);
        }
        for resource in resources {
            let resource = share(resource, previous);
            let set = &mut snapshot.sets[resource.ty().index()];
            if set.resources.contains_key(&**resource.name()) {
                return Err(duplicate(&resource));
            }
            set.put(&resource);
            snapshot.refer(&resource);
        }
        for resource in snapshot.sets.iter().flat_map(|set| set.resources.values()) {
            snapshot.check_references(resource)?;
        }
        for (set, old) in snapshot.sets.iter_mut().zip(&previous.sets) {
            set.content = set.digest.version();
            let names = if set.content == old.content { Vec::new() } else { set.compare(old) };
            set.seal(old, names);
        }
        Ok(snapshot)
    }

    /// This snapshot, with some resources different: that costs what those cost, however many there are.
    ///
    /// # Errors
    /// When a name is twice in `edit`, or something would refer to what is not there.
    pub fn edit(&self, edit: Edit) -> Result<Self, SnapshotError> {
        let mut snapshot = self.clone();
        let mut names: [Vec<Arc<str>>; ResourceType::COUNT] = Default::default();
        let mut put = BTreeSet::new();
        for (ty, name) in &edit.remove {
            let Some(old) = snapshot.sets[ty.index()].resources.get(&**name).cloned() else { continue };
            snapshot.unrefer(&old);
            snapshot.sets[ty.index()].remove(name);
            names[ty.index()].push(old.name().clone());
        }
        let mut changed = Vec::with_capacity(edit.put.len());
        for resource in edit.put {
            let resource = share(resource, self);
            let (ty, name) = (resource.ty(), resource.name().clone());
            if !put.insert((ty, name.clone())) {
                return Err(duplicate(&resource));
            }
            let old = snapshot.sets[ty.index()].resources.get(&*name).cloned();
            if old.as_ref().is_some_and(|old| Arc::ptr_eq(old, &resource)) {
                continue;
            }
            if let Some(old) = old {
                snapshot.unrefer(&old);
            }
            snapshot.refer(&resource);
            if snapshot.sets[ty.index()].put(&resource) {
                names[ty.index()].push(name);
            }
            changed.push(resource);
        }
        for resource in &changed {
            snapshot.check_references(resource)?;
        }
        for (ty, name) in &edit.remove {
            let set = &snapshot.sets[ty.index()];
            if set.referrers.contains_key(&**name) && !set.resources.contains_key(&**name) {
                return Err(snapshot.dangling(*ty, name));
            }
        }
        for ((set, old), mut names) in snapshot.sets.iter_mut().zip(&self.sets).zip(names) {
            distinct(&mut names);
            // Removed and put again as it was.
            let version_in = |set: &TypeSet, name: &str| set.resources.get(name).map(|r| r.version());
            names.retain(|name| version_in(set, name) != version_in(old, name));
            set.seal(old, names);
        }
        Ok(snapshot)
    }

    /// This snapshot, with the names of one type that `rule` allows. They are sent to clients that ask for them by name.
    #[must_use]
    pub fn with_on_demand(mut self, ty: ResourceType, rule: Option<Arc<dyn OnDemand>>) -> Self {
        let set = &mut self.sets[ty.index()];
        set.on_demand = rule;
        set.seal_version();
        self
    }

    /// This snapshot, with resources of one client alone instead of those that it had of its own. Where a name is there already
    /// the own resource is in its place.
    #[must_use]
    pub fn with_own(mut self, resources: &[Arc<Resource>]) -> Self {
        for ty in ResourceType::ALL {
            let set = &mut self.sets[ty.index()];
            let own: Vec<_> = resources.iter().filter(|resource| resource.ty() == ty).cloned().collect();
            if own.is_empty() && set.own.is_empty() {
                continue;
            }
            set.own = own.into();
            set.seal_version();
        }
        self
    }

    /// The snapshot without any resource; always the same one.
    pub fn empty() -> Arc<Self> {
        static EMPTY: LazyLock<Arc<Snapshot>> =
            LazyLock::new(|| Arc::new(Snapshot { sets: std::array::from_fn(|_| TypeSet::empty()) }));
        EMPTY.clone()
    }

    /// The resources of one type.
    pub fn of_type(&self, ty: ResourceType) -> &TypeSet {
        &self.sets[ty.index()]
    }

    /// The resource of this type and name, also when it exists on demand.
    pub fn get(&self, ty: ResourceType, name: &str) -> Option<Arc<Resource>> {
        self.of_type(ty).get(name)
    }

    /// How many resources there are, of all types, without those on demand.
    pub fn len(&self) -> usize {
        self.sets.iter().map(TypeSet::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sets.iter().all(TypeSet::is_empty)
    }

    fn refer(&mut self, resource: &Resource) {
        for (ty, name) in resource.refers_to() {
            self.sets[ty.index()].refer(name);
        }
    }

    fn unrefer(&mut self, resource: &Resource) {
        for (ty, name) in resource.refers_to() {
            self.sets[ty.index()].unrefer(name);
        }
    }

    fn check_references(&self, resource: &Resource) -> Result<(), SnapshotError> {
        let is_missing =
            |(ty, name): &&(ResourceType, Arc<str>)| !self.sets[ty.index()].resources.contains_key(&**name);
        match resource.refers_to().iter().find(is_missing) {
            None => Ok(()),
            Some((missing_ty, missing)) => Err(SnapshotError::Dangling {
                ty: resource.ty(),
                name: resource.name().clone(),
                origin: resource.origin().cloned(),
                missing_ty: *missing_ty,
                missing: missing.clone(),
            }),
        }
    }

    /// The error that something still refers to what is gone.
    fn dangling(&self, missing_ty: ResourceType, missing: &Arc<str>) -> SnapshotError {
        let mut resources = self.sets.iter().flat_map(|set| set.resources.values());
        let refers = |resource: &&Arc<Resource>| {
            resource.refers_to().iter().any(|(ty, name)| *ty == missing_ty && name == missing)
        };
        let referrer = resources.find(refers);
        SnapshotError::Dangling {
            ty: referrer.map_or(missing_ty, |referrer| referrer.ty()),
            name: referrer.map_or_else(|| missing.clone(), |referrer| referrer.name().clone()),
            origin: referrer.and_then(|referrer| referrer.origin().cloned()),
            missing_ty,
            missing: missing.clone(),
        }
    }
}

fn duplicate(resource: &Resource) -> SnapshotError {
    let (ty, name) = (resource.ty(), resource.name().clone());
    SnapshotError::Duplicate { ty, name, origin: resource.origin().cloned() }
}

/// The resource of the previous snapshot when it is the same; its body in a new resource when only the line moved.
fn share(resource: Resource, previous: &Snapshot) -> Arc<Resource> {
    match previous.sets[resource.ty().index()].resources.get(&**resource.name()) {
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
