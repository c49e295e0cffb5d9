//! The policy-routing rules: the second layer, which a `flush ruleset` leaves alone.
//!
//! ```text
//!  1: to G/32 iif BRIDGE ipproto tcp dport 15001 lookup local     (and tcp and udp 15053)
//!  2: iif BRIDGE ipproto tcp blackhole                            (and udp; other packets do not pass the filter)
//!  3: to G/32 iif BRIDGE lookup local                             so that the kernel answers ARP for G
//!  4: iif BRIDGE blackhole                                        (IPv6 too)
//! 10: lookup local                                                for everyone; the kernel has it at 0, ahead of all rules
//! ```
//!
//! `blackhole`, not `prohibit`: that would answer with an ICMP error, which quotes the packet, to a source that may be forged.
//!
//! Rules see the addresses after the redirect. Without nftables nothing redirects: then a sandbox reaches these ports of its own
//! gateway when it asks for them, and nothing else; moved behind the rules, `lookup local` no longer makes an exception for
//! the addresses of the host. Interface names that do not exist yet are fine, and rules stay when a bridge goes.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Isolation, KEY_DIGITS, ServerPrefix, is_hex};

const ALLOW: u32 = 1;
const REFUSE: u32 = 2;
const ARP: u32 = 3;
const BLACKHOLE: u32 = 4;
const LOCAL: u32 = 10;

/// The two tables of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A rule as `ip -json rule` shows it, without what changes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule(Map<String, Value>);

/// What makes the rules in force the ones that are wanted: lines for `ip -batch`, in an order in which every step is safe.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Lines for `ip -batch`.
    pub(super) batch: String,
    /// A rule of another program that comes before ours, so that ours decide nothing.
    pub(super) in_the_way: Option<String>,
}

impl Rule {
    fn new(priority: u32, selector: Value, action: (&str, &str)) -> Self {
        let mut rule = Map::new();
        rule.insert("priority".into(), priority.into());
        rule.insert("src".into(), "all".into());
        if let Value::Object(selector) = selector {
            rule.extend(selector);
        }
        rule.insert(action.0.into(), action.1.into());
        Self(rule)
    }

    fn local(priority: u32) -> Self {
        Self::new(priority, json!({}), ("table", "local"))
    }

    fn priority(&self) -> u64 {
        // A rule without one would come first.
        self.0.get("priority").and_then(Value::as_u64).unwrap_or(0)
    }

    fn interface(&self) -> Option<&str> {
        self.0.get("iif").and_then(Value::as_str)
    }

    /// Its priority and its interface, if it has one.
    fn place(&self) -> Option<(u64, &str)> {
        Some((self.priority(), self.interface()?))
    }

    /// The arguments of `ip rule add` and `ip rule del`. Selectors that no rule of ours has are left out.
    fn arguments(&self) -> String {
        let mut line = format!("priority {}", self.priority());
        for (field, word) in
            [("dst", "to"), ("iif", "iif"), ("ipproto", "ipproto"), ("dport", "dport"), ("table", "lookup")]
        {
            match self.0.get(field) {
                Some(Value::String(text)) if text.chars().all(|c| c.is_ascii_graphic()) => {
                    line.push_str(&format!(" {word} {text}"));
                }
                Some(Value::Number(number)) => line.push_str(&format!(" {word} {number}")),
                _ => {}
            }
        }
        if let Some(Value::String(action)) = self.0.get("action") {
            line.push_str(&format!(" {action}"));
        }
        line
    }
}

/// The rules in the output of `ip -json rule show`.
///
/// # Errors
/// When it is not a list of objects.
pub(super) fn listed(json: &[u8]) -> Result<Vec<Rule>, serde_json::Error> {
    let rules: Vec<Map<String, Value>> = serde_json::from_slice(json)?;
    Ok(rules
        .into_iter()
        .map(|mut rule| {
            rule.remove("iif_detached");
            Rule(rule)
        })
        .collect())
}

/// The rules of one sandbox, the one that drops first.
pub(super) fn of(isolation: &Isolation, family: Family) -> Vec<Rule> {
    let bridge = isolation.key.bridge();
    let mut rules = vec![Rule::new(BLACKHOLE, json!({ "iif": bridge }), ("action", "blackhole"))];
    if family == Family::V4 {
        let to = isolation.gateway.to_string();
        for protocol in ["tcp", "udp"] {
            let selector = json!({ "iif": bridge, "ipproto": protocol });
            rules.push(Rule::new(REFUSE, selector, ("action", "blackhole")));
        }
        rules.push(Rule::new(ARP, json!({ "dst": to, "iif": bridge }), ("table", "local")));
        for (protocol, port) in
            [("tcp", isolation.listener_port), ("tcp", isolation.dns_port), ("udp", isolation.dns_port)]
        {
            let selector = json!({ "dst": to, "iif": bridge, "ipproto": protocol, "dport": port });
            rules.push(Rule::new(ALLOW, selector, ("table", "local")));
        }
    }
    rules
}

