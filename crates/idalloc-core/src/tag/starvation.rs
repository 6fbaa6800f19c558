//! Whether a tag's callers find too little, since when, and whether anybody is served meanwhile.

use std::time::{Duration, Instant};

use crate::episode::Episode;

use super::Tag;

/// How long, and how badly, a tag's callers have found too little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starvation {
    /// Callers find IDs, or there were no callers, or the tag is closed.
    None,
    /// Callers find too little, but have not for long, or others are served: as usual for a small step.
    Brief,
    /// Callers find too little and nobody is served, and that has been so for long or because of a fault.
    Starving,
}

/// What the last callers found. The allocator tracks a tag, which means that it looks at the tag when the node's health
/// is asked for, from when they find too little.
#[derive(Debug, Clone, Copy)]
enum Callers {
    /// Enough. The tag is tracked until the next look if they found too little before.
    Served { is_tracked: bool },
    /// Too little. The tag is tracked.
    Unmet(Unmet),
}

/// A need that the chain could not meet.
#[derive(Debug, Clone, Copy)]
struct Unmet {
    since: Instant,
    /// IDs in the chain then. Fewer now means that others were served meanwhile, who asked for less.
    left: u64,
}

/// See the module.
pub(super) struct StarvationState {
    callers: Callers,
    /// What the log was told.
    log: Option<Box<Episode>>,
}

impl StarvationState {
    pub fn new() -> Self {
        Self { callers: Callers::Served { is_tracked: false }, log: None }
    }

    /// A caller found too little: only `left` IDs. True when the allocator must begin to track the tag.
    pub fn note_unmet(&mut self, left: u64, now: Instant) -> bool {
        let Callers::Served { is_tracked } = self.callers else { return false };
        self.callers = Callers::Unmet(Unmet { since: now, left });
        !is_tracked
    }

    /// There are IDs again, or there will never be any.
    pub fn note_served(&mut self) {
        if let Callers::Unmet(_) = self.callers {
            self.callers = Callers::Served { is_tracked: true };
        }
    }

    /// How it stands with `left` IDs in the chain.
    pub fn level(&self, left: u64, has_fault: bool, grace: Duration, now: Instant) -> Starvation {
        let Callers::Unmet(unmet) = self.callers else { return Starvation::None };
        // A refill that has failed is tried again, and mostly succeeds: a row may be locked for a moment.
        let is_over = now.saturating_duration_since(unmet.since) >= grace;
        match (is_over && left >= unmet.left) || (left == 0 && has_fault) {
            true => Starvation::Starving,
            false => Starvation::Brief,
        }
    }

    /// As [`Self::level`], for the allocator, which looks again and again. The time begins anew when somebody was served
    /// since the last look. A tag that does not starve is not tracked after this.
    pub fn look(&mut self, left: u64, has_fault: bool, grace: Duration, now: Instant) -> Starvation {
        let level = self.level(left, has_fault, grace, now);
        match &mut self.callers {
            Callers::Served { is_tracked } => *is_tracked = false,
            Callers::Unmet(unmet) if left < unmet.left => *unmet = Unmet { since: now, left },
            Callers::Unmet(_) => {}
        }
        level
    }

    /// Whether the log is to be told that the tag starves, or that it does not any more.
    pub fn note_log(&mut self, starves: bool, has_fault: bool, now: Instant) -> bool {
        match starves {
            // Who finds a fault tells the log of it.
            true => !has_fault && self.log.get_or_insert_default().holds(now),
            false => self.log.as_mut().is_some_and(|log| log.is_over()),
        }
    }
}

impl Tag {
    /// How badly the tag wants IDs. When the answer is [`Starvation::None`], the caller stops tracking the tag.
    pub fn starvation(&self, grace: Duration, now: Instant) -> Starvation {
        let mut state = self.lock();
        let left = state.chain.left(&self.head);
        let has_fault = state.fault.is_some();
        state.starvation.look(left, has_fault, grace, now)
    }

