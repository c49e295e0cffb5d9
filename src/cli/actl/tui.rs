//! `actl` without arguments: the server, and what goes through it.
//!
//! ```text
//!  server ── GetStatus, List, ListProjects each second; Watch ──▶ tasks ── Input ──▶ App::on ──▶ view::draw
//!  state folder ── tokens ──▶                                                         ▲   │
//!                Stop, Revoke, Propose, Write ◀── tasks ◀── Action ───────────────────┼───┘
//!                                                                         keys ───────┘
//! ```
//!
//! The screen has a thread of its own, since writing to a terminal may block for as long as it is stopped. It is drawn ten times
//! a second at most, however much comes.

mod app;
mod diff;
mod feed;
mod items;
mod propose;
#[cfg(test)]
mod tests;
mod view;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use ratatui::crossterm::event;
use tokio::sync::{mpsc, watch};

use self::app::{Action, App, Input, View};
use self::feed::{Feed, Places};
use crate::cli::tui::{Screen, key, left, now_ms};
use crate::launch::{Caught, Signals};

/// Between two drawings, unless a key asks for one.
const FRAME: Duration = Duration::from_millis(100);
/// Without anything new, times go on.
const IDLE: Duration = Duration::from_secs(1);
/// Inputs that may wait for the screen.
const WAITING: usize = 256;

/// Shows it until it is left, and puts the terminal back as it was, whatever happens. Returns the exit code.
///
/// # Errors
/// When the terminal cannot be used.
pub(super) fn run(runtime_dir: PathBuf, state_dir: PathBuf, colours: bool) -> anyhow::Result<u8> {
    let executor =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let outcome = executor.block_on(show_all(Arc::new(Places { runtime_dir, state_dir }), App::new(colours)));
    // A write to a terminal that was stopped must not hold up the end.
    executor.shutdown_background();
    outcome
}

async fn show_all(places: Arc<Places>, app: App) -> anyhow::Result<u8> {
    let mut signals = Signals::catch().context("cannot catch signals")?;
    let (inputs, received) = mpsc::channel(WAITING);
    let (actions, to_do) = mpsc::channel(WAITING);
    let (view, on_screen) = watch::channel(app.view);
    let feed = Feed::start(places, &inputs, to_do, on_screen);
    let screen = tokio::task::spawn_blocking(move || show(app, received, &actions, &view));
    let (ended, caught) = left(screen, &mut signals, &inputs, Input::End).await?;
    // What is to be done, is, unless whoever waits has had enough.
    tokio::select! {
        () = feed.end() => {}
        _ = signals.end() => {}
    }
    ended.context("the screen failed")?.context("cannot use this terminal")?;
    Ok(caught.map_or(0, Caught::exit_code))
}

/// The screen's thread. It ends, too, when nobody is left to send inputs.
fn show(
    mut app: App,
    mut inputs: mpsc::Receiver<Input>,
    actions: &mpsc::Sender<Action>,
    view: &watch::Sender<View>,
) -> io::Result<()> {
    let mut screen = Screen::enter()?;
    let mut drawn: Option<Instant> = None;
    let mut dirty = true;
    loop {
        let since = drawn.map(|drawn| drawn.elapsed());
        if since.is_none_or(|since| since >= IDLE || (dirty && since >= FRAME)) {
            app.on(Input::Tick(now_ms()));
            screen.terminal.draw(|frame| view::draw(&app, frame))?;
            (drawn, dirty) = (Some(Instant::now()), false);
        }
        // A size that changed wakes it up, too.
        let mut typed = if event::poll(FRAME)? { Some(key(&event::read()?).map(Input::Key)) } else { None };
        if typed.is_some() {
            // What is typed is seen at once.
            (drawn, dirty) = (None, true);
        }
        // However much comes, it is drawn, and keys are looked for.
        for _ in 0..WAITING {
            let input = match typed.take().flatten() {
                Some(input) => input,
                None => match inputs.try_recv() {
                    Ok(input) => input,
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => Input::End,
                },
            };
            dirty |= !matches!(input, Input::Events(_)) || app.shows_events();
            match app.on(input) {
                Some(Action::Leave) => return Ok(()),
                Some(action) => {
                    let asked = actions.try_send(action);
                    if asked.is_err() {
                        app.tell("too much is asked for at once: try again");
                    }
                }
                None => {}
            }
        }
        view.send_if_modified(|on_screen| std::mem::replace(on_screen, app.view) != app.view);
    }
}
