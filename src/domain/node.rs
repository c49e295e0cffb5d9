//! Foreign Envoys: who they are, and whether they still may be.
//!
//! A node is enrolled once, by `agent-creds bootstrap --xds`, for one gateway. Every certificate that it has, the first and
//! those by which it is renewed, names that enrolment; so to revoke the enrolment is to revoke them all.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use super::names::SandboxId;

/// How the URI of a node's certificate begins.
const SCHEME: &str = "agent-creds://node/";
/// The longest [`NodeId`], in bytes.
const MAX_ID: usize = 63;

/// A `NodeId` names one node: 1 to 63 letters, digits, `-`, `_` and `.`, beginning with a letter or a digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

/// Why a text is not a [`NodeId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a node's id is 1 to 63 letters, digits, `-`, `_` and `.`, and begins with a letter or a digit")]
pub struct NodeIdError;

impl NodeId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        let is_plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if begins && is_plain && text.len() <= MAX_ID { Ok(Self(text.into())) } else { Err(NodeIdError) }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An `EnrolmentId` tells one enrolment of a node from all others: 16 bytes, as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnrolmentId([u8; 16]);

/// What is not an [`EnrolmentId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an enrolment's id is 32 lower-case hexadecimal digits")]
pub struct EnrolmentIdError;

impl EnrolmentId {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<[u8; 16]> for EnrolmentId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl FromStr for EnrolmentId {
    type Err = EnrolmentIdError;

    fn from_str(text: &str) -> Result<Self, EnrolmentIdError> {
        let is_id = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let id = is_id.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        id.map(|id| Self(id.to_be_bytes())).ok_or(EnrolmentIdError)
    }
}

impl fmt::Display for EnrolmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for EnrolmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who a node is: what its certificate says, and nothing that it says itself.
///
/// Its text is a URI, `agent-creds://node/ID?gateway=NAME&enrolment=HEX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The node.
    pub id: NodeId,
    /// The gateway it serves, and the only one whose configuration and credentials it may have to do with.
    pub gateway: SandboxId,
    /// By which enrolment.
    pub enrolment: EnrolmentId,
}

/// What is not the text of a [`NodeIdentity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this does not say which node it is about")]
pub struct NodeIdentityError;

impl fmt::Display for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}?gateway={}&enrolment={}", self.id, self.gateway, self.enrolment)
    }
}

impl FromStr for NodeIdentity {
    type Err = NodeIdentityError;

    fn from_str(text: &str) -> Result<Self, NodeIdentityError> {
        let rest = text.strip_prefix(SCHEME).ok_or(NodeIdentityError)?;
        let (id, rest) = rest.split_once("?gateway=").ok_or(NodeIdentityError)?;
        let (gateway, enrolment) = rest.split_once("&enrolment=").ok_or(NodeIdentityError)?;
        Ok(Self {
            id: id.parse().map_err(|_| NodeIdentityError)?,
            gateway: gateway.parse().map_err(|_| NodeIdentityError)?,
            enrolment: enrolment.parse().map_err(|_| NodeIdentityError)?,
        })
    }
}

/// What is known of a node's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It was enrolled as it says.
    Enrolled,
    /// It was, and was revoked.
    Revoked,
    /// It was not enrolled, or otherwise than it says.
    Unknown,
}

/// The nodes that were enrolled. Clones share them: what one sets, all go by from then on.
#[derive(Clone, Default)]
pub struct Enrolments(Arc<RwLock<HashMap<EnrolmentId, (NodeIdentity, bool)>>>);

impl Enrolments {
    /// Sets all that there are, each with whether it was revoked.
    pub fn set(&self, all: impl IntoIterator<Item = (NodeIdentity, bool)>) {
        let all = all.into_iter().map(|(identity, revoked)| (identity.enrolment, (identity, revoked))).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = all;
    }

    /// Whether this is a node that may connect. Unknown means no.
    pub fn standing(&self, identity: &NodeIdentity) -> Standing {
        match self.0.read().unwrap_or_else(PoisonError::into_inner).get(&identity.enrolment) {
            Some((known, revoked)) if known == identity => match revoked {
                true => Standing::Revoked,
                false => Standing::Enrolled,
            },
            Some(_) | None => Standing::Unknown,
        }
    }

