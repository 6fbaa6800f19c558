//! Both stores through the public API, on a real MariaDB and real SQLite files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use idalloc::config::{Identifier, TableSpec};
use idalloc::dsn::Dsn;
use idalloc::store::mysql::MySqlStore;
use idalloc::store::{
    Created, Floor, Rest, SegmentStore, StoreError, StoreReport, TagDetails, TagStore, backend,
};
use idalloc_testing::mariadb::{MariaDb, PASSWORD, free_port};
use idalloc_testing::proxy::{Loss, Proxy};
use idalloc_testing::server::Setup;
use idalloc_testing::store::Reserve;
use mysql::prelude::Queryable;
use tempfile::TempDir;

/// A session with a table of its own.
fn open(dsn: &Dsn, table: &TableSpec) -> Box<dyn TagStore> {
    backend(dsn, table).session()
}

fn table(name: &str, tag_column: &str) -> TableSpec {
    let identifier = |text| Identifier::new(text).expect("an identifier");
    TableSpec { database: None, name: identifier(name), tag_column: identifier(tag_column) }
}

fn dsn(text: &str) -> Dsn {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn connect(dsn_text: &str) -> Box<dyn TagStore> {
    open(&dsn(dsn_text), &table("segments", "app_tag"))
}

fn mysql_store(dsn_text: &str) -> MySqlStore {
    let Dsn::MySql(dsn) = dsn(dsn_text) else { panic!("{dsn_text} is no MySQL DSN") };
    MySqlStore::new(&dsn, &table("segments", "app_tag"))
}

fn names(store: &mut dyn TagStore, limit: usize) -> Vec<String> {
    store.list_tags(limit).expect("list the tags").into_iter().map(|row| row.name).collect()
}

/// Gives one row's rest back, and says whether that was done.
fn give_back(
    store: &mut dyn SegmentStore,
    tag: &str,
    end: i64,
    first_unclaimed: i64,
) -> Result<bool, StoreError> {
    let given_back = store.give_back(&[Rest { tag, end, first_unclaimed }])?;
    Ok(given_back == [true])
}

/// The statement that a `Schema` error quotes.
fn remedy(result: Result<StoreReport, StoreError>) -> String {
    let Err(StoreError::Schema(text)) = result else { panic!("no schema error: {result:?}") };
    text.split_once("run: ").unwrap_or_else(|| panic!("no statement in {text:?}")).1.to_owned()
}

/// The message of a `Schema` error that no single statement mends.
fn fault(result: Result<StoreReport, StoreError>) -> String {
    let Err(StoreError::Schema(text)) = result else { panic!("no schema error: {result:?}") };
    text
}

fn details(name: &str, max_id: i64, step: i64, description: Option<&str>) -> TagDetails {
    TagDetails { name: name.to_owned(), max_id, step, description: description.map(str::to_owned) }
}

/// The message of an `Invalid` error, which begins with the field.
fn invalid<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    let Err(StoreError::Invalid(field)) = result else { panic!("no invalid field: {result:?}") };
    field.to_string()
}

