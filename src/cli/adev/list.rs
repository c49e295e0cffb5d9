//! `adev list`: all sandboxes, as a table or as JSON.

use std::fmt::Write as _;

use serde_json::json;

use crate::control::v1::{Sandbox, State};
use crate::launch::printable;

/// A state in one word.
pub(in crate::cli) fn word(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Partial => "partial",
        State::Stopped => "stopped",
        State::Starting => "starting",
        State::Unspecified => "unknown",
    }
}

/// A table; below each row what is to be known of it. `now` is the time in Unix seconds.
pub(super) fn as_text(sandboxes: &[Sandbox], now: i64, colours: bool) -> String {
    if sandboxes.is_empty() {
        return "no sandboxes\n".to_owned();
    }
    let head = ["NAME", "STATE", "RUNTIME", "UP", "REQUESTS", "REFUSED", "WORKSPACE"].map(str::to_owned);
    let rows: Vec<[String; 7]> =
        std::iter::once(head).chain(sandboxes.iter().map(|sandbox| row(sandbox, now))).collect();
    let widths: Vec<usize> =
        (0..7).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()).collect();
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let sandbox = i.checked_sub(1).map(|i| &sandboxes[i]);
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let padded = format!("{cell:<width$}  ");
            match sandbox {
                Some(sandbox) if colours && column == 1 => {
                    let _ = write!(line, "\u{1b}[{}m{padded}\u{1b}[0m", colour(sandbox.state()));
                }
                _ => line.push_str(&padded),
            }
        }
        let _ = writeln!(text, "{}", line.trim_end());
        for note in sandbox.into_iter().flat_map(notes) {
            let _ = writeln!(text, "  {note}");
        }
    }
    text
}

fn row(sandbox: &Sandbox, now: i64) -> [String; 7] {
    let up = if sandbox.started > 0 { span(now - sandbox.started) } else { "-".to_owned() };
    [
        printable(&sandbox.name),
        word(sandbox.state()).to_owned(),
        printable(&sandbox.runtime),
        up,
        sandbox.requests.to_string(),
        sandbox.refused.to_string(),
        printable(&sandbox.workspace),
    ]
}

fn notes(sandbox: &Sandbox) -> Vec<String> {
    let detail = Some(&sandbox.detail).filter(|detail| !detail.is_empty()).map(|detail| printable(detail));
    let problems = sandbox.problems.iter().flat_map(|problem| problem.lines()).map(printable);
    let restart = Some(&sandbox.restart_needed).filter(|what| !what.is_empty()).map(|what| {
        let what: Vec<_> = what.iter().map(|what| printable(what)).collect();
        format!("needs a new container to take effect (`adev stop {}`): {}", printable(&sandbox.name), what.join(", "))
    });
    detail.into_iter().chain(problems).chain(restart).collect()
}

fn colour(state: State) -> u8 {
    match state {
        State::Running => 32,
        State::Partial => 31,
        State::Starting => 33,
        State::Stopped | State::Unspecified => 2,
    }
}

/// A time in its two largest units.
pub(in crate::cli) fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// An array with an object for each.
pub(super) fn as_json(sandboxes: &[Sandbox]) -> String {
    let all: Vec<_> = sandboxes
        .iter()
        .map(|sandbox| {
            json!({
                "name": sandbox.name,
                "state": word(sandbox.state()),
                "detail": sandbox.detail,
                "config": sandbox.config_path,
                "workspace": sandbox.workspace,
                "runtime": sandbox.runtime,
                "image": sandbox.image,
                "container": sandbox.container,
                "started": (sandbox.started > 0).then_some(sandbox.started),
                "upstreams": sandbox.upstreams,
                "requests": sandbox.requests,
                "refused": sandbox.refused,
                "problems": sandbox.problems,
                "restart_needed": sandbox.restart_needed,
            })
        })
        .collect();
    format!("{:#}\n", json!(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_safe() {
        assert_eq!(as_text(&[], 0, true), "no sandboxes\n");
        let running = Sandbox {
            name: "shop".into(),
            state: State::Running.into(),
            runtime: "runsc".into(),
            started: 1000,
            requests: 12,
            workspace: "/p/\u{1b}[31mshop".into(),
            restart_needed: vec!["image".into()],
            ..Sandbox::default()
        };
        let other = Sandbox {
            name: "a-longer-name".into(),
            problems: vec!["x:1:1: wrong\n    help: y".into()],
            ..Sandbox::default()
        };
        let expected = "\
NAME           STATE    RUNTIME  UP   REQUESTS  REFUSED  WORKSPACE
shop           running  runsc    1h0m  12        0        /p/\\u{1b}[31mshop
";
        let text = as_text(&[running.clone(), other.clone()], 4600, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], expected.lines().next().unwrap().replace("UP   ", "UP    "));
        assert_eq!(lines[1], expected.lines().nth(1).unwrap());
        assert_eq!(lines[2], "  needs a new container to take effect (`adev stop shop`): image");
        assert_eq!(lines[3], "a-longer-name  unknown           -     0         0");
        assert_eq!(lines[4..], ["  x:1:1: wrong", "      help: y"]);
        let coloured = as_text(&[running, other], 4600, true);
        assert!(coloured.contains("\u{1b}[32mrunning  \u{1b}[0m") && !coloured.contains("\u{1b}[31m"));
    }

    #[test]
    fn spans_are_short() {
        assert_eq!([-5, 59, 61, 7260, 180_000].map(span), ["0s", "59s", "1m", "2h1m", "2d2h"]);
    }
}
