//! What a sandbox is in Docker's terms, without Docker: names, labels, and the bodies of create requests ([`body`]).
//!
//! Everything here is pure: a golden file shows what is sent, and nothing else can be.

pub mod body;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::domain::names::{Instance, SandboxId};

/// The label with the [`ServerId`]: on everything a server makes, and the only thing it goes by when it removes.
pub const LABEL_SERVER: &str = "agent-creds.server";
/// The label with the [`Role`].
pub const LABEL_ROLE: &str = "agent-creds.role";
/// The label with the sandbox's name.
pub const LABEL_SANDBOX: &str = "agent-creds.sandbox";
/// The label with the path of `agent-creds.toml`.
pub const LABEL_CONFIG: &str = "agent-creds.config";
/// The label with the path of the folder mounted at `/workspace`.
pub const LABEL_WORKSPACE: &str = "agent-creds.workspace";
/// The label with `uid:gid` of every process in the sandbox.
pub const LABEL_USER: &str = "agent-creds.user";
/// The label with the [`Instance`].
pub const LABEL_INSTANCE: &str = "agent-creds.instance";

/// The label with `device:inode:birth` of each file that is mounted read-only in the workspace.
pub const LABEL_FILES: &str = "agent-creds.files";

/// The label with `listener:dns`: the [`Ports`].
pub const LABEL_PORTS: &str = "agent-creds.ports";

/// Why a container cannot be described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Docker's API is JSON: no other bytes can be said.
    #[error("the path {path:?} is not valid UTF-8, and Docker cannot be told of it: rename it")]
    NotUtf8 {
        /// The path.
        path: PathBuf,
    },
    /// Relative, or with `..`.
    #[error("the path {} is not an absolute path without `.` and `..`", path.display())]
    NotAbsolute {
        /// The path.
        path: PathBuf,
    },
    /// A workspace that would give the agent the host.
    #[error("{} cannot be a workspace: {why}. Use the folder of one project", workspace.display())]
    Workspace {
        /// The folder.
        workspace: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// A `ServerId` names one server on this host, across restarts: 12 hexadecimal digits, a hash of its state folder's path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(String);

/// Why a text is no [`ServerId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {digits} lower-case hexadecimal digits")]
pub struct IdError {
    digits: usize,
}

impl ServerId {
    const DIGITS: usize = 12;

    /// The id of the server with this state folder. The path is to be free of symlinks, or one server has two ids.
    pub fn of(state_dir: &Path) -> Self {
        Self(hex(state_dir.as_os_str().as_encoded_bytes(), Self::DIGITS))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        check_hex(text, Self::DIGITS).map(Self)
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_hex(text: &str, digits: usize) -> Result<String, IdError> {
    let legal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() == digits && text.bytes().all(legal) { Ok(text.to_owned()) } else { Err(IdError { digits }) }
}

/// The first `digits` hexadecimal digits of a hash.
fn hex(bytes: &[u8], digits: usize) -> String {
    let mut hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    hex.truncate(digits);
    hex
}

/// The name of a sandbox's container.
pub fn container_name(sandbox: &SandboxId) -> String {
    format!("adev-{sandbox}")
}

/// The name of a sandbox's Docker network.
pub fn network_name(sandbox: &SandboxId) -> String {
    format!("adev-{sandbox}")
}

/// What a container or network of ours carries, so that a server which knows nothing finds everything again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Whose it is.
    pub server: ServerId,
    /// What it is.
    pub role: Role,
}

/// What something of ours is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A sandbox's container or network.
    Sandbox(SandboxLabels),
    /// The container that keeps the host's rules.
    Guard,
    /// The container that Envoy runs in.
    Envoy,
}

/// What a sandbox's container and network tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxLabels {
    /// Its name.
    pub name: SandboxId,
    /// Its `agent-creds.toml`: an absolute path.
    pub config: PathBuf,
    /// The folder mounted at `/workspace`: an absolute path.
    pub workspace: PathBuf,
    /// The user of every process in it.
    pub uid: u32,
    /// The group of every process in it.
    pub gid: u32,
    /// Which launch made it.
    pub instance: Instance,
    /// Where its listener and its DNS responder are, on the gateway's address. A network does not tell: it is made before.
    pub ports: Option<Ports>,
    /// The files that are mounted read-only in the workspace, by device, inode and time of birth: another of the same name is the agent's to
    /// write. A network does not tell.
    pub files: BTreeSet<(u64, u64, u64)>,
}

/// The ports of a sandbox on its gateway's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Envoy's.
    pub listener: u16,
    /// The DNS responder's.
    pub dns: u16,
}

impl Ports {
    fn parse(text: &str) -> Option<Self> {
        let port = |text: &str| u16::try_from(number(text)?).ok();
        let (listener, dns) = text.split_once(':')?;
        Some(Self { listener: port(listener)?, dns: port(dns)? })
    }
}

impl Labels {
    /// What it tells of its sandbox, when it is a sandbox's.
    pub fn sandbox(&self) -> Option<&SandboxLabels> {
        match &self.role {
            Role::Sandbox(sandbox) => Some(sandbox),
            Role::Guard | Role::Envoy => None,
        }
    }

