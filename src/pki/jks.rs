//! A CA certificate as a Java key store, the format of `cacerts` that every Java reads.
//!
//! JKS is not specified but in OpenJDK's `sun.security.provider.JavaKeyStore`: big-endian, and at the end a SHA-1 over
//! password, a fixed text and all before it. The password protects nothing; `changeit` is what every Java tries.

use sha1::{Digest, Sha1};

const MAGIC: u32 = 0xFEED_FEED;
const VERSION: u32 = 2;
const TRUSTED_CERTIFICATE: u32 = 2;
/// What Java tries when it is told none.
const PASSWORD: &str = "changeit";

/// A key store that trusts one certificate.
///
/// `der` is the certificate; its entry has no date, so that the same certificate gives the same bytes.
pub(super) fn trust_store(der: &[u8]) -> Vec<u8> {
    let mut store = Vec::with_capacity(der.len() + 128);
    store.extend(MAGIC.to_be_bytes());
    store.extend(VERSION.to_be_bytes());
    store.extend(1_u32.to_be_bytes());
    store.extend(TRUSTED_CERTIFICATE.to_be_bytes());
    put_text(&mut store, "agent-creds");
    store.extend(0_u64.to_be_bytes());
    put_text(&mut store, "X.509");
    // A certificate is a few hundred bytes.
    store.extend(u32::try_from(der.len()).unwrap_or(u32::MAX).to_be_bytes());
    store.extend(der);
    let mut digest = Sha1::new();
    for unit in PASSWORD.encode_utf16() {
        digest.update(unit.to_be_bytes());
    }
    digest.update("Mighty Aphrodite");
    digest.update(&store);
    store.extend(digest.finalize());
    store
}

fn put_text(out: &mut Vec<u8>, text: &'static str) {
    out.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(text.as_bytes());
}
