//! The `agent-creds` command line.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use zeroize::Zeroizing;

use super::folders::{FolderArgs, RuntimeArgs, absolute, runtime_dir, state_dir, xdg};
use super::nodes::{self, BootstrapArgs, NodesCommand};
use crate::config::{self, Sources, VaultSource};
use crate::domain::macaroon::{TokenPrefix, TokenPrefixError};
use crate::domain::policy::Address;
use crate::envoy;
use crate::host::cdp;
use crate::pki::{Ca, CaSummary};
use crate::server::{self, KeepEnvoy, Options, ServeError};
use crate::telemetry::{self, LogFormat};

/// The server of agent-creds: drives Envoy by xDS, and swaps tokens for real keys on the way out.
#[derive(Debug, Parser)]
#[command(name = "agent-creds", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  agent-creds serve --config .       serve ./agent-creds.toml through an Envoy of its own
  agent-creds check --config .       is the file right? (exit 1 with file:line:column if not)
  agent-creds ca show                the certificate that clients are to trust
  agent-creds bootstrap --node-id edge-1 --cluster ci
                                     what another Envoy needs to serve the gateway `ci`
  agent-creds serve --config . --xds 0.0.0.0:18000 --envoy none
  agent-creds bootstrap --node-id edge-1 --cluster ci --xds creds.example.com:18000 --out edge-1
                                     the same for an Envoy on another machine: copy edge-1/envoy.json there
  agent-creds nodes revoke edge-1    cut it off
  agent-creds nodes enrol laptop-1 --gateway team --vault vault.example.com --out laptop-1
                                     let another server use this one's vault ([vault] in its projects)

Exit codes: 0 done, 1 failed, 2 wrong usage.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server: xDS, vault, certificates, metrics.
    Serve(Box<Serve>),
    /// Say whether configuration files are right, without touching anything.
    Check(Check),
    /// Print the bootstrap of an Envoy that is to be driven by this server, on this machine or, with --xds, on another one.
    Bootstrap(BootstrapArgs),
    /// Show or revoke the Envoys and servers of other machines, or enrol a server.
    #[command(subcommand)]
    Nodes(NodesCommand),
    /// Show or replace the certificate authority that clients trust.
    #[command(subcommand)]
    Ca(CaCommand),
    /// Write man pages of all programs.
    #[command(hide = true)]
    Man {
        /// The folder for them.
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
struct SourceArgs {
    /// An agent-creds.toml, or the folder of one; give it once for each. Default: the current folder, if it has one.
    #[arg(long = "config", value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    configs: Vec<PathBuf>,
    /// No file at all: serve only the sandboxes that `adev` launches, each with its own.
    #[arg(long, conflicts_with = "configs")]
    no_config: bool,
    /// The file that says which host gets which credential. Default: agent-creds/vault.toml in $XDG_CONFIG_HOME or
    /// ~/.config, if there.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    vault_config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Serve {
    #[command(flatten)]
    sources: SourceArgs,
    #[command(flatten)]
    folders: FolderArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// Where /metrics, /healthz and /readyz are served; port 0 takes a free one and writes it to http.addr in the runtime
    /// folder.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9902")]
    http: SocketAddr,
    /// Take a free port when the one of --http is in use
    #[arg(long)]
    http_any_port: bool,
    /// Whether the server keeps an Envoy running.
    #[arg(long, value_enum, default_value_t = EnvoyMode::Process)]
    envoy: EnvoyMode,
    /// Serve Envoys of other machines there, by TLS with the certificates that `agent-creds bootstrap --xds` gives them; port 0
    /// takes a free one and writes it to xds.addr in the runtime folder.
    #[arg(long, value_name = "ADDR")]
    xds: Option<SocketAddr>,
    /// How long the certificates live that those Envoys are given from then on (as 24h or 90m); they are renewed after a third
    /// of it.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    node_lifetime: Duration,
    /// How long leaf certificates live (as 24h or 90m); they are renewed after a third of it.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    leaf_lifetime: Duration,
    /// Refuse requests that carry no token.
    #[arg(long = "strict", env = "STRICT_MODE", value_name = "BOOL", default_value = "false", value_parser = parse_bool,
          default_missing_value = "true", num_args = 0..=1, action = clap::ArgAction::Set)]
    strict: bool,
    /// What tokens begin with.
    #[arg(long, env = "TOKEN_PREFIX", default_value = "acm_", value_parser = parse_prefix)]
    token_prefix: TokenPrefix,
    /// Where this server's identities towards shared vaults are ([vault] in an agent-creds.toml), which `agent-creds nodes enrol`
    /// writes where the vault is. Default: agent-creds/vaults in $XDG_CONFIG_HOME or ~/.config.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    vaults: Option<PathBuf>,
    /// Where the Chrome of this machine listens, tabs of which sandboxes may drive as [[cdp_target]] says; by IP address or as localhost.
    /// Chrome is started with --remote-debugging-port=9222 --user-data-dir=DIR.
    #[arg(long = "cdp", env = "AGENT_CREDS_CDP", value_name = "HOST:PORT", default_value = cdp::DEFAULT_CHROME)]
    chrome: Address,
    /// What is logged: error, warn, info, debug or trace, also by module (info,agent_creds::vault=debug).
    #[arg(long, env = "AGENT_CREDS_LOG", default_value = "info", value_parser = telemetry::parse_filter)]
    log: String,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// Keep the file that standard error is appended to below this size in bytes, by dropping its oldest lines.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(4096..))]
    log_limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EnvoyMode {
    /// As a child process: ENVOY_BIN, else `envoy` on PATH.
    Process,
    /// As a container of the image agent-creds-envoy (`make images` builds it).
    Docker,
    /// No: Envoys run elsewhere, and connect with what `agent-creds bootstrap` prints.
    None,
}

