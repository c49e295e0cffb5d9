//! Who may ask a shared vault.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use super::{STRIPE, World};
use crate::support::probe::eventually;

fn read(world: &World) -> Value {
    serde_json::from_slice(&fs::read(world.identity()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_server_without_an_identity_says_how_to_get_one_and_takes_it_up() {
    let world = World::without_identity(&[]).await;
    let token = world.vault.token(&[]);
    world.is("not_enrolled").await;
    let reply = world.get(&format!("https://{STRIPE}/echo"), &token).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{}", reply.text());
    let status = world.local.actl(&["status"]).await;
    assert!(!status.status.success(), "{}", status.stdout);
    for expected in
        ["agent-creds.toml:5: this server has no identity for the vault", "agent-creds nodes enrol NODE --gateway NAME"]
    {
        assert!(status.stdout.contains(expected), "{expected}: {}", status.stdout);
    }
    world.enrol("laptop-1", &[]);
    assert_eq!(world.identity().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    world.answered(&token, StatusCode::OK).await;

    // One that others may read is none any more, nor is one that is broken, or of another vault.
    fs::set_permissions(world.identity(), PermissionsExt::from_mode(0o644)).unwrap();
    world.is("not_enrolled").await;
    fs::remove_file(world.identity()).unwrap();
    world.enrol("laptop-1", &[]);
    world.connected().await;
    let mut other = read(&world);
    other["ca"] = read(&World::start(&[]).await)["ca"].clone();
    fs::write(world.identity(), other.to_string()).unwrap();
    world.is("down").await;
    let reply = world.get(&format!("https://{STRIPE}/echo"), &token).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "a vault that it does not know is not asked");
    assert!(!world.local.log().contains("PRIVATE KEY") && !world.local.log().contains("acm_"));
}

#[tokio::test]
async fn certificates_are_renewed_and_kept_for_the_next_start() {
    let mut world = World::without_identity(&[]).await;
    let token = world.vault.token(&[]);
    world.enrol("laptop-1", &["--lifetime", "8s"]);
    let first = read(&world)["certificate"].clone();
    world.answered(&token, StatusCode::OK).await;
    let certificate = eventually("another certificate", async || match read(&world)["certificate"].clone() {
        new if new != first => Ok(new),
        _ => Err("it is the first".to_owned()),
    })
    .await;
    eventually(
        "one more",
        async || if read(&world)["certificate"] != certificate { Ok(()) } else { Err(String::new()) },
    )
    .await;
    world.local.kill9();
    world.local.restart();
    world.answered(&token, StatusCode::OK).await;
    // Beyond the life of the certificate that it was enrolled with, and of several others.
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    while tokio::time::Instant::now() < until {
        let reply = world.get(&format!("https://{STRIPE}/echo"), &token).await;
        assert_eq!(reply.status, StatusCode::OK, "no request is lost: {}", reply.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_vault_whose_tokens_are_called_otherwise_is_not_used() {
    let world = World::start(&[]).await;
    let text = fs::read_to_string(world.identity()).unwrap();
    fs::write(world.identity(), text.replace("\"acm_", "\"other_")).unwrap();
    world.is("not_enrolled").await;
    assert!(world.shared().await["message"].as_str().unwrap().contains("a token begins with `acm_`"));
}
