//! Unmodified programs, on the default URLs, in the topology that sandboxes have.

mod aws;
mod programs;

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::netns::{Netns, inside, sdk_python};
use crate::support::pki::TestCa;
use crate::support::server::{ANTHROPIC_KEY, OPENAI_KEY, STRIPE_KEY, Server, WorldConfig, run};
use crate::support::upstream::{Upstream, UpstreamConfig};

const HOSTS: [&str; 3] = ["api.stripe.com", "api.openai.com", "api.anthropic.com"];

/// Runs a script of `integration/sdk` as the client and returns the line it printed.
async fn sdk(netns: &Netns, script: &str, ca_file: &Path, env: &[(&str, &str)]) -> Value {
    let mut command = netns.client_command(sdk_python());
    command.arg(format!("{}/integration/sdk/{script}", env!("CARGO_MANIFEST_DIR")));
    command.env("SSL_CERT_FILE", ca_file).env("REQUESTS_CA_BUNDLE", ca_file).envs(env.iter().copied());
    let output = off_runtime(command).await;
    assert!(output.status.success(), "{script}: {}\n{}", output.stdout, output.stderr);
    serde_json::from_str(output.stdout.trim()).unwrap_or_else(|error| panic!("{script}: {error}: {output:?}"))
}

/// Runs a command while the runtime serves what it asks for.
async fn off_runtime(mut command: Command) -> crate::support::server::Output {
    tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap()
}

fn curl(netns: &Netns, args: &[&str]) -> Command {
    let mut command = netns.client_command("curl");
    command.args(["--disable", "--silent", "--show-error", "--insecure", "--max-time", "5"]).args(args);
    command
}

/// The topology itself, with an upstream in the place of Envoy.
#[test]
fn namespace_leads_every_connection_to_the_gateway_and_none_elsewhere() {
    inside("sdk::namespace_leads_every_connection_to_the_gateway_and_none_elsewhere", &HOSTS, async |netns| {
        let upstream = Upstream::with(UpstreamConfig::new(&HOSTS).listen(netns.gateway())).await;
        // Something that the client must not reach, on the gateway's own address.
        let other = Upstream::with(UpstreamConfig::new(&HOSTS).listen((netns.gateway().ip(), 8443).into())).await;
        let urls = [
            "https://api.openai.com/a",
            "https://203.0.113.7/b",
            "https://203.0.113.7:9999/c",
            "https://10.91.0.1:8443/d",
        ];
        for url in urls {
            let output = off_runtime(curl(&netns, &[url])).await;
            assert!(output.status.success(), "{url}: {output:?}");
        }
        let seen: Vec<_> = upstream.requests().into_iter().map(|request| request.path).collect();
        assert_eq!((seen.join(" ").as_str(), other.connections()), ("/a /b /c /d", 0));
        let ipv6 = off_runtime(curl(&netns, &["https://[2001:db8::1]/"])).await;
        assert!(!ipv6.status.success(), "{ipv6:?}");
        let mut udp = netns.client_command("python3");
        udp.args(["-c", "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.settimeout(1)\ns.sendto(b'?', ('10.91.0.1', 5353))\ns.recv(1)"]);
        let responder = tokio::net::UdpSocket::bind((netns.gateway().ip(), 5353)).await.unwrap();
        let asked = off_runtime(udp).await;
        assert!(!asked.status.success() && asked.stderr.contains("timed out"), "{asked:?}");
        assert!(responder.try_recv(&mut [0]).is_err(), "a datagram reached the host");
    });
}

/// The scripts themselves, with an upstream in the place of Envoy.
#[test]
fn sdk_scripts_are_content_with_the_upstream() {
    inside("sdk::sdk_scripts_are_content_with_the_upstream", &HOSTS, async |netns| {
        let upstream = Upstream::with(UpstreamConfig::new(&HOSTS).listen(netns.gateway())).await;
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, upstream.ca_pem()).unwrap();
        for (script, variable) in [
            ("stripe_sdk.py", "STRIPE_API_KEY"),
            ("openai_sdk.py", "OPENAI_API_KEY"),
            ("anthropic_sdk.py", "ANTHROPIC_API_KEY"),
        ] {
            let said = sdk(&netns, script, &ca_file, &[(variable, "acm_token")]).await;
            eprintln!("{said}");
            assert!(upstream.last_request().contains("acm_token"), "{script}");
        }
    });
}

/// Where the upstream is: an address of the documentation (RFC 5737), so that it counts as a public one.
const PUBLIC: &str = "203.0.113.7";
/// Names that lead to where only this machine or its neighbours are.
const INNER: [(&str, &str); 4] = [
    ("inner.example.com", "10.91.0.1"),
    ("loop.example.com", "127.0.0.1"),
    ("metadata.example.com", "169.254.169.254"),
    ("mapped.example.com", "::ffff:10.91.0.1"),
];

