//! Tags that are added while a server runs, to a table so large that it is not read every second.

use std::thread;
use std::time::{Duration, Instant};

use idalloc_testing::server::{Server, Setup};
use idalloc_testing::store::Store;
use mysql::prelude::Queryable;

/// What README promises of a new row.
const PROMISED: Duration = Duration::from_secs(1);

/// A server that knows all rows of a table of 100,000, and does not read it again by itself.
fn on_a_large_table() -> (Store, Server) {
    let store = Store::mariadb();
    store.exec("INSERT INTO segments (app_tag, step) SELECT CONCAT('t', seq), 10 FROM seq_1_to_100000");
    let server = Setup::on(&store.dsn).key("TagReloadSeconds", 3600).start();
    server.await_status("/alloc?app_tag=t77777", 200);
    (store, server)
}

/// Adds a tag, and asks for it.
fn assert_serves_in_time(store: &Store, server: &Server, tag: &str) {
    store.exec(&format!("INSERT INTO segments (app_tag, step) VALUES ('{tag}', 10)"));
    let asked = Instant::now();
    let mut client = server.connect();
    while client.get(&format!("/alloc?app_tag={tag}")).status != 200 {
        assert!(asked.elapsed() < PROMISED, "{tag}: {:?}", asked.elapsed());
    }
    assert!(asked.elapsed() < PROMISED, "{tag}: {:?}", asked.elapsed());
}

#[test]
fn a_new_row_of_a_large_table_serves_within_a_second() {
    let (store, server) = on_a_large_table();
    for round in 0..20 {
        let tag = format!("new{round}");
        // Unknown a moment ago, which must not be the answer from now on.
        assert_eq!(server.get(&format!("/alloc?app_tag={tag}")).status, 404);
        assert_serves_in_time(&store, &server, &tag);
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_row_of_a_large_table_that_is_mended_serves_within_a_second() {
    let (store, server) = on_a_large_table();
    store.exec("INSERT INTO segments (app_tag, step) VALUES ('bad', 0)");
    let answer = server.await_status("/alloc?app_tag=bad", 503);
    assert!(answer.body.contains("its step is 0"), "{answer:?}");
    store.exec("UPDATE segments SET step = 10 WHERE app_tag = 'bad'");
    let mended = Instant::now();
    server.await_status("/alloc?app_tag=bad", 200);
    assert!(mended.elapsed() < PROMISED, "{:?}", mended.elapsed());
}

#[test]
fn a_flood_of_unknown_names_costs_few_statements_and_delays_no_new_row() {
    const FLOOD: Duration = Duration::from_secs(3);
    let (store, server) = on_a_large_table();
    thread::sleep(PROMISED);
    let database = store.database.as_ref().unwrap();
    let selects = || -> u64 {
        let sql = "SHOW GLOBAL STATUS LIKE 'Com_select'";
        let (_, count): (String, u64) = database.conn().query_first(sql).unwrap().unwrap();
        count
    };
    let before = selects();
    let began = Instant::now();
    let asked: usize = thread::scope(|scope| {
        let floods: Vec<_> = (0..4)
            .map(|flood| {
                let mut client = server.connect();
                scope.spawn(move || {
                    let mut asked = 0;
                    while began.elapsed() < FLOOD {
                        let answer = client.get(&format!("/alloc?app_tag=none{flood}-{asked}"));
                        assert_eq!(answer.status, 404, "{answer:?}");
                        asked += 1;
                    }
                    asked
                })
            })
            .collect();
        for round in 0..5 {
            assert_serves_in_time(&store, &server, &format!("amid{round}"));
        }
        floods.into_iter().map(|flood| flood.join().unwrap()).sum()
    });
    // One each 20 ms, and what the test asks.
    let most = 50 * (began.elapsed().as_secs() + 1) + 100;
    let statements = selects() - before;
    assert!(statements <= most, "{statements} statements for {asked} names");
}
