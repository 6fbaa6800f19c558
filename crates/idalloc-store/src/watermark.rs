//! The watermark file: what was granted before, kept across restarts. It is used only while its path leads to it and nobody else has written to it: or else what this process
//! knows is lost at the next start. So all that it holds is known in memory too.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use idalloc_core::episode::Episode;
use idalloc_core::store::server::NO_SERVER;
use idalloc_core::sync::lock;
use idalloc_core::watermark::{Mark, Marks, News, Owed, WatermarkError, WatermarkFile, Watermarks};

/// Ends by scope and tag, which a NUL parts.
const ENDS: TableDefinition<&str, i64> = TableDefinition::new("ends");
/// The server of each scope, as text.
const SERVERS: TableDefinition<&str, &str> = TableDefinition::new("servers");
/// The `max_id` from which rows are reserved next, by scope and tag.
const OWED: TableDefinition<&str, i64> = TableDefinition::new("owed");
/// The scopes, in lower case, for which every spelling stands.
const CASELESS: TableDefinition<&str, bool> = TableDefinition::new("caseless");

/// Pages that redb may keep in memory; a watermark is read once, at start.
const CACHE_BYTES: usize = 1024 * 1024;

/// A file that is written anew, before it has its name; and who may use it, as far as the umask allows.
const NEW_FILE_PREFIX: &str = ".idalloc-watermark-";
const NEW_FILE_MODE: u32 = 0o644;

/// The watermarks of the file at `path`, which is made if need be, for the tags of the table that `scope` names.
///
/// # Errors
/// Another process uses the file, or it cannot be read and written.
pub fn open(path: &Path, scope: &str) -> Result<Watermarks, WatermarkError> {
    let marks = Arc::<Marks>::default();
    let mut file = File::new(path, scope, marks.clone());
    let read = file.read()?;
    *lock(&marks) = read;
    Ok(Watermarks::in_file(Box::new(file), marks))
}

/// Why the file was not read or written.
#[derive(Debug)]
enum FileError {
    InUse,
    Failed(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for FileError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            error => Self::Failed(error),
        }
    }
}

impl From<FileError> for WatermarkError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::InUse => Self::InUse,
            FileError::Failed(error) => Self::File(error.to_string()),
        }
    }
}

struct File {
    path: PathBuf,
    /// The file as this process left it, once it was open.
    left: Option<Left>,
    /// `None` after an error: redb refuses everything after one, until the file is opened anew.
    database: Option<Database>,
    /// What tells this table's tags from those of another in the same file.
    scope: String,
    /// The ends of this table.
    marks: Arc<Marks>,
    rest: Rest,
    failing: Episode,
    news: Vec<News>,
}

/// What the file holds beside the ends of this table.
#[derive(Debug, Default, Clone)]
struct Rest {
    other_ends: HashMap<String, i64>,
    servers: HashMap<String, String>,
    owed: HashMap<String, i64>,
    caseless: BTreeSet<String>,
}

/// What shows that a file is the one that this process has written, and nobody else since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Left {
    device: u64,
    inode: u64,
    /// Length and time of change after the newest commit; unknown after an error.
    content: Option<(u64, SystemTime)>,
}

impl Left {
    fn at(path: &Path) -> io::Result<Left> {
        let found = fs::metadata(path)?;
        let content = Some((found.len(), found.modified()?));
        Ok(Left { device: found.dev(), inode: found.ino(), content })
    }

    fn is_same_file(&self, found: &Left) -> bool {
        (self.device, self.inode) == (found.device, found.inode)
    }

    fn is_same(&self, found: &Left) -> bool {
        self.is_same_file(found) && (self.content.is_none() || self.content == found.content)
    }
}

impl File {
    fn new(path: &Path, scope: &str, marks: Arc<Marks>) -> File {
        File {
            path: path.to_owned(),
            left: None,
            database: None,
            scope: scope.to_owned(),
            marks,
            rest: Rest::default(),
            failing: Episode::default(),
            news: Vec::new(),
        }
    }

