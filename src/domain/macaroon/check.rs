//! A verified token's caveats against a request.

use std::fmt;

use super::caveat::{Caveat, Text, Texts, UnixTime};
use super::verify::Verified;
use crate::domain::names::{Host, HostPattern, Instance, SandboxId};
use crate::domain::policy::{PathPattern, RequestPath};

/// What a request wants, as Envoy and the clock say, never as the agent says.
#[derive(Debug, Clone, Copy)]
pub struct CaveatRequest<'a> {
    /// The upstream it goes to.
    pub host: &'a Host,
    /// Its method, in upper case.
    pub method: &'a str,
    /// Its path; `None` when it has none (`OPTIONS *`), which no path caveat allows.
    pub path: Option<RequestPath<'a>>,
    /// The sandbox it comes from.
    pub sandbox: &'a SandboxId,
    /// Which life of the sandbox this is; `None` for a gateway.
    pub instance: Option<&'a Instance>,
    /// Whose token it is.
    pub issuer: Issuer<'a>,
    /// The time, in Unix seconds.
    pub now: u64,
}

/// Which vault made a token, as the one who judges it sees it: what its sandbox caveats name depends on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Issuer<'a> {
    /// The server's own: they name its sandboxes and gateways.
    #[default]
    Own,
    /// A shared one, which this server asks (`[vault]`): `NAME` is a gateway there, and that vault judges it; `NAME/INSTANCE` is a
    /// sandbox here.
    Shared,
    /// The server's own, asked by another server that is enrolled as this gateway: `NAME` is that gateway, and `NAME/INSTANCE`
    /// the other server's sandbox.
    OwnAs(&'a SandboxId),
}

/// Why a token does not allow a request. `Display` begins with what was refused and goes on with what the caveat allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaveatError {
    /// After the validity window.
    #[error("token expired at {}", UnixTime(*.not_after))]
    Expired {
        /// The last second it was valid.
        not_after: i64,
    },
    /// Before the validity window.
    #[error("token not yet valid, it begins at {}", UnixTime(*.not_before))]
    NotYetValid {
        /// The first second it will be valid.
        not_before: i64,
    },
    /// Another host than those allowed.
    #[error("host not allowed: {host} (the token allows {allowed})")]
    Host {
        /// The upstream asked for.
        host: Host,
        /// What the caveat allows.
        allowed: Allowed,
    },
    /// Another method than those allowed.
    #[error("method not allowed: {} (the token allows {allowed})", Short(method))]
    Method {
        /// The method asked for.
        method: String,
        /// What the caveat allows.
        allowed: Allowed,
    },
    /// A path that matches no pattern, or that can be read in two ways.
    #[error("path not allowed: {} (the token allows {allowed})", Short(path))]
    Path {
        /// The path asked for, without its query.
        path: String,
        /// What the caveat allows.
        allowed: Allowed,
    },
    /// Another sandbox than the one the token is bound to.
    #[error("sandbox not allowed: {sandbox} (the token is for {})", Short(.allowed.as_str()))]
    Sandbox {
        /// The sandbox the request comes from.
        sandbox: SandboxId,
        /// The one the token is for.
        allowed: Text,
    },
}

impl CaveatError {
    /// Whether only the time is wrong: the token is not valid now, rather than not valid for this.
    pub fn is_about_time(&self) -> bool {
        matches!(self, Self::Expired { .. } | Self::NotYetValid { .. })
    }
}

/// The list of a caveat, for a message: escaped, and cut after a few entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed(pub Texts);

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, text) in self.0.iter().take(SHOWN).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", Short(text))?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Anybody's text in a message: escaped, and cut after 128 characters.
struct Short<'a>(&'a str);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(128) {
            None => self.0.escape_debug().fmt(f),
            Some((end, _)) => write!(f, "{}…", self.0[..end].escape_debug()),
        }
    }
}

impl Verified {
    /// Whether the request is within every caveat. Time is looked at first, then host, method, path and sandbox, so that
    /// the same request is always refused for the same reason.
    pub fn check(&self, request: &CaveatRequest<'_>) -> Result<(), CaveatError> {
        check(self.caveats(), request)
    }
}

