//! MySQL: tables.

use super::*;

fn open_table(name: &str, tag_column: &str) -> Box<dyn TagStore> {
    open(&dsn(&MariaDb::shared().dsn()), &table(name, tag_column))
}

#[test]
fn tables_of_go_id_alloc_and_leaf_are_served() {
    let server = MariaDb::shared();
    server.exec(
        "CREATE TABLE go_segments (biz_tag VARCHAR(128) NOT NULL PRIMARY KEY, max_id BIGINT NOT NULL, \
         step BIGINT NOT NULL, description VARCHAR(256), update_time DATETIME)",
    );
    server.exec(
        "CREATE TABLE leaf_alloc (biz_tag VARCHAR(128) NOT NULL DEFAULT '', max_id BIGINT(20) NOT NULL DEFAULT 1, \
         step INT(11) NOT NULL, description VARCHAR(256), update_time TIMESTAMP NOT NULL \
         DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, PRIMARY KEY (biz_tag))",
    );
    for name in ["go_segments", "leaf_alloc"] {
        server.exec(&format!("INSERT INTO {name} (biz_tag, max_id, step) VALUES ('t', 1, 2000)"));
        let mut store = open_table(name, "biz_tag");
        store.check().expect(name);
        // More than Leaf's `step INT` holds.
        assert_eq!(store.reserve("t", 3_000_000_000), Ok(3_000_000_001));
        let rows = store.list_tags(10).expect("list the tags");
        assert_eq!((rows[0].name.as_str(), rows[0].step, rows[0].max_id), ("t", 2000, 3_000_000_001));
    }
}

#[test]
fn rows_of_go_id_alloc_and_leaf_are_written() {
    let server = MariaDb::shared();
    for (name, step_type) in [("go_written", "BIGINT"), ("leaf_written", "INT(11)")] {
        server.exec(&format!(
            "CREATE TABLE {name} (biz_tag VARCHAR(128) NOT NULL DEFAULT '', max_id BIGINT NOT NULL DEFAULT 1, \
             step {step_type} NOT NULL, description VARCHAR(256) DEFAULT NULL, update_time TIMESTAMP NOT NULL \
             DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, PRIMARY KEY (biz_tag)) \
             CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
        ));
        let mut store = open_table(name, "biz_tag");
        store.insert(&details("orders", 1, 2000, Some("of the shop"))).expect(name);
        store.set_step("orders", 3000).expect(name);
        store.set_description("orders", "of both shops").expect(name);
        let expected = details("orders", 1, 3000, Some("of both shops"));
        assert_eq!(store.find("orders"), Ok(Some(expected.clone())));
        // The collation takes these for the same; idalloc does not.
        for other in ["Orders", "orders "] {
            assert_eq!(store.find(other), Ok(None), "{other:?}");
            assert_eq!(store.set_step(other, 1), Err(StoreError::UnknownTag), "{other:?}");
            assert_eq!(store.delete(other), Err(StoreError::UnknownTag), "{other:?}");
            let result = store.insert(&details(other, 1, 1, None));
            assert_eq!(result, Err(StoreError::TagExists("orders".into())), "{other:?}");
        }
        assert_eq!(store.find("orders"), Ok(Some(expected)));
        assert_eq!(store.delete("orders"), Ok(()));
    }
}

#[test]
fn what_a_column_does_not_hold_is_refused_by_name_and_not_cut() {
    let server = MariaDb::shared();
    server.exec(
        "CREATE TABLE small (app_tag VARCHAR(8) CHARACTER SET latin1 PRIMARY KEY, max_id BIGINT NOT NULL, \
         step INT NOT NULL, description VARCHAR(4))",
    );
    let mut store = open_table("small", "app_tag");
    store.insert(&details("müller", 1, 5, Some("four"))).expect("it fits");
    for (tag, expected) in [
        (
            details("123456789", 1, 1, None),
            "app_tag is \"123456789\": its column, varchar(8) latin1, does not",
        ),
        (details("🦀", 1, 1, None), "app_tag is \"🦀\": its column, varchar(8) latin1, does not"),
        (details("a", 1, 1 << 31, None), "step is 2147483648: its column, int(11), does not"),
        (
            details("a", 1, 1, Some("fives")),
            "description is \"fives\": its column, varchar(4) utf8mb4, does not",
        ),
        // A value that looks like another column's name does not mislead.
        (details("'step' `step`", 1, 1, None), "app_tag is "),
    ] {
        let text = invalid(store.insert(&tag));
        assert!(text.starts_with(expected), "{text}");
    }
    // Nor does a table with such a name, which MariaDB's message holds as well.
    server.exec("CREATE TABLE step LIKE small");
    let text = invalid(open_table("step", "app_tag").insert(&details("🦀", 1, 1, None)));
    assert!(text.starts_with("app_tag is \"🦀\": "), "{text}");
    let text = invalid(store.set_step("müller", i64::MAX));
    assert!(text.starts_with("step is 9223372036854775807: its column, int(11), does not"), "{text}");
    let text = invalid(store.set_description("müller", "fives"));
    assert!(text.starts_with("description is \"fives\": "), "{text}");
    assert_eq!(store.find("müller"), Ok(Some(details("müller", 1, 5, Some("four")))));
    assert_eq!(names(&mut *store, 10).len(), 1);
}

