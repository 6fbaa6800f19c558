//! idalloc: a distributed ID generator.

pub mod alloc;
pub mod segment;
pub mod sync;
