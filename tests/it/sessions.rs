//! Sessions with MySQL: what a server makes of them before they are ours, how few it may grant, and how slow it may be.

use std::time::{Duration, Instant};

use idalloc::config::TableSpec;
use idalloc::dsn::Dsn;
use idalloc::store::mysql::MySqlStore;
use idalloc::store::{SegmentStore, StoreError, TagDetails, TagStore};
use idalloc_testing::mariadb::{MariaDb, PASSWORD};
use idalloc_testing::proxy::Proxy;
use idalloc_testing::store::Reserve;
use mysql::prelude::Queryable;

/// A user without the privileges that excuse from `init_connect`.
const USER: &str = "ids:secret";

fn store(user: &str, ports: &[u16], params: &str) -> MySqlStore {
    let hosts: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let dsn = format!("{user}@tcp({})/id_alloc_db?{params}", hosts.join(","));
    let Ok(Dsn::MySql(dsn)) = dsn.parse() else { panic!("{dsn}") };
    let table = TableSpec::default();
    MySqlStore::new(&dsn, &table)
}

fn with_user(args: &[&str]) -> MariaDb {
    let server = MariaDb::start_with(args);
    server.exec("CREATE USER ids@'%' IDENTIFIED BY 'secret'");
    server.exec("GRANT SELECT, INSERT, UPDATE, DELETE ON id_alloc_db.* TO ids@'%'");
    server
}

/// The bytes of all names in the table, whatever the session that reads them is like.
fn names_in_hex(server: &MariaDb) -> Vec<String> {
    let sql = "SELECT HEX(app_tag) FROM segments ORDER BY app_tag";
    server.conn().query(sql).expect("read the table")
}

// ---- what a session is like ----

/// Adds a tag with letters of many alphabets and serves it.
fn assert_served(server: &MariaDb) {
    let mut store = store(USER, &[server.port()], "");
    store.check().expect("the table is good");
    let name = "é-Жук-日本語-🦀";
    let tag = TagDetails::new(name, 10, 1, None).expect("a good tag");
    store.insert(&tag).expect("insert");
    assert!(names_in_hex(server).contains(&hex(name)), "{:?}", names_in_hex(server));
    assert_eq!(store.find(name).expect("find").map(|row| row.name).as_deref(), Some(name));
    assert_eq!(store.reserve(name, 10), Ok(11));
    // Another session sees it: it is committed.
    assert_eq!(server.max_id(name), 11);
    let names: Vec<String> = store.list_tags(100).expect("list").into_iter().map(|row| row.name).collect();
    assert_eq!(names.len(), names_in_hex(server).len());
    assert!(names.iter().any(|listed| listed == name), "{names:?}");
    store.set_step(name, 20).expect("set the step");
    store.delete(name).expect("delete");
    assert!(!names_in_hex(server).contains(&hex(name)));
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02X}")).collect()
}

#[test]
fn a_session_is_made_what_its_statements_rely_on() {
    let init_connect = "--init-connect=SET NAMES latin1; SET sql_select_limit = 1, autocommit = 0, \
                        sql_safe_updates = 1, sql_auto_is_null = 1, max_join_size = 1, sql_big_selects = 0, \
                        time_zone = '-09:30', sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT'; \
                        SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED";
    assert_served(&with_user(&[init_connect]));
}

#[test]
fn a_session_does_not_inherit_what_is_set_for_all() {
    let server = with_user(&[
        "--skip-character-set-client-handshake",
        "--character-set-server=latin1",
        "--autocommit=0",
        "--sql-mode=ANSI",
        "--transaction-isolation=SERIALIZABLE",
        "--default-time-zone=+11:00",
    ]);
    for setting in
        ["sql_select_limit = 1", "max_join_size = 1", "sql_safe_updates = 1", "sql_auto_is_null = 1"]
    {
        server.exec(&format!("SET GLOBAL {setting}"));
    }
    let mut conn = server.conn();
    let mut ours = store(USER, &[server.port()], "");
    ours.check().expect("the table is good");
    let name = "é-日本語";
    ours.insert(&TagDetails::new(name, 10, 1, None).expect("a good tag")).expect("insert");
    assert_eq!(ours.reserve(name, 10), Ok(11));
    let other = TagDetails::new("other", 10, 1, None).expect("a good tag");
    ours.insert(&other).expect("insert");
    assert!(ours.list_tags(100).expect("list").len() >= 2);
    conn.query_drop("SET SESSION sql_big_selects = 1").expect("set");
    let sql = "SELECT max_id FROM segments WHERE HEX(app_tag) = ?";
    assert_eq!(conn.exec_first(sql, (hex(name),)).expect("select"), Some(11));
}