#[test]
fn another_columns_duplicate_is_no_tag_that_exists() {
    let server = MariaDb::shared();
    server.exec(
        "CREATE TABLE twins (app_tag VARCHAR(8) PRIMARY KEY, max_id BIGINT NOT NULL, step INT NOT NULL, \
         description VARCHAR(9) UNIQUE)",
    );
    let mut store = open_table("twins", "app_tag");
    store.insert(&details("a", 1, 1, Some("same"))).expect("insert");
    let result = store.insert(&details("b", 1, 1, Some("same")));
    assert!(matches!(&result, Err(StoreError::Unexpected(text)) if text.contains("1062")), "{result:?}");
}

#[test]
fn database_and_table_are_made_once_by_whoever_is_first() {
    const SESSIONS: usize = 4;
    let server = MariaDb::shared();
    let in_dsn = (server.dsn().replace("id_alloc_db", "made-`here"), None);
    let in_table = (server.dsn(), Identifier::new("made_there"));
    for (dsn_text, database) in [in_dsn, in_table] {
        let mut spec = table("app_tag", "segments");
        spec.database = database;
        let barrier = Barrier::new(SESSIONS);
        let session = || {
            let mut store = open(&dsn(&dsn_text), &spec);
            barrier.wait();
            store.create_table().expect("create the table")
        };
        let made: Vec<Created> = thread::scope(|scope| {
            let sessions: Vec<_> = (0..SESSIONS).map(|_| scope.spawn(session)).collect();
            sessions.into_iter().map(|session| session.join().expect("a session")).collect()
        });
        assert_eq!(made.iter().filter(|made| made.database).count(), 1, "{made:?}");
        assert_eq!(made.iter().filter(|made| made.table).count(), 1, "{made:?}");
        let mut store = open(&dsn(&dsn_text), &spec);
        store.check().expect("check");
        assert_eq!(names(&mut *store, 10), [""; 0]);
        store.insert(&details("a", 1, 1, None)).expect("insert");
        assert_eq!(store.create_table(), Ok(Created { database: false, table: false }));
        assert_eq!(store.reserve("a", 1), Ok(2));
    }
}

#[test]
fn the_schema_is_what_makes_the_table() {
    let server = MariaDb::shared();
    let in_other = server.dsn().replace("id_alloc_db", "by_schema");
    let spec = table("ids", "biz_tag");
    let sql = idalloc::store::backend(&dsn(&in_other), &spec).schema();
    // As an operator runs it: in no database, and twice.
    for statement in sql.split(";\n").chain(sql.split(";\n")).filter(|text| !text.trim().is_empty()) {
        server.exec(statement);
    }
    let mut store = open(&dsn(&in_other), &spec);
    store.check().expect("check");
    assert_eq!(store.create_table(), Ok(Created { database: false, table: false }));
}

#[test]
fn a_table_of_another_database_is_served() {
    let server = MariaDb::shared();
    server.exec("CREATE DATABASE elsewhere");
    server.exec("CREATE TABLE elsewhere.ids LIKE segments");
    server.exec("INSERT INTO elsewhere.ids (app_tag, step) VALUES ('t', 1)");
    let mut spec = table("ids", "app_tag");
    spec.database = Identifier::new("elsewhere");
    let mut store = open(&dsn(&server.dsn()), &spec);
    store.check().expect("check");
    assert_eq!(store.reserve("t", 5), Ok(5));
    assert_eq!(names(&mut *store, 10), ["t"]);
}

#[test]
fn without_update_time_the_tags_are_listed_all_the_same() {
    let server = MariaDb::shared();
    server.exec(
        "CREATE TABLE timeless (app_tag VARCHAR(32) PRIMARY KEY, max_id BIGINT NOT NULL, step INT NOT NULL)",
    );
    server.exec("INSERT INTO timeless VALUES ('a', 0, 1), ('b', 0, 1)");
    let mut store = open_table("timeless", "app_tag");
    store.check().expect("check");
    assert_eq!(names(&mut *store, 10).len(), 2);
    assert_eq!(names(&mut *store, 1).len(), 1);
}

