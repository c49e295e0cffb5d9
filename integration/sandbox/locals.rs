//! Other users of the host: what is a sandbox's alone, they do not reach at its gateway's address either.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::yard::{DEADLINE, Yard, docker, host, run_within, wait_until};

const POLICY: &str = "[upstream.\"api.example.com\"]\naddress = \"127.0.0.1:9\"\n";

/// Tries everything at once; says which of it was answered, and how.
const KNOCK: &str = r#"
import json, os, socket, sys, threading
gateway, listener, dns, user = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
# Here, for the interpreter itself may be one that this user cannot read.
if user != os.getuid():
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    assert os.getresuid() == (user, user, user)
query = b'\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03api\x07example\x03com\x00\x00\x01\x00\x01'
opening = b'POST /open HTTP/1.1\r\nHost: host.agent-creds\r\nContent-Length: 19\r\n\r\nhttps://a.example/x'
chrome = b'GET /json/version HTTP/1.1\r\nHost: localhost:9222\r\n\r\n'
framed = bytes([0, len(query)]) + query
answers = {}
def attempt(name, kind, source, port, data):
    with socket.socket(socket.AF_INET, kind) as end:
        end.settimeout(2)
        try:
            if source:
                end.bind((source, 0))
            end.connect((gateway, port))
            end.sendall(data)
            answers[name] = end.recv(4096).hex() or 'closed'
        except OSError:
            pass
threads = []
for source in ['', '127.0.0.1', gateway]:
    for name, kind, port, data in [
        ('open', socket.SOCK_STREAM, listener, opening), ('chrome', socket.SOCK_STREAM, listener, chrome),
        ('open at 80', socket.SOCK_STREAM, 80, opening), ('tls', socket.SOCK_STREAM, 443, b'\x16\x03\x01'),
        ('dns', socket.SOCK_DGRAM, dns, query), ('dns by tcp', socket.SOCK_STREAM, dns, framed),
        ('dns at 53', socket.SOCK_DGRAM, 53, query), ('dns at 53 by tcp', socket.SOCK_STREAM, 53, framed),
    ]:
        threads.append(threading.Thread(target=attempt, args=(f'{name} from {source}'.strip(), kind, source, port, data)))
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(answers))
"#;

struct Door {
    gateway: Ipv4Addr,
    /// Where the sandbox's listener is, and its responder.
    ports: (String, String),
}

impl Door {
    fn of(yard: &Yard, project: &str) -> Self {
        let (_, gateway) = yard.addresses(project);
        let table = host(&["nft", "list", "table", "inet", &yard.key(project).table()]);
        let to = |what: &str| {
            let from = format!("{what} dnat ip to {gateway}:");
            let line =
                table.lines().find_map(|line| Some(line.split_once(&from)?.1)).unwrap_or_else(|| panic!("{table}"));
            line.trim().to_owned()
        };
        Self { gateway, ports: (to("meta l4proto tcp"), to("udp dport 53")) }
    }

    /// What a user of the host is answered there.
    fn knock(&self, user: u32) -> BTreeSet<String> {
        let mut command = Command::new("python3");
        command.args(["-c", KNOCK, &self.gateway.to_string(), &self.ports.0, &self.ports.1, &user.to_string()]);
        let output = run_within(&mut command, DEADLINE);
        assert!(output.status.success(), "{output:?}");
        let answers: Value = serde_json::from_str(&output.stdout).unwrap();
        answers.as_object().unwrap().keys().cloned().collect()
    }

    fn is_closed(&self, when: &str) {
        for user in [65534, 0] {
            assert_eq!(self.knock(user), BTreeSet::new(), "user {user} {when}");
        }
    }
}

/// The sandbox itself is served: its listener speaks, and its responder.
fn works_inside(yard: &Yard, project: &str) {
    let script = "getent hosts api.example.com && python3 -c 'import http.client
connection = http.client.HTTPConnection(open(\"/etc/resolv.conf\").read().split()[1], 80, timeout=20)
connection.request(\"POST\", \"/open\", b\"https://a.example/x\", {\"Host\": \"host.agent-creds\"})
print(connection.getresponse().status)'";
    let output = yard.run(project, script);
    assert!(output.status.success() && output.stdout.trim_end().ends_with("403"), "{output:?}\n{}", yard.log());
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

/// A process that goes on in any case.
struct Stopped(u32);

impl Stopped {
    fn now(pid: u32) -> Self {
        signal(pid, Signal::STOP);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, Signal::CONT);
    }
}

#[test]
fn no_user_of_the_host_reaches_a_sandboxs_listener() {
    let yard = Yard::new();
    let project = yard.project("locals", "runc", POLICY);
    yard.launch(&project);
    let door = Door::of(&yard, &project);
    door.is_closed("at first");
    works_inside(&yard, &project);

    // With the guard held and the table gone they do get there: so the attempts are what they should be.
    let table = yard.key(&project).table();
    let guard = yard.containers("guard");
    let pid: u32 = docker(&["inspect", "-f", "{{.State.Pid}}", &guard[0]]).trim().parse().unwrap();
    let kept = Stopped::now(pid);
    host(&["nft", "delete", "table", "inet", &table]);
    let open = door.knock(65534);
    for what in ["open from", "chrome from", "dns from", "dns by tcp from"] {
        assert!(open.contains(what), "{what}: {open:?}");
    }
    drop(kept);
    let closed_again = |when: &str| {
        wait_until(&format!("the door is closed {when}"), DEADLINE, || {
            let open = door.knock(65534);
            let running = yard.listed(&project)["state"] == "running";
            if open.is_empty() && running { Ok(()) } else { Err(format!("{open:?}\n{}", yard.log())) }
        });
        door.is_closed(when);
        works_inside(&yard, &project);
    };
    closed_again("after the table was lost");

    // A table that lets the host's own programs pass, and is otherwise whole, is not the one that is to be in force.
    let repaired = || yard.metric("agent_creds_sandbox_isolation_total{event=\"repaired\"}");
    let before = repaired();
    host(&["nft", "insert", "rule", "inet", &table, "arrive", "iifname", "lo", "accept"]);
    wait_until("it is noticed", Duration::from_secs(10), || if repaired() > before { Ok(()) } else { Err(yard.log()) });
    closed_again("after a rule was put before it");
    yard.stop(&project);
    yard.wait_until_nothing_remains("after stop");
}
