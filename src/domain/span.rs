//! Spans of time as people write them, on command lines and in configuration files.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A `Span` is a whole number of seconds; read from text it is one second to 100 years, written `30m`, `1h`, `24h`, `7d` or `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(i64);

/// Why a text is not a [`Span`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a time span is a number with a unit (s, m, h, d, w), as in 30m, 1h, 24h or 7d, and at most 100 years")]
pub struct SpanError;

impl Span {
    /// How many seconds.
    pub fn seconds(self) -> i64 {
        self.0
    }

    /// So many seconds; none when they are below zero.
    pub fn of_seconds(seconds: i64) -> Self {
        Self(seconds.max(0))
    }

    /// As a duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0.unsigned_abs())
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let mut total = 0i64;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(SpanError)?;
            let (number, after) = rest.split_at(digits);
            let mut units = after.chars();
            let unit = match units.next() {
                Some('s') => 1,
                Some('m') => 60,
                Some('h') => 3600,
                Some('d') => 86_400,
                Some('w') => 7 * 86_400,
                _ => return Err(SpanError),
            };
            let seconds = number.parse::<i64>().ok().and_then(|number| number.checked_mul(unit)).ok_or(SpanError)?;
            total = total.checked_add(seconds).ok_or(SpanError)?;
            rest = units.as_str();
        }
        if (1..=100 * 366 * 86_400).contains(&total) { Ok(Self(total)) } else { Err(SpanError) }
    }
}

/// The two largest units that are not zero: `6d 23h`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0;
        let mut written = 0;
        for (unit, name) in [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')] {
            let count = left / unit;
            left %= unit;
            if count > 0 && written < 2 {
                let space = if written == 0 { "" } else { " " };
                write!(f, "{space}{count}{name}")?;
                written += 1;
            } else if written > 0 {
                break;
            }
        }
        if written == 0 { f.write_str("0s") } else { Ok(()) }
    }
}
