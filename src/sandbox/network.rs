//! The isolation of a sandbox's network: what it is, as data, and the guard that holds it in the kernel.
//!
//! ```text
//!  sandbox ── BRIDGE ──▶ nft table      spoofed, IPv6, not TCP, not DNS: dropped · DNS → G:15053 · other TCP → G:15001
//!                          │            (one atomic table: `nft`)
//!                          ▼
//!                        policy rules   to G:15001 and G:15053: local · all else from BRIDGE: dropped (`rules`)
//!                          │            ahead of these, on the bridge, a packet filter for what is not routed (`filter`)
//!                          ▼
//!                        Envoy's listener and the DNS responder of this sandbox, on its gateway address G
//! ```
//!
//! The layers are independent: each alone leaves no way to anything but the two ports. `guard` applies them, reads them
//! back, watches them and repairs them. It runs next to the kernel that it guards (`aenv guard`, in a container with the
//! host's network), and speaks with the server in lines of JSON: [`GuardCommand`] and [`GuardReport`].

mod filter;
pub mod guard;
mod nft;
mod protocol;
mod rules;

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::protocol::{GuardCommand, GuardReport, Layer};

/// Hex digits of a server's id in a [`NetKey`].
const SERVER_DIGITS: usize = 5;
/// Hex digits of a [`NetKey`]: with `ac` before them they just fit an interface's name (15 characters).
const KEY_DIGITS: usize = 13;

/// What is no [`NetKey`], or no [`Isolation`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsolationError {
    /// Not 13 lower-case hex digits.
    #[error("a network key is {KEY_DIGITS} lower-case hex digits")]
    Key,
    /// Not 5 lower-case hex digits.
    #[error("a server's prefix is {SERVER_DIGITS} lower-case hex digits")]
    Server,
    /// A subnet with host bits set, too small for a gateway and a sandbox, or not of a private network.
    #[error("{0}/{1} is not the subnet of a sandbox: it is private, has no host bits, and a length of 8 to 30")]
    Subnet(Ipv4Addr, u8),
    /// A gateway that is no host's address in its subnet.
    #[error("the gateway {0} is not the address of a host in its subnet")]
    Gateway(Ipv4Addr),
    /// Both ports are the same, or one is 0.
    #[error("listener port {0} and DNS port {1} are two different ports, neither of them 0 or 53")]
    Ports(u16, u16),
}

/// 13 lower-case hex digits that name what is a sandbox's in the kernel: 5 of its server's id, 8 of a hash of its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetKey(String);

/// The first 5 hex digits of a server's id: a guard touches only what carries them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerPrefix(String);

/// What isolates one sandbox. Its addresses fit together: the gateway is a host in the subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawIsolation", into = "RawIsolation")]
pub struct Isolation {
    key: NetKey,
    gateway: Ipv4Addr,
    subnet: (Ipv4Addr, u8),
    listener_port: u16,
    dns_port: u16,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIsolation {
    key: NetKey,
    gateway: Ipv4Addr,
    subnet: (Ipv4Addr, u8),
    listener_port: u16,
    dns_port: u16,
}

impl NetKey {
    /// The key of `sandbox` at the server with this id.
    ///
    /// # Errors
    /// When the id does not begin with 5 lower-case hex digits.
    pub fn new(server_id: &str, sandbox: &str) -> Result<Self, IsolationError> {
        let server = ServerPrefix::of(server_id)?;
        let hash = Sha256::new().chain_update(server_id).chain_update([0]).chain_update(sandbox).finalize();
        let digits: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self(server.0 + &digits))
    }

    /// The name of the bridge: 15 characters, the longest that an interface can have.
    pub fn bridge(&self) -> String {
        format!("ac{}", self.0)
    }

    /// The name of the nftables table, of the family `inet`.
    pub fn table(&self) -> String {
        format!("{}{}", nft::TABLE_PREFIX, self.0)
    }

    /// The first digits of the id of the server whose sandbox this is.
    pub fn server(&self) -> &str {
        &self.0[..SERVER_DIGITS]
    }
}

