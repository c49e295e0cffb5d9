//! What would allow a refused request: told to the person who may allow it, to be copied as it is.
//!
//! In an offer the lists that are there stay, with what was asked for added. What cannot be written without allowing more (a path
//! with `*` in it) is not offered.

use super::{AccessRequest, Denial, Place, Presented, Rules};
use crate::domain::macaroon::{Caveat, CaveatError, Claims, Token, TokenError};
use crate::domain::names::{Host, HostPattern, Method};
use crate::domain::policy::{PathPattern, RequestPath};
use crate::domain::quoting::{shell_word, toml_array, toml_string};

/// The longest list that is repeated in an offer, and the longest path and command that are offered.
const MOST_ENTRIES: usize = 16;
const LONGEST_PATH: usize = 200;
const LONGEST_COMMAND: usize = 1200;

/// What would allow a refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remedy {
    /// What to do, in words; the offer follows.
    pub say: String,
    /// What to copy.
    pub offer: Option<Offer>,
}

/// Something to copy and paste.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// Lines of a file on the host.
    Toml {
        /// `[upstream."api.stripe.com"]`.
        section: String,
        /// What to set in it.
        lines: Vec<String>,
    },
    /// A command line for a POSIX shell, on the host.
    Command(String),
}

impl Offer {
    /// As it is pasted.
    pub fn text(&self) -> String {
        match self {
            Self::Toml { section, lines } => {
                std::iter::once(section).chain(lines).fold(String::new(), |mut text, line| {
                    text.push_str(line);
                    text.push('\n');
                    text
                })
            }
            Self::Command(command) => format!("{command}\n"),
        }
    }
}

impl Remedy {
    /// All of it on one line.
    pub fn one_line(&self) -> String {
        match &self.offer {
            None => self.say.clone(),
            Some(Offer::Toml { lines, .. }) if lines.is_empty() => self.say.clone(),
            Some(Offer::Toml { lines, .. }) => format!("{}: {}", self.say, lines.join(" and ")),
            Some(Offer::Command(command)) => format!("{}: {command}", self.say),
        }
    }

    fn words(say: impl Into<String>) -> Self {
        Self { say: say.into(), offer: None }
    }

    /// Without a command that can be offered, `otherwise` is said.
    fn command(say: &str, command: Option<String>, otherwise: &str) -> Self {
        match command {
            Some(command) => Self { say: say.to_owned(), offer: Some(Offer::Command(command)) },
            None => Self::words(otherwise),
        }
    }
}

/// What would allow `request`, which `rules` refused because of `denial`.
pub fn remedy(rules: &Rules, request: &AccessRequest<'_>, denial: &Denial) -> Remedy {
    let remedy = on_the_host(rules, request, denial);
    // The host of who reads this is another one, with a file of the same name.
    let elsewhere = |say: String| say.replace(ON_THE_HOST, "where the shared vault is");
    if request.behind.is_some() { Remedy { say: elsewhere(remedy.say), ..remedy } } else { remedy }
}

/// How all that is said here names the machine that the files are on.
const ON_THE_HOST: &str = "on the host";

