//! The allocator: how much is reserved, when, and what is believed of the store.

use std::sync::Arc;
use std::time::Duration;

use idalloc_core::sizing::Policy;
use idalloc_core::{AllocatorConfig, OnRegression};

use super::rules::{Choice, Integer};
use super::section::section;

section! {
    /// How the allocator is set up.
    pub struct AllocatorSection {
        /// Threads that reserve segments, each with its own connection to the store.
        pub refill_threads: usize = "RefillThreads", Integer::new(2, 1..=64, "threads");
        /// Loaded at start, the most recently used first.
        pub preload_tags: usize = "PreloadTags", Integer::new(64, 0..=1_000_000, "tags");
        /// How often the table is read for new, changed and deleted rows.
        pub tag_reload: Duration = "TagReloadSeconds", Integer::seconds(10, 1..=3600);
        /// How much of a busy tag's traffic one reservation covers.
        pub segment_seconds: u32 = "SegmentSeconds", Integer::new(10, 1..=3600, "s");
        /// The most that one reservation takes.
        pub step_factor_max: i64 = "MaxStepFactor", Integer::new(1000, 1..=1_000_000, "steps");
        /// When the store has gone back: stop the tag until its row is repaired, or raise the row and continue.
        pub on_regression: OnRegression = "OnRegression",
            Choice(&[("refuse", OnRegression::Refuse), ("advance", OnRegression::Advance)]);
        /// Do not trust a new database server, or the same one after a restart, to have all commits.
        pub failover_guard: bool = "FailoverGuard", Choice(&[("on", true), ("off", false)]);
        /// How far the rows of such a server are raised at least.
        pub failover_steps: i64 = "FailoverSteps", Integer::new(1000, 1..=1_000_000_000, "steps");
    }
}

impl AllocatorSection {
    /// How much a busy tag reserves.
    pub fn policy(&self) -> Policy {
        Policy { segment_seconds: self.segment_seconds.into(), step_factor_max: self.step_factor_max }
    }
}

impl From<&AllocatorSection> for AllocatorConfig {
    fn from(section: &AllocatorSection) -> Self {
        Self {
            refill_threads: section.refill_threads,
            preload_tags: section.preload_tags,
            tag_reload: section.tag_reload,
            policy: Arc::new(section.policy()),
            on_regression: section.on_regression,
            failover_steps: section.failover_guard.then_some(section.failover_steps),
            trim: || (),
        }
    }
}
