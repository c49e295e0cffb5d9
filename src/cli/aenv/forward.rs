//! `aenv forward`: standard input and output become a connection to a port of the sandbox's own loopback.
//!
//! The server starts it, to carry a sign-in's callback to the program that waits for it. Its first byte of output says that
//! the connection is there; without one, its standard error says why.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use crate::domain::opening::CONNECTED;

const PATIENCE: Duration = Duration::from_secs(5);

/// Why nothing was carried.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No program has the port.
    #[error("nothing listens on port {0} of the sandbox's localhost")]
    Refused(u16, #[source] io::Error),
    /// The streams of this process.
    #[error("cannot carry the connection")]
    Streams(#[source] io::Error),
}

/// Carries until the program in the sandbox ends the connection.
///
/// # Errors
/// When there is nothing to connect to.
pub fn forward(port: u16) -> Result<(), ForwardError> {
    let stream = connect(port).map_err(|error| ForwardError::Refused(port, error))?;
    carry(&stream).map_err(ForwardError::Streams)
}

/// The name `localhost` has both addresses, and programs listen on either.
fn connect(port: u16) -> io::Result<TcpStream> {
    let at = |address: SocketAddr| TcpStream::connect_timeout(&address, PATIENCE);
    at((Ipv4Addr::LOCALHOST, port).into()).or_else(|error| at((Ipv6Addr::LOCALHOST, port).into()).map_err(|_| error))
}

fn carry(stream: &TcpStream) -> io::Result<()> {
    // Not the buffered ones: a line is no unit here.
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    output.write_all(&[CONNECTED])?;
    let there = stream.try_clone()?;
    // It ends with the process, at the latest.
    thread::spawn(move || {
        let _ = pass(input, &there);
        let _ = there.shutdown(Shutdown::Write);
    });
    pass(stream, output)
}

fn pass(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = [0; 32 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => to.write_all(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn either_loopback_address_is_found() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // A machine may have no IPv6.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let local = listener.local_addr().unwrap();
            assert_eq!(connect(local.port()).unwrap().peer_addr().unwrap(), local);
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = forward(free).unwrap_err();
        assert_eq!(error.to_string(), format!("nothing listens on port {free} of the sandbox's localhost"));
    }
}
