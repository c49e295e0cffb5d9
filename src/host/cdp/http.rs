//! Chrome's HTTP endpoints as a sandbox sees them: what a request asks for, and what of Chrome's answer it gets. Pure.

use http::Method;
use serde_json::{Value, json};

use super::filter::Owned;
use super::rules::{Match, Rules};
use crate::domain::web::WebUrl;

/// The path of the browser's WebSocket. Chrome's own has a secret in it, which stays on the host.
const BROWSER: &str = "/devtools/browser/agent-creds";

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Version,
    List,
    Protocol,
    /// Open a page there.
    New(String),
    Activate(String),
    Close(String),
    /// The browser's WebSocket.
    Browser,
    /// A page's WebSocket.
    Page(String),
}

/// A request that is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: u16,
    pub(super) text: String,
}

fn refused<T>(status: u16, text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { status, text: text.into() })
}

/// Reads a request: its method, path and query, and its `Host` and `Origin`.
///
/// Only programs may come here, and only by the name of this machine: a page in a browser of the sandbox sends an `Origin`, or comes by
/// another name. Chrome itself refuses both.
pub(super) fn route(
    method: &Method,
    target: &str,
    host: Option<&str>,
    origin: Option<&str>,
    port: u16,
) -> Result<Route, Refused> {
    if !host.is_some_and(|host| is_local(host, port)) {
        return refused(403, format!("the browser is found at localhost:{port}, by no other name\n"));
    }
    if origin.is_some() {
        return refused(403, "web pages may not drive the browser (the request has an Origin)\n");
    }
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let path = path.strip_suffix('/').unwrap_or(path);
    let route = match path {
        "/json/version" => Route::Version,
        "/json" | "/json/list" => Route::List,
        "/json/protocol" => Route::Protocol,
        "/json/new" => {
            if method != Method::PUT {
                return refused(405, "use PUT to open a page\n");
            }
            Route::New(unescaped(query.unwrap_or_default()))
        }
        "/devtools/browser" => Route::Browser,
        _ if path.starts_with("/devtools/browser/") => Route::Browser,
        _ => {
            let id = |prefix: &str| path.strip_prefix(prefix).filter(|id| is_id(id)).map(str::to_owned);
            let page = id("/devtools/page/").map(Route::Page);
            match page
                .or_else(|| id("/json/activate/").map(Route::Activate))
                .or_else(|| id("/json/close/").map(Route::Close))
            {
                Some(route) => route,
                None => {
                    return refused(
                        404,
                        "there is /json/version, /json/list, /json/protocol, /json/new?URL, and /json/activate/ID and /json/close/ID\n",
                    );
                }
            }
        }
    };
    let reads = matches!(method, &Method::GET | &Method::HEAD | &Method::PUT | &Method::POST);
    if reads { Ok(route) } else { refused(405, "use GET\n") }
}

/// Ids of Chrome's targets: what else could stand there would be a path.
fn is_id(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_local(host: &str, port: u16) -> bool {
    let host = host.to_ascii_lowercase();
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| match host.strip_prefix(name) {
        Some("") => port == 80,
        Some(rest) => rest.strip_prefix(':').is_some_and(|given| given == port.to_string()),
        None => false,
    })
}

fn unescaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape =
            text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(escape.unwrap_or(bytes[at]));
        at += if escape.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The path and query that opens a page at `url`, when that is allowed.
pub(super) fn new_page(rules: &Rules, url: &str) -> Result<String, Refused> {
    if url.is_empty() || url == "about:blank" {
        return Ok("/json/new?about:blank".to_owned());
    }
    match WebUrl::parse(url) {
        Some(url) if rules.judge("page", "", url.as_str()) == Match::Yes => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            let escaped: String = url
                .as_str()
                .bytes()
                .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
                .collect();
            Ok(format!("/json/new?{escaped}"))
        }
        _ => refused(403, "no [[cdp_target]] of agent-creds.toml allows this URL; add one with url = \"…\"\n"),
    }
}

/// Whether the sandbox may see an entry of Chrome's list.
pub(super) fn is_visible(rules: &Rules, owned: &Owned, entry: &Value) -> bool {
    let text = |key: &str| entry[key].as_str().unwrap_or_default();
    let blank = || matches!(text("url"), "" | "about:blank") && text("type") == "page" && owned.contains(text("id"));
    rules.judge(text("type"), text("title"), text("url")) == Match::Yes || blank()
}

/// An entry of Chrome's list, with addresses for the client, which came by `host`.
pub(super) fn entry(entry: &Value, host: &str) -> Value {
    let id = entry["id"].as_str().unwrap_or_default();
    let mut told =
        json!({"description": "", "id": id, "title": entry["title"], "type": entry["type"], "url": entry["url"]});
    if is_id(id) {
        told["webSocketDebuggerUrl"] = format!("ws://{host}/devtools/page/{id}").into();
    }
    told
}

