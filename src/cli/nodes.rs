//! `agent-creds bootstrap` and `agent-creds nodes`: Envoys that this server does not keep running itself.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::{Args, Subcommand, ValueHint};
use serde_json::json;

use super::folders::{FolderArgs, RuntimeArgs, absolute, runtime_dir, state_dir};
use super::server::{parse_duration, parse_prefix, print, signing_key_variable};
use crate::config::SharedVaultConfig;
use crate::control::client::connect_nodes;
use crate::control::v1::ConnectedNodesRequest;
use crate::domain::macaroon::TokenPrefix;
use crate::domain::macaroon::caveat::UnixTime;
use crate::domain::names::{SandboxId, SandboxIdError};
use crate::domain::node::NodeId;
use crate::domain::policy::Address;
use crate::envoy::{Admin, Protocol};
use crate::server::{self, NewIdentity, NodeBootstrap};
use crate::state::{Enrolled, NodeLog};
use crate::xds::snapshot::LOCAL_CLUSTER;

/// What the bootstrap is called in the folder of --out.
const BOOTSTRAP: &str = "envoy.json";
/// A server that is there answers at once.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct BootstrapArgs {
    /// What the Envoy is called in logs and metrics.
    #[arg(long, value_name = "ID")]
    node_id: String,
    /// The gateway it serves; `*` for all of them, on this machine alone.
    #[arg(long, value_name = "NAME", default_value = LOCAL_CLUSTER, value_parser = parse_cluster)]
    cluster: String,
    /// Where an Envoy of another machine reaches `agent-creds serve --xds`. The bootstrap then holds a certificate and its key,
    /// by which whoever has it is this node: print it to no log, and copy it by a way that keeps it secret.
    #[arg(long, value_name = "HOST:PORT")]
    xds: Option<Address>,
    /// Write it to envoy.json in this folder, readable for you alone, instead of printing it.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "xds")]
    out: Option<PathBuf>,
    /// How long the certificate in it lives (as 24h or 30d): until then that Envoy can be started with it. One that runs is given
    /// others in time.
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_duration, requires = "xds")]
    lifetime: Duration,
    /// Where the admin interface of an Envoy of another machine is: 127.0.0.1:PORT, or the path of a unix socket. Default: it has
    /// none.
    #[arg(long, value_name = "ADDR|PATH", value_parser = parse_admin, requires = "xds")]
    admin: Option<Admin>,
    #[command(flatten)]
    folders: FolderArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// Which xDS protocol it speaks.
    #[arg(long, value_enum, default_value_t)]
    protocol: Protocol,
}

#[derive(Debug, Subcommand)]
pub(super) enum NodesCommand {
    /// Enrol another server, whose projects name this one as their [vault]: it may then ask this server's vault as a gateway of this
    /// server, within that gateway's limits, for its sandboxes.
    Enrol(EnrolArgs),
    /// List them: when each was enrolled, until when its certificate is good, and whether it is connected.
    List(ListArgs),
    /// Cut one off: a running server ends its connections within a second, with all that they carry, and takes no others. To have
    /// it back give it a new bootstrap.
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(super) struct EnrolArgs {
    /// What that server is called in logs and metrics.
    #[arg(value_name = "ID")]
    id: NodeId,
    /// The gateway of this server as which it asks.
    #[arg(long, value_name = "NAME")]
    gateway: SandboxId,
    /// Where it reaches `agent-creds serve --xds` of this server, as its projects' files have it in [vault]; the port is 18000 unless
    /// it says another.
    #[arg(long, value_name = "HOST[:PORT]", value_parser = parse_vault)]
    vault: Address,
    /// Write its identity into this folder, readable for you alone, instead of printing it. It holds a key and a token: print it to
    /// no log, and copy it by a way that keeps it secret, to agent-creds/vaults in $XDG_CONFIG_HOME or ~/.config over there.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// How long the certificate in it lives (as 24h or 30d). While that server runs it is given others in time.
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_duration)]
    lifetime: Duration,
    /// What tokens of this server begin with.
    #[arg(long, env = "TOKEN_PREFIX", default_value = "acm_", value_parser = parse_prefix)]
    token_prefix: TokenPrefix,
    #[command(flatten)]
    folders: FolderArgs,
    /// Print what was done as JSON.
    #[arg(long, requires = "out")]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    folders: FolderArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// What it is called.
    #[arg(value_name = "ID")]
    id: NodeId,
    #[command(flatten)]
    folders: FolderArgs,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints a bootstrap, or writes it.
