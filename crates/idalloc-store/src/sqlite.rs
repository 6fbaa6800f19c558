//! Segments in an SQLite file, for one machine.
//!
//! A reservation is one `UPDATE`, its own transaction, on disk before it returns (WAL with `synchronous = FULL`).
//! Several processes may share the file: SQLite's write lock puts their reservations in order.

mod backend;
mod file;
mod holder;
mod tags;

pub use backend::SqliteBackend;

use std::ffi::c_int;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::types::ValueRef;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, ffi,
};
use rustix::fs::{Access, AtFlags, CWD};

use self::backend::FIRST_TAG;
use self::file::{DatabaseFile, FileId, companions};
use idalloc_core::store::report::{Code, Finding};
use idalloc_core::store::rows::{askable_name, no_text, null_tag};
use idalloc_core::store::{Floor, Rest, Rows, SegmentStore, StoreError, StoreReport, TagRow, UnreadableRow};

use crate::table::TableSpec;
use crate::{allowed_max_ids, why_not_reserved};

/// How long a refill's statement on an open file waits for the lock: many times what a commit mostly takes, and so short
/// that a process that is stopped in the middle of a commit is soon named. The refill is tried again.
const RETRIED_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long everybody else waits: who opens the file, makes the table, or calls once, as an operator's command does. A
/// commit may take more than a second on a disk that is busy. Less than the end of this process may take.
const SINGLE_WAIT_MAX: Duration = Duration::from_secs(5);
/// What a session keeps of the file: a reservation reads the way to one row, which is three or four pages of 4 KiB.
const CACHE_KIB: i64 = 256;

/// How long to leave it to another process that is opening the same new file.
const WAL_RETRY: Duration = Duration::from_millis(5);

/// The most tables that are named where the right one is missing.
const TABLES_NAMED_MAX: u32 = 10;

/// The present time in UTC, to the millisecond, as text that sorts by time.
const NOW: &str = "strftime('%Y-%m-%d %H:%M:%f', 'now')";

/// One session with an SQLite file.
pub struct SqliteStore {
    /// Shared with the other sessions.
    file: Arc<DatabaseFile>,
    table: Table,
    /// How long a statement waits for the lock, once the file is open.
    wait_max: Duration,
    session: Option<Session>,
}

impl SqliteStore {
    /// A session with `table` in the file.
    fn new(file: Arc<DatabaseFile>, table: &TableSpec) -> SqliteStore {
        SqliteStore { file, table: Table::new(table), wait_max: SINGLE_WAIT_MAX, session: None }
    }

    /// Runs `ask` on the open file, which is opened anew after an error that leaves its state in doubt. What `ask` did
    /// counts only if the file was at its path before and after: so nobody else had opened another one there.
    fn call<T>(&mut self, ask: impl FnOnce(&Session, &Table) -> Result<T, Failure>) -> Result<T, StoreError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.open()?,
        };
        self.insist_on_files(&session)?;
        let result = ask(&session, &self.table).map_err(|failure| self.judge(failure));
        let result = result.and_then(|answer| self.insist_on_files(&session).map(|()| answer));
        if result.as_ref().err().is_none_or(StoreError::is_answer) {
            self.session = Some(session);
        }
        result
    }

    fn judge(&self, failure: Failure) -> StoreError {
        match failure {
            Failure::Told(error) => store_error(self.file.path(), &error),
            Failure::Judged(error) => error,
        }
    }

    fn open(&self) -> Result<Session, StoreError> {
        let db = self.connect()?;
        self.set_up(db).map_err(|failure| self.judge(failure))
    }

    /// The file, opened as it is: not even its journal is there yet.
    fn connect(&self) -> Result<Connection, StoreError> {
        self.file.verify()?;
        self.file.insist_on_fitness()?;
        let path = self.file.path();
        let db = open_existing(path).map_err(|error| self.judge(error.into()))?;
        let found = FileId::of(path).map_err(|error| self.file.not_opened(&error))?;
        if has_moved(&db) {
            let text = format!("{}: another file was put there while it was opened", path.display());
            return Err(StoreError::Contended(text));
        }
        self.file.opened(found)?;
        Ok(db)
    }

    fn set_up(&self, db: Connection) -> Result<Session, Failure> {
        let place = self.file.path().display().to_string();
        // First of all: what has no such table is left as it is, a file of no bytes too.
        self.table.insist_on_table(&db, &place)?;
        db.pragma_update(None, "cache_size", -CACHE_KIB)?;
        enter_wal_mode(&db)?;
        let columns = self.table.columns(&db)?;
        let has_update_time = columns.iter().any(|(column, _)| column.eq_ignore_ascii_case("update_time"));
        // Where there is no shared memory, SQLite does without a journal of this kind.
        let identify = |path: PathBuf| FileId::of(&path).ok().map(|id| (path, id));
        let companions = companions(self.file.path()).into_iter().filter_map(identify).collect();
        db.busy_timeout(self.wait_max)?;
        Ok(Session { db, has_update_time, companions })
    }

    /// Looks whether the file, and what is used with it, still is where it was.
    fn insist_on_files(&self, session: &Session) -> Result<(), StoreError> {
        self.file.verify()?;
        session.companions.iter().try_for_each(|(path, known)| self.file.insist_on(path, *known))
    }
}

