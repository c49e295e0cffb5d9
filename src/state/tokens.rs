//! The log of tokens: which were issued, and which are revoked. SQLite in the state folder; never a token itself.
//!
//! Programs that mint and the server write to it at the same time. What was written outlives a crash once the call returned.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use crate::domain::macaroon::{Caveat, Macaroon, TokenId};

const FILE: &str = "tokens.db";
/// How long a writer waits for another one.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an expired token stays in the log, in seconds; and how many tokens it has at most.
const KEPT: i64 = 30 * 24 * 3600;
const MOST: i64 = 100_000;
const VERSION: i64 = 1;
const SCHEMA: &str = "
    CREATE TABLE token (
        seq     INTEGER PRIMARY KEY AUTOINCREMENT,
        id      BLOB NOT NULL UNIQUE,
        issued  INTEGER NOT NULL,
        issuer  TEXT NOT NULL,
        key     TEXT NOT NULL,
        sandbox TEXT,
        expires INTEGER,
        caveats TEXT NOT NULL
    ) STRICT;
    CREATE TABLE revocation (
        seq     INTEGER PRIMARY KEY AUTOINCREMENT,
        id      BLOB NOT NULL UNIQUE,
        revoked INTEGER NOT NULL,
        revoker TEXT NOT NULL
    ) STRICT;
    PRAGMA user_version = 1;
";

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// SQLite cannot do what was asked.
    #[error("cannot use the log {}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The file cannot be made or looked at.
    #[error("cannot open the log {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others could put their revocations, or take away ours.
    #[error("others may use {0} (mode {1:04o}): run `chmod 600 {0}`", path.display(), mode)]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A later version wrote it.
    #[error("{} is of a later version of agent-creds: use that one", .0.display())]
    Newer(PathBuf),
}

/// A token that was made, without what makes it one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedToken {
    /// What tells it apart.
    pub id: TokenId,
    /// When, in Unix seconds.
    pub issued: i64,
    /// Who asked for it, and with what.
    pub issuer: String,
    /// The id of the key it was signed with.
    pub key: String,
    /// The one sandbox it is good for.
    pub sandbox: Option<String>,
    /// The last second it is good, in Unix seconds.
    pub expires: Option<i64>,
    /// Its caveats as people read them.
    pub caveats: Vec<String>,
}

impl IssuedToken {
    /// What the log has of a token.
    pub fn of(macaroon: &Macaroon, issued: i64, issuer: String) -> Self {
        let mut sandbox = None;
        let mut expires: Option<i64> = None;
        for caveat in macaroon.unverified_caveats() {
            match caveat {
                Caveat::Sandbox(name) => sandbox = Some(name.to_string()),
                Caveat::ValidityWindow { not_after, .. } => {
                    expires = Some(expires.map_or(*not_after, |end| end.min(*not_after)));
                }
                _ => {}
            }
        }
        Self {
            id: macaroon.id(),
            issued,
            issuer,
            key: macaroon.key_id().escape_ascii().to_string(),
            sandbox,
            expires,
            caveats: macaroon.unverified_caveats().map(ToString::to_string).collect(),
        }
    }
}

/// A token in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The token.
    pub token: IssuedToken,
    /// When it was revoked, in Unix seconds, and by whom.
    pub revoked: Option<(i64, String)>,
}

/// The log.
#[derive(Debug)]
pub struct TokenLog {
    connection: Connection,
    path: PathBuf,
}

impl TokenLog {
    /// Opens the log of the state folder, and makes it (mode 0600) when there is none.
    ///
    /// # Errors
    /// When it is damaged, of a later version, or open to others.
    pub fn open(state_dir: &Path) -> Result<Self, LogError> {
        let path = state_dir.join(FILE);
        let connection = open_private(&path, "full", VERSION, SCHEMA)?;
        Ok(Self { connection, path })
    }

    fn tried<T>(&self, outcome: rusqlite::Result<T>) -> Result<T, LogError> {
        outcome.map_err(|source| LogError::Sqlite { path: self.path.clone(), source })
    }