pub(super) fn bootstrap(args: BootstrapArgs) -> anyhow::Result<()> {
    let Some(server) = args.xds else {
        let runtime_dir = runtime_dir(args.runtime.runtime_dir, args.folders.state_dir)?;
        return print(&server::bootstrap(&args.node_id, &args.cluster, &absolute(&runtime_dir)?, args.protocol));
    };
    anyhow::ensure!(
        args.cluster != LOCAL_CLUSTER,
        "an Envoy of another machine serves one gateway: name it with --cluster NAME"
    );
    let new = NodeBootstrap {
        id: args.node_id.parse()?,
        gateway: args.cluster.parse()?,
        server,
        lifetime: args.lifetime,
        admin: args.admin,
        protocol: args.protocol,
    };
    // What cannot be written is not to be enrolled.
    let draft = args.out.map(|folder| Draft::new(&folder)).transpose()?;
    let text = server::enrol(&absolute(&state_dir(args.folders.state_dir)?)?, &new, SystemTime::now())?;
    let Some(draft) = draft else { return print(&text) };
    let path = draft.finish(&text)?;
    print(&format!(
        "{} is the node {} of the gateway {}; start its Envoy with\n  envoy -c {BOOTSTRAP}\n",
        path.display(),
        new.id,
        new.gateway
    ))
}

/// A bootstrap that is being written, for its owner alone; removed unless it is finished.
struct Draft {
    file: File,
    draft: PathBuf,
    path: PathBuf,
}

impl Draft {
    /// One in this folder, which is made when there is none.
    fn new(folder: &Path) -> anyhow::Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(|| format!("cannot make {}", folder.display()))?;
        let draft = folder.join(format!(".{BOOTSTRAP}.{}", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
        let file = file.with_context(|| format!("cannot write into {}", folder.display()))?;
        Ok(Self { file, draft, path: folder.join(BOOTSTRAP) })
    }

    /// Puts it in its place, whole; returns which that is.
    fn finish(mut self, text: &str) -> anyhow::Result<PathBuf> {
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        let placed = written.and_then(|()| std::fs::rename(&self.draft, &self.path));
        placed.with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(self.path.clone())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It is gone when it was finished.
        let _ = std::fs::remove_file(&self.draft);
    }
}

/// Runs `agent-creds nodes`.
pub(super) fn run(command: NodesCommand) -> anyhow::Result<ExitCode> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    match command {
        NodesCommand::Enrol(args) => enrol(args),
        NodesCommand::List(args) => list(args, now),
        NodesCommand::Revoke(args) => revoke(args, now),
    }
}

