//! The bodies of create requests: what Docker is told, to the last field.
//!
//! ```text
//! inside the sandbox                    on the host
//! /workspace                     rw     the project's folder
//! /workspace/agent-creds.toml    ro     the same file: the agent cannot widen its own sandbox
//! /opt/agent-creds               ro     inside_dir: CA, policy.json, resolv.conf
//! /opt/agent-creds-bin           ro     helpers_dir, and in it aenv, mint and cdp-proxy once more
//! /etc/resolv.conf               ro     inside_dir/resolv.conf
//! ```
//!
//! Nothing else of the host is in it, and no secret: environment comes with each `exec`, so it is in no container's configuration.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Ipam, Mount,
    MountBindOptions, MountBindOptionsPropagationEnum, MountType, NetworkCreateRequest, ResourcesUlimits,
};

use super::{Labels, Role, SandboxLabels, ServerId, SpecError, absolute, container_name, network_name, utf8};

/// Where the project's folder is in the sandbox.
pub const WORKSPACE: &str = "/workspace";
/// Where the CA, the policy and the like are.
pub const INSIDE: &str = "/opt/agent-creds";
/// Where our programs are.
pub const HELPERS: &str = "/opt/agent-creds-bin";

/// Whom Docker's own resolver asks: anybody, because all queries of a sandbox are redirected (an address for documentation).
const DOCKERS_RESOLVER: &str = "198.51.100.53";
/// As many processes and threads as a sandbox may have: a fork bomb ends here, a parallel build does not.
const PIDS: i64 = 4096;
/// Envoy and the guard need far fewer.
const HELPER_PIDS: i64 = 512;

/// How a sandbox's processes are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// gVisor: system calls are answered by a kernel in user space.
    Runsc,
    /// The host's kernel, with namespaces, seccomp and capabilities.
    Runc,
}

impl Runtime {
    /// The name Docker has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runsc => "runsc",
            Self::Runc => "runc",
        }
    }
}

/// What is to be created, under which name.
#[derive(Debug, Clone, PartialEq)]
pub struct Create {
    /// The container's name.
    pub name: String,
    /// Docker's `POST /containers/create`.
    pub body: ContainerCreateBody,
}

/// A sandbox's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSpec {
    /// Whose it is.
    pub server: ServerId,
    /// Name, workspace, user, instance. The workspace was checked by [`super::check_workspace`].
    pub sandbox: SandboxLabels,
    /// The image.
    pub image: String,
    /// How its processes run.
    pub runtime: Runtime,
    /// Memory limit in bytes, swap included.
    pub memory: Option<u64>,
    /// CPU limit in billionths of a CPU.
    pub cpus: Option<u64>,
    /// What the server reads and the agent must not write: `agent-creds.toml` and the files it names, free of symlinks. The server
    /// must open them by these very paths. Those in the workspace are mounted read-only over themselves.
    pub protected: Vec<PathBuf>,
    /// The folder of this sandbox that is mounted at [`INSIDE`]; it has a `resolv.conf`.
    pub inside_dir: PathBuf,
    /// The folder of our programs, mounted at [`HELPERS`].
    pub helpers_dir: PathBuf,
    /// What every process has in its environment; no secrets, because Docker writes it to the disk.
    pub environment: BTreeMap<String, String>,
    /// Whether the host's kernel has IPv6 (`/proc/sys/net/ipv6` exists): there it is switched off inside.
    pub host_has_ipv6: bool,
}

