//! The operator's port over real sockets.

use idalloc_testing::on_each_engine;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use idalloc_testing::mariadb::{MariaDb, free_port};
use idalloc_testing::server::{Client, PATIENCE, Response, Server, Setup};
use serde_json::{Value, json};

const TOKEN: &str = "hunter2-hunter2-hunter2";

on_each_engine! {
    figures_say_what_was_served
    a_claim_that_waits_is_measured
}

fn embedded(directory: &Path) -> Setup {
    Setup::embedded(&directory.join("ids.db")).admin()
}

/// A server on a file of its own that is ready.
fn ready(directory: &Path) -> Server {
    let server = embedded(directory).start();
    server.await_status("/health", 200);
    server
}

/// Adds rows to the embedded store, whose table a server has made before.
fn add_rows(directory: &Path, rows: impl Iterator<Item = (String, i64)>) {
    let mut file = rusqlite::Connection::open(directory.join("ids.db")).unwrap();
    file.busy_timeout(PATIENCE).unwrap();
    let adding = file.transaction().unwrap();
    for (tag, step) in rows {
        let sql = "INSERT INTO segments (app_tag, max_id, step) VALUES (?1, 0, ?2)";
        adding.execute(sql, rusqlite::params![tag, step]).unwrap();
    }
    adding.commit().unwrap();
}

/// Makes the table, with these rows beside the first.
fn with_rows(directory: &Path, rows: impl Iterator<Item = (String, i64)>) {
    Setup::embedded(&directory.join("ids.db")).start().await_status("/health", 200);
    add_rows(directory, rows);
}

fn get(server: &Server, target: &str) -> Response {
    server.admin().get_admin(target)
}

fn json_of(server: &Server, target: &str) -> Value {
    let response = get(server, target);
    assert_eq!(response.status, 200, "{target}: {response:?}");
    assert_eq!(response.headers["content-type"], "application/json", "{target}");
    response.json()
}

fn await_json(server: &Server, target: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = get(server, target).json();
        if is_it(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{target} stays at {answer}");
        thread::sleep(Duration::from_millis(20));
    }
}

// ---- how the node is doing ----

