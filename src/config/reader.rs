//! Walks a TOML tree, collecting every problem with its place instead of stopping at the first.
//!
//! Reading a value yields `Option`: `None` means that the problem is already noted. A file is good when nothing was noted
//! ([`Reader::finish`]), so a caller may go on with a stand-in value after a problem and find the next one.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Diagnostics, quoted};
use crate::domain::policy::Origin;

/// The longest file that is read, in bytes.
pub(crate) const MAX_FILE: usize = 1024 * 1024;

/// Problems of one file that are reported; the rest is counted.
const MAX_PROBLEMS: usize = 100;
/// Problems of one file that are kept, to report the first ones of the file.
const MAX_KEPT: usize = 1000;
/// The longest text, in bytes, that a hint repeats in full.
const MAX_REPEATED: usize = 253;

type Node<'i> = Spanned<DeValue<'i>>;
type Span = Range<usize>;

/// One file being read: its text, and what is wrong with it so far.
pub(crate) struct Reader<'t> {
    file: Arc<str>,
    text: &'t str,
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
    problems: RefCell<Vec<Problem>>,
    /// Problems beyond those kept.
    dropped: Cell<usize>,
}

/// A problem whose place is not yet worked out: in a file that is one long line, that takes a while.
struct Problem {
    at: usize,
    message: String,
    hint: Option<String>,
}

impl<'t> Reader<'t> {
    /// A reader of `text`, which is called `file` in messages.
    pub(crate) fn new(file: &str, text: &'t str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file: file.into(), text, lines, problems: RefCell::default(), dropped: Cell::new(0) }
    }

    /// The tree of the file; `None` when it is too long or not TOML.
    pub(crate) fn parse(&self) -> Option<Node<'t>> {
        if self.text.len() > MAX_FILE {
            self.note(&(0..0), "the file is longer than 1 MiB".to_owned(), None);
            return None;
        }
        let (tree, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            self.note(&span, format!("not TOML: {}", error.message()), None);
        }
        let span = tree.span();
        errors.is_empty().then(|| Spanned::new(span, DeValue::Table(tree.into_inner())))
    }

    /// The root table of a tree from [`Reader::parse`].
    pub(crate) fn root<'r>(&'r self, tree: &'r Node<'t>) -> Option<Table<'r, 't>> {
        Item { reader: self, name: "the file", key: tree.span(), node: tree }.table()
    }

    /// The line of a place, as it is kept in parsed values.
    fn origin(&self, span: &Span) -> Origin {
        Origin { file: Arc::clone(&self.file), line: number(self.line_index(span.start) + 1) }
    }

    /// Notes a problem.
    fn note(&self, span: &Span, message: String, hint: Option<String>) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < MAX_KEPT {
            problems.push(Problem { at: span.start, message, hint });
        } else {
            self.dropped.update(|n| n + 1);
        }
    }

    /// The line a byte is in, from 0.
    fn line_index(&self, at: usize) -> usize {
        self.lines.partition_point(|&start| start <= at).saturating_sub(1)
    }

    /// A problem with its place: line and column from 1, the column in characters.
    fn locate(&self, problem: Problem) -> Diagnostic {
        let Problem { at, message, hint } = problem;
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        let line = self.line_index(at);
        let start = self.lines.get(line).copied().unwrap_or(0);
        let column = self.text.get(start..at).map_or(0, |before| before.chars().count());
        Diagnostic { file: Arc::clone(&self.file), line: number(line + 1), column: number(column + 1), message, hint }
    }

    /// Everything noted, in the order of the file; `Ok` when that is nothing.
    pub(crate) fn finish(self) -> Result<(), Diagnostics> {
        let mut problems = self.problems.take();
        problems.sort_by_key(|problem| problem.at);
        let more = problems.len().saturating_sub(MAX_PROBLEMS) + self.dropped.get();
        problems.truncate(MAX_PROBLEMS);
        let Some(last) = problems.last_mut() else { return Ok(()) };
        if more > 0 {
            last.message.push_str(&format!(" (and {more} more problems)"));
        }
        Err(Diagnostics(problems.into_iter().map(|problem| self.locate(problem)).collect()))
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A value, and the key it stands under.
#[derive(Clone)]
pub(crate) struct Item<'r, 't> {
    reader: &'r Reader<'t>,
    /// The key as written.
    pub(crate) name: &'r str,
    key: Span,
    node: &'r Node<'t>,
}

impl<'r, 't> Item<'r, 't> {
    /// The line of the key.
    pub(crate) fn origin(&self) -> Origin {
        self.reader.origin(&self.key)
    }

    /// Notes a problem with the value, at its first character.
    pub(crate) fn wrong(&self, message: impl Display, hint: Option<String>) {
        // A table's own span is its header; the key's is more exact.
        let span = if self.node.get_ref().is_table() { self.key.clone() } else { self.node.span() };
        self.reader.note(&span, message.to_string(), hint);
    }

    /// Notes a problem with the key, at its first character.
    pub(crate) fn wrong_key(&self, message: impl Display, hint: Option<String>) {
        self.reader.note(&self.key, message.to_string(), hint);
    }

    fn wrong_type(&self, expected: &str, hint: Option<String>) {
        let found = with_article(self.node.get_ref().type_str());
        self.wrong(format_args!("{} must be {expected}, not {found}", quoted(self.name)), hint);
    }

    /// The text, when the value is one, without a complaint when it is not.
    pub(crate) fn as_string(&self) -> Option<&'r str> {
        self.node.get_ref().as_str()
    }

    /// Whether the value is a table.
    pub(crate) fn is_table(&self) -> bool {
        self.node.get_ref().is_table()
    }

    /// The value as text.
    pub(crate) fn string(&self) -> Option<&'r str> {
        let text = self.as_string();
        if text.is_none() {
            let hint = match self.node.get_ref() {
                DeValue::Integer(number) if number.as_str().len() < 20 => Some(format!("write \"{number}\"")),
                DeValue::Float(number) if number.as_str().len() < 20 => Some(format!("write \"{number}\"")),
                _ => None,
            };
            self.wrong_type("a string", hint);
        }
        text
    }

    /// The value as text, when it may be a secret in the wrong place: a complaint does not repeat it.
    pub(crate) fn string_unrepeated(&self) -> Option<&'r str> {
        let text = self.as_string();
        if text.is_none() {
            self.wrong_type("a string", None);
        }
        text
    }

    /// The value as `true` or `false`.
    pub(crate) fn boolean(&self) -> Option<bool> {
        let value = self.node.get_ref().as_bool();
        if value.is_none() {
            self.wrong_type("true or false", None);
        }
        value
    }

    /// The value as a whole number.
    pub(crate) fn integer(&self) -> Option<i64> {
        let number = match self.node.get_ref() {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        if number.is_none() {
            self.wrong_type("a whole number", None);
        }
        number
    }

    /// The value as text that parses as a `T`.
    pub(crate) fn parse<T>(&self) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.string()?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(format_args!("{} is not valid here: {error}", quoted(text)), None);
                None
            }
        }
    }

    /// The values of a list that must have at least one.
    pub(crate) fn list(&self, empty_hint: &str) -> Option<Vec<Item<'r, 't>>> {
        let Some(array) = self.node.get_ref().as_array() else {
            let hint = self
                .as_string()
                .filter(|text| text.len() <= MAX_REPEATED)
                .map(|text| format!("write {} = [{text:?}]", self.name));
            self.wrong_type("a list", hint);
            return None;
        };
        if array.is_empty() {
            self.wrong(format_args!("{} is empty", quoted(self.name)), Some(empty_hint.to_owned()));
            return None;
        }
        Some(array.iter().map(|node| Item { reader: self.reader, name: self.name, key: node.span(), node }).collect())
    }

    /// The values of a list of texts that all parse as a `T`.
    pub(crate) fn parse_list<T>(&self, empty_hint: &str) -> Option<Vec<T>>
    where
        T: FromStr,
        T::Err: Display,
    {
        let parsed: Vec<Option<T>> = self.list(empty_hint)?.iter().map(Item::parse).collect();
        parsed.into_iter().collect()
    }

    /// The value as a table.
    pub(crate) fn table(&self) -> Option<Table<'r, 't>> {
        let Some(table) = self.node.get_ref().as_table() else {
            self.wrong_type("a table", Some(format!("write [{}] and its keys below", self.name)));
            return None;
        };
        let mut entries: Vec<Item<'r, 't>> = table
            .iter()
            .map(|(key, node)| Item { reader: self.reader, name: key.get_ref(), key: key.span(), node })
            .collect();
        entries.sort_by_key(|entry| entry.key.start);
        Some(Table { item: self.clone(), entries, known: Vec::new() })
    }

    /// Whether this looks like a dotted name written without quotes: `[upstream.api.stripe.com]` is `api` → `stripe` →
    /// `com` to TOML, each a table that holds nothing but the next.
    pub(crate) fn is_table_of_tables(&self) -> bool {
        let table = self.node.get_ref().as_table();
        table.is_some_and(|table| !table.is_empty() && table.values().all(|value| value.get_ref().is_table()))
    }

    /// The first dotted name in a table of tables, cut when it is too long for a host.
    pub(crate) fn dotted_name(&self) -> String {
        let mut name = self.name.to_owned();
        let mut node = self.node.get_ref();
        while name.len() <= MAX_REPEATED
            && let Some(table) = node.as_table()
        {
            let Some((key, value)) = table.iter().find(|(_, value)| value.get_ref().is_table()) else { break };
            name.push('.');
            name.push_str(key.get_ref());
            node = value.get_ref();
        }
        name
    }
}

fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// A table whose keys are taken one by one; what is left at the end was not known.
pub(crate) struct Table<'r, 't> {
    /// The table itself.
    pub(crate) item: Item<'r, 't>,
    entries: Vec<Item<'r, 't>>,
    known: Vec<&'static str>,
}

impl<'r, 't> Table<'r, 't> {
    /// The value of a key that may be missing.
    pub(crate) fn optional(&mut self, key: &'static str) -> Option<Item<'r, 't>> {
        self.known.push(key);
        let at = self.entries.iter().position(|entry| entry.name == key)?;
        Some(self.entries.remove(at))
    }

    /// The value of a key that must be there.
    pub(crate) fn required(&mut self, key: &'static str, example: &str) -> Option<Item<'r, 't>> {
        let item = self.optional(key);
        if item.is_none() {
            let hint = format!("add {key} = {example}");
            self.item.wrong_key(format_args!("{} needs {}", quoted(self.item.name), quoted(key)), Some(hint));
        }
        item
    }

    /// All values, for a table whose keys are names the user chose; in the order of the file.
    pub(crate) fn into_entries(self) -> Vec<Item<'r, 't>> {
        self.entries
    }

    /// Notes every key that was not asked for.
    pub(crate) fn finish(self) {
        for entry in &self.entries {
            if self.item.reader.problems.borrow().len() >= MAX_KEPT {
                entry.wrong_key("", None);
                continue;
            }
            let hint = match nearest(entry.name, self.known.iter().copied()) {
                Some(key) => format!("did you mean {}?", quoted(key)),
                None => format!("known here: {}", self.known.join(", ")),
            };
            entry.wrong_key(format_args!("unknown key {}", quoted(entry.name)), Some(hint));
        }
    }
}

/// The known word that `word` is most likely a slip for.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing costs the product of the lengths, and no slip is this long.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
