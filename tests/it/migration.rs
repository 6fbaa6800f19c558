//! The SQL of docs/OPERATING.md, as an operator runs it: old servers and idalloc at work side by side, and no ID twice.

use std::collections::HashSet;
use std::ops::Range;

use idalloc_testing::ledger::Ledger;
use idalloc_testing::mariadb::MariaDb;
use idalloc_testing::program::Run;
use idalloc_testing::server::{Server, Setup};
use mysql::Conn;
use mysql::prelude::Queryable;

const GUIDE: &str = include_str!("../../docs/OPERATING.md");
const TAG: &str = "orders";
const ROUNDS: i64 = 40;

/// The SQL under a heading of the guide, statement by statement.
fn sql_under(heading: &str) -> Vec<String> {
    let (_, section) = GUIDE.split_once(&format!("# {heading}\n")).expect("the heading");
    let section = section.split("\n#").next().expect("a section");
    let blocks = section.split("```sql\n").skip(1).filter_map(|rest| rest.split_once("```"));
    let sql: String = blocks.map(|(block, _)| block).collect();
    let statements = sql.split(';').map(str::trim).filter(|statement| !statement.is_empty());
    let statements: Vec<_> = statements.map(str::to_owned).collect();
    assert!(!statements.is_empty(), "no SQL under {heading}");
    statements
}