/// Opens a file that is there. Without the default's URI flag: a path that begins with `file:` is a path.
fn open_existing(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(SINGLE_WAIT_MAX)?;
    db.pragma_update(None, "synchronous", "FULL")?;
    // On macOS only this reaches the disk; elsewhere it changes nothing.
    db.pragma_update(None, "fullfsync", "ON")?;
    Ok(db)
}

/// Whether the path leads to another file than the one that is open, as SQLite itself sees it.
fn has_moved(db: &Connection) -> bool {
    let mut moved: c_int = 0;
    // SAFETY: the handle is open for as long as `db` is borrowed; this file control writes one int to where it is told.
    let code = unsafe {
        let argument = (&raw mut moved).cast();
        ffi::sqlite3_file_control(db.handle(), c"main".as_ptr(), ffi::SQLITE_FCNTL_HAS_MOVED, argument)
    };
    code != ffi::SQLITE_OK || moved != 0
}

impl SegmentStore for SqliteStore {
    fn expect_retries(&mut self) {
        self.wait_max = RETRIED_WAIT_MAX;
        // The wait is set when the file is opened.
        self.session = None;
    }

    fn check(&mut self) -> Result<StoreReport, StoreError> {
        let file = self.file.clone();
        let place = file.path().display().to_string();
        self.call(|Session { db, .. }, table| {
            table.insist_on_columns(db, &place)?;
            let journal: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
            let synchronous: i64 = db.pragma_query_value(None, "synchronous", |row| row.get(0))?;
            let synchronous = if synchronous == 2 { "FULL".into() } else { synchronous.to_string() };
            let columns = format!("{} has the columns {}, max_id and step", table.name, table.tag);
            let mut findings = file.describe();
            findings.extend([
                Finding::ok(Code::Table, columns),
                Finding::ok(Code::Durability, format!("journal_mode is {journal}")),
                Finding::ok(Code::Durability, format!("synchronous is {synchronous}")),
            ]);
            Ok(StoreReport { store: format!("SQLite {} at {place}", rusqlite::version()), findings })
        })
    }

    fn verify(&mut self) -> Result<(), StoreError> {
        self.session.as_ref().map_or_else(|| self.file.verify(), |session| self.insist_on_files(session))
    }

