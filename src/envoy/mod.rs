//! The Envoy that this server keeps running: its bootstrap, and its supervision; and the bootstrap of one elsewhere.

mod bootstrap;
mod process;
mod remote;

pub use bootstrap::{Bootstrap, Protocol};
pub use process::{ARGUMENTS, Backoff, EnvoyError, Supervisor, find_binary};
pub use remote::{Admin, RemoteBootstrap};

use std::path::{Path, PathBuf};

/// The socket on which Envoy finds both ADS and ext_authz.
pub fn xds_socket(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("xds.sock")
}

/// The node id of the Envoy that the server itself keeps running.
pub const LOCAL_NODE: &str = "local";

/// The admin interface of the Envoy `node_id`, for this user alone: the folder is 0700. Each Envoy has its own, for Envoy
/// takes the socket of another one over without asking.
pub fn admin_socket(runtime_dir: &Path, node_id: &str) -> PathBuf {
    if node_id == LOCAL_NODE {
        return runtime_dir.join("envoy-admin.sock");
    }
    // An id may hold anything, and the path of a socket not much.
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    let name: String = node_id.chars().take(32).map(plain).collect();
    runtime_dir.join(format!("envoy-admin-{name}.sock"))
}
