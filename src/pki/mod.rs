//! The certificate authority that only sandboxes trust, and the leaf certificates Envoy presents to them.
//!
//! The key never leaves this process (design §3.4): it is in one file of mode 0600, in the state folder, and leaves reach
//! Envoy by SDS. Leaves are P-256, because RSA-2048 ones cost two thirds of the handshake rate (`envoy-facts.md`).
//!
//! A leaf's *version* depends on the CA, the host and a time slot alone, so a restarted server, or a replica with the same
//! CA, names the same version, and an Envoy that reconnects is sent nothing it already has.

mod ca;
mod jks;
mod leaf;
mod node;

pub use ca::{Ca, CaError, CaSummary};
pub use leaf::{LeafError, LeafPem, LeafSchedule};
pub use node::{NodeCertError, NodePem, SERVER_URI, is_server_certificate, node_of_certificate};
