//! One tag: its chain of segments, and who waits for it.
//!
//! A segment is all that a claim touches. Everything else is behind the tag's one mutex, which is taken when a
//! segment ends, when a caller has to wait, and by the one refill thread that works for the tag.
//!
//! Each file has a part of what the mutex guards, with its own rules and tests: `chain`, `waiters`, `refill_state`, `fault`,
//! `starvation` and `grants`. Here and in `jobs` is what concerns several of them.
//!
//! # Why no wake-up is lost
//!
//! A caller parks under the mutex, and only after it saw there that the chain holds nothing for it. Segments
//! are appended under the same mutex, and whoever appends wakes everybody who is parked. In the same way a
//! refill thread decides under the mutex that nothing more is due, and a caller that needs more asks under it.
//!
//! # Orderings
//!
//! There are none here: heads and links are arc-swap's (each load acquires what the store released), the rest is
//! under the mutex. A head is moved *before* the way to it is unlinked, so who finds a spent segment without a
//! next one finds, looking again, either another head or the end of the chain. Nobody has to look whether a known head
//! still is the head: it moves only from a spent segment, and a spent segment stays spent.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use compact_str::CompactString;

use crate::common::Common;
use crate::segment::IdRange;
use crate::sizing::Pace;
use crate::sync::{Mutex, MutexGuard, lock};

mod chain;
mod closed;
mod fault;
mod figures;
mod grants;
mod handle;
mod jobs;
mod ranges;
mod refill_state;
mod starvation;
mod waiters;

#[cfg(all(test, not(loom)))]
mod tests;

pub use closed::Closed;
pub use fault::{Fault, step_fault};
pub use figures::{Reserved, TagFigures, TagState};
pub use handle::TagHandle;
pub use jobs::{Job, Refused};
pub use refill_state::{Entry, Urgency};
pub use starvation::Starvation;
pub use waiters::{Need, WaiterId};

use chain::{Chain, Head};
use closed::Ending;
use fault::FaultState;
use grants::Grants;
use refill_state::RefillState;
use starvation::StarvationState;
use waiters::Waiters;

/// A tag: the head of its chain, and what surrounds it. There may be a hundred thousand, so what few of them need is boxed.
pub struct Tag {
    name: CompactString,
    common: Arc<Common>,
    head: Head,
    state: Mutex<State>,
}

/// What the mutex guards.
struct State {
    refill: RefillState,
    /// It is closed when the row is gone, or the process ends: no claim succeeds any more.
    chain: Chain,
    grants: Grants,
    step: i64,
    pace: Pace,
    waiters: Waiters,
    fault: FaultState,
    starvation: StarvationState,
}

/// What came of [`Tag::park`].
#[derive(Debug, PartialEq, Eq)]
pub enum Parked {
    /// Meanwhile there are IDs: try again.
    TryAgain,
    /// The range that was reserved for this lease.
    Leased(IdRange),
    /// Registered: the waker is woken when it is worth another try.
    Waiting {
        /// How the tag must be put into the refill queue, if at all.
        enqueue: Option<Urgency>,
        /// Whether the allocator must begin to track the tag, because it may starve.
        track: bool,
    },
    /// It is no use waiting before the row is mended.
    Fault {
        /// What is wrong with the row.
        fault: Fault,
        /// As for `Waiting`.
        track: bool,
    },
    /// The lease asks for more than one reservation may take of what is left below 2^63.
    TooLarge,
    /// The tag was closed.
    Closed,
}

/// IDs that were reserved and then had no taker: a gap, which the log names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discarded(pub IdRange);

impl Tag {
    /// A tag with this row's step and no segment yet.
    pub fn new(name: &str, step: i64, common: impl Into<Arc<Common>>, now: Instant) -> Self {
        let state = State {
            refill: RefillState::new(),
            chain: Chain::new(),
            grants: Grants::new(),
            step,
            pace: Pace::new(now),
            waiters: Waiters::default(),
            fault: FaultState::new(step),
            starvation: StarvationState::new(),
        };
        Self { name: name.into(), common: common.into(), head: Head::new(), state: Mutex::new(state) }
    }

