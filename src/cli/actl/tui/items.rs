//! What the views list: one line of each, and everything about it.

use std::sync::Arc;

use ratatui::style::Style;

use super::app::View;
use super::propose::Wanted;
use crate::cli::adev::list::{span, word};
use crate::cli::issued;
use crate::cli::tui::{Level, Palette, clean, contains, entry, mark, mark_of};
use crate::config::Refused;
use crate::control::v1::event::Kind;
use crate::control::v1::{
    Event, GetStatusResponse, ListProjectsResponse, Node, NodeState, Project, Request, Sandbox, State,
};
use crate::domain::macaroon::TokenId;
use crate::domain::macaroon::caveat::UnixTime;
use crate::state::Issued;

/// What tells an entry from the others of its view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    Name(String),
    Happening(u64),
    Token(TokenId),
    Node(String, String),
    Line(String),
}

/// Something that happened.
#[derive(Debug)]
pub(super) struct Happening {
    seq: u64,
    pub(super) event: Event,
    level: Level,
    /// Printable.
    text: String,
}

impl Happening {
    /// `None` when there is nothing to say of it.
    pub(super) fn of(seq: u64, event: Event) -> Option<Self> {
        let first = entry::of(&event, true).into_iter().next()?;
        Some(Self { seq, event, level: first.level, text: first.text })
    }

    /// What an edit would have to allow, or why none would.
    pub(super) fn wanted(&self) -> Result<Wanted, String> {
        let sandbox = self.event.sandbox.clone();
        match &self.event.kind {
            Some(Kind::Request(request)) if !request.allowed && request.editable => {
                if request.exact_path.is_empty() {
                    return Err("no pattern can be written for this path: edit the file by hand".to_owned());
                }
                let asked = (request.method.clone(), request.exact_path.clone());
                Ok(Wanted { sandbox, refused: Refused { host: request.host.clone(), request: Some(asked) } })
            }
            Some(Kind::Request(request)) if !request.allowed => {
                Err(format!("agent-creds.toml did not refuse this: {} (Enter shows all of it)", request.help))
            }
            Some(Kind::Dns(query)) if !query.allowed => {
                let host = query.name.trim_end_matches('.').to_owned();
                Ok(Wanted { sandbox, refused: Refused { host, request: None } })
            }
            _ => Err("this was not refused".to_owned()),
        }
    }
}

/// A fact about the configuration.
#[derive(Debug)]
pub(super) struct ConfigLine {
    level: Level,
    what: &'static str,
    text: String,
}

