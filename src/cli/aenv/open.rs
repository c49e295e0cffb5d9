//! `aenv open`, which is also `xdg-open` and the like in a sandbox: has the host open a page in its browser.
//!
//! The sandbox's gateway is asked by HTTP, which Envoy carries to the server; whether the page may be opened is decided there.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::domain::opening::{BROWSERS, HOST, MAX_URL, PATH};

/// How long the gateway may take to be reached.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the host may take to start a browser.
const ANSWER: Duration = Duration::from_secs(60);
/// The most that is read of an answer.
const MAX_ANSWER: u64 = 256 * 1024;

/// Why the host was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The server does not say where it is.
    #[error("the server of this sandbox opens no pages: it is of an older release")]
    Older,
    /// The gateway cannot be reached, or breaks off.
    #[error("cannot ask the host, at {gateway}, to open the page; its server may be stopped, or of another release")]
    Unreachable {
        /// Where it was asked.
        gateway: SocketAddr,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// What came is no answer.
    #[error("the host, at {0}, gives no answer that can be understood; aenv and server must be of the same release")]
    Malformed(SocketAddr),
}

/// What became of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was opened. The text says so.
    Opened(String),
    /// It may not be opened. The text says why, and what would allow it.
    Refused(String),
    /// It may be opened, and could not be.
    Failed(String),
}

/// Whether a program of this name, as it was called, opens pages.
pub fn is_browser(called: Option<&OsStr>) -> Option<&'static str> {
    let name = Path::new(called?).file_name()?;
    BROWSERS.into_iter().find(|browser| *browser == name)
}

/// Asks the host, at `gateway`, to open `url`.
///
/// # Errors
/// When it cannot be asked.
pub fn open(gateway: Option<SocketAddr>, url: &str) -> Result<Answer, OpenError> {
    if url.len() > MAX_URL {
        let text = format!("the URL has {} bytes, and no more than {MAX_URL} are opened on the host", url.len());
        return Ok(Answer::Refused(text));
    }
    let gateway = gateway.ok_or(OpenError::Older)?;
    let ask = || -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&gateway, CONNECT)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(CONNECT))?;
        let length = url.len();
        write!(
            stream,
            "POST {PATH} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n{url}"
        )?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|source| OpenError::Unreachable { gateway, source })?;
    understand(&answer).ok_or(OpenError::Malformed(gateway))
}

/// An HTTP answer, which has a length, and ends the connection.
fn understand(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    let body = answer.get(end + 4..)?.get(..length)?;
    // It is shown on a terminal.
    let shown = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    let text: String = String::from_utf8_lossy(body).trim_end().chars().map(shown).collect();
    Some(match status {
        200 => Answer::Opened(text),
        400..500 => Answer::Refused(text),
        _ => Answer::Failed(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood_or_refused() {
        let answer = |head: &str, body: &str| understand(format!("HTTP/1.1 {head}\r\n\r\n{body}").as_bytes());
        let with = |status: &str| answer(&format!("{status}\r\nContent-Length: 6\r\nx: y"), "text\n\nmore");
        assert_eq!(with("200 OK"), Some(Answer::Opened("text".into())));
        assert_eq!(with("403 Forbidden"), Some(Answer::Refused("text".into())));
        assert_eq!(with("429 Too Many Requests"), Some(Answer::Refused("text".into())));
        assert_eq!(with("502 Bad Gateway"), Some(Answer::Failed("text".into())));
        assert_eq!(
            answer("200 OK\r\ncontent-length: 4", "a\u{1b}[\u{7}"),
            Some(Answer::Opened("a\u{fffd}[\u{fffd}".into()))
        );
        for (head, body) in [
            ("200 OK", "no length"),
            ("200 OK\r\ncontent-length: 9", "cut"),
            ("200 OK\r\ncontent-length: -1", ""),
            ("2", ""),
            ("abc\r\ncontent-length: 0", ""),
        ] {
            assert_eq!(answer(head, body), None, "{head}");
        }
        assert_eq!(understand(b"SSH-2.0-x\r\n"), None);
        assert_eq!(understand(b""), None);
    }

    #[test]
    fn the_names_of_browsers_are_known_wherever_they_are() {
        for (called, expected) in [
            ("/opt/agent-creds/bin/xdg-open", Some("xdg-open")),
            ("www-browser", Some("www-browser")),
            ("/usr/local/bin/aenv", None),
            ("xdg-open/", Some("xdg-open")),
            ("reopen", None),
            ("", None),
        ] {
            assert_eq!(is_browser(Some(OsStr::new(called))), expected, "{called}");
        }
        assert_eq!(is_browser(None), None);
    }

    #[test]
    fn a_url_that_is_too_long_is_not_sent() {
        let answer = open(None, &format!("https://h.example/{}", "x".repeat(1 << 20))).unwrap();
        assert!(matches!(answer, Answer::Refused(text) if text.contains("1048594 bytes")));
        assert!(matches!(open(None, "https://h.example/"), Err(OpenError::Older)));
        // A port that nobody listens on.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(open(Some(free), "https://h.example/"), Err(OpenError::Unreachable { .. })));
    }
}