#[test]
fn rows_that_nobody_can_ask_for_are_told_apart() {
    let server = MariaDb::shared();
    server.exec("CREATE TABLE odd (app_tag VARBINARY(32) UNIQUE, max_id BIGINT, step BIGINT NOT NULL)");
    server.exec("INSERT INTO odd VALUES (NULL, 0, 1), (x'fffe', 0, 1), ('null', NULL, 1), ('good', 0, 1)");
    let mut store = open_table("odd", "app_tag");
    let mut unreadable = store.list_tags(10).expect("list the tags").unreadable;
    unreadable.sort_by(|a, b| a.reason.cmp(&b.reason));
    let reasons = unreadable.iter().map(|row| (row.name.as_deref(), row.reason.as_str()));
    assert_eq!(
        reasons.collect::<Vec<_>>(),
        [
            (Some("null"), "its max_id is NULL"),
            (None, "the tag \"\u{fffd}\u{fffd}\" is no UTF-8"),
            (None, "the tag of a row is NULL"),
        ]
    );
    assert_eq!(names(&mut *store, 10), ["good"]);
    assert_eq!(store.reserve("null", 1), Err(StoreError::Unreadable("its max_id is NULL".into())));
    assert_eq!(store.reserve("NULL", 1), Err(StoreError::UnknownTag));
}

#[test]
fn a_tag_that_the_character_set_lacks_is_unknown() {
    let server = MariaDb::shared();
    server.exec(
        "CREATE TABLE latin (app_tag VARCHAR(32) CHARACTER SET latin1 PRIMARY KEY, \
         max_id BIGINT NOT NULL, step INT NOT NULL)",
    );
    server.exec("INSERT INTO latin VALUES ('müller', 0, 1)");
    let mut store = open_table("latin", "app_tag");
    assert_eq!(store.reserve("🦀", 1), Err(StoreError::UnknownTag));
    assert_eq!(store.reserve("müller", 1), Ok(1));
    assert_eq!(names(&mut *store, 1), ["müller"]);
}

#[test]
fn an_unsigned_max_id_stops_at_the_last_id_too() {
    let server = MariaDb::shared();
    server
        .exec("CREATE TABLE u (app_tag VARCHAR(32) PRIMARY KEY, max_id BIGINT UNSIGNED NOT NULL, step INT)");
    server.exec("INSERT INTO u VALUES ('near', 9223372036854775800, 1), ('beyond', 18446744073709551615, 1)");
    let mut store = open_table("u", "app_tag");
    store.check().expect("check");
    assert_eq!(store.reserve("near", 8), Err(StoreError::Overflow { max_id: i64::MAX - 7 }));
    assert_eq!(store.reserve("near", 7), Ok(i64::MAX));
    assert_eq!(store.reserve("beyond", 1), Err(StoreError::Overflow { max_id: i64::MAX }));
    let rows = store.list_tags(10).expect("list the tags");
    assert!(rows.iter().all(|row| row.max_id == i64::MAX), "{rows:?}");
}

#[test]
fn a_missing_table_is_made_by_the_quoted_statement() {
    let server = MariaDb::shared();
    let mut store = open_table("missing", "biz_tag");
    let statement = remedy(store.check());
    assert!(statement.starts_with("CREATE TABLE IF NOT EXISTS `missing` ( `biz_tag` "), "{statement}");
    let results = [store.reserve("t", 1).map(drop), store.list_tags(1).map(drop)];
    assert!(results.iter().all(|result| matches!(result, Err(StoreError::Schema(_)))), "{results:?}");
    server.exec(&statement);
    store.check().expect("check");
    server.exec("INSERT INTO missing (biz_tag, step) VALUES ('t', 1)");
    assert_eq!(store.reserve("t", 1), Ok(1));
}

#[test]
fn columns_are_mended_by_the_quoted_statements() {
    let server = MariaDb::shared();
    server.exec("CREATE TABLE narrow (app_tag VARCHAR(32), max_id INT NOT NULL, step VARCHAR(9))");
    server.exec("INSERT INTO narrow VALUES ('t', 2147483647, '5')");
    let mut store = open_table("narrow", "app_tag");
    for expected in [
        "ALTER TABLE `narrow` ADD UNIQUE KEY (`app_tag`);",
        "ALTER TABLE `narrow` MODIFY max_id BIGINT NOT NULL DEFAULT 0;",
        "ALTER TABLE `narrow` MODIFY step BIGINT NOT NULL DEFAULT 100000;",
    ] {
        let statement = remedy(store.check());
        assert_eq!(statement, expected);
        server.exec(&statement);
    }
    store.check().expect("check");
    assert_eq!(store.reserve("t", 1), Ok(2_147_483_648));
    server.exec("ALTER TABLE narrow DROP COLUMN step");
    assert!(matches!(store.list_tags(1), Err(StoreError::Schema(_))));
    server.exec(&remedy(store.check()));
    store.check().expect("check");
}

