//! Tags by name, and the two ends of the allocator: the owner's ([`Allocator`]) and a worker's ([`Handle`]).

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use compact_str::CompactString;
use foldhash::fast::RandomState;
use smallvec::SmallVec;
use tracing::error;

use crate::common::Common;
use crate::ending::join_until;
use crate::failover::{Failover, Met};
use crate::hungry::Hungry;
use crate::listing::{Lister, Listing, Missing, Visit};
use crate::monitor::{Monitor, Reservations};
use crate::readings::Readings;
use crate::refill::{Duty, RefillQueue, Refiller, StoreState};
use crate::segment::{Claim, IdRange};
use crate::sizing::{Latency, Policy};
use crate::skipped::{Reason, Skipped};
use crate::store::server::Server;
use crate::store::{SegmentStore, StoreError};
use crate::supervise;
use crate::sync::lock;
use crate::tag::{Discarded, Fault, Need, Parked, Tag, TagHandle, Urgency, WaiterId};
use crate::watermark::Watermarks;

/// A worker may keep so many ways to tags that are gone, or this part of all that it keeps.
const GONE_FEW: usize = 64;
const GONE_SHARE: usize = 8;

/// Opens one more session with the store; each thread that talks to it has its own.
pub type StoreFactory = Arc<dyn Fn() -> Box<dyn SegmentStore> + Send + Sync>;

/// What an [`Allocator`] needs to know.
#[derive(Debug, Clone)]
pub struct AllocatorConfig {
    /// Threads that reserve segments, each with one session.
    pub refill_threads: usize,
    /// How many of the tags found at start are loaded before anybody asks for them.
    pub preload_tags: usize,
    /// How often the table is read for new, changed and deleted rows.
    pub tag_reload: Duration,
    /// How much to reserve.
    pub policy: Arc<Policy>,
    /// What to do when the store has gone back.
    pub on_regression: OnRegression,
    /// How far rows are raised, in steps and beyond what was seen of them, when another server of the store answers;
    /// `None`: every server is trusted.
    pub failover_steps: Option<i64>,
    /// Gives the system back what the global allocator holds and does not need: a listing of many tags leaves much.
    pub trim: fn(),
}

impl Default for AllocatorConfig {
    /// Two refill threads, a table that is read every ten seconds, and no trust in a database server that takes over.
    fn default() -> Self {
        Self {
            refill_threads: 2,
            preload_tags: 0,
            tag_reload: Duration::from_secs(10),
            policy: Arc::default(),
            on_regression: OnRegression::Refuse,
            failover_steps: Some(1000),
            trim: || (),
        }
    }
}

/// What to do when a reservation starts below the watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRegression {
    /// The tag gets no IDs until its row is mended.
    Refuse,
    /// The row is raised to the watermark, and serving goes on.
    Advance,
}

/// The IDs of one claim, as disjoint ranges in ascending order.
pub type Ids = SmallVec<[IdRange; 2]>;

/// What a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// So many IDs (at least 1), in as many ranges as it takes.
    Ids(u64),
    /// So many IDs (at least 1) in one range.
    Lease(u64),
    /// To know how many IDs are left in memory. A tag that was never loaded is loaded first.
    Left,
}

/// What a caller gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Granted {
    /// As many IDs as were asked for.
    Ids(Ids),
    /// A range of exactly the length that was asked for.
    Lease(IdRange),
    /// IDs in memory.
    Left(u64),
}

/// What [`Handle::claim`] came to.
pub enum Outcome {
    /// Done, without waiting.
    Granted(Granted),
    /// To be polled with [`Handle::poll`].
    Pending(Pending),
}

/// Why a claim was not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocError {
    /// The table has no such row.
    #[error("there is no such tag in the table")]
    UnknownTag,
    /// The name is not known so far, and the table cannot be read now.
    #[error("the store cannot be asked for this tag now")]
    StoreAway,
    /// The row is at fault.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Only for leases.
    #[error(
        "this lease asks for too many of the IDs left below 2^63: a lease takes at most a step, or a thousandth of them"
    )]
    LeaseTooLarge,
    /// The allocator is closed.
    #[error("this server is shutting down")]
    Closed,
}

