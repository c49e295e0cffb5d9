//! Reload after reload while requests flow.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::{labelled, wait_refused, wait_served_by};
use crate::support::client::Client;
use crate::support::load::{Load, LoadConfig, Target};
use crate::support::probe::{eventually, in_use, resident_bytes};
use crate::support::server::{STRIPE_KEY, Server, WorldConfig, upstream_section};
use crate::support::upstream::Upstream;

/// Under load, with a token.
const STRIPE: &str = "api.stripe.com";
/// Under load, without a token.
const PLAIN: &str = "plain.example.com";
/// Never touched; a stream is open on it.
const STREAM: &str = "stream.example.com";
/// Its address changes.
const MOVING: &str = "moving.example.com";
/// Its limits change.
const LIMITED: &str = "limited.example.com";
/// They come and go.
const GUESTS: [&str; 6] =
    ["g0.example.com", "g1.example.com", "g2.example.com", "g3.example.com", "g4.example.com", "g5.example.com"];

/// The limits that a host under load (GET requests below `/v9/`) goes through; none forbids the load.
const LOADED: [&str; 4] =
    ["", "methods = [\"GET\"]", "paths = [\"/**\"]", "methods = [\"GET\", \"POST\"]\npaths = [\"/v9/**\", \"/sse\"]"];

/// What the file says, and so what must be served.
struct State {
    upstreams: [Upstream; 2],
    guests: BTreeMap<&'static str, usize>,
    moving: usize,
    limited: bool,
    loaded: [usize; 2],
}

impl State {
    async fn new() -> Self {
        let names: Vec<&str> = [STRIPE, PLAIN, STREAM, MOVING, LIMITED].into_iter().chain(GUESTS).collect();
        let upstreams = [labelled("0", &names).await, labelled("1", &names).await];
        Self { upstreams, guests: BTreeMap::new(), moving: 0, limited: false, loaded: [0; 2] }
    }

    /// The next edit; every one changes the file.
    fn step(&mut self, number: usize) {
        match number % 5 {
            0 | 3 => {
                let guest = GUESTS[(number / 5 + number % 5) % GUESTS.len()];
                if self.guests.remove(guest).is_none() {
                    self.guests.insert(guest, number % 2);
                }
            }
            1 => self.loaded[number / 5 % 2] += 1,
            2 => self.moving = 1 - self.moving,
            _ => {
                // Two edits at once.
                self.limited = !self.limited;
                self.loaded[number / 5 % 2] += 1;
            }
        }
    }

    fn text(&self) -> String {
        let [zero, _] = &self.upstreams;
        let loaded = self.loaded.map(|number| LOADED[number % LOADED.len()]);
        let mut text = upstream_section(STRIPE, zero, loaded[0])
            + &upstream_section(PLAIN, zero, loaded[1])
            + &upstream_section(STREAM, zero, "")
            + &upstream_section(MOVING, &self.upstreams[self.moving], "")
            + &upstream_section(LIMITED, zero, if self.limited { "methods = [\"POST\"]" } else { "" });
        for (guest, upstream) in &self.guests {
            text += &upstream_section(guest, &self.upstreams[*upstream], "");
        }
        text
    }

    /// Asks every host, and Envoy, whether exactly this is served.
    async fn assert_served(&self, client: &Client, gateway: &str, admin: &Path) {
        for guest in GUESTS {
            match self.guests.get(guest) {
                Some(upstream) => wait_served_by(client, guest, &upstream.to_string()).await,
                None => wait_refused(client, guest).await,
            }
        }
        wait_served_by(client, MOVING, &self.moving.to_string()).await;
        let reply = client.get(&format!("https://{LIMITED}/echo")).send().await.unwrap();
        assert_eq!(reply.status == StatusCode::FORBIDDEN, self.limited, "{}", reply.text());
        for (host, number) in [(STRIPE, self.loaded[0]), (PLAIN, self.loaded[1])] {
            let limits = LOADED[number % LOADED.len()];
            let call = client.call(http::Method::DELETE, &format!("https://{host}/other"));
            let reply = call.send().await.unwrap();
            assert_eq!(reply.status == StatusCode::OK, !limits.contains("GET"), "{host} {limits}: {}", reply.text());
        }
        let hosts: Vec<&str> =
            [STRIPE, PLAIN, STREAM, MOVING, LIMITED].into_iter().chain(self.guests.keys().copied()).collect();
        let mut expected =
            BTreeSet::from([format!("listener gateway/{gateway}"), format!("chain gateway/{gateway} plain HTTP")]);
        for host in hosts {
            expected.extend([
                format!("chain gateway/{gateway} {host}"),
                format!("cluster {gateway}/{host}"),
                format!("cluster {gateway}/{host}/http1"),
                format!("route {gateway}/{host}"),
                format!("secret leaf/{host}"),
            ]);
        }
        let removed = GUESTS.iter().filter(|guest| !self.guests.contains_key(**guest));
        let may_stay: BTreeSet<String> =
            removed.flat_map(|guest| [format!("route {gateway}/{guest}"), format!("secret leaf/{guest}")]).collect();
        eventually("Envoy holds exactly what the file says", async || {
            // The CA's name is a hash. A chain that was removed drains, and holds on to its route and certificate meanwhile.
            let mut found = in_use(admin).await;
            found.retain(|name| !name.starts_with("secret ca/") && !may_stay.contains(name));
            match found == expected {
                true => Ok(()),
                false => Err(format!(
                    "missing {:?}, too much {:?}",
                    expected.difference(&found).collect::<Vec<_>>(),
                    found.difference(&expected).collect::<Vec<_>>()
                )),
            }
        })
        .await;
    }
}

