//! Pages of other sites, and names of other servers, on the port for clients: over real sockets, on both engines.

use idalloc_testing::on_each_engine;

use std::path::Path;

use idalloc_testing::server::{Client, Response, Server, Setup};
use idalloc_testing::store::starve;
use serde_json::{Value, json};

const TARGETS: [&str; 4] = [
    "/alloc?app_tag=test_business",
    "/alloc?app_tag=test_business&count=5",
    "/segment?app_tag=test_business&count=5",
    "/health?app_tag=test_business",
];
const APP: &str = "https://app.example";
const CROSS_SITE: &str = "Sec-Fetch-Site: cross-site\r\n";
const TOKEN: &str = "a-token-for-everything";

on_each_engine! {
    a_page_of_another_site_takes_no_id
    a_page_of_a_listed_origin_takes_ids_and_may_read_every_answer
    any_page_may_where_all_origins_are_listed
    a_browser_that_asks_beforehand_is_told_what_is_allowed
    only_the_names_that_are_given_are_served
    a_node_in_need_names_no_tag_to_a_stranger
    what_was_remembered_of_one_client_is_not_for_a_page
}

fn setup(directory: &Path, engine: &str) -> Setup {
    Setup::embedded(&directory.join("ids.db")).key("HttpEngine", engine).key("Workers", 1)
}

fn start(setup: Setup) -> Server {
    let server = setup.start();
    server.await_status("/health", 200);
    server
}

