//! `provider = "keyring"`: the keyring of the desktop (GNOME Keyring, KWallet, KeePassXC …), by the Secret Service API.

use std::collections::HashMap;

use secret_service::{EncryptionType, Item, SecretService};
use zeroize::Zeroizing;

use super::Freshness;
use crate::domain::secret::SecretBytes;
use crate::vault::live::{Fetch, FetchError, Source};

/// What tells our items from others'.
const APPLICATION: &str = "agent-creds";

/// Why the keyring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// Nobody answers.
    #[error("there is no keyring to ask: is a desktop session's D-Bus there (DBUS_SESSION_BUS_ADDRESS)? ({0})")]
    Unavailable(String),
    /// The person did not unlock it.
    #[error("the keyring is locked")]
    Locked,
    /// Not in it.
    #[error("the keyring has no secret `{0}`; `actl secret set {0}` writes it")]
    Missing(String),
    /// Anything else.
    #[error("the keyring answers: {0}")]
    Other(String),
}

impl From<secret_service::Error> for KeyringError {
    fn from(error: secret_service::Error) -> Self {
        match error {
            secret_service::Error::Unavailable => {
                Self::Unavailable("nobody provides org.freedesktop.secrets".to_owned())
            }
            secret_service::Error::Locked | secret_service::Error::Prompt => Self::Locked,
            other => Self::Other(other.to_string()),
        }
    }
}

/// The keyring of the session that this process is in.
pub struct Keyring(SecretService<'static>);

impl Keyring {
    /// Connects to it.
    ///
    /// # Errors
    /// When there is none.
    pub async fn open() -> Result<Self, KeyringError> {
        let service = SecretService::connect(EncryptionType::Dh).await;
        Ok(Self(service.map_err(|error| KeyringError::Unavailable(error.to_string()))?))
    }

    /// The secret of this name.
    ///
    /// # Errors
    /// When it is not there, or not to be read.
    pub async fn get(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        let item = self.item(name).await?.ok_or_else(|| KeyringError::Missing(name.to_owned()))?;
        if item.is_locked().await? {
            item.unlock().await?;
        }
        Ok(Zeroizing::new(item.get_secret().await?))
    }

    /// Puts a secret under this name, in place of the one before.
    ///
    /// # Errors
    /// When the keyring does not take it.
    pub async fn set(&self, name: &str, secret: &SecretBytes) -> Result<(), KeyringError> {
        let collection = self.0.get_default_collection().await?;
        if collection.is_locked().await? {
            collection.unlock().await?;
        }
        let label = format!("{APPLICATION}: {name}");
        collection.create_item(&label, attributes(name), secret.expose(), true, "text/plain").await?;
        Ok(())
    }

    /// Removes the secret of this name; whether there was one.
    ///
    /// # Errors
    /// When the keyring does not let it go.
    pub async fn remove(&self, name: &str) -> Result<bool, KeyringError> {
        let Some(item) = self.item(name).await? else { return Ok(false) };
        if item.is_locked().await? {
            item.unlock().await?;
        }
        item.delete().await?;
        Ok(true)
    }

    /// The names of all secrets of ours.
    ///
    /// # Errors
    /// When the keyring does not say.
    pub async fn names(&self) -> Result<Vec<String>, KeyringError> {
        let found = self.0.search_items(HashMap::from([("application", APPLICATION)])).await?;
        let mut names = Vec::new();
        for item in found.unlocked.iter().chain(&found.locked) {
            names.extend(item.get_attributes().await?.remove("name"));
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    async fn item(&self, name: &str) -> Result<Option<Item<'_>>, KeyringError> {
        let found = self.0.search_items(attributes(name)).await?;
        Ok(found.unlocked.into_iter().chain(found.locked).next())
    }
}

fn attributes(name: &str) -> HashMap<&str, &str> {
    HashMap::from([("application", APPLICATION), ("name", name)])
}

/// A secret in the keyring.
#[derive(Debug, Clone)]
pub struct KeyringSecret {
    /// Its name.
    pub name: String,
    /// For how long it is used.
    pub freshness: Freshness,
}

impl Source<SecretBytes> for KeyringSecret {
    fn fetch(&self) -> Fetch<'_, SecretBytes> {
        Box::pin(async {
            let keyring = Keyring::open().await.map_err(FetchError::new)?;
            let mut secret = keyring.get(&self.name).await.map_err(FetchError::new)?;
            self.freshness.lasting(std::mem::take(&mut secret))
        })
    }
}