#[test]
fn a_session_that_cannot_be_made_so_says_what_is_wrong() {
    let server = with_user(&["--init-connect=SET sql_log_bin = 0", "--log-bin=binlog"]);
    server.exec("GRANT BINLOG ADMIN ON *.* TO ids@'%'");
    let mut ours = store(USER, &[server.port()], "");
    let Err(StoreError::Schema(text)) = ours.reserve("test_business", 1) else { panic!("it is not refused") };
    assert!(text.contains("sql_log_bin is OFF") && text.contains("init_connect"), "{text}");
}

// ---- how slow ----

/// What a byte takes to come.
const PAUSE: Duration = Duration::from_millis(200);
/// What a statement may take.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

#[test]
fn a_host_that_sends_a_byte_now_and_then_is_left_for_the_next() {
    let server = MariaDb::shared();
    let slow = Proxy::before(server.port(), "no statement");
    let params = format!("timeout=1s&readTimeout={}s", READ_TIMEOUT.as_secs());
    let mut store = store(&format!("root:{PASSWORD}"), &[slow.port(), server.port()], &params);
    server.exec("INSERT INTO segments (app_tag, step) VALUES ('slow', 1)");
    assert_eq!(store.reserve("slow", 1), Ok(1));
    slow.trickle(PAUSE);
    let began = Instant::now();
    let lost = store.reserve("slow", 1);
    assert!(
        matches!(&lost, Err(StoreError::Unavailable(text)) if text.contains("no answer in time")),
        "{lost:?}"
    );
    assert_eq!(store.reserve("slow", 1), Ok(3), "the one that was lost is a gap");
    assert!(began.elapsed() < 3 * READ_TIMEOUT, "{:?}", began.elapsed());
    assert_eq!(store.host(), Some(format!("127.0.0.1:{}", server.port()).as_str()));
}

#[test]
fn a_host_that_lets_nobody_in_within_the_time_is_left_for_the_next() {
    let server = MariaDb::shared();
    let slow = Proxy::before(server.port(), "no statement");
    slow.trickle(PAUSE);
    let mut store = store(&format!("root:{PASSWORD}"), &[slow.port(), server.port()], "timeout=500ms");
    let began = Instant::now();
    store.reserve("test_business", 1).expect("from the second");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_long_listing_has_time_as_long_as_its_rows_come() {
    let server = MariaDb::start();
    server.exec("INSERT INTO segments (app_tag, step) SELECT seq, 1 FROM seq_1_to_100000");
    let slow = Proxy::before(server.port(), "no statement");
    let mut store = store(&format!("root:{PASSWORD}"), &[slow.port()], "readTimeout=1s");
    store.check().expect("it is reached");
    // Each piece of at most 16 KiB, some 700 rows, is held back: no deadline is missed by ten thousand rows, but by all.
    slow.delay(Duration::from_millis(10));
    let began = Instant::now();
    assert_eq!(store.list_tags(200_000).expect("list").len(), 100_001);
    assert!(began.elapsed() > READ_TIMEOUT, "{:?}: it was not slow", began.elapsed());
    slow.delay(Duration::ZERO);
    slow.trickle(PAUSE);
    let began = Instant::now();
    assert!(matches!(store.list_tags(200_000), Err(StoreError::Unavailable(_))));
    assert!(began.elapsed() < 3 * READ_TIMEOUT, "{:?}", began.elapsed());
}

// ---- what a server refuses ----

#[test]
fn a_server_that_prepares_no_statements_is_served_as_text() {
    let server = with_user(&["--max-prepared-stmt-count=0"]);
    let mut store = store(USER, &[server.port()], "");
    let tag = TagDetails::new("o'neil \"\\", 10, 1, None).expect("a good tag");
    store.check().expect("the table is good");
    store.insert(&tag).expect("insert");
    assert_eq!(store.find(&tag.name), Ok(Some(tag.clone())));
    assert_eq!(store.reserve(&tag.name, 10), Ok(11));
    assert_eq!(store.list_tags(10).expect("list").len(), 2);
    assert_eq!(store.look_up(&[&tag.name, "none"]).expect("look up").len(), 1);
}

#[test]
fn an_account_that_is_locked_or_has_to_change_its_password_is_refused_access() {
    let server = with_user(&[]);
    for (alter, code) in [("ACCOUNT LOCK", "4151"), ("ACCOUNT UNLOCK PASSWORD EXPIRE", "18")] {
        server.exec(&format!("ALTER USER ids@'%' {alter}"));
        let refused = store(USER, &[server.port()], "").reserve("test_business", 1);
        let Err(StoreError::Denied(text)) = refused else { panic!("{alter}: {refused:?}") };
        assert!(text.contains(&format!("error {code}")), "{alter}: {text}");
    }
}
