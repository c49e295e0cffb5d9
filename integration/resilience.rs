//! Processes that die, come back, or find their place taken: requests fail closed, and everything recovers by itself.

mod foreign;
mod metrics;
mod start;

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::net::UnixStream;

use crate::support::client::{Client, Connection, Proto};
use crate::support::load::{Load, LoadConfig, Target};
use crate::support::probe::{admin, eventually, in_use, served_by};
use crate::support::server::{STRIPE_KEY, Server, WorldConfig, loopback, upstream_section};
use crate::support::upstream::Upstream;

const A: &str = "a.example.com";
const B: &str = "b.example.com";
const STRIPE: &str = "api.stripe.com";

/// Connections that agents keep open, by both versions.
struct Kept {
    client: Client,
    token: String,
    connections: Vec<(Proto, Connection)>,
}

impl Kept {
    async fn open(server: &Server) -> Self {
        let client = server.client();
        let mut connections = Vec::new();
        for proto in [Proto::H1, Proto::H2] {
            connections.push((proto, client.connect(STRIPE, proto).await.unwrap()));
        }
        Self { client, token: server.token(&["--hosts", STRIPE]), connections }
    }

    /// Sends a request with a token on each, and returns how they were answered; a lost connection is an error.
    async fn ask(&mut self) -> Result<Vec<(StatusCode, String)>, String> {
        let mut answers = Vec::new();
        for (proto, connection) in &mut self.connections {
            let call = self.client.get(&format!("https://{STRIPE}/echo")).bearer(&self.token).proto(*proto);
            let reply = connection.send(call.to_request()).await.map_err(|error| format!("{proto:?}: {error}"))?;
            answers.push((reply.status, reply.text()));
        }
        Ok(answers)
    }

    async fn assert_swapped(&mut self) {
        for (status, text) in self.ask().await.unwrap() {
            // What comes back as it is, is masked.
            let backwards: String = STRIPE_KEY.chars().rev().collect();
            assert!(status == StatusCode::OK && text.contains(&backwards), "{status} {text}");
        }
    }
}

/// How often Envoy has changed a cluster, a listener or a certificate.
async fn updates(server: &Server) -> String {
    let filter = r"(cluster_manager\.cluster|listener_manager\.listener)_(added|modified|removed|in_place_updated)$";
    let stats = admin(&server.envoy_admin(), &format!("/stats?filter={filter}")).await.unwrap();
    assert_eq!(stats.lines().count(), 7, "{stats}");
    stats
}

