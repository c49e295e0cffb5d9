//! Signals to this process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caught {
    /// Its name without SIG.
    pub name: &'static str,
    /// Its number.
    pub number: u8,
}

impl Caught {
    /// The exit code of a program that ends by it, as shells have it.
    pub fn exit_code(self) -> u8 {
        128 + self.number
    }
}

/// The signals by which people end programs, or speak to them. From when this is made on, they do nothing by themselves.
#[derive(Debug)]
pub struct Signals {
    hangup: Signal,
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    /// Catches them.
    ///
    /// # Errors
    /// When no handler can be installed.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next one that asks for an end, or, with `all`, any.
    async fn wait(&mut self, all: bool) -> Caught {
        let number = |kind: SignalKind| u8::try_from(kind.as_raw_value()).unwrap_or_default();
        let (name, kind) = tokio::select! {
            _ = self.hangup.recv() => ("HUP", SignalKind::hangup()),
            _ = self.interrupt.recv() => ("INT", SignalKind::interrupt()),
            _ = self.quit.recv() => ("QUIT", SignalKind::quit()),
            _ = self.terminate.recv() => ("TERM", SignalKind::terminate()),
            _ = self.user1.recv(), if all => ("USR1", SignalKind::user_defined1()),
            _ = self.user2.recv(), if all => ("USR2", SignalKind::user_defined2()),
        };
        Caught { name, number: number(kind) }
    }

    /// The next one of them all.
    pub async fn next(&mut self) -> Caught {
        self.wait(true).await
    }

    /// The next one that asks this process to end.
    pub async fn end(&mut self) -> Caught {
        self.wait(false).await
    }
}
