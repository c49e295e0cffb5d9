use std::sync::mpsc;
use std::time::Instant;

use super::*;

/// Where the sandbox's listener would be; it is handed each connection.
fn gateway() -> (SocketAddr, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            if sender.send(stream).is_err() {
                return;
            }
        }
    });
    (address, receiver)
}

fn write_policy(path: &Path, address: SocketAddr, ports: &[u16]) {
    let text = format!(
        "{{ \"version\": 1, \"sandbox\": \"a\", \"token_prefix\": \"acm_\", \"strict\": false, \"upstreams\": [], \"host\": \
         {{ \"address\": \"{address}\", \"cdp_ports\": {ports:?} }} }}"
    );
    std::fs::write(path, text).unwrap();
}

/// Ports that nobody has, as far as one can know.
fn free_ports<const N: usize>() -> [u16; N] {
    let held: Vec<_> = (0..N).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    std::array::from_fn(|at| held[at].local_addr().unwrap().port())
}

/// A proxy that runs as long as the receiver of its words is there.
fn start(policy: &Path) -> mpsc::Receiver<String> {
    let mut proxy = Proxy::new(policy.to_owned()).unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        loop {
            let mut errors = Vec::new();
            proxy.turn(&mut errors);
            let alive = sender.send(String::from_utf8(errors).unwrap());
            if alive.is_err() {
                return;
            }
        }
    });
    receiver
}

fn connect(port: u16) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => {
                stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                return stream;
            }
            Err(error) => assert!(Instant::now() < deadline, "{port}: {error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn read_to_end(mut stream: &TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn bytes_go_both_ways_and_each_way_ends_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (address, arrived) = gateway();
    let [port] = free_ports();
    write_policy(&dir.path().join("policy.json"), address, &[port]);
    let _words = start(&dir.path().join("policy.json"));
    let mut client = connect(port);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut server = arrived.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(read_to_end(&server), "GET / HTTP/1.1\r\n\r\n");
    // More than any buffer on the way.
    let long = "x".repeat(8 << 20);
    let answer = long.clone();
    let sending = thread::spawn(move || {
        server.write_all(answer.as_bytes()).unwrap();
    });
    assert!(read_to_end(&client) == long);
    sending.join().unwrap();
}

#[test]
fn ports_follow_the_policy() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.json");
    let (address, arrived) = gateway();
    let [first, second] = free_ports();
    write_policy(&policy, address, &[first]);
    let words = start(&policy);
    let open = connect(first);
    (&open).write_all(b"a").unwrap();
    let carried = arrived.recv_timeout(Duration::from_secs(30)).unwrap();
    write_policy(&policy, address, &[second]);
    connect(second);
    // Half a file changes nothing.
    std::fs::write(&policy, "{").unwrap();
    for _ in 0..2 {
        assert_eq!(words.recv_timeout(Duration::from_secs(30)).unwrap(), "");
    }
    connect(second);
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(("127.0.0.1", first)).is_ok() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(5));
    }
    // Who is connected stays so: the server ends what is not allowed any more.
    (&carried).write_all(b"b").unwrap();
    let mut byte = [0];
    (&open).read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"b");
}

#[test]
fn a_port_that_is_taken_is_named_once_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (address, arrived) = gateway();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    write_policy(&dir.path().join("policy.json"), address, &[port]);
    let words = start(&dir.path().join("policy.json"));
    let word = words.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(word.contains(&format!("listens on 127.0.0.1:{port}")) && word.contains("port = N"), "{word}");
    assert_eq!(words.recv_timeout(Duration::from_secs(30)).unwrap(), "", "once is enough");
    drop(taken);
    // Whoever connects meanwhile finds nobody, and comes again.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        assert!(Instant::now() < deadline);
        (&connect(port)).write_all(b"a").unwrap();
        if arrived.recv_timeout(Duration::from_secs(1)).is_ok() {
            break;
        }
    }
}

#[test]
fn a_client_is_told_when_nobody_answers_and_when_there_are_too_many() {
    let dir = tempfile::tempdir().unwrap();
    let [port, nobody] = free_ports();
    write_policy(&dir.path().join("policy.json"), SocketAddr::from(([127, 0, 0, 1], nobody)), &[port]);
    let _words = start(&dir.path().join("policy.json"));
    let client = connect(port);
    (&client).write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(read_to_end(&client).starts_with("HTTP/1.1 502 "));
    // These say nothing, and so are kept.
    let silent: Vec<_> = (0..MAX_CONNECTIONS).map(|_| connect(port)).collect();
    let answer = read_to_end(&connect(port));
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("128 connections"), "{answer}");
    drop(silent);
}
