//! Rows that cannot be read: told apart from rows that are not there, and named wherever somebody looks.

use idalloc_testing::program::{Ended, Run};
use idalloc_testing::server::{Server, Setup};
use idalloc_testing::store::Store;
use serde_json::{Value, json};

/// Runs the program on the store, beside the server.
fn run(store: &Store, args: &[&str]) -> Ended {
    let config = json!({"DSN": store.dsn, "WatermarkPath": ""}).to_string();
    std::fs::write(store.dir.path().join("config.json"), config).unwrap();
    Run::new(store.dir.path(), &[args, &["--config", "config.json"]].concat()).finish()
}

fn state(server: &Server, tag: &str) -> (Value, Value) {
    let page = server.admin().get_admin(&format!("/api/tags?search={tag}")).json();
    let tag = &page["tags"][0];
    (tag["state"].clone(), tag["fault"].clone())
}

/// A row that a running server has served becomes unreadable by `spoil`, for this reason, until `mend`.
fn is_named_everywhere(store: &Store, spoil: &str, mend: &str, reason: &str) {
    drop(Setup::on(&store.dsn).start());
    store.exec("UPDATE segments SET step = 10");
    let mut server = Setup::on(&store.dsn).key("TagReloadSeconds", 1).admin().start();
    server.await_status("/alloc?app_tag=test_business", 200);
    store.exec(spoil);
    // What is in memory is handed out first.
    server.await_status("/alloc?app_tag=test_business&count=100", 503);
    let fault = format!("its row in the table cannot be read: {reason}");
    let answer = server.get("/alloc?app_tag=test_business&count=100");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains(&fault), "{answer:?}");
    while server.get("/alloc?app_tag=test_business").status == 200 {}
    let health = server.get("/health?app_tag=test_business");
    assert_eq!(health.status, 503, "{health:?}");
    assert_eq!(server.ask("/health").0, 200, "it is the row's fault, and not the node's");
    assert_eq!(state(&server, "test_business"), (json!("broken"), json!(fault)));
    let one = server.admin().get_admin("/api/tags/test_business");
    assert_eq!(one.status, 409);
    assert!(one.body.contains(reason), "{one:?}");
    for args in [
        &["tag", "show", "test_business"][..],
        &["tag", "add", "test_business", "--step", "10"],
        &["tag", "list"],
        &["check"],
    ] {
        let ended = run(store, args);
        // The check says it of the table.
        let said = reason.trim_start_matches("the ").split(',').next().unwrap();
        assert!(format!("{ended:?}").contains(said), "{args:?}: {ended:?}");
    }
    assert_eq!(run(store, &["check"]).code, Some(1));
    store.exec(mend);
    assert!(server.await_status("/alloc?app_tag=test_business", 200).id() > 1);
    assert_eq!(state(&server, "test_business"), (json!("serving"), json!(null)));
    server.signal(libc::SIGTERM);
    server.wait();
    let log = server.rest_of_log();
    let told = log.iter().filter(|line| line.contains(&fault)).count();
    assert_eq!(told, 1, "{log:?}");
}

#[test]
fn a_column_that_holds_no_whole_numbers_any_more_is_named_everywhere() {
    let spoil = "ALTER TABLE segments MODIFY max_id DECIMAL(30,0) NOT NULL DEFAULT 0";
    let mend = "ALTER TABLE segments MODIFY max_id BIGINT NOT NULL DEFAULT 0";
    is_named_everywhere(&Store::mariadb(), spoil, mend, "the column max_id is DECIMAL, and not BIGINT");
}

#[test]
fn a_step_of_null_is_named_everywhere_on_mariadb() {
    let store = Store::mariadb();
    store.exec("ALTER TABLE segments MODIFY step BIGINT");
    let (spoil, mend) = ("UPDATE segments SET step = NULL", "UPDATE segments SET step = 10");
    is_named_everywhere(&store, spoil, mend, "its step is NULL");
}

#[test]
fn a_step_of_null_is_named_everywhere_on_sqlite() {
    let store = Store::embedded();
    let file = rusqlite::Connection::open(store.dir.path().join("ids.db")).unwrap();
    let make = "CREATE TABLE segments (app_tag TEXT PRIMARY KEY, max_id INTEGER, step INTEGER);
                INSERT INTO segments VALUES ('test_business', 0, 10)";
    file.execute_batch(make).unwrap();
    let (spoil, mend) = ("UPDATE segments SET step = NULL", "UPDATE segments SET step = 10");
    is_named_everywhere(&store, spoil, mend, "its step is NULL");
}

#[test]
fn a_row_whose_tag_nobody_can_ask_for_is_named_in_the_log_and_by_the_check() {
    let store = Store::mariadb();
    store.exec("ALTER TABLE segments MODIFY app_tag VARBINARY(200) NOT NULL");
    store.exec("INSERT INTO segments (app_tag, step) VALUES (X'41FF', 10), (REPEAT('x', 129), 10)");
    let server = Setup::on(&store.dsn).start();
    for reason in ["is no UTF-8", "has 129 bytes; allowed is 1 to 128"] {
        server.await_log(reason);
        let ended = run(&store, &["check"]);
        assert!(format!("{ended:?}").contains(reason), "{ended:?}");
        assert_eq!(ended.code, Some(1));
    }
    assert_eq!(server.get("/alloc?app_tag=test_business").status, 200);
}
