//! Strangers at the door: no certificate, somebody else's, garbage, and patience that others have to pay for.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::wire::Wire;
use super::{World, counts, serving};
use crate::support::pki::{CertKind, TestCa};

/// Whether the server ends this connection without a word of HTTP/2.
async fn is_refused(wire: &Wire) {
    let outcome = async {
        let mut stream = wire.tls().await?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await
    };
    let outcome = tokio::time::timeout(Duration::from_secs(20), outcome).await.expect("refused in time");
    assert!(outcome.is_err(), "the server answers");
}

#[tokio::test]
async fn strangers_are_refused_and_counted_and_do_not_fill_the_log() {
    let world = World::start(&[]).await;
    let token = world.server.token(&[]);
    is_refused(&Wire::with(world.xds, None)).await;
    counts(&world, "agent_creds_node_refusals_total", &["no_certificate"], |count| count == 1.0).await;
    let foreign = TestCa::new("somebody else's").issue(&["edge-1"], CertKind::Good);
    is_refused(&Wire::with(world.xds, Some((vec![foreign.cert], foreign.key)))).await;
    counts(&world, "agent_creds_node_refusals_total", &["foreign"], |count| count == 1.0).await;

    for garbage in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0; 300], b"\x16"]
    {
        let mut stream = TcpStream::connect(world.xds).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.len() < 100, "{answer:?}");
    }
    // What is cut off in the middle of a record may have been TLS.
    counts(&world, "agent_creds_node_refusals_total", &["\"handshake\""], |count| count == 3.0).await;
    for _ in 0..100 {
        drop(TcpStream::connect(world.xds).await.unwrap());
    }
    counts(&world, "agent_creds_node_refusals_total", &["\"closed\""], |count| count == 101.0).await;
    let said = world.server.log().matches("refused a connection to --xds").count();
    assert!(said <= 12, "{said} lines");

    let _node = world.node("edge-1", "config", &[]);
    serving(&world, &token).await;
}

#[tokio::test]
async fn handshakes_that_never_end_keep_nobody_out() {
    let world = World::start(&[]).await;
    let token = world.server.token(&[]);
    // From an address of its own, as another machine has.
    let stranger: std::net::SocketAddr = "127.0.0.9:0".parse().unwrap();
    let mut held = Vec::new();
    while world.refusals("busy").await == 0.0 {
        assert!(held.len() < 900, "they are not bounded");
        for _ in 0..150 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(stranger).unwrap();
            let mut stream = socket.connect(world.xds).await.unwrap();
            // Half a record.
            let _ = stream.write_all(&[0x16, 3, 1, 1, 0]).await;
            held.push(stream);
        }
    }
    let _node = world.node("edge-1", "config", &[]);
    serving(&world, &token).await;
    counts(&world, "agent_creds_node_refusals_total", &["slow"], |count| count >= 1.0).await;
}