#[tokio::test]
async fn a_killed_server_takes_its_envoy_over_and_resends_nothing() {
    let upstream = Upstream::start(&[STRIPE, A]).await;
    let sections = upstream_section(STRIPE, &upstream, "") + &upstream_section(A, &upstream, "");
    let mut server = Server::start(WorldConfig::new(sections)).await;
    let envoy = server.envoy_pid().await;
    let mut kept = Kept::open(&server).await;
    kept.assert_swapped().await;
    let mut stream = kept.client.get(&format!("https://{A}/sse?ms=10")).stream().await.unwrap();
    assert_eq!(stream.next_event().await.unwrap().unwrap().id, "0");
    let (held, updated) = (in_use(&server.envoy_admin()).await, updates(&server).await);

    for _ in 0..3 {
        server.kill9();
        // Fail closed, by our own words, and the upstream hears nothing. A request under way at the kill may still end well.
        let refused = |(status, text): &(StatusCode, String)| {
            *status == StatusCode::SERVICE_UNAVAILABLE && text.contains("vault does not answer")
        };
        eventually("requests are refused", async || match kept.ask().await? {
            answers if answers.iter().all(refused) => Ok(()),
            answers => Err(format!("{answers:?}")),
        })
        .await;
        let before = upstream.request_count();
        for _ in 0..20 {
            let answers = kept.ask().await.unwrap();
            assert!(answers.iter().all(refused), "{answers:?}");
        }
        let without_token = kept.client.get(&format!("https://{A}/echo")).send().await.unwrap();
        assert_eq!(without_token.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(upstream.request_count(), before);

        server.restart();
        // Not when Envoy's xDS stream is back, which may take it seconds: as soon as the vault's socket answers.
        eventually("requests are answered", async || match kept.ask().await? {
            answers if answers.iter().all(|(status, _)| *status == StatusCode::OK) => Ok(()),
            answers => Err(format!("{answers:?}")),
        })
        .await;
        let ready = server.wait_ready().await;
        assert_eq!(ready.envoy_pid(), Some(envoy), "the running Envoy was taken over");
        kept.assert_swapped().await;
        // One response each of the two types that are asked for by wildcard, and both are empty: no resource is that small.
        for (ty, pushes, bytes) in
            [("cluster", 1.0, 128.0), ("listener", 1.0, 128.0), ("route", 0.0, 0.0), ("secret", 0.0, 0.0)]
        {
            let label = format!("type=\"{ty}\"");
            let of_type = async |name: &str| server.metric(&format!("agent_creds_xds_{name}"), &[&label]).await;
            let (pushed, sent) = (of_type("pushes_total").await, of_type("sent_bytes_total").await);
            assert!(pushed <= pushes && sent <= bytes, "{ty}: {pushed} responses, {sent} bytes were sent again");
        }
        assert_eq!(server.metric("agent_creds_certificates_minted_total", &[]).await, 0.0);
        assert_eq!(server.metric("agent_creds_envoy_restarts_total", &[]).await, 0.0);
        assert_eq!(in_use(&server.envoy_admin()).await, held);
        assert_eq!(updates(&server).await, updated, "Envoy changed nothing");
    }
    let tick = stream.next_event().await.unwrap().expect("the stream went on all the time");
    assert_eq!(tick.id, "1");

    // What was edited while the server was away is sent, and only that.
    server.kill9();
    let limits = upstream_section(STRIPE, &upstream, "") + &upstream_section(B, &upstream, "");
    server.write_config(&server.config_text(&limits));
    server.restart();
    server.wait_ready().await;
    eventually("the edit is in force", async || {
        let now = in_use(&server.envoy_admin()).await;
        // Routes and certificates of what was removed stay while its chain drains.
        let expected =
            [("chain gateway/config ", B), ("cluster config/", B)].map(|(kind, host)| format!("{kind}{host}"));
        let unexpected =
            [("chain gateway/config ", A), ("cluster config/", A)].map(|(kind, host)| format!("{kind}{host}"));
        let is_there = |name: &String| now.contains(name);
        if expected.iter().all(is_there) && !unexpected.iter().any(is_there) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    kept.assert_swapped().await;

    // And the Envoy that was taken over is stopped like a child.
    server.stop().await;
    assert_eq!(server.processes(), Vec::<u32>::new());
}

#[tokio::test]
async fn a_server_killed_under_load_recovers_without_reconnects() {
    let upstream = Upstream::start(&[STRIPE, A]).await;
    let sections = upstream_section(STRIPE, &upstream, "") + &upstream_section(A, &upstream, "");
    let mut server = Server::start(WorldConfig::new(sections)).await;
    let envoy = server.envoy_pid().await;
    let client = server.client();
    let token = server.token(&["--hosts", STRIPE]);
    let target = Target::new(&format!("https://{STRIPE}/echo")).swapped(&token, &format!("Bearer {STRIPE_KEY}"));
    let stream = Target::new(&format!("https://{A}/sse?ms=20"));
    let load = Load::start(&client, LoadConfig::new(vec![target]).sse(stream)).await;
    for _ in 0..3 {
        server.kill9();
        let failed = load.so_far().failed;
        eventually("requests fail", async || match load.so_far().failed {
            now if now > failed + 10 => Ok(()),
            now => Err(format!("{now} failures")),
        })
        .await;
        server.restart();
        assert_eq!(server.wait_ready().await.envoy_pid(), Some(envoy));
        // From here on none fails.
        let (failed, ok) = (load.so_far().failed, load.so_far().ok);
        eventually("requests succeed", async || match load.so_far().ok {
            now if now > ok + 100 => Ok(()),
            now => Err(format!("{} successes", now - ok)),
        })
        .await;
        // Requests that were under way when the server became ready.
        assert!(load.so_far().failed <= failed + 4, "{:#?}", load.so_far());
    }
    let report = load.stop().await;
    assert_eq!(report.stream_broken, None, "a stream that is open outlives the server");
    assert_eq!(report.retried, 0, "no connection of an agent was closed");
    for failure in &report.failures {
        assert_eq!(failure.status, Some(StatusCode::SERVICE_UNAVAILABLE), "{failure:?}");
    }
}

#[tokio::test]
async fn a_killed_envoy_is_started_again() {
    let upstream = Upstream::start(&[STRIPE]).await;
    let server = Server::start(WorldConfig::new(upstream_section(STRIPE, &upstream, ""))).await;
    let client = server.client();
    let mut killed = Vec::new();
    for count in 1..=3 {
        let pid = server.kill_envoy().await;
        let started = Instant::now();
        server.wait_for("the loss is noticed", |ready| !ready.is_ready()).await;
        let ready = server.wait_ready().await;
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        killed.push(pid);
        let now = ready.envoy_pid().unwrap();
        assert!(!killed.contains(&now), "{now} is a new process");
        assert_eq!(server.metric("agent_creds_envoy_restarts_total", &[]).await, f64::from(count));
        eventually("requests are answered", async || served_by(&client, STRIPE).await).await;
        assert!(server.log().contains("Envoy ended; starting it again"));
    }
    assert_eq!(server.processes().len(), 2, "one server, one Envoy");
}

/// An Envoy that died with its server, or was started by one that told it something else, is replaced.
#[tokio::test]
async fn an_envoy_that_cannot_be_taken_over_is_replaced() {
    let upstream = Upstream::start(&[STRIPE]).await;
    let mut server = Server::start(WorldConfig::new(upstream_section(STRIPE, &upstream, ""))).await;
    let client = server.client();
    for with_it in ["a kill", "another bootstrap", "another bootstrap"] {
        let before = server.envoy_pid().await;
        // What makes it hard to stop: an agent that reads a stream.
        let _stream = client.get(&format!("https://{STRIPE}/sse?ms=10")).stream().await.unwrap();
        server.kill9();
        if with_it == "a kill" {
            let pid = rustix::process::Pid::from_raw(before.try_into().unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        } else {
            let bootstrap = server.runtime_dir().join("envoy.json");
            let older = std::fs::read_to_string(&bootstrap).unwrap() + " ";
            std::fs::write(&bootstrap, older).unwrap();
        }
        server.restart();
        let ready = server.wait_ready().await;
        assert_ne!(ready.envoy_pid(), Some(before), "{with_it}");
        eventually("requests are answered", async || served_by(&client, STRIPE).await).await;
        assert_eq!(server.processes().len(), 2, "{with_it}: one server, one Envoy");
    }
}

#[tokio::test]
async fn a_stopped_server_leaves_nothing_behind_and_starts_again() {
    let upstream = Upstream::start(&[STRIPE]).await;
    let mut server = Server::start(WorldConfig::new(upstream_section(STRIPE, &upstream, ""))).await;
    let (client, ca) = (server.client(), server.ca_pem());
    for signal in 0..2 {
        assert_eq!(server.processes().len(), 2, "one server, one Envoy");
        let mut kept = Kept::open(&server).await;
        kept.assert_swapped().await;
        // An open stream does not hold the end up.
        let _stream = client.get(&format!("https://{STRIPE}/sse?ms=10")).stream().await.unwrap();
        let started = Instant::now();
        server.stop().await;
        assert!(started.elapsed() < Duration::from_secs(8), "round {signal}: {:?}", started.elapsed());
        assert_eq!(server.processes(), Vec::<u32>::new());
        for entry in std::fs::read_dir(server.runtime_dir()).unwrap().flatten() {
            if entry.file_type().unwrap().is_socket() {
                let connected = UnixStream::connect(entry.path()).await;
                assert!(connected.is_err(), "somebody listens on {}", entry.path().display());
            }
        }
        assert!(!server.runtime_dir().join("http.addr").exists(), "nobody is sent to a port that is given up");
        assert!(std::net::TcpListener::bind(server.addr()).is_ok(), "the address is free");
        server.restart();
        server.wait_ready().await;
        assert_eq!(server.ca_pem(), ca, "the CA stays");
        eventually("requests are answered", async || served_by(&client, STRIPE).await).await;
    }
}

/// Sockets that nobody listens on, and files in their place, do not keep a server from starting.
#[tokio::test]
async fn stale_sockets_are_replaced() {
    let upstream = Upstream::start(&[STRIPE]).await;
    let mut server = Server::start(WorldConfig::new(upstream_section(STRIPE, &upstream, ""))).await;
    server.stop().await;
    for name in ["xds.sock", "envoy-admin.sock"] {
        let path = server.runtime_dir().join(name);
        let _ = std::fs::remove_file(&path);
        // Bound, and closed without being removed: what a killed process leaves.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
    }
    server.restart();
    server.wait_ready().await;
    eventually("requests are answered", async || served_by(&server.client(), STRIPE).await).await;
    for name in ["xds.sock", "envoy-admin.sock"] {
        let mode = std::fs::metadata(server.runtime_dir().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

/// What Envoy logs, an agent can provoke: it must not fill the disk.
#[tokio::test]
async fn envoys_log_is_bounded() {
    let upstream = Upstream::start(&[STRIPE]).await;
    let server = Server::start(WorldConfig::new(upstream_section(STRIPE, &upstream, ""))).await;
    let path = server.runtime_dir().join("envoy.log");
    let before = "a line of before\n";
    std::fs::write(&path, before).unwrap();
    for _ in 0..2 {
        let mut log = std::fs::File::options().append(true).open(&path).unwrap();
        std::io::copy(&mut std::io::Read::take(std::io::repeat(b'x'), 17 << 20), &mut log).unwrap();
        let length = || std::fs::metadata(&path).unwrap().len();
        eventually("the log is cut", async || match length() {
            length if length < 1 << 20 => Ok(()),
            length => Err(format!("{length} bytes")),
        })
        .await;
    }
    // Envoy goes on writing at the new end: a file with a hole would begin with zeros.
    let busy = std::net::TcpListener::bind((loopback(), 15444)).unwrap();
    server.write_config(&format!("[gateway]\nlisten = \"{}\"\n", busy.local_addr().unwrap()));
    eventually("Envoy logs that it refuses the edit", async || match server.envoy_log() {
        log if log.contains("Address already in use") => Ok(()),
        log => Err(log),
    })
    .await;
    assert!(!std::fs::read(&path).unwrap().contains(&0));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "the log is its owner's: {mode:o}");
}
