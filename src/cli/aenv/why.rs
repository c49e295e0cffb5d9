//! `aenv why`: whether a request would be refused, why, and what to change.
//!
//! The answer is the vault's own code (`domain::decision::foresee`); what is found here besides only explains it.

use serde_json::{Value, json};

use super::policy::SandboxPolicy;
use super::screen::{Line, Look, list, printable};
use super::tokens::{Content, EnvToken};
use super::toml::{self, Change};
use super::url::{Place, Url};
use crate::domain::decision::{AccessRequest, Denial, Presented, Rules, foresee};
use crate::domain::macaroon::{CaveatError, CaveatRequest};
use crate::domain::names::{Host, Method};
use crate::domain::policy::{Limits, RequestPath};

/// What is asked.
#[derive(Debug)]
pub struct Question {
    /// Where the request goes.
    pub url: Url,
    /// How.
    pub method: Method,
    /// With which token.
    pub token: Choice,
}

/// Which token the request would carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// One that allows it, if there is one.
    Any,
    /// That of this variable.
    Variable(String),
    /// None.
    None,
}

/// A question that has no answer.
#[derive(Debug, thiserror::Error)]
#[error("--token takes the name of a variable that holds a token, and this is none; those that do: {known}")]
pub struct NoSuchToken {
    known: String,
}

/// What would become of the request.
#[derive(Debug)]
pub struct Answer {
    /// Whether it would go out.
    pub allowed: bool,
    /// `GET api.stripe.com/v1/x`: what is judged, without the query.
    pub request: String,
    /// The variable of the token that allows it.
    pub with: Option<String>,
    /// What forbids it, with every token.
    pub reasons: Vec<String>,
    /// The tokens that were tried.
    pub tokens: Vec<Tried>,
    /// What else there is to know.
    pub notes: Vec<String>,
    /// What to change to have it allowed.
    pub change: Option<Change>,
}

/// What a token says to the request.
#[derive(Debug)]
pub struct Tried {
    /// Its variable.
    pub variable: String,
    /// Why not; empty when it allows it.
    pub reasons: Vec<String>,
    /// Whether it is meant for this host; of a broken one nobody can tell.
    pub for_host: bool,
    /// Whether it is meant for another sandbox.
    elsewhere: bool,
}

/// Judges the request. `now` is in Unix seconds.
///
/// Errors: a token is named that is not there.
pub fn explain(
    here: &SandboxPolicy,
    tokens: &[EnvToken],
    question: &Question,
    now: u64,
) -> Result<Answer, NoSuchToken> {
    let tokens = chosen(tokens, &question.token)?;
    let mut notes = Vec::new();
    let host = match reachable_in_principle(&question.url) {
        Ok(host) => host,
        Err((reason, note)) => return Ok(refused_outright(question, reason, note)),
    };
    let target = question.url.normalised();
    if target != question.url.target && !here.prefix.looks_like_token(target.as_bytes()) {
        notes.push(format!("Envoy takes the path as {}", without_query(&target)));
    }
    if question.url.port.is_some_and(|port| port != 443) {
        notes.push(
            "the port plays no part: every connection goes to the upstream as agent-creds.toml has it".to_owned(),
        );
    }
    let named = matches!(question.token, Choice::Variable(_));
    let case = Case { here, rules: here.rules(), host, method: &question.method, target: &target, now, named };
    Ok(case.answer(&tokens, notes))
}

fn chosen<'a>(tokens: &'a [EnvToken], choice: &Choice) -> Result<Vec<&'a EnvToken>, NoSuchToken> {
    match choice {
        Choice::None => Ok(Vec::new()),
        Choice::Any => Ok(tokens.iter().collect()),
        Choice::Variable(name) => match tokens.iter().find(|token| token.variable == *name) {
            Some(token) => Ok(vec![token]),
            None => {
                let known = tokens.iter().map(|token| printable(&token.variable));
                Err(NoSuchToken { known: list(known) })
            }
        },
    }
}

