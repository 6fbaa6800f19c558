//! idalloc: a distributed ID generator. Unique, growing 64-bit IDs over HTTP, from memory; reserved from MySQL,
//! MariaDB or an embedded SQLite file by the segment.
//!
//! A program that embeds the allocator starts an [`idalloc_core::Allocator`] on a store and gives each of its threads a
//! [`idalloc_core::Handle`]; the server in [`http`] does just that.

pub mod admin;
pub mod api;
pub mod config;
pub mod escape;
pub mod http;
pub mod logging;
pub mod readiness;
pub mod supervise;

pub use idalloc_core as alloc;
pub use idalloc_core::{bounds, counters, episode, segment, sync};
pub use idalloc_store::dsn;

/// Where segments come from.
pub mod store {
    pub use idalloc_core::store::*;
    pub use idalloc_store::*;
}
