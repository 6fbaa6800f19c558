//! A tag's segments: the head, from which claims take, and what the mutex guards beside it.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::common::Common;
use crate::segment::{IdRange, Segment};
use crate::sizing::CHAIN_SEGMENTS_MAX;
use crate::sync::ArcSwapOption;

use super::ranges::{cut, cut_a_part};

/// Where claims begin. It is not under the mutex. `None` until the first segment is there; then it only moves forward
/// along the chain.
pub(super) struct Head(ArcSwapOption<Segment>);

impl Head {
    pub fn new() -> Self {
        Self(ArcSwapOption::empty())
    }

    pub fn get(&self) -> Option<Arc<Segment>> {
        self.0.load_full()
    }

    /// Moves the head past `spent`, unless somebody has. False when `spent` is the end of the chain.
    pub fn advance(&self, spent: &Arc<Segment>) -> bool {
        if let Some(next) = spent.next() {
            self.0.compare_and_swap(spent, Some(next));
            spent.unlink();
            return true;
        }
        self.get().is_some_and(|head| !Arc::ptr_eq(&head, spent))
    }
}

/// The chain, as seen under the mutex: nothing is appended meanwhile, heads may still move.
pub(super) struct Chain {
    /// The newest segment: where the next one is linked.
    tail: Option<Arc<Segment>>,
    /// The ends of what was handed out before the head, and of the segments from there on, ascending.
    ends: SmallVec<[i64; 3]>,
    /// How many IDs were ever put into the chain, without those that were taken out again: because the store had gone back,
    /// or at the end.
    appended: u64,
    /// What was ever reserved for one caller, and taken.
    leased: Option<Box<Leased>>,
    /// The store's first range of this tag began at 0, which is no ID, and goes back to there if nothing of it is claimed.
    began_at_zero: bool,
    /// The tag is counted among those that have IDs in memory.
    holds_ids: bool,
    /// Nothing is appended any more.
    is_closed: bool,
}

#[derive(Default)]
struct Leased {
    ids: u64,
    /// One past the highest of them.
    end: i64,
}

impl Chain {
    pub fn new() -> Self {
        Self {
            tail: None,
            ends: SmallVec::new(),
            appended: 0,
            leased: None,
            began_at_zero: false,
            holds_ids: false,
            is_closed: false,
        }
    }

    // ---- what is in it ----

    /// Whether there ever was a segment.
    pub fn is_loaded(&self) -> bool {
        self.tail.is_some()
    }

    /// The segments from the head on.
    pub fn segments(&self, head: &Head) -> Vec<Arc<Segment>> {
        let Some(tail) = &self.tail else { return Vec::new() };
        loop {
            let mut segments: Vec<_> = head.get().into_iter().collect();
            while let Some(next) = segments.last().and_then(|last| last.next()) {
                segments.push(next);
            }
            // A head that moved on meanwhile unlinks the way behind it: then this ended too early.
            if segments.last().is_some_and(|last| Arc::ptr_eq(last, tail)) {
                return segments;
            }
        }
    }

    /// How many IDs each segment holds that is not spent.
    pub fn unspent(&self, head: &Head) -> Vec<u64> {
        self.segments(head).iter().map(|segment| segment.left()).filter(|left| *left > 0).collect()
    }

    pub fn left(&self, head: &Head) -> u64 {
        self.segments(head).iter().map(|segment| segment.left()).sum()
    }

    /// How many IDs were handed out one by one or in batches, when `left` are in it.
    pub fn claimed(&self, left: u64) -> u64 {
        self.appended - left
    }

    /// How many IDs were handed out, leases included.
    pub fn issued(&self, left: u64) -> u64 {
        self.claimed(left) + self.leased.as_ref().map_or(0, |leased| leased.ids)
    }

    /// A caller has taken the range that was reserved for it.
    pub fn note_leased(&mut self, range: IdRange) {
        let leased = self.leased.get_or_insert_default();
        leased.end = leased.end.max(range.end);
        leased.ids += range.len();
    }

    /// One past the highest ID that was handed out. To be called when all segments are closed.
    pub fn handed_out_end(&self) -> Option<i64> {
        self.ends.last().copied().max(self.leased.as_ref().map(|leased| leased.end))
    }

    pub fn began_at_zero(&self) -> bool {
        self.began_at_zero
    }

    // ---- putting in ----

    /// Nothing may be appended from now on.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether `range` may be the newest: it lies above everything in the chain, for IDs must not go back.
    pub fn may_append(&self, range: IdRange) -> bool {
        !self.is_closed && self.tail.as_ref().is_none_or(|tail| tail.end() <= range.start)
    }

