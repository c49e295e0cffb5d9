//! `xds-load`: thousands of clients against an xDS server, and what they see of it. See `--help`.

#![allow(clippy::print_stdout, reason = "its result is what it prints")]

mod clients;
mod scenario;
mod snapshots;
#[allow(dead_code, unreachable_pub, reason = "shared with the tests, which use more of it")]
#[path = "../../integration/xds/server/mod.rs"]
mod target;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use self::clients::fleet::Address;
use self::clients::messages::Proto;

/// As the server has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures an xDS server with many clients at once.
///
/// Each client is a connection with one aggregated stream. It asks as an Envoy does: all clusters, all listeners, then routes
/// and secrets by name; and it accepts everything. One thread drives them all, and what that thread costs is stated.
///
/// Without --target a server of this project is started as a process of its own, and stopped at the end. Against another one
/// there is a cold start to measure; edits need its control socket (see `xds-target --help`), memory and processor time --pid.
///
/// The more files a process may have open, the more clients there can be: the limit is raised as far as it goes.
#[derive(Parser)]
#[command(name = "xds-load", args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Sub>,
    #[command(flatten)]
    load: Load,
}

#[derive(Subcommand)]
enum Sub {
    /// Serve, as the server that is measured
    #[command(hide = true)]
    Serve(target::Args),
    /// Measure how long snapshots of 10, 100, 1,000 and 10,000 upstreams take to build and to edit
    Snapshots {
        /// How often each is measured; the median is shown
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
}

/// What to measure.
#[derive(clap::Args, Clone)]
pub(crate) struct Load {
    /// How many clients
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    clients: u64,
    /// The variant of the protocol they speak
    #[arg(long, value_enum, default_value = "delta")]
    proto: Proto,
    /// How many upstreams the fleet has: each a cluster, a route and a secret
    #[arg(long, default_value_t = 20)]
    upstreams: usize,
    /// How often each figure is taken; the median is shown
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The share of clients that stop reading, in percent; the others' p99 is compared
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=90))]
    stalled: u64,
    /// Also kill the server, start it anew, and let all clients reconnect at once
    #[arg(long)]
    storm: bool,
    /// Over a unix socket instead of TCP
    #[arg(long)]
    unix: bool,
    /// Another server: IP:PORT or unix:PATH
    #[arg(long)]
    target: Option<Address>,
    /// Its control socket
    #[arg(long, requires = "target")]
    control: Option<PathBuf>,
    /// Its process, for memory and processor time
    #[arg(long, requires = "target")]
    pid: Option<u32>,
    /// The node.cluster that clients say they are of
    #[arg(long, default_value = "load")]
    cluster: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    raise_open_files();
    match args.command {
        Some(Sub::Serve(args)) => serve(&args),
        Some(Sub::Snapshots { rounds }) => snapshots::measure(rounds),
        None => {
            let report = scenario::run(&args.load)?;
            if args.load.json {
                println!("{}", serde_json::to_string(&report)?);
            } else {
                print!("{report}");
            }
            Ok(())
        }
    }
}

#[tokio::main]
async fn serve(args: &target::Args) -> anyhow::Result<()> {
    // Nobody is left behind when the benchmark is killed.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let _server = target::Server::start(args).await?;
    std::future::pending().await
}

/// As many as the kernel lets us have.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Then it stays as it is, and a connection that cannot be opened says so.
    let _ = setrlimit(Resource::Nofile, limit);
}
