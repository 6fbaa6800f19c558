//! The allocator of idalloc: tags by name, and their IDs.
//!
//! An [`Allocator`] owns the threads that talk to the store. Every thread that hands out IDs has a [`Handle`] of
//! its own, which keeps the head segments: so a claim is one `fetch_add`. What cannot be granted at once is a
//! [`Pending`] claim, which any runtime can poll: it is woken through a plain [`std::task::Waker`].
//!
//! This crate knows no protocol, no SQL and no runtime. What it asks of a store is [`store::SegmentStore`]; the crate
//! idalloc-store has MySQL, MariaDB and SQLite, and [`memory`] has a table for tests.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use idalloc_core::memory::Table;
//! use idalloc_core::watermark::Watermarks;
//! use idalloc_core::{Allocator, AllocatorConfig, Granted, StoreFactory, Want};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let table = Table::new([("orders", 1000)]);
//! let open: StoreFactory = Arc::new(move || Box::new(table.session()));
//! let allocator = Allocator::start(AllocatorConfig::default(), Watermarks::default(), &open)?;
//!
//! // Each thread has a handle of its own.
//! let mut handle = allocator.handle();
//! assert_eq!(handle.next_id_within("orders", Duration::from_secs(2))?, 1);
//! // From memory, without waiting: the hot path.
//! assert_eq!(handle.next_id("orders"), Some(2));
//! let lease = handle.claim_within("orders", Want::Lease(100), Duration::from_secs(2))?;
//! assert!(matches!(lease, Granted::Lease(range) if range.start == 3 && range.len() == 100));
//!
//! allocator.close(Duration::from_secs(1));
//! # Ok(())
//! # }
//! ```
//!
//! Under `cfg(loom)` only what the loom models check is built: segments and tags.

pub mod bounds;
pub mod common;
pub mod episode;
pub mod segment;
pub mod sizing;
pub mod sync;
pub mod tag;

#[cfg(all(test, loom))]
mod loom_tests;

#[cfg(not(loom))]
mod allocator;
#[cfg(not(loom))]
pub mod counters;
#[cfg(not(loom))]
mod ending;
#[cfg(not(loom))]
mod failover;
#[cfg(not(loom))]
mod hungry;
#[cfg(not(loom))]
mod listing;
#[cfg(not(loom))]
pub mod memory;
#[cfg(not(loom))]
pub mod monitor;
#[cfg(not(loom))]
mod readings;
#[cfg(not(loom))]
mod refill;
#[cfg(not(loom))]
pub mod skipped;
#[cfg(not(loom))]
pub mod store;
#[cfg(not(loom))]
pub mod supervise;
#[cfg(not(loom))]
mod wait;
#[cfg(not(loom))]
pub mod watermark;

pub use tag::Fault;

#[cfg(not(loom))]
use allocator::Shared;
#[cfg(not(loom))]
pub use allocator::{
    AllocError, Allocator, AllocatorConfig, Directory, Granted, Handle, Health, Ids, OnRegression, Outcome,
    Pending, StoreFactory, Want,
};
#[cfg(not(loom))]
pub use wait::WaitError;
