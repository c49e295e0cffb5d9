//! However it came to be where it is, the builder gives what building all from nothing gives.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// One step of what happens to a builder.
#[derive(Debug, Clone)]
enum Step {
    /// A gateway is as this policy says.
    Put(&'static str, Policy),
    /// A gateway is gone.
    Remove(&'static str),
    /// These credentials sign.
    Sign(Vec<HostPattern>),
    /// Leaves are due.
    Renew,
}

const IDS: [&str; 3] = ["ci", "edge", "lab"];

fn any_step() -> impl Strategy<Value = Step> {
    let id = || prop::sample::select(IDS.to_vec());
    let signing = vec!["api.stripe.com", "*.s3.example.com", "*.example.com", "h3.example", "nobody.example"];
    let signing = prop::sample::subsequence(signing, 0..=2)
        .prop_map(|names| names.into_iter().map(|name| name.parse().unwrap()).collect());
    prop::strategy::Union::new_weighted(vec![
        (6, (id(), any_policy()).prop_map(|(id, policy)| Step::Put(id, policy)).boxed()),
        (1, id().prop_map(Step::Remove).boxed()),
        (1, signing.prop_map(Step::Sign).boxed()),
        (1, prop::strategy::Just(Step::Renew).boxed()),
    ])
}

/// Leaves of a time that passes.
struct Passing(AtomicU64);

impl Leaves for Passing {
    fn authority(&self) -> String {
        "a CA".to_owned()
    }

    fn epoch(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn slot(&self, host: &Host, epoch: u64) -> u64 {
        (epoch + host.as_str().len() as u64) / 3
    }

    fn mint(&self, _host: &Host) -> Result<Leaf, String> {
        Err("it is not asked for".to_owned())
    }
}

type Versions = BTreeMap<(String, ResourceType, Option<String>), Version>;

/// Every resource's version, and every set's, by cluster.
fn versions(fleet: &Fleet) -> Versions {
    let mut found = BTreeMap::new();
    let snapshots = fleet.by_cluster.iter().map(|(id, snapshot)| (id.as_str(), snapshot));
    for (id, snapshot) in snapshots.chain([("*", &fleet.everything)]) {
        for ty in ResourceType::ALL {
            let set = snapshot.of_type(ty);
            found.insert((id.to_owned(), ty, None), set.version());
            for resource in set.iter() {
                found.insert((id.to_owned(), ty, Some(resource.name().to_string())), resource.version());
            }
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn edits_give_what_building_from_nothing_gives(steps in prop::collection::vec(any_step(), 1..12)) {
        let leaves = Arc::new(Passing(AtomicU64::new(1)));
        let shared: Arc<dyn Leaves> = leaves.clone();
        let ca = TrustedCa::new("the system's CAs".into());
        let mut builder = FleetBuilder::new(Arc::clone(&shared), ca.clone());
        let mut policies: BTreeMap<&str, Arc<Policy>> = BTreeMap::new();
        let mut signing = Vec::new();
        let generation = Cell::new(0);
        for step in steps {
            match step {
                Step::Put(id, policy) => {
                    policies.insert(id, Arc::new(Policy { id: id.parse().unwrap(), ..policy }));
                }
                Step::Remove(id) => drop(policies.remove(id)),
                Step::Sign(these) => signing = these,
                Step::Renew => {
                    leaves.0.fetch_add(1, Ordering::SeqCst);
                    builder.renew();
                }
            }
            generation.set(generation.get() + 1);
            let all: Vec<_> = policies.values().cloned().collect();
            let edited = builder.build(&all, &signing, generation.get()).unwrap();
            let anew = FleetBuilder::new(Arc::clone(&shared), ca.clone()).build(&all, &signing, generation.get()).unwrap();
            prop_assert_eq!(versions(&edited), versions(&anew));
        }
    }
}

#[test]
fn two_gateways_of_one_name_are_refused_and_forgotten() {
    let mut builder = FleetBuilder::new(Arc::new(FakeLeaves), TrustedCa::new("the system's CAs".into()));
    let one = || Arc::new(policy("127.0.0.1:1", [("a.example", upstream(Limits::default(), None, None))]));
    assert!(builder.build(&[one(), one()], &[], 1).unwrap_err().to_string().contains("two resources are named"));
    let fleet = builder.build(&[one()], &[], 2).unwrap();
    assert_eq!(versions(&fleet), versions(&fleet_of((*one()).clone())));
}

#[test]
fn an_edit_of_one_upstream_keeps_all_others() {
    let mut builder = FleetBuilder::new(Arc::new(FakeLeaves), TrustedCa::new("the system's CAs".into()));
    let with = |address: &'static str| {
        let hosts = HOSTS.into_iter().map(|host| (host, upstream(Limits::default(), None, None)));
        let changed = ("a.example", upstream(Limits::default(), Some(address), None));
        Arc::new(policy("127.0.0.1:1", hosts.chain([changed])))
    };
    let first = builder.build(&[with("10.0.0.7:1")], &[], 1).unwrap();
    let second = builder.build(&[with("10.0.0.7:2")], &[], 2).unwrap();
    let changed: Vec<String> = ResourceType::ALL
        .into_iter()
        .flat_map(|ty| second.everything.of_type(ty).iter().cloned().collect::<Vec<_>>())
        .filter(|now| first.everything.get(now.ty(), now.name()).is_none_or(|before| !Arc::ptr_eq(&before, now)))
        .map(|resource| resource.name().to_string())
        .collect();
    assert_eq!(changed, ["ci/a.example", "ci/a.example/http1"]);
}
