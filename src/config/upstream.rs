//! `[upstream."HOST"]`: what may be reached, and how host names are written as keys.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ca::{ReadFile, certificates};
use super::diagnostic::quoted;
use super::reader::{Item, Table};
use crate::domain::names::{HostError, HostPattern};
use crate::domain::policy::{Limits, Upstream};

/// The most upstreams, or credentials, one file may have.
pub(crate) const MAX_HOSTS: usize = 10_000;

/// The most `ca` files one file may name: each is read and kept.
const MAX_CA_FILES: usize = 256;

/// All upstreams of a file, and the `ca` files they name.
#[derive(Debug, Default)]
pub(crate) struct Upstreams {
    pub(crate) by_host: BTreeMap<HostPattern, Upstream>,
    pub(crate) ca_files: Vec<PathBuf>,
}

/// Reads `[upstream]`.
pub(crate) fn read(item: &Item<'_, '_>, folder: &Path, read: &dyn ReadFile) -> Upstreams {
    let mut cas = CaFiles { folder, read, seen: HashMap::new() };
    let by_host = hosts(item, "upstream", |entry, _| read_upstream(entry, &mut cas));
    let mut ca_files: Vec<PathBuf> = cas.seen.into_keys().collect();
    ca_files.sort();
    Upstreams { by_host, ca_files }
}

fn read_upstream(entry: &Item<'_, '_>, cas: &mut CaFiles<'_>) -> Option<Upstream> {
    let mut table = entry.table()?;
    let limits = read_limits(&mut table, "it would allow nothing: remove the upstream instead");
    let address = table.optional("address").map(|item| item.parse());
    let private = table.optional("private").map(|item| {
        let private = item.boolean()?;
        if private && address.is_some() {
            let hint = "remove it: with `address` the name is not resolved".to_owned();
            item.wrong("`private` says nothing beside `address`", Some(hint));
        }
        Some(private)
    });
    let ca = table.optional("ca").map(|item| cas.get(&item));
    table.finish();
    Some(Upstream {
        limits: limits?,
        address: transpose(address)?,
        private: transpose(private)?.unwrap_or(false),
        ca: transpose(ca)?,
        origin: entry.origin(),
    })
}

/// `None` only for a key that was there and wrong.
pub(super) fn transpose<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        None => Some(None),
        Some(value) => value.map(Some),
    }
}

/// Reads `methods` and `paths`.
pub(crate) fn read_limits(table: &mut Table<'_, '_>, empty_hint: &str) -> Option<Limits> {
    let methods = table.optional("methods").map(|item| item.parse_list(empty_hint));
    let paths = table.optional("paths").map(|item| item.parse_list(empty_hint));
    let methods = transpose(methods)?.map(|methods: Vec<_>| methods.into_iter().collect());
    Some(Limits { methods, paths: transpose(paths)? })
}

/// Reads a table whose keys are hosts. `key` is the table's name, for hints; `read` is called for every entry, without a
/// host when its key is none, so that all problems come out at once.
pub(crate) fn hosts<T>(
    item: &Item<'_, '_>,
    key: &str,
    mut read: impl FnMut(&Item<'_, '_>, Option<&HostPattern>) -> Option<T>,
) -> BTreeMap<HostPattern, T> {
    let mut by_host = BTreeMap::new();
    let mut lines: HashMap<HostPattern, u32> = HashMap::new();
    let Some(table) = item.table() else { return by_host };
    let entries = table.into_entries();
    if let Some(first_too_many) = entries.get(MAX_HOSTS) {
        first_too_many.wrong_key("more than 10,000 hosts in one file", None);
        return by_host;
    }
    for entry in entries {
        // An unquoted name is a path of tables to TOML: say so, instead of calling `stripe` an unknown key.
        if entry.is_table_of_tables() {
            let name = entry.dotted_name();
            let hint = format!("write the name in quotes: [{key}.\"{name}\"]");
            entry.wrong_key(format_args!("{} is read as tables in tables", quoted(&name)), Some(hint));
            continue;
        }
        let Some(host) = host_of_key(&entry, key) else {
            read(&entry, None);
            continue;
        };
        if let Some(line) = lines.get(&host) {
            let hint = "case and a final dot make no difference: put everything into one table".to_owned();
            entry.wrong_key(format_args!("{} is the same host as on line {line}", quoted(entry.name)), Some(hint));
        }
        if let Some(value) = read(&entry, Some(&host)) {
            by_host.insert(host.clone(), value);
        }
        lines.entry(host).or_insert(entry.origin().line);
    }
    by_host
}

fn host_of_key(entry: &Item<'_, '_>, key: &str) -> Option<HostPattern> {
    match entry.name.parse() {
        Ok(host) => Some(host),
        Err(error) => {
            let hint = match error {
                HostError::NotAHost => bare_host(entry.name).map(|host| format!("write [{key}.\"{host}\"]")),
                _ => None,
            };
            entry.wrong_key(format_args!("{} is not a host: {error}", quoted(entry.name)), hint);
            None
        }
    }
}

/// The host in a URL or a `host:port`.
fn bare_host(text: &str) -> Option<HostPattern> {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    host.split(':').next()?.parse().ok()
}

/// The `ca` files of one configuration file; each is read once.
struct CaFiles<'a> {
    folder: &'a Path,
    read: &'a dyn ReadFile,
    seen: HashMap<PathBuf, Result<Arc<str>, String>>,
}

impl CaFiles<'_> {
    fn get(&mut self, item: &Item<'_, '_>) -> Option<Arc<str>> {
        let text = item.string()?;
        if text.is_empty() || text.contains('\0') {
            item.wrong("`ca` is the path of a PEM file", Some("write ca = \"private-ca.pem\"".to_owned()));
            return None;
        }
        let path = self.folder.join(text);
        if self.seen.len() >= MAX_CA_FILES && !self.seen.contains_key(&path) {
            item.wrong("more than 256 different `ca` files", None);
            return None;
        }
        let read = self.read;
        let result = self.seen.entry(path).or_insert_with_key(|path| match read.read(path) {
            Ok(bytes) => certificates(&bytes).map_err(|error| format!("is not a CA file: {error}")),
            Err(error) => Err(format!("cannot be read: {error}")),
        });
        match result {
            Ok(pem) => Some(Arc::clone(pem)),
            Err(error) => {
                let hint =
                    format!("the path begins at the folder of this file: {}", quoted(&self.folder.to_string_lossy()));
                item.wrong(format_args!("{} {error}", quoted(text)), Some(hint));
                None
            }
        }
    }
}
