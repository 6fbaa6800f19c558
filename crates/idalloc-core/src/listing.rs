//! Which tags there are: the table is read every TagReloadSeconds, and earlier when somebody asks for a tag that
//! is not known, or for one whose row is at fault, but on request never more than once in [`INTERVAL_MIN`].
//!
//! The listing is the negative cache too: while it is young, a name that is not in it is unknown, at no cost. A large
//! table is not read every second: there, a name is looked up by itself, in batches. So a new row serves within a second
//! of being asked for, mostly at once, and a flood of wrong names costs the store a listing, or a few look-ups, a second.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use crate::failover::{Extent, Met};
use crate::refill::{Task, backoff};
use crate::store::{LOOK_UP_MAX, Rows, SegmentStore, StoreError, TAGS_MAX, TagRow, UnreadableRow};
use crate::sync::lock;
use crate::tag::{Fault, Tag, WaiterId, step_fault};
use crate::{Directory, Shared};

/// The shortest time between two listings.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// A listing that takes long is followed by a pause so many times as long.
const INTERVAL_PER_COST: u32 = 20;
/// The longest such pause: what a listing seems to take may be a leap of the clock.
const INTERVAL_MAX: Duration = Duration::from_secs(600);

/// A table that takes longer to read is large: names are looked up by themselves.
const COST_OF_LARGE: Duration = Duration::from_millis(50);
/// The shortest time between two look-ups.
const LOOK_UP_PAUSE: Duration = Duration::from_millis(20);
/// The most names that wait to be looked up; one more is told that the store cannot be asked now.
const LOOK_UPS_WAITING_MAX: usize = 10_000;
/// How often to look whether the files still are where they were: within a second, a listing that is under way included.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// The most rows at fault that one listing names in the log.
const BROKEN_LOGGED_MAX: usize = 20;

/// When the table was read last, and who waits for the next time.
#[derive(Default)]
pub(crate) struct Listing {
    state: Mutex<State>,
    requested: Condvar,
}

#[derive(Default)]
struct State {
    /// Listings that ended, well or badly.
    attempts: u64,
    /// One is under way: what it finds may be older than the question of who comes now.
    running: bool,
    succeeded_once: bool,
    last_failed: bool,
    /// When the newest listing that succeeded began: it holds what was in the table then.
    listed_at: Option<Instant>,
    look_ups: LookUps,
    /// The newest listing took long.
    is_large: bool,
    /// No listing begins before.
    not_before: Option<Instant>,
    requested: bool,
    stopped: bool,
    waiters: BTreeMap<WaiterId, Waker>,
    next_waiter: WaiterId,
}

/// The names that are to be looked up. They are numbered as they come, and looked up in that order.
#[derive(Default)]
struct LookUps {
    waiting: VecDeque<Box<str>>,
    numbers: HashMap<Box<str>, u64>,
    /// The number of the newest name.
    newest: u64,
    /// The number of the newest name that was looked up.
    done: u64,
    last_failed: bool,
    not_before: Option<Instant>,
}

impl LookUps {
    /// The number of this name in the queue, unless that is full.
    fn ask(&mut self, name: &str) -> Option<u64> {
        if let Some(number) = self.numbers.get(name) {
            return Some(*number);
        }
        if self.waiting.len() >= LOOK_UPS_WAITING_MAX {
            return None;
        }
        self.newest += 1;
        self.waiting.push_back(name.into());
        self.numbers.insert(name.into(), self.newest);
        Some(self.newest)
    }

    /// When the next batch may begin, if there is one.
    fn due(&self, now: Instant) -> Option<Instant> {
        (!self.waiting.is_empty()).then(|| self.not_before.unwrap_or(now))
    }

    /// Takes a batch out. Who asks for one of its names from now on wants it looked up once more.
    fn take(&mut self) -> Vec<Box<str>> {
        let batch: Vec<_> = self.waiting.drain(..self.waiting.len().min(LOOK_UP_MAX)).collect();
        for name in &batch {
            self.numbers.remove(name);
        }
        batch
    }
}

/// What the thread that reads the table is to do.
enum Turn {
    List,
    LookUp(Vec<Box<str>>),
    /// Whether the files still are where they were.
    Look,
    Stop,
}

impl State {
    /// Registers who waits.
    fn register(&mut self, visit: &mut Visit, waker: &Waker) {
        let id = *visit.waiter.get_or_insert_with(|| {
            self.next_waiter += 1;
            self.next_waiter
        });
        self.waiters.insert(id, waker.clone());
    }

