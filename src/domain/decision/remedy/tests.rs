//! What is offered for each refusal; that it works is tested where files and `mint` are read (`cli/mint/offers_tests.rs`).

use super::super::tests::{key, rules};
use super::super::{Decision, decide};
use super::*;
use crate::domain::macaroon::{KeyId, Restriction, TokenPrefix, attenuate, mint as sign};

const NOW: u64 = 1_800_000_000;

/// What is offered for `METHOD HOST TARGET` with a token of these restrictions, each list of them narrowing the one before.
fn offered(request: &str, narrowings: &[Vec<Restriction>]) -> Remedy {
    let token = narrowings.split_first().map(|(first, more)| {
        let token = sign(&key(7), &KeyId::default(), [9; 16], first).unwrap();
        let token = more.iter().fold(token, |token, narrowing| attenuate(&token, narrowing).unwrap());
        token.encode(&TokenPrefix::default()).to_string()
    });
    let presented = token.map_or(Presented::None, |token| Presented::Token(token.into()));
    let mut words = request.split(' ');
    let mut word = || words.next().unwrap();
    let request =
        AccessRequest { sandbox: "box", method: word(), host: word(), target: word(), token: presented, behind: None };
    let rules = rules(true);
    let Decision::Deny(denial) = decide(&rules, &request, NOW) else { panic!("it is allowed: {request:?}") };
    remedy(&rules, &request, &denial)
}

fn command(request: &str, narrowings: &[Vec<Restriction>]) -> String {
    match offered(request, narrowings) {
        Remedy { offer: Some(Offer::Command(command)), .. } => command,
        other => panic!("no command in {other:?}"),
    }
}

fn toml(request: &str) -> String {
    match offered(request, &[vec![]]) {
        Remedy { offer: Some(offer @ Offer::Toml { .. }), .. } => offer.text(),
        other => panic!("no TOML in {other:?}"),
    }
}

fn hosts(hosts: &[&str]) -> Restriction {
    Restriction::Hosts(hosts.iter().map(|host| host.parse().unwrap()).collect())
}

fn methods(methods: &[&str]) -> Restriction {
    Restriction::Methods(methods.iter().map(|method| method.parse().unwrap()).collect())
}

fn paths(paths: &[&str]) -> Restriction {
    Restriction::Paths(paths.iter().map(|path| path.parse().unwrap()).collect())
}

fn expired() -> Restriction {
    Restriction::ValidityWindow { not_before: 0, not_after: 1 }
}

#[test]
fn a_limit_is_widened_by_what_was_asked_for() {
    let section = "[upstream.\"limited.example\"]\n";
    assert_eq!(toml("POST limited.example /v1/x"), format!("{section}methods = [\"GET\", \"POST\"]\n"));
    assert_eq!(toml("GET limited.example /v2?a"), format!("{section}paths = [\"/v1/**\", \"/v2\"]\n"));
    // Both at once, or the next answer would be another refusal.
    let both = format!("{section}methods = [\"GET\", \"POST\"]\npaths = [\"/v1/**\", \"/v2\"]\n");
    assert_eq!(toml("post limited.example /v2"), both);
    let remedy = offered("POST limited.example /v1/x", &[vec![]]);
    let line =
        "in agent-creds.toml, on the host, set under [upstream.\"limited.example\"]: methods = [\"GET\", \"POST\"]";
    assert_eq!(remedy.one_line(), line);
}

#[test]
fn what_no_pattern_stands_for_alone_is_not_offered() {
    for target in ["/v1/../x", "/v2/%2e%2e/x", "/v2/**", "/v2/*", "*", "/v2/\u{e4}", &format!("/{}", "x".repeat(300))] {
        for method in ["GET", "POST"] {
            let remedy = offered(&format!("{method} limited.example {target}"), &[vec![]]);
            assert!(remedy.offer.is_none() && remedy.say.len() > 20, "{method} {target}: {remedy:?}");
        }
        let remedy = offered(&format!("GET free.example {target}"), &[vec![paths(&["/v1"])]]);
        assert!(remedy.offer.is_none() && remedy.say.len() > 20, "{target}: {remedy:?}");
    }
    let remedy = offered("GET free.example /a,b", &[vec![paths(&["/v1"])]]);
    assert!(remedy.offer.is_none(), "mint divides lists at commas: {remedy:?}");
    assert!(offered("M+THOD limited.example /v1", &[vec![]]).offer.is_none());
}

