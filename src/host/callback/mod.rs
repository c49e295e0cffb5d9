//! Sign-ins that come back: a page that was opened for a sandbox, and that sends the browser to `http://localhost:PORT/…` when the
//! user has signed in. The program that waits there is in the sandbox, the browser is on the host.
//!
//! ```text
//! opened URL ─ Callback::of ─▶ Callbacks::expect ── listens on PORT of the host's loopback, for this flow alone
//! browser ── GET /callback?code=…&state=… ─▶ Flow (pure): is this the one? ─ carry ─▶ PORT in the sandbox
//!         ◀── its answer, made harmless ─────────────────────────────────────────────┘ then the port closes
//! ```
//!
//! - The port is open for [`LIFETIME`] at most, and until the first right request was answered.
//! - Right is a request to the redirect's own host, port and path, with the `state` that the opened URL had, that a browser made to
//!   show a page: not what scripts, frames or images of other pages ask for. Whatever else comes gets a page that says no, and
//!   changes nothing.
//! - What the program answers is shown without scripts, and without cookies going in or out: the host's other servers on
//!   `localhost` have the same cookies, and scripts from there may do what other pages may not. When it answers with a redirect,
//!   that is followed on its own port, for [`GRACE`]; elsewhere, only to what a `[[browser_target]]` allows.

mod answer;
mod carry;
mod flow;
mod service;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use url::{Host, Url};

pub use carry::{Connecting, Inside, Stream};
pub use service::{Callbacks, Event, Expected, Happened, Wish};

use crate::domain::web::WebUrl;

/// How long a flow may take: a user has to find a password, and a second factor.
pub const LIFETIME: Duration = Duration::from_secs(600);
/// How long the program's own redirects are followed.
pub const GRACE: Duration = Duration::from_secs(10);
/// How deep URLs in parameters of URLs are looked into.
const NESTED: u8 = 3;
/// Ports below need privileges, and are of services.
const FIRST_PORT: u16 = 1024;

/// Where an opened URL sends the browser back to.
#[derive(Clone, PartialEq, Eq)]
pub struct Callback {
    place: Loopback,
    port: u16,
    path: String,
    state: Option<String>,
    /// Whether the answer may come as a form (`response_mode=form_post`).
    posted: bool,
}

/// How a URL names the loopback; browsers tell these apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Loopback {
    Name,
    V4,
    V6,
}

/// Why a URL that names a callback is not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallbackError {
    /// A port of services.
    #[error(
        "the URL would send the browser back to port {0} of localhost; only ports from {FIRST_PORT} on are carried into the sandbox"
    )]
    Privileged(u16),
    /// More than one, and no way to tell which counts.
    #[error("the URL names several places on localhost to come back to, and only one can be carried into the sandbox")]
    Several,
    /// A user or a password in it.
    #[error("the URL would send the browser back to an address with a user or a password in it")]
    User,
    /// Somebody has the port.
    #[error(
        "port {0} of the host's localhost is taken by another program, which would get what is meant for the sandbox. End that program, or \
         have this one wait on another port"
    )]
    Taken(u16),
    /// Another sandbox waits on it.
    #[error("another sandbox waits for a sign-in on port {0}. Finish that one first, or wait on another port")]
    OfAnother(u16),
    /// The system refuses.
    #[error("cannot listen on port {0} of the host's localhost: {1}")]
    Failed(u16, String),
}

impl Callback {
    /// Where `url` sends the browser back to, if that is this machine. Pages to sign in carry the URL to go on with in a parameter
    /// of theirs, so those are looked into, too.
    ///
    /// # Errors
    /// When it is a place that is not carried.
    pub fn of(url: &WebUrl) -> Result<Option<Self>, CallbackError> {
        let mut found = Vec::new();
        search(url.url(), NESTED, &mut found)?;
        // Whatever its name, that is where the browser may be sent; the usual ones come first.
        if found.iter().any(|(named, _)| *named) {
            found.retain(|(named, _)| *named);
        }
        let mut found = found.into_iter().map(|(_, callback)| callback);
        let Some(callback) = found.next() else { return Ok(None) };
        if found.any(|other| other.authority() != callback.authority() || other.path != callback.path) {
            return Err(CallbackError::Several);
        }
        if callback.port < FIRST_PORT {
            return Err(CallbackError::Privileged(callback.port));
        }
        Ok(Some(callback))
    }