    /// Asks for a listing, and registers who waits for it.
    fn wait(&mut self, visit: &mut Visit, waker: &Waker) {
        self.register(visit, waker);
        self.requested = true;
    }
}

/// What the listing says of a name that is not in the directory.
pub(crate) enum Missing {
    /// There was no such row at most a second ago.
    Unknown,
    /// The store cannot be asked.
    Away,
    /// The waker is woken when the table was read.
    Waiting,
    /// It is not read any more.
    Stopped,
}

/// A caller's registration.
#[derive(Default)]
pub(crate) struct Visit {
    waiter: Option<WaiterId>,
    /// Listings that began before the caller came.
    since: u64,
    /// Its name's number among the look-ups.
    look_up: Option<u64>,
}

impl Listing {
    /// What to tell a caller whose tag is not in the directory.
    pub fn missing(&self, name: &str, visit: &mut Visit, waker: &Waker, now: Instant) -> Missing {
        let mut state = lock(&self.state);
        if state.stopped {
            return Missing::Stopped;
        }
        if let Some(number) = visit.look_up
            && state.look_ups.done >= number
        {
            return if state.look_ups.last_failed { Missing::Away } else { Missing::Unknown };
        }
        let asked_for_it = visit.waiter.is_some() && state.attempts > visit.since;
        let has_failed = state.last_failed && state.not_before.is_some_and(|not_before| now < not_before);
        if state.succeeded_once && (asked_for_it || has_failed) {
            return if state.last_failed { Missing::Away } else { Missing::Unknown };
        }
        if state.listed_at.is_some_and(|listed_at| now < listed_at + INTERVAL_MIN) {
            return Missing::Unknown;
        }
        if visit.waiter.is_none() {
            visit.since = state.attempts + u64::from(state.running);
        }
        if state.is_large && visit.look_up.is_none() {
            let Some(number) = state.look_ups.ask(name) else { return Missing::Away };
            visit.look_up = Some(number);
        }
        match visit.look_up {
            Some(_) => state.register(visit, waker),
            None => state.wait(visit, waker),
        }
        self.requested.notify_one();
        Missing::Waiting
    }

    /// Has the table read without regard to when it was read before, and tells a caller when that is over: whether it
    /// went well.
    pub fn poll_reading(&self, visit: &mut Visit, waker: &Waker, now: Instant) -> Poll<bool> {
        let mut state = lock(&self.state);
        if state.stopped {
            return Poll::Ready(false);
        }
        if visit.waiter.is_none() {
            visit.since = state.attempts + u64::from(state.running);
            state.not_before = Some(now);
        } else if state.attempts > visit.since {
            return Poll::Ready(!state.last_failed);
        }
        state.wait(visit, waker);
        self.requested.notify_one();
        Poll::Pending
    }

    /// Forgets a caller.
    pub fn leave(&self, visit: &mut Visit) {
        if let Some(id) = visit.waiter.take() {
            lock(&self.state).waiters.remove(&id);
        }
    }

    /// Has the table read soon.
    pub fn request(&self) {
        lock(&self.state).requested = true;
        self.requested.notify_one();
    }

    /// Has this tag's row read soon, be it with all others.
    pub fn request_row(&self, name: &str) {
        let mut state = lock(&self.state);
        match state.is_large {
            // If the queue is full, the next listing shows it.
            true => drop(state.look_ups.ask(name)),
            false => state.requested = true,
        }
        drop(state);
        self.requested.notify_one();
    }

    /// Whether the table was ever read.
    pub fn succeeded_once(&self) -> bool {
        lock(&self.state).succeeded_once
    }

