//! Where a tag stands with the refill threads, and how many of its refills have failed.

/// How soon a refill is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// The chain holds something; others may be served first.
    Routine,
    /// Callers wait.
    Urgent,
}

/// Where a refill thread found a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// In the queue of tags whose callers wait.
    Urgent,
    /// In the queue of the others.
    Routine,
    /// Among those whose pause is over.
    Postponed,
}

/// At most one refill thread works for a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    /// In a queue, ahead of the others if `urgent`.
    Queued {
        urgent: bool,
    },
    /// Comes back by itself, after a pause.
    Postponed,
    Running,
}

/// See the module.
pub(super) struct RefillState {
    phase: Phase,
    /// Which queues hold an entry for this tag, even if it is out of date.
    in_urgent: bool,
    in_routine: bool,
    /// Refills that failed since the last that did not, or 255 if there were more: the pause before the next one has
    /// long stopped growing by then.
    failures: u8,
    /// Those of them that failed because of the tag's row.
    row_failures: u32,
}

impl RefillState {
    pub fn new() -> Self {
        Self { phase: Phase::Idle, in_urgent: false, in_routine: false, failures: 0, row_failures: 0 }
    }

    /// Asks for a refill: which queue to put the tag into, if it has no entry there.
    pub fn request(&mut self, urgency: Urgency) -> Option<Urgency> {
        match self.phase {
            Phase::Idle => self.enqueue(urgency),
            // The routine entry stays where it is; whoever meets it later finds it out of date.
            Phase::Queued { urgent: false } if urgency == Urgency::Urgent => self.enqueue(urgency),
            Phase::Queued { .. } | Phase::Postponed | Phase::Running => None,
        }
    }

    /// Queues the tag: which queue to put it into, if it has no entry there.
    pub fn enqueue(&mut self, urgency: Urgency) -> Option<Urgency> {
        self.phase = Phase::Queued { urgent: urgency == Urgency::Urgent };
        let in_queue = match urgency {
            Urgency::Urgent => &mut self.in_urgent,
            Urgency::Routine => &mut self.in_routine,
        };
        (!std::mem::replace(in_queue, true)).then_some(urgency)
    }

    /// An entry was taken out of a queue. False when it is out of date.
    pub fn begin(&mut self, entry: Entry) -> bool {
        match entry {
            Entry::Urgent => self.in_urgent = false,
            Entry::Routine => self.in_routine = false,
            Entry::Postponed => {}
        }
        let is_due = match entry {
            Entry::Postponed => self.phase == Phase::Postponed,
            Entry::Urgent | Entry::Routine => matches!(self.phase, Phase::Queued { .. }),
        };
        if is_due {
            self.phase = Phase::Running;
        }
        is_due
    }

    /// Nothing is due any more.
    pub fn end(&mut self) {
        self.phase = Phase::Idle;
    }

    /// The refill failed, and the tag comes back after a pause. Returns how many have failed in a row.
    pub fn postpone(&mut self) -> u32 {
        self.note_failure();
        self.phase = Phase::Postponed;
        self.failures.into()
    }

    pub fn note_failure(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// The store has granted a reservation.
    pub fn note_granted(&mut self) {
        self.failures = 0;
    }

    /// Whether a refill has failed since the last reservation.
    pub fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// A refill failed because of the row: how many have since the last that did not fail.
    pub fn note_row_failure(&mut self) -> u32 {
        self.row_failures = self.row_failures.saturating_add(1);
        self.row_failures
    }

    /// A refill succeeded: how many have failed because of the row since the last one.
    pub fn take_row_failures(&mut self) -> u32 {
        std::mem::take(&mut self.row_failures)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// In each phase.
    fn idle() -> RefillState {
        RefillState::new()
    }

    fn queued(urgency: Urgency) -> RefillState {
        let mut state = idle();
        assert_eq!(state.request(urgency), Some(urgency));
        state
    }

    fn running() -> RefillState {
        let mut state = queued(Urgency::Routine);
        assert!(state.begin(Entry::Routine));
        state
    }

    fn postponed() -> RefillState {
        let mut state = running();
        state.postpone();
        state
    }

    #[test]
    fn a_request_queues_an_idle_tag_or_makes_it_urgent_and_is_otherwise_not_needed() {
        let ask = |mut state: RefillState| [Urgency::Routine, Urgency::Urgent].map(|it| state.request(it));
        assert_eq!(ask(idle()), [Some(Urgency::Routine), Some(Urgency::Urgent)]);
        assert_eq!(ask(queued(Urgency::Routine)), [None, Some(Urgency::Urgent)]);
        assert_eq!(ask(queued(Urgency::Urgent)), [None, None]);
        assert_eq!(ask(running()), [None, None], "it looks again by itself");
        assert_eq!(ask(postponed()), [None, None], "it comes back by itself");
    }

    #[test]
    fn an_entry_is_good_for_a_tag_that_is_queued_and_out_of_date_for_any_other() {
        let entries = [Entry::Urgent, Entry::Routine, Entry::Postponed];
        let begins = |make: &dyn Fn() -> RefillState| entries.map(|entry| make().begin(entry));
        assert_eq!(begins(&idle), [false, false, false]);
        assert_eq!(begins(&|| queued(Urgency::Routine)), [true, true, false]);
        assert_eq!(begins(&|| queued(Urgency::Urgent)), [true, true, false]);
        assert_eq!(begins(&running), [false, false, false], "one thread at a time");
        assert_eq!(begins(&postponed), [false, false, true]);
    }

    #[test]
    fn a_queue_holds_one_entry_until_it_is_taken_out() {
        let mut state = queued(Urgency::Routine);
        assert_eq!(state.request(Urgency::Urgent), Some(Urgency::Urgent));
        assert!(state.begin(Entry::Urgent));
        assert_eq!(state.enqueue(Urgency::Routine), None, "the first entry is still there");
        assert_eq!(state.enqueue(Urgency::Urgent), Some(Urgency::Urgent));
        assert!(state.begin(Entry::Routine));
        assert_eq!(state.enqueue(Urgency::Routine), Some(Urgency::Routine));
        assert_eq!(state.enqueue(Urgency::Urgent), None);
    }

    #[test]
    fn a_tag_of_which_nothing_is_due_can_be_asked_for_again() {
        let mut state = running();
        state.end();
        assert_eq!(state.request(Urgency::Routine), Some(Urgency::Routine));
    }

    #[test]
    fn failures_count_until_a_grant_and_those_of_the_row_until_a_refill() {
        let mut state = running();
        assert!(!state.has_failed());
        state.note_failure();
        assert_eq!((state.postpone(), state.postpone()), (2, 3));
        assert_eq!((state.note_row_failure(), state.note_row_failure()), (1, 2));
        assert!(state.has_failed());
        state.note_granted();
        assert!(!state.has_failed());
        assert_eq!((state.take_row_failures(), state.take_row_failures()), (2, 0));
        let last = (0..1000).map(|_| state.postpone()).last();
        assert_eq!(last, Some(255), "it does not begin anew");
    }
}