    /// The port, on the host and in the sandbox.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `localhost:8080`, as the `Host` of its requests says.
    fn authority(&self) -> String {
        match self.place {
            Loopback::Name => format!("localhost:{}", self.port),
            Loopback::V4 => format!("127.0.0.1:{}", self.port),
            Loopback::V6 => format!("[::1]:{}", self.port),
        }
    }

    /// Where a browser may look for it.
    fn addresses(&self) -> Vec<SocketAddr> {
        let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
        let addresses = match self.place {
            Loopback::Name => vec![v4, v6],
            Loopback::V4 => vec![v4],
            Loopback::V6 => vec![v6],
        };
        addresses.into_iter().map(|address| SocketAddr::new(address, self.port)).collect()
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the state, which is a secret between program and provider.
        write!(f, "Callback(http://{}{})", self.authority(), self.path)
    }
}

impl fmt::Display for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority())
    }
}

/// The callbacks that a URL names, and whether by one of the usual names.
fn search(url: &Url, depth: u8, found: &mut Vec<(bool, Callback)>) -> Result<(), CallbackError> {
    let fragment = url.fragment().unwrap_or_default();
    // Pages of one script have their own query behind the `#`.
    let fragment = fragment.split_once('?').map_or(fragment, |(_, query)| query);
    let pairs: Vec<_> = url.query_pairs().chain(url::form_urlencoded::parse(fragment.as_bytes())).collect();
    let only = |wanted: &str| pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.to_string());
    for (name, value) in &pairs {
        if let Some((place, port, path)) = loopback(value)? {
            let state = only("state").filter(|state| !state.is_empty());
            let posted = only("response_mode").is_some_and(|mode| mode == "form_post");
            found.push((is_redirect(name), Callback { place, port, path, state, posted }));
        } else if depth > 0 && value.contains(['?', '#']) {
            // An address to go on with, often without the host.
            if let Ok(inner) = url.join(value) {
                search(&inner, depth - 1, found)?;
            }
        }
    }
    Ok(())
}

/// A value of a parameter that is a plain URL of this machine's loopback.
fn loopback(value: &str) -> Result<Option<(Loopback, u16, String)>, CallbackError> {
    let Ok(url) = Url::parse(value) else { return Ok(None) };
    let place = match url.host() {
        Some(Host::Domain("localhost")) => Loopback::Name,
        Some(Host::Ipv4(Ipv4Addr::LOCALHOST)) => Loopback::V4,
        Some(Host::Ipv6(Ipv6Addr::LOCALHOST)) => Loopback::V6,
        _ => return Ok(None),
    };
    if url.scheme() != "http" {
        return Ok(None);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(CallbackError::User);
    }
    Ok(Some((place, url.port().unwrap_or(80), url.path().to_owned())))
}

