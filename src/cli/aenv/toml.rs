//! What to write into `agent-creds.toml`, on the host, to have a request allowed.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::screen::{Line, Look};
use crate::domain::macaroon::{Caveat, Claims};
use crate::domain::names::{Host, HostPattern, Method};
use crate::domain::policy::{Limits, PathPattern, RequestPath};
use crate::domain::quoting::{toml_array, toml_string};

/// Sections to add or change, and what to do after.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The lines to add, or to set in a section that is there.
    pub toml: String,
    /// What to do then.
    pub then: Vec<String>,
}

impl Change {
    /// A host that is not there yet.
    pub fn add_upstream(&mut self, host: &Host) {
        self.section(&format!("[upstream.{}]", toml_string(host.as_str())));
        self.on_save();
    }

    /// A host whose limits keep out the method or the path.
    pub fn widen_upstream(
        &mut self,
        host: &Host,
        limits: &Limits,
        method: Option<&Method>,
        path: Option<RequestPath<'_>>,
    ) {
        let methods = method.map(|method| with(limits.methods.iter().flatten().map(Method::as_str), method.as_str()));
        let paths = path.and_then(|path| {
            let pattern = self.pattern_for(path)?;
            Some(with(limits.paths.iter().flatten().map(PathPattern::as_str), pattern.as_str()))
        });
        if methods.is_none() && paths.is_none() {
            return;
        }
        self.section(&format!("[upstream.{}]", toml_string(host.as_str())));
        for (key, values) in [("methods", methods), ("paths", paths)] {
            if let Some(values) = values {
                self.line(&format!("{key} = {}", toml_array(&values)));
            }
        }
        self.on_save();
    }

    /// A token for this request, which goes on allowing what the one of these claims allows.
    pub fn add_token(
        &mut self,
        variable: &str,
        claims: Option<&Claims>,
        host: &Host,
        method: &Method,
        path: RequestPath<'_>,
    ) {
        let known = |pick: fn(&Caveat) -> Option<Vec<String>>| {
            let mut lists = claims.into_iter().flat_map(Claims::caveats).filter_map(pick);
            match (lists.next(), lists.next()) {
                (Some(one), None) => Some(one),
                // Several narrow each other; only what is asked for is certain to be meant.
                (Some(_), Some(_)) => Some(Vec::new()),
                _ => None,
            }
        };
        let hosts = known(|caveat| match caveat {
            Caveat::Hosts(hosts) => Some(valid::<HostPattern>(hosts.iter())),
            _ => None,
        });
        let covers = |hosts: &[String]| hosts.iter().flat_map(|h| h.parse::<HostPattern>()).any(|h| h.matches(host));
        let hosts = hosts.unwrap_or_default();
        let hosts = if covers(&hosts) { hosts } else { with(hosts.iter().map(String::as_str), host.as_str()) };
        let methods = known(|caveat| match caveat {
            Caveat::Methods(methods) => Some(valid::<Method>(methods.iter())),
            _ => None,
        });
        let paths = known(|caveat| match caveat {
            Caveat::Paths(paths) => Some(valid::<PathPattern>(paths.iter())),
            _ => None,
        });
        let mut token = format!("hosts = {}", toml_array(&hosts));
        // Writing to a text cannot fail.
        if let Some(methods) = methods {
            let _ =
                write!(token, ", methods = {}", toml_array(&with(methods.iter().map(String::as_str), method.as_str())));
        }
        if let Some(paths) = paths {
            let covered = paths.iter().flat_map(|p| p.parse::<PathPattern>()).any(|pattern| pattern.matches(path));
            let pattern = if covered { None } else { self.pattern_for(path) };
            let all = match pattern {
                Some(pattern) => with(paths.iter().map(String::as_str), pattern.as_str()),
                None => paths,
            };
            let _ = write!(token, ", paths = {}", toml_array(&all));
        }
        self.section("[sandbox.env]");
        self.line(&format!("{} = {{ token = {{ {token} }} }}", key(variable)));
        self.then.push("tokens are minted when the sandbox starts: `adev stop`, then `adev console`".to_owned());
    }

    /// Only the time of the token is wrong.
    pub fn mint_anew(&mut self, variable: &str) {
        self.then.push(format!(
            "{variable} is minted anew when the sandbox starts, if [sandbox.env] has it: `adev stop`, then `adev console`"
        ));
    }

    /// The pattern that stands for this path; without one that is said.
    fn pattern_for(&mut self, path: RequestPath<'_>) -> Option<PathPattern> {
        let pattern = path.as_str().parse::<PathPattern>().ok().filter(|pattern| pattern.matches(path));
        if pattern.is_none() {
            self.then.push(if path.is_matchable() {
                format!("write a pattern for the path {}: `**` stands for names with an escaped slash", path.as_str())
            } else {
                format!("no pattern stands for the path {}: ask for another", path.as_str())
            });
        }
        pattern
    }

    /// `None` when there is nothing to do.
    pub fn if_any(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
    }

    fn section(&mut self, header: &str) {
        if !self.toml.is_empty() {
            self.toml.push('\n');
        }
        self.line(header);
    }

    fn line(&mut self, text: &str) {
        self.toml.push_str(text);
        self.toml.push('\n');
    }

    fn on_save(&mut self) {
        self.then.push("an edit of an upstream is in force as soon as the file is saved".to_owned());
    }

    /// For people.
    pub fn lines(&self) -> Vec<Line> {
        let mut lines = vec![Line::new()];
        if !self.toml.is_empty() {
            lines.push(Line::of(
                Look::Bold,
                "To allow it, have this in agent-creds.toml, on the host (here it is read-only):",
            ));
            lines.push(Line::new());
            lines.extend(self.toml.lines().map(|line| Line::whole(&format!("  {line}"))));
            lines.push(Line::new());
        }
        lines.extend(self.then.iter().map(|then| Line::of(Look::Dim, then)));
        lines
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({ "file": "agent-creds.toml", "toml": self.toml, "then": self.then })
    }
}

/// `API_STRIPE_COM_TOKEN`.
pub fn variable_for(host: &Host) -> String {
    let name = host.as_str().chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    let name: String = name.chain("_TOKEN".chars()).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

/// The texts that mean something; a token may hold any.
fn valid<'a, T: std::str::FromStr>(texts: impl Iterator<Item = &'a str>) -> Vec<String> {
    texts.filter(|text| text.parse::<T>().is_ok()).map(str::to_owned).collect()
}

fn with<'a>(known: impl Iterator<Item = &'a str>, new: &str) -> Vec<String> {
    let mut all: Vec<String> = known.map(str::to_owned).collect();
    if !all.iter().any(|known| known == new) {
        all.push(new.to_owned());
    }
    all
}

/// A bare key where that is possible.
fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { name.to_owned() } else { toml_string(name) }
}
