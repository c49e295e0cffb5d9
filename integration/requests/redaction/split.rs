//! Keys that arrive in pieces, and bodies that go on.

use std::time::{Duration, Instant};

use agent_creds::domain::needles::Needles;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use super::scripted::Step;
use super::{STRIPE_KEY, World, mask, resident_megabytes};
use crate::requests::STRIPE;
use crate::support::client::Proto;
use crate::support::server::{Server, WorldConfig, upstream_section};
use crate::support::upstream::Upstream;

/// How many characters of a key's beginning may pass where the body can end by trailers.
const PASSES: usize = 5;

/// All of the key is masked but its first characters; the rest is as it was.
#[track_caller]
fn assert_masked(came: &[u8], body: &str, passes: usize) {
    let came = String::from_utf8_lossy(came);
    let at = body.find(STRIPE_KEY).unwrap();
    let passed = at + passes.min(came[at..].bytes().take_while(|&byte| byte != b'*').count());
    assert_eq!(came, body[..passed].to_owned() + &mask(body)[passed..]);
}

#[tokio::test]
async fn a_key_in_two_pieces_wherever_it_is_split() {
    let world = World::start().await;
    let body = format!("\"{STRIPE_KEY}\"");
    for at in 1..body.len() {
        let (one, two) = body.as_bytes().split_at(at);
        assert_eq!(String::from_utf8_lossy(&world.sized(&[one, two]).await), mask(&body), "at {at}");
        assert_masked(&world.chunked(&[one, two]).await, &body, PASSES);
    }
    // One byte at a time.
    let pieces: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
    assert_eq!(String::from_utf8_lossy(&world.sized(&pieces).await), mask(&body));
    assert_masked(&world.chunked(&pieces).await, &body, PASSES);
}

/// What begins as the key does and is not it comes through, at the end, too.
#[tokio::test]
async fn what_is_no_key_stays() {
    let world = World::start().await;
    for length in 1..STRIPE_KEY.len() {
        let begun = &STRIPE_KEY[..length];
        for body in [begun.to_owned(), format!("{begun}{begun}."), format!("{begun}x{STRIPE_KEY}{begun}")] {
            let (one, two) = body.as_bytes().split_at(length);
            assert_eq!(String::from_utf8_lossy(&world.sized(&[one, two]).await), mask(&body), "{body}");
            assert_eq!(String::from_utf8_lossy(&world.sized(&[body.as_bytes()]).await), mask(&body), "{body}");
        }
    }
}

/// Forms of the key among text that looks like them, in pieces of every size, against the plain reading of what is to be masked.
#[tokio::test]
async fn random_bodies_in_random_pieces() {
    let world = World::start().await;
    let needles = Needles::of([STRIPE_KEY]).unwrap();
    // xorshift: the same bodies in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
    };
    for round in 0..60 {
        let mut body = String::new();
        for _ in 0..1 + random(12) {
            let filler = &"sk_test_ac7Qm2Zr c2tfdGVz NrX3Rl za190 {\"a\":1}\n"[random(40)..];
            match random(6) {
                0 => body.push_str(STRIPE_KEY),
                1 => body.push_str(&STANDARD.encode(format!("{}{STRIPE_KEY}{filler}", &"user:"[random(5)..]))),
                2 => body.push_str(&URL_SAFE_NO_PAD.encode(format!("{}{STRIPE_KEY}", &"ab?~>"[random(5)..]))),
                3 => body.push_str(&STRIPE_KEY[..random(STRIPE_KEY.len())]),
                4 => body.push_str(&STRIPE_KEY[random(STRIPE_KEY.len())..]),
                _ => body.push_str(filler),
            }
        }
        if body.is_empty() {
            continue;
        }
        let mut expected = body.clone();
        for needle in needles.lines().split('\n') {
            expected = expected.replace(needle, &"*".repeat(needle.len()));
        }
        let (mut pieces, mut rest) = (Vec::new(), body.as_bytes());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((1 + random(40)).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        assert_eq!(String::from_utf8_lossy(&world.sized(&pieces).await), expected, "round {round}: {body}");
        // Of each needle the beginning may pass, and what begins as one does at the end of a piece may be masked.
        let mut known = body.clone();
        for needle in needles.lines().split('\n') {
            known = known.replace(needle, &("?".repeat(PASSES) + &"*".repeat(needle.len() - PASSES)));
        }
        let came = world.chunked(&pieces).await;
        assert_eq!(came.len(), body.len());
        for ((came, known), was) in came.iter().zip(known.bytes()).zip(body.bytes()) {
            assert!(*came == b'*' || *came == was && known != b'*', "round {round}: {body}");
        }
    }
}

