//! Names with a guarantee: each type states it in the first line of its doc, and `FromStr` is the only way in.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest, Sha256};

/// A `Host` is a DNS name in lower case, without port and trailing dot, of two labels or more or `localhost`-like single
/// label, at most 253 bytes, and never an IP address.
///
/// Labels are letters, digits, `-` and `_` (1 to 63 bytes, no `-` at either end): RFC 1123 plus the underscore that real
/// hosts use. The last label is never all digits, so no spelling of an IPv4 address (`1.2.3.4`, `0x7f.1` …) is a host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Host(Arc<str>);

/// Why a text is not a [`Host`] or a [`HostPattern`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing there.
    #[error("a host name cannot be empty")]
    Empty,
    /// Over 253 bytes.
    #[error("a host name has at most 253 characters")]
    TooLong,
    /// An empty label, or one over 63 bytes.
    #[error("each part between dots has 1 to 63 characters")]
    BadLabel,
    /// A byte that no label may have.
    #[error("only letters, digits, `-`, `_` and dots are allowed (write international names in their `xn--` form)")]
    BadCharacter,
    /// `-` at the start or end of a label.
    #[error("a part cannot begin or end with `-`")]
    Hyphen,
    /// A URL where a host is wanted.
    #[error("give the host name alone, without scheme, path, user or port")]
    NotAHost,
    /// An address where a name is wanted.
    #[error("an IP address is not a host name (use `address = \"IP:PORT\"` under a named upstream)")]
    IpAddress,
    /// A wildcard that is not one leading label.
    #[error("a wildcard is `*.` followed by a name of at least two parts, as in `*.s3.amazonaws.com`")]
    Wildcard,
}

impl Host {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        check_dns_name(name)?;
        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

fn check_dns_name(name: &str) -> Result<(), HostError> {
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    if name.len() > 253 {
        return Err(HostError::TooLong);
    }
    if name.contains('*') {
        return Err(HostError::Wildcard);
    }
    if name.starts_with('[') || name.parse::<std::net::IpAddr>().is_ok() {
        return Err(HostError::IpAddress);
    }
    if name.contains(['/', ':', '@', '?', '#']) {
        return Err(HostError::NotAHost);
    }
    let mut last = "";
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err(HostError::BadLabel);
        }
        if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(HostError::BadCharacter);
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(HostError::Hyphen);
        }
        last = label;
    }
    // `inet_aton` reads `1`, `127.1`, `0x7f.0.0.1`: none may be taken for a name.
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if numeric {
        return Err(HostError::IpAddress);
    }
    Ok(())
}

impl Borrow<str> for Host {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A `HostPattern` is one [`Host`], or `*.` and a [`Host`] of two labels or more, which stands for every name one or more
/// labels below it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum HostPattern {
    /// This host and no other.
    Exact(Host),
    /// Every host below this one, itself not included.
    Below(Host),
}

impl HostPattern {
    /// Whether `host` is one this pattern stands for.
    pub fn matches(&self, host: &Host) -> bool {
        match self {
            Self::Exact(exact) => exact == host,
            Self::Below(parent) => {
                host.as_str().strip_suffix(parent.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
        }
    }

    /// Whether a host exists that both stand for.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(host), pattern) | (pattern, Self::Exact(host)) => pattern.matches(host),
            (Self::Below(a), Self::Below(b)) => a == b || self.matches(b) || other.matches(a),
        }
    }

    /// The host, when the pattern stands for one only.
    pub fn exact(&self) -> Option<&Host> {
        match self {
            Self::Exact(host) => Some(host),
            Self::Below(_) => None,
        }
    }
}

impl FromStr for HostPattern {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        match text.strip_prefix("*.") {
            None => text.parse().map(Self::Exact),
            Some(parent) => {
                let parent: Host = parent.parse()?;
                if parent.as_str().contains('.') { Ok(Self::Below(parent)) } else { Err(HostError::Wildcard) }
            }
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => host.fmt(f),
            Self::Below(parent) => write!(f, "*.{parent}"),
        }
    }
}

impl fmt::Debug for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A `SandboxId` names one sandbox or gateway: 1 to 63 of `a-z`, `0-9`, `-`, `_` and `.`, beginning with a letter or
/// digit. It is safe in resource names, file names and log lines.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SandboxId(Arc<str>);

/// Why a text is not a [`SandboxId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 63 lower-case letters, digits, `-`, `_` or dots, and begins with a letter or digit")]
pub struct SandboxIdError;

