//! The machine: Envoy, kernel, firewall, ports, clock, and the server that runs.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::{Finding, Places};
use crate::cli::adev::list::span;
use crate::control::client::{ConnectError, connect};
use crate::control::v1::GetStatusRequest;
use crate::envoy::find_binary;
use crate::sandbox::docker::{About, Docker};

/// The image that has Envoy.
const ENVOY_IMAGE: &str = "agent-creds-envoy";
/// Programs that are asked have this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where metrics and health are served unless `--http` says otherwise.
const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9902);
/// Two clocks of one machine differ by less, in seconds.
const CLOSE: i64 = 5;

// ── Programs ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// An Envoy to run: a program, or an image.
pub(super) async fn envoy(places: &Places, docker: Option<&About>) -> Finding {
    let binary = match find_binary(places.envoy_bin.as_deref(), places.path.as_deref()) {
        Ok(binary) => binary,
        Err(error) if places.envoy_bin.is_some() => {
            return Finding::problem("Envoy", error.to_string(), "unset ENVOY_BIN, or let it name an Envoy");
        }
        Err(_) if docker.is_some() && has_image(places).await => {
            return Finding::ok("Envoy", format!("no program, but the image {ENVOY_IMAGE}, which `adev` uses then"));
        }
        Err(_) => {
            let how = "run `envoy/fetch.sh` and name what it prints in ENVOY_BIN, or `make images` for a container";
            return Finding::problem("Envoy", "there is none: no program on PATH, and no image", how);
        }
    };
    let shown = binary.display();
    match output(Command::new(&binary).arg("--version")).await {
        Ok((true, text)) => {
            let version = text.split_once("version: ").map_or("", |(_, rest)| rest.lines().next().unwrap_or_default());
            let number = version.split('/').nth(1).unwrap_or("of an unknown version");
            Finding::ok("Envoy", format!("{shown}, {number}"))
        }
        Ok((false, text)) => Finding::problem("Envoy", format!("{shown} fails: {}", text.trim()), "get another one"),
        Err(error) => Finding::problem("Envoy", format!("{shown} does not run: {error}"), "get another one"),
    }
}

async fn has_image(places: &Places) -> bool {
    match Docker::connect(places.docker_host.as_deref()).await {
        Ok(docker) => docker.image_exists(ENVOY_IMAGE).await.unwrap_or(false),
        Err(_) => false,
    }
}

/// Whether it succeeded, and what it said.
async fn output(command: &mut Command) -> Result<(bool, String), String> {
    command.kill_on_drop(true).stdin(std::process::Stdio::null());
    match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) => {
            let bytes = if output.stdout.is_empty() { output.stderr } else { output.stdout };
            Ok((output.status.success(), String::from_utf8_lossy(&bytes).into_owned()))
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("it says nothing within {} s", PATIENCE.as_secs())),
    }
}

/// The programs for the inside of sandboxes.
pub(super) fn helpers(found: Result<PathBuf, String>) -> Finding {
    match found {
        Ok(folder) => Finding::ok("helpers", format!("aenv and mint for sandboxes are in {}", folder.display())),
        Err(why) => {
            let (what, mend) = why.rsplit_once("; ").unwrap_or((&why, "`make build` builds them"));
            Finding::problem("helpers", what, mend)
        }
    }
}

// ── Kernel and firewall ───────────────────────────────────────────────────────────────────────────────────────────────

/// What the guard needs of the kernel: bridges and nftables, in it or as modules.
pub(super) fn kernel(root: &Path) -> Finding {
    let release = fs::read_to_string(root.join("proc/sys/kernel/osrelease")).unwrap_or_default();
    let modules = root.join("lib/modules").join(release.trim());
    let read = |name: &str| fs::read_to_string(modules.join(name)).unwrap_or_default();
    let known = format!("{}{}", read("modules.builtin"), read("modules.dep"));
    let loaded = fs::read_to_string(root.join("proc/modules")).unwrap_or_default();
    let is_there = |name: &str| {
        root.join("sys/module").join(name).exists()
            || loaded.lines().any(|line| line.split(' ').next() == Some(name))
            || known.contains(&format!("/{name}.ko"))
    };
    let missing: Vec<&str> = ["nf_tables", "bridge"].into_iter().filter(|name| !is_there(name)).collect();
    match (missing.as_slice(), known.is_empty()) {
        ([], _) => Finding::ok("kernel", format!("{} has nf_tables and bridge", release.trim())),
        (missing, true) => Finding::unseen(
            "kernel",
            format!("whether it has {} cannot be told: its modules are not listed here", missing.join(" and ")),
            "launching a sandbox tells: its rules are read back before anything starts in it",
        ),
        (missing, false) => Finding::problem(
            "kernel",
            format!("{} has no {}, which isolate sandboxes", release.trim(), missing.join(" and no ")),
            "use a kernel that has them (those of all distributions do)",
        ),
    }
}

