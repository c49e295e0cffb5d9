//! The vault: Envoy asks it (`ext_authz`) about every request, and it swaps the token for the credential.
//!
//! ```text
//! CheckRequest ─ request.rs ▶ AccessRequest ─ domain::decision ▶ Grant ─ secrets.rs ▶ Injection ─ response.rs ▶ CheckResponse
//! ```
//!
//! A refusal is worded and shaped by `refusal`. `request`, `query`, `sigv4`, `refusal` and `response` are pure; `service` is the thin
//! tonic shell around them. What a credential is made of is [`live`]: it comes from [`providers`], or from an [`exchange`] at a token
//! endpoint.

pub mod exchange;
#[cfg(test)]
mod laws_tests;
pub mod live;
mod metrics;
mod nodes;
pub mod providers;
mod query;
mod reflection;
mod refusal;
mod request;
mod response;
mod secrets;
mod server_name;
mod service;
mod shared;
pub mod sigv4;
mod streams;

pub use metrics::VaultMetrics;
pub use secrets::{Composed, Credential, CredentialError, Credentials, HeaderCredential, Placement, Prepared};
pub use service::{Observation, Observer, Vault, VaultState};
pub use shared::SharedVault;
pub use streams::Streams;
