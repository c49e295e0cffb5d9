//! Several signing keys: one that new tokens are signed with, and those that older tokens still hold by.
//!
//! ```text
//! STATE/signing.key     the key `primary`, made on first use; MACAROON_SIGNING_KEY takes its place
//! STATE/keys/ID.key     more keys, each 0600
//! STATE/keys/current    the id of the key that signs new tokens; none: `primary`
//! ```
//!
//! A new key signs from the moment it is there; the others go on verifying until they are retired, which removes them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{KEY_FILE, StateDir, StateError, io_error, parse_key, read_key_file};
use crate::domain::macaroon::{KeyId, Keyring};
use crate::domain::secret::SigningKey;

const FOLDER: &str = "keys";
const CURRENT: &str = "current";
const SUFFIX: &str = ".key";

/// The keys that there are. Its `Debug` shows their ids alone.
#[derive(Clone)]
pub struct SigningKeys {
    current: KeyId,
    signer: SigningKey,
    /// `signer` included.
    all: BTreeMap<KeyId, SigningKey>,
}

impl SigningKeys {
    /// The key that signs new tokens, and its id.
    pub fn current(&self) -> (&KeyId, &SigningKey) {
        (&self.current, &self.signer)
    }

    /// The keys' ids.
    pub fn ids(&self) -> impl Iterator<Item = &KeyId> {
        self.all.keys()
    }

    /// What tokens are verified with. A token with an id of no key here is taken to be signed with `primary`: other tools give
    /// that key other ids.
    pub fn keyring(&self) -> Keyring {
        let primary = self.all.get(&KeyId::default()).map(Keyring::single).unwrap_or_default();
        self.all.iter().fold(primary, |keyring, (id, key)| keyring.with(id.clone(), key))
    }

    /// Whether these are the same keys.
    pub fn same(&self, other: &Self) -> bool {
        let same = |((id, key), (other, theirs)): ((&KeyId, &SigningKey), (&KeyId, &SigningKey))| {
            id == other && key.expose() == theirs.expose()
        };
        self.current == other.current && self.all.len() == other.all.len() && self.all.iter().zip(&other.all).all(same)
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKeys").field("current", &self.current).field("ids", &self.all.keys()).finish()
    }
}

/// Why keys are not changed.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The folder or a key in it cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// There is a key of this id.
    #[error("there is a key `{0}` already; `mint keys list` shows all")]
    Exists(KeyId),
    /// There is none.
    #[error("there is no key `{0}`; `mint keys list` shows all")]
    Unknown(KeyId),
    /// New tokens are signed with it.
    #[error("new tokens are signed with the key `{0}`: make another one first (`mint keys new`)")]
    Current(KeyId),
    /// It is not in the folder.
    #[error("the key `primary` is MACAROON_SIGNING_KEY's: take it out of the environment, of the server's too")]
    Environment,
}

impl StateDir {
    /// All keys; the first is made when there is none. `variable` is `MACAROON_SIGNING_KEY`, which is `primary` and signs new
    /// tokens when it is set.
    ///
    /// Errors: a key that is none, or that others may read; a folder that cannot be written.
    pub fn signing_keys(&self, variable: Option<&str>) -> Result<SigningKeys, StateError> {
        if let Some(keys) = existing_signing_keys(&self.path, variable)? {
            return Ok(keys);
        }
        self.signing_key(variable)?;
        let missing = || io_error("read", &self.path.join(KEY_FILE))(io::ErrorKind::NotFound.into());
        existing_signing_keys(&self.path, variable)?.ok_or_else(missing)
    }

    /// Makes a key that signs new tokens from now on.
    ///
    /// # Errors
    /// When the id is taken, or the folder cannot be written.
    pub fn add_key(&self, id: &KeyId) -> Result<(), KeysError> {
        let folder = self.path.join(FOLDER);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(io_error("make the folder", &folder))?;
        if *id == KeyId::default() || folder.join(file_name(id)).exists() {
            return Err(KeysError::Exists(id.clone()));
        }
        super::make_key(&folder, &file_name(id))?;
        let draft = folder.join(format!(".{CURRENT}.{}", std::process::id()));
        let _ = fs::remove_file(&draft);
        super::write_new(&draft, format!("{id}\n").as_bytes()).map_err(io_error("write", &draft))?;
        fs::rename(&draft, folder.join(CURRENT)).map_err(io_error("write", &folder.join(CURRENT)))?;
        Ok(super::sync(&folder)?)
    }

    /// Removes a key: tokens that were signed with it hold no more.
    ///
    /// # Errors
    /// When there is no such key, new tokens are signed with it, or it cannot be removed.
    pub fn retire_key(&self, id: &KeyId, variable: Option<&str>) -> Result<(), KeysError> {
        let keys = existing_signing_keys(&self.path, variable)?;
        let Some(keys) = keys.filter(|keys| keys.all.contains_key(id)) else {
            return Err(KeysError::Unknown(id.clone()));
        };
        let is_primary = *id == KeyId::default();
        if is_primary && is_set(variable) {
            return Err(KeysError::Environment);
        }
        if keys.current == *id {
            return Err(KeysError::Current(id.clone()));
        }
        let path = key_path(&self.path, id);
        fs::remove_file(&path).map_err(io_error("remove", &path))?;
        Ok(super::sync(path.parent().unwrap_or(&self.path))?)
    }
}

