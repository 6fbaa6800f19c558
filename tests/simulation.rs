//! Servers on one table, with a fault at every step of a reservation, restarts and crashes: no ID comes twice.
//!
//! A seed fixes the servers, what they are asked for, and the faults of each of their sessions with the store; the
//! interleaving is the scheduler's, so a replay repeats its seed. By default as many seeds are run as fit into
//! [`TIME_LIMIT`]; `IDALLOC_SIM_SEEDS=n` runs the seeds from 0 up to n, and `IDALLOC_SIM_SEED=s` that one,
//! `IDALLOC_SIM_SEEDS` times.
//!
//! # What cannot be caught, and is not injected
//!
//! - A wrong reply above the watermark: a range that the store granted to another server looks like any other. So a
//!   duplicate reply repeats only what this session was told before, and nonsense is below the amount asked for.
//! - Commits lost beside several servers, by a table that stays where it is: each notices what it was granted itself, and
//!   cannot know of the others. Then an ID may come from two servers, though never twice from one. Where another database
//!   server takes the table over, no ID comes twice at all. Every server then has a watermark file, without which a restart
//!   would forget as well, and has read the table before the first loss: who has not knows of nothing that may be lost.
//! - More than FailoverSteps steps of a tag lost to another database server, above what each server has read of the row in its
//!   present process. A raise is as much by itself: who has not read the row since would raise it to the same IDs, if a second
//!   failover loses the raise of the first. See [`Readers`].
//! - Rows that the first listing of another database server misses, though it has them: nobody can tell them from rows that
//!   were made later, which owe nothing.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use idalloc::alloc::WaitError;
use idalloc::alloc::memory::Table;
use idalloc::alloc::sizing::Policy;
use idalloc::alloc::tag::{Discarded, Fault as TagFault, Job, Need, Parked, Tag};
use idalloc::alloc::watermark::Watermarks;
use idalloc::alloc::{
    AllocError, Allocator, AllocatorConfig, Granted, Handle, Ids, OnRegression, StoreFactory, Want,
};
use idalloc::segment::IdRange;
use idalloc::store::server::Server;
use idalloc::store::{Floor, Rest, Rows, SegmentStore, StoreError, StoreReport, TagRow};

/// How long new seeds are begun, unless the environment says how many.
const TIME_LIMIT: Duration = Duration::from_secs(15);
/// Simulations at once: most of the time they wait.
const AT_ONCE: usize = 16;
/// More seeds than any run takes.
const ENDLESS: u64 = u64::MAX / 2;
/// How often a single seed is replayed.
const REPLAYS: u64 = 200;
/// How long a tag may take to serve when nothing fails any more, and a server to end.
const PATIENCE: Duration = Duration::from_secs(20);
const HANG_MAX: Duration = Duration::from_millis(2);
const FAILOVER_STEPS: i64 = 1000;
const TAGS: [&str; 4] = ["a", "b", "c", "d"];

// ---- what a seed fixes ----

#[derive(Debug)]
struct Plan {
    seed: u64,
    servers: u64,
    /// How often each server is started.
    lives: u64,
    claimers: u64,
    claims: u32,
    refill_threads: usize,
    steps: Vec<i64>,
    faults_percent: u8,
    /// The table loses commits.
    forgets: bool,
    /// It does so because another database server takes it over.
    fails_over: bool,
    watermark_files: bool,
    crashes: bool,
    on_regression: OnRegression,
}

impl Plan {
    fn of(seed: u64) -> Plan {
        let rng = &mut Rng::with_seed(seed);
        let forgets = rng.u8(..3) == 0;
        let watermark_files = forgets || rng.u8(..4) == 0;
        let refill_threads = rng.usize(1..=3);
        Plan {
            seed,
            servers: rng.u64(1..=3),
            lives: rng.u64(1..=3),
            claimers: rng.u64(1..=3),
            claims: *rng.choice(&[0, 5, 15, 40]).expect("a choice"),
            refill_threads,
            steps: (0..rng.usize(1..=TAGS.len())).map(|_| rng.i64(1..=20)).collect(),
            faults_percent: *rng.choice(&[0, 5, 10, 20, 40]).expect("a choice"),
            forgets,
            fails_over: forgets && rng.bool(),
            watermark_files,
            // The file is copied while the only thread that writes it asks the store.
            crashes: !watermark_files || refill_threads == 1,
            on_regression: if rng.bool() { OnRegression::Refuse } else { OnRegression::Advance },
        }
    }

    fn tags(&self) -> &'static [&'static str] {
        &TAGS[..self.steps.len()]
    }

    /// How many IDs of a tag may be lost that a server knows nothing of.
    fn margin(&self, tag: &str) -> i64 {
        let steps = self.tags().iter().zip(&self.steps);
        FAILOVER_STEPS * steps.filter(|(name, _)| **name == tag).map(|(_, step)| step).sum::<i64>()
    }

    fn config(&self) -> AllocatorConfig {
        AllocatorConfig {
            refill_threads: self.refill_threads,
            preload_tags: 1,
            tag_reload: Duration::from_millis(2),
            policy: Policy { segment_seconds: 0.5, step_factor_max: 4 }.into(),
            on_regression: self.on_regression,
            failover_steps: Some(FAILOVER_STEPS),
            ..AllocatorConfig::default()
        }
    }

    /// A seed for each part of the simulation.
    fn rng(&self, server: u64, life: u64, part: u64) -> Rng {
        Rng::with_seed(self.seed.wrapping_mul(1 << 22) + (server << 16) + (life << 12) + part)
    }
}

// ---- the store ----

