//! Tests of the snapshot.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;

use proptest::prelude::*;

use super::*;
use crate::xds::resource::Prepared;

fn cluster(name: &str, version: &str) -> Resource {
    let message = Cluster { name: name.into(), alt_stat_name: version.into(), ..Default::default() };
    Resource::new(ResourceType::Cluster, name, Version::of(version), &message)
}

fn origin(line: u32) -> Origin {
    Origin { file: "agent-creds.toml".into(), line }
}

#[test]
fn type_urls_and_back() {
    for ty in ResourceType::ALL {
        assert_eq!(ResourceType::from_type_url(ty.type_url()), Some(ty));
        assert_eq!(ResourceType::ALL[ty.index()], ty);
    }
    assert_eq!(ResourceType::from_type_url("type.googleapis.com/envoy.api.v2.Cluster"), None);
}

#[test]
fn case_14_versions_are_the_same_after_a_restart_and_on_a_replica() {
    // Fixed texts: a change of the hash would resend everything to every Envoy after an upgrade.
    assert_eq!(Version::of(&("a", 1)).as_str(), "135f17a475a61afd");
    let build = || Snapshot::build([cluster("a", "1"), cluster("b", "1")], None).unwrap();
    let reordered = Snapshot::build([cluster("b", "1"), cluster("a", "1")], None).unwrap();
    let version = |snapshot: &Snapshot| snapshot.of_type(ResourceType::Cluster).version();
    assert_eq!(version(&build()), version(&build()));
    assert_eq!(version(&build()), version(&reordered));
    assert_ne!(version(&build()), version(&Snapshot::build([cluster("a", "2"), cluster("b", "1")], None).unwrap()));
    assert_ne!(version(&build()), version(&Snapshot::build([cluster("a", "1")], None).unwrap()));
}

#[test]
fn duplicates_and_dangling_references_are_errors_that_name_the_line() {
    let error =
        Snapshot::build([cluster("a", "1"), cluster("a", "2").from_line(origin(7))], None).unwrap_err().to_string();
    assert_eq!(error, "two resources are named cluster \"a\" (agent-creds.toml:7)");
    let error =
        Snapshot::build([cluster("a", "1").referring_to(ResourceType::Secret, "ca").from_line(origin(3))], None)
            .unwrap_err()
            .to_string();
    assert_eq!(error, "cluster \"a\" (agent-creds.toml:3) refers to secret \"ca\", which does not exist");
}

#[test]
fn what_has_not_changed_is_shared_with_the_previous_snapshot() {
    let first = Snapshot::build([cluster("a", "1").from_line(origin(1)), cluster("b", "1")], None).unwrap();
    let second =
        Snapshot::build([cluster("a", "1").from_line(origin(2)), cluster("b", "1"), cluster("c", "1")], Some(&first))
            .unwrap();
    let get = |snapshot: &Snapshot, name: &str| snapshot.get(ResourceType::Cluster, name).unwrap();
    assert!(Arc::ptr_eq(&get(&first, "b"), &get(&second, "b")));
    // The line moved: the resource tells the new one, its bytes are the old ones.
    assert_eq!(get(&second, "a").origin(), Some(&origin(2)));
    assert!(get(&first, "a").shares_body_with(&get(&second, "a")));
    let set = second.of_type(ResourceType::Cluster);
    let changes = set.changes_since(first.of_type(ResourceType::Cluster));
    assert_eq!(changes.iter().map(|name| &**name).collect::<Vec<_>>(), ["c"]);
    assert!(matches!(changes, Cow::Borrowed(_)));
    let back = first.of_type(ResourceType::Cluster).changes_since(set);
    assert_eq!(back.iter().map(|name| &**name).collect::<Vec<_>>(), ["c"]);
}

#[test]
fn a_lazy_resource_is_produced_once_and_only_when_needed() {
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = count.clone();
    let produced = move || -> Result<Vec<u8>, String> {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Ok(vec![1, 2, 3])
    };
    let resource = Resource::lazy(ResourceType::Secret, "leaf", Version::of("1"), produced);
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert!(matches!(resource.prepare(), Prepared::Ready));
    assert!(matches!(resource.prepare(), Prepared::Ready));
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert!(!format!("{resource:?}").contains('['));
}

