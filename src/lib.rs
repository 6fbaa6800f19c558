//! idalloc: a distributed ID generator. Unique, growing 64-bit IDs over HTTP, from memory; reserved from MySQL,
//! MariaDB or an embedded SQLite file by the segment.
//!
//! A program that embeds the allocator starts an [`alloc::Allocator`] on a store and gives each of its threads a
//! [`alloc::Handle`]; the server in [`http`] does just that.

pub mod alloc;
pub mod bounds;
mod episode;
pub mod segment;
pub mod sync;

#[cfg(not(loom))]
pub mod admin;
#[cfg(not(loom))]
pub mod config;
#[cfg(not(loom))]
pub mod counters;
#[cfg(not(loom))]
pub mod dsn;
#[cfg(not(loom))]
pub mod escape;
#[cfg(not(loom))]
pub mod http;
#[cfg(not(loom))]
pub mod logging;
#[cfg(not(loom))]
pub mod readiness;
#[cfg(not(loom))]
pub mod store;
#[cfg(not(loom))]
pub mod supervise;
