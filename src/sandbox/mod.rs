//! Sandboxes: containers whose only way out is their own listener.
//!
//! - [`network`]: the kernel's rules that isolate one, and the guard that holds them.
//! - `spec` (pure): what a sandbox is in Docker's terms; `docker`: the engine.
//! - `dns`: the responder that knows only the names of the allowlist.

#[cfg(feature = "host")]
pub mod dns;
#[cfg(feature = "host")]
pub mod docker;
pub mod network;
#[cfg(feature = "host")]
pub mod spec;
