//! Texts from elsewhere, for a screen.

use crate::launch::printable;

/// The most characters of a line: an agent chooses some of the texts.
const LONGEST: usize = 500;

/// One line of text, without anything that a terminal would act on, and bounded.
pub(in crate::cli) fn clean(text: &str) -> String {
    let mut safe = printable(text);
    if let Some((at, _)) = safe.char_indices().nth(LONGEST) {
        safe.truncate(at);
        safe.push('…');
    }
    safe
}

/// Lines of at most this width, broken at spaces where there are any, each printable.
pub(in crate::cli) fn wrapped(text: &str, width: u16) -> Vec<String> {
    let width = usize::from(width).max(1);
    let mut lines = Vec::new();
    for line in text.lines() {
        let line = clean(line);
        let mut rest: &str = &line;
        while let Some((cut, _)) = rest.char_indices().nth(width) {
            let at = rest[..cut].rfind(' ').filter(|&at| !rest[..at].trim().is_empty()).unwrap_or(cut);
            lines.push(rest[..at].to_owned());
            rest = rest[at..].trim_start();
        }
        lines.push(rest.to_owned());
    }
    lines
}

/// Whether `part` is in `text`, in any case.
pub(in crate::cli) fn contains(text: &str, part: &str) -> bool {
    part.is_empty() || text.to_lowercase().contains(&part.to_lowercase())
}
