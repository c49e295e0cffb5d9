//! `xds-conformance`: the protocol cases against any server, as a table. See `--help`.

#![allow(dead_code, unreachable_pub, reason = "shared with the tests, which use more of it")]

#[path = "server/mod.rs"]
mod server;
#[path = "suite/mod.rs"]
mod suite;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use self::suite::client::Address;
use self::suite::{Between, Failure, Outcome, Target, Variant, table};

/// Tries an xDS server in every case of the protocol, in four variants: state of the world and delta, each over one
/// aggregated stream (ADS) and over one stream per type.
///
/// Without --target a server of this project is started and tried. Another server has to serve to every node, of each of
/// the types Cluster, ClusterLoadAssignment, Listener, RouteConfiguration and Secret, resources named a, b and fence-0 to
/// fence-7, and none whose name begins with "missing". Each carries "r1" as its first word in Cluster.alt_stat_name,
/// endpoints[0].locality.sub_zone, Listener.stat_prefix, virtual_hosts[0].name or generic_secret.secret.inline_string.
///
/// Cases that edit what is served need a control socket as `xds-target --help` describes it; without one they are reported
/// as "control". Each case asks as a node of its own, whose id and cluster are case-NUMBER-VARIANT.
///
/// Exits with 1 when a case fails.
#[derive(Parser)]
#[command(name = "xds-conformance", verbatim_doc_comment)]
struct Args {
    /// The server to try: HOST:PORT, or unix:PATH
    #[arg(long)]
    target: Option<Address>,
    /// The server's control socket
    #[arg(long, requires = "target")]
    control: Option<PathBuf>,
    /// Only this case; may be given more than once
    #[arg(long = "case", value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=32))]
    cases: Vec<u8>,
    /// Only this variant: sotw-ads, sotw-types, delta-ads or delta-types
    #[arg(long = "variant", value_parser = variant)]
    variants: Vec<Variant>,
    /// Put a relay before the server that breaks each case: all of them must fail
    #[arg(long)]
    broken: bool,
    /// Seconds to wait for what has to come
    #[arg(long, default_value_t = 30)]
    deadline: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn variant(text: &str) -> Result<Variant, String> {
    let labels = Variant::ALL.map(Variant::label).join(", ");
    Variant::ALL.into_iter().find(|variant| variant.label() == text).ok_or_else(|| format!("one of {labels}"))
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let folder = std::env::temp_dir().join(format!("xds-conformance-{}", std::process::id()));
    let own = match args.target {
        Some(_) => None,
        None => {
            std::fs::create_dir_all(&folder)?;
            let listen = Some(([127, 0, 0, 1], 0).into());
            let control = folder.join("control.sock");
            Some(server::Server::start(&server::Args { listen, socket: None, control, upstreams: 0 }).await?)
        }
    };
    let outcomes = run(&args, own.as_ref(), folder.join("control.sock")).await;
    if own.is_some() {
        std::fs::remove_dir_all(&folder)?;
    }
    let outcomes = outcomes?;
    let text = if args.json { table::json(&outcomes).to_string() + "\n" } else { table::text(&outcomes) };
    // A reader that went away has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    let failed = outcomes.iter().filter(|outcome| matches!(outcome.result, Err(Failure::Fail(_)))).count();
    if args.broken {
        let unnoticed: Vec<_> = unnoticed(&outcomes).collect();
        for outcome in &unnoticed {
            let _ = writeln!(std::io::stderr(), "case {} {}: not noticed", outcome.case, outcome.variant.label());
        }
        return Ok(if unnoticed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(args: &Args, own: Option<&server::Server>, control: PathBuf) -> anyhow::Result<Vec<Outcome>> {
    let own = own.and_then(|server| server.addr).map(|addr| (Address::Tcp(addr.to_string()), control));
    let (address, control) = match (&args.target, own) {
        (Some(target), _) => (target.clone(), args.control.clone()),
        (None, Some((address, control))) => (address, Some(control)),
        (None, None) => anyhow::bail!("no server to try"),
    };
    let target = Target { address, control, deadline: Duration::from_secs(args.deadline) };
    let between = if args.broken { Between::Sabotage } else { Between::Nothing };
    let wanted = |case, variant| {
        (args.cases.is_empty() || args.cases.contains(&case))
            && (args.variants.is_empty() || args.variants.contains(&variant))
    };
    Ok(suite::run(&target, between, wanted).await)
}

/// Broken cases that passed all the same.
fn unnoticed(outcomes: &[Outcome]) -> impl Iterator<Item = &Outcome> {
    outcomes.iter().filter(|outcome| outcome.result.is_ok())
}
