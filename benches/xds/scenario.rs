//! One fleet of clients, measured in every way that was asked for.

use std::ffi::OsString;
use std::fmt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;
use serde_json::{Value, json};

use crate::Load;
use crate::clients::fleet::{Common, Fleet};
use crate::clients::messages::{Kind, Proto};
use crate::clients::server::{Control, Server, cpu, resident};

/// For what has to come.
const PATIENCE: Duration = Duration::from_secs(120);
/// Edits per round of which p50 and p99 are taken.
const EDITS: usize = 10;
/// Edits over which processor time is taken.
const CPU_EDITS: usize = 50;

/// What was measured. Times are in milliseconds, sizes in bytes.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    clients: u64,
    proto: &'static str,
    upstreams: usize,
    cold_start_ms: f64,
    rss_per_client: Option<u64>,
    /// From saying the edit to the ACK: of the middle client, of 99 in 100, and of the last.
    edit_to_ack_ms: Option<Spread>,
    /// From the first response that any client saw.
    push_to_ack_ms: Option<Spread>,
    server_cpu_us_per_push: Option<f64>,
    client_cpu_us_per_push: Option<f64>,
    /// The others' p99 while some do not read, by the p99 of the same while all do.
    stalled_p99_ratio: Option<f64>,
    storm: Option<Storm>,
}

/// Over clients and edits; medians of the rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spread {
    p50: f64,
    p99: f64,
    max: f64,
}

/// All clients come back at once to a server that starts anew.
#[derive(Debug, Serialize)]
pub(crate) struct Storm {
    /// Until all hold an edit that was made meanwhile.
    until_all_hold_it_ms: f64,
    resources_resent_per_client: f64,
    bytes_resent_per_client: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} clients, {} upstreams", self.clients, self.proto, self.upstreams)?;
        writeln!(f, "  cold start                      {:>9.0} ms", self.cold_start_ms)?;
        if let Some(bytes) = self.rss_per_client {
            writeln!(f, "  server memory per idle client   {:>9.1} KB", bytes as f64 / 1e3)?;
        }
        for (what, spread) in [("edit -> ACK", self.edit_to_ack_ms), ("first push -> ACK", self.push_to_ack_ms)] {
            if let Some(Spread { p50, p99, max }) = spread {
                writeln!(f, "  {what:<19} p50 / p99 / max {p50:>9.1} / {p99:.1} / {max:.1} ms")?;
            }
        }
        if let (Some(server), Some(client)) = (self.server_cpu_us_per_push, self.client_cpu_us_per_push) {
            writeln!(f, "  processor time per client push  {server:>9.1} us (the client itself: {client:.1} us)")?;
        }
        if let Some(ratio) = self.stalled_p99_ratio {
            writeln!(f, "  p99 with slow readers, ratio    {ratio:>9.3}")?;
        }
        if let Some(storm) = &self.storm {
            writeln!(f, "  all back after a restart        {:>9.0} ms", storm.until_all_hold_it_ms)?;
            let (resources, bytes) = (storm.resources_resent_per_client, storm.bytes_resent_per_client);
            writeln!(
                f,
                "  resent per client               {resources:>9.2} resources, {bytes:.0} bytes (one was edited)"
            )?;
        }
        Ok(())
    }
}

/// The server under load, and how to edit it.
struct Bench<'a> {
    load: &'a Load,
    fleet: Fleet,
    control: Option<Control>,
    revision: u64,
}

pub(crate) fn run(load: &Load) -> anyhow::Result<Report> {
    let folder = std::env::temp_dir().join(format!("xds-load-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = run_in(load, &folder);
    let _ = std::fs::remove_dir_all(&folder);
    result
}

fn run_in(load: &Load, folder: &std::path::Path) -> anyhow::Result<Report> {
    let server = match load.target {
        Some(_) => None,
        None => Some(Server::start(&own, folder, load.unix, load.upstreams)?),
    };
    let address = load.target.clone().or_else(|| server.as_ref().map(|server| server.address.clone()));
    let address = address.context("no server")?;
    let control = server.as_ref().map(|server| &server.control).or(load.control.as_ref());
    let control = control.map(|path| Control::open(path)).transpose()?;
    let pid = server.as_ref().map(Server::pid).or(load.pid);
    let common = Common {
        proto: load.proto,
        cluster: load.cluster.clone(),
        names: (0..load.upstreams).map(upstream).collect(),
        brought: Default::default(),
        versions: Default::default(),
    };
    let mut bench = Bench { load, fleet: Fleet::new(common)?, control, revision: 1 };
    let mut report = Report {
        clients: load.clients,
        proto: if load.proto == Proto::Delta { "delta" } else { "sotw" },
        upstreams: load.upstreams,
        ..Default::default()
    };
    let clients = load.clients as usize;

    // One client makes the server encode everything, and the allocator take what it needs for that.
    bench.fleet.connect(&address, 1, PATIENCE)?;
    bench.fleet.idle(Duration::from_millis(300))?;
    let floor = pid.map(resident).transpose()?;
    report.cold_start_ms = ms(bench.fleet.connect(&address, clients, PATIENCE)?);
    bench.fleet.idle(Duration::from_secs(2))?;
    if let (Some(pid), Some(floor)) = (pid, floor) {
        report.rss_per_client = Some(resident(pid)?.saturating_sub(floor) / load.clients);
    }
    if bench.control.is_some() {
        let (edit, push) = bench.rounds(0)?;
        (report.edit_to_ack_ms, report.push_to_ack_ms) = (Some(edit), Some(push));
        if let Some(pid) = pid {
            let (server, own) = bench.processor_time(pid)?;
            (report.server_cpu_us_per_push, report.client_cpu_us_per_push) = (Some(server), Some(own));
        }
        if load.stalled > 0 {
            report.stalled_p99_ratio = Some(bench.stalled()?);
        }
    }
    if let (true, Some(server)) = (load.storm, server) {
        report.storm = Some(bench.storm(server, folder)?);
    }
    anyhow::ensure!(bench.fleet.over == 0, "{} clients lost their stream", bench.fleet.over);
    Ok(report)
}

/// The server is this very program.
fn own(args: &[OsString]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "xds-load".into()));
    command.arg("serve").args(args);
    command
}