#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    sources: SourceArgs,
    /// Print errors and warnings as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Print the CA's file, fingerprint and end.
    Show(CaArgs),
    /// Replace the CA. A running server issues every certificate anew within a second; clients must trust the new CA from
    /// then on. The certificate before it stays in ca-previous.pem.
    Rotate(CaArgs),
}

#[derive(Debug, Args)]
struct CaArgs {
    #[command(flatten)]
    folders: FolderArgs,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// The command line, for its man pages.
pub(super) fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line of this process; what it prints and returns is all there is.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            // The chain on one line, as anyhow does with `{:#}`.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(serve) => run_server(*serve),
        Command::Check(check) => run_check(&check),
        Command::Bootstrap(args) => nodes::bootstrap(args).map(|()| ExitCode::SUCCESS),
        Command::Nodes(command) => nodes::run(command),
        Command::Ca(command) => run_ca(command),
        Command::Man { dir } => super::man::write_all(&dir).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "agent-creds", &mut script);
            std::io::stdout().write_all(&script)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The programs for the inside of sandboxes.
const HELPERS: [&str; 3] = ["aenv", "mint", "cdp-proxy"];

/// The folder of the programs for the inside of sandboxes: `AGENT_CREDS_HELPERS`, else beside this program, installed or as
/// it was built.
pub(super) fn helpers() -> Result<PathBuf, String> {
    let has_them = |folder: &PathBuf| HELPERS.iter().all(|program| folder.join(program).is_file());
    if let Some(named) = std::env::var_os("AGENT_CREDS_HELPERS").filter(|name| !name.is_empty()).map(PathBuf::from) {
        let folder = std::path::absolute(&named).unwrap_or(named);
        return if has_them(&folder) {
            Ok(folder)
        } else {
            Err(format!(
                "AGENT_CREDS_HELPERS names {}, which has not all of `aenv`, `mint` and `cdp-proxy`; `make build` builds \
                 them",
                folder.display()
            ))
        };
    }
    let program = std::env::current_exe().and_then(|path| path.canonicalize()).unwrap_or_default();
    let folder = program.parent().unwrap_or(std::path::Path::new("/"));
    let places = [folder.join("helpers"), folder.join("../lib/agent-creds"), folder.join("../helpers/bin")];
    let found = places.iter().find(|folder| has_them(folder)).and_then(|folder| folder.canonicalize().ok());
    found.ok_or_else(|| {
        format!(
            "the programs for the inside of sandboxes are missing (`aenv`, `mint` and `cdp-proxy`, looked for in {}); `make build` builds \
             them, \
             AGENT_CREDS_HELPERS names another folder",
            places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ")
        )
    })
}

