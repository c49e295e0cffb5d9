//! `actl`: what a server decided, the Envoys it drives, and the secrets it may use.

mod tui;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use serde_json::json;

use super::doctor::{self, DoctorArgs};
use super::fleet::{self, Nodes};
use super::folders::{FolderArgs, RuntimeArgs, absolute, runtime_dir, state_dir};
use super::secret::{self, SecretArgs};
use super::status::{self, StatusArgs};
use crate::state::{AUDIT_KEPT, AuditLog, AuditRecord};

const EXAMPLES: &str = "\
Examples:
  actl                           all of it on a terminal: requests as they come, with keys to allow what was refused
  actl status                    is all well? (exit 1 if not: for scripts and health checks)
  actl doctor                    what on this machine is in the way, and how to mend it
  actl log                       the last decisions: who asked for what, and what became of it
  actl log -f --denied           refusals, as they come
  actl log --sandbox shop --json -n 1000 | jq .path
  actl nodes                     which Envoys are connected, and do they have the configuration?
  actl log verify                is a record missing, altered or put in?
  actl secret set STRIPE_API_KEY keep a secret in the keyring, for vault.toml to name

Exit status: 0 done and well, 1 failed or found wrong, 2 wrong usage.";

/// How often the log is looked at with --follow.
const LOOK: Duration = Duration::from_millis(200);
/// Records read at once.
const PAGE: u32 = 1000;

/// Shows what an agent-creds server decided and which Envoys it drives, and keeps the secrets it may use. Without a command, on a
/// terminal, all of it live: sandboxes, requests, tokens, Envoys, configuration.
#[derive(Debug, Parser)]
#[command(name = "actl", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    folders: FolderArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say whether server, Envoy, credentials, certificates and sandboxes are well: exit 1 if not
    Status(StatusArgs),
    /// Look at this machine for what is in the way, and say how to mend it: exit 1 when something is
    Doctor(DoctorArgs),
    /// Show the audit log: one line for each decision on a request
    #[command(args_conflicts_with_subcommands = true)]
    Log(Log),
    /// Show the Envoys: what each was sent, accepted and rejected, and how far behind it is
    Nodes(Nodes),
    /// Keep secrets in the desktop's keyring or an encrypted file
    Secret(SecretArgs),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
struct Log {
    #[command(subcommand)]
    command: Option<LogCommand>,
    /// Go on as decisions come
    #[arg(short, long)]
    follow: bool,
    /// Those of this sandbox or gateway alone
    #[arg(long, value_name = "NAME")]
    sandbox: Option<String>,
    /// Refusals alone
    #[arg(long)]
    denied: bool,
    /// How many of the last to begin with
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    lines: u32,
    /// Print a JSON object for each
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Follow the chain of hashes: exit 1 when a record is missing, altered or put in
    Verify {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// The command line, for its man pages.
pub(super) fn command() -> clap::Command {
    Cli::command()
}

/// Runs `actl` with the arguments of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        // Who read it has seen enough.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Some(command) = cli.command else { return overview(cli.folders.state_dir, cli.runtime) };
    let mut out = io::stdout().lock();
    match command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "actl", &mut script);
            out.write_all(&script)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status(args) => status::run(&args, cli.folders.state_dir, cli.runtime, &mut out),
        Command::Doctor(args) => doctor::run(&args, cli.folders.state_dir, cli.runtime, &mut out),
        Command::Nodes(args) => fleet::run(&args, cli.folders.state_dir, cli.runtime, &mut out),
        Command::Secret(args) => secret::run(args, &mut out),
        Command::Log(log) => {
            let folder = state_dir(cli.folders.state_dir)?;
            // Looking makes nothing.
            anyhow::ensure!(
                folder.join("audit.db").is_file(),
                "there is no audit log in {}: has a server run with this state folder? --state-dir names another",
                folder.display()
            );
            let audit = AuditLog::open(&folder, AUDIT_KEPT)?;
            match &log.command {
                Some(LogCommand::Verify { json }) => verify(&audit, *json, &mut out),
                None => log.show(&audit, &mut out).map(|()| ExitCode::SUCCESS),
            }
        }
    }
}

/// What there is on a terminal; elsewhere it says what there is instead.
fn overview(state: Option<PathBuf>, runtime: RuntimeArgs) -> anyhow::Result<ExitCode> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let help = Cli::command().render_help();
        write!(io::stderr(), "actl without a command needs a terminal on standard input and output.\n\n{help}")?;
        return Ok(ExitCode::from(2));
    }
    let runtime_dir = absolute(&runtime_dir(runtime.runtime_dir, state.clone())?)?;
    let state_dir = absolute(&state_dir(state)?)?;
    tui::run(runtime_dir, state_dir, colours()).map(ExitCode::from)
}

/// Whether colours are wanted.
fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn verify(audit: &AuditLog, as_json: bool, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let found = audit.verify()?;
    let error = found.as_ref().err().map(ToString::to_string);
    if as_json {
        writeln!(out, "{}", json!({ "ok": error.is_none(), "records": found.as_ref().ok(), "error": error }))?;
    } else {
        match &found {
            Ok(count) => writeln!(out, "{count} records, none missing, altered or put in")?,
            Err(error) => writeln!(out, "{error}")?,
        }
    }
    Ok(if found.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Log {
    fn show(&self, audit: &AuditLog, out: &mut dyn Write) -> anyhow::Result<()> {
        let colours = colours();
        let sandbox = self.sandbox.as_deref();
        let mut seq = audit.before_last(self.lines, sandbox, self.denied)?;
        loop {
            let records = audit.after(seq, sandbox, self.denied, PAGE)?;
            for (number, record) in &records {
                seq = *number;
                if self.json {
                    let mut value = serde_json::to_value(record)?;
                    value["seq"] = (*number).into();
                    writeln!(out, "{value}")?;
                } else {
                    writeln!(out, "{}", line(record, colours)?)?;
                }
            }
            if records.len() == PAGE as usize {
                continue;
            }
            out.flush()?;
            if !self.follow {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// `2026-11-24T16:00:00.123Z shop allow GET api.stripe.com /v1/charges`, and why when it was refused.
fn line(record: &AuditRecord, colours: bool) -> anyhow::Result<String> {
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(record.time_ms) * 1_000_000);
    let format =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let time = time.ok().and_then(|time| time.format(format).ok()).context("a record has no time")?;
    let AuditRecord { sandbox, decision, method, upstream, path, reason, .. } = record;
    if decision == "dropped" {
        return Ok(format!("{time} {reason} are missing: they came faster than the disk took them"));
    }
    let (begin, end) = match (colours, decision.as_str()) {
        (true, "deny") => ("\u{1b}[31m", "\u{1b}[0m"),
        (true, "allow") => ("\u{1b}[32m", "\u{1b}[0m"),
        _ => ("", ""),
    };
    let why = if decision == "deny" { format!(" ({reason})") } else { String::new() };
    let token = if record.token.is_empty() { String::new() } else { format!(" token {}", record.token) };
    Ok(format!("{time} {sandbox} {begin}{decision}{end}{why} {method} {upstream} {path}{token}"))
}
