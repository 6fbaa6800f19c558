//! Tags added, changed and deleted through the operator's port, on both stores. Each answer is held against the OpenAPI
//! document that the port serves.

use std::time::{Duration, Instant};

use idalloc::bounds::MAX_ID_MAX;
use idalloc_testing::mariadb::PASSWORD;
use idalloc_testing::proxy::{Loss, Proxy};
use idalloc_testing::server::{Client, PATIENCE, Response, Server, Setup};
use idalloc_testing::store::Store;
use serde_json::{Value, json};

const TOKEN: &str = "hunter2-hunter2-hunter2";
const JSON: &str = "Content-Type: application/json";

/// A server that is told to read the table by its operator.
trait Operated {
    fn start(&self) -> Server;
}

impl Operated for Store {
    fn start(&self) -> Server {
        // The table is read when somebody asks for it, and at no other time while a test lasts.
        let server = Setup::on(&self.dsn)
            .admin()
            .key("TagReloadSeconds", 3600)
            .key("WatermarkPath", self.dir.path().join("marks.db").to_str().unwrap())
            .start();
        server.await_status("/health", 200);
        server
    }
}

/// One operator, and the document that the answers are held against.
struct Operator {
    client: Client,
    document: Value,
    token: Option<String>,
}

impl Operator {
    fn of(server: &Server) -> Operator {
        let mut client = server.admin();
        let document = client.get_admin("/api/openapi.json").json();
        Operator { client, document, token: None }
    }

    /// A request, and an answer that is as documented.
    fn ask(&mut self, method: &str, target: &str, body: &str) -> Response {
        let mut headers = self.token.iter().map(String::as_str).collect::<Vec<_>>();
        if method != "GET" {
            headers.push(JSON);
        }
        let response = self.client.ask_admin(method, target, &headers, body);
        self.check(method, target, &response);
        response
    }

    fn tag(&mut self, method: &str, target: &str, body: Value) -> (u16, Value) {
        let response = self.ask(method, target, &body.to_string());
        (response.status, response.json())
    }

    /// The status of an error and the field that it names.
    fn error(&mut self, method: &str, target: &str, body: &str) -> (u16, Value, String) {
        let response = self.ask(method, target, body);
        let error = response.json()["error"].clone();
        (response.status, error["field"].clone(), error["message"].as_str().unwrap().to_owned())
    }

    fn check(&self, method: &str, target: &str, response: &Response) {
        let path = target.split('?').next().unwrap();
        let parts: Vec<_> = path.split('/').collect();
        let template = match parts[..] {
            ["", "api", "tags", _] => "/api/tags/{tag}",
            ["", "api", "tags", _, "advance"] => "/api/tags/{tag}/advance",
            _ => path,
        };
        let operation = &self.document["paths"][template][method.to_lowercase()];
        let documented = &operation["responses"][response.status.to_string()];
        assert!(documented.is_object(), "{method} {template} has no {} in the document", response.status);
        let Some(content) = documented["content"].as_object() else {
            return assert_eq!(response.body, "", "{method} {target}");
        };
        let (media_type, content) = content.iter().next().unwrap();
        assert!(response.headers["content-type"].starts_with(media_type), "{method} {target}: {response:?}");
        if media_type == "application/json" {
            assert_fits(&self.document, &content["schema"], &response.json());
        }
    }
}

/// The document's schemas are JSON Schema's.
fn assert_fits(document: &Value, schema: &Value, answer: &Value) {
    let whole = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "allOf": [schema],
        "components": document["components"],
    });
    let validator = jsonschema::validator_for(&whole).expect("a schema");
    let faults: Vec<_> = validator.iter_errors(answer).map(|fault| fault.to_string()).collect();
    assert!(faults.is_empty(), "{faults:?} in {answer}");
}

fn everywhere(case: impl Fn(&Store, &Server, &mut Operator)) {
    for store in [Store::embedded, Store::impatient_mariadb] {
        let store = store();
        let server = store.start();
        println!("on {}", store.dsn);
        case(&store, &server, &mut Operator::of(&server));
    }
}

