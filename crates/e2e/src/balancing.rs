//! Three nodes behind a balancer: clients that know only the balancer notice nothing as nodes die, stop and come back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::balancer::{Balancer, Kind, quiet_port};
use idalloc_testing::ledger::Ledger;
use idalloc_testing::mariadb::MariaDb;
use idalloc_testing::server::{PATIENCE, Response, Server, Setup};

const NODES: usize = 3;
const CLIENTS: u64 = 6;
const TAG: &str = "orders";
const TOKEN: &str = "0123456789abcdef";
/// Keeps the load small: what is looked for does not depend on its size.
const PACE: Duration = Duration::from_millis(2);
/// More than HAProxy takes to find out here.
const DRAIN_SECONDS: u64 = 4;
/// How many more answers show that nothing has stopped.
const PROOF: u64 = 1000;

#[test]
fn nodes_die_stop_and_come_back_behind_haproxy() {
    nodes_die_stop_and_come_back(Kind::HaProxy);
}

#[test]
fn nodes_die_stop_and_come_back_behind_nginx() {
    nodes_die_stop_and_come_back(Kind::Nginx);
}

#[test]
fn restarts_are_not_noticed_behind_a_plain_haproxy() {
    restarts_are_not_noticed(Kind::PlainHaProxy);
}

#[test]
fn restarts_are_not_noticed_behind_a_plain_nginx() {
    restarts_are_not_noticed(Kind::PlainNginx);
}

#[test]
fn one_tag_at_fault_leaves_the_others_served_behind_haproxy() {
    one_tag_at_fault_leaves_the_others_served(Kind::HaProxy);
}

#[test]
fn one_tag_at_fault_leaves_the_others_served_behind_nginx() {
    one_tag_at_fault_leaves_the_others_served(Kind::Nginx);
}

#[test]
fn haproxy_logs_requests_without_their_tokens() {
    requests_are_logged_without_their_tokens(Kind::HaProxy);
}

#[test]
fn nginx_logs_requests_without_their_tokens() {
    requests_are_logged_without_their_tokens(Kind::Nginx);
}

#[test]
fn haproxy_passes_the_clients_host_on() {
    the_clients_host_is_passed_on(Kind::HaProxy);
}

#[test]
fn nginx_passes_the_clients_host_on() {
    the_clients_host_is_passed_on(Kind::Nginx);
}

#[test]
fn nginx_can_refuse_tokens_that_its_error_log_would_have() {
    let config = Kind::Nginx.config();
    let refusing = config.replace("# if ($args", "if ($args");
    assert_ne!(refusing, config, "the line is where the configuration says");
    let nobody: Vec<_> = (0..NODES).map(|_| quiet_port()).collect();
    let nginx = Balancer::start_with(Kind::Nginx, &refusing, &nobody);
    for query in [format!("token={TOKEN}"), format!("app_tag={TAG}&token={TOKEN}")] {
        assert_eq!(nginx.connect().get(&format!("/alloc?{query}")).status, 400, "{query}");
    }
    // What fails is logged, and what only looks like a token is not refused.
    assert_eq!(nginx.connect().get("/alloc?app_tag=my_token=1").status, 502);
    nginx.await_request_log(" 502 ");
    let log = nginx.read("error.log");
    assert!(log.contains("my_token=1") && !log.contains(TOKEN), "{log}");
}

/// Requests that a node answers, and that nobody does.
fn requests_are_logged_without_their_tokens(kind: Kind) {
    let ports: Vec<_> = (0..NODES).map(|_| quiet_port()).collect();
    let balancer = Balancer::start(kind, &ports);
    let target = format!("/alloc?app_tag={TAG}&token={TOKEN}");
    let unanswered = balancer.connect().get(&target).status;
    assert!([502, 503].contains(&unanswered), "{unanswered}");

    let dir = tempfile::tempdir().expect("a directory");
    let node = Setup::embedded(&dir.path().join("ids.db"))
        .key("HttpPort", ports[0])
        .key("AccessTokens", json!({TOKEN: "*"}))
        .start();
    node.await_status("/health", 200);
    let deadline = Instant::now() + PATIENCE;
    // The embedded table has no such tag: the node has taken the token, and looked.
    while balancer.connect().get(&target).status != 404 {
        assert!(Instant::now() < deadline, "{kind:?}: the node is not asked");
        thread::sleep(PACE);
    }
    balancer.await_request_log(" 404 ");
    let log = balancer.await_request_log(&format!(" {unanswered} "));
    assert!(log.contains("GET /alloc"), "{log}");
    assert!(!log.contains(TOKEN) && !log.contains(TAG), "{log}");
}