#[test]
fn a_node_that_serves_says_so_with_everything_an_operator_asks() {
    let directory = tempfile::tempdir().unwrap();
    let server =
        embedded(directory.path()).key("AccessTokens", json!({TOKEN: "*"})).key("LogFormat", "json").start();
    server.await_status("/health", 200);
    assert_eq!(json_of(&server, "/livez"), json!({"live": true}));
    assert_eq!(json_of(&server, "/readyz"), json!({"ready": true, "not_ready": []}));
    let status = json_of(&server, "/api/status");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (&status["health"], &status["health_detail"], &status["engine"]),
        (&json!("serving"), &json!(null), &json!("tokio"))
    );
    let store = &status["store"];
    assert_eq!(
        (&store["kind"], &store["host"], &store["state"]),
        (&json!("sqlite"), &json!(null), &json!("answering"))
    );
    assert_eq!(store["last_error"], json!(null));
    assert!(store["since_ms"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{store}");
    assert_eq!(status["tags"], json!({"total": 1, "fenced": 0, "broken": 0, "exhausted": 0, "starving": 0}));
    assert_eq!(status["config"]["LogFormat"], "json");
    assert_eq!(status["config"]["AccessTokens"], "***");
    assert_eq!(status["config"]["AdminPort"], server.admin_port());
    assert!(!status.to_string().contains(TOKEN));
}

#[test]
fn a_node_whose_store_never_answered_is_alive_and_not_ready() {
    let port = free_port();
    let server = Setup::on(&format!("root:{TOKEN}@tcp(127.0.0.1:{port})/db?timeout=1s")).admin().start();
    assert_eq!(get(&server, "/livez").status, 200);
    let ready = get(&server, "/readyz");
    assert_eq!(
        (ready.status, ready.json()),
        (503, json!({"ready": false, "not_ready": ["tags not loaded"]}))
    );
    let status = await_json(&server, "/api/status", |status| status["store"]["state"] == "away");
    assert_eq!(
        (&status["health"], &status["health_detail"]),
        (&json!("starting"), &json!("tags not loaded"))
    );
    let error = status["store"]["last_error"].as_str().unwrap();
    assert!(error.contains(&format!("127.0.0.1:{port}")) && !status.to_string().contains(TOKEN), "{status}");
}

#[test]
fn a_store_that_goes_and_comes_back_is_seen() {
    let database = MariaDb::start();
    let dsn = format!("{}?timeout=1s", database.dsn());
    let server = Setup::on(&dsn).admin().key("TagReloadSeconds", 1).start();
    server.await_status("/health", 200);
    let status = json_of(&server, "/api/status");
    assert_eq!(status["store"]["host"], format!("127.0.0.1:{}", database.port()));
    database.kill();
    let away = await_json(&server, "/api/status", |status| status["store"]["state"] == "away");
    assert_eq!(away["health"], "serving", "from memory");
    let metrics = get(&server, "/metrics").body;
    assert!(metrics.contains("\nidalloc_store_up 0\n"));
    assert!(metrics.contains("\nidalloc_segment_seconds 10\n"), "what the alarm of low supply is about");
    database.restart();
    let back = await_json(&server, "/api/status", |status| status["store"]["state"] == "answering");
    assert!(back["store"]["since_ms"].as_u64() >= away["store"]["since_ms"].as_u64());
    assert!(back["store"]["last_error"].is_string(), "the last one is remembered");
}

#[test]
fn a_node_that_stops_is_not_ready_and_still_answers_its_operator() {
    let database = MariaDb::start();
    let server = Setup::on(&database.dsn()).admin().key("PreloadTags", 0).key("AllocTimeout", 60_000).start();
    server.await_status("/health", 200);
    let lock = database.lock_row("test_business");
    let mut claim = server.connect();
    claim.send("GET /alloc?app_tag=test_business HTTP/1.1\r\nHost: test\r\n\r\n");
    await_figure(&server, "idalloc_claims_waiting", 1.0);
    server.signal(libc::SIGTERM);
    server.await_log("stopping");
    let ready = await_json(&server, "/readyz", |ready| ready["ready"] == false);
    assert_eq!(ready["not_ready"], json!(["this server is stopping"]));
    assert_eq!(json_of(&server, "/api/status")["health"], "stopping");
    drop(lock);
    assert_eq!(claim.receive().status, 200);
}

#[test]
fn a_port_in_use_is_an_error_that_names_the_key() {
    let directory = tempfile::tempdir().unwrap();
    let server = ready(directory.path());
    let ended =
        Setup::embedded(&directory.path().join("other.db")).key("AdminPort", server.admin_port()).refused();
    let complaint = ended.complaint();
    for part in ["127.0.0.1", &server.admin_port().to_string(), "in use", "AdminPort"] {
        assert!(complaint.contains(part), "no {part:?} in {complaint}");
    }
    assert_eq!(ended.stdout, "");
}

// ---- who may ask ----

/// The status of a GET with these header lines, Host among them.
fn status_with(server: &Server, target: &str, headers: &[&str]) -> u16 {
    let mut client = server.admin();
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    client.send(&format!("GET {target} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"));
    client.receive().status
}

#[test]
fn a_probe_need_not_name_a_host() {
    let directory = tempfile::tempdir().unwrap();
    let server = ready(directory.path());
    let status = |target: &str, version: &str, headers: &str| {
        let mut client = server.admin();
        client.send(&format!("GET {target} HTTP/{version}\r\n{headers}Connection: close\r\n\r\n"));
        client.receive().status
    };
    for probe in ["/livez", "/readyz"] {
        for (version, headers) in [("1.0", ""), ("1.0", "Host:\r\n"), ("1.1", "Host:\r\n")] {
            assert_eq!(status(probe, version, headers), 200, "{probe} {version} {headers:?}");
        }
        assert_eq!(status(probe, "1.1", ""), 403, "HTTP/1.1 needs the header");
        assert_eq!(status(probe, "1.0", "Host: evil.example\r\n"), 403);
        assert_eq!(status(probe, "1.0", "Origin: http://evil.example\r\n"), 403);
    }
    for other in ["/", "/metrics", "/api/status"] {
        assert_eq!(status(other, "1.0", ""), 403, "{other}");
        assert_eq!(status(other, "1.1", "Host:\r\n"), 403, "{other}");
    }
}

#[test]
fn pages_of_other_sites_and_names_that_lead_here_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let server = ready(directory.path());
    for target in ["/api/status", "/livez", "/metrics", "/nothing"] {
        let good = if target == "/nothing" { 404 } else { 200 };
        for (headers, expected) in [
            (&["Host: 127.0.0.1:8881"][..], good),
            (&["Host: localhost"], good),
            (&["Host: [::1]:80", "Origin: http://[::1]:80"], good),
            (&["Host: 10.0.0.7", "Origin: https://10.0.0.7"], good),
            (&["Host: evil.example"], 403),
            (&["Host: localhost.evil.example:8881"], 403),
            (&["Host: 127.0.0.1:8881", "Origin: http://evil.example"], 403),
            (&["Host: 127.0.0.1:8881", "Origin: http://127.0.0.1:8882"], 403),
            (&["Host: 127.0.0.1:8881", "Origin: null"], 403),
            (&["Host: 127.0.0.1", "Origin: http://127.0.0.1", "Origin: http://evil.example"], 400),
            (&["Host: 127.0.0.1", "Host: evil.example"], 400),
            (&["X-Nothing: 1"], 403),
            (&["Host: localhost", "Sec-Fetch-Site: same-origin"], good),
            (&["Host: localhost", "Sec-Fetch-Site: none"], good),
            // An image, or what else has no Origin.
            (&["Host: localhost", "Sec-Fetch-Site: cross-site"], 403),
            (&["Host: localhost", "Sec-Fetch-Site: same-site"], 403),
        ] {
            assert_eq!(status_with(&server, target, headers), expected, "{target} {headers:?}");
        }
    }
    assert_eq!(status_with(&server, "/", &["Host: localhost", "Sec-Fetch-Site: cross-site"]), 200, "a link");
    assert_eq!(status_with(&server, "http://evil.example/livez", &["Host: 127.0.0.1"]), 403);
    assert_eq!(status_with(&server, "http://127.0.0.1/livez", &["Host: evil.example"]), 403);
    let answer = server.admin().ask_admin("GET", "/api/status", &["Origin: http://127.0.0.1"], "");
    assert!(!answer.headers.keys().any(|name| name.starts_with("access-control")), "{answer:?}");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["cross-origin-opener-policy"], "same-origin");
    assert!(answer.headers["content-security-policy"].contains("frame-ancestors 'none'"));
}

