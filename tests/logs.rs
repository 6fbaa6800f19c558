//! The log: a line for each change of state, with its cause, and few of them when a state flaps.

#[macro_use]
mod support;

use std::thread;
use std::time::{Duration, Instant};

use support::mariadb::MariaDb;
use support::server::{PATIENCE, Server, Setup};

on_each_engine! {
    connections_that_hover_around_their_limit_are_told_of_once
    malformed_requests_are_not_told_of
}

fn connections_that_hover_around_their_limit_are_told_of_once(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(&directory.path().join("ids.db")).key("HttpEngine", engine);
    let mut server = setup.key("MaxConnections", 1).start();
    let began = Instant::now();
    let mut refusals = 0;
    for _ in 0..20 {
        // A connection is free when its server has noticed that the last one was closed.
        let mut first = served(&server);
        let mut second = server.connect();
        refusals += u32::from(second.try_get("/health").is_some_and(|response| response.status == 503));
        assert_eq!(first.get("/health").status, 200);
    }
    assert!(refusals >= 10, "{refusals}");
    server.signal(libc::SIGTERM);
    server.wait();
    let log = server.rest_of_log();
    let lines = |text: &str| log.iter().filter(|line| line.contains(text)).count() as u64;
    // One each ten seconds, should this machine be so slow.
    let most = 1 + began.elapsed().as_secs() / 10;
    assert!((1..=most).contains(&lines("refusing with 503")), "{log:?}");
    assert!((1..=most).contains(&lines("all connections are accepted again")), "{log:?}");
}

/// A connection that is not refused.
fn served(server: &Server) -> support::server::Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut client = server.connect();
        if client.try_get("/health").is_some_and(|response| response.status == 200) {
            return client;
        }
        assert!(Instant::now() < deadline, "no place is free");
        thread::sleep(Duration::from_millis(2));
    }
}

fn malformed_requests_are_not_told_of(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Setup::embedded(&directory.path().join("ids.db")).key("HttpEngine", engine).start();
    server.await_status("/health", 200);
    server.log_so_far();
    for _ in 0..50 {
        let mut client = server.connect();
        client.send("GET / HTTP/1.1\r\nHost: a b\r\n\r\n");
        client.try_receive(true);
        assert_eq!(server.get("/alloc?app_tag=nobody").status, 404);
    }
    server.signal(libc::SIGTERM);
    server.wait();
    // That it stops, that it has stopped, and perhaps that tags were listed.
    let log = server.rest_of_log();
    assert!(log.len() <= 5, "{log:?}");
}

#[test]
fn rows_at_fault_are_named_when_they_are_found_and_when_they_are_mended() {
    let database = MariaDb::start();
    for n in 0..30 {
        database.exec(&format!("INSERT INTO segments (app_tag, max_id, step) VALUES ('t{n:02}', 0, 0)"));
    }
    database.exec("UPDATE segments SET step = -3 WHERE app_tag = 'test_business'");
    let server = Setup::on(&database.dsn()).key("TagReloadSeconds", 1).start();
    server.await_status("/health", 200);
    server.await_log("more tags get no IDs");
    database.exec("UPDATE segments SET step = 5 WHERE app_tag = 't07'");
    assert!(server.await_log("the tag's row is mended").contains("t07"));
    database.exec("UPDATE segments SET step = 0 WHERE app_tag = 't07'");
    let line = server.await_log("the tag gets no IDs");
    assert!(
        line.contains("t07") && line.contains("its step is 0 in the table; it must be 1 to 1000000000"),
        "{line}"
    );
    // The others are not named again, however often the table is read.
    database.exec("UPDATE segments SET step = 6 WHERE app_tag = 't07'");
    server.await_log("the tag's row is mended");
    database.exec("UPDATE segments SET step = -1 WHERE app_tag = 't07'");
    assert!(server.await_log("the tag gets no IDs").contains("t07"));
}

const SHOW: &str = "/api/tags/test_business";

#[test]
fn what_operators_ask_is_not_told_of() {
    let database = MariaDb::start();
    let mut server = Setup::on(&database.dsn()).admin().key("RefillThreads", 1).start();
    server.await_status("/health", 200);
    let mut operator = server.admin();
    for _ in 0..30 {
        assert_eq!(operator.get_admin(SHOW).status, 200);
    }
    server.signal(libc::SIGTERM);
    server.wait();
    let log = server.rest_of_log();
    let connects = log.iter().filter(|line| line.contains("connected to the store")).count();
    assert!((1..=3).contains(&connects), "one for the refills, the listing, and operators: {log:?}");
}

#[test]
fn an_operators_session_that_has_ended_while_it_was_idle_is_replaced() {
    let database = MariaDb::start();
    let server = Setup::on(&database.dsn()).admin().key("TagReloadSeconds", 3600).start();
    server.await_status("/health", 200);
    let mut operator = server.admin();
    for step in 7..10 {
        assert_eq!(operator.get_admin(SHOW).status, 200);
        end_sessions(&database);
        assert_eq!(operator.get_admin(SHOW).status, 200);
        end_sessions(&database);
        let change = format!("{{\"step\":{step}}}");
        let answer = operator.ask_admin("PATCH", SHOW, &["Content-Type: application/json"], &change);
        assert_eq!((answer.status, &answer.json()["step"]), (200, &step.into()), "{answer:?}");
    }
}

/// Ends every session but this, as a database does to those that were idle for its wait_timeout.
fn end_sessions(database: &MariaDb) {
    use mysql::prelude::Queryable;
    let mut conn = database.conn();
    let others =
        "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND command <> 'Daemon'";
    for id in conn.query::<u64, _>(others).unwrap() {
        // It may be over by now.
        let _ = conn.query_drop(format!("KILL {id}"));
    }
}

#[test]
fn a_node_that_cannot_serve_says_why_and_when_it_can_again() {
    let database = MariaDb::start();
    database.exec("UPDATE segments SET step = 10 WHERE app_tag = 'test_business'");
    // Whether or not it has an operator's port.
    let server = Setup::on(&format!("{}?timeout=1s", database.dsn())).key("AllocTimeout", 50).start();
    server.await_status("/health", 200);
    database.kill();
    while server.get("/alloc?app_tag=test_business").status == 200 {}
    server.await_log("callers of the tag wait for IDs in vain");
    let line = server.await_log("this node is not ready");
    assert!(line.contains("starving") && line.contains("app_tag 'test_business' has no IDs left"), "{line}");
    database.restart();
    let lines = std::iter::from_fn(|| Some(server.await_log("")));
    let lines: Vec<_> = lines.take_while(|line| !line.contains("this node is ready again")).collect();
    let tell = |text| lines.iter().any(|line| line.contains(text));
    assert!(tell("callers of the tag get IDs again"), "{lines:?}");
    assert!(
        !tell("refills of the tag"),
        "the log was told that the store is away, and not that a tag fails: {lines:?}"
    );
}
