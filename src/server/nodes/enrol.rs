//! Enrolling a node: its first certificate, and the bootstrap of an Envoy, or the identity of another server, that has it. Needs no
//! server that runs.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use zeroize::Zeroizing;

use super::CA_DIR;
use super::renewal::SECRET;
use crate::domain::macaroon::{Restriction, TokenPrefix, mint};
use crate::domain::names::SandboxId;
use crate::domain::node::{NodeId, NodeIdentity};
use crate::domain::policy::Address;
use crate::envoy::{Admin, Protocol, RemoteBootstrap};
use crate::pki::{Ca, NodePem, SERVER_URI};
use crate::server::shared::IdentityFile;
use crate::state::{Enrolled, IssuedToken, NodeLog, StateDir, TokenLog};
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
    let First { identity, ca, pem } = first(&state, &new.id, &new.gateway, new.lifetime, now)?;
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

/// Another server, whose projects name this one's vault.
#[derive(Debug)]
pub struct NewIdentity {
    /// What it is called.
    pub id: NodeId,
    /// As which gateway it asks.
    pub gateway: SandboxId,
    /// Where its projects say that the vault is.
    pub vault: Address,
    /// How long its first certificate lives.
    pub lifetime: Duration,
    /// What tokens begin with.
    pub prefix: TokenPrefix,
}

/// Enrols another server in the log of `state_dir`; returns its identity, which holds its key and a token. `signing_key` is
/// `MACAROON_SIGNING_KEY`, if that is set.
///
/// # Errors
/// When the state folder cannot be used, or the node has another gateway already.
pub fn enrol_server(
    state_dir: &Path,
    new: &NewIdentity,
    signing_key: Option<&str>,
    now: SystemTime,
) -> anyhow::Result<IdentityFile> {
    let state = StateDir::open(state_dir).context("cannot use the state folder")?;
    let keys = state.signing_keys(signing_key).context("cannot get the key that tokens are signed with")?;
    let First { ca, pem, .. } = first(&state, &new.id, &new.gateway, new.lifetime, now)?;
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(std::io::Error::other).context("cannot draw a random number")?;
    let (id, key) = keys.current();
    let token = mint(key, id, random, &[Restriction::Sandbox(new.gateway.clone())])?;
    let issued = IssuedToken::of(&token, unix(now), token_issuer(&new.id));
    TokenLog::open(state.path())?.record(&[issued])?;
    Ok(IdentityFile {
        ca: ca.certificate_pem().to_owned(),
        certificate: pem.chain,
        key: pem.key,
        token: token.encode(&new.prefix),
        lifetime: new.lifetime.as_secs(),
    })
}

/// Revokes the tokens that were made for this node's enrolments; how many.
///
/// # Errors
/// When the log of tokens cannot be used.
pub fn revoke_tokens(state_dir: &Path, node: &NodeId, now: SystemTime) -> anyhow::Result<usize> {
    let log = TokenLog::open(state_dir)?;
    let issuer = token_issuer(node);
    let mut revoked = 0;
    for issued in log.all()?.iter().filter(|issued| issued.token.issuer == issuer && issued.revoked.is_none()) {
        revoked += usize::from(log.revoke(issued.token.id, unix(now), "nodes revoke")?);
    }
    Ok(revoked)
}

/// What the log of tokens has of the token of a node's identity.
fn token_issuer(node: &NodeId) -> String {
    format!("agent-creds nodes enrol, for the node {node}")
}

fn unix(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}

/// A node's first certificate.
struct First {
    identity: NodeIdentity,
    ca: Ca,
    pem: NodePem,
}

fn first(
    state: &StateDir,
    id: &NodeId,
    gateway: &SandboxId,
    lifetime: Duration,
    now: SystemTime,
) -> anyhow::Result<First> {
    let ca = Ca::load_or_create_for_nodes(&state.path().join(CA_DIR), now)
        .context("cannot get the certificate authority of nodes")?;
    let mut enrolment = [0; 16];
    getrandom::fill(&mut enrolment).map_err(std::io::Error::other).context("cannot draw a random number")?;
    let identity = NodeIdentity { id: id.clone(), gateway: gateway.clone(), enrolment: enrolment.into() };
    let pem = ca.mint_node(&identity, lifetime, now)?;
    NodeLog::open(state.path())?.enrol(&Enrolled {
        identity: identity.clone(),
        fingerprint: pem.fingerprint.clone(),
        enrolled: unix(now),
        expires: pem.not_after,
        revoked: None,
    })?;
    Ok(First { identity, ca, pem })
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
