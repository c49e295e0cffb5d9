//! May this request pass, and with which credential?
//!
//! ```text
//! AccessRequest ──▶ decide(rules) ──▶ Allow(Grant)      the only key to the secret store
//!                                 ├─▶ PassThrough       no token of ours, and none demanded
//!                                 ├─▶ Refer(Referral)   within the limits; the vault of another server has the say
//!                                 └─▶ Deny(Denial)      status and reason; `remedy` says what would allow it
//! ```
//!
//! The order is fixed: who is calling (Envoy's configuration says), is the token genuine and valid now (401), do the
//! upstream's limits allow the request (403), do the token's caveats (403).

mod behind;
mod remedy;
mod unsignable;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

pub use self::behind::{BEHIND_EXTENSION, Behind, BehindError};
pub use self::remedy::{Offer, Remedy, remedy};
pub use self::unsignable::Unsignable;
use super::holding::Holding;
use super::macaroon::{
    CaveatError, CaveatRequest, Claims, Issuer, Keyring, Token, TokenError, TokenId, TokenPrefix, Verified, verify,
};
use super::names::{Host, HostPattern, Instance, SandboxId};
use super::policy::{Address, Limits, Policy, RequestPath};
use super::revocations::Revocations;

/// The context extension in which Envoy's configuration names the sandbox (design §3.1).
pub const SANDBOX_EXTENSION: &str = "sandbox";
/// The context extension in which Envoy's configuration names the upstream: a host, or a pattern with `*` where the host is the
/// server name of the connection (`*` alone stands for every host that is named exactly).
pub const HOST_EXTENSION: &str = "host";
/// The [`HOST_EXTENSION`] of routes that many hosts share.
pub const ANY_EXACT_HOST: &str = "*";
/// The context extension in which Envoy's configuration says that the body comes with the question, and that it is all of it
/// if it has fewer bytes than this.
pub const BODY_EXTENSION: &str = "body";

/// What the vault decides by: who may reach what, how tokens are checked.
#[derive(Debug, Default)]
pub struct Rules {
    sandboxes: HashMap<SandboxId, Reachable>,
    /// What tokens are signed with.
    pub keyring: Keyring,
    /// What tokens begin with.
    pub prefix: TokenPrefix,
    /// Whether a request without a token is refused.
    pub strict: bool,
    /// The tokens that hold no more.
    pub revocations: Revocations,
}

/// What one sandbox may reach.
#[derive(Debug)]
struct Reachable {
    instance: Option<Instance>,
    vault: Option<Address>,
    hosts: HashMap<Host, Limits>,
    /// The longest parent first: the most specific pattern wins.
    wildcards: Vec<Wildcard>,
}

/// An upstream that stands for every host below another.
#[derive(Debug)]
struct Wildcard {
    pattern: HostPattern,
    /// The pattern as text.
    name: Arc<str>,
    limits: Limits,
}

/// A request's sandbox and upstream, as the policies have them.
struct Place<'a> {
    sandbox: &'a SandboxId,
    instance: Option<&'a Instance>,
    host: Cow<'a, Host>,
    /// The name of the upstream: the host, or the pattern that it is one of.
    upstream: &'a str,
    limits: &'a Limits,
    vault: Option<&'a Address>,
}