type LookAt = fn(&Caveat, &CaveatRequest<'_>) -> Result<(), CaveatError>;

/// What is looked at, each over all caveats before the next.
pub(super) const IN_ORDER: [LookAt; 5] = [check_time, check_host, check_method, check_path, check_sandbox];

pub(super) fn check(caveats: &[Caveat], request: &CaveatRequest<'_>) -> Result<(), CaveatError> {
    IN_ORDER.iter().try_for_each(|look_at| caveats.iter().try_for_each(|caveat| look_at(caveat, request)))
}

fn check_time(caveat: &Caveat, request: &CaveatRequest<'_>) -> Result<(), CaveatError> {
    let Caveat::ValidityWindow { not_before, not_after } = *caveat else { return Ok(()) };
    let now = i128::from(request.now);
    if now > i128::from(not_after) {
        Err(CaveatError::Expired { not_after })
    } else if now < i128::from(not_before) {
        Err(CaveatError::NotYetValid { not_before })
    } else {
        Ok(())
    }
}

fn check_host(caveat: &Caveat, request: &CaveatRequest<'_>) -> Result<(), CaveatError> {
    let Caveat::Hosts(hosts) = caveat else { return Ok(()) };
    if hosts.iter().any(|entry| host_matches(entry, request.host)) {
        Ok(())
    } else {
        Err(CaveatError::Host { host: request.host.clone(), allowed: Allowed(hosts.clone()) })
    }
}

fn host_matches(entry: &str, host: &Host) -> bool {
    if entry.starts_with('*') {
        return entry.parse::<HostPattern>().is_ok_and(|pattern| pattern.matches(host));
    }
    // What equals a host but for case and the dot at the end would parse to that host: no need to.
    entry.strip_suffix('.').unwrap_or(entry).eq_ignore_ascii_case(host.as_str())
}

fn check_method(caveat: &Caveat, request: &CaveatRequest<'_>) -> Result<(), CaveatError> {
    let Caveat::Methods(methods) = caveat else { return Ok(()) };
    if methods.iter().any(|entry| !entry.is_empty() && entry.eq_ignore_ascii_case(request.method)) {
        Ok(())
    } else {
        Err(CaveatError::Method { method: request.method.to_owned(), allowed: Allowed(methods.clone()) })
    }
}

fn check_path(caveat: &Caveat, request: &CaveatRequest<'_>) -> Result<(), CaveatError> {
    let Caveat::Paths(paths) = caveat else { return Ok(()) };
    // Asked once here, so that a path nothing can match costs nothing per pattern.
    let path = request.path.filter(|path| path.is_matchable());
    if path.is_some_and(|path| paths.iter().any(|entry| path_matches(entry, path))) {
        Ok(())
    } else {
        let path = request.path.map_or("", RequestPath::as_str).to_owned();
        Err(CaveatError::Path { path, allowed: Allowed(paths.clone()) })
    }
}

fn path_matches(entry: &str, path: RequestPath<'_>) -> bool {
    // What stands before the first `*` is matched as it is, but for a slash at its end (`/a/**` matches `/a`): most
    // patterns that do not match are told by that, and need no parsing.
    let literal = entry.find('*').map_or(entry, |star| &entry[..star]);
    path.as_str().starts_with(literal.strip_suffix('/').unwrap_or(literal))
        && entry.parse::<PathPattern>().is_ok_and(|pattern| pattern.matches(path))
}

fn check_sandbox(caveat: &Caveat, request: &CaveatRequest<'_>) -> Result<(), CaveatError> {
    let Caveat::Sandbox(sandbox) = caveat else { return Ok(()) };
    // A name has no slash: what follows one is the instance.
    let (named, holds) = match (sandbox.as_str().split_once('/'), request.issuer) {
        (None, Issuer::Own) => (request.sandbox, sandbox.as_str() == request.sandbox.as_str()),
        (None, Issuer::OwnAs(gateway)) => (gateway, sandbox.as_str() == gateway.as_str()),
        (None, Issuer::Shared) => return Ok(()),
        (Some((name, instance)), _) => {
            let own = name == request.sandbox.as_str() && request.instance.is_some_and(|own| own.as_str() == instance);
            (request.sandbox, own)
        }
    };
    if holds { Ok(()) } else { Err(CaveatError::Sandbox { sandbox: named.clone(), allowed: sandbox.clone() }) }
}
