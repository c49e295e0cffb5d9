//! What the documents show is what the programs take.

use std::path::Path;
use std::process::Command;

/// The fenced blocks of a language in a Markdown file.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split_once("```").expect("the block ends").0).collect()
}

#[test]
fn every_toml_example_in_the_readme_is_accepted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let examples = blocks(&readme, "toml");
    assert!(examples.len() >= 2, "the tour shows both files");
    let dir = tempfile::tempdir().unwrap();
    let (project, vault) = (dir.path().join("agent-creds.toml"), dir.path().join("vault.toml"));
    for example in examples {
        let mut check = Command::new(env!("CARGO_BIN_EXE_agent-creds"));
        check.arg("check");
        if example.contains("[credentials.") {
            std::fs::write(&project, "[gateway]\nlisten = \"127.0.0.1:1\"\n[upstream.\"api.stripe.com\"]\n").unwrap();
            std::fs::write(&vault, example).unwrap();
            check.arg("--vault-config").arg(&vault);
        } else {
            std::fs::write(&project, example).unwrap();
        }
        let output = check.arg("--config").arg(&project).output().unwrap();
        assert!(output.status.success(), "{example}\n{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn every_flag_in_the_readme_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let help = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).arg("--help").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let (server, mint) = (env!("CARGO_BIN_EXE_agent-creds"), env!("CARGO_BIN_EXE_mint"));
    let (adev, actl) = (env!("CARGO_BIN_EXE_adev"), env!("CARGO_BIN_EXE_actl"));
    let known: String = [
        help(server, &["serve"]),
        help(server, &["check"]),
        help(server, &["bootstrap"]),
        help(server, &["ca", "show"]),
        help(mint, &[]),
        help(mint, &["attenuate"]),
        help(server, &["nodes", "revoke"]),
        help(server, &["nodes", "enrol"]),
        help(actl, &["log"]),
        help(actl, &["nodes"]),
        help(actl, &["nodes", "wait"]),
        help(actl, &["secret", "set"]),
        help(adev, &["init"]),
        help(adev, &["stop"]),
        // curl's, in the tour, cargo's, and Chrome's.
        "--cacert --connect-to --example --remote-debugging-port --user-data-dir".to_owned(),
    ]
    .concat();
    let is_flag = |c: char| c.is_ascii_lowercase() || c == '-';
    let flags: Vec<&str> = readme
        .match_indices(" --")
        .chain(readme.match_indices("`--"))
        .map(|(at, _)| readme[at + 1..].split(|c| !is_flag(c)).next().unwrap())
        .filter(|flag| flag.len() > 2)
        .collect();
    assert!(flags.len() > 10, "{flags:?}");
    for flag in flags {
        assert!(known.contains(flag), "README names {flag}, which no program has");
    }
}
