//! Draws the state. Changes nothing, but for how far one can scroll, which only the drawing knows.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph};

use super::app::{App, Link, Mode, Question, View};
use super::diff;
use super::items::{Cell, Item, counted, titles};
use super::propose::Proposal;
use crate::cli::tui::{Level, clean, message, wrapped, wrapped_whole};

const HELP: &str = "\
Tab 1-5   the views            ↑ ↓ j k   choose an entry
Enter     everything about it  /         only what contains a text
x         stop a sandbox, revoke a token (asks first)
a         allow what was refused: shows the edit of
          agent-creds.toml, and asks
r         only refused requests; f follows those to come
q         quit; the server goes on";

/// The widest that a column gets, but for the last.
const WIDEST: usize = 28;

pub(super) fn draw(app: &App, frame: &mut Frame<'_>) {
    let area = frame.area();
    // Where there is little room, what can be done without goes first.
    let head = u16::from(area.height >= 7 || matches!(app.link, Link::Lost(_)));
    let tabs = u16::from(area.height >= 7 || head == 0);
    let feet = foot_lines(app, area);
    let [head_area, tabs_area, body, foot] = Layout::vertical([
        Constraint::Length(head),
        Constraint::Length(tabs),
        Constraint::Min(0),
        Constraint::Length(u16::try_from(feet.len()).unwrap_or(1)),
    ])
    .areas(area);
    frame.render_widget(head_line(app), head_area);
    frame.render_widget(tabs_line(app, area.width), tabs_area);
    match &app.mode {
        Mode::Details { above, .. } => details(app, frame, body, *above),
        Mode::Proposal { proposal, above } => proposed(app, proposal, frame, body, *above),
        _ => list(app, frame, body),
    }
    frame.render_widget(Paragraph::new(feet), foot);
    if app.mode == Mode::Help {
        let lines = u16::try_from(HELP.lines().count() + 2).unwrap_or(u16::MAX);
        let area = Rect { height: body.height.min(lines), width: body.width.min(64), ..body };
        let block = Block::bordered().border_style(app.palette.dim()).title(" any key closes this ");
        frame.render_widget(Clear, area);
        frame.render_widget(Paragraph::new(HELP).block(block), area);
    }
}

fn head_line(app: &App) -> Line<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut spans = vec![Span::styled("actl", bold)];
    match &app.link {
        Link::Connecting => spans.push("  asking the server …".into()),
        Link::Lost(_) => {
            let old = if app.status.version.is_empty() { "" } else { "; what is shown is old" };
            let style = app.palette.level(Level::Error);
            spans.push(Span::styled(format!("  the server does not answer{old}"), style));
        }
        Link::Connected => {
            let (running, gateways) = app.counts();
            let gateways = if gateways > 0 { format!("  {}", counted(gateways, "gateway")) } else { String::new() };
            let generation = app.status.generation;
            spans.push(format!("  generation {generation}  {running} running{gateways}").into());
            let problems = app.status.problems.len() + app.status.rejected.len() + app.status.credentials.len();
            if problems > 0 {
                let text = format!("  {} (5)", counted(problems, "problem"));
                spans.push(Span::styled(text, app.palette.level(Level::Error)));
            } else if app.status.keeps_envoy && !app.status.envoy_connected {
                spans.push(Span::styled("  Envoy is not connected", app.palette.level(Level::Warning)));
            }
        }
    }
    Line::from(spans)
}

fn tabs_line(app: &App, width: u16) -> Line<'static> {
    let mut spans = Vec::new();
    for view in View::ALL {
        let here = view == app.view;
        let count = match view {
            View::Requests if app.refused() > 0 => format!(" ✗{}", app.refused()),
            _ => String::new(),
        };
        let number = view.index() + 1;
        let text = match width {
            58.. => format!(" {number} {}{count} ", view.title()),
            _ if here => format!(" {number} {} ", view.title()),
            _ => number.to_string(),
        };
        let style = if here { Style::new().add_modifier(Modifier::REVERSED) } else { app.palette.dim() };
        spans.push(Span::styled(text, style));
        spans.push(" ".into());
    }
    Line::from(spans)
}

/// What is asked, what came of something, or which keys there are.
fn foot_lines(app: &App, area: Rect) -> Vec<Line<'static>> {
    let told = app.message.as_ref().filter(|_| matches!(app.mode, Mode::Keys | Mode::Details { .. } | Mode::Help));
    match told {
        Some(told) => message(told, app.palette, area),
        None => vec![foot_line(app, area.width)],
    }
}