/// What could drop a sandbox's packets to its listener. Nothing of a sandbox is forwarded, so Docker's rules for that do not matter.
pub(super) async fn firewall(root: &Path) -> Vec<Finding> {
    judged(root, output(Command::new("iptables").args(["-S"])).await)
}

/// `rules` is what `iptables -S` says.
fn judged(root: &Path, rules: Result<(bool, String), String>) -> Vec<Finding> {
    let mut found = Vec::new();
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let is_set = |text: &str, key: &str, values: &[&str]| {
        let value = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
        value.is_some_and(|value| values.contains(&value.trim().trim_matches('"')))
    };
    if is_set(&read("etc/ufw/ufw.conf"), "ENABLED", &["yes"]) {
        let drops = is_set(&read("etc/default/ufw"), "DEFAULT_INPUT_POLICY", &["DROP", "REJECT"]);
        let lets_in = matches!(&rules, Ok((true, rules)) if lets_in(rules));
        found.push(match drops && !lets_in {
            true => Finding::warning(
                "firewall",
                "ufw is on, and drops what comes in: also from sandboxes to their listeners",
                "sudo ufw allow in on ac+",
            ),
            false => Finding::ok("firewall", "ufw is on, and lets in what comes from sandboxes"),
        });
    }
    if root.join("run/firewalld").exists() || root.join("run/firewalld.pid").exists() {
        let is_trusted = read("etc/firewalld/zones/trusted.xml").contains("\"ac+\"");
        found.push(if is_trusted {
            Finding::ok("firewall", "firewalld runs, and trusts what comes from sandboxes")
        } else {
            Finding::warning(
                "firewall",
                "firewalld runs: it drops what comes in from bridges that are in no zone",
                "sudo firewall-cmd --permanent --zone=trusted --add-interface=ac+ && sudo firewall-cmd --reload",
            )
        });
    }
    found.push(match rules {
        Ok((true, rules)) => input_chain(&rules),
        Ok((false, _)) => Finding::unseen(
            "firewall",
            "the rules for what comes in cannot be read without root",
            "if sandboxes reach nothing: does `sudo iptables -S INPUT` drop what comes from ac+?",
        ),
        Err(_) => Finding::unseen(
            "firewall",
            "there is no iptables to ask",
            "if sandboxes reach nothing: does `sudo nft list ruleset` drop what comes in from ac*?",
        ),
    });
    found
}

/// Whether what comes in from a sandbox's bridge passes, as far as `iptables -S` tells.
fn input_chain(rules: &str) -> Finding {
    let policy = rules.lines().find_map(|line| line.strip_prefix("-P INPUT "));
    let ends = |line: &str| matches!(line, "-A INPUT -j DROP") || line.starts_with("-A INPUT -j REJECT");
    let drops = policy == Some("DROP") || rules.lines().any(ends);
    match drops && !lets_in(rules) {
        true => Finding::warning(
            "firewall",
            "iptables drops what comes in: also from sandboxes to their listeners",
            "sudo iptables -I INPUT -i ac+ -j ACCEPT",
        ),
        false => Finding::ok("firewall", "what comes in from sandboxes passes; nothing of them is forwarded"),
    }
}

/// Whether a rule takes what comes in from the bridges of sandboxes: one of its own, or one of `ufw allow in on`.
fn lets_in(rules: &str) -> bool {
    let begins = ["-A INPUT -i ac", "-A ufw-user-input -i ac"];
    rules.lines().any(|line| begins.iter().any(|begin| line.starts_with(begin)) && line.ends_with("-j ACCEPT"))
}

/// Kernel settings that drop packets on their own.
pub(super) fn routing(root: &Path) -> Finding {
    let path = root.join("proc/sys/net/ipv4/conf/all/rp_filter");
    match fs::read_to_string(&path) {
        // A sandbox's packets come from where its addresses are routed to: any value lets them in.
        Ok(value) => Finding::ok("routing", format!("rp_filter is {}, which is well", value.trim())),
        Err(error) => {
            Finding::unseen("routing", format!("{} cannot be read: {error}", path.display()), "look yourself")
        }
    }
}