    /// Ends the listings, and tells everybody who waits for one.
    pub fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopped = true;
        state.waiters.values().for_each(Waker::wake_by_ref);
        drop(state);
        self.requested.notify_one();
    }

    fn began(&self) {
        let mut state = lock(&self.state);
        state.running = true;
        state.requested = false;
    }

    fn looked_up(&self, names: usize, failed: bool) {
        let mut state = lock(&self.state);
        state.look_ups.done += names as u64;
        state.look_ups.last_failed = failed;
        state.look_ups.not_before = Some(Instant::now() + LOOK_UP_PAUSE);
        state.waiters.values().for_each(Waker::wake_by_ref);
    }

    fn ended(&self, failed: bool, began: Instant, cost: Duration) {
        let mut state = lock(&self.state);
        if !failed {
            state.listed_at = Some(began);
            state.is_large = cost > COST_OF_LARGE;
        }
        state.attempts += 1;
        state.running = false;
        state.last_failed = failed;
        state.succeeded_once |= !failed;
        let pause = cost.saturating_mul(INTERVAL_PER_COST).clamp(INTERVAL_MIN, INTERVAL_MAX);
        state.not_before = Some(Instant::now() + pause);
        state.waiters.values().for_each(Waker::wake_by_ref);
    }

    /// Waits until something is due: a listing, at `until` or on request, a look-up, or at `look` a look at the files.
    fn wait(&self, until: Instant, look: Instant) -> Turn {
        let mut state = lock(&self.state);
        while !state.stopped {
            let listing = match state.not_before {
                Some(not_before) if state.requested => until.min(not_before),
                _ => until,
            };
            let now = Instant::now();
            if listing <= now {
                return Turn::List;
            }
            let look_up = state.look_ups.due(now);
            if look_up.is_some_and(|due| due <= now) {
                return Turn::LookUp(state.look_ups.take());
            }
            if look <= now {
                return Turn::Look;
            }
            let due = look_up.map_or(listing, |look_up| look_up.min(listing)).min(look);
            let woken = self.requested.wait_timeout(state, due - now);
            state = woken.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        Turn::Stop
    }
}

/// The thread that reads the table, and looks after the files in between.
pub(crate) struct Lister {
    shared: Arc<Shared>,
    store: Box<dyn SegmentStore>,
    failures: u32,
    checked: bool,
}

impl Lister {
    pub fn new(shared: Arc<Shared>, mut store: Box<dyn SegmentStore>) -> Self {
        store.expect_retries();
        let mut lister = Self { shared, store, failures: 0, checked: false };
        lister.recall();
        lister
    }

    /// Reads the table, the first time after a look at its columns, and tells everybody who waits for it.
    ///
    /// # Errors
    /// Those of [`SegmentStore::check`] and [`SegmentStore::list_tags`]; the old listing then stays.
    pub fn list(&mut self) -> Result<(), StoreError> {
        let began = Instant::now();
        self.shared.listing.began();
        // A bug must not end the thread: callers with unknown tags wait for it.
        let listed = catch_unwind(AssertUnwindSafe(|| self.read_and_apply()));
        let outcome = listed.unwrap_or_else(|_| Err(StoreError::Unexpected("a listing panicked".to_owned())));
        let cost = outcome.as_ref().copied().unwrap_or_default();
        match &outcome {
            Ok(_) => {
                self.failures = 0;
                self.shared.store_state.answered(Task::List, self.store.host());
            }
            Err(error) => {
                self.shared.stop_if_replaced(error);
                self.failures = self.failures.saturating_add(1);
                self.shared.store_state.failed(Task::List, error, self.failures);
            }
        }
        self.shared.listing.ended(outcome.is_err(), began, cost);
        if outcome.is_ok() {
            (self.shared.config.trim)();
        }
        outcome.map(drop)
    }

    /// Returns what it costs to read the rows: without the connection, and the look at the columns.
    fn read_and_apply(&mut self) -> Result<Duration, StoreError> {
        if !self.checked {
            let report = self.store.check()?;
            info!(store = report.store, "the store is reached");
            report.warnings().iter().for_each(|warning| warn!("{warning}"));
            self.settle_name()?;
            self.checked = true;
        }
        let began = Instant::now();
        let rows = self.store.list_tags(TAGS_MAX)?;
        self.note(&rows, Extent::Whole, began)?;
        self.shared.apply(&rows, began);
        Ok(began.elapsed())
    }

    /// Has the watermarks found under every name that the store takes for the table's.
    fn settle_name(&mut self) -> Result<(), StoreError> {
        let Shared { failover, watermarks, .. } = &*self.shared;
        if self.store.ignores_case()? {
            let known = failover.known_position();
            failover.ignore_case(watermarks).map_err(|error| StoreError::Unavailable(error.to_string()))?;
            if failover.known_position() != known {
                // The host was chosen without it.
                self.recall();
                self.store.forget_session();
            }
        }
        self.shared.watermarks.log_if_unknown();
        Ok(())
    }

