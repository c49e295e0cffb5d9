//! Paths that mean to be two things at once: each is judged as the upstream sees it, or refused.

use http::Uri;

use super::{STRIPE, World};
use crate::support::client::Proto;

/// What becomes of a request target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The upstream sees this.
    Seen(&'static str),
    /// The vault refuses it.
    Forbidden,
    /// Envoy refuses it.
    Bad,
}

use Outcome::{Bad, Forbidden, Seen};

/// Under `paths = ["/v1/public/**"]`.
const TARGETS: &[(&str, Outcome)] = &[
    ("/v1/public/a", Seen("/v1/public/a")),
    ("/v1/public", Seen("/v1/public")),
    ("/v1/public/a%20b", Seen("/v1/public/a%20b")),
    ("/v1/public/...", Seen("/v1/public/...")),
    ("/v1/secret", Forbidden),
    ("/v1/publicity", Forbidden),
    ("/V1/public/a", Forbidden),
    ("/", Forbidden),
    // Dot segments.
    ("/v1/public/./a", Seen("/v1/public/a")),
    ("/v1/secret/../public/a", Seen("/v1/public/a")),
    ("/v1/public/../secret", Forbidden),
    ("/v1/public/a/../../secret", Forbidden),
    ("/v1/public/..", Forbidden),
    ("/v1/public/../../../../v1/secret", Forbidden),
    ("/v1/public/%2e%2e/secret", Forbidden),
    ("/v1/public/%2E%2e/secret", Forbidden),
    ("/v1/public/.%2e/secret", Forbidden),
    ("/v1/public/%2e./secret", Forbidden),
    // Slashes and what some servers take for them.
    ("//v1/public/a", Seen("/v1/public/a")),
    ("/v1//public///a", Seen("/v1/public/a")),
    ("/v1/public//../secret", Seen("/v1/public/secret")),
    ("/v1/public//../../secret", Forbidden),
    ("/v1/public/..%2fsecret", Forbidden),
    ("/v1/public/..%2Fsecret", Forbidden),
    ("/v1%2fpublic/a", Forbidden),
    ("/v1/public/a%2fb", Seen("/v1/public/a%2fb")),
    ("/v1/public%2Fa", Forbidden),
    ("/v1/public/a%2f%2e%2e%2f..%2fsecret", Forbidden),
    ("/v1/public/a%2F../../secret", Seen("/v1/public/secret")),
    ("/v1/public/a%2F../../../secret", Forbidden),
    ("/v1/public/a%2F/b", Forbidden),
    ("/v1/secret%2F../public/a", Forbidden),
    ("/v1/public/..%5csecret", Forbidden),
    ("/v1/public/..%5Csecret", Forbidden),
    ("/v1/public/..\\secret", Forbidden),
    ("/v1/public\\..\\secret", Forbidden),
    ("/v1/public\\a", Seen("/v1/public/a")),
    ("\\v1\\public\\a", Bad),
    // Path parameters.
    ("/v1/public/..;/secret", Forbidden),
    ("/v1/public/..;a=b/secret", Forbidden),
    ("/v1/public/.;/secret", Seen("/v1/public/secret")),
    ("/v1/public/%2e%2e;/secret", Forbidden),
    ("/v1/public/..%3b/secret", Forbidden),
    ("/v1/public;/../secret", Forbidden),
    ("/v1/public;x/a", Forbidden),
    ("/v1/public/a;x=1/b", Seen("/v1/public/a;x=1/b")),
    // Encoded twice, and oftener.
    ("/v1/public/%252e%252e/secret", Forbidden),
    ("/v1/public/%25252e%25252e/secret", Forbidden),
    ("/v1/public/%2525252525252e%2e/secret", Forbidden),
    ("/v1/public/..%252fsecret", Forbidden),
    ("/v1/public/%252e%252e%252fsecret", Forbidden),
    ("/v1/public/..%255csecret", Forbidden),
    ("/v1/public/%%32%65%%32%65/secret", Forbidden),
    ("/v1/public/%zz", Forbidden),
    ("/v1/public/%u002e%u002e/secret", Forbidden),
    ("/v1/public/a%0d%0aX:%20y", Forbidden),
    // Query and fragment take no part.
    ("/v1/public/a?x=/../../secret", Seen("/v1/public/a?x=/../../secret")),
    ("/v1/public/a?b?c", Seen("/v1/public/a?b?c")),
    ("/v1/secret?/v1/public/a", Forbidden),
    ("/v1/secret?/../public/a", Forbidden),
    ("/v1/secret%3f/v1/public/a", Forbidden),
    ("/v1/secret%3f/../public/a", Seen("/v1/public/a")),
    ("/v1/secret%23/v1/public/a", Forbidden),
    ("/v1/secret#/v1/public/a", Bad),
    ("/v1/public/a#/../../secret", Bad),
    // Other forms of request targets (RFC 9112 §3.2).
    ("v1/public/a", Bad),
    ("*", Bad),
    ("https://api.stripe.com/v1/public/a", Bad),
    ("http://api.openai.com/v1/public/a", Bad),
    ("api.openai.com:443", Bad),
];

