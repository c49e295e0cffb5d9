//! The log of foreign Envoys: which were enrolled, and which are revoked. SQLite in the state folder; never a key.
//!
//! `agent-creds bootstrap` and `agent-creds nodes revoke` write to it while a server follows it.

use std::path::{Path, PathBuf};

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::tokens::{LogError, open_private};
use crate::domain::names::SandboxId;
use crate::domain::node::{EnrolmentId, NodeId, NodeIdentity};

const FILE: &str = "nodes.db";
/// How long an enrolment stays in the log after its end, in seconds.
const KEPT: i64 = 30 * 24 * 3600;
const VERSION: i64 = 1;
const SCHEMA: &str = "
    CREATE TABLE enrolment (
        seq         INTEGER PRIMARY KEY AUTOINCREMENT,
        id          BLOB NOT NULL UNIQUE,
        node        TEXT NOT NULL,
        gateway     TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        enrolled    INTEGER NOT NULL,
        expires     INTEGER NOT NULL,
        revoked     INTEGER
    ) STRICT;
    PRAGMA user_version = 1;
";

/// A node that was enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// Who it is.
    pub identity: NodeIdentity,
    /// SHA-256 of its newest certificate, lower-case hex.
    pub fingerprint: String,
    /// When it was enrolled, in Unix seconds.
    pub enrolled: i64,
    /// When the last of its certificates ends, in Unix seconds.
    pub expires: i64,
    /// When it was revoked, in Unix seconds.
    pub revoked: Option<i64>,
}

/// A certificate that a node was given later on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// The enrolment.
    pub enrolment: EnrolmentId,
    /// SHA-256 of the certificate, lower-case hex.
    pub fingerprint: String,
    /// When it ends, in Unix seconds.
    pub expires: i64,
}

/// Why a node is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// It would be one name for two things.
    #[error(
        "the node {node} serves the gateway {gateway}: choose another --node-id, or revoke that one first, with \
         `agent-creds nodes revoke {node}`"
    )]
    OtherGateway {
        /// The node.
        node: NodeId,
        /// What it serves.
        gateway: String,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// The log.
#[derive(Debug)]
pub struct NodeLog {
    connection: Connection,
    path: PathBuf,
}

impl NodeLog {
    /// Opens the log of the state folder, and makes it (mode 0600) when there is none.
    ///
    /// # Errors
    /// When it is damaged, of a later version, or open to others.
    pub fn open(state_dir: &Path) -> Result<Self, LogError> {
        let path = state_dir.join(FILE);
        let connection = open_private(&path, "full", VERSION, SCHEMA)?;
        Ok(Self { connection, path })
    }

    /// Whether the state folder has such a log.
    pub fn exists(state_dir: &Path) -> bool {
        state_dir.join(FILE).is_file()
    }

    fn tried<T>(&self, outcome: rusqlite::Result<T>) -> Result<T, LogError> {
        outcome.map_err(|source| LogError::Sqlite { path: self.path.clone(), source })
    }

    /// Adds a node. What ended long ago is forgotten.
    ///
    /// # Errors
    /// When a node of this name that was not revoked serves another gateway; when it cannot be written.
    pub fn enrol(&self, new: &Enrolled) -> Result<(), EnrolError> {
        let NodeIdentity { id, gateway, enrolment } = &new.identity;
        let found = (|| {
            let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
            let sql = "SELECT gateway FROM enrolment
                       WHERE node = ?1 AND gateway <> ?2 AND revoked IS NULL AND expires >= ?3";
            let other = transaction
                .query_row(sql, params![id.as_str(), gateway.as_str(), new.enrolled], |row| row.get::<_, String>(0))
                .optional()?;
            if other.is_some() {
                return Ok(other);
            }
            transaction.execute(
                "INSERT INTO enrolment (id, node, gateway, fingerprint, enrolled, expires) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    enrolment.as_bytes(),
                    id.as_str(),
                    gateway.as_str(),
                    new.fingerprint,
                    new.enrolled,
                    new.expires
                ],
            )?;
            transaction.execute("DELETE FROM enrolment WHERE expires < ?1", [new.enrolled.saturating_sub(KEPT)])?;
            transaction.commit()?;
            Ok(None)
        })();
        match self.tried(found)? {
            None => Ok(()),
            Some(gateway) => Err(EnrolError::OtherGateway { node: id.clone(), gateway }),
        }
    }

    /// Writes down certificates that nodes were given.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn renewed(&self, certificates: &[Renewed]) -> Result<(), LogError> {
        self.tried((|| {
            let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
            for Renewed { enrolment, fingerprint, expires } in certificates {
                transaction
                    .prepare_cached("UPDATE enrolment SET fingerprint = ?2, expires = max(expires, ?3) WHERE id = ?1")?
                    .execute(params![enrolment.as_bytes(), fingerprint, expires])?;
            }
            transaction.commit()
        })())
    }

    /// Revokes every enrolment of a node; how many of them were not revoked before, and how many there are.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn revoke(&self, node: &NodeId, now: i64) -> Result<(usize, usize), LogError> {
        self.tried((|| {
            let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
            let sql = "UPDATE enrolment SET revoked = ?2 WHERE node = ?1 AND revoked IS NULL";
            let changed = transaction.execute(sql, params![node.as_str(), now])?;
            let sql = "SELECT count(*) FROM enrolment WHERE node = ?1";
            let all: i64 = transaction.query_row(sql, [node.as_str()], |row| row.get(0))?;
            transaction.commit()?;
            Ok((changed, usize::try_from(all).unwrap_or(0)))
        })())
    }

    /// All enrolments, the newest first.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn all(&self) -> Result<Vec<Enrolled>, LogError> {
        let sql = "SELECT id, node, gateway, fingerprint, enrolled, expires, revoked FROM enrolment ORDER BY seq DESC";
        self.tried((|| {
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.query_map([], enrolled_of)?.collect()
        })())
    }

    /// Another value after another program has written. Cheap.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn version(&self) -> Result<i64, LogError> {
        self.tried(self.connection.pragma_query_value(None, "data_version", |row| row.get(0)))
    }
}

