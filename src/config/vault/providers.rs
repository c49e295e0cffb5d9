//! Where a secret is: `{ provider = "…", … }`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::names::SecretName;
use super::parse_unrepeated;
use crate::config::diagnostic::quoted;
use crate::config::reader::{Item, Table, nearest};
use crate::config::units::EnvName;
use crate::domain::span::Span;

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ProviderRef {
    /// In the server's environment.
    Env {
        /// The variable.
        name: EnvName,
    },
    /// In a file of its own, which is read again when it changes.
    File {
        /// The file; absolute.
        path: PathBuf,
        /// How long the last value is used when the file cannot be read any more.
        grace: Duration,
    },
    /// What a program prints.
    Exec {
        /// The program and its arguments; never empty.
        command: Arc<[String]>,
        /// How long it may take.
        timeout: Duration,
        /// For how long its answer is used.
        kept: Kept,
    },
    /// In the desktop's keyring.
    Keyring {
        /// Its name there.
        name: SecretName,
        /// For how long it is used.
        kept: Kept,
    },
    /// In a file encrypted with age, which is read again when it changes.
    Age {
        /// The file; absolute.
        file: PathBuf,
        /// Its name in it.
        name: SecretName,
        /// The file with the identity that decrypts it; absolute. `None` is a passphrase.
        identity: Option<PathBuf>,
        /// How long the last value is used when the file cannot be decrypted any more.
        grace: Duration,
    },
}

/// For how long a secret is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kept {
    /// Until it is fetched again.
    pub ttl: Duration,
    /// While it cannot be.
    pub grace: Duration,
}

const TTL: Duration = Duration::from_secs(300);
const GRACE: Duration = Duration::from_secs(600);
const TIMEOUT: Duration = Duration::from_secs(10);
/// The server waits no longer for anything.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(55);

const PROVIDERS: [&str; 5] = ["env", "file", "exec", "keyring", "age"];
pub(super) const EXAMPLE: &str = "{ provider = \"env\", name = \"STRIPE_API_KEY\" }";

/// The secret of a key that has to be there.
pub(super) fn read_secret(table: &mut Table<'_, '_>, key: &'static str) -> Option<ProviderRef> {
    let item = table.required(key, EXAMPLE)?;
    read_provider(&item, key, |_| ()).map(|(provider, ())| provider)
}

/// The secret of a key that may be missing; the outer `None` is a problem.
pub(super) fn read_optional_secret(table: &mut Table<'_, '_>, key: &'static str) -> Option<Option<ProviderRef>> {
    match table.optional(key) {
        None => Some(None),
        Some(item) => read_provider(&item, key, |_| ()).map(|(provider, ())| Some(provider)),
    }
}

/// Where the secret is that stands in `item`; `more` reads what else the table may have. Errors show `key` in hints.
pub(super) fn read_provider<T>(
    item: &Item<'_, '_>,
    key: &'static str,
    more: impl FnOnce(&mut Table<'_, '_>) -> T,
) -> Option<(ProviderRef, T)> {
    if !item.is_table() {
        let hint = match key {
            "headers" => format!("put it into the server's environment, and write the header's name = {EXAMPLE}"),
            key => format!("put it into the server's environment, and write {key} = {EXAMPLE}"),
        };
        let what = if key == "headers" { "a header".to_owned() } else { quoted(key) };
        item.wrong(
            format_args!("{what} must be a table: this file says where a secret is, and never holds one"),
            Some(hint),
        );
        return None;
    }
    let mut table = item.table()?;
    let provider = table.required("provider", "\"env\"")?;
    let kind = provider.string_unrepeated()?;
    let read = match kind {
        "env" => read_env(&mut table),
        "file" => read_file(&mut table),
        "exec" => read_exec(&mut table),
        "keyring" => read_keyring(&mut table),
        "age" => read_age(&mut table),
        other => {
            let hint = match nearest(other, PROVIDERS) {
                Some(meant) => format!("did you mean \"{meant}\"?"),
                None => format!("there are: {}", PROVIDERS.join(", ")),
            };
            provider.wrong("there is no such provider", Some(hint));
            // Which keys belong to it cannot be known.
            return None;
        }
    };
    let more = more(&mut table);
    table.finish();
    Some((read?, more))
}

