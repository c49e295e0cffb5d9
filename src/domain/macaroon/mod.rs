//! Tokens: macaroons, wire-compatible with the Go tool's (`token-format.md`).
//!
//! ```text
//! text ──Token::parse──▶ Token (decoded, UNTRUSTED) ──verify──▶ Verified ──check──▶ this request is within its caveats
//!                          ▲                   │
//!        mint, attenuate ──┘                   └── its caveats can be shown, and believed by nobody
//! ```
//!
//! - [`codec`]: the subset of MessagePack that tokens are written in.
//! - [`caveat`]: what a token may say about its own use.
//! - [`token`]: the decoded token and its text form; [`prefix`]: what that begins with.
//! - [`mod@verify`]: the signature chain and discharges; the only way to a [`Verified`].
//! - [`check`]: a verified token's caveats against a request.
//! - [`claims`]: an unverified token's caveats, for its holder to understand it.
//! - [`mod@mint`]: new tokens, and narrower ones from old.
//!
//! Randomness, time and keys are inputs.

pub mod caveat;
pub mod check;
pub mod claims;
pub mod codec;
pub mod mint;
pub mod prefix;
pub mod token;
pub mod verify;

#[cfg(test)]
mod tests;

pub use caveat::{Caveat, Restriction};
pub use check::{Allowed, CaveatError, CaveatRequest, Issuer};
pub use claims::Claims;
pub use mint::{MintError, attenuate, mint};
pub use prefix::{TokenPrefix, TokenPrefixError};
pub use token::{KeyId, KeyIdError, Macaroon, Token, TokenError, TokenId, TokenIdError};
pub use verify::{Keyring, Verified, verify};

/// The location of every token of ours.
pub const LOCATION: &str = "agent-creds";

/// The most bytes of a token's text, discharges included.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The most caveats of a token, those of its discharges included.
pub const MAX_CAVEATS: usize = 64;