/// A request with these header lines, each ended by CRLF, beside a Host.
fn ask_as(client: &mut Client, host: &str, method: &str, target: &str, headers: &str) -> Response {
    client.send(&format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n"));
    if method == "HEAD" { client.receive_head() } else { client.receive() }
}

fn ask(client: &mut Client, method: &str, target: &str, headers: &str) -> Response {
    ask_as(client, "ids.example:8880", method, target, headers)
}

fn from(origin: &str) -> String {
    format!("Origin: {origin}\r\n{CROSS_SITE}")
}

/// The headers of an answer that have to do with other origins.
fn cors(response: &Response) -> Value {
    let is_one = |name: &str| name.starts_with("access-control-") || name == "vary";
    let headers = response.headers.iter().filter(|(name, _)| is_one(name));
    Value::Object(headers.map(|(name, value)| (name.clone(), json!(value))).collect())
}

fn readable_by(origin: &str) -> Value {
    json!({
        "access-control-allow-origin": origin,
        "access-control-expose-headers": "Retry-After",
        "vary": "Origin"
    })
}

fn a_page_of_another_site_takes_no_id(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server =
        start(setup(directory.path(), engine).key("PreloadTags", 0).key("CorsOrigins", json!([APP])));
    let mut client = server.connect();
    let headers = [
        CROSS_SITE.to_owned(),
        "Sec-Fetch-Site: same-site\r\n".to_owned(),
        // A link, or an address that a page goes to, burns IDs as well.
        format!("{CROSS_SITE}Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"),
        from("https://evil.example"),
        "Origin: https://evil.example\r\n".to_owned(),
        "Origin: null\r\n".to_owned(),
        "origin: http://ids.example:8881\r\nsec-fetch-site: same-site\r\n".to_owned(),
        "Origin: http://app.example\r\n".to_owned(),
        // Its server is what the URL says, whatever Host says: RFC 9112, 3.2.2.
        "Origin: http://other.example\r\n".to_owned(),
    ];
    for (target, headers) in
        TARGETS.into_iter().flat_map(|target| headers.iter().map(move |one| (target, one)))
    {
        for method in ["GET", "HEAD", "POST"] {
            let response = ask(&mut client, method, target, headers);
            assert_eq!(response.status, 403, "{method} {target} {headers}");
            assert_eq!(cors(&response), json!({}), "{method} {target} {headers}");
            if method == "GET" {
                assert!(response.body.contains("CorsOrigins"), "{response:?}");
            }
        }
    }
    let refused = ask(&mut client, "GET", TARGETS[0], &from("https://evil.example\u{202e}"));
    assert!(
        refused.body.contains("'https://evil.example\\u202e'"),
        "the value is named, and escaped: {refused:?}"
    );
    // A form that a page sends, with a body.
    client.send(&format!(
        "POST /alloc HTTP/1.1\r\nHost: h\r\n{}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 21\r\n\r\napp_tag=test_business",
        from("https://evil.example")
    ));
    assert_eq!(client.receive().status, 403);
    let file = rusqlite::Connection::open(directory.path().join("ids.db")).unwrap();
    let max_id: i64 = file.query_row("SELECT max_id FROM segments", [], |row| row.get(0)).unwrap();
    assert_eq!(max_id, 0, "nothing was reserved");
    // Its own pages, its users' bookmarks, and whoever is no browser.
    for headers in [
        "",
        "Sec-Fetch-Site: none\r\n",
        "Sec-Fetch-Site: same-origin\r\n",
        "Origin: http://ids.example:8880\r\nSec-Fetch-Site: same-origin\r\n",
        "Origin: https://IDS.example:8880\r\n",
    ] {
        for method in ["GET", "POST"] {
            let response = ask(&mut client, method, TARGETS[0], headers);
            assert_eq!((response.status, cors(&response)), (200, json!({})), "{method} {headers}");
        }
    }
    let absolute = "http://other.example/alloc?app_tag=test_business";
    assert_eq!(ask(&mut client, "GET", absolute, "Origin: http://other.example\r\n").status, 200);
    // For probes, whoever sends them: this takes nothing.
    assert_eq!(ask(&mut client, "GET", "/health", &from("https://evil.example")).status, 200);
}

fn a_page_of_a_listed_origin_takes_ids_and_may_read_every_answer(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server = start(
        setup(directory.path(), engine)
            .key("CorsOrigins", json!(["http://localhost:3000", "https://APP.example:443"]))
            .key("AccessTokens", json!({TOKEN: ["test_business", "gone"]}))
            .key("MaxBatch", 9000),
    );
    let mut client = server.connect();
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let form =
        "POST /alloc HTTP/1.1\r\nHost: h\r\nContent-Type: multipart/form-data\r\nContent-Length: 1\r\n";
    for origin in [APP, "http://localhost:3000"] {
        for (target, status) in TARGETS.map(|target| (target, 200)).into_iter().chain([
            ("/health", 200),
            // A long answer, which is sent in pieces.
            ("/alloc?app_tag=test_business&count=9000", 200),
            ("/alloc", 400),
            ("/alloc?app_tag=other", 403),
            ("/alloc?app_tag=gone", 404),
            ("/nowhere", 404),
        ]) {
            for sender in [from(origin), format!("Origin: {origin}\r\n")] {
                let response = ask(&mut client, "GET", target, &format!("{sender}{bearer}"));
                assert_eq!((response.status, cors(&response)), (status, readable_by(origin)), "{target}");
            }
        }
        let unauthorized = ask(&mut client, "GET", TARGETS[0], &from(origin));
        assert_eq!((unauthorized.status, cors(&unauthorized)), (401, readable_by(origin)));
        let not_allowed = ask(&mut client, "PUT", TARGETS[0], &from(origin));
        assert_eq!((not_allowed.status, cors(&not_allowed)), (405, readable_by(origin)));
        client.send(&format!("{form}{}{bearer}\r\nx", from(origin)));
        let unsupported = client.receive();
        assert_eq!((unsupported.status, cors(&unsupported)), (415, readable_by(origin)));
    }
    // Others, as if nobody was listed; nobody who is none is told anything new.
    assert_eq!(ask(&mut client, "GET", TARGETS[0], &format!("{}{bearer}", from("null"))).status, 403);
    assert_eq!(cors(&ask(&mut client, "GET", TARGETS[0], &bearer)), json!({}));
    // Without its origin, the browser's word is all that there is.
    assert_eq!(ask(&mut client, "GET", TARGETS[0], &format!("{CROSS_SITE}{bearer}")).status, 403);
}

fn any_page_may_where_all_origins_are_listed(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server = start(setup(directory.path(), engine).key("CorsOrigins", json!(["*"])));
    let mut client = server.connect();
    let any = json!({"access-control-allow-origin": "*", "access-control-expose-headers": "Retry-After"});
    for target in TARGETS {
        for origin in ["https://evil.example", "null", "http://ids.example:8880"] {
            let response = ask(&mut client, "GET", target, &from(origin));
            assert_eq!((response.status, cors(&response)), (200, any.clone()), "{target} {origin}");
        }
        let response = ask(&mut client, "GET", target, CROSS_SITE);
        assert_eq!((response.status, cors(&response)), (200, json!({})), "{target}");
    }
}

fn a_browser_that_asks_beforehand_is_told_what_is_allowed(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let allow = "GET, HEAD, POST, OPTIONS";
    let asks = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,content-type\r\n";
    let preflight = |client: &mut Client, origin: &str, more: &str| {
        let response = ask(client, "OPTIONS", "/alloc", &format!("{}{asks}{more}", from(origin)));
        assert_eq!((response.status, response.headers["allow"].as_str()), (200, allow), "{response:?}");
        cors(&response)
    };
    {
        let server = start(setup(directory.path(), engine));
        assert_eq!(preflight(&mut server.connect(), APP, ""), json!({}), "nobody is listed");
    }
    // The token comes with the request that follows.
    let server = start(
        setup(directory.path(), engine)
            .key("CorsOrigins", json!([APP]))
            .key("AccessTokens", json!({TOKEN: "*"})),
    );
    let mut client = server.connect();
    let mut expected = readable_by(APP);
    expected["access-control-allow-methods"] = json!("GET, HEAD, POST");
    expected["access-control-allow-headers"] = json!("Authorization, Content-Type");
    expected["access-control-max-age"] = json!("7200");
    assert_eq!(preflight(&mut client, APP, ""), expected);
    let private = "Access-Control-Request-Private-Network: true\r\n";
    assert_eq!(preflight(&mut client, "https://evil.example", private), json!({}));
    expected["access-control-allow-private-network"] = json!("true");
    assert_eq!(preflight(&mut client, APP, private), expected);
    // No browser's question.
    assert_eq!(cors(&ask(&mut client, "OPTIONS", "/alloc", &from(APP))), readable_by(APP));
    assert_eq!(cors(&ask(&mut client, "OPTIONS", "*", "")), json!({}));
}

fn only_the_names_that_are_given_are_served(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let names = json!(["Ids.Example.", "10.0.0.1", "::1"]);
    let server = start(setup(directory.path(), engine).key("HttpNames", names));
    let mut client = server.connect();
    let elsewhere = ["OPTIONS /alloc", "OPTIONS *", "GET /nowhere", "PUT /alloc", "GET /"];
    // Health, as long as nobody asks for a tag's, is for balancers, which ask by address or by none.
    for host in ["evil.example", "127.0.0.1", "localhost:8880", "", "ids.example.evil", "[::2]"] {
        for target in TARGETS {
            let response = ask_as(&mut client, host, "GET", target, "");
            let expected =
                format!("this server is not known by the name '{host}': HttpNames does not list it");
            assert_eq!((response.status, response.json()["msg"].as_str()), (421, Some(&*expected)));
        }
        for line in elsewhere {
            let (method, target) = line.split_once(' ').unwrap();
            assert_eq!(ask_as(&mut client, host, method, target, "").status, 421, "{line}");
        }
        for method in ["GET", "HEAD", "POST"] {
            assert_eq!(ask_as(&mut client, host, method, "/health", "").status, 200, "{host}");
        }
    }
    for host in ["ids.example", "IDS.EXAMPLE.", "ids.example:8880", "10.0.0.1:8880", "[::1]:8880", "[0::1]"] {
        for target in TARGETS {
            assert_eq!(ask_as(&mut client, host, "GET", target, "").status, 200, "{host} {target}");
        }
        assert_eq!(ask_as(&mut client, host, "GET", "/nowhere", "").status, 404);
    }
    // A URL's authority goes before Host.
    let of = |host: &str| format!("http://{host}/alloc?app_tag=test_business");
    assert_eq!(ask_as(&mut client, "evil.example", "GET", &of("ids.example"), "").status, 200);
    assert_eq!(ask_as(&mut client, "ids.example", "GET", &of("evil.example"), "").status, 421);
    // The name that a page made lead here has its own origin: to the browser it is the same site.
    let rebound = "Origin: http://evil.example\r\nSec-Fetch-Site: same-origin\r\n";
    assert_eq!(ask_as(&mut client, "evil.example", "GET", TARGETS[0], rebound).status, 421);
    let mut old = server.connect();
    old.send("GET /health HTTP/1.0\r\n\r\n");
    assert_eq!(old.receive().status, 200, "a balancer's oldest probe");
    let mut old = server.connect();
    old.send("GET /alloc?app_tag=test_business HTTP/1.0\r\n\r\n");
    assert_eq!(old.receive().status, 421);
}

fn a_node_in_need_names_no_tag_to_a_stranger(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server = start(setup(directory.path(), engine).key("HttpNames", json!(["test"])));
    let mut client = server.connect();
    let _held = starve(directory.path(), |target| client.get(target).status);
    let body = server.await_status("/health", 503).body;
    assert!(body.contains("test_business"), "{body}");
    for (host, headers) in [("evil.example", ""), ("test", CROSS_SITE)] {
        let response = ask_as(&mut client, host, "GET", "/health", headers);
        let expected = r#"{"resp_code":503,"msg":"an app_tag has no IDs left"}"#;
        assert_eq!((response.status, &*response.body), (503, expected), "{host} {headers}");
    }
}

/// One worker serves all, and remembers the last GET: the same bytes but for the sender must be looked at again, and an answer
/// that a page may read is not like that of others.
fn what_was_remembered_of_one_client_is_not_for_a_page(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let server = start(setup(directory.path(), engine).key("CorsOrigins", json!([APP])));
    let mut client = server.connect();
    let one = |headers: &str| format!("GET {} HTTP/1.1\r\nHost: h\r\n{headers}\r\n", TARGETS[0]);
    let (plain, page, evil) = (one(""), one(&from(APP)), one(&from("https://evil.example")));
    let mut ids = Vec::new();
    for _ in 0..3 {
        for (request, status, expected) in
            [(&plain, 200, json!({})), (&page, 200, readable_by(APP)), (&evil, 403, json!({}))]
        {
            // As often as it takes to be remembered, and more.
            client.send(&request.repeat(20));
            for _ in 0..20 {
                let response = client.receive();
                assert_eq!((response.status, cors(&response)), (status, expected.clone()), "{request}");
                ids.extend((status == 200).then(|| response.id()));
            }
        }
    }
    assert_eq!(ids, (1..=120).collect::<Vec<_>>(), "a refused request takes none");
}

/// With the `tokio` engine: the other one takes a whole request before it shows it.
#[test]
fn an_answer_before_the_end_of_a_request_may_be_read_too() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(
        setup(directory.path(), "tokio")
            .key("CorsOrigins", json!([APP]))
            .key("AccessTokens", json!({TOKEN: "*"}))
            .key("HttpReadTimeout", 300),
    );
    let head = |more: &str| format!("POST {} HTTP/1.1\r\nHost: h\r\n{}{more}\r\n", TARGETS[0], from(APP));
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let chunked = format!("{bearer}Transfer-Encoding: chunked\r\n");
    for (sent, status) in [
        (head("Content-Length: 60000\r\n"), 401),
        (head(&format!("{bearer}Content-Length: 100\r\n")), 408),
        (head(&chunked) + "x\r\n", 400),
        (head(&chunked) + "ffffffff\r\n", 413),
    ] {
        let mut client = server.connect();
        client.send(&sent);
        let response = client.receive();
        assert_eq!((response.status, cors(&response)), (status, readable_by(APP)), "{sent}");
        assert!(client.is_closed());
    }
}
