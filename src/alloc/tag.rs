//! One tag: its chain of segments, and who waits for it.
//!
//! The head is all that a claim touches. Everything else is behind the tag's one mutex, which is taken when a
//! segment ends, when a caller has to wait, and by the one refill thread that works for the tag.
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
//! next one finds, looking again, either another head or the end of the chain.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::sizing::{self, Demand, Pace};
use crate::segment::{Claim, IdRange, Segment};
use crate::sync::{ArcSwapOption, Cache, Mutex, MutexGuard, lock};

/// Why a tag gets no IDs, as its callers are told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The row's step cannot be reserved.
    #[error("its step is {0} in the table; it must be 1 or more")]
    Step(i64),
    /// The row's `max_id` would yield IDs below 1.
    #[error("its max_id is negative in the table; it must be 0 or more")]
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
    /// 2^63 is reached.
    #[error("all its IDs below 2^63 are handed out")]
    Exhausted,
}

/// A tag: the head of its chain, and what surrounds it.
pub struct Tag {
    name: Box<str>,
    /// `None` until the first segment is there; then it only moves forward along the chain.
    head: ArcSwapOption<Segment>,
    state: Mutex<State>,
}

struct State {
    refill: Refill,
    /// The newest segment: where the next one is linked.
    tail: Option<Arc<Segment>>,
    /// How many IDs were ever put into the chain.
    appended: u64,
    step: i64,
    pace: Pace,
    /// By the order in which they came.
    waiters: BTreeMap<WaiterId, Waiter>,
    next_waiter: WaiterId,
    fault: Option<Fault>,
    /// The row is gone, or the process ends: no claim succeeds any more.
    closed: bool,
    /// Since when a loaded tag has had nothing for its callers.
    empty_since: Option<Instant>,
    /// Whether the tag is on its allocator's list of those to look at when the node's health is asked for.
    on_watch: bool,
    /// Refills that failed since the last that did not.
    failures: u32,
}

/// Where a tag stands with the refill threads. At most one of them works for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refill {
    Idle,
    /// In the queue, ahead of the others if `urgent`.
    Queued {
        urgent: bool,
    },
    /// Comes back into the queue by itself, after a pause.
    Postponed,
    Running,
}

/// Names one parked caller of one tag.
pub type WaiterId = u64;

struct Waiter {
    waker: Waker,
    need: Need,
    /// The range reserved for a lease, until its caller takes it.
    granted: Option<IdRange>,
}

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// At least so many IDs in the chain.
    Supply(u64),
    /// So many in one contiguous range, reserved for this caller alone.
    Lease(u64),
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
        /// Whether the tag must be put on the list of those that may starve.
        watch: bool,
    },
    /// It is no use waiting before the row is mended.
    Fault {
        /// What is wrong with the row.
        fault: Fault,
        /// As for `Waiting`.
        watch: bool,
    },
    /// The tag was closed.
    Closed,
}

/// What [`Tag::hunger`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hunger {
    /// Callers find IDs, or the tag was never loaded, or it is closed.
    None,
    /// The chain is empty and a refill is under way: as usual for a small step.
    Brief,
    /// The chain is empty, and has been for long or because refills fail.
    Starving,
}

/// How soon a refill is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// The chain holds something; others may be served first.
    Routine,
    /// Callers wait.
    Urgent,
}

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
}

/// IDs that were reserved and then had no taker: a gap, which the log names.
#[derive(Debug, PartialEq, Eq)]
pub struct Discarded(pub IdRange);

impl Tag {
    /// A tag with this row's step and no segment yet.
    pub fn new(name: &str, step: i64, now: Instant) -> Self {
        let state = State {
            refill: Refill::Idle,
            tail: None,
            appended: 0,
            step,
            pace: Pace::new(now),
            waiters: BTreeMap::new(),
            next_waiter: 0,
            fault: step_fault(step),
            closed: false,
            empty_since: None,
            on_watch: false,
            failures: 0,
        };
        Self { name: name.into(), head: ArcSwapOption::empty(), state: Mutex::new(state) }
    }

    /// The `app_tag`.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    // ---- callers ----

    /// Moves the head past `spent`, unless somebody has. False when `spent` is the end of the chain.
    fn advance(&self, spent: &Arc<Segment>) -> bool {
        if let Some(next) = spent.next() {
            self.head.compare_and_swap(spent, Some(next));
            spent.unlink();
            return true;
        }
        self.head.load_full().is_some_and(|head| !Arc::ptr_eq(&head, spent))
    }

