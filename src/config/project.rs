//! `agent-creds.toml`: one project, served as a sandbox or as a gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ca::ReadFile;
use super::diagnostic::{Diagnostic, Diagnostics, quoted};
use super::reader::{Item, Reader, Table, nearest};
use super::shared_vault::SharedVaultConfig;
use super::targets::{BrowserTarget, CDP_PORT, CdpTarget};
use super::units::{Cpus, EnvName, ImageName, Memory};
use super::upstream::{self, Upstreams};
use crate::domain::names::{HostPattern, SandboxId};
use crate::domain::policy::{Limits, Origin, Policy, Serving, Upstream};

/// What one valid `agent-creds.toml` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectConfig {
    /// The sandbox's or gateway's name.
    pub id: SandboxId,
    /// How it is served.
    pub kind: ProjectKind,
    /// What it may reach, by host.
    pub upstreams: BTreeMap<HostPattern, Upstream>,
    /// The vault of another server that has the credentials; `None`: the server's own.
    pub vault: Option<SharedVaultConfig>,
    /// Pages that may be opened in the host's browser.
    pub browser_targets: Vec<BrowserTarget>,
    /// Pages of the host's browser that may be driven.
    pub cdp_targets: Vec<CdpTarget>,
    /// The other files it depends on: the `ca` files, absolute, without duplicates.
    pub watch: Vec<PathBuf>,
    /// The line of `[sandbox]`, or of `listen`; line 1 when the file has neither.
    pub origin: Origin,
}

/// How a project is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProjectKind {
    /// On an address, with no container of ours.
    Gateway(GatewayConfig),
    /// In a container.
    Sandbox(SandboxConfig),
}

/// `[gateway]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Where Envoy listens; the port is not 0.
    pub listen: SocketAddr,
}

/// `[sandbox]`, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxConfig {
    /// What runs the container.
    pub runtime: Runtime,
    /// The image it is made of.
    pub image: ImageName,
    /// How much memory it may use; no limit when `None`.
    pub memory: Option<Memory>,
    /// How many processors it may use; no limit when `None`.
    pub cpus: Option<Cpus>,
    /// Whether URLs may be opened in the host's browser.
    pub use_host_browser: bool,
    /// Whether tabs of the host's browser may be driven.
    pub use_host_browser_cdp: bool,
    /// Environment variables of the sandbox.
    pub env: BTreeMap<EnvName, EnvValue>,
    /// The line of each.
    pub env_origins: BTreeMap<EnvName, Origin>,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            runtime: Runtime::Runsc,
            image: ImageName::default(),
            memory: None,
            cpus: None,
            use_host_browser: true,
            use_host_browser_cdp: true,
            env: BTreeMap::new(),
            env_origins: BTreeMap::new(),
        }
    }
}

/// The container runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// gVisor.
    Runsc,
    /// The host's kernel.
    Runc,
}

/// The value of an environment variable of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvValue {
    /// This text.
    Plain(Arc<str>),
    /// What the variable `name` holds on the host when the sandbox starts.
    FromHost {
        /// The variable on the host.
        name: EnvName,
    },
    /// A token minted for this sandbox alone, with these caveats.
    Token {
        /// The hosts it is good for; at least one.
        hosts: BTreeSet<HostPattern>,
        /// The methods and paths it is good for.
        limits: Limits,
    },
}

impl ProjectConfig {
    /// What Envoy and the vault are to enforce; `serving` says where a sandbox is served, `None` for one that does not run.
    pub fn policy(&self, serving: Option<&Serving>) -> Option<Policy> {
        let (listen, instance) = match (&self.kind, serving) {
            (ProjectKind::Gateway(gateway), _) => (gateway.listen, None),
            (ProjectKind::Sandbox(_), Some(serving)) => (serving.listen, Some(serving.instance.clone())),
            (ProjectKind::Sandbox(_), None) => return None,
        };
        Some(Policy {
            id: self.id.clone(),
            instance,
            listen,
            origin: self.origin.clone(),
            upstreams: self.upstreams.clone(),
            vault: self.vault.as_ref().map(|vault| vault.address.clone()),
        })
    }

    /// The ports in the sandbox at which the host's browser is found: 9222, and those of its targets; none when it is not to be.
    pub fn cdp_ports(&self) -> BTreeSet<u16> {
        match &self.kind {
            ProjectKind::Sandbox(sandbox) if sandbox.use_host_browser_cdp => {
                self.cdp_targets.iter().map(|target| target.port).chain([CDP_PORT]).collect()
            }
            ProjectKind::Sandbox(_) | ProjectKind::Gateway(_) => BTreeSet::new(),
        }
    }

