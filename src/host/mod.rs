//! What sandboxes may do with the host: for now its browser.

pub mod cdp;