impl Rules {
    /// Rules for these policies.
    pub fn new<'a>(
        policies: impl IntoIterator<Item = &'a Policy>,
        keyring: Keyring,
        prefix: TokenPrefix,
        strict: bool,
    ) -> Self {
        let sandboxes = policies
            .into_iter()
            .map(|policy| {
                let mut hosts = HashMap::with_capacity(policy.upstreams.len());
                let mut wildcards = Vec::new();
                for (pattern, upstream) in &policy.upstreams {
                    let limits = upstream.limits.clone();
                    match pattern {
                        HostPattern::Exact(host) => drop(hosts.insert(host.clone(), limits)),
                        HostPattern::Below(_) => {
                            wildcards.push(Wildcard {
                                pattern: pattern.clone(),
                                name: pattern.to_string().into(),
                                limits,
                            });
                        }
                    }
                }
                wildcards.sort_by_key(|wildcard| std::cmp::Reverse(wildcard.name.len()));
                let (instance, vault) = (policy.instance.clone(), policy.vault.clone());
                (policy.id.clone(), Reachable { instance, vault, hosts, wildcards })
            })
            .collect();
        Self { sandboxes, keyring, prefix, strict, revocations: Revocations::default() }
    }

    /// Whether what was found good for a request still is, at `now` in Unix seconds: not revoked, its key not retired, its
    /// time not over.
    pub fn still_hold(&self, holding: &Holding, now: u64) -> bool {
        let over = holding.until.is_some_and(|until| i64::try_from(now).unwrap_or(i64::MAX) > until);
        !over && !self.revocations.contains(holding.token) && self.keyring.has(holding.key.as_ref())
    }

    /// Whether the policies have a gateway of this name. A sandbox is none.
    pub fn has_gateway(&self, name: &SandboxId) -> bool {
        self.sandboxes.get(name).is_some_and(|reachable| reachable.instance.is_none())
    }

    /// Sandbox and upstream as Envoy's configuration names them, if the policies know both.
    fn place(&self, sandbox: &str, host: &str) -> Option<Place<'_>> {
        let (sandbox, reachable) = self.sandboxes.get_key_value(sandbox)?;
        let (instance, vault) = (reachable.instance.as_ref(), reachable.vault.as_ref());
        if let Some((host, limits)) = reachable.hosts.get_key_value(host) {
            return Some(Place {
                sandbox,
                instance,
                host: Cow::Borrowed(host),
                upstream: host.as_str(),
                limits,
                vault,
            });
        }
        if reachable.wildcards.is_empty() {
            return None;
        }
        let host: Host = host.parse().ok()?;
        let Wildcard { name, limits, .. } =
            reachable.wildcards.iter().find(|wildcard| wildcard.pattern.matches(&host))?;
        Some(Place { sandbox, instance, host: Cow::Owned(host), upstream: name, limits, vault })
    }

    /// The name of the upstream that `host` is, or is one of: there are only so many, whatever an agent asks for.
    pub fn upstream(&self, sandbox: &str, host: &str) -> Option<&str> {
        self.place(sandbox, host).map(|place| place.upstream)
    }
}

/// A request as the upstream would see it, and where it comes from.
#[derive(Debug)]
pub struct AccessRequest<'a> {
    /// The sandbox, from Envoy's configuration.
    pub sandbox: &'a str,
    /// The upstream, from Envoy's configuration.
    pub host: &'a str,
    /// The method.
    pub method: &'a str,
    /// The request target: path and query.
    pub target: &'a str,
    /// The token that came with it.
    pub token: Presented<'a>,
    /// The other server's sandbox that it is for, when another server asks.
    pub behind: Option<Behind>,
}

/// What a request presents as its token. Its `Debug` does not show it.
pub enum Presented<'a> {
    /// No token of ours.
    None,
    /// This one.
    Token(Cow<'a, str>),
    /// Two different ones.
    Several,
    /// One in a place where it is not looked for, and from where it would travel on.
    Misplaced(Cow<'a, str>),
}

impl Presented<'_> {
    /// The id of a token that can be read, whether its signature holds or not.
    pub fn id(&self, prefix: &TokenPrefix) -> Option<TokenId> {
        match self {
            Self::Token(text) => Token::parse(text, prefix).ok().map(|token| token.id()),
            Self::None | Self::Several | Self::Misplaced(_) => None,
        }
    }
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Token(_) => f.write_str("Token(…)"),
            Self::Several => f.write_str("Several"),
            Self::Misplaced(place) => f.debug_tuple("Misplaced").field(place).finish(),
        }
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    /// It goes on with the credential that this grant gives access to.
    Allow(Grant),
    /// It goes on as it is: it has no token of ours.
    PassThrough,
    /// It is within the limits here, and the vault of another server decides about its token.
    Refer(Referral),
    /// It is refused.
    Deny(Denial),
}

