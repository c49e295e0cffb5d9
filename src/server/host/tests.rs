//! The server's side alone, spoken to as Envoy would, and as it never does.

use std::path::Path;

use arc_swap::ArcSwap;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::{ProjectConfig, parse_project};
use crate::domain::policy::Serving;
use crate::host::metrics::BrowserMetrics;
use crate::server::activity::Activity;
use crate::server::browser::BrowserParts;
use crate::server::sandboxes::DockerHost;
use crate::shutdown;

const FILE: &str = "[[cdp_target]]\nurl = \"http://localhost:3000/*\"\n";

/// A server with the sandboxes `a` and `b`.
struct World {
    services: HostServices,
    servings: Servings,
    loaded: watch::Sender<Arc<Loaded>>,
    socket: std::path::PathBuf,
    _stop: shutdown::Trigger,
    _dir: TempDir,
}

fn project(name: &str, rest: &str) -> Arc<ProjectConfig> {
    let text = format!("[sandbox]\nname = \"{name}\"\n{rest}");
    let read = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    Arc::new(parse_project("f", Path::new("/p"), &text, &read).unwrap())
}

fn serving(instance: &str) -> Serving {
    Serving { listen: "127.0.0.1:1".parse().unwrap(), instance: instance.parse().unwrap() }
}

fn loaded_of(projects: Vec<Arc<ProjectConfig>>) -> Arc<Loaded> {
    let (vault, problems, unconfirmed) = Default::default();
    Arc::new(Loaded { projects, vault, problems, generation: 1, broken: false, unconfirmed })
}

impl World {
    fn start() -> Self {
        let servings = [("a", "a1"), ("b", "b1")].map(|(name, life)| (name.parse().unwrap(), serving(life)));
        let servings = Arc::new(ArcSwap::from_pointee(HashMap::from(servings)));
        let (loaded, receiver) = watch::channel(loaded_of(Vec::new()));
        // Nothing listens there.
        let browser = Browser::new(BrowserParts {
            lives: Box::new(|_, _| None),
            activity: Arc::new(Activity::new()),
            docker_host: DockerHost::default(),
            loaded: receiver.clone(),
            browser: None,
            metrics: BrowserMetrics::register(&prometheus::Registry::new()).unwrap(),
        });
        let services = HostServices::new(Arc::clone(&servings), receiver, "127.0.0.1:1".to_owned(), browser);
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("host.sock");
        let (stop, stopping) = shutdown::channel();
        tokio::spawn(services.clone().serve(UnixListener::bind(&socket).unwrap(), stopping));
        let world = Self { services, servings, loaded, socket, _stop: stop, _dir: dir };
        world.load(vec![project("a", FILE), project("b", "")]);
        world
    }

    fn load(&self, projects: Vec<Arc<ProjectConfig>>) {
        self.loaded.send_replace(loaded_of(projects));
    }

