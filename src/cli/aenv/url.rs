//! The URL of a request, as a client would send it and Envoy would pass it on.

use std::str::FromStr;

use crate::domain::names::{Host, HostError};

/// The most bytes of a URL: Envoy takes no more in all headers together.
const MAX_BYTES: usize = 60 * 1024;

/// A `Url` is an absolute URL with a host, and without user, spaces and control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// In lower case.
    pub scheme: String,
    /// Who it is for.
    pub place: Place,
    /// As it was given.
    pub port: Option<u16>,
    /// Path and query, without the fragment, which no client sends.
    pub target: String,
}

/// The host of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A name.
    Name(Host),
    /// An IP address in some spelling.
    Address(String),
}

/// Why a text is not a [`Url`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// A character that has to be escaped.
    #[error("a URL has no spaces and control characters: write them as %20 and the like")]
    Character,
    /// Over the limit.
    #[error("a URL has at most {MAX_BYTES} bytes")]
    TooLong,
    /// `user@host`.
    #[error("leave out what stands before the `@`; --token says which token is meant")]
    User,
    /// Not a port.
    #[error("a port is a number from 1 to 65535")]
    Port,
    /// Not a host.
    #[error("the host is none")]
    Host(#[source] HostError),
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        if text.len() > MAX_BYTES {
            return Err(UrlError::TooLong);
        }
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(UrlError::Character);
        }
        let (scheme, rest) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)).unwrap_or(("https", text));
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err(UrlError::User);
        }
        // `[::1]:443`: the colons of an address are in brackets.
        let after_brackets = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority[after_brackets..].rfind(':') {
            Some(at) => {
                let (host, port) = authority.split_at(after_brackets + at);
                let port = port[1..].parse().ok().filter(|&port| port != 0).ok_or(UrlError::Port)?;
                (host, Some(port))
            }
            None => (authority, None),
        };
        let place = match host.parse::<Host>() {
            Ok(host) => Place::Name(host),
            Err(HostError::IpAddress) => Place::Address(host.to_owned()),
            Err(error) => return Err(UrlError::Host(error)),
        };
        let target = target.split('#').next().unwrap_or_default();
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self { scheme: scheme.to_ascii_lowercase(), place, port, target: format!("{slash}{}", ascii(target)) })
    }
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// Clients escape what is not ASCII.
fn ascii(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

impl Url {
    /// Path and query as the upstream would see them: Envoy unescapes what needs no escape, takes dot segments out and
    /// doubled slashes together.
    pub fn normalised(&self) -> String {
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.target.as_str(), None),
        };
        let path = unescape(path).replace('\\', "/");
        let mut segments: Vec<&str> = Vec::new();
        let mut ends_in_folder = false;
        for segment in path.split('/').skip(1) {
            ends_in_folder = matches!(segment, "" | "." | "..");
            match segment {
                "" | "." => {}
                ".." => drop(segments.pop()),
                name => segments.push(name),
            }
        }
        let mut out = format!("/{}", segments.join("/"));
        if ends_in_folder && !segments.is_empty() {
            out.push('/');
        }
        if let Some(query) = query {
            out.push('?');
            out.push_str(query);
        }
        out
    }
}

/// Unescapes letters, digits and `-._~`.
fn unescape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let digits = rest.get(1..3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                out.push(char::from(byte));
                rest = &rest[3..];
            }
            _ => {
                out.push('%');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::policy::RequestPath;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn urls_are_read_as_clients_send_them() {
        let full = url("HTTPS://API.Stripe.com.:8443/v1/x?a=b#frag");
        assert_eq!((full.scheme.as_str(), full.port, full.target.as_str()), ("https", Some(8443), "/v1/x?a=b"));
        assert_eq!(full.place, Place::Name("api.stripe.com".parse().unwrap()));
        assert_eq!(url("api.stripe.com").target, "/");
        assert_eq!(url("https://a.example?x=1").target, "/?x=1");
        assert_eq!(url("https://a.example/é").target, "/%C3%A9");
        assert_eq!(url("a.example/x?u=http://b.example").place, Place::Name("a.example".parse().unwrap()));
        for address in ["https://1.2.3.4/", "https://[::1]:443/", "https://127.1", "http://169.254.169.254/latest"] {
            assert!(matches!(url(address).place, Place::Address(_)), "{address}");
        }
        for (bad, error) in [
            ("https://u:p@a.example/", UrlError::User),
            ("https://a.example/ x", UrlError::Character),
            ("https://a.example/\u{1b}", UrlError::Character),
            ("https://a.example:0/", UrlError::Port),
            ("https://a.example:x/", UrlError::Port),
            ("https:///x", UrlError::Host(HostError::Empty)),
            ("", UrlError::Host(HostError::Empty)),
            ("https://a\\b.example", UrlError::Host(HostError::BadCharacter)),
        ] {
            assert_eq!(bad.parse::<Url>(), Err(error), "{bad:?}");
        }
    }

    #[test]
    fn paths_are_normalised_as_envoy_does() {
        for (given, seen) in [
            ("/v1/../admin", "/admin"),
            ("/v1/./x//y", "/v1/x/y"),
            ("/v1/%2e%2E/admin?a=../b", "/admin?a=../b"),
            ("/v1/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/", "/a/b/"),
            ("/%41%2D%20", "/A-%20"),
            ("/a\\b", "/a/b"),
            ("/../../x", "/x"),
            ("/a%2fb/..%2F", "/a%2fb/..%2F"),
            ("/a%5Cb", "/a%5Cb"),
            ("/a?b=%2f", "/a?b=%2f"),
            ("/100%", "/100%"),
        ] {
            assert_eq!(url(&format!("https://a.example{given}")).normalised(), seen, "{given}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}|https://[a-z.:@\\[\\]/?#%0-9\\\\]{0,60}") {
            if let Ok(url) = text.parse::<Url>() {
                prop_assert!(url.target.starts_with('/') && url.target.is_ascii());
                prop_assert!(RequestPath::from_target(&url.normalised()).is_some());
            }
        }
    }
}