    fn list_tags(&mut self, limit: usize) -> Result<Rows<TagRow>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.call(|session, table| {
            let order = session.order();
            let sql = format!("SELECT {}, max_id, step FROM {} {order} LIMIT ?1", table.tag, table.name);
            let mut statement = session.db.prepare_cached(&sql)?;
            let mut found = statement.query([limit])?;
            let mut rows = Rows::new();
            while let Some(row) = found.next()? {
                rows.push(listed(row, tag_row)?);
            }
            Ok(rows)
        })
    }

    fn look_up(&mut self, tags: &[&str]) -> Result<Rows<TagRow>, StoreError> {
        self.call(|Session { db, .. }, table| {
            let sql = format!("SELECT {0}, max_id, step FROM {1} WHERE {0} = ?1", table.tag, table.name);
            let mut statement = db.prepare_cached(&sql)?;
            let mut rows = Rows::new();
            for tag in tags {
                let mut found = statement.query([tag])?;
                while let Some(row) = found.next()? {
                    rows.push(listed(row, tag_row)?);
                }
            }
            Ok(rows.only(tags))
        })
    }

    fn reserve_above(&mut self, tag: &str, amount: i64, floor: Floor) -> Result<i64, StoreError> {
        let allowed = allowed_max_ids(amount, floor)?;
        self.call(|Session { db, has_update_time, .. }, table| {
            let touch = if *has_update_time { format!(", update_time = {NOW}") } else { String::new() };
            // SQLite turns a sum over 2^63 into a floating-point number: hence the guard.
            let mut statement = db.prepare_cached(&format!(
                "UPDATE {} SET max_id = max(max_id + ?6, ?1) + ?2 {touch} \
                 WHERE {} = ?3 AND typeof(max_id) = 'integer' AND max_id BETWEEN ?4 AND ?5 RETURNING max_id",
                table.name, table.tag
            ))?;
            // Commits only once the last row was asked for, and then may still fail.
            let params = (floor.first_allowed(), amount, tag, allowed.start(), allowed.end(), floor.ahead());
            let rows = statement.query_map(params, |row| row.get(0))?;
            match rows.collect::<Result<Vec<i64>, _>>()?[..] {
                [max_id] => Ok(max_id),
                [] => Err(table.why_not_reserved(db, tag, &allowed, floor.ahead())?.into()),
                ref rows => Err(StoreError::Unexpected(format!("{} rows have this tag", rows.len())).into()),
            }
        })
    }

    fn give_back(&mut self, rests: &[Rest<'_>]) -> Result<Vec<bool>, StoreError> {
        self.call(|Session { db, .. }, table| {
            let sql =
                format!("UPDATE {} SET max_id = ?1 WHERE {} = ?2 AND max_id = ?3", table.name, table.tag);
            // Immediate, so that another process is waited for before the first row, and not in the middle.
            let transaction = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
            let mut given_back = Vec::with_capacity(rests.len());
            {
                let mut statement = transaction.prepare_cached(&sql)?;
                for rest in rests {
                    given_back.push(statement.execute((rest.first_unclaimed, rest.tag, rest.end))? == 1);
                }
            }
            transaction.commit()?;
            Ok(given_back)
        })
    }
}

/// Waits its turn by itself: this is the one statement that does not heed the busy timeout.
fn enter_wal_mode(db: &Connection) -> rusqlite::Result<()> {
    let start = Instant::now();
    loop {
        match db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())) {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && start.elapsed() < SINGLE_WAIT_MAX =>
            {
                thread::sleep(WAL_RETRY);
            }
            result => return result,
        }
    }
}

/// The row that begins with a tag, read by `read`, which says what is wrong with the rest.
fn listed<T>(
    row: &Row,
    read: impl FnOnce(&Row) -> rusqlite::Result<Result<T, String>>,
) -> rusqlite::Result<Result<T, UnreadableRow>> {
    let name = match row.get_ref(0)? {
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(name) => name.to_owned(),
            Err(_) => return Ok(Err(no_text(bytes))),
        },
        ValueRef::Blob(bytes) => return Ok(Err(no_text(bytes))),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Null => return Ok(Err(null_tag())),
    };
    if let Err(row) = askable_name(&name) {
        return Ok(Err(row));
    }
    Ok(read(row)?.map_err(|reason| UnreadableRow { name: Some(name), reason }))
}

/// A row of tag, `max_id` and `step`.
fn tag_row(row: &Row) -> rusqlite::Result<Result<TagRow, String>> {
    let (name, max_id, step) = (row.get_ref(0)?, row.get_ref(1)?, row.get_ref(2)?);
    let name =
        name.as_str().map_err(|_| format!("the tag is of the type {}, and not TEXT", name.data_type()));
    Ok(name.and_then(|name| {
        Ok(TagRow { name: name.to_owned(), max_id: number(max_id, "max_id")?, step: number(step, "step")? })
    }))
}

fn number(value: ValueRef, column: &str) -> Result<i64, String> {
    match value {
        ValueRef::Integer(number) => Ok(number),
        ValueRef::Null => Err(format!("its {column} is NULL")),
        value => Err(format!("its {column} is of the type {}, and not INTEGER", value.data_type())),
    }
}

/// The open file.
struct Session {
    db: Connection,
    has_update_time: bool,
    /// Its journal and its shared memory.
    companions: Vec<(PathBuf, FileId)>,
}

impl Session {
    /// The clause that puts the most recently used tag first, if the table records that.
    fn order(&self) -> &'static str {
        if self.has_update_time { "ORDER BY update_time DESC" } else { "" }
    }
}

/// The table: its names, quoted for SQL.
struct Table {
    spec: TableSpec,
    name: String,
    tag: String,
}

impl Table {
    fn new(spec: &TableSpec) -> Table {
        Table { name: spec.name.quoted(), tag: spec.tag_column.quoted(), spec: spec.clone() }
    }

