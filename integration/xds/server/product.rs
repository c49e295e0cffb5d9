//! What the product itself serves for a policy: the one place here that knows how its resources are built.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_creds::domain::names::Host;
use agent_creds::domain::policy::{Limits, Origin, Policy, Upstream};
use agent_creds::xds::resources::{Leaf, Leaves, TrustedCa, fleet};
use agent_creds::xds::snapshot::{Fleet, Snapshot};
use anyhow::Context;

/// Leaves that say what they are.
struct Named;

impl Leaves for Named {
    fn edition(&self, _host: &Host) -> String {
        "first".to_owned()
    }

    fn mint(&self, host: &Host) -> Result<Leaf, String> {
        Ok(Leaf { chain: format!("the chain of {host}"), key: format!("the key of {host}").into() })
    }
}

/// What the Envoys of a gateway of this name with these hosts should hold.
pub(super) fn snapshot(
    cluster: &str,
    hosts: &[String],
    generation: u64,
    previous: Option<Arc<Snapshot>>,
) -> anyhow::Result<Arc<Snapshot>> {
    let origin = |line| Origin { file: "agent-creds.toml".into(), line };
    let mut upstreams = BTreeMap::new();
    for (line, host) in (5..).zip(hosts) {
        let upstream = Upstream { limits: Limits::default(), address: None, ca: None, origin: origin(line) };
        upstreams.insert(host.parse().with_context(|| format!("not a host: {host}"))?, upstream);
    }
    let policy = Policy {
        id: cluster.parse().with_context(|| format!("not a gateway's name: {cluster}"))?,
        instance: None,
        listen: ([127, 0, 0, 1], 15443).into(),
        origin: origin(2),
        upstreams,
    };
    let leaves: Arc<dyn Leaves> = Arc::new(Named);
    let ca = TrustedCa::new("the system's CAs".into());
    let previous = previous.map(|everything| Fleet { everything, ..Default::default() });
    Ok(fleet(&[Arc::new(policy)], &leaves, &ca, &|_| false, generation, previous.as_ref())?.everything)
}
