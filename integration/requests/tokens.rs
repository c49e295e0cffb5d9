//! Tokens that were tampered with, byte by byte, and what an answer to who has no good one tells (threats: Tokens).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use http::{Method, StatusCode};
use sha2::Sha256;

use super::{OPENAI, STRIPE, World};
use crate::support::client::{Proto, Reply};
use crate::support::server::WorldConfig;

/// The macaroon of a token: MessagePack, with the 32 bytes of its tail at the end.
fn bytes(token: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(token.strip_prefix("acm_").unwrap()).unwrap()
}

fn token(bytes: &[u8]) -> String {
    format!("acm_{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// These caveats under the signature of others.
fn with_tail_of(caveats: &str, tail: &str) -> String {
    let (caveats, tail) = (bytes(caveats), bytes(tail));
    token(&[&caveats[..caveats.len() - 32], &tail[tail.len() - 32..]].concat())
}

/// The token with one more caveat, signed as everybody can: with its tail as the key.
fn narrowed_by_hand(text: &str, kind: u64, body: &[u8]) -> String {
    let mut all = bytes(text);
    let tail = all.split_off(all.len() - 32);
    let mut caveat = vec![0xcf];
    caveat.extend(kind.to_be_bytes());
    caveat.extend(body);
    let signed = [&[0x92], caveat.as_slice()].concat();
    let mut hmac = Hmac::<Sha256>::new_from_slice(&tail).unwrap();
    hmac.update(&signed);
    // The header of the flat array of caveats comes after the location; types and bodies count apart.
    let location = b"\xabagent-creds";
    let at = all.windows(location.len()).position(|window| window == location).unwrap() + location.len();
    assert!((0x90..0x9e).contains(&all[at]), "a short array: {:x}", all[at]);
    all[at] += 2;
    // The last two bytes say that 32 bytes follow: the tail.
    let end = all.split_off(all.len() - 2);
    assert_eq!(end, [0xc4, 32]);
    token(&[all, caveat, end, hmac.finalize().into_bytes().to_vec()].concat())
}

const METHODS: u64 = (1 << 32) + 2;
/// `[["GET"]]`.
const ONLY_GET: &[u8] = b"\x91\x91\xa3GET";

#[tokio::test]
async fn caveats_cannot_be_taken_away_moved_or_made_up() {
    let world = World::start("").await;
    let narrow = |token: &str, arguments: &[&str]| world.server.token(&[&["attenuate", token], arguments].concat());
    let root = world.server.token(&["--hosts", STRIPE]);
    let get = narrow(&root, &["--methods", "GET"]);
    let then_path = narrow(&get, &["--paths", "/v1"]);
    let path_first = narrow(&narrow(&root, &["--paths", "/v1"]), &["--methods", "GET"]);
    let call = async |token: &str, method: Method, proto: Proto| {
        let call = world.client.call(method, &format!("https://{STRIPE}/v1")).bearer(token).proto(proto);
        call.send().await.unwrap()
    };
    for proto in [Proto::H1, Proto::H2] {
        // What is made by hand is what `mint` makes: the refusals below are not for its form.
        let by_hand = narrowed_by_hand(&root, METHODS, ONLY_GET);
        assert_eq!(by_hand, get);
        assert_eq!(call(&by_hand, Method::GET, proto).await.status, StatusCode::OK);
        assert_eq!(call(&then_path, Method::GET, proto).await.status, StatusCode::OK);
        assert_eq!(call(&path_first, Method::GET, proto).await.status, StatusCode::OK);
        assert_eq!(call(&by_hand, Method::POST, proto).await.status, StatusCode::FORBIDDEN);
        for (what, token) in [
            ("one taken away", with_tail_of(&root, &get)),
            ("the last of two taken away", with_tail_of(&get, &then_path)),
            ("moved", with_tail_of(&then_path, &path_first)),
            ("one put in, unsigned", with_tail_of(&get, &root)),
            ("of a kind that nobody knows", narrowed_by_hand(&root, (1 << 48) + 99, ONLY_GET)),
            ("of a kind that nobody knows, beside one that is", narrowed_by_hand(&get, 99, ONLY_GET)),
            ("with a body of another shape", narrowed_by_hand(&root, METHODS, b"\xa3GET")),
            ("with something after the end", token(&[bytes(&root), vec![0]].concat())),
            ("as a discharge of itself", format!("{root},{root}")),
        ] {
            for method in [Method::GET, Method::POST] {
                let reply = call(&token, method, proto).await;
                assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{what}: {}", reply.text());
                assert!(!reply.text().contains(&token[4..24]), "{what}: {}", reply.text());
            }
        }
    }
    assert_eq!(world.openai.request_count(), 0);
}

/// Who has no good token learns nothing of which hosts have a credential: the answers are the same but for the host's name.
#[tokio::test]
async fn answers_do_not_tell_which_hosts_have_a_credential() {
    let only_stripe = "[credentials.\"api.stripe.com\"]\ntype = \"bearer\"\ntoken = { provider = \"env\", name = \"STRIPE_API_KEY\" }\n";
    let world = World::with("", |config: WorldConfig| config.vault(only_stripe).strict()).await;
    let good = world.server.token(&[]);
    let mut forged = bytes(&good);
    *forged.last_mut().unwrap() ^= 1;
    let expired = world.server.token(&["--not-before", "2020-01-01T00:00:00Z", "--valid-for", "1h"]);
    let elsewhere = world.server.token(&["--hosts", "other.example.com"]);
    let another = world.server.token(&["--sandbox", "another"]);
    let narrow = world.server.token(&["--methods", "HEAD", "--paths", "/x"]);
    let presented = [
        ("no token", None),
        ("forged", Some(token(&forged))),
        ("no macaroon", Some(format!("acm_{}", "A".repeat(60)))),
        ("expired", Some(expired)),
        ("for another host", Some(elsewhere)),
        ("of another sandbox", Some(another)),
        ("for another method", Some(narrow)),
    ];
    let told = |reply: &Reply, host: &str| {
        let mut headers: Vec<String> = reply
            .headers
            .iter()
            .filter(|(name, _)| *name != "date" && *name != "content-length")
            .map(|(name, value)| format!("{name}: {value:?}"))
            .collect();
        headers.sort();
        format!("{} {headers:?} {}", reply.status, reply.text().replace(host, "HOST"))
    };
    for (what, token) in &presented {
        for accept in ["application/json", "text/plain"] {
            let mut answers = Vec::new();
            for host in [STRIPE, OPENAI] {
                let call = world.client.get(&format!("https://{host}/v1")).header("accept", accept);
                let call = match token {
                    Some(token) => call.bearer(token),
                    None => call,
                };
                answers.push(told(&call.send().await.unwrap(), host));
            }
            assert_eq!(answers[0], answers[1], "{what}");
            assert!(answers[0].starts_with("401") || answers[0].starts_with("403"), "{what}: {}", answers[0]);
        }
    }
    assert_eq!(world.forwarded(), 0);
}
