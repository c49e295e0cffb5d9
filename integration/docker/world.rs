//! A server's worth of containers and networks, with an image made from this host's own programs; all of it goes with the world.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agent_creds::domain::names::Instance;
use agent_creds::sandbox::docker::{Docker, Exec, ExecRequest, Output as Said};
use agent_creds::sandbox::network::NetKey;
use agent_creds::sandbox::spec::body::{NetworkSpec, Runtime, SandboxSpec};
use agent_creds::sandbox::spec::{SandboxLabels, ServerId};
use futures_util::StreamExt;
use tempfile::TempDir;

use crate::support::server::install_script;

/// Plenty, on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What the sandboxes' programs are.
const PROGRAMS: [&str; 10] = ["sh", "cat", "head", "id", "ln", "mkdir", "mv", "rm", "sleep", "stty"];

/// Plays our helpers: a first process that waits, and a guard that answers.
const AENV: &str = r#"#!/bin/sh
case "$1" in
init) trap 'exit 0' TERM; echo "init runs"; while :; do sleep 1 & wait $!; done ;;
guard) cat /proc/self/status; echo ready; while read -r line; do echo "noise" >&2; echo "got $line"; done; exit 5 ;;
esac
"#;

pub struct World {
    pub docker: Docker,
    pub server: ServerId,
    pub image: String,
    dir: TempDir,
}

impl World {
    pub async fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let docker = Docker::connect(std::env::var("DOCKER_HOST").ok().as_deref()).await.unwrap();
        let unique = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let image = format!("agent-creds-test-{unique}");
        let world = Self { docker, server: ServerId::of(dir.path()), image, dir };
        for folder in ["inside", "helpers", "runtime", "shop/certs/dev"] {
            fs::create_dir_all(world.path(folder)).unwrap();
        }
        let write = |file: &str, text: &str| fs::write(world.path(file), text).unwrap();
        write("shop/agent-creds.toml", "[sandbox]\n");
        write("shop/certs/dev/ca.pem", "a CA\n");
        write("inside/resolv.conf", "nameserver 192.0.2.53\n");
        write("inside/ca.pem", "our CA\n");
        install_script(AENV, &world.path("helpers/aenv"));
        install_script(AENV, &world.path("helpers/mint"));
        install_script(AENV, &world.path("helpers/cdp-proxy"));
        make_image(&world.image, &world.path("image.tar"));
        world
    }

    pub fn path(&self, below: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(below)
    }

    /// A name that no other test has.
    pub fn name(&self, what: &str) -> String {
        format!("{what}-{}", self.server)
    }

    pub fn sandbox(&self, name: &str) -> SandboxSpec {
        let user = fs::metadata(self.dir.path()).unwrap();
        let (uid, gid) = (std::os::unix::fs::MetadataExt::uid(&user), std::os::unix::fs::MetadataExt::gid(&user));
        SandboxSpec {
            server: self.server.clone(),
            sandbox: SandboxLabels {
                name: self.name(name).parse().unwrap(),
                config: self.path("shop/agent-creds.toml"),
                workspace: self.path("shop"),
                uid,
                gid,
                instance: Instance::from_random([7; 8]),
                ports: None,
                files: BTreeSet::new(),
            },
            image: self.image.clone(),
            runtime: Runtime::Runc,
            memory: Some(256 << 20),
            cpus: Some(1_000_000_000),
            protected: vec![self.path("shop/agent-creds.toml"), self.path("shop/certs/dev/ca.pem")],
            inside_dir: self.path("inside"),
            helpers_dir: self.path("helpers"),
            environment: BTreeMap::new(),
            host_has_ipv6: Path::new("/proc/sys/net/ipv6").exists(),
        }
    }

    /// The bridge of a sandbox's network.
    pub fn bridge(&self, name: &str) -> String {
        NetKey::new(self.server.as_str(), &self.name(name)).unwrap().bridge()
    }

    pub fn network(&self, name: &str) -> NetworkSpec {
        let sandbox = self.sandbox(name).sandbox;
        NetworkSpec { server: self.server.clone(), bridge: self.bridge(name), sandbox }
    }

    /// Runs a script in a container to its end, without terminal and input: exit code, output, errors.
    pub async fn run(&self, container: &str, script: &str) -> (i64, String, String) {
        let exec = self.docker.start_exec(container, &request(script)).await.unwrap();
        finish(&self.docker, exec).await
    }

    /// Docker's own client.
    pub fn cli(&self, args: &[&str]) -> Output {
        let output = Command::new("docker").args(args).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {args:?}: {errors}");
        output
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let label = format!("label=agent-creds.server={}", self.server);
        let docker = |args: &[&str]| {
            let output = Command::new("docker").args(args).output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
        };
        for id in docker(&["ps", "-aq", "--filter", &label]).split_whitespace() {
            docker(&["rm", "-fv", id]);
        }
        for id in docker(&["network", "ls", "-q", "--filter", &label]).split_whitespace() {
            docker(&["network", "rm", id]);
        }
        docker(&["rmi", "-f", &self.image]);
    }
}

pub fn request(script: &str) -> ExecRequest {
    let command = ["sh", "-c", script].map(str::to_owned).into();
    ExecRequest { user: "0:0".to_owned(), command, workdir: "/workspace".to_owned(), ..ExecRequest::default() }
}

/// Everything that a process writes, and its exit code.
pub async fn finish(docker: &Docker, exec: Exec) -> (i64, String, String) {
    let Exec { id, input, mut output } = exec;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let read = async {
        while let Some(said) = output.next().await {
            match said.unwrap() {
                Said::Stdout(bytes) | Said::Console(bytes) => stdout.extend_from_slice(&bytes),
                Said::Stderr(bytes) => stderr.extend_from_slice(&bytes),
            }
        }
    };
    tokio::time::timeout(DEADLINE, read).await.expect("the process ends");
    drop(input);
    let code = docker.exec_exit_code(&id).await.unwrap().expect("an exit code");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (code, text(stdout), text(stderr))
}

/// An image with some of this host's programs, and the libraries they need.
fn make_image(name: &str, file: &Path) {
    let mut files: BTreeSet<PathBuf> = BTreeSet::new();
    for program in PROGRAMS {
        let program = Path::new("/bin").join(program);
        let ldd = Command::new("ldd").arg(&program).output().unwrap();
        let libraries = String::from_utf8(ldd.stdout).unwrap();
        files.extend(libraries.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
        files.insert(program);
    }
    let mut tar = tar::Builder::new(fs::File::create(file).unwrap());
    for path in files {
        tar.append_path_with_name(&path, path.strip_prefix("/").unwrap()).unwrap();
    }
    tar.into_inner().unwrap();
    let import =
        Command::new("docker").args(["import", "--change", "ENV PATH=/bin"]).arg(file).arg(name).output().unwrap();
    assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
}
