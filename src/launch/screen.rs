//! What a program does to the terminal, as far as needed to put a line in between without garbling it, and to clean up when the
//! program cannot.

use std::collections::BTreeSet;

/// Alternate screens: a program draws on all of it.
const ALTERNATE: [u16; 3] = [47, 1047, 1049];
/// Pasted text is marked: a line editor waits for input.
const PASTE: u16 = 2004;
/// The cursor is seen; programs hide it while they draw.
const CURSOR: u16 = 25;
/// What a program may leave on when it is cut off, besides those above: cursor keys of their own, mouse, focus.
const LEFT_OVER: [u16; 9] = [1, 9, 1000, 1002, 1003, 1004, 1005, 1006, 1015];

/// Follows the output of a terminal.
#[derive(Debug, Default)]
pub(super) struct Screen {
    at: At,
    /// The cursor is in the first column of a line on which nothing was written.
    line_start: bool,
    /// The private modes (DECSET) that are not as they are in a fresh terminal.
    modes: BTreeSet<u16>,
}

#[derive(Debug, Default)]
enum At {
    #[default]
    Ground,
    Escape,
    /// A control sequence, with its parameters so far.
    Control {
        private: bool,
        parameters: Vec<u16>,
        odd: bool,
    },
    /// A text for the terminal itself (title …), up to BEL or ST.
    Text {
        escape: bool,
    },
}

impl Screen {
    /// Takes output in, and puts `lines` into it at the first place where a line of ours does no harm.
    pub(super) fn weave(&mut self, output: &[u8], lines: &mut Vec<String>) -> Vec<u8> {
        let mut woven = Vec::with_capacity(output.len());
        for &byte in output {
            woven.push(byte);
            self.take(byte);
            if !lines.is_empty() && self.is_free() {
                for line in lines.drain(..) {
                    woven.extend_from_slice(b"\r");
                    woven.extend_from_slice(line.as_bytes());
                    woven.extend_from_slice(b"\r\n");
                }
            }
        }
        woven
    }

    /// What brings a terminal back to what it was, whatever the program left.
    pub(super) fn restore(&mut self) -> Vec<u8> {
        let mut sequences = match self.at {
            // Ends a sequence that was cut off.
            At::Ground => Vec::new(),
            _ => b"\x18".to_vec(),
        };
        for mode in std::mem::take(&mut self.modes) {
            let end = if mode == CURSOR { 'h' } else { 'l' };
            sequences.extend_from_slice(format!("\x1b[?{mode}{end}").as_bytes());
        }
        self.at = At::Ground;
        sequences
    }

    fn is_free(&self) -> bool {
        let drawn_on = [PASTE, CURSOR].iter().chain(&ALTERNATE).any(|mode| self.modes.contains(mode));
        self.line_start && matches!(self.at, At::Ground) && !drawn_on
    }

    fn take(&mut self, byte: u8) {
        self.at = match (std::mem::take(&mut self.at), byte) {
            // CAN and SUB end every sequence; ESC begins one.
            (_, 0x18 | 0x1a) => At::Ground,
            (At::Text { .. }, 0x1b) => At::Text { escape: true },
            (_, 0x1b) => At::Escape,
            (At::Ground, byte) => {
                match byte {
                    b'\n' => self.line_start = true,
                    b'\r' | 0x07 | 0x00 => {}
                    _ => self.line_start = false,
                }
                At::Ground
            }
            (At::Escape, b'[') => At::Control { private: false, parameters: vec![0], odd: false },
            (At::Escape, b']' | b'P' | b'X' | b'^' | b'_') => At::Text { escape: false },
            (At::Escape, b'c') => {
                // A reset of the terminal.
                self.modes.clear();
                self.line_start = false;
                At::Ground
            }
            // With an intermediate character, the final one is to come.
            (At::Escape, 0x20..=0x2f) => At::Escape,
            (At::Escape, b'M' | b'D' | b'E' | b'7' | b'8') => {
                self.line_start = false;
                At::Ground
            }
            (At::Escape, _) => At::Ground,
            (At::Text { .. }, 0x07) | (At::Text { escape: true }, b'\\') => At::Ground,
            (At::Text { .. }, _) => At::Text { escape: false },
            (At::Control { private, parameters, odd }, byte) => self.control(private, parameters, odd, byte),
        };
    }