fn on_the_host(rules: &Rules, request: &AccessRequest<'_>, denial: &Denial) -> Remedy {
    let Some(place) = rules.place(request.sandbox, request.host) else { return unknown_upstream(request.host) };
    let case = Case { rules, request, place, path: RequestPath::from_target(request.target) };
    match denial {
        Denial::UnknownUpstream(_) => unknown_upstream(request.host),
        Denial::NoToken => Remedy::command(
            "send a token in the Authorization header (this server refuses requests without one); on the host, this makes one",
            case.new_token(),
            "send a token in the Authorization header (this server refuses requests without one)",
        ),
        Denial::SeveralTokens => Remedy::words("send one token only"),
        Denial::MisplacedToken(_) => {
            Remedy::words("send the token in the Authorization header, or where the API takes its key")
        }
        Denial::Token(TokenError::Signature | TokenError::UnknownKey) => Remedy::command(
            "the token was changed, or made for another server; on the host, this makes one for this server",
            case.new_token(),
            "the token was changed, or made for another server",
        ),
        Denial::Token(TokenError::Revoked) => Remedy::command(
            "it, or one it was narrowed from, was revoked; on the host, this makes a new one",
            case.new_token(),
            "it, or one it was narrowed from, was revoked",
        ),
        Denial::Token(_) => Remedy::words("check that the whole token was copied, and nothing else"),
        Denial::Caveat(error) => case.wider_token(error),
        Denial::LimitMethod { .. } | Denial::LimitPath { .. } => case.wider_limits(),
        Denial::NoCredential(host) => no_credential(host),
        Denial::Unsignable { reason, .. } => Remedy::words(reason.help(request.host)),
        // What failed, and how, is the operator's to know.
        Denial::CredentialUnavailable(_) => Remedy::words("the server's log and /readyz say why; try again"),
        Denial::VaultUnavailable(_) => Remedy::words("`actl status`, on the host, says why; try again"),
        Denial::RefusedByVault(_) => Remedy::words("the answer says what would allow it, where the vault is"),
    }
}

fn unknown_upstream(host: &str) -> Remedy {
    // It comes from the configuration, but one that is no more.
    let Ok(host) = host.parse::<Host>() else { return Remedy::words("add the host to agent-creds.toml, on the host") };
    let section = format!("[upstream.{}]", toml_string(host.as_str()));
    let say = format!("in agent-creds.toml, on the host, add {section}");
    Remedy { say, offer: Some(Offer::Toml { section, lines: Vec::new() }) }
}

fn no_credential(host: &Host) -> Remedy {
    let variable = host.as_str().chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    let variable: String = variable.take(100).collect();
    let digit = variable.starts_with(|c: char| c.is_ascii_digit());
    let variable = format!("{}{variable}_KEY", if digit { "_" } else { "" });
    let section = format!("[credentials.{}]", toml_string(host.as_str()));
    let secret = format!("{{ provider = \"env\", name = {} }}", toml_string(&variable));
    // Most APIs take a bearer token; of those that people call most, this one does not.
    let lines = if host.as_str() == "api.anthropic.com" {
        vec!["type = \"header\"".to_owned(), "name = \"x-api-key\"".to_owned(), format!("value = {secret}")]
    } else {
        vec!["type = \"bearer\"".to_owned(), format!("token = {secret}")]
    };
    let say = format!("in the server's vault.toml, add {section}, such as");
    Remedy { say, offer: Some(Offer::Toml { section, lines }) }
}

struct Case<'a> {
    rules: &'a Rules,
    request: &'a AccessRequest<'a>,
    place: Place<'a>,
    path: Option<RequestPath<'a>>,
}

