//! Bodies of a POST that are no forms: over real sockets, on both engines.

use idalloc_testing::on_each_engine;

use std::path::Path;

use idalloc_testing::server::{Client, Response, Server, Setup};
use serde_json::{Value, json};

const TOKEN: &str = "a-token-for-everything";

on_each_engine! {
    a_json_body_has_the_same_parameters_as_a_form
    a_json_body_that_is_not_as_it_must_be_is_refused
    a_body_that_is_not_understood_is_refused_and_not_dropped
    a_token_may_be_in_json
}

fn start(directory: &Path, engine: &str, keys: &[(&str, Value)]) -> Server {
    let setup = Setup::embedded(&directory.join("ids.db")).key("HttpEngine", engine);
    let server = keys.iter().fold(setup, |setup, (name, value)| setup.key(name, value.clone())).start();
    server.await_status("/health", 200);
    server
}

/// A POST of a body that is of this type, if there is one.
fn post(client: &mut Client, target: &str, media_type: &str, body: &str) -> Response {
    let media_type = match media_type {
        "" => String::new(),
        given => format!("Content-Type: {given}\r\n"),
    };
    let length = body.len();
    client.send(&format!(
        "POST {target} HTTP/1.1\r\nHost: h\r\n{media_type}Content-Length: {length}\r\n\r\n{body}"
    ));
    client.receive()
}

fn message(response: &Response) -> String {
    response.json()["msg"].as_str().expect("a message").to_owned()
}

fn a_json_body_has_the_same_parameters_as_a_form(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), engine, &[]);
    let file = rusqlite::Connection::open(directory.path().join("ids.db")).unwrap();
    file.execute(
        "INSERT INTO segments (app_tag, max_id, step) VALUES ('b\u{e4}r&a=%+\u{1f600}', 0, 100)",
        [],
    )
    .unwrap();
    server.await_status("/health?app_tag=b%C3%A4r%26a%3D%25%2B%F0%9F%98%80", 200);
    let mut client = server.connect();
    let json = "application/json";
    let mut ids = |target: &str, media_type: &str, body: Value| {
        let response = post(&mut client, target, media_type, &body.to_string());
        assert_eq!(response.status, 200, "{target} {body}: {response:?}");
        match response.json() {
            answer if answer["id"].is_i64() => 1,
            answer if answer["ids"].is_array() => answer["ids"].as_array().unwrap().len() as i64,
            answer if answer["end"].is_i64() => {
                answer["end"].as_i64().unwrap() - answer["start"].as_i64().unwrap()
            }
            answer => i64::from(answer["left"].is_u64()) - 1,
        }
    };
    for media_type in [json, "Application/JSON; charset=utf-8", "application/json;charset=UTF-8"] {
        assert_eq!(ids("/alloc", media_type, json!({"app_tag": "test_business"})), 1);
        assert_eq!(ids("/alloc", media_type, json!({"app_tag": "test_business", "count": 7})), 7);
        assert_eq!(ids("/alloc", media_type, json!({"count": "7", "app_tag": "test_business"})), 7);
        assert_eq!(ids("/segment", media_type, json!({"app_tag": "test_business", "count": 50})), 50);
        assert_eq!(ids("/health", media_type, json!({"app_tag": "test_business"})), 0, "IDs are left");
    }
    assert_eq!(ids("/alloc", json, json!({"app_tag": "b\u{e4}r&a=%+\u{1f600}", "count": 3})), 3);
    // What a form ignores too, and what is in the body before in the query.
    assert_eq!(ids("/alloc", json, json!({"app_tag": "test_business", "x": null, "Count": 2, "y": 1.5})), 1);
    assert_eq!(
        ids("/alloc?app_tag=nobody&count=9", json, json!({"app_tag": "test_business", "count": 4})),
        4
    );
    assert_eq!(ids("/alloc?app_tag=test_business", json, json!({"count": 4})), 4);
    assert_eq!(ids("/alloc?app_tag=test_business&count=4", json, json!({})), 4);
    // A client says that it is JSON also where nothing is.
    assert_eq!(post(&mut client, "/alloc?app_tag=test_business", json, "").status, 200);
    let body = r#"{ "app_tag" : "test\u005fbusiness", "a":1 }"#;
    client.send(&format!(
        "POST /alloc HTTP/1.1\r\nHost: h\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}\
         GET /health HTTP/1.1\r\nHost: h\r\n\r\n",
        body.len()
    ));
    let (first, second) = (client.receive(), client.receive());
    assert!(first.id() > 0 && second.status == 200, "{first:?} {second:?}");
}

