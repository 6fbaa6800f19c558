//! What is wrong with a tag's row: what a fault is, which of two counts, and when one is over.

use compact_str::CompactString;

use crate::bounds::STEP_MAX;

/// Why a tag gets no IDs, as its callers are told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The row's step cannot be reserved.
    #[error("its step is {0} in the table; it must be 1 to {STEP_MAX}")]
    Step(i64),
    /// Something in the row is not what it must be.
    #[error("its row in the table cannot be read: {0}")]
    Unreadable(Box<CompactString>),
    /// The row's `max_id` is below every possible ID, and this process does not know the right value.
    #[error("its max_id is negative in the table; raise it above all IDs that were handed out")]
    NegativeMaxId,
    /// The store's row is behind what this process was granted: a commit was lost.
    #[error(
        "its max_id in the table is below {granted}, up to where IDs were granted before; \
             raise max_id to {granted} or more"
    )]
    Regression {
        /// The highest end that was granted, and the lowest `max_id` that mends the row.
        granted: i64,
    },
    /// 2^63 is reached, or may have been before another database server answered.
    #[error("all its IDs below 2^63 are handed out, or may be")]
    Exhausted,
    /// The file that granted its IDs is not where it was: another one there may grant them again.
    #[error(
        "the database file of this server was moved, removed or replaced while it ran; \
             put it back in its place, and restart the server"
    )]
    StoreReplaced,
}

impl Fault {
    /// What is wrong with a row that cannot be read.
    pub fn unreadable(reason: &str) -> Self {
        Self::Unreadable(Box::new(reason.into()))
    }
}

/// What is wrong with a step.
pub fn step_fault(step: i64) -> Option<Fault> {
    (!(1..=STEP_MAX).contains(&step)).then_some(Fault::Step(step))
}

/// The fault that a tag has now, if any.
pub(super) struct FaultState(Option<Fault>);

impl FaultState {
    /// Of a row with this step.
    pub fn new(step: i64) -> Self {
        Self(step_fault(step))
    }

    pub fn get(&self) -> Option<&Fault> {
        self.0.as_ref()
    }

    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// The store has gone back behind what it granted: nothing is handed out.
    pub fn is_fenced(&self) -> bool {
        matches!(self.0, Some(Fault::Regression { .. }))
    }

    pub fn is_store_replaced(&self) -> bool {
        self.0 == Some(Fault::StoreReplaced)
    }

    /// Whether every other server would find the same fault. Its operator has to mend it, and taking servers out of the
    /// load balancer does not help.
    pub fn is_same_for_all_servers(&self) -> bool {
        matches!(
            self.0,
            Some(Fault::Step(_) | Fault::Unreadable(_) | Fault::NegativeMaxId | Fault::Exhausted)
        )
    }

    /// Takes note of a fault. Says whether it is another one than before. A fence is not hidden by what else is wrong with
    /// the row: it is over when `max_id` is mended, and not before. If the file is another one, the row does not matter.
    pub fn set(&mut self, fault: Fault) -> bool {
        let is_hidden = match fault {
            Fault::StoreReplaced => false,
            Fault::Regression { .. } => self.is_store_replaced(),
            _ => self.is_fenced() || self.is_store_replaced(),
        };
        let is_news = !is_hidden && self.0.as_ref() != Some(&fault);
        if is_news {
            self.0 = Some(fault);
        }
        is_news
    }

    /// Ends the fault if a row that reads like this does not have it. Says whether it did. The row may have another fault.
    pub fn mend(&mut self, step: i64, max_id: i64, first_grantable: i64) -> bool {
        let is_mended = match self.0 {
            Some(Fault::Step(_)) => step_fault(step).is_none(),
            Some(Fault::Unreadable(_)) => true,
            Some(Fault::NegativeMaxId) => max_id >= 0,
            Some(Fault::Regression { granted }) => max_id >= granted,
            Some(Fault::Exhausted) => first_grantable < i64::MAX,
            Some(Fault::StoreReplaced) | None => false,
        };
        if is_mended {
            self.0 = None;
        }
        is_mended
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const FENCE: Fault = Fault::Regression { granted: 100 };

    fn all() -> [Fault; 6] {
        let unreadable = Fault::unreadable("its step is NULL");
        [Fault::Step(0), unreadable, Fault::NegativeMaxId, Fault::Exhausted, FENCE, Fault::StoreReplaced]
    }

    /// A state with this fault, whatever it is.
    fn with(fault: &Fault) -> FaultState {
        FaultState(Some(fault.clone()))
    }

    #[test]
    fn a_step_is_1_to_the_largest_one() {
        assert_eq!([1, STEP_MAX].map(step_fault), [None, None]);
        for step in [i64::MIN, 0, STEP_MAX + 1] {
            assert_eq!(step_fault(step), Some(Fault::Step(step)));
            assert_eq!(FaultState::new(step).get(), Some(&Fault::Step(step)));
        }
        assert!(!FaultState::new(1).is_some());
    }

    #[test]
    fn a_fault_is_news_once() {
        for fault in all() {
            let mut state = FaultState::new(1);
            assert!(state.set(fault.clone()) && !state.set(fault.clone()));
            assert_eq!(state.get(), Some(&fault));
        }
        let mut state = with(&Fault::Step(0));
        assert!(state.set(Fault::Step(-1)), "another value");
    }

    #[test]
    fn a_replaced_store_hides_every_fault_and_a_fence_all_others() {
        for new in all() {
            let is_replaced = new == Fault::StoreReplaced;
            assert!(!with(&Fault::StoreReplaced).set(new.clone()), "{new:?}");
            assert_eq!(with(&FENCE).set(new.clone()), is_replaced, "{new:?}");
            for old in &all()[..4] {
                assert_eq!(with(old).set(new.clone()), new != *old, "{old:?} {new:?}");
            }
        }
    }

    #[test]
    fn a_higher_fence_takes_the_place_of_a_lower_one() {
        let mut state = with(&FENCE);
        assert!(state.set(Fault::Regression { granted: 101 }));
        assert!(!state.mend(1, 100, 100) && state.mend(1, 101, 101));
    }

    #[test]
    fn each_fault_is_over_when_its_own_value_is_mended() {
        // A row: its step, its max_id, and the first ID that may be granted.
        let sound = (1, 100, 100);
        for fault in all() {
            let is_mended = fault != Fault::StoreReplaced;
            let mut state = with(&fault);
            assert_eq!(state.mend(sound.0, sound.1, sound.2), is_mended, "{fault:?}");
            assert_eq!(state.get(), (!is_mended).then_some(&fault));
        }
        let rows = [
            (Fault::Step(0), (0, 100, 100)),
            (Fault::NegativeMaxId, (1, -1, 100)),
            (FENCE, (1, 99, 99)),
            (Fault::Exhausted, (1, 100, i64::MAX)),
        ];
        for (fault, (step, max_id, first_grantable)) in rows {
            assert!(!with(&fault).mend(step, max_id, first_grantable), "{fault:?}");
        }
        assert!(!FaultState::new(1).mend(1, 100, 100), "nothing was wrong");
    }

    #[test]
    fn what_only_this_server_has_is_told_from_what_all_have() {
        let same = all().map(|fault| with(&fault).is_same_for_all_servers());
        assert_eq!(same, [true, true, true, true, false, false]);
        assert_eq!(all().map(|fault| with(&fault).is_fenced()), [false, false, false, false, true, false]);
        let replaced = all().map(|fault| with(&fault).is_store_replaced());
        assert_eq!(replaced, [false, false, false, false, false, true]);
    }
}
