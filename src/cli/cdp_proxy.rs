//! `cdp-proxy`: inside a sandbox, `localhost:9222` is the host's browser.
//!
//! ```text
//! client ─▶ 127.0.0.1:9222, [::1]:9222, further ports ─ bytes, as they are ─▶ plain HTTP of the sandbox's listener ─▶ server
//!              ▲ policy.json says which, and is looked at again and again
//! ```
//!
//! It filters nothing and knows no protocol: what a sandbox may see is for the server to decide. Everything is bounded: one
//! thread waits for all ports, and each connection has two.
//!
//! It is built without the feature `host`: small, static, and at home in any image.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::aenv::policy::{self, HostAccess, PolicyError, SandboxPolicy};

/// How often `policy.json` is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Connections at a time, over all ports; the server allows fewer.
const MAX_CONNECTIONS: usize = 128;
/// How long a client may take before it says anything. Browsers' clients open connections in advance.
const FIRST_WORD: Duration = Duration::from_secs(60);
/// How long the sandbox's listener may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// What is read at once.
const CHUNK: usize = 64 * 1024;
/// Of the threads of a connection, which only copy.
const STACK: usize = 64 * 1024;

const NOTES: &str = "\
The ports are those of the [[cdp_target]]s in agent-creds.toml, on the host, and 9222. They are followed when the file changes. What
clients see there is decided on the host: the tabs that a [[cdp_target]] allows, and no others.