/// What no setting can allow, and what to do instead.
fn reachable_in_principle(url: &Url) -> Result<&Host, (String, String)> {
    match url.scheme.as_str() {
        "https" | "wss" => {}
        "http" | "ws" => {
            let secure = if url.scheme == "http" { "https" } else { "wss" };
            let reason =
                format!("scheme: {}:// is refused, because it would carry credentials in the clear", url.scheme);
            return Err((reason, format!("use {secure}:// instead")));
        }
        other => {
            let reason = format!("scheme: {other}:// cannot leave the sandbox: only HTTPS does");
            return Err((reason, "use https://, if the host offers it (git does)".to_owned()));
        }
    }
    match &url.place {
        Place::Name(host) => Ok(host),
        Place::Address(address) => Err((
            format!("host: {address} is an IP address, and only names can be reached"),
            "use the host's name, and allow that; `address` under [upstream.\"NAME\"] says where to connect".to_owned(),
        )),
    }
}

fn refused_outright(question: &Question, reason: String, note: String) -> Answer {
    let host = match &question.url.place {
        Place::Name(host) => host.as_str(),
        Place::Address(address) => address,
    };
    Answer {
        allowed: false,
        request: format!("{} {}://{host}", question.method, question.url.scheme),
        with: None,
        reasons: vec![reason],
        tokens: Vec::new(),
        notes: vec![note],
        change: None,
    }
}

fn without_query(target: &str) -> &str {
    target.split('?').next().unwrap_or(target)
}

/// A request that gets as far as the vault.
struct Case<'a> {
    here: &'a SandboxPolicy,
    rules: Rules,
    host: &'a Host,
    method: &'a Method,
    target: &'a str,
    now: u64,
    /// Whether the token was named, and is meant even if it is for another host.
    named: bool,
}

