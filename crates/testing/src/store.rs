//! A store of either kind for a server to work on, and a way to its table beside the server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use idalloc_core::store::{Floor, SegmentStore, StoreError};
use idalloc_core::watermark::Watermarks;
use idalloc_core::{Allocator, AllocatorConfig, StoreFactory};
use idalloc_store::dsn::Dsn;
use idalloc_store::table::TableSpec;
use tempfile::TempDir;

use super::mariadb::MariaDb;
use super::server::PATIENCE;

/// A fresh store, which has the row `test_business` once a server has started on it.
pub struct Store {
    pub dsn: String,
    /// `None`: the embedded one.
    pub database: Option<MariaDb>,
    /// Where the embedded one has its file, `ids.db`.
    pub dir: TempDir,
}

/// An allocator of its own on an SQLite file.
pub fn embedded_allocator(file: &Path, trim: fn()) -> Allocator {
    let table = TableSpec::default();
    let dsn = Dsn::Sqlite(file.into());
    idalloc_store::backend(&dsn, &table).session().create_table().unwrap();
    let open: StoreFactory = Arc::new(move || idalloc_store::backend(&dsn, &table).session());
    let config = AllocatorConfig {
        refill_threads: 1,
        preload_tags: 1,
        tag_reload: Duration::from_secs(10),
        failover_steps: None,
        trim,
        ..AllocatorConfig::default()
    };
    Allocator::start(config, Watermarks::default(), &open).unwrap()
}

/// Has the tag `test_business` of the embedded store in `directory` starve while what is returned lives. `ask` sends a GET, and
/// says which status that got.
pub fn starve(directory: &Path, mut ask: impl FnMut(&str) -> u16) -> rusqlite::Connection {
    let file = rusqlite::Connection::open(directory.join("ids.db")).unwrap();
    file.busy_timeout(PATIENCE).unwrap();
    file.execute("UPDATE segments SET step = 1 WHERE app_tag = 'test_business'", []).unwrap();
    file.execute_batch("BEGIN IMMEDIATE").unwrap();
    for target in ["/alloc?app_tag=test_business&count=10000", "/alloc?app_tag=test_business"] {
        while ask(target) == 200 {}
    }
    file
}

/// Reservations by somebody who was granted nothing so far.
pub trait Reserve: SegmentStore {
    fn reserve(&mut self, tag: &str, amount: i64) -> Result<i64, StoreError> {
        self.reserve_above(tag, amount, Floor::Refuse(0))
    }
}

impl<S: SegmentStore + ?Sized> Reserve for S {}

impl Store {
    pub fn embedded() -> Store {
        let dir = tempfile::tempdir().unwrap();
        Store { dsn: format!("sqlite:{}", dir.path().join("ids.db").display()), database: None, dir }
    }

    pub fn mariadb() -> Store {
        let database = MariaDb::start();
        Store { dsn: database.dsn(), database: Some(database), dir: tempfile::tempdir().unwrap() }
    }

    /// A store that gives up soon when its database does not answer.
    pub fn impatient_mariadb() -> Store {
        let store = Store::mariadb();
        Store { dsn: format!("{}?timeout=1s", store.dsn), ..store }
    }

    /// Runs one statement.
    pub fn exec(&self, sql: &str) {
        match &self.database {
            Some(database) => database.exec(sql),
            None => drop(self.file().execute(sql, []).unwrap()),
        }
    }

    /// `max_id` of a tag.
    pub fn max_id(&self, tag: &str) -> i64 {
        let select = "SELECT max_id FROM segments WHERE app_tag = ?1";
        match &self.database {
            Some(database) => database.max_id(tag),
            None => self.file().query_row(select, [tag], |row| row.get(0)).unwrap(),
        }
    }

    /// Adds a row, or changes its step.
    pub fn set_row(&self, tag: &str, step: i64) {
        let or_change = match &self.database {
            Some(_) => "ON DUPLICATE KEY UPDATE",
            None => "ON CONFLICT (app_tag) DO UPDATE SET",
        };
        self.exec(&format!(
            "INSERT INTO segments (app_tag, max_id, step) VALUES ('{tag}', 0, {step}) {or_change} step = {step}"
        ));
    }

    /// Deletes a row.
    pub fn delete_row(&self, tag: &str) {
        self.exec(&format!("DELETE FROM segments WHERE app_tag = '{tag}'"));
    }

    /// The embedded one's file.
    fn file(&self) -> rusqlite::Connection {
        let file = rusqlite::Connection::open(self.dir.path().join("ids.db")).unwrap();
        file.busy_timeout(PATIENCE).unwrap();
        file
    }
}
