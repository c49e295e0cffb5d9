//! What a token may say about its own use, as it is read ([`Caveat`]) and as it is written ([`Restriction`]).

use std::fmt;

use bytes::Bytes;

use super::codec::{CodecError, CodecProblem, Reader, put_array, put_signed, put_str, put_unsigned};
use super::token::TokenError;
use crate::domain::names::{HostPattern, Instance, Method, SandboxId};
use crate::domain::policy::PathPattern;

const VALIDITY_WINDOW: u64 = 4;
const THIRD_PARTY: u64 = 11;
const BIND_TO_PARENT: u64 = 12;
const HOSTS: u64 = (1 << 32) + 1;
const METHODS: u64 = (1 << 32) + 2;
const PATHS: u64 = (1 << 32) + 3;
const SANDBOX: u64 = (1 << 48) + 1;

/// A caveat as it was read from a token: well-formed, and not more. Its texts are what somebody wrote, of any content.
///
/// Each one narrows the token; of several of one kind, all must hold. Cloning is cheap: the content is shared.
#[derive(Clone, PartialEq, Eq)]
pub enum Caveat {
    /// Usable from `not_before` to `not_after`, both included, in Unix seconds.
    ValidityWindow {
        /// The first second.
        not_before: i64,
        /// The last second.
        not_after: i64,
    },
    /// Usable for these hosts: exact names or `*.` and a name, in any case.
    Hosts(Texts),
    /// Usable with these methods, in any case.
    Methods(Texts),
    /// Usable for paths that match one of these patterns.
    Paths(Texts),
    /// Usable from this sandbox.
    Sandbox(Text),
    /// Usable together with a discharge.
    ThirdParty(ThirdParty),
    /// Of a discharge: usable with the token whose tail's SHA-256 begins like this, or with what that was narrowed to.
    BindToParent(Bytes),
}

/// Who must discharge a token, and how the discharge is recognised.
#[derive(Clone, PartialEq, Eq)]
pub struct ThirdParty {
    /// The third party's name for itself.
    pub location: Text,
    /// The discharge's key, sealed under the tail of the token before this caveat.
    pub verifier_key: Bytes,
    /// What the third party reads; the discharge's key id.
    pub ticket: Bytes,
}

impl Caveat {
    /// Reads the type and body of one caveat at `reader`, which reads `whole`.
    ///
    /// Errors: a body of another shape, and [`TokenError::UnsupportedCaveat`]: a restriction that is not understood
    /// cannot be enforced.
    pub(super) fn read(reader: &mut Reader<'_>, whole: &Bytes) -> Result<Self, TokenError> {
        Ok(match reader.unsigned()? {
            VALIDITY_WINDOW => {
                reader.array_of(2)?;
                Self::ValidityWindow { not_before: reader.signed()?, not_after: reader.signed()? }
            }
            HOSTS => Self::Hosts(Texts::read(reader, whole)?),
            METHODS => Self::Methods(Texts::read(reader, whole)?),
            PATHS => Self::Paths(Texts::read(reader, whole)?),
            SANDBOX => {
                reader.array_of(1)?;
                Self::Sandbox(Text::read(reader, whole)?)
            }
            THIRD_PARTY => {
                reader.array_of(3)?;
                Self::ThirdParty(ThirdParty {
                    location: Text::read(reader, whole)?,
                    verifier_key: whole.slice(reader.bin()?),
                    ticket: whole.slice(reader.bin()?),
                })
            }
            BIND_TO_PARENT => {
                let start = reader.position();
                let range = reader.bin()?;
                // No prefix at all would bind to anything; SHA-256 has 32 bytes.
                if range.is_empty() || range.len() > 32 {
                    reader.error::<()>(start, CodecProblem::Length)?;
                }
                Self::BindToParent(whole.slice(range))
            }
            other => return Err(TokenError::UnsupportedCaveat(other)),
        })
    }

    /// The last second of a validity window, in Unix seconds.
    pub(super) fn not_after(&self) -> Option<i64> {
        match self {
            Self::ValidityWindow { not_after, .. } => Some(*not_after),
            _ => None,
        }
    }
}

