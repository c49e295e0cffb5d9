//! `mint`, driven as people drive it: the real binary, its streams and its exit status.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const KEY: &str = "RR2lAqayINqpuZERdDnUWceiXG83eGXXJdEcskfk7bQ=";

struct Outcome {
    code: i32,
    out: String,
    err: String,
}

/// A `mint` of its own: an empty environment, and a home of its own.
struct Mint {
    home: tempfile::TempDir,
    variables: Vec<(&'static str, &'static str)>,
}

impl Mint {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    fn with_key() -> Self {
        Self { variables: vec![("MACAROON_SIGNING_KEY", KEY)], ..Self::new() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mint"));
        command.args(args).env_clear().env("HOME", self.home.path()).envs(self.variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run_with_input(&self, args: &[&str], input: &str) -> Outcome {
        let mut child = self.command(args).spawn().unwrap();
        // It may be done before it has read anything.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Outcome { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    fn run(&self, args: &[&str]) -> Outcome {
        self.run_with_input(args, "")
    }

    fn ok(&self, args: &[&str]) -> String {
        let outcome = self.run(args);
        assert_eq!((outcome.code, outcome.err.as_str()), (0, ""), "mint {args:?}");
        outcome.out
    }

    fn inspect(&self, token: &str) -> Value {
        serde_json::from_str(&self.ok(&["inspect", token.trim(), "--json"])).unwrap()
    }

    fn key_file(&self) -> std::path::PathBuf {
        self.home.path().join(".local/state/agent-creds/signing.key")
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

#[test]
fn a_token_is_all_that_is_printed_and_holds_what_was_asked_for() {
    let mint = Mint::with_key();
    let args = ["--hosts", "API.stripe.com,*.s3.amazonaws.com", "--methods", "get,POST", "--paths", "/v1/**"];
    let printed = mint.ok(&[&args[..], &["--sandbox", "box", "--valid-for", "1h"]].concat());
    let token = printed.strip_suffix('\n').unwrap();
    assert!(token.starts_with("acm_") && !token.contains(char::is_whitespace), "{token}");
    let shown = mint.inspect(token);
    assert_eq!(shown["signature"], "valid");
    assert_eq!(shown["time"], "valid");
    assert_eq!(shown["key_id"], "primary");
    assert_eq!(shown["location"], "agent-creds");
    let window = &shown["caveats"][0]["validity_window"];
    assert_eq!(window[1].as_i64().unwrap() - window[0].as_i64().unwrap(), 3600);
    assert_eq!(
        shown["caveats"].as_array().unwrap()[1..],
        [
            json!({ "hosts": ["api.stripe.com", "*.s3.amazonaws.com"] }),
            json!({ "methods": ["GET", "POST"] }),
            json!({ "paths": ["/v1/**"] }),
            json!({ "sandbox": "box" }),
        ]
    );
    assert_ne!(mint.ok(&args), mint.ok(&args), "each token has a nonce of its own");
    assert!(!mint.key_file().exists(), "the environment's key needs no state folder's");
}

#[test]
fn the_window_is_a_day_from_now_unless_said_otherwise() {
    let mint = Mint::with_key();
    let window = |args: &[&str]| {
        let shown = mint.inspect(&mint.ok(args));
        let window = &shown["caveats"][0]["validity_window"];
        (window[0].as_i64().unwrap(), window[1].as_i64().unwrap(), shown["time"].as_str().unwrap().to_owned())
    };
    let (from, to, state) = window(&[]);
    assert_eq!((to - from, state.as_str()), (86_400, "valid"));
    let fixed = 1_767_225_600;
    let expired = "expired".to_owned();
    let args = ["--not-before", "2026-01-01T00:00:00Z", "--valid-for", "30m"];
    assert_eq!(window(&args), (fixed, fixed + 1800, expired.clone()));
    assert_eq!(window(&["--not-before", "1767225600", "--valid-for", "7d"]), (fixed, fixed + 604_800, expired));
    let (later, _, state) = window(&["--not-before", "2h"]);
    assert!((7200..7260).contains(&(later - from)), "{later} {from}");
    assert_eq!(state, "not yet valid");
}

#[test]
fn the_key_is_made_on_first_use_and_kept() {
    let mint = Mint::new();
    let token = mint.ok(&[]);
    assert_eq!(mode(&mint.key_file()), 0o600);
    assert_eq!(mode(mint.key_file().parent().unwrap()), 0o700);
    assert_eq!(mint.inspect(&token)["signature"], "valid");
    let again = mint.ok(&[]);
    assert_eq!(mint.inspect(&again)["signature"], "valid");
    // In another folder there is another key.
    let elsewhere = mint.home.path().join("elsewhere");
    let elsewhere = elsewhere.to_str().unwrap();
    let other = mint.ok(&["--state-dir", elsewhere]);
    assert_eq!(mint.inspect(&other)["signature"], "invalid");
    let shown = mint.ok(&["inspect", other.trim(), "--state-dir", elsewhere, "--json"]);
    assert!(shown.contains("\"signature\": \"valid\""), "{shown}");
}

#[test]
fn programs_that_start_at_once_sign_with_one_key() {
    let mint = Mint::new();
    let children: Vec<_> = (0..8).map(|_| mint.command(&[]).spawn().unwrap()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(mint.inspect(&String::from_utf8(output.stdout).unwrap())["signature"], "valid");
    }
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_cure() {
    let mint = Mint::new();
    let token = mint.ok(&[]);
    std::fs::set_permissions(mint.key_file(), PermissionsExt::from_mode(0o644)).unwrap();
    let outcome = mint.run(&[]);
    assert_eq!((outcome.code, outcome.out.as_str()), (1, ""));
    assert!(outcome.err.contains(&format!("chmod 600 {}", mint.key_file().display())), "{}", outcome.err);
    // What is in a token can still be seen.
    assert_eq!(mint.inspect(&token)["signature"], "unchecked");
}

#[test]
fn caveats_are_shown_on_standard_error_or_in_json() {
    let mint = Mint::with_key();
    let args = ["--hosts", "api.stripe.com", "--not-before", "1767225600", "--valid-for", "1h", "--show-caveats"];
    let outcome = mint.run(&args);
    assert_eq!(outcome.code, 0);
    assert_eq!(outcome.err, "valid from 2026-01-01T00:00:00Z to 2026-01-01T01:00:00Z\nhosts api.stripe.com\n");
    assert_eq!(outcome.out.lines().count(), 1);

    let minted: Value = serde_json::from_str(&mint.ok(&[&args[..6], &["--json"]].concat())).unwrap();
    let shown = mint.inspect(minted["token"].as_str().unwrap());
    assert_eq!(minted["id"], shown["id"]);
    assert_eq!(minted["caveats"], shown["caveats"]);
    assert_eq!(minted["expires"], "2026-01-01T01:00:00Z");
    assert_eq!(shown["expires"], "2026-01-01T01:00:00Z");
}

#[test]
fn attenuating_needs_no_key_and_narrows() {
    let mint = Mint::with_key();
    let token = mint.ok(&["--hosts", "api.stripe.com", "--valid-for", "1h"]);
    let keyless = Mint::new();
    let outcome = keyless.run_with_input(&["attenuate", "-", "--methods", "GET", "--sandbox", "box"], &token);
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""));
    assert!(!keyless.key_file().exists());
    let (before, after) = (mint.inspect(&token), mint.inspect(&outcome.out));
    assert_eq!(after["signature"], "valid");
    assert_eq!(after["id"], before["id"]);
    let mut wanted = before["caveats"].as_array().unwrap().clone();
    wanted.extend([json!({ "methods": ["GET"] }), json!({ "sandbox": "box" })]);
    assert_eq!(after["caveats"], Value::Array(wanted));

    // A longer span does not make it longer.
    let longer = mint.inspect(&mint.ok(&["attenuate", token.trim(), "--valid-for", "7d"]));
    assert_eq!(longer["expires"], before["expires"]);
    let nothing = mint.run(&["attenuate", token.trim()]);
    assert_eq!((nothing.code, nothing.out.as_str()), (2, ""));
    assert!(nothing.err.contains("--methods"), "{}", nothing.err);
    let too_late = mint.run(&["attenuate", token.trim(), "--not-before", "2h"]);
    assert_eq!(too_late.code, 2);
}

#[test]
fn inspect_speaks_to_people() {
    let mint = Mint::with_key();
    let token = mint.ok(&["--hosts", "api.stripe.com", "--valid-for", "7d"]);
    let shown = mint.run_with_input(&["inspect", "-"], &format!("  {token}\n")).out;
    for line in ["signature  valid\n", "time       valid, expires in ", "caveats\n", "  hosts api.stripe.com\n"] {
        assert!(shown.contains(line), "{shown}");
    }
    let keyless = Mint::new().ok(&["inspect", token.trim()]);
    assert!(keyless.contains("signature  unchecked (there is no signing key here)"), "{keyless}");
    let old = mint.ok(&["--not-before", "1767225600"]);
    assert!(mint.ok(&["inspect", old.trim()]).contains("time       expired "), "an old token");
}

#[test]
fn tokens_of_the_go_tool_are_read() {
    let vectors: Value = serde_json::from_str(include_str!("token-vectors.json")).unwrap();
    let mint = Mint::with_key();
    assert_eq!(vectors["signing_key_b64"], KEY);
    for case in vectors["cases"].as_array().unwrap() {
        let mut token = case["token"].as_str().unwrap().to_owned();
        if let Some(discharge) = case["discharge"].as_str() {
            token = format!("{token},{discharge}");
        }
        let outcome = mint.run(&["inspect", &token, "--json"]);
        if case["signature_valid"] == true {
            let shown: Value = serde_json::from_str(&outcome.out).unwrap();
            assert_eq!(shown["signature"], "valid", "{}", case["name"]);
            assert_eq!(shown["key_id"], case["kid"], "{}", case["name"]);
        } else {
            assert!(outcome.code == 1 || outcome.out.contains("\"signature\": \"invalid\""), "{}", case["name"]);
        }
    }
}

#[test]
fn the_prefix_can_be_chosen() {
    let mint = Mint { variables: vec![("MACAROON_SIGNING_KEY", KEY), ("TOKEN_PREFIX", "tok-")], ..Mint::new() };
    let token = mint.ok(&[]);
    assert!(token.starts_with("tok-"), "{token}");
    assert_eq!(mint.inspect(&token)["signature"], "valid");
    let other = Mint::with_key().run(&["inspect", token.trim()]);
    assert_eq!(other.code, 1);
    assert!(other.err.contains("a token begins with `acm_`"), "{}", other.err);
    let bad = Mint { variables: vec![("TOKEN_PREFIX", "no spaces")], ..Mint::new() };
    assert_eq!(bad.run(&[]).code, 2);
}

#[test]
fn wrong_usage_is_2_and_failure_is_1_and_both_say_why() {
    let mint = Mint::with_key();
    for (args, says) in [
        (&["--hosts", "https://api.stripe.com"][..], "without scheme"),
        (&["--hosts", ""], "cannot be empty"),
        (&["--hosts", "10.0.0.1"], "IP address"),
        (&["--methods", "GE T"], "HTTP method"),
        (&["--paths", "v1/**"], "begins with `/`"),
        (&["--paths", "/v1?x=*"], "query"),
        (&["--valid-for", "1y"], "30m, 1h, 24h"),
        (&["--valid-for", "0s"], "30m, 1h, 24h"),
        (&["--not-before", "tomorrow"], "RFC 3339"),
        (&["--sandbox", "../x"], "lower-case letters"),
        (&["--host", "api.stripe.com"], "--hosts"),
        (&["inspect"], "<TOKEN>"),
        (&["inspect", "-"], "standard input"),
        (&["--hosts", "a.example", "inspect", "x"], "cannot be used with"),
    ] {
        let outcome = mint.run(args);
        assert_eq!((outcome.code, outcome.out.as_str()), (2, ""), "{args:?} {}", outcome.err);
        assert!(outcome.err.contains(says), "{args:?}: {}", outcome.err);
    }
    let token = mint.ok(&[]);
    let huge = "acm_".to_owned() + &"A".repeat(1 << 20);
    for (input, says) in [
        ("sk_live_1", "a token begins with `acm_`"),
        (&token[..token.len() - 9], "cannot read the token"),
        (&huge, "more than 8192 bytes"),
        ("acm_é", "base64url"),
    ] {
        let outcome = mint.run_with_input(&["inspect", "-"], input);
        assert_eq!((outcome.code, outcome.out.as_str()), (1, ""), "{}", outcome.err);
        assert!(outcome.err.contains(says), "{says}: {}", outcome.err);
        assert!(!outcome.err.contains(&input[4..]), "{}", outcome.err);
    }
    let bad_key = Mint { variables: vec![("MACAROON_SIGNING_KEY", "c2hvcnQ=")], ..Mint::new() }.run(&[]);
    assert_eq!(bad_key.code, 1);
    assert!(bad_key.err.contains("this one has 5") && !bad_key.err.contains("c2hv"), "{}", bad_key.err);
    let file = mint.home.path().join("file");
    std::fs::write(&file, "").unwrap();
    let no_folder = Mint::new().run(&["--state-dir", file.to_str().unwrap()]);
    assert_eq!(no_folder.code, 1);
    assert!(no_folder.err.contains("is not a folder"), "{}", no_folder.err);
    let many: Vec<String> = (0..400).map(|n| format!("host-{n}.example.com")).collect();
    assert!(mint.run(&["--hosts", &many.join(",")]).err.contains("name fewer"), "a token that is too long");
}

#[test]
fn help_has_examples_and_completions_are_there() {
    let mint = Mint::new();
    let help = mint.ok(&["--help"]);
    for part in ["Examples:", "MACAROON_SIGNING_KEY", "Exit status", "inspect", "attenuate"] {
        assert!(help.contains(part), "{part}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(mint.ok(&["completions", shell]).contains("show-caveats"), "{shell}");
    }
}

#[test]
fn what_is_made_is_in_the_log_and_can_be_revoked() {
    let mint = Mint { variables: vec![("USER", "ann\u{1b}")], ..Mint::new() };
    assert_eq!(mint.ok(&["list"]), "no token was made with this state folder\n");
    let token = mint.ok(&["--hosts", "api.stripe.com", "--sandbox", "box", "--valid-for", "1h"]);
    let earlier = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() - 7200;
    let expired = mint.ok(&["--not-before", &earlier.to_string(), "--valid-for", "1h"]);
    let id = mint.inspect(&token)["id"].as_str().unwrap().to_owned();
    let listed = mint.ok(&["list"]);
    for text in
        [id.as_str(), "good until ", "by ann\\u{1b}, with mint, key primary", "  hosts api.stripe.com", "1 more"]
    {
        assert!(listed.contains(text), "{text}: {listed}");
    }
    assert!(!listed.contains(token.trim()) && !listed.contains('\u{1b}'), "{listed}");
    let all: Value = serde_json::from_str(&mint.ok(&["list", "--all", "--json"])).unwrap();
    assert_eq!((&all[0]["state"], &all[1]["state"]), (&json!("expired"), &json!("good")), "the newest first");
    assert_eq!(all[1]["sandbox"], "box");

    let revoked = mint.run_with_input(&["revoke", "-"], &token);
    assert_eq!((revoked.code, revoked.err.as_str()), (0, ""));
    assert!(revoked.out.starts_with(&format!("revoked {id}\n")), "{}", revoked.out);
    assert!(mint.ok(&["list", "--all"]).contains("  revoked 20"));
    let again: Value = serde_json::from_str(&mint.ok(&["revoke", &id, "--json"])).unwrap();
    assert_eq!((&again["was_revoked"], &again["issued_here"]), (&json!(true), &json!(true)));
    let unknown = mint.run(&["revoke", &"ab".repeat(16)]);
    assert!(unknown.code == 0 && unknown.err.contains("not in the log"), "{}", unknown.err);
    for bad in ["nonsense", "acm_nonsense", "abcd"] {
        let outcome = mint.run(&["revoke", bad]);
        assert_eq!((outcome.code, outcome.out.as_str()), (1, ""), "{bad}");
        assert!(outcome.err.contains("neither a token nor the id"), "{}", outcome.err);
    }
    // Of what is made, nothing is on the disk.
    let state = mint.key_file().parent().unwrap().to_owned();
    for entry in std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path()) {
        let content = String::from_utf8_lossy(&std::fs::read(&entry).unwrap()).into_owned();
        for token in [&token, &expired] {
            assert!(!content.contains(&token.trim()[4..]), "{}", entry.display());
        }
        assert_eq!(mode(&entry) & 0o077, 0, "{}", entry.display());
    }
}

#[test]
fn a_log_that_cannot_be_written_makes_no_token() {
    let mint = Mint::with_key();
    mint.ok(&["--valid-for", "1h"]);
    let log = mint.key_file().with_file_name("tokens.db");
    std::fs::set_permissions(&log, PermissionsExt::from_mode(0o666)).unwrap();
    let outcome = mint.run(&[]);
    assert_eq!((outcome.code, outcome.out.as_str()), (1, ""));
    assert!(outcome.err.contains("chmod 600"), "{}", outcome.err);
    std::fs::remove_file(&log).unwrap();
    std::fs::create_dir(&log).unwrap();
    assert_eq!(mint.run(&[]).code, 1);
}

#[test]
fn keys_come_and_go() {
    let mint = Mint::new();
    let old = mint.ok(&["--valid-for", "1h"]);
    let made = mint.run(&["keys", "new"]);
    assert_eq!(made.code, 0, "{}", made.err);
    let id = made.out.trim();
    let new = mint.ok(&["--valid-for", "1h"]);
    assert_eq!(mint.inspect(&new)["key_id"], id);
    assert_eq!(
        (&mint.inspect(&old)["signature"], &mint.inspect(&new)["signature"]),
        (&json!("valid"), &json!("valid"))
    );
    let keys: Value = serde_json::from_str(&mint.ok(&["keys", "list", "--json"])).unwrap();
    let entry = |id: &str, current| json!({ "id": id, "current": current, "good_tokens": 1 });
    assert_eq!(keys, json!([entry(id, true), entry("primary", false)]));
    for (words, text) in [
        (["keys", "retire", id], "new tokens are signed with"),
        (["keys", "retire", "primary"], "--force"),
        (["keys", "retire", "nobody"], "there is no key `nobody`"),
        (["keys", "new", id], "already"),
        (["keys", "new", "primary"], "already"),
    ] {
        let outcome = mint.run(&words);
        assert_eq!((outcome.code, outcome.out.as_str()), (1, ""), "{words:?}");
        assert!(outcome.err.contains(text), "{words:?}: {}", outcome.err);
    }
    assert_eq!(mint.run(&["keys", "new", "../x"]).code, 2);
    mint.ok(&["keys", "retire", "primary", "--force"]);
    assert_eq!(mint.inspect(&old)["signature"], "invalid");
    assert_eq!(mint.inspect(&new)["signature"], "valid");
    assert!(!mint.key_file().exists());
    assert_eq!(mint.inspect(&mint.ok(&[]))["key_id"], id);
}