#[test]
fn a_new_token_is_for_this_host_and_sandbox_and_keeps_what_the_old_one_allowed() {
    for (request, narrowings, expected) in [
        ("GET free.example /", vec![], "mint --hosts free.example --sandbox box"),
        ("GET free.example /", vec![vec![expired()]], "mint --hosts free.example --sandbox box"),
        (
            "GET free.example /",
            vec![vec![expired(), methods(&["GET"]), hosts(&["*.a.example", "free.example"])]],
            "mint --hosts '*.a.example,free.example' --methods GET --sandbox box",
        ),
        (
            "POST free.example /",
            vec![vec![methods(&["GET", "HEAD"]), paths(&["/**"])]],
            "mint --hosts free.example --methods GET,HEAD,POST --paths '/**' --sandbox box",
        ),
        (
            "GET free.example /it's?$(id)",
            vec![vec![paths(&["/v1/*"])]],
            r"mint --hosts free.example --paths '/v1/*,/it'\''s' --sandbox box",
        ),
        (
            "GET free.example /",
            vec![vec![hosts(&["other.example"])]],
            "mint --hosts other.example,free.example --sandbox box",
        ),
        (
            "GET free.example /",
            vec![vec![Restriction::Sandbox("other".parse().unwrap())]],
            "mint --hosts free.example --sandbox box",
        ),
        // Everything is wrong with it at once.
        (
            "PUT free.example /x",
            vec![vec![hosts(&["other.example"]), methods(&["GET"]), paths(&["/v1"])]],
            "mint --hosts other.example,free.example --methods GET,PUT --paths /v1,/x --sandbox box",
        ),
        // Several lists of a kind: what the agent added to a token is no reason to offer more than it asked for.
        (
            "PUT free.example /x",
            vec![vec![methods(&["GET"])], vec![methods(&["GET", "DELETE", "PATCH"])]],
            "mint --hosts free.example --methods PUT --sandbox box",
        ),
        (
            "-X free.example /x",
            vec![vec![methods(&["GET"])], vec![methods(&["GET", "DELETE"])]],
            "mint --hosts free.example --methods=-X --sandbox box",
        ),
    ] {
        let narrowings: Vec<Vec<Restriction>> = narrowings;
        assert_eq!(command(request, &narrowings), expected, "{request}");
    }
}

#[test]
fn a_long_token_makes_no_long_command() {
    let many: Vec<String> = (0..20).map(|number| format!("/p{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(offered("GET free.example /x", &[vec![paths(&many)]]).offer.is_none());
    let long: Vec<String> = (0..10).map(|number| format!("/{}{number}", "p".repeat(300))).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    assert!(offered("GET free.example /x", &[vec![paths(&long)]]).offer.is_none());
}

#[test]
fn the_others_say_what_to_do() {
    let rules = rules(false);
    let host: Host = "free.example".parse().unwrap();
    let request =
        |host| AccessRequest { sandbox: "box", host, method: "GET", target: "/", token: Presented::None, behind: None };
    let of = |denial: Denial| remedy(&rules, &request("free.example"), &denial);
    let credential = of(Denial::NoCredential(host.clone())).offer.unwrap().text();
    let expected = "[credentials.\"free.example\"]\ntype = \"bearer\"\ntoken = { provider = \"env\", name = \"FREE_EXAMPLE_KEY\" }\n";
    assert_eq!(credential, expected);
    assert!(of(Denial::CredentialUnavailable(host)).one_line().contains("/readyz"));
    let unknown = remedy(&rules, &request("gone.example"), &Denial::UnknownUpstream("gone.example".to_owned()));
    assert_eq!(unknown.offer.unwrap().text(), "[upstream.\"gone.example\"]\n");
    let odd = remedy(&rules, &request("x\"]\n[y"), &Denial::UnknownUpstream("x".to_owned()));
    assert!(odd.offer.is_none());
    for denial in [
        Denial::SeveralTokens,
        Denial::MisplacedToken("x".to_owned()),
        Denial::Token(TokenError::Base64),
        Denial::Token(TokenError::Signature),
        Denial::Token(TokenError::Revoked),
        Denial::NoToken,
    ] {
        assert!(of(denial.clone()).one_line().len() > 15, "{denial:?}");
    }
}
