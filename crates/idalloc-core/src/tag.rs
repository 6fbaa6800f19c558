//! One tag: its chain of segments, and who waits for it.
//!
//! A segment is all that a claim touches. Everything else is behind the tag's one mutex, which is taken when a
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
//! next one finds, looking again, either another head or the end of the chain. Nobody need look whether a head that
//! he knows still is the head: it moves only from a spent segment, and none is ever unspent again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use compact_str::CompactString;
use smallvec::SmallVec;

use crate::bounds::{STEP_MAX, reservation_max};
use crate::common::Common;
use crate::episode::Episode;
use crate::segment::{Claim, IdRange, Segment};
use crate::sizing::{self, CHAIN_SEGMENTS_MAX, Demand, Pace};
use crate::sync::{ArcSwapOption, Mutex, MutexGuard, lock};

/// Why a tag gets no IDs, as its callers are told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The row's step cannot be reserved.
    #[error("its step is {0} in the table; it must be 1 to {STEP_MAX}")]
    Step(i64),
    /// Something in the row is not what it must be.
    #[error("its row in the table cannot be read: {0}")]
    Unreadable(Box<CompactString>),
    /// The row's `max_id` is below every ID that there ever was, and nobody here has seen it where it belongs.
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

/// A tag: the head of its chain, and what surrounds it. There may be a hundred thousand, so what few of them need is boxed.
pub struct Tag {
    name: CompactString,
    common: Arc<Common>,
    /// `None` until the first segment is there; then it only moves forward along the chain.
    head: ArcSwapOption<Segment>,
    state: Mutex<State>,
}

struct State {
    refill: Refill,
    /// Which queues hold an entry for this tag, be it out of date.
    in_urgent: bool,
    in_routine: bool,
    /// The newest segment: where the next one is linked.
    tail: Option<Arc<Segment>>,
    /// The ends of what was handed out before the head, and of the segments from there on, ascending.
    ends: SmallVec<[i64; 3]>,
    /// How far the store has granted this tag, and when it last did.
    granted: Option<Granted>,
    /// What the store granted and the watermark file does not know yet.
    undurable: Option<Box<(Job, IdRange)>>,
    /// The row was seen below `granted`: what the store granted since may end where ours did, and yet be another's.
    gone_back: bool,
    /// The store's first range of this tag began at 0, which is no ID, and goes back to there if nothing of it is claimed.
    began_at_zero: bool,
    /// How many IDs were ever put into the chain, without those that were taken out again: because the store had gone back,
    /// or at the end.
    appended: u64,
    /// The tag is counted among those that have IDs in memory.
    holds_ids: bool,
    /// What was ever reserved for one caller, and taken.
    leased: Option<Box<Leased>>,
    newest: Option<Reserved>,
    step: i64,
    /// The highest `max_id` that was seen, read or granted.
    max_id_seen: i64,
    pace: Pace,
    /// By the order in which they came.
    waiters: BTreeMap<WaiterId, Waiter>,
    next_waiter: WaiterId,
    fault: Option<Fault>,
    /// The row is gone, or the process ends: no claim succeeds any more.
    closed: bool,
    /// Since when callers have found too little.
    unmet: Option<Unmet>,
    starving: Option<Box<Episode>>,
    /// Whether the tag is on its allocator's list of those to look at when the node's health is asked for.
    tracked: bool,
    /// Refills that failed since the last that did not.
    failures: u32,
    /// Those of them that failed because of the tag's row.
    row_failures: u32,
}

#[derive(Default)]
struct Leased {
    ids: u64,
    /// One past the highest of them.
    end: i64,
}

#[derive(Debug, Clone, Copy)]
struct Granted {
    end: i64,
    at: Instant,
}

/// A need that the chain could not meet.
#[derive(Debug, Clone, Copy)]
struct Unmet {
    since: Instant,
    /// IDs in the chain then. Fewer now means that others were served meanwhile, who asked for less.
    left: u64,
}

/// Where a tag stands with the refill threads. At most one of them works for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refill {
    Idle,
    /// In the queue, ahead of the others if `urgent`.
    Queued {
        urgent: bool,
    },
    /// Comes back by itself, after a pause.
    Postponed,
    Running,
}

/// Names one parked caller of one tag.
pub type WaiterId = u64;

struct Waiter {
    waker: Waker,
    need: Need,
    lease: Lease,
}

/// What has become of a lease that a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    /// Nothing yet.
    Due,
    /// This range, until its caller takes it.
    Granted(IdRange),
    /// Nothing, ever: so many are not left below 2^63.
    TooLarge,
}

impl Lease {
    /// Takes the granted range out.
    fn withdraw(&mut self) -> Option<IdRange> {
        let Lease::Granted(range) = *self else { return None };
        *self = Lease::Due;
        Some(range)
    }
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

/// What [`Tag::starvation`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starvation {
    /// Callers find IDs, or there were no callers, or the tag is closed.
    None,
    /// Callers find too little, but have not for long, or others are served: as usual for a small step.
    Brief,
    /// Callers find too little and nobody is served, and that has been so for long or because of a fault.
    Starving,
}

/// How a tag is doing. The states are in the order in which they want an operator.
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

/// What came of [`Tag::refuse`].
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// The fault is another one than before.
    pub news: bool,
    /// What was in memory.
    pub discarded: Vec<Discarded>,
}

/// IDs that were reserved and then had no taker: a gap, which the log names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discarded(pub IdRange);

impl Tag {
    /// A tag with this row's step and no segment yet.
    pub fn new(name: &str, step: i64, common: impl Into<Arc<Common>>, now: Instant) -> Self {
        let state = State {
            refill: Refill::Idle,
            in_urgent: false,
            in_routine: false,
            tail: None,
            ends: SmallVec::new(),
            granted: None,
            undurable: None,
            gone_back: false,
            began_at_zero: false,
            appended: 0,
            holds_ids: false,
            leased: None,
            newest: None,
            step,
            max_id_seen: 0,
            pace: Pace::new(now),
            waiters: BTreeMap::new(),
            next_waiter: 0,
            fault: step_fault(step),
            closed: false,
            unmet: None,
            starving: None,
            tracked: false,
            failures: 0,
            row_failures: 0,
        };
        let (name, common) = (name.into(), common.into());
        Self { name, common, head: ArcSwapOption::empty(), state: Mutex::new(state) }
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
        self.lock().fault.clone()
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
        if let Some(range) = state.take_lease(*id) {
            return Parked::Leased(range);
        }
        if state.closed {
            return Parked::Closed;
        }
        if state.is_too_large(*id) {
            return Parked::TooLarge;
        }
        let left = self.left_in(&state);
        if matches!(need, Need::Supply(ids) if left >= ids) {
            return Parked::TryAgain;
        }
        self.note_spent(&mut state);
        // A lease that does not fit says nothing about the tag's other callers.
        let track = (left == 0 || matches!(need, Need::Supply(_))) && state.note_unmet(left, now);
        if let Some(fault) = state.fault.clone() {
            return Parked::Fault { fault, track };
        }
        if matches!(need, Need::Lease(ids) if state.exceeds_reservation(ids)) {
            return Parked::TooLarge;
        }
        state.register(need, waker, id);
        Parked::Waiting { enqueue: state.request(Urgency::Urgent), track }
    }

    /// The range reserved for a parked lease, once it is there.
    pub fn take_lease(&self, id: WaiterId) -> Option<IdRange> {
        self.lock().take_lease(Some(id))
    }

    /// Forgets a parked caller. A range that was reserved for it goes into the chain, where no ID above it was handed
    /// out, and is otherwise discarded.
    pub fn unpark(&self, id: WaiterId) -> Option<Discarded> {
        let mut state = self.lock();
        let range = state.leave(id)?.lease.withdraw()?;
        self.put_back_or_discard(&mut state, range)
    }

