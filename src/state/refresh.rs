//! The refresh tokens that replaced configured ones. SQLite in the state folder (mode 0600): unlike all else in it but the keys,
//! these are secrets, and nowhere else.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};

use super::tokens::{LogError, open_private};
use crate::domain::secret::{Secret, SecretBytes};

const FILE: &str = "refresh-tokens.db";
const VERSION: i64 = 1;
const SCHEMA: &str = "
    CREATE TABLE token (
        key   TEXT PRIMARY KEY,
        token BLOB NOT NULL,
        saved INTEGER NOT NULL
    ) STRICT;
    PRAGMA user_version = 1;
";

/// The refresh tokens that are in use.
#[derive(Debug)]
pub struct RefreshLog {
    connection: Connection,
    path: PathBuf,
}

impl RefreshLog {
    /// Opens those of the state folder, and makes the file when there is none.
    ///
    /// # Errors
    /// When it is damaged, of a later version, or open to others.
    pub fn open(state_dir: &Path) -> Result<Self, LogError> {
        let path = state_dir.join(FILE);
        let connection = open_private(&path, "full", VERSION, SCHEMA)?;
        let log = Self { connection, path };
        // What is replaced is overwritten, not only forgotten.
        log.tried(log.connection.pragma_update(None, "secure_delete", true))?;
        Ok(log)
    }

    /// The token under this key.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(&self, key: &str) -> Result<Option<SecretBytes>, LogError> {
        let found: Option<Vec<u8>> = self.tried(
            self.connection.query_row("SELECT token FROM token WHERE key = ?1", [key], |row| row.get(0)).optional(),
        )?;
        // An empty one is none.
        Ok(found.and_then(|token| SecretBytes::new(token).ok()))
    }

    /// Puts a token under this key; when it returns, it outlives a crash.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, key: &str, token: &Secret, now: i64) -> Result<(), LogError> {
        let sql = "INSERT INTO token (key, token, saved) VALUES (?1, ?2, ?3)
                   ON CONFLICT (key) DO UPDATE SET token = excluded.token, saved = excluded.saved";
        self.tried(self.connection.execute(sql, params![key, token.expose(), now]).map(|_| ()))
    }

    fn tried<T>(&self, outcome: rusqlite::Result<T>) -> Result<T, LogError> {
        outcome.map_err(|source| LogError::Sqlite { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_token_saved_is_the_one_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let secret = |text: &str| Secret::new(text.into()).unwrap();
        {
            let log = RefreshLog::open(folder.path()).unwrap();
            assert!(log.load("a").unwrap().is_none());
            log.save("a", &secret("rt_1"), 1).unwrap();
            log.save("a", &secret("rt_2"), 2).unwrap();
            log.save("b", &secret("rt_3"), 3).unwrap();
        }
        let log = RefreshLog::open(folder.path()).unwrap();
        let loaded = |key| log.load(key).unwrap().map(|token| token.expose().to_vec());
        assert_eq!((loaded("a"), loaded("b"), loaded("c")), (Some(b"rt_2".into()), Some(b"rt_3".into()), None));
        drop(log);
        // Closed, nothing of what was replaced is left in the file.
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(4).any(|window| window == b"rt_1"));
        }
    }
}
