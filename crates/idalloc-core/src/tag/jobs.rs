//! A tag's work for the refill threads: what is due, and what becomes of what the store answers.

use std::time::{Duration, Instant, SystemTime};

use crate::segment::IdRange;
use crate::sizing::{self, CHAIN_SEGMENTS_MAX, Demand};

use super::waiters::Lease;
use super::{Discarded, Entry, Fault, State, Tag, Urgency, WaiterId};

/// What a refill thread is to do for a tag next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Reserve this many IDs and append them.
    Extend(i64),
    /// Reserve this many IDs for one waiting lease.
    Lease(WaiterId, i64),
}

impl Job {
    /// How many IDs to reserve.
    pub fn amount(self) -> i64 {
        match self {
            Job::Extend(amount) | Job::Lease(_, amount) => amount,
        }
    }

    fn lease((id, ids): (WaiterId, u64)) -> Self {
        Self::Lease(id, i64::try_from(ids).unwrap_or(i64::MAX))
    }
}

/// What came of [`Tag::refuse`].
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// The fault is another one than before.
    pub news: bool,
    /// What was in memory.
    pub discarded: Vec<Discarded>,
}

/// Which of the two jobs is next, if any. Leases go before what stands by for later, but not before callers whom the chain
/// cannot serve.
fn next(demand: &Demand, lease: Option<Job>, extend: Option<Job>) -> Option<Job> {
    let lease = lease.map(|job| match job {
        // Small ones share a reservation: each is then cut from the chain.
        Job::Lease(_, ids) if ids <= demand.step && demand.segments < CHAIN_SEGMENTS_MAX => {
            Job::Extend(demand.step)
        }
        job => job,
    });
    match demand.left < demand.waited_for {
        true => extend.or(lease),
        false => lease.or(extend),
    }
}

impl Tag {
    /// Takes the tag's entry out of a queue. False when the entry is out of date: leave the tag alone.
    pub fn begin_refill(&self, entry: Entry) -> bool {
        self.lock().refill.begin(entry)
    }

    /// What to do next, given how long a reservation takes. `None`: nothing is due, and the tag is idle.
    pub fn next_job(&self, latency: Duration, now: Instant) -> Option<Job> {
        let mut state = self.lock();
        let job = self.due(&mut state, latency, now);
        if job.is_none() {
            state.refill.end();
        }
        job
    }

    fn due(&self, state: &mut State, latency: Duration, now: Instant) -> Option<Job> {
        // A fault is over when the row is seen to be mended; to reserve before that would only make gaps.
        if state.chain.is_closed() || state.fault.is_some() {
            return None;
        }
        if state.chain.left(&self.head) >= state.waiters.supply_total() {
            self.serve_leases(state);
        }
        let demand = self.demand(state, latency, now);
        let lease = state.waiters.first_lease().map(Job::lease);
        let extend = sizing::reservation(&demand, &self.common.policy).map(Job::Extend);
        next(&demand, lease, extend)
    }

    fn demand(&self, state: &mut State, latency: Duration, now: Instant) -> Demand {
        let unspent = state.chain.unspent(&self.head);
        let left = unspent.iter().sum();
        Demand {
            step: state.step,
            rate_per_s: state.pace.observe(now, state.chain.claimed(left), &self.common.policy),
            latency,
            segments: unspent.len(),
            standby: unspent.iter().skip(1).sum(),
            left,
            waited_for: state.waiters.supply_total(),
            waited_for_most: state.waiters.supplies().max().unwrap_or(0),
            reservation_max: state.grants.reservation_max(state.step),
        }
    }

    /// Grants the leases that the chain holds: they cost no reservation.
    fn serve_leases(&self, state: &mut State) {
        while let Some((id, ids)) = state.waiters.first_lease()
            && let Some(lease) = state.chain.cut_a_part(&self.head, &self.common, ids)
        {
            state.waiters.resolve(id, Lease::Ready(lease));
        }
    }

    /// Fewer IDs are left below 2^63 than a lease asks for: its caller is told, and the others get what there is.
    pub fn refuse_lease(&self, id: WaiterId) {
        self.lock().waiters.resolve(id, Lease::TooLarge);
    }

    /// Keeps what was granted for `job` until it can be made durable: another reservation would only make a gap.
    pub fn keep_undurable(&self, job: Job, granted: IdRange) -> Option<Discarded> {
        let mut state = self.lock();
        if state.chain.is_closed() {
            return Some(Discarded(granted));
        }
        state.grants.keep_undurable(job, granted);
        None
    }

    /// What was kept.
    pub fn take_undurable(&self) -> Option<(Job, IdRange)> {
        self.lock().grants.take_undurable()
    }

