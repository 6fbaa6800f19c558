//! The memory that all connections together may hold while they wait: for the rest of a request, for a client that does
//! not take its answers, for IDs, or for their turn. What is answered at once is not counted, and costs nothing here.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use crossbeam_utils::CachePadded;
use tracing::{info, warn};

use crate::episode::Episode;
use crate::sync::lock;

/// What each connection may hold while it waits, when there is no memory left for all: a small request that comes in parts.
pub const UNCOUNTED_BYTES_MAX: usize = 2 * 1024;

/// One budget for all workers.
#[derive(Debug)]
pub struct BufferMemory {
    bytes_max: usize,
    held: CachePadded<AtomicUsize>,
    refusals: AtomicU64,
    is_short: AtomicBool,
    shortage: Mutex<Episode>,
}

impl BufferMemory {
    /// A budget of so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            held: CachePadded::default(),
            refusals: AtomicU64::new(0),
            is_short: false.into(),
            shortage: Mutex::default(),
        }
    }

    /// Counts so many bytes more; false, and counts none, when they exceed the budget.
    pub fn take(&self, bytes: usize) -> bool {
        let add = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        // Relaxed, here and below: counts, no more.
        self.held.fetch_update(Relaxed, Relaxed, add).is_ok()
    }

    /// Takes note that a request is refused, or a connection closed, because there is too little.
    pub fn note_refusal(&self) {
        self.refusals.fetch_add(1, Relaxed);
        self.is_short.store(true, Relaxed);
        if lock(&self.shortage).holds(Instant::now()) {
            warn!(
                HttpBufferMemory = self.bytes_max >> 20,
                "no memory for more unfinished requests and unsent answers: refusing with 503"
            );
        }
    }

    /// How many bytes there are in all.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// How many of them are taken.
    pub fn bytes_held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// How often there was too little.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Relaxed)
    }

    /// So many bytes that were taken are not held any more.
    pub fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Relaxed);
    }

    /// Tells the log when a shortage is over: half of the memory is free again.
    pub fn look(&self) {
        let is_over = self.is_short.load(Relaxed) && self.bytes_held() <= self.bytes_max / 2;
        if is_over && self.is_short.swap(false, Relaxed) && lock(&self.shortage).is_over() {
            info!("there is memory for unfinished requests and unsent answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_than_there_is_and_what_is_given_back_can_be_taken_again() {
        let memory = BufferMemory::new(100);
        assert!(memory.take(60) && memory.take(40) && memory.take(0));
        assert!(!memory.take(1) && !memory.take(usize::MAX));
        memory.give_back(60);
        assert!(!memory.take(61) && memory.take(60));
        assert_eq!((memory.bytes_held(), memory.bytes_max(), memory.refusals()), (100, 100, 0));
        memory.note_refusal();
        assert_eq!(memory.refusals(), 1);
    }
}
