//! A credential that an upstream sends back does not reach the agent.

mod scripted;

use std::time::{Duration, Instant};

use http::StatusCode;

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
        let upstream = Scripted::start(STRIPE).await;
        let section =
            format!("[upstream.\"{STRIPE}\"]\naddress = \"{}\"\nca = \"upstream-ca.pem\"\n\n", upstream.addr());
        let server = Server::start(WorldConfig::new(section)).await;
        let (client, token) = (server.client(), server.token(&["--hosts", STRIPE]));
        Self { server, client, upstream, token }
    }

    async fn get(&self, proto: Proto) -> Reply {
        let call = self.client.get(&format!("https://{STRIPE}/")).bearer(&self.token).proto(proto);
        call.send().await.unwrap()
    }
}

const MASK: &str = "********************************";

#[tokio::test]
async fn a_body_that_has_the_key() {
    let world = World::start().await;
    let body = format!("{{\"key\": \"{STRIPE_KEY}\", \"again\": \"{STRIPE_KEY}{STRIPE_KEY}\"}}");
    let length = format!("HTTP/1.1 200 OK\r\nx-key: a{STRIPE_KEY}b\r\ncontent-length: {}\r\n\r\n", body.len());
    world.upstream.answer(vec![Step::Send(length.into_bytes()), Step::Send(body.clone().into_bytes())]);
    for proto in [Proto::H1, Proto::H2] {
        let reply = world.get(proto).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.text(), body.replace(STRIPE_KEY, MASK));
        assert_eq!(reply.header("x-key"), Some(format!("a{MASK}b")));
    }
}
