//! Many clients in one thread, driven by epoll: each a connection with one aggregated stream, as an Envoy has it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::epoll;
use rustix::fs::Timespec;

use super::http2::{self, Event, Reader};
use super::messages::{Answer, Ask, Held, Kind, Proto};

/// What a client takes before it has read it.
const WINDOW: u32 = 16 << 20;

/// Where the server is.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|error| format!("{error}: an address is IP:PORT or unix:PATH")),
        }
    }
}

enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Io {
    fn open(address: &Address) -> std::io::Result<Self> {
        Ok(match address {
            Address::Tcp(address) => {
                let tcp = TcpStream::connect(address)?;
                tcp.set_nodelay(true)?;
                tcp.set_nonblocking(true)?;
                Self::Tcp(tcp)
            }
            Address::Unix(path) => {
                let unix = UnixStream::connect(path)?;
                unix.set_nonblocking(true)?;
                Self::Unix(unix)
            }
        })
    }

    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Tcp(tcp) => tcp.as_fd(),
            Self::Unix(unix) => unix.as_fd(),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.read(buffer),
            Self::Unix(unix) => unix.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.write(bytes),
            Self::Unix(unix) => unix.write(bytes),
        }
    }
}

/// What all clients of a fleet have in common.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    pub(crate) proto: Proto,
    /// The `node.cluster` they say they are of.
    pub(crate) cluster: String,
    /// The routes and secrets they ask for.
    pub(crate) names: Vec<String>,
    /// What they bring from an earlier session, in the order of [`Kind::ALL`]; delta.
    pub(crate) brought: [Vec<Held>; 4],
    /// The versions they bring; state of the world.
    pub(crate) versions: [Vec<u8>; 4],
}

struct Client {
    io: Io,
    reader: Reader,
    /// What the socket did not take yet.
    pending: Vec<u8>,
    /// How many types it has asked for.
    asked: usize,
    is_over: bool,
    is_stalled: bool,
    /// When the first response since the last mark came, and when it was answered.
    heard: Option<(Instant, Instant)>,
}

/// What clients heard since the last [`Fleet::mark`].
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Heard {
    pub(crate) clients: usize,
    pub(crate) responses: usize,
    pub(crate) resources: usize,
    pub(crate) resource_bytes: usize,
}

pub(crate) struct Fleet {
    pub(crate) common: Common,
    clients: Vec<Client>,
    epoll: std::os::fd::OwnedFd,
    buffer: Vec<u8>,
    /// The type whose responses are waited for.
    awaited: Kind,
    /// Takes note of what clients would bring to a later session.
    is_learning: bool,
    pub(crate) heard: Heard,
    pub(crate) over: usize,
}

impl Fleet {
    pub(crate) fn new(common: Common) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (clients, heard) = (Vec::new(), Heard::default());
        Ok(Self {
            common,
            clients,
            epoll,
            buffer: vec![0; 256 << 10],
            awaited: Kind::Secret,
            is_learning: true,
            heard,
            over: 0,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Connects so many clients; they are ready once all have heard of the last type. Returns how long that took.
    pub(crate) fn connect(&mut self, address: &Address, count: usize, patience: Duration) -> anyhow::Result<Duration> {
        self.mark(Kind::Secret);
        let begun = Instant::now();
        for _ in 0..count {
            self.open(address, false)?;
            // Leaves nobody waiting for an answer meanwhile.
            self.turn(Some(Duration::ZERO))?;
        }
        self.until(count, patience)?;
        Ok(begun.elapsed())
    }

    /// Connects so many clients that bring what [`Common`] says, and ask for everything at once.
    pub(crate) fn reconnect(&mut self, address: &Address, count: usize) -> anyhow::Result<()> {
        // What the first of them hears now the others do not bring.
        self.is_learning = false;
        for _ in 0..count {
            self.open(address, true)?;
            self.turn(Some(Duration::ZERO))?;
        }
        Ok(())
    }

    fn open(&mut self, address: &Address, is_resumed: bool) -> anyhow::Result<()> {
        let number = self.clients.len();
        let io = Io::open(address).with_context(|| format!("client {number} cannot connect"))?;
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&self.epoll, io.fd(), data, epoll::EventFlags::IN)?;
        let mut out = http2::opening(self.common.proto.path(), WINDOW);
        let asked = if is_resumed { Kind::ALL.len() } else { 1 };
        for (index, kind) in Kind::ALL.into_iter().enumerate().take(asked) {
            self.common.first(kind, (index == 0).then_some(number), is_resumed, &mut out);
        }
        let (reader, pending) = (Reader::default(), Vec::new());
        let mut client = Client { io, reader, pending, asked, is_over: false, is_stalled: false, heard: None };
        client.send(&out, &self.epoll, number)?;
        self.clients.push(client);
        Ok(())
    }

    /// From now on responses of this type count.
    pub(crate) fn mark(&mut self, awaited: Kind) {
        self.awaited = awaited;
        self.heard = Heard::default();
        self.clients.iter_mut().for_each(|client| client.heard = None);
    }

    /// Waits until so many clients have heard something of the awaited type since the mark.
    pub(crate) fn until(&mut self, count: usize, patience: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + patience;
        while self.heard.clients < count {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("only {} of {count} heard within {patience:?}, {} are over", self.heard.clients, self.over);
            }
            self.turn(Some(left.min(Duration::from_millis(100))))?;
        }
        Ok(())
    }

