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

#[cfg(test)]
mod tests {
    use super::*;

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