    /// What the tag's callers lack, in words: the node's health names it.
    pub fn complaint(&self) -> String {
        let state = self.lock();
        match state.fault.get() {
            Some(fault) => format!("app_tag '{}' gets no IDs: {fault}", self.name),
            None if state.chain.left(&self.head) == 0 => format!("app_tag '{}' has no IDs left", self.name),
            None => format!("app_tag '{}' has fewer IDs left than its callers ask for", self.name),
        }
    }

    /// Whether the log is to be told that the tag starves, or that it does not any more. To be called time and again.
    pub fn note_starving(&self, starves: bool, now: Instant) -> bool {
        let mut state = self.lock();
        let has_fault = state.fault.is_some();
        state.starvation.note_log(starves, has_fault, now)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    /// A state whose callers found only so many IDs, and the time after so many seconds.
    fn unmet(left: u64) -> (StarvationState, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        let mut state = StarvationState::new();
        assert!(state.note_unmet(left, start));
        (state, move |seconds| start + Duration::from_secs(seconds))
    }

    #[test]
    fn nobody_starves_who_found_enough() {
        let now = Instant::now();
        let state = StarvationState::new();
        assert_eq!(state.level(0, true, Duration::ZERO, now), Starvation::None);
        let (mut state, at) = unmet(0);
        state.note_served();
        assert_eq!(state.level(0, true, GRACE, at(9)), Starvation::None);
    }

    #[test]
    fn who_finds_too_little_starves_after_a_while_from_the_first_time_on() {
        let (mut state, at) = unmet(3);
        assert_eq!(state.level(3, false, GRACE, at(4)), Starvation::Brief);
        state.note_unmet(3, at(4));
        assert_eq!(state.level(3, false, GRACE, at(5)), Starvation::Starving);
    }

    #[test]
    fn a_fault_makes_an_empty_tag_starve_at_once() {
        let (state, at) = unmet(3);
        assert_eq!(state.level(0, true, GRACE, at(0)), Starvation::Starving);
        assert_eq!(state.level(1, true, GRACE, at(0)), Starvation::Brief, "there is one");
        assert_eq!(state.level(0, false, GRACE, at(0)), Starvation::Brief, "no fault");
    }

    #[test]
    fn the_time_begins_anew_when_somebody_was_served() {
        let (mut state, at) = unmet(3);
        assert_eq!(state.look(2, false, GRACE, at(6)), Starvation::Brief);
        assert_eq!(state.look(2, false, GRACE, at(10)), Starvation::Brief);
        assert_eq!(state.look(2, false, GRACE, at(11)), Starvation::Starving);
        let (state, at) = unmet(3);
        assert_eq!(state.level(2, false, GRACE, at(6)), Starvation::Brief);
        assert_eq!(state.level(3, false, GRACE, at(6)), Starvation::Starving, "only a look begins anew");
    }

    #[test]
    fn a_tag_is_tracked_from_the_first_unmet_need_to_the_look_that_finds_none() {
        let (mut state, at) = unmet(0);
        assert!(!state.note_unmet(0, at(1)), "it is tracked");
        state.look(0, false, GRACE, at(1));
        assert!(!state.note_unmet(0, at(1)), "the look found that it starves");
        state.note_served();
        assert!(!state.note_unmet(0, at(2)), "nobody has looked meanwhile");
        state.note_served();
        state.look(9, false, GRACE, at(2));
        assert!(state.note_unmet(0, at(3)), "a look found that it does not starve");
    }

    #[test]
    fn the_log_is_told_of_starving_without_a_fault_and_of_its_end() {
        let now = Instant::now();
        let mut state = StarvationState::new();
        assert!(!state.note_log(false, false, now), "it did not starve");
        assert!(!state.note_log(true, true, now), "the log was told of the fault");
        assert!(state.note_log(true, false, now) && !state.note_log(true, false, now));
        assert!(state.note_log(false, true, now) && !state.note_log(false, false, now));
    }

    #[test]
    fn being_tracked_takes_no_memory_of_its_own() {
        assert_eq!(size_of::<Callers>(), size_of::<Unmet>());
    }
}
