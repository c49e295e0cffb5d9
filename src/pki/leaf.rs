//! Leaf certificates: what Envoy presents to a sandbox in the upstream's name.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::ca::Ca;
use crate::domain::names::Host;

/// How long leaves live, and when they are renewed.
///
/// Time is cut into slots of a third of the lifetime, shifted by host so that leaves do not all change at once. In each
/// slot a leaf is minted afresh, so the one in use always has between two thirds of its life and all of it ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafSchedule {
    lifetime: Duration,
}

/// A certificate chain and its key, PEM. The key is wiped when dropped.
pub struct LeafPem {
    /// The leaf's certificate.
    pub chain: String,
    /// Its PKCS #8 key.
    pub key: Zeroizing<String>,
}

/// Why no leaf was minted.
#[derive(Debug, thiserror::Error)]
#[error("cannot mint a certificate for {host}")]
pub struct LeafError {
    host: Host,
    source: rcgen::Error,
}

impl LeafSchedule {
    /// Leaves that live for `lifetime`; less than three seconds counts as three.
    pub fn new(lifetime: Duration) -> Self {
        Self { lifetime: lifetime.max(Duration::from_secs(3)) }
    }

    /// The time in steps of [`Self::check_interval`].
    pub fn epoch(&self, now: SystemTime) -> u64 {
        unix(now) / self.check_interval().as_secs().max(1)
    }

    /// The slot of `host` at the beginning of an epoch.
    pub fn slot(&self, host: &Host, epoch: u64) -> u64 {
        let slot = self.slot_seconds();
        (epoch * self.check_interval().as_secs().max(1) + shift(host, slot)) / slot
    }

    /// How long until some leaf may need renewing: a fraction of a slot, at most a minute.
    pub fn check_interval(&self) -> Duration {
        Duration::from_secs((self.slot_seconds() / 20).clamp(1, 60))
    }

    fn slot_seconds(&self) -> u64 {
        (self.lifetime.as_secs() / 3).max(1)
    }
}

impl Ca {
    /// Mints a leaf for `host`: P-256, server authentication, one name.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn mint_leaf(&self, host: &Host, schedule: LeafSchedule, now: SystemTime) -> Result<LeafPem, LeafError> {
        let fail = |source| LeafError { host: host.clone(), source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fail)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // RFC 5280 bounds the common name at 64 characters; the name that counts is the SAN.
        let common_name = if host.as_str().len() <= 64 { host.as_str() } else { "agent-creds leaf" };
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = vec![SanType::DnsName(host.as_str().try_into().map_err(fail)?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        // A third of the life back, at most an hour: a client's clock may be behind ours.
        let back = (schedule.lifetime / 3).min(Duration::from_secs(3600));
        params.not_before = OffsetDateTime::from(now - back);
        params.not_after = OffsetDateTime::from(now + schedule.lifetime);
        params.serial_number = Some(serial(&key));
        let certificate = params.signed_by(&key, self.issuer()).map_err(fail)?;
        Ok(LeafPem { chain: certificate.pem(), key: Zeroizing::new(key.serialize_pem()) })
    }
}

impl std::fmt::Debug for LeafPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LeafPem(…)")
    }
}

/// 16 bytes of a fresh key's hash: unique, positive, and no second source of randomness.
pub(super) fn serial(key: &KeyPair) -> SerialNumber {
    let mut bytes = Sha256::digest(key.public_key_raw())[..16].to_vec();
    bytes[0] &= 0x7f;
    SerialNumber::from(bytes)
}

fn unix(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn shift(host: &Host, slot: u64) -> u64 {
    let digest = Sha256::digest(host.as_str().as_bytes());
    digest[..8].iter().fold(0, |n: u64, &byte| (n << 8) | u64::from(byte)) % slot
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        text.parse().unwrap()
    }

    #[test]
    fn a_leaf_is_for_one_name_short_lived_and_signed() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let ca = Ca::load_or_create(dir.path(), now).unwrap();
        let schedule = LeafSchedule::new(Duration::from_secs(24 * 3600));
        let leaf = ca.mint_leaf(&host("api.stripe.com"), schedule, now).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(leaf.chain.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        let (_, ca_pem) = x509_parser::pem::parse_x509_pem(ca.certificate_pem().as_bytes()).unwrap();
        let ca_certificate = ca_pem.parse_x509().unwrap();
        assert_eq!(certificate.issuer(), ca_certificate.subject());
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names.len(), 1);
        assert!(format!("{:?}", names.value.general_names).contains("api.stripe.com"));
        assert!(!certificate.is_ca());
        let life = certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
        assert_eq!(life, 25 * 3600);
        assert!(leaf.key.contains("PRIVATE KEY"));
        assert!(!format!("{leaf:?}").contains("PRIVATE"));
    }

    #[test]
    fn long_names_have_leaves_too() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::load_or_create(dir.path(), SystemTime::now()).unwrap();
        let name = format!("{}.{}.example.com", "a".repeat(60), "b".repeat(60));
        ca.mint_leaf(&host(&name), LeafSchedule::new(Duration::from_secs(60)), SystemTime::now()).unwrap();
    }

    #[test]
    fn a_slot_lasts_a_third_of_the_life_and_differs_by_host() {
        let schedule = LeafSchedule::new(Duration::from_secs(24 * 3600));
        let start = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let changes = |name: &str| -> Vec<u64> {
            (0..24 * 60)
                .filter(|minute| {
                    let at = start + Duration::from_secs(minute * 60);
                    let slot = |at| schedule.slot(&host(name), schedule.epoch(at));
                    slot(at) != slot(at + Duration::from_secs(60))
                })
                .collect()
        };
        let (a, b) = (changes("a.example"), changes("b.example"));
        assert_eq!(a.len(), 3);
        assert_eq!(b.len(), 3);
        assert_ne!(a, b);
    }
}
