//! What the overview shows and does, as a state machine: inputs in, the state to draw, and sometimes an action, out.

use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::Outcome;
use crate::cli::tui::entry::{self, Entry};
use crate::cli::tui::{Level, contains};
use crate::control::v1::{Event, GetStatusResponse, Sandbox, State, StopResponse};

/// The events that are kept.
const KEPT: usize = 2000;
/// The lines that a page key goes by.
const PAGE: usize = 10;
/// The longest filter, in characters.
const FILTER: usize = 60;

/// What comes from outside.
#[derive(Debug)]
pub(super) enum Input {
    Key(KeyEvent),
    /// All sandboxes, as they are now.
    Sandboxes(Vec<Sandbox>),
    /// How the server is.
    Status(GetStatusResponse),
    /// The events begin anew, with those that were.
    Watching,
    Event(Event),
    /// What came of an [`Action::Stop`].
    Stopped {
        name: String,
        result: Result<StopResponse, String>,
    },
    /// The time, in Unix milliseconds.
    Tick(i64),
    /// The server does not answer, and why.
    Disconnected(String),
    /// This process is to end.
    End,
}

/// What is to be done outside.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// Leave the screen.
    Leave(Outcome),
    /// Have the server stop this sandbox.
    Stop(String),
}

/// Whether there is a server.
#[derive(Debug, PartialEq)]
pub(super) enum Link {
    Connecting,
    Connected,
    Lost(String),
}

/// What keys mean, beyond those of the view.
#[derive(Debug, PartialEq)]
pub(super) enum Mode {
    Keys,
    /// A filter is typed.
    Filter,
    /// Whether to stop this sandbox.
    Confirm(String),
    Help,
}

#[derive(Debug, PartialEq)]
pub(super) enum View {
    Overview,
    /// All that is kept of events; so many lines below the last one shown, 0 to follow.
    Logs {
        below: usize,
    },
}

/// The overview. It is kept while something else has the screen, so that one comes back to the same place.
#[derive(Debug)]
pub(in super::super) struct App {
    pub(super) colours: bool,
    pub(super) now_ms: i64,
    pub(super) link: Link,
    pub(super) status: GetStatusResponse,
    /// By name.
    pub(super) sandboxes: Vec<Sandbox>,
    /// By name, since the list changes under it.
    selected: Option<String>,
    events: VecDeque<Event>,
    /// Of the overview, the sandboxes; of the logs, the lines.
    pub(super) filter: String,
    log_filter: String,
    pub(super) mode: Mode,
    pub(super) view: View,
    pub(super) message: Option<(Level, String)>,
}

impl App {
    /// With nothing known yet.
    pub(in super::super) fn new(colours: bool) -> Self {
        Self {
            colours,
            now_ms: 0,
            link: Link::Connecting,
            status: GetStatusResponse::default(),
            sandboxes: Vec::new(),
            selected: None,
            events: VecDeque::new(),
            filter: String::new(),
            log_filter: String::new(),
            mode: Mode::Keys,
            view: View::Overview,
            message: None,
        }
    }

    /// Shows an error until the next key.
    pub(in super::super) fn tell(&mut self, error: &str) {
        self.message = Some((Level::Error, error.to_owned()));
    }

    pub(super) fn on(&mut self, input: Input) -> Option<Action> {
        match input {
            Input::Key(key) if key.kind != KeyEventKind::Release => return self.on_key(key),
            Input::Key(_) => {}
            Input::Sandboxes(mut sandboxes) => {
                sandboxes.sort_by(|a, b| a.name.cmp(&b.name));
                self.sandboxes = sandboxes;
                self.link = Link::Connected;
                self.keep_selection(0);
            }
            Input::Status(status) => self.status = status,
            Input::Watching => {
                self.events.clear();
                if let View::Logs { below } = &mut self.view {
                    *below = 0;
                }
            }
            Input::Event(event) => self.on_event(event),
            Input::Stopped { name, result } => self.message = Some(entry::of_stop(&name, result)),
            Input::Tick(now_ms) => self.now_ms = now_ms,
            Input::Disconnected(why) => self.link = Link::Lost(why),
            Input::End => return Some(Action::Leave(Outcome::Quit)),
        }
        None
    }