    fn create_statement(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {} ({} TEXT NOT NULL PRIMARY KEY, max_id INTEGER NOT NULL DEFAULT 0, \
             step INTEGER NOT NULL, update_time TEXT NOT NULL DEFAULT ({NOW})) STRICT;",
            self.name, self.tag
        )
    }

    /// The first row comes with the table and only then: a row that an operator deleted stays deleted. Says whether
    /// the table was made.
    fn create_if_missing(&self, db: &mut Connection) -> rusqlite::Result<bool> {
        // Immediate, so that of two processes that start at once the second sees what the first made.
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let is_missing = self.kind(&transaction)?.is_none();
        if is_missing {
            let Table { name, tag, .. } = self;
            transaction.execute_batch(&self.create_statement())?;
            let sql = format!("INSERT INTO {name} ({tag}, max_id, step) VALUES ('{FIRST_TAG}', 0, 100000)");
            transaction.execute(&sql, ())?;
        }
        transaction.commit()?;
        Ok(is_missing)
    }

    /// A new file, with the table and the first row.
    fn create_file(&self, path: &Path) -> rusqlite::Result<()> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut db = Connection::open_with_flags(path, flags)?;
        self.create_if_missing(&mut db)?;
        db.close().map_err(|(_, error)| error)
    }

    /// A table that was renamed, or is expected in another file, is not made anew: its IDs would begin again.
    fn insist_on_table(&self, db: &Connection, place: &str) -> Result<(), Failure> {
        if self.kind(db)?.is_some() {
            return Ok(());
        }
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' LIMIT ?1";
        let mut statement = db.prepare(sql)?;
        let names = statement.query_map([TABLES_NAMED_MAX], |row| row.get(0))?;
        let names = names.collect::<Result<Vec<String>, _>>()?;
        let others =
            if names.is_empty() { "nor any other".into() } else { format!("only {}", names.join(", ")) };
        Err(StoreError::Schema(format!(
            "{place}: the file has no table {}, {others}: set table to the name of the one that holds the tags, or make \
             a new one by `idalloc init`; its IDs begin at 1",
            self.name
        ))
        .into())
    }

    fn insist_on_columns(&self, db: &Connection, place: &str) -> Result<(), Failure> {
        match self.fault(db)? {
            Some(fault) => Err(StoreError::Schema(format!("{place}: {fault}")).into()),
            None => Ok(()),
        }
    }

    /// `table` or `view`; none if there is neither of this name.
    fn kind(&self, db: &Connection) -> rusqlite::Result<Option<String>> {
        let sql =
            "SELECT type FROM sqlite_schema WHERE type IN ('table', 'view') AND name = ?1 COLLATE NOCASE";
        db.query_row(sql, [self.spec.name.as_str()], |row| row.get(0)).optional()
    }

    /// Name and declared type of each column.
    fn columns(&self, db: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
        let mut statement = db.prepare("SELECT name, type FROM pragma_table_info(?1)")?;
        statement.query_map([self.spec.name.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    }

    fn tag_is_unique(&self, db: &Connection) -> rusqlite::Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM pragma_index_list(?1) AS i WHERE i.\"unique\" AND NOT i.partial \
                   AND (SELECT COUNT(*) = 1 AND MAX(name) = ?2 COLLATE NOCASE FROM pragma_index_info(i.name)))";
        db.query_row(sql, [self.spec.name.as_str(), self.spec.tag_column.as_str()], |row| row.get(0))
    }

    /// What is wrong with the table, with the statement that mends it.
    fn fault(&self, db: &Connection) -> rusqlite::Result<Option<String>> {
        let Table { name, tag, .. } = self;
        if self.kind(db)?.as_deref() == Some("view") {
            return Ok(Some(format!("{name} is a view: name the table that it shows")));
        }
        let columns = self.columns(db)?;
        let find = |wanted: &str| columns.iter().find(|(column, _)| column.eq_ignore_ascii_case(wanted));
        if find(self.spec.tag_column.as_str()).is_none() {
            let names: Vec<&str> = columns.iter().map(|(column, _)| column.as_str()).collect();
            return Ok(Some(format!("{name} has no column {tag}, only {}: set TagColumn", names.join(", "))));
        }
        if !self.tag_is_unique(db)? {
            let index = format!("CREATE UNIQUE INDEX idalloc_tag ON {name} ({tag});");
            return Ok(Some(format!("{name}: two rows may have the same {tag}; run: {index}")));
        }
        for (column, default) in [("max_id", 0), ("step", 100_000)] {
            let Some((_, declared)) = find(column) else {
                let clause = format!("{column} INTEGER NOT NULL DEFAULT {default}");
                return Ok(Some(format!(
                    "{name} has no column {column}; run: ALTER TABLE {name} ADD COLUMN {clause};"
                )));
            };
            // SQLite's own rule: only a type with INT in its name keeps integers as they are.
            if !declared.to_ascii_uppercase().contains("INT") {
                return Ok(Some(format!(
                    "{name}: column {column} is declared {declared:?} instead of INTEGER, which SQLite cannot alter; \
                     rename the table, copy its rows into a new one and run: {}",
                    self.create_statement()
                )));
            }
        }
        Ok(None)
    }

    /// Tells why a reservation changed no row.
    fn why_not_reserved(
        &self,
        db: &Connection,
        tag: &str,
        allowed: &RangeInclusive<i64>,
        ahead: i64,
    ) -> rusqlite::Result<StoreError> {
        let sql = format!("SELECT max_id FROM {} WHERE {} = ?1", self.name, self.tag);
        let max_id = db.query_row(&sql, [tag], |row| Ok(number(row.get_ref(0)?, "max_id"))).optional()?;
        Ok(match max_id {
            None => StoreError::UnknownTag,
            Some(Err(reason)) => StoreError::Unreadable(reason),
            Some(Ok(max_id)) => why_not_reserved(max_id, allowed, ahead),
        })
    }
}