    /// The `app_tag`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The row's step, as it was last read.
    pub fn step(&self) -> i64 {
        self.lock().step
    }

    /// What is wrong with the row, as it was last read.
    pub fn fault(&self) -> Option<Fault> {
        self.lock().fault.get().cloned()
    }

    /// IDs left in memory, or `None` when the tag was never loaded.
    pub fn left(&self) -> Option<u64> {
        let state = self.lock();
        state.chain.is_loaded().then(|| state.chain.left(&self.head))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    // ---- callers ----

    /// Registers a caller that found too little, to be woken when the chain grows; see [`Parked`]. The caller
    /// keeps `id` from one call to the next and hands it to [`Tag::unpark`] in the end.
    pub fn park(&self, need: Need, waker: &Waker, id: &mut Option<WaiterId>, now: Instant) -> Parked {
        let mut state = self.lock();
        if let Some(range) = id.and_then(|id| state.take_lease(id)) {
            return Parked::Leased(range);
        }
        if state.chain.is_closed() {
            return Parked::Closed;
        }
        if id.is_some_and(|id| state.waiters.is_too_large(id)) {
            return Parked::TooLarge;
        }
        let left = state.chain.left(&self.head);
        if matches!(need, Need::Supply(ids) if left >= ids) {
            return Parked::TryAgain;
        }
        state.chain.note_spent(&self.common);
        // A lease that does not fit says nothing about the tag's other callers.
        let track = (left == 0 || matches!(need, Need::Supply(_))) && state.note_unmet(left, now);
        if let Some(fault) = state.fault.get().cloned() {
            return Parked::Fault { fault, track };
        }
        if matches!(need, Need::Lease(ids) if state.exceeds_reservation(ids)) {
            return Parked::TooLarge;
        }
        state.waiters.register(need, waker, id);
        Parked::Waiting { enqueue: state.refill.request(Urgency::Urgent), track }
    }

    /// The range reserved for a parked lease, once it is there.
    pub fn take_lease(&self, id: WaiterId) -> Option<IdRange> {
        self.lock().take_lease(id)
    }

    /// Forgets a parked caller. A range that was reserved for it goes into the chain, where no ID above it was handed
    /// out, and is otherwise discarded.
    pub fn unpark(&self, id: WaiterId) -> Option<Discarded> {
        let mut state = self.lock();
        let range = state.waiters.leave(id)?;
        self.put_back_or_discard(&mut state, range)
    }

    /// How a caller whose claim crossed the trigger must enqueue the tag, if at all.
    pub fn request_refill(&self) -> Option<Urgency> {
        let mut state = self.lock();
        state.chain.note_spent(&self.common);
        state.refill.request(Urgency::Routine)
    }

    // ---- ranges that come into the chain, and go ----

    /// Appends `range` if IDs would not go back. Everybody is woken, unless all of it is below 1.
    fn append_or_discard(&self, state: &mut State, range: IdRange) -> Option<Discarded> {
        if !state.may_append(range) {
            return Some(Discarded(range));
        }
        if range.start.max(1) < range.end {
            if state.chain.is_loaded() && state.waiters.supplies().next().is_some() {
                state.pace.starved(state.step, &self.common.policy);
            }
            state.chain.append(&self.head, &self.common, range);
            state.starvation.note_served();
            state.waiters.wake_all();
        }
        None
    }

    /// Puts a range that was cut out of the chain, or reserved beside it, where it belongs. IDs must not go back: it is
    /// discarded if one above it was handed out.
    fn put_back_or_discard(&self, state: &mut State, range: IdRange) -> Option<Discarded> {
        if state.chain.is_closed() || state.fault.is_fenced() || state.may_append(range) {
            return self.append_or_discard(state, range);
        }
        let is_back = state.chain.put_back(&self.head, &self.common, range);
        (!is_back).then_some(Discarded(range))
    }

    /// Takes back what is in memory, because the store has gone back: it may have granted that to others since it forgot.
    pub fn withdraw(&self) -> Vec<Discarded> {
        self.withdraw_all(&mut self.lock())
    }

    /// Takes back what is in the chain, and what was granted beside it: for leases that are not taken yet, and what is not
    /// durable.
    fn withdraw_all(&self, state: &mut State) -> Vec<Discarded> {
        let rests = state.chain.take_out(&self.head, &self.common);
        let undurable = state.grants.take_undurable().map(|(_, range)| range);
        let leases = state.waiters.take_all_leases();
        undurable.into_iter().chain(leases).chain(rests).map(Discarded).collect()
    }

    // ---- the row ----

    /// Takes note of the row as it was read, in a reading that began at `read_at`. Returns the urgency with which to enqueue
    /// the tag, if the row was mended.
    pub fn observe_row(&self, step: i64, max_id: i64, read_at: Instant) -> Option<Urgency> {
        self.observe_owing_row(step, max_id, max_id, read_at)
    }

    /// As [`Self::observe_row`], of a row of which no ID below `first_grantable` is granted: a tag is exhausted until there
    /// is one above.
    pub fn observe_owing_row(
        &self,
        step: i64,
        max_id: i64,
        first_grantable: i64,
        read_at: Instant,
    ) -> Option<Urgency> {
        let mut state = self.lock();
        state.step = step;
        state.grants.observe_row(max_id, read_at);
        let is_mended = state.fault.mend(step, max_id, first_grantable);
        match step_fault(step) {
            Some(fault) => {
                state.fail_all(fault);
                None
            }
            None if is_mended => state.refill.request(Urgency::Urgent),
            None => None,
        }
    }

    /// Takes note that the row was read, and what is wrong with it.
    pub fn observe_unreadable(&self, reason: &str) {
        self.lock().fail_all(Fault::unreadable(reason));
    }

    /// Ends the tag: nothing is claimed after this, and everybody who waits is woken to learn of it.
    pub fn close(&self) -> Closed {
        let mut state = self.lock();
        state.chain.close();
        state.starvation.note_served();
        let newest_end = state.grants.newest_end();
        // Leases that were not taken yet too: nobody takes one of a closed tag.
        let rests = self.withdraw_all(&mut state).into_iter().map(|Discarded(rest)| rest).collect();
        state.waiters.wake_all();
        let is_fault_of_store = state.fault.is_fenced() || state.fault.is_store_replaced();
        let ending = Ending {
            rests,
            handed_out_end: state.chain.handed_out_end(),
            newest_end,
            began_at_zero: state.chain.began_at_zero(),
            is_trusted: !is_fault_of_store && !state.grants.has_gone_back(),
        };
        ending.close()
    }
}

impl State {
    /// Whether `range` may be the chain's newest.
    fn may_append(&self, range: IdRange) -> bool {
        self.chain.may_append(range) && !self.fault.is_fenced()
    }

    fn take_lease(&mut self, id: WaiterId) -> Option<IdRange> {
        let range = self.waiters.take_lease(id)?;
        self.chain.note_leased(range);
        Some(range)
    }

    fn exceeds_reservation(&self, ids: u64) -> bool {
        ids > self.grants.reservation_max(self.step).unsigned_abs()
    }

    /// Takes note that a caller found too little. True when the allocator must begin to track the tag. A row that no server
    /// can serve is its operator's affair: it must not take every one of them out of the load balancer.
    fn note_unmet(&mut self, left: u64, now: Instant) -> bool {
        !self.fault.is_same_for_all_servers() && self.starvation.note_unmet(left, now)
    }

    /// Takes note of a fault, and wakes everybody to learn of it. Says whether it is another one than before.
    fn fail_all(&mut self, fault: Fault) -> bool {
        let is_news = self.fault.set(fault);
        self.waiters.wake_all();
        is_news
    }
}