/// What happens at one step of one session. Every kind that is not named otherwise befalls every kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    ErrorBefore,
    /// Done, and the acknowledgement is lost.
    AcknowledgementLost,
    HangBefore,
    HangAfter,
    Contended,
    ReadOnly,
    CrashBefore,
    CrashAfter,
    /// Reservations only: what this session was told before, with and without another reservation.
    Duplicate,
    DuplicateOfDone,
    /// Reservations only.
    Nonsense,
    /// Reservations only: the row is said to be gone, and is not.
    RowGone,
    /// Commits are lost, just before or just after this one.
    ForgetsBefore,
    ForgetsAfter,
    /// Listings only: rows are missing, or are as they were once.
    Stale,
}

use Fault::{
    AcknowledgementLost, Contended, CrashAfter, CrashBefore, Duplicate, DuplicateOfDone, ErrorBefore,
    ForgetsAfter, ForgetsBefore, HangAfter, HangBefore, Nonsense, ReadOnly, RowGone, Stale,
};

const OF_LISTINGS: [Fault; 4] = [ErrorBefore, HangBefore, ReadOnly, Stale];
const OF_WRITES: [Fault; 6] = [ErrorBefore, AcknowledgementLost, HangBefore, HangAfter, Contended, ReadOnly];
const OF_RESERVATIONS: [Fault; 4] = [Duplicate, DuplicateOfDone, Nonsense, RowGone];
const CRASHES: [Fault; 2] = [CrashBefore, CrashAfter];
const LOSSES: [Fault; 2] = [ForgetsBefore, ForgetsAfter];

/// One server from its start to its end, as its sessions with the store know it.
struct Life {
    plan: Arc<Plan>,
    table: Arc<Table>,
    watermark_file: Option<PathBuf>,
    readers: Arc<Readers>,
    server: u64,
    /// What was read of the table last, unless that is noted in `readers`.
    listed: Mutex<Option<Vec<TagRow>>>,
    /// It is not started again.
    is_last: bool,
    /// Crashed: the store hears nothing more of it.
    dead: AtomicBool,
    /// No more faults.
    calm: AtomicBool,
    /// What the store acknowledged, and meant.
    grants: Mutex<Vec<(String, IdRange)>>,
    injected: Mutex<BTreeMap<Fault, u64>>,
}

impl Life {
    fn new(
        plan: Arc<Plan>,
        table: Arc<Table>,
        watermark_file: Option<PathBuf>,
        readers: Arc<Readers>,
        server: u64,
        is_last: bool,
    ) -> Life {
        Life {
            plan,
            table,
            watermark_file,
            readers,
            server,
            listed: Mutex::default(),
            is_last,
            dead: AtomicBool::new(false),
            calm: AtomicBool::new(false),
            grants: Mutex::default(),
            injected: Mutex::default(),
        }
    }

    /// The server has taken note of what it read last.
    fn note_listed(&self) {
        if let Some(rows) = lock(&self.listed).take() {
            self.readers.note(self.server, if self.is_last { &rows } else { &[] });
        }
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
    }

    /// The process is gone, and leaves behind what is durable.
    fn crash(&self) {
        if let Some(file) = &self.watermark_file {
            // The thread that reads the table may be writing it: until it is whole.
            let read = || std::fs::read(file).expect("read the watermark file");
            let mut copy = read();
            loop {
                let again = read();
                if again == copy {
                    break;
                }
                copy = again;
            }
            std::fs::write(left_behind(file), copy).expect("copy the watermark file");
        }
        self.dead.store(true, Relaxed);
    }
}

fn left_behind(file: &Path) -> PathBuf {
    file.with_extension("left")
}

/// What each server has read of the table: how much of it another database server may lack.
struct Readers(Mutex<Vec<Reader>>);

/// What one server has read.
enum Reader {
    /// Nothing ever.
    New,
    /// The highest `max_id` of each tag. A process that ends forgets it, so of one that is not a server's last, nothing counts.
    Knows(HashMap<String, i64>),
    /// It hands nothing out any more.
    Ended,
}

impl Readers {
    fn new(servers: u64) -> Readers {
        Readers(Mutex::new((0..servers).map(|_| Reader::New).collect()))
    }

    fn with<T>(&self, server: u64, work: impl FnOnce(&mut Reader) -> T) -> T {
        work(&mut lock(&self.0)[usize::try_from(server).expect("few servers")])
    }

    fn note(&self, server: u64, rows: &[TagRow]) {
        self.with(server, |reader| {
            if matches!(reader, Reader::New) {
                *reader = Reader::Knows(HashMap::new());
            }
            let Reader::Knows(known) = reader else { return };
            for row in rows {
                let highest = known.entry(row.name.clone()).or_insert(row.max_id);
                *highest = row.max_id.max(*highest);
            }
        });
    }

    fn end(&self, server: u64) {
        self.with(server, |reader| *reader = Reader::Ended);
    }

    /// Whether every server makes up for it if another database server has the tag's row at `max_id`, while there may be
    /// IDs up to `granted`.
    fn make_up_for(&self, tag: &str, max_id: i64, granted: i64, margin: i64) -> bool {
        lock(&self.0).iter().all(|reader| match reader {
            Reader::New => false,
            Reader::Knows(known) => known.get(tag).copied().unwrap_or(0).max(max_id) + margin >= granted,
            Reader::Ended => true,
        })
    }
}

struct Session {
    life: Arc<Life>,
    rng: Rng,
    told: HashMap<String, i64>,
    /// The database server that it is with.
    server: Option<Arc<Server>>,
    /// The one that the newest listing came from, if that lacked rows.
    lacked_at: Option<Arc<Server>>,
    /// The one whose rows were all read.
    read_whole: Option<Arc<Server>>,
}