    /// Status and text of the answer to a request with these lines of head.
    async fn ask(&self, target: &str, lines: &[&str]) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let head = format!("GET {target} HTTP/1.1\r\n{}\r\nconnection: close\r\n\r\n", lines.join("\r\n"));
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

const OURS: &str = "host: host.agent-creds";
const A: [&str; 2] = ["x-agent-creds-sandbox: a", "x-agent-creds-instance: a1"];

#[tokio::test]
async fn a_request_says_whose_it_is() {
    let world = World::start();
    assert_eq!(
        world.ask("/sandbox", &[OURS, A[0], A[1]]).await,
        (200, "{\"instance\":\"a1\",\"name\":\"a\"}".to_owned())
    );
    for lines in [
        &[OURS][..],
        &[OURS, A[0]],
        &[OURS, A[1]],
        &[OURS, A[0], A[0], A[1]],
        &[OURS, A[0], A[1], A[1]],
        &[OURS, A[0], "x-agent-creds-sandbox: b", A[1]],
        &[OURS, A[0], "x-agent-creds-instance: b1"],
        &[OURS, "x-agent-creds-sandbox: a,b", A[1]],
        &[OURS, "x-agent-creds-sandbox: c", A[1]],
        &[OURS, "x-agent-creds-sandbox: ../a", A[1]],
        &[OURS, "x-agent-creds-sandbox:", "x-agent-creds-instance:"],
        &[OURS, "x_agent_creds_sandbox: a", "x_agent_creds_instance: a1"],
    ] {
        assert_eq!(world.ask("/sandbox", lines).await.0, 403, "{lines:?}");
    }
    assert_eq!(world.ask("/other", &[OURS, A[0], A[1]]).await.0, 404);
    assert_eq!(world.ask("/sandbox", &[OURS, "host: localhost", A[0], A[1]]).await.0, 400);
}

#[tokio::test]
async fn a_life_that_ended_is_nobody() {
    let world = World::start();
    assert_eq!(world.ask("/sandbox", &[OURS, A[0], A[1]]).await.0, 200);
    // Launched anew: the file is the same.
    world.servings.store(Arc::new(HashMap::from([("a".parse().unwrap(), serving("a2"))])));
    world.load(vec![project("a", FILE)]);
    let again = [OURS, A[0], "x-agent-creds-instance: a2"];
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while world.ask("/sandbox", &[OURS, A[0], A[1]]).await.0 != 403 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    assert_eq!(world.ask("/sandbox", &again).await.0, 200);
    // A file without a sandbox that runs is nobody's, and so is a sandbox without a file.
    world.load(vec![project("c", FILE)]);
    while world.ask("/sandbox", &again).await.0 != 403 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_port_shows_what_its_targets_allow() {
    let world = World::start();
    let (status, text) = world.ask("/json/version", &["host: localhost:9222", A[0], A[1]]).await;
    assert_eq!(status, 502, "{text}");
    assert!(text.contains("chromium --remote-debugging-port=1 --user-data-dir=DIR"), "{text}");
    let b = ["x-agent-creds-sandbox: b", "x-agent-creds-instance: b1"];
    for (host, who) in [("host: localhost:9222", b), ("host: localhost:9333", A), ("host: localhost", A)] {
        let (status, text) = world.ask("/json/version", &[host, who[0], who[1]]).await;
        assert_eq!((status, text.contains("[[cdp_target]]")), (403, true), "{host}: {text}");
    }
    assert_eq!(world.ask("/json/version", &["host: localhost:x", A[0], A[1]]).await.0, 400);
    assert_eq!(world.ask("/json/version", &["host: evil.com:9222", A[0], A[1]]).await.0, 403);
    let life = world.services.life(caller_of("a", "a1")).unwrap().1;
    let mut access = life.views.access(9222, "").unwrap();
    life.views.follow(&project("a", "use_host_browser_cdp = false\n[[cdp_target]]\ntype = \"page\"\n"));
    assert!(access.rules.changed().await.is_err(), "its sessions end");
    assert!(life.views.access(9222, "").is_err());
}

#[tokio::test]
async fn one_sandbox_does_not_fill_the_house() {
    let world = World::start();
    let life = world.services.life(caller_of("a", "a1")).unwrap().1;
    let taken = Arc::clone(&life.room).acquire_many_owned(u32::try_from(ROOM).unwrap()).await.unwrap();
    assert_eq!(world.ask("/sandbox", &[OURS, A[0], A[1]]).await.0, 503);
    let other = ["x-agent-creds-sandbox: b", "x-agent-creds-instance: b1"];
    assert_eq!(world.ask("/sandbox", &[OURS, other[0], other[1]]).await.0, 200);
    drop(taken);
    assert_eq!(world.ask("/sandbox", &[OURS, A[0], A[1]]).await.0, 200);
}

fn caller_of(sandbox: &str, instance: &str) -> Caller {
    Caller { sandbox: sandbox.parse().unwrap(), instance: instance.parse().unwrap() }
}
