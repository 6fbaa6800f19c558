//! The operator's end: rows one by one, and the table itself.

use mysql::{MySqlError, OptsBuilder, Row, Value};

use super::conn::Conn;
use super::{
    Failure, Host, MySqlStore, Session, Slot, Table, account, acknowledged_rows, insist_on_writes, read,
    rows, schema,
};
use crate::no_description_column;
use idalloc_core::store::report::Finding;
use idalloc_core::store::{Created, InvalidField, Rows, StoreError, TagDetails, TagStore};

impl MySqlStore {
    /// Runs `ask` on a table of which no two rows can have the same tag.
    fn change<T>(
        &mut self,
        ask: impl FnOnce(&mut Conn, &Table) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.call(|Session { conn, .. }, table| {
            table.insist_on_columns(conn)?;
            ask(conn, table)
        })
    }

    /// The same hosts, where a session begins in no database.
    fn without_database(&self) -> MySqlStore {
        MySqlStore {
            hosts: self.hosts.iter().map(Host::without_database).collect(),
            // The table is yet to be made.
            vets_hosts: false,
            slot: Slot::new(),
            ..self.sibling()
        }
    }
}

impl Host {
    fn without_database(&self) -> Host {
        let opts = OptsBuilder::from_opts(self.opts.clone()).db_name(None::<String>);
        Host {
            name: self.name.clone(),
            opts: opts.into(),
            by_name: self.by_name.clone(),
            tls: self.tls,
            tls_ca: self.tls_ca.clone(),
            server_key: self.server_key.clone(),
            late: self.late.clone(),
            ..*self
        }
    }
}

impl TagStore for MySqlStore {
    fn refresh(&mut self) {
        self.return_to_first_host();
        if let Some(mut session) = self.slot.take()
            && insist_on_writes(&mut session.conn, &session.place).is_ok()
        {
            self.slot.keep(session);
        }
    }

    fn check_account(&mut self) -> Result<Vec<Finding>, StoreError> {
        let hosts = self.hosts.clone();
        self.call(|Session { conn, host, .. }, table| {
            let name = match (&table.spec.database, hosts[*host].opts.get_db_name()) {
                (None, Some(database)) => format!("`{}`.{}", database.replace('`', "``"), table.name),
                _ => table.name.clone(),
            };
            account::check(conn, &name)
        })
    }

    fn find(&mut self, tag: &str) -> Result<Option<TagDetails>, StoreError> {
        match self.call(|Session { conn, .. }, table| table.find(conn, tag)) {
            // It cannot even be compared with the column.
            Err(StoreError::UnknownTag) => Ok(None),
            result => result,
        }
    }

    fn list_details(&mut self, limit: usize) -> Result<Rows<TagDetails>, StoreError> {
        self.call(|session, table| {
            let order = session.order(table)?;
            let sql = format!("{} {order} LIMIT ?", table.select_details(&mut session.conn)?);
            let mut tags = Rows::new();
            session.conn.exec_each(&sql, (limit as u64,).into(), |row| {
                tags.push(read::listed(row, |row| read::tag_details(&row)));
                Ok(())
            })?;
            Ok(tags)
        })
    }

    fn insert(&mut self, tag: &TagDetails) -> Result<(), StoreError> {
        self.change(|conn, table| {
            let mut columns = format!("{}, max_id, step", table.tag);
            let mut params: Vec<Value> = vec![tag.name.as_str().into(), tag.max_id.into(), tag.step.into()];
            let mut tried = vec![tried_name(&tag.name), tried_step(tag.step)];
            if let Some(description) = &tag.description {
                table.insist_on_description(conn, description)?;
                columns += ", description";
                params.push(description.into());
                tried.push(tried_description(description));
            }
            let marks = vec!["?"; params.len()].join(", ");
            let sql = format!("INSERT INTO {} ({columns}) VALUES ({marks})", table.name);
            match conn.exec_drop(sql, params) {
                Err(mysql::Error::MySqlError(error)) if error.code == 1062 => {
                    return Err(table.why_duplicate(conn, &tag.name, error));
                }
                result => result.map_err(|error| table.why_refused(conn, error, &tried))?,
            }
            match acknowledged_rows(conn)? {
                1 => Ok(()),
                rows => Err(StoreError::Unexpected(format!("{rows} rows were inserted")).into()),
            }
        })
    }

