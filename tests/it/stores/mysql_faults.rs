//! MySQL: faults.

use super::*;

fn insert(server: &MariaDb, tag: &str) {
    server.exec(&format!("INSERT INTO segments (app_tag, max_id, step) VALUES ('{tag}', 0, 1)"));
}

/// How long a lock is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// A DSN with several hosts, and timeouts that are no longer than a busy machine needs.
fn hosts(ports: &[u16]) -> String {
    let hosts: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let hosts = hosts.join(",");
    format!("mysql://root:{PASSWORD}@{hosts}/id_alloc_db?timeout=3s&readTimeout=3s")
}

#[test]
fn a_session_survives_a_crash_of_the_server() {
    let server = MariaDb::start();
    let mut store = connect(&server.dsn());
    assert_eq!(store.reserve("test_business", 10), Ok(10));
    server.kill();
    for _ in 0..2 {
        assert!(matches!(store.reserve("test_business", 10), Err(StoreError::Unavailable(_))));
    }
    server.restart();
    assert_eq!(store.reserve("test_business", 10), Ok(20));
}

#[test]
fn a_server_that_hangs_is_given_up_in_time() {
    let server = MariaDb::start();
    let mut store = connect(&hosts(&[server.port()]).replace("=3s", "=500ms"));
    assert_eq!(store.reserve("test_business", 10), Ok(10));
    server.pause();
    // First on the open connection, then while connecting.
    for _ in 0..2 {
        let start = Instant::now();
        let result = store.reserve("test_business", 10);
        assert!(
            matches!(&result, Err(StoreError::Unavailable(text)) if text.contains("no answer")),
            "{result:?}"
        );
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }
    server.resume();
    // The outcome of the first was unknown; it may have been committed after the resume, a gap.
    let end = store.reserve("test_business", 10).expect("reserve");
    assert!(end == 20 || end == 30, "{end}");
}

#[test]
fn a_statement_whose_connection_is_killed_is_not_sent_again() {
    let server = MariaDb::shared();
    insert(server, "killed");
    let mut locker = server.conn();
    locker.query_drop("BEGIN").expect("begin");
    locker.query_drop("SELECT * FROM segments WHERE app_tag = 'killed' FOR UPDATE").expect("lock");
    server.exec("GRANT SELECT, UPDATE ON id_alloc_db.* TO victim@127.0.0.1 IDENTIFIED BY 'v'");
    let mut store = connect(&server.dsn().replace(&format!("root:{PASSWORD}"), "victim:v"));
    thread::scope(|scope| {
        let reservation = scope.spawn(|| store.reserve("killed", 10));
        let mut conn = server.conn();
        await_true("the reservation waits", || {
            let sql =
                "SELECT id FROM information_schema.processlist WHERE user = 'victim' AND info LIKE 'UPDATE%'";
            let waiting: Option<u64> = conn.query_first(sql).expect("processlist");
            waiting.inspect(|id| conn.query_drop(format!("KILL {id}")).expect("kill")).is_some()
        });
        let result = reservation.join().expect("the reserving thread");
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
    });
    locker.query_drop("COMMIT").expect("commit");
    assert_eq!(server.max_id("killed"), 0);
    assert_eq!(store.reserve("killed", 10), Ok(10));
}