#[test]
fn the_port_may_have_names() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(&directory.path().join("ids.db")).admin();
    let server = setup.key("AdminNames", vec!["ids.example", "idalloc-0.idalloc-nodes"]).start();
    server.await_status("/health", 200);
    for (headers, expected) in [
        (&["Host: idalloc-0.idalloc-nodes:8881"][..], 200),
        (&["Host: 127.0.0.1:8881"], 200),
        // A proxy that speaks TLS, and leaves Host and Origin as they are.
        (&["Host: ids.example", "Origin: https://ids.example"], 200),
        (&["Host: ids.example", "Origin: https://idalloc-0.idalloc-nodes"], 403),
        (&["Host: idalloc-1.idalloc-nodes:8881"], 403),
        (&["Host: evil.example"], 403),
    ] {
        assert_eq!(status_with(&server, "/api/status", headers), expected, "{headers:?}");
    }
}

#[test]
fn a_body_must_be_json_and_what_is_not_there_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let server = ready(directory.path());
    let mut client = server.admin();
    let types =
        ["Content-Type: text/plain", "Content-Type: application/x-www-form-urlencoded", "X-Nothing: 1"];
    for (method, target) in [
        ("POST", "/api/tags"),
        ("PATCH", "/api/tags/test_business"),
        ("DELETE", "/api/tags/test_business?confirm=test_business"),
        ("POST", "/api/tags/test_business/advance"),
        ("DELETE", "/api/tag?app_tag=test_business&confirm=test_business"),
    ] {
        for content_type in types {
            let response = client.ask_admin(method, target, &[content_type], "{\"to\":5}");
            assert_eq!(response.status, 415, "{method} {target} {content_type}: {response:?}");
        }
    }
    for method in ["POST", "PATCH", "DELETE", "PUT"] {
        for content_type in types.into_iter().chain(["Content-Type: application/json; charset=utf-8"]) {
            let response = client.ask_admin(method, "/api/status", &[content_type], "{}");
            assert_eq!((response.status, &*response.headers["allow"]), (405, "GET,HEAD"), "{method}");
            assert!(response.json()["error"]["message"].is_string());
        }
    }
    let response = client.get_admin("/api/nothing");
    let expected = json!({"error": {"field": null, "message": "there is no such path"}});
    assert_eq!((response.status, response.json()), (404, expected));
}

#[test]
fn a_host_or_an_origin_that_is_refused_is_named_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let server = embedded(directory.path()).key("AdminNames", vec!["ids.example"]).start();
    server.await_status("/health", 200);
    let ask = |target: &str, headers: &str| {
        let mut client = server.admin();
        client.send(&format!("GET {target} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"));
        client.receive()
    };
    let page = ask("/", "Host: other.example:8881\r\n");
    assert_eq!((page.status, &*page.headers["content-type"]), (403, "text/plain; charset=utf-8"));
    let api = ask("/api/status", "Host: other.example:8881\r\n");
    for text in [&page.body, api.json()["error"]["message"].as_str().unwrap()] {
        assert!(
            text.contains("Host is other.example:8881") && text.contains("add it to AdminNames"),
            "{text}"
        );
    }
    // A proxy that puts the address of this port in place of the name that the browser has.
    let proxied = "Host: 127.0.0.1:8881\r\nOrigin: https://ids.example\r\n";
    let refused = ask("/api/status", proxied);
    let text = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(refused.status, 403);
    for part in
        ["Origin is https://ids.example", "Host is 127.0.0.1:8881", "proxy_set_header Host", "AdminNames"]
    {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    // The browser knows that the page is of the address that it asks, and the operator that this is one of ours.
    assert_eq!(ask("/api/status", &format!("{proxied}Sec-Fetch-Site: same-origin\r\n")).status, 200);
    // The files of the page say what is wrong, so they must come; what they hold is no secret.
    assert_eq!(ask("/assets/app.js", proxied).status, 200);
    assert_eq!(ask("/assets/app.js", "Host: other.example\r\n").status, 403);
    for headers in [
        "Host: 127.0.0.1:8881\r\nOrigin: https://evil.example\r\nSec-Fetch-Site: same-origin\r\n",
        "Host: 127.0.0.1:8881\r\nOrigin: https://ids.example\r\nSec-Fetch-Site: same-site\r\n",
        "Host: 127.0.0.1:8881\r\nOrigin: null\r\nSec-Fetch-Site: same-origin\r\n",
    ] {
        assert_eq!(ask("/api/status", headers).status, 403, "{headers}");
    }
}

