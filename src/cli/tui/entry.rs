//! Events as lines. All that comes from outside is made printable here.

use super::{Level, clean};
use crate::control::v1::event::Kind;
use crate::control::v1::{ConfigChange, DnsQuery, Event, Request, StopResponse};

/// One line of what happened.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) struct Entry {
    pub(in crate::cli) time_ms: i64,
    pub(in crate::cli) level: Level,
    pub(in crate::cli) text: String,
}

/// The lines of an event; with `name` they say whose it is.
pub(in crate::cli) fn of(event: &Event, name: bool) -> Vec<Entry> {
    let (level, texts) = match &event.kind {
        None => return Vec::new(),
        Some(Kind::Request(request)) => {
            (if request.allowed { Level::Good } else { Level::Refused }, vec![request_text(request)])
        }
        Some(Kind::Dns(query)) => (if query.allowed { Level::Good } else { Level::Refused }, vec![dns_text(query)]),
        Some(Kind::Config(change)) => (if change.ok { Level::Info } else { Level::Error }, config_texts(change)),
        Some(Kind::Notice(notice)) => {
            let level = match notice.level.as_str() {
                "error" => Level::Error,
                "warning" => Level::Warning,
                _ => Level::Info,
            };
            (level, notice.text.lines().map(str::to_owned).collect())
        }
    };
    let whose = if name && !event.sandbox.is_empty() { format!("{}: ", event.sandbox) } else { String::new() };
    let entry = |(at, text): (usize, String)| Entry {
        time_ms: event.time_ms,
        level: if at == 0 { level } else { Level::More },
        text: clean(&format!("{}{text}", if at == 0 { whose.as_str() } else { "" })),
    };
    texts.into_iter().enumerate().map(entry).collect()
}

fn request_text(request: &Request) -> String {
    let Request { host, method, path, allowed, reason, credential, .. } = request;
    match (allowed, credential) {
        (false, _) => format!("{method} {host}{path}  {reason}"),
        (true, true) => format!("{method} {host}{path}  with the credential"),
        (true, false) => format!("{method} {host}{path}"),
    }
}

fn dns_text(query: &DnsQuery) -> String {
    let DnsQuery { name, r#type, allowed } = query;
    if *allowed { format!("DNS {type} {name}") } else { format!("DNS {type} {name}  not in agent-creds.toml") }
}

fn config_texts(change: &ConfigChange) -> Vec<String> {
    let head = if change.ok {
        format!("agent-creds.toml applied (generation {})", change.generation)
    } else {
        "agent-creds.toml is broken; its last good version stays in force".to_owned()
    };
    std::iter::once(head).chain(change.lines.iter().flat_map(|line| line.lines()).map(str::to_owned)).collect()
}

/// What came of stopping a sandbox, in words.
pub(in crate::cli) fn of_stop(name: &str, result: Result<StopResponse, String>) -> (Level, String) {
    match result {
        Err(why) => (Level::Error, format!("{name} was not stopped: {why}")),
        Ok(answer) if !answer.problems.is_empty() => (Level::Error, answer.problems.join("; ")),
        Ok(answer) if answer.stopped.is_empty() => (Level::Info, format!("{name} was gone already")),
        Ok(answer) => (Level::Info, format!("stopped {}", answer.stopped.join(", "))),
    }
}