    fn raise(&mut self, tag: &str, to: i64) -> Result<bool, StoreError> {
        self.call(|Session { conn, statements, place, .. }, _| {
            conn.exec_drop(&statements.raise, (to, tag, to))?;
            match acknowledged_rows(conn)? {
                0 => insist_on_writes(conn, place).map(|()| false),
                _ => Ok(true),
            }
        })
    }

    fn set_step(&mut self, tag: &str, step: i64) -> Result<(), StoreError> {
        self.change(|conn, table| table.set(conn, tag, "step", step.into(), tried_step(step)))
    }

    fn set_description(&mut self, tag: &str, description: &str) -> Result<(), StoreError> {
        self.change(|conn, table| {
            table.insist_on_description(conn, description)?;
            table.set(conn, tag, "description", description.into(), tried_description(description))
        })
    }

    fn delete(&mut self, tag: &str) -> Result<(), StoreError> {
        self.change(|conn, table| {
            let sql = format!("DELETE FROM {} WHERE {}", table.name, table.is_exactly);
            conn.exec_drop(sql, (tag, tag))?;
            match acknowledged_rows(conn)? {
                0 => Err(StoreError::UnknownTag.into()),
                _ => Ok(()),
            }
        })
    }

    fn create_table(&mut self) -> Result<Created, StoreError> {
        let opts = self.hosts.first().map(|host| &host.opts);
        let database = opts.and_then(|opts| opts.get_db_name()).unwrap_or_default().to_owned();
        self.without_database().call(|Session { conn, .. }, table| table.create(conn, &database))
    }
}

impl Table {
    /// The statement that reads every row, without an end.
    fn select_details(&self, conn: &mut Conn) -> Result<String, Failure> {
        let has_description = self.has_column(conn, "description")?;
        let description = if has_description { "COALESCE(description, '')" } else { "NULL" };
        Ok(format!("SELECT {}, max_id, step, {description} FROM {}", self.tag, self.name))
    }

    fn find(&self, conn: &mut Conn, tag: &str) -> Result<Option<TagDetails>, Failure> {
        let sql = format!("{} WHERE {}", self.select_details(conn)?, self.is_exactly);
        let found: Vec<Row> = rows(conn, sql, (tag, tag))?;
        let row = found.first().map(read::tag_details).transpose();
        Ok(row.map_err(StoreError::Unreadable)?)
    }

    /// Sets a column other than `max_id`.
    fn set(
        &self,
        conn: &mut Conn,
        tag: &str,
        column: &str,
        value: Value,
        tried: InvalidField,
    ) -> Result<(), Failure> {
        let sql = format!("UPDATE {} SET {column} = ? WHERE {}", self.name, self.is_exactly);
        let done = conn.exec_drop(sql, (value, tag, tag));
        done.map_err(|error| self.why_refused(conn, error, &[tried]))?;
        // A row that has the value already counts as not changed.
        if acknowledged_rows(conn)? == 0 && self.find(conn, tag)?.is_none() {
            return Err(StoreError::UnknownTag.into());
        }
        Ok(())
    }

    /// Tells which of the tried values a statement was refused for, where that is why.
    fn why_refused(&self, conn: &mut Conn, error: mysql::Error, tried: &[InvalidField]) -> Failure {
        let mysql::Error::MySqlError(MySqlError { code, message, .. }) = &error else { return error.into() };
        // Out of range; truncated; not of the column's character set; too long.
        if !matches!(code, 1264 | 1265 | 1366 | 1406) {
            return error.into();
        }
        // Whatever language the message is in, it names the column, between quotes, and that after the value.
        let named_at = |field: &InvalidField| {
            let column = self.column_of(field);
            ["'", "`"].iter().filter_map(|quote| message.rfind(&format!("{quote}{column}{quote}"))).max()
        };
        let Some(field) = tried.iter().filter(|field| named_at(field).is_some()).max_by_key(|f| named_at(f))
        else {
            return error.into();
        };
        let column_type = match self.column_type(conn, self.column_of(field)) {
            Ok(column_type) => column_type,
            Err(failure) => return failure,
        };
        let reason = format!("its column, {column_type}, does not hold it");
        StoreError::Invalid(InvalidField { reason, ..field.clone() }).into()
    }