#[test]
fn with_a_token_only_probes_and_the_page_are_for_everybody() {
    let directory = tempfile::tempdir().unwrap();
    let server = embedded(directory.path()).key("AdminToken", TOKEN).start();
    let mut client = server.admin();
    for target in ["/livez", "/readyz"] {
        assert_ne!(client.get_admin(target).status, 401, "{target}");
    }
    // Why a node is not ready names tags.
    server.await_status("/health", 200);
    let right = format!("Authorization: Bearer {TOKEN}");
    let wrong = format!("Authorization: Bearer {TOKEN}x");
    for (given, expected) in [
        ("X-Nothing: 1", json!({"ready": true})),
        (&wrong, json!({"ready": true})),
        (&right, json!({"ready": true, "not_ready": []})),
    ] {
        assert_eq!(client.ask_admin("GET", "/readyz", &[given], "").json(), expected, "{given}");
    }
    for target in
        ["/metrics", "/api/status", "/api/tags", "/api/events", "/nothing", "/livez/", "/api/../livez"]
    {
        for given in [
            "X-Nothing: 1".to_owned(),
            "Authorization: Bearer".to_owned(),
            format!("Authorization: Basic {TOKEN}"),
            format!("Authorization: {TOKEN}"),
            format!("Authorization: Bearer {}", &TOKEN[1..]),
            format!("Authorization: Bearer {TOKEN}x"),
            format!("Authorization: Bearer {}", TOKEN.to_uppercase()),
        ] {
            let response = client.ask_admin("GET", target, &[&given], "");
            assert_eq!(
                (response.status, &*response.headers["www-authenticate"]),
                (401, "Bearer"),
                "{target} {given}"
            );
            assert!(!response.body.contains("hunter2"));
        }
    }
    let right = format!("Authorization: bearer {TOKEN}");
    assert_eq!(client.ask_admin("GET", "/api/status", &[&right], "").status, 200);
    let twice = client.ask_admin("GET", "/api/status", &[&right, "Authorization: Bearer x"], "");
    assert_eq!(twice.status, 400);
}

// ---- limits ----

