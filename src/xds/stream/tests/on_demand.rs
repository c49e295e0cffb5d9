//! Names that exist by a rule.

use super::*;
use crate::xds::on_demand::OnDemand;

/// Allows names with this ending, in this version.
#[derive(Debug)]
struct Ending(&'static str, u32);

impl OnDemand for Ending {
    fn get(&self, name: &str) -> Option<Arc<Resource>> {
        name.ends_with(self.0).then(|| Arc::new(resource(Secret, name, self.1)))
    }

    fn group(&self, _: &str) -> Arc<str> {
        self.0.into()
    }

    fn version(&self) -> Version {
        Version::of(&(self.0, self.1))
    }
}

fn ruled(rule: Option<Ending>, listed: &[(ResourceType, &str, u32)]) -> Arc<Snapshot> {
    let rule = rule.map(|rule| Arc::new(rule) as Arc<dyn OnDemand>);
    Arc::new(Snapshot::clone(&snapshot(listed)).with_on_demand(Secret, rule))
}

#[test]
fn case_11_a_name_that_the_rule_allows_is_there_and_others_are_gone_at_once() {
    for scope in scopes(Secret) {
        let target = ruled(Some(Ending(".example", 1)), &[(Secret, "listed", 7)]);
        let mut it = Harness::new(Protocol::Delta, scope, &target);
        let output = it.delta(Secret, &["a.example", "b.other", "listed"], &[]);
        assert_eq!(shorts(&output), ["secret a.example=1 listed=7 -b.other"]);
        it.answer_delta(&output, None);
        assert!(it.stream.is_converged(Secret));
    }
}

#[test]
fn what_the_rule_makes_is_not_part_of_everything() {
    let mut it = Harness::new(Protocol::Delta, Scope::Aggregated, &ruled(Some(Ending("", 1)), &[(Secret, "a", 2)]));
    assert_eq!(shorts(&it.delta(Secret, &["*"], &[])), ["secret a=2"]);
}

#[test]
fn a_changed_rule_changes_what_clients_have_asked_for() {
    for scope in scopes(Secret) {
        for protocol in [Protocol::Delta, Protocol::Sotw] {
            let names = ["a.example", "b.example", "c.other"];
            let mut it = Harness::new(protocol, scope, &ruled(Some(Ending(".example", 1)), &[]));
            let ask = |it: &mut Harness, to: Option<&Output>| match (protocol, to) {
                (Protocol::Delta, None) => it.delta(Secret, &names, &[]),
                (Protocol::Delta, Some(to)) => it.answer_delta(to, None),
                (Protocol::Sotw, to) => it.sotw(Secret, &names, to, None),
            };
            let first = ask(&mut it, None);
            assert!(ask(&mut it, Some(&first)).responses.is_empty());
            let renewed = it.update(&ruled(Some(Ending(".example", 2)), &[]));
            assert_eq!(shorts(&renewed), ["secret a.example=2 b.example=2"]);
            assert!(ask(&mut it, Some(&renewed)).responses.is_empty());
            let narrowed = it.update(&ruled(Some(Ending("a.example", 2)), &[]));
            let wider = it.update(&ruled(Some(Ending("", 2)), &[]));
            match protocol {
                Protocol::Delta => {
                    assert_eq!(shorts(&narrowed), ["secret -b.example"]);
                    assert!(wider.responses.is_empty());
                    let wider = ask(&mut it, Some(&narrowed));
                    assert_eq!(shorts(&wider), ["secret b.example=2 c.other=2"]);
                    ask(&mut it, Some(&wider));
                }
                // State of the world has no word for "gone".
                Protocol::Sotw => {
                    assert!(narrowed.responses.is_empty());
                    assert_eq!(shorts(&wider), ["secret b.example=2 c.other=2"]);
                    ask(&mut it, Some(&wider));
                }
            }
            assert!(it.stream.is_converged(Secret));
            assert!(it.update(&ruled(Some(Ending("", 2)), &[])).responses.is_empty());
        }
    }
}

#[test]
fn a_name_that_comes_to_be_listed_is_sent_if_its_version_is_another() {
    let mut it = Harness::new(Protocol::Delta, Scope::Aggregated, &ruled(Some(Ending("", 1)), &[]));
    let first = it.delta(Secret, &["a", "b"], &[]);
    it.answer_delta(&first, None);
    let listed = it.update(&ruled(Some(Ending("", 1)), &[(Secret, "a", 1), (Secret, "b", 2)]));
    assert_eq!(shorts(&listed), ["secret b=2"]);
}