#[test]
fn a_tag_that_is_added_serves_at_once() {
    everywhere(|_, server, operator| {
        let mut client = server.connect();
        // That it was not there a moment ago is forgotten.
        assert_eq!(client.get("/alloc?app_tag=orders").status, 404);
        let (status, tag) =
            operator.tag("POST", "/api/tags", json!({"app_tag": "orders", "step": 10, "start": "1000"}));
        assert_eq!((status, &tag["app_tag"], &tag["step"]), (201, &json!("orders"), &json!(10)));
        assert_eq!((&tag["max_id"], &tag["state"]), (&json!("1000"), &json!("idle")));
        assert_eq!(client.get("/alloc?app_tag=orders").id(), 1000);
        let (status, tag) =
            operator.tag("POST", "/api/tags", json!({"app_tag": "a/b?c d\u{e4}", "step": "7"}));
        assert_eq!((status, &tag["step"], &tag["max_id"]), (201, &json!(7), &json!("1")));
        assert_eq!(client.get("/alloc?app_tag=a%2Fb%3Fc%20d%C3%A4").id(), 1);
        let shown = operator.ask("GET", "/api/tags/a%2Fb%3Fc%20d%C3%A4", "").json();
        assert_eq!((&shown["app_tag"], &shown["issued"]), (&json!("a/b?c d\u{e4}"), &json!("1")));

        let (status, field, message) =
            operator.error("POST", "/api/tags", r#"{"app_tag":"orders","step":1}"#);
        assert_eq!((status, field), (409, json!("app_tag")), "{message}");
        let page = operator.ask("GET", "/api/tags?search=or", "").json();
        assert_eq!(page["total"], 1);
    });
}

#[test]
fn bad_input_is_refused_with_the_field_at_fault() {
    everywhere(|_, _, operator| {
        let long = "x".repeat(129);
        for (body, field, message) in [
            (json!({"step": 1}), json!("app_tag"), "app_tag is missing"),
            (
                json!({"app_tag": "", "step": 1}),
                json!("app_tag"),
                "app_tag is \"\": allowed is 1 to 128 bytes",
            ),
            (json!({"app_tag": long, "step": 1}), json!("app_tag"), "(129 bytes): allowed is 1 to 128"),
            (json!({"app_tag": 5, "step": 1}), json!("app_tag"), "app_tag is not a string"),
            (json!({"app_tag": "..", "step": 1}), json!("app_tag"), "neither \".\" nor \"..\""),
            (json!({"app_tag": "a\n", "step": 1}), json!("app_tag"), "without control characters"),
            (json!({"app_tag": "a"}), json!("step"), "step is missing"),
            (json!({"app_tag": "a", "step": 0}), json!("step"), "step is 0: allowed is 1 to 1000000000"),
            (
                json!({"app_tag": "a", "step": 1_000_000_001}),
                json!("step"),
                "step is 1000000001: allowed is 1 to",
            ),
            (json!({"app_tag": "a", "step": -5}), json!("step"), "step is -5: allowed is 1 to"),
            (json!({"app_tag": "a", "step": 1.5}), json!("step"), "step is not a whole number"),
            (
                json!({"app_tag": "a", "step": "9223372036854775808"}),
                json!("step"),
                "step is not a whole number",
            ),
            (json!({"app_tag": "a", "step": 1, "start": 0}), json!("start"), "start is 0: allowed is 1 to"),
            (json!({"app_tag": "a", "step": 1, "description": "x"}), json!("description"), "no such column"),
            (
                json!({"app_tag": "a", "step": 1, "max_id": 5}),
                json!("max_id"),
                "unknown field \"max_id\": allowed is app_tag, step",
            ),
            (json!([1]), json!(null), "not a JSON object"),
        ] {
            let (status, named, text) = operator.error("POST", "/api/tags", &body.to_string());
            assert_eq!((status, named), (400, field), "{body}: {text}");
            assert!(text.contains(message), "{body}: {text}");
        }
        assert_eq!(operator.error("POST", "/api/tags", "{\"app_tag\":").0, 400);
        for (body, field) in [
            (json!({}), json!(null)),
            (json!({"step": null}), json!(null)),
            (json!({"step": 0}), json!("step")),
            (json!({"max_id": 0}), json!("max_id")),
            (json!({"description": "a\nb"}), json!("description")),
            (json!({"description": "x"}), json!("description")),
            (json!({"app_tag": "x"}), json!("app_tag")),
            (json!({"Step": 1}), json!("Step")),
        ] {
            let (status, named, text) = operator.error("PATCH", "/api/tags/test_business", &body.to_string());
            assert_eq!((status, named), (400, field), "{body}: {text}");
        }
        for body in ["{\"to\":0}", "{\"to\":\"x\"}"] {
            let (status, named, _) = operator.error("POST", "/api/tags/test_business/advance", body);
            assert_eq!((status, named), (400, json!("to")));
        }
        for target in [
            "/api/tags/test_business",
            "/api/tags/test_business?confirm=",
            "/api/tags/test_business?confirm=Test_business",
        ] {
            let (status, named, _) = operator.error("DELETE", target, "");
            assert_eq!((status, named), (400, json!("confirm")), "{target}");
        }
        for (method, target, body) in [
            ("GET", "/api/tags/nobody", ""),
            ("PATCH", "/api/tags/nobody", "{\"step\":1}"),
            ("DELETE", "/api/tags/nobody?confirm=nobody", ""),
            ("POST", "/api/tags/nobody/advance", "{\"to\":5}"),
        ] {
            let (status, _, message) = operator.error(method, target, body);
            assert_eq!(status, 404, "{method} {target}");
            assert!(message.contains("no tag \"nobody\""), "{message}");
        }
        for (method, target) in [
            ("GET", "/api/tags/%ff"),
            ("PATCH", "/api/tags/%ff"),
            ("DELETE", "/api/tags/%ff"),
            ("POST", "/api/tags/%ff/advance"),
        ] {
            let (status, field, message) = operator.error(method, target, "");
            assert_eq!((status, field), (400, json!("app_tag")), "{method} {target}");
            assert!(message.contains("not percent-encoded UTF-8"), "{message}");
        }
        let too_long = format!("{{\"app_tag\":\"{}\"}}", "x".repeat(70_000));
        assert_eq!(operator.error("POST", "/api/tags", &too_long).0, 413);
    });
}

#[test]
fn a_change_is_acted_on_at_once() {
    everywhere(|_, server, operator| {
        let mut client = server.connect();
        operator.tag("POST", "/api/tags", json!({"app_tag": "t", "step": 1}));
        let (status, tag) = operator.tag("PATCH", "/api/tags/t", json!({"step": 1000}));
        assert_eq!((status, &tag["step"], &tag["max_id"]), (200, &json!(1000), &json!("1")));
        assert_eq!(client.get("/alloc?app_tag=t").id(), 1);
        let listed = operator.ask("GET", "/api/tags?search=t&sort=app_tag", "").json();
        let amount = listed["tags"].as_array().unwrap().iter().find(|tag| tag["app_tag"] == "t").unwrap()["last_amount"].clone();
        assert_eq!(amount, 1000, "the step of the very first reservation");

        let (status, tag) =
            operator.tag("PATCH", "/api/tags/t", json!({"max_id": "9007199254740993", "step": 2000}));
        assert_eq!((status, &tag["step"], &tag["max_id"]), (200, &json!(2000), &json!("9007199254740993")));
        let (status, field, message) = operator.error("PATCH", "/api/tags/t", r#"{"max_id":5,"step":3}"#);
        assert_eq!((status, field), (409, json!("max_id")));
        assert!(message.contains("the table has 9007199254740993, and max_id only goes up"), "{message}");
        let shown = operator.ask("GET", "/api/tags/t", "").json();
        assert_eq!(
            (&shown["step"], &shown["max_id"]),
            (&json!(2000), &json!("9007199254740993")),
            "nothing of it is done"
        );

        assert_eq!(operator.ask("DELETE", "/api/tags/t?confirm=t", "").status, 204);
        assert_eq!(client.get("/alloc?app_tag=t").status, 404, "what was in memory is not handed out");
        let peer = format!("peer={}", operator.client.socket().local_addr().unwrap());
        for part in [
            "the operator added the tag",
            "changed the tag's step",
            "raised the tag's max_id",
            "deleted the tag",
        ] {
            let line = server.await_log(part);
            assert!(line.contains(&peer) && line.contains("by=\"no token is set\""), "{line}");
        }
    });
}

#[test]
fn a_row_at_fault_is_mended_and_serves_at_once() {
    everywhere(|store, server, operator| {
        let mut client = server.connect();
        store.exec("INSERT INTO segments (app_tag, max_id, step) VALUES ('broken', 0, 0)");
        let granted = fence(store, server, operator, "fenced");
        assert_eq!(client.get("/alloc?app_tag=broken").status, 503);
        assert_eq!(operator.tag("PATCH", "/api/tags/broken", json!({"step": 5})).0, 200);
        assert_eq!(client.get("/alloc?app_tag=broken").id(), 1);

        let (status, tag) = operator.tag("POST", "/api/tags/fenced/advance", json!({}));
        // The refill that follows may take a moment yet.
        assert_eq!((status, &tag["fault"]), (200, &json!(null)), "{tag}");
        assert!(tag["max_id"].as_str().unwrap().parse::<i64>().unwrap() >= granted, "{tag}");
        assert!(client.get("/alloc?app_tag=fenced").id() >= granted);
        // Nothing is known of a tag that this server was never granted anything of.
        operator.tag("POST", "/api/tags", json!({"app_tag": "new", "step": 100}));
        let (status, field, message) = operator.error("POST", "/api/tags/new/advance", "");
        assert_eq!((status, field), (409, json!("to")), "{message}");
        assert_eq!(operator.tag("POST", "/api/tags/new/advance", json!({"to": 500})).1["max_id"], "500");
        assert_eq!(client.get("/alloc?app_tag=new").id(), 500);
    });
}

/// Has a tag fenced that steps by 100, as a failover to a replica that lagged does; returns what its row must be raised to.
fn fence(store: &Store, server: &Server, operator: &mut Operator, tag: &str) -> i64 {
    assert_eq!(operator.tag("POST", "/api/tags", json!({"app_tag": tag, "step": 100})).0, 201);
    let mut client = server.connect();
    while client.get(&format!("/alloc?app_tag={tag}&count=10")).status == 200 {
        store.exec(&format!("UPDATE segments SET max_id = 1 WHERE app_tag = '{tag}'"));
    }
    let fenced = operator.ask("GET", &format!("/api/tags/{tag}"), "").json();
    assert_eq!(fenced["state"], "fenced", "{fenced}");
    fenced["fault"].as_str().unwrap().rsplit(' ').nth(2).unwrap().parse().unwrap()
}

#[test]
fn a_raise_that_would_not_mend_a_tag_is_refused() {
    everywhere(|store, server, operator| {
        let granted = fence(store, server, operator, "t");
        let present = granted - 50;
        store.exec(&format!("UPDATE segments SET max_id = {present} WHERE app_tag = 't'"));
        for (method, target, field) in
            [("POST", "/api/tags/t/advance", "to"), ("PATCH", "/api/tags/t", "max_id")]
        {
            for (number, expected) in [
                (1, format!("the table has {present}, and max_id only goes up")),
                (granted - 1, format!("allowed is {granted} or more")),
                (i64::MAX, format!("allowed is up to {MAX_ID_MAX}")),
                (MAX_ID_MAX + 1, format!("allowed is up to {MAX_ID_MAX}")),
            ] {
                let (status, named, message) =
                    operator.error(method, target, &json!({field: number}).to_string());
                assert_eq!((status, named), (409, json!(field)), "{number}: {message}");
                assert!(message.contains(&format!("{field} is {number}: ")), "{message}");
                assert!(message.contains(&expected), "{message}");
            }
        }
        assert_eq!(store.max_id("t"), present, "nothing is changed");
        assert_eq!(operator.ask("GET", "/api/tags/t", "").json()["state"], "fenced");
        let (status, tag) = operator.tag("POST", "/api/tags/t/advance", json!({"to": granted}));
        assert_eq!((status, &tag["fault"]), (200, &json!(null)), "{tag}");
        assert_eq!(server.get("/alloc?app_tag=t").id(), granted);
        // A row that is past the watermark is mended already, and is not lowered.
        store.exec("UPDATE segments SET max_id = 100000 WHERE app_tag = 't'");
        let (status, tag) = operator.tag("POST", "/api/tags/t/advance", json!({}));
        let max_id: i64 = tag["max_id"].as_str().unwrap().parse().unwrap();
        assert!(status == 200 && max_id >= 100_000, "{tag}");
    });
}

#[test]
fn a_tag_that_comes_back_begins_above_what_was_granted_before() {
    everywhere(|_, server, operator| {
        operator.tag("POST", "/api/tags", json!({"app_tag": "t", "step": 1000, "start": 70_000}));
        assert_eq!(server.get("/alloc?app_tag=t").id(), 70_000);
        // A reservation that is under way while the tag is deleted raises what was granted after it.
        server.await_answer("/health?app_tag=t", r#"{"resp_code":0,"msg":"success","left":1999}"#);
        assert_eq!(operator.ask("DELETE", "/api/tags/t?confirm=t", "").status, 204);
        for body in [json!({"app_tag": "t", "step": 1}), json!({"app_tag": "t", "step": 1, "start": 70_999})]
        {
            let (status, field, message) = operator.error("POST", "/api/tags", &body.to_string());
            assert_eq!((status, field), (409, json!("start")), "{message}");
            assert!(message.contains("granted the tag's IDs below 7"), "{message}");
        }
        assert_eq!(server.get("/alloc?app_tag=t").status, 404, "it is not added");
        let message = operator.error("POST", "/api/tags", r#"{"app_tag":"t","step":1}"#).2;
        let granted: i64 =
            message.split("below ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let again = json!({"app_tag": "t", "step": 1, "start": granted});
        assert_eq!(operator.tag("POST", "/api/tags", again).0, 201);
        assert_eq!(server.get("/alloc?app_tag=t").id(), granted);
        assert_eq!(server.get("/health").status, 200);
    });
}

#[test]
fn descriptions_are_for_tables_that_have_them() {
    let store = Store::impatient_mariadb();
    store.exec("ALTER TABLE segments ADD COLUMN description VARCHAR(20) NOT NULL DEFAULT 'none'");
    let server = store.start();
    let mut operator = Operator::of(&server);
    let tag =
        operator.tag("POST", "/api/tags", json!({"app_tag": "a", "step": 1, "description": "of the shop"})).1;
    assert_eq!(tag["description"], "of the shop");
    assert_eq!(
        operator.tag("POST", "/api/tags", json!({"app_tag": "b", "step": 1})).1["description"],
        "none"
    );
    assert_eq!(
        operator.tag("PATCH", "/api/tags/b", json!({"description": "b\u{fc}cher"})).1["description"],
        "b\u{fc}cher"
    );
    let (status, field, message) =
        operator.error("PATCH", "/api/tags/b", &json!({"description": "x".repeat(21)}).to_string());
    assert_eq!((status, field), (400, json!("description")), "{message}");
    let page = operator.ask("GET", "/api/tags", "").json();
    assert!(
        page["tags"].as_array().unwrap().iter().all(|tag| tag.get("description").is_none()),
        "lists are from memory"
    );
    store.exec("ALTER TABLE segments MODIFY description VARCHAR(20) NULL");
    store.exec("UPDATE segments SET description = NULL");
    assert_eq!(
        operator.ask("GET", "/api/tags/b", "").json()["description"],
        "",
        "nothing, and not no column"
    );
    store.exec("ALTER TABLE segments DROP COLUMN description");
    assert_eq!(operator.ask("GET", "/api/tags/b", "").json()["description"], json!(null));
}

#[test]
fn a_store_that_does_not_answer_is_an_error_and_lists_go_on() {
    let store = Store::impatient_mariadb();
    let server = store.start();
    let mut operator = Operator::of(&server);
    store.database.as_ref().unwrap().kill();
    for (method, target, body) in [
        ("GET", "/api/tags/test_business", ""),
        ("POST", "/api/tags", r#"{"app_tag":"x","step":1}"#),
        ("PATCH", "/api/tags/test_business", r#"{"step":1}"#),
        ("DELETE", "/api/tags/test_business?confirm=test_business", ""),
        ("POST", "/api/tags/test_business/advance", r#"{"to":1}"#),
    ] {
        let (status, field, message) = operator.error(method, target, body);
        assert_eq!((status, field), (503, json!(null)), "{method} {target}");
        assert!(message.contains("store unreachable") && !message.contains(PASSWORD), "{message}");
        assert!(!message.contains("unknown"), "nothing was sent: {message}");
    }
    assert_eq!(operator.ask("GET", "/api/tags", "").json()["total"], 1);
}

#[test]
fn a_change_without_an_answer_is_in_doubt_and_is_sent_once() {
    use mysql::prelude::Queryable;
    let store = Store::mariadb();
    let port = store.database.as_ref().unwrap().port();
    // The change itself holds the step as these bytes; what is prepared, and read, before does not.
    const STEP: i64 = i64::from_le_bytes(*b"ste5\0\0\0\0");
    let proxy = Proxy::before(port, "ste5\0\0\0\0");
    let store = Store { dsn: store.dsn.replace(&port.to_string(), &proxy.port().to_string()), ..store };
    let server = store.start();
    let mut operator = Operator::of(&server);
    let database = store.database.as_ref().unwrap();
    let mut observer = database.conn();
    let mut changes = || observer.query_first::<(String, u64), _>("SHOW GLOBAL STATUS LIKE 'Com_update'");
    let mut changes = || changes().unwrap().unwrap().1;
    let before = changes();
    proxy.lose(Some(Loss::Closed));
    let (status, field, message) =
        operator.error("PATCH", "/api/tags/test_business", &json!({"step": STEP}).to_string());
    assert_eq!((status, field), (503, json!(null)), "{message}");
    let doubt = "whether step was changed all the same is unknown: look before you try again";
    assert!(message.contains(doubt), "{message}");
    proxy.lose(None);
    let tag = operator.ask("GET", "/api/tags/test_business", "").json();
    assert_eq!(
        (proxy.lost(), &tag["step"]),
        (1, &json!(STEP)),
        "it was made, and its acknowledgement lost: {tag}"
    );
    assert_eq!(changes() - before, 1);
}

#[test]
fn what_the_database_denies_is_named() {
    let store = Store::mariadb();
    let server = store.start();
    drop(server);
    store.exec("CREATE USER guarded@127.0.0.1 IDENTIFIED BY 'g'");
    store.exec("GRANT SELECT, UPDATE ON id_alloc_db.segments TO guarded@127.0.0.1");
    let store = Store { dsn: store.dsn.replace(&format!("root:{PASSWORD}"), "guarded:g"), ..store };
    let server = store.start();
    let mut operator = Operator::of(&server);
    assert_eq!(operator.tag("PATCH", "/api/tags/test_business", json!({"step": 5})).0, 200);
    for (method, target, body, privilege) in [
        ("POST", "/api/tags", r#"{"app_tag":"x","step":1}"#, "INSERT command denied"),
        ("DELETE", "/api/tags/test_business?confirm=test_business", "", "DELETE command denied"),
    ] {
        let (status, field, message) = operator.error(method, target, body);
        assert_eq!((status, field), (403, json!(null)), "{message}");
        assert!(message.contains(privilege), "{message}");
    }
    store.exec("RENAME TABLE segments TO elsewhere");
    let (status, _, message) = operator.error("GET", "/api/tags/test_business", "");
    assert_eq!(status, 409, "{message}");
    assert!(message.contains("run: CREATE TABLE"), "{message}");
}

#[test]
fn a_change_that_waits_for_a_locked_row_does_not_hold_up_the_end() {
    use mysql::prelude::Queryable;
    let store = Store::impatient_mariadb();
    let mut server = store.start();
    let database = store.database.as_ref().unwrap();
    let mut observer = database.conn();
    let _lock = database.lock_row("test_business");
    let mut operator = server.admin();
    let change = "{\"step\":5}";
    operator.send(&format!(
        "PATCH /api/tags/test_business HTTP/1.1\r\nHost: 127.0.0.1\r\n{JSON}\r\nContent-Length: {}\r\n\r\n{change}",
        change.len()
    ));
    let waiting =
        "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'UPDATE `segments` SET step%'";
    let deadline = Instant::now() + PATIENCE;
    while observer.query_first::<u64, _>(waiting).unwrap() != Some(1) {
        assert!(Instant::now() < deadline, "the change does not reach the table");
    }
    // The server would wait for the row for three seconds, and then for its answer to be read.
    database.pause();
    let signalled = Instant::now();
    server.signal(libc::SIGTERM);
    // Within 100 ms it would be the same one.
    std::thread::sleep(Duration::from_millis(150));
    server.signal(libc::SIGINT);
    server.wait();
    assert!(signalled.elapsed() < Duration::from_secs(3), "{:?}", signalled.elapsed());
    database.resume();
}

#[test]
fn a_clean_end_leaves_the_embedded_store_in_one_file() {
    let store = Store::embedded();
    let mut server = store.start();
    assert_eq!(Operator::of(&server).ask("GET", "/api/tags/test_business", "").status, 200);
    server.signal(libc::SIGTERM);
    server.wait();
    // Who copies the file has everything: no session was left open with what it had written beside it.
    assert!(!store.dir.path().join("ids.db-wal").exists());
}

#[test]
fn every_tag_that_a_table_may_hold_can_be_reached() {
    everywhere(|store, server, operator| {
        for (tag, encoded) in
            [(".", "."), ("..", ".."), ("a/b", "a%2Fb"), ("%2F", "%252F"), ("a//b+c", "a//b%2Bc")]
        {
            store.exec(&format!("INSERT INTO segments (app_tag, max_id, step) VALUES ('{tag}', 0, 10)"));
            let target = format!("/api/tag?app_tag={encoded}");
            let shown = operator.ask("GET", &target, "").json();
            assert_eq!((&shown["app_tag"], &shown["step"]), (&json!(tag), &json!(10)), "{tag}");
            assert_eq!(operator.tag("PATCH", &target, json!({"step": 5})).1["step"], 5, "{tag}");
            let advance = format!("/api/tag/advance?app_tag={encoded}");
            assert_eq!(operator.tag("POST", &advance, json!({"to": 700})).1["max_id"], "700", "{tag}");
            assert_eq!(server.get(&format!("/alloc?app_tag={encoded}")).id(), 700, "{tag}");
            assert_eq!(operator.error("DELETE", &target, "").0, 400, "{tag}");
            assert_eq!(
                operator.ask("DELETE", &format!("{target}&confirm={encoded}"), "").status,
                204,
                "{tag}"
            );
            assert_eq!(operator.error("GET", &target, "").0, 404, "{tag}");
        }
        for (target, message) in [
            ("/api/tag", "app_tag is missing"),
            ("/api/tag?app_tag=a&app_tag=b", "app_tag is given twice"),
            ("/api/tag?app_tag=%ff", "app_tag is not percent-encoded UTF-8"),
        ] {
            let (status, field, text) = operator.error("GET", target, "");
            assert_eq!((status, field), (400, json!("app_tag")), "{target}");
            assert!(text.contains(message), "{text}");
        }
    });
}

#[test]
fn what_has_no_body_needs_no_content_type() {
    let store = Store::embedded();
    let server = store.start();
    let mut operator = Operator::of(&server);
    let mut client = server.connect();
    assert_eq!(client.get("/alloc?app_tag=test_business").status, 200);
    let mut bare = server.admin();
    let advanced = bare.ask_admin("POST", "/api/tags/test_business/advance", &["Content-Length: 0"], "");
    assert_eq!(advanced.status, 200, "{advanced:?}");
    assert_eq!(bare.ask_admin("POST", "/api/tags/test_business/advance", &[], "").status, 200);
    assert_eq!(bare.ask_admin("POST", "/api/tags", &[], "").status, 400, "something is missing");
    let deleted = bare.ask_admin("DELETE", "/api/tags/test_business?confirm=test_business", &[], "");
    assert_eq!(deleted.status, 204, "{deleted:?}");
    assert_eq!(operator.error("GET", "/api/tags/test_business", "").0, 404);
}

#[test]
fn what_the_store_says_is_escaped() {
    let store = Store::impatient_mariadb();
    let server = store.start();
    let mut operator = Operator::of(&server);
    let hostile = "x\ny\u{202e}";
    store.exec(&format!(
        "CREATE TRIGGER refuse BEFORE UPDATE ON segments FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{hostile}'"
    ));
    let (status, _, message) = operator.error("PATCH", "/api/tags/test_business", r#"{"step":5}"#);
    assert_eq!(status, 503);
    assert!(message.contains(r"x\ny\u{202e} (error 1644"), "{message}");
}

// ---- the document ----

/// The document and the server draw the same limits around whole numbers, whichever way these are written.
#[test]
fn the_document_allows_the_numbers_that_the_server_takes_and_no_other() {
    let store = Store::embedded();
    let server = store.start();
    let mut operator = Operator::of(&server);
    operator.tag("POST", "/api/tags", json!({"app_tag": "t", "step": 1}));
    let document = operator.document.clone();
    let fits = |schema: &str, body: &Value| {
        let whole = json!({"allOf": [{"$ref": format!("#/components/schemas/{schema}")}], "components": document["components"]});
        jsonschema::is_valid(&whole, body)
    };
    let max = i64::MAX;
    let mut numbers = vec![
        json!(0),
        json!(-1),
        json!("0"),
        json!("-1"),
        json!("+5"),
        json!(""),
        json!("1.0"),
        json!(1.5),
        json!(5.0),
    ];
    for number in [
        1,
        9,
        10,
        999,
        1_000_000,
        999_999_999,
        1_000_000_000,
        1_000_000_001,
        MAX_ID_MAX,
        MAX_ID_MAX + 1,
        max / 10,
        max / 2,
        max - 10,
        max - 9,
        max - 2,
        max - 1,
        max,
    ] {
        numbers.extend([json!(number), json!(number.to_string())]);
    }
    numbers.extend([
        json!("9223372036854775808"),
        json!("9300000000000000000"),
        json!("10000000000000000000"),
    ]);
    numbers.push(json!(9_223_372_036_854_775_808_u64));
    for number in &numbers {
        let bodies = [
            ("NewTag", "POST", "/api/tags", json!({"app_tag": "new", "step": number})),
            ("NewTag", "POST", "/api/tags", json!({"app_tag": "new", "step": 1, "start": number})),
            ("TagChange", "PATCH", "/api/tags/t", json!({"step": number})),
            ("TagChange", "PATCH", "/api/tags/t", json!({"max_id": number})),
            ("Advance", "POST", "/api/tags/t/advance", json!({"to": number})),
        ];
        for (schema, method, target, body) in bodies {
            // A value that is well-formed may still not go with what is there: that is another status.
            let is_taken = operator.ask(method, target, &body.to_string()).status != 400;
            assert_eq!(fits(schema, &body), is_taken, "{schema} {body}");
            operator.ask("DELETE", "/api/tags/new?confirm=new", "");
        }
    }
}

#[test]
fn every_path_has_the_documented_methods_and_no_other() {
    let store = Store::embedded();
    let server = store.start();
    let mut operator = Operator::of(&server);
    for (path, operations) in operator.document["paths"].as_object().unwrap().clone() {
        let mut documented: Vec<_> = operations
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| *key != "parameters")
            .map(|method| method.to_uppercase())
            .collect();
        if documented.contains(&"GET".to_owned()) {
            documented.push("HEAD".to_owned());
        }
        documented.sort();
        let target = path.replace("{tag}", "test_business");
        let response = operator.client.ask_admin("PUT", &target, &[JSON], "{}");
        assert_eq!(response.status, 405, "{path}");
        let mut allowed: Vec<_> = response.headers["allow"].split(',').map(str::to_owned).collect();
        allowed.sort();
        assert_eq!(allowed, documented, "{path}");
    }
}

#[test]
fn what_is_read_is_as_documented() {
    let store = Store::embedded();
    let server = store.start();
    let mut operator = Operator::of(&server);
    for target in [
        "/livez",
        "/readyz",
        "/metrics",
        "/api/status",
        "/api/openapi.json",
        "/api/tags?limit=1",
        "/api/tags?limit=0",
    ] {
        operator.ask("GET", target, "");
    }
    assert_eq!(operator.client.get_admin("/api/tags?limit=0").status, 400);
    // Every schema that the document names is there, and is one.
    let document = &operator.document;
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let whole = json!({"allOf": [schema], "components": document["components"]});
        assert!(jsonschema::validator_for(&whole).is_ok(), "{name}");
    }
    // The samples, which come as events.
    let mut events = server.admin();
    events.send("GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(events.socket()));
    for name in ["History", "Sample"] {
        let data = lines.find_map(|line| line.unwrap().strip_prefix("data: ").map(str::to_owned)).unwrap();
        let schema = json!({"$ref": format!("#/components/schemas/{name}")});
        assert_fits(document, &schema, &serde_json::from_str(&data).unwrap());
    }
}

#[test]
fn with_a_token_nothing_is_changed_without_it() {
    let store = Store::embedded();
    let server = Setup::on(&store.dsn).admin().key("AdminToken", TOKEN).start();
    server.await_status("/health", 200);
    let mut operator = Operator {
        client: server.admin(),
        document: Value::Null,
        token: Some(format!("Authorization: Bearer {TOKEN}")),
    };
    let token = operator.token.clone().unwrap();
    operator.document = operator.client.ask_admin("GET", "/api/openapi.json", &[&token], "").json();
    for given in [None, Some(format!("{token}x"))] {
        operator.token = given;
        for (method, target, body) in [
            ("POST", "/api/tags", r#"{"app_tag":"x","step":1}"#),
            ("PATCH", "/api/tags/test_business", r#"{"step":1}"#),
            ("DELETE", "/api/tags/test_business?confirm=test_business", ""),
            ("POST", "/api/tags/test_business/advance", r#"{"to":1000000}"#),
        ] {
            assert_eq!(operator.error(method, target, body).0, 401);
        }
    }
    operator.token = Some(token);
    let tag = operator.ask("GET", "/api/tags/test_business", "").json();
    assert_eq!(
        (&tag["step"], operator.ask("GET", "/api/tags", "").json()["total"].as_u64()),
        (&json!(100_000), Some(1))
    );
}

#[test]
fn the_log_says_whose_token_made_a_change_and_never_the_token() {
    let store = Store::embedded();
    let tokens = json!({"ann": "a-token-of-ann-alone", "bob": "a-token-of-bob-alone"});
    let mut server =
        Setup::on(&store.dsn).admin().key("AdminToken", TOKEN).key("AdminTokens", tokens.clone()).start();
    server.await_status("/health", 200);
    let token = |name: &str| tokens[name].as_str().unwrap_or(TOKEN).to_owned();
    let names = ["ann", "bob", "AdminToken"];
    for (step, name) in (1..).zip(names) {
        let mut client = server.admin();
        let headers =
            [format!("Authorization: Bearer {}", token(name)), "Content-Type: application/json".to_owned()];
        let headers = headers.each_ref().map(String::as_str);
        let peer = client.socket().local_addr().unwrap();
        let tag =
            client.ask_admin("PATCH", "/api/tags/test_business", &headers, &format!("{{\"step\":{step}}}"));
        assert_eq!(tag.status, 200, "{tag:?}");
        let line = server.await_log("changed the tag's step");
        assert!(line.contains(&format!("by=\"{name}\"")) && line.contains(&format!("peer={peer}")), "{line}");
    }
    let wrong =
        server.admin().ask_admin("GET", "/api/tags", &["Authorization: Bearer a-token-of-ann-alonf"], "");
    assert_eq!(wrong.status, 401);
    server.signal(libc::SIGTERM);
    server.wait();
    let log = server.rest_of_log().join("\n");
    assert!(!names.iter().any(|name| log.contains(&token(name))) && !log.contains("alonf"), "{log}");
}
