//! What happens, in words: `adev logs`, and the lines that a console shows.

use std::io;
use std::path::PathBuf;

use clap::{Args, ValueHint};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::progress::Display;
use super::project::{Project, name_of};
use super::{colours, list, server};
use crate::control::v1::event::Kind;
use crate::control::v1::{ConfigChange, DnsQuery, Event, Notice, Request, WatchRequest};
use crate::launch::{LaunchError, Place, printable};

#[derive(Debug, Args)]
pub(super) struct Logs {
    /// The sandbox. Default: this project's; outside of a project, all.
    name: Option<String>,
    /// Go on as events come.
    #[arg(short, long)]
    follow: bool,
    /// How many of the last events to begin with.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    lines: u32,
    /// Print a JSON object for each.
    #[arg(long)]
    json: bool,
    /// The project: an agent-creds.toml, or its folder. Default: the nearest, here or in a folder above.
    #[arg(long, value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    config: Option<PathBuf>,
}

impl Logs {
    pub(super) async fn run(&self, place: &Place) -> anyhow::Result<()> {
        let display = Display::new();
        let asking = async {
            let mut client = server(place, &display).await?;
            let sandboxes = list(&mut client).await?;
            let outside = self.name.is_none() && self.config.is_none() && Project::find(None)?.is_none();
            let name = match outside {
                true => String::new(),
                false => name_of(self.name.as_deref(), self.config.as_deref(), &sandboxes)?,
            };
            let known = name.is_empty() || sandboxes.iter().any(|sandbox| sandbox.name == name);
            anyhow::ensure!(
                known || self.follow,
                "there is no sandbox {name}: `adev list` shows those there are, `adev logs -f` waits for this one"
            );
            let request = WatchRequest { name, replay: self.lines, no_follow: !self.follow, gateways: false };
            let events = client.watch(request).await;
            anyhow::Ok(events.map_err(|status| LaunchError::of_call("get the events", &status))?.into_inner())
        };
        let events = asking.await;
        display.finish().await;
        let mut events = events?;
        let colours = colours(&io::stdout());
        while let Some(event) =
            events.message().await.map_err(|status| LaunchError::of_call("follow the events", &status))?
        {
            let lines = if self.json { as_json(&event) } else { as_text(&event, colours) };
            if !lines.is_empty() && !printed(&lines)? {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Prints; false when nobody reads any more.
fn printed(text: &str) -> anyhow::Result<bool> {
    use std::io::Write as _;
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(anyhow::Error::new(error).context("cannot print")),
    }
}

fn time_of(event: &Event) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(event.time_ms) * 1_000_000);
    time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| event.time_ms.to_string())
}

/// Lines for people: time, sandbox, kind, what.
pub(super) fn as_text(event: &Event, colours: bool) -> String {
    let (kind, colour, lines) = match &event.kind {
        None => return String::new(),
        Some(Kind::Request(request)) if request.allowed => ("allowed", "32", vec![request_line(request)]),
        Some(Kind::Request(request)) => ("refused", "31", vec![request_line(request)]),
        Some(Kind::Dns(query)) => ("dns", if query.allowed { "2" } else { "31" }, vec![dns_line(query)]),
        Some(Kind::Config(change)) => ("config", if change.ok { "36" } else { "31" }, config_lines(change)),
        Some(Kind::Notice(notice)) => {
            let colour = match notice.level.as_str() {
                "error" => "31",
                "warning" => "33",
                _ => "2",
            };
            ("notice", colour, notice.text.lines().map(printable).collect())
        }
    };
    let (begin, end) = if colours { (format!("\u{1b}[{colour}m"), "\u{1b}[0m") } else { (String::new(), "") };
    let sandbox = if event.sandbox.is_empty() { "(server)".to_owned() } else { printable(&event.sandbox) };
    let time = time_of(event);
    lines.iter().map(|line| format!("{time}  {sandbox}  {begin}{kind:<7}{end}  {line}\n")).collect()
}

fn request_line(request: &Request) -> String {
    let Request { host, method, path, allowed, reason, credential, .. } = request;
    let what = format!("{} {}{}", printable(method), printable(host), printable(path));
    match (allowed, credential) {
        (false, _) => format!("{what}: {}", printable(reason)),
        (true, true) => format!("{what} (with the credential)"),
        (true, false) => what,
    }
}