impl Case<'_> {
    fn answer(&self, tokens: &[&EnvToken], mut notes: Vec<String>) -> Answer {
        // As the vault looks at URLs: a token there would travel on.
        let in_url = self.here.prefix.looks_like_token(self.target.as_bytes());
        let mut reasons = if in_url { Vec::new() } else { self.limits_that_forbid() };
        let tried: Vec<Tried> = tokens.iter().map(|token| self.try_token(token)).collect();
        let (with, refusal) = self.verdict(tokens, &tried, in_url);
        match &refusal {
            // What the vault says is the answer, whatever was found to explain it.
            Some(denial) if reasons.is_empty() && !is_of_a_token(denial) => reasons.push(told(denial)),
            // Why the token is refused is told with the token.
            Some(denial) if reasons.is_empty() && tried.iter().all(|tried| tried.reasons.is_empty()) => {
                reasons.push(told(denial));
            }
            _ => {}
        }
        let allowed = refusal.is_none();
        let broken = tokens.iter().filter(|token| token.content.is_err() && !self.named);
        notes.extend(broken.map(|token| format!("{} holds a broken token: with that it is refused", token.variable)));
        if allowed {
            notes.extend(self.notes_if_allowed(with.as_deref(), &tried));
        } else if reasons.is_empty() && !self.here.strict {
            notes.push("without a token it would go out as it is, and no credential would be added".to_owned());
        }
        let change = if allowed || in_url { None } else { self.change(tokens, &tried) };
        let path = if in_url { "/…" } else { without_query(self.target) };
        Answer {
            allowed,
            request: format!("{} https://{}{path}", self.method, self.host),
            with,
            reasons,
            tokens: tried,
            notes,
            change,
        }
    }

    /// Asks as the vault would be asked: with the token that is meant, else without.
    fn verdict(&self, tokens: &[&EnvToken], tried: &[Tried], in_url: bool) -> (Option<String>, Option<Denial>) {
        let meant = self.meant(tokens, tried);
        let presented = match meant {
            _ if in_url => Presented::Misplaced("the URL".into()),
            Some(token) => Presented::Token(token.text.as_str().into()),
            None => Presented::None,
        };
        match self.ask(presented) {
            Ok(()) => (meant.map(|token| token.variable.clone()), None),
            Err(denial) => (None, Some(denial)),
        }
    }

    fn ask(&self, token: Presented<'_>) -> Result<(), Denial> {
        let request = AccessRequest {
            sandbox: self.here.policy.id.as_str(),
            host: self.host.as_str(),
            method: self.method.as_str(),
            target: self.target,
            token,
            behind: None,
        };
        foresee(&self.rules, &request, self.now)
    }

    fn limits(&self) -> Option<&Limits> {
        let upstreams = &self.here.policy.upstreams;
        let exact = upstreams.iter().find(|(pattern, _)| pattern.exact() == Some(self.host));
        let below = || upstreams.iter().filter(|(pattern, _)| pattern.matches(self.host));
        // The most specific wildcard.
        let found = exact.or_else(|| below().max_by_key(|(pattern, _)| pattern.to_string().len()));
        found.map(|(_, upstream)| &upstream.limits)
    }

    fn allows_method(&self, limits: &Limits) -> bool {
        limits.allow_method(self.method.as_str())
    }

    fn allows_path(&self, limits: &Limits) -> bool {
        RequestPath::from_target(self.target).map_or(limits.paths.is_none(), |path| limits.allow_path(path))
    }

    /// Host, method and path, as `agent-creds.toml` has them.
    fn limits_that_forbid(&self) -> Vec<String> {
        if matches!(self.ask(Presented::None), Err(Denial::UnknownUpstream(_))) {
            return vec![format!("host: {} is not among the upstreams of agent-creds.toml", self.host)];
        }
        let Some(limits) = self.limits() else { return Vec::new() };
        let mut reasons = Vec::new();
        if !self.allows_method(limits) {
            let allowed = list(limits.methods.iter().flatten().map(Method::as_str));
            reasons.push(format!("method: {} is not among the methods of {} ({allowed})", self.method, self.host));
        }
        if !self.allows_path(limits) {
            let allowed = list(limits.paths.iter().flatten().map(|path| path.as_str()));
            let path = without_query(self.target);
            reasons.push(format!("path: {path} is not among the paths of {} ({allowed})", self.host));
            if RequestPath::from_target(self.target).is_some_and(|path| !path.is_matchable()) {
                reasons.push("path: it can be read in two ways, and so matches no pattern".to_owned());
            }
        }
        reasons
    }

    fn try_token(&self, token: &EnvToken) -> Tried {
        let variable = token.variable.clone();
        let refusals = match &token.content {
            Err(error) => {
                return Tried {
                    variable,
                    reasons: vec![format!("broken: {error}")],
                    for_host: false,
                    elsewhere: false,
                };
            }
            Ok(content) => self.refusals(content),
        };
        Tried {
            variable,
            reasons: refusals.iter().map(ToString::to_string).collect(),
            for_host: !refusals.iter().any(|refusal| matches!(refusal, CaveatError::Host { .. })),
            elsewhere: refusals.iter().any(|refusal| matches!(refusal, CaveatError::Sandbox { .. })),
        }
    }

    /// Which of the tokens the request would carry: one that allows it, else one that is for this host, the nearest to
    /// allowing it.
    fn meant<'t>(&self, tokens: &[&'t EnvToken], tried: &[Tried]) -> Option<&'t EnvToken> {
        let all = tokens.iter().zip(tried).filter(|(_, tried)| tried.for_host || self.named);
        all.min_by_key(|(_, tried)| (tried.elsewhere, tried.reasons.len())).map(|(token, _)| *token)
    }

    fn refusals(&self, content: &Content) -> Vec<CaveatError> {
        content.claims.refusals(&CaveatRequest {
            host: self.host,
            method: self.method.as_str(),
            path: RequestPath::from_target(self.target),
            sandbox: &self.here.policy.id,
            instance: self.here.policy.instance.as_ref(),
            issuer: self.here.issuer(),
            now: self.now,
        })
    }

    fn notes_if_allowed(&self, with: Option<&str>, tried: &[Tried]) -> Vec<String> {
        match with {
            Some(variable) => vec![
                match &self.here.policy.vault {
                    None => format!(
                        "{variable} is swapped for the real key, if the server's vault.toml has one for {}",
                        self.host
                    ),
                    Some(vault) => format!(
                        "{variable} is swapped for the real key, if the vault {vault} has one for {}, and allows this",
                        self.host
                    ),
                },
                "what only the server can tell is left out: whether the signature holds and the token was revoked"
                    .to_owned(),
            ],
            None => {
                let none =
                    if tried.is_empty() { "no token goes with it" } else { "none of the tokens is for this host" };
                vec![format!("{none}: it goes out as it is, and no credential is added")]
            }
        }
    }

    fn change(&self, tokens: &[&EnvToken], tried: &[Tried]) -> Option<Change> {
        let unknown = matches!(self.ask(Presented::None), Err(Denial::UnknownUpstream(_)));
        let path = RequestPath::from_target(self.target)?;
        let mut change = Change::default();
        match self.limits() {
            _ if unknown => change.add_upstream(self.host),
            Some(limits) => {
                let method = (!self.allows_method(limits)).then_some(self.method);
                let path = (!self.allows_path(limits)).then_some(path);
                change.widen_upstream(self.host, limits, method, path);
            }
            None => {}
        }
        match self.meant(tokens, tried) {
            Some(token) => {
                let refusals = token.content.as_ref().map(|content| self.refusals(content));
                match (&token.content, refusals) {
                    (Ok(_), Ok(refusals)) if refusals.is_empty() => {}
                    (Ok(_), Ok(refusals)) if refusals.iter().all(CaveatError::is_about_time) => {
                        change.mint_anew(&token.variable);
                    }
                    (content, _) => {
                        let claims = content.as_ref().ok().map(|content| &content.claims);
                        change.add_token(&token.variable, claims, self.host, self.method, path);
                    }
                }
            }
            None if self.here.strict => {
                change.add_token(&toml::variable_for(self.host), None, self.host, self.method, path);
            }
            None => {}
        }
        change.if_any()
    }
}

