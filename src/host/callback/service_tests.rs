use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::carry::{Connecting, Stream};
use super::*;
use crate::domain::web::UrlPattern;
use crate::shutdown::{self, Trigger};

/// A program in a sandbox that answers every request with the same, and remembers them.
#[derive(Default)]
struct Program {
    answer: Mutex<String>,
    asked: Mutex<Vec<String>>,
    gone: AtomicBool,
}

impl Inside for Arc<Program> {
    fn connect(&self, port: u16) -> Connecting<'_> {
        Box::pin(async move {
            if self.gone.load(Ordering::Relaxed) {
                return Err(io::Error::other(format!("nothing listens on port {port} of the sandbox's localhost")));
            }
            let (near, mut far) = tokio::io::duplex(4096);
            let program = Arc::clone(self);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                    assert_ne!(far.read_buf(&mut request).await.unwrap(), 0);
                }
                program.asked.lock().unwrap().push(String::from_utf8(request).unwrap());
                let answer = program.answer.lock().unwrap().clone();
                far.write_all(answer.as_bytes()).await.unwrap();
            });
            Ok(Box::new(near) as Box<dyn Stream>)
        })
    }
}

struct Place {
    callbacks: Callbacks,
    program: Arc<Program>,
    events: Arc<Mutex<Vec<Happened>>>,
    allowed: watch::Sender<Allowed>,
    life: Trigger,
    lives: Shutdown,
    stop: Trigger,
}