fn dns_line(query: &DnsQuery) -> String {
    let answer = if query.allowed { "the gateway" } else { "no such name: it is not in agent-creds.toml" };
    format!("{} {}: {answer}", printable(&query.name), printable(&query.r#type))
}

fn config_lines(change: &ConfigChange) -> Vec<String> {
    let lines = change.lines.iter().flat_map(|line| line.lines()).map(printable);
    let head = if change.ok { "applied" } else { "broken; the last good version stays in force" };
    std::iter::once(head.to_owned()).chain(lines).collect()
}

/// One JSON object, on a line.
pub(super) fn as_json(event: &Event) -> String {
    let mut object = json!({ "time": time_of(event), "sandbox": event.sandbox });
    let more = match &event.kind {
        None => return String::new(),
        Some(Kind::Request(Request { host, method, path, allowed, reason, credential, .. })) => json!({
            "kind": "request", "host": host, "method": method, "path": path, "allowed": allowed,
            "reason": reason, "credential": credential,
        }),
        Some(Kind::Dns(DnsQuery { name, r#type, allowed })) => {
            json!({ "kind": "dns", "name": name, "type": r#type, "allowed": allowed })
        }
        Some(Kind::Config(ConfigChange { generation, ok, lines })) => {
            json!({ "kind": "config", "generation": generation, "ok": ok, "lines": lines })
        }
        Some(Kind::Notice(Notice { level, text })) => json!({ "kind": "notice", "level": level, "text": text }),
    };
    if let (Some(object), serde_json::Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    format!("{object}\n")
}

/// The one line that a console shows of an event, if it concerns who sits there.
pub(super) fn as_notice(event: &Event) -> Option<String> {
    match event.kind.as_ref()? {
        Kind::Config(change) => {
            let mut lines = change.lines.iter().flat_map(|line| line.lines()).map(|line| printable(line.trim()));
            let first = lines.next();
            let more = lines.count();
            let more = if more > 0 { format!(" (and {more} more: `adev logs`)") } else { String::new() };
            let head = if change.ok { "applied" } else { "is broken, and its last good version stays in force" };
            Some(match first {
                Some(first) => format!("agent-creds.toml {head}: {first}{more}"),
                None => format!("agent-creds.toml {head}"),
            })
        }
        Kind::Notice(notice) if notice.level == "warning" || notice.level == "error" => {
            Some(printable(notice.text.trim_end()))
        }
        Kind::Notice(_) | Kind::Request(_) | Kind::Dns(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind) -> Event {
        Event { time_ms: 1_700_000_000_123, sandbox: "shop".into(), kind: Some(kind) }
    }

    fn refused() -> Event {
        event(Kind::Request(Request {
            host: "api.stripe.com".into(),
            method: "POST".into(),
            path: "/v1/\u{1b}]0;x\n2023 forged".into(),
            reason: "method not allowed".into(),
            ..Request::default()
        }))
    }

    #[test]
    fn an_event_is_a_line_that_cannot_be_forged() {
        assert_eq!(
            as_text(&refused(), false),
            "2023-11-14T22:13:20.123Z  shop  refused  POST api.stripe.com/v1/\\u{1b}]0;x\\u{a}2023 forged: method not allowed\n"
        );
        assert!(as_text(&refused(), true).contains("  \u{1b}[31mrefused\u{1b}[0m  "));
        let query = event(Kind::Dns(DnsQuery { name: "evil.example".into(), r#type: "A".into(), allowed: false }));
        assert!(
            as_text(&query, false)
                .ends_with("  dns      evil.example A: no such name: it is not in agent-creds.toml\n")
        );
        let broken =
            ConfigChange { ok: false, lines: vec!["x:1:2: wrong\n    help: y".into()], ..ConfigChange::default() };
        let text = as_text(&event(Kind::Config(broken)), false);
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().all(|line| line.starts_with("2023-11-14T22:13:20.123Z  shop  config   ")), "{text}");
        assert_eq!(as_text(&Event::default(), true), "");
    }

    #[test]
    fn json_has_a_line_for_each() {
        let line = as_json(&refused());
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&value["kind"], &value["allowed"], &value["sandbox"]),
            (&json!("request"), &json!(false), &json!("shop"))
        );
    }

    #[test]
    fn a_console_shows_what_concerns_its_user() {
        assert_eq!(as_notice(&refused()), None);
        let applied = ConfigChange { ok: true, lines: vec!["+ a.example".into(), "- b.example".into()], generation: 2 };
        assert_eq!(
            as_notice(&event(Kind::Config(applied))).unwrap(),
            "agent-creds.toml applied: + a.example (and 1 more: `adev logs`)"
        );
        let notice =
            |level: &str| event(Kind::Notice(Notice { level: level.into(), text: "rules lost\u{7}\n".into() }));
        assert_eq!(as_notice(&notice("error")).unwrap(), "rules lost\\u{7}");
        assert_eq!(as_notice(&notice("info")), None);
    }
}
