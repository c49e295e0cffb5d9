//! `actl nodes`: the Envoys of a server, and how far each is.

mod json;
mod table;
mod wait;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::{Args, Subcommand};
use tonic::transport::Channel;

use self::wait::Wait;
use super::folders::{RuntimeArgs, runtime_dir};
use crate::control::client::connect_fleet;
use crate::control::v1::fleet_client::FleetClient;
use crate::control::v1::{DiffNodeRequest, ListNodesRequest, ListNodesResponse, Node};

const EXAMPLES: &str = "\
Examples:
  actl nodes                     each Envoy: what it was sent, accepted and rejected, and how far behind it is
  actl nodes -f                  the same, as it changes
  actl nodes --json | jq '.nodes[] | select(.state != \"in step\") | .id'
  actl nodes diff edge-1         what it holds against what it should hold, with file and line
  actl nodes wait --timeout 10s  for CI: read the files again, wait until every Envoy has them

Exit status: 0 done, 1 failed, 2 wrong usage. Of `diff`: 0 no difference, 1 differences, 2 trouble. Of `wait`: 0 all have
it, 1 not: a file is broken, an Envoy rejected something, none is connected, or the time was up.";

/// How often the server is asked with --follow.
const LOOK: Duration = Duration::from_millis(200);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(super) struct Nodes {
    #[command(subcommand)]
    command: Option<NodesCommand>,
    /// Go on as it changes
    #[arg(short, long)]
    follow: bool,
    /// One line for each, without the types of resources
    #[arg(short, long, conflicts_with = "json")]
    short: bool,
    /// Print JSON; with --follow an object on a line of its own for each change
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum NodesCommand {
    /// Compare what an Envoy holds with what it should hold; exit 1 when it differs
    Diff {
        /// The node's id, as `actl nodes` shows it
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read the configuration files again, and wait until the Envoys have accepted them; exit 1 when they do not
    Wait(Wait),
}

type Client = FleetClient<Channel>;

/// Runs `actl nodes`.
pub(super) fn run(
    args: &Nodes,
    state_dir: Option<PathBuf>,
    runtime: RuntimeArgs,
    out: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    let folder = runtime_dir(runtime.runtime_dir, state_dir)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        match &args.command {
            None => args.show(&folder, out).await.map(|()| ExitCode::SUCCESS),
            Some(NodesCommand::Diff { id, json }) => match diff(&folder, id, *json, out).await {
                // As of diff(1): 1 is said of what was compared.
                Err(error) if !is_broken_pipe(&error) => {
                    let _ = writeln!(io::stderr(), "error: {error:#}");
                    Ok(ExitCode::from(2))
                }
                done => done,
            },
            Some(NodesCommand::Wait(wait)) => wait.run(&folder, out).await,
        }
    })
}

impl Nodes {
    async fn show(&self, folder: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut client = connect_fleet(folder).await?;
        let is_terminal = io::stdout().is_terminal();
        let colours = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let mut shown = BTreeMap::new();
        let mut last = None;
        loop {
            let found = list(&mut client, ListNodesRequest::default()).await?;
            if self.json && self.follow {
                for line in json::changes(&mut shown, &found.nodes) {
                    writeln!(out, "{line}")?;
                }
            } else if self.json {
                writeln!(out, "{:#}", json::list(&found))?;
            } else {
                // On a terminal also times go on; elsewhere they are no reason to say it all again.
                let now = now_ms();
                let state = (is_terminal.then_some(now / 1000), json::steady(&found.nodes));
                if last.as_ref() != Some(&state) {
                    if self.follow && is_terminal {
                        write!(out, "\u{1b}[H\u{1b}[2J")?;
                    } else if last.is_some() {
                        writeln!(out)?;
                    }
                    write!(out, "{}", table::of(&found, now, self.short, colours))?;
                    last = Some(state);
                }
            }
            out.flush()?;
            if !self.follow {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

async fn diff(folder: &Path, id: &str, as_json: bool, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let mut client = connect_fleet(folder).await?;
    let answer = answer(client.diff_node(DiffNodeRequest { id: id.to_owned() })).await?;
    if !answer.connected {
        let all = list(&mut client, ListNodesRequest::default()).await?.nodes;
        let ids: Vec<_> = all.iter().take(20).map(|node| table::quoted(&node.id)).collect();
        let known = if ids.is_empty() { "none is".to_owned() } else { format!("connected: {}", ids.join(", ")) };
        anyhow::bail!("no node {} is connected; {known}", table::quoted(id));
    }
    if as_json {
        writeln!(out, "{:#}", json::differences(id, &answer))?;
    } else {
        write!(out, "{}", table::differences(id, &answer))?;
    }
    Ok(if answer.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn list(client: &mut Client, request: ListNodesRequest) -> anyhow::Result<ListNodesResponse> {
    answer(client.list_nodes(request)).await
}

/// What the server answers, in time.
async fn answer<T>(call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> anyhow::Result<T> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => {
            anyhow::bail!("the server is older than this program: restart it")
        }
        Ok(Err(status)) if status.code() == tonic::Code::Unavailable => {
            anyhow::bail!("the server has ended")
        }
        Ok(Err(status)) => anyhow::bail!("the server answers: {}", table::printed(status.message())),
        Err(_) => anyhow::bail!("the server does not answer within {ANSWER:?}"),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What tells a node from all others.
fn key(node: &Node) -> (String, String) {
    (node.id.clone(), node.gateway.clone())
}