    /// Whether the tag was closed: what is granted to it from now on has no taker.
    pub fn is_closed(&self) -> bool {
        self.lock().chain.is_closed()
    }

    /// A refill failed because of the tag's row: how many have since the last that did not fail.
    pub fn note_row_failure(&self) -> u32 {
        self.lock().refill.note_row_failure()
    }

    /// A refill succeeded: how many have failed because of the tag's row since the last one.
    pub fn note_refilled(&self) -> u32 {
        self.lock().refill.take_row_failures()
    }

    /// Takes what was reserved for `job` into the chain, or gives it to the lease.
    pub fn complete(&self, job: Job, granted: IdRange) -> Option<Discarded> {
        let mut state = self.lock();
        // Whoever closed the tag has counted what was handed out of it. That the store was replaced may have been found
        // out while this was reserved.
        if state.chain.is_closed() || state.fault.is_store_replaced() {
            return Some(Discarded(granted));
        }
        state.refill.note_granted();
        state.grants.note(granted, Instant::now(), SystemTime::now());
        match job {
            // An ID of 0 would leave the lease one short: it is served by the next reservation.
            Job::Lease(id, _) if granted.start > 0 && state.waiters.contains(id) => {
                let lease = match state.may_append(granted) {
                    true => state.chain.cut_lease(&self.head, &self.common, granted),
                    false => granted,
                };
                state.waiters.resolve(id, Lease::Ready(lease));
                None
            }
            Job::Extend(_) | Job::Lease(..) => self.append_or_discard(&mut state, granted),
        }
    }

    /// The refill failed for a reason that callers need not wait out: all of them are told. When the store may grant again
    /// what it granted, nothing that is in memory is handed out either.
    pub fn refuse(&self, fault: Fault) -> Refused {
        let mut state = self.lock();
        let discarded = match fault {
            Fault::Regression { .. } | Fault::StoreReplaced => self.withdraw_all(&mut state),
            _ => Vec::new(),
        };
        state.refill.note_failure();
        Refused { news: state.fail_all(fault), discarded }
    }

    /// The refill failed because of this tag's row, and is to be tried again after a pause: those who wait go
    /// on waiting. Returns how many have failed in a row.
    pub fn postpone(&self) -> u32 {
        self.lock().refill.postpone()
    }

    /// The refill thread could not reach the store (`failed`), or has other tags to serve: the tag goes back
    /// into the queue that is returned, if it has no entry there.
    pub fn requeue(&self, failed: bool) -> Option<Urgency> {
        let mut state = self.lock();
        if failed {
            state.refill.note_failure();
        }
        let urgency = if state.waiters.is_empty() { Urgency::Routine } else { Urgency::Urgent };
        state.refill.enqueue(urgency)
    }

    /// Whether a refill of this tag has ended, well or badly.
    pub fn was_tried(&self) -> bool {
        let state = self.lock();
        state.chain.is_loaded()
            || state.refill.has_failed()
            || state.fault.is_some()
            || state.chain.is_closed()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn demand(left: u64, waited_for: u64, segments: usize) -> Demand {
        Demand {
            step: 10,
            rate_per_s: 0.0,
            latency: Duration::ZERO,
            segments,
            standby: 0,
            left,
            waited_for,
            waited_for_most: waited_for,
            reservation_max: 1000,
        }
    }

    #[test]
    fn callers_of_the_chain_go_first_then_leases_then_what_stands_by() {
        let (lease, extend) = (Some(Job::Lease(1, 50)), Some(Job::Extend(20)));
        let (short, enough) = (demand(4, 5, 1), demand(5, 5, 1));
        assert_eq!((next(&short, lease, extend), next(&enough, lease, extend)), (extend, lease));
        assert_eq!((next(&short, lease, None), next(&enough, None, extend)), (lease, extend));
        assert_eq!(next(&short, None, None), None);
    }

    #[test]
    fn a_lease_of_at_most_a_step_has_a_step_reserved_while_the_chain_may_grow() {
        let of = |ids, segments| next(&demand(5, 0, segments), Some(Job::Lease(1, ids)), None);
        assert_eq!((of(10, 1), of(11, 1)), (Some(Job::Extend(10)), Some(Job::Lease(1, 11))));
        assert_eq!(of(10, CHAIN_SEGMENTS_MAX), Some(Job::Lease(1, 10)));
    }

    #[test]
    fn a_job_names_how_many_ids_to_reserve() {
        assert_eq!((Job::Extend(7).amount(), Job::lease((3, 9)).amount()), (7, 9));
        assert_eq!(Job::lease((3, u64::MAX)), Job::Lease(3, i64::MAX), "the store refuses that");
    }
}
