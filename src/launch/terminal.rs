//! The terminal this process runs on.

use std::io::{self, IsTerminal};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr};

/// A terminal that passes every key on as it is, until this is dropped: also when a panic unwinds.
#[derive(Debug)]
pub(super) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Turns standard input's terminal over.
    pub(super) fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let terminal = Self { before };
        terminal.apply()?;
        Ok(terminal)
    }

    /// Does so again, after the shell took the terminal back (`fg`).
    pub(super) fn apply(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        Ok(tcsetattr(io::stdin(), OptionalActions::Now, &raw)?)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Fails when the terminal is gone: nothing is left to restore then.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// Rows and columns of the terminal; the usual ones when it does not tell.
pub(super) fn size() -> (u16, u16) {
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin()));
    size.ok().filter(|size| size.ws_row > 0 && size.ws_col > 0).map_or((24, 80), |size| (size.ws_row, size.ws_col))
}

/// Whether standard input may be read: a job in the background that reads its terminal is stopped by it.
pub(super) fn may_read_stdin() -> bool {
    let stdin = io::stdin();
    !stdin.is_terminal() || tcgetpgrp(&stdin).is_ok_and(|group| group == rustix::process::getpgrp())
}
