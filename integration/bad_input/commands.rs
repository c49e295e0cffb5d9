//! The commands besides `serve`: their answers, their exit status, their help.

use std::fs;
use std::process::Command;

use rustix::process::{Pid, test_kill_process};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::place::{Place, VAULT, stop, tree};
use crate::support::server::{Output, envoy_bin, run};

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn check_tells_what_serve_would_and_touches_nothing() {
    let place = Place::new();
    let check = |args: &[&str]| {
        place.agent_creds(&[&["check", "--config", "config", "--vault-config", "vault.toml"], args].concat())
    };
    // The secrets themselves are not needed: they are with the server.
    let before = tree(&place.path(""));
    let good = check(&[]);
    assert_eq!((code(&good), good.stdout.as_str()), (Some(0), "2 file(s) checked: no errors\n"), "{}", good.stderr);
    let good = check(&["--json"]);
    assert_eq!((code(&good), json_of(&good)), (Some(0), json!({ "errors": [], "warnings": [] })));
    assert_eq!(tree(&place.path("")), before);

    // Valid, but hardly meant.
    place.config("[upstream.\"api.openai.com\"]\n");
    let odd = check(&[]);
    assert_eq!(code(&odd), Some(0), "{odd:?}");
    let lines: Vec<&str> = odd.stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "warning: vault.toml:2:1: no project reaches `api.stripe.com`: the credential is never used",
            "    help: add [upstream.\"api.stripe.com\"] to a project",
            "warning: config/agent-creds.toml:4:1: `api.openai.com` has no credential: requests to it are passed on as they are",
            "    help: add [credentials.\"api.openai.com\"] to the vault's file",
            "2 file(s) checked: no errors",
        ]
    );
    let odd = check(&["--json"]);
    assert_eq!(code(&odd), Some(0));
    let body = json_of(&odd);
    assert_eq!(body["errors"], json!([]));
    assert_eq!(
        body["warnings"][0],
        json!({
            "file": "vault.toml", "line": 2, "column": 1,
            "message": "no project reaches `api.stripe.com`: the credential is never used",
            "hint": "add [upstream.\"api.stripe.com\"] to a project",
        })
    );
    assert_eq!(body["warnings"].as_array().unwrap().len(), 2);

    // Wrong, in both files.
    place.config("[upstream.\"api.stripe.com\"]\nmethod = [\"GET\"]\n");
    place.write("vault.toml", VAULT.replace("bearer", "barer"));
    let bad = check(&[]);
    assert_eq!((code(&bad), bad.stderr.as_str()), (Some(1), ""));
    assert!(bad.stdout.starts_with("error: config/agent-creds.toml:5:1: unknown key `method`\n"), "{}", bad.stdout);
    assert!(bad.stdout.contains("\nerror: vault.toml:3:8: there is no credential of type `barer`\n"), "{}", bad.stdout);
    assert!(!bad.stdout.contains("no errors"));
    let bad = check(&["--json"]);
    assert_eq!((code(&bad), json_of(&bad)["warnings"].clone()), (Some(1), json!([])));
    let errors = json_of(&bad)["errors"].clone();
    assert_eq!(
        errors[0],
        json!({
            "file": "config/agent-creds.toml", "line": 5, "column": 1,
            "message": "unknown key `method`", "hint": "did you mean `methods`?",
        })
    );
    assert_eq!(errors.as_array().unwrap().len(), 2);
}

#[test]
fn check_takes_the_file_of_its_folder_when_none_is_named() {
    let place = Place::new();
    let nothing = place.agent_creds(&["check"]);
    assert_eq!((code(&nothing), nothing.stdout.as_str()), (Some(1), ""));
    assert!(nothing.stderr.starts_with("error: no configuration: give --config FILE or DIR"), "{}", nothing.stderr);
    fs::copy(place.path("config/agent-creds.toml"), place.path("agent-creds.toml")).unwrap();
    assert_eq!(code(&place.agent_creds(&["check"])), Some(0));
    let absent = place.agent_creds(&["check", "--config", "nowhere", "--json"]);
    assert_eq!((code(&absent), json_of(&absent)["errors"][0]["file"].clone()), (Some(1), json!("nowhere")));
}

