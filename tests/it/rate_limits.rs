//! TagLimits and the limits of AccessTokens, over real sockets: on both engines, and whichever way IDs are asked for.

use idalloc_testing::on_each_engine;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use idalloc_testing::server::{Client, PATIENCE, Response, Server, Setup};
use serde_json::{Value, json};

const SINGLE: &str = "/alloc?app_tag=test_business";
const BILLING: &str = "a-token-of-the-billing";
const NAMELESS: &str = "a-token-without-a-name";

on_each_engine! {
    every_way_to_take_ids_is_limited
    a_repeated_request_takes_no_short_way_past_the_limit
    an_answer_says_which_limit_and_when_to_try_again
    more_than_the_burst_is_refused_for_good
    what_takes_no_ids_is_not_limited
    each_other_tag_has_a_limit_of_its_own
    a_new_tag_passes_no_limit_by
    a_token_has_one_limit_for_all_its_tags
    what_one_limit_refuses_costs_the_other_nothing
    no_more_is_handed_out_than_the_limit_allows
    small_leases_share_reservations
    the_log_tells_of_refusals_at_a_bounded_rate
    a_port_that_others_reach_is_warned_of_unless_there_are_tokens
}

fn setup(directory: &Path, engine: &str) -> Setup {
    Setup::embedded(&directory.join("ids.db")).key("HttpEngine", engine).key("Workers", 2)
}

/// One ID a second is as good as none for as long as a test takes that does not wait.
fn limited(directory: &Path, engine: &str, burst: u64) -> Server {
    start(
        setup(directory, engine)
            .key("TagLimits", json!({"test_business": {"ids_per_second": 1, "burst": burst}})),
    )
}

fn start(setup: Setup) -> Server {
    let server = setup.start();
    server.await_status("/health", 200);
    server.await_status("/health?app_tag=test_business", 200);
    server
}

/// With these tags beside `test_business`.
fn with_tags(directory: &Path, tags: &[&str]) {
    Setup::embedded(&directory.join("ids.db")).start().await_status("/health", 200);
    tags.iter().for_each(|tag| add_tag(directory, tag));
}

fn add_tag(directory: &Path, tag: &str) {
    let file = rusqlite::Connection::open(directory.join("ids.db")).unwrap();
    file.busy_timeout(PATIENCE).unwrap();
    file.execute("INSERT INTO segments (app_tag, max_id, step) VALUES (?1, 0, 1000)", [tag]).unwrap();
}

fn post(client: &mut Client, target: &str, form: &str) -> Response {
    post_as(client, target, "application/x-www-form-urlencoded", form)
}

