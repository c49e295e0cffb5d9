//! A credential that an upstream sends back does not reach the agent.

mod encoded;
mod failing;
mod scripted;
mod split;
mod trailers;
mod wildcard;

use http::{Method, StatusCode};

use self::scripted::{Scripted, Step};
use super::STRIPE;
use crate::support::client::{Client, Proto, Reply};
use crate::support::server::{STRIPE_KEY, Server, WorldConfig};

struct World {
    server: Server,
    client: Client,
    upstream: Scripted,
    token: String,
}

impl World {
    async fn start() -> Self {
        Self::with(|config| config).await
    }

    async fn with(change: impl FnOnce(WorldConfig) -> WorldConfig) -> Self {
        let upstream = Scripted::start(STRIPE).await;
        let section =
            format!("[upstream.\"{STRIPE}\"]\naddress = \"{}\"\nca = \"upstream-ca.pem\"\n\n", upstream.addr());
        let server = Server::start(change(WorldConfig::new(section))).await;
        let (client, token) = (server.client(), server.token(&["--hosts", STRIPE]));
        Self { server, client, upstream, token }
    }

    async fn get(&self, proto: Proto) -> Reply {
        let call = self.client.get(&format!("https://{STRIPE}/")).bearer(&self.token).proto(proto);
        call.send().await.unwrap()
    }

    /// What comes of an answer with a content-length, and these pieces of a body.
    async fn sized(&self, pieces: &[&[u8]]) -> Vec<u8> {
        self.upstream.answer(sized("", pieces));
        self.get(Proto::H1).await.body.to_vec()
    }

    /// What comes of an answer in chunks.
    async fn chunked(&self, pieces: &[&[u8]]) -> Vec<u8> {
        self.upstream.answer(chunked("", pieces));
        self.get(Proto::H1).await.body.to_vec()
    }
}

/// An answer with a content-length, and these pieces of a body, each of which arrives by itself.
fn sized(headers: &str, pieces: &[&[u8]]) -> Vec<Step> {
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    let head = format!("HTTP/1.1 200 OK\r\n{headers}content-length: {length}\r\n\r\n");
    let mut steps = vec![Step::Send(head.into())];
    for piece in pieces {
        steps.extend([Step::Send(piece.to_vec()), Step::Wait]);
    }
    steps
}

/// The same in chunks.
fn chunked(headers: &str, pieces: &[&[u8]]) -> Vec<Step> {
    let head = format!("HTTP/1.1 200 OK\r\n{headers}transfer-encoding: chunked\r\n\r\n");
    let mut steps = vec![Step::Send(head.into())];
    for piece in pieces {
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        steps.extend([Step::Send(chunk), Step::Wait]);
    }
    steps.push(Step::Send(b"0\r\n\r\n".to_vec()));
    steps
}

/// What a process has in memory.
fn resident_megabytes(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
}

fn mask(text: &str) -> String {
    text.replace(STRIPE_KEY, &"*".repeat(STRIPE_KEY.len()))
}

#[tokio::test]
async fn a_key_in_headers_and_body_is_masked_at_its_length() {
    let world = World::start().await;
    let body = format!("{{\"key\": \"{STRIPE_KEY}\", \"again\": \"{STRIPE_KEY}{STRIPE_KEY}\"}}{STRIPE_KEY}");
    let headers = format!(
        "set-cookie: a=1\r\nset-cookie: key={STRIPE_KEY}\r\nset-cookie: b=2\r\nlocation: /x?key={STRIPE_KEY}&y\r\n\
         x-authorization: Bearer {STRIPE_KEY}\r\netag: \"abc\"\r\ncontent-range: bytes 0-9/100\r\n"
    );
    for steps in [sized(&headers, &[body.as_bytes()]), chunked(&headers, &[body.as_bytes()])] {
        world.upstream.answer(steps);
        for proto in [Proto::H1, Proto::H2] {
            let reply = world.get(proto).await;
            assert_eq!((reply.status, reply.text()), (StatusCode::OK, mask(&body)));
            let cookies: Vec<_> = reply.headers.get_all("set-cookie").iter().map(|v| v.to_str().unwrap()).collect();
            assert_eq!(cookies, ["a=1", &mask(&format!("key={STRIPE_KEY}")), "b=2"]);
            assert_eq!(reply.header("location"), Some(mask(&format!("/x?key={STRIPE_KEY}&y"))));
            assert_eq!(reply.header("x-authorization"), Some(mask(&format!("Bearer {STRIPE_KEY}"))));
            // Others are as they were.
            assert_eq!(reply.header("etag").as_deref(), Some("\"abc\""));
            assert_eq!(reply.header("content-range").as_deref(), Some("bytes 0-9/100"));
        }
    }
}

