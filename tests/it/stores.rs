//! Both stores through the public API, on a real MariaDB and real SQLite files.

mod contract;
mod mysql_access;
mod mysql_faults;
mod mysql_tables;
mod mysql_tls;
mod sqlite_files;
mod unreadable_rows;

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
