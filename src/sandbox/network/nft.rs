//! The nftables table of a sandbox, as text.
//!
//! The text is the one in which `nft -s list table` shows it, to the byte: what is read back is compared as it is. A version of
//! nft that shows it otherwise makes the comparison fail, and so no sandbox start.

use super::Isolation;

/// How the names of our tables begin; a [`super::NetKey`] follows.
pub(super) const TABLE_PREFIX: &str = "agent_creds_";

/// The table, as nft lists it.
///
/// - `arrive` comes before connection tracking: what it drops leaves no trace there. It also keeps everyone else's packets from
///   the sandbox's subnet, whatever address translation they would meet later: those of the host's own programs, too, which reach
///   the gateway by `lo`.
/// - `steer` comes before Docker's own translation (of published ports), which has `dstnat`: the first one decides. It names the
///   address; `redirect` would take whichever is the bridge's first.
/// - `enter` and `forward` say it again, after all translation: to the two ports, else nowhere. Packets that connection tracking
///   finds invalid are not steered, and end here.
/// - `answer`: the host speaks to the sandbox only in answers from the two ports. An unreachable responder may be told.
pub(super) fn table(isolation: &Isolation) -> String {
    let Isolation { key, gateway, subnet: (network, length), listener_port: listener, dns_port: dns } = isolation;
    let (table, bridge) = (key.table(), key.bridge());
    // nft lists the elements of a set in their order.
    let (low, high) = (listener.min(dns), listener.max(dns));
    format!(
        r#"table inet {table} {{
	chain arrive {{
		type filter hook prerouting priority raw; policy accept;
		iifname != "{bridge}" ip daddr {network}/{length} drop
		iifname != "{bridge}" accept
		meta nfproto != ipv4 drop
		ip saddr != {network}/{length} drop
		ip saddr {gateway} drop
		ip daddr {{ 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/3 }} drop
		meta l4proto != {{ tcp, udp }} drop
		udp dport != 53 drop
	}}

	chain steer {{
		type nat hook prerouting priority dstnat - 10; policy accept;
		iifname "{bridge}" udp dport 53 dnat ip to {gateway}:{dns}
		iifname "{bridge}" tcp dport 53 dnat ip to {gateway}:{dns}
		iifname "{bridge}" meta l4proto tcp dnat ip to {gateway}:{listener}
	}}

	chain enter {{
		type filter hook input priority filter; policy accept;
		iifname "{bridge}" ip daddr {gateway} ct direction original tcp dport {{ {low}, {high} }} accept
		iifname "{bridge}" ip daddr {gateway} ct direction original udp dport {dns} accept
		iifname "{bridge}" drop
	}}

	chain forward {{
		type filter hook forward priority filter; policy accept;
		iifname "{bridge}" drop
		oifname "{bridge}" drop
	}}

	chain answer {{
		type filter hook output priority filter; policy accept;
		oifname != "{bridge}" accept
		ip saddr {gateway} ct direction reply tcp sport {{ {low}, {high} }} accept
		ip saddr {gateway} ct direction reply udp sport {dns} accept
		icmp type destination-unreachable ct state related accept
		drop
	}}
}}
"#
    )
}

/// What makes the table so, in one transaction, whatever it was before.
pub(super) fn apply(isolation: &Isolation) -> String {
    format!("{}{}", remove(&isolation.key.table()), table(isolation))
}

/// What removes a table, there or not.
pub(super) fn remove(table: &str) -> String {
    format!("table inet {table}\ndelete table inet {table}\n")
}

/// The arguments that show all tables of the family `inet`, ours among them. Sets of others are left out, which may be large.
/// nft 1.0.6 finds only one of several tables that one run is asked for by name.
pub(super) const LIST: [&str; 5] = ["-s", "-t", "list", "ruleset", "inet"];

/// The tables in what nft listed: names and texts.
pub(super) fn listed(text: &str) -> Vec<(&str, &str)> {
    let mut tables = Vec::new();
    let mut rest = text;
    while let Some(line) = rest.lines().next() {
        // A table ends with the first brace that is not indented.
        let end = if line.ends_with('{') { rest.find("\n}").map_or(rest.len(), |at| at + 2) } else { line.len() };
        if let Some(name) = line.strip_prefix("table inet ").and_then(|name| name.strip_suffix(" {")) {
            tables.push((name, &rest[..end]));
        }
        rest = rest[end..].trim_start_matches('\n');
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::isolation;
    use super::*;

    #[test]
    fn the_table_is_the_golden_one() {
        assert_eq!(table(&isolation()), include_str!("nft_golden.txt"));
    }

    #[test]
    fn a_listing_is_read_back_table_by_table() {
        let own = table(&isolation());
        let text = format!("table inet x {{\n\tset y {{\n\t}}\n}}\n{own}table inet y {{\n}}\n");
        let found = listed(&text);
        let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["x", "agent_creds_0123456789abc", "y"]);
        assert_eq!(found[1].1, own.trim_end());
        assert_eq!(found[2].1, "table inet y {\n}");
        assert_eq!(listed(""), []);
        assert_eq!(listed("table inet x {\n\tcut"), [("x", "table inet x {\n\tcut")]);
    }
}
