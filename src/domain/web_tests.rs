use super::*;

fn allows(pattern: &str, url: &str) -> bool {
    let pattern: UrlPattern = pattern.parse().unwrap();
    WebUrl::parse(url).is_some_and(|url| pattern.matches(&url))
}

#[test]
fn a_url_pattern_stays_within_its_parts() {
    for (pattern, url) in [
        ("http://localhost:3000/*", "http://localhost:3000/a/b?c#d"),
        ("https://app.example.com/x", "https://app.example.com/x?token=1"),
        ("https://app.example.com*", "https://app.example.com/any"),
        ("https://app.example.com", "https://app.example.com/"),
        ("https://*.example.com/*", "https://a.b.example.com/"),
        ("https://app-*.example.com/", "https://app-7.example.com/"),
        ("*example.com/path*", "https://example.com/path/x"),
        ("*://example.com/*", "http://example.com/"),
        ("http://localhost:*/*", "http://localhost:8123/"),
        ("https://EXAMPLE.com/", "https://example.com:443/"),
        ("http://[::1]:3000/*", "http://[::1]:3000/x"),
        ("https://bücher.example/*", "https://xn--bcher-kva.example/"),
        ("http://127.0.0.1:80/*", "http://0x7f.1/"),
        ("https://example.com/b\u{fc}cher/*", "https://example.com/b%C3%BCcher/x"),
        ("https://example.com/a/../b", "https://example.com/b"),
    ] {
        assert!(allows(pattern, url), "{pattern} {url}");
    }
    for (pattern, url) in [
        ("https://app.example.com*", "https://app.example.com.evil.com/"),
        ("https://app.example.com/*", "https://evil.com/?x=https://app.example.com/"),
        ("https://app.example.com/*", "https://evil.com/#https://app.example.com/"),
        ("https://app.example.com/*", "https://app.example.com@evil.com/"),
        ("https://app.example.com/*", "https://user@app.example.com/"),
        ("https://app.example.com/*", "https://app.example.com:8443/"),
        ("https://app.example.com/*", "http://app.example.com/"),
        ("https://*.example.com/*", "https://evil.com/.example.com/"),
        ("https://*.example.com/*", "https://evilexample.com/"),
        ("https://*.example.com/*", "https://example.com/"),
        ("https://app-*.example.com/", "https://app-7.evil.example.com/"),
        ("*example.com/path*", "https://evilexample.com/path"),
        ("*example.com/path*", "https://evil.com/example.com/path"),
        ("*example.com/path*", "https://evil.com/?example.com/path"),
        ("https://example.com/a", "https://example.com/a/../b"),
        ("https://example.com/a/*", "https://example.com/a/../b"),
        ("*://*/*", "file:///etc/passwd"),
        ("*://*/*", "chrome://settings/"),
        ("*://*/*", "view-source:https://example.com/"),
        ("*://*/*", "devtools://devtools/x"),
        ("*://*/*", "chrome-extension://abc/x"),
        ("*://*/*", "javascript:alert(1)"),
        ("*://*/*", "data:text/html,x"),
        ("*://*/*", "blob:https://example.com/1"),
        ("*://*/*", "about:blank"),
        ("*://*/*", ""),
    ] {
        assert!(!allows(pattern, url), "{pattern} {url}");
    }
}

#[test]
fn patterns_that_can_match_nothing_are_refused() {
    for text in [
        "file:///etc/*",
        "chrome://settings",
        "https://user@example.com/",
        "https://example.com/?a=*",
        "https://example.com/#a",
        "https://",
        "https://exa mple.com/",
        "https://example.com:99999/",
        "",
    ] {
        assert_eq!(text.parse::<UrlPattern>(), Err(UrlPatternError), "{text}");
    }
}

#[test]
fn stars_match_any_text() {
    for (pattern, text, expected) in [
        ("*", "", true),
        ("a*c", "abc", true),
        ("a*c", "ac", true),
        ("a*c", "ab", false),
        ("*a*b*", "xxaxxbxx", true),
        ("**", "é", true),
        ("a", "ab", false),
    ] {
        assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
    }
}
