//! Never a stall: a store that is slow, away or stuck for one tag delays nobody whose IDs are in memory, or could be.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use idalloc::alloc::WaitError;
use idalloc::alloc::memory::Table;
use idalloc::alloc::sizing::Policy;
use idalloc::alloc::watermark::Watermarks;
use idalloc::alloc::{
    AllocError, Allocator, AllocatorConfig, Granted, Handle, Health, Outcome, Pending, StoreFactory, Want,
};
use idalloc::store::{Floor, Rest, Rows, SegmentStore, StoreError, StoreReport, TagRow};
use idalloc_testing::mariadb::MariaDb;
use idalloc_testing::server::{PATIENCE, Server, Setup};
use idalloc_testing::waker::unparking;

/// A tag whose refill is not held up by anything gets it within this, on a machine with other things to do.
const PROMPT: Duration = Duration::from_millis(500);
/// How soon serving resumes when the store is back.
const RESUMED: Duration = Duration::from_secs(1);

/// Tests that claim at a pace go side by side, and those that keep the machine busy alone.
static MACHINE: RwLock<()> = RwLock::new(());

fn paced() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

// ---- a store whose reservations do as they are told ----

/// What happens to a reservation for this tag before it is made, or to a [`LISTING`].
type Obstacle = dyn Fn(&str) -> Result<(), StoreError> + Send + Sync;

struct Site {
    table: Arc<Table>,
    /// The amounts reserved so far, in order.
    amounts: Arc<Mutex<Vec<i64>>>,
    allocator: Allocator,
}

struct Session {
    table: Arc<Table>,
    amounts: Arc<Mutex<Vec<i64>>>,
    obstacle: Arc<Obstacle>,
}

impl SegmentStore for Session {
    fn check(&mut self) -> Result<StoreReport, StoreError> {
        Ok(StoreReport::default())
    }

    fn list_tags(&mut self, _limit: usize) -> Result<Rows<TagRow>, StoreError> {
        (self.obstacle)(LISTING)?;
        Ok(self.table.list().into())
    }

    fn reserve_above(&mut self, tag: &str, amount: i64, floor: Floor) -> Result<i64, StoreError> {
        (self.obstacle)(tag)?;
        lock(&self.amounts).push(amount);
        self.table.reserve_above(tag, amount, floor)
    }

