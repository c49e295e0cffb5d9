//! The certificates a `ca` key names.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Reads the files that a configuration file names, so that parsing itself touches no file system.
///
/// Implemented for every `Fn(&Path) -> io::Result<Vec<u8>>`.
pub trait ReadFile {
    /// The whole content of `path`, or why it cannot be had.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
}

impl<F: Fn(&Path) -> io::Result<Vec<u8>>> ReadFile for F {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self(path)
    }
}

/// Why bytes are not a set of trusted certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CaError {
    /// No PEM block at all.
    #[error("it has no PEM block (`-----BEGIN CERTIFICATE-----`)")]
    NoPem,
    /// Blocks, but no certificate.
    #[error("it has PEM blocks, but no CERTIFICATE among them")]
    NoCertificate,
    /// A block without end, or not base64.
    #[error("PEM block {0} is damaged")]
    DamagedPem(usize),
    /// A CERTIFICATE block that holds none.
    #[error("PEM block {0} is not an X.509 certificate")]
    NotX509(usize),
}

/// The certificates of a PEM file (RFC 7468), written afresh: whatever else the file holds, such as a private key or
/// comments, is left out, because the result is sent to Envoy.
pub(crate) fn certificates(pem: &[u8]) -> Result<Arc<str>, CaError> {
    let mut out = String::new();
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(pem) {
        blocks += 1;
        let block = block.map_err(|_| CaError::DamagedPem(blocks))?;
        if block.label != "CERTIFICATE" {
            continue;
        }
        match X509Certificate::from_der(&block.contents) {
            Ok(([], _)) => append(&mut out, &block.contents),
            _ => return Err(CaError::NotX509(blocks)),
        }
    }
    match (blocks, out.is_empty()) {
        (0, _) => Err(CaError::NoPem),
        (_, true) => Err(CaError::NoCertificate),
        _ => Ok(out.into()),
    }
}

fn append(out: &mut String, der: &[u8]) {
    out.push_str("-----BEGIN CERTIFICATE-----\n");
    // 48 bytes are the 64 characters of a line.
    for line in der.chunks(48) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "{}", STANDARD.encode(line));
    }
    out.push_str("-----END CERTIFICATE-----\n");
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A certificate and its key, in PEM.
    pub(crate) fn make_ca() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["ca.example.com".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn only_certificates_are_kept() {
        let (cert, key) = make_ca();
        let both = format!("a comment\r\n{key}\n{cert}\nmore\n{cert}");
        let kept = certificates(both.as_bytes()).unwrap();
        let cert = cert.replace('\r', "");
        assert_eq!(&*kept, format!("{cert}{cert}"));
        assert!(!kept.contains("PRIVATE"));
    }

    #[test]
    fn what_is_not_a_ca_says_why() {
        let (cert, key) = make_ca();
        assert_eq!(certificates(b""), Err(CaError::NoPem));
        assert_eq!(certificates(&[0xff; 64]), Err(CaError::NoPem));
        assert_eq!(certificates(key.as_bytes()), Err(CaError::NoCertificate));
        let cut = &cert[..cert.len() / 2];
        assert_eq!(certificates(cut.as_bytes()), Err(CaError::DamagedPem(1)));
        let other = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(certificates(format!("{cert}{other}").as_bytes()), Err(CaError::NotX509(2)));
    }
}
