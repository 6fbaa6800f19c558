//! SQLite: files.

use super::*;

/// As a server opens it at its start.
fn open_file(path: &Path) -> Box<dyn TagStore> {
    let mut store = open(&Dsn::Sqlite(path.into()), &table("segments", "app_tag"));
    // What keeps a file from being made is for the test to see at its first call.
    let _ = store.create_missing_file();
    store
}

fn temp() -> (TempDir, PathBuf) {
    let dir = TempDir::new().expect("a temporary directory");
    let path = dir.path().join("ids.db");
    (dir, path)
}

fn exec(path: &Path, sql: &str) {
    rusqlite::Connection::open(path).and_then(|db| db.execute_batch(sql)).expect(sql);
}

#[test]
fn a_new_file_has_the_first_row_and_is_durable() {
    let (_dir, path) = temp();
    let mut store = open_file(&path);
    let report = store.check().expect("check");
    assert_eq!(report.store, format!("SQLite {} at {}", rusqlite::version(), path.display()));
    for fact in ["journal_mode is wal", "synchronous is FULL"] {
        assert!(report.facts().iter().any(|known| known == fact), "{report:?}");
    }
    let rows = store.list_tags(10).expect("list the tags");
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].name.as_str(), rows[0].max_id, rows[0].step), ("test_business", 0, 100_000));
}

#[test]
fn file_and_table_are_made_once() {
    let (_dir, path) = temp();
    let both = Created { database: true, table: true };
    let neither = Created { database: false, table: false };
    let mut store = open(&Dsn::Sqlite(path.clone().into()), &table("segments", "app_tag"));
    assert_eq!([store.create_table(), store.create_table()], [Ok(both), Ok(neither)]);
    assert_eq!(open_file(&path).create_table(), Ok(neither));
    exec(&path, "DROP TABLE segments");
    assert_eq!(open_file(&path).create_table(), Ok(Created { database: false, table: true }));
}

#[test]
fn the_schema_is_what_makes_the_table() {
    let (_dir, path) = temp();
    let spec = table("ids", "biz_tag");
    let sql = idalloc::store::backend(&Dsn::Sqlite(path.clone().into()), &spec).schema();
    for _ in 0..2 {
        exec(&path, &sql);
    }
    let mut store = open(&Dsn::Sqlite(path.clone().into()), &spec);
    store.check().expect("check");
    assert_eq!(names(&mut *store, 10), [""; 0]);
    let schema = |name: &str| {
        let sql = "SELECT sql FROM sqlite_schema WHERE name = ?1";
        let db = rusqlite::Connection::open(&path).expect("open");
        db.query_row(sql, [name], |row| row.get::<_, String>(0)).expect("the table").replace(name, "")
    };
    let mut other = open(&Dsn::Sqlite(path.clone().into()), &table("ids2", "biz_tag"));
    other.create_table().expect("make the table");
    assert_eq!(schema("ids2"), schema("ids"));
}

#[test]
fn tags_are_compared_byte_by_byte_whatever_the_collation() {
    let (_dir, path) = temp();
    exec(
        &path,
        "CREATE TABLE segments (app_tag TEXT COLLATE NOCASE PRIMARY KEY, max_id INTEGER, step INTEGER)",
    );
    let mut store = open_file(&path);
    store.insert(&details("orders", 1, 1, None)).expect("insert");
    assert_eq!(store.find("Orders"), Ok(None));
    assert_eq!(store.set_step("Orders", 5), Err(StoreError::UnknownTag));
    assert_eq!(store.delete("Orders"), Err(StoreError::UnknownTag));
    let result = store.insert(&details("Orders", 1, 1, None));
    assert_eq!(result, Err(StoreError::TagExists("orders".into())));
    assert_eq!(store.find("orders"), Ok(Some(details("orders", 1, 1, None))));
}

#[test]
fn sessions_that_start_at_once_on_a_new_file_get_along() {
    const SESSIONS: usize = 8;
    const EACH: i64 = 25;
    let (_dir, path) = temp();
    let barrier = Barrier::new(SESSIONS);
    let session = || {
        let mut store = open_file(&path);
        barrier.wait();
        (0..EACH).map(|_| store.reserve("test_business", 10).expect("reserve")).collect::<Vec<_>>()
    };
    let mut ends = thread::scope(|scope| {
        let sessions: Vec<_> = (0..SESSIONS).map(|_| scope.spawn(session)).collect();
        sessions.into_iter().flat_map(|session| session.join().expect("a session")).collect::<Vec<_>>()
    });
    ends.sort_unstable();
    let expected: Vec<i64> = (1..=SESSIONS as i64 * EACH).map(|n| n * 10).collect();
    assert_eq!(ends, expected);
}

/// A server tries again; a command does not, and a commit may take more than a second on a busy disk.
#[test]
fn who_calls_once_waits_longer_for_the_lock_than_who_tries_again() {
    let (_dir, path) = temp();
    let mut once = open_file(&path);
    let mut server = open_file(&path);
    server.expect_retries();
    once.check().expect("check");
    server.check().expect("check");
    let locker = rusqlite::Connection::open(&path).expect("open");
    locker.execute_batch("BEGIN IMMEDIATE").expect("lock");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| once.reserve("test_business", 10));
        let result = server.reserve("test_business", 10);
        assert!(matches!(result, Err(StoreError::Contended(_))), "{result:?}");
        locker.execute_batch("ROLLBACK").expect("unlock");
        assert_eq!(waiting.join().expect("the call"), Ok(10));
    });
}

#[test]
fn what_was_reserved_is_there_after_reopening() {
    let (_dir, path) = temp();
    assert_eq!(open_file(&path).reserve("test_business", 10), Ok(10));
    assert_eq!(open_file(&path).reserve("test_business", 10), Ok(20));
}

