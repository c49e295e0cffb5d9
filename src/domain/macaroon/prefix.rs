//! What the text of every token begins with, and how to see one in the middle of something else.

use std::fmt;
use std::str::FromStr;

/// A `TokenPrefix` is 1 to 16 ASCII letters, digits, `_` and `-`: what the text of every token begins with.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenPrefix(Box<str>);

/// Why a text is not a [`TokenPrefix`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token prefix has 1 to 16 letters, digits, `_` or `-`, as in `acm_`")]
pub struct TokenPrefixError;

impl TokenPrefix {
    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `bytes` hold what looks like a token: at their start, or after a byte that no token has or a percent
    /// escape, the prefix and 43 or more base64url characters (no token is shorter). Used to refuse tokens in odd places.
    ///
    /// Long inputs are skipped through, not read byte by byte.
    pub fn looks_like_token(&self, bytes: &[u8]) -> bool {
        let needed = self.0.len() + 43;
        let mut start = 0;
        // A token lies within a run of its characters, and a shorter run holds none: look for breaks from the far end.
        while let Some(window) = bytes.get(start..start + needed) {
            if let Some(at) = window.iter().rposition(|&b| !is_token_byte(b)) {
                start += at + 1;
                continue;
            }
            let rest = &bytes[start + needed..];
            let run = needed + rest.iter().position(|&b| !is_token_byte(b)).unwrap_or(rest.len());
            if self.begins(&bytes[start..start + run], needed) {
                return true;
            }
            // `%20acm_…`: the escape's digits are token characters, but what they stand for is not.
            let after_percent = start.checked_sub(1).is_some_and(|before| bytes[before] == b'%');
            if after_percent && self.begins(&bytes[start + 2..start + run], needed) {
                return true;
            }
            start += run + 1;
        }
        false
    }

    fn begins(&self, run: &[u8], needed: usize) -> bool {
        run.len() >= needed && run.starts_with(self.0.as_bytes())
    }
}

/// Whether a token's text may have `byte`: base64url, and the characters of prefixes.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

impl Default for TokenPrefix {
    fn default() -> Self {
        Self("acm_".into())
    }
}

impl FromStr for TokenPrefix {
    type Err = TokenPrefixError;

    fn from_str(text: &str) -> Result<Self, TokenPrefixError> {
        let legal = (1..=16).contains(&text.len()) && text.bytes().all(is_token_byte);
        if legal { Ok(Self(text.into())) } else { Err(TokenPrefixError) }
    }
}

impl fmt::Display for TokenPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TokenPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}