#[test]
fn a_change_whose_connection_is_killed_is_not_sent_again() {
    let server = MariaDb::shared();
    server.exec("CREATE TABLE halted LIKE segments");
    server.exec("GRANT ALL ON id_alloc_db.* TO operator@127.0.0.1 IDENTIFIED BY 'o'");
    let dsn_text = server.dsn().replace(&format!("root:{PASSWORD}"), "operator:o");
    let mut store = open(&dsn(&dsn_text), &table("halted", "app_tag"));
    // Another's uncommitted row of the same tag holds the statement up.
    let mut locker = server.conn();
    locker.query_drop("BEGIN").expect("begin");
    locker.query_drop("INSERT INTO halted (app_tag, step) VALUES ('a', 1)").expect("insert");
    thread::scope(|scope| {
        let change = scope.spawn(|| store.insert(&details("a", 1, 1, None)));
        let mut conn = server.conn();
        await_true("the insert waits", || {
            let sql = "SELECT id FROM information_schema.processlist WHERE user = 'operator' AND info LIKE 'INSERT%'";
            let waiting: Option<u64> = conn.query_first(sql).expect("processlist");
            waiting.inspect(|id| conn.query_drop(format!("KILL {id}")).expect("kill")).is_some()
        });
        let result = change.join().expect("the changing thread");
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
        // A killed statement that gets its lock before it notices succeeds all the same: that is what makes an
        // outcome unknown.
        await_true("the killed session is gone", || {
            let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'operator'";
            conn.query_first(sql).expect("processlist") == Some(0)
        });
    });
    locker.query_drop("ROLLBACK").expect("rollback");
    assert_eq!(store.find("a"), Ok(None));
    assert_eq!(store.insert(&details("a", 1, 1, None)), Ok(()));
}

/// A session through a proxy that doubles replies about `alpha`, whose row is far above that of `beta`.
fn alpha_and_beta() -> (MariaDb, Proxy, MySqlStore) {
    let server = MariaDb::start();
    insert(&server, "beta");
    server.exec("INSERT INTO segments (app_tag, max_id, step) VALUES ('alpha', 1000000, 1)");
    let proxy = Proxy::before(server.port(), "alpha");
    let mut store = mysql_store(&hosts(&[proxy.port()]));
    assert_eq!(store.reserve("alpha", 1), Ok(1_000_001));
    (server, proxy, store)
}

#[test]
fn a_reply_that_comes_twice_at_once_is_not_that_to_the_next_reservation() {
    let (_server, proxy, mut store) = alpha_and_beta();
    for round in 1..=4 {
        // So that it is not for the bit that a session begins with.
        for _ in 0..round % 2 {
            store.reserve("alpha", 10).expect("reserve");
        }
        proxy.double(true);
        store.reserve("alpha", 10).expect("the first of the two is its reply");
        proxy.double(false);
        let result = store.reserve("beta", 10);
        assert!(
            matches!(&result, Err(StoreError::Unexpected(text)) if text.contains("an earlier statement")),
            "{result:?}"
        );
        // What that reserves, sooner or later, is a gap.
        let end = store.reserve("beta", 10).expect("on a new session");
        assert!(end <= round * 20, "{end}");
    }
}

#[test]
fn a_batch_with_a_locked_row_changes_nothing_and_may_be_tried_again() {
    let server = MariaDb::start();
    insert(&server, "beta");
    let mut store = mysql_store(&hosts(&[server.port()]));
    assert_eq!(store.reserve("beta", 10), Ok(10));
    assert_eq!(store.reserve("test_business", 10), Ok(10));
    let rests = ["beta", "test_business"].map(|tag| Rest { tag, end: 10, first_unclaimed: 1 });
    let lock = server.lock_row("test_business");
    assert!(matches!(store.give_back(&rests), Err(StoreError::Contended(_))));
    drop(lock);
    assert_eq!((server.max_id("beta"), server.max_id("test_business")), (10, 10));
    await_true("the lock is gone", || store.give_back(&rests) == Ok(vec![true, true]));
}

#[test]
fn only_a_reservation_that_was_sent_is_in_doubt() {
    let (server, proxy, mut store) = alpha_and_beta();
    assert!(!store.is_in_doubt());
    proxy.lose(Some(Loss::Closed));
    assert!(store.reserve("alpha", 10).is_err());
    assert!(store.is_in_doubt(), "it was made, and the answer was lost");
    proxy.lose(None);
    assert_eq!(store.reserve("alpha", 10), Ok(1_000_021));
    assert!(!store.is_in_doubt());
    assert_eq!(store.reserve("gamma", 10), Err(StoreError::UnknownTag));
    assert!(!store.is_in_doubt());
    server.kill();
    await_true("the connection is gone", || {
        matches!(store.reserve("alpha", 10), Err(StoreError::Unavailable(_))) && !store.is_in_doubt()
    });
}