fn is_of_a_token(denial: &Denial) -> bool {
    matches!(denial, Denial::Token(_) | Denial::Caveat(_))
}

/// The vault's message, without the word that every one begins with.
fn told(denial: &Denial) -> String {
    let message = denial.to_string();
    let text = message.strip_prefix("Unauthorized: ").unwrap_or(&message);
    match denial {
        Denial::NoToken => format!("token: {text}, and this server passes nothing without one (strict mode)"),
        _ => text.to_owned(),
    }
}

impl Answer {
    /// For people.
    pub fn lines(&self) -> Vec<Line> {
        let verdict = match (self.allowed, &self.with) {
            (true, Some(variable)) => Line::of(Look::Good, "allowed").and(Look::Plain, format!(", with {variable}")),
            (true, None) => Line::of(Look::Good, "allowed"),
            (false, _) => Line::of(Look::Bad, "refused"),
        };
        let mut lines = vec![Line::of(Look::Bold, &self.request), verdict];
        lines.extend(self.reasons.iter().map(|reason| Line::of(Look::Plain, "  ").and(Look::Plain, reason)));
        // A token that is for elsewhere explains nothing, once another is there.
        let shown = self.tokens.iter().filter(|tried| !self.allowed && (tried.for_host || self.tokens.len() == 1));
        for tried in shown {
            for reason in &tried.reasons {
                lines.push(Line::of(Look::Plain, format!("  token {}: ", tried.variable)).and(Look::Plain, reason));
            }
        }
        if !self.notes.is_empty() {
            lines.push(Line::new());
            lines.extend(self.notes.iter().map(|note| Line::of(Look::Dim, note)));
        }
        if let Some(change) = &self.change {
            lines.extend(change.lines());
        }
        lines
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let tokens: Vec<Value> = self
            .tokens
            .iter()
            .map(|tried| {
                let Tried { variable, reasons, for_host, .. } = tried;
                json!({ "variable": variable, "allows": reasons.is_empty(), "for_host": for_host, "reasons": reasons })
            })
            .collect();
        json!({
            "allowed": self.allowed,
            "request": self.request,
            "token": self.with,
            "reasons": self.reasons,
            "tokens": tokens,
            "notes": self.notes,
            "change": self.change.as_ref().map(Change::json),
        })
    }
}
