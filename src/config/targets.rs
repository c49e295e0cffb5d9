//! `[[browser_target]]` and `[[cdp_target]]`: which pages of the host's browser a sandbox may open or drive.
//!
//! What can match nothing is an error.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::diagnostic::quoted;
use super::reader::Item;
use crate::domain::policy::Origin;
use crate::domain::quoting::toml_string;
use crate::domain::web::{UrlPattern, UrlPatternError};

/// The longest pattern, in bytes.
const MAX_PATTERN: usize = 2048;
/// The port in the sandbox when none is given.
pub(crate) const CDP_PORT: u16 = 9222;
/// The most ports of one sandbox: each is a socket and a thread in it.
const MAX_CDP_PORTS: usize = 16;
/// The first port for which no program needs to be root.
const FIRST_PORT: i64 = 1024;

/// A URL that a sandbox may open in the host's browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrowserTarget {
    /// As it is written.
    pub url: Arc<str>,
    /// What it matches.
    pub pattern: UrlPattern,
    /// The line of `url`.
    pub origin: Origin,
}

/// A page that a sandbox may drive over the Chrome DevTools Protocol; at least one field is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CdpTarget {
    /// The target's type, such as `page`.
    pub kind: Option<Arc<str>>,
    /// Its title, with `*` for any text.
    pub title: Option<Arc<str>>,
    /// Its URL.
    pub url: Option<UrlPattern>,
    /// The port in the sandbox at which it is found; at least 1024.
    pub port: u16,
    /// The line of the header.
    pub origin: Origin,
}

impl BrowserTarget {
    /// All of a file.
    pub(crate) fn read_all(item: &Item<'_, '_>) -> Vec<Self> {
        tables(item, "browser_target").iter().filter_map(Self::read).collect()
    }

    fn read(item: &Item<'_, '_>) -> Option<Self> {
        let mut table = item.table()?;
        let url = table.required("url", "\"https://claude.ai/oauth/authorize*\"");
        table.finish();
        let url = url?;
        let (text, pattern) = read_url(&url)?;
        Some(Self { url: text, pattern, origin: url.origin() })
    }
}

impl CdpTarget {
    /// All of a file.
    pub(crate) fn read_all(item: &Item<'_, '_>) -> Vec<Self> {
        let targets: Vec<Self> = tables(item, "cdp_target").iter().filter_map(Self::read).collect();
        let ports: BTreeSet<u16> = targets.iter().map(|target| target.port).collect();
        if ports.len() > MAX_CDP_PORTS {
            let hint = "let targets share ports: a program sees all that are on its port".to_owned();
            item.wrong_key(format_args!("more than {MAX_CDP_PORTS} ports for the browser"), Some(hint));
        }
        targets
    }

    fn read(item: &Item<'_, '_>) -> Option<Self> {
        let mut table = item.table()?;
        let kind = table.optional("type");
        let title = table.optional("title");
        let url = table.optional("url");
        let port = table.optional("port");
        if kind.is_none() && title.is_none() && url.is_none() {
            let hint = "add type, title or url, as in title = \"*My App*\"".to_owned();
            item.wrong_key("a `cdp_target` with no field would allow every page", Some(hint));
        }
        table.finish();
        let text = |item: Option<Item<'_, '_>>| item.and_then(|item| read_pattern(&item));
        // Without the part that is wrong it would allow more; the file does not pass then.
        Some(Self {
            kind: text(kind),
            title: text(title),
            url: url.and_then(|url| read_url(&url)).map(|(_, pattern)| pattern),
            port: port.and_then(|port| read_port(&port)).unwrap_or(CDP_PORT),
            origin: item.origin(),
        })
    }
}

fn tables<'r, 't>(item: &Item<'r, 't>, key: &str) -> Vec<Item<'r, 't>> {
    if item.is_table() {
        item.wrong(format_args!("{} must be a list of tables", quoted(key)), Some(format!("write [[{key}]]")));
        return Vec::new();
    }
    item.list(&format!("remove it, or write [[{key}]]")).unwrap_or_default()
}

fn read_pattern(item: &Item<'_, '_>) -> Option<Arc<str>> {
    let text = item.string()?;
    let wrong = if text.is_empty() {
        "is empty"
    } else if text.len() > MAX_PATTERN {
        "is longer than 2,048 bytes"
    } else if text.chars().any(char::is_control) {
        "has a control character"
    } else {
        return Some(text.into());
    };
    item.wrong(format_args!("{} {wrong}", quoted(item.name)), None);
    None
}

fn read_port(item: &Item<'_, '_>) -> Option<u16> {
    let number = item.integer()?;
    let port = u16::try_from(number).ok().filter(|_| number >= FIRST_PORT);
    if port.is_none() {
        let hint = format!("write a port from {FIRST_PORT} to {}, as in port = {CDP_PORT}", u16::MAX);
        item.wrong(format_args!("a sandbox's programs cannot be found at port {number}"), Some(hint));
    }
    port
}

fn read_url(item: &Item<'_, '_>) -> Option<(Arc<str>, UrlPattern)> {
    let url = read_pattern(item)?;
    match url.parse() {
        Ok(pattern) => Some((url, pattern)),
        Err(error) => {
            item.wrong(format_args!("{} matches no page: {error}", quoted(&url)), Some(url_hint(&url, error)));
            None
        }
    }
}

fn url_hint(url: &str, error: UrlPatternError) -> String {
    let without = |url: &str| format!("write {}", toml_string(url));
    match error {
        UrlPatternError::Query => without(url.split(['?', '#']).next().unwrap_or_default()),
        UrlPatternError::Port => "write a number from 1 to 65535, or `*` for any port".to_owned(),
        UrlPatternError::User => "remove what stands before the `@`".to_owned(),
        UrlPatternError::Path => "write the path as the browser shows it".to_owned(),
        UrlPatternError::Scheme | UrlPatternError::Host | UrlPatternError::Character => {
            "write scheme, host and path, as in \"https://claude.ai/oauth/authorize*\"; `*.` before a host stands for all below it"
                .to_owned()
        }
    }
}
