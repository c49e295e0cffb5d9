//! The tokens that hold no more.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use super::macaroon::TokenId;

/// The ids of revoked tokens. Clones share them: what one adds, all refuse from then on. There is no way back.
#[derive(Clone, Default)]
pub struct Revocations(Arc<RwLock<HashSet<TokenId>>>);

impl Revocations {
    /// Adds ids; how many of them were new.
    pub fn add(&self, ids: impl IntoIterator<Item = TokenId>) -> usize {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        ids.into_iter().filter(|&id| all.insert(id)).count()
    }

    /// Whether the token with this id, and so everything narrowed from it, was revoked.
    pub fn contains(&self, id: TokenId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revocations({})", self.len())
    }
}
