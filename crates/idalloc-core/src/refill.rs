//! The refill threads: they, and only they, ask the store for segments.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing::{error, info, warn};

use crate::failover::{Debt, Met};
use crate::monitor::StoreStatus;
use crate::segment::IdRange;
use crate::skipped::Reason;
use crate::store::{Floor, SegmentStore, StoreError};
use crate::sync::lock;
use crate::tag::{Discarded, Entry, Fault, Job, Tag, Urgency};
use crate::watermark::Refusal;
use crate::{OnRegression, Shared};

/// Reservations for one tag before the next tag has its turn.
const JOBS_PER_TURN: usize = 4;
/// The pause after the first failure; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
/// The longest pause: serving resumes within it when the store is back.
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// So many failures in a row are worth a line in the log; one is what an idle connection ends with.
const FAILURES_LOGGED: u32 = 2;

/// The pause after `failures` in a row: exponential, and jittered so that nodes do not retry in step.
pub(crate) fn backoff(failures: u32) -> Duration {
    let full = BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACKOFF_MAX);
    full.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// Urgent tags served before a routine one has its turn.
const URGENT_IN_A_ROW_MAX: u32 = 8;

/// The tags that need a refill. Each is at most once in each of its three parts.
#[derive(Default)]
pub(crate) struct RefillQueue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    /// For threads that pause: what arrives is not for them.
    pausing: Condvar,
}

#[derive(Default)]
struct Waiting {
    urgent: VecDeque<Queued>,
    routine: VecDeque<Queued>,
    postponed: BinaryHeap<Reverse<Postponed>>,
    urgent_in_a_row: u32,
    stopped: bool,
}

struct Queued {
    tag: Arc<Tag>,
    since: Instant,
}

/// What a refill thread has taken.
struct Taken {
    tag: Arc<Tag>,
    entry: Entry,
    /// How long it has been due.
    waited: Duration,
}

/// Which tags a refill thread takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// All of them.
    Any,
    /// None whose row failed the last time, as one does that is locked: it may take long to fail again.
    Sound,
}

impl Duty {
    /// The duty of one of so many threads. One is kept free of tags that may hold it up.
    pub fn of(thread: usize, threads: usize) -> Self {
        if thread == 0 && threads > 1 { Self::Sound } else { Self::Any }
    }
}

impl Waiting {
    /// The next tag, and where it was: those whose pause is over first, then urgent ones, and a routine one now and
    /// then so that it is not forgotten.
    fn next(&mut self, duty: Duty, now: Instant) -> Option<Taken> {
        if self.next_due(duty).is_some_and(|due| due <= now) {
            let taken = |Reverse(Postponed { tag, due })| (Queued { tag, since: due }, Entry::Postponed);
            return self.postponed.pop().map(taken).map(|queued| Taken::new(queued, now));
        }
        let urgent = |queue: &mut VecDeque<Queued>| queue.pop_front().map(|queued| (queued, Entry::Urgent));
        if self.urgent_in_a_row < URGENT_IN_A_ROW_MAX
            && let Some(queued) = urgent(&mut self.urgent)
        {
            self.urgent_in_a_row += 1;
            return Some(Taken::new(queued, now));
        }
        self.urgent_in_a_row = 0;
        let routine = self.routine.pop_front().map(|queued| (queued, Entry::Routine));
        routine.or_else(|| urgent(&mut self.urgent)).map(|queued| Taken::new(queued, now))
    }

    /// When the first pause is over of a tag that this duty includes.
    fn next_due(&self, duty: Duty) -> Option<Instant> {
        self.postponed.peek().filter(|_| duty == Duty::Any).map(|Reverse(first)| first.due)
    }
}