#[test]
fn silent_connections_do_not_keep_probes_out() {
    let directory = tempfile::tempdir().unwrap();
    let server = ready(directory.path());
    let mut operator = server.admin();
    assert_eq!(operator.get_admin("/api/status").status, 200);
    let mut silent: Vec<_> = (0..64).map(|_| server.admin()).collect();
    // A head that does not end is no request either.
    silent[1].send("GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n");
    for _ in 0..3 {
        assert_eq!(get(&server, "/livez").status, 200);
        assert_eq!(get(&server, "/readyz").status, 200);
    }
    let figures = figures_on(&mut operator);
    let refused =
        |from: &str| figures[&format!("idalloc_admin_connections_refused_total{{from=\"{from}\"}}")];
    assert_eq!((refused("operators"), figures["idalloc_admin_connections{from=\"operators\"}"]), (0.0, 1.0));
    // A probe that has left makes room for the next one, if that comes late enough.
    let closed = refused("others") as usize;
    assert!((1..=6).contains(&closed), "{closed}");
    assert!(silent[..closed].iter_mut().all(|client| client.try_receive(true).is_none()), "the oldest go");
    assert_eq!(silent[63].get_admin("/livez").status, 200, "the others stay");
    assert!(server.await_log("the oldest silent ones are closed").contains("closed=1"));
    assert_eq!(server.get("/alloc?app_tag=test_business").status, 200, "the hot port is not disturbed");
    // Each is closed when its time is over.
    let began = Instant::now();
    assert!(silent[closed..].iter_mut().all(|client| client.try_receive(true).is_none()));
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn operators_are_bounded_and_leave_room_for_probes() {
    let directory = tempfile::tempdir().unwrap();
    let server = ready(directory.path());
    let mut operators: Vec<_> = (0..64).map(|_| server.admin()).collect();
    assert!(operators.iter_mut().all(|client| client.get_admin("/api/status").status == 200));
    let mut late = server.admin();
    let refused = late.get_admin("/api/status");
    assert_eq!((refused.status, &*refused.headers["connection"]), (503, "close"), "{refused:?}");
    assert!(refused.body.contains("64 connections of operators"), "{refused:?}");
    assert_eq!(get(&server, "/livez").status, 200);
    let refused =
        figures_on(&mut operators[0])["idalloc_admin_connections_refused_total{from=\"operators\"}"];
    assert_eq!(refused, 1.0);
    drop(operators);
    let deadline = Instant::now() + PATIENCE;
    while get(&server, "/api/status").status != 200 {
        assert!(Instant::now() < deadline, "the places of those who left are not free");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn wrong_tokens_are_counted_and_told_of_at_a_bounded_rate() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = embedded(directory.path()).key("AdminToken", TOKEN).start();
    server.await_status("/health", 200);
    let began = Instant::now();
    let mut client = server.admin();
    let peer = client.socket().local_addr().unwrap();
    for target in ["/api/status", "/readyz", "/metrics"].into_iter().cycle().take(30) {
        client.ask_admin("GET", target, &[&format!("Authorization: Bearer {TOKEN}x")], "");
    }
    for _ in 0..5 {
        assert_eq!(client.get_admin("/api/status").status, 401);
    }
    let metrics = client.ask_admin("GET", "/metrics", &[&format!("Authorization: Bearer {TOKEN}")], "").body;
    assert!(metrics.contains("idalloc_admin_denied_total{token=\"wrong\"} 30\n"), "{metrics}");
    assert!(metrics.contains("idalloc_admin_denied_total{token=\"none\"} 5\n"), "{metrics}");
    server.signal(libc::SIGTERM);
    server.wait();
    let log = server.rest_of_log();
    let told: Vec<_> = log.iter().filter(|line| line.contains("token that is not AdminToken")).collect();
    assert!((1..=1 + began.elapsed().as_secs() / 10).contains(&(told.len() as u64)), "{log:?}");
    assert!(told[0].contains(&format!("peer={peer}")) && told[0].contains("refused=1"), "{told:?}");
    assert!(!log.iter().any(|line| line.contains(TOKEN)), "{log:?}");
}

#[test]
fn searches_over_many_tags_do_not_hold_up_probes() {
    let directory = tempfile::tempdir().unwrap();
    with_rows(directory.path(), (0..100_000).map(|n| (format!("tag-{n:06}"), 1)));
    let server = ready(directory.path());
    await_json(&server, "/api/tags?limit=1", |page| page["total"] == 100_001);
    let mut searches: Vec<_> = (0..30).map(|_| server.admin()).collect();
    for search in &mut searches {
        search.send(
            "GET /api/tags?search=g&sort=supply&offset=90000&limit=1000 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        );
    }
    let mut probe = server.admin();
    assert_eq!(probe.get_admin("/livez").status, 200);
    assert_eq!(probe.get_admin("/readyz").status, 200);
    assert_eq!(probe.get_admin("/metrics").status, 200);
    let last = searches.last().unwrap().socket();
    last.set_nonblocking(true).unwrap();
    assert!(last.peek(&mut [0]).is_err(), "the searches are not done, or this shows nothing");
    last.set_nonblocking(false).unwrap();
    assert!(searches.iter_mut().all(|search| search.receive().status == 200));
}

// ---- events ----

/// One stream of events.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(server: &Server) -> Stream {
        let mut stream = TcpStream::connect(("127.0.0.1", server.admin_port())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
        Stream(BufReader::new(stream))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.0.read_line(&mut line).expect("a line"), 0, "the stream has ended");
        line.trim_end().to_owned()
    }

    fn status(&mut self) -> u16 {
        self.line().split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The next event's name and data.
    fn event(&mut self) -> (String, Value) {
        loop {
            // What else there is: headers, and the sizes of chunks.
            let line = self.line();
            if let Some(name) = line.strip_prefix("event: ") {
                let data = self.line();
                let data = data.strip_prefix("data: ").unwrap_or_else(|| panic!("no data: {data:?}"));
                return (name.to_owned(), serde_json::from_str(data).unwrap());
            }
        }
    }
}

#[test]
fn events_begin_with_the_history_and_follow_the_load() {
    let directory = tempfile::tempdir().unwrap();
    let server = ready(directory.path());
    let mut stream = Stream::open(&server);
    let (name, history) = stream.event();
    assert!(name == "history" && history.is_array(), "{name} {history}");
    // The requests that waited for the start are in this one, or before it.
    stream.event();
    let mut client = server.connect();
    let deadline = Instant::now() + PATIENCE;
    let sample = loop {
        for _ in 0..50 {
            assert_eq!(client.get("/alloc?app_tag=test_business&count=10").status, 200);
        }
        let (name, sample) = stream.event();
        assert_eq!(name, "sample");
        if sample["ids_per_s"].as_f64() > Some(0.0) {
            break sample;
        }
        assert!(Instant::now() < deadline, "{sample}");
    };
    let (ids, requests) = (sample["ids_per_s"].as_f64().unwrap(), sample["requests_per_s"].as_f64().unwrap());
    assert!((ids / requests - 10.0).abs() < 0.1, "ten IDs a request: {sample}");
    assert!(sample["reservation_p50_ms"].as_f64() > Some(0.0), "{sample}");
    assert!(sample["reservation_p99_ms"].as_f64() >= sample["reservation_p50_ms"].as_f64());
    assert_eq!((&sample["waiting"], &sample["connections"]), (&json!(0), &json!(1)));
    assert_eq!((&sample["health"], &sample["health_detail"]), (&json!("serving"), &json!(null)));
    assert_eq!(sample["tags"], json!({"total": 1, "fenced": 0, "broken": 0, "exhausted": 0, "starving": 0}));
    let (_, history) = Stream::open(&server).event();
    assert!(history.as_array().unwrap().contains(&sample), "who comes later sees it in the history");
}

#[test]
fn a_proxy_is_told_to_pass_events_on_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = ready(directory.path());
    let mut stream = Stream::open(&server);
    let head: Vec<_> =
        std::iter::from_fn(|| Some(stream.line())).take_while(|line| !line.is_empty()).collect();
    for header in
        ["content-type: text/event-stream", "x-accel-buffering: no", "cache-control: no-store, no-transform"]
    {
        assert!(head.contains(&header.to_owned()), "no {header} in {head:?}");
    }
    // The first chunk, which has the proxy pass on the head, is a comment.
    stream.line();
    assert_eq!(stream.line(), ": idalloc");
}

#[test]
fn streams_are_bounded_and_leave_room_for_probes() {
    let directory = tempfile::tempdir().unwrap();
    let server = ready(directory.path());
    let mut streams: Vec<_> = (0..32).map(|_| Stream::open(&server)).collect();
    assert!(streams.iter_mut().all(|stream| stream.event().0 == "history"));
    assert_eq!(Stream::open(&server).status(), 503);
    assert_eq!(get(&server, "/livez").status, 200);
    drop(streams);
    let deadline = Instant::now() + PATIENCE;
    while Stream::open(&server).status() != 200 {
        assert!(Instant::now() < deadline, "the places of those who left are not free");
        thread::sleep(Duration::from_millis(20));
    }
}

// ---- figures ----

/// Every series of /metrics, by its name and labels as they are written.
fn figures(server: &Server) -> BTreeMap<String, f64> {
    figures_on(&mut server.admin())
}

fn figures_on(client: &mut Client) -> BTreeMap<String, f64> {
    let response = client.get_admin("/metrics");
    assert_eq!((response.status, &*response.headers["content-type"]), (200, "text/plain; version=0.0.4"));
    let lines = response.body.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no figure: {line}"));
            (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
        })
        .collect()
}

fn await_figure(server: &Server, series: &str, expected: f64) {
    await_figure_that(server, series, |value| value == expected);
}