    /// How a caller whose claim crossed the trigger must enqueue the tag, if at all.
    pub fn request_refill(&self) -> Option<Urgency> {
        let mut state = self.lock();
        self.note_spent(&mut state);
        state.request(Urgency::Routine)
    }

    /// IDs left in memory, or `None` when the tag was never loaded.
    pub fn left(&self) -> Option<u64> {
        let state = self.lock();
        state.tail.as_ref().map(|_| self.left_in(&state))
    }

    /// How badly the tag wants IDs. One that has some is not tracked any more by its caller.
    pub fn starvation(&self, grace: Duration, now: Instant) -> Starvation {
        let mut state = self.lock();
        let left = self.left_in(&state);
        let starvation = state.starvation(left, grace, now);
        state.note_progress(left, now);
        state.tracked &= starvation != Starvation::None;
        starvation
    }

    /// What the tag's callers lack, for who cannot serve because of it.
    pub fn complaint(&self) -> String {
        let state = self.lock();
        match &state.fault {
            Some(fault) => format!("app_tag '{}' gets no IDs: {fault}", self.name),
            None if self.left_in(&state) == 0 => format!("app_tag '{}' has no IDs left", self.name),
            None => format!("app_tag '{}' has fewer IDs left than its callers ask for", self.name),
        }
    }

    /// Whether the log is to be told that the tag starves, or that it does not any more. To be called time and again.
    pub fn note_starving(&self, starves: bool, now: Instant) -> bool {
        let mut state = self.lock();
        match starves {
            // Of a fault the log is told by who finds it.
            true => state.fault.is_none() && state.starving.get_or_insert_default().holds(now),
            false => state.starving.as_mut().is_some_and(|starving| starving.is_over()),
        }
    }

    /// What there is to know about the tag; `grace` is how long its chain may be empty before it starves.
    pub fn figures(&self, grace: Duration, now: Instant) -> TagFigures {
        let state = self.lock();
        let (mut left, mut segments) = (0, 0);
        for ids in self.chain(&state).iter().map(|segment| segment.left()).filter(|ids| *ids > 0) {
            left += ids;
            segments += 1;
        }
        TagFigures {
            state: state.condition(left, grace, now),
            fault: state.fault.clone(),
            step: state.step,
            left,
            segments,
            issued: state.appended - left + state.leased.as_ref().map_or(0, |leased| leased.ids),
            newest: state.newest,
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
            rate_per_s: state.pace.observe(now, state.appended - left, &self.common.policy),
            latency,
            segments: unspent.len(),
            standby: unspent.iter().skip(1).sum(),
            left,
            waited_for: state.supplies_waited_for().fold(0, u64::saturating_add),
            waited_for_most: state.supplies_waited_for().max().unwrap_or(0),
            reservation_max: reservation_max(state.max_id_seen, state.step),
        }
    }

    /// Appends what is left of `granted` when IDs below 1 are trimmed, and wakes everybody.
    fn append(&self, state: &mut State, granted: IdRange) {
        let ids = IdRange { start: granted.start.max(1), end: granted.end };
        if ids.start >= ids.end {
            return;
        }
        state.began_at_zero |= granted.start == 0;
        if state.tail.is_some() && state.supplies_waited_for().next().is_some() {
            let step = state.step;
            state.pace.starved(step, &self.common.policy);
        }
        self.link(state, ids);
        state.unmet = None;
        state.wake_all();
    }

    /// Makes a segment of `ids` the newest.
    fn link(&self, state: &mut State, ids: IdRange) {
        // Before anybody can claim: whoever claims the last of them is the one who ends it.
        if !std::mem::replace(&mut state.holds_ids, true) {
            self.common.begin_holding();
        }
        let segment = Arc::new(Segment::new(ids));
        if let Some(head) = self.head.load_full() {
            state.forget_before(head.start());
        }
        state.ends.push(ids.end);
        state.appended += ids.len();
        match state.tail.replace(segment.clone()) {
            Some(tail) => tail.link(segment),
            None => self.head.store(Some(segment)),
        }
    }

    /// To be called when the chain may have become empty. It is when its newest segment is spent.
    fn note_spent(&self, state: &mut State) {
        let is_spent = state.tail.as_ref().is_none_or(|tail| tail.left() == 0);
        if is_spent && std::mem::take(&mut state.holds_ids) {
            self.common.end_holding();
        }
    }

    fn append_or_discard(&self, state: &mut State, range: IdRange) -> Option<Discarded> {
        if !state.may_append(range) {
            return Some(Discarded(range));
        }
        self.append(state, range);
        None
    }

    /// Puts a range that was cut out of the chain, or reserved beside it, where it belongs. IDs must not go back: it is
    /// discarded if one above it was handed out.
    fn put_back_or_discard(&self, state: &mut State, range: IdRange) -> Option<Discarded> {
        if state.closed || state.is_fenced() || state.may_append(range) {
            return self.append_or_discard(state, range);
        }
        let mut rests = self.take_out_rests(state);
        // IDs are claimed from the lowest on, so nothing above an untouched rest is gone either.
        let place = rests.iter().position(|rest| rest.start == range.end);
        if let Some(place) = place {
            rests.insert(place, range);
        }
        self.link_again(state, &rests);
        place.is_none().then_some(Discarded(range))
    }

    /// The range for a lease that `granted` was reserved for. It is cut from the lowest IDs that are in one piece, and the
    /// chain goes on with the others. So the IDs that are left are the newest, and only those can be given back at the end.
    fn cut_lease(&self, state: &mut State, granted: IdRange) -> IdRange {
        if !state.may_append(granted) {
            return granted;
        }
        let mut rests = self.take_out_rests(state);
        // A chain of many short ranges, between which others reserve, must not become longer by each lease.
        let lease = match rests.len() < CHAIN_SEGMENTS_MAX {
            true => {
                rests.push(granted);
                cut(&mut rests, granted.len())
            }
            false => None,
        };
        self.link_again(state, &rests);
        lease.unwrap_or(granted)
    }

    /// Grants the leases that the chain holds: they cost no reservation.
    fn serve_leases(&self, state: &mut State) {
        while let Some(Job::Lease(id, ids)) = state.first_lease()
            && let Some(lease) = self.cut_from_chain(state, ids.unsigned_abs())
        {
            state.settle(id, Lease::Granted(lease));
        }
    }

    /// So many IDs of the chain that are in one piece, if others are left then.
    fn cut_from_chain(&self, state: &mut State, count: u64) -> Option<IdRange> {
        let rest = |segment: &Arc<Segment>| IdRange {
            start: segment.end().saturating_sub_unsigned(segment.left()),
            end: segment.end(),
        };
        let mut rests: Vec<_> = self.chain(state).iter().map(rest).filter(|rest| !rest.is_empty()).collect();
        cut_a_part(&mut rests, count)?;
        // Others have claimed since, perhaps.
        let rests_before = self.take_out_rests(state);
        let mut rests = rests_before.clone();
        let lease = cut_a_part(&mut rests, count);
        self.link_again(state, if lease.is_some() { &rests } else { &rests_before });
        lease
    }

    /// Closes the chain's segments. Returns what is left of each, if anything is.
    fn take_out_rests(&self, state: &mut State) -> Vec<IdRange> {
        let mut rests = state.take_out(&self.chain(state));
        rests.retain(|rest| !rest.is_empty());
        rests
    }

    /// Makes segments of ranges that were taken out. Whoever found the chain closed waits for the mutex, and tries again.
    fn link_again(&self, state: &mut State, rests: &[IdRange]) {
        rests.iter().for_each(|rest| self.link(state, *rest));
        self.note_spent(state);
        // As a claim does, so that closed segments do not gather behind the head.
        while let Some(head) = self.head.load_full().filter(|head| head.left() == 0) {
            if !self.advance(&head) {
                return;
            }
        }
    }

    // ---- refill threads ----