fn read_env(table: &mut Table<'_, '_>) -> Option<ProviderRef> {
    let item = table.required("name", "\"STRIPE_API_KEY\"")?;
    match item.string_unrepeated()?.parse::<EnvName>() {
        Ok(name) => Some(ProviderRef::Env { name }),
        Err(error) => {
            item.wrong(error, Some("write the variable's name, not its value".to_owned()));
            None
        }
    }
}

fn read_file(table: &mut Table<'_, '_>) -> Option<ProviderRef> {
    let path = table.required("path", "\"/run/secrets/stripe\"").and_then(|item| read_path(&item));
    let grace = read_span(table, "grace", GRACE);
    Some(ProviderRef::File { path: path?, grace: grace? })
}

fn read_exec(table: &mut Table<'_, '_>) -> Option<ProviderRef> {
    let example = "[\"op\", \"read\", \"op://vault/stripe/key\"]";
    let command = table.required("command", example).and_then(|item| {
        let words = item.list(&format!("write command = {example}"))?;
        let words: Option<Vec<String>> = words.iter().map(|word| word.string_unrepeated().map(str::to_owned)).collect();
        let words = words?;
        let [program, ..] = words.as_slice() else { return None };
        if program.is_empty() || words.iter().any(|word| word.contains('\0')) {
            item.wrong("`command` is a program and its arguments, none of them with a NUL", None);
            return None;
        }
        // Relative to where the server happens to run, it could be the agent's.
        if program.contains('/') && !Path::new(program).is_absolute() {
            item.wrong("the program of `command` is a name that PATH leads to, or an absolute path", None);
            return None;
        }
        Some(words.into())
    });
    let timeout = read_span(table, "timeout", TIMEOUT);
    let kept = read_kept(table);
    Some(ProviderRef::Exec { command: command?, timeout: timeout?.min(LONGEST_TIMEOUT), kept: kept? })
}

fn read_keyring(table: &mut Table<'_, '_>) -> Option<ProviderRef> {
    let name = read_name(table);
    let kept = read_kept(table);
    Some(ProviderRef::Keyring { name: name?, kept: kept? })
}

fn read_age(table: &mut Table<'_, '_>) -> Option<ProviderRef> {
    let file = table.required("file", "\"/etc/agent-creds/secrets.age\"").and_then(|item| read_path(&item));
    let name = read_name(table);
    let identity = match table.optional("identity") {
        None => Some(None),
        Some(item) => read_path(&item).map(Some),
    };
    let grace = read_span(table, "grace", GRACE);
    Some(ProviderRef::Age { file: file?, name: name?, identity: identity?, grace: grace? })
}

fn read_name(table: &mut Table<'_, '_>) -> Option<SecretName> {
    table.required("name", "\"STRIPE_API_KEY\"").and_then(|item| parse_unrepeated(&item))
}

fn read_kept(table: &mut Table<'_, '_>) -> Option<Kept> {
    let ttl = read_span(table, "ttl", TTL);
    let grace = read_span(table, "grace", GRACE);
    Some(Kept { ttl: ttl?, grace: grace? })
}

/// A span of time; `default` when there is none.
fn read_span(table: &mut Table<'_, '_>, key: &'static str, default: Duration) -> Option<Duration> {
    table.optional(key).map_or(Some(default), |item| item.parse::<Span>().map(Span::duration))
}

/// An absolute path, not repeated: it may be a secret in the wrong place.
fn read_path(item: &Item<'_, '_>) -> Option<PathBuf> {
    let path = Path::new(item.string_unrepeated()?);
    if path.is_absolute() {
        return Some(path.to_owned());
    }
    let hint = "write the whole path, from / on; `~` and variables are not expanded".to_owned();
    item.wrong(format_args!("{} must be an absolute path", quoted(item.name)), Some(hint));
    None
}
