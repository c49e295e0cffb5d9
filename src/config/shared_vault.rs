//! `[vault]` of an `agent-creds.toml`: the credentials are with another server.

use std::net::IpAddr;

use super::diagnostic::quoted;
use super::reader::Item;
use crate::domain::policy::{Address, Origin};

/// Where a server listens for others, when the file does not say: what the README has `serve --xds` listen on.
pub const SHARED_VAULT_PORT: u16 = 18000;

/// `[vault]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedVaultConfig {
    /// Where that server is reached (`serve --xds`).
    pub address: Address,
    /// The line of `host`.
    pub origin: Origin,
}

impl SharedVaultConfig {
    pub(super) fn read(item: &Item<'_, '_>) -> Option<Self> {
        let mut table = item.table()?;
        let read = table.required("host", "\"vault.example.com\"").and_then(|host| {
            let text = host.string()?;
            match Self::address_of(text) {
                Some(address) => Some(Self { address, origin: host.origin() }),
                None => {
                    let hint = format!(
                        "write the name or the address of its machine, as in \"vault.example.com\", with a port unless it is \
                         {SHARED_VAULT_PORT}: \"vault.example.com:443\""
                    );
                    host.wrong(format_args!("{} is no address of a vault", quoted(text)), Some(hint));
                    None
                }
            }
        });
        table.finish();
        read
    }

    /// Where the vault is that is called so: a name or an IP address, with the usual port unless it has one.
    pub fn address_of(text: &str) -> Option<Address> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        match bare.parse::<IpAddr>() {
            Ok(ip) => Some(Address::Ip((ip, SHARED_VAULT_PORT).into())),
            Err(_) => text.parse().ok().or_else(|| Some(Address::Name(text.parse().ok()?, SHARED_VAULT_PORT))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port_of_its_own_or_the_usual_one() {
        for (text, expected) in [
            ("vault.example.com", "vault.example.com:18000"),
            ("Vault.Example.com.", "vault.example.com:18000"),
            ("vault.example.com:443", "vault.example.com:443"),
            ("10.0.0.7", "10.0.0.7:18000"),
            ("10.0.0.7:1", "10.0.0.7:1"),
            ("[::1]", "[::1]:18000"),
            ("::1", "[::1]:18000"),
            ("[::1]:5", "[::1]:5"),
        ] {
            assert_eq!(SharedVaultConfig::address_of(text).unwrap().to_string(), expected, "{text}");
        }
        for bad in
            ["", " ", "https://vault.example.com", "a:0", "a:70000", "a b", "u@vault.example.com", "*.example.com"]
        {
            assert_eq!(SharedVaultConfig::address_of(bad), None, "{bad}");
        }
    }
}
