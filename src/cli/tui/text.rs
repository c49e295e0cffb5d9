//! Texts from elsewhere, for a screen.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Level, Palette};
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

/// Lines of at most this width, broken at spaces where there are any, each printable; of a long line only its beginning.
pub(in crate::cli) fn wrapped(text: &str, width: u16) -> Vec<String> {
    text.lines().flat_map(|line| broken(&clean(line), width)).collect()
}

/// The same with all of every line: what somebody is asked about is shown to its end.
pub(in crate::cli) fn wrapped_whole(text: &str, width: u16) -> Vec<String> {
    text.lines().flat_map(|line| broken(&printable(line), width)).collect()
}

fn broken(line: &str, width: u16) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = line;
    while let Some(cut) = too_wide(rest, usize::from(width)) {
        let at = rest[..cut].rfind(' ').filter(|&at| !rest[..at].trim().is_empty()).unwrap_or(cut);
        lines.push(rest[..at].to_owned());
        rest = rest[at..].trim_start();
    }
    lines.push(rest.to_owned());
    lines
}

/// Where the first character begins, after the first one, that has no room.
fn too_wide(text: &str, width: usize) -> Option<usize> {
    let mut used = 0;
    text.char_indices().find_map(|(at, c)| {
        used += columns(c);
        (used > width && at > 0).then_some(at)
    })
}

/// The columns that a character takes, or more.
fn columns(c: char) -> usize {
    match c {
        ' '..='~' => 1,
        // It makes the character before it a wide one.
        '\u{fe0f}' => 1,
        _ => Span::raw(c.encode_utf8(&mut [0; 4]) as &str).width(),
    }
}

/// The lines of a message at the foot of a screen: it is read to its end, as far as a third of the screen has room.
pub(in crate::cli) fn message((level, text): &(Level, String), palette: Palette, screen: Rect) -> Vec<Line<'static>> {
    let room = usize::from(screen.height / 3).max(1);
    let lines = wrapped(text, screen.width.max(8)).into_iter().take(room);
    lines.map(|line| Line::styled(line, palette.level(*level))).collect()
}

/// Whether `part` is in `text`, in any case.
pub(in crate::cli) fn contains(text: &str, part: &str) -> bool {
    part.is_empty() || text.to_lowercase().contains(&part.to_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_broken_at_spaces_and_keep_to_the_width() {
        assert_eq!(wrapped("one two three\nfour", 8), ["one two", "three", "four"]);
        assert_eq!(wrapped("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrapped("日本語です", 4), ["日本", "語で", "す"]);
        assert_eq!(wrapped("日本", 1), ["日", "本"]);
        assert_eq!(wrapped("ab", 0), ["a", "b"]);
        assert_eq!(wrapped("", 4), Vec::<String>::new());
    }

    #[test]
    fn what_is_asked_about_is_shown_to_its_end() {
        let long = format!("{}the end", "x".repeat(2000));
        assert!(!wrapped(&long, 80).concat().contains("the end"));
        assert_eq!(wrapped_whole(&long, 80).concat(), long);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_too_wide(text in "(\\PC|[a-z日本👍\u{fe0f}\u{301} ]){0,60}", width in 2_u16..30) {
            let lines = wrapped_whole(&text, width);
            for line in &lines {
                prop_assert!(Span::raw(line.as_str()).width() <= usize::from(width), "{line:?}");
            }
            let squeezed = |text: &str| text.split(' ').collect::<String>();
            prop_assert_eq!(squeezed(&lines.concat()), squeezed(&printable(&text)));
        }
    }
}
