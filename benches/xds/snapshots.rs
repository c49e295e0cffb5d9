//! How long a snapshot takes to build, and to build again with one upstream edited: the one place here that knows how the
//! product's resources are built.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use agent_creds::domain::names::Host;
use agent_creds::domain::policy::{Limits, Origin, Policy, Upstream};
use agent_creds::xds::resources::{FleetBuilder, Leaf, Leaves, TrustedCa};

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

fn policy(upstreams: usize, edited: usize) -> anyhow::Result<Arc<Policy>> {
    let origin = |line| Origin { file: "agent-creds.toml".into(), line };
    let mut map = BTreeMap::new();
    for number in 0..upstreams {
        // The edit: another address.
        let address = if number == 0 { Some(format!("10.0.0.7:{}", 1000 + edited).parse()?) } else { None };
        let upstream = Upstream { limits: Limits::default(), address, ca: None, private: false, origin: origin(5) };
        map.insert(format!("host-{number}.example.com").parse()?, upstream);
    }
    let listen = ([127, 0, 0, 1], 15443).into();
    Ok(Arc::new(Policy {
        id: "bench".parse()?,
        instance: None,
        listen,
        origin: origin(2),
        upstreams: map,
        vault: None,
    }))
}

/// Prints the median of so many rounds for each size.
pub(crate) fn measure(rounds: usize) -> anyhow::Result<()> {
    let leaves: Arc<dyn Leaves> = Arc::new(Named);
    let ca = TrustedCa::new("the system's CAs".into());
    println!("snapshot of a fleet: built from nothing, and with one upstream edited; medians of {rounds}");
    for upstreams in [10, 100, 1_000, 10_000] {
        let (mut built, mut edited) = (Vec::new(), Vec::new());
        for round in 0..rounds.max(1) {
            // Made, and dropped again, outside of what is measured.
            let (first, second) = ([policy(upstreams, 2 * round)?], [policy(upstreams, 2 * round + 1)?]);
            let begun = Instant::now();
            let mut builder = FleetBuilder::new(leaves.clone(), ca.clone());
            let before = builder.build(&first, &[], 1)?;
            built.push(begun.elapsed().as_secs_f64() * 1e3);
            let begun = Instant::now();
            let after = builder.build(&second, &[], 2)?;
            edited.push(begun.elapsed().as_secs_f64() * 1e3);
            anyhow::ensure!(after.everything.len() == before.everything.len(), "an edit is no addition");
        }
        let median = |values: &mut Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let (built, edited) = (median(&mut built), median(&mut edited));
        let each = built * 1e3 / upstreams as f64;
        println!("  {upstreams:>6} upstreams: built {built:>9.3} ms ({each:.1} us each)   edited {edited:>9.3} ms");
    }
    Ok(())
}
