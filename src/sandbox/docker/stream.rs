//! Streams of a container: what goes in, what comes out.

use std::io;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWrite, ReadHalf};

use super::{Docker, DockerError, Output, SLOW};

/// A stream that can be sent to another task.
pub type BoxStream<T> = Pin<Box<dyn Stream<Item = T> + Send>>;
/// Where input goes; shutting it down is the end of the other's input.
pub type BoxInput = Pin<Box<dyn AsyncWrite + Send>>;

/// The longest line that is taken from a container.
const MAX_LINE: usize = 1024 * 1024;
/// As much as is read at once.
const CHUNK: usize = 32 * 1024;

/// Standard input and output of a container's first process.
pub struct Attached {
    /// Its input.
    pub input: BoxInput,
    /// Its output, line by line, without the line's end. What it writes to standard error goes to the log.
    pub lines: BoxStream<Result<String, DockerError>>,
}

impl std::fmt::Debug for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Attached")
    }
}

impl Docker {
    /// Attaches to a container without terminal. Done before its start, nothing of its output is missed.
    ///
    /// # Errors
    /// When there is no such container.
    pub async fn attach(&self, id: &str) -> Result<Attached, DockerError> {
        let action = "attach to the container";
        let path = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1");
        let (read, write) = tokio::io::split(self.wire.upgrade(SLOW, action, &path, None).await?);
        Ok(Attached { input: Box::pin(write), lines: lines(action, output(action, read, false)) })
    }
}

/// What comes out. With a terminal these are the terminal's bytes, without one they come in frames: kind, three zeros, length, bytes.
/// The kind of stream is known, never guessed: a program may write whatever it likes.
pub(super) fn output(
    action: &'static str,
    read: ReadHalf<TokioIo<Upgraded>>,
    terminal: bool,
) -> BoxStream<Result<Output, DockerError>> {
    let lost = move |source| DockerError::Connection { action, source };
    let frames = Frames { read, terminal, kind: 1, left: 0 };
    Box::pin(stream::unfold(Some(frames), move |frames| async move {
        let mut frames = frames?;
        match frames.next().await {
            Ok(Some(output)) => Some((Ok(output), Some(frames))),
            Ok(None) => None,
            Err(source) => Some((Err(lost(source)), None)),
        }
    }))
}

struct Frames {
    read: ReadHalf<TokioIo<Upgraded>>,
    terminal: bool,
    kind: u8,
    left: usize,
}

impl Frames {
    async fn next(&mut self) -> io::Result<Option<Output>> {
        if self.terminal {
            let bytes = self.take(CHUNK).await?;
            return Ok((!bytes.is_empty()).then_some(Output::Console(bytes)));
        }
        while self.left == 0 {
            let mut head = [0; 8];
            // Between frames the stream may end.
            if self.read.read(&mut head[..1]).await? == 0 {
                return Ok(None);
            }
            self.read.read_exact(&mut head[1..]).await?;
            let [kind, _, _, _, length @ ..] = head;
            if kind > 2 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of an unknown kind"));
            }
            self.kind = kind;
            self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        }
        let bytes = self.take(self.left.min(CHUNK)).await?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= bytes.len();
        Ok(Some(if self.kind == 2 { Output::Stderr(bytes) } else { Output::Stdout(bytes) }))
    }

    /// Up to `most` bytes; none at the end.
    async fn take(&mut self, most: usize) -> io::Result<Bytes> {
        let mut buffer = BytesMut::zeroed(most);
        let read = self.read.read(&mut buffer).await?;
        buffer.truncate(read);
        Ok(buffer.freeze())
    }
}

/// Lines of standard output; those of standard error are logged.
fn lines(
    action: &'static str,
    output: BoxStream<Result<Output, DockerError>>,
) -> BoxStream<Result<String, DockerError>> {
    let state = (output, Lines::default(), Lines::default());
    let batches = stream::unfold(Some(state), move |state| async move {
        let (mut output, mut stdout, mut stderr) = state?;
        let bytes = match output.next().await? {
            Ok(Output::Stderr(bytes)) => {
                if let Ok(lines) = stderr.push(&bytes) {
                    lines.iter().for_each(|line| tracing::warn!(?line, "a container wrote to standard error"));
                }
                Bytes::new()
            }
            Ok(Output::Stdout(bytes) | Output::Console(bytes)) => bytes,
            Err(error) => return Some((vec![Err(error)], None)),
        };
        match stdout.push(&bytes) {
            Ok(lines) => Some((lines.into_iter().map(Ok).collect::<Vec<_>>(), Some((output, stdout, stderr)))),
            Err(source) => Some((vec![Err(DockerError::Connection { action, source })], None)),
        }
    });
    Box::pin(batches.flat_map(stream::iter))
}

/// Bytes made into lines.
#[derive(Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// The lines that are complete now.
    pub(super) fn push(&mut self, bytes: &[u8]) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.0.extend_from_slice(part);
            if self.0.len() > MAX_LINE {
                self.0 = Vec::new();
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long"));
            }
            if self.0.last() == Some(&b'\n') {
                self.0.pop();
                lines.push(String::from_utf8_lossy(&std::mem::take(&mut self.0)).into_owned());
            }
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_and_bounded() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"a").unwrap(), Vec::<String>::new());
        assert_eq!(lines.push(b"b\n\nc\nd").unwrap(), ["ab", "", "c"]);
        assert_eq!(lines.push(b"\n").unwrap(), ["d"]);
        assert!(lines.push(&vec![b'x'; MAX_LINE + 1]).is_err());
        assert!(lines.0.is_empty());
    }
}