fn foot_line(app: &App, width: u16) -> Line<'static> {
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    match &app.mode {
        Mode::Confirm(Question::Stop(name)) => {
            return Line::styled(format!("y/n: stop {}, and end all that runs in it?", clean(name)), reversed);
        }
        Mode::Confirm(Question::Revoke(id)) => {
            return Line::styled(format!("y/n: revoke {id}, for good, and all narrowed from it?"), reversed);
        }
        Mode::Proposal { .. } => return Line::styled("y/n: write this? ↑↓ scroll", reversed),
        Mode::Filter => return Line::from(format!("/{}▏", clean(&app.spot().filter))),
        _ => {}
    }
    if let Mode::Details { .. } = app.mode {
        return Line::styled("↑↓ scroll  a allow  x stop or revoke  Esc back", app.palette.dim());
    }
    if !app.spot().filter.is_empty() {
        return Line::from(format!("only what contains “{}”; / changes it, Esc shows all", clean(&app.spot().filter)));
    }
    let keys = match (app.view, width) {
        (_, ..60) => "Tab Enter a x r / ? q",
        (View::Sandboxes, _) => "Tab views  Enter details  x stop  / filter  ? help  q quit",
        (View::Requests, _) => "Enter details  a allow  r refused only  f follow  / filter  ? help  q quit",
        (View::Tokens, _) => "Tab views  Enter details  x revoke  / filter  ? help  q quit",
        (View::Nodes | View::Config, _) => "Tab views  Enter details  / filter  ? help  q quit",
    };
    Line::styled(keys, app.palette.dim())
}

// ── Lists ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

fn list(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let items = app.items();
    let Some(at) = app.position(&items) else {
        let lines: Vec<Line<'_>> = wrapped(&nothing(app), area.width).into_iter().map(Line::from).collect();
        frame.render_widget(Paragraph::new(lines).style(app.palette.dim()), area);
        return;
    };
    let title = u16::from(area.height >= 4);
    let [title_area, area] = Layout::vertical([Constraint::Length(title), Constraint::Min(0)]).areas(area);
    let room = usize::from(area.height);
    let follows = app.view == View::Requests && app.spot().key.is_none();
    let first = if follows { items.len().saturating_sub(room) } else { at.saturating_sub(room / 2) };
    let first = first.min(items.len().saturating_sub(room));
    let shown: Vec<Vec<Cell>> =
        items.iter().skip(first).take(room).map(|item| item.cells(app.palette, app.now_ms)).collect();
    let titles = titles(app.view);
    let widths = widths(titles, &shown);
    let lines = shown.into_iter().enumerate().map(|(row, cells)| {
        let line = in_columns(cells, &widths);
        if first + row == at && !follows {
            line.patch_style(Style::new().add_modifier(Modifier::REVERSED))
        } else {
            line
        }
    });
    let lines: Vec<Line<'_>> = lines.collect();
    frame.render_widget(Paragraph::new(lines), area);
    let dim = app.palette.dim();
    let mut head = in_columns(titles.iter().map(|title| ((*title).to_owned(), dim)).collect(), &widths);
    if app.view == View::Requests {
        let refused = if app.refused_only { ", the refused ones alone" } else { "" };
        let what = match app.paused() {
            Some(new) => format!("WHAT (paused, {new} new; f follows{refused})"),
            None => format!("WHAT (following{refused})"),
        };
        head.spans.pop();
        head.spans.push(Span::styled(what, dim));
    }
    frame.render_widget(head, title_area);
}

fn width(text: &str) -> usize {
    Span::raw(text).width()
}

fn widths(titles: &[&str], rows: &[Vec<Cell>]) -> Vec<usize> {
    let widest = |column: usize, title: &str| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|(text, _)| width(text));
        cells.chain([width(title)]).max().unwrap_or_default().min(WIDEST)
    };
    titles.iter().enumerate().map(|(column, title)| widest(column, title)).collect()
}

/// Pads or cuts each cell to its column's width, but for the last.
fn in_columns(cells: Vec<Cell>, widths: &[usize]) -> Line<'static> {
    let last = cells.len().saturating_sub(1);
    let mut spans = Vec::new();
    for (column, (mut text, style)) in cells.into_iter().enumerate() {
        let room = widths.get(column).copied().unwrap_or_default();
        if column < last {
            if width(&text) > room {
                while width(&text) + 1 > room && text.pop().is_some() {}
                text.push('…');
            }
            let missing = room.saturating_sub(width(&text)) + if room == 0 { 0 } else { 2 };
            spans.push(Span::styled(text, style));
            spans.push(" ".repeat(missing).into());
        } else {
            spans.push(Span::styled(text, style));
        }
    }
    Line::from(spans)
}

