//! The state folder: what must outlive the process. The keys that tokens are signed with, and the log of tokens
//! ([`TokenLog`]).
//!
//! The folder is made with mode 0700 and the key with 0600. Programs that start at the same time end up with the same key,
//! and a crash leaves either no key or a whole one.

mod audit;
mod keys;
mod nodes;
mod refresh;
mod tokens;

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use crate::domain::secret::{SigningKey, SigningKeyError};

pub use self::audit::{AuditLog, AuditRecord, ChainError, KEPT as AUDIT_KEPT};
pub use self::keys::{KeysError, SigningKeys, existing_signing_keys, keys_changed};
pub use self::nodes::{EnrolError, Enrolled, NodeLog, Renewed};
pub use self::refresh::RefreshLog;
pub use self::tokens::{Issued, IssuedToken, LogError, TokenLog};

const KEY_FILE: &str = "signing.key";

/// What goes wrong with the state folder.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Neither `XDG_STATE_HOME` nor `HOME` is set.
    #[error("there is no folder for the state: set HOME or XDG_STATE_HOME, or give --state-dir DIR")]
    NoHome,
    /// The folder or a file in it cannot be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The folder is something else.
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// Anyone could put another key there.
    #[error("others may write to {0} (mode {1:04o}): run `chmod go-w {0}`", path.display(), mode)]
    FolderOpen {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others could have read the key.
    #[error("others may read {0} (mode {1:04o}): run `chmod 600 {0}`, and replace the key if they may have", path.display(), mode)]
    KeyOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file's content is no key.
    #[error("{} holds no signing key (it should be one line, 32 bytes or more in base64)", path.display())]
    BadKeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: KeyTextError,
    },
    /// The environment's key is no key.
    #[error(
        "MACAROON_SIGNING_KEY is not a signing key (32 bytes or more in base64; make one with `openssl rand -base64 32`)"
    )]
    BadKeyVariable(#[source] KeyTextError),
}

/// Why a text is no signing key. The text itself is never named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// Not base64.
    #[error("it is not base64")]
    Base64,
    /// Too short.
    #[error(transparent)]
    Length(#[from] SigningKeyError),
}

/// An open state folder.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Where the folder is when nobody says: `$XDG_STATE_HOME/agent-creds`, else `$HOME/.local/state/agent-creds`. Relative
    /// values do not count (XDG base directory specification).
    pub fn default_path(xdg_state_home: Option<&OsStr>, home: Option<&OsStr>) -> Result<PathBuf, StateError> {
        let absolute = |value: Option<&OsStr>| value.map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute(xdg_state_home).or_else(|| absolute(home).map(|home| home.join(".local/state")));
        base.map(|base| base.join("agent-creds")).ok_or(StateError::NoHome)
    }

    /// Opens the folder, and makes it (mode 0700) when it is not there.
    ///
    /// Errors: it cannot be made, is not a folder, or others may write to it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|source| {
            if path.exists() && !path.is_dir() {
                return StateError::NotAFolder(path.clone());
            }
            StateError::Io { action: "make the state folder", path: path.clone(), source }
        })?;
        let metadata = path.metadata().map_err(io_error("open the state folder", &path))?;
        let mode = metadata.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(StateError::FolderOpen { path, mode });
        }
        Ok(Self { path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The signing key: the environment's (`MACAROON_SIGNING_KEY`) unless that is missing or empty, else the folder's,
    /// which is made on first use.
    ///
    /// Errors: a key that is none, or that others may read; a folder that cannot be written.
    fn signing_key(&self, variable: Option<&str>) -> Result<SigningKey, StateError> {
        match existing_signing_key(&self.path, variable)? {
            Some(key) => Ok(key),
            None => {
                make_key(&self.path, KEY_FILE)?;
                let path = self.path.join(KEY_FILE);
                let gone = || io_error("read", &path)(io::ErrorKind::NotFound.into());
                read_key_file(&path)?.ok_or_else(gone)
            }
        }
    }
}

/// Puts a new key in place in a folder, unless another process is first.
fn make_key(folder: &Path, name: &str) -> Result<(), StateError> {
    let mut key = Zeroizing::new([0; 32]);
    let mut unique = [0; 8];
    let random = getrandom::fill(&mut *key).and_then(|()| getrandom::fill(&mut unique));
    random.map_err(|error| io_error("make a key for", folder)(io::Error::other(error)))?;
    let mut line = Zeroizing::new(String::with_capacity(64));
    STANDARD.encode_string(key.as_slice(), &mut line);
    line.push('\n');

    let target = folder.join(name);
    let draft = folder.join(format!(".{name}.{:016x}", u64::from_be_bytes(unique)));
    let written = write_new(&draft, line.as_bytes());
    // A link, unlike a rename, never replaces: whoever is first wins, with a whole file.
    let linked = written.and_then(|()| std::fs::hard_link(&draft, &target));
    let removed = std::fs::remove_file(&draft);
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        linked => linked.map_err(io_error("make", &target))?,
    }
    removed.map_err(io_error("remove", &draft))?;
    sync(folder)
}

/// What was done to the names in a folder outlives a crash.
fn sync(folder: &Path) -> Result<(), StateError> {
    File::open(folder).and_then(|open| open.sync_all()).map_err(io_error("save", folder))
}

