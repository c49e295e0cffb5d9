//! The world the tests run in.
//!
//! [`server`] runs the real program, with a real Envoy, in a folder and on an address of its own; [`upstream`] is the API
//! behind it, with a certificate of [`pki`]; [`authorization`] gives tokens for credentials; [`client`] plays the agent, [`load`] many of them; [`probe`] asks what is served;
//! [`pty`] is a terminal to run programs on, [`control`] a server that only answers.

#![allow(dead_code, unused_imports, reason = "a toolbox: not every test program uses every tool")]

pub mod authorization;
pub mod client;
pub mod control;
pub mod load;
pub mod netns;
pub mod pki;
pub mod probe;
pub mod pty;
pub mod server;
pub mod upstream;

mod tests;
