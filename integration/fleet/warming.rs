//! A listener whose certificate is not there yet: nobody can connect, until the certificate arrives.
//!
//! The real server always has its certificates, so this is the library's xDS service in this process, with certificates that
//! are withheld.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use agent_creds::domain::names::Host;
use agent_creds::domain::policy::{Limits, Origin, Policy, Upstream};
use agent_creds::envoy::Protocol;
use agent_creds::pki::{Ca, LeafSchedule};
use agent_creds::xds::metrics::XdsMetrics;
use agent_creds::xds::resources::{FleetBuilder, Leaf, Leaves, TrustedCa};
use agent_creds::xds::service::{Connections, XdsService};
use agent_creds::xds::snapshot::{Fleet, ResourceType};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Routes;

use super::{A, KINDS};
use crate::support::client::{Client, Proto};
use crate::support::pki::TestCa;
use crate::support::probe::{eventually, in_use};
use crate::support::server::{ForeignEnvoy, envoy_of, loopback};

/// Certificates that cannot be had before `is_there`.
struct Withheld {
    ca: Ca,
    is_there: AtomicBool,
}

const SCHEDULE: Duration = Duration::from_secs(86_400);

impl Leaves for Withheld {
    fn authority(&self) -> String {
        self.ca.fingerprint().to_owned()
    }

    fn epoch(&self) -> u64 {
        self.is_there.load(Ordering::SeqCst).into()
    }

    fn slot(&self, _: &Host, epoch: u64) -> u64 {
        epoch
    }

    fn mint(&self, host: &Host) -> Result<Leaf, String> {
        if !self.is_there.load(Ordering::SeqCst) {
            return Err("withheld".to_owned());
        }
        let leaf = self.ca.mint_leaf(host, LeafSchedule::new(SCHEDULE), SystemTime::now());
        leaf.map(|leaf| Leaf { chain: leaf.chain, key: leaf.key }).map_err(|error| error.to_string())
    }
}

fn policy(listen: SocketAddr) -> Policy {
    let origin = Origin { file: "edge.toml".into(), line: 1 };
    let address = "127.0.0.1:9".parse().unwrap();
    let upstream = Upstream {
        limits: Limits::default(),
        address: Some(address),
        ca: None,
        private: false,
        origin: origin.clone(),
    };
    let upstreams = BTreeMap::from([(A.parse().unwrap(), upstream)]);
    Policy { id: "edge".parse().unwrap(), instance: None, listen, origin, upstreams, vault: None }
}

/// Serves `fleet` on the socket where an Envoy with our bootstrap looks for it.
fn serve(folder: &Path, fleet: watch::Receiver<Arc<Fleet>>) -> (Connections, tokio::task::JoinHandle<()>) {
    let socket = UnixListener::bind(folder.join("xds.sock")).unwrap();
    let metrics = XdsMetrics::register(&prometheus::Registry::new()).unwrap();
    let service = XdsService::new(fleet, "agent-creds test", metrics);
    let connections = service.connections();
    let routes = service.add_to(Routes::default());
    let task = tokio::spawn(async move {
        let incoming = UnixListenerStream::new(socket);
        tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(incoming).await.unwrap();
    });
    (connections, task)
}

#[tokio::test]
async fn a_listener_opens_when_its_certificate_is_there() {
    for (version, protocol) in KINDS {
        let folder = tempfile::Builder::new().prefix("agent-creds-test-").tempdir().unwrap();
        let leaves = Withheld {
            ca: Ca::load_or_create(&folder.path().join("ca"), SystemTime::now()).unwrap(),
            is_there: AtomicBool::new(false),
        };
        let ca_pem = leaves.ca.certificate_pem().to_owned();
        let withheld = Arc::new(leaves);
        let leaves: Arc<dyn Leaves> = withheld.clone();
        let system_ca = TrustedCa::new(TestCa::shared().pem().into());
        let listen = SocketAddr::new(loopback(), 15443);
        let policies = [Arc::new(policy(listen))];
        let mut builder = FleetBuilder::new(leaves, system_ca);
        let (publish, fleet) = watch::channel(Arc::new(builder.build(&policies, &[], 1).unwrap()));
        let (connections, task) = serve(folder.path(), fleet);

        let variant = if protocol == "delta" { Protocol::Delta } else { Protocol::Sotw };
        let bootstrap = agent_creds::server::bootstrap("edge-1", "edge", folder.path(), variant);
        let envoy = {
            let bootstrap = serde_json::from_str(&bootstrap).unwrap();
            ForeignEnvoy::start(Command::new(envoy_of(version)), folder.path(), "warming", &bootstrap)
        };
        let has_secrets = |wanted: bool| {
            let nodes = connections.nodes();
            nodes.iter().any(|node| node.of_type(ResourceType::Secret).subscribed && node.converged == wanted)
        };
        eventually("Envoy asks for the certificate", async || match has_secrets(true) {
            true => Ok(()),
            false => Err(format!("{:?}", connections.nodes())),
        })
        .await;
        // What it rests on is there, and all has been answered; nobody can connect. State of the world has no word for what is
        // not there: the listener itself waits. Delta has, and Envoy opens the listener, which then refuses every handshake.
        let waits = if protocol == "delta" { "warming secret" } else { "warming listener" };
        eventually("the clusters are active", async || {
            let held = in_use(envoy.admin()).await;
            let is_active = held.contains(&format!("cluster edge/{A}"));
            let is_waiting = held.iter().any(|name| name.starts_with(waits));
            if is_active && is_waiting { Ok(()) } else { Err(format!("{held:?}")) }
        })
        .await;
        let client = Client::new(&ca_pem, listen);
        assert!(client.connect(A, Proto::H1).await.is_err(), "{version} {protocol}: it has no certificate");

        withheld.is_there.store(true, Ordering::SeqCst);
        builder.renew();
        publish.send_replace(Arc::new(builder.build(&policies, &[], 2).unwrap()));
        eventually("the listener opens", async || {
            client.connect(A, Proto::H1).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        eventually("nothing waits", async || match in_use(envoy.admin()).await {
            held if held.iter().any(|name| name.starts_with("warming")) => Err(format!("{held:?}")),
            _ => Ok(()),
        })
        .await;
        assert!(connections.nodes()[0].holds(2), "{version} {protocol}");
        drop(envoy);
        task.abort();
    }
}