    /// A sandbox that may reach nothing: what is in force while its file cannot be read.
    pub(crate) fn nothing(id: SandboxId, file: &Arc<str>) -> Self {
        Self {
            id,
            kind: ProjectKind::Sandbox(SandboxConfig::default()),
            upstreams: BTreeMap::new(),
            vault: None,
            browser_targets: Vec::new(),
            cdp_targets: Vec::new(),
            watch: Vec::new(),
            origin: Origin { file: Arc::clone(file), line: 1 },
        }
    }
}

/// Parses an `agent-creds.toml`.
///
/// `file` is its name in messages, `folder` the absolute folder it is in (its last part is the default name, and `ca` paths
/// begin there), `text` its content, and `read` gives the `ca` files.
///
/// # Errors
/// Everything that is wrong with the file, at once.
pub fn parse_project(file: &str, folder: &Path, text: &str, read: &dyn ReadFile) -> Result<ProjectConfig, Diagnostics> {
    let reader = Reader::new(file, text);
    let project = reader.parse().and_then(|tree| {
        let root = reader.root(&tree)?;
        read_root(root, folder, read)
    });
    reader.finish()?;
    // `None` without a noted problem cannot be; if it were, the file must still not pass.
    project.ok_or_else(|| Diagnostic::of_file(&file.into(), "the file does not describe a project").into())
}

fn read_root(mut root: Table<'_, '_>, folder: &Path, read: &dyn ReadFile) -> Option<ProjectConfig> {
    let sandbox = root.optional("sandbox");
    let gateway = root.optional("gateway");
    if let (Some(sandbox), Some(gateway)) = (&sandbox, &gateway) {
        let hint = "a project is one or the other: remove one of them".to_owned();
        gateway.wrong_key(format_args!("[gateway] beside [sandbox] (line {})", sandbox.origin().line), Some(hint));
    }
    let upstreams = root.optional("upstream").map(|item| upstream::read(&item, folder, read));
    let vault = root.optional("vault").and_then(|item| SharedVaultConfig::read(&item));
    let browser_targets = root.optional("browser_target");
    let cdp_targets = root.optional("cdp_target");
    for item in [&browser_targets, &cdp_targets].into_iter().flatten() {
        if gateway.is_some() {
            let hint = "remove it: a gateway has no sandbox that could open a browser".to_owned();
            item.wrong_key(format_args!("{} in a gateway's file", quoted(item.name)), Some(hint));
        }
    }
    let browser_targets = browser_targets.map(|item| BrowserTarget::read_all(&item)).unwrap_or_default();
    let cdp_targets = cdp_targets.map(|item| CdpTarget::read_all(&item)).unwrap_or_default();
    let default_origin = root.item.origin();
    let root_item = root.item.clone();
    root.finish();

    let header = gateway.as_ref().or(sandbox.as_ref()).unwrap_or(&root_item).clone();
    let (name, kind, origin) = match (gateway, sandbox) {
        (Some(gateway), _) => read_gateway(&gateway)?,
        (None, Some(sandbox)) => read_sandbox(&sandbox)?,
        (None, None) => (None, ProjectKind::Sandbox(SandboxConfig::default()), default_origin),
    };
    let id = match name {
        Some(id) => id?,
        None => name_of_folder(folder, &header)?,
    };
    let Upstreams { by_host, ca_files } = upstreams.unwrap_or_default();
    Some(ProjectConfig { id, kind, upstreams: by_host, vault, browser_targets, cdp_targets, watch: ca_files, origin })
}

/// Outer `None`: no name given; inner `None`: a bad one, noted.
type Name = Option<Option<SandboxId>>;

fn read_name(table: &mut Table<'_, '_>) -> Name {
    let item = table.optional("name")?;
    Some(item.string().and_then(|text| match text.parse() {
        Ok(id) => Some(id),
        Err(error) => {
            let hint = SandboxId::slug(text).map(|id| format!("write \"{id}\""));
            item.wrong(format_args!("{} is not valid here: {error}", quoted(text)), hint);
            None
        }
    }))
}

fn name_of_folder(folder: &Path, header: &Item<'_, '_>) -> Option<SandboxId> {
    let id = folder.file_name().and_then(|name| SandboxId::slug(&name.to_string_lossy()));
    if id.is_none() {
        let hint = "add name = \"…\" to [sandbox] or [gateway]".to_owned();
        header.wrong_key("the folder's name gives no name for the project", Some(hint));
    }
    id
}

