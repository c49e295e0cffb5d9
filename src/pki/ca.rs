//! The CA: made once, kept in the state folder, replaced by `agent-creds ca rotate`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::jks;

/// How long a CA lives. Sandboxes trust it by file, so there is no store to update when it is replaced earlier.
const CA_LIFETIME: Duration = Duration::days(3650);

/// What the CAs that clients and nodes trust are called in their subject.
const LOCAL: &str = "local";
const NODES: &str = "node";

/// Key and certificate in one file, so that a crash between two writes cannot part them.
const BUNDLE: &str = "ca-bundle.pem";
/// The certificate alone: what clients trust.
const CERTIFICATE: &str = "ca.pem";
/// The certificate that `rotate` replaced, for clients that are to trust both for a while.
const PREVIOUS: &str = "ca-previous.pem";

/// A certificate authority, ready to sign.
///
/// Its `Debug` shows the fingerprint only.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    certificate_der: Vec<u8>,
    fingerprint: String,
    not_after: OffsetDateTime,
}

/// What `agent-creds ca show` tells.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CaSummary {
    /// The file clients are to trust.
    pub certificate: PathBuf,
    /// SHA-256 of the certificate's DER form, lower-case hex.
    pub fingerprint: String,
    /// When it ends, Unix seconds.
    pub not_after: i64,
}

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Others can read the key.
    #[error("{} can be read by others (mode {mode:03o}); run `chmod 600` on it, or `agent-creds ca rotate` if it may have been read", path.display())]
    Exposed {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not what we wrote.
    #[error("{} is not a CA bundle: {reason}; restore it from a backup, or remove it to have a new CA made", path.display())]
    Damaged {
        /// The bundle.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The crypto library refused.
    #[error("cannot make a certificate authority: {0}")]
    Make(#[source] rcgen::Error),
}

impl Ca {
    /// The CA in `dir`, made on first use. `dir` is created with mode 0700.
    ///
    /// # Errors
    /// When the folder cannot be written, or the bundle in it is damaged or readable by others.
    pub fn load_or_create(dir: &Path, now: SystemTime) -> Result<Self, CaError> {
        Self::of_kind(LOCAL, dir, now)
    }

    /// The CA of foreign Envoys in `dir`, made on first use likewise. Sandboxes do not trust it.
    ///
    /// # Errors
    /// As [`Ca::load_or_create`].
    pub fn load_or_create_for_nodes(dir: &Path, now: SystemTime) -> Result<Self, CaError> {
        Self::of_kind(NODES, dir, now)
    }

    fn of_kind(kind: &str, dir: &Path, now: SystemTime) -> Result<Self, CaError> {
        create_dir(dir)?;
        let path = dir.join(BUNDLE);
        if !path.exists() {
            let bundle = generate(kind, now)?;
            // `link` fails when another process was faster; then its CA is the one.
            install(&path, bundle.as_bytes(), 0o600, Replace::Never)?;
        }
        let ca = Self::load(dir)?;
        ca.publish(dir)?;
        Ok(ca)
    }

    /// Replaces the CA in `dir`; the certificate before it stays as `ca-previous.pem`. A running server takes the new one
    /// up by itself and re-issues every leaf.
    ///
    /// # Errors
    /// As [`Ca::load_or_create`].
    pub fn rotate(dir: &Path, now: SystemTime) -> Result<Self, CaError> {
        create_dir(dir)?;
        if let Ok(previous) = Self::load(dir) {
            install(&dir.join(PREVIOUS), previous.certificate_pem.as_bytes(), 0o644, Replace::Always)?;
        }
        let bundle = generate(LOCAL, now)?;
        install(&dir.join(BUNDLE), bundle.as_bytes(), 0o600, Replace::Always)?;
        let ca = Self::load(dir)?;
        ca.publish(dir)?;
        Ok(ca)
    }

    /// The CA in `dir`, which must exist.
    ///
    /// # Errors
    /// When it does not, or is damaged or readable by others.
    pub fn load(dir: &Path) -> Result<Self, CaError> {
        let path = dir.join(BUNDLE);
        let io = |source| CaError::Io { action: "read", path: path.clone(), source };
        let mode = fs::metadata(&path).map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(CaError::Exposed { path, mode });
        }
        let text = Zeroizing::new(fs::read_to_string(&path).map_err(io)?);
        let damaged = |reason: String| CaError::Damaged { path: path.clone(), reason };
        let at = text.find("-----BEGIN CERTIFICATE-----").ok_or_else(|| damaged("no certificate in it".to_owned()))?;
        let (key_pem, certificate_pem) = text.split_at(at);
        let key = KeyPair::from_pem(key_pem).map_err(|e| damaged(e.to_string()))?;
        let (_, pem) =
            x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes()).map_err(|e| damaged(e.to_string()))?;
        let certificate = pem.parse_x509().map_err(|e| damaged(e.to_string()))?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(damaged("key and certificate do not belong together".to_owned()));
        }
        let not_after = certificate.validity().not_after.to_datetime();
        let fingerprint = hex(&Sha256::digest(&pem.contents));
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key).map_err(|e| damaged(e.to_string()))?;
        Ok(Self {
            issuer,
            certificate_pem: certificate_pem.to_owned(),
            certificate_der: pem.contents,
            fingerprint,
            not_after,
        })
    }

    /// Writes the certificate alone beside the bundle, where clients look for it.
    fn publish(&self, dir: &Path) -> Result<(), CaError> {
        let path = dir.join(CERTIFICATE);
        if fs::read_to_string(&path).is_ok_and(|text| text == self.certificate_pem) {
            return Ok(());
        }
        install(&path, self.certificate_pem.as_bytes(), 0o644, Replace::Always)
    }

    /// The certificate that clients trust, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The certificate that clients trust, as a Java key store.
    pub fn java_trust_store(&self) -> Vec<u8> {
        jks::trust_store(&self.certificate_der)
    }

    /// SHA-256 of the certificate, lower-case hex.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What to tell about it.
    pub fn summary(&self, dir: &Path) -> CaSummary {
        CaSummary {
            certificate: dir.join(CERTIFICATE),
            fingerprint: self.fingerprint.clone(),
            not_after: self.not_after.unix_timestamp(),
        }
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// A new key and its certificate, as the text of a bundle.
fn generate(kind: &str, now: SystemTime) -> Result<Zeroizing<String>, CaError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Make)?;
    let now = OffsetDateTime::from(now);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "agent-creds");
    // The year tells a person which of two CAs is the newer one.
    params.distinguished_name.push(DnType::CommonName, format!("agent-creds {kind} CA {}", now.date()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - Duration::hours(1);
    params.not_after = now + CA_LIFETIME;
    let certificate = params.self_signed(&key).map_err(CaError::Make)?;
    let key_pem = Zeroizing::new(key.serialize_pem());
    Ok(Zeroizing::new(format!("{}{}", *key_pem, certificate.pem())))
}

fn create_dir(dir: &Path) -> Result<(), CaError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| CaError::Io {
        action: "create",
        path: dir.to_owned(),
        source,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Replace {
    Always,
    Never,
}

/// Puts `content` at `path` in one step: a reader sees the old file or the whole new one, also after a crash.
fn install(path: &Path, content: &[u8], mode: u32, replace: Replace) -> Result<(), CaError> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| CaError::Io { action, path, source }
    };
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("tmp{}-{unique}", std::process::id()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .map_err(io("write", &temporary))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(io("write", &temporary))?;
    let result = match replace {
        Replace::Always => fs::rename(&temporary, path),
        Replace::Never => match fs::hard_link(&temporary, path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        },
    };
    let _ = fs::remove_file(&temporary);
    result.map_err(io("write", path))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("ca");
        let first = Ca::load_or_create(&dir, SystemTime::now()).unwrap();
        let second = Ca::load_or_create(&dir, SystemTime::now()).unwrap();
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert_eq!(fs::metadata(dir.join(BUNDLE)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        let public = fs::read_to_string(dir.join(CERTIFICATE)).unwrap();
        assert_eq!(public, first.certificate_pem());
        assert!(!public.contains("PRIVATE"));
        assert!(!format!("{first:?}").contains("PRIVATE"));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "no temporary file stays behind");
    }

    #[test]
    fn many_at_once_end_with_one_ca() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let prints: std::collections::BTreeSet<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(move || Ca::load_or_create(path, SystemTime::now()).unwrap().fingerprint))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(prints.len(), 1);
    }

    #[test]
    fn rotation_keeps_the_previous_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let first = Ca::load_or_create(dir.path(), SystemTime::now()).unwrap();
        let second = Ca::rotate(dir.path(), SystemTime::now()).unwrap();
        assert_ne!(first.fingerprint(), second.fingerprint());
        assert_eq!(fs::read_to_string(dir.path().join(PREVIOUS)).unwrap(), first.certificate_pem());
        assert_eq!(fs::read_to_string(dir.path().join(CERTIFICATE)).unwrap(), second.certificate_pem());
    }

    #[test]
    fn a_damaged_or_exposed_bundle_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Ca::load_or_create(dir.path(), SystemTime::now()).unwrap();
        let path = dir.path().join(BUNDLE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Ca::load(dir.path()), Err(CaError::Exposed { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for damaged in ["", "x", &text[..text.len() / 2], &text[text.find("-----BEGIN CERT").unwrap()..]] {
            fs::write(&path, damaged).unwrap();
            assert!(matches!(Ca::load(dir.path()), Err(CaError::Damaged { .. })), "{}", damaged.len());
        }
        let other = generate(LOCAL, SystemTime::now()).unwrap();
        let mixed = format!(
            "{}{}",
            &text[..text.find("-----BEGIN CERT").unwrap()],
            &other[other.find("-----BEGIN CERT").unwrap()..]
        );
        fs::write(&path, mixed).unwrap();
        assert!(Ca::load(dir.path()).unwrap_err().to_string().contains("do not belong together"));
    }
}