#[test]
fn wrong_usage_is_2_and_says_what_there_is() {
    let place = Place::new();
    for (program, args, says) in [
        (env!("CARGO_BIN_EXE_agent-creds"), &[][..], "Usage: agent-creds"),
        (env!("CARGO_BIN_EXE_agent-creds"), &["server"], "serve"),
        (env!("CARGO_BIN_EXE_agent-creds"), &["serve", "--envoi", "none"], "--envoy"),
        (
            env!("CARGO_BIN_EXE_agent-creds"),
            &["serve", "--envoy", "podman"],
            "[possible values: process, docker, none]",
        ),
        (env!("CARGO_BIN_EXE_agent-creds"), &["serve", "--http", "9902"], "'9902'"),
        (env!("CARGO_BIN_EXE_agent-creds"), &["serve", "--strict", "maybe"], "`true` or `false`"),
        (env!("CARGO_BIN_EXE_agent-creds"), &["serve", "--log-format", "xml"], "[possible values: text, json]"),
        (env!("CARGO_BIN_EXE_agent-creds"), &["check", "config"], "unexpected argument 'config'"),
        (env!("CARGO_BIN_EXE_agent-creds"), &["bootstrap"], "--node-id <ID>"),
        (env!("CARGO_BIN_EXE_agent-creds"), &["bootstrap", "--node-id", "a", "--cluster", "../x"], "'../x'"),
        (env!("CARGO_BIN_EXE_agent-creds"), &["ca"], "rotate"),
        (env!("CARGO_BIN_EXE_agent-creds"), &["completions", "csh"], "zsh"),
        (env!("CARGO_BIN_EXE_mint"), &["--hosts", "https://api.stripe.com/"], "give the host name alone"),
        (env!("CARGO_BIN_EXE_mint"), &["--valid-for", "soon"], "soon"),
        (env!("CARGO_BIN_EXE_mint"), &["inspect"], "<TOKEN>"),
    ] {
        let output = run(&mut place.command(program, args));
        assert_eq!((code(&output), output.stdout.as_str()), (Some(2), ""), "{args:?}: {}", output.stderr);
        assert!(output.stderr.contains(says), "{args:?}: {says:?} is not in: {}", output.stderr);
    }
}

#[test]
fn mint_fails_with_1_and_leaves_no_half_of_a_key() {
    for (env, state, says) in [
        (Some(("MACAROON_SIGNING_KEY", "hunter2-hunter2")), "state", "MACAROON_SIGNING_KEY is not a signing key"),
        (None, "vault.toml", "vault.toml is not a folder"),
        (None, "open", "chmod go-w"),
        (None, "damaged", "damaged/signing.key holds no signing key"),
    ] {
        let place = Place::new();
        place.private_dir("open");
        place.chmod("open", 0o777);
        place.private_dir("damaged");
        place.write_private("damaged/signing.key", "hunter2-hunter2");
        let before = tree(&place.path(""));
        let mut mint = place.command(env!("CARGO_BIN_EXE_mint"), &["--state-dir", state]);
        let output = run(mint.envs(env));
        assert_eq!((code(&output), output.stdout.as_str()), (Some(1), ""), "{says}: {}", output.stderr);
        assert!(output.stderr.contains(says), "{says:?} is not in: {}", output.stderr);
        assert!(!output.stderr.contains("hunter2"), "{}", output.stderr);
        let new: Vec<_> = tree(&place.path("")).into_keys().filter(|path| !before.contains_key(path)).collect();
        assert!(new.iter().all(|path| path.is_dir()), "{new:?}");
    }
    // A token is not repeated either, in whatever way it is wrong.
    let place = Place::new();
    let token = place.command(env!("CARGO_BIN_EXE_mint"), &["--state-dir", "state"]).output().unwrap().stdout;
    let token = String::from_utf8(token).unwrap().trim().to_owned();
    for bad in
        [&token[..token.len() - 9], &token.replace("acm_", "acm"), &format!("{token}.{token}"), &format!("{token}!")]
    {
        let output = run(&mut place.command(env!("CARGO_BIN_EXE_mint"), &["inspect", bad]));
        assert_eq!((code(&output), output.stdout.as_str()), (Some(1), ""), "{}", output.stderr);
        assert!(!output.stderr.contains(&token[10..60]), "{}", output.stderr);
    }
}

