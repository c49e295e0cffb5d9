//! Whether a page may be opened in the host's browser, for a sandbox that asks.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use url::Url;

use super::callback::{Callback, CallbackError};
use crate::domain::opening::MAX_URL;
use crate::domain::quoting::toml_string;
use crate::domain::web::{UrlPattern, WebUrl};

/// What a sandbox may open: the pages of `[[browser_target]]`, while `use_host_browser` is on. By default nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    on: bool,
    patterns: Vec<UrlPattern>,
}

impl Allowed {
    /// These pages, or none when it is not `on`.
    pub fn new(on: bool, patterns: impl IntoIterator<Item = UrlPattern>) -> Self {
        Self { on, patterns: patterns.into_iter().collect() }
    }

    /// Whether this page is among them.
    pub fn allows(&self, url: &WebUrl) -> bool {
        self.on && self.patterns.iter().any(|pattern| pattern.matches(url))
    }
}

/// A page that may be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The page.
    pub url: WebUrl,
    /// Where in the sandbox it sends the browser back to.
    pub callback: Option<Callback>,
}

/// Why a page is not opened, in words for the agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `use_host_browser = false`.
    #[error("the host's browser is switched off for this sandbox (use_host_browser = false in agent-creds.toml)")]
    Off,
    /// Longer than any page's.
    #[error("the URL has {0} bytes, and no more than {MAX_URL} are opened on the host")]
    TooLong(usize),
    /// Newlines and the like.
    #[error("the URL has a control character")]
    Character,
    /// A path, or nonsense.
    #[error("this is no URL: pages of the web are opened on the host, files of the sandbox are not")]
    NoUrl,
    /// Another scheme.
    #[error("`{0}:` is not opened on the host, only http:// and https:// are")]
    Scheme(String),
    /// A user or a password before the host.
    #[error("a URL with a user or a password before the host is not opened")]
    User,
    /// No `[[browser_target]]` matches.
    #[error("{}", remedy(.0))]
    NotAllowed(Box<WebUrl>),
    /// It would send the browser to a port that it may not.
    #[error(transparent)]
    Callback(#[from] CallbackError),
}

/// The URL without what may be secret in it, and the lines that would allow it.
pub(super) fn remedy(url: &WebUrl) -> String {
    let place = url.place();
    format!(
        "{place} is not allowed. To allow it, add to agent-creds.toml, on the host:\n\n[[browser_target]]\nurl = {}",
        toml_string(place)
    )
}

/// Whether what was asked for is opened, and how it is written then.
///
/// # Errors
/// Why it is not.
pub fn decide(allowed: &Allowed, text: &str) -> Result<Opening, Refusal> {
    if !allowed.on {
        return Err(Refusal::Off);
    }
    if text.len() > MAX_URL {
        return Err(Refusal::TooLong(text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(Refusal::Character);
    }
    let url = Url::parse(text).map_err(|_| Refusal::NoUrl)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Refusal::Scheme(url.scheme().chars().take(40).collect()));
    }
    let url = WebUrl::of(url).ok_or(Refusal::User)?;
    // Escaping makes a URL longer.
    if url.as_str().len() > MAX_URL {
        return Err(Refusal::TooLong(url.as_str().len()));
    }
    if !allowed.allows(&url) {
        return Err(Refusal::NotAllowed(Box::new(url)));
    }
    let callback = Callback::of(&url)?;
    Ok(Opening { url, callback })
}

/// How often something may happen: at most [`Pace::MOST`] times in [`Pace::WINDOW`].
#[derive(Debug, Clone, Default)]
pub struct Pace(VecDeque<Instant>);

impl Pace {
    /// As often as this.
    pub const MOST: usize = 10;
    /// In this time.
    pub const WINDOW: Duration = Duration::from_secs(10);

