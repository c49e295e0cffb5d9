//! How things are marked: always by a character, too, since colours may not be wanted.

use ratatui::style::{Color, Modifier, Style};

use crate::control::v1::State;

/// How serious something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Level {
    /// Went through.
    Good,
    /// Was refused.
    Refused,
    /// Good to know.
    Info,
    /// May need someone.
    Warning,
    /// Needs someone.
    Error,
    /// Goes on from the line before.
    More,
}

/// The character of a level.
pub(in crate::cli) fn mark(level: Level) -> char {
    match level {
        Level::Good => '✓',
        Level::Refused => '✗',
        Level::Info | Level::More => '·',
        Level::Warning | Level::Error => '!',
    }
}

/// The character of what a sandbox does.
pub(in crate::cli) fn mark_of(state: State) -> char {
    match state {
        State::Running => '●',
        State::Partial => '◐',
        State::Starting => '◌',
        State::Stopped => '○',
        State::Unspecified => '?',
    }
}

/// Styles, in colours if they are wanted.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Palette {
    pub(in crate::cli) colours: bool,
}

impl Palette {
    pub(in crate::cli) fn colour(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    pub(in crate::cli) fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(in crate::cli) fn state(self, state: State) -> Style {
        match state {
            State::Running => self.colour(Color::Green),
            State::Partial => self.colour(Color::Red).add_modifier(Modifier::BOLD),
            State::Starting => self.colour(Color::Yellow),
            State::Stopped | State::Unspecified => self.dim(),
        }
    }

    pub(in crate::cli) fn level(self, level: Level) -> Style {
        match level {
            Level::Good => self.colour(Color::Green),
            Level::Refused => self.colour(Color::Red),
            Level::Info | Level::More => Style::new(),
            Level::Warning => self.colour(Color::Yellow),
            Level::Error => self.colour(Color::Red).add_modifier(Modifier::BOLD),
        }
    }
}
