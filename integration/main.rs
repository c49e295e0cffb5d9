//! The tests against real programs: server, Envoy, clients, upstreams. `integration/setup.sh test` installs what they need.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test program: a broken expectation panics, and says why"
)]

mod sdk;
mod support;

mod actl;
mod adev;
mod aenv;
mod bad_input;
mod docker;
mod docs;
mod fleet;
mod host;
mod isolation;
mod layers;
mod leaks;
mod messages;
mod mint;
mod nodes;
mod reload;
mod requests;
mod resilience;
mod sandbox;
mod service;
mod shared_vault;
mod tls;
mod xds;
