//! `provider = "age"`: a file encrypted with age (age-encryption.org/v1), for machines without a keyring.
//!
//! What is encrypted is a TOML file of names and secrets, `STRIPE = "sk_…"`: `age -d` and `age -e` read and write it as well.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use age::secrecy::SecretString;
use age::{DecryptError, Decryptor, Encryptor, IdentityFile, Recipient};
use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

use super::Freshness;
use super::file::read_bounded;
use crate::domain::secret::{Secret, SecretBytes};
use crate::vault::live::{Fetch, FetchError, Source};

/// The longest file that is read, in bytes.
const MOST: usize = 1024 * 1024;
/// The most work that a passphrase may take, as a power of two: some seconds.
const MOST_WORK: u8 = 20;

/// Why an encrypted file cannot be used; names no secret.
#[derive(Debug, thiserror::Error)]
pub enum AgeStoreError {
    /// A file cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not age's format, or another key's.
    #[error("cannot decrypt {}: {reason}", path.display())]
    Decrypt {
        /// The file.
        path: PathBuf,
        /// Why, in age's words.
        reason: String,
    },
    /// What is encrypted is no list of secrets.
    #[error("{} decrypts to something else than lines of NAME = \"secret\"", .0.display())]
    Content(PathBuf),
    /// Not in it.
    #[error("{p} has no secret `{name}`; `actl secret set {name} --age {p}` writes it", p = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        name: String,
    },
    /// The identity file has none.
    #[error("{} holds no age identity (`age-keygen` makes one)", .0.display())]
    Identity(PathBuf),
    /// A secret that a text file cannot hold.
    #[error("the secret is not UTF-8")]
    NotText,
}

/// What a file is decrypted with.
#[derive(Debug, Clone)]
pub enum AgeIdentity {
    /// A file as `age-keygen` writes it.
    File(PathBuf),
    /// A passphrase.
    Passphrase(Secret),
}

/// An encrypted file of secrets. All of it is blocking.
#[derive(Debug, Clone)]
pub struct AgeFile {
    /// The file.
    pub path: PathBuf,
    /// What it is decrypted with.
    pub identity: AgeIdentity,
}

type Secrets = BTreeMap<String, Zeroizing<String>>;

impl AgeFile {
    /// The secret of this name.
    ///
    /// # Errors
    /// When the file cannot be decrypted, or has none of this name.
    pub fn get(&self, name: &str) -> Result<SecretBytes, AgeStoreError> {
        let missing = || AgeStoreError::Missing { path: self.path.clone(), name: name.to_owned() };
        let secret = self.read()?.remove(name).ok_or_else(missing)?;
        SecretBytes::new(secret.as_bytes().to_vec()).map_err(|_| missing())
    }

    /// Puts a secret under this name; makes the file (mode 0600) if there is none.
    ///
    /// # Errors
    /// When the file is there and cannot be decrypted, or cannot be written; then it stays as it was.
    pub fn set(&self, name: &str, secret: &SecretBytes) -> Result<(), AgeStoreError> {
        let text = std::str::from_utf8(secret.expose()).map_err(|_| AgeStoreError::NotText)?;
        self.change(|secrets| {
            secrets.insert(name.to_owned(), Zeroizing::new(text.to_owned()));
            true
        })
        .map(|_| ())
    }

    /// Removes the secret of this name; whether there was one.
    ///
    /// # Errors
    /// As [`AgeFile::set`].
    pub fn remove(&self, name: &str) -> Result<bool, AgeStoreError> {
        self.change(|secrets| secrets.remove(name).is_some())
    }

    /// The names of all secrets.
    ///
    /// # Errors
    /// When the file cannot be decrypted.
    pub fn names(&self) -> Result<Vec<String>, AgeStoreError> {
        Ok(self.read()?.into_keys().collect())
    }

