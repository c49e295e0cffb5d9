//! The DNS of a sandbox: names that may be reached resolve to the bridge's gateway, where the sandbox's listener is; all
//! others do not exist. Answers are made here alone: no query ever leaves, so none can carry data out.
//!
//! ```text
//! packet ─ message::reply (pure: parse, Zone::answer, write) ─ packet
//!    ▲                                                           │
//!    └──────────── Responder: UDP and TCP on one port ◀──────────┘
//! ```

mod message;
mod responder;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use hickory_server::proto::rr::{Name, RecordType};

use crate::domain::names::{Host, HostPattern};

pub use message::reply;
pub use responder::{OnQuery, Responder};

/// Seconds for which an answer may be cached: short, for an edit of the allowlist is to be seen at once.
const TTL: u32 = 5;
/// The most characters of a name in a [`Query`].
const NAME_SHOWN: usize = 255;

/// The names that exist for one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// What they all resolve to: the gateway of the sandbox's bridge.
    pub address: Ipv4Addr,
    /// Hosts that may be reached.
    pub names: BTreeSet<Host>,
    /// Wildcards that may be reached.
    pub patterns: Vec<HostPattern>,
}

/// What a zone says to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The name resolves to this address.
    Address(Ipv4Addr),
    /// The name may be reached, but has no record of this type: the client goes on with the next type.
    NoData,
    /// There is no such name.
    NoSuchName,
}

/// A query that was answered, for counting and logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The name in lower case, at most 256 characters, all of them printable ASCII but for a `…` where it was cut. Bytes
    /// that no host name has are written `\DDD`.
    pub name: String,
    /// The type, as in `AAAA` or `TYPE65280`.
    pub kind: String,
    /// Whether the name is one that may be reached.
    pub allowed: bool,
}

impl Zone {
    /// The answer to a question of class IN. The case of the name does not matter.
    pub fn answer(&self, name: &Name, kind: RecordType) -> Verdict {
        match (self.knows(name), kind) {
            (false, _) => Verdict::NoSuchName,
            (true, RecordType::A) => Verdict::Address(self.address),
            (true, _) => Verdict::NoData,
        }
    }

    fn knows(&self, name: &Name) -> bool {
        let mut text = String::with_capacity(Name::MAX_LENGTH);
        for label in name.iter() {
            // A dot within a label must not look like one between labels.
            if label.contains(&b'.') {
                return false;
            }
            let Ok(label) = str::from_utf8(label) else { return false };
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(label);
        }
        text.make_ascii_lowercase();
        if self.names.contains(text.as_str()) {
            return true;
        }
        !self.patterns.is_empty()
            && text.parse().is_ok_and(|host: Host| self.patterns.iter().any(|pattern| pattern.matches(&host)))
    }
}

impl Query {
    fn new(name: &Name, kind: RecordType, allowed: bool) -> Self {
        let kind = match kind {
            RecordType::Unknown(number) => format!("TYPE{number}"),
            known => known.to_string(),
        };
        Self { name: shown(name), kind, allowed }
    }
}

/// The name for people and logs: whatever a client asked for, no control character is in it, and it is bounded.
fn shown(name: &Name) -> String {
    let mut text = String::new();
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for &byte in label {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'*' => {
                    text.push(char::from(byte.to_ascii_lowercase()));
                }
                _ => text.push_str(&format!("\\{byte:03}")),
            }
        }
    }
    if text.is_empty() {
        text.push('.');
    }
    if text.len() > NAME_SHOWN {
        text.truncate(NAME_SHOWN);
        text.push('…');
    }
    text
}
