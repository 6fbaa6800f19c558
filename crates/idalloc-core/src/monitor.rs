//! What an operator may see of an allocator, and the counts that are kept for that.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use crate::allocator::Shared;
use crate::counters::{Histogram, HistogramReading};
use crate::hungry::{EMPTY_GRACE, LOOK_TAGS_MAX};
use crate::listing::Visit;
use crate::skipped::REASONS;
use crate::store::StoreError;
use crate::sync::lock;
use crate::tag::{Tag, TagFigures};
use crate::{Directory, Health};

/// The newest reservations, whose latencies are kept one by one: so many at most, and no older.
const RECENT_MAX: usize = 1024;
const RECENT_AGE_MAX: Duration = Duration::from_secs(10);

/// An observer's end of an allocator: it changes nothing, and holds up nobody for longer than a look at one tag takes.
#[derive(Clone)]
pub struct Monitor {
    shared: Arc<Shared>,
}

/// Whether the store answers.
#[derive(Debug, Clone)]
pub struct StoreStatus {
    /// Neither reserving nor listing fails.
    pub answers: bool,
    /// Since when that is so.
    pub since: SystemTime,
    /// The host that granted the newest reservation, or that was listed last; `None` for a store that has no hosts.
    pub host: Option<String>,
    /// The newest error, be it over or not. For operators: it may name a host.
    pub last_error: Option<String>,
}

/// Every kind of reservation that failed, as [`ReservationFigures::failed`] counts them.
pub const FAILURE_KINDS: [&str; 11] = [
    "unavailable",
    "read_only",
    "contended",
    "unknown_tag",
    "gone_back",
    "overflow",
    "schema",
    "denied",
    "replaced",
    "unexpected",
    "watermark",
];

/// Which of [`FAILURE_KINDS`] an error of the store is.
fn kind(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable(_) => "unavailable",
        StoreError::ReadOnly(_) => "read_only",
        StoreError::Contended(_) => "contended",
        StoreError::UnknownTag => "unknown_tag",
        StoreError::GoneBack { .. } => "gone_back",
        StoreError::Overflow { .. } => "overflow",
        StoreError::Schema(_) | StoreError::Unreadable(_) => "schema",
        StoreError::Denied(_) | StoreError::Unsafe(_) => "denied",
        StoreError::Replaced(_) => "replaced",
        // A reservation writes no value that a column might not hold, and adds no row.
        StoreError::Unexpected(_) | StoreError::TagExists(_) | StoreError::Invalid(_) => "unexpected",
    }
}

/// What came of reservations, since the start.
#[derive(Debug, Clone)]
pub struct ReservationFigures {
    /// How long those took that the store granted.
    pub granted: HistogramReading,
    /// How many failed, by [`FAILURE_KINDS`].
    pub failed: [u64; FAILURE_KINDS.len()],
    /// How often a tag was fenced because the store had gone back.
    pub fences: u64,
    /// How often another server of the store answered than before, or the same after a new start.
    pub server_changes: u64,
    /// How many rows were raised for that.
    pub failover_raises: u64,
}

/// The counts themselves.
#[derive(Default)]
pub(crate) struct Reservations {
    granted: Histogram,
    failed: [AtomicU64; FAILURE_KINDS.len()],
    fences: AtomicU64,
    recent: Mutex<VecDeque<(Instant, Duration)>>,
}

impl Reservations {
    /// Takes note of what the store said to one reservation.
    pub fn observe<T>(&self, asked: Instant, answer: &Result<T, StoreError>) {
        match answer {
            Ok(_) => self.note_granted(asked),
            Err(error) => self.note_failed(kind(error)),
        }
    }

    fn note_granted(&self, asked: Instant) {
        let now = Instant::now();
        let took = now.saturating_duration_since(asked);
        self.granted.observe(took);
        let mut recent = lock(&self.recent);
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back((now, took));
    }

    /// What the store granted could not be made durable in the watermark file.
    pub fn note_not_durable(&self) {
        self.note_failed("watermark");
    }

    fn note_failed(&self, kind: &str) {
        if let Some(index) = FAILURE_KINDS.iter().position(|known| *known == kind) {
            // Relaxed: a count, no more.
            self.failed[index].fetch_add(1, Relaxed);
        }
    }

    /// A tag was fenced.
    pub fn note_fence(&self) {
        self.fences.fetch_add(1, Relaxed);
    }

