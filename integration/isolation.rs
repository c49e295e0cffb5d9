//! The isolation of a sandbox's network, with the real kernel and the real guard, in a small internet of its own
//! (`integration/isolation/world.sh`): what a hostile root in the sandbox tries, with each layer alone, and what the guard
//! does about a layer that is lost.

mod traffic;
mod watch;
pub mod world;
