//! What a hostile root in the sandbox tries, and what comes of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::world::{Service, World, inside, isolation};

/// Ports of the services everywhere but at the gateways.
const PORTS: [u16; 7] = [22, 53, 80, 443, 853, 5353, 7000];

/// TCP to anything: the listener answers, or for port 53 the responder.
fn tcp() -> Vec<(Value, &'static str)> {
    let mut attempts = Vec::new();
    for to in ["8.8.8.8", "172.30.1.1", "192.0.2.1", "192.0.2.2", "169.254.169.254"] {
        for port in [22, 53, 80, 443, 853, 7000] {
            attempts
                .push((json!({ "kind": "tcp", "to": to, "port": port }), if port == 53 { "dns" } else { "listener" }));
        }
    }
    attempts
}

/// Queries to any server: the responder answers.
fn queries() -> Vec<(Value, &'static str)> {
    let servers = ["8.8.8.8", "172.30.1.1", "192.0.2.1", "192.0.2.2", "169.254.169.254"];
    servers.map(|to| (json!({ "kind": "udp", "to": to, "port": 53 }), "dns")).to_vec()
}

/// Everything else: nobody hears of it. `reached`: who does, when nothing isolates the sandbox.
fn forbidden() -> Vec<(Value, Option<&'static str>)> {
    let mut attempts: Vec<(Value, Option<&str>)> = Vec::new();
    // UDP to the host, by all its addresses, to the other sandbox, and outside: QUIC, mDNS, anything.
    for (to, at) in [
        ("172.30.1.1", "host"),
        ("192.0.2.1", "host"),
        ("172.30.2.1", "host"),
        ("172.30.2.2", "neighbour"),
        ("8.8.8.8", "outside"),
        ("169.254.169.254", "outside"),
        // Delivered to the host's own sockets before any routing rule is asked.
        ("224.0.0.1", "host"),
        ("255.255.255.255", "host"),
        ("172.30.1.255", "host"),
    ] {
        for port in [443, 5353, 7000] {
            attempts.push((json!({ "kind": "udp", "to": to, "port": port }), Some(at)));
        }
    }
    for to in ["224.0.0.1", "255.255.255.255"] {
        attempts.push((json!({ "kind": "udp", "to": to, "port": 53 }), Some("host")));
    }
    attempts.push((json!({ "kind": "udp", "to": "172.30.2.1", "port": 15053 }), Some("dns of the neighbour")));
    attempts.push((json!({ "kind": "udp", "to": "172.30.2.1", "port": 15001 }), Some("listener of the neighbour")));
    // Another sandbox, its gateway, listener and responder.
    for port in [22, 53, 443, 7000] {
        attempts.push((json!({ "kind": "tcp", "to": "172.30.2.1", "port": port }), Some("host")));
        attempts.push((json!({ "kind": "tcp", "to": "172.30.2.2", "port": port }), Some("neighbour")));
    }
    attempts.push((json!({ "kind": "udp", "to": "172.30.2.1", "port": 53 }), Some("host")));
    attempts.push((json!({ "kind": "udp", "to": "172.30.2.2", "port": 53 }), Some("neighbour")));
    attempts.push((json!({ "kind": "tcp", "to": "172.30.2.1", "port": 15001 }), Some("listener of the neighbour")));
    attempts.push((json!({ "kind": "tcp", "to": "172.30.2.1", "port": 15053 }), Some("dns of the neighbour")));
    // IPv6 in every form.
    for (to, at) in [
        ("fd30:1::1", "host"),
        ("fd90::1", "host"),
        ("fd30:2::1", "host"),
        ("fd30:2::2", "neighbour"),
        ("fd90::2", "outside"),
        ("2001:db8::8", "outside"),
    ] {
        for (kind, port) in [("tcp", 443), ("tcp", 22), ("udp", 53), ("udp", 443), ("tcp", 53)] {
            attempts.push((json!({ "kind": kind, "to": to, "port": port }), Some(at)));
        }
        attempts.push((json!({ "kind": "ping", "to": to, "port": 0 }), Some("echo")));
    }
    attempts.push((json!({ "kind": "udp", "to": "ff02::1%eth0", "port": 7000 }), Some("host")));
    // ICMP.
    for to in ["172.30.1.1", "192.0.2.1", "172.30.2.1", "172.30.2.2", "8.8.8.8", "169.254.169.254"] {
        attempts.push((json!({ "kind": "ping", "to": to, "port": 0 }), Some("echo")));
    }
    // Frames made by hand: sources that are someone else's, or nobody's.
    for source in ["172.30.2.2", "8.8.8.8", "192.0.2.9"] {
        for (to, at) in [("172.30.1.1", "host"), ("8.8.8.8", "outside"), ("172.30.2.2", "neighbour")] {
            // Nobody takes a packet from himself.
            let at = Some(at).filter(|_| source != to);
            for port in [7000, 53] {
                attempts.push((json!({ "kind": "frame", "to": to, "port": port, "source": source }), at));
            }
        }
    }
    for (source, to) in [("0.0.0.0", "255.255.255.255"), ("0.0.0.0", "224.0.0.1"), ("172.30.1.9", "224.0.0.1")] {
        attempts.push((json!({ "kind": "frame", "to": to, "port": 7000, "source": source }), Some("host")));
    }
    // What the host refuses by itself stays refused.
    for (source, to) in [
        ("172.30.1.1", "172.30.1.1"),
        ("127.0.0.1", "172.30.1.1"),
        ("172.30.1.2", "127.0.0.1"),
        ("172.30.1.2", "0.0.0.0"),
        ("224.0.0.1", "172.30.1.1"),
    ] {
        attempts.push((json!({ "kind": "frame", "to": to, "port": 7000, "source": source }), None));
    }
    attempts.push((json!({ "kind": "frame", "to": "fd30:1::1", "port": 7000, "source": "fd30:1::2" }), Some("host")));
    attempts
        .push((json!({ "kind": "frame", "to": "2001:db8::8", "port": 7000, "source": "fd30:2::2" }), Some("outside")));
    attempts.push((json!({ "kind": "frame", "to": "ff02::1", "port": 7000, "source": "fd30:1::2" }), Some("host")));
    // Priority-tagged, a fragment, and protocols that carry others.
    let own = |mut attempt: Value| {
        attempt["kind"] = "frame".into();
        attempt["source"] = "172.30.1.2".into();
        attempt
    };
    attempts.push((own(json!({ "to": "172.30.1.1", "port": 7000, "vlan": true })), Some("host")));
    attempts.push((own(json!({ "to": "8.8.8.8", "port": 7000, "fragment": 0x2000 })), Some("packets outside")));
    attempts.push((own(json!({ "to": "8.8.8.8", "port": 7000, "fragment": 0x0010 })), Some("packets outside")));
    for protocol in [4, 41, 47, 50, 132, 253] {
        attempts.push((own(json!({ "to": "8.8.8.8", "port": 0, "proto": protocol })), Some("packets outside")));
    }
    attempts
}

