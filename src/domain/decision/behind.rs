//! A sandbox of another server, for which that server asks: it has no vault of its own for it (`[vault]` in the project's file).

use std::fmt;
use std::str::FromStr;

use crate::domain::names::{Instance, SandboxId};

/// The context extension in which a server that asks the vault of another one says for which sandbox of its own. It is believed as
/// far as it narrows: a token that names a sandbox's life needs that, and nothing is allowed because of it.
pub const BEHIND_EXTENSION: &str = "behind";

/// One life of a sandbox. Its text is `NAME/INSTANCE`, as in the token's caveat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Which life of it.
    pub instance: Instance,
}

/// What is not the text of a [`Behind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this does not say which sandbox it is about")]
pub struct BehindError;

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.sandbox, self.instance)
    }
}

impl FromStr for Behind {
    type Err = BehindError;

    fn from_str(text: &str) -> Result<Self, BehindError> {
        let (sandbox, instance) = text.split_once('/').ok_or(BehindError)?;
        let (sandbox, instance) = (sandbox.parse(), instance.parse());
        Ok(Self { sandbox: sandbox.map_err(|_| BehindError)?, instance: instance.map_err(|_| BehindError)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_text_says_all_of_it() {
        let behind: Behind = "shop/00ff".parse().unwrap();
        assert_eq!((behind.sandbox.as_str(), behind.instance.as_str()), ("shop", "00ff"));
        assert_eq!(behind.to_string(), "shop/00ff");
        for bad in ["", "shop", "/00ff", "shop/", "shop/00/ff", "../00ff", "shop/00 ff"] {
            assert_eq!(bad.parse::<Behind>(), Err(BehindError), "{bad}");
        }
    }
}
