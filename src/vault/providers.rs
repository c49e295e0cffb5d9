//! Where secrets are kept: what `provider = "…"` in `vault.toml` names. The environment is read by whoever starts the server.

mod age;
mod exec;
mod file;
mod keyring;

use std::time::Duration;

pub use self::age::{AgeFile, AgeIdentity, AgeSecret, AgeStoreError};
pub use self::exec::Exec;
pub use self::file::{FileSecret, Seen};
pub use self::keyring::{Keyring, KeyringError, KeyringSecret};

use super::live::{FetchError, Fetched};
use crate::domain::secret::SecretBytes;

/// For how long a secret is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Freshness {
    /// Until it is fetched again; `None` is when what it comes from changes.
    pub ttl: Option<Duration>,
    /// While it cannot be fetched again.
    pub grace: Duration,
}

impl Freshness {
    fn lasting(self, bytes: Vec<u8>) -> Result<Fetched<SecretBytes>, FetchError> {
        let secret = SecretBytes::new(bytes).map_err(FetchError::new)?;
        Ok(Fetched::lasting(secret, self.ttl, self.grace))
    }
}
