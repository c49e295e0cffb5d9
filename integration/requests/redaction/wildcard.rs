//! Masking, where the host is a name below a wildcard: what is looked for is what that name's requests were given.

use http::StatusCode;

use super::scripted::Scripted;
use super::{chunked, sized};
use crate::support::client::{Client, Proto, Reply};
use crate::support::server::{Server, WorldConfig};

const WILDCARD: &str = "*.s3.example.com";
const A: &str = "a.s3.example.com";
/// Has a credential of its own.
const B: &str = "b.s3.example.com";
const KEY: &str = "sk_wild_8Zk2Wq5Tn1Lx4Vc7";
const OWN: &str = "sk_of_b_3Hd6Jf9Qs2Mw5Rt8";
const CREDENTIALS: &str = r#"
[credentials."*.s3.example.com"]
type = "bearer"
token = { provider = "env", name = "WILD" }

[credentials."b.s3.example.com"]
type = "header"
name = "x-api-key"
value = { provider = "env", name = "OWN" }
"#;

async fn get(client: &Client, host: &str, token: Option<&str>, proto: Proto) -> Reply {
    let call = client.get(&format!("https://{host}/")).proto(proto);
    let call = match token {
        Some(token) => call.bearer(token),
        None => call,
    };
    call.send().await.unwrap()
}

fn stars(text: &str, key: &str) -> String {
    text.replace(key, &"*".repeat(key.len()))
}

#[tokio::test]
async fn the_key_of_a_name_below_a_wildcard_is_masked() {
    let upstream = Scripted::start_for(&[A, B]).await;
    let section = format!("[upstream.\"{WILDCARD}\"]\naddress = \"{}\"\nca = \"upstream-ca.pem\"\n\n", upstream.addr());
    let config = WorldConfig::new(section).credentials(CREDENTIALS).env("WILD", KEY).env("OWN", OWN);
    let server = Server::start(config).await;
    let (client, token) = (server.client(), server.token(&["--hosts", WILDCARD]));
    for (host, key, other) in [(A, KEY, OWN), (B, OWN, KEY)] {
        // Of the other name's key nothing went out with this request.
        let text = format!("{{\"key\": \"{key}\", \"other\": \"{other}\"}}{key}");
        let (one, two) = text.split_at(14);
        let headers = format!("x-key: Bearer {key}\r\nlocation: /?a={key}&b\r\n");
        for steps in [
            sized(&headers, &[text.as_bytes()]),
            sized(&headers, &[one.as_bytes(), two.as_bytes()]),
            chunked(&headers, &[text.as_bytes()]),
        ] {
            upstream.answer(steps);
            for proto in [Proto::H1, Proto::H2] {
                let reply = get(&client, host, Some(&token), proto).await;
                assert_eq!((reply.status, reply.text()), (StatusCode::OK, stars(&text, key)), "{host}");
                assert_eq!(reply.header("x-key"), Some(stars(&format!("Bearer {key}"), key)));
                assert_eq!(reply.header("location"), Some(stars(&format!("/?a={key}&b"), key)));
                assert!(upstream.last_request().contains(&key.to_ascii_lowercase()), "{}", upstream.last_request());
                // Who sent no token was given nothing that could come back.
                let reply = get(&client, host, None, proto).await;
                assert_eq!(reply.text(), text);
            }
        }
        // Split where nothing announces the length: a few of its first characters pass.
        upstream.answer(chunked("", &[one.as_bytes(), two.as_bytes()]));
        let reply = get(&client, host, Some(&token), Proto::H2).await.text();
        assert!(!reply.contains(&key[6..]) && reply.contains(other) && reply.len() == text.len(), "{reply}");
        // What cannot be looked into does not come.
        upstream.answer(sized("content-encoding: br\r\n", &[text.as_bytes()]));
        let reply = get(&client, host, Some(&token), Proto::H1).await;
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
        assert!(!reply.text().contains(key), "{}", reply.text());
    }
}