    /// Writes the file anew when `edit` says that it changed something; one process at a time.
    fn change(&self, edit: impl FnOnce(&mut Secrets) -> bool) -> Result<bool, AgeStoreError> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let lock = File::open(folder).map_err(io_error(folder))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| io_error(folder)(error.into()))?;
        let mut secrets = match self.read() {
            Err(AgeStoreError::Io { source, path })
                if source.kind() == io::ErrorKind::NotFound && path == self.path =>
            {
                Secrets::new()
            }
            read => read?,
        };
        if !edit(&mut secrets) {
            return Ok(false);
        }
        let encrypted = self.encrypt(&secrets)?;
        let mut draft = self.path.clone().into_os_string();
        draft.push(".new");
        let draft = PathBuf::from(draft);
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(&encrypted)?;
            file.sync_all()?;
            std::fs::rename(&draft, &self.path)?;
            lock.sync_all()
        })();
        written.map_err(io_error(&self.path))?;
        Ok(true)
    }

    fn read(&self) -> Result<Secrets, AgeStoreError> {
        let encrypted = read_bounded(&self.path, MOST).map_err(io_error(&self.path))?;
        let failed =
            |error: DecryptError| AgeStoreError::Decrypt { path: self.path.clone(), reason: error.to_string() };
        let decryptor = Decryptor::new(&encrypted[..]).map_err(failed)?;
        let identities = self.identities()?;
        let mut reader = decryptor
            .decrypt(identities.iter().map(|identity| identity.as_ref() as &dyn age::Identity))
            .map_err(failed)?;
        let mut text = Zeroizing::new(String::with_capacity(encrypted.len()));
        reader.read_to_string(&mut text).map_err(|_| AgeStoreError::Content(self.path.clone()))?;
        toml::from_str(&text).map_err(|_| AgeStoreError::Content(self.path.clone()))
    }

    fn encrypt(&self, secrets: &Secrets) -> Result<Vec<u8>, AgeStoreError> {
        let plain: BTreeMap<&str, &str> =
            secrets.iter().map(|(name, secret)| (name.as_str(), secret.as_str())).collect();
        let text = Zeroizing::new(toml::to_string(&plain).map_err(|_| AgeStoreError::Content(self.path.clone()))?);
        let failed = |error: &dyn std::fmt::Display| io_error(&self.path)(io::Error::other(error.to_string()));
        let encryptor = match &self.identity {
            AgeIdentity::Passphrase(passphrase) => {
                Encryptor::with_user_passphrase(SecretString::from(passphrase.as_str().to_owned()))
            }
            AgeIdentity::File(path) => {
                let recipients = self.identity_file(path)?.to_recipients().map_err(|error| failed(&error))?;
                let recipients = recipients.iter().map(|recipient| recipient.as_ref() as &dyn Recipient);
                Encryptor::with_recipients(recipients).map_err(|_| AgeStoreError::Identity(path.clone()))?
            }
        };
        let mut encrypted = Vec::new();
        let mut writer = encryptor.wrap_output(&mut encrypted).map_err(|error| failed(&error))?;
        writer.write_all(text.as_bytes()).and_then(|()| writer.finish().map(|_| ())).map_err(|error| failed(&error))?;
        Ok(encrypted)
    }

    fn identities(&self) -> Result<Vec<Box<dyn age::Identity>>, AgeStoreError> {
        match &self.identity {
            AgeIdentity::Passphrase(passphrase) => {
                let mut identity = age::scrypt::Identity::new(SecretString::from(passphrase.as_str().to_owned()));
                identity.set_max_work_factor(MOST_WORK);
                Ok(vec![Box::new(identity)])
            }
            AgeIdentity::File(path) => {
                let identities = self.identity_file(path)?.into_identities();
                identities.map_err(|_| AgeStoreError::Identity(path.clone()))
            }
        }
    }

    fn identity_file(&self, path: &Path) -> Result<IdentityFile<age::NoCallbacks>, AgeStoreError> {
        let text = read_bounded(path, MOST).map_err(io_error(path))?;
        IdentityFile::from_buffer(&text[..]).map_err(|_| AgeStoreError::Identity(path.to_owned()))
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> AgeStoreError {
    let path = path.to_owned();
    move |source| AgeStoreError::Io { path, source }
}

/// A secret in an encrypted file.
#[derive(Debug, Clone)]
pub struct AgeSecret {
    /// The file.
    pub file: AgeFile,
    /// Its name in it.
    pub name: String,
    /// For how long it is used.
    pub freshness: Freshness,
}

impl Source<SecretBytes> for AgeSecret {
    fn fetch(&self) -> Fetch<'_, SecretBytes> {
        let AgeSecret { file, name, freshness } = self.clone();
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || file.get(&name)).await;
            let secret = read.map_err(|_| FetchError::new("decrypting failed"))?.map_err(FetchError::new)?;
            freshness.lasting(secret.expose().to_vec())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretBytes {
        SecretBytes::new(text.into()).unwrap()
    }

    fn identity(folder: &Path) -> AgeIdentity {
        use age::secrecy::ExposeSecret;
        let path = folder.join("identity.txt");
        let identity = age::x25519::Identity::generate();
        std::fs::write(&path, format!("# a comment\n{}\n", identity.to_string().expose_secret())).unwrap();
        AgeIdentity::File(path)
    }

    #[test]
    fn what_is_set_is_got_and_nothing_of_it_is_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = AgeFile { path: folder.path().join("secrets.age"), identity: identity(folder.path()) };
        let missing = file.get("A").unwrap_err();
        assert!(matches!(missing, AgeStoreError::Io { .. }), "{missing}");
        file.set("A", &secret("sk_live_1 \"quoted\"")).unwrap();
        file.set("PEM", &secret("-----BEGIN\nline\n-----END\n")).unwrap();
        assert_eq!(file.get("A").unwrap().expose(), b"sk_live_1 \"quoted\"");
        assert_eq!(file.get("PEM").unwrap().expose(), b"-----BEGIN\nline\n-----END\n");
        let bytes = std::fs::read(&file.path).unwrap();
        assert!(bytes.starts_with(b"age-encryption.org/v1\n") && !bytes.windows(7).any(|window| window == b"sk_live"));
        assert_eq!(file.names().unwrap(), ["A", "PEM"]);
        assert!(file.remove("A").unwrap() && !file.remove("A").unwrap());
        assert!(file.get("A").unwrap_err().to_string().contains("actl secret set A"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "a draft was left");
    }

    #[test]
    fn another_identity_or_damage_is_refused_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.age");
        let file = AgeFile { path: path.clone(), identity: identity(folder.path()) };
        file.set("A", &secret("sk_live_1")).unwrap();
        let before = std::fs::read(&path).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let other = AgeFile { path: path.clone(), identity: identity(elsewhere.path()) };
        assert!(matches!(other.set("B", &secret("sk_live_2")), Err(AgeStoreError::Decrypt { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        let mut damaged = before;
        *damaged.last_mut().unwrap() ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let error = file.get("A").unwrap_err().to_string();
        assert!(!error.contains("sk_live"), "{error}");
        std::fs::write(&path, "A = \"sk_live_1\"\n").unwrap();
        let error = file.get("A").unwrap_err().to_string();
        assert!(!error.contains("sk_live"), "{error}");
        std::fs::write(folder.path().join("identity.txt"), "sk_live_1").unwrap();
        assert!(matches!(file.get("A"), Err(AgeStoreError::Identity(_) | AgeStoreError::Decrypt { .. })));
    }

    #[test]
    fn a_passphrase_does_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let passphrase = |text: &str| AgeIdentity::Passphrase(Secret::new(text.into()).unwrap());
        let path = folder.path().join("secrets.age");
        let file = AgeFile { path: path.clone(), identity: passphrase("correct horse") };
        file.set("A", &secret("sk_live_1")).unwrap();
        assert_eq!(file.get("A").unwrap().expose(), b"sk_live_1");
        let other = AgeFile { path, identity: passphrase("battery staple") };
        assert!(matches!(other.get("A"), Err(AgeStoreError::Decrypt { .. })));
    }
}