fn upstream(number: usize) -> String {
    format!("upstream-{number}.example.com")
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Bench<'_> {
    fn operation(&mut self) -> Value {
        self.revision += 1;
        let name = upstream(0);
        json!({ "op": "edit", "cluster": self.load.cluster, "set": [{
            "kind": "route", "name": name, "revision": self.revision, "size": 300, "refs": [["cluster", name]],
        }] })
    }

    /// Edits one route, and waits until all but `stalled` clients have accepted it: the times from the edit, and the first.
    fn edit(&mut self, stalled: usize) -> anyhow::Result<(Vec<Duration>, Duration)> {
        let operation = self.operation();
        let control = self.control.as_mut().context("no control socket")?;
        self.fleet.mark(Kind::Route);
        let begun = Instant::now();
        control.say(&operation)?;
        self.fleet.until(self.fleet.len() - stalled, PATIENCE)?;
        let times = self.fleet.times(begun);
        control.answer()?;
        Ok(times)
    }

    fn round(&mut self, stalled: usize) -> anyhow::Result<(Spread, Spread)> {
        let (mut from_edit, mut from_push) = (Vec::new(), Vec::new());
        for _ in 0..EDITS {
            let (times, first) = self.edit(stalled)?;
            from_push.extend(times.iter().map(|time| ms(time.saturating_sub(first))));
            from_edit.extend(times.into_iter().map(ms));
            self.fleet.idle(Duration::from_millis(20))?;
        }
        Ok((Spread::of(from_edit), Spread::of(from_push)))
    }

    fn rounds(&mut self, stalled: usize) -> anyhow::Result<(Spread, Spread)> {
        // The first edit warms caches on both sides.
        self.edit(stalled)?;
        let rounds = (0..self.load.rounds).map(|_| self.round(stalled)).collect::<anyhow::Result<Vec<_>>>()?;
        let (edit, push): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
        Ok((Spread::median(&edit), Spread::median(&push)))
    }

    /// Microseconds per client and push: of the server, and of this process.
    fn processor_time(&mut self, pid: u32) -> anyhow::Result<(f64, f64)> {
        let own = std::process::id();
        let before = (cpu(pid)?, cpu(own)?);
        for _ in 0..CPU_EDITS {
            self.edit(0)?;
        }
        let after = (cpu(pid)?, cpu(own)?);
        let pushes = (CPU_EDITS * self.fleet.len()) as f64;
        let each = |before: Duration, after: Duration| (after - before).as_secs_f64() * 1e6 / pushes;
        Ok((each(before.0, after.0), each(before.1, after.1)))
    }

    /// With and without slow readers in turn: the p99 of the others.
    fn stalled(&mut self) -> anyhow::Result<f64> {
        let stalled = self.fleet.len() * self.load.stalled as usize / 100;
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..self.load.rounds {
            without.push(self.round(0)?.0.p99);
            self.fleet.stall(stalled, true)?;
            with.push(self.round(stalled)?.0.p99);
            self.fleet.stall(stalled, false)?;
            // They catch up with one push.
            self.fleet.idle(Duration::from_millis(500))?;
        }
        Ok(median(with) / median(without))
    }

    fn storm(&mut self, server: Server, folder: &std::path::Path) -> anyhow::Result<Storm> {
        let clients = self.fleet.len();
        self.control = None;
        server.kill()?;
        self.fleet.close();
        let server = Server::start(&own, folder, self.load.unix, self.load.upstreams)?;
        let operation = self.operation();
        Control::open(&server.control)?.ask(&operation)?;
        self.fleet.mark(Kind::Route);
        let begun = Instant::now();
        self.fleet.reconnect(&server.address, clients)?;
        self.fleet.until(clients, PATIENCE)?;
        let took = begun.elapsed();
        self.fleet.idle(Duration::from_millis(500))?;
        let heard = self.fleet.heard;
        Ok(Storm {
            until_all_hold_it_ms: ms(took),
            resources_resent_per_client: heard.resources as f64 / clients as f64,
            bytes_resent_per_client: heard.resource_bytes as f64 / clients as f64,
        })
    }
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |part: usize| {
            let index = (values.len() * part / 100).min(values.len().saturating_sub(1));
            values.get(index).copied().unwrap_or(f64::NAN)
        };
        Self { p50: at(50), p99: at(99), max: at(100) }
    }

    fn median(all: &[Self]) -> Self {
        let of = |value: fn(&Self) -> f64| median(all.iter().map(value).collect());
        Self { p50: of(|it| it.p50), p99: of(|it| it.p99), max: of(|it| it.max) }
    }
}
