use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_server::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_server::proto::rr::RData;
use proptest::prelude::*;
use tokio::sync::watch;

use super::*;
use crate::shutdown;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
const A: u16 = 1;
const AAAA: u16 = 28;
const TXT: u16 = 16;

fn zone(names: &[&str]) -> Zone {
    let (patterns, names): (Vec<HostPattern>, Vec<HostPattern>) =
        names.iter().map(|name| name.parse().unwrap()).partition(|pattern: &HostPattern| pattern.exact().is_none());
    Zone { address: GATEWAY, names: names.iter().filter_map(HostPattern::exact).cloned().collect(), patterns }
}

fn usual() -> Zone {
    zone(&["api.stripe.com", "*.s3.amazonaws.com"])
}

/// A query as bytes: labels as they are, so that they may hold anything.
fn packet(labels: &[&[u8]], kind: u16) -> Vec<u8> {
    let mut bytes = vec![0xAB, 0xCD, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in labels {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label);
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let labels: Vec<&[u8]> = name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes).collect();
    packet(&labels, kind)
}

/// With an OPT record that says what the client takes.
fn with_edns(mut packet: Vec<u8>, version: u8, dnssec_ok: bool) -> Vec<u8> {
    packet[11] += 1;
    packet.extend([0, 0, 41, 0x04, 0xD0, 0, version, u8::from(dnssec_ok) << 7, 0, 0, 0]);
    packet
}

fn ask(zone: &Zone, packet: &[u8]) -> (Option<Message>, Option<Query>) {
    let mut out = vec![1, 2, 3];
    let query = reply(packet, zone, &mut out);
    let message = (!out.is_empty()).then(|| Message::from_vec(&out).unwrap());
    (message, query)
}

fn code(zone: &Zone, packet: &[u8]) -> ResponseCode {
    ask(zone, packet).0.unwrap().metadata.response_code
}

fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &hickory_server::proto::rr::Record| match &record.data {
        RData::A(address) => address.0,
        other => panic!("{other}"),
    };
    message.answers.iter().map(address).collect()
}

// ── Messages ──────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn allowed_names_resolve_to_the_gateway_for_a_short_time() {
    for name in ["api.stripe.com", "API.sTrIpE.cOm.", "bucket.s3.amazonaws.com", "A.b.s3.amazonaws.com"] {
        let (message, seen) = ask(&usual(), &query(name, A));
        let message = message.unwrap();
        assert_eq!(message.metadata.response_code, ResponseCode::NoError, "{name}");
        assert_eq!(message.metadata.id, 0xABCD);
        assert_eq!(message.metadata.message_type, MessageType::Response);
        assert!(message.metadata.authoritative && message.metadata.recursion_available);
        assert_eq!(addresses(&message), [GATEWAY], "{name}");
        assert_eq!(message.answers[0].ttl, 5);
        // By the case of its letters a client knows that the answer is to its question.
        let asked = name.trim_end_matches('.');
        assert_eq!(message.queries[0].name.to_ascii().trim_end_matches('.'), asked);
        assert_eq!(message.answers[0].name.to_ascii().trim_end_matches('.'), asked);
        let seen = seen.unwrap();
        assert_eq!((seen.name, seen.kind.as_str(), seen.allowed), (asked.to_ascii_lowercase(), "A", true));
    }
}

#[test]
fn other_types_of_an_allowed_name_are_empty_and_cached_for_a_short_time() {
    for kind in [AAAA, TXT, 5, 15, 33, 64, 65, 252, 255, 65_280] {
        let (message, seen) = ask(&usual(), &query("api.stripe.com", kind));
        let message = message.unwrap();
        assert_eq!(message.metadata.response_code, ResponseCode::NoError, "{kind}");
        assert!(message.answers.is_empty(), "{kind}");
        let RData::SOA(soa) = &message.authorities[0].data else { panic!("{kind}: {message}") };
        assert_eq!((soa.minimum, message.authorities[0].ttl), (5, 5));
        assert!(seen.unwrap().allowed);
    }
    let (_, seen) = ask(&usual(), &query("api.stripe.com", 65_280));
    assert_eq!(seen.unwrap().kind, "TYPE65280");
}

#[test]
fn every_other_name_does_not_exist_whatever_the_type() {
    for name in [
        "c2VjcmV0.evil.com",
        "evil.com",
        "",
        "com",
        "stripe.com",
        "x.api.stripe.com",
        "api.stripe.com.lan",
        "s3.amazonaws.com",
        "evils3.amazonaws.com",
        "-x.s3.amazonaws.com",
        "localhost",
        "1.0.30.172.in-addr.arpa",
        "127.0.0.1",
    ] {
        for kind in [A, AAAA, TXT, 65, 252, 255] {
            let (message, seen) = ask(&usual(), &query(name, kind));
            let message = message.unwrap();
            assert_eq!(message.metadata.response_code, ResponseCode::NXDomain, "{name} {kind}");
            assert!(message.answers.is_empty() && message.authorities.len() == 1, "{name} {kind}");
            assert!(!seen.unwrap().allowed);
        }
    }
}