impl Case<'_> {
    fn wider_limits(&self) -> Remedy {
        let Place { upstream, limits, .. } = self.place;
        let section = format!("[upstream.{}]", toml_string(upstream));
        let method = super::upper_case(self.request.method);
        let mut lines = Vec::new();
        if !limits.allow_method(&method) {
            let Ok(method) = method.parse::<Method>() else { return Remedy::words("use a method that HTTP has") };
            let listed = limits.methods.iter().flatten().map(Method::as_str);
            match with(listed, method.as_str()) {
                Some(methods) => lines.push(format!("methods = {}", toml_array(&methods))),
                None => {
                    return Remedy::words(format!("in agent-creds.toml, on the host, widen `methods` under {section}"));
                }
            }
        }
        if !self.path.map_or(limits.paths.is_none(), |path| limits.allow_path(path)) {
            let pattern = match self.pattern() {
                Ok(pattern) => pattern,
                Err(why) => return Remedy::words(why.for_limit(&section)),
            };
            match with(limits.paths.iter().flatten().map(PathPattern::as_str), pattern.as_str()) {
                Some(paths) => lines.push(format!("paths = {}", toml_array(&paths))),
                None => return Remedy::words(NoPattern::Unwritable.for_limit(&section)),
            }
        }
        let say = format!("in agent-creds.toml, on the host, set under {section}");
        Remedy { say, offer: Some(Offer::Toml { section, lines }) }
    }

    /// The pattern that stands for the path of this request and for no other.
    fn pattern(&self) -> Result<PathPattern, NoPattern> {
        let path = self.path.ok_or(NoPattern::NoPath)?;
        if !path.is_matchable() {
            return Err(NoPattern::Ambiguous);
        }
        let text = path.as_str();
        if text.len() > LONGEST_PATH || text.contains('*') || !text.is_ascii() {
            return Err(NoPattern::Unwritable);
        }
        let pattern: PathPattern = text.parse().map_err(|_| NoPattern::Unwritable)?;
        // With an escaped slash in it the path is more than a pattern of its own stands for.
        if pattern.matches(path) { Ok(pattern) } else { Err(NoPattern::Unwritable) }
    }

    /// A token for this upstream and this sandbox.
    fn new_token(&self) -> Option<String> {
        let Place { host, sandbox, vault: None, .. } = &self.place else { return None };
        mint(&[("--hosts", &[host.as_str().to_owned()]), ("--sandbox", &[sandbox.as_str().to_owned()])])
    }

    /// A token that allows this request, and what the one that came with it allows.
    fn wider_token(&self, error: &CaveatError) -> Remedy {
        let made = "on the host, this makes a token that allows it";
        let (say, otherwise) = match error {
            CaveatError::Expired { .. } => {
                ("on the host, this makes a new token", "make a new token with `mint`, on the host")
            }
            CaveatError::NotYetValid { .. } => (
                "wait, or have a token that is good now; on the host, this makes one",
                "wait, or make a token without --not-before",
            ),
            CaveatError::Host { .. } => (made, "make a token whose --hosts has this host, with `mint`, on the host"),
            CaveatError::Method { .. } => {
                (made, "make a token whose --methods has this method, with `mint`, on the host")
            }
            CaveatError::Path { .. } => match self.pattern() {
                Ok(_) | Err(NoPattern::Unwritable) => {
                    (made, "make a token whose --paths has a pattern for it, with `mint`, on the host")
                }
                Err(why) => return Remedy::words(why.for_token()),
            },
            CaveatError::Sandbox { .. } => {
                ("use this sandbox's own token; on the host, this makes one", "use this sandbox's own token")
            }
        };
        Remedy::command(say, self.wider_token_command(), otherwise)
    }

    fn wider_token_command(&self) -> Option<String> {
        let Presented::Token(text) = &self.request.token else { return None };
        // Its signature holds, or this would not have been asked; so its lists are no wider than what was granted once.
        let claims = Claims::of(&Token::parse(text, &self.rules.prefix).ok()?).ok()?;
        let Place { host, sandbox, .. } = &self.place;
        let method = super::upper_case(self.request.method);

        let hosts = kept(&claims, |caveat| match caveat {
            Caveat::Hosts(hosts) => Some(valid::<HostPattern>(hosts.iter())),
            _ => None,
        });
        let hosts = hosts.unwrap_or_default();
        let covered = hosts.iter().flat_map(|entry| entry.parse::<HostPattern>()).any(|entry| entry.matches(host));
        let hosts = if covered { hosts } else { with(hosts.iter().map(String::as_str), host.as_str())? };

        let methods = kept(&claims, |caveat| match caveat {
            Caveat::Methods(methods) => Some(valid::<Method>(methods.iter())),
            _ => None,
        });
        let methods = match methods {
            Some(methods) => {
                let method = method.parse::<Method>().ok()?;
                Some(with(methods.iter().map(String::as_str), method.as_str())?)
            }
            None => None,
        };

        let paths = kept(&claims, |caveat| match caveat {
            Caveat::Paths(paths) => Some(valid::<PathPattern>(paths.iter())),
            _ => None,
        });
        let paths = match paths {
            Some(paths) => {
                let covers = |pattern: PathPattern| self.path.is_some_and(|path| pattern.matches(path));
                let covered = paths.iter().flat_map(|entry| entry.parse::<PathPattern>()).any(covers);
                if covered {
                    Some(paths)
                } else {
                    Some(with(paths.iter().map(String::as_str), self.pattern().ok()?.as_str())?)
                }
            }
            None => None,
        };
        mint(&[
            ("--hosts", &hosts),
            ("--methods", &methods.unwrap_or_default()),
            ("--paths", &paths.unwrap_or_default()),
            ("--sandbox", &[sandbox.as_str().to_owned()]),
        ])
    }
}

