//! Draws the overview. Reads the state, changes nothing.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Row, Table, TableState, Wrap};

use super::app::{App, Link, Mode, View};
use crate::cli::adev::list::{span, word};
use crate::cli::tui::entry::Entry;
use crate::cli::tui::{Level, Palette, clean, mark, mark_of, message, wrapped};
use crate::control::v1::{Sandbox, State};

const HELP: &str = "\
↑ ↓ j k   choose a sandbox
Enter     a shell in it; starts it if it does not run
s         start it
x         stop it (asks first)
l         all of what it asked for, and what was refused
/         show only what contains a text; Esc shows all
q         quit; sandboxes run on

In the log: ↑ ↓ PgUp PgDn Home, f or End follows, l or Esc back

running   everything is there and checked
partial   something is missing or being repaired
starting  being launched
stopped   known, with nothing running";

const NONE_YET: &str = "\
No sandboxes yet. In the folder of a project:

  adev init      writes agent-creds.toml: what the agent may reach
  adev console   opens a shell in a sandbox that reaches only that";

pub(super) fn draw(app: &App, frame: &mut Frame<'_>) {
    let area = frame.area();
    let told = app.message.as_ref().filter(|_| matches!(app.mode, Mode::Keys | Mode::Help));
    let feet = match told {
        Some(told) => message(told, app.palette(), area),
        None => vec![foot_line(app, area.width)],
    };
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(height(feet.len()))])
            .areas(area);
    frame.render_widget(Paragraph::new(head_line(app)), head);
    match app.view {
        View::Overview => overview(app, frame, body),
        View::Logs { below } => logs(app, frame, body, below),
    }
    frame.render_widget(Paragraph::new(feet), foot);
    if app.mode == Mode::Help {
        help(app, frame, body);
    }
}

impl App {
    fn palette(&self) -> Palette {
        Palette { colours: self.colours }
    }
}

fn head_line(app: &App) -> Line<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let running = app.sandboxes.iter().filter(|sandbox| sandbox.state() == State::Running).count();
    let mut spans = vec![Span::styled("agent-creds", bold)];
    match &app.link {
        Link::Connecting => spans.push("  asking the server …".into()),
        Link::Lost(_) => {
            let old = if app.sandboxes.is_empty() { "" } else { "; what is shown is old" };
            spans.push(Span::styled(format!("  the server does not answer{old}"), app.palette().level(Level::Error)));
        }
        Link::Connected => {
            spans.push(format!("  {running} of {} running", app.sandboxes.len()).into());
            if !app.status.envoy_connected {
                spans.push(Span::styled("  Envoy is not connected", app.palette().level(Level::Warning)));
            } else if !app.status.envoy_converged {
                spans.push(Span::styled("  Envoy takes the configuration …", app.palette().dim()));
            }
        }
    }
    Line::from(spans)
}

fn foot_line(app: &App, width: u16) -> Line<'static> {
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    if let Mode::Confirm(name) = &app.mode {
        let question = format!("stop {}, and end everything that runs in it? y/n", clean(name));
        return Line::styled(question, reversed);
    }
    if app.mode == Mode::Filter {
        return Line::from(format!("/{}▏", clean(app.filter_here())));
    }
    if !app.filter_here().is_empty() {
        return Line::from(format!("only what contains “{}”; / changes it, Esc goes back", clean(app.filter_here())));
    }
    let keys = match (&app.view, width) {
        (View::Overview, 70..) => "Enter shell  s start  x stop  l log  / filter  ? help  q quit",
        (View::Overview, _) => "Enter s x l / ? q",
        (View::Logs { .. }, 70..) => "↑↓ PgUp PgDn scroll  f follow  / filter  ? help  l back",
        (View::Logs { .. }, _) => "↑↓ f / ? l",
    };
    Line::styled(keys, app.palette().dim())
}

// ── Overview ──────────────────────────────────────────────────────────────────────────────────────────────────────────

fn overview(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let shown = app.shown();
    let notes = notes(app, area.width);
    let room = usize::from(area.height);
    // The table has its header; it may take half, and the notes a third. Without sandboxes the notes are what matters.
    let (table, for_notes) =
        if shown.is_empty() { (0, room) } else { ((shown.len() + 1).min(room.div_ceil(2)), room.div_ceil(3)) };
    let about = notes.len().min(for_notes).min(room - table);
    let [table_area, notes_area, events_area] =
        Layout::vertical([Constraint::Length(height(table)), Constraint::Length(height(about)), Constraint::Min(0)])
            .areas(area);
    if !shown.is_empty() {
        sandboxes(app, &shown, frame, table_area);
    }
    frame.render_widget(Paragraph::new(notes), notes_area);
    if shown.is_empty() && app.sandboxes.is_empty() && app.link != Link::Connected {
        return;
    }
    let title = match app.selected() {
        Some(sandbox) => format!(" {} ", clean(&sandbox.name)),
        None => " all ".to_owned(),
    };
    events(app, frame, events_area, title, 0);
}

