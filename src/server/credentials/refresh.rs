//! Refresh tokens that replaced configured ones, in the state folder.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::domain::secret::{Secret, SecretBytes};
use crate::state::{LogError, RefreshLog};
use crate::vault::exchange::RefreshTokens;

/// Opened when the first is needed.
pub(in crate::server) struct KeptTokens {
    state_dir: PathBuf,
    log: Mutex<Option<RefreshLog>>,
}

impl KeptTokens {
    /// Those in this state folder.
    pub(in crate::server) fn new(state_dir: PathBuf) -> Self {
        Self { state_dir, log: Mutex::default() }
    }

    fn with<T>(&self, work: impl FnOnce(&RefreshLog) -> Result<T, LogError>) -> Result<T, String> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match &mut *log {
            Some(log) => work(log),
            none => RefreshLog::open(&self.state_dir).and_then(|opened| work(none.insert(opened))),
        };
        outcome.map_err(|error| format!("{:#}", anyhow::Error::new(error)))
    }
}

impl RefreshTokens for KeptTokens {
    fn load(&self, key: &str) -> Result<Option<SecretBytes>, String> {
        self.with(|log| log.load(key))
    }

    fn save(&self, key: &str, token: &Secret) -> Result<(), String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.with(|log| log.save(key, token, i64::try_from(now).unwrap_or(i64::MAX)))
    }
}
