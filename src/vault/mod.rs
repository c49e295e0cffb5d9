//! The vault: Envoy asks it (`ext_authz`) about every request, and it swaps the token for the credential.
//!
//! ```text
//! CheckRequest ─ request.rs ▶ AccessRequest ─ domain::decision ▶ Grant ─ secrets.rs ▶ Injection ─ response.rs ▶ CheckResponse
//! ```
//!
//! `request`, `query`, `sigv4` and `response` are pure; `service` is the thin tonic shell around them.

mod metrics;
mod query;
mod request;
mod response;
mod secrets;
mod service;
pub mod sigv4;

pub use metrics::VaultMetrics;
pub use secrets::{Credential, CredentialError, Credentials, HeaderCredential};
pub use service::{Observation, Observer, Vault, VaultState};
