use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::*;
use crate::config;

const VAULT: &str = r#"[credentials."a.example"]
type = "bearer"
token = { provider = "env", name = "A_KEY" }
[credentials."b.example"]
type = "basic"
username = { provider = "env", name = "B_USER" }
password = { provider = "env", name = "B_PASSWORD" }
[credentials."*.c.example"]
type = "header"
name = "x-api-key"
value = { provider = "env", name = "sk_live_51H" }
[credentials."d.example"]
type = "headers"
headers = { x-d1 = { provider = "env", name = "A_KEY" }, x-d2 = { provider = "env", name = "D_KEY" } }
[credentials."e.example"]
type = "query"
name = "key"
value = { provider = "env", name = "E_KEY" }
"#;

const GOOD: [(&str, &[u8]); 6] = [
    ("A_KEY", b"secret-a"),
    ("B_USER", b"secret-b"),
    ("B_PASSWORD", b"secret:b"),
    ("sk_live_51H", b"secret-c"),
    ("D_KEY", b"secret-d"),
    ("E_KEY", b"secret-e"),
];

/// What is wrong when these variables are other than [`GOOD`]; `None` is one that is not set.
fn problems(changes: &[(&str, Option<&[u8]>)]) -> Vec<Diagnostic> {
    let vault = config::parse_vault("vault.toml", VAULT).unwrap();
    let mut variables: BTreeMap<String, Option<&[u8]>> =
        GOOD.iter().map(|(name, value)| ((*name).to_owned(), Some(*value))).collect();
    variables.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), *value)));
    let variables: BTreeMap<String, Option<OsString>> = variables
        .into_iter()
        .map(|(name, value)| (name, value.map(|value| OsString::from_vec(value.to_vec()))))
        .collect();
    let environment: Environment = Arc::new(move |name| variables.get(name)?.clone());
    let problems = missing(&vault, &environment);
    for problem in &problems {
        let text = problem.to_string();
        assert!(!text.contains("secret-") && !text.contains("sk_live"), "{text}");
    }
    problems
}

#[test]
fn secrets_that_are_all_there_make_credentials() {
    assert_eq!(problems(&[]), []);
    assert_eq!(problems(&[("B_PASSWORD", Some(b"with:colons:and spaces"))]), []);
}

#[test]
fn everything_that_is_missing_is_named_with_its_line() {
    let all = problems(&[("A_KEY", None), ("B_PASSWORD", None), ("sk_live_51H", None), ("E_KEY", None)]);
    let mut lines: Vec<(u32, &str)> = all.iter().map(|problem| (problem.line, problem.message.as_str())).collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            (1, "[credentials.\"a.example\"]: the environment variable A_KEY is not set"),
            (4, "[credentials.\"b.example\"]: the environment variable B_PASSWORD is not set"),
            (8, "[credentials.\"*.c.example\"]: the environment variable that is named here is not set"),
            (12, "[credentials.\"d.example\"]: the environment variable A_KEY is not set"),
            (15, "[credentials.\"e.example\"]: the environment variable E_KEY is not set"),
        ]
    );
    let hint = all.iter().find(|problem| problem.line == 1).and_then(|problem| problem.hint.as_deref());
    assert_eq!(hint, Some("set A_KEY in the environment of `agent-creds serve`, and start it again"));
}

#[test]
fn what_cannot_be_a_header_is_refused_without_repeating_it() {
    for (name, value, line) in [
        ("B_PASSWORD", &b"secret-\r\nx: y"[..], 4),
        ("D_KEY", b"", 12),
        ("D_KEY", b"secret-\xff", 12),
        ("E_KEY", b"secret-\n\n=\0", 15),
        ("B_USER", b"secret-:b", 4),
        ("sk_live_51H", b"secret-\0", 8),
    ] {
        let found = problems(&[(name, Some(value))]);
        assert_eq!(found.iter().map(|problem| problem.line).collect::<Vec<_>>(), [line], "{found:?}");
    }
}