/// By which a node knows its own pages from those of other sites, and its names.
fn the_clients_host_is_passed_on(kind: Kind) {
    let ports: Vec<_> = (0..NODES).map(|_| quiet_port()).collect();
    let balancer = Balancer::start(kind, &ports);
    let dir = tempfile::tempdir().expect("a directory");
    let node = Setup::embedded(&dir.path().join("ids.db"))
        .key("HttpPort", ports[0])
        .key("HttpNames", json!(["ids.example"]))
        .start();
    node.await_status("/health", 200);
    let port = balancer.port();
    let status = |host: &str, origin: &str| {
        let target = "/alloc?app_tag=test_business";
        let request = format!("POST {target} HTTP/1.1\r\nHost: {host}\r\n{origin}Content-Length: 0\r\n\r\n");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut client = balancer.connect();
            client.send(&request);
            match client.receive().status {
                // It does not know yet that the node is there.
                502 | 503 => assert!(Instant::now() < deadline, "{kind:?}: the node is not asked"),
                status => return status,
            }
            thread::sleep(PACE);
        }
    };
    assert_eq!(status(&format!("ids.example:{port}"), ""), 200);
    let own = format!("Origin: https://IDS.example:{port}\r\nSec-Fetch-Site: same-origin\r\n");
    assert_eq!(status(&format!("ids.example:{port}"), &own), 200);
    assert_eq!(status(&format!("ids.example:{port}"), "Origin: https://app.example\r\n"), 403);
    assert_eq!(status(&format!("evil.example:{port}"), ""), 421);
}

fn nodes_die_stop_and_come_back(kind: Kind) {
    let site = Site::start(kind);
    site.under_load(|nodes, load| {
        (0..NODES).for_each(|node| site.balancer.await_service(node));

        drop(nodes.remove(&0));
        site.balancer.await_removal(0);
        load.await_answers();
        nodes.insert(0, site.start_node(0));
        site.balancer.await_service(0);

        let mut stopped = nodes.remove(&1).expect("a node");
        stopped.signal(libc::SIGTERM);
        assert!(stopped.wait().success(), "a clean end");
        site.balancer.await_removal(1);
        load.await_answers();
        nodes.insert(1, site.start_node(1));
        (0..NODES).for_each(|node| site.balancer.await_service(node));
    });
}

/// Whatever the balancer does about failures: there are none that it would have to do something about.
fn restarts_are_not_noticed(kind: Kind) {
    const RESTARTS: usize = 10;
    let site = Site::start(kind);
    site.under_load(|nodes, load| {
        for node in (0..NODES).cycle().take(RESTARTS) {
            (0..NODES).for_each(|node| site.balancer.await_service(node));
            let mut stopped = nodes.remove(&node).expect("a node");
            stopped.signal(libc::SIGTERM);
            assert!(stopped.wait().success(), "a clean end");
            load.await_answers();
            nodes.insert(node, site.start_node(node));
        }
    });
}

fn one_tag_at_fault_leaves_the_others_served(kind: Kind) {
    let site = Site::start(kind);
    site.db.exec("INSERT INTO segments (app_tag, max_id, step) VALUES ('faulty', 1000000, 1)");
    site.under_load(|nodes, load| {
        (0..NODES).for_each(|node| site.balancer.await_service(node));
        for server in nodes.values() {
            server.await_status("/alloc?app_tag=faulty", 200);
        }
        // The database has lost what every node was granted: each of them fences the tag when it asks for more.
        site.db.exec("UPDATE segments SET max_id = 0 WHERE app_tag = 'faulty'");
        let deadline = Instant::now() + PATIENCE;
        while !site.balancer.has_nobody() {
            assert!(Instant::now() < deadline, "{kind:?}: some node is taken for good still");
            let answer = site.balancer.connect().get("/alloc?app_tag=faulty");
            if answer.status != 200 {
                assert!(answer.body.contains("app_tag"), "not an answer of idalloc's: {answer:?}");
            }
        }
        load.await_answers();
        // Mended, the tag is served, and the nodes are taken for good again.
        site.db.exec("UPDATE segments SET max_id = 2000000 WHERE app_tag = 'faulty'");
        site.await_id("faulty");
        (0..NODES).for_each(|node| site.balancer.await_service(node));
    });
}

