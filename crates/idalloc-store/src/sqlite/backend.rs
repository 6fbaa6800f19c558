//! An SQLite file as a backend.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use idalloc_core::store::TagStore;

use super::file::DatabaseFile;
use super::{SqliteStore, Table};
use crate::Backend;
use crate::dsn::SqliteDsn;
use crate::table::TableSpec;

/// The tag of a new table.
pub(super) const FIRST_TAG: &str = "test_business";

/// A table in a file. The table's database is of no meaning here.
pub struct SqliteBackend {
    path: PathBuf,
    table: TableSpec,
    file: Arc<DatabaseFile>,
}

impl SqliteBackend {
    /// Prepares sessions with `table`. The first call of one opens the file, which must be there, with the table in it. All
    /// sessions use that file, whatever is at its path later.
    #[must_use]
    pub fn new(dsn: &SqliteDsn, table: &TableSpec) -> SqliteBackend {
        SqliteBackend { path: dsn.path.clone(), table: table.clone(), file: Arc::new(DatabaseFile::new(dsn)) }
    }
}

impl Backend for SqliteBackend {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn session(&self) -> Box<dyn TagStore> {
        Box::new(SqliteStore::new(self.file.clone(), &self.table))
    }

    fn schema(&self) -> String {
        Table::new(&self.table).create_statement() + "\n"
    }

    fn canonical_name(&self) -> String {
        // SQLite's names are the same in either case.
        let table = self.table.name.quoted().to_ascii_lowercase();
        format!("{}/{table}", canonical_path(&self.path).display())
    }

    fn place(&self) -> String {
        format!("file {}", self.path.display())
    }

    fn file(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn first_tag(&self) -> Option<&'static str> {
        Some(FIRST_TAG)
    }
}

/// The file's one path, which it need not have yet.
fn canonical_path(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    fs::canonicalize(&absolute).unwrap_or_else(|_| {
        match (absolute.parent().map(fs::canonicalize), absolute.file_name()) {
            (Some(Ok(directory)), Some(name)) => directory.join(name),
            _ => absolute.clone(),
        }
    })
}