fn run(conn: &mut Conn, statements: &[String]) {
    for sql in statements {
        conn.query_drop(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// idalloc on this database, with the account that the guide has made.
fn idalloc(db: &MariaDb, database: &str) -> Setup {
    Setup::on(&format!("idalloc:a-password@tcp(127.0.0.1:{})/{database}", db.port()))
        .key("TagReloadSeconds", 1)
}

/// Lets idalloc and the other server take turns, and enters what they hand out.
fn side_by_side(setup: Setup, ledger: &Ledger, mut other: impl FnMut() -> Range<i64>) -> Server {
    assert_eq!(setup.check().code, Some(0), "{:?}", setup.check());
    let server = setup.start();
    server.await_status("/health", 200);
    for round in 0..ROUNDS {
        ledger.enter(other(), "the other server");
        let answer = server.get(&format!("/alloc?app_tag={TAG}&count={}", 1 + round * 10));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.ids().iter().for_each(|id| ledger.enter(*id..*id + 1, "idalloc"));
    }
    server
}

/// A reservation as go-id-alloc and Leaf make it: `amount` is the row's step, or what Leaf thinks better.
fn reserve(conn: &mut Conn, table: &str, amount: &str) -> Range<i64> {
    conn.query_drop("BEGIN").expect("begin");
    let update = format!("UPDATE {table} SET max_id = max_id + {amount} WHERE biz_tag = '{TAG}'");
    conn.query_drop(update).expect("reserve");
    let row = conn.query_first(format!("SELECT max_id, {amount} FROM {table} WHERE biz_tag = '{TAG}'"));
    conn.query_drop("COMMIT").expect("commit");
    let (max_id, amount): (i64, i64) = row.expect("select").expect("a row");
    (max_id - amount).max(1)..max_id
}

#[test]
fn go_id_alloc_and_idalloc_run_side_by_side() {
    let db = MariaDb::start();
    let mut conn = db.conn();
    run(
        &mut conn,
        &[
            "DROP TABLE segments".into(),
            "CREATE TABLE segments (biz_tag VARCHAR(32) NOT NULL, max_id BIGINT NOT NULL, step BIGINT NOT NULL, \
             description VARCHAR(1024) NOT NULL DEFAULT '', update_time TIMESTAMP NOT NULL DEFAULT \
             CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, PRIMARY KEY (biz_tag)) DEFAULT CHARSET = utf8mb4"
                .into(),
            format!("INSERT INTO segments (biz_tag, max_id, step) VALUES ('{TAG}', 5000, 100)"),
        ],
    );
    run(&mut conn, &sql_under("From go-id-alloc"));
    let ledger = Ledger::default();
    let setup = idalloc(&db, "id_alloc_db").key("TagColumn", "biz_tag");
    let _server = side_by_side(setup, &ledger, || reserve(&mut conn, "segments", "step"));
    let max_id = conn.query_first("SELECT max_id FROM segments").expect("select").expect("a row");
    ledger.assert_sound(max_id);
}

#[test]
fn leaf_and_idalloc_run_side_by_side() {
    let db = MariaDb::start();
    let mut conn = db.conn();
    run(
        &mut conn,
        &[
            "CREATE DATABASE leaf".into(),
            "USE leaf".into(),
            "CREATE TABLE leaf_alloc (biz_tag VARCHAR(128) NOT NULL DEFAULT '', max_id BIGINT(20) NOT NULL \
             DEFAULT 1, step INT(11) NOT NULL, description VARCHAR(256) DEFAULT NULL, update_time TIMESTAMP NOT \
             NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, PRIMARY KEY (biz_tag))"
                .into(),
            format!("INSERT INTO leaf_alloc (biz_tag, max_id, step) VALUES ('{TAG}', 1, 200)"),
        ],
    );
    run(&mut conn, &sql_under("From Leaf"));
    let ledger = Ledger::default();
    let setup = idalloc(&db, "leaf").key("table", "leaf_alloc").key("TagColumn", "biz_tag");
    let mut amounts = ["step", "400", "800"].into_iter().cycle();
    let _server = side_by_side(setup, &ledger, || {
        reserve(&mut conn, "leaf_alloc", amounts.next().expect("it goes on"))
    });
    let max_id = conn.query_first("SELECT max_id FROM leaf_alloc").expect("select").expect("a row");
    ledger.assert_sound(max_id);
}

/// A reservation as tinyid makes it; `None` if the database refuses.
fn reserve_as_tinyid(conn: &mut Conn) -> Option<Range<i64>> {
    let row = conn
        .query_first(format!("SELECT id, max_id, step, version FROM tiny_id_info WHERE biz_type = '{TAG}'"));
    let (id, max_id, step, version): (u64, i64, i64, i64) = row.expect("select").expect("a row");
    let update = "UPDATE tiny_id_info SET max_id = ?, update_time = NOW(), version = version + 1 \
                  WHERE id = ? AND max_id = ? AND version = ? AND biz_type = ?";
    conn.exec_drop(update, (max_id + step, id, max_id, version, TAG)).ok()?;
    assert_eq!(conn.affected_rows(), 1, "nobody else writes to tinyid's table");
    // (max_id, max_id + step]: the last is its own.
    Some(max_id + 1..max_id + step + 1)
}

#[test]
fn tinyid_and_idalloc_run_side_by_side_and_tinyid_stops_before_they_meet() {
    const HEADROOM: i64 = 8000;
    const STEP: i64 = 100;
    let db = MariaDb::start();
    let mut conn = db.conn();
    run(
        &mut conn,
        &[
            "CREATE TABLE tiny_id_info (id BIGINT(20) UNSIGNED NOT NULL AUTO_INCREMENT, biz_type VARCHAR(63) NOT \
             NULL DEFAULT '', begin_id BIGINT(20) NOT NULL DEFAULT 0, max_id BIGINT(20) NOT NULL DEFAULT 0, step \
             INT(11) DEFAULT 0, delta INT(11) NOT NULL DEFAULT 1, remainder INT(11) NOT NULL DEFAULT 0, \
             create_time TIMESTAMP NOT NULL DEFAULT '2010-01-01 00:00:00', update_time TIMESTAMP NOT NULL DEFAULT \
             '2010-01-01 00:00:00', version BIGINT(20) NOT NULL DEFAULT 0, PRIMARY KEY (id), UNIQUE KEY \
             uniq_biz_type (biz_type))"
                .into(),
            format!("INSERT INTO tiny_id_info (biz_type, begin_id, max_id, step) VALUES ('{TAG}', 1, 1, {STEP})"),
            "INSERT INTO tiny_id_info (biz_type, step) VALUES (REPEAT('x', 63), NULL)".into(),
        ],
    );
    let ledger = Ledger::default();
    let handed_out = reserve_as_tinyid(&mut conn).expect("tinyid as it was");
    let start = handed_out.end - 1 + HEADROOM;
    ledger.enter(handed_out, "tinyid");
    let statements = sql_under("From tinyid");
    let headroom = |sql: &String| match sql.starts_with("SET @headroom") {
        true => format!("SET @headroom = {HEADROOM}"),
        false => sql.clone(),
    };
    run(&mut conn, &statements.iter().map(headroom).collect::<Vec<_>>());
    assert_eq!(db.max_id(TAG), start);

    let setup = idalloc(&db, "id_alloc_db");
    let server = side_by_side(setup, &ledger, || reserve_as_tinyid(&mut conn).expect("below the limit"));
    assert_eq!(
        server.get(&format!("/alloc?app_tag={}", "x".repeat(63))).status,
        200,
        "a long name, without a step"
    );
    let mut highest = 0;
    while let Some(ids) = reserve_as_tinyid(&mut conn) {
        highest = ids.end - 1;
        ledger.enter(ids, "tinyid");
    }
    assert!(
        (start - STEP..start).contains(&highest),
        "tinyid has gone up to {highest}, idalloc began at {start}"
    );
    ledger.assert_sound(db.max_id(TAG));
    let later = "INSERT INTO tiny_id_info (biz_type, begin_id, max_id, step) VALUES ('later', 1, 1, 100)";
    assert!(conn.query_drop(later).is_err(), "a tag without a limit");
}

/// `idalloc tag add` under a heading of the guide, for this tag and step.
fn add_as_under(heading: &str, db: &MariaDb, tag: &str, step: &str) {
    let (_, section) = GUIDE.split_once(&format!("# {heading}\n")).expect("the heading");
    let command = section.lines().find_map(|line| line.trim().strip_prefix("idalloc tag add TAG --step N "));
    let (start, _) = command.expect("the command").split_once(" --config").expect("a configuration");
    let start: Vec<_> = start.split(' ').collect();
    let directory = tempfile::tempdir().expect("a directory");
    let ended = Run::new(directory.path(), &[&["tag", "add", tag, "--step", step], &start[..]].concat())
        .env("IDALLOC_DSN", db.dsn())
        .finish();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn a_restored_table_that_was_raised_hands_out_nothing_twice() {
    const TAGS: [&str; 2] = ["test_business", "added-after-the-backup"];
    let db = MariaDb::start();
    let watermarks = tempfile::tempdir().expect("a directory");
    let start = |watermark: &str| {
        let watermark = watermarks.path().join(watermark);
        Setup::on(&db.dsn()).key("WatermarkPath", watermark.to_str().expect("UTF-8")).start()
    };
    db.exec("CREATE TABLE backup AS SELECT * FROM segments");
    db.exec(&format!("INSERT INTO segments (app_tag, max_id, step) VALUES ('{}', 1, 1000)", TAGS[1]));
    let mut handed_out = HashSet::new();
    let mut hand_out = |server: Server| {
        for tag in TAGS {
            let ids = server.await_status(&format!("/alloc?app_tag={tag}&count=10"), 200).ids();
            ids.iter()
                .for_each(|id| assert!(handed_out.insert((tag, *id)), "{tag}: {id} for the second time"));
        }
        // Killed, so that nothing is given back.
    };
    hand_out(start("one.db"));

    db.exec("DELETE FROM segments");
    db.exec("INSERT INTO segments SELECT * FROM backup");
    run(&mut db.conn(), &sql_under("Backup and restore"));
    add_as_under("Backup and restore", &db, TAGS[1], "1000");
    // One has its watermark file, another has not.
    hand_out(start("one.db"));
    hand_out(start("two.db"));
}
