//! The log: a line for each change of state, with its cause, and few of them when a state flaps.

use idalloc_testing::on_each_engine;

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use idalloc_testing::mariadb::MariaDb;
use idalloc_testing::server::{Client, PATIENCE, Server, Setup};
use serde_json::json;

on_each_engine! {
    connections_that_hover_around_their_limit_are_told_of_once
    malformed_requests_are_not_told_of
    a_log_on_a_full_device_or_a_closed_pipe_is_no_reason_to_stop
    a_log_whose_reader_stalls_during_an_outage_holds_up_nothing
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
fn served(server: &Server) -> Client {
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

// ---- a log that cannot be written ----

/// The end of a pipe that nobody reads until the other end is used, and that holds little.
fn small_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    // SAFETY: one system call on a descriptor that is open.
    assert!(unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) } > 0);
    (reader, writer)
}

fn dropped(admin_port: u16) -> u64 {
    let metrics = Client::connect(admin_port).get_admin("/metrics").body;
    let line = metrics.lines().find_map(|line| line.strip_prefix("idalloc_log_lines_dropped_total "));
    line.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no count: {metrics}"))
}

/// Has operators change tags with long names until lines of the log are dropped: each change is told of.
fn log_much(server: &Server) {
    let (port, before) = (server.admin_port(), dropped(server.admin_port()));
    let operators: Vec<_> =
        (0..4).map(|n| thread::spawn(move || change_until(port, n, || dropped(port) > before))).collect();
    operators.into_iter().for_each(|operator| operator.join().expect("lines are dropped"));
}

fn change_until(port: u16, operator: usize, enough: impl Fn() -> bool) {
    const JSON: &[&str] = &["Content-Type: application/json"];
    let mut client = Client::connect(port);
    let tag = format!("{operator}{}", "x".repeat(127));
    let path = format!("/api/tags/{tag}");
    client.ask_admin("POST", "/api/tags", JSON, &json!({"app_tag": tag, "step": 1}).to_string());
    let mut max_id: i64 = client.get_admin(&path).json()["max_id"].as_str().unwrap().parse().unwrap();
    let deadline = Instant::now() + PATIENCE;
    for n in 1.. {
        max_id += 100_000;
        let change = json!({"step": 1 + n % 2, "max_id": max_id.to_string()}).to_string();
        let answer = client.ask_admin("PATCH", &path, JSON, &change);
        assert_eq!(answer.status, 200, "{answer:?}");
        if n % 20 == 0 && enough() {
            return;
        }
        assert!(Instant::now() < deadline, "no line is dropped after {n} changes");
    }
}

/// A panic is told of too: one is provoked that a thread survives.
fn a_log_on_a_full_device_or_a_closed_pipe_is_no_reason_to_stop(engine: &str) {
    let (reader, closed) = small_pipe();
    drop(reader);
    let full = File::options().write(true).open("/dev/full").unwrap();
    for stderr in [std::os::fd::OwnedFd::from(closed), full.into()] {
        let directory = tempfile::tempdir().unwrap();
        let clock = idalloc_testing::clock::Clock::default();
        let setup = Setup::embedded(&directory.path().join("ids.db")).key("HttpEngine", engine).admin();
        let mut server = setup.clock(&clock).env("RUST_LOG", "trace").log_to(stderr).start();
        server.await_status("/health", 200);
        clock.fail(if engine == "tokio" { "idalloc-http0" } else { "idalloc-sweep" }, 1);
        let deadline = Instant::now() + PATIENCE;
        while clock.failures_left() > 0 {
            assert!(Instant::now() < deadline, "no panic");
            thread::sleep(Duration::from_millis(5));
        }
        server.await_status("/alloc?app_tag=test_business", 200);
        assert!(dropped(server.admin_port()) > 3);
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(0));
    }
}

fn a_log_whose_reader_stalls_during_an_outage_holds_up_nothing(engine: &str) {
    let database = MariaDb::start();
    database.exec("UPDATE segments SET step = 10 WHERE app_tag = 'test_business'");
    let (mut reader, log) = small_pipe();
    // Each host that is not there is worth a line, at each try.
    let absent = format!("{}{})", database.port(), ",127.0.0.1:1".repeat(200));
    let dsn = database.dsn().replace(&format!("{})", database.port()), &absent) + "?timeout=1s";
    let setup = Setup::on(&dsn).key("HttpEngine", engine).admin();
    let mut server = setup.env("RUST_LOG", "trace").log_to(log).start();
    server.await_status("/health", 200);
    database.kill();
    while server.get("/alloc?app_tag=test_business").status == 200 {}
    let quick = |what: &str, ask: &dyn Fn()| {
        let asked = Instant::now();
        ask();
        assert!(asked.elapsed() < Duration::from_secs(1), "{what} takes {:?}", asked.elapsed());
    };
    // Until the backlog is full, and for so long after that that every thread has something to log.
    let (began, mut full_since) = (Instant::now(), None::<Instant>);
    while full_since.is_none_or(|since| since.elapsed() < Duration::from_secs(2)) {
        assert!(began.elapsed() < 2 * PATIENCE, "no line is dropped");
        quick("/health", &|| assert_eq!(server.get("/health").status, 503));
        quick("/livez", &|| assert_eq!(server.admin().get_admin("/livez").status, 200));
        quick("/metrics", &|| assert_eq!(server.admin().get_admin("/metrics").status, 200));
        if dropped(server.admin_port()) > 0 {
            full_since.get_or_insert_with(Instant::now);
        }
        thread::sleep(Duration::from_millis(20));
    }
    database.restart();
    server.await_status("/alloc?app_tag=test_business", 200);
    server.await_status("/health", 200);
    // It reads again: the count is told, with what was kept.
    let follow = thread::spawn(move || {
        let mut log = String::new();
        while !log.contains("so many lines of it are missing") {
            let mut part = [0; 4096];
            let bytes = reader.read(&mut part).unwrap();
            assert!(bytes > 0, "not told of");
            log.push_str(&String::from_utf8_lossy(&part[..bytes]));
        }
        reader
    });
    let deadline = Instant::now() + PATIENCE;
    while !follow.is_finished() {
        assert!(Instant::now() < deadline, "not told of");
        thread::sleep(Duration::from_millis(5));
    }
    // And stalls again, in the next outage.
    let _reader = follow.join().unwrap();
    database.kill();
    let before = dropped(server.admin_port());
    while dropped(server.admin_port()) == before {
        assert!(began.elapsed() < 4 * PATIENCE, "no line is dropped");
        thread::sleep(Duration::from_millis(20));
    }
    server.signal(libc::SIGTERM);
    let signalled = Instant::now();
    assert_eq!(server.wait().code(), Some(0));
    // The end has eight seconds to give IDs back to a store that is away, and one for the last lines of the log.
    assert!(signalled.elapsed() < Duration::from_secs(12), "{:?}", signalled.elapsed());
}