#[test]
fn a_key_of_two_columns_or_of_a_prefix_is_not_unique_enough() {
    let server = MariaDb::shared();
    server.exec(
        "CREATE TABLE pairs (app_tag VARCHAR(32), n INT, max_id BIGINT NOT NULL, step INT NOT NULL, \
         PRIMARY KEY (app_tag, n), UNIQUE KEY (n), KEY (app_tag), UNIQUE KEY (app_tag(5)))",
    );
    assert_eq!(
        remedy(open_table("pairs", "app_tag").check()),
        "ALTER TABLE `pairs` ADD UNIQUE KEY (`app_tag`);"
    );
}

#[test]
fn a_wrong_tag_column_is_answered_with_those_there_are() {
    let text = fault(open_table("segments", "biz_tag").check());
    assert!(text.contains("`biz_tag`") && text.contains("app_tag") && text.contains("TagColumn"), "{text}");
}

#[test]
fn a_view_is_refused() {
    MariaDb::shared().exec("CREATE VIEW shown AS SELECT * FROM segments");
    let text = fault(open_table("shown", "app_tag").check());
    assert!(text.contains("`shown` is a view"), "{text}");
}

#[test]
fn an_engine_that_endangers_ids_is_warned_of() {
    let server = MariaDb::shared();
    server.exec(
        "CREATE TABLE risky (app_tag VARCHAR(32) PRIMARY KEY, max_id BIGINT NOT NULL, step INT NOT NULL) ENGINE = MyISAM",
    );
    let mut store = open_table("risky", "app_tag");
    let warnings = store.check().expect("check").warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let (_, statement) = warnings[0].split_once("run: ").expect("a statement");
    assert!(warnings[0].contains("MyISAM"), "{warnings:?}");
    server.exec(statement);
    assert_eq!(store.check().expect("check").warnings(), [""; 0]);
}

#[test]
fn a_trigger_that_hides_answers_is_refused() {
    let server = MariaDb::shared();
    server.exec("CREATE TABLE triggered LIKE segments");
    server.exec("INSERT INTO triggered (app_tag, max_id, step) VALUES ('t', 50, 1)");
    let mut store = open_table("triggered", "app_tag");
    for trigger in [
        "BEFORE UPDATE ON triggered FOR EACH ROW SET NEW.step = 1",
        "AFTER UPDATE ON triggered FOR EACH ROW SET @x = 1",
    ] {
        server.exec(&format!("CREATE TRIGGER meddler {trigger}"));
        for _ in 0..2 {
            let result = store.reserve("t", 10);
            assert!(
                matches!(&result, Err(StoreError::Unexpected(text)) if text.contains("trigger")),
                "{trigger}: {result:?}"
            );
        }
        let statement = remedy(store.check());
        assert_eq!(statement, "DROP TRIGGER `id_alloc_db`.`meddler`;");
        server.exec(&statement);
        store.check().expect("check");
    }
    assert_eq!(store.reserve("t", 10), Ok(100));
}

#[test]
fn a_warning_is_as_bad_as_an_error() {
    let server = MariaDb::shared();
    // Of digits that are rounded off, MariaDB warns, in every sql_mode.
    server.exec(
        "CREATE TABLE warned (app_tag VARCHAR(32) PRIMARY KEY, max_id BIGINT NOT NULL, step INT NOT NULL, \
         seventh DECIMAL(30, 1) AS (max_id / 7) STORED)",
    );
    server.exec("INSERT INTO warned (app_tag, max_id, step) VALUES ('t', 50, 1)");
    let mut store = open_table("warned", "app_tag");
    let results = [
        store.reserve("t", 10).map(drop),
        give_back(&mut *store, "t", 60, 55).map(drop),
        store.raise("t", 1000).map(drop),
    ];
    for result in results {
        assert!(
            matches!(&result, Err(StoreError::Unexpected(text)) if text.contains("1 warning")),
            "{result:?}"
        );
    }
    server.exec("ALTER TABLE warned DROP COLUMN seventh");
    assert_eq!(store.reserve("t", 10), Ok(1010));
}
