//! Command-line programs that need no server. Composition roots, like `server`: they bring the domain and the state folder
//! together. What comes from the process (arguments, environment, clock, streams) is passed in by `bin/*`.

#[cfg(feature = "host")]
pub mod actl;
#[cfg(feature = "host")]
pub mod adev;
pub mod aenv;
pub mod caveats;
pub mod cdp_proxy;
#[cfg(feature = "host")]
mod doctor;
#[cfg(feature = "host")]
mod fleet;
#[cfg(feature = "host")]
mod folders;
pub mod inspect;
#[cfg(feature = "host")]
mod issued;
#[cfg(feature = "host")]
mod keys;
#[cfg(feature = "host")]
mod man;
#[cfg(feature = "host")]
pub mod mint;
pub mod moment;
pub mod narrow;
#[cfg(feature = "host")]
mod nodes;
#[cfg(feature = "host")]
mod secret;
#[cfg(feature = "host")]
pub mod server;
#[cfg(feature = "host")]
mod status;
#[cfg(feature = "host")]
mod tui;

use std::ffi::OsString;

use zeroize::Zeroizing;

/// The environment variables these programs read.
#[derive(Default)]
pub struct Environment {
    /// `MACAROON_SIGNING_KEY`: the key in base64.
    pub signing_key: Option<Zeroizing<String>>,
    /// `TOKEN_PREFIX`.
    pub token_prefix: Option<String>,
    /// `XDG_STATE_HOME`.
    pub xdg_state_home: Option<OsString>,
    /// `HOME`.
    pub home: Option<OsString>,
    /// `USER`, or `LOGNAME`: who asks, for the log of tokens. Nothing rests on it.
    pub user: Option<String>,
}

impl Environment {
    /// Reads the variables of this process. A value that is not UTF-8 is kept as far as it is: it will be refused.
    pub fn of_process() -> Self {
        let text = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        Self {
            signing_key: text("MACAROON_SIGNING_KEY").map(Zeroizing::new),
            token_prefix: text("TOKEN_PREFIX").filter(|prefix| !prefix.is_empty()),
            xdg_state_home: std::env::var_os("XDG_STATE_HOME"),
            home: std::env::var_os("HOME"),
            user: text("USER").or_else(|| text("LOGNAME")).filter(|user| !user.is_empty()),
        }
    }

    /// `MACAROON_SIGNING_KEY`, if it is set.
    pub fn signing_key(&self) -> Option<&str> {
        self.signing_key.as_ref().map(|text| text.as_str())
    }

    /// Who asks, for the log of tokens: at most 64 characters, escaped.
    pub fn issuer(&self) -> String {
        self.issuer_by("mint")
    }

    /// The same, with the program that is used.
    fn issuer_by(&self, program: &str) -> String {
        let user = self.user.as_deref().unwrap_or("somebody");
        format!("{}, with {program}", user.chars().take(64).flat_map(char::escape_debug).collect::<String>())
    }
}