    /// All ends of this scope. Makes the file, and its tables, where they are not there.
    fn read(&mut self) -> Result<HashMap<Box<str>, Mark>, FileError> {
        self.change(|writing| {
            writing.open_table(ENDS)?;
            writing.open_table(OWED)?;
            writing.open_table(SERVERS)?;
            writing.open_table(CASELESS)?;
            Ok(())
        })?;
        let reading = self.database()?.begin_read()?;
        let mut rest = Rest::default();
        for entry in reading.open_table(CASELESS)?.iter()? {
            rest.caseless.insert(entry?.0.value().to_owned());
        }
        for entry in reading.open_table(SERVERS)?.iter()? {
            let (scope, server) = entry?;
            rest.servers.insert(scope.value().to_owned(), server.value().to_owned());
        }
        for entry in reading.open_table(OWED)?.iter()? {
            let (key, first_allowed) = entry?;
            rest.owed.insert(key.value().to_owned(), first_allowed.value());
        }
        if rest.caseless.contains(&self.scope.to_lowercase()) {
            self.scope = self.scope.to_lowercase();
        }
        let prefix = key(&self.scope, "");
        let mut marks = HashMap::new();
        for entry in reading.open_table(ENDS)?.iter()? {
            let (key, end) = entry?;
            match key.value().strip_prefix(&*prefix) {
                Some(tag) => {
                    marks.insert(tag.into(), Mark { end: end.value(), floor: end.value() });
                }
                None => {
                    rest.other_ends.insert(key.value().to_owned(), end.value());
                }
            }
        }
        self.rest = rest;
        Ok(marks)
    }

    /// Returns when the new ends are durable, all of them or none, beside all that this process knows. After an error the
    /// file is opened anew the next time.
    fn write_ends(&mut self, new: &[(&str, i64)]) -> Result<(), WatermarkError> {
        let written = self.try_write(new).map_err(WatermarkError::from);
        match &written {
            Ok(()) if self.failing.is_over() => self.news.push(News::Mended),
            Ok(()) => {}
            Err(cause) => {
                if self.failing.holds(Instant::now()) {
                    self.news.push(News::Failing(cause.to_string()));
                }
            }
        }
        written
    }

    fn try_write(&mut self, new: &[(&str, i64)]) -> Result<(), FileError> {
        if new.is_empty() {
            return self.database().map(drop);
        }
        let keys: Vec<_> = new.iter().map(|(tag, end)| (key(&self.scope, tag), *end)).collect();
        self.change(|writing| insert_all(writing, ENDS, &keys))
    }

    /// Keeps what it holds under any spelling of the scope under the one in lower case.
    fn lower_scope(&mut self) -> Result<(), FileError> {
        let scope = self.scope.to_lowercase();
        if scope == self.scope && self.rest.caseless.contains(&scope) {
            return Ok(());
        }
        let mut marks = lock(&self.marks).clone();
        let mut rest = self.rest.clone();
        rest.caseless.insert(scope.clone());
        for (key, end) in rest.take_same(&scope, |rest| &mut rest.other_ends) {
            let mark = marks.entry(tag_of(&key).into()).or_default();
            *mark = Mark { end: mark.end.max(end), floor: mark.floor.max(end) };
        }
        for (before, first_allowed) in rest.take_same(&scope, |rest| &mut rest.owed) {
            let owed = rest.owed.entry(key(&scope, tag_of(&before))).or_insert(first_allowed);
            *owed = first_allowed.max(*owed);
        }
        if let Some(server) = rest.take_server(&scope) {
            rest.servers.insert(scope.clone(), server);
        }
        let ends: Vec<_> = marks.iter().map(|(tag, mark)| (key(&scope, tag), mark.end)).collect();
        self.change(|writing| write_all(writing, ends, &rest))?;
        *lock(&self.marks) = marks;
        (self.scope, self.rest) = (scope, rest);
        Ok(())
    }

