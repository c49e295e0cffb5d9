//! What is reachable, and what each token may do: the whole of it, as JSON, or in a few lines as a greeting.

use serde_json::{Value, json};

use super::policy::SandboxPolicy;
use super::screen::{Line, Look, Screen, list};
use super::tokens::{Content, EnvToken};
use crate::cli::caveats::caveat_as_json;
use crate::domain::macaroon::Caveat;
use crate::domain::macaroon::caveat::UnixTime;
use crate::domain::names::Method;
use crate::domain::policy::Limits;

/// The most hosts, and the most tokens, that are listed for people; JSON has all.
const MAX_LISTED: usize = 500;
/// The widest that the first column gets.
const MAX_COLUMN: usize = 40;

/// Everything, for people.
pub fn overview(here: &SandboxPolicy, tokens: &[EnvToken], now: i64) -> Vec<Line> {
    let mut lines = vec![Line::of(Look::Bold, format!("Sandbox {}", here.policy.id)), Line::new()];
    lines.extend(problems(here, MAX_LISTED));
    lines.push(Line::of(Look::Bold, "Reachable, over HTTPS only"));
    lines.extend(hosts(here, MAX_LISTED, "aenv --json"));
    lines.push(Line::new());
    lines.push(Line::of(Look::Bold, "Tokens in the environment"));
    if tokens.is_empty() {
        lines.push(Line::of(Look::Plain, "  none; [sandbox.env] of agent-creds.toml gives some"));
    }
    for token in tokens.iter().take(MAX_LISTED) {
        lines.push(Line::of(Look::Plain, format!("  {}", token.variable)));
        match &token.content {
            Err(error) => lines.push(Line::of(Look::Bad, format!("    broken: {error}"))),
            Ok(content) => lines.extend(details(here, content, now)),
        }
    }
    lines.extend(left_out(tokens.len(), MAX_LISTED, "aenv --json"));
    lines.push(Line::new());
    lines.push(Line::of(Look::Dim, without_a_token(here)));
    lines.push(Line::of(Look::Dim, "aenv why URL tells whether and why a request is refused, and what to change."));
    lines
}

/// A few lines, no more than fit on half of the screen.
pub fn greeting(here: &SandboxPolicy, tokens: &[EnvToken], now: i64, screen: Screen) -> Vec<Line> {
    let room = (screen.height.unwrap_or(24) / 4).clamp(2, 12);
    let mut lines = vec![Line::of(Look::Bold, format!("Sandbox {}: these hosts can be reached", here.policy.id))];
    lines.extend(hosts(here, room, "aenv"));
    if !tokens.is_empty() {
        lines.push(Line::of(Look::Bold, "Tokens"));
    }
    let width = column(tokens.iter().map(|token| token.variable.as_str()));
    for token in tokens.iter().take(room) {
        let line = Line::of(Look::Plain, "  ").column(Look::Plain, &token.variable, width).and(Look::Plain, "  ");
        lines.push(match &token.content {
            Err(error) => line.and(Look::Bad, format!("broken: {error}")),
            Ok(content) => {
                let for_hosts = texts(content, |caveat| match caveat {
                    Caveat::Hosts(hosts) => Some(list(hosts.iter())),
                    _ => None,
                });
                let line = line.and(Look::Plain, for_hosts.unwrap_or_else(|| "any host".to_owned()));
                match trouble(here, content, now) {
                    Some(trouble) => line.and(Look::Plain, ", ").and(Look::Bad, trouble),
                    None => line.and(Look::Dim, format!(", {}", content.window().describe(now))),
                }
            }
        });
    }
    lines.extend(left_out(tokens.len(), room, "aenv"));
    lines.extend(problems(here, 1));
    lines.push(Line::of(Look::Dim, "aenv shows limits and tokens; aenv why URL tells why a request is refused."));
    lines
}

/// Everything, for programs.
pub fn overview_json(here: &SandboxPolicy, tokens: &[EnvToken], now: i64) -> Value {
    let upstreams: Vec<Value> = here
        .policy
        .upstreams
        .iter()
        .map(|(host, upstream)| {
            let Limits { methods, paths } = &upstream.limits;
            json!({ "host": host.to_string(), "methods": methods, "paths": paths })
        })
        .collect();
    json!({
        "sandbox": here.policy.id,
        "instance": here.policy.instance,
        "strict": here.strict,
        "generation": here.generation,
        "problems": here.problems,
        "upstreams": upstreams,
        "tokens": tokens.iter().map(|token| token_json(here, token, now)).collect::<Vec<_>>(),
    })
}

fn token_json(here: &SandboxPolicy, token: &EnvToken, now: i64) -> Value {
    let content = match &token.content {
        Ok(content) => content,
        Err(error) => return json!({ "variable": token.variable, "problem": error.to_string() }),
    };
    let window = content.window();
    let date = |unix: Option<i64>| unix.map(|unix| UnixTime(unix).to_string());
    json!({
        "variable": token.variable,
        "id": content.token.id().to_string(),
        "time": window.state(now),
        "not_before": date(window.not_before),
        "expires": date(window.not_after),
        "for_this_sandbox": content.is_for(here),
        "caveats": content.claims.caveats().iter().map(caveat_as_json).collect::<Vec<_>>(),
        "problem": trouble(here, content, now),
    })
}

