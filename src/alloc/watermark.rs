//! The highest end this process was ever granted for each tag, kept outside the store.
//!
//! A reservation that starts below it was granted before, so the store has lost a commit. In a file the watermarks
//! outlive the process: what is granted is durable there *before* it is handed out.

mod server;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tracing::{error, info};

use crate::episode::Episode;
use crate::segment::IdRange;
use crate::sync::lock;

/// Ends by scope and tag, which a NUL parts.
const ENDS: TableDefinition<&str, i64> = TableDefinition::new("ends");

/// Pages that redb may keep in memory; a watermark is read once, at start.
const CACHE_BYTES: usize = 1024 * 1024;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WatermarkError {
    /// Two processes must not share one file: each knows only what it was granted itself.
    #[error("another process uses the watermark file: give each its own WatermarkPath")]
    InUse,
    /// It cannot be read or written.
    #[error("the watermark file: {0}")]
    File(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for WatermarkError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            error => Self::File(error),
        }
    }
}

/// Why nothing of a granted range may be handed out.
#[derive(Debug)]
pub enum Refusal {
    /// It starts below the watermark, which is this.
    Behind(i64),
    /// The watermark could not be made durable.
    NotDurable(WatermarkError),
}

/// The watermarks of all tags, those whose rows are gone included: a row that comes back starts no lower.
#[derive(Default)]
pub struct Watermarks {
    marks: Mutex<HashMap<Box<str>, Mark>>,
    /// Held while a mark is raised or lowered, until it is durable: a tag whose row went and came back may have two
    /// refills for a moment. Who only looks at the marks does not wait for the disk.
    file: Mutex<Option<File>>,
}

/// One tag's watermark.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    end: i64,
    /// It is not lowered below this: at first what it was when this process began.
    floor: i64,
}

type OpenDatabase = Box<dyn Fn() -> Result<Database, WatermarkError> + Send>;

struct File {
    open: OpenDatabase,
    /// `None` after an error: redb refuses everything after one, until the file is opened anew.
    database: Option<Database>,
    /// What tells this table's tags from those of another in the same file.
    scope: String,
    failing: Episode,
    /// What the log is to be told when the lock is released.
    news: Option<News>,
}

enum News {
    Failing(String),
    Mended,
}

impl Watermarks {
    /// The watermarks of the file at `path`, which is made if need be, for the tags of the table that `scope` names.
    ///
    /// # Errors
    /// Another process uses the file, or it cannot be read and written.
    pub fn open(path: &Path, scope: &str) -> Result<Self, WatermarkError> {
        let path = path.to_owned();
        let open = move || Ok(Database::builder().set_cache_size(CACHE_BYTES).create(&path)?);
        Self::open_with(Box::new(open), scope)
    }

    fn open_with(open: OpenDatabase, scope: &str) -> Result<Self, WatermarkError> {
        let mut file =
            File { open, database: None, scope: scope.to_owned(), failing: Episode::default(), news: None };
        let marks = file.read()?;
        Ok(Self { marks: Mutex::new(marks), file: Mutex::new(Some(file)) })
    }

    /// The scopes that the file knows tags of.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn scopes(&self) -> Result<BTreeSet<String>, WatermarkError> {
        lock(&self.file).as_mut().map_or_else(|| Ok(BTreeSet::new()), File::scopes)
    }

    /// Raises the tag's watermark to the end of what the store has just granted.
    ///
    /// # Errors
    /// The watermark then stays as it is, and nothing of the range may be handed out.
    pub fn advance(&self, tag: &str, granted: IdRange) -> Result<(), Refusal> {
        self.with_file(|file| {
            let end = lock(&self.marks).get(tag).map_or(0, |mark| mark.end);
            if granted.start < end {
                return Err(Refusal::Behind(end));
            }
            write(file, &[(tag, granted.end)]).map_err(Refusal::NotDurable)?;
            lock(&self.marks).entry(tag.into()).or_default().end = granted.end;
            Ok(())
        })
    }

    /// Lowers watermarks to one past the highest ID that was handed out of each tag, when no more will be: what lies
    /// above goes back to the store, which may grant it again, and the next start must not be refused for that.
    ///
    /// # Errors
    /// The file cannot be written; the watermarks then stay as they are.
    pub fn lower(&self, handed_out_ends: &[(&str, Option<i64>)]) -> Result<(), WatermarkError> {
        self.with_file(|file| {
            let mut lowered = Vec::new();
            for (tag, handed_out_end) in handed_out_ends {
                if let Some(mark) = lock(&self.marks).get(*tag) {
                    lowered.push((*tag, mark.end.min(mark.floor.max(handed_out_end.unwrap_or(0)))));
                }
            }
            write(file, &lowered)?;
            for (tag, end) in lowered {
                lock(&self.marks).entry(tag.into()).or_default().end = end;
            }
            Ok(())
        })
    }

    /// Uses the file under its lock, and tells the log of its state after that.
    fn with_file<T>(&self, use_it: impl FnOnce(&mut Option<File>) -> T) -> T {
        let mut file = lock(&self.file);
        let result = use_it(&mut file);
        let news = file.as_mut().and_then(|file| file.news.take());
        drop(file);
        match news {
            Some(News::Failing(cause)) => {
                error!(
                    cause,
                    "the watermark file cannot be written: no IDs are handed out but those in memory"
                );
            }
            Some(News::Mended) => info!("the watermark file can be written again"),
            None => {}
        }
        result
    }

    /// Keeps the tag's watermark from being lowered below what it is now: its row is gone, and if it comes back, who
    /// knows what was handed out is no more.
    pub fn pin(&self, tag: &str) {
        if let Some(mark) = lock(&self.marks).get_mut(tag) {
            mark.floor = mark.end;
        }
    }

    /// The tag's watermark.
    pub fn get(&self, tag: &str) -> Option<i64> {
        lock(&self.marks).get(tag).map(|mark| mark.end)
    }
}

