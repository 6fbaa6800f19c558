//! AccessTokens on the hot port, over real sockets: on both engines, and whatever the worker remembers.

use idalloc_testing::on_each_engine;

use std::path::Path;

use idalloc_testing::server::{Client, PATIENCE, Response, Server, Setup};
use idalloc_testing::store::starve;
use serde_json::json;

const ALL: &str = "a-token-for-everything";
const ONE: &str = "a-token-for-one-tag-only";

on_each_engine! {
    a_request_needs_a_token_that_is_for_its_tag
    a_refused_request_makes_no_work_for_the_store
    what_was_remembered_of_one_client_lets_no_other_in
    who_asks_for_health_without_a_token_is_told_no_name
}

fn start(directory: &Path, engine: &str) -> Server {
    let server = Setup::embedded(&directory.join("ids.db"))
        .key("HttpEngine", engine)
        .key("Workers", 1)
        .key("AccessTokens", json!({ALL: "*", ONE: ["test_business", "b\u{e4}r"]}))
        .start();
    server.await_status("/health", 200);
    server
}

fn ask(client: &mut Client, method: &str, target: &str, authorization: Option<&str>) -> Response {
    let header = authorization.map_or(String::new(), |value| format!("Authorization: {value}\r\n"));
    client.send(&format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{header}\r\n"));
    if method == "HEAD" { client.receive_head() } else { client.receive() }
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn a_request_needs_a_token_that_is_for_its_tag(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), engine);
    let mut client = server.connect();
    let targets = [
        "/alloc?app_tag=test_business",
        "/segment?app_tag=test_business&count=5",
        "/health?app_tag=test_business",
    ];
    for target in targets {
        let status = |client: &mut Client, target: &str, authorization: Option<&str>| {
            let response = ask(client, "GET", target, authorization);
            assert_eq!(
                response.headers.contains_key("www-authenticate"),
                response.status == 401,
                "{response:?}"
            );
            response.status
        };
        for token in [ALL, ONE] {
            assert_eq!(status(&mut client, target, Some(&bearer(token))), 200, "{target}");
            assert_eq!(status(&mut client, &format!("{target}&token={token}"), None), 200, "{target}");
            // The header goes before the parameter, and neither mends the other.
            assert_eq!(status(&mut client, &format!("{target}&token={token}"), Some("Bearer wrong")), 401);
            assert_eq!(status(&mut client, &format!("{target}&token=wrong"), Some(&bearer(token))), 200);
            for wrong in [&token[1..], &token[..5], &format!("{token}x"), &token.to_uppercase(), "", " ", "*"]
            {
                assert_eq!(status(&mut client, target, Some(&bearer(wrong))), 401, "{target} {wrong:?}");
            }
            assert_eq!(status(&mut client, target, Some(token)), 401, "without Bearer");
            assert_eq!(status(&mut client, target, Some(&format!("Basic {token}"))), 401);
        }
        assert_eq!(status(&mut client, target, None), 401);
        for tag in ["nobody", "TEST_BUSINESS", "test_busines", "test_business2"] {
            let target = target.replace("test_business", tag);
            assert_eq!(status(&mut client, &target, Some(&bearer(ONE))), 403, "{target}, there or not");
            assert_eq!(status(&mut client, &target, Some(&bearer(ALL))), 404, "{target}");
        }
        assert_eq!(ask(&mut client, "HEAD", target, Some(&bearer(ALL))).status, 200);
    }
    assert_eq!(
        ask(&mut client, "GET", "/alloc?app_tag=b%C3%A4r", Some(&bearer(ONE))).status,
        404,
        "allowed, not there"
    );
    // For balancers, which have no token.
    assert_eq!(ask(&mut client, "GET", "/health", None).status, 200);
    let form = format!("app_tag=test_business&token={ONE}");
    client.send(&format!(
        "POST /alloc HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    ));
    assert_eq!(client.receive().status, 200);
    let refused =
        ask(&mut client, "GET", "/alloc?app_tag=test_business", Some("Bearer wrong-wrong-wrong-wrong"));
    assert!(!refused.body.contains("wrong") && !refused.body.contains("test_business"), "{refused:?}");
    // A HEAD on a connection of its own: a refusal has no body then.
    assert_eq!(ask(&mut server.connect(), "HEAD", targets[0], None).status, 401);
}

fn a_refused_request_makes_no_work_for_the_store(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let setup = || Setup::embedded(&directory.path().join("ids.db")).key("PreloadTags", 0);
    setup().start().await_status("/health", 200);
    let file = rusqlite::Connection::open(directory.path().join("ids.db")).unwrap();
    file.busy_timeout(PATIENCE).unwrap();
    file.execute("INSERT INTO segments (app_tag, max_id, step) VALUES ('other', 0, 5)", []).unwrap();
    let server = setup()
        .key("HttpEngine", engine)
        .key("RefillThreads", 1)
        .key("AccessTokens", json!({ALL: "*", ONE: ["other"]}))
        .start();
    server.await_status("/health", 200);
    let mut client = server.connect();
    for target in [
        "/alloc?app_tag=test_business",
        "/segment?app_tag=test_business&count=7",
        "/health?app_tag=test_business",
    ] {
        assert_eq!(ask(&mut client, "GET", target, None).status, 401);
        assert_eq!(ask(&mut client, "GET", target, Some(&bearer("wrong"))).status, 401);
        assert_eq!(ask(&mut client, "GET", target, Some(&bearer(ONE))).status, 403);
    }
    // The one refill thread would have served the refused ones before this.
    assert_eq!(ask(&mut client, "GET", "/alloc?app_tag=other", Some(&bearer(ONE))).status, 200);
    let max_id = |tag: &str| -> i64 {
        file.query_row("SELECT max_id FROM segments WHERE app_tag = ?1", [tag], |row| row.get(0)).unwrap()
    };
    assert_eq!(max_id("test_business"), 0, "nothing was reserved");
    assert!(max_id("other") > 0);
}

fn who_asks_for_health_without_a_token_is_told_no_name(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), engine);
    let mut client = server.connect();
    let _held = starve(directory.path(), |target| ask(&mut client, "GET", target, Some(&bearer(ALL))).status);
    let body = server.await_status("/health", 503).body;
    assert_eq!(body, r#"{"resp_code":503,"msg":"an app_tag has no IDs left"}"#);
}

/// One worker serves all, and remembers the last GET: the same bytes but for the token must be looked at again.
fn what_was_remembered_of_one_client_lets_no_other_in(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), engine);
    let (mut welcome, mut stranger) = (server.connect(), server.connect());
    let target = "/alloc?app_tag=test_business";
    let right = bearer(ONE);
    // As long as the right one.
    let wrong = right.replace("only", "onlx");
    for _ in 0..20 {
        assert_eq!(ask(&mut welcome, "GET", target, Some(&right)).status, 200);
        assert_eq!(ask(&mut stranger, "GET", target, Some(&wrong)).status, 401);
        assert_eq!(ask(&mut welcome, "GET", target, Some(&right)).status, 200);
        assert_eq!(ask(&mut stranger, "GET", target, None).status, 401);
        assert_eq!(ask(&mut welcome, "GET", "/alloc?app_tag=test_business", Some(&right)).status, 200);
        assert_eq!(ask(&mut stranger, "GET", "/alloc?app_tag=test_businesz", Some(&right)).status, 403);
    }
    // Many in one packet, as the memo likes it.
    let one = |authorization: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: h\r\nAuthorization: {authorization}\r\n\r\n")
    };
    let turns = [&right, &right, &wrong, &right, &wrong, &wrong];
    welcome.send(&turns.iter().map(|authorization| one(authorization)).collect::<String>());
    let statuses = turns.map(|_| welcome.receive().status);
    assert_eq!(statuses, [200, 200, 401, 200, 401, 401]);
}

