//! What a refusal offers to copy (`domain/decision/remedy.rs`) is what the parsers take, and allows the request that was refused.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use clap::Parser;
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::{Args, Environment, Streams, run};
use crate::config::{parse_project, parse_vault};
use crate::domain::decision::{AccessRequest, Decision, Denial, Offer, Presented, Rules, decide, remedy};
use crate::domain::macaroon::{Keyring, TokenPrefix};
use crate::domain::quoting::{shell_word, toml_array, toml_string};
use crate::domain::secret::SigningKey;

const NOW: i64 = 1_800_000_000;
const KEY: [u8; 32] = [7; 32];

/// The lines of `[upstream."limited.example"]`.
type Lines = BTreeMap<String, String>;

/// What `agent-creds.toml` allows; `lines` are those of one upstream, the other has none.
fn rules(lines: &Lines) -> Rules {
    let lines: String = lines.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    let text = format!(
        "[gateway]\nname = \"box\"\nlisten = \"127.0.0.1:1\"\n[upstream.\"free.example\"]\n[upstream.\"limited.example\"]\n{lines}"
    );
    let missing = |_: &Path| Err(std::io::Error::from(std::io::ErrorKind::NotFound));
    let project = parse_project("agent-creds.toml", Path::new("/p"), &text, &missing);
    let policy = project.unwrap_or_else(|problems| panic!("{text}\n{problems}")).policy(None).unwrap();
    Rules::new([&policy], Keyring::single(&SigningKey::new(KEY.to_vec()).unwrap()), TokenPrefix::default(), true)
}

/// The words of a command line, as a shell reads them.
fn words(command: &str) -> Vec<String> {
    let script = format!("mint() {{ printf '%s\\0' \"$@\"; }}; {command}");
    // Where no name matches a pattern that lacks its quotes.
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("sh").args(["-c", &script]).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{command}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// Runs `mint` with these arguments.
fn minted(state: &Path, arguments: &[String]) -> String {
    let arguments = std::iter::once("mint").chain(arguments.iter().map(String::as_str));
    let state = ["--state-dir".as_ref(), state.as_os_str()];
    let arguments = arguments.map(std::ffi::OsStr::new).chain(state);
    let args = Args::try_parse_from(arguments).unwrap_or_else(|error| panic!("{error}"));
    let key = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, KEY);
    let environment = Environment { signing_key: Some(Zeroizing::new(key)), ..Environment::default() };
    let (mut output, mut error) = (Vec::new(), Vec::new());
    let mut streams = Streams { input: &mut std::io::empty(), output: &mut output, error: &mut error };
    run(args, &environment, NOW, &mut streams).unwrap();
    String::from_utf8(output).unwrap().trim().to_owned()
}

/// A request, with what it is sent with.
#[derive(Debug, Clone)]
struct Attempt {
    host: &'static str,
    method: String,
    target: String,
    limits: Lines,
    token: Option<Vec<String>>,
}

/// Follows what is offered until the request is allowed, or nothing is offered; returns the last refusal then. No offer may be
/// one that does not help.
fn follow(attempt: &Attempt, state: &Path) -> Option<Denial> {
    let mut limits = attempt.limits.clone();
    let mut token = attempt.token.as_ref().map(|arguments| minted(state, arguments));
    let mut last: Option<Denial> = None;
    loop {
        let rules = rules(&limits);
        let presented = token.as_deref().map_or(Presented::None, |token| Presented::Token(token.into()));
        let (host, method, target) = (attempt.host, attempt.method.as_str(), attempt.target.as_str());
        let request = AccessRequest { sandbox: "box", host, method, target, token: presented, behind: None };
        let denial = match decide(&rules, &request, NOW.try_into().unwrap()) {
            Decision::Deny(denial) => denial,
            _ => return None,
        };
        let repeated = last.as_ref().is_some_and(|last| last.reason() == denial.reason());
        assert!(!repeated, "what was offered did not help: {last:?}, then {denial:?}");
        let Some(offer) = remedy(&rules, &request, &denial).offer else { return Some(denial) };
        match &offer {
            Offer::Command(command) => token = Some(minted(state, &words(command))),
            Offer::Toml { section, lines } => {
                assert_eq!(section, &format!("[upstream.\"{}\"]", attempt.host));
                for line in lines {
                    let (key, value) = line.split_once(" = ").unwrap();
                    limits.insert(key.to_owned(), value.to_owned());
                }
                // As it stands, it is a file.
                let file: toml::Table = offer.text().parse().unwrap();
                assert_eq!(file["upstream"][attempt.host].as_table().unwrap().len(), lines.len());
            }
        }
        last = Some(denial);
    }
}

