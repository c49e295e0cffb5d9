//! What the server and the guard tell each other, in lines of JSON.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Isolation, NetKey, ServerPrefix};

/// What the server wants, all of it: what is not in `hold` goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardCommand {
    /// Comes back in the answer.
    pub revision: u64,
    /// Whose tables and rules these are; every key in `hold` begins with it.
    pub server: ServerPrefix,
    /// The sandboxes to isolate.
    pub hold: Vec<Isolation>,
    /// Sandboxes whose network Docker has removed: should their bridge still be there, it goes, unless something is connected to
    /// it. Done once, when the command comes.
    pub gone: Vec<NetKey>,
}

/// What the guard says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum GuardReport {
    /// Everything that the command with this revision asks for is applied and was read back.
    Holding(u64),
    /// Something could not be done. The guard goes on trying; when it succeeds, it says `Repaired`, and `Holding` if it had
    /// not yet said so.
    Failed {
        /// Of the command that it is about; `None` when a line was not understood (and changed nothing).
        revision: Option<u64>,
        /// The sandbox whose isolation is not whole; `None`: all of them are in doubt.
        key: Option<NetKey>,
        /// Why: printable, of bounded length.
        message: String,
    },
    /// A layer of a sandbox that was held is gone or was changed. `Repaired` or `Failed` follows.
    Lost {
        /// The sandbox.
        key: NetKey,
        /// Which layer.
        what: Layer,
    },
    /// Everything of this sandbox is in place again.
    Repaired {
        /// The sandbox; `None` after a failure that was about all of them.
        key: Option<NetKey>,
    },
}

/// A layer of the isolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Layer {
    /// The nftables table.
    #[serde(rename = "nft table")]
    NftTable,
    /// The policy-routing rules.
    #[serde(rename = "ip rules")]
    IpRules,
    /// The packet filter on the bridge.
    #[serde(rename = "bridge filter")]
    BridgeFilter,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NftTable => "nft table",
            Self::IpRules => "ip rules",
            Self::BridgeFilter => "bridge filter",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_agreed() {
        let command = r#"{"revision":3,"server":"01234","hold":[],"gone":[]}"#;
        let parsed: GuardCommand = serde_json::from_str(command).unwrap();
        assert_eq!(serde_json::to_string(&parsed).unwrap(), command);
        for bad in [
            r#"{"revision":3,"server":"01234","hold":[],"gone":[],"more":1}"#,
            r#"{"revision":3,"server":"0123","hold":[],"gone":[]}"#,
            r#"{"revision":-1,"server":"01234","hold":[],"gone":[]}"#,
            r#"{"revision":3,"server":"01234","gone":[]}"#,
            r#"{"revision":3,"server":"01234","hold":[]}"#,
        ] {
            assert!(serde_json::from_str::<GuardCommand>(bad).is_err(), "{bad}");
        }
        let key: NetKey = "0123456789abc".parse().unwrap();
        let message = "why".to_owned();
        for (report, line) in [
            (GuardReport::Holding(3), r#"{"holding":3}"#),
            (
                GuardReport::Failed { revision: Some(3), key: None, message },
                r#"{"failed":{"revision":3,"key":null,"message":"why"}}"#,
            ),
            (
                GuardReport::Lost { key: key.clone(), what: Layer::NftTable },
                r#"{"lost":{"key":"0123456789abc","what":"nft table"}}"#,
            ),
            (GuardReport::Repaired { key: Some(key) }, r#"{"repaired":{"key":"0123456789abc"}}"#),
        ] {
            assert_eq!(serde_json::to_string(&report).unwrap(), line);
            assert_eq!(serde_json::from_str::<GuardReport>(line).unwrap(), report);
        }
    }
}