fn enrol(args: EnrolArgs) -> anyhow::Result<ExitCode> {
    let state = absolute(&state_dir(args.folders.state_dir)?)?;
    let new = NewIdentity {
        id: args.id,
        gateway: args.gateway,
        vault: args.vault,
        lifetime: args.lifetime,
        prefix: args.token_prefix,
    };
    // What cannot be written is not to be enrolled.
    if let Some(folder) = &args.out {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let key = signing_key_variable()?;
    let identity = server::enrol_server(&state, &new, key.as_ref().map(|key| key.as_str()), SystemTime::now())?;
    let Some(folder) = args.out else {
        print(&identity.text()?)?;
        return Ok(ExitCode::SUCCESS);
    };
    let path = folder.join(server::identity_file(&new.vault));
    identity.write(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let (id, gateway, vault) = (&new.id, &new.gateway, &new.vault);
    if args.json {
        let shown = json!({
            "id": id.as_str(), "gateway": gateway.as_str(), "vault": vault.to_string(), "file": path.display().to_string(),
        });
        print(&format!("{shown:#}\n"))?;
    } else {
        let name = path.file_name().unwrap_or_default().display();
        print(&format!(
            "{} is the server {id}, as the gateway {gateway} of this one; put it there as\n  \
             ~/.config/agent-creds/vaults/{name}\nand name this vault in its projects' agent-creds.toml:\n  [vault]\n  host = \"{vault}\"\n",
            path.display()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(args: ListArgs, now: i64) -> anyhow::Result<ExitCode> {
    let state = absolute(&state_dir(args.folders.state_dir.clone())?)?;
    // Looking makes nothing.
    let all = if NodeLog::exists(&state) { NodeLog::open(&state)?.all()? } else { Vec::new() };
    let connected = connected(&absolute(&runtime_dir(args.runtime.runtime_dir, args.folders.state_dir)?)?)?;
    let mut out = io::stdout().lock();
    if args.json {
        let nodes: Vec<_> = all.iter().map(|node| as_json(node, connected.as_ref(), now)).collect();
        writeln!(out, "{:#}", json!({ "nodes": nodes, "server": connected.is_some() }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if all.is_empty() {
        writeln!(
            out,
            "no node was enrolled; `agent-creds bootstrap --node-id ID --cluster NAME --xds HOST:PORT` enrols one"
        )?;
    }
    for node in &all {
        let id = &node.identity;
        let connections = connections(node, connected.as_ref());
        let connected = match connections {
            Some(0) => "not connected".to_owned(),
            Some(count) => format!("connected ({count})"),
            None => "unknown whether connected".to_owned(),
        };
        writeln!(out, "{}  gateway {}  {}, {connected}", id.id, id.gateway, describe(node, now))?;
        writeln!(out, "  enrolled {}, sha256 {}", date(node.enrolled), node.fingerprint)?;
    }
    if connected.is_none() && !all.is_empty() {
        writeln!(io::stderr(), "note: no server answers, so nobody knows which are connected")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn revoke(args: RevokeArgs, now: i64) -> anyhow::Result<ExitCode> {
    let state = absolute(&state_dir(args.folders.state_dir)?)?;
    let (new, all) = if NodeLog::exists(&state) { NodeLog::open(&state)?.revoke(&args.id, now)? } else { (0, 0) };
    let id = &args.id;
    anyhow::ensure!(all > 0, "no node {id} was enrolled with the state folder {}", state.display());
    // They are good for nobody else, but whoever has one may be given another certificate.
    server::revoke_tokens(&state, id, SystemTime::now())?;
    if args.json {
        print(&format!("{:#}\n", json!({ "id": id.as_str(), "revoked": true, "was_revoked": new == 0 })))?;
    } else if new == 0 {
        print(&format!("was revoked before: {id}\n"))?;
    } else {
        print(&format!("revoked {id}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The nodes that are connected, each with its connections; `None` when no server runs.
fn connected(runtime_dir: &Path) -> anyhow::Result<Option<BTreeMap<String, u32>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let Ok(mut client) = connect_nodes(runtime_dir).await else { return Ok(None) };
        let asked = tokio::time::timeout(PATIENCE, client.connected_nodes(ConnectedNodesRequest {})).await;
        let answer =
            asked.context("the server does not answer")?.context("the server does not tell who is connected")?;
        Ok(Some(answer.into_inner().nodes.into_iter().map(|node| (node.id, node.connections)).collect()))
    })
}

/// How many connections this enrolment may have; those of a node that was enrolled again are not told apart.
fn connections(node: &Enrolled, connected: Option<&BTreeMap<String, u32>>) -> Option<u32> {
    if node.revoked.is_some() {
        return Some(0);
    }
    connected.map(|connected| connected.get(node.identity.id.as_str()).copied().unwrap_or_default())
}

fn date(unix: i64) -> String {
    UnixTime(unix).to_string()
}

fn describe(node: &Enrolled, now: i64) -> String {
    match node.revoked {
        Some(at) => format!("revoked {}", date(at)),
        None if node.expires < now => format!("expired {}", date(node.expires)),
        None => format!("good until {}", date(node.expires)),
    }
}

fn as_json(node: &Enrolled, connected: Option<&BTreeMap<String, u32>>, now: i64) -> serde_json::Value {
    let connections = connections(node, connected);
    json!({
        "id": node.identity.id.as_str(),
        "gateway": node.identity.gateway.as_str(),
        "enrolment": node.identity.enrolment.to_string(),
        "fingerprint": node.fingerprint,
        "enrolled": date(node.enrolled),
        "expires": date(node.expires),
        "revoked": node.revoked.map(date),
        "state": match node.revoked {
            Some(_) => "revoked",
            None if node.expires < now => "expired",
            None => "good",
        },
        "connected": connections.map(|count| count > 0),
        "connections": connections,
    })
}

/// A vault as `[vault]` names it.
fn parse_vault(text: &str) -> Result<Address, &'static str> {
    SharedVaultConfig::address_of(text)
        .ok_or("give the name or the address of its machine, as vault.example.com or 10.0.0.7:18000")
}

/// `*`, or the name of a gateway.
fn parse_cluster(text: &str) -> Result<String, SandboxIdError> {
    if text == LOCAL_CLUSTER { Ok(text.to_owned()) } else { text.parse().map(|id: SandboxId| id.to_string()) }
}

/// An address of this machine, or a path.
fn parse_admin(text: &str) -> Result<Admin, String> {
    match text.parse::<std::net::SocketAddr>() {
        Ok(address) if !address.ip().is_loopback() => {
            Err("whoever reaches the admin interface controls that Envoy: give an address of 127.0.0.0/8 or [::1]"
                .to_owned())
        }
        Ok(address) => Ok(Admin::Address(address)),
        Err(_) if text.is_empty() || text.starts_with('@') || text.len() > 107 => {
            Err("give 127.0.0.1:PORT, or the path of a socket, of at most 107 characters".to_owned())
        }
        Err(_) => Ok(Admin::Socket(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_interface_is_for_its_own_machine() {
        assert_eq!(parse_admin("127.0.0.1:9901"), Ok(Admin::Address(([127, 0, 0, 1], 9901).into())));
        assert_eq!(parse_admin("admin.sock"), Ok(Admin::Socket("admin.sock".to_owned())));
        for bad in ["0.0.0.0:9901", "192.0.2.1:9901", "", "@abstract", &"x".repeat(108)] {
            assert!(parse_admin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bootstrap_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("edge-1");
        drop(Draft::new(&folder).unwrap());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "nothing is left of what was not finished");
        let path = Draft::new(&folder).unwrap().finish("{}").unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    }
}
