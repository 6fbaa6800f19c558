//! A clean end gives back what was not handed out, and a restart goes on where it left off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use idalloc::config::TableSpec;
use idalloc_testing::mariadb::MariaDb;
use idalloc_testing::proxy::Proxy;
use idalloc_testing::server::{Client, PATIENCE, Server, Setup};
use mysql::prelude::Queryable;

const ENGINES: [&str; 2] = ["tokio", "may_minihttp"];

/// Runs `case` with a DSN of each store.
fn on_both_stores(case: impl Fn(&str)) {
    let dir = tempfile::tempdir().unwrap();
    case(&format!("sqlite:{}", dir.path().join("ids.db").display()));
    case(&MariaDb::start().dsn());
}

fn stop(server: Server) {
    log_of_stopped(server);
}

/// What the log says after this.
fn log_of_stopped(mut server: Server) -> Vec<String> {
    server.signal(libc::SIGTERM);
    assert!(server.wait().success());
    server.rest_of_log()
}

#[test]
fn restarts_of_an_idle_server_leave_no_gap() {
    on_both_stores(|dsn| {
        let mut next = 1;
        for engine in ENGINES.into_iter().cycle().take(4) {
            let server = Setup::on(dsn).key("HttpEngine", engine).start();
            server.await_status("/health", 200);
            let mut client = server.connect();
            for _ in 0..5 {
                assert_eq!(client.get("/alloc?app_tag=test_business").id(), next);
                next += 1;
            }
            drop(client);
            stop(server);
        }
    });
}

/// A server makes the file, with the table in it, where it is not there, and leaves the row as it was.
fn make_table(dsn: &str) {
    let server = Setup::on(dsn).start();
    server.await_status("/health", 200);
    stop(server);
}

/// So small that leases meet the end of a segment.
fn set_step(dsn: &str, step: i64) {
    make_table(dsn);
    let table = TableSpec::default();
    idalloc::store::backend(&dsn.parse().unwrap(), &table).session().set_step("test_business", step).unwrap();
}

/// The lease is longer than the IDs that stand by in the head segment, so the store is asked for it.
#[test]
fn a_lease_leaves_no_gap() {
    on_both_stores(|dsn| {
        let mut next = 1;
        for _ in 0..3 {
            let server = Setup::on(dsn).start();
            server.await_status("/health", 200);
            let mut client = server.connect();
            assert_eq!(client.get("/alloc?app_tag=test_business").id(), next);
            let lease = client.get("/segment?app_tag=test_business&count=150000").json();
            assert_eq!(
                (lease["start"].as_i64(), lease["end"].as_i64()),
                (Some(next + 1), Some(next + 150_001))
            );
            next += 150_001;
            drop(client);
            let log = log_of_stopped(server);
            assert!(log.iter().all(|line| !line.contains("skipped")), "{log:?}");
        }
    });
}

