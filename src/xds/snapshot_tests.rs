//! Tests of the snapshot.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;

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
    let get = |snapshot: &Snapshot, name: &str| snapshot.get(ResourceType::Cluster, name).unwrap().clone();
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
