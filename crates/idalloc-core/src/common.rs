//! What all tags of one allocator share: how much to reserve, and how many of them have IDs in memory.
//!
//! The count is kept where a chain gets its first segment and where its last ID is claimed, both under the tag's mutex. So
//! who asks whether there are IDs at all reads one number, however many tags there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

use crate::sizing::Policy;

/// See the module.
pub struct Common {
    /// How much to reserve.
    pub policy: Policy,
    holding: CachePadded<AtomicUsize>,
}

impl Common {
    /// For tags of which none has IDs yet.
    pub fn new(policy: Policy) -> Self {
        Self { policy, holding: CachePadded::default() }
    }

    /// Whether a tag has IDs in memory.
    pub fn holds_ids(&self) -> bool {
        // Relaxed, here and below: a count, no more.
        self.holding.load(Relaxed) > 0
    }

    /// A tag that had no IDs gets some.
    pub(crate) fn begin_holding(&self) {
        self.holding.fetch_add(1, Relaxed);
    }

    /// A tag that had IDs has none any more.
    pub(crate) fn end_holding(&self) {
        self.holding.fetch_sub(1, Relaxed);
    }
}

impl From<Policy> for Arc<Common> {
    fn from(policy: Policy) -> Self {
        Self::new(Common::new(policy))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::segment::IdRange;
    use crate::tag::{Job, Tag, TagHandle};

    fn ids(start: i64, end: i64) -> IdRange {
        IdRange { start, end }
    }

    #[test]
    fn a_tag_is_counted_while_its_chain_holds_an_id() {
        let common = Arc::new(Common::new(Policy::default()));
        let tag = |name| Arc::new(Tag::new(name, 10, common.clone(), Instant::now()));
        let (used_up, closed, withdrawn) = (tag("a"), tag("b"), tag("c"));
        assert!(!common.holds_ids(), "nothing is loaded");
        for tag in [&used_up, &closed, &withdrawn] {
            tag.complete(Job::Extend(10), ids(1, 11));
            tag.complete(Job::Extend(10), ids(11, 21));
        }
        let mut handle = TagHandle::new(used_up.clone());
        let mut claim = |count| {
            let claim = handle.claim(count).unwrap();
            claim.crossed_trigger.then(|| used_up.request_refill());
        };
        closed.close();
        assert!(common.holds_ids());
        withdrawn.withdraw();
        claim(10);
        claim(9);
        assert!(common.holds_ids(), "one is left");
        claim(1);
        assert!(!common.holds_ids());
        used_up.complete(Job::Extend(10), ids(21, 31));
        assert!(common.holds_ids());
        used_up.close();
        closed.complete(Job::Extend(10), ids(21, 31));
        assert!(!common.holds_ids(), "none of a closed tag is handed out");
    }
}