fn height(lines: usize) -> u16 {
    u16::try_from(lines).unwrap_or(u16::MAX)
}

fn sandboxes(app: &App, shown: &[&Sandbox], frame: &mut Frame<'_>, area: Rect) {
    // What matters less is left out first.
    let columns: &[Column] = match area.width {
        76.. => &[Column::State, Column::Up, Column::Runtime, Column::Requests, Column::Refused, Column::Workspace],
        54.. => &[Column::State, Column::Up, Column::Requests, Column::Refused],
        _ => &[Column::State],
    };
    let longest = shown.iter().map(|sandbox| clean(&sandbox.name).chars().count()).max().unwrap_or_default();
    let name = height(longest.clamp(4, 24)).min(area.width.saturating_sub(13));
    let widths = [Constraint::Length(name)].into_iter().chain(columns.iter().map(|column| column.width()));
    let row = |sandbox: &&Sandbox| {
        let state = sandbox.state();
        let cells = columns.iter().map(|column| {
            let text = column.of(sandbox, app.now_ms);
            let style = match column {
                Column::State => app.palette().state(state),
                Column::Refused if sandbox.refused > 0 => app.palette().level(Level::Refused),
                _ => Style::new(),
            };
            Line::styled(text, style)
        });
        Row::new([Line::from(clean(&sandbox.name))].into_iter().chain(cells))
    };
    let header =
        Row::new(["NAME"].into_iter().chain(columns.iter().map(|column| column.title()))).style(app.palette().dim());
    let selected = app.selected().and_then(|chosen| shown.iter().position(|sandbox| sandbox.name == chosen.name));
    let table = Table::new(shown.iter().map(row), widths)
        .header(header)
        .column_spacing(2)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(selected));
}

#[derive(Clone, Copy)]
enum Column {
    State,
    Up,
    Runtime,
    Requests,
    Refused,
    Workspace,
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::State => "STATE",
            Self::Up => "UP",
            Self::Runtime => "RUNTIME",
            Self::Requests => "REQUESTS",
            Self::Refused => "REFUSED",
            Self::Workspace => "WORKSPACE",
        }
    }

    fn width(self) -> Constraint {
        match self {
            Self::State => Constraint::Length(10),
            Self::Up => Constraint::Length(6),
            Self::Runtime | Self::Refused => Constraint::Length(7),
            Self::Requests => Constraint::Length(8),
            Self::Workspace => Constraint::Fill(1),
        }
    }

    fn of(self, sandbox: &Sandbox, now_ms: i64) -> String {
        match self {
            Self::State => format!("{} {}", mark_of(sandbox.state()), word(sandbox.state())),
            Self::Up if sandbox.started > 0 => span((now_ms / 1000).saturating_sub(sandbox.started)),
            Self::Up => "-".to_owned(),
            Self::Runtime => clean(&sandbox.runtime),
            Self::Requests => sandbox.requests.to_string(),
            Self::Refused => sandbox.refused.to_string(),
            Self::Workspace => clean(&sandbox.workspace),
        }
    }
}

