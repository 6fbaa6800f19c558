//! What the store has granted to a tag, and whether the row was seen below that since.

use std::time::{Instant, SystemTime};

use crate::bounds::reservation_max;
use crate::segment::IdRange;

use super::{Job, Reserved};

/// The newest grant.
#[derive(Debug, Clone, Copy)]
struct Grant {
    end: i64,
    row: Row,
}

/// What was read of the row since the store granted something.
#[derive(Debug, Clone, Copy)]
enum Row {
    /// Nothing below the grant. Readings that began before this say nothing.
    SoundSince(Instant),
    /// It was below: what the store granted since may end where ours did, and yet be another's.
    GoneBack,
}

/// See the module.
pub(super) struct Grants {
    newest: Option<Grant>,
    /// The newest grant, for the operator.
    reserved: Option<Reserved>,
    /// What the store granted and the watermark file does not know yet.
    undurable: Option<Box<(Job, IdRange)>>,
    /// The highest `max_id` that was seen, read or granted.
    max_id_seen: i64,
}

impl Grants {
    pub fn new() -> Self {
        Self { newest: None, reserved: None, undurable: None, max_id_seen: 0 }
    }

    /// The store has granted this, and it is durable.
    pub fn note(&mut self, granted: IdRange, now: Instant, at: SystemTime) {
        let row = if self.has_gone_back() { Row::GoneBack } else { Row::SoundSince(now) };
        self.newest = Some(Grant { end: granted.end, row });
        self.reserved = Some(Reserved { amount: granted.len(), at });
        self.max_id_seen = self.max_id_seen.max(granted.end);
    }

    /// Takes note of the row's `max_id`, in a reading that began at `read_at`.
    pub fn observe_row(&mut self, max_id: i64, read_at: Instant) {
        self.max_id_seen = self.max_id_seen.max(max_id);
        if let Some(Grant { end, row }) = &mut self.newest
            && *end > max_id
            && matches!(row, Row::SoundSince(granted_at) if *granted_at < read_at)
        {
            *row = Row::GoneBack;
        }
    }

    /// The row was seen below what was granted.
    pub fn has_gone_back(&self) -> bool {
        matches!(self.newest, Some(Grant { row: Row::GoneBack, .. }))
    }

    /// Where the newest reservation ended, and the row's `max_id` with it, unless others have changed it since.
    pub fn newest_end(&self) -> Option<i64> {
        let undurable = self.undurable.as_ref().map(|undurable| undurable.1.end);
        undurable.max(self.newest.map(|newest| newest.end))
    }

    pub fn reserved(&self) -> Option<Reserved> {
        self.reserved
    }

    /// The most that one reservation may take.
    pub fn reservation_max(&self, step: i64) -> i64 {
        reservation_max(self.max_id_seen, step)
    }

    pub fn keep_undurable(&mut self, job: Job, granted: IdRange) {
        self.undurable = Some(Box::new((job, granted)));
    }

    pub fn take_undurable(&mut self) -> Option<(Job, IdRange)> {
        self.undurable.take().map(|undurable| *undurable)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ids(start: i64, end: i64) -> IdRange {
        IdRange { start, end }
    }

    /// Grants up to this end, made at the returned time.
    fn granted(end: i64) -> (Grants, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        let at = move |seconds| start + Duration::from_secs(seconds);
        let mut grants = Grants::new();
        grants.note(ids(end - 10, end), at(10), SystemTime::UNIX_EPOCH);
        (grants, at)
    }

    #[test]
    fn a_row_that_a_later_reading_finds_below_the_grant_has_gone_back() {
        let seen = |max_id, seconds| {
            let (mut grants, at) = granted(20);
            grants.observe_row(max_id, at(seconds));
            grants.has_gone_back()
        };
        assert_eq!((seen(20, 11), seen(19, 11)), (false, true));
        assert_eq!((seen(19, 10), seen(19, 9)), (false, false), "it was read before it was raised");
        let mut grants = Grants::new();
        grants.observe_row(-1, Instant::now());
        assert!(!grants.has_gone_back(), "nothing was granted");
    }

    #[test]
    fn a_row_that_has_gone_back_is_not_trusted_again() {
        let (mut grants, at) = granted(20);
        grants.observe_row(19, at(11));
        grants.observe_row(20, at(12));
        assert!(grants.has_gone_back());
        grants.note(ids(20, 30), at(13), SystemTime::UNIX_EPOCH);
        assert!(grants.has_gone_back());
        assert_eq!(grants.newest_end(), Some(30));
    }

    #[test]
    fn the_newest_end_is_that_of_what_is_not_durable_too() {
        let mut grants = Grants::new();
        assert_eq!(grants.newest_end(), None);
        grants.keep_undurable(Job::Extend(10), ids(10, 20));
        assert_eq!(grants.newest_end(), Some(20));
        assert_eq!(grants.take_undurable(), Some((Job::Extend(10), ids(10, 20))));
        assert_eq!((grants.take_undurable(), grants.newest_end()), (None, None));
        let (mut grants, _) = granted(30);
        assert_eq!(grants.newest_end(), Some(30));
        grants.keep_undurable(Job::Extend(10), ids(30, 40));
        assert_eq!(grants.newest_end(), Some(40));
    }

    #[test]
    fn the_operator_is_shown_the_newest_reservation() {
        let (mut grants, at) = granted(20);
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        grants.note(ids(100, 105), at(11), later);
        let reserved = grants.reserved().expect("something was granted");
        assert_eq!((reserved.amount, reserved.at), (5, later));
        assert!(Grants::new().reserved().is_none());
    }

    #[test]
    fn how_much_may_be_reserved_follows_from_the_highest_max_id_that_was_seen() {
        let high = i64::MAX - 5_000;
        let (mut grants, at) = granted(high);
        assert_eq!(grants.reservation_max(1), 5, "granted");
        grants.observe_row(high - 1_000_000, at(11));
        assert_eq!(grants.reservation_max(1), 5, "it went back");
        assert_eq!(grants.reservation_max(9), 9, "a step is always allowed");
        let mut grants = Grants::new();
        assert_eq!(grants.reservation_max(1), i64::MAX / 1000);
        grants.observe_row(high, at(11));
        assert_eq!(grants.reservation_max(1), 5, "read");
    }

    #[test]
    fn to_know_that_the_row_has_gone_back_takes_no_memory_of_its_own() {
        assert_eq!(size_of::<Option<Grant>>(), size_of::<(i64, Instant)>());
    }
}