/// Why no pattern stands for a path and for nothing else.
enum NoPattern {
    /// `OPTIONS *`.
    NoPath,
    /// It matches no pattern.
    Ambiguous,
    /// It is too long, or `*` in a pattern would stand for more.
    Unwritable,
}

impl NoPattern {
    fn for_limit(&self, section: &str) -> String {
        match self {
            Self::NoPath => format!(
                "no pattern stands for a request without a path: only an upstream without `paths` allows it ({section})"
            ),
            Self::Ambiguous => AMBIGUOUS.to_owned(),
            Self::Unwritable => {
                format!("in agent-creds.toml, on the host, add a pattern for it to `paths` under {section}")
            }
        }
    }

    fn for_token(&self) -> String {
        match self {
            Self::NoPath => {
                "no pattern stands for a request without a path: only a token without --paths allows it".to_owned()
            }
            Self::Ambiguous => AMBIGUOUS.to_owned(),
            Self::Unwritable => "make a token whose --paths has a pattern for it, with `mint`, on the host".to_owned(),
        }
    }
}

const AMBIGUOUS: &str = "servers could read this path in two ways, so it matches no pattern: ask for a path without dot segments, `//` and what stands for them";

/// What one kind of caveat allows: `None` if there is none of the kind. Of several, all must hold, and only what is asked for
/// is certain to be meant.
fn kept(claims: &Claims, pick: fn(&Caveat) -> Option<Vec<String>>) -> Option<Vec<String>> {
    let mut lists = claims.caveats().iter().filter_map(pick);
    match (lists.next(), lists.next()) {
        (Some(one), None) => Some(one),
        (Some(_), Some(_)) => Some(Vec::new()),
        (None, _) => None,
    }
}

/// The entries that mean something, as `mint` takes them; a token may hold any text.
fn valid<'a, T: std::str::FromStr>(texts: impl Iterator<Item = &'a str>) -> Vec<String> {
    let writable = |text: &&str| text.is_ascii() && !text.contains(',') && text.parse::<T>().is_ok();
    texts.filter(writable).map(str::to_owned).collect()
}

/// `known` with one more; `None` when that is too long to repeat.
fn with<'a>(known: impl Iterator<Item = &'a str>, new: &str) -> Option<Vec<String>> {
    let mut all: Vec<String> = known.map(str::to_owned).collect();
    if !all.iter().any(|known| known == new) {
        all.push(new.to_owned());
    }
    (all.len() <= MOST_ENTRIES).then_some(all)
}

/// `mint` with these options, those without values left out. `None` when it cannot be written.
fn mint(options: &[(&str, &[String])]) -> Option<String> {
    let mut command = "mint".to_owned();
    for (option, values) in options.iter().filter(|(_, values)| !values.is_empty()) {
        // `mint` divides its lists at commas.
        if values.iter().any(|value| value.contains(',')) {
            return None;
        }
        let joined = values.join(",");
        // What begins with a dash would be taken for another option.
        let between = if joined.starts_with('-') { "=" } else { " " };
        command.push_str(&format!(" {option}{between}{}", shell_word(&joined)));
    }
    (command.len() <= LONGEST_COMMAND).then_some(command)
}

#[cfg(test)]
mod tests;
