//! A clean end gives back what was not handed out, and a restart goes on where it left off.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use support::mariadb::MariaDb;
use support::server::{Client, PATIENCE, Setup};

const ENGINES: [&str; 2] = ["tokio", "may_minihttp"];

/// Runs `case` with a DSN of each store.
fn on_both_stores(case: impl Fn(&str)) {
    let dir = tempfile::tempdir().unwrap();
    case(&format!("sqlite:{}", dir.path().join("ids.db").display()));
    case(&MariaDb::start().dsn());
}

fn stop(mut server: support::server::Server) {
    server.signal(libc::SIGTERM);
    assert!(server.wait().success());
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
        for engine in ENGINES.into_iter().cycle().take(4) {
            let server = Setup::on(dsn).key("HttpEngine", engine).start();
            server.await_status("/health", 200);
            let ended = Arc::new(AtomicBool::new(false));
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    let (mut client, ended) = (Client::connect(server.port()), ended.clone());
                    thread::spawn(move || {
                        let mut ids = Vec::new();
                        loop {
                            if ended.load(Relaxed) {
                                return ids;
                            }
                            match client.try_get("/alloc?app_tag=test_business&count=100") {
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
    stop(first);
    assert_eq!(database.max_id("test_business"), max_id, "nothing is given back from below");
    assert_eq!(second.get("/alloc?app_tag=test_business").id(), id + 1);
}