impl Session {
    /// One that has asked nothing yet.
    fn new(life: Arc<Life>, rng: Rng) -> Self {
        Self { life, rng, told: HashMap::new(), server: None, lacked_at: None, read_whole: None }
    }

    fn draw(&mut self, of_this_call: &[Fault]) -> Option<Fault> {
        let plan = &self.life.plan;
        if self.life.calm.load(Relaxed) || self.rng.u8(..100) >= plan.faults_percent {
            return None;
        }
        let mut kinds = of_this_call.to_vec();
        if of_this_call != OF_LISTINGS {
            kinds.extend(CRASHES.iter().filter(|_| plan.crashes && self.rng.u8(..4) == 0));
            kinds.extend(LOSSES.iter().filter(|_| plan.forgets));
        }
        let fault = self.rng.choice(kinds).expect("kinds");
        *lock(&self.life.injected).entry(fault).or_default() += 1;
        Some(fault)
    }

    /// Does `work`, a write to the row of `tag`, in the presence of `fault`.
    fn write<T>(
        &mut self,
        fault: Option<Fault>,
        tag: &str,
        work: impl FnOnce(&Table) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let life = self.life.clone();
        if life.is_dead() {
            return Err(away());
        }
        match fault {
            Some(ErrorBefore) => return Err(away()),
            Some(RowGone) => return Err(StoreError::UnknownTag),
            Some(Contended) => return Err(StoreError::Contended("deadlock".to_owned())),
            Some(ReadOnly) => return Err(StoreError::ReadOnly("a replica".to_owned())),
            Some(HangBefore) => self.hang(),
            Some(CrashBefore) => life.crash(),
            Some(ForgetsBefore) => self.forget(tag),
            _ => {}
        }
        if life.is_dead() {
            return Err(away());
        }
        let done = work(&life.table);
        match fault {
            Some(HangAfter) => self.hang(),
            Some(CrashAfter) => life.crash(),
            Some(ForgetsAfter) => self.forget(tag),
            _ => {}
        }
        match fault {
            Some(AcknowledgementLost) => Err(away()),
            _ if life.is_dead() => Err(away()),
            _ => done,
        }
    }

    fn hang(&mut self) {
        thread::sleep(HANG_MAX.mul_f64(self.rng.f64()));
    }

    fn forget(&mut self, tag: &str) {
        let (life, rng) = (&self.life, &mut self.rng);
        let mut pick = |commits: usize| rng.usize(commits.saturating_sub(10)..commits);
        if !life.plan.fails_over {
            return life.table.lose_commits(tag, pick);
        }
        let margin = life.plan.margin(tag);
        let is_made_up_for = |max_id, granted| life.readers.make_up_for(tag, max_id, granted, margin);
        life.table.fail_over(tag, |commits, highest| {
            let last = pick(commits.len());
            let is_safe = |last: &usize| is_made_up_for(commits[*last], highest);
            (last..commits.len()).find(is_safe).unwrap_or(commits.len() - 1)
        });
    }

    fn nonsense(&mut self, amount: i64) -> i64 {
        let few = amount.saturating_mul(2);
        *self.rng.choice(&[i64::MIN, -1, 0, amount - 1, amount - few]).expect("a choice")
    }
}

