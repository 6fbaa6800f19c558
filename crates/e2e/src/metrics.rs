//! `/metrics` before Prometheus' own judge.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use idalloc_testing::server::{PATIENCE, Setup};

/// What `promtool check metrics` says: nothing, if all is well.
fn promtool(text: &str) -> (Option<i32>, String) {
    let tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut tool = tool.expect("promtool, of Debian's package prometheus: `make e2e` installs it");
    tool.stdin.take().unwrap().write_all(text.as_bytes()).expect("promtool reads");
    let ended = tool.wait_with_output().expect("promtool ends");
    let said = [ended.stdout, ended.stderr].concat();
    (ended.status.code(), String::from_utf8(said).expect("UTF-8"))
}

#[test]
fn promtool_has_no_complaint() {
    for engine in ["tokio", "may_minihttp"] {
        let directory = tempfile::tempdir().unwrap();
        let server =
            Setup::embedded(&directory.path().join("ids.db")).admin().key("HttpEngine", engine).start();
        assert_eq!(
            promtool(&server.admin().get_admin("/metrics").body),
            (Some(0), String::new()),
            "at first"
        );
        server.await_status("/health", 200);
        assert_eq!(server.get("/alloc?app_tag=test_business").status, 200);
        let file = rusqlite::Connection::open(directory.path().join("ids.db")).unwrap();
        file.busy_timeout(PATIENCE).unwrap();
        file.execute("INSERT INTO segments (app_tag, max_id, step) VALUES ('a\"b\\' || char(10), 0, 1)", [])
            .unwrap();
        server.await_status("/alloc?app_tag=a%22b%5C%0A", 200);
        let deadline = Instant::now() + PATIENCE;
        let text = loop {
            let text = server.admin().get_admin("/metrics").body;
            if text.contains(r#"{app_tag="\"a\\\"b\\\\\\n\""}"#) {
                break text;
            }
            assert!(Instant::now() < deadline, "{text}");
        };
        assert_eq!(promtool(&text), (Some(0), String::new()), "{engine}");
        let without_help: String = text
            .lines()
            .filter(|line| !line.starts_with("# HELP idalloc_tags"))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_ne!(promtool(&without_help).0, Some(0), "a judge that finds no fault is none");
    }
}