/// A file system of its own, of one MiB. Dropping it unmounts it.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> SmallDisk {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "idalloc-test"]).arg(dir.path());
        assert!(mount.status().expect("mount").success(), "a file system of its own takes root");
        SmallDisk(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "umount");
    }
}

#[test]
fn a_disk_that_fills_while_the_server_logs_costs_lines_and_nothing_else() {
    let disk = SmallDisk::mount();
    let directory = tempfile::tempdir().unwrap();
    let path = disk.0.path().join("log");
    let log = File::options().create(true).append(true).open(&path).unwrap();
    let setup = Setup::embedded(&directory.path().join("ids.db")).admin();
    let mut server = setup.log_to(log).start();
    server.await_status("/health", 200);
    log_much(&server);
    server.await_status("/alloc?app_tag=test_business", 200);
    // Somebody makes room, as a rotation does.
    File::options().write(true).truncate(true).open(&path).unwrap();
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    let log = std::fs::read_to_string(&path).unwrap();
    assert!(log.contains("so many lines of it are missing") && log.contains("INFO stopped"), "{log}");
}

#[test]
fn a_complaint_that_cannot_be_printed_changes_nothing_but_itself() {
    let run = |stderr: std::os::fd::OwnedFd| {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_idalloc"));
        command.args(["tag", "list", "--config", "none.json"]).current_dir(directory.path()).stderr(stderr);
        command.status().unwrap().code()
    };
    let (reader, closed) = small_pipe();
    drop(reader);
    assert_eq!(run(closed.into()), Some(1));
    assert_eq!(run(File::options().write(true).open("/dev/full").unwrap().into()), Some(1));
    let (_stalled, mut full) = small_pipe();
    std::io::Write::write_all(&mut full, &[b'x'; 4096]).unwrap();
    assert_eq!(run(full.into()), Some(1));
}

/// What forges a line of a log, and drives a terminal, where it is written raw: a line feed, ESC, the C1 form of it, and a
/// mark that turns the direction of writing.
const HOSTILE: &str = "x\nforged line\u{1b}[2J\u{9b}2J\u{202e}";

fn text_of_others_neither_begins_a_line_nor_steers_a_terminal(format: &str) {
    let database = MariaDb::start();
    database.exec(&format!("INSERT INTO segments (app_tag, max_id, step) VALUES ('{HOSTILE}', 0, 10)"));
    let setup = Setup::on(&database.dsn()).key("LogFormat", format).key("PreloadTags", 0);
    let mut server = setup.key("AllocTimeout", 50).start();
    server.await_status("/health", 200);
    // In what the database says, the most of it is escaped by itself.
    let signal = "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'said\nforged line\u{202e}'";
    database.exec(&format!("CREATE TRIGGER refuse BEFORE UPDATE ON segments FOR EACH ROW {signal}"));
    let encoded: String = HOSTILE.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let mut log = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    // Until it is said to starve.
    while !log.iter().any(|line: &String| line.contains("this node is not ready")) {
        assert!(Instant::now() < deadline, "{log:?}");
        assert_eq!(server.get(&format!("/alloc?app_tag={encoded}")).status, 503);
        log.extend(server.log_so_far());
    }
    server.signal(libc::SIGTERM);
    server.wait();
    log.extend(server.rest_of_log());
    assert!(log.iter().any(|line| line.contains("said")), "{log:?}");
    for line in &log {
        assert!(!line.starts_with("forged"), "{line:?}");
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
    }
    let name = if format == "text" {
        r"'x\nforged line\u{1b}[2J\u{9b}2J\u{202e}'"
    } else {
        r"'x\nforged line\u001b[2J\u009b2J\u202e'"
    };
    assert!(log.iter().any(|line| line.contains(name)), "{log:?}");
}

#[test]
fn text_of_others_is_harmless_in_a_log_of_text() {
    text_of_others_neither_begins_a_line_nor_steers_a_terminal("text");
}

#[test]
fn text_of_others_is_harmless_in_a_log_of_json() {
    text_of_others_neither_begins_a_line_nor_steers_a_terminal("json");
}
