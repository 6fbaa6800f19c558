//! What is left of a tag at its end, and what of that may be given back to the store.

use crate::segment::IdRange;

use super::Discarded;
use super::ranges::joined;

/// What [`Tag::close`](super::Tag::close) left: what was granted and never handed out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// One past the highest ID that was ever handed out, as far as this tag knows. It may be below what is given back: a
    /// server that had what lies between gives it back too.
    pub handed_out_end: Option<i64>,
    /// What may be given back to the store: it ends where the newest reservation did.
    pub unclaimed: Option<IdRange>,
    /// What cannot be, because the store has granted more above it since, or has gone back.
    pub skipped: Vec<Discarded>,
}

/// What a tag knows of itself at its end.
pub(super) struct Ending {
    /// What was not handed out.
    pub rests: Vec<IdRange>,
    pub handed_out_end: Option<i64>,
    /// Where the newest reservation ended.
    pub newest_end: Option<i64>,
    /// The store's first range of the tag began at 0.
    pub began_at_zero: bool,
    /// The store has not gone back, and still is the one that granted.
    pub is_trusted: bool,
}

impl Ending {
    /// After a regression the row is not to be trusted: nothing goes back to it, and what is known of it is not lowered.
    pub fn close(self) -> Closed {
        let mut skipped = joined(self.rests);
        let newest = skipped.pop_if(|newest| self.is_trusted && Some(newest.end) == self.newest_end);
        let start = |ids: IdRange| if ids.start == 1 && self.began_at_zero { 0 } else { ids.start };
        Closed {
            handed_out_end: self.handed_out_end.filter(|_| self.is_trusted),
            unclaimed: newest.map(|ids| IdRange { start: start(ids), ..ids }),
            skipped: skipped.into_iter().map(Discarded).collect(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn ids(start: i64, end: i64) -> IdRange {
        IdRange { start, end }
    }

    fn ending(rests: &[IdRange], newest_end: i64) -> Ending {
        Ending {
            rests: rests.to_vec(),
            handed_out_end: Some(5),
            newest_end: Some(newest_end),
            began_at_zero: false,
            is_trusted: true,
        }
    }

    #[test]
    fn what_adjoins_the_newest_end_goes_back_and_the_rest_is_skipped() {
        let rests = [ids(10, 20), ids(30, 40), ids(40, 50)];
        let closed = ending(&rests, 50).close();
        assert_eq!(closed.unclaimed, Some(ids(30, 50)));
        assert_eq!((closed.handed_out_end, closed.skipped), (Some(5), vec![Discarded(ids(10, 20))]));
        let closed = ending(&rests, 60).close();
        let all = vec![Discarded(ids(10, 20)), Discarded(ids(30, 50))];
        assert_eq!((closed.unclaimed, closed.skipped), (None, all), "the last ones were handed out");
    }

    #[test]
    fn nothing_goes_back_to_a_store_that_is_not_trusted() {
        let closed = Ending { is_trusted: false, ..ending(&[ids(10, 20)], 20) }.close();
        assert_eq!(closed, Closed { skipped: vec![Discarded(ids(10, 20))], ..Closed::default() });
    }

    #[test]
    fn an_id_of_0_goes_back_where_the_store_granted_it_and_1_was_not_used() {
        let unclaimed = |start, began_at_zero| {
            Ending { began_at_zero, ..ending(&[ids(start, 10)], 10) }.close().unclaimed
        };
        assert_eq!(unclaimed(1, true), Some(ids(0, 10)));
        assert_eq!(unclaimed(1, false), Some(ids(1, 10)));
        assert_eq!(unclaimed(2, true), Some(ids(2, 10)), "1 was handed out");
    }
}
