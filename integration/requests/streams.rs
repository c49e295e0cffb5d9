//! Answers that go on: server-sent events and WebSockets.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use http::Version;
use tokio_tungstenite::tungstenite::Message;

use super::{OPENAI, STRIPE, World, assert_swapped};
use crate::support::client::{Proto, WebSocketError};
use crate::support::server::STRIPE_KEY;

/// Silences of 2.6 s, and 15.6 s in all: beyond the 15 s after which Envoy cuts a route that does not say otherwise.
#[tokio::test]
async fn ticks_arrive_while_the_answer_goes_on() {
    const SILENCE: Duration = Duration::from_millis(2600);
    let world = World::start("").await;
    let token = world.server.token(&["--hosts", STRIPE]);
    let watch = async |proto: Proto| {
        let call = world.client.get(&format!("https://{STRIPE}/sse?n=7&ms={}", SILENCE.as_millis())).proto(proto);
        let mut stream = call.bearer(&token).stream().await.unwrap();
        assert_eq!(stream.headers["content-type"], "text/event-stream");
        let begun = Instant::now();
        for number in 0_u32..7 {
            let event = stream.next_event().await.unwrap().unwrap();
            assert_eq!(event.data, format!("tick {number}"));
            // Neither kept back until the next one, nor all at once at the end.
            let late = begun.elapsed().saturating_sub(SILENCE * number);
            assert!(late < SILENCE, "{proto:?}: tick {number} came {late:?} late");
        }
        assert_eq!(stream.next_event().await.unwrap(), None);
        assert!(begun.elapsed() > Duration::from_secs(15));
    };
    tokio::join!(watch(Proto::H1), watch(Proto::H2));
    for seen in world.stripe.requests() {
        assert_swapped(&seen, "authorization", &format!("Bearer {STRIPE_KEY}"), &token);
    }
    assert_eq!(world.stripe.request_count(), 2);
}

#[tokio::test]
async fn websockets_carry_the_key_and_echo() {
    let world = World::start("paths = [\"/ws\"]").await;
    let token = world.server.token(&["--hosts", STRIPE]);
    let bearer = format!("Bearer {token}");
    for header in [("authorization", bearer.as_str()), ("x-api-key", token.as_str())] {
        let url = format!("wss://{STRIPE}/ws");
        let mut h1 = world.client.websocket(&url, &[header]).await.unwrap();
        let mut h2 = world.client.websocket_h2(&url, &[header]).await.unwrap();
        for text in ["hello", "again"] {
            h1.send(Message::text(text)).await.unwrap();
            assert_eq!(h1.next().await.unwrap().unwrap(), Message::text(text));
            let large = Message::binary(text.repeat(50_000).into_bytes());
            h2.socket.send(large.clone()).await.unwrap();
            assert_eq!(h2.socket.next().await.unwrap().unwrap(), large);
        }
        h1.close(None).await.unwrap();
    }
    assert_eq!(world.stripe.request_count(), 4);
    for seen in world.stripe.requests() {
        assert_eq!((seen.path.as_str(), seen.version), ("/ws", Version::HTTP_11));
        assert_swapped(&seen, "authorization", &format!("Bearer {STRIPE_KEY}"), &token);
    }
}

#[tokio::test]
async fn websockets_are_judged_like_every_request() {
    let world = World::start("paths = [\"/ws\"]").await;
    let elsewhere = format!("Bearer {}", world.server.token(&["--hosts", OPENAI]));
    let good = format!("Bearer {}", world.server.token(&["--hosts", STRIPE]));
    for (path, header, status) in
        [("/ws", elsewhere.as_str(), 403), ("/ws/other", &good, 403), ("/ws", "Bearer acm_x", 401)]
    {
        let url = format!("wss://{STRIPE}{path}");
        let headers = [("authorization", header)];
        let h1 = world.client.websocket(&url, &headers).await.err();
        let h2 = world.client.websocket_h2(&url, &headers).await.err();
        for refused in [h1, h2] {
            let Some(WebSocketError::Refused(reply)) = refused else { panic!("{path}: not refused: {refused:?}") };
            assert_eq!(reply.status.as_u16(), status, "{path}: {}", reply.text());
        }
    }
    assert_eq!(world.forwarded(), 0);
}