fn attempts() -> impl Strategy<Value = Attempt> {
    let path = prop_oneof!["/[a-z']{0,5}(/[a-z0-9$`\"'&;|<>(){}~!=+:@^_. -]{0,8}){0,3}", "/[!-~]{0,20}", "/v1/[a-c]"];
    let method = prop::sample::select(vec!["GET", "POST", "DELETE", "get", "-X", "M-SEARCH", "A'B"]);
    let limits = (any::<bool>(), any::<bool>()).prop_map(|(methods, paths)| {
        let lines = [(methods, "methods", "[\"GET\"]"), (paths, "paths", "[\"/v1/**\"]")];
        lines.iter().filter(|(set, ..)| *set).map(|(_, key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    });
    let option = |option: &'static str, value: &'static str| {
        prop::option::of(Just(vec![option.to_owned(), value.to_owned()])).prop_map(Option::unwrap_or_default)
    };
    let token = (
        option("--hosts", "other.example,*.b.example"),
        option("--methods", "HEAD"),
        option("--paths", "/v1/a,/v2/**"),
        option("--sandbox", "another"),
        prop_oneof![Just(Vec::new()), Just(vec!["--not-before".to_owned(), "2h".to_owned()])],
    );
    let token = prop::option::weighted(0.9, token.prop_map(|(a, b, c, d, e)| [a, b, c, d, e].concat()));
    let host = prop::sample::select(vec!["free.example", "limited.example"]);
    (host, method, path, limits, token).prop_map(|(host, method, target, limits, token)| Attempt {
        host,
        method: method.to_owned(),
        target,
        limits,
        token,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_offered_allows_the_request(attempt in attempts()) {
        let state = tempfile::tempdir().unwrap();
        if let Some(denial) = follow(&attempt, state.path()) {
            // Nothing was offered, because nothing can be written that allows this and no more.
            let path = attempt.target.split(['?', '#']).next().unwrap();
            let odd = path.contains(['*', ',', '\\', ' ', '%']) || path.contains("//") || path.contains("/.");
            prop_assert!(odd || attempt.method == "A'B", "{:?}: {:?}", attempt, denial);
        }
    }

    #[test]
    fn toml_reads_back_what_was_written(texts in prop::collection::vec(any::<String>(), 0..4)) {
        let line = format!("texts = {}", toml_array(&texts));
        prop_assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        let read: toml::Table = line.parse().unwrap();
        let read: Vec<&str> = read["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        prop_assert_eq!(read, texts);
    }
}

/// The usual ones, so that the law above does not hold of nothing.
#[test]
fn the_usual_requests_are_allowed_by_what_is_offered() {
    let state = tempfile::tempdir().unwrap();
    let limits: Lines = [("methods", "[\"GET\"]"), ("paths", "[\"/v1/**\"]")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let all = ["--hosts", "other.example", "--methods", "HEAD", "--paths", "/v1/a", "--sandbox", "another"];
    for token in [None, Some(vec![]), Some(all.map(str::to_owned).to_vec())] {
        for (method, target) in [("POST", "/v1/customers?x=1"), ("DELETE", "/v2/it's $(id)".split(' ').next().unwrap())]
        {
            let (method, target) = (method.to_owned(), target.to_owned());
            let attempt =
                Attempt { host: "limited.example", method, target, limits: limits.clone(), token: token.clone() };
            assert_eq!(follow(&attempt, state.path()), None, "{attempt:?}");
        }
    }
}

#[test]
fn a_shell_reads_back_what_was_written() {
    let nasty: Vec<String> = (1_u8..=127).map(|byte| format!("a{}b", char::from(byte))).collect();
    let line: Vec<String> = nasty.iter().map(|text| shell_word(text)).collect();
    assert_eq!(words(&format!("mint {}", line.join(" "))), nasty);
    assert_eq!(words("mint '' \"\""), ["", ""]);
    // Without the `=`, it would be another option.
    let state = tempfile::tempdir().unwrap();
    assert!(minted(state.path(), &words("mint --methods=-X")).starts_with("acm_"));
}

#[test]
fn what_is_offered_for_the_vault_is_a_valid_file() {
    let hosts = ["api.stripe.com", "api.anthropic.com", "1.example", &format!("{}.example", "a-".repeat(30) + "b")];
    let rules = rules(&Lines::new());
    for host in hosts {
        let denial = Denial::NoCredential(host.parse().unwrap());
        let request = AccessRequest {
            sandbox: "box",
            host: "free.example",
            method: "GET",
            target: "/",
            token: Presented::None,
            behind: None,
        };
        let text = remedy(&rules, &request, &denial).offer.unwrap().text();
        let vault = parse_vault("vault.toml", &text).unwrap_or_else(|problems| panic!("{text}\n{problems}"));
        assert_eq!(vault.credentials.len(), 1, "{}", toml_string(host));
    }
}
