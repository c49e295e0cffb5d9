//! Sandboxes, as people have them: `adev` launches them, programs run in them unmodified, and what comes out is seen by the
//! upstreams alone; and as their enemies have them: what a hostile root tries, and what is left when things die. Real Docker,
//! runc and gVisor, a server and an Envoy of each test's own.

mod allow;
mod browser;
mod chrome;
mod clients;
mod host;
mod lifecycle;
mod live;
mod locals;
mod oauth;
mod terminal;
mod threats;
pub mod world;
mod yard;
