//! The allocator: tags by name, and their IDs.

pub mod sizing;
mod tag;

#[cfg(all(test, loom))]
mod loom_tests;

pub use tag::Fault;