#[test]
fn a_reply_that_comes_again_later_is_that_to_no_statement() {
    let (server, proxy, mut store) = alpha_and_beta();
    proxy.repeat();
    assert_eq!(store.reserve("beta", 10), Ok(10));
    proxy.repeat();
    assert_eq!(give_back(&mut store, "beta", 7, 1), Ok(false));
    proxy.repeat();
    let rows = store.list_tags(10).expect("list the tags");
    let mut max_ids: Vec<_> = rows.iter().map(|row| row.max_id).collect();
    max_ids.sort_unstable();
    assert_eq!(max_ids, [0, 10, server.max_id("alpha")]);
}

#[test]
fn the_end_of_an_idle_session_costs_no_statement() {
    let server = MariaDb::start();
    let mut store = connect(&server.dsn());
    assert_eq!(store.reserve("test_business", 10), Ok(10));
    server.kill();
    server.restart();
    assert_eq!(store.reserve("test_business", 10), Ok(20));
}

#[test]
fn a_row_that_somebody_else_locks_is_contention_to_a_change() {
    let server = MariaDb::shared();
    insert(server, "held");
    let mut locker = server.conn();
    locker.query_drop("BEGIN").expect("begin");
    locker.query_drop("SELECT * FROM segments WHERE app_tag = 'held' FOR UPDATE").expect("lock");
    let mut store = connect(&server.dsn());
    assert!(matches!(store.set_step("held", 5), Err(StoreError::Contended(_))));
    assert!(matches!(store.delete("held"), Err(StoreError::Contended(_))));
    locker.query_drop("COMMIT").expect("commit");
    assert_eq!(store.set_step("held", 5), Ok(()));
}

#[test]
fn a_change_is_made_on_the_host_that_takes_writes() {
    let replica = MariaDb::start_with(&["--read-only"]);
    let primary = MariaDb::shared();
    let mut store = connect(&hosts(&[replica.port(), primary.port()]));
    store.insert(&details("on_primary", 1, 1, None)).expect("insert");
    assert_eq!(primary.max_id("on_primary"), 1);
    let result = connect(&hosts(&[replica.port()])).create_table();
    assert!(matches!(&result, Err(StoreError::ReadOnly(_))), "{result:?}");
}

