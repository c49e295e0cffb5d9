//! The whole way through a real Envoy, against the budgets of the design: how long an edit takes to be served, and what the
//! vault costs a request.
//!
//! Four Envoys stand side by side before one upstream: `bare` has a static configuration and asks nobody; `ok` has the
//! server's configuration and a vault that says yes at once; `told` has one that says yes and what to mask in the answer;
//! `vault` has the real one, with a token of four caveats. `told / ok` is what masking costs, without the vault. They are measured in turn, several rounds, and compared by medians, so that what else the machine does weighs on all alike.
//! `BENCH_SECONDS` and `BENCH_ROUNDS` change how long and how often (2 and 3), `BENCH_EDITS` the number of edits (200),
//! `BENCH_UPSTREAMS` the numbers of upstreams behind the listener that is edited (`20`, or `20,100,500`); with `BENCH_ONLY=edits`
//! nothing else is measured.
#![allow(clippy::expect_used, clippy::panic, reason = "a benchmark of what does not work has nothing to measure")]
#![allow(clippy::print_stdout, reason = "its result is what it prints")]

mod load;
mod world;

use std::time::{Duration, Instant};

use self::load::{LONG, Load, Protocol, SHORT, Sample};
use self::world::World;

fn setting(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() {
    // `cargo test --benches` runs this as well, to see that it starts.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let mut arguments = std::env::args().skip_while(|arg| arg != world::YES).skip(1);
    if let Some(socket) = arguments.next() {
        return world::say_yes(socket.as_ref(), arguments.next().is_some()).await;
    }
    let mut world = World::start().await;
    let upstreams = std::env::var("BENCH_UPSTREAMS").unwrap_or_else(|_| "20".to_owned());
    for upstreams in upstreams.split(',') {
        let upstreams = upstreams.parse().expect("BENCH_UPSTREAMS is numbers");
        world.has_upstreams(upstreams).await;
        edits(&world, upstreams).await;
    }
    if std::env::var("BENCH_ONLY").is_ok_and(|only| only == "edits") {
        return;
    }
    world.has_upstreams(20).await;
    requests(&world).await;
    throughput(&world).await;
}

/// Saves the configuration again and again, each time with another new host, and takes the time until that host is served.
async fn edits(world: &World, upstreams: usize) {
    let count = setting("BENCH_EDITS", 200);
    let mut times = Vec::new();
    for number in 0..count {
        let host = format!("new-{number}.example.com");
        let start = Instant::now();
        world.save(&host);
        while !world.serves(&host).await {
            assert!(start.elapsed() < Duration::from_secs(10), "{host} is not served");
            // Leaves the processor to those who are measured.
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    let budget = if upstreams > 20 { 100 } else { 50 };
    println!("edit -> new SNI served, {upstreams} upstreams, {count} edits (budget: p99 <= {budget} ms)");
    println!("  p50 {:.1} ms   p99 {:.1} ms   worst {:.1} ms\n", at(50), at(99), at(100));
}

async fn requests(world: &World) {
    let seconds = Duration::from_secs(setting("BENCH_SECONDS", 2).into());
    let rounds = setting("BENCH_ROUNDS", 3);
    println!("1 KB answers, TLS on both sides, medians of {rounds} rounds of {seconds:?}; ratios are to ok");
    println!(
        "  {:<36} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7}   budget",
        "", "bare", "ok", "told", "vault", "told", "vault"
    );
    for (name, protocol, connections, rate_budget, latency_budget) in [
        ("HTTP/1.1, 1 connection", Protocol::H1, 1, "", "<= 1.10"),
        ("HTTP/1.1, 32 connections", Protocol::H1, 32, ">= 0.95", ""),
        ("HTTP/2, 1 connection", Protocol::H2, 1, "", "<= 1.10"),
        ("HTTP/2, 32 connections", Protocol::H2, 32, ">= 0.95", ""),
        ("new TLS connection each, 8", Protocol::NewH1, 8, ">= 0.95", ""),
    ] {
        let mut samples: [Vec<Sample>; 4] = Default::default();
        for _ in 0..rounds {
            for (of_side, side) in samples.iter_mut().zip(world.sides()) {
                let (tls, token) = (world.tls(protocol), world.token());
                let load = Load { addr: side, protocol, connections, tls, token, path: SHORT };
                of_side.push(load.run(seconds).await);
            }
        }
        let print = |what: &str, decimals: usize, budget: &str, value: fn(&Sample) -> f64| {
            let [bare, ok, told, vault] = samples.each_ref().map(|side| median(side.iter().map(value).collect()));
            let (of_told, of_vault) = (told / ok, vault / ok);
            let label = format!("{name} {what}");
            println!(
                "  {label:<36} {bare:>9.decimals$} {ok:>9.decimals$} {told:>9.decimals$} {vault:>9.decimals$} \
                 {of_told:>7.3} {of_vault:>7.3}   {budget}"
            );
        };
        print("req/s", 0, rate_budget, |sample| sample.rate);
        print("p50 ms", 3, latency_budget, |sample| sample.p50 * 1e3);
        print("p99 ms", 3, "", |sample| sample.p99 * 1e3);
    }
}

/// Long bodies: what is looked into against what is not. `told` has nobody who would keep an answer open.
async fn throughput(world: &World) {
    let seconds = Duration::from_secs(setting("BENCH_SECONDS", 2).into());
    let rounds = setting("BENCH_ROUNDS", 3);
    let [bare, ok, _, vault] = world.sides();
    let mut rates: [Vec<f64>; 3] = Default::default();
    for _ in 0..rounds {
        for (of_side, side) in rates.iter_mut().zip([bare, ok, vault]) {
            let (protocol, tls, token) = (Protocol::H1, world.tls(Protocol::H1), world.token());
            let load = Load { addr: side, protocol, connections: 4, tls, token, path: LONG };
            of_side.push(load.run(seconds).await.rate);
        }
    }
    let [bare, ok, vault] = rates.map(median);
    println!("\n1 MB answers, HTTP/1.1, 4 connections; `vault` looks into them");
    println!("  MB/s: bare {bare:.0}, ok {ok:.0}, vault {vault:.0}");
}
