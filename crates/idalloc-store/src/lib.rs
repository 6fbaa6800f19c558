//! Where idalloc's IDs come from: one row per tag, in MySQL/MariaDB or in an embedded SQLite file; and the watermark file,
//! which knows what was granted before.
//!
//! [`factory`] opens sessions with the store that a [`dsn::Dsn`] names; [`watermark::open`] opens the file.

pub mod change;
pub mod dsn;
pub mod mysql;
pub mod sqlite;
pub mod table;
pub mod watermark;

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use idalloc_core::store::{Factory, Floor, StoreError, TagStore};

use crate::dsn::Dsn;
use crate::table::{Identifier, TableSpec};

/// Opens sessions with `table` in the store that `dsn` names, which connect at their first calls. Where the DSN names
/// several hosts, all of them stay together on one, and take turns where the account may have but few connections; where
/// it names a file, they stay on the one that the first has opened.
#[must_use]
pub fn factory(dsn: &Dsn, table: &TableSpec) -> Factory {
    match dsn {
        Dsn::MySql(dsn) => {
            let first = mysql::MySqlStore::new(dsn, table);
            Arc::new(move || Box::new(first.sibling()))
        }
        Dsn::Sqlite(dsn) => {
            let open = sqlite::SqliteStore::factory(dsn, table);
            Arc::new(move || Box::new(open()))
        }
    }
}

/// One session for itself, as of [`factory`].
#[must_use]
pub fn open(dsn: &Dsn, table: &TableSpec) -> Box<dyn TagStore> {
    factory(dsn, table)()
}

/// The SQL that [`TagStore::create_table`] runs where nothing is there.
#[must_use]
pub fn schema(dsn: &Dsn, table: &TableSpec) -> String {
    match dsn {
        Dsn::MySql(dsn) => mysql::schema(dsn, table),
        Dsn::Sqlite(_) => sqlite::schema(table),
    }
}

/// The name of the table that `dsn` and `table` lead to: the same however it is spelled, for what is kept of it elsewhere,
/// but for upper and lower case, of which only the server knows ([`SegmentStore::ignores_case`]).
/// (Another address of the same server is no other spelling: rows may move to another machine.)
#[must_use]
pub fn canonical_name(dsn: &Dsn, table: &TableSpec) -> String {
    match dsn {
        Dsn::MySql(dsn) => {
            let database = table.database.as_ref().map_or(dsn.database.as_str(), Identifier::as_str);
            format!("{database}/{}", table.name.quoted())
        }
        // SQLite's names are the same in either case.
        Dsn::Sqlite(dsn) => {
            format!("{}/{}", canonical_path(&dsn.path).display(), table.name.quoted().to_ascii_lowercase())
        }
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

/// What `max_id` a row may have for `amount` IDs to be reserved of it.
fn allowed_max_ids(amount: i64, floor: Floor) -> Result<RangeInclusive<i64>, StoreError> {
    if amount < 1 {
        return Err(StoreError::Unexpected(format!("asked to reserve {amount} IDs")));
    }
    let end_max = i64::MAX - amount;
    if !matches!(floor, Floor::Refuse(_)) && floor.first_allowed() > end_max {
        return Err(StoreError::Overflow { max_id: floor.first_allowed() });
    }
    Ok(floor.max_id_min()..=end_max.saturating_sub(floor.ahead()))
}

/// Tells why a reservation changed no row, though there is one, with this `max_id` a moment later.
fn why_not_reserved(max_id: i64, allowed: &RangeInclusive<i64>, ahead: i64) -> StoreError {
    if max_id < *allowed.start() {
        StoreError::GoneBack { max_id }
    } else if max_id > *allowed.end() {
        StoreError::Overflow { max_id: max_id.saturating_add(ahead) }
    } else {
        StoreError::Contended("the row changed meanwhile".into())
    }
}

/// What to tell who adds a row to a table with a column that must be given, and is not one of ours.
const NEEDS_DEFAULT: &str = "a column that idalloc does not write needs a default";

/// What to tell who gives a description to a table that has no column for it.
fn no_description_column(table: &str, column_type: &str) -> String {
    format!("{table} has no such column; run: ALTER TABLE {table} ADD COLUMN description {column_type};")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(dsn: &str, database: Option<&str>, table: &str) -> String {
        let identifier = |text| Identifier::new(text).expect("an identifier");
        let spec = TableSpec {
            database: database.map(identifier),
            name: identifier(table),
            tag_column: identifier("app_tag"),
        };
        canonical_name(&dsn.parse().expect("a DSN"), &spec)
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