/// A `Grant` is proof that [`decide`] allowed a token's request to `host`: the secret store gives nothing without one.
#[derive(Debug)]
pub struct Grant {
    host: Host,
    holding: Holding,
}

impl Grant {
    /// The upstream whose credential may be used.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The token that was presented.
    pub fn token(&self) -> TokenId {
        self.holding.token
    }

    /// What the request rests on, and with it the stream that it opens.
    pub fn holding(&self) -> &Holding {
        &self.holding
    }
}

/// Which vault is to be asked about a request, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referral {
    /// The vault.
    pub vault: Address,
    /// The upstream.
    pub host: Host,
    /// The sandbox; `None` for a gateway.
    pub behind: Option<Behind>,
}

/// Why a request is refused. `Display` is what the agent is told; it never holds a token or a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// Envoy named a sandbox or upstream that the configuration does not have (any more).
    #[error("Unauthorized: host not allowed: {0}")]
    UnknownUpstream(String),
    /// Strict mode, and no token.
    #[error("Unauthorized: no token")]
    NoToken,
    /// Two different tokens in one request.
    #[error("Unauthorized: the request has two different tokens")]
    SeveralTokens,
    /// A token where none belongs.
    #[error("Unauthorized: a token in {0}, where it would travel on to the upstream")]
    MisplacedToken(String),
    /// Not a token that holds.
    #[error("Unauthorized: {0}")]
    Token(#[from] TokenError),
    /// The token does not allow this, or not now.
    #[error("Unauthorized: {0}")]
    Caveat(#[from] CaveatError),
    /// The upstream's `methods` do not have it.
    #[error("Unauthorized: method not allowed: {method} is not among the methods of {host}")]
    LimitMethod {
        /// The upstream.
        host: Host,
        /// The method asked for, cut and escaped.
        method: String,
    },
    /// None of the upstream's `paths` matches.
    #[error("Unauthorized: path not allowed: {path} is not among the paths of {host}")]
    LimitPath {
        /// The upstream.
        host: Host,
        /// The path asked for, cut and escaped.
        path: String,
    },
    /// The token is good, and there is nothing to swap it for.
    #[error("No credentials configured for this host: {0}")]
    NoCredential(Host),
    /// The token is good, and what it is to be swapped for cannot be had now.
    #[error("Credential not available for this host: {0}")]
    CredentialUnavailable(Host),
    /// The vault of another server has the credential, and cannot be asked now.
    #[error("Credential not available for this host: {0} (its vault does not answer)")]
    VaultUnavailable(Host),
    /// The vault of another server refused it, in these words.
    #[error("{0}")]
    RefusedByVault(String),
    /// The token is good, and its credential cannot sign the request.
    #[error("The request cannot be signed for {host}: {reason}")]
    Unsignable {
        /// The upstream.
        host: Host,
        /// Why not.
        reason: Unsignable,
    },
}

impl Denial {
    /// The status of the answer: 401 when who is asking is not settled, 403 when it is and the answer is no, 503 when it
    /// would be yes.
    pub fn status(&self) -> u16 {
        match self {
            Self::NoToken | Self::SeveralTokens | Self::MisplacedToken(_) | Self::Token(_) => 401,
            Self::Caveat(caveat) if caveat.is_about_time() => 401,
            Self::UnknownUpstream(_)
            | Self::Caveat(_)
            | Self::LimitMethod { .. }
            | Self::LimitPath { .. }
            | Self::RefusedByVault(_)
            | Self::NoCredential(_) => 403,
            Self::CredentialUnavailable(_) | Self::VaultUnavailable(_) => 503,
            Self::Unsignable { reason, .. } => reason.status(),
        }
    }

    /// Whether the token's signature holds, so that its id is not just a claim.
    pub fn is_after_verification(&self) -> bool {
        match self {
            Self::Caveat(_)
            | Self::LimitMethod { .. }
            | Self::LimitPath { .. }
            | Self::NoCredential(_)
            | Self::CredentialUnavailable(_)
            | Self::Unsignable { .. } => true,
            Self::Token(error) => *error == TokenError::Revoked,
            Self::UnknownUpstream(_)
            | Self::NoToken
            | Self::SeveralTokens
            | Self::MisplacedToken(_)
            | Self::VaultUnavailable(_)
            | Self::RefusedByVault(_) => false,
        }
    }

    /// A word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownUpstream(_) => "unknown_upstream",
            Self::NoToken => "no_token",
            Self::SeveralTokens => "several_tokens",
            Self::MisplacedToken(_) => "misplaced_token",
            Self::Token(TokenError::Signature | TokenError::UnknownKey) => "bad_signature",
            Self::Token(TokenError::Revoked) => "revoked",
            Self::Token(_) => "malformed_token",
            Self::Caveat(CaveatError::Expired { .. }) => "expired",
            Self::Caveat(CaveatError::NotYetValid { .. }) => "not_yet_valid",
            Self::Caveat(CaveatError::Host { .. }) => "caveat_host",
            Self::Caveat(CaveatError::Method { .. }) => "caveat_method",
            Self::Caveat(CaveatError::Path { .. }) => "caveat_path",
            Self::Caveat(CaveatError::Sandbox { .. }) => "caveat_sandbox",
            Self::LimitMethod { .. } => "limit_method",
            Self::LimitPath { .. } => "limit_path",
            Self::NoCredential(_) => "no_credential",
            Self::CredentialUnavailable(_) => "credential_unavailable",
            Self::VaultUnavailable(_) => "vault_unavailable",
            Self::RefusedByVault(_) => "refused_by_vault",
            Self::Unsignable { .. } => "unsignable",
        }
    }
}