    /// Takes note of what was read from `began` on, for the day when another server answers.
    fn note(&mut self, rows: &[TagRow], extent: Extent, began: Instant) -> Result<(), StoreError> {
        let Shared { readings, failover, watermarks, .. } = &*self.shared;
        // First the server: of one that has lost commits, what was read says nothing about those.
        if let Some(server) = self.store.server()? {
            if self.shared.meet(&server) == Met::Left {
                self.store.forget_session();
                return Err(StoreError::Contended("the session is with a server that was left".to_owned()));
            }
            failover.read(&server, rows, extent, readings, watermarks);
        }
        readings.note(rows.iter().map(|row| (row.name.as_str(), row.max_id)), began);
        Ok(())
    }

    /// Has the session use what an earlier process knew of the servers, or trust all of them.
    fn recall(&mut self) {
        match self.shared.failover.known_position() {
            _ if self.shared.failover.is_off() => self.store.trust_every_server(),
            Some(position) => self.store.recall(&position),
            None => {}
        }
    }

    /// Reads the rows of these tags, and tells everybody who waits for it.
    fn look_up(&mut self, names: &[Box<str>]) {
        let began = Instant::now();
        let looked_up = catch_unwind(AssertUnwindSafe(|| {
            let rows = self.store.look_up(&names.iter().map(|name| &**name).collect::<Vec<_>>())?;
            self.note(&rows, Extent::Some, began)?;
            self.shared.add(&rows, began);
            Ok(())
        }));
        let outcome =
            looked_up.unwrap_or_else(|_| Err(StoreError::Unexpected("a look-up panicked".to_owned())));
        if let Err(cause) = &outcome {
            // The listing, which is due soon, takes note of a store that is away.
            debug!(%cause, "a look-up failed");
            self.shared.listing.request();
        }
        self.shared.listing.looked_up(names.len(), outcome.is_err());
    }

    /// Reads the table from time to time until stopped, and hands back the session; `Shared::listing` has the requests.
    pub fn run(mut self) -> Box<dyn SegmentStore> {
        loop {
            let period = match self.failures {
                0 => self.shared.config.tag_reload,
                failures => backoff(failures),
            };
            let until = Instant::now() + period;
            loop {
                match self.shared.listing.wait(until, Instant::now() + LOOK_PERIOD) {
                    // The error is in the log, if it is news; the next turn comes soon.
                    Turn::List => {
                        drop(self.list());
                        break;
                    }
                    Turn::LookUp(names) => {
                        self.look_up(&names);
                        // One that failed has the table read soon.
                        if self.failures > 0 {
                            break;
                        }
                    }
                    Turn::Look => self.look_at_files(),
                    Turn::Stop => return self.store,
                }
            }
            self.shared.skipped.tell_untold(Instant::now());
        }
    }

    /// Whether the files still are where they were.
    fn look_at_files(&mut self) {
        self.shared.watermarks.verify();
        if let Err(error) = self.store.verify() {
            self.shared.stop_if_replaced(&error);
        }
    }
}

/// Says in the log which rows are found to be at fault that were not before.
fn log_broken(known: &Directory, rows: &Rows<TagRow>) {
    let steps = rows.iter().filter_map(|row| Some((row.name.as_str(), step_fault(row.step)?)));
    let unreadable = rows.unreadable.iter();
    let unreadable =
        unreadable.filter_map(|row| Some((row.name.as_deref()?, Fault::unreadable(&row.reason))));
    let is_news = |(name, fault): &(&str, Fault)| {
        known.get(name).and_then(|tag| tag.fault()).is_none_or(|before| before != *fault)
    };
    let mut broken = steps.chain(unreadable).filter(is_news);
    for (name, fault) in broken.by_ref().take(BROKEN_LOGGED_MAX) {
        error!(tag = name, "the tag gets no IDs: {fault}");
    }
    let rest = broken.count();
    if rest > 0 {
        error!(tags = rest, "more tags get no IDs, because of their rows in the table");
    }
}

/// The rows that cannot be read and whose tags can be asked for.
fn named(unreadable: &[UnreadableRow]) -> impl Iterator<Item = (&str, &str)> {
    unreadable.iter().filter_map(|row| Some((row.name.as_deref()?, row.reason.as_str())))
}

