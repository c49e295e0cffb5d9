//! Spans and points of time as they are given on a command line.

use std::str::FromStr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use crate::domain::span::{Span, SpanError};

/// The last second of the year 9999, which RFC 3339 can still write.
pub const LATEST: i64 = 253_402_300_799;

/// The seconds between two points of time, as a span; not below zero.
pub fn between(from: i64, to: i64) -> Span {
    Span::of_seconds(to.saturating_sub(from))
}

/// A `Moment` is a point of time: RFC 3339, Unix seconds, or a [`Span`] from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// At this Unix second, between 1970 and 9999.
    At(i64),
    /// So much from now.
    In(Span),
}

/// Why a text is not a [`Moment`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a time is RFC 3339 (2026-01-31T12:00:00Z), Unix seconds (1769860800), or a span from now (30m, 1h, 7d)")]
pub struct MomentError;

impl Moment {
    /// The Unix second, given the present one.
    pub fn unix(self, now: i64) -> i64 {
        match self {
            Self::At(unix) => unix,
            Self::In(span) => now.saturating_add(span.seconds()).min(LATEST),
        }
    }
}

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        if let Ok(span) = text.parse() {
            return Ok(Self::In(span));
        }
        let unix = match text.parse::<i64>() {
            Ok(unix) => unix,
            Err(_) => OffsetDateTime::parse(text, &Rfc3339).map_err(|_| MomentError)?.unix_timestamp(),
        };
        if (0..=LATEST).contains(&unix) { Ok(Self::At(unix)) } else { Err(MomentError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, seconds, shown) in [
            ("30m", 1800, "30m"),
            ("1h", 3600, "1h"),
            ("24h", 86_400, "1d"),
            ("7d", 604_800, "7d"),
            ("2w", 1_209_600, "14d"),
            ("1h30m", 5400, "1h 30m"),
            ("24h0m0s", 86_400, "1d"),
            ("90061s", 90_061, "1d 1h"),
            ("86461s", 86_461, "1d"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.seconds(), seconds, "{text}");
            assert_eq!(span.to_string(), shown, "{text}");
        }
        for bad in ["", "0s", "0h", "1", "h", "-1h", "1y", "1.5h", "1 h", "1H", "99999999999999999999d", "40000d", "1é"]
        {
            assert_eq!(bad.parse::<Span>(), Err(SpanError), "{bad}");
        }
        assert_eq!(between(5, 5).to_string(), "0s");
        assert_eq!(between(i64::MIN, i64::MAX).seconds(), i64::MAX);
    }

    #[test]
    fn moments() {
        let at = |text: &str| text.parse::<Moment>().map(|moment| moment.unix(100));
        assert_eq!(at("1h"), Ok(3700));
        assert_eq!(at("1767225600"), Ok(1_767_225_600));
        assert_eq!(at("2026-01-01T00:00:00Z"), Ok(1_767_225_600));
        assert_eq!(at("2026-01-01T01:00:00.5+01:00"), Ok(1_767_225_600));
        for bad in ["", "-1", "2026-01-01", "tomorrow", "253402300800", "1969-01-01T00:00:00Z", "2026-13-01T00:00:00Z"]
        {
            assert_eq!(at(bad), Err(MomentError), "{bad}");
        }
        assert_eq!("36500d".parse::<Moment>().unwrap().unix(LATEST), LATEST);
    }
}
