//! agent-creds: a sandboxed agent calls real APIs with a token that is worthless elsewhere; Envoy, driven live by this
//! server, swaps the token for the real key on the way out.
//!
//! Two flows run through the modules; follow them top down:
//!
//! ```text
//! edit → ACK        config::watch → config::parse → domain::policy → xds::resources → xds::snapshot
//!                     → watch::Sender<Arc<Fleet>> → xds::service ⇄ xds::stream → ACK/NACK in metrics
//!
//! request → header  vault::service → vault::request → domain::macaroon → domain::decision
//!                     → vault::secrets → vault::response
//! ```
//!
//! Direction of dependencies (held by a test, `integration/layers.rs`):
//! `domain` ← {`config`, `xds`, `vault`, `pki`, `envoy`, `sandbox`, `host`, `control`} ← {`server`, `launch`} ← `cli` ← `bin/*`. Siblings do not import each other; the
//! composition roots pass channels and trait objects. `metrics`, `telemetry` and `shutdown` are leaves every adapter may use.

pub mod cli;
#[cfg(feature = "host")]
pub mod config;
#[cfg(feature = "host")]
pub mod control;
pub mod domain;
#[cfg(feature = "host")]
pub mod envoy;
#[cfg(feature = "host")]
pub mod host;
#[cfg(feature = "host")]
pub mod launch;
#[cfg(feature = "host")]
pub mod metrics;
#[cfg(feature = "host")]
pub mod pki;
pub mod sandbox;
#[cfg(feature = "host")]
pub mod server;
#[cfg(feature = "host")]
pub mod shutdown;
#[cfg(feature = "host")]
pub mod state;
#[cfg(feature = "host")]
pub mod telemetry;
#[cfg(feature = "host")]
pub mod vault;
#[cfg(feature = "host")]
pub mod xds;