    /// Remembers the server and, if given, what rows owe: all of it or none.
    fn write_server(&mut self, server: &str, owed: Option<&Owed>) -> Result<(), FileError> {
        let (prefix, scope) = (key(&self.scope, ""), self.scope.clone());
        let new: Option<Vec<_>> = owed
            .map(|owed| owed.iter().map(|(tag, first_allowed)| (key(&scope, tag), *first_allowed)).collect());
        self.change(|writing| {
            writing.open_table(SERVERS)?.insert(scope.as_str(), server)?;
            if let Some(new) = &new {
                writing.open_table(OWED)?.retain(|key, _| !key.starts_with(&prefix))?;
                insert_all(writing, OWED, new)?;
            }
            Ok(())
        })?;
        self.rest.servers.insert(scope, server.to_owned());
        if let Some(new) = new {
            self.rest.owed.retain(|key, _| !key.starts_with(&prefix));
            self.rest.owed.extend(new);
        }
        Ok(())
    }

    /// The tag owes nothing any more.
    fn remove_debt(&mut self, tag: &str) -> Result<(), FileError> {
        let key = key(&self.scope, tag);
        self.change(|writing| {
            writing.open_table(OWED)?.remove(key.as_str())?;
            Ok(())
        })?;
        self.rest.owed.remove(&key);
        Ok(())
    }

    /// Returns when what `change` did is durable. After an error the file is opened anew the next time.
    fn change(
        &mut self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        let done = self.try_change(change);
        if done.is_err() {
            self.database = None;
            if let Some(left) = &mut self.left {
                left.content = None;
            }
        }
        done
    }

    fn try_change(
        &mut self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        let writing = self.database()?.begin_write()?;
        change(&writing)?;
        writing.commit()?;
        self.left = Some(Left::at(&self.path).map_err(redb::Error::Io)?);
        Ok(())
    }

    /// The open file, which is the one at the path.
    fn database(&mut self) -> Result<&Database, FileError> {
        let found = Left::at(&self.path);
        if let Some(left) = self.left
            && !found.as_ref().is_ok_and(|found| left.is_same(found))
        {
            self.write_anew(found.is_ok_and(|found| left.is_same_file(&found)))?;
        }
        let database = match self.database.take() {
            Some(database) => database,
            None => open_database(&self.path)?,
        };
        Ok(self.database.insert(database))
    }

    /// Puts a new file in the place of whatever is there, unless another process uses that.
    fn write_anew(&mut self, is_same_file: bool) -> Result<(), FileError> {
        // Not closed: redb writes at the end to what it takes for its own pages, and panics if they are not.
        if let Some(database) = self.database.take() {
            std::mem::forget(database);
        }
        if !is_same_file {
            insist_on_nobody(&self.path)?;
        }
        // Where a link leads to, if the path is one.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(NEW_FILE_PREFIX).permissions(fs::Permissions::from_mode(NEW_FILE_MODE));
        let new = builder.tempfile_in(&directory).map_err(redb::Error::Io)?.into_temp_path();
        let database = open_database(&new)?;
        let ends = lock(&self.marks).iter().map(|(tag, mark)| (key(&self.scope, tag), mark.end)).collect();
        let writing = database.begin_write()?;
        write_all(&writing, ends, &self.rest)?;
        writing.commit()?;
        new.persist(&path).map_err(|error| redb::Error::Io(error.error))?;
        fs::File::open(&directory).and_then(|directory| directory.sync_all()).map_err(redb::Error::Io)?;
        self.left = Some(Left::at(&self.path).map_err(redb::Error::Io)?);
        self.database = Some(database);
        self.news.push(News::WrittenAnew(self.path.clone()));
        Ok(())
    }
}

impl WatermarkFile for File {
    fn path(&self) -> &Path {
        &self.path
    }

    fn scope(&self) -> &str {
        &self.scope
    }

    fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    fn other_scopes(&self) -> BTreeSet<String> {
        self.rest.other_ends.keys().filter_map(|key| Some(key.split_once('\0')?.0.to_owned())).collect()
    }

    fn recall(&self) -> (Option<String>, Owed) {
        let prefix = key(&self.scope, "");
        let of_tag = |(key, owed): (&String, &i64)| Some((key.strip_prefix(&*prefix)?.into(), *owed));
        (self.rest.servers.get(&self.scope).cloned(), self.rest.owed.iter().filter_map(of_tag).collect())
    }

    fn write(&mut self, new: &[(&str, i64)]) -> Result<(), WatermarkError> {
        self.write_ends(new)
    }

