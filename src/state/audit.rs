//! The audit log: one record for each decision on a request, chained by hashes. SQLite in the state folder.
//!
//! ```text
//! hash of record n = SHA-256(hash of record n-1 ‖ its fields, each with its length)
//! ```
//!
//! The oldest records go when there are too many; the hash of the last one that went stays, so that the rest can be verified.
//! What is altered, taken out or put in is found; who can write the file can also write a whole new chain.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use sha2::{Digest, Sha256};

use super::tokens::{LogError, open_private};

const FILE: &str = "audit.db";
const VERSION: i64 = 1;
/// How many records are kept at least; a tenth more at most.
pub const KEPT: u64 = 500_000;
const SCHEMA: &str = "
    CREATE TABLE record (
        seq        INTEGER PRIMARY KEY,
        time_ms    INTEGER NOT NULL,
        sandbox    TEXT NOT NULL,
        token      TEXT NOT NULL,
        upstream   TEXT NOT NULL,
        method     TEXT NOT NULL,
        path       TEXT NOT NULL,
        decision   TEXT NOT NULL,
        reason     TEXT NOT NULL,
        credential TEXT NOT NULL,
        latency_us INTEGER NOT NULL,
        hash       BLOB NOT NULL
    ) STRICT;
    CREATE TABLE chain (only INTEGER PRIMARY KEY CHECK (only = 1), first_seq INTEGER NOT NULL, before BLOB NOT NULL,
                        last_seq INTEGER NOT NULL, last BLOB NOT NULL) STRICT;
    INSERT INTO chain VALUES (1, 1, zeroblob(32), 0, zeroblob(32));
    PRAGMA user_version = 1;
";

/// One decision. Texts are what people may see: cut, escaped, and without tokens, secrets and queries.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct AuditRecord {
    /// When, in milliseconds since 1970.
    pub time_ms: i64,
    /// The sandbox or gateway.
    pub sandbox: String,
    /// The id of the token; empty when there was none whose signature holds.
    pub token: String,
    /// The upstream.
    pub upstream: String,
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// `allow`, `pass_through`, `deny`; `dropped` for records that are missing because they came too fast, `reason` says how many.
    pub decision: String,
    /// Why, as in the metrics.
    pub reason: String,
    /// The name of the credential that was put in; empty: none.
    pub credential: String,
    /// How long the decision took, in microseconds.
    pub latency_us: i64,
}

impl AuditRecord {
    fn hash(&self, before: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new().chain_update(before);
        let numbers = [self.time_ms, self.latency_us].map(i64::to_le_bytes);
        let texts = [
            &self.sandbox,
            &self.token,
            &self.upstream,
            &self.method,
            &self.path,
            &self.decision,
            &self.reason,
            &self.credential,
        ];
        for field in numbers.iter().map(<[u8; 8]>::as_slice).chain(texts.map(|text| text.as_bytes())) {
            hash.update((field.len() as u64).to_le_bytes());
            hash.update(field);
        }
        hash.finalize().into()
    }
}

/// What is wrong with a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A record is not what it was, or one before it is missing.
    #[error("record {0} was altered, or one before it was taken out")]
    Altered(i64),
    /// Records are missing.
    #[error("record {0} is missing")]
    Missing(i64),
    /// There are more than were written.
    #[error("record {0} was put in")]
    Extra(i64),
}

/// The log. One program writes; others may read.
#[derive(Debug)]
pub struct AuditLog {
    connection: Connection,
    path: PathBuf,
    kept: i64,
}

impl AuditLog {
    /// Opens the log of the state folder, and makes it (mode 0600) when there is none. It keeps the last `kept` records.
    ///
    /// # Errors
    /// When it is damaged, of a later version, or open to others.
    pub fn open(state_dir: &Path, kept: u64) -> Result<Self, LogError> {
        let path = state_dir.join(FILE);
        let connection = open_private(&path, "normal", VERSION, SCHEMA)?;
        Ok(Self { connection, path, kept: i64::try_from(kept).unwrap_or(i64::MAX) })
    }

    fn tried<T>(&self, outcome: rusqlite::Result<T>) -> Result<T, LogError> {
        outcome.map_err(|source| LogError::Sqlite { path: self.path.clone(), source })
    }

