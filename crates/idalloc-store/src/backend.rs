//! What a kind of store is to the rest of the program. Here, and only here, a DSN is told apart.

use std::path::Path;
use std::sync::Arc;

use idalloc_core::store::TagStore;

use crate::dsn::Dsn;
use crate::table::TableSpec;

/// A table in a store.
pub trait Backend: Send + Sync {
    /// The kind of store, in one word, for machines.
    fn kind(&self) -> &'static str;

    /// A session with the table, which connects at its first call. All sessions of a backend stay together: on one host where
    /// the DSN names several, taking turns where the account may have only a few connections; on the one file that the first
    /// has opened.
    fn session(&self) -> Box<dyn TagStore>;

    /// The SQL that [`TagStore::create_table`] runs where nothing is there.
    fn schema(&self) -> String;

    /// The name of the table: the same however it is spelled, for what is kept of it elsewhere, but for upper and lower case,
    /// of which only the server knows ([`SegmentStore::ignores_case`](idalloc_core::store::SegmentStore::ignores_case)).
    /// (Another address of the same server is no other spelling: rows may move to another machine.)
    fn canonical_name(&self) -> String;

    /// What the table is in, for people: a database or a file, with its name.
    fn place(&self) -> String;

    /// The file that the table is in, if it is in one.
    fn file(&self) -> Option<&Path> {
        None
    }

    /// The tag that a new table has at once, if it has one.
    fn first_tag(&self) -> Option<&'static str> {
        None
    }
}

/// The store that `dsn` names, with `table` in it.
#[must_use]
pub fn backend(dsn: &Dsn, table: &TableSpec) -> Arc<dyn Backend> {
    match dsn {
        #[cfg(feature = "mysql")]
        Dsn::MySql(dsn) => Arc::new(crate::mysql::MySqlBackend::new(dsn, table)),
        #[cfg(feature = "sqlite")]
        Dsn::Sqlite(dsn) => Arc::new(crate::sqlite::SqliteBackend::new(dsn, table)),
    }
}

#[cfg(all(test, feature = "mysql", feature = "sqlite"))]
mod tests {
    use std::fs;

    use super::*;
    use crate::table::Identifier;

    fn name(dsn: &str, database: Option<&str>, table: &str) -> String {
        let identifier = |text| Identifier::new(text).expect("an identifier");
        let spec = TableSpec {
            database: database.map(identifier),
            name: identifier(table),
            tag_column: identifier("app_tag"),
        };
        backend(&dsn.parse().expect("a DSN"), &spec).canonical_name()
    }

    #[test]
    fn a_table_has_one_name_whether_its_database_is_named_or_not() {
        let plain = name("u:p@tcp(h)/ids", None, "t");
        assert_eq!(plain, "ids/`t`");
        assert_eq!(name("u:p@tcp(h)/ids", Some("ids"), "t"), plain);
        assert_eq!(name("other@unix(/s)/elsewhere", Some("ids"), "t"), plain);
        for other in [name("u@tcp(h)/ids", Some("ids2"), "t"), name("u@tcp(h)/ids", None, "T")] {
            assert_ne!(other, plain);
        }
    }

    #[test]
    fn a_file_has_one_name_whatever_the_path_and_whether_it_is_there_or_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let real = dir.path().canonicalize().expect("its path").join("real");
        fs::create_dir(&real).expect("mkdir");
        std::os::unix::fs::symlink(&real, dir.path().join("link")).expect("symlink");
        let file = |path: &str| name(&format!("sqlite:{}/{path}", dir.path().display()), None, "t");
        let expected = format!("{}/ids.db/`t`", real.display());
        for is_there in [false, true] {
            for path in ["real/ids.db", "real/../link/./ids.db"] {
                assert_eq!(file(path), expected, "{path}, {is_there}");
            }
            fs::write(real.join("ids.db"), "").expect("write");
        }
        std::os::unix::fs::symlink(real.join("ids.db"), dir.path().join("alias.db")).expect("symlink");
        assert_eq!(file("alias.db"), expected);
        let absolute = format!("sqlite:{}/none.db", env!("CARGO_MANIFEST_DIR"));
        assert_eq!(name("sqlite:none.db", Some("ids"), "T"), name(&absolute, None, "t"));
    }
}
