//! No clock ends a thread, and a thread that ends otherwise is started again, or ends the process.

use idalloc_testing::on_each_engine;

use std::thread;
use std::time::{Duration, Instant};

use idalloc::alloc::supervise::RESTARTS_MAX;
use idalloc_testing::clock::Clock;
use idalloc_testing::server::{PATIENCE, Server, Setup};

on_each_engine! {
    whatever_the_wall_clock_says_the_server_serves
    a_clock_that_time_is_measured_by_and_that_leaps_does_no_harm
}

/// Before 1970; after 9999; and as far as the kernel's numbers go, or nearly.
const ODD_TIMES_S: [i64; 5] = [-315_619_200, -1, 253_402_300_800, 1 << 40, -(1 << 40)];
const ALLOC: &str = "/alloc?app_tag=test_business";

fn setup(engine: &str, directory: &tempfile::TempDir, clock: &Clock) -> Setup {
    let setup = Setup::embedded(&directory.path().join("ids.db")).key("HttpEngine", engine);
    setup.key("TagReloadSeconds", 1).key("RefillThreads", 1).admin().clock(clock)
}

fn assert_serves(server: &Server) {
    assert_eq!(server.await_status(ALLOC, 200).status, 200);
    for path in ["/livez", "/readyz", "/metrics", "/api/status", "/api/tags"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        let deadline = Instant::now() + PATIENCE;
        // A leap of the clock is over for a connection when its time is.
        while server.admin().try_ask(&request).is_none_or(|response| response.status != 200) {
            assert!(Instant::now() < deadline, "{path} is not answered");
        }
    }
}

fn assert_no_bug(log: &[String]) {
    assert_eq!(log.iter().find(|line| line.contains("a bug") || line.contains("panic")), None);
}

fn whatever_the_wall_clock_says_the_server_serves(engine: &str) {
    let (directory, clock) = (tempfile::tempdir().unwrap(), Clock::default());
    clock.set_wall(ODD_TIMES_S[0]);
    let mut server = setup(engine, &directory, &clock).start();
    let dated = server.get(ALLOC);
    assert_eq!(dated.headers["date"], "Thu, 01 Jan 1970 00:00:00 GMT");
    for epoch_s in ODD_TIMES_S {
        clock.set_wall(epoch_s);
        let until = Instant::now() + Duration::from_millis(600);
        while Instant::now() < until {
            assert_serves(&server);
        }
    }
    clock.set_wall(4_102_444_800);
    let deadline = Instant::now() + PATIENCE;
    while !server.get(ALLOC).headers["date"].starts_with("Fri, 01 Jan 2100") {
        assert!(Instant::now() < deadline, "the date does not follow");
        thread::sleep(Duration::from_millis(10));
    }
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    assert_no_bug(&server.rest_of_log());
}

fn a_clock_that_time_is_measured_by_and_that_leaps_does_no_harm(engine: &str) {
    let (directory, clock) = (tempfile::tempdir().unwrap(), Clock::default());
    let mut server = setup(engine, &directory, &clock).start();
    for days in [1, 2, 3_000, 100_000] {
        clock.move_monotonic(days * 86_400);
        assert_serves(&server);
    }
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    assert_no_bug(&server.rest_of_log());
}

/// Has one look at a clock fail in this thread, and waits until the log tells of it.
fn kill(server: &Server, clock: &Clock, thread: &str, provoke: impl Fn(&Server)) {
    clock.fail(thread, 1);
    let deadline = Instant::now() + PATIENCE;
    while clock.failures_left() > 0 {
        assert!(Instant::now() < deadline, "{thread} does not look at a clock");
        provoke(server);
        thread::sleep(Duration::from_millis(5));
    }
    let line = server.await_log("is started again");
    assert!(line.contains(thread), "{line}");
}

/// The connections of a worker that panics are closed: new ones must be served.
fn await_answers(server: &Server) {
    let deadline = Instant::now() + PATIENCE;
    while server.connect().try_get(ALLOC).is_none_or(|response| response.status != 200) {
        assert!(Instant::now() < deadline, "no answer");
    }
}

fn one_more_connection(server: &Server) {
    let _first = server.connect();
    let mut second = server.connect();
    second.try_get("/health");
}

fn a_new_tag(server: &Server) {
    server.get("/alloc?app_tag=nobody");
}

fn many_ids(server: &Server) {
    server.get("/segment?app_tag=test_business&count=1000");
}

#[test]
fn each_thread_of_engine_tokio_that_panics_is_started_again() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), Clock::default());
    let setup = setup("tokio", &directory, &clock).key("Workers", 1).key("MaxConnections", 1);
    let mut server = setup.start();
    assert_serves(&server);
    let nothing = |_: &Server| {};
    kill(&server, &clock, "idalloc-http0", nothing);
    await_answers(&server);
    kill(&server, &clock, "idalloc-accept", one_more_connection);
    await_answers(&server);
    kill(&server, &clock, "idalloc-refill0", many_ids);
    await_answers(&server);
    kill(&server, &clock, "idalloc-tags", a_new_tag);
    await_answers(&server);
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn the_sweep_of_engine_may_that_panics_is_started_again() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), Clock::default());
    let server = setup("may_minihttp", &directory, &clock).key("HttpIdleTimeout", 300).start();
    kill(&server, &clock, "idalloc-sweep", |_| {});
    let mut idle = server.connect();
    assert_eq!(idle.get(ALLOC).status, 200);
    assert!(idle.is_closed(), "by the sweep");
}

#[test]
fn the_main_thread_that_panics_ends_the_process() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), Clock::default());
    let mut server = setup("tokio", &directory, &clock).start();
    // The operator's port gets no connection: one that is being closed reads the clock too, and its panic ends nothing else.
    server.await_status(ALLOC, 200);
    clock.fail("idalloc", 1);
    assert_eq!(server.wait().code(), Some(101));
    assert!(server.rest_of_log().iter().any(|line| line.contains("a bug: please report it")));
}

#[test]
fn a_thread_that_panics_again_and_again_ends_the_process() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), Clock::default());
    let mut server = setup("tokio", &directory, &clock).key("Workers", 1).start();
    assert_serves(&server);
    for _ in 0..RESTARTS_MAX {
        clock.fail("idalloc-http0", 1);
        // A failure while the thread unwinds would abort the process.
        server.await_log("is started again");
    }
    clock.fail("idalloc-http0", 1);
    assert_eq!(server.wait().code(), Some(1));
    let log = server.rest_of_log();
    let complaint = log.last().expect("a last line");
    assert!(complaint.starts_with("idalloc: ") && complaint.contains("idalloc-http0"), "{log:?}");
    // It has given back what nobody got: the next server begins where this one ended.
    let next = setup("tokio", &directory, &Clock::default()).start();
    assert_eq!(next.get(ALLOC).id(), 2);
}

#[test]
fn a_clock_before_1970_keeps_certificates_from_being_checked_and_says_so() {
    let clock = Clock::default();
    clock.set_wall(ODD_TIMES_S[0]);
    let server = Setup::on("root@tcp(127.0.0.1:1)/db?tls=skip-verify").clock(&clock).start();
    let line = server.await_log("the store does not answer");
    assert!(line.contains("clock is before 1970"), "{line}");
    assert_eq!(server.get("/health").status, 503);
}