    /// Registers a caller that found too little, to be woken when the chain grows; see [`Parked`]. The caller
    /// keeps `id` from one call to the next and hands it to [`Tag::unpark`] in the end.
    pub fn park(&self, need: Need, waker: &Waker, id: &mut Option<WaiterId>, now: Instant) -> Parked {
        let mut state = self.lock();
        if let Some(range) = state.take_lease(id) {
            return Parked::Leased(range);
        }
        if state.closed {
            return Parked::Closed;
        }
        if let Need::Supply(ids) = need
            && state.tail.is_some()
            && self.left_in(&state) >= ids
        {
            return Parked::TryAgain;
        }
        let watch = matches!(need, Need::Supply(_)) && state.note_empty(now);
        if let Some(fault) = state.fault.clone() {
            return Parked::Fault { fault, watch };
        }
        state.register(need, waker, id);
        Parked::Waiting { enqueue: state.request(Urgency::Urgent), watch }
    }

    /// Forgets a parked caller. A range that was reserved for it goes into the chain when it still is the
    /// newest, and is otherwise discarded.
    pub fn unpark(&self, id: WaiterId) -> Option<Discarded> {
        let mut state = self.lock();
        let range = state.waiters.remove(&id)?.granted?;
        self.append_or_discard(&mut state, range)
    }

    /// How a caller whose claim crossed the trigger must enqueue the tag, if at all.
    pub fn request_refill(&self) -> Option<Urgency> {
        self.lock().request(Urgency::Routine)
    }

    /// IDs left in memory, or `None` when the tag was never loaded.
    pub fn left(&self) -> Option<u64> {
        let state = self.lock();
        state.tail.as_ref().map(|_| self.left_in(&state))
    }

    /// How badly the tag wants IDs. One that has some is taken off the watch list by its caller.
    pub fn hunger(&self, grace: Duration, now: Instant) -> Hunger {
        let mut state = self.lock();
        match state.empty_since.filter(|_| !state.closed) {
            None => {
                state.on_watch = false;
                Hunger::None
            }
            Some(since) if state.failures > 0 || state.fault.is_some() || now - since >= grace => {
                Hunger::Starving
            }
            Some(_) => Hunger::Brief,
        }
    }

    // ---- the chain, as seen under the mutex: nothing is appended meanwhile, heads may still move ----

    /// Visits the unspent segments, the head first.
    fn chain(&self, state: &State) -> Vec<Arc<Segment>> {
        let Some(tail) = &state.tail else { return Vec::new() };
        loop {
            let mut segments: Vec<_> = self.head.load_full().into_iter().collect();
            while let Some(next) = segments.last().and_then(|last| last.next()) {
                segments.push(next);
            }
            // A head that moved on meanwhile unlinks the way behind it: then this ended too early.
            if segments.last().is_some_and(|last| Arc::ptr_eq(last, tail)) {
                return segments;
            }
        }
    }

    fn left_in(&self, state: &State) -> u64 {
        self.chain(state).iter().map(|segment| segment.left()).sum()
    }

    fn demand(&self, state: &mut State, latency: Duration, now: Instant) -> Demand {
        let unspent: Vec<u64> =
            self.chain(state).iter().map(|segment| segment.left()).filter(|left| *left > 0).collect();
        let left = unspent.iter().sum();
        Demand {
            step: state.step,
            rate_per_s: state.pace.observe(now, state.appended - left),
            latency,
            segments: unspent.len(),
            standby: unspent.iter().skip(1).sum(),
            left,
            waited_for: state.supplies_waited_for().sum(),
            waited_for_most: state.supplies_waited_for().max().unwrap_or(0),
        }
    }

    /// Appends what is left of `granted` when IDs below 1 are trimmed, and wakes everybody.
    fn append(&self, state: &mut State, granted: IdRange) {
        let ids = IdRange { start: granted.start.max(1), end: granted.end };
        if ids.start >= ids.end {
            return;
        }
        if state.tail.is_some() && state.supplies_waited_for().next().is_some() {
            let step = state.step;
            state.pace.starved(step);
        }
        let segment = Arc::new(Segment::new(ids));
        state.appended += ids.len();
        match state.tail.replace(segment.clone()) {
            Some(tail) => tail.link(segment),
            None => self.head.store(Some(segment)),
        }
        state.empty_since = None;
        state.wake_all();
    }