impl Shared {
    /// Brings the directory in line with the table's rows, as they were read from `read_at` on.
    fn apply(&self, rows: &Rows<TagRow>, read_at: Instant) {
        if rows.total() == TAGS_MAX {
            warn!(limit = TAGS_MAX, "the table holds more tags than are served");
        }
        let now = Instant::now();
        let _only_writer = lock(&self.directory_writer);
        let known = self.directory.load_full();
        log_broken(&known, rows);
        self.log_nameless(&rows.unreadable);
        let (mut new, mut first_new) = (Vec::new(), Vec::new());
        for row in rows.iter() {
            match known.get(row.name.as_str()) {
                Some(tag) => self.observe(tag, row, read_at),
                None => {
                    let tag = Arc::new(Tag::new(&row.name, row.step, self.common.clone(), now));
                    tag.observe_row(row.step, row.max_id, read_at);
                    if first_new.len() < self.config.preload_tags {
                        first_new.push(tag.clone());
                    }
                    new.push(tag);
                }
            }
        }
        for (name, reason) in named(&rows.unreadable) {
            let tag = known.get(name).cloned().unwrap_or_else(|| {
                let tag = Arc::new(Tag::new(name, 1, self.common.clone(), now));
                new.push(tag.clone());
                tag
            });
            tag.observe_unreadable(reason);
        }
        if !new.is_empty() || known.len() + new.len() != rows.len() + named(&rows.unreadable).count() {
            self.replace_directory(&known, rows, new);
        }
        if !self.listing.succeeded_once() {
            self.preload(first_new);
        }
    }

    /// Says in the log which rows nobody can ask for, if there are others than before.
    fn log_nameless(&self, unreadable: &[UnreadableRow]) {
        let nameless = unreadable.iter().filter(|row| row.name.is_none());
        let reasons: Vec<&str> = nameless.map(|row| row.reason.as_str()).take(BROKEN_LOGGED_MAX).collect();
        let mut logged = lock(&self.nameless_logged);
        if *logged != reasons {
            for reason in &reasons {
                error!("a row of the table cannot be served: {reason}");
            }
            *logged = reasons.into_iter().map(str::to_owned).collect();
        }
    }

    /// Takes note of single rows, as they were read from `read_at` on.
    fn add(&self, rows: &Rows<TagRow>, read_at: Instant) {
        let _only_writer = lock(&self.directory_writer);
        let known = self.directory.load_full();
        log_broken(&known, rows);
        let mut new = Vec::new();
        let mut find = |name: &str, step| {
            known.get(name).cloned().unwrap_or_else(|| {
                let tag = Arc::new(Tag::new(name, step, self.common.clone(), read_at));
                new.push(tag.clone());
                tag
            })
        };
        for row in rows.iter() {
            self.observe(&find(&row.name, row.step), row, read_at);
        }
        for (name, reason) in named(&rows.unreadable) {
            find(name, 1).observe_unreadable(reason);
        }
        if !new.is_empty() && known.len() + new.len() <= TAGS_MAX {
            info!(new = new.len(), total = known.len() + new.len(), "the table has new tags");
            self.directory.store(Arc::new(Directory::of(known.tags().cloned().chain(new))));
        }
    }

    pub(crate) fn observe(&self, tag: &Arc<Tag>, row: &TagRow, read_at: Instant) {
        // A row that cannot pay what it owes stays exhausted: else it would look mended at each listing.
        let first_grantable = match tag.fault() {
            Some(Fault::Exhausted) => {
                let granted = self.watermarks.get(&row.name).unwrap_or(0);
                self.failover.first_grantable(tag, row.max_id, granted, &self.readings)
            }
            _ => row.max_id,
        };
        let mended = tag.observe_owing_row(row.step, row.max_id, first_grantable, read_at);
        if mended.is_some() {
            info!(tag = tag.name(), "the tag's row is mended");
        }
        self.enqueue(tag, mended);
    }

    fn replace_directory(&self, known: &Directory, rows: &Rows<TagRow>, new: Vec<Arc<Tag>>) {
        let listed: HashSet<&str, foldhash::fast::RandomState> = rows
            .iter()
            .map(|row| row.name.as_str())
            .chain(named(&rows.unreadable).map(|(name, _)| name))
            .collect();
        let (kept, gone): (Vec<_>, Vec<_>) = known.tags().partition(|tag| listed.contains(tag.name()));
        info!(new = new.len(), gone = gone.len(), total = kept.len() + new.len(), "the table's tags changed");
        self.directory.store(Arc::new(Directory::of(kept.into_iter().cloned().chain(new))));
        // After the swap, so that who finds a tag closed does not find it in the directory as well.
        for tag in gone {
            self.end(tag);
        }
    }

    fn preload(&self, tags: Vec<Arc<Tag>>) {
        for tag in &tags {
            self.enqueue(tag, tag.request_refill());
        }
        lock(&self.preloading).extend(tags);
    }
}