/// `redirect_uri`, and what else such a parameter is called.
fn is_redirect(name: &str) -> bool {
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect();
    let (begins, ends) = (["redirect", "callback", "return"], ["", "uri", "url", "to"]);
    begins.iter().any(|begin| name.strip_prefix(begin).is_some_and(|rest| ends.contains(&rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Result<Option<Callback>, CallbackError> {
        Callback::of(&WebUrl::parse(url).unwrap())
    }

    fn found(url: &str) -> Callback {
        of(url).unwrap().unwrap_or_else(|| panic!("{url}"))
    }

    #[test]
    fn callbacks_are_found_under_their_many_names() {
        for (name, value, authority, path) in [
            ("redirect_uri", "http%3A%2F%2Flocalhost%3A54545%2Fcallback", "localhost:54545", "/callback"),
            ("redirect_uri", "http://localhost:54545", "localhost:54545", "/"),
            ("redirect_url", "http://127.0.0.1:8085/", "127.0.0.1:8085", "/"),
            ("redirectUri", "http://[::1]:8085/a/b?x=1", "[::1]:8085", "/a/b"),
            ("callback", "HTTP://LOCALHOST:1455/auth/callback", "localhost:1455", "/auth/callback"),
            ("return_to", "http://0x7f.1:9999/x", "127.0.0.1:9999", "/x"),
            ("anything", "http://localhost:9999/x", "localhost:9999", "/x"),
        ] {
            let callback = found(&format!("https://idp.example/authorize?client=x&{name}={value}&state=s%20t"));
            assert_eq!((callback.authority().as_str(), callback.path.as_str()), (authority, path), "{name}={value}");
            assert_eq!(callback.state.as_deref(), Some("s t"));
            assert!(!callback.posted);
        }
        let callback = found("https://idp.example/#/login?redirect_uri=http://localhost:4000/cb&state=x");
        assert_eq!((callback.port, callback.state.as_deref()), (4000, Some("x")));
        let callback = found("https://idp.example/?redirect_uri=http://localhost:4000/cb&response_mode=form_post");
        assert!(callback.posted && callback.state.is_none());
        let nested = found(
            "https://idp.example/login?state=outer&return_to=%2Fauthorize%3Fstate%3Dinner%26redirect_uri%3Dhttp%253A%252F%252F127.0.0.1%253A4000%252Fcb",
        );
        assert_eq!((nested.authority().as_str(), nested.path.as_str()), ("127.0.0.1:4000", "/cb"));
        assert_eq!(nested.state.as_deref(), Some("inner"));
        let both = found("https://idp.example/?logout=http://localhost:4001/bye&redirect_uri=http://localhost:4000/cb");
        assert_eq!(both.port, 4000);
        assert!(
            !format!("{:?}", found("https://i.example/?redirect_uri=http://localhost:4000/cb&state=s3cret"))
                .contains("s3cret")
        );
    }

    #[test]
    fn elsewhere_is_no_callback() {
        for value in [
            "https://app.example/callback",
            "http://localhost.evil.example:8080/",
            "http://127.0.0.2:8080/",
            "http://10.0.0.1:8080/",
            "https://localhost:8080/",
            "myapp://callback",
            "urn:ietf:wg:oauth:2.0:oob",
            "/callback",
            "",
        ] {
            assert_eq!(of(&format!("https://idp.example/?redirect_uri={value}")), Ok(None), "{value}");
        }
        assert_eq!(of("https://idp.example/"), Ok(None));
    }

    #[test]
    fn threats_a_callback_port_that_is_privileged_is_refused() {
        for (value, port) in
            [("http://localhost:631/admin", 631), ("http://localhost/", 80), ("http://127.0.0.1:1023/", 1023)]
        {
            assert_eq!(of(&format!("https://i.example/?redirect_uri={value}")), Err(CallbackError::Privileged(port)));
        }
        let nested = "https://i.example/login?continue=https%3A%2F%2Fi.example%2Fauthorize%3Fredirect_uri%3Dhttp%253A%252F%252Flocalhost%253A631%252F";
        assert_eq!(of(nested), Err(CallbackError::Privileged(631)));
        let two = "https://i.example/?redirect_uri=http://localhost:4000/&redirect_uri=http://localhost:4001/";
        assert_eq!(of(two), Err(CallbackError::Several));
        let same = "https://i.example/?redirect_uri=http://localhost:4000/&callback_url=http://localhost:4000/";
        assert_eq!(found(same).port, 4000);
        assert_eq!(of("https://i.example/?redirect_uri=http://u@localhost:4000/"), Err(CallbackError::User));
    }
}