impl ConfigLine {
    /// The worst first.
    pub(super) fn all(status: &GetStatusResponse, projects: &ListProjectsResponse, sandboxes: &[Sandbox]) -> Vec<Self> {
        let line = |level, what, text: String| Self { level, what, text };
        let mut lines = Vec::new();
        if !status.sandboxes_unavailable.is_empty() {
            let text = format!("sandboxes cannot be launched: {}", status.sandboxes_unavailable);
            lines.push(line(Level::Error, "problem", text));
        }
        let of_sandboxes = sandboxes.iter().flat_map(|sandbox| &sandbox.problems);
        let new = of_sandboxes.filter(|problem| !status.problems.contains(problem));
        lines.extend(status.problems.iter().chain(new).map(|text| line(Level::Error, "problem", text.clone())));
        for rejected in &status.rejected {
            let from =
                if rejected.lines.is_empty() { String::new() } else { format!("{}: ", rejected.lines.join(", ")) };
            let text = format!("{from}Envoy {} rejects a {}: {}", rejected.node, rejected.r#type, rejected.message);
            lines.push(line(Level::Error, "rejected", text));
        }
        for trouble in &status.credentials {
            let level = if trouble.state == "stale" { Level::Warning } else { Level::Error };
            lines.push(line(level, "credential", format!("{}, {}: {}", trouble.host, trouble.state, trouble.message)));
        }
        if status.version.is_empty() {
            return lines;
        }
        lines.push(line(Level::Info, "generation", status.generation.to_string()));
        lines.push(match (status.envoy_connected, status.envoy_converged) {
            (true, true) => line(Level::Good, "Envoy", "connected, has all of it".to_owned()),
            (true, false) => line(Level::Warning, "Envoy", "connected, and does not have all of it yet".to_owned()),
            (false, _) if status.keeps_envoy => line(Level::Error, "Envoy", "not connected".to_owned()),
            (false, _) => line(Level::Info, "Envoy", "none of this server's own is connected".to_owned()),
        });
        let strict = if status.strict { ", strict" } else { "" };
        let server = format!("version {}, process {}, http://{}{strict}", status.version, status.pid, status.http);
        lines.push(line(Level::Info, "server", server));
        for project in &projects.projects {
            let Project { name, gateway, config_path, upstream_count, .. } = project;
            let what = if *gateway { "gateway" } else { "sandbox" };
            let level = if project.unconfirmed { Level::Warning } else { Level::Good };
            let wait = if project.unconfirmed { "; `adev accept` takes over what it asks for" } else { "" };
            let upstreams = counted(*upstream_count as usize, "upstream");
            lines.push(line(level, what, format!("{name}: {config_path}, {upstreams}{wait}")));
        }
        lines
    }
}

/// An entry of a view.
#[derive(Debug)]
pub(super) enum Item<'a> {
    Sandbox(&'a Sandbox),
    Gateway(&'a Project),
    Happening(&'a Arc<Happening>),
    Token(&'a Issued),
    Node(&'a Node),
    Line(ConfigLine),
}

/// A piece of a line.
pub(super) type Cell = (String, Style);

/// The titles of a view's columns.
pub(super) fn titles(view: View) -> &'static [&'static str] {
    match view {
        View::Sandboxes => &["NAME", "STATE", "RUNTIME", "UP", "REQUESTS", "REFUSED", "REACHES"],
        View::Requests => &["TIME", "", "WHAT"],
        View::Tokens => &["TOKEN", "STATE", "EXPIRES", "SANDBOX", "ISSUED", "ALLOWS"],
        View::Nodes => &["NODE", "STATE", "GATEWAY", "LAG", "UP", "ENVOY"],
        View::Config => &["", "WHAT", ""],
    }
}

impl Item<'_> {
    pub(super) fn key(&self) -> Key {
        match self {
            Item::Sandbox(sandbox) => Key::Name(sandbox.name.clone()),
            Item::Gateway(project) => Key::Name(project.name.clone()),
            Item::Happening(happening) => Key::Happening(happening.seq),
            Item::Token(issued) => Key::Token(issued.token.id),
            Item::Node(node) => Key::Node(node.id.clone(), node.gateway.clone()),
            Item::Line(line) => Key::Line(format!("{} {}", line.what, line.text)),
        }
    }

    pub(super) fn is(&self, key: &Key) -> bool {
        match (self, key) {
            (Item::Sandbox(Sandbox { name, .. }) | Item::Gateway(Project { name, .. }), Key::Name(key)) => name == key,
            (Item::Happening(happening), Key::Happening(seq)) => happening.seq == *seq,
            (Item::Token(issued), Key::Token(id)) => issued.token.id == *id,
            (Item::Node(node), Key::Node(id, gateway)) => node.id == *id && node.gateway == *gateway,
            (Item::Line(_), Key::Line(_)) => self.key() == *key,
            _ => false,
        }
    }

    /// Whether a text is in it.
    pub(super) fn matches(&self, filter: &str) -> bool {
        match self {
            Item::Happening(happening) => contains(&happening.text, filter),
            _ => self.details(0).iter().any(|(_, text)| contains(text, filter)),
        }
    }

    /// The line, in the columns of [`titles`]; printable.
    pub(super) fn cells(&self, palette: Palette, now_ms: i64) -> Vec<Cell> {
        let now = now_ms / 1000;
        let plain = |text: &str| (clean(text), Style::new());
        let dim = |text: String| (text, palette.dim());
        match self {
            Item::Sandbox(sandbox) => {
                let state = sandbox.state();
                let up = if sandbox.started > 0 { span(now.saturating_sub(sandbox.started)) } else { "-".to_owned() };
                let refused = if sandbox.refused > 0 { palette.level(Level::Refused) } else { Style::new() };
                vec![
                    plain(&sandbox.name),
                    (format!("{} {}", mark_of(state), word(state)), palette.state(state)),
                    plain(&sandbox.runtime),
                    plain(&up),
                    plain(&sandbox.requests.to_string()),
                    (sandbox.refused.to_string(), refused),
                    plain(&sandbox.upstreams.join(" ")),
                ]
            }
            Item::Gateway(project) => {
                let mut cells = vec![plain(&project.name), ("● gateway".to_owned(), palette.state(State::Running))];
                cells.extend(["-"; 4].map(plain));
                cells.push(plain(&project.upstreams.join(" ")));
                cells
            }
            Item::Happening(happening) => {
                let style = palette.level(happening.level);
                let text = if happening.level == Level::Good { Style::new() } else { style };
                vec![
                    dim(clock(happening.event.time_ms)),
                    (mark(happening.level).to_string(), style),
                    (happening.text.clone(), text),
                ]
            }
            Item::Token(issued) => {
                let token = &issued.token;
                let state = issued::state(issued, now);
                let style = match state {
                    "good" => palette.level(Level::Good),
                    "revoked" => palette.level(Level::Refused),
                    _ => palette.dim(),
                };
                let expires = match token.expires {
                    None => "never".to_owned(),
                    Some(end) if end < now => format!("{} ago", span(now.saturating_sub(end))),
                    Some(end) => format!("in {}", span(end.saturating_sub(now))),
                };
                let caveats: Vec<&str> = token.caveats.iter().map(String::as_str).collect();
                vec![
                    plain(&token.id.to_string().chars().take(12).collect::<String>()),
                    (state.to_owned(), style),
                    plain(&expires),
                    plain(token.sandbox.as_deref().unwrap_or("any")),
                    plain(&format!("{} ago", span(now.saturating_sub(token.issued)))),
                    plain(&caveats.join("; ")),
                ]
            }
            Item::Node(node) => {
                let (word, level) = match node.state() {
                    NodeState::InStep => ("in step", Level::Good),
                    NodeState::Behind => ("behind", Level::Warning),
                    NodeState::Rejecting => ("rejecting", Level::Error),
                    NodeState::Unspecified => ("unknown", Level::Info),
                };
                let lag = match (node.generations_behind, node.behind_ms) {
                    (0, 0) => "-".to_owned(),
                    (count, ms) => format!("{count} for {}", span(ms / 1000)),
                };
                let up = span(now_ms.saturating_sub(node.connected_since_ms) / 1000);
                let mut cells = vec![
                    plain(&node.id),
                    (word.to_owned(), palette.level(level)),
                    plain(&node.gateway),
                    plain(&lag),
                    plain(&up),
                ];
                cells.push(match rejections(node).first() {
                    Some(first) => (clean(first), palette.level(Level::Error)),
                    None => plain(&node.user_agent),
                });
                cells
            }
            Item::Line(line) => {
                let style = palette.level(line.level);
                let first = line.text.lines().next().unwrap_or_default();
                let text = if line.level == Level::Good { Style::new() } else { style };
                vec![(mark(line.level).to_string(), style), dim(line.what.to_owned()), (clean(first), text)]
            }
        }
    }

    /// Everything about it: what, and the text, which may have lines and is as it came.
    pub(super) fn details(&self, now: i64) -> Vec<(&'static str, String)> {
        let mut all = match self {
            Item::Sandbox(sandbox) => of_sandbox(sandbox, now),
            Item::Gateway(project) => vec![
                ("gateway", project.name.clone()),
                ("listens", project.listen.clone()),
                ("file", project.config_path.clone()),
                ("reaches", project.upstreams.join("\n")),
            ],
            Item::Happening(happening) => of_event(&happening.event),
            Item::Token(Issued { token, revoked }) => vec![
                ("token", token.id.to_string()),
                ("issued", format!("{} by {}, key {}", UnixTime(token.issued), token.issuer, token.key)),
                ("expires", token.expires.map_or("never".to_owned(), |end| UnixTime(end).to_string())),
                ("revoked", revoked.as_ref().map_or(String::new(), |(at, by)| format!("{} by {by}", UnixTime(*at)))),
                ("allows", token.caveats.join("\n")),
            ],
            Item::Node(node) => of_node(node),
            Item::Line(line) => vec![(line.what, line.text.clone())],
        };
        all.retain(|(_, text)| !text.is_empty());
        all
    }
}

/// "1 upstream", "2 upstreams".
pub(super) fn counted(count: usize, what: &str) -> String {
    let many = if count == 1 { "" } else { "s" };
    format!("{count} {what}{many}")
}

fn of_sandbox(sandbox: &Sandbox, now: i64) -> Vec<(&'static str, String)> {
    let up = if sandbox.started > 0 { span(now.saturating_sub(sandbox.started)) } else { String::new() };
    let started = if sandbox.started > 0 { UnixTime(sandbox.started).to_string() } else { String::new() };
    vec![
        ("sandbox", sandbox.name.clone()),
        ("state", word(sandbox.state()).to_owned()),
        ("", sandbox.detail.clone()),
        ("since", if started.is_empty() { started } else { format!("{started} ({up})") }),
        ("runtime", sandbox.runtime.clone()),
        ("image", sandbox.image.clone()),
        ("container", sandbox.container.clone()),
        ("workspace", sandbox.workspace.clone()),
        ("file", sandbox.config_path.clone()),
        ("requests", format!("{}, {} of them refused", sandbox.requests, sandbox.refused)),
        ("problems", sandbox.problems.join("\n")),
        ("restart for", sandbox.restart_needed.join(", ")),
        ("reaches", sandbox.upstreams.join("\n")),
    ]
}

fn of_event(event: &Event) -> Vec<(&'static str, String)> {
    let time = UnixTime(event.time_ms.div_euclid(1000)).to_string();
    let time = match time.strip_suffix('Z') {
        Some(time) => format!("{time}.{:03}Z", event.time_ms.rem_euclid(1000)),
        None => time,
    };
    let mut all = vec![("time", time), ("sandbox", event.sandbox.clone())];
    match &event.kind {
        Some(Kind::Request(request)) => all.extend(of_request(request)),
        Some(Kind::Dns(query)) => {
            all.push(("lookup", format!("{} {}", query.r#type, query.name)));
            let (verdict, help) = if query.allowed {
                ("answered", String::new())
            } else {
                ("no such name: it is not in agent-creds.toml", "press a: it shows the edit, and asks".to_owned())
            };
            all.extend([("verdict", verdict.to_owned()), ("to allow it", help)]);
        }
        _ => {
            let lines: Vec<String> = entry::of(event, false).into_iter().map(|entry| entry.text).collect();
            all.push(("what", lines.join("\n")));
        }
    }
    all
}

fn of_request(request: &Request) -> Vec<(&'static str, String)> {
    let verdict = match (request.allowed, request.credential) {
        (false, _) => "refused",
        (true, true) => "allowed, with the credential",
        (true, false) => "went on as it was, without one of our tokens",
    };
    let help = match (request.editable, request.offer.trim_end()) {
        (true, offer) => format!("{}\n{offer}\npress a: it shows the edit, and asks", request.help),
        (false, "") => request.help.clone(),
        (false, offer) => format!("{}\n{offer}", request.help),
    };
    vec![
        ("request", format!("{} https://{}{}", request.method, request.host, request.path)),
        ("verdict", verdict.to_owned()),
        ("reason", request.reason.clone()),
        ("token", request.token.clone()),
        ("decided in", if request.latency_us > 0 { format!("{} µs", request.latency_us) } else { String::new() }),
        ("to allow it", help),
    ]
}

fn of_node(node: &Node) -> Vec<(&'static str, String)> {
    let types = node.streams.iter().flat_map(|stream| &stream.types).map(|of| {
        let state = if of.in_step { "in step" } else { "behind" };
        format!("{}: sent {}, accepted {}, rejected {}, {state}", of.r#type, of.sent, of.acked, of.nacked)
    });
    vec![
        ("node", node.id.clone()),
        ("gateway", node.gateway.clone()),
        ("generation", format!("{}, {} behind", node.generation, node.generations_behind)),
        ("envoy", node.user_agent.clone()),
        ("zone", node.zone.clone()),
        ("rejected", rejections(node).join("\n")),
        ("resources", types.collect::<Vec<_>>().join("\n")),
    ]
}

/// What it rejects: file:line, and Envoy's words.
fn rejections(node: &Node) -> Vec<String> {
    let types = node.streams.iter().flat_map(|stream| &stream.types);
    let rejected = types.filter_map(|of| {
        let rejection = of.rejection.as_ref()?;
        let lines = if rejection.lines.is_empty() { of.r#type.clone() } else { rejection.lines.join(", ") };
        Some(format!("{lines}: {}", rejection.message))
    });
    rejected.collect()
}

/// The time of day, UTC.
fn clock(time_ms: i64) -> String {
    let seconds = time_ms.div_euclid(1000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds % 3600 / 60, seconds % 60)
}
