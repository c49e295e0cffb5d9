//! Bodies with a content-encoding.

use std::io::Write;
use std::process::{Command, Stdio};

use http::StatusCode;

use super::scripted::Step;
use super::{STRIPE_KEY, World, chunked, mask, resident_megabytes, sized};
use crate::requests::STRIPE;
use crate::support::client::{Proto, Reply};

/// As `gzip` does it.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut command = Command::new("gzip");
    let mut child = command.arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

async fn get(world: &World, accepted: &str, proto: Proto) -> Reply {
    let call = world.client.get(&format!("https://{STRIPE}/")).bearer(&world.token).proto(proto);
    call.header("accept-encoding", accepted).send().await.unwrap()
}

#[tokio::test]
async fn gzip_is_looked_into() {
    let world = World::start().await;
    let line = format!("{{\"line\": \"{STRIPE_KEY}\"}}\n");
    for body in [STRIPE_KEY.to_owned(), line.repeat(20_000), "nothing".to_owned(), String::new()] {
        let encoded = gzip(body.as_bytes());
        let pieces: Vec<&[u8]> = encoded.chunks(777).collect();
        let headers = "content-encoding: gzip\r\ncontent-type: text/plain\r\n";
        let whole = &[encoded.as_slice()][..];
        for steps in [sized(headers, whole), chunked(headers, whole), sized(headers, &pieces)] {
            world.upstream.answer(steps);
            for proto in [Proto::H1, Proto::H2] {
                let reply = get(&world, "br, gzip, deflate", proto).await;
                assert_eq!((reply.status, reply.header("content-encoding")), (StatusCode::OK, None));
                assert_eq!(reply.body.len(), body.len());
                assert!(!reply.text().contains(STRIPE_KEY));
                // Where pieces of it were decoded by themselves, some first characters may have passed.
                let passed = reply.text().bytes().zip(mask(&body).bytes()).filter(|(came, mask)| came != mask).count();
                assert!(passed <= 5 * pieces.len(), "{passed} characters of keys passed");
                assert!(world.upstream.last_request().contains("accept-encoding: gzip\r\n"));
                // Envoy's notes on what was decoded are nobody's business.
                assert!(reply.headers.keys().all(|name| !name.as_str().starts_with("x-envoy")), "{:?}", reply.headers);
            }
        }
    }
}

#[tokio::test]
async fn what_cannot_be_decoded_is_refused() {
    let world = World::start().await;
    for coding in ["br", "zstd", "deflate", "compress", "gzip, br", "x"] {
        for pieces in [&[STRIPE_KEY.as_bytes()][..], &[STRIPE_KEY.as_bytes(), b"more", STRIPE_KEY.as_bytes()]] {
            let headers = format!("content-encoding: {coding}\r\nx-key: {STRIPE_KEY}\r\netag: \"a\"\r\n");
            for steps in [sized(&headers, pieces), chunked(&headers, pieces)] {
                world.upstream.answer(steps);
                for proto in [Proto::H1, Proto::H2] {
                    let reply = get(&world, "identity", proto).await;
                    let text = reply.text();
                    assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{coding}: {text}");
                    assert!(text.starts_with("Bad Gateway: ") && text.contains("content-encoding"), "{text}");
                    assert!(!text.contains(STRIPE_KEY) && !format!("{:?}", reply.headers).contains(STRIPE_KEY));
                    assert_eq!((reply.header("content-encoding"), reply.header("etag")), (None, None));
                }
            }
        }
    }
    // `identity` is a word for none.
    world.upstream.answer(sized("content-encoding: identity\r\n", &[STRIPE_KEY.as_bytes()]));
    assert_eq!(get(&world, "identity", Proto::H1).await.text(), mask(STRIPE_KEY));
}

/// What is no gzip gives nothing that was not looked at; the answer breaks off.
#[tokio::test]
async fn what_only_says_that_it_is_gzip() {
    let world = World::start().await;
    let mut broken = gzip(format!("{STRIPE_KEY}{}", "x".repeat(1000)).as_bytes());
    let middle = broken.len() / 2;
    broken.truncate(middle);
    for bytes in [STRIPE_KEY.as_bytes(), &broken] {
        world.upstream.answer(sized("content-encoding: gzip\r\n", &[bytes]));
        let call = world.client.get(&format!("https://{STRIPE}/")).bearer(&world.token);
        match call.send().await {
            Ok(reply) => assert!(!reply.text().contains(STRIPE_KEY), "{}", reply.text()),
            Err(error) => eprintln!("{error}"),
        }
    }
}

/// Nothing compresses better, and it is longer than any memory should be.
#[tokio::test]
async fn a_bomb_does_not_fill_the_memory() {
    const LENGTH: usize = 1 << 30;
    let world = World::start().await;
    let pid = world.server.envoy_pid().await;
    let before = resident_megabytes(pid);
    let bomb = gzip(&vec![b's'; LENGTH]);
    world.upstream.answer(sized("content-encoding: gzip\r\n", &[&bomb]));
    let call = world.client.get(&format!("https://{STRIPE}/")).bearer(&world.token);
    let mut stream = call.stream().await.unwrap();
    let (mut read, mut peak) = (0, 0);
    while let Some(chunk) = stream.next_chunk().await.unwrap() {
        assert!(chunk.iter().all(|&byte| byte == b's'));
        read += chunk.len();
        peak = peak.max(resident_megabytes(pid));
    }
    eprintln!("{} bytes became {read}; Envoy at {before} MB, at most {peak} MB", bomb.len());
    assert_eq!(read, LENGTH);
    assert!(peak < 768, "{before} MB became {peak} MB");
}

/// A part of an encoded body could not be decoded, so parts are asked for as they are.
#[tokio::test]
async fn parts_are_asked_for_without_encoding() {
    let world = World::start().await;
    let part = format!("HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 5-{}/99\r\netag: \"e\"\r\n", 5 + 31);
    let part = format!("{part}content-length: {}\r\n\r\n{STRIPE_KEY}", STRIPE_KEY.len());
    world.upstream.answer(vec![Step::Send(part.into())]);
    let call = world.client.get(&format!("https://{STRIPE}/")).bearer(&world.token).header("range", "bytes=5-36");
    let reply = call.header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!((reply.status, reply.text()), (StatusCode::PARTIAL_CONTENT, mask(STRIPE_KEY)));
    assert_eq!(reply.header("content-range").as_deref(), Some("bytes 5-36/99"));
    let seen = world.upstream.last_request();
    assert!(seen.contains("range: bytes=5-36\r\n") && seen.contains("accept-encoding: identity\r\n"), "{seen}");
}