    /// Takes the tag's entry out of a queue. False when the entry is out of date: leave the tag alone.
    pub fn begin_refill(&self, entry: Entry) -> bool {
        let mut state = self.lock();
        match entry {
            Entry::Urgent => state.in_urgent = false,
            Entry::Routine => state.in_routine = false,
            Entry::Postponed => {}
        }
        let due = match entry {
            Entry::Postponed => state.refill == Refill::Postponed,
            Entry::Urgent | Entry::Routine => matches!(state.refill, Refill::Queued { .. }),
        };
        if due {
            state.refill = Refill::Running;
        }
        due
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
        if self.left_in(state) >= state.supplies_waited_for().fold(0, u64::saturating_add) {
            self.serve_leases(state);
        }
        let demand = self.demand(state, latency, now);
        let extend = || sizing::reservation(&demand, &self.common.policy).map(Job::Extend);
        let lease = || match state.first_lease()? {
            // Small ones share a reservation: each is then cut from the chain.
            Job::Lease(_, ids) if ids <= demand.step && demand.segments < CHAIN_SEGMENTS_MAX => {
                Some(Job::Extend(demand.step))
            }
            job => Some(job),
        };
        // Leases go before what stands by for later, but not before callers whom the chain cannot serve.
        match demand.left < demand.waited_for {
            true => extend().or_else(lease),
            false => lease().or_else(extend),
        }
    }

    /// Fewer IDs are left below 2^63 than a lease asks for: its caller is told, and the others get what there is.
    pub fn refuse_lease(&self, id: WaiterId) {
        self.lock().settle(id, Lease::TooLarge);
    }

    /// Keeps what was granted for `job` until it can be made durable: to reserve anew would but make gaps.
    pub fn keep_undurable(&self, job: Job, granted: IdRange) -> Option<Discarded> {
        let mut state = self.lock();
        if state.closed {
            return Some(Discarded(granted));
        }
        state.undurable = Some(Box::new((job, granted)));
        None
    }

    /// What was kept.
    pub fn take_undurable(&self) -> Option<(Job, IdRange)> {
        self.lock().undurable.take().map(|undurable| *undurable)
    }

    /// Whether the tag was closed: what is granted to it from now on has no taker.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// A refill failed because of the tag's row: how many have since the last that did not fail.
    pub fn note_row_failure(&self) -> u32 {
        let mut state = self.lock();
        state.row_failures = state.row_failures.saturating_add(1);
        state.row_failures
    }

    /// A refill succeeded: how many have failed because of the tag's row since the last one.
    pub fn note_refilled(&self) -> u32 {
        std::mem::take(&mut self.lock().row_failures)
    }

