//! A tag at one moment, for its operator.

use std::time::{Duration, Instant, SystemTime};

use super::{Fault, Starvation, Tag};

/// How a tag is doing. The states are in the order in which they need an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TagState {
    /// The store has gone back behind what was granted: nothing is handed out.
    Fenced,
    /// Callers find too few IDs, and have not found more for a while.
    Starving,
    /// The row is at fault.
    Broken,
    /// No ID below 2^63 is left in the store that is sure to be new.
    Exhausted,
    /// IDs are, or were, in memory.
    Serving,
    /// Nobody has asked for it yet.
    Idle,
}

impl TagState {
    /// What is wrong with the row counts first, and whether callers starve next. A tag is loaded once it had IDs.
    fn of(fault: Option<&Fault>, starvation: Starvation, is_loaded: bool) -> Self {
        match fault {
            Some(Fault::Regression { .. }) => Self::Fenced,
            Some(Fault::Step(_) | Fault::Unreadable(_) | Fault::NegativeMaxId | Fault::StoreReplaced) => {
                Self::Broken
            }
            Some(Fault::Exhausted) => Self::Exhausted,
            None if starvation == Starvation::Starving => Self::Starving,
            None if is_loaded => Self::Serving,
            None => Self::Idle,
        }
    }
}

/// A tag at one moment, for its operator.
#[derive(Debug, Clone)]
pub struct TagFigures {
    /// How it is doing.
    pub state: TagState,
    /// What is wrong with its row.
    pub fault: Option<Fault>,
    /// The row's step, as it was last read.
    pub step: i64,
    /// IDs in memory.
    pub left: u64,
    /// Segments with IDs in memory.
    pub segments: usize,
    /// IDs that this process has handed out.
    pub issued: u64,
    /// The newest reservation.
    pub newest: Option<Reserved>,
}

/// A reservation that the store has granted.
#[derive(Debug, Clone, Copy)]
pub struct Reserved {
    /// How many IDs.
    pub amount: u64,
    /// When.
    pub at: SystemTime,
}

impl Tag {
    /// What there is to know about the tag; `grace` is how long its chain may be empty before it starves.
    pub fn figures(&self, grace: Duration, now: Instant) -> TagFigures {
        let state = self.lock();
        let unspent = state.chain.unspent(&self.head);
        let left = unspent.iter().sum();
        let fault = state.fault.get();
        let starvation = state.starvation.level(left, fault.is_some(), grace, now);
        TagFigures {
            state: TagState::of(fault, starvation, state.chain.is_loaded()),
            fault: fault.cloned(),
            step: state.step,
            left,
            segments: unspent.len(),
            issued: state.chain.issued(left),
            newest: state.grants.reserved(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_fault_counts_before_starvation_and_this_before_what_is_loaded() {
        let of = |fault: Option<Fault>| {
            let cases = [(Starvation::Starving, true), (Starvation::Brief, true), (Starvation::None, false)];
            cases.map(|(starvation, is_loaded)| TagState::of(fault.as_ref(), starvation, is_loaded))
        };
        assert_eq!(of(None), [TagState::Starving, TagState::Serving, TagState::Idle]);
        assert_eq!(of(Some(Fault::Regression { granted: 1 })), [TagState::Fenced; 3]);
        assert_eq!(of(Some(Fault::Exhausted)), [TagState::Exhausted; 3]);
        for fault in [Fault::Step(0), Fault::unreadable("?"), Fault::NegativeMaxId, Fault::StoreReplaced] {
            assert_eq!(of(Some(fault)), [TagState::Broken; 3]);
        }
        let never_loaded = TagState::of(None, Starvation::Starving, false);
        assert_eq!(never_loaded, TagState::Starving);
    }

    #[test]
    fn states_that_need_an_operator_come_first() {
        let sorted = [TagState::Fenced, TagState::Starving, TagState::Broken, TagState::Exhausted];
        assert!(sorted.is_sorted() && sorted[3] < TagState::Serving && TagState::Serving < TagState::Idle);
    }
}