    /// Adds tokens, all or none. What expired long ago is forgotten.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record(&self, tokens: &[IssuedToken]) -> Result<(), LogError> {
        self.tried((|| {
            let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
            for token in tokens {
                transaction
                    .prepare_cached(
                        "INSERT INTO token (id, issued, issuer, key, sandbox, expires, caveats)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO NOTHING",
                    )?
                    .execute(params![
                        token.id.as_bytes(),
                        token.issued,
                        token.issuer,
                        token.key,
                        token.sandbox,
                        token.expires,
                        token.caveats.join("\n"),
                    ])?;
            }
            if let Some(now) = tokens.iter().map(|token| token.issued).max() {
                transaction.execute("DELETE FROM token WHERE expires < ?1", [now.saturating_sub(KEPT)])?;
                transaction.execute("DELETE FROM token WHERE seq <= (SELECT max(seq) FROM token) - ?1", [MOST])?;
            }
            transaction.commit()
        })())
    }

    /// Revokes a token; whether it was not revoked before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn revoke(&self, id: TokenId, now: i64, revoker: &str) -> Result<bool, LogError> {
        let sql = "INSERT INTO revocation (id, revoked, revoker) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO NOTHING";
        let changed = self.connection.execute(sql, params![id.as_bytes(), now, revoker]);
        Ok(self.tried(changed)? > 0)
    }

    /// The ids that were revoked after `seq`, and the `seq` to ask with the next time; 0 asks for all.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn revoked_after(&self, seq: i64) -> Result<(Vec<TokenId>, i64), LogError> {
        self.tried((|| {
            let mut statement =
                self.connection.prepare_cached("SELECT seq, id FROM revocation WHERE seq > ?1 ORDER BY seq")?;
            let mut last = seq;
            let rows = statement.query_map([seq], |row| Ok((row.get(0)?, id_of(row, 1)?)))?;
            let ids = rows.map(|row| row.map(|(seq, id)| (last = seq, id).1)).collect::<Result<_, _>>()?;
            Ok((ids, last))
        })())
    }

    /// Another value after another program has written. Cheap.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn version(&self) -> Result<i64, LogError> {
        self.tried(self.connection.pragma_query_value(None, "data_version", |row| row.get(0)))
    }

    /// A token, if it was issued here.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn find(&self, id: TokenId) -> Result<Option<Issued>, LogError> {
        let sql = format!("{SELECT} WHERE token.id = ?1");
        self.tried(self.connection.query_row(&sql, [id.as_bytes()], issued_of).optional())
    }

    /// All tokens, the newest first.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn all(&self) -> Result<Vec<Issued>, LogError> {
        self.tried((|| {
            let mut statement = self.connection.prepare(&format!("{SELECT} ORDER BY token.seq DESC"))?;
            statement.query_map([], issued_of)?.collect()
        })())
    }

    /// How many tokens that were signed with this key are good at the time `now`, as far as the log knows.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn good_by_key(&self, key: &str, now: i64) -> Result<u64, LogError> {
        let sql = "SELECT count(*) FROM token LEFT JOIN revocation USING (id)
                   WHERE key = ?1 AND (expires IS NULL OR expires >= ?2) AND revocation.id IS NULL";
        let count: Result<i64, _> = self.connection.query_row(sql, params![key, now], |row| row.get(0));
        Ok(u64::try_from(self.tried(count)?).unwrap_or(0))
    }
}

/// Opens a database that only its user may use, made with `schema` when there is none. `synchronous` is SQLite's setting: `full`
/// when a commit must outlive the machine's crash.
pub(super) fn open_private(path: &Path, synchronous: &str, version: i64, schema: &str) -> Result<Connection, LogError> {
    let failed = |source| LogError::Io { path: path.to_owned(), source };
    // One that is there is not opened: to close it again would drop the locks that SQLite has on it in this process.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let mode = path.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(LogError::Open { path: path.to_owned(), mode });
    }
    let read =
        |connection: &Connection| connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    let opened = (|| {
        let connection = Connection::open(path)?;
        connection.busy_timeout(PATIENCE)?;
        write_ahead(&connection)?;
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        let found = read(&connection)?;
        if found == 0 {
            // Only one of those that start at once makes the tables.
            let transaction = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)?;
            if read(&transaction)? == 0 {
                transaction.execute_batch(schema)?;
            }
            transaction.commit()?;
        }
        Ok((found, connection))
    })();
    match opened {
        Ok((found, _)) if found > version => Err(LogError::Newer(path.to_owned())),
        Ok((_, connection)) => Ok(connection),
        Err(source) => Err(LogError::Sqlite { path: path.to_owned(), source }),
    }
}

