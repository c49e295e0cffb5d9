//! Answers to requests, beside the vault's own, and the changes that are proposed, made.

use std::ffi::OsString;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::policy::SandboxPolicy;
use super::screen::{Screen, render, render_json};
use super::tokens::EnvToken;
use super::why::{Answer, Choice, Question, explain};
use super::{show, url};
use crate::domain::decision::{AccessRequest, Decision, Presented, Rules, decide};
use crate::domain::macaroon::{KeyId, Keyring, Restriction, TokenPrefix, mint};
use crate::domain::secret::SigningKey;

const NOW: i64 = 1_800_000_000;
const FILE: Screen = Screen { colour: false, width: None, height: None };

fn key() -> SigningKey {
    SigningKey::new(vec![7; 32]).unwrap()
}

fn token(restrictions: &[Restriction]) -> String {
    mint(&key(), &KeyId::default(), [9; 16], restrictions).unwrap().encode(&TokenPrefix::default()).to_string()
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

fn window(from: i64, to: i64) -> Restriction {
    Restriction::ValidityWindow { not_before: NOW + from, not_after: NOW + to }
}

fn sandbox(name: &str) -> Restriction {
    Restriction::Sandbox(name.parse().unwrap())
}

fn instance(name: &str, instance: &str) -> Restriction {
    Restriction::Instance(name.parse().unwrap(), instance.parse().unwrap())
}

fn policy_json(strict: bool) -> Value {
    json!({
        "version": 1, "sandbox": "box", "instance": "00ff", "token_prefix": "acm_", "strict": strict, "generation": 1,
        "problems": [],
        "upstreams": [
            { "host": "limited.example", "methods": ["GET"], "paths": ["/v1/**"] },
            { "host": "free.example" },
        ],
    })
}

fn policy(strict: bool) -> SandboxPolicy {
    SandboxPolicy::of(&policy_json(strict).to_string())
}

fn tokens(here: &SandboxPolicy, variables: &[(&str, String)]) -> Vec<EnvToken> {
    let variables: Vec<(OsString, OsString)> =
        variables.iter().map(|(name, value)| ((*name).into(), value.clone().into())).collect();
    EnvToken::among(&variables, &here.prefix)
}

fn ask(here: &SandboxPolicy, variables: &[(&str, String)], method: &str, url: &str, choice: Choice) -> Answer {
    let question = Question { url: url.parse().unwrap(), method: method.parse().unwrap(), token: choice };
    explain(here, &tokens(here, variables), &question, NOW.unsigned_abs()).unwrap()
}

fn text(answer: &Answer) -> String {
    render(&answer.lines(), FILE)
}

/// Every mix of strictness, upstream, method, path and caveats: what `why` says is what the vault decides.
#[test]
fn the_answer_is_the_vaults() {
    let restrictions: Vec<Option<Vec<Restriction>>> = vec![
        None,
        Some(vec![]),
        Some(vec![hosts(&["limited.example", "*.other.example"])]),
        Some(vec![hosts(&["free.example"]), methods(&["GET"]), paths(&["/v1/*"])]),
        Some(vec![window(-10, -1)]),
        Some(vec![window(10, 20)]),
        Some(vec![window(-10, 10), sandbox("box")]),
        Some(vec![sandbox("other"), methods(&["POST"])]),
        Some(vec![instance("box", "00ff"), paths(&["/**"])]),
        Some(vec![instance("box", "00fe")]),
        Some(vec![hosts(&["free.example", "limited.example"]), hosts(&["free.example"])]),
    ];
    let mut seen = [0, 0];
    for strict in [false, true] {
        let here = policy(strict);
        let rules = Rules::new([&here.policy], Keyring::single(&key()), TokenPrefix::default(), strict);
        for restrictions in &restrictions {
            let token = restrictions.as_deref().map(token);
            for host in ["limited.example", "free.example", "nowhere.example"] {
                for method in ["GET", "post", "DELETE"] {
                    for target in ["/", "/v1", "/v1/x?y=/v2", "/v2", "/v1/a%20b", "/v1/a%00"] {
                        let presented =
                            token.as_deref().map_or(Presented::None, |token| Presented::Token(token.into()));
                        let request =
                            AccessRequest { sandbox: "box", host, method, target, token: presented, behind: None };
                        let decision = decide(&rules, &request, NOW.unsigned_abs());
                        let variables = token.iter().map(|token| ("TOKEN", token.clone())).collect::<Vec<_>>();
                        let choice = match token {
                            Some(_) => Choice::Variable("TOKEN".to_owned()),
                            None => Choice::None,
                        };
                        let answer = ask(&here, &variables, method, &format!("https://{host}{target}"), choice.clone());
                        let allowed = !matches!(decision, Decision::Deny(_));
                        assert_eq!(answer.allowed, allowed, "{method} {host}{target} {restrictions:?}: {answer:?}");
                        assert_eq!(answer.allowed, text(&answer).contains("\nallowed"), "{answer:?}");
                        assert!(
                            answer.allowed || text(&answer).lines().count() > 2,
                            "a refusal has its reason: {answer:?}"
                        );
                        seen[usize::from(answer.allowed)] += 1;
                    }
                }
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
}

/// What `agent-creds.toml` would be with the change made, as a policy and the restrictions of the variable's token.
fn made(here: &Value, toml: &str) -> (Value, Option<Vec<Restriction>>) {
    let change: Value = toml::from_str(toml).unwrap();
    let mut after = here.clone();
    let upstreams = after["upstreams"].as_array_mut().unwrap();
    for (host, limits) in change["upstream"].as_object().into_iter().flatten() {
        let at = upstreams.iter().position(|upstream| upstream["host"] == **host).unwrap_or_else(|| {
            upstreams.push(json!({ "host": host }));
            upstreams.len() - 1
        });
        for (key, value) in limits.as_object().unwrap() {
            upstreams[at][key] = value.clone();
        }
    }
    let restrictions = change["sandbox"]["env"].as_object().map(|env| {
        let token = &env.values().next().unwrap()["token"];
        let list = |key: &str| -> Option<Vec<&str>> {
            token[key].as_array().map(|all| all.iter().map(|text| text.as_str().unwrap()).collect())
        };
        let limits = [list("methods").map(|all| methods(&all)), list("paths").map(|all| paths(&all))];
        let always = [hosts(&list("hosts").unwrap()), instance("box", "00ff"), window(-1, 3600)];
        always.into_iter().chain(limits.into_iter().flatten()).collect()
    });
    (after, restrictions)
}

/// Whoever does what is proposed has the request allowed: nothing is left out, and nothing has to be asked twice.
#[test]
fn the_change_allows_the_request() {
    let tokens: Vec<Option<Vec<Restriction>>> = vec![
        None,
        Some(vec![sandbox("other"), hosts(&["limited.example"])]),
        Some(vec![hosts(&["free.example"]), methods(&["HEAD"]), paths(&["/x/**", "/y"])]),
        Some(vec![window(-20, -10), methods(&["GET"]), methods(&["PUT"])]),
    ];
    let mut proposed = 0;
    for strict in [false, true] {
        let before = policy_json(strict);
        let here = SandboxPolicy::of(&before.to_string());
        for restrictions in &tokens {
            for host in ["limited.example", "free.example", "nowhere.example"] {
                for (method, target) in [("GET", "/"), ("POST", "/v1/x?q=1"), ("DELETE", "/v2/\"a\\b")] {
                    let url = format!("https://{host}{target}");
                    let variables: Vec<_> = restrictions.iter().map(|all| ("TOKEN", token(all))).collect();
                    let choice = if variables.is_empty() { Choice::Any } else { Choice::Variable("TOKEN".to_owned()) };
                    let answer = ask(&here, &variables, method, &url, choice.clone());
                    let Some(change) = &answer.change else {
                        assert!(answer.allowed, "{answer:?}");
                        continue;
                    };
                    proposed += 1;
                    let (after, minted) = made(&before, &change.toml);
                    let here = SandboxPolicy::of(&after.to_string());
                    let variables: Vec<_> = match minted {
                        Some(minted) => vec![("NEW", token(&minted))],

                        None => variables,
                    };
                    let again = ask(&here, &variables, method, &url, Choice::Any);
                    assert!(again.allowed, "{method} {url}\n{}\n{}", text(&answer), text(&again));
                }
            }
        }
    }
    assert!(proposed > 40, "{proposed}");
}

#[test]
fn what_no_setting_can_allow_is_said_at_once() {
    let here = policy(false);
    let mine = token(&[]);
    for (url, part) in [
        ("http://free.example/", "use https://"),
        ("ws://free.example/", "use wss://"),
        ("ssh://free.example/x", "only HTTPS"),
        ("https://10.0.0.7/", "is an IP address"),
        ("https://[::1]:8443/", "is an IP address"),
        (&format!("https://free.example/{mine}"), "a token in the URL"),
        (&format!("https://free.example/?key={mine}"), "a token in the URL"),
    ] {
        let answer = ask(&here, &[("TOKEN", mine.clone())], "GET", url, Choice::Any);
        assert!(!answer.allowed && answer.change.is_none(), "{answer:?}");
        assert!(text(&answer).contains(part), "{}", text(&answer));
        assert!(!text(&answer).contains(&mine[10..30]), "{}", text(&answer));
    }
    let wss = ask(&here, &[], "GET", "wss://free.example:8443/a/../b", Choice::Any);
    assert!(wss.allowed && wss.notes.iter().any(|note| note.contains("port")), "{wss:?}");
    assert!(wss.notes.iter().any(|note| note == "Envoy takes the path as /b"), "{wss:?}");
}

#[test]
fn tokens_for_elsewhere_do_not_stand_in_the_way() {
    let here = policy(false);
    let variables = [
        ("A", token(&[hosts(&["limited.example"])])),
        ("B", token(&[sandbox("other"), hosts(&["x.example"])])),
        ("C", "acm_x".to_owned()),
    ];
    let pass = ask(&here, &variables, "GET", "https://free.example/", Choice::Any);
    assert!(pass.allowed && pass.with.is_none(), "{pass:?}");
    let with = ask(&here, &variables, "GET", "https://limited.example/v1", Choice::Any);
    assert_eq!((with.allowed, with.with.as_deref()), (true, Some("A")));
    assert!(!ask(&here, &variables, "GET", "https://free.example/", Choice::Variable("A".to_owned())).allowed);
    assert!(!ask(&policy(true), &variables, "GET", "https://free.example/", Choice::Any).allowed);
    let expired = [("OLD", token(&[window(-20, -10)]))];
    let expired = ask(&here, &expired, "GET", "https://free.example/", Choice::Any);
    let change = expired.change.unwrap();
    assert!(!expired.allowed && change.toml.is_empty() && change.then[0].contains("minted anew"), "{change:?}");
    let question = Question {
        url: "free.example".parse().unwrap(),
        method: "GET".parse().unwrap(),
        token: Choice::Variable("HOME".to_owned()),
    };
    let error = explain(&here, &tokens(&here, &variables), &question, 0).unwrap_err().to_string();
    assert!(error.ends_with("those that do: A, B, C"), "{error}");
}

#[test]
fn all_is_shown_and_no_token_is() {
    let here = policy(false);
    let mine = token(&[hosts(&["limited.example"]), methods(&["GET"]), window(-10, 3600), instance("box", "00ff")]);
    let other = token(&[sandbox("other")]);
    let past_life = token(&[instance("box", "00fe"), window(-20, -10)]);
    let variables =
        [("MINE", mine.clone()), ("OTHER", format!("Bearer {other}")), ("PAST", past_life), ("BAD", "acm_".to_owned())];
    let tokens = tokens(&here, &variables);
    let shown = render(&show::overview(&here, &tokens, NOW), FILE);
    for part in [
        "limited.example  GET on /v1/**",
        "free.example     every request",
        "  MINE\n    hosts    limited.example\n    methods  GET\n    time     valid, expires in 1h\n    sandbox  this one",
        "for another sandbox (other): it will be refused here",
        "for another sandbox (box/00fe)",
        "expired 10s ago",
        "  BAD\n    broken: ",
    ] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    let json = show::overview_json(&here, &tokens, NOW);
    let of = |name: &str| json["tokens"].as_array().unwrap().iter().find(|token| token["variable"] == name).unwrap();
    assert_eq!((&of("MINE")["for_this_sandbox"], &of("MINE")["problem"]), (&json!(true), &Value::Null));
    assert_eq!((&of("OTHER")["for_this_sandbox"], &of("PAST")["time"]), (&json!(false), &json!("expired")));
    assert!(of("BAD")["problem"].is_string());
    assert_eq!(json["upstreams"][1], json!({ "host": "limited.example", "methods": ["GET"], "paths": ["/v1/**"] }));
    let screen = Screen { colour: true, width: Some(40), height: Some(24) };
    let greeting = render(&show::greeting(&here, &tokens, NOW, screen), screen);
    assert!(greeting.lines().count() <= 12, "{greeting}");
    for text in [shown, render_json(&json), greeting] {
        assert!(!text.contains(&mine[10..40]) && !text.contains(&other[10..40]), "{text}");
    }
}

proptest! {
    #[test]
    fn nothing_in_the_environment_or_a_url_reaches_the_terminal_raw(
        name in "\\PC{1,20}|[\\x00-\\x1f\\x7f-\\u{9f}A]{1,10}",
        value in "acm_\\PC{0,60}|[\\x01-\\u{ff}]{0,60}",
        given in "https://free.example/\\PC{0,40}|[\\x01-\\u{ff}]{0,40}",
    ) {
        let here = policy(false);
        let tokens = tokens(&here, &[(name.as_str(), value), ("MINE", token(&[]))]);
        let mut texts = vec![
            render(&show::overview(&here, &tokens, NOW), FILE),
            render_json(&show::overview_json(&here, &tokens, NOW)),
        ];
        if let Ok(url) = given.parse::<url::Url>() {
            let question = Question { url, method: "GET".parse().unwrap(), token: Choice::Any };
            let answer = explain(&here, &tokens, &question, NOW.unsigned_abs()).unwrap();
            texts.extend([text(&answer), render_json(&answer.json())]);
        }
        for text in texts {
            prop_assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{:?}", text);
        }
    }
}