/// Whether this node can serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Serving,
    /// The table was not read yet, or the tags to preload are not loaded yet.
    Starting,
    /// Tags have callers and no IDs: what each lacks, in words; not all, where they are many.
    Starving(Vec<String>),
    /// Nothing is loaded, and the store does not answer.
    StoreAway,
    /// The store's file was moved, removed or replaced: nothing more is handed out.
    StoreReplaced,
}

/// All tags by name; never changed, only replaced.
#[derive(Default)]
pub struct Directory(HashSet<ByName, RandomState>);

#[derive(Clone)]
struct ByName(Arc<Tag>);

impl Borrow<str> for ByName {
    fn borrow(&self) -> &str {
        self.0.name()
    }
}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name().hash(state);
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name()
    }
}

impl Eq for ByName {}

impl Directory {
    pub(crate) fn of(tags: impl Iterator<Item = Arc<Tag>>) -> Self {
        Self(tags.map(ByName).collect())
    }

    /// The tag of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Tag>> {
        self.0.get(name).map(|entry| &entry.0)
    }

    /// All tags, in no particular order.
    pub fn tags(&self) -> impl Iterator<Item = &Arc<Tag>> {
        self.0.iter().map(|entry| &entry.0)
    }

    /// How many tags there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What all threads of one allocator share.
pub(crate) struct Shared {
    pub config: AllocatorConfig,
    pub common: Arc<Common>,
    pub directory: ArcSwap<Directory>,
    /// Held while the directory is replaced, so that no replacement undoes another.
    pub directory_writer: Mutex<()>,
    pub queue: RefillQueue,
    pub listing: Listing,
    pub watermarks: Watermarks,
    pub readings: Readings,
    pub failover: Failover,
    pub latency: Mutex<Latency>,
    pub reservations: Reservations,
    pub skipped: Skipped,
    pub store_state: StoreState,
    /// The tags to preload that no refill thread has tried yet.
    pub preloading: Mutex<VecDeque<Arc<Tag>>>,
    /// The rows that nobody can ask for, as the log was last told of them.
    pub nameless_logged: Mutex<Vec<String>>,
    pub hungry: Hungry,
    /// Tags that are gone, since the start.
    gone: AtomicU64,
    /// The store is not the one that granted what was handed out: for good.
    store_replaced: AtomicBool,
    closed: AtomicBool,
}

