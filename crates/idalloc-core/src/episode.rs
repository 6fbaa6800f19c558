//! States that come and go: what the log is told of them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
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

/// A [`Recurrence`] that many threads see happen, often: without a lock, and with times in nanoseconds since they began to.
#[derive(Debug, Default)]
pub struct SharedRecurrence {
    untold: AtomicU64,
    due_ns: AtomicU64,
}

impl SharedRecurrence {
    /// As [`Recurrence::happens`].
    pub fn happens(&self, now_ns: u64) -> Option<u64> {
        // Relaxed, here and below: counts, and one number that the first to come changes.
        self.untold.fetch_add(1, Relaxed);
        let due_ns = self.due_ns.load(Relaxed);
        if now_ns < due_ns {
            return None;
        }
        let next_ns = now_ns + PAUSE.as_nanos() as u64;
        self.due_ns.compare_exchange(due_ns, next_ns, Relaxed, Relaxed).ok()?;
        Some(self.untold.swap(0, Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_threads_see_recur_is_told_of_by_one_of_them() {
        let recurrence = SharedRecurrence::default();
        let told = |now_ns| -> Vec<u64> {
            std::thread::scope(|scope| {
                let threads = [(); 4].map(|()| {
                    scope.spawn(|| (0..100).filter_map(|_| recurrence.happens(now_ns)).collect::<Vec<_>>())
                });
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            })
        };
        let first = told(0);
        let pause_ns = PAUSE.as_nanos() as u64;
        assert!(first.len() == 1 && told(pause_ns - 1).is_empty());
        let second = told(pause_ns);
        assert_eq!(second.len(), 1);
        let last = recurrence.happens(2 * pause_ns).unwrap();
        assert_eq!(first[0] + second[0] + last, 3 * 400 + 1, "none is lost");
    }

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
