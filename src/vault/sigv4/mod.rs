//! AWS Signature Version 4. The agent's SDK signs with the token as its access key id, and any secret key; the vault signs
//! the request anew, with the real one.
//!
//! ```text
//! Authorization, X-Amz-… ─ signature.rs ▶ Signature      what the client claims: never verified, nobody has its key
//!                                         ├─ access key id = the token ▶ domain::decision
//! Grant ─ secrets.rs ▶ Signer ────────────┴─ sign.rs ▶ Signed     headers and path to set
//! ```
//!
//! Region and service are `vault.toml`'s, else those of the client's signature, else what the host's name says (`scope.rs`).
//! An agent may name any: a signature covers the host, to which the token was granted, and travels nowhere else.

mod scope;
mod sign;
mod signature;

pub(super) use sign::{BodySent, Signer, Unsigned};
pub use signature::{MalformedSignature, Signature, authorization, presigned};
pub(super) use signature::{SECURITY_TOKEN, is_signing_parameter};

#[cfg(test)]
mod tests;