impl Shared {
    pub(crate) fn new(config: AllocatorConfig, watermarks: Watermarks) -> Self {
        let failover = Failover::new(config.failover_steps, &watermarks);
        Self {
            common: (*config.policy).into(),
            config,
            watermarks,
            readings: Readings::default(),
            failover,
            directory: ArcSwap::default(),
            directory_writer: Mutex::default(),
            queue: RefillQueue::default(),
            listing: Listing::default(),
            latency: Mutex::default(),
            reservations: Reservations::default(),
            skipped: Skipped::default(),
            store_state: StoreState::default(),
            preloading: Mutex::default(),
            nameless_logged: Mutex::default(),
            hungry: Hungry::default(),
            gone: AtomicU64::new(0),
            store_replaced: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Ends a tag whose row is gone. Its IDs in memory are not handed out any more.
    pub fn retire(&self, gone: &Arc<Tag>) {
        let _only_writer = lock(&self.directory_writer);
        let others = self.directory.load_full();
        let others = others.tags().filter(|tag| !Arc::ptr_eq(tag, gone)).cloned();
        self.directory.store(Arc::new(Directory::of(others)));
        self.end(gone);
    }

    /// Closes a tag that is not in the directory any more.
    pub fn end(&self, gone: &Tag) {
        let closed = gone.close();
        let rests = closed.unclaimed.map(Discarded).into_iter().chain(closed.skipped);
        rests.for_each(|rest| self.skipped.note(gone.name(), rest, Reason::TagDeleted));
        self.watermarks.pin(gone.name());
        // Relaxed: a count, no more.
        self.gone.fetch_add(1, Relaxed);
    }

    /// Takes note of the server that answers. What rows owe because it is another is known when this returns.
    pub fn meet(&self, server: &Arc<Server>) -> Met {
        let directory = self.directory.load_full();
        let tags = || directory.tags().map(|tag| (tag.name(), tag.step())).collect();
        self.failover.meet(server, tags, &self.readings, &self.watermarks)
    }

    /// Puts the tag into the queue that it asks for, if any.
    pub fn enqueue(&self, tag: &Arc<Tag>, urgency: Option<Urgency>) {
        if let Some(urgency) = urgency {
            self.queue.push(tag.clone(), urgency);
        }
    }

    /// Puts the tag on the list of those that may starve, if it is to be tracked.
    pub fn track(&self, tag: &Arc<Tag>, track: bool) {
        if track {
            self.hungry.add(tag.clone());
        }
    }

    /// Stops every tag, for good, if that is what the error means.
    pub fn stop_if_replaced(&self, error: &StoreError) {
        // Relaxed: the tags themselves tell who claims.
        if !matches!(error, StoreError::Replaced(_)) || self.store_replaced.swap(true, Relaxed) {
            return;
        }
        error!(cause = %error, "no more IDs are handed out");
        // A tag that comes in meanwhile gets no IDs: nothing is reserved any more.
        for tag in self.directory.load_full().tags() {
            let discarded = tag.refuse(Fault::StoreReplaced).discarded;
            self.skipped.note_all(tag.name(), &discarded, Reason::StoreGoneBack);
        }
    }

    /// Costs the same, however many tags there are.
    pub fn health(&self) -> Health {
        if self.store_replaced.load(Relaxed) {
            return Health::StoreReplaced;
        }
        if !self.has_started() {
            return Health::Starting;
        }
        let starving = self.hungry.look(Instant::now());
        match starving.is_empty() {
            false => Health::Starving(starving),
            true if self.store_state.is_away() && !self.common.holds_ids() => Health::StoreAway,
            true => Health::Serving,
        }
    }

    fn has_started(&self) -> bool {
        let mut preloading = lock(&self.preloading);
        // As far as the first that was not: so no look meets a tag that another has met.
        while preloading.front().is_some_and(|tag| tag.was_tried()) {
            preloading.pop_front();
        }
        self.listing.succeeded_once() && preloading.is_empty()
    }
}

/// The owner's end. Segments are reserved until [`Allocator::close`]; dropping it stops nothing.
pub struct Allocator {
    shared: Arc<Shared>,
    lister: JoinHandle<Option<Box<dyn SegmentStore>>>,
    refillers: Vec<JoinHandle<Option<Box<dyn SegmentStore>>>>,
}

impl Allocator {
    /// Reads the table, starts the threads, and has the first tags loaded. A store that does not answer is tried
    /// again in the background; until then [`Handle::health`] says [`Health::Starting`].
    ///
    /// # Errors
    /// [`StoreError::Schema`], [`StoreError::Unsafe`] and [`StoreError::Denied`], which somebody has to mend, and
    /// [`StoreError::Unavailable`] when the system has no threads left.
    pub fn start(
        config: AllocatorConfig,
        watermarks: Watermarks,
        open: &StoreFactory,
    ) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared::new(config, watermarks));
        let mut lister = Lister::new(shared.clone(), open());
        if let Err(error @ (StoreError::Schema(_) | StoreError::Unsafe(_) | StoreError::Denied(_))) =
            lister.list()
        {
            return Err(error);
        }
        // After a panic, who knows what the session was at: a thread that is started again has a new one.
        let lister = {
            let (shared, open, mut first) = (shared.clone(), open.clone(), Some(lister));
            spawn("idalloc-tags".to_owned(), move || {
                first.take().unwrap_or_else(|| Lister::new(shared.clone(), open())).run()
            })?
        };
        let refiller = |index| {
            let duty = Duty::of(index, shared.config.refill_threads);
            let (shared, open) = (shared.clone(), open.clone());
            spawn(format!("idalloc-refill{index}"), move || {
                Refiller { shared: shared.clone(), store: open(), duty, failures: 0 }.run()
            })
        };
        let refillers = (0..shared.config.refill_threads).map(refiller).collect::<Result<_, _>>()?;
        Ok(Self { shared, lister, refillers })
    }