/// Whether all rules of this sandbox are in force, exactly these, with nothing that comes before them.
pub(super) fn hold(isolation: &Isolation, family: Family, found: &[Rule]) -> bool {
    let bridge = isolation.key.bridge();
    let mut own: Vec<&Rule> = found.iter().filter(|rule| rule.interface() == Some(&bridge)).collect();
    let all = of(isolation, family).iter().all(|wanted| {
        let at = own.iter().position(|rule| *rule == wanted);
        at.map(|at| own.swap_remove(at)).is_some()
    });
    all && own.is_empty() && found.contains(&Rule::local(LOCAL)) && before_ours(found).next().is_none()
}

/// Rules that decide before ours, whatever the interface.
fn before_ours(found: &[Rule]) -> impl Iterator<Item = &Rule> {
    found.iter().filter(|rule| rule.priority() <= u64::from(BLACKHOLE) && rule.interface().is_none())
}

/// What is to be done so that, of the rules of `server`, those of `wanted` are in force and no others.
pub(super) fn plan(server: &ServerPrefix, wanted: &[Isolation], family: Family, found: &[Rule]) -> Plan {
    let mut batch = String::new();
    let mut line = |verb: &str, arguments: &str| batch.push_str(&format!("rule {verb} {arguments}\n"));
    let wanted: Vec<Rule> = wanted.iter().flat_map(|isolation| of(isolation, family)).collect();
    let ours = format!("ac{}", server.as_str());
    let is_ours = |name: &str| is_bridge(name) && name.starts_with(&ours);
    for rule in wanted.iter().filter(|rule| !found.contains(rule)) {
        line("add", &rule.arguments());
    }
    let places: BTreeSet<(u64, &str)> =
        found.iter().filter_map(Rule::place).filter(|(_, name)| is_ours(name)).collect();
    for place in places {
        let at = |rules: &[Rule]| rules.iter().filter(|rule| rule.place() == Some(place)).cloned().collect::<Vec<_>>();
        let (there, wanted) = (at(found), at(&wanted));
        let twice = (1..there.len()).any(|at| there[..at].contains(&there[at]));
        if !twice && there.iter().all(|rule| wanted.contains(rule)) {
            continue;
        }
        // A rule cannot be told from those that say more: all go, and the wanted ones come again.
        let added = wanted.iter().filter(|rule| !there.contains(rule)).count();
        for _ in 0..there.len() + added {
            line("del", &format!("priority {} iif {}", place.0, place.1));
        }
        for rule in &wanted {
            line("add", &rule.arguments());
        }
    }
    // Never without `lookup local`, in between neither: the host would not answer for its own addresses.
    let of_others = |rule: &Rule| rule.interface().is_some_and(|name| is_bridge(name) && !is_ours(name));
    let (first, moved) = (Rule::local(0), Rule::local(LOCAL));
    let (add, remove) = if wanted.is_empty() && !found.iter().any(of_others) { (first, moved) } else { (moved, first) };
    // Also when `ip rule flush` took it, which spares only what has priority 0.
    if !found.contains(&add) {
        line("add", &add.arguments());
    }
    for rule in found.iter().filter(|rule| **rule == remove) {
        line("del", &rule.arguments());
    }
    let in_the_way = before_ours(found).find(|rule| **rule != Rule::local(0)).map(Rule::arguments);
    Plan { batch, in_the_way: in_the_way.filter(|_| !wanted.is_empty()) }
}