/// What cannot be said in HTTP/2 with this client, or not at all in a Rust string.
const RAW_TARGETS: &[&[u8]] = &[
    b"/v1/public/a\tb",
    b"/v1/public/a b",
    b"/v1/public/\xff\xfe",
    b"/v1/public/a\0/../secret",
    b"/v1/public/a%00/../../secret",
    b"/v1/public/a\x7f",
    b"",
];

#[tokio::test]
async fn every_path_is_judged_as_the_upstream_sees_it() {
    let world = World::start("paths = [\"/v1/public/**\"]").await;
    // With a token that has the same limit, and without one: what is outside is outside for both.
    let token = world.server.token(&["--hosts", STRIPE]);
    let mut wrong = Vec::new();
    for &(target, expected) in TARGETS {
        for authorization in ["", &format!("Authorization: Bearer {token}\r\n")] {
            world.stripe.clear();
            let answer = world
                .raw(format!("GET {target} HTTP/1.1\r\nHost: {STRIPE}\r\nConnection: close\r\n{authorization}\r\n"))
                .await;
            let seen = world.stripe.requests();
            if !agrees(expected, answer.status(), seen.first().map(|seen| seen.path.as_str())) || seen.len() > 1 {
                wrong.push(format!("HTTP/1.1 {target}: {expected:?}, but {} {seen:?}", answer.text()));
            }
        }
        if !target.starts_with('/')
            || target.contains('#')
            || format!("https://{STRIPE}{target}").parse::<Uri>().is_err()
        {
            continue;
        }
        world.stripe.clear();
        let reply = world.client.get(&format!("https://{STRIPE}{target}")).h2().send().await.unwrap();
        let seen = world.stripe.requests();
        if !agrees(expected, reply.status.as_u16(), seen.first().map(|seen| seen.path.as_str())) {
            wrong.push(format!("HTTP/2 {target}: {expected:?}, but {} {seen:?}", reply.status));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(world.openai.request_count(), 0);
}

fn agrees(expected: Outcome, status: u16, seen: Option<&str>) -> bool {
    match expected {
        Seen(path) => status == 200 && seen == Some(path),
        Forbidden => status == 403 && seen.is_none(),
        Bad => matches!(status, 400 | 404) && seen.is_none(),
    }
}

#[tokio::test]
async fn bytes_that_no_path_has_do_not_arrive() {
    let world = World::start("paths = [\"/v1/public/**\"]").await;
    for &target in RAW_TARGETS {
        let request = [b"GET ", target, b" HTTP/1.1\r\nHost: api.stripe.com\r\n\r\n"].concat();
        let answer = world.raw(request).await;
        let target = String::from_utf8_lossy(target);
        assert!(matches!(answer.status(), 400 | 403 | 404), "{target:?}: {}", answer.text());
        assert_eq!(world.forwarded(), 0, "{target:?}");
    }
}

/// The same for the caveats of a token: no limit of the upstream helps here.
#[tokio::test]
async fn caveats_are_not_tricked_either() {
    let world = World::start("").await;
    let token = world.server.token(&["--hosts", STRIPE, "--paths", "/v1/public/**"]);
    for &(target, expected) in
        TARGETS.iter().filter(|(target, _)| target.starts_with('/') && !target.contains(['#', '\\']))
    {
        world.stripe.clear();
        let call = world.client.get(&format!("https://{STRIPE}{target}")).bearer(&token);
        let reply = call.proto(Proto::H1).send().await.unwrap();
        let seen = world.stripe.requests();
        let path = seen.first().map(|seen| seen.path.as_str());
        assert!(agrees(expected, reply.status.as_u16(), path), "{target}: {expected:?}, but {} {path:?}", reply.status);
    }
}

/// Where nothing is said of paths, names with an escaped slash in them are names: the upstream sees what was sent.
#[tokio::test]
async fn an_escaped_slash_goes_on_as_it_is_where_paths_have_no_limits() {
    let world = World::start("").await;
    let token = world.server.token(&["--hosts", STRIPE]);
    for proto in [Proto::H1, Proto::H2] {
        for path in ["/o/folder%2Fname", "/o/folder%2fname?a=%2F", "/o/a%5Cb", "/o/..%2Fx", "/o/a%252Fb"] {
            let call = world.client.get(&format!("https://{STRIPE}{path}")).bearer(&token).proto(proto);
            let reply = call.send().await.unwrap();
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            assert_eq!(world.stripe.last_request().path, path);
        }
    }
}
