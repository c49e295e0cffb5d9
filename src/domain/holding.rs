//! What an open stream rests on, for as long as it is open.

use std::fmt;
use std::str::FromStr;

use super::macaroon::{KeyId, TokenId};

/// The name under which the vault tells Envoy the [`Holding`] of a request, and Envoy tells it back for its stream.
pub const HOLDING_METADATA: &str = "holding";

/// A `Holding` is a token that was found good for a request: which one, by which key, until when.
///
/// Its text is `ID UNTIL KEY`, with `-` for what there is not; it is no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The token.
    pub token: TokenId,
    /// The last second it is usable, in Unix seconds; `None` when no caveat says.
    pub until: Option<i64>,
    /// The key that signed it; `None` when it names none that a key can have.
    pub key: Option<KeyId>,
}

/// What is not the text of a [`Holding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this does not say which token it is about")]
pub struct HoldingError;

impl fmt::Display for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.token)?;
        match self.until {
            Some(until) => write!(f, "{until} ")?,
            None => f.write_str("- ")?,
        }
        match &self.key {
            Some(key) => key.fmt(f),
            // No key id is empty.
            None => Ok(()),
        }
    }
}

impl FromStr for Holding {
    type Err = HoldingError;

    fn from_str(text: &str) -> Result<Self, HoldingError> {
        let mut parts = text.splitn(3, ' ');
        let (Some(token), Some(until), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(HoldingError);
        };
        Ok(Self {
            token: token.parse().map_err(|_| HoldingError)?,
            until: if until == "-" { None } else { Some(until.parse().map_err(|_| HoldingError)?) },
            key: if key.is_empty() { None } else { Some(key.parse().map_err(|_| HoldingError)?) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_text_says_all_of_it() {
        let token = TokenId::from([0xab; 16]);
        for (until, key) in [(None, None), (Some(1_800_000_000), Some("k-2")), (Some(-1), None), (None, Some("-"))] {
            let holding = Holding { token, until, key: key.map(|key| key.parse().unwrap()) };
            assert_eq!(holding.to_string().parse(), Ok(holding));
        }
        for text in ["", "x - ", &format!("{token}"), &format!("{token} - a b"), &format!("{token}  k"), "- - -"] {
            assert_eq!(text.parse::<Holding>(), Err(HoldingError), "{text:?}");
        }
    }
}