fn away() -> StoreError {
    StoreError::Unavailable("injected".to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SegmentStore for Session {
    fn check(&mut self) -> Result<StoreReport, StoreError> {
        Ok(StoreReport::default())
    }

    fn list_tags(&mut self, _limit: usize) -> Result<Rows<TagRow>, StoreError> {
        let life = self.life.clone();
        if life.is_dead() {
            return Err(away());
        }
        life.note_listed();
        match self.draw(&OF_LISTINGS) {
            Some(ErrorBefore | ReadOnly) => return Err(away()),
            Some(HangBefore) => self.hang(),
            Some(Stale) => {
                let server = life.table.server();
                let mut rows = life.table.list_as(|commits| self.rng.usize(..commits));
                if self.read_whole.as_ref().is_some_and(|whole| whole.is(&server)) {
                    rows.retain(|_| self.rng.u8(..4) > 0);
                    self.lacked_at = Some(server);
                }
                return Ok(rows.into());
            }
            _ => {}
        }
        let rows = life.table.list();
        *lock(&life.listed) = Some(rows.clone());
        Ok(rows.into())
    }

    fn server(&mut self) -> Result<Option<Arc<Server>>, StoreError> {
        let server = self.lacked_at.take().unwrap_or_else(|| self.life.table.server());
        self.server = Some(server.clone());
        // Of use to the session that reads the table: there, a listing comes before.
        self.read_whole = Some(server.clone());
        Ok(Some(server))
    }

    fn forget_session(&mut self) {
        self.told.clear();
        self.read_whole = None;
        // What a session with a server that was left has read, nobody takes note of.
        *lock(&self.life.listed) = None;
    }

    fn reserve_above(&mut self, tag: &str, amount: i64, floor: Floor) -> Result<i64, StoreError> {
        let fault = self.draw(&[OF_WRITES.as_slice(), &OF_RESERVATIONS].concat());
        if fault == Some(Nonsense) {
            return Ok(self.nonsense(amount));
        }
        let told = self.told.get(tag).copied();
        if fault == Some(Duplicate)
            && let Some(told) = told
        {
            return Ok(told);
        }
        let server = self.server.clone().expect("the server was asked for");
        let end = self.write(fault, tag, |table| table.reserve_at(&server, tag, amount, floor))?;
        if fault == Some(DuplicateOfDone)
            && let Some(told) = told
        {
            return Ok(told);
        }
        self.told.insert(tag.to_owned(), end);
        lock(&self.life.grants).push((tag.to_owned(), IdRange { start: end - amount, end }));
        Ok(end)
    }

    fn give_back(&mut self, rests: &[Rest<'_>]) -> Result<Vec<bool>, StoreError> {
        let fault = self.draw(&OF_WRITES);
        let tag = self.rng.choice(rests).expect("something to give back").tag;
        self.write(fault, tag, |table| Ok(table.give_back(rests)))
    }
}

// ---- the servers ----

/// IDs that a caller was given.
#[derive(Debug, Clone)]
struct Taken {
    tag: &'static str,
    ids: IdRange,
    lease: bool,
    by: Claimer,
}

/// Names one thread of one life of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Claimer {
    server: u64,
    life: u64,
    thread: u64,
}

/// What the callers of one life were told.
#[derive(Default)]
struct Told {
    /// In the order of each caller.
    taken: Vec<Taken>,
    outcomes: Outcomes,
}

#[derive(Debug, Default, Clone, Copy)]
struct Outcomes {
    acknowledged: u64,
    failed: u64,
    /// Its caller gave up: what became of the IDs is nobody's business, as long as nobody else was given them.
    unknown: u64,
}

impl AddAssign for Outcomes {
    fn add_assign(&mut self, more: Outcomes) {
        self.acknowledged += more.acknowledged;
        self.failed += more.failed;
        self.unknown += more.unknown;
    }
}

impl Told {
    fn add(&mut self, more: Told) {
        self.taken.extend(more.taken);
        self.outcomes += more.outcomes;
    }

    /// Takes note of an answer. Whether IDs were granted.
    fn note(&mut self, by: Claimer, tag: &'static str, claimed: Result<Granted, WaitError>) -> bool {
        let mut take = |ids, lease| self.taken.push(Taken { tag, ids, lease, by });
        match claimed {
            Ok(Granted::Ids(ranges)) => ranges.into_iter().for_each(|ids| take(ids, false)),
            Ok(Granted::Lease(ids)) => take(ids, true),
            Ok(Granted::Left(_)) => {}
            Err(WaitError::Failed(_)) => {
                self.outcomes.failed += 1;
                return false;
            }
            Err(WaitError::TimedOut(_)) => {
                self.outcomes.unknown += 1;
                return false;
            }
        }
        self.outcomes.acknowledged += 1;
        true
    }
}

/// How a life ends, unless a crash is earlier.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Clean,
    UnderLoad,
    /// Cleanly, but with no time to wait for the store.
    Hasty,
}

struct World {
    plan: Arc<Plan>,
    table: Arc<Table>,
    dir: tempfile::TempDir,
    readers: Arc<Readers>,
}

impl World {
    fn of(seed: u64) -> World {
        let plan = Plan::of(seed);
        let table = Table::new(plan.tags().iter().copied().zip(plan.steps.iter().copied()));
        World {
            readers: Arc::new(Readers::new(plan.servers)),
            plan: Arc::new(plan),
            table,
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    /// All lives of all servers, side by side.
    fn run(&self) -> History {
        let lives = thread::scope(|scope| {
            let servers: Vec<_> =
                (0..self.plan.servers).map(|server| scope.spawn(move || self.serve(server))).collect();
            servers.into_iter().flat_map(|server| server.join().expect("a server")).collect()
        });
        History { forgets: self.plan.forgets && !self.plan.fails_over, lives }
    }

    fn serve(&self, server: u64) -> Vec<(Arc<Life>, Told)> {
        let lives = (0..self.plan.lives).map(|life| self.live(server, life)).collect();
        self.readers.end(server);
        lives
    }

    fn live(&self, server: u64, number: u64) -> (Arc<Life>, Told) {
        let file = self.plan.watermark_files.then(|| self.dir.path().join(format!("{server}.db")));
        if let Some(file) = file.as_ref().filter(|file| left_behind(file).exists()) {
            std::fs::rename(left_behind(file), file).expect("the file that the crash left behind");
        }
        let (plan, table, readers) = (self.plan.clone(), self.table.clone(), self.readers.clone());
        let is_last = number + 1 == plan.lives;
        let life = Arc::new(Life::new(plan, table, file, readers, server, is_last));
        let told = self.allocate(server, number, &life);
        (life, told)
    }

    fn allocate(&self, server: u64, number: u64, life: &Arc<Life>) -> Told {
        let watermarks = life.watermark_file.as_deref().map_or_else(Watermarks::default, |file| {
            idalloc::store::watermark::open(file, "t").expect("the watermark file is nobody else's")
        });
        let rng = &mut self.plan.rng(server, number, 0);
        let open = self.factory(server, number, life);
        let allocator = Allocator::start(self.plan.config(), watermarks, &open).expect("it starts");
        life.note_listed();
        let claimers: Vec<_> = (0..self.plan.claimers)
            .map(|thread| (allocator.handle(), Claimer { server, life: number, thread }))
            .collect();
        let end = self.end(rng);
        let mut told = Told::default();
        thread::scope(|scope| {
            let claimers: Vec<_> = claimers
                .into_iter()
                .map(|(handle, by)| scope.spawn(move || self.claim(life, handle, by)))
                .collect();
            if end == End::UnderLoad {
                thread::sleep(HANG_MAX.mul_f64(rng.f64()));
                allocator.close(PATIENCE);
                return claimers.into_iter().for_each(|claimer| told.add(claimer.join().expect("a claimer")));
            }
            claimers.into_iter().for_each(|claimer| told.add(claimer.join().expect("a claimer")));
            if life.is_last && !life.is_dead() {
                let by = Claimer { server, life: number, thread: self.plan.claimers };
                told.add(self.recover(life, allocator.handle(), by));
            }
            allocator.close(if end == End::Hasty { Duration::ZERO } else { PATIENCE });
        });
        told
    }

    fn end(&self, rng: &mut Rng) -> End {
        match rng.u8(..4) {
            0 | 1 => End::Clean,
            2 => End::UnderLoad,
            // Threads that were not waited for may use the watermark file still.
            _ if self.plan.watermark_files => End::Clean,
            _ => End::Hasty,
        }
    }

    fn factory(&self, server: u64, number: u64, life: &Arc<Life>) -> StoreFactory {
        let (plan, life, sessions) = (self.plan.clone(), life.clone(), AtomicU64::new(512));
        Arc::new(move || {
            let rng = plan.rng(server, number, sessions.fetch_add(1, Relaxed));
            Box::new(Session::new(life.clone(), rng))
        })
    }

    fn claim(&self, life: &Life, mut handle: Handle, by: Claimer) -> Told {
        let mut rng = self.plan.rng(by.server, by.life, 1 + by.thread);
        let mut told = Told::default();
        for _ in 0..self.plan.claims {
            if life.is_dead() {
                break;
            }
            let tag = *rng.choice(self.plan.tags()).expect("a tag");
            if let Some(id) = handle.next_id(tag).filter(|_| rng.bool()) {
                let ids = IdRange { start: id, end: id + 1 };
                told.taken.push(Taken { tag, ids, lease: false, by });
                continue;
            }
            let want = match rng.u8(..20) {
                0..=9 => Want::Ids(1),
                10..=14 => Want::Ids(rng.u64(2..=30)),
                15..=18 => Want::Lease(rng.u64(1..=15)),
                _ => Want::Left,
            };
            let patience = if rng.u8(..10) == 0 { Duration::ZERO } else { Duration::from_millis(4) };
            told.note(by, tag, handle.claim_within(tag, want, patience));
        }
        told
    }

    /// When nothing fails any more, every tag serves again.
    fn recover(&self, life: &Life, mut handle: Handle, by: Claimer) -> Told {
        life.calm.store(true, Relaxed);
        let mut told = Told::default();
        let deadline = Instant::now() + PATIENCE;
        for tag in self.plan.tags() {
            loop {
                if self.plan.forgets {
                    self.table.mend();
                }
                let claimed = handle.claim_within(tag, Want::Ids(1), Duration::from_millis(50));
                let report = format!("{claimed:?}");
                // A wrong reply looks like a store that forgets, and is for the operator to judge.
                if matches!(claimed, Err(WaitError::Failed(AllocError::Fault(TagFault::Regression { .. })))) {
                    self.table.mend();
                }
                // A crash may have been under way when faults ended.
                if told.note(by, tag, claimed) || life.is_dead() {
                    break;
                }
                assert!(Instant::now() < deadline, "{by:?}: no ID of {tag:?} though nothing fails: {report}");
                // An unknown tag is known again after a listing, of which nobody is told.
                thread::sleep(Duration::from_millis(1));
            }
        }
        told
    }
}

// ---- the history ----

struct History {
    /// The table lost commits, and stayed where it is.
    forgets: bool,
    lives: Vec<(Arc<Life>, Told)>,
}

/// What was checked, and what was endured.
#[derive(Default)]
struct Summary {
    seeds: u64,
    ids: u64,
    outcomes: Outcomes,
    injected: BTreeMap<Fault, u64>,
}

impl History {
    fn check(&self) -> Result<Summary, String> {
        let mut summary = Summary { seeds: 1, ..Summary::default() };
        for (life, told) in &self.lives {
            told.taken.iter().try_for_each(|taken| is_granted(taken, &lock(&life.grants)))?;
            ascend(&told.taken)?;
            summary.ids += told.taken.iter().map(|taken| taken.ids.len()).sum::<u64>();
            summary.outcomes += told.outcomes;
            lock(&life.injected).iter().for_each(|(fault, times)| {
                *summary.injected.entry(*fault).or_default() += times;
            });
        }
        let all = || self.lives.iter().flat_map(|(_, told)| &told.taken);
        if self.forgets {
            let servers = all().map(|taken| taken.by.server).max().map_or(0, |last| last + 1);
            (0..servers).try_for_each(|server| differ(all().filter(|taken| taken.by.server == server)))?;
        } else {
            differ(all())?;
        }
        Ok(summary)
    }
}

/// IDs are above 0, and from ranges that the store acknowledged to this life of this server: several, that adjoin, may
/// have served one lease.
fn is_granted(taken: &Taken, grants: &[(String, IdRange)]) -> Result<(), String> {
    let mut of_tag: Vec<_> =
        grants.iter().filter(|(tag, _)| tag == taken.tag).map(|(_, range)| *range).collect();
    of_tag.sort_unstable_by_key(|range| range.start);
    let mut granted_to = taken.ids.start;
    for range in of_tag.into_iter().filter(|range| range.end > taken.ids.start) {
        if range.start <= granted_to {
            granted_to = granted_to.max(range.end);
        }
    }
    let is_id = taken.ids.start >= 1 && !taken.ids.is_empty();
    (is_id && granted_to >= taken.ids.end).then_some(()).ok_or_else(|| format!("never granted: {taken:?}"))
}

/// What one thread claims of one tag ascends, leases aside.
fn ascend(taken: &[Taken]) -> Result<(), String> {
    let mut last: HashMap<(Claimer, &str), IdRange> = HashMap::new();
    for next in taken.iter().filter(|taken| !taken.lease) {
        let before = last.insert((next.by, next.tag), next.ids);
        if let Some(before) = before.filter(|before| before.end > next.ids.start) {
            return Err(format!("after {before:?} came {next:?}"));
        }
    }
    Ok(())
}

fn differ<'a>(taken: impl Iterator<Item = &'a Taken>) -> Result<(), String> {
    let mut sorted: Vec<_> = taken.collect();
    sorted.sort_by_key(|taken| (taken.tag, taken.ids.start));
    let twice =
        sorted.windows(2).find(|pair| pair[0].tag == pair[1].tag && pair[0].ids.end > pair[1].ids.start);
    twice.map_or(Ok(()), |pair| Err(format!("handed out twice: {:?} and {:?}", pair[0], pair[1])))
}

// ---- the runs ----

impl Summary {
    fn add(&mut self, more: Summary) {
        self.seeds += more.seeds;
        self.ids += more.ids;
        self.outcomes += more.outcomes;
        more.injected
            .into_iter()
            .for_each(|(fault, times)| *self.injected.entry(fault).or_default() += times);
    }
}

/// Which seeds to run.
struct Runs {
    next: AtomicU64,
    count: u64,
    until: Option<Instant>,
    only: Option<u64>,
}

impl Runs {
    fn from_environment() -> Runs {
        let number = |name| env::var(name).ok().map(|text| text.parse().expect("a number"));
        let (only, count) = (number("IDALLOC_SIM_SEED"), number("IDALLOC_SIM_SEEDS"));
        let until = (only.is_none() && count.is_none()).then(|| Instant::now() + TIME_LIMIT);
        let count = count.or(only.map(|_| REPLAYS)).unwrap_or(ENDLESS);
        Runs { next: AtomicU64::new(0), count, until, only }
    }

    fn next(&self) -> Option<u64> {
        let run = self.next.fetch_add(1, Relaxed);
        let due = run < self.count && self.until.is_none_or(|until| Instant::now() < until);
        due.then(|| self.only.unwrap_or(run))
    }

    /// No more after this.
    fn end(&self) {
        self.next.store(self.count, Relaxed);
    }
}

fn simulate(seed: u64) -> Result<Summary, String> {
    let simulation = || World::of(seed).run().check();
    catch_unwind(AssertUnwindSafe(simulation))
        .unwrap_or_else(|_| Err("it panicked, as said above".to_owned()))
}

fn run_some(runs: &Runs) -> Summary {
    let mut summary = Summary::default();
    while let Some(seed) = runs.next() {
        match simulate(seed) {
            Ok(more) => summary.add(more),
            Err(why) => {
                runs.end();
                panic!(
                    "seed {seed}: {why}\n{:?}\nreplay: IDALLOC_SIM_SEED={seed} cargo test --test simulation",
                    Plan::of(seed)
                );
            }
        }
    }
    summary
}

#[test]
fn no_id_comes_twice_whatever_fails() {
    let runs = Runs::from_environment();
    let mut summary = Summary::default();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(|| run_some(&runs))).collect();
        threads.into_iter().for_each(|thread| summary.add(thread.join().expect("no seed fails")));
    });
    let Summary { seeds, ids, outcomes, injected } = summary;
    println!("{seeds} seeds, {ids} IDs, claims {outcomes:?}, faults {injected:?}");
    // A simulation in which nothing happens proves nothing.
    if seeds >= 200 && runs.only.is_none() {
        assert_eq!(injected.len(), Stale as usize + 1, "every kind of fault: {injected:?}");
        assert!(ids > 10 * seeds, "{ids} IDs in {seeds} seeds");
    }
}

