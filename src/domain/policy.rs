//! What a sandbox or gateway may reach, and the limits on it.
//!
//! A [`Policy`] is what one `agent-creds.toml` says, parsed. It is the input of the resource builder (what Envoy is told)
//! and of the decision (what the vault allows), so both always speak of the same thing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;

use super::names::{Host, HostPattern, Instance, Method, SandboxId};

/// What one sandbox or gateway may do: where it is served, and which upstreams it reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The sandbox's or gateway's name; unique in a server.
    pub id: SandboxId,
    /// Which life of the sandbox this is; `None` for a gateway. Tokens that were handed into a sandbox are good for that life.
    pub instance: Option<Instance>,
    /// Where its listener is bound.
    pub listen: SocketAddr,
    /// The line of `listen`, or of the section's header.
    pub origin: Origin,
    /// What it may reach, by host.
    pub upstreams: BTreeMap<HostPattern, Upstream>,
    /// The vault of another server that has the credentials, when it is not this server's own.
    pub vault: Option<Address>,
}

/// Where a sandbox that runs is served, and which life of it this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// Where its listener is bound: on its bridge's gateway address.
    pub listen: SocketAddr,
    /// Which life of the sandbox this is.
    pub instance: Instance,
}

/// One host that may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Limits on every request to it, with or without a token.
    pub limits: Limits,
    /// Where to connect, when not where the name resolves to.
    pub address: Option<Address>,
    /// Whether the name may resolve to where only this machine or its neighbours are.
    pub private: bool,
    /// The PEM certificates to trust for it, instead of the system's.
    pub ca: Option<Arc<str>>,
    /// The line of its header.
    pub origin: Origin,
}

/// A line of a configuration file: where something came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The file as it was named to us.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Limits of an upstream; `None` is no limit, an empty list allows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// The methods allowed.
    pub methods: Option<BTreeSet<Method>>,
    /// The paths allowed.
    pub paths: Option<Vec<PathPattern>>,
}

impl Limits {
    /// Whether `method`, in upper case, is within the limits.
    pub fn allow_method(&self, method: &str) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.iter().any(|m| m.as_str() == method))
    }

    /// Whether `path` is within the limits.
    pub fn allow_path(&self, path: RequestPath<'_>) -> bool {
        self.paths.as_ref().is_none_or(|paths| paths.iter().any(|p| p.matches(path)))
    }
}

/// An address to connect to: a host name or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Address {
    /// Connect to this address.
    Ip(SocketAddr),
    /// Resolve this name, then connect.
    Name(Host, u16),
}

/// Why a text is not an [`Address`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an address is HOST:PORT, as in \"10.0.0.7:8443\", \"[::1]:8443\" or \"internal.example.com:443\"")]
pub struct AddressError;

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(AddressError) } else { Ok(Self::Ip(address)) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(AddressError)?;
        let host = host.parse().map_err(|_| AddressError)?;
        match port.parse() {
            Ok(port) if port != 0 => Ok(Self::Name(host, port)),
            _ => Err(AddressError),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// A `RequestPath` is the path of a request as the upstream will see it: it begins with `/`, and query and fragment are
/// cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestPath<'a> {
    path: &'a str,
    /// Found out once, however many patterns it is compared with.
    readings: Readings,
}

/// How servers read a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readings {
    /// All in the same way.
    One,
    /// With its escaped slashes as part of a name (as Google Cloud Storage and GitLab do), or as slashes.
    Slashes,
    /// In ways that cannot be told beforehand.
    Many,
}

impl<'a> RequestPath<'a> {
    /// Cuts the query (and anything after a `#`) off a request target in origin form.
    /// `None` when it does not begin with `/` (`OPTIONS *`, an absolute form).
    pub fn from_target(target: &'a str) -> Option<Self> {
        let end = target.find(['?', '#']).unwrap_or(target.len());
        let path = &target[..end];
        path.starts_with('/').then(|| Self { path, readings: Readings::of(path) })
    }

    /// The path as text.
    pub fn as_str(self) -> &'a str {
        self.path
    }

    /// Whether a pattern can stand for the path: every server reads it the same way, but for escaped slashes. There are no dot
    /// segments, doubled slashes, back slashes, control bytes, or double encodings of these.
    ///
    /// Envoy normalises paths before the vault sees them; what is left and could still be read in other ways matches no
    /// pattern.
    pub fn is_matchable(self) -> bool {
        self.readings != Readings::Many
    }
}

