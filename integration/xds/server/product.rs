//! What the product itself serves for a policy: the one place here that knows how its resources are built.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_creds::domain::names::Host;
use agent_creds::domain::policy::{Limits, Origin, Policy, Upstream};
use agent_creds::xds::resources::{FleetBuilder, Leaf, Leaves, TrustedCa};
use agent_creds::xds::snapshot::Snapshot;
use anyhow::Context;

/// Leaves that say what they are.
struct Named;

impl Leaves for Named {
    fn authority(&self) -> String {
        "a CA".to_owned()
    }

    fn epoch(&self) -> u64 {
        1
    }

    fn slot(&self, _host: &Host, epoch: u64) -> u64 {
        epoch
    }

    fn mint(&self, host: &Host) -> Result<Leaf, String> {
        Ok(Leaf { chain: format!("the chain of {host}"), key: format!("the key of {host}").into() })
    }
}

/// A builder for one gateway; it keeps what it built.
pub(super) fn builder() -> FleetBuilder {
    FleetBuilder::new(Arc::new(Named), TrustedCa::new("the system's CAs".into()))
}

/// What the Envoys of a gateway of this name with these hosts should hold.
pub(super) fn snapshot(
    builder: &mut FleetBuilder,
    cluster: &str,
    hosts: &[String],
    generation: u64,
) -> anyhow::Result<Arc<Snapshot>> {
    let origin = |line| Origin { file: "agent-creds.toml".into(), line };
    let mut upstreams = BTreeMap::new();
    for (line, host) in (5..).zip(hosts) {
        let upstream =
            Upstream { limits: Limits::default(), address: None, ca: None, private: false, origin: origin(line) };
        upstreams.insert(host.parse().with_context(|| format!("not a host: {host}"))?, upstream);
    }
    let policy = Policy {
        id: cluster.parse().with_context(|| format!("not a gateway's name: {cluster}"))?,
        instance: None,
        listen: ([127, 0, 0, 1], 15443).into(),
        origin: origin(2),
        upstreams,
        vault: None,
    };
    Ok(builder.build(&[Arc::new(policy)], &[], generation)?.everything)
}
