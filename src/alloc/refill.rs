//! The refill threads: they, and only they, ask the store for segments.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::Shared;
use super::tag::{Discarded, Fault, Job, Tag, Urgency};
use crate::segment::IdRange;
use crate::store::{SegmentStore, StoreError};
use crate::sync::lock;

/// Reservations for one tag before the next tag has its turn.
const JOBS_PER_TURN: usize = 4;
/// The pause after the first failure; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
/// The longest pause: serving resumes within it when the store is back.
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// So many failures in a row are worth a line in the log; one is what an idle connection ends with.
const FAILURES_LOGGED: u32 = 2;

/// The pause after `failures` in a row: exponential, and jittered so that nodes do not retry in step.
pub(super) fn backoff(failures: u32) -> Duration {
    let full = BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACKOFF_MAX);
    full.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// The tags that need a refill. Each is in it at most twice (once as routine, once as urgent).
#[derive(Default)]
pub(super) struct RefillQueue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Default)]
struct Waiting {
    urgent: VecDeque<Arc<Tag>>,
    routine: VecDeque<Arc<Tag>>,
    postponed: BinaryHeap<Reverse<Postponed>>,
    stopped: bool,
}

struct Postponed {
    due: Instant,
    tag: Arc<Tag>,
}

impl Ord for Postponed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