    /// Tells whose tag an `INSERT` was refused for, where that is why.
    fn why_duplicate(&self, conn: &mut Conn, name: &str, error: MySqlError) -> Failure {
        let sql = format!("SELECT {0} FROM {1} WHERE {0} = ?", self.tag, self.name);
        match rows::<(String,)>(conn, sql, (name,)) {
            Ok(found) => found.into_iter().next().map_or_else(
                || Failure::Told(mysql::Error::MySqlError(error)),
                |(existing,)| StoreError::TagExists(existing).into(),
            ),
            Err(error) => error.into(),
        }
    }

    fn column_of<'a>(&'a self, field: &InvalidField) -> &'a str {
        if field.field == "app_tag" { self.spec.tag_column.as_str() } else { field.field }
    }

    /// What a column holds, such as `varchar(32) utf8mb4`.
    fn column_type(&self, conn: &mut Conn, column: &str) -> Result<String, Failure> {
        let (here, names) = self.in_schema();
        let sql = format!(
            "SELECT CONCAT_WS(' ', column_type, character_set_name) FROM information_schema.columns \
             WHERE {here} AND column_name = ?"
        );
        let found: Vec<(String,)> = rows(conn, sql, (names.0, names.1, column))?;
        Ok(found.into_iter().next().map(|(column_type,)| column_type).unwrap_or_default())
    }

    fn insist_on_description(&self, conn: &mut Conn, description: &str) -> Result<(), Failure> {
        if self.has_column(conn, "description")? {
            return Ok(());
        }
        let reason = no_description_column(&self.name, "VARCHAR(256)");
        Err(StoreError::Invalid(InvalidField::text("description", description, reason)).into())
    }

    fn create(&self, conn: &mut Conn, dsn_database: &str) -> Result<Created, Failure> {
        let database = schema::database(&self.spec, dsn_database);
        let enter = format!("USE {database}");
        let made_database = match conn.query_drop(&enter) {
            Err(mysql::Error::MySqlError(error)) if error.code == 1049 => {
                let made = create_unless_there(conn, &schema::create_database(&database))?;
                conn.query_drop(&enter)?;
                made
            }
            entered => entered.map(|()| false)?,
        };
        // Who may not read a table is not told whether it is there.
        let made_table = match conn.query_drop(format!("SELECT 1 FROM {} LIMIT 0", self.name)) {
            Err(mysql::Error::MySqlError(error)) if matches!(error.code, 1142 | 1146) => {
                create_unless_there(conn, &schema::create_table(&self.name, &self.tag))?
            }
            read => read.map(|()| false)?,
        };
        Ok(Created { database: made_database, table: made_table })
    }
}

/// Runs a `CREATE .. IF NOT EXISTS`; says whether anything was made.
fn create_unless_there(conn: &mut Conn, statement: &str) -> Result<bool, Failure> {
    conn.query_drop(statement)?;
    if conn.warnings() == 0 {
        return Ok(true);
    }
    let warnings: Vec<(String, u32, String)> = rows(conn, "SHOW WARNINGS", ())?;
    // The database, or the table, is there.
    if warnings.iter().any(|(_, code, _)| matches!(code, 1007 | 1050)) {
        return Ok(false);
    }
    let texts: Vec<&str> = warnings.iter().map(|(_, _, text)| text.as_str()).collect();
    Err(StoreError::Unexpected(format!("it was made, but with a warning: {}", texts.join("; "))).into())
}

fn tried_name(name: &str) -> InvalidField {
    InvalidField::text("app_tag", name, String::new())
}

fn tried_step(step: i64) -> InvalidField {
    InvalidField::number("step", step, String::new())
}

fn tried_description(description: &str) -> InvalidField {
    InvalidField::text("description", description, String::new())
}