#[test]
fn a_failure_is_told_once_and_tried_again_in_the_next_snapshot() {
    let resource = || Resource::lazy(ResourceType::Secret, "leaf", Version::of("1"), || Err("no key".into()));
    let first = Snapshot::build([resource()], None).unwrap();
    let leaf = first.get(ResourceType::Secret, "leaf").unwrap();
    assert!(matches!(leaf.prepare(), Prepared::Failed { first: true, .. }));
    assert!(matches!(leaf.prepare(), Prepared::Failed { first: false, .. }));
    let second = Snapshot::build([resource()], Some(&first)).unwrap();
    assert!(!second.get(ResourceType::Secret, "leaf").unwrap().has_failed());
}

#[test]
fn a_cluster_nobody_knows_gets_nothing() {
    let everything = Arc::new(Snapshot::build([cluster("a", "1")], None).unwrap());
    let edge = Arc::new(Snapshot::build([cluster("b", "1")], None).unwrap());
    let by_cluster = [("edge".to_owned(), edge.clone())].into();
    let fleet = Fleet { everything, by_cluster, generation: 1, ..Default::default() };
    assert!(fleet.of(LOCAL_CLUSTER).get(ResourceType::Cluster, "a").is_some());
    assert!(Arc::ptr_eq(&fleet.of("edge"), &edge));
    assert!(fleet.of("forged").is_empty());
    assert!(Arc::ptr_eq(&fleet.of("forged"), &fleet.of("")));
}

fn edit(put: Vec<Resource>, remove: &[&str]) -> Edit {
    Edit { put, remove: remove.iter().map(|name| (ResourceType::Cluster, Arc::from(*name))).collect() }
}

fn changes(new: &Snapshot, old: &Snapshot) -> Vec<String> {
    let changes = new.of_type(ResourceType::Cluster).changes_since(old.of_type(ResourceType::Cluster));
    let mut names: Vec<_> = changes.iter().map(|name| name.to_string()).collect();
    names.sort();
    names
}

#[test]
fn an_edit_checks_references_in_both_directions() {
    let refers = |to: &str| cluster("a", "1").referring_to(ResourceType::Cluster, to).from_line(origin(3));
    let base = Snapshot::build([refers("b"), cluster("b", "1")], None).unwrap();
    let error = base.edit(edit(vec![], &["b"])).unwrap_err().to_string();
    assert_eq!(error, "cluster \"a\" (agent-creds.toml:3) refers to cluster \"b\", which does not exist");
    let error = base.edit(edit(vec![cluster("d", "1").referring_to(ResourceType::Secret, "s")], &[])).unwrap_err();
    assert_eq!(error.to_string(), "cluster \"d\" refers to secret \"s\", which does not exist");
    assert!(matches!(
        base.edit(edit(vec![cluster("d", "1"), cluster("d", "2")], &[])),
        Err(SnapshotError::Duplicate { .. })
    ));
    // Once nothing refers to it any more, it may go: in the same edit, or later.
    let moved = base.edit(edit(vec![refers("c"), cluster("c", "1")], &["b"])).unwrap();
    assert_eq!(moved.len(), 2);
    assert!(moved.edit(edit(vec![], &["a", "c"])).unwrap().is_empty());
    // What is removed and put again is there.
    assert_eq!(changes(&base.edit(edit(vec![cluster("b", "1")], &["b"])).unwrap(), &base), [""; 0]);
}

#[test]
fn what_changed_is_known_for_some_snapshots_back() {
    let first = Snapshot::build([cluster("a", "1"), cluster("b", "1")], None).unwrap();
    let second = first.edit(edit(vec![cluster("c", "1")], &[])).unwrap();
    let third = second.edit(edit(vec![cluster("a", "2")], &["b"])).unwrap();
    assert_eq!(changes(&second, &first), ["c"]);
    assert_eq!(changes(&third, &second), ["a", "b"]);
    assert_eq!(changes(&third, &first), ["a", "b", "c"]);
    assert_eq!(changes(&third, &third), [""; 0]);
    // Only the line moved: other resources, the same set.
    let moved = third.edit(edit(vec![cluster("a", "2").from_line(origin(9))], &[])).unwrap();
    assert_eq!(moved.of_type(ResourceType::Cluster).version(), third.of_type(ResourceType::Cluster).version());
    assert_eq!(moved.get(ResourceType::Cluster, "a").unwrap().origin(), Some(&origin(9)));
    assert_eq!(changes(&moved, &first), ["a", "b", "c"]);
}