impl PartialOrd for Postponed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Postponed {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Postponed {}

impl RefillQueue {
    pub fn push(&self, tag: Arc<Tag>, urgency: Urgency) {
        let mut waiting = lock(&self.waiting);
        match urgency {
            Urgency::Urgent => waiting.urgent.push_back(tag),
            Urgency::Routine => waiting.routine.push_back(tag),
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    fn push_later(&self, tag: Arc<Tag>, pause: Duration) {
        lock(&self.waiting).postponed.push(Reverse(Postponed { due: Instant::now() + pause, tag }));
        self.arrived.notify_one();
    }

    /// The next tag, urgent ones first; waits for one. `None` when the queue is stopped.
    fn pop(&self) -> Option<Arc<Tag>> {
        let mut waiting = lock(&self.waiting);
        loop {
            if waiting.stopped {
                return None;
            }
            let now = Instant::now();
            while waiting.postponed.peek().is_some_and(|Reverse(first)| first.due <= now) {
                let due = waiting.postponed.pop().map(|Reverse(postponed)| postponed.tag);
                waiting.routine.extend(due);
            }
            let next = waiting.urgent.pop_front().or_else(|| waiting.routine.pop_front());
            if next.is_some() {
                return next;
            }
            let pause = waiting.postponed.peek().map(|Reverse(first)| first.due - now);
            waiting = self.wait(waiting, pause);
        }
    }

    /// Pauses the calling thread, for less if the queue is stopped.
    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut waiting = lock(&self.waiting);
        while !waiting.stopped {
            match until.checked_duration_since(Instant::now()) {
                Some(rest) if !rest.is_zero() => waiting = self.wait(waiting, Some(rest)),
                _ => return,
            }
        }
    }

    fn wait<'a>(&self, waiting: MutexGuard<'a, Waiting>, limit: Option<Duration>) -> MutexGuard<'a, Waiting> {
        match limit {
            Some(limit) => {
                self.arrived.wait_timeout(waiting, limit).unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Ends every `pop` and every pause, now and in future.
    pub fn stop(&self) {
        lock(&self.waiting).stopped = true;
        self.arrived.notify_all();
    }
}

/// Whether the store answers, as the log was last told.
#[derive(Default)]
pub(super) struct StoreState {
    away_since: Mutex<Option<Instant>>,
}

impl StoreState {
    /// Takes note of a session's `failures` in a row; the log hears of a change only.
    pub fn failed(&self, cause: &StoreError, failures: u32) {
        let mut away_since = lock(&self.away_since);
        if away_since.is_none() && failures >= FAILURES_LOGGED {
            *away_since = Some(Instant::now());
            warn!(%cause, "the store does not answer: serving from memory, and trying again");
        }
    }

    pub fn answered(&self) {
        if let Some(since) = lock(&self.away_since).take() {
            info!(away_ms = since.elapsed().as_millis() as u64, "the store answers again");
        }
    }

    pub fn is_away(&self) -> bool {
        lock(&self.away_since).is_some()
    }
}

/// One refill thread.
pub(super) struct Refiller {
    pub shared: Arc<Shared>,
    pub store: Box<dyn SegmentStore>,
    /// Failures of the store, whatever the tag, since it last answered.
    pub failures: u32,
}

impl Refiller {
    /// Serves the queue until it is stopped.
    pub fn run(mut self) {
        while let Some(tag) = self.shared.queue.pop() {
            if !tag.begin_refill() {
                continue;
            }
            // A bug must not end the thread, and with it the refills of every tag.
            if catch_unwind(AssertUnwindSafe(|| self.refill(&tag))).is_err() {
                error!(tag = tag.name(), "a refill panicked; it is tried again");
                self.try_later(&tag);
            }
        }
    }

    fn refill(&mut self, tag: &Arc<Tag>) {
        for _ in 0..JOBS_PER_TURN {
            let latency = lock(&self.shared.latency).p99();
            let Some(job) = tag.next_job(latency, Instant::now()) else { return };
            if let Err(error) = self.carry_out(tag, job) {
                return self.recover(tag, error);
            }
        }
        let urgency = tag.requeue(false);
        self.shared.queue.push(tag.clone(), urgency);
    }

    fn carry_out(&mut self, tag: &Tag, job: Job) -> Result<(), StoreError> {
        match self.reserve(tag, job.amount()) {
            Ok(range) => self.hand_over(tag, job, range),
            Err(StoreError::Overflow { max_id: i64::MAX }) => self.refuse(tag, Fault::Exhausted),
            // The last IDs below 2^63 are served too; they do not make a whole lease.
            Err(StoreError::Overflow { max_id }) => {
                let rest = i64::MAX - max_id.max(0);
                let range = self.reserve(tag, rest)?;
                self.hand_over(tag, Job::Extend(rest), range);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn reserve(&mut self, tag: &Tag, amount: i64) -> Result<IdRange, StoreError> {
        let asked = Instant::now();
        let end = self.store.reserve(tag.name(), amount)?;
        lock(&self.shared.latency).observe(asked.elapsed());
        self.failures = 0;
        self.shared.store_state.answered();
        let start = end.checked_sub(amount).ok_or_else(|| {
            StoreError::Unexpected(format!("max_id {end} after {amount} IDs were reserved"))
        })?;
        Ok(IdRange { start, end })
    }

    fn hand_over(&self, tag: &Tag, job: Job, range: IdRange) {
        if let Err(granted) = self.shared.watermarks.advance(tag.name(), range) {
            self.refuse(tag, Fault::Regression { granted });
        } else if let Some(discarded) = tag.complete(job, range) {
            log_discarded(tag, &discarded);
        }
    }

    fn refuse(&self, tag: &Tag, fault: Fault) {
        let text = fault.to_string();
        if tag.refuse(fault) {
            error!(tag = tag.name(), "the tag gets no more IDs: {text}");
        }
    }

    fn recover(&mut self, tag: &Arc<Tag>, error: StoreError) {
        match error {
            StoreError::UnknownTag => {
                info!(tag = tag.name(), "the tag's row is gone");
                self.shared.retire(tag);
                self.shared.listing.request();
            }
            // An overflow that gets here means that another node took of the rest meanwhile.
            StoreError::Contended(_) | StoreError::Unexpected(_) | StoreError::Overflow { .. } => {
                self.shared.store_state.answered();
                let failures = self.try_later(tag);
                if failures == FAILURES_LOGGED {
                    warn!(tag = tag.name(), cause = %error, "refills of the tag fail; trying again");
                }
            }
            StoreError::Unavailable(_)
            | StoreError::ReadOnly(_)
            | StoreError::Schema(_)
            | StoreError::Denied(_) => {
                self.failures = self.failures.saturating_add(1);
                self.shared.store_state.failed(&error, self.failures);
                let urgency = tag.requeue(true);
                self.shared.queue.push(tag.clone(), urgency);
                self.shared.queue.pause(backoff(self.failures));
            }
        }
    }

    fn try_later(&self, tag: &Arc<Tag>) -> u32 {
        let failures = tag.postpone();
        self.shared.queue.push_later(tag.clone(), backoff(failures));
        failures
    }
}

/// Says in the log which IDs became a gap.
pub(super) fn log_discarded(tag: &Tag, Discarded(range): &Discarded) {
    info!(tag = tag.name(), ids = ?range, "reserved IDs had no taker and are skipped");
}