    /// A worker's end; every thread that claims has its own.
    pub fn handle(&self) -> Handle {
        self.handles()()
    }

    /// What makes workers' ends for those who start workers later.
    pub fn handles(&self) -> impl Fn() -> Handle + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || Handle {
            gone_seen: shared.gone.load(Relaxed),
            shared: shared.clone(),
            tags: HashMap::default(),
        }
    }

    /// An observer's end.
    pub fn monitor(&self) -> Monitor {
        Monitor::new(self.shared.clone())
    }

    /// Ends every tag, tells everybody who waits, and gives the store back what was never claimed, so that a restart
    /// leaves no gap. All of it within `limit`, which may cut the giving back short: what is not given back is a gap.
    /// Claims fail with [`AllocError::Closed`] from now on.
    pub fn close(self, limit: Duration) {
        let began = Instant::now();
        let deadline = began + limit;
        // A thread whose statement hangs must not cost the others their time.
        let threads_deadline = began + limit / 2;
        // Relaxed: who sees a tag closed by the loop below has its mutex, which orders this store before.
        self.shared.closed.store(true, Relaxed);
        self.shared.queue.stop();
        self.shared.listing.stop();
        // First the threads: a reservation that is under way is still put into its chain, and comes back with it.
        let threads = self.refillers.into_iter().chain([self.lister]);
        let stores = threads.filter_map(|thread| join_until(thread, threads_deadline)?).collect();
        self.shared.settle(stores, deadline);
    }
}

fn spawn<T: Send + 'static>(
    name: String,
    body: impl FnMut() -> T + Send + 'static,
) -> Result<JoinHandle<Option<T>>, StoreError> {
    supervise::spawn(name, body).map_err(|error| StoreError::Unavailable(format!("no thread: {error}")))
}

/// A worker's end of the allocator: one thread's ways to the tags it serves.
pub struct Handle {
    shared: Arc<Shared>,
    /// The names are copies: so a claim does not touch the tags themselves.
    tags: HashMap<CompactString, TagHandle, RandomState>,
    /// How many tags were gone when `tags` was last rid of them.
    gone_seen: u64,
}

impl Handle {
    /// Takes one ID if that needs no waiting: the hot path. `None`: use [`Handle::claim`].
    #[inline]
    pub fn next_id(&mut self, tag: &str) -> Option<i64> {
        next_id(&self.shared, self.tags.get_mut(tag)?)
    }

    /// As [`Handle::next_id`], for who has looked for the tag before.
    #[inline]
    pub fn next_id_of(&self, tag: &mut TagHandle) -> Option<i64> {
        next_id(&self.shared, tag)
    }

    /// One more way to a tag that was claimed from before.
    pub fn way_to(&self, tag: &str) -> Option<TagHandle> {
        self.tags.get(tag).map(|handle| TagHandle::new(handle.tag().clone()))
    }

    /// Whether there is such a tag, as far as is known.
    pub fn is_listed(&self, tag: &str) -> bool {
        self.tags.contains_key(tag) || self.shared.directory.load().get(tag).is_some()
    }

    /// Claims what is wanted of `tag` if that needs no waiting, and begins to wait for it otherwise.
    pub fn claim(&mut self, tag: &str, want: Want) -> Outcome {
        let mut got = Ids::new();
        if let Some(handle) = self.tags.get_mut(tag)
            && let Some(granted) = try_claim(&self.shared, handle, want, &mut got)
        {
            return Outcome::Granted(granted);
        }
        let registration = Registration::None;
        Outcome::Pending(Pending { name: tag.into(), want, got, shared: self.shared.clone(), registration })
    }