/// Gives the gateway's side names to resolve, and the upstream its address. All of it ends with the namespaces.
fn prepare_names(folder: &Path, public: &[&str]) {
    let mut hosts = String::from("127.0.0.1 localhost\n");
    for host in public {
        hosts.push_str(&format!("{PUBLIC} {host}\n"));
    }
    for (name, address) in INNER {
        hosts.push_str(&format!("{address} {name}\n"));
    }
    let file = folder.join("hosts");
    std::fs::write(&file, hosts).unwrap();
    for arguments in [
        vec!["ip", "address", "add", PUBLIC, "dev", "lo"],
        vec!["ip", "address", "add", "169.254.169.254", "dev", "lo"],
        vec!["mount", "--bind", file.to_str().unwrap(), "/etc/hosts"],
    ] {
        let output = run(Command::new(arguments[0])
            .args(&arguments[1..])
            .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())));
        assert!(output.status.success(), "{arguments:?}: {}", output.stderr);
    }
}

const SDK_VAULT: &str = r#"
[credentials."api.stripe.com"]
type = "bearer"
token = { provider = "env", name = "STRIPE_API_KEY" }

[credentials."api.openai.com"]
type = "bearer"
token = { provider = "env", name = "OPENAI_API_KEY" }

[credentials."api.anthropic.com"]
type = "header"
name = "x-api-key"
value = { provider = "env", name = "ANTHROPIC_API_KEY" }
"#;

/// The product, as an agent has it: unmodified SDKs with tokens, names resolved by Envoy, real keys at the upstream.
#[test]
fn sdks_work_unmodified_through_the_gateway() {
    let hosts: Vec<&str> = HOSTS.into_iter().chain(INNER.map(|(name, _)| name)).collect();
    inside("sdk::sdks_work_unmodified_through_the_gateway", &hosts, async |netns| {
        let folder = tempfile::tempdir().unwrap();
        prepare_names(folder.path(), &HOSTS);
        let upstream = Upstream::with(UpstreamConfig::new(&HOSTS).listen((PUBLIC, 443).into_socket())).await;
        let mut inner = Vec::new();
        for address in ["10.91.0.1", "127.0.0.1", "169.254.169.254"] {
            let names: Vec<&str> = INNER.map(|(name, _)| name).to_vec();
            inner.push(Upstream::with(UpstreamConfig::new(&names).listen((address, 443).into_socket())).await);
        }
        let sections: String = hosts.iter().map(|host| format!("[upstream.\"{host}\"]\n")).collect();
        let world = WorldConfig::new(sections).listen(netns.gateway()).vault(SDK_VAULT);
        let mut server = Server::start(world.system_ca(TestCa::shared().pem())).await;
        let ca_file = server.state_dir().join("ca/ca.pem");

        for (script, variable, host, key, header) in [
            ("stripe_sdk.py", "STRIPE_API_KEY", "api.stripe.com", STRIPE_KEY, "authorization"),
            ("openai_sdk.py", "OPENAI_API_KEY", "api.openai.com", OPENAI_KEY, "authorization"),
            ("anthropic_sdk.py", "ANTHROPIC_API_KEY", "api.anthropic.com", ANTHROPIC_KEY, "x-api-key"),
        ] {
            let methods = if host == "api.stripe.com" { "GET" } else { "GET,POST" };
            let token = server.token(&["--hosts", host, "--methods", methods]);
            upstream.clear();
            let said = sdk(&netns, script, &ca_file, &[(variable, &token)]).await;
            eprintln!("{said}");
            // The proxy's refusal reaches the SDK's user as the SDK's own error.
            assert!(said.get("post").is_none_or(|status| status == 403), "{said}");
            let requests = upstream.requests();
            assert!(!requests.is_empty(), "{script}");
            for request in requests {
                let value = request.header(header).unwrap_or_default();
                assert!(value == key || value == format!("Bearer {key}"), "{script}: {request:?}");
                assert!(!request.contains("acm_"), "{script}: a token travelled on: {request:?}");
            }
        }

        for (name, _) in INNER {
            let url = format!("https://{name}/");
            let output = off_runtime(curl(&netns, &["--include", &url])).await;
            assert!(output.stdout.contains(" 502") && output.stdout.contains("Bad Gateway"), "{name}: {output:?}");
        }
        for upstream in &inner {
            assert_eq!(upstream.connections(), 0, "{} was dialled", upstream.addr());
        }
        server.stop().await;
    });
}

/// `("203.0.113.7", 443)` as a socket address.
trait IntoSocket {
    fn into_socket(self) -> std::net::SocketAddr;
}

impl IntoSocket for (&str, u16) {
    fn into_socket(self) -> std::net::SocketAddr {
        std::net::SocketAddr::new(self.0.parse().unwrap(), self.1)
    }
}
