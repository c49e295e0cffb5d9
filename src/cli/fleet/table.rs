//! The fleet as text, for people: at most 100 columns, and safe for a terminal.

use std::fmt::Write as _;

use time::OffsetDateTime;

use crate::control::v1::{
    DiffNodeResponse, DifferenceKind, ListNodesResponse, Node, NodeDifference, NodeRejection, NodeState, NodeStream,
};
use crate::launch::printable;

/// The width of the text, in columns.
const WIDTH: usize = 100;
/// The longest id, and other word of a node, that is shown in full.
const LONGEST: usize = 40;
/// The most differences of one node that are shown.
const MOST_DIFFERENCES: usize = 500;

const NOBODY: &str = "\
no Envoy is connected
  the server's own connects by itself when it was started with --envoy process or --envoy docker
  for another one, `agent-creds bootstrap --node-id ID --cluster GATEWAY` prints what it needs
";

/// All nodes. `now` is the Unix time in milliseconds.
pub(super) fn of(found: &ListNodesResponse, now: i64, short: bool, colours: bool) -> String {
    if found.nodes.is_empty() {
        return NOBODY.to_owned();
    }
    if short {
        return short_of(&found.nodes, now, colours);
    }
    let mut text = String::new();
    for node in &found.nodes {
        append_node(&mut text, node, now, colours);
    }
    let in_step = found.nodes.iter().filter(|node| node.state() == NodeState::InStep).count();
    let _ = writeln!(text, "{in_step} of {} in step with generation {}", found.nodes.len(), found.generation);
    text
}

fn append_node(text: &mut String, node: &Node, now: i64, colours: bool) {
    let mut facts = vec![format!("generation {}", node.generation)];
    facts.extend(lag(node));
    facts.push(format!("up {}", span(now - node.connected_since_ms)));
    if !node.user_agent.is_empty() {
        facts.push(cut(&node.user_agent));
    }
    facts.push(if node.gateway == "*" { "all gateways".to_owned() } else { format!("gateway {}", cut(&node.gateway)) });
    if !node.zone.is_empty() {
        facts.push(format!("zone {}", cut(&node.zone)));
    }
    let head = format!("{}  {}  ", cut(&node.id), word(node.state()));
    let mut lines = wrapped(&facts.join(", "), WIDTH - head.chars().count()).into_iter();
    let state = coloured(word(node.state()), node.state(), colours);
    let _ = writeln!(text, "{}  {state}  {}", cut(&node.id), lines.next().unwrap_or_default());
    for line in lines {
        let _ = writeln!(text, "{}{line}", " ".repeat(head.chars().count()));
    }
    for stream in &node.streams {
        append_stream(text, stream, node.streams.len() > 1, colours);
    }
}