fn hosts(here: &SandboxPolicy, most: usize, more: &str) -> Vec<Line> {
    let upstreams = &here.policy.upstreams;
    if upstreams.is_empty() {
        return vec![Line::of(Look::Warn, "  nothing: add [upstream.\"HOST\"] to agent-creds.toml, on the host")];
    }
    let names: Vec<String> = upstreams.keys().take(most).map(ToString::to_string).collect();
    let width = column(names.iter().map(String::as_str));
    let mut lines: Vec<Line> = names
        .iter()
        .zip(upstreams.values())
        .map(|(name, upstream)| {
            let line = Line::of(Look::Plain, "  ").column(Look::Plain, name, width).and(Look::Plain, "  ");
            line.and(Look::Dim, limits(&upstream.limits))
        })
        .collect();
    lines.extend(left_out(upstreams.len(), most, more));
    lines
}

fn limits(limits: &Limits) -> String {
    let methods = limits.methods.as_ref().map(|methods| list(methods.iter().map(Method::as_str)));
    let paths = limits.paths.as_ref().map(|paths| list(paths.iter().map(|path| path.as_str())));
    match (methods, paths) {
        (None, None) => "every request".to_owned(),
        (Some(methods), None) => methods,
        (None, Some(paths)) => format!("every method on {paths}"),
        (Some(methods), Some(paths)) => format!("{methods} on {paths}"),
    }
}

fn left_out(all: usize, shown: usize, more: &str) -> Option<Line> {
    let left = all.saturating_sub(shown);
    (left > 0).then(|| Line::of(Look::Dim, format!("  and {left} more: {more}")))
}

fn problems(here: &SandboxPolicy, most: usize) -> Vec<Line> {
    if here.problems.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![Line::of(
        Look::Warn,
        "agent-creds.toml has errors; its last good version is in force until they are mended",
    )];
    let all = here.problems.iter().flat_map(|problem| problem.lines());
    lines.extend(all.take(most.saturating_mul(4)).map(|line| Line::of(Look::Plain, format!("  {line}"))));
    lines.push(Line::new());
    lines
}

fn without_a_token(here: &SandboxPolicy) -> &'static str {
    if here.strict {
        "Requests without a token are refused."
    } else {
        "Requests without a token go out as they are, within the limits above."
    }
}

/// What is in a token, a line for each.
fn details(here: &SandboxPolicy, content: &Content, now: i64) -> Vec<Line> {
    let line = |name: &str, look: Look, value: String| {
        Line::of(Look::Plain, "    ").column(Look::Dim, name, 9).and(look, value)
    };
    let of_hosts = texts(content, |caveat| match caveat {
        Caveat::Hosts(hosts) => Some(list(hosts.iter())),
        _ => None,
    });
    let of_methods = texts(content, |caveat| match caveat {
        Caveat::Methods(methods) => Some(list(methods.iter())),
        _ => None,
    });
    let of_paths = texts(content, |caveat| match caveat {
        Caveat::Paths(paths) => Some(list(paths.iter())),
        _ => None,
    });
    let mut lines = vec![line("hosts", Look::Plain, of_hosts.unwrap_or_else(|| "any".to_owned()))];
    lines.extend(of_methods.map(|methods| line("methods", Look::Plain, methods)));
    lines.extend(of_paths.map(|paths| line("paths", Look::Plain, paths)));
    let window = content.window();
    let look = if window.state(now) == "valid" { Look::Plain } else { Look::Bad };
    lines.push(line("time", look, window.describe(now)));
    lines.push(match content.is_for(here) {
        None => line("sandbox", Look::Plain, "any".to_owned()),
        Some(true) => line("sandbox", Look::Good, "this one".to_owned()),
        Some(false) => line("sandbox", Look::Bad, for_another(content)),
    });
    lines
}

/// What makes a token useless here and now.
fn trouble(here: &SandboxPolicy, content: &Content, now: i64) -> Option<String> {
    if content.is_for(here) == Some(false) {
        return Some(for_another(content));
    }
    let window = content.window();
    (window.state(now) != "valid").then(|| window.describe(now))
}

fn for_another(content: &Content) -> String {
    let named = texts(content, |caveat| match caveat {
        Caveat::Sandbox(sandbox) => Some(sandbox.as_str().chars().take(80).collect()),
        _ => None,
    });
    format!("for another sandbox ({}): it will be refused here", named.unwrap_or_default())
}

/// The texts of all caveats of a kind; each of them must hold.
fn texts(content: &Content, pick: impl Fn(&Caveat) -> Option<String>) -> Option<String> {
    let all: Vec<String> = content.claims.caveats().iter().filter_map(pick).collect();
    (!all.is_empty()).then(|| all.join(" and of these "))
}

fn column<'a>(texts: impl Iterator<Item = &'a str>) -> usize {
    texts.map(|text| text.chars().count()).max().unwrap_or(0).min(MAX_COLUMN)
}