impl SandboxSpec {
    /// The request that creates it.
    ///
    /// # Errors
    /// When a path is relative or not UTF-8.
    pub fn create(&self) -> Result<Create, SpecError> {
        let sandbox = &self.sandbox;
        let mut host = hardened(PIDS);
        host.network_mode = Some(network_name(&sandbox.name));
        host.runtime = Some(self.runtime.as_str().to_owned());
        host.memory = self.memory.map(signed);
        // The same number: no swap beside it.
        host.memory_swap = host.memory;
        host.nano_cpus = self.cpus.map(signed);
        host.mounts = Some(self.mounts()?);
        // Docker's own resolver (127.0.0.11) asks from within the sandbox, so our responder answers; without this it would ask a
        // resolver on the host's loopback, if the host has one, from the host, and names would carry data out.
        host.dns = Some(vec![DOCKERS_RESOLVER.to_owned()]);
        // gVisor has a network stack of its own, and no such setting.
        if self.runtime == Runtime::Runc && self.host_has_ipv6 {
            let off = |what: &str| (format!("net.ipv6.conf.{what}.disable_ipv6"), "1".to_owned());
            host.sysctls = Some([off("all"), off("default")].into());
        }
        let labels = Labels { server: self.server.clone(), role: Role::Sandbox(sandbox.clone()) };
        let body = ContainerCreateBody {
            hostname: Some(sandbox.name.to_string()),
            user: Some(format!("{}:{}", sandbox.uid, sandbox.gid)),
            image: Some(self.image.clone()),
            working_dir: Some(WORKSPACE.to_owned()),
            entrypoint: Some(vec![format!("{HELPERS}/aenv")]),
            cmd: Some(vec!["init".to_owned()]),
            labels: Some(labels.to_map()?),
            env: Some(self.environment.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            // An image's own check would run what the image says, beside what we start.
            healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        };
        Ok(Create { name: container_name(&sandbox.name), body })
    }

    fn mounts(&self) -> Result<Vec<Mount>, SpecError> {
        let workspace = &self.sandbox.workspace;
        let mut mounts = vec![
            bind(workspace, WORKSPACE, false)?,
            bind(&self.inside_dir, INSIDE, true)?,
            bind(&self.helpers_dir, HELPERS, true)?,
            // Over itself: gVisor lets O_TRUNC through to the files of a folder that is mounted read-only, and this one is
            // everybody's. A file that is a mount is safe. What INSIDE has is this sandbox's own, and never read again.
            bind(&self.helpers_dir.join("aenv"), &format!("{HELPERS}/aenv"), true)?,
            bind(&self.helpers_dir.join("mint"), &format!("{HELPERS}/mint"), true)?,
            bind(&self.helpers_dir.join("cdp-proxy"), &format!("{HELPERS}/cdp-proxy"), true)?,
            bind(&self.inside_dir.join("resolv.conf"), "/etc/resolv.conf", true)?,
        ];
        let mut over = BTreeMap::new();
        for file in &self.protected {
            absolute(file)?;
            if let Ok(within) = file.strip_prefix(workspace) {
                // A folder that holds a mount can be renamed, and the file with it. A mount itself cannot: so each folder on
                // the way becomes one.
                for folder in within.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
                    over.entry(folder).or_insert(false);
                }
                over.insert(within, true);
            }
        }
        for (within, read_only) in over {
            mounts.push(bind(&workspace.join(within), &format!("{WORKSPACE}/{}", utf8(within)?), read_only)?);
        }
        Ok(mounts)
    }
}

/// A sandbox's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Whose it is.
    pub server: ServerId,
    /// Which sandbox's.
    pub sandbox: SandboxLabels,
    /// The name of its bridge on the host.
    pub bridge: String,
}

impl NetworkSpec {
    /// The request that creates it.
    ///
    /// # Errors
    /// When a path in the labels is not UTF-8.
    pub fn create(&self) -> Result<NetworkCreateRequest, SpecError> {
        let labels = Labels { server: self.server.clone(), role: Role::Sandbox(self.sandbox.clone()) };
        let option = |name: &str, value: &str| (format!("com.docker.network.bridge.{name}"), value.to_owned());
        Ok(NetworkCreateRequest {
            name: network_name(&self.sandbox.name),
            driver: Some("bridge".to_owned()),
            internal: Some(false),
            attachable: Some(false),
            enable_ipv6: Some(false),
            ipam: Some(Ipam { driver: Some("default".to_owned()), ..Ipam::default() }),
            options: Some(HashMap::from([
                option("name", &self.bridge),
                option("enable_ip_masquerade", "false"),
                option("enable_icc", "false"),
            ])),
            labels: Some(labels.to_map()?),
            ..NetworkCreateRequest::default()
        })
    }
}

/// The container that keeps the host's rules: root, but with nothing of root's except the host's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardSpec {
    /// Whose it is.
    pub server: ServerId,
    /// The image: it has `nft` and `ip`.
    pub image: String,
    /// The folder of our programs.
    pub helpers_dir: PathBuf,
}

