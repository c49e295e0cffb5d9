//! The conformance cases of the xDS protocol, over a real socket, by a client of our own.
//!
//! ```text
//!   cases ─▶ session (what an Envoy keeps in mind) ─▶ client (HTTP/2) ─▶ [relay with a sabotage] ─▶ server under test
//!     │                                                                                                   ▲
//!     └──── world (edits over the control socket) ─────────────────────────────────────────────────────────┘
//! ```
//!
//! That nothing is sent is proven by a fence: the client asks for something else, and the answer to that has to be the next
//! thing it hears. No case waits in silence for luck.

mod cases;
pub mod client;
mod relay;
mod sabotage;
mod session;
pub mod table;
pub mod wire;
pub mod world;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

pub use self::cases::CASES;
use self::client::{Address, Windows};
use self::relay::Relay;
use self::session::Client;
use self::wire::Proto;
use self::world::World;

/// Why a case did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The server did something else.
    Fail(String),
    /// The case has no meaning for the variant.
    NotApplicable(&'static str),
    /// It needs edits, and there is no control socket.
    NeedsControl,
}

/// What a step of a case comes to.
pub type Step<T = ()> = Result<T, Failure>;

/// A failure that says so.
pub fn fail<T>(what: impl Into<String>) -> Step<T> {
    Err(Failure::Fail(what.into()))
}

/// One of the four ways to speak the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    pub proto: Proto,
    /// One stream for all types, or one for each.
    pub aggregated: bool,
}

impl Variant {
    pub const ALL: [Self; 4] = [
        Self { proto: Proto::Sotw, aggregated: true },
        Self { proto: Proto::Sotw, aggregated: false },
        Self { proto: Proto::Delta, aggregated: true },
        Self { proto: Proto::Delta, aggregated: false },
    ];

    pub fn label(self) -> &'static str {
        match (self.proto, self.aggregated) {
            (Proto::Sotw, true) => "sotw-ads",
            (Proto::Sotw, false) => "sotw-types",
            (Proto::Delta, true) => "delta-ads",
            (Proto::Delta, false) => "delta-types",
        }
    }
}

/// A case of the list.
pub struct Case {
    pub number: u8,
    pub title: &'static str,
    run: for<'a> fn(&'a mut Run) -> Pin<Box<dyn Future<Output = Step> + Send + 'a>>,
}

/// The server under test.
#[derive(Debug, Clone)]
pub struct Target {
    pub address: Address,
    /// Its control socket, if it has one.
    pub control: Option<PathBuf>,
    /// How long to wait for what has to come.
    pub deadline: Duration,
}

/// What stands between the client and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// Nothing.
    Nothing,
    /// A relay that changes nothing.
    Relay,
    /// A relay that breaks what the case is about.
    Sabotage,
}

/// What became of a case in a variant.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub case: u8,
    pub variant: Variant,
    pub result: Step,
}

/// One case in one variant.
pub struct Run {
    pub variant: Variant,
    pub world: World,
    address: Address,
    deadline: Duration,
}

impl Run {
    /// Says why the case is for one variant alone.
    pub fn only(&self, proto: Proto, reason: &'static str) -> Step {
        if self.variant.proto == proto { Ok(()) } else { Err(Failure::NotApplicable(reason)) }
    }

    pub fn only_aggregated(&self, reason: &'static str) -> Step {
        if self.variant.aggregated { Ok(()) } else { Err(Failure::NotApplicable(reason)) }
    }

    pub fn is_delta(&self) -> bool {
        self.variant.proto == Proto::Delta
    }

    /// A client with a connection of its own.
    pub async fn client(&self) -> Step<Client> {
        self.client_at(&self.address, Windows::Large).await
    }

    /// A client of another server.
    pub async fn client_at(&self, address: &Address, windows: Windows) -> Step<Client> {
        Client::open(address, windows, self.variant, self.world.cluster(), self.deadline).await
    }

    /// A client that takes only the protocol's 64 KiB before it has read them.
    pub async fn slow_client(&self) -> Step<Client> {
        self.client_at(&self.address, Windows::Small).await
    }
}

/// How many cases run at once.
const AT_ONCE: usize = 16;

/// Runs the cases that `wanted` chooses, in all variants it chooses; in the order of the list.
pub async fn run(target: &Target, between: Between, wanted: impl Fn(u8, Variant) -> bool) -> Vec<Outcome> {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = Vec::new();
    for case in CASES {
        for variant in Variant::ALL.into_iter().filter(|variant| wanted(case.number, *variant)) {
            let (target, permits) = (target.clone(), Arc::clone(&permits));
            let task = tokio::spawn(async move {
                let _permit = permits.acquire_owned().await;
                run_one(case, variant, &target, between).await
            });
            tasks.push((case.number, variant, task));
        }
    }
    let mut outcomes = Vec::new();
    for (case, variant, task) in tasks {
        let result = task.await.unwrap_or_else(|error| fail(format!("the case itself failed: {error}")));
        outcomes.push(Outcome { case, variant, result });
    }
    outcomes
}

async fn run_one(case: &Case, variant: Variant, target: &Target, between: Between) -> Step {
    let relay = match between {
        Between::Nothing => None,
        Between::Relay => Some(Relay::start(&target.address, None)?),
        Between::Sabotage => Some(Relay::start(&target.address, Some(case.number))?),
    };
    let address = relay.as_ref().map_or(&target.address, Relay::address).clone();
    let behind = match between {
        Between::Nothing => "",
        Between::Relay => "-relay",
        Between::Sabotage => "-broken",
    };
    let cluster = format!("case-{:02}-{}{behind}", case.number, variant.label());
    let world = World::new(cluster, target.control.as_deref()).await?;
    let mut run = Run { variant, world, address, deadline: target.deadline };
    let result = (case.run)(&mut run).await;
    if run.world.has_control() {
        run.world.clear().await?;
    }
    result
}