impl SandboxId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest valid name: lower case, everything else `-`; `None` when nothing usable remains.
    pub fn slug(text: &str) -> Option<Self> {
        let mut slug = String::with_capacity(text.len());
        for c in text.chars() {
            let c = c.to_ascii_lowercase();
            if c.is_ascii_alphanumeric() || matches!(c, '_' | '.') {
                slug.push(c);
            } else if !slug.ends_with('-') {
                slug.push('-');
            }
        }
        let slug = slug.trim_matches(['-', '_', '.']);
        slug.get(..slug.len().min(63))?.parse().ok()
    }

    /// The name for whatever a person typed: as typed when it is valid, and in lower case with `-` for spaces when that makes it so.
    /// Otherwise the nearest valid name with a hash of the text, so that no two texts are one sandbox by accident.
    pub fn from_typed(text: &str) -> Self {
        let easy = text.to_ascii_lowercase().replace(' ', "-");
        if let Ok(name) = easy.parse() {
            return name;
        }
        let hash: String = Sha256::digest(text).iter().take(5).map(|byte| format!("{byte:02x}")).collect();
        let slug = Self::slug(text);
        let slug = slug.as_ref().map_or("sandbox", Self::as_str);
        let room = 63 - hash.len() - 1;
        // A slug is ASCII, beginning with a letter or digit: so is what is made of it.
        Self(format!("{}-{hash}", slug.get(..room).unwrap_or(slug)).into())
    }
}

impl FromStr for SandboxId {
    type Err = SandboxIdError;

    fn from_str(text: &str) -> Result<Self, SandboxIdError> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if starts_well && text.len() <= 63 && text.bytes().all(legal) {
            Ok(Self(text.into()))
        } else {
            Err(SandboxIdError)
        }
    }
}

impl Borrow<str> for SandboxId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// An `Instance` tells one life of a sandbox from the next of the same name: 1 to 32 lower-case letters and digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Instance(Arc<str>);

/// Why a text is not an [`Instance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an instance has 1 to 32 lower-case letters and digits")]
pub struct InstanceError;

impl Instance {
    /// The instance that these random bytes stand for.
    pub fn from_random(bytes: [u8; 8]) -> Self {
        Self(format!("{:016x}", u64::from_be_bytes(bytes)).into())
    }

    /// The instance as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Instance {
    type Err = InstanceError;

    fn from_str(text: &str) -> Result<Self, InstanceError> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if (1..=32).contains(&text.len()) && text.bytes().all(legal) {
            Ok(Self(text.into()))
        } else {
            Err(InstanceError)
        }
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A `Method` is an HTTP method in upper case: 1 to 32 letters, digits, `-` and `_`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Method(Arc<str>);

/// Why a text is not a [`Method`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an HTTP method is a word such as GET or POST")]
pub struct MethodError;

impl Method {
    /// The method as text, in upper case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Method {
    type Err = MethodError;

