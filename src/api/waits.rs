//! Commands that had to wait: how many, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use crate::counters::{Histogram, HistogramReading};

/// Commands that had to wait for the store, which is rare: all workers share this.
#[derive(Debug, Default)]
pub struct Waits {
    waiting: AtomicUsize,
    durations: Histogram,
}

impl Waits {
    /// One more claim waits, until what is returned is dropped.
    pub fn begin(self: &Arc<Self>) -> Wait {
        // Relaxed, here and below: a count, no more.
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

    #[test]
    fn a_wait_is_counted_while_it_lasts_and_measured_when_it_is_over() {
        let waits = Arc::<Waits>::default();
        let wait = waits.begin();
        assert_eq!((waits.waiting(), waits.durations().count()), (1, 0));
        drop(wait);
        assert_eq!((waits.waiting(), waits.durations().count()), (0, 1));
    }
}