    /// Appends records, all or none.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn append(&self, records: &[AuditRecord]) -> Result<(), LogError> {
        self.tried((|| {
            let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
            let (first, mut seq, mut last): (i64, i64, Vec<u8>) =
                transaction.query_row("SELECT first_seq, last_seq, last FROM chain", [], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?;
            let mut insert = transaction
                .prepare_cached("INSERT INTO record VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)")?;
            for record in records {
                seq += 1;
                last = record.hash(&last).to_vec();
                insert.execute(params![
                    seq,
                    record.time_ms,
                    record.sandbox,
                    record.token,
                    record.upstream,
                    record.method,
                    record.path,
                    record.decision,
                    record.reason,
                    record.credential,
                    record.latency_us,
                    last,
                ])?;
            }
            drop(insert);
            transaction.execute("UPDATE chain SET last_seq = ?1, last = ?2", params![seq, last])?;
            // In pieces: to take one out for each that comes would cost as much as to write it.
            if seq - first >= self.kept + self.kept / 10 {
                let end = seq - self.kept;
                transaction.execute(
                    "UPDATE chain SET first_seq = ?1, before = (SELECT hash FROM record WHERE seq = ?1 - 1)",
                    [end + 1],
                )?;
                transaction.execute("DELETE FROM record WHERE seq <= ?1", [end])?;
            }
            transaction.commit()
        })())
    }

    /// The records after `seq` (0: from the oldest) with their numbers, `limit` at most; only refusals when `denied`, only of one
    /// sandbox when it is given.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn after(
        &self,
        seq: i64,
        sandbox: Option<&str>,
        denied: bool,
        limit: u32,
    ) -> Result<Vec<(i64, AuditRecord)>, LogError> {
        self.tried((|| {
            let mut statement = self.connection.prepare_cached(
                "SELECT * FROM record WHERE seq > ?1 AND (?2 IS NULL OR sandbox = ?2) AND (NOT ?3 OR decision = 'deny')
                 ORDER BY seq LIMIT ?4",
            )?;
            statement.query_map(params![seq, sandbox, denied, limit], record_of)?.collect()
        })())
    }

    /// The number after which the last `count` records come that [`AuditLog::after`] would give.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn before_last(&self, count: u32, sandbox: Option<&str>, denied: bool) -> Result<i64, LogError> {
        let sql = "SELECT min(seq) FROM (SELECT seq FROM record WHERE (?1 IS NULL OR sandbox = ?1)
                   AND (NOT ?2 OR decision = 'deny') ORDER BY seq DESC LIMIT ?3)";
        let found = self.connection.query_row(sql, params![sandbox, denied, count], |row| row.get::<_, Option<i64>>(0));
        // Without any, what comes from now on is after the last.
        let last = || self.connection.query_row("SELECT last_seq FROM chain", [], |row| row.get(0));
        self.tried(found.and_then(|seq| seq.map_or_else(last, |seq| Ok(seq - 1))))
    }

    /// Follows the chain from the oldest record to the newest; how many there are, or what is wrong.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn verify(&self) -> Result<Result<u64, ChainError>, LogError> {
        self.tried((|| {
            // One state of the file, also while the server writes.
            let transaction = self.connection.unchecked_transaction()?;
            let chain: Option<(i64, Vec<u8>, i64, Vec<u8>)> = transaction
                .query_row("SELECT first_seq, before, last_seq, last FROM chain", [], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })
                .optional()?;
            let Some((mut seq, mut hash, last_seq, last)) = chain else { return Ok(Err(ChainError::Missing(0))) };
            let first = seq;
            let mut statement = transaction.prepare("SELECT * FROM record ORDER BY seq")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (number, record) = record_of(row)?;
                if number > last_seq || number < first {
                    return Ok(Err(ChainError::Extra(number)));
                }
                if number != seq {
                    return Ok(Err(ChainError::Missing(seq)));
                }
                hash = record.hash(&hash).to_vec();
                if hash != row.get::<_, Vec<u8>>(11)? {
                    return Ok(Err(ChainError::Altered(number)));
                }
                seq += 1;
            }
            Ok(if seq != last_seq + 1 {
                Err(ChainError::Missing(seq))
            } else if hash != last {
                Err(ChainError::Altered(last_seq))
            } else {
                Ok(u64::try_from(seq - first).unwrap_or(0))
            })
        })())
    }
}

