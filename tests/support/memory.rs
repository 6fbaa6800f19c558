//! A table in memory, and claims with a limit: what the tests of the allocator stand on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use idalloc::alloc::{AllocError, Granted, Handle, Outcome, Pending, Want};
use idalloc::store::server::{Position, Server};
use idalloc::store::{Floor, Rest, StoreError, TagRow};

/// The rows that all sessions of a test share.
pub struct Table {
    rows: Mutex<BTreeMap<String, Row>>,
    /// Which server has it: another each time that commits were lost.
    server: AtomicU64,
}

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
    /// Rows of these tags and steps.
    pub fn new<'a>(tags: impl IntoIterator<Item = (&'a str, i64)>) -> Arc<Table> {
        let row = |step| Row { step, commits: vec![0], highest: 0 };
        let rows = tags.into_iter().map(|(name, step)| (name.to_owned(), row(step))).collect();
        Arc::new(Table { rows: Mutex::new(rows), server: AtomicU64::new(0) })
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

    /// As [`SegmentStore::reserve_above`](idalloc::store::SegmentStore::reserve_above).
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

    /// As [`SegmentStore::give_back`](idalloc::store::SegmentStore::give_back).
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
        Arc::new(Server {
            id: self.server.load(Relaxed).to_string(),
            node: String::new(),
            started_s: None,
            uptime: Duration::ZERO,
            position: Position::Unknown,
            began_at: Some(Instant::now()),
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

    /// Another server takes the table over, and lacks the row's newest commits: `pick` says, of so many, which is the last
    /// that it has.
    pub fn fail_over(&self, tag: &str, pick: impl FnOnce(usize) -> usize) {
        let mut rows = self.lock();
        if let Some(row) = rows.get_mut(tag) {
            let last = pick(row.commits.len());
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

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of a claim, for its caller.
#[derive(Debug)]
pub enum Claimed {
    Granted(Granted),
    Failed(AllocError),
    /// The caller lost patience: what it might have got is nobody's.
    GivenUp,
}

/// Claims what is wanted, and waits for it no longer than `patience`.
pub fn claim_within(handle: &mut Handle, tag: &str, want: Want, patience: Duration) -> Claimed {
    match handle.claim(tag, want) {
        Outcome::Granted(granted) => Claimed::Granted(granted),
        Outcome::Pending(pending) => wait_for(handle, pending, patience),
    }
}

fn wait_for(handle: &mut Handle, mut pending: Pending, patience: Duration) -> Claimed {
    let waker = unparking();
    let mut cx = Context::from_waker(&waker);
    let deadline = Instant::now() + patience;
    loop {
        match handle.poll(&mut pending, &mut cx) {
            Poll::Ready(Ok(granted)) => return Claimed::Granted(granted),
            Poll::Ready(Err(error)) => return Claimed::Failed(error),
            Poll::Pending => {}
        }
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Claimed::GivenUp;
        }
        thread::park_timeout(rest);
    }
}

/// A waker that unparks the calling thread.
pub fn unparking() -> Waker {
    Waker::from(Arc::new(Unparking(thread::current())))
}

struct Unparking(Thread);

impl Wake for Unparking {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
