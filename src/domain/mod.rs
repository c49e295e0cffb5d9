//! The pure heart: names, policy, tokens and the decision. No tokio, tonic, file system, environment or clock; time is an
//! input.

pub mod decision;
pub mod holding;
pub mod macaroon;
pub mod names;
pub mod needles;
pub mod node;
pub mod opening;
pub mod policy;
pub mod quoting;
pub mod revocations;
pub mod secret;
pub mod span;
// Needs a parser of URLs, which only the host has.
#[cfg(feature = "host")]
pub mod web;