fn await_figure_that(server: &Server, series: &str, is_met: impl Fn(f64) -> bool) -> f64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let value = figures(server).get(series).copied();
        if let Some(value) = value.filter(|value| is_met(*value)) {
            return value;
        }
        assert!(Instant::now() < deadline, "{series} stays at {value:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn figures_say_what_was_served(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server = embedded(directory.path()).key("HttpEngine", engine).start();
    server.await_status("/health", 200);
    await_figure(&server, "idalloc_chain_segments{app_tag=\"test_business\"}", 2.0);
    let before = figures(&server);
    let mut client = server.connect();
    for _ in 0..7 {
        assert_eq!(client.get("/alloc?app_tag=test_business").status, 200);
    }
    assert_eq!(client.get("/alloc?app_tag=test_business&count=100").status, 200);
    assert_eq!(client.get("/segment?app_tag=test_business&count=1000").status, 200);
    assert_eq!(client.get("/segment?app_tag=test_business").status, 400);
    assert_eq!(client.get("/alloc?app_tag=nobody").status, 404);
    assert_eq!(client.get("/health?app_tag=test_business").status, 200);
    assert_eq!(client.get("/nothing").status, 404);
    let after = figures(&server);
    let grown = |series: &str| after.get(series).unwrap_or(&0.0) - before.get(series).unwrap_or(&0.0);
    for (route, code, expected) in [
        ("alloc", 200, 8.0),
        ("alloc", 404, 1.0),
        ("segment", 200, 1.0),
        ("segment", 400, 1.0),
        ("health", 200, 1.0),
        ("other", 404, 1.0),
    ] {
        let series = format!("idalloc_http_requests_total{{route=\"{route}\",code=\"{code}\"}}");
        assert_eq!(grown(&series), expected, "{series}");
    }
    let labels: Vec<_> = after.keys().filter(|series| series.starts_with("idalloc_build_info")).collect();
    assert_eq!(labels.len(), 1);
    assert!(
        labels[0].contains(&format!("engine=\"{engine}\"")) && labels[0].contains("version=\"0."),
        "{labels:?}"
    );
    assert_eq!(after["idalloc_http_connections"], 1.0);
    assert!(after["idalloc_http_connections_accepted_total"] >= 2.0);
    assert_eq!(after["idalloc_http_connections_refused_total"], 0.0);
    assert!(after["idalloc_reservations_total{result=\"ok\"}"] >= 2.0);
    assert_eq!(
        after["idalloc_reservation_duration_seconds_count"],
        after["idalloc_reservations_total{result=\"ok\"}"]
    );
    assert_eq!(
        (after["idalloc_ready"], after["idalloc_store_up"], after["idalloc_fences_total"]),
        (1.0, 1.0, 0.0)
    );
    for reason in ["no_taker", "store_gone_back", "unknown_outcome", "tag_deleted", "not_given_back"] {
        assert_eq!(after[&format!("idalloc_ids_skipped_total{{reason=\"{reason}\"}}")], 0.0);
    }
    assert!(after["process_resident_memory_bytes"] > 0.0 && after["process_open_fds"] > 0.0);
    assert_eq!(
        after.contains_key("idalloc_http_sent_bytes_total"),
        engine == "tokio",
        "only who knows tells"
    );
    assert_eq!(after["idalloc_http_buffer_bytes"], 0.0);
    if engine == "tokio" {
        assert!(grown("idalloc_http_received_bytes_total") > 13.0 * 40.0);
        assert!(grown("idalloc_http_sent_bytes_total") > 13.0 * 100.0 + 100.0 * 2.0);
    }
    await_figure(&server, "idalloc_ids_issued_total{app_tag=\"test_business\"}", 1107.0);
    await_figure(&server, "idalloc_ids_left{app_tag=\"test_business\"}", 199_999.0 - 1107.0);
    assert_eq!(figures(&server)["idalloc_chain_segments{app_tag=\"test_business\"}"], 2.0);
    assert_eq!(figures(&server)["idalloc_last_reservation_ids{app_tag=\"test_business\"}"], 100_000.0);
    drop(client);
    await_figure(&server, "idalloc_http_connections", 0.0);
    // Who has left is counted still.
    assert_eq!(figures(&server)["idalloc_http_requests_total{route=\"segment\",code=\"200\"}"], 1.0);
}

#[test]
fn what_unfinished_requests_take_and_who_was_refused_for_it_are_figures() {
    const CLIENTS: usize = 30;
    let directory = tempfile::tempdir().unwrap();
    let server = embedded(directory.path()).key("HttpBufferMemory", 1).start();
    server.await_status("/health", 200);
    assert_eq!(figures(&server)["idalloc_http_buffer_limit_bytes"], 1024.0 * 1024.0);
    let begun =
        format!("POST /alloc HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n{}", "x".repeat(50_000));
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(&begun));
    // Each is read, and either waits or is refused.
    let refused = await_figure_that(&server, "idalloc_http_buffer_refusals_total", |refused| refused > 0.0);
    let held = figures(&server)["idalloc_http_buffer_bytes"];
    assert!(held > 50_000.0 && held <= 1024.0 * 1024.0, "{held}");
    assert!(refused < CLIENTS as f64, "{refused}");
    server.await_log("HttpBufferMemory=1");
    drop(clients);
    await_figure(&server, "idalloc_http_buffer_bytes", 0.0);
}

