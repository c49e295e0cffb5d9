//! An upstream that answers every request with the bytes it was told, in the pieces it was told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::support::pki::{CertKind, TestCa};

/// A part of an answer.
#[derive(Clone)]
pub(super) enum Step {
    /// These bytes, at once.
    Send(Vec<u8>),
    /// These bytes, so many times.
    Repeat(Arc<[u8]>, usize),
    /// Nothing, for as long as it takes that what was sent is read by itself.
    Wait,
    /// Nothing, for this long.
    Sleep(Duration),
    /// The end of the connection.
    Close,
}

/// The upstream, by HTTP/1.1.
pub(super) struct Scripted {
    addr: SocketAddr,
    script: Arc<Mutex<Vec<Step>>>,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Scripted {
    pub(super) async fn start(host: &str) -> Self {
        Self::start_for(&[host]).await
    }

    pub(super) async fn start_for(hosts: &[&str]) -> Self {
        let cert = TestCa::shared().issue(hosts, CertKind::Good);
        let mut tls =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.cert], cert.key).unwrap();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (script, requests) = (Arc::<Mutex<Vec<Step>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (shared, seen) = (Arc::clone(&script), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(tcp, acceptor.clone(), Arc::clone(&shared), Arc::clone(&seen)));
            }
        });
        Self { addr, script, requests, task }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What every request is answered with from now on.
    pub(super) fn answer(&self, script: Vec<Step>) {
        *self.script.lock().unwrap() = script;
    }

    /// The head of the last request, in lower case.
    pub(super) fn last_request(&self) -> String {
        self.requests.lock().unwrap().last().cloned().unwrap()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    tcp: TcpStream,
    acceptor: TlsAcceptor,
    script: Arc<Mutex<Vec<Step>>>,
    requests: Arc<Mutex<Vec<String>>>,
) {
    tcp.set_nodelay(true).unwrap();
    let Ok(mut stream) = acceptor.accept(tcp).await else { return };
    let mut buffer = Vec::new();
    while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        // Requests without a body.
        while let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..end + 4).collect();
            requests.lock().unwrap().push(String::from_utf8_lossy(&head).to_ascii_lowercase());
            let steps = script.lock().unwrap().clone();
            for step in steps {
                let sent = match step {
                    Step::Send(bytes) => stream.write_all(&bytes).await.and(stream.flush().await),
                    Step::Repeat(bytes, times) => {
                        let mut sent = Ok(());
                        for _ in 0..times {
                            sent = sent.and(stream.write_all(&bytes).await);
                        }
                        sent.and(stream.flush().await)
                    }
                    Step::Wait => {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                        Ok(())
                    }
                    Step::Sleep(time) => {
                        tokio::time::sleep(time).await;
                        Ok(())
                    }
                    Step::Close => return,
                };
                if sent.is_err() {
                    return;
                }
            }
        }
    }
}