    /// Lets everything happen that happens within this time.
    pub(crate) fn idle(&mut self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn(Some(end.saturating_duration_since(Instant::now())))?;
        }
        Ok(())
    }

    /// For each client that heard: from `begun` to its ACK, and the first response after `begun`.
    pub(crate) fn times(&self, begun: Instant) -> (Vec<Duration>, Duration) {
        let heard = || self.clients.iter().filter_map(|client| client.heard);
        let mut times: Vec<_> = heard().map(|(_, acked)| acked.saturating_duration_since(begun)).collect();
        times.sort_unstable();
        let first = heard().map(|(came, _)| came.saturating_duration_since(begun)).min();
        (times, first.unwrap_or_default())
    }

    /// The first `count` clients stop reading, or read again.
    pub(crate) fn stall(&mut self, count: usize, is_stalled: bool) -> anyhow::Result<()> {
        for (number, client) in self.clients.iter_mut().enumerate().take(count) {
            client.is_stalled = is_stalled;
            client.register(&self.epoll, number)?;
        }
        Ok(())
    }

    /// Closes every connection.
    pub(crate) fn close(&mut self) {
        self.clients.clear();
        self.over = 0;
    }

    fn turn(&mut self, timeout: Option<Duration>) -> anyhow::Result<()> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut events: Vec<epoll::Event> = Vec::with_capacity(512);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        for event in events {
            let data = event.data;
            self.serve(data.u64() as usize)?;
        }
        Ok(())
    }

    fn serve(&mut self, number: usize) -> anyhow::Result<()> {
        let Some(client) = self.clients.get_mut(number) else { return Ok(()) };
        if client.is_over || client.is_stalled {
            return Ok(());
        }
        if !client.pending.is_empty() {
            let pending = std::mem::take(&mut client.pending);
            client.send(&pending, &self.epoll, number)?;
        }
        let read = match client.io.read(&mut self.buffer) {
            Ok(0) => None,
            Ok(read) => Some(read),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(_) => None,
        };
        let Some(read) = read else { return self.lose(number) };
        let came = Instant::now();
        let mut out = Vec::new();
        let (mut reader, mut asked, mut is_heard) = (std::mem::take(&mut client.reader), client.asked, false);
        let (common, heard, awaited) = (&mut self.common, &mut self.heard, self.awaited);
        let is_learning = self.is_learning;
        let event = reader.read(&self.buffer[..read], &mut out, WINDOW, &mut |message, out| {
            let Some(answer) = Answer::read(message) else { return };
            let Some(kind) = answer.kind else { return };
            heard.responses += 1;
            heard.resources += answer.resources;
            heard.resource_bytes += answer.resource_bytes;
            is_heard |= kind == awaited;
            // All clients hold the same: what the first one hears is what each would bring.
            if is_learning && number == 0 {
                common.learn(kind, message, &answer);
            }
            common.ack(kind, &answer, out);
            let index = Kind::ALL.iter().position(|it| *it == kind).unwrap_or(0);
            if index + 1 == asked && asked < Kind::ALL.len() {
                common.first(Kind::ALL[asked], None, false, out);
                asked += 1;
            }
        });
        let client = &mut self.clients[number];
        (client.reader, client.asked) = (reader, asked);
        if !out.is_empty() {
            client.send(&out, &self.epoll, number)?;
        }
        if is_heard && client.heard.is_none() {
            client.heard = Some((came, Instant::now()));
            self.heard.clients += 1;
        }
        if event == Event::Over { self.lose(number) } else { Ok(()) }
    }

    fn lose(&mut self, number: usize) -> anyhow::Result<()> {
        let client = &mut self.clients[number];
        client.is_over = true;
        self.over += 1;
        Ok(epoll::delete(&self.epoll, client.io.fd())?)
    }
}

