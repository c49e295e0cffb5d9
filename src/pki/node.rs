//! The certificates of foreign Envoys, and the server's own towards them.
//!
//! The CA that signs them is not the one that sandboxes trust: it is in a folder of its own, and nobody trusts it but this
//! server and its nodes. A certificate of a node says who it is in one URI; the server's has another, which is what nodes look
//! for, so that it does not matter by which address they reach it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::ca::{Ca, hex};
use super::leaf::serial;
use crate::domain::node::NodeIdentity;

/// The URI in the server's certificate.
pub const SERVER_URI: &str = "agent-creds://server";

/// How far the beginning of a certificate is set back, at most: clocks of other machines may be behind.
const SET_BACK: Duration = Duration::from_secs(3600);

/// A certificate and its key. The key is wiped when dropped, and not shown by `Debug`.
pub struct NodePem {
    /// The certificate, PEM.
    pub chain: String,
    /// Its PKCS #8 key, PEM.
    pub key: Zeroizing<String>,
    /// SHA-256 of the certificate, lower-case hex.
    pub fingerprint: String,
    /// The last second it is good, in Unix seconds.
    pub not_after: i64,
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate for {name}")]
pub struct NodeCertError {
    name: String,
    source: rcgen::Error,
}

impl Ca {
    /// A certificate for a node, to authenticate itself to this server and for nothing else.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn mint_node(
        &self,
        identity: &NodeIdentity,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<NodePem, NodeCertError> {
        let uri = identity.to_string();
        self.mint_uri(identity.id.as_str(), &uri, ExtendedKeyUsagePurpose::ClientAuth, lifetime, now)
    }

    /// The server's certificate towards nodes.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn mint_server(&self, lifetime: Duration, now: SystemTime) -> Result<NodePem, NodeCertError> {
        self.mint_uri("agent-creds server", SERVER_URI, ExtendedKeyUsagePurpose::ServerAuth, lifetime, now)
    }

    fn mint_uri(
        &self,
        name: &str,
        uri: &str,
        purpose: ExtendedKeyUsagePurpose,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<NodePem, NodeCertError> {
        let fail = |source| NodeCertError { name: name.to_owned(), source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fail)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(fail)?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        params.not_before = OffsetDateTime::from(now - SET_BACK);
        params.not_after = OffsetDateTime::from(now + lifetime);
        params.serial_number = Some(serial(&key));
        let certificate = params.signed_by(&key, self.issuer()).map_err(fail)?;
        let end = now + lifetime;
        let not_after = end.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(NodePem {
            chain: certificate.pem(),
            key: Zeroizing::new(key.serialize_pem()),
            fingerprint: hex(&Sha256::digest(certificate.der())),
            not_after: i64::try_from(not_after).unwrap_or(i64::MAX),
        })
    }
}

impl std::fmt::Debug for NodePem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodePem({})", self.fingerprint)
    }
}

/// Whose certificate this is (DER), and its last second, in Unix seconds. Nothing is verified here. `None` when it is none of
/// ours: not exactly one name, which is the URI of a node.
pub fn node_of_certificate(der: &[u8]) -> Option<(NodeIdentity, i64)> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] if rest.is_empty() => {
            Some((uri.parse().ok()?, certificate.validity().not_after.timestamp()))
        }
        _ => None,
    }
}

/// Whether this certificate (DER) says that it is the server's towards nodes. Nothing is verified here.
pub fn is_server_certificate(der: &[u8]) -> bool {
    let Ok((rest, certificate)) = X509Certificate::from_der(der) else { return false };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
    rest.is_empty() && matches!(names.value.general_names.as_slice(), [GeneralName::URI(uri)] if *uri == SERVER_URI)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(pem: &str) -> Vec<u8> {
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
    }

    #[test]
    fn a_certificate_says_who_the_node_is() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let ca = Ca::load_or_create(dir.path(), now).unwrap();
        let identity =
            NodeIdentity { id: "edge-1".parse().unwrap(), gateway: "ci".parse().unwrap(), enrolment: [7; 16].into() };
        let pem = ca.mint_node(&identity, Duration::from_secs(60), now).unwrap();
        assert!(!is_server_certificate(&der(&pem.chain)), "no node plays the server");
        let (found, end) = node_of_certificate(&der(&pem.chain)).unwrap();
        assert_eq!((found, end), (identity.clone(), pem.not_after));
        assert_eq!(pem.fingerprint.len(), 64);
        assert!(pem.key.contains("PRIVATE KEY") && !format!("{pem:?}").contains("PRIVATE"));
        let der = der(&pem.chain);
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !certificate.is_ca());
        let again = ca.mint_node(&identity, Duration::from_secs(60), now).unwrap();
        assert_ne!(again.fingerprint, pem.fingerprint, "each has a key of its own");
    }

    #[test]
    fn other_certificates_are_no_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let ca = Ca::load_or_create(dir.path(), now).unwrap();
        let server = ca.mint_server(Duration::from_secs(60), now).unwrap();
        assert_eq!(node_of_certificate(&der(&server.chain)), None);
        assert!(is_server_certificate(&der(&server.chain)) && !is_server_certificate(&der(ca.certificate_pem())));
        let schedule = crate::pki::LeafSchedule::new(Duration::from_secs(60));
        let leaf = ca.mint_leaf(&"edge-1.example.com".parse().unwrap(), schedule, now).unwrap();
        assert_eq!(node_of_certificate(&der(&leaf.chain)), None);
        assert_eq!(node_of_certificate(&der(ca.certificate_pem())), None);
        for garbage in [&b""[..], b"\x30", &[0x30, 0x82, 0xff, 0xff], &[0; 64]] {
            assert_eq!(node_of_certificate(garbage), None);
        }
        let mut longer = der(&server.chain);
        longer.push(0);
        assert_eq!(node_of_certificate(&longer), None);
    }
}
