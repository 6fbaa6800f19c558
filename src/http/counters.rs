//! What the hot port counts. Each handler counts for itself, in memory that no other thread writes; the sums are made when
//! somebody asks for them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use crossbeam_utils::CachePadded;
use slab::Slab;

use super::admission::LimitedBy;
use super::buffer_memory::BufferMemory;
use super::response::{Answer, STATUSES};
use crate::counters::{Counter, Histogram, HistogramReading};
use crate::sync::lock;

/// Where a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `/alloc`
    Alloc,
    /// `/segment`
    Segment,
    /// `/health`
    Health,
    /// No path that there is, or no request that was understood.
    Other,
}

impl Route {
    /// All of them, in the order of their values.
    pub const ALL: [Self; 4] = [Self::Alloc, Self::Segment, Self::Health, Self::Other];

    /// Paths are compared as they were sent: `//alloc`, `/./alloc` and `/%61lloc` are other paths.
    #[inline]
    pub fn of(path: &str) -> Self {
        match path {
            "/alloc" => Self::Alloc,
            "/segment" => Self::Segment,
            "/health" => Self::Health,
            _ => Self::Other,
        }
    }

    /// Its name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alloc => "alloc",
            Self::Segment => "segment",
            Self::Health => "health",
            Self::Other => "other",
        }
    }
}

/// What one handler counts. Only the thread that runs the handler adds to it.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests to `/alloc` that got one ID. By far the most are, so that those touch nothing else.
    single_ids: Counter,
    other_requests: [[Counter; STATUSES.len()]; Route::ALL.len()],
    other_ids: Counter,
    limited: [Counter; LimitedBy::ALL.len()],
    bytes_received: Counter,
    bytes_sent: Counter,
}

impl Tally {
    /// Takes note of an answer.
    #[inline]
    pub fn answered(&self, route: Route, answer: &Answer) {
        match answer {
            Answer::Id(_) => self.answered_single(),
            _ => self.answered_otherwise(route, answer),
        }
    }

    /// Takes note of an answer with one ID.
    #[inline]
    pub fn answered_single(&self) {
        self.single_ids.add(1);
    }

    fn answered_otherwise(&self, route: Route, answer: &Answer) {
        let status = STATUSES.iter().position(|(status, _)| *status == answer.status());
        if let Some(status) = status {
            self.other_requests[route as usize][status].add(1);
        }
        self.other_ids.add(match answer {
            Answer::Ids(ids) => ids.iter().map(|range| range.len()).sum(),
            Answer::Lease(range) => range.len(),
            _ => 0,
        });
    }

    /// Takes note of a request that is over a limit, which is answered with 429.
    pub fn limited(&self, by: LimitedBy) {
        self.limited[by as usize].add(1);
    }

    /// Takes note of bytes that came in.
    #[inline]
    pub fn received(&self, bytes: usize) {
        self.bytes_received.add(bytes as u64);
    }

    /// Takes note of bytes that the kernel has taken.
    #[inline]
    pub fn sent(&self, bytes: usize) {
        self.bytes_sent.add(bytes as u64);
    }
}

/// The sums over all handlers, those that are gone included.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Answers by [`Route::ALL`] and [`STATUSES`].
    pub answers: [[u64; STATUSES.len()]; Route::ALL.len()],
    /// IDs in answers.
    pub ids: u64,
    /// Requests that were over a limit, by [`LimitedBy::ALL`].
    pub limited: [u64; LimitedBy::ALL.len()],
    /// Bytes that came in; with `may_minihttp`, which does not tell, none.
    pub bytes_received: u64,
    /// Bytes that the kernel has taken; with `may_minihttp` none.
    pub bytes_sent: u64,
}

impl Totals {
    fn add(&mut self, tally: &Tally) {
        let single_ids = tally.single_ids.get();
        // The first status is 200.
        self.answers[Route::Alloc as usize][0] += single_ids;
        for (sums, counts) in self.answers.iter_mut().zip(&tally.other_requests) {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count.get());
        }
        self.ids += single_ids + tally.other_ids.get();
        self.limited.iter_mut().zip(&tally.limited).for_each(|(sum, count)| *sum += count.get());
        self.bytes_received += tally.bytes_received.get();
        self.bytes_sent += tally.bytes_sent.get();
    }

    /// Answers in all.
    pub fn requests(&self) -> u64 {
        self.answers.iter().flatten().sum()
    }
}

/// Everything that a server counts.
#[derive(Debug, Default)]
pub struct Counters {
    tallies: Mutex<Tallies>,
    /// Connections.
    pub connections: Connections,
    /// Claims that had to wait.
    pub waits: Arc<Waits>,
    /// What unfinished requests and unsent answers take; with `may_minihttp` only the requests.
    buffer_memory: OnceLock<Arc<BufferMemory>>,
}

#[derive(Debug, Default)]
struct Tallies {
    live: Slab<Arc<CachePadded<Tally>>>,
    ended: Totals,
}

impl Counters {
    /// A tally for one more handler, and the key to give it back with.
    pub fn add_tally(&self) -> (usize, Arc<CachePadded<Tally>>) {
        let tally = Arc::<CachePadded<Tally>>::default();
        (lock(&self.tallies).live.insert(tally.clone()), tally)
    }