    /// How many there are, the revoked ones included.
    pub fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Enrolments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Enrolments({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity(id: &str, gateway: &str, byte: u8) -> NodeIdentity {
        NodeIdentity { id: id.parse().unwrap(), gateway: gateway.parse().unwrap(), enrolment: [byte; 16].into() }
    }

    #[test]
    fn ids_are_plain() {
        for good in ["edge-1", "a", "9", "Host_1.example.com", &"x".repeat(63)] {
            assert_eq!(good.parse::<NodeId>().unwrap().as_str(), good);
        }
        for bad in ["", "*", "-a", ".a", "a b", "a/b", "a?gateway=x", "a&b", "é", "a\n", &"x".repeat(64)] {
            assert_eq!(bad.parse::<NodeId>(), Err(NodeIdError), "{bad:?}");
        }
    }

    #[test]
    fn an_identity_is_read_only_as_it_is_written() {
        let one = identity("edge-1", "ci", 0xab);
        let text = one.to_string();
        let hex = "ab".repeat(16);
        assert_eq!(text, format!("agent-creds://node/edge-1?gateway=ci&enrolment={hex}"));
        assert_eq!(text.parse(), Ok(one));
        for bad in [
            format!("agent-creds://server?gateway=ci&enrolment={hex}"),
            format!("agent-creds://node/?gateway=ci&enrolment={hex}"),
            format!("agent-creds://node/e?gateway=*&enrolment={hex}"),
            format!("agent-creds://node/e?gateway=ci&gateway=x&enrolment={hex}"),
            format!("agent-creds://node/e?gateway=ci&enrolment={}", hex.to_uppercase()),
            format!("agent-creds://node/e?gateway=ci&enrolment={hex}&enrolment={hex}"),
            format!("AGENT-CREDS://node/e?gateway=ci&enrolment={hex}"),
            "agent-creds://node/e?gateway=ci".to_owned(),
            String::new(),
        ] {
            assert_eq!(bad.parse::<NodeIdentity>(), Err(NodeIdentityError), "{bad}");
        }
    }

    #[test]
    fn only_who_was_enrolled_as_it_says_has_standing() {
        let enrolments = Enrolments::default();
        let (one, two) = (identity("edge-1", "ci", 1), identity("edge-1", "ci", 2));
        assert_eq!(enrolments.standing(&one), Standing::Unknown);
        let shared = enrolments.clone();
        shared.set([(one.clone(), false), (two.clone(), true)]);
        assert_eq!(enrolments.standing(&one), Standing::Enrolled);
        assert_eq!(enrolments.standing(&two), Standing::Revoked);
        for other in [identity("edge-2", "ci", 1), identity("edge-1", "prod", 1), identity("edge-1", "ci", 3)] {
            assert_eq!(enrolments.standing(&other), Standing::Unknown, "{other}");
        }
        shared.set([(one.clone(), true)]);
        assert_eq!(enrolments.standing(&one), Standing::Revoked);
        assert_eq!(enrolments.standing(&two), Standing::Unknown, "forgotten");
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(text in "(agent-creds://node/)?[a-z?&=*./-]{0,12}(\\?gateway=)?[a-z&?=-]{0,6}(&enrolment=)?[0-9a-f]{30,34}") {
            if let Ok(identity) = text.parse::<NodeIdentity>() {
                prop_assert_eq!(identity.to_string(), text);
            }
        }

        #[test]
        fn what_is_written_is_read(id in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}", gateway in "[a-z][a-z0-9._-]{0,30}[a-z0-9]", bytes: [u8; 16]) {
            if let (Ok(id), Ok(gateway)) = (id.parse(), gateway.parse()) {
                let identity = NodeIdentity { id, gateway, enrolment: bytes.into() };
                prop_assert_eq!(identity.to_string().parse(), Ok(identity));
            }
        }
    }
}
