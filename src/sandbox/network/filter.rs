//! The packet filter at the entrance of a bridge: the part of the second layer for packets that policy routing never sees.
//!
//! The kernel delivers multicast and limited broadcast to the host's own sockets before it asks any rule: without nftables a
//! sandbox would reach every UDP service of the host that listens on 0.0.0.0, by way of 224.0.0.1. This classic BPF program lets
//! in ARP, and TCP and UDP over IPv4 to unicast addresses; everything else it drops.

use serde::Deserialize;

/// Code, jump if true, jump if false, operand: one instruction each. The packet begins with its Ethernet header.
const PROGRAM: [(u16, u8, u8, u32); 11] = [
    (0x28, 0, 0, 12),          //  0 load the ethertype
    (0x15, 7, 0, 0x0806),      //  1 ARP: accept
    (0x15, 0, 7, 0x0800),      //  2 not IPv4: drop
    (0x30, 0, 0, 23),          //  3 load the protocol
    (0x15, 1, 0, 6),           //  4 TCP: go on
    (0x15, 0, 4, 17),          //  5 not UDP: drop
    (0x20, 0, 0, 30),          //  6 load the destination
    (0x35, 2, 0, 0xe000_0000), //  7 224.0.0.0 and above: drop
    (0x35, 0, 1, 0x0100_0000), //  8 below 1.0.0.0: drop
    (0x06, 0, 0, 0),           //  9 accept (TC_ACT_OK)
    (0x06, 0, 0, 2),           // 10 drop (TC_ACT_SHOT)
];

/// An entry of `tc -json filter show`.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    protocol: String,
    pref: u32,
    kind: String,
    #[serde(default)]
    chain: u32,
    options: Option<Options>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Options {
    #[serde(default)]
    direct_action: bool,
    bytecode: Option<Bytecode>,
}

#[derive(Debug, Deserialize)]
struct Bytecode {
    insns: Vec<Instruction>,
}

#[derive(Debug, Deserialize)]
struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

/// The line for `tc -batch` that shows the filters of a bridge.
pub(super) fn list(bridge: &str) -> String {
    format!("filter show dev {bridge} ingress\n")
}

/// The lines for `tc -batch` that make ours the only one.
pub(super) fn apply(bridge: &str) -> String {
    let program: Vec<String> = PROGRAM.iter().map(|(code, jt, jf, k)| format!("{code} {jt} {jf} {k}")).collect();
    format!(
        "qdisc replace dev {bridge} clsact\n\
         filter del dev {bridge} ingress\n\
         filter add dev {bridge} ingress pref 1 protocol all bpf direct-action bytecode \"{},{}\"\n",
        PROGRAM.len(),
        program.join(",")
    )
}

/// Whether the filters of a bridge are ours alone.
pub(super) fn hold(filters: &[Entry]) -> bool {
    // The first entry stands for the place, the second for the filter in it.
    let [place, filter] = filters else { return false };
    let placed = [place, filter]
        .iter()
        .all(|entry| entry.protocol == "all" && entry.pref == 1 && entry.kind == "bpf" && entry.chain == 0);
    let Some(Options { direct_action: true, bytecode: Some(bytecode) }) = &filter.options else { return false };
    let program = bytecode.insns.iter().map(|found| (found.code, found.jt, found.jf, found.k));
    placed && place.options.is_none() && program.eq(PROGRAM)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers to a packet.
    fn accepts(packet: &[u8]) -> bool {
        let (mut at, mut value) = (0, 0);
        let load = |k: u32, bytes: usize| {
            packet
                .get(k as usize..k as usize + bytes)
                .map(|b| b.iter().fold(0, |all, byte| all << 8 | u32::from(*byte)))
        };
        loop {
            let (code, jt, jf, k) = PROGRAM[at];
            at += 1;
            let loaded = match code {
                0x28 => load(k, 2),
                0x30 => load(k, 1),
                0x20 => load(k, 4),
                0x15 | 0x35 => {
                    let holds = if code == 0x15 { value == k } else { value >= k };
                    at += usize::from(if holds { jt } else { jf });
                    continue;
                }
                _ => return k == 0,
            };
            // A packet that is too short makes the program answer 0, which is `TC_ACT_OK`: the kernel drops it as no IP packet.
            let Some(loaded) = loaded else { return true };
            value = loaded;
        }
    }

    fn packet(ethertype: u16, protocol: u8, to: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0; 60];
        packet[12..14].copy_from_slice(&ethertype.to_be_bytes());
        packet[23] = protocol;
        packet[30..34].copy_from_slice(&to);
        packet
    }

    #[test]
    fn only_arp_and_unicast_tcp_and_udp_come_in() {
        for (ethertype, protocol, to, accepted) in [
            (0x0806, 0, [0; 4], true),
            (0x0800, 6, [8, 8, 8, 8], true),
            (0x0800, 17, [223, 255, 255, 255], true),
            (0x0800, 17, [1, 0, 0, 0], true),
            (0x0800, 17, [224, 0, 0, 1], false),
            (0x0800, 17, [255, 255, 255, 255], false),
            (0x0800, 6, [0, 255, 255, 255], false),
            (0x0800, 1, [8, 8, 8, 8], false),
            (0x0800, 41, [8, 8, 8, 8], false),
            (0x86dd, 6, [8, 8, 8, 8], false),
            (0x8100, 6, [8, 8, 8, 8], false),
            (0x8847, 6, [8, 8, 8, 8], false),
        ] {
            assert_eq!(accepts(&packet(ethertype, protocol, to)), accepted, "{ethertype:x} {protocol} {to:?}");
        }
    }

    #[test]
    fn only_our_filter_alone_is_ours() {
        let insns: Vec<String> = PROGRAM
            .iter()
            .map(|(code, jt, jf, k)| format!(r#"{{"code":{code},"jt":{jt},"jf":{jf},"k":{k}}}"#))
            .collect();
        let place = r#"{"protocol":"all","pref":1,"kind":"bpf","chain":0}"#;
        let filter = |insns: &[String]| {
            format!(
                r#"{{"protocol":"all","pref":1,"kind":"bpf","chain":0,"options":{{"handle":"0x1","direct-action":true,
                    "not_in_hw":true,"bytecode":{{"length":11,"insns":[{}]}}}}}}"#,
                insns.join(",")
            )
        };
        let holds = |entries: &[&str]| {
            let entries: Vec<Entry> = serde_json::from_str(&format!("[{}]", entries.join(","))).unwrap();
            hold(&entries)
        };
        let ours = filter(&insns);
        assert!(holds(&[place, &ours]));
        assert!(!holds(&[]) && !holds(&[place]) && !holds(&[place, &ours, &ours]));
        assert!(!holds(&[place, &filter(&insns[1..])]));
        assert!(!holds(&[place, &ours.replace("\"direct-action\":true", "\"direct-action\":false")]));
        assert!(!holds(&[place, &ours.replace("\"pref\":1", "\"pref\":2")]));
    }
}
