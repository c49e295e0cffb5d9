//! The terminal, taken and given back.

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use ratatui::DefaultTerminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{Event as TerminalEvent, KeyEvent};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};

use crate::launch::{Caught, Signals};

/// How long a screen may take to end when a signal asks for it.
const LAST_GLANCE: Duration = Duration::from_secs(2);

/// Waits until the screen's thread ends: by itself, or because a signal asks for it, which is told to it through `inputs`. Gives what it
/// left, or that it panicked, and the signal.
///
/// # Errors
/// When it is told to end, and does not.
pub(in crate::cli) async fn left<T, I>(
    mut screen: JoinHandle<T>,
    signals: &mut Signals,
    inputs: &mpsc::Sender<I>,
    end: I,
) -> anyhow::Result<(Result<T, JoinError>, Option<Caught>)> {
    let caught = tokio::select! {
        ended = &mut screen => return Ok((ended, None)),
        caught = signals.end() => caught,
    };
    let ending = async {
        // Fails when it ended by itself.
        let _ = inputs.send(end).await;
        screen.await
    };
    let ended = tokio::time::timeout(LAST_GLANCE, ending).await;
    if ended.is_err() {
        // It is stuck in a write; at least what is typed is to be seen again.
        let _ = disable_raw_mode();
    }
    Ok((ended.context("the terminal takes no output")?, Some(caught)))
}

/// The key of an event.
pub(in crate::cli) fn key(event: &TerminalEvent) -> Option<KeyEvent> {
    match event {
        TerminalEvent::Key(key) => Some(*key),
        // A new size is seen when drawing.
        _ => None,
    }
}

/// The time, in Unix milliseconds.
pub(in crate::cli) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Whether the terminal is ours now: what a panic has to undo.
static ENTERED: AtomicBool = AtomicBool::new(false);

/// The terminal, as long as it is ours.
pub(in crate::cli) struct Screen {
    // Dropped in this order: the first shows the cursor again, the second does the rest.
    pub(in crate::cli) terminal: DefaultTerminal,
    _restore: Restore,
}

/// Puts the terminal back, also when entering fails half way.
struct Restore;

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(in crate::cli) fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            // Before the panic's message, which would be lost with the screen.
            std::panic::set_hook(Box::new(move |panic| {
                leave();
                before(panic);
            }));
        });
        ENTERED.store(true, Ordering::SeqCst);
        let restore = Restore;
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen)?;
        Ok(Self { terminal: ratatui::Terminal::new(CrosstermBackend::new(io::stdout()))?, _restore: restore })
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        leave();
    }
}

/// Once for each time it was entered. A terminal that is gone needs nothing.
fn leave() {
    if ENTERED.swap(false, Ordering::SeqCst) {
        let _ = disable_raw_mode();
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    }
}