fn append_stream(text: &mut String, stream: &NodeStream, is_one_of_several: bool, colours: bool) {
    if is_one_of_several || stream.types.is_empty() {
        let none = if stream.types.is_empty() { ": nothing was asked for yet" } else { "" };
        let _ = writeln!(text, "  stream {} {}{none}", printable(&stream.protocol), printable(&stream.kind));
    }
    let cells = stream.types.iter().map(|of_type| {
        let version = if of_type.version.is_empty() { "nothing" } else { &of_type.version };
        [
            printable(&of_type.r#type),
            format!("sent {}", of_type.sent),
            format!("accepted {}", of_type.acked),
            format!("rejected {}", of_type.nacked),
            format!("holds {}", printable(version)),
            match (of_type.in_step, of_type.unanswered) {
                (true, _) => String::new(),
                (false, 0) => "behind".to_owned(),
                (false, count) => format!("behind, {count} unanswered"),
            },
        ]
    });
    let rows: Vec<[String; 6]> = cells.collect();
    let widths = widths(&rows);
    for (row, of_type) in rows.iter().zip(&stream.types) {
        let _ = writeln!(text, "  {}", line(row, &widths).trim_end());
        if let Some(rejection) = &of_type.rejection {
            append_rejection(text, rejection, colours);
        }
    }
}

fn append_rejection(text: &mut String, rejection: &NodeRejection, colours: bool) {
    let (begin, end) = if colours { ("\u{1b}[31m", "\u{1b}[0m") } else { ("", "") };
    for line in wrapped(&told(rejection), WIDTH - 4) {
        let _ = writeln!(text, "    {begin}{line}{end}");
    }
}

/// `agent-creds.toml:4: Envoy's words`.
pub(super) fn told(rejection: &NodeRejection) -> String {
    let lines: Vec<_> = rejection.lines.iter().map(|line| printable(line)).collect();
    let place = match (lines.is_empty(), rejection.certain || lines.len() == 1) {
        (true, _) => String::new(),
        (false, true) => format!("{}: ", lines.join(", ")),
        (false, false) => format!("one of {}: ", lines.join(", ")),
    };
    format!("{place}{}", printable(&rejection.message))
}

fn short_of(nodes: &[Node], now: i64, colours: bool) -> String {
    let head = ["NODE", "STATE", "GEN", "BEHIND", "UP", "ENVOY", "GATEWAY", "ZONE"].map(str::to_owned);
    let short = |text: &str, longest| shortened(&printable(text), longest);
    let row = |node: &Node| {
        let behind = if node.behind_ms > 0 { span(node.behind_ms) } else { "-".to_owned() };
        [
            short(&node.id, 24),
            word(node.state()).to_owned(),
            node.generation.to_string(),
            behind,
            span(now - node.connected_since_ms),
            short(&node.user_agent, 13),
            short(&node.gateway, 12),
            short(&node.zone, 9),
        ]
    };
    let rows: Vec<[String; 8]> = std::iter::once(head).chain(nodes.iter().map(row)).collect();
    let widths = widths(&rows);
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let mut row = row.clone();
        if let Some(node) = index.checked_sub(1).map(|index| &nodes[index]) {
            // Padded first: a terminal's colours have no width.
            row[1] = coloured(&format!("{:<width$}", row[1], width = widths[1]), node.state(), colours);
        }
        let _ = writeln!(text, "{}", line(&row, &widths).trim_end());
    }
    text
}

/// In what a node differs.
pub(super) fn differences(id: &str, found: &DiffNodeResponse) -> String {
    let generation = found.generation;
    if found.differences.is_empty() {
        return format!("{} holds what it should: all of generation {generation}\n", cut(id));
    }
    let mut text = String::new();
    for found in found.differences.iter().take(MOST_DIFFERENCES) {
        let at = if found.line.is_empty() { String::new() } else { format!("  {}", printable(&found.line)) };
        let head = format!("{} {}", printable(&found.r#type), printable(&found.name));
        for (index, line) in wrapped(&format!("{head}: {}{at}", explained(found)), WIDTH - 2).into_iter().enumerate() {
            let _ = writeln!(text, "{}{line}", if index == 0 { "" } else { "  " });
        }
        if !found.message.is_empty() {
            for line in wrapped(&printable(&found.message), WIDTH - 4) {
                let _ = writeln!(text, "    {line}");
            }
        }
    }
    let count = found.differences.len();
    if count > MOST_DIFFERENCES {
        let _ = writeln!(text, "… and {} more: --json has them all", count - MOST_DIFFERENCES);
    }
    let _ = writeln!(text, "{} differs from generation {generation} in {count}", cut(id));
    text
}

fn explained(found: &NodeDifference) -> String {
    let version = |text: &str| if text.is_empty() { "none".to_owned() } else { printable(text) };
    let (held, should) = (version(&found.held), version(&found.should));
    match found.kind() {
        DifferenceKind::Missing => format!("missing, should be {should}"),
        DifferenceKind::Extra => format!("extra, holds {held}"),
        DifferenceKind::OtherVersion => format!("holds {held}, should be {should}"),
        DifferenceKind::Rejected if found.held == found.should => format!("rejected {held}"),
        DifferenceKind::Rejected => format!("rejected {held}, should be {should}"),
        DifferenceKind::OnItsWay => format!("sent {held}, not answered yet"),
        DifferenceKind::Unknown | DifferenceKind::Unspecified => format!("not known, should be {should}"),
    }
}

/// A kind of difference in one word.
pub(super) fn kind(kind: DifferenceKind) -> &'static str {
    match kind {
        DifferenceKind::Missing => "missing",
        DifferenceKind::Extra => "extra",
        DifferenceKind::OtherVersion => "other version",
        DifferenceKind::Rejected => "rejected",
        DifferenceKind::OnItsWay => "on its way",
        DifferenceKind::Unknown | DifferenceKind::Unspecified => "unknown",
    }
}

/// A state in a word or two.
pub(super) fn word(state: NodeState) -> &'static str {
    match state {
        NodeState::InStep => "in step",
        NodeState::Behind => "behind",
        NodeState::Rejecting => "rejecting",
        NodeState::Unspecified => "unknown",
    }
}

