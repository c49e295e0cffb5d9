//! Lets new streams in at a bounded rate, so that thousands of clients that come back at once neither starve those that are
//! there nor each other. What a new stream costs (all that its client lacks) is paid when it is let in.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Streams let in at once after a quiet time.
const BURST: u32 = 400;
/// Streams let in per second after that.
const PER_SECOND: u32 = 4_000;

/// When the next stream is let in.
#[derive(Debug)]
pub(super) struct Admission(Mutex<Instant>);

impl Default for Admission {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Admission {
    /// Waits for this stream's turn.
    pub(super) async fn admit(&self) {
        let turn = self.turn(Instant::now());
        // The timer's grain is a millisecond.
        if turn > Instant::now() + Duration::from_millis(1) {
            tokio::time::sleep_until(turn).await;
        }
    }

    /// Takes the next turn, at `now` or later. Turns that are not used are kept, up to a burst.
    fn turn(&self, now: Instant) -> Instant {
        let step = Duration::from_secs(1) / PER_SECOND;
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(step * BURST).unwrap_or(now);
        let turn = (*next).max(earliest);
        *next = turn + step;
        turn.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_in_at_once_and_the_rest_at_the_rate() {
        let admission = Admission::default();
        let now = Instant::now() + Duration::from_secs(60);
        for _ in 0..BURST {
            assert_eq!(admission.turn(now), now);
        }
        for _ in 0..PER_SECOND {
            admission.turn(now);
        }
        let waits = admission.turn(now) - now;
        assert!((Duration::from_millis(990)..Duration::from_millis(1010)).contains(&waits), "{waits:?}");
        let later = now + Duration::from_secs(10);
        assert_eq!(admission.turn(later), later);
    }
}