// ---- what it found ----

fn start(table: &Arc<Table>, watermarks: Watermarks) -> Allocator {
    start_as(0, table, watermarks, &Arc::new(Readers::new(1)))
}

/// The server of this number among those that read the table.
fn start_as(server: u64, table: &Arc<Table>, watermarks: Watermarks, readers: &Arc<Readers>) -> Allocator {
    let plan = Arc::new(Plan { faults_percent: 0, ..Plan::of(0) });
    let life = Arc::new(Life::new(plan.clone(), table.clone(), None, readers.clone(), server, true));
    let open: StoreFactory = Arc::new(move || Box::new(Session::new(life.clone(), Rng::with_seed(0))));
    Allocator::start(plan.config(), watermarks, &open).expect("it starts")
}

/// Waits until so many IDs of the first tag are in memory.
fn await_left(server: &Allocator, ids: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let claimed = server.handle().claim_within("a", Want::Left, PATIENCE);
        match claimed {
            Ok(Granted::Left(left)) if left >= ids => return,
            claimed => assert!(Instant::now() < deadline, "in vain: {ids} IDs in memory, but {claimed:?}"),
        }
        thread::yield_now();
    }
}

fn take(server: &Allocator, count: u64) -> Ids {
    match server.handle().claim_within("a", Want::Ids(count), PATIENCE) {
        Ok(Granted::Ids(ids)) => ids,
        claimed => panic!("no IDs: {claimed:?}"),
    }
}