    /// Appends what the store granted. It holds at least one ID above 0.
    pub fn append(&mut self, head: &Head, common: &Common, granted: IdRange) {
        self.began_at_zero |= granted.start == 0;
        self.link(head, common, IdRange { start: granted.start.max(1), end: granted.end });
    }

    /// Makes a segment of `ids` the newest.
    fn link(&mut self, head: &Head, common: &Common, ids: IdRange) {
        // Before anybody can claim: whoever claims the last of them is the one who ends it.
        if !std::mem::replace(&mut self.holds_ids, true) {
            common.begin_holding();
        }
        let segment = Arc::new(Segment::new(ids));
        if let Some(head) = head.get() {
            self.forget_before(head.start());
        }
        self.ends.push(ids.end);
        self.appended += ids.len();
        match self.tail.replace(segment.clone()) {
            Some(tail) => tail.link(segment),
            None => head.0.store(Some(segment)),
        }
    }

    /// To be called when the chain may have become empty. It is when its newest segment is spent.
    pub fn note_spent(&mut self, common: &Common) {
        let is_spent = self.tail.as_ref().is_none_or(|tail| tail.left() == 0);
        if is_spent && std::mem::take(&mut self.holds_ids) {
            common.end_holding();
        }
    }

    /// The end of what comes before the segment that starts at `start`.
    fn end_before(&self, start: i64) -> Option<i64> {
        self.ends.iter().copied().take_while(|end| *end <= start).last()
    }

    /// Forgets what lies more than one before the segment that starts at `start`.
    fn forget_before(&mut self, start: i64) {
        while self.ends.get(1).is_some_and(|second| *second <= start) {
            self.ends.remove(0);
        }
    }

    // ---- taking out ----

    /// Closes all segments. Returns what was left of each, if anything was. Of `ends`, that of what was handed out remains.
    fn close_segments(&mut self, head: &Head) -> Vec<IdRange> {
        let chain = self.segments(head);
        let before_chain = chain.first().and_then(|head| self.end_before(head.start()));
        // The newest first: a claim that moves on meanwhile finds nothing there, and leaves no gap behind.
        let mut rests: Vec<_> = chain.iter().rev().map(|segment| segment.close()).collect();
        rests.reverse();
        let begun = chain.iter().zip(&rests).filter(|(segment, rest)| rest.start > segment.start());
        let handed_out_end = before_chain.max(begun.map(|(_, rest)| rest.start).max());
        self.ends = handed_out_end.into_iter().collect();
        self.appended -= rests.iter().map(|rest| rest.len()).sum::<u64>();
        rests.retain(|rest| !rest.is_empty());
        rests
    }

    /// Takes out everything for good. Returns what was left of each segment, if anything was.
    pub fn take_out(&mut self, head: &Head, common: &Common) -> Vec<IdRange> {
        let rests = self.close_segments(head);
        self.note_spent(common);
        rests
    }

    /// Makes segments of ranges that were taken out. Whoever found the chain closed waits for the mutex, and tries again.
    fn link_again(&mut self, head: &Head, common: &Common, rests: &[IdRange]) {
        rests.iter().for_each(|rest| self.link(head, common, *rest));
        self.note_spent(common);
        // As a claim does, so that closed segments do not gather behind the head.
        while let Some(spent) = head.get().filter(|first| first.left() == 0) {
            if !head.advance(&spent) {
                return;
            }
        }
    }

    // ---- leases ----

    /// The range for a lease that `granted` was reserved for, which may be appended. It is cut from the lowest IDs that are
    /// in one piece, and the chain goes on with the others. So the IDs that are left are the newest, and only those can be
    /// given back at the end.
    pub fn cut_lease(&mut self, head: &Head, common: &Common, granted: IdRange) -> IdRange {
        let mut rests = self.close_segments(head);
        // A chain of many short ranges, between which others reserve, must not become longer by each lease.
        let lease = match rests.len() < CHAIN_SEGMENTS_MAX {
            true => {
                rests.push(granted);
                cut(&mut rests, granted.len())
            }
            false => None,
        };
        self.link_again(head, common, &rests);
        lease.unwrap_or(granted)
    }