    fn on_event(&mut self, event: Event) {
        // Who reads further up stays where they are.
        let lines = self.entries_of(&event, self.scope().as_deref()).len();
        if let View::Logs { below } = &mut self.view
            && *below > 0
        {
            *below += lines;
        }
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn on_key(&mut self, key: KeyEvent) -> Option<Action> {
        self.message = None;
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return (key.code == KeyCode::Char('c')).then_some(Action::Leave(Outcome::Quit));
        }
        match &self.mode {
            Mode::Help => {
                self.mode = Mode::Keys;
                None
            }
            Mode::Confirm(name) => {
                let action = matches!(key.code, KeyCode::Char('y' | 'Y')).then(|| Action::Stop(name.clone()));
                let text = if action.is_some() { format!("stopping {name} …") } else { format!("{name} goes on") };
                self.message = Some((Level::Info, text));
                self.mode = Mode::Keys;
                action
            }
            Mode::Filter => {
                self.type_filter(key.code);
                None
            }
            Mode::Keys => match key.code {
                KeyCode::Char('?') => {
                    self.mode = Mode::Help;
                    None
                }
                KeyCode::Char('/') => {
                    self.mode = Mode::Filter;
                    None
                }
                code if self.view == View::Overview => self.on_overview_key(code),
                code => {
                    self.on_logs_key(code);
                    None
                }
            },
        }
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.mode = Mode::Keys,
            KeyCode::Esc => {
                self.filter_mut().clear();
                self.mode = Mode::Keys;
            }
            KeyCode::Backspace if self.filter_mut().pop().is_none() => self.mode = Mode::Keys,
            KeyCode::Char(c) if !c.is_control() && self.filter_mut().chars().count() < FILTER => {
                self.filter_mut().push(c);
            }
            _ => {}
        }
        self.keep_selection(0);
    }

    fn filter_mut(&mut self) -> &mut String {
        if self.view == View::Overview { &mut self.filter } else { &mut self.log_filter }
    }

    fn on_overview_key(&mut self, code: KeyCode) -> Option<Action> {
        match code {
            KeyCode::Char('q') => return Some(Action::Leave(Outcome::Quit)),
            KeyCode::Up | KeyCode::Char('k') => self.keep_selection(-1),
            KeyCode::Down | KeyCode::Char('j') => self.keep_selection(1),
            KeyCode::Home | KeyCode::Char('g') => self.keep_selection(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.keep_selection(isize::MAX),
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('l') => self.view = View::Logs { below: 0 },
            KeyCode::Enter => return self.with_selected(Self::attach),
            KeyCode::Char('s') => return self.with_selected(Self::start),
            KeyCode::Char('x') => return self.with_selected(Self::ask_to_stop),
            _ => {}
        }
        None
    }

    fn with_selected(&mut self, then: fn(&mut Self, Sandbox) -> Option<Action>) -> Option<Action> {
        match self.selected().cloned() {
            Some(sandbox) => then(self, sandbox),
            None => self.refuse("there is no sandbox to do that with: `adev console` in a project's folder starts one"),
        }
    }

    fn refuse(&mut self, why: &str) -> Option<Action> {
        self.message = Some((Level::Info, why.to_owned()));
        None
    }

    fn attach(&mut self, sandbox: Sandbox) -> Option<Action> {
        Some(Action::Leave(Outcome::Attach(sandbox.name)))
    }

    fn start(&mut self, sandbox: Sandbox) -> Option<Action> {
        match sandbox.state() {
            State::Running => self.refuse(&format!("{} runs already: Enter opens a shell in it", sandbox.name)),
            State::Starting => self.refuse(&format!("{} is starting already", sandbox.name)),
            State::Partial | State::Stopped | State::Unspecified => Some(Action::Leave(Outcome::Start(sandbox.name))),
        }
    }

    fn ask_to_stop(&mut self, sandbox: Sandbox) -> Option<Action> {
        if self.link != Link::Connected {
            return self.refuse("only the server can stop a sandbox, and it does not answer");
        }
        if sandbox.state() == State::Stopped {
            return self.refuse(&format!("{} does not run", sandbox.name));
        }
        self.mode = Mode::Confirm(sandbox.name);
        None
    }

    fn on_logs_key(&mut self, code: KeyCode) {
        let last = self.entries().count().saturating_sub(1);
        let View::Logs { below } = &mut self.view else { return };
        *below = match code {
            KeyCode::Up | KeyCode::Char('k') => below.saturating_add(1),
            KeyCode::Down | KeyCode::Char('j') => below.saturating_sub(1),
            KeyCode::PageUp => below.saturating_add(PAGE),
            KeyCode::PageDown => below.saturating_sub(PAGE),
            KeyCode::Home | KeyCode::Char('g') => last,
            KeyCode::End | KeyCode::Char('G' | 'f') => 0,
            KeyCode::Esc | KeyCode::Char('l' | 'q') => {
                self.view = View::Overview;
                self.log_filter.clear();
                return;
            }
            _ => *below,
        }
        .min(last);
    }

    /// Goes `by` so many sandboxes, as far as there are any; one that is gone gives way to the one in its place.
    fn keep_selection(&mut self, by: isize) {
        let shown = self.shown();
        let name = self.selected.as_deref().unwrap_or_default();
        let at = shown.iter().position(|sandbox| sandbox.name.as_str() >= name).unwrap_or(shown.len());
        let last = shown.len().saturating_sub(1);
        let selected = shown.get(at.min(last).saturating_add_signed(by).min(last)).map(|sandbox| sandbox.name.clone());
        self.selected = selected.or(self.selected.take());
    }

    /// The sandboxes that the filter leaves.
    pub(super) fn shown(&self) -> Vec<&Sandbox> {
        let matches = |sandbox: &&Sandbox| {
            let Sandbox { name, workspace, upstreams, .. } = *sandbox;
            [name, workspace].into_iter().chain(upstreams).any(|text| contains(text, &self.filter))
        };
        self.sandboxes.iter().filter(matches).collect()
    }

    /// The sandbox that keys act upon.
    pub(super) fn selected(&self) -> Option<&Sandbox> {
        let name = self.selected.as_deref()?;
        self.shown().into_iter().find(|sandbox| sandbox.name == name)
    }

    /// The filter that is in force or typed, in this view.
    pub(super) fn filter_here(&self) -> &str {
        if self.view == View::Overview { &self.filter } else { &self.log_filter }
    }

    /// Lines of what happened to the selected sandbox (to all when there is none), and to the server; the oldest first.
    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = Entry> + '_ {
        let scope = self.scope();
        self.events.iter().flat_map(move |event| self.entries_of(event, scope.as_deref()))
    }

    fn scope(&self) -> Option<String> {
        self.selected().map(|sandbox| sandbox.name.clone())
    }

    fn entries_of(&self, event: &Event, scope: Option<&str>) -> Vec<Entry> {
        if !event.sandbox.is_empty() && scope.is_some_and(|scope| scope != event.sandbox) {
            return Vec::new();
        }
        let mut entries = entry::of(event, scope.is_none());
        if let View::Logs { .. } = self.view {
            entries.retain(|entry| contains(&entry.text, &self.log_filter));
        }
        entries
    }
}