fn record_of(row: &Row<'_>) -> rusqlite::Result<(i64, AuditRecord)> {
    Ok((
        row.get(0)?,
        AuditRecord {
            time_ms: row.get(1)?,
            sandbox: row.get(2)?,
            token: row.get(3)?,
            upstream: row.get(4)?,
            method: row.get(5)?,
            path: row.get(6)?,
            decision: row.get(7)?,
            reason: row.get(8)?,
            credential: row.get(9)?,
            latency_us: row.get(10)?,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: i64, decision: &str) -> AuditRecord {
        AuditRecord {
            time_ms: number,
            sandbox: if number % 2 == 0 { "even" } else { "odd" }.to_owned(),
            token: String::new(),
            upstream: "a.example".to_owned(),
            method: "GET".to_owned(),
            path: format!("/{number}"),
            decision: decision.to_owned(),
            reason: "token".to_owned(),
            credential: "a.example".to_owned(),
            latency_us: 3,
        }
    }

    fn log(kept: u64, count: i64) -> (tempfile::TempDir, AuditLog) {
        let folder = tempfile::tempdir().unwrap();
        let log = AuditLog::open(folder.path(), kept).unwrap();
        for number in 1..=count {
            log.append(&[record(number, if number % 5 == 0 { "deny" } else { "allow" })]).unwrap();
        }
        (folder, log)
    }

    #[test]
    fn what_was_appended_is_read_in_order() {
        let (folder, log) = log(KEPT, 20);
        let reader = AuditLog::open(folder.path(), KEPT).unwrap();
        let numbers = |found: Vec<(i64, AuditRecord)>| found.into_iter().map(|(seq, _)| seq).collect::<Vec<_>>();
        assert_eq!(reader.after(18, None, false, 10).unwrap()[1], (20, record(20, "deny")));
        assert_eq!(numbers(reader.after(0, Some("even"), true, 10).unwrap()), [10, 20]);
        assert_eq!(reader.before_last(3, None, false).unwrap(), 17);
        assert_eq!(reader.before_last(1, Some("odd"), true).unwrap(), 14);
        assert_eq!(reader.before_last(5, Some("nobody"), false).unwrap(), 20);
        log.append(&[record(21, "allow"), record(22, "allow")]).unwrap();
        assert_eq!(numbers(reader.after(20, None, false, 10).unwrap()), [21, 22]);
        assert_eq!(reader.verify().unwrap(), Ok(22));
    }

    #[test]
    fn the_oldest_go_and_the_rest_holds() {
        let (_folder, log) = log(20, 100);
        let count = log.verify().unwrap().unwrap();
        assert!((20..=22).contains(&count), "{count}");
        assert_eq!(log.after(0, None, false, 100).unwrap().last().unwrap().0, 100);
    }

    #[test]
    fn what_was_tampered_with_is_found() {
        for (sql, wrong) in [
            ("UPDATE record SET path = '/x' WHERE seq = 7", ChainError::Altered(7)),
            ("UPDATE record SET decision = 'allow' WHERE seq = 5", ChainError::Altered(5)),
            ("UPDATE record SET token = 'a', sandbox = substr(sandbox, 2) WHERE seq = 7", ChainError::Altered(7)),
            ("UPDATE record SET latency_us = 4 WHERE seq = 20", ChainError::Altered(20)),
            ("DELETE FROM record WHERE seq = 7", ChainError::Missing(7)),
            ("DELETE FROM record WHERE seq = 1", ChainError::Missing(1)),
            ("DELETE FROM record WHERE seq > 18", ChainError::Missing(19)),
            ("DELETE FROM record", ChainError::Missing(1)),
            ("INSERT INTO record SELECT 21, time_ms, sandbox, token, upstream, method, path, decision, reason, credential,
              latency_us, hash FROM record WHERE seq = 20", ChainError::Extra(21)),
            ("UPDATE chain SET last = zeroblob(32)", ChainError::Altered(20)),
            ("DELETE FROM chain", ChainError::Missing(0)),
        ] {
            let (_folder, log) = log(KEPT, 20);
            log.connection.execute(sql, []).unwrap();
            assert_eq!(log.verify().unwrap(), Err(wrong), "{sql}");
        }
    }
}