fn enrolled_of(row: &Row<'_>) -> rusqlite::Result<Enrolled> {
    fn parsed<T>(
        column: usize,
        outcome: Result<T, impl std::error::Error + Send + Sync + 'static>,
    ) -> rusqlite::Result<T> {
        outcome.map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
    }
    let enrolment: [u8; 16] = row.get(0)?;
    Ok(Enrolled {
        identity: NodeIdentity {
            id: parsed(1, row.get_ref(1)?.as_str()?.parse::<NodeId>())?,
            gateway: parsed(2, row.get_ref(2)?.as_str()?.parse::<SandboxId>())?,
            enrolment: enrolment.into(),
        },
        fingerprint: row.get(3)?,
        enrolled: row.get(4)?,
        expires: row.get(5)?,
        revoked: row.get(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrolled(node: &str, gateway: &str, byte: u8) -> Enrolled {
        Enrolled {
            identity: NodeIdentity {
                id: node.parse().unwrap(),
                gateway: gateway.parse().unwrap(),
                enrolment: [byte; 16].into(),
            },
            fingerprint: format!("{byte:02x}").repeat(32),
            enrolled: 1000,
            expires: 2000,
            revoked: None,
        }
    }

    #[test]
    fn what_one_program_writes_another_reads() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!NodeLog::exists(folder.path()));
        let (writer, reader) = (NodeLog::open(folder.path()).unwrap(), NodeLog::open(folder.path()).unwrap());
        assert!(NodeLog::exists(folder.path()));
        let before = reader.version().unwrap();
        let (one, two, three) = (enrolled("edge-1", "ci", 1), enrolled("edge-1", "ci", 2), enrolled("edge-2", "ci", 3));
        for each in [&one, &two, &three] {
            writer.enrol(each).unwrap();
        }
        assert_ne!(reader.version().unwrap(), before);
        assert_eq!(reader.all().unwrap(), [three, two, one]);

        assert_eq!(writer.revoke(&"edge-1".parse().unwrap(), 1500).unwrap(), (2, 2));
        assert_eq!(writer.revoke(&"edge-1".parse().unwrap(), 1600).unwrap(), (0, 2));
        assert_eq!(writer.revoke(&"edge-9".parse().unwrap(), 1600).unwrap(), (0, 0));
        let revoked: Vec<_> = reader.all().unwrap().into_iter().map(|each| each.revoked).collect();
        assert_eq!(revoked, [None, Some(1500), Some(1500)]);

        // A new enrolment of a revoked name is one of its own.
        writer.enrol(&enrolled("edge-1", "prod", 4)).unwrap();
        assert_eq!(reader.all().unwrap()[0].revoked, None);
    }

    #[test]
    fn one_name_is_one_gateway_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let log = NodeLog::open(folder.path()).unwrap();
        log.enrol(&enrolled("edge-1", "ci", 1)).unwrap();
        let error = log.enrol(&enrolled("edge-1", "prod", 2)).unwrap_err();
        assert!(error.to_string().contains("serves the gateway ci"), "{error}");
        assert_eq!(log.all().unwrap().len(), 1);
        log.enrol(&Enrolled { enrolled: 2001, expires: 3000, ..enrolled("edge-1", "prod", 2) }).unwrap();
    }

    #[test]
    fn renewals_move_the_end_and_what_ended_long_ago_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let log = NodeLog::open(folder.path()).unwrap();
        log.enrol(&enrolled("edge-1", "ci", 1)).unwrap();
        let renewed = |expires| Renewed { enrolment: [1; 16].into(), fingerprint: "ff".repeat(32), expires };
        log.renewed(&[renewed(2500), Renewed { enrolment: [9; 16].into(), ..renewed(9999) }]).unwrap();
        log.renewed(&[renewed(2400)]).unwrap();
        let all = log.all().unwrap();
        assert_eq!((all.len(), all[0].expires, all[0].fingerprint.as_str()), (1, 2500, "ff".repeat(32).as_str()));
        log.enrol(&Enrolled { enrolled: 2500 + KEPT, expires: 9_000_000, ..enrolled("edge-2", "ci", 2) }).unwrap();
        assert_eq!(log.all().unwrap().len(), 2);
        log.enrol(&Enrolled { enrolled: 2501 + KEPT, expires: 9_000_000, ..enrolled("edge-3", "ci", 3) }).unwrap();
        assert_eq!(log.all().unwrap().len(), 2);
    }
}
