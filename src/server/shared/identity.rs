//! Who this server is towards a shared vault: a file that `agent-creds nodes enrol` wrote where the vault is.
//!
//! ```text
//! agent-creds nodes enrol ─ DIR/vault.example.com.json ─▶ ~/.config/agent-creds/vaults ─▶ Identity
//! ```
//!
//! It holds a key, and a token for all that the gateway may do: of it, the tokens of sandboxes are made, by narrowing.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::config::SHARED_VAULT_PORT;
use crate::domain::macaroon::{Macaroon, Token, TokenError, TokenPrefix};
use crate::domain::node::NodeIdentity;
use crate::domain::policy::Address;
use crate::pki::node_of_certificate;

/// The longest file that is read, in bytes.
const LONGEST: u64 = 256 * 1024;

/// Who a server is towards a shared vault: what a file in its folder of vaults says. Its `Debug` shows nothing.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityFile {
    /// The certificate of the CA of nodes there, PEM.
    pub(in crate::server) ca: String,
    /// This server's certificate, PEM.
    pub(in crate::server) certificate: String,
    /// Its key, PEM.
    pub(in crate::server) key: Zeroizing<String>,
    /// A token of that vault, good as this gateway alone.
    pub(in crate::server) token: Zeroizing<String>,
    /// How long a certificate lives, in seconds.
    pub(in crate::server) lifetime: u64,
}

/// What the file says, parsed.
pub(super) struct Identity {
    /// As which node and gateway this server is enrolled.
    pub(super) node: NodeIdentity,
    /// The last second of its certificate, in Unix seconds.
    pub(super) not_after: i64,
    /// What tokens of sandboxes are made of.
    pub(super) token: Macaroon,
    /// For TLS.
    pub(super) file: IdentityFile,
}

/// Which version of a file was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(u64, i64, i64, u64, u32);

/// Why a file is no identity. Nothing of its content is in it.
#[derive(Debug, thiserror::Error)]
pub(super) enum IdentityError {
    /// It is not there, or cannot be read.
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
    /// Others may read the key.
    #[error("others may read it (mode {0:04o}): run `chmod 600` on it")]
    Open(u32),
    /// It is something else.
    #[error("it is not what `agent-creds nodes enrol` writes")]
    Malformed,
    /// Its certificate says nothing of a node.
    #[error("its certificate is none of a node")]
    Certificate,
    /// Its token is none.
    #[error("its token cannot be used: {0}")]
    Token(TokenError),
}

/// The name of the file for the vault at this address.
pub fn identity_file(address: &Address) -> String {
    let (host, port) = match address {
        Address::Ip(address) => (address.ip().to_string().replace(':', "-"), address.port()),
        Address::Name(host, port) => (host.to_string(), *port),
    };
    if port == SHARED_VAULT_PORT { format!("{host}.json") } else { format!("{host}_{port}.json") }
}

/// The version of the file that is there now.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some(Stamp(found.ino(), found.mtime(), found.mtime_nsec(), found.len(), found.mode()))
}

/// Reads a file.
pub(super) fn read(path: &Path, prefix: &TokenPrefix) -> Result<Identity, IdentityError> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Open(mode));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST).read_to_string(&mut text)?;
    // The error would show what it met.
    let file: IdentityFile = serde_json::from_str(&text).map_err(|_| IdentityError::Malformed)?;
    parse(file, prefix)
}

fn parse(file: IdentityFile, prefix: &TokenPrefix) -> Result<Identity, IdentityError> {
    let certificate = CertificateDer::from_pem_slice(file.certificate.as_bytes());
    let certificate = certificate.map_err(|_| IdentityError::Certificate)?;
    let (node, not_after) = node_of_certificate(&certificate).ok_or(IdentityError::Certificate)?;
    let token = Token::parse(&file.token, prefix).map_err(IdentityError::Token)?.macaroon;
    Ok(Identity { node, not_after, token, file })
}

impl Identity {
    /// The same with another certificate of the same node; `None` when it is none.
    pub(super) fn renewed(&self, certificate: String, key: Zeroizing<String>, prefix: &TokenPrefix) -> Option<Self> {
        let IdentityFile { ca, token, lifetime, .. } = &self.file;
        let (ca, token) = (ca.clone(), token.clone());
        let file = IdentityFile { ca, certificate, key, token, lifetime: *lifetime };
        parse(file, prefix).ok().filter(|new| new.node == self.node)
    }

