use super::*;

fn rule(url: &str) -> Rules {
    Rules::new([Rule::new(None, None, Some(url)).unwrap()])
}

fn allows(pattern: &str, url: &str) -> bool {
    rule(pattern).judge("page", "", url) == Match::Yes
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
fn a_rule_needs_something_that_can_match() {
    for text in ["file:///etc/*", "https://user@example.com/", "https://example.com/?a=*", ""] {
        assert!(matches!(Rule::new(None, None, Some(text)), Err(RuleError::Url(_))), "{text}");
    }
    assert_eq!(Rule::new(None, None, None), Err(RuleError::Empty));
}

#[test]
fn all_that_is_given_must_match() {
    let rules = Rules::new([Rule::new(Some("page"), Some("*My App*"), Some("http://localhost:3000/*")).unwrap()]);
    assert_eq!(rules.judge("page", "x My App y", "http://localhost:3000/"), Match::Yes);
    assert_eq!(rules.judge("page", "Mail", "http://localhost:3000/"), Match::ButTitle);
    assert_eq!(rules.judge("iframe", "My App", "http://localhost:3000/"), Match::No);
    assert_eq!(rules.judge("page", "My App", "http://localhost:3001/"), Match::No);
    assert_eq!(Rules::default().judge("page", "My App", "http://localhost:3000/"), Match::No);
    let url = WebUrl::parse("http://localhost:3000/x").unwrap();
    assert!(rules.allow_navigation(&url));
    assert_eq!(rules.origins().collect::<Vec<_>>(), ["http://localhost:3000"]);
}
