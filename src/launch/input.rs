//! Standard input, read by a thread that can be told to stop: a blocking read cannot, and the next key would be lost to it.

use std::io::{self, PipeWriter};
use std::os::fd::AsFd;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc;

/// As much as is read at once.
const CHUNK: usize = 32 * 1024;

/// What comes in on standard input. Dropping it ends the reading.
pub(super) struct Input {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    /// Its other end hangs up when this one is dropped.
    _stop: PipeWriter,
}

impl Input {
    /// Begins to read.
    pub(super) fn open() -> io::Result<Self> {
        let (stopped, stop) = io::pipe()?;
        // Bounded, so that a fast writer waits for a slow reader.
        let (sender, chunks) = mpsc::channel(4);
        let read = move || {
            let mut buffer = vec![0; CHUNK];
            loop {
                let chunk = match next(&stopped, &mut buffer) {
                    Ok(None) => return,
                    Ok(Some(0)) => return,
                    Ok(Some(read)) => Ok(Bytes::copy_from_slice(&buffer[..read])),
                    Err(error) => Err(error),
                };
                let failed = chunk.is_err();
                if sender.blocking_send(chunk).is_err() || failed {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("stdin".to_owned()).spawn(read)?;
        Ok(Self { chunks, _stop: stop })
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        self.chunks.recv().await
    }
}

/// Waits for input, and reads it: how much, or `None` when there is to be an end.
fn next(stopped: &impl AsFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let stdin = io::stdin();
    loop {
        let mut ready = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut ready, None) {
            Ok(_) if !ready[1].revents().is_empty() => return Ok(None),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        // Not through std's buffer: what it took in would be lost to whoever reads next.
        match rustix::io::read(&stdin, &mut *buffer) {
            Ok(read) => return Ok(Some(read)),
            // A terminal in the background of its session, or one that another made non-blocking.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