impl Place {
    fn new() -> Self {
        let (stop, stopping) = shutdown::channel();
        let (life, lives) = shutdown::channel();
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&events);
        let metrics = BrowserMetrics::register(&Registry::new()).unwrap();
        let callbacks = Callbacks::new(metrics, stopping, move |event| seen.lock().unwrap().push(event.what));
        let program = Arc::new(Program::default());
        *program.answer.lock().unwrap() =
            "HTTP/1.0 200 OK\r\ncontent-type: text/html\r\nset-cookie: a=b\r\n\r\n<b>done</b>".into();
        let allowed = Allowed::new(true, [UrlPattern::from_str("https://idp.example/*").unwrap()]);
        Self { callbacks, program, events, allowed: watch::Sender::new(allowed), life, lives, stop }
    }

    async fn expect(&self, sandbox: &str, port: u16) -> Result<Expected, CallbackError> {
        let opened =
            WebUrl::parse(&format!("https://idp.example/a?state=s1&redirect_uri=http://localhost:{port}/cb")).unwrap();
        let callback = Callback::of(&opened).unwrap().unwrap();
        let wish = Wish {
            sandbox: sandbox.parse().unwrap(),
            opened,
            callback,
            inside: Arc::new(Arc::clone(&self.program)),
            life: self.lives.clone(),
            allowed: self.allowed.subscribe(),
        };
        self.callbacks.expect(wish).await
    }

    /// A flow on a port that is free.
    async fn flow(&self) -> u16 {
        for _ in 0..50 {
            let port = free_port();
            if self.expect("one", port).await.is_ok() {
                return port;
            }
        }
        panic!("no port is free");
    }

    async fn wait_until_closed(&self, port: u16) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() || self.callbacks.metrics.waiting.get() != 0 {
            assert!(Instant::now() < deadline, "the port stays open");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn say(address: impl Into<SocketAddr>, request: &str) -> String {
    let mut stream = TcpStream::connect(address.into()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get(port: u16, target: &str, headers: &str) -> String {
    say(([127, 0, 0, 1], port), &format!("GET {target} HTTP/1.1\r\nhost: localhost:{port}\r\n{headers}\r\n")).await
}

#[tokio::test]
async fn a_sign_in_is_carried_once_and_the_port_closes() {
    let place = Place::new();
    let port = place.flow().await;
    let refused = get(port, "/cb?state=s2", "").await;
    assert!(refused.starts_with("HTTP/1.1 403 ") && refused.contains("`state` is not the one"), "{refused}");
    let cookie = "cookie: session=of-another-server\r\nauthorization: Basic eDp5\r\naccept-language: de\r\n";
    let answer = get(port, "/cb?code=c1&state=s1", cookie).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("<b>done</b>"), "{answer}");
    assert!(answer.contains("content-security-policy: sandbox;") && !answer.contains("set-cookie"), "{answer}");
    let asked = place.program.asked.lock().unwrap().clone();
    assert_eq!(
        asked,
        [format!(
            "GET /cb?code=c1&state=s1 HTTP/1.1\r\nhost: localhost:{port}\r\naccept-language: de\r\nconnection: close\r\n\r\n"
        )]
    );
    place.wait_until_closed(port).await;
    let events = place.events.lock().unwrap().clone();
    assert!(matches!(&events[..], [Happened::Refused(_), Happened::Carried]), "{events:?}");
}

#[tokio::test]
async fn both_loopback_addresses_are_the_sign_ins() {
    let place = Place::new();
    let port = place.flow().await;
    if TcpListener::bind("[::1]:0").await.is_err() {
        // This machine has no IPv6.
        return;
    }
    let request = format!("GET /cb?state=s1 HTTP/1.1\r\nhost: localhost:{port}\r\n\r\n");
    let answer = say((std::net::Ipv6Addr::LOCALHOST, port), &request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn the_programs_own_redirect_is_followed_and_no_other() {
    let place = Place::new();
    let port = place.flow().await;
    *place.program.answer.lock().unwrap() =
        "HTTP/1.1 302 Found\r\nlocation: /success\r\ncontent-length: 0\r\n\r\n".into();
    let answer = get(port, "/cb?state=s1", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 303 ")
            && answer.contains(&format!("location: http://localhost:{port}/success\r\n")),
        "{answer}"
    );
    assert!(get(port, "/cb?state=s1", "").await.starts_with("HTTP/1.1 404 "));
    let evil = "HTTP/1.1 302 Found\r\nlocation: http://localhost:631/admin?x=1\r\ncontent-length: 0\r\n\r\n";
    *place.program.answer.lock().unwrap() = evil.into();
    let answer = get(port, "/success", "").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("location:"), "{answer}");
    assert!(answer.contains("url = &quot;http://localhost:631/admin&quot;"), "{answer}");
    place.wait_until_closed(port).await;
}

#[tokio::test]
async fn a_program_that_is_not_there_may_come_yet() {
    let place = Place::new();
    let port = place.flow().await;
    place.program.gone.store(true, Ordering::Relaxed);
    let answer = get(port, "/cb?state=s1", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains(&format!("nothing listens on port {port}")),
        "{answer}"
    );
    place.program.gone.store(false, Ordering::Relaxed);
    *place.program.answer.lock().unwrap() = "SSH-2.0-OpenSSH\r\n".into();
    assert!(get(port, "/cb?state=s1", "").await.contains("does not answer by HTTP"));
    *place.program.answer.lock().unwrap() = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(2 << 20));
    assert!(get(port, "/cb?state=s1", "").await.contains("answers with more than"));
    *place.program.answer.lock().unwrap() = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".into();
    assert!(get(port, "/cb?state=s1", "").await.ends_with("ok"));
}

#[tokio::test]
async fn threats_a_callback_port_that_is_taken_is_refused() {
    let place = Place::new();
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = other.local_addr().unwrap().port();
    assert_eq!(place.expect("one", port).await.unwrap_err(), CallbackError::Taken(port));
    let all = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = all.local_addr().unwrap().port();
    assert_eq!(place.expect("one", port).await.unwrap_err(), CallbackError::Taken(port));
    let port = place.flow().await;
    assert_eq!(place.expect("two", port).await.unwrap_err(), CallbackError::OfAnother(port));
    // The same program tries again.
    place.expect("one", port).await.unwrap();
    assert!(get(port, "/cb?state=s1", "").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_sandbox_has_few_flows_and_loses_them_with_its_life_its_permission_and_the_server() {
    let place = Place::new();
    let first = place.flow().await;
    for _ in 0..FLOWS {
        place.flow().await;
    }
    assert!(TcpStream::connect(("127.0.0.1", first)).await.is_err(), "the oldest has gone");
    assert_eq!(place.callbacks.metrics.waiting.get(), i64::try_from(FLOWS).unwrap());
    place.life.fire();
    place.wait_until_closed(first).await;

    let place = Place::new();
    let port = place.flow().await;
    place.allowed.send_replace(Allowed::new(true, [UrlPattern::from_str("https://idp.example/other").unwrap()]));
    place.wait_until_closed(port).await;
    place.allowed.send_replace(Allowed::new(true, [UrlPattern::from_str("https://idp.example/*").unwrap()]));
    let port = place.flow().await;
    place.stop.fire();
    place.wait_until_closed(port).await;

    let place = Place::new();
    let port = free_port();
    place.expect("one", port).await.unwrap().cancel();
    place.wait_until_closed(port).await;
    assert!(place.events.lock().unwrap().is_empty());
}

#[tokio::test]
async fn threats_a_slow_or_greedy_client_does_not_keep_the_browser_out() {
    let place = Place::new();
    let port = place.flow().await;
    let mut slow = Vec::new();
    for _ in 0..CONNECTIONS - 1 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(b"GET /cb?state=s1 HTTP/1.1\r\nhost:").await.unwrap();
        slow.push(stream);
    }
    let long =
        format!("POST /cb HTTP/1.1\r\nhost: localhost:{port}\r\ncontent-length: 100000\r\n\r\n{}", "x".repeat(100_000));
    assert!(say(([127, 0, 0, 1], port), &long).await.starts_with("HTTP/1.1 400 "));
    assert!(get(port, &format!("/{}", "x".repeat(300_000)), "").await.starts_with("HTTP/1.1 4"));
    assert!(get(port, "/cb?state=s1", "").await.starts_with("HTTP/1.1 200 "));
}
