//! What is wrong with a configuration file, and where.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde::Serialize;

/// One thing that is wrong in one place of a file.
///
/// `Display` is `file:line:column: message` and, on a line of its own, the hint. Control characters are escaped there, so a
/// file name or a key cannot forge lines of a log or drive a terminal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Diagnostic {
    /// The file as it was named to us.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A problem of the file as a whole (it cannot be read, it is too long): its place is the first character.
    pub(crate) fn of_file(file: &Arc<str>, message: impl Into<String>) -> Self {
        Self { file: Arc::clone(file), line: 1, column: 1, message: message.into(), hint: None }
    }

    /// The same with a hint.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, message, hint } = self;
        write!(f, "{}:{line}:{column}: {}", Escaped(file), Escaped(message))?;
        match hint {
            Some(hint) => write!(f, "\n    help: {}", Escaped(hint)),
            None => Ok(()),
        }
    }
}

/// All that is wrong, in the order of files and lines; at least one problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_char('\n')?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

/// Quotes what a file says for a message: in back quotes, control characters escaped, cut after 60 characters.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut out = String::from("`");
    for c in text.chars().take(LONGEST) {
        // Writing to a `String` cannot fail.
        let _ = write_escaped(&mut out, c);
    }
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out.push('`');
    out
}

/// Text with its control characters escaped.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| write_escaped(f, c))
    }
}

fn write_escaped(out: &mut impl fmt::Write, c: char) -> fmt::Result {
    // Line and paragraph separators, and the marks that reorder or hide what follows them on a screen.
    let deceptive =
        matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    if c.is_control() || deceptive { write!(out, "{}", c.escape_default()) } else { out.write_char(c) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_place_and_escapes_what_could_deceive() {
        let diagnostic = Diagnostic {
            file: "a\n.toml".into(),
            line: 3,
            column: 7,
            message: format!("unknown key {}", quoted("x\u{1b}[2J\u{202e}\r\n")),
            hint: Some("remove\tit".into()),
        };
        assert_eq!(
            diagnostic.to_string(),
            "a\\n.toml:3:7: unknown key `x\\u{1b}[2J\\u{202e}\\r\\n`\n    help: remove\\tit"
        );
        let json = serde_json::to_value(Diagnostics(vec![diagnostic])).unwrap();
        assert_eq!(json[0]["line"], 3);
        assert_eq!(json[0]["hint"], "remove\tit");
    }

    #[test]
    fn long_content_is_cut() {
        let text = quoted(&"é".repeat(61));
        assert_eq!(text.chars().count(), 63);
        assert!(text.ends_with("…`"));
    }
}