impl Readings {
    fn of(path: &str) -> Self {
        if is_unambiguous(path) {
            Self::One
        } else if path.contains('%') && is_unambiguous(&slashes_unescaped(path)) {
            Self::Slashes
        } else {
            Self::Many
        }
    }
}

fn slashes_unescaped(path: &str) -> String {
    path.replace("%2F", "/").replace("%2f", "/")
}

fn is_unambiguous(text: &str) -> bool {
    let path = text.as_bytes();
    if path.iter().any(|&b| b <= b' ' || b == 0x7f || b == b'\\') || text.contains("//") {
        return false;
    }
    if !path.contains(&b'%') && !text.contains("/.") {
        return true;
    }
    let Some(decoded) = decode_fully(path) else { return false };
    // An overlong form of `.` or `/` is no UTF-8, and some servers read it all the same.
    if std::str::from_utf8(&decoded).is_err() {
        return false;
    }
    decoded.iter().zip(decoded.iter().skip(1)).all(|pair| pair != (&b'/', &b'/'))
        && !decoded.iter().any(|&b| b < b' ' || b == 0x7f || b == b'\\')
        && decoded.iter().filter(|&&b| b == b'/').count() == path.iter().filter(|&&b| b == b'/').count()
        && decoded.split(|&b| b == b'/').all(|segment| {
            // `..;x` is a parent segment to servers that strip path parameters.
            let name = segment.split(|&b| b == b';').next().unwrap_or(segment);
            name != b"." && name != b".."
        })
}

/// Percent-decodes until nothing changes; `None` after four rounds or when the path itself has a broken escape. A `%` that
/// only a decoding brought up and that begins no escape stands for itself.
fn decode_fully(path: &[u8]) -> Option<Vec<u8>> {
    let mut current = path.to_vec();
    for round in 0..4 {
        let mut next = Vec::with_capacity(current.len());
        let mut rest = current.as_slice();
        while let Some((&byte, tail)) = rest.split_first() {
            let escape = if byte == b'%' { tail.get(..2).and_then(hex_byte) } else { None };
            match escape {
                Some(decoded) => {
                    next.push(decoded);
                    rest = &tail[2..];
                }
                None if byte == b'%' && round == 0 => return None,
                None => {
                    next.push(byte);
                    rest = tail;
                }
            }
        }
        if next == current {
            return Some(current);
        }
        current = next;
    }
    None
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16);
    let &[high, low] = digits else { return None };
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// A `PathPattern` begins with `/`; in it `*` stands for any text within one segment and a `**` segment for any number of
/// segments. It is anchored at both ends (`token-format.md`).
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct PathPattern(Arc<str>);

/// Why a text is not a [`PathPattern`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathPatternError {
    /// Does not begin with `/`.
    #[error("a path pattern begins with `/`")]
    Relative,
    /// Over 1,024 bytes.
    #[error("a path pattern has at most 1,024 characters")]
    TooLong,
    /// `?` or `#`.
    #[error("the query never takes part in a path pattern: remove everything from `?` or `#` on")]
    Query,
    /// `**` glued to something.
    #[error("`**` stands alone between slashes, as in `/v1/**`")]
    GluedDoubleStar,
    /// A path that never arrives like this.
    #[error(
        "the pattern has `//`, `.`, `..`, a back slash, a space or a control character, which no path that arrives has"
    )]
    Unnormalised,
}

impl PathPattern {
    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `path` is one this pattern stands for, however it is read.
    pub fn matches(&self, path: RequestPath<'_>) -> bool {
        let matches = |path: &str| match_segments(&self.0[1..], &path[1..]);
        match path.readings {
            Readings::One => matches(path.path),
            Readings::Slashes => matches(path.path) && matches(&slashes_unescaped(path.path)),
            Readings::Many => false,
        }
    }
}

