//! A database that loses acknowledged commits, again and again: no ID is handed out twice.
//!
//! Two ways to lose them: the primary dies and a replica that lagged is promoted; or a server that does not flush its log
//! is killed, and starts again on what it has. Three servers are on it: a busy one, a quiet one, and one that has had
//! nothing of the tag. Timings come from a seed, which is printed; IDALLOC_FAILOVER_SEED repeats it.
//! IDALLOC_FAILOVER_ROUNDS says how many losses each test has.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use idalloc_testing::consumer::Consumer;
use idalloc_testing::ledger::Ledger;
use idalloc_testing::mariadb::MariaDb;
use idalloc_testing::proxy::Proxy;
use idalloc_testing::replication::Pair;
use idalloc_testing::rounds::{from_env, rest};
use idalloc_testing::server::{Server, Setup};
use tempfile::TempDir;

const ROUNDS: u64 = 3;
const ENGINES: [&str; 3] = ["tokio", "may_minihttp", "tokio"];
const BUSY: usize = 0;
const QUIET: usize = 1;

/// Commits are lost of as long a time at most: what the guard promises to make up for.
const TAG_RELOAD: Duration = Duration::from_secs(2);
/// The longest time that the tag is in use before.
const WARM_UP_MAX_MS: u64 = 3000;
const STEPS: [i64; 3] = [10, 1000, 5000];
/// Between two requests of the busy client, and of the quiet one.
const BUSY_PAUSE_MAX_MS: u64 = 3;
const QUIET_PAUSE_MAX_MS: u64 = 200;
const BATCH_MAX: i64 = 100;
/// The busy client takes this part of a step at a time. So all that it takes within two listings is far below
/// FailoverSteps steps: a tag that takes more before anybody has seen it grow is what README leaves open.
const BATCHES_PER_STEP: i64 = 10;
/// Until an operator, or a program, has noticed that the database is gone.
const OUTAGE_MAX_MS: u64 = 500;

/// A database that can lose what it has acknowledged.
trait Forgetful: Sync {
    /// For the servers' configuration.
    fn dsn(&self) -> String;
    /// Where reservations go now.
    fn current(&self) -> &MariaDb;
    /// Everything so far will outlive the loss.
    fn save(&self);
    /// From now on what is acknowledged will be lost.
    fn begin_to_forget(&self);
    /// Dies, and comes back without it.
    fn fail(&self, rng: &mut Rng);
    /// Gets ready for the next loss.
    fn recover(&self);
}

/// A primary whose replica lags and becomes the primary.
struct Failover {
    pair: Pair,
    /// What stands for a virtual address. Without it, the DSN names both hosts.
    address: Option<Proxy>,
}

impl Failover {
    fn behind_one_address() -> Failover {
        let pair = Pair::start();
        let address = Some(Proxy::before(pair.primary().port(), "segments"));
        Failover { pair, address }
    }

    fn with_both_hosts() -> Failover {
        Failover { pair: Pair::start(), address: None }
    }
}

impl Forgetful for Failover {
    fn dsn(&self) -> String {
        match &self.address {
            Some(address) => MariaDb::dsn_of_ports(&[address.port()]),
            None => MariaDb::dsn_of_ports(&self.pair.ports()),
        }
    }

    fn current(&self) -> &MariaDb {
        self.pair.primary()
    }

    fn save(&self) {
        self.pair.await_replication();
    }

    fn begin_to_forget(&self) {
        self.pair.stop_replication();
    }

    fn fail(&self, rng: &mut Rng) {
        self.pair.primary().kill();
        rest(rng, OUTAGE_MAX_MS);
        self.pair.promote();
        if let Some(address) = &self.address {
            address.lead_to(self.pair.primary().port());
        }
    }

    fn recover(&self) {
        self.pair.rebuild_replica();
    }
}

/// A server that acknowledges what it has not flushed.
struct Unflushed {
    database: MariaDb,
}

impl Unflushed {
    fn start(options: &[&str]) -> Unflushed {
        // Flushed by itself once in so many seconds, and at every commit unless it is told otherwise.
        let options = [options, &["--innodb-flush-log-at-timeout=2700"]].concat();
        Unflushed { database: MariaDb::start_with(&options) }
    }
}

impl Forgetful for Unflushed {
    fn dsn(&self) -> String {
        self.database.dsn()
    }

    fn current(&self) -> &MariaDb {
        &self.database
    }

    fn save(&self) {}

    fn begin_to_forget(&self) {
        self.database.exec("SET GLOBAL innodb_flush_log_at_trx_commit = 0");
    }