fn load(token: &str) -> LoadConfig {
    let stripe = Target::new(&format!("https://{STRIPE}/v9/a")).swapped(token, &format!("Bearer {STRIPE_KEY}"));
    let plain = Target::new(&format!("https://{PLAIN}/v9/b"));
    let mut config = LoadConfig::new(vec![stripe, plain]).sse(Target::new(&format!("https://{STREAM}/sse?ms=10")));
    config.pause = Duration::from_millis(10);
    config
}

#[tokio::test]
async fn a_thousand_reloads_fail_no_request_and_cut_no_stream() {
    const RELOADS: usize = 1000;
    let mut state = State::new().await;
    let server = Server::start(WorldConfig::new(state.text())).await;
    let (client, envoy) = (server.client(), server.envoy_pid().await);
    let load = Load::start(&client, load(&server.token(&["--hosts", STRIPE]))).await;
    let started = Instant::now();
    let mut memory = Vec::new();
    for number in 0..RELOADS {
        state.step(number);
        let ready = server.apply(&state.text()).await;
        assert_eq!(ready.envoy_pid(), Some(envoy), "Envoy is never restarted for configuration");
        if number % 100 == 99 {
            state.assert_served(&client, "config", &server.envoy_admin()).await;
            memory.push((resident_bytes(server.pid()) >> 10, resident_bytes(envoy) >> 10));
            let so_far = load.so_far();
            assert!(so_far.failed == 0 && so_far.stream_broken.is_none(), "after {number}: {so_far:#?}");
        }
    }
    let elapsed = started.elapsed();
    let report = load.stop().await;
    eprintln!(
        "{RELOADS} reloads in {elapsed:?}; resident KiB (server, Envoy) every 100: {memory:?}; load: {report:#?}"
    );
    report.assert_clean();
    assert_eq!(report.retried, 0, "no connection was closed under a client: {report:#?}");
    assert!(report.ok > RELOADS, "there was load: {report:#?}");
    assert!(report.ticks > 500, "the stream went on: {report:#?}");
    assert_eq!(server.generation().await, RELOADS as u64 + 1);
    assert_eq!(server.metric("agent_creds_xds_nacks_total", &[]).await, 0.0);
    assert_eq!(server.metric("agent_creds_envoy_restarts_total", &[]).await, 0.0);
    assert_eq!(server.metric("agent_creds_config_reloads_total", &["result=\"broken\""]).await, 0.0);
    // Nothing piles up with the number of reloads: the last 800 cost less than a quarter of what there was before.
    let (early, late) = (memory[1].0, memory[9].0);
    assert!(late < early + early / 4, "the server's memory grows: {memory:?}");
}

#[tokio::test]
async fn a_hundred_reloads_of_a_foreign_envoy_by_state_of_the_world() {
    let mut state = State::new().await;
    let server = Server::start(WorldConfig::new(state.text()).without_envoy()).await;
    let envoy = server.foreign_envoy("elsewhere", &["--protocol", "sotw"]);
    server.wait_for("the foreign Envoy has everything", |ready| ready.body["envoy"]["converged"] == true).await;
    assert_eq!(server.metric("agent_creds_xds_streams", &["protocol=\"sotw\"", "kind=\"aggregated\""]).await, 1.0);
    assert_eq!(server.metric("agent_creds_xds_streams", &["protocol=\"delta\""]).await, 0.0);
    let client = server.client();
    wait_served_by(&client, STREAM, "0").await;
    let load = Load::start(&client, load(&server.token(&["--hosts", STRIPE]))).await;
    for number in 0..100 {
        state.step(number);
        let generation = server.generation().await;
        server.write_config(&server.config_text(&state.text()));
        let converged = |ready: &crate::support::server::Ready| {
            ready.generation() > generation && ready.body["envoy"]["converged"] == true
        };
        server.wait_for("the foreign Envoy has it", converged).await;
        if number % 25 == 24 {
            state.assert_served(&client, "config", envoy.admin()).await;
        }
    }
    let report = load.stop().await;
    report.assert_clean();
    assert_eq!(report.retried, 0, "{report:#?}");
    assert!(envoy.is_running());
    assert_eq!(server.metric("agent_creds_xds_nacks_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_burst_of_edits_is_a_few_pushes_and_ends_where_the_last_one_says() {
    const EDITS: usize = 100;
    let mut state = State::new().await;
    let server = Server::start(WorldConfig::new(state.text())).await;
    let client = server.client();
    let load = Load::start(&client, load(&server.token(&["--hosts", STRIPE]))).await;
    // At once; then spread over a second.
    for pause in [Duration::ZERO, Duration::from_millis(9)] {
        let (generation, pushes) =
            (server.generation().await, server.metric("agent_creds_xds_pushes_total", &[]).await);
        let started = Instant::now();
        for number in 0..EDITS {
            state.step(number);
            server.write_config(&server.config_text(&state.text()));
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        let elapsed = started.elapsed();
        state.assert_served(&client, "config", &server.envoy_admin()).await;
        let ready = server.wait_ready().await;
        let reloads = ready.generation() - generation;
        let pushed = server.metric("agent_creds_xds_pushes_total", &[]).await - pushes;
        eprintln!("{EDITS} edits in {elapsed:?}: {reloads} reloads, {pushed} pushes");
        // The events of 3 ms are one reload, and a reload is at most one push of each of four types.
        let most = elapsed.as_millis() as u64 / 3 + 2;
        assert!((1..=most.min(EDITS as u64)).contains(&reloads), "{reloads} reloads in {elapsed:?}");
        assert!(pushed <= 4.0 * reloads as f64, "{pushed} pushes for {reloads} reloads");
        assert!(ready.config_ok(), "{ready:?}");
    }
    assert_eq!(server.metric("agent_creds_xds_nacks_total", &[]).await, 0.0);
    load.stop().await.assert_clean();
}
