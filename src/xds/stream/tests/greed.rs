//! Names that exist by a rule: how many a client may hold.

use super::*;
use crate::xds::on_demand::OnDemand;

/// Every name with a dot, counted by what comes after it.
#[derive(Debug)]
struct Rule;

impl OnDemand for Rule {
    fn get(&self, name: &str) -> Option<Arc<Resource>> {
        name.contains('.').then(|| Arc::new(resource(Secret, name, 1)))
    }

    fn group(&self, name: &str) -> Arc<str> {
        name.split_once('.').map_or("", |(_, group)| group).into()
    }

    fn version(&self) -> Version {
        Version::of("the rule")
    }
}

fn target() -> Arc<Snapshot> {
    let listed = Snapshot::build([resource(Secret, "listed.greedy", 2)], None).unwrap();
    Arc::new(listed.with_on_demand(Secret, Some(Arc::new(Rule))))
}

#[test]
fn the_greediest_gives_up_its_oldest_for_one_name_more() {
    for scope in scopes(Secret) {
        let mut client = Harness::new(Protocol::Delta, scope, &target());
        client.delta(Secret, &["a.calm", "listed.greedy"], &[]);
        for number in 1..MAX_ON_DEMAND {
            let output = client.delta(Secret, &[&format!("{number}.greedy")], &[]);
            assert!(output.responses[0].removed.is_empty());
            client.answer_delta(&output, None);
        }
        for (asked, given_up) in [("x.calm", "1.greedy"), ("y.greedy", "2.greedy")] {
            let output = client.delta(Secret, &[asked], &[]);
            assert_eq!(shorts(&output), [format!("secret {asked}=1 -{given_up}")]);
            client.answer_delta(&output, None);
            // Envoy lets go of what is gone; it may ask again.
            assert!(client.delta(Secret, &[], &[given_up]).responses.is_empty());
        }
        let output = client.delta(Secret, &["1.greedy"], &[]);
        assert_eq!(shorts(&output), ["secret 1.greedy=1 -3.greedy"]);
        // What is let go of makes room, and what is refused takes none.
        client.delta(Secret, &["refused"], &["1.greedy"]);
        assert_eq!(shorts(&client.delta(Secret, &["z.calm"], &[])), ["secret z.calm=1"]);
    }
}

#[test]
fn what_a_client_brings_along_counts() {
    let names: Vec<String> = (0..MAX_ON_DEMAND + 2).map(|number| format!("{number:04}.greedy")).collect();
    let mut client = Harness::new(Protocol::Delta, Scope::Aggregated, &target());
    let output = client.request(DeltaDiscoveryRequest {
        type_url: Secret.type_url().into(),
        resource_names_subscribe: names.clone(),
        initial_resource_versions: names.iter().map(|name| (name.clone(), Version::of(&1).to_string())).collect(),
        ..Default::default()
    });
    let [response] = output.responses.as_slice() else { panic!("{output:?}") };
    assert_eq!((response.resources.len(), response.removed.len()), (0, 2));
    // All at once, and nothing is both sent and removed.
    let mut client = Harness::new(Protocol::Delta, Scope::Aggregated, &target());
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let output = client.delta(Secret, &names, &[]);
    let sent: usize = output.responses.iter().map(|response| response.resources.len()).sum();
    let removed: Vec<_> = output.responses.iter().flat_map(|response| response.removed.clone()).collect();
    assert_eq!((sent, removed.len()), (MAX_ON_DEMAND, 2));
}
