//! The host's Chrome for sandboxes: the Chrome DevTools Protocol (CDP), through a filter that shows only what the sandbox's
//! `[[cdp_target]]`s allow.
//!
//! ```text
//! client in the sandbox ─▶ server: Host, Origin, path (http) ─▶ filter ─▶ Chrome's browser WebSocket, one per client
//!                                                                 │
//!            rules: may this page be seen? ◀──────────────────────┼──────────▶ methods: may this command be sent?
//! ```
//!
//! `rules`, `methods`, `http`, `json` and [`filter`] are pure; `server` and `chrome` are the tokio shell around them.
//!
//! What holds, and why:
//! - **Only allowed pages exist.** The filter never attaches to another one, and never lets the client name one. It asks Chrome to
//!   attach itself; Chrome's auto-attach, which would take every tab, is used only within pages that are allowed.
//! - **A page that leaves the allowlist is detached.** Nothing of a page is passed on before Chrome, asked after it, said that the
//!   page is still where it may be seen. Scripts that are to run in new documents are given a guard that ends them elsewhere, and
//!   what is evaluated is bound to a document that was judged: so no code runs in the page it went to.
//! - **An allowed page is its whole origin.** A script in it can fetch any path of its origin, so a path in a pattern keeps views
//!   apart, not secrets. Frames of the same site that share the page's process are part of it; frames of other sites are targets
//!   of their own, and must be allowed themselves (their pixels are on the page's screenshots all the same).
//! - **Default deny.** A method that is not in the table is answered with an error that says why, never dropped.

mod chrome;
pub mod filter;
mod http;
mod json;
mod methods;
mod rules;
mod server;

pub use filter::Owned;
pub use rules::{Rule, RuleError, Rules};
pub use server::{Access, DEFAULT_CHROME, respond};
