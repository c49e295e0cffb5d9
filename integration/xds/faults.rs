//! Clients that stall, freeze, vanish or all come back at once, and a server that dies: whoever is there ends up with what it
//! should hold, and nobody is held up by another.
//!
//! The servers are processes of their own: this test program, started with another task. So are the clients that freeze.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};
use serde_json::{Value, json};

use super::clients::fleet::{Address, Common, Fleet};
use super::clients::http2;
use super::clients::messages::{Kind, Proto};
use super::clients::server::{Control, Server, resident};

/// For what has to come, on a machine that has much else to do.
const DEADLINE: Duration = Duration::from_secs(120);
/// Says which server a process of this test program is to be: its arguments, one a line.
const SERVE: &str = "XDS_TEST_SERVE";
/// Says which clients a process of this test program is to be: address and number.
const CLIENTS: &str = "XDS_TEST_CLIENTS";
const UPSTREAMS: usize = 5;

/// Not a test: what a process of this program does when it is to be a server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_a_server() {
    let Some(args) = std::env::var_os(SERVE) else { return };
    raise_open_files();
    end_with_the_test();
    let args = args.into_string().unwrap();
    let args = std::iter::once("xds-target").chain(args.lines());
    let args = <super::server::Args as clap::Parser>::parse_from(args);
    let _server = super::server::Server::start(&args).await.unwrap();
    std::future::pending::<()>().await;
}

/// Not a test either: what a process of this program does when it is to be clients.
#[test]
fn as_clients() {
    let Ok(args) = std::env::var(CLIENTS) else { return };
    end_with_the_test();
    let (address, count) = args.split_once(' ').unwrap();
    let mut fleet = fleet(Proto::Delta);
    fleet.connect(&address.parse().unwrap(), count.parse().unwrap(), DEADLINE).unwrap();
    loop {
        fleet.idle(Duration::from_secs(1)).unwrap();
    }
}

fn end_with_the_test() {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
}

