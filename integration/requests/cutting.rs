//! Answers that go on end when their token does; all others go on.

mod wildcard;

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use tokio_tungstenite::tungstenite::Message;

use super::{OPENAI, STRIPE, World};
use crate::support::client::{Client, Proto, Streaming};
use crate::support::server::Server;

/// The promise.
const WITHIN: Duration = Duration::from_secs(5);

fn mint(world: &World, words: &[&str]) {
    mint_by(&world.server, words);
}

fn mint_by(server: &Server, words: &[&str]) {
    let output = server.mint(words);
    assert!(output.status.success(), "mint {words:?}: {output:?}");
}

/// A stream of ticks, the first of which has come.
async fn ticks(client: &Client, host: &str, token: Option<&str>, proto: Proto) -> Streaming {
    let call = client.get(&format!("https://{host}/sse?ms=20")).proto(proto);
    let call = match token {
        Some(token) => call.bearer(token),
        None => call,
    };
    let mut stream = call.stream().await.unwrap();
    assert_eq!(stream.status, StatusCode::OK);
    stream.next_event().await.unwrap().unwrap();
    stream
}

/// Waits until the stream ends, and says how long that took. An end that looks like one that was meant is none.
async fn is_cut(stream: &mut Streaming, begun: Instant) -> Duration {
    loop {
        match stream.next_chunk_within(WITHIN).await {
            Ok(Some(_)) => assert!(begun.elapsed() < WITHIN, "it goes on"),
            Ok(None) => panic!("it looks complete"),
            Err(error) => {
                assert!(begun.elapsed() < WITHIN, "{error}");
                return begun.elapsed();
            }
        }
    }
}

