//! Real faults: a store that is away, that is killed, that is silent or locked; clients that ask for nonsense, that are
//! too many, too slow or too fast; and a server that is told to stop in the middle of it.

use idalloc_testing::on_each_engine;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use idalloc_testing::mariadb::MariaDb;
use idalloc_testing::server::{Client, PATIENCE, Response, Server, Setup, is_gone};
use mysql::prelude::Queryable;

on_each_engine! {
    a_store_that_is_down_at_start_is_waited_for
    a_store_that_is_killed_under_load_costs_no_id_twice
    a_store_that_falls_silent_under_load_costs_no_id_twice
    a_claim_waits_no_longer_than_alloc_timeout
    a_locked_row_holds_up_its_own_tag_only
    unknown_tags_cost_the_store_and_the_memory_nothing
    a_stop_under_load_garbles_nothing_and_costs_no_id_twice
    a_connection_too_many_is_told_and_the_next_is_served_when_one_leaves
    a_request_that_does_not_arrive_in_time_ends_its_connection
    an_idle_connection_is_closed_quietly_and_a_busy_one_is_not
}

const ALLOC: &str = "/alloc?app_tag=test_business";

/// Waits for something that gives no signal.
fn await_true(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn set_step(database: &MariaDb, tag: &str, step: i64) {
    database.exec(&format!(
        "INSERT INTO segments (app_tag, max_id, step) VALUES ('{tag}', 0, {step}) ON DUPLICATE KEY UPDATE step = {step}"
    ));
}

/// The ID of an answer that is exactly as documented.
fn exact_id(response: &Response) -> i64 {
    let id = response.id();
    assert_eq!(response.body, format!(r#"{{"resp_code":0,"msg":"success","id":{id}}}"#));
    id
}

fn assert_distinct(ids: &[i64]) {
    let mut seen = HashSet::with_capacity(ids.len());
    let twice: Vec<_> = ids.iter().filter(|id| !seen.insert(**id)).take(10).collect();
    assert!(twice.is_empty(), "handed out twice: {twice:?}, of {} IDs", ids.len());
}

/// Clients that allocate, each on its own connection, until they are stopped or the server closes.
struct Load {
    tally: Arc<Tally>,
    clients: Vec<JoinHandle<Vec<i64>>>,
}

#[derive(Default)]
struct Tally {
    served: AtomicU64,
    refused: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    fn on(server: &Server, clients: usize, target: &'static str) -> Load {
        let tally = Arc::new(Tally::default());
        let port = server.port();
        let client = |_| {
            let tally = tally.clone();
            thread::spawn(move || tally.allocate(Client::connect(port), target))
        };
        Load { clients: (0..clients).map(client).collect(), tally }
    }

    fn served(&self) -> u64 {
        self.tally.served.load(Relaxed)
    }

    fn refused(&self) -> u64 {
        self.tally.refused.load(Relaxed)
    }

    /// Waits until as many more were served.
    fn await_served(&self, more: u64, when: &str) {
        let goal = self.served() + more;
        await_true(&format!("IDs {when}"), || self.served() >= goal);
    }

    /// Waits until every client has got a 503, more or less.
    fn await_refused(&self) {
        let goal = self.refused() + self.clients.len() as u64;
        await_true("503", || self.refused() >= goal);
    }

    /// Every ID that was received. A client that saw anything but an ID or a 503 fails the test.
    fn stop(self) -> Vec<i64> {
        self.tally.stop.store(true, Relaxed);
        self.clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    }
}

impl Tally {
    fn allocate(&self, mut client: Client, target: &str) -> Vec<i64> {
        let deadline = Instant::now() + 2 * PATIENCE;
        let mut ids = Vec::new();
        while !self.stop.load(Relaxed) {
            assert!(Instant::now() < deadline, "the load is not stopped");
            let Some(response) = client.try_get(target) else { break };
            match response.status {
                200 => {
                    ids.push(exact_id(&response));
                    self.served.fetch_add(1, Relaxed);
                }
                503 => {
                    assert_eq!(response.headers["retry-after"], "1", "{response:?}");
                    assert!(response.json()["id"].is_null(), "{response:?}");
                    self.refused.fetch_add(1, Relaxed);
                }
                _ => panic!("{response:?}"),
            }
        }
        ids
    }
}

fn lines_with(log: &[String], text: &str) -> usize {
    log.iter().filter(|line| line.contains(text)).count()
}

// ---- the store ----

fn a_store_that_is_down_at_start_is_waited_for(engine: &str) {
    let database = MariaDb::start();
    database.kill();
    let setup = Setup::on(&database.dsn()).key("HttpEngine", engine).key("AllocTimeout", 300);
    let mut server = setup.start();
    let mut client = server.connect();
    for target in
        [ALLOC, "/alloc?app_tag=other", "/segment?app_tag=test_business&count=5", "/health?app_tag=other"]
    {
        let health = client.get("/health");
        assert_eq!((health.status, &*health.headers["retry-after"]), (503, "1"), "{health:?}");
        let asked = Instant::now();
        let response = client.get(target);
        let waited = asked.elapsed();
        assert_eq!(
            (response.status, &*response.headers["retry-after"]),
            (503, "1"),
            "{target}: {response:?}"
        );
        assert!(waited >= Duration::from_millis(299), "{target}: {waited:?}, but the store may yet come");
        assert!(waited < Duration::from_millis(1300), "{target}: {waited:?}");
    }
    database.restart();
    let up = Instant::now();
    server.await_status("/health", 200);
    assert_eq!(client.get(ALLOC).id(), 1);
    assert!(up.elapsed() < Duration::from_secs(2), "{:?}", up.elapsed());

    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    let log = server.rest_of_log();
    assert_eq!(lines_with(&log, STORE_AWAY), 1, "{log:#?}");
    assert_eq!(lines_with(&log, "the store answers again"), 1, "{log:#?}");
    // What that comes to for the node is told as often: once.
    assert_eq!(lines_with(&log, "this node is not ready"), 1, "{log:#?}");
    assert_eq!(
        log.iter().filter(|line| line.contains("WARN") || line.contains("ERROR")).count(),
        2,
        "{log:#?}"
    );
}

/// Said once for each time that it is away; a node that is not ready may name the same cause.
const STORE_AWAY: &str = "the store does not answer: serving from memory";

/// What must happen when the store goes away under load and comes back.
fn survive(engine: &str, timeouts: &str, go: impl Fn(&MariaDb), come: impl Fn(&MariaDb)) {
    let database = MariaDb::start();
    set_step(&database, "test_business", 20);
    let mut server = Setup::on(&format!("{}{timeouts}", database.dsn()))
        .key("HttpEngine", engine)
        .key("AllocTimeout", 300)
        .start();
    server.await_status("/health", 200);
    let load = Load::on(&server, 4, ALLOC);
    load.await_served(2000, "at first");
    await_true("some thousand IDs in memory", || {
        server.get("/health?app_tag=test_business").json()["left"].as_u64().is_some_and(|left| left > 5000)
    });
    go(&database);
    load.await_served(1, "from memory");
    load.await_refused();
    server.await_status("/health", 503);
    server.await_log(STORE_AWAY);
    // For some seconds: the longer it is away, the longer are the pauses between tries, up to a limit.
    (0..15).for_each(|_| load.await_refused());
    come(&database);
    let back = Instant::now();
    load.await_served(1, "when the store is back");
    assert!(back.elapsed() < Duration::from_millis(1500), "IDs only after {:?}", back.elapsed());
    server.await_status("/health", 200);
    load.await_served(2000, "as before");

    let ids = load.stop();
    assert_distinct(&ids);
    let (min, max) = (ids.iter().min().unwrap(), ids.iter().max().unwrap());
    assert!(*min >= 1 && *max < database.max_id("test_business"), "{min} to {max}");
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    let log = server.rest_of_log();
    assert_eq!(lines_with(&log, STORE_AWAY), 0, "it was said before: {log:#?}");
    assert_eq!(lines_with(&log, "the store answers again"), 1, "{log:#?}");
}

fn a_store_that_is_killed_under_load_costs_no_id_twice(engine: &str) {
    survive(engine, "", MariaDb::kill, MariaDb::restart);
}

fn a_store_that_falls_silent_under_load_costs_no_id_twice(engine: &str) {
    survive(engine, "?timeout=1s&readTimeout=1s", MariaDb::pause, MariaDb::resume);
}

fn a_claim_waits_no_longer_than_alloc_timeout(engine: &str) {
    const TIMEOUT: Duration = Duration::from_millis(300);
    let database = MariaDb::start();
    let _lock = database.lock_row("test_business");
    let setup = Setup::on(&database.dsn()).key("HttpEngine", engine).key("PreloadTags", 0);
    let server = setup.key("AllocTimeout", TIMEOUT.as_millis() as u64).start();
    server.await_status("/health", 200);
    // One after the other, so that nothing but its own deadline ends the wait of each.
    let mut client = server.connect();
    let wait = |_| {
        let asked = Instant::now();
        let response = client.get(ALLOC);
        assert_eq!(
            (response.status, &*response.headers["retry-after"]),
            (503, "1"),
            "{engine}: {response:?}"
        );
        asked.elapsed()
    };
    let mut waits: Vec<_> = (0..10).map(wait).collect();
    waits.sort();
    assert!(waits[0] >= TIMEOUT - Duration::from_millis(1), "{engine}: {waits:?}");
    // The longest may be the fault of a busy machine.
    assert!(waits[8] < TIMEOUT + Duration::from_secs(1), "{engine}: {waits:?}");
}

fn a_locked_row_holds_up_its_own_tag_only(engine: &str) {
    let database = MariaDb::start();
    for tag in ["a", "b"] {
        set_step(&database, tag, 1);
    }
    let setup = Setup::on(&database.dsn()).key("HttpEngine", engine).key("PreloadTags", 0);
    let server = setup.key("AllocTimeout", 60_000).start();
    server.await_status("/health", 200);
    let lock = database.lock_row("a");

    let mut waiting = server.connect();
    waiting.send("GET /alloc?app_tag=a HTTP/1.1\r\nHost: test\r\n\r\n");
    let waiting = thread::spawn(move || (exact_id(&waiting.receive()), Instant::now()));
    // The store gives up on a locked row after some seconds: this lasts for two such times.
    let stop = Arc::new(AtomicBool::new(false));
    let mut other = server.connect();
    let others = thread::spawn({
        let stop = stop.clone();
        move || {
            let deadline = Instant::now() + PATIENCE;
            let mut slowest = Duration::ZERO;
            while !stop.load(Relaxed) && Instant::now() < deadline {
                let asked = Instant::now();
                exact_id(&other.get("/alloc?app_tag=b"));
                slowest = slowest.max(asked.elapsed());
            }
            slowest
        }
    });
    server.await_log("refills of the tag fail");
    stop.store(true, Relaxed);
    let slowest = others.join().unwrap();
    assert!(slowest < Duration::from_secs(1), "{engine}: tag b waited for {slowest:?}");
    assert!(!waiting.is_finished(), "{engine}: tag a is locked");
    drop(lock);
    let unlocked = Instant::now();
    let (id, served) = waiting.join().unwrap();
    let waited = served.saturating_duration_since(unlocked);
    server.await_log("refills of the tag succeed again");
    assert!(id == 1 && waited < Duration::from_secs(2), "{engine}: ID {id} after {waited:?}");
}

// ---- several servers, other tables ----

#[test]
fn several_servers_on_one_table_hand_out_distinct_ids() {
    const REQUESTS: usize = 300;
    let database = MariaDb::start();
    set_step(&database, "test_business", 5);
    let start = |engine| Setup::on(&database.dsn()).key("HttpEngine", engine).start();
    let servers = ["tokio", "may_minihttp", "tokio"].map(start);
    let clients: Vec<_> = (0..12)
        .map(|number| {
            let mut client = servers[number % servers.len()].connect();
            thread::spawn(move || (0..REQUESTS).map(|_| exact_id(&client.get(ALLOC))).collect::<Vec<_>>())
        })
        .collect();
    let of_clients: Vec<_> = clients.into_iter().map(|client| client.join().expect("a client")).collect();
    let ids = of_clients.concat();
    assert_eq!(ids.len(), 12 * REQUESTS);
    assert_distinct(&ids);
    assert!(of_clients.iter().all(|ids| ids.is_sorted()), "each client sees them ascend");
    let max = *ids.iter().max().unwrap();
    assert!(ids.iter().all(|id| *id >= 1) && max < database.max_id("test_business"));
}

#[test]
fn tables_of_other_servers_are_served_as_they_are() {
    let database = MariaDb::shared();
    database.exec(
        "CREATE TABLE go_segments_taken_over (biz_tag VARCHAR(128) NOT NULL PRIMARY KEY, max_id BIGINT NOT NULL DEFAULT 1, \
         step INT NOT NULL, description VARCHAR(256) DEFAULT NULL, \
         update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP) ENGINE = InnoDB",
    );
    database.exec("INSERT INTO go_segments_taken_over VALUES ('order', 3000, 100, 'of the shop', DEFAULT)");
    let setup =
        || Setup::on(&database.dsn()).key("table", "go_segments_taken_over").key("TagColumn", "biz_tag");
    let checked = setup().check();
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let server = setup().start();
    for id in 3000..3250 {
        assert_eq!(server.get("/alloc?app_tag=order").id(), id);
    }
    let row = || -> (i64, i64, String) {
        let found =
            database.conn().query_first("SELECT max_id, step, description FROM go_segments_taken_over");
        found.unwrap().unwrap()
    };
    let (max_id, step, description) = row();
    assert!(max_id >= 3300 && (max_id - 3000) % 100 == 0, "{max_id}");
    assert_eq!((step, &*description), (100, "of the shop"));
    assert_eq!(server.get(ALLOC).status, 404, "rows of `segments` are of another table");
}

// ---- clients ----

/// Statements that clients have sent to the database.
fn questions(database: &MariaDb) -> i64 {
    let found: Option<(String, i64)> =
        database.conn().query_first("SHOW GLOBAL STATUS LIKE 'Questions'").unwrap();
    found.unwrap().1
}

fn unknown_tags_cost_the_store_and_the_memory_nothing(engine: &str) {
    const TAGS: usize = 10_000;
    let database = MariaDb::start();
    let setup = Setup::on(&database.dsn()).key("HttpEngine", engine);
    let server = setup.key("TagReloadSeconds", 3600).start();
    server.await_status("/health", 200);
    let mut client = server.connect();
    let mut ask = |round: &str| {
        let padding = "x".repeat(100);
        for number in 0..TAGS {
            let response = client.get(&format!("/alloc?app_tag={round}{number}{padding}"));
            assert_eq!(response.status, 404, "{response:?}");
        }
    };
    // What it costs to look, which is part of the difference below.
    let own = -questions(&database) + questions(&database);
    let before = questions(&database);
    ask("first");
    let statements = questions(&database) - before - own;
    assert!(statements < 50, "{engine}: {statements} statements");

    // A leak grows in every round; the memory allocator takes its next block in few of them.
    let mut growth = ["second", "third", "fourth"].into_iter().map(|round| {
        let before = server.resident_kib();
        ask(round);
        server.resident_kib().saturating_sub(before)
    });
    assert!(
        growth.any(|kib| kib < 1500),
        "{engine}: {TAGS} unknown tags occupy 1500 KiB or more, every time"
    );
    assert_eq!(server.get(ALLOC).status, 200);
}

#[test]
fn unknown_tags_of_many_clients_at_once_wait_for_the_same_look_at_the_table() {
    let database = MariaDb::start();
    let server = Setup::on(&database.dsn()).key("TagReloadSeconds", 3600).start();
    server.await_status("/health", 200);
    let before = questions(&database);
    let port = server.port();
    let clients: Vec<_> = (0..50)
        .map(|client| {
            thread::spawn(move || {
                let mut connection = Client::connect(port);
                for number in 0..20 {
                    let response = connection.get(&format!("/health?app_tag=none-{client}-{number}"));
                    assert_eq!(response.status, 404, "{response:?}");
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    let statements = questions(&database) - before;
    assert!(statements < 50, "{statements} statements");
}

fn a_stop_under_load_garbles_nothing_and_costs_no_id_twice(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let database = MariaDb::start();
    let file = format!("sqlite:{}", directory.path().join("ids.db").display());
    for dsn in [database.dsn(), file] {
        let mut ids = Vec::new();
        for _ in 0..3 {
            let mut server = Setup::on(&dsn).key("HttpEngine", engine).start();
            let load = Load::on(&server, 8, ALLOC);
            load.await_served(1000, "at first");
            server.signal(libc::SIGTERM);
            // The server ends every client's connection.
            let ended = Instant::now();
            assert_eq!(server.wait().code(), Some(0));
            assert!(ended.elapsed() < Duration::from_secs(5), "{engine}: {:?}", ended.elapsed());
            await_true("clients see the end", || load.clients.iter().all(JoinHandle::is_finished));
            ids.extend(load.stop());
        }
        assert_distinct(&ids);
        assert!(ids.len() >= 3000 && ids.iter().all(|id| *id >= 1));
    }
}

fn embedded(engine: &str) -> (tempfile::TempDir, Setup) {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(&directory.path().join("ids.db")).key("HttpEngine", engine);
    (directory, setup)
}

fn a_connection_too_many_is_told_and_the_next_is_served_when_one_leaves(engine: &str) {
    let (_directory, setup) = embedded(engine);
    let server = setup.key("MaxConnections", 3).start();
    let mut inside: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for client in &mut inside {
        assert_eq!(client.get(ALLOC).status, 200);
    }
    for _ in 0..3 {
        let mut outside = server.connect();
        let refusal = outside.receive();
        assert_eq!((refusal.status, &*refusal.headers["retry-after"]), (503, "1"), "{refusal:?}");
        assert_eq!(refusal.headers["connection"], "close");
        assert!(refusal.json()["id"].is_null(), "{refusal:?}");
        assert!(outside.is_closed());
    }
    inside.pop();
    await_true("a place is free", || {
        let mut next = server.connect();
        next.try_get(ALLOC).is_some_and(|response| response.status == 200)
    });
    for client in &mut inside {
        assert_eq!(client.get(ALLOC).status, 200, "those inside notice nothing");
    }
}

fn a_request_that_does_not_arrive_in_time_ends_its_connection(engine: &str) {
    const TIMEOUT: Duration = Duration::from_millis(300);
    let (_directory, setup) = embedded(engine);
    let server = setup.key("HttpReadTimeout", TIMEOUT.as_millis() as u64).start();
    assert_eq!(server.get(ALLOC).id(), 1);
    let assert_ended = |client: &mut Client, began: Instant| {
        // The other engine cannot tell from outside that a part of a request is there.
        if engine == "tokio" {
            let response = client.receive();
            assert_eq!((response.status, &*response.headers["connection"]), (408, "close"), "{response:?}");
        }
        assert!(client.is_closed(), "{engine}: closed");
        let took = began.elapsed();
        assert!(took >= TIMEOUT && took < TIMEOUT + Duration::from_secs(1), "{engine}: {took:?}");
    };
    let began = Instant::now();
    let mut halted = server.connect();
    halted.send("GET /alloc?app_tag=test_business HTTP/1.1\r\nHost: te");
    assert_ended(&mut halted, began);

    let began = Instant::now();
    let mut without_body = server.connect();
    without_body.send("POST /alloc HTTP/1.1\r\nHost: test\r\nContent-Length: 21\r\n\r\napp_tag=test");
    if engine == "tokio" {
        assert_ended(&mut without_body, began);
    }

    // The deadline is that of the whole request: a byte now and then does not put it off.
    let began = Instant::now();
    let mut dripping = server.connect();
    dripping.send("GET /alloc?app_tag=test_business HTTP/1.1\r\nX: ");
    dripping.socket().set_read_timeout(Some(TIMEOUT / 6)).unwrap();
    let mut socket = dripping.socket();
    let silent = |socket: &TcpStream| socket.peek(&mut [0]).is_err_and(|error| !is_gone(&error));
    while silent(socket) && began.elapsed() < PATIENCE {
        let _ = socket.write_all(b"x");
    }
    dripping.socket().set_read_timeout(Some(PATIENCE)).unwrap();
    if engine == "tokio" {
        assert_ended(&mut dripping, began);
    } else {
        assert!(began.elapsed() < TIMEOUT + Duration::from_secs(1), "{:?}", began.elapsed());
    }
    assert_eq!(server.get(ALLOC).id(), 2, "no ID was taken for these");
}

fn an_idle_connection_is_closed_quietly_and_a_busy_one_is_not(engine: &str) {
    const TIMEOUT: Duration = Duration::from_millis(300);
    let (_directory, setup) = embedded(engine);
    let server = setup.key("HttpIdleTimeout", TIMEOUT.as_millis() as u64).key("HttpReadTimeout", 400).start();
    let mut busy = server.connect();
    let mut idle = server.connect();
    let mut silent = server.connect();
    let began = Instant::now();
    assert_eq!(idle.get(ALLOC).status, 200);
    let closed = thread::spawn(move || {
        assert!(idle.is_closed(), "without a word");
        let took = began.elapsed();
        assert!(silent.is_closed(), "without a word");
        (took, began.elapsed())
    });
    // Three idle times long, with pauses of a third of one.
    for _ in 0..9 {
        assert_eq!(busy.get(ALLOC).status, 200);
        busy.socket().set_read_timeout(Some(TIMEOUT / 3)).unwrap();
        assert!(busy.socket().peek(&mut [0]).is_err_and(|error| !is_gone(&error)), "{engine}: it stays open");
        busy.socket().set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let (idle, silent) = closed.join().unwrap();
    assert!(idle >= TIMEOUT && idle < TIMEOUT + Duration::from_secs(1), "{engine}: {idle:?}");
    assert!(silent < TIMEOUT + Duration::from_secs(1), "{engine}: {silent:?}");
}

#[test]
fn a_client_that_never_reads_is_closed_and_costs_bounded_memory() {
    const CLIENTS: usize = 8;
    let (_directory, setup) = embedded("tokio");
    let server = setup.key("HttpWriteTimeout", 300).start();
    server.await_status("/health", 200);
    let before = server.resident_kib();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
            thread::spawn(move || flood(&stream))
        })
        .collect();
    let mut most = before;
    await_true("every client is closed", || {
        most = most.max(server.resident_kib());
        clients.iter().all(JoinHandle::is_finished)
    });
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    assert!(most - before < 48 * 1024, "{} KiB for {CLIENTS} clients", most - before);
    assert_eq!(server.get(ALLOC).status, 200);
}

/// Asks for far more than the sockets hold and reads none of it, until the server closes.
fn flood(mut stream: &TcpStream) {
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {ALLOC}&count=10000 HTTP/1.1\r\nHost: test\r\n\r\n").repeat(1000);
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        assert!(Instant::now() < deadline, "the server takes all that it is sent");
        if let Err(error) = stream.write_all(request.as_bytes()) {
            break error;
        }
    };
    assert!(is_gone(&error), "the server closes: {error}");
    // Neither does it send on what it had: what arrives is what the sockets held.
    let (mut received, mut buffer) = (0, vec![0; 1 << 16]);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
        received += bytes;
        assert!(received < 64 << 20, "more than any socket holds");
    }
}