impl Taken {
    fn new((Queued { tag, since }, entry): (Queued, Entry), now: Instant) -> Self {
        Self { tag, entry, waited: now.saturating_duration_since(since) }
    }
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
        let queued = Queued { tag, since: Instant::now() };
        let mut waiting = lock(&self.waiting);
        match urgency {
            Urgency::Urgent => waiting.urgent.push_back(queued),
            Urgency::Routine => waiting.routine.push_back(queued),
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    fn push_later(&self, tag: Arc<Tag>, pause: Duration) {
        lock(&self.waiting).postponed.push(Reverse(Postponed { due: Instant::now() + pause, tag }));
        // All: one of them might be a thread that does not take it.
        self.arrived.notify_all();
    }

    /// The next tag; waits for one. `None` when the queue is stopped.
    fn pop(&self, duty: Duty) -> Option<Taken> {
        let mut waiting = lock(&self.waiting);
        loop {
            if waiting.stopped {
                return None;
            }
            let now = Instant::now();
            let next = waiting.next(duty, now);
            if next.is_some() {
                // Whoever was woken for what is still there may have taken this instead.
                if !waiting.urgent.is_empty() || !waiting.routine.is_empty() {
                    self.arrived.notify_one();
                }
                return next;
            }
            let pause = waiting.next_due(duty).map(|due| due.saturating_duration_since(now));
            waiting = wait(&self.arrived, waiting, pause);
        }
    }

    /// Pauses the calling thread, for less if the queue is stopped.
    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut waiting = lock(&self.waiting);
        while !waiting.stopped {
            match until.checked_duration_since(Instant::now()) {
                Some(rest) if !rest.is_zero() => waiting = wait(&self.pausing, waiting, Some(rest)),
                _ => return,
            }
        }
    }

    /// Ends every `pop` and every pause, now and in future.
    pub fn stop(&self) {
        lock(&self.waiting).stopped = true;
        self.arrived.notify_all();
        self.pausing.notify_all();
    }
}

fn wait<'a>(
    on: &Condvar,
    waiting: MutexGuard<'a, Waiting>,
    limit: Option<Duration>,
) -> MutexGuard<'a, Waiting> {
    match limit {
        Some(limit) => on.wait_timeout(waiting, limit).unwrap_or_else(PoisonError::into_inner).0,
        None => on.wait(waiting).unwrap_or_else(PoisonError::into_inner),
    }
}

/// What the store is asked for. The one may work while the other fails, as on a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    Reserve,
    List,
}

/// Whether the store answers, as the log was last told.
#[derive(Default)]
pub(crate) struct StoreState {
    away: Mutex<Away>,
}

struct Away {
    since: Option<Instant>,
    reserving: bool,
    listing: bool,
    /// When it went away, or came back.
    changed_at: SystemTime,
    host: Option<Box<str>>,
    last_error: Option<String>,
}

impl Default for Away {
    fn default() -> Self {
        let changed_at = SystemTime::now();
        Self { since: None, reserving: false, listing: false, changed_at, host: None, last_error: None }
    }
}

impl Away {
    fn task(&mut self, task: Task) -> &mut bool {
        match task {
            Task::Reserve => &mut self.reserving,
            Task::List => &mut self.listing,
        }
    }
}

impl StoreState {
    /// Takes note of a session's `failures` in a row; the log hears of a change only.
    pub fn failed(&self, task: Task, cause: &StoreError, failures: u32) {
        let mut away = lock(&self.away);
        away.last_error = Some(cause.to_string());
        if failures < FAILURES_LOGGED {
            return;
        }
        *away.task(task) = true;
        if away.since.is_none() {
            away.since = Some(Instant::now());
            away.changed_at = SystemTime::now();
            drop(away);
            warn!(%cause, "the store does not answer: serving from memory, and trying again");
        }
    }

    /// Takes note that a task succeeded on `host`: the store is back when no task fails any more.
    pub fn answered(&self, task: Task, host: Option<&str>) {
        let mut away = lock(&self.away);
        *away.task(task) = false;
        if away.host.as_deref() != host {
            away.host = host.map(Into::into);
        }
        if !away.reserving
            && !away.listing
            && let Some(since) = away.since.take()
        {
            away.changed_at = SystemTime::now();
            drop(away);
            info!(away_ms = since.elapsed().as_millis() as u64, "the store answers again");
        }
    }

    pub fn is_away(&self) -> bool {
        lock(&self.away).since.is_some()
    }

    pub fn status(&self) -> StoreStatus {
        let away = lock(&self.away);
        StoreStatus {
            answers: away.since.is_none(),
            since: away.changed_at,
            host: away.host.as_deref().map(str::to_owned),
            last_error: away.last_error.clone(),
        }
    }
}

/// One refill thread.
pub(crate) struct Refiller {
    pub shared: Arc<Shared>,
    pub store: Box<dyn SegmentStore>,
    pub duty: Duty,
    /// Failures of the store, whatever the tag, since it last answered.
    pub failures: u32,
}