/// The signing key, when there is one: the environment's, else that of the folder at `state_dir`. Makes nothing.
///
/// Errors: as [`StateDir::signing_key`].
fn existing_signing_key(state_dir: &Path, variable: Option<&str>) -> Result<Option<SigningKey>, StateError> {
    match variable.filter(|text| !text.trim().is_empty()) {
        Some(text) => parse_key(text).map(Some).map_err(StateError::BadKeyVariable),
        None => read_key_file(&state_dir.join(KEY_FILE)),
    }
}

fn read_key_file(path: &Path) -> Result<Option<SigningKey>, StateError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io_error("read", path))?,
    };
    // Of the open file, not of its name: the name may be given to another file meanwhile.
    let mode = file.metadata().map_err(io_error("read", path))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StateError::KeyOpen { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(4096));
    file.take(4096).read_to_string(&mut text).map_err(io_error("read", path))?;
    parse_key(&text).map(Some).map_err(|source| StateError::BadKeyFile { path: path.to_owned(), source })
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Base64 in either alphabet, padded or not.
fn parse_key(text: &str) -> Result<SigningKey, KeyTextError> {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text = text.trim();
    let alphabet = if text.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    let mut bytes = Vec::with_capacity(text.len());
    let decoded = GeneralPurpose::new(alphabet, CONFIG).decode_vec(text, &mut bytes);
    let mut bytes = Zeroizing::new(bytes);
    decoded.map_err(|_| KeyTextError::Base64)?;
    Ok(SigningKey::new(std::mem::take(&mut *bytes))?)
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |source| StateError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const KEY: &str = "RR2lAqayINqpuZERdDnUWceiXG83eGXXJdEcskfk7bQ=";

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn the_key_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        assert!(existing_signing_key(&path, None).unwrap().is_none());
        assert!(!path.exists(), "looking makes nothing");
        let state = StateDir::open(&path).unwrap();
        let key = state.signing_key(None).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join(KEY_FILE)), 0o600);
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1, "no draft is left");
        let again = StateDir::open(&path).unwrap().signing_key(Some(" ")).unwrap();
        assert_eq!(key.expose(), again.expose());
        assert_eq!(key.expose().len(), 32);
    }

    #[test]
    fn all_who_start_at_once_get_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let keys: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let start = || StateDir::open(&path).unwrap().signing_key(None).unwrap().expose().to_vec();
            let all: Vec<_> = (0..16).map(|_| scope.spawn(start)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn a_key_may_come_in_any_base64() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path().join("state")).unwrap();
        let wanted = STANDARD.decode(KEY).unwrap();
        let url = KEY.replace('+', "-").replace('/', "_");
        for text in [KEY, KEY.trim_end_matches('='), &url, &format!("  {KEY}\n")] {
            assert_eq!(state.signing_key(Some(text)).unwrap().expose(), wanted);
        }
        let all_bits = STANDARD.encode([0xff; 33]);
        let url_bits = all_bits.replace('/', "_");
        assert_eq!(state.signing_key(Some(&url_bits)).unwrap().expose(), [0xff; 33]);
        assert!(!state.path().join(KEY_FILE).exists(), "the environment's key is not written down");
        for (bad, source) in [("not base64!", "it is not base64"), ("QUJD", "a signing key has at least 32 bytes")] {
            let error = state.signing_key(Some(bad)).unwrap_err();
            assert!(error.to_string().contains("MACAROON_SIGNING_KEY") && !error.to_string().contains(bad));
            assert!(std::error::Error::source(&error).unwrap().to_string().starts_with(source), "{bad}");
        }
    }

    #[test]
    fn what_others_may_read_or_change_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let state = StateDir::open(&path).unwrap();
        state.signing_key(None).unwrap();
        let file = path.join(KEY_FILE);
        let chmod = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            chmod(&file, mode);
            let error = state.signing_key(None).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 600 {}", file.display())), "{error}");
        }
        chmod(&file, 0o400);
        assert!(state.signing_key(None).is_ok());
        chmod(&path, 0o770);
        assert!(StateDir::open(&path).unwrap_err().to_string().contains("chmod go-w"));
        chmod(&path, 0o755);
        assert!(StateDir::open(&path).is_ok());
        let error = StateDir::open(&file).unwrap_err();
        assert!(matches!(error, StateError::NotAFolder(_)), "{error}");
        chmod(&file, 0o600);
        std::fs::write(&file, "nonsense").unwrap();
        assert!(matches!(state.signing_key(None), Err(StateError::BadKeyFile { .. })));
    }

    #[test]
    fn the_folder_is_where_xdg_says() {
        let at = |xdg: Option<&str>, home: Option<&str>| {
            StateDir::default_path(xdg.map(OsStr::new), home.map(OsStr::new))
                .ok()
                .map(|path| path.display().to_string())
        };
        assert_eq!(at(Some("/x"), Some("/h")).as_deref(), Some("/x/agent-creds"));
        assert_eq!(at(Some("x"), Some("/h")).as_deref(), Some("/h/.local/state/agent-creds"));
        assert_eq!(at(None, Some("/h")).as_deref(), Some("/h/.local/state/agent-creds"));
        assert_eq!(at(Some(""), None), None);
    }
}