/// Has a server load so many tags, two segments each, take the first ID of one, and end after `change`. All the rest goes
/// back to the table, whose sum of `max_id` is `sum`.
fn end_with_tags(tags: usize, setup: Setup, sum: impl Fn() -> i64, change: impl FnOnce()) {
    let server = setup.key("PreloadTags", 2 * tags).key("RefillThreads", 4).start();
    let reserved = tags as i64 * 200 + 200_000;
    let deadline = Instant::now() + 4 * PATIENCE;
    while sum() != reserved {
        assert!(Instant::now() < deadline, "{} IDs are reserved, not {reserved}", sum());
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(server.await_status("/alloc?app_tag=tag00500", 200).id(), 1);
    change();
    let began = Instant::now();
    let log = log_of_stopped(server);
    println!("{tags} tags are given back within {:?}", began.elapsed());
    assert_eq!(sum(), 2, "{log:?}");
    assert!(log.iter().all(|line| !line.contains("skipped")), "{log:?}");
}

fn insert_tags(tags: usize) -> String {
    let rows: Vec<_> = (0..tags).map(|tag| format!("('tag{tag:05}', 0, 100)")).collect();
    format!("INSERT INTO segments (app_tag, max_id, step) VALUES {}", rows.join(", "))
}

fn sum_of(database: &MariaDb) -> i64 {
    let sum = database.conn().query_first("SELECT CAST(SUM(max_id) AS SIGNED) FROM segments");
    sum.expect("select").expect("a sum")
}

/// The database is near while the segments are reserved, and far at the end.
#[test]
fn many_tags_are_given_back_to_a_database_that_is_far() {
    const TAGS: usize = 1000;
    let database = MariaDb::start();
    database.exec(&insert_tags(TAGS));
    let proxy = Proxy::before(database.port(), "no statement holds this");
    let dsn = database.dsn().replace(&database.port().to_string(), &proxy.port().to_string());
    let delay = || proxy.delay(Duration::from_millis(20));
    end_with_tags(TAGS, Setup::on(&dsn), || sum_of(&database), delay);
}

#[test]
fn twelve_thousand_tags_are_given_back() {
    const TAGS: usize = 12_000;
    // What is at stake here is not what a crash takes.
    let database = MariaDb::start_with(&["--innodb-flush-log-at-trx-commit=0"]);
    database.exec(&insert_tags(TAGS));
    let setup = Setup::on(&database.dsn()).key("WatermarkPath", "");
    end_with_tags(TAGS, setup, || sum_of(&database), || ());
}

#[test]
fn many_tags_are_given_back_to_a_file() {
    const TAGS: usize = 2000;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ids.db");
    make_table(&format!("sqlite:{}", file.display()));
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection.execute_batch(&insert_tags(TAGS)).unwrap();
    let sum = || connection.query_row("SELECT SUM(max_id) FROM segments", [], |row| row.get(0)).unwrap();
    end_with_tags(TAGS, Setup::embedded(&file), sum, || ());
}

#[test]
fn a_server_that_handed_nothing_out_leaves_the_row_as_it_was() {
    let database = MariaDb::start();
    for _ in 0..2 {
        let server = Setup::on(&database.dsn()).start();
        server.await_status("/health?app_tag=test_business", 200);
        stop(server);
        assert_eq!(database.max_id("test_business"), 0);
    }
}

#[test]
fn restarts_of_a_loaded_server_leave_no_gap() {
    on_both_stores(|dsn| {
        let mut all = Vec::new();
        set_step(dsn, 1000);
        for engine in ENGINES.into_iter().cycle().take(4) {
            // Short segments, so that leases meet their ends.
            let server = Setup::on(dsn).key("HttpEngine", engine).key("MaxStepFactor", 1).start();
            server.await_status("/health", 200);
            let ended = Arc::new(AtomicBool::new(false));
            let clients: Vec<_> = (0..4)
                .map(|number| {
                    let (mut client, ended) = (Client::connect(server.port()), ended.clone());
                    thread::spawn(move || {
                        let mut ids = Vec::new();
                        loop {
                            if ended.load(Relaxed) {
                                return ids;
                            }
                            let is_lease = number == 3 && fastrand::bool();
                            let route = if is_lease { "segment" } else { "alloc" };
                            let target = format!("/{route}?app_tag=test_business&count=100");
                            match client.try_get(&target) {
                                Some(response) if response.status == 200 && is_lease => {
                                    let lease = response.json();
                                    let [start, end] =
                                        ["start", "end"].map(|key| lease[key].as_i64().unwrap());
                                    ids.extend(start..end);
                                }
                                Some(response) if response.status == 200 => ids.extend(response.ids()),
                                // Told to leave, or closed for having been silent too long.
                                _ => return ids,
                            }
                        }
                    })
                })
                .collect();
            // Told to stop in the middle of it: an answer that did not arrive would be a gap.
            let before = server.get("/alloc?app_tag=test_business").id();
            all.push(before);
            stop(server);
            ended.store(true, Relaxed);
            clients.into_iter().for_each(|client| all.extend(client.join().unwrap()));
        }
        all.sort_unstable();
        assert!(all.iter().copied().eq(1..=all.len() as i64), "every ID from 1 on, once");
    });
}

#[test]
fn what_others_reserved_since_is_theirs() {
    let database = MariaDb::start();
    let first = Setup::on(&database.dsn()).start();
    assert_eq!(first.await_status("/alloc?app_tag=test_business", 200).id(), 1);
    first.await_status("/health?app_tag=test_business", 200);
    let second = Setup::on(&database.dsn()).start();
    let id = second.await_status("/alloc?app_tag=test_business", 200).id();
    assert!(id >= 100_000, "behind the first server's: {id}");
    // Each holds two segments.
    let max_id = 400_000;
    let deadline = Instant::now() + PATIENCE;
    while database.max_id("test_business") != max_id {
        assert!(Instant::now() < deadline, "max_id is {}", database.max_id("test_business"));
        thread::sleep(Duration::from_millis(2));
    }
    let log = log_of_stopped(first);
    assert_eq!(database.max_id("test_business"), max_id, "nothing is given back from below");
    let skipped: Vec<_> = log.iter().filter(|line| line.contains("IDs are skipped")).collect();
    assert!(matches!(skipped[..], [line] if line.contains("others have reserved since")), "{log:?}");
    assert!(skipped[0].contains("ids=[2, 200000)") && skipped[0].contains("count=199998"), "{log:?}");
    assert_eq!(second.get("/alloc?app_tag=test_business").id(), id + 1);
}
