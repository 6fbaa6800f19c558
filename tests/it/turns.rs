//! An account that may have few connections: the sessions of a server take turns.

use std::thread;
use std::time::{Duration, Instant};

use idalloc::config::TableSpec;
use idalloc::dsn::Dsn;
use idalloc::store::mysql::MySqlStore;
use idalloc::store::{SegmentStore, StoreError, TagStore};
use idalloc_testing::mariadb::MariaDb;
use idalloc_testing::server::{PATIENCE, Setup};
use idalloc_testing::store::Reserve;
use mysql::prelude::Queryable;

const USER: &str = "ids:secret";

fn store(server: &MariaDb) -> MySqlStore {
    let dsn = format!("{USER}@tcp(127.0.0.1:{})/id_alloc_db", server.port());
    let Ok(Dsn::MySql(dsn)) = dsn.parse() else { panic!("{dsn}") };
    let table = TableSpec::default();
    MySqlStore::new(&dsn, &table)
}

/// How long anybody may have to wait who takes turns: longer than a turn takes on a busy machine.
const TURN_MAX: Duration = Duration::from_secs(4);

/// A server on which idalloc's account may have so many connections at a time.
fn with_connections(limit: u32) -> MariaDb {
    let server = MariaDb::start();
    server.exec(&format!("CREATE USER ids@'%' IDENTIFIED BY 'secret' WITH MAX_USER_CONNECTIONS {limit}"));
    server.exec("GRANT SELECT, INSERT, UPDATE, DELETE ON id_alloc_db.* TO ids@'%'");
    server
}

/// How many connections there were since the start of the server.
fn connections_so_far(conn: &mut mysql::Conn) -> u64 {
    let status: (String, u64) =
        conn.query_first("SHOW GLOBAL STATUS LIKE 'Connections'").expect("ask").expect("a row");
    status.1
}

#[test]
fn siblings_take_turns_with_one_connection() {
    const ROUNDS: i64 = 30;
    let server = with_connections(1);
    let before = server.max_id("test_business");
    let first = store(&server);
    let siblings: Vec<MySqlStore> = (0..4).map(|_| first.sibling()).collect();
    let longest = thread::scope(|scope| {
        let takers: Vec<_> = siblings
            .into_iter()
            .enumerate()
            .map(|(index, mut store)| {
                scope.spawn(move || {
                    let mut longest = Duration::ZERO;
                    for round in 0..ROUNDS {
                        let began = Instant::now();
                        match index {
                            0 => assert_eq!(store.list_tags(10).map(|rows| rows.len()), Ok(1), "{round}"),
                            _ => drop(store.reserve("test_business", 1).expect("reserve")),
                        }
                        longest = longest.max(began.elapsed());
                    }
                    longest
                })
            })
            .collect();
        takers.into_iter().map(|taker| taker.join().expect("served")).max()
    });
    assert!(longest < Some(TURN_MAX), "{longest:?}");
    assert_eq!(server.max_id("test_business"), before + 3 * ROUNDS, "none was reserved twice or for nothing");
}

#[test]
fn with_connections_enough_every_sibling_keeps_its_own() {
    let server = with_connections(3);
    let first = store(&server);
    let mut siblings = [first.sibling(), first.sibling(), first.sibling()];
    let mut conn = server.conn();
    let mut call_all = || {
        for store in &mut siblings {
            store.refresh();
            store.reserve("test_business", 1).expect("reserve");
            store.list_tags(10).expect("list");
        }
    };
    call_all();
    let before = connections_so_far(&mut conn);
    call_all();
    assert_eq!(connections_so_far(&mut conn), before);
}

#[test]
fn a_connection_is_free_again_for_others_when_its_store_is_dropped() {
    let server = with_connections(1);
    let mut ours = store(&server);
    let mut sibling = ours.sibling();
    ours.reserve("test_business", 1).expect("reserve");
    drop(ours);
    let free = |conn: &mut mysql::Conn| {
        let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'ids'";
        conn.query_first(sql).expect("count") == Some(0)
    };
    let mut conn = server.conn();
    let deadline = Instant::now() + PATIENCE;
    while !free(&mut conn) {
        assert!(Instant::now() < deadline, "it stays open");
        thread::yield_now();
    }
    sibling.reserve("test_business", 1).expect("reserve");
}

#[test]
fn a_connection_that_another_program_has_is_waited_for_by_nobody() {
    let server = with_connections(1);
    let mut other = store(&server);
    other.reserve("test_business", 1).expect("reserve");
    let began = Instant::now();
    let refused = store(&server).reserve("test_business", 1);
    assert!(matches!(&refused, Err(StoreError::Unavailable(text)) if text.contains("1226")), "{refused:?}");
    assert!(began.elapsed() < TURN_MAX, "{:?}", began.elapsed());
}

#[test]
fn a_server_whose_account_may_have_one_connection_serves_lists_and_is_changed() {
    const LASTS: Duration = Duration::from_secs(6);
    let database = with_connections(1);
    database.exec("INSERT INTO segments (app_tag, step) VALUES ('a', 20), ('b', 20), ('gone', 20)");
    let setup = Setup::on(&format!("{USER}@tcp(127.0.0.1:{})/id_alloc_db", database.port()));
    let report = setup.check();
    assert!(report.stdout.contains("max_user_connections of this account is 1: "), "{report:?}");
    let server = setup.admin().key("RefillThreads", 2).key("TagReloadSeconds", 1).start();
    server.await_status("/alloc?app_tag=gone", 200);
    database.exec("DELETE FROM segments WHERE app_tag = 'gone'");
    let until = Instant::now() + LASTS;
    thread::scope(|scope| {
        for tag in ["a", "b"] {
            let mut client = server.connect();
            scope.spawn(move || {
                let mut last = Instant::now();
                let mut newest = 0;
                while Instant::now() < until {
                    let answer = client.get(&format!("/alloc?app_tag={tag}"));
                    if answer.status == 200 {
                        assert!(answer.id() > newest, "{} after {newest}", answer.id());
                        newest = answer.id();
                        last = Instant::now();
                    }
                    assert!(last.elapsed() < TURN_MAX, "{tag} has had no ID for {:?}", last.elapsed());
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
        let mut operator = server.admin();
        for step in 21.. {
            if Instant::now() >= until {
                break;
            }
            let body = format!(r#"{{"step":{step}}}"#);
            let began = Instant::now();
            let json = ["Content-Type: application/json"];
            let changed = operator.ask_admin("PATCH", "/api/tags/a", &json, &body);
            assert_eq!(changed.status, 200, "{changed:?}");
            assert!(began.elapsed() < 2 * TURN_MAX, "{:?}", began.elapsed());
            thread::sleep(Duration::from_millis(100));
        }
        let answer = server.get("/alloc?app_tag=gone");
        assert_eq!(answer.status, 404, "no listing has noticed under load that it is gone");
    });
}
