//! States that come and go: what the log is told of them.

use std::time::{Duration, Instant};

/// The least time between the beginnings that the log is told of.
const PAUSE: Duration = Duration::from_secs(10);

/// A state that holds at times, and may flap: the log is told when it begins and when it ends, but not of every time. One
/// that begins too soon after another is told of when it has lasted for as long as that.
#[derive(Debug, Default)]
pub struct Episode {
    told: bool,
    told_at: Option<Instant>,
}

impl Episode {
    /// The state holds; whether the log is to be told. To be called again for as long as it holds.
    pub fn holds(&mut self, now: Instant) -> bool {
        let lately = self.told_at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE);
        let tell = !self.told && !lately;
        if tell {
            self.told = true;
            self.told_at = Some(now);
        }
        tell
    }

    /// The state does not hold; whether the log is to be told, because it was told that it did.
    pub fn is_over(&mut self) -> bool {
        std::mem::take(&mut self.told)
    }
}

/// Something that happens again and again: the log is told of the first at once, and then from time to time how many there
/// were.
#[derive(Debug, Default)]
pub struct Recurrence {
    untold: u64,
    told_at: Option<Instant>,
}

impl Recurrence {
    /// It has happened; if the log is to be told, how often since it was told last.
    pub fn happens(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.told_at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_recurs_is_told_of_at_a_bounded_rate_and_with_its_count() {
        let mut recurrence = Recurrence::default();
        let start = Instant::now();
        assert_eq!(recurrence.happens(start), Some(1));
        assert!((1..100).all(|ms| recurrence.happens(start + Duration::from_millis(ms)).is_none()));
        assert_eq!(recurrence.happens(start + PAUSE), Some(100));
    }

    #[test]
    fn an_end_is_told_if_its_beginning_was_and_flapping_is_not() {
        let mut episode = Episode::default();
        let start = Instant::now();
        assert!(!episode.is_over(), "nothing has begun");
        assert!(episode.holds(start) && !episode.holds(start + PAUSE * 2), "once");
        assert!(episode.is_over() && !episode.is_over());
        let mut episode = Episode::default();
        assert!(episode.holds(start));
        for ms in 1..100 {
            assert_eq!(episode.is_over(), ms == 1);
            assert!(!episode.holds(start + Duration::from_millis(ms)));
        }
        assert!(episode.holds(start + PAUSE), "one that lasts is told of in the end");
        assert!(episode.is_over());
    }
}