/// Readers and a writer do not hinder each other then.
fn write_ahead(connection: &Connection) -> rusqlite::Result<()> {
    let begun = Instant::now();
    loop {
        match connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(())) {
            // For this change SQLite does not wait for others by itself.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}

const SELECT: &str = "SELECT token.id, issued, issuer, key, sandbox, expires, caveats, revoked, revoker
    FROM token LEFT JOIN revocation USING (id)";

fn issued_of(row: &Row<'_>) -> rusqlite::Result<Issued> {
    let caveats: String = row.get(6)?;
    let revoked: Option<i64> = row.get(7)?;
    let revoker: Option<String> = row.get(8)?;
    Ok(Issued {
        token: IssuedToken {
            id: id_of(row, 0)?,
            issued: row.get(1)?,
            issuer: row.get(2)?,
            key: row.get(3)?,
            sandbox: row.get(4)?,
            expires: row.get(5)?,
            caveats: caveats.lines().map(str::to_owned).collect(),
        },
        revoked: revoked.zip(revoker),
    })
}

fn id_of(row: &Row<'_>, column: usize) -> rusqlite::Result<TokenId> {
    let bytes = row.get_ref(column)?.as_blob()?;
    let bytes: [u8; 16] = bytes.try_into().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, Box::<std::array::TryFromSliceError>::new(error))
    })?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(byte: u8, expires: Option<i64>) -> IssuedToken {
        IssuedToken {
            id: [byte; 16].into(),
            issued: 1000,
            issuer: "me".to_owned(),
            key: "primary".to_owned(),
            sandbox: Some("box".to_owned()),
            expires,
            caveats: vec!["hosts a".to_owned(), "methods GET".to_owned()],
        }
    }

    #[test]
    fn what_one_program_writes_another_reads() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, reader) = (TokenLog::open(folder.path()).unwrap(), TokenLog::open(folder.path()).unwrap());
        let before = reader.version().unwrap();
        assert_eq!(reader.version().unwrap(), before);
        writer.record(&[token(1, None), token(2, Some(2000))]).unwrap();
        writer.record(&[token(1, None)]).unwrap();
        assert_ne!(reader.version().unwrap(), before);
        let all = reader.all().unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[1], Issued { token: token(1, None), revoked: None });
        assert_eq!(reader.good_by_key("primary", 1500).unwrap(), 2);
        assert_eq!(reader.good_by_key("primary", 2001).unwrap(), 1);

        assert_eq!(reader.revoked_after(0).unwrap(), (vec![], 0));
        assert!(writer.revoke([1; 16].into(), 1100, "you").unwrap());
        assert!(!writer.revoke([1; 16].into(), 1200, "you").unwrap());
        assert!(writer.revoke([9; 16].into(), 1100, "you").unwrap(), "also one that was not issued here");
        let (ids, seq) = reader.revoked_after(0).unwrap();
        assert_eq!(ids, [[1; 16].into(), [9; 16].into()]);
        assert_eq!(reader.revoked_after(seq).unwrap(), (vec![], seq));
        assert_eq!(reader.find([1; 16].into()).unwrap().unwrap().revoked, Some((1100, "you".to_owned())));
        assert_eq!(reader.find([9; 16].into()).unwrap(), None);
        assert_eq!(reader.good_by_key("primary", 2001).unwrap(), 0);
    }

    #[test]
    fn what_expired_long_ago_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let log = TokenLog::open(folder.path()).unwrap();
        log.record(&[token(1, Some(2000))]).unwrap();
        log.record(&[IssuedToken { issued: 2000 + KEPT, ..token(2, None) }]).unwrap();
        assert_eq!(log.all().unwrap().len(), 2);
        log.record(&[IssuedToken { issued: 2001 + KEPT, ..token(3, None) }]).unwrap();
        assert_eq!(log.all().unwrap().len(), 2);
    }

    #[test]
    fn many_open_it_at_once() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for byte in 0..8 {
                let path = folder.path();
                scope.spawn(move || TokenLog::open(path).unwrap().record(&[token(byte, None)]).unwrap());
            }
        });
        assert_eq!(TokenLog::open(folder.path()).unwrap().all().unwrap().len(), 8);
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        drop(TokenLog::open(folder.path()).unwrap());
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(TokenLog::open(folder.path()).unwrap_err().to_string().contains("chmod 600"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        TokenLog::open(folder.path()).unwrap().connection.pragma_update(None, "user_version", 2).unwrap();
        assert!(matches!(TokenLog::open(folder.path()), Err(LogError::Newer(_))));
        std::fs::write(&path, "no database, and long enough not to be taken for an empty one").unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(folder.path().join(format!("{FILE}{suffix}")));
        }
        assert!(matches!(TokenLog::open(folder.path()), Err(LogError::Sqlite { .. })));
    }
}
