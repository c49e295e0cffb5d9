//! Keeps what was built, and builds what changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use prost::Message;

use super::host::{self, HOST_CLUSTER};
use super::layout::Layout;
use super::on_demand::{Kept, WildcardLeaves};
use super::route::{Needs, Target};
use super::secret::{self, Leaves, TrustedCa};
use super::{
    Protocol, SHARED_CHAIN, cluster, cluster_name, leaf_name, listener, listener_name, route, route_name, version,
};
use crate::domain::names::{Host, HostPattern, SandboxId};
use crate::domain::policy::{Address, Policy, Upstream};
use crate::xds::on_demand::OnDemand;
use crate::xds::snapshot::{Edit, Fleet, Resource, ResourceType, Snapshot, SnapshotError, Version};

type Key = (ResourceType, Arc<str>);

/// Builds everything that every Envoy of ours needs: what the local one gets, and what each gateway's own Envoys get.
///
/// Nothing is encoded here, and no certificate minted: that happens once, when an Envoy first asks. What has not changed since
/// the last time is not built again.
pub struct FleetBuilder {
    leaves: Arc<dyn Leaves>,
    /// The time that decides which leaves are due.
    epoch: u64,
    system_ca: TrustedCa,
    /// The server's socket for sandboxes.
    host: Option<Arc<str>>,
    kept: Arc<Kept>,
    /// The credentials that sign, as they were.
    signing: Vec<HostPattern>,
    /// What the vaults of other servers sign.
    shared_signing: BTreeMap<Address, Vec<HostPattern>>,
    policies: BTreeMap<SandboxId, Built>,
    everything: Holding,
}

/// What was built for one policy.
#[derive(Default)]
struct Built {
    upstreams: BTreeMap<HostPattern, Piece>,
    /// The listener, and the routes of the hosts that share a chain.
    whole: Vec<Arc<Resource>>,
    own: Holding,
}

/// What was built for one upstream.
struct Piece {
    upstream: Upstream,
    chain: Chain,
    signed: bool,
    resources: Vec<Arc<Resource>>,
}

/// Which kind of chain serves an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chain {
    Own,
    Shared,
    Wildcard,
}

/// A snapshot, and how many pieces need each of its resources: certificates and CAs are the same for many.
struct Holding {
    snapshot: Arc<Snapshot>,
    needed: HashMap<Key, usize>,
    /// What the next snapshot has and this has not, or has in another version.
    changed: BTreeMap<Key, Arc<Resource>>,
    /// What it has no more.
    gone: BTreeSet<Key>,
    /// The version of the rule by which it has further names.
    rule: Option<Version>,
}

impl FleetBuilder {
    /// With leaves from here, and these CAs for upstreams that name none.
    pub fn new(leaves: Arc<dyn Leaves>, system_ca: TrustedCa) -> Self {
        Self {
            epoch: leaves.epoch(),
            leaves,
            system_ca,
            host: None,
            kept: Arc::default(),
            signing: Vec::new(),
            shared_signing: BTreeMap::new(),
            policies: BTreeMap::new(),
            everything: Holding::default(),
        }
    }

    /// The same, with a way from sandboxes to the host: to the server's socket at this path.
    pub fn with_host(self, socket: &Path) -> Self {
        Self { host: Some(socket.display().to_string().into()), ..self }
    }

    /// Requests of policies with these vaults may have to be signed likewise, from the next build on.
    pub fn set_shared_signing(&mut self, signing: BTreeMap<Address, Vec<HostPattern>>) {
        self.shared_signing = signing;
    }

    /// Leaves come from here from now on; all are made anew.
    pub fn set_leaves(&mut self, leaves: Arc<dyn Leaves>) {
        self.leaves = leaves;
        self.renew();
    }

    /// Takes up the certificates that are due; the next [`FleetBuilder::build`] has them.
    pub fn renew(&mut self) {
        let leaves = &self.leaves;
        self.epoch = leaves.epoch();
        for Built { upstreams, own, .. } in self.policies.values_mut() {
            for (pattern, piece) in upstreams {
                let Some(host) = pattern.exact() else { continue };
                for resource in piece.resources.iter_mut().filter(|resource| is_leaf(resource, host)) {
                    let next = secret::leaf(resource.name(), host, leaves, self.epoch);
                    if next.version() == resource.version() {
                        continue;
                    }
                    *resource = Arc::new(next.from_line(piece.upstream.origin.clone()));
                    for holding in [&mut *own, &mut self.everything] {
                        holding.replace(resource);
                    }
                }
            }
        }
    }

