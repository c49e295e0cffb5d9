#![no_main]
//! Whatever bytes come, the answer names no address but the zone's, and is small.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::LazyLock;

use agent_creds::sandbox::dns::{self, Zone};
use libfuzzer_sys::fuzz_target;

static ZONE: LazyLock<Zone> = LazyLock::new(|| Zone {
    address: Ipv4Addr::new(172, 30, 0, 1),
    names: BTreeSet::from(["api.stripe.com".parse().expect("a host")]),
    patterns: vec!["*.s3.amazonaws.com".parse().expect("a pattern")],
});

fuzz_target!(|packet: &[u8]| {
    let mut out = Vec::new();
    let query = dns::reply(packet, &ZONE, &mut out);
    assert!(out.len() <= 512 && out.len() <= packet.len() + 64);
    // ANCOUNT: an answer goes with a query that is allowed, and ends in our address but for an OPT record.
    if out.len() > 12 && out[6..8] != [0, 0] {
        assert!(query.is_some_and(|query| query.allowed));
        let end = out.len() - if out[10..12] == [0, 0] { 0 } else { 11 };
        assert_eq!(out[end - 4..end], ZONE.address.octets());
    }
});
