//! What a page of another site can do with the port for clients, in a real browser.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::chromium::Browser;
use idalloc_testing::server::{Server, Setup};

const TOKEN: &str = "a-token-for-everything";
const TARGET: &str = "/alloc?app_tag=test_business";

/// The origin of a site that has a single, empty page.
fn elsewhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let page = "<!doctype html><title>elsewhere</title><link rel=icon href=data:,>";
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length";
    let answer = format!("{head}: {}\r\n\r\n{page}", page.len());
    // It ends with the process: nobody is left to ask.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            // A request without a body comes in one piece here; a browser that is gone needs no answer.
            let _ = stream.read(&mut [0; 16 * 1024]).and_then(|_| stream.write_all(answer.as_bytes()));
        }
    });
    origin
}

fn server(directory: &TempDir, keys: &[(&str, Value)]) -> Server {
    let setup = Setup::embedded(&directory.path().join("ids.db"));
    let server = keys.iter().fold(setup, |setup, (name, value)| setup.key(name, value.clone())).start();
    server.await_status("/health", 200);
    server
}

/// What a promise of the page comes to; of one that fails, `failed`.
fn outcome(browser: &Browser, promise: &str) -> Value {
    browser.eval(&format!(
        "(window.outcome = undefined, \
          {promise}.then((it) => window.outcome = [it], () => window.outcome = ['failed']), null)"
    ));
    browser.await_that("window.outcome !== undefined");
    browser.eval("window.outcome[0]")
}

#[test]
fn a_page_of_another_site_takes_no_id() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(&directory, &[]);
    let url = json!(format!("http://127.0.0.1:{}{TARGET}", server.port()));
    let browser = Browser::open_at(&elsewhere());
    // Each arrives, and is answered: only the page cannot see with what.
    let blind = format!("Promise.all(Array.from({{length: 20}}, () => fetch({url}, {{mode: 'no-cors'}})))");
    assert_eq!(outcome(&browser, &format!("{blind}.then((all) => all.length)")), json!(20));
    let post = "{mode: 'no-cors', method: 'POST', body: new URLSearchParams({count: 100})}";
    assert_eq!(outcome(&browser, &format!("fetch({url}, {post}).then((it) => it.type)")), json!("opaque"));
    assert_eq!(outcome(&browser, &format!("fetch({url}).then((it) => it.status)")), json!("failed"));
    let image = format!("new Promise((_, no) => Object.assign(new Image(), {{onerror: no, src: {url}}}))");
    assert_eq!(outcome(&browser, &image), json!("failed"));
    // Where the page goes, its visitor sees it.
    browser.eval(&format!("(location.href = {url}, null)"));
    browser.await_text("body", "403");
    assert_eq!(server.get(TARGET).id(), 1, "nobody got any");
    // An address that the visitor types is no page's.
    let visitor = Browser::open_at(url.as_str().unwrap());
    visitor.await_text("body", r#""id":2"#);
}

#[test]
fn a_page_of_a_listed_origin_takes_ids_and_reads_every_answer() {
    let directory = tempfile::tempdir().unwrap();
    let origin = elsewhere();
    let keys = [("CorsOrigins", json!([origin])), ("AccessTokens", json!({TOKEN: "*"}))];
    let server = server(&directory, &keys);
    let url = |path: &str| json!(format!("http://127.0.0.1:{}{path}", server.port()));
    let browser = Browser::open_at(&origin);
    let fetch = |path: &str, how: Value, then: &str| {
        outcome(&browser, &format!("fetch({}, {how}).then((it) => {then})", url(path)))
    };
    let bearer = json!({"Authorization": format!("Bearer {TOKEN}")});
    let with_token = format!("{TARGET}&token={TOKEN}");
    assert_eq!(fetch(&with_token, json!({}), "it.json().then((it) => it.id)"), json!(1));
    // What a page may not send unasked: the browser asks beforehand.
    assert_eq!(fetch(TARGET, json!({"headers": bearer}), "it.json().then((it) => it.id)"), json!(2));
    let body = json!({"app_tag": "test_business", "count": 3}).to_string();
    let mut headers = bearer.clone();
    headers["Content-Type"] = json!("application/json");
    let post = json!({"method": "POST", "headers": headers, "body": body});
    assert_eq!(fetch("/alloc", post, "it.json().then((it) => it.ids)"), json!([3, 4, 5]));
    assert_eq!(fetch(TARGET, json!({}), "it.status"), json!(401));
    assert_eq!(
        fetch("/alloc", json!({"headers": bearer}), "it.json().then((it) => it.resp_code)"),
        json!(400)
    );
    assert_eq!(fetch("/alloc?app_tag=nobody", json!({"headers": bearer}), "it.status"), json!(404));
    // A request that the browser sends without its origin is not the page's own.
    assert_eq!(fetch(&with_token, json!({"mode": "no-cors"}), "it.type"), json!("opaque"));
    assert_eq!(server.get(&with_token).id(), 6);
    let other = Browser::open_at(&elsewhere());
    let refused = outcome(&other, &format!("fetch({}).then((it) => it.status)", url(&with_token)));
    assert_eq!(refused, json!("failed"));
    assert_eq!(server.get(&with_token).id(), 7);
}
