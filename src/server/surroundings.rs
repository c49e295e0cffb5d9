//! What the server finds on the machine before it starts anything: free ports, and the CAs to trust.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::config::{self, Loaded};
use crate::xds::resources::TrustedCa;

/// Where system CA bundles are, by distribution; the first that exists is used.
const SYSTEM_CA_FILES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A port that another program holds would only show when Envoy refuses the listener: it is tried before anything starts.
pub(super) fn check_ports(loaded: &Loaded) -> anyhow::Result<()> {
    for policy in loaded.projects.iter().filter_map(|project| project.policy(None)) {
        if let Err(error) = try_port(policy.listen) {
            let hint = match error.kind() {
                std::io::ErrorKind::AddrInUse => "another program listens there: stop it, or choose another port",
                std::io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
                std::io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose a higher one",
                _ => "choose another address",
            };
            bail!("{}: cannot listen on {} ({error}); {hint}", policy.origin, policy.listen);
        }
    }
    Ok(())
}

/// Listens there for an instant. A process that was killed a moment ago may hold its sockets a little longer, so an address in
/// use is tried again for a second.
fn try_port(listen: SocketAddr) -> std::io::Result<()> {
    let started = Instant::now();
    loop {
        match std::net::TcpListener::bind(listen) {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse && started.elapsed() < Duration::from_secs(1) =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            outcome => return outcome.map(drop),
        }
    }
}

/// The CAs that upstreams are checked with: the file that is named, else the system's.
///
/// # Errors
/// When there are none.
pub(crate) fn system_ca(named: Option<&Path>) -> anyhow::Result<TrustedCa> {
    let file = match named {
        Some(file) => file.to_owned(),
        None => SYSTEM_CA_FILES.iter().map(PathBuf::from).find(|file| file.is_file()).with_context(|| {
            format!(
                "no CA bundle found to check upstreams with (looked for {}); install ca-certificates, or name one in \
                 SSL_CERT_FILE",
                SYSTEM_CA_FILES.join(", ")
            )
        })?,
    };
    let bytes = std::fs::read(&file).with_context(|| format!("cannot read the CA bundle {}", file.display()))?;
    let certificates = config::certificates(&bytes)
        .with_context(|| format!("{} is not a CA bundle, so no upstream could be trusted", file.display()))?;
    Ok(TrustedCa::new(certificates))
}