#[test]
fn a_server_that_handed_nothing_out_is_not_fenced_by_its_watermark_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let table = Table::new([("a", 10)]);
    let watermarks = || idalloc::store::watermark::open(&dir.path().join("w.db"), "t").expect("the file");
    let idle = start(&table, watermarks());
    await_left(&idle, 19);
    idle.close(PATIENCE);
    assert_eq!(table.list()[0].max_id, 0, "all is given back");
    assert_eq!(take(&start(&table, watermarks()), 1)[..], [IdRange { start: 1, end: 2 }]);
}

#[test]
fn servers_that_end_one_after_the_other_are_not_fenced_by_their_watermarks() {
    let dir = tempfile::tempdir().expect("a directory");
    let table = Table::new([("a", 10)]);
    let server =
        |file| start(&table, idalloc::store::watermark::open(&dir.path().join(file), "t").expect("the file"));
    let first = server("first.db");
    await_left(&first, 19);
    let second = server("second.db");
    await_left(&second, 20);
    // What the first holds now is newer than all that the second holds, and both give back all of it.
    take(&first, 19);
    await_left(&first, 20);
    first.close(PATIENCE);
    second.close(PATIENCE);
    assert_eq!(table.list()[0].max_id, 20, "all is given back");
    take(&server("first.db"), 1);
    take(&server("second.db"), 1);
}

