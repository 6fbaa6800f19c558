//! What the hot port counts. Each handler counts for itself, in memory that no other thread writes; the sums are made when
//! somebody asks for them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use crossbeam_utils::CachePadded;
use slab::Slab;

use super::buffer_memory::BufferMemory;
use super::response::{Answer, STATUSES};
use crate::api::admission::LimitedBy;
use crate::counters::Counter;
use crate::sync::lock;

/// What a request was for, as far as that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// IDs.
    Alloc,
    /// A lease.
    Segment,
    /// The health of the node, or of a tag.
    Health,
    /// Nothing that there is, or it was not understood.
    Other,
}

impl Purpose {
    /// All of them, in the order of their values.
    pub const ALL: [Self; 4] = [Self::Alloc, Self::Segment, Self::Health, Self::Other];

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
pub struct WorkerCounters {
    /// Requests to `/alloc` that got one ID. By far the most are, so that those touch nothing else.
    single_ids: Counter,
    other_requests: [[Counter; STATUSES.len()]; Purpose::ALL.len()],
    other_ids: Counter,
    limited: [Counter; LimitedBy::ALL.len()],
    bytes_received: Counter,
    bytes_sent: Counter,
}

impl WorkerCounters {
    /// Takes note of an answer.
    #[inline]
    pub fn answered(&self, purpose: Purpose, answer: &Answer) {
        match answer {
            Answer::Id(_) => self.answered_single(),
            _ => self.answered_otherwise(purpose, answer),
        }
    }

    /// Takes note of an answer with one ID.
    #[inline]
    pub fn answered_single(&self) {
        self.single_ids.add(1);
    }

    fn answered_otherwise(&self, purpose: Purpose, answer: &Answer) {
        let status = STATUSES.iter().position(|(status, _)| *status == answer.status());
        if let Some(status) = status {
            self.other_requests[purpose as usize][status].add(1);
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
    /// Answers by [`Purpose::ALL`] and [`STATUSES`].
    pub answers: [[u64; STATUSES.len()]; Purpose::ALL.len()],
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
    fn add(&mut self, worker: &WorkerCounters) {
        let single_ids = worker.single_ids.get();
        // The first status is 200.
        self.answers[Purpose::Alloc as usize][0] += single_ids;
        for (sums, counts) in self.answers.iter_mut().zip(&worker.other_requests) {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count.get());
        }
        self.ids += single_ids + worker.other_ids.get();
        self.limited.iter_mut().zip(&worker.limited).for_each(|(sum, count)| *sum += count.get());
        self.bytes_received += worker.bytes_received.get();
        self.bytes_sent += worker.bytes_sent.get();
    }

    /// Answers in all.
    pub fn requests(&self) -> u64 {
        self.answers.iter().flatten().sum()
    }
}

/// Everything that a server counts.
#[derive(Debug, Default)]
pub struct Counters {
    workers: Mutex<Workers>,
    /// Connections.
    pub connections: Connections,
    /// What unfinished requests and unsent answers take; with `may_minihttp` only the requests.
    buffer_memory: OnceLock<Arc<BufferMemory>>,
}

#[derive(Debug, Default)]
struct Workers {
    live: Slab<Arc<CachePadded<WorkerCounters>>>,
    ended: Totals,
}

impl Counters {
    /// The counters of one more worker, and the key to give them back with.
    pub fn add_worker(&self) -> (usize, Arc<CachePadded<WorkerCounters>>) {
        let worker = Arc::<CachePadded<WorkerCounters>>::default();
        (lock(&self.workers).live.insert(worker.clone()), worker)
    }

    /// The handler is gone: what it counted is kept in the sum.
    pub fn remove_worker(&self, key: usize) {
        let mut workers = lock(&self.workers);
        let worker = workers.live.remove(key);
        workers.ended.add(&worker);
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
        let workers = lock(&self.workers);
        let mut totals = workers.ended.clone();
        workers.live.iter().for_each(|(_, worker)| totals.add(worker));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::response::ApiError;
    use crate::segment::IdRange;

    fn count(totals: &Totals, purpose: Purpose, status: u16) -> u64 {
        let index = STATUSES.iter().position(|(known, _)| *known == status).unwrap();
        totals.answers[purpose as usize][index]
    }

    #[test]
    fn handlers_are_summed_and_what_a_gone_one_counted_stays() {
        let counters = Counters::default();
        let (first, worker) = counters.add_worker();
        let (_, other) = counters.add_worker();
        worker.answered(Purpose::Alloc, &Answer::Id(7));
        worker.answered(Purpose::Segment, &Answer::Lease(IdRange { start: 10, end: 30 }));
        other.answered(Purpose::Alloc, &Answer::Id(8));
        let ids = [IdRange { start: 1, end: 3 }, IdRange { start: 5, end: 6 }];
        other.answered(Purpose::Alloc, &Answer::Ids(ids.into_iter().collect()));
        for (status, _) in STATUSES.into_iter().skip(1) {
            let error = ApiError { status, message: String::new(), header: None };
            other.answered(Purpose::Other, &Answer::Error(error));
        }
        other.limited(LimitedBy::Token);
        other.received(5);
        other.sent(6);
        let totals = counters.totals();
        assert_eq!(count(&totals, Purpose::Alloc, 200), 3);
        assert_eq!(count(&totals, Purpose::Segment, 200), 1);
        assert!(STATUSES.iter().skip(1).all(|(status, _)| count(&totals, Purpose::Other, *status) == 1));
        assert_eq!((totals.ids, totals.bytes_received, totals.bytes_sent), (1 + 20 + 1 + 3, 5, 6));
        assert_eq!(totals.limited, [0, 1]);
        assert_eq!(totals.requests(), 4 + STATUSES.len() as u64 - 1);
        counters.remove_worker(first);
        assert_eq!(counters.totals(), totals);
    }

    #[test]
    fn the_first_status_is_success() {
        assert_eq!(STATUSES[0].0, 200);
        assert!(Purpose::ALL.iter().enumerate().all(|(index, purpose)| *purpose as usize == index));
    }
}