fn read_gateway(item: &Item<'_, '_>) -> Option<(Name, ProjectKind, Origin)> {
    let mut table = item.table()?;
    let name = read_name(&mut table);
    let listen = table.required("listen", "\"127.0.0.1:15443\"").and_then(|listen| {
        let text = listen.string()?;
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Some((address, listen.origin())),
            _ => {
                let hint = "write an IP address and a port other than 0, as in \"127.0.0.1:15443\" or \"[::1]:15443\"";
                listen.wrong(format_args!("{} is no address to listen on", quoted(text)), Some(hint.to_owned()));
                None
            }
        }
    });
    table.finish();
    let (listen, origin) = listen?;
    Some((name, ProjectKind::Gateway(GatewayConfig { listen }), origin))
}

fn read_sandbox(item: &Item<'_, '_>) -> Option<(Name, ProjectKind, Origin)> {
    let mut table = item.table()?;
    let name = read_name(&mut table);
    let default = SandboxConfig::default();
    let (env, env_origins) = table.optional("env").and_then(|item| read_env(&item)).unwrap_or_default();
    let sandbox = SandboxConfig {
        runtime: table.optional("runtime").and_then(|item| read_runtime(&item)).unwrap_or(default.runtime),
        image: table.optional("image").and_then(|item| item.parse()).unwrap_or(default.image),
        memory: table.optional("memory").and_then(|item| item.parse()),
        cpus: table.optional("cpus").and_then(|item| item.parse()),
        use_host_browser: read_flag(&mut table, "use_host_browser"),
        use_host_browser_cdp: read_flag(&mut table, "use_host_browser_cdp"),
        env,
        env_origins,
    };
    table.finish();
    Some((name, ProjectKind::Sandbox(sandbox), item.origin()))
}

fn read_flag(table: &mut Table<'_, '_>, key: &'static str) -> bool {
    table.optional(key).and_then(|item| item.boolean()).unwrap_or(true)
}

fn read_runtime(item: &Item<'_, '_>) -> Option<Runtime> {
    match item.string()? {
        "runsc" => Some(Runtime::Runsc),
        "runc" => Some(Runtime::Runc),
        other => {
            let hint = match nearest(other, ["runsc", "runc"]) {
                Some(meant) => format!("did you mean \"{meant}\"?"),
                None => "write \"runsc\" (gVisor) or \"runc\"".to_owned(),
            };
            item.wrong(format_args!("there is no runtime {}", quoted(other)), Some(hint));
            None
        }
    }
}

type Env = (BTreeMap<EnvName, EnvValue>, BTreeMap<EnvName, Origin>);

fn read_env(item: &Item<'_, '_>) -> Option<Env> {
    let (mut env, mut origins) = Env::default();
    for entry in item.table()?.into_entries() {
        let name = entry.name.parse::<EnvName>();
        if let Err(error) = &name {
            entry.wrong_key(format_args!("{} is not valid here: {error}", quoted(entry.name)), None);
        }
        if let (Ok(name), Some(value)) = (name, read_env_value(&entry)) {
            origins.insert(name.clone(), entry.origin());
            env.insert(name, value);
        }
    }
    Some((env, origins))
}

fn read_env_value(entry: &Item<'_, '_>) -> Option<EnvValue> {
    if let Some(text) = entry.as_string() {
        if text.contains('\0') {
            entry.wrong("an environment variable cannot hold a NUL character", None);
            return None;
        }
        return Some(EnvValue::Plain(text.into()));
    }
    let example = "write a text, { from = \"NAME\" } or { token = { hosts = [\"api.stripe.com\"] } }";
    if !entry.is_table() {
        // Says which type was found; a table is not the only way out, so the hint must not be the usual one.
        entry.wrong(format_args!("{} must be a string or a table", quoted(entry.name)), Some(example.to_owned()));
        return None;
    }
    let mut table = entry.table()?;
    let value = match (table.optional("token"), table.optional("from")) {
        (Some(token), None) => read_token(&token),
        (None, Some(name)) => name.parse().map(|name| EnvValue::FromHost { name }),
        _ => {
            entry.wrong(format_args!("{} needs one of `token`, `from`", quoted(entry.name)), Some(example.to_owned()));
            None
        }
    };
    table.finish();
    value
}

fn read_token(item: &Item<'_, '_>) -> Option<EnvValue> {
    let mut table = item.table()?;
    let hosts = table.required("hosts", "[\"api.stripe.com\"]").and_then(|hosts| {
        hosts.parse_list::<HostPattern>("a token needs a host it is good for: hosts = [\"api.stripe.com\"]")
    });
    let limits =
        upstream::read_limits(&mut table, "a token that allows nothing is of no use: remove the variable instead");
    table.finish();
    Some(EnvValue::Token { hosts: hosts?.into_iter().collect(), limits: limits? })
}

#[cfg(test)]
#[path = "project_tests.rs"]
mod tests;
