//! Which pages a sandbox may see: `[[cdp_target]]`, ready to match.

use std::sync::Arc;

use crate::domain::web::{UrlPattern, WebUrl, glob};

/// What a sandbox may see of the browser. A page is allowed when any rule matches it; no rules allow nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

/// One `[[cdp_target]]`: all that is given must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    kind: Option<Arc<str>>,
    title: Option<Arc<str>>,
    url: Option<UrlPattern>,
}

/// There is no [`Rule`] without any of its parts: it would allow every page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a rule needs a type, a title or a URL")]
pub struct RuleError;

/// A page's title against the pattern of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    /// Some rule matches.
    Yes,
    /// Some rule would match if the title did.
    ButTitle,
    /// None does.
    No,
}

impl Rules {
    /// These rules.
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self(rules.into_iter().collect())
    }

    /// How a target does that is of type `kind`, called `title`, and at `url` as Chrome says it.
    pub(super) fn judge(&self, kind: &str, title: &str, url: &str) -> Match {
        let Some(url) = WebUrl::parse(url) else { return Match::No };
        let mut verdict = Match::No;
        for rule in &self.0 {
            let rest = rule.kind.as_deref().is_none_or(|expected| expected == kind)
                && rule.url.as_ref().is_none_or(|pattern| pattern.matches(&url));
            if rest && rule.title.as_deref().is_none_or(|pattern| glob(pattern, title)) {
                return Match::Yes;
            } else if rest {
                verdict = Match::ButTitle;
            }
        }
        verdict
    }

    /// Whether an allowed page may be sent to `url`; its title is judged when it is there.
    pub(super) fn allow_navigation(&self, url: &WebUrl) -> bool {
        self.0.iter().any(|rule| {
            rule.kind.as_deref().is_none_or(|kind| kind == "page")
                && rule.url.as_ref().is_some_and(|pattern| pattern.matches(url))
        })
    }

    /// The origins that rules name without any `*`.
    pub(super) fn origins(&self) -> impl Iterator<Item = String> {
        self.0.iter().filter_map(|rule| rule.url.as_ref()).flat_map(UrlPattern::origins)
    }
}

impl Rule {
    /// A rule of what is given; `title` with `*` for any text.
    ///
    /// # Errors
    /// When nothing is given.
    pub fn new(kind: Option<&str>, title: Option<&str>, url: Option<UrlPattern>) -> Result<Self, RuleError> {
        if kind.is_none() && title.is_none() && url.is_none() {
            return Err(RuleError);
        }
        Ok(Self { kind: kind.map(Into::into), title: title.map(Into::into), url })
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