    fn ignore_case(&mut self) -> Result<(), WatermarkError> {
        Ok(self.lower_scope()?)
    }

    fn remember(&mut self, server: &str, owed: Option<&Owed>) -> Result<(), WatermarkError> {
        Ok(self.write_server(server, owed)?)
    }

    fn forget_debt(&mut self, tag: &str) -> Result<(), WatermarkError> {
        Ok(self.remove_debt(tag)?)
    }
}

impl Rest {
    /// Takes out what has any spelling of `scope`.
    fn take_same(
        &mut self,
        scope: &str,
        of: impl FnOnce(&mut Rest) -> &mut HashMap<String, i64>,
    ) -> Vec<(String, i64)> {
        let is_same =
            |key: &str| key.split_once('\0').is_some_and(|(other, _)| other.to_lowercase() == scope);
        of(self).extract_if(|key, _| is_same(key)).collect()
    }

    /// Takes out the server under any spelling of `scope`. If there are several, nobody knows which was the last.
    fn take_server(&mut self, scope: &str) -> Option<String> {
        let servers = self.servers.extract_if(|other, _| other.to_lowercase() == scope);
        let servers: BTreeSet<_> =
            servers.map(|(_, server)| server).filter(|text| !text.is_empty()).collect();
        match servers.len() {
            0 | 1 => servers.into_iter().next(),
            _ => Some(NO_SERVER.to_owned()),
        }
    }
}

fn open_database(path: &Path) -> Result<Database, FileError> {
    Ok(Database::builder().set_cache_size(CACHE_BYTES).create(path)?)
}

fn tag_of(key: &str) -> &str {
    key.split_once('\0').map_or("", |(_, tag)| tag)
}

/// Makes these ends, and the rest, all that the file holds.
fn write_all(writing: &WriteTransaction, ends: Vec<(String, i64)>, rest: &Rest) -> Result<(), FileError> {
    for table in [ENDS, OWED] {
        writing.delete_table(table)?;
    }
    writing.delete_table(SERVERS)?;
    writing.delete_table(CASELESS)?;
    let list =
        |map: &HashMap<String, i64>| map.iter().map(|(key, end)| (key.clone(), *end)).collect::<Vec<_>>();
    insert_all(writing, ENDS, &ends)?;
    insert_all(writing, ENDS, &list(&rest.other_ends))?;
    insert_all(writing, OWED, &list(&rest.owed))?;
    let mut servers = writing.open_table(SERVERS)?;
    for (scope, server) in &rest.servers {
        servers.insert(scope.as_str(), server.as_str())?;
    }
    let mut caseless = writing.open_table(CASELESS)?;
    for scope in &rest.caseless {
        caseless.insert(scope.as_str(), true)?;
    }
    Ok(())
}

fn insert_all(
    writing: &WriteTransaction,
    table: TableDefinition<&str, i64>,
    values: &[(String, i64)],
) -> Result<(), FileError> {
    let mut table = writing.open_table(table)?;
    for (key, value) in values {
        table.insert(key.as_str(), *value)?;
    }
    Ok(())
}

/// Whether no process has the file at `path` open, if there is one.
fn insist_on_nobody(path: &Path) -> Result<(), FileError> {
    match fs::File::open(path).map(|file| file.try_lock()) {
        Ok(Err(TryLockError::WouldBlock)) => Err(FileError::InUse),
        _ => Ok(()),
    }
}

