//! What `aenv open` in a sandbox and the server on the host agree on.

/// The name by which a sandbox asks its host for something; it is resolved by nobody, and only Envoy answers to it.
pub const HOST: &str = "host.agent-creds";
/// Where a URL is posted to, as the body, to be opened in the host's browser.
pub const PATH: &str = "/open";
/// The most bytes of a URL: more than any sign-in has, and less than what browsers and systems take as an argument.
pub const MAX_URL: usize = 32 * 1024;

/// What `aenv forward` writes before all else, once it is connected.
pub const CONNECTED: u8 = b'+';

/// The names under which programs look for a browser. In a sandbox each is `aenv`.
pub const BROWSERS: [&str; 5] = ["xdg-open", "open", "sensible-browser", "x-www-browser", "www-browser"];
