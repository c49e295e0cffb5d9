//! Enrolling a node: its first certificate, and the bootstrap that has it. Needs no server that runs.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use zeroize::Zeroizing;

use super::CA_DIR;
use super::renewal::SECRET;
use crate::domain::names::SandboxId;
use crate::domain::node::{NodeId, NodeIdentity};
use crate::domain::policy::Address;
use crate::envoy::{Admin, Protocol, RemoteBootstrap};
use crate::pki::{Ca, SERVER_URI};
use crate::state::{Enrolled, NodeLog, StateDir};
use crate::xds::resources::{VAULT_CLUSTER, XDS_CLUSTER};

/// What a node is enrolled with.
#[derive(Debug)]
pub struct NodeBootstrap {
    /// What it is called.
    pub id: NodeId,
    /// The gateway it serves.
    pub gateway: SandboxId,
    /// Where it reaches the server.
    pub server: Address,
    /// How long its first certificate lives. Until then it has to have connected once, and may be restarted.
    pub lifetime: Duration,
    /// Where its admin interface is to be.
    pub admin: Option<Admin>,
    /// How it is to ask.
    pub protocol: Protocol,
}

/// Enrols a node in the log of `state_dir`; returns the bootstrap of its Envoy, which holds its key.
///
/// # Errors
/// When the state folder cannot be used, or the node serves another gateway already.
pub fn enrol(state_dir: &Path, new: &NodeBootstrap, now: SystemTime) -> anyhow::Result<Zeroizing<String>> {
    let state = StateDir::open(state_dir).context("cannot use the state folder")?;
    let ca = Ca::load_or_create_for_nodes(&state.path().join(CA_DIR), now)
        .context("cannot get the certificate authority of nodes")?;
    let mut enrolment = [0; 16];
    getrandom::fill(&mut enrolment).map_err(std::io::Error::other).context("cannot draw a random number")?;
    let identity = NodeIdentity { id: new.id.clone(), gateway: new.gateway.clone(), enrolment: enrolment.into() };
    let pem = ca.mint_node(&identity, new.lifetime, now)?;
    let since = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    NodeLog::open(state.path())?.enrol(&Enrolled {
        identity: identity.clone(),
        fingerprint: pem.fingerprint.clone(),
        enrolled: i64::try_from(since).unwrap_or(i64::MAX),
        expires: pem.not_after,
        revoked: None,
    })?;
    let bootstrap = RemoteBootstrap {
        identity: &identity,
        server: &new.server,
        ca: ca.certificate_pem(),
        server_uri: SERVER_URI,
        chain: &pem.chain,
        key: &pem.key,
        secret: SECRET,
        admin: new.admin.as_ref(),
        protocol: new.protocol,
        clusters: (XDS_CLUSTER, VAULT_CLUSTER),
    };
    Ok(Zeroizing::new(format!("{:#}\n", bootstrap.to_json())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_in_the_log_and_its_certificate_is_of_a_ca_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let new = NodeBootstrap {
            id: "edge-1".parse().unwrap(),
            gateway: "ci".parse().unwrap(),
            server: "192.0.2.1:18000".parse().unwrap(),
            lifetime: Duration::from_secs(3600),
            admin: Some(Admin::Socket("admin.sock".to_owned())),
            protocol: Protocol::Delta,
        };
        let now = SystemTime::now();
        let text = enrol(dir.path(), &new, now).unwrap();
        let again = enrol(dir.path(), &new, now).unwrap();
        assert_ne!(*text, *again);
        let log = NodeLog::open(dir.path()).unwrap().all().unwrap();
        assert_eq!(log.len(), 2);
        assert!(log.iter().all(|node| node.identity.id.as_str() == "edge-1" && node.revoked.is_none()));
        let other = NodeBootstrap { gateway: "prod".parse().unwrap(), ..new };
        assert!(enrol(dir.path(), &other, now).unwrap_err().to_string().contains("serves the gateway ci"));
        assert!(!dir.path().join("ca").exists(), "the CA of sandboxes has nothing to do with it");
    }
}
