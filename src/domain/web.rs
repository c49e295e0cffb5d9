//! Web addresses as browsers read them, and patterns of them: what `[[cdp_target]]` is matched with.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use url::Url;

/// A `WebUrl` is a canonical `http` or `https` URL without user information, as the browser reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebUrl(Url);

impl WebUrl {
    /// The URL that `text` stands for; `None` for other schemes, for what has a user, and for what is no URL.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
        (is_web && url.username().is_empty() && url.password().is_none()).then_some(Self(url))
    }

    /// `https://example.com`, as `location.origin` says it.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    /// The URL as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A `UrlPattern` stands for web pages by scheme, host, port and path, as in `https://*.example.com/app/*`; query and fragment take
/// no part. It is kept in these parts, so that no `*` reaches from one into another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlPattern {
    /// `None` is both.
    scheme: Option<&'static str>,
    host: HostGlob,
    port: PortPattern,
    path: Arc<str>,
}

/// Why a text is not a [`UrlPattern`]: it can match nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a URL pattern is http:// or https://, a host, and a path; `*` stands at the beginning of a host or within one of its labels, for \
     the port, or anywhere in the path; there is no user, query or fragment"
)]
pub struct UrlPatternError;

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostGlob {
    Any,
    /// The host, each `*` any text within a label.
    Host(Arc<str>),
    /// Any name below this one.
    Below(Arc<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PortPattern {
    /// The scheme's own.
    Default,
    Any,
    Exactly(u16),
}

impl UrlPattern {
    /// Whether it stands for this page.
    pub fn matches(&self, url: &WebUrl) -> bool {
        let url = &url.0;
        let port = match self.port {
            PortPattern::Any => true,
            PortPattern::Default => url.port().is_none(),
            PortPattern::Exactly(port) => url.port_or_known_default() == Some(port),
        };
        port && self.scheme.is_none_or(|scheme| scheme == url.scheme())
            && url.host_str().is_some_and(|host| self.host.matches(host))
            && glob(&self.path, url.path())
    }

    /// The origins it stands for, when its host and port have no `*`.
    pub fn origins(&self) -> Vec<String> {
        let HostGlob::Host(host) = &self.host else { return Vec::new() };
        let port = match self.port {
            PortPattern::Any => return Vec::new(),
            PortPattern::Default => String::new(),
            PortPattern::Exactly(port) => format!(":{port}"),
        };
        if host.contains('*') {
            return Vec::new();
        }
        let schemes = self.scheme.map_or(vec!["http", "https"], |scheme| vec![scheme]);
        let urls = schemes.into_iter().filter_map(|scheme| WebUrl::parse(&format!("{scheme}://{host}{port}/")));
        urls.map(|url| url.origin()).collect()
    }
}

impl FromStr for UrlPattern {
    type Err = UrlPatternError;

    fn from_str(text: &str) -> Result<Self, UrlPatternError> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Some("http"), rest),
            Some(("https", rest)) => (Some("https"), rest),
            Some(("*" | "http*", rest)) => (None, rest),
            Some((before, _)) if !before.contains(['/', '*']) => return Err(UrlPatternError),
            // `*example.com/path*`, as some write it: the star stands for the scheme. In `*.example.com` it is the host's.
            _ => (
                None,
                if text.starts_with("*.") || text.starts_with("*/") { text } else { text.trim_start_matches('*') },
            ),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if rest.contains(['?', '#', '@', '\\']) || rest.chars().any(|c| c.is_control() || c == ' ') {
            return Err(UrlPatternError);
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        // `https://example.com*` means its paths; a star that went on with the host would reach example.com.evil.com.
        let (host, port, path) = match (port, path) {
            (None, "") if host.len() > 1 && host.ends_with('*') => (&host[..host.len() - 1], None, "/*"),
            (Some(port), "") if port.len() > 1 && port.ends_with('*') => (host, Some(&port[..port.len() - 1]), "/*"),
            (port, "") => (host, port, "/"),
            (port, path) => (host, port, path),
        };
        let port = match port {
            None => PortPattern::Default,
            Some("*") => PortPattern::Any,
            Some(port) => PortPattern::Exactly(port.parse().map_err(|_| UrlPatternError)?),
        };
        // As the browser has it: without dot segments, and with escapes for what is not ASCII.
        let path = Url::parse(&format!("http://host{path}")).map_err(|_| UrlPatternError)?.path().into();
        Ok(Self { scheme, host: HostGlob::parse(host)?, port, path })
    }
}

impl HostGlob {
    fn parse(text: &str) -> Result<Self, UrlPatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (below, rest) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        // Names are compared in the form the browser has them in: lower case, punycode, addresses in one spelling.
        let canonical = if rest.contains('*') {
            let legal = |c: char| c.is_ascii_alphanumeric() || "-.*_".contains(c);
            rest.chars().all(legal).then(|| rest.to_ascii_lowercase())
        } else {
            WebUrl::parse(&format!("http://{rest}/")).and_then(|url| Some(url.0.host_str()?.to_owned()))
        };
        match canonical {
            Some(host) if below => Ok(Self::Below(host.into())),
            Some(host) => Ok(Self::Host(host.into())),
            None => Err(UrlPatternError),
        }
    }

    fn matches(&self, host: &str) -> bool {
        let same = |pattern: &str, host: &str| {
            pattern.split('.').count() == host.split('.').count()
                && pattern.split('.').zip(host.split('.')).all(|(pattern, label)| glob(pattern, label))
        };
        match self {
            Self::Any => true,
            Self::Host(pattern) => same(pattern, host),
            Self::Below(pattern) => host.match_indices('.').any(|(at, _)| at > 0 && same(pattern, &host[at + 1..])),
        }
    }
}

/// Whether `text` is `pattern`, in which `*` stands for any text.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
#[path = "web_tests.rs"]
mod tests;
