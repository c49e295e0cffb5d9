//! The edit of an `agent-creds.toml` that allows what was refused, and changes nothing else.
//!
//! ```text
//! text ─▶ parse ─▶ decide ─▶ remedy ─▶ merge (toml_edit: comments and form stay) ─▶ parse ─▶ decide: allowed, all else as it was
//! ```

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use toml_edit::{Array, DocumentMut, InlineTable, Item, RawString, Table, TableLike, Value};

use super::ca::ReadFile;
use super::diagnostic::Diagnostics;
use super::project::{ProjectConfig, parse_project};
use crate::domain::decision::{AccessRequest, Decision, Denial, Offer, Presented, Rules, decide, remedy};
use crate::domain::macaroon::{Keyring, TokenPrefix};
use crate::domain::names::HostPattern;
use crate::domain::policy::Policy;

/// What was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The host.
    pub host: String,
    /// Method and path of a request; `None` when the name was looked up, and did not resolve.
    pub request: Option<(String, String)>,
}

/// Why there is no edit.
#[derive(Debug, thiserror::Error)]
pub enum AmendError {
    /// The file is broken.
    #[error("the file is broken, mend it first")]
    Broken(#[source] Diagnostics),
    /// The file does not forbid it.
    #[error("the file allows this already: what refused it is elsewhere, or the file was changed since")]
    Allowed,
    /// No edit of this file would allow it and nothing else.
    #[error("{0}")]
    NotHere(String),
    /// The file is written in a way that an edit would not keep.
    #[error("the file is written in a way that cannot be edited without changing more ({0}): edit it by hand")]
    Form(&'static str),
}

/// The text of the file with what allows `refused`, and nothing else, added. `file`, `folder`, `text` and `read` are as for
/// [`parse_project`].
///
/// # Errors
/// When there is no such edit.
pub fn amend(
    file: &str,
    folder: &Path,
    text: &str,
    read: &dyn ReadFile,
    refused: &Refused,
) -> Result<String, AmendError> {
    // As the rules have it: case makes no difference.
    let refused = &Refused { host: refused.host.to_ascii_lowercase(), ..refused.clone() };
    let before = parse_project(file, folder, text, read).map_err(AmendError::Broken)?;
    let (section, lines) = offer(&before, refused)?;
    let amended = merge(text, &section, &lines)?;
    // What follows holds by construction; a file that is trusted is worth a second look.
    let after = parse_project(file, folder, &amended, read).map_err(|_| AmendError::Form("it would not be read"))?;
    if !matches!(offer(&after, refused), Err(AmendError::Allowed)) {
        return Err(AmendError::Form("it would not help"));
    }
    if expected(text, &section, &lines).is_none_or(|expected| Some(expected) != amended.parse().ok()) {
        return Err(AmendError::Form("something else would change"));
    }
    Ok(amended)
}

/// The section and the lines that allow it.
fn offer(project: &ProjectConfig, refused: &Refused) -> Result<(HostPattern, Vec<String>), AmendError> {
    let policy = Policy {
        id: project.id.clone(),
        instance: None,
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        origin: project.origin.clone(),
        upstreams: project.upstreams.clone(),
        vault: None,
    };
    let rules = Rules::new([&policy], Keyring::default(), TokenPrefix::default(), false);
    let (method, target) = refused.request.as_ref().map_or(("GET", "/"), |(method, path)| (method, path));
    let request = AccessRequest {
        sandbox: policy.id.as_str(),
        host: &refused.host,
        method,
        target,
        token: Presented::None,
        behind: None,
    };
    let denial = match decide(&rules, &request, 0) {
        Decision::Deny(denial) => denial,
        Decision::Allow(_) | Decision::PassThrough | Decision::Refer(_) => return Err(AmendError::Allowed),
    };
    if refused.request.is_none() && !matches!(denial, Denial::UnknownUpstream(_)) {
        return Err(AmendError::Allowed);
    }
    let found = remedy(&rules, &request, &denial);
    let nothing = || AmendError::NotHere(found.say.clone());
    let Some(Offer::Toml { lines, .. }) = &found.offer else { return Err(nothing()) };
    let name = match rules.upstream(request.sandbox, request.host) {
        Some(upstream) => upstream.parse(),
        None => refused.host.parse(),
    };
    Ok((name.map_err(|_| nothing())?, lines.clone()))
}

/// The lines as keys and lists of texts.
fn lists(lines: &[String]) -> Option<Vec<(String, Vec<String>)>> {
    let table: toml::Table = lines.join("\n").parse().ok()?;
    let texts = |value: &toml::Value| -> Option<Vec<String>> {
        value.as_array()?.iter().map(|text| Some(text.as_str()?.to_owned())).collect()
    };
    table.iter().map(|(key, value)| Some((key.clone(), texts(value)?))).collect()
}

/// The host that a key means, however it is written.
fn means(key: &str, section: &HostPattern) -> bool {
    key.parse::<HostPattern>().is_ok_and(|host| host == *section)
}

// ── The edit ──────────────────────────────────────────────────────────────────────────────────────────────────────────

fn merge(text: &str, section: &HostPattern, lines: &[String]) -> Result<String, AmendError> {
    let unusual = || AmendError::Form("an upstream that is no table");
    let windows = text.contains('\n') && text.matches("\r\n").count() == text.matches('\n').count();
    let plain = if windows { text.replace("\r\n", "\n") } else { text.to_owned() };
    let mut document: DocumentMut = plain.parse().map_err(|_| AmendError::Form("it is not read"))?;
    let same = document.to_string();
    if same != plain && same.strip_suffix('\n') != Some(&plain) {
        return Err(AmendError::Form("its line ends or its first bytes"));
    }
    let upstreams = document.entry("upstream").or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let inline = upstreams.is_value() || upstreams.as_table().is_some_and(Table::is_dotted);
    let upstreams = upstreams.as_table_like_mut().ok_or_else(unusual)?;
    let key = upstreams.iter().map(|(key, _)| key.to_owned()).find(|key| means(key, section));
    let key = match key {
        Some(key) => key,
        None => {
            let new = if inline { Item::Value(InlineTable::new().into()) } else { Item::Table(Table::new()) };
            append(upstreams, &section.to_string(), new);
            section.to_string()
        }
    };
    let upstream = upstreams.get_mut(&key).and_then(Item::as_table_like_mut).ok_or_else(unusual)?;
    for (key, texts) in lists(lines).ok_or_else(unusual)? {
        match upstream.get_mut(&key) {
            Some(item) => {
                let array = item.as_array_mut().ok_or_else(unusual)?;
                let known: BTreeSet<String> = array.iter().filter_map(|v| v.as_str()).map(known_as).collect();
                for text in texts.iter().filter(|text| !known.contains(*text)) {
                    push(array, text);
                }
            }
            None => append(upstream, &key, Item::Value(texts.iter().collect::<Array>().into())),
        }
    }
    let amended = document.to_string();
    Ok(if windows { amended.replace('\n', "\r\n") } else { amended })
}

/// A method in lower case is the same method; a path begins with a slash.
fn known_as(text: &str) -> String {
    if text.starts_with('/') { text.to_owned() } else { text.to_ascii_uppercase() }
}

fn raw(text: Option<&RawString>) -> String {
    text.and_then(RawString::as_str).unwrap_or_default().to_owned()
}

/// Adds an entry at the end; between braces what was before the closing one stays there.
fn append(table: &mut dyn TableLike, key: &str, item: Item) {
    let is_inline = table.iter().all(|(_, item)| item.is_value());
    let last = if is_inline { table.iter_mut().last() } else { None };
    let mut end = String::new();
    if let Some((_, Item::Value(last))) = last {
        end = raw(last.decor().suffix());
        // In a table of lines, that is a comment, and the line's own.
        if end.trim().is_empty() && !end.is_empty() {
            last.decor_mut().set_suffix("");
        } else {
            end.clear();
        }
    }
    table.insert(key, item);
    if let (false, Some(Item::Value(value))) = (end.is_empty(), table.get_mut(key)) {
        value.decor_mut().set_suffix(end);
    }
}

/// Adds a text to a list, on a line of its own where the others have one.
fn push(array: &mut Array, text: &str) {
    let trailing_comma = array.trailing_comma();
    let trailing = raw(Some(array.trailing()));
    let mut value = Value::from(text);
    let Some(last) = array.len().checked_sub(1).and_then(|last| array.get_mut(last)) else {
        array.push_formatted(value);
        return;
    };
    let prefix = raw(last.decor().prefix());
    let end = if trailing_comma { trailing } else { raw(last.decor().suffix()) };
    let (before, closing) = match end.rfind('\n') {
        // After the last line's own comment, and as far to the right as the one before.
        Some(at) => {
            let indent = prefix.rsplit_once('\n').map_or("    ", |(_, indent)| indent);
            (format!("{}\n{indent}", &end[..at]), end[at..].to_owned())
        }
        None => (" ".to_owned(), end),
    };
    if trailing_comma {
        array.set_trailing(closing);
    } else {
        last.decor_mut().set_suffix("");
        value.decor_mut().set_suffix(closing);
    }
    value.decor_mut().set_prefix(before);
    array.push_formatted(value);
}

/// What the file has to mean afterwards, found without regard to how it is written.
fn expected(text: &str, section: &HostPattern, lines: &[String]) -> Option<toml::Table> {
    let mut all: toml::Table = text.parse().ok()?;
    let upstreams = all.entry("upstream").or_insert_with(|| toml::Table::new().into()).as_table_mut()?;
    let key = upstreams.keys().find(|key| means(key, section)).cloned().unwrap_or_else(|| section.to_string());
    let upstream = upstreams.entry(key).or_insert_with(|| toml::Table::new().into()).as_table_mut()?;
    for (key, texts) in lists(lines)? {
        let list = upstream.entry(key).or_insert_with(|| toml::Value::Array(Vec::new())).as_array_mut()?;
        for text in texts {
            if !list.iter().filter_map(toml::Value::as_str).any(|known| known_as(known) == text) {
                list.push(text.into());
            }
        }
    }
    Some(all)
}

#[cfg(test)]
#[path = "amend_tests.rs"]
mod tests;