    /// Whether it may happen once more, now; then it has.
    pub fn take(&mut self, now: Instant) -> bool {
        while self.0.front().is_some_and(|&earlier| now.saturating_duration_since(earlier) >= Self::WINDOW) {
            self.0.pop_front();
        }
        let free = self.0.len() < Self::MOST;
        if free {
            self.0.push_back(now);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use proptest::prelude::*;

    use super::*;

    fn allowed(patterns: &[&str]) -> Allowed {
        Allowed::new(true, patterns.iter().map(|pattern| UrlPattern::from_str(pattern).unwrap()))
    }

    #[test]
    fn what_a_pattern_allows_is_opened_in_canonical_form() {
        let allowed = allowed(&["https://claude.ai/oauth/authorize*", "http://localhost:*/*"]);
        for (text, url) in [
            ("https://claude.ai/oauth/authorize?code=true", "https://claude.ai/oauth/authorize?code=true"),
            ("HTTPS://CLAUDE.ai:443/a/../oauth/authorize", "https://claude.ai/oauth/authorize"),
            ("  https://claude.ai/oauth/authorize  ", "https://claude.ai/oauth/authorize"),
            (
                "https://claude.ai/oauth/authorize?q=a b\"';$(id)`",
                "https://claude.ai/oauth/authorize?q=a%20b%22%27;$(id)`",
            ),
            ("http://localhost:8080", "http://localhost:8080/"),
        ] {
            assert_eq!(decide(&allowed, text).unwrap().url.as_str(), url, "{text}");
        }
    }

    #[test]
    fn threats_file_javascript_custom_schemes_and_userinfo_are_not_opened() {
        let all = allowed(&["*://*:*/*", "*://*/*"]);
        let scheme = |name: &str| Refusal::Scheme(name.to_owned());
        for (text, refusal) in [
            ("file:///etc/passwd", scheme("file")),
            ("FILE:///etc/passwd", scheme("file")),
            ("javascript:alert(1)", scheme("javascript")),
            ("mailto:a@b.example", scheme("mailto")),
            ("data:text/html,x", scheme("data")),
            ("vscode://file/x", scheme("vscode")),
            ("view-source:https://a.example/", scheme("view-source")),
            ("chrome://settings", scheme("chrome")),
            ("ftp://a.example/", scheme("ftp")),
            ("--help", Refusal::NoUrl),
            ("-new-window", Refusal::NoUrl),
            ("/etc/passwd", Refusal::NoUrl),
            ("report.html", Refusal::NoUrl),
            ("", Refusal::NoUrl),
            ("https://", Refusal::NoUrl),
            ("https://user@a.example/", Refusal::User),
            ("https://user:pass@a.example/", Refusal::User),
            ("https://:pass@a.example/", Refusal::User),
            ("https://a.example/\n", Refusal::Character),
            ("https://a.example/\u{0}", Refusal::Character),
            ("java\tscript:alert(1)", Refusal::Character),
            ("https://a.example/\u{9b}31m", Refusal::Character),
        ] {
            assert_eq!(decide(&all, text), Err(refusal), "{text}");
        }
        let long = format!("https://a.example/{}", "x".repeat(1 << 20));
        assert_eq!(decide(&all, &long), Err(Refusal::TooLong(long.len())));
        assert!(matches!(
            decide(&all, &format!("https://a.example/{}", "é".repeat(MAX_URL / 3))),
            Err(Refusal::TooLong(_))
        ));
    }

    #[test]
    fn threats_a_pattern_hidden_in_a_query_is_not_opened() {
        let allowed = allowed(&["*claude.ai/oauth*"]);
        for text in [
            "https://evil.example/?https://claude.ai/oauth",
            "https://evil.example/#https://claude.ai/oauth",
            "https://evil.example/claude.ai/oauth",
            "https://claude.ai.evil.example/oauth",
            "https://claude.ai%2eevil.example/oauth",
        ] {
            assert!(matches!(decide(&allowed, text), Err(Refusal::NotAllowed(_))), "{text}");
        }
    }

    #[test]
    fn nothing_is_allowed_by_default_or_when_it_is_off() {
        let url = "https://claude.ai/oauth/authorize?state=s3cret";
        assert_eq!(decide(&Allowed::default(), url), Err(Refusal::Off));
        let refusal = decide(&allowed(&[]), url).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "https://claude.ai/oauth/authorize is not allowed. To allow it, add to agent-creds.toml, on the host:\n\n\
             [[browser_target]]\nurl = \"https://claude.ai/oauth/authorize\""
        );
        let off = Allowed::new(false, [UrlPattern::from_str("https://claude.ai/*").unwrap()]);
        assert_eq!(decide(&off, url), Err(Refusal::Off));
        assert!(!off.allows(&WebUrl::parse(url).unwrap()));
    }

    #[test]
    fn ten_in_ten_seconds() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for n in 0..10 {
            assert!(pace.take(start + Duration::from_millis(n * 100)));
        }
        assert!(!pace.take(start + Duration::from_secs(9)));
        assert!(pace.take(start + Duration::from_secs(10)));
        assert!(!pace.take(start + Duration::from_millis(10_050)));
        assert!(pace.take(start + Duration::from_secs(60)));
    }

    proptest! {
        #[test]
        fn what_is_opened_is_one_plain_argument_and_no_option(text in "(https?:/?/?)?\\PC{0,60}") {
            let all = allowed(&["*://*:*/*", "*://*/*"]);
            if let Ok(opening) = decide(&all, &text) {
                let url = opening.url.as_str();
                prop_assert!(url.starts_with("http://") || url.starts_with("https://"));
                prop_assert!(url.bytes().all(|byte| byte.is_ascii_graphic()), "{}", url);
                prop_assert_eq!(WebUrl::parse(url), Some(opening.url.clone()));
            }
        }

        #[test]
        fn the_lines_that_would_allow_a_page_do(text in "https?://[a-z]{1,5}\\.example(:[1-9][0-9]{0,3})?/[ -~]{0,20}") {
            if let Err(Refusal::NotAllowed(url)) = decide(&allowed(&[]), &text) {
                let pattern = UrlPattern::from_str(url.place()).unwrap();
                prop_assert!(Allowed::new(true, [pattern]).allows(&url));
            }
        }
    }
}