#[test]
fn a_locked_row_holds_up_its_own_tag_only_and_not_for_long() {
    let server = MariaDb::shared();
    insert(server, "locked");
    insert(server, "free");
    let mut locker = server.conn();
    locker.query_drop("BEGIN").expect("begin");
    locker.query_drop("UPDATE segments SET step = 2 WHERE app_tag = 'locked'").expect("lock");
    let mut store = connect(&server.dsn());
    thread::scope(|scope| {
        let start = Instant::now();
        let waiting = scope.spawn(|| store.reserve("locked", 10));
        let mut other = connect(&server.dsn());
        for end in 1..=10 {
            assert_eq!(other.reserve("free", 1), Ok(end));
        }
        assert!(!waiting.is_finished());
        let result = waiting.join().expect("the waiting thread");
        assert!(matches!(result, Err(StoreError::Contended(_))), "{result:?}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    });
    locker.query_drop("COMMIT").expect("commit");
    assert_eq!(store.reserve("locked", 10), Ok(10));
}

#[test]
fn a_locked_row_is_contention_however_short_the_read_timeout() {
    let server = MariaDb::shared();
    insert(server, "short");
    let _row = server.lock_row("short");
    for timeout in ["1s", "1500ms", "500ms"] {
        let mut store = connect(&format!("{}?readTimeout={timeout}", server.dsn()));
        store.list_tags(1).expect("connect");
        let host = store.host().map(str::to_owned);
        let result = store.reserve("short", 10);
        assert!(matches!(result, Err(StoreError::Contended(_))), "{timeout}: {result:?}");
        assert!(host.is_some() && store.host() == host.as_deref(), "the session goes on");
    }
}

#[test]
fn a_session_that_fails_fast_waits_for_no_lock_after_a_loss_either() {
    let server = MariaDb::shared();
    insert(server, "fast");
    server.exec("CREATE TABLE fast_altered LIKE segments");
    let _row = server.lock_row("fast");
    let mut table_locker = server.conn();
    table_locker.query_drop("LOCK TABLES fast_altered WRITE").expect("lock");
    for (table_name, tag) in [("segments", "fast"), ("fast_altered", "t")] {
        let mut store = open(&dsn(&server.dsn()), &table(table_name, "app_tag"));
        let contended = |store: &mut dyn TagStore| {
            let start = Instant::now();
            let result = store.reserve(tag, 10);
            assert!(matches!(result, Err(StoreError::Contended(_))), "{result:?}");
            start.elapsed()
        };
        let waited = contended(&mut *store);
        assert!(waited >= LOCK_WAIT, "{waited:?}");
        store.fail_fast_on_locks();
        // A wait is never shorter than its limit; on a busy machine the rest may take as long now and then.
        let fastest = (0..5).map(|_| {
            store.forget_session();
            assert_eq!(store.host(), None);
            contended(&mut *store)
        });
        let fastest = fastest.min().expect("a few");
        assert!(fastest < LOCK_WAIT, "{fastest:?}");
    }
}

#[test]
fn a_locked_table_holds_nobody_up_for_long() {
    let server = MariaDb::shared();
    server.exec("CREATE TABLE altered LIKE segments");
    let mut locker = server.conn();
    locker.query_drop("LOCK TABLES altered WRITE").expect("lock");
    let mut store = open(&dsn(&server.dsn()), &table("altered", "app_tag"));
    let result = store.reserve("t", 1);
    assert!(matches!(result, Err(StoreError::Contended(_))), "{result:?}");
}

#[test]
fn the_next_host_is_used_while_the_first_is_dead() {
    let server = MariaDb::shared();
    insert(server, "stand_in");
    let mut store = connect(&hosts(&[free_port(), server.port()]));
    assert_eq!(store.reserve("stand_in", 10), Ok(10));
    let report = store.check().expect("check");
    assert!(report.store.ends_with(&server.port().to_string()), "{}", report.store);
}

#[test]
fn after_a_lost_connection_the_next_host_comes_first() {
    let first = MariaDb::start();
    let second = MariaDb::shared();
    insert(second, "moved");
    insert(&first, "moved");
    let proxy = Proxy::before(first.port(), "moved");
    let mut store = connect(&hosts(&[proxy.port(), second.port()]));
    assert_eq!(store.reserve("moved", 10), Ok(10));
    proxy.lose(Some(Loss::Closed));
    let result = store.reserve("moved", 10);
    assert!(matches!(&result, Err(StoreError::Unavailable(_))), "{result:?}");
    assert_eq!(store.reserve("moved", 1), Ok(1));
}

#[test]
fn when_no_host_answers_the_error_names_one() {
    let port = free_port();
    let result = connect(&hosts(&[port, free_port()])).check();
    assert!(
        matches!(&result, Err(StoreError::Unavailable(text)) if text.contains(&port.to_string())),
        "{result:?}"
    );
}

#[test]
fn a_read_only_host_is_skipped_and_left() {
    let replica = MariaDb::start_with(&["--read-only"]);
    let primary = MariaDb::start();
    let result = connect(&hosts(&[replica.port()])).check();
    assert!(matches!(&result, Err(StoreError::ReadOnly(_))), "{result:?}");
    let mut store = connect(&hosts(&[replica.port(), primary.port()]));
    assert_eq!(store.reserve("test_business", 10), Ok(10));
    assert_eq!((replica.max_id("test_business"), primary.max_id("test_business")), (0, 10));

    // A failover under an open session, seen by a user without SUPER as an error of the statement.
    let user = "app@127.0.0.1 IDENTIFIED BY 'p'";
    for server in [&replica, &primary] {
        server.exec(&format!("GRANT SELECT, UPDATE ON id_alloc_db.* TO {user}"));
    }
    let both = hosts(&[replica.port(), primary.port()]).replace(&format!("root:{PASSWORD}"), "app:p");
    let mut store = connect(&both);
    assert_eq!(store.reserve("test_business", 10), Ok(20));
    primary.exec("SET GLOBAL read_only = 1");
    replica.exec("SET GLOBAL read_only = 0");
    assert!(matches!(store.reserve("test_business", 10), Err(StoreError::ReadOnly(_))));
    assert_eq!(store.reserve("test_business", 10), Ok(10));
    assert_eq!((replica.max_id("test_business"), primary.max_id("test_business")), (10, 20));
}

#[test]
fn a_primary_that_is_made_read_only_grants_nothing_to_a_user_who_may_ignore_that() {
    let old_primary = MariaDb::start();
    let new_primary = MariaDb::start();
    let mut store = connect(&hosts(&[old_primary.port(), new_primary.port()]));
    let mut returning = connect(&hosts(&[old_primary.port()]));
    let mut raising = connect(&hosts(&[old_primary.port()]));
    assert_eq!(store.reserve("test_business", 10), Ok(10));
    assert_eq!(returning.reserve("test_business", 10), Ok(20));
    assert_eq!(raising.raise("test_business", 1), Ok(false));
    old_primary.exec("SET GLOBAL read_only = 1");
    for result in [store.reserve("test_business", 10).map(drop), raising.raise("test_business", 90).map(drop)]
    {
        assert!(
            matches!(&result, Err(StoreError::ReadOnly(text)) if text.contains(&old_primary.port().to_string())),
            "{result:?}"
        );
    }
    assert_eq!(give_back(&mut *returning, "test_business", 20, 11), Ok(false));
    assert_eq!(old_primary.max_id("test_business"), 20);
    // A row that only the old primary lacks is not unknown.
    assert!(matches!(connect(&hosts(&[old_primary.port()])).reserve("?", 1), Err(StoreError::ReadOnly(_))));
    assert_eq!(store.reserve("test_business", 10), Ok(10), "from the new primary");
    old_primary.exec("SET GLOBAL read_only = 0");
    assert_eq!(give_back(&mut *returning, "test_business", 20, 11), Ok(true));
    assert_eq!(raising.raise("test_business", 90), Ok(true));
    assert_eq!(old_primary.max_id("test_business"), 90);
}

#[test]
fn the_first_host_is_returned_to_once_it_is_back() {
    let first = MariaDb::start();
    let second = MariaDb::start();
    let mut store = mysql_store(&hosts(&[first.port(), second.port()])).return_after(Duration::ZERO);
    assert_eq!(store.reserve("test_business", 10), Ok(10));
    first.kill();
    assert_eq!(store.reserve("test_business", 1), Ok(1));
    // Still dead: the stand-in goes on.
    assert_eq!(names(&mut store, 10), ["test_business"]);
    assert_eq!(store.reserve("test_business", 1), Ok(2));
    first.restart();
    // Never between two reservations, only when the tags are listed.
    assert_eq!(store.reserve("test_business", 1), Ok(3));
    assert_eq!(store.list_tags(10).expect("list the tags")[0].max_id, 10);
    assert_eq!(store.reserve("test_business", 10), Ok(20));
}

#[test]
fn sessions_of_one_server_stay_together_on_one_host() {
    let first = MariaDb::start();
    let second = MariaDb::start();
    let proxy = Proxy::before(first.port(), "cut_off");
    insert(&first, "cut_off");
    let table = table("segments", "app_tag");
    let backend = backend(&dsn(&hosts(&[proxy.port(), second.port()])), &table);
    let mut stores = [backend.session(), backend.session(), backend.session()];
    for (store, end) in stores.iter_mut().zip([10, 20, 30]) {
        assert_eq!(store.reserve("test_business", 10), Ok(end));
    }
    proxy.lose(Some(Loss::Closed));
    assert!(matches!(stores[0].reserve("cut_off", 1), Err(StoreError::Unavailable(_))));
    // It has moved on, but to nowhere yet: the others' connections are good, and so is their host.
    assert_eq!(stores[1].reserve("test_business", 10), Ok(40));
    assert_eq!(stores[0].reserve("test_business", 1), Ok(1));
    assert_eq!(stores[1].reserve("test_business", 1), Ok(2));
    assert_eq!(stores[2].list_tags(10).expect("list the tags").len(), 1);
    assert_eq!(stores[2].host(), stores[0].host());
}

#[test]
fn a_session_that_never_lists_returns_to_the_first_host_with_one_that_does() {
    let first = MariaDb::start();
    let second = MariaDb::start();
    let mut lister = mysql_store(&hosts(&[first.port(), second.port()])).return_after(Duration::ZERO);
    let mut refiller = lister.sibling();
    assert_eq!(refiller.reserve("test_business", 10), Ok(10));
    first.kill();
    assert_eq!(refiller.reserve("test_business", 1), Ok(1));
    assert_eq!(lister.list_tags(10).expect("list the tags")[0].max_id, 1);
    // Back, but not for good: it cannot serve the table.
    first.restart();
    first.exec("RENAME TABLE segments TO away");
    assert_eq!(lister.list_tags(10).expect("list the tags")[0].max_id, 1);
    assert_eq!(refiller.reserve("test_business", 1), Ok(2));
    first.exec("RENAME TABLE away TO segments");
    assert_eq!(refiller.reserve("test_business", 1), Ok(3), "only a listing looks");
    assert_eq!(lister.list_tags(10).expect("list the tags")[0].max_id, 10);
    assert_eq!(refiller.reserve("test_business", 10), Ok(20));
}

#[test]
fn a_host_without_the_table_does_not_stand_in() {
    let first = MariaDb::start();
    let second = MariaDb::start();
    second.exec("RENAME TABLE segments TO away");
    let mut store = mysql_store(&hosts(&[first.port(), second.port()]));
    assert_eq!(store.reserve("test_business", 10), Ok(10));
    first.kill();
    for _ in 0..2 {
        let result = store.reserve("test_business", 10);
        assert!(matches!(&result, Err(StoreError::Unavailable(_))), "{result:?}");
    }
    first.restart();
    assert_eq!(store.reserve("test_business", 10), Ok(20));
}

#[test]
fn a_stand_in_that_cannot_serve_any_more_is_left() {
    for spoil in ["RENAME TABLE segments TO away", "REVOKE UPDATE ON id_alloc_db.* FROM app@127.0.0.1"] {
        let [first, second] = [MariaDb::start(), MariaDb::start()];
        for server in [&first, &second] {
            server.exec("GRANT SELECT, UPDATE ON id_alloc_db.* TO app@127.0.0.1 IDENTIFIED BY 'p'");
        }
        let both = hosts(&[first.port(), second.port()]).replace(&format!("root:{PASSWORD}"), "app:p");
        first.kill();
        let mut store = connect(&both);
        assert_eq!(store.reserve("test_business", 10), Ok(10), "of the stand-in");
        second.exec(spoil);
        first.restart();
        // A privilege that is gone is noticed by a new session.
        store.forget_session();
        let result = store.reserve("test_business", 10);
        assert!(matches!(&result, Err(StoreError::Schema(_) | StoreError::Denied(_))), "{result:?}");
        assert_eq!(store.reserve("test_business", 10), Ok(10), "{spoil}");
        let first_host = format!("127.0.0.1:{}", first.port());
        assert_eq!(store.host(), Some(first_host.as_str()), "{spoil}");
    }
}

#[test]
fn an_idle_session_that_is_cut_stays_with_its_host() {
    let first = MariaDb::start();
    let second = MariaDb::shared();
    for server in [&first, second] {
        insert(server, "rested");
    }
    let proxy = Proxy::before(first.port(), "rested");
    let mut store = connect(&hosts(&[proxy.port(), second.port()]));
    assert_eq!(store.reserve("rested", 10), Ok(10));
    // As a box between the two does that has forgotten the connection, and says so only when it is used.
    proxy.lose(Some(Loss::Closed));
    // It is the rest itself that is tested.
    thread::sleep(Duration::from_millis(1100));
    assert!(matches!(store.reserve("rested", 10), Err(StoreError::Unavailable(_))));
    proxy.lose(None);
    assert_eq!(store.reserve("rested", 10), Ok(30), "the outcome of the second was unknown");
}

#[test]
fn a_host_that_is_not_ready_is_asked_a_few_times_before_it_is_left() {
    let first = MariaDb::start();
    let second = MariaDb::start();
    let lose_cluster = "CREATE TRIGGER no_cluster BEFORE UPDATE ON segments FOR EACH ROW \
         SIGNAL SQLSTATE '08S01' SET MYSQL_ERRNO = 1047, MESSAGE_TEXT = 'WSREP has not yet prepared node'";
    let mut store = connect(&hosts(&[first.port(), second.port()]));
    let not_ready = |result: Result<i64, StoreError>| {
        assert!(matches!(&result, Err(StoreError::Contended(text)) if text.contains("1047")), "{result:?}");
    };
    assert_eq!(store.reserve("test_business", 10), Ok(10));
    // Now and then is never too often.
    for round in 2..=3 {
        first.exec(lose_cluster);
        (0..3).for_each(|_| not_ready(store.reserve("test_business", 10)));
        first.exec("DROP TRIGGER no_cluster");
        assert_eq!(store.reserve("test_business", 10), Ok(round * 10));
    }
    first.exec(lose_cluster);
    (0..3).for_each(|_| not_ready(store.reserve("test_business", 10)));
    let result = store.reserve("test_business", 10);
    assert!(matches!(&result, Err(StoreError::Unavailable(text)) if text.contains("1047")), "{result:?}");
    assert_eq!(store.reserve("test_business", 10), Ok(10));
    assert_eq!((first.max_id("test_business"), second.max_id("test_business")), (30, 10));
}

#[test]
fn what_a_stand_in_risks_is_in_the_log_once_it_stands_in() {
    let first = MariaDb::start();
    let second = MariaDb::start_with(&["--innodb-flush-log-at-trx-commit=2"]);
    let server = Setup::on(&hosts(&[first.port(), second.port()]))
        .key("TagReloadSeconds", 1)
        .key("WatermarkPath", "")
        .start();
    server.await_status("/health", 200);
    let told = |line: &String| line.contains("innodb_flush_log_at_trx_commit is 2");
    assert!(!server.log_so_far().iter().any(told), "not before");
    first.kill();
    let line = server.await_log("innodb_flush_log_at_trx_commit is 2");
    assert!(line.contains(&format!("127.0.0.1:{}", second.port())), "{line}");
    // Of the host that it starts with, the check tells, and only that.
    drop(server);
    let server = Setup::on(&hosts(&[free_port(), second.port()])).key("WatermarkPath", "").start();
    server.await_status("/alloc?app_tag=test_business", 200);
    server.signal(libc::SIGTERM);
    assert_eq!(server.rest_of_log().iter().filter(|line| told(line)).count(), 1);
}

/// Nobody may see a host's replication without a privilege, of which README tells.
#[test]
fn the_check_says_which_privilege_shows_that_a_host_is_a_replica() {
    let server = MariaDb::start();
    server.exec("GRANT SELECT, UPDATE ON id_alloc_db.* TO store@127.0.0.1 IDENTIFIED BY 's'");
    let dsn = hosts(&[server.port()]).replace(&format!("root:{PASSWORD}"), "store:s");
    let warnings = |dsn: &str| connect(dsn).check().expect("check").warnings();
    assert!(warnings(&dsn).iter().any(|warning| warning.contains("SLAVE MONITOR")), "{:?}", warnings(&dsn));
    server.exec("GRANT SLAVE MONITOR ON *.* TO store@127.0.0.1");
    assert_eq!(warnings(&dsn), [""; 0]);
}

/// A store whose reservations run `trigger`, by a user of its own.
fn store_with_trigger(server: &MariaDb, trigger: &str) -> Box<dyn TagStore> {
    server.exec("GRANT SELECT, UPDATE ON id_alloc_db.* TO store@127.0.0.1 IDENTIFIED BY 's'");
    server.exec("CREATE TABLE other (id INT PRIMARY KEY, n INT)");
    server.exec("INSERT INTO other VALUES (1, 0)");
    server
        .exec(&format!("CREATE TRIGGER meddler BEFORE UPDATE ON segments FOR EACH ROW BEGIN {trigger}; END"));
    let mut store = connect(&hosts(&[server.port()]).replace(&format!("root:{PASSWORD}"), "store:s"));
    assert_eq!(store.list_tags(10).expect("connect").len(), 1);
    store
}

/// After `error`, the same session goes on once the trigger is gone.
fn assert_contended(
    server: &MariaDb,
    store: &mut dyn TagStore,
    result: Result<i64, StoreError>,
    error: &str,
) {
    assert!(matches!(&result, Err(StoreError::Contended(text)) if text.contains(error)), "{result:?}");
    let sql = "SELECT id FROM information_schema.processlist WHERE user = 'store'";
    let session: Vec<u64> = server.conn().query(sql).expect("processlist");
    server.exec("DROP TRIGGER meddler");
    assert_eq!(store.reserve("test_business", 10), Ok(10));
    assert_eq!(server.conn().query::<u64, _>(sql).expect("processlist"), session);
}

#[test]
fn the_victim_of_a_deadlock_is_contended_and_goes_on() {
    let server = MariaDb::start();
    let mut store = store_with_trigger(&server, "UPDATE other SET n = n + 1 WHERE id = 1");
    // A lock is waited for for a second, which may be over before the deadlock is complete.
    for _ in 0..20 {
        let mut rival = server.conn();
        rival.query_drop("BEGIN").expect("begin");
        // The one that has changed less is the victim.
        rival.query_drop("UPDATE other SET n = 7").expect("lock");
        rival.query_drop("INSERT INTO other SELECT seq, 0 FROM seq_2_to_500").expect("insert");
        let result = thread::scope(|scope| {
            let reservation = scope.spawn(|| store.reserve("test_business", 10));
            await_true("the trigger waits, or waited too long", || {
                let sql =
                    "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'UPDATE other%'";
                reservation.is_finished() || server.conn().query_first(sql).expect("processlist") == Some(1)
            });
            rival.query_drop("UPDATE segments SET step = 1").expect("the survivor's statement");
            reservation.join().expect("the reserving thread")
        });
        rival.query_drop("ROLLBACK").expect("rollback");
        if !matches!(&result, Err(StoreError::Contended(text)) if text.contains("1205")) {
            return assert_contended(&server, &mut *store, result, "1213");
        }
    }
    panic!("no deadlock in 20 tries");
}

/// No statement of ours reads a snapshot before it writes, so MariaDB has no reason to say so; Galera may.
#[test]
fn a_record_that_has_changed_since_the_snapshot_is_contended_and_goes_on() {
    let server = MariaDb::start();
    let mut store = store_with_trigger(
        &server,
        "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1020, MESSAGE_TEXT = 'Record has changed'",
    );
    let result = store.reserve("test_business", 10);
    assert_contended(&server, &mut *store, result, "1020");
}

#[test]
fn a_stand_in_is_kept_for_a_while() {
    let first = MariaDb::start();
    let second = MariaDb::shared();
    insert(second, "kept");
    first.stop();
    let mut store =
        mysql_store(&hosts(&[first.port(), second.port()])).return_after(Duration::from_secs(3600));
    assert_eq!(store.reserve("kept", 1), Ok(1));
    first.restart();
    store.list_tags(1).expect("list the tags");
    assert_eq!(store.reserve("kept", 1), Ok(2));
}