    fn append_or_discard(&self, state: &mut State, range: IdRange) -> Option<Discarded> {
        let newest = state.tail.as_ref().is_none_or(|tail| tail.end() <= range.start);
        if state.closed || !newest {
            return Some(Discarded(range));
        }
        self.append(state, range);
        None
    }

    // ---- refill threads ----

    /// Takes the tag out of the queue. False for an entry that is out of date: leave the tag alone.
    pub fn begin_refill(&self) -> bool {
        let mut state = self.lock();
        let queued = matches!(state.refill, Refill::Queued { .. } | Refill::Postponed);
        if queued {
            state.refill = Refill::Running;
        }
        queued
    }

    /// What to do next, given how long a reservation takes. `None`: nothing is due, and the tag is idle.
    pub fn next_job(&self, latency: Duration, now: Instant) -> Option<Job> {
        let mut state = self.lock();
        let job = self.due(&mut state, latency, now);
        if job.is_none() {
            state.refill = Refill::Idle;
        }
        job
    }

    fn due(&self, state: &mut State, latency: Duration, now: Instant) -> Option<Job> {
        // A fault is over when the row is seen to be mended; reserving before that would but make gaps.
        if state.closed || state.fault.is_some() {
            return None;
        }
        let lease = state.waiters.iter().find_map(|(id, waiter)| match (waiter.need, waiter.granted) {
            (Need::Lease(ids), None) => Some(Job::Lease(*id, i64::try_from(ids).unwrap_or(i64::MAX))),
            _ => None,
        });
        lease.or_else(|| sizing::reservation(&self.demand(state, latency, now)).map(Job::Extend))
    }

    /// Puts what was reserved for `job` where it belongs.
    pub fn complete(&self, job: Job, granted: IdRange) -> Option<Discarded> {
        let mut state = self.lock();
        state.failures = 0;
        if granted.start < 0 {
            state.fail_all(Fault::NegativeMaxId);
            return Some(Discarded(granted));
        }
        match job {
            Job::Extend(_) => self.append_or_discard(&mut state, granted),
            // An ID of 0 would leave the lease one short: it is served by the next reservation.
            Job::Lease(id, _) if granted.start > 0 && state.grant(id, granted) => None,
            Job::Lease(..) => self.append_or_discard(&mut state, granted),
        }
    }

    /// The refill failed for a reason that callers need not wait out: all of them are told. Returns whether
    /// the reason is a new one.
    pub fn refuse(&self, fault: Fault) -> bool {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        state.fail_all(fault)
    }

    /// The refill failed because of this tag's row, and is to be tried again after a pause: those who wait go
    /// on waiting. Returns how many have failed in a row.
    pub fn postpone(&self) -> u32 {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        state.refill = Refill::Postponed;
        state.failures
    }

    /// The refill thread could not reach the store (`failed`), or has other tags to serve: the tag goes back
    /// into the queue, with the urgency that is returned.
    pub fn requeue(&self, failed: bool) -> Urgency {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(u32::from(failed));
        let urgent = !state.waiters.is_empty();
        state.refill = Refill::Queued { urgent };
        if urgent { Urgency::Urgent } else { Urgency::Routine }
    }

    /// Whether a refill of this tag has ended, well or badly.
    pub fn was_tried(&self) -> bool {
        let state = self.lock();
        state.tail.is_some() || state.failures > 0 || state.fault.is_some() || state.closed
    }

    // ---- the row ----

    /// Takes note of the row as it was read. Returns the urgency with which to enqueue the tag, if the row was mended.
    pub fn observe_row(&self, step: i64, max_id: i64) -> Option<Urgency> {
        let mut state = self.lock();
        state.step = step;
        let mended = match state.fault {
            Some(Fault::Step(_)) => step >= 1,
            Some(Fault::NegativeMaxId) => max_id >= 0,
            Some(Fault::Regression { granted }) => max_id >= granted,
            Some(Fault::Exhausted) => max_id < i64::MAX,
            None => false,
        };
        if mended {
            state.fault = None;
            return state.request(Urgency::Urgent);
        }
        if let Some(fault) = step_fault(step) {
            state.fail_all(fault);
        }
        None
    }

    /// Ends the tag: nothing is claimed after this, and everybody who waits is woken to learn of it. Returns
    /// what was never claimed, in ascending order.
    pub fn close(&self) -> Vec<IdRange> {
        let mut state = self.lock();
        state.closed = true;
        let unclaimed = self.chain(&state).into_iter().map(|segment| segment.close());
        let unclaimed = unclaimed.filter(|range| !range.is_empty()).collect();
        state.wake_all();
        unclaimed
    }
}

