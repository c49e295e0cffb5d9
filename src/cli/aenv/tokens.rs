//! The tokens in the environment, as they claim to be. A token itself is never shown.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use zeroize::Zeroizing;

use crate::cli::caveats::Window;
use crate::domain::macaroon::{Caveat, CaveatError, CaveatRequest, Claims, Token, TokenError, TokenPrefix};
use crate::domain::names::Host;

use super::policy::SandboxPolicy;

/// A token that a variable holds.
pub struct EnvToken {
    /// The variable's name, as far as it is UTF-8.
    pub variable: String,
    /// The token; wiped, never shown.
    pub text: Zeroizing<String>,
    /// What is in it.
    pub content: Result<Content, TokenError>,
}

/// What is in a token that can be read.
pub struct Content {
    /// The token.
    pub token: Token,
    /// Its caveats and those of its discharges.
    pub claims: Claims,
}

impl EnvToken {
    /// The tokens among these variables, by name.
    pub fn among(variables: &[(OsString, OsString)], prefix: &TokenPrefix) -> Vec<Self> {
        let mut found: Vec<Self> =
            variables.iter().filter_map(|(name, value)| Self::in_variable(name, value, prefix)).collect();
        found.sort_by(|a, b| a.variable.cmp(&b.variable));
        found
    }

    fn in_variable(name: &OsStr, value: &OsStr, prefix: &TokenPrefix) -> Option<Self> {
        let text = Zeroizing::new(find(value.as_bytes(), prefix)?.to_owned());
        let content = Token::parse(&text, prefix).and_then(|token| {
            let claims = Claims::of(&token)?;
            Ok(Content { token, claims })
        });
        Some(Self { variable: name.to_string_lossy().into_owned(), text, content })
    }
}

impl Content {
    /// When it may be used.
    pub fn window(&self) -> Window {
        Window::of(&self.token)
    }

    /// Whether it may be used here; `None` when it is bound to no sandbox.
    pub fn is_for(&self, here: &SandboxPolicy) -> Option<bool> {
        if !self.claims.caveats().iter().any(|caveat| matches!(caveat, Caveat::Sandbox(_))) {
            return None;
        }
        // The host plays no part in what is asked; the vault's own code tells.
        let host: Host = "localhost".parse().ok()?;
        let (sandbox, instance, issuer) = (&here.policy.id, here.policy.instance.as_ref(), here.issuer());
        let request = CaveatRequest { host: &host, method: "GET", path: None, sandbox, instance, issuer, now: 0 };
        Some(!self.claims.refusals(&request).iter().any(|refusal| matches!(refusal, CaveatError::Sandbox { .. })))
    }
}

/// The token in a value: the whole of it, as the vault would take it, or the first one in the midst of something else
/// (`https://user:acm_…@host`).
fn find<'a>(value: &'a [u8], prefix: &TokenPrefix) -> Option<&'a str> {
    // What is not UTF-8 ends where the text ends.
    let value = value.trim_ascii();
    let text = std::str::from_utf8(value).or_else(|error| std::str::from_utf8(&value[..error.valid_up_to()])).ok()?;
    if text.starts_with(prefix.as_str()) {
        return Some(text);
    }
    let of_token = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    text.match_indices(prefix.as_str()).find_map(|(at, _)| {
        let rest = &text[at..];
        let run = &rest[..rest.find(|c| !of_token(c)).unwrap_or(rest.len())];
        (!text[..at].ends_with(of_token) && prefix.looks_like_token(run.as_bytes())).then_some(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_wherever_they_stand() {
        let prefix = TokenPrefix::default();
        let token = format!("acm_{}", "A".repeat(50));
        for (value, found) in [
            (token.clone(), true),
            (format!(" {token}\n"), true),
            (format!("Bearer {token}"), true),
            (format!("https://x:{token}@github.com/a"), true),
            (format!("é{token}\u{1b}"), true),
            (format!("x{token}"), false),
            ("see acm_ for more".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(find(value.as_bytes(), &prefix), found.then_some(token.as_str()), "{value:?}");
        }
        // The vault would take all of it, and refuse it: so it is shown as broken.
        assert_eq!(find(b"acm_x y", &prefix), Some("acm_x y"));
        assert_eq!(find(&[token.as_bytes(), b" \xff"].concat(), &prefix).map(str::trim), Some(token.as_str()));
        assert_eq!(find(b"\xff", &prefix), None);
    }
}