/// Whether an interface has a name as only our bridges have it.
fn is_bridge(name: &str) -> bool {
    name.strip_prefix("ac").is_some_and(|key| is_hex(key, KEY_DIGITS))
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::isolation;
    use super::*;

    const FRESH: &str = r#"[{"priority":0,"src":"all","table":"local"},{"priority":32766,"src":"all","table":"main"}]"#;

    fn server() -> ServerPrefix {
        "01234".parse().unwrap()
    }

    fn rules(text: &str) -> Vec<Rule> {
        listed(text.as_bytes()).unwrap()
    }

    /// What the rules are after the plan.
    fn done(found: &[Rule], plan: &Plan, all: &[Rule]) -> Vec<Rule> {
        let mut found = found.to_vec();
        for line in plan.batch.lines() {
            let (verb, arguments) = line.strip_prefix("rule ").unwrap().split_once(' ').unwrap();
            match verb {
                "add" => found.push(all.iter().find(|rule| rule.arguments() == arguments).unwrap().clone()),
                // As the kernel does: the first that has what is said.
                _ => {
                    let at = found.iter().position(|rule| rule.arguments().starts_with(&del(arguments, rule))).unwrap();
                    found.remove(at);
                }
            }
            let local = [Rule::local(0), Rule::local(LOCAL)];
            assert!(found.iter().any(|rule| local.contains(rule)), "no `lookup local` after {line}");
        }
        found
    }

    fn del(arguments: &str, rule: &Rule) -> String {
        let to = rule.0.get("dst").map(|to| format!("to {} iif", to.as_str().unwrap()));
        arguments.replace("iif", &to.unwrap_or_else(|| "iif".to_owned()))
    }

    #[test]
    fn the_rules_are_the_golden_ones() {
        let plan = plan(&server(), &[isolation()], Family::V4, &rules(FRESH));
        assert_eq!(
            plan.batch,
            "rule add priority 4 iif ac0123456789abc blackhole\n\
             rule add priority 2 iif ac0123456789abc ipproto tcp blackhole\n\
             rule add priority 2 iif ac0123456789abc ipproto udp blackhole\n\
             rule add priority 3 to 172.20.0.1 iif ac0123456789abc lookup local\n\
             rule add priority 1 to 172.20.0.1 iif ac0123456789abc ipproto tcp dport 15001 lookup local\n\
             rule add priority 1 to 172.20.0.1 iif ac0123456789abc ipproto tcp dport 15053 lookup local\n\
             rule add priority 1 to 172.20.0.1 iif ac0123456789abc ipproto udp dport 15053 lookup local\n\
             rule add priority 10 lookup local\n\
             rule del priority 0 lookup local\n"
        );
        let v6 = super::plan(&server(), &[isolation()], Family::V6, &rules(FRESH));
        assert_eq!(v6.batch.lines().next(), Some("rule add priority 4 iif ac0123456789abc blackhole"));
        assert_eq!(v6.batch.lines().count(), 3);
    }

    #[test]
    fn a_plan_reaches_what_it_is_for_and_its_removal_what_was() {
        for family in [Family::V4, Family::V6] {
            let fresh = rules(FRESH);
            let mut all = of(&isolation(), family);
            all.extend([Rule::local(0), Rule::local(LOCAL)]);
            let there = done(&fresh, &plan(&server(), &[isolation()], family, &fresh), &all);
            assert!(hold(&isolation(), family, &there) && !hold(&isolation(), family, &fresh));
            assert_eq!(plan(&server(), &[isolation()], family, &there), Plan::default());
            let back = done(&there, &plan(&server(), &[], family, &there), &all);
            assert_eq!(back.len(), fresh.len());
            assert!(fresh.iter().all(|rule| back.contains(rule)));
            for at in 0..there.len() {
                let mut broken = there.clone();
                let lost = broken.remove(at);
                assert_eq!(hold(&isolation(), family, &broken), lost.priority() == 32766, "without {lost:?}");
                // One too many, in each place.
                for extra in
                    [lost.clone(), Rule::new(BLACKHOLE, json!({ "iif": isolation().key.bridge() }), ("table", "9"))]
                {
                    let mut more = there.clone();
                    more.insert(at, extra.clone());
                    let plan = plan(&server(), &[isolation()], family, &more);
                    let repaired = extra.interface().is_none() || hold(&isolation(), family, &done(&more, &plan, &all));
                    assert!(repaired, "with {extra:?} at {at}: {plan:?}");
                }
            }
        }
    }

    #[test]
    fn another_servers_rules_are_left_and_keep_local_moved() {
        let others = r#"[{"priority":2,"src":"all","iif":"acfffff00000000","iif_detached":null,"action":"blackhole"},
            {"priority":2,"src":"all","iif":"ac01234zzz","action":"blackhole"},
            {"priority":10,"src":"all","table":"local"}]"#;
        assert_eq!(plan(&server(), &[], Family::V4, &rules(others)), Plan::default());
    }

    #[test]
    fn what_comes_before_ours_is_named() {
        let mut found = of(&isolation(), Family::V4);
        found.push(Rule::local(LOCAL));
        assert!(hold(&isolation(), Family::V4, &found));
        found.extend(rules(r#"[{"priority":1,"src":"10.0.0.0/8","fwmark":"0x1","table":"100"}]"#));
        assert!(!hold(&isolation(), Family::V4, &found));
        let plan = plan(&server(), &[isolation()], Family::V4, &found);
        assert_eq!(plan.in_the_way.as_deref(), Some("priority 1 lookup 100"));
    }

    #[test]
    fn a_rule_with_a_selector_more_is_not_ours_in_force() {
        let mut found = of(&isolation(), Family::V6);
        found.push(Rule::local(LOCAL));
        found[0].0.insert("fwmark".into(), "0x1".into());
        assert!(!hold(&isolation(), Family::V6, &found));
    }
}