/// An event is there when it was sent, not when the next one is.
#[tokio::test]
async fn events_do_not_wait() {
    const SILENCE: Duration = Duration::from_millis(600);
    let world = World::start().await;
    let mut steps = vec![Step::Send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n".to_vec())];
    let event = format!("data: {STRIPE_KEY} s\n\n");
    for _ in 0..4 {
        steps.extend([Step::Send(event.clone().into()), Step::Sleep(SILENCE)]);
    }
    steps.push(Step::Close);
    world.upstream.answer(steps);
    for proto in [Proto::H1, Proto::H2] {
        let call = world.client.get(&format!("https://{STRIPE}/")).bearer(&world.token).proto(proto);
        let mut stream = call.stream().await.unwrap();
        let begun = Instant::now();
        for number in 0..4 {
            let event = stream.next_event().await.unwrap().unwrap();
            assert_eq!(event.data, mask(&format!("{STRIPE_KEY} s")));
            let late = begun.elapsed().saturating_sub(SILENCE * number);
            assert!(late < SILENCE / 2, "event {number} came {late:?} late");
        }
    }
}

#[tokio::test]
async fn a_hundred_megabytes_pass_in_bounded_memory() {
    const PIECE: usize = 1 << 20;
    const PIECES: usize = 100;
    let world = World::start().await;
    let pid = world.server.envoy_pid().await;
    let resident = || resident_megabytes(pid);
    let mut piece: Vec<u8> = "{\"id\": \"s0\", \"a\": 12.5},\n".bytes().cycle().take(PIECE).collect();
    let at = PIECE - STRIPE_KEY.len() / 2;
    piece.truncate(at);
    piece.splice(0..STRIPE_KEY.len() - STRIPE_KEY.len() / 2, STRIPE_KEY.bytes().skip(STRIPE_KEY.len() / 2));
    piece.extend(STRIPE_KEY.bytes().take(STRIPE_KEY.len() / 2));
    assert_eq!(piece.len(), PIECE);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", PIECE * PIECES);
    world.upstream.answer(vec![Step::Send(head.into()), Step::Repeat(piece.into(), PIECES)]);
    for proto in [Proto::H1, Proto::H2] {
        let before = resident();
        let begun = Instant::now();
        let call = world.client.get(&format!("https://{STRIPE}/")).bearer(&world.token).proto(proto);
        let mut stream = call.stream().await.unwrap();
        let (mut read, mut peak, mut carry) = (0, 0, Vec::new());
        while let Some(chunk) = stream.next_chunk().await.unwrap() {
            read += chunk.len();
            peak = peak.max(resident());
            carry.extend_from_slice(&chunk);
            assert!(!carry.windows(STRIPE_KEY.len()).any(|window| window == STRIPE_KEY.as_bytes()), "{read}");
            carry.drain(..carry.len() - carry.len().min(STRIPE_KEY.len() - 1));
        }
        assert_eq!(read, PIECE * PIECES);
        eprintln!("{proto:?}: {:?}, Envoy at {before} MB, at most {peak} MB", begun.elapsed());
        assert!(peak < before + 64, "{before} MB became {peak} MB");
    }
}

#[tokio::test]
async fn a_key_in_a_websocket_is_masked_and_all_else_passes() {
    let upstream = Upstream::start(&[STRIPE]).await;
    let sections = upstream_section(STRIPE, &upstream, "");
    let server = Server::start(WorldConfig::new(sections)).await;
    let bearer = format!("Bearer {}", server.token(&[]));
    let url = format!("wss://{STRIPE}/ws");
    let mut socket = server.client().websocket(&url, &[("authorization", bearer.as_str())]).await.unwrap();
    let large = Message::binary("sk_te c2tfd NrX3R za190\0".repeat(50_000).into_bytes());
    for (sent, comes) in [
        (Message::text("hello"), Message::text("hello")),
        (Message::text(format!("<{STRIPE_KEY}>")), Message::text(mask(&format!("<{STRIPE_KEY}>")))),
        (large.clone(), large),
    ] {
        socket.send(sent).await.unwrap();
        assert!(socket.next().await.unwrap().unwrap() == comes);
    }
}