/// Why a call came to nothing: SQLite's word, or our judgement of an answer.
enum Failure {
    Told(rusqlite::Error),
    Judged(StoreError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Failure {
        Failure::Told(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Judged(error)
    }
}

/// What SQLite's error means to the caller.
fn store_error(path: &Path, error: &rusqlite::Error) -> StoreError {
    let (code, message) = match error {
        rusqlite::Error::SqliteFailure(code, None) => (Some(code.code), code.to_string()),
        rusqlite::Error::SqliteFailure(code, Some(message)) => (Some(code.code), message.clone()),
        rusqlite::Error::SqlInputError { error, msg, .. } => (Some(error.code), msg.clone()),
        error => (None, error.to_string()),
    };
    let text = format!("{}: {message}", path.display());
    match code {
        // The locking protocol fails when many processes open the file at once.
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
            StoreError::Contended(match holder::lock_holder(path) {
                Some(holder) => format!("{text}: {holder}"),
                None => text,
            })
        }
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::NotADatabase) => {
            StoreError::Denied(text)
        }
        Some(ErrorCode::CannotOpen) => cannot_open(path, text),
        Some(ErrorCode::SystemIoFailure | ErrorCode::DiskFull | ErrorCode::OutOfMemory) => {
            StoreError::Unavailable(text)
        }
        Some(ErrorCode::Unknown)
            if message.starts_with("no such table") || message.starts_with("no such column") =>
        {
            StoreError::Schema(format!("{text}; see `idalloc check`"))
        }
        _ => StoreError::Unexpected(text),
    }
}

/// SQLite does not say why it cannot open a file; the system does. It is not opened here: to close it again would end the
/// locks of this process's other sessions.
fn cannot_open(path: &Path, text: String) -> StoreError {
    let may_write = rustix::fs::accessat(CWD, path, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS);
    match may_write.map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            StoreError::Denied(format!("{text} ({error})"))
        }
        Err(error) => StoreError::Unavailable(format!("{text} ({error})")),
        Ok(_) => StoreError::Unavailable(text),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    fn judged(code: i32, message: &str) -> StoreError {
        let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(message.into()));
        store_error(Path::new("ids.db"), &error)
    }

    #[test]
    fn errors_are_told_apart() {
        let text = String::from("ids.db: why");
        for code in [ffi::SQLITE_BUSY, ffi::SQLITE_LOCKED, ffi::SQLITE_PROTOCOL, ffi::SQLITE_BUSY_SNAPSHOT] {
            assert_eq!(judged(code, "why"), StoreError::Contended(text.clone()));
        }
        for code in [ffi::SQLITE_PERM, ffi::SQLITE_READONLY, ffi::SQLITE_NOTADB] {
            assert_eq!(judged(code, "why"), StoreError::Denied(text.clone()));
        }
        for code in [ffi::SQLITE_IOERR, ffi::SQLITE_FULL, ffi::SQLITE_NOMEM] {
            assert_eq!(judged(code, "why"), StoreError::Unavailable(text.clone()));
        }
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_CONSTRAINT, ffi::SQLITE_ERROR] {
            assert_eq!(judged(code, "why"), StoreError::Unexpected(text.clone()));
        }
        for message in ["no such table: segments", "no such column: step"] {
            assert!(matches!(judged(ffi::SQLITE_ERROR, message), StoreError::Schema(_)), "{message}");
        }
    }
}