    /// The latencies of the last seconds, the shortest first.
    fn recent_latencies(&self, now: Instant) -> Vec<Duration> {
        let mut recent = lock(&self.recent);
        while recent.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > RECENT_AGE_MAX) {
            recent.pop_front();
        }
        let mut latencies: Vec<_> = recent.iter().map(|(_, latency)| *latency).collect();
        drop(recent);
        latencies.sort_unstable();
        latencies
    }
}

impl Monitor {
    /// How long the watermark file has not answered by now; `None` if nobody waits for it.
    pub fn watermarks_busy_for(&self) -> Option<Duration> {
        self.shared.watermarks.busy_for()
    }

    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Whether this node can serve.
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// How many looks at the health it takes to judge all tags whose callers found too little.
    pub fn health_looks(&self) -> usize {
        self.shared.hungry.len().div_ceil(LOOK_TAGS_MAX)
    }

    /// Whether the store answers.
    pub fn store(&self) -> StoreStatus {
        self.shared.store_state.status()
    }

    /// All tags, as they are now.
    pub fn directory(&self) -> Arc<Directory> {
        self.shared.directory.load_full()
    }

    /// What there is to know about one tag.
    pub fn figures(&self, tag: &Tag, now: Instant) -> TagFigures {
        tag.figures(EMPTY_GRACE, now)
    }

    /// What came of reservations.
    pub fn reservations(&self) -> ReservationFigures {
        let counts = &self.shared.reservations;
        let (server_changes, failover_raises) = self.shared.failover.counts();
        ReservationFigures {
            granted: counts.granted.read(),
            failed: std::array::from_fn(|kind| counts.failed[kind].load(Relaxed)),
            fences: counts.fences.load(Relaxed),
            server_changes,
            failover_raises,
        }
    }

    /// How many IDs nobody will ever be given, in the order of [`REASONS`].
    pub fn skipped(&self) -> [u64; REASONS.len()] {
        self.shared.skipped.counts()
    }

    /// The highest end that this process was granted for the tag.
    pub fn watermark(&self, tag: &str) -> Option<i64> {
        self.shared.watermarks.get(tag)
    }

    /// Has the table read at once, because somebody has changed it.
    pub fn read_table(&self) -> Reading {
        Reading { shared: self.shared.clone(), visit: Visit::default() }
    }

    /// The latencies of the reservations of the last ten seconds (the newest 1024 of them), the shortest first.
    pub fn recent_latencies(&self, now: Instant) -> Vec<Duration> {
        self.shared.reservations.recent_latencies(now)
    }
}

/// A wait for the table to be read. Dropping it ends the wait, and not the reading.
pub struct Reading {
    shared: Arc<Shared>,
    visit: Visit,
}

impl Reading {
    /// Whether the table was read, in a reading that began after this was made: true, or false if that failed or there
    /// will be none. If it is not over, the waker of `cx` is woken when it is.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.shared.listing.poll_reading(&mut self.visit, cx.waker(), Instant::now())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.shared.listing.leave(&mut self.visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_kind_that_is_counted() {
        let text = String::new;
        let errors = [
            StoreError::Unavailable(text()),
            StoreError::ReadOnly(text()),
            StoreError::Contended(text()),
            StoreError::UnknownTag,
            StoreError::GoneBack { max_id: 1 },
            StoreError::Overflow { max_id: 1 },
            StoreError::Schema(text()),
            StoreError::Denied(text()),
            StoreError::Replaced(text()),
            StoreError::Unexpected(text()),
        ];
        let counts = Reservations::default();
        errors.into_iter().for_each(|error| counts.observe::<()>(Instant::now(), &Err(error)));
        counts.note_not_durable();
        assert!(counts.failed.iter().all(|count| count.load(Relaxed) == 1), "{:?}", counts.failed);
    }

    #[test]
    fn only_the_newest_latencies_are_kept_and_none_for_long() {
        let counts = Reservations::default();
        let now = Instant::now();
        (0..RECENT_MAX + 10).for_each(|_| counts.observe(now, &Ok(())));
        assert_eq!(counts.recent_latencies(now).len(), RECENT_MAX);
        assert_eq!(counts.granted.read().count(), RECENT_MAX as u64 + 10);
        assert_eq!(counts.recent_latencies(now + 2 * RECENT_AGE_MAX), []);
    }
}
