//! Lines for a terminal or a file: escaped, coloured only where that is wanted, and never wider than the terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};

/// The most characters shown of one text that comes from elsewhere.
const MAX_TEXT: usize = 300;

/// Where lines go.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// Whether colours are wanted.
    pub colour: bool,
    /// Characters in a line; `None` when there is no limit.
    pub width: Option<usize>,
    /// Lines on the terminal, when it is one.
    pub height: Option<usize>,
}

impl Screen {
    /// Standard output. `NO_COLOR` and `TERM=dumb` turn colours off.
    pub fn of_process() -> Self {
        let stdout = io::stdout();
        if !stdout.is_terminal() {
            return Self { colour: false, width: None, height: None };
        }
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let size = rustix::termios::tcgetwinsize(&stdout).ok();
        // A terminal that does not know its size says 0.
        let known = |cells: u16| Some(usize::from(cells)).filter(|&cells| cells > 0);
        Self {
            colour: !dumb && !set("NO_COLOR"),
            width: size.and_then(|size| known(size.ws_col)).or(Some(80)),
            height: size.and_then(|size| known(size.ws_row)).or(Some(24)),
        }
    }
}

/// How a piece of a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// As it is.
    Plain,
    /// A heading.
    Bold,
    /// Of less interest.
    Dim,
    /// Allowed.
    Good,
    /// Refused.
    Bad,
    /// To be looked at.
    Warn,
}

impl Look {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Warn => "33",
        }
    }
}

/// A line of pieces. What is put into one is escaped.
#[derive(Debug, Clone, Default)]
pub struct Line(Vec<(Look, String)>);

impl Line {
    /// An empty line.
    pub fn new() -> Self {
        Self::default()
    }

    /// A line of one piece.
    pub fn of(look: Look, text: impl AsRef<str>) -> Self {
        Self::new().and(look, text)
    }

    /// Adds a piece.
    #[must_use]
    pub fn and(mut self, look: Look, text: impl AsRef<str>) -> Self {
        self.0.push((look, printable(text.as_ref())));
        self
    }

    /// A line of printable ASCII, which is not cut: it is there to be copied.
    pub fn whole(ascii: &str) -> Self {
        Self(vec![(Look::Plain, ascii.replace(|c: char| !matches!(c, ' '..='~'), "?"))])
    }

    /// Adds a piece that takes at least `width` characters.
    #[must_use]
    pub fn column(self, look: Look, text: impl AsRef<str>, width: usize) -> Self {
        let text = printable(text.as_ref());
        self.and(look, format!("{text:width$}"))
    }

    fn render(&self, screen: Screen, out: &mut String) {
        let mut left = screen.width.unwrap_or(usize::MAX);
        let total: usize = self.0.iter().map(|(_, text)| text.chars().count()).sum();
        // Room for the mark that something was cut off.
        let cut = total > left;
        left = left.saturating_sub(usize::from(cut));
        for (look, text) in &self.0 {
            let shown: String = text.chars().take(left).collect();
            left -= shown.chars().count();
            if shown.is_empty() {
                continue;
            }
            if screen.colour && *look != Look::Plain {
                // Writing to a text cannot fail.
                let _ = write!(out, "\x1b[{}m{shown}\x1b[0m", look.code());
            } else {
                out.push_str(&shown);
            }
        }
        if cut {
            out.push('…');
        }
        while out.ends_with(' ') {
            out.pop();
        }
        out.push('\n');
    }
}

/// The lines as text.
pub fn render(lines: &[Line], screen: Screen) -> String {
    let mut out = String::new();
    lines.iter().for_each(|line| line.render(screen, &mut out));
    out
}

/// JSON in ASCII, so that no text in it can move the cursor or turn the direction of writing.
pub fn render_json(value: &serde_json::Value) -> String {
    let mut out = String::new();
    for c in format!("{value:#}\n").chars() {
        match c {
            // Only within strings is there anything else.
            '\n' | ' '..='~' => out.push(c),
            _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                // Writing to a text cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }),
        }
    }
    out
}

/// The text without anything that would move the cursor, change colours, or turn the direction of writing; cut when it
/// is long.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MAX_TEXT));
    for (at, c) in text.chars().enumerate() {
        match c {
            _ if at == MAX_TEXT => {
                out.push('…');
                break;
            }
            '"' | '\'' | '\\' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    out
}

/// `a, b, c and 4 more`.
pub fn list<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 8;
    let mut out = String::new();
    let mut more = 0;
    for (index, item) in items.into_iter().enumerate() {
        if index >= SHOWN {
            more += 1;
            continue;
        }
        let comma = if index == 0 { "" } else { ", " };
        // Each is cut by itself, so that one cannot hide the others.
        let item: String = item.as_ref().chars().take(80).collect();
        out.push_str(comma);
        out.push_str(&item);
    }
    match more {
        0 if out.is_empty() => "none".to_owned(),
        0 => out,
        more => format!("{out} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Screen = Screen { colour: false, width: None, height: None };

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        let line = Line::of(Look::Bold, "a\u{1b}[2J\r\n\u{202e}b\u{9b}c\"d\\e\u{7f}");
        assert_eq!(render(&[line], FILE), "a\\u{1b}[2J\\r\\n\\u{202e}b\\u{9b}c\"d\\e\\u{7f}\n");
        let long = printable(&"x".repeat(10_000));
        assert!(long.chars().count() == MAX_TEXT + 1 && long.ends_with('…'));
    }

    #[test]
    fn a_line_is_never_wider_than_the_terminal() {
        let line = Line::of(Look::Good, "yes ").column(Look::Plain, "ab", 6).and(Look::Dim, "end");
        assert_eq!(render(std::slice::from_ref(&line), FILE), "yes ab    end\n");
        for width in 1..20 {
            let plain = render(std::slice::from_ref(&line), Screen { width: Some(width), ..FILE });
            assert!(plain.trim_end().chars().count() <= width, "{width}: {plain}");
            assert_eq!(plain.contains('…'), width < 13, "{width}: {plain}");
        }
        let coloured = render(&[line], Screen { colour: true, width: Some(5), height: None });
        assert_eq!(coloured, "\x1b[32myes \x1b[0m…\n");
    }

    #[test]
    fn json_is_ascii_and_says_the_same() {
        let value = serde_json::json!({ "a\u{9b}": ["\u{202e}é😀\u{7f}\n\u{1b}[2J", 1, null] });
        let text = render_json(&value);
        assert!(text.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn long_lists_say_how_much_is_left() {
        assert_eq!(list(["a", "b"]), "a, b");
        assert_eq!(list::<&str>([]), "none");
        assert!(list((0..30).map(|n| n.to_string())).ends_with("7 and 22 more"));
    }
}
