//! MySQL: access.

use super::*;

#[test]
fn a_wrong_password_is_denied_and_not_repeated_in_the_error() {
    let server = MariaDb::shared();
    let result = connect(&server.dsn().replace(PASSWORD, "hunter2")).check();
    let Err(StoreError::Denied(text)) = &result else { panic!("{result:?}") };
    assert!(text.contains("1045") && text.contains(&server.port().to_string()), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn an_unknown_database_is_denied() {
    let result = connect(&MariaDb::shared().dsn().replace("id_alloc_db", "nowhere")).check();
    assert!(matches!(&result, Err(StoreError::Denied(text)) if text.contains("nowhere")), "{result:?}");
}

#[test]
fn a_user_who_may_only_read_is_denied_by_the_check() {
    let server = MariaDb::shared();
    server.exec("CREATE USER reader@127.0.0.1 IDENTIFIED BY 'r'");
    server.exec("GRANT SELECT ON id_alloc_db.* TO reader@127.0.0.1");
    let mut store = connect(&server.dsn().replace(&format!("root:{PASSWORD}"), "reader:r"));
    assert!(store.list_tags(1).is_ok());
    assert!(matches!(store.check(), Err(StoreError::Denied(_))));
    server.exec("GRANT UPDATE ON id_alloc_db.* TO reader@127.0.0.1");
    // A new session, because privileges on a database count from the next `USE`.
    let mut store = connect(&server.dsn().replace(&format!("root:{PASSWORD}"), "reader:r"));
    store.check().expect("select and update are all it takes");
}

#[test]
fn each_change_needs_its_own_privilege_and_no_more() {
    let server = MariaDb::shared();
    server.exec("CREATE TABLE guarded LIKE segments");
    server.exec("ALTER TABLE guarded ADD COLUMN description VARCHAR(9)");
    let as_user = |user: &str, privileges: &str, on: &str| {
        server.exec(&format!("CREATE USER {user}@127.0.0.1 IDENTIFIED BY 'p'"));
        server.exec(&format!("GRANT {privileges} ON {on} TO {user}@127.0.0.1"));
        let dsn_text = server.dsn().replace(&format!("root:{PASSWORD}"), &format!("{user}:p"));
        move |database: &str, name: &str| {
            open(&dsn(&dsn_text.replace("id_alloc_db", database)), &table(name, "app_tag"))
        }
    };
    let denied = |result: Result<(), StoreError>| {
        assert!(matches!(&result, Err(StoreError::Denied(_))), "{result:?}");
    };

    let mut store = as_user("g_read", "SELECT", "id_alloc_db.guarded")("id_alloc_db", "guarded");
    assert_eq!(store.find("a"), Ok(None));
    assert_eq!(store.create_table(), Ok(Created { database: false, table: false }));
    denied(store.insert(&details("a", 1, 1, None)));
    let mut store = as_user("g_insert", "SELECT, INSERT", "id_alloc_db.guarded")("id_alloc_db", "guarded");
    assert_eq!(store.insert(&details("a", 1, 1, Some("why"))), Ok(()));
    denied(store.set_step("a", 2));
    let mut store = as_user("g_update", "SELECT, UPDATE", "id_alloc_db.guarded")("id_alloc_db", "guarded");
    assert_eq!(store.set_step("a", 2), Ok(()));
    assert_eq!(store.set_description("a", "because"), Ok(()));
    denied(store.delete("a"));
    let mut store = as_user("g_delete", "SELECT, DELETE", "id_alloc_db.guarded")("id_alloc_db", "guarded");
    assert_eq!(store.delete("a"), Ok(()));
    denied(store.insert(&details("a", 1, 1, None)));

    let open_as_creator = as_user("g_create", "CREATE", "made_by_g.*");
    let mut store = open_as_creator("made_by_g", "ids");
    assert_eq!(store.create_table(), Ok(Created { database: true, table: true }));
    assert_eq!(store.create_table(), Ok(Created { database: false, table: false }));
    denied(open_as_creator("not_by_g", "ids").create_table().map(drop));
}

#[test]
fn a_unix_socket_serves_as_well() {
    let socket = MariaDb::shared().socket();
    let mut store = connect(&format!("root@unix({})/id_alloc_db", socket.display()));
    let report = store.check().expect("check");
    assert!(report.store.ends_with(&format!(" at {}", socket.display())), "{}", report.store);
}

#[test]
fn the_report_names_product_version_and_place() {
    let server = MariaDb::shared();
    let report = connect(&server.dsn()).check().expect("check");
    let version: String = server.conn().query_first("SELECT VERSION()").expect("version").expect("a row");
    let number = version.split('-').next().expect("a number");
    assert_eq!(report.store, format!("MariaDB {number} at 127.0.0.1:{}", server.port()));
}

#[test]
fn settings_that_may_lose_a_commit_are_warned_of_and_a_lax_sql_mode_is_overruled() {
    let server = MariaDb::start_with(&[
        "--innodb-flush-log-at-trx-commit=2",
        "--log-bin",
        "--binlog-format=STATEMENT",
        "--sync-binlog=0",
        "--sql-mode=",
    ]);
    let mut store = connect(&server.dsn());
    let warnings = store.check().expect("check").warnings();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].contains("innodb_flush_log_at_trx_commit is 2"), "{warnings:?}");
    assert!(warnings[1].contains("sync_binlog is 0"), "{warnings:?}");
    assert!(warnings[2].contains("binlog_format is STATEMENT"), "{warnings:?}");
    // A statement-based binlog must not make a reservation an "unsafe statement", which is a warning.
    assert_eq!(store.reserve("test_business", 10), Ok(10));
    // A lax server clamps the value to the column and hands the same range out again and again.
    server.exec("ALTER TABLE segments MODIFY max_id INT NOT NULL");
    server.exec("UPDATE segments SET max_id = 2147483640");
    assert!(matches!(store.reserve("test_business", 100), Err(StoreError::Unexpected(_))));
    assert_eq!(server.max_id("test_business"), 2_147_483_640);
}
