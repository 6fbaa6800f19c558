//! What a store must do whatever it is made of: each of these runs on MariaDB and on SQLite.

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
            Fixture::MySql { .. } => MariaDb::shared().conn().exec_drop(sql, (tag, max_id, step)).expect(tag),
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
    assert_eq!(store.reserve_above("a", 11, Floor::Raise(last)), Err(StoreError::Overflow { max_id: last }));
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
    let insert = format!("INSERT INTO {} (app_tag, max_id, step) VALUES {}", fixture.table(), rows.join(","));
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
        let sessions: Vec<_> = (1..=SESSIONS as i64).map(|step| scope.spawn(move || session(step))).collect();
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
    let complaints =
        [invalid(store.set_description("a", "why")), invalid(store.insert(&details("b", 1, 1, Some("why"))))];
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
    let rows = [details("a", 0, 7, Some("")), details("b", 1, 1, Some("why")), details("c", 1, 1, Some(""))];
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
    fixture.exec(&format!("CREATE TABLE {} (app_tag VARCHAR(32), max_id BIGINT, step INT)", fixture.table()));
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