    /// Looks whether `pending` can be granted now. If not, the waker of `cx` is woken when it is worth another try.
    ///
    /// # Errors
    /// [`AllocError`], when waiting longer is of no use.
    pub fn poll(&mut self, pending: &mut Pending, cx: &mut Context<'_>) -> Poll<Result<Granted, AllocError>> {
        let mut closed: Option<Arc<Tag>> = None;
        loop {
            let Some(handle) = self.find(&pending.name) else { return pending.poll_listing(cx) };
            if closed.as_ref().is_some_and(|closed| Arc::ptr_eq(closed, handle.tag())) {
                return Poll::Ready(Err(AllocError::UnknownTag));
            }
            match pending.poll_tag(handle, cx) {
                Step::Ready(result) => return Poll::Ready(result),
                Step::Wait => return Poll::Pending,
                // Its row may be back under the same name: look once more.
                Step::Closed => {
                    pending.leave();
                    closed = Some(handle.tag().clone());
                    self.tags.remove(&*pending.name);
                    if self.shared.closed.load(Relaxed) {
                        return Poll::Ready(Err(AllocError::Closed));
                    }
                }
            }
        }
    }

    fn find(&mut self, name: &str) -> Option<&mut TagHandle> {
        if !self.tags.contains_key(name) {
            self.forget_gone();
            let tag = self.shared.directory.load().get(name)?.clone();
            self.tags.insert(name.into(), TagHandle::new(tag));
        }
        self.tags.get_mut(name)
    }

    /// Drops the ways to tags that are gone, if there may be many: whoever asks for one drops it, and nobody may ask. To
    /// be called now and then. Says whether it did.
    pub fn forget_gone(&mut self) -> bool {
        let gone = self.shared.gone.load(Relaxed);
        // Looking at all of them for the sake of few would hold up the worker.
        let few = GONE_FEW.max(self.tags.len() / GONE_SHARE);
        if gone - self.gone_seen <= few as u64 {
            return false;
        }
        let directory = self.shared.directory.load();
        let is_there =
            |name: &str, way: &TagHandle| directory.get(name).is_some_and(|tag| Arc::ptr_eq(tag, way.tag()));
        self.tags.retain(|name, way| is_there(name, way));
        self.tags.shrink_to_fit();
        self.gone_seen = gone;
        true
    }

    /// Whether this node can serve.
    pub fn health(&self) -> Health {
        self.shared.health()
    }
}

#[inline]
fn next_id(shared: &Shared, handle: &mut TagHandle) -> Option<i64> {
    let claim = handle.claim(1)?;
    note_crossing(shared, handle, &claim);
    Some(claim.ids.start)
}

fn try_claim(shared: &Shared, handle: &mut TagHandle, want: Want, got: &mut Ids) -> Option<Granted> {
    match want {
        Want::Ids(count) => {
            let missing = count - got.iter().map(|range| range.len()).sum::<u64>();
            take(shared, handle, missing, got);
            let done = count == got.iter().map(|range| range.len()).sum::<u64>();
            done.then(|| Granted::Ids(std::mem::take(got)))
        }
        Want::Lease(count) => {
            let claim = handle.claim_exactly(count)?;
            note_crossing(shared, handle, &claim);
            Some(Granted::Lease(claim.ids))
        }
        Want::Left => handle.tag().left().map(Granted::Left),
    }
}

/// Takes `count` IDs, if the chain seems to hold them all: who cannot have all waits with empty hands.
fn take(shared: &Shared, handle: &mut TagHandle, mut count: u64, got: &mut Ids) {
    if !handle.head_holds(count) && handle.tag().left().unwrap_or(0) < count {
        return;
    }
    while count > 0
        && let Some(claim) = handle.claim(count)
    {
        note_crossing(shared, handle, &claim);
        count -= claim.ids.len();
        got.push(claim.ids);
    }
}

#[inline]
fn note_crossing(shared: &Shared, handle: &TagHandle, claim: &Claim) {
    if claim.crossed_trigger {
        shared.enqueue(handle.tag(), handle.tag().request_refill());
    }
}