#[tokio::test]
async fn answers_without_a_body_and_answers_to_requests_without_a_token() {
    let world = World::start().await;
    let url = format!("https://{STRIPE}/");
    for (status, method) in
        [("204 No Content", Method::GET), ("304 Not Modified", Method::GET), ("200 OK", Method::HEAD)]
    {
        let length = if status.starts_with("204") { "" } else { "content-length: 10\r\n" };
        let answer = format!("HTTP/1.1 {status}\r\nx-key: {STRIPE_KEY}\r\ncontent-encoding: br\r\n{length}\r\n");
        world.upstream.answer(vec![Step::Send(answer.into())]);
        for proto in [Proto::H1, Proto::H2] {
            let call = world.client.call(method.clone(), &url).bearer(&world.token).proto(proto);
            let reply = call.send().await.unwrap();
            assert_eq!(reply.status.as_str(), &status[..3]);
            assert_eq!(reply.header("x-key"), Some(mask(STRIPE_KEY)));
            assert_eq!(reply.header("content-encoding").as_deref(), Some("br"));
        }
    }
    // Who sends no token gets what the upstream says: no credential went there.
    world.upstream.answer(sized("content-encoding: br\r\n", &[STRIPE_KEY.as_bytes()]));
    let reply = world.client.get(&url).header("accept-encoding", "br").send().await.unwrap();
    assert_eq!((reply.status, reply.text()), (StatusCode::OK, STRIPE_KEY.to_owned()));
    assert!(world.upstream.last_request().contains("accept-encoding: br\r\n"));
}

#[tokio::test]
async fn redact_false_leaves_bodies_alone_and_masks_headers_all_the_same() {
    let vault = "[credentials.\"api.stripe.com\"]\ntype = \"bearer\"\nredact = false\n\
                 token = { provider = \"env\", name = \"STRIPE_API_KEY\" }\n";
    let world = World::with(|config| config.vault(vault)).await;
    let headers = format!("content-encoding: br\r\nx-key: {STRIPE_KEY}\r\n");
    world.upstream.answer(sized(&headers, &[STRIPE_KEY.as_bytes()]));
    let call = world.client.get(&format!("https://{STRIPE}/")).header("accept-encoding", "br, x");
    let reply = call.bearer(&world.token).send().await.unwrap();
    assert_eq!((reply.status, reply.text()), (StatusCode::OK, STRIPE_KEY.to_owned()));
    assert_eq!(reply.header("x-key"), Some(mask(STRIPE_KEY)));
    assert!(world.upstream.last_request().contains("accept-encoding: br, x\r\n"));
}

/// Both the password and the pair, in every form.
#[tokio::test]
async fn a_basic_credential_is_masked_in_every_form() {
    let vault = "[credentials.\"api.stripe.com\"]\ntype = \"basic\"\n\
                 username = { provider = \"env\", name = \"U\" }\npassword = { provider = \"env\", name = \"P\" }\n";
    let world = World::with(|config| config.vault(vault).env("U", "aladdin").env("P", "open sesame/1+2=3")).await;
    for (said, comes) in [
        // echo -n 'aladdin:open sesame/1+2=3' | base64
        (
            "authorization: Basic YWxhZGRpbjpvcGVuIHNlc2FtZS8xKzI9Mw==",
            "authorization: Basic *********************************w==",
        ),
        ("user aladdin:open sesame/1+2=3.", "user *************************."),
        ("pw \"open sesame\\/1+2=3\"", "pw \"******************\""),
        ("?pw=open%20sesame%2F1%2B2%3D3&", "?pw=*************************&"),
        ("?pw=open+sesame%2F1%2B2%3D3&", "?pw=***********************&"),
        // echo -n 'open sesame/1+2=3' | base64, and with one and two bytes before it
        ("b3BlbiBzZXNhbWUvMSsyPTM=", "**********************M="),
        ("eG9wZW4gc2VzYW1lLzErMj0z", "eG**********************"),
        ("eHhvcGVuIHNlc2FtZS8xKzI9Mw==", "eHh**********************w=="),
        ("aladdin open sesame", "aladdin open sesame"),
    ] {
        assert_eq!(String::from_utf8_lossy(&world.sized(&[said.as_bytes()]).await), comes, "{said}");
    }
}
