//! What sandboxes may do with the host: its browser.
//!
//! ```text
//! aenv open ─▶ open: allowed? ─▶ opener: $BROWSER ─▶ the user signs in
//!                 └─▶ callback: a port of the host's localhost ◀─ the browser comes back ─▶ the sandbox's port
//! a client of CDP ─▶ cdp: the host's Chrome, filtered
//! ```

pub mod callback;
pub mod cdp;
pub mod metrics;
pub mod open;
pub mod opener;