/// Why a refill came to nothing.
enum Failure {
    Store(StoreError),
    /// What the store granted is kept until it is known to the watermark file.
    NotDurable,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Refiller {
    /// Serves the queue until it is stopped, and hands back the session.
    pub fn run(mut self) -> Box<dyn SegmentStore> {
        self.store.expect_retries();
        if self.duty == Duty::Sound {
            self.store.fail_fast_on_locks();
        }
        while let Some(Taken { tag, entry, waited }) = self.shared.queue.pop(self.duty) {
            if !tag.begin_refill(entry) {
                continue;
            }
            // A bug must not end the thread, and with it the refills of every tag.
            if catch_unwind(AssertUnwindSafe(|| self.refill(&tag, waited))).is_err() {
                error!(tag = tag.name(), "a refill panicked; it is tried again");
                self.try_later(&tag);
            }
        }
        self.store
    }

    fn refill(&mut self, tag: &Arc<Tag>, waited: Duration) {
        // From when the refill was due: that is how long what stands by has to last.
        let mut due = Instant::now().checked_sub(waited).unwrap_or_else(Instant::now);
        for _ in 0..JOBS_PER_TURN {
            let latency = lock(&self.shared.latency).p99();
            let Some(job) = tag.next_job(latency, Instant::now()) else { return };
            if let Err(failure) = self.carry_out(tag, job) {
                return self.recover(tag, failure);
            }
            lock(&self.shared.latency).observe(due.elapsed());
            due = Instant::now();
        }
        self.shared.enqueue(tag, tag.requeue(false));
    }

    fn carry_out(&mut self, tag: &Arc<Tag>, job: Job) -> Result<(), Failure> {
        if let Some((job, range)) = tag.take_undurable() {
            return self.hand_over(tag, job, range, None);
        }
        match self.reserve(tag, job.amount()) {
            Ok((range, debt)) => self.hand_over(tag, job, range, Some(debt)),
            Err(StoreError::Overflow { max_id }) => self.take_the_last(tag, job, max_id),
            Err(StoreError::GoneBack { max_id }) => self.regressed(tag, job, max_id),
            Err(error) => Err(error.into()),
        }
    }

    /// So many as `job` wants are not left above `max_id`. The last IDs below 2^63 are served too; they do not make a
    /// whole lease.
    fn take_the_last(&mut self, tag: &Arc<Tag>, job: Job, mut max_id: i64) -> Result<(), Failure> {
        if let Job::Lease(caller, _) = job {
            tag.refuse_lease(caller);
            return Ok(());
        }
        while max_id < i64::MAX {
            // A step at a time: other servers want of the rest too.
            let rest = (i64::MAX - max_id.max(0)).min(tag.step());
            match self.reserve(tag, rest) {
                Ok((range, debt)) => return self.hand_over(tag, Job::Extend(rest), range, Some(debt)),
                // The row has less than what the tag owes would leave, or others took of it.
                Err(StoreError::Overflow { max_id: higher }) if higher > max_id => max_id = higher,
                Err(error) => return Err(error.into()),
            }
        }
        self.refuse(tag, Fault::Exhausted);
        Ok(())
    }

    /// Reserves only above what was granted before: a row below that is refused, and stays as it is. But where another
    /// server answers than before, the row is raised past all that may have been granted.
    fn reserve(&mut self, tag: &Tag, amount: i64) -> Result<(IdRange, Debt), StoreError> {
        let debt = self.debt(tag)?;
        let granted = self.granted(tag);
        let floor = self.shared.failover.floor(debt, tag.step(), granted);
        Ok((self.reserve_above(tag, amount, floor)?, debt))
    }

    /// What the tag owes to the server that its next reservation goes to.
    fn debt(&mut self, tag: &Tag) -> Result<Debt, StoreError> {
        let asked = Instant::now();
        let server = self.store.server();
        if server.is_err() {
            self.shared.reservations.observe(asked, &server);
        }
        if let Some(server) = server?
            && self.shared.meet(&server) == Met::Left
        {
            // A new session asks who is there now.
            self.store.forget_session();
            return Err(StoreError::Contended("the session is with a server that was left".to_owned()));
        }
        Ok(self.shared.failover.debt(tag, self.granted(tag), &self.shared.readings))
    }

    fn granted(&self, tag: &Tag) -> i64 {
        self.shared.watermarks.get(tag.name()).unwrap_or(0)
    }

    fn reserve_above(&mut self, tag: &Tag, amount: i64, floor: Floor) -> Result<IdRange, StoreError> {
        let asked = Instant::now();
        let answer = self.store.reserve_above(tag.name(), amount, floor);
        self.shared.reservations.observe(asked, &answer);
        if self.store.is_in_doubt() {
            self.shared.skipped.note_unknown(tag.name(), amount);
        }
        let end = answer?;
        self.failures = 0;
        self.shared.store_state.answered(Task::Reserve, self.store.host());
        let start = end.checked_sub(amount).ok_or_else(|| {
            StoreError::Unexpected(format!("max_id {end} after {amount} IDs were reserved"))
        })?;
        Ok(IdRange { start, end })
    }

    fn hand_over(
        &mut self,
        tag: &Arc<Tag>,
        job: Job,
        range: IdRange,
        debt: Option<Debt>,
    ) -> Result<(), Failure> {
        match self.publish(tag, job, range, debt) {
            Ok(()) => Ok(()),
            Err(Refusal::Behind(granted)) => Err(self.discard_repeated(tag, range, granted).into()),
            Err(Refusal::NotDurable(_)) => {
                self.shared.reservations.note_not_durable();
                if let Some(Discarded(range)) = tag.keep_undurable(job, range) {
                    self.discard_unnoted(tag, range);
                }
                Err(Failure::NotDurable)
            }
        }
    }

    /// Hands out what was granted, when it is known to be above all that was granted before.
    fn publish(
        &mut self,
        tag: &Arc<Tag>,
        job: Job,
        range: IdRange,
        debt: Option<Debt>,
    ) -> Result<(), Refusal> {
        // A row that went and came back has another tag by now, whose reservations say how far it is.
        if tag.is_closed() {
            self.discard_unnoted(tag, range);
            return Ok(());
        }
        self.shared.watermarks.advance(tag.name(), range)?;
        if let Some(debt) = debt {
            self.shared.failover.paid(tag, debt, range, &self.shared.watermarks);
        }
        if let Some(discarded) = tag.complete(job, range) {
            self.shared.skipped.note(tag.name(), discarded, Reason::NoTaker);
        }
        let failures = tag.note_refilled();
        if failures >= FAILURES_LOGGED {
            info!(tag = tag.name(), failures, "refills of the tag succeed again");
        }
        Ok(())
    }

    /// The tag is closed, and the watermark says nothing of what it was granted. So the same answer to a later statement
    /// would not be known for a repeated one: the session is given up.
    fn discard_unnoted(&mut self, tag: &Tag, range: IdRange) {
        self.store.forget_session();
        self.shared.skipped.note(tag.name(), Discarded(range), Reason::NoTaker);
    }

    /// The answer grants what was granted before, which the reservation has ruled out: it is the answer to an earlier
    /// statement, and the next one might be that to this.
    fn discard_repeated(&mut self, tag: &Tag, range: IdRange, granted: i64) -> StoreError {
        self.store.forget_session();
        warn!(tag = tag.name(), ids = ?range, granted, "the store repeated an answer: the session with it is given up");
        StoreError::Unexpected(format!("it granted {range:?}, below {granted}, once more"))
    }

    /// The store has lost commits: its row, which is at `max_id`, is below what was granted. The row stays as it is until
    /// an operator raises it, unless OnRegression says that this server may.
    fn regressed(&mut self, tag: &Arc<Tag>, job: Job, max_id: i64) -> Result<(), Failure> {
        // Where no row ever is, nobody has given back to: then what was read counts as well.
        let seen = self.shared.readings.highest(tag.name()).filter(|_| max_id < 0);
        let granted = self.granted(tag).max(seen.unwrap_or(0));
        if self.shared.config.on_regression == OnRegression::Advance && granted > 0 {
            warn!(
                tag = tag.name(),
                max_id, granted, "the store has gone back: raising max_id, as OnRegression says"
            );
            // The store may have granted to others since what is in memory here.
            self.shared.skipped.note_all(tag.name(), &tag.withdraw(), Reason::StoreGoneBack);
            let debt = self.debt(tag)?;
            // Another server may answer by now: of that, the row owes more.
            let floor = match self.shared.failover.floor(debt, tag.step(), granted) {
                Floor::Refuse(granted) => Floor::Raise(granted),
                raise => raise,
            };
            let range = self.reserve_above(tag, job.amount(), floor)?;
            return self.hand_over(tag, job, range, Some(debt));
        }
        self.shared.reservations.note_fence();
        self.refuse(tag, if granted > 0 { Fault::Regression { granted } } else { Fault::NegativeMaxId });
        Ok(())
    }

    fn refuse(&self, tag: &Arc<Tag>, fault: Fault) {
        let text = fault.to_string();
        let refused = tag.refuse(fault);
        if refused.news {
            error!(tag = tag.name(), "the tag gets no more IDs: {text}");
        }
        self.shared.skipped.note_all(tag.name(), &refused.discarded, Reason::StoreGoneBack);
    }

    fn recover(&mut self, tag: &Arc<Tag>, failure: Failure) {
        match failure {
            Failure::Store(error) => self.recover_from(tag, error),
            // The log is told of the file's state, and not tag by tag.
            Failure::NotDurable => self.try_later(tag),
        }
    }

    fn recover_from(&mut self, tag: &Arc<Tag>, error: StoreError) {
        match error {
            StoreError::UnknownTag => {
                info!(tag = tag.name(), "the tag's row is gone");
                self.shared.retire(tag);
                self.shared.listing.request();
            }
            StoreError::Unreadable(reason) => self.refuse(tag, Fault::unreadable(&reason)),
            // An overflow that gets here is one on a row that went back meanwhile.
            StoreError::Contended(_)
            | StoreError::Unexpected(_)
            | StoreError::GoneBack { .. }
            | StoreError::Overflow { .. }
            | StoreError::TagExists(_)
            | StoreError::Invalid(_) => {
                self.try_later(tag);
                if tag.note_row_failure() == FAILURES_LOGGED {
                    warn!(tag = tag.name(), cause = %error, "refills of the tag fail; trying again");
                }
            }
            StoreError::Unavailable(_)
            | StoreError::ReadOnly(_)
            | StoreError::Schema(_)
            | StoreError::Unsafe(_)
            | StoreError::Replaced(_)
            | StoreError::Denied(_) => {
                self.shared.stop_if_replaced(&error);
                self.failures = self.failures.saturating_add(1);
                self.shared.store_state.failed(Task::Reserve, &error, self.failures);
                self.shared.enqueue(tag, tag.requeue(true));
                self.shared.queue.pause(backoff(self.failures));
            }
        }
    }

    fn try_later(&self, tag: &Arc<Tag>) {
        self.shared.queue.push_later(tag.clone(), backoff(tag.postpone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AllocatorConfig;
    use crate::failover::Extent;
    use crate::memory::Table;
    use crate::sizing::Policy;
    use crate::store::server::Server;
    use crate::store::{Rest, Rows, StoreReport, TagRow};
    use crate::watermark::Watermarks;

    fn tag(name: &str) -> Arc<Tag> {
        Arc::new(Tag::new(name, 1, Policy::default(), Instant::now()))
    }

    const STEP: i64 = 10;

    /// A refiller on a table with one row, at `max_id`, the table, and the row's tag. Before a change of server the row was
    /// read at `known_max_id`.
    fn after_change_of_server(max_id: i64, known_max_id: i64) -> (Refiller, Arc<Table>, Arc<Tag>) {
        let table = Table::of([TagRow { name: "a".into(), step: STEP, max_id }]);
        let config =
            AllocatorConfig { refill_threads: 1, failover_steps: Some(1000), ..AllocatorConfig::default() };
        let shared = Arc::new(Shared::new(config, Watermarks::default()));
        let server = |name: &str| Arc::new(Server::from_text(&format!("{name}\n\n\n")).expect("a server"));
        let second = server("second");
        shared.meet(&server("first"));
        shared.meet(&second);
        let row = TagRow { name: "a".into(), step: STEP, max_id: known_max_id };
        shared.failover.read(&second, &[row], Extent::Whole, &shared.readings, &shared.watermarks);
        let refiller = Refiller { shared, store: Box::new(table.session()), duty: Duty::Any, failures: 0 };
        let tag = Arc::new(Tag::new("a", STEP, Policy::default(), Instant::now()));
        (refiller, table, tag)
    }

    #[test]
    fn a_tag_with_less_left_than_it_owes_is_exhausted_and_stays_so() {
        for (known_max_id, max_id) in [(5, i64::MAX - 5), (i64::MAX - 5, i64::MAX - 5), (i64::MAX - 5, 100)] {
            let (mut refiller, table, tag) = after_change_of_server(max_id, known_max_id);
            for _ in 0..2 {
                assert!(refiller.carry_out(&tag, Job::Extend(STEP)).is_ok());
                assert_eq!(tag.fault(), Some(Fault::Exhausted), "{known_max_id} {max_id}");
                let rows = table.list();
                assert_eq!(rows[0].max_id, max_id, "the row stays as it is");
                refiller.shared.observe(&tag, &rows[0], Instant::now());
                assert_eq!(tag.fault(), Some(Fault::Exhausted), "the listing mends nothing");
            }
        }
    }

    #[test]
    fn what_fits_above_what_a_tag_owes_is_granted_down_to_the_last_id() {
        // It owes up to 5 below the end, and the row, which others have raised, up to 2 below.
        let (mut refiller, _table, tag) = after_change_of_server(i64::MAX - 12, i64::MAX - 15);
        assert!(refiller.carry_out(&tag, Job::Extend(STEP)).is_ok());
        assert_eq!((tag.fault(), tag.figures(Duration::ZERO, Instant::now()).left), (None, 2));
        assert!(refiller.carry_out(&tag, Job::Extend(STEP)).is_ok());
        assert_eq!(tag.fault(), Some(Fault::Exhausted));
    }

    /// A store whose server has lost commits, and is replaced by a second one when that is noticed.
    struct Replaced {
        table: Arc<Table>,
        servers: VecDeque<Arc<Server>>,
    }

    impl SegmentStore for Replaced {
        fn check(&mut self) -> Result<StoreReport, StoreError> {
            Ok(StoreReport::default())
        }

        fn list_tags(&mut self, _limit: usize) -> Result<Rows<TagRow>, StoreError> {
            Ok(self.table.list().into())
        }

        fn server(&mut self) -> Result<Option<Arc<Server>>, StoreError> {
            Ok(self.servers.pop_front())
        }

        fn reserve_above(&mut self, tag: &str, amount: i64, floor: Floor) -> Result<i64, StoreError> {
            match self.servers.is_empty() {
                true => self.table.reserve_above(tag, amount, floor),
                false => Err(StoreError::GoneBack { max_id: 0 }),
            }
        }

        fn give_back(&mut self, rests: &[Rest<'_>]) -> Result<Vec<bool>, StoreError> {
            Ok(self.table.give_back(rests))
        }
    }

    #[test]
    fn a_row_that_went_back_is_raised_by_what_it_owes_when_another_server_answers_meanwhile() {
        const MAX_ID: i64 = 1_000_000;
        let table = Table::of([TagRow { name: "a".into(), step: STEP, max_id: MAX_ID }]);
        let config = AllocatorConfig { on_regression: OnRegression::Advance, ..AllocatorConfig::default() };
        let shared = Arc::new(Shared::new(config, Watermarks::default()));
        assert!(shared.watermarks.advance("a", IdRange { start: 0, end: 100 }).is_ok());
        let servers = ["first", "second"]
            .map(|name| Arc::new(Server::from_text(&format!("{name}\n\n\n")).expect("one")));
        let store = Box::new(Replaced { table: table.clone(), servers: servers.into() });
        let mut refiller = Refiller { shared, store, duty: Duty::Any, failures: 0 };
        assert!(refiller.carry_out(&tag("a"), Job::Extend(STEP)).is_ok());
        // The tag of this test has a step of 1.
        assert_eq!(table.list()[0].max_id, MAX_ID + 1000 + STEP, "others may have been granted so many more");
    }

    /// A session that repeats its last answer, until it is given up.
    struct Repeating {
        table: Arc<Table>,
        last: Option<i64>,
    }

    impl SegmentStore for Repeating {
        fn check(&mut self) -> Result<StoreReport, StoreError> {
            Ok(StoreReport::default())
        }

        fn list_tags(&mut self, _limit: usize) -> Result<Rows<TagRow>, StoreError> {
            Ok(self.table.list().into())
        }

        fn forget_session(&mut self) {
            self.last = None;
        }

        fn reserve_above(&mut self, tag: &str, amount: i64, floor: Floor) -> Result<i64, StoreError> {
            let end = self.last.map_or_else(|| self.table.reserve_above(tag, amount, floor), Ok)?;
            self.last = Some(end);
            Ok(end)
        }

        fn give_back(&mut self, rests: &[Rest<'_>]) -> Result<Vec<bool>, StoreError> {
            Ok(self.table.give_back(rests))
        }
    }

    #[test]
    fn an_answer_for_a_tag_that_is_gone_is_not_taken_for_that_to_the_next_one_of_its_name() {
        let table = Table::of([TagRow { name: "a".into(), step: 1, max_id: 1000 }]);
        let shared = Arc::new(Shared::new(AllocatorConfig::default(), Watermarks::default()));
        let store = Box::new(Repeating { table: table.clone(), last: None });
        let mut refiller = Refiller { shared, store, duty: Duty::Any, failures: 0 };
        let (gone, next) = (tag("a"), tag("a"));
        gone.close();
        assert!(refiller.carry_out(&gone, Job::Extend(10)).is_ok());
        assert_eq!(table.list()[0].max_id, 1010);
        assert!(refiller.carry_out(&next, Job::Extend(20)).is_ok());
        assert_eq!(table.list()[0].max_id, 1030, "below 1000, others were granted");
    }

    fn next(queue: &RefillQueue) -> String {
        queue.pop(Duty::Any).expect("not stopped").tag.name().to_owned()
    }

    #[test]
    fn urgent_tags_go_first_and_a_routine_one_is_not_forgotten() {
        let queue = RefillQueue::default();
        queue.push(tag("routine"), Urgency::Routine);
        (0..20).for_each(|_| queue.push(tag("urgent"), Urgency::Urgent));
        let order: Vec<_> = (0..21).map(|_| next(&queue)).collect();
        assert_eq!(order.iter().position(|name| name == "routine"), Some(URGENT_IN_A_ROW_MAX as usize));
    }

    #[test]
    fn a_postponed_tag_comes_when_its_pause_is_over_and_before_the_others() {
        let queue = RefillQueue::default();
        queue.push_later(tag("later"), Duration::from_secs(3600));
        queue.push_later(tag("soon"), Duration::from_millis(5));
        let asked = Instant::now();
        assert_eq!(next(&queue), "soon");
        assert!(asked.elapsed() >= Duration::from_millis(4));
        queue.push_later(tag("due"), Duration::ZERO);
        queue.push(tag("urgent"), Urgency::Urgent);
        assert_eq!((next(&queue), next(&queue)), ("due".to_owned(), "urgent".to_owned()));
    }

    #[test]
    fn one_thread_of_several_takes_no_tag_whose_row_failed() {
        assert_eq!(
            [(0, 1), (0, 2), (1, 2)].map(|(thread, threads)| Duty::of(thread, threads)),
            [Duty::Any, Duty::Sound, Duty::Any]
        );
        let queue = RefillQueue::default();
        queue.push_later(tag("failed"), Duration::ZERO);
        queue.push(tag("sound"), Urgency::Routine);
        assert_eq!(queue.pop(Duty::Sound).expect("not stopped").tag.name(), "sound");
        assert_eq!(next(&queue), "failed");
    }

    #[test]
    fn a_stopped_queue_ends_every_wait() {
        let queue = Arc::new(RefillQueue::default());
        let waiting: Vec<_> = (0..2)
            .map(|index| {
                let queue = queue.clone();
                std::thread::spawn(move || match index {
                    0 => assert!(queue.pop(Duty::Any).is_none()),
                    _ => queue.pause(Duration::from_secs(3600)),
                })
            })
            .collect();
        queue.stop();
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn the_backoff_doubles_up_to_its_limit_with_jitter() {
        for (failures, most_ms) in [(1, 10), (2, 20), (3, 40), (7, 500), (u32::MAX, 500)] {
            let most = Duration::from_millis(most_ms);
            let pauses: Vec<_> = (0..50).map(|_| backoff(failures)).collect();
            assert!(pauses.iter().all(|pause| (most / 2..=most).contains(pause)), "{failures}: {pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]), "jittered");
        }
    }
}