/// How far a node is behind; `None` when it is not.
pub(super) fn lag(node: &Node) -> Option<String> {
    let time = span(node.behind_ms);
    match (node.state(), node.generations_behind) {
        (NodeState::InStep, _) => None,
        (_, 0) => Some(format!("behind for {time}")),
        (_, 1) => Some(format!("1 behind for {time}")),
        (_, count) => Some(format!("{count} behind for {time}")),
    }
}

/// Text for a terminal.
pub(super) fn printed(text: &str) -> String {
    printable(text)
}

/// A name in quotes, cut.
pub(super) fn quoted(text: &str) -> String {
    format!("`{}`", cut(text))
}

/// Text for a terminal, cut after 40 characters.
fn cut(text: &str) -> String {
    shortened(&printable(text), LONGEST)
}

fn shortened(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    text.chars().take(longest.saturating_sub(1)).chain(['…']).collect()
}

/// A Unix time in milliseconds, as RFC 3339 has it.
pub(super) fn moment(ms: i64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok()?;
    time.format(&time::format_description::well_known::Rfc3339).ok()
}

/// A time in its two largest units; below ten seconds with a tenth.
fn span(ms: i64) -> String {
    let ms = ms.max(0);
    match ms / 1000 {
        0..10 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        seconds @ 10..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        seconds @ 3600..86400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        seconds => format!("{}d{}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

fn coloured(text: &str, state: NodeState, colours: bool) -> String {
    let code = match state {
        NodeState::InStep => 32,
        NodeState::Behind => 33,
        NodeState::Rejecting => 31,
        NodeState::Unspecified => 2,
    };
    if colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

fn widths<const N: usize>(rows: &[[String; N]]) -> [usize; N] {
    std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default())
}

fn line<const N: usize>(row: &[String; N], widths: &[usize; N]) -> String {
    let cells = row.iter().zip(widths).map(|(cell, &width)| format!("{cell:<width$}"));
    cells.collect::<Vec<_>>().join("  ")
}

/// The text in lines of at most `width` columns: broken at spaces, and within a word only when it is longer than a line.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ') {
        let mut rest: Vec<char> = word.chars().collect();
        if used > 0 && used + 1 + rest.len() <= width {
            used += 1;
            push(&mut lines, ' ');
        } else if used > 0 {
            lines.push(String::new());
            used = 0;
        }
        while used + rest.len() > width {
            let part: Vec<char> = rest.drain(..width.max(1)).collect();
            part.into_iter().for_each(|c| push(&mut lines, c));
            lines.push(String::new());
            used = 0;
        }
        used += rest.len();
        rest.into_iter().for_each(|c| push(&mut lines, c));
    }
    lines
}

fn push(lines: &mut [String], c: char) {
    if let Some(line) = lines.last_mut() {
        line.push(c);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::v1::NodeType;

    /// A node that is in step.
    pub(in super::super) fn node(id: &str) -> Node {
        let of_type = |ty: &str, sent| NodeType {
            r#type: ty.into(),
            sent,
            acked: sent,
            version: "1a2b3c4d5e6f7081".into(),
            in_step: true,
            ..NodeType::default()
        };
        let types = vec![of_type("cluster", 12), of_type("listener", 3)];
        let stream = NodeStream { protocol: "delta".into(), kind: "aggregated".into(), types, ..NodeStream::default() };
        Node {
            id: id.into(),
            gateway: "ci".into(),
            user_agent: "envoy 1.40.0".into(),
            state: NodeState::InStep.into(),
            generation: 7,
            streams: vec![stream],
            ..Node::default()
        }
    }

    /// A node that rejects its clusters.
    pub(in super::super) fn rejecting(id: &str) -> Node {
        let mut node =
            Node { state: NodeState::Rejecting.into(), generations_behind: 2, behind_ms: 14_000, ..node(id) };
        let of_type = &mut node.streams[0].types[0];
        (of_type.in_step, of_type.nacked) = (false, 1);
        of_type.rejection = Some(NodeRejection {
            message: "Error adding/updating cluster(s) ci/a.example.com: \u{1b}[2Jno such thing, and that at length"
                .into(),
            lines: vec!["agent-creds.toml:4".into()],
            certain: true,
            ..NodeRejection::default()
        });
        node
    }

    #[test]
    fn the_text_says_who_is_where_and_why() {
        let zoned = Node { zone: "eu/eu-1a".into(), connected_since_ms: -7_260_000, ..node("edge-1") };
        let nodes = vec![zoned, rejecting("edge-2")];
        let found = ListNodesResponse { generation: 9, nodes, connected: 2, ..ListNodesResponse::default() };
        let expected = "\
edge-1  in step  generation 7, up 2h1m, envoy 1.40.0, gateway ci, zone eu/eu-1a
  cluster   sent 12  accepted 12  rejected 0  holds 1a2b3c4d5e6f7081
  listener  sent 3   accepted 3   rejected 0  holds 1a2b3c4d5e6f7081
edge-2  rejecting  generation 7, 2 behind for 14s, up 0.0s, envoy 1.40.0, gateway ci
  cluster   sent 12  accepted 12  rejected 1  holds 1a2b3c4d5e6f7081  behind
    agent-creds.toml:4: Error adding/updating cluster(s) ci/a.example.com: \\u{1b}[2Jno such thing,
    and that at length
  listener  sent 3   accepted 3   rejected 0  holds 1a2b3c4d5e6f7081
1 of 2 in step with generation 9
";
        assert_eq!(of(&found, 0, false, false), expected);
        assert!(of(&found, 0, false, true).contains("\u{1b}[31mrejecting\u{1b}[0m"));
        let short = "\
NODE    STATE      GEN  BEHIND  UP    ENVOY         GATEWAY  ZONE
edge-1  in step    7    -       2h1m  envoy 1.40.0  ci       eu/eu-1a
edge-2  rejecting  7    14s     0.0s  envoy 1.40.0  ci
";
        assert_eq!(of(&found, 0, true, false), short);
        assert!(of(&ListNodesResponse::default(), 0, false, false).contains("agent-creds bootstrap"));
    }

    #[test]
    fn hostile_and_long_names_stay_within_the_width() {
        let long = "x\u{202e}".repeat(200);
        let node = Node { user_agent: long.clone(), gateway: long.clone(), zone: long.clone(), ..rejecting(&long) };
        let found = ListNodesResponse { nodes: vec![node; 2], ..ListNodesResponse::default() };
        for text in [of(&found, 1 << 40, false, false), of(&found, 1 << 40, true, false)] {
            for line in text.lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
                assert!(!line.contains('\u{202e}'));
            }
        }
    }

    #[test]
    fn differences_have_their_lines() {
        let difference = |kind: DifferenceKind, name: &str| NodeDifference {
            kind: kind.into(),
            r#type: "cluster".into(),
            name: name.into(),
            held: "1111111111111111".into(),
            should: "2222222222222222".into(),
            line: "a.toml:3".into(),
            ..NodeDifference::default()
        };
        let rejected = NodeDifference { message: "no".into(), ..difference(DifferenceKind::Rejected, "b") };
        let differences = vec![difference(DifferenceKind::OtherVersion, "a"), rejected];
        let found = DiffNodeResponse { connected: true, generation: 4, differences };
        let expected = "\
cluster a: holds 1111111111111111, should be 2222222222222222  a.toml:3
cluster b: rejected 1111111111111111, should be 2222222222222222  a.toml:3
    no
edge differs from generation 4 in 2
";
        assert_eq!(super::differences("edge", &found), expected);
    }

    proptest! {
        #[test]
        fn wrapping_loses_nothing(text in "[a-c ]{0,80}", width in 1..20_usize) {
            let lines = wrapped(&text, width);
            prop_assert!(lines.iter().all(|line| line.chars().count() <= width));
            let letters = |text: &str| text.chars().filter(|c| *c != ' ').collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), letters(&text));
        }
    }
}
