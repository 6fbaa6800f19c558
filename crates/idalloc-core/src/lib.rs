//! The allocator of idalloc: tags by name, and their IDs.
//!
//! An [`Allocator`] owns the threads that talk to the store. Every thread that hands out IDs has a [`Handle`] of
//! its own, which keeps the head segments: so a claim is one `fetch_add`. What cannot be granted at once is a
//! [`Pending`] claim, which any runtime can poll: it is woken through a plain [`std::task::Waker`].
//!
//! This crate knows no protocol, no SQL and no runtime. What it asks of a store is [`store::SegmentStore`]; the crate
//! idalloc-store has MySQL, MariaDB and SQLite, and [`memory`] has a table for tests.
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
pub mod watermark;

pub use tag::Fault;

#[cfg(not(loom))]
use allocator::Shared;
#[cfg(not(loom))]
pub use allocator::{
    AllocError, Allocator, AllocatorConfig, Directory, Granted, Handle, Health, Ids, OnRegression, Outcome,
    Pending, StoreFactory, Want,
};
