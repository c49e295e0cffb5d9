//! Tokens that are revoked, and keys that are changed, while requests flow.

use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::Value;

use super::{OPENAI, STRIPE, World};
use crate::support::load::{Load, LoadConfig, Target};
use crate::support::server::{OPENAI_KEY, Output, STRIPE_KEY};

/// How long the server may take to know of it.
const WITHIN: Duration = Duration::from_secs(1);

/// `mint WORDS` with the server's state folder.
fn mint(world: &World, words: &[&str]) -> Output {
    let output = world.server.mint(words);
    assert!(output.status.success(), "mint {words:?}: {output:?}");
    output
}

fn json(world: &World, words: &[&str]) -> Value {
    serde_json::from_str(&mint(world, &[words, &["--json"]].concat()).stdout).unwrap()
}

async fn answer(world: &World, token: &str) -> (StatusCode, String) {
    let reply = world.client.get(&format!("https://{STRIPE}/v1/charges")).bearer(token).send().await.unwrap();
    (reply.status, reply.text())
}

/// Waits until the token is refused, and says how long that took.
async fn refused_within_a_second(world: &World, token: &str, text: &str) {
    let begun = Instant::now();
    loop {
        let (status, body) = answer(world, token).await;
        if status == StatusCode::UNAUTHORIZED {
            assert!(body.contains(text), "{body}");
            break;
        }
        assert!(begun.elapsed() < 5 * WITHIN, "it still is {status} after {:?}: {body}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Five times the promise is a busy machine's; what it took is told.
    eprintln!("refused after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_revoked_token_and_what_was_narrowed_from_it_are_refused_and_others_go_on() {
    let mut world = World::start("").await;
    let token = world.server.token(&["--hosts", STRIPE]);
    let narrowed = mint(&world, &["attenuate", &token, "--methods", "GET"]);
    let narrowed = narrowed.stdout.trim();
    let other = world.server.token(&["--hosts", OPENAI]);
    for token in [token.as_str(), narrowed] {
        assert_eq!(answer(&world, token).await.0, StatusCode::OK);
    }
    let target = Target::new(&format!("https://{OPENAI}/echo")).swapped(&other, &format!("Bearer {OPENAI_KEY}"));
    let load = Load::start(&world.client, LoadConfig::new(vec![target])).await;

    let id = json(&world, &["inspect", &token])["id"].as_str().unwrap().to_owned();
    let listed = json(&world, &["list"]);
    let entry = listed.as_array().unwrap().iter().find(|entry| entry["id"] == id.as_str()).unwrap();
    assert_eq!((&entry["state"], &entry["key_id"]), (&"good".into(), &"primary".into()));
    assert!(!listed.to_string().contains("acm_"), "{listed}");
    // By what is narrowed, of which only the text is at hand.
    assert!(mint(&world, &["revoke", narrowed]).stdout.starts_with(&format!("revoked {id}")));
    refused_within_a_second(&world, &token, "token revoked").await;
    refused_within_a_second(&world, narrowed, "token revoked").await;
    assert!(mint(&world, &["revoke", &id]).stdout.starts_with("was revoked before"));
    assert!(json(&world, &["list"]).as_array().unwrap().iter().all(|entry| entry["id"] != id.as_str()));
    load.stop().await.assert_clean();
    assert!(world.server.metric("agent_creds_checks_total", &["revoked", STRIPE]).await > 0.0);

    // A server that was killed and starts again knows.
    world.server.kill9();
    world.server.restart();
    world.server.wait_ready().await;
    assert_eq!(answer(&world, &token).await.0, StatusCode::UNAUTHORIZED);
    assert!(world.server.files_containing(&token[8..40]).is_empty(), "no token is written anywhere");
}

#[tokio::test]
async fn keys_are_rotated_while_requests_flow() {
    let world = World::start("").await;
    let old = world.server.token(&["--hosts", STRIPE]);
    let target = Target::new(&format!("https://{STRIPE}/echo")).swapped(&old, &format!("Bearer {STRIPE_KEY}"));
    let load = Load::start(&world.client, LoadConfig::new(vec![target])).await;
    assert_eq!(mint(&world, &["keys", "new", "k2"]).stdout, "k2\n");
    let new = world.server.token(&["--hosts", STRIPE]);
    assert_eq!(json(&world, &["inspect", &new])["key_id"], "k2");
    let begun = Instant::now();
    while answer(&world, &new).await.0 != StatusCode::OK {
        assert!(begun.elapsed() < 5 * WITHIN, "the new key is not known");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    eprintln!("known after {:?}", begun.elapsed());
    load.stop().await.assert_clean();

    let output = world.server.mint(&["keys", "retire", "primary"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stderr.contains("--force"), "{output:?}");
    assert_eq!(answer(&world, &old).await.0, StatusCode::OK, "nothing was retired");
    mint(&world, &["keys", "retire", "primary", "--force"]);
    refused_within_a_second(&world, &old, "not known").await;
    assert_eq!(answer(&world, &new).await.0, StatusCode::OK);
}

/// `mint` may be killed at any point: who has seen a token finds it in the log, and the log is never damaged.
#[tokio::test]
async fn a_mint_that_is_killed_has_written_down_every_token_it_printed() {
    let world = World::start("").await;
    let mut printed = Vec::new();
    for round in 0..60_u64 {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_mint"))
            .args(["--hosts", STRIPE, "--state-dir"])
            .arg(world.server.state_dir())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_micros(400 * round)).await;
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        printed.extend(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned));
    }
    // Some were killed before they were done, and some not.
    assert!((1..60).contains(&printed.len()), "{} of 60 were printed", printed.len());
    let listed = json(&world, &["list", "--all"]).to_string();
    for token in &printed {
        let id = json(&world, &["inspect", token])["id"].as_str().unwrap().to_owned();
        assert!(listed.contains(&id), "{id} was printed, and is in no log");
        assert_eq!(answer(&world, token).await.0, StatusCode::OK);
    }
}
