//! What `actl` shows and does, as a state machine: inputs in, the state to draw, and sometimes an action, out.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::items::{ConfigLine, Happening, Item, Key};
use super::propose::{Proposal, Wanted};
use crate::cli::tui::{Level, Palette, entry};
use crate::control::v1::event::Kind;
use crate::control::v1::{
    Event, GetStatusResponse, ListNodesResponse, ListProjectsResponse, Sandbox, State, StopResponse,
};
use crate::domain::macaroon::TokenId;
use crate::state::Issued;

/// The events that are kept, and the refusals among them, which go more slowly.
const KEPT: usize = 2000;
const KEPT_REFUSED: usize = 500;
/// The lines that a page key goes by.
const PAGE: isize = 10;
/// The longest filter, in characters.
const FILTER: usize = 60;

/// What comes from outside.
#[derive(Debug)]
pub(super) enum Input {
    Key(KeyEvent),
    /// How the server is.
    Status(GetStatusResponse),
    /// All sandboxes, as they are now.
    Sandboxes(Vec<Sandbox>),
    /// What is served.
    Projects(ListProjectsResponse),
    /// The tokens that were made, the newest first; or why they cannot be told.
    Tokens(Result<Vec<Issued>, String>),
    /// The Envoys; or why they cannot be told.
    Nodes(Result<ListNodesResponse, String>),
    /// The events begin anew, with those that were.
    Watching,
    Events(Vec<Event>),
    /// What came of an [`Action::Stop`].
    Stopped {
        name: String,
        result: Result<StopResponse, String>,
    },
    /// What came of an [`Action::Revoke`]: whether it was good before.
    Revoked {
        id: TokenId,
        result: Result<bool, String>,
    },
    /// What came of an [`Action::Propose`].
    Proposed(Result<Proposal, String>),
    /// What came of an [`Action::Write`].
    Written(Result<String, String>),
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
    Leave,
    /// Have the server stop this sandbox.
    Stop(String),
    /// Revoke this token.
    Revoke(TokenId),
    /// Find the edit that allows this.
    Propose(Wanted),
    /// Write what was shown.
    Write(Box<Proposal>),
}

/// Whether there is a server.
#[derive(Debug, PartialEq)]
pub(super) enum Link {
    Connecting,
    Connected,
    Lost(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Sandboxes,
    Requests,
    Tokens,
    Nodes,
    Config,
}

impl View {
    pub(super) const ALL: [Self; 5] = [Self::Sandboxes, Self::Requests, Self::Tokens, Self::Nodes, Self::Config];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Sandboxes => "Sandboxes",
            Self::Requests => "Requests",
            Self::Tokens => "Tokens",
            Self::Nodes => "Nodes",
            Self::Config => "Config",
        }
    }

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// What is asked before it is done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Question {
    Stop(String),
    Revoke(TokenId),
}

/// What keys mean, beyond those of the view.
#[derive(Debug, PartialEq)]
pub(super) enum Mode {
    Keys,
    /// A filter is typed.
    Filter,
    Confirm(Question),
    Help,
    /// Everything about one entry, which goes on by itself; so many lines are above the screen.
    Details {
        key: Key,
        above: usize,
    },
    /// An edit that may be written.
    Proposal {
        proposal: Box<Proposal>,
        above: usize,
    },
}

/// Where one is in a view.
#[derive(Debug, Default)]
pub(super) struct Spot {
    /// `None` is the first entry; of the requests the last, whichever it is.
    pub(super) key: Option<Key>,
    /// Where that was, when it is gone.
    at: usize,
    pub(super) filter: String,
}

/// All that is known and shown.
#[derive(Debug)]
pub(super) struct App {
    pub(super) palette: Palette,
    pub(super) now_ms: i64,
    pub(super) link: Link,
    pub(super) status: GetStatusResponse,
    sandboxes: Vec<Sandbox>,
    projects: ListProjectsResponse,
    pub(super) tokens: Result<Vec<Issued>, String>,
    pub(super) nodes: Result<ListNodesResponse, String>,
    happenings: VecDeque<Arc<Happening>>,
    refusals: VecDeque<Arc<Happening>>,
    seen: u64,
    /// What is shown instead of them while it is read, and how many had come by then.
    paused: Option<(Vec<Arc<Happening>>, u64)>,
    pub(super) refused_only: bool,
    pub(super) view: View,
    spots: [Spot; 5],
    pub(super) mode: Mode,
    pub(super) message: Option<(Level, String)>,
    /// So many lines of what is read can be above the screen, as it was drawn last.
    pub(super) most_above: Cell<usize>,
}

