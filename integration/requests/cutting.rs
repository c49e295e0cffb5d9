//! Answers that go on end when their token does; all others go on.

use std::time::{Duration, Instant};

use super::{OPENAI, STRIPE, World};
use crate::support::client::Proto;

/// The promise.
const WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn streams_of_a_revoked_token_are_cut_and_others_go_on() {
    let world = World::start("").await;
    let (token, other) = (world.server.token(&["--hosts", STRIPE]), world.server.token(&[]));
    let open = async |host: &str, token: &str, proto: Proto| {
        let call = world.client.get(&format!("https://{host}/sse?ms=20")).bearer(token).proto(proto);
        let mut stream = call.stream().await.unwrap();
        stream.next_event().await.unwrap().unwrap();
        stream
    };
    for proto in [Proto::H1, Proto::H2] {
        let mut cut = open(STRIPE, &token, proto).await;
        let mut kept = open(STRIPE, &other, proto).await;
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            cut.next_event().await.unwrap().unwrap();
            kept.next_event().await.unwrap().unwrap();
        }
    }
    let mut cut = open(STRIPE, &token, Proto::H2).await;
    assert!(world.server.mint(&["revoke", &token]).status.success());
    let begun = Instant::now();
    while let Ok(Some(_)) = cut.next_event().await {
        assert!(begun.elapsed() < WITHIN, "not cut");
    }
    eprintln!("cut after {:?}", begun.elapsed());
}