    /// The handler is gone: what it counted is kept in the sum.
    pub fn end_tally(&self, key: usize) {
        let mut tallies = lock(&self.tallies);
        let tally = tallies.live.remove(key);
        tallies.ended.add(&tally);
    }

    /// The budget of the engine that asks first, of so many bytes.
    pub(super) fn buffer_memory(&self, bytes_max: usize) -> Arc<BufferMemory> {
        self.buffer_memory.get_or_init(|| Arc::new(BufferMemory::new(bytes_max))).clone()
    }

    /// That budget, if the engine keeps one.
    pub(crate) fn buffers(&self) -> Option<&BufferMemory> {
        self.buffer_memory.get().map(|memory| &**memory)
    }

    /// The sums as they are now.
    pub fn totals(&self) -> Totals {
        let tallies = lock(&self.tallies);
        let mut totals = tallies.ended.clone();
        tallies.live.iter().for_each(|(_, tally)| totals.add(tally));
        totals
    }
}

/// Connections since the start, and now.
#[derive(Debug, Default)]
pub struct Connections {
    accepted: AtomicU64,
    refused: AtomicU64,
    open: Mutex<Vec<Arc<AtomicUsize>>>,
}

impl Connections {
    /// One was accepted, and is to be served.
    pub fn note_accepted(&self) {
        // Relaxed, here and below: counts, no more.
        self.accepted.fetch_add(1, Relaxed);
    }

    /// One was accepted, and is turned away.
    pub fn note_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Has `open`, which the engine keeps, counted among the connections that are open.
    pub fn track(&self, open: Arc<AtomicUsize>) {
        lock(&self.open).push(open);
    }

    /// How many were accepted to be served.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// How many were turned away.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        lock(&self.open).iter().map(|open| open.load(Relaxed)).sum()
    }
}

/// Claims that had to wait for the store, which is rare: all handlers share this.
#[derive(Debug, Default)]
pub struct Waits {
    waiting: AtomicUsize,
    durations: Histogram,
}

impl Waits {
    /// One more claim waits, until what is returned is dropped.
    pub fn begin(self: &Arc<Self>) -> Wait {
        self.waiting.fetch_add(1, Relaxed);
        Wait { waits: self.clone(), since: Instant::now() }
    }

    /// How many wait now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// How long those waited that wait no more.
    pub fn durations(&self) -> HistogramReading {
        self.durations.read()
    }
}

/// A claim that waits.
#[derive(Debug)]
pub struct Wait {
    waits: Arc<Waits>,
    since: Instant,
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.waits.waiting.fetch_sub(1, Relaxed);
        self.waits.durations.observe(self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::response::ApiError;
    use crate::segment::IdRange;

    fn count(totals: &Totals, route: Route, status: u16) -> u64 {
        let index = STATUSES.iter().position(|(known, _)| *known == status).unwrap();
        totals.answers[route as usize][index]
    }

    #[test]
    fn handlers_are_summed_and_what_a_gone_one_counted_stays() {
        let counters = Counters::default();
        let (first, tally) = counters.add_tally();
        let (_, other) = counters.add_tally();
        tally.answered(Route::Alloc, &Answer::Id(7));
        tally.answered(Route::Segment, &Answer::Lease(IdRange { start: 10, end: 30 }));
        other.answered(Route::Alloc, &Answer::Id(8));
        let ids = [IdRange { start: 1, end: 3 }, IdRange { start: 5, end: 6 }];
        other.answered(Route::Alloc, &Answer::Ids(ids.into_iter().collect()));
        for (status, _) in STATUSES.into_iter().skip(1) {
            let error = ApiError { status, message: String::new(), header: None };
            other.answered(Route::Other, &Answer::Error(error));
        }
        other.limited(LimitedBy::Token);
        other.received(5);
        other.sent(6);
        let totals = counters.totals();
        assert_eq!(count(&totals, Route::Alloc, 200), 3);
        assert_eq!(count(&totals, Route::Segment, 200), 1);
        assert!(STATUSES.iter().skip(1).all(|(status, _)| count(&totals, Route::Other, *status) == 1));
        assert_eq!((totals.ids, totals.bytes_received, totals.bytes_sent), (1 + 20 + 1 + 3, 5, 6));
        assert_eq!(totals.limited, [0, 1]);
        assert_eq!(totals.requests(), 4 + STATUSES.len() as u64 - 1);
        counters.end_tally(first);
        assert_eq!(counters.totals(), totals);
    }

    #[test]
    fn a_wait_is_counted_while_it_lasts_and_measured_when_it_is_over() {
        let waits = Arc::<Waits>::default();
        let wait = waits.begin();
        assert_eq!((waits.waiting(), waits.durations().count()), (1, 0));
        drop(wait);
        assert_eq!((waits.waiting(), waits.durations().count()), (0, 1));
    }

    #[test]
    fn the_first_status_is_success() {
        assert_eq!(STATUSES[0].0, 200);
        assert!(Route::ALL.iter().enumerate().all(|(index, route)| *route as usize == index));
    }
}