    fn fail(&self, rng: &mut Rng) {
        self.database.kill();
        rest(rng, OUTAGE_MAX_MS);
        self.database.restart();
    }

    fn recover(&self) {}
}

/// Three servers on one database.
struct Site<D> {
    database: D,
    servers: Vec<Server>,
    _watermarks: TempDir,
}

/// What came of one loss.
struct Outcome {
    duplicates: u64,
    /// How many IDs below the first one that was granted after the loss nobody was granted, if anybody got one that is
    /// above all that was granted before.
    gap: Option<u64>,
    refusals: Vec<String>,
}

impl<D: Forgetful> Site<D> {
    fn new(database: D, tag_reload: Duration) -> Site<D> {
        let watermarks = tempfile::tempdir().expect("a directory");
        let start = |(index, engine): (usize, &&str)| {
            let path = watermarks.path().join(format!("{index}.db"));
            Setup::on(&database.dsn())
                .key("HttpEngine", *engine)
                .key("WatermarkPath", path.to_str().expect("UTF-8"))
                .key("SegmentSeconds", 1)
                .key("TagReloadSeconds", tag_reload.as_secs())
                .start()
        };
        let servers: Vec<_> = ENGINES.iter().enumerate().map(start).collect();
        servers.iter().for_each(|server| {
            server.await_status("/health", 200);
        });
        Site { database, servers, _watermarks: watermarks }
    }

    /// Clients of a new tag.
    fn clients_of<'a>(&self, tag: &'a str, step: i64) -> Clients<'a> {
        let insert = format!("INSERT INTO segments (app_tag, max_id, step) VALUES ('{tag}', 0, {step})");
        self.database.current().exec(&insert);
        self.database.save();
        Clients { ports: self.servers.iter().map(Server::port).collect(), tag, ..Clients::default() }
    }

    /// Loses commits of a tag of its own.
    fn suffer(&self, tag: &str, rng: &mut Rng) -> Outcome {
        let step = STEPS[rng.usize(..STEPS.len())];
        let insert = format!("INSERT INTO segments (app_tag, max_id, step) VALUES ('{tag}', 0, {step})");
        self.database.current().exec(&insert);
        self.database.save();
        let clients =
            Clients { ports: self.servers.iter().map(Server::port).collect(), tag, ..Clients::default() };
        let (granted, refusals) = thread::scope(|scope| {
            let _ends = Ends(&clients.over);
            let busy_goes_on = rng.bool();
            let (of_busy, of_quiet) = (rng.fork(), rng.fork());
            let clients = &clients;
            scope.spawn(move || {
                clients.be_busy((step / BATCHES_PER_STEP).min(BATCH_MAX), of_busy, busy_goes_on)
            });
            scope.spawn(move || clients.be_quiet(of_quiet));
            rest(rng, WARM_UP_MAX_MS);
            self.database.begin_to_forget();
            rest(rng, TAG_RELOAD.as_millis() as u64 - OUTAGE_MAX_MS);
            let granted = self.database.current().max_id(tag);
            clients.failed.store(true, Relaxed);
            self.database.fail(rng);
            (granted, clients.use_up(2 * step, rng))
        });
        self.database.recover();
        Outcome {
            duplicates: clients.ledger.sums().duplicates,
            gap: clients.ledger.first_from(granted).map(|first| first.abs_diff(granted)),
            refusals,
        }
    }
}

/// Who asks for one tag.
#[derive(Default)]
struct Clients<'a> {
    /// In the order of the servers.
    ports: Vec<u16>,
    tag: &'a str,
    ledger: Ledger,
    /// The database has failed.
    failed: AtomicBool,
    /// All is over.
    over: AtomicBool,
}

impl Clients<'_> {
    fn of(&self, server: usize) -> Consumer<'_> {
        Consumer::new(self.ports[server], self.tag, &self.ledger)
    }

    fn be_busy(&self, batch: i64, mut rng: Rng, goes_on: bool) {
        let mut client = self.of(BUSY);
        let is_over = || self.over.load(Relaxed) || (!goes_on && self.failed.load(Relaxed));
        while !is_over() && client.take(batch).is_ok() {
            rest(&mut rng, BUSY_PAUSE_MAX_MS);
        }
    }

    fn be_quiet(&self, mut rng: Rng) {
        let mut client = self.of(QUIET);
        while !self.failed.load(Relaxed) && client.take(1).is_ok() {
            rest(&mut rng, QUIET_PAUSE_MAX_MS);
        }
    }

    /// Takes what each server has, and so many IDs more: of one after the other, or of all at once. Returns what the
    /// servers said that refused.
    fn use_up(&self, more: i64, rng: &mut Rng) -> Vec<String> {
        let mut order: Vec<_> = (0..self.ports.len()).collect();
        rng.shuffle(&mut order);
        let use_up = |server: usize| self.of(server).use_up(more).err();
        if rng.bool() {
            return order.into_iter().filter_map(use_up).collect();
        }
        thread::scope(|scope| {
            let all: Vec<_> = order.into_iter().map(|server| scope.spawn(move || use_up(server))).collect();
            all.into_iter().filter_map(|one| one.join().expect("a client")).collect()
        })
    }
}

