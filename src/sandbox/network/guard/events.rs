//! What wakes the guard: the server's lines, and the kernel's notices that rules have changed.

use std::io::{self, BufRead, Read};
use std::os::fd::OwnedFd;
use std::sync::mpsc::SyncSender;
use std::thread;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// A longer line is refused. One sandbox takes about 130 bytes.
const MAX_LINE: u64 = 1024 * 1024;

/// Groups of `NETLINK_ROUTE` (`linux/rtnetlink.h`): links, packet filters, IPv4 rules, IPv6 rules.
const ROUTE_GROUPS: u32 = 1 | 1 << 3 | 1 << 7 | 1 << 18;
/// The group of `NETLINK_NETFILTER` that tells of changed tables (`NFNLGRP_NFTABLES`).
const NETFILTER_GROUPS: u32 = 1 << 6;

/// Something to do.
pub(super) enum Event {
    /// A line of the server's, without its end.
    Line(Vec<u8>),
    /// A line that was too long; it was skipped.
    TooLong,
    /// The kernel's rules may have changed.
    Changed,
}

/// Sends every line of `input`. Its end is no event: the server may be gone, what it asked for holds.
pub(super) fn read_lines(mut input: impl BufRead + Send + 'static, events: SyncSender<Event>) {
    thread::spawn(move || {
        loop {
            let mut line = Vec::new();
            match input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let event = if line.ends_with(b"\n") || (line.len() as u64) < MAX_LINE {
                Event::Line(line)
            } else if input.skip_until(b'\n').is_ok() {
                Event::TooLong
            } else {
                return;
            };
            if events.send(event).is_err() {
                return;
            }
        }
    });
}

/// Sends `Changed` whenever the kernel tells of a change.
///
/// # Errors
/// When the kernel does not let us listen.
pub(super) fn watch_kernel(events: &SyncSender<Event>) -> io::Result<()> {
    let sources = [(None, ROUTE_GROUPS), (Some(netlink::NETFILTER), NETFILTER_GROUPS)];
    for (protocol, groups) in sources {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        let events = events.clone();
        thread::spawn(move || forward(&socket, &events));
    }
    Ok(())
}

fn forward(socket: &OwnedFd, events: &SyncSender<Event>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            // More notices than fit (NOBUFS) are a notice. When the queue is full, the guard is about to look anyway.
            Ok(_) | Err(rustix::io::Errno::NOBUFS) => match events.try_send(Event::Changed) {
                Ok(()) | Err(std::sync::mpsc::TrySendError::Full(_)) => {}
                Err(std::sync::mpsc::TrySendError::Disconnected(_)) => return,
            },
            Err(rustix::io::Errno::INTR) => {}
            // The look at every interval remains; it is not to be woken in a loop.
            Err(_) => thread::sleep(super::LOOK_EVERY),
        }
    }
}
