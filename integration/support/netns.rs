//! Tests inside a small network of their own: a client that can reach nothing but the gateway (`integration/sdk/netns.sh`).
//!
//! A test that needs it runs twice: outside it starts the script, which starts this very program again inside, for that one
//! test; inside it does its work.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::server::{envoy_bin, run};

/// The network around a test that runs inside.
pub struct Netns {
    gateway: SocketAddr,
    client: PathBuf,
}

impl Netns {
    /// Where every TCP connection of the client ends up: listen there.
    pub fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    /// A command that will run in the client's namespace, with nothing of our environment but `PATH`.
    pub fn client_command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(&self.client);
        command.arg(program.as_ref()).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }
}

/// Runs `body` inside such a network, in which the client resolves `hosts`. `test` is the full name of the calling test.
///
/// # Panics
/// If the network cannot be made, or the test fails inside.
pub fn inside<F: Future<Output = ()>>(test: &str, hosts: &[&str], body: impl FnOnce(Netns) -> F) {
    if let Some(client) = std::env::var_os("NETNS_CLIENT") {
        let part = |name: &str| std::env::var(name).unwrap();
        let gateway = format!("{}:{}", part("NETNS_GATEWAY"), part("NETNS_PORT")).parse().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(body(Netns { gateway, client: client.into() }));
        eprintln!("{test}: passed inside");
        return;
    }
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/integration/sdk/netns.sh"));
    for host in hosts {
        command.args(["--host", host]);
    }
    command.arg("--").arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    // There is no way out to fetch anything from inside.
    command.env("ENVOY_BIN", envoy_bin());
    sdk_python();
    let output = run(&mut command);
    // Without this, a misspelt name would run no test, successfully.
    let passed = output.stderr.contains(&format!("{test}: passed inside"));
    assert!(output.status.success() && passed, "inside:\n{}\n{}", output.stdout, output.stderr);
}

/// The Python with the SDKs, installed when it is not there (`integration/setup.sh`).
pub fn sdk_python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("NETNS_CLIENT").is_none() {
            let output = run(Command::new(root.join("integration/setup.sh")).arg("test"));
            assert!(output.status.success(), "integration/setup.sh test: {}", output.stderr);
        }
        root.join("target/sdk-venv/bin/python3")
    })
}

/// The Python that has Pyppeteer.
pub fn pyppeteer_python() -> PathBuf {
    sdk_python().parent().unwrap().join("../../pyppeteer-venv/bin/python3")
}