fn a_json_body_that_is_not_as_it_must_be_is_refused(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), engine, &[]);
    let mut client = server.connect();
    for (body, expected) in [
        ("[]", "the body is not a JSON object"),
        ("\"app_tag=test_business\"", "the body is not a JSON object"),
        ("app_tag=test_business", "the body is not a JSON object"),
        ("{\"app_tag\": \"test_business\"", "the body is not valid JSON: EOF"),
        ("{\"app_tag\": \"test_business\"} {}", "the body is not valid JSON: trailing"),
        (r#"{"app_tag": "test_business", "app_tag": "test_business"}"#, "'app_tag' is given twice"),
        (r#"{"app_tag": "test_business", "count": [2]}"#, "'count' is an array"),
        (r#"{"app_tag": "test_business", "options": {"count": 2}}"#, "'options' is an object"),
        (r#"{"app_tag": 7}"#, "app_tag is a number: it must be a string"),
        (r#"{"app_tag": "test_business", "count": null}"#, "count is null"),
        (r#"{"app_tag": "test_business", "count": 0}"#, "count is '0': it must be a number from 1 to 10000"),
        (r#"{"app_tag": "test_business", "count": -2}"#, "count is '-2'"),
        (r#"{"app_tag": "test_business", "count": 2.0}"#, "count is '2.0'"),
        (r#"{"app_tag": "test_business", "count": "2 "}"#, "count is '2 '"),
        (r#"{"count": 2}"#, "app_tag is missing"),
        (r#"{"app_tag": ""}"#, "app_tag is empty"),
    ] {
        for target in ["/alloc", "/segment"] {
            let response = post(&mut client, target, "application/json", body);
            assert_eq!(response.status, 400, "{body}");
            let expected = match target {
                "/segment" => expected.replace("10000", "1000000"),
                _ => expected.to_owned(),
            };
            assert!(message(&response).contains(&expected), "{body}: {response:?}");
        }
    }
    let health = post(&mut client, "/health", "application/json", "{");
    assert_eq!(health.status, 400, "{health:?}");
    let long = format!("{{\"app_tag\": \"{}\"}}", "\u{e4}".repeat(30_000));
    assert!(message(&post(&mut client, "/alloc", "application/json", &long)).contains("60000 bytes"));
    assert_eq!(server.get("/alloc?app_tag=test_business").id(), 1, "nobody got any");
}

fn a_body_that_is_not_understood_is_refused_and_not_dropped(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), engine, &[]);
    let mut client = server.connect();
    let part = "--x\r\nContent-Disposition: form-data; name=\"count\"\r\n\r\n5\r\n--x--\r\n";
    for (media_type, body, what) in [
        ("multipart/form-data; boundary=x", part, "the body is multipart:"),
        ("MULTIPART/mixed;boundary=x", part, "the body is multipart:"),
        ("text/plain;charset=UTF-8", r#"{"count": 5}"#, "the body is of another type:"),
        ("application/xml", "<count>5</count>", "the body is of another type:"),
        ("application/jsonp", "x", "the body is of another type:"),
        ("json", r#"{"count": 5}"#, "the body is of another type:"),
    ] {
        for target in ["/alloc?app_tag=test_business", "/segment?app_tag=test_business&count=5"] {
            let response = post(&mut client, target, media_type, body);
            let accepted = "application/x-www-form-urlencoded, application/json";
            assert_eq!(response.status, 415, "{media_type}");
            assert_eq!(response.headers["accept-post"], accepted, "{media_type}");
            assert!(message(&response).contains(what), "{media_type}: {response:?}");
        }
        let health = post(&mut client, "/health", media_type, body);
        assert_eq!(health.status, 415, "{media_type}");
        assert_eq!(post(&mut client, "/nowhere", media_type, body).status, 404);
    }
    // Nothing is lost where there is nothing.
    assert_eq!(post(&mut client, "/alloc?app_tag=test_business", "text/plain", "").id(), 1);
    // What says of itself nothing is ignored, as ever.
    assert_eq!(post(&mut client, "/alloc?app_tag=test_business", "", "count=5").id(), 2);
    // A body of a GET means nothing: RFC 9110, 9.3.1.
    client.send(
        "GET /alloc?app_tag=test_business HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n\r\ncount=5",
    );
    assert_eq!(client.receive().id(), 3);
}

fn a_token_may_be_in_json(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), engine, &[("AccessTokens", json!({TOKEN: ["test_business"]}))]);
    let mut client = server.connect();
    let mut status = |body: Value| {
        let response = post(&mut client, "/alloc", "application/json", &body.to_string());
        assert!(!response.body.contains(TOKEN), "{response:?}");
        response.status
    };
    assert_eq!(status(json!({"app_tag": "test_business", "token": TOKEN})), 200);
    assert_eq!(status(json!({"app_tag": "test_business", "count": 2, "token": TOKEN})), 200);
    assert_eq!(status(json!({"app_tag": "other", "token": TOKEN})), 403);
    assert_eq!(status(json!({"app_tag": "test_business", "token": "wrong"})), 401);
    assert_eq!(status(json!({"app_tag": "test_business"})), 401);
    assert_eq!(status(json!({"app_tag": "test_business", "token": [TOKEN]})), 400);
    // As with a form, a long body brings no token.
    assert_eq!(status(json!({"app_tag": "test_business", "token": TOKEN, "x": "x".repeat(4096)})), 401);
    // Who has no token is told no more than that, whatever the body is.
    let target = format!("/alloc?app_tag=test_business&token={TOKEN}");
    assert_eq!(post(&mut client, &target, "application/json", "{\"count\": 2}").status, 200);
}

/// With the `tokio` engine: the other one takes a whole request before it shows it.
#[test]
fn a_json_body_is_not_taken_before_there_is_a_token() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), "tokio", &[("AccessTokens", json!({TOKEN: "*"}))]);
    let head = |bytes: usize, more: &str| {
        format!(
            "POST /alloc HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n{more}Content-Length: {bytes}\r\n\r\n"
        )
    };
    for (bytes, more) in [(4097, ""), (100, "Authorization: Bearer wrong\r\n")] {
        let mut client = server.connect();
        client.send(&(head(bytes, more) + "{"));
        let response = client.receive();
        assert_eq!((response.status, response.headers["connection"].as_str()), (401, "close"), "{bytes}");
        assert!(client.is_closed());
    }
    // Cut anywhere, a short one is taken.
    let body = json!({"app_tag": "test_business", "token": TOKEN}).to_string();
    for cut in 0..body.len() {
        let mut client = server.connect();
        client.send(&(head(body.len(), "") + &body[..cut]));
        client.send(&body[cut..]);
        assert_eq!(client.receive().status, 200, "{cut}");
    }
}
