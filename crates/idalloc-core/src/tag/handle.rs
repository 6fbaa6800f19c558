//! What a worker keeps of a tag, so that a claim touches nothing but a segment.

use std::sync::Arc;

use crate::segment::{Claim, Segment};

use super::Tag;

/// One worker's way to a tag: it keeps the head segment, and a claim looks at nothing else. The worker need not look
/// whether the head has moved: that happens only when the segment is spent, and a claim from a spent segment finds out.
pub struct TagHandle {
    tag: Arc<Tag>,
    head: Option<Arc<Segment>>,
}

impl TagHandle {
    /// A way to `tag`.
    pub fn new(tag: Arc<Tag>) -> Self {
        Self { head: tag.head.get(), tag }
    }

    /// The tag it leads to.
    pub fn tag(&self) -> &Arc<Tag> {
        &self.tag
    }

    /// Takes up to `count` IDs (at least 1) from the first segment that has any; `None` when the chain is empty.
    #[inline(always)]
    pub fn claim(&mut self, count: u64) -> Option<Claim> {
        match self.head.as_ref().and_then(|head| head.claim(count)) {
            None => self.claim_further_on(|head| head.claim(count)),
            claimed => claimed,
        }
    }

    /// Takes exactly `count` IDs from the first segment that has any, or none.
    pub fn claim_exactly(&mut self, count: u64) -> Option<Claim> {
        self.claim_further_on(|head| head.claim_exactly(count))
    }

    #[cold]
    fn claim_further_on(&mut self, claim: impl Fn(&Segment) -> Option<Claim>) -> Option<Claim> {
        loop {
            let head = self.tag.head.get()?;
            let claimed = claim(&head);
            // Only a segment that was seen to be spent may be passed by: the head may have moved meanwhile.
            let stay = claimed.is_some() || head.left() > 0 || !self.tag.head.advance(&head);
            self.head = Some(head);
            if stay {
                return claimed;
            }
        }
    }

    /// Whether the head segment alone seems to hold `count` IDs; others may claim them first.
    pub fn head_holds(&self, count: u64) -> bool {
        self.head.as_ref().is_some_and(|head| head.left() >= count)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::segment::IdRange;
    use crate::sizing::Policy;
    use crate::tag::Job;

    fn ids(start: i64, end: i64) -> IdRange {
        IdRange { start, end }
    }

    /// A tag whose chain holds these ranges.
    fn tag(ranges: &[IdRange]) -> Arc<Tag> {
        let tag = Arc::new(Tag::new("t", 10, Policy::default(), Instant::now()));
        for range in ranges {
            assert_eq!(tag.complete(Job::Extend(10), *range), None);
        }
        tag
    }

    #[test]
    fn a_claim_takes_what_the_head_has_and_the_next_one_goes_on_behind_it() {
        let mut handle = TagHandle::new(tag(&[ids(10, 13), ids(20, 23)]));
        assert!(handle.head_holds(3) && !handle.head_holds(4));
        let claims = [2, 2, 2].map(|count| handle.claim(count).expect("there are six").ids);
        assert_eq!(claims, [ids(10, 12), ids(12, 13), ids(20, 22)]);
        assert!(handle.head_holds(1) && !handle.head_holds(2));
        assert_eq!(handle.claim(2).expect("the last one").ids, ids(22, 23));
        assert_eq!(handle.claim(1), None);
    }

    #[test]
    fn a_handle_that_was_made_first_finds_the_segments_that_came_later() {
        let tag = tag(&[]);
        let mut early = TagHandle::new(tag.clone());
        assert!(!early.head_holds(1) && early.claim(1).is_none());
        tag.complete(Job::Extend(10), ids(10, 20));
        assert_eq!(early.claim(10).expect("they are there").ids, ids(10, 20));
        tag.complete(Job::Extend(10), ids(20, 30));
        TagHandle::new(tag.clone()).claim(4).expect("others claim too");
        assert_eq!(early.claim(1).expect("they are there").ids, ids(24, 25));
        assert!(Arc::ptr_eq(early.tag(), &tag));
    }

    #[test]
    fn an_exact_claim_passes_by_a_spent_segment_only() {
        let mut handle = TagHandle::new(tag(&[ids(10, 13), ids(20, 30)]));
        assert_eq!(handle.claim_exactly(4), None, "three are left, and go first");
        assert_eq!(handle.claim(3).expect("three").ids, ids(10, 13));
        assert_eq!(handle.claim_exactly(4).expect("the next segment").ids, ids(20, 24));
    }
}
