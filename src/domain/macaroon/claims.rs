//! What a token says of itself, taken at its word: to explain it to its holder, who has no key to verify it with.

use super::caveat::Caveat;
use super::check::{self, CaveatError, CaveatRequest};
use super::token::{Macaroon, Token, TokenError};

/// The caveats of a token and its discharges, as [`verify`](super::verify::verify) would find them if every signature
/// holds. Anybody can write them: nothing may be allowed because of them.
#[derive(Debug, Clone)]
pub struct Claims {
    caveats: Vec<Caveat>,
}

impl Claims {
    /// Reads the caveats.
    ///
    /// Errors: what `verify` finds without a key: a discharge that is missing, stray or itself in need of one, a binding
    /// where none belongs.
    pub fn of(token: &Token) -> Result<Self, TokenError> {
        let mut discharges: Vec<&Macaroon> = token.discharges.iter().collect();
        let mut caveats = Vec::new();
        for caveat in token.macaroon.unverified_caveats() {
            let third_party = match caveat {
                Caveat::ThirdParty(third_party) => third_party,
                Caveat::BindToParent(_) => return Err(TokenError::BoundElsewhere),
                own => {
                    caveats.push(own.clone());
                    continue;
                }
            };
            let at = discharges.iter().position(|discharge| discharge.key_id() == &*third_party.ticket);
            let Some(at) = at else { return Err(TokenError::MissingDischarge(third_party.location.to_string())) };
            let discharge = discharges.swap_remove(at);
            if discharge.location() != third_party.location.as_str() {
                return Err(TokenError::StrayDischarge);
            }
            for caveat in discharge.unverified_caveats() {
                match caveat {
                    Caveat::ThirdParty(_) => return Err(TokenError::NestedDischarge),
                    // What it is bound to is told by values of the signature chain, which nobody has without the key.
                    Caveat::BindToParent(_) => {}
                    own => caveats.push(own.clone()),
                }
            }
        }
        if discharges.is_empty() { Ok(Self { caveats }) } else { Err(TokenError::StrayDischarge) }
    }

    /// The caveats.
    pub fn caveats(&self) -> &[Caveat] {
        &self.caveats
    }

    /// As [`Verified::check`](super::verify::Verified::check) would answer.
    pub fn check(&self, request: &CaveatRequest<'_>) -> Result<(), CaveatError> {
        check::check(&self.caveats, request)
    }

    /// Every caveat that forbids the request, in the order in which they are looked at.
    pub fn refusals(&self, request: &CaveatRequest<'_>) -> Vec<CaveatError> {
        let looks = check::IN_ORDER.iter();
        looks.flat_map(|look_at| self.caveats.iter().filter_map(|caveat| look_at(caveat, request).err())).collect()
    }
}