    /// So many IDs that are in one piece, if others are left then.
    pub fn cut_a_part(&mut self, head: &Head, common: &Common, count: u64) -> Option<IdRange> {
        let rest = |segment: &Arc<Segment>| IdRange {
            start: segment.end().saturating_sub_unsigned(segment.left()),
            end: segment.end(),
        };
        let mut rests: Vec<_> =
            self.segments(head).iter().map(rest).filter(|rest| !rest.is_empty()).collect();
        cut_a_part(&mut rests, count)?;
        // Others have claimed since, perhaps.
        let rests_before = self.close_segments(head);
        let mut rests = rests_before.clone();
        let lease = cut_a_part(&mut rests, count);
        self.link_again(head, common, if lease.is_some() { &rests } else { &rests_before });
        lease
    }

    /// Puts a range back from where it was cut. False when an ID above it was handed out: IDs must not go back.
    pub fn put_back(&mut self, head: &Head, common: &Common, range: IdRange) -> bool {
        let mut rests = self.close_segments(head);
        // IDs are claimed from the lowest on, so nothing above an untouched rest is gone either.
        let position = rests.iter().position(|rest| rest.start == range.end);
        if let Some(position) = position {
            rests.insert(position, range);
        }
        self.link_again(head, common, &rests);
        position.is_some()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sizing::Policy;

    fn ids(start: i64, end: i64) -> IdRange {
        IdRange { start, end }
    }

    /// A chain with what surrounds it.
    struct Whole {
        head: Head,
        common: Common,
        chain: Chain,
    }

    /// A chain of these ranges.
    fn chain(ranges: &[IdRange]) -> Whole {
        let mut whole =
            Whole { head: Head::new(), common: Common::new(Policy::default()), chain: Chain::new() };
        ranges.iter().for_each(|range| whole.append(*range));
        whole
    }

    impl Whole {
        fn append(&mut self, granted: IdRange) {
            self.chain.append(&self.head, &self.common, granted);
        }

        /// Claims as a [`TagHandle`](crate::tag::TagHandle) does, one ID at a time.
        fn claim(&self, count: usize) {
            for _ in 0..count {
                let mut head = self.head.get().expect("a segment");
                while head.left() == 0 {
                    assert!(self.head.advance(&head), "the chain is empty");
                    head = self.head.get().expect("a segment");
                }
                head.claim(1).expect("one is left");
            }
        }

        /// What is in the chain.
        fn rests(&self) -> Vec<IdRange> {
            let segments = self.chain.segments(&self.head);
            let rests = segments.iter().filter(|segment| segment.left() > 0);
            rests.map(|it| ids(it.end().saturating_sub_unsigned(it.left()), it.end())).collect()
        }

        fn take_out(&mut self) -> Vec<IdRange> {
            self.chain.take_out(&self.head, &self.common)
        }
    }

    #[test]
    fn the_head_moves_on_from_a_segment_that_has_a_next_one() {
        let mut whole = chain(&[ids(10, 20)]);
        let first = whole.head.get().expect("a segment");
        assert!(!whole.head.advance(&first), "it is the last");
        whole.append(ids(20, 30));
        assert!(whole.head.advance(&first));
        assert_eq!(whole.head.get().expect("a segment").start(), 20);
        assert!(first.next().is_none(), "the way behind the head is unlinked");
        assert!(whole.head.advance(&first), "somebody has moved it");
        assert_eq!(whole.head.get().expect("a segment").start(), 20, "once");
    }

    #[test]
    fn only_what_lies_above_the_chain_may_be_appended() {
        assert!(chain(&[]).chain.may_append(ids(1, 2)));
        let mut whole = chain(&[ids(10, 20)]);
        let may = [ids(20, 30), ids(19, 30), ids(1, 10)].map(|range| whole.chain.may_append(range));
        assert_eq!(may, [true, false, false]);
        whole.chain.close();
        assert!(whole.chain.is_closed() && !whole.chain.may_append(ids(20, 30)));
    }

    #[test]
    fn an_id_of_0_is_left_out_and_remembered() {
        let mut whole = chain(&[ids(0, 3)]);
        whole.append(ids(3, 5));
        assert_eq!(whole.rests(), [ids(1, 3), ids(3, 5)]);
        assert!(whole.chain.began_at_zero() && !chain(&[ids(1, 3)]).chain.began_at_zero());
    }

    #[test]
    fn what_is_left_and_what_was_handed_out_add_up() {
        let mut whole = chain(&[ids(10, 20), ids(30, 40)]);
        whole.claim(12);
        let count = |whole: &Whole| {
            let left = whole.chain.left(&whole.head);
            (left, whole.chain.claimed(left), whole.chain.issued(left))
        };
        assert_eq!(count(&whole), (8, 12, 12));
        assert_eq!(whole.chain.unspent(&whole.head), [8]);
        whole.chain.note_leased(ids(100, 105));
        assert_eq!(count(&whole), (8, 12, 17));
        assert_eq!(whole.take_out(), [ids(32, 40)]);
        assert_eq!(count(&whole), (0, 12, 17), "what is taken out was not handed out");
    }

    #[test]
    fn what_was_handed_out_is_known_after_everything_is_taken_out() {
        let end_after = |claims| {
            let mut whole = chain(&[ids(10, 20), ids(30, 40)]);
            whole.claim(claims);
            whole.take_out();
            whole.chain.handed_out_end()
        };
        assert_eq!([0, 4, 10, 11, 20].map(end_after), [None, Some(14), Some(20), Some(31), Some(40)]);
        let mut whole = chain(&[ids(10, 20), ids(30, 40)]);
        whole.chain.note_leased(ids(50, 55));
        whole.chain.note_leased(ids(25, 28));
        whole.take_out();
        assert_eq!(whole.chain.handed_out_end(), Some(55), "the highest lease");
    }

    #[test]
    fn of_what_lies_before_the_head_one_end_is_remembered() {
        let mut whole = chain(&[]);
        for start in (10..200).step_by(20) {
            whole.append(ids(start, start + 10));
            whole.claim(10);
        }
        assert!(whole.chain.ends.len() <= 3, "{:?}", whole.chain.ends);
        whole.append(ids(210, 220));
        whole.head.advance(&whole.head.get().expect("a segment"));
        whole.take_out();
        assert_eq!(whole.chain.handed_out_end(), Some(200), "nothing of the newest was claimed");
    }

    #[test]
    fn a_chain_is_counted_while_it_holds_an_id() {
        let mut whole = chain(&[]);
        assert!(!whole.common.holds_ids() && !whole.chain.is_loaded());
        whole.append(ids(10, 12));
        whole.claim(1);
        whole.chain.note_spent(&whole.common);
        assert!(whole.common.holds_ids());
        whole.claim(1);
        whole.chain.note_spent(&whole.common);
        whole.chain.note_spent(&whole.common);
        assert!(!whole.common.holds_ids());
        whole.append(ids(20, 22));
        assert!(whole.common.holds_ids());
        whole.take_out();
        assert!(!whole.common.holds_ids() && whole.chain.is_loaded());
    }

    #[test]
    fn a_lease_is_cut_from_the_lowest_ids_and_the_rest_goes_on() {
        let mut whole = chain(&[ids(10, 20), ids(20, 30)]);
        whole.claim(4);
        assert_eq!(whole.chain.cut_lease(&whole.head, &whole.common, ids(30, 45)), ids(14, 29));
        assert_eq!(whole.rests(), [ids(29, 30), ids(30, 45)]);
        assert_eq!(whole.head.get().expect("a segment").start(), 29, "the head is not a closed segment");
        let many: Vec<_> =
            (1..).step_by(10).take(CHAIN_SEGMENTS_MAX).map(|start| ids(start, start + 1)).collect();
        let mut whole = chain(&many);
        let granted = ids(100_000, 100_001);
        assert_eq!(whole.chain.cut_lease(&whole.head, &whole.common, granted), granted);
        assert_eq!(whole.rests(), many, "it has as many pieces as it may");
    }

    #[test]
    fn a_part_is_cut_only_if_others_are_left() {
        let mut whole = chain(&[ids(10, 20)]);
        let first = whole.head.get().expect("a segment");
        assert_eq!(whole.chain.cut_a_part(&whole.head, &whole.common, 10), None);
        assert_eq!(first.left(), 10, "the segment was not closed for nothing");
        assert_eq!(whole.chain.cut_a_part(&whole.head, &whole.common, 4), Some(ids(10, 14)));
        assert_eq!(whole.rests(), [ids(14, 20)]);
        assert!(whole.common.holds_ids());
    }

    #[test]
    fn a_range_is_put_back_below_what_is_untouched() {
        let cut = || {
            let mut whole = chain(&[ids(10, 20), ids(30, 40)]);
            assert_eq!(whole.chain.cut_a_part(&whole.head, &whole.common, 4), Some(ids(10, 14)));
            whole
        };
        let mut whole = cut();
        assert!(whole.chain.put_back(&whole.head, &whole.common, ids(10, 14)));
        assert_eq!(whole.rests(), [ids(10, 14), ids(14, 20), ids(30, 40)]);
        let mut whole = cut();
        whole.claim(1);
        assert!(!whole.chain.put_back(&whole.head, &whole.common, ids(10, 14)));
        assert_eq!(whole.rests(), [ids(15, 20), ids(30, 40)]);
    }
}
