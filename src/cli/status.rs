//! `actl status`: whether all is well, in one look, and by exit code for scripts and health checks.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::{Args, ValueHint};
use serde::Serialize;

use super::adev::list::{span, word};
use super::folders::{RuntimeArgs, absolute, runtime_dir, state_dir};
use crate::control::client::{ConnectError, connect};
use crate::control::v1::{GetStatusRequest, GetStatusResponse, ListRequest, Sandbox, SharedVaultState, State};
use crate::launch::printable;
use crate::pki::Ca;

/// A server that is well answers at once.
const ANSWER: Duration = Duration::from_secs(5);
/// A certificate authority that ends within this is to be rotated.
const CA_ENDS_SOON: i64 = 30 * 86400;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// The project whose sandbox is meant by "this sandbox"
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    project: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// All there is to say.
#[derive(Debug, Serialize)]
struct Report {
    /// Nothing is wrong.
    healthy: bool,
    /// What is wrong, and what to do about it.
    problems: Vec<String>,
    server: Option<Server>,
    envoy: Option<Envoy>,
    /// The vaults of other servers that projects name.
    shared_vaults: Vec<Vault>,
    sandboxes: Vec<Counted>,
    /// That of the project, when it has one.
    this_sandbox: Option<This>,
    /// When the certificate authority's certificate ends, in Unix seconds.
    ca_not_after: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Server {
    version: String,
    pid: i32,
    started: i64,
    generation: u64,
    strict: bool,
    http: String,
}

#[derive(Debug, Serialize)]
struct Envoy {
    connected: bool,
    converged: bool,
}

#[derive(Debug, Serialize)]
struct Vault {
    address: String,
    state: String,
    node: String,
    gateway: String,
    expires: i64,
}

#[derive(Debug, Serialize)]
struct Counted {
    state: &'static str,
    count: usize,
}

#[derive(Debug, Serialize)]
struct This {
    name: String,
    state: &'static str,
    requests: u64,
    refused: u64,
}

/// Asks the server, and says what it said.
pub(super) fn run(
    args: &StatusArgs,
    folder: Option<PathBuf>,
    runtime: RuntimeArgs,
    out: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    let state = absolute(&state_dir(folder.clone())?)?;
    let sockets = absolute(&runtime_dir(runtime.runtime_dir, folder)?)?;
    let executor =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let asked = executor.block_on(async { tokio::time::timeout(ANSWER, ask(&sockets)).await });
    let answer = match asked {
        Ok(answer) => answer,
        Err(_) => Err(format!("the server at {} does not answer within {} s", sockets.display(), ANSWER.as_secs())),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let dir = state.join("ca");
    // Looking makes nothing; and without a certificate authority there is nothing to say of one.
    let ca_not_after = Ca::load(&dir).ok().map(|ca| ca.summary(&dir).not_after);
    let config = args.project.join("agent-creds.toml");
    let report = report(answer, config.canonicalize().ok().as_deref(), ca_not_after, now);
    if args.json {
        writeln!(out, "{:#}", serde_json::to_value(&report)?)?;
    } else {
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        out.write_all(as_text(&report, now, colours).as_bytes())?;
    }
    Ok(if report.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ask(sockets: &Path) -> Result<(GetStatusResponse, Vec<Sandbox>), String> {
    let failed = |error: tonic::Status| format!("the server does not answer: {}", printable(error.message()));
    let mut client = connect(sockets).await.map_err(|error| match &error {
        ConnectError::Failed { source, .. } => format!("{error}: {source}"),
        ConnectError::NotRunning(_) | ConnectError::BadPath(_) => error.to_string(),
    })?;
    let status = client.get_status(GetStatusRequest {}).await.map_err(failed)?.into_inner();
    let sandboxes = client.list(ListRequest {}).await.map_err(failed)?.into_inner().sandboxes;
    Ok((status, sandboxes))
}

fn report(
    answer: Result<(GetStatusResponse, Vec<Sandbox>), String>,
    config: Option<&Path>,
    ca_not_after: Option<i64>,
    now: i64,
) -> Report {
    let mut problems = Vec::new();
    match ca_not_after {
        Some(end) if end <= now => {
            problems.push("the certificate authority has ended: `agent-creds ca rotate` makes a new one".to_owned());
        }
        Some(end) if end - now < CA_ENDS_SOON => problems.push(format!(
            "the certificate authority ends in {}: `agent-creds ca rotate` makes a new one",
            span(end - now)
        )),
        _ => {}
    }
    let (status, sandboxes) = match answer {
        Ok(answer) => answer,
        Err(error) => {
            problems.push(error);
            return Report {
                healthy: false,
                problems,
                server: None,
                envoy: None,
                shared_vaults: Vec::new(),
                sandboxes: Vec::new(),
                this_sandbox: None,
                ca_not_after,
            };
        }
    };
    trouble(&status, now, &mut problems);
    for sandbox in sandboxes.iter().filter(|sandbox| sandbox.state() == State::Partial) {
        let (name, detail) = (printable(&sandbox.name), printable(&sandbox.detail));
        problems.push(format!("the sandbox {name} is not whole: {detail}"));
    }
    let states = [State::Running, State::Starting, State::Partial, State::Stopped];
    let counted = states.map(|state| Counted {
        state: word(state),
        count: sandboxes.iter().filter(|sandbox| sandbox.state() == state).count(),
    });
    let this = sandboxes.iter().find(|sandbox| config.is_some_and(|config| Path::new(&sandbox.config_path) == config));
    Report {
        healthy: problems.is_empty(),
        problems,
        server: Some(Server {
            version: printable(&status.version),
            pid: status.pid,
            started: status.started,
            generation: status.generation,
            strict: status.strict,
            http: printable(&status.http),
        }),
        envoy: Some(Envoy { connected: status.envoy_connected, converged: status.envoy_converged }),
        shared_vaults: status.shared_vaults.iter().map(vault).collect(),
        sandboxes: counted.into_iter().filter(|counted| counted.count > 0).collect(),
        this_sandbox: this.map(|sandbox| This {
            name: printable(&sandbox.name),
            state: word(sandbox.state()),
            requests: sandbox.requests,
            refused: sandbox.refused,
        }),
        ca_not_after,
    }
}

fn vault(vault: &SharedVaultState) -> Vault {
    Vault {
        address: printable(&vault.address),
        state: printable(&vault.state),
        node: printable(&vault.node),
        gateway: printable(&vault.gateway),
        expires: vault.expires,
    }
}

/// What the server finds wrong.
fn trouble(status: &GetStatusResponse, now: i64, problems: &mut Vec<String>) {
    problems.extend(status.problems.iter().map(|problem| {
        let lines: Vec<_> = problem.lines().map(printable).collect();
        format!("{}\nthe configuration before it goes on", lines.join("\n"))
    }));
    for rejected in &status.rejected {
        let lines: Vec<_> = rejected.lines.iter().map(|line| printable(line)).collect();
        let from = if lines.is_empty() { String::new() } else { format!(" (from {})", lines.join(", ")) };
        let (node, ty, message) =
            (printable(&rejected.node), printable(&rejected.r#type), printable(&rejected.message));
        problems.push(format!("Envoy {node} rejected a {ty}{from}: {message}"));
    }
    for credential in &status.credentials {
        let (host, message) = (printable(&credential.host), printable(&credential.message));
        problems.push(match credential.state.as_str() {
            "stale" => format!("the credential of {host} cannot be renewed, the last one goes on: {message}"),
            _ => format!("the credential of {host} cannot be had, requests that need it are refused: {message}"),
        });
    }
    for vault in &status.shared_vaults {
        let (address, named, message) = (printable(&vault.address), printable(&vault.named), printable(&vault.message));
        match vault.state.as_str() {
            // Also the reason for which it does not answer.
            "connected" | "connecting" | "down" if (1..=now).contains(&vault.expires) => problems.push(format!(
                "the certificate towards the shared vault {address} ({named}) has ended: enrol this server anew, with `agent-creds nodes \
                 enrol` where the vault is"
            )),
            "connected" => {}
            "connecting" => problems.push(format!("the shared vault {address} ({named}) does not answer yet")),
            "not_enrolled" => problems.push(format!("{named}: {message}")),
            _ => problems.push(format!(
                "the shared vault {address} ({named}) cannot be reached, requests with tokens are refused: {message}"
            )),
        }
    }
    if !status.envoy_connected && status.keeps_envoy {
        problems.push("no Envoy is connected: the server's log says why it does not run".to_owned());
    } else if status.envoy_connected && !status.envoy_converged && status.rejected.is_empty() {
        problems.push("Envoy does not have all of the configuration yet".to_owned());
    }
}

fn as_text(report: &Report, now: i64, colours: bool) -> String {
    let paint =
        |colour: u8, text: &str| if colours { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() };
    let mut text = String::new();
    let mut say = |what: &str, state: String| text.push_str(&format!("{what:<13} {state}\n"));
    match &report.server {
        Some(server) => {
            let up = if server.started > 0 { format!(", up {}", span(now - server.started)) } else { String::new() };
            let strict = if server.strict { ", strict" } else { "" };
            say("server", format!("version {}, process {}{up}{strict}", server.version, server.pid));
            say("metrics", format!("http://{}/metrics", server.http));
            say("config", format!("generation {}", server.generation));
        }
        None => say("server", paint(31, "does not answer")),
    }
    match &report.envoy {
        Some(Envoy { connected: true, converged: true }) => say("Envoy", "connected, has it all".to_owned()),
        Some(Envoy { connected: true, converged: false }) => say("Envoy", paint(33, "connected, behind")),
        Some(Envoy { connected: false, .. }) => say("Envoy", "none of this server's own is connected".to_owned()),
        None => {}
    }
    for Vault { address, state, node, gateway, expires } in &report.shared_vaults {
        let state = if state == "connected" {
            format!("{address}: connected as {node} (gateway {gateway}), certificate for {}", span(expires - now))
        } else {
            format!("{address}: {}", paint(31, &state.replace('_', " ")))
        };
        say("shared vault", state);
    }
    if report.server.is_some() {
        let counts: Vec<_> =
            report.sandboxes.iter().map(|counted| format!("{} {}", counted.count, counted.state)).collect();
        say("sandboxes", if counts.is_empty() { "none".to_owned() } else { counts.join(", ") });
    }
    if let Some(This { name, state, requests, refused }) = &report.this_sandbox {
        say("this sandbox", format!("{name}: {state}, {requests} requests, {refused} refused"));
    }
    if let Some(end) = report.ca_not_after {
        say("certificates", format!("the certificate authority ends in {}", span(end - now)));
    }
    if report.healthy {
        text.push_str(&format!("{}\n", paint(32, "all is well")));
    }
    for problem in &report.problems {
        let mut lines = problem.lines();
        text.push_str(&format!("{} {}\n", paint(31, "problem:"), lines.next().unwrap_or_default()));
        lines.for_each(|line| text.push_str(&format!("         {line}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::v1::{CredentialTrouble, RejectedUpdate};

    const NOW: i64 = 1_800_000_000;

    fn well() -> GetStatusResponse {
        GetStatusResponse {
            version: "0.1.0".into(),
            pid: 7,
            generation: 3,
            envoy_connected: true,
            envoy_converged: true,
            ready: true,
            keeps_envoy: true,
            started: NOW - 7260,
            http: "127.0.0.1:9902".into(),
            ..Default::default()
        }
    }

    #[test]
    fn all_is_well() {
        let sandbox = Sandbox {
            name: "shop".into(),
            state: State::Running.into(),
            config_path: "/p/agent-creds.toml".into(),
            requests: 4,
            refused: 1,
            ..Default::default()
        };
        let report =
            report(Ok((well(), vec![sandbox])), Some(Path::new("/p/agent-creds.toml")), Some(NOW + 86400 * 100), NOW);
        assert!(report.healthy);
        let expected = "\
server        version 0.1.0, process 7, up 2h1m
metrics       http://127.0.0.1:9902/metrics
config        generation 3
Envoy         connected, has it all
sandboxes     1 running
this sandbox  shop: running, 4 requests, 1 refused
certificates  the certificate authority ends in 100d0h
all is well
";
        assert_eq!(as_text(&report, NOW, false), expected);
        assert!(as_text(&report, NOW, true).ends_with("\u{1b}[32mall is well\u{1b}[0m\n"));
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_do_and_without_tricks() {
        let status = GetStatusResponse {
            problems: vec!["a.toml:1:1: wr\u{1b}[31mong\n    help: x".into()],
            rejected: vec![RejectedUpdate {
                node: "edge".into(),
                r#type: "listener".into(),
                message: "no\nway".into(),
                lines: vec!["a.toml:7".into()],
            }],
            credentials: vec![
                CredentialTrouble { host: "a.example".into(), state: "stale".into(), message: "timeout".into() },
                CredentialTrouble { host: "b.example".into(), state: "failed".into(), message: "refused".into() },
            ],
            envoy_connected: false,
            ..well()
        };
        let partial = Sandbox {
            name: "s".into(),
            state: State::Partial.into(),
            detail: "rules lost".into(),
            ..Default::default()
        };
        let report = report(Ok((status, vec![partial])), None, Some(NOW + 60), NOW);
        assert!(!report.healthy);
        let text = as_text(&report, NOW, false);
        for expected in [
            "problem: the certificate authority ends in 1m: `agent-creds ca rotate` makes a new one\n",
            "problem: a.toml:1:1: wr\\u{1b}[31mong\n             help: x\n         the configuration before it goes on\n",
            "problem: Envoy edge rejected a listener (from a.toml:7): no\\u{a}way\n",
            "problem: the credential of a.example cannot be renewed, the last one goes on: timeout\n",
            "problem: the credential of b.example cannot be had, requests that need it are refused: refused\n",
            "problem: no Envoy is connected: the server's log says why it does not run\n",
            "problem: the sandbox s is not whole: rules lost\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        assert!(!text.contains("all is well"));
    }

    #[test]
    fn shared_vaults_are_told_of() {
        let vault = |state: &str, message: &str| SharedVaultState {
            address: "vault.example.com:18000".into(),
            state: state.into(),
            message: message.into(),
            named: "/p/agent-creds.toml:7".into(),
            node: "laptop-1".into(),
            gateway: "team".into(),
            expires: NOW + 86400 * 29,
        };
        let told = |vault| {
            let status = GetStatusResponse { shared_vaults: vec![vault], ..well() };
            let report = report(Ok((status, Vec::new())), None, None, NOW);
            (report.healthy, as_text(&report, NOW, false))
        };
        let (healthy, text) = told(vault("connected", ""));
        let line =
            "shared vault  vault.example.com:18000: connected as laptop-1 (gateway team), certificate for 29d0h\n";
        assert!(healthy && text.contains(line), "{text}");
        let (healthy, text) = told(vault("down", "refused\u{1b}[2J"));
        assert!(!healthy && text.contains("vault.example.com:18000: down\n"), "{text}");
        assert!(text.contains("cannot be reached, requests with tokens are refused: refused\\u{1b}[2J\n"), "{text}");
        let (healthy, text) = told(vault("not_enrolled", "no identity"));
        assert!(!healthy && text.contains("problem: /p/agent-creds.toml:7: no identity\n"), "{text}");
        for state in ["connected", "down"] {
            let (healthy, text) = told(SharedVaultState { expires: NOW, ..vault(state, "") });
            assert!(!healthy && text.contains("has ended: enrol this server anew"), "{text}");
        }
    }

    #[test]
    fn a_server_of_others_envoys_is_well_without_one_and_none_at_all_is_not() {
        let status = GetStatusResponse { envoy_connected: false, keeps_envoy: false, ..well() };
        assert!(report(Ok((status, Vec::new())), None, None, NOW).healthy);
        let gone = report(Err("no server".to_owned()), None, None, NOW);
        assert!(!gone.healthy);
        assert_eq!(as_text(&gone, NOW, false), "server        does not answer\nproblem: no server\n");
    }
}