/// Says that something is over when it is dropped, be it by a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Loses commits round by round.
fn survive(what: &str, database: impl Forgetful) {
    let seed = from_env("IDALLOC_FAILOVER_SEED", fastrand::u64(..));
    let rounds = from_env("IDALLOC_FAILOVER_ROUNDS", ROUNDS);
    eprintln!("{what}: {rounds} rounds, IDALLOC_FAILOVER_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let site = Site::new(database, TAG_RELOAD);
    let outcomes: Vec<_> =
        (0..rounds).map(|round| site.suffer(&format!("orders-{round}"), &mut rng)).collect();

    let duplicates: u64 = outcomes.iter().map(|outcome| outcome.duplicates).sum();
    let with_duplicates = outcomes.iter().filter(|outcome| outcome.duplicates > 0).count();
    let refusals: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.refusals).collect();
    let mut gaps: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.gap).collect();
    gaps.sort_unstable();
    let median = gaps.get(gaps.len() / 2);
    eprintln!(
        "{what}: {rounds} rounds, {duplicates} duplicates in {with_duplicates} of them; {} refusals; gaps: {:?} to {:?}, \
         median {median:?}, of {} rounds",
        refusals.len(),
        gaps.first(),
        gaps.last(),
        gaps.len()
    );
    assert_eq!(duplicates, 0, "{what}");
    assert!(refusals.is_empty(), "{what}: a loss costs gaps, and no service: {refusals:?}");
}

#[test]
fn a_failover_behind_one_address_costs_no_id_twice() {
    survive("failovers behind one address", Failover::behind_one_address());
}

#[test]
fn a_failover_to_another_host_of_the_dsn_costs_no_id_twice() {
    survive("failovers to another host of the DSN", Failover::with_both_hosts());
}

#[test]
fn a_server_that_was_killed_with_its_log_unflushed_costs_no_id_twice() {
    survive("kills without a flush", Unflushed::start(&[]));
}

/// Its position in the binary log is ahead of what it has.
#[test]
fn a_server_that_was_killed_with_a_binary_log_but_its_own_unflushed_costs_no_id_twice() {
    survive(
        "kills without a flush, with a binary log",
        Unflushed::start(&["--log-bin=binlog", "--sync-binlog=0"]),
    );
}

// ---- what only one server was granted ----

/// The quiet server has IDs, and has read the row for the last time before the busy one is granted all that is lost.
fn lose_66_000(database: impl Forgetful, refill: fn(&Clients) -> [Result<(), String>; 2]) {
    let site = Site::new(database, Duration::from_secs(10));
    let clients = site.clients_of("orders", 1000);
    clients.of(QUIET).take(1).expect("an ID");
    site.database.save();
    site.database.begin_to_forget();
    clients.of(BUSY).use_up(66_000).expect("66,000 IDs");
    site.database.fail(&mut Rng::with_seed(0));
    let refilled = refill(&clients);
    assert_eq!(clients.ledger.sums().duplicates, 0);
    assert_eq!(refilled, [Ok(()), Ok(())]);
}

fn the_quiet_one_refills_first(clients: &Clients) -> [Result<(), String>; 2] {
    [(QUIET, 60_000), (BUSY, 10_000)].map(|(server, ids)| clients.of(server).use_up(ids))
}

fn both_refill(clients: &Clients) -> [Result<(), String>; 2] {
    thread::scope(|scope| {
        let refills = [QUIET, BUSY].map(|server| scope.spawn(move || clients.of(server).use_up(30_000)));
        refills.map(|refill| refill.join().expect("a client"))
    })
}

#[test]
fn what_only_one_server_was_granted_is_not_granted_to_another_that_refills_first() {
    lose_66_000(Failover::behind_one_address(), the_quiet_one_refills_first);
}

#[test]
fn what_only_one_server_was_granted_is_not_granted_again_when_both_refill() {
    lose_66_000(Failover::with_both_hosts(), both_refill);
}

#[test]
fn what_only_one_server_was_granted_is_not_granted_by_a_server_that_was_killed_unflushed() {
    lose_66_000(Unflushed::start(&[]), the_quiet_one_refills_first);
}