    /// How long the certificate is good yet.
    pub(super) fn left(&self, now: SystemTime) -> Duration {
        let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(self.not_after).unwrap_or(0));
        ends.duration_since(now).unwrap_or_default()
    }

    /// Whether another one is to be had: a third of its life is over.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        self.left(now) < Duration::from_secs(self.file.lifetime) / 3 * 2
    }
}

impl IdentityFile {
    /// As it is written.
    ///
    /// # Errors
    /// None that is known of.
    pub fn text(&self) -> io::Result<Zeroizing<String>> {
        let mut text = Zeroizing::new(String::with_capacity(16 * 1024));
        text.push_str(&Zeroizing::new(serde_json::to_string_pretty(self).map_err(io::Error::other)?));
        text.push('\n');
        Ok(text)
    }

    /// Writes it to `path` for its owner alone, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let text = self.text()?;
        let draft = path.with_extension(format!("{}.new", std::process::id()));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, path)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written
    }
}

impl std::fmt::Debug for IdentityFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdentityFile(…)")
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::macaroon::{KeyId, Restriction, mint};
    use crate::domain::secret::SigningKey;
    use crate::pki::Ca;

    fn file(gateway: &str) -> IdentityFile {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let ca = Ca::load_or_create_for_nodes(dir.path(), now).unwrap();
        let node = NodeIdentity {
            id: "laptop-1".parse().unwrap(),
            gateway: gateway.parse().unwrap(),
            enrolment: [1; 16].into(),
        };
        let pem = ca.mint_node(&node, Duration::from_secs(60), now).unwrap();
        let key = SigningKey::new(vec![7; 32]).unwrap();
        let restrictions = [Restriction::Sandbox(gateway.parse().unwrap())];
        let token = mint(&key, &KeyId::default(), [1; 16], &restrictions).unwrap();
        IdentityFile {
            ca: ca.certificate_pem().to_owned(),
            certificate: pem.chain,
            key: pem.key,
            token: token.encode(&TokenPrefix::default()),
            lifetime: 60,
        }
    }

    #[test]
    fn what_is_written_is_read_and_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vault.json");
        let prefix = TokenPrefix::default();
        file("team").write(&path).unwrap();
        let identity = read(&path, &prefix).unwrap();
        assert_eq!((identity.node.id.as_str(), identity.node.gateway.as_str()), ("laptop-1", "team"));
        assert!(!format!("{identity:?}").contains("PRIVATE"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");

        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read(&path, &prefix), Err(IdentityError::Open(0o640))));
        assert!(matches!(read(&dir.path().join("none"), &prefix), Err(IdentityError::Io(_))));
        file("team").write(&path).unwrap();
        let other: TokenPrefix = "other_".parse().unwrap();
        assert!(matches!(read(&path, &other), Err(IdentityError::Token(TokenError::Prefix(_)))));
        let full = fs::read_to_string(&path).unwrap();
        for bad in
            [String::new(), "{}".to_owned(), full.replace("\"ca\"", "\"cb\""), full.replacen('{', "{\"more\":1,", 1)]
        {
            fs::write(&path, bad).unwrap();
            assert!(matches!(read(&path, &prefix), Err(IdentityError::Malformed)));
        }
    }

    #[test]
    fn only_a_certificate_of_the_same_node_renews_one() {
        let prefix = TokenPrefix::default();
        let identity = parse(file("team"), &prefix).unwrap();
        let (same, other) = (file("team"), file("prod"));
        assert!(identity.renewed(same.certificate, same.key.clone(), &prefix).is_some());
        assert!(identity.renewed(other.certificate, other.key, &prefix).is_none());
        assert!(identity.renewed("x".to_owned(), same.key, &prefix).is_none());
        let now = SystemTime::now();
        assert!(!identity.is_due(now) && identity.is_due(now + Duration::from_secs(25)));
        assert_eq!(identity.left(now + Duration::from_secs(99)), Duration::ZERO);
    }

    #[test]
    fn each_address_has_a_file() {
        for (address, name) in [
            ("vault.example.com:18000", "vault.example.com.json"),
            ("vault.example.com:443", "vault.example.com_443.json"),
            ("10.0.0.7:18000", "10.0.0.7.json"),
            ("[::1]:1", "--1_1.json"),
        ] {
            assert_eq!(identity_file(&address.parse().unwrap()), name);
        }
    }
}