    fn give_back(&mut self, rests: &[Rest<'_>]) -> Result<Vec<bool>, StoreError> {
        Ok(self.table.give_back(rests))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No tag's name.
const LISTING: &str = "";

const POLICY: Policy = Policy { segment_seconds: 10.0, step_factor_max: 1000 };

impl Site {
    fn new(
        table: Arc<Table>,
        policy: Policy,
        obstacle: impl Fn(&str) -> Result<(), StoreError> + Send + Sync + 'static,
    ) -> Site {
        let config = AllocatorConfig {
            refill_threads: 2,
            preload_tags: 1,
            tag_reload: Duration::from_secs(3600),
            policy: policy.into(),
            failover_steps: None,
            ..AllocatorConfig::default()
        };
        let (amounts, obstacle): (Arc<Mutex<Vec<i64>>>, Arc<Obstacle>) = (Arc::default(), Arc::new(obstacle));
        let open: StoreFactory = {
            let (table, amounts) = (table.clone(), amounts.clone());
            Arc::new(move || {
                let (table, amounts, obstacle) = (table.clone(), amounts.clone(), obstacle.clone());
                Box::new(Session { table, amounts, obstacle })
            })
        };
        let allocator = Allocator::start(config, Watermarks::default(), &open).expect("it starts");
        Site { table, amounts, allocator }
    }

    fn amounts(&self) -> Vec<i64> {
        lock(&self.amounts).clone()
    }

    fn handle(&self) -> Handle {
        self.allocator.handle()
    }

    fn close(self) {
        self.allocator.close(PATIENCE);
    }
}

fn await_true(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn left(handle: &mut Handle, tag: &str) -> u64 {
    match handle.claim_within(tag, Want::Left, PATIENCE) {
        Ok(Granted::Left(left)) => left,
        claimed => panic!("{tag}: {claimed:?}"),
    }
}

// ---- an open loop: claims come at their rate, whatever became of those before ----

/// The most that comes at once.
const BURST: Duration = Duration::from_millis(100);

struct OpenLoop {
    handle: Handle,
    tag: &'static str,
    waiting: VecDeque<(Instant, Pending)>,
    /// Claims that had to wait.
    waited: u64,
    longest_wait: Duration,
    granted: u64,
}

impl OpenLoop {
    fn new(site: &Site, tag: &'static str) -> OpenLoop {
        let (waiting, longest_wait) = (VecDeque::new(), Duration::ZERO);
        OpenLoop { handle: site.handle(), tag, waiting, waited: 0, longest_wait, granted: 0 }
    }

    /// Claims at `rate_per_s` for so long. A claim that fails, fails the test.
    fn run(&mut self, rate_per_s: u64, duration: Duration) -> &mut OpenLoop {
        self.run_while(rate_per_s, |elapsed| elapsed < duration)
    }

    fn run_while(&mut self, rate_per_s: u64, mut go_on: impl FnMut(Duration) -> bool) -> &mut OpenLoop {
        let (began, mut last) = (Instant::now(), Instant::now());
        let mut due = 0.0;
        while go_on(began.elapsed()) {
            // What was due while this thread was kept from running is no burst that anybody asked for.
            due += last.elapsed().min(BURST).as_secs_f64() * rate_per_s as f64;
            last = Instant::now();
            (0..due as u64).for_each(|_| self.begin());
            due = due.fract();
            self.poll();
            // A pace, and no wait for something.
            thread::park_timeout(Duration::from_millis(1));
        }
        self
    }

    fn begin(&mut self) {
        if self.handle.next_id(self.tag).is_some() {
            self.granted += 1;
            return;
        }
        match self.handle.claim(self.tag, Want::Ids(1)) {
            Outcome::Granted(_) => self.granted += 1,
            Outcome::Pending(pending) => self.waiting.push_back((Instant::now(), pending)),
        }
    }

    fn poll(&mut self) {
        let waker = unparking();
        let mut cx = Context::from_waker(&waker);
        for (since, mut pending) in std::mem::take(&mut self.waiting) {
            match self.handle.poll(&mut pending, &mut cx) {
                Poll::Ready(granted) => {
                    granted.expect("no claim fails");
                    self.granted += 1;
                    // The first claim of a worker looks its tag up, which is no wait.
                    self.waited += u64::from(self.granted > 1);
                    self.longest_wait = self.longest_wait.max(since.elapsed());
                }
                Poll::Pending => self.waiting.push_back((since, pending)),
            }
        }
    }

    /// Begins to count anew; nobody must be waiting.
    fn warmed_up(&mut self) -> &mut OpenLoop {
        assert_eq!(self.waiting.len(), 0, "claims wait still");
        (self.waited, self.granted, self.longest_wait) = (0, 1, Duration::ZERO);
        self
    }

    fn assert_nobody_waited(&self, what: &str) {
        let waiting = self.waited + self.waiting.len() as u64;
        assert_eq!(waiting, 0, "{what}: of {} claims, for up to {:?}", self.granted, self.longest_wait);
    }
}

fn a_slow_store_is_asked_in_time(segment_seconds: f64) {
    let _machine = paced();
    let site = Site::new(Table::new([("t", 1000)]), Policy { segment_seconds, ..POLICY }, |_| {
        thread::sleep(Duration::from_millis(200));
        Ok(())
    });
    let mut load = OpenLoop::new(&site, "t");
    load.run(50_000, Duration::from_secs(2)).warmed_up().run(50_000, Duration::from_secs(3));
    load.assert_nobody_waited(&format!("{:?}", site.amounts()));
    assert!(load.granted >= 100_000, "{} claims in 3 s", load.granted);
    site.close();
}

#[test]
fn a_slow_store_makes_nobody_wait_once_the_rate_is_known() {
    a_slow_store_is_asked_in_time(10.0);
}

/// So that segments end every half second, and the store is asked all the time.
#[test]
fn a_slow_store_makes_nobody_wait_with_short_segments() {
    a_slow_store_is_asked_in_time(0.5);
}

// ---- a store that goes away ----

/// A switch that says whether the store answers, and how often it was asked in vain.
#[derive(Default)]
struct Switch {
    away: AtomicBool,
    in_vain: AtomicU64,
    /// Who asks in vain gets no answer before this is over, as from a host that has vanished.
    silence: Duration,
}

impl Switch {
    fn pass(&self) -> Result<(), StoreError> {
        if !self.away.load(Relaxed) {
            return Ok(());
        }
        self.in_vain.fetch_add(1, Relaxed);
        thread::sleep(self.silence);
        Err(StoreError::Unavailable("switched off".to_owned()))
    }
}

#[test]
fn a_store_that_refuses_for_less_than_is_in_hand_costs_nothing() {
    a_store_is_away_for_ten_seconds(Duration::ZERO);
}

#[test]
fn a_store_that_is_silent_for_less_than_is_in_hand_costs_nothing() {
    a_store_is_away_for_ten_seconds(Duration::from_secs(1));
}

fn a_store_is_away_for_ten_seconds(silence: Duration) {
    let _machine = paced();
    const RATE: u64 = 5000;
    const AWAY: Duration = Duration::from_secs(10);
    // Both segments last for so long: of the head the trigger leaves nothing.
    let policy = Policy { segment_seconds: 12.0, ..POLICY };
    // From the moment on at which it is asked for the first segment that nobody has waited for, it is away: then there
    // is the least in hand.
    let (switch, goes_away) = (Switch { silence, ..Switch::default() }, Arc::new(AtomicBool::new(false)));
    let switch = Arc::new(switch);
    let site = Site::new(Table::new([("t", 1000)]), policy, {
        let (switch, goes_away) = (switch.clone(), goes_away.clone());
        move |_| {
            let away = goes_away.load(Relaxed);
            switch.away.fetch_or(away, Relaxed);
            switch.pass()
        }
    });
    let mut load = OpenLoop::new(&site, "t");
    let full = (RATE as f64 * policy.segment_seconds * 0.9) as i64;
    let deadline = Instant::now() + 3 * PATIENCE;
    load.run_while(RATE, |_| {
        assert!(Instant::now() < deadline, "the rate is not known: {:?}", site.amounts());
        // The head and what is behind it are both as large as they get.
        !site.amounts().windows(2).any(|two| two.iter().all(|amount| *amount >= full))
    });
    load.warmed_up();
    goes_away.store(true, Relaxed);
    load.run_while(RATE, |_| {
        assert!(Instant::now() < deadline, "no reservation is due: {:?}", site.amounts());
        !switch.away.load(Relaxed)
    });
    load.run(RATE, AWAY);
    assert!(switch.in_vain.load(Relaxed) > 5, "it was asked again and again");
    goes_away.store(false, Relaxed);
    switch.away.store(false, Relaxed);
    load.run(RATE, Duration::from_secs(2));
    load.assert_nobody_waited("10 s without a store");
    site.close();
}

#[test]
fn serving_resumes_within_a_second_of_the_stores_return() {
    let _machine = paced();
    let names: Vec<String> = (0..100).map(|index| format!("t{index}")).collect();
    let table = Table::new(names.iter().map(|name| (name.as_str(), 10)));
    let switch = Arc::new(Switch::default());
    let site = Site::new(table, POLICY, {
        let switch = switch.clone();
        move |_| switch.pass()
    });
    let mut handle = site.handle();
    await_true("it is loaded", || handle.health() == Health::Serving);
    switch.away.store(true, Relaxed);
    for name in &names {
        while handle.claim_within(name, Want::Ids(1), Duration::ZERO).is_ok() {}
    }
    // So that pauses are as long as they get.
    let before = switch.in_vain.load(Relaxed);
    await_true("failed reservations", || switch.in_vain.load(Relaxed) >= before + 20);
    thread::scope(|scope| {
        let mut handle = site.handle();
        let waiting = scope.spawn(move || {
            let claimed = names.iter().map(|name| (name, handle.claim(name, Want::Ids(1))));
            let claimed: Vec<_> = claimed.collect();
            await_all(&mut handle, claimed.into_iter().map(|(_, outcome)| outcome).collect())
        });
        let back = Instant::now();
        switch.away.store(false, Relaxed);
        let all_granted = waiting.join().expect("they wait");
        assert!(all_granted - back < RESUMED, "{:?}", all_granted - back);
    });
    site.close();
}

/// When the last of these was granted.
fn await_all(handle: &mut Handle, outcomes: Vec<Outcome>) -> Instant {
    let waker = unparking();
    let mut cx = Context::from_waker(&waker);
    let deadline = Instant::now() + PATIENCE;
    for outcome in outcomes {
        let Outcome::Pending(mut pending) = outcome else { continue };
        while handle.poll(&mut pending, &mut cx).is_pending() {
            assert!(Instant::now() < deadline, "a claim waits still");
            thread::park_timeout(deadline - Instant::now());
        }
    }
    Instant::now()
}

// ---- one tag that hangs ----

/// Holds reservations of some tags up until it is opened.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    held_up: usize,
    open: bool,
}

impl Gate {
    fn pass(&self) {
        let mut state = lock(&self.state);
        state.held_up += 1;
        self.changed.notify_all();
        while !state.open {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn await_held_up(&self, count: usize) {
        let state = lock(&self.state);
        let waited = self.changed.wait_timeout_while(state, PATIENCE, |state| state.held_up < count);
        assert!(!waited.unwrap_or_else(PoisonError::into_inner).1.timed_out(), "{count} are held up");
    }

    fn open(&self) {
        lock(&self.state).open = true;
        self.changed.notify_all();
    }
}

/// The tags that hang; one for each refill thread.
const HUNG: [&str; 2] = ["~0", "~1"];

/// 10,000 tags, and those that hang.
struct Crowd {
    site: Site,
    gate: Arc<Gate>,
    names: Vec<String>,
}

impl Crowd {
    fn new() -> Crowd {
        let names: Vec<String> = (0..10_000).map(|index| format!("tag-{index:05}")).collect();
        let hung = HUNG.map(|name| (name, 2));
        let table = Table::new(names.iter().map(|name| (name.as_str(), 2)).chain(hung));
        let gate = Arc::new(Gate::default());
        let site = Site::new(table, POLICY, {
            let gate = gate.clone();
            move |tag| {
                if HUNG.contains(&tag) {
                    gate.pass();
                }
                Ok(())
            }
        });
        Crowd { site, gate, names }
    }

    /// Begins to wait for these, which hang.
    fn hang(&self, handle: &mut Handle, tags: &[&str]) -> Vec<Outcome> {
        tags.iter()
            .map(|tag| {
                let held = handle.claim_within(tag, Want::Ids(1), Duration::ZERO);
                assert!(held.is_err(), "{tag} hangs: {held:?}");
                handle.claim(tag, Want::Ids(1))
            })
            .collect()
    }

    /// Claims from all other tags in turn, more than they hold; the longest wait.
    fn claim_all(&self, handle: &mut Handle, patience: Duration) -> Duration {
        let timed = |name: &String| {
            let began = Instant::now();
            match handle.claim_within(name, Want::Ids(1), patience) {
                Ok(_) => began.elapsed(),
                claimed => panic!("{name}: {claimed:?} after {:?}", began.elapsed()),
            }
        };
        self.names.iter().flat_map(|name| [name; 6]).map(timed).max().expect("there are tags")
    }
}

#[test]
fn a_reservation_that_hangs_delays_no_other_tag() {
    let _machine = alone();
    let crowd = Crowd::new();
    let mut handle = crowd.site.handle();
    let hung = crowd.hang(&mut handle, &HUNG[..1]);
    crowd.gate.await_held_up(1);
    let longest = crowd.claim_all(&mut handle, PROMPT);
    println!("one hangs: the others waited for up to {longest:?}");
    crowd.gate.open();
    await_all(&mut handle, hung);
    crowd.site.close();
}

#[test]
fn hung_reservations_delay_nobody_whose_ids_are_in_memory() {
    let _machine = alone();
    let crowd = Crowd::new();
    let mut handle = crowd.site.handle();
    // Step 2: of the first range one is an ID, then there are two more in hand.
    crowd.names.iter().for_each(|name| {
        await_true("both segments", || left(&mut handle, name) == 3);
    });
    let hung = crowd.hang(&mut handle, &HUNG);
    crowd.gate.await_held_up(2);
    for name in crowd.names.iter().flat_map(|name| [name; 3]) {
        assert!(handle.next_id(name).is_some(), "{name}");
    }
    crowd.gate.open();
    await_all(&mut handle, hung);
    crowd.site.close();
}

/// What a waiting claim of "t" is told when `site` is closed, once `waits` says that it waits.
fn told_at_close(site: Site, waits: impl FnOnce()) -> Result<Granted, WaitError> {
    let mut handle = site.handle();
    let waiting = thread::spawn(move || handle.claim_within("t", Want::Ids(1), PATIENCE));
    waits();
    let asked = Instant::now();
    site.allocator.close(Duration::from_millis(10));
    let told = waiting.join().expect("it waits");
    assert!(asked.elapsed() < RESUMED, "told after {:?}", asked.elapsed());
    told
}

#[test]
fn a_close_is_heard_by_who_waits_for_ids() {
    let _machine = paced();
    let gate = Arc::new(Gate::default());
    let site = Site::new(Table::new([("t", 1)]), POLICY, {
        let gate = gate.clone();
        move |what| {
            if what != LISTING {
                gate.pass();
            }
            Ok(())
        }
    });
    let told = told_at_close(site, || gate.await_held_up(1));
    gate.open();
    assert!(matches!(told, Err(WaitError::Failed(AllocError::Closed))), "{told:?}");
}

#[test]
fn a_close_is_heard_by_who_waits_for_the_first_listing() {
    let _machine = paced();
    let switch = Arc::new(Switch::default());
    switch.away.store(true, Relaxed);
    let site = Site::new(Table::new([("t", 1)]), POLICY, {
        let switch = switch.clone();
        move |_| switch.pass()
    });
    // Longer than any pause between two listings, so that the claim waits for the next one.
    let told = told_at_close(site, || await_true("failed listings", || switch.in_vain.load(Relaxed) > 8));
    assert!(matches!(told, Err(WaitError::Failed(AllocError::Closed))), "{told:?}");
}

// ---- amounts ----

#[test]
fn amounts_follow_the_rate_up_and_down() {
    let _machine = paced();
    const STEP: i64 = 100;
    let policy = Policy { segment_seconds: 0.5, step_factor_max: 20 };
    let site = Site::new(Table::new([("t", STEP)]), policy, |_| Ok(()));
    let mut handle = site.handle();
    await_true("both segments", || left(&mut handle, "t") == 199);
    assert_eq!(site.amounts(), [STEP, STEP], "a quiet tag reserves exactly step, and holds two segments");

    let mut load = OpenLoop::new(&site, "t");
    load.run(2000, Duration::from_secs(3));
    let busy = *site.amounts().last().expect("reservations");
    assert!((600..20 * STEP).contains(&busy), "half a second of 2000/s: {:?}", site.amounts());
    load.run(400, Duration::from_secs(8));
    let slower = *site.amounts().last().expect("reservations");
    assert!((200..=500).contains(&slower), "half a second of 400/s: {:?}", site.amounts());

    let flooded = Instant::now() + Duration::from_secs(1);
    while Instant::now() < flooded {
        let claimed = handle.claim_within("t", Want::Ids(1), PATIENCE);
        assert!(claimed.is_ok(), "{claimed:?}");
    }
    let amounts = site.amounts();
    assert_eq!(amounts.last(), Some(&(20 * STEP)), "no more than the factor allows");
    let allowed = |amount: &i64| (STEP..=20 * STEP).contains(amount) && amount % STEP == 0;
    assert!(amounts.iter().all(allowed), "{amounts:?}");
    assert_eq!(site.table.list()[0].step, STEP);
    site.close();
}

// ---- the real program ----

/// A store that the program runs on and the test writes to.
enum Store {
    MariaDb(MariaDb),
    Sqlite(tempfile::TempDir),
}

impl Store {
    fn sqlite() -> Store {
        Store::Sqlite(tempfile::tempdir().expect("a directory"))
    }

    fn dsn(&self) -> String {
        match self {
            Store::MariaDb(database) => database.dsn(),
            Store::Sqlite(dir) => format!("sqlite:{}", dir.path().join("ids.db").display()),
        }
    }

    fn exec(&self, sql: &str) {
        match self {
            Store::MariaDb(database) => database.exec(sql),
            Store::Sqlite(dir) => self.file(dir).execute_batch(sql).expect(sql),
        }
    }

    fn file(&self, dir: &tempfile::TempDir) -> rusqlite::Connection {
        rusqlite::Connection::open(dir.path().join("ids.db")).expect("open the file")
    }

    /// `max_id` and `step` of test_business.
    fn row(&self) -> (i64, i64) {
        use mysql::prelude::Queryable;
        const SQL: &str = "SELECT max_id, step FROM segments WHERE app_tag = 'test_business'";
        match self {
            Store::MariaDb(database) => database.conn().query_first(SQL).expect("select").expect("a row"),
            Store::Sqlite(dir) => {
                self.file(dir).query_row(SQL, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("a row")
            }
        }
    }

    /// A server on the row as it is after `sql`; the first start makes the table.
    fn serve(&self, sql: &str) -> Server {
        if let Store::Sqlite(_) = self {
            drop(Setup::on(&self.dsn()).key("PreloadTags", 0).start());
        }
        self.exec(sql);
        Setup::on(&self.dsn()).start()
    }
}

const ALLOC: &str = "/alloc?app_tag=test_business";

fn the_last_ids_are_served_and_then_none(store: &Store) {
    let _machine = alone();
    const LEFT: i64 = 25;
    let first = i64::MAX - LEFT;
    let server = store
        .serve(&format!("UPDATE segments SET max_id = {first}, step = 10 WHERE app_tag = 'test_business'"));
    let mut client = server.connect();
    // A lease that is too large for what is left takes nothing of it.
    let lease = client.get("/segment?app_tag=test_business&count=1000000");
    assert_eq!(lease.status, 503, "{lease:?}");
    assert!(lease.body.contains("this lease asks for too many of the IDs left below 2^63"), "{lease:?}");
    let too_many = client.get(&format!("{ALLOC}&count={}", LEFT + 1));
    assert_eq!(too_many.status, 503, "{too_many:?}");
    for id in first..i64::MAX {
        let response = client.get(ALLOC);
        assert_eq!((response.status, response.id()), (200, id), "{response:?}");
    }
    for target in [ALLOC, "/alloc?app_tag=test_business&count=2", "/segment?app_tag=test_business&count=1"] {
        let asked = Instant::now();
        let response = client.get(target);
        assert_eq!(response.status, 503, "{response:?}");
        assert!(response.body.contains("all its IDs below 2^63 are handed out"), "{response:?}");
        assert!(asked.elapsed() < RESUMED, "it is no use waiting");
    }
    assert_eq!(store.row(), (i64::MAX, 10));
}

#[test]
fn the_last_ids_are_served_and_then_none_on_sqlite() {
    the_last_ids_are_served_and_then_none(&Store::sqlite());
}

#[test]
fn the_last_ids_are_served_and_then_none_on_mariadb() {
    the_last_ids_are_served_and_then_none(&Store::MariaDb(MariaDb::start()));
}

/// How long a reservation waits for a locked row before it is put off.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// How long a tag of step 1 waits for its IDs while so many rows are locked, and how often in vain, from the moment on at
/// which these are asked for.
fn waits_beside_locked_rows(count: usize) -> (Duration, usize) {
    let _machine = alone();
    use mysql::prelude::Queryable;
    // Without waits for the disk: they are not what is measured.
    let database = MariaDb::start_with(&["--innodb-flush-log-at-trx-commit=0"]);
    let locked: Vec<String> = (0..count).map(|index| format!("locked-{index}")).collect();
    let row = |tag: &String| {
        database.exec(&format!("INSERT INTO segments (app_tag, max_id, step) VALUES ('{tag}', 0, 1)"))
    };
    locked.iter().for_each(row);
    database.exec("UPDATE segments SET step = 1 WHERE app_tag = 'test_business'");
    let mut locker = database.conn();
    locker.query_drop("BEGIN").expect("begin");
    // By the key, one by one: a scan would lock the others as well.
    for tag in &locked {
        locker.query_drop(format!("UPDATE segments SET step = 2 WHERE app_tag = '{tag}'")).expect("lock");
    }
    let server = Setup::on(&database.dsn()).key("PreloadTags", 0).key("WatermarkPath", "").start();
    let mut client = server.connect();
    assert_eq!(server.await_status(ALLOC, 200).id(), 1);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for tag in &locked {
            let mut client = server.connect();
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    assert_eq!(client.get(&format!("/alloc?app_tag={tag}")).status, 503, "it is locked");
                }
            });
        }
        let (mut longest, mut refused) = (Duration::ZERO, 0);
        let until = Instant::now() + Duration::from_secs(6);
        while Instant::now() < until {
            let asked = Instant::now();
            refused += usize::from(client.get(ALLOC).status == 503);
            longest = longest.max(asked.elapsed());
        }
        stop.store(true, Relaxed);
        println!("{count} rows locked: another tag waited for up to {longest:?}, {refused} times in vain");
        (longest, refused)
    })
}

/// The first try of each row takes as long as any: that they are locked is not known before.
#[test]
fn locked_rows_delay_no_other_tag() {
    // Many more than there are refill threads.
    let (longest, refused) = waits_beside_locked_rows(20);
    assert!(longest < LOCK_WAIT / 2 && refused == 0, "{longest:?}, {refused} times in vain");
}

fn a_busy_tag_leaves_its_step_alone(store: &Store) {
    let _machine = alone();
    let server = store.serve("UPDATE segments SET step = 10 WHERE app_tag = 'test_business'");
    let mut client = server.connect();
    for _ in 0..5 {
        assert_eq!(client.get(&format!("{ALLOC}&count=1000")).ids().len(), 1000);
        let (max_id, step) = store.row();
        assert_eq!(step, 10);
        assert!(max_id % 10 == 0, "whole steps: {max_id}");
    }
}

#[test]
fn a_busy_tag_leaves_its_step_alone_on_sqlite() {
    a_busy_tag_leaves_its_step_alone(&Store::sqlite());
}

#[test]
fn a_busy_tag_leaves_its_step_alone_on_mariadb() {
    a_busy_tag_leaves_its_step_alone(&Store::MariaDb(MariaDb::start()));
}
