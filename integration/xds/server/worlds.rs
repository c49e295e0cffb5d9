//! What the Envoys of each `node.cluster` should hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_creds::xds::resources::FleetBuilder;
use agent_creds::xds::snapshot::{Edit, Fleet, Resource, ResourceType, Snapshot, Version};
use anyhow::Context;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{DataSource, Locality, data_source};
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LocalityLbEndpoints};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{GenericSecret, Secret, secret};
use prost::Message;
use serde::Deserialize;

use super::product;

/// A resource as the control socket names it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    kind: Kind,
    name: String,
    revision: u64,
    /// Bytes of padding.
    #[serde(default)]
    size: usize,
    /// What it needs.
    #[serde(default)]
    refs: Vec<(Kind, String)>,
}

/// A resource to be removed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    kind: Kind,
    name: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Cluster,
    Endpoint,
    Listener,
    Route,
    Secret,
}

impl From<Kind> for ResourceType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Cluster => Self::Cluster,
            Kind::Endpoint => Self::Endpoint,
            Kind::Listener => Self::Listener,
            Kind::Route => Self::Route,
            Kind::Secret => Self::Secret,
        }
    }
}

/// One world: made of resources given one by one, or of a policy.
enum World {
    Given { specs: BTreeMap<(ResourceType, String), Spec>, snapshot: Arc<Snapshot> },
    Policy { hosts: Vec<String>, snapshot: Arc<Snapshot>, builder: Box<FleetBuilder> },
}

/// All worlds, by `node.cluster`.
#[derive(Default)]
pub(super) struct Worlds {
    by_cluster: BTreeMap<String, World>,
    generation: u64,
}

impl Worlds {
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn fleet(&self) -> Arc<Fleet> {
        let by_cluster = self.by_cluster.iter().map(|(cluster, world)| {
            let (World::Given { snapshot, .. } | World::Policy { snapshot, .. }) = world;
            (cluster.clone(), Arc::clone(snapshot))
        });
        Arc::new(Fleet { by_cluster: by_cluster.collect(), generation: self.generation, ..Default::default() })
    }

    /// One edit of one world, which comes to exist by it.
    pub(super) fn edit(&mut self, cluster: &str, set: Vec<Spec>, remove: &[Named]) -> anyhow::Result<()> {
        let previous = match self.by_cluster.get(cluster) {
            Some(World::Given { snapshot, .. }) => Arc::clone(snapshot),
            Some(World::Policy { .. }) | None => Snapshot::empty(),
        };
        let set: Vec<_> = set.into_iter().map(|spec| (resource(&spec), spec)).collect();
        let put = set.iter().map(|(resource, _)| resource.clone()).collect();
        let gone = remove.iter().map(|named| (named.kind.into(), named.name.as_str().into())).collect();
        let snapshot = Arc::new(previous.edit(Edit { put, remove: gone }).context("not a consistent world")?);
        let mut specs = match self.by_cluster.remove(cluster) {
            Some(World::Given { specs, .. }) => specs,
            Some(World::Policy { .. }) | None => BTreeMap::new(),
        };
        for named in remove {
            specs.remove(&(named.kind.into(), named.name.clone()));
        }
        for (_, spec) in set {
            specs.insert((spec.kind.into(), spec.name.clone()), spec);
        }
        self.by_cluster.insert(cluster.to_owned(), World::Given { specs, snapshot });
        self.generation += 1;
        Ok(())
    }

    /// Makes a world what the product makes of a policy with these hosts.
    pub(super) fn policy(&mut self, cluster: &str, hosts: Vec<String>) -> anyhow::Result<()> {
        let mut builder = match self.by_cluster.remove(cluster) {
            Some(World::Policy { builder, .. }) => builder,
            _ => Box::new(product::builder()),
        };
        self.generation += 1;
        let snapshot = product::snapshot(&mut builder, cluster, &hosts, self.generation)?;
        self.by_cluster.insert(cluster.to_owned(), World::Policy { hosts, snapshot, builder });
        Ok(())
    }

    pub(super) fn clear(&mut self, cluster: &str) {
        self.by_cluster.remove(cluster);
        self.generation += 1;
    }

    /// A world as a host with many upstreams has it: for each a cluster, a route and a secret, and one listener.
    pub(super) fn fill(&mut self, cluster: &str, upstreams: usize) -> anyhow::Result<()> {
        let spec = |kind, name: String, size, refs| Spec { kind, name, revision: 1, size, refs };
        let mut set = vec![spec(Kind::Listener, "listener".to_owned(), 500, Vec::new())];
        for number in 0..upstreams {
            let name = format!("upstream-{number}.example.com");
            set.push(spec(Kind::Secret, name.clone(), 1000, Vec::new()));
            set.push(spec(Kind::Route, name.clone(), 300, vec![(Kind::Cluster, name.clone())]));
            set.push(spec(Kind::Cluster, name.clone(), 700, vec![(Kind::Secret, name)]));
        }
        self.edit(cluster, set, &[])
    }

    /// The same from the same inputs, sharing nothing.
    pub(super) fn rebuilt(&self) -> anyhow::Result<Self> {
        let mut rebuilt = Self::default();
        for (cluster, world) in &self.by_cluster {
            match world {
                World::Given { specs, .. } => {
                    // In another order: versions must not depend on it.
                    rebuilt.edit(cluster, specs.values().rev().cloned().collect(), &[])?;
                }
                World::Policy { hosts, .. } => rebuilt.policy(cluster, hosts.clone())?,
            }
        }
        Ok(rebuilt)
    }
}

fn resource(spec: &Spec) -> Resource {
    let ty = ResourceType::from(spec.kind);
    let version = Version::of(&(ty.label(), &spec.name, spec.revision, spec.size));
    let (name, text) = (spec.name.clone(), format!("r{} {}", spec.revision, "x".repeat(spec.size)));
    let body = match spec.kind {
        Kind::Cluster => Cluster { name, alt_stat_name: text, ..Default::default() }.encode_to_vec(),
        Kind::Endpoint => {
            let locality = Some(Locality { sub_zone: text, ..Default::default() });
            let endpoints = vec![LocalityLbEndpoints { locality, ..Default::default() }];
            ClusterLoadAssignment { cluster_name: name, endpoints, ..Default::default() }.encode_to_vec()
        }
        Kind::Listener => Listener { name, stat_prefix: text, ..Default::default() }.encode_to_vec(),
        Kind::Route => {
            let virtual_hosts = vec![VirtualHost { name: text, ..Default::default() }];
            RouteConfiguration { name, virtual_hosts, ..Default::default() }.encode_to_vec()
        }
        Kind::Secret => {
            let inline =
                DataSource { specifier: Some(data_source::Specifier::InlineString(text)), ..Default::default() };
            let generic = GenericSecret { secret: Some(inline), ..Default::default() };
            Secret { name, r#type: Some(secret::Type::GenericSecret(generic)) }.encode_to_vec()
        }
    };
    let resource = Resource::lazy(ty, spec.name.as_str(), version, move || Ok(body.clone()));
    spec.refs.iter().fold(resource, |resource, (kind, name)| resource.referring_to((*kind).into(), name.as_str()))
}