    /// What is needed to serve these policies. Requests to upstreams that one of `signing` overlaps may have to be signed, for
    /// which the vault has to see the bodies of some.
    ///
    /// # Errors
    /// When two policies have one name, or a resource refers to one that is not there (a defect of ours).
    pub fn build(
        &mut self,
        policies: &[Arc<Policy>],
        signing: &[HostPattern],
        generation: u64,
    ) -> Result<Fleet, SnapshotError> {
        let fleet = self.try_build(policies, signing, generation);
        if fleet.is_err() {
            // What was built is in no snapshot: begin anew.
            self.policies.clear();
            self.everything = Holding::default();
        }
        fleet
    }

    fn try_build(
        &mut self,
        policies: &[Arc<Policy>],
        signing: &[HostPattern],
        generation: u64,
    ) -> Result<Fleet, SnapshotError> {
        let mut before = std::mem::take(&mut self.policies);
        if self.signing != signing {
            self.signing = signing.to_vec();
        }
        let mut all_wildcards = Vec::new();
        let mut by_cluster = BTreeMap::new();
        for policy in policies {
            if self.policies.contains_key(&policy.id) {
                let (ty, name) = (ResourceType::Listener, listener_name(&policy.id).into());
                return Err(SnapshotError::Duplicate { ty, name, origin: Some(policy.origin.clone()) });
            }
            let mut built = before.remove(&policy.id).unwrap_or_default();
            let wildcards = self.update(policy, &mut built);
            built.own.finish(self.wildcard_leaves(wildcards.clone()))?;
            all_wildcards.extend(wildcards);
            // A sandbox is served by this machine's own Envoy: no other one may ask for it by name.
            if policy.instance.is_none() {
                by_cluster.insert(policy.id.to_string(), Arc::clone(&built.own.snapshot));
            }
            self.policies.insert(policy.id.clone(), built);
        }
        for built in before.into_values() {
            let pieces = built.upstreams.into_values().flat_map(|piece| piece.resources);
            for resource in pieces.chain(built.whole) {
                self.everything.remove(&resource);
            }
        }
        self.everything.finish(self.wildcard_leaves(all_wildcards))?;
        Ok(Fleet { everything: Arc::clone(&self.everything.snapshot), by_cluster, generation, ..Fleet::default() })
    }

    fn wildcard_leaves(&self, patterns: Vec<HostPattern>) -> Option<WildcardLeaves> {
        (!patterns.is_empty())
            .then(|| WildcardLeaves::new(patterns, Arc::clone(&self.leaves), self.epoch, Arc::clone(&self.kept)))
    }

    /// Brings what was built for a policy to where the policy is now; its wildcards.
    fn update(&mut self, policy: &Arc<Policy>, built: &mut Built) -> Vec<HostPattern> {
        let layout = Layout::of(policy);
        let has_shared = !layout.shared.is_empty();
        let signing = match &policy.vault {
            None => self.signing.clone(),
            Some(vault) => self.shared_signing.get(vault).cloned().unwrap_or_default(),
        };
        let mut signed_hosts: Vec<&Host> = Vec::new();
        // Both maps are in order, so one walk over them side by side finds what differs; what does not is left where it is.
        let (mut news, mut gone) = (Vec::new(), Vec::new());
        let mut before = built.upstreams.iter().peekable();
        for (pattern, upstream) in &policy.upstreams {
            let chain = match pattern {
                HostPattern::Below(_) => Chain::Wildcard,
                HostPattern::Exact(_) if has_shared && !upstream.private => Chain::Shared,
                HostPattern::Exact(_) => Chain::Own,
            };
            let signed = signing.iter().any(|signing| signing.overlaps(pattern));
            if let (Chain::Shared, true, Some(host)) = (chain, signed, pattern.exact()) {
                signed_hosts.push(host);
            }
            while let Some((old, _)) = before.next_if(|(old, _)| *old < pattern) {
                gone.push(old.clone());
            }
            let kept = before.next_if(|(old, _)| *old == pattern);
            if kept.is_none_or(|(_, piece)| !piece.is(upstream, chain, signed)) {
                news.push((pattern, upstream, chain, signed));
            }
        }
        gone.extend(before.map(|(old, _)| old.clone()));
        for (pattern, upstream, chain, signed) in news {
            let resources = self.upstream(&policy.id, pattern, upstream, chain, signed);
            let resources: Vec<_> = resources.into_iter().map(Arc::new).collect();
            let piece = Piece { upstream: upstream.clone(), chain, signed, resources };
            let old = built.upstreams.insert(pattern.clone(), piece);
            let old = old.map(|piece| piece.resources).unwrap_or_default();
            self.exchange(&mut built.own, &old, &built.upstreams[pattern].resources);
        }
        for pattern in gone {
            let resources = built.upstreams.remove(&pattern).map(|piece| piece.resources).unwrap_or_default();
            self.exchange(&mut built.own, &resources, &[]);
        }
        let whole = whole(policy, &layout, &signed_hosts, self.host.as_ref());
        let is_same = |(a, b): (&Resource, &Arc<Resource>)| {
            a.name() == b.name() && a.version() == b.version() && a.origin() == b.origin()
        };
        if whole.len() != built.whole.len() || !whole.iter().zip(&built.whole).all(is_same) {
            let whole: Vec<_> = whole.into_iter().map(Arc::new).collect();
            let old = std::mem::replace(&mut built.whole, whole.clone());
            self.exchange(&mut built.own, &old, &whole);
        }
        layout.wildcards.into_iter().map(|(pattern, _)| pattern.clone()).collect()
    }