    /// Puts what was reserved for `job` where it belongs.
    pub fn complete(&self, job: Job, granted: IdRange) -> Option<Discarded> {
        let mut state = self.lock();
        if state.closed {
            // Whoever closed the tag has counted what was handed out of it.
            return Some(Discarded(granted));
        }
        if state.fault == Some(Fault::StoreReplaced) {
            // Found out while this was reserved.
            return Some(Discarded(granted));
        }
        state.failures = 0;
        state.granted = Some(Granted { end: granted.end, at: Instant::now() });
        state.max_id_seen = state.max_id_seen.max(granted.end);
        state.newest = Some(Reserved { amount: granted.len(), at: SystemTime::now() });
        match job {
            Job::Extend(_) => self.append_or_discard(&mut state, granted),
            // An ID of 0 would leave the lease one short: it is served by the next reservation.
            Job::Lease(id, _) if granted.start > 0 && state.waiters.contains_key(&id) => {
                let lease = self.cut_lease(&mut state, granted);
                state.settle(id, Lease::Granted(lease));
                None
            }
            Job::Lease(..) => self.append_or_discard(&mut state, granted),
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
        state.failures = state.failures.saturating_add(1);
        Refused { news: state.fail_all(fault), discarded }
    }

    /// Takes back what is in memory, because the store has gone back: it may have granted that to others since it forgot.
    pub fn withdraw(&self) -> Vec<Discarded> {
        self.withdraw_all(&mut self.lock())
    }

    fn withdraw_all(&self, state: &mut State) -> Vec<Discarded> {
        let rests = state.take_out(&self.chain(state));
        self.note_spent(state);
        let mut discarded = state.withdraw_unpublished();
        discarded.extend(rests.into_iter().filter(|range| !range.is_empty()).map(Discarded));
        discarded
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
    /// into the queue that is returned, if it has no entry there.
    pub fn requeue(&self, failed: bool) -> Option<Urgency> {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(u32::from(failed));
        let urgency = if state.waiters.is_empty() { Urgency::Routine } else { Urgency::Urgent };
        state.enqueue(urgency)
    }

    /// Whether a refill of this tag has ended, well or badly.
    pub fn was_tried(&self) -> bool {
        let state = self.lock();
        state.tail.is_some() || state.failures > 0 || state.fault.is_some() || state.closed
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
        state.max_id_seen = state.max_id_seen.max(max_id);
        state.gone_back |= state.granted.is_some_and(|granted| granted.end > max_id && granted.at < read_at);
        let mended = match state.fault {
            Some(Fault::Step(_)) => step_fault(step).is_none(),
            Some(Fault::Unreadable(_)) => true,
            Some(Fault::NegativeMaxId) => max_id >= 0,
            Some(Fault::Regression { granted }) => max_id >= granted,
            Some(Fault::Exhausted) => first_grantable < i64::MAX,
            Some(Fault::StoreReplaced) | None => false,
        };
        if mended {
            state.fault = None;
        }
        match step_fault(step) {
            Some(fault) => {
                state.fail_all(fault);
                None
            }
            None if mended => state.request(Urgency::Urgent),
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
        state.closed = true;
        let newest_end = state.newest_end();
        // Leases that were not taken yet too: nobody takes one of a closed tag.
        let rests = self.withdraw_all(&mut state).into_iter().map(|Discarded(rest)| rest).collect();
        state.wake_all();
        let mut skipped = joined(rests);
        // After a regression the row is not to be trusted, and neither is what is known of it lowered.
        let is_replaced = state.fault == Some(Fault::StoreReplaced);
        let is_trusted = !state.is_fenced() && !state.gone_back && !is_replaced;
        let newest = skipped.pop_if(|newest| is_trusted && Some(newest.end) == newest_end);
        let start = |ids: IdRange| if ids.start == 1 && state.began_at_zero { 0 } else { ids.start };
        let leased_end = state.leased.as_ref().map(|leased| leased.end);
        Closed {
            handed_out_end: state.ends.last().copied().max(leased_end).filter(|_| is_trusted),
            unclaimed: newest.map(|ids| IdRange { start: start(ids), ..ids }),
            skipped: skipped.into_iter().map(Discarded).collect(),
        }
    }
}

/// Cuts `count` IDs out of the first of `ranges` that adjoin and hold so many. They ascend, and none is empty.
fn cut(ranges: &mut Vec<IdRange>, count: u64) -> Option<IdRange> {
    let start = joined(ranges.clone()).into_iter().find(|range| range.len() >= count)?.start;
    let lease = IdRange { start, end: start.checked_add_unsigned(count)? };
    for range in ranges.iter_mut().filter(|range| range.end > lease.start && range.start < lease.end) {
        range.start = range.end.min(lease.end);
    }
    ranges.retain(|range| !range.is_empty());
    Some(lease)
}

/// As [`cut`], but not all that there is: a chain without a rest would look as if it had been handed out.
fn cut_a_part(ranges: &mut Vec<IdRange>, count: u64) -> Option<IdRange> {
    cut(ranges, count).filter(|_| !ranges.is_empty())
}

/// The same IDs, ascending, in as few ranges as can be.
fn joined(mut ranges: Vec<IdRange>) -> Vec<IdRange> {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, range| {
        let adjoins = range.end == next.start;
        if adjoins {
            range.end = next.end;
        }
        adjoins
    });
    ranges
}

/// What [`Tag::close`] left: what was granted and never handed out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// One past the highest ID that was ever handed out, as far as this tag knows. It may be below what is given back: a
    /// server that had what lies between gives it back too.
    pub handed_out_end: Option<i64>,
    /// What may be given back to the store: it ends where the newest reservation did.
    pub unclaimed: Option<IdRange>,
    /// What cannot be, because the store has granted more above it since, or has gone back.
    pub skipped: Vec<Discarded>,
}

/// One worker's way to a tag: it keeps the head, so that a claim touches nothing but a segment. It need not look whether
/// the head has moved: that happens only when the segment is spent, and who claims from it then finds out.
pub struct TagHandle {
    tag: Arc<Tag>,
    head: Option<Arc<Segment>>,
}

impl TagHandle {
    /// A way to `tag`.
    pub fn new(tag: Arc<Tag>) -> Self {
        Self { head: tag.head.load_full(), tag }
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
            let head = self.tag.head.load_full()?;
            let claimed = claim(&head);
            // Only a segment that was seen to be spent may be passed by: the head may have moved meanwhile.
            let stay = claimed.is_some() || head.left() > 0 || !self.tag.advance(&head);
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

/// What is wrong with a step.
pub fn step_fault(step: i64) -> Option<Fault> {
    (!(1..=STEP_MAX).contains(&step)).then_some(Fault::Step(step))
}

impl State {
    fn starvation(&self, left: u64, grace: Duration, now: Instant) -> Starvation {
        let Some(unmet) = self.unmet.filter(|_| !self.closed) else { return Starvation::None };
        // A refill that has failed is tried again, and mostly succeeds: a row may be locked for a moment.
        let over = now.saturating_duration_since(unmet.since) >= grace;
        match (over && left >= unmet.left) || (left == 0 && self.fault.is_some()) {
            true => Starvation::Starving,
            false => Starvation::Brief,
        }
    }

    /// Looks anew from here on, if some were served since.
    fn note_progress(&mut self, left: u64, now: Instant) {
        if let Some(unmet) = self.unmet.as_mut().filter(|unmet| left < unmet.left) {
            *unmet = Unmet { since: now, left };
        }
    }

    fn condition(&self, left: u64, grace: Duration, now: Instant) -> TagState {
        match &self.fault {
            Some(Fault::Regression { .. }) => TagState::Fenced,
            Some(Fault::Step(_) | Fault::Unreadable(_) | Fault::NegativeMaxId | Fault::StoreReplaced) => {
                TagState::Broken
            }
            Some(Fault::Exhausted) => TagState::Exhausted,
            None if self.starvation(left, grace, now) == Starvation::Starving => TagState::Starving,
            None if self.tail.is_none() => TagState::Idle,
            None => TagState::Serving,
        }
    }

    /// Asks for a refill: which queue to put the tag into, if it has no entry there.
    fn request(&mut self, urgency: Urgency) -> Option<Urgency> {
        match self.refill {
            Refill::Idle => self.enqueue(urgency),
            // The routine entry stays where it is; whoever meets it later finds it out of date.
            Refill::Queued { urgent: false } if urgency == Urgency::Urgent => self.enqueue(urgency),
            Refill::Queued { .. } | Refill::Postponed | Refill::Running => None,
        }
    }

    fn enqueue(&mut self, urgency: Urgency) -> Option<Urgency> {
        self.refill = Refill::Queued { urgent: urgency == Urgency::Urgent };
        let in_queue = match urgency {
            Urgency::Urgent => &mut self.in_urgent,
            Urgency::Routine => &mut self.in_routine,
        };
        (!std::mem::replace(in_queue, true)).then_some(urgency)
    }

    fn register(&mut self, need: Need, waker: &Waker, id: &mut Option<WaiterId>) {
        let id = *id.get_or_insert_with(|| {
            self.next_waiter += 1;
            self.next_waiter
        });
        self.waiters.insert(id, Waiter { waker: waker.clone(), need, lease: Lease::Due });
    }

    fn leave(&mut self, id: WaiterId) -> Option<Waiter> {
        let waiter = self.waiters.remove(&id);
        if self.waiters.is_empty() {
            // An emptied map keeps room for eleven: in each of a hundred thousand tags.
            self.waiters = BTreeMap::new();
        }
        waiter
    }

    /// How many IDs each caller waits for that waits for the chain.
    fn supplies_waited_for(&self) -> impl Iterator<Item = u64> {
        self.waiters.values().filter_map(|waiter| match waiter.need {
            Need::Supply(ids) => Some(ids),
            Need::Lease(_) => None,
        })
    }

    fn take_lease(&mut self, id: Option<WaiterId>) -> Option<IdRange> {
        let range = self.waiters.get_mut(&id?)?.lease.withdraw()?;
        let leased = self.leased.get_or_insert_default();
        leased.end = leased.end.max(range.end);
        leased.ids += range.len();
        Some(range)
    }

    /// Closes the segments of `chain`. Returns what was left of each. Of `ends`, that of what was handed out remains.
    fn take_out(&mut self, chain: &[Arc<Segment>]) -> Vec<IdRange> {
        let before_chain = chain.first().and_then(|head| self.end_before(head.start()));
        // The newest first: a claim that moves on meanwhile finds nothing there, and leaves no gap behind.
        let mut rests: Vec<_> = chain.iter().rev().map(|segment| segment.close()).collect();
        rests.reverse();
        let begun = chain.iter().zip(&rests).filter(|(segment, rest)| rest.start > segment.start());
        let handed_out_end = before_chain.max(begun.map(|(_, rest)| rest.start).max());
        self.ends = handed_out_end.into_iter().collect();
        self.appended -= rests.iter().map(|rest| rest.len()).sum::<u64>();
        rests
    }

    /// Takes back what was granted and is not in the chain: for leases that are not taken yet, and what is not durable.
    fn withdraw_unpublished(&mut self) -> Vec<Discarded> {
        let undurable = self.undurable.take().map(|undurable| undurable.1);
        let leases = self.waiters.values_mut().filter_map(|waiter| waiter.lease.withdraw());
        undurable.into_iter().chain(leases).map(Discarded).collect()
    }

    /// The end of what comes before the segment that starts at `start`.
    fn end_before(&self, start: i64) -> Option<i64> {
        self.ends.iter().copied().take_while(|end| *end <= start).last()
    }

    /// Forgets what lies more than one before the segment that starts at `start`.
    fn forget_before(&mut self, start: i64) {
        while self.ends.get(1).is_some_and(|second| *second <= start) {
            self.ends.remove(0);
        }
    }

    /// Where the newest reservation ended, and the row's `max_id` with it, unless others have changed it since.
    fn newest_end(&self) -> Option<i64> {
        let undurable = self.undurable.as_ref().map(|undurable| undurable.1.end);
        undurable.max(self.granted.map(|granted| granted.end))
    }

    /// Whether `range` may be the chain's newest: IDs must not go back.
    fn may_append(&self, range: IdRange) -> bool {
        let is_newest = self.tail.as_ref().is_none_or(|tail| tail.end() <= range.start);
        is_newest && !self.closed && !self.is_fenced()
    }

    /// The lease that has waited longest for its range.
    fn first_lease(&self) -> Option<Job> {
        self.waiters.iter().find_map(|(id, waiter)| match (waiter.need, waiter.lease) {
            (Need::Lease(ids), Lease::Due) => Some(Job::Lease(*id, i64::try_from(ids).unwrap_or(i64::MAX))),
            _ => None,
        })
    }

    /// Tells a caller what has become of its lease. False when it is gone.
    fn settle(&mut self, id: WaiterId, lease: Lease) -> bool {
        let Some(waiter) = self.waiters.get_mut(&id) else { return false };
        waiter.lease = lease;
        waiter.waker.wake_by_ref();
        true
    }

    fn exceeds_reservation(&self, ids: u64) -> bool {
        ids > reservation_max(self.max_id_seen, self.step).unsigned_abs()
    }

    fn is_too_large(&self, id: Option<WaiterId>) -> bool {
        id.and_then(|id| self.waiters.get(&id)).is_some_and(|waiter| waiter.lease == Lease::TooLarge)
    }

    /// Takes note that a caller found too little. True when the tag must be tracked. A row that no server
    /// can serve is its operator's affair: it must not take every one of them out of the load balancer.
    fn note_unmet(&mut self, left: u64, now: Instant) -> bool {
        if matches!(
            self.fault,
            Some(Fault::Step(_) | Fault::Unreadable(_) | Fault::NegativeMaxId | Fault::Exhausted)
        ) {
            return false;
        }
        self.unmet.get_or_insert(Unmet { since: now, left });
        !std::mem::replace(&mut self.tracked, true)
    }

    /// A fence is not hidden by what else is wrong with the row: it is over when `max_id` is mended, and not before. Where
    /// the file is another one, no row matters.
    fn fail_all(&mut self, fault: Fault) -> bool {
        let hidden = match fault {
            Fault::StoreReplaced => false,
            Fault::Regression { .. } => self.fault == Some(Fault::StoreReplaced),
            _ => self.is_fenced() || self.fault == Some(Fault::StoreReplaced),
        };
        let news = !hidden && self.fault.as_ref() != Some(&fault);
        if news {
            self.fault = Some(fault);
        }
        self.wake_all();
        news
    }

    fn is_fenced(&self) -> bool {
        matches!(self.fault, Some(Fault::Regression { .. }))
    }

    /// Waiters stay registered until they leave by themselves: one that is dropped before it runs takes
    /// nobody's wake-up with it.
    fn wake_all(&self) {
        self.waiters.values().for_each(|waiter| waiter.waker.wake_by_ref());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sizing::Policy;

    fn ids(start: i64, end: i64) -> IdRange {
        IdRange { start, end }
    }

    fn tag(step: i64) -> Tag {
        Tag::new("t", step, Policy::default(), Instant::now())
    }

    /// A tag whose refill is under way.
    fn running(step: i64) -> Tag {
        let tag = tag(step);
        tag.request_refill();
        assert!(tag.begin_refill(Entry::Routine));
        tag
    }

    fn next_job(tag: &Tag) -> Option<Job> {
        tag.next_job(Duration::ZERO, Instant::now())
    }

    fn park(tag: &Tag, need: Need, id: &mut Option<WaiterId>) -> Parked {
        tag.park(need, Waker::noop(), id, Instant::now())
    }

    fn closed(handed_out_end: Option<i64>, unclaimed: Option<IdRange>, skipped: &[IdRange]) -> Closed {
        Closed { handed_out_end, unclaimed, skipped: skipped.iter().copied().map(Discarded).collect() }
    }

    /// A tag whose chain holds these ranges.
    fn holding(ranges: &[IdRange]) -> Arc<Tag> {
        let tag = running(10);
        for range in ranges {
            assert_eq!(tag.complete(Job::Extend(10), *range), None);
        }
        Arc::new(tag)
    }

    /// Parks a lease of so many IDs, and completes it with `granted`. Returns its name.
    fn grant_lease(tag: &Tag, granted: IdRange) -> WaiterId {
        let mut lease = None;
        park(tag, Need::Lease(granted.len()), &mut lease);
        let lease = lease.expect("it waits");
        let job = Job::Lease(lease, granted.len().cast_signed());
        assert_eq!(tag.complete(job, granted), None);
        lease
    }

    #[test]
    fn a_quiet_tag_is_loaded_with_two_segments_of_one_step() {
        let tag = running(100);
        assert_eq!(next_job(&tag), Some(Job::Extend(100)));
        assert_eq!(tag.complete(Job::Extend(100), ids(0, 100)), None);
        assert_eq!(next_job(&tag), Some(Job::Extend(100)));
        assert_eq!(tag.complete(Job::Extend(100), ids(100, 200)), None);
        assert_eq!(next_job(&tag), None);
        assert_eq!(tag.left(), Some(199), "0 is never an ID");
    }

    #[test]
    fn a_first_reservation_of_the_id_0_alone_yields_nothing_and_the_next_one_is_due() {
        let tag = running(1);
        assert_eq!(tag.complete(Job::Extend(1), ids(0, 1)), None);
        assert_eq!(tag.left(), None);
        assert_eq!(next_job(&tag), Some(Job::Extend(1)));
    }

    #[test]
    fn callers_who_wait_for_the_chain_go_before_leases_and_these_before_what_stands_by() {
        let tag = running(10);
        let (mut lease, mut batch) = (None, None);
        tag.complete(Job::Extend(10), ids(10, 20));
        park(&tag, Need::Lease(500), &mut lease);
        park(&tag, Need::Supply(30), &mut batch);
        let Some(Job::Extend(amount @ 20..)) = next_job(&tag) else { panic!("the batch is served first") };
        tag.complete(Job::Extend(amount), ids(20, 20 + amount));
        assert_eq!(park(&tag, Need::Supply(30), &mut batch), Parked::TryAgain);
        let job = Job::Lease(lease.unwrap(), 500);
        assert_eq!(next_job(&tag), Some(job));
        assert_eq!(tag.complete(job, ids(1000, 1500)), None);
        assert_eq!(park(&tag, Need::Lease(500), &mut lease), Parked::Leased(ids(1000, 1500)));
    }

    #[test]
    fn a_lease_is_cut_from_the_lowest_ids_in_one_piece_and_the_chain_goes_on_with_the_rest() {
        let tag = holding(&[ids(10, 20), ids(20, 30)]);
        let mut handle = TagHandle::new(tag.clone());
        handle.claim(4).unwrap();
        let lease = grant_lease(&tag, ids(30, 45));
        assert_eq!(tag.take_lease(lease), Some(ids(14, 29)));
        assert_eq!(figures(&tag), (TagState::Serving, 16, 2, 19));
        assert_eq!(handle.claim(100).unwrap().ids, ids(29, 30));
        assert_eq!(tag.close(), closed(Some(30), Some(ids(30, 45)), &[]));

        let tag = holding(&[ids(10, 20), ids(50, 60)]);
        let lease = grant_lease(&tag, ids(60, 75));
        assert_eq!(tag.take_lease(lease), Some(ids(50, 65)), "what is below does not suffice");
        let mut handle = TagHandle::new(tag.clone());
        let claims: Vec<_> = std::iter::from_fn(|| handle.claim(100)).map(|claim| claim.ids).collect();
        assert_eq!(claims, [ids(10, 20), ids(65, 75)]);

        let tag = holding(&[ids(10, 20)]);
        let lease = grant_lease(&tag, ids(30, 45));
        assert_eq!(tag.take_lease(lease), Some(ids(30, 45)), "others have what is between");
        assert_eq!(tag.left(), Some(10));
    }

    /// Has a lease of so many IDs served from the store, which goes on at `end`. Returns the lease, and the reservations.
    fn serve_lease(tag: &Tag, count: u64, end: &mut i64) -> (IdRange, usize) {
        let (mut lease, mut jobs) = (None, 0);
        park(tag, Need::Lease(count), &mut lease);
        while let Some(job) = next_job(tag) {
            let granted = ids(*end, *end + job.amount());
            *end = granted.end;
            assert_eq!(tag.complete(job, granted), None);
            jobs += 1;
        }
        let range = tag.take_lease(lease.unwrap()).expect("it is served");
        assert_eq!(tag.unpark(lease.unwrap()), None);
        (range, jobs)
    }

    #[test]
    fn a_lease_that_the_chain_holds_behind_its_head_costs_no_reservation() {
        let tag = holding(&[ids(10, 20), ids(50, 60), ids(90, 100)]);
        TagHandle::new(tag.clone()).claim(9).unwrap();
        let mut end = 1000;
        assert_eq!(serve_lease(&tag, 7, &mut end), (ids(50, 57), 0));
        assert_eq!(figures(&tag), (TagState::Serving, 14, 3, 16));
        assert_eq!(serve_lease(&tag, 10, &mut end), (ids(90, 100), 0));
        assert_eq!(TagHandle::new(tag.clone()).claim(1).unwrap().ids, ids(19, 20));
        assert_eq!(tag.close(), closed(Some(100), None, &[ids(57, 60)]));
    }

    #[test]
    fn small_leases_share_reservations_of_a_step() {
        let tag = Arc::new(running(10));
        let (mut end, mut leases, mut reservations) = (1, Vec::new(), 0);
        for count in [2, 3, 7, 10, 1, 9].into_iter().cycle().take(600) {
            // The head is left with a single ID again and again.
            let (lease, jobs) = serve_lease(&tag, count, &mut end);
            // Another server has reserved, so what comes next does not adjoin.
            end += 1000;
            leases.push(lease);
            reservations += jobs;
        }
        let leased: u64 = leases.iter().map(|lease| lease.len()).sum();
        leases.sort_unstable_by_key(|lease| lease.start);
        assert!(leases.is_sorted_by(|one, next| one.end <= next.start), "they share no ID");
        let left = tag.left().unwrap();
        assert_eq!(leased + left, 10 * reservations as u64, "nothing is lost");
        assert!(left <= 10 * CHAIN_SEGMENTS_MAX as u64, "{left}");
    }

    #[test]
    fn a_lease_of_all_that_the_chain_holds_has_a_step_reserved_before() {
        let tag = holding(&[ids(10, 20)]);
        let mut end = 20;
        assert_eq!(serve_lease(&tag, 10, &mut end).0, ids(10, 20));
        assert_eq!(tag.close(), closed(Some(20), Some(ids(20, end)), &[]));

        let (tag, mut lease) = (holding(&[ids(10, 20)]), None);
        park(&tag, Need::Lease(10), &mut lease);
        assert_eq!(next_job(&tag), Some(Job::Extend(10)));
        assert_eq!(tag.unpark(lease.unwrap()), None, "the store is away, and nothing was cut");
        assert_eq!(tag.close(), closed(None, Some(ids(10, 20)), &[]));
    }

    #[test]
    fn callers_of_the_chain_are_not_robbed_by_a_lease() {
        let tag = holding(&[ids(10, 20), ids(20, 30)]);
        let (mut lease, mut batch) = (None, None);
        park(&tag, Need::Supply(25), &mut batch);
        park(&tag, Need::Lease(12), &mut lease);
        assert!(matches!(next_job(&tag), Some(Job::Extend(_))));
        assert_eq!(tag.left(), Some(20), "the batch waits for less than before");
    }

    #[test]
    fn leases_do_not_make_the_chain_longer_and_longer() {
        let tag = holding(&[ids(10, 20), ids(100, 5000)]);
        // Others reserve in between, so nothing adjoins.
        for start in (10_000..).step_by(100).take(10 * CHAIN_SEGMENTS_MAX) {
            let lease = grant_lease(&tag, ids(start, start + 11));
            assert_eq!(tag.take_lease(lease).unwrap().len(), 11);
        }
        let segments = tag.chain(&tag.lock()).len();
        assert_eq!(segments, CHAIN_SEGMENTS_MAX);
        assert_eq!(tag.left(), Some(4910));
    }

    #[test]
    fn a_lease_that_its_caller_did_not_take_goes_back_to_where_it_was_cut_from() {
        let tag = holding(&[ids(10, 20), ids(20, 30)]);
        let lease = grant_lease(&tag, ids(30, 45));
        assert_eq!(tag.unpark(lease), None);
        let mut handle = TagHandle::new(tag.clone());
        assert_eq!(handle.claim(1).unwrap().ids, ids(10, 11));
        assert_eq!(tag.close(), closed(Some(11), Some(ids(11, 45)), &[]));

        let tag = holding(&[ids(10, 20), ids(20, 30)]);
        let lease = grant_lease(&tag, ids(30, 45));
        let mut handle = TagHandle::new(tag.clone());
        assert_eq!(handle.claim(1).unwrap().ids, ids(25, 26));
        assert_eq!(tag.unpark(lease), Some(Discarded(ids(10, 25))), "IDs must not go back");
        assert_eq!(handle.claim(1).unwrap().ids, ids(26, 27));
    }

    #[test]
    fn what_was_handed_out_is_known_after_a_lease_was_cut() {
        let tag = holding(&[ids(10, 20), ids(50, 60)]);
        TagHandle::new(tag.clone()).claim(10).unwrap();
        let lease = grant_lease(&tag, ids(90, 105));
        assert_eq!(tag.unpark(lease), None);
        // Another server has what lies between, and may give it back after us.
        assert_eq!(tag.close(), closed(Some(20), Some(ids(90, 105)), &[ids(50, 60)]));
    }

    #[test]
    fn a_range_whose_lease_has_gone_joins_the_chain_only_below_what_is_untouched() {
        let tag = running(10);
        let first = grant_lease(&tag, ids(100, 150));
        let second = grant_lease(&tag, ids(150, 210));
        assert_eq!(tag.unpark(second), None, "the newest is handed out by the chain");
        assert_eq!(tag.left(), Some(60));
        let tag = Arc::new(tag);
        TagHandle::new(tag.clone()).claim(1).unwrap();
        assert_eq!(tag.unpark(first), Some(Discarded(ids(100, 150))), "IDs must not go back");
    }

    #[test]
    fn a_lease_is_cut_from_the_next_segment_when_the_head_is_spent() {
        let tag = Arc::new(running(10));
        tag.complete(Job::Extend(10), ids(10, 20));
        tag.complete(Job::Extend(10), ids(20, 30));
        let mut handle = TagHandle::new(tag);
        assert_eq!(handle.claim_exactly(10).unwrap().ids, ids(10, 20));
        assert_eq!(handle.claim_exactly(10).unwrap().ids, ids(20, 30));
        assert_eq!(handle.claim_exactly(1), None);
    }

    #[test]
    fn a_tag_has_one_entry_in_each_queue_however_often_it_is_asked_for() {
        let tag = tag(1);
        assert_eq!(tag.request_refill(), Some(Urgency::Routine));
        let mut waiter = None;
        let Parked::Waiting { enqueue, .. } = park(&tag, Need::Supply(1), &mut waiter) else {
            panic!("empty")
        };
        assert_eq!(enqueue, Some(Urgency::Urgent));
        assert_eq!(tag.request_refill(), None);
        assert!(tag.begin_refill(Entry::Urgent));
        assert!(!tag.begin_refill(Entry::Routine), "out of date");
        // The store is away and the caller gives up, again and again.
        for _ in 0..3 {
            tag.unpark(waiter.take().unwrap());
            let routine = tag.requeue(true);
            let Parked::Waiting { enqueue, .. } = park(&tag, Need::Supply(1), &mut waiter) else {
                panic!("empty")
            };
            assert_eq!(enqueue, Some(Urgency::Urgent));
            assert!(tag.begin_refill(Entry::Urgent));
            let _ = routine;
        }
        assert_eq!(tag.requeue(true), Some(Urgency::Urgent));
    }

    #[test]
    fn a_postponed_tag_is_left_alone_until_its_pause_is_over() {
        let tag = running(1);
        assert_eq!(tag.postpone(), 1);
        assert_eq!(tag.request_refill(), None);
        assert!(!tag.begin_refill(Entry::Urgent) && !tag.begin_refill(Entry::Routine));
        assert!(tag.begin_refill(Entry::Postponed));
    }

    #[test]
    fn a_tag_whose_callers_ask_for_more_than_it_has_starves_unless_others_are_served() {
        let tag = Arc::new(running(10));
        let now = Instant::now();
        let later = |seconds| now + Duration::from_secs(seconds);
        tag.complete(Job::Extend(10), ids(10, 20));
        park(&tag, Need::Lease(500), &mut None);
        assert_eq!(
            tag.starvation(Duration::ZERO, later(1)),
            Starvation::None,
            "leases have their own reservation"
        );
        let Parked::Waiting { track: true, .. } = park(&tag, Need::Supply(500), &mut None) else {
            panic!("too few")
        };
        tag.postpone();
        assert_eq!(tag.starvation(Duration::from_secs(5), later(1)), Starvation::Brief);
        assert_eq!(tag.starvation(Duration::from_secs(5), later(6)), Starvation::Starving);
        assert_eq!(tag.figures(Duration::from_secs(5), later(6)).state, TagState::Starving);
        TagHandle::new(tag.clone()).claim(1).unwrap();
        assert_eq!(
            tag.starvation(Duration::from_secs(5), later(7)),
            Starvation::Brief,
            "somebody was served"
        );
        assert_eq!(
            tag.starvation(Duration::from_secs(5), later(13)),
            Starvation::Starving,
            "and nobody since"
        );
        tag.complete(Job::Extend(10), ids(20, 30));
        assert_eq!(tag.starvation(Duration::ZERO, later(13)), Starvation::None);
    }

    #[test]
    fn the_log_is_told_once_that_a_tag_starves_and_once_that_it_does_not() {
        let tag = running(10);
        let now = Instant::now();
        assert!(!tag.note_starving(false, now));
        assert!(tag.note_starving(true, now) && !tag.note_starving(true, now));
        assert!(tag.note_starving(false, now) && !tag.note_starving(false, now));
    }

    #[test]
    fn an_empty_chain_starves_when_it_lasts() {
        let later = Instant::now() + Duration::from_secs(1);
        let mut one = None;
        let tag = running(10);
        let Parked::Waiting { track, .. } = park(&tag, Need::Supply(1), &mut one) else { panic!("empty") };
        assert!(track);
        assert_eq!(tag.starvation(Duration::from_secs(5), later), Starvation::Brief);
        assert_eq!(tag.starvation(Duration::ZERO, later), Starvation::Starving);
        tag.postpone();
        assert_eq!(
            tag.starvation(Duration::from_secs(5), later),
            Starvation::Brief,
            "it is tried again at once"
        );
        tag.complete(Job::Extend(10), ids(10, 20));
        assert_eq!(tag.starvation(Duration::ZERO, later), Starvation::None);
    }

    #[test]
    fn a_row_that_no_server_can_serve_does_not_make_one_starve() {
        for fault in [Fault::Step(0), Fault::NegativeMaxId, Fault::Exhausted] {
            let tag = running(10);
            tag.complete(Job::Extend(10), ids(10, 20));
            tag.withdraw();
            tag.refuse(fault.clone());
            assert_eq!(
                park(&tag, Need::Supply(1), &mut None),
                Parked::Fault { fault, track: false },
                "every other server has the same row"
            );
        }
    }

    #[test]
    fn a_fence_is_not_hidden_by_a_step_that_is_wrong_too() {
        let tag = running(10);
        tag.complete(Job::Extend(10), ids(10, 20));
        tag.refuse(Fault::Regression { granted: 41 });
        assert_eq!(tag.observe_row(0, 40, Instant::now()), None);
        assert_eq!(tag.fault(), Some(Fault::Regression { granted: 41 }));
        assert_eq!(tag.close().unclaimed, None, "the watermark must not be lowered");
        let mended = running(10);
        mended.refuse(Fault::Regression { granted: 41 });
        assert_eq!(mended.observe_row(0, 41, Instant::now()), None);
        assert_eq!(mended.fault(), Some(Fault::Step(0)), "when max_id is mended, step still is not");
    }

    #[test]
    fn a_lease_that_nobody_took_in_time_is_given_back_and_not_handed_out_after_the_end() {
        let tag = running(10);
        let lease = grant_lease(&tag, ids(100, 150));
        assert_eq!(tag.close(), closed(None, Some(ids(100, 150)), &[]));
        assert_eq!(tag.take_lease(lease), None, "its watermark may be lowered by now");
        assert_eq!(park(&tag, Need::Lease(50), &mut Some(lease)), Parked::Closed);
    }

    #[test]
    fn what_lies_below_a_lease_that_was_taken_is_named() {
        let tag = holding(&[ids(10, 20), ids(30, 40)]);
        let lease = grant_lease(&tag, ids(50, 65));
        assert_eq!(tag.take_lease(lease), Some(ids(50, 65)));
        assert_eq!(tag.close(), closed(Some(65), None, &[ids(10, 20), ids(30, 40)]));
        let tag = holding(&[ids(10, 20)]);
        grant_lease(&tag, ids(20, 25));
        assert_eq!(tag.close(), closed(None, Some(ids(10, 25)), &[]), "nobody took it");
    }

    #[test]
    fn a_lease_that_is_too_large_for_what_is_left_is_refused_alone() {
        let tag = running(10);
        let (mut large, mut small) = (None, None);
        park(&tag, Need::Lease(500), &mut large);
        park(&tag, Need::Lease(5), &mut small);
        assert_eq!(next_job(&tag), Some(Job::Lease(large.unwrap(), 500)));
        tag.refuse_lease(large.unwrap());
        assert_eq!(park(&tag, Need::Lease(500), &mut large), Parked::TooLarge);
        assert_eq!(
            next_job(&tag),
            Some(Job::Extend(10)),
            "the next one has its turn, and is a part of a step"
        );
        assert!(small.is_some());
    }

    #[test]
    fn a_row_that_was_seen_below_what_was_granted_gets_nothing_back() {
        let closed_after = |max_id: i64, read_after_grant: bool| {
            let tag = running(10);
            let before = Instant::now();
            tag.complete(Job::Extend(10), ids(10, 20));
            let read_at = if read_after_grant { Instant::now() + Duration::from_millis(1) } else { before };
            tag.observe_row(10, max_id, read_at);
            tag.close().unclaimed
        };
        assert_eq!(closed_after(20, true), Some(ids(10, 20)));
        assert_eq!(closed_after(19, true), None, "another server's range may end where ours did");
        assert_eq!(closed_after(10, false), Some(ids(10, 20)), "it was read before it was raised");
    }

    #[test]
    fn a_row_goes_back_to_0_only_if_it_was_granted_from_there() {
        for (granted, given_back) in [(ids(0, 10), ids(0, 10)), (ids(1, 11), ids(1, 11))] {
            let tag = running(10);
            tag.complete(Job::Extend(10), granted);
            assert_eq!(tag.close().unclaimed, Some(given_back));
        }
    }

    #[test]
    fn what_is_not_durable_is_kept_until_the_tag_ends_or_the_store_goes_back() {
        let tag = running(10);
        assert_eq!(tag.keep_undurable(Job::Extend(10), ids(10, 20)), None);
        assert_eq!(tag.take_undurable(), Some((Job::Extend(10), ids(10, 20))));
        assert_eq!(tag.take_undurable(), None);
        tag.keep_undurable(Job::Extend(10), ids(10, 20));
        assert_eq!(tag.withdraw(), [Discarded(ids(10, 20))]);
        tag.keep_undurable(Job::Extend(10), ids(20, 30));
        assert_eq!(tag.close(), closed(None, Some(ids(20, 30)), &[]), "nobody was given it");
        assert_eq!(tag.keep_undurable(Job::Extend(10), ids(30, 40)), Some(Discarded(ids(30, 40))));
    }

    #[test]
    fn what_adjoins_the_end_is_given_back_and_nothing_below_a_gap() {
        let tag = Arc::new(running(10));
        for start in [10, 30, 40] {
            tag.complete(Job::Extend(10), ids(start, start + 10));
        }
        let mut handle = TagHandle::new(tag.clone());
        handle.claim(4).unwrap();
        let others = "another server has what is between 20 and 30";
        assert_eq!(tag.close(), closed(Some(14), Some(ids(30, 50)), &[ids(14, 20)]), "{others}");
        assert_eq!(handle.claim(1), None);
        assert_eq!(tag.close().unclaimed, None, "once");
    }

    #[test]
    fn a_segment_that_was_begun_is_given_back_from_its_first_unclaimed_id() {
        let tag = Arc::new(running(10));
        tag.complete(Job::Extend(10), ids(10, 20));
        tag.complete(Job::Extend(10), ids(20, 30));
        TagHandle::new(tag.clone()).claim(4).unwrap();
        assert_eq!(tag.close(), closed(Some(14), Some(ids(14, 30)), &[]));
        let spent = Arc::new(running(10));
        spent.complete(Job::Extend(10), ids(10, 20));
        TagHandle::new(spent.clone()).claim(10).unwrap();
        assert_eq!(spent.close(), closed(Some(20), None, &[]));
    }

    #[test]
    fn after_a_regression_nothing_is_handed_out_or_given_back() {
        let tag = Arc::new(running(10));
        tag.complete(Job::Extend(10), ids(10, 20));
        let mut handle = TagHandle::new(tag.clone());
        handle.claim(3).unwrap();
        let refused = tag.refuse(Fault::Regression { granted: 20 });
        assert_eq!(refused, Refused { news: true, discarded: vec![Discarded(ids(13, 20))] });
        assert_eq!(handle.claim(1), None, "others may have been granted the same");
        assert_eq!(tag.starvation(Duration::from_secs(9), Instant::now()), Starvation::None, "nobody asks");
        let Parked::Fault { track: true, .. } = park(&tag, Need::Supply(1), &mut None) else {
            panic!("fenced")
        };
        assert_eq!(tag.starvation(Duration::from_secs(9), Instant::now()), Starvation::Starving);
        assert_eq!(tag.close(), Closed::default());
    }

    #[test]
    fn what_was_handed_out_is_known_when_its_segment_is_gone() {
        let tag = Arc::new(running(10));
        for start in [10, 50, 90, 130] {
            tag.complete(Job::Extend(10), ids(start, start + 10));
            if start < 130 {
                TagHandle::new(tag.clone()).claim(10).unwrap();
            }
        }
        // Nobody has moved the head to the last segment yet; then somebody has, and takes nothing.
        assert!(TagHandle::new(tag.clone()).claim_exactly(500).is_none());
        assert_eq!(tag.close(), closed(Some(100), Some(ids(130, 140)), &[]));
        assert_eq!(running(10).close(), Closed::default(), "nothing was handed out");
    }

    #[test]
    fn a_lease_that_was_not_taken_does_not_outlive_a_regression() {
        let tag = running(10);
        let (mut taken, mut waiting) = (None, None);
        park(&tag, Need::Lease(50), &mut taken);
        park(&tag, Need::Lease(60), &mut waiting);
        tag.complete(Job::Lease(taken.unwrap(), 50), ids(100, 150));
        tag.complete(Job::Lease(waiting.unwrap(), 60), ids(150, 210));
        assert_eq!(tag.take_lease(taken.unwrap()), Some(ids(100, 150)));
        let refused = tag.refuse(Fault::Regression { granted: 210 });
        assert_eq!(refused.discarded, [Discarded(ids(150, 210))]);
        assert_eq!(
            (tag.take_lease(waiting.unwrap()), tag.unpark(waiting.unwrap()), tag.left()),
            (None, None, None)
        );
    }

    #[test]
    fn a_tag_with_its_counts_takes_five_cache_lines() {
        assert!(size_of::<Tag>() + 2 * size_of::<usize>() <= 320, "{} bytes", size_of::<Tag>());
    }

    #[test]
    fn what_was_withdrawn_was_not_used_up() {
        let tag = running(10);
        tag.complete(Job::Extend(1_000_000), ids(10, 1_000_010));
        tag.withdraw();
        let later = Instant::now() + Duration::from_secs(2);
        assert_eq!(tag.next_job(Duration::ZERO, later), Some(Job::Extend(10)), "nobody has asked for more");
    }

    /// Its state, the IDs in memory and in how many segments, and the IDs issued.
    fn figures(tag: &Tag) -> (TagState, u64, usize, u64) {
        let figures = tag.figures(Duration::ZERO, Instant::now());
        (figures.state, figures.left, figures.segments, figures.issued)
    }

    #[test]
    fn figures_count_what_was_handed_out_and_nothing_that_was_discarded() {
        let tag = Arc::new(running(10));
        assert_eq!(figures(&tag), (TagState::Idle, 0, 0, 0));
        let (mut lease, mut one) = (None, None);
        park(&tag, Need::Supply(1), &mut one);
        assert_eq!(figures(&tag), (TagState::Starving, 0, 0, 0));
        tag.unpark(one.unwrap());
        tag.complete(Job::Extend(10), ids(0, 10));
        tag.complete(Job::Extend(10), ids(20, 30));
        assert_eq!(figures(&tag), (TagState::Serving, 19, 2, 0));
        let mut handle = TagHandle::new(tag.clone());
        handle.claim(9).unwrap();
        handle.claim(3).unwrap();
        assert_eq!(figures(&tag), (TagState::Serving, 7, 1, 12));
        park(&tag, Need::Lease(50), &mut lease);
        tag.complete(Job::Lease(lease.unwrap(), 50), ids(30, 80));
        assert_eq!(figures(&tag).3, 12, "not before its caller has it");
        assert_eq!(tag.figures(Duration::ZERO, Instant::now()).newest.unwrap().amount, 50);
        tag.take_lease(lease.unwrap()).unwrap();
        assert_eq!(figures(&tag), (TagState::Serving, 7, 1, 62));
        let closed = Arc::new(running(10));
        closed.complete(Job::Extend(10), ids(10, 20));
        TagHandle::new(closed.clone()).claim(4).unwrap();
        closed.close();
        assert_eq!(figures(&closed).3, 4, "what goes back to the store was not handed out");
        tag.refuse(Fault::Regression { granted: 80 });
        assert_eq!(figures(&tag), (TagState::Fenced, 0, 0, 62));
        tag.observe_row(0, 80, Instant::now());
        assert_eq!(figures(&tag).0, TagState::Broken);
        tag.observe_row(1, 80, Instant::now());
        tag.refuse(Fault::Exhausted);
        assert_eq!(figures(&tag).0, TagState::Exhausted);
    }

    #[test]
    fn a_tag_serves_again_when_its_row_is_mended() {
        let tag = Arc::new(running(10));
        tag.complete(Job::Extend(10), ids(10, 20));
        tag.refuse(Fault::Regression { granted: 20 });
        assert_eq!(next_job(&tag), None);
        assert_eq!(tag.observe_row(10, 20, Instant::now()), Some(Urgency::Urgent));
        assert!(tag.begin_refill(Entry::Urgent));
        tag.complete(Job::Extend(10), ids(20, 30));
        assert_eq!(TagHandle::new(tag).claim(1).unwrap().ids, ids(20, 21));
    }

    #[test]
    fn a_mended_row_is_served_and_one_mended_badly_is_not() {
        let tag = tag(0);
        let mut waiter = None;
        let fault = Parked::Fault { fault: Fault::Step(0), track: false };
        assert_eq!(park(&tag, Need::Supply(1), &mut waiter), fault);
        assert_eq!(tag.observe_row(5, 0, Instant::now()), Some(Urgency::Urgent));
        tag.refuse(Fault::Regression { granted: 100 });
        assert_eq!(tag.observe_row(5, 99, Instant::now()), None);
        assert_eq!(tag.observe_row(-1, 100, Instant::now()), None, "max_id is mended, and step is not");
        let fault = Parked::Fault { fault: Fault::Step(-1), track: false };
        assert_eq!(park(&tag, Need::Supply(1), &mut waiter), fault);
    }
}