async fn goes_on(stream: &mut Streaming) {
    for _ in 0..50 {
        stream.next_event().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn streams_of_a_revoked_token_are_cut_and_others_go_on() {
    let world = World::start("").await;
    let token = world.server.token(&[]);
    let other = world.server.token(&["--hosts", STRIPE]);
    let narrowed = world.server.mint(&["attenuate", &token, "--methods", "GET"]).stdout.trim().to_owned();
    let (mut cut, mut kept) = (Vec::new(), Vec::new());
    for proto in [Proto::H1, Proto::H2] {
        cut.push(ticks(&world.client, STRIPE, Some(&token), proto).await);
        cut.push(ticks(&world.client, OPENAI, Some(&token), proto).await);
        cut.push(ticks(&world.client, STRIPE, Some(&narrowed), proto).await);
        // Of which not a byte comes any more: another hour until the next tick.
        let silent = world.client.get(&format!("https://{STRIPE}/sse?ms=3600000")).bearer(&token).proto(proto);
        let mut silent = silent.stream().await.unwrap();
        silent.next_event().await.unwrap().unwrap();
        cut.push(silent);
        kept.push(ticks(&world.client, STRIPE, Some(&other), proto).await);
        kept.push(ticks(&world.client, STRIPE, None, proto).await);
    }
    assert!(world.server.metric("agent_creds_open_streams", &[]).await >= 10.0);
    for stream in &mut kept {
        goes_on(stream).await;
    }

    mint(&world, &["revoke", &token]);
    let begun = Instant::now();
    for stream in &mut cut {
        eprintln!("cut after {:?}", is_cut(stream, begun).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for stream in &mut kept {
        goes_on(stream).await;
    }
    assert_eq!(world.server.metric("agent_creds_cut_streams_total", &[]).await, 8.0);
    // What is over is not counted on.
    drop((cut, kept));
    let begun = Instant::now();
    while world.server.metric("agent_creds_open_streams", &[]).await > 0.0 {
        assert!(begun.elapsed() < WITHIN, "streams that are over are still open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn websockets_of_a_revoked_token_are_cut() {
    let world = World::start("").await;
    let (token, other) = (world.server.token(&[]), world.server.token(&[]));
    let url = format!("wss://{STRIPE}/ws");
    let (revoked, good) = (format!("Bearer {token}"), format!("Bearer {other}"));
    let mut h1 = world.client.websocket(&url, &[("authorization", revoked.as_str())]).await.unwrap();
    let mut h2 = world.client.websocket_h2(&url, &[("authorization", revoked.as_str())]).await.unwrap();
    let mut kept = world.client.websocket(&url, &[("authorization", good.as_str())]).await.unwrap();
    for socket in [&mut h1, &mut kept] {
        socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
    }
    h2.socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(h2.socket.next().await.unwrap().unwrap(), Message::text("hello"));

    mint(&world, &["revoke", &token]);
    let begun = Instant::now();
    let ended = async |next: Option<Result<Message, _>>| {
        assert!(!matches!(next, Some(Ok(_))), "{next:?}");
        assert!(begun.elapsed() < WITHIN);
    };
    ended(tokio::time::timeout(WITHIN, h1.next()).await.expect("cut in time")).await;
    ended(tokio::time::timeout(WITHIN, h2.socket.next()).await.expect("cut in time")).await;
    eprintln!("cut after {:?}", begun.elapsed());
    // Nothing that is sent arrives either.
    let _ = h1.send(Message::text("more")).await;
    assert!(!matches!(h1.next().await, Some(Ok(_))));
    kept.send(Message::text("still")).await.unwrap();
    assert_eq!(kept.next().await.unwrap().unwrap(), Message::text("still"));
}

/// The agent does not read: Envoy's buffers are full, and the upstream waits.
#[tokio::test]
async fn a_download_that_nobody_reads_is_cut() {
    const LENGTH: usize = 64 << 20;
    let world = World::start("").await;
    let open = async |token: &str, proto: Proto| {
        let call = world.client.get(&format!("https://{STRIPE}/bytes?n={LENGTH}")).bearer(token).proto(proto);
        call.stream().await.unwrap()
    };
    for proto in [Proto::H1, Proto::H2] {
        let (token, other) = (world.server.token(&[]), world.server.token(&[]));
        let (mut cut, mut kept) = (open(&token, proto).await, open(&other, proto).await);
        mint(&world, &["revoke", &token]);
        tokio::time::sleep(WITHIN - Duration::from_secs(1)).await;
        let mut read = 0;
        let end = loop {
            match cut.next_chunk().await {
                Ok(Some(chunk)) => read += chunk.len(),
                end => break end,
            }
        };
        assert!(end.is_err() && read < LENGTH / 4, "{end:?} after {read} bytes");
        let mut read = 0;
        while let Some(chunk) = kept.next_chunk().await.unwrap() {
            read += chunk.len();
        }
        assert_eq!(read, LENGTH);
    }
}

#[tokio::test]
async fn streams_end_with_the_key_and_with_the_time_of_their_token() {
    let world = World::start("").await;
    let old = world.server.token(&["--hosts", STRIPE]);
    let mut retired = ticks(&world.client, STRIPE, Some(&old), Proto::H2).await;
    mint(&world, &["keys", "new", "k2"]);
    let new = world.server.token(&["--hosts", STRIPE]);
    let short = world.server.mint(&["attenuate", &new, "--valid-for", "3s"]).stdout.trim().to_owned();
    let begun = Instant::now();
    while world.client.get(&format!("https://{STRIPE}/")).bearer(&new).send().await.unwrap().status != StatusCode::OK {
        assert!(begun.elapsed() < WITHIN, "the new key is not known");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut expiring = ticks(&world.client, STRIPE, Some(&short), Proto::H1).await;
    let mut kept = ticks(&world.client, STRIPE, Some(&new), Proto::H1).await;
    goes_on(&mut retired).await;
    is_cut(&mut expiring, Instant::now() + Duration::from_secs(3)).await;
    goes_on(&mut retired).await;
    mint(&world, &["keys", "retire", "primary", "--force"]);
    is_cut(&mut retired, Instant::now()).await;
    goes_on(&mut kept).await;
}

/// Nobody could cut them any more.
#[tokio::test]
async fn streams_end_when_the_server_does_and_new_ones_come_with_the_next() {
    let mut world = World::start("").await;
    let token = world.server.token(&["--hosts", STRIPE]);
    let mut open = ticks(&world.client, STRIPE, Some(&token), Proto::H2).await;
    let mut without = ticks(&world.client, STRIPE, None, Proto::H2).await;
    world.server.kill9();
    is_cut(&mut open, Instant::now()).await;
    goes_on(&mut without).await;
    let call = world.client.get(&format!("https://{STRIPE}/sse?ms=20")).bearer(&token);
    assert_eq!(call.send().await.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
    world.server.restart();
    world.server.wait_ready().await;
    let mut again = ticks(&world.client, STRIPE, Some(&token), Proto::H2).await;
    goes_on(&mut again).await;
    goes_on(&mut without).await;
}
