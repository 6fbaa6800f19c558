//! The API over real sockets: every case on both stores and on both engines.

use std::sync::{Arc, Barrier};
use std::thread;

use idalloc_testing::server::{Server, Setup};
use idalloc_testing::store::Store;

const ENGINES: [&str; 2] = ["tokio", "may_minihttp"];

/// Runs `case` on each store with each engine, with rows that may be changed beforehand.
fn everywhere(prepare: impl Fn(&Store), keys: &[(&str, i64)], case: impl Fn(&Server, &Store)) {
    for store in [Store::embedded, Store::mariadb] {
        for engine in ENGINES {
            let store = store();
            let setup = |engine| {
                let setup = Setup::on(&store.dsn).key("HttpEngine", engine);
                keys.iter().fold(setup, |setup, (name, value)| setup.key(name, *value))
            };
            if store.database.is_none() {
                // The embedded store makes its table by itself, when a server starts on it.
                setup(engine).key("PreloadTags", 0).start().await_status("/health", 200);
            }
            prepare(&store);
            let server = setup(engine).start();
            server.await_status("/health", 200);
            println!("on {} with {engine}", store.dsn);
            case(&server, &store);
        }
    }
}

fn error(status: u16, message: &str) -> (u16, String) {
    (status, format!(r#"{{"resp_code":{status},"msg":"{message}"}}"#))
}

#[test]
fn the_transcript_of_the_readme() {
    for store in [Store::embedded, Store::mariadb] {
        for engine in ENGINES {
            let store = store();
            let server = Setup::on(&store.dsn).key("HttpEngine", engine).start();
            for id in 1..=3 {
                let expected = format!(r#"{{"resp_code":0,"msg":"success","id":{id}}}"#);
                assert_eq!(server.ask("/alloc?app_tag=test_business"), (200, expected));
            }
            // The second segment follows the first within a round trip; no later than this it is there.
            server.await_status("/health", 200);
            await_row(&store, "test_business", 200_000);
            let left = r#"{"resp_code":0,"msg":"success","left":199996}"#;
            server.await_answer("/health?app_tag=test_business", left);
            assert_eq!(server.ask("/health"), (200, r#"{"resp_code":0,"msg":"success"}"#.to_owned()));
            assert_eq!(store.max_id("test_business"), 200_000, "two segments, and no third");
        }
    }
}

fn await_row(store: &Store, tag: &str, max_id: i64) {
    let deadline = std::time::Instant::now() + idalloc_testing::server::PATIENCE;
    while store.max_id(tag) != max_id {
        assert!(std::time::Instant::now() < deadline, "max_id stays at {}", store.max_id(tag));
        thread::yield_now();
    }
}

#[test]
fn every_answer_has_its_headers_and_exact_body() {
    everywhere(
        |_| {},
        &[("MaxBatch", 5), ("MaxLease", 50)],
        |server, _| {
            let long = "x".repeat(129);
            let cases = [
                ("/alloc", error(400, "app_tag is missing: give it as a parameter, 1 to 128 bytes of UTF-8")),
                ("/alloc?app_tag=", error(400, "app_tag is empty: it must be 1 to 128 bytes of UTF-8")),
                (
                    &*format!("/alloc?app_tag={long}"),
                    error(400, "app_tag is 129 bytes long: it must be 1 to 128 bytes of UTF-8"),
                ),
                ("/alloc?app_tag=%ff", error(400, "app_tag is not UTF-8")),
                (
                    "/alloc?app_tag=test_business&count=0",
                    error(400, "count is '0': it must be a number from 1 to 5"),
                ),
                (
                    "/alloc?app_tag=test_business&count=6",
                    error(400, "count is '6': it must be a number from 1 to 5"),
                ),
                (
                    "/alloc?app_tag=test_business&count=-1",
                    error(400, "count is '-1': it must be a number from 1 to 5"),
                ),
                (
                    "/alloc?app_tag=test_business&count=",
                    error(400, "count is '': it must be a number from 1 to 5"),
                ),
                (
                    "/alloc?app_tag=test_business&count=99999999999999999999",
                    error(400, "count is '99999999999999999999': it must be a number from 1 to 5"),
                ),
                (
                    "/segment?app_tag=test_business",
                    error(400, "count is missing: give the IDs to lease, 1 to 50"),
                ),
                (
                    "/segment?app_tag=test_business&count=51",
                    error(400, "count is '51': it must be a number from 1 to 50"),
                ),
                (
                    "/alloc?app_tag=no%22such",
                    error(404, r#"app_tag 'no\"such' is unknown: the table has no row for it"#),
                ),
                (
                    "/health?app_tag=none",
                    error(404, "app_tag 'none' is unknown: the table has no row for it"),
                ),
                (
                    "/segment?app_tag=none&count=1",
                    error(404, "app_tag 'none' is unknown: the table has no row for it"),
                ),
                ("/nowhere", error(404, "no such path: there are /alloc, /segment and /health")),
                (
                    "//alloc?app_tag=test_business",
                    error(404, "no such path: there are /alloc, /segment and /health"),
                ),
            ];
            let mut client = server.connect();
            for (target, (status, body)) in cases {
                let response = client.get(target);
                assert_eq!((response.status, &response.body), (status, &body), "{target}");
                assert_eq!(response.headers["content-type"], "application/json");
                assert_eq!(response.headers["cache-control"], "no-store");
                assert_eq!(response.headers["content-length"], body.len().to_string());
                assert!(httpdate::parse_http_date(&response.headers["date"]).is_ok(), "{response:?}");
            }
            client.send("DELETE /alloc?app_tag=test_business HTTP/1.1\r\nHost: test\r\n\r\n");
            let response = client.receive();
            assert_eq!((response.status, &*response.headers["allow"]), (405, "GET, HEAD, POST, OPTIONS"));
            assert_eq!(client.get("/alloc?app_tag=test_business").id(), 1, "nothing above took an ID");
        },
    );
}

#[test]
fn parameters_come_in_any_order_and_encoding_and_in_a_form() {
    let prepare = |store: &Store| store.set_row("a b/\u{8ba2}", 1000);
    everywhere(prepare, &[], |server, _| {
        let mut client = server.connect();
        assert_eq!(client.get("/alloc?x=1&app_tag=a+b%2f%e8%ae%a2&y").id(), 1);
        assert_eq!(client.get("/alloc?count=2&app_tag=a%20b%2F%E8%AE%A2").ids(), [2, 3]);
        let form = "count=2&app_tag=a+b%2F%E8%AE%A2";
        client.send(&format!(
            "POST /alloc HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\n{form}",
            form.len()
        ));
        assert_eq!(client.receive().ids(), [4, 5]);
        client.send("POST /alloc?app_tag=test_business HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(client.receive().id(), 1, "a POST needs no body");
        client.send("POST /alloc?app_tag=test_business HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\n{\"x\":123}");
        assert_eq!(client.receive().id(), 2, "a body that is no form is ignored");
    });
}

#[test]
fn a_head_takes_no_id() {
    everywhere(
        |_| {},
        &[],
        |server, _| {
            let mut client = server.connect();
            assert_eq!(client.get("/alloc?app_tag=test_business").id(), 1);
            for target in
                ["/alloc?app_tag=test_business", "/segment?app_tag=test_business&count=5", "/health"]
            {
                client.send(&format!("HEAD {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
                assert_eq!(client.receive_head().status, 200, "{target}");
            }
            client.send("HEAD /alloc?app_tag=none HTTP/1.1\r\nHost: test\r\n\r\n");
            assert_eq!(client.receive_head().status, 404);
            assert_eq!(client.get("/alloc?app_tag=test_business").id(), 2);
        },
    );
}

#[test]
fn batches_cross_the_ends_of_segments() {
    let prepare = |store: &Store| store.set_row("small", 7);
    everywhere(prepare, &[], |server, _| {
        let mut client = server.connect();
        let mut all = Vec::new();
        for count in [3, 10, 1, 25, 100, 7, 1000] {
            let response = client.get(&format!("/alloc?app_tag=small&count={count}"));
            let ids = response.ids();
            assert_eq!(ids.len(), count, "{response:?}");
            all.extend(ids);
        }
        assert!(all.is_sorted_by(|a, b| a < b), "distinct and ascending");
        assert_eq!((all[0], all[all.len() - 1]), (1, all.len() as i64), "and none is left out");
    });
}

#[test]
fn a_lease_is_cut_from_the_lowest_ids_in_one_piece() {
    let prepare = |store: &Store| store.set_row("leases", 100);
    everywhere(prepare, &[], |server, store| {
        let lease = |count: u64| {
            let response = server.get(&format!("/segment?app_tag=leases&count={count}"));
            let body = response.json();
            assert_eq!(response.status, 200, "{response:?}");
            (body["start"].as_i64().unwrap(), body["end"].as_i64().unwrap())
        };
        server.await_status("/health?app_tag=leases", 200);
        await_row(store, "leases", 200);
        assert_eq!(lease(10), (1, 11), "the head has them");
        assert_eq!(lease(5000), (11, 5011), "the head has not: it is cut from the lowest IDs, in one piece");
        assert!(store.max_id("leases") >= 5200, "5000 more were reserved for it");
        assert_eq!(server.get("/alloc?app_tag=leases").id(), 5011, "the rest is neither drained nor wasted");
        assert_eq!(lease(88), (5012, 5100), "the head has them");
    });
}

#[test]
fn two_hundred_callers_at_step_one() {
    let prepare = |store: &Store| store.set_row("one", 1);
    everywhere(prepare, &[], |server, _| {
        let start = Arc::new(Barrier::new(200));
        let port = server.port();
        let callers: Vec<_> = (0..200)
            .map(|_| {
                let start = start.clone();
                thread::spawn(move || {
                    let mut client = idalloc_testing::server::Client::connect(port);
                    start.wait();
                    (0..5).map(|_| client.get("/alloc?app_tag=one")).collect::<Vec<_>>()
                })
            })
            .collect();
        let responses: Vec<_> = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        let mut ids: Vec<_> = responses.iter().map(|response| response.id()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 1000, "every caller was served, and no ID twice");
    });
}

#[test]
fn a_bad_step_is_a_clear_error_until_the_row_is_mended() {
    let prepare = |store: &Store| {
        store.set_row("zero", 0);
        store.set_row("minus", -5);
        store.set_row("huge", 9_000_000_000_000_000_000);
    };
    everywhere(prepare, &[("TagReloadSeconds", 1)], |server, store| {
        let message = |tag, step: i64| {
            format!(
                "app_tag '{tag}' gets no IDs: its step is {step} in the table; it must be 1 to 1000000000"
            )
        };
        assert_eq!(server.ask("/alloc?app_tag=zero"), error(503, &message("zero", 0)));
        let response = server.get("/alloc?app_tag=minus");
        assert_eq!((response.status, &*response.headers["retry-after"]), (503, "1"));
        assert_eq!(server.ask("/alloc?app_tag=minus"), error(503, &message("minus", -5)));
        let huge = message("huge", 9_000_000_000_000_000_000);
        assert_eq!(server.ask("/alloc?app_tag=huge"), error(503, &huge));
        store.set_row("huge", 1_000_000_000);
        assert_eq!(server.await_status("/alloc?app_tag=huge", 200).id(), 1, "a step too large takes nothing");
        assert_eq!(server.ask("/health").0, 200, "nothing that was served before is missing");
        store.set_row("zero", 10);
        assert_eq!(server.await_status("/alloc?app_tag=zero", 200).id(), 1);
        store.set_row("zero", 0);
        // What is in memory goes on being served, and then the error comes again.
        server.await_status("/alloc?app_tag=zero&count=500", 503);
        store.set_row("zero", 10);
        // A batch that did not get all of its IDs has taken none.
        assert!(server.await_status("/alloc?app_tag=zero", 200).id() > 10);
    });
}

#[test]
fn rows_that_come_and_go_are_noticed() {
    everywhere(
        |_| {},
        &[("TagReloadSeconds", 1)],
        |server, store| {
            assert_eq!(server.ask("/alloc?app_tag=late").0, 404);
            store.set_row("late", 50);
            assert_eq!(server.await_status("/alloc?app_tag=late", 200).id(), 1);
            await_row(store, "late", 100);
            store.delete_row("late");
            server.await_status("/alloc?app_tag=late", 404);
            store.set_row("late", 50);
            let fenced = server.await_status("/alloc?app_tag=late", 503);
            // The refused reservation has changed nothing: the remedy is what was granted before.
            assert!(fenced.body.contains("raise max_id to 100 or more"), "no ID twice: {fenced:?}");
            assert_eq!(store.max_id("late"), 0);
            store.exec("UPDATE segments SET max_id = 200 WHERE app_tag = 'late'");
            assert_eq!(server.await_status("/alloc?app_tag=late", 200).id(), 200, "of the new row");
        },
    );
}

#[test]
fn a_fresh_row_serves_when_it_is_asked_for_and_not_only_after_the_next_reload() {
    everywhere(
        |_| {},
        &[("TagReloadSeconds", 3600)],
        |server, store| {
            assert_eq!(server.ask("/alloc?app_tag=fresh").0, 404);
            store.set_row("fresh", 50);
            assert_eq!(server.await_status("/alloc?app_tag=fresh", 200).id(), 1);
        },
    );
}

#[test]
fn the_step_may_change_under_load() {
    let prepare = |store: &Store| store.set_row("moving", 10);
    everywhere(prepare, &[("TagReloadSeconds", 1)], |server, store| {
        let port = server.port();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let stop = stop.clone();
                thread::spawn(move || {
                    let mut client = idalloc_testing::server::Client::connect(port);
                    let mut ids = Vec::new();
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        ids.push(client.get("/alloc?app_tag=moving").id());
                    }
                    ids
                })
            })
            .collect();
        for step in [1, 1000, 3, 50_000, 7] {
            let before = store.max_id("moving");
            store.set_row("moving", step);
            let deadline = std::time::Instant::now() + idalloc_testing::server::PATIENCE;
            while store.max_id("moving") == before && std::time::Instant::now() < deadline {
                thread::yield_now();
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let mut ids: Vec<_> = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        let asked = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), asked, "no ID twice");
        assert!(ids[0] >= 1 && ids[ids.len() - 1] < store.max_id("moving"), "and none that was not reserved");
    });
}
