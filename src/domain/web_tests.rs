use proptest::prelude::*;

use super::UrlPatternError::{Character, Host, Path, Port, Query, Scheme, User};
use super::*;

fn allows(pattern: &str, url: &str) -> bool {
    let pattern = UrlPattern::from_str(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
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
fn a_pattern_of_the_old_kind_stays_within_its_parts() {
    for (pattern, url) in [
        ("https://claude.ai/oauth/authorize*", "https://claude.ai/oauth/authorize?code=true&state=x#y"),
        ("https://claude.ai/oauth/authorize", "https://claude.ai/oauth/authorize?code=true"),
        ("*claude.ai/oauth*", "https://claude.ai/oauth/authorize"),
        ("claude.ai/oauth*", "http://claude.ai/oauth/authorize"),
        ("*claude.ai*", "https://claude.ai/any?where"),
        ("https://h.example/é*", "https://h.example/%C3%A9t%C3%A9"),
        ("https://h.example/a%20b", "https://h.example/a b"),
        ("http://*/*", "http://10.0.0.1/x"),
        // To a browser, a `\\` is a `/`, and what follows is no host.
        ("https://claude.ai/@evil*", "https://claude.ai\\@evil.example/"),
    ] {
        assert!(allows(pattern, url), "{pattern} {url}");
    }
    for (pattern, url) in [
        ("*claude.ai/oauth*", "https://evil.example/?claude.ai/oauth"),
        ("*claude.ai/oauth*", "https://evil.example/#claude.ai/oauth"),
        ("*claude.ai/oauth*", "https://evil.example/claude.ai/oauth"),
        ("*claude.ai/oauth*", "https://claude.ai@evil.example/oauth"),
        ("*claude.ai/oauth*", "https://claude.ai:x@evil.example/oauth"),
        ("*claude.ai/oauth*", "https://notclaude.ai/oauth"),
        ("*claude.ai*", "https://claude.ai.evil.example/"),
        ("*.claude.ai/*", "https://evil.example/.claude.ai/"),
        ("https://claude.ai/oauth/authorize*", "https://claude.ai/oauth/authorize/../../evil"),
        ("https://claude.ai/oauth/authorize*", "https://claude.ai/oauth/authorize%2f..%2f/../../evil"),
        ("https://claude.ai/*", "https://evil.example\\@claude.ai/"),
        ("https://claude.ai/*", "https://claude.ai./"),
        ("https://claude.ai/*", "http://claude.ai/"),
        ("https://claude.ai/*", "https://claude.ai:444/"),
        ("https://*/*", "javascript:alert(1)"),
        ("https://*/*", "mailto:a@claude.ai"),
        ("https://*/*", "https:///"),
    ] {
        assert!(!allows(pattern, url), "{pattern} {url}");
    }
}

#[test]
fn patterns_that_can_match_nothing_are_refused() {
    for (text, error) in [
        ("file:///etc/*", Scheme),
        ("chrome://settings", Scheme),
        ("javascript:alert(1)", Scheme),
        ("mailto:a@example.com", User),
        ("https://user@example.com/", User),
        ("https://*@example.com/", User),
        ("https://example.com/?a=*", Query),
        ("https://example.com/#a", Query),
        ("*example.com?x", Query),
        ("https://", Host),
        ("https:///x", Host),
        ("https://exa mple.com/", Character),
        ("https://example.com/\u{7f}", Character),
        ("https://example.com:99999/", Port),
        ("https://example.com:0/", Port),
        ("https://example.com:/", Port),
        ("https://a..*.com/", Host),
        ("https://ex^mple.com/", Host),
        ("https://example.com/a/../b", Path),
        ("https://example.com/a/%2E./b", Path),
        ("https://example.com/a\\b", Path),
        ("*", Host),
        ("", Host),
    ] {
        assert_eq!(UrlPattern::from_str(text), Err(error), "{text}");
    }
}

#[test]
fn what_is_shown_of_a_url_has_no_query() {
    let url = WebUrl::parse("https://h.example:8443/a?code=x#y").unwrap();
    assert_eq!(url.place(), "https://h.example:8443/a");
    assert_eq!(url.origin(), "https://h.example:8443");
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

proptest! {
    #[test]
    fn whatever_stands_in_query_and_fragment_changes_nothing(path in "/[a-z/]{0,8}", query in "\\PC{0,40}", fragment in "\\PC{0,40}") {
        let pattern = UrlPattern::from_str("https://claude.ai/oauth*").unwrap();
        let plain = WebUrl::parse(&format!("https://claude.ai{path}")).unwrap();
        let full = WebUrl::parse(&format!("https://claude.ai{path}?{query}#{fragment}")).unwrap();
        prop_assert_eq!(pattern.matches(&plain), pattern.matches(&full));
        prop_assert_eq!(plain.place(), full.place());
    }

    #[test]
    fn no_url_of_another_host_matches(text in "[a-z:/@?#.*\\\\%]{0,30}(claude\\.ai)?[a-z:/@?#.*\\\\%]{0,30}") {
        for scheme in ["", "https://", "http:", "https:/\\"] {
            let Some(url) = WebUrl::parse(&format!("{scheme}{text}")) else { continue };
            let pattern = UrlPattern::from_str("*claude.ai/*").unwrap();
            prop_assert_eq!(pattern.matches(&url), url.url().host_str() == Some("claude.ai") && url.url().port().is_none());
        }
    }

    #[test]
    fn a_pattern_without_stars_matches_the_url_it_is(text in "https?://[a-z]{1,5}\\.example(:[1-9][0-9]{0,3})?/[ -~]{0,12}") {
        let Some(url) = WebUrl::parse(&text) else { return Ok(()) };
        if let Ok(pattern) = UrlPattern::from_str(url.place()) {
            prop_assert!(pattern.matches(&url));
        }
        let _ = UrlPattern::from_str(&text);
    }

    #[test]
    fn nothing_panics(text in "\\PC{0,60}") {
        let _ = UrlPattern::from_str(&text);
        let _ = WebUrl::parse(&text);
    }
}