impl ServerPrefix {
    /// The prefix of a server's id.
    ///
    /// # Errors
    /// When it does not begin with 5 lower-case hex digits.
    pub fn of(server_id: &str) -> Result<Self, IsolationError> {
        server_id.get(..SERVER_DIGITS).ok_or(IsolationError::Server)?.parse()
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Isolation {
    /// The isolation of the sandbox with this key, whose bridge has the address `gateway` in `subnet` (network, length). Its
    /// TCP connections go to `gateway:listener_port`, its DNS queries to `gateway:dns_port`.
    ///
    /// # Errors
    /// When these do not fit together.
    pub fn new(
        key: NetKey,
        gateway: Ipv4Addr,
        subnet: (Ipv4Addr, u8),
        listener_port: u16,
        dns_port: u16,
    ) -> Result<Self, IsolationError> {
        let (network, length) = subnet;
        if !(8..=30).contains(&length) || !network.is_private() && !shared(network) {
            return Err(IsolationError::Subnet(network, length));
        }
        let hosts = u32::MAX >> length;
        if network.to_bits() & hosts != 0 {
            return Err(IsolationError::Subnet(network, length));
        }
        let host = gateway.to_bits() & hosts;
        if gateway.to_bits() & !hosts != network.to_bits() || host == 0 || host == hosts {
            return Err(IsolationError::Gateway(gateway));
        }
        // A port 53 of ours would be taken for a query that is still to be redirected.
        if listener_port == dns_port || [0, 53].contains(&listener_port) || [0, 53].contains(&dns_port) {
            return Err(IsolationError::Ports(listener_port, dns_port));
        }
        Ok(Self { key, gateway, subnet, listener_port, dns_port })
    }

    /// Names this sandbox's bridge and table.
    pub fn key(&self) -> &NetKey {
        &self.key
    }

    /// The bridge's address, on which the listener and the responder are.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }
}

/// 100.64.0.0/10: networks behind a carrier's address translation, which Docker's pools may use.
fn shared(network: Ipv4Addr) -> bool {
    let [first, second, ..] = network.octets();
    first == 100 && (64..128).contains(&second)
}

impl fmt::Display for NetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NetKey {
    type Err = IsolationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_hex(text, KEY_DIGITS) { Ok(Self(text.to_owned())) } else { Err(IsolationError::Key) }
    }
}

impl FromStr for ServerPrefix {
    type Err = IsolationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_hex(text, SERVER_DIGITS) { Ok(Self(text.to_owned())) } else { Err(IsolationError::Server) }
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl TryFrom<String> for NetKey {
    type Error = IsolationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NetKey> for String {
    fn from(key: NetKey) -> Self {
        key.0
    }
}

impl TryFrom<String> for ServerPrefix {
    type Error = IsolationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ServerPrefix> for String {
    fn from(prefix: ServerPrefix) -> Self {
        prefix.0
    }
}

impl TryFrom<RawIsolation> for Isolation {
    type Error = IsolationError;

    fn try_from(raw: RawIsolation) -> Result<Self, Self::Error> {
        Self::new(raw.key, raw.gateway, raw.subnet, raw.listener_port, raw.dns_port)
    }
}

impl From<Isolation> for RawIsolation {
    fn from(isolation: Isolation) -> Self {
        let Isolation { key, gateway, subnet, listener_port, dns_port } = isolation;
        Self { key, gateway, subnet, listener_port, dns_port }
    }
}

#[cfg(test)]
mod tests_support {
    use super::Isolation;

    pub(super) fn isolation() -> Isolation {
        let key = "0123456789abc".parse().unwrap();
        Isolation::new(key, [172, 20, 0, 1].into(), ([172, 20, 0, 0].into(), 16), 15001, 15053).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_names_bridge_and_table() {
        let key = NetKey::new("0123456789ab", "my project").unwrap();
        assert_eq!(key.to_string(), "0123443d89062");
        assert_eq!(key.bridge(), "ac0123443d89062");
        assert_eq!(key.table(), "agent_creds_0123443d89062");
        assert_eq!(key.server(), "01234");
        assert_ne!(key, NetKey::new("0123456789ab", "my projecT").unwrap());
        assert_ne!(key, NetKey::new("0123456789ac", "my project").unwrap());
        for id in ["", "0123", "0123G", "ABCDE", "äöüß"] {
            assert_eq!(NetKey::new(id, "x"), Err(IsolationError::Server), "{id}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_no_isolation() {
        let text = |gateway: &str, subnet: &str, ports: &str| {
            format!(r#"{{"key":"0123456789abc","gateway":"{gateway}","subnet":{subnet},{ports}}}"#)
        };
        let ports = r#""listener_port":15001,"dns_port":15053"#;
        let good = text("172.20.0.1", r#"["172.20.0.0",16]"#, ports);
        let isolation: Isolation = serde_json::from_str(&good).unwrap();
        assert_eq!(serde_json::to_string(&isolation).unwrap(), good);
        for bad in [
            text("172.21.0.1", r#"["172.20.0.0",16]"#, ports),
            text("172.20.0.0", r#"["172.20.0.0",16]"#, ports),
            text("172.20.255.255", r#"["172.20.0.0",16]"#, ports),
            text("172.20.0.1", r#"["172.20.0.1",16]"#, ports),
            text("172.20.0.1", r#"["172.20.0.0",31]"#, ports),
            text("172.20.0.1", r#"["172.20.0.0",255]"#, ports),
            text("8.8.8.8", r#"["8.8.8.0",24]"#, ports),
            text("127.0.0.1", r#"["127.0.0.0",8]"#, ports),
            text("0.0.0.1", r#"["0.0.0.0",0]"#, ports),
            text("172.20.0.1; flush ruleset", r#"["172.20.0.0",16]"#, ports),
            text("172.20.0.1", r#"["172.20.0.0",16]"#, r#""listener_port":1,"dns_port":1"#),
            text("172.20.0.1", r#"["172.20.0.0",16]"#, r#""listener_port":0,"dns_port":1"#),
            text("172.20.0.1", r#"["172.20.0.0",16]"#, r#""listener_port":1,"dns_port":2,"dns":3"#),
        ] {
            assert!(serde_json::from_str::<Isolation>(&bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn only_13_lower_case_hex_digits_are_a_key(text in "[0-9a-gA-F]{0,15}|.{0,20}") {
            let hex = text.len() == 13 && text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
            prop_assert_eq!(text.parse::<NetKey>().is_ok(), hex);
            prop_assert!(text.parse::<NetKey>().is_ok_and(|key| key.to_string() == text) || !hex);
        }

        #[test]
        fn any_name_gives_a_key_that_parses(sandbox in ".{0,64}") {
            let key = NetKey::new("fedcba987654", &sandbox).unwrap();
            prop_assert_eq!(key.to_string().parse::<NetKey>().unwrap(), key);
        }
    }
}
