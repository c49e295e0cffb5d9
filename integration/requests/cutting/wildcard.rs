//! Cutting, where the host is a name below a wildcard.

use super::*;
use crate::support::server::{WorldConfig, upstream_section};
use crate::support::upstream::Upstream;

const WILDCARD: &str = "*.s3.example.com";
const A: &str = "a.s3.example.com";
const B: &str = "x.y.s3.example.com";
const CREDENTIALS: &str =
    "[credentials.\"*.s3.example.com\"]\ntype = \"bearer\"\ntoken = { provider = \"env\", name = \"WILD\" }\n";

#[tokio::test]
async fn streams_below_a_wildcard_are_cut_when_their_token_is_revoked_and_others_go_on() {
    let upstream = Upstream::start(&[A, B]).await;
    let config = WorldConfig::new(upstream_section(WILDCARD, &upstream, "")).credentials(CREDENTIALS);
    let server = Server::start(config.env("WILD", "sk_wild_8Zk2Wq5Tn1")).await;
    let client = server.client();
    let (token, other) = (server.token(&["--hosts", WILDCARD]), server.token(&["--hosts", WILDCARD]));
    let narrowed = server.mint(&["attenuate", &token, "--hosts", A]).stdout.trim().to_owned();
    let (mut cut, mut kept) = (Vec::new(), Vec::new());
    for proto in [Proto::H1, Proto::H2] {
        for host in [A, B] {
            cut.push(ticks(&client, host, Some(&token), proto).await);
            kept.push(ticks(&client, host, Some(&other), proto).await);
            kept.push(ticks(&client, host, None, proto).await);
        }
        cut.push(ticks(&client, A, Some(&narrowed), proto).await);
        // A download that nobody reads for now.
        let download = client.get(&format!("https://{B}/bytes?n={}", 64 << 20)).bearer(&token).proto(proto);
        cut.push(download.stream().await.unwrap());
    }
    let authorization = |token: &str| format!("Bearer {token}");
    let (revoked, good) = (authorization(&token), authorization(&other));
    let url = format!("wss://{A}/ws");
    let mut ended = client.websocket(&url, &[("authorization", revoked.as_str())]).await.unwrap();
    let mut open = client.websocket(&url, &[("authorization", good.as_str())]).await.unwrap();
    for socket in [&mut ended, &mut open] {
        socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
    }

    mint_by(&server, &["revoke", &token]);
    let begun = Instant::now();
    for stream in &mut cut {
        eprintln!("cut after {:?}", is_cut(stream, begun).await);
    }
    let next = tokio::time::timeout(WITHIN, ended.next()).await.expect("cut in time");
    assert!(!matches!(next, Some(Ok(_))), "{next:?}");
    for stream in &mut kept {
        goes_on(stream).await;
    }
    open.send(Message::text("still")).await.unwrap();
    assert_eq!(open.next().await.unwrap().unwrap(), Message::text("still"));
    assert_eq!(server.metric("agent_creds_cut_streams_total", &[]).await, 9.0);
}
