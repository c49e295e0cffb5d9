//! Secrets: leaf certificates, and the CAs that upstreams are checked against.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use prost::Message;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::version;
use crate::domain::names::Host;
use crate::xds::snapshot::{Resource, ResourceType};

/// A leaf certificate for Envoy to present.
pub struct Leaf {
    /// The certificate chain, PEM.
    pub chain: String,
    /// Its key, PEM; wiped when dropped.
    pub key: Zeroizing<String>,
}

/// Where leaf certificates come from.
pub trait Leaves: Send + Sync {
    /// What tells the CA that signs them from others.
    fn authority(&self) -> String;

    /// The time, in steps in which leaves may become due; the same on every replica, and after a restart.
    fn epoch(&self) -> u64;

    /// What tells the leaf for `host` that is due at `epoch` from the ones before it.
    fn slot(&self, host: &Host, epoch: u64) -> u64;

    /// Mints it; called once per slot and authority, when an Envoy first asks.
    ///
    /// # Errors
    /// With a message for the log when it cannot be minted; Envoy is then told that there is none.
    fn mint(&self, host: &Host) -> Result<Leaf, String>;
}

/// CAs to trust, PEM, with the name of the secret that carries them.
#[derive(Debug, Clone)]
pub struct TrustedCa {
    pem: Arc<str>,
    name: Arc<str>,
}

impl TrustedCa {
    /// These certificates. The name follows from them.
    pub fn new(pem: Arc<str>) -> Self {
        let digest = Sha256::digest(pem.as_bytes());
        let id = digest[..8].iter().fold(0_u64, |n, &byte| (n << 8) | u64::from(byte));
        Self { pem, name: format!("ca/{id:016x}").into() }
    }

    /// The certificates, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    pub(super) fn name(&self) -> String {
        self.name.to_string()
    }
}

/// The leaf for `host` that is due at `epoch`, in a secret of this name.
pub(super) fn leaf(name: &str, host: &Host, leaves: &Arc<dyn Leaves>, epoch: u64) -> Resource {
    let (produce_for, leaves_for) = (host.clone(), Arc::clone(leaves));
    let secret_name = name.to_owned();
    let version = version("leaf", &(host, leaves.authority(), leaves.slot(host, epoch)));
    Resource::lazy(ResourceType::Secret, name, version, move || {
        let leaf = leaves_for.mint(&produce_for)?;
        let secret = Secret {
            name: secret_name.clone(),
            r#type: Some(secret::Type::TlsCertificate(TlsCertificate {
                certificate_chain: Some(inline(leaf.chain)),
                private_key: Some(inline(leaf.key.to_string())),
                ..Default::default()
            })),
        };
        Ok(secret.encode_to_vec())
    })
}

pub(super) fn trusted_ca(ca: &TrustedCa) -> Resource {
    let for_later = ca.clone();
    Resource::lazy(ResourceType::Secret, ca.name(), version("ca", &ca.name), move || {
        let secret = Secret {
            name: for_later.name(),
            r#type: Some(secret::Type::ValidationContext(CertificateValidationContext {
                trusted_ca: Some(inline(for_later.pem.to_string())),
                ..Default::default()
            })),
        };
        Ok(secret.encode_to_vec())
    })
}

fn inline(text: String) -> DataSource {
    DataSource { specifier: Some(data_source::Specifier::InlineString(text)), ..Default::default() }
}
