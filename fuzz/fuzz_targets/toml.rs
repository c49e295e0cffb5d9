//! Any text: neither parser panics, every problem has a place inside the text, and an edit that allows something is read again.

#![no_main]

use std::io;
use std::path::Path;

use agent_creds::config::{Diagnostics, Refused, amend, parse_project, parse_vault};
use libfuzzer_sys::fuzz_target;

fn check(text: &str, problems: &Diagnostics) {
    assert!(!problems.0.is_empty());
    for problem in &problems.0 {
        let line = text.split('\n').nth(problem.line as usize - 1).expect("the line is one of the text's");
        assert!((1..=line.chars().count() + 1).contains(&(problem.column as usize)), "{problem}");
    }
}

fuzz_target!(|text: &str| {
    let read = |_: &Path| -> io::Result<Vec<u8>> { Err(io::ErrorKind::NotFound.into()) };
    if let Err(problems) = parse_project("agent-creds.toml", Path::new("/project"), text, &read) {
        check(text, &problems);
    }
    let request = Some(("POST".to_owned(), "/v1/a".to_owned()));
    let refused = Refused { host: "api.stripe.com".to_owned(), request };
    if let Ok(amended) = amend("agent-creds.toml", Path::new("/project"), text, &read, &refused) {
        assert!(parse_project("agent-creds.toml", Path::new("/project"), &amended, &read).is_ok(), "{amended}");
    }
    if let Err(problems) = parse_vault("vault.toml", text) {
        check(text, &problems);
    }
});