/// A row that a listing misses and the next one finds is another tag of the same name, while the first may have a
/// reservation under way.
#[test]
fn a_watermark_does_not_fall_when_two_ranges_of_one_name_come_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let watermarks = idalloc::store::watermark::open(&dir.path().join("w.db"), "t").expect("the file");
    for round in 0..200 {
        let (lower, upper) = (IdRange { start: 20 * round, end: 20 * round + 10 }, 20 * round + 20);
        thread::scope(|scope| {
            scope.spawn(|| watermarks.advance("a", lower));
            let advanced = watermarks.advance("a", IdRange { start: lower.end, end: upper });
            advanced.expect("nothing above it was granted");
        });
        assert_eq!(
            watermarks.get("a"),
            Some(upper),
            "in round {round}: what lies above may be handed out again"
        );
    }
}

/// After a regression nothing of what is in memory is handed out, and that holds for a lease whose caller is gone too.
#[test]
fn a_lease_that_was_not_taken_is_not_handed_out_after_a_regression() {
    let tag = Tag::new("a", 10, Policy::default(), Instant::now());
    tag.complete(Job::Extend(10), IdRange { start: 0, end: 10 });
    let mut waiter = None;
    let parked = tag.park(Need::Lease(20), Waker::noop(), &mut waiter, Instant::now());
    assert!(matches!(parked, Parked::Waiting { .. }), "{parked:?}");
    let waiter = waiter.expect("it waits");
    let lease = IdRange { start: 10, end: 30 };
    assert_eq!(tag.complete(Job::Lease(waiter, 20), lease), None);
    let mut discarded = tag.refuse(TagFault::Regression { granted: 30 }).discarded;
    discarded.sort_unstable_by_key(|Discarded(range)| range.start);
    // The lease was cut from the lowest, and the chain went on with the rest.
    let ranges = [(1, 21), (21, 30)].map(|(start, end)| Discarded(IdRange { start, end }));
    assert_eq!(discarded, ranges);
    assert_eq!((tag.take_lease(waiter), tag.unpark(waiter), tag.left()), (None, None, Some(0)));
}

/// A session whose replies are late by one, once it is told to be: as after an acknowledgement that came twice.
struct Late {
    table: Arc<Table>,
    late: Arc<AtomicBool>,
    last: Option<i64>,
    this_session_is_late: bool,
}

impl SegmentStore for Late {
    fn check(&mut self) -> Result<StoreReport, StoreError> {
        Ok(StoreReport::default())
    }

    fn list_tags(&mut self, _limit: usize) -> Result<Rows<TagRow>, StoreError> {
        Ok(self.table.list().into())
    }

    fn forget_session(&mut self) {
        self.this_session_is_late = false;
    }

    fn reserve_above(&mut self, tag: &str, amount: i64, floor: Floor) -> Result<i64, StoreError> {
        let end = self.table.reserve_above(tag, amount, floor)?;
        let before = self.last.replace(end);
        self.this_session_is_late |= before.is_some() && self.late.swap(false, Relaxed);
        Ok(before.filter(|_| self.this_session_is_late).unwrap_or(end))
    }