fn post_as(client: &mut Client, target: &str, content_type: &str, body: &str) -> Response {
    let length = body.len();
    client.send(&format!(
        "POST {target} HTTP/1.1\r\nHost: h\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
    client.receive()
}

fn ask_as(client: &mut Client, target: &str, token: &str) -> Response {
    client.send(&format!("GET {target} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n"));
    client.receive()
}

fn assert_limited(response: &Response) {
    assert_eq!(response.status, 429, "{response:?}");
    assert_eq!(response.json()["resp_code"], 429, "{response:?}");
    assert!(response.headers["retry-after"].parse::<u64>().unwrap() >= 1, "{response:?}");
}

fn every_way_to_take_ids_is_limited(engine: &str) {
    type Way = fn(&mut Client) -> Response;
    let ways: [(&str, Way); 10] = [
        ("one", |client| client.get(SINGLE)),
        ("one by count", |client| client.get("/alloc?app_tag=test_business&count=1")),
        ("a batch", |client| client.get("/alloc?app_tag=test_business&count=5")),
        ("a lease", |client| client.get("/segment?app_tag=test_business&count=5")),
        ("one by form", |client| post(client, "/alloc", "app_tag=test_business")),
        ("a batch by form", |client| post(client, "/alloc", "app_tag=test_business&count=5")),
        ("a lease by form", |client| post(client, "/segment", "app_tag=test_business&count=5")),
        ("one by JSON", |client| {
            post_as(client, "/alloc", "application/json", r#"{"app_tag": "test_business"}"#)
        }),
        ("a lease by JSON", |client| {
            post_as(client, "/segment", "application/json", r#"{"app_tag": "test_business", "count": 5}"#)
        }),
        ("one under a name that is encoded", |client| client.get("/alloc?app_tag=%74est_business")),
    ];
    for (name, ask) in ways {
        let directory = tempfile::tempdir().unwrap();
        let server = limited(directory.path(), engine, 15);
        let mut client = server.connect();
        let ids = if name.starts_with("one") { 1 } else { 5 };
        for turn in 0..15 / ids {
            assert_eq!(ask(&mut client).status, 200, "{name}: {turn}");
        }
        assert_limited(&ask(&mut client));
        // On other connections too, and in every other way.
        for (_, other) in ways {
            assert_limited(&other(&mut server.connect()));
        }
    }
}

/// Which the worker remembers: alone, pipelined, and after there was a way to the tag.
fn a_repeated_request_takes_no_short_way_past_the_limit(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server = limited(directory.path(), engine, 100);
    let mut client = server.connect();
    for _ in 0..50 {
        assert_eq!(client.get(SINGLE).status, 200);
    }
    let one = format!("GET {SINGLE} HTTP/1.1\r\nHost: test\r\n\r\n");
    let asked = Instant::now();
    client.send(&one.repeat(500));
    let statuses: Vec<_> = (0..500).map(|_| client.receive().status).collect();
    let earned = asked.elapsed().as_secs() as usize + 1;
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!((50..=50 + earned).contains(&served), "{served}");
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    assert_limited(&server.get(SINGLE));
}

fn an_answer_says_which_limit_and_when_to_try_again(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let limits = json!({"test_business": {"ids_per_second": 1, "burst": 7200}});
    let server = start(setup(directory.path(), engine).key("TagLimits", limits));
    let mut client = server.connect();
    assert_eq!(client.get("/alloc?app_tag=test_business&count=7200").status, 200);
    for (ids, retry_after) in [(10_u64, 8..=10), (1000, 990..=1000), (7000, 3600..=3600)] {
        let refused = client.get(&format!("/segment?app_tag=test_business&count={ids}"));
        assert_limited(&refused);
        let header: u64 = refused.headers["retry-after"].parse().unwrap();
        assert!(retry_after.contains(&header), "{refused:?}");
        let message = refused.json()["msg"].as_str().unwrap().to_owned();
        let expected = "app_tag 'test_business' has a limit of 1 IDs a second, 7200 at once (burst), on this server; try again in ";
        let seconds = message.strip_prefix(expected).and_then(|rest| rest.strip_suffix(" s"));
        let seconds: u64 = seconds.unwrap_or_else(|| panic!("{message}")).parse().unwrap();
        assert_eq!(seconds.min(3600), header, "{message}");
        assert!((ids.saturating_sub(20)..=ids).contains(&seconds), "{message}");
    }
    assert_eq!(
        post(&mut client, "/alloc", "app_tag=test_business").headers["content-type"],
        "application/json"
    );
}

fn more_than_the_burst_is_refused_for_good(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server = limited(directory.path(), engine, 10);
    let mut client = server.connect();
    for path in ["alloc", "segment"] {
        let refused = client.get(&format!("/{path}?app_tag=test_business&count=11"));
        let message =
            "count is 11: app_tag 'test_business' has a limit of 10 IDs at once (burst) on this server";
        assert_eq!((refused.status, refused.json()["msg"].as_str()), (400, Some(message)));
        assert!(!refused.headers.contains_key("retry-after"), "to ask again is of no use");
    }
    assert_eq!(client.get("/segment?app_tag=test_business&count=10").status, 200, "it took nothing");
}

fn what_takes_no_ids_is_not_limited(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server = limited(directory.path(), engine, 2);
    let mut client = server.connect();
    let targets = [SINGLE, "/segment?app_tag=test_business&count=2"];
    let asks_nothing = |client: &mut Client| {
        for target in targets {
            client.send(&format!("HEAD {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
            assert_eq!(client.receive_head().status, 200, "{target}");
        }
        assert_eq!(client.get("/health?app_tag=test_business").status, 200);
        assert_eq!(client.get("/health").status, 200);
    };
    (0..10).for_each(|_| asks_nothing(&mut client));
    // Nor do requests that are refused for another reason.
    assert_eq!(client.get("/alloc?app_tag=test_business&count=0").status, 400);
    assert_eq!(client.get(targets[1]).status, 200);
    assert_limited(&client.get(SINGLE));
    asks_nothing(&mut client);
}

fn each_other_tag_has_a_limit_of_its_own(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    with_tags(directory.path(), &["a", "b", "free"]);
    let slow = json!({"ids_per_second": 1, "burst": 5});
    let limits = json!({"*": slow, "free": {"ids_per_second": 1_000_000_000}});
    let server = start(setup(directory.path(), engine).key("TagLimits", limits));
    let mut client = server.connect();
    for tag in ["a", "b", "test_business"] {
        for _ in 0..5 {
            assert_eq!(client.get(&format!("/alloc?app_tag={tag}")).status, 200, "{tag}");
        }
        assert_limited(&client.get(&format!("/alloc?app_tag={tag}")));
    }
    for _ in 0..100 {
        assert_eq!(client.get("/alloc?app_tag=free").status, 200);
    }
    // Names that are none share one, so that they take no memory.
    let statuses: Vec<_> = (0..7).map(|n| client.get(&format!("/alloc?app_tag=nobody-{n}")).status).collect();
    assert_eq!(statuses, [404, 404, 404, 404, 404, 429, 429]);
}

/// A tag that is added while the server runs is unknown at first: those who ask for it then are limited as well.
fn a_new_tag_passes_no_limit_by(engine: &str) {
    const ASKERS: usize = 64;
    let directory = tempfile::tempdir().unwrap();
    let limits = json!({"*": {"ids_per_second": 5, "burst": 5}});
    let server =
        start(setup(directory.path(), engine).key("TagLimits", limits).key("TagReloadSeconds", 3600));
    let deadline = Instant::now() + PATIENCE;
    for turn in 0.. {
        let tag = format!("new-{turn}");
        add_tag(directory.path(), &tag);
        let mut clients = [(); ASKERS].map(|()| server.connect());
        let asked = Instant::now();
        let request = format!("GET /segment?app_tag={tag}&count=5 HTTP/1.1\r\nHost: h\r\n\r\n");
        clients.iter_mut().for_each(|client| client.send(&request));
        let statuses = clients.each_mut().map(|client| client.receive().status);
        // Once as an unknown name, once as the tag, and what both have earned meanwhile.
        let most = 2 + 2 * (asked.elapsed().as_secs() + 1);
        let served = statuses.iter().filter(|status| **status == 200).count() as u64;
        assert!(served <= most, "{served} of {statuses:?}");
        if served > 0 {
            break;
        }
        // The table was read less than a second ago, so the name was unknown at once: that may not last.
        assert!(Instant::now() < deadline, "{statuses:?}");
        thread::sleep(Duration::from_millis(500));
    }
}

fn with_tokens(directory: &Path, engine: &str, keys: &[(&str, Value)]) -> Server {
    with_tags(directory, &["other"]);
    let tokens = json!({
        BILLING: {"tags": "*", "ids_per_second": 1, "burst": 10, "name": "billing"},
        NAMELESS: {"tags": ["test_business"], "ids_per_second": 1, "burst": 10},
        "a-token-without-a-limit": "*",
    });
    let setup = setup(directory, engine).key("AccessTokens", tokens);
    let server = keys.iter().fold(setup, |setup, (name, value)| setup.key(name, value.clone())).start();
    server.await_status("/health", 200);
    server
}

fn a_token_has_one_limit_for_all_its_tags(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server = with_tokens(directory.path(), engine, &[]);
    let mut client = server.connect();
    for tag in ["test_business", "other"] {
        assert_eq!(ask_as(&mut client, &format!("/alloc?app_tag={tag}&count=5"), BILLING).status, 200);
    }
    for (target, refusal) in [
        (
            "/alloc?app_tag=other",
            "the token 'billing', which asked for app_tag 'other', has a limit of 1 IDs a second, 10 at once (burst), on this server; try again in 1 s",
        ),
        (
            "/segment?app_tag=other&count=11",
            "count is 11: the token 'billing', which asked for app_tag 'other', has a limit of 10 IDs at once (burst) on this server",
        ),
    ] {
        let refused = ask_as(&mut server.connect(), target, BILLING);
        assert_eq!(refused.json()["msg"], refusal);
    }
    // As a parameter it is the same token.
    assert_limited(&client.get(&format!("{SINGLE}&token={BILLING}")));
    // Others have theirs, or none.
    for _ in 0..10 {
        assert_eq!(ask_as(&mut client, SINGLE, NAMELESS).status, 200);
    }
    let refused = ask_as(&mut client, SINGLE, NAMELESS);
    assert_limited(&refused);
    assert!(refused.body.contains("the token, which asked for app_tag 'test_business'"), "{refused:?}");
    for _ in 0..50 {
        assert_eq!(ask_as(&mut client, SINGLE, "a-token-without-a-limit").status, 200);
    }
    let log = server.log_so_far().concat();
    assert!(log.contains("billing") && !log.contains("a-token"), "{log}");
}

fn what_one_limit_refuses_costs_the_other_nothing(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let limits = json!({"test_business": {"ids_per_second": 1, "burst": 4}, "other": {"ids_per_second": 1, "burst": 100}});
    let server = with_tokens(directory.path(), engine, &[("TagLimits", limits)]);
    let mut client = server.connect();
    let mut ask =
        |tag: &str, count, token| ask_as(&mut client, &format!("/alloc?app_tag={tag}&count={count}"), token);
    assert_eq!(ask("test_business", 4, BILLING).status, 200);
    for _ in 0..20 {
        assert_limited(&ask("test_business", 4, BILLING));
    }
    assert_eq!(ask("other", 6, BILLING).status, 200, "the tag's refusals cost the token nothing");
    for _ in 0..20 {
        assert_limited(&ask("other", 10, BILLING));
    }
    assert_eq!(ask("other", 94, "a-token-without-a-limit").status, 200, "the token's cost the tag nothing");
    assert_limited(&ask("other", 10, "a-token-without-a-limit"));
}

/// Several connections take as fast as they can, one by one, in batches and as leases.
fn no_more_is_handed_out_than_the_limit_allows(engine: &str) {
    const RATE: u64 = 2_000;
    const BURST: u64 = 500;
    let directory = tempfile::tempdir().unwrap();
    let limits = json!({"test_business": {"ids_per_second": RATE, "burst": BURST}});
    let server = start(setup(directory.path(), engine).key("TagLimits", limits).admin());
    let began = Instant::now();
    let counts: Vec<(u64, u64)> = thread::scope(|scope| {
        let targets = [
            SINGLE,
            SINGLE,
            "/alloc?app_tag=test_business&count=7",
            "/segment?app_tag=test_business&count=31",
        ];
        let takers = targets.map(|target| {
            let mut client = server.connect();
            scope.spawn(move || {
                let (mut taken, mut refused) = (0, 0);
                while began.elapsed() < Duration::from_secs(2) {
                    let response = client.get(target);
                    match response.status {
                        200 => taken += ids_of(&response),
                        429 => refused += 1,
                        _ => panic!("{response:?}"),
                    }
                }
                (taken, refused)
            })
        });
        takers.into_iter().map(|taker| taker.join().unwrap()).collect()
    });
    let elapsed = began.elapsed();
    let taken: u64 = counts.iter().map(|(taken, _)| taken).sum();
    let refused: u64 = counts.iter().map(|(_, refused)| refused).sum();
    let most = BURST + (elapsed.as_secs_f64() * RATE as f64) as u64 + 1;
    assert!(taken <= most, "{taken} of {most}");
    assert!(taken > most / 2, "what is allowed can be had: {taken} of {most}");
    assert!(refused > 0);
    let figures = server.admin().get_admin("/metrics").body;
    let line = format!("idalloc_http_requests_limited_total{{by=\"tag\"}} {refused}");
    assert!(figures.lines().any(|figure| figure == line), "no {line:?} in {figures}");
    assert!(figures.contains("idalloc_http_requests_limited_total{by=\"token\"} 0\n"), "{figures}");
    assert!(figures.contains("idalloc_http_requests_total{route=\"alloc\",code=\"429\"}"), "{figures}");
}

fn ids_of(response: &Response) -> u64 {
    let body = response.json();
    match (&body["id"], &body["ids"]) {
        (Value::Number(_), _) => 1,
        (_, Value::Array(ids)) => ids.len() as u64,
        _ => body["end"].as_u64().unwrap() - body["start"].as_u64().unwrap(),
    }
}

/// A limit bounds commits only if each of them is for a step at least, whatever is left of the pieces in memory: those do
/// not adjoin, because two servers reserve in turn.
fn small_leases_share_reservations(engine: &str) {
    const LEASES: u64 = 700;
    const IDS: u64 = 70;
    let directory = tempfile::tempdir().unwrap();
    with_tags(directory.path(), &["leases"]);
    let servers = [(); 2].map(|()| start(setup(directory.path(), engine).admin()));
    let mut clients = servers.each_ref().map(Server::connect);
    for _ in 0..LEASES / 2 {
        for client in &mut clients {
            assert_eq!(ids_of(&client.get(&format!("/segment?app_tag=leases&count={IDS}"))), IDS);
        }
    }
    let reservations = |server: &Server| -> u64 {
        let figures = server.admin().get_admin("/metrics").body;
        let name = "idalloc_reservations_total{result=\"ok\"} ";
        let count = figures.lines().find_map(|line| line.strip_prefix(name));
        count.unwrap_or_else(|| panic!("{figures}")).parse().unwrap()
    };
    let reservations: u64 = servers.iter().map(reservations).sum();
    // 1000 is the step; both servers have two segments of both tags from the start.
    assert!(reservations <= LEASES * IDS / 1000 + 16, "{reservations} for {LEASES} leases");
}

fn the_log_tells_of_refusals_at_a_bounded_rate(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let mut server = limited(directory.path(), engine, 1);
    let began = Instant::now();
    for _ in 0..20 {
        let mut client = server.connect();
        (0..20).for_each(|_| drop(client.get(SINGLE)));
    }
    let line = server.await_log("requests over the limit");
    for part in ["WARN", "tag=\"test_business\"", "ids_per_second=1", "burst=1", "refused=1"] {
        assert!(line.contains(part), "{line}");
    }
    server.signal(libc::SIGTERM);
    server.wait();
    let more = server.rest_of_log().iter().filter(|line| line.contains("requests over the limit")).count();
    assert!(more as u64 <= began.elapsed().as_secs() / 10, "{more}");
}

fn a_port_that_others_reach_is_warned_of_unless_there_are_tokens(engine: &str) {
    let warnings = |host: &str, tokens: bool| {
        let directory = tempfile::tempdir().unwrap();
        let mut setup = setup(directory.path(), engine).key("HttpHost", host);
        if tokens {
            setup = setup.key("AccessTokens", json!({BILLING: "*"}));
        }
        let mut server = setup.start();
        server.signal(libc::SIGTERM);
        server.wait();
        let log = server.rest_of_log();
        log.into_iter().filter(|line| line.contains("everybody who reaches this port")).collect::<Vec<_>>()
    };
    for host in ["127.0.0.1", "localhost"] {
        assert_eq!(warnings(host, false), [""; 0], "{host}");
    }
    assert_eq!(warnings("0.0.0.0", true), [""; 0]);
    let open = warnings("0.0.0.0", false);
    assert!(open.len() == 1, "{open:?}");
    for part in ["WARN", "address=0.0.0.0:", "AccessTokens", "HttpHost", "TagLimits"] {
        assert!(open[0].contains(part), "{open:?}");
    }
}