    fn from_str(text: &str) -> Result<Self, MethodError> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if (1..=32).contains(&text.len()) && text.bytes().all(legal) {
            Ok(Self(text.to_ascii_uppercase().into()))
        } else {
            Err(MethodError)
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(text: &str) -> Host {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_are_normalised() {
        assert_eq!(host("API.Stripe.com.").as_str(), "api.stripe.com");
        assert_eq!(host("my_bucket.s3.amazonaws.com").as_str(), "my_bucket.s3.amazonaws.com");
        assert_eq!(host("xn--bcher-kva.example").as_str(), "xn--bcher-kva.example");
    }

    #[test]
    fn what_is_not_a_host_says_why() {
        for (text, error) in [
            ("", HostError::Empty),
            (".", HostError::Empty),
            ("a..b", HostError::BadLabel),
            ("api.stripe.com..", HostError::BadLabel),
            ("https://api.stripe.com", HostError::NotAHost),
            ("api.stripe.com:443", HostError::NotAHost),
            ("user@host.example", HostError::NotAHost),
            ("10.0.0.7", HostError::IpAddress),
            ("::1", HostError::IpAddress),
            ("[::1]", HostError::IpAddress),
            ("127.1", HostError::IpAddress),
            ("2130706433", HostError::IpAddress),
            ("0x7f.0x1", HostError::IpAddress),
            ("bücher.example", HostError::BadCharacter),
            ("a b.example", HostError::BadCharacter),
            ("a\0b.example", HostError::BadCharacter),
            ("-a.example", HostError::Hyphen),
            ("*.example.com", HostError::Wildcard),
        ] {
            assert_eq!(text.parse::<Host>(), Err(error), "{text:?}");
        }
        assert_eq!("abc.".repeat(64).parse::<Host>(), Err(HostError::TooLong));
        assert_eq!(format!("{}.example", "a".repeat(64)).parse::<Host>(), Err(HostError::BadLabel));
    }

    #[test]
    fn a_wildcard_stands_for_names_below_it_only() {
        let pattern: HostPattern = "*.s3.amazonaws.com".parse().unwrap();
        assert!(pattern.matches(&host("bucket.s3.amazonaws.com")));
        assert!(pattern.matches(&host("a.b.s3.amazonaws.com")));
        assert!(!pattern.matches(&host("s3.amazonaws.com")));
        assert!(!pattern.matches(&host("evils3.amazonaws.com")));
        for bad in ["*", "*.", "*.com", "a.*.com", "**.a.com", "*a.example.com"] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_overlap_when_a_host_is_of_both() {
        let pattern = |text: &str| text.parse::<HostPattern>().unwrap();
        let bucket = pattern("*.s3.amazonaws.com");
        for other in ["a.s3.amazonaws.com", "*.s3.amazonaws.com", "*.amazonaws.com", "*.eu.s3.amazonaws.com"] {
            assert!(bucket.overlaps(&pattern(other)) && pattern(other).overlaps(&bucket), "{other}");
        }
        for other in ["s3.amazonaws.com", "*.ec2.amazonaws.com", "*.xs3.amazonaws.com"] {
            assert!(!bucket.overlaps(&pattern(other)) && !pattern(other).overlaps(&bucket), "{other}");
        }
    }

    #[test]
    fn sandbox_names_are_slugged() {
        assert_eq!(SandboxId::slug("My Project!").unwrap().as_str(), "my-project");
        assert_eq!(SandboxId::slug("../../etc").unwrap().as_str(), "etc");
        assert_eq!(SandboxId::slug("日本"), None);
        assert!("../x".parse::<SandboxId>().is_err());
        assert!("a".repeat(64).parse::<SandboxId>().is_err());
    }

    #[test]
    fn typed_names_are_kept_when_they_can_be_and_told_apart_when_not() {
        let typed = |text: &str| SandboxId::from_typed(text).to_string();
        assert_eq!(typed("my-project"), "my-project");
        assert_eq!(typed("My Project"), "my-project");
        assert_eq!(typed(&"a".repeat(63)), "a".repeat(63));
        assert_eq!(typed("../../etc"), "etc-74ccf3c5b4");
        assert_eq!(typed("日本"), "sandbox-cf2abf0c5b");
        assert_ne!(typed("日本"), typed("東京"));
        assert_ne!(typed("etc!"), typed("etc?"));
        assert_ne!(typed(&"a".repeat(64)), typed(&"a".repeat(65)));
        assert_eq!(typed(&"a".repeat(64)).len(), 63);
        assert_ne!(typed(""), typed("."));
    }

    proptest! {
        #[test]
        fn parsing_a_host_never_panics_and_is_idempotent(text in "\\PC{0,80}|[a-zA-Z0-9._-]{0,80}") {
            if let Ok(parsed) = text.parse::<Host>() {
                prop_assert!(parsed.as_str().parse::<std::net::IpAddr>().is_err());
                prop_assert_eq!(parsed.as_str().parse::<Host>().unwrap(), parsed);
            }
        }

        #[test]
        fn whatever_is_typed_is_a_name(text in "\\PC{0,100}|[a-zA-Z0-9 ._/-]{0,100}|(\\.\\./){1,30}", other in "\\PC{0,20}") {
            let name = SandboxId::from_typed(&text);
            prop_assert_eq!(&name.as_str().parse::<SandboxId>().unwrap(), &name);
            prop_assert_eq!(&SandboxId::from_typed(name.as_str()), &name, "a name stands for itself");
            let easy = |text: &str| text.to_ascii_lowercase().replace(' ', "-");
            for other in [other, format!("{text}!"), format!("/{text}"), text.replace(['.', '/'], "-")] {
                if easy(&other) != easy(&text) {
                    prop_assert_ne!(&SandboxId::from_typed(&other), &name, "{:?} and {:?}", text, other);
                }
            }
        }

        #[test]
        fn slugs_are_valid(text in "\\PC{0,100}") {
            if let Some(slug) = SandboxId::slug(&text) {
                prop_assert_eq!(slug.as_str().parse::<SandboxId>().unwrap(), slug);
            }
        }
    }
}