/// A process of this program with another task.
fn process(task: &str, variable: &str, value: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([task, "--exact", "--nocapture"]).env(variable, value);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn spawn_server(args: &[OsString]) -> Command {
    let lines: Vec<_> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
    process("xds::faults::as_a_server", SERVE, &lines.join("\n"))
}

/// A server on a unix socket: one that starts anew finds its address free.
fn serve(folder: &Path) -> Server {
    raise_open_files();
    Server::start(&spawn_server, folder, true, UPSTREAMS).unwrap()
}

fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

fn name(upstream: usize) -> String {
    format!("upstream-{upstream}.example.com")
}

fn fleet(proto: Proto) -> Fleet {
    let names = (0..UPSTREAMS).map(name).collect();
    let cluster = "load".to_owned();
    Fleet::new(Common { proto, cluster, names, brought: Default::default(), versions: Default::default() }).unwrap()
}

/// Sets the route of an upstream to a revision, with this much padding.
fn edit(revision: u64, size: usize) -> Value {
    let route = name(0);
    json!({ "op": "edit", "cluster": "load", "set": [{
        "kind": "route", "name": route, "revision": revision, "size": size, "refs": [["cluster", route]],
    }] })
}

/// Lets `fleet` go on until the server says that so many streams are there, and as many hold all they should.
fn until_converged(fleet: &mut Fleet, control: &mut Control, streams: u64) {
    let begun = Instant::now();
    loop {
        let nodes = control.ask(&json!({ "op": "nodes", "cluster": "load" })).unwrap();
        if nodes["streams"] == streams && nodes["converged"] == streams {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "{streams} streams are to converge: {nodes}");
        fleet.idle(Duration::from_millis(20)).unwrap();
    }
}

fn socket(server: &Server) -> &Path {
    match &server.address {
        Address::Unix(path) => path,
        Address::Tcp(address) => panic!("a server on {address}"),
    }
}

#[test]
fn a_tenth_that_does_not_read_holds_nobody_up() {
    const CLIENTS: usize = 1_000;
    const STALLED: usize = 100;
    const SIZE: usize = 64 << 10;
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    let mut control = Control::open(&server.control).unwrap();
    let mut fleet = fleet(Proto::Delta);
    fleet.connect(&server.address, CLIENTS, DEADLINE).unwrap();
    until_converged(&mut fleet, &mut control, CLIENTS as u64);
    fleet.stall(STALLED, true).unwrap();
    let before = resident(server.pid()).unwrap();
    for revision in 2..12 {
        fleet.mark(Kind::Route);
        control.ask(&edit(revision, SIZE)).unwrap();
        fleet.until(CLIENTS - STALLED, DEADLINE).unwrap();
    }
    let after = resident(server.pid()).unwrap();
    // Ten editions for a hundred clients would be 64 MB.
    assert!(after.saturating_sub(before) < 40 << 20, "{} MB more", (after - before) >> 20);
    // Once they read again they get the latest, and not all that was in between.
    fleet.mark(Kind::Route);
    fleet.stall(STALLED, false).unwrap();
    until_converged(&mut fleet, &mut control, CLIENTS as u64);
    assert!(fleet.heard.responses <= 3 * STALLED, "{:?}", fleet.heard);
    assert_eq!(fleet.over, 0);
}

/// A process that is ended with the test, frozen or not.
struct Clients(Child);

impl Clients {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_frozen_process_holds_nobody_up_and_catches_up() {
    const EACH: u64 = 50;
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    let mut control = Control::open(&server.control).unwrap();
    let place = format!("unix:{} {EACH}", socket(&server).display());
    let frozen = Clients(process("xds::faults::as_clients", CLIENTS, &place).spawn().unwrap());
    let mut fleet = fleet(Proto::Delta);
    fleet.connect(&server.address, EACH as usize, DEADLINE).unwrap();
    until_converged(&mut fleet, &mut control, 2 * EACH);
    frozen.signal(Signal::STOP);
    for revision in 2..12 {
        fleet.mark(Kind::Route);
        control.ask(&edit(revision, 1 << 20)).unwrap();
        fleet.until(EACH as usize, DEADLINE).unwrap();
    }
    let nodes = control.ask(&json!({ "op": "nodes", "cluster": "load" })).unwrap();
    assert!(nodes["converged"].as_u64().unwrap() <= EACH, "{nodes}");
    frozen.signal(Signal::CONT);
    until_converged(&mut fleet, &mut control, 2 * EACH);
}

#[test]
fn a_client_that_vanished_without_a_word_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    let mut control = Control::open(&server.control).unwrap();
    let mut fleet = fleet(Proto::Delta);
    fleet.connect(&server.address, 1, DEADLINE).unwrap();
    // Its machine lost power: nothing is answered any more, pings neither, and nothing says that it is over.
    let mut gone = UnixStream::connect(socket(&server)).unwrap();
    gone.write_all(&http2::opening(Proto::Delta.path(), 65_535)).unwrap();
    let mut first = Vec::new();
    fleet.common.first(Kind::Cluster, Some(7), false, &mut first);
    gone.write_all(&first).unwrap();
    let streams = |control: &mut Control| {
        control.ask(&json!({ "op": "nodes", "cluster": "load" })).unwrap()["streams"].as_u64().unwrap()
    };
    let begun = Instant::now();
    let (mut was_there, mut now) = (false, 0);
    while !was_there || now > 1 {
        now = streams(&mut control);
        was_there |= now == 2;
        assert!(begun.elapsed() < DEADLINE, "{now} streams, {was_there}");
        fleet.idle(Duration::from_millis(100)).unwrap();
    }
    // The other, which answers, goes on.
    fleet.mark(Kind::Route);
    control.ask(&edit(2, 0)).unwrap();
    fleet.until(1, DEADLINE).unwrap();
    drop(gone);
}

#[test]
fn a_server_killed_between_pushes_comes_back_and_all_converge() {
    const CLIENTS: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let mut server = serve(folder.path());
    let mut fleet = fleet(Proto::Delta);
    fleet.connect(&server.address, CLIENTS, DEADLINE).unwrap();
    for round in 0..3 {
        let mut control = Control::open(&server.control).unwrap();
        // Some have been sent it when the server dies, and some have not.
        fleet.mark(Kind::Route);
        control.ask(&edit(10 + round, 100 << 10)).unwrap();
        fleet.until(CLIENTS / 4, DEADLINE).unwrap();
        server.kill().unwrap();
        fleet.close();
        server = serve(folder.path());
        let mut control = Control::open(&server.control).unwrap();
        control.ask(&edit(20 + round, 100 << 10)).unwrap();
        fleet.mark(Kind::Route);
        fleet.reconnect(&server.address, CLIENTS).unwrap();
        fleet.until(CLIENTS, DEADLINE).unwrap();
        until_converged(&mut fleet, &mut control, CLIENTS as u64);
        assert_eq!(fleet.over, 0);
    }
}

#[test]
fn two_thousand_come_back_at_once_and_are_resent_only_what_changed() {
    const CLIENTS: usize = 2_000;
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    let mut fleet = fleet(Proto::Delta);
    fleet.connect(&server.address, CLIENTS, DEADLINE).unwrap();
    server.kill().unwrap();
    fleet.close();
    let server = serve(folder.path());
    let mut control = Control::open(&server.control).unwrap();
    // Somebody who is there already is served meanwhile.
    let mut early = self::fleet(Proto::Delta);
    early.connect(&server.address, 1, DEADLINE).unwrap();
    control.ask(&edit(2, 0)).unwrap();
    fleet.mark(Kind::Route);
    early.mark(Kind::Route);
    fleet.reconnect(&server.address, CLIENTS).unwrap();
    early.until(1, DEADLINE).unwrap();
    fleet.until(CLIENTS, DEADLINE).unwrap();
    until_converged(&mut fleet, &mut control, CLIENTS as u64 + 1);
    assert_eq!((fleet.heard.resources, fleet.over), (CLIENTS, 0), "one each: what was edited");
}
