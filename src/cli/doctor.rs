//! `actl doctor`: looks at this machine for what keeps sandboxes and gateways from working, and says how to mend it.
//!
//! It changes nothing and needs no privileges; what it cannot see, it says.

mod docker;
mod files;
mod host;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::folders::{RuntimeArgs, absolute, runtime_dir, state_dir};
use crate::launch::printable;

/// What takes longer than this is named on the terminal.
const SOON: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// It cannot be seen from here.
    Unseen,
    /// Something does not work, or soon will not.
    Warning,
    /// What everything needs does not work.
    Problem,
}

/// What was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    /// What was found; may have lines.
    what: String,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, what: what.into(), mend: None }
    }

    fn unseen(check: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Unseen, what: what.into(), mend: Some(mend.into()) }
    }

    fn warning(check: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, what: what.into(), mend: Some(mend.into()) }
    }

    fn problem(check: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Problem, what: what.into(), mend: Some(mend.into()) }
    }

    /// An error of ours, which says what is wrong and, after a colon, what to do.
    fn of_error(check: &'static str, verdict: Verdict, error: &str) -> Self {
        let (what, mend) = match error.split_once(": ") {
            Some((what, mend)) => (what.to_owned(), Some(mend.to_owned())),
            None => (error.to_owned(), None),
        };
        Self { check, verdict, what, mend }
    }
}

/// Where to look.
#[derive(Debug)]
struct Places {
    state_dir: PathBuf,
    runtime_dir: PathBuf,
    /// The vault's file, where it usually is.
    vault: Option<PathBuf>,
    docker_host: Option<String>,
    envoy_bin: Option<PathBuf>,
    path: Option<std::ffi::OsString>,
    ca_file: Option<PathBuf>,
    /// The root of this machine's files.
    root: PathBuf,
    /// When looking began, in Unix seconds.
    now: i64,
}

/// What is looked at now, for those who wait.
#[derive(Clone, Default)]
struct Step(Arc<Mutex<&'static str>>);

impl Step {
    fn begins(&self, what: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    fn now(&self) -> &'static str {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks, and says what it saw; exit 1 when something is a problem.
pub(super) fn run(
    args: &DoctorArgs,
    folder: Option<PathBuf>,
    runtime: RuntimeArgs,
    out: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let places = Places {
        runtime_dir: absolute(&runtime_dir(runtime.runtime_dir, folder.clone())?)?,
        state_dir: absolute(&state_dir(folder)?)?,
        vault: super::server::default_vault_config(),
        docker_host: std::env::var("DOCKER_HOST").ok(),
        envoy_bin: set("ENVOY_BIN").map(PathBuf::from),
        path: set("PATH"),
        ca_file: set("SSL_CERT_FILE").map(PathBuf::from),
        root: PathBuf::from("/"),
        now: i64::try_from(now).unwrap_or(i64::MAX),
    };
    let executor =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let findings = executor.block_on(async {
        let step = Step::default();
        let shown = step.clone();
        tokio::select! {
            findings = look(&places, &step) => findings,
            never = progress(shown) => match never {},
        }
    });
    executor.shutdown_background();
    if args.json {
        let ok = findings.iter().all(|finding| finding.verdict != Verdict::Problem);
        writeln!(out, "{:#}", serde_json::json!({ "ok": ok, "checks": findings }))?;
    } else {
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        out.write_all(as_text(&findings, colours).as_bytes())?;
    }
    let bad = findings.iter().any(|finding| finding.verdict == Verdict::Problem);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn look(places: &Places, step: &Step) -> Vec<Finding> {
    let began = Instant::now();
    let seconds = || i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX);
    step.begins("Docker");
    let (mut findings, docker) = docker::look(places).await;
    // Docker read its clock at some time meanwhile.
    let asked = places.now..=places.now.saturating_add(seconds());
    step.begins("Envoy");
    findings.push(host::envoy(places, docker.as_ref()).await);
    findings.push(host::helpers(super::server::helpers()));
    step.begins("the kernel");
    findings.push(host::kernel(&places.root));
    step.begins("the firewall");
    findings.extend(host::firewall(&places.root).await);
    findings.push(host::routing(&places.root));
    step.begins("the server");
    let (server, http) = host::server(places).await;
    findings.push(server);
    findings.push(host::port(http.as_deref()));
    step.begins("the state folder");
    let docker = docker.as_ref().and_then(|about| Some((about.time?, asked)));
    findings.push(host::clock(&places.state_dir, places.now.saturating_add(seconds()), docker));
    findings.extend(files::look(places));
    findings
}

/// On a terminal, what is waited for.
async fn progress(step: Step) -> std::convert::Infallible {
    let mut error = io::stderr();
    if !error.is_terminal() {
        return std::future::pending().await;
    }
    tokio::time::sleep(SOON).await;
    let mut last = "";
    loop {
        let now = step.now();
        if now != last {
            // Nobody may be there to see it.
            let _ = writeln!(error, "looking at {now} …");
            last = now;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn as_text(findings: &[Finding], colours: bool) -> String {
    let mut text = String::new();
    for Finding { check, verdict, what, mend } in findings {
        let (word, colour) = match verdict {
            Verdict::Ok => ("ok", 32),
            Verdict::Unseen => ("unseen", 2),
            Verdict::Warning => ("warning", 33),
            Verdict::Problem => ("problem", 31),
        };
        let word = format!("{word:<8}");
        let word = if colours { format!("\u{1b}[{colour}m{word}\u{1b}[0m") } else { word };
        let mut lines = what.lines().map(printable);
        text.push_str(&format!("{word} {check:<10} {}\n", lines.next().unwrap_or_default()));
        lines.for_each(|line| text.push_str(&format!("{:20}{line}\n", "")));
        for (at, line) in mend.iter().flat_map(|mend| mend.lines()).enumerate() {
            let head = if at == 0 { "→ " } else { "  " };
            text.push_str(&format!("{:20}{head}{}\n", "", printable(line)));
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (problems, warnings) = (count(Verdict::Problem), count(Verdict::Warning));
    text.push_str(&match (problems, warnings) {
        (0, 0) => "nothing is in the way\n".to_owned(),
        _ => {
            let counted = |count, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
            format!("{}, {}\n", counted(problems, "problem"), counted(warnings, "warning"))
        }
    });
    text
}

#[cfg(test)]
mod tests;
