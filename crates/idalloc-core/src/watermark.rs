//! The highest end this process was ever granted for each tag, kept outside the store.
//!
//! A reservation that starts below it was granted before, so the store has lost a commit. In a file the watermarks
//! outlive the process: what is granted is durable there *before* it is handed out.

mod server;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::segment::IdRange;
use crate::sync::lock;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WatermarkError {
    /// Two processes must not share one file: each knows only what it was granted itself.
    #[error("another process uses the watermark file: give each its own WatermarkPath")]
    InUse,
    /// It cannot be read or written; says why.
    #[error("the watermark file: {0}")]
    File(String),
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
    marks: Arc<Marks>,
    /// Held while a mark is raised or lowered, until it is durable: a tag whose row went and came back may have two
    /// refills for a moment. Who only looks at the marks does not wait for the disk.
    file: Mutex<Option<Box<dyn WatermarkFile>>>,
    /// Since when somebody has the file.
    busy_since: Mutex<Option<Instant>>,
}

/// The watermarks by tag, as [`Watermarks`] and its file share them.
pub type Marks = Mutex<HashMap<Box<str>, Mark>>;

/// One tag's watermark.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mark {
    /// One past the highest ID that was granted.
    pub end: i64,
    /// It is not lowered below this: at first what it was when this process began.
    pub floor: i64,
}

/// What rows owe, by tag: the `max_id` from which each is reserved next.
pub type Owed = HashMap<Box<str>, i64>;

/// Where watermarks outlive the process, for the tags of one table, its scope. Used under a lock, by one thread at a time.
///
/// # Errors
/// Of each method: the file cannot be written, or another process uses it. What it holds then stays as it was.
pub trait WatermarkFile: Send {
    /// Where it is.
    fn path(&self) -> &Path;

    /// The name of the table.
    fn scope(&self) -> &str;

    /// The other tables whose tags it knows.
    fn other_scopes(&self) -> BTreeSet<String>;

    /// Returns when these ends are durable, all of them or none. Given none, it looks whether the file is still the one
    /// that this process has written.
    fn write(&mut self, new: &[(&str, i64)]) -> Result<(), WatermarkError>;

    /// Keeps what it holds under any spelling of the scope under the one in lower case.
    fn ignore_case(&mut self) -> Result<(), WatermarkError>;

    /// The server that was remembered, and what rows owe.
    fn recall(&self) -> (Option<String>, Owed);

    /// Remembers the server and, if given, what rows owe: all of it or none.
    fn remember(&mut self, server: &str, owed: Option<&Owed>) -> Result<(), WatermarkError>;

    /// The tag owes nothing any more.
    fn forget_debt(&mut self, tag: &str) -> Result<(), WatermarkError>;

    /// What happened to it since the last call.
    fn take_news(&mut self) -> Vec<News>;
}

/// What the log is to be told of the file when its lock is released.
#[derive(Debug)]
pub enum News {
    /// It cannot be written, for this reason.
    Failing(String),
    /// It can be written again.
    Mended,
    /// Somebody else had moved, removed or changed what was at this path.
    WrittenAnew(PathBuf),
}

impl Watermarks {
    /// The watermarks that `file` keeps, which are `marks` at first.
    #[must_use]
    pub fn in_file(file: Box<dyn WatermarkFile>, marks: Arc<Marks>) -> Self {
        Self { marks, file: Mutex::new(Some(file)), busy_since: Mutex::default() }
    }

    /// Looks whether the path still leads to the file, and nobody else has written to it. If not, it is written anew.
    pub fn verify(&self) {
        // Whoever has the file now looks for himself, and may have to wait for a disk that hangs.
        if lock(&self.busy_since).is_none() {
            // An error is told in the log.
            let _ = self.with_file(|file| write(file, &[]));
        }
    }

    /// How long the file has not answered by now; `None` if nobody waits for it.
    pub fn busy_for(&self) -> Option<Duration> {
        lock(&self.busy_since).map(|since| since.elapsed())
    }

    /// The store takes names that differ only in upper and lower case for the same: so what the file holds under any of
    /// them counts, and is kept under the one in lower case from now on. To be called before anything is granted.
    ///
    /// # Errors
    /// The file cannot be written; what it holds stays as it is.
    pub fn ignore_case(&self) -> Result<(), WatermarkError> {
        self.with_file(|file| file.as_mut().map_or(Ok(()), |file| file.ignore_case()))
    }

    /// Says in the log if the file knows tags of other tables only.
    pub fn log_if_unknown(&self) {
        let is_empty = lock(&self.marks).is_empty();
        let unknown = self.with_file(|file| {
            let file = file.as_ref().filter(|_| is_empty)?;
            Some((file.path().to_owned(), file.scope().to_owned(), file.other_scopes()))
        });
        if let Some((path, table, known)) = unknown.filter(|(_, _, known)| !known.is_empty()) {
            warn!(
                path = %path.display(),
                table,
                ?known,
                "the watermark file knows nothing of this table, only of others: if it is one of those under a new name, \
                 a store that has gone back is not noticed now"
            );
        }
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
    fn with_file<T>(&self, use_it: impl FnOnce(&mut Option<Box<dyn WatermarkFile>>) -> T) -> T {
        let mut file = lock(&self.file);
        let busy = Busy::begin(&self.busy_since);
        let result = use_it(&mut file);
        drop(busy);
        let news = file.as_mut().map_or_else(Vec::new, |file| file.take_news());
        drop(file);
        for piece in news {
            match piece {
                News::Failing(cause) => error!(
                    cause,
                    "the watermark file cannot be written: no IDs are handed out but those in memory"
                ),
                News::Mended => info!("the watermark file can be written again"),
                News::WrittenAnew(path) => warn!(
                    path = %path.display(),
                    "the watermark file was moved, removed or changed by somebody else: it is written anew, from memory"
                ),
            }
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
fn write(file: &mut Option<Box<dyn WatermarkFile>>, new: &[(&str, i64)]) -> Result<(), WatermarkError> {
    file.as_mut().map_or(Ok(()), |file| file.write(new))
}

/// Somebody has the file.
struct Busy<'a>(&'a Mutex<Option<Instant>>);

impl<'a> Busy<'a> {
    fn begin(since: &'a Mutex<Option<Instant>>) -> Busy<'a> {
        *lock(since) = Some(Instant::now());
        Busy(since)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        *lock(self.0) = None;
    }
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
}
