//! Programs in a sandbox, unmodified, with the tokens of its environment: they work, and the upstream sees the real keys.

use std::fs;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::world::{GIT_PASSWORD, GITHUB_KEY, HOSTS, World, copy_folder};
use crate::support::netns::sdk_python;
use crate::support::server::{ANTHROPIC_KEY, OPENAI_KEY, STRIPE_KEY, install, run};
use crate::support::upstream::UpstreamConfig;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

const TOKENS: &str = r#"
STRIPE_API_KEY = { token = { hosts = ["api.stripe.com"], methods = ["GET"] } }
OPENAI_API_KEY = { token = { hosts = ["api.openai.com"] } }
ANTHROPIC_API_KEY = { token = { hosts = ["api.anthropic.com"] } }
GH_TOKEN = { token = { hosts = ["api.github.com"] } }
GIT_TOKEN = { token = { hosts = ["git.example.com"] } }
"#;

/// Runs a program inside; every request of it that carried a credential carried this one. Returns what it says.
fn works(world: &World, script: &str, header: &str, credential: &str) -> String {
    world.upstream.clear();
    let said = world.says("shop", script);
    let sent: Vec<String> = world.forwarded().iter().filter_map(|request| request.header(header)).collect();
    assert!(!sent.is_empty(), "{script}: no request came with {header}: {:?}", world.upstream.requests());
    assert!(sent.iter().all(|sent| sent == credential), "{script}: {sent:?}");
    said
}

fn commands_work(world: &World) {
    let stripe = format!("Bearer {STRIPE_KEY}");
    let curl = "curl -fsS https://api.stripe.com/v1/customers -H \"Authorization: Bearer $STRIPE_API_KEY\"";
    assert!(works(world, curl, "authorization", &stripe).contains("cus_test"));
    let urllib = "import os, urllib.request as u\n\
                  r = u.Request('https://api.stripe.com/v1/charges')\n\
                  r.add_header('Authorization', 'Bearer ' + os.environ['STRIPE_API_KEY'])\n\
                  print(u.urlopen(r).read().decode())";
    fs::write(world.path("shop/urllib_client.py"), urllib).unwrap();
    assert!(works(world, "python3 urllib_client.py", "authorization", &stripe).contains("ch_test"));
    let node = "fetch('https://api.openai.com/v1/models',\
                {headers: {authorization: 'Bearer ' + process.env.OPENAI_API_KEY}})\
                .then(r => r.json()).then(j => console.log(j.data[0].id))";
    let openai = format!("Bearer {OPENAI_KEY}");
    assert_eq!(works(world, &format!("node -e \"{node}\""), "authorization", &openai), "gpt-test");
    let github = format!("Bearer {GITHUB_KEY}");
    assert_eq!(works(world, "gh api user --jq .host", "authorization", &github), "api.github.com");

    // Git asks without a credential first, and then as it was told to.
    let basic = format!("Basic {}", STANDARD.encode(format!("robot:{GIT_PASSWORD}")));
    let clone = "git clone -q \"https://x:$GIT_TOKEN@git.example.com/files/repo.git\" clone && cat clone/README";
    assert_eq!(works(world, clone, "authorization", &basic), "cloned");
    let first = &world.upstream.requests()[0];
    assert_eq!(first.authorization(), None, "{first:?}");
}

/// The SDKs' packages are the host's, so the Pythons have to be of one version.
pub fn packages(world: &World) {
    let python = |command: &mut Command| run(command.args(["-c", "import sys; print(sys.version_info[:2])"])).stdout;
    let (own, theirs) = (python(&mut Command::new(sdk_python())), world.says("shop", "python3 -V"));
    let version = own.trim().trim_matches(['(', ')']).replace(", ", ".");
    assert!(theirs.contains(&format!(" {version}.")), "target/sdk-venv is of Python {version}, the image has {theirs}");
    let lib = sdk_python().parent().unwrap().join(format!("../lib/python{version}/site-packages"));
    copy_folder(&lib, &world.path("shop/packages"));
    copy_folder(&Path::new(ROOT).join("integration/sdk"), &world.path("shop/sdk"));
}

fn sdks_work(world: &World) {
    packages(world);
    let python = "PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=packages python3";
    let stripe = format!("Bearer {STRIPE_KEY}");
    for library in ["requests", "httpx"] {
        let program = format!(
            "import os, {library}; print({library}.get('https://api.stripe.com/v1/charges', \
             headers={{'Authorization': 'Bearer ' + os.environ['STRIPE_API_KEY']}}).text)"
        );
        assert!(works(world, &format!("{python} -c \"{program}\""), "authorization", &stripe).contains("ch_test"));
    }
    for (script, header, credential) in [
        ("stripe_sdk.py", "authorization", stripe),
        ("openai_sdk.py", "authorization", format!("Bearer {OPENAI_KEY}")),
        ("anthropic_sdk.py", "x-api-key", ANTHROPIC_KEY.to_owned()),
    ] {
        let said = works(world, &format!("{python} sdk/{script}"), header, &credential);
        let said: Value = serde_json::from_str(&said).unwrap();
        // The proxy's refusal reaches the SDK's user as the SDK's own error: the token is for GET alone.
        assert!(said.get("post").is_none_or(|status| status == 403), "{said}");
    }
}

/// A bare repository with one commit, as files for a web server.
fn repository(folder: &Path) {
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]);
        let output = run(command.args(words).current_dir(folder).env("HOME", folder));
        assert!(output.status.success(), "git {words:?}: {}", output.stderr);
    };
    git(&["init", "-q", "work"]);
    fs::write(folder.join("work/README"), "cloned\n").unwrap();
    git(&["-C", "work", "add", "README"]);
    git(&["-C", "work", "commit", "-q", "-m", "one"]);
    git(&["clone", "-q", "--bare", "work", "repo.git"]);
    git(&["-C", "repo.git", "update-server-info"]);
}