    /// These resources in place of those, in the policy's own snapshot and in the one of everything.
    fn exchange(&mut self, own: &mut Holding, old: &[Arc<Resource>], new: &[Arc<Resource>]) {
        for holding in [own, &mut self.everything] {
            for resource in new {
                holding.add(resource);
            }
            for resource in old {
                holding.remove(resource);
            }
        }
    }

    /// The resources of one upstream.
    fn upstream(
        &self,
        sandbox: &SandboxId,
        pattern: &HostPattern,
        upstream: &Upstream,
        chain: Chain,
        signed: bool,
    ) -> Vec<Resource> {
        let trusted =
            upstream.ca.as_ref().map_or_else(|| self.system_ca.clone(), |pem| TrustedCa::new(Arc::clone(pem)));
        let name = pattern.to_string();
        let cluster = |protocol: Protocol| {
            let inputs = (sandbox, pattern, &upstream.address, upstream.private, trusted.name(), protocol);
            let version = version("cluster", &inputs);
            Resource::lazy(ResourceType::Cluster, cluster_name(sandbox, &name, protocol), version, {
                let (sandbox, pattern, upstream) = (sandbox.clone(), pattern.clone(), upstream.clone());
                let trusted = trusted.name();
                move || Ok(cluster::cluster(&sandbox, &pattern, &upstream, &trusted, protocol).encode_to_vec())
            })
            .from_line(upstream.origin.clone())
            .referring_to(ResourceType::Secret, trusted.name())
        };
        let trusted_ca = secret::trusted_ca(&trusted);
        // The system's is no line of any file.
        let trusted_ca = match &upstream.ca {
            Some(_) => trusted_ca.from_line(upstream.origin.clone()),
            None => trusted_ca,
        };
        let mut resources = vec![cluster(Protocol::Negotiated), cluster(Protocol::Http1), trusted_ca];
        if chain != Chain::Shared {
            let inputs = (sandbox, pattern, signed, upstream.private);
            let (id, pattern, private) = (sandbox.clone(), pattern.clone(), upstream.private);
            let route =
                Resource::lazy(ResourceType::Route, route_name(sandbox, &name), version("route", &inputs), move || {
                    let needs = Needs { signed, private, ..Needs::default() };
                    Ok(route::routes(&id, Target::Upstream(&pattern), needs).encode_to_vec())
                });
            resources.push(
                route
                    .from_line(upstream.origin.clone())
                    .referring_to(ResourceType::Cluster, cluster_name(sandbox, &name, Protocol::Negotiated))
                    .referring_to(ResourceType::Cluster, cluster_name(sandbox, &name, Protocol::Http1)),
            );
        }
        if let Some(host) = pattern.exact() {
            let leaf =
                |name: &str| secret::leaf(name, host, &self.leaves, self.epoch).from_line(upstream.origin.clone());
            // By the server name, also for a host with a chain of its own: until Envoy has taken up a listener with that, the
            // chain that it shared before asks.
            resources.push(leaf(&name));
            if chain == Chain::Own {
                resources.push(leaf(&leaf_name(host)));
            }
        }
        resources
    }
}

impl std::fmt::Debug for FleetBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetBuilder").field("policies", &self.policies.keys()).finish_non_exhaustive()
    }
}

