//! Web addresses, and patterns of them: what a sandbox may open or see in the host's browser.
//!
//! Both are compared in the form in which a browser has them, part by part: no `*` reaches from the host into the path, and
//! query and fragment take no part.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use url::Url;

/// A `WebUrl` is a canonical `http` or `https` URL with a host and without user information, as a browser reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebUrl(Url);

impl WebUrl {
    /// Reads a URL as browsers do: with what they leave out (tabs, spaces at the ends) left out.
    pub fn parse(text: &str) -> Option<Self> {
        Self::of(Url::parse(text).ok()?)
    }

    /// This URL, if it is a [`WebUrl`].
    pub fn of(url: Url) -> Option<Self> {
        let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
        (is_web && url.username().is_empty() && url.password().is_none()).then_some(Self(url))
    }

    /// `https://example.com`, as `location.origin` says it.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    /// The canonical text: ASCII, without spaces and control characters.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Its parts.
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// Without query and fragment, in which secrets may be.
    pub fn place(&self) -> &str {
        &self.0[..url::Position::AfterPath]
    }
}

impl fmt::Display for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A `UrlPattern` is a pattern of web addresses that can match some.
///
/// `https://*.example.com:8443/app/*`: scheme, host, port and path are matched each by itself. `*` in a host stands for text within
/// a label, `*.` at its beginning for any names below it; in a path it stands for any text. The scheme may be left out, which
/// means both. A pattern with a `*` right behind the host has all paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlPattern {
    /// `None` is both.
    scheme: Option<&'static str>,
    host: HostGlob,
    port: PortPattern,
    path: Arc<str>,
}

/// Why a text is no [`UrlPattern`]: it could match nothing, or would not match what it seems to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlPatternError {
    /// `file:` and the like.
    #[error("only http:// and https:// are pages of the web")]
    Scheme,
    /// A user before the host.
    #[error("a URL with a user or a password before the host is never allowed")]
    User,
    /// A `?` or a `#`.
    #[error("query and fragment take no part: whatever stands behind `?` and `#` is allowed with the rest")]
    Query,
    /// No host, or one that no URL has.
    #[error("its host can be that of no URL")]
    Host,
    /// The port is no number from 1 to 65535, or `*`.
    #[error("its port is none")]
    Port,
    /// A path that browsers never ask for.
    #[error("its path can be that of no URL: browsers resolve `.` and `..`, and write `\\` as `/`")]
    Path,
    /// A space or a control character.
    #[error("it has a space or a control character, which no URL has")]
    Character,
}

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

impl FromStr for UrlPattern {
    type Err = UrlPatternError;

    fn from_str(text: &str) -> Result<Self, UrlPatternError> {
        use UrlPatternError::{Character, Host, Path, Port, Query, Scheme, User};
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Character);
        }
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Some("http"), rest),
            Some(("https", rest)) => (Some("https"), rest),
            Some(("*" | "http*", rest)) => (None, rest),
            Some((before, _)) if !before.contains(['/', '*', '?', '#']) => return Err(Scheme),
            // `*example.com/path*`, as some write it: the star stands for the scheme. In `*.example.com` it is the host's.
            _ => (
                None,
                if text.starts_with("*.") || text.starts_with("*/") { text } else { text.trim_start_matches('*') },
            ),
        };
        if rest.contains(['?', '#']) {
            return Err(Query);
        }
        let (authority, path) = rest.split_at(rest.find(['/', '\\']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(User);
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
        if host.contains(':') && !host.starts_with('[') && scheme.is_none() {
            // `javascript:x`, `mailto:a@b`.
            return Err(Scheme);
        }
        let port = match port {
            None => PortPattern::Default,
            Some("*") => PortPattern::Any,
            Some(port) => match port.parse() {
                Ok(0) | Err(_) if scheme.is_none() && !port.starts_with(|c: char| c.is_ascii_digit()) => {
                    return Err(Scheme);
                }
                Ok(0) | Err(_) => return Err(Port),
                Ok(port) => PortPattern::Exactly(port),
            },
        };
        let host = HostGlob::parse(host).ok_or(Host)?;
        Ok(Self { scheme, host, port, path: canonical_path(path).ok_or(Path)? })
    }
}

impl UrlPattern {
    /// Whether it matches.
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

    /// The origins that it names without any `*`.
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

impl HostGlob {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let (below, rest) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        // Names are compared in the form the browser has them in: lower case, punycode, addresses in one spelling.
        let canonical = if rest.contains('*') {
            let legal = |c: char| c.is_ascii_alphanumeric() || "-.*_".contains(c);
            let whole = rest.chars().all(legal) && rest.split('.').all(|label| !label.is_empty());
            whole.then(|| rest.to_ascii_lowercase())
        } else {
            WebUrl::parse(&format!("http://{rest}/")).and_then(|url| Some(url.0.host_str()?.to_owned()))
        };
        Some(if below { Self::Below(canonical?.into()) } else { Self::Host(canonical?.into()) })
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

/// A path in the form that browsers ask for: what they escape, escaped.
fn canonical_path(path: &str) -> Option<Arc<str>> {
    let resolved = |segment: &str| {
        let segment = segment.to_ascii_lowercase().replace("%2e", ".");
        segment == "." || segment == ".."
    };
    if path.contains('\\') || path.split('/').any(resolved) {
        return None;
    }
    let url = Url::parse(&format!("http://x{path}")).ok()?;
    Some(url.path().into())
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