/// One worker's way to a tag: it caches the head, so that a claim reads one pointer beside its `fetch_add`.
pub struct TagHandle {
    tag: Arc<Tag>,
    head: Cache<HeadOf, Option<Arc<Segment>>>,
}

/// What the cache watches.
struct HeadOf(Arc<Tag>);

impl Deref for HeadOf {
    type Target = ArcSwapOption<Segment>;

    fn deref(&self) -> &Self::Target {
        &self.0.head
    }
}

impl TagHandle {
    /// A way to `tag`.
    pub fn new(tag: Arc<Tag>) -> Self {
        Self { head: Cache::new(HeadOf(tag.clone())), tag }
    }

    /// The tag it leads to.
    pub fn tag(&self) -> &Arc<Tag> {
        &self.tag
    }

    /// Takes up to `count` IDs (at least 1) from the first segment that has any; `None` when the chain is empty.
    #[inline]
    pub fn claim(&mut self, count: u64) -> Option<Claim> {
        match self.head.load().as_ref()?.claim(count) {
            None => self.claim_further_on(count),
            claimed => claimed,
        }
    }

    #[cold]
    fn claim_further_on(&mut self, count: u64) -> Option<Claim> {
        loop {
            // Only a segment that was seen to be spent may be passed by: the head may have moved meanwhile.
            let head = self.head.load().clone()?;
            let claimed = head.claim(count);
            if claimed.is_some() || !self.tag.advance(&head) {
                return claimed;
            }
        }
    }

    /// Takes exactly `count` IDs from the head segment, or none.
    pub fn claim_exactly(&mut self, count: u64) -> Option<Claim> {
        self.head.load().as_ref()?.claim_exactly(count)
    }

    /// Whether the head segment alone seems to hold `count` IDs; others may claim them first.
    pub fn head_holds(&mut self, count: u64) -> bool {
        self.head.load().as_ref().is_some_and(|head| head.left() >= count)
    }
}

fn step_fault(step: i64) -> Option<Fault> {
    (step < 1).then_some(Fault::Step(step))
}

impl State {
    /// Asks for a refill; at most one entry of each urgency is in the queue.
    fn request(&mut self, urgency: Urgency) -> Option<Urgency> {
        let urgent = urgency == Urgency::Urgent;
        match self.refill {
            Refill::Idle => {}
            // The routine entry stays in the queue; whoever meets it later finds it out of date.
            Refill::Queued { urgent: false } if urgent => {}
            Refill::Queued { .. } | Refill::Postponed | Refill::Running => return None,
        }
        self.refill = Refill::Queued { urgent };
        Some(urgency)
    }

    fn register(&mut self, need: Need, waker: &Waker, id: &mut Option<WaiterId>) {
        let id = *id.get_or_insert_with(|| {
            self.next_waiter += 1;
            self.next_waiter
        });
        let waiter = Waiter { waker: waker.clone(), need, granted: None };
        self.waiters.insert(id, waiter);
    }

    /// How many IDs each caller waits for that waits for the chain.
    fn supplies_waited_for(&self) -> impl Iterator<Item = u64> {
        self.waiters.values().filter_map(|waiter| match waiter.need {
            Need::Supply(ids) => Some(ids),
            Need::Lease(_) => None,
        })
    }

    fn take_lease(&mut self, id: &Option<WaiterId>) -> Option<IdRange> {
        self.waiters.get_mut(id.as_ref()?)?.granted.take()
    }

    /// False when the caller is gone.
    fn grant(&mut self, id: WaiterId, range: IdRange) -> bool {
        let Some(waiter) = self.waiters.get_mut(&id) else { return false };
        waiter.granted = Some(range);
        waiter.waker.wake_by_ref();
        true
    }

    /// Takes note that a caller found nothing. True when the tag must be put on the watch list.
    fn note_empty(&mut self, now: Instant) -> bool {
        if self.tail.is_none() {
            return false;
        }
        self.empty_since.get_or_insert(now);
        !std::mem::replace(&mut self.on_watch, true)
    }

    fn fail_all(&mut self, fault: Fault) -> bool {
        let new = self.fault.as_ref() != Some(&fault);
        self.fault = Some(fault);
        self.wake_all();
        new
    }

    /// Waiters stay registered until they leave by themselves: one that is dropped before it runs takes
    /// nobody's wake-up with it.
    fn wake_all(&self) {
        self.waiters.values().for_each(|waiter| waiter.waker.wake_by_ref());
    }
}