/// The keys, when there are any; makes nothing.
///
/// Errors: as [`StateDir::signing_keys`].
pub fn existing_signing_keys(state_dir: &Path, variable: Option<&str>) -> Result<Option<SigningKeys>, StateError> {
    let mut all = BTreeMap::new();
    let primary = match variable.filter(|text| !text.trim().is_empty()) {
        Some(text) => Some(parse_key(text).map_err(StateError::BadKeyVariable)?),
        None => read_key_file(&state_dir.join(KEY_FILE))?,
    };
    all.extend(primary.map(|key| (KeyId::default(), key)));
    let folder = state_dir.join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        entries => Some(entries.map_err(io_error("read", &folder))?),
    };
    for entry in entries.into_iter().flatten() {
        let entry = entry.map_err(io_error("read", &folder))?;
        let id = entry.file_name().to_str().and_then(|name| name.strip_suffix(SUFFIX)?.parse::<KeyId>().ok());
        // Drafts begin with a dot; `primary` has its own place.
        let Some(id) = id.filter(|id| *id != KeyId::default() && !id.to_string().starts_with('.')) else { continue };
        // Retired meanwhile: as if it had not been there.
        if let Some(key) = read_key_file(&entry.path())? {
            all.insert(id, key);
        }
    }
    let current = if is_set(variable) { KeyId::default() } else { read_current(&folder)? };
    let Some(signer) = all.get(&current).cloned() else {
        // Only a folder that somebody took a file from has others.
        let named = folder.join(CURRENT);
        return if current == KeyId::default() && all.is_empty() {
            Ok(None)
        } else {
            Err(io_error("find the key that is named in", &named)(io::ErrorKind::NotFound.into()))
        };
    };
    Ok(Some(SigningKeys { current, signer, all }))
}

/// When the folder's keys were last changed: to be compared with what it was. Cheap to ask.
pub fn keys_changed(state_dir: &Path) -> [Option<SystemTime>; 2] {
    let changed = |path: PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    [changed(state_dir.join(KEY_FILE)), changed(state_dir.join(FOLDER))]
}

fn is_set(variable: Option<&str>) -> bool {
    variable.is_some_and(|text| !text.trim().is_empty())
}

fn read_current(folder: &Path) -> Result<KeyId, StateError> {
    let path = folder.join(CURRENT);
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|error| io_error("read", &path)(io::Error::other(error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(KeyId::default()),
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

fn file_name(id: &KeyId) -> String {
    format!("{id}{SUFFIX}")
}

fn key_path(state_dir: &Path, id: &KeyId) -> PathBuf {
    if *id == KeyId::default() { state_dir.join(KEY_FILE) } else { state_dir.join(FOLDER).join(file_name(id)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::macaroon::{Token, TokenError, mint, verify};

    fn id(text: &str) -> KeyId {
        text.parse().unwrap()
    }

    fn token(keys: &SigningKeys) -> Token {
        let (id, key) = keys.current();
        mint(key, id, [1; 16], &[]).unwrap().into()
    }

    #[test]
    fn a_new_key_signs_and_the_old_ones_verify_until_they_are_retired() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path().join("state")).unwrap();
        assert!(existing_signing_keys(state.path(), None).unwrap().is_none());
        let first = state.signing_keys(None).unwrap();
        assert_eq!(first.current().0, &KeyId::default());
        let before = keys_changed(state.path());
        state.add_key(&id("k2")).unwrap();
        assert_ne!(keys_changed(state.path()), before);
        let second = state.signing_keys(None).unwrap();
        assert!(second.current().0 == &id("k2") && !second.same(&first) && second.same(&second.clone()));
        assert!(matches!(state.add_key(&id("k2")), Err(KeysError::Exists(_))));
        assert!(matches!(state.add_key(&KeyId::default()), Err(KeysError::Exists(_))));
        for keys in [&first, &second] {
            assert!(verify(&token(keys), &second.keyring()).is_ok());
        }
        assert_eq!(verify(&token(&second), &first.keyring()).unwrap_err(), TokenError::Signature);

        assert!(matches!(state.retire_key(&id("k2"), None), Err(KeysError::Current(_))));
        assert!(matches!(state.retire_key(&id("k3"), None), Err(KeysError::Unknown(_))));
        state.retire_key(&KeyId::default(), None).unwrap();
        let last = state.signing_keys(None).unwrap();
        assert_eq!(last.ids().collect::<Vec<_>>(), [&id("k2")]);
        assert!(!state.path().join(KEY_FILE).exists(), "it is not made again");
        assert_eq!(verify(&token(&first), &last.keyring()).unwrap_err(), TokenError::UnknownKey);
        assert!(!format!("{last:?}").contains("SigningKey("));
    }

    #[test]
    fn the_environments_key_is_primary_and_signs() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path().join("state")).unwrap();
        let variable = "RR2lAqayINqpuZERdDnUWceiXG83eGXXJdEcskfk7bQ=";
        let own = state.signing_keys(Some(variable)).unwrap();
        assert!(!state.path().join(KEY_FILE).exists(), "it is not written down");
        state.add_key(&id("k2")).unwrap();
        let keys = state.signing_keys(Some(variable)).unwrap();
        assert_eq!((keys.current().0, keys.ids().count()), (&KeyId::default(), 2));
        assert!(verify(&token(&own), &keys.keyring()).is_ok());
        assert!(matches!(state.retire_key(&KeyId::default(), Some(variable)), Err(KeysError::Environment)));
    }

    #[test]
    fn what_is_damaged_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path().join("state")).unwrap();
        state.signing_keys(None).unwrap();
        state.add_key(&id("k2")).unwrap();
        fs::write(state.path().join("keys/k2.key"), "nonsense").unwrap();
        assert!(matches!(state.signing_keys(None), Err(StateError::BadKeyFile { .. })));
        fs::remove_file(state.path().join("keys/k2.key")).unwrap();
        let error = state.signing_keys(None).unwrap_err().to_string();
        assert!(error.contains("keys/current"), "{error}");
    }
}