    /// The labels as Docker keeps them.
    ///
    /// # Errors
    /// When a path is not UTF-8.
    pub fn to_map(&self) -> Result<HashMap<String, String>, SpecError> {
        let role = match &self.role {
            Role::Sandbox(_) => "sandbox",
            Role::Guard => "guard",
            Role::Envoy => "envoy",
        };
        let mut map = HashMap::from([
            (LABEL_SERVER.to_owned(), self.server.to_string()),
            (LABEL_ROLE.to_owned(), role.to_owned()),
        ]);
        if let Role::Sandbox(sandbox) = &self.role {
            map.extend([
                (LABEL_SANDBOX.to_owned(), sandbox.name.to_string()),
                (LABEL_CONFIG.to_owned(), utf8(&sandbox.config)?),
                (LABEL_WORKSPACE.to_owned(), utf8(&sandbox.workspace)?),
                (LABEL_USER.to_owned(), format!("{}:{}", sandbox.uid, sandbox.gid)),
                (LABEL_INSTANCE.to_owned(), sandbox.instance.to_string()),
            ]);
            let ports =
                sandbox.ports.map(|Ports { listener, dns }| (LABEL_PORTS.to_owned(), format!("{listener}:{dns}")));
            map.extend(ports);
            if !sandbox.files.is_empty() {
                let files: Vec<_> =
                    sandbox.files.iter().map(|(device, inode, made)| format!("{device}:{inode}:{made}")).collect();
                map.insert(LABEL_FILES.to_owned(), files.join(","));
            }
        }
        Ok(map)
    }

    /// Reads labels; `None` when any is missing or not as [`Labels::to_map`] writes it: then it is not ours.
    pub fn from_map(map: &HashMap<String, String>) -> Option<Self> {
        let text = |label: &str| map.get(label).map(String::as_str);
        let path = |label: &str| text(label).map(PathBuf::from).filter(|path| path.is_absolute());
        let server = text(LABEL_SERVER)?.parse().ok()?;
        let role = match text(LABEL_ROLE)? {
            "sandbox" => {
                let (uid, gid) = text(LABEL_USER)?.split_once(':')?;
                Role::Sandbox(SandboxLabels {
                    name: text(LABEL_SANDBOX)?.parse().ok()?,
                    config: path(LABEL_CONFIG)?,
                    workspace: path(LABEL_WORKSPACE)?,
                    uid: number(uid)?,
                    gid: number(gid)?,
                    instance: text(LABEL_INSTANCE)?.parse().ok()?,
                    ports: match text(LABEL_PORTS) {
                        Some(ports) => Some(Ports::parse(ports)?),
                        None => None,
                    },
                    files: match text(LABEL_FILES) {
                        Some(files) => files.split(',').map(file_id).collect::<Option<_>>()?,
                        None => BTreeSet::new(),
                    },
                })
            }
            "guard" => Role::Guard,
            "envoy" => Role::Envoy,
            _ => return None,
        };
        Some(Self { server, role })
    }
}

fn file_id(text: &str) -> Option<(u64, u64, u64)> {
    let mut numbers = text.split(':').map(|number| number.parse().ok());
    let id = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(id)
}

/// A number as we write it: without sign and leading zeros.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number: &u32| number.to_string() == text)
}

fn utf8(path: &Path) -> Result<String, SpecError> {
    path.to_str().map(str::to_owned).ok_or_else(|| SpecError::NotUtf8 { path: path.to_owned() })
}

fn absolute(path: &Path) -> Result<(), SpecError> {
    // `components` hides `.` and doubled slashes; what comes back the same had none.
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let same = path.components().collect::<PathBuf>().as_os_str() == path.as_os_str();
    if path.is_absolute() && plain && same { Ok(()) } else { Err(SpecError::NotAbsolute { path: path.to_owned() }) }
}

/// Folders of the system: none of them is a project, nor is a folder that holds one.
const SYSTEM: [&str; 20] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/run",
    "/var/lib/docker",
];

/// Nothing in these is a project either: what is written there changes the host.
const SYSTEM_WITHIN: [&str; 6] = ["/boot", "/dev", "/etc", "/proc", "/sys", "/var/lib/docker"];

/// Whether an agent may be given `workspace`, to read and write. Both it and `forbidden` are to be free of symlinks.
///
/// `forbidden` is what must be out of its reach (state and runtime folder, Docker's socket, the vault's configuration): the
/// workspace may not be, hold, or lie in any of it.
///
/// # Errors
/// When it is `/`, a folder of the system, or touches a forbidden path.
pub fn check_workspace(workspace: &Path, forbidden: &[PathBuf]) -> Result<(), SpecError> {
    let refuse = |why: String| Err(SpecError::Workspace { workspace: workspace.to_owned(), why });
    absolute(workspace)?;
    utf8(workspace)?;
    if workspace == Path::new("/") {
        return refuse("it is the whole file system, and the agent could change all of it".to_owned());
    }
    for system in SYSTEM {
        if Path::new(system).starts_with(workspace) {
            return refuse(format!("it holds {system}, which belongs to the system and to others"));
        }
    }
    for system in SYSTEM_WITHIN {
        if workspace.starts_with(system) {
            return refuse(format!("it lies in {system}, which belongs to the system"));
        }
    }
    for path in forbidden {
        if path.starts_with(workspace) {
            return refuse(format!("it holds {}, which no agent may reach", path.display()));
        }
        if workspace.starts_with(path) {
            return refuse(format!("it lies in {}, which no agent may reach", path.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
