//! The operator's end: rows one by one, and the table itself.

use rusqlite::{Connection, OptionalExtension, Row, ToSql, ffi};

use super::{Failure, Session, SqliteStore, Table, listed, tag_row};
use idalloc_core::store::{Created, InvalidField, Rows, StoreError, TagDetails, TagRow, TagStore};

use crate::{NEEDS_DEFAULT, no_description_column};

impl SqliteStore {
    /// Runs `ask` on a table of which no two rows can have the same tag.
    fn change<T>(
        &mut self,
        ask: impl FnOnce(&Connection, &Table) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let place = self.file.path().display().to_string();
        self.call(|Session { db, .. }, table| {
            table.insist_on_columns(db, &place)?;
            ask(db, table)
        })
    }
}

impl TagStore for SqliteStore {
    fn find(&mut self, tag: &str) -> Result<Option<TagDetails>, StoreError> {
        self.call(|Session { db, .. }, table| table.find(db, tag))
    }

    fn list_details(&mut self, limit: usize) -> Result<Rows<TagDetails>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.call(|session, table| {
            let sql = format!("{} {} LIMIT ?1", table.select_details(&session.db)?, session.order());
            let mut statement = session.db.prepare(&sql)?;
            let mut found = statement.query([limit])?;
            let mut rows = Rows::new();
            while let Some(row) = found.next()? {
                rows.push(listed(row, tag_details)?);
            }
            Ok(rows)
        })
    }

    fn insert(&mut self, tag: &TagDetails) -> Result<(), StoreError> {
        self.change(|db, table| {
            let (mut columns, mut marks) = (format!("{}, max_id, step", table.tag), "?1, ?2, ?3".to_owned());
            let mut params: Vec<&dyn ToSql> = vec![&tag.name, &tag.max_id, &tag.step];
            if let Some(description) = &tag.description {
                table.insist_on_description(db, description)?;
                columns += ", description";
                marks += ", ?4";
                params.push(description);
            }
            let sql = format!("INSERT INTO {} ({columns}) VALUES ({marks})", table.name);
            match db.execute(&sql, &params[..]) {
                Ok(_) => Ok(()),
                Err(error) => Err(table.why_not_inserted(db, &tag.name, error)),
            }
        })
    }

    fn raise(&mut self, tag: &str, to: i64) -> Result<bool, StoreError> {
        self.call(|Session { db, .. }, table| {
            let sql =
                format!("UPDATE {} SET max_id = ?1 WHERE {} = ?2 AND max_id < ?1", table.name, table.tag);
            Ok(db.prepare_cached(&sql)?.execute((to, tag))? == 1)
        })
    }

    fn set_step(&mut self, tag: &str, step: i64) -> Result<(), StoreError> {
        self.change(|db, table| table.set(db, tag, "step", &step))
    }

    fn set_description(&mut self, tag: &str, description: &str) -> Result<(), StoreError> {
        self.change(|db, table| {
            table.insist_on_description(db, description)?;
            table.set(db, tag, "description", &description)
        })
    }

    fn delete(&mut self, tag: &str) -> Result<(), StoreError> {
        self.change(|db, table| {
            let sql = format!("DELETE FROM {} WHERE {} = ?1 COLLATE BINARY", table.name, table.tag);
            known(db.execute(&sql, [tag])?)
        })
    }

    fn create_missing_file(&mut self) -> Result<bool, StoreError> {
        if !self.file.is_missing() {
            return Ok(false);
        }
        self.file.insist_on_no_leftovers()?;
        self.file.create(|path| self.table.create_file(path).map_err(|error| self.judge(error.into())))
    }

    fn create_table(&mut self) -> Result<Created, StoreError> {
        self.session = None;
        if self.create_missing_file()? {
            return Ok(Created { database: true, table: true });
        }
        let mut db = self.connect()?;
        let table = self.table.create_if_missing(&mut db).map_err(|error| self.judge(error.into()))?;
        Ok(Created { database: false, table })
    }
}

impl Table {
    /// The statement that reads every row, without an end.
    fn select_details(&self, db: &Connection) -> rusqlite::Result<String> {
        let has_description = self.has_description(db)?;
        let description = if has_description { "COALESCE(description, '')" } else { "NULL" };
        Ok(format!("SELECT {}, max_id, step, {description} FROM {}", self.tag, self.name))
    }

    fn find(&self, db: &Connection, tag: &str) -> Result<Option<TagDetails>, Failure> {
        let sql = format!("{} WHERE {} = ?1 COLLATE BINARY", self.select_details(db)?, self.tag);
        let row = db.query_row(&sql, [tag], tag_details).optional()?.transpose();
        Ok(row.map_err(StoreError::Unreadable)?)
    }

    /// Sets a column other than `max_id`.
    fn set(&self, db: &Connection, tag: &str, column: &str, value: &dyn ToSql) -> Result<(), Failure> {
        let sql = format!("UPDATE {} SET {column} = ?1 WHERE {} = ?2 COLLATE BINARY", self.name, self.tag);
        known(db.execute(&sql, [value, &tag])?)
    }

    fn why_not_inserted(&self, db: &Connection, name: &str, error: rusqlite::Error) -> Failure {
        match error.sqlite_error().map(|error| error.extended_code) {
            Some(ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY) => {
                // Compared as the column's collation does.
                let sql = format!("SELECT {0} FROM {1} WHERE {0} = ?1", self.tag, self.name);
                match db.query_row(&sql, [name], |row| row.get(0)).optional() {
                    Ok(Some(existing)) => StoreError::TagExists(existing).into(),
                    Ok(None) => error.into(),
                    Err(error) => error.into(),
                }
            }
            Some(ffi::SQLITE_CONSTRAINT_NOTNULL) => {
                StoreError::Schema(format!("{error}; {NEEDS_DEFAULT}")).into()
            }
            _ => error.into(),
        }
    }

    fn has_description(&self, db: &Connection) -> rusqlite::Result<bool> {
        Ok(self.columns(db)?.iter().any(|(column, _)| column.eq_ignore_ascii_case("description")))
    }

    fn insist_on_description(&self, db: &Connection, description: &str) -> Result<(), Failure> {
        if self.has_description(db)? {
            return Ok(());
        }
        let reason = no_description_column(&self.name, "TEXT");
        Err(StoreError::Invalid(InvalidField::text("description", description, reason)).into())
    }
}

/// Whether a change by tag found its row.
fn known(rows: usize) -> Result<(), Failure> {
    if rows == 0 { Err(StoreError::UnknownTag.into()) } else { Ok(()) }
}

fn tag_details(row: &Row) -> rusqlite::Result<Result<TagDetails, String>> {
    let served = tag_row(row)?;
    let description = row.get_ref(3)?.as_str().ok().map(str::to_owned);
    Ok(served.map(|TagRow { name, max_id, step }| TagDetails { name, step, max_id, description }))
}
