//! `policy.json`: what the server says this sandbox may do. The server replaces the file on each change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::domain::decision::Rules;
use crate::domain::macaroon::{Issuer, Keyring, TokenPrefix};
use crate::domain::names::{HostPattern, Instance, Method, SandboxId};
use crate::domain::policy::{Address, Limits, Origin, PathPattern, Policy, Upstream};

/// Where it is in every sandbox.
pub const PATH: &str = "/opt/agent-creds/policy.json";
/// The most bytes read of it: room for ten thousand upstreams with their limits.
const MAX_BYTES: u64 = 16 << 20;

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Not in a sandbox.
    #[error(
        "{} is not there: this is no sandbox. Start one with `adev console` on the host, in the folder of an \
         agent-creds.toml, and run aenv inside",
        .0.display()
    )]
    Missing(PathBuf),
    /// It is there, and cannot be read.
    #[error("cannot read {}", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// It is not what the server writes.
    #[error("{} is not a policy that this aenv understands; aenv and server must be of the same release", .0.display())]
    Malformed(PathBuf, #[source] Box<dyn std::error::Error + Send + Sync>),
}

#[derive(Deserialize)]
struct Raw {
    version: u32,
    sandbox: String,
    #[serde(default)]
    instance: Option<String>,
    token_prefix: String,
    strict: bool,
    #[serde(default)]
    generation: u64,
    #[serde(default)]
    problems: Vec<String>,
    #[serde(default)]
    host: Option<HostAccess>,
    #[serde(default)]
    vault: Option<String>,
    upstreams: Vec<RawUpstream>,
}

/// How the host is reached, and what it may be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HostAccess {
    /// Where plain HTTP leads to the server.
    pub address: SocketAddr,
    /// The ports on which programs in the sandbox are to find the host's browser; none when they are not.
    #[serde(default)]
    pub cdp_ports: BTreeSet<u16>,
}

#[derive(Deserialize)]
struct RawUpstream {
    host: String,
    methods: Option<Vec<String>>,
    paths: Option<Vec<String>>,
}

/// What the server says, parsed.
#[derive(Debug)]
pub struct SandboxPolicy {
    /// The sandbox's name, which life of it this is, and its upstreams with their limits.
    pub policy: Policy,
    /// What tokens begin with.
    pub prefix: TokenPrefix,
    /// Whether a request without a token is refused.
    pub strict: bool,
    /// Counts the changes of the server's configuration.
    pub generation: u64,
    /// How the host is reached; `None` from a server that does not say.
    pub host: Option<HostAccess>,
    /// What is wrong with `agent-creds.toml` as it stands; what is in force is its last good version.
    pub problems: Vec<String>,
}

impl SandboxPolicy {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => PolicyError::Missing(path.to_owned()),
            _ => PolicyError::Unreadable(path.to_owned(), error),
        };
        let mut text = String::new();
        let file = File::open(path).map_err(unreadable)?;
        // A file that was cut off is malformed, and said to be.
        file.take(MAX_BYTES).read_to_string(&mut text).map_err(unreadable)?;
        Self::parse(&text).map_err(|error| PolicyError::Malformed(path.to_owned(), error))
    }

    fn parse(text: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let raw: Raw = serde_json::from_str(text)?;
        if raw.version != 1 {
            return Err(format!("its version is {}, and 1 is understood", raw.version).into());
        }
        let mut upstreams = BTreeMap::new();
        for raw in raw.upstreams {
            let limits = Limits {
                methods: raw.methods.map(|all| all.iter().map(|m| m.parse::<Method>()).collect()).transpose()?,
                paths: raw.paths.map(|all| all.iter().map(|p| p.parse::<PathPattern>()).collect()).transpose()?,
            };
            let upstream = Upstream { limits, address: None, private: false, ca: None, origin: nowhere() };
            upstreams.insert(raw.host.parse::<HostPattern>()?, upstream);
        }
        let id: SandboxId = raw.sandbox.parse()?;
        let instance = raw.instance.map(|instance| instance.parse::<Instance>()).transpose()?;
        let vault = raw.vault.map(|vault| vault.parse::<Address>()).transpose()?;
        // Where it listens plays no part in decisions.
        let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Ok(Self {
            policy: Policy { id, instance, listen, origin: nowhere(), upstreams, vault },
            prefix: raw.token_prefix.parse()?,
            strict: raw.strict,
            generation: raw.generation,
            host: raw.host,
            problems: raw.problems,
        })
    }

    /// Whose tokens are used here.
    pub fn issuer(&self) -> Issuer<'static> {
        if self.policy.vault.is_some() { Issuer::Shared } else { Issuer::Own }
    }

    /// The rules as the vault has them, but for the keys.
    pub fn rules(&self) -> Rules {
        Rules::new([&self.policy], Keyring::default(), self.prefix.clone(), self.strict)
    }
}

/// The file does not say where in `agent-creds.toml` an upstream is.
fn nowhere() -> Origin {
    Origin { file: "agent-creds.toml".into(), line: 0 }
}

#[cfg(test)]
impl SandboxPolicy {
    /// For the tests of this module's siblings.
    pub(super) fn of(text: &str) -> Self {
        Self::parse(text).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{ "version": 1, "sandbox": "box", "instance": "00ff", "token_prefix": "acm_", "strict": true,
        "generation": 7, "problems": ["x"], "later": 1, "vault": "vault.example.com:18000", "host": { "address": "10.0.0.1:80", "cdp_ports": [9222] }, "upstreams": [
        { "host": "api.stripe.com", "methods": ["GET"], "paths": ["/v1/**"] }, { "host": "a.example" } ] }"#;

    #[test]
    fn a_policy_is_read_whole_or_not_at_all() {
        let read = SandboxPolicy::of(GOOD);
        assert_eq!((read.policy.id.as_str(), read.strict, read.generation), ("box", true, 7));
        assert_eq!(read.policy.upstreams.len(), 2);
        let host = read.host.unwrap();
        assert_eq!((host.address.to_string().as_str(), host.cdp_ports.len()), ("10.0.0.1:80", 1));
        let free = &read.policy.upstreams[&"a.example".parse::<HostPattern>().unwrap()];
        assert_eq!(free.limits, Limits::default(), "no list is no limit");
        for (from, to) in [
            ("\"version\": 1", "\"version\": 2"),
            ("\"box\"", "\"../box\""),
            ("00ff", "00/ff"),
            ("acm_", ""),
            ("api.stripe.com", "1.2.3.4"),
            ("\"GET\"", "\"G T\""),
            ("\"/v1/**\"", "\"v1\""),
            ("\"strict\": true,", ""),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[9222]", "[92220]"),
            ("example.com:18000", "example.com"),
            ("} ] }", "} ]"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            assert!(SandboxPolicy::parse(&GOOD.replacen(from, to, 1)).is_err(), "{from} → {to}");
        }
    }
}