/// What there is to say where there is nothing to list.
fn nothing(app: &App) -> String {
    if let (Link::Lost(why), true) = (&app.link, app.view != View::Tokens) {
        return format!("{why}\nIt is asked again each second.");
    }
    if !app.spot().filter.is_empty() {
        return "nothing that matches; Esc shows all".to_owned();
    }
    match app.view {
        _ if app.link == Link::Connecting => String::new(),
        View::Sandboxes => "nothing is served yet: `adev console` in a project's folder starts a sandbox".to_owned(),
        View::Requests if app.refused_only => "nothing was refused yet; r shows all requests".to_owned(),
        View::Requests => "nothing has happened yet: requests and name lookups appear here".to_owned(),
        View::Tokens => match &app.tokens {
            Ok(_) => "no token was made with this state folder".to_owned(),
            Err(why) => format!("the tokens cannot be told: {why}"),
        },
        View::Nodes => match &app.nodes {
            Ok(_) => "no Envoy is connected".to_owned(),
            Err(why) => format!("the Envoys cannot be told: {why}"),
        },
        View::Config => String::new(),
    }
}

// ── One entry ─────────────────────────────────────────────────────────────────────────────────────────────────────────

fn details(app: &App, frame: &mut Frame<'_>, area: Rect, above: usize) {
    let Some(item) = app.subject() else {
        let gone = "it is gone; Esc goes back";
        frame.render_widget(Paragraph::new(gone).style(app.palette.dim()), area);
        return;
    };
    // On a narrow screen texts begin below what they are.
    let margin = if area.width >= 40 { 13 } else { 2 };
    let text_width = area.width.saturating_sub(margin).max(8);
    let mut lines: Vec<Line<'_>> = Vec::new();
    for (what, text) in item.details(app.now_ms / 1000) {
        let mut texts = wrapped(&text, text_width).into_iter();
        let head = Span::styled(format!("{what:<12} "), app.palette.dim());
        if margin < 13 {
            lines.push(head.into());
        } else {
            let first = texts.next().unwrap_or_default();
            lines.push(Line::from(vec![head, style_of(app, &item, what, first)]));
        }
        let margin = " ".repeat(margin.into());
        lines.extend(texts.map(|text| Line::from(vec![margin.clone().into(), style_of(app, &item, what, text)])));
    }
    scrolled(frame, area, lines, above, " details ".to_owned(), app);
}

fn style_of(app: &App, item: &Item<'_>, what: &str, text: String) -> Span<'static> {
    let level = match (what, item) {
        ("problems" | "problem" | "rejected", _) => Level::Error,
        ("revoked", Item::Token(_)) => Level::Refused,
        ("verdict", _) if text.starts_with("refused") || text.starts_with("no such") => Level::Refused,
        ("verdict", _) => Level::Good,
        _ => Level::Info,
    };
    Span::styled(text, app.palette.level(level))
}

fn proposed(app: &App, proposal: &Proposal, frame: &mut Frame<'_>, area: Rect, above: usize) {
    let width = area.width.max(8);
    let mut lines: Vec<Line<'_>> = Vec::new();
    let mut say = |sign: &str, text: &str, style: Style| {
        // A tab would be shown as what it is.
        let text = format!("{sign}{}", text.replace('\t', "    "));
        lines.extend(wrapped_whole(&text, width).into_iter().map(|line| Line::styled(line, style)));
    };
    say("allow ", &proposal.what, Style::new().add_modifier(Modifier::BOLD));
    say("in ", &proposal.path.display().to_string(), app.palette.dim());
    for line in &proposal.diff {
        match line {
            diff::Line::Skipped(count) => say("  ", &format!("… {count} lines"), app.palette.dim()),
            diff::Line::Same(text) => say("  ", text, Style::new()),
            diff::Line::Removed(text) => say("- ", text, app.palette.colour(Color::Red)),
            diff::Line::Added(text) => say("+ ", text, app.palette.colour(Color::Green)),
        }
    }
    scrolled(frame, area, lines, above, " the edit ".to_owned(), app);
}

fn scrolled(frame: &mut Frame<'_>, area: Rect, lines: Vec<Line<'_>>, above: usize, title: String, app: &App) {
    let block = Block::new().borders(Borders::TOP).border_style(app.palette.dim()).title(title);
    let area = if area.height >= 5 {
        let inner = block.inner(area);
        frame.render_widget(block, area);
        inner
    } else {
        area
    };
    let most = lines.len().saturating_sub(usize::from(area.height));
    app.most_above.set(most);
    let shown: Vec<Line<'_>> = lines.into_iter().skip(above.min(most)).collect();
    frame.render_widget(Paragraph::new(shown), area);
}
