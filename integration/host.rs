//! The host's browser, driven from a sandbox: a real Chromium behind the filter, real clients before it.

pub mod browser;
mod cdp;
