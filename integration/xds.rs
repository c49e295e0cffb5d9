//! The xDS protocol to the letter: every case in every variant, against the library's service over a socket; and that every
//! case can fail.

#[allow(dead_code, reason = "shared with the benchmark, which uses more of it")]
#[path = "../benches/xds/clients/mod.rs"]
mod clients;
mod faults;
mod server;
#[allow(dead_code, reason = "shared with the program, which prints more of it")]
mod suite;

use std::path::PathBuf;
use std::time::Duration;

use self::suite::client::Address;
use self::suite::{Between, Failure, Target, table};

/// The library's service on a socket of its own.
struct Tried {
    server: server::Server,
    folder: tempfile::TempDir,
}

impl Tried {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = Some(([127, 0, 0, 1], 0).into());
        let args = server::Args { listen, socket: None, control: folder.path().join("control.sock"), upstreams: 0 };
        Self { server: server::Server::start(&args).await.unwrap(), folder }
    }

    fn control(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    fn target(&self, deadline: Duration) -> Target {
        let address = Address::Tcp(self.server.addr.unwrap().to_string());
        Target { address, control: Some(self.control()), deadline }
    }
}

/// For what has to come.
const DEADLINE: Duration = Duration::from_secs(60);
/// For what a broken server never sends: not noticing that in time is the worst that can happen here.
const SHORT: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_passes_in_every_variant() {
    let tried = Tried::start().await;
    let outcomes = suite::run(&tried.target(DEADLINE), Between::Nothing, |_, _| true).await;
    let is_good = |result: &suite::Step| matches!(result, Ok(()) | Err(Failure::NotApplicable(_)));
    assert!(outcomes.iter().all(|outcome| is_good(&outcome.result)), "\n{}", table::text(&outcomes));
    assert_eq!(outcomes.len(), 32 * 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_can_fail() {
    let tried = Tried::start().await;
    // The relay alone breaks nothing …
    let quick = |case, _| case != 23;
    let (patient, hasty) = (tried.target(DEADLINE), tried.target(SHORT));
    let (faithful, broken) = tokio::join!(
        suite::run(&patient, Between::Relay, quick),
        // … and with its sabotage, everything.
        suite::run(&hasty, Between::Sabotage, |_, _| true),
    );
    let has_failed = |result: &suite::Step| matches!(result, Err(Failure::Fail(_)));
    assert!(!faithful.iter().any(|outcome| has_failed(&outcome.result)), "\n{}", table::text(&faithful));
    let unnoticed: Vec<_> = broken.iter().filter(|outcome| outcome.result.is_ok()).collect();
    assert!(unnoticed.is_empty(), "{unnoticed:#?}");
    assert!(broken.iter().all(|outcome| outcome.result != Err(Failure::NeedsControl)));
}
