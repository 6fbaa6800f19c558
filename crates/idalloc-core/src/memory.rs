//! A table and watermarks in memory: for tests and examples. What they hold is lost with the process.
//!
//! The table can lose commits, and be taken over by another server, as databases do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::store::server::{Position, Server};
use crate::store::{Floor, Rest, Rows, SegmentStore, StoreError, StoreReport, TagRow};
use crate::sync::lock;
use crate::watermark::{Mark, Marks, News, Owed, WatermarkError, WatermarkFile, Watermarks};

/// The rows that all sessions share.
#[derive(Debug)]
pub struct Table {
    rows: Mutex<BTreeMap<String, Row>>,
    /// Which server has it: another each time that commits were lost.
    server: AtomicU64,
    is_halted: AtomicBool,
}

#[derive(Debug)]
struct Row {
    step: i64,
    /// Every `max_id` that was committed and not lost since; the last is the present one.
    commits: Vec<i64>,
    highest: i64,
}

impl Row {
    fn max_id(&self) -> i64 {
        *self.commits.last().expect("a row begins with a commit")
    }

    fn commit(&mut self, max_id: i64) {
        self.commits.push(max_id);
        self.highest = self.highest.max(max_id);
    }
}

impl Table {
    /// Rows of these tags and steps, whose `max_id` is 0.
    pub fn new<'a>(tags: impl IntoIterator<Item = (&'a str, i64)>) -> Arc<Table> {
        Self::of(tags.into_iter().map(|(name, step)| TagRow { name: name.to_owned(), step, max_id: 0 }))
    }

    /// These rows.
    pub fn of(rows: impl IntoIterator<Item = TagRow>) -> Arc<Table> {
        let row =
            |row: TagRow| (row.name, Row { step: row.step, commits: vec![row.max_id], highest: row.max_id });
        let rows = rows.into_iter().map(row).collect();
        Arc::new(Table {
            rows: Mutex::new(rows),
            server: AtomicU64::new(0),
            is_halted: AtomicBool::new(false),
        })
    }

    /// Has every session's reservations fail from now on, as a database does that is down.
    pub fn halt(&self) {
        // Relaxed: a reservation more or less does not matter.
        self.is_halted.store(true, Relaxed);
    }

    /// A session with the table.
    pub fn session(self: &Arc<Self>) -> Session {
        Session(self.clone())
    }

    /// What a listing finds.
    pub fn list(&self) -> Vec<TagRow> {
        self.list_as(|commits| commits - 1)
    }

    /// What a listing finds on a replica that lags: `pick` says, for a row with so many commits, which is the last it has.
    pub fn list_as(&self, mut pick: impl FnMut(usize) -> usize) -> Vec<TagRow> {
        let rows = self.lock();
        let seen = rows.iter().map(|(name, row)| {
            let max_id = row.commits[pick(row.commits.len())];
            TagRow { name: name.clone(), step: row.step, max_id }
        });
        seen.collect()
    }

    /// As [`SegmentStore::reserve_above`].
    pub fn reserve_above(&self, tag: &str, amount: i64, floor: Floor) -> Result<i64, StoreError> {
        Self::reserve_in(&mut self.lock(), tag, amount, floor)
    }

    fn reserve_in(
        rows: &mut BTreeMap<String, Row>,
        tag: &str,
        amount: i64,
        floor: Floor,
    ) -> Result<i64, StoreError> {
        let row = rows.get_mut(tag).ok_or(StoreError::UnknownTag)?;
        let max_id = row.max_id();
        if max_id < floor.max_id_min() {
            return Err(StoreError::GoneBack { max_id });
        }
        let max_id = max_id.saturating_add(floor.ahead()).max(floor.first_allowed());
        let end = max_id.checked_add(amount).ok_or(StoreError::Overflow { max_id })?;
        row.commit(end);
        Ok(end)
    }

    /// As [`SegmentStore::give_back`].
    pub fn give_back(&self, rests: &[Rest<'_>]) -> Vec<bool> {
        let mut rows = self.lock();
        let give_back = |rest: &Rest<'_>| {
            let row = rows.get_mut(rest.tag).filter(|row| row.max_id() == rest.end);
            row.map(|row| row.commit(rest.first_unclaimed)).is_some()
        };
        rests.iter().map(give_back).collect()
    }

    /// The server that has the table.
    pub fn server(&self) -> Arc<Server> {
        let began_at = Some(Instant::now());
        Arc::new(Server {
            id: self.server.load(Relaxed).to_string(),
            node: String::new(),
            started_s: None,
            uptime: Duration::ZERO,
            position: Position::Unknown,
            began_at,
            looked_at: Some(Instant::now()),
        })
    }

    /// As [`reserve_above`](Self::reserve_above), on a session with this server: if it has lost the table, the session is
    /// lost as well.
    pub fn reserve_at(
        &self,
        server: &Server,
        tag: &str,
        amount: i64,
        floor: Floor,
    ) -> Result<i64, StoreError> {
        let mut rows = self.lock();
        if server.id != self.server.load(Relaxed).to_string() {
            return Err(StoreError::Unavailable("that server is gone".to_owned()));
        }
        Self::reserve_in(&mut rows, tag, amount, floor)
    }

    /// Another server takes the table over, and lacks the row's newest commits: `pick` is told each `max_id` that was
    /// committed and not lost so far, and the highest that ever was, and says which is the last that it has.
    pub fn fail_over(&self, tag: &str, pick: impl FnOnce(&[i64], i64) -> usize) {
        let mut rows = self.lock();
        if let Some(row) = rows.get_mut(tag) {
            let last = pick(&row.commits, row.highest);
            row.commits.truncate(last + 1);
        }
        self.server.fetch_add(1, Relaxed);
    }

    /// Loses the row's newest commits: `pick` says, of so many, which is the last that stays.
    pub fn lose_commits(&self, tag: &str, pick: impl FnOnce(usize) -> usize) {
        if let Some(row) = self.lock().get_mut(tag) {
            let last = pick(row.commits.len());
            row.commits.truncate(last + 1);
        }
    }

    /// What an operator does after commits were lost.
    pub fn mend(&self) {
        for row in self.lock().values_mut() {
            row.commit(row.highest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Row>> {
        lock(&self.rows)
    }
}

/// A session with a [`Table`].
#[derive(Debug)]
pub struct Session(Arc<Table>);

impl SegmentStore for Session {
    fn check(&mut self) -> Result<StoreReport, StoreError> {
        Ok(StoreReport { store: "a table in memory".to_owned(), ..StoreReport::default() })
    }

    fn list_tags(&mut self, limit: usize) -> Result<Rows<TagRow>, StoreError> {
        let mut rows = self.0.list();
        rows.truncate(limit);
        Ok(rows.into())
    }

    fn reserve_above(&mut self, tag: &str, amount: i64, floor: Floor) -> Result<i64, StoreError> {
        if self.0.is_halted.load(Relaxed) {
            return Err(StoreError::Unavailable("the table is halted".to_owned()));
        }
        self.0.reserve_above(tag, amount, floor)
    }

    fn give_back(&mut self, rests: &[Rest<'_>]) -> Result<Vec<bool>, StoreError> {
        Ok(self.0.give_back(rests))
    }
}

/// What [`Watermarks`] keep in a file elsewhere, for allocators that come one after the other.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<HashMap<String, Scope>>>);

/// What is kept of one table.
#[derive(Debug, Clone, Default)]
struct Scope {
    ends: HashMap<Box<str>, i64>,
    server: Option<String>,
    owed: Owed,
}

impl Disk {
    /// The watermarks of the table that `scope` names.
    pub fn open(&self, scope: &str) -> Watermarks {
        let mark = |end: &i64| Mark { end: *end, floor: *end };
        let file = DiskFile { disk: self.clone(), scope: scope.to_owned() };
        let marks = file.with(|scope| scope.ends.iter().map(|(tag, end)| (tag.clone(), mark(end))).collect());
        Watermarks::in_file(Box::new(file), Arc::new(Marks::new(marks)))
    }
}

/// One table's part of a [`Disk`].
struct DiskFile {
    disk: Disk,
    scope: String,
}

impl DiskFile {
    fn with<T>(&self, work: impl FnOnce(&mut Scope) -> T) -> T {
        work(lock(&self.disk.0).entry(self.scope.clone()).or_default())
    }
}

impl WatermarkFile for DiskFile {
    fn path(&self) -> &Path {
        Path::new("memory")
    }

    fn scope(&self) -> &str {
        &self.scope
    }

    fn other_scopes(&self) -> BTreeSet<String> {
        lock(&self.disk.0).keys().filter(|scope| **scope != self.scope).cloned().collect()
    }

    fn write(&mut self, new: &[(&str, i64)]) -> Result<(), WatermarkError> {
        self.with(|scope| scope.ends.extend(new.iter().map(|(tag, end)| ((*tag).into(), *end))));
        Ok(())
    }

    /// What is there under the present spelling goes to the one in lower case; there must be no third.
    fn ignore_case(&mut self) -> Result<(), WatermarkError> {
        let kept = self.with(std::mem::take);
        self.scope = self.scope.to_lowercase();
        self.with(|scope| *scope = kept);
        Ok(())
    }

    fn recall(&self) -> (Option<String>, Owed) {
        self.with(|scope| (scope.server.clone(), scope.owed.clone()))
    }

    fn remember(&mut self, server: &str, owed: Option<&Owed>) -> Result<(), WatermarkError> {
        self.with(|scope| {
            scope.server = Some(server.to_owned());
            if let Some(owed) = owed {
                scope.owed.clone_from(owed);
            }
        });
        Ok(())
    }

    fn forget_debt(&mut self, tag: &str) -> Result<(), WatermarkError> {
        self.with(|scope| scope.owed.remove(tag));
        Ok(())
    }

    fn take_news(&mut self) -> Vec<News> {
        Vec::new()
    }
}