/// Decides on one request. `now` is in Unix seconds.
pub fn decide(rules: &Rules, request: &AccessRequest<'_>, now: u64) -> Decision {
    if rules.sandboxes.get(request.sandbox).is_some_and(|reachable| reachable.vault.is_some()) {
        return refer(rules, request).unwrap_or_else(Decision::Deny);
    }
    let verify = |token: &Token| {
        let verified = verify(token, &rules.keyring)?;
        // Only who holds a token learns that it was revoked.
        if rules.revocations.contains(verified.id()) { Err(TokenError::Revoked) } else { Ok(verified) }
    };
    match judge(rules, request, now, verify, Verified::check) {
        Ok(Some((host, verified))) => {
            let key = verified.key().cloned();
            let holding = Holding { token: verified.id(), until: verified.expires(), key };
            Decision::Allow(Grant { host, holding })
        }
        Ok(None) => Decision::PassThrough,
        Err(denial) => Decision::Deny(denial),
    }
}

/// The vault of another server looks at the token, wherever it is in the request: it alone knows where its credentials go.
/// The limits are this server's.
fn refer(rules: &Rules, request: &AccessRequest<'_>) -> Result<Decision, Denial> {
    let place = known(rules, request)?;
    let referral = match (&request.token, place.vault) {
        (Presented::None, _) if rules.strict => return Err(Denial::NoToken),
        (Presented::None, _) | (_, None) => None,
        (_, Some(vault)) => Some(Referral {
            vault: vault.clone(),
            host: place.host.clone().into_owned(),
            behind: place
                .instance
                .map(|instance| Behind { sandbox: place.sandbox.clone(), instance: instance.clone() }),
        }),
    };
    within_limits(&place, &upper_case(request.method), request.target)?;
    Ok(referral.map_or(Decision::PassThrough, Decision::Refer))
}