/// Waits for something that gives no signal.
fn await_true(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What a store must do whatever it is made of: each of these runs on MariaDB and on SQLite.
mod contract {
    use super::*;

    /// One table of its own, in either store.
    pub enum Fixture {
        MySql { table: String },
        Sqlite { dir: TempDir },
    }

    impl Fixture {
        pub fn mysql(name: &str) -> Fixture {
            let table = format!("t_{name}");
            MariaDb::shared().exec(&format!("CREATE TABLE {table} LIKE segments"));
            Fixture::MySql { table }
        }

        pub fn sqlite(_: &str) -> Fixture {
            let fixture = Fixture::Sqlite { dir: TempDir::new().expect("a temporary directory") };
            fixture.open().create_table().expect("make the file");
            fixture.exec("DELETE FROM segments");
            fixture
        }

        fn table(&self) -> &str {
            match self {
                Fixture::MySql { table } => table,
                Fixture::Sqlite { .. } => "segments",
            }
        }

        fn dsn(&self) -> String {
            match self {
                Fixture::MySql { .. } => MariaDb::shared().dsn(),
                Fixture::Sqlite { dir } => format!("sqlite:{}", dir.path().join("ids.db").display()),
            }
        }

        fn open(&self) -> Box<dyn TagStore> {
            open(&dsn(&self.dsn()), &table(self.table(), "app_tag"))
        }

        fn sqlite_file(&self) -> rusqlite::Connection {
            let Fixture::Sqlite { dir } = self else { panic!("not SQLite") };
            rusqlite::Connection::open(dir.path().join("ids.db")).expect("open the file")
        }

        fn exec(&self, sql: &str) {
            match self {
                Fixture::MySql { .. } => MariaDb::shared().exec(sql),
                Fixture::Sqlite { .. } => self.sqlite_file().execute_batch(sql).expect(sql),
            }
        }

        fn insert(&self, tag: &str, max_id: i64, step: i64) {
            let sql = format!("INSERT INTO {} (app_tag, max_id, step) VALUES (?, ?, ?)", self.table());
            match self {
                Fixture::MySql { .. } => {
                    MariaDb::shared().conn().exec_drop(sql, (tag, max_id, step)).expect(tag)
                }
                Fixture::Sqlite { .. } => {
                    self.sqlite_file().execute(&sql, (tag, max_id, step)).expect(tag);
                }
            }
        }

        fn max_id(&self, tag: &str) -> i64 {
            let sql = format!("SELECT max_id FROM {} WHERE app_tag = ?", self.table());
            match self {
                Fixture::MySql { .. } => {
                    MariaDb::shared().conn().exec_first(sql, (tag,)).expect("select").expect("a row")
                }
                Fixture::Sqlite { .. } => {
                    self.sqlite_file().query_row(&sql, [tag], |row| row.get(0)).expect("a row")
                }
            }
        }
    }

    pub fn reservations_adjoin_and_are_committed(fixture: &Fixture) {
        fixture.insert("a", 0, 7);
        let mut store = fixture.open();
        for (amount, end) in [(100, 100), (1, 101), (1_000_000_000_000, 1_000_000_000_101)] {
            assert_eq!(store.reserve("a", amount), Ok(end));
            assert_eq!(fixture.max_id("a"), end);
        }
    }

    pub fn a_negative_max_id_is_refused_whatever_was_granted(fixture: &Fixture) {
        for max_id in [-1, i64::MIN] {
            let tag = format!("a{max_id}");
            fixture.insert(&tag, max_id, 1);
            let mut store = fixture.open();
            assert_eq!(store.reserve(&tag, 100), Err(StoreError::GoneBack { max_id }));
            assert_eq!(fixture.max_id(&tag), max_id);
            assert_eq!(store.reserve_above(&tag, 100, Floor::Raise(7)), Ok(107));
            assert_eq!(store.reserve(&tag, 100), Ok(207));
        }
    }

    pub fn a_row_below_the_floor_is_left_as_it_is(fixture: &Fixture) {
        fixture.insert("a", 500, 1);
        let mut store = fixture.open();
        for floor in [501, 66_000, i64::MAX] {
            let refused = store.reserve_above("a", 10, Floor::Refuse(floor));
            assert_eq!(refused, Err(StoreError::GoneBack { max_id: 500 }), "{floor}");
            assert_eq!(fixture.max_id("a"), 500, "{floor}");
        }
        for floor in [500, 510, 3, -5] {
            let end = store.reserve_above("a", 10, Floor::Refuse(floor)).expect("it is not below");
            assert_eq!(fixture.max_id("a"), end);
        }
        assert_eq!(store.reserve_above("b", 1, Floor::Refuse(1)), Err(StoreError::UnknownTag));
    }

    pub fn a_row_below_the_floor_is_raised_and_reserved_from_in_one(fixture: &Fixture) {
        fixture.insert("a", 500, 1);
        let mut store = fixture.open();
        for (floor, end) in [(66_000, 66_010), (66_010, 66_020), (66_000, 66_030), (-5, 66_040)] {
            assert_eq!(store.reserve_above("a", 10, Floor::Raise(floor)), Ok(end), "{floor}");
            assert_eq!(fixture.max_id("a"), end, "{floor}");
        }
        assert_eq!(store.reserve_above("b", 1, Floor::Raise(1)), Err(StoreError::UnknownTag));
        let last = i64::MAX - 10;
        assert_eq!(
            store.reserve_above("a", 11, Floor::Raise(last)),
            Err(StoreError::Overflow { max_id: last })
        );
        assert_eq!(fixture.max_id("a"), 66_040, "it is not even raised");
        assert_eq!(store.reserve_above("a", 10, Floor::Raise(last)), Ok(i64::MAX));
    }

    pub fn a_tag_without_a_row_is_unknown(fixture: &Fixture) {
        fixture.insert("a", 0, 1);
        let mut store = fixture.open();
        for tag in ["b", "", "a'", "%", &"x".repeat(5000)] {
            assert_eq!(store.reserve(tag, 1), Err(StoreError::UnknownTag), "{tag:?}");
            assert_eq!(give_back(&mut *store, tag, 1, 0), Ok(false), "{tag:?}");
        }
        assert_eq!(store.reserve("a", 1), Ok(1));
    }

    pub fn the_last_id_can_be_had_and_none_beyond(fixture: &Fixture) {
        let near = i64::MAX - 10;
        fixture.insert("a", near, 1);
        let mut store = fixture.open();
        assert_eq!(store.reserve("a", 11), Err(StoreError::Overflow { max_id: near }));
        assert_eq!(store.reserve("a", i64::MAX), Err(StoreError::Overflow { max_id: near }));
        assert_eq!(fixture.max_id("a"), near);
        assert_eq!(store.reserve("a", 10), Ok(i64::MAX));
        assert_eq!(store.reserve("a", 1), Err(StoreError::Overflow { max_id: i64::MAX }));
        assert_eq!(fixture.max_id("a"), i64::MAX);
    }

    pub fn amounts_below_one_change_nothing(fixture: &Fixture) {
        fixture.insert("a", 100, 1);
        let mut store = fixture.open();
        for amount in [0, -1, i64::MIN] {
            assert!(matches!(store.reserve("a", amount), Err(StoreError::Unexpected(_))));
        }
        assert_eq!(fixture.max_id("a"), 100);
    }

    pub fn only_the_newest_range_can_be_given_back(fixture: &Fixture) {
        fixture.insert("a", 0, 1);
        fixture.insert("b", 100, 1);
        let mut store = fixture.open();
        assert_eq!(store.reserve("a", 100), Ok(100));
        assert_eq!(give_back(&mut *store, "a", 100, 40), Ok(true));
        assert_eq!(store.reserve("a", 10), Ok(50));
        // Another's reservation may have ended above or, after a give-back, below the range's end.
        for end in [40, 100] {
            assert_eq!(give_back(&mut *store, "a", end, end - 1), Ok(false));
        }
        assert_eq!((fixture.max_id("a"), fixture.max_id("b")), (50, 100));
    }

    /// Each row's condition is its own: what others have changed stays as it is, and is told.
    pub fn a_batch_gives_back_the_rows_that_are_as_they_were(fixture: &Fixture) {
        const ROWS: usize = 300;
        let tags: Vec<_> = (0..ROWS).map(|row| format!("tag {row:03}")).collect();
        let rows: Vec<_> = tags.iter().map(|tag| format!("('{tag}', 100, 1)")).collect();
        let insert =
            format!("INSERT INTO {} (app_tag, max_id, step) VALUES {}", fixture.table(), rows.join(","));
        fixture.exec(&insert);
        let rests: Vec<_> = tags
            .iter()
            .zip(1..)
            .map(|(tag, first)| Rest { tag, end: 100, first_unclaimed: first % 100 })
            .collect();
        let mut store = fixture.open();
        assert_eq!(store.reserve(&tags[7], 5), Ok(105), "another reserved");
        fixture.exec(&format!("UPDATE {} SET max_id = 99 WHERE app_tag = '{}'", fixture.table(), tags[150]));
        fixture.exec(&format!("DELETE FROM {} WHERE app_tag = '{}'", fixture.table(), tags[299]));
        let given_back = store.give_back(&rests).expect("give back");
        let refused: Vec<_> = (0..ROWS).filter(|row| !given_back[*row]).collect();
        assert_eq!(refused, [7, 150, 299]);
        assert_eq!((fixture.max_id(&tags[7]), fixture.max_id(&tags[150])), (105, 99));
        for (rest, given_back) in rests.iter().zip(given_back).filter(|(_, given_back)| *given_back) {
            assert_eq!(fixture.max_id(rest.tag), rest.first_unclaimed, "{rest:?}, {given_back}");
        }
        assert_eq!(store.give_back(&rests), Ok(vec![false; ROWS]), "nothing is given back twice");
        assert_eq!(store.give_back(&[]), Ok(vec![]));
    }

    pub fn sessions_may_give_back_at_once(fixture: &Fixture) {
        const ROWS: usize = 200;
        const ROUNDS: usize = 10;
        let tags: Vec<_> = (0..ROWS).map(|row| format!("tag {row:03}")).collect();
        tags.iter().for_each(|tag| fixture.insert(tag, 0, 1));
        let barrier = Barrier::new(2);
        let rounds = |parity: usize| {
            let mine: Vec<_> = tags.iter().skip(parity).step_by(2).collect();
            let mut store = fixture.open();
            for _ in 0..ROUNDS {
                let ends: Vec<_> = mine.iter().map(|tag| store.reserve(tag, 10).expect("reserve")).collect();
                let mut rests = Vec::new();
                for (tag, end) in mine.iter().zip(ends) {
                    rests.push(Rest { tag, end, first_unclaimed: end - 9 });
                }
                barrier.wait();
                assert_eq!(store.give_back(&rests), Ok(vec![true; ROWS / 2]));
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| rounds(1));
            rounds(0);
        });
        assert!(tags.iter().all(|tag| fixture.max_id(tag) == ROUNDS as i64));
    }

    pub fn a_raise_only_goes_up_and_says_whether_it_did(fixture: &Fixture) {
        fixture.insert("a", 100, 1);
        let mut store = fixture.open();
        for (to, did, max_id) in [(100, false, 100), (99, false, 100), (101, true, 101), (101, false, 101)] {
            assert_eq!(store.raise("a", to), Ok(did), "{to}");
            assert_eq!(fixture.max_id("a"), max_id, "{to}");
        }
        assert_eq!(store.raise("b", 5), Ok(false));
    }

    pub fn sessions_at_once_get_disjoint_adjoining_ranges(fixture: &Fixture) {
        const EACH: i64 = 150;
        fixture.insert("a", 0, 1);
        let barrier = Barrier::new(2);
        let session = |base: i64| {
            let mut store = fixture.open();
            barrier.wait();
            let reserve = |i| {
                let amount = base + i % 3;
                let end = store.reserve("a", amount).expect("reserve");
                (end - amount, end)
            };
            (0..EACH).map(reserve).collect::<Vec<_>>()
        };
        let mut ranges = thread::scope(|scope| {
            let other = scope.spawn(|| session(1000));
            let mut ranges = session(1);
            ranges.extend(other.join().expect("the other session"));
            ranges
        });
        ranges.sort_unstable();
        let mut expected_start = 0;
        for (start, end) in ranges {
            assert_eq!(start, expected_start);
            expected_start = end;
        }
        assert_eq!(expected_start, fixture.max_id("a"));
    }

    pub fn the_most_recently_used_tag_is_listed_first(fixture: &Fixture) {
        for tag in ["a", "b", "c"] {
            fixture.insert(tag, 0, 1);
        }
        let mut store = fixture.open();
        for (tag, day) in [("a", 2), ("b", 3), ("c", 1)] {
            let table = fixture.table();
            fixture.exec(&format!(
                "UPDATE {table} SET update_time = '2001-01-0{day} 00:00:00' WHERE app_tag = '{tag}'"
            ));
        }
        assert_eq!(names(&mut *store, 10), ["b", "a", "c"]);
        store.reserve("c", 1).expect("reserve");
        assert_eq!(names(&mut *store, 10), ["c", "b", "a"]);
        assert_eq!(names(&mut *store, 2), ["c", "b"]);
        let details = store.list_details(2).expect("list the details");
        assert_eq!(details.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["c", "b"]);
    }

    pub fn rows_are_listed_as_they_are_stored(fixture: &Fixture) {
        for (tag, max_id, step) in [("zero", 0, 0), ("negative", -5, -1), ("big", i64::MAX, i64::MAX)] {
            fixture.insert(tag, max_id, step);
        }
        let rows = fixture.open().list_tags(10).expect("list the tags");
        let mut rows: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.max_id, row.step)).collect();
        rows.sort_unstable();
        assert_eq!(rows, [("big", i64::MAX, i64::MAX), ("negative", -5, -1), ("zero", 0, 0)]);
    }

    pub fn a_tag_may_be_any_text(fixture: &Fixture) {
        let tags = ["o'neil", "\"; DROP TABLE segments; --", "back\\slash\\'", "🦀 crab", "`?:x%_", "ü\n\t"];
        for tag in tags {
            fixture.insert(tag, 0, 1);
        }
        let mut store = fixture.open();
        for (tag, amount) in tags.into_iter().zip(10..) {
            assert_eq!(store.reserve(tag, amount), Ok(amount), "{tag:?}");
            assert_eq!(give_back(&mut *store, tag, amount, amount - 1), Ok(true), "{tag:?}");
            assert_eq!(fixture.max_id(tag), amount - 1, "{tag:?}");
        }
        let mut listed = names(&mut *store, 10);
        listed.sort_unstable();
        let mut expected = tags.map(str::to_owned);
        expected.sort_unstable();
        assert_eq!(listed, expected);
    }

    pub fn a_new_tag_serves_from_its_start_on(fixture: &Fixture) {
        let mut store = fixture.open();
        let tag = TagDetails::new("a", 10, 1000, None).expect("all is allowed");
        assert_eq!(store.find("a"), Ok(None));
        assert_eq!(store.insert(&tag), Ok(()));
        assert_eq!(store.find("a"), Ok(Some(details("a", 1000, 10, None))));
        assert_eq!(store.reserve("a", 10), Ok(1010));
        assert_eq!(names(&mut *store, 10), ["a"]);
    }

    pub fn a_tag_that_exists_is_not_inserted_and_stays_as_it_is(fixture: &Fixture) {
        fixture.insert("a", 500, 7);
        let mut store = fixture.open();
        for _ in 0..2 {
            let result = store.insert(&details("a", 1, 1, None));
            assert_eq!(result, Err(StoreError::TagExists("a".into())));
        }
        assert_eq!(store.find("a"), Ok(Some(details("a", 500, 7, None))));
    }

    pub fn of_sessions_that_insert_the_same_tag_one_succeeds(fixture: &Fixture) {
        const SESSIONS: usize = 4;
        let barrier = Barrier::new(SESSIONS);
        let session = |step| {
            let mut store = fixture.open();
            store.list_tags(1).expect("connect");
            barrier.wait();
            store.insert(&details("a", 1, step, None)).map(|()| step)
        };
        let results: Vec<_> = thread::scope(|scope| {
            let session = &session;
            let sessions: Vec<_> =
                (1..=SESSIONS as i64).map(|step| scope.spawn(move || session(step))).collect();
            sessions.into_iter().map(|session| session.join().expect("a session")).collect()
        });
        let (winners, losers): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert!(losers.iter().all(|result| *result == Err(StoreError::TagExists("a".into()))), "{losers:?}");
        let [Ok(step)] = winners[..] else { panic!("{winners:?}") };
        assert_eq!(fixture.open().find("a"), Ok(Some(details("a", 1, step, None))));
    }

    pub fn a_step_is_set_and_nothing_else(fixture: &Fixture) {
        fixture.insert("a", 500, 7);
        fixture.insert("b", 500, 7);
        let mut store = fixture.open();
        // The second time it has the value already.
        for _ in 0..2 {
            assert_eq!(store.set_step("a", i64::MAX), Ok(()));
        }
        assert_eq!(store.find("a"), Ok(Some(details("a", 500, i64::MAX, None))));
        assert_eq!(store.find("b"), Ok(Some(details("b", 500, 7, None))));
    }

    pub fn a_deleted_tag_is_gone_and_may_come_back(fixture: &Fixture) {
        fixture.insert("a", 500, 7);
        fixture.insert("b", 500, 7);
        let mut store = fixture.open();
        assert_eq!(store.delete("a"), Ok(()));
        assert_eq!(store.delete("a"), Err(StoreError::UnknownTag));
        assert_eq!(store.reserve("a", 1), Err(StoreError::UnknownTag));
        assert_eq!(names(&mut *store, 10), ["b"]);
        assert_eq!(store.insert(&details("a", 501, 1, None)), Ok(()));
        assert_eq!(store.reserve("a", 1), Ok(502));
    }

    pub fn a_row_that_is_not_there_is_not_changed(fixture: &Fixture) {
        fixture.exec(&format!("ALTER TABLE {} ADD COLUMN description TEXT", fixture.table()));
        fixture.insert("a", 500, 7);
        let mut store = fixture.open();
        for tag in ["b", "", "a'", "%", "A", "a ", "ä", "🦀", &"x".repeat(5000)] {
            assert_eq!(store.find(tag), Ok(None), "{tag:?}");
            assert_eq!(store.set_step(tag, 1), Err(StoreError::UnknownTag), "{tag:?}");
            assert_eq!(store.set_description(tag, "d"), Err(StoreError::UnknownTag), "{tag:?}");
            assert_eq!(store.delete(tag), Err(StoreError::UnknownTag), "{tag:?}");
        }
        assert_eq!(store.find("a"), Ok(Some(details("a", 500, 7, Some("")))));
    }

    pub fn a_new_tag_may_be_any_text(fixture: &Fixture) {
        let tags = ["o'neil", "\"; DROP TABLE segments; --", "back\\slash\\'", "🦀 crab", "`?:x%_", "A", "a"];
        let mut store = fixture.open();
        for (tag, step) in tags.into_iter().zip(1..) {
            assert_eq!(store.insert(&details(tag, 1, step, None)), Ok(()), "{tag:?}");
        }
        for (tag, step) in tags.into_iter().zip(1..) {
            assert_eq!(store.set_step(tag, step + 100), Ok(()), "{tag:?}");
            assert_eq!(store.find(tag), Ok(Some(details(tag, 1, step + 100, None))), "{tag:?}");
            assert_eq!(store.delete(tag), Ok(()), "{tag:?}");
        }
        assert_eq!(names(&mut *store, 10), [""; 0]);
    }

    pub fn a_description_needs_its_column(fixture: &Fixture) {
        fixture.insert("a", 0, 7);
        let mut store = fixture.open();
        assert_eq!(store.find("a"), Ok(Some(details("a", 0, 7, None))));
        let complaints = [
            invalid(store.set_description("a", "why")),
            invalid(store.insert(&details("b", 1, 1, Some("why")))),
        ];
        for complaint in &complaints {
            assert!(complaint.starts_with("description is \"why\": "), "{complaint}");
        }
        assert_eq!(names(&mut *store, 10), ["a"]);
        let (_, statement) = complaints[0].split_once("run: ").expect("a statement");
        fixture.exec(statement);

        let mut store = fixture.open();
        assert_eq!(store.find("a"), Ok(Some(details("a", 0, 7, Some("")))), "NULL is no text");
        for description in ["o'rders 🦀", "", ""] {
            assert_eq!(store.set_description("a", description), Ok(()));
            assert_eq!(store.find("a"), Ok(Some(details("a", 0, 7, Some(description)))));
        }
        assert_eq!(store.insert(&details("b", 1, 1, Some("why"))), Ok(()));
        assert_eq!(store.insert(&details("c", 1, 1, None)), Ok(()));
        let rows =
            [details("a", 0, 7, Some("")), details("b", 1, 1, Some("why")), details("c", 1, 1, Some(""))];
        for row in &rows {
            assert_eq!(store.find(&row.name), Ok(Some(row.clone())));
        }
        let mut listed = store.list_details(10).expect("list the details").readable;
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(listed, rows);
    }

    pub fn a_table_with_a_column_that_must_be_given_gets_no_rows(fixture: &Fixture) {
        fixture.exec(&format!("DROP TABLE {}", fixture.table()));
        fixture.exec(&format!(
            "CREATE TABLE {} (app_tag VARCHAR(32) PRIMARY KEY, max_id BIGINT NOT NULL, step INT NOT NULL, \
             owner VARCHAR(9) NOT NULL)",
            fixture.table()
        ));
        let result = fixture.open().insert(&details("a", 1, 1, None));
        let Err(StoreError::Schema(text)) = result else { panic!("{result:?}") };
        assert!(text.contains("owner") && text.contains("needs a default"), "{text}");
    }

    pub fn a_table_that_may_hold_a_tag_twice_is_not_changed(fixture: &Fixture) {
        fixture.exec(&format!("DROP TABLE {}", fixture.table()));
        fixture.exec(&format!(
            "CREATE TABLE {} (app_tag VARCHAR(32), max_id BIGINT, step INT)",
            fixture.table()
        ));
        for _ in 0..2 {
            fixture.insert("a", 500, 7);
        }
        let mut store = fixture.open();
        let results = [
            store.insert(&details("b", 1, 1, None)),
            store.set_step("a", 1),
            store.set_description("a", "why"),
            store.delete("a"),
        ];
        for result in results {
            assert!(matches!(&result, Err(StoreError::Schema(text)) if text.contains("run: ")), "{result:?}");
        }
        let rows = store.list_tags(10).expect("list the tags");
        assert!(rows.len() == 2 && rows.iter().all(|row| row.step == 7), "{rows:?}");
    }

    pub fn what_is_there_is_not_made_again(fixture: &Fixture) {
        fixture.insert("a", 500, 7);
        let mut store = fixture.open();
        for _ in 0..2 {
            assert_eq!(store.create_table(), Ok(Created { database: false, table: false }));
        }
        assert_eq!(store.find("a"), Ok(Some(details("a", 500, 7, None))));
    }

    pub fn a_good_table_passes_the_check(fixture: &Fixture) {
        let report = fixture.open().check().expect("check");
        assert_eq!(report.warnings(), [""; 0]);
        assert!(report.facts().len() > 2, "{report:?}");
    }
}

