//! Counts that are kept while requests are served, and summed when somebody asks for them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A count that one thread at a time adds to, and any thread may read: adding is a plain load, addition and store.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Where two threads do this at the same time, one of the additions may be lost.
    #[inline]
    pub fn add(&self, n: u64) {
        // Relaxed: a count, no more. Not `fetch_add`, which would lock the bus for nothing.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The present count.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The upper bounds of a [`Histogram`]'s buckets, in microseconds. The last bucket, which has none, is not listed.
pub const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// How long something took, in buckets; any thread may add to it. For what is rare, since that costs two atomic additions.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// A [`Histogram`] at one moment.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct HistogramReading {
    /// How many fell into each bucket, not those below it; one more than there are bounds.
    pub counts: [u64; BOUNDS_US.len() + 1],
    /// All durations together, in microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// Takes note of one duration.
    pub fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        // Relaxed: counts, no more.
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// What was noted so far.
    pub fn read(&self) -> HistogramReading {
        HistogramReading {
            counts: std::array::from_fn(|bucket| self.buckets[bucket].load(Relaxed)),
            sum_us: self.sum_us.load(Relaxed),
        }
    }
}

impl HistogramReading {
    /// How many there are in all.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for (us, bucket) in [(0, 0), (100, 0), (101, 1), (1_000, 3), (10_000_000, 15), (10_000_001, 16)] {
            let before = histogram.read();
            histogram.observe(Duration::from_micros(us));
            let after = histogram.read();
            assert_eq!(after.counts[bucket], before.counts[bucket] + 1, "{us} us");
            assert_eq!(after.count(), before.count() + 1);
            assert_eq!(after.sum_us, before.sum_us + us);
        }
        histogram.observe(Duration::MAX);
        assert_eq!(histogram.read().counts[BOUNDS_US.len()], 2);
    }
}