/// With the `tokio` engine: the other one takes a whole request before it shows it.
#[test]
fn a_body_is_not_taken_before_there_is_a_token() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), "tokio");
    const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
    let tokens = [ALL, "wrong", ""].map(|token| format!("Authorization: {}\r\n", bearer(token)));
    let [right, wrong, empty] = tokens.each_ref().map(String::as_str);
    let (large, small) = ("Content-Length: 60000\r\n", "Content-Length: 100\r\n");
    let query = "/alloc?app_tag=test_business";
    let with_token = format!("{query}&token={ALL}");
    // The head, and what of the body is sent with it.
    for (target, headers, start) in [
        (query, [wrong, small, FORM], ""),
        (query, [empty, small, ""], ""),
        (query, ["", large, FORM], "app_tag=test_business"),
        (query, ["Expect: 100-continue\r\n", large, ""], ""),
        ("/segment?count=1", ["", large, FORM], ""),
        ("/health", ["", large, ""], "x"),
        ("/elsewhere", ["", large, ""], ""),
        (query, ["", CHUNKED, FORM], &format!("1000\r\n{}\r\n1\r\nx", "y".repeat(4096))),
        (query, [wrong, CHUNKED, ""], "1\r\n"),
    ] {
        let mut client = server.connect();
        client.send(&format!("POST {target} HTTP/1.1\r\nHost: h\r\n{}\r\n{start}", headers.concat()));
        let response = client.receive();
        assert_eq!(response.status, 401, "{target} {headers:?}: {response:?}");
        assert_eq!(response.headers["connection"], "close", "{target} {headers:?}");
        assert!(client.is_closed());
    }
    for (target, headers, body) in [
        (query, [right, large, FORM], "x".repeat(60_000)),
        (&with_token, ["", large, FORM], "x".repeat(60_000)),
        (query, ["", small, FORM], format!("token={ALL}&{}", "x".repeat(93 - ALL.len()))),
        (query, ["", CHUNKED, FORM], format!("{:x}\r\ntoken={ALL}\r\n0\r\n\r\n", 6 + ALL.len())),
        (query, [right, CHUNKED, FORM], format!("f000\r\n{}\r\n0\r\n\r\n", "x".repeat(0xf000))),
    ] {
        let mut client = server.connect();
        client.send(&format!("POST {target} HTTP/1.1\r\nHost: h\r\n{}\r\n", headers.concat()));
        body.as_bytes().chunks(7000).for_each(|part| client.send(std::str::from_utf8(part).unwrap()));
        let response = client.receive();
        assert_eq!(response.status, 200, "{target} {headers:?}: {response:?}");
    }
}