/// The attempts with a tag each.
fn tagged<T: Clone>(prefix: &str, attempts: &[(Value, T)]) -> (Vec<Value>, BTreeMap<String, T>) {
    let mut all = Vec::new();
    let mut expected = BTreeMap::new();
    for (at, (attempt, expect)) in attempts.iter().enumerate() {
        let mut attempt = attempt.clone();
        // The tag says what it was, in the message of a test that fails.
        let source = attempt["source"].as_str().map(|source| format!(" from {source}")).unwrap_or_default();
        let (kind, to) = (attempt["kind"].as_str().unwrap(), attempt["to"].as_str().unwrap());
        let tag = format!("<{prefix}.{at:03} {kind} {to} {}{source}>", attempt["port"]);
        attempt["tag"] = tag.clone().into();
        all.push(attempt);
        expected.insert(tag, expect.clone());
    }
    (all, expected)
}

struct Services(Vec<(&'static str, Service)>);

impl Services {
    fn start(world: &World) -> Self {
        Self(vec![
            ("host", world.serve("host", "host", "::", &PORTS)),
            ("listener", world.serve("host", "listener", "172.30.1.1", &[15001])),
            ("dns", world.serve("host", "dns", "172.30.1.1", &[15053])),
            ("listener of the neighbour", world.serve("host", "listener of the neighbour", "172.30.2.1", &[15001])),
            ("dns of the neighbour", world.serve("host", "dns of the neighbour", "172.30.2.1", &[15053])),
            ("neighbour", world.serve("neighbour", "neighbour", "::", &PORTS)),
            ("outside", world.serve("outside", "outside", "::", &PORTS)),
        ])
    }

    /// Everything that arrived anywhere, after everything that is under way has: packets keep their order.
    fn arrived(&self, world: &World, mark: &str) -> Vec<(&'static str, String)> {
        let from_host = |to: &str| json!({ "kind": "udp", "to": to, "port": 7000, "tag": format!("{mark} to {to}") });
        let direct = json!({ "kind": "tcp", "to": "172.30.1.1", "port": 15001, "tag": mark });
        world.attempt("sandbox", &[direct]);
        world.attempt("host", &[from_host("8.8.8.8"), from_host("127.0.0.1")]);
        let mut all = Vec::new();
        for (name, service) in &self.0 {
            let arrived = match *name {
                // The last one has the mark from the others' way; here the guard may not let it pass.
                "host" | "listener" | "outside" => service.arrived_until(mark),
                _ => service.arrived(),
            };
            all.extend(arrived.into_iter().filter(|what| !what.contains(mark)).map(|what| (*name, what)));
        }
        all
    }
}

/// Whether a captured packet is the sandbox's: by its source, or by a tag in it.
fn is_the_sandboxs(packet: &str, stage: &str) -> bool {
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let tagged = packet.contains(&hex(&format!("<{stage}")));
    let sources = ["ac1e0102", "fd300001000000000000000000000002"];
    tagged
        || sources.iter().any(|source| {
            packet.get(16..).is_some_and(|rest| rest.starts_with(source) || rest[8..].starts_with(source))
        })
}

/// Makes the attempts of `allowed` and `forbidden`; the former are answered as they say, of the latter nobody hears.
fn assert_isolated(world: &World, services: &Services, stage: &str, allowed: &[(Value, &str)]) {
    let (all, expected) = tagged(&format!("{stage}+"), allowed);
    let answers = world.attempt("sandbox", &all);
    for (tag, by) in &expected {
        assert_eq!(answers[tag].as_deref(), Some(*by), "{stage}: {tag}");
    }
    let mut attempts = forbidden();
    // What is not redirected is forbidden.
    if !allowed.iter().any(|(attempt, _)| attempt["to"] == "8.8.8.8") {
        attempts.extend(tcp().into_iter().chain(queries()).map(|(attempt, _)| (attempt, None)));
    }
    let (all, _) = tagged(&format!("{stage}-"), &attempts);
    let answers = world.attempt("sandbox", &all);
    let answered: Vec<_> = answers.iter().filter(|(tag, by)| by.is_some() && !tag.contains(" frame ")).collect();
    assert!(answered.is_empty(), "{stage}: {answered:?}");
    let mark = format!("mark of {stage}");
    for (at, what) in services.arrived(world, &mark) {
        let hers = what.contains(&format!("<{stage}+")) && ["listener", "dns"].contains(&at);
        let packet = !what.contains('<');
        assert!(hers || packet && !is_the_sandboxs(&what, stage), "{stage}: at {at} arrived {what}");
    }
}

#[test]
fn a_sandbox_reaches_its_two_ports_alone_whichever_layer_is_lost() {
    inside("isolation::traffic::a_sandbox_reaches_its_two_ports_alone_whichever_layer_is_lost", |world| {
        let services = Services::start(&world);
        let before = world.rules();

        // Without isolation, the attempts do what they are for: they could fail this test.
        let (all, expected) = tagged("open", &forbidden());
        let answers = world.attempt("sandbox", &all);
        let arrived = services.arrived(&world, "mark of open");
        let number = |tag: &str| tag.split(' ').next().unwrap().to_owned();
        for (tag, by) in expected {
            let Some(by) = by else { continue };
            let seen: BTreeSet<&str> =
                arrived.iter().filter(|(_, what)| what.contains(&number(&tag))).map(|(at, _)| *at).collect();
            let reached = match by {
                "echo" => answers[&tag].as_deref() == Some("echo"),
                "packets outside" => arrived.iter().any(|(at, what)| {
                    let start: String = number(&tag).bytes().map(|byte| format!("{byte:02x}")).collect();
                    *at == "outside" && what.contains(&start)
                }),
                at => seen.contains(at),
            };
            assert!(reached, "without isolation, {tag} reaches {by}; {:?}, seen at {seen:?}", answers[&tag]);
        }

        let mut guard = world.guard();
        guard.hold(1, &[isolation(1), isolation(2)]);
        let redirected: Vec<(Value, &str)> = tcp().into_iter().chain(queries()).collect();
        assert_isolated(&world, &services, "both", &redirected);

        // From elsewhere, the host included, nobody gets to the sandbox, nor to its gateway.
        let inner = world.serve("sandbox", "sandbox", "::", &PORTS);
        for space in ["host", "outside", "neighbour"] {
            let mut attempts = Vec::new();
            for (kind, to, port) in [
                ("tcp", "172.30.1.2", 7000),
                ("udp", "172.30.1.2", 7000),
                ("tcp", "fd30:1::2", 7000),
                ("udp", "fd30:1::2", 53),
                ("ping", "172.30.1.2", 0),
            ] {
                attempts.push((json!({ "kind": kind, "to": to, "port": port }), None::<&str>));
            }
            // The neighbour's own listener answers whatever it asks for.
            if space != "neighbour" {
                let ports = [("tcp", 15001), ("tcp", 15053), ("udp", 15053), ("tcp", 22), ("tcp", 80), ("udp", 53)];
                for (kind, port) in ports.into_iter().chain([("ping", 0)]) {
                    attempts.push((json!({ "kind": kind, "to": "172.30.1.1", "port": port }), None));
                }
            }
            for (tag, by) in world.attempt(space, &tagged(space, &attempts).0) {
                let own = by.as_deref().is_some_and(|by| by.ends_with("of the neighbour"));
                assert!(by.is_none() || own, "{space}: {tag} was answered by {by:?}");
            }
        }
        services.arrived(&world, "mark of others");
        let arrived: Vec<String> = inner.arrived().into_iter().filter(|what| what.contains('<')).collect();
        assert!(arrived.is_empty(), "{arrived:?}");
        drop(inner);

        // Another program's translation of addresses, as Docker's published ports have it, does not come first.
        world.shell(
            "nft 'table ip published { chain pre { type nat hook prerouting priority dstnat; \
             tcp dport 80 dnat to 192.0.2.2:80; udp dport 53 dnat to 192.0.2.2:53; udp dport 443 dnat to 192.0.2.2:443; }; }'",
        );
        assert_isolated(&world, &services, "published", &redirected);
        world.shell("nft delete table ip published");

        // The first layer lost, and nobody there to repair it: the second is enough.
        guard.signal("-STOP");
        world.shell("nft flush ruleset");
        let own = [("tcp", 15001, "listener"), ("tcp", 15053, "dns"), ("udp", 15053, "dns")];
        let own = own.map(|(kind, port, by)| (json!({ "kind": kind, "to": "172.30.1.1", "port": port }), by));
        assert_isolated(&world, &services, "flushed", &own);

        // The second layer lost: the first is enough.
        guard.signal("-CONT");
        guard.hold_again(2);
        guard.signal("-STOP");
        world.shell(&format!(
            "for pref in 1 1 1 2 2 2 2 3 3 4 4; do ip rule del pref $pref; done; for i in 1 2; do ip -6 rule del pref 4; done
             ip rule add pref 0 lookup local; ip -6 rule add pref 0 lookup local
             tc qdisc del dev {0} clsact",
            isolation(1).key().bridge()
        ));
        world.shell("ip rule del pref 1; ip rule del pref 1; ip rule del pref 1; ! ip rule show | grep -q 'iif ac'");
        assert_isolated(&world, &services, "rules lost", &redirected);

        // Killed: what is in force stays. A new guard adopts it, and takes it away when told so.
        guard.signal("-CONT");
        guard.hold_again(3);
        let held = world.rules();
        guard.signal("-KILL");
        assert_isolated(&world, &services, "killed", &redirected);
        assert_eq!(world.rules(), held);
        let mut guard = world.guard();
        guard.hold(4, &[isolation(1), isolation(2)]);
        assert_eq!(world.rules(), held);
        guard.hold(5, &[]);
        assert_eq!(world.rules(), before);
    });
}
