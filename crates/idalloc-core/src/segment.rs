//! One immutable range of IDs and the cursor that hands it out.
//!
//! # Orderings
//!
//! Every access to the cursor is Relaxed. That no two claims overlap follows from one atomic's modification
//! order alone; the fields that a claim reads besides are immutable, and were published with the segment's
//! `Arc` by arc-swap (release) and seen through it (acquire).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::sync::{ArcSwapOption, AtomicU64};

/// Where [`Segment::close`] puts the cursor: past every `len`, and too far from 2^64 for the claims
/// that still arrive (each adds its count once) to wrap it round.
const CLOSED: u64 = 1 << 63;

/// A half-open range of IDs, `[start, end)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdRange {
    /// The first ID.
    pub start: i64,
    /// One past the last ID; never below `start`.
    pub end: i64,
}

impl IdRange {
    /// How many IDs the range holds.
    pub fn len(self) -> u64 {
        self.end.abs_diff(self.start)
    }

    /// Whether it holds none.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

impl fmt::Debug for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

/// IDs taken out of a segment; they are the caller's alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The IDs: at least one, at most as many as were asked for.
    pub ids: IdRange,
    /// Whether these IDs cover the segment's trigger, its last ID. True for exactly one claim of a segment that is used up.
    pub crossed_trigger: bool,
}

/// A range that the store has granted to this process alone, and how much of it is handed out.
///
/// With the counts of its `Arc` it is two cache lines, of which all workers read the first and write the second. That
/// holds where the allocator aligns what is 128 bytes long, as mimalloc does; to ask for the alignment would cost 256
/// bytes more, and a hundred thousand tags hold two segments each.
#[repr(C)]
pub struct Segment {
    start: i64,
    /// In IDs, at least 1.
    len: u64,
    /// The segment to go on with: set once, and cleared when the head has moved there, lest a worker that
    /// still holds this segment keep alive every one that came after.
    next: ArcSwapOption<Segment>,
    _rest_of_line: [u64; 3],
    /// Offset of the first unclaimed ID, or anything from `len` up when none is left.
    cursor: AtomicU64,
    _rest_of_line_too: [u64; 7],
}

#[cfg(not(loom))]
const _: () =
    assert!(size_of::<Segment>() + 2 * size_of::<usize>() == 128, "two cache lines, with its `Arc`");

impl Segment {
    /// A segment of all of `ids`, which calls for a refill when its last ID is claimed.
    ///
    /// # Panics
    /// If `ids` is empty, or holds 0 or a negative number: those are never IDs.
    pub fn new(ids: IdRange) -> Self {
        assert!(ids.start >= 1 && ids.start < ids.end, "not a range of IDs: {ids:?}");
        Self {
            start: ids.start,
            len: ids.len(),
            next: ArcSwapOption::empty(),
            _rest_of_line: [0; 3],
            cursor: AtomicU64::new(0),
            _rest_of_line_too: [0; 7],
        }
    }

    /// Takes `count` IDs (at least 1), or what is left when that is less; `None` when the segment is spent.
    #[inline(always)]
    pub fn claim(&self, count: u64) -> Option<Claim> {
        let offset = self.cursor.fetch_add(count, Relaxed);
        if offset >= self.len {
            return None;
        }
        Some(self.granted(offset, count.min(self.len - offset)))
    }

    /// Takes exactly `count` IDs (at least 1), or none.
    pub fn claim_exactly(&self, count: u64) -> Option<Claim> {
        let take = |offset: u64| {
            let left = self.len.checked_sub(offset)?;
            (left >= count).then(|| offset + count)
        };
        let offset = self.cursor.fetch_update(Relaxed, Relaxed, take).ok()?;
        Some(self.granted(offset, count))
    }

    #[inline]
    fn granted(&self, offset: u64, count: u64) -> Claim {
        // `offset + count <= len`, and `start + len` is the `end` of an `IdRange`: nothing here overflows.
        let start = self.start + offset as i64;
        Claim {
            ids: IdRange { start, end: start + count as i64 },
            // Claims are disjoint, so exactly one holds the last ID.
            crossed_trigger: offset + count == self.len,
        }
    }

    /// How many IDs are unclaimed.
    pub fn left(&self) -> u64 {
        self.len.saturating_sub(self.cursor.load(Relaxed))
    }

    /// The first ID.
    pub fn start(&self) -> i64 {
        self.start
    }

    /// One past the last ID.
    pub fn end(&self) -> i64 {
        self.start + self.len as i64
    }