fn a_claim_that_waits_is_measured(engine: &str) {
    let database = MariaDb::start();
    let server = Setup::on(&database.dsn()).admin().key("HttpEngine", engine).key("PreloadTags", 0).start();
    server.await_status("/health", 200);
    let lock = database.lock_row("test_business");
    let mut claim = server.connect();
    claim.send("GET /alloc?app_tag=test_business HTTP/1.1\r\nHost: test\r\n\r\n");
    await_figure(&server, "idalloc_claims_waiting", 1.0);
    thread::sleep(Duration::from_millis(60));
    drop(lock);
    assert_eq!(claim.receive().status, 200);
    await_figure(&server, "idalloc_claims_waiting", 0.0);
    let figures = figures(&server);
    assert_eq!(figures["idalloc_claim_wait_seconds_count"], 1.0);
    assert!(figures["idalloc_claim_wait_seconds_sum"] >= 0.06);
    assert_eq!(figures["idalloc_claim_wait_seconds_bucket{le=\"0.05\"}"], 0.0);
    assert_eq!(figures["idalloc_claim_wait_seconds_bucket{le=\"+Inf\"}"], 1.0);
    // A caller that gives up has waited too.
    database.pause();
    while server.get("/segment?app_tag=test_business&count=1000000").status == 200 {}
    database.resume();
    await_figure(&server, "idalloc_claim_wait_seconds_bucket{le=\"+Inf\"}", 2.0);
}

#[test]
fn only_so_many_tags_have_figures_of_their_own_and_the_others_are_summed() {
    let directory = tempfile::tempdir().unwrap();
    with_rows(directory.path(), (0..9).map(|n| (format!("t{n}"), 100)).chain([("(others)".to_owned(), 100)]));
    let server = embedded(directory.path()).key("MetricsTags", 3).start();
    server.await_status("/health", 200);
    let mut client = server.connect();
    let mut issue = |tag: &str, count: usize| {
        assert_eq!(client.get(&format!("/alloc?app_tag={tag}&count={count}")).status, 200);
    };
    let issued = |server: &Server| -> BTreeMap<String, f64> {
        let prefix = "idalloc_ids_issued_total{app_tag=\"";
        let series = figures(server).into_iter();
        series
            .filter_map(|(name, value)| {
                let tag = name.strip_prefix(prefix)?.strip_suffix("\"}")?;
                Some((tag.to_owned(), value))
            })
            .collect()
    };
    for n in 0..9 {
        issue(&format!("t{n}"), 10);
    }
    issue("%28others%29", 10);
    let deadline = Instant::now() + PATIENCE;
    let total = |figures: &BTreeMap<String, f64>| figures.values().sum::<f64>();
    while total(&issued(&server)) < 100.0 {
        assert!(Instant::now() < deadline, "{:?}", issued(&server));
        thread::sleep(Duration::from_millis(20));
    }
    let before = issued(&server);
    assert_eq!((before.len(), total(&before)), (4, 100.0), "{before:?}");
    assert!(before["(others)"] >= 10.0, "a tag of that name has none of its own");
    // One of the others becomes busy: it takes a place, and no series goes down meanwhile.
    let busy = (0..9).map(|n| format!("t{n}")).find(|tag| !before.contains_key(tag)).unwrap();
    let mut last = before;
    while !last.contains_key(&busy) {
        assert!(Instant::now() < deadline, "{busy} has no figures of its own: {last:?}");
        issue(&busy, 1000);
        let now = issued(&server);
        assert_eq!(now.len(), 4, "{now:?}");
        assert!(
            last.iter().all(|(tag, value)| now.get(tag).is_none_or(|now| now >= value)),
            "{last:?} {now:?}"
        );
        last = now;
        thread::sleep(Duration::from_millis(20));
    }
}

// ---- tags ----