#[test]
fn help_tells_defaults_and_its_examples_are_right() {
    let place = Place::new();
    let help = |args: &[&str]| {
        let output = place.agent_creds(&[args, &["--help"]].concat());
        assert_eq!((code(&output), output.stderr.as_str()), (Some(0), ""), "{args:?}");
        output.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for (args, says) in [
        (
            &[][..],
            &[
                "Examples:",
                "Exit codes: 0 done, 1 failed, 2 wrong usage",
                "serve",
                "check",
                "bootstrap",
                "ca",
                "completions",
            ][..],
        ),
        (
            &["serve"],
            &[
                "[default: 127.0.0.1:9902]",
                "[default: process]",
                "[default: 24h]",
                "[default: acm_]",
                "[default: info]",
                "[default: text]",
                "STRICT_MODE",
                "TOKEN_PREFIX",
                "AGENT_CREDS_LOG",
                "ENVOY_BIN",
                "Default: the current folder",
                "$XDG_STATE_HOME or ~/.local/state",
                "$XDG_RUNTIME_DIR",
                "$XDG_CONFIG_HOME or ~/.config",
            ],
        ),
        (&["check"], &["--config", "--vault-config", "--json", "Default: the current folder"]),
        (&["bootstrap"], &["[default: delta]", "$XDG_RUNTIME_DIR"]),
        (&["ca"], &["show", "rotate"]),
        (&["ca", "show"], &["--json", "$XDG_STATE_HOME or ~/.local/state"]),
        (&["ca", "rotate"], &["--json", "ca-previous.pem"]),
        (&["completions"], &["bash", "zsh", "fish"]),
    ] {
        let text = help(args);
        for what in says {
            assert!(text.contains(what), "{args:?}: {what:?} is not in: {text}");
        }
    }
    let bootstrap = json_of(&place.agent_creds(&["bootstrap", "--node-id", "a"]));
    let cluster = bootstrap["node"]["cluster"].as_str().unwrap();
    assert!(help(&["bootstrap"]).contains(&format!("[default: {cluster}]")), "{cluster}");
    // `--help` at the end of an example is only reached when everything before it is right.
    let top = place.agent_creds(&["--help"]).stdout;
    let examples: Vec<Vec<&str>> = top
        .lines()
        .filter_map(|line| line.strip_prefix("  agent-creds "))
        .map(|line| line.split("  ").next().unwrap_or_default().split_whitespace().collect())
        .collect();
    assert!(examples.len() >= 4, "{top}");
    for example in examples {
        let words: Vec<&str> = example.into_iter().take_while(|word| *word != "what").collect();
        help(&words);
    }
    let version = place.agent_creds(&["--version"]).stdout;
    assert_eq!(version.trim(), concat!("agent-creds ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_are_scripts_of_their_shells() {
    let place = Place::new();
    for program in [env!("CARGO_BIN_EXE_agent-creds"), env!("CARGO_BIN_EXE_mint"), env!("CARGO_BIN_EXE_actl")] {
        for shell in ["bash", "zsh", "fish"] {
            let output = run(&mut place.command(program, &["completions", shell]));
            assert_eq!((code(&output), output.stderr.as_str()), (Some(0), ""));
            assert!(output.stdout.contains("completions") && output.stdout.contains("json"), "{program} {shell}");
            place.write("script", &output.stdout);
            if shell == "bash" {
                let parsed = run(Command::new("bash").arg("-n").arg(place.path("script")));
                assert!(parsed.status.success() && parsed.stderr.is_empty(), "{}", parsed.stderr);
            }
        }
    }
}

/// SHA-256 of the certificate in a PEM file.
fn fingerprint(pem: &[u8]) -> String {
    let certificate = CertificateDer::from_pem_slice(pem).unwrap();
    Sha256::digest(&certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_ca_is_shown_and_rotated() {
    let place = Place::new();
    let ca = |what: &str| {
        let output = place.agent_creds(&["ca", what, "--json", "--state-dir", "state"]);
        assert_eq!((code(&output), output.stderr.as_str()), (Some(0), ""));
        assert!(!output.stdout.contains("PRIVATE"));
        json_of(&output)
    };
    let first = ca("show");
    let file = place.path("state/ca/ca.pem");
    let pem = fs::read(&file).unwrap();
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    assert_eq!(first.as_object().unwrap().len(), 3, "{first}");
    assert_eq!(first["certificate"], file.to_str().unwrap());
    assert_eq!(first["fingerprint"], fingerprint(&pem));
    assert!(first["not_after"].as_i64().unwrap() > now + 9 * 365 * 86400, "{first}");
    assert_eq!(ca("show"), first, "it is made once");

    let text = place.agent_creds(&["ca", "show", "--state-dir", "state"]).stdout;
    assert!(
        text.contains(&fingerprint(&pem)) && text.contains(&format!("export SSL_CERT_FILE={}", file.display())),
        "{text}"
    );

    let second = ca("rotate");
    assert_ne!(second["fingerprint"], first["fingerprint"]);
    assert_eq!(fs::read(place.path("state/ca/ca-previous.pem")).unwrap(), pem);
    assert_eq!(second["fingerprint"], fingerprint(&fs::read(&file).unwrap()));
    assert_eq!(ca("show"), second);

    for command in ["show", "rotate"] {
        let failed = place.agent_creds(&["ca", command, "--json", "--state-dir", "vault.toml"]);
        assert_eq!((code(&failed), failed.stdout.as_str()), (Some(1), ""));
        assert!(failed.stderr.contains("vault.toml"), "{}", failed.stderr);
    }
    place.starts_and_stops();
}

#[test]
fn envoy_takes_the_bootstrap() {
    let place = Place::new();
    for (args, odd_folder) in [
        (&["--node-id", "edge-1"][..], "run"),
        (&["--node-id", "edge \"2\" ü", "--cluster", "ci", "--protocol", "sotw"], "r u\"n ü"),
    ] {
        let output = place.agent_creds(&[&["bootstrap", "--runtime-dir", odd_folder], args].concat());
        assert_eq!((code(&output), output.stderr.as_str()), (Some(0), ""));
        let bootstrap = json_of(&output);
        assert_eq!(bootstrap["node"]["id"], args[1]);
        assert_eq!(bootstrap["node"]["cluster"], if args.len() > 2 { "ci" } else { "*" });
        assert!(
            output.stdout.contains(&place.path(odd_folder).join("xds.sock").to_str().unwrap().replace('"', "\\\""))
        );
        place.write("bootstrap.json", &output.stdout);
        place.private_dir(odd_folder);
        let mut validate = Command::new(envoy_bin());
        validate.args(["--mode", "validate", "--log-level", "error", "-c"]).arg(place.path("bootstrap.json"));
        let validated = run(&mut validate);
        assert!(validated.status.success(), "{}{}", validated.stdout, validated.stderr);
        // The judge can say no.
        place.write("bootstrap.json", output.stdout.replace("\"admin\"", "\"admim\""));
        assert!(!run(&mut validate).status.success());
    }
}

#[test]
fn a_bootstrap_needs_no_server_and_makes_nothing() {
    let place = Place::new();
    let before = tree(&place.path(""));
    assert_eq!(code(&place.agent_creds(&["bootstrap", "--node-id", "a"])), Some(0));
    assert_eq!(tree(&place.path("")), before);
    // It names the sockets that a server of the same folders has.
    let (child, _) = place.starts(&place.serve());
    let output = place.agent_creds(&["bootstrap", "--node-id", "a", "--runtime-dir", "run"]);
    assert!(output.stdout.contains(place.path("run/xds.sock").to_str().unwrap()), "{}", output.stdout);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    assert!(place.path("run/xds.sock").exists() && test_kill_process(pid).is_ok());
    stop(child);
}
