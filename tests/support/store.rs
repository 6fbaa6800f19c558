//! A store of either kind for a server to work on, and a way to its table beside the server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use idalloc::alloc::watermark::Watermarks;
use idalloc::alloc::{Allocator, AllocatorConfig, StoreFactory};
use idalloc::config::TableSpec;
use idalloc::dsn::Dsn;
use idalloc::store::{Floor, SegmentStore, StoreError};
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
    idalloc::store::backend(&dsn, &table).session().create_table().unwrap();
    let open: StoreFactory = Arc::new(move || idalloc::store::backend(&dsn, &table).session());
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

    /// The embedded one's file.
    fn file(&self) -> rusqlite::Connection {
        let file = rusqlite::Connection::open(self.dir.path().join("ids.db")).unwrap();
        file.busy_timeout(PATIENCE).unwrap();
        file
    }
}
