//! The dashboard's files over real sockets; crates/e2e/src/browser.rs looks at the page in a browser.

use std::collections::BTreeMap;

use idalloc_testing::server::{Response, Server, Setup};
use tempfile::TempDir;

const TOKEN: &str = "a-token-of-the-operators";

fn start() -> (Server, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(&directory.path().join("ids.db")).admin();
    (setup.key("AdminToken", TOKEN).start(), directory)
}

fn get(server: &Server, target: &str, headers: &[&str]) -> Response {
    server.admin().ask_admin("GET", target, headers, "")
}

#[test]
fn the_page_and_its_files_need_no_token_and_say_what_they_are() {
    let (server, _directory) = start();
    assert_eq!(get(&server, "/api/status", &[]).status, 401);
    let types = BTreeMap::from([
        ("/", "text/html; charset=utf-8"),
        ("/assets/app.js", "text/javascript; charset=utf-8"),
        ("/assets/style.css", "text/css; charset=utf-8"),
        ("/assets/icon.svg", "image/svg+xml"),
        ("/assets/vendor/uplot/uPlot.iife.min.js", "text/javascript; charset=utf-8"),
    ]);
    for (target, content_type) in types {
        let file = get(&server, target, &[]);
        assert_eq!((file.status, file.headers["content-type"].as_str()), (200, content_type), "{target}");
        assert_eq!(file.headers["cache-control"], "no-cache", "{target}");
        assert_eq!(file.headers["x-content-type-options"], "nosniff", "{target}");
        assert!(!file.body.is_empty() && !file.body.contains(TOKEN), "{target}");
    }
    let policy = &get(&server, "/", &[]).headers["content-security-policy"];
    assert!(
        policy.contains("default-src 'none'") && policy.contains("require-trusted-types-for 'script'"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("data:"), "{policy}");
}

#[test]
fn a_file_that_the_client_has_is_not_sent_again() {
    let (server, _directory) = start();
    let tag = get(&server, "/assets/app.js", &[]).headers["etag"].clone();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}")] {
        let again = get(&server, "/assets/app.js", &[&format!("If-None-Match: {known}")]);
        assert_eq!((again.status, again.body.as_str(), &again.headers["etag"]), (304, "", &tag), "{known}");
    }
    assert_eq!(get(&server, "/assets/app.js", &["If-None-Match: \"other\""]).status, 200);
    assert_ne!(get(&server, "/assets/tags.js", &[]).headers["etag"], tag);
}

#[test]
fn there_is_nothing_else() {
    let (server, _directory) = start();
    for target in [
        "/assets/",
        "/assets/x",
        "/assets/../Cargo.toml",
        "/assets/%2e%2e/mod.rs",
        "/assets/vendor/README.md",
    ] {
        assert_eq!(get(&server, target, &[]).status, 404, "{target}");
    }
    let post = server.admin().ask_admin("POST", "/", &["Content-Type: application/json"], "{}");
    assert_eq!(post.status, 405);
}
