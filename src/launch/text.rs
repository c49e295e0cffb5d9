//! Text that came from elsewhere, made safe for a terminal.

/// The text with everything that a terminal would act on, or that changes how other text is read, in escaped form.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) { safe.extend(c.escape_unicode()) } else { safe.push(c) }
    }
    safe
}

/// Formatting characters (Unicode category Cf, and the line separators): they hide text, or turn its direction.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_driven_and_no_line_forged() {
        assert_eq!(printable("GET /v1/Zürich — 日本"), "GET /v1/Zürich — 日本");
        assert_eq!(printable("a\u{1b}[2Jb\r\nc\u{9b}m"), "a\\u{1b}[2Jb\\u{d}\\u{a}c\\u{9b}m");
        assert_eq!(printable("user\u{202e}txt.exe"), "user\\u{202e}txt.exe");
    }
}