impl Client {
    fn send(&mut self, mut bytes: &[u8], epoll: &std::os::fd::OwnedFd, number: usize) -> anyhow::Result<()> {
        while !bytes.is_empty() && self.pending.is_empty() {
            match self.io.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Reading will tell.
                Err(_) => return Ok(()),
            }
        }
        let was_pending = !self.pending.is_empty();
        self.pending.extend_from_slice(bytes);
        if was_pending != self.pending.is_empty() { Ok(()) } else { self.register(epoll, number) }
    }

    fn register(&self, epoll: &std::os::fd::OwnedFd, number: usize) -> anyhow::Result<()> {
        let mut flags = if self.is_stalled { epoll::EventFlags::empty() } else { epoll::EventFlags::IN };
        if !self.pending.is_empty() && !self.is_stalled {
            flags |= epoll::EventFlags::OUT;
        }
        Ok(epoll::modify(epoll, self.io.fd(), epoll::EventData::new_u64(number as u64), flags)?)
    }
}

impl Common {
    /// The first request for a type.
    pub(crate) fn first(&self, kind: Kind, node: Option<usize>, is_resumed: bool, out: &mut Vec<u8>) {
        let index = Kind::ALL.iter().position(|it| *it == kind).unwrap_or(0);
        let id = node.map(|number| format!("client-{number}"));
        let brought: &[Held] = if is_resumed { &self.brought[index] } else { &[] };
        let star = ["*".to_owned()];
        let names: &[String] = match (kind.is_wildcard(), is_resumed && self.proto == Proto::Delta) {
            (true, true) => &star,
            (true, false) => &[],
            (false, _) => &self.names,
        };
        let ask = Ask {
            proto: self.proto,
            kind,
            node: id.as_deref().map(|id| (id, self.cluster.as_str())),
            nonce: &[],
            version: if is_resumed { &self.versions[index] } else { &[] },
            names,
            initial: brought,
        };
        write(&ask, out);
    }

    fn ack(&self, kind: Kind, answer: &Answer<'_>, out: &mut Vec<u8>) {
        let names: &[String] = match self.proto {
            Proto::Sotw if !kind.is_wildcard() => &self.names,
            Proto::Sotw | Proto::Delta => &[],
        };
        let (proto, nonce, version) = (self.proto, answer.nonce, answer.version);
        write(&Ask { proto, kind, node: None, nonce, version, names, initial: &[] }, out);
    }

    fn learn(&mut self, kind: Kind, message: &[u8], answer: &Answer<'_>) {
        let index = Kind::ALL.iter().position(|it| *it == kind).unwrap_or(0);
        self.versions[index] = answer.version.to_vec();
        if self.proto == Proto::Delta {
            for held in Answer::held(message) {
                let known = &mut self.brought[index];
                match known.iter_mut().find(|(name, _)| *name == held.0) {
                    Some(known) => known.1 = held.1,
                    None => known.push(held),
                }
            }
        }
    }
}

fn write(ask: &Ask<'_>, out: &mut Vec<u8>) {
    let mut message = Vec::with_capacity(256);
    ask.write(&mut message);
    http2::data(out, &message);
}