#[test]
fn a_deleted_row_does_not_come_back() {
    let (_dir, path) = temp();
    open_file(&path).reserve("test_business", 10).expect("reserve");
    exec(&path, "DELETE FROM segments");
    let mut store = open_file(&path);
    assert_eq!(store.reserve("test_business", 10), Err(StoreError::UnknownTag));
    assert_eq!(names(&mut *store, 10), [""; 0]);
}

#[test]
fn the_table_refuses_what_is_no_integer() {
    let (_dir, path) = temp();
    open_file(&path).check().expect("check");
    let db = rusqlite::Connection::open(&path).expect("open");
    for sql in [
        "UPDATE segments SET max_id = 'x'",
        "UPDATE segments SET max_id = 1e300",
        "UPDATE segments SET step = NULL",
    ] {
        assert!(db.execute(sql, ()).is_err(), "{sql}");
    }
}

#[test]
fn a_table_of_others_is_served_as_it_is() {
    let (_dir, path) = temp();
    exec(&path, "CREATE TABLE segments (app_tag TEXT UNIQUE, max_id BIGINT, step INT)");
    exec(
        &path,
        "INSERT INTO segments VALUES ('good', 0, 1), ('bad', 'text', 1), ('real', 1.5, 1), (NULL, 0, 1), (CAST(x'fffe' AS TEXT), 0, 1)",
    );
    let mut store = open_file(&path);
    store.check().expect("check");
    assert_eq!(names(&mut *store, 10), ["good"]);
    assert_eq!(store.reserve("good", 5), Ok(5));
    for (tag, type_) in [("bad", "Text"), ("real", "Real")] {
        let reason = format!("its max_id is of the type {type_}, and not INTEGER");
        assert_eq!(store.reserve(tag, 5), Err(StoreError::Unreadable(reason)));
    }
}

#[test]
fn columns_are_mended_by_the_quoted_statements() {
    let (_dir, path) = temp();
    exec(&path, "CREATE TABLE segments (app_tag TEXT, other INT, PRIMARY KEY (app_tag, other))");
    let mut store = open_file(&path);
    assert!(matches!(store.reserve("t", 1), Err(StoreError::Schema(_))));
    for expected in [
        "CREATE UNIQUE INDEX",
        "ALTER TABLE `segments` ADD COLUMN max_id",
        "ALTER TABLE `segments` ADD COLUMN step",
    ] {
        let statement = remedy(store.check());
        assert!(statement.starts_with(expected), "{statement}");
        exec(&path, &statement);
    }
    store.check().expect("check");
    exec(&path, "INSERT INTO segments (app_tag) VALUES ('t')");
    assert_eq!(store.reserve("t", 1), Ok(1));
}

#[test]
fn tables_that_cannot_be_mended_in_place_are_refused() {
    for (sql, expected) in [
        (
            "CREATE TABLE segments (app_tag TEXT PRIMARY KEY, max_id REAL, step INT)",
            "max_id is declared \"REAL\"",
        ),
        (
            "CREATE TABLE segments (tag TEXT PRIMARY KEY, max_id INT, step INT)",
            "no column `app_tag`, only tag, max_id",
        ),
        ("CREATE TABLE t (a); CREATE VIEW segments AS SELECT * FROM t", "is a view"),
    ] {
        let (_dir, path) = temp();
        exec(&path, sql);
        let text = fault(open_file(&path).check());
        assert!(text.contains(expected) && text.contains("ids.db"), "{text}");
    }
}

#[test]
fn a_file_that_is_no_database_is_denied() {
    let (_dir, path) = temp();
    fs::write(&path, "not a database, but long enough to be taken for one".repeat(100)).expect("write");
    let result = open_file(&path).check();
    assert!(matches!(&result, Err(StoreError::Denied(text)) if text.contains("ids.db")), "{result:?}");
}

#[test]
fn a_file_that_may_only_be_read_is_denied() {
    let (dir, path) = temp();
    open_file(&path).check().expect("check");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).expect("chmod");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).expect("chmod");
    let result = thread::spawn(move || {
        // Root may write anything; this makes only this thread somebody else.
        // SAFETY: plain system call.
        unsafe { libc::setfsuid(65534) };
        open_file(&path).reserve("test_business", 1)
    });
    let result = result.join().expect("the thread");
    assert!(matches!(&result, Err(StoreError::Denied(text)) if text.contains("ids.db")), "{result:?}");
}

#[test]
fn a_missing_directory_is_named() {
    let (_dir, path) = temp();
    let result = open_file(&path.join("ids.db")).check();
    assert!(
        matches!(&result, Err(StoreError::Unavailable(text)) if text.contains("ids.db/ids.db")),
        "{result:?}"
    );
}

#[test]
fn the_file_is_opened_again_after_an_error() {
    let (dir, _) = temp();
    let path = dir.path().join("later/ids.db");
    let mut store = open_file(&path);
    assert!(store.check().is_err());
    fs::create_dir(dir.path().join("later")).expect("mkdir");
    open_file(&path);
    store.check().expect("check");
}

#[test]
fn a_writer_that_does_not_end_is_contention() {
    let (_dir, path) = temp();
    let mut store = open_file(&path);
    store.check().expect("check");
    let writer = rusqlite::Connection::open(&path).expect("open");
    writer.execute_batch("BEGIN IMMEDIATE").expect("begin");
    assert!(matches!(store.reserve("test_business", 10), Err(StoreError::Contended(_))));
    assert_eq!(store.list_tags(10).map(|rows| rows.len()), Ok(1));
    writer.execute_batch("COMMIT").expect("commit");
    assert_eq!(store.reserve("test_business", 10), Ok(10));
}
