//! The control API: how `adev` and `actl` talk to the server, as gRPC on a unix socket that only the server's user reaches.

pub mod client;

/// The exit status of a server that did not start because another one uses its folders: EX_TEMPFAIL of sysexits(3).
pub const TAKEN_STATUS: u8 = 75;

/// The messages and services of `proto/agentcreds/v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("agentcreds.v1");
}