macro_rules! on_both_stores {
    ($($test:ident)*) => {
        mod on_mysql {
            $(#[test] fn $test() { super::contract::$test(&super::contract::Fixture::mysql(stringify!($test))); })*
        }
        mod on_sqlite {
            $(#[test] fn $test() { super::contract::$test(&super::contract::Fixture::sqlite(stringify!($test))); })*
        }
    };
}

on_both_stores! {
    reservations_adjoin_and_are_committed
    a_negative_max_id_is_refused_whatever_was_granted
    a_row_below_the_floor_is_left_as_it_is
    a_row_below_the_floor_is_raised_and_reserved_from_in_one
    a_tag_without_a_row_is_unknown
    the_last_id_can_be_had_and_none_beyond
    amounts_below_one_change_nothing
    only_the_newest_range_can_be_given_back
    a_batch_gives_back_the_rows_that_are_as_they_were
    sessions_may_give_back_at_once
    a_raise_only_goes_up_and_says_whether_it_did
    sessions_at_once_get_disjoint_adjoining_ranges
    the_most_recently_used_tag_is_listed_first
    rows_are_listed_as_they_are_stored
    a_tag_may_be_any_text
    a_new_tag_serves_from_its_start_on
    a_tag_that_exists_is_not_inserted_and_stays_as_it_is
    of_sessions_that_insert_the_same_tag_one_succeeds
    a_step_is_set_and_nothing_else
    a_deleted_tag_is_gone_and_may_come_back
    a_row_that_is_not_there_is_not_changed
    a_new_tag_may_be_any_text
    a_description_needs_its_column
    a_table_with_a_column_that_must_be_given_gets_no_rows
    a_table_that_may_hold_a_tag_twice_is_not_changed
    what_is_there_is_not_made_again
    a_good_table_passes_the_check
}

mod mysql_tables {
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
        server.exec("CREATE TABLE timeless (app_tag VARCHAR(32) PRIMARY KEY, max_id BIGINT NOT NULL, step INT NOT NULL)");
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
        server
            .exec("INSERT INTO odd VALUES (NULL, 0, 1), (x'fffe', 0, 1), ('null', NULL, 1), ('good', 0, 1)");
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
        server.exec(
            "CREATE TABLE u (app_tag VARCHAR(32) PRIMARY KEY, max_id BIGINT UNSIGNED NOT NULL, step INT)",
        );
        server.exec(
            "INSERT INTO u VALUES ('near', 9223372036854775800, 1), ('beyond', 18446744073709551615, 1)",
        );
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
        assert!(
            text.contains("`biz_tag`") && text.contains("app_tag") && text.contains("TagColumn"),
            "{text}"
        );
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
}

mod mysql_access {
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
        let mut store =
            as_user("g_insert", "SELECT, INSERT", "id_alloc_db.guarded")("id_alloc_db", "guarded");
        assert_eq!(store.insert(&details("a", 1, 1, Some("why"))), Ok(()));
        denied(store.set_step("a", 2));
        let mut store =
            as_user("g_update", "SELECT, UPDATE", "id_alloc_db.guarded")("id_alloc_db", "guarded");
        assert_eq!(store.set_step("a", 2), Ok(()));
        assert_eq!(store.set_description("a", "because"), Ok(()));
        denied(store.delete("a"));
        let mut store =
            as_user("g_delete", "SELECT, DELETE", "id_alloc_db.guarded")("id_alloc_db", "guarded");
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
}

mod mysql_faults {
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
                let sql = "SELECT id FROM information_schema.processlist WHERE user = 'victim' AND info LIKE 'UPDATE%'";
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
        for result in
            [store.reserve("test_business", 10).map(drop), raising.raise("test_business", 90).map(drop)]
        {
            assert!(
                matches!(&result, Err(StoreError::ReadOnly(text)) if text.contains(&old_primary.port().to_string())),
                "{result:?}"
            );
        }
        assert_eq!(give_back(&mut *returning, "test_business", 20, 11), Ok(false));
        assert_eq!(old_primary.max_id("test_business"), 20);
        // A row that only the old primary lacks is not unknown.
        assert!(matches!(
            connect(&hosts(&[old_primary.port()])).reserve("?", 1),
            Err(StoreError::ReadOnly(_))
        ));
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
            assert!(
                matches!(&result, Err(StoreError::Contended(text)) if text.contains("1047")),
                "{result:?}"
            );
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
        assert!(
            warnings(&dsn).iter().any(|warning| warning.contains("SLAVE MONITOR")),
            "{:?}",
            warnings(&dsn)
        );
        server.exec("GRANT SLAVE MONITOR ON *.* TO store@127.0.0.1");
        assert_eq!(warnings(&dsn), [""; 0]);
    }

    /// A store whose reservations run `trigger`, by a user of its own.
    fn store_with_trigger(server: &MariaDb, trigger: &str) -> Box<dyn TagStore> {
        server.exec("GRANT SELECT, UPDATE ON id_alloc_db.* TO store@127.0.0.1 IDENTIFIED BY 's'");
        server.exec("CREATE TABLE other (id INT PRIMARY KEY, n INT)");
        server.exec("INSERT INTO other VALUES (1, 0)");
        server.exec(&format!(
            "CREATE TRIGGER meddler BEFORE UPDATE ON segments FOR EACH ROW BEGIN {trigger}; END"
        ));
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
                    reservation.is_finished()
                        || server.conn().query_first(sql).expect("processlist") == Some(1)
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
}

mod mysql_tls {
    use super::*;

    /// A certificate authority, and a certificate of its own for the name `localhost` and no other.
    struct Certificates(TempDir);

    impl Certificates {
        fn new() -> Certificates {
            let dir = TempDir::new().expect("a temporary directory");
            // The server runs under another account.
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
            fs::write(dir.path().join("san"), "subjectAltName=DNS:localhost").expect("write");
            for args in [
                "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem",
                "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out csr.pem",
                "x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out cert.pem",
            ] {
                let output = Command::new("openssl").args(args.split(' ')).current_dir(dir.path()).output();
                let output =
                    output.unwrap_or_else(|e| panic!("cannot run openssl ({e}): apt-get install openssl"));
                assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
            }
            fs::set_permissions(dir.path().join("key.pem"), fs::Permissions::from_mode(0o644))
                .expect("chmod");
            Certificates(dir)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }
    }

    fn encryption(dsn: &str) -> Result<String, StoreError> {
        let report = connect(dsn).check()?;
        let facts = report.facts();
        let fact = facts.iter().find_map(|fact| fact.strip_prefix("connection: "));
        Ok(fact.unwrap_or_else(|| panic!("{report:?}")).to_owned())
    }

    #[test]
    fn each_tls_mode_keeps_its_promise() {
        let certificates = Certificates::new();
        let option = |name: &str, file: &str| format!("--{name}={}", certificates.path(file).display());
        let args = [option("ssl-ca", "ca.pem"), option("ssl-cert", "cert.pem"), option("ssl-key", "key.pem")];
        let server = MariaDb::start_with(&[&args[0], &args[1], &args[2]]);
        server.exec(&format!("CREATE USER root@localhost2 IDENTIFIED BY '{PASSWORD}'"));

        let by_address = server.dsn();
        let by_name = by_address.replace("127.0.0.1", "localhost");
        let ca = format!("tls=true&tls-ca={}", certificates.path("ca.pem").display());
        let encrypted =
            |dsn: String| encryption(&dsn).unwrap_or_else(|e| panic!("{dsn}: {e}")).starts_with("TLSv1");
        let refused = |dsn: String, why: &str| {
            let result = encryption(&dsn);
            assert!(
                matches!(&result, Err(StoreError::Unavailable(text)) if text.contains(why)),
                "{dsn}: {result:?}"
            );
        };

        assert!(encrypted(format!("{by_name}?{ca}")));
        refused(format!("{by_address}?{ca}"), "not valid for name");
        refused(format!("{by_name}?tls=true"), "UnknownIssuer");
        refused(format!("{by_name}?tls=true&tls-ca=/nonexistent/ca.pem"), "/nonexistent/ca.pem");
        refused(format!("{by_name}?tls=true&tls-ca=/tmp"), "tls-ca /tmp: Is a directory");
        assert!(encrypted(format!("{by_address}?tls=skip-verify")));
        assert!(encrypted(format!("{by_address}?tls=preferred")));
        assert!(!encrypted(format!("{by_address}?tls=false")));
    }

    #[test]
    fn a_server_without_tls_is_used_only_where_that_is_allowed() {
        let server = MariaDb::start_with(&["--skip-ssl"]);
        assert_eq!(encryption(&format!("{}?tls=preferred", server.dsn())).as_deref(), Ok("not encrypted"));
        for tls in ["true", "skip-verify"] {
            let result = encryption(&format!("{}?tls={tls}", server.dsn()));
            assert!(matches!(result, Err(StoreError::Unavailable(_))), "{tls}: {result:?}");
        }
    }
}

mod sqlite_files {
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
}

/// Rows that cannot be read are told apart from rows that are not there, in either store.
mod unreadable_rows {
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
            (
                "MODIFY max_id DECIMAL(30,0) NOT NULL",
                "MODIFY max_id BIGINT NOT NULL",
                (t, "max_id is DECIMAL"),
            ),
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
}
