//! The fleet as JSON, for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{key, table};
use crate::control::v1::{DiffNodeResponse, ListNodesResponse, Node, NodeRejection};

/// All nodes.
pub(super) fn list(found: &ListNodesResponse) -> Value {
    json!({ "generation": found.generation, "nodes": found.nodes.iter().map(node).collect::<Vec<_>>() })
}

/// One node.
pub(super) fn node(node: &Node) -> Value {
    let streams = node.streams.iter().map(|stream| {
        let types = stream.types.iter().map(|of_type| {
            let rejection = of_type.rejection.as_ref();
            json!({
                "type": of_type.r#type,
                "sent": of_type.sent,
                "acked": of_type.acked,
                "nacked": of_type.nacked,
                "unanswered": of_type.unanswered,
                "version": some(&of_type.version),
                "in_step": of_type.in_step,
                "rejection": rejection.map(self::rejection),
            })
        });
        json!({
            "protocol": stream.protocol,
            "kind": stream.kind,
            "connected_since": table::moment(stream.connected_since_ms),
            "told_generation": stream.told_generation,
            "types": types.collect::<Vec<_>>(),
        })
    });
    json!({
        "id": node.id,
        "gateway": node.gateway,
        "version": some(&node.user_agent),
        "zone": some(&node.zone),
        "state": table::word(node.state()),
        "connected_since": table::moment(node.connected_since_ms),
        "generation": node.generation,
        "generations_behind": node.generations_behind,
        "behind_ms": node.behind_ms,
        "streams": streams.collect::<Vec<_>>(),
    })
}

pub(super) fn rejection(found: &NodeRejection) -> Value {
    json!({
        "message": found.message,
        "lines": found.lines,
        "resources": found.resources,
        "certain": found.certain,
    })
}

/// In what a node differs.
pub(super) fn differences(id: &str, found: &DiffNodeResponse) -> Value {
    let differences = found.differences.iter().map(|found| {
        json!({
            "kind": table::kind(found.kind()),
            "type": found.r#type,
            "name": found.name,
            "held": some(&found.held),
            "should": some(&found.should),
            "line": some(&found.line),
            "message": some(&found.message),
            "stream": found.stream,
        })
    });
    json!({ "id": id, "generation": found.generation, "differences": differences.collect::<Vec<_>>() })
}

/// A line for each node that came, changed or went since `shown`, which becomes what there is now.
pub(super) fn changes(shown: &mut BTreeMap<(String, String), Node>, nodes: &[Node]) -> Vec<Value> {
    let now: BTreeMap<_, _> = nodes.iter().map(|node| (key(node), node.clone())).collect();
    let gone = shown.iter().filter(|(key, _)| !now.contains_key(*key)).map(|(_, node)| ("gone", node));
    let new = now.iter().filter_map(|(key, node)| match shown.get(key) {
        None => Some(("connected", node)),
        Some(before) if steady_one(before) != steady_one(node) => Some(("changed", node)),
        Some(_) => None,
    });
    let lines = gone.chain(new).map(|(event, found)| json!({ "event": event, "node": node(found) })).collect();
    *shown = now;
    lines
}

/// The nodes without what changes by itself as time goes by.
pub(super) fn steady(nodes: &[Node]) -> Vec<Node> {
    nodes.iter().map(steady_one).collect()
}

fn steady_one(node: &Node) -> Node {
    Node { behind_ms: 0, ..node.clone() }
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{node as make, rejecting};
    use super::*;

    #[test]
    fn a_change_is_a_line_and_time_is_no_change() {
        let mut shown = BTreeMap::new();
        let mut events = |nodes: &[Node]| -> Vec<(String, String)> {
            let lines = changes(&mut shown, nodes);
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            lines.iter().map(|line| (text(&line["event"]), text(&line["node"]["id"]))).collect()
        };
        let pair = |event: &str, id: &str| (event.to_owned(), id.to_owned());
        assert_eq!(events(&[make("a")]), [pair("connected", "a")]);
        assert_eq!(events(&[make("a")]), []);
        assert_eq!(events(&[Node { behind_ms: 5000, ..make("a") }]), []);
        assert_eq!(events(&[make("b"), rejecting("a")]), [pair("changed", "a"), pair("connected", "b")]);
        assert_eq!(events(&[make("b")]), [pair("gone", "a")]);
    }

    #[test]
    fn what_is_not_there_is_null() {
        let value = node(&make("a"));
        assert_eq!(value["zone"], Value::Null);
        assert_eq!(value["streams"][0]["types"][0]["rejection"], Value::Null);
        let value = node(&rejecting("a"));
        assert_eq!(value["state"], "rejecting");
        assert_eq!(value["streams"][0]["types"][0]["rejection"]["lines"][0], "agent-creds.toml:4");
    }
}
