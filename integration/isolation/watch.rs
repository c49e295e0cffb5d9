//! The guard notices what is lost, repairs it and says so; it understands nothing half.

use std::time::{Duration, Instant};

use agent_creds::sandbox::network::{GuardCommand, GuardReport, Layer, NetKey};

use super::world::{World, command, inside, isolation, key};

/// Lines in an order of their own: rules of one priority stand in the order in which they were added.
fn sorted(rules: &str) -> Vec<String> {
    let mut lines: Vec<String> = rules.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Breaks something; the guard reports the loss and the repair. Returns how long that took.
fn lose(world: &World, guard: &super::world::Guard, line: &str, lost: &[(u8, Layer)]) -> Duration {
    let held = world.rules();
    let begun = Instant::now();
    world.shell(line);
    let mut missing: Vec<(NetKey, Layer)> = lost.iter().map(|(number, layer)| (key(*number), *layer)).collect();
    let mut broken: Vec<NetKey> = missing.iter().map(|(key, _)| key.clone()).collect();
    broken.sort();
    broken.dedup();
    while !(missing.is_empty() && broken.is_empty()) {
        match guard.report() {
            GuardReport::Lost { key, what } => {
                let at = missing.iter().position(|lost| *lost == (key.clone(), what));
                missing.remove(at.unwrap_or_else(|| panic!("{line}: lost {key} {what}, of {missing:?}")));
            }
            GuardReport::Repaired { key: Some(key) } => broken.retain(|other| *other != key),
            other => panic!("{line}: {other:?}"),
        }
    }
    let took = begun.elapsed();
    assert_eq!(sorted(&world.rules()), sorted(&held), "{line}");
    took
}

#[test]
fn what_is_lost_is_noticed_repaired_and_reported_within_a_second() {
    inside("isolation::watch::what_is_lost_is_noticed_repaired_and_reported_within_a_second", |world| {
        let mut guard = world.guard();
        guard.hold(1, &[isolation(1), isolation(2)]);
        // The server is gone: it goes on.
        guard.close_input();
        let (table, bridge) = (key(1).table(), key(1).bridge());
        let (nft, ip, tc) = (Layer::NftTable, Layer::IpRules, Layer::BridgeFilter);
        let flush = (0..3).map(|_| lose(&world, &guard, "nft flush ruleset", &[(1, nft), (2, nft)])).min().unwrap();
        assert!(flush < Duration::from_secs(1), "{flush:?}");
        eprintln!("nft flush ruleset: reported as repaired after {flush:?}");
        for (line, lost) in [
            (format!("nft delete table inet {table}"), vec![(1, nft)]),
            (format!("nft flush chain inet {table} enter"), vec![(1, nft)]),
            (format!("nft insert rule inet {table} forward accept"), vec![(1, nft)]),
            (format!("nft add chain inet {table} more"), vec![(1, nft)]),
            (format!("nft 'add table inet {table} {{ flags dormant; }}'"), vec![(1, nft)]),
            (format!("ip rule del pref 4 iif {bridge}"), vec![(1, ip)]),
            (format!("ip -6 rule del pref 4 iif {bridge}"), vec![(1, ip)]),
            (format!("ip rule del pref 3 iif {bridge}"), vec![(1, ip)]),
            (format!("ip rule del pref 2 iif {bridge} ipproto udp"), vec![(1, ip)]),
            (format!("ip rule del pref 1 iif {bridge} ipproto udp"), vec![(1, ip)]),
            (format!("ip rule add pref 1 iif {bridge} lookup local"), vec![(1, ip)]),
            ("ip rule del pref 10".to_owned(), vec![(1, ip), (2, ip)]),
            ("ip rule add pref 0 lookup local".to_owned(), vec![(1, ip), (2, ip)]),
            ("ip -6 rule add pref 0 lookup local".to_owned(), vec![(1, ip), (2, ip)]),
            (format!("tc qdisc del dev {bridge} clsact"), vec![(1, tc)]),
            (format!("tc filter add dev {bridge} ingress pref 1 bpf da bytecode '1,6 0 0 0'"), vec![(1, tc)]),
            (format!("ip link del {bridge}; ip link add {bridge} type bridge"), vec![(1, tc)]),
        ] {
            lose(&world, &guard, &line, &lost);
        }
        // Including `lookup local`, without which the host does not answer for itself.
        let held = sorted(&world.rules());
        world.shell("ip rule flush; ip rule add pref 32766 lookup main; ip rule add pref 32767 lookup default");
        let begun = Instant::now();
        while sorted(&world.rules()) != held {
            assert!(begun.elapsed() < super::world::PATIENCE, "{}", world.rules());
        }
    });
}

#[test]
fn it_does_what_it_understands_and_says_what_it_cannot_do() {
    inside("isolation::watch::it_does_what_it_understands_and_says_what_it_cannot_do", |world| {
        let before = world.rules();
        let mut guard = world.guard();
        guard.hold(1, &[isolation(1)]);
        let held = world.rules();

        // What Docker left of a network goes, once; what is in use, or held, or no bridge of ours, does not.
        let bridge = key(3).bridge();
        world.shell(&format!("ip link add {bridge} type bridge && ip link add acport type veth peer name acpeer"));
        let gone = GuardCommand { gone: vec![key(3), key(4)], ..command(1, &[isolation(1)]) };
        world.shell(&format!("ip link set acport master {bridge}"));
        guard.send(&gone);
        let GuardReport::Failed { revision: Some(1), key: None, message } = guard.report() else { panic!() };
        assert!(message.contains(&bridge) && message.contains("connected"), "{message}");
        assert!(world.shell("ip -br link").contains(&bridge));
        while guard.report() != GuardReport::Holding(1) {}
        world.shell("ip link delete acport");
        guard.send(&gone);
        assert_eq!(guard.report(), GuardReport::Holding(1));
        assert!(!world.shell("ip -br link").contains(&bridge));
        world.shell(&format!(
            "ip link add {bridge} type bridge; nft add table inet notice; nft delete table inet notice"
        ));
        assert_eq!(guard.report_within(Duration::from_millis(700)), None);
        assert!(world.shell("ip -br link").contains(&bridge), "a later one is left alone");
        world.shell(&format!("ip link delete {bridge}"));
        guard.send(&GuardCommand { gone: vec![key(1)], ..command(1, &[isolation(1)]) });
        let GuardReport::Failed { message, .. } = guard.report() else { panic!() };
        assert!(message.contains("twice"), "{message}");

        let good = serde_json::to_string(&command(9, &[isolation(1)])).unwrap();
        let long = format!("{good}{}", " ".repeat(2 << 20));
        let foreign = good.replace("\"server\":\"01234\"", "\"server\":\"fffff\"");
        let twice = serde_json::to_string(&command(9, &[isolation(1), isolation(1)])).unwrap();
        let injected = good.replace("172.30.1.1", "172.30.1.1; flush ruleset");
        for line in ["", "{}", "\u{1b}[31m", &good[1..], &injected, &long, &foreign, &twice] {
            guard.send_line(line);
            let GuardReport::Failed { key: None, message, .. } = guard.report() else { panic!("{line:.200}") };
            assert!(message.len() < 1000 && !message.contains('\u{1b}'), "{message}");
        }
        assert_eq!(world.rules(), held);

        // What is another server's, or nobody's, stays, and `lookup local` where the other needs it.
        world.shell(
            "nft add table inet agent_creds_fffff00000000; nft add table inet agent_creds_01234; nft add table inet other
             ip rule add pref 2 iif acfffff00000000 blackhole; ip rule add pref 3 iif ac01234 blackhole",
        );
        guard.hold(2, &[isolation(2), isolation(1)]);
        guard.hold(3, &[isolation(2)]);
        let rules = world.rules();
        assert!(rules.contains(&key(2).table()) && rules.contains(&format!("iif {} blackhole", key(2).bridge())));
        assert!(!rules.contains(&key(1).to_string()), "{rules}");
        guard.hold(4, &[]);
        let rules = world.rules();
        for kept in ["agent_creds_fffff00000000", "inet agent_creds_01234 ", "inet other", "acfffff00000000", "10:\t"] {
            assert!(rules.contains(kept), "{kept}: {rules}");
        }
        world.shell(
            "nft delete table inet agent_creds_fffff00000000; nft delete table inet agent_creds_01234
             nft delete table inet other; ip rule del pref 2; ip rule del pref 3",
        );
        guard.hold(5, &[]);
        assert_eq!(world.rules(), before);

        // A rule before ours would decide instead of them.
        world.shell("ip rule add pref 1 fwmark 7 lookup 100");
        guard.send(&command(6, &[isolation(1)]));
        let GuardReport::Failed { revision: Some(6), key: Some(of), message } = guard.report() else { panic!() };
        assert!(of == key(1) && message.contains("`priority 1 lookup 100`"), "{message}");
        world.shell("ip rule del pref 1 fwmark 7");
        assert_eq!(guard.report(), GuardReport::Repaired { key: Some(key(1)) });
        assert_eq!(guard.report(), GuardReport::Holding(6));
        guard.hold(7, &[]);
        assert_eq!(world.rules(), before);
        assert_eq!(guard.report_within(Duration::from_millis(1200)), None);
    });
}