fn run_server(args: Serve) -> anyhow::Result<ExitCode> {
    telemetry::init(&args.log, args.log_format, args.log_limit)?;
    let envoy = match args.envoy {
        EnvoyMode::None => KeepEnvoy::None,
        EnvoyMode::Docker => KeepEnvoy::Docker,
        EnvoyMode::Process => {
            let named = std::env::var_os("ENVOY_BIN").filter(|name| !name.is_empty()).map(PathBuf::from);
            let path = std::env::var_os("PATH");
            KeepEnvoy::Process(envoy::find_binary(named.as_deref(), path.as_deref())?)
        }
    };
    let options = Options {
        sources: sources(&args.sources)?,
        runtime_dir: absolute(&runtime_dir(args.runtime.runtime_dir, args.folders.state_dir.clone())?)?,
        state_dir: absolute(&state_dir(args.folders.state_dir)?)?,
        http: args.http,
        http_any_port: args.http_any_port,
        envoy,
        leaf_lifetime: args.leaf_lifetime,
        strict: args.strict,
        prefix: args.token_prefix,
        signing_key: signing_key_variable()?,
        docker_host: std::env::var("DOCKER_HOST").ok(),
        helpers: helpers(),
        xds: args.xds,
        node_lifetime: args.node_lifetime,
        chrome: args.chrome.to_string(),
        vaults: match args.vaults {
            Some(folder) => absolute(&folder)?,
            None => config_dir().unwrap_or_default().join("vaults"),
        },
        ca_file: std::env::var_os("SSL_CERT_FILE").filter(|name| !name.is_empty()).map(PathBuf::from),
        environment: Arc::new(|name: &str| -> Option<OsString> { std::env::var_os(name) }),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("agent-creds")
        .build()
        .context("cannot start the runtime")?;
    match runtime.block_on(server::serve(options)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(ServeError::Config(diagnostics)) => {
            let _ = writeln!(std::io::stderr(), "{diagnostics}");
            anyhow::bail!("the configuration is wrong, so nothing was started")
        }
        Err(ServeError::Other(error)) => Err(error),
    }
}

fn run_check(args: &Check) -> anyhow::Result<ExitCode> {
    let sources = sources(&args.sources)?;
    let checked = config::check(&sources);
    if args.json {
        let json = serde_json::json!({ "errors": checked.errors, "warnings": checked.warnings });
        print(&format!("{json:#}\n"))?;
    } else {
        for error in &checked.errors {
            print(&format!("error: {error}\n"))?;
        }
        for warning in &checked.warnings {
            print(&format!("warning: {warning}\n"))?;
        }
        if checked.errors.is_empty() {
            print(&format!(
                "{} file(s) checked: no errors\n",
                sources.projects.len() + usize::from(sources.vault.is_some())
            ))?;
        }
    }
    Ok(if checked.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_ca(command: CaCommand) -> anyhow::Result<ExitCode> {
    let now = SystemTime::now();
    let (ca, dir, json) = match command {
        CaCommand::Show(args) => {
            let dir = absolute(&state_dir(args.folders.state_dir)?)?.join("ca");
            (Ca::load_or_create(&dir, now)?, dir, args.json)
        }
        CaCommand::Rotate(args) => {
            let dir = absolute(&state_dir(args.folders.state_dir)?)?.join("ca");
            (Ca::rotate(&dir, now)?, dir, args.json)
        }
    };
    let summary = ca.summary(&dir);
    if json {
        print(&format!("{:#}\n", serde_json::to_value(&summary)?))?
    } else {
        print(&describe(&summary))?
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(summary: &CaSummary) -> String {
    let ends = time::OffsetDateTime::from_unix_timestamp(summary.not_after)
        .map_or_else(|_| summary.not_after.to_string(), |time| time.date().to_string());
    format!(
        "certificate  {}\nsha256       {}\nvalid until  {ends}\n\nClients that are to use the gateway trust this certificate, \
         for example:\n  export SSL_CERT_FILE={0}\n  curl --cacert {0} …\n",
        summary.certificate.display(),
        summary.fingerprint
    )
}

fn sources(args: &SourceArgs) -> anyhow::Result<Sources> {
    let projects = if args.no_config {
        Vec::new()
    } else if args.configs.is_empty() {
        let here = PathBuf::from("agent-creds.toml");
        if here.exists() { vec![here] } else { Vec::new() }
    } else {
        args.configs.clone()
    };
    let vault = match &args.vault_config {
        Some(file) => Some(VaultSource::Given(file.clone())),
        None => default_vault_config().map(VaultSource::Default),
    };
    anyhow::ensure!(
        !projects.is_empty() || args.no_config,
        "no configuration: give --config FILE or DIR, or run this in a folder with an agent-creds.toml"
    );
    Ok(Sources { projects, vault })
}

/// The vault's file where it usually is.
pub(super) fn default_vault_config() -> Option<PathBuf> {
    Some(config_dir()?.join("vault.toml"))
}

/// The folder of the user's own configuration.
fn config_dir() -> Option<PathBuf> {
    let base = xdg("XDG_CONFIG_HOME").or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?;
    Some(base.join("agent-creds"))
}

pub(super) fn signing_key_variable() -> anyhow::Result<Option<Zeroizing<String>>> {
    match std::env::var("MACAROON_SIGNING_KEY") {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => anyhow::bail!("MACAROON_SIGNING_KEY is not base64"),
    }
}

pub(super) fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot print")
}

/// A switch. What is set and not understood, also when it is empty, must not turn out as off.
fn parse_bool(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("--strict, or STRICT_MODE in the environment, is `true` or `false`"),
    }
}

/// Set and empty is not set.
pub(super) fn parse_prefix(text: &str) -> Result<TokenPrefix, TokenPrefixError> {
    if text.is_empty() { Ok(TokenPrefix::default()) } else { text.parse() }
}

/// `90s`, `30m`, `24h`, `7d`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err("a time is a number and s, m, h or d, as in 24h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "a time is a number and s, m, h or d, as in 24h".to_owned())?;
    match number.checked_mul(unit) {
        Some(seconds) if (1..=86400 * 366).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => Err("between one second and a year".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(7 * 86400)));
        for bad in ["", "h", "0s", "1", "1w", "-1h", "99999999999999999999h", "1.5h", "400d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
