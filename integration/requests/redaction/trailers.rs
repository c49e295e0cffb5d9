//! Answers that end by trailers, as those of gRPC do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::{STRIPE_KEY, mask};
use crate::requests::STRIPE;
use crate::support::client::Proto;
use crate::support::pki::{CertKind, TestCa};
use crate::support::server::{Server, WorldConfig};

/// An upstream by HTTP/2 that answers with these pieces, and the key in its trailers.
struct Grpc {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Grpc {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Grpc {
    async fn start(pieces: Vec<Bytes>) -> Self {
        let cert = TestCa::shared().issue(&[STRIPE], CertKind::Good);
        let mut tls =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.cert], cert.key).unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tcp.set_nodelay(true).unwrap();
                let (acceptor, pieces) = (acceptor.clone(), pieces.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        let pieces = pieces.clone();
                        tokio::spawn(async move {
                            let head = Response::builder().header("content-type", "application/grpc");
                            let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
                            for piece in pieces {
                                body.send_data(piece, false).unwrap();
                                tokio::time::sleep(Duration::from_millis(5)).await;
                            }
                            let mut trailers = HeaderMap::new();
                            trailers.insert("grpc-status", "0".parse().unwrap());
                            trailers.insert("x-key", STRIPE_KEY.parse().unwrap());
                            body.send_trailers(trailers).unwrap();
                        });
                    }
                });
            }
        });
        Self { addr, task }
    }
}

/// Nothing is lost, wherever the body ends, and the trailers are masked.
#[tokio::test]
async fn nothing_is_lost_before_trailers_and_they_are_masked() {
    for (pieces, comes) in [
        (vec!["one ", "two"], "one two".to_owned()),
        (vec!["one ", STRIPE_KEY], mask(&format!("one {STRIPE_KEY}"))),
        // Its last bytes are the first ones of the key.
        (vec!["one ", &STRIPE_KEY[..1]], "one s".to_owned()),
        (vec!["one ", &STRIPE_KEY[..5]], "one sk_te".to_owned()),
        // So many of them that they count as the key.
        (vec!["one ", &STRIPE_KEY[..12]], "one ************".to_owned()),
        (vec!["one ", &STRIPE_KEY[..12], &STRIPE_KEY[12..], " two"], mask(&format!("one {STRIPE_KEY} two"))),
        (vec!["one ", &STRIPE_KEY[..12], "two"], "one ************two".to_owned()),
    ] {
        let upstream = Grpc::start(pieces.iter().map(|piece| Bytes::from((*piece).to_owned())).collect()).await;
        let section = format!("[upstream.\"{STRIPE}\"]\naddress = \"{}\"\nca = \"upstream-ca.pem\"\n\n", upstream.addr);
        let server = Server::start(WorldConfig::new(section)).await;
        let (client, token) = (server.client(), server.token(&[]));
        let call = client.get(&format!("https://{STRIPE}/")).bearer(&token).proto(Proto::H2);
        let mut connection = client.connect(STRIPE, Proto::H2).await.unwrap();
        let response = connection.send_streaming(call.to_request()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        let trailers = body.trailers().cloned().unwrap();
        assert_eq!(String::from_utf8_lossy(&body.to_bytes()), comes);
        assert_eq!(
            (&trailers["grpc-status"], &trailers["x-key"]),
            (&"0".parse().unwrap(), &mask(STRIPE_KEY).parse().unwrap())
        );
    }
}