/// Returns when the new ends are durable, if there is a file.
fn write(file: &mut Option<File>, new: &[(&str, i64)]) -> Result<(), WatermarkError> {
    file.as_mut().map_or(Ok(()), |file| file.write(new))
}

impl File {
    fn database(&mut self) -> Result<&Database, WatermarkError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => (self.open)()?,
        };
        Ok(self.database.insert(database))
    }

    /// All ends of this scope. Makes the table if it is not there.
    fn read(&mut self) -> Result<HashMap<Box<str>, Mark>, WatermarkError> {
        let prefix = key(&self.scope, "");
        let database = self.database()?;
        let writing = database.begin_write()?;
        writing.open_table(ENDS)?;
        writing.commit()?;
        let reading = database.begin_read()?;
        let mut marks = HashMap::new();
        for entry in reading.open_table(ENDS)?.iter()? {
            let (key, end) = entry?;
            if let Some(tag) = key.value().strip_prefix(&*prefix) {
                marks.insert(tag.into(), Mark { end: end.value(), floor: end.value() });
            }
        }
        Ok(marks)
    }

    fn scopes(&mut self) -> Result<BTreeSet<String>, WatermarkError> {
        let mut scopes = BTreeSet::new();
        for entry in self.database()?.begin_read()?.open_table(ENDS)?.iter()? {
            let (key, _) = entry?;
            scopes.extend(key.value().split_once('\0').map(|(scope, _)| scope.to_owned()));
        }
        Ok(scopes)
    }

    /// Returns when the new ends are durable, all of them or none. After an error the file is opened anew the next time.
    fn write(&mut self, new: &[(&str, i64)]) -> Result<(), WatermarkError> {
        let written = self.try_write(new);
        match &written {
            Ok(()) if self.failing.is_over() => self.news = Some(News::Mended),
            Ok(()) => {}
            Err(cause) => {
                self.database = None;
                if self.failing.holds(Instant::now()) {
                    self.news = Some(News::Failing(cause.to_string()));
                }
            }
        }
        written
    }

    fn try_write(&mut self, new: &[(&str, i64)]) -> Result<(), WatermarkError> {
        let keys: Vec<_> = new.iter().map(|(tag, end)| (key(&self.scope, tag), end)).collect();
        let writing = self.database()?.begin_write()?;
        {
            let mut table = writing.open_table(ENDS)?;
            for (key, end) in &keys {
                table.insert(key.as_str(), *end)?;
            }
        }
        Ok(writing.commit()?)
    }
}

fn key(scope: &str, tag: &str) -> String {
    format!("{scope}\0{tag}")
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_range_below_what_was_granted_before_is_refused_and_changes_nothing() {
        let marks = Watermarks::default();
        assert!(marks.advance("a", range(100, 200)).is_ok());
        assert!(marks.advance("b", range(0, 10)).is_ok(), "tags are apart");
        assert_eq!(behind(marks.advance("a", range(199, 900))), Some(200));
        assert!(marks.advance("a", range(200, 300)).is_ok());
        assert!(marks.advance("a", range(500, 600)).is_ok(), "another node was in between");
    }

    #[test]
    fn a_file_outlives_its_process_and_knows_the_table() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks.db");
        let marks = Watermarks::open(&path, "db.one").unwrap();
        marks.advance("a", range(0, 500)).unwrap();
        drop(marks);
        let marks = Watermarks::open(&path, "db.one").unwrap();
        assert_eq!(behind(marks.advance("a", range(499, 600))), Some(500));
        drop(marks);
        let other = Watermarks::open(&path, "db.two").unwrap();
        assert!(other.advance("a", range(0, 10)).is_ok(), "another table's tag");
    }

    #[test]
    fn two_processes_on_one_file_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks.db");
        let _first = Watermarks::open(&path, "t").unwrap();
        assert!(matches!(Watermarks::open(&path, "t"), Err(WatermarkError::InUse)));
    }

    #[test]
    fn a_watermark_follows_down_to_what_was_handed_out_and_not_below_where_it_began() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks.db");
        let marks = Watermarks::open(&path, "t").unwrap();
        for tag in ["some", "none", "all"] {
            marks.advance(tag, range(0, 200)).unwrap();
        }
        marks.lower(&[("some", Some(50)), ("none", None), ("all", Some(200)), ("unheard of", None)]).unwrap();
        drop(marks);
        let marks = Watermarks::open(&path, "t").unwrap();
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
        assert!(matches!(Watermarks::open(&path, "t"), Err(WatermarkError::File(_))));
        assert!(matches!(
            Watermarks::open(&dir.path().join("no/such/dir"), "t"),
            Err(WatermarkError::File(_))
        ));
    }
}