impl App {
    /// With nothing known yet.
    pub(super) fn new(colours: bool) -> Self {
        Self {
            palette: Palette { colours },
            now_ms: 0,
            link: Link::Connecting,
            status: GetStatusResponse::default(),
            sandboxes: Vec::new(),
            projects: ListProjectsResponse::default(),
            tokens: Ok(Vec::new()),
            nodes: Ok(ListNodesResponse::default()),
            happenings: VecDeque::new(),
            refusals: VecDeque::new(),
            seen: 0,
            paused: None,
            refused_only: false,
            view: View::Sandboxes,
            spots: Default::default(),
            mode: Mode::Keys,
            message: None,
            most_above: Cell::new(usize::MAX),
        }
    }

    /// Shows an error until the next key.
    pub(super) fn tell(&mut self, error: &str) {
        self.message = Some((Level::Error, error.to_owned()));
    }

    fn inform(&mut self, text: impl Into<String>) {
        self.message = Some((Level::Info, text.into()));
    }

    pub(super) fn on(&mut self, input: Input) -> Option<Action> {
        match input {
            Input::Key(key) if key.kind != KeyEventKind::Release => return self.on_key(key),
            Input::Key(_) => {}
            Input::Status(status) => {
                self.status = status;
                self.link = Link::Connected;
            }
            Input::Sandboxes(mut sandboxes) => {
                sandboxes.sort_by(|a, b| a.name.cmp(&b.name));
                self.sandboxes = sandboxes;
            }
            Input::Projects(projects) => self.projects = projects,
            Input::Tokens(tokens) => self.tokens = tokens,
            Input::Nodes(nodes) => self.nodes = nodes,
            Input::Watching => {
                self.happenings.clear();
                self.refusals.clear();
                self.follow();
            }
            Input::Events(events) => events.into_iter().for_each(|event| self.on_event(event)),
            Input::Stopped { name, result } => self.message = Some(entry::of_stop(&name, result)),
            Input::Revoked { id, result } => match result {
                Ok(true) => self.inform(format!("revoked {id}: the server refuses it within a second")),
                Ok(false) => self.inform(format!("{id} was revoked before")),
                Err(why) => self.tell(&format!("{id} was not revoked: {why}")),
            },
            Input::Proposed(Ok(proposal)) => match self.mode {
                Mode::Keys | Mode::Details { .. } => {
                    self.message = None;
                    self.mode = Mode::Proposal { proposal: Box::new(proposal), above: 0 };
                }
                // A `y` that is typed now is meant for something else.
                _ => self.inform("the edit was found: press a again to see it"),
            },
            Input::Proposed(Err(why)) => self.tell(&why),
            Input::Written(Ok(done)) => self.inform(done),
            Input::Written(Err(why)) => self.tell(&why),
            Input::Tick(now_ms) => self.now_ms = now_ms,
            Input::Disconnected(why) => self.link = Link::Lost(why),
            Input::End => return Some(Action::Leave),
        }
        None
    }

    fn on_event(&mut self, event: Event) {
        let Some(happening) = Happening::of(self.seen, event) else { return };
        self.seen += 1;
        let happening = Arc::new(happening);
        if is_refused(&happening.event) {
            keep(&mut self.refusals, KEPT_REFUSED, Arc::clone(&happening));
        }
        keep(&mut self.happenings, KEPT, happening);
    }

    /// The requests as they are now stay, until they are followed again.
    fn pause(&mut self) {
        if self.view == View::Requests && self.paused.is_none() {
            let ring = if self.refused_only { &self.refusals } else { &self.happenings };
            self.paused = Some((ring.iter().cloned().collect(), self.seen));
        }
    }

    fn follow(&mut self) {
        self.paused = None;
        self.spots[View::Requests.index()].key = None;
    }

    /// How many events have come since the requests were paused.
    pub(super) fn paused(&self) -> Option<u64> {
        self.paused.as_ref().map(|(_, at)| self.seen - at)
    }

    // ── Keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn on_key(&mut self, key: KeyEvent) -> Option<Action> {
        self.message = None;
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return (key.code == KeyCode::Char('c')).then_some(Action::Leave);
        }
        match &mut self.mode {
            Mode::Help => self.mode = Mode::Keys,
            Mode::Confirm(question) => {
                let question = question.clone();
                self.mode = Mode::Keys;
                return self.answer(question, matches!(key.code, KeyCode::Char('y' | 'Y')));
            }
            Mode::Filter => self.type_filter(key.code),
            Mode::Details { above, .. } => match key.code {
                KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q') => self.mode = Mode::Keys,
                KeyCode::Char('a') => return self.ask_to_allow(),
                KeyCode::Char('x') => self.ask_to_end(),
                code => *above = scrolled((*above).min(self.most_above.get()), code),
            },
            Mode::Proposal { above, .. } => match key.code {
                KeyCode::Char('y' | 'Y') => {
                    if let Mode::Proposal { proposal, .. } = std::mem::replace(&mut self.mode, Mode::Keys) {
                        self.inform(format!("writing {} …", proposal.path.display()));
                        return Some(Action::Write(proposal));
                    }
                }
                KeyCode::Esc | KeyCode::Char('n' | 'N' | 'q') => {
                    self.mode = Mode::Keys;
                    self.inform("nothing was written");
                }
                code => *above = scrolled((*above).min(self.most_above.get()), code),
            },
            Mode::Keys => return self.on_plain_key(key.code),
        }
        None
    }

    fn on_plain_key(&mut self, code: KeyCode) -> Option<Action> {
        match code {
            KeyCode::Char('q') => return Some(Action::Leave),
            KeyCode::Char('?') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => self.turn(1),
            KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => self.turn(4),
            KeyCode::Char(digit @ '1'..='5') => self.view = View::ALL[digit as usize - '1' as usize],
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::PageUp => self.go(-PAGE),
            KeyCode::PageDown => self.go(PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.go(isize::MIN),
            KeyCode::End | KeyCode::Char('G' | 'f') => self.go(isize::MAX),
            KeyCode::Esc => self.spot_mut().filter.clear(),
            KeyCode::Char('r') if self.view == View::Requests => {
                self.refused_only = !self.refused_only;
                self.follow();
            }
            KeyCode::Enter => {
                if let Some((at, key)) = self.selected() {
                    self.pause();
                    let spot = self.spot_mut();
                    (spot.key, spot.at) = (Some(key.clone()), at);
                    self.mode = Mode::Details { key, above: 0 };
                }
            }
            KeyCode::Char('x') => self.ask_to_end(),
            KeyCode::Char('a') => return self.ask_to_allow(),
            _ => {}
        }
        None
    }

    fn type_filter(&mut self, code: KeyCode) {
        let filter = &mut self.spot_mut().filter;
        match code {
            KeyCode::Enter => self.mode = Mode::Keys,
            KeyCode::Esc => {
                filter.clear();
                self.mode = Mode::Keys;
            }
            KeyCode::Backspace if filter.pop().is_none() => self.mode = Mode::Keys,
            KeyCode::Char(c) if !c.is_control() && filter.chars().count() < FILTER => filter.push(c),
            _ => {}
        }
    }

    fn turn(&mut self, by: usize) {
        self.view = View::ALL[(self.view.index() + by) % View::ALL.len()];
    }

    /// The entry that keys act upon: the one whose details are shown, else the selected one.
    pub(super) fn subject(&self) -> Option<Item<'_>> {
        match &self.mode {
            Mode::Details { key, .. } => self.all_items().into_iter().find(|item| item.is(key)),
            _ => {
                let mut items = self.items();
                let at = self.position(&items)?;
                Some(items.swap_remove(at))
            }
        }
    }

    /// Asks whether to stop a sandbox, or to revoke a token.
    fn ask_to_end(&mut self) {
        let question = match self.subject() {
            Some(Item::Sandbox(sandbox)) => match sandbox.state() {
                _ if self.link != Link::Connected => {
                    Err("only the server can stop a sandbox, and it does not answer".to_owned())
                }
                State::Stopped => Err(format!("{} does not run", sandbox.name)),
                _ => Ok(Question::Stop(sandbox.name.clone())),
            },
            Some(Item::Gateway(project)) => {
                Err(format!("{} is a gateway: end the server, or take its file out of --config", project.name))
            }
            Some(Item::Token(issued)) => match &issued.revoked {
                Some(_) => Err("it is revoked already".to_owned()),
                None => Ok(Question::Revoke(issued.token.id)),
            },
            _ => Err("there is nothing here to stop or to revoke".to_owned()),
        };
        match question {
            Ok(question) => self.mode = Mode::Confirm(question),
            Err(why) => self.inform(why),
        }
    }

    fn answer(&mut self, question: Question, yes: bool) -> Option<Action> {
        let (text, action) = match (question, yes) {
            (Question::Stop(name), true) => (format!("stopping {name} …"), Some(Action::Stop(name))),
            (Question::Stop(name), false) => (format!("{name} goes on"), None),
            (Question::Revoke(id), true) => (format!("revoking {id} …"), Some(Action::Revoke(id))),
            (Question::Revoke(id), false) => (format!("{id} stays as it is"), None),
        };
        self.inform(text);
        action
    }

    fn ask_to_allow(&mut self) -> Option<Action> {
        let wanted = match self.subject() {
            Some(Item::Happening(happening)) => happening.wanted(),
            _ => Err("choose a refused request, or a name that was not found: press 2".to_owned()),
        };
        match wanted {
            Ok(wanted) => {
                self.inform("looking at the file …");
                Some(Action::Propose(wanted))
            }
            Err(why) => {
                self.inform(why);
                None
            }
        }
    }

    // ── Entries ───────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn spot(&self) -> &Spot {
        &self.spots[self.view.index()]
    }

    fn spot_mut(&mut self) -> &mut Spot {
        &mut self.spots[self.view.index()]
    }

    /// The entries of the view that the filter leaves.
    pub(super) fn items(&self) -> Vec<Item<'_>> {
        let mut items = self.all_items();
        let filter = &self.spot().filter;
        if !filter.is_empty() {
            items.retain(|item| item.matches(filter));
        }
        items
    }

    fn all_items(&self) -> Vec<Item<'_>> {
        match self.view {
            View::Sandboxes => {
                let gateways = self.projects.projects.iter().filter(|project| project.gateway);
                self.sandboxes.iter().map(Item::Sandbox).chain(gateways.map(Item::Gateway)).collect()
            }
            View::Requests => {
                let ring = if self.refused_only { &self.refusals } else { &self.happenings };
                match &self.paused {
                    Some((paused, _)) => paused.iter().map(Item::Happening).collect(),
                    None => ring.iter().map(Item::Happening).collect(),
                }
            }
            View::Tokens => self.tokens.iter().flatten().map(Item::Token).collect(),
            View::Nodes => self.nodes.iter().flat_map(|nodes| &nodes.nodes).map(Item::Node).collect(),
            View::Config => {
                ConfigLine::all(&self.status, &self.projects, &self.sandboxes).into_iter().map(Item::Line).collect()
            }
        }
    }

    /// Where among `items` the selected one is.
    pub(super) fn position(&self, items: &[Item<'_>]) -> Option<usize> {
        let last = items.len().checked_sub(1)?;
        let Spot { key, at, .. } = self.spot();
        Some(match key {
            None if self.view == View::Requests => last,
            None => 0,
            Some(key) => items.iter().position(|item| item.is(key)).unwrap_or(*at).min(last),
        })
    }

    /// Where the selected entry is, and what tells it from the others.
    fn selected(&self) -> Option<(usize, Key)> {
        let items = self.items();
        let at = self.position(&items)?;
        Some((at, items[at].key()))
    }

    /// Goes on by so many entries, as far as there are any.
    fn go(&mut self, by: isize) {
        let items = self.items();
        let Some(at) = self.position(&items) else {
            // Of those to come the filter may leave some.
            if self.view == View::Requests && by > 0 {
                self.follow();
            }
            return;
        };
        let last = items.len() - 1;
        let to = at.saturating_add_signed(by).min(last);
        // From the last request on, those to come are followed.
        if self.view == View::Requests && by > 0 && to == last {
            return self.follow();
        }
        let key = items[to].key();
        self.pause();
        let spot = self.spot_mut();
        (spot.key, spot.at) = (Some(key), to);
    }

    /// How many sandboxes run, and how many gateways there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        let running = self.sandboxes.iter().filter(|sandbox| sandbox.state() == State::Running).count();
        (running, self.projects.projects.iter().filter(|project| project.gateway).count())
    }

    /// How many of the last refusals are known.
    pub(super) fn refused(&self) -> usize {
        self.refusals.len()
    }

    /// Whether events change what is on the screen.
    pub(super) fn shows_events(&self) -> bool {
        self.view == View::Requests && self.paused.is_none() && matches!(self.mode, Mode::Keys | Mode::Filter)
    }
}

fn scrolled(above: usize, code: KeyCode) -> usize {
    let page = PAGE.unsigned_abs();
    match code {
        KeyCode::Up | KeyCode::Char('k') => above.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => above.saturating_add(1),
        KeyCode::PageUp => above.saturating_sub(page),
        KeyCode::PageDown | KeyCode::Char(' ') => above.saturating_add(page),
        KeyCode::Home | KeyCode::Char('g') => 0,
        KeyCode::End | KeyCode::Char('G') => usize::MAX,
        _ => above,
    }
}

fn keep(ring: &mut VecDeque<Arc<Happening>>, most: usize, happening: Arc<Happening>) {
    if ring.len() == most {
        ring.pop_front();
    }
    ring.push_back(happening);
}

/// Whether an event is something that was refused.
pub(super) fn is_refused(event: &Event) -> bool {
    match &event.kind {
        Some(Kind::Request(request)) => !request.allowed,
        Some(Kind::Dns(query)) => !query.allowed,
        _ => false,
    }
}