/// A database, and a balancer in front of places for nodes.
struct Site {
    db: MariaDb,
    ports: Vec<u16>,
    watermarks: tempfile::TempDir,
    balancer: Balancer,
}

impl Site {
    fn start(kind: Kind) -> Site {
        let db = MariaDb::start();
        db.exec(&format!("INSERT INTO segments (app_tag, max_id, step) VALUES ('{TAG}', 0, 1000)"));
        let ports: Vec<_> = (0..NODES).map(|_| quiet_port()).collect();
        let balancer = Balancer::start(kind, &ports);
        Site { db, ports, watermarks: tempfile::tempdir().expect("a directory"), balancer }
    }

    fn start_node(&self, node: usize) -> Server {
        let watermark = self.watermarks.path().join(format!("{node}.db"));
        let server = Setup::on(&self.db.dsn())
            .key("HttpPort", self.ports[node])
            .key("WatermarkPath", watermark.to_str().expect("UTF-8"))
            .key("TagReloadSeconds", 1)
            .key("DrainSeconds", DRAIN_SECONDS)
            .start();
        server.await_status("/health", 200);
        server
    }

    /// Has clients allocate while `events` happen to the nodes, and looks at what they got.
    fn under_load(&self, events: impl FnOnce(&mut HashMap<usize, Server>, &Load)) {
        let mut nodes = (0..NODES).map(|node| (node, self.start_node(node))).collect();
        self.await_id(TAG);
        let (ledger, load) = (Ledger::default(), Load::default());
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (ledger, load) = (&ledger, &load);
                scope.spawn(move || load.run(self, ledger, client));
            }
            let _stops = Stop(&load);
            load.await_answers();
            events(&mut nodes, &load);
        });
        let failures = load.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        assert!(failures.is_empty(), "clients noticed: {failures:#?}");
        ledger.assert_sound(self.db.max_id(TAG));
        eprintln!("{} requests, none failed; {:?}", load.answers.into_inner(), ledger.sums());
    }

    /// Waits until the balancer has an ID of this tag.
    fn await_id(&self, tag: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.balancer.connect().get(&format!("/alloc?app_tag={tag}")).status != 200 {
            assert!(Instant::now() < deadline, "no ID of {tag}");
            thread::sleep(PACE);
        }
    }
}

/// A request for some IDs: a GET, or every fourth time a POST.
fn alloc(turn: u64) -> String {
    let form = format!("app_tag={TAG}&count={}", 1 + turn % 3);
    let form_bytes = form.len();
    match turn % 4 {
        0 => format!(
            "POST /alloc HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {form_bytes}\r\n\r\n{form}"
        ),
        _ => format!("GET /alloc?{form} HTTP/1.1\r\nHost: test\r\n\r\n"),
    }
}

/// Clients at work.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    answers: AtomicU64,
    failures: Mutex<Vec<Option<Response>>>,
}

/// Ends the load, also when a test fails: its scope waits for the clients.
struct Stop<'a>(&'a Load);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Relaxed);
    }
}

impl Load {
    /// One client that knows nothing but the balancer, and never asks twice.
    fn run(&self, site: &Site, ledger: &Ledger, client: u64) {
        let mut connection = site.balancer.connect();
        for request in 0_u64.. {
            if self.stop.load(Relaxed) {
                return;
            }
            match connection.try_ask(&alloc(request + client)) {
                Some(answer) if answer.status == 200 => {
                    answer.ids().iter().for_each(|id| ledger.enter(*id..*id + 1, "a client"));
                    self.answers.fetch_add(1, Relaxed);
                    if answer.headers.get("connection").is_some_and(|value| value == "close") {
                        connection = site.balancer.connect();
                    }
                }
                failure => {
                    self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                    connection = site.balancer.connect();
                }
            }
            thread::sleep(PACE);
        }
    }

    /// Waits for so many more that nothing can have stopped.
    fn await_answers(&self) {
        let wanted = self.answers.load(Relaxed) + PROOF;
        let deadline = Instant::now() + PATIENCE;
        while self.answers.load(Relaxed) < wanted {
            assert!(Instant::now() < deadline, "the answers stop");
            thread::sleep(PACE);
        }
    }
}
