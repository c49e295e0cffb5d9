//! `adev` without arguments: all sandboxes of the server, and what happens in them.
//!
//! ```text
//!  server ── List, GetStatus each second; Watch ──▶ tasks ── Input ──▶ App::on ──▶ view::draw
//!                       Stop ◀── tasks ◀── Action ────────────────────┘  ▲    └──▶ Outcome
//!                                                            keys ───────┘
//! ```
//!
//! The screen has a thread of its own, since writing to a terminal may block for as long as it is stopped.

mod app;
mod feed;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, IsTerminal};
use std::time::Duration;

use anyhow::{Context, ensure};
use ratatui::crossterm::event;
use tokio::sync::mpsc;

use self::app::{Action, Input};
use self::feed::Feed;
use crate::cli::tui::{Screen, key, left, now_ms};
use crate::launch::{Caught, Client, Signals};

pub(super) use self::app::App;

/// How long the screen waits for a key before it looks for other news.
const GLANCE: Duration = Duration::from_millis(50);
/// Inputs that may wait for the screen.
const WAITING: usize = 1024;

/// Why the overview was left: what is to be done next.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    /// Nothing more.
    Quit,
    /// Open a shell in the sandbox of this name, which may not run yet, and come back.
    Attach(String),
    /// Start the sandbox of this name, and come back.
    Start(String),
    /// End, as this signal asks for.
    Signalled(Caught),
}

/// Shows the overview until something is to be done elsewhere, and puts the terminal back as it was, whatever happens. Gives
/// `app` back, with which one comes to the same place again.
///
/// # Errors
/// When standard input or output is no terminal, or it cannot be used.
pub(super) async fn run(client: Client, app: App, signals: &mut Signals) -> anyhow::Result<(App, Outcome)> {
    ensure!(
        io::stdin().is_terminal() && io::stdout().is_terminal(),
        "the overview needs a terminal on standard input and output: use `adev list` and `adev logs` in scripts and pipes"
    );
    let (inputs, received) = mpsc::channel(WAITING);
    let (stops, to_stop) = mpsc::channel(WAITING);
    let feed = Feed::start(client, &inputs, to_stop);
    let screen = tokio::task::spawn_blocking(move || show(app, received, &stops));
    let (ended, caught) = left(screen, signals, &inputs, Input::End).await?;
    // What is to be stopped, is, unless whoever waits has had enough.
    tokio::select! {
        () = feed.end() => {}
        _ = signals.end() => {}
    }
    let (app, outcome) = ended.context("the overview failed")?.context("cannot use this terminal")?;
    Ok((app, caught.map_or(outcome, Outcome::Signalled)))
}

/// The screen's thread. It ends, too, when nobody is left to send inputs.
fn show(mut app: App, mut inputs: mpsc::Receiver<Input>, stops: &mpsc::Sender<String>) -> io::Result<(App, Outcome)> {
    let mut screen = Screen::enter()?;
    loop {
        app.on(Input::Tick(now_ms()));
        screen.terminal.draw(|frame| view::draw(&app, frame))?;
        let mut next = if event::poll(GLANCE)? { key(&event::read()?).map(Input::Key) } else { None };
        // However much comes, it is drawn, and keys are looked for.
        for _ in 0..WAITING {
            if next.is_none() {
                next = match inputs.try_recv() {
                    Ok(input) => Some(input),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => Some(Input::End),
                };
            }
            match next.take().and_then(|input| app.on(input)) {
                Some(Action::Leave(outcome)) => return Ok((app, outcome)),
                Some(Action::Stop(name)) => {
                    let asked = stops.try_send(name);
                    if asked.is_err() {
                        app.tell("the server is asked too much at once: try again");
                    }
                }
                None => {}
            }
        }
    }
}
