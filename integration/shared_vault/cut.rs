//! What rests on a shared vault ends when that says so.

use std::time::{Duration, Instant};

use http::StatusCode;

use super::{STRIPE, World};
use crate::support::client::Streaming;

/// How long an answer that goes on goes on.
async fn until_cut(stream: &mut Streaming) -> Duration {
    let begun = Instant::now();
    loop {
        match stream.next_chunk_within(Duration::from_secs(10)).await {
            Ok(Some(_)) => assert!(begun.elapsed() < Duration::from_secs(10), "it goes on"),
            Ok(None) => panic!("it looks complete"),
            Err(_) => return begun.elapsed(),
        }
    }
}

#[tokio::test]
async fn a_revoked_token_ends_requests_and_answers_under_way() {
    let world = World::start(&[]).await;
    let (token, other) = (world.vault.token(&[]), world.vault.token(&[]));
    let open = async |token: &str| {
        let mut stream = world.client.get(&format!("https://{STRIPE}/sse?ms=20")).bearer(token).stream().await.unwrap();
        assert_eq!(stream.status, StatusCode::OK);
        stream.next_event().await.unwrap().unwrap();
        stream
    };
    let (mut stream, mut goes_on) = (open(&token).await, open(&other).await);
    let revoked = world.vault.mint(&["revoke", &token]);
    assert!(revoked.status.success(), "{revoked:?}");
    let cut = until_cut(&mut stream).await;
    assert!(cut < Duration::from_secs(5), "cut after {cut:?}");
    let reply = world.answered(&token, StatusCode::UNAUTHORIZED).await;
    assert!(reply.text().contains("token revoked"), "{}", reply.text());
    // The other one goes on, and ends with the server of its vault.
    goes_on.next_event().await.unwrap().unwrap();
    let mut world = world;
    world.vault.kill9();
    let cut = until_cut(&mut goes_on).await;
    assert!(cut < Duration::from_secs(5), "cut after {cut:?}");
}

#[tokio::test]
async fn a_server_that_was_revoked_is_cut_off_and_its_token_is_worth_nothing() {
    let world = World::start(&[]).await;
    let token = world.vault.token(&[]);
    world.answered(&token, StatusCode::OK).await;
    let identity: serde_json::Value = serde_json::from_slice(&std::fs::read(world.identity()).unwrap()).unwrap();
    let own = identity["token"].as_str().unwrap().to_owned();
    world.answered(&own, StatusCode::OK).await;
    let state = world.vault.state_dir();
    let revoked = world.vault.agent_creds(&["nodes", "revoke", "laptop-1", "--state-dir", state.to_str().unwrap()]);
    assert!(revoked.status.success(), "{revoked:?}");
    world.answered(&token, StatusCode::SERVICE_UNAVAILABLE).await;
    world.is("down").await;
    // Enrolled anew it is let in again, and the token of the old enrolment stays out.
    world.enrol("laptop-1", &[]);
    world.answered(&token, StatusCode::OK).await;
    world.answered(&own, StatusCode::UNAUTHORIZED).await;
}