impl GuardSpec {
    /// Its container's name.
    pub fn name(server: &ServerId) -> String {
        format!("agent-creds-guard-{server}")
    }

    /// The request that creates it. Its standard input stays open when the server goes: the guard goes
    /// on guarding what it was told, and the next server takes its place.
    ///
    /// # Errors
    /// When a path is relative or not UTF-8.
    pub fn create(&self) -> Result<Create, SpecError> {
        let mut host = hardened(HELPER_PIDS);
        host.network_mode = Some("host".to_owned());
        host.cap_add = Some(vec!["NET_ADMIN".to_owned()]);
        host.readonly_rootfs = Some(true);
        host.auto_remove = Some(true);
        host.mounts = Some(vec![bind(&self.helpers_dir, HELPERS, true)?]);
        let body = ContainerCreateBody {
            user: Some("0:0".to_owned()),
            image: Some(self.image.clone()),
            working_dir: Some("/".to_owned()),
            entrypoint: Some(vec![format!("{HELPERS}/aenv")]),
            cmd: Some(vec!["guard".to_owned()]),
            open_stdin: Some(true),
            stdin_once: Some(false),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(false),
            ..self::helper(&self.server, Role::Guard, host)?
        };
        Ok(Create { name: Self::name(&self.server), body })
    }
}

/// The container that Envoy runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvoySpec {
    /// Whose it is.
    pub server: ServerId,
    /// The image.
    pub image: String,
    /// The server's runtime folder (sockets, bootstrap), at the same path inside, to read and write.
    pub runtime_dir: PathBuf,
    /// The server's user: the sockets are its own.
    pub uid: u32,
    /// The server's group.
    pub gid: u32,
    /// The program and its arguments.
    pub command: Vec<String>,
}

impl EnvoySpec {
    /// Its container's name.
    pub fn name(server: &ServerId) -> String {
        format!("agent-creds-envoy-{server}")
    }

    /// The request that creates it.
    ///
    /// # Errors
    /// When a path is relative or not UTF-8.
    pub fn create(&self) -> Result<Create, SpecError> {
        let runtime_dir = utf8(&self.runtime_dir)?;
        let mut host = hardened(HELPER_PIDS);
        host.network_mode = Some("host".to_owned());
        host.readonly_rootfs = Some(true);
        host.mounts = Some(vec![bind(&self.runtime_dir, &runtime_dir, false)?]);
        let mut command = self.command.iter().cloned();
        let body = ContainerCreateBody {
            user: Some(format!("{}:{}", self.uid, self.gid)),
            image: Some(self.image.clone()),
            working_dir: Some("/".to_owned()),
            entrypoint: Some(command.by_ref().take(1).collect()),
            cmd: Some(command.collect()),
            ..self::helper(&self.server, Role::Envoy, host)?
        };
        Ok(Create { name: Self::name(&self.server), body })
    }
}

fn helper(server: &ServerId, role: Role, host: HostConfig) -> Result<ContainerCreateBody, SpecError> {
    let labels = Labels { server: server.clone(), role };
    Ok(ContainerCreateBody {
        labels: Some(labels.to_map()?),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    })
}

/// What holds for every container of ours. Docker's own seccomp profile, masked and read-only paths stay as they are.
fn hardened(pids: i64) -> HostConfig {
    // No core dumps into the workspace. The number of open files stays Docker's: it cannot give more than it has itself.
    let core = ResourcesUlimits { name: Some("core".to_owned()), soft: Some(0), hard: Some(0) };
    HostConfig {
        privileged: Some(false),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        pids_limit: Some(pids),
        ulimits: Some(vec![core]),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        ipc_mode: Some("private".to_owned()),
        publish_all_ports: Some(false),
        auto_remove: Some(false),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), "10m".to_owned()),
                ("max-file".to_owned(), "2".to_owned()),
            ])),
        }),
        ..HostConfig::default()
    }
}

/// A mount of `source`, which must be there: as a mount, unlike a `Bind`, it is never made.
fn bind(source: &Path, target: &str, read_only: bool) -> Result<Mount, SpecError> {
    absolute(source)?;
    Ok(Mount {
        target: Some(target.to_owned()),
        source: Some(utf8(source)?),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    })
}

/// Docker counts in signed numbers.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
