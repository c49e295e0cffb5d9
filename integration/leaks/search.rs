//! The search: secrets in every form in which they could be written.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// A secret that is where it should not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which secret.
    pub what: String,
    /// Where.
    pub place: String,
}

/// What is looked for, and where each may be.
#[derive(Clone, Default)]
pub struct Hunt {
    needles: Vec<(String, Vec<u8>)>,
    exceptions: Vec<(String, PathBuf)>,
}

impl Hunt {
    /// A secret that is text: as it is, in base64 of any alignment and alphabet, in hexadecimal, percent-encoded.
    pub fn secret(&mut self, what: &str, secret: &[u8]) {
        self.needle(what, secret.to_vec());
        for shift in 0..3 {
            let inner = aligned(secret, shift);
            self.needle(what, inner.replace('+', "-").replace('/', "_").into_bytes());
            self.needle(what, inner.into_bytes());
        }
        let hex = |format: fn(&u8) -> String| secret.iter().map(format).collect::<String>().into_bytes();
        self.needle(what, hex(|byte| format!("{byte:02x}")));
        self.needle(what, hex(|byte| format!("{byte:02X}")));
        self.needle(what, hex(|byte| format!("%{byte:02X}")));
        // As `Debug` shows bytes.
        self.needle(what, secret.iter().map(u8::to_string).collect::<Vec<_>>().join(", ").into_bytes());
    }

    /// A token, by its signature: whoever has it has the token, the rest can be guessed.
    pub fn token(&mut self, token: &str) {
        self.needle("a token", token.as_bytes()[token.len() - 40..].to_vec());
        let binary = URL_SAFE_NO_PAD.decode(token.trim_start_matches("acm_")).unwrap();
        self.secret("a token's signature", &binary[binary.len() - 32..]);
    }

    /// The key tokens are signed with, base64.
    pub fn signing_key(&mut self, base64: &str) {
        self.secret("the signing key", &STANDARD.decode(base64).unwrap());
        self.needle("the signing key", base64.as_bytes().to_vec());
    }

    /// The private key in a PEM file, and that there is a private key at all.
    pub fn private_key(&mut self, pem: &str) {
        self.needle("a private key", b"PRIVATE KEY".to_vec());
        let body: String = pem.lines().skip(1).take_while(|line| !line.starts_with("--")).collect();
        let der = STANDARD.decode(&body).unwrap();
        for line in body.as_bytes().chunks(64).filter(|line| line.len() > 40) {
            self.needle("a private key", line.to_vec());
        }
        // PKCS #8 (RFC 5958) of a P-256 key: the key itself is 32 bytes from byte 36 on.
        self.secret("a private key", &der[36..68]);
        assert_eq!(der[34..36], [0x04, 32], "an octet string of 32 bytes");
    }

    fn needle(&mut self, what: &str, bytes: Vec<u8>) {
        assert!(bytes.len() >= 11, "{what}: too short to be found by design only");
        self.needles.push((what.to_owned(), bytes));
    }

    /// `what` may be in this one file.
    pub fn may_be_in(&mut self, what: &str, file: &Path) {
        self.exceptions.push((what.to_owned(), file.to_owned()));
    }

    pub fn without_exceptions(mut self) -> Self {
        self.exceptions.clear();
        self
    }

    pub fn needles(&self) -> &[(String, Vec<u8>)] {
        &self.needles
    }

    /// What is in a file, or in any file below a folder.
    pub fn in_files(&self, path: &Path) -> Vec<Finding> {
        let kind = fs::symlink_metadata(path).unwrap().file_type();
        if kind.is_dir() {
            let mut names: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            return names.iter().flat_map(|path| self.in_files(path)).collect();
        }
        if !kind.is_file() {
            return Vec::new();
        }
        let mut findings = self.in_bytes(&path.display().to_string(), &fs::read(path).unwrap());
        findings.retain(|finding| !self.exceptions.iter().any(|(what, file)| *what == finding.what && file == path));
        findings
    }

    /// What is in answers.
    pub fn in_pages(&self, pages: &[(String, Vec<u8>)]) -> Vec<Finding> {
        pages.iter().flat_map(|(name, body)| self.in_bytes(name, body)).collect()
    }

    fn in_bytes(&self, place: &str, bytes: &[u8]) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (what, needle) in &self.needles {
            let finding = || Finding { what: what.clone(), place: place.to_owned() };
            if contains(bytes, needle) && findings.last() != Some(&finding()) {
                findings.push(finding());
            }
        }
        findings
    }
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let (first, rest) = needle.split_first().unwrap();
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| byte == first) {
        from += at + 1;
        if bytes[from..].starts_with(rest) {
            return true;
        }
    }
    false
}

/// The characters of base64 that depend on `secret` alone when `shift` bytes come before it.
fn aligned(secret: &[u8], shift: usize) -> String {
    let mut bytes = vec![0; shift];
    bytes.extend_from_slice(secret);
    let first = (shift * 8).div_ceil(6);
    let last = bytes.len() * 8 / 6;
    STANDARD_NO_PAD.encode(&bytes)[first..last].to_owned()
}

#[test]
fn base64_is_found_at_every_alignment() {
    let secret = "sk_test_0123456789";
    let mut hunt = Hunt::default();
    hunt.secret("it", secret.as_bytes());
    for before in ["", "a", "ab", "user:", "Bearer "] {
        for after in ["", "x", "xy"] {
            let text = STANDARD.encode(format!("{before}{secret}{after}"));
            assert!(!hunt.in_pages(&[("text".to_owned(), text.into_bytes())]).is_empty(), "{before} {after}");
        }
    }
    let other = STANDARD.encode("user:sk_test_0123056789").into_bytes();
    assert_eq!(hunt.in_pages(&[("text".to_owned(), other)]), []);
}