#[test]
fn labels_with_strange_bytes_match_nothing_and_are_escaped() {
    for (labels, seen) in [
        (&[&b"api.stripe"[..], b"com"][..], "api\\046stripe.com"),
        (&[b"api.stripe.com"], "api\\046stripe\\046com"),
        (&[b"x\ny", b"s3", b"amazonaws", b"com"], "x\\010y.s3.amazonaws.com"),
        (&[b"\0", b"api", b"stripe", b"com"], "\\000.api.stripe.com"),
        (&[b"api\0", b"stripe", b"com"], "api\\000.stripe.com"),
        (&[b"\x1b[2J", b"evil"], "\\027\\0912j.evil"),
        ("é\u{202e}".as_bytes().chunks(63).collect::<Vec<_>>().as_slice(), "\\195\\169\\226\\128\\174"),
        (&[b"\\", b"\"", b" "], "\\092.\\034.\\032"),
        (&[b"*", b"s3", b"amazonaws", b"com"], "*.s3.amazonaws.com"),
    ] {
        let (message, query) = ask(&usual(), &packet(labels, A));
        assert_eq!(message.unwrap().metadata.response_code, ResponseCode::NXDomain, "{seen}");
        let query = query.unwrap();
        assert!(query.name.starts_with(seen), "{} is not {seen}", query.name);
        assert!(!query.allowed);
    }
    // As long as a name can be, of bytes that are longest when escaped.
    let long = [&[0x9b_u8; 63][..], &[7; 63], &[8; 63], &[0; 61]];
    let (message, query) = ask(&usual(), &packet(&long, A));
    assert_eq!(message.unwrap().metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(query.unwrap().name.chars().count(), 256);
}

#[test]
fn only_questions_of_the_internet_class_are_answered() {
    for class in [0_u16, 3, 4, 254, 255, 0x8001] {
        let mut chaos = query("version.bind", TXT);
        let at = chaos.len() - 2;
        chaos[at..].copy_from_slice(&class.to_be_bytes());
        assert_eq!(code(&usual(), &chaos), ResponseCode::Refused, "{class}");
    }
    for opcode in 1..16_u8 {
        let mut other = query("api.stripe.com", A);
        other[2] = opcode << 3;
        let (message, seen) = ask(&usual(), &other);
        let message = message.unwrap();
        assert_eq!(message.metadata.response_code, ResponseCode::NotImp);
        assert_eq!(message.metadata.op_code, OpCode::from_u8(opcode));
        assert!(message.queries.is_empty() && seen.is_none());
    }
}

#[test]
fn edns_is_answered_in_kind_and_the_reply_is_never_big() {
    for (version, dnssec_ok, expected) in
        [(0, false, ResponseCode::NXDomain), (0, true, ResponseCode::NXDomain), (1, true, ResponseCode::BADVERS)]
    {
        let long = [&[b'x'; 63][..], &[b'x'; 63], &[b'x'; 63], &[b'x'; 61]];
        let bytes = with_edns(packet(&long, 255), version, dnssec_ok);
        let mut out = Vec::new();
        reply(&bytes, &usual(), &mut out);
        assert!(out.len() <= 512, "{}", out.len());
        let message = Message::from_vec(&out).unwrap();
        // BADVERS has a number with BADSIG in common.
        assert_eq!(u16::from(message.metadata.response_code), u16::from(expected));
        let edns = message.edns.unwrap();
        assert_eq!((edns.version(), edns.flags().dnssec_ok, edns.max_payload()), (0, dnssec_ok, 1232));
    }
    assert!(ask(&usual(), &query("api.stripe.com", A)).0.unwrap().edns.is_none());
    assert_eq!(addresses(&ask(&usual(), &with_edns(query("api.stripe.com", A), 0, true)).0.unwrap()), [GATEWAY]);
    let twice = with_edns(with_edns(query("api.stripe.com", A), 0, false), 0, false);
    assert_eq!(code(&usual(), &twice), ResponseCode::FormErr);
}

#[test]
fn malformed_messages_get_an_error_of_a_header_or_silence() {
    let good = query("api.stripe.com", A);
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    let two_questions = [with(5, 2), good[12..].to_vec()].concat();
    let header = &good[..12];
    let pointer = |at: u8| [header, &[0xC0, at, 0, 1, 0, 1]].concat();
    let loops = [header, &[1, b'a', 0xC0, 12, 0, 1, 0, 1]].concat();
    let too_long = packet(&[&[b'x'; 63][..], &[b'x'; 63], &[b'x'; 63], &[b'x'; 62]], A);
    for (what, bytes) in [
        ("no question", with(5, 0)),
        ("two questions", two_questions),
        ("65535 questions", [&header[..4], &[0xff, 0xff, 0, 0, 0, 0, 0, 0], &good[12..]].concat()),
        ("an answer in the query", with(7, 1)),
        ("an authority in the query", with(9, 1)),
        ("an additional that is not there", with(11, 1)),
        ("many additionals", with(11, 200)),
        ("cut", good[..good.len() - 1].to_vec()),
        ("cut in a label", good[..16].to_vec()),
        ("header only", header.to_vec()),
        ("pointer to itself", pointer(12)),
        ("pointer forwards", pointer(13)),
        ("pointer into the header", pointer(4)),
        ("pointer loop", loops),
        ("label type 10", with(12, 0x80)),
        ("label type 01", with(12, 0x40)),
        ("a name of 256 bytes", too_long),
        ("something after the question", [&good[..], b"GET / HTTP/1.1\r\n"].concat()),
        ("OPT data that is not there", {
            let mut bytes = with_edns(good.clone(), 0, false);
            *bytes.last_mut().unwrap() = 200;
            bytes
        }),
    ] {
        let mut out = Vec::new();
        let seen = reply(&bytes, &usual(), &mut out);
        assert_eq!(out.len(), 12, "{what}: no bigger than the header");
        assert_eq!(Message::from_vec(&out).unwrap().metadata.response_code, ResponseCode::FormErr, "{what}");
        assert_eq!(seen, None, "{what}");
    }
    // Shorter than a header, or a response itself: two servers must not begin to talk.
    for bytes in [&[][..], &good[..11], &with(2, 0x81)] {
        assert_eq!(ask(&usual(), bytes), (None, None));
    }
}

proptest! {
    #[test]
    fn whatever_comes_no_other_address_is_told(
        begin in prop::sample::select(vec![
            vec![], query("api.stripe.com", A), with_edns(query("x.s3.amazonaws.com", A), 0, true), query("evil.com", TXT),
        ]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        end in prop::collection::vec(any::<u8>(), 0..600),
        attach in any::<bool>(),
    ) {
        let mut bytes = begin;
        if attach || bytes.is_empty() {
            bytes.extend(end);
        }
        for (at, value) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
        }
        let mut out = Vec::new();
        let query = reply(&bytes, &usual(), &mut out);
        prop_assert!(out.len() <= 512 && out.len() <= bytes.len() + 64);
        if let Some(query) = &query {
            prop_assert!(query.name.chars().all(|c| c.is_ascii_graphic() || c == '…'));
        }
        if !out.is_empty() {
            let message = Message::from_vec(&out).unwrap();
            for address in addresses(&message) {
                prop_assert_eq!(address, GATEWAY);
                prop_assert!(query.as_ref().unwrap().allowed);
            }
        }
    }
}

// ── Sockets ───────────────────────────────────────────────────────────────────────────────────────────────────────────

const DEADLINE: Duration = Duration::from_secs(10);

/// A responder in its own runtime; stops, and waits until it has, when dropped.
struct Running {
    address: SocketAddr,
    zone: watch::Sender<Arc<Zone>>,
    seen: Arc<Mutex<Vec<Query>>>,
    stop: shutdown::Trigger,
    task: Option<tokio::task::JoinHandle<()>>,
    runtime: tokio::runtime::Runtime,
}

impl Running {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let entered = runtime.enter();
        let responder = Responder::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        drop(entered);
        let address = responder.local_addr().unwrap();
        let (zone, zones) = watch::channel(Arc::new(usual()));
        let (stop, stopped) = shutdown::channel();
        let seen: Arc<Mutex<Vec<Query>>> = Arc::default();
        let journal = Arc::clone(&seen);
        let on_query: OnQuery = Arc::new(move |query| journal.lock().unwrap().push(query));
        let task = Some(runtime.spawn(responder.serve(zones, on_query, stopped)));
        Self { address, zone, seen, stop, task, runtime }
    }

    fn udp(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(self.address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    }

    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn stop(&mut self) {
        self.stop.fire();
        if let Some(task) = self.task.take() {
            self.runtime.block_on(async { tokio::time::timeout(DEADLINE, task).await }).unwrap().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.fire();
    }
}

fn over_udp(socket: &UdpSocket, bytes: &[u8]) -> Message {
    socket.send(bytes).unwrap();
    let mut answer = [0; 2048];
    let length = socket.recv(&mut answer).unwrap();
    Message::from_vec(&answer[..length]).unwrap()
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn from_tcp(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    Message::from_vec(&answer).unwrap()
}

/// Whether the server ends the connection, with or without a reset, before the deadline.
fn ends(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn udp_and_tcp_answer_and_a_new_zone_is_in_force_for_the_next_query() {
    let mut running = Running::start();
    let socket = running.udp();
    let mut stream = running.tcp();
    // Garbage first: it harms nobody after it.
    socket.send(b"\xff").unwrap();
    socket.send(&[0xff; 5000]).unwrap();
    assert_eq!(addresses(&over_udp(&socket, &query("api.stripe.com", A))), [GATEWAY]);
    assert_eq!(over_udp(&socket, &query("new.example", A)).metadata.response_code, ResponseCode::NXDomain);

    // Two at once on one connection, the second in pieces.
    let two = [framed(&query("api.stripe.com", A)), framed(&query("new.example", TXT))].concat();
    let (first, second) = two.split_at(two.len() - 7);
    stream.write_all(first).unwrap();
    assert_eq!(addresses(&from_tcp(&mut stream)), [GATEWAY]);
    stream.write_all(second).unwrap();
    assert_eq!(from_tcp(&mut stream).metadata.response_code, ResponseCode::NXDomain);

    running.zone.send(Arc::new(zone(&["new.example"]))).unwrap();
    assert_eq!(addresses(&over_udp(&socket, &query("new.example", A))), [GATEWAY]);
    stream.write_all(&framed(&query("api.stripe.com", A))).unwrap();
    assert_eq!(from_tcp(&mut stream).metadata.response_code, ResponseCode::NXDomain);

    let seen: Vec<(String, String, bool)> =
        running.seen.lock().unwrap().iter().map(|q| (q.name.clone(), q.kind.clone(), q.allowed)).collect();
    let expected = [
        ("api.stripe.com", "A", true),
        ("new.example", "A", false),
        ("api.stripe.com", "A", true),
        ("new.example", "TXT", false),
        ("new.example", "A", true),
        ("api.stripe.com", "A", false),
    ];
    assert_eq!(seen, expected.map(|(name, kind, allowed)| (name.to_owned(), kind.to_owned(), allowed)));

    running.stop();
    assert!(ends(&mut stream), "open connections end with the server");
    assert!(TcpStream::connect(running.address).is_err());
}

#[test]
fn slow_and_hostile_tcp_clients_are_cut_off_and_others_served() {
    let running = Running::start();
    for bytes in [&b"\xff\xffxxxx"[..], b"\x10\x01", b"\0\0", b"\0\x03abc"] {
        let mut stream = running.tcp();
        stream.write_all(bytes).unwrap();
        let begun = Instant::now();
        assert!(ends(&mut stream), "{bytes:?}");
        assert!(begun.elapsed() < Duration::from_secs(4), "at once, not by the time limit: {bytes:?}");
    }

    // As many idle ones as there may be, each with a message begun.
    let begun = Instant::now();
    let mut idle: Vec<TcpStream> = (0..64).map(|_| running.tcp()).collect();
    for stream in &mut idle {
        stream.write_all(&framed(&query("api.stripe.com", A))).unwrap();
        from_tcp(stream);
        stream.write_all(b"\0").unwrap();
    }
    assert!(ends(&mut running.tcp()), "one too many");
    assert!(begun.elapsed() < Duration::from_secs(4), "refused at once");
    assert_eq!(addresses(&over_udp(&running.udp(), &query("api.stripe.com", A))), [GATEWAY]);
    for stream in &mut idle {
        assert!(ends(stream));
    }
    assert!(begun.elapsed() >= Duration::from_secs(4), "they had their time");
    // There is room again.
    let mut stream = running.tcp();
    stream.write_all(&framed(&query("api.stripe.com", A))).unwrap();
    assert_eq!(addresses(&from_tcp(&mut stream)), [GATEWAY]);
}

#[tokio::test]
async fn an_address_that_cannot_be_taken_says_which() {
    let first = Responder::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = first.local_addr().unwrap();
    let error = Responder::bind(address).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let error = Responder::bind("192.0.2.1:15053".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("192.0.2.1:15053 (TCP)"), "{error}");
    // Only UDP is taken.
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = udp.local_addr().unwrap();
    let error = Responder::bind(address).unwrap_err();
    assert!(error.to_string().contains("(UDP)"), "{error}");
}