#[test]
fn a_tag_is_seen_idle_serving_broken_and_fenced() {
    let directory = tempfile::tempdir().unwrap();
    let rows = [("busy", 100), ("broken", 0), ("idle", 7)].map(|(tag, step)| (tag.to_owned(), step));
    with_rows(directory.path(), rows.into_iter());
    let server = embedded(directory.path())
        .key("PreloadTags", 0)
        .key("WatermarkPath", "marks.db")
        .key("TagReloadSeconds", 1)
        .start();
    server.await_status("/health", 200);
    assert_eq!(server.get("/alloc?app_tag=busy&count=50").status, 200);
    let of = |tag: &str| {
        let page = json_of(&server, &format!("/api/tags?search={tag}"));
        assert_eq!(
            (page["total"].as_u64(), page["offset"].as_u64(), page["limit"].as_u64()),
            (Some(1), Some(0), Some(100))
        );
        page["tags"][0].clone()
    };
    let idle = json!({
        "app_tag": "idle", "step": 7, "state": "idle", "fault": null,
        "rate_per_s": 0.0, "left": "0", "supply_s": null, "segments": 0, "last_amount": null,
        "last_reserved_at_ms": null, "issued": "0"
    });
    assert_eq!(of("idle"), idle);
    assert_eq!(of("broken")["state"], "broken");
    assert!(of("broken")["fault"].as_str().unwrap().contains("its step is 0"));
    let busy = await_json(&server, "/api/tags?search=BUSY", |page| page["tags"][0]["segments"] == 2);
    let busy = &busy["tags"][0];
    assert_eq!((&busy["state"], &busy["issued"]), (&json!("serving"), &json!("50")));
    let amount = busy["last_amount"].as_u64().unwrap();
    assert!(amount >= 100 && amount % 100 == 0, "whole steps: {busy}");
    assert!(busy["last_reserved_at_ms"].as_u64() > Some(1_700_000_000_000), "{busy}");
    let rate = await_json(&server, "/api/tags?search=busy", |page| {
        page["tags"][0]["rate_per_s"].as_f64() > Some(0.0)
    });
    let (rate, supply) =
        (rate["tags"][0]["rate_per_s"].as_f64().unwrap(), rate["tags"][0]["supply_s"].as_f64().unwrap());
    let left: f64 = busy["left"].as_str().unwrap().parse().unwrap();
    assert!(
        (supply - left / rate).abs() <= supply * 0.01 + 1.0,
        "{left} IDs at {rate}/s last for {supply} s"
    );

    let file = rusqlite::Connection::open(directory.path().join("ids.db")).unwrap();
    file.busy_timeout(PATIENCE).unwrap();
    file.execute("UPDATE segments SET max_id = 10 WHERE app_tag = 'busy'", []).unwrap();
    while server.get("/alloc?app_tag=busy&count=100").status == 200 {}
    let fenced = await_json(&server, "/api/tags?sort=state", |page| page["tags"][0]["state"] == "fenced");
    let states: Vec<_> = fenced["tags"].as_array().unwrap().iter().map(|tag| tag["state"].clone()).collect();
    assert_eq!(states, ["fenced", "broken", "idle", "idle"], "the order in which they want an operator");
    assert!(fenced["tags"][0]["fault"].as_str().unwrap().contains("raise max_id"), "{fenced}");
    assert_eq!(fenced["tags"][0]["left"], "0");
    assert_eq!(figures(&server)["idalloc_fences_total"], 1.0);
    let tags = await_json(&server, "/api/status", |status| status["tags"]["fenced"] == 1)["tags"].clone();
    assert_eq!(tags, json!({"total": 4, "fenced": 1, "broken": 1, "exhausted": 0, "starving": 0}));
    assert_eq!(figures(&server)["idalloc_tags{state=\"fenced\"}"], 1.0);
}

#[test]
fn hidden_characters_of_tags_are_escaped_in_answers_and_in_figures() {
    const NAME: &str = "a\u{1b}[2J\u{9b}2J\u{202e}\n\r\"\\";
    let directory = tempfile::tempdir().unwrap();
    let literal = r#""a\u{1b}[2J\u{9b}2J\u{202e}\n\r\"\\""#;
    with_rows(directory.path(), [(NAME.to_owned(), 100), (literal.to_owned(), 100)].into_iter());
    let server = ready(directory.path());
    let encoded = |name: &str| name.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    assert_eq!(server.get(&format!("/alloc?app_tag={}", encoded(NAME))).status, 200);
    assert_eq!(server.get(&format!("/alloc?app_tag={}", encoded(literal))).status, 200);
    let is_harmless = |text: &str| !text.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}');
    let page = get(&server, "/api/tags?search=2J");
    assert!(is_harmless(&page.body), "{:?}", page.body);
    let names: Vec<_> =
        page.json()["tags"].as_array().unwrap().iter().map(|tag| tag["app_tag"].clone()).collect();
    assert_eq!(names, [literal, NAME], "a program reads the same names");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = get(&server, "/metrics").body;
        assert!(is_harmless(&metrics), "{metrics:?}");
        let series: Vec<_> = metrics
            .lines()
            .filter(|line| line.starts_with("idalloc_ids_issued_total{") && line.contains("2J"))
            .collect();
        if series.len() == 2 {
            assert_ne!(series[0], series[1], "no two tags have one series");
            break;
        }
        assert!(Instant::now() < deadline, "{series:?}");
        thread::sleep(Duration::from_millis(20));
    }
    let unknown = get(&server, &format!("/api/tag?app_tag={}", encoded("\u{9b}\u{202e}?")));
    assert!(unknown.status == 404 && is_harmless(&unknown.body), "{unknown:?}");
    let unknown = server.get(&format!("/alloc?app_tag={}", encoded("\u{9b}\u{202e}?")));
    assert!(unknown.status == 404 && is_harmless(&unknown.body), "{unknown:?}");
}

#[test]
fn a_hundred_thousand_tags_are_searched_sorted_and_paged() {
    let directory = tempfile::tempdir().unwrap();
    with_rows(directory.path(), (0..100_000).map(|n| (format!("tag-{n:06}"), 1)));
    let server = embedded(directory.path()).start();
    server.await_status("/health", 200);
    assert_eq!(server.get("/alloc?app_tag=tag-099999&count=3").status, 200);
    let page = json_of(&server, "/api/tags?search=tag-&offset=99990&limit=1000");
    assert_eq!((page["total"].as_u64(), page["tags"].as_array().unwrap().len()), (Some(100_000), 10));
    assert_eq!(page["tags"][9]["app_tag"], "tag-099999");
    assert_eq!(json_of(&server, "/api/tags?search=TAG-05000")["total"], 10);
    let busiest = await_json(&server, "/api/tags?sort=rate&order=desc&limit=1", |page| {
        page["tags"][0]["issued"] == "3"
    });
    assert_eq!(busiest["tags"][0]["app_tag"], "tag-099999");
    let series =
        figures(&server).into_keys().filter(|series| series.starts_with("idalloc_ids_left{")).count();
    assert_eq!(series, 51, "MetricsTags and the sum of the others");
}
