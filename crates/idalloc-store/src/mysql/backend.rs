//! MySQL and MariaDB as a backend.

use idalloc_core::store::TagStore;

use super::{MySqlStore, schema};
use crate::Backend;
use crate::dsn::MySqlDsn;
use crate::table::{Identifier, TableSpec};

/// A table on the servers that a DSN names.
pub struct MySqlBackend {
    dsn: MySqlDsn,
    table: TableSpec,
    /// Never used itself: the others are its siblings.
    first: MySqlStore,
}

impl MySqlBackend {
    /// Prepares sessions with `table`.
    #[must_use]
    pub fn new(dsn: &MySqlDsn, table: &TableSpec) -> MySqlBackend {
        MySqlBackend { first: MySqlStore::new(dsn, table), dsn: dsn.clone(), table: table.clone() }
    }

    fn database(&self) -> &str {
        self.table.database.as_ref().map_or(&self.dsn.database, Identifier::as_str)
    }
}

impl Backend for MySqlBackend {
    fn kind(&self) -> &'static str {
        "mysql"
    }

    fn session(&self) -> Box<dyn TagStore> {
        Box::new(self.first.sibling())
    }

    fn schema(&self) -> String {
        schema::schema(&self.dsn, &self.table)
    }

    fn canonical_name(&self) -> String {
        format!("{}/{}", self.database(), self.table.name.quoted())
    }

    fn place(&self) -> String {
        format!("database {}", self.database())
    }
}
