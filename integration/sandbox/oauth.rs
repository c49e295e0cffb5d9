//! A sign-in as people do it: a program in the sandbox opens the provider's page, the user signs in with a real Chromium on the
//! host, the answer comes back to the program, which exchanges it for a token through Envoy. Another page tries to get in between.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::browser::{browser, callback_port, edit, folder};
use super::world::{World, copy_folder, eventually};
use crate::support::netns::sdk_python;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/sdk/oauth.py");

fn a_sign_in_comes_back(runtime: &'static str, mode: &str) {
    let world = World::new(runtime);
    let parties = folder(&world, "parties");
    // It is ended with everything that has the world's folder in its command line.
    let provider =
        Command::new(sdk_python()).args([SCRIPT, "provider"]).arg(&parties).stdin(Stdio::null()).spawn().unwrap();
    let _reaped = Reaped(provider);
    let mut port = String::new();
    eventually("the provider serves", || {
        port = fs::read_to_string(parties.join("provider")).unwrap_or_default();
        !port.is_empty()
    });
    let python = sdk_python().display();
    let (dir, log) = (parties.display(), parties.join("browser.log"));
    browser(&world, &format!("#!/bin/sh\nexec {python} {SCRIPT} browser {dir} \"$1\" >{} 2>&1\n", log.display()));
    world.project("shop", "", "", &["other.example.com"]);
    edit(&world, |text| format!("{text}\n[[browser_target]]\nurl = \"http://127.0.0.1:{port}/authorize\"\n"));
    copy_folder(SCRIPT.as_ref(), &world.path("shop/oauth.py"));

    let back = callback_port();
    let authorize = format!("http://127.0.0.1:{port}/authorize");
    let output = world
        .inside("shop", &format!("python3 oauth.py cli {authorize} https://other.example.com/token {back} {mode}"));
    let said = || format!("{output:?}\n{}", fs::read_to_string(&log).unwrap_or_default());
    assert!(output.status.success(), "{}", said());
    let cli: Value = serde_json::from_str(output.stdout.trim()).unwrap_or_else(|error| panic!("{error}: {}", said()));
    let method = if mode == "form" { "POST" } else { "GET" };
    assert_eq!(
        cli["requests"],
        serde_json::json!([format!("{method} /callback"), "GET /success"]),
        "nothing of the attacks: {cli}"
    );
    assert_eq!(cli["cookies"], serde_json::json!([]));
    assert_eq!(cli["token"], 200);

    // The provider's own record: the code is the one it gave, and the verifier that came through Envoy is its challenge's.
    let codes: Value = serde_json::from_str(&fs::read_to_string(parties.join("codes.json")).unwrap()).unwrap();
    let exchange = world.forwarded().into_iter().find(|request| request.path == "/token").unwrap();
    let form: Vec<(String, String)> = url::form_urlencoded::parse(&exchange.body).into_owned().collect();
    let field = |name: &str| form.iter().find(|(key, _)| key == name).unwrap().1.clone();
    use base64::Engine;
    let challenge = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(field("code_verifier")));
    assert_eq!(codes[cli["code"].as_str().unwrap()], challenge.as_str());
    assert_eq!(field("code"), cli["code"].as_str().unwrap());

    eventually("the user is done", || parties.join("browser.json").exists());
    let user: Value = serde_json::from_str(&fs::read_to_string(parties.join("browser.json")).unwrap()).unwrap();
    assert_eq!(user["text"], "Signed in.");
    assert_eq!(user["title"], "safe", "no script of the sandbox runs in the user's browser");
    assert_eq!(user["url"], format!("http://localhost:{back}/success"));
    assert_eq!(user["cookies"], serde_json::json!(["session"]), "nor does it set cookies");
    assert_eq!(user["forged"][0], 403, "{user}");
    assert!(user["forged"][1].as_str().unwrap().contains("whoever sent the browser here did not start it"), "{user}");
    assert!(user["again"] == "closed" || user["again"] == 410, "{user}");
    let log = world.log();
    assert!(log.contains("was carried into the sandbox") && log.contains("another page asked for this"), "{log}");
}

/// A child that is ended and waited for.
struct Reaped(std::process::Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_sign_in_comes_back_with_runc() {
    a_sign_in_comes_back("runc", "query");
}

#[test]
fn a_sign_in_comes_back_with_gvisor() {
    a_sign_in_comes_back("runsc", "query");
}

#[test]
fn a_sign_in_comes_back_as_a_form() {
    a_sign_in_comes_back("runc", "form");
}