    fn control(&mut self, mut private: bool, mut parameters: Vec<u16>, mut odd: bool, byte: u8) -> At {
        match byte {
            b'?' => private = true,
            b'0'..=b'9' => {
                if let Some(last) = parameters.last_mut() {
                    *last = last.saturating_mul(10).saturating_add(u16::from(byte - b'0'));
                }
            }
            // No sequence that matters has more.
            b';' | b':' if parameters.len() < 32 => parameters.push(0),
            b'@'..=b'~' => {
                match byte {
                    b'h' | b'l' if private && !odd => {
                        parameters.into_iter().for_each(|mode| self.set(mode, byte == b'h'));
                    }
                    // Colours and the like leave the cursor where it is.
                    b'h' | b'l' | b'm' | b'n' | b'c' | b'q' | b't' | b'K' | b'u' => {}
                    _ => self.line_start = false,
                }
                return At::Ground;
            }
            _ => odd = true,
        }
        At::Control { private, parameters, odd }
    }

    fn set(&mut self, mode: u16, on: bool) {
        let changed = if mode == CURSOR { !on } else { on };
        if changed && (ALTERNATE.contains(&mode) || LEFT_OVER.contains(&mode) || [PASTE, CURSOR].contains(&mode)) {
            self.modes.insert(mode);
        } else {
            self.modes.remove(&mode);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn woven(output: &[&str]) -> String {
        let (mut screen, mut lines) = (Screen::default(), vec!["NOTE".to_owned()]);
        let all: Vec<u8> = output.iter().flat_map(|part| screen.weave(part.as_bytes(), &mut lines)).collect();
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn a_line_goes_in_where_a_new_line_begins() {
        assert_eq!(woven(&["$ ls\r", "\na b\r\n$ "]), "$ ls\r\n\rNOTE\r\na b\r\n$ ");
        assert_eq!(woven(&["50%\r51%\r"]), "50%\r51%\r", "a line that is written again and again");
    }

    #[test]
    fn an_editor_that_waits_for_input_is_not_disturbed() {
        // bash: the new line, and then that the line is taken.
        let bash = "\u{1b}[?2004h$ a\r\nb\r\n\u{1b}[?2004l\rout\r\n";
        assert_eq!(woven(&[bash]), "\u{1b}[?2004h$ a\r\nb\r\n\u{1b}[?2004l\rNOTE\r\n\rout\r\n");
        // zsh: the other way around.
        assert_eq!(
            woven(&["\u{1b}[?2004h% a", "\u{1b}[?2004l\r\r\nout"]),
            "\u{1b}[?2004h% a\u{1b}[?2004l\r\r\n\rNOTE\r\nout"
        );
    }

    #[test]
    fn programs_that_draw_are_not_disturbed() {
        for (on, off) in
            [("\u{1b}[?1049h", "\u{1b}[?1049l"), ("\u{1b}[?25l", "\u{1b}[?25h"), ("\u{1b}[?1;47h", "\u{1b}[?47l")]
        {
            let drawing = format!("x{on}a\r\nb\r\n{off}");
            assert!(woven(&[&drawing]).ends_with("\rNOTE\r\n"), "{on:?}");
            assert!(woven(&[&drawing]).starts_with(&format!("x{on}a\r\nb\r\n{off}")), "{on:?}");
        }
        // Within a title, and within a sequence cut in two.
        assert_eq!(woven(&["\u{1b}]0;a\nb\u{7}c"]), "\u{1b}]0;a\nb\u{7}c");
        assert_eq!(woven(&["\n"]), "\n\rNOTE\r\n");
        assert_eq!(woven(&["x\u{1b}[", "?104", "9h\n"]), "x\u{1b}[?1049h\n");
        // After the cursor was moved, where it is is not known.
        assert_eq!(woven(&["\u{1b}[?25l\n\u{1b}[2A\u{1b}[?25h"]), "\u{1b}[?25l\n\u{1b}[2A\u{1b}[?25h");
    }

    #[test]
    fn what_a_program_left_is_undone() {
        let mut screen = Screen::default();
        screen.weave(b"\x1b[?1049h\x1b[?25l\x1b[?1000;1006h\x1b[?2004h\x1b[?7l\x1b[?2026h\x1b[?1006l", &mut Vec::new());
        assert_eq!(screen.restore(), b"\x1b[?25h\x1b[?1000l\x1b[?1049l\x1b[?2004l");
        assert_eq!(screen.restore(), b"");
        screen.weave(b"\x1b]0;tit", &mut Vec::new());
        assert_eq!(screen.restore(), b"\x18");
    }

    proptest! {
        #[test]
        fn output_is_only_ever_added_to(parts in proptest::collection::vec("(\\PC|\n|\u{1b}|\u{7}|\u{18}|\\[|\\?|[0-9;hlmA]){0,12}", 0..8)) {
            let text: String = parts.concat();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let output = woven(&parts);
            prop_assert_eq!(output.replacen("\rNOTE\r\n", "", 1), text);
        }
    }
}