/// A claim that waits. Dropping it gives up: IDs that it already holds are then skipped, and the log says so.
pub struct Pending {
    name: Box<str>,
    want: Want,
    got: Ids,
    shared: Arc<Shared>,
    registration: Registration,
}

/// Where a pending claim is known.
enum Registration {
    None,
    Listing(Visit),
    Tag(Arc<Tag>, Option<WaiterId>),
}

enum Step {
    Ready(Result<Granted, AllocError>),
    Wait,
    Closed,
}

impl Pending {
    fn poll_listing(&mut self, cx: &mut Context<'_>) -> Poll<Result<Granted, AllocError>> {
        if !matches!(self.registration, Registration::Listing(_)) {
            self.leave();
            self.registration = Registration::Listing(Visit::default());
        }
        let Registration::Listing(visit) = &mut self.registration else { return Poll::Pending };
        match self.shared.listing.missing(&self.name, visit, cx.waker(), Instant::now()) {
            Missing::Unknown => Poll::Ready(Err(AllocError::UnknownTag)),
            Missing::Away => Poll::Ready(Err(AllocError::StoreAway)),
            Missing::Waiting => Poll::Pending,
            Missing::Stopped => Poll::Ready(Err(AllocError::Closed)),
        }
    }

    fn poll_tag(&mut self, handle: &mut TagHandle, cx: &mut Context<'_>) -> Step {
        self.register_with(handle.tag());
        if let Registration::Tag(tag, Some(waiter)) = &self.registration
            && let Some(range) = tag.take_lease(*waiter)
        {
            return Step::Ready(Ok(Granted::Lease(range)));
        }
        loop {
            if let Some(granted) = try_claim(&self.shared, handle, self.want, &mut self.got) {
                return Step::Ready(Ok(granted));
            }
            let need = self.need(handle.tag());
            let Registration::Tag(tag, waiter) = &mut self.registration else { return Step::Closed };
            match tag.park(need, cx.waker(), waiter, Instant::now()) {
                Parked::TryAgain => {}
                Parked::Leased(range) => return Step::Ready(Ok(Granted::Lease(range))),
                Parked::Waiting { enqueue, track } => {
                    self.shared.enqueue(tag, enqueue);
                    self.track(track);
                    return Step::Wait;
                }
                Parked::Fault { fault, track } => {
                    // The row may be mended by now: look, though not too often.
                    self.shared.listing.request_row(tag.name());
                    self.track(track);
                    return Step::Ready(Err(fault.into()));
                }
                Parked::TooLarge => return Step::Ready(Err(AllocError::LeaseTooLarge)),
                Parked::Closed => return Step::Closed,
            }
        }
    }

    fn register_with(&mut self, tag: &Arc<Tag>) {
        if matches!(&self.registration, Registration::Tag(known, _) if Arc::ptr_eq(known, tag)) {
            return;
        }
        self.leave();
        self.registration = Registration::Tag(tag.clone(), None);
    }

    /// What has to be there before it is worth another try. A tag is loaded before a lease is cut from it.
    fn need(&self, tag: &Tag) -> Need {
        match self.want {
            Want::Ids(count) => Need::Supply(count - self.got.iter().map(|range| range.len()).sum::<u64>()),
            Want::Lease(count) if tag.left().is_some() => Need::Lease(count),
            Want::Lease(_) | Want::Left => Need::Supply(1),
        }
    }

    fn track(&self, track: bool) {
        if let Registration::Tag(tag, _) = &self.registration {
            self.shared.track(tag, track);
        }
    }

    fn leave(&mut self) {
        match std::mem::replace(&mut self.registration, Registration::None) {
            Registration::Listing(mut visit) => self.shared.listing.leave(&mut visit),
            Registration::Tag(tag, Some(waiter)) => {
                if let Some(discarded) = tag.unpark(waiter) {
                    self.shared.skipped.note(tag.name(), discarded, Reason::NoTaker);
                }
            }
            Registration::Tag(_, None) | Registration::None => {}
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.leave();
        for range in self.got.drain(..) {
            self.shared.skipped.note(&self.name, Discarded(range), Reason::NoTaker);
        }
    }
}
