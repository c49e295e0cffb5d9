//! A `ClientHello` written by hand: server names that no TLS library sends.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What the server did with a hello.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It presented a certificate for these names.
    Certificate(Vec<String>),
    /// It sent an alert or closed the connection.
    Refused,
}

/// Sends a TLS 1.2 hello, in which certificates are still presented in the clear, and reads what comes back.
///
/// # Panics
/// If nothing comes back within five seconds: a connection that hangs is neither.
pub(super) async fn hello(addr: SocketAddr, server_name: Option<&[u8]>) -> Answer {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(&client_hello(server_name)).await.unwrap();
    let mut received = Vec::new();
    let reading = async {
        loop {
            if let Some(answer) = understand(&received) {
                return answer;
            }
            match stream.read_buf(&mut received).await {
                Ok(0) | Err(_) => return Answer::Refused,
                Ok(_) => {}
            }
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), reading).await;
    answer.unwrap_or_else(|_| panic!("the handshake hangs for {server_name:?}"))
}

fn client_hello(server_name: Option<&[u8]>) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let Some(name) = server_name {
        // RFC 6066 §3: a list of one name of type 0.
        let entry = [&[0], prefixed(name).as_slice()].concat();
        extensions.extend(extension(0, &prefixed(&entry)));
    }
    extensions.extend(extension(10, &prefixed(&[0x00, 0x17, 0x00, 0x1d])));
    extensions.extend(extension(11, &[1, 0]));
    extensions.extend(extension(13, &prefixed(&[0x04, 0x03, 0x08, 0x04, 0x04, 0x01])));
    let body = [
        &[0x03, 0x03][..],
        &[0x5a; 32],
        &[0],
        &prefixed(&[0xc0, 0x2b, 0xc0, 0x2c, 0xcc, 0xa9]),
        &[1, 0],
        &prefixed(&extensions),
    ]
    .concat();
    let handshake = [&[1, 0][..], &prefixed(&body)].concat();
    [&[0x16, 0x03, 0x01][..], &prefixed(&handshake)].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &prefixed(content)].concat()
}

/// With its length in two bytes before it.
fn prefixed(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).unwrap().to_be_bytes()[..], content].concat()
}

/// The first certificate, or an alert; `None` while there is neither.
fn understand(mut records: &[u8]) -> Option<Answer> {
    let mut handshake = Vec::new();
    while let Some((&[kind, _, _, high, low], rest)) = records.split_first_chunk::<5>() {
        let fragment = rest.get(..usize::from(u16::from_be_bytes([high, low])))?;
        match kind {
            22 => handshake.extend_from_slice(fragment),
            _ => return Some(Answer::Refused),
        }
        records = &rest[fragment.len()..];
        if let Some(names) = certificate(&handshake) {
            return Some(Answer::Certificate(names));
        }
    }
    None
}

fn certificate(mut messages: &[u8]) -> Option<Vec<String>> {
    while let Some((&[kind, a, b, c], rest)) = messages.split_first_chunk::<4>() {
        let body = rest.get(..length([a, b, c]))?;
        if kind == 11 {
            let (_, list) = body.split_first_chunk::<3>()?;
            let (&first, list) = list.split_first_chunk::<3>()?;
            return Some(names(list.get(..length(first))?));
        }
        messages = &rest[body.len()..];
    }
    None
}

fn length([a, b, c]: [u8; 3]) -> usize {
    u32::from_be_bytes([0, a, b, c]).try_into().unwrap()
}

/// The names in a certificate.
pub(super) fn names(der: &[u8]) -> Vec<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    names.value.general_names.iter().map(ToString::to_string).collect()
}