    /// Ends the segment: no claim succeeds after this one. Returns what was never claimed, which may be empty.
    pub fn close(&self) -> IdRange {
        let claimed = self.cursor.swap(CLOSED, Relaxed).min(self.len);
        IdRange { start: self.start + claimed as i64, end: self.end() }
    }

    /// The segment to go on with, when there is one and the head has not moved there yet.
    pub(crate) fn next(&self) -> Option<Arc<Segment>> {
        self.next.load_full()
    }

    /// Only a chain's one writer calls this, once for each segment.
    pub(crate) fn link(&self, next: Arc<Segment>) {
        self.next.store(Some(next));
    }

    /// The head has moved on to `next`; nobody needs the way there any more.
    pub(crate) fn unlink(&self) {
        self.next.store(None);
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} with {} left", IdRange { start: self.start, end: self.end() }, self.left())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn segment(start: i64, end: i64) -> Segment {
        Segment::new(IdRange { start, end })
    }

    fn ids(start: i64, end: i64) -> IdRange {
        IdRange { start, end }
    }

    #[test]
    fn claims_run_from_the_first_id_to_the_last_and_then_none() {
        let segment = segment(5, 8);
        let claimed: Vec<_> = std::iter::from_fn(|| segment.claim(1)).map(|claim| claim.ids).collect();
        assert_eq!(claimed, [ids(5, 6), ids(6, 7), ids(7, 8)]);
        assert_eq!(segment.left(), 0);
    }

    #[test]
    fn a_batch_is_cut_at_the_end() {
        let segment = segment(1, 11);
        assert_eq!(segment.claim(7).unwrap().ids, ids(1, 8));
        assert_eq!(segment.claim(7).unwrap().ids, ids(8, 11));
        assert_eq!(segment.claim(7), None);
    }

    #[test]
    fn exactly_one_claim_crosses_the_trigger_whatever_the_counts() {
        for count in 1..=12 {
            let segment = segment(1, 11);
            let crossings =
                std::iter::from_fn(|| segment.claim(count)).filter(|claim| claim.crossed_trigger).count();
            assert_eq!(crossings, 1, "claims of {count}");
        }
    }

    #[test]
    fn an_exact_claim_takes_all_or_nothing() {
        let segment = segment(1, 11);
        assert_eq!(segment.claim_exactly(11), None);
        assert_eq!(segment.claim_exactly(4).unwrap().ids, ids(1, 5));
        assert_eq!(segment.claim_exactly(7), None);
        assert_eq!(segment.left(), 6, "a refused claim takes nothing");
        let last = segment.claim_exactly(6).unwrap();
        assert_eq!((last.ids, last.crossed_trigger), (ids(5, 11), true));
        assert_eq!(segment.claim(1), None);
        assert_eq!(segment.claim_exactly(1), None, "past the end as well");
    }

    #[test]
    fn closing_returns_what_was_never_claimed() {
        let untouched = segment(1, 11);
        assert_eq!(untouched.close(), ids(1, 11));
        let used = segment(1, 11);
        used.claim(3);
        assert_eq!(used.close(), ids(4, 11));
        assert_eq!((used.claim(1), used.claim_exactly(1), used.left()), (None, None, 0));
        let overrun = segment(1, 11);
        overrun.claim(20);
        assert!(overrun.close().is_empty());
    }

    #[test]
    fn the_last_id_below_2_to_the_63_can_be_handed_out() {
        let segment = segment(i64::MAX - 2, i64::MAX);
        assert_eq!(segment.claim(100).unwrap().ids, ids(i64::MAX - 2, i64::MAX));
        assert_eq!(segment.claim(1), None);
    }

    #[test]
    #[should_panic(expected = "not a range of IDs")]
    fn zero_is_never_an_id() {
        segment(0, 10);
    }

    #[test]
    fn threads_never_share_an_id() {
        let segment = segment(1, 100_001);
        let mut all: Vec<i64> = std::thread::scope(|scope| {
            let claimer = |count: u64| {
                let segment = &segment;
                scope.spawn(move || {
                    let mut mine = Vec::new();
                    while let Some(claim) = segment.claim(count) {
                        mine.extend(claim.ids.start..claim.ids.end);
                    }
                    mine
                })
            };
            let threads = [claimer(1), claimer(3), claimer(7), claimer(1)];
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        all.sort_unstable();
        assert!(all.into_iter().eq(1..100_001));
    }
}