// ── The server, ports, the clock ──────────────────────────────────────────────────────────────────────────────────────

/// Whether one runs, and where it serves metrics.
pub(super) async fn server(places: &Places) -> (Finding, Option<String>) {
    let dir = places.runtime_dir.display();
    let mut client = match connect(&places.runtime_dir).await {
        Ok(client) => client,
        Err(ConnectError::NotRunning(_)) => {
            return (Finding::ok("server", format!("none runs in {dir}; `adev console` starts one")), None);
        }
        Err(error) => {
            let how = "run this as the server's user, or give --runtime-dir";
            return (Finding::problem("server", format!("{:#}", anyhow::Error::new(error)), how), None);
        }
    };
    let answer = tokio::time::timeout(PATIENCE, client.get_status(GetStatusRequest {})).await;
    let status = match answer {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => {
            let what = format!("it does not answer: {}", status.message());
            return (Finding::problem("server", what, "end its process, and start it again"), None);
        }
        Err(_) => {
            let what = format!("it takes a connection in {dir}, and says nothing");
            return (Finding::problem("server", what, "end its process, and start it again"), None);
        }
    };
    let own = env!("CARGO_PKG_VERSION");
    let finding = if status.version != own {
        let what = format!("version {} runs, and this is {own}", status.version);
        Finding::warning("server", what, format!("kill {}; the next `adev` starts the new one", status.pid))
    } else if !status.ready || !status.problems.is_empty() || !status.rejected.is_empty() {
        Finding::warning("server", format!("process {} runs, and not all is well", status.pid), "see `actl status`")
    } else {
        Finding::ok("server", format!("version {}, process {}, ready", status.version, status.pid))
    };
    (finding, Some(status.http))
}

/// The port of metrics and health; `served` is where a server that runs has it.
pub(super) fn port(served: Option<&str>) -> Finding {
    if let Some(address) = served {
        return Finding::ok("ports", format!("metrics and health are served on {address}"));
    }
    match TcpListener::bind(HTTP) {
        Ok(_) => Finding::ok("ports", format!("{HTTP} is free, for metrics and health")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Finding::warning(
            "ports",
            format!("another program listens on {HTTP}, where metrics and health would be served"),
            "`adev` takes a free port then; give `agent-creds serve` another by --http",
        ),
        Err(error) => Finding::warning("ports", format!("cannot listen on {HTTP}: {error}"), "give another by --http"),
    }
}

/// Whether the clock is one that tokens and certificates can be judged by, as far as this machine tells.
/// `docker` is Docker's time, and when it was asked for.
pub(super) fn clock(state_dir: &Path, now: i64, docker: Option<(i64, RangeInclusive<i64>)>) -> Finding {
    // What was written before now was written in the past.
    let files = ["ca/ca.pem", "tokens.db", "audit.db", "lock"].map(|name| state_dir.join(name));
    let changed = |path: &PathBuf| {
        let since = path.metadata().ok()?.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        i64::try_from(since.as_secs()).ok()
    };
    let latest = files.iter().filter_map(changed).max();
    let how = "set it (`timedatectl set-ntp true`): tokens and certificates are judged by it";
    if let Some(ahead) = latest.map(|latest| latest - now).filter(|ahead| *ahead > CLOSE) {
        let what = format!("the clock is behind: files of the state folder are from {} ahead", span(ahead));
        return Finding::problem("clock", what, how);
    }
    let apart = docker.map(|(theirs, asked)| (asked.start() - theirs).max(theirs - asked.end()));
    match apart {
        Some(apart) if apart > CLOSE => {
            let what = format!("this clock and Docker's are {} apart", span(apart));
            Finding::problem("clock", what, how)
        }
        Some(_) => Finding::ok("clock", "it agrees with Docker's and with the state folder"),
        None => Finding::ok("clock", "it agrees with the state folder"),
    }
}

/// For the tests.
#[cfg(test)]
pub(super) fn verdicts_with(root: &Path, rules: &str) -> Vec<super::Verdict> {
    judged(root, Ok((true, rules.to_owned()))).into_iter().map(|finding| finding.verdict).collect()
}