fn clients_work_unmodified(runtime: &'static str) {
    let files = tempfile::tempdir().unwrap();
    repository(files.path());
    let world = World::with(runtime, UpstreamConfig::new(&HOSTS).files(files.path()));
    world.project("shop", "", TOKENS, &HOSTS);
    commands_work(&world);
    sdks_work(&world);
}

#[test]
fn clients_work_unmodified_with_runc() {
    clients_work_unmodified("runc");
}

#[test]
fn clients_work_unmodified_with_gvisor() {
    clients_work_unmodified("runsc");
}

/// Cargo, the one that compiled this, with a registry that wants a token: its index and its answer are files of the upstream.
fn cargo_works(world: &World, files: &Path) {
    let sysroot = run(Command::new("rustc").args(["--print", "sysroot"])).stdout;
    install(&Path::new(sysroot.trim()).join("bin/cargo"), &world.path("shop/cargo"));
    let registry = "https://git.example.com/files";
    let config = format!(r#"{{"dl": "{registry}/dl", "api": "{registry}", "auth-required": true}}"#);
    let answer =
        r#"{"crates": [{"name": "tiny", "max_version": "1.2.3", "description": "small"}], "meta": {"total": 1}}"#;
    for (file, text) in [("index/config.json", config.as_str()), ("api/v1/crates", answer)] {
        fs::create_dir_all(files.join(file).parent().unwrap()).unwrap();
        fs::write(files.join(file), text).unwrap();
    }
    let search = format!(
        "CARGO_HOME=/tmp/cargo CARGO_REGISTRIES_OURS_INDEX=sparse+{registry}/index/ CARGO_REGISTRIES_OURS_TOKEN=$GIT_TOKEN \
         CARGO_REGISTRIES_OURS_CREDENTIAL_PROVIDER=cargo:token ./cargo search tiny --registry ours"
    );
    let basic = format!("Basic {}", STANDARD.encode(format!("robot:{GIT_PASSWORD}")));
    assert!(works(world, &search, "authorization", &basic).contains("tiny = \"1.2.3\""));
}

#[test]
fn cargo_and_java_work_unmodified() {
    let files = tempfile::tempdir().unwrap();
    let world = World::with("runc", UpstreamConfig::new(&HOSTS).files(files.path()));
    world.project("shop", "image = \"agent-creds-test-java\"", TOKENS, &HOSTS);
    cargo_works(&world, files.path());
    fs::copy(Path::new(ROOT).join("integration/sandbox/Client.java"), world.path("shop/Client.java")).unwrap();
    let said = works(&world, "java Client.java", "authorization", &format!("Bearer {STRIPE_KEY}"));
    assert!(said.contains("ch_test") && said.ends_with("unreachable"), "{said}");
}

/// Status and answer of a request with this token, from inside.
fn asks(world: &World, project: &str, token: &str) -> String {
    let curl = "curl -sS -w ' %{http_code}' https://api.stripe.com/v1/charges -H";
    world.says(project, &format!("{curl} 'Authorization: Bearer {token}'"))
}

#[test]
fn a_token_is_for_one_life_of_one_sandbox() {
    let world = World::new("runc");
    for project in ["shop", "other"] {
        world.project(project, "", TOKENS, &["api.stripe.com"]);
    }
    let token_of = |project: &str| world.says(project, "echo $STRIPE_API_KEY");
    let (shop, other) = (token_of("shop"), token_of("other"));
    assert_ne!(shop, other);
    assert_eq!(token_of("shop"), shop, "every process of one life has the same");
    for (project, token, allowed) in
        [("shop", &shop, true), ("other", &other, true), ("shop", &other, false), ("other", &shop, false)]
    {
        let said = asks(&world, project, token);
        assert_eq!(said.ends_with(" 200"), allowed, "{said}");
        assert!(allowed || said.contains("sandbox not allowed") && said.ends_with(" 403"), "{said}");
    }
    assert!(world.adev("shop", &["stop"]).status.success());
    let again = token_of("shop");
    assert!(asks(&world, "shop", &again).ends_with(" 200"));
    let said = asks(&world, "shop", &shop);
    assert!(said.contains("sandbox not allowed") && said.ends_with(" 403"), "{said}");
    assert_eq!(world.forwarded().len(), 3, "what was refused never left");

    // Each is in the log of tokens, with its sandbox, and can be revoked.
    let mint = |words: &[&str]| {
        let mut command = world.command(env!("CARGO_BIN_EXE_mint"), "shop");
        let output = run(command.args(words).arg("--state-dir").arg(world.path("state")));
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let listed: Value = serde_json::from_str(&mint(&["list", "--json"])).unwrap();
    let of = |project: &str| {
        let sandbox = format!("{}/", world.name(project));
        let tokens = listed.as_array().unwrap().iter();
        tokens.filter(|token| token["sandbox"].as_str().unwrap().starts_with(&sandbox)).count()
    };
    // Five for each life; the first life of `shop` is over, and its tokens are good for nothing.
    assert_eq!((of("shop"), of("other")), (10, 5), "{listed:#}");
    mint(&["revoke", &again]);
    let begun = std::time::Instant::now();
    while !asks(&world, "shop", &again).contains("token revoked") {
        assert!(begun.elapsed() < super::world::PATIENCE, "it is not refused");
    }
}