    fn give_back(&mut self, rests: &[Rest<'_>]) -> Result<Vec<bool>, StoreError> {
        Ok(self.table.give_back(rests))
    }
}

#[test]
fn a_reply_that_comes_twice_costs_a_gap_and_neither_an_id_nor_the_tag() {
    let table = Table::new([("a", 10)]);
    let late = Arc::new(AtomicBool::new(false));
    let open: StoreFactory = {
        let (table, late) = (table.clone(), late.clone());
        Arc::new(move || {
            let (table, late) = (table.clone(), late.clone());
            Box::new(Late { table, late, last: None, this_session_is_late: false })
        })
    };
    let config = AllocatorConfig { refill_threads: 1, ..Plan::of(0).config() };
    let server = Allocator::start(config, Watermarks::default(), &open).expect("it starts");
    let mut ids: Vec<i64> = (0..19).map(|_| take(&server, 1)[0].start).collect();
    late.store(true, Relaxed);
    ids.extend((0..100).map(|_| take(&server, 1)[0].start));
    assert!(!late.load(Relaxed), "it came twice");
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    assert_eq!(server.monitor().reservations().fences, 0);
    server.close(PATIENCE);
}

/// What is in memory may have been granted to others since the store forgot, though OnRegression is "advance".
#[test]
fn nothing_in_memory_is_handed_out_once_the_store_is_seen_to_have_gone_back() {
    let table = Table::new([("a", 100)]);
    let server = |on_regression| {
        let plan = Arc::new(Plan { faults_percent: 0, on_regression, ..Plan::of(0) });
        let life = Arc::new(Life::new(plan.clone(), table.clone(), None, Arc::new(Readers::new(1)), 0, true));
        let open: StoreFactory = Arc::new(move || Box::new(Session::new(life.clone(), Rng::with_seed(0))));
        Allocator::start(plan.config(), Watermarks::default(), &open).expect("it starts")
    };
    let first = server(OnRegression::Advance);
    let mut taken: Vec<IdRange> = take(&first, 1).to_vec();
    await_left(&first, 198);
    let lease = first.handle().claim_within("a", Want::Lease(1000), PATIENCE);
    let Ok(Granted::Lease(_)) = lease else { panic!("no lease: {lease:?}") };
    // What was reserved for the lease stands in for the IDs that it was cut from, and one more segment stands by.
    await_left(&first, 298);
    let granted = table.list()[0].max_id;
    // Only the first of the commits is left: [0, 100).
    table.lose_commits("a", |_| 1);
    let second = server(OnRegression::Refuse);
    let of_second = take(&second, 150);
    // The last of the head segment: the refill finds out.
    taken.extend(take(&first, 198));
    let deadline = Instant::now() + PATIENCE;
    while table.list()[0].max_id <= granted {
        assert!(Instant::now() < deadline, "it does not find out");
        thread::yield_now();
    }
    taken.extend(take(&first, 50));
    for ids in &of_second {
        assert!(
            taken.iter().all(|other| ids.end <= other.start || other.end <= ids.start),
            "{ids:?} {taken:?}"
        );
    }
}

/// Another database server takes the table over, and lacks what the one server was granted. The other was granted
/// nothing; it has only read the row, before the loss.
#[test]
fn a_server_that_was_granted_nothing_hands_out_nothing_of_what_was_lost() {
    let table = Table::new([("a", 100)]);
    let (busy, quiet) = (start(&table, Watermarks::default()), start(&table, Watermarks::default()));
    await_left(&busy, 198);
    let mut taken: Vec<IdRange> = take(&busy, 5000).to_vec();
    let lost = table.list()[0].max_id;
    table.fail_over("a", |_, _| 3);
    assert!(table.list()[0].max_id < lost, "the new server lacks what was granted");
    taken.extend(take(&quiet, 1000));
    taken.extend(take(&busy, 10_000));
    taken.sort_by_key(|ids| ids.start);
    assert!(taken.windows(2).all(|pair| pair[0].end <= pair[1].start), "{taken:?}");
    for server in [&busy, &quiet] {
        let figures = server.monitor().reservations();
        assert_eq!((figures.fences, figures.server_changes, figures.failover_raises), (0, 1, 1));
    }
}

/// A second failover loses what the first had the busy server raise the row to. The quiet one has read that.
#[test]
fn a_raise_that_is_lost_in_turn_is_made_up_for_by_a_server_that_has_read_it() {
    let table = Table::new([("a", 100)]);
    let readers = Arc::new(Readers::new(2));
    let [busy, quiet] = [0, 1].map(|server| start_as(server, &table, Watermarks::default(), &readers));
    let mut taken: Vec<IdRange> = take(&busy, 5000).to_vec();
    table.fail_over("a", |_, _| 3);
    taken.extend(take(&busy, 10_000));
    let raised = table.list()[0].max_id;
    let margin = 100 * FAILOVER_STEPS;
    assert!(raised > margin && !readers.make_up_for("a", 0, raised + margin, margin));
    let deadline = Instant::now() + PATIENCE;
    while !readers.make_up_for("a", 0, raised, margin) {
        assert!(Instant::now() < deadline, "the quiet server does not read the row");
        thread::yield_now();
    }
    table.fail_over("a", |_, _| 3);
    taken.extend(take(&quiet, 10_000));
    taken.extend(take(&busy, 10_000));
    taken.sort_by_key(|ids| ids.start);
    assert!(taken.windows(2).all(|pair| pair[0].end <= pair[1].start), "{taken:?}");
}

/// Who closed the tag has counted what was handed out of it, and lowers the watermark to there.
#[test]
fn a_lease_that_comes_after_the_close_is_not_handed_out() {
    let tag = Tag::new("a", 10, Policy::default(), Instant::now());
    tag.complete(Job::Extend(10), IdRange { start: 0, end: 10 });
    let mut waiter = None;
    tag.park(Need::Lease(20), Waker::noop(), &mut waiter, Instant::now());
    let waiter = waiter.expect("it waits");
    tag.close();
    let late = IdRange { start: 10, end: 30 };
    assert_eq!(tag.complete(Job::Lease(waiter, 20), late), Some(Discarded(late)));
    assert_eq!(tag.take_lease(waiter), None);
}

mod the_checker {
    use super::*;

    fn taken(server: u64, start: i64, end: i64) -> Taken {
        let by = Claimer { server, life: 0, thread: 0 };
        Taken { tag: "a", ids: IdRange { start, end }, lease: false, by }
    }

    fn said(result: Result<(), String>) -> String {
        result.expect_err("a violation")
    }

    #[test]
    fn sees_an_id_that_came_twice() {
        let (first, second, other) = (taken(0, 1, 5), taken(1, 4, 6), taken(1, 5, 6));
        assert!(said(differ([&first, &second].into_iter())).contains("twice"));
        assert_eq!(differ([&first, &other].into_iter()), Ok(()));
    }

    #[test]
    fn sees_an_id_that_the_store_did_not_grant() {
        let grants = [
            ("a".to_owned(), IdRange { start: 0, end: 10 }),
            ("b".to_owned(), IdRange { start: 10, end: 20 }),
        ];
        assert_eq!(is_granted(&taken(0, 1, 10), &grants), Ok(()));
        let more = [grants.to_vec(), vec![("a".to_owned(), IdRange { start: 10, end: 20 })]].concat();
        assert_eq!(is_granted(&taken(0, 9, 11), &more), Ok(()), "of two that adjoin");
        for (start, end) in [(0, 1), (9, 11), (10, 11), (5, 5)] {
            assert!(said(is_granted(&taken(0, start, end), &grants)).contains("never granted"));
        }
    }

    #[test]
    fn sees_ids_that_do_not_ascend() {
        let (first, second) = (taken(0, 5, 7), taken(0, 3, 4));
        assert!(said(ascend(&[first.clone(), second.clone()])).contains("after"));
        assert_eq!(ascend(&[first, Taken { lease: true, ..second }]), Ok(()));
    }
}