/// One line for a human, without keys and tickets.
impl fmt::Display for Caveat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ValidityWindow { not_before, not_after } => {
                write!(f, "valid from {} to {}", UnixTime(*not_before), UnixTime(*not_after))
            }
            Self::Hosts(hosts) => write!(f, "hosts {hosts}"),
            Self::Methods(methods) => write!(f, "methods {methods}"),
            Self::Paths(paths) => write!(f, "paths {paths}"),
            Self::Sandbox(sandbox) => write!(f, "sandbox {sandbox}"),
            Self::ThirdParty(third_party) => write!(f, "needs a discharge from {}", third_party.location),
            Self::BindToParent(_) => f.write_str("bound to its parent token"),
        }
    }
}

impl fmt::Debug for Caveat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Caveat({self})")
    }
}

/// UTF-8 as it stands in a token: any characters, escaped where shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(Bytes);

impl Text {
    pub(super) fn read(reader: &mut Reader<'_>, whole: &Bytes) -> Result<Self, CodecError> {
        Ok(Self(whole.slice(reader.str()?)))
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        utf8(&self.0)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().escape_debug().fmt(f)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// A list of texts, kept in the encoding it came in, so that reading a token allocates nothing for each.
#[derive(Clone, PartialEq, Eq)]
pub struct Texts {
    encoded: Bytes,
    count: usize,
}

impl Texts {
    /// Reads `[[text, …]]`.
    fn read(reader: &mut Reader<'_>, whole: &Bytes) -> Result<Self, CodecError> {
        reader.array_of(1)?;
        let count = reader.array()?;
        let start = reader.position();
        for _ in 0..count {
            reader.str()?;
        }
        Ok(Self { encoded: whole.slice(start..reader.position()), count })
    }

    /// The texts, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let mut reader = Reader::new(&self.encoded);
        // `read` has seen every one; were one unreadable, the list would end early, which allows less.
        std::iter::from_fn(move || reader.str().ok().map(|range| utf8(&self.encoded[range])))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none, so that nothing is allowed.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// `a, b, c`, escaped.
impl fmt::Display for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (index, text) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", text.escape_debug())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Bytes the reader found to be UTF-8. Empty otherwise: an empty text is no host, method, path or sandbox.
fn utf8(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Unix seconds, shown as RFC 3339 in UTC, or as the number when the year has more than four digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixTime(
    /// Seconds since 1970.
    pub i64,
);

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use time::format_description::well_known::Rfc3339;
        let text = time::OffsetDateTime::from_unix_timestamp(self.0).ok().and_then(|date| date.format(&Rfc3339).ok());
        match text {
            Some(text) => f.write_str(&text),
            None => write!(f, "Unix time {}", self.0),
        }
    }
}

/// A caveat to put on a token: only what means something can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restriction {
    /// Usable from `not_before` to `not_after`, both included, in Unix seconds.
    ValidityWindow {
        /// The first second.
        not_before: i64,
        /// The last second.
        not_after: i64,
    },
    /// Usable for these hosts; none allows nothing.
    Hosts(Vec<HostPattern>),
    /// Usable with these methods; none allows nothing.
    Methods(Vec<Method>),
    /// Usable for these paths; none allows nothing.
    Paths(Vec<PathPattern>),
    /// Usable from this sandbox.
    Sandbox(SandboxId),
    /// Usable from this sandbox while it lives: not after it was stopped and launched again. Written `NAME/INSTANCE`.
    Instance(SandboxId, Instance),
}

impl Restriction {
    /// Appends type and body.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::ValidityWindow { not_before, not_after } => {
                put_unsigned(out, VALIDITY_WINDOW);
                put_array(out, 2);
                put_signed(out, *not_before);
                put_signed(out, *not_after);
            }
            Self::Hosts(hosts) => put_texts(out, HOSTS, hosts, |out, host| put_str(out, &host.to_string())),
            Self::Methods(methods) => put_texts(out, METHODS, methods, |out, method| put_str(out, method.as_str())),
            Self::Paths(paths) => put_texts(out, PATHS, paths, |out, path| put_str(out, path.as_str())),
            Self::Sandbox(sandbox) => {
                put_unsigned(out, SANDBOX);
                put_array(out, 1);
                put_str(out, sandbox.as_str());
            }
            Self::Instance(sandbox, instance) => {
                put_unsigned(out, SANDBOX);
                put_array(out, 1);
                put_str(out, &format!("{sandbox}/{instance}"));
            }
        }
    }
}

fn put_texts<T>(out: &mut Vec<u8>, kind: u64, items: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    put_unsigned(out, kind);
    put_array(out, 1);
    put_array(out, items.len());
    for item in items {
        put(out, item);
    }
}
