//! The control API: how `adev` and `actl` talk to the server, as gRPC on a unix socket that only the server's user reaches.

pub mod client;

/// The file in the state and in the runtime folder that a server holds locked (flock(2)) until it ends, however it ends.
pub const LOCK_FILE: &str = "lock";

/// The messages and services of `proto/agentcreds/v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("agentcreds.v1");
}
