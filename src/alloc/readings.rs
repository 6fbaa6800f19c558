//! What was read of the table's rows: so that a row that has lost commits is known for one.
//!
//! A tag is known by a hash of its name, because there may be a million of them. Two that share one share the higher
//! reading: that makes gaps, and no duplicates.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Mutex;

use foldhash::fast::RandomState;

use crate::sync::lock;

/// The readings of all rows.
#[derive(Default)]
pub(super) struct Readings {
    hasher: RandomState,
    rows: Mutex<HashMap<u64, i64, RandomState>>,
}

impl Readings {
    /// Takes note of rows as they were read: name and `max_id` each.
    pub fn note<'a>(&self, rows: impl IntoIterator<Item = (&'a str, i64)>) {
        let mut known = lock(&self.rows);
        for (name, max_id) in rows {
            let highest = known.entry(self.hasher.hash_one(name)).or_insert(max_id);
            *highest = max_id.max(*highest);
        }
    }

    /// The highest `max_id` that was ever read of the row. It may have gone down since for a good reason: what is not
    /// handed out is given back.
    pub fn highest(&self, tag: &str) -> Option<i64> {
        lock(&self.rows).get(&self.hasher.hash_one(tag)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_reading_of_each_row_is_kept() {
        let readings = Readings::default();
        readings.note([("a", 5), ("b", -1)]);
        readings.note([("a", 3), ("b", 7)]);
        assert_eq!(["a", "b", "c"].map(|tag| readings.highest(tag)), [Some(5), Some(7), None]);
    }
}