#[test]
fn names_on_demand_and_of_one_client_come_on_top() {
    #[derive(Debug)]
    struct Leaves(&'static str);
    impl OnDemand for Leaves {
        fn group(&self, _name: &str) -> Arc<str> {
            "all".into()
        }

        fn get(&self, name: &str) -> Option<Arc<Resource>> {
            name.ends_with(".example.com").then(|| Arc::new(cluster(name, self.0)))
        }
        fn version(&self) -> Version {
            Version::of(self.0)
        }
    }
    let base = Snapshot::build([cluster("a", "1")], None).unwrap();
    let rule = |edition| Some(Arc::new(Leaves(edition)) as Arc<dyn OnDemand>);
    let first = base.clone().with_on_demand(ResourceType::Cluster, rule("1"));
    let second = base.clone().with_on_demand(ResourceType::Cluster, rule("2"));
    let set = |snapshot: &Snapshot| snapshot.of_type(ResourceType::Cluster).clone();
    assert_eq!(first.get(ResourceType::Cluster, "x.example.com").unwrap().version(), Version::of("1"));
    assert!(first.get(ResourceType::Cluster, "example.org").is_none());
    assert!(set(&first).version() != set(&base).version() && set(&first).version() != set(&second).version());
    assert!(!set(&second).has_same_rule(&set(&first)) && set(&first).has_same_rule(&set(&first)));
    assert_eq!((first.len(), changes(&second, &first).len()), (1, 0));
    // An edit keeps the rule.
    assert!(second.edit(edit(vec![], &["a"])).unwrap().get(ResourceType::Cluster, "y.example.com").is_some());

    let own = [Arc::new(cluster("own", "1"))];
    let mine = first.clone().with_own(&own);
    assert_eq!(changes(&mine, &first), ["own"]);
    assert_eq!(changes(&first, &mine), ["own"]);
    assert!(mine.get(ResourceType::Cluster, "own").is_some() && first.get(ResourceType::Cluster, "own").is_none());
    assert_ne!(set(&mine).version(), set(&first).version());
    let renewed = mine.edit(edit(vec![cluster("b", "1")], &[])).unwrap().with_own(&[Arc::new(cluster("own", "2"))]);
    assert_eq!(changes(&renewed, &mine), ["b", "own"]);
}

proptest! {
    #[test]
    fn edits_come_to_what_building_anew_comes_to(
        steps in prop::collection::vec((prop::collection::vec((0..6_u8, 0..3_u8), 0..4), prop::collection::vec(0..6_u8, 0..3)), 1..25),
    ) {
        let mut state = BTreeMap::new();
        let mut snapshots = vec![Snapshot::build([], None).unwrap()];
        for (put, remove) in steps {
            let put: BTreeMap<_, _> = put.into_iter().collect();
            let remove: Vec<_> = remove.into_iter().filter(|name| !put.contains_key(name)).collect();
            state.retain(|name, _| !remove.contains(name));
            state.extend(put.clone());
            let name = |number: u8| format!("cluster-{number}");
            let resources = |state: &BTreeMap<u8, u8>| -> Vec<_> {
                state.iter().map(|(number, version)| cluster(&name(*number), &version.to_string())).collect()
            };
            let names: Vec<_> = remove.iter().map(|number| name(*number)).collect();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let next = snapshots[snapshots.len() - 1].edit(edit(resources(&put), &names)).unwrap();
            let anew = Snapshot::build(resources(&state), None).unwrap();
            let of = |snapshot: &Snapshot| snapshot.of_type(ResourceType::Cluster).clone();
            prop_assert_eq!(of(&next).version(), of(&anew).version());
            prop_assert_eq!(next.len(), anew.len());
            for old in &snapshots {
                let mut told = changes(&next, old);
                let differ = |name: &String| {
                    let version = |snapshot: &Snapshot| snapshot.get(ResourceType::Cluster, name).map(|r| r.version());
                    version(&next) != version(old)
                };
                let all = (0..6).map(name).filter(differ).collect::<Vec<_>>();
                // A name that changed and changed back may be told.
                prop_assert!(all.iter().all(|name| told.contains(name)));
                told.dedup();
                prop_assert_eq!(told.len(), changes(&next, old).len());
            }
            snapshots.push(next);
        }
    }
}
