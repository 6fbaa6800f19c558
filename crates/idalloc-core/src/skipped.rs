//! IDs that were reserved, or may have been, and that nobody will ever be given: counted by reason, and named in the log.
//!
//! Clients can cause them, as by going away while they wait. So the log has a bounded number of lines for them, and
//! sums up what it does not name.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tracing::info;

use crate::segment::IdRange;
use crate::sync::lock;
use crate::tag::Discarded;

/// The most ranges that the log names within [`PERIOD`].
const LINES_MAX: u32 = 100;
const PERIOD: Duration = Duration::from_secs(10);

/// Why IDs are skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The caller they were meant for had gone.
    NoTaker,
    /// The store had gone back: others may have been granted the same IDs.
    StoreGoneBack,
    /// The answer to a reservation was lost: the store may have granted them.
    UnknownOutcome,
    /// The tag was deleted while they were in memory.
    TagDeleted,
    /// They were in memory at the end, and could not be given back to the store.
    NotGivenBack,
}

/// Every reason, with its name in figures.
pub const REASONS: [(Reason, &str); 5] = [
    (Reason::NoTaker, "no_taker"),
    (Reason::StoreGoneBack, "store_gone_back"),
    (Reason::UnknownOutcome, "unknown_outcome"),
    (Reason::TagDeleted, "tag_deleted"),
    (Reason::NotGivenBack, "not_given_back"),
];

/// The counts, and what the log has been told.
#[derive(Default)]
pub(crate) struct Skipped {
    ids: [AtomicU64; REASONS.len()],
    told: Mutex<Told>,
}

/// What the log has been told since `since`, and what it has not.
#[derive(Debug, Default)]
struct Told {
    since: Option<Instant>,
    lines: u32,
    untold: Untold,
}

/// Ranges that the log does not name.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Untold {
    ranges: u64,
    ids: u64,
}

impl Told {
    /// Begins the next period when this one is over. Returns what the log was not told in this one.
    fn begin_period(&mut self, now: Instant) -> Option<Untold> {
        let is_on = self.since.is_some_and(|since| now.saturating_duration_since(since) < PERIOD);
        if is_on {
            return None;
        }
        self.since = Some(now);
        self.lines = 0;
        self.take_untold()
    }

    fn take_untold(&mut self) -> Option<Untold> {
        Some(std::mem::take(&mut self.untold)).filter(|untold| untold.ranges > 0)
    }

    /// Whether the log may be told of a range of so many IDs.
    fn admit(&mut self, ids: u64) -> bool {
        let admitted = self.lines < LINES_MAX;
        if admitted {
            self.lines += 1;
        } else {
            self.untold.ranges += 1;
            self.untold.ids = self.untold.ids.saturating_add(ids);
        }
        admitted
    }
}

impl Skipped {
    /// Takes note of a range that nobody will be given.
    pub fn note(&self, tag: &str, Discarded(ids): Discarded, reason: Reason) {
        self.note_because(tag, ids, reason, text(reason));
    }

    /// As [`Skipped::note`], for several.
    pub fn note_all(&self, tag: &str, ranges: &[Discarded], reason: Reason) {
        ranges.iter().for_each(|range| self.note(tag, *range, reason));
    }

    /// As [`Skipped::note`], where more is known than the reason.
    pub fn note_because(&self, tag: &str, ids: IdRange, reason: Reason, why: &str) {
        if self.admit(ids.len(), reason) {
            info!(tag, ?ids, count = ids.len(), "IDs are skipped: {why}");
        }
    }

    /// Takes note of a reservation of so many IDs whose outcome is unknown.
    pub fn note_unknown(&self, tag: &str, amount: i64) {
        let reason = Reason::UnknownOutcome;
        if self.admit(amount.unsigned_abs(), reason) {
            info!(tag, count = amount, "IDs may be skipped: {}", text(reason));
        }
    }

    fn admit(&self, ids: u64, reason: Reason) -> bool {
        if ids == 0 {
            return false;
        }
        if let Some(index) = REASONS.iter().position(|(known, _)| *known == reason) {
            // Relaxed: a count, no more.
            self.ids[index].fetch_add(ids, Relaxed);
        }
        let (untold, admitted) = {
            let mut told = lock(&self.told);
            (told.begin_period(Instant::now()), told.admit(ids))
        };
        sum_up(untold);
        admitted
    }

    /// Sums up in the log what it was not told, when a period is over. To be called from time to time.
    pub fn tell_untold(&self, now: Instant) {
        let untold = lock(&self.told).begin_period(now);
        sum_up(untold);
    }

    /// As [`Skipped::tell_untold`], at the end.
    pub fn tell_the_rest(&self) {
        let untold = lock(&self.told).take_untold();
        sum_up(untold);
    }

    /// How many IDs were skipped, in the order of [`REASONS`].
    pub fn counts(&self) -> [u64; REASONS.len()] {
        std::array::from_fn(|reason| self.ids[reason].load(Relaxed))
    }
}

fn sum_up(untold: Option<Untold>) {
    if let Some(Untold { ranges, ids }) = untold {
        info!(ranges, count = ids, "more IDs are skipped than the log names");
    }
}

fn text(reason: Reason) -> &'static str {
    match reason {
        Reason::NoTaker => "they were reserved and had no taker",
        Reason::StoreGoneBack => "the store has gone back, so others may have been granted the same",
        Reason::UnknownOutcome => "the answer to a reservation was lost",
        Reason::TagDeleted => "the tag was deleted while they were in memory",
        Reason::NotGivenBack => "they cannot be given back, because more was reserved above them",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_counted_by_itself() {
        let skipped = Skipped::default();
        for ((reason, _), ids) in REASONS.into_iter().zip(1..) {
            skipped.note("a", Discarded(IdRange { start: 10, end: 10 + ids }), reason);
        }
        skipped.note_unknown("a", 100);
        skipped.note("a", Discarded(IdRange { start: 10, end: 10 }), Reason::NoTaker);
        assert_eq!(skipped.counts(), [1, 2, 103, 4, 5]);
    }

    #[test]
    fn the_log_names_so_many_ranges_in_a_period_and_sums_up_the_others() {
        let mut told = Told::default();
        let start = Instant::now();
        assert_eq!(told.begin_period(start), None);
        assert!((0..LINES_MAX).all(|_| told.admit(5)));
        assert!(!told.admit(5) && !told.admit(6));
        assert_eq!(told.begin_period(start + PERIOD - Duration::from_millis(1)), None);
        assert_eq!(told.begin_period(start + PERIOD), Some(Untold { ranges: 2, ids: 11 }));
        assert!(told.admit(5), "a new period");
        assert_eq!(told.begin_period(start + 2 * PERIOD), None, "nothing was left out");
    }
}
