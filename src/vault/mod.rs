//! The vault: Envoy asks it (`ext_authz`) about every request, and it swaps the token for the credential.
//!
//! ```text
//! CheckRequest ─ request.rs ▶ AccessRequest ─ domain::decision ▶ Grant ─ secrets.rs ▶ Injection ─ response.rs ▶ CheckResponse
//! ```
//!
//! A refusal is worded and shaped by `refusal.rs`. `request`, `query`, `refusal` and `response` are pure; `service` is the thin tonic shell around them.

#[cfg(test)]
mod laws_tests;
mod metrics;
mod query;
mod refusal;
mod request;
mod response;
mod secrets;
mod service;

pub use metrics::VaultMetrics;
pub use secrets::{Credential, CredentialError, Credentials, HeaderCredential};
pub use service::{Observation, Observer, Vault, VaultState};