/// What is to be known of the server and of the selected sandbox, the worst first.
fn notes(app: &App, width: u16) -> Vec<Line<'static>> {
    let mut notes = Vec::new();
    let mut say = |level: Level, text: &str| {
        notes.extend(wrapped(text, width).into_iter().map(|line| Line::styled(line, app.palette().level(level))));
    };
    if let Link::Lost(why) = &app.link {
        say(
            Level::Error,
            &format!("{why}\nIt is asked again each second. Enter on a sandbox, or any other adev command, starts it."),
        );
    }
    if !app.status.sandboxes_unavailable.is_empty() {
        say(Level::Error, &format!("sandboxes cannot be launched: {}", app.status.sandboxes_unavailable));
    }
    let of_sandboxes = |problem: &&String| app.sandboxes.iter().any(|sandbox| sandbox.problems.contains(problem));
    for problem in app.status.problems.iter().filter(|problem| !of_sandboxes(problem)) {
        say(Level::Error, problem);
    }
    let Some(sandbox) = app.selected() else {
        if app.link == Link::Connected && app.sandboxes.is_empty() {
            say(Level::Info, NONE_YET);
        } else if !app.filter.is_empty() {
            say(Level::Info, "no sandbox matches; Esc shows all");
        }
        return notes;
    };
    if !sandbox.detail.is_empty() {
        let level = if sandbox.state() == State::Partial { Level::Error } else { Level::Info };
        say(level, &sandbox.detail);
    }
    for problem in &sandbox.problems {
        say(Level::Error, problem);
    }
    if !sandbox.restart_needed.is_empty() {
        let what = sandbox.restart_needed.join(", ");
        say(Level::Warning, &format!("takes effect in a new container (x, then s): {what}"));
    }
    if sandbox.upstreams.is_empty() {
        say(Level::Warning, &format!("reaches nothing: add [upstream.\"HOST\"] to {}", sandbox.config_path));
    } else {
        let upstreams = upstreams(&sandbox.upstreams, usize::from(width));
        say(Level::Info, &upstreams);
    }
    notes
}

/// As many as a line has room for.
fn upstreams(all: &[String], width: usize) -> String {
    let mut text = "reaches ".to_owned();
    for (at, upstream) in all.iter().enumerate() {
        let upstream = clean(upstream);
        let separator = if at == 0 { "" } else { ", " };
        let more = format!(" and {} more", all.len() - at);
        if at > 0 && text.chars().count() + separator.len() + upstream.chars().count() + more.len() > width {
            text.push_str(&more);
            break;
        }
        text.push_str(separator);
        text.push_str(&upstream);
    }
    text
}

// ── Events ────────────────────────────────────────────────────────────────────────────────────────────────────────────

fn logs(app: &App, frame: &mut Frame<'_>, area: Rect, below: usize) {
    let whose = app.selected().map_or_else(|| "all".to_owned(), |sandbox| clean(&sandbox.name));
    let place = if below == 0 { "following".to_owned() } else { format!("{below} more below") };
    events(app, frame, area, format!(" log of {whose}: {place} "), below);
}

/// The last lines that there is room for, but for so many below them.
fn events(app: &App, frame: &mut Frame<'_>, area: Rect, title: String, below: usize) {
    let block = Block::new().borders(Borders::TOP).border_style(app.palette().dim()).title(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let room = usize::from(inner.height);
    let lines_of = |entry: Entry| event_lines(app, &entry, inner.width);
    let upwards = app.entries().rev().skip(below).flat_map(|entry| lines_of(entry).into_iter().rev());
    let mut lines: Vec<Line<'_>> = upwards.take(room).collect();
    lines.reverse();
    if lines.len() < room && below > 0 {
        // Never less than a page, as long as there is one.
        lines = app.entries().flat_map(lines_of).take(room).collect();
    }
    if lines.is_empty() {
        let text = match app.filter_here() {
            filter if !filter.is_empty() && app.view != View::Overview => "nothing that matches",
            _ => "nothing has happened yet: requests and name lookups appear here",
        };
        frame.render_widget(Paragraph::new(text).style(app.palette().dim()).wrap(Wrap { trim: true }), inner);
        return;
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

/// When, how it went, and what, on as many lines as it takes.
fn event_lines(app: &App, entry: &Entry, width: u16) -> Vec<Line<'static>> {
    let style = app.palette().level(entry.level);
    let (age, mark) = match entry.level {
        Level::More => (String::new(), ' '),
        level => (span(app.now_ms.saturating_sub(entry.time_ms) / 1000), mark(level)),
    };
    let head = [Span::styled(format!("{age:>6} "), app.palette().dim()), Span::styled(format!("{mark} "), style)];
    let margin = 9;
    let text_style = if entry.level == Level::Good { Style::new() } else { style };
    // Too narrow to be read, it is at least bounded.
    let texts = wrapped(&entry.text, width.saturating_sub(margin).max(20));
    let mut heads = std::iter::once(head.to_vec()).chain(std::iter::repeat(vec![" ".repeat(margin.into()).into()]));
    let line = |text: String| {
        let mut spans = heads.next().unwrap_or_default();
        spans.push(Span::styled(text, text_style));
        Line::from(spans)
    };
    texts.into_iter().map(line).collect()
}

fn help(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let lines = height(HELP.lines().count());
    let area = Rect { height: area.height.min(lines + 2), width: area.width.min(72), ..area };
    let block = Block::bordered().border_style(app.palette().dim()).title(" any key closes this ");
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(HELP).block(block), area);
}
