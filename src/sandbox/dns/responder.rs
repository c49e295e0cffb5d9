//! The sockets of a sandbox's DNS: one task for UDP and for accepting, and one per TCP connection.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::{Query, Zone, message};
use crate::shutdown::Shutdown;

/// No query is longer, in bytes: a name has 255, and EDNS options are few.
const MAX_MESSAGE: usize = 4096;
/// TCP connections at a time; more are closed at once.
const MAX_CONNECTIONS: usize = 64;
/// How long a TCP client may take for one query, and for taking its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The wait after a socket's error, lest one that stays keeps a core busy.
const AFTER_ERROR: Duration = Duration::from_millis(100);
/// How many ports the system may choose until one is free for both UDP and TCP.
const CHOICES: usize = 16;

/// Is told of each query that can be read. Called from the task that answers: it must not block.
pub type OnQuery = Arc<dyn Fn(Query) + Send + Sync>;

/// The DNS server of one sandbox, on the gateway address of its bridge.
#[derive(Debug)]
pub struct Responder {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Responder {
    /// Takes a port for UDP and TCP; port 0 is one that is free for both. Needs a Tokio runtime around it.
    ///
    /// # Errors
    /// When the address is not one of this host, or its port is taken; the text says which.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let mut choices = if address.port() == 0 { CHOICES } else { 1 };
        loop {
            choices -= 1;
            let tcp = std::net::TcpListener::bind(address).map_err(|error| cannot_bind("TCP", address, &error))?;
            let chosen = tcp.local_addr()?;
            match std::net::UdpSocket::bind(chosen) {
                Ok(udp) => {
                    udp.set_nonblocking(true)?;
                    tcp.set_nonblocking(true)?;
                    return Ok(Self { udp: UdpSocket::from_std(udp)?, tcp: TcpListener::from_std(tcp)? });
                }
                Err(error) if choices == 0 => return Err(cannot_bind("UDP", chosen, &error)),
                Err(_) => {}
            }
        }
    }

    /// The address taken, for UDP and TCP alike.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Answers queries until `stop`. A new zone is in force for the next query, on open connections, too. When nobody can
    /// change the zone any more, the last one stays.
    pub async fn serve(self, zone: watch::Receiver<Arc<Zone>>, on_query: OnQuery, stop: Shutdown) {
        let desk = Desk { zone, on_query };
        tokio::select! {
            () = stop.wait() => {}
            never = serve_udp(&self.udp, &desk) => match never {},
            never = serve_tcp(&self.tcp, &desk) => match never {},
        }
    }
}

fn cannot_bind(protocol: &str, address: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {address} ({protocol}): {error}"))
}

/// Where queries are answered, whatever they come by.
#[derive(Clone)]
struct Desk {
    zone: watch::Receiver<Arc<Zone>>,
    on_query: OnQuery,
}

impl Desk {
    fn answer(&self, packet: &[u8], out: &mut Vec<u8>) {
        let query = message::reply(packet, &self.zone.borrow(), out);
        if let Some(query) = query {
            (self.on_query)(query);
        }
    }
}

async fn serve_udp(socket: &UdpSocket, desk: &Desk) -> Infallible {
    let mut packet = [0; MAX_MESSAGE];
    let mut out = Vec::new();
    loop {
        match socket.recv_from(&mut packet).await {
            Ok((length, client)) => {
                desk.answer(&packet[..length], &mut out);
                // A client that cannot be reached asks again, or does not.
                if !out.is_empty() {
                    let _ = socket.send_to(&out, client).await;
                }
            }
            Err(error) => {
                warn!(%error, "DNS by UDP: cannot receive");
                sleep(AFTER_ERROR).await;
            }
        }
    }
}

async fn serve_tcp(listener: &TcpListener, desk: &Desk) -> Infallible {
    // Dropped with this future, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                    let desk = desk.clone();
                    connections.spawn(async move {
                        // The error is the client's: gone, or too slow.
                        let _ = serve_connection(stream, &desk).await;
                    });
                }
                Ok(_) => {}
                Err(error) => {
                    warn!(%error, "DNS by TCP: cannot accept");
                    sleep(AFTER_ERROR).await;
                }
            },
        }
    }
}

/// Answers queries, each with its length before it, until the client goes, dawdles or sends what is no query.
async fn serve_connection(mut stream: TcpStream, desk: &Desk) -> io::Result<()> {
    let mut packet = Vec::new();
    let mut out = Vec::new();
    loop {
        timeout(PATIENCE, read_message(&mut stream, &mut packet)).await??;
        desk.answer(&packet, &mut out);
        let length = u16::try_from(out.len()).unwrap_or(0);
        if length == 0 {
            return Ok(());
        }
        // In one write, so that it leaves in one segment.
        out.splice(0..0, length.to_be_bytes());
        timeout(PATIENCE, stream.write_all(&out)).await??;
    }
}

async fn read_message(stream: &mut TcpStream, packet: &mut Vec<u8>) -> io::Result<()> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    packet.resize(length, 0);
    stream.read_exact(packet).await?;
    Ok(())
}
