//! The shipped example files are valid, with their alternatives uncommented, too; and no edit of them makes a parser panic.

use std::io;
use std::path::Path;

use proptest::prelude::*;

use super::ca::tests::make_ca;
use super::{Diagnostics, ProjectConfig, ProjectKind, parse_project, parse_vault};

const PROJECT: &str = include_str!("../../agent-creds.example.toml");
const VAULT: &str = include_str!("../../vault.example.toml");

fn project(text: &str) -> Result<ProjectConfig, Diagnostics> {
    let (ca, _) = make_ca();
    let read = move |path: &Path| match path.to_str() {
        Some("/p/private-ca.pem") => Ok(ca.clone().into_bytes()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    parse_project("agent-creds.example.toml", Path::new("/p"), text, &read)
}

/// Removes the `#` of each line where no space follows it: those are settings, the others prose.
fn uncomment(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn the_examples_are_valid_as_they_are() {
    let project = project(PROJECT).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(matches!(project.kind, ProjectKind::Sandbox(_)));
    assert_eq!(project.upstreams.len(), 3);
    let vault = parse_vault("vault.example.toml", VAULT).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(vault.credentials.len(), 6);
}

#[test]
fn what_the_examples_leave_commented_out_is_valid() {
    let (sandbox, gateway) = PROJECT.split_once("# ══ A gateway").unwrap();
    let sandbox = project(&uncomment(sandbox)).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(sandbox.watch, [Path::new("/p/private-ca.pem")]);
    assert_eq!(sandbox.cdp_targets[0].url, Some("http://localhost:3000/*".parse().unwrap()));

    let gateway = project(&uncomment(&format!("#{gateway}"))).unwrap_or_else(|problems| panic!("{problems}"));
    let policy = gateway.policy(None).unwrap();
    assert_eq!((policy.id.as_str(), policy.upstreams.len()), ("ci", 1));

    let vault = parse_vault("v", &uncomment(VAULT)).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(vault.credentials.len(), 10);
    let providers = VAULT.lines().filter_map(|line| line.strip_prefix("#   { provider")?.split_once('}'));
    let providers: Vec<String> = providers.map(|(provider, _)| format!("{{ provider{provider}}}")).collect();
    assert_eq!(providers.len(), 5);
    for provider in providers {
        let text = format!("[credentials.\"a.example\"]\ntype = \"bearer\"\ntoken = {provider}\n");
        parse_vault("v", &text).unwrap_or_else(|problems| panic!("{provider}: {problems}"));
    }
}

#[test]
fn the_examples_name_every_key() {
    // Whoever adds a key to a parser adds it to the example: this list is what the parsers ask for.
    for key in [
        "[sandbox]",
        "name",
        "runtime",
        "image",
        "memory",
        "cpus",
        "use_host_browser",
        "use_host_browser_cdp",
        "[sandbox.env]",
        "from",
        "token",
        "hosts",
        "methods",
        "paths",
        "address",
        "ca",
        "[gateway]",
        "listen",
        "host",
        "[[browser_target]]",
        "url",
        "[[cdp_target]]",
        "type",
        "title",
    ] {
        assert!(PROJECT.contains(key), "{key}");
    }
    for key in [
        "type",
        "bearer",
        "basic",
        "header",
        "token",
        "username",
        "password",
        "value",
        "prefix",
        "provider",
        "sigv4",
        "access_key_id",
        "secret_access_key",
        "session_token",
        "region",
        "service",
    ] {
        assert!(VAULT.contains(key), "{key}");
    }
}

/// One edit: at a place (in thousandths of the text), take away so many characters and put these in.
type Edit = (usize, usize, String);

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let insert = prop_oneof![
        "\\PC{0,8}",
        Just("[".to_owned()),
        Just("\"".to_owned()),
        Just("\n".to_owned()),
        Just("\r\n".to_owned()),
        Just(" = { ".to_owned()),
        Just("é\u{202e}\u{1b}".to_owned()),
        Just("[upstream.\"x".to_owned()),
        Just("\nmethods = [[[[1]]]]\n".to_owned()),
        Just("\n[sandbox]\n".to_owned()),
    ];
    prop::collection::vec((0..1000_usize, 0..40_usize, insert), 1..6)
}

fn apply(text: &str, edits: &[Edit]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (place, remove, insert) in edits {
        let at = chars.len() * place / 1000;
        let end = (at + remove).min(chars.len());
        chars.splice(at..end, insert.chars());
    }
    chars.into_iter().collect()
}

fn places_are_inside(text: &str, problems: &Diagnostics) -> Result<(), TestCaseError> {
    prop_assert!(!problems.0.is_empty());
    let lines: Vec<&str> = text.split('\n').collect();
    for problem in &problems.0 {
        let line = lines.get(problem.line as usize - 1);
        prop_assert!(line.is_some(), "{}", problem);
        let columns = line.map_or(0, |line| line.chars().count());
        prop_assert!((1..=columns + 1).contains(&(problem.column as usize)), "{}", problem);
        prop_assert!(!problem.to_string().replace("\n    help: ", "").contains(char::is_control), "{:?}", problem);
    }
    Ok(())
}

proptest! {
    #[test]
    fn an_edited_example_never_panics_and_every_problem_has_a_place_in_it(edits in edits()) {
        let read = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
        let text = apply(PROJECT, &edits);
        if let Err(problems) = parse_project("p", Path::new("/p"), &text, &read) {
            places_are_inside(&text, &problems)?;
        }
        let text = apply(VAULT, &edits);
        if let Err(problems) = parse_vault("v", &text) {
            places_are_inside(&text, &problems)?;
        }
    }

    #[test]
    fn no_text_panics(text in "[\\[\\]{}\"'=.,# \n\ra-z0-9é]{0,80}") {
        let read = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
        let results = [parse_project("p", Path::new("/p"), &text, &read).err(), parse_vault("v", &text).err()];
        for problems in results.into_iter().flatten() {
            places_are_inside(&text, &problems)?;
        }
    }
}
