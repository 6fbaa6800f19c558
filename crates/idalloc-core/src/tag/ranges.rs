//! Arithmetic with several ranges of one tag, of which no two share an ID.

use crate::segment::IdRange;

/// Cuts `count` IDs out of the first of `ranges` that adjoin and hold so many. They ascend, and none is empty.
pub(super) fn cut(ranges: &mut Vec<IdRange>, count: u64) -> Option<IdRange> {
    let start = joined(ranges.clone()).into_iter().find(|range| range.len() >= count)?.start;
    let lease = IdRange { start, end: start.checked_add_unsigned(count)? };
    for range in ranges.iter_mut().filter(|range| range.end > lease.start && range.start < lease.end) {
        range.start = range.end.min(lease.end);
    }
    ranges.retain(|range| !range.is_empty());
    Some(lease)
}

/// As [`cut`], but not all that there is: a chain without a rest would look as if it had been handed out.
pub(super) fn cut_a_part(ranges: &mut Vec<IdRange>, count: u64) -> Option<IdRange> {
    cut(ranges, count).filter(|_| !ranges.is_empty())
}

/// The same IDs, ascending, in as few ranges as can be.
pub(super) fn joined(mut ranges: Vec<IdRange>) -> Vec<IdRange> {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, range| {
        let adjoins = range.end == next.start;
        if adjoins {
            range.end = next.end;
        }
        adjoins
    });
    ranges
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn ids(start: i64, end: i64) -> IdRange {
        IdRange { start, end }
    }

    /// What is cut, and what is left.
    fn cut_of(ranges: &[IdRange], count: u64) -> (Option<IdRange>, Vec<IdRange>) {
        let mut ranges = ranges.to_vec();
        (cut(&mut ranges, count), ranges)
    }

    #[test]
    fn ranges_that_adjoin_are_joined_in_any_order_and_others_are_not() {
        let ranges = vec![ids(20, 30), ids(40, 50), ids(10, 20), ids(30, 31)];
        assert_eq!(joined(ranges), [ids(10, 31), ids(40, 50)]);
        assert_eq!(joined(vec![]), []);
    }

    #[test]
    fn a_cut_takes_the_lowest_piece_that_is_large_enough() {
        let ranges = [ids(10, 14), ids(20, 30), ids(40, 60)];
        assert_eq!(cut_of(&ranges, 3), (Some(ids(10, 13)), vec![ids(13, 14), ids(20, 30), ids(40, 60)]));
        assert_eq!(cut_of(&ranges, 4), (Some(ids(10, 14)), vec![ids(20, 30), ids(40, 60)]));
        assert_eq!(cut_of(&ranges, 5), (Some(ids(20, 25)), vec![ids(10, 14), ids(25, 30), ids(40, 60)]));
        assert_eq!(cut_of(&ranges, 21), (None, ranges.to_vec()), "no piece holds so many");
    }

    #[test]
    fn a_cut_may_reach_over_ranges_that_adjoin() {
        let ranges = [ids(10, 12), ids(12, 15), ids(15, 20)];
        assert_eq!(cut_of(&ranges, 7), (Some(ids(10, 17)), vec![ids(17, 20)]));
        assert_eq!(cut_of(&ranges, 10), (Some(ids(10, 20)), vec![]));
    }

    #[test]
    fn a_part_is_never_all_that_there_is() {
        assert_eq!(cut_a_part(&mut vec![ids(10, 20)], 10), None);
        assert_eq!(cut_a_part(&mut vec![ids(10, 20)], 9), Some(ids(10, 19)));
        assert_eq!(cut_a_part(&mut vec![ids(10, 20), ids(30, 31)], 10), Some(ids(10, 20)));
    }
}
