//! Rows that cannot be read are told apart from rows that are not there, in either store.

use super::*;

fn unreadable<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    let Err(StoreError::Unreadable(reason)) = result else { panic!("it was read: {result:?}") };
    reason
}

/// The table `name` as it is after `alter` must have one bad row: `expected` is its tag and what the reason holds.
fn assert_unreadable(store: &mut dyn TagStore, expected: (Option<&str>, &str)) {
    let rows = store.list_tags(10).expect("list the tags");
    assert_eq!((rows.readable.len(), rows.unreadable.len()), (0, 1), "{rows:?}");
    let row = &rows.unreadable[0];
    assert_eq!(row.name.as_deref(), expected.0, "{row:?}");
    assert!(row.reason.contains(expected.1), "{row:?}");
    assert_eq!(store.list_details(10).expect("list the details").unreadable, rows.unreadable);
    if let Some(name) = expected.0 {
        assert_eq!(unreadable(store.find(name)), row.reason);
    }
}

#[test]
fn in_mariadb() {
    let server = MariaDb::start();
    let mut store = open(&dsn(&server.dsn()), &table("segments", "app_tag"));
    let t = Some("test_business");
    for (alter, back, expected) in [
        ("MODIFY max_id DECIMAL(30,0) NOT NULL", "MODIFY max_id BIGINT NOT NULL", (t, "max_id is DECIMAL")),
        ("MODIFY max_id VARCHAR(30) NOT NULL", "MODIFY max_id BIGINT NOT NULL", (t, "max_id is text")),
        ("MODIFY max_id DOUBLE NOT NULL", "MODIFY max_id BIGINT NOT NULL", (t, "max_id is DOUBLE")),
        ("MODIFY step DECIMAL(10,2)", "MODIFY step BIGINT", (t, "step is DECIMAL")),
    ] {
        store.check().expect("good");
        server.exec(&format!("ALTER TABLE segments {alter}"));
        assert_unreadable(&mut *store, expected);
        remedy(store.check());
        server.exec(&format!("ALTER TABLE segments {back}"));
    }
    server.exec("UPDATE segments SET step = NULL");
    assert_unreadable(&mut *store, (t, "its step is NULL"));
    server.exec("UPDATE segments SET step = 10");
    server.exec("ALTER TABLE segments MODIFY max_id BIGINT");
    server.exec("UPDATE segments SET max_id = NULL");
    assert_unreadable(&mut *store, (t, "its max_id is NULL"));
    assert_eq!(unreadable(store.reserve("test_business", 1)), "its max_id is NULL");
    server.exec("UPDATE segments SET max_id = 0, app_tag = 5");
    server.exec("ALTER TABLE segments MODIFY app_tag BIGINT NOT NULL");
    assert_unreadable(&mut *store, (Some("5"), "the tag's column is BIGINT, which does not hold text"));
    assert!(remedy(store.check()).contains("MODIFY `app_tag` VARCHAR(128)"));
    server.exec("ALTER TABLE segments MODIFY app_tag VARBINARY(200) NOT NULL");
    server.exec("UPDATE segments SET app_tag = X'41FF'");
    assert_unreadable(&mut *store, (None, "the tag \"A\u{fffd}\" is no UTF-8"));
    server.exec("UPDATE segments SET app_tag = REPEAT('x', 129)");
    assert_unreadable(&mut *store, (None, ".. (129 bytes) has 129 bytes; allowed is 1 to 128"));
}

#[test]
fn in_sqlite() {
    let dir = TempDir::new().expect("a temporary directory");
    let file = dir.path().join("ids.db");
    let sqlite = rusqlite::Connection::open(&file).expect("open the file");
    let make = "CREATE TABLE segments (app_tag INTEGER PRIMARY KEY, max_id INTEGER, step INTEGER);";
    let loose = make.replace("app_tag INTEGER", "app_tag TEXT");
    let mut store = open(&dsn(&format!("sqlite:{}", file.display())), &table("segments", "app_tag"));
    for (make, row, expected) in [
        (&*loose, "'t', NULL, 10", (Some("t"), "its max_id is NULL")),
        (&loose, "'t', 0, NULL", (Some("t"), "its step is NULL")),
        (&loose, "'t', 'many', 10", (Some("t"), "its max_id is of the type Text")),
        (&loose, "'t', 1.5, 10", (Some("t"), "its max_id is of the type Real")),
        (&loose, "'t', X'00', 10", (Some("t"), "its max_id is of the type Blob")),
        (&loose, "X'41FF', 0, 10", (None, "the tag \"A\u{fffd}\" is no UTF-8")),
        (make, "5, 0, 10", (Some("5"), "the tag is of the type Integer, and not TEXT")),
    ] {
        sqlite.execute_batch("DROP TABLE IF EXISTS segments").expect("drop");
        sqlite.execute_batch(make).expect("create");
        sqlite.execute_batch(&format!("INSERT INTO segments VALUES ({row})")).expect(row);
        assert_unreadable(&mut *store, expected);
        if expected.1.contains("max_id") {
            assert_eq!(unreadable(store.reserve("t", 1)), unreadable(store.find("t")));
        }
    }
}
