//! Caveats of a token as `mint inspect` and `aenv` show them.

use serde_json::{Value, json};

use super::moment::between;
use crate::domain::macaroon::{Caveat, Macaroon, Token};

/// One caveat as an object with one key, its kind; times in Unix seconds.
pub fn caveat_as_json(caveat: &Caveat) -> Value {
    match caveat {
        Caveat::ValidityWindow { not_before, not_after } => json!({ "validity_window": [not_before, not_after] }),
        Caveat::Hosts(hosts) => json!({ "hosts": hosts.iter().collect::<Vec<_>>() }),
        Caveat::Methods(methods) => json!({ "methods": methods.iter().collect::<Vec<_>>() }),
        Caveat::Paths(paths) => json!({ "paths": paths.iter().collect::<Vec<_>>() }),
        Caveat::Sandbox(sandbox) => json!({ "sandbox": sandbox.as_str() }),
        Caveat::ThirdParty(third_party) => json!({ "third_party": third_party.location.as_str() }),
        Caveat::BindToParent(_) => json!({ "bound_to_parent": true }),
    }
}

/// When all validity windows of a token and its discharges hold.
pub struct Window {
    /// The first second, in Unix seconds.
    pub not_before: Option<i64>,
    /// The last second, in Unix seconds.
    pub not_after: Option<i64>,
}

impl Window {
    /// Reads the windows, which nobody has verified.
    pub fn of(token: &Token) -> Self {
        let all = || std::iter::once(&token.macaroon).chain(&token.discharges).flat_map(Macaroon::unverified_caveats);
        let not_before = all().filter_map(|caveat| match caveat {
            Caveat::ValidityWindow { not_before, .. } => Some(*not_before),
            _ => None,
        });
        Self { not_before: not_before.max(), not_after: token.unverified_expiry() }
    }

    /// `valid`, `expired` or `not yet valid`.
    pub fn state(&self, now: i64) -> &'static str {
        if self.not_after.is_some_and(|not_after| now > not_after) {
            "expired"
        } else if self.not_before.is_some_and(|not_before| now < not_before) {
            "not yet valid"
        } else {
            "valid"
        }
    }

    /// The same for people, with how long that lasts.
    pub fn describe(&self, now: i64) -> String {
        match self.state(now) {
            "expired" => format!("expired {} ago", between(self.not_after.unwrap_or(now), now)),
            "not yet valid" => format!("not yet valid, begins in {}", between(now, self.not_before.unwrap_or(now))),
            state => match self.not_after {
                Some(not_after) => format!("{state}, expires in {}", between(now, not_after)),
                None => format!("{state}, never expires"),
            },
        }
    }
}