/// Greedy matching with one point to go back to (the last `**`): linear space, at most `|pattern| × |path|` steps.
fn match_segments(pattern: &str, path: &str) -> bool {
    let mut pattern_rest = Some(pattern);
    let mut path_rest = Some(path);
    let mut retry: Option<(Option<&str>, &str)> = None;
    loop {
        match (pattern_rest.map(first_segment), path_rest.map(first_segment)) {
            (Some(("**", after)), _) => {
                match path_rest {
                    // `/a/**` also matches `/a`.
                    None => pattern_rest = after,
                    Some(here) => {
                        retry = Some((after, here));
                        pattern_rest = after;
                    }
                }
                continue;
            }
            (Some((segment, pattern_after)), Some((text, path_after))) if match_star(segment, text) => {
                pattern_rest = pattern_after;
                path_rest = path_after;
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        // Let the last `**` swallow one segment more.
        let Some((after, from)) = retry else { return false };
        let (_, next) = first_segment(from);
        match next {
            Some(next) => {
                retry = Some((after, next));
                pattern_rest = after;
                path_rest = Some(next);
            }
            None if after.is_none() => return true,
            None => return false,
        }
    }
}

fn first_segment(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((segment, rest)) => (segment, Some(rest)),
        None => (text, None),
    }
}

/// `*` within one segment, by the same greedy scheme.
fn match_star(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            retry = Some((p, t));
            p += 1;
        } else if p < pattern.len() && pattern[p] == text[t] {
            p += 1;
            t += 1;
        } else if let Some((star, from)) = retry {
            retry = Some((star, from + 1));
            p = star + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

impl FromStr for PathPattern {
    type Err = PathPatternError;

    fn from_str(text: &str) -> Result<Self, PathPatternError> {
        if !text.starts_with('/') {
            return Err(PathPatternError::Relative);
        }
        if text.len() > 1024 {
            return Err(PathPatternError::TooLong);
        }
        if text.contains(['?', '#']) {
            return Err(PathPatternError::Query);
        }
        if text[1..].split('/').any(|segment| segment != "**" && segment.contains("**")) {
            return Err(PathPatternError::GluedDoubleStar);
        }
        let odd = |b: u8| b <= b' ' || b == 0x7f || b == b'\\';
        if text.contains("//") || text.bytes().any(odd) || text.split('/').any(|s| s == "." || s == "..") {
            return Err(PathPatternError::Unnormalised);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, target: &str) -> bool {
        let pattern: PathPattern = pattern.parse().unwrap();
        RequestPath::from_target(target).is_some_and(|path| pattern.matches(path))
    }

    #[test]
    fn patterns_match_whole_paths() {
        for (pattern, path) in [
            ("/", "/"),
            ("/v1/*", "/v1/customers"),
            ("/v1/*/x", "/v1/a/x"),
            ("/v1/cus_*", "/v1/cus_123"),
            ("/v1/*_test", "/v1/a_b_test"),
            ("/v1/**", "/v1"),
            ("/v1/**", "/v1/"),
            ("/v1/**", "/v1/a/b/c"),
            ("/**", "/"),
            ("/**", "/anything/at/all"),
            ("/**/x", "/x"),
            ("/**/x", "/a/b/x"),
            ("/a/**/b/**/c", "/a/b/b/x/c"),
            ("/a/**/b/*/c", "/a/b/b/x/c"),
            ("/v1/customers", "/v1/customers?limit=3"),
            ("/v1/a%20b", "/v1/a%20b"),
            ("/v1/.well-known/x", "/v1/.well-known/x"),
        ] {
            assert!(matches(pattern, path), "{pattern} should match {path}");
        }
        for (pattern, path) in [
            ("/v1/*", "/v1/a/b"),
            ("/v1/*", "/v1"),
            ("/v1/**", "/v10"),
            ("/v1/**", "/v2/v1/a"),
            ("/v1/**/x", "/v1/a/y"),
            ("/v1/customers", "/v1/customers/"),
            ("/v1/customers", "/v1/Customers"),
            ("/v1/customers", "/v2?/v1/customers"),
            ("/v1/customers", "/v2#/v1/customers"),
            ("/a/**/b/**/c", "/a/b/b/x/d"),
        ] {
            assert!(!matches(pattern, path), "{pattern} should not match {path}");
        }
    }

    #[test]
    fn a_path_that_could_be_read_in_two_ways_matches_nothing() {
        for path in [
            "/v1/../admin",
            "/v1/./x",
            "/v1/%2e%2e/admin",
            "/v1/%2E./admin",
            "/v1/%252e%252e/admin",
            "/v1/..;/admin",
            "/v1/..;a=b/admin",
            "/v1/%2e%2e;/admin",
            "/v1//admin",
            "/v1/%2fadmin",
            "/v1/a%2F..%2Fb",
            "/v1/a%2F/b",
            "/v1/..%2Fb",
            "/v1/.%2fb",
            "/v1/%c0%ae%c0%ae/admin",
            "/v1/%ff",
            "/v1/a%252Fb",
            "/v1/a\\b",
            "/v1/a%5cb",
            "/v1/a%00",
            "/v1/a%0d%0a",
            "/v1/a%",
            "/v1/a%zz",
            "/v1/%25252525252e",
            "/v1/a b",
        ] {
            assert!(!matches("/**", path), "{path}");
        }
        assert!(matches("/**", "/v1/b%C3%BCcher"));
        assert!(matches("/**", "/v1/100%25"));
        assert!(matches("/**", "/v1/100%25%20off"));
        assert!(matches("/**", "/v1/a%20b;v=1/..x"));
    }

    #[test]
    fn an_escaped_slash_is_matched_only_where_both_of_its_readings_are() {
        for (pattern, path, matched) in [
            ("/v1/**", "/v1/a%2Fb", true),
            ("/**", "/a%2fb%2Fc", true),
            ("/v1/*/**", "/v1/a%2Fb", true),
            ("/v1/**/b", "/v1/x/a%2Fb", false),
            ("/v1/*", "/v1/a%2Fb", false),
            ("/v1/a%2Fb", "/v1/a%2Fb", false),
            ("/v1/a/b", "/v1/a%2Fb", false),
            ("/v1/**", "/v1%2Fa", false),
            ("/*/**", "/v1%2Fa", true),
            ("/v1/b/*/o/*/**", "/v1/b/bucket/o/folder%2Fname", true),
        ] {
            assert_eq!(matches(pattern, path), matched, "{pattern} {path}");
        }
    }

    #[test]
    fn bad_patterns_say_why() {
        for (text, error) in [
            ("v1/**", PathPatternError::Relative),
            ("", PathPatternError::Relative),
            ("/v1?x=*", PathPatternError::Query),
            ("/v1/a**", PathPatternError::GluedDoubleStar),
            ("/v1/***", PathPatternError::GluedDoubleStar),
            ("/v1/../x", PathPatternError::Unnormalised),
            ("/v1//x", PathPatternError::Unnormalised),
            ("/v1/ x", PathPatternError::Unnormalised),
        ] {
            assert_eq!(text.parse::<PathPattern>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!("10.0.0.7:8443".parse::<Address>().unwrap().to_string(), "10.0.0.7:8443");
        assert_eq!("[::1]:8443".parse::<Address>().unwrap().to_string(), "[::1]:8443");
        assert_eq!("Internal.example.com:443".parse::<Address>().unwrap().to_string(), "internal.example.com:443");
        for bad in ["10.0.0.7", "10.0.0.7:0", "host:0", "host:65536", "host", ":80", "::1:80x", "1.2.3:80"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    /// The plainest possible matcher, exponential but obviously right, to compare with.
    fn slow(pattern: &[&str], path: &[&str]) -> bool {
        match pattern.split_first() {
            None => path.is_empty(),
            Some((&"**", rest)) => (0..=path.len()).any(|n| slow(rest, &path[n..])),
            Some((segment, rest)) => path
                .split_first()
                .is_some_and(|(text, path)| slow_star(segment.as_bytes(), text.as_bytes()) && slow(rest, path)),
        }
    }

    fn slow_star(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|n| slow_star(rest, &text[n..])),
            Some((c, rest)) => text.split_first().is_some_and(|(t, text)| c == t && slow_star(rest, text)),
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_plain_definition(
            pattern in prop::collection::vec("\\*\\*|[ab*]{1,3}", 1..6),
            path in prop::collection::vec("[ab]{1,3}", 1..7),
        ) {
            let text = format!("/{}", pattern.join("/"));
            let Ok(parsed) = text.parse::<PathPattern>() else { return Ok(()) };
            let target = format!("/{}", path.join("/"));
            let pattern: Vec<&str> = pattern.iter().map(String::as_str).collect();
            let segments: Vec<&str> = path.iter().map(String::as_str).collect();
            prop_assert_eq!(
                parsed.matches(RequestPath::from_target(&target).unwrap()),
                slow(&pattern, &segments),
                "{} {}", text, target
            );
        }

        #[test]
        fn no_target_panics(target in "\\PC{0,60}", pattern in "/[a*/]{0,20}") {
            if let (Some(path), Ok(pattern)) = (RequestPath::from_target(&target), pattern.parse::<PathPattern>()) {
                let _ = pattern.matches(path);
            }
        }
    }
}
