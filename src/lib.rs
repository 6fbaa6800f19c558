//! idalloc: a distributed ID generator.

pub mod alloc;
pub mod segment;
pub mod sync;

#[cfg(not(loom))]
pub mod config;
#[cfg(not(loom))]
pub mod dsn;
#[cfg(not(loom))]
pub mod store;
