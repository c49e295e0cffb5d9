//! What is in a token, for people and as JSON.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::caveats::{Window, caveat_as_json};
use crate::domain::macaroon::caveat::UnixTime;
#[cfg(feature = "host")]
use crate::domain::macaroon::verify;
use crate::domain::macaroon::{Macaroon, Token};
#[cfg(feature = "host")]
use crate::state::{SigningKeys, StateError};

/// What is known of a token's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// It holds under the key at hand.
    Valid,
    /// It does not, and why.
    Invalid(String),
    /// There is no key to tell by, and why.
    Unchecked(String),
}

impl Signature {
    /// Verifies the token when there are keys.
    #[cfg(feature = "host")]
    pub fn of(token: &Token, keys: Result<Option<SigningKeys>, StateError>) -> Self {
        match keys {
            Ok(Some(keys)) => match verify(token, &keys.keyring()) {
                Ok(_) => Self::Valid,
                Err(error) => Self::Invalid(error.to_string()),
            },
            Ok(None) => Self::Unchecked("there is no signing key here".to_owned()),
            Err(error) => Self::Unchecked(error.to_string()),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Invalid(_) => "invalid",
            Self::Unchecked(_) => "unchecked",
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Self::Valid => None,
            Self::Invalid(reason) | Self::Unchecked(reason) => Some(reason),
        }
    }
}

/// Prints what is in the token. `now` is the time in Unix seconds.
pub fn show(token: &Token, signature: &Signature, now: i64, as_json: bool, out: &mut dyn Write) -> io::Result<()> {
    if as_json { show_json(token, signature, now, out) } else { show_text(token, signature, now, out) }
}

fn show_text(token: &Token, signature: &Signature, now: i64, out: &mut dyn Write) -> io::Result<()> {
    let window = Window::of(token);
    let state = window.describe(now);
    let reason = signature.reason().map(|reason| format!(" ({reason})")).unwrap_or_default();
    writeln!(out, "id         {}", token.id())?;
    writeln!(out, "key id     {}", token.macaroon.key_id().escape_ascii())?;
    writeln!(out, "signature  {}{reason}", signature.name())?;
    writeln!(out, "time       {state}")?;
    show_caveats("caveats", &token.macaroon, out)?;
    for discharge in &token.discharges {
        let location = discharge.location().escape_debug();
        show_caveats(&format!("discharge from {location}"), discharge, out)?;
    }
    Ok(())
}

fn show_caveats(title: &str, macaroon: &Macaroon, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{title}")?;
    for caveat in macaroon.unverified_caveats() {
        writeln!(out, "  {caveat}")?;
    }
    if macaroon.unverified_caveats().next().is_none() {
        writeln!(out, "  none")?;
    }
    Ok(())
}

fn show_json(token: &Token, signature: &Signature, now: i64, out: &mut dyn Write) -> io::Result<()> {
    let window = Window::of(token);
    let date = |unix: Option<i64>| unix.map(|unix| UnixTime(unix).to_string());
    let discharges: Vec<Value> = token
        .discharges
        .iter()
        .map(|discharge| json!({ "location": discharge.location(), "caveats": caveats_as_json(discharge) }))
        .collect();
    let value = json!({
        "id": token.id().to_string(),
        "key_id": token.macaroon.key_id().escape_ascii().to_string(),
        "location": token.macaroon.location(),
        "signature": signature.name(),
        "signature_reason": signature.reason(),
        "time": window.state(now),
        "not_before": date(window.not_before),
        "expires": date(window.not_after),
        "caveats": caveats_as_json(&token.macaroon),
        "discharges": discharges,
    });
    writeln!(out, "{value:#}")
}

fn caveats_as_json(macaroon: &Macaroon) -> Vec<Value> {
    macaroon.unverified_caveats().map(caveat_as_json).collect()
}