fn key(scope: &str, tag: &str) -> String {
    format!("{scope}\0{tag}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use idalloc_core::segment::IdRange;
    use idalloc_core::watermark::Refusal;

    fn range(start: i64, end: i64) -> IdRange {
        IdRange { start, end }
    }

    fn behind(result: Result<(), Refusal>) -> Option<i64> {
        match result {
            Err(Refusal::Behind(end)) => Some(end),
            _ => None,
        }
    }

    #[test]
    fn a_file_outlives_its_process_and_knows_the_table() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks.db");
        let marks = open(&path, "db.one").unwrap();
        marks.advance("a", range(0, 500)).unwrap();
        drop(marks);
        let marks = open(&path, "db.one").unwrap();
        assert_eq!(behind(marks.advance("a", range(499, 600))), Some(500));
        drop(marks);
        let other = open(&path, "db.two").unwrap();
        assert!(other.advance("a", range(0, 10)).is_ok(), "another table's tag");
    }

    #[test]
    fn two_processes_on_one_file_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks.db");
        let _first = open(&path, "t").unwrap();
        assert!(matches!(open(&path, "t"), Err(WatermarkError::InUse)));
    }

    #[test]
    fn a_watermark_follows_down_to_what_was_handed_out_and_not_below_where_it_began() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks.db");
        let marks = open(&path, "t").unwrap();
        for tag in ["some", "none", "all"] {
            marks.advance(tag, range(0, 200)).unwrap();
        }
        marks.lower(&[("some", Some(50)), ("none", None), ("all", Some(200)), ("unheard of", None)]).unwrap();
        drop(marks);
        let marks = open(&path, "t").unwrap();
        let ends = |marks: &Watermarks| ["some", "none", "all", "unheard of"].map(|tag| marks.get(tag));
        assert_eq!(ends(&marks), [Some(50), Some(0), Some(200), None]);
        marks.advance("all", range(200, 300)).unwrap();
        marks.lower(&[("all", None)]).unwrap();
        assert_eq!(marks.get("all"), Some(200), "an earlier process had handed that out");
        marks.advance("all", range(200, 300)).unwrap();
        marks.pin("all");
        marks.lower(&[("all", None)]).unwrap();
        assert_eq!(marks.get("all"), Some(300), "nobody knows any more");
    }

    #[test]
    fn a_file_that_is_none_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks.db");
        std::fs::write(&path, "x".repeat(10_000)).unwrap();
        assert!(matches!(open(&path, "t"), Err(WatermarkError::File(_))));
        assert!(matches!(open(&dir.path().join("no/such/dir"), "t"), Err(WatermarkError::File(_))));
    }

    #[test]
    fn a_server_and_its_debts_outlive_the_process_and_are_of_one_table() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks.db");
        let open = |scope| super::open(&path, scope).unwrap();
        let marks = open("one");
        assert_eq!(marks.recall(), (None, Owed::new()));
        assert!(marks.remember("zeroth", Some(&Owed::from([("a".into(), 5), ("b".into(), 7)]))));
        assert!(marks.remember("first", None));
        marks.forget_debt("a");
        drop(marks);
        assert_eq!(open("two").recall(), (None, Owed::new()), "another table's");
        let marks = open("one");
        assert_eq!(marks.recall(), (Some("first".to_owned()), Owed::from([("b".into(), 7)])));
        assert!(marks.remember("second", Some(&Owed::from([("c".into(), 9)]))));
        drop(marks);
        assert_eq!(open("one").recall(), (Some("second".to_owned()), Owed::from([("c".into(), 9)])));
    }

    #[test]
    fn debts_and_the_server_under_another_spelling_of_the_table_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks.db");
        let open = |scope| super::open(&path, scope).unwrap();
        assert!(open("Orders").remember("first", Some(&Owed::from([("a".into(), 5), ("b".into(), 7)]))));
        let marks = open("ORDERS");
        assert_eq!(marks.recall(), (None, Owed::new()), "another table, as far as is known");
        marks.ignore_case().unwrap();
        let known = (Some("first".to_owned()), Owed::from([("a".into(), 5), ("b".into(), 7)]));
        assert_eq!(marks.recall(), known);
        marks.forget_debt("a");
        drop(marks);
        let known = (Some("first".to_owned()), Owed::from([("b".into(), 7)]));
        assert_eq!(open("orders").recall(), known);
        assert_eq!(open("oRDERS").recall(), known, "every spelling from now on");
    }

    #[test]
    fn different_servers_under_two_spellings_make_whichever_answers_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks.db");
        let open = |scope| super::open(&path, scope).unwrap();
        for (scope, server) in [("Orders", "first"), ("orders", "second")] {
            assert!(open(scope).remember(server, None));
        }
        let marks = open("Orders");
        marks.ignore_case().unwrap();
        assert_eq!(marks.recall().0.as_deref(), Some(NO_SERVER));
    }
}