/// What Chrome says of itself.
pub(super) fn version(version: &Value, host: &str) -> Value {
    let mut told = json!({"webSocketDebuggerUrl": format!("ws://{host}{BROWSER}")});
    for key in ["Browser", "Protocol-Version", "User-Agent", "V8-Version", "WebKit-Version"] {
        if let Some(value) = version[key].as_str() {
            told[key] = value.into();
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &str) -> Result<Route, Refused> {
        route(&Method::GET, target, Some("localhost:9222"), None, 9222)
    }

    #[test]
    fn requests_are_read() {
        for (target, expected) in [
            ("/json/version", Route::Version),
            ("/json/version/", Route::Version),
            ("/json", Route::List),
            ("/json/list?t=1", Route::List),
            ("/devtools/browser/agent-creds", Route::Browser),
            ("/devtools/page/0AF", Route::Page("0AF".into())),
            ("/json/close/0AF", Route::Close("0AF".into())),
        ] {
            assert_eq!(get(target), Ok(expected), "{target}");
        }
        for target in [
            "/",
            "/devtools/page/../browser",
            "/devtools/page/",
            "/json/close/a%2fb",
            "/json/runtime",
            "/devtools/inspector.html",
            "x",
            "",
        ] {
            assert_eq!(get(target).unwrap_err().status, 404, "{target}");
        }
        assert_eq!(get("/json/new?https://a/").unwrap_err().status, 405);
        let new = route(&Method::PUT, "/json/new?https%3A%2F%2Fa/%", Some("127.0.0.1:9222"), None, 9222);
        assert_eq!(new, Ok(Route::New("https://a/%".into())));
    }

    #[test]
    fn only_programs_come_by_the_name_of_this_machine() {
        for host in [
            None,
            Some("evil.com"),
            Some("evil.com:9222"),
            Some("localhost"),
            Some("localhost:9223"),
            Some("localhost.evil.com:9222"),
            Some("localhost:9222@evil.com"),
            Some(""),
        ] {
            assert_eq!(route(&Method::GET, "/json", host, None, 9222).unwrap_err().status, 403, "{host:?}");
        }
        for host in ["localhost:9222", "LOCALHOST:9222", "127.0.0.1:9222", "[::1]:9222"] {
            assert!(route(&Method::GET, "/json", Some(host), None, 9222).is_ok(), "{host}");
            assert_eq!(route(&Method::GET, "/json", Some(host), Some("null"), 9222).unwrap_err().status, 403);
        }
    }

    #[test]
    fn answers_show_what_is_allowed() {
        let rules =
            Rules::new(
                [super::super::Rule::new(None, None, Some("http://localhost:3000/*".parse().unwrap())).unwrap()],
            );
        let owned = Owned::default();
        let page = |url: &str| {
            json!({"id": "A", "type": "page", "title": "T", "url": url, "webSocketDebuggerUrl": "ws://x/devtools/page/A",
            "devtoolsFrontendUrl": "secret", "faviconUrl": "secret"})
        };
        assert!(is_visible(&rules, &owned, &page("http://localhost:3000/x")));
        assert!(!is_visible(&rules, &owned, &page("http://localhost:3001/x")));
        assert!(!is_visible(&rules, &owned, &page("about:blank")));
        owned.add("A");
        assert!(is_visible(&rules, &owned, &page("about:blank")));
        let told = entry(&page("http://localhost:3000/x"), "localhost:9222");
        assert_eq!(told["webSocketDebuggerUrl"], "ws://localhost:9222/devtools/page/A");
        assert!(!told.to_string().contains("secret"));
        let told = version(
            &json!({"Browser": "Chrome/1", "webSocketDebuggerUrl": "ws://x/devtools/browser/secret"}),
            "localhost:9222",
        );
        assert!(!told.to_string().contains("secret") && told["Browser"] == "Chrome/1");
    }

    #[test]
    fn a_new_page_goes_where_it_was_judged() {
        let rules =
            Rules::new(
                [super::super::Rule::new(None, None, Some("http://localhost:3000/*".parse().unwrap())).unwrap()],
            );
        assert_eq!(
            new_page(&rules, "http://LOCALHOST:3000/a b?c=%20").unwrap(),
            "/json/new?http%3A%2F%2Flocalhost%3A3000%2Fa%2520b%3Fc%3D%2520"
        );
        for url in [
            "file:///etc/passwd",
            "chrome://settings",
            "http://localhost:3001/",
            "javascript:1",
            "view-source:http://localhost:3000/",
            "http://u@localhost:3000/",
        ] {
            assert_eq!(new_page(&rules, url).unwrap_err().status, 403, "{url}");
        }
    }
}
