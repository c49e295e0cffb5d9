//! What is going on, on standard error: a line that changes on a terminal, a line for each step elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::colours;
use crate::launch::Progress;

const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const TICK: Duration = Duration::from_millis(80);

/// Shows [`Progress`].
pub(super) struct Display {
    steps: mpsc::UnboundedSender<Progress>,
    task: JoinHandle<()>,
}

impl Display {
    /// Begins; it is to be [finished](Self::finish) before anything else is printed.
    pub(super) fn new() -> Self {
        let (steps, received) = mpsc::unbounded_channel();
        let lively = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let task = if lively { tokio::spawn(draw(received)) } else { tokio::spawn(print(received)) };
        Self { steps, task }
    }

    pub(super) fn show(&self, progress: Progress) {
        // It ends only after this.
        let _ = self.steps.send(progress);
    }

    /// Shows what is still to be shown, and leaves an empty line.
    pub(super) async fn finish(self) {
        drop(self.steps);
        let _ = self.task.await;
    }
}

async fn print(mut received: mpsc::UnboundedReceiver<Progress>) {
    while let Some(progress) = received.recv().await {
        let line = match progress {
            Progress::Step(step) => format!("adev: {step}\n"),
            Progress::Warning(warning) => format!("warning: {warning}\n"),
        };
        put(&line);
    }
}

async fn draw(mut received: mpsc::UnboundedReceiver<Progress>) {
    let (dim, end) = if colours(&io::stderr()) { ("\u{1b}[2m", "\u{1b}[0m") } else { ("", "") };
    let mut step = None;
    let mut ticks = tokio::time::interval(TICK);
    let mut frame = 0;
    loop {
        tokio::select! {
            biased;
            progress = received.recv() => match progress {
                Some(Progress::Step(next)) => step = Some(next),
                Some(Progress::Warning(warning)) => put(&format!("\r\u{1b}[Kwarning: {warning}\n")),
                None => break,
            },
            _ = ticks.tick() => frame = (frame + 1) % FRAMES.len(),
        }
        if let Some(step) = &step {
            put(&format!("\r\u{1b}[K{} {dim}{step} …{end}", FRAMES[frame]));
        }
    }
    if step.is_some() {
        put("\r\u{1b}[K");
    }
}

fn put(text: &str) {
    // With nobody to see it, it need not be seen.
    let mut stderr = io::stderr();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}
