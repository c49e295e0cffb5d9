//! What a sandbox finds at `/opt/agent-creds`: a folder of the host, mounted read-only.
//!
//! | file | is |
//! |---|---|
//! | `ca.pem`, `cacerts.jks` | the CA to trust, for everything but Java and for Java |
//! | `policy.json` | what may be reached, for `aenv` |
//! | `bin/` | `xdg-open` and what else browsers are called: links to `aenv`, first in `PATH` |
//! | `resolv.conf` | our DNS responder, mounted at `/etc/resolv.conf` |
//!
//! Files are replaced by renaming, so that a reader inside sees the old one or the new one; but for `resolv.conf`, which is
//! mounted by itself, and never changes while the sandbox lives.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::{Diagnostic, ProjectConfig};
use crate::domain::macaroon::TokenPrefix;
use crate::domain::names::{Instance, SandboxId};
use crate::domain::opening::BROWSERS;
use crate::pki::Ca;
use crate::sandbox::spec::body::HELPERS;

/// The port of plain HTTP: at the gateway, as at any address, it leads to the sandbox's listener.
const HTTP: u16 = 80;

/// The CA as files: PEM, and a Java key store.
#[derive(Debug)]
pub(in crate::server) struct Trust {
    pem: String,
    jks: Vec<u8>,
}

impl Trust {
    pub(in crate::server) fn of(ca: &Ca) -> Self {
        Self { pem: ca.certificate_pem().to_owned(), jks: ca.java_trust_store() }
    }
}

/// The folder of one sandbox.
#[derive(Debug, Clone)]
pub(super) struct Inside {
    folder: PathBuf,
}

/// `policy.json`.
#[derive(Debug, Serialize)]
struct PolicyFile<'a> {
    version: u32,
    sandbox: &'a SandboxId,
    instance: &'a Instance,
    token_prefix: String,
    strict: bool,
    generation: u64,
    problems: Vec<String>,
    host: HostEntry,
    vault: Option<String>,
    upstreams: Vec<UpstreamEntry<'a>>,
}

/// How programs of ours in the sandbox reach the server.
#[derive(Debug, Serialize)]
struct HostEntry {
    /// To which they speak plain HTTP.
    address: SocketAddr,
    /// The ports on which the host's browser is to be found.
    cdp_ports: BTreeSet<u16>,
}

#[derive(Debug, Serialize)]
struct UpstreamEntry<'a> {
    host: String,
    methods: Option<Vec<&'a str>>,
    paths: Option<Vec<&'a str>>,
}

/// What `policy.json` is made of.
#[derive(Debug)]
pub(super) struct PolicyView<'a> {
    pub(super) project: &'a ProjectConfig,
    pub(super) instance: &'a Instance,
    pub(super) gateway: Ipv4Addr,
    pub(super) prefix: &'a TokenPrefix,
    pub(super) strict: bool,
    pub(super) generation: u64,
    pub(super) problems: &'a [Diagnostic],
}

impl Inside {
    /// The folder of `sandbox` in the runtime folder.
    pub(super) fn of(runtime_dir: &Path, sandbox: &SandboxId) -> Self {
        Self { folder: runtime_dir.join("sandboxes").join(sandbox.as_str()) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    /// Makes the folder, and all that does not change while the sandbox lives.
    pub(super) fn create(&self, gateway: Ipv4Addr, trust: &Trust) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        // The folder above is private; in the sandbox, anybody reads this one.
        fs::set_permissions(&self.folder, Permissions::from_mode(0o755))?;
        self.replace("resolv.conf", format!("nameserver {gateway}\noptions timeout:2 attempts:2\n").as_bytes())?;
        self.browsers()?;
        self.trust(trust)
    }

    /// Makes the links by which programs find a browser.
    fn browsers(&self) -> io::Result<()> {
        let bin = self.folder.join("bin");
        fs::create_dir_all(&bin)?;
        fs::set_permissions(&bin, Permissions::from_mode(0o755))?;
        for name in BROWSERS {
            match symlink(format!("{HELPERS}/aenv"), bin.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes the CA.
    pub(super) fn trust(&self, trust: &Trust) -> io::Result<()> {
        self.replace("ca.pem", trust.pem.as_bytes())?;
        self.replace("cacerts.jks", &trust.jks)
    }

    /// Writes what may be reached.
    pub(super) fn policy(&self, view: &PolicyView<'_>) -> io::Result<()> {
        let upstreams = view.project.upstreams.iter().map(|(pattern, upstream)| UpstreamEntry {
            host: pattern.to_string(),
            methods: upstream.limits.methods.as_ref().map(|all| all.iter().map(|method| method.as_str()).collect()),
            paths: upstream.limits.paths.as_ref().map(|all| all.iter().map(|path| path.as_str()).collect()),
        });
        let file = PolicyFile {
            version: 1,
            sandbox: &view.project.id,
            instance: view.instance,
            token_prefix: view.prefix.to_string(),
            strict: view.strict,
            generation: view.generation,
            problems: view.problems.iter().map(ToString::to_string).collect(),
            host: HostEntry { address: (view.gateway, HTTP).into(), cdp_ports: view.project.cdp_ports() },
            vault: view.project.vault.as_ref().map(|vault| vault.address.to_string()),
            upstreams: upstreams.collect(),
        };
        let mut text = serde_json::to_vec_pretty(&file)?;
        text.push(b'\n');
        self.replace("policy.json", &text)
    }

    /// Removes the folder; one that is not there is removed already.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = self.folder.join(name);
        if fs::read(&path).is_ok_and(|old| old == content) {
            return Ok(());
        }
        let new = self.folder.join(format!(".{name}.new"));
        fs::write(&new, content)?;
        fs::set_permissions(&new, Permissions::from_mode(0o644))?;
        fs::rename(&new, &path)
    }
}