/// What [`decide`] would answer if the token's signature holds, for who has no key: the same rules in the same order, but
/// nothing that gives access to a secret.
///
/// Errors: why the request would be refused.
pub fn foresee(rules: &Rules, request: &AccessRequest<'_>, now: u64) -> Result<(), Denial> {
    judge(rules, request, now, Claims::of, Claims::check).map(|_| ())
}

/// `read` makes of a token what `check` can tell about. Without a token it is `None`.
fn judge<T>(
    rules: &Rules,
    request: &AccessRequest<'_>,
    now: u64,
    read: impl FnOnce(&Token) -> Result<T, TokenError>,
    check: impl FnOnce(&T, &CaveatRequest<'_>) -> Result<(), CaveatError>,
) -> Result<Option<(Host, T)>, Denial> {
    let place = known(rules, request)?;
    let method = upper_case(request.method);
    let path = RequestPath::from_target(request.target);
    let token = match &request.token {
        Presented::None if rules.strict => return Err(Denial::NoToken),
        Presented::None => None,
        Presented::Several => return Err(Denial::SeveralTokens),
        Presented::Misplaced(place) => return Err(Denial::MisplacedToken(excerpt(place))),
        Presented::Token(text) => Some(read(&Token::parse(text, &rules.prefix)?)?),
    };
    let (sandbox, instance, issuer) = match (&request.behind, place.vault) {
        (_, Some(_)) => (place.sandbox, place.instance, Issuer::Shared),
        (Some(behind), None) => (&behind.sandbox, Some(&behind.instance), Issuer::OwnAs(place.sandbox)),
        (None, None) => (place.sandbox, place.instance, Issuer::Own),
    };
    let wanted = CaveatRequest { host: &place.host, method: &method, path, sandbox, instance, issuer, now };
    let caveats = token.as_ref().map(|token| check(token, &wanted));
    // A token that is not valid now is no token; what it forbids comes after what the upstream forbids.
    if let Some(Err(error)) = &caveats
        && error.is_about_time()
    {
        return Err(error.clone().into());
    }
    within_limits(&place, &method, request.target)?;
    caveats.transpose()?;
    Ok(token.map(|token| (place.host.into_owned(), token)))
}

/// Where the request is from and to, if the policies know both.
fn known<'a>(rules: &'a Rules, request: &AccessRequest<'_>) -> Result<Place<'a>, Denial> {
    rules.place(request.sandbox, request.host).ok_or_else(|| Denial::UnknownUpstream(excerpt(request.host)))
}

/// Whether the upstream's limits allow it. The method is in upper case.
fn within_limits(place: &Place<'_>, method: &str, target: &str) -> Result<(), Denial> {
    let (limits, host) = (place.limits, || place.host.clone().into_owned());
    if !limits.allow_method(method) {
        return Err(Denial::LimitMethod { host: host(), method: excerpt(method) });
    }
    let path = RequestPath::from_target(target);
    if !path.map_or(limits.paths.is_none(), |path| limits.allow_path(path)) {
        // The query may hold the token, and this text is shown and kept.
        let path = target.split(['?', '#']).next().unwrap_or_default();
        return Err(Denial::LimitPath { host: host(), path: excerpt(path) });
    }
    Ok(())
}

/// Methods are compared in upper case (`token-format.md`), so that a server that does not care for case cannot be reached
/// past a limit.
fn upper_case(method: &str) -> Cow<'_, str> {
    if method.bytes().any(|b| b.is_ascii_lowercase()) { method.to_ascii_uppercase().into() } else { method.into() }
}

/// At most 200 characters of what the agent sent, escaped: it ends in answers and logs.
fn excerpt(text: &str) -> String {
    let mut out: String = text.chars().take(200).flat_map(char::escape_debug).collect();
    if text.chars().nth(200).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests;