/// The listener of a policy, the routes of the hosts that share a chain, and what a sandbox's leads to the host by.
fn whole(policy: &Arc<Policy>, layout: &Layout<'_>, signed_hosts: &[&Host], host: Option<&Arc<str>>) -> Vec<Resource> {
    let own: Vec<&Host> = layout.own.iter().map(|(host, _)| *host).collect();
    let wildcards: Vec<&HostPattern> = layout.wildcards.iter().map(|(pattern, _)| *pattern).collect();
    let has_shared = !layout.shared.is_empty();
    let host = host.filter(|_| policy.instance.is_some());
    let instance = policy.instance.as_ref().filter(|_| host.is_some());
    let inputs = (&policy.id, policy.listen, &own, &wildcards, has_shared, layout.shared_below_wildcards(), instance);
    let name = listener_name(&policy.id);
    let mut listener = Resource::lazy(ResourceType::Listener, name, version("listener", &inputs), {
        let policy = Arc::clone(policy);
        let with_host = host.is_some();
        move || Ok(listener::listener(&policy, with_host).encode_to_vec())
    })
    .from_line(policy.origin.clone());
    for host in own {
        listener = listener
            .referring_to(ResourceType::Route, route_name(&policy.id, host.as_str()))
            .referring_to(ResourceType::Secret, leaf_name(host));
    }
    for pattern in wildcards {
        listener = listener.referring_to(ResourceType::Route, route_name(&policy.id, &pattern.to_string()));
    }
    let mut whole = Vec::new();
    if let Some(socket) = host {
        listener = listener.referring_to(ResourceType::Cluster, HOST_CLUSTER);
        whole.push(host_cluster(socket));
    }
    if !has_shared {
        whole.push(listener);
        return whole;
    }
    let name = route_name(&policy.id, SHARED_CHAIN);
    let listener = listener.referring_to(ResourceType::Route, name.as_str());
    let route = Resource::lazy(ResourceType::Route, name, version("shared route", &(&policy.id, signed_hosts)), {
        let (id, hosts) = (policy.id.clone(), signed_hosts.iter().copied().cloned().collect::<Vec<Host>>());
        move || {
            let signed_hosts: Vec<&Host> = hosts.iter().collect();
            let needs = Needs { signed_hosts: &signed_hosts, ..Needs::default() };
            Ok(route::routes(&id, Target::Shared, needs).encode_to_vec())
        }
    });
    whole.extend([listener, route.from_line(policy.origin.clone())]);
    whole
}

/// One for all sandboxes.
fn host_cluster(socket: &Arc<str>) -> Resource {
    let socket = Arc::clone(socket);
    Resource::lazy(ResourceType::Cluster, HOST_CLUSTER, version("host", &socket), move || {
        Ok(host::cluster(&socket).encode_to_vec())
    })
}

fn is_leaf(resource: &Resource, host: &Host) -> bool {
    resource.ty() == ResourceType::Secret
        && (**resource.name() == *host.as_str() || **resource.name() == *leaf_name(host))
}

impl Piece {
    /// Whether this is what would be built. Limits are the vault's.
    fn is(&self, upstream: &Upstream, chain: Chain, signed: bool) -> bool {
        let (old, new) = (&self.upstream, upstream);
        let is_same_ca = match (&old.ca, &new.ca) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new) || old == new,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.chain == chain
            && self.signed == signed
            && is_same_ca
            && (&old.address, old.private, &old.origin) == (&new.address, new.private, &new.origin)
    }
}

impl Default for Holding {
    fn default() -> Self {
        Self {
            snapshot: Snapshot::empty(),
            needed: HashMap::new(),
            changed: BTreeMap::new(),
            gone: BTreeSet::new(),
            rule: None,
        }
    }
}

impl Holding {
    fn add(&mut self, resource: &Arc<Resource>) {
        let key = (resource.ty(), Arc::clone(resource.name()));
        *self.needed.entry(key.clone()).or_default() += 1;
        self.gone.remove(&key);
        self.changed.insert(key, Arc::clone(resource));
    }

    fn remove(&mut self, resource: &Resource) {
        let key = (resource.ty(), Arc::clone(resource.name()));
        if let Some(needed) = self.needed.get_mut(&key) {
            *needed -= 1;
            if *needed == 0 {
                self.needed.remove(&key);
                self.changed.remove(&key);
                self.gone.insert(key);
            }
        }
    }

    /// Another version of what is there.
    fn replace(&mut self, resource: &Arc<Resource>) {
        self.changed.insert((resource.ty(), Arc::clone(resource.name())), Arc::clone(resource));
    }

    /// The next snapshot.
    fn finish(&mut self, rule: Option<WildcardLeaves>) -> Result<(), SnapshotError> {
        let put: Vec<Resource> = std::mem::take(&mut self.changed).into_values().map(Arc::unwrap_or_clone).collect();
        let remove = std::mem::take(&mut self.gone).into_iter().collect();
        let edit = Edit { put, remove };
        if !(edit.put.is_empty() && edit.remove.is_empty()) {
            self.snapshot = Arc::new(self.snapshot.edit(edit)?);
        }
        let version = rule.as_ref().map(OnDemand::version);
        if self.rule != version {
            self.rule = version;
            let rule = rule.map(|rule| -> Arc<dyn OnDemand> { Arc::new(rule) });
            self.snapshot = Arc::new((*self.snapshot).clone().with_on_demand(ResourceType::Secret, rule));
        }
        Ok(())
    }
}
