//! The audit log: what was decided on real requests, as `actl log` shows it.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{OPENAI, STRIPE, World};
use crate::support::server::{Output, run};

fn actl(world: &World, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actl"));
    command.env_clear().args(words).arg("--state-dir").arg(world.server.state_dir());
    run(&mut command)
}

/// The records that these words show, when there are `count`.
async fn records(world: &World, count: usize, words: &[&str]) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let output = actl(world, &[&["log", "--json"], words].concat());
        assert!(output.status.success(), "{output:?}");
        let records: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if records.len() == count {
            return records;
        }
        assert!(records.len() < count && begun.elapsed() < Duration::from_secs(20), "{records:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn every_decision_is_in_the_audit_log() {
    let mut world = World::start("methods = [\"GET\"]").await;
    let token = world.server.token(&["--hosts", STRIPE]);
    let id =
        serde_json::from_str::<Value>(&world.server.mint(&["inspect", &token, "--json"]).stdout).unwrap()["id"].clone();
    let get = |url: String| world.client.get(&url);
    get(format!("https://{STRIPE}/v1/charges?secret=1")).bearer(&token).send().await.unwrap();
    get(format!("https://{OPENAI}/v1/models")).bearer(&token).send().await.unwrap();
    get(format!("https://{OPENAI}/open")).send().await.unwrap();
    get(format!("https://{STRIPE}/v1/altered"))
        .bearer(&format!("{}x", &token[..token.len() - 9]))
        .send()
        .await
        .unwrap();
    get(format!("https://{STRIPE}/{token}/x")).send().await.unwrap();
    let records = records(&world, 5, &[]).await;
    let shown = |field: &str| records.iter().map(|record| record[field].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(shown("decision"), ["allow", "deny", "pass_through", "deny", "deny"]);
    assert_eq!(shown("upstream"), [STRIPE, OPENAI, OPENAI, STRIPE, STRIPE]);
    assert_eq!(shown("reason")[..3], ["token", "caveat_host", "no_token"]);
    assert_eq!(shown("reason")[4], "misplaced_token");
    assert_eq!(shown("path")[0], "/v1/charges", "without the query");
    assert_eq!(shown("path")[4], "(a token)");
    assert_eq!(shown("credential"), [STRIPE, "", "", "", ""]);
    // Of a token whose signature does not hold, the id is a claim.
    assert_eq!(shown("token"), [id.as_str().unwrap(), id.as_str().unwrap(), "", "", ""]);
    assert!(records.iter().all(|record| record["time_ms"].as_i64().unwrap() > 1_700_000_000_000));
    assert!(records.iter().all(|record| (0..5_000_000).contains(&record["latency_us"].as_i64().unwrap())));
    assert!(world.server.files_containing(&token[8..40]).is_empty(), "no token is written anywhere");

    let denied = actl(&world, &["log", "--denied", "-n", "1"]).stdout;
    assert!(denied.ends_with(&format!("deny (misplaced_token) GET {STRIPE} (a token)\n")), "{denied}");
    assert_eq!(denied.lines().count(), 1);
    assert_eq!(actl(&world, &["log", "--sandbox", "nobody"]).stdout, "");
    assert_eq!(actl(&world, &["log", "verify"]).stdout, "5 records, none missing, altered or put in\n");

    // Killed in the middle of it: what was written holds, and the chain goes on.
    for _ in 0..20 {
        world.client.get(&format!("https://{OPENAI}/open")).send().await.unwrap();
    }
    world.server.kill9();
    let verified = actl(&world, &["log", "verify"]);
    assert!(verified.status.success(), "{verified:?}");
    world.server.restart();
    world.server.wait_ready().await;
    let before = self::records(&world, count(&world), &[]).await.len();
    world.client.get(&format!("https://{OPENAI}/last")).send().await.unwrap();
    let all = self::records(&world, before + 1, &[]).await;
    assert_eq!(all[before]["path"], "/last");
    // In good order nothing is lost, however soon it ends.
    for _ in 0..10 {
        world.client.get(&format!("https://{OPENAI}/open")).send().await.unwrap();
    }
    world.server.stop().await;
    assert_eq!(count(&world), before + 11);
    assert!(actl(&world, &["log", "verify"]).status.success());
}

fn count(world: &World) -> usize {
    actl(world, &["log", "-n", "1000000"]).stdout.lines().count()
}

#[tokio::test]
async fn a_log_that_was_tampered_with_is_told() {
    let mut world = World::start("").await;
    for _ in 0..3 {
        world.client.get(&format!("https://{OPENAI}/open")).send().await.unwrap();
    }
    world.server.stop().await;
    assert_eq!(count(&world), 3);
    let python = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit()";
    let file = world.server.state_dir().join("audit.db");
    let sql = "UPDATE record SET path = '/elsewhere' WHERE seq = 2";
    assert!(run(Command::new("python3").args(["-c", python]).arg(file).arg(sql)).status.success());
    let verified = actl(&world, &["log", "verify"]);
    assert_eq!(verified.status.code(), Some(1));
    assert!(verified.stdout.contains("record 2 was altered"), "{verified:?}");
    let none = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_actl"));
    let output = run(command.env_clear().args(["log", "--state-dir"]).arg(none.path()));
    assert!(output.status.code() == Some(1) && output.stderr.contains("there is no audit log"), "{output:?}");
    assert_eq!(std::fs::read_dir(none.path()).unwrap().count(), 0, "looking makes nothing");
}