In a sandbox it is started with it, and again when it ends. Programs use it as a browser of their own:
  playwright   chromium.connect_over_cdp(\"http://localhost:9222\")
  by hand      curl http://localhost:9222/json/list

Environment:
  AGENT_CREDS_POLICY  another file than /opt/agent-creds/policy.json

Status: 2 wrong usage, or not in a sandbox.";

/// Makes the host's browser appear at localhost:9222 in a sandbox, as far as agent-creds.toml allows
#[derive(Debug, Parser)]
#[command(name = "cdp-proxy", version, after_help = NOTES)]
pub struct Args {}

/// Listens until the process ends, and says on `errors` what cannot be listened on.
///
/// # Errors
/// When this is no sandbox: there is no policy, or it cannot be read.
pub fn run(_: &Args, errors: &mut dyn Write) -> Result<Infallible, PolicyError> {
    let path = std::env::var_os("AGENT_CREDS_POLICY").filter(|name| !name.is_empty());
    let mut proxy = Proxy::new(path.map_or_else(|| PathBuf::from(policy::PATH), PathBuf::from))?;
    loop {
        proxy.turn(errors);
    }
}

/// The ports, and what is known of them.
struct Proxy {
    policy: PathBuf,
    host: Option<HostAccess>,
    listeners: BTreeMap<SocketAddr, TcpListener>,
    /// The addresses that could not be had, and were said to be.
    missing: BTreeSet<SocketAddr>,
    open: Arc<AtomicUsize>,
}

impl Proxy {
    fn new(policy: PathBuf) -> Result<Self, PolicyError> {
        let host = SandboxPolicy::read(&policy)?.host;
        Ok(Self { policy, host, listeners: BTreeMap::new(), missing: BTreeSet::new(), open: Arc::default() })
    }

    /// Brings the ports up to the policy, and takes in who connects until it is time to look again.
    fn turn(&mut self, errors: &mut dyn Write) {
        // A policy that cannot be read for a moment changes nothing.
        if let Ok(policy) = SandboxPolicy::read(&self.policy) {
            self.host = policy.host;
        }
        self.listen(errors);
        let mut sockets: Vec<_> =
            self.listeners.values().map(|listener| PollFd::new(listener, PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
        // Interrupted or not: whoever came is taken in.
        if poll(&mut sockets, Some(&timeout)).is_err() {
            thread::sleep(LOOK);
        }
        drop(sockets);
        let Some(host) = &self.host else { return };
        for listener in self.listeners.values() {
            while let Ok((client, _)) = listener.accept() {
                admit(client, host.address, &self.open);
            }
        }
    }

    fn listen(&mut self, errors: &mut dyn Write) {
        let ports = self.host.as_ref().map(|host| host.cdp_ports.clone()).unwrap_or_default();
        let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let wanted: BTreeSet<SocketAddr> =
            ports.into_iter().flat_map(|port| both.map(|address| SocketAddr::new(address, port))).collect();
        self.listeners.retain(|address, _| wanted.contains(address));
        self.missing.retain(|address| wanted.contains(address));
        for address in wanted {
            if self.listeners.contains_key(&address) {
                continue;
            }
            match bind(address) {
                Ok(listener) => {
                    self.missing.remove(&address);
                    self.listeners.insert(address, listener);
                }
                // A sandbox without IPv6 has no such address.
                Err(error) if address.is_ipv6() && error.kind() != io::ErrorKind::AddrInUse => {}
                Err(error) => {
                    if self.missing.insert(address) {
                        let _ = writeln!(errors, "cdp-proxy: {}", why_not(address, &error));
                    }
                }
            }
        }
    }
}

fn why_not(address: SocketAddr, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::AddrInUse {
        return format!(
            "another program in this sandbox listens on {address}, where the host's browser is to be found; end that program, or \
             give the [[cdp_target]] in agent-creds.toml another port = N. It is tried again"
        );
    }
    format!("cannot listen on {address}: {error}. It is tried again")
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// One connection more, as long as it is there.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn admit(client: TcpStream, to: SocketAddr, open: &Arc<AtomicUsize>) {
    let before = open.fetch_add(1, Ordering::Relaxed);
    let place = Place(Arc::clone(open));
    if client.set_nonblocking(false).is_err() {
        return;
    }
    if before >= MAX_CONNECTIONS {
        refuse(&client, "503 Service Unavailable", &format!("{MAX_CONNECTIONS} connections are open; close some"));
        return;
    }
    // Without a thread the client is let go.
    let _ = thread::Builder::new().stack_size(STACK).spawn(move || carry(&client, to, place));
}

/// Carries bytes both ways until both sides have ended.
fn carry(client: &TcpStream, to: SocketAddr, place: Place) {
    let mut chunk = vec![0; CHUNK];
    // Nothing is connected for a client that says nothing: its listener would wait for a word, too, and not as long.
    let first = client.set_read_timeout(Some(FIRST_WORD)).and_then(|()| (&*client).read(&mut chunk));
    let Ok(length @ 1..) = first else { return };
    let server = match TcpStream::connect_timeout(&to, CONNECT) {
        Ok(server) => server,
        Err(error) => {
            refuse(client, "502 Bad Gateway", &format!("the sandbox's gateway does not answer: {error}"));
            return;
        }
    };
    // Commands and answers are small.
    let ready = client.set_read_timeout(None).and_then(|()| client.set_nodelay(true));
    if ready.and_then(|()| server.set_nodelay(true)).is_err() || (&server).write_all(&chunk[..length]).is_err() {
        return;
    }
    let (Ok(from), Ok(back)) = (server.try_clone(), client.try_clone()) else { return };
    let other = thread::Builder::new().stack_size(STACK).spawn(move || copy(&from, &back, &mut vec![0; CHUNK]));
    if let Ok(other) = other {
        copy(client, &server, &mut chunk);
        let _ = other.join();
    }
    drop(place);
}

/// Carries what `from` sends to `to`, to its end; a side that fails ends both.
fn copy(mut from: &TcpStream, mut to: &TcpStream, chunk: &mut [u8]) {
    loop {
        match from.read(chunk) {
            Ok(0) => {
                // The other direction may go on.
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(length) if to.write_all(&chunk[..length]).is_ok() => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => {
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                return;
            }
        }
    }
}

/// Tells a client, which speaks HTTP, why not.
fn refuse(mut client: &TcpStream, status: &str, why: &str) {
    let text = format!("agent-creds: {why}\n");
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n", text.len());
    // Whoever does not read it is gone.
    let _ = client.write_all(format!("{head}connection: close\r\n\r\n{text}").as_bytes());
}

/// The program beside this one; in a sandbox that is where `aenv` is.
pub(super) fn beside(program: &Path) -> PathBuf {
    program.with_file_name("cdp-proxy")
}

#[cfg(test)]
#[path = "cdp_proxy_tests.rs"]
mod tests;
