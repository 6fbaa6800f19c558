//! What the benches share: an allocator that never runs out.

#![allow(dead_code)] // Each bench uses a part of it.

pub mod exchange;

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use idalloc::alloc::watermark::Watermarks;
use idalloc::alloc::{Allocator, AllocatorConfig, Handle, Outcome, StoreFactory, Want};
use idalloc::bounds::STEP_MAX;
use idalloc::store::{Floor, Rest, Rows, SegmentStore, StoreError, StoreReport, TagRow};

/// More IDs than any run takes, so that the store is never asked.
pub const ENDLESS: i64 = 1 << 60;

/// A table in memory, of so many tags, each with an endless step.
struct Table {
    tags: usize,
    max_ids: HashMap<String, i64>,
}

impl SegmentStore for Table {
    fn check(&mut self) -> Result<StoreReport, StoreError> {
        Ok(StoreReport::default())
    }

    fn list_tags(&mut self, _limit: usize) -> Result<Rows<TagRow>, StoreError> {
        let row = |name| TagRow { name, step: STEP_MAX, max_id: 0 };
        Ok(names(self.tags).into_iter().map(row).collect::<Vec<_>>().into())
    }

    fn reserve_above(&mut self, tag: &str, amount: i64, _floor: Floor) -> Result<i64, StoreError> {
        let max_id = self.max_ids.entry(tag.to_owned()).or_default();
        *max_id += amount;
        Ok(*max_id)
    }

    fn give_back(&mut self, rests: &[Rest<'_>]) -> Result<Vec<bool>, StoreError> {
        Ok(vec![false; rests.len()])
    }
}

/// The names of so many tags.
pub fn names(tags: usize) -> Vec<String> {
    (0..tags).map(|index| format!("tag-{index}")).collect()
}

/// An allocator with so many tags.
pub fn endless_allocator(tags: usize) -> Allocator {
    let open: StoreFactory = Arc::new(move || Box::new(Table { tags, max_ids: HashMap::new() }));
    let config = AllocatorConfig {
        refill_threads: 1,
        tag_reload: Duration::from_secs(3600),
        failover_steps: None,
        ..AllocatorConfig::default()
    };
    Allocator::start(config, Watermarks::default(), &open).expect("the table is there")
}

/// Polls until the tag has its first segment.
pub fn load(handle: &mut Handle, name: &str) {
    let Outcome::Pending(mut pending) = handle.claim(name, Want::Ids(1)) else { return };
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        match handle.poll(&mut pending, &mut cx) {
            Poll::Ready(granted) => break drop(granted.expect("the tag is served")),
            Poll::Pending => thread::yield_now(),
        }
    }
}
